"""Blocks that compute their input plus something, and so can be left out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from .axes import Axis
from .draft import Draft, asked, identifier, unique
from .graph import Stage
from .trace import Call, Op

PASSING = {
    *("add", "clone", "alias", "view", "_unsafe_view", "permute", "transpose", "relu", "dropout", "contiguous", "mul"),
}
NORMALISED = {"native_batch_norm", "native_layer_norm", "native_group_norm"}


def stages(draft: Draft) -> tuple[Stage, ...]:
    """Runs of blocks that can be left out, the last ones first. At least half of the blocks of a container stay."""
    paths = [call.path for call in draft.trace.calls]
    droppable = [call for call in draft.trace.calls if paths.count(call.path) == 1 and _can_be_left_out(draft, call)]
    numbered = [call for call in droppable if call.path.rpartition(".")[2].isdigit()]
    chosen = _innermost(numbered)
    rest = [c for c in droppable if c not in numbered and not any(_within(c, n) or _within(n, c) for n in chosen)]
    chosen = sorted([*chosen, *_innermost(rest)], key=lambda call: call.first)
    runs: list[list[Call]] = []
    for call in chosen:
        parent, before = call.path.rpartition(".")[0], runs[-1][-1] if runs else None
        follows = before is not None and before.path.rpartition(".")[0] == parent and _one_stream(draft, before, call)
        runs[-1].append(call) if follows else runs.append([call])
    taken, found = set[str](), []
    for run in runs:
        parent = run[0].path.rpartition(".")[0]
        siblings = {c.path for c in draft.trace.calls if c.path.rpartition(".")[0] == parent}
        container = isinstance(draft.network.get_submodule(parent), nn.Sequential | nn.ModuleList)
        others = len(siblings) - len(run) if container else 0
        least = max(0 if others else 1, math.ceil((others + len(run)) / 2) - others)
        if least < len(run):
            name = unique(f"depth_{identifier(parent or run[0].path)}", taken)
            found.append(Stage(name, tuple(call.path for call in run), others, least))
    return tuple(found)


def _within(inner: Call, outer: Call) -> bool:
    return inner is not outer and inner.path.startswith(f"{outer.path}.")


def _innermost(calls: Sequence[Call]) -> list[Call]:
    return [call for call in calls if not any(_within(other, call) for other in calls)]


def _can_be_left_out(draft: Draft, call: Call) -> bool:
    """Whether a module computes its input plus something, of the same axes."""
    if not (call.passes and call.path and len(call.outputs) == 1):
        return False
    first, last = call.inputs[0], call.outputs[0]
    if first == last or not any(place in draft.tied.factors for place in range(call.first, call.last)):
        return False
    if not _same_axes(draft, first, last):
        return False
    names = [name for name in draft.trace.names if name.startswith(f"{call.path}.")]
    frozen = any(asked(draft.limits, name) is not None for name in names)
    return not frozen and _reaches(draft.trace.ops[call.first : call.last], last, first)


def _one_stream(draft: Draft, before: Call, call: Call) -> bool:
    """Whether a block goes on with what another one returned, whatever ran in between."""
    return _same_axes(draft, before.outputs[0], call.inputs[0])


def _same_axes(draft: Draft, first: int, second: int) -> bool:
    axes = [[side.found() for side in draft.tied.axes[number]] for number in (first, second)]
    return len(axes[0]) == len(axes[1]) and all(_one(a, b) for a, b in zip(*axes, strict=True))


def _one(first: Axis, second: Axis) -> bool:
    return (
        first is second
        or (first.size == second.size and [*first.leaves()] == [*second.leaves()])
        or (first.size == second.size == 1)
    )


def _reaches(ops: Sequence[Op], number: int, goal: int) -> bool:
    """Whether a tensor is the sum of another one and something else."""
    summed, waiting, seen = False, [number], set[int]()
    while waiting:
        number = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        for op in ops:
            if number not in op.outputs:
                continue
            name = op.name.rstrip("_")
            if name not in PASSING | NORMALISED and not (len(op.inputs) == 1 and torch.Tag.pointwise in op.func.tags):
                continue
            inputs = op.inputs[:1] if name in NORMALISED else op.inputs
            summed |= name == "add" and len(inputs) > 1
            waiting += [i for i in inputs if i != goal]
            if goal in inputs and summed:
                return True
    return False
