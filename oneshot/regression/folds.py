"""Cross-validation: what models say of samples that they were not fitted to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats, IntMatrix

FOLDS = 5

Mask = npt.NDArray[np.bool_]


def folds_of(samples: int, seed: int) -> npt.NDArray[np.int64]:
    """The fold of every sample, ``[N]``, drawn so that folds are equally large up to one sample.

    Samples that belong together, such as measurements of one network, are drawn as one:
    ``folds_of(networks.max() + 1, seed)[networks]``, with :func:`networks_of`.
    """
    return np.random.default_rng(seed).permutation(samples) % FOLDS


def networks_of(genes: IntMatrix) -> npt.NDArray[np.int64]:
    """Which network every row ``[N, G]`` is, ``[N]``, numbered from 0 in the order in which they come.

    Example:
        >>> networks_of(np.array([[2, 1], [0, 1], [2, 1]])).tolist()
        [0, 1, 0]
    """
    _, first, network = np.unique(genes, axis=0, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[network.reshape(-1)], np.int64)


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
