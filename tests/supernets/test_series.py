"""Chains for series, volumes and texts: the contract, exact shapes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.cost import count_candidates
from oneshot.cost.counting.network import count
from oneshot.supernets import (
    SeriesNetwork,
    SeriesSpace,
    SeriesSupernet,
    SubnetConfig,
    TextNetwork,
    TextSupernet,
    VolumeNetwork,
    VolumeSupernet,
)
from oneshot.supernets.base import OperationSupernet, Supernet
from oneshot.supernets.chain import Layer
from oneshot.supernets.series import SERIES_CANDIDATES, residual_block
from oneshot.testing import SpaceContract

SMALL: dict[str, Any] = {"channels": 4, "num_classes": 3}
SUPERNETS: dict[str, Callable[[], OperationSupernet]] = {
    "series": lambda: SeriesSupernet(**SMALL, layers_per_stage=2, in_channels=2, length=25, stem_stride=2),
    "volume": lambda: VolumeSupernet(**SMALL, layers_per_stage=1, volume_size=(5, 9, 6)),
    "text": lambda: TextSupernet(**SMALL, vocabulary=11, length=7),
}


class TestSeries(SpaceContract):
    configs_tested = 5

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return SUPERNETS["series"]()


class TestVolume(SpaceContract):
    configs_tested = 5

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return SUPERNETS["volume"]()


class TestText(SpaceContract):
    configs_tested = 5

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return SUPERNETS["text"]()

    def inputs(self, supernet: Supernet, config: SubnetConfig | None = None) -> Tensor:
        return torch.randint(11, (4, *supernet.input_shape), generator=torch.Generator().manual_seed(0))


# Shapes.


def lengths(network: nn.Module, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Channels and sides behind the stem and every layer."""
    found: list[tuple[int, ...]] = []
    for module in (network.stem, *network.layers):  # type: ignore[misc]  # nn.Module.__getattr__ is untyped
        module.register_forward_hook(lambda _m, _x, y: found.append(tuple(y.shape[1:])))
    network.eval()(torch.zeros(1, *shape, device="meta"))
    return found


