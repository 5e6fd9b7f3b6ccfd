"""A product of powers of all objectives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from oneshot.discrete import GaussianProcess, GridSearch, MnasNetScalar, Study, TabularEvaluator, WeightedProduct
from oneshot.supernets.space import Choice, SearchSpace

METRICS = {"accuracy": [0.60, 0.75, 0.80, 0.82], "latency": [20.0, 60.0, 90.0, 200.0], "params": [9.0, 5.0, 4.0, 1.0]}
SPACE = SearchSpace("toy", (Choice("op", ("a", "b", "c", "d")),))
TABLE = TabularEvaluator(SPACE, [[0], [1], [2], [3]], METRICS)


def reference(values: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    return -np.exp((np.log(np.abs(values.astype(np.float64))) * exponents).sum(-1))


def test_it_is_minus_the_product_of_powers_of_what_was_measured() -> None:
    rng = np.random.default_rng(0)
    values, exponents = rng.uniform(0.1, 9, (50, 3)) * [-1, 1, -1], np.array([1, -0.3, 0.5])
    ours = [WeightedProduct(exponents)(row) for row in values]
    np.testing.assert_allclose(ours, reference(values, exponents), rtol=1e-12)
    assert not np.allclose(ours, reference(values, -exponents), rtol=1e-3)
    assert not np.allclose(ours, reference(values, exponents[[1, 0, 2]]), rtol=1e-3)


def test_it_orders_as_the_soft_reward_of_mnasnet() -> None:
    rng = np.random.default_rng(1)
    values = np.stack([-rng.uniform(0.5, 0.8, 50), rng.uniform(20, 200, 50)], 1)
    mnasnet = np.array([MnasNetScalar(80.0)(row) for row in values])
    ours = np.array([WeightedProduct((1, -0.07))(row) for row in values])
    np.testing.assert_allclose(ours / mnasnet, 80.0**-0.07, rtol=1e-12)


@pytest.mark.parametrize(("objectives", "exponents", "best"), [
    (["max accuracy", "min latency"], (1, -1), "a"),
    (["max accuracy", "min latency"], (1, -0.07), "c"),
    (["max accuracy", "min latency"], (1, 0), "d"),
    (["max accuracy", "min latency"], (1, -0.2), "b"),
    (["max accuracy", "max params"], (1, 0.5), "a"),
    (["max accuracy", "max params"], (1, 0.1), "c"),
    (["min latency", "max accuracy", "max params"], (0, 1, 0), "d"),
])  # fmt: skip
def test_a_study_finds_the_best_product(objectives: list[str], exponents: tuple[float, ...], best: str) -> None:
    scalar = WeightedProduct(exponents)
    for strategy in (GridSearch(SPACE, scalar=scalar), GaussianProcess(SPACE, initial=2, noisy=True, scalar=scalar)):
        study = Study(strategy, TABLE, objectives, evaluations=4).run()
        assert study.best.proposal.config["op"] == (best,)


def test_an_accuracy_of_zero_is_the_worst_of_all() -> None:
    assert WeightedProduct((1, 0.5))((-0.0, -3.0)) == 0 > WeightedProduct((1, 0.5))((-1e-9, -1e-9))


BAD: dict[str, Callable[[], object]] = {
    r"exponents must be finite numbers, one for each objective; got \[\]": lambda: WeightedProduct(()),
    r"exponents must be finite numbers, one for each objective; got \[1, nan\]": lambda: WeightedProduct([1, np.nan]),
    "there are 2 exponents and 1 objectives. Give one for each": lambda: WeightedProduct((1, 2))((-0.5,)),
    "must not be 0 where its exponent is below 0": lambda: WeightedProduct((1, -1))((-0.5, 0.0)),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()
