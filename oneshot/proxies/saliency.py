"""Pruning saliencies, summed over a network (Abdelfattah et al., ICLR 2021, arXiv:2101.08134).

w are the weights of convolutions and linear layers, g the gradient of the loss of one batch with respect to them, with
batch normalisation in training mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from oneshot._lightning import ConvNd
from oneshot.errors import NoScoreError
from oneshot.inputs import length

from .base import (
    Batch,
    Proxy,
    another_count,
    check_first_axis,
    check_samples_first,
    gradients,
    output_of,
    weights_of,
)


@dataclass(frozen=True)
class GradNorm(Proxy):
    """Sum over the layers of the Euclidean norm of the gradient, ``sum_l ||g_l||`` (arXiv:2101.08134, section 3.1)."""

    name: ClassVar[str] = "grad_norm"
    needs_targets: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        found = gradients(batch.loss(network), weights_of(network))
        return float(sum(g.norm().double() for g in found))


@dataclass(frozen=True)
class Snip(Proxy):
    """``sum |w g|``: how much the loss depends on each weight being there (Lee et al., ICLR 2019, arXiv:1810.02340)."""

    name: ClassVar[str] = "snip"
    needs_targets: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        weights = weights_of(network)
        return salience(weights, gradients(batch.loss(network), weights))


@dataclass(frozen=True)
class Grasp(Proxy):
    """``-sum w (H g)``, H the Hessian of the loss (Wang et al., ICLR 2020, arXiv:2002.07376, equation 8).

    Removing a weight of negative value lowers the norm of the gradient.
    """

    name: ClassVar[str] = "grasp"
    needs_targets: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        weights = weights_of(network)
        with sdpa_kernel(SDPBackend.MATH):  # the others are not differentiated twice
            g = gradients(batch.loss(network), weights, create_graph=True)
            product = torch.stack([(a.detach() * a).sum() for a in g]).sum()
            hessian_g = gradients(product, weights)
        return -float(sum((w.detach() * h).double().sum() for w, h in zip(weights, hessian_g, strict=True)))


@dataclass(frozen=True)
class Fisher(Proxy):
    """Fisher information of the channels (Theis et al., arXiv:1801.05787; as a proxy: Turner et al., arXiv:1906.04113).

    For every output ``a`` of a convolution or linear layer and its gradient ``g``, of image n and channel k:
    ``1/2 mean_n (sum_positions a g)^2``, summed over channels and layers. The gradient is that of the mean loss. A
    layer that runs twice has two outputs, each counted. Parts of an image on the first axis are positions, too.
    """

    name: ClassVar[str] = "fisher"
    needs_targets: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = True

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        found: list[tuple[Tensor, int]] = []

        def keep(module: nn.Module, args: object, out: Tensor) -> Tensor:
            found.append((out, 1 if isinstance(module, ConvNd) else -1))
            return out.clone()  # what follows may write into it

        layers = [module for module in network.modules() if isinstance(module, ConvNd | nn.Linear)]
        if not layers:
            raise NoScoreError(
                f"fisher reads the outputs of convolutions and linear layers; {type(network).__name__} has none. "
                "Leave fisher out."
            )
        for layer in layers:
            layer.register_forward_hook(keep)
        loss, samples, other = batch.loss(network), length(batch.inputs), another_count(batch.inputs)
        seen = list(found)
        for a, _ in seen:
            check_first_axis(a, samples, "a layer gives")
        found.clear()
        with torch.no_grad():
            output_of(network, other)
        check_samples_first(
            [len(a) for a, _ in seen], samples, [len(a) for a, _ in found], length(other), "layers give"
        )
        g = gradients(loss, [a for a, _ in seen])
        return sum(channel_information(a.detach(), b, axis, samples) for (a, axis), b in zip(seen, g, strict=True))


def salience(weights: list[Tensor], g: list[Tensor]) -> float:
    """``sum |w g|`` over all tensors."""
    return float(sum((w.detach() * x).abs().double().sum() for w, x in zip(weights, g, strict=True)))


def channel_information(a: Tensor, g: Tensor, channel_axis: int, samples: int) -> float:
    """``sum_k 1/2 mean_n (sum_positions a g)^2`` of activations and gradients ``[B, ...]`` with channels at an axis.

    The first axis may also be B times the parts of a sample.
    """
    product = (a * g).double().movedim(channel_axis, 1)
    by_channel = product.reshape(*product.shape[:2], -1).sum(2).reshape(samples, -1, product.shape[1]).sum(1)
    return float(0.5 * by_channel.square().mean(0).sum())
