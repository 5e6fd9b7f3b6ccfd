"""RobustDARTS measures the right curvature, stops or goes back where the paper does, and resumes exactly."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from oneshot.functional import largest_eigenvalue, sharpening_since
from oneshot.methods.darts import DARTS
from oneshot.methods.robustdarts import RobustDARTS
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import Method, Streams


class TestRobustDARTS(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: RobustDARTS(supernet, order=1, arch_lr=0.1, every=4)


def test_the_second_order_is_that_of_darts() -> None:
    alphas = []
    for method in (DARTS, RobustDARTS):
        torch.manual_seed(0)
        module = method(PlantedSupernet(), order=2, arch_lr=0.1)
        fit(module, random_streams(module.supernet), epochs=1)
        alphas.append(module.alphas["edge"].detach())
    assert torch.equal(*alphas)


# The eigenvalue.


def power_iteration(matrix: Tensor) -> float:
    """The eigenvalue of largest magnitude, in magnitude: what is easily taken for the largest."""
    vector = torch.ones(len(matrix), dtype=matrix.dtype)
    for _ in range(1000):
        vector = matrix @ vector / (matrix @ vector).norm()
    return float((matrix @ vector).norm())


@pytest.mark.parametrize("size", [1, 2, 7, 30, 60])
def test_the_largest_eigenvalue_is_that_of_the_whole_matrix(size: int) -> None:
    noise = torch.randn(size, size, dtype=torch.float64)
    matrix = noise + noise.T
    exact = float(torch.linalg.eigvalsh(matrix)[-1])
    assert largest_eigenvalue(lambda v: matrix @ v, matrix[0], steps=60) == pytest.approx(exact, rel=1e-9, abs=1e-12)


def test_few_products_come_close_from_below() -> None:
    basis = torch.linalg.qr(torch.randn(224, 224, dtype=torch.float64))[0]
    matrix = basis @ torch.diag(torch.cat([torch.tensor([0.9, 0.5]), 0.1 * torch.randn(222)]).double()) @ basis.T
    few, many = (largest_eigenvalue(lambda v: matrix @ v, matrix[0], steps=steps) for steps in (4, 32))
    assert few < 0.9 + 1e-9 and many == pytest.approx(0.9, rel=1e-6)


def test_downward_curvature_is_not_mistaken_for_sharpness() -> None:
    matrix = torch.diag(torch.tensor([-9.0, 1.0, 2.0], dtype=torch.float64))
    assert largest_eigenvalue(lambda v: matrix @ v, matrix[0]) == pytest.approx(2.0)
    assert power_iteration(matrix) == pytest.approx(9.0)


def test_a_matrix_that_is_not_quite_symmetric_counts_as_its_symmetric_part() -> None:
    matrix = torch.randn(20, 20, dtype=torch.float64)
    exact = float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])
    assert largest_eigenvalue(lambda v: matrix @ v, matrix[0]) == pytest.approx(exact, rel=1e-9)
    assert (torch.linalg.eigvals(matrix).imag != 0).any()  # what numpy.linalg.eigvals makes of it


def test_a_matrix_that_maps_all_it_is_shown_into_itself_ends_the_search_early() -> None:
    products = 0

    def product(vector: Tensor) -> Tensor:
        nonlocal products
        products += 1
        return 3.0 * vector

    assert largest_eigenvalue(product, torch.zeros(50)) == pytest.approx(3.0, rel=1e-5)
    assert products <= 2
    assert largest_eigenvalue(torch.zeros_like, torch.zeros(50)) == 0.0


def textbook(supernet: PlantedSupernet, x: Tensor, alpha: Tensor) -> Tensor:
    """The planted supernet written out: each candidate runs, is normalised by its batch, and is weighted."""
    layers = [m for m in supernet.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer in layers:
        layer.track_running_stats = False
        layer.train()
    state = supernet.stem(x)
    mixed = sum(w * op(state) for w, op in zip(alpha.softmax(-1)[0], supernet.edges[0].ops, strict=True))
    result: Tensor = supernet.head(mixed)
    return result


def measured(monkeypatch: pytest.MonkeyPatch) -> tuple[float, Tensor]:
    """The eigenvalue of a small search, and the Hessian of every second derivative, in float64."""
    torch.manual_seed(0)
    module = RobustDARTS(PlantedSupernet(), alpha_std=1.0, arch_weight_decay=0.25, drop_path=0.5).double()
    x, y = torch.randn(16, 1, 8, 8, dtype=torch.float64), torch.arange(16) % 2
    monkeypatch.setattr(module, "held_out", lambda batches: iter([(x, y)]))
    module.supernet.drop_paths(0.5)
    before = copy.deepcopy(module.state_dict())
    value = module.eigenvalue()
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    assert module.supernet.training and all(p.grad is None for p in module.parameters())
    supernet, alpha = copy.deepcopy(module.supernet), module.alphas["edge"].detach()
    assert isinstance(supernet, PlantedSupernet)
    loss = torch.autograd.functional.hessian(lambda a: F.cross_entropy(textbook(supernet, x, a), y), alpha)
    return value, loss.reshape(5, 5)


def test_the_eigenvalue_is_that_of_the_full_hessian_and_the_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    value, matrix = measured(monkeypatch)
    eigenvalues = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert value == pytest.approx(float(eigenvalues[-1]) + 0.25, rel=1e-8)
    for wrong in (eigenvalues[-1], eigenvalues[0] + 0.25, eigenvalues.abs().max(), matrix.trace() + 0.25):
        assert value != pytest.approx(float(wrong), rel=1e-3)


class CellPlantedSupernet(PlantedSupernet):
    """Its mixed operation is a cell, which can be computed again."""

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.head(self.run_cell(self.edges[0], self.stem(x), arch["edge"][0]))
        return logits


def test_a_compiled_and_a_checkpointed_supernet_can_be_measured() -> None:
    values = []
    for options in ({}, {"gradient_checkpointing": True}, {"compile": {"backend": "aot_eager"}}):
        torch.manual_seed(0)
        supernet = CellPlantedSupernet()
        module = RobustDARTS(supernet, order=1, alpha_std=0.5, **options)  # type: ignore[arg-type]  # a dict of options
        x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 2
        module.held_out = lambda batches, b=(x, y): iter([b])  # type: ignore[method-assign]  # no Trainer
        values.append(module.eigenvalue())
    assert values[1] == pytest.approx(values[0], rel=1e-4) and values[2] == pytest.approx(values[0], rel=1e-4)


# Held-out batches.


def test_held_out_batches_are_always_the_same_and_cost_no_random_numbers() -> None:
    module = RobustDARTS(PlantedSupernet(), order=1)
    streams = random_streams(module.supernet, batches=4)
    fit(module, streams, epochs=1)
    state = torch.get_rng_state()
    first, again = list(module.held_out(2)), list(module.held_out())
    assert torch.equal(torch.get_rng_state(), state)
    assert (len(first), len(again)) == (2, 4)
    for (a, b), (c, d) in zip(first, again, strict=False):
        assert torch.equal(a, c) and torch.equal(b, d)
    everything = torch.cat([x for x, _ in again]).flatten(1).sum(1).sort().values
    arch = torch.cat([x for x, _ in streams["arch"]]).flatten(1).sum(1).sort().values
    torch.testing.assert_close(everything, arch, rtol=0, atol=0)


class Endless(torch.utils.data.IterableDataset[tuple[Tensor, ...]]):
    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return iter(TensorDataset(torch.randn(16, 1, 8, 8), torch.arange(16) % 2))  # type: ignore[arg-type]


def test_a_stream_that_cannot_be_read_again_is_refused() -> None:
    module = RobustDARTS(PlantedSupernet(), order=1)
    streams = {**random_streams(module.supernet, batches=2), "arch": DataLoader(Endless(), batch_size=8)}
    with pytest.raises(ValueError, match="over a data set with a length; the architecture stream is DataLoader. Give"):
        fit(module, streams, epochs=1)


# When it stops.


def smoothed(values: Sequence[float], window: int = 5) -> list[float]:
    """Centred means, as the authors' tracker has them after ``len(values)`` measurements."""
    return [float(np.mean(values[max(0, n - window) : n])) for n in range((window + 1) // 2, len(values) + 1)]


def papers_index(values: Sequence[float], *, lag: int = 4, threshold: float = 0.75, centred: bool = True) -> int | None:
    means = smoothed(values)
    if len(means) <= lag or not means[-1 - lag] / means[-1] < threshold:
        return None
    return len(means) - 1 - lag if centred else len(values) - 1 - lag


def test_the_sharp_rise_is_found_where_the_authors_find_it() -> None:
    rng = np.random.default_rng(0)
    found, wrong = [], {"threshold": 0, "lag": 0, "centred": 0}
    for _ in range(200):
        values = np.exp(np.cumsum(rng.normal(0.02, 0.3, size=rng.integers(5, 20)))).tolist()
        ours = sharpening_since(values)
        assert ours == papers_index(values)
        found.append(ours)
        wrong["threshold"] += ours != papers_index(values, threshold=1.3)  # the ratio upside down
        wrong["lag"] += ours != papers_index(values, lag=1)
        wrong["centred"] += ours != papers_index(values, centred=False)
    assert 20 < sum(index is not None for index in found) < 180
    assert min(wrong.values()) > 20


def test_before_the_first_measurement_that_counts_nothing_is_found() -> None:
    values = [0.1] * 9 + [1.0] * 3
    assert sharpening_since(values) == 5
    assert sharpening_since(values, first=5) == 5 and sharpening_since(values, first=6) is None
    assert sharpening_since(values[:4]) is None


def test_eigenvalues_below_zero_are_no_sharp_valley() -> None:
    assert sharpening_since([-1.0, -1.0, -0.1], window=1, lag=1) is None
    assert sharpening_since([-1.0, -1.0, 0.1], window=1, lag=1) == 1


# What it does then.


class Scripted(RobustDARTS):
    """Measures what it is told: sharp from epoch 4 on, unless the weight decay is at least ``enough``."""

    enough = 1.0

    def eigenvalue(self) -> float:
        weight_decay = self.trainer.optimizers[0].param_groups[0]["weight_decay"]
        return 1.0 if self.current_epoch >= 4 and weight_decay < self.enough else 0.1


class States(pl.callbacks.Checkpoint):
    """What a search was at the end of each of its epochs, with a checkpoint of each."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.states: list[list[Tensor]] = []
        self.epochs: list[int] = []
        self.decay: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        (group,) = trainer.optimizers[0].param_groups
        self.epochs.append(trainer.current_epoch)
        self.decay.append(group["weight_decay"])
        self.rates.append(group["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, RobustDARTS)
        momentum = [s["momentum_buffer"] for s in trainer.optimizers[0].state_dict()["state"].values()]
        self.states.append(copy.deepcopy([*pl_module.alphas.values(), *pl_module.supernet.parameters(), *momentum]))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / f"{len(self.epochs)}.ckpt")


SETTINGS: dict[str, Any] = {"order": 1, "every": 1, "window": 1, "lag": 2, "start_epoch": 1, "arch_lr": 0.5}


def scripted(seed: int = 0, **options: Any) -> tuple[Scripted, Streams]:
    torch.manual_seed(seed)
    module = Scripted(PlantedSupernet(channels=2), weight_momentum=0.9, **{**SETTINGS, **options})
    torch.manual_seed(0)
    return module, random_streams(module.supernet, batches=1)


def run(module: Scripted, streams: Streams, states: States, **options: Any) -> pl.Trainer:
    return fit(module, streams, epochs=9, enable_checkpointing=True, callbacks=[states], **options)


def test_early_stopping_derives_the_architecture_of_before_the_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    module, streams = scripted()
    states, original, derived = States(), module.eigenvalue, []

    def eigenvalue() -> float:  # in every epoch another candidate wins
        with torch.no_grad():
            module.alphas["edge"][0, module.current_epoch % 5] += 100.0 * (1 + module.current_epoch)
        derived.append(module.derive())
        return original()

    monkeypatch.setattr(module, "eigenvalue", eigenvalue)
    run(module, streams, states)
    assert states.epochs == [epoch for epoch, _ in module.measurements] == [0, 1, 2, 3, 4]
    assert len(set(derived)) == 5
    assert module.derive() == derived[2]


def test_adaptive_regularisation_goes_back_and_on_with_ten_times_the_decay() -> None:
    module, streams = scripted(on_sharpening="adapt", weight_decay=0.1, max_weight_decay=1.0)
    states = States()
    run(module, streams, states)
    assert states.epochs == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8]
    assert states.decay == [0.1] * 5 + [1.0] * 6
    assert states.rates[5:7] == states.rates[3:5]
    assert [epoch for epoch, _ in module.measurements] == list(range(9))
    assert [value for _, value in module.measurements] == [0.1] * 9
    # The batches are the same and nothing is random here, so one step from the same state differs by the decay alone.
    before, there, here = (states.states[step] for step in (2, 3, 5))
    assert not torch.equal(before[0], there[0]) and torch.equal(there[0], here[0])  # alphas do not decay by it
    lr = states.rates[3]
    weights = len(list(module.supernet.parameters()))
    for w, usual, decayed in zip(before[1 : 1 + weights], there[1:], here[1:], strict=False):
        torch.testing.assert_close(usual - decayed, lr * (1.0 - 0.1) * w, rtol=1e-3, atol=1e-6)


def test_at_the_largest_decay_the_search_runs_to_its_end() -> None:
    module, streams = scripted(on_sharpening="adapt", weight_decay=0.01, max_weight_decay=0.1)
    module.enough = 99.0
    states = States()
    run(module, streams, states)
    assert states.epochs == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 8]
    assert states.decay == pytest.approx([0.01] * 5 + [0.1] * 6)
    assert int(module._picked[0]) == -1


def test_a_rise_in_the_last_epoch_comes_too_late() -> None:
    module, streams = scripted()
    fit(module, streams, epochs=5)
    assert len(module.measurements) == 5 and int(module._picked[0]) == -1


def goes_back_twice(seed: int, folder: Path | None, **options: Any) -> tuple[Scripted, pl.Trainer, States]:
    """After step 5, to where it was after step 3, and again."""
    module, streams = scripted(seed, on_sharpening="adapt", weight_decay=0.01, max_weight_decay=1.0)
    states = States(folder)
    return module, run(module, streams, states, **options), states


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scripted, pl.Trainer, States]:
    return goes_back_twice(0, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("after", [3, 4, 5, 6, 8], ids="{}-steps".format)
def test_a_search_that_went_back_resumes_exactly(whole: tuple[Scripted, pl.Trainer, States], after: int) -> None:
    module, trainer, states = whole
    assert states.folder is not None
    assert states.epochs == [0, 1, 2, 3, 4, 3, 4, 3, 4, 5, 6, 7, 8]
    for alphas in (states.states[5][0], states.states[7][0]):  # the same step from the same state, Adam's included
        torch.testing.assert_close(alphas, states.states[3][0], rtol=0, atol=0)
    resumed, again, rest = goes_back_twice(1, None, ckpt_path=states.folder / f"{after}.ckpt")
    assert rest.epochs == states.epochs[after:]
    torch.testing.assert_close(resumed.state_dict(), module.state_dict(), rtol=0, atol=0)
    for ours, theirs in zip(again.optimizers, trainer.optimizers, strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert resumed.measurements == module.measurements and resumed._genes == module._genes
    assert (again.current_epoch, again.global_step) == (trainer.current_epoch, trainer.global_step)


def test_a_search_that_was_stopped_stays_stopped_when_it_is_resumed(tmp_path: Path) -> None:
    module, streams = scripted()
    run(module, streams, States(tmp_path))
    resumed, streams = scripted(1)
    rest = States()
    run(resumed, streams, rest, ckpt_path=tmp_path / "5.ckpt")
    assert rest.epochs == [] and resumed.derive() == module.derive() and int(resumed._picked[0]) >= 0
    loaded, _ = scripted(2)  # as `oneshot derive` does
    loaded.load_state_dict(torch.load(tmp_path / "5.ckpt", weights_only=True)["state_dict"])
    assert loaded.derive() == module.derive()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"on_sharpening": "es"}, r"one of \('stop', 'adapt'\); got 'es'", id="what"),
        pytest.param({"order": 3}, "order must be 1 or 2; got 3", id="order"),
        pytest.param({"every": 0}, "every must be at least 1; got 0", id="every"),
        pytest.param({"lag": 0}, "lag must be at least 1; got 0", id="lag"),
        pytest.param({"batches": 0}, "batches must be at least 1; got 0", id="batches"),
        pytest.param({"window": 4}, "window must be odd, .* got 4", id="window"),
        pytest.param({"ratio": 1.3}, "must be below 1, as in a rise; got 1.3", id="ratio"),
        pytest.param({"start_epoch": -1}, "start_epoch must not be negative; got -1", id="start"),
        pytest.param({"factor": 1.0}, "must be above 1; got 1.0", id="factor"),
        pytest.param(
            {"on_sharpening": "adapt", "weight_decay": 0.0}, "weight_decay must be above 0, .* got 0.0", id="decay"
        ),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RobustDARTS(PlantedSupernet(), **options)
