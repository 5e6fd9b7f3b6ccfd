"""Which entries of a group matter most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from .axes import Extent, permute
from .graph import Graph

Importance = Literal["l2", "taylor"]


def orders(network: nn.Module, graph: Graph, importance: Importance) -> dict[int, Tensor]:
    """For every leaf, its entries from the most important to the least.

    Args:
        network: With weights; for ``"taylor"`` also with gradients.
        graph: Of the network.
        importance: ``"l2"``: the L2 norm of all weights that have the entry (arXiv:1608.08710 has the L1 norm of one
            layer; the norm of all layers that are cut together is that of DepGraph, arXiv:2301.12900, equation 6).
            ``"taylor"``: the sum of ``|weight * gradient|`` of these (arXiv:1906.10771, equation 8, has its square).
    """
    scores = {i: torch.zeros(n, dtype=torch.float64) for i, n in enumerate(graph.leaves) if i not in graph.centred}
    parameters = dict(network.named_parameters())
    for name, shape in graph.weights.items():
        weight = parameters.get(name)
        if weight is None or not weight.is_floating_point():
            continue
        values = weight.detach().double().cpu()
        if importance == "l2":
            values = values.square()
        else:
            gradient = weight.grad
            values = torch.zeros_like(values) if gradient is None else (values * gradient.detach().double().cpu()).abs()
        for dim, side in enumerate(shape):
            others = [d for d in range(values.dim()) if d != dim]
            sums = values.sum(others) if others else values
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
