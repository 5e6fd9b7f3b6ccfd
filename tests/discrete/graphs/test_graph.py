"""Networks as graphs: one form for equal ones, shapes without running, and what cannot be built."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oneshot import export_subnet, load
from oneshot.cost import count
from oneshot.discrete import LEMONADE, Evaluator, GraphNetwork, NetworkGraph, Node, Proposal, Study, plain_graph
from oneshot.discrete.graphs.graph import GRAPHS, IMAGE
from oneshot.discrete.graphs.network import GatedAdd
from oneshot.supernets import SubnetConfig
from tests.reference.random_graphs import CLASSES, IMAGES, SHAPE, random_graph, random_network

END = (Node("pool", "global_pool", ("last",)), Node("logits", "classifier", ("pool",)))


def graph(*nodes: Node) -> NetworkGraph:
    """These nodes, and behind the one called ``last`` a classifier."""
    return NetworkGraph((*nodes, *END))


def renamed(old: NetworkGraph, seed: int) -> NetworkGraph:
    """Other names, another order, other orders of summands."""
    rng = np.random.default_rng(seed)
    names = {IMAGE: IMAGE} | {
        node.name: f"x{i}" for node, i in zip(old.nodes, rng.permutation(len(old.nodes)), strict=True)
    }
    nodes = []
    for i in rng.permutation(len(old.nodes)):
        node = old.nodes[i]
        inputs = [names[source] for source in node.inputs]
        if node.op == "add":
            rng.shuffle(inputs)
        nodes.append(replace(node, name=names[node.name], inputs=tuple(inputs)))
    return NetworkGraph(tuple(nodes))


@pytest.mark.parametrize("seed", range(20))
def test_names_and_order_do_not_count(seed: int) -> None:
    one = random_graph(seed)
    other = renamed(one, seed + 1)
    assert [node.name for node in one.nodes] != [node.name for node in other.nodes]
    assert one == other and hash(one) == hash(other) and one.digest == other.digest
    assert one != random_graph(seed + 1) and one.digest != random_graph(seed + 1).digest


@pytest.mark.parametrize("seed", range(5))
def test_a_graph_is_a_config_and_back(seed: int) -> None:
    one = random_graph(seed)
    config = SubnetConfig.from_json(one.config.to_json())
    canonical, names = one.canonical()
    assert config.space == "network_graph"
    assert NetworkGraph.from_config(config).nodes == canonical.nodes
    assert canonical.canonical()[1] == {name: name for name in names.values()}
    for node in one.nodes:
        renamed_inputs = {IMAGE if source == IMAGE else names[source] for source in node.inputs}
        found = canonical[names[node.name]]
        assert (found.signature, set(found.inputs)) == (node.signature, renamed_inputs)


def test_what_changes_the_function_changes_the_graph() -> None:
    def joined(op: str, *inputs: str, kernel: int = 3) -> NetworkGraph:
        first = Node("a", "conv", ("image",), channels=4, kernel=kernel)
        return graph(first, Node("b", "relu", ("a",)), Node("last", op, inputs))

    assert joined("add", "a", "b") == joined("add", "b", "a")
    assert joined("concat", "a", "b") != joined("concat", "b", "a")
    assert joined("gated_add", "a", "b") != joined("gated_add", "b", "a")
    assert joined("add", "a", "b") != joined("add", "a", "b", kernel=5)
    assert joined("add", "a", "b") != joined("add", "b", "b")
    assert joined("add", "a", "b") != "a graph"


@pytest.mark.parametrize("seed", range(10))
def test_shapes_are_those_of_a_run(seed: int) -> None:
    network = random_network(random_graph(seed), seed)
    shapes = network.graph.shapes(SHAPE)
    with torch.no_grad():
        for name, shape in shapes.items():
            assert network.output_of(IMAGES[:2], name).shape == (2, *shape)
        assert network(IMAGES[:2]).shape == (2, CLASSES)
    assert network.graph.nonnegative() <= shapes.keys()
    for name in network.graph.nonnegative():
        assert network.output_of(IMAGES, name).min() >= 0


def test_a_network_computes_what_its_graph_says() -> None:
    described = NetworkGraph(
        (
            Node("c", "conv", ("image",), channels=4, kernel=3, stride=2, bias=1),
            Node("n", "batch_norm", ("c",)),
            Node("r", "leaky_relu", ("n",)),
            Node("d", "depthwise", ("r",), kernel=5),
            Node("g", "conv", ("d",), channels=4, kernel=1, groups=2),
            Node("m", "gated_add", ("r", "g")),
            Node("s", "add", ("m", "g", "r")),
            Node("k", "concat", ("s", "d")),
            Node("a", "avg_pool", ("k",), kernel=3, stride=2),
            Node("x", "max_pool", ("a",), kernel=2, stride=1),
            Node("out", "classifier", ("x",)),
        )
    )
    network = random_network(described)
    weights = network.state_dict()
    names = described.canonical()[1]

    def w(name: str, key: str) -> Tensor:
        return weights[f"ops.{names[name]}.{key}"]

    c = F.conv2d(IMAGES, w("c", "weight"), w("c", "bias"), stride=2, padding=1)
    mean, var, gamma, beta = (w("n", k).view(1, -1, 1, 1) for k in ("running_mean", "running_var", "weight", "bias"))
    n = (c - mean) / (var + 1e-5).sqrt() * gamma + beta
    r = torch.where(n > 0, n, 0.01 * n)
    d = F.conv2d(r, w("d", "weight"), padding=2, groups=4)
    g = torch.cat(
        [torch.einsum("oi,bihw->bohw", w("g", "weight")[s, :, 0, 0], d[:, s]) for s in (slice(2), slice(2, 4))], 1
    )
    gate = w("m", "gate")
    s = (1 - gate) * r + gate * g + g + r
    k = torch.cat([s, d], 1)
    inside = F.avg_pool2d(torch.ones(1, 1, 4, 4, dtype=k.dtype), 3, 2, 1)
    a = F.avg_pool2d(k, 3, 2, 1) / inside  # borders are not counted
    x = a.amax((2, 3))
    logits = x @ w("out", "weight").T + w("out", "bias")
    torch.testing.assert_close(network(IMAGES), logits, rtol=1e-10, atol=1e-12)
    swapped = gate * r + (1 - gate) * g + g + r
    assert not torch.allclose(swapped, s, rtol=1e-2)


def test_a_network_is_built_again_from_its_config_and_its_weights() -> None:
    network = random_network(random_graph(3))
    config = SubnetConfig.from_json(network.config.to_json())
    again = GraphNetwork.from_config(config, SHAPE, CLASSES).double().eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(IMAGES), network(IMAGES))
    assert type(network)(**network.init_args).config == network.config == again.config
    assert [node.op for node in network.graph.nodes] == [label.split(",")[0] for label in network.graphs()[0].nodes[1:]]


def test_a_network_learns() -> None:
    network = GraphNetwork.from_graph(plain_graph((4, 8), separable=(1,)), SHAPE, CLASSES)
    images, labels = IMAGES.float(), torch.arange(len(IMAGES)) % CLASSES
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_parameters_and_macs_are_counted() -> None:
    network = GraphNetwork.from_graph(plain_graph((4, 8), separable=(1,)), (3, 8, 8), 10)
    params = 4 * 3 * 9 + 2 * 4 + 4 * 9 + 8 * 4 + 2 * 8 + 8 * 10 + 10
    macs = 64 * 4 * 27 + 16 * (4 * 9 + 8 * 4) + 8 * 10
    counts = count(network, network.input_shape)
    assert (counts.params, counts.macs) == (params, macs)


@pytest.mark.parametrize("seed", range(10))
def test_a_sketch_counts_the_parameters_it_would_have(seed: int) -> None:
    network = random_network(random_graph(seed), seed)
    sketch = GraphNetwork.from_config(network.config, SHAPE, CLASSES, weights=False)
    assert not list(sketch.parameters()) and sketch.shapes == network.shapes
    assert sketch.num_params == network.num_params == sum(p.numel() for p in network.parameters())
    with pytest.raises(RuntimeError, match="A sketch has no weights and cannot run"):
        sketch(IMAGES)


def test_a_canonical_graph_is_pickled() -> None:
    canonical, _ = random_graph(0).canonical()
    assert pickle.loads(pickle.dumps(canonical)) == canonical == copy.deepcopy(canonical)


def test_a_network_is_exported_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = random_network(random_graph(1)).float()
    folder = export_subnet(network, tmp_path / "export")
    x = IMAGES.float()
    expected = network(x).detach()
    loaded = load(folder)
    assert isinstance(loaded, GraphNetwork)
    assert loaded.config == network.config
    assert torch.equal(loaded(x), expected)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


def test_a_gate_that_is_pulled_below_zero_still_trains_what_is_behind_it() -> None:
    y, h = IMAGES, IMAGES.flip(0).clone().requires_grad_()
    merge = GatedAdd().double()
    assert torch.equal(merge(y, h), y)
    for _ in range(2):
        loss = ((merge(y, h) - 1.5 * y + 0.5 * h.detach()) ** 2).sum()  # least at a gate of -0.5
        gate, behind = torch.autograd.grad(loss, (merge.gate, h))
        merge.gate.data -= 1e-5 * gate
    assert merge.gate < 0 and behind.abs().max() > 0
    cut = merge.gate.detach().clamp(0, 1)
    (dead,) = torch.autograd.grad(((1 - cut) * y + cut * h).sum(), h)
    assert not dead.any()  # what a gate held in [0, 1] gives


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        pytest.param(
            (Node("last", "relu", ("a",)), Node("a", "relu", ("last",))), "wait for each other.*'a', 'last'", id="cycle"
        ),
        pytest.param((Node("last", "relu", ("b",)),), r"'last' \(relu\) reads \['b'\]", id="missing"),
        pytest.param(
            (Node("last", "relu", ("image",)), Node("last", "relu", ("image",))), "distinct names", id="twice"
        ),
        pytest.param((Node("last", "relu", ("image",)), Node("a", "relu", ("image",))), "'a'.*nothing reads", id="end"),
        pytest.param(
            (Node("last", "relu", ("a",)), Node("a", "classifier", ("image",))),
            "'a'.*no node may read it",
            id="in-the-way",
        ),
        pytest.param(
            (Node("last", "relu", ("image",)), Node("a", "classifier", ("last",))), "exactly one classifier", id="two"
        ),
    ],
)
def test_what_is_no_graph_is_refused(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graph(*nodes)


@pytest.mark.parametrize(
    ("op", "inputs", "options", "message"),
    [
        pytest.param("dense", ("image",), {}, "'a' has the unknown op 'dense'; ops are conv", id="unknown"),
        pytest.param("relu", ("image", "image"), {}, r"'a' \(relu\) reads 1 inputs", id="too-many"),
        pytest.param("add", ("image",), {}, r"'a' \(add\) reads 2 or more", id="too-few"),
        pytest.param("conv", ("image",), {"kernel": 3}, r"channels of node 'a' \(conv\) must be at least 1", id="none"),
        pytest.param("conv", ("image",), {"channels": 4, "kernel": 2}, "kernel of node 'a'.*odd", id="even"),
        pytest.param("conv", ("image",), {"channels": 4, "kernel": 3, "width": 2}, r"odd.*\(3, 2\)", id="even-width"),
        pytest.param("max_pool", ("image",), {"kernel": 2, "width": 3}, "width of node 'a'.*not set", id="pool-width"),
        pytest.param("relu", ("image",), {"channels": 4}, "channels of node 'a'.*not set", id="not-taken"),
        pytest.param("max_pool", ("image",), {"kernel": 2, "stride": 0}, "stride of node 'a'", id="stride"),
    ],
)
def test_a_node_that_makes_no_sense_is_refused(
    op: str, inputs: tuple[str, ...], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Node("a", op, inputs, **options)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        pytest.param(Node("last", "add", ("c", "image")), r"'last' \(add\).*one shape.*\(4, 8, 8\).*\(3, 8", id="add"),
        pytest.param(Node("last", "gated_add", ("c", "p")), r"'last'.*one shape.*'p' \(4, 4, 4\)", id="gated"),
        pytest.param(Node("last", "concat", ("c", "p")), r"'last' \(concat\).*one height and width", id="concat"),
        pytest.param(Node("last", "max_pool", ("p",), kernel=6), r"'last'.*window of 6 pixels.*4, 4\)", id="window"),
        pytest.param(
            Node("last", "conv", ("c",), channels=6, kernel=1, groups=4), "'last'.*into 4 groups", id="groups"
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(last: Node, message: str) -> None:
    c = Node("c", "conv", ("image",), channels=4, kernel=3)
    p = Node("p", "max_pool", ("c",), kernel=2, stride=2)
    join = Node("join", "add", ("last", "last"))
    rest = Node("rest", "global_pool", ("p",))  # p is always read
    end = (Node("q", "concat", ("z", "rest")), Node("z", "global_pool", ("join",)), Node("out", "classifier", ("q",)))
    with pytest.raises(ValueError, match=message):
        GraphNetwork.from_graph(NetworkGraph((c, p, last, join, rest, *end)), (3, 8, 8), 10).graph.shapes((3, 8, 8))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param(SubnetConfig("toy", {"nodes": ["relu(0)"]}), "space 'network_graph'.*got space 'toy'", id="space"),
        pytest.param(SubnetConfig("network_graph", {"edges": []}), "with the choice 'nodes'", id="choice"),
        pytest.param(SubnetConfig("network_graph", {"nodes": ["relu 0"]}), "Node 1 is written.*no brackets", id="text"),
        pytest.param(SubnetConfig("network_graph", {"nodes": ["relu(x)"]}), "Node 1 is written.*invalid", id="input"),
        pytest.param(
            SubnetConfig("network_graph", {"nodes": ["conv(0,size=3)"]}), "'size' is no option", id="unknown-option"
        ),
    ],
)
def test_configs_of_something_else_are_refused(config: SubnetConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkGraph.from_config(config)


def test_a_node_that_is_not_there_is_named() -> None:
    network = GraphNetwork.from_graph(plain_graph((4,)), SHAPE, CLASSES)
    for look in (lambda: network.graph["9"], lambda: network.output_of(IMAGES.float(), "9")):
        with pytest.raises(ValueError, match="no node '9'"):
            look()
    with pytest.raises(ValueError, match="at least one block"):
        plain_graph(())


def test_a_copy_runs_alone() -> None:
    network = random_network(random_graph(2))
    other = copy.deepcopy(network)
    expected = network(IMAGES)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert torch.equal(network(IMAGES), expected)


class NumberOfNodes(Evaluator):
    space = GRAPHS

    @property
    def metrics(self) -> tuple[str, ...]:
        return "error", "params"

    def __call__(self, proposal: Proposal) -> Mapping[str, float]:
        nodes = len(proposal.config["nodes"])
        return {"error": 1 / nodes, "params": float(nodes)}


def test_a_study_of_graphs_is_read_again(tmp_path: Path) -> None:
    """The space of graphs has no genes, and knows all the same what is one of its architectures."""

    def study(evaluations: int) -> Study:
        strategy = LEMONADE([[4]], SHAPE, CLASSES, children=4, accepted=2, seed=0)
        return Study(strategy, NumberOfNodes(), ["min error", "min params"], folder=tmp_path, evaluations=evaluations)

    before = study(4).run()
    after = study(8).run()
    assert [r.proposal for r in after.records[:4]] == [r.proposal for r in before.records] and len(after.records) == 8
    GRAPHS.validate(before.records[0].proposal.config)
    for picks in ({"nodes": ["nonsense(0)"]}, {"others": ["any"]}):
        with pytest.raises(ValueError):
            GRAPHS.validate(SubnetConfig("network_graph", picks))
