"""Every sample is predicted once, by a model that has not seen it."""

from __future__ import annotations

import numpy as np

from oneshot.regression.folds import FOLDS, cross_validate, folds_of


def test_every_sample_is_predicted_by_a_model_of_the_others() -> None:
    fold, y = folds_of(23, 0), np.arange(23.0)
    assert sorted(np.bincount(fold)) == [4, 4, 5, 5, 5] and len(set(fold)) == FOLDS
    seen: list[set[float]] = []

    def predict(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        seen.append(set(y[train]))
        assert not seen[-1] & set(y[test])
        return np.stack([y[test], np.full(test.sum(), y[train].sum())])

    same, rest = cross_validate(fold, predict)
    np.testing.assert_array_equal(same, y)
    np.testing.assert_array_equal(rest, [y.sum() - y[fold == f].sum() for f in fold])
    assert len(seen) == FOLDS
    some = cross_validate(fold, predict, folds=2)[0]
    np.testing.assert_array_equal(some, np.where(fold < 2, y, np.nan))
