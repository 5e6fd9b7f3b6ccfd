"""Strategies that grow networks, on losses that need no training: the fewer parameters are missing, the better."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from oneshot.discrete import (
    LEMONADE,
    NASH,
    Evaluator,
    LargeScaleEvolution,
    MorphismRecord,
    NetAdapt,
    Proposal,
    RandomGraphs,
    Result,
    SearchStrategy,
    Study,
    plain_graph,
    replay,
)
from oneshot.discrete.graphs.approximate import prune
from oneshot.discrete.strategies.lemonade import BANDWIDTH, log_params, rarity
from oneshot.discrete.strategies.morphing import MorphismSearch
from oneshot.supernets import SearchSpace
from oneshot.testing.strategies import StrategyContract

SHAPE, CLASSES = (1, 8, 8), 4
START = plain_graph((4, 8))
WANTED = 20_000  # parameters, where losses are least


def params(strategy: MorphismSearch, proposal: Proposal) -> float:
    return math.exp(log_params(strategy.network(proposal.config)))


class GraphContract(StrategyContract):
    """The contract of strategies, for architectures without end."""

    evaluations = 60

    def loss(self, proposal: Proposal) -> tuple[float, ...]:
        network = RandomGraphs(START, SHAPE, CLASSES).network(proposal.config)
        size = math.exp(log_params(network))
        return abs(math.log(size) - math.log(WANTED)) + 0.01 * (proposal.number % 3), size

    def test_proposals_are_canonical_and_repeated_only_by_strategies_that_say_so(self) -> None:
        strategy = self.build(self.space, 0)
        for proposal in self.run(strategy, 15):
            assert strategy.network(proposal.config).config == proposal.config  # type: ignore[attr-defined]

    def best(self, strategy: SearchStrategy) -> float:
        """Least loss of a run; how far the number of parameters is from the one that is looked for."""
        return min(abs(math.log(params(strategy, p)) - math.log(WANTED)) for p in self.run(strategy, self.evaluations))  # type: ignore[arg-type]

    def test_it_is_better_than_random_search(self) -> None:
        """Which draws as many morphisms from the same start, and does not look at the losses."""
        ours = [self.best(self.build(self.space, seed)) for seed in range(3)]
        random = [self.best(RandomGraphs(START, SHAPE, CLASSES, steps=4, seed=seed)) for seed in range(3)]
        assert np.mean(ours) < 0.6 * np.mean(random)

    def test_traces_make_the_proposed_network_from_the_parents(self) -> None:
        strategy = self.build(self.space, 2)
        asked = {proposal.number: proposal for proposal in self.run(strategy, 15)}
        traced = [proposal for proposal in asked.values() if proposal.trace]
        assert len(traced) > 5
        for proposal in traced:
            assert proposal.parent is not None and proposal.parent < proposal.number
            parent = strategy.network(asked[proposal.parent].config)  # type: ignore[attr-defined]
            records = [MorphismRecord.from_dict(step) for step in proposal.trace]
            assert replay(parent, records, torch.randn(8, *SHAPE)).config == proposal.config


class TestRandomGraphs(GraphContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return RandomGraphs(START, SHAPE, CLASSES, steps=4, seed=seed)

    def test_it_is_better_than_random_search(self) -> None:
        """It is random search: whatever it is told, it proposes the same."""
        runs = []
        for sign in (1, -1):
            strategy = self.build(self.space, 0)
            asked = []
            for _ in range(10):
                (proposal,) = strategy.ask()
                asked.append(proposal)
                strategy.tell(Result(proposal.number, (sign * self.loss(proposal)[0], 1.0)))
            runs.append(asked)
        assert runs[0] == runs[1] and len({proposal.config for proposal in runs[0]}) == 10

    def test_traces_make_the_proposed_network_from_the_parents(self) -> None:
        """There are no parents: every network is trained from scratch."""
        assert all(p.parent is None and not p.trace for p in self.run(self.build(self.space, 2), 15))


class TestLEMONADE(GraphContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return LEMONADE([START, (4, 4), (8, 4), *[(4,)] * 4], SHAPE, CLASSES, children=6, accepted=2, seed=seed)


class TestLargeScaleEvolution(GraphContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return LargeScaleEvolution(START, SHAPE, CLASSES, population=8, seed=seed)


def climb(strategy: NASH, n: int, loss: Any) -> list[Proposal]:
    asked = []
    while len(asked) < n and (proposals := strategy.ask(100)):
        for proposal in proposals:
            strategy.tell(Result(proposal.number, loss(proposal)))
        asked += proposals
    return asked


def test_nash_trains_the_unchanged_network_among_its_neighbours_and_goes_on_from_the_best() -> None:
    strategy = NASH(START, SHAPE, CLASSES, steps=2, neighbours=4, morphisms=2, final_epochs=9, seed=1)
    asked = climb(strategy, 100, lambda p: (-params(strategy, p),))

    assert [p.fidelity for p in asked] == [20, *[17] * 8, 9]
    first, second = asked[1:5], asked[5:9]
    for group in (first, second):
        unchanged, *others = group
        (parent,) = {p.parent for p in group}
        assert unchanged.config == strategy.observed[parent][0].config and not unchanged.trace
        assert all(len(p.trace) == 2 for p in others)
    best = max(first, key=lambda p: params(strategy, p))
    assert second[0].parent == best.number
    assert asked[-1].parent == max(second, key=lambda p: params(strategy, p)).number
    assert not strategy.ask(), "and that is the end"


def test_nash_keeps_the_network_if_no_morphism_was_better() -> None:
    strategy = NASH(START, SHAPE, CLASSES, steps=3, neighbours=3, morphisms=1, final_epochs=0, seed=0)
    asked = climb(strategy, 100, lambda p: (params(strategy, p),))
    assert {p.config for p in asked if not p.trace} == {START.config}


def test_nash_goes_on_where_neighbours_failed() -> None:
    strategy = NASH(START, SHAPE, CLASSES, steps=2, neighbours=3, morphisms=1, final_epochs=1, seed=0)
    asked = climb(strategy, 100, lambda p: None if p.trace else (1.0,))
    assert len(asked) == 1 + 3 + 3 + 1


def test_nash_trains_its_network_for_long_where_no_morphism_fits() -> None:
    strategy = NASH(START, SHAPE, CLASSES, steps=2, neighbours=3, max_params=1, final_epochs=9)
    asked = climb(strategy, 100, lambda p: (1.0,))
    assert [p.fidelity for p in asked] == [20, 17, 17, 9], "every step has the unchanged network only"


class Weights(Evaluator):
    """Weights of proposals, of which children need those of their parents."""

    metrics = ("error",)

    def __init__(self, error: Any) -> None:
        self.error, self.kept = error, set[int]()

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        assert proposal.parent is None or proposal.parent in self.kept, "no weights to begin with"
        self.kept.add(proposal.number)
        return {"error": self.error(proposal)}


def test_every_parent_in_large_scale_evolution_has_weights_of_its_own() -> None:
    strategy = LargeScaleEvolution(START, SHAPE, CLASSES, population=6, keep=0, reset=0.3, seed=1)
    study = Study(strategy, Weights(lambda p: 1 / (1 + p.number)), ["min error"], evaluations=12).run()
    assert all(record.result.failure is None for record in study.records)
    assert not any(record.repeated for record in study.records), "new weights are another training"


def test_the_best_of_a_study_is_what_its_strategy_was_after() -> None:
    nash = NASH(START, SHAPE, CLASSES, steps=1, neighbours=2, morphisms=1, final_epochs=0)
    study = Study(nash, Weights(lambda p: 1 / (1 + p.number)), ["min error"], evaluations=9).run()
    assert study.best.proposal.number == 2, "not the start, although it was trained for more epochs"

    pruning = NetAdapt(plain_graph((8, 8)), SHAPE, CLASSES, target=10_000, reduction=0.3)
    study = Study(pruning, Weights(lambda p: 0.1 + 0.01 * p.number), ["min error"], evaluations=99)
    best = study.run().best.proposal
    assert best.fidelity == 20 and best.number > 0
    assert pruning.cost(pruning.network(best.config)) <= 10_000, "not the start, although it has less error"


def test_lemonades_population_is_the_front() -> None:
    strategy = LEMONADE([(4, 8), (8, 8)], SHAPE, CLASSES, children=6, accepted=3, seed=0)
    told = {}
    for _ in range(25):
        (proposal,) = strategy.ask()
        told[proposal.number] = (1 / params(strategy, proposal) + (proposal.number % 4), params(strategy, proposal))
        strategy.tell(Result(proposal.number, told[proposal.number]))
    for _, values in strategy.population:
        assert not any(a <= values[0] and b <= values[1] and (a, b) != values for a, b in told.values())
    assert len(strategy.population) > 3
    parents = {p.parent for p, _ in strategy.observed.values()} - {None}
    assert len(parents) > 1


@pytest.mark.parametrize(("children", "fails"), [(1, False), (2, False), (3, True)])
def test_lemonade_does_not_end_because_a_generation_was_known(children: int, fails: bool) -> None:
    for seed in range(3):
        strategy = LEMONADE([(4,)], SHAPE, CLASSES, children=children, accepted=1, seed=seed)
        for number in range(80):
            (proposal,) = strategy.ask()
            values = None if fails and number else (1.0 / (1 + number % 7), float(number % 7))
            strategy.tell(Result(proposal.number, values))


def test_lemonade_ends_where_no_morphism_fits() -> None:
    strategy = LEMONADE(START, SHAPE, CLASSES, children=2, accepted=1, operators=("widen",), max_params=10, seed=0)
    (proposal,) = strategy.ask()
    strategy.tell(Result(proposal.number, (1.0, 1.0)))
    assert not strategy.ask()


def test_lemonade_asks_without_building_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("a layer was built")

    monkeypatch.setattr("oneshot.discrete.graphs.network._module", refuse)
    strategy = LEMONADE(START, SHAPE, CLASSES, children=4, accepted=2, seed=0)
    for _ in range(6):
        (proposal,) = strategy.ask()
        strategy.tell(Result(proposal.number, (1.0 / (1 + proposal.number), 1.0)))


@pytest.mark.parametrize(
    ("density", "of_parents", "of_children"),
    [("both", True, True), ("parents", True, False), ("children", False, True), ("none", False, False)],
)
def test_the_density_decides_about_parents_and_children_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, density: Any, of_parents: bool, of_children: bool
) -> None:
    """In its place stands a rule that always takes what costs most."""
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def the_largest(known: np.ndarray, points: np.ndarray) -> np.ndarray:
        seen.append((known[:, 0], points[:, 0]))
        return np.eye(len(points))[points[:, 0].argmax()]

    monkeypatch.setattr("oneshot.discrete.strategies.lemonade.rarity", the_largest)
    strategy = LEMONADE([(4,), (4, 8), (8, 16)], SHAPE, CLASSES, children=8, accepted=1, density=density, seed=0)
    for proposal in strategy.ask(3):
        strategy.tell(Result(proposal.number, (1.0 / params(strategy, proposal), params(strategy, proposal))))
    population = sorted(log_params(strategy.network(p.config)) for p, _ in strategy.population)
    assert len(population) == 3
    parents = set()
    for _ in range(5):
        seen.clear()
        (child,) = strategy._generation()
        parents.add(child["parent"])
        assert len(seen) == of_parents + of_children
        assert all(sorted(known) == pytest.approx(population) for known, _ in seen), "the density of the population"
        if of_parents:
            assert sorted(seen[0][1]) == pytest.approx(population)
        if of_children:
            cost = log_params(strategy.network(child["config"]))
            assert cost == pytest.approx(max(seen[-1][1])) and len(seen[-1][1]) > 1
    assert parents == {2} if of_parents else len(parents) > 1


def test_children_are_drawn_where_the_population_is_thin_and_not_where_few_children_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All children but one are far from the population: rare there, and a crowd among themselves."""
    strategy = LEMONADE([(4,), (4, 4), (8, 4)], SHAPE, CLASSES, children=20, accepted=1, seed=0)
    for proposal in strategy.ask(3):
        strategy.tell(Result(proposal.number, (1.0 / params(strategy, proposal), params(strategy, proposal))))
    population = {proposal.config for proposal, _ in strategy.population}
    assert len(population) == 3
    near: list[Any] = []

    def cost(config: Any) -> np.ndarray:
        if config not in population and not near:
            near.append(config)  # the first child that is weighed costs what the population does
        return np.array([0.0 if config in population or config in near else 3.0])

    monkeypatch.setattr(strategy, "_cost", cost)
    drawn = 0
    for _ in range(30):
        near.clear()
        (child,) = strategy._generation()
        drawn += child["config"] in near
    assert drawn <= 3, "by the density of the children it would be about half of them"


