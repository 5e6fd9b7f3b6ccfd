from __future__ import annotations

import itertools

import numpy as np
import pytest

from oneshot.discrete import BANANAS, Result, SearchStrategy
from oneshot.discrete.strategies.bananas import Ensemble, Paths, gradients
from oneshot.supernets import (
    NASBench101Cell,
    NASBench101Space,
    NASBench201Space,
    NASNetSpace,
    SearchSpace,
    darts_space,
)
from oneshot.supernets.nasbench101 import OPERATIONS
from oneshot.testing.strategies import SPACE, StrategyContract, planted


class TestBANANAS(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return BANANAS(space, networks=3, candidates=40, seed=seed)


def finite_differences(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Of the mean absolute error, every weight by itself, in float64."""

    def error(weights: list[np.ndarray]) -> float:
        out = x
        for layer in range(0, len(weights), 2):
            out = np.maximum(out, 0) if layer else out
            out = np.einsum("enp,eph->enh", out, weights[layer]) + weights[layer + 1]
        return float(np.abs(out - y).mean(axis=(1, 2)).sum())

    found = []
    for w, weight in enumerate(weights):
        part = np.zeros_like(weight)
        for index in np.ndindex(*weight.shape):
            both = []
            for step in (1e-6, -1e-6):
                moved = [v.copy() for v in weights]
                moved[w][index] += step
                both.append(error(moved))
            part[index] = (both[0] - both[1]) / 2e-6
        found.append(part)
    return found


def test_gradients_are_those_of_the_mean_absolute_error() -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 4), (2, 1, 4), (2, 4, 4), (2, 1, 4), (2, 4, 1), (2, 1, 1)]
    weights = [rng.normal(size=shape) for shape in shapes]
    x, y = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 7, 1))
    ours = [np.empty(shape) for shape in shapes]
    gradients(weights, x, y, ours)  # type: ignore[arg-type]
    expected = finite_differences(weights, x, y)
    for a, b in zip(ours, expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

    squared = np.sign(1.0) * 2 * ours[-1]  # a mean squared error would have other gradients
    assert not np.allclose(squared, expected[-1], rtol=1e-2)


def test_the_ensemble_learns_and_its_networks_differ() -> None:
    rng = np.random.default_rng(0)
    x = (rng.random((200, 12)) < 0.5).astype(np.float32)
    y = x[:, :4].sum(1) - x[:, 4:8].sum(1)
    y = (y - y.mean()) / y.std()
    outputs = Ensemble(x[:150], y[:150], 5, rng).predict(x[150:])
    assert np.corrcoef(outputs.mean(0), y[150:])[0, 1] > 0.9
    assert outputs.std(0).min() > 0


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        pytest.param(
            "|none~0|+|none~0|none~1|+|none~0|nor_conv_1x1~1|none~2|", set(), id="an edge that nothing enters"
        ),
        pytest.param(
            "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|nor_conv_1x1~1|none~2|",
            {("nor_conv_3x3", "nor_conv_1x1")},
            id="one path",
        ),
        pytest.param(
            "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|nor_conv_1x1~0|none~1|nor_conv_3x3~2|",
            {("nor_conv_1x1",), ("skip_connect", "nor_conv_3x3"), ("nor_conv_3x3", "avg_pool_3x3", "nor_conv_3x3")},
            id="three paths",
        ),
    ],
)
def test_paths_are_the_ways_from_the_input_to_the_output(text: str, paths: set[tuple[str, ...]]) -> None:
    space = NASBench201Space()
    assert {path[2:] for path in Paths(space).of(space.from_arch_string(text))} == paths


def test_the_space_has_84_paths_of_one_to_three_operations() -> None:
    space, paths = NASBench201Space(), Paths(NASBench201Space())
    every = frozenset().union(*(paths.of(space.sample(seed)) for seed in range(2000)))
    assert len(every) == 4 + 4**2 + 4**3, "the paper's 155 count none as an operation"


def test_nas_bench_101_has_the_364_paths_of_the_paper() -> None:
    """Section 3.1 of arXiv:1910.11858: ``3^0 + ... + 3^5`` for five vertices with one of three operations each."""
    space, every = NASBench101Space(), set()
    for length in range(6):
        for operations in itertools.product(OPERATIONS, repeat=length):
            matrix = np.eye(length + 2, k=1, dtype=int).tolist()
            config = space.from_cell(NASBench101Cell(matrix, ["input", *operations, "output"]))
            (path,) = Paths(space).of(config)
            assert path == ("cell", "input", *operations)
            every.add(path)
    assert len(every) == 364
    assert {path for seed in range(300) for path in Paths(space).of(space.sample(seed))} <= every


def test_a_block_that_concatenates_does_so_on_the_path() -> None:
    space = NASNetSpace(blocks=1)
    genes = space.encode([space.sample(0)])[0]
    added, joined = genes.copy(), genes.copy()
    added[4], joined[4] = 0, 1
    adding, joining = (Paths(space).of(config) for config in space.decode([added, joined]))
    changed = {(*path, "concat") for path in adding if path[0] == "normal" and len(path) > 2}  # others lead past it
    assert changed and changed == joining - adding


@pytest.mark.parametrize(
    ("space", "most"),
    [
        pytest.param(NASNetSpace(), 0.04, id="nasnet"),
        pytest.param(darts_space(), 0.04, id="darts"),
        pytest.param(NASBench101Space(), 0.2, id="nasbench101"),  # a path counts once
        pytest.param(NASBench201Space(), 0.2, id="nasbench201"),
    ],
)
def test_paths_tell_mutants_from_their_parents(space: SearchSpace, most: float) -> None:
    strategy = BANANAS(space, encoding="path")
    known = space.repair(space.sample_matrix(50, 0))
    mutants = np.stack([strategy._mutated(known[i % 5]) for i in range(200)])
    x = strategy.encode(np.concatenate([known, mutants]))
    alike = [(x[50 + i] == x[i % 5]).all() and (mutants[i] != known[i % 5]).any() for i in range(200)]
    assert np.mean(alike) <= most and x.shape[1] <= 200


def test_auto_takes_paths_where_cells_have_them_in_common() -> None:
    for space in (darts_space(), NASBench101Space(), NASBench201Space()):
        assert BANANAS(space).paths is not None
    for space in (NASNetSpace(), SPACE):
        assert BANANAS(space).paths is None


def test_what_computes_the_same_is_encoded_alike() -> None:
    space = NASBench201Space()
    one = space.from_arch_string("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|")
    other = space.from_arch_string("|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|")
    x = Paths(space).encode([one, other])
    np.testing.assert_array_equal(x[0], x[1])


def test_a_round_ranks_by_independent_draws_of_the_right_sign() -> None:
    strategy = BANANAS(SPACE, initial=60, batch=5, candidates=60, parents=20, seed=0)
    for proposal in strategy.ask(60):
        strategy.tell(Result(proposal.number, (planted(SPACE, proposal),)))
    chosen = [planted(SPACE, proposal) for proposal in strategy.ask(5)]
    known = sorted(result.values[0] for _, result in strategy.observed.values() if result.values)
    assert np.mean(chosen) < np.mean(known[:20]), "smaller losses are better"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1; got 10, 0, 100, 5, 5"):
        BANANAS(SPACE, batch=0)
    with pytest.raises(ValueError, match="'planted' has no graph with paths; encode it by 'one_hot'"):
        BANANAS(SPACE, encoding="path")
