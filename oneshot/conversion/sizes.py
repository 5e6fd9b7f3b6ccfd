"""Sizes that the code of a network computes from others: ``channels // heads`` ties channels to heads."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from .axes import Axis, product, split_leaf, total
from .draft import Draft
from .trace import TrackedInt, Written

Attribute: TypeAlias = tuple[str, str, int | None]
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53)


def same_size(draft: Draft, first: Axis, second: Axis, why: str) -> None:
    """Let two axes have one size, each its own order; freeze both where their parts do not fit together.

    Args:
        draft: What holds the axes.
        first: An axis.
        second: Of the same size.
        why: The reason, should they be frozen.
    """
    first, second = first.found(), second.found()
    if first is second:
        return
    if first.kind != "leaf" and second.kind == "leaf":
        first, second = second, first
    if first.kind == "leaf" and second.kind == "product" and not any(leaf is first for leaf in second.leaves()):
        split_leaf(first, product([Axis(part.found().size) for part in second.parts]))
        for part, other in zip(first.found().parts, second.parts, strict=True):
            same_size(draft, part, other, why)
        return
    if first.kind == second.kind == "leaf":
        if first.fixed or second.fixed:
            first.freeze(second.fixed)
            second.freeze(first.fixed)
        else:
            draft.tied.equal.append((first, second))
        return
    fits = first.kind == second.kind and len(first.parts) == len(second.parts)
    if fits and all(a.found().size == b.found().size for a, b in zip(first.parts, second.parts, strict=True)):
        for part, other in zip(first.parts, second.parts, strict=True):
            same_size(draft, part, other, why)
        return
    first.freeze(why)
    second.freeze(why)


def relate(draft: Draft) -> None:
    """Tie sizes that the code computes from others; those that follow no rule here are frozen when they fail."""
    known: dict[Attribute, Axis] = {}
    for attribute, own in draft.written:
        known.setdefault(attribute, own)
    relations = [w for w in draft.trace.written if w.value.formula is not None or w.value.side is not None]
    for written in relations:
        _bind_factor(draft, known, written)
    for written in relations:
        axis = _axis_of(draft, written)
        if axis is not None and not _holds(draft, known, written.value, axis):
            _tie(draft, known, written.value, axis)


def _axis_of(draft: Draft, written: Written) -> Axis | None:
    axes = draft.tied.axes.get(written.tensor, [])
    return _sized(axes, written.dim, int(written.value))


def _sized(axes: Sequence[Axis], dim: int, size: int) -> Axis | None:
    """The axis of a dimension, if it is there and has this size."""
    axis = axes[dim].found() if dim < len(axes) else None
    return axis if axis is not None and axis.size == size else None


def _side(draft: Draft, known: Mapping[Attribute, Axis], value: object) -> Axis | None:
    """The axis that a number is the size of; None of computed ones and of those that stand in the code."""
    if isinstance(value, TrackedInt):
        if value.attribute is not None:
            return known[value.attribute].found() if value.attribute in known else None
        if value.side is not None:
            return _sized(draft.tied.axes.get(value.side[0], []), value.side[1], int(value))
    return None


def _bind_factor(draft: Draft, known: dict[Attribute, Axis], written: Written) -> None:
    """Of ``batch * heads`` the attribute ``heads`` is the inner part."""
    axis, formula = _axis_of(draft, written), written.value.formula
    if axis is None or formula is None:
        return
    if formula[0] is operator.floordiv:
        _bind_parts(draft, known, axis, formula[1])
    if axis.kind != "product" or formula[0] is not operator.mul:
        return
    left, right = formula[1]
    attributes = [v.attribute if isinstance(v, TrackedInt) else None for v in (left, right)]
    sizes = [part.found().size for part in axis.parts]
    for cut in range(1, len(sizes)):
        parts = product(axis.parts[:cut]), product(axis.parts[cut:])
        if (parts[0].size, parts[1].size) == (int(left), int(right)):
            for attribute, part in zip(attributes, parts, strict=True):
                if attribute is not None and attribute not in known:
                    known[attribute] = part
                    draft.written.append((attribute, part))


def _bind_parts(draft: Draft, known: dict[Attribute, Axis], axis: Axis, args: tuple[object, ...]) -> None:
    """Of ``split(channels // 2)`` the attribute ``channels`` is both parts together."""
    whole, count = args
    attribute = whole.attribute if isinstance(whole, TrackedInt) else None
    if attribute is None or attribute in known or not isinstance(count, int):
        return
    for parts in draft.tied.equal:
        if len(parts) == count and any(part.found() is axis for part in parts):
            known[attribute] = total(parts)
            draft.written.append((attribute, known[attribute]))
            return


# Whether a relation holds at other sizes, tried with some.


def _holds(draft: Draft, known: Mapping[Attribute, Axis], value: TrackedInt, axis: Axis) -> bool:
    for shift in range(3):
        sizes = _trial(draft, shift)
        if _number(draft, known, value, sizes) != _size(axis, sizes):
            return False
    return True


def _trial(draft: Draft, shift: int) -> dict[int, int]:
    """Other sizes for leaves, the same for those that are tied; by identity."""
    sizes: dict[int, int] = {}
    for group in draft.tied.equal:
        leaves = [[*axis.leaves()] for axis in group]
        if len({len(own) for own in leaves}) != 1:
            continue
        for same in zip(*leaves, strict=True):
            known = next((sizes[id(leaf)] for leaf in same if id(leaf) in sizes), PRIMES[(len(sizes) + shift) % 16])
            for leaf in same:
                sizes[id(leaf)] = known
    sizes[0] = shift
    return sizes


def _size(axis: Axis, sizes: dict[int, int]) -> int:
    axis = axis.found()
    if axis.kind == "leaf":
        if axis.fixed:
            return axis.size
        return sizes.setdefault(id(axis), PRIMES[(len(sizes) + sizes[0]) % 16])
    values = [_size(part, sizes) for part in axis.parts]
    found = 1 if axis.kind == "product" else 0
    for value in values:
        found = found * value if axis.kind == "product" else found + value
    return found


def _number(draft: Draft, known: Mapping[Attribute, Axis], value: object, sizes: dict[int, int]) -> int:
    axis = _side(draft, known, value)
    if axis is not None:
        return _size(axis, sizes)
    if isinstance(value, TrackedInt) and value.formula is not None:
        function, args = value.formula
        try:
            return function(*(_number(draft, known, arg, sizes) for arg in args))
        except ZeroDivisionError:
            return -1
    return int(value)  # type: ignore[call-overload, no-any-return]  # a whole number


# Making it hold.


def _tie(draft: Draft, known: Mapping[Attribute, Axis], value: TrackedInt, axis: Axis) -> None:
    """Let an axis have the size that the code computes."""
    why = f"the code computes a size of {axis.size} from another one"
    whole = _side(draft, known, value)
    if whole is not None:
        same_size(draft, whole, axis, why)
        return
    if value.formula is None or len(value.formula[1]) != 2:
        return
    function, (left, right) = value.formula
    whole, part = _side(draft, known, left), _side(draft, known, right)
    if function is operator.floordiv and whole is not None:
        halves = whole.parts if whole.kind == "sum" else ()
        if len(halves) == int(right) and all(half.found().size == axis.size for half in halves):
            for half in halves:
                same_size(draft, half, axis, why)
        elif part is not None and whole.kind == "leaf" and int(right) * axis.size == whole.size:
            factors = [Axis(int(right)), Axis(axis.size)]
            split_leaf(whole, product(factors))
            for factor, other in zip(factors, (part, axis), strict=True):
                if factor.size > 1:
                    same_size(draft, factor, other, why)