def test_chances_are_one_over_the_kernel_density() -> None:
    rng = np.random.default_rng(0)
    known, points = rng.normal(size=(30, 1)), rng.normal(size=(10, 1))
    # an independent estimate, in float64: SciPy's with Scott's factor and the population's standard deviation
    spread = known.std()
    estimate = scipy.stats.gaussian_kde(
        known.T / spread, bw_method=lambda k: k.scotts_factor() / (known / spread).std(ddof=1)
    )
    expected = 1 / estimate(points.T / spread)
    np.testing.assert_allclose(rarity(known, points), expected / expected.sum(), rtol=1e-9)
    wrong = -estimate.logpdf(points.T / spread)
    wrong = wrong - wrong.min()
    assert not np.allclose(rarity(known, points), wrong / wrong.sum(), rtol=1e-2), "minus the logarithm is no chance"


def test_a_population_of_equal_costs_is_no_division_by_zero() -> None:
    chances = rarity([[5.0, 1.0]] * 3, [[5.0, 1.0], [9.0, 1.0]])
    assert np.isfinite(chances).all() and chances[1] > chances[0]
    apart = rarity([[5.0], [5.0]], [[5.0], [5.0 + 1e3], [5.0 + 1e6]])
    assert np.isfinite(apart).all() and apart[0] < 1e-9, "far from everything no density is left, and none is nan"


