"""Children that compute what their parent does, and smaller ones that nearly do."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from oneshot import export_subnet, load
from oneshot.discrete import (
    APPROXIMATE_OPERATORS,
    EXACT_OPERATORS,
    LEMONADE_OPERATORS,
    NASH_OPERATORS,
    GraphNetwork,
    MorphismRecord,
    NetworkGraph,
    Node,
    distil,
    morph,
    plain_graph,
    random_morphism,
    replay,
)
from oneshot.discrete.graphs.approximate import prune, remove_layer, remove_skip, separate
from oneshot.discrete.graphs.editor import channel_classes, free_convs
from oneshot.discrete.graphs.exact import branch, deepen, deepen_separable, enlarge_kernel, skip_add, skip_concat, widen
from oneshot.discrete.graphs.network import GatedAdd
from oneshot.evaluation.recalibration import recalibrate
from oneshot.supernets import SubnetConfig
from tests.reference.random_graphs import CLASSES, IMAGES, SHAPE, random_graph, random_network


def plain(seed: int = 0) -> GraphNetwork:
    """Conv-BN-ReLU (1, 2, 3), max pool (4), Depthwise-Conv-BN-ReLU (5 to 8), global pool (9), classifier (10)."""
    return random_network(plain_graph((4, 8), separable=(1,)), seed)


@torch.no_grad()
def eval_outputs(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    return copy.deepcopy(network).eval()(images)  # type: ignore[no-any-return]  # nn.Module


@torch.no_grad()
def train_outputs(network: nn.Module, images: Tensor = IMAGES) -> Tensor:
    return copy.deepcopy(network).train()(images)  # type: ignore[no-any-return]  # nn.Module


@torch.no_grad()
def after_a_training_pass(network: nn.Module, images: Tensor = IMAGES, *, biased: bool = False) -> Tensor:
    """Logits in eval mode; ``biased``, where running variances follow those of the batch, not unbiased estimates."""
    passed = copy.deepcopy(network).train()

    def divide_by_n(module: nn.BatchNorm2d, inputs: tuple[Tensor], output: Tensor) -> None:
        n = inputs[0].numel() // inputs[0].shape[1]
        assert module.running_var is not None and module.momentum is not None
        module.running_var -= module.momentum * inputs[0].var((0, 2, 3)) / n  # unbiased - biased = unbiased / n

    for norm in passed.modules():
        if biased and isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_hook(divide_by_n)  # type: ignore[arg-type]  # torch's hooks know nn.Module only
    passed(images)
    return passed.eval()(images)  # type: ignore[no-any-return]  # nn.Module


def difference(a: Tensor, b: Tensor) -> float:
    """Relative, of all logits."""
    return float((a - b).norm() / b.norm())


def storages(network: nn.Module) -> list[int]:
    return [tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()]


def norms_of(network: GraphNetwork) -> list[nn.BatchNorm2d]:
    return [module for module in network.ops.values() if isinstance(module, nn.BatchNorm2d)]


def never_trained(network: GraphNetwork, steps: int = 4) -> list[str]:
    """Filters, rows and scalars that get no gradient in any of the first steps."""
    network, labels = copy.deepcopy(network).train(), torch.arange(len(IMAGES)) % CLASSES
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    moved = {name: torch.zeros(p.shape[:1], dtype=torch.bool) for name, p in network.named_parameters()}
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(network(IMAGES), labels).backward()  # type: ignore[no-untyped-call]  # torch
        for name, p in network.named_parameters():
            assert p.grad is not None
            moved[name] |= (p.grad != 0).flatten(1).any(1) if p.dim() > 1 else p.grad != 0
        optimiser.step()
    return [f"{name}[{i}]" for name, rows in moved.items() for i in (~rows).flatten().nonzero().flatten().tolist()]


# Exact operators.

EXACT: dict[str, Callable[[GraphNetwork], GraphNetwork]] = {
    "deepen": lambda n: deepen(n, "3", images=IMAGES),
    "deepen-5x5-after-pooling": lambda n: deepen(n, "4", kernel=5, images=IMAGES),
    "deepen-where-values-are-negative": lambda n: deepen(n, "2", images=IMAGES, rng=0),
    "deepen-separable": lambda n: deepen_separable(n, "8", images=IMAGES),
    "deepen-separable-gated": lambda n: deepen_separable(n, "7", images=IMAGES, rng=0),
    "widen": lambda n: widen(n, "1", channels=7, rng=0),
    "widen-five-times": lambda n: widen(n, "6", channels=40, rng=0),
    "widen-copy": lambda n: widen(n, "1", channels=7, how="copy", rng=0),
    "widen-copy-five-times": lambda n: widen(n, "6", channels=40, how="copy", rng=0),
    "skip-add": lambda n: skip_add(n, "4", "5"),
    "skip-concat": lambda n: skip_concat(n, "4", "6"),
    "skip-concat-image": lambda n: skip_concat(n, "image", "1"),
    "skip-concat-classifier": lambda n: skip_concat(n, "9", "10"),
    "branch-add": lambda n: branch(n, "1", rng=0),
    "branch-add-5x5": lambda n: branch(n, "1", kernel=5, rng=0),
    "branch-depthwise": lambda n: branch(n, "5", rng=0),
    "branch-concat": lambda n: branch(n, "6", how="concat"),
    "branch-concat-3x3": lambda n: branch(n, "6", how="concat", kernel=3),
    "kernel": lambda n: enlarge_kernel(n, "1", kernel=7),
    "kernel-depthwise": lambda n: enlarge_kernel(n, "5", kernel=5),
}


@pytest.mark.parametrize("apply", EXACT.values(), ids=EXACT)
def test_an_exact_operator_keeps_the_function(apply: Callable[[GraphNetwork], GraphNetwork]) -> None:
    parent = plain()
    before = copy.deepcopy(parent.state_dict())
    child = apply(parent)
    assert child.config != parent.config
    assert difference(eval_outputs(child), eval_outputs(parent)) < 1e-12
    assert difference(train_outputs(child), train_outputs(parent)) < 1e-12
    assert difference(after_a_training_pass(child, biased=True), after_a_training_pass(parent, biased=True)) < 1e-12
    assert difference(after_a_training_pass(child), after_a_training_pass(parent)) < 1e-4  # 768 values a channel
    assert child.training == parent.training
    assert not set(storages(child)) & set(storages(parent))
    assert len(set(storages(child))) == len(storages(child))
    assert all(torch.equal(tensor, before[name]) for name, tensor in parent.state_dict().items())


@pytest.mark.parametrize("apply", EXACT.values(), ids=EXACT)
def test_a_child_trains_everything_it_has(apply: Callable[[GraphNetwork], GraphNetwork]) -> None:
    parent = plain()
    assert never_trained(parent) == []
    assert never_trained(apply(parent)) == []


def test_weights_between_zeros_are_found_to_be_dead() -> None:
    child = widen(plain(), "1", channels=7, how="fresh", rng=0)
    readers = child.ops["5"].get_parameter("weight")  # depthwise: new channels pass
    assert readers.shape[0] == 7
    rows = child.ops["1"].get_parameter("weight")
    scale = child.ops["2"].get_parameter("weight")
    new = (child.ops["6"].get_parameter("weight") == 0).all(0).flatten()
    assert int(new.sum()) == 3
    for tensor in (rows, scale, child.ops["2"].get_parameter("bias")):
        tensor.data[new] = 0
    assert difference(eval_outputs(child), eval_outputs(plain())) < 1e-12  # nothing to be seen
    assert len(never_trained(child)) >= 6


@pytest.mark.parametrize("seed", range(8))
def test_twenty_exact_operators_in_a_row_keep_the_function_of_a_random_graph(seed: int) -> None:
    check_a_sequence(seed)


@pytest.mark.parametrize("seed", [3, 5])  # with many identity blocks
def test_after_a_training_pass_over_512_images_twenty_operators_are_off_by_less_than_a_hundred_thousandth(
    seed: int,
) -> None:
    images = torch.randn(512, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parent, rng = random_network(random_graph(seed), seed), np.random.default_rng(seed)
    child, used = parent, Counter[str]()
    for _ in range(20):
        child, record = random_morphism(child, rng, images=images, operators=EXACT_OPERATORS, max_params=10_000)
        used[record.operator] += 1
    assert used["deepen"] + used["deepen_separable"] >= 3
    assert difference(after_a_training_pass(child, images), after_a_training_pass(parent, images)) < 1e-5


@pytest.mark.nightly
def test_so_do_they_on_thirty_more_graphs() -> None:
    for seed in range(8, 38):
        check_a_sequence(seed)


def check_a_sequence(seed: int) -> None:
    parent, rng = random_network(random_graph(seed), seed), np.random.default_rng(seed)
    evaluated, trained = eval_outputs(parent), train_outputs(parent)
    child, records = parent, []
    for _ in range(20):
        grandparent = storages(child)
        child, record = random_morphism(child, rng, images=IMAGES, operators=EXACT_OPERATORS, max_params=40_000)
        records.append(record)
        assert not set(storages(child)) & set(grandparent)
        assert difference(eval_outputs(child), evaluated) < 1e-10, record
        assert difference(train_outputs(child), trained) < 1e-10, record
    assert difference(after_a_training_pass(child, biased=True), after_a_training_pass(parent, biased=True)) < 1e-10
    assert difference(after_a_training_pass(child), after_a_training_pass(parent)) < 2e-3  # 768 or 3072 values
    again = GraphNetwork.from_config(SubnetConfig.from_json(child.config.to_json()), SHAPE, CLASSES).double().eval()
    again.load_state_dict(child.state_dict())
    assert torch.equal(eval_outputs(again), eval_outputs(child))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("how", ["copy", "fresh"])
def test_every_convolution_of_a_random_graph_can_be_widened(seed: int, how: str) -> None:
    parent = random_network(random_graph(seed), seed)
    for conv in free_convs(parent):
        child = widen(parent, conv.name, channels=conv.channels + 3, how=how, rng=seed)  # type: ignore[arg-type]
        assert difference(eval_outputs(child), eval_outputs(parent)) < 1e-12
        assert difference(train_outputs(child), train_outputs(parent)) < 1e-12


def test_the_rounding_of_float32_stays_below_a_hundred_thousandth() -> None:
    parent = random_network(random_graph(0)).float()
    child, rng, images = parent, np.random.default_rng(0), IMAGES.float()
    for _ in range(20):
        child, _ = random_morphism(child, rng, images=images, operators=EXACT_OPERATORS, max_params=40_000)
    assert child.ops["1"].get_parameter("weight").dtype == torch.float32
    assert difference(eval_outputs(child, images), eval_outputs(parent, images)) < 1e-5
    assert difference(train_outputs(child, images), train_outputs(parent, images)) < 1e-5
    passed = [after_a_training_pass(network, images, biased=True) for network in (child, parent)]
    assert difference(*passed) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "operators", [EXACT_OPERATORS, (*EXACT_OPERATORS, *APPROXIMATE_OPERATORS)], ids=["exact", "all"]
)
def test_a_network_is_exported_after_twenty_operators(tmp_path: Path, operators: Sequence[str]) -> None:
    parent, images, used = random_network(random_graph(3)).float(), IMAGES.float(), Counter[str]()
    child, rng = parent, np.random.default_rng(1)
    for _ in range(20):
        child, record = random_morphism(child, rng, images=images, operators=operators, max_params=10_000)
        used[record.operator] += 1
    assert len(used) > 4
    expected = eval_outputs(child if operators != EXACT_OPERATORS else parent, images)
    folder = export_subnet(child, tmp_path / "export")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    onnx = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    program = torch.export.load(folder / "model.pt2").module()(images)
    for logits in (onnx, program, load(folder)(images).detach()):
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


# Their parameters, against computations of their own, and mistakes that must be seen.


def test_the_identity_block_has_the_moments_of_what_it_reads_in_training_mode() -> None:
    parent = plain()
    child = deepen(parent, "3", images=IMAGES)
    conv = F.conv2d(IMAGES, parent.ops["1"].get_parameter("weight"), padding=1).detach().numpy()
    gamma, beta = (parent.ops["2"].get_parameter(k).detach().numpy()[:, None, None] for k in ("weight", "bias"))
    normed = (conv - conv.mean((0, 2, 3), keepdims=True)) / np.sqrt(conv.var((0, 2, 3), keepdims=True) + 1e-5)
    values = np.maximum(normed * gamma + beta, 0)
    block = child.ops["5"]
    assert isinstance(block, nn.BatchNorm2d) and block.running_mean is not None and block.running_var is not None
    np.testing.assert_allclose(block.running_mean, values.mean((0, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(block.running_var, values.var((0, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(block.bias.detach(), values.mean((0, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(block.weight.detach() ** 2, values.var((0, 2, 3)) + 1e-5, rtol=1e-10)


def test_other_identity_blocks_are_told_apart() -> None:
    parent = plain()
    child = deepen(parent, "3", images=IMAGES)
    evaluated, trained = eval_outputs(parent), train_outputs(parent)

    usual, variance = copy.deepcopy(child), copy.deepcopy(child)
    block = usual.ops["5"]
    assert isinstance(block, nn.BatchNorm2d)
    block.reset_parameters()  # scale 1, shift 0, statistics (0, 1)
    assert difference(eval_outputs(usual), evaluated) < 1e-4  # looks right ...
    assert difference(train_outputs(usual), trained) > 1e-2  # ... until the first training step
    block = variance.ops["5"]
    assert isinstance(block, nn.BatchNorm2d) and block.running_var is not None
    block.weight.data = block.running_var.clone()
    assert difference(eval_outputs(variance), evaluated) > 1e-2


def test_moments_of_evaluation_are_wrong_in_training() -> None:
    parent = plain()
    for norm in norms_of(parent):  # a network whose statistics lag behind
        assert norm.running_mean is not None
        norm.running_mean += 0.3
    child = deepen(parent, "3", images=IMAGES)
    assert difference(train_outputs(child), train_outputs(parent)) < 1e-12
    values = parent.output_of(IMAGES, "3").detach()
    block = child.ops["5"]
    assert isinstance(block, nn.BatchNorm2d)
    block.weight.data, block.bias.data = (values.var((0, 2, 3)) + 1e-5).sqrt(), values.mean((0, 2, 3))
    assert difference(train_outputs(child), train_outputs(parent)) > 1e-2


def test_on_other_images_training_differs_by_sampling_noise_only() -> None:
    parent, other = plain(), torch.randn(48, *SHAPE, dtype=torch.float64)
    child = deepen(parent, "3", images=IMAGES)
    assert 1e-5 < difference(train_outputs(child, other), train_outputs(parent, other)) < 5e-2
    assert difference(eval_outputs(child, other), eval_outputs(parent, other)) < 1e-12


def test_after_a_training_pass_the_identity_is_off_by_the_unbiased_variance() -> None:
    parent = random_network(plain_graph((4,)))
    images = torch.randn(512, *SHAPE, dtype=torch.float64)
    child = deepen(parent, "3", images=images)
    passed = copy.deepcopy(child).train()
    block = passed.ops["5"]
    assert isinstance(block, nn.BatchNorm2d) and block.running_var is not None
    before, n = block.running_var.clone(), 512 * 64
    passed(images)
    torch.testing.assert_close(block.running_var, before * (1 + 0.1 / (n - 1)), rtol=1e-9, atol=0)
    assert 0 < difference(after_a_training_pass(child, images), after_a_training_pass(parent, images)) < 1e-5


def test_copies_of_filters_share_what_their_readers_do_with_them() -> None:
    parent = plain()
    child = widen(parent, "1", channels=9, how="copy", rng=0)
    old, new = parent.ops["1"].get_parameter("weight"), child.ops["1"].get_parameter("weight")
    readers, wider = parent.ops["6"].get_parameter("weight"), child.ops["6"].get_parameter("weight")
    equal = (new[:, None] == old[None]).flatten(2).all(2)  # [9, 4]: which new filter is a copy of which old one
    assert equal.sum(1).tolist() == [1] * 9 and (equal.sum(0) >= 1).all()
    shares = torch.stack([wider[:, i, 0, 0] / readers[:, j, 0, 0] for i, j in equal.nonzero().tolist()])
    assert (shares > 0).all()
    torch.testing.assert_close(equal.T.double() @ shares, torch.ones(4, 8, dtype=torch.float64))
    for (i, a), (j, b) in itertools.combinations(enumerate(equal.nonzero()[:, 1].tolist()), 2):
        assert a != b or not torch.allclose(shares[i], shares[j], rtol=0.15)


def test_copies_with_equal_shares_never_part_and_ours_do() -> None:
    def parting(seed: int, equal_shares: bool = False) -> list[float]:
        child = widen(plain(), "1", channels=8, how="copy", rng=seed)
        weight = child.ops["1"].get_parameter("weight")
        twins = [(i, j) for i, j in itertools.combinations(range(8), 2) if torch.equal(weight[i], weight[j])]
        if equal_shares:
            readers = child.ops["6"].get_parameter("weight").data
            same = (weight.data[:, None] == weight.data[None]).flatten(2).all(2).double()
            readers[:, :, 0, 0] = readers[:, :, 0, 0] @ same / same.sum(0)
        torch.testing.assert_close(eval_outputs(child), eval_outputs(plain()), rtol=1e-10, atol=1e-12)
        optimiser = torch.optim.SGD(child.train().parameters(), lr=0.1)
        for _ in range(5):
            optimiser.zero_grad()
            F.cross_entropy(child(IMAGES), torch.arange(len(IMAGES)) % CLASSES).backward()  # type: ignore[no-untyped-call]  # torch
            optimiser.step()
        return [difference(weight[i].detach(), weight[j].detach()) for i, j in twins]

    assert max(parting(1, equal_shares=True)) < 1e-9
    assert min(min(parting(seed)) for seed in range(6)) > 2e-4, "all of them, not only the luckiest"


def test_widening_adds_new_filters_unless_copies_are_asked_for() -> None:
    parent = plain()
    old = parent.ops["1"].get_parameter("weight")
    children = [widen(parent, "1", channels=8, rng=0), widen(parent, "1", channels=8, how="copy", rng=0)]
    for child, kept in zip(children, (4, 8), strict=True):
        new = child.ops["1"].get_parameter("weight")
        assert int((new[:, None] == old[None]).flatten(2).all(2).any(1).sum()) == kept
    assert int((children[0].ops["6"].get_parameter("weight") == 0).all(0).sum()) == 4, "nobody reads them yet"


def test_noise_on_what_readers_do_is_no_morphism() -> None:
    parent = plain()
    child = widen(parent, "1", channels=8, how="copy", rng=0)
    weight = child.ops["6"].get_parameter("weight")
    weight.data += 0.05 * weight.std() * torch.randn_like(weight)
    assert difference(eval_outputs(child), eval_outputs(parent)) > 1e-3


def test_a_widened_channel_reaches_everything_it_is_added_to() -> None:
    graph = NetworkGraph(
        (
            Node("a", "conv", ("image",), channels=4, kernel=3),
            Node("b", "conv", ("a",), channels=4, kernel=3),
            Node("s", "add", ("a", "b")),
            Node("d", "depthwise", ("s",), kernel=3),
            Node("k", "concat", ("d", "a")),
            Node("out", "classifier", ("k",)),
        )
    )
    parent = random_network(graph)
    child = widen(parent, graph.canonical()[1]["b"], channels=6, rng=0)
    assert [node.channels for node in child.graph.nodes if node.op == "conv"] == [6, 6]
    assert child.shapes[child.graph.nodes[-1].inputs[0]] == (12, 8, 8)
    assert difference(eval_outputs(child), eval_outputs(parent)) < 1e-12
    classes, frozen = channel_classes(parent)
    assert frozen.isdisjoint(classes[graph.canonical()[1]["a"]])


def test_a_plain_sum_is_no_morphism() -> None:
    parent = plain()
    child = skip_add(parent, "4", "5")
    (gated,) = (node for node in child.graph.nodes if node.op == "gated_add")
    summed = [pick.replace("gated_add", "add") for pick in child.init_args["nodes"]]
    wrong = GraphNetwork(summed, SHAPE, CLASSES).double()
    wrong.load_state_dict({k: v for k, v in child.state_dict().items() if not k.endswith("gate")})
    assert difference(eval_outputs(wrong), eval_outputs(parent)) > 1e-2
    gate = child.ops[gated.name]
    assert isinstance(gate, GatedAdd)
    gate.gate.data.fill_(0.5)
    assert difference(eval_outputs(child), eval_outputs(parent)) > 1e-2


# Approximate operators.


def test_taking_back_is_exact() -> None:
    parent = plain()
    deeper = deepen(parent, "3", images=IMAGES)
    joined, gated = skip_concat(parent, "4", "6"), skip_add(parent, "4", "5")
    merges = [next(n.name for n in net.graph.nodes if n.op in ("concat", "gated_add")) for net in (joined, gated)]
    for child in (remove_layer(deeper, "4"), remove_skip(joined, merges[0]), remove_skip(gated, merges[1])):
        assert child.config == parent.config
        assert difference(eval_outputs(child), eval_outputs(parent)) < 1e-12


@pytest.mark.parametrize("seed", range(12))
def test_removing_an_input_of_a_concatenation_is_setting_its_weights_to_zero(seed: int) -> None:
    graph = NetworkGraph(
        (
            Node("a", "conv", ("image",), channels=3, kernel=3),
            Node("b", "conv", ("image",), channels=4, kernel=3),
            Node("k", "concat", ("a", "b", "a")),
            Node("n", "batch_norm", ("k",)),
            Node("d", "depthwise", ("n",), kernel=3),
            Node("kk", "concat", ("b", "d")),
            Node("c", "conv", ("kk",), channels=5, kernel=1),
            Node("m", "max_pool", ("d",), kernel=1),
            Node("o", "concat", ("c", "m")),
            Node("out", "classifier", ("o",)),
        )
    )
    parent, names = random_network(graph, seed), graph.canonical()[1]
    drop = seed % 3
    child = remove_skip(parent, names["k"], drop=drop)
    start, stop = [(0, 3), (3, 7), (7, 10)][drop]
    parent.ops[names["c"]].get_parameter("weight").data[:, 4 + start : 4 + stop] = 0
    out = parent.ops[names["out"]].get_parameter("weight").data
    out[:, (5 + start) * 64 : (5 + stop) * 64] = 0
    assert sum(p.numel() for p in child.parameters()) < sum(p.numel() for p in parent.parameters())
    assert difference(eval_outputs(child), eval_outputs(parent)) < 1e-12


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_filters_of_smallest_norm_are_pruned(count: int) -> None:
    parent = plain()
    child = prune(parent, "1", count=count)
    weight = parent.ops["1"].get_parameter("weight").detach()
    kept = np.sort(np.argsort(np.abs(weight.numpy()).sum((1, 2, 3)))[count:])
    assert torch.equal(child.ops["1"].get_parameter("weight"), weight[kept])
    assert torch.equal(child.ops["2"].get_buffer("running_var"), parent.ops["2"].get_buffer("running_var")[kept])
    assert torch.equal(child.ops["5"].get_parameter("weight"), parent.ops["5"].get_parameter("weight")[kept])
    assert torch.equal(child.ops["6"].get_parameter("weight"), parent.ops["6"].get_parameter("weight")[:, kept])


def test_filters_that_are_added_to_each_other_go_by_the_sum_of_their_norms() -> None:
    """The weakest of one convolution is the strongest of the other, so neither alone knows which one to leave out."""
    nodes = [
        Node("a", "conv", ("image",), channels=4, kernel=3),
        Node("b", "conv", ("image",), channels=4, kernel=3),
        Node("sum", "add", ("a", "b")),
        Node("pool", "global_pool", ("sum",)),
        Node("out", "classifier", ("pool",)),
    ]
    norms = [[1.0, 2.0, 3.0, 4.0], [9.0, 8.0, 1.5, 4.0]]  # of sums 10, 10, 4.5 and 8
    for which in range(2):
        parent = random_network(NetworkGraph(tuple(nodes)))
        convs = [node.name for node in parent.graph.nodes if node.op == "conv"]
        for name, of in zip(convs, norms, strict=True):
            weight = parent.ops[name].get_parameter("weight").data
            weight.mul_((torch.tensor(of).to(weight) / weight.abs().sum((1, 2, 3)))[:, None, None, None])
        child = prune(parent, convs[which], count=2)
        left = [conv.weight.abs().sum((1, 2, 3)).tolist() for conv in child.modules() if isinstance(conv, nn.Conv2d)]
        for kept, of in zip(sorted(left), norms, strict=True):
            assert kept == pytest.approx(of[:2])


@pytest.mark.parametrize("seed", range(6))
def test_pruning_what_does_nothing_changes_nothing(seed: int) -> None:
    parent = random_network(random_graph(seed), seed)
    for conv in free_convs(parent):
        wide = widen(parent, conv.name, channels=conv.channels + 2, how="fresh", rng=0)
        (name,) = (n for n in same_place(parent, wide, conv))
        classes, _ = channel_classes(wide)
        fresh = unread(wide, name)
        for node in wide.graph.nodes:  # the filters that nobody reads get the smallest norms
            if node.op == "conv":
                rows = [c in {classes[name][i] for i in fresh} for c in classes[node.name]]
                wide.ops[node.name].get_parameter("weight").data[rows] *= 1e-6
        child = prune(wide, name, count=2)
        assert child.config == parent.config
        assert difference(eval_outputs(child), eval_outputs(parent)) < 1e-12


def same_place(parent: GraphNetwork, wide: GraphNetwork, conv: Node) -> list[str]:
    """The widened convolution: the canonical order may have changed, so it is found by its old filters."""
    old = parent.ops[conv.name].get_parameter("weight")[0].detach()
    found = []
    for node in wide.graph.nodes:
        if node.op == "conv" and node.channels == conv.channels + 2 and node.kernel == conv.kernel:
            new = wide.ops[node.name].get_parameter("weight")[0].detach()
            values = set(new.flatten().tolist()) - {0.0}
            if values <= set(old.flatten().tolist()):
                found.append(node.name)
    return found


def unread(network: GraphNetwork, name: str) -> list[int]:
    """Channels of a convolution that every reader multiplies by 0."""
    classes, _ = channel_classes(network)
    read: set[int] = set()
    for node in network.graph.nodes:
        if node.op in ("conv", "classifier") and node.inputs[0] != "image":
            weight = network.ops[node.name].get_parameter("weight").detach()
            weight = weight.unflatten(1, (len(classes[node.inputs[0]]), -1)) if node.op == "classifier" else weight
            if node.op == "conv" and node.groups > 1:
                read |= set(classes[node.inputs[0]])
                continue
            used = weight.transpose(0, 1).flatten(1).abs().sum(1) > 0
            read |= {c for c, u in zip(classes[node.inputs[0]], used.tolist(), strict=True) if u}
    return [i for i, c in enumerate(classes[name]) if c not in read]


def test_the_nearest_separable_convolution_is_found() -> None:
    parent = random_network(plain_graph((4, 6)))
    conv = parent.graph.nodes[4]
    child = separate(parent, conv.name)
    assert [node.op for node in child.graph.nodes[4:6]] == ["depthwise", "conv"]
    depthwise, pointwise = (child.ops[name].get_parameter("weight").detach().numpy() for name in ("5", "6"))
    weight = parent.ops[conv.name].get_parameter("weight").detach().numpy()
    for c in range(4):
        w = weight[:, c].reshape(6, 9)
        v = np.linalg.eigh(w.T @ w)[1][:, -1]  # the direction of the largest singular value
        ours = np.outer(pointwise[:, c, 0, 0], depthwise[c, 0])
        np.testing.assert_allclose(ours, w @ np.outer(v, v), rtol=1e-8, atol=1e-10)
        assert np.linalg.norm(pointwise[:, c]) == pytest.approx(np.linalg.norm(depthwise[c]))
        mean = np.outer(w.mean(1), np.ones(9))
        assert np.linalg.norm(w - ours) < 0.99 * np.linalg.norm(w - mean)
    again = separate(parent, conv.name, images=IMAGES)
    assert not torch.equal(norms_of(again)[1].running_var, norms_of(child)[1].running_var)  # type: ignore[arg-type]


def test_a_separable_kernel_is_separated_without_loss() -> None:
    parent = random_network(
        NetworkGraph(
            (Node("c", "conv", ("image",), channels=6, kernel=3, stride=2, bias=1), Node("out", "classifier", ("c",)))
        )
    )
    weight = parent.ops["1"].get_parameter("weight").data
    weight[:] = weight[:, :, 1:2, 1:2] * torch.randn(1, 3, 3, 3, dtype=torch.float64)
    assert difference(eval_outputs(separate(parent, "1")), eval_outputs(parent)) < 1e-12


def test_statistics_are_estimated_anew_where_images_are_given() -> None:
    parent = plain()
    before = copy.deepcopy(parent.state_dict())
    child = prune(parent, "1", count=2, images=IMAGES)
    expected = copy.deepcopy(prune(parent, "1", count=2)).eval()
    for norm in norms_of(expected):
        norm.momentum, norm.training = None, True
        norm.reset_running_stats()
    expected(IMAGES)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(child.state_dict()[name], tensor)
    assert not child.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in parent.state_dict().items())


@pytest.mark.parametrize("seed", range(4))
def test_random_sequences_of_all_operators_give_networks(seed: int) -> None:
    network, rng, used = random_network(random_graph(seed), seed), np.random.default_rng(seed), Counter[str]()
    operators = (*EXACT_OPERATORS, *APPROXIMATE_OPERATORS)
    for _ in range(25):
        parent = network
        before = copy.deepcopy(parent.state_dict())
        network, record = random_morphism(parent, rng, images=IMAGES, operators=operators, max_params=20_000)
        used[record.operator] += 1
        assert eval_outputs(network).isfinite().all()
        assert not set(storages(network)) & set(storages(parent))
        assert all(torch.equal(tensor, before[name]) for name, tensor in parent.state_dict().items())
    assert len(used) > 5


def test_a_child_learns_what_its_parent_says() -> None:
    parent = plain()
    child = prune(parent, "1", count=2, images=IMAGES)
    weights, target = copy.deepcopy(parent.state_dict()), eval_outputs(parent)

    def distance(logits: Tensor) -> float:
        p, q = (torch.softmax(x / 2, 1) for x in (target, logits))
        return float(4 * (p * (p / q).log()).sum(1).mean())

    before = distance(eval_outputs(child))
    passed = distil(copy.deepcopy(child), parent, IMAGES, batch_size=len(IMAGES), rng=0)  # one step
    assert passed == pytest.approx(distance(train_outputs(child)), rel=1e-9)
    assert passed != pytest.approx(distance(train_outputs(child)) / 4, rel=1e-2)
    loss = distil(child, parent, IMAGES, epochs=20, batch_size=16, lr=0.01, rng=0)
    assert not child.training and not parent.training
    assert distance(eval_outputs(child)) < 0.5 * before
    assert 0 < loss < before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in parent.state_dict().items())
    again = prune(parent, "1", count=2, images=IMAGES)
    assert distil(again, parent, IMAGES, epochs=20, batch_size=16, lr=0.01, rng=0) == loss
    statistics = copy.deepcopy(child)
    recalibrate(statistics, [IMAGES])
    assert torch.equal(norms_of(statistics)[0].running_mean, norms_of(child)[0].running_mean)  # type: ignore[arg-type]


# Random operators and records.


@pytest.mark.parametrize("operators", [NASH_OPERATORS, LEMONADE_OPERATORS], ids=["nash", "lemonade"])
def test_a_record_is_played_again_bit_by_bit(operators: Sequence[str]) -> None:
    parent, rng = plain(), np.random.default_rng(7)
    child, records = parent, []
    for _ in range(8):
        child, record = random_morphism(child, rng, images=IMAGES, operators=operators)
        records.append(MorphismRecord.from_dict(json.loads(json.dumps(record.to_dict()))))
        assert records[-1] == record == pickle.loads(pickle.dumps(record))
    again = replay(parent, records, IMAGES)
    assert again.config == child.config
    assert all(torch.equal(tensor, child.state_dict()[name]) for name, tensor in again.state_dict().items())
    other = replay(parent, records, IMAGES.flip(0) * 1.1)
    assert not torch.equal(eval_outputs(other), eval_outputs(child))


def test_drawing_does_not_touch_the_random_numbers_of_the_caller() -> None:
    parent = plain()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    child, _ = random_morphism(parent, 3, images=IMAGES, operators=LEMONADE_OPERATORS)
    assert torch.equal(torch.rand(3), expected)
    assert random_morphism(parent, 3, images=IMAGES, operators=LEMONADE_OPERATORS)[0].config == child.config


@pytest.mark.parametrize("seed", range(8))
def test_a_sketch_becomes_what_the_network_becomes(seed: int) -> None:
    network, rng = random_network(random_graph(seed), seed), np.random.default_rng(seed)
    sketch, used = GraphNetwork.from_config(network.config, SHAPE, CLASSES, weights=False), Counter[str]()
    operators = (*EXACT_OPERATORS, *APPROXIMATE_OPERATORS)
    for _ in range(15):
        again = copy.deepcopy(rng)
        network, record = random_morphism(network, rng, images=IMAGES, operators=operators, max_params=20_000)
        sketch, same = random_morphism(sketch, again, images=IMAGES, operators=operators, max_params=20_000)
        used[record.operator] += 1
        assert record == same and sketch.config == network.config and not list(sketch.parameters())
        assert sketch.num_params == sum(p.numel() for p in network.parameters())
    assert len(used) > 5


def test_operators_are_drawn_uniformly_and_then_places() -> None:
    parent, rng = plain(), np.random.default_rng(0)
    operators, places = Counter[str](), Counter[str]()
    for _ in range(400):
        _, record = random_morphism(parent, rng, images=IMAGES, operators=("enlarge_kernel", "separate", "widen"))
        operators[record.operator] += 1
        if record.operator == "enlarge_kernel":
            places[record.arguments["node"]] += 1
    assert operators.keys() == {"enlarge_kernel", "separate", "widen"}  # separate has one place, the others more
    assert max(operators.values()) - min(operators.values()) < 60  # of 133 each, standard deviation 9
    assert places.keys() == {"1", "5", "6"}
    assert max(places.values()) - min(places.values()) < 40


def test_children_stay_below_a_number_of_parameters() -> None:
    parent = plain()
    size = sum(p.numel() for p in parent.parameters())
    for seed in range(10):
        child, _ = random_morphism(parent, seed, images=IMAGES, operators=EXACT_OPERATORS, max_params=size + 150)
        assert sum(p.numel() for p in child.parameters()) <= size + 150
    with pytest.raises(ValueError, match=r"None of .*'widen'.* without more than \d+ parameters. Raise max_params"):
        random_morphism(parent, 0, images=IMAGES, operators=("widen",), max_params=size)
    with pytest.raises(ValueError, match=r"None of \('remove_skip',\) can be applied. Allow others"):
        random_morphism(parent, 0, images=IMAGES, operators=("remove_skip",))


def test_a_trained_network_keeps_its_accuracy() -> None:
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(digits.target)
    torch.manual_seed(0)
    parent = GraphNetwork.from_graph(plain_graph((8, 16)), (1, 8, 8), 10)
    optimiser = torch.optim.Adam(parent.parameters(), lr=0.01)
    for start in [*range(0, 1200, 60)] * 3:
        loss = F.cross_entropy(parent(images[start : start + 60]), labels[start : start + 60])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimiser.step()

    def accuracy(network: GraphNetwork) -> float:
        return float((eval_outputs(network, images[1200:]).argmax(1) == labels[1200:]).float().mean())

    assert 0.5 < accuracy(parent) < 0.99
    child, rng = parent, np.random.default_rng(0)
    for _ in range(10):
        child, _ = random_morphism(child, rng, images=images[:256], operators=NASH_OPERATORS, max_params=100_000)
        assert accuracy(child) == accuracy(parent)
    smaller = prune(parent, "5", count=8, images=images[:1200])
    assert accuracy(smaller) < accuracy(parent)
    distil(smaller, parent, images[:1200], epochs=2, lr=3e-3, rng=0)
    assert accuracy(smaller) > accuracy(prune(parent, "5", count=8))


def test_a_gated_block_starts_with_the_statistics_of_what_it_reads() -> None:
    child = deepen(plain(), "2", images=IMAGES, rng=0)
    block = child.ops["4"]
    assert isinstance(block, nn.BatchNorm2d) and block.running_mean is not None and block.running_var is not None
    values = copy.deepcopy(child).train().output_of(IMAGES, "3").detach().numpy()
    np.testing.assert_allclose(block.running_mean, values.mean((0, 2, 3)), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(block.running_var, values.var((0, 2, 3)), rtol=1e-8)


# What cannot be done.

GROUPED = NetworkGraph(
    (
        Node("a", "conv", ("image",), channels=4, kernel=3),
        Node("g", "conv", ("a",), channels=4, kernel=3, groups=2),
        Node("p", "max_pool", ("g",), kernel=2, stride=2),
        Node("one", "conv", ("p",), channels=1, kernel=1),
        Node("i", "conv", ("image",), channels=3, kernel=1),
        Node("s", "add", ("i", "image")),
        Node("k", "concat", ("s", "i")),
        Node("gk", "depthwise", ("k",), kernel=3),
        Node("t", "add", ("gk", "k")),
        Node("tp", "max_pool", ("t",), kernel=2, stride=2),
        Node("all", "concat", ("one", "tp")),
        Node("out", "classifier", ("all",)),
    )
)
NAMES = GROUPED.canonical()[1]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        pytest.param(
            lambda n: widen(n, NAMES["a"], channels=8), "tied to a grouped convolution: both fixed", id="wide-groups"
        ),
        pytest.param(lambda n: widen(n, NAMES["i"], channels=8), "are added to the image", id="wide-image"),
        pytest.param(
            lambda n: widen(n, NAMES["g"], channels=8),
            "must be a convolution without groups.*has 2 groups",
            id="wide-g",
        ),
        pytest.param(
            lambda n: widen(n, NAMES["p"], channels=8),
            r"must be a convolution without groups.*\(max_pool\)",
            id="wide-p",
        ),
        pytest.param(lambda n: widen(n, NAMES["one"], channels=1), "has 1, got channels=1", id="not-wider"),
        pytest.param(
            lambda n: widen(n, NAMES["one"], channels=2, how="zero"), "'fresh' or 'copy'; got 'zero'", id="how"
        ),
        pytest.param(lambda n: widen(n, "99", channels=8), "no node '99'", id="nowhere"),
        pytest.param(lambda n: deepen(n, "image", images=IMAGES), "must follow a node.*'image'", id="deep-image"),
        pytest.param(lambda n: deepen(n, NAMES["out"], images=IMAGES), "no classifier", id="deep-end"),
        pytest.param(lambda n: deepen(n, NAMES["a"], kernel=2, images=IMAGES), "must be odd; got 2", id="deep-even"),
        pytest.param(
            lambda n: deepen(n, NAMES["a"], images=IMAGES[:1]), "at least two images; got 1", id="deep-images"
        ),
        pytest.param(
            lambda n: skip_add(n, NAMES["a"], NAMES["p"]), r"one shape.*\(4, 8, 8\).*\(4, 4, 4\)", id="add-shape"
        ),
        pytest.param(lambda n: skip_add(n, NAMES["g"], NAMES["a"]), "must lead forward", id="add-back"),
        pytest.param(lambda n: skip_add(n, NAMES["g"], NAMES["g"]), "is the same", id="add-self"),
        pytest.param(lambda n: skip_add(n, NAMES["a"], NAMES["out"]), "one shape.*the classifier", id="add-end"),
        pytest.param(lambda n: skip_add(n, NAMES["out"], NAMES["a"]), "Nothing can read the classifier", id="from-end"),
        pytest.param(lambda n: skip_concat(n, NAMES["a"], NAMES["one"]), "joined must have one size", id="concat-size"),
        pytest.param(lambda n: skip_concat(n, NAMES["a"], NAMES["g"]), "has 2 groups", id="concat-groups"),
        pytest.param(lambda n: branch(n, NAMES["p"]), r"must be given a convolution; .*\(max_pool\)", id="branch-pool"),
        pytest.param(lambda n: branch(n, NAMES["a"], how="sum"), "'add' or 'concat'; got 'sum'", id="branch-how"),
        pytest.param(lambda n: branch(n, NAMES["one"], how="concat"), "among two; it has 1", id="branch-one"),
        pytest.param(
            lambda n: branch(n, NAMES["a"], kernel=1), "even number of pixels.*has 3, got 1", id="branch-small"
        ),
        pytest.param(lambda n: enlarge_kernel(n, NAMES["a"], kernel=3), "is 3 already", id="kernel-same"),
        pytest.param(lambda n: enlarge_kernel(n, NAMES["a"], kernel=4), "even number of pixels", id="kernel-even"),
        pytest.param(lambda n: enlarge_kernel(n, NAMES["t"], kernel=3), r"have kernels; .*\(add\)", id="kernel-add"),
        pytest.param(lambda n: remove_layer(n, NAMES["one"]), r"Without.*\(4, 4, 4\).*\(1, 4, 4\)", id="layer-shape"),
        pytest.param(
            lambda n: remove_layer(n, NAMES["p"]), "remove_layer must be given a convolution", id="layer-pool"
        ),
        pytest.param(lambda n: remove_skip(n, NAMES["a"]), "is none of them", id="skip-conv"),
        pytest.param(lambda n: remove_skip(n, NAMES["s"], drop=2), "below 2; got 2", id="skip-position"),
        pytest.param(lambda n: remove_skip(n, NAMES["k"]), "needs all channels", id="skip-needed"),
        pytest.param(lambda n: prune(n, NAMES["one"], count=1), "at least 1.*got count=1", id="prune-all"),
        pytest.param(lambda n: prune(plain(), "1", count=1, images=IMAGES[:0]), "at least one batch", id="no-images"),
        pytest.param(lambda n: prune(n, NAMES["i"], count=1), "are added to the image", id="prune-image"),
        pytest.param(lambda n: separate(n, NAMES["one"]), "more than one pixel", id="separate-pixel"),
        pytest.param(lambda n: separate(n, NAMES["g"]), "has 2 groups", id="separate-groups"),
        pytest.param(lambda n: distil(n, n, IMAGES, temperature=0.0), "must be above 0; got 0.0", id="distil-cold"),
        pytest.param(
            lambda n: distil(n, n, IMAGES[:0]), "at least two images and one epoch; got 0 images", id="distil-nothing"
        ),
        pytest.param(
            lambda n: random_morphism(n, images=IMAGES, operators=("grow",)), r"no operators \['grow'\]", id="op"
        ),
        pytest.param(lambda n: MorphismRecord("grow", {}, 0), "no operator 'grow'; operators are deepen", id="record"),
        pytest.param(
            lambda n: MorphismRecord.from_dict({"operator": "widen"}), "operator, arguments and seed", id="dict"
        ),
    ],
)
def test_what_cannot_be_done_is_said(act: Callable[[GraphNetwork], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act(random_network(GROUPED))


def test_pruning_leaves_one_channel_everywhere() -> None:
    graph = NetworkGraph(
        (
            Node("a", "conv", ("image",), channels=2, kernel=3),
            Node("b", "conv", ("image",), channels=4, kernel=3),
            Node("k", "concat", ("a", "b")),
            Node("c", "conv", ("image",), channels=6, kernel=3),
            Node("s", "add", ("k", "c")),
            Node("out", "classifier", ("s",)),
        )
    )
    parent, names = random_network(graph), graph.canonical()[1]
    child = prune(parent, names["c"], count=4)
    assert sorted(node.channels for node in child.graph.nodes if node.op == "conv") == [1, 1, 2]
    with pytest.raises(ValueError, match="leave at least 1 here and in all that is tied"):
        prune(parent, names["c"], count=5)


@pytest.mark.parametrize("seed", [5, 8, 10])  # with sums that concatenations are part of
def test_which_graph_pruning_leaves_does_not_depend_on_weights(seed: int) -> None:
    graph = random_graph(seed, grouped=False)
    one, other = random_network(graph, seed), random_network(graph, seed + 100)
    for conv in free_convs(one):
        for count in range(1, conv.channels):
            try:
                child = prune(one, conv.name, count=count)
            except ValueError:
                with pytest.raises(ValueError, match="leave at least 1 here"):
                    prune(other, conv.name, count=count)
            else:
                assert prune(other, conv.name, count=count).config == child.config


def test_channels_of_either_kind_go_in_proportion() -> None:
    graph = NetworkGraph(
        (
            Node("a", "conv", ("image",), channels=2, kernel=1),
            Node("b", "conv", ("image",), channels=6, kernel=1),
            Node("k", "concat", ("a", "b")),
            Node("c", "conv", ("image",), channels=8, kernel=3),
            Node("s", "add", ("k", "c")),
            Node("out", "classifier", ("s",)),
        )
    )
    names = graph.canonical()[1]
    for seed in range(5):
        parent = random_network(graph, seed)
        weight = parent.ops[names["b"]].get_parameter("weight")
        weight.data[:3] *= 1e-3  # by the norms alone, more would go from here
        child = prune(parent, names["c"], count=4)
        assert sorted(node.channels for node in child.graph.nodes if node.op == "conv") == [1, 3, 4]


def test_a_record_is_applied() -> None:
    parent = plain()
    child = morph(parent, MorphismRecord("enlarge_kernel", {"node": "1", "kernel": 5}, 0), IMAGES)
    assert child.graph.nodes[0].kernel == 5
    assert torch.equal(F.pad(parent.ops["1"].get_parameter("weight"), (1,) * 4), child.ops["1"].get_parameter("weight"))
