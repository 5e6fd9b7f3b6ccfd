"""What every elastic space and its supernet must keep."""

from __future__ import annotations

import copy
import itertools
import sys
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from types import FrameType

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot._lightning import BatchNorm
from oneshot.supernets.base import Supernet, batch_statistics, lay_out
from oneshot.supernets.elastic import RESOLUTION, ElasticSpace, ElasticSupernet, sort_channels
from oneshot.supernets.elastic_layers import (
    ElasticBatchNorm2d,
    ElasticBlock,
    ElasticConv2d,
    ElasticConvNorm,
    ElasticDepthwise,
    ElasticLinear,
)
from oneshot.supernets.elastic_transformer import ElasticAttention, ElasticLayerNorm, ElasticPatchEmbedding, ElasticQKV
from oneshot.supernets.space import NONE, IntMatrix, SearchSpace, SubnetConfig

from .spaces import SupernetContract, disturb, draw_configs, surprise

SHARED = (
    ElasticBlock,
    ElasticConvNorm,
    ElasticConv2d,
    ElasticDepthwise,
    ElasticBatchNorm2d,
    ElasticLinear,
    ElasticAttention,
    ElasticLayerNorm,
    ElasticPatchEmbedding,
    ElasticQKV,
)


class ElasticContract(SupernetContract):
    """Subclass it as ``class TestMySpace(ElasticContract)`` and define the fixture ``supernet``: small, new each time.

    Networks must be deterministic: no dropout. A stage should have more than one depth.

    Attributes:
        configs_tested: Number of architectures that are built by a test.
        genes_per_mutation: Largest number of layers that a stage can grow by.
        blocks_differ_in_channels: Whether some blocks use fewer channels inside than others.
    """

    configs_tested: int = 6
    genes_per_mutation: int = 2
    shared_modules = SHARED
    blocks_differ_in_channels: bool = True

    @pytest.fixture
    @abstractmethod
    def supernet(self) -> ElasticSupernet:
        """A small supernet of the space."""

    @pytest.fixture
    def space(self, supernet: ElasticSupernet) -> ElasticSpace:
        """The space of the supernet."""
        return supernet.space

    # The space.

    def gene_probabilities(self, space: SearchSpace) -> list[npt.NDArray[np.float64]]:
        """Uniform over resolutions, widths and depths, and over the blocks of the layers there are."""
        assert isinstance(space, ElasticSpace)
        rows = [np.full(len(choice.candidates), 1 / len(choice.candidates)) for choice in space.choices[:2]]
        for stage, least in zip(space.stages, space.min_depths, strict=True):
            depths = np.arange(least, stage.rows + 1)
            for row in range(stage.rows):
                there = (depths > row).mean()
                rows.append(np.array([*[there / len(stage.candidates)] * len(stage.candidates), 1 - there]))
        return rows

    def test_sampling_is_uniform_over_as_many_configs_as_size_says(self, space: SearchSpace) -> None:
        """Over the depths and the blocks of every row; and in spaces small enough, every architecture is drawn."""
        matrix = space.sample_matrix(20_000, 0)
        for gene, expected in enumerate(self.gene_probabilities(space)):
            counts = np.bincount(matrix[:, gene], minlength=len(expected))
            assert surprise(counts, len(matrix) * expected) < 5, f"gene {gene} is drawn as {counts}"
        assert len(np.unique(matrix, axis=0)) <= space.size
        if space.size <= 500:
            assert len(np.unique(matrix, axis=0)) == space.size

    def test_size_is_the_number_of_genomes_that_repair_leaves_alone(self, space: ElasticSpace) -> None:
        """Each part of a genome counted by trying all its values, the others held."""
        fixed, total = space.encode([space.smallest])[0], 1
        for group in space.gene_groups():
            values = np.array(list(itertools.product(*(range(space.gene_sizes[gene]) for gene in group))))
            genomes = np.repeat(fixed[None], len(values), axis=0)
            genomes[:, group] = values
            total *= int((space.repair(genomes) == genomes).all(axis=1).sum())
        assert space.size == total

    def test_repair_gives_valid_genomes_and_leaves_those_alone(self, space: ElasticSpace) -> None:
        genes = _any_genes(space, 2_000)
        before = genes.copy()
        repaired = space.repair(genes)
        assert np.array_equal(genes, before)
        assert np.array_equal(repaired, [_repaired_one_by_one(space, row) for row in genes.tolist()])
        assert np.array_equal(space.repair(repaired), repaired)
        valid = space.sample_matrix(2_000, 0)
        assert np.array_equal(space.repair(valid), valid)
        broken = (repaired != genes).any(axis=1)
        assert broken.any() and not broken.all()
        space.check_rules(repaired)

    def test_encoding_is_a_bijection_on_repaired_genomes(self, space: ElasticSpace) -> None:
        genes = np.unique(space.repair(_any_genes(space, 500)), axis=0)
        configs = space.decode(genes)
        assert len(set(configs)) == len(genes)
        assert np.array_equal(space.encode(configs), genes)
        assert [space.config(space.arch(config)) for config in configs] == configs
        assert len({space.arch(config) for config in configs}) == len(genes)

    def test_genomes_are_repaired_together(self, space: ElasticSpace) -> None:
        """As many Python calls for a thousand as for ten: no loop over genomes."""
        calls = [_python_calls(partial(space.repair, _any_genes(space, n))) for n in (10, 1_000)]
        assert calls[0] == calls[1] > 0

    def test_a_genome_with_a_hole_or_without_first_layers_is_refused(self, space: ElasticSpace) -> None:
        (stage, least, columns) = next(iter(space.stage_columns()))
        genes, none = space.encode([space.largest])[0], len(stage.candidates)
        for row in range(stage.rows):
            broken = genes.copy()
            broken[columns.start + row] = none
            if least <= row == stage.rows - 1:
                space.decode(broken[None])  # it is one layer less
                continue
            picks = {**dict(space.largest.picks), stage.name: [stage.picks[gene] for gene in broken[columns]]}
            rule = f"first {least} rows hold a layer" if row < least else f"no row behind a '{NONE}' holds a layer"
            message = f"'{stage.name}' of space '{space.name}' holds '{NONE}' in row {row} .*{rule}.*repair"
            with pytest.raises(ValueError, match=message):
                space.validate(SubnetConfig(space.name, picks))
            with pytest.raises(ValueError, match=message):
                space.decode(np.stack([genes, broken]))

    def test_a_mutation_changes_one_choice(self, space: ElasticSpace) -> None:
        generator = np.random.default_rng(0)
        config, groups = space.sample(0), space.gene_groups()
        for _ in range(200):
            child = space.mutate(config, generator)
            changed = np.flatnonzero((space.encode([config]) != space.encode([child]))[0]).tolist()
            assert sum(bool(set(changed) & set(group)) for group in groups) == 1
            config = child

    def test_smallest_and_largest_are_the_ends(self, space: ElasticSpace) -> None:
        smallest, largest = space.encode([space.smallest, space.largest])
        assert not smallest[:2].any()
        assert (largest == np.array([len(c.candidates) - 1 for c in space.choices for _ in range(c.rows)])).all()
        for stage, least, columns in space.stage_columns():
            assert smallest[columns].tolist() == [0] * least + [len(stage.candidates)] * (stage.rows - least)

    # The networks.

    def configs(self, supernet: Supernet) -> list[SubnetConfig]:
        """The ends of the space and some architectures between."""
        space = supernet.space
        assert isinstance(space, ElasticSpace)
        return [space.smallest, space.largest, *draw_configs(space, self.configs_tested)]

    def disturbed(self, supernet: Supernet) -> nn.Module:
        assert isinstance(supernet, ElasticSupernet)
        return settle(supernet)

    def test_it_is_called_with_a_config_and_gradients_change_no_number(self, supernet: ElasticSupernet) -> None:
        settle(supernet).eval()
        for config in self.configs(supernet):
            x, network = self.inputs(supernet, config), supernet.extract(config)
            with torch.no_grad():
                assert torch.equal(supernet.run_config(x, config), supernet(x, config))
            assert torch.equal(network(x), supernet(x, config))

    def test_a_resolution_is_the_size_of_the_inputs(self, supernet: ElasticSupernet) -> None:
        """The width of images that are no squares; their heights are in proportion."""
        channels, height, width = supernet.input_shape
        for config in self.configs(supernet):
            size = int(config[RESOLUTION][0])
            assert supernet.shape_of(config) == (channels, round(size * height / width), size)
        assert supernet.input_shape[-1] == supernet.space.largest[RESOLUTION][0]

    @pytest.mark.parametrize("setting", ["channels_last", "bfloat16"])
    def test_it_equals_the_supernet_in_other_settings(self, supernet: ElasticSupernet, setting: str) -> None:
        settle(supernet).eval()
        for config in self.configs(supernet)[:4]:
            x = self.inputs(supernet, config)
            if setting == "channels_last":  # as searches have it
                lay_out(supernet, torch.channels_last)
            network = supernet.extract(config)
            if setting == "channels_last":
                x = x.to(memory_format=torch.channels_last)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=setting == "bfloat16"):
                output = network(x)
                assert output.dtype == {"bfloat16": torch.bfloat16}.get(setting, torch.float32)
                assert torch.equal(output, supernet(x, config))

    def test_batch_statistics_and_recalibration_are_those_of_the_network(self, supernet: ElasticSupernet) -> None:
        settle(supernet).eval()
        for config in self.configs(supernet)[:4]:
            x = self.inputs(supernet, config)
            network = supernet.extract(config)
            with torch.no_grad(), batch_statistics(network), batch_statistics(supernet):
                torch.testing.assert_close(network(x), supernet(x, config), rtol=1e-4, atol=1e-5)
            before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
            assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
            for module in (network, supernet):
                for layer in module.modules():
                    if isinstance(layer, BatchNorm):
                        layer.reset_running_stats()
                        layer.momentum = None
                module.train()
                with torch.no_grad():
                    for batch in (x, 2 * x + 1):
                        module(batch) if module is network else module(batch, config)
                module.eval()
            with torch.no_grad():
                torch.testing.assert_close(network(x), supernet(x, config), rtol=1e-4, atol=1e-5)

    def test_other_channels_keep_their_statistics(self, supernet: ElasticSupernet) -> None:
        settle(supernet).train()
        before = {name: tensor.clone() for name, tensor in supernet.named_buffers() if "running" in name}
        smallest = supernet.space.smallest
        with torch.no_grad():
            supernet(self.inputs(supernet, smallest), smallest)
        used = dict(supernet.extract(smallest).named_buffers())
        moved = False
        for name, tensor in supernet.named_buffers():
            if "running" in name:
                channels = len(used[name]) if name in used else 0
                assert torch.equal(tensor[channels:], before[name][channels:])
                moved |= channels > 0 and not torch.equal(tensor[:channels], before[name][:channels])
        assert moved or not before  # a transformer has no statistics

    def test_images_of_another_size_are_resized_to_the_resolution(self, supernet: ElasticSupernet) -> None:
        settle(supernet).eval()
        for config in self.configs(supernet)[:4]:
            channels, height, width = supernet.shape_of(config)
            x = torch.randn(2, channels, round(height * (width + 3) / width), width + 3)
            small = F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)
            with torch.no_grad():
                assert torch.equal(supernet(x, config), supernet(small, config))

    def test_every_weight_gets_a_gradient(self, supernet: ElasticSupernet) -> None:
        """From the largest network, but for the matrices of smaller kernels, which need one that has them."""
        matrices = {
            f"{name}.matrices.{key}"
            for name, module in supernet.named_modules()
            if isinstance(module, ElasticDepthwise)
            for key in module.matrices
        }
        disturb(supernet).train()  # what is initialised by 0, such as tokens, may hide others from the loss
        _backward(supernet, supernet.space.largest)
        without = {name for name, p in supernet.named_parameters() if p.grad is None or not p.grad.any()}
        assert without == matrices
        for config in draw_configs(supernet.space, 40):
            _backward(supernet, config)
            if all(p.grad is not None and p.grad.any() for p in supernet.parameters()):
                return
        raise AssertionError([name for name, p in supernet.named_parameters() if p.grad is None or not p.grad.any()])

    def test_checkpointing_keeps_fewer_numbers_and_changes_none(self, supernet: ElasticSupernet) -> None:
        again, kept, config = copy.deepcopy(supernet.train()), [0, 0], supernet.space.largest
        again.gradient_checkpointing = True
        for i, module in enumerate((supernet, again)):

            def count(tensor: Tensor, i: int = i) -> Tensor:
                kept[i] += tensor.numel()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                loss = F.cross_entropy(
                    module(self.inputs(module, config), config), torch.arange(4) % module.num_classes
                )
            torch.autograd.backward(loss)
        assert kept[1] < 0.8 * kept[0]
        for (name, mine), (_, theirs) in zip(supernet.named_parameters(), again.named_parameters(), strict=True):
            assert (mine.grad is None) == (theirs.grad is None), name
            assert mine.grad is None or torch.equal(mine.grad, theirs.grad), name  # type: ignore[arg-type]  # checked above
        for name, tensor in supernet.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name

    def test_sorting_channels_keeps_the_largest_network(self, supernet: ElasticSupernet) -> None:
        settle(supernet).double().eval()
        space = supernet.space
        x = torch.randn(2, *supernet.input_shape, dtype=torch.float64)
        with torch.no_grad():
            largest, smallest = supernet(x, space.largest), supernet(x, space.smallest)
            sort_channels(supernet)
            torch.testing.assert_close(supernet(x, space.largest), largest, rtol=1e-9, atol=1e-9)
            same = torch.allclose(supernet(x, space.smallest), smallest, rtol=1e-3)
            assert same != self.blocks_differ_in_channels
            again = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
            sort_channels(supernet)
        assert all(torch.equal(again[name], tensor) for name, tensor in supernet.state_dict().items())


