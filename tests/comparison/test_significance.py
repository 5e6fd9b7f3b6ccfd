"""What differences are worth, against independent implementations in float64."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from oneshot.comparison.significance import (
    Difference,
    compare_pairs,
    holm,
    paired_interval,
    paired_p,
    seeds_needed,
)

D = [0.012, 0.034, -0.004, 0.021, 0.009]  # of five seeds


def exact_interval(d: list[float]) -> tuple[float, float]:
    """Percentiles of the means of all N^N resamples."""
    means = np.array([np.mean(resample) for resample in itertools.product(d, repeat=len(d))], np.float64)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def exact_p(d: list[float]) -> float:
    """Share of all 2^N signs whose mean is as far from 0."""
    means = [abs(sum(s * x for s, x in zip(signs, d))) for signs in itertools.product((1, -1), repeat=len(d))]
    return sum(mean >= abs(sum(d)) - 1e-15 for mean in means) / len(means)


def test_the_interval_is_that_of_all_resamples() -> None:
    low, high = paired_interval(D)
    exact_low, exact_high = exact_interval(D)
    np.testing.assert_allclose([low, high], [exact_low, exact_high], rtol=0, atol=2e-3)  # 9,999 draws
    assert exact_low < np.mean(D) < exact_high
    wrong = np.mean(D) + np.array([-1.96, 1.96]) * np.std(D, ddof=1)  # of one difference, not of their mean
    assert abs(high - wrong[1]) > 0.01


@pytest.mark.parametrize("d", [D, [0.1, 0.2, 0.3], [0.1, -0.1, 0.3, 0.2], [1.0, 1.0]])
def test_the_p_value_is_the_share_of_all_signs(d: list[float]) -> None:
    assert paired_p(d) == pytest.approx(exact_p(d), rel=1e-12)
    one_sided = exact_p(d) / 2
    assert abs(paired_p(d) - one_sided) > 0.01


def test_the_smallest_p_value_follows_from_the_number_of_pairs() -> None:
    for n in range(2, 8):
        assert paired_p(np.arange(1.0, n + 1)) == pytest.approx(2 / 2**n)
    assert paired_p([0.0, 0.0, 0.0]) == 1.0 and paired_interval([0.5, 0.5]) == (0.5, 0.5)


def test_with_many_pairs_signs_are_drawn() -> None:
    rng = np.random.default_rng(0)
    d = rng.normal(0.3, 1, 40)
    from scipy.stats import ttest_1samp

    assert paired_p(d) == pytest.approx(float(ttest_1samp(d, 0).pvalue), abs=0.02)
    assert paired_p(d) == paired_p(d) and paired_p(d + 5) == pytest.approx(1e-4, abs=1e-4)


def unpaired_interval(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The wrong variant: both sides are resampled on their own."""
    rng = np.random.default_rng(0)
    means = rng.choice(a, (9999, len(a))).mean(1) - rng.choice(b, (9999, len(b))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def test_what_a_seed_does_to_both_methods_cancels() -> None:
    seeds = np.array([0.0, 0.1, -0.2, 0.15, -0.1, 0.3])  # one seed is kinder than another, to both
    a, b = 0.8 + seeds + [0.02, 0.03, 0.025, 0.02, 0.03, 0.02], 0.8 + seeds
    values = {name: dict(enumerate(map(float, of))) for name, of in (("a", a), ("b", b))}
    (found,) = compare_pairs(values)
    low, high = unpaired_interval(a, b)
    assert found.low is not None and found.high is not None
    assert 0 < found.low < found.mean < found.high < 0.031 and found.significant
    assert found.p == pytest.approx(2 / 64) and low < 0 < high and high - low > 0.2


def holm_by_definition(p_values: list[float]) -> list[float]:
    """Reject hypotheses in the order of p while p <= alpha / (m - i); the least alpha at which each is rejected."""
    m, found = len(p_values), []
    order = sorted(range(m), key=lambda i: p_values[i])
    for place in range(m):
        rank = order.index(place)
        found.append(min(1.0, max(p_values[order[i]] * (m - i) for i in range(rank + 1))))
    return found


def test_holms_correction_is_that_of_its_definition() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005, 0.9]
    ours = holm(p_values)
    np.testing.assert_allclose(ours, holm_by_definition(p_values), rtol=1e-12, atol=0)
    np.testing.assert_allclose(ours, [0.04, 0.09, 0.09, 0.025, 0.9], rtol=1e-12, atol=0)
    assert ours != [min(1.0, 5 * p) for p in p_values]  # Bonferroni
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"in \[0, 1\]; got 1.5"):
        holm([0.1, 1.5])


def test_pairs_are_of_the_seeds_that_both_have() -> None:
    values = {"a": {0: 1.0, 1: 2.0, 2: 4.0}, "b": {1: 1.0, 2: 1.0, 3: 9.0}, "c": {7: 1.0}}
    (found,) = compare_pairs(values)
    assert (found.first, found.second, found.seeds, found.mean) == ("a", "b", 2, 2.0)
    assert found.p == 0.5 == found.adjusted and not found.significant
    assert compare_pairs({"a": {0: 1.0}, "b": {0: 3.0}}) == [Difference("a", "b", 1, -2.0)]


def test_a_baseline_means_fewer_comparisons() -> None:
    rng = np.random.default_rng(0)
    values = {name: {seed: float(rng.random()) for seed in range(4)} for name in "abcd"}
    assert len(compare_pairs(values)) == 6
    against = compare_pairs(values, baseline="c")
    assert [(d.first, d.second) for d in against] == [("a", "c"), ("b", "c"), ("d", "c")]
    with pytest.raises(ValueError, match="must be one of a, b, c, d; got 'e'"):
        compare_pairs(values, baseline="e")


def test_the_fewest_seeds_are_those_with_which_the_smallest_p_passes() -> None:
    for comparisons in (1, 2, 3, 6, 10, 66):
        needed = seeds_needed(comparisons)
        assert comparisons * 2 / 2**needed < 0.05 <= comparisons * 2 / 2 ** (needed - 1)


def test_fewer_than_two_pairs_are_refused() -> None:
    for d in ([0.1], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="two or more paired differences, all finite"):
            paired_p(d)
        with pytest.raises(ValueError, match="two or more paired differences, all finite"):
            paired_interval(d)
