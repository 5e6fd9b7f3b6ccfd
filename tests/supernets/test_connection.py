"""No search derives a network whose output does not read its input; the next likely one is taken."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import oneshot
from oneshot.cost import AdditiveCost, CostPenalty
from oneshot.engine.module import SearchModule
from oneshot.engine.paths import draw_connected
from oneshot.engine.samplers import ReinMaxSampler
from oneshot.supernets import (
    DARTSSupernet,
    NASBench201Network,
    NASBench201Space,
    NASBench201Supernet,
    connected,
    darts_space,
    nasbench201_space,
)
from oneshot.supernets.connection import CellGraph, connect
from oneshot.supernets.nasbench201 import EDGES
from oneshot.supernets.space import NONE, Choice, SearchSpace, SubnetConfig

SPACE = NASBench201Space()
EVERY = np.indices((5,) * 6).reshape(6, -1).T  # all 15,625; code 0 is none


def reaches(live: np.ndarray) -> bool:
    """By walking on from the input, edge by edge, until nothing new is found."""
    seen = {0}
    while True:
        more = {t for (s, t), on in zip(EDGES, live, strict=True) if on and s in seen} - seen
        if not more:
            return 3 in seen
        seen |= more


def test_connected_are_the_cells_of_nasbench201_in_which_a_walk_from_the_input_comes_to_the_output() -> None:
    walks = np.array([reaches(live) for live in EVERY != 0])
    assert np.array_equal(connected(SPACE, EVERY), walks)
    assert 0 < (~walks).sum() < len(EVERY)
    with_operation = (EVERY[:, 3:] != 0).any(1)  # an edge into the output is not enough
    assert not np.array_equal(walks, with_operation)


def test_networks_react_to_their_input_exactly_if_their_cells_are_connected() -> None:
    rng = np.random.default_rng(0)
    dead = rng.permutation(EVERY[~connected(SPACE, EVERY)])[:6]
    for genes in (*dead, *SPACE.sample_matrix(6, 1)):
        (config,) = SPACE.decode(genes[None])
        torch.manual_seed(0)
        network = NASBench201Network(SPACE.arch_string(config), channels=4, cells_per_stage=1, image_size=8).eval()
        network.blocks = network.blocks[:1]  # the reductions have shortcuts of their own; one cell has none
        network.head = torch.nn.Flatten()
        first, second = network(torch.randn(2, 3, 8, 8)), network(torch.randn(2, 3, 8, 8))
        assert torch.equal(first, second) != bool(connected(SPACE, genes[None])[0])


def likeliest(p: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Of all architectures, by counting them out."""
    likelihood = np.log(p[np.arange(6), EVERY]).sum(1)
    return np.asarray(EVERY[np.where(allowed, likelihood, -np.inf).argmax()])


def test_what_is_derived_is_the_likeliest_architecture_with_an_output() -> None:
    """Also where `none` leads on most edges, and a direct edge is not the cheapest way out."""
    rng, alive = np.random.default_rng(0), connected(SPACE, EVERY)
    mended = direct = 0
    for _ in range(300):
        logits = rng.normal(size=(6, 5))
        logits[:, 0] += rng.uniform(0, 4)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        ours = SPACE.encode([SPACE.most_likely({"cell": p})])[0]
        exact = likeliest(p, alive)
        assert np.array_equal(ours, exact)
        naive = p.argmax(1)
        if not reaches(naive != 0):
            mended += 1
            naive[3] = 1 + p[3, 1:].argmax()  # only the edge from the input to the output
            direct += np.array_equal(naive, exact)
        else:
            assert np.array_equal(ours, naive)
    assert mended > 50 and 0 < direct < mended


def test_certainty_of_a_cell_without_an_output_is_mended_by_as_few_edges_as_it_takes() -> None:
    config = SPACE.from_arch_string("|none~0|+|none~0|nor_conv_3x3~1|+|none~0|nor_conv_1x1~1|none~2|")
    derived = SPACE.most_likely(SPACE.one_hot(config))
    assert connected(SPACE, SPACE.encode([derived])).all()
    assert sum(a != b for a, b in zip(derived["cell"], config["cell"], strict=True)) == 1