def test_the_kernels_of_a_large_population_have_the_least_width() -> None:
    known, points = np.random.default_rng(0).normal(size=(200_000, 1)), np.array([[0.0], [1.0], [2.0]])

    def chances(width: float) -> np.ndarray:
        density = np.exp(-(((points - known.T) / known.std() / width) ** 2) / 2).mean(1)
        return (1 / density) / (1 / density).sum()

    found = rarity(known, points)
    np.testing.assert_allclose(found, chances(BANDWIDTH), rtol=1e-9)
    assert not np.allclose(found, chances(200_000 ** (-1 / 5)), rtol=1e-4), "Scott's rule is narrower"


def test_the_worse_of_two_dies() -> None:
    strategy = LargeScaleEvolution(START, SHAPE, CLASSES, population=3, keep=0, reset=0, seed=0)
    for proposal in strategy.ask(3):
        strategy.tell(Result(proposal.number, (float(proposal.number),)))
    (mutant,) = strategy.ask()
    alive = {member.number for _, member in strategy._alive}
    assert len(alive) == 2 and mutant.parent in alive
    assert mutant.trace and 0 in alive, "the best never loses"


def test_netadapt_prunes_to_its_target_step_by_step() -> None:
    strategy = NetAdapt(
        plain_graph((16, 16)), SHAPE, CLASSES, target=0.5, cost=lambda net: log_params(net) - 7, reduction=0.3, seed=0
    )
    first = strategy.cost(strategy.network(strategy.start[0].config))
    costs, loss = [first], {}
    while proposals := strategy.ask(50):
        for proposal in proposals:
            loss[proposal.number] = 1.0 / params(strategy, proposal)
            strategy.tell(Result(proposal.number, (loss[proposal.number],)))
        assert strategy.current is not None
        costs.append(strategy.current[1])
    assert all(later <= earlier for earlier, later in pairwise(costs))
    assert costs[-1] <= 0.5 < first
    last = max(strategy.observed.values(), key=lambda pair: pair[0].number)[0]
    assert last.fidelity == 20 and last.parent is not None and not last.trace
    assert strategy.best == last, "not the network to begin with, which has the least error"


