"""What can vary in a network: groups of channels and heads, blocks that can be left out, and why the rest is fixed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from oneshot._lightning import ConvNd
from oneshot.inputs import Inputs
from oneshot.supernets.base import restored_modes

from .attributes import bind_attributes, bindings
from .axes import Axis, Shape, extent
from .blocks import stages
from .draft import Draft, Limits, asked, identifier, unique
from .features import bind_features
from .graph import Fixed, Graph, Group, leaf_sizes, resized, state_at
from .rules import tie
from .trace import Op, TraceError, trace

TRIES = 200  # runs that may look for what has to be frozen
COPIES = ("clone", "contiguous")  # of one head, or one channel, nothing has to be copied to be seen in another order
VIEWS = ("view", "_unsafe_view", "_reshape_alias")


def analyse(network: nn.Module, inputs: Inputs, limits: Limits) -> Graph:
    """Find out what can vary.

    Args:
        network: Any network; it stays as it is.
        inputs: A batch of at least two samples.
        limits: What may vary.

    Raises:
        TraceError: If the network does not run without numbers.
    """
    with restored_modes(network):  # in training mode, weights of parametrised layers change when they are looked at
        return _analysed(network.eval(), inputs, limits)


def _analysed(network: nn.Module, inputs: Inputs, limits: Limits) -> Graph:
    found = trace(network, inputs)
    draft = Draft(network, inputs, limits, found, tie(found))
    _freeze_kernels(draft)
    _freeze_recurrent(draft)
    _freeze_asked(draft)
    bind_attributes(draft)
    _freeze_heads(draft)
    for _ in range(TRIES):
        graph = _graph(draft)
        if not _freeze_what_fails(draft, graph):
            bind_features(draft)
            graph = _graph(draft)
            _check_training(draft, graph)
            return graph
    for leaf in draft.candidates():
        leaf.freeze("the network did not run with other sizes")
    return _graph(draft)


def _freeze_kernels(draft: Draft) -> None:
    """Only depthwise kernels of odd size may become smaller, and only if that is asked for."""
    for path, module in draft.network.named_modules():
        if not isinstance(module, ConvNd):
            continue
        number = draft.trace.names.get(f"{path}.weight" if path else "weight")
        sides = draft.tied.axes.get(-1 if number is None else number, ())[2:]
        sizes = [side.found().size for side in sides]
        if not sizes:  # it does not run
            continue
        depthwise = module.groups == module.in_channels == module.out_channels and not module.transposed
        shrinks = len(set(sizes)) == 1 and sizes[0] > 3 and sizes[0] % 2 == 1 and depthwise
        pads = isinstance(module.padding, tuple) and all(
            p in (0, d * (s - 1) // 2) for p, d, s in zip(module.padding, module.dilation, sizes, strict=False)
        )
        if draft.limits.kernel and shrinks and pads:
            draft.tied.equal.append(tuple(sides))
        else:
            for side in sides:
                side.freeze("it is a kernel")
    for axes in draft.tied.axes.values():
        for axis in axes:
            for leaf in axis.leaves():
                if leaf.centred and not any(leaf in group for group in map(_found, draft.tied.equal)):
                    leaf.freeze("it is a kernel")


def _freeze_recurrent(draft: Draft) -> None:
    """Recurrent layers keep their sides: their gates are parts of one matrix that the layer itself takes apart."""
    for path, module in draft.network.named_modules():
        if not isinstance(module, nn.RNNBase | nn.RNNCellBase):
            continue
        for name, _ in module.named_parameters():
            for axis in draft.tied.axes.get(draft.trace.names.get(f"{path}.{name}" if path else name, -1), ()):
                axis.freeze(f"the recurrent layer {path or type(module).__name__} keeps its sizes")


def _found(axes: Sequence[Axis]) -> list[Axis]:
    return [axis.found() for axis in axes]


def _freeze_asked(draft: Draft) -> None:
    for name, number in draft.trace.names.items():
        pattern = asked(draft.limits, name)
        for axis in draft.tied.axes.get(number, ()) if pattern is not None else ():
            axis.freeze(f"freeze={pattern!r} asks for it")


def _freeze_heads(draft: Draft) -> None:
    for axes in draft.tied.axes.values():
        for axis in axes:
            for leaf in axis.leaves():
                if leaf.heads and not draft.limits.heads:
                    leaf.freeze("heads=False asks for it")


# From axes to a graph.


def _graph(draft: Draft) -> Graph:
    candidates = draft.candidates()
    groups, leaves = _groups(draft, candidates)
    for leaf in candidates:
        if leaf not in leaves:
            leaf.freeze(_too_small(draft.limits))
    axes = draft.tied.axes
    weights = {name: _shape(axes.get(n, ()), leaves) for name, n in draft.trace.names.items()}
    head = _head(draft)
    return Graph(
        trace=draft.trace,
        leaves=tuple(leaf.size for leaf in leaves),
        centred=frozenset(index for leaf, index in leaves.items() if leaf.centred),
        shapes={number: _shape(sides, leaves) for number, sides in axes.items()},
        weights=weights,
        factors={place: _shape(sides, leaves) for place, sides in draft.tied.factors.items()},
        bindings=tuple(bindings(draft, leaves)),
        groups=groups,
        stages=stages(draft) if draft.limits.depth else (),
        fixed=tuple(_fixed(draft)),
        head=head,
        unknown=tuple(dict.fromkeys((n, draft.trace.ops[i].module) for i, n in draft.tied.unknown.items())),
    )


def _too_small(limits: Limits) -> str:
    return f"it has too few channels for multiple={limits.multiple} to leave a smaller width"


def _shape(axes: Sequence[Axis], leaves: Mapping[Axis, int]) -> Shape:
    return tuple(extent(axis, leaves) for axis in axes)


def _groups(
    draft: Draft, candidates: Mapping[Axis, Sequence[tuple[str, int]]]
) -> tuple[tuple[Group, ...], dict[Axis, int]]:
    """Leaves that have one size, with the sizes they can have."""
    tied = _freeze_with_others(draft, candidates)
    candidates = {leaf: uses for leaf, uses in candidates.items() if not leaf.fixed}
    parent = {leaf: leaf for leaf in candidates}

    def root(leaf: Axis) -> Axis:
        while parent[leaf] is not leaf:
            leaf = parent[leaf]
        return leaf

    for leaves in tied:
        for one, other in itertools.pairwise(leaves):
            parent[root(one)] = root(other)
    members: dict[Axis, list[Axis]] = {}
    for leaf in candidates:
        members.setdefault(root(leaf), []).append(leaf)
    groups, numbers, taken = [], dict[Axis, int](), set[str]()
    for own in members.values():
        uses = [use for leaf in own for use in candidates[leaf]]
        unit = math.gcd(*(unit for _, unit in uses))
        kind = "kernel" if own[0].centred else "heads" if any(leaf.heads for leaf in own) else "width"
        sizes = _sizes(own[0].size, unit, kind, draft.limits)
        sizes = sizes[1:] if sizes[0] == 1 and any(leaf in draft.several for leaf in own) else sizes
        if len(sizes) == 1:
            continue
        for leaf in own:
            numbers[leaf] = len(numbers)
        names = list(dict.fromkeys(name for name, _ in uses))
        name = unique(f"{kind}_{identifier(_named_for(draft, own, names))}", taken)
        indices = tuple(numbers[leaf] for leaf in own)
        groups.append(Group(name, indices, own[0].size, unit, sizes, kind, tuple(names)))
    return tuple(groups), numbers


def _freeze_with_others(draft: Draft, candidates: Mapping[Axis, object]) -> list[list[Axis]]:
    """Leaves that must have one size, in lists; where one is fixed, all others are frozen."""
    parts = [[[*axis.leaves()] for axis in axes] for axes in draft.tied.equal]
    parts = [own for own in parts if any(leaves != own[0] for leaves in own)]  # others are equal by themselves
    again = True
    while again:
        again = False
        for own in parts:
            free = [leaf for leaves in own for leaf in leaves if leaf in candidates and not leaf.fixed]
            if free and (any(len(leaves) > 1 for leaves in own) or len(free) < len(own)):
                for leaf in free:
                    leaf.freeze("it must be as large as something that is fixed")
                again = True
    return [
        [leaves[0] for leaves in own]
        for own in parts
        if all(leaves[0] in candidates and not leaves[0].fixed for leaves in own)
    ]


def _sizes(size: int, unit: int, kind: str, limits: Limits) -> tuple[int, ...]:
    if kind == "kernel":
        return tuple(range(3, size + 1, 2))
    step = 1 if kind == "heads" else limits.multiple // math.gcd(limits.multiple, unit)
    found = {min(size, max(step, round(size * ratio / step) * step)) for ratio in limits.width}
    return tuple(sorted(found | {size}))


def _named_for(draft: Draft, leaves: Sequence[Axis], names: Sequence[str]) -> str:
    """The layer that makes the channels: the first whose outputs they are."""
    for name in names:
        axes = draft.tied.axes[draft.trace.names[name]]
        if len(axes) > 1 and any(leaf in leaves for leaf in axes[0].leaves()):
            return name.rpartition(".")[0] or name
    return names[0].rpartition(".")[0] or names[0]


def _fixed(draft: Draft) -> Iterator[Fixed]:
    """Sides of parameters that do not vary at all, and why."""
    told: dict[tuple[Axis, str], list[str]] = {}
    for name in dict(draft.network.named_parameters()):
        for axis in draft.tied.axes.get(draft.trace.names[name], ()):
            leaves = [leaf for leaf in axis.leaves() if leaf.size > 1]
            if leaves and all(leaf.fixed for leaf in leaves) and "kernel" not in leaves[0].fixed:
                told.setdefault((axis.found(), leaves[0].fixed), []).append(name)
    for (axis, why), names in told.items():
        more = len(dict.fromkeys(names)) - 1
        yield Fixed(names[0] + (f" and {more} more" if more else ""), axis.size, why)
    for name, value in draft.kept:
        yield Fixed(f"attribute {name}", value, "it keeps its value: forward reads it, or no layer has outputs of it")


def _head(draft: Draft) -> str | None:
    """The layer whose outputs are the only outputs of the network."""
    outputs = draft.trace.outputs
    if len(outputs) != 1:
        return None
    number = outputs[0]
    for _ in range(8):
        op = next((op for op in draft.trace.ops[::-1] if number in op.outputs), None)
        if op is None:
            return None
        if op.name in ("addmm", "mm", "linear", "convolution"):
            module = draft.network.get_submodule(op.module)
            return op.module if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) else None
        if op.name not in ("view", "_unsafe_view", "clone", "squeeze", "mean", "select", "alias", "dropout", "reshape"):
            return None
        number = op.inputs[0]
    return None


# Trying it.


def _freeze_what_fails(draft: Draft, graph: Graph) -> bool:
    """Run the smallest network and a random one; freeze what does not fit. Whether anything was frozen."""
    rng = np.random.default_rng(0)
    rows = [[group.sizes[0] for group in graph.groups]]
    rows += [[group.sizes[rng.integers(len(group.sizes))] for group in graph.groups] for _ in range(2)]
    for row in rows if graph.groups else ():
        failed = _first_failure(draft, graph, leaf_sizes(graph, row))
        if failed is None:
            continue
        _blame(draft, graph, failed)
        return True
    return False


@dataclass(frozen=True)
class Failure:
    """The first operator that does not do what was predicted.

    Args:
        place: Its number.
        module: Path of the module it ran in.
        why: What happened.
        leaves: Leaves that the sizes of its tensors depend on.
    """

    place: int
    module: str
    why: str
    leaves: frozenset[int]


def _first_failure(draft: Draft, graph: Graph, sizes: Sequence[int]) -> Failure | None:
    ops, cause = draft.trace.ops, ""
    try:
        with resized(draft.network, graph, sizes):
            now = trace(draft.network, draft.inputs, state_at(draft.network, graph, sizes), attributes=False)
    except TraceError as error:
        told = (str(error.cause).strip().splitlines() or [""])[0][:100]
        where = error.module or "the network"
        now, cause = error.trace, f"{where} does not run with another size ({type(error.cause).__name__}: {told})"
    running = [op for op in now.ops if op.name not in COPIES]
    for step, (place, op) in enumerate((i, op) for i, op in enumerate(ops) if op.name not in COPIES):
        where = f"{op.module or 'the network'} (operator {op.name})"
        what = cause or f"with another size other operators run in {where}"
        if step < len(running) and _kind(running[step]) == _kind(op):
            wrong = [
                old
                for old, new in zip(op.outputs, running[step].outputs, strict=False)
                if tuple(side.at(sizes) for side in graph.shapes[old]) != now.tensors[new].shape
            ]
            if not wrong:
                continue
            what = f"a size is written in the code of {where}"
        numbers = {*op.inputs, *op.outputs}
        leaves = frozenset(i for n in numbers for side in graph.shapes.get(n, ()) for i in side.indices())
        changed = frozenset(i for i in leaves if sizes[i] != graph.leaves[i])
        return Failure(place, op.module, what, changed)
    return None


def _check_training(draft: Draft, graph: Graph) -> None:
    """Check that other sizes also run in training mode, in which some networks run other layers."""
    sizes = leaf_sizes(graph, [group.sizes[0] for group in graph.groups])
    network, inputs = draft.network, draft.inputs
    try:
        with resized(network, graph, sizes):
            found = trace(network, inputs, state_at(network, graph, sizes), attributes=False, training=True)
    except TraceError as error:
        trace(network, inputs, attributes=False, training=True)  # raises what has nothing to do with sizes
        told = (str(error.cause).strip().splitlines() or [type(error.cause).__name__])[0][:120]
        raise ValueError(
            "A network to convert must run the same layers in training as in evaluation; in training "
            f"{error.module or 'it'} does not follow the sizes of the others ({told}). Build the network without "
            "auxiliary outputs, or name what they read in freeze=."
        ) from error.cause
    draft.trace.changed.update({place: was for place, was in found.changed.items() if place not in draft.trace.changed})


def _kind(op: Op) -> str:
    return "view" if op.name in VIEWS else op.name


def _blame(draft: Draft, graph: Graph, failed: Failure) -> None:
    """Freeze the groups that make an operator fail, each tried alone; all that it has to do with if none does alone."""
    owners = [group for group in graph.groups if failed.leaves & set(group.leaves)] or list(graph.groups)
    guilty = []
    for group in owners:
        alone = [own.sizes[0] if own is group else own.size for own in graph.groups]
        if len(owners) > 1 and _first_failure(draft, graph, leaf_sizes(graph, alone)) is None:
            continue
        guilty.append(group)
    numbers = {leaf: i for i, leaf in enumerate(_leaves_in_order(draft, graph))}
    for group in guilty or owners:
        own = [leaf for leaf, index in numbers.items() if index in group.leaves]
        single = group.sizes[0] == 1 and len(group.sizes) > 2 and not any(leaf in draft.several for leaf in own)
        for leaf in own:  # one head alone may take another way through the code
            draft.several.add(leaf) if single else leaf.freeze(failed.why)


def _leaves_in_order(draft: Draft, graph: Graph) -> list[Axis]:
    return list(_groups(draft, draft.candidates())[1])
