"""Evolution in the papers' own encodings: the algorithms, and the networks that genes stand for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from oneshot.data import Digits
from oneshot.discrete import (
    CGPCNN,
    REINFORCE,
    CGPSpace,
    GeneticCNN,
    GeneticCNNSpace,
    GraphNetwork,
    GraphSpace,
    HierarchicalSpace,
    Result,
    SearchStrategy,
    Study,
    TournamentEvolution,
    TrainingEvaluator,
    ZophLeSpace,
)
from oneshot.discrete.graphs.approximate import separate
from oneshot.discrete.graphs.exact import branch, enlarge_kernel
from oneshot.discrete.strategies.genetic_cnn import relabelled, roulette
from oneshot.supernets import SearchSpace, SubnetConfig
from oneshot.testing.strategies import SPACE, StrategyContract

GRID = CGPSpace(rows=1, columns=3, levels_back=2, channels=(4,), kernels=(3, 5))
SMALL: list[GraphSpace] = [
    GeneticCNNSpace((3, 4), (4, 8)),
    CGPSpace(rows=3, columns=6, levels_back=3, channels=(4, 8), kernels=(3,)),
    CGPSpace(rows=3, columns=6, levels_back=3, blocks="res", channels=(4, 8), kernels=(3,), most_channels=10),
    HierarchicalSpace(motifs=3, channels=4, stages=2),
    ZophLeSpace(layers=3),
]


class TestTournamentEvolution(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return TournamentEvolution(space, population=10, share=0.3, seed=seed)


class TestTournamentEvolutionThatRemovesTheWorst(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return TournamentEvolution(space, population=10, share=0.3, remove="worst", seed=seed)


class TestGeneticCNN(StrategyContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return GeneticCNN(space, population=10, bit=0.2, seed=seed)


class TestGeneticCNNOnItsSpace(StrategyContract):
    space = GeneticCNNSpace((4, 4), (4, 8))

    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return GeneticCNN(space, population=10, seed=seed)


class TestCGPCNN(StrategyContract):
    space = GRID

    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return CGPCNN(space, seed=seed)  # type: ignore[arg-type]  # the grid above


@pytest.mark.parametrize("space", SMALL, ids=lambda space: space.name)
def test_spellings_of_one_architecture_are_one_network_that_runs_and_trains(space: GraphSpace) -> None:
    build = pickle.loads(pickle.dumps(space.network((1, 8, 8), 10)))
    different = set()
    for config in space.decode(space.sample_matrix(12, 0)):
        canonical = space.canonical(config)
        assert space.canonical(canonical) == canonical
        assert build.space.graph(config) == build.space.graph(canonical)
        network = build(config)
        assert isinstance(network, GraphNetwork)
        network(torch.randn(2, 1, 8, 8)).sum().backward()
        assert all(p.grad is not None for p in network.parameters()), "every node is needed"
        different.add(network.config)
    assert len(different) > 6


@pytest.mark.parametrize("space", SMALL, ids=lambda space: space.name)
def test_mutations_and_crossovers_stay_in_the_space(space: GraphSpace) -> None:
    rng = np.random.default_rng(0)
    first, second = space.sample(rng), space.sample(rng)
    networks, mixed = 0, 0
    for _ in range(20):
        mutant = space.mutate(first, rng)
        assert mutant != first, "another spelling at least"
        networks += space.canonical(mutant) != space.canonical(first)
        child = space.crossover(mutant, second, rng)
        genes, one, other = space.encode([child, mutant, second])
        assert ((genes == one) | (genes == other)).all()
        mixed += bool((genes != one).any() and (genes != other).any())
        space.graph(child)
        first, second = second, child
    assert networks, "and now and then another network; CGP's genes are mostly silent"
    assert mixed >= 5, "and children have something of both"


# Tournaments.


def test_the_best_of_a_tournament_is_mutated_and_nobody_dies() -> None:
    strategy = TournamentEvolution(SPACE, population=4, share=1.0)
    first, *others = strategy.ask(4)
    for loss, proposal in zip((0.0, 3.0, 2.0, 1.0), [first, *others]):
        strategy.tell(Result(proposal.number, (loss,)))
    for _ in range(8):
        (child,) = strategy.ask()
        assert (SPACE.encode([child.config]) != SPACE.encode([first.config])).sum() == 1
        strategy.tell(Result(child.number, (5.0,)))
    assert len(strategy._alive) == 12


def test_a_small_tournament_lets_others_win() -> None:
    strategy = TournamentEvolution(SPACE, population=20, share=0.05)
    proposals = strategy.ask(20)
    for loss, proposal in enumerate(proposals):
        strategy.tell(Result(proposal.number, (float(loss),)))
    winners = {strategy._winner().tobytes() for _ in range(100)}
    assert len(winners) > 15, "5 % of 20 is one: anybody wins"


def test_the_worst_makes_room() -> None:
    strategy = TournamentEvolution(SPACE, population=3, remove="worst")
    for loss, proposal in zip((1.0, 4.0, 2.0, 3.0), strategy.ask(4)):
        strategy.tell(Result(proposal.number, (loss,)))
    assert sorted(loss for loss, _ in strategy._alive) == [1.0, 2.0, 3.0]


# Genetic CNN.


def test_the_roulette_is_proportional_to_what_exceeds_the_worst() -> None:
    accuracies = [0.7, 0.9, 0.8, 0.7]
    expected = [(r - min(accuracies)) / sum(s - min(accuracies) for s in accuracies) for r in accuracies]
    got = roulette([-r for r in accuracies])
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    assert not np.allclose(got, np.array(accuracies) / sum(accuracies), rtol=1e-2, atol=1e-2), "r without its minimum"
    np.testing.assert_allclose(roulette([0.5, 0.5]), [0.5, 0.5], rtol=0, atol=0)


@pytest.mark.parametrize(("size", "number"), [(2, 2), (3, 6), (4, 31), (5, 302)])
def test_wirings_of_a_stage_are_as_many_as_graphs_without_labels(size: int, number: int) -> None:
    """OEIS A003087: acyclic directed graphs of n unlabelled nodes."""
    codes = relabelled(size)
    assert len(np.unique(codes)) == number
    np.testing.assert_array_equal(codes[codes], codes)


@pytest.mark.parametrize(
    ("bits", "convs", "sums"),
    [
        pytest.param((0, 0, 0, 0, 0, 0), 1, 0, id="isolated: one convolution"),
        pytest.param((1, 0, 0, 0, 0, 0), 4, 0, id="two nodes in a row, two isolated"),
        pytest.param((1, 0, 1, 0, 0, 1), 6, 0, id="chain"),
        pytest.param((1, 1, 0, 1, 0, 0), 6, 1, id="one feeds three, which the output adds up"),
        pytest.param((1, 1, 1, 1, 1, 1), 6, 2, id="dense: two nodes read several"),
    ],
)
def test_bits_of_a_stage_are_its_wiring(bits: tuple[int, ...], convs: int, sums: int) -> None:
    space = GeneticCNNSpace((4,), (8,))
    graph = space.graph(SubnetConfig(space.name, {"stage_1": bits}))
    ops = [node.op for node in graph.nodes]
    assert (ops.count("conv"), ops.count("add"), ops.count("max_pool")) == (convs, sums, 1)


def test_crossover_swaps_whole_stages() -> None:
    space = GeneticCNNSpace((4, 4), (4, 4))
    strategy = GeneticCNN(space, population=2, crossover=1.0, stage=0.5)
    parents = [space.encode([p.config])[0] for p in strategy.ask(2)]
    strategy._alive = [(0.0, parents[0]), (0.0, parents[1])]
    seen = {strategy._child().tobytes() for _ in range(200)}
    mixed = [np.concatenate([a[:6], b[6:]]) for a in parents for b in parents]
    assert seen == {genes.tobytes() for genes in mixed} and len(seen) == 4


def test_mutation_flips_single_bits() -> None:
    space = GeneticCNNSpace((7,), (4,))  # too large to be relabelled, so that bits can be compared
    strategy = GeneticCNN(space, crossover=0.0, mutation=1.0, bit=0.05)
    parent = space.encode([strategy.ask()[0].config])[0]
    strategy._alive = [(0.0, parent)]
    flips = np.mean([(strategy._child() != parent).mean() for _ in range(2000)])
    assert flips == pytest.approx(0.05, abs=0.004)  # standard error 0.001


# CGP-CNN.


def genotype(space: CGPSpace, function: list[str], inputs: list[list[int]], output: int) -> SubnetConfig:
    picks = {f"inputs_{column}": row for column, row in enumerate(inputs, 1)}
    return SubnetConfig(space.name, {"function": function, "output": [output], **picks})


def test_a_grid_is_run_as_its_functions_say() -> None:
    space = CGPSpace(rows=1, columns=3, levels_back=3, channels=(4,), kernels=(3,))
    config = genotype(space, ["max_pool", "sum", "concat"], [[0, 0], [0, 1], [1, 2]], 3)
    network = space.network((2, 8, 8), 3)(config).eval()
    x = torch.randn(2, 2, 8, 8)
    small = F.max_pool2d(x, 2)
    joined = torch.cat([small, small + small], dim=1)  # the image is pooled to fit
    last = network.graph.nodes[-1].inputs[0]
    torch.testing.assert_close(network.output_of(x, last), joined.mean((2, 3), keepdim=True), rtol=1e-5, atol=1e-6)


def test_channels_that_differ_are_matched_and_a_pixel_is_not_pooled() -> None:
    space = CGPSpace(rows=1, columns=5, levels_back=5, channels=(4,), kernels=(3,), most_channels=5)
    functions = ["conv_4_3", "sum", "max_pool", "max_pool", "concat"]
    config = genotype(space, functions, [[0, 0], [0, 1], [2, 0], [3, 0], [4, 1]], 5)
    network = space.network((3, 2, 3), 2)(config)
    convs = [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert sorted(convs) == [(3, 4, 1), (3, 4, 3), (8, 5, 1)]
    pools = [node for node in network.graph.nodes if node.op == "max_pool"]
    assert [pool.kernel for pool in pools] == [2, 2], "one of two, and one for the concatenation"


def test_a_residual_block_has_the_channels_of_its_block() -> None:
    space = CGPSpace(rows=1, columns=1, levels_back=1, blocks="res", channels=(4,), kernels=(5,))
    network = space.network((3, 8, 8), 2)(genotype(space, ["res_4_5"], [[0, 0]], 1))
    ops = [node.op for node in network.graph.nodes]
    assert (ops.count("conv"), ops.count("add"), ops.count("relu")) == (3, 1, 2)


def test_genes_are_active_exactly_if_they_matter() -> None:
    space = SMALL[1]
    assert isinstance(space, CGPSpace)
    rng = np.random.default_rng(0)
    for genes in space.sample_matrix(5, rng):
        active, graph = space.active_genes(genes), space.graph(space.decode([genes])[0])
        changed = np.zeros_like(active)
        for gene, size in enumerate(space.gene_sizes):
            for value in range(size):
                other = genes.copy()
                other[gene] = value
                changed[gene] |= space.graph(space.decode([other])[0]) != graph
        assert not (changed & ~active).any()
        assert active[: space.num_nodes].any() and changed[: space.num_nodes][active[: space.num_nodes]].all()


def test_a_mutant_is_another_network_and_drift_is_not() -> None:
    space = CGPSpace()
    strategy = CGPCNN(space)
    moved = []
    for genes in space.sample_matrix(10, 0):
        before = space.canonical_row(genes)
        assert (space.canonical_row(strategy.mutant(genes)) != before).any()
        drifted = strategy.drifted(genes)
        np.testing.assert_array_equal(space.canonical_row(drifted), before)
        moved.append((drifted != genes).mean())
    assert 0.02 < float(np.mean(moved)) < 0.05, "5 % of the inactive genes are drawn anew"


def test_the_parent_is_replaced_by_the_best_child_and_drifts_if_none_is_better() -> None:
    strategy = CGPCNN(CGPSpace(rows=2, columns=6, levels_back=3), children=2)
    (first,) = strategy.ask()
    strategy.tell(Result(first.number, (1.0,)))
    assert strategy.parent is not None
    _, before = strategy.parent
    genotypes = []
    for losses in ((1.0, 2.0), (0.8, 0.5)):
        for loss, child in zip(losses, strategy.ask(2)):
            genotypes.append(strategy._genotypes[child.number])
            strategy.tell(Result(child.number, (loss,)))
        assert strategy.parent is not None
        if losses[0] == 1.0:  # no child is better: the same network, other inactive genes
            assert strategy.parent[0] == 1.0 and (strategy.parent[1] != before).any()
            np.testing.assert_array_equal(
                strategy.space.canonical_row(strategy.parent[1]), strategy.space.canonical_row(before)
            )
    assert strategy.parent[0] == 0.5 and strategy.parent[1] is genotypes[3]


def test_a_parent_that_fails_is_drawn_again() -> None:
    strategy = CGPCNN(GRID)
    (first,) = strategy.ask()
    strategy.tell(Result(first.number, None, failure="it hurt"))
    assert strategy.parent is None
    (second,) = strategy.ask()
    strategy.tell(Result(second.number, (1.0,)))
    assert strategy.best.number == second.number


# Layers with skip connections.


@pytest.mark.parametrize(
    ("skip", "reads", "unread"),
    [
        pytest.param((1, 0, 1), (3, 24, 36), 48, id="a chain"),
        pytest.param((1, 1, 1), (3, 24, 24 + 36), 48, id="dense"),
        pytest.param((0, 1, 0), (3, 3, 24), 36 + 48, id="the image if nothing, the classifier if nobody"),
        pytest.param((0, 0, 0), (3, 3, 3), 24 + 36 + 48, id="all in parallel"),
    ],
)
def test_layers_concatenate_what_they_read(skip: tuple[int, ...], reads: tuple[int, ...], unread: int) -> None:
    """Section 3.3 of arXiv:1611.01578; filters are height x width."""
    space = ZophLeSpace(layers=3)
    sizes = {"height": (3, 5, 1), "width": (1, 7, 3), "filters": (24, 36, 48)}
    network = space.network((3, 6, 8), 10)(SubnetConfig(space.name, {**sizes, "skip": skip}))
    shapes = {tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d)}
    assert shapes == {(24, reads[0], 3, 1), (36, reads[1], 5, 7), (48, reads[2], 1, 3)}
    assert {network.shapes[n.name][1:] for n in network.graph.nodes if n.op == "conv"} == {(6, 8)}
    (head,) = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert head.in_features == unread


def test_morphisms_take_kernels_that_are_not_square() -> None:
    space = ZophLeSpace(layers=2)
    picks = {"height": (1, 5), "width": (7, 3), "filters": (24, 36), "skip": (1,)}
    network = space.network((3, 8, 8), 10)(SubnetConfig(space.name, picks)).eval()
    (first, second), x = [n for n in network.graph.nodes if n.op == "conv"], torch.randn(2, 3, 8, 8)
    assert (first.window, second.window) == ((1, 7), (5, 3))
    for child, sides in (
        (enlarge_kernel(network, first.name, kernel=3), {(3, 9), (5, 3)}),
        (branch(network, second.name, kernel=7, rng=0), {(1, 7), (5, 3), (7, 5)}),
    ):
        torch.testing.assert_close(child(x), network(x), rtol=1e-4, atol=1e-5)
        assert {n.window for n in child.graph.nodes if n.op == "conv"} == sides
    apart = separate(network, first.name)
    assert [n.window for n in apart.graph.nodes if n.op == "depthwise"] == [(1, 7)]
    assert apart(x).shape == (2, 10)


# Hierarchical cells.


def hierarchical(space: HierarchicalSpace, cell: dict[int, str], **motifs: dict[int, str]) -> SubnetConfig:
    """A config from the picks of some edges."""
    given = {"cell": cell, **motifs}
    return SubnetConfig(
        space.name, {c.name: [given.get(c.name, {}).get(i, "none") for i in range(c.rows)] for c in space.choices}
    )


def test_a_cell_runs_its_motifs_and_those_their_primitives() -> None:
    space = HierarchicalSpace(channels=4, stages=1)
    config = hierarchical(
        space, {6: "motif_2", 0: "motif_1"}, motif_2={0: "max_pool_3x3", 2: "avg_pool_3x3", 5: "identity", 1: "none"}
    )  # motif 2 is on edge 0-4, a chain 0-1-2-3; motif 1 is empty
    network = space.network((3, 8, 8), 2)(config).eval()
    x = torch.randn(2, 3, 8, 8)
    stem = network.output_of(x, "3")
    pooled = F.avg_pool2d(F.max_pool2d(stem, 3, 1, 1), 3, 1, 1, count_include_pad=False)
    last = network.graph.nodes[-1].inputs[0]
    torch.testing.assert_close(network.output_of(x, last), pooled.mean((2, 3), keepdim=True), rtol=1e-5, atol=1e-6)


def test_what_enters_a_node_is_concatenated() -> None:
    space = HierarchicalSpace(channels=4, stages=1)
    both = hierarchical(space, {6: "motif_1"}, motif_1={3: "identity", 0: "conv_1x1", 4: "sep_conv_3x3"})
    ops = [node.signature for node in space.graph(both).nodes]
    assert sum(op == "concat" for op in ops) == 1 and ops.count("conv,channels=4,kernel=1") == 3


def test_the_numbers_of_motifs_do_not_matter_and_equal_ones_are_one() -> None:
    space = HierarchicalSpace()
    wiring = {3: "sep_conv_3x3"}
    first = hierarchical(space, {0: "motif_1", 7: "motif_2"}, motif_1=wiring, motif_2={3: "identity"})
    moved = hierarchical(space, {0: "motif_5", 7: "motif_3"}, motif_5=wiring, motif_3={3: "identity", 0: "conv_1x1"})
    assert space.canonical(first) == space.canonical(moved) == first
    twins = hierarchical(space, {0: "motif_1", 7: "motif_2"}, motif_1=wiring, motif_2=wiring)
    assert set(space.canonical(twins)["cell"]) == {"none", "motif_1"}


def test_a_cell_without_a_path_is_left_out() -> None:
    space = HierarchicalSpace(channels=4, stages=2)
    empty = hierarchical(space, {0: "motif_1"}, motif_1={3: "conv_1x1"})
    assert [node.op for node in space.graph(empty).nodes].count("conv") == 2, "the stem and what is between the stages"


def test_random_cells_are_many_mutations_away_from_the_trivial_one() -> None:
    space, trivial = HierarchicalSpace(), HierarchicalSpace().encode([HierarchicalSpace().trivial])[0]
    genes = space.sample_matrix(400, 0)
    np.testing.assert_allclose((genes == trivial).mean(), 1 / 7, rtol=0, atol=0.01)  # seven picks on every edge
    once = HierarchicalSpace(diversity=1).sample_matrix(400, 0)
    changed = (once != trivial).sum(1)
    assert changed.max() == 1 and changed.mean() == pytest.approx(6 / 7, abs=0.06)


def test_a_mutation_is_another_architecture_and_filling_is_not() -> None:
    space, rng = HierarchicalSpace(), np.random.default_rng(0)
    for genes in space.repair(space.sample_matrix(100, rng)):
        filled = space._filled(genes, rng)
        np.testing.assert_array_equal(space.canonical_row(filled), genes)
        assert (space.canonical_row(space.mutate_genes(genes, rng)) != genes).any()
    assert (space._places((400,), rng) >= 36).mean() == pytest.approx(0.5, abs=0.1), "a level first, then an edge of it"


def test_neutral_mutations_do_not_simplify() -> None:
    def motifs_in_use(mutate: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> float:
        rng, found = np.random.default_rng(0), []
        for genes in space.repair(space.sample_matrix(12, rng)):
            for _ in range(200):
                genes = space.canonical_row(mutate(genes, rng))
            found.append(int(genes[36:].max()))
        return float(np.mean(found))

    def bare(genes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One gene, without filling what the canonical form has erased."""
        child, gene = genes.copy(), int(space._places((), rng))
        child[gene] = (genes[gene] + rng.integers(1, space.gene_sizes[gene])) % space.gene_sizes[gene]
        return child

    space = HierarchicalSpace()
    random = float(np.mean(space.repair(space.sample_matrix(200, 1))[:, 36:].max(1)))
    assert random == pytest.approx(4.4, abs=0.3)
    assert motifs_in_use(space.mutate_genes) > random - 1, "12 lines with a standard deviation of 1"
    assert motifs_in_use(bare) < 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: TournamentEvolution(SPACE, share=0.0), "share above 0 .* share=0.0", id="share"),
        pytest.param(lambda: TournamentEvolution(SPACE, remove="best"), "'none' or 'worst'; got 'best'", id="remove"),  # type: ignore[arg-type]
        pytest.param(lambda: GeneticCNN(SPACE, bit=2.0), r"must be probabilities; got 20 and \[.*2.0\]", id="bit"),
        pytest.param(lambda: GeneticCNNSpace((1, 3), (4, 4)), "at least two nodes", id="nodes"),
        pytest.param(lambda: GeneticCNNSpace((3, 3), (4,)), "every stage its channels", id="channels"),
        pytest.param(lambda: CGPCNN(GRID, children=0), "children must be at least 1", id="children"),
        pytest.param(lambda: CGPCNN(GRID, rate=0), "rate above 0", id="rate"),
        pytest.param(lambda: CGPSpace(rows=0), "at least 1", id="rows"),
        pytest.param(lambda: CGPSpace(blocks="dense"), "'conv' or 'res'", id="blocks"),  # type: ignore[arg-type]
        pytest.param(lambda: HierarchicalSpace(cell_nodes=1), "at least 2; got", id="cell"),
    ],
)
def test_bad_arguments_are_refused(build, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "accuracy"),
    [
        pytest.param(
            lambda: GeneticCNN(GeneticCNNSpace((3, 4), (8, 16)), population=3),
            0.6,
            id="genetic_cnn",
            marks=pytest.mark.nightly,
        ),
        pytest.param(
            lambda: CGPCNN(CGPSpace(rows=3, columns=8, levels_back=4, channels=(8, 16), kernels=(3,))),
            0.4,
            id="cgp_cnn",
            marks=pytest.mark.nightly,
        ),
        pytest.param(lambda: REINFORCE.small(ZophLeSpace(layers=2)), 0.6, id="zoph_le", marks=pytest.mark.nightly),
        pytest.param(
            lambda: TournamentEvolution(HierarchicalSpace(channels=8, stages=2), population=3),
            0.4,
            id="hierarchical",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_a_study_of_real_trainings_reads_digits(strategy, accuracy: float, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    search, data = strategy(), Digits(batch_size=16, val_fraction=0.2)
    evaluator = TrainingEvaluator(data, tmp_path, build=search.space.network((1, 8, 8), 10), epochs=2)
    study = Study(search, evaluator, ["max accuracy"], evaluations=5).run()
    assert not [record.result.failure for record in study.records if record.result.failure]
    found = study.best.result.metrics
    assert found["accuracy"] > accuracy, "chance is 0.1"
    network = evaluator.network(study.best.proposal)
    assert network.num_classes == 10 and sum(p.numel() for p in network.parameters()) == found["params"]