def test_darts_cells_may_reach_the_output_by_nodes_and_both_kinds_must() -> None:
    space = darts_space(candidates=("none", "skip_connect"), steps=2, multiplier=1)
    edges = ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # the output is state 3
    every = np.indices((2,) * 10).reshape(10, -1).T

    def cell(live: np.ndarray) -> bool:
        on = {edge for edge, bit in zip(edges, live, strict=True) if bit}
        return bool(on & {(0, 3), (1, 3)}) or ((2, 3) in on and bool(on & {(0, 2), (1, 2)}))

    expected = [cell(genes[:5]) and cell(genes[5:]) for genes in every]
    assert connected(space, every).tolist() == expected


def test_a_darts_cell_without_an_output_is_mended_by_its_likeliest_way() -> None:
    space, rng = (
        darts_space(candidates=("skip_connect", "sep_conv_3x3"), steps=2, multiplier=1),
        np.random.default_rng(1),
    )
    empty = SubnetConfig(space.name, {kind: ["none"] * 5 for kind in ("normal", "reduce")})
    for _ in range(50):
        scores = {kind: rng.uniform(size=(5, 2)) for kind in ("normal", "reduce")}
        mended = connect(space, empty, scores)
        for kind, p in scores.items():
            best = p.max(1)
            way = max(((0, 4), (1, 4), (2,), (3,)), key=lambda way: np.prod(best[list(way)]))
            names = np.array(["skip_connect", "sep_conv_3x3"])[p.argmax(1)]
            assert list(mended[kind]) == [names[e] if e in way else "none" for e in range(5)]


def test_all_ways_are_found_and_the_best_of_them() -> None:
    graph = CellGraph(tuple((s, t, e) for e, (s, t) in enumerate(EDGES)), inputs=(0,), outputs=(3,))
    ways = sorted(graph.ways())
    assert ways == [[0, 2, 5], [0, 4], [1, 5], [3]]
    rng = np.random.default_rng(0)
    for _ in range(50):
        gains = rng.normal(size=6)
        assert graph.best_way(gains) == max(ways, key=lambda way: gains[way].sum())
    assert graph.best_way(np.array([0.0, -np.inf, 0.0, -np.inf, -np.inf, -np.inf])) == []


def test_a_space_of_nothing_but_none_is_refused() -> None:
    space = NASBench201Space("empty", (Choice("cell", (NONE,), rows=6),))
    with pytest.raises(ValueError, match="operation on the way from its input to its output; .* 'empty' leave no way"):
        space.most_likely({"cell": np.ones((6, 1))})


def test_spaces_without_none_and_spaces_that_say_nothing_are_derived_as_before() -> None:
    without, silent = nasbench201_space(candidates=("skip_connect", "nor_conv_3x3")), SearchSpace("x", SPACE.choices)
    p = np.random.default_rng(0).uniform(size=(6, 2))
    assert without.most_likely({"cell": p})["cell"] == tuple(without.choices[0].candidates[o] for o in p.argmax(1))
    nothing = silent.most_likely({"cell": np.eye(5)[[0] * 6]})
    assert nothing["cell"] == ("none",) * 6 and connected(silent, silent.encode([nothing])).all()


@pytest.mark.parametrize("target", [3.1, 9.2, 15.2, 30.2])  # costs are whole: none is at the edge of what is rounded
def test_an_architecture_at_a_target_has_an_output_and_is_the_likeliest_of_those(target: float) -> None:
    rng, table = np.random.default_rng(0), np.array([[0.0, 1.0, 4.0, 9.0, 2.0]] * 6)
    cost = AdditiveCost(SPACE, {"cell": torch.from_numpy(table)}, unit="ms")
    prices, alive, mended = table[np.arange(6), EVERY].sum(1), connected(SPACE, EVERY), 0
    for _ in range(40):
        logits = rng.normal(size=(6, 5))
        logits[:, 0] += 3
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        ours = SPACE.encode([CostPenalty(cost, "target", target=target).most_likely({"cell": p}, SPACE, target=target)])
        assert connected(SPACE, ours).all()
        price = table[np.arange(6), ours[0]].sum()
        assert price <= target
        within = alive & (prices <= target) & (prices >= 0.95 * target)
        likelihood = np.log(p[np.arange(6), EVERY]).sum(1)
        assert np.log(p[np.arange(6), ours[0]]).sum() == pytest.approx(likelihood[within].max())
        mended += int(not alive[np.where(prices <= target, likelihood, -np.inf).argmax()])
    assert mended  # some would have had no output


