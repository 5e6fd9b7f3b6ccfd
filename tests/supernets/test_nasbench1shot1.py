"""The three spaces of NAS-Bench-1Shot1 against the numbers of the paper."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import torch

from oneshot.supernets.base import OperationSupernet, count_parameters
from oneshot.supernets.nasbench1shot1 import (
    NASBench1Shot1Network,
    NASBench1Shot1Space,
    NASBench1Shot1Supernet,
    Number,
)
from oneshot.supernets.nasbench101 import OPERATIONS, NASBench101Cell
from oneshot.supernets.space import SubnetConfig
from oneshot.testing import SpaceContract

NUMBERS: tuple[Number, ...] = get_args(Number)


def small(number: Number) -> NASBench1Shot1Supernet:
    return NASBench1Shot1Supernet(number, channels=4, cells_per_stage=1, num_classes=3, in_channels=2, image_size=9)


def with_ops(config: SubnetConfig, ops: tuple[str, ...]) -> SubnetConfig:
    return SubnetConfig(config.space, {**dict(config.picks), "ops": ops})


class OneOfTheSpaces(SpaceContract):
    same_calls = False  # the shared network concatenates all blocks, with zeros for those that are not taken

    def test_candidate_parameters_are_what_extracted_networks_differ_by(self, supernet: OperationSupernet) -> None:
        """Of the same wiring: which blocks and projections are left is no property of one candidate."""
        assert isinstance(supernet, NASBench1Shot1Supernet)
        counts = supernet.candidate_parameters()
        assert all(not counts[choice.name].any() for choice in supernet.space.choices[1:])
        blocks = supernet.space.blocks
        for seed in range(self.configs_tested):
            config, other = supernet.space.sample(seed), supernet.space.sample(seed + 1000)
            other = with_ops(config, tuple(map(str, other["ops"])))
            expected = sum(
                int(counts["ops"][b - 1][OPERATIONS.index(str(c["ops"][b - 1]))]) * sign
                for c, sign in ((config, 1), (other, -1))
                for b in supernet.space.used(config)
            )
            sizes = [count_parameters(supernet.extract(c)) for c in (config, other)]
            assert sizes[0] - sizes[1] == expected
        assert counts["ops"].tolist() == [[0, (16 + 64 + 256) + 2 * 28, 9 * (16 + 64 + 256) + 2 * 28]] * blocks


class TestSpace1(OneOfTheSpaces):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return small(1)


class TestSpace2(OneOfTheSpaces):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return small(2)


class TestSpace3(OneOfTheSpaces):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        return small(3)


def wirings(space: NASBench1Shot1Space) -> Iterator[SubnetConfig]:
    """Every architecture but for its operations."""
    ops = (OPERATIONS[0],) * space.blocks
    for picks in itertools.product(*(choice.candidates for choice in space.choices[1:])):
        named = {choice.name: [pick] for choice, pick in zip(space.choices[1:], picks, strict=True)}
        yield SubnetConfig(space.name, {"ops": ops, **named})


@pytest.mark.parametrize(
    ("number", "wired", "size", "listed"),
    [
        pytest.param(1, 180, 14_580, 6_240, id="space 1"),
        pytest.param(2, 360, 29_160, 29_160, id="space 2"),
        pytest.param(3, 5_400, 1_312_200, 363_648, id="space 3"),
    ],
)
def test_the_sizes_are_those_of_the_paper(number: Number, wired: int, size: int, listed: int) -> None:
    """The paper's numbers for 1 and 3 leave out operations of blocks that nothing reads; the one for 2 does not."""
    space = NASBench1Shot1Space(number)
    everything = list(wirings(space))
    assert len(everything) == wired and wired * 3**space.blocks == size == space.size
    read = [len(set(itertools.chain(*space.parents(config))) - {0}) for config in everything]
    assert listed == (size if number == 2 else sum(3**n for n in read))


@pytest.mark.parametrize(("number", "networks"), [(1, 3_702), (2, 12_474), (3, 135_900)])
def test_canonical_forms_leave_out_exactly_what_the_output_does_not_need(number: Number, networks: int) -> None:
    space = NASBench1Shot1Space(number)
    canonical = {space.canonical(config) for config in wirings(space)}
    assert sum(3 ** len(space.used(config)) for config in canonical) == networks


def test_blocks_and_output_have_the_parents_of_the_paper() -> None:
    assert [
        [len(picked) for picked in space.parents(space.sample(0))] for space in map(NASBench1Shot1Space, NUMBERS)
    ] == [[1, 2, 2, 2, 2], [1, 1, 2, 2, 3], [1, 1, 1, 2, 2, 2]]


