from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from oneshot.regression.scores import Agreement, kendall_within


def test_agreement_is_what_its_definitions_say() -> None:
    rng = np.random.default_rng(0)
    measured = rng.uniform(1, 5, 40).round(1)  # with ties
    predicted = measured * rng.normal(1, 0.07, 40)

    agreement = Agreement.of(predicted, measured)

    pairs = [
        ((predicted[i] - predicted[j]) * (measured[i] - measured[j]), measured[i] == measured[j])
        for i, j in combinations(range(40), 2)
    ]
    order = sum(math.copysign(1, product) for product, tie in pairs if not tie)
    untied = sum(not tie for _, tie in pairs)
    rank = [[sum(v < x for v in values) + sum(v == x for v in values) / 2 for x in values] for values in
            (predicted, measured)]  # fmt: skip
    errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    assert agreement.kendall == pytest.approx(order / math.sqrt(untied * len(pairs)))
    assert agreement.spearman == pytest.approx(np.corrcoef(rank)[0, 1])
    assert agreement.rmse == pytest.approx(math.sqrt(sum((predicted - measured) ** 2) / 40))
    assert agreement.within_5 == sum(e <= 0.05 for e in errors) / 40
    assert 0 < agreement.within_5 < agreement.within_10 == sum(e <= 0.1 for e in errors) / 40 < 1
    assert abs(order / len(pairs) - agreement.kendall) > 1e-3  # tau-a, which forgets the ties, is told apart


def test_predictions_that_are_all_the_same_have_no_rank() -> None:
    assert math.isnan(Agreement.of([1, 1, 1], [1, 2, 3]).kendall)


@pytest.mark.parametrize(
    ("predicted", "measured", "message"),
    [
        pytest.param([1, 2], [1, 2, 3], r"shapes \(2,\) and \(3,\)", id="shapes"),
        pytest.param([1], [1], "two or more", id="one"),
        pytest.param([1, float("nan")], [1, 2], "finite", id="nan"),
        pytest.param([1, 2], [0, 2], "above 0", id="zero"),
    ],
)
def test_what_cannot_be_compared_is_refused(predicted: list[float], measured: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Agreement.of(predicted, measured)


def test_folds_count_as_their_pairs() -> None:
    fold, truth = np.array([0, 0, 0, 1, 1, 2]), np.arange(6.0)
    assert kendall_within(fold, np.array([1.0, 2, 3, -7, -8, 0]), truth) == pytest.approx((3 - 1) / 4)
    assert kendall_within(np.arange(6), truth, truth) == 0.0