@pytest.mark.parametrize(("choose", "chosen"), [("accuracy", 1), ("ratio", 2)])
def test_netadapt_chooses_by_accuracy_or_by_what_accuracy_costs(choose: Any, chosen: int) -> None:
    strategy = NetAdapt(plain_graph((16, 16, 16)), SHAPE, CLASSES, target=1000, choose=choose, reduction=0.02)
    (start,) = strategy.ask()
    strategy.tell(Result(start.number, (0.1,)))
    first, second, *_ = strategy.ask(3)
    for number, loss, saved in ((first.number, 0.2, 1.0), (second.number, 0.3, 100.0)):
        strategy._cost_of[number] = strategy.current[1] - saved  # type: ignore[index]
        strategy.tell(Result(number, (loss,)))
    for proposal in list(strategy.pending.values()):
        strategy.tell(Result(proposal.number, None))
    assert strategy.current is not None and strategy.current[2].number == chosen


def test_netadapt_chooses_by_the_loss_that_was_added_and_not_by_the_loss() -> None:
    """0.1 for 10 units saved is less a unit than 0.2 for 15; with all of the loss it would be 0.6 / 10 and 0.7 / 15."""
    strategy = NetAdapt(plain_graph((16, 16, 16)), SHAPE, CLASSES, target=1000, reduction=0.02)
    (start,) = strategy.ask()
    strategy.tell(Result(start.number, (0.5,)))
    assert strategy.current is not None
    first, second, *_ = strategy.ask(3)
    for proposal, saved in ((first, 10.0), (second, 15.0)):
        strategy._cost_of[proposal.number] = strategy.current[1] - saved
    strategy.tell(Result(first.number, (0.6,)))
    strategy.tell(Result(second.number, (0.7,)))
    for proposal in list(strategy.pending.values()):
        strategy.tell(Result(proposal.number, None))
    assert strategy.current[2] == first


