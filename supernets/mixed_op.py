"""Mixed operations: the candidates of an edge under given weights, computed with as few passes over memory as possible.

Four things keep a search step cheap without changing its mathematics. What several edges that leave one state have in
common is computed once (the rectified state; a pooling and its batch normalisation, which have no weights). Where the
same candidate of all these edges is one convolution, they are one convolution with more channels. The weight of a
candidate that ends in batch normalisation takes the place of the learnable scale that search leaves out, so it costs no
pass of its own. And terms are added into the sum where they arise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ops import ReadsState, Seen, Zero, contiguous_like, drop_path, once


@dataclass(frozen=True)
class Row:
    """Candidate weights of one edge, and the candidates that run.

    Args:
        values: ``[O]``.
        active: Indices of the candidates whose weight is not zero.
    """

    values: Tensor
    active: tuple[int, ...]

    def __getitem__(self, candidate: int) -> Tensor:
        return self.values[candidate]


class Path:
    """Edge weights of one choice, most of them zero: candidates without weight do not run.

    It takes the place of the tensor in what a supernet is given. Reading which weights are zero waits for the device,
    once per choice.

    Args:
        values: ``[R, O]``.
        runs: Which candidates run, ``[R, O]`` of booleans, where those are others than the ones with weight
            (ProxylessNAS needs the output of a candidate whose gate is closed).

    Example:
        >>> Path(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).active
        ((1,), ())
    """

    def __init__(self, values: Tensor, runs: Tensor | None = None) -> None:
        self.values, self.shape = values, values.shape
        live = (values.detach().ne(0) if runs is None else runs).tolist()
        self.active = tuple(tuple(o for o, on in enumerate(row) if on) for row in live)

    def __getitem__(self, row: int) -> Row:
        return Row(self.values[row], self.active[row])

    def unbind(self) -> list[Row]:
        """All rows."""
        return [self[row] for row in range(len(self.active))]


class CellWeights:
    """Edge weights of one choice, of their own for every cell that shares it.

    It takes the place of the tensor in what a supernet is given, if the supernet has such choices
    (:meth:`~oneshot.supernets.base.OperationSupernet.shared_choices`).

    Args:
        values: ``[L, R, O]`` for L cells, in the order in which they run.
    """

    def __init__(self, values: Tensor) -> None:
        self.values, self.shape = values, values.shape[1:]


def arch_of_cell(arch: Mapping[str, Any], cell: int) -> Mapping[str, Any]:
    """Edge weights of one cell, ``{choice: [R, O]}``; the same mapping where all cells have the same.

    Args:
        arch: What a supernet is given.
        cell: Number of the cell, among those that share its choices.
    """
    if not any(isinstance(w, CellWeights) for w in arch.values()):
        return arch
    return {n: w.values[min(cell, len(w.values) - 1)] if isinstance(w, CellWeights) else w for n, w in arch.items()}


class Dropped(nn.Module):
    """In place of a candidate that a search has dropped: it has no weight in any mixture and cannot run alone."""

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(
            "An architecture must have candidates that the search has kept; this one has a candidate that was dropped "
            "when a stage began. Derive the architecture from the search."
        )


class MixedOp(nn.Module):
    """Weighted sum of candidate operations, ``sum_o w_o op_o(x)`` (DARTS, arXiv:1806.09055, equation 2).

    Args:
        ops: The candidates, O modules that map the same input to outputs of one shape. A module that other edges from
            the same state hold, too, runs once for all of them.

    Attributes:
        drop_path: Probability that an image loses the sum in training (arXiv:1605.07648).
        auxiliary: An operation that is no candidate, see :meth:`add_auxiliary`; ``None`` unless a method has added one.
        auxiliary_weight: Its weight, a scalar tensor.
    """

    auxiliary_weight: Tensor

    def __init__(self, ops: Iterable[nn.Module]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)
        sizes = [sum(p.numel() for p in op.parameters()) for op in self.ops]
        self._smallest, self._weighted = sizes.index(min(sizes)), [size > 0 for size in sizes]
        self.drop_path = 0.0
        self.auxiliary: nn.Module | None = None

    def add_auxiliary(self, op: nn.Module) -> None:
        """Add an operation to every mixture, with the weight ``auxiliary_weight`` (DARTS-, arXiv:2009.01027).

        It is no candidate: a single path, of a :class:`Path`, runs without it, and so do networks that are extracted.

        Args:
            op: Maps what the candidates read to what they return.
        """
        self.auxiliary = op
        self.register_buffer("auxiliary_weight", torch.ones(()), persistent=False)

    def drop(self, kept: Iterable[int]) -> None:
        """Drop candidates for good (DrNAS, arXiv:2006.10355, section 4): their weights must be 0 from now on.

        Args:
            kept: Indices of the others, at least one.
        """
        stay = set(kept)
        sizes = {o: sum(p.numel() for p in op.parameters()) for o, op in enumerate(self.ops) if o in stay}
        self._smallest = min(sizes, key=sizes.__getitem__)
        for candidate in range(len(self.ops)):
            if candidate not in stay:
                self.ops[candidate] = Dropped()

    def part(self, x: Tensor, seen: Seen) -> Tensor:
        """The part of a state that the candidates read: all of it."""
        return x

    def forward(self, x: Tensor, weights: Tensor | Row, seen: Seen | None = None) -> Tensor:
        """Mix.

        Args:
            x: Input, ``[B, C, H, W]``.
            weights: Candidate weights, ``[O]``, or a row of a :class:`Path`. Weights of candidates that do not run
                are added to the output, where they are zero but have a gradient (GDAS, arXiv:1910.04465).
            seen: Shared between the edges that leave one state; filled here.

        Returns:
            ``[B, C, H', W']``. The candidate ``none`` adds nothing and is not run.
        """
        seen = {} if seen is None else seen
        everything = tuple(range(len(self.ops)))
        values, active = (weights.values, weights.active) if isinstance(weights, Row) else (weights, everything)
        total: Tensor | None = None
        for position, (weight, op, learns) in enumerate(zip(values.unbind(), self.ops, self._weighted, strict=True)):
            if isinstance(op, Zero) or position not in active:
                continue
            if isinstance(op, Dropped):
                if isinstance(weights, Row):
                    op(x)  # raises
                continue
            if learns and op in seen:  # weighted already
                total = seen[op].clone() if total is None else total.add_(seen[op])
                continue
            layers = list(op) if isinstance(op, nn.Sequential) else [op]
            if learns and isinstance(layers[-1], nn.BatchNorm2d) and not layers[-1].affine:
                term = scaled_batch_norm([layers[-1]], _run(layers[:-1], x, seen), weight[None])
                total = term if total is None else total.add_(term)
                continue
            y = _run(layers, x, seen) if learns else once(seen, op, partial(op, x))
            total = weight * y if total is None else total.addcmul_(y, weight)
        if total is None:  # nothing runs but the shape: `none`, or an edge that is left out
            total = torch.zeros_like(self.ops[self._smallest](x))
        if self.auxiliary is not None and not isinstance(weights, Row):
            total = total + self.auxiliary_weight * _run([self.auxiliary], x, seen)
        idle = [weight for position, weight in enumerate(values.unbind()) if position not in active]
        total = total + torch.stack(idle).sum() if idle and values.requires_grad else total
        return drop_path(total, self.drop_path) if self.training and self.drop_path else total


class PartialMixedOp(MixedOp):
    """A mixed operation over the first part of the channels; the others pass by, and all are shuffled (PC-DARTS).

    Channels that pass by have the weight of the edge, the sum of its candidates' weights: 1, or what the edge
    normalisation gives it. Source: arXiv:1907.05737, equation 1, and the authors' code for stride 2 (max pooling) and
    the shuffle, which lets every channel take its turn.

    Args:
        ops: The candidates, for ``1 / parts`` of the channels.
        parts: K.
        stride: 1, or 2 where the candidates halve the resolution.
    """

    def __init__(self, ops: Iterable[nn.Module], *, parts: int, stride: int) -> None:
        super().__init__(ops)
        self.parts, self.stride = parts, stride

    def part(self, x: Tensor, seen: Seen) -> Tensor:
        if self.parts == 1:  # after it was widened
            return x
        return once(seen, "part", lambda: contiguous_like(x[:, : x.shape[1] // self.parts], x))

    def forward(self, x: Tensor, weights: Tensor | Row, seen: Seen | None = None) -> Tensor:
        seen = {} if seen is None else seen
        mixed = super().forward(self.part(x, seen), weights, seen)
        if self.parts == 1:
            return mixed
        rest = once(seen, "rest", partial(self._pass_by, x))
        values = weights.values if isinstance(weights, Row) else weights
        y = torch.cat([mixed, rest * values.sum()], dim=1).permute(0, 2, 3, 1)
        b, h, w, c = y.shape
        return y.view(b, h, w, self.parts, c // self.parts).transpose(3, 4).reshape(b, h, w, c).permute(0, 3, 1, 2)

    def _pass_by(self, x: Tensor) -> Tensor:
        rest = x[:, x.shape[1] // self.parts :]
        return rest if self.stride == 1 else F.max_pool2d(rest, 2, 2, ceil_mode=True)


def mixed_op(ops: Iterable[nn.Module], *, parts: int = 1, stride: int = 1) -> MixedOp:
    """A mixed operation over all channels, or over one part of them."""
    return MixedOp(ops) if parts == 1 else PartialMixedOp(ops, parts=parts, stride=stride)


def check_parts(parts: int, channels: int) -> None:
    """Check that channels can be divided into parts.

    Raises:
        ValueError: If they cannot.
    """
    if parts < 1 or channels % parts:
        raise ValueError(f"partial_channels must divide the channels, {channels}, into equal parts; got {parts}.")


def add_up(terms: Sequence[Tensor]) -> Tensor:
    """Sum of the outputs of mixed operations, in the memory of the first."""
    total, *others = terms
    for term in others:
        total = total.add_(term)
    return total


def has_weights(op: nn.Module) -> bool:
    """Whether there is anything to train in an operation."""
    return next(op.parameters(), None) is not None


def run_together(edges: Sequence[MixedOp], x: Tensor, weights: Sequence[Tensor | Row]) -> Seen:
    """What the mixed operations that leave one state can compute together, for their ``seen``.

    Args:
        edges: E mixed operations of the same candidates.
        x: The state they read, ``[B, C, H, W]``.
        weights: Candidate weights of every edge, E times ``[O]``.
    """
    seen: Seen = {}
    dense = [w for w in weights if isinstance(w, Tensor)]
    if len(dense) < len(weights):
        return seen
    for position, same in enumerate(zip(*(edge.ops for edge in edges), strict=True)):
        if len(edges) > 1 and all(_is_one_convolution(op) for op in same):
            convs, norms = [op[1] for op in same], [op[2] for op in same]
            y = F.conv2d(
                once(seen, "relu", partial(F.relu, edges[0].part(x, seen))),
                torch.cat([conv.weight for conv in convs]),
                padding=convs[0].padding,
            )
            y = scaled_batch_norm(norms, y, torch.stack([w[position] for w in dense]))
            seen.update(zip(same, y.chunk(len(edges), dim=1), strict=True))
    return seen


def _is_one_convolution(op: nn.Module) -> bool:
    """Rectified, convolved without stride, normalised without a scale of its own."""
    if not isinstance(op, nn.Sequential) or len(op) != 3:
        return False
    relu, conv, norm = op
    if not (isinstance(relu, nn.ReLU) and isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
        return False
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1 and conv.bias is None
    return plain and getattr(conv, "step", 1) == 1 and not norm.affine


def scaled_batch_norm(norms: Sequence[nn.BatchNorm2d], x: Tensor, scales: Tensor) -> Tensor:
    """``scale * norm(x)`` in the one pass that the normalisation takes anyway.

    Args:
        norms: E batch normalisations without scales of their own, alike but for their statistics.
        x: What they normalise, ``[B, E * C, H, W]``.
        scales: ``[E]``.
    """
    norm, channels = norms[0], x.shape[1] // len(norms)
    learns = norm.training and norm.track_running_stats
    means, variances = [cast(Tensor, n.running_mean) for n in norms], [cast(Tensor, n.running_var) for n in norms]
    mean, var = (means[0], variances[0]) if len(norms) == 1 else (torch.cat(means), torch.cat(variances))
    # repeat, not expand: the kernels for channels-last input read a stride of zero as if it were one
    weight = scales.to(means[0].dtype).repeat_interleave(channels)
    momentum = norm.momentum
    if momentum is None:  # the mean of all batches
        momentum = 1.0 / (int(cast(Tensor, norm.num_batches_tracked)) + 1) if learns else 0.0
    bias, use = torch.zeros_like(weight), learns or not norm.training
    y = F.batch_norm(x, mean if use else None, var if use else None, weight, bias, norm.training, momentum, norm.eps)
    if learns:
        for n in norms:
            if n.num_batches_tracked is not None:
                n.num_batches_tracked.add_(1)
        if len(norms) > 1:
            for own, new in zip((*means, *variances), (*mean.chunk(len(norms)), *var.chunk(len(norms))), strict=True):
                own.copy_(new)
    return y


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
