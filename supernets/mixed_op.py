"""Mixed operations: the candidates of an edge under given weights, computed with as few passes over memory as possible.

Three things keep a search step cheap without changing its mathematics. What several edges that leave one state have in
common is computed once (the rectified state; a pooling and its batch normalisation, which have no weights). The weight
of a candidate that ends in batch normalisation takes the place of the learnable scale that search leaves out, so it
costs no pass of its own. And terms are added into the sum where they arise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ops import ReadsState, Seen, Zero, once


class MixedOp(nn.Module):
    """Weighted sum of candidate operations, ``sum_o w_o op_o(x)`` (DARTS, arXiv:1806.09055, equation 2).

    Args:
        ops: The candidates, O modules that map the same input to outputs of one shape. A module that other edges from
            the same state hold, too, runs once for all of them.
    """

    def __init__(self, ops: Iterable[nn.Module]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)

    def forward(self, x: Tensor, weights: Tensor, seen: Seen | None = None) -> Tensor:
        """Mix.

        Args:
            x: Input, ``[B, C, H, W]``.
            weights: Candidate weights, ``[O]``.
            seen: Shared between the edges that leave one state; filled here.

        Returns:
            ``[B, C, H', W']``. The candidate ``none`` adds nothing and is not run.
        """
        seen = {} if seen is None else seen
        total: Tensor | None = None
        for weight, op in zip(weights.unbind(), self.ops, strict=True):
            if isinstance(op, Zero):
                continue
            layers = list(op) if isinstance(op, nn.Sequential) else [op]
            if has_weights(op) and isinstance(layers[-1], nn.BatchNorm2d) and not layers[-1].affine:
                term = scaled_batch_norm(layers[-1], _run(layers[:-1], x, seen), weight)
                total = term if total is None else total.add_(term)
                continue
            y = _run(layers, x, seen) if has_weights(op) else once(seen, op, partial(op, x))
            total = weight * y if total is None else total.addcmul_(y, weight)
        return self.ops[0](x) if total is None else total


def add_up(terms: Sequence[Tensor]) -> Tensor:
    """Sum of the outputs of mixed operations, in the memory of the first."""
    total, *others = terms
    for term in others:
        total = total.add_(term)
    return total


def has_weights(op: nn.Module) -> bool:
    """Whether there is anything to train in an operation."""
    return next(op.parameters(), None) is not None


def scaled_batch_norm(norm: nn.BatchNorm2d, x: Tensor, scale: Tensor) -> Tensor:
    """``scale * norm(x)`` in the one pass that the normalisation takes anyway.

    Args:
        norm: Batch normalisation without a scale of its own.
        x: ``[B, C, H, W]``.
        scale: Scalar.
    """
    learns = norm.training and norm.track_running_stats
    if learns and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    use = learns or not norm.training
    mean, var = (norm.running_mean, norm.running_var) if use else (None, None)
    # repeat, not expand: the kernels for channels-last input read a stride of zero as if it were one
    weight = scale.to(norm.running_mean.dtype if norm.running_mean is not None else x.dtype).repeat(x.shape[1])
    return F.batch_norm(x, mean, var, weight, torch.zeros_like(weight), norm.training, norm.momentum or 0.0, norm.eps)


def _run(layers: Iterable[nn.Module], x: Tensor, seen: Seen) -> Tensor:
    """Run layers in order; the rectified input is computed once."""
    for position, layer in enumerate(layers):
        if position == 0 and isinstance(layer, nn.ReLU):
            x = once(seen, "relu", partial(F.relu, x))
        elif isinstance(layer, ReadsState):
            x = layer(x, seen)
        else:
            x = layer(x)
    return x
