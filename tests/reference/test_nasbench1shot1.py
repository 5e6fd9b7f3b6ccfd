"""NAS-Bench-101 and NAS-Bench-1Shot1 networks against textbook networks with the same weights."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from oneshot.supernets.nasbench1shot1 import NASBench1Shot1Supernet, Number
from oneshot.supernets.nasbench101 import NASBench101Network

from .nasbench1shot1_net import NASBench1Shot1SearchNet, NASBench101Net, SearchCell
from .test_networks import (
    assert_equal,
    assert_same_behaviour,
    copy_weights,
    gradients,
    largest_difference,
    parameters,
    random_input,
    random_weights,
    randomise,
)

CHANNELS, CELLS = 4, 2
C1, C3, POOL = "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"


def counterpart(name: str, tensors: dict[str, Tensor]) -> Tensor:
    """What the product holds under another name; one projection for all blocks there, one for each in the textbook."""
    name = name.replace("classifier.", "head.2.")
    if not (match := re.match(r"cells\.(\d+)\.(.*)", name)):
        return tensors[name]
    layer, rest = int(match[1]), match[2]
    prefix = f"blocks.{layer + layer // CELLS}."  # the product has a pool between the stages in the same list
    if projection := re.match(r"projections\.(\d+)\.(.*)", rest):
        whole, c = tensors[f"{prefix}projection.{projection[2]}"], CHANNELS * 2 ** (layer // CELLS)
        return whole[int(projection[1]) * c :][:c] if whole.dim() else whole
    return tensors[prefix + re.sub(r"blocks\.(\d+)\.", r"mixed.\1.ops.", rest)]


def pair(number: Number) -> tuple[NASBench1Shot1Supernet, NASBench1Shot1SearchNet]:
    ours = NASBench1Shot1Supernet(number, channels=CHANNELS, cells_per_stage=CELLS, image_size=8).double()
    randomise(ours)
    textbook = NASBench1Shot1SearchNet(number, CHANNELS, CELLS).double()
    state = ours.state_dict()
    textbook.load_state_dict({name: counterpart(name, state).clone() for name in textbook.state_dict()})
    assert parameters(ours) == parameters(textbook)
    return ours, textbook


def edge_weights(ours: NASBench1Shot1Supernet) -> dict[str, Tensor]:
    return {c.name: random_weights(c.rows, len(c.candidates), seed) for seed, c in enumerate(ours.space.choices)}


def run(textbook: NASBench1Shot1SearchNet, x: Tensor, arch: dict[str, Tensor]) -> Tensor:
    """What has no choice has weight one."""
    cell = textbook.cells[0]
    assert isinstance(cell, SearchCell)
    names = [*(f"parents_{n}" for n in range(1, len(cell.sets))), "output"]
    wirings = [
        arch[name][0] if name in arch else torch.ones(len(sets), dtype=x.dtype)
        for name, sets in zip(names, cell.sets, strict=True)
    ]
    assert all(len(sets) == 1 for name, sets in zip(names, cell.sets, strict=True) if name not in arch)
    logits: Tensor = textbook(x, arch["ops"], wirings)
    return logits


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_shared_network_equals_the_textbook_network_under_random_edge_weights(number: Number) -> None:
    ours, textbook = pair(number)
    arch, x = edge_weights(ours), random_input()
    expected, actual = run(textbook, x, arch), ours(x, arch)
    assert_equal(actual, expected)
    assert float(expected.detach().std()) > 1e-3

    cotangent = torch.linspace(-1.0, 1.0, expected.numel(), dtype=torch.float64).view_as(expected)
    names, shared = [n for n, _ in textbook.named_parameters()], [x, *arch.values()]
    theirs = gradients((expected * cotangent).sum(), [*textbook.parameters(), *shared])
    mine = gradients((actual * cotangent).sum(), [*ours.parameters(), *shared])
    by_name = dict(zip([n for n, _ in ours.named_parameters()], mine, strict=False))
    for name, gradient in zip(names, theirs, strict=False):
        assert_equal(counterpart(name, by_name), gradient)
    for a, e in zip(mine[-len(shared) :], theirs[-len(shared) :], strict=True):
        assert e.any()
        assert_equal(a, e)

    buffers = dict(ours.named_buffers())
    for name, buffer in textbook.named_buffers():
        assert_equal(counterpart(name, buffers), buffer)
    ours.eval()
    textbook.eval()
    assert_equal(ours(x, arch), run(textbook, x, arch))


def average_instead_of_max(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == 3 and isinstance(module[0], nn.MaxPool2d):
            module[0] = nn.AvgPool2d(3, 1, 1)


def swap_projections(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, SearchCell):
            module.projections = nn.ModuleList(reversed(list(module.projections)))


def another_order_of_the_sets(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, SearchCell):
            module.sets = [list(reversed(sets)) for sets in module.sets]


@pytest.mark.parametrize("spoil", [average_instead_of_max, swap_projections, another_order_of_the_sets])
def test_a_wrong_shared_network_fails_the_comparison(spoil: Callable[[nn.Module], None]) -> None:
    ours, textbook = pair(1)
    arch, x = edge_weights(ours), random_input()
    spoil(textbook)
    assert largest_difference(ours(x, arch), run(textbook, x, arch)) > 1e-3


def test_wrong_edge_weights_fail_the_comparison() -> None:
    ours, textbook = pair(3)
    arch, x = edge_weights(ours), random_input()
    for name, weights in arch.items():
        wrong = {**arch, name: weights.flip(1)}
        assert largest_difference(ours(x, arch), run(textbook, x, wrong)) > 1e-3, name


def cell(operations: list[str], *edges: tuple[int, int]) -> tuple[list[list[int]], list[str]]:
    size = len(operations) + 2
    return [[int((i, j) in edges) for j in range(size)] for i in range(size)], ["input", *operations, "output"]


CELLS_101 = [
    pytest.param(
        cell([C1, C3, C3, C3, POOL], (0, 1), (0, 2), (0, 3), (0, 5), (1, 6), (2, 6), (3, 4), (4, 6), (5, 6)),
        id="inception",
    ),
    pytest.param(cell([C3, C3], (0, 1), (1, 2), (2, 3), (0, 3)), id="residual"),
    pytest.param(cell([C3, POOL, C1], (0, 1), (0, 3), (1, 2), (1, 4), (2, 3), (3, 4)), id="a wider vertex is cut"),
    pytest.param(cell([C1, POOL, C3], (0, 1), (1, 2), (0, 3), (1, 3), (1, 4), (2, 4), (3, 4), (0, 4)), id="three"),
    pytest.param(cell([], (0, 1)), id="nothing"),
]


def rename_101(name: str) -> str:
    name = name.replace("classifier.", "head.2.")
    if not (match := re.match(r"cells\.(\d+)\.(.*)", name)):
        return name
    layer, rest = int(match[1]), match[2].replace("from_input.", "projections.")
    rest = re.sub(r"vertices\.(\d+)", lambda m: f"ops.{int(m[1]) - 1}", rest)
    return f"blocks.{layer + layer // CELLS}.{rest}"


@pytest.mark.parametrize("spec", CELLS_101)
def test_the_nasbench101_network_equals_the_textbook_network(spec: tuple[list[list[int]], list[str]]) -> None:
    """Five channels, so that nothing divides."""
    ours = NASBench101Network(*spec, channels=5, cells_per_stage=CELLS, image_size=8).double()
    randomise(ours)
    textbook = NASBench101Net(*spec, channels=5, cells_per_stage=CELLS).double()
    copy_weights(ours, textbook, rename_101)
    assert_same_behaviour(ours, textbook, rename_101, ours, textbook)


@pytest.mark.parametrize("spec", CELLS_101)
def test_the_nasbench101_network_has_exactly_the_textbook_number_of_parameters(
    spec: tuple[list[list[int]], list[str]],
) -> None:
    with torch.device("meta"):
        assert parameters(NASBench101Network(*spec)) == parameters(NASBench101Net(*spec))


def test_a_wrong_nasbench101_network_fails_the_comparison() -> None:
    matrix, operations = cell([C3, POOL], (0, 1), (1, 2), (2, 3), (0, 3))
    ours = NASBench101Network(matrix, operations, channels=5, cells_per_stage=CELLS, image_size=8).double()
    randomise(ours)
    textbook = NASBench101Net(matrix, operations, channels=5, cells_per_stage=CELLS).double()
    copy_weights(ours, textbook, rename_101)
    x = random_input()
    for wrong in textbook.cells:
        assert isinstance(wrong.vertices, nn.ModuleDict)
        wrong.vertices["2"] = nn.AvgPool2d(3, 1, 1)
    assert largest_difference(ours(x), textbook(x)) > 1e-3
