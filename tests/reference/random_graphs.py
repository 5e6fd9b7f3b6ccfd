"""Random networks with everything that graphs can hold, with weights and statistics as if they were trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from oneshot.discrete import GraphNetwork, NetworkGraph, Node
from oneshot.discrete.graphs.network import GatedAdd

CLASSES = 5
SHAPE = (3, 8, 8)
IMAGES = torch.randn(48, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def random_graph(seed: int, *, grouped: bool = True) -> NetworkGraph:
    """Blocks one behind the other: plain, residual, concatenated, depthwise, pre-activated, grouped, pooled."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = []

    def put(op: str, *inputs: str, **options: int) -> str:
        nodes.append(Node(f"{op}_{len(nodes)}", op, inputs, **options))
        return nodes[-1].name

    def block(x: str, width: int, op: str = "conv", **options: int) -> str:
        act = str(rng.choice(["relu", "relu", "relu", "relu6", "leaky_relu", "silu"]))
        options = {"kernel": int(rng.choice([1, 3])), "bias": int(rng.integers(2)), **options}
        if op == "conv":
            options["channels"] = width
        y = put(op, x, **options)
        return put(act, put("batch_norm", y) if rng.random() < 0.8 else y)

    width = 2 * int(rng.integers(2, 4))
    x, size = block("image", width), 8
    kinds = ["plain", "residual", "gated", "concat", "depthwise", "preact", "pool", "parallel"] + ["grouped"] * grouped
    for kind in rng.permutation(kinds)[: rng.integers(4, 8)]:
        if kind == "plain":
            width = 2 * int(rng.integers(2, 5))
            x = block(x, width)
        elif kind == "residual":
            x = put("relu", put("add", x, put("batch_norm", put("conv", x, channels=width, kernel=3))))
        elif kind == "gated":
            x = put("gated_add", x, block(x, width))
        elif kind == "concat":
            other = block(x, 4)
            x, width = put("concat", x, other, block(x, 2)), width + 6
        elif kind == "depthwise":
            x = block(put("depthwise", x, kernel=3), width, kernel=1)
        elif kind == "preact":
            x = put("conv", put("relu", put("batch_norm", x)), channels=width, kernel=3)
        elif kind == "parallel":
            x = put("add", block(x, width), put("max_pool", block(x, width), kernel=3), x)
        elif kind == "grouped":
            x = block(x, width, groups=2)
        elif size == 8:
            size = 4
            pool = str(rng.choice(["max_pool", "avg_pool", "strided"]))
            x = block(x, width, stride=2) if pool == "strided" else put(pool, x, kernel=2, stride=2)
    put("classifier", put("global_pool", x) if rng.random() < 0.6 else x)
    return NetworkGraph(tuple(nodes))


def random_network(graph: NetworkGraph, seed: int = 0) -> GraphNetwork:
    """In eval mode, in float64; the statistics are those of images, and no parameter has its first value."""
    torch.manual_seed(seed)
    network = GraphNetwork.from_graph(graph, SHAPE, CLASSES).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.1, 0.3)
        elif isinstance(module, GatedAdd):
            nn.init.uniform_(module.gate, 0.1, 0.9)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, 0.0, 0.2)
    for _ in range(5):
        network(torch.randn(32, *SHAPE, dtype=torch.float64))
    return network.eval()