# Methods.

GRADIENT: dict[str, Callable[[Any], SearchModule]] = {
    "DARTS": oneshot.DARTS,
    "PCDARTS": oneshot.PCDARTS,
    "GDAS": oneshot.GDAS,
    "SNAS": oneshot.SNAS,
    "FBNet": lambda s: oneshot.FBNet(s, CostPenalty("macs", "fbnet")),
    "target": lambda s: oneshot.DARTS(s, penalty=CostPenalty("macs", "target", target=50_000.0)),
    "ProxylessNAS": oneshot.ProxylessNAS,
    "FairDARTS": oneshot.FairDARTS,
    "RobustDARTS": oneshot.RobustDARTS,
    "SmoothDARTS": oneshot.SmoothDARTS,
    "DARTSPT": oneshot.DARTSPT,
    "DrNAS": oneshot.DrNAS,
    "DSNAS": oneshot.DSNAS,
    "BetaDARTS": oneshot.BetaDARTS,
    "OLES": oneshot.OLES,
    "LambdaDARTS": oneshot.LambdaDARTS,
    "DARTSMinus": oneshot.DARTSMinus,
    "ReinMax": lambda s: oneshot.BilevelSearch(s, ReinMaxSampler()),
}


@pytest.mark.parametrize("name", GRADIENT)
def test_no_method_derives_a_cell_without_an_output(name: str) -> None:
    """`none` has the largest alpha on every edge, as it has in searches that end too early."""
    parts = 2 if name == "PCDARTS" else 1
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8, partial_channels=parts)
    search: Any = GRADIENT[name](supernet)
    for seed in range(5):
        torch.manual_seed(seed)
        with torch.no_grad():
            search.alphas["cell"].copy_(torch.randn(6, 5) - 8.0)
            search.alphas["cell"][:, 0] += 5.0
        config = search.derive()
        assert connected(supernet.space, supernet.space.encode([config])).all()
        assert supernet.extract(config, inherit=parts == 1).config == config


def test_decisions_of_dartspt_that_leave_no_output_are_mended() -> None:
    search = oneshot.DARTSPT(NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8))
    search.sampler.picked.copy_(torch.tensor([1, 0, 0, 0, 0, 3]))  # 0 to 1 and 2 to 3
    with torch.no_grad():
        search.alphas["cell"][1, 2] = 9.0  # so 0 to 2 is the likeliest to join them
    assert search.derive()["cell"] == ("skip_connect", "nor_conv_1x1", "none", "none", "none", "nor_conv_3x3")


def test_fairdarts_keeps_a_way_through_a_darts_cell_whose_weights_are_all_below_the_threshold() -> None:
    supernet = DARTSSupernet(darts_space(candidates=("skip_connect", "sep_conv_3x3"), steps=2), channels=4, cells=3)
    search = oneshot.FairDARTS(supernet)
    with torch.no_grad():
        search.alphas["normal"].fill_(-3.0)
        search.alphas["normal"][3, 1] = -1.0
    config = search.derive()
    assert config["normal"] == ("none", "none", "none", "sep_conv_3x3", "none")
    assert connected(supernet.space, supernet.space.encode([config])).all()


def test_searches_without_alphas_compare_only_architectures_with_an_output() -> None:
    nothing, something = SPACE.config_of(EVERY[0]), SPACE.config_of(EVERY[-1])
    drawn = itertools.chain([nothing] * 3, itertools.repeat(something))
    assert draw_connected(SPACE, lambda: next(drawn)) == something
    with pytest.raises(ValueError, match="reads its input; in space 'nasbench201' a thousand draws held none"):
        draw_connected(SPACE, lambda: nothing)


def test_the_ranking_of_a_weight_sharing_search_holds_no_cell_without_an_output() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    search = oneshot.RandomSharing(supernet, candidates=200, finalists=200)
    x, y = torch.randn(8, 1, 8, 8), torch.randint(3, (8,))
    search.rank([(x, y)])
    genes = supernet.space.encode(config for config, _ in search.ranking)
    assert len(genes) > 150 and connected(supernet.space, genes).all()
    drawn = SPACE.sample_matrix(200, 0)
    assert not connected(SPACE, drawn).all()  # chance alone draws some
