"""Costs of converted networks by formulas: against counts of the networks, one by one."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.conversion.supernet import ConvertedSupernet, convert
from oneshot.cost import CostModel, Counted, count, count_candidates
from oneshot.cost.counting.converted import Writer, count_converted
from oneshot.cost.counting.elastic import NoTablesError
from oneshot.cost.counting.polynomials import PolynomialCost, constant

COUNTS = get_args(Counted)


class Residual(nn.Module):
    def __init__(self, channels: int, hidden: int, *, in_place: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, hidden, 3, padding=1)
        self.norm = nn.BatchNorm2d(hidden)
        self.last = nn.Conv2d(hidden, channels, 3, padding=1)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(F.relu(self.norm(self.first(x))))
        if self.in_place:
            y += x
            return y
        return F.relu(x + y)


class Squeeze(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    def __init__(self, channels: int, kernel: int = 5) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Conv2d(channels, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, kernel, padding=kernel // 2, groups=wide)
        self.squeeze, self.project = Squeeze(wide), nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.squeeze(F.hardswish(self.depthwise(self.expand(x)))))


class ManyLayers(nn.Module):
    """Groups, pooling with indices, transposed convolutions, a shared layer, concatenation, skips over stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Residual(16, 24), Residual(16, 8, in_place=True), Inverted(16), Residual(16, 8))
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.two = nn.ModuleList([Inverted(32), Inverted(32, 3)])
        self.grouped, self.norm = nn.Conv2d(32, 32, 3, padding=1, groups=4), nn.GroupNorm(4, 32)
        self.up, self.shared = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        skip = x = self.blocks(self.stem(x))
        x = self.down(x)
        for block in self.two:
            x = block(x)
        coarse = F.max_pool2d(F.gelu(self.norm(self.grouped(x))), 2)
        fine = torch.cat([self.shared(self.shared(self.up(x))), skip], 1)
        out: Tensor = self.head(torch.cat([coarse.mean((2, 3)), fine.mean((2, 3))], 1))
        return out


class Stages(nn.Module):
    """Three stages with nothing between them: what one leaves out is the input of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one = nn.Sequential(Residual(16, 24), Residual(16, 32, in_place=True), Residual(16, 16))
        self.two = nn.Sequential(Residual(16, 24), Residual(16, 24))
        self.three = nn.Sequential(Inverted(16), Inverted(16), Inverted(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.three(self.two(self.one(self.stem(x)))).mean((2, 3)))
        return out


class Attention(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size // heads
        self.norm, self.qkv, self.out = nn.LayerNorm(size), nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.mlp = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, self.heads * self.size)
        x = x + self.out(y)
        out: Tensor = x + self.mlp(x)
        return out


class Tokens(nn.Module):
    """A transformer, of layers of one's own or of ``nn.TransformerEncoderLayer``, which runs as one operator."""

    def __init__(self, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.positions = nn.Parameter(torch.zeros(1, 16, 32))
        self.blocks, self.head = nn.ModuleList(block() for _ in range(3)), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x.mean(1))
        return out


class Fused(nn.Module):
    """``nn.MultiheadAttention``, which runs as one operator in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 3)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        out: Tensor = self.head((x + self.mlp(x)).mean(1))
        return out


class Dense(nn.Module):
    """Every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(16 + 8 * i, 8, 3, padding=1) for i in range(4))
        self.squeeze, self.head = nn.Conv2d(48, 24, 1), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(F.relu(layer(torch.cat(found, 1))))
        out: Tensor = self.head(F.avg_pool2d(self.squeeze(torch.cat(found, 1)), 2).mean((2, 3)))
        return out


