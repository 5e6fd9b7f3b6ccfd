"""CoDeepNEAT: assembled networks, fitness that counts for their parts, generations, and studies that go on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from oneshot.data import Digits
from oneshot.discrete import (
    CoDeepNEAT,
    Evaluator,
    GraphNetwork,
    NEATSettings,
    Proposal,
    RandomAssemblies,
    Result,
    SearchStrategy,
    Study,
    TrainingEvaluator,
)
from oneshot.discrete.strategies.codeepneat import assemble, average_fitness, pointers
from oneshot.discrete.strategies.genomes import INPUT, OUTPUT, Category, Connection, Genome, Markings, Range, grown
from oneshot.supernets import SearchSpace, SubnetConfig
from oneshot.testing.strategies import StrategyContract
from tests.reference import neat as reference

SHAPE, CLASSES = (1, 8, 8), 10
WANTED = 9_000  # parameters, where losses are least
SMALL: dict[str, Any] = {"blueprints": 5, "modules": 8, "networks": 10, "filters": (4, 24), "grow": 3}


def search(seed: int = 0, **options: Any) -> CoDeepNEAT:
    return CoDeepNEAT(SHAPE, CLASSES, **{**SMALL, **options}, seed=seed)


def params(config: SubnetConfig) -> int:
    return GraphNetwork.from_config(config, SHAPE, CLASSES, weights=False).num_params


def size_loss(config: SubnetConfig) -> float:
    return abs(math.log(params(config) / WANTED))


class Size(Evaluator):
    """How far the size of a network is from the one that is looked for; some networks fail."""

    metrics = ("error",)

    def __init__(self, fails: Callable[[Proposal], bool] = lambda proposal: False) -> None:
        self.fails, self.calls = fails, list[int]()

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        self.calls.append(proposal.number)
        if self.fails(proposal):
            raise MemoryError("no memory")
        return {"error": size_loss(proposal.config)}


class AssemblingContract(StrategyContract):
    """The contract of strategies, for assembled networks."""

    evaluations = 100

    def loss(self, proposal: Proposal) -> tuple[float, ...]:
        return (size_loss(proposal.config),)

    def test_proposals_are_canonical_and_repeated_only_by_strategies_that_say_so(self) -> None:
        strategy = self.build(self.space, 0)
        configs = [proposal.config for proposal in self.run(strategy, 25)]
        assert strategy.repeats or len(set(configs)) == len(configs)
        for config in configs:
            assert GraphNetwork.from_config(config, SHAPE, CLASSES, weights=False).config == config

    def test_it_is_better_than_random_search(self) -> None:
        """By all networks after the first generations; the best of few random ones is already near."""
        ours = [np.mean([self.loss(p)[0] for p in self.run(self.build(self.space, s), 60)[40:]]) for s in range(3)]
        random = RandomAssemblies(SHAPE, CLASSES, filters=(4, 24), grow=3)
        assert np.mean(ours) < 0.6 * np.mean([self.loss(proposal)[0] for proposal in random.ask(60)])


class TestCoDeepNEAT(AssemblingContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return search(seed)


class TestCoDeepNEATOfConcatenations(AssemblingContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return search(seed, merge="concat", neat=NEATSettings(species=2))


class TestRandomAssemblies(AssemblingContract):
    def build(self, space: SearchSpace, seed: int) -> SearchStrategy:
        return RandomAssemblies(SHAPE, CLASSES, filters=(4, 24), grow=3, seed=seed)

    def test_it_is_better_than_random_search(self) -> None:
        """It is random search: whatever it is told, it proposes the same."""
        runs = []
        for sign in (1, -1):
            strategy = self.build(self.space, 0)
            asked = []
            for _ in range(10):
                asked += strategy.ask()
                strategy.tell(Result(asked[-1].number, (sign * self.loss(asked[-1])[0],)))
            runs.append(asked)
        assert runs[0] == runs[1] and len({proposal.config for proposal in runs[0]}) == 10


# Assembled networks.


def genome(nodes: dict[int, tuple[int, ...]], ways: list[tuple[int, int]]) -> Genome:
    return Genome(tuple(nodes.items()), tuple(Connection(10 + i, *way) for i, way in enumerate(ways)))


def test_every_node_of_a_blueprint_is_a_copy_of_the_module_of_its_species() -> None:
    module = genome({2: (6, 3, 1), 3: (8, 1, 0)}, [(INPUT, 2), (2, 3), (3, OUTPUT)])
    other = genome({2: (5, 1, 0)}, [(INPUT, 2), (2, OUTPUT)])
    blueprint = genome({2: (7,), 3: (4,), 4: (7,)}, [(INPUT, 2), (2, 3), (3, 4), (4, OUTPUT)])
    assert pointers(blueprint) == [4, 7]
    graph = assemble(blueprint, {7: module, 4: other}, (1, 8, 8)).canonical()[0]
    block = ["conv", "batch_norm", "relu"]
    ops = [*block, "max_pool", *block, *block, *block, "max_pool", *block, "global_pool", "classifier"]
    assert [node.op for node in graph.nodes] == ops
    convolutions = [(node.channels, node.kernel) for node in graph.nodes if node.op == "conv"]
    assert convolutions == [(6, 3), (8, 1), (5, 1), (6, 3), (8, 1)]


@pytest.mark.parametrize(("merge", "channels"), [("sum", 8), ("concat", 13)])
def test_inputs_are_pooled_to_the_smallest_and_merged(merge: Any, channels: int) -> None:
    module = genome({2: (8, 3, 1), 3: (5, 3, 0)}, [(INPUT, 2), (INPUT, 3), (2, OUTPUT), (3, OUTPUT)])
    blueprint = genome({2: (0,)}, [(INPUT, 2), (2, OUTPUT)])
    graph = assemble(blueprint, {0: module}, (3, 9, 8), merge=merge)
    shapes = graph.shapes((3, 9, 8))
    (end,) = [node for node in graph.nodes if node.op == "global_pool"]
    assert shapes[end.inputs[0]] == (channels, 4, 4)
    widened = [node for node in graph.nodes if node.op == "conv" and node.kernel == 1]
    assert [node.channels for node in widened] == ([8] if merge == "sum" else [])


def test_a_module_that_passes_its_input_on_leaves_nothing_behind() -> None:
    blueprint = genome({2: (0,), 3: (1,)}, [(INPUT, 2), (INPUT, 3), (2, OUTPUT), (3, OUTPUT)])
    identity = genome({2: (4, 3, 0)}, [(INPUT, OUTPUT)])
    graph = assemble(blueprint, {0: identity, 1: identity}, SHAPE)
    assert [node.op for node in graph.nodes] == ["global_pool", "classifier"]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 7, 10), (2, 1, 1)], ids=str)
@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_every_assembled_network_builds_runs_and_needs_all_its_layers(shape: tuple[int, ...], merge: Any) -> None:
    """Random genomes, grown and crossed; a graph with a cycle, or nodes of sizes that do not fit, is an error."""
    strategy = CoDeepNEAT(shape, 7, **SMALL, merge=merge, neat=NEATSettings(add_node=0.5, add_connection=0.5))
    rng, sizes = np.random.default_rng(0), set[int]()
    for number in range(60):
        (proposal,) = strategy.ask()
        strategy.tell(Result(proposal.number, (float(rng.random()),)))
        if number % 4 == 0:
            network = strategy.network(proposal.config)
            logits = network.train()(torch.randn(3, *shape))
            assert logits.shape == (3, 7) and logits.isfinite().all()
            logits.sum().backward()
            assert all(p.grad is not None for p in network.parameters()), "every layer is needed"
            assert sum(p.numel() for p in network.parameters()) == network.num_params
            sizes.add(network.num_params)
    assert len(sizes) > 6 and strategy.generation == 5


def test_random_assemblies_are_distinct_and_of_many_sizes() -> None:
    proposals = RandomAssemblies(SHAPE, CLASSES, filters=(4, 24), grow=6).ask(40)
    sizes = [params(proposal.config) for proposal in proposals]
    assert len({proposal.config for proposal in proposals}) == 40
    assert max(sizes) > 20 * min(sizes)


# Fitness of the parts.


def test_the_fitness_of_parts_is_the_average_of_the_reference() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=30).tolist()
    members = [[int(i) for i in rng.choice(8, rng.integers(1, 5))] for _ in values]  # some twice in one network
    networks = [(value, [f"m{i}" for i in used]) for value, used in zip(values, members)]
    ours = average_fitness(values, members, 9)
    exact = reference.attributed(networks)
    np.testing.assert_allclose(ours[:8], [exact[f"m{i}"] for i in range(8)], rtol=1e-12)
    assert math.isnan(ours[8]), "it was in no network"
    for flag in ("summed", "every_use"):
        wrong = reference.attributed(networks, **{flag: True})
        assert not np.allclose(ours[:8], [wrong[f"m{i}"] for i in range(8)], rtol=1e-3), flag


class Told(CoDeepNEAT):
    """Writes down what fitness its populations are given."""

    given: list[tuple[list[float], list[float]]]

    def _evolve(self) -> None:
        found: list[list[float]] = []
        for population in (self.modules, self.blueprints):
            plain = population.evolve

            def evolve(fitness: Any, plain: Any = plain) -> None:
                found.append(list(fitness))
                plain(fitness)

            population.evolve = evolve  # type: ignore[method-assign]
        self.last = [(self._used[n], loss) for n, loss in sorted(self._losses.items())]
        self.before = dict(self.modules.species)
        super()._evolve()
        del self.modules.evolve, self.blueprints.evolve
        self.given = [*getattr(self, "given", []), (found[0], found[1])]


def test_a_generation_gives_its_populations_the_averages_of_their_networks() -> None:
    strategy = Told(SHAPE, CLASSES, **SMALL, seed=3)
    rng = np.random.default_rng(0)
    for _ in range(4):
        for proposal in strategy.ask(10):
            failed = rng.random() < 0.2
            strategy.tell(Result(proposal.number, None if failed else (float(rng.random()),), failure="it hurt"))
        assert strategy.ask(1)
        strategy.tell(Result(next(iter(strategy.pending)), (0.5,)))
        modules, blueprints = strategy.given[-1]
        worst = max(loss for _, loss in strategy.last if loss < math.inf)
        networks = [(-min(loss, worst), [f"b{b}", *(f"m{m}" for m in used)]) for (b, used), loss in strategy.last]
        exact = reference.attributed(networks)
        np.testing.assert_allclose(blueprints, [exact[f"b{i}"] for i in range(5)], rtol=1e-12)
        for members in strategy.before.values():
            known = [exact[f"m{i}"] for i in members if f"m{i}" in exact]
            for i in members:
                if f"m{i}" in exact:
                    assert modules[i] == pytest.approx(exact[f"m{i}"], rel=1e-12)
                elif known:
                    assert modules[i] == pytest.approx(np.mean(known), rel=1e-12)
        while strategy.generation and len(strategy._losses) < 10:
            (proposal,) = strategy.ask()
            strategy.tell(Result(proposal.number, (float(rng.random()),)))


def test_every_blueprint_is_in_as_many_networks_and_uses_living_modules_only() -> None:
    strategy = search(5)
    for _ in range(8):
        asked = strategy.ask(10)
        used = [strategy._used[proposal.number] for proposal in asked]
        assert sorted(blueprint for blueprint, _ in used) == sorted([*range(5)] * 2)
        for proposal, (blueprint, modules) in zip(asked, used):
            plan = strategy.blueprints.genomes[blueprint]
            assert all(number in strategy.modules.species for number in pointers(plan)), "points to a living species"
            chosen = dict(zip(pointers(plan), modules))
            assert all(i in strategy.modules.species[number] for number, i in chosen.items())
            parts = {number: strategy.modules.genomes[i] for number, i in chosen.items()}
            assert assemble(plan, parts, SHAPE).config == proposal.config
            strategy.tell(Result(proposal.number, (size_loss(proposal.config),)))


def test_a_generation_waits_for_its_networks_and_for_them_only() -> None:
    strategy = search()
    asked = strategy.ask(30)
    assert len(asked) == 10 and strategy.generation == 0
    for proposal in asked[:-1]:
        strategy.tell(Result(proposal.number, (1.0,)))
    assert not strategy.ask(3)
    strategy.tell(Result(asked[-1].number, (0.5,)))
    assert len(strategy.ask(30)) == 10 and strategy.generation == 1


def test_the_order_of_results_changes_nothing() -> None:
    runs = []
    for way in (1, -1):
        strategy = search(2)
        for _ in range(4):
            asked = strategy.ask(10)
            for proposal in asked[::way]:
                strategy.tell(Result(proposal.number, (size_loss(proposal.config),)))
        runs.append(strategy.ask(10))
    assert runs[0] == runs[1]


def test_a_generation_that_fails_as_a_whole_is_followed_by_another() -> None:
    strategy = search()
    for proposal in strategy.ask(10):
        strategy.tell(Result(proposal.number, None, failure="no memory"))
    assert len(strategy.ask(10)) == 10 and strategy.generation == 1


def test_networks_are_within_max_params_where_larger_ones_are_better() -> None:
    limit, sizes = 3_000, dict[int | None, list[int]]()
    for most in (limit, None):
        strategy = search(1, max_params=most)
        for _ in range(50):
            (proposal,) = strategy.ask()
            strategy.tell(Result(proposal.number, (-float(params(proposal.config)),)))
        sizes[most] = [params(proposal.config) for proposal, _ in strategy.observed.values()]
    assert max(sizes[limit]) <= limit < max(sizes[None]) / 3
    assert np.median(sizes[limit][-20:]) > limit / 2, "near the limit"
    random = RandomAssemblies(SHAPE, CLASSES, filters=(4, 24), max_params=limit)
    assert all(params(p.config) <= limit for p in random.ask(20))


def test_populations_that_have_grown_too_large_come_back_below_max_params() -> None:
    """None of the first networks is small enough; those that are less too large are fitter."""
    strategy = search(1, max_params=400, grow=8)
    asked = strategy.ask(3)
    assert asked and strategy.generation > 0
    assert all(params(proposal.config) <= 400 for proposal in asked)


# Studies.


def test_a_study_that_was_stopped_goes_on_with_the_same_populations(tmp_path: Path) -> None:
    whole = Study(search(4), Size(), ["min error"], evaluations=47).run()
    Study(search(4), Size(), ["min error"], folder=tmp_path, evaluations=23).run()
    evaluator = Size()
    rest = Study(search(4), evaluator, ["min error"], folder=tmp_path, evaluations=47).run()
    assert len(evaluator.calls) == 47 - 23, "nothing is evaluated twice"
    assert [r.proposal for r in rest.records] == [r.proposal for r in whole.records]
    for name in ("blueprints", "modules"):
        ours, theirs = getattr(rest.strategy, name), getattr(whole.strategy, name)
        assert ours.genomes == theirs.genomes and ours.species == theirs.species
        assert ours.threshold == theirs.threshold and vars(ours.markings) == vars(theirs.markings)
    assert rest.strategy.rng.bit_generator.state == whole.strategy.rng.bit_generator.state


def test_state_is_json_and_restores_the_genomes() -> None:
    first = search(6)
    for _ in range(34):
        (proposal,) = first.ask()
        first.tell(Result(proposal.number, (size_loss(proposal.config),)))
    second = search(6)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.generation == first.generation == 3
    assert second.modules.genomes == first.modules.genomes and second.blueprints.genomes == first.blueprints.genomes


def test_networks_that_were_evaluated_are_answered_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few networks to assemble, the same ones come again; they cost nothing and count for their parts."""
    monkeypatch.setattr("oneshot.discrete.study.REPEATS", 30)
    strategy = search(
        filters=(4, 5), kernels=(3,), grow=0, neat=NEATSettings(add_node=0, add_connection=0, toggle=0, alter=1)
    )
    evaluator = Size()
    study = Study(strategy, evaluator, ["min error"], evaluations=12).run()
    assert len(evaluator.calls) == len(study.evaluated) <= 12
    assert any(record.repeated for record in study.records)


