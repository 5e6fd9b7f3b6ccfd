"""Neural Architect edits networks by a distribution over edits, and prunes children by what it predicts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from oneshot.discrete import ConstrainedScalar, NeuralArchitect, Result
from oneshot.discrete.strategies.neural_architect import KINDS, NOTHING, Editor, constrained_reward
from oneshot.supernets.nasbench201 import NASBench201Space
from oneshot.supernets.space import Choice, SearchSpace

MIXED = SearchSpace("mixed", (Choice("width", (8, 16)), Choice("op", ("none", "conv", "pool"), rows=2)))


def editor(space: SearchSpace) -> Editor:
    torch.manual_seed(0)
    return Editor(space, 4).double()


@pytest.mark.parametrize("space", [MIXED, NASBench201Space()], ids=lambda s: s.name)
def test_edits_are_a_distribution_over_all_that_change_one_gene(space: SearchSpace) -> None:
    genes = torch.from_numpy(space.sample_matrix(20, 0))
    with torch.no_grad():
        log_probs = editor(space)(genes)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(20, dtype=torch.float64))
    largest = max(space.gene_sizes)
    for row, network in zip(log_probs, genes):
        allowed = {g * largest + v for g, n in enumerate(space.gene_sizes) for v in range(n) if v != network[g]}
        assert set(row.isfinite().nonzero()[:, 0].tolist()) == allowed


def test_an_edit_scales_inserts_or_removes() -> None:
    (kinds,) = editor(MIXED).kinds(torch.tensor([[0, 0, 2]]))  # width 8, no layer, a pooling
    names = [[KINDS[k] if k >= 0 else "-" for k in row] for row in kinds.tolist()]
    assert names == [["-", "scale", "-"], ["-", "insert", "insert"], ["remove", "scale", "-"]]
    assert "skip_connect" in NOTHING


def test_log_probabilities_are_those_of_the_kind_and_of_the_edit_within_it() -> None:
    policy, genes = editor(MIXED), torch.tensor([[0, 0, 2]])
    with torch.no_grad():
        embedded = policy.embedding(genes)
        kind, edits = policy.kind(embedded.mean(1))[0], policy.edit(embedded)[0].flatten()
        ours = policy(genes)[0]
    kinds = policy.kinds(genes)[0].flatten()
    for action in range(9):
        if (k := int(kinds[action])) >= 0:
            within = math.exp(edits[action]) / sum(math.exp(edits[a]) for a in range(9) if kinds[a] == k)
            exact = math.exp(kind[k]) / sum(math.exp(x) for x in kind) * within
            assert math.exp(ours[action]) == pytest.approx(exact, rel=1e-10)
    flat = edits[kinds >= 0].softmax(0)  # no kinds: another distribution
    assert not torch.allclose(ours[kinds >= 0].exp(), flat, rtol=1e-3)


def test_gradients_of_the_policy_are_finite_where_a_kind_has_no_edit() -> None:
    policy = editor(MIXED)
    log_probs = policy(torch.tensor([[0, 0, 0]]))  # there is nothing to remove
    log_probs[log_probs.isfinite()].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in policy.parameters())


def test_the_predictor_learns_to_order_networks_and_the_best_child_is_taken() -> None:
    space = NASBench201Space()
    strategy = NeuralArchitect(space, children=16, initial=16)
    for _ in range(80):
        (proposal,) = strategy.ask()
        strategy.tell(Result(proposal.number, (float((strategy._genes(proposal) != 3).mean()),)))
    genes = torch.from_numpy(space.repair(space.sample_matrix(300, 9)))
    with torch.no_grad():
        predicted = strategy._predicted(genes).numpy()
    truth = (genes.numpy() != 3).mean(1)
    assert np.corrcoef(predicted, truth)[0, 1] > 0.6
    parent = strategy._genes(strategy.best)
    edit, child = strategy._edited(strategy.best.number, parent)
    assert child is not None and edit.action >= 0
    assert not np.array_equal(child, parent)


def test_parents_are_named_if_weights_are_to_be_inherited() -> None:
    for inherit in (False, True):
        strategy = NeuralArchitect(MIXED, initial=2, inherit=inherit)
        for _ in range(6):
            (proposal,) = strategy.ask()
            strategy.tell(Result(proposal.number, (1.0,)))
        parents = [p.parent for p, _ in strategy.observed.values()]
        assert any(parent is not None for parent in parents) == inherit
        assert all(parent is None or parent < number for number, parent in enumerate(parents))


# The reward.


def reference(performance: float, costs: list[float], bounds: list[float], penalty: float) -> float:
    for cost, bound in zip(costs, bounds):
        excess = abs(cost) / abs(bound) if bound > 0 else abs(bound) / abs(cost)
        if excess > 1:
            performance *= math.pow(penalty, excess - 1)
    return performance


def test_every_violated_constraint_multiplies_the_performance() -> None:
    rng = np.random.default_rng(0)
    hard = []
    for _ in range(50):
        costs, bounds = [float(rng.uniform(1, 9)), -float(rng.uniform(50, 200))], [4.0, -100.0]
        ours = constrained_reward(0.9, costs, bounds, penalty=0.8)
        assert ours == pytest.approx(reference(0.9, costs, bounds, 0.8), rel=1e-12)
        hard.append(0.9 if costs[0] <= 4 and costs[1] <= -100 else 0.0)
        assert -ConstrainedScalar(bounds, penalty=0.8)((-0.9, *costs)) == ours
    assert 0.0 in hard and 0.9 in hard  # both sides were tried
    assert constrained_reward(0.9, [4.0, -100.0], [4.0, -100.0]) == 0.9


BAD: dict[str, Callable[[], object]] = {
    "A performance must be at least 0; got -0.5": lambda: constrained_reward(-0.5, [1.0], [1.0]),
    "Every cost must have a bound of its sign": lambda: constrained_reward(0.5, [1.0], [-1.0]),
    r"Every cost must have a bound of its sign.*got costs \[\]": lambda: ConstrainedScalar([1.0])((-0.5,)),
    "bounds other than 0, at least one": lambda: ConstrainedScalar([]),
    "a penalty between 0 and 1": lambda: ConstrainedScalar([1.0], penalty=1.0),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()