def test_netadapt_takes_as_few_filters_as_save_the_share_of_each_step() -> None:
    """Every number of filters is tried; the first step saves the share, the second one ``decay`` times as much."""
    reduction, decay = 0.1, 0.5
    graph = plain_graph((16, 16, 16))
    strategy = NetAdapt(graph, SHAPE, CLASSES, target=1.0, reduction=reduction, decay=decay, choose="accuracy")
    (start,) = strategy.ask()
    strategy.tell(Result(start.number, (0.5,)))
    first = strategy.cost(strategy.network(graph.config))
    for step in range(3):
        assert strategy.current is not None
        _, cost, best = strategy.current
        network, goal = strategy.network(best.config), cost - reduction * first * decay**step
        expected = {}
        for node in network.graph.nodes:
            if node.op == "conv":
                costs = [strategy.cost(prune(network, node.name, count=n)) for n in range(1, node.channels)]
                enough = [n for n, lower in enumerate(costs, 1) if lower <= goal]
                if enough:
                    expected[node.name] = enough[0]
        proposals = strategy.ask(50)
        taken = [dict(record["arguments"]) for proposal in proposals for record in proposal.trace]
        assert {record["node"]: record["count"] for record in taken} == expected
        assert max(expected.values()) > 1, "one filter less is not enough everywhere"
        for proposal in proposals:
            strategy.tell(Result(proposal.number, (float(proposal.number),)))


class Memory(Evaluator):
    """Has too little of it for some."""

    metrics = ("error",)

    def __init__(self, fits: Any) -> None:
        self.fits = fits

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        if not self.fits(proposal):
            raise MemoryError(f"no memory for {proposal.number}")
        return {"error": 0.1}


