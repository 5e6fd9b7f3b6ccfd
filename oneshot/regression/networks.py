"""Ensembles of small fully connected networks that are trained side by side.

:class:`NetworkEnsemble` is NumPy, because a step is so small that PyTorch would need most of its time for the calls.
:class:`DifferentiableEnsemble` is PyTorch, for costs that need gradients in the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oneshot.supernets.space import Floats

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Activation: TypeAlias = Callable[[Array], tuple[Array, Callable[[Array], Array]]]
Slope: TypeAlias = Callable[[Array, Array], Array]


def relu(entering: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Rectified linear unit, and its backward pass."""
    out = np.maximum(entering, 0)
    return out, lambda back: back * (out > 0)


def silu(entering: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Sigmoid linear unit (SiLU), and its backward pass."""
    gate = 1 / (1 + np.exp(-entering))
    return entering * gate, lambda back: back * gate * (1 + entering * (1 - gate))


def squared(out: Array, y: Array) -> Array:
    """Gradient of the mean squared error over samples and networks, in the outputs ``[E, N, 1]``."""
    return 2 * (out - y) / out.size


def absolute(out: Array, y: Array) -> Array:
    """Gradient of every network's mean absolute error, in the outputs ``[E, N, 1]``."""
    return np.asarray(np.sign(out - y) / out.shape[1])


class NetworkEnsemble:
    """E fully connected networks in float32 with all weights in one array, so that a step is one operation for all.

    Args:
        sizes: Numbers of inputs, of units in each hidden layer, and of outputs.
        networks: E.
        activation: Of the hidden layers, :func:`relu` or :func:`silu`.
        betas: Decay of the moments of Adam (arXiv:1412.6980).

    Attributes:
        flat: All weights, 0 at first.
        weights: Views of them: weights ``[E, fan in, fan out]`` and shifts ``[E, 1, fan out]`` of each layer in turn.
    """

    def __init__(
        self, sizes: Sequence[int], networks: int, activation: Activation, betas: tuple[float, float] = (0.9, 0.999)
    ) -> None:
        shapes = [s for fan_in, out in pairwise(sizes) for s in ((networks, fan_in, out), (networks, 1, out))]
        self.flat, self.weights = _zeros(shapes)
        self._gradient, self._gradients = _zeros(shapes)
        self._first, self._second, self._betas = np.zeros_like(self.flat), np.zeros_like(self.flat), betas
        self.activation, self.steps = activation, 0

    def predict(self, x: Array) -> Floats:
        """Outputs of all networks: ``[N, P]``, or ``[E, N, P]``, to ``[E, N]``."""
        out: Floats = forward(self.weights, x, self.activation)[-1][..., 0].astype(np.float64)
        return out

    def moments(self, x: Array, y: Array, slope: Slope) -> tuple[Array, Array, float, float]:
        """Adam's moments after one more batch, as large as :attr:`flat`, and what they must be divided by.

        Args:
            x: ``[N, P]`` or ``[E, N, P]``.
            y: Targets, ``[N, 1]`` or ``[E, N, 1]``.
            slope: Gradient of the loss, :func:`squared` or :func:`absolute`.
        """
        gradients(self.weights, x, y, self._gradients, self.activation, slope)
        self.steps += 1
        decay, decay_of_squares = self._betas
        self._first += (1 - decay) * (self._gradient - self._first)
        self._second += (1 - decay_of_squares) * (self._gradient * self._gradient - self._second)
        return self._first, self._second, 1 - decay**self.steps, 1 - decay_of_squares**self.steps


def forward(
    weights: Sequence[Array], x: Array, activation: Activation
) -> tuple[list[Array], list[Callable[[Array], Array]], Array]:
    """Run all networks.

    Args:
        weights: See :class:`NetworkEnsemble`.
        x: ``[N, P]`` or ``[E, N, P]``.
        activation: Of the hidden layers.

    Returns:
        The inputs of every layer, the backward pass of every activation, and the outputs, ``[E, N, 1]``.
    """
    inputs, backward = [x], list[Callable[[Array], Array]]()
    for layer in range(0, len(weights) - 2, 2):
        out, back = activation(inputs[-1] @ weights[layer] + weights[layer + 1])
        inputs.append(out)
        backward.append(back)
    return inputs, backward, inputs[-1] @ weights[-2] + weights[-1]


def gradients(
    weights: Sequence[Array], x: Array, y: Array, into: Sequence[Array], activation: Activation, slope: Slope
) -> None:
    """Gradients of the loss by backpropagation, written to ``into``, which has the shapes of ``weights``.

    Args:
        weights: See :class:`NetworkEnsemble`.
        x: ``[N, P]`` or ``[E, N, P]``.
        y: ``[N, 1]`` or ``[E, N, 1]``.
        into: Where the gradients go.
        activation: Of the hidden layers.
        slope: Gradient of the loss in the outputs.
    """
    inputs, backward, out = forward(weights, x, activation)
    back = slope(out, y)
    for layer in range(len(weights) - 2, -1, -2):
        np.matmul(inputs[layer // 2].swapaxes(-1, -2), back, out=into[layer])
        np.sum(back, axis=1, keepdims=True, out=into[layer + 1])
        if layer:
            back = backward[layer // 2 - 1](back @ weights[layer].swapaxes(1, 2))


def _zeros(shapes: Sequence[tuple[int, ...]]) -> tuple[Array, list[Array]]:
    """One array, and views of it that have these shapes."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    flat = np.zeros(ends[-1], dtype=np.float32)
    return flat, [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes)]


class DifferentiableEnsemble(nn.Module):
    """Networks with two hidden layers of SiLU in PyTorch and float64, fitted by AdamW with a cosine schedule.

    Args:
        x: ``[N, P]``.
        y: ``[N]``, standardised.
        fan_in: How many of the P features are not 0 at once, which scales the initial weights.
        networks: E.
        hidden: Units of a hidden layer.
        steps: Of the training, with all samples each.
        seed: Of the initial weights.
    """

    def __init__(
        self, x: Tensor, y: Tensor, *, fan_in: int, networks: int, hidden: int, steps: int, seed: int = 0
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise((x.shape[1], hidden, hidden, 1)):
            gain = (2 / (fan_in if not len(self.weights) else inputs)) ** 0.5
            draw = torch.randn(networks, inputs, outputs, generator=generator, dtype=torch.float64)
            self.weights.append(draw * gain)
            self.biases.append(torch.zeros(networks, 1, outputs, dtype=torch.float64))
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        with torch.enable_grad():
            for _ in range(steps):
                optimizer.zero_grad()
                torch.autograd.backward(((self(x) - y) ** 2).mean())
                optimizer.step()
                schedule.step()
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, P] -> [E, N]``."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            x = x @ weight + bias
            x = nn.functional.silu(x) if layer < 2 else x
        return x[..., 0]