class Named(nn.Module):
    """Inputs and outputs by name, an embedding whose weights are those of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.numbers = nn.Embedding(50, 32), nn.Linear(6, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))
        self.out = nn.Linear(32, 50, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        y = self.words(x["text"]).mean(1) + self.numbers(x["table"])
        return {"logits": self.out(self.mlp(y) + y)}


def images(side: int) -> Tensor:
    return torch.zeros(2, 3, side, side)


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Any, dict[str, Any]]]] = {
    "many layers": lambda: (ManyLayers(), images(16), {"multiple": 1, "width": (0.05, 0.3, 0.6, 1), "kernel": True}),
    "stages": lambda: (Stages(), images(16), {"multiple": 2}),
    "attention": lambda: (Tokens(lambda: Attention(32, 4)), images(16), {"multiple": 4}),
    "encoder layers": lambda: (Tokens(encoder), images(16), {}),
    "fused attention": lambda: (Fused(), torch.zeros(2, 6, 8), {}),
    "dense": lambda: (Dense(), images(12), {"multiple": 2}),
    "resolutions": lambda: (Stages(), images(16), {"resolutions": (8, 12, 16)}),
    "named": lambda: (Named(), {"text": torch.zeros(2, 7, dtype=torch.int64), "table": torch.zeros(2, 6)}, {}),
}


def converted(name: str) -> ConvertedSupernet:
    network, example, options = NETWORKS[name]()
    return convert(network, example, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_the_extracted_networks(name: str) -> None:
    supernet = converted(name)
    genes = supernet.space.sample_matrix(200, 0)
    networks = [supernet.extract(config, inherit=False) for config in supernet.space.decode(genes)]
    counts = [count(network, network.input_shape) for network in networks]
    for what in COUNTS:
        model = count_candidates(supernet, what)
        assert isinstance(model, PolynomialCost), what
        assert model.costs(genes).tolist() == [getattr(found, what) for found in counts]
        model.check_supernet(supernet)


def test_widths_of_blocks_that_are_left_out_do_not_count() -> None:
    supernet = converted("stages")
    genes = supernet.space.sample_matrix(200, 1)
    as_drawn = np.random.default_rng(0).integers(0, supernet.space.gene_sizes, genes.shape)
    for what in COUNTS:
        model = count_candidates(supernet, what)
        assert model.costs(as_drawn).tolist() == model.costs(supernet.space.repair(as_drawn)).tolist()


@pytest.mark.parametrize("what", COUNTS)
def test_extremes_and_the_expectation_over_even_chances(what: Counted) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 3), Residual(16, 16), Residual(16, 16), nn.Flatten(), nn.Linear(16 * 36, 3))
    supernet = convert(net, images(8), width=(0.5, 1.0))
    space, model = supernet.space, count_candidates(supernet, what)
    every = np.array(list(itertools.product(*map(range, space.gene_sizes))))
    costs = model.costs(every)
    if (proven := model.proven_extremes()) is not None:
        assert [model.costs(genes[None])[0] for genes in proven] == [costs.min(), costs.max()]
    even = {
        c.name: torch.full((1, len(c.candidates)), 1 / len(c.candidates), dtype=torch.float64) for c in space.choices
    }
    expected = float(model.expected(even))
    if what == "memory":
        assert expected <= costs.mean()
    else:
        assert proven is not None and expected == pytest.approx(costs.mean(), rel=1e-12)


def test_other_sizes_of_images() -> None:
    supernet = converted("many layers")
    genes = supernet.space.sample_matrix(10, 0)
    for what in ("macs", "memory"):
        model = count_candidates(supernet, what, image_size=24)
        networks = [supernet.extract(config, inherit=False) for config in supernet.space.decode(genes)]
        assert model.costs(genes).tolist() == [getattr(count(n, (3, 24, 24)), what) for n in networks]
        with pytest.raises(ValueError, match="24 pixels"):
            model.check_supernet(supernet)


class Keeps(nn.Module):
    """How long it keeps a tensor depends on its width, which no formula says."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 32), nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 2)])

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for layer in self.layers:
            x = layer(x)
            if self.layers[0].out_features > 20:
                kept.append(x)
        return x


def test_a_network_without_a_formula_is_counted_and_never_wrong() -> None:
    supernet = convert(Keeps(), torch.zeros(2, 8))
    with pytest.raises(NoTablesError, match="the formulas give"):
        count_converted(supernet, "memory", "bytes")
    model: CostModel = count_candidates(supernet, "memory")
    genes = supernet.space.sample_matrix(20, 0)
    networks = [supernet.extract(config) for config in supernet.space.decode(genes)]
    assert model.costs(genes).tolist() == [count(network, (8,)).memory for network in networks]
    assert isinstance(count_candidates(supernet, "macs"), PolynomialCost)


@pytest.mark.parametrize("what", COUNTS)
def test_formulas_that_forget_which_blocks_there_are_would_be_found_out(
    what: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Writer, "where", lambda self, *owners: constant(1))
    with pytest.raises(NoTablesError, match="the formulas give"):
        count_converted(converted("stages"), what, what)


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # 200 networks are built and run
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet18", 64),
        ("mobilenetv3_small_100", 64),
        ("tf_efficientnet_lite0", 96),
        ("vit_tiny_patch16_224", 224),
        ("convnext_atto", 64),
        ("densenet121", 64),
    ],
)
def test_costs_of_networks_of_timm(name: str, side: int, record_property: Callable[[str, object], None]) -> None:
    timm = pytest.importorskip("timm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        supernet = convert(timm.create_model(name), images(side))
    genes = supernet.space.sample_matrix(200, 0)
    counts = []
    for config in supernet.space.decode(genes):
        network = supernet.extract(config)
        counts.append(count(network, network.input_shape))
    for what in COUNTS:
        model = count_candidates(supernet, what)
        assert isinstance(model, PolynomialCost), what
        assert model.costs(genes).tolist() == [getattr(found, what) for found in counts]
    record_property("networks", len(counts))