def test_the_result_of_a_study_is_a_plain_trained_module(tmp_path: Path) -> None:
    data = Digits(val_fraction=0.2, batch_size=64)
    evaluator = TrainingEvaluator(data, tmp_path / "weights", epochs=1)
    strategy = CoDeepNEAT(data.input_shape, 10, blueprints=2, modules=3, networks=3, filters=(4, 8), grow=2)
    study = Study(strategy, evaluator, ["max accuracy"], evaluations=4).run()
    network = evaluator.network(study.best.proposal)
    assert isinstance(network, GraphNetwork) and network.config == study.best.proposal.config
    assert {type(module).__module__.split(".")[0] for module in network.ops.values()} <= {"torch", "oneshot"}
    x = torch.randn(2, 1, 8, 8)
    rebuilt = GraphNetwork(**network.init_args).eval()
    rebuilt.load_state_dict(network.state_dict())
    torch.testing.assert_close(rebuilt(x), network(x))
    assert isinstance(network, nn.Module) and network(x).shape == (2, 10)


def test_a_study_of_one_generation_is_random_search_and_says_so() -> None:
    study = Study(search(), Size(), ["min error"], evaluations=10)
    assert "random search" in (study.random_search() or "")
    assert Study(search(), Size(), ["min error"], evaluations=11).random_search() is None


