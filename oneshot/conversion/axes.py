"""Sizes of tensors as expressions over axes: what belongs together in a network, and what can be cut.

Every dimension of every tensor is an :class:`Axis`. What an operator says about its dimensions ties axes together: two
are the same (an addition), one is a product of others (a view), or one follows the other in it (a concatenation). What
remains are leaves; of a leaf that nothing holds, a network can keep the first ``k`` entries everywhere, and runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from oneshot.supernets.space import IntMatrix

Kind = Literal["leaf", "product", "sum"]
NOTHING = "nothing"


@dataclass(eq=False)
class Axis:
    """A dimension, or a part of one, while a network is analysed.

    Args:
        size: Entries.
        kind: A leaf, or a ``"product"`` (outer to inner) or ``"sum"`` (one after the other) of parts.
        parts: Of a product or a sum.
        fixed: Why it cannot be cut; "" if nothing is known against it. Of leaves only.
        heads: Whether attention runs over it, one head for each entry.
        centred: Whether a part of it is its middle, as of kernels, not its first entries.
        same: The axis that this one is.
    """

    size: int
    kind: Kind = "leaf"
    parts: tuple[Axis, ...] = ()
    fixed: str = ""
    heads: bool = False
    centred: bool = False
    same: Axis | None = field(default=None, repr=False)

    def found(self) -> Axis:
        """The axis that stands for all that are the same."""
        axis = self
        while axis.same is not None:
            axis = axis.same
        return axis

    def leaves(self) -> Iterator[Axis]:
        """All leaves it consists of, outer to inner and first to last; one may come twice."""
        axis = self.found()
        if axis.kind == "leaf":
            yield axis
        for part in axis.parts:
            yield from part.leaves()

    def freeze(self, why: str) -> None:
        """Let none of its leaves be cut."""
        for leaf in self.leaves():
            leaf.fixed = leaf.fixed or why


def fixed(size: int, why: str) -> Axis:
    """A leaf that cannot be cut."""
    return Axis(size, fixed=why)


def product(parts: Iterable[Axis]) -> Axis:
    """Outer to inner. Parts of one entry do not count."""
    flat = [axis for part in parts for axis in _factors(part) if axis.size != 1]
    if not flat:
        return fixed(1, "it has one entry")
    return flat[0] if len(flat) == 1 else Axis(math.prod(a.size for a in flat), "product", tuple(flat))


def total(parts: Iterable[Axis]) -> Axis:
    """One after the other."""
    flat = [axis for part in parts for axis in _terms(part) if axis.size]
    return flat[0] if len(flat) == 1 else Axis(sum(axis.size for axis in flat), "sum", tuple(flat))


def _factors(axis: Axis) -> list[Axis]:
    axis = axis.found()
    return [f for part in axis.parts for f in _factors(part)] if axis.kind == "product" else [axis]


def _terms(axis: Axis) -> list[Axis]:
    axis = axis.found()
    return [t for part in axis.parts for t in _terms(part)] if axis.kind == "sum" else [axis]


def unify(first: Axis, second: Axis, why: str) -> None:
    """Say that two axes are the same, entry by entry.

    Where their parts do not fit together, both are frozen.

    Args:
        first: Of the same size as the second.
        second: See ``first``.
        why: The operator that says so, for those that have to be frozen.
    """
    first, second = first.found(), second.found()
    if first is second:
        return
    if first.size != second.size:
        first.freeze(why)
        second.freeze(why)
        return
    if first.kind != "leaf":
        first, second = second, first
    if first.kind == "leaf":
        if any(leaf is first for leaf in second.leaves()):
            second.freeze(why)
            return
        if first.fixed:
            second.freeze(first.fixed)
        for leaf in second.leaves() if first.heads else ():
            leaf.heads = True
        if second.kind == "leaf":
            second.centred |= first.centred
        first.same = second
        return
    if not (_align(first, second, why)):
        first.freeze(why)
        second.freeze(why)


def _align(first: Axis, second: Axis, why: str) -> bool:
    """Unify two axes of several parts; whether their parts fit together."""
    if first.kind == second.kind:
        of = _factors if first.kind == "product" else _terms
        pairs = _matched(of(first), of(second), first.kind)
        if pairs is None:
            return False
        for one, other in pairs:
            unify(one, other, why)
        return True
    tall, wide = (first, second) if first.kind == "sum" else (second, first)
    terms, factors = _terms(tall), _factors(wide)
    outer, inner = factors[0], product(factors[1:])
    if len(terms) == outer.size and all(term.size == inner.size for term in terms):
        outer.freeze(why)
        for term in terms:
            unify(term, inner, why)
        return True
    if outer.kind == "leaf" and all(term.size % inner.size == 0 for term in terms):
        parts = [Axis(term.size // inner.size) for term in terms]
        split_leaf(outer, total(parts))
        for part, term in zip(parts, terms, strict=True):
            unify(product([part, inner]), term, why)
        return True
    return False


def split_leaf(leaf: Axis, into: Axis) -> None:
    """Let a leaf be a product or a sum of others."""
    leaf = leaf.found()
    if leaf.fixed:
        into.freeze(leaf.fixed)
    for part in into.leaves():
        part.heads |= leaf.heads
    leaf.same = into


def _matched(first: Sequence[Axis], second: Sequence[Axis], kind: Kind) -> list[tuple[Axis, Axis]] | None:
    """Pairs of parts that are the same, after leaves were split where that is needed; None if that does not go.

    Products are compared from the inside, sums from the beginning.
    """
    ones, others = (list(parts) if kind == "product" else list(parts)[::-1] for parts in (first, second))
    pairs = []
    while ones and others:
        one, other = ones.pop(), others.pop()
        if one.size != other.size:
            large, small, rest = (one, other, ones) if one.size > other.size else (other, one, others)
            pair = _parted(large, small.size, kind)
            if pair is None:
                return None
            head, tail = pair
            rest.append(head if kind == "product" else tail)
            large = tail if kind == "product" else head
            one, other = (large, small) if rest is ones else (small, large)
        pairs.append((one, other))
    return None if ones or others else pairs


def _parted(axis: Axis, size: int, kind: Kind) -> tuple[Axis, Axis] | None:
    """Split a leaf: of a product the inner part, of a sum the first part gets ``size``."""
    axis = axis.found()
    if kind == "product":
        if axis.kind != "leaf" or axis.size % size:
            return None
        head, tail = Axis(axis.size // size), Axis(size)
        split_leaf(axis, product([head, tail]))
        return head, tail
    if axis.kind == "product":
        outer, inner = axis.parts[0].found(), product(axis.parts[1:])
        if outer.kind != "leaf" or size % inner.size:
            return None
        head, tail = Axis(size // inner.size), Axis(outer.size - size // inner.size)
        split_leaf(outer, total([head, tail]))
        return product([head, inner]), product([tail, inner])
    if axis.kind != "leaf":
        return None
    head, tail = Axis(size), Axis(axis.size - size)
    split_leaf(axis, total([head, tail]))
    return head, tail


def split_off(axis: Axis, sizes: Sequence[int], why: str) -> list[Axis]:
    """The parts of an axis that follow each other, such as ``torch.split`` returns."""
    parts = [Axis(size) for size in sizes]
    unify(axis, total(parts), why)
    return parts


# What remains of axes once a network is analysed.


@dataclass(frozen=True)
class Extent:
    """A size that follows from what is kept of the leaves.

    Args:
        kind: ``"leaf"`` of :attr:`index`, ``"fixed"`` of :attr:`size`, or ``"product"``, ``"sum"`` of :attr:`parts`.
        size: Entries in the original network.
        index: Which leaf.
        parts: See ``kind``.
    """

    kind: Literal["leaf", "fixed", "product", "sum"]
    size: int
    index: int = -1
    parts: tuple[Extent, ...] = ()

    def at(self, sizes: Sequence[int]) -> int:
        """The size with ``sizes[i]`` entries of leaf i."""
        if self.kind == "fixed":
            return self.size
        if self.kind == "leaf":
            return int(sizes[self.index])
        values = (part.at(sizes) for part in self.parts)
        return math.prod(values) if self.kind == "product" else sum(values)

    def of(self, sizes: IntMatrix) -> IntMatrix:
        """The same for many networks: ``[N, leaves] -> [N]``."""
        if self.kind == "fixed":
            return np.full(len(sizes), self.size, dtype=np.int64)
        if self.kind == "leaf":
            return sizes[:, self.index]
        values = np.stack([part.of(sizes) for part in self.parts])
        found: IntMatrix = values.prod(0) if self.kind == "product" else values.sum(0)
        return found

    def indices(self) -> set[int]:
        """The leaves it depends on."""
        return {self.index} if self.kind == "leaf" else {i for part in self.parts for i in part.indices()}


Shape: TypeAlias = tuple[Extent, ...]


def extent(axis: Axis, leaves: Mapping[Axis, int]) -> Extent:
    """What is left of an axis; leaves that are not listed are fixed."""
    axis = axis.found()
    if axis.kind == "leaf":
        return Extent("leaf", axis.size, leaves[axis]) if axis in leaves else Extent("fixed", axis.size)
    parts = tuple(extent(part, leaves) for part in axis.parts)
    if all(part.kind == "fixed" for part in parts):
        return Extent("fixed", axis.size)
    return Extent("product" if axis.kind == "product" else "sum", axis.size, parts=parts)


def cut(tensor: Tensor, shape: Shape, sizes: Sequence[int], centred: frozenset[int] = frozenset()) -> Tensor:
    """The part of a tensor that a network of these sizes uses; a view where that is possible.

    Args:
        tensor: Of the sizes of the original network.
        shape: Of the tensor, one extent for each dimension.
        sizes: Entries of every leaf that are kept.
        centred: Leaves of which the middle is kept, not the first entries.
    """
    for dim, size in enumerate(shape):
        if size.kind != "fixed" and size.at(sizes) != size.size:
            tensor = _cut_dim(tensor, dim, size, sizes, centred)
    return tensor


def _cut_dim(tensor: Tensor, dim: int, size: Extent, sizes: Sequence[int], centred: frozenset[int]) -> Tensor:
    if size.at(sizes) == size.size:
        return tensor
    if size.kind == "leaf":
        kept = int(sizes[size.index])
        return tensor.narrow(dim, (size.size - kept) // 2 if size.index in centred else 0, kept)
    if size.kind == "sum":
        parts = torch.split(tensor, [part.size for part in size.parts], dim)
        pairs = zip(parts, size.parts, strict=True)
        return torch.cat([_cut_dim(part, dim, own, sizes, centred) for part, own in pairs], dim)
    tensor = torch.unflatten(tensor, dim, [part.size for part in size.parts])
    for offset, part in enumerate(size.parts):
        tensor = _cut_dim(tensor, dim + offset, part, sizes, centred)
    return tensor.flatten(dim, dim + len(size.parts) - 1)


def paste(
    tensor: Tensor, shape: Shape, sizes: Sequence[int], values: Tensor, centred: frozenset[int] = frozenset()
) -> None:
    """Write the part of a tensor that :func:`cut` takes."""
    places = torch.arange(tensor.numel(), device=tensor.device).view(tensor.shape)
    tensor.view(-1)[cut(places, shape, sizes, centred).flatten()] = values.flatten()


def permute(tensor: Tensor, shape: Shape, orders: Mapping[int, Tensor]) -> Tensor:
    """Put the entries of leaves in another order: ``orders[i][j]`` is the entry of leaf i that comes to place j."""
    for dim, size in enumerate(shape):
        if size.indices() & orders.keys():
            tensor = tensor.index_select(dim, _places(size, orders, tensor.device))
    return tensor


def _places(size: Extent, orders: Mapping[int, Tensor], device: torch.device) -> Tensor:
    """Which entries of a dimension come where, ``[size]``."""
    if size.kind == "leaf" and size.index in orders:
        return orders[size.index].to(device)
    if size.kind in ("leaf", "fixed"):
        return torch.arange(size.size, device=device)
    if size.kind == "sum":
        starts = np.cumsum([0, *(part.size for part in size.parts)])
        pairs = zip(size.parts, starts.tolist(), strict=False)
        return torch.cat([_places(part, orders, device) + start for part, start in pairs])
    found = torch.zeros(1, dtype=torch.int64, device=device)
    for part in size.parts:
        found = (found[:, None] * part.size + _places(part, orders, device)).flatten()
    return found
