"""Children begin as what their parents have learned; a child that is trained from new weights is the usual mistake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneshot.data import Digits
from oneshot.discrete import (
    LEMONADE,
    NASH,
    Evaluator,
    Proposal,
    Result,
    Study,
    TrainingEvaluator,
    plain_graph,
)
from oneshot.discrete.graphs.morphism import EXACT_OPERATORS
from oneshot.discrete.strategies.morphing import MorphismSearch
from oneshot.evaluation.images import joined
from oneshot.supernets import Subnet

SHAPE, START = (1, 8, 8), plain_graph((16, 32))


def loss(network: Subnet, evaluator: TrainingEvaluator) -> float:
    """Mean cross-entropy of the validation images, nats."""
    x, y = joined(evaluator.data.val_dataloader())
    with torch.no_grad():
        return float(F.cross_entropy(network.eval()(x).double(), y))


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> TrainingEvaluator:
    """One that has trained the start, as number 0."""
    data = Digits(val_fraction=0.2, batch_size=32, seed=0)
    evaluator = TrainingEvaluator(data, tmp_path_factory.mktemp("weights"), epochs=6)
    evaluator(Proposal(0, START.config))
    return evaluator


def children(strategy: MorphismSearch, count: int) -> list[Proposal]:
    """The first children that a strategy proposes for the start."""
    (start,) = strategy.ask()
    strategy.tell(Result(start.number, (0.1, 1000.0)))
    found: list[Proposal] = []
    while len(found) < count:
        (proposal,) = strategy.ask()
        found.append(proposal)
    return found


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(NASH(START, SHAPE, 10, morphisms=5, operators=EXACT_OPERATORS, seed=0), id="NASH"),
        pytest.param(LEMONADE(START, SHAPE, 10, operators=EXACT_OPERATORS, seed=0), id="LEMONADE"),
    ],
)
def test_a_child_begins_with_the_loss_of_its_parent(strategy: MorphismSearch, evaluator: TrainingEvaluator) -> None:
    before = loss(evaluator.load(0), evaluator)
    assert before < 1.5, "the parent has learned something"
    for proposal in children(strategy, 5):
        assert proposal.parent == 0
        child = evaluator.beginning(proposal)
        assert child.config == proposal.config
        assert loss(child, evaluator) == pytest.approx(before, rel=1e-4, abs=1e-5)
        from_scratch = evaluator.beginning(replace(proposal, parent=None, trace=()))
        assert loss(from_scratch, evaluator) > before + 0.5, "the test can tell them apart"


class Recording(Digits):
    """Remembers the images of every training batch."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[Tensor] = []

    def on_after_batch_transfer(self, batch: Sequence[Tensor], dataloader_idx: int) -> Sequence[Tensor]:
        if self.trainer is not None and self.trainer.training:
            self.seen.append(batch[0].clone())
        return batch


def test_children_of_one_parent_see_the_same_batches_and_others_than_it_saw(tmp_path: Path) -> None:
    data = Recording(val_fraction=0.2, batch_size=256, seed=0)
    evaluator = TrainingEvaluator(data, tmp_path, epochs=1)

    def batches(number: int, parent: int | None) -> Tensor:
        data.seen.clear()
        evaluator(Proposal(number, START.config, parent=parent))
        return torch.stack(data.seen)

    start, child, sibling, grandchild = batches(0, None), batches(1, 0), batches(2, 0), batches(3, 1)
    assert torch.equal(child, sibling)
    assert start.shape == child.shape == grandchild.shape
    assert not torch.equal(start, child) and not torch.equal(child, grandchild)
    assert not torch.equal(start, grandchild)
    assert torch.equal(batches(4, None), start), "networks with new weights see what the data say"


class Improving(Evaluator):
    """Whatever is evaluated later is better."""

    metrics = ("error",)  # type: ignore[assignment]  # a property

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        return {"error": 1 / (1 + proposal.number)}


def test_a_child_of_few_epochs_can_be_the_best_for_it_has_those_of_its_ancestors() -> None:
    strategy = NASH(START, SHAPE, 10, steps=2, neighbours=3, start_epochs=20, epochs=2, final_epochs=0)
    study = Study(strategy, Improving(), ["min error"], evaluations=100).run()
    assert [record.proposal.fidelity for record in study.records] == [20] + 6 * [2]
    assert study.best.proposal.number == 6