def test_a_study_goes_on_where_networks_fail() -> None:
    evaluator = Size(lambda proposal: proposal.number % 3 == 0)
    study = Study(search(), evaluator, ["min error"], evaluations=35, retries=0).run()
    assert len(study.evaluated) == 35 and study.best.proposal.number % 3


@pytest.mark.parametrize("kind", [CoDeepNEAT, RandomAssemblies])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"filters": (8, 4)}, r"filters must be the least and the most .*got \[8, 4\]", id="filters"),
        pytest.param({"filters": (0, 4)}, "filters must be the least", id="no filters"),
        pytest.param({"kernels": (2,)}, r"kernels must be odd numbers, at least one; got \[2\]", id="kernel"),
        pytest.param({"kernels": ()}, "kernels must be odd", id="no kernel"),
        pytest.param({"merge": "mean"}, "merge must be 'sum' or 'concat'; got 'mean'", id="merge"),
        pytest.param({"max_params": 10, "filters": (4, 8)}, "max_params must be at least .*got 10", id="params"),
        pytest.param({"grow": -1}, "grow", id="grow"),
        pytest.param({"input_shape": (8, 8)}, "Network graphs read images", id="shape"),
    ],
)
def test_bad_arguments_are_refused(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**{"input_shape": SHAPE, "num_classes": CLASSES, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"networks": 4}, "networks as many as blueprints.*networks=4", id="networks"),
        pytest.param({"modules": 1}, "blueprints and modules must be at least 2.*modules=1", id="modules"),
    ],
)
def test_populations_that_are_too_small_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_grown_genomes_have_up_to_so_many_genes() -> None:
    rng = np.random.default_rng(0)
    sizes = [len(grown((Range(1, 2), Category((1,))), Markings(), rng, 3).nodes) for _ in range(60)]
    assert min(sizes) == 1 and max(sizes) == 4
