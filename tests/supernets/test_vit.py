"""AutoFormer's vision transformers: the contract, sizes of the published ones, shared weights, costs, exports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oneshot.cost import count, count_candidates
from oneshot.deploy.export import export_subnet, load
from oneshot.supernets import AUTOFORMER_SPACES, AUTOFORMERS, ViTNetwork, ViTSpace, ViTSupernet, vit_blocks
from oneshot.supernets.vit import ViTBlock
from oneshot.testing import ElasticContract
from oneshot.testing.spaces import disturb, draw_configs

SMALL: dict[str, Any] = {
    "num_classes": 3,
    "in_channels": 2,
    "image_size": 8,
    "patch_size": 2,
    "embed_dims": (8, 12),
    "depths": (1, 2, 3),
    "heads": (1, 2),
    "mlp_ratios": (1, 2.5),
    "head_dim": 4,
    "max_distance": 3,
}
WIDE: dict[str, Any] = {**SMALL, "image_size": (6, 8), "pool": "token", "relative_position": False}


class TestViT(ElasticContract):
    @pytest.fixture
    def supernet(self) -> ViTSupernet:
        return ViTSupernet(**SMALL)


class TestViTOfImagesThatAreNoSquares(ElasticContract):
    configs_tested = 3

    @pytest.fixture
    def supernet(self) -> ViTSupernet:
        return ViTSupernet(**WIDE)


# The published ones.


def parameters_by_hand(embed_dim: int, blocks: list[str], *, distances: int = 2 * 14 + 2) -> int:
    """Of a network for 1000 classes and 14 x 14 patches of 16 x 16 pixels in three colours."""
    total = embed_dim * (3 * 16 * 16 + 1) + embed_dim * (1 + 1 + 14 * 14)  # patches; class token and positions
    for heads, ratio in (ViTBlock.parse(name) for name in blocks):
        inside, hidden = heads * 64, int(embed_dim * ratio)
        total += 3 * inside * (embed_dim + 1) + embed_dim * (inside + 1) + 4 * distances * 64  # attention
        total += hidden * (embed_dim + 1) + embed_dim * (hidden + 1) + 2 * 2 * embed_dim  # the rest
    return total + 2 * embed_dim + 1000 * (embed_dim + 1)


@pytest.mark.parametrize(
    ("size", "params", "millions", "without"),
    [
        pytest.param("tiny", 5_867_944, None, "5.8"),  # 5.7 in the paper, 5.8 in the authors' list of models
        pytest.param("small", 22_891_432, "22.9", "22.8"),
        pytest.param("base", 53_691_688, "53.7", "53.6"),
    ],
)
def test_autoformers_have_the_papers_sizes(size: Any, params: int, millions: str | None, without: str) -> None:
    with torch.device("meta"):
        network = ViTNetwork(**AUTOFORMERS[size])
        counts = count(network, network.input_shape)
        plain = count(ViTNetwork(**AUTOFORMERS[size], relative_position=False), network.input_shape)

    assert counts.params == params == parameters_by_hand(**AUTOFORMERS[size])
    assert millions is None or f"{params / 1e6:.1f}" == millions
    assert f"{plain.params / 1e6:.1f}" == without  # so the paper counts the vectors of relative positions
    assert plain.params == parameters_by_hand(**AUTOFORMERS[size], distances=0)


def test_a_relative_position_costs_as_much_as_a_key() -> None:
    """Of 197 tokens, each head of 64 multiplies 2 * 64 numbers for a pair, and as many for its position."""
    shape = (3, 224, 224)
    with torch.device("meta"):
        counts = [count(ViTNetwork(**AUTOFORMERS["tiny"], relative_position=on), shape).macs for on in (False, True)]

    heads = sum(ViTBlock.parse(name).heads for name in AUTOFORMERS["tiny"]["blocks"])
    assert counts[1] - counts[0] == heads * 2 * 64 * 197**2
    assert f"{counts[0] / 1e9:.1f}" == "1.3"  # the paper's


@pytest.mark.parametrize("size", AUTOFORMER_SPACES)
def test_the_spaces_are_those_of_the_paper_and_hold_its_networks(size: Any) -> None:
    choices: Any = AUTOFORMER_SPACES[size]
    space = ViTSpace(**choices)
    dims, ratios, heads = choices["embed_dims"], choices["mlp_ratios"], choices["heads"]

    assert [c.name for c in space.choices] == ["resolution", "width", "stage_0"]
    assert space["width"].candidates == dims and len(dims) == 3
    assert space["stage_0"].candidates == tuple(f"h{h}_m{r:g}" for h in heads for r in ratios)
    assert [space.min_depths[0], space["stage_0"].rows] == [choices["depths"][0], choices["depths"][-1]]
    published = AUTOFORMERS[size]
    if size == "tiny":  # its ratios of 3 are not in table 1
        with pytest.raises(ValueError, match="'h3_m3' is not a candidate"):
            space.config(space.vit(**published))
        space = ViTSpace(**{**choices, "mlp_ratios": (3, 3.5, 4)})
    config = space.config(space.vit(**published))
    assert space.arch(config).stages == (tuple(published["blocks"]),)


def test_architectures_are_drawn_as_in_the_authors_code() -> None:
    """Dimension, depth, and heads and ratio of every block, each uniformly and on its own."""
    space = ViTSpace()
    genes = space.sample_matrix(6000, 0)
    depths = (genes[:, 2:] < 4).sum(1)

    for drawn in (genes[:, 1], depths - 12):
        assert np.allclose(np.bincount(drawn, minlength=3) / len(genes), 1 / 3, atol=0.03)
    heads, ratios = genes[:, 2] // 2, genes[:, 2] % 2
    assert abs(heads.mean() - 0.5) < 0.03 and abs(ratios.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(heads, ratios)[0, 1]) < 0.05


# Shared weights.


def test_a_smaller_network_has_a_part_of_the_weights_of_a_larger_one() -> None:
    supernet = ViTSupernet(**SMALL)
    disturb(supernet)
    space = supernet.space
    small = supernet.extract(space.config(space.vit(8, ["h1_m1", "h2_m1"])))
    large = supernet.extract(space.config(space.vit(12, ["h2_m2.5", "h2_m2.5", "h1_m1"])))
    own, theirs = dict(small.named_parameters()), dict(large.named_parameters())

    assert own.keys() < theirs.keys()
    for name, tensor in own.items():
        whole = theirs[name]
        if ".qkv." in name:  # of every head its queries, keys and values
            heads = len(tensor) // 12
            whole = whole.view(3, -1, 4, *whole.shape[1:])[:, :heads].flatten(0, 2)
        part = whole[tuple(slice(side) for side in tensor.shape)]
        assert torch.equal(part, tensor), name
    first = "stages.0.0.attn.qkv.weight"
    assert not torch.equal(theirs[first][: len(own[first]), :8], own[first])  # the first rows would be others


def test_a_network_does_not_depend_on_what_it_does_not_use() -> None:
    supernet = ViTSupernet(**SMALL).eval()
    config, x = supernet.space.smallest, torch.randn(2, 2, 8, 8)
    used = supernet.extract(config).state_dict()
    with torch.no_grad():
        before = supernet(x, config)
        for name, tensor in supernet.named_parameters():
            mask = torch.ones_like(tensor, dtype=torch.bool)
            if name in used and ".qkv." not in name:
                mask[tuple(slice(side) for side in used[name].shape)] = False
            elif name in used:
                mask.view(3, 2, 4, *mask.shape[1:])[
                    (slice(None), slice(1), slice(None), slice(8))[: mask.dim() + 2]
                ] = False
            tensor[mask] = 1e3
        assert torch.equal(supernet(x, config), before)
        assert not torch.allclose(supernet(x, supernet.space.largest), before, atol=1.0)


def test_paths_are_dropped_in_training_only_the_last_most_often() -> None:
    supernet = ViTSupernet(**SMALL)
    disturb(supernet)
    config, x = supernet.space.largest, torch.randn(64, 2, 8, 8)
    network = supernet.extract(config).eval()
    assert isinstance(network, ViTNetwork)
    with torch.no_grad():
        wanted = network(x)
        for module, drop in ((network, network.set_drop_path), (supernet, supernet.drop_paths)):

            def run(module: Any = module) -> torch.Tensor:
                return module(x) if module is network else module(x, config)

            drop(0.5)
            module.train()
            assert not torch.equal(run(), run())
            assert torch.equal(module.eval() and run(), wanted)
            rates = [block.drop_path for block in module.stages[0]]  # type: ignore[union-attr]  # ModuleList
            assert rates == [0.0, 0.25, 0.5]
            drop(0.0)
            assert torch.equal(module.train() and run(), run())


# Costs.


@pytest.mark.parametrize("options", [SMALL, WIDE], ids=["squares", "no squares"])
@pytest.mark.parametrize("what", ["params", "macs", "memory"])
def test_costs_of_all_architectures_come_from_a_table(options: dict[str, Any], what: Any) -> None:
    supernet = ViTSupernet(**options)
    genes = supernet.space.sample_matrix(20, 0)
    networks = [supernet.extract(config, inherit=False) for config in supernet.space.decode(genes)]

    found = [getattr(count(network, network.input_shape), what) for network in networks]

    assert count_candidates(supernet, what).costs(genes).tolist() == found
    assert len(set(found)) > 2


def test_the_papers_networks_cost_what_the_table_says() -> None:
    with torch.device("meta"):
        supernet = ViTSupernet(size="small")
        config = supernet.space.config(supernet.space.vit(**AUTOFORMERS["small"]))
        assert count_candidates(supernet, "params").cost(config) == 22_891_432


# Networks as files.


@pytest.mark.parametrize("options", [SMALL, WIDE], ids=["squares", "no squares"])
def test_a_network_is_exported_and_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    supernet = ViTSupernet(**options).eval()
    disturb(supernet)
    network = supernet.extract(draw_configs(supernet.space, 3)[2])
    folder = export_subnet(network, tmp_path / "net")  # which compares each file with the network

    again = load(folder)

    x = torch.randn(3, *network.input_shape)
    with torch.no_grad():
        assert torch.equal(again(x), network(x))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["class_path"] == "oneshot.supernets.ViTNetwork"
    assert manifest["input_shape"] == list(supernet.input_shape)
    assert again.config == network.config and again.init_args == network.init_args


def test_an_image_size_of_one_number_is_that_of_both() -> None:
    square, pair = (ViTNetwork(["h1_m2"], embed_dim=8, image_size=size, patch_size=4) for size in (8, (8, 8)))
    assert square.input_shape == pair.input_shape == (3, 8, 8)
    pair.load_state_dict(square.state_dict())
    assert torch.equal(pair(torch.ones(1, 3, 8, 8)), square(torch.ones(1, 3, 8, 8)))
    assert ViTNetwork(["h1_m2"], embed_dim=8, image_size=[8, 16], patch_size=8).pos_embed.shape == (1, 3, 8)  # type: ignore[arg-type]  # of JSON


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"num_classes": 0}, "number of outputs, must be at least 1, .*; got num_classes=0", id="no output"
        ),
        pytest.param({"image_size": 30}, r"multiple of patch_size .* got 30 x 30 pixels and patch_size=16", id="size"),
        pytest.param({"image_size": (32, 40)}, r"got 32 x 40 pixels and patch_size=16\. Resize or pad", id="width"),
        pytest.param({"image_size": (32, 32, 3)}, "one whole number, or height and width; got", id="three sides"),
        pytest.param({"image_size": 8}, "got 8 x 8 pixels and patch_size=16", id="smaller than a patch"),
        pytest.param({"patch_size": 0}, "patch_size=0", id="no patch"),
        pytest.param({"pool": "max"}, r"pool must be 'token' \(.*\) or 'average' \(.*\); got 'max'", id="pool"),
        pytest.param({"head_dim": 0}, "head_dim must be 1 or more; got 0", id="no head"),
        pytest.param(
            {"max_distance": -1}, "max_distance must be a number of patches, 0 or more; got -1", id="distance"
        ),
    ],
)
@pytest.mark.parametrize(
    "build", [ViTSupernet, lambda **options: ViTNetwork(["h1_m1"], embed_dim=8, **options)], ids=["supernet", "network"]
)
def test_a_network_that_cannot_work_is_refused(
    build: Callable[..., object], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"size": "huge"}, r"size must be one of \('tiny', 'small', 'base'\); got 'huge'", id="size"),
        pytest.param({"depths": (2, 4)}, "depths of a stage must be consecutive", id="depths"),
        pytest.param({"depths": (0, 1)}, r"depths must be whole numbers from 1 on, .*; got \(0, 1\)", id="no block"),
        pytest.param(
            {"embed_dims": ()},
            r"embed_dims must be whole numbers from 1 on, at least one, in a list; got \(\)",
            id="no",
        ),
        pytest.param({"heads": (0, 1)}, r"heads must be whole numbers from 1 on", id="no head"),
        pytest.param({"heads": 3}, r"heads must be whole numbers from 1 on, at least one, in a list; got 3", id="one"),
        pytest.param({"embed_dims": (8.5,)}, r"embed_dims must be whole numbers", id="half a feature"),
        pytest.param({"mlp_ratios": (0.0, 1)}, "mlp_ratios must be numbers above 0", id="ratio"),
        pytest.param(
            {"embed_dims": (8,), "mlp_ratios": (1, 1.1)}, "of 8 features, 1 and 1.1 are both 8. Leave one", id="alike"
        ),
        pytest.param({"embed_dims": (8,), "mlp_ratios": (0.1,)}, "of 8 features, 0.1 is 0", id="no hidden unit"),
    ],
)
def test_a_space_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        ViTSupernet(**options)


@pytest.mark.parametrize("name", ["h3", "m3.5", "h_m2", "h0_m2", "h3_m0", "h3_minf", "k3_e6", "h3.5_m2", "3_m2"])
def test_a_block_with_another_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"as 'h3_m3.5'; got '{name}'"):
        ViTNetwork([name], embed_dim=8)


def test_a_network_has_a_feature() -> None:
    with pytest.raises(ValueError, match="embed_dim must be 1 or more; got 0"):
        ViTNetwork(["h1_m1"], embed_dim=0)


def test_a_network_has_a_block_and_lists_of_blocks_have_one_length() -> None:
    with pytest.raises(ValueError, match="must have a block at least; got no blocks"):
        ViTNetwork([], embed_dim=8)
    with pytest.raises(ValueError, match="as many numbers of heads as MLP ratios; got 2 and 1"):
        vit_blocks([3, 4], [4])


@pytest.mark.parametrize("shape", [(2, 8, 6), (2, 16, 16), (3, 8, 8), (8, 8)])
def test_a_network_takes_images_of_its_size(shape: tuple[int, ...]) -> None:
    network = ViTNetwork(["h1_m1"], embed_dim=8, image_size=8, patch_size=2, in_channels=2)
    message = r"Images must have the shape \[2, 8, 8\], .* got a batch of .* Resize them"
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(3, *shape))


def test_images_of_other_proportions_are_refused() -> None:
    supernet = ViTSupernet(**WIDE)
    with pytest.raises(ValueError, match="proportions"):
        supernet(torch.zeros(1, 2, 8, 8), supernet.space.smallest)
