"""Which entries of a group matter most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from .axes import Extent, permute
from .graph import Graph

Importance = Literal["l2", "taylor"]


def squares(network: nn.Module, graph: Graph) -> dict[str, Tensor]:
    """Squares of all weights that can be cut, float64.

    Their sums over an entry order it as the L2 norm of all weights that have it does (arXiv:1608.08710 has the L1 norm
    of one layer; the norm of all layers that are cut together is that of DepGraph, arXiv:2301.12900, equation 6).
    """
    return {name: weight.detach().double().cpu().square() for name, weight in _weights(network, graph).items()}


def saliencies(network: nn.Module, graph: Graph, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """What losses change by, to first order, if a weight is set to zero: the sum over them of ``|weight * gradient|``.

    The criterion of arXiv:1906.10771 (equation 8), which squares it; float64.

    Args:
        network: All its weights ask for gradients.
        graph: Of the network.
        losses: Of one batch each, as they are computed; a small batch, for gradients of unlike samples cancel.
    """
    weights = _weights(network, graph)
    found = {name: torch.zeros(weight.shape, dtype=torch.float64) for name, weight in weights.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                found[name] += (weight.detach().double() * gradient.double()).abs().cpu()
    return found


def _weights(network: nn.Module, graph: Graph) -> dict[str, nn.Parameter]:
    parameters = dict(network.named_parameters())
    cut = {name: parameters[name] for name in graph.weights if name in parameters}
    return {name: weight for name, weight in cut.items() if weight.is_floating_point()}


def orders(values: Mapping[str, Tensor], graph: Graph) -> dict[int, Tensor]:
    """For every leaf, its entries from the most important to the least.

    Args:
        values: Of every weight how important it is, see :func:`squares` and :func:`saliencies`; those of all that have
            an entry are added up.
        graph: Of the network.
    """
    scores = {i: torch.zeros(n, dtype=torch.float64) for i, n in enumerate(graph.leaves) if i not in graph.centred}
    for name, own in values.items():
        for dim, side in enumerate(graph.weights[name]):
            others = [d for d in range(own.dim()) if d != dim]
            sums = own.sum(others) if others else own
            for leaf in side.indices() & scores.keys():
                places = entries(side, leaf)
                inside = places >= 0
                scores[leaf].index_add_(0, places[inside], sums[inside])
    return {leaf: torch.sort(score, descending=True, stable=True).indices for leaf, score in scores.items()}


def entries(side: Extent, leaf: int) -> Tensor:
    """Which entry of a leaf every place of a dimension belongs to, -1 where it belongs to none: ``[size]``."""
    if side.kind == "leaf":
        return torch.arange(side.size) if side.index == leaf else torch.full((side.size,), -1)
    if side.kind == "fixed":
        return torch.full((side.size,), -1)
    if side.kind == "sum":
        return torch.cat([entries(part, leaf) for part in side.parts])
    found = torch.full((1,), -1)
    for part in side.parts:
        own = entries(part, leaf)
        found = torch.maximum(found[:, None], own[None]).flatten()
    return found


@torch.no_grad()
def put_in_order(network: nn.Module, graph: Graph, by: Mapping[int, Tensor]) -> bool:
    """Put the entries of all leaves in another order, everywhere; whether that changes any.

    The network computes the same.
    """
    moved = {leaf: order for leaf, order in by.items() if not torch.equal(order, torch.arange(len(order)))}
    if moved:
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            tensor.copy_(permute(tensor, graph.weights[name], moved).clone())
    return bool(moved)
