"""DARTS-PT keeps what the supernet misses most, decides all rows and nodes on time, and resumes in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from oneshot.engine.samplers import SoftmaxSampler
from oneshot.methods.dartspt import DARTSPT, Projection
from oneshot.methods.smoothdarts import RandomPerturbation
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.darts import DARTSSpace, DARTSSupernet, darts_space
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.testing import MethodContract, PlantedSupernet, find_planted_winner, fit, random_streams
from oneshot.testing.methods import CANDIDATES, WINNER, Method


class TestDARTSPT(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: DARTSPT(supernet, train_epochs=None, tune_epochs=0, arch_lr=0.1, batches=1)


def biased(supernet: OperationSupernet) -> DARTSPT:
    """The largest alpha is that of a pooling, which is of no use, and stays so."""
    module = DARTSPT(supernet, train_epochs=None, tune_epochs=1, fixed_alphas=True)
    with torch.no_grad():
        module.alphas["edge"][0, supernet.space["edge"].candidates.index("avg_pool_3x3")] = 1.5
    return module


def test_the_winner_is_found_although_another_alpha_is_larger() -> None:
    modules = []

    def method(supernet: OperationSupernet) -> DARTSPT:
        modules.append(biased(supernet))
        return modules[-1]

    assert find_planted_winner(method, seed=0)["edge"] == (WINNER,)
    alphas = modules[-1].alphas["edge"]
    assert CANDIDATES[int(alphas.argmax())] == "avg_pool_3x3"  # what DARTS derives


# The decisions, against a plain loop over the definition.


def small_darts(*, candidates: tuple[str, ...] = ("none", "skip_connect", "max_pool_3x3")) -> OperationSupernet:
    space = darts_space(candidates=candidates, steps=3)
    return DARTSSupernet(space, channels=2, cells=3, num_classes=3, in_channels=1, image_size=8)


def small_nasbench201() -> OperationSupernet:
    return NASBench201Supernet(channels=2, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)


def undecided(supernet: OperationSupernet, **options: Any) -> DARTSPT:
    """A search whose fit is over, but which has decided nothing; without tuning, so that a plain loop can follow."""
    torch.manual_seed(0)
    module = DARTSPT(supernet, train_epochs=None, tune_epochs=0, alpha_std=0.5, weight_lr=0.1, **options)
    fit(module, random_streams(supernet, batches=1, batch_size=16), epochs=1)
    module.sampler.picked.fill_(-1)
    module.sampler.kept.fill_(True)
    return module


def losses(module: DARTSPT, *, row: tuple[str, int], renormalise: bool = False) -> list[float]:
    """The loss without each candidate of a row, and at last without the row."""
    supernet, (name, r) = module.supernet.train(), row
    for layer in supernet.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.0
    found, batches = [], list(module.held_out())
    with torch.no_grad():
        for candidate in [*range(module.alphas[name].shape[1]), None]:
            weights = {n: w.clone() for n, w in module.edge_weights().items()}
            weights[name][r, slice(None) if candidate is None else candidate] = 0.0
            if renormalise:
                weights[name][r] /= weights[name][r].sum()
            found.append(sum(float(F.cross_entropy(supernet(x, weights), y)) for x, y in batches) / len(batches))
    return found


def places(module: DARTSPT) -> list[tuple[str, int]]:
    return [(choice.name, r) for choice in module.supernet.space.choices for r in range(choice.rows)]


def test_every_row_keeps_the_candidate_it_misses_most() -> None:
    module = undecided(small_nasbench201(), metric="loss")
    disagree = {"misses least": 0, "largest alpha": 0, "renormalised": 0}
    for number in range(6):
        gene = int(module._rows[number])
        name, r = places(module)[gene]
        expected, scaled = (losses(module, row=(name, r), renormalise=on)[:-1] for on in (False, True))
        assert int(module.sampler.picked[gene]) == -1
        module.decide(number)
        ours = int(module.sampler.picked[gene])
        assert ours == max(range(5), key=expected.__getitem__)
        disagree["misses least"] += ours != min(range(5), key=expected.__getitem__)
        disagree["largest alpha"] += ours != int(module.alphas[name][r].argmax())
        disagree["renormalised"] += ours != max(range(5), key=scaled.__getitem__)
        torch.testing.assert_close(module.edge_weights()[name][r], torch.eye(5)[ours], rtol=0, atol=0)
    assert min(disagree.values()) > 0
    assert module.derive()["cell"] == tuple(
        module.supernet.space["cell"].candidates[o] for o in module.sampler.picked.tolist()
    )


def test_every_node_keeps_the_two_edges_it_misses_most_and_none_is_not_picked() -> None:
    module = undecided(small_darts(), metric="loss")
    space, nodes = module.supernet.space, [node for node in module.supernet.space.nodes() if len(node) > 2]
    assert isinstance(space, DARTSSpace)
    assert len(nodes) == 4 and module.decisions == 18 + 4
    with torch.no_grad():  # so that a DARTS without its rule would pick `none`
        for alpha in module.alphas.values():
            alpha[:, 0] += 3.0
    for number in range(18):
        module.decide(number)
    assert int(module.sampler.picked.min()) >= 1
    dropped_most_missed = 0
    for number in range(18, 22):
        node = nodes[int(module._nodes[number - 18])]
        expected = {gene: losses(module, row=places(module)[gene])[-1] for gene in node}
        module.decide(number)
        kept = {gene for gene in node if module.sampler.kept[gene]}
        assert kept == set(sorted(node, key=lambda gene: -expected[gene])[:2])
        dropped_most_missed += kept != set(sorted(node, key=lambda gene: expected[gene])[:2])
    assert dropped_most_missed
    for name, r in (places(module)[gene] for gene in range(18) if not module.sampler.kept[gene]):
        assert not module.edge_weights()[name][r].any() and module.probabilities()[name][r].sum() == 1
        assert module.derive()[name][r] == "none"
    cells = space.genotype(module.derive())
    assert [len(node) for node in (*cells.normal, *cells.reduce)] == [2, 2, 2, 2, 2, 2]


def test_where_accuracies_are_equal_the_loss_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    module = undecided(PlantedSupernet())
    x = torch.randn(16, 1, 8, 8)
    with torch.no_grad():  # all images are of one class, whatever is missing
        head = module.supernet.get_submodule("head")[-1]  # type: ignore[index]
        head.weight.mul_(1e-3)
        head.bias.copy_(torch.tensor([9.0, 0.0]))
    monkeypatch.setattr(module, "held_out", lambda batches=None: iter([(x, torch.zeros(16, dtype=torch.int64))]))
    expected = losses(module, row=("edge", 0))[:-1]
    module.decide(0)
    assert int(module.sampler.picked[0]) == max(range(5), key=expected.__getitem__)


def test_making_a_decision_changes_nothing_else() -> None:
    module = undecided(small_nasbench201(), drop_path=0.5)
    before, rng = {n: t.clone() for n, t in module.state_dict().items()}, torch.get_rng_state()
    module.decide(0)
    changed = [n for n, t in module.state_dict().items() if not torch.equal(t, before[n])]
    assert changed == ["sampler.picked"]
    assert torch.equal(torch.get_rng_state(), rng) and module.supernet.training


def test_the_order_of_the_decisions_is_random() -> None:
    orders = [DARTSPT(small_nasbench201())._rows.tolist() for _ in range(5)]
    assert all(sorted(order) == list(range(6)) for order in orders) and len({tuple(order) for order in orders}) > 1


# The sampler.


def test_a_projection_without_decisions_is_its_inner_sampler_and_decided_rows_have_no_gradient() -> None:
    space = NASBench201Supernet(channels=2, cells_per_stage=1).space
    sampler, alphas = Projection(SoftmaxSampler(), space), {"cell": torch.randn(6, 5, requires_grad=True)}
    assert torch.equal(sampler(alphas)["cell"], alphas["cell"].softmax(-1))
    sampler.picked[2], sampler.kept[4] = 3, False
    (gradient,) = torch.autograd.grad((sampler(alphas)["cell"] ** 2).sum(), alphas["cell"])
    assert gradient.abs().sum(1).ne(0).tolist() == [True, True, False, True, False, True]


def test_a_perturbation_moves_undecided_rows_only() -> None:
    module = DARTSPT(small_nasbench201(), perturbation=RandomPerturbation(0.3, 0.3))
    module.sampler.picked[:3] = 1
    with torch.no_grad():
        weights = module.weights_for_training(torch.randn(4, 1, 8, 8), torch.arange(4) % 3)["cell"]
    assert torch.equal(weights[:3], F.one_hot(torch.tensor([1, 1, 1]), 5).float())
    assert not torch.allclose(weights[3:], module.edge_weights()["cell"][3:], atol=0.01)


# The schedule.


class Log(pl.callbacks.Checkpoint):
    """Per epoch: decisions made, learning rate, momentum; and a checkpoint."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder, self.rows = folder, []  # type: ignore[var-annotated]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, DARTSPT)
        decided = int((pl_module.sampler.picked >= 0).sum())
        optimizer = trainer.optimizers[0]
        self.rows.append((decided, optimizer.param_groups[0]["lr"], bool(optimizer.state)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / f"{trainer.current_epoch}.ckpt")


def tuned(seed: int = 0, **options: Any) -> tuple[DARTSPT, Any]:
    torch.manual_seed(seed)
    supernet = DARTSSupernet(
        darts_space(candidates=("skip_connect", "sep_conv_3x3"), steps=2),
        channels=2, cells=2, num_classes=3, in_channels=1, image_size=8,
    )  # fmt: skip
    settings = {"train_epochs": 2, "tune_epochs": 1, "arch_lr": 0.1, **options}
    return DARTSPT(supernet, **settings), random_streams(supernet, batches=1)


def test_decisions_follow_one_another_with_tuning_in_between() -> None:
    module, streams = tuned(tune_epochs=2, weight_lr=0.1)
    log = Log()
    trainer = fit(module, streams, epochs=2 + 2 * 12, enable_checkpointing=True, callbacks=[log])
    assert module.decisions == 10 + 2
    assert [row[0] for row in log.rows] == [0, 0, *(n for n in range(1, 11) for _ in "12"), 10, 10, 10, 10]
    cosine = [0.1, 0.001 + (0.1 - 0.001) / 2]  # of two epochs
    assert [row[1] for row in log.rows] == pytest.approx([*cosine, *[0.0025] * 24])
    assert [row[2] for row in log.rows][:4] == [False, True, False, True]  # the momentum of the training is forgotten
    assert all(row[2] for row in log.rows[3:])
    assert trainer.current_epoch == 26
    assert int((~module.sampler.kept).sum()) == 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[DARTSPT, pl.Trainer, Path]:
    """A search that was not interrupted, and the folder with its checkpoints."""
    folder, (module, streams) = tmp_path_factory.mktemp("whole"), tuned()
    return module, fit(module, streams, epochs=14, enable_checkpointing=True, callbacks=[Log(folder)]), folder


@pytest.mark.parametrize("epoch", [1, 5, 12])
def test_a_search_resumed_between_two_decisions_equals_an_uninterrupted_one(
    whole: tuple[DARTSPT, pl.Trainer, Path], epoch: int
) -> None:
    module, trainer, folder = whole
    resumed, streams = tuned(1)
    assert not torch.equal(resumed._rows, module._rows)
    path = folder / f"{epoch}.ckpt"
    again = fit(resumed, streams, epochs=14, enable_checkpointing=True, callbacks=[Log()], ckpt_path=path)
    torch.testing.assert_close(resumed.state_dict(), module.state_dict(), rtol=0, atol=0)
    for ours, theirs in zip(again.optimizers, trainer.optimizers, strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert resumed.derive() == module.derive()


def test_fixed_alphas_stay_as_they_are() -> None:
    module, streams = tuned(fixed_alphas=True)
    before = {name: alpha.detach().clone() for name, alpha in module.alphas.items()}
    fit(module, streams, epochs=14)
    for name, alpha in module.alphas.items():
        torch.testing.assert_close(alpha.detach(), before[name], rtol=0, atol=0)


# What it refuses.


@pytest.mark.parametrize(
    ("options", "epochs", "message"),
    [
        pytest.param({}, 50, r"are 14; got max_epochs=50. Use Trainer\(max_epochs=14\)", id="long"),
        pytest.param({}, 13, r"are 14; got max_epochs=13. Use Trainer\(max_epochs=14\)", id="short"),
        pytest.param(
            {"train_epochs": None},
            12,
            r"take 12 epochs, .* got max_epochs=12. Use .*\(max_epochs=13\)",
            id="no-training",
        ),
    ],
)
def test_another_number_of_epochs_is_refused(options: dict[str, Any], epochs: int, message: str) -> None:
    module, streams = tuned(**options)
    with pytest.raises(ValueError, match=message):
        fit(module, streams, epochs=epochs)


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # this data has no validation stream
def test_a_fast_dev_run_is_no_search_and_decides_nothing() -> None:
    module, streams = tuned()
    fit(module, streams, epochs=1, fast_dev_run=True)
    assert int(module.sampler.picked.max()) == -1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"train_epochs": 0}, "train_epochs must be at least 1; got 0", id="train"),
        pytest.param({"tune_epochs": -1}, "tune_epochs must not be negative; got -1", id="tune"),
        pytest.param({"tune_lr": 0.0}, "tune_lr must be above 0; got 0.0", id="rate"),
        pytest.param({"metric": "acc"}, r"one of \('accuracy', 'loss'\); got 'acc'", id="metric"),
        pytest.param({"batches": 0}, "batches must be at least 1; got 0. None takes all", id="batches"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DARTSPT(PlantedSupernet(), **options)