def settle(supernet: ElasticSupernet) -> ElasticSupernet:
    """Move weights from initial values, which would hide mistakes; statistics so that outputs depend on inputs."""
    disturb(supernet).train()
    layers = [m for m in supernet.modules() if isinstance(m, BatchNorm)]
    x = torch.randn(8, *supernet.input_shape, generator=torch.Generator().manual_seed(1))
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    with torch.no_grad():
        for batch in (x, x.flip(0) + 0.1):
            supernet(batch, supernet.space.largest)  # it has all channels
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum
    return supernet


def _any_genes(space: SearchSpace, n: int) -> IntMatrix:
    """Genes that know no rules, ``[n, G]``."""
    generator = np.random.default_rng(0)
    return generator.integers(0, np.array(space.gene_sizes), size=(n, space.num_genes))


def _repaired_one_by_one(space: ElasticSpace, genes: list[int]) -> list[int]:
    repaired, rest = genes[:2], genes[2:]
    for stage, least in zip(space.stages, space.min_depths, strict=True):
        own, rest = rest[: stage.rows], rest[stage.rows :]
        layers = [gene for gene in own if stage.picks[gene] != NONE]
        layers += [0] * (least - len(layers))
        repaired += layers + [len(stage.candidates)] * (stage.rows - len(layers))
    return repaired


def _backward(supernet: ElasticSupernet, config: SubnetConfig) -> None:
    x = torch.randn(4, *supernet.input_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(len(x)) % supernet.num_classes
    torch.autograd.backward(F.cross_entropy(supernet(x, config), labels))


def _python_calls(function: Callable[[], object]) -> int:
    """Number of calls, of Python functions and of built-in ones, that a function makes."""
    calls = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls
