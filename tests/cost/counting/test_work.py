"""What operators do, as features of latency: against numbers by hand, and latencies that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oneshot.conversion.supernet import ConvertedSupernet, convert
from oneshot.cost import count_candidates, describe_supernet, fit_predictor, resolve_cost, write_csv
from oneshot.cost.counting.work import Work, work_of
from oneshot.cost.learned.predictors import WorkPredictor
from oneshot.cost.record import Record
from oneshot.supernets import NASBench201Supernet


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(torch.relu(self.wide(x)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.blocks = nn.Sequential(Block(24), Block(24))
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(24 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(self.blocks(self.depthwise(self.stem(x)))).flatten(1))
        return out


@pytest.fixture(scope="module")
def supernet() -> ConvertedSupernet:
    return convert(Network(), torch.zeros(2, 3, 8, 8), width=(0.3, 0.5, 0.7, 1.0), multiple=1)


@pytest.fixture(scope="module")
def work(supernet: ConvertedSupernet) -> Work:
    found = work_of(supernet)
    assert found is not None
    return found


def up(size: int) -> int:
    return -(-size // 16) * 16


def test_features_are_those_by_hand(supernet: ConvertedSupernet, work: Work) -> None:
    space, pixels = supernet.space, 64
    for config in (space.largest, space.smallest, space.sample(3)):
        genes = space.genes_of(config)[None]
        found = dict(zip(work.names, np.round((work.values(genes) * work.scale)[0], 6).tolist(), strict=True))
        network = supernet.extract(config).network
        c = network.stem.out_channels  # type: ignore[union-attr]
        hidden = [b.wide.out_channels for b in network.blocks if isinstance(b, Block)]  # type: ignore[union-attr]
        assert found["MACs of convolutions"] == c * 27 * pixels
        assert found["padded MACs of convolutions"] == up(c) * 27 * pixels
        assert found["bytes of convolutions"] == 4 * (3 * pixels + c * 27 + c + c * pixels)
        assert found["MACs of depthwise convolutions"] == c * 9 * pixels
        assert found["padded MACs of depthwise convolutions"] == up(c) * 9 * pixels
        assert found["MACs of 1x1 convolutions"] == sum(2 * c * h * pixels for h in hidden)
        assert found["padded MACs of 1x1 convolutions"] == sum(2 * up(c) * up(h) * pixels for h in hidden)
        assert found["number of 1x1 convolutions"] == 2 * len(hidden)
        assert found["bytes of 1x1 convolutions"] == sum(4 * (2 * c * h + c + h + 2 * (c + h) * pixels) for h in hidden)
        assert found["number of elementwise operators"] == 2 * len(hidden)
        assert found["MACs of matrix products"] == c * 16 * 5
        assert found["number of moves and pooling"] == 1


def test_features_of_many_are_those_of_each_and_sum_up_to_the_macs(supernet: ConvertedSupernet, work: Work) -> None:
    genes = supernet.space.sample_matrix(50, 0)
    values = work.values(genes)
    assert (values == np.concatenate([work.values(row[None]) for row in genes])).all()
    assert (work.values(supernet.space.genes_of(supernet.space.largest)[None]) <= 1).all()
    macs = [i for i, name in enumerate(work.names) if name.startswith("MACs of")]
    np.testing.assert_allclose(
        (values * work.scale)[:, macs].sum(1), count_candidates(supernet, "macs").costs(genes), rtol=1e-12
    )


def test_resolutions_have_features_of_their_own() -> None:
    supernet = convert(Pooled(), torch.zeros(2, 3, 16, 16), resolutions=(8, 16))
    work = work_of(supernet)
    assert work is not None
    genes = np.array([[0, 2], [1, 2]])
    small, large = work.values(genes) * work.scale
    pixels = work.names.index("MACs of convolutions")
    assert large[pixels] == 4 * small[pixels] > 0
    assert supernet.space.choices[0].name == "resolution"


class Pooled(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 32, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))


def test_other_supernets_have_none() -> None:
    assert work_of(NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)) is None


def latencies(work: Work, genes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Of a device whose kernels take 16 channels at a time."""
    speeds = {
        "padded MACs of 1x1 convolutions": 3.0,
        "bytes of convolutions": 0.5,
        "number of elementwise operators": 0.7,
    }
    exact = 1.0 + sum(speed * work.values(genes)[:, work.names.index(name)] for name, speed in speeds.items())
    return np.asarray(exact * np.random.default_rng(seed).normal(1, 0.005, len(genes)))


