"""Counts of networks that read signals, volumes, tables, words or several inputs, by hand in whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from oneshot.cost import AdditiveCost, TracedCost, count, count_candidates
from oneshot.supernets import (
    ArchGraph,
    Choice,
    NASBench201Supernet,
    OperationSupernet,
    SearchSpace,
    Subnet,
    SubnetConfig,
)
from oneshot.supernets.mixed_op import MixedOp


class Words(nn.Module):
    """12 words of 20, by an embedding, attention of 2 heads, two normalised linear layers, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.wide, self.narrow, self.head = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.head((x + self.narrow(self.wide(x).relu())).mean(1))
        return out


WORDS = 4 * 12 * 8 * 8 + 2 * 12 * 12 * 8 + 2 * 12 * 8 * 32 + 8 * 3
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "signal": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.Conv1d(8, 4, 3, groups=2)),
        (3, 21),
        11 * 8 * 3 * 5 + 9 * 4 * 4 * 3,
    ),
    "volume": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.AvgPool3d(2), nn.Conv3d(4, 4, 1, groups=4)),
        (2, 4, 6, 8),
        4 * 6 * 8 * 4 * 2 * 27 + 2 * 3 * 4 * 4,
    ),
    "image that is not square": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, (3, 5), padding=(1, 2)), nn.ReLU(), nn.ConvTranspose2d(8, 2, 2, stride=2)
        ),
        (3, 5, 14),
        5 * 14 * (8 * 3 * 15 + 8 * 2 * 4),
    ),
    "row of a table": (
        lambda: nn.Sequential(nn.Linear(7, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 1)),
        (7,),
        7 * 16 + 16,
    ),
    "words": (Words, (12,), WORDS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_multiplications_are_those_that_are_counted_by_hand(name: str) -> None:
    make, shape, macs = NETWORKS[name]
    counts = count(make(), shape)
    assert counts.macs == macs and counts.uncounted == ()
    assert counts.macs == count(make().to("meta"), shape).macs


@pytest.mark.parametrize("name", ["signal", "volume", "image that is not square"])
def test_convolutions_of_any_dimension_are_those_of_fvcore(name: str) -> None:
    from fvcore.nn import FlopCountAnalysis

    make, shape, macs = NETWORKS[name]
    analysis = FlopCountAnalysis(make().eval(), torch.zeros(1, *shape)).unsupported_ops_warnings(False)
    assert sum(flops for op, flops in analysis.by_operator().items() if op.startswith("conv")) == macs


class Mixed(Subnet):
    """A picture, a row of a table and words, each read by a part of its own."""

    vocabularies: ClassVar[dict[str, int]] = {"text": 20}

    def __init__(self, op: str = "wide") -> None:
        super().__init__()
        self.init_args, self.num_classes = {"op": op}, 3
        self.input_shape: Any = {"image": (1, 6, 10), "row": (5,), "text": (12,)}
        self.image, self.row, self.text = nn.Conv2d(1, 4, 3), nn.Linear(5, 4), Words()
        self.op = nn.Linear(11, 11) if op == "wide" else nn.Identity()
        self.head = nn.Linear(4 + 4 + 3, 3)

    def forward(self, x: Any) -> Tensor:
        parts = [self.image(x["image"]).mean((2, 3)), self.row(x["row"]), self.text(x["text"])]
        out: Tensor = self.head(self.op(torch.cat(parts, 1)))
        return out

    def graphs(self) -> list[ArchGraph]:
        return []


class MixedSupernet(OperationSupernet):
    """A layer that is there or not, over three inputs."""

    vocabularies: ClassVar[dict[str, int]] = {"text": 20}

    def __init__(self) -> None:
        super().__init__()
        self.space = SearchSpace("three inputs", (Choice("op", ("wide", "skip")),))
        self.whole, self.num_classes = Mixed(), 3
        self.input_shape: Any = self.whole.input_shape
        self.mixed = MixedOp([nn.Linear(11, 11), nn.Identity()])

    def forward(self, x: Any, arch: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> Mixed:
        return self.prepare(Mixed(str(config["op"][0])), config)

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        return {"op": [[self.mixed]]}


BY_NAME = 4 * 8 * 4 * 9 + 5 * 4 + WORDS + 11 * 3


def test_several_inputs_are_counted_by_name_and_words_are_whole_numbers() -> None:
    network = Mixed("skip")
    assert count(network, network.input_shape).macs == BY_NAME


@pytest.mark.parametrize("what", ["params", "macs", "memory"])
def test_the_candidates_of_a_supernet_of_several_inputs_are_counted(what: Any) -> None:
    supernet = MixedSupernet()
    model = count_candidates(supernet, what)
    assert isinstance(model, TracedCost if what == "memory" else AdditiveCost)
    for op in ("wide", "skip"):
        config = SubnetConfig("three inputs", {"op": [op]})
        assert model.cost(config) == getattr(count(Mixed(op), supernet.input_shape), what)
    model.check_supernet(supernet)
    if what != "params":
        supernet.input_shape = {**supernet.input_shape, "row": (9,)}
        with pytest.raises(
            ValueError, match=r"inputs of shape \{image: \[1, 6, 10\], row: \[5\].*reads \{.*row: \[9\]"
        ):
            model.check_supernet(supernet)


def test_the_size_of_square_images_is_not_that_of_several_inputs() -> None:
    with pytest.raises(ValueError, match=r"square images, at least 1; got 8 for inputs of shape \{image: \[1, 6, 10\]"):
        count_candidates(MixedSupernet(), "macs", image_size=8)


def test_candidates_of_images_that_are_not_square_are_counted_at_their_shape() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=(8, 20))
    model, config = count_candidates(supernet, "macs"), supernet.space.sample(0)
    assert model.cost(config) == count(supernet.extract(config, inherit=False), (3, 8, 20)).macs
    with pytest.raises(ValueError, match=r"for inputs of shape \[3, 8, 20\]"):
        count_candidates(supernet, "macs", image_size=8)


class Fourier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs()


def test_an_operator_without_a_formula_is_named_also_of_signals() -> None:
    with pytest.warns(UserWarning, match="These MACs are a lower bound: no formula says what aten::_fft_r2c"):
        counts = count(nn.Sequential(nn.Conv1d(2, 2, 1), Fourier()), (2, 16))
    assert counts.uncounted == ("aten::_fft_r2c",) and counts.macs == 64
