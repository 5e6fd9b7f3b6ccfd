"""NAS-Bench-101 cells and networks against facts its authors published."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from oneshot.supernets.base import count_parameters
from oneshot.supernets.nasbench101 import PAIRS, NASBench101Cell, NASBench101Network, NASBench101Space
from oneshot.supernets.space import IntMatrix, SubnetConfig

C1, C3, POOL = "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"
INCEPTION = (
    [
        [0, 1, 1, 1, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0],
    ],
    ["input", C1, C3, C3, C3, POOL, "output"],
)


def cell(*edges: tuple[int, int], ops: int) -> NASBench101Cell:
    """A cell of 3x3 convolutions."""
    size = ops + 2
    matrix = [[int((i, j) in edges) for j in range(size)] for i in range(size)]
    return NASBench101Cell(matrix, ["input", *[C3] * ops, "output"])


def test_the_inception_like_cell_has_the_number_of_parameters_of_the_table() -> None:
    """google-research/nasbench, NASBench.ipynb, "Basic usage": trainable_parameters: 2694282."""
    with torch.device("meta"):
        assert count_parameters(NASBench101Network(*INCEPTION)) == 2_694_282


@pytest.mark.parametrize(
    ("built", "out_channels", "channels"),
    [
        pytest.param(cell((0, 1), (1, 2), (2, 3), ops=2), 8, (8, 8), id="chain"),
        pytest.param(cell((0, 1), (0, 2), (1, 3), (2, 3), (3, 4), ops=3), 16, (16, 16, 16), id="branches that meet"),
        pytest.param(cell((0, 1), (0, 2), (1, 3), (2, 3), ops=2), 8, (4, 4), id="two"),
        pytest.param(cell((0, 1), (0, 2), (1, 3), (2, 3), ops=2), 15, (8, 7), id="two, odd"),
        pytest.param(cell((0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4), ops=3), 8, (3, 3, 2), id="three"),
        pytest.param(cell((0, 1), (1, 2), (1, 3), (2, 4), (3, 4), ops=3), 9, (5, 5, 4), id="the widest of two"),
        pytest.param(cell((0, 1), (0, 3), (1, 2), (1, 4), (2, 3), (3, 4), ops=3), 15, (8, 7, 7), id="narrower later"),
        pytest.param(cell((0, 1), (0, 2), (1, 2), ops=1), 8, (8,), id="the input takes no share"),
        pytest.param(cell((0, 1), ops=0), 8, (), id="no operations"),
    ],
)
def test_channels_are_those_of_the_authors_unit_tests(
    built: NASBench101Cell, out_channels: int, channels: tuple[int, ...]
) -> None:
    """google-research/nasbench, tests/model_builder_test.py."""
    assert built.channels(out_channels) == channels


def test_a_cell_is_pruned_of_what_lies_on_no_path() -> None:
    pruned = NASBench101Cell(
        [
            [0, 1, 1, 0, 0, 0],
            [0, 0, 0, 0, 1, 1],
            [0, 0, 0, 0, 0, 0],  # leads nowhere
            [0, 0, 0, 0, 1, 1],  # the input does not reach it
            [0, 0, 0, 0, 0, 1],
            [0, 0, 0, 0, 0, 0],
        ],
        ["input", C3, POOL, POOL, C1, "output"],
    )
    assert pruned == NASBench101Cell(
        [[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], ["input", C3, C1, "output"]
    )
    assert pruned.parents(3) == (1, 2)
    assert {pruned: 1}[NASBench101Cell(pruned.matrix, pruned.operations)] == 1


@pytest.mark.parametrize(
    ("matrix", "operations", "message"),
    [
        pytest.param([[0, 1], [0, 0]], ["input", C3, "output"], "ones above the diagonal", id="too few rows"),
        pytest.param([[0, 1], [0]], ["input", "output"], "ones above the diagonal", id="ragged"),
        pytest.param([[0, 1], [1, 0]], ["input", "output"], "ones above the diagonal", id="backwards"),
        pytest.param([[1, 1], [0, 0]], ["input", "output"], "ones above the diagonal", id="a loop"),
        pytest.param([[0, 2], [0, 0]], ["input", "output"], "ones above the diagonal", id="not binary"),
        pytest.param([[0]], ["input"], "ones above the diagonal", id="one vertex"),
        pytest.param([[0, 1], [0, 0]], [C3, "output"], r"are 'input', any of", id="no input"),
        pytest.param([[0, 1], [0, 0]], ["input", C3], r"are 'input', any of", id="no output"),
        pytest.param(
            [[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["input", "skip", "output"], r"got \['input', 'skip'", id="unknown"
        ),
        pytest.param([[0, 1, 0], [0, 0, 0], [0, 0, 0]], ["input", C3, "output"], "this one does not", id="no path"),
    ],
)
def test_what_is_no_cell_is_refused(matrix: list[list[int]], operations: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NASBench101Cell(matrix, operations)


def test_cells_beyond_the_limits_are_refused_unless_pruning_saves_them() -> None:
    chain = [(i, i + 1) for i in range(7)]
    with pytest.raises(ValueError, match="at most 7 vertices and 9 edges; this one has 8 and 7 after pruning"):
        cell(*chain, ops=6)
    assert len(cell(*chain[:5], (5, 7), ops=6).matrix) == 7
    dense = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    with pytest.raises(ValueError, match="this one has 5 and 10 after pruning"):
        cell(*dense, ops=3)
    assert len(cell(*dense[:-1], ops=3).matrix) == 4  # without its way to the output, vertex 3 goes


def test_fewer_channels_than_operations_to_share_them_are_refused() -> None:
    with pytest.raises(ValueError, match=r"concatenates 4 operations.* got channels=3"):
        NASBench101Network(*INCEPTION, channels=3)


def test_a_network_is_rebuilt_from_json() -> None:
    torch.manual_seed(0)
    network = NASBench101Network(*INCEPTION, channels=8, cells_per_stage=1, in_channels=2, image_size=9).eval()
    rebuilt = NASBench101Network(**json.loads(json.dumps(network.init_args))).eval()
    rebuilt.load_state_dict(network.state_dict())
    x = torch.randn(2, 2, 9, 9)
    assert rebuilt.init_args == network.init_args
    assert torch.equal(rebuilt(x), network(x))
    (graph,) = network.graphs()
    assert graph.nodes == tuple(INCEPTION[1]) and len(graph.edges) == 9
    assert network.config is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"cells_per_stage": 0}, "at least one cell; got cells_per_stage=0", id="no cells"),
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="one class"),
        pytest.param({"image_size": 3}, "at least 4 pixels; got image_size=3", id="small image"),
    ],
)
def test_a_network_that_cannot_work_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NASBench101Network(*INCEPTION, **options)


# The space.

SPACE = NASBench101Space()


def spellings(inner: int) -> IntMatrix:
    """All graphs over so many vertices between input and output, with all operations, as genes."""
    vertices = [*range(inner + 1), 6]
    columns = [PAIRS.index((s, t)) for s, t in itertools.combinations(vertices, 2)]
    bits = np.array(list(np.ndindex(*[2] * len(columns))))
    ops = np.array(list(np.ndindex(*[3] * inner)), dtype=np.int64).reshape(3**inner, inner)
    genes = np.zeros((len(bits) * len(ops), SPACE.num_genes), dtype=np.int64)
    genes[:, columns] = np.repeat(bits, len(ops), axis=0)
    genes[:, len(PAIRS) : len(PAIRS) + inner] = np.tile(ops, (len(bits), 1))
    return genes


@pytest.mark.parametrize(
    ("vertices", "number"),
    [(2, 1), (3, 6), (4, 84), (5, 2441), pytest.param(6, 62_010, marks=pytest.mark.nightly)],
)
def test_the_space_has_as_many_cells_as_the_benchmark(vertices: int, number: int) -> None:
    """Cells of the tables by vertices: 1, 6, 84, 2,441, 62,010 and 359,082 of 7, in all 423,624."""
    genes = spellings(vertices - 2)
    found = set()
    for start in range(0, len(genes), 100_000):
        rows = genes[start : start + 100_000]
        edges = rows[:, : len(PAIRS)]
        canonical = SPACE.repair(rows[(edges.sum(1) <= 9) & (edges.sum(1) > 0)])
        found |= {row.tobytes() for row in canonical}
    sizes = [len(set(np.array(PAIRS)[np.frombuffer(row, np.int64)[:21] > 0].ravel())) for row in found]
    assert sizes.count(vertices) == number


def test_isomorphic_cells_are_one_config() -> None:
    matrix, operations = np.array(INCEPTION[0]), INCEPTION[1]
    order = [0, 3, 5, 2, 4, 1, 6]
    moved = NASBench101Cell(matrix[np.ix_(order, order)].tolist(), [operations[i] for i in order])
    config = SPACE.from_cell(NASBench101Cell(*INCEPTION))
    assert moved.matrix != NASBench101Cell(*INCEPTION).matrix and SPACE.from_cell(moved) == config
    other = SPACE.from_cell(NASBench101Cell(INCEPTION[0], ["input", C3, C3, C3, C3, POOL, "output"]))
    assert other != config
    with torch.device("meta"):
        network = NASBench101Network(SPACE.cell(config).matrix, SPACE.cell(config).operations)
        assert count_parameters(network) == 2_694_282


def test_a_cell_survives_the_way_through_the_space() -> None:
    for config in SPACE.decode(SPACE.sample_matrix(200, 0)):
        assert SPACE.canonical(config) == config == SPACE.from_cell(SPACE.cell(config))
    assert SPACE.graphs(config)[0].nodes == SPACE.cell(config).operations


def test_anything_is_repaired_to_a_cell() -> None:
    rng = np.random.default_rng(0)
    genes = rng.integers(np.array(SPACE.gene_sizes), size=(300, SPACE.num_genes))
    genes[:2, : len(PAIRS)] = [[0], [1]]
    repaired = SPACE.repair(genes)
    np.testing.assert_array_equal(SPACE.repair(repaired), repaired)
    for config in SPACE.decode(repaired):
        SPACE.cell(config)
    assert SPACE.cell(SPACE.decode(repaired)[0]).operations == ("input", "output")
    assert sum(map(sum, SPACE.cell(SPACE.decode(repaired)[1]).matrix)) == 9


def test_a_mutation_is_another_cell_and_cells_can_grow_to_any_size() -> None:
    rng = np.random.default_rng(0)
    config, sizes = SPACE.sample(rng), set[int]()
    for _ in range(300):
        child = SPACE.mutate(config, rng)
        assert SPACE.canonical(child) != SPACE.canonical(config)
        SPACE.validate(SPACE.crossover(child, config, rng))
        config = SPACE.canonical(child)
        sizes.add(len(SPACE.cell(config).operations))
    assert sizes == {2, 3, 4, 5, 6, 7}


def test_configs_that_are_no_cells_are_refused() -> None:
    full = SubnetConfig("nasbench101", {"edges": [1] * 21, "ops": [C1] * 5})
    with pytest.raises(ValueError, match="at most 7 vertices and 9 edges; this one has 7 and 21"):
        SPACE.validate(full)
    with pytest.raises(ValueError, match="leads from its input to its output"):
        SPACE.encode([SubnetConfig("nasbench101", {"edges": [0] * 21, "ops": [C1] * 5})])
    with pytest.raises(ValueError, match="at most 7 vertices; got 8"):
        SPACE.from_matrices([np.eye(8, k=1, dtype=int).tolist()], [["input", *[C1] * 6, "output"]])
