"""Cross-validation: what models say of samples that they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats

FOLDS = 5

Mask = npt.NDArray[np.bool_]


def folds_of(samples: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of every sample, ``[N]``, drawn so that folds are equally large up to one sample."""
    return np.random.default_rng(seed).permutation(samples) % FOLDS


def cross_validate(fold: npt.NDArray[np.int64], predict: Callable[[Mask, Mask], Floats], folds: int = FOLDS) -> Floats:
    """Predictions of every sample by a model of the other folds.

    Args:
        fold: The fold of every sample, ``[N]``.
        predict: Fits to the first samples and predicts the second, M of them: ``[..., M]``.
        folds: How many of them are predicted, where some tell enough.

    Returns:
        ``[..., N]``; NaN for samples of the other folds.
    """
    masks = [fold == f for f in range(folds)]
    parts = [predict(~mask, mask) for mask in masks]
    predicted = np.full((*parts[0].shape[:-1], len(fold)), np.nan)
    for mask, part in zip(masks, parts, strict=True):
        predicted[..., mask] = part
    return predicted