@pytest.mark.parametrize("pick", [*SERIES_CANDIDATES, "conv_31", "dil_conv_3"])
@pytest.mark.parametrize("length", [4, 5, 24, 151])
def test_every_stage_but_the_first_halves_the_length_rounded_up(pick: str, length: int) -> None:
    candidates = (pick,) if pick == "skip" else (pick, "skip")
    with torch.device("meta"):
        network = SeriesNetwork([pick] * 6, channels=4, layers_per_stage=2, candidates=candidates, length=length)
    half = -(-length // 2)
    stages = [(4, length)] * 2 + [(8, half)] * 2 + [(16, -(-half // 2))] * 2
    assert lengths(network, (1, length)) == [(4, length), *stages]


def test_the_sides_of_a_volume_are_divided_on_their_own() -> None:
    with torch.device("meta"):
        network = VolumeNetwork(
            ["sep_conv_5", "skip", "se_conv_3"], channels=4, layers_per_stage=1, volume_size=[4, 9, 6]
        )
    assert lengths(network, (1, 4, 9, 6)) == [(4, 4, 9, 6), (4, 4, 9, 6), (8, 2, 5, 3), (16, 1, 3, 2)]
    assert VolumeNetwork(["skip"] * 6, volume_size=8).input_shape == (1, 8, 8, 8)


@pytest.mark.parametrize(("dims", "name"), [(1, "conv_9"), (1, "dil_conv_9"), (2, "sep_conv_5"), (3, "conv_3")])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_relu_convolution_and_normalisation_beside_its_input(dims: int, name: str, stride: int) -> None:
    """Against the functions of torch, in double precision."""
    torch.manual_seed(0)
    layer = Layer(4, 4, stride)
    block = residual_block(name, layer, dims=dims, affine=True).double().eval()
    x = torch.randn(2, 4, *(9, 7, 6)[:dims], dtype=torch.float64)
    kind, kernel = name.rsplit("_", 1)
    holes = 4 if kind == "dil_conv" else 1
    convolve = getattr(F, f"conv{dims}d")
    weights = [p for p in block.parameters() if p.dim() > 1]
    padding, groups = holes * (int(kernel) // 2), 1 if kind == "conv" else 4
    y = convolve(x.relu(), weights[0], stride=stride, padding=padding, dilation=holes, groups=groups)
    y = y if kind == "conv" else convolve(y, weights[1])
    expected = y / (1 + 1e-5) ** 0.5 + (x if stride == 1 else 0)

    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(block(x), y / (1 + 1e-5) ** 0.5 + (0 if stride == 1 else 1), rtol=1e-3)


def test_squeeze_and_excitation_scales_channels_by_their_averages() -> None:
    torch.manual_seed(0)
    block = residual_block("se_conv_5", Layer(4, 4, 2), dims=1, affine=True).double().eval()
    x = torch.randn(2, 4, 10, dtype=torch.float64)
    _, conv, norm, excite = block.body  # type: ignore[misc]  # Sequential is untyped
    y = norm(conv(x.relu()))
    first, last = excite.gate[0], excite.gate[2]
    gate = ((y.mean(-1) @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias).sigmoid()
    torch.testing.assert_close(block(x), y * gate[:, :, None], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(block(x), y, rtol=1e-2)


def test_places_that_a_candidate_reads() -> None:
    """A dilated kernel of 9 reads 33 places, by what has a gradient."""
    for name, places in (("conv_17", 17), ("sep_conv_9", 9), ("dil_conv_9", 33)):
        block = residual_block(name, Layer(1, 2), dims=1, affine=True).eval()
        x = torch.ones(1, 1, 101, requires_grad=True)
        block(x)[0, :, 50].sum().backward()
        assert x.grad is not None
        touched = x.grad[0, 0].nonzero().flatten()
        assert int(touched[-1] - touched[0]) + 1 == places


def test_texts_of_another_length_are_read_and_words_are_told_apart() -> None:
    network = TextNetwork(["conv_3", "skip", "dil_conv_3", "se_conv_3"], channels=4, vocabulary=11, length=7).eval()
    for length in (2, 7, 30):
        logits = network(torch.randint(11, (3, length)))
        assert logits.shape == (3, 2)
    a, b = network(torch.zeros(1, 7, dtype=torch.int64)), network(torch.ones(1, 7, dtype=torch.int64))
    assert not torch.allclose(a, b)


# Costs.


@pytest.mark.parametrize("what", ["params", "macs", "memory"])
@pytest.mark.parametrize("name", SUPERNETS)
def test_the_cost_of_every_architecture_is_that_of_its_network(name: str, what: Any) -> None:
    supernet = SUPERNETS[name]()
    costs = count_candidates(supernet, what)
    for seed in range(8):
        config = supernet.space.sample(seed)
        counts = count(supernet.extract(config, inherit=False), supernet.input_shape)
        assert not counts.uncounted
        assert costs.cost(config) == getattr(counts, what)


def test_the_multiplications_of_a_series_are_those_counted_by_hand() -> None:
    network = SeriesNetwork(["conv_5", "sep_conv_9", "skip"], channels=4, layers_per_stage=1, in_channels=2, length=25)
    by_hand = 2 * 4 * 7 * 25 + 4 * 4 * 5 * 25 + (4 * 9 * 13 + 4 * 8 * 13) + 8 * 16 * 7 + 16 * 2
    assert count(network, (2, 25)).macs == by_hand


# What is refused.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: SeriesSupernet(length=3), "length must be at least 4, .* got 3. Take fewer", id="short"),
        pytest.param(lambda: SeriesSupernet(length=7, stem_stride=2), "length must be at least 8", id="strided"),
        pytest.param(lambda: VolumeSupernet(volume_size=(3, 9, 9)), r"at least 4, .* got 3, 9, 9", id="flat"),
        pytest.param(lambda: VolumeSupernet(volume_size=(9, 9)), "depth, height and width; got", id="an image"),  # type: ignore[arg-type]  # the mistake
        pytest.param(lambda: TextSupernet(vocabulary=1), "at least two words; got vocabulary=1", id="one word"),
        pytest.param(lambda: TextSupernet(length=1), "length must be at least 2", id="a word"),
        pytest.param(lambda: SeriesSupernet(dropout=1.0), r"dropout must be in \[0, 1\); got 1.0", id="dropout"),
        pytest.param(lambda: SeriesSupernet(stages=0), "stages must be at least 1; got 0", id="no stage"),
        pytest.param(lambda: SeriesSupernet(layers_per_stage=0), "layers_per_stage must be at least 1", id="no layer"),
        pytest.param(lambda: SeriesSupernet(in_channels=0), "got stem_stride=1, in_channels=0", id="no channel"),
        pytest.param(lambda: SeriesSupernet(candidates=("conv_4",)), "odd kernel K; got 'conv_4'", id="even kernel"),
        pytest.param(lambda: SeriesSupernet(candidates=("lstm", "skip")), "conv_K, .* got 'lstm'", id="unknown"),
        pytest.param(lambda: SeriesSupernet(candidates=()), "at least one; got", id="no candidate"),
        pytest.param(lambda: SeriesSpace(layers=0), "at least one layer; got layers=0", id="empty space"),
        pytest.param(lambda: SeriesNetwork(["skip"] * 8), "must have 9 layers; got 8 picks", id="few picks"),
    ],
)
def test_a_network_that_cannot_work_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        build()
