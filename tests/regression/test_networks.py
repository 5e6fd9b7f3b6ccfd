"""Gradients that are written by hand are those of finite differences and of autograd."""

from __future__ import annotations

import numpy as np
import torch

from oneshot.regression.networks import absolute, gradients, relu, silu, squared


def finite_differences(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Of the mean absolute error, every weight by itself, in float64."""

    def error(weights: list[np.ndarray]) -> float:
        out = x
        for layer in range(0, len(weights), 2):
            out = np.maximum(out, 0) if layer else out
            out = np.einsum("enp,eph->enh", out, weights[layer]) + weights[layer + 1]
        return float(np.abs(out - y).mean(axis=(1, 2)).sum())

    found = []
    for w, weight in enumerate(weights):
        part = np.zeros_like(weight)
        for index in np.ndindex(*weight.shape):
            both = []
            for step in (1e-6, -1e-6):
                moved = [v.copy() for v in weights]
                moved[w][index] += step
                both.append(error(moved))
            part[index] = (both[0] - both[1]) / 2e-6
        found.append(part)
    return found


def test_gradients_of_rectified_units_are_those_of_the_mean_absolute_error() -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 4), (2, 1, 4), (2, 4, 4), (2, 1, 4), (2, 4, 1), (2, 1, 1)]
    weights = [rng.normal(size=shape) for shape in shapes]
    x, y = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 7, 1))
    ours = [np.empty(shape) for shape in shapes]
    gradients(weights, x, y, ours, relu, absolute)
    expected = finite_differences(weights, x, y)
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

    squared = np.sign(1.0) * 2 * ours[-1]  # a mean squared error would have other gradients
    assert not np.allclose(squared, expected[-1], rtol=1e-2)


def test_gradients_of_sigmoid_units_and_the_mean_squared_error_are_those_of_autograd() -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 5, 4), (3, 1, 4), (3, 4, 4), (3, 1, 4), (3, 4, 1), (3, 1, 1)]
    weights, x, y = [rng.normal(size=shape) for shape in shapes], rng.normal(size=(20, 5)), rng.normal(size=20)
    leaves = [torch.from_numpy(weight).requires_grad_() for weight in weights]
    hidden = torch.from_numpy(x)
    for i in range(3):
        hidden = hidden @ leaves[2 * i] + leaves[2 * i + 1]
        hidden = torch.nn.functional.silu(hidden) if i < 2 else hidden
    exact = torch.autograd.grad(((hidden[..., 0] - torch.from_numpy(y)) ** 2).mean(), leaves)
    found = [np.empty(shape) for shape in shapes]
    gradients(weights, x, y[:, None], found, silu, squared)
    for ours, theirs in zip(found, exact, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-10, atol=1e-12)
