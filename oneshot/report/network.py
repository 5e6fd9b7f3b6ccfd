"""What a network consists of: its cells, its layers and what each of them costs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .contents import Figure, Files, Section, Table, data_url, size_text

if TYPE_CHECKING:
    from torch import nn

    from oneshot.supernets.base import Subnet

NETWORK = "network.json"
MOST_LAYERS = 200
CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")


def describe_network(network: Subnet) -> str:
    """``network.json`` of a run: class, input, cells as graphs, and parameters, MACs and output of every layer.

    Layers are what the network holds, taken out of lists and of sequences of blocks: stem, cells or blocks, head; in
    the order in which they run. MACs of what runs several times are those of its last run.

    Args:
        network: It runs once, on zeros; it is not changed.
    """
    from oneshot.cost.counting.network import trace
    from oneshot.inputs import json_shape

    layers = dict(_layers(network))
    outputs: dict[Any, Any] = {}
    hooks = [m.register_forward_hook(lambda m, _, out: outputs.__setitem__(m, _shape(out))) for m in layers.values()]
    try:
        counts, visits, _ = trace(network, network.input_shape, layers.values())
    finally:
        for hook in hooks:
            hook.remove()
    order = {layer: i for i, layer in enumerate(outputs)}  # as they ran
    rows = [
        {
            "layer": name,
            "kind": type(layer).__name__,
            "output": outputs.get(layer),
            "params": sum(p.numel() for p in layer.parameters()),
            "macs": visits[layer].macs if layer in visits else None,
        }
        for name, layer in sorted(layers.items(), key=lambda item: order.get(item[1], len(order)))
    ]
    graphs = [{"name": g.name, "nodes": list(g.nodes), "edges": [list(e) for e in g.edges]} for g in network.graphs()]
    content = {
        "schema_version": 1,
        "network": type(network).__name__,
        "architecture": None if network.config is None else str(network.config),
        "input_shape": json_shape(network.input_shape),
        "outputs": network.num_classes,
        "params": counts.params,
        "macs": counts.macs,
        "memory": counts.memory,
        "uncounted": list(counts.uncounted),
        "layers": rows[:MOST_LAYERS],
        "graphs": graphs,
    }
    return json.dumps(content, indent=1) + "\n"


def figures(found: Mapping[str, Any]) -> list[Figure]:
    """Parameters, MACs and memory of ``network.json`` or of a manifest."""
    from oneshot.fronts.numbers import short

    shown = []
    if isinstance(found.get("params"), int):
        shown.append(Figure("parameters", short(found["params"])))
    if isinstance(found.get("macs"), int):
        bound, shape = "a lower bound, " if found.get("uncounted") else "", shape_text(found.get("input_shape"))
        note = f"{bound}one input of {shape}" if found.get("input_shape") else bound
        shown.append(Figure("MACs", short(found["macs"]), note))
    if isinstance(found.get("memory"), int):
        shown.append(Figure("memory of activations", size_text(found["memory"]), "one input, at the peak"))
    return shown


def sections(files: Files, found: Mapping[str, Any]) -> list[Section]:
    """The cells as a picture, and the layers as a table."""
    made = []
    drawn = files.picture("cells.png", "the cells: nodes, and operations on the edges") or _drawn(found)
    if drawn or found.get("architecture"):
        said = [f"{found['network']}: {found['architecture']}"] if found.get("architecture") else []
        made.append(Section("cells", "Architecture", said, pictures=drawn))
    if layers := found.get("layers"):
        params, macs = (sum(row.get(kind) or 0 for row in layers) for kind in ("params", "macs"))
        rows = [
            [
                str(row["layer"]),
                str(row["kind"]),
                shape_text(row.get("output")),
                f"{row['params']:,}",
                _share(row["params"], params),
                "–" if row.get("macs") is None else f"{row['macs']:,}",
                _share(row.get("macs") or 0, macs),
            ]
            for row in layers
        ]
        names = ["layer", "kind", "output", "parameters", "of all parameters", "MACs", "of all MACs"]
        made.append(Section("layers", "Layers and what they cost", table=Table(names, rows, names[3:])))
    return made


def shape_text(shape: Any) -> str:
    """A shape as people write it: 3×32×32."""
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {shape_text(part)}" for name, part in shape.items())
    if isinstance(shape, list | tuple):
        return "×".join(map(str, shape))
    return "–" if shape is None else str(shape)


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        inner = list(child.children())
        if type(child).__name__ in CONTAINERS and any(len(list(module.children())) for module in inner):
            yield from _layers(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _shape(output: Any) -> list[int] | None:
    """The shape of an output without its batch; of several outputs, of the last one."""
    while isinstance(output, tuple | list) and output:
        output = output[-1]
    return list(output.shape[1:]) if hasattr(output, "shape") else None


def _drawn(found: Mapping[str, Any]) -> list[Any]:
    """The graphs as a picture."""
    from oneshot.supernets.space import ArchGraph

    from .cells import draw_cells
    from .contents import LARGEST_PICTURE, Picture
    from .style import picture_of

    graphs = [
        ArchGraph(g["name"], tuple(g["nodes"]), tuple((int(a), int(b), str(label)) for a, b, label in g["edges"]))
        for g in found.get("graphs") or ()
    ]
    if not graphs or sum(len(graph.edges) for graph in graphs) > 400:  # an unreadable picture that takes long
        return []
    content = picture_of(draw_cells(graphs), "png")
    if len(content) > LARGEST_PICTURE:
        return []
    return [Picture(data_url(content, "image/png"), "the cells: nodes, and operations on the edges")]
