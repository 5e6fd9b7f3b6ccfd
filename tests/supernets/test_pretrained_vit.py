"""Weights of timm's vision transformers: the same function to the last bit, or one line that says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from oneshot.supernets import ViTNetwork, ViTSupernet, load_timm
from oneshot.testing.spaces import disturb

PLAIN: dict[str, Any] = {"pool": "token", "relative_position": False}
SMALL: dict[str, Any] = {**PLAIN, "num_classes": 5, "image_size": 32, "patch_size": 8}


def timm_vit(**options: Any) -> nn.Module:
    """Two blocks of two heads and a ratio of 3, for images of 32 pixels."""
    sizes: dict[str, Any] = {"embed_dim": 128, "depth": 2, "num_heads": 2, "mlp_ratio": 3}
    model = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        **{**sizes, "num_classes": 5, "img_size": 32, "patch_size": 8, **options},
    )
    return disturb(model).eval()


def network(**options: Any) -> ViTNetwork:
    return ViTNetwork(**{"blocks": ["h2_m3"] * 2, "embed_dim": 128, **SMALL, **options}).eval()


def same(one: Callable[[Tensor], Tensor], model: nn.Module, shape: tuple[int, ...] = (3, 32, 32)) -> bool:
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(one(x), model(x))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_a_tiny_transformer_is_loaded_to_the_last_bit(name: str) -> None:
    model = disturb(timm.create_model(name, pretrained=False, num_classes=10)).eval()
    blocks = ["h3_m4"] * 12
    alone = ViTNetwork(blocks, embed_dim=192, num_classes=10, **PLAIN).eval()
    sizes: dict[str, Any] = {"embed_dims": (168, 192, 216), "depths": (11, 12, 13), "heads": (2, 3, 4)}
    supernet = ViTSupernet(**sizes, mlp_ratios=(3, 4), num_classes=10, **PLAIN).eval()
    config = supernet.space.config(supernet.space.vit(192, blocks))
    assert not same(alone, model, (3, 224, 224))

    of_network, of_supernet = load_timm(alone, model), load_timm(supernet, model.state_dict())

    assert same(alone, model, (3, 224, 224))
    assert same(lambda x: supernet(x, config), model, (3, 224, 224))
    assert same(supernet.extract(config), model, (3, 224, 224))
    assert of_network.missing == of_network.unused == of_supernet.unused == ()
    assert set(of_network.loaded) == set(alone.state_dict())
    assert {name.rpartition(".")[0].split(".")[2] for name in of_supernet.missing} == {"12"}  # the 13th block


def test_what_the_model_does_not_reach_keeps_its_weights() -> None:
    supernet = ViTSupernet(**SMALL, embed_dims=(64, 128, 192), depths=(2, 3), heads=(1, 2, 3), mlp_ratios=(2, 3, 4))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    load_timm(supernet, timm_vit())

    after = supernet.state_dict()
    first = "stages.0.0.attn.qkv.weight"
    rows = (after[first] != before[first]).view(3, 3, 64, 192)
    assert rows[:, :2, :, :128].all() and not rows[:, 2].any() and not rows[..., 128:].any()
    changed = after["stages.0.1.fc1.weight"] != before["stages.0.1.fc1.weight"]
    assert changed[:384, :128].all() and not changed[384:].any() and not changed[:, 128:].any()
    assert not any((after[name] != before[name]).any() for name in before if name.startswith("stages.0.2"))


def test_a_classifier_of_other_classes_stays() -> None:
    model = timm_vit()
    own, without = network(num_classes=3), network(num_classes=3)
    before = own.head.weight.clone()

    result = load_timm(own, model)
    model.head = nn.Identity()
    none = load_timm(without, model)

    assert torch.equal(own.head.weight, before)
    assert result.missing == none.missing == ("head.bias", "head.weight")
    assert set(result.unused) == {"head.bias", "head.weight"} and none.unused == ()
    for loaded in (own, without):
        loaded.head = nn.Identity()  # type: ignore[assignment]  # to compare what the classifier reads
        assert same(loaded, model)


def test_the_average_over_patches_is_timms_if_normalisation_comes_first() -> None:
    model = timm_vit(global_pool="avg", fc_norm=False)
    own = network(pool="average")
    load_timm(own, model)
    assert same(own, model)


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        pytest.param({}, {"relative_position": True}, r"build yours with relative_position=False\)", id="relative"),
        pytest.param(
            {"global_pool": "avg", "fc_norm": False}, {}, r"pooling \('avg'; yours has pool='token'\)", id="pool"
        ),
        pytest.param({"global_pool": "avg"}, {"pool": "average"}, r"fc_norm.weight \(no place\)", id="norm behind"),
        pytest.param({"init_values": 0.1}, {}, r"stages.0.0.ls1.gamma \(no place\)", id="layer scale"),
        pytest.param({"qk_norm": True}, {}, r"attn.q_norm.weight \(no place\)", id="normalised queries"),
        pytest.param({"reg_tokens": 2}, {}, r"reg_token \(no place\)", id="registers"),
        pytest.param({"qkv_bias": False}, {}, r"attn.qkv.bias \(none\)", id="no bias"),
        pytest.param(
            {"class_token": False, "global_pool": "avg"}, {"pool": "average"}, "a class token, and", id="token"
        ),
        pytest.param({"act_layer": "relu"}, {}, r"blocks.0.mlp.act \(ReLU\(.*\), not GELU\)", id="activation"),
        pytest.param({"norm_layer": nn.LayerNorm}, {}, r"norm1 \(eps 1e-05, not 1e-06\)", id="eps"),
        pytest.param({"depth": 3}, {}, r"the architecture \(3 blocks such as 'h2_m3', .* 128\)", id="depth"),
        pytest.param({"mlp_ratio": 4}, {}, r"the architecture \(2 blocks such as 'h2_m4'", id="ratio"),
        pytest.param({"num_heads": 4}, {}, r"attn.num_heads \(4 of 32, not 64\)", id="heads of other sizes"),
        pytest.param({"img_size": 64}, {}, r"pos_embed \(\[1, 65, 128\], not \[1, 17, 128\]\)", id="image"),
        pytest.param({"patch_size": 16}, {}, r"patch_embed.weight \(\[128, 3, 16, 16\], not", id="patch"),
    ],
)
def test_a_model_that_computes_something_else_is_refused(
    theirs: dict[str, Any], ours: dict[str, Any], message: str
) -> None:
    own = network(**ours)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}

    with pytest.raises(ValueError, match=f"ViTNetwork come from a timm VisionTransformer .*{message}") as caught:
        load_timm(own, timm_vit(**theirs))

    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in own.state_dict().items())


def test_a_supernet_without_the_architecture_says_which_it_is() -> None:
    supernet = ViTSupernet(**SMALL, embed_dims=(128, 192), depths=(3,), heads=(2,), mlp_ratios=(3,))
    with pytest.raises(
        ValueError, match=r"2 blocks such as 'h2_m3', embedding dimension 128\), which its space has not"
    ):
        load_timm(supernet, timm_vit())
    with pytest.raises(ValueError, match="the layers .there must be a class token, and blocks with heads of 64"):
        load_timm(supernet, timm.create_model("resnet18", pretrained=False).state_dict())
