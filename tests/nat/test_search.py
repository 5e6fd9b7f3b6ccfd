"""Ask, tell, resume: the search finds the front and forgets nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from oneshot.fronts.pareto import hypervolume, non_dominated
from oneshot.nat import Constraint, Objective, ParetoSearch
from oneshot.nat.predictor import fit_accuracy
from oneshot.regression.extra import ExtraFeatures
from oneshot.supernets import Choice, DARTSSpace, NASBench201Space, SearchSpace, SubnetConfig, darts_space
from oneshot.supernets.connection import connected

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c", "d"), rows=8),))
RNG = np.random.default_rng(0)
GAIN = RNG.random((8, 4)).cumsum(1)  # larger is better, with diminishing returns
COST = RNG.random((8, 4)).cumsum(1)
SIZE = Objective("size", "MB", lambda genes: look_up(COST, genes))
MEMORY = Objective("memory", "MB", lambda genes: look_up(COST[::-1], genes))


def look_up(table: np.ndarray, genes: np.ndarray) -> np.ndarray:
    return sum((table[g][genes[:, g]] for g in range(8)), np.zeros(len(genes)))


def error(genes: np.ndarray) -> np.ndarray:
    return np.asarray(30.0 - look_up(GAIN, genes) - (genes[:, 0] == genes[:, 1]))


def make(*objectives: Objective, **kwargs: Any) -> ParetoSearch:
    settings: dict[str, Any] = {
        "initial": 30,
        "batch": 6,
        "population": 24,
        "generations": 12,
        "kinds": ["ridge", "gp"],
        "seed": 3,
    }
    return ParetoSearch(SPACE, objectives or [SIZE], **{**settings, **kwargs})


def run(search: ParetoSearch, iterations: int) -> ParetoSearch:
    for _ in range(iterations):
        genes = search.ask()
        search.tell(genes, error(genes))
    return search


def facts(search: ParetoSearch) -> str:
    """All of the state but the clock."""
    state = search.state_dict()
    for iteration in [state["proposal"], *state["history"]]:
        iteration.pop("seconds")
    return json.dumps(state)


def test_the_initial_sample_begins_with_the_smallest_and_the_largest() -> None:
    genes = make().ask()
    assert genes.shape == (30, 8) and len(np.unique(genes, axis=0)) == 30
    assert genes[0].tolist() == [0] * 8 and genes[1].tolist() == [3] * 8
    assert np.array_equal(SPACE.repair(genes), genes)
    given = make(first=np.array([[1] * 8])).ask()
    assert given[0].tolist() == [1] * 8 and len(given) == 30


def test_the_initial_sample_of_a_large_space_reaches_from_the_smallest_costs_to_the_largest() -> None:
    space = SearchSpace("wide", (Choice("layer", ("a", "b", "c", "d"), rows=40),))  # drawn ones have costs around 60
    search = ParetoSearch(space, [Objective("size", "layers", lambda genes: genes.sum(1))], initial=42, kinds=["ridge"])
    costs = np.sort(search.ask().sum(1))
    drawn = space.sample_matrix(4000, 0).sum(1)
    assert drawn.min() > 25 and drawn.max() < 95
    assert costs[1] < 20 and costs[-2] > 100 and np.diff(costs).max() < 20


def test_it_finds_a_better_front_than_random_search() -> None:
    search = run(make(), 8)
    random = np.unique(SPACE.sample_matrix(80, 1), axis=0)[: len(search.archive)]
    values = [search.archive.values, np.column_stack([error(random), SIZE.values(random)])]
    reference = np.concatenate(values).max(0) + 1.0
    ours, theirs = (hypervolume(v, reference) for v in values)
    assert ours > 1.02 * theirs
    best = np.stack([error(every := np.indices((4,) * 8).reshape(8, -1).T), SIZE.values(every)], 1)
    assert ours > 0.96 * hypervolume(best[non_dominated(best)], reference)


def test_nothing_is_asked_twice_and_every_iteration_is_written_down() -> None:
    search = run(make(), 5)
    genes = search.archive.genes
    assert len(np.unique(genes, axis=0)) == len(genes) == 30 + 4 * 6
    assert [i.number for i in search.history] == [0, 1, 2, 3, 4]
    assert [i.evaluations for i in search.history] == [30, 36, 42, 48, 54]
    volumes = [i.hypervolume for i in search.history]
    assert all(a <= b + 1e-12 for a, b in pairwise(volumes)) and 0 < volumes[0] < volumes[-1]
    assert search.history[0].kind is None and search.history[1].kind in ("ridge", "gp")
    assert all(set(i.tau) == {"ridge", "gp"} and i.seconds > 0 for i in search.history[1:])
    front = search.front()
    assert np.array_equal(front, np.flatnonzero(non_dominated(search.archive.values)))


@pytest.mark.parametrize(("stop", "when"), [(0, "asked"), (0, "half"), (1, "told"), (2, "asked"), (2, "half")])
def test_a_resumed_search_goes_on_as_if_nothing_had_happened(stop: int, when: str) -> None:
    first = run(make(), stop)
    if when != "told":
        genes = first.ask()
        if when == "half":
            first.tell(genes[::2], error(genes[::2]))
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    second = make()
    second.load_state_dict(state)
    assert second.state_dict() == first.state_dict()
    while len(second.history) < 4:
        genes = second.ask()
        second.tell(genes, error(genes))
    if when != "half":
        assert facts(second) == facts(run(make(), 4))
        return
    while len(first.history) < 4:  # told in another order, so compared with the one that was not interrupted
        genes = first.ask()
        first.tell(genes, error(genes))
    assert facts(second) == facts(first)


def test_parts_may_be_told_in_any_order_and_are_asked_until_they_are() -> None:
    search = make()
    genes = search.ask()
    search.tell(genes[20:], error(genes[20:]))
    assert np.array_equal(search.ask(), genes[:20]) and not search.history
    search.tell(genes[:20][::-1], error(genes[:20][::-1]))
    assert len(search.history) == 1
    assert len(search.ask()) == 6


def test_what_was_known_before_counts_towards_the_initial_sample() -> None:
    search = make()
    known = np.unique(SPACE.sample_matrix(40, 9), axis=0)[:20]
    search.tell(known, error(known))
    genes = search.ask()
    assert len(genes) == 10 and (search.archive.rows(genes) < 0).all()
    assert genes[0].tolist() == [0] * 8


def test_a_failed_evaluation_is_recorded_and_not_asked_again() -> None:
    search = make()
    genes = search.ask()
    errors = error(genes)
    errors[[0, 5]] = np.nan
    search.tell(genes, errors)
    assert search.history[0].failed == 2 and search.history[0].evaluations == 30
    run(search, 3)
    assert len(np.unique(search.archive.genes, axis=0)) == len(search.archive)
    assert not {0, 5} & set(search.front().tolist())


def test_when_everything_fails_it_goes_on_with_other_samples() -> None:
    search = make()
    for _ in range(2):
        genes = search.ask()
        search.tell(genes, np.full(len(genes), np.nan))
    assert search.history[-1].hypervolume == 0.0 and search.history[-1].failed == 36
    assert len(search.ask()) == 6 and len(search.front()) == 0


def test_the_best_keep_the_constraints_and_those_that_failed_are_not_among_them() -> None:
    search = make(constraints=[Constraint(SIZE, 9.0)])
    genes = search.ask()
    search.tell(genes, np.where(np.arange(len(genes)) == 5, np.nan, error(genes)))
    best, small = search.best(), search.archive.values[:, 1] <= 9.0
    assert sorted(best) == [i for i in range(len(genes)) if i != 5] and not small.all()
    assert small[best].tolist() == sorted(small[best], reverse=True)
    assert set(search.front()) == set(best[: len(search.front())]) and np.array_equal(search.best(7), best[:7])


def test_new_errors_replace_all_and_the_last_hypervolume() -> None:
    search = run(make(), 3)
    before = search.history
    search.update(search.archive.values[:, 0] + 1.0)
    assert search.history[:-1] == before[:-1] and search.history[-1].hypervolume < before[-1].hypervolume
    with pytest.raises(ValueError, match="have as many errors"):
        search.update([1.0])


def test_a_used_up_space_gives_fewer_and_then_none() -> None:
    space = SearchSpace("tiny", (Choice("layer", ("a", "b", "c"), rows=3),))
    search = ParetoSearch(
        space,
        [Objective("size", "", lambda genes: genes.sum(1))],
        initial=12,
        batch=10,
        population=8,
        generations=3,
        kinds=["ridge"],
    )
    sizes = []
    for _ in range(5):
        genes = search.ask()
        sizes.append(len(genes))
        search.tell(genes, -(genes @ [1.0, 2.0, 4.0]))
    assert sizes == [12, 10, 5, 0, 0]
    assert len(search.history) == 3 and len(search.archive) == 27


def test_constraints_hold_for_all_that_is_asked_but_the_ends() -> None:
    bound = Constraint(SIZE, float(np.quantile(SIZE.values(SPACE.sample_matrix(1000, 0)), 0.1)))
    search = run(make(constraints=[bound]), 4)
    sizes = SIZE.values(search.archive.genes)
    assert (sizes[2:] <= bound.at_most).all() and sizes[1] > bound.at_most
    assert 1 not in search.front()
    rare = Constraint(SIZE, float(SIZE.values(np.zeros((1, 8), int))[0]) + 0.5)
    search = make(constraints=[rare])
    genes = search.ask()
    assert (SIZE.values(genes[2:]) <= rare.at_most).all()


@pytest.mark.parametrize("objectives", [(), (SIZE, MEMORY), (SIZE, MEMORY, Objective("depth", "", lambda g: g.max(1)))])
def test_it_works_with_any_number_of_objectives(objectives: tuple[Objective, ...]) -> None:
    search = ParetoSearch(SPACE, objectives, initial=20, batch=4, population=24, generations=5, kinds=["ridge"], seed=0)
    run(search, 3)
    assert search.archive.values.shape == (28, 1 + len(objectives))
    assert search.archive.objectives == ("error", *(o.name for o in objectives))


def test_it_works_in_a_space_with_rules() -> None:
    space: DARTSSpace = darts_space(multiplier=2)
    search = ParetoSearch(
        space,
        [Objective("ops", "", lambda genes: (genes > 0).sum(1))],
        initial=20,
        batch=4,
        population=12,
        generations=3,
        kinds=["ridge"],
    )
    for _ in range(3):
        genes = search.ask()
        assert np.array_equal(space.repair(genes), genes)
        search.tell(genes, genes.sum(1).astype(float))
    assert len(search.archive) == 28


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda s: s.tell(s.archive.genes[:1], [1.0]), "row 0 of the archive", id="known"),
        pytest.param(lambda s: s.tell(s.ask()[:2], [1.0, np.inf]), "1 infinite", id="infinite"),
        pytest.param(lambda s: s.tell(s.ask()[:2], [1.0]), "2 architectures have as many errors", id="length"),
        pytest.param(lambda s: s.tell(s.ask()[[0, 0]], [1.0, 1.0]), "row 1 is row 0", id="twice"),
    ],
)
def test_a_wrong_answer_changes_nothing(call: Any, message: str) -> None:
    search = run(make(), 1)
    search.ask()
    before = search.state_dict()
    with pytest.raises(ValueError, match=message):
        call(search)
    assert search.state_dict() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"population": 3}, "2 objectives needs a population of at least 4", id="population"),
        pytest.param({"initial": 5}, "initial sample of at least 6", id="initial"),
        pytest.param({"batch": 0}, "batch and generations of at least 1", id="batch"),
        pytest.param({"kinds": ["tree"]}, "Accuracy predictors must be of the kinds", id="kind"),
        pytest.param({"constraints": [Constraint(SIZE, 0.1)]}, "the smallest is 3.4 MB", id="infeasible"),
        pytest.param({"first": np.full((1, 8), 9)}, "must be an index below 4", id="first"),
    ],
)
def test_a_search_that_cannot_work_is_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_two_objectives_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct names"):
        make(SIZE, SIZE)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        pytest.param(lambda: make(seed=4), "has the seed 4, the saved one 3", id="seed"),
        pytest.param(lambda: make(MEMORY), "has the objectives", id="objectives"),
        pytest.param(lambda: make(constraints=[Constraint(SIZE, 99.0)]), "has the constraints", id="constraints"),
        pytest.param(lambda: make(Objective("size", "MB", lambda g: g.sum(1))), "costs that the saved", id="costs"),
    ],
)
def test_a_state_of_another_search_is_refused(other: Any, message: str) -> None:
    state = run(make(), 1).state_dict()
    search = other()
    before = search.state_dict()
    with pytest.raises(ValueError, match=message):
        search.load_state_dict(state)
    assert search.state_dict() == before


def test_a_predictor_that_tells_nothing_is_a_warning() -> None:
    search = make(kinds=["ridge"])
    genes = search.ask()
    search.tell(genes, np.full(len(genes), 0.5))
    with pytest.warns(UserWarning, match=r"of iteration 1 tells nothing: its Kendall's tau is 0.00 .* Evaluate more"):
        search.ask()


def test_a_failed_evaluation_teaches_the_predictor_nothing() -> None:
    search = make()
    genes = search.ask()
    errors = error(genes)
    errors[::3] = np.nan
    search.tell(genes, errors)
    search.ask()
    assert search.predictor is not None
    known = np.isfinite(errors)
    seed = int(np.random.default_rng([search.seed, 1]).integers(2**31))
    every = np.indices((4,) * 8).reshape(8, -1).T[::97]

    def predicted(genes: np.ndarray, errors: np.ndarray) -> np.ndarray:
        return fit_accuracy(SPACE, genes, errors, kinds=search.kinds, seed=seed).predict(every)[0]

    ours = search.predictor.predict(every)[0]
    np.testing.assert_array_equal(ours, predicted(genes[known], errors[known]))
    for wrong in (0.0, float(errors[known].mean()), 100.0):
        assert not np.allclose(ours, predicted(genes, np.where(known, errors, wrong)), rtol=1e-3)


class Uncertain:
    """Predicts the same error for all, and is the less sure of it the larger the first gene is."""

    kind, tau = "ridge", {"ridge": 0.5}

    def predict(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(genes), 25.0), genes[:, 0].astype(float)


def test_of_equal_candidates_the_uncertain_one_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    search = run(make(batch=1), 1)
    sure, unsure = np.array([0, 1, 2, 3, 0, 1, 2, 3]), np.array([3, 1, 2, 3, 0, 1, 2, 3])
    assert (search.archive.rows(np.stack([sure, unsure])) < 0).all()
    monkeypatch.setattr("oneshot.nat.search.fit_accuracy", lambda *args, **options: Uncertain())
    for found in ([sure, unsure], [unsure, sure]):
        result = np.stack(found), np.array([[10.0, 3.0]] * 2)  # the same in everything that is known
        monkeypatch.setattr("oneshot.nat.search.evolve", lambda *args, result=result, **options: result)
        candidates = search._candidates(np.random.default_rng(0))
        assert candidates.tolist() == [unsure.tolist()]


class Equal(ExtraFeatures):
    """Whether the first two genes are equal, which additive models do not learn."""

    names = ("equal",)

    def __init__(self) -> None:
        self.asked: list[SubnetConfig] = []

    def __call__(self, configs: Sequence[SubnetConfig]) -> np.ndarray:
        self.asked += configs
        genes = SPACE.encode(configs)
        return (genes[:, :1] == genes[:, 1:2]).astype(float).reshape(-1, 1)


def test_a_search_with_extra_features_predicts_better_and_goes_on() -> None:
    source = Equal()
    whole, plain = run(make(kinds=["ridge"], features=source), 4), run(make(kinds=["ridge"]), 4)
    assert whole.history[-1].tau["ridge"] > plain.history[-1].tau["ridge"] + 0.01
    assert len(source.asked) == len(set(source.asked)) > 100, "also those of the evolution, once"
    first = run(make(kinds=["ridge"], features=Equal()), 2)
    again = make(kinds=["ridge"], features=Equal())
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run(again, 2)
    np.testing.assert_array_equal(again.archive.genes, whole.archive.genes)
    assert not np.array_equal(plain.archive.genes, whole.archive.genes)


def cells_error(space: NASBench201Space, genes: np.ndarray) -> np.ndarray:
    """Chance without an output; less with every convolution on a way."""
    return np.where(connected(space, genes), 50.0 - 3.0 * (genes >= 2).sum(1) - genes.sum(1) / 7, 90.0)


@pytest.mark.parametrize("bound", [None, 4.0], ids=["free", "bounded"])
def test_a_network_whose_output_does_not_read_its_input_is_on_no_front(bound: float | None) -> None:
    space = NASBench201Space()
    edges = Objective("edges", "", lambda genes: (genes != 0).sum(1).astype(float))
    options: dict[str, Any] = {"initial": 20, "batch": 6, "population": 24, "generations": 8, "kinds": ["ridge"]}
    constraints = [] if bound is None else [Constraint(edges, bound)]
    dead = space.repair(np.zeros((1, 6), dtype=np.int64))
    search = ParetoSearch(space, [edges], constraints=constraints, first=dead, **options)
    for _ in range(3):
        genes = search.ask()
        search.tell(genes, cells_error(space, genes))
    archive = search.archive
    living = connected(space, archive.genes)
    assert np.flatnonzero(~living).tolist() == [0], "nothing without an output was asked for, but the first"
    assert living[search.front()].all() and search.best()[-1] == 0
    assert 0 in archive.front(), "by its cost alone it would be on the front"
    again = ParetoSearch(space, [edges], constraints=constraints, first=dead, **options)
    again.load_state_dict(json.loads(json.dumps(search.state_dict())))
    np.testing.assert_array_equal(again.front(), search.front())
    np.testing.assert_array_equal(again.ask(), search.ask())
