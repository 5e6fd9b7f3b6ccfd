"""``oneshot show``: picture and size of an architecture, or what can vary in a network that can be converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oneshot.conversion.network import ConvertedNetwork
from oneshot.conversion.sources import is_source
from oneshot.conversion.supernet import ConvertedSupernet, convert
from oneshot.cost.counting.network import count
from oneshot.engine.module import SearchModule
from oneshot.report.cells import draw_cells
from oneshot.report.style import save_figure
from oneshot.report.tables import network_table
from oneshot.supernets.json_files import parse_json

from .early_checks import GENOTYPE
from .networks import network_named
from .next_steps import next_step
from .run import RunFolder, is_run
from .terminal import say


def show(
    target: str,
    *,
    out: str | None = None,
    arguments: str | None = None,
    input_shape: str | None = None,
    trust: Sequence[str] = (),
) -> None:
    """``oneshot show TARGET``: picture of the architecture, table of parameters and MACs.

    Of a network to convert, such as ``timm:resnet18``, a table of what can vary and what cannot, with the reasons.

    Args:
        target: What to show.
        out: Picture to write.
        arguments: Of the function that builds a network to convert, JSON.
        input_shape: Of one of its inputs, JSON.
        trust: Modules besides ``oneshot`` whose classes may be imported and built.
    """
    if is_source(target) and not Path(target).exists():
        say(str(_converted(target, arguments, input_shape)))
        return say(next_step("profile", "--from", target))
    if given := [name for name, value in (("arguments", arguments), ("input-shape", input_shape)) if value is not None]:
        raise ValueError(
            f"--{given[0]} must be with a network to convert, such as timm:resnet18; {target!r} is none. Leave it out."
        )
    network = network_named(target, inherit=False, trust=trust)
    if isinstance(network, ConvertedNetwork) and is_run(target):
        search = RunFolder(Path(target), tuple(trust)).module()
        if isinstance(search, SearchModule):
            say(str(search.evaluation_supernet))
    graphs = network.graphs()
    name = "genotype" if GENOTYPE.search(target) else Path(target).name
    path = save_figure(draw_cells(graphs, title=name), out or f"{_slug(name)}.png")
    counts = count(network, network.input_shape)
    edges = [
        {"cell": graph.name, "edge": f"{graph.nodes[source]} → {graph.nodes[end]}", "operation": label}
        for graph in graphs
        for source, end, label in graph.edges
        if label
    ]
    size = {
        "network": type(network).__name__,
        "input": _shape_text(network.input_shape),
        "params": counts.params,
        "MACs": counts.macs,
    }
    say(network_table(edges))
    say(network_table([size]))
    say(f"Picture: {path}")
    if not GENOTYPE.search(target):  # the text of one is no line to copy
        say(next_step("export", target) if is_run(target) else next_step("retrain", target, "--help"))


def _converted(source: str, arguments: str | None, input_shape: str | None) -> ConvertedSupernet:
    given = [
        None if text is None else parse_json(text, f"--{name}", advice=f"For example --{name} {example}")
        for name, text, example in (
            ("arguments", arguments, "'{\"in_chans\": 1}'"),
            ("input-shape", input_shape, "'[3, 64, 64]'"),
        )
    ]
    return convert(source=source, arguments=given[0], input_shape=given[1])


def _shape_text(shape: Any) -> str:
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {_shape_text(part)}" for name, part in shape.items())
    return "x".join(map(str, shape))


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(text).name).strip("_") or "network"
