"""The table that is printed of a converted network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from oneshot.cost.counting.network import Counts

from .graph import Fixed, Graph
from .sources import LoadedWeights
from .space import ConvertedSpace

MOST_FIXED = 12  # lines about what does not vary


def table(
    network: nn.Module,
    graph: Graph,
    space: ConvertedSpace,
    smallest: Counts,
    largest: Counts,
    loaded: LoadedWeights | None = None,
) -> str:
    """What can vary, what is fixed and why, and how small and large the networks are."""
    rows = [("choice", "what can be kept", "of", "layers")]
    if space.has_resolutions:
        choice = space.choices[0]
        rows.append((choice.name, _listed(choice.candidates), str(choice.candidates[-1]), "all"))
    for group in graph.groups:
        unit = f" x {group.unit}" if group.unit > 1 else ""
        rows.append((group.name, _listed(group.sizes), f"{group.size}{unit}", _layers(group.weights)))
    for stage in graph.stages:
        total = stage.others + len(stage.blocks)
        depths = range(stage.others + stage.least, total + 1)
        rows.append((stage.name, _listed(depths), f"{total}", f"{stage.blocks[0]} to {stage.blocks[-1]}"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{type(network).__name__}, converted: {len(graph.groups)} groups, {sum(len(s.blocks) for s in graph.stages)}"
        f" blocks that can be left out, {_number(space.size)} architectures"
    ]
    lines += ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
    lines += ["", *_fixed(graph.fixed)]
    if graph.unknown:
        told = ", ".join(f"{name} in {module or 'the network'}" for name, module in graph.unknown[:MOST_FIXED])
        lines += [f"operators without a rule, which hold what they touch: {told}", ""]
    lines += [
        f"smallest: {smallest.params:,} parameters, {smallest.macs:,} MACs",
        f"largest:  {largest.params:,} parameters, {largest.macs:,} MACs",
    ]
    return "\n".join([*lines, *([] if loaded is None else [f"weights:  {loaded}"])])


def _listed(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


def _layers(weights: Sequence[str]) -> str:
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in weights))
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return layers[0] + more


def _number(count: int) -> str:
    return f"{count:,}" if count < 10**7 else f"{count:.1e}" if count < 10**300 else f"10^{len(str(count)) - 1}"


def _fixed(fixed: Sequence[Fixed]) -> Iterator[str]:
    if not fixed:
        return
    by_reason: dict[str, list[Fixed]] = {}
    for one in fixed:
        by_reason.setdefault(one.why, []).append(one)
    yield "fixed:"
    for why, those in list(by_reason.items())[:MOST_FIXED]:
        told = ", ".join(f"{one.what} ({one.size})" for one in those[:2])
        yield f"  {told}{f' and {len(those) - 2} more' if len(those) > 2 else ''}: {why}"
    if len(by_reason) > MOST_FIXED:
        yield f"  and {len(by_reason) - MOST_FIXED} more reasons: supernet.graph.fixed"
    yield ""
