"""NumPy float64 references for the small formulas of training and reporting."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def softmax(logits: Array) -> Array:
    """Softmax over the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def entropy(probabilities: Array) -> Array:
    """Shannon entropy over the last axis, nats; ``0 log 0 = 0``."""
    logs = np.log(np.where(probabilities > 0, probabilities, 1.0))
    result: Array = -(probabilities * logs).sum(axis=-1)
    return result


def cosine_lr(epoch: int, *, lr: float, lr_min: float, epochs: int) -> float:
    """Learning rate of an epoch, counted from 0; ``lr_min`` is reached at ``epoch == epochs`` (arXiv:1608.03983)."""
    return float(lr_min + 0.5 * (lr - lr_min) * (1 + np.cos(np.pi * epoch / epochs)))


def linear_drop_path(epoch: int, *, final: float, epochs: int) -> float:
    """DARTS' drop-path probability of an epoch, counted from 0: ``final * epoch / epochs`` (arXiv:1806.09055)."""
    return final * epoch / epochs


def scheduled_drop_path(step: int, *, final: float, steps: int, cell: int, cells: int) -> float:
    """Drop probability as NASNet's code writes it, by what is kept: first for the depth, then for the time (v3)."""
    keep = 1 - np.float64(cell + 1) / cells * final
    keep = 1 - np.minimum(1.0, np.float64(step) / steps) * (1 - keep)
    return float(1 - keep)


def cutout(image: Array, *, centre: tuple[int, int], length: int) -> Array:
    """Zeroes a square that may stick out of the image (arXiv:1708.04552).

    Args:
        image: ``[C, H, W]``.
        centre: Row and column in the image.
        length: Side in pixels; rows ``centre - length // 2`` up to, not including, ``centre + length // 2``.

    Returns:
        A copy, ``[C, H, W]``.
    """
    result = image.copy()
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            inside = [-(length // 2) <= at - c < length // 2 for at, c in zip((row, column), centre, strict=True)]
            if all(inside):
                result[:, row, column] = 0.0
    return result


def expected_calibration_error(probabilities: Array, labels: npt.NDArray[np.int64], *, bins: int = 15) -> float:
    """ECE with equal-width bins of the top probability, ``sum_b n_b / n * |acc_b - conf_b|`` (arXiv:1706.04599).

    Args:
        probabilities: ``[B, K]``.
        labels: ``[B]``.
        bins: Number of bins.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            total += float(inside.mean() * abs(correct[inside].mean() - confidence[inside].mean()))
    return total


def smoothed_cross_entropy(logits: Array, labels: npt.NDArray[np.int64], *, smoothing: float) -> float:
    """Mean cross-entropy against ``(1 - s) * onehot + s / K`` (arXiv:1512.00567).

    Args:
        logits: ``[B, K]``.
        labels: ``[B]``.
        smoothing: ``s``.
    """
    logs = np.log(softmax(logits))
    targets = np.full_like(logs, smoothing / logs.shape[1])
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return float(-(targets * logs).sum(axis=1).mean())