def test_every_cell_is_of_the_benchmark_and_comes_back_as_the_same_cell() -> None:
    """Validity is checked when a cell is made: 7 vertices, 9 edges."""
    for number in NUMBERS:
        space = NASBench1Shot1Space(number)
        for config in space.decode(space.sample_matrix(300, 0)):
            cell = space.cell(config)
            again = space.from_cell(cell)
            assert space.cell(again) == cell == space.cell(space.canonical(config))
            assert space.canonical(again) == again


C1, C3, POOL = "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"
CONFIG = SubnetConfig(
    "nasbench1shot1_3",
    {
        "ops": (C3, C1, POOL, C1, C3),
        "parents_2": ["0"],
        "parents_3": ["1"],
        "parents_4": ["1+2"],
        "parents_5": ["0+1"],
        "output": ["0+4"],
    },
)


def test_the_cell_of_a_config_is_what_reaches_the_output() -> None:
    space = NASBench1Shot1Space(3)
    assert space.used(CONFIG) == [1, 2, 4]
    cell = space.cell(CONFIG)
    assert cell == NASBench101Cell(
        [[0, 1, 1, 0, 1], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]],
        ["input", C3, C1, C1, "output"],
    )
    (graph,) = space.graphs(CONFIG)
    assert graph.nodes == cell.operations
    assert [edge[:2] for edge in graph.edges] == [(0, 1), (0, 2), (1, 3), (2, 3), (0, 4), (3, 4)]
    # blocks 3 and 5 are the first candidates now
    assert dict(space.canonical(CONFIG).picks) == {
        **dict(CONFIG.picks),
        "ops": (C3, C1, POOL, C1, POOL),
        "parents_3": ("0",),
        "parents_5": ("0+1",),
    }


def test_a_cell_in_another_order_is_found_too() -> None:
    """Blocks with one parent come before those with two; this cell has them the other way round."""
    cell = NASBench101Cell(
        [[0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]],
        ["input", POOL, C1, C3, "output"],
    )
    space = NASBench1Shot1Space(3)
    assert space.cell(space.from_cell(cell)) == NASBench101Cell(
        [[0, 1, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]],
        ["input", POOL, C3, C1, "output"],
    )


def test_a_cell_that_is_not_in_the_space_is_refused() -> None:
    cell = NASBench101Cell([[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["input", C3, "output"])
    with pytest.raises(
        ValueError, match=r"Search space 3 .* \(1, 1, 1, 2, 2, 2\) parents.* with \(1, 1\) is not in it"
    ):
        NASBench1Shot1Space(3).from_cell(cell)


@pytest.mark.parametrize("build", [NASBench1Shot1Space, NASBench1Shot1Supernet])
def test_there_are_three_spaces(build: Callable[[int], object]) -> None:
    with pytest.raises(ValueError, match="has the search spaces 1, 2 and 3; got 4"):
        build(4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"cells_per_stage": 0}, "at least one cell; got cells_per_stage=0", id="no cells"),
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="one class"),
        pytest.param({"image_size": 3}, "at least 4 pixels; got image_size=3", id="small image"),
    ],
)
def test_a_network_that_cannot_work_is_refused(options: dict[str, int], message: str) -> None:
    for build in (NASBench1Shot1Supernet, lambda **o: NASBench1Shot1Network(3, dict(CONFIG.picks), **o)):
        with pytest.raises(ValueError, match=message):
            build(**options)


def test_a_foreign_architecture_is_refused_by_the_network() -> None:
    with pytest.raises(ValueError, match="must have the choices"):
        NASBench1Shot1Network(1, dict(CONFIG.picks))


def test_edge_weights_of_another_shape_are_refused() -> None:
    supernet = small(3)
    arch = {**supernet.one_hot(CONFIG), "output": torch.zeros(1, 6)}
    with pytest.raises(ValueError, match=r"hold 'output' with shape \[1, 15\]; got \[1, 6\]"):
        supernet(torch.zeros(2, 2, 9, 9), arch)


def test_cells_computed_again_in_the_backward_pass_give_the_same_gradients() -> None:
    supernet = small(3).double()
    x = torch.randn(4, 2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    arch = {c.name: torch.full((c.rows, len(c.candidates)), 0.3, dtype=torch.float64) for c in supernet.space.choices}
    inputs = [*supernet.parameters(), *(weights.requires_grad_() for weights in arch.values())]
    gradients = []
    for supernet.gradient_checkpointing in (False, True):
        loss = supernet(x, arch).square().sum()
        gradients.append(torch.autograd.grad(loss, inputs))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)
    assert all(g.any() for g in gradients[0])
