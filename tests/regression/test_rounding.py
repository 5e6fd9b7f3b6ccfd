"""Measurements that a coarse clock has rounded, against numerical integration in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from oneshot.regression.rounding import VAGUE, interval_site, rounding_step, truncated_normal

LOW = np.array([-1.0, 2.0, 0.0, -9.0, 30.0])
HIGH = np.array([0.5, 2.25, 40.0, -8.0, 31.0])
MEAN = np.array([0.2, 3.0, 1.0, 1.0, 20.0])
STD = np.array([1.0, 0.5, 2.0, 1.5, 3.0])


def integrated(i: int) -> tuple[float, float]:
    """Mean and variance of the density between the ends, by quadrature."""
    density = norm(MEAN[i], STD[i]).pdf
    high = min(HIGH[i], MEAN[i] + 30 * STD[i])
    mass, first, second = (
        quad(lambda z, n=n: z**n * density(z), LOW[i], high, epsabs=0, epsrel=1e-12)[0] for n in (0, 1, 2)
    )
    return first / mass, second / mass - (first / mass) ** 2


@pytest.mark.parametrize("i", range(len(LOW)))
def test_moments_in_an_interval_are_those_of_the_integral(i: int) -> None:
    mean, variance = truncated_normal(LOW, HIGH, MEAN, STD)
    exact = integrated(i)
    assert mean[i] == pytest.approx(exact[0], rel=1e-9)
    assert variance[i] == pytest.approx(exact[1], rel=1e-6)
    middle = (LOW[i] + HIGH[i]) / 2  # what was read, as if it were exact
    assert middle != pytest.approx(exact[0], rel=1e-3)


def test_an_interval_far_from_what_is_expected_gives_its_nearest_end() -> None:
    mean, variance = truncated_normal(*(np.array([v]) for v in (500.0, 501.0, 0.0, 1.0)))
    assert 500 <= mean[0] < 500.01 and 0 <= variance[0] < 1e-4


@pytest.mark.parametrize("i", range(4))
def test_a_site_times_the_prediction_has_the_moments_of_the_interval(i: int) -> None:
    site, variance = interval_site(LOW, HIGH, MEAN, STD**2)
    exact = integrated(i)
    precision = 1 / variance[i] + 1 / STD[i] ** 2
    assert (site[i] / variance[i] + MEAN[i] / STD[i] ** 2) / precision == pytest.approx(exact[0], rel=1e-9)
    assert 1 / precision == pytest.approx(exact[1], rel=1e-6)
    uniform = (HIGH[i] - LOW[i]) ** 2 / 12  # the usual correction for rounding, which is not the same
    assert variance[i] != pytest.approx(uniform, rel=1e-2)


def test_a_site_of_a_wide_prediction_is_that_of_a_uniform_error() -> None:
    site, variance = interval_site(*(np.array([v]) for v in (3.0, 4.0, 3.7, 1e6)))
    assert site[0] == pytest.approx(3.5, abs=1e-3) and variance[0] == pytest.approx(1 / 12, rel=1e-3)


def test_an_interval_that_says_nothing_weighs_nothing() -> None:
    _, variance = interval_site(*(np.array([v]) for v in (0.0, 10.0, 5.0, 1e-4)))
    assert variance[0] == VAGUE * 100


@pytest.mark.parametrize(
    ("values", "step"),
    [
        pytest.param([31.0, 44.0, 29.0], 1.0, id="whole"),
        pytest.param([30.0, 40.0, 70.0], 10.0, id="tens"),
        pytest.param([0.3, 0.4, 0.9], 0.1, id="tenths"),
        pytest.param([31.21, 44.02, 29.55], 0.0, id="fine"),
        pytest.param([3102.0, 4405.0, 2955.0], 0.0, id="whole but fine"),
        pytest.param([3.0, 4.0], 0.0, id="too few"),
        pytest.param([1 / 3, 0.5, 1 / 7], 0.0, id="no step"),
    ],
)
def test_the_step_of_a_clock_is_found(values: list[float], step: float) -> None:
    assert rounding_step(values) == step
