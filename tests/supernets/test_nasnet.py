"""The NASNet space, its shared weights, the networks of published cells."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from oneshot.supernets import NASNET_CELLS
from oneshot.supernets.base import Subnet, Supernet, count_parameters
from oneshot.supernets.genotype import Genotype
from oneshot.supernets.nasnet import (
    CANDIDATES,
    ENAS_CANDIDATES,
    NASNetNetwork,
    NASNetSpace,
    NASNetSupernet,
    SharedCell,
    unread,
)
from oneshot.supernets.ops import by_resolution, scheduled_drop_path
from oneshot.supernets.space import SubnetConfig
from oneshot.testing import SearchSpaceContract
from oneshot.testing.spaces import SupernetContract, disturb, draw_configs
from tests.reference import formulas, nasnet_net


def small(space: NASNetSpace | None = None, **options: Any) -> NASNetSupernet:
    settings = {"channels": 8, "cells_per_stage": 1, "num_classes": 3, "in_channels": 2, "image_size": 9}
    return NASNetSupernet(space or NASNetSpace(blocks=3), **{**settings, **options})


def images(network: Supernet | Subnet, batch: int = 4) -> Tensor:
    return torch.randn(batch, *network.input_shape, generator=torch.Generator().manual_seed(0))


class TestPapersSpace(SearchSpaceContract):
    @pytest.fixture
    def space(self) -> NASNetSpace:
        return NASNetSpace()


class SharedWeights(SupernetContract):
    configs_tested = 12
    shared_modules = (SharedCell,)

    def test_the_canonical_form_computes_the_same(self, supernet: NASNetSupernet) -> None:
        x = images(supernet)
        disturb(supernet).eval()
        configs = [c for c in draw_configs(supernet.space, 50) if supernet.space.canonical(c) != c][:10]
        assert configs
        for config in configs:
            canonical = supernet.space.canonical(config)
            assert torch.equal(supernet(x, canonical), supernet(x, config))
            assert torch.equal(supernet.extract(canonical)(x), supernet.extract(config)(x))


class TestShared(SharedWeights):
    @pytest.fixture
    def supernet(self) -> NASNetSupernet:
        return small()


class TestSharedImageNetStem(SharedWeights):
    @pytest.fixture
    def supernet(self) -> NASNetSupernet:
        return small(NASNetSpace(blocks=2), stem="imagenet", stem_channels=6, image_size=33)


class TestENAS(SharedWeights):
    @pytest.fixture
    def supernet(self) -> NASNetSupernet:
        return small(NASNetSpace("enas_micro", candidates=ENAS_CANDIDATES, combinations=("add",)))


def reference_text(space: NASNetSpace, config: SubnetConfig, kind: str) -> nasnet_net.CellText:
    """A cell read off the picks, not off the genotype."""
    blocks, read = [], set()
    config = space.canonical(config)
    for b in range(space.blocks):
        (i, j), (p, q) = config[f"{kind}_{b}_inputs"], config[f"{kind}_{b}_ops"]
        blocks.append((str(p), int(i), str(q), int(j), str(config[f"{kind}_{b}_combine"][0])))
        read |= {i, j}
    return blocks, [state for state in range(space.blocks + 2) if state not in read]


@pytest.mark.parametrize("size", [8, 9])
def test_a_network_equals_the_textbook(size: int) -> None:
    space = NASNetSpace(blocks=4)
    used: set[str | int | float] = set()
    for seed in range(8):
        config = space.sample(seed)
        used |= {pick for name, picks in config.picks if name.endswith("ops") for pick in picks}
        network = space.network(config, channels=4, cells_per_stage=1, num_classes=3, image_size=size)
        disturb(network).double().eval()
        x = images(network).double()
        normal, reduce = (reference_text(space, config, kind) for kind in ("normal", "reduce"))
        weights = network.state_dict()
        with torch.no_grad():
            logits = network(x)
            exact = nasnet_net.nasnet(x, normal, reduce, 1, weights)
            torch.testing.assert_close(logits, exact, rtol=1e-9, atol=1e-9)
            if any(source < 2 for _, a, _, b, _ in normal[0] for source in (a, b)):  # the inputs of cells, exchanged
                swap = {0: 1, 1: 0}
                blocks = [(p, swap.get(a, a), q, swap.get(b, b), c) for p, a, q, b, c in normal[0]]
                wrong = nasnet_net.nasnet(x, (blocks, normal[1]), reduce, 1, weights)
                assert not torch.allclose(logits, wrong, rtol=1e-3, atol=1e-3)
    assert used == set(CANDIDATES)


def test_nothing_runs_but_what_is_picked() -> None:
    supernet = small()
    ran: list[str] = []
    for name, module in supernet.named_modules():
        if name.count(".") == 3 and ".ops." in name:
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    config = supernet.space.sample(3)
    supernet(images(supernet), config)
    picked = [
        f"cells.{index}.ops.{block}_{source}_{op}"
        for index, kind in enumerate(("normal", "reduce", "normal", "reduce", "normal"))
        for block, edges in enumerate(getattr(supernet.space.genotype(config), kind))
        for op, source in edges
    ]
    assert ran == picked
    ops = sum(len(cell.ops) for cell in supernet.cells if isinstance(cell, SharedCell))
    assert ops == 5 * (2 + 3 + 4) * 13  # one for every cell, block, input and operation


def test_every_weight_is_trained_by_some_architecture() -> None:
    supernet = small(NASNetSpace(blocks=2, candidates=("sep_conv_3x3", "nor_conv_1x1")), channels=4)
    trained: set[str] = set()
    for config in draw_configs(supernet.space, 60):
        supernet.zero_grad()
        supernet(images(supernet), config).square().sum().backward()
        trained |= {name for name, p in supernet.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {name for name, _ in supernet.named_parameters()}


def test_recomputing_cells_changes_no_gradient() -> None:
    config = NASNetSpace(blocks=3).sample(1)
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        supernet = small()
        supernet.gradient_checkpointing = again
        supernet(images(supernet), config).square().sum().backward()
        gradients.append({name: p.grad for name, p in supernet.named_parameters() if p.grad is not None})
        gradients[-1] |= dict(supernet.named_buffers())
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-7)


def test_a_genotype_and_its_config_are_inverse() -> None:
    space = NASNetSpace()
    for config in draw_configs(space, 50):
        genotype = space.genotype(config)
        assert space.config(genotype) == space.canonical(config)
        assert space.config(Genotype.parse(str(genotype))) == space.canonical(config)


def test_what_no_block_reads_is_the_output() -> None:
    space = NASNetSpace(blocks=2)
    ops, picks = ["skip_connect", "max_pool_5x5"], {}
    for kind in ("normal", "reduce"):
        picks |= {f"{kind}_0_inputs": [1, 1], f"{kind}_0_ops": ops, f"{kind}_0_combine": ["concat"]}
        picks |= {f"{kind}_1_inputs": [2, 1], f"{kind}_1_ops": ops, f"{kind}_1_combine": ["add"]}
    config = SubnetConfig("nasnet", picks)
    genotype = space.genotype(config)
    assert genotype.normal_concat == genotype.reduce_concat == (0, 3)
    assert genotype.normal_joined == genotype.reduce_joined == (2,)
    assert genotype.normal[1] == (("max_pool_5x5", 1), ("skip_connect", 2))  # sorted by input
    assert [graph.nodes[2:4] for graph in space.graphs(config)] == [("0 concat", "1")] * 2
    network = space.network(config, channels=4, cells_per_stage=1, image_size=8)
    assert list(network.cells[1].shrinks) == ["0"]  # the cell before last has twice the resolution of the output
    assert network(images(network)).shape == (4, 10)


def test_a_mutation_changes_an_input_an_operation_or_a_combination() -> None:
    space, config = NASNetSpace(), NASNetSpace().sample(0)
    (before,) = space.encode([config])
    counts = {"inputs": 0, "ops": 0, "combine": 0}
    names = [choice.name.rsplit("_", 1)[1] for choice in space.choices for _ in range(choice.rows)]
    for seed in range(500):
        (after,) = space.encode([space.mutate(config, seed)])
        (gene,) = (before != after).nonzero()[0]
        counts[names[gene]] += 1
    assert [round(n / 100) for n in counts.values()] == [2, 2, 1]


# Published cells.


@pytest.mark.parametrize(
    ("name", "options", "count", "millions"),
    [
        # arXiv:1707.07012, table 1 (6 @ 768) and table 3 (4 @ 1056); arXiv:1802.01548, table 1 (N = 6, F = 36)
        pytest.param("NASNet-A", {}, 3_328_234, 3.3, id="NASNet-A 6@768"),
        pytest.param(
            "NASNet-A",
            {"channels": 44, "cells_per_stage": 4, "num_classes": 1001, "image_size": 224, "stem": "imagenet"},
            5_288_133,
            5.3,
            id="NASNet-A 4@1056",
        ),
        pytest.param("AmoebaNet-A", {"channels": 36}, 3_145_078, 3.2, id="AmoebaNet-A 6,36"),
    ],
)
def test_published_networks_have_the_published_number_of_parameters(
    name: str, options: dict[str, Any], count: int, millions: float
) -> None:
    cells = NASNET_CELLS[name]
    assert count_parameters(NASNetNetwork(cells, **options)) == count
    assert count / 1e6 == pytest.approx(millions, rel=0.01 if name == "NASNet-A" else 0.02)
    strict = Genotype(cells.normal, unread(cells.normal), cells.reduce, unread(cells.reduce))
    if name == "NASNet-A":  # with the states alone that no block reads it would be a smaller network
        assert count_parameters(NASNetNetwork(strict, **options)) / 1e6 < 0.95 * millions


def test_nasnet_a_has_768_channels_at_the_end() -> None:
    assert NASNetNetwork(NASNET_CELLS["NASNet-A"], cells_per_stage=1).classifier.in_features == 768


def test_published_cells_are_in_the_space_but_for_the_outputs_nasnet_adds() -> None:
    space = NASNetSpace(candidates=CANDIDATES)
    amoeba = NASNET_CELLS["AmoebaNet-A"]
    assert space.genotype(space.config(amoeba)).normal_concat == amoeba.normal_concat
    with pytest.raises(ValueError, match=r"the states that no block reads, here \[2, 3, 4, 5, 6\]"):
        space.config(NASNET_CELLS["NASNet-A"])


# Networks.


def test_the_auxiliary_head_reads_the_second_stage_and_comes_off() -> None:
    for size in (8, 32):
        network = NASNetNetwork(
            NASNET_CELLS["NASNet-A"], channels=4, cells_per_stage=1, image_size=size, auxiliary=True
        )
        head = network.auxiliary_head
        assert head is not None and head[2].in_channels == 6 * 8  # six states of twice the channels
        logits, auxiliary = network.eval().forward_with_auxiliary(images(network))
        assert auxiliary is not None and logits.shape == auxiliary.shape == (4, 10)
        assert torch.equal(logits, network(images(network)))
        network.strip_auxiliary()
        assert network.forward_with_auxiliary(images(network))[1] is None
        assert network.init_args["auxiliary"] is False and torch.equal(logits, network(images(network)))


def test_feature_maps_are_the_last_of_every_resolution() -> None:
    network = NASNetNetwork(NASNET_CELLS["NASNet-A"], channels=4, cells_per_stage=2, image_size=17).eval()
    seen: list[Tensor] = []
    for cell in network.cells:
        cell.register_forward_hook(lambda module, inputs, output: seen.append(output))
    maps = network.feature_maps(images(network))
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 17, 17), (48, 9, 9), (96, 5, 5)]
    assert all(a is b for a, b in zip(maps, (seen[1], seen[4], seen[7]), strict=True))


def test_feature_maps_of_one_resolution_are_one() -> None:
    sizes = [8, 8, 4, 2, 2]
    maps = [torch.full((1, 1, s, s), float(i)) for i, s in enumerate(sizes)]
    assert [int(m.mean()) for m in by_resolution(iter(maps))] == [1, 2, 4]


@pytest.mark.parametrize("final", [0.0, 0.4])
def test_scheduled_drop_path_equals_what_the_code_of_nasnet_keeps(final: float) -> None:
    for step, cell in itertools.product((0, 1, 50, 99, 100, 130), (0, 7, 19)):
        ours = scheduled_drop_path(final, step=step, steps=100, cell=cell, cells=20)
        exact = formulas.scheduled_drop_path(step, final=final, steps=100, cell=cell, cells=20)
        assert ours == pytest.approx(exact, rel=1e-12, abs=1e-12)
        by_time_alone = formulas.scheduled_drop_path(step, final=final, steps=100, cell=0, cells=1)
        assert cell == 19 or not final * step or ours != pytest.approx(by_time_alone, rel=1e-3)


def test_deeper_cells_lose_more_paths_and_identities_lose_none() -> None:
    network = NASNetNetwork(NASNET_CELLS["NASNet-A"], channels=4, cells_per_stage=2, image_size=8)
    network.set_drop_path(0.8)
    assert [cell.drop_path for cell in network.cells] == pytest.approx([0.1 * (i + 1) for i in range(8)])

    skips = ((("skip_connect", 0), ("skip_connect", 1)),)
    pools = ((("avg_pool_3x3", 0), ("avg_pool_3x3", 1)),)
    for cell, dropped in ((skips, False), (pools, True)):
        network = NASNetNetwork(Genotype(cell, (2,), pools, (2,)), channels=4, cells_per_stage=1, image_size=8)
        last = network.cells[-1].train()
        last.drop_path = 0.5
        inputs = [torch.randn(64, 8, 4, 4), torch.randn(64, 16, 2, 2)]
        torch.manual_seed(0)
        runs = [last(*inputs) for _ in range(2)]
        assert torch.equal(*runs) != dropped
        if dropped:  # whole images, each on its own
            share = float((runs[0].flatten(1) == 0).all(1).float().mean())
            assert 0.1 < share < 0.4  # both paths of a quarter of the images
        assert torch.equal(last.eval()(*inputs), last(*inputs))

    network = NASNetNetwork(Genotype(pools, (2,), skips, (2,)), channels=4, cells_per_stage=1, image_size=8)
    reduction = network.cells[1].train()  # where an identity halves the resolution
    reduction.drop_path = 0.5
    inputs = [torch.randn(64, 12, 8, 8), torch.randn(64, 4, 8, 8)]
    assert torch.equal(reduction(*inputs), reduction(*inputs))


def test_a_cell_found_on_digits_is_stacked_deeper_and_wider_for_larger_images() -> None:
    supernet = small(NASNetSpace(), in_channels=1, image_size=8, num_classes=10)
    config = supernet.space.sample(0)
    there = supernet.extract(config)
    here = supernet.space.network(config, channels=12, cells_per_stage=3, num_classes=100, image_size=32)
    assert here.config == there.config and here.graphs() == there.graphs()
    assert (len(there.cells), len(here.cells)) == (5, 11)
    assert here(images(here)).shape == (4, 100)
    assert count_parameters(here) > 3 * count_parameters(there)


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"blocks": 0}, "at least one block; got blocks=0", id="blocks"),
        pytest.param({"combinations": ("mul",)}, r"'add' or 'concat'; got combinations=\('mul',\)", id="combination"),
        pytest.param({"combinations": ()}, "combines by 'add' or 'concat'", id="no-combination"),
        pytest.param({"candidates": ("conv",)}, "An operation must be one of .*; got 'conv'", id="operation"),
    ],
)
def test_spaces_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NASNetSpace(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"image_size": 3}, "at least 4 pixels", id="small"),
        pytest.param({"image_size": 31, "stem": "imagenet"}, "at least 32 pixels", id="small-imagenet"),
        pytest.param({"cells_per_stage": 0}, "at least one normal cell; got cells_per_stage=0", id="cells"),
        pytest.param({"num_classes": 0}, "at least 1, and 2 for classes; got num_classes=0", id="classes"),
        pytest.param({"stem": "tiny"}, "stem must be 'cifar' or 'imagenet'; got 'tiny'", id="stem"),
        pytest.param({"channels": 6, "stem": "imagenet", "image_size": 64}, "multiple of 4", id="channels"),
    ],
)
def test_networks_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    for build in (lambda: NASNetNetwork(NASNET_CELLS["NASNet-A"], **options), lambda: NASNetSupernet(**options)):
        with pytest.raises(ValueError, match=message):
            build()


def test_a_genotype_of_another_shape_has_no_config() -> None:
    with pytest.raises(ValueError, match="have 2 blocks of two edges; this normal cell has"):
        NASNetSpace(blocks=2).config(NASNET_CELLS["AmoebaNet-A"])


def test_a_network_without_feature_maps_says_so() -> None:
    class Plain(Subnet):
        def forward(self, x: Tensor) -> Tensor:
            return x

        def graphs(self) -> list[Any]:
            return []

    with pytest.raises(ValueError, match="Plain offers no feature maps"):
        Plain().feature_maps(torch.zeros(1))
