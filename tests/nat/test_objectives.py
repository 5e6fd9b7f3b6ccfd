"""Costs that are minimised, and bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oneshot.cost import AdditiveCost, fit_predictor
from oneshot.cost.bounds import check_reachable
from oneshot.nat import Constraint, Objective
from oneshot.nat.objectives import excesses
from oneshot.supernets import Choice, SearchSpace

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c", "d"), rows=10),))
TABLE = torch.arange(1.0, 5.0).repeat(10, 1)
LATENCY = Objective("latency", model=AdditiveCost(SPACE, {"layer": TABLE}, unit="ms", fixed=2.0))
GENES = SPACE.sample_matrix(50, 0)


def test_a_cost_model_and_a_function_give_the_same() -> None:
    function = Objective("latency", "ms", lambda genes: 2.0 + (genes + 1).sum(1))
    assert np.array_equal(LATENCY.values(GENES), function.values(GENES))
    assert LATENCY.unit == function.unit == "ms"
    assert LATENCY.values(GENES[:0]).shape == (0,)


def test_ten_thousand_architectures_are_one_call() -> None:
    calls = []

    def cost(genes: np.ndarray) -> np.ndarray:
        calls.append(len(genes))
        return genes.sum(1)

    Objective("x", "", cost).values(SPACE.sample_matrix(10_000, 0))
    assert calls == [10_000]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda: Objective("latency"), "'latency' must have a model", id="none"),
        pytest.param(lambda: Objective("latency", model=3.0), "'latency' must have a model", id="number"),  # type: ignore[arg-type]
        pytest.param(
            lambda: Objective("error", model=len),
            "the error is measured in every search, so leave out 'error'",
            id="error",
        ),
        pytest.param(
            lambda: Objective("x", model=len, deviation=-0.1), "must be a share, at least 0; got -0.1", id="wrong"
        ),
        pytest.param(lambda: Constraint(LATENCY, np.nan), "The bound of 'latency' must be finite", id="bound"),
        pytest.param(
            lambda: Constraint(LATENCY, 3.0, probability=1.0),
            "probability of a constraint must be between 0 and 1",
            id="certain",
        ),
        pytest.param(
            lambda: Objective("x", "", lambda g: g).values(GENES), "a finite cost for each of 50", id="matrix"
        ),
        pytest.param(lambda: Objective("x", "", lambda g: g.sum(1) / 0.0).values(GENES), "50 values that", id="inf"),
        pytest.param(
            lambda: LATENCY.check_space(SearchSpace("toy", (Choice("layer", ("a", "b"), rows=10),))),
            "'latency' must be of space 'toy'.*the first that differs",
            id="space",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero|invalid value")
def test_what_is_no_cost_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_a_bound_of_a_learned_cost_holds_with_its_probability() -> None:
    rng = np.random.default_rng(0)
    genes = SPACE.sample_matrix(400, 1)
    measured = LATENCY.values(genes) * rng.normal(1, 0.1, len(genes))
    learned = Objective("latency", model=fit_predictor(SPACE, genes, measured, kind="additive"))
    test = SPACE.sample_matrix(4000, 2)
    truth = LATENCY.values(test) * rng.normal(1, 0.1, len(test))
    for probability in (0.1, 0.5, 0.8, 0.95):
        share = (truth <= learned.upper(test, probability)).mean()
        assert share == pytest.approx(probability, abs=0.05)
    ours, sure = (Constraint(learned, 27.0, probability=p).excess(test) <= 0 for p in (0.5, 0.95))
    assert sure.sum() < 0.7 * ours.sum() and (truth[sure] <= 27.0).mean() > 0.95


def test_exact_costs_know_no_doubt() -> None:
    exact = Constraint(LATENCY, 20.0, probability=0.99)
    assert np.array_equal(exact.excess(GENES) <= 0, LATENCY.values(GENES) <= 20.0)
    assert exact.excess(GENES) == pytest.approx(LATENCY.values(GENES) / 20.0 - 1)
    assert str(exact) == "latency <= 20 ms with probability 0.99"
    assert excesses([], GENES).shape == (50, 0) and excesses([exact, exact], GENES).shape == (50, 2)


def test_what_is_as_wrong_as_its_deviation_keeps_a_bound_with_its_probability() -> None:
    rng = np.random.default_rng(0)
    table = Objective("latency", model=LATENCY.model, deviation=0.1)
    test = SPACE.sample_matrix(4000, 2)
    truth = LATENCY.values(test) * rng.normal(1, 0.1, len(test))
    for probability in (0.1, 0.5, 0.8, 0.95):
        assert (truth <= table.upper(test, probability)).mean() == pytest.approx(probability, abs=0.03)
    assert (truth <= LATENCY.upper(test, 0.95)).mean() < 0.6  # the test can tell that nothing was added
    assert np.array_equal(table.values(test), LATENCY.values(test))


def test_an_infeasible_bound_names_the_smallest_value_there_is() -> None:
    with pytest.raises(ValueError, match=r"<= 11.9 ms; the smallest is 12 ms. Raise .*architecture: layer: (a ?){10}"):
        check_reachable(SPACE, [Constraint(LATENCY, 11.9)])
    check_reachable(SPACE, [Constraint(LATENCY, 12.0)])  # one in a million
    check_reachable(SPACE, [])


def test_the_value_that_is_named_can_be_given_as_the_bound() -> None:
    size = Objective("size", "B", lambda genes: 183_241.0 + genes.sum(1))
    with pytest.raises(ValueError, match=r"the smallest found is 1\.833e\+05 B") as refusal:
        check_reachable(SPACE, [Constraint(size, 1000.0)])
    named = float(str(refusal.value).split("found is ")[1].split()[0])
    check_reachable(SPACE, [Constraint(size, named)])
    assert float(f"{183_241.0:.4g}") < 183_241.0  # rounded to the nearest it could not


def test_bounds_that_contradict_each_other_name_the_nearest() -> None:
    slowness = Objective("room", "", lambda genes: 40.0 - genes.sum(1))
    both = [Constraint(LATENCY, 20.0), Constraint(slowness, 20.0)]  # at most 8 steps up, at least 20
    with pytest.raises(ValueError, match=r"latency <= 20 ms and room <= 20 at once.*latency 2\d(\.\d+)? ms, room 2"):
        check_reachable(SPACE, both)
