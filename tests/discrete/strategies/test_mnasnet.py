"""MnasNet weighs accuracy against latency."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from oneshot.discrete import MnasNet, MnasNetScalar, Study, TabularEvaluator
from oneshot.discrete.strategies.mnasnet import HARD, SOFT, mnasnet_reward
from oneshot.supernets.space import Choice, SearchSpace


def reference(accuracy: float, latency: float, target: float, alpha: float, beta: float) -> float:
    weight = alpha if latency <= target else beta
    return float(np.float64(accuracy) * np.exp(weight * np.log(np.float64(latency) / np.float64(target))))


@pytest.mark.parametrize("exponents", [SOFT, HARD, (-0.1, -0.5)])
def test_the_reward_is_accuracy_times_a_power_of_the_latency(exponents: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    wrong = []
    for accuracy, latency in zip(rng.uniform(50, 80, 30), rng.uniform(20, 200, 30)):
        ours = mnasnet_reward(accuracy, latency, 80.0, exponents=exponents)
        assert ours == pytest.approx(reference(accuracy, latency, 80.0, *exponents), rel=1e-12)
        wrong.append(ours != pytest.approx(reference(accuracy, 80.0, latency, *exponents), rel=1e-3))  # T / LAT
        wrong.append(ours != pytest.approx(reference(accuracy, latency, 80.0, *exponents[::-1]), rel=1e-3))
    assert any(wrong)
    assert mnasnet_reward(70.0, 80.0, 80.0, exponents=exponents) == 70.0


def test_twice_the_latency_is_worth_five_percent_of_accuracy() -> None:
    """What the paper chose -0.07 for (section 3.1)."""
    assert mnasnet_reward(0.75 * 1.05, 160.0, 80.0) == pytest.approx(0.75, rel=0.002)


def test_the_hard_reward_does_not_care_below_the_target_and_halves_at_twice_it() -> None:
    assert mnasnet_reward(0.7, 10.0, 80.0, exponents=HARD) == 0.7
    assert mnasnet_reward(0.7, 160.0, 80.0, exponents=HARD) == pytest.approx(0.35)


@pytest.mark.parametrize(("exponents", "best"), [(HARD, "b"), ((-1.0, -1.0), "a")])
def test_a_study_of_two_objectives_finds_the_best_reward_and_keeps_the_raw_values(
    exponents: tuple[float, float], best: str
) -> None:
    space = SearchSpace("toy", (Choice("op", ("a", "b", "c")),))
    table = TabularEvaluator(space, [[0], [1], [2]], {"accuracy": [60.0, 75.0, 80.0], "latency": [20.0, 60.0, 90.0]})
    strategy = MnasNet.small(space, target=70.0, exponents=exponents)
    study = Study(strategy, table, ["max accuracy", "min latency"], evaluations=3).run()
    assert strategy.best.config["op"] == (best,)
    assert study.records[strategy.best.number].result.metrics == table(strategy.best)


BAD: dict[str, Callable[[], object]] = {
    "accuracy of at least 0, a latency and a target above 0; got -1": lambda: mnasnet_reward(-1.0, 1.0, 1.0),
    "minus accuracy and latency; got 1": lambda: MnasNetScalar(80.0)((-0.5,)),
    "Give accuracies as objectives to be minimised, so as their negatives": lambda: MnasNetScalar(80.0)((0.5, 1.0)),
    "target of the latency must be above 0, in its unit; got 0": lambda: MnasNetScalar(0),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()
