"""Networks that cannot be converted, or only in part, say which module and operator, and what would help."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import oneshot


def network(*middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), *middle, nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)),
    )


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Around(nn.Module):
    """A network with something around it."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.inner, self.function = network(), function

    def forward(self, *args: Any) -> Tensor:
        return self.function(self.inner, *args)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def changed(change: Callable[[nn.Sequential], Any]) -> nn.Module:
    found = network()
    return change(found) or found


def old_hook(module: nn.Sequential) -> None:
    torch.nn.utils.prune.l1_unstructured(module[0], "weight", 0.5)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: changed(old_hook), "0.weight is computed, as hooks of weight_norm"),
        (lambda: nn.DataParallel(network()), r"DataParallel wraps the network to convert; pass model\.module"),
        (lambda: torch.compile(network()), r"converted before it is compiled; pass model\._orig_mod"),
        (lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten()), "0.weight is lazy. Run the network once"),
        (lambda: network().to(torch.complex64), "Weights must be real numbers; 0.weight is torch.complex64"),
        (lambda: nn.Sequential(nn.Flatten()), "must have weights; this Sequential has none"),
        (lambda: Around(lambda inner, x, y: inner(x) + y), "takes a mapping"),
        (lambda: Around(lambda inner, x: inner(x) * float(x.mean())), "looks at numbers of a tensor"),
        (lambda: Around(lambda inner, x: inner(x) + x[x > 0].sum()), "looks at numbers of a tensor"),
        (lambda: Around(lambda inner, x: inner(torch.from_numpy(x.numpy()))), "looks at numbers of a tensor"),
        (lambda: network(nn.Conv2d(16, 32, 1)), "must run on the example; it fails in 2 "),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
            r"nothing. 0.weight and 2 more \(8\): it has too few channels for multiple=8",
        ),
    ],
)
def test_networks_that_cannot_be_converted(
    x: Tensor, model: Callable[[], nn.Module], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match=message):
        oneshot.convert(model(), x)
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_scripted_networks_are_refused(x: Tensor) -> None:
    scripted = torch.jit.trace(network(), x)
    with pytest.raises(ValueError, match="convert the network it was made from"):
        oneshot.convert(scripted, x)


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
def test_quantised_networks_are_refused(x: Tensor) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear})
    with pytest.raises(ValueError, match=r"Layers must not be quantised; 6 is a torch\.ao\.nn"):
        oneshot.convert(quantised, x)


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda x: x.topk(32, 1).values, "topk"),
        (lambda x: torch.cdist(x, x)[..., :16], "_cdist_forward"),
        (lambda x: x.gather(1, torch.arange(32).view(1, 32, 1, 1).expand(len(x), 32, 16, 16)), "gather"),
    ],
)
def test_operators_without_a_rule_are_named(x: Tensor, function: Callable[[Tensor], Tensor], operator: str) -> None:
    supernet = oneshot.convert(network(Function(function)), x)
    assert [group.name for group in supernet.graph.groups] == ["width_3"]
    assert (operator, "2") in supernet.graph.unknown
    assert f"operator {operator} in 2 has no rule" in str(supernet)


def test_a_size_in_the_code_is_named(x: Tensor) -> None:
    def checked(inner: nn.Sequential, x: Tensor) -> Tensor:
        y = inner[0](x)
        assert y.shape[1] == 32, "expects 32 channels"
        return inner[1:](y)

    supernet = oneshot.convert(Around(checked), x)
    assert [group.name for group in supernet.graph.groups] == ["width_inner_2"]
    assert "does not run with another size (AssertionError: expects 32 channels)" in str(supernet)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrised_weights_are_cut_with_what_they_are_made_of(norm: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    x, model = torch.randn(2, 3, 32, 32, dtype=torch.float64), network().double()
    norm(model[2])
    supernet = oneshot.convert(model, x)
    sizes = {group.name: group.size for group in supernet.graph.groups}
    assert sizes == {"width_0": 32, "width_2_parametrizations_weight": 64}
    supernet.eval()
    with torch.no_grad():
        torch.testing.assert_close(supernet(x, supernet.space.largest), model.eval()(x), rtol=1e-10, atol=1e-12)
        config = supernet.space.smallest
        assert torch.equal(supernet.extract(config).eval()(x), supernet(x, config))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_types_take_examples_of_any(dtype: torch.dtype, x: Tensor) -> None:
    model = network().to(dtype).eval()
    supernet = oneshot.convert(model, x).eval()
    with torch.no_grad():
        found, wanted = supernet(x.to(dtype), supernet.space.largest), model(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted)


def test_dropout_draws_the_same_numbers_in_the_supernet_and_alone(x: Tensor) -> None:
    supernet = oneshot.convert(network(nn.Dropout(0.5)), x).train()
    config = supernet.space.smallest
    alone = supernet.extract(config).train()
    found = []
    for module, arguments in ((supernet, (x, config)), (alone, (x,))):
        torch.manual_seed(1)
        found.append(module(*arguments))
    assert torch.equal(*found)
    assert not torch.equal(found[0], alone(x))


def test_converting_leaves_the_network_as_it_is(x: Tensor) -> None:
    model = network(nn.BatchNorm2d(32)).train()
    before = copy.deepcopy(model.state_dict())
    oneshot.convert(model, x)
    assert model.training and all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert F.relu(model[0](x)).shape[1] == 32


def test_images_of_other_channels_are_told_how_to_build_the_network() -> None:
    with pytest.raises(
        ValueError, match=r"fails in conv1.*build it for 1 channels: arguments=\{'in_chans': 1\} in timm"
    ):
        oneshot.convert(source="timm:resnet18", input_shape=(1, 32, 32))
