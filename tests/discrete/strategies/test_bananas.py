from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from oneshot.discrete import BANANAS, Result, SearchStrategy
from oneshot.discrete.strategies.bananas import Ensemble, Paths
from oneshot.regression.encoding import one_hot
from oneshot.regression.extra import ExtraFeatures
from oneshot.regression.features import count_features
from oneshot.regression.gaussian_process import rank_normal
from oneshot.regression.networks import NetworkEnsemble
from oneshot.supernets import (
    NASBench101Cell,
    NASBench101Space,
    NASBench201Space,
    NASNetSpace,
    SearchSpace,
    SubnetConfig,
    darts_space,
)
from oneshot.supernets.nasbench101 import OPERATIONS
from oneshot.testing.strategies import SPACE, StrategyContract, planted


class TestBANANAS(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return BANANAS(space, networks=3, candidates=40, seed=seed)


class TestRanks(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return BANANAS(space, networks=3, candidates=40, targets="ranks", encoding="counts", seed=seed)


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


class Oracle:
    """In the place of the ensemble: mean and spread of the candidates are given, and what it learned from is kept."""

    def __init__(self, mean: Callable[[int], np.ndarray], spread: Callable[[int], np.ndarray]) -> None:
        self.mean, self.spread, self.learned = mean, spread, np.empty(0)

    def __call__(self, x: np.ndarray, y: np.ndarray, networks: int, rng: np.random.Generator) -> Oracle:
        self.learned = y
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        mean, spread = self.mean(len(x)), self.spread(len(x))
        return np.stack([mean - spread, mean + spread])  # of two networks


def a_round(
    monkeypatch: pytest.MonkeyPatch, oracle: Oracle, *, seed: int = 0, failed: int = 0, **options: Any
) -> tuple[list[int], BANANAS]:
    """Places of the proposals of one round among its candidates, best first."""
    monkeypatch.setattr("oneshot.discrete.strategies.bananas.Ensemble", oracle)
    strategy = BANANAS(SPACE, initial=20, batch=5, candidates=40, networks=2, seed=seed, **options)
    for proposal in strategy.ask(20):
        loss = None if proposal.number < failed else (planted(SPACE, proposal),)
        strategy.tell(Result(proposal.number, loss))
    candidates: list[np.ndarray] = []
    original = strategy._candidates
    monkeypatch.setattr(strategy, "_candidates", lambda best: candidates.extend(original(best)) or np.stack(candidates))
    rows = [row.tolist() for row in strategy._round()]
    places = [row.tolist() for row in candidates]
    return [places.index(row) for row in rows], strategy


def zeros(n: int) -> np.ndarray:
    return np.zeros(n)


def test_where_the_networks_agree_a_round_proposes_the_least_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates that differ among each other are not uncertain."""
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(40)
        oracle = Oracle(lambda n, order=order: order.astype(float), zeros)
        chosen, _ = a_round(monkeypatch, oracle, seed=seed)
        assert chosen == np.argsort(order)[:5].tolist()


def test_where_the_networks_disagree_a_round_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal means the lowest draws are of uncertain candidates; here of the last ten."""
    uncertain = Oracle(zeros, lambda n: np.where(np.arange(n) < n - 10, 0.0, 1.0))
    chosen, _ = a_round(monkeypatch, uncertain)
    assert sum(place >= 30 for place in chosen) >= 3, "of ten draws some are below 0, the value of all others"


def test_a_round_ranks_by_independent_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw for all candidates, or one network for all of them, would keep equal ones in their order."""
    equal = Oracle(zeros, np.ones)
    chosen = [a_round(monkeypatch, equal, seed=seed)[0] for seed in range(40)]
    assert [0, 1, 2, 3, 4] not in chosen and [39, 38, 37, 36, 35] not in chosen
    counts = np.bincount(np.concatenate(chosen), minlength=40)
    assert counts.max() <= 15 and (counts > 0).sum() >= 35, "200 places, five a candidate on average"


def test_what_failed_counts_as_the_worst_that_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = Oracle(zeros, np.ones)
    _, strategy = a_round(monkeypatch, oracle, failed=4)
    losses = [loss for _, loss in strategy._known]
    assert [math.isinf(loss) for loss in losses] == [True] * 4 + [False] * 16
    full = np.array([max(losses[4:])] * 4 + losses[4:])
    np.testing.assert_allclose(oracle.learned, (full - full.mean()) / full.std(), rtol=1e-12)
    average = np.array([np.mean(losses[4:])] * 4 + losses[4:])
    assert not np.allclose(oracle.learned, (average - average.mean()) / average.std(), rtol=1e-2)


def test_ranks_are_learned_in_place_of_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = Oracle(zeros, np.ones)
    _, strategy = a_round(monkeypatch, oracle, failed=2, targets="ranks")
    losses = [loss for _, loss in strategy._known]
    worst = max(losses[2:])
    expected = rank_normal([worst, worst, *losses[2:]])  # what failed shares the worst rank
    np.testing.assert_allclose(oracle.learned, expected, rtol=1e-12)
    full = np.array([worst, worst, *losses[2:]])
    assert not np.allclose(oracle.learned, (full - full.mean()) / full.std(), rtol=1e-2)


def test_counts_stand_beside_the_genes() -> None:
    genes = SPACE.sample_matrix(7, 0)
    x = BANANAS(SPACE, encoding="counts").encode(genes)
    np.testing.assert_array_equal(x, np.concatenate([one_hot(SPACE, genes), count_features(SPACE, genes)], 1))


def test_every_network_sees_the_samples_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    moments = NetworkEnsemble.moments

    def watched(self: NetworkEnsemble, x: np.ndarray, *args: Any) -> Any:
        seen.append(x[..., 0].copy())
        return moments(self, x, *args)

    monkeypatch.setattr(NetworkEnsemble, "moments", watched)
    x = np.arange(50, dtype=np.float32)[:, None]
    Ensemble(x, x[:, 0], 4, np.random.default_rng(0), epochs=2)
    assert [part.shape for part in seen] == [(4, 32), (4, 18)] * 2
    for first, second in (seen[:2], seen[2:]):
        epoch = np.concatenate([first, second], axis=1)
        assert all(sorted(row) == list(range(50)) for row in epoch.tolist())
        assert len({tuple(row) for row in epoch.tolist()}) == 4
    assert not np.array_equal(seen[0], seen[2]), "and in another one in the next epoch"


def test_a_round_is_better_than_its_parents() -> None:
    strategy = BANANAS(SPACE, initial=60, batch=5, candidates=60, parents=20, seed=0)
    for proposal in strategy.ask(60):
        strategy.tell(Result(proposal.number, (planted(SPACE, proposal),)))
    chosen = [planted(SPACE, proposal) for proposal in strategy.ask(5)]
    known = sorted(result.values[0] for _, result in strategy.observed.values() if result.values)
    assert np.mean(chosen) < np.mean(known[:20]), "smaller losses are better"


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1; got 10, 0, 100, 5, 5"):
        BANANAS(SPACE, batch=0)
    with pytest.raises(ValueError, match="targets 'losses' or 'ranks'; got 'auto' and 'rank'"):
        BANANAS(SPACE, targets="rank")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'planted' has no graph with paths; encode it by 'one_hot'"):
        BANANAS(SPACE, encoding="path")


class Sum(ExtraFeatures):
    """The planted loss itself, or where it is shuffled, nothing."""

    def __init__(self, shuffled: bool = False) -> None:
        self.shuffled = shuffled
        self.asked: list[SubnetConfig] = []

    def __call__(self, configs: Sequence[SubnetConfig]) -> np.ndarray:
        self.asked += configs
        sums = SPACE.encode(configs).sum(1, keepdims=True).astype(float)
        return np.array([np.random.default_rng(int(s)).normal(size=1) for s in sums]) if self.shuffled else sums


class TestExtraFeatures(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return BANANAS(space, networks=3, candidates=40, features=Sum(), seed=seed)


def test_extra_features_are_further_inputs_and_computed_once() -> None:
    source = Sum()
    strategy = BANANAS(SPACE, initial=5, batch=5, candidates=10, networks=2, features=source, encoding="counts")
    genes = SPACE.sample_matrix(6, 0)
    encoded, plain = strategy.encode(genes), BANANAS(SPACE, encoding="counts").encode(genes)
    np.testing.assert_array_equal(encoded[:, :-1], plain)
    np.testing.assert_array_equal(encoded[:, -1], genes.sum(1))
    assert encoded.dtype == np.float32
    for _ in range(20):
        (proposal,) = strategy.ask()
        strategy.tell(Result(proposal.number, (planted(SPACE, proposal),)))
    assert len(source.asked) == len(set(source.asked)) > 20
