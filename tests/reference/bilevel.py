"""Oracles of the second-order DARTS gradient (Liu et al., ICLR 2019, arXiv:1806.09055), in float64.

``exact_arch_grad`` differentiates through one SGD step with autograd. ``darts_arch_grad`` is the finite difference of
eq. 7-8 in NumPy, together with the mistakes found in public implementations, so that a test can show it tells them
apart. Neither shares a line with ``oneshot.functional``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

Array = npt.NDArray[np.float64]
Loss = Callable[[list[Tensor], list[Tensor]], Tensor]
Gradients = Callable[[Array, Array], tuple[Array, Array]]  # (w, alpha) -> (dL/dw, dL/dalpha), all flat

WrongVariant = Literal[
    "first_order",
    "no_op_virtual_step",
    "misplaced_epsilon",
    "missing_momentum",
    "missing_weight_decay",
    "wrong_sign",
    "aliased_gradients",
    "hessian_at_virtual_weights",
    "vector_at_old_weights",
]
WRONG_VARIANTS: tuple[WrongVariant, ...] = get_args(WrongVariant)


def flatten(tensors: Sequence[Tensor]) -> Array:
    """Joins tensors into one flat float64 array."""
    array: Array = torch.cat([t.detach().reshape(-1) for t in tensors]).numpy().astype(np.float64)
    return array


def unflatten(array: Array, like: Sequence[Tensor]) -> list[Tensor]:
    """Splits a flat array into fresh leaf tensors of the given shapes that require a gradient."""
    parts = torch.split(torch.from_numpy(array.copy()), [t.numel() for t in like])
    return [part.clone().view(t.shape).requires_grad_() for part, t in zip(parts, like, strict=True)]


def exact_arch_grad(
    train_loss: Loss,
    val_loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    momentum_buffers: Sequence[Tensor | None],
) -> Array:
    """Gradient of ``L_v(w - lr * (momentum * buf + dL_t/dw + weight_decay * w), alpha)`` for alpha, flat.

    The step is PyTorch's SGD without dampening; the buffer is a constant, it does not depend on this alpha.
    """
    w = unflatten(flatten(weights), weights)
    a = unflatten(flatten(alphas), alphas)
    stepped = []
    gradients = torch.autograd.grad(train_loss(w, a), w, create_graph=True)
    for weight, gradient, buffer in zip(w, gradients, momentum_buffers, strict=True):
        direction = gradient + weight_decay * weight
        if buffer is not None:
            direction = direction + momentum * buffer
        stepped.append(weight - lr * direction)
    return flatten(torch.autograd.grad(val_loss(stepped, a), a))


def autograd_gradients(loss: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor]) -> Gradients:
    """Wraps a torch loss for ``darts_arch_grad``."""

    def gradients(w: Array, alpha: Array) -> tuple[Array, Array]:
        ws, alphas_ = unflatten(w, weights), unflatten(alpha, alphas)
        found = torch.autograd.grad(loss(ws, alphas_), ws + alphas_, allow_unused=True, materialize_grads=True)
        return flatten(found[: len(ws)]), flatten(found[len(ws) :])

    return gradients


def darts_arch_grad(
    train: Gradients,
    val: Gradients,
    w: Array,
    alpha: Array,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    buffer: Array | None,
    epsilon: float = 0.01,
    variant: WrongVariant | None = None,
) -> Array:
    """The approximation of eq. 7-8, or one of its ``WRONG_VARIANTS``.

    Args:
        train: Gradients of the training loss.
        val: Gradients of the validation loss.
        w: Weights, ``[n]``.
        alpha: Architecture parameters, ``[m]``.
        lr: Step size xi of the virtual step.
        momentum: Momentum of the weight optimiser.
        weight_decay: L2 factor of the weight optimiser.
        buffer: Momentum buffer, ``[n]``; None before the first step.
        epsilon: Length of the probe; divided by the norm of the probe direction (the paper's footnote to eq. 8).
        variant: The mistake to make; None for the formula as printed.

    Returns:
        Gradient for alpha, ``[m]``.
    """
    if variant == "first_order":
        return val(w, alpha)[1]
    direction = train(w, alpha)[0]
    if variant != "missing_weight_decay":
        direction = direction + weight_decay * w
    if variant != "missing_momentum" and buffer is not None:
        direction = direction + momentum * buffer
    virtual = w if variant == "no_op_virtual_step" else w - lr * direction

    v, direct = val(virtual, alpha)
    if variant == "vector_at_old_weights":
        v = val(w, alpha)[0]
    step = epsilon / float(np.sqrt((v * v).sum()))
    centre = virtual if variant == "hessian_at_virtual_weights" else w
    plus = train(centre + step * v, alpha)[1]
    minus = train(centre - step * v, alpha)[1]
    if variant == "aliased_gradients":  # two lists of the same `.grad` tensors
        minus = plus
    hessian_vector = (plus - minus) / 2 * step if variant == "misplaced_epsilon" else (plus - minus) / (2 * step)
    return direct + lr * hessian_vector if variant == "wrong_sign" else direct - lr * hessian_vector


# Toy with two weights and two alphas. The quartic term makes the third derivative of dL_t/dalpha vary with w.


def toy_train_loss(weights: list[Tensor], alphas: list[Tensor]) -> Tensor:
    """``(a0 w0 + a1 w1 - 1)^2 / 2 + a0 w0^3 / 3 + a1 w0 w1^2 + a0 a1 w1^4 / 4``."""
    (w,), (a,) = weights, alphas
    square = 0.5 * (a @ w - 1) ** 2
    return square + a[0] * w[0] ** 3 / 3 + a[1] * w[0] * w[1] ** 2 + a[0] * a[1] * w[1] ** 4 / 4


def toy_val_loss(weights: list[Tensor], alphas: list[Tensor]) -> Tensor:
    """``(a0 w0 - a1 w1 + 2)^2 / 2 + a1 w1^3 / 3 + w0^2 / 2``."""
    (w,), (a,) = weights, alphas
    return 0.5 * (a[0] * w[0] - a[1] * w[1] + 2) ** 2 + a[1] * w[1] ** 3 / 3 + 0.5 * w[0] ** 2


def toy_train_gradients(w: Array, a: Array) -> tuple[Array, Array]:
    """Derivatives of ``toy_train_loss`` by hand."""
    residual = a @ w - 1
    dw = np.array(
        [
            residual * a[0] + a[0] * w[0] ** 2 + a[1] * w[1] ** 2,
            residual * a[1] + 2 * a[1] * w[0] * w[1] + a[0] * a[1] * w[1] ** 3,
        ]
    )
    da = np.array(
        [
            residual * w[0] + w[0] ** 3 / 3 + a[1] * w[1] ** 4 / 4,
            residual * w[1] + w[0] * w[1] ** 2 + a[0] * w[1] ** 4 / 4,
        ]
    )
    return dw, da


def toy_val_gradients(w: Array, a: Array) -> tuple[Array, Array]:
    """Derivatives of ``toy_val_loss`` by hand."""
    residual = a[0] * w[0] - a[1] * w[1] + 2
    dw = np.array([residual * a[0] + w[0], -residual * a[1] + a[1] * w[1] ** 2])
    da = np.array([residual * w[0], -residual * w[1] + w[1] ** 3 / 3])
    return dw, da


def mixed_mlp_loss(inputs: Tensor, labels: Tensor) -> Loss:
    """Cross-entropy of a two-layer perceptron whose layers mix tanh, sine and identity by a softmax.

    Args:
        inputs: ``[B, D]``.
        labels: Classes, ``[B]``.

    Returns:
        Loss of weights ``[W1 [H, D], b1 [H], W2 [K, H], b2 [K]]`` and alphas ``[[2, 3]]``.
    """

    def mix(x: Tensor, row: Tensor) -> Tensor:
        p = row.softmax(0)
        return p[0] * x.tanh() + p[1] * x.sin() + p[2] * x

    def loss(weights: list[Tensor], alphas: list[Tensor]) -> Tensor:
        w1, b1, w2, b2 = weights
        hidden = mix(inputs @ w1.T + b1, alphas[0][0])
        return F.cross_entropy(mix(hidden @ w2.T + b2, alphas[0][1]), labels)

    return loss
