"""What every search space and its supernet must keep."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from oneshot._lightning import NormBase
from oneshot.supernets.base import NORMALISATION, OperationSupernet, Supernet, lay_out
from oneshot.supernets.connection import connected, live_genes
from oneshot.supernets.mixed_op import MixedOp
from oneshot.supernets.space import SearchSpace, SubnetConfig, load_config


class SearchSpaceContract(ABC):
    """What every search space must keep; a space without a supernet subclasses it and defines the fixture ``space``.

    Attributes:
        genes_per_mutation: Largest number of genes one mutation may change (2 where an edge can be rewired).
    """

    genes_per_mutation: int = 1

    @pytest.fixture
    @abstractmethod
    def space(self) -> SearchSpace:
        """The space."""

    def gene_probabilities(self, space: SearchSpace) -> list[npt.NDArray[np.float64]]:
        """How often a uniform draw holds each pick, per gene; looked at only where the space is too large to count."""
        return [np.full(size, 1 / size) for size in space.gene_sizes]

    def test_a_sample_is_valid_and_follows_its_seed(self, space: SearchSpace) -> None:
        configs = space.decode(space.sample_matrix(50, 0))
        for config in configs:
            space.validate(config)
        assert configs == space.decode(space.sample_matrix(50, np.random.default_rng(0)))
        assert configs != space.decode(space.sample_matrix(50, 1))
        assert space.sample(0) == space.sample(np.random.default_rng(0))

    def test_sampling_is_uniform_over_as_many_configs_as_size_says(self, space: SearchSpace) -> None:
        if space.size > 20_000:
            matrix = space.sample_matrix(20_000, 0)
            for gene, expected in enumerate(self.gene_probabilities(space)):
                counts = np.bincount(matrix[:, gene], minlength=len(expected))
                assert surprise(counts, len(matrix) * expected) < 5, f"gene {gene} is drawn as {counts}"
            return
        base = np.cumprod([1, *space.gene_sizes[:-1]])
        _, counts = np.unique(space.sample_matrix(20 * space.size, 0) @ base, return_counts=True)
        assert len(counts) == space.size
        assert surprise(counts, np.full(space.size, 20.0)) < 5

    def test_encoding_and_decoding_are_inverse(self, space: SearchSpace) -> None:
        matrix = space.sample_matrix(50, 0)
        configs = space.decode(matrix)
        assert matrix.shape == (50, space.num_genes) and matrix.dtype == np.int64
        assert np.array_equal(space.encode(configs), matrix)
        assert space.decode(space.encode(configs)) == configs
        assert space.encode([]).shape == (0, space.num_genes)

    def test_a_config_survives_json_and_pickle(self, space: SearchSpace, tmp_path: Path) -> None:
        for config in draw_configs(space, 5):
            (tmp_path / "subnet.json").write_text(config.to_json(), encoding="utf-8")
            copies = {SubnetConfig.from_json(config.to_json()), load_config(tmp_path / "subnet.json")}
            assert {config, pickle.loads(pickle.dumps(config))} == copies == {config}

    def test_a_config_is_read_without_torch(self, space: SearchSpace) -> None:
        code = (
            "import sys; sys.modules['torch'] = None\n"
            "from oneshot.supernets.space import SubnetConfig\n"
            "print(SubnetConfig.from_json(sys.argv[1]).to_json())"
        )
        text = space.sample(0).to_json()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        result = subprocess.run(
            [sys.executable, "-c", code, text], capture_output=True, text=True, env=environment, check=False
        )
        assert result.stdout.strip() == text, result.stderr

    def test_a_mutation_changes_one_decision_and_follows_its_seed(self, space: SearchSpace) -> None:
        for seed, config in enumerate(draw_configs(space, 50)):
            child = space.mutate(config, seed)
            space.validate(child)
            assert 1 <= (space.encode([config]) != space.encode([child])).sum() <= self.genes_per_mutation
            assert child == space.mutate(config, seed)

    def test_several_mutations_are_single_ones_in_a_row(self, space: SearchSpace) -> None:
        config = space.sample(0)
        once = space.mutate(config, np.random.default_rng(1))
        generator = np.random.default_rng(1)
        assert space.mutate(config, generator) == once
        twice = space.mutate(once, generator)
        assert space.mutate(config, np.random.default_rng(1), mutations=2) == twice

    def test_mutations_reach_every_gene(self, space: SearchSpace) -> None:
        config, generator = space.sample(0), np.random.default_rng(0)
        children = space.encode([space.mutate(config, generator) for _ in range(20 * space.num_genes)])
        changed = (children != space.encode([config])).any(axis=0)
        assert np.array_equal(changed, np.array(space.gene_sizes) > 1)

    def test_a_child_has_each_gene_from_a_parent_and_follows_its_seed(self, space: SearchSpace) -> None:
        shares = []
        for seed, (first, second) in enumerate(itertools.pairwise(draw_configs(space, 51))):
            child = space.crossover(first, second, seed)
            space.validate(child)
            assert child == space.crossover(first, second, seed)
            assert space.crossover(first, first, seed) == first
            a, b, c = space.encode([first, second, child])
            assert ((c == a) | (c == b)).all()
            shares += list((c == a)[a != b])
        assert 0.3 < np.mean(shares) < 0.7  # both parents count

    def test_the_canonical_form_is_valid_and_its_own_canonical_form(self, space: SearchSpace) -> None:
        for config in draw_configs(space, 200):
            canonical = space.canonical(config)
            space.validate(canonical)
            assert space.canonical(canonical) == canonical

    def test_repair_makes_any_genes_valid_and_canonical_and_leaves_canonical_ones(self, space: SearchSpace) -> None:
        sizes = np.array(space.gene_sizes)
        anything = np.random.default_rng(0).integers(0, sizes, size=(300, space.num_genes))
        before = anything.copy()
        repaired = space.repair(anything)
        assert np.array_equal(anything, before) and repaired.shape == before.shape and repaired.dtype == np.int64
        configs = space.decode(repaired)
        for config in configs:
            space.validate(config)
        assert np.array_equal(space.encode(map(space.canonical, configs)), repaired)
        assert np.array_equal(space.repair(repaired), repaired)
        assert len(np.unique(repaired, axis=0)) > 1
        samples = space.encode(map(space.canonical, space.decode(space.sample_matrix(200, 0))))
        assert np.array_equal(space.repair(samples), samples)
        assert np.array_equal(space.repair(space.sample_matrix(200, 0)), samples)
        assert space.repair(samples[:0]).shape == (0, space.num_genes)
        for wrong, message in ((sizes, "must be an index below"), (-np.ones_like(sizes), "must be an index below")):
            with pytest.raises(ValueError, match=message):
                space.repair(np.stack([samples[0], wrong]))
        with pytest.raises(ValueError, match="integer matrix"):
            space.repair(samples[:, :-1])

    def test_groups_hold_every_gene_once_and_a_child_of_groups_is_valid(self, space: SearchSpace) -> None:
        groups = space.gene_groups()
        assert sorted(gene for group in groups for gene in group) == list(range(space.num_genes))
        first, second = space.sample_matrix(2, 0)
        child = space.cross_genes(first, second, np.random.default_rng(0))
        space.check_rules(child[None])
        for group in groups:
            assert any(np.array_equal(child[group], parent[group]) for parent in (first, second))

    def test_hooks_change_no_parent_and_draw_from_their_generator_alone(self, space: SearchSpace) -> None:
        genes, before = space.sample_matrix(20, 0), space.sample_matrix(20, 0)
        assert np.array_equal(space.draw_genes(20, np.random.default_rng(0)), genes)
        space.check_rules(genes)
        for row in genes:
            child = space.mutate_genes(row, np.random.default_rng(1))
            assert child.shape == row.shape and np.array_equal(child, space.mutate_genes(row, np.random.default_rng(1)))
            space.check_rules(child[None])
        assert np.array_equal(genes, before)
        assert np.array_equal(space.canonical_genes(genes.copy()), space.repair(genes))

    def test_neighbours_are_other_architectures_each_once(self, space: SearchSpace) -> None:
        (genes,) = space.repair(space.sample_matrix(1, 0))
        before = genes.copy()
        around = space.neighbours(genes)
        space.check_genes(space.single_changes(genes))
        assert np.array_equal(genes, before)
        assert len(np.unique(around, axis=0)) == len(around) > 0
        assert (around != genes).any(axis=1).all()
        assert np.array_equal(space.repair(around), around)

    def test_unique_keeps_one_of_each_canonical_form_in_order(self, space: SearchSpace) -> None:
        configs = draw_configs(space, 50)
        unique = space.unique([*configs, *configs])
        expected: list[SubnetConfig] = []
        for config in map(space.canonical, configs):
            if config not in expected:
                expected.append(config)
        assert unique == expected

    def test_deriving_from_certainty_gives_the_config_back_or_one_with_an_output(self, space: SearchSpace) -> None:
        for config in draw_configs(space, 50):
            derived, genes = space.most_likely(space.one_hot(config)), space.encode([config])
            assert connected(space, space.encode([derived])).all()
            if connected(space, genes)[0]:
                assert derived == config
            else:  # what it has stays, and operations come where it has none
                live = live_genes(space, genes)
                assert np.array_equal(space.encode([derived])[live], genes[live])

    def test_a_foreign_config_is_refused(self, space: SearchSpace) -> None:
        config = space.sample(0)
        picks = dict(config.picks)
        name, row = next(iter(picks.items()))
        for wrong, message in (
            (SubnetConfig("elsewhere", picks), "belongs to 'elsewhere'"),
            (SubnetConfig(config.space, {"nothing": row}), "must have the choices"),
            (SubnetConfig(config.space, {**picks, name: (*row, row[0])}), f"{len(row)} rows; got {len(row) + 1}"),
            (SubnetConfig(config.space, {**picks, name: ("no_such", *row[1:])}), "'no_such' is not a candidate"),
        ):
            for refuse in (space.validate, space.canonical, space.one_hot, space.graphs, space.mutate):
                with pytest.raises(ValueError, match=message):
                    refuse(wrong)
            with pytest.raises(ValueError, match=message):
                space.encode([wrong])

    def test_its_pictures_have_edges_between_nodes_that_exist(self, space: SearchSpace) -> None:
        for graph in space.graphs(space.sample(0)):
            assert graph.edges
            assert all(0 <= source < target < len(graph.nodes) for source, target, _ in graph.edges)


class SupernetContract(SearchSpaceContract):
    """What every supernet must keep, whatever its architectures choose.

    Supernets of operation choices take :class:`SpaceContract`, elastic ones ``ElasticContract``: subclasses with more
    tests. A supernet of another kind takes this class and defines the fixture ``supernet``: small, new each time.
    Networks must be deterministic: no dropout, no candidate that draws random numbers.

    Attributes:
        configs_tested: Number of architectures that are built by a test.
        shared_modules: Classes of modules of the supernet that no extracted network may have.
        same_calls: An extracted network calls what the supernet calls, so that every bit of their outputs is the same.
            False where the supernet sums over channels that are zero and the network does not have: which numbers a
            processor adds first depends on how many there are.
    """

    configs_tested: int = 20
    same_calls: bool = True
    shared_modules: tuple[type[nn.Module], ...] = ()

    @pytest.fixture
    @abstractmethod
    def supernet(self) -> Supernet:
        """A small supernet of the space."""

    @pytest.fixture
    def space(self, supernet: Supernet) -> SearchSpace:
        """The space of the supernet."""
        return supernet.space

    def inputs(self, supernet: Supernet, config: SubnetConfig | None = None) -> Tensor:
        """A small batch for an architecture, or for all of them; always the same, noise unless a space needs more."""
        shape = supernet.input_shape if config is None else supernet.shape_of(config)
        return torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))

    def configs(self, supernet: Supernet) -> list[SubnetConfig]:
        """The architectures that are built; always the same."""
        return draw_configs(supernet.space, self.configs_tested)

    def disturbed(self, supernet: Supernet) -> nn.Module:
        """The supernet with weights and statistics that hide no mistake, see :func:`disturb`."""
        return disturb(supernet)

    def assert_same(self, output: Tensor, expected: Tensor) -> None:
        """Every bit is the same, or rounding alone differs, as :attr:`same_calls` says."""
        rtol, atol = (0.0, 0.0) if self.same_calls else (1e-5, 1e-6)
        torch.testing.assert_close(output, expected, rtol=rtol, atol=atol)

    def test_an_extracted_network_equals_the_supernet(self, supernet: Supernet) -> None:
        """Both make the same calls in eval mode, so every bit is the same; see :attr:`same_calls`."""
        self.disturbed(supernet)
        for config in self.configs(supernet):
            x = self.inputs(supernet, config)
            with torch.no_grad():
                network = supernet.eval().extract(config)
                assert not network.training
                self.assert_same(network(x), supernet.run_config(x, config))
                network = supernet.train().extract(config)
                assert network.training
                torch.testing.assert_close(network(x), supernet.run_config(x, config), rtol=1e-4, atol=1e-5)

    def test_it_equals_the_supernet_in_the_layout_of_searches(self, supernet: Supernet) -> None:
        """Kernels are chosen, and so numbers rounded, by how weights lie in memory."""
        lay_out(self.disturbed(supernet).eval(), torch.channels_last)
        for config in self.configs(supernet)[:5]:
            x = self.inputs(supernet, config)
            with torch.no_grad():
                self.assert_same(supernet.extract(config)(x), supernet.run_config(x, config))

    def test_it_works_in_double_precision(self, supernet: Supernet) -> None:
        self.disturbed(supernet).double().eval()
        for config in self.configs(supernet)[:4]:
            x = self.inputs(supernet, config)
            x = x.double() if x.is_floating_point() else x
            with torch.no_grad():
                output = supernet.extract(config)(x)
                assert output.dtype == torch.float64
                self.assert_same(output, supernet.run_config(x, config))

    def test_different_configs_are_different_functions(self, supernet: Supernet) -> None:
        """Otherwise the comparisons above prove nothing."""
        x = self.inputs(supernet)
        self.disturbed(supernet).eval()
        with torch.no_grad():
            configs = [*self.configs(supernet)[:4], *draw_configs(supernet.space, 10)]
            outputs = [supernet.run_config(x, config) for config in supernet.space.unique(configs)]
        assert all(not torch.allclose(a, b, atol=1e-6) for a, b in itertools.combinations(outputs, 2))

    def test_an_extracted_network_stands_alone(self, supernet: Supernet) -> None:
        shared = {storage(t) for t in supernet.state_dict().values()}
        for config in self.configs(supernet):
            network = supernet.extract(config)
            assert network.config == config
            assert network.graphs() == supernet.space.graphs(config)
            assert (network.input_shape, network.num_classes) == (supernet.shape_of(config), supernet.num_classes)
            assert not shared & {storage(t) for t in network.state_dict().values()}
            foreign = (Supernet, MixedOp, pl.LightningModule, *self.shared_modules)
            assert not any(isinstance(module, foreign) for module in network.modules())

    def test_an_extracted_network_is_rebuilt_from_json(self, supernet: Supernet) -> None:
        self.disturbed(supernet).eval()
        for config in self.configs(supernet)[:5]:
            x = self.inputs(supernet, config)
            network = supernet.extract(config)
            rebuilt = type(network)(**json.loads(json.dumps(network.init_args))).eval()
            rebuilt.load_state_dict(network.state_dict(), strict=True)
            assert rebuilt.init_args == network.init_args and rebuilt.graphs() == network.graphs()
            assert torch.equal(rebuilt(x), network(x))

    def test_a_foreign_config_is_neither_extracted_nor_run(self, supernet: Supernet) -> None:
        config = SubnetConfig("elsewhere", dict(supernet.space.sample(0).picks))
        with pytest.raises(ValueError, match="belongs to 'elsewhere'"):
            supernet.extract(config)
        with pytest.raises(ValueError, match="belongs to 'elsewhere'"):
            supernet.run_config(self.inputs(supernet), config)

    def test_without_inheriting_the_weights_are_drawn_anew(self, supernet: Supernet) -> None:
        config = supernet.space.sample(0)
        disturb(supernet)  # what begins at 0, such as tokens, does so in both
        torch.manual_seed(1)
        first = supernet.extract(config, inherit=False).state_dict()
        torch.manual_seed(1)
        second = supernet.extract(config, inherit=False).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in {*first, *second})
        inherited = dict(supernet.extract(config).named_parameters())
        assert not any(torch.equal(first[name], p) for name, p in inherited.items() if p.dim() > 1)


class SpaceContract(SupernetContract):
    """Subclass it as ``class TestMySpace(SpaceContract)`` and define the fixture ``supernet``: small, new each time.

    Networks must be deterministic: no candidate may draw random numbers.
    """

    @pytest.fixture
    @abstractmethod
    def supernet(self) -> OperationSupernet:
        """A small supernet of the space."""

    def test_a_mixture_that_holds_one_candidate_is_the_extracted_network(self, supernet: OperationSupernet) -> None:
        """With the weight 1 for one candidate and 0 for the others.

        A mixture computes the same function by other calls (edges that leave one state are one convolution); kernels of
        some processors round these differently.
        """
        x = self.inputs(supernet)
        disturb(supernet)
        for config in self.configs(supernet):
            arch = supernet.one_hot(config)
            with torch.no_grad():
                network = supernet.eval().extract(config)
                torch.testing.assert_close(network(x), supernet(x, arch), rtol=1e-5, atol=1e-6)
                network = supernet.train().extract(config)
                torch.testing.assert_close(network(x), supernet(x, arch), rtol=1e-4, atol=1e-5)
        lay_out(supernet.eval(), torch.channels_last)  # as searches have it
        for config in self.configs(supernet)[:5]:
            with torch.no_grad():
                output = supernet.extract(config)(x)
                torch.testing.assert_close(output, supernet(x, supernet.one_hot(config)), rtol=1e-5, atol=1e-6)

    def test_in_double_precision_a_mixture_is_the_network_to_rounding(self, supernet: OperationSupernet) -> None:
        x = self.inputs(supernet)
        x = x.double() if x.is_floating_point() else x
        disturb(supernet).double().eval()
        config = supernet.space.sample(0)
        output = supernet.extract(config)(x)
        torch.testing.assert_close(output, supernet(x, supernet.one_hot(config)), rtol=1e-12, atol=1e-13)

    def test_the_canonical_form_computes_the_same(self, supernet: OperationSupernet) -> None:
        x = self.inputs(supernet)
        disturb(supernet).eval()
        configs = [c for c in draw_configs(supernet.space, 200) if supernet.space.canonical(c) != c]
        for config in configs[: self.configs_tested]:
            with torch.no_grad():
                output = supernet.extract(supernet.space.canonical(config))(x)
                torch.testing.assert_close(output, supernet.extract(config)(x), rtol=1e-5, atol=1e-6)

    def test_candidate_parameters_are_what_extracted_networks_differ_by(self, supernet: OperationSupernet) -> None:
        """Scale and shift of normalisation are left out: extracted networks may have more of them."""
        counts = supernet.candidate_parameters()
        for name, rows in supernet.mixed_ops().items():
            for r, row in enumerate(rows):
                for o in range(counts[name].shape[1]):
                    inside = sum(_weights(mixed.ops[o], only_norm=True) for mixed in row)
                    counts[name][r, o] -= inside
        totals = {
            _weights(supernet.extract(config))
            - int(sum((counts[name] * weights.cpu()).sum() for name, weights in supernet.one_hot(config).items()))
            for config in draw_configs(supernet.space, self.configs_tested)
        }
        assert totals == {_weights(supernet) - int(sum(c.sum() for c in counts.values()))}

    def test_every_weight_gets_a_gradient_under_uniform_edge_weights(self, supernet: OperationSupernet) -> None:
        choices = supernet.space.choices
        arch = {c.name: torch.full((c.rows, len(c.candidates)), 1 / len(c.candidates)) for c in choices}
        for weights in arch.values():
            weights.requires_grad_()
        disturb(supernet)  # what is initialised by 0, such as tokens and last layers, may hide others from the loss
        logits = supernet.train()(self.inputs(supernet), arch)
        labels = (
            torch.arange(logits[:, 0].numel()).view_as(logits[:, 0]) % supernet.num_classes
        )  # of images, pixels, or words
        torch.autograd.backward(nn.functional.cross_entropy(logits, labels))
        without = [name for name, p in supernet.named_parameters() if p.grad is None or not p.grad.any()]
        assert without == []
        assert all(weights.grad is not None and weights.grad.any() for weights in arch.values())


def disturb(network: nn.Module, seed: int = 0) -> nn.Module:
    """Move weights and running statistics, in place, away from initial values that would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for module in network.modules():
            if isinstance(module, NormBase) and module.running_mean is not None:
                module.running_mean.add_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
                assert module.running_var is not None
                module.running_var.mul_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return network


def draw_configs(space: SearchSpace, n: int) -> list[SubnetConfig]:
    """Always the same ``n`` architectures."""
    return space.decode(space.sample_matrix(n, 0))


def storage(tensor: Tensor) -> int:
    """Where a tensor's memory begins."""
    return tensor.untyped_storage().data_ptr()


def _weights(network: nn.Module, *, only_norm: bool = False) -> int:
    """Number of trainable scalars outside normalisation, or inside."""
    return sum(
        p.numel()
        for m in network.modules()
        if isinstance(m, NORMALISATION) == only_norm
        for p in m.parameters(recurse=False)
        if p.requires_grad
    )


def surprise(counts: npt.NDArray[np.int64], expected: npt.NDArray[np.float64]) -> float:
    """Pearson's chi-square as a normal deviate (Wilson and Hilferty, PNAS 17, 1931); 0 where nothing is random."""
    if (counts[expected == 0] > 0).any():
        return float("inf")
    counts, expected = counts[expected > 0], expected[expected > 0]
    k = len(counts) - 1
    if not k:
        return 0.0
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    return float(((chi_square / k) ** (1 / 3) - (1 - 2 / (9 * k))) / (2 / (9 * k)) ** 0.5)