def test_netadapt_trains_for_long_what_it_has_where_a_whole_step_fails() -> None:
    for last in (0, 1):  # steps that succeed
        pruning = NetAdapt(plain_graph((16, 16)), SHAPE, CLASSES, target=1000)
        fits = Memory(lambda p, last=last: not p.trace or p.number <= last)
        study = Study(pruning, fits, ["min error"], evaluations=60, retries=0).run()
        *pruned, final = study.evaluated
        assert len({record.proposal.config for record in pruned}) == len(pruned) < 10, "none is tried again"
        assert final.proposal.parent == last and final.proposal.fidelity == 20 and not final.proposal.trace
        assert study.best.proposal == final.proposal


def test_large_scale_evolution_begins_again_where_its_starts_failed() -> None:
    strategy = LargeScaleEvolution(START, SHAPE, CLASSES, population=4, keep=0, reset=0)
    fits = Memory(lambda p: p.number not in (1, 2, 3, 4, 8, 9, 10))
    study = Study(strategy, fits, ["min error"], evaluations=25, retries=0).run()
    assert len(study.evaluated) == 25 and len(strategy._alive) + len(strategy.pending) <= 4
    assert [record.proposal.parent for record in study.evaluated[:6]] == [None] * 6
    assert study.evaluated[6].proposal.trace


@pytest.mark.parametrize("build", [NASH, lambda *args: NetAdapt(*args, target=1000)], ids=["nash", "netadapt"])
def test_a_study_says_why_a_search_is_over_whose_start_failed(build: Any) -> None:
    strategy = build(plain_graph((16, 16)), SHAPE, CLASSES)
    study = Study(strategy, Memory(lambda p: False), ["min error"], evaluations=9).run()
    assert len(study.evaluated) == 1
    with pytest.raises(RuntimeError, match="No evaluation has succeeded yet; failures: MemoryError: no memory for 0"):
        study.best  # noqa: B018


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: RandomGraphs([], SHAPE, CLASSES), "must begin with at least one network", id="no start"),
        pytest.param(
            lambda: RandomGraphs((4, 8), SHAPE, CLASSES), "each a graph or a list of filters; got 4", id="int"
        ),  # type: ignore[arg-type]
        pytest.param(lambda: RandomGraphs(START, SHAPE, CLASSES, steps=0), "got steps=0", id="no steps"),
        pytest.param(lambda: NASH(START, SHAPE, CLASSES, neighbours=1), "2 neighbours", id="nash"),
        pytest.param(lambda: NASH([(4,), (8,)], SHAPE, CLASSES), "NASH must begin with one network; got 2", id="two"),
        pytest.param(
            lambda: NetAdapt([(4,), (8,)], SHAPE, CLASSES, target=1),
            "NetAdapt must begin with one network",
            id="two there",
        ),
        pytest.param(
            lambda: LEMONADE(START, SHAPE, CLASSES, accepted=9, children=3),
            "accepted from 1 to children; .*accepted=9",
            id="lemonade",
        ),
        pytest.param(lambda: LEMONADE(START, SHAPE, CLASSES, density="x"), "density must be 'both'", id="density"),  # type: ignore[arg-type]
        pytest.param(lambda: LargeScaleEvolution(START, SHAPE, CLASSES, population=1), "at least 2", id="population"),
        pytest.param(
            lambda: LargeScaleEvolution(START, SHAPE, CLASSES, keep=0.9, reset=0.2), "at most 1 together", id="p"
        ),
        pytest.param(
            lambda: NetAdapt(START, SHAPE, CLASSES, target=1e9), "must be below that of the start", id="target"
        ),
        pytest.param(lambda: NetAdapt(START, SHAPE, CLASSES, target=1e3, decay=2), "decay above 0", id="decay"),
        pytest.param(lambda: NetAdapt(START, SHAPE, CLASSES, target=1e3, epochs=0), "at least one epoch", id="epochs"),
    ],
)
def test_bad_arguments_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
