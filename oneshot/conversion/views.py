"""Rules of operators that only look at tensors in another way, take them apart or put them together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .axes import Axis, fixed, product, split_off, total
from .tied import Axes, Rule


def view(r: Rule) -> None:
    """Sides are merged and split; what stays together is found from the beginning."""
    axes, shape = r.of(r.op.inputs[0]), r.outputs()[0]
    if 0 in shape:
        return
    found: Axes = []
    old = [axis for axis in axes if axis.found().size != 1]
    new = [size for size in shape if size != 1]
    merged: Axes = []
    i = j = 0
    while i < len(old) or j < len(new):
        start_i, start_j, left, right = i, j, old[i].found().size, new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * old[i].found().size, i + 1
            else:
                right, j = right * new[j], j + 1
        merged += regroup(r, old[start_i:i], new[start_j:j])
    rest = iter(merged)
    found = [next(rest) if size != 1 else fixed(1, r.why) for size in shape]
    r.out(found)


def regroup(r: Rule, old: Axes, new: Sequence[int]) -> Axes:
    """Axes of sizes ``new`` whose product is that of ``old``."""
    if len(old) == 1 and len(new) == 1:
        return old
    if len(new) == 1:
        return [product(old)]
    whole = product(old)
    parts = whole.found().parts if whole.found().kind == "product" else ()
    sizes, groups, rest = [part.found().size for part in parts], [], list(parts)
    for size in new:  # parts that there are already, so that none has to be split
        taken: Axes = []
        while rest and math.prod(part.found().size for part in taken) < size:
            taken.append(rest.pop(0))
        if math.prod(part.found().size for part in taken) != size:
            break
        groups.append(product(taken))
    if sizes and len(groups) == len(new) and not rest:
        return groups
    fresh = [Axis(size) for size in new]
    r.unify(whole, product(fresh))
    return fresh


def permute(r: Rule) -> None:
    """Sides in another order."""
    axes = r.of(r.op.inputs[0])
    name = r.op.name.rstrip("_")
    if name == "t":
        order = list(range(len(axes)))[::-1]
    elif name == "permute":
        order = [dim % len(axes) for dim in r["dims"]]
    else:
        order = list(range(len(axes)))
        first, second = r["dim0"] % len(axes), r["dim1"] % len(axes)
        order[first], order[second] = second, first
    r.out([axes[dim] for dim in order])


def squeeze(r: Rule) -> None:
    """Sides of one entry go."""
    axes, shape = r.of(r.op.inputs[0]), r.outputs()[0]
    dims = r.args.get("dim")
    dims = range(len(axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    drop = {dim % len(axes) for dim in dims if axes[dim].found().size == 1}
    if len(axes) - len(drop) == len(shape):
        r.out([axis for dim, axis in enumerate(axes) if dim not in drop])


def unsqueeze(r: Rule) -> None:
    """A side of one entry more."""
    axes = list(r.of(r.op.inputs[0]))
    axes.insert(r["dim"] % (len(axes) + 1), fixed(1, r.why))
    r.out(axes)


def expand(r: Rule) -> None:
    """Sides of one entry are repeated."""
    axes, shape = r.of(r.op.inputs[0]), r.outputs()[0]
    offset = len(shape) - len(axes)
    r.out(
        [
            axes[dim - offset] if dim >= offset and axes[dim - offset].found().size == size else Axis(size)
            for dim, size in enumerate(shape)
        ]
    )


def sliced(r: Rule) -> None:
    """Entries of a side that follow each other."""
    axes = list(r.of(r.op.inputs[0]))
    dim = r.args.get("dim", 0) % len(axes)
    size, step = axes[dim].found().size, r.args.get("step", 1)
    start = min(max(r.args.get("start") or 0, -size), size)
    start = start + size if start < 0 else start
    length = r.outputs()[0][dim]
    if length != size:
        if step == 1:
            parts = split_off(axes[dim], [n for n in (start, length, size - start - length) if n], r.why)
            axes[dim] = parts[1 if start else 0]
        else:
            axes[dim].freeze(r.why)
            axes[dim] = fixed(length, r.why)
    r.out(axes)


def split(r: Rule) -> None:
    """Parts of a side that follow each other."""
    axes, shapes = r.of(r.op.inputs[0]), r.outputs()
    dim = r.args.get("dim", 0) % len(axes)
    parts = split_off(axes[dim], [shape[dim] for shape in shapes], r.why)
    if r.op.name in ("split", "unsafe_split") and len({part.size for part in parts}) == 1:
        r.tied.equal.append(tuple(parts))  # in equal parts, also of a narrower network
    for place, part in enumerate(parts):
        r.out([*axes[:dim], part, *axes[dim + 1 :]], place)


def select(r: Rule) -> None:
    """One entry of a side, or each of them."""
    axes = r.of(r.op.inputs[0])
    dim = r.args.get("dim", 0) % len(axes)
    axes[dim].freeze("single entries of it are taken")
    for place in range(len(r.op.outputs)):
        r.out([*axes[:dim], *axes[dim + 1 :]], place)


def cat(r: Rule) -> None:
    """One tensor after the other."""
    parts = [r.of(number) for number in r.op.inputs if 0 not in r.shape(number)]
    dim = r.args.get("dim", 0) % len(parts[0])
    axes = list(parts[0])
    for other in parts[1:]:
        for place, side in enumerate(other):
            if place != dim:
                r.unify(axes[place], side)
    axes[dim] = total([part[dim] for part in parts])
    r.out(axes)


def stack(r: Rule) -> None:
    """Tensors beside each other, along a new side."""
    parts = [r.of(number) for number in r.op.inputs]
    for other in parts[1:]:
        for side, own in zip(parts[0], other, strict=True):
            r.unify(side, own)
    axes = list(parts[0])
    axes.insert(r.args.get("dim", 0) % (len(axes) + 1), fixed(len(parts), r.why))
    r.out(axes)


def pad(r: Rule) -> None:
    """Entries before and after those of a side."""
    axes, shape = list(r.of(r.op.inputs[0])), r.outputs()[0]
    pads: Sequence[int] = r["pad"] if "pad" in r.args else r["padding"]
    for place in range(len(pads) // 2):
        dim, before, after = len(axes) - 1 - place, pads[2 * place], pads[2 * place + 1]
        if before == after == 0:
            continue
        if r.op.name == "constant_pad_nd" and before >= 0 and after >= 0:
            axes[dim] = total(
                [*([fixed(before, r.why)] if before else []), axes[dim], *([fixed(after, r.why)] if after else [])]
            )
        else:
            axes[dim].freeze(r.why)
            axes[dim] = fixed(shape[dim], r.why)
    r.out(axes)