def test_steps_of_16_channels_are_learned_from_few_networks(supernet: ConvertedSupernet, work: Work) -> None:
    space = supernet.space
    genes, others = space.sample_matrix(40, 0), space.sample_matrix(200, 1)
    ms = latencies(work, genes)
    ms[5] *= 4  # another program ran
    model = fit_predictor(space, genes, ms, kind="work", work=work)
    assert isinstance(model, WorkPredictor) and model.kind == "work"
    truth = latencies(work, others)
    errors = np.abs(model.costs(others) / truth - 1)
    assert errors.max() < 0.05
    additive = fit_predictor(space, genes, ms, kind="additive")
    assert np.abs(additive.predict(others) / truth - 1).mean() > 3 * errors.mean()
    assert next(iter(model.shares)) == "padded MACs of 1x1 convolutions"
    assert min(model.get_buffer("coefficients").tolist()) >= 0
    low, high = model.interval(others, 0.9)
    assert ((low <= truth) & (truth <= high)).mean() > 0.85
    with pytest.raises(NotImplementedError, match="have no gradient"):
        model.expected({})


def test_without_rounded_channels_the_steps_are_not_learned(
    supernet: ConvertedSupernet, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = supernet.space
    genes, others = space.sample_matrix(100, 0), space.sample_matrix(200, 1)
    ms, truth = latencies(work, genes), latencies(work, others)
    good = fit_predictor(space, genes, ms, kind="work", work=work).costs(others)
    monkeypatch.setattr("oneshot.cost.counting.work.VECTOR", 1)
    bad = fit_predictor(space, genes, ms, kind="work", work=work).costs(others)
    assert np.abs(bad / truth - 1).mean() > 2 * np.abs(good / truth - 1).mean()


def test_the_kind_needs_the_work_and_enough_networks(supernet: ConvertedSupernet, work: Work) -> None:
    genes = supernet.space.sample_matrix(40, 0)
    ms = latencies(work, genes)
    with pytest.raises(ValueError, match="kind must be auto, additive, pairwise, floor, boosting, mlp in space"):
        fit_predictor(supernet.space, genes, ms, kind="work")
    with pytest.raises(ValueError, match="'work' needs at least 20 samples; got 12"):
        fit_predictor(supernet.space, genes[:12], ms[:12], kind="work", work=work)
    assert fit_predictor(supernet.space, genes, ms, work=work).kind == "work"  # the best of all kinds


def test_a_file_of_measurements_is_a_cost_of_its_supernet(
    supernet: ConvertedSupernet, work: Work, tmp_path: Path
) -> None:
    genes = supernet.space.sample_matrix(40, 0)
    path = write_csv(
        tmp_path / "phone.csv",
        supernet.space,
        genes,
        latencies(work, genes),
        record=Record(describe_supernet(supernet)),
    )
    model = resolve_cost(str(path), supernet)
    assert isinstance(model, WorkPredictor)
    others = supernet.space.sample_matrix(100, 1)
    assert model.costs(others) == pytest.approx(latencies(work, others), rel=0.05)
    other = convert(Network(), torch.zeros(2, 3, 8, 8), width=(0.5, 1.0), multiple=1)
    with pytest.raises(ValueError, match="columns|candidate|other networks"):
        resolve_cost(str(path), other)
