"""Analysis of networks: what varies, what is fixed and why, and that what is cut together belongs together."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from oneshot.conversion.analysis import analyse
from oneshot.conversion.axes import Extent, cut, permute
from oneshot.conversion.draft import Limits
from oneshot.conversion.graph import Graph, leaf_sizes, resized, weights_at
from oneshot.conversion.trace import called_with, isolated, trace
from tests.conversion import networks
from tests.conversion.networks import ALL

EXPECTED: dict[type[nn.Module], tuple[dict[str, int], dict[str, int]]] = {
    networks.Plain: (
        {"width_features_0": 24, "width_features_3": 32, "width_fc": 40},
        {},
    ),
    networks.Residual: (
        {
            "width_stem": 32,
            "width_blocks_0_expand": 48,
            "width_blocks_0_reduce": 16,
            "width_blocks_1_expand": 48,
            "width_blocks_1_reduce": 16,
            "width_blocks_2_expand": 48,
            "width_blocks_2_reduce": 16,
            "width_blocks_3_expand": 48,
            "width_blocks_3_reduce": 16,
        },
        {"depth_blocks": 4},
    ),
    networks.Dense: (
        {"width_stem": 16, "width_layers_0": 24, "width_layers_1": 24, "width_layers_2": 24},
        {},
    ),
    networks.UNet: (
        {"width_down1": 16, "width_down2": 32, "width_middle": 48, "width_up": 24, "width_merge": 24},
        {},
    ),
    networks.C2f: (
        {"width_stem": 16, "width_first": 24, "width_blocks_0": 24, "width_blocks_1": 24, "width_last": 32},
        {},
    ),
    networks.CSP: (
        {"width_stem": 16, "width_block": 16},
        {},
    ),
    networks.SharedBetween: (
        {"width_stem": 32, "width_two_2": 32},
        {},
    ),
    networks.Sliced: (
        {"width_stem": 24, "width_stem_2": 16, "width_block": 32},
        {},
    ),
    networks.SharedModule: (
        {"width_stem": 32},
        {},
    ),
    networks.Transformer: (
        {"heads_patches": 4, "width_blocks_0_mlp_0": 96, "width_blocks_1_mlp_0": 96, "width_blocks_2_mlp_0": 96},
        {"depth_blocks": 3},
    ),
    networks.HeadsInCode: (
        {"width_stem": 32, "width_project": 32, "width_hidden": 48},
        {},
    ),
    networks.Einsum: (
        {"width_stem": 48, "heads_q": 4},
        {},
    ),
    networks.MultiHead: (
        {"heads_stem": 4, "width_encoder_layers_0_linear1": 96, "width_encoder_layers_1_linear1": 96},
        {"depth_encoder_layers": 2},
    ),
    networks.LanguageModel: (
        {"heads_blocks_0_attention_qkv": 4, "width_blocks_0_mlp_0": 96, "width_blocks_1_mlp_0": 96},
        {"depth_blocks": 2},
    ),
    networks.Entries: (
        {"width_image": 32, "width_table": 24, "width_both": 48},
        {},
    ),
    networks.Gated: (
        {"width_first": 48, "width_second": 64},
        {},
    ),
    networks.Shuffled: (
        {"width_stem": 16, "width_one": 4, "width_two": 16},
        {},
    ),
    networks.ChannelsLastNorm: (
        {"width_stem": 8, "width_middle": 48, "width_last": 40},
        {},
    ),
    networks.Recurrent: (
        {"width_hidden": 64},
        {},
    ),
    networks.Signal: (
        {"width_stem": 32},
        {},
    ),
    networks.Volume: (
        {"width_one": 16, "width_two": 32},
        {},
    ),
    networks.Upscale: (
        {"width_one": 32, "width_two": 16},
        {},
    ),
    networks.OwnParameters: (
        {"width_weights": 32, "width_weights_2": 48},
        {},
    ),
    networks.Standardised: (
        {"width_gain": 48, "width_one": 32},
        {},
    ),
    networks.Mixer: (
        {"width_stem": 48, "width_tokens_0": 32, "width_channels_0": 96},
        {},
    ),
    networks.Cached: (
        {"width_bias": 32},
        {},
    ),
}
# Norms across channels see the channels that are cut, so for these nothing in front of such a norm is masked.
NORMED = {
    networks.Transformer: ("heads_patches",),
    networks.MultiHead: ("heads_stem",),
    networks.LanguageModel: ("heads_blocks_0_attention_qkv",),
    networks.Mixer: ("width_stem",),
    networks.ChannelsLastNorm: ("width_middle",),
    networks.Standardised: ("width_one",),
}


def limits(**options: Any) -> Limits:
    width = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
    given = dict(width=width, multiple=8, depth=True, kernel=False, heads=True, freeze=())
    return Limits(**(given | options))


def built(cls: type[nn.Module]) -> nn.Module:
    """A network in float64 in which every number has an influence."""
    torch.manual_seed(0)
    network = cls().double().eval()
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.8 + 0.2 if "var" in name else torch.randn_like(tensor) * 0.3)
    return network


def numbers(inputs: Any) -> Any:
    """Inputs with numbers in them."""
    generator = torch.Generator().manual_seed(1)

    def fill(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
        return torch.randint(0, 50, tensor.shape, generator=generator)

    return tree_map(fill, inputs)


@functools.cache
def analysed(cls: type[nn.Module]) -> tuple[nn.Module, Graph, Any]:
    """A network, what is known of it, and inputs."""
    network, x = built(cls), numbers(ALL[cls]())
    return network, analyse(network, x, limits()), x


def rows(graph: Graph, hold: Sequence[str] = (), count: int = 4) -> list[list[int]]:
    """Sizes of groups: smallest, some random ones, largest; some groups are held at their largest."""
    rng = np.random.default_rng(0)
    found = [[g.sizes[0] for g in graph.groups]]
    found += [[int(rng.choice(g.sizes)) for g in graph.groups] for _ in range(count)]
    found += [[g.size for g in graph.groups]]
    return [[g.size if g.name in hold else n for g, n in zip(graph.groups, row, strict=True)] for row in found]


def run(network: nn.Module, graph: Graph, sizes: Sequence[int], weights: dict[str, Tensor], x: Any) -> list[Tensor]:
    with torch.no_grad(), resized(network, graph, sizes), isolated(network):
        return [t for t in tree_leaves(called_with(network, dict(weights), x)) if isinstance(t, Tensor)]


def distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_what_varies_is_found(cls: type[nn.Module]) -> None:
    network = cls().train()
    before = {name: value for name, value in network.__dict__.items() if not name.startswith("_")}
    graph = analyse(network, ALL[cls](), limits())
    groups, stages = EXPECTED[cls]
    assert {group.name: group.size for group in graph.groups} == groups
    assert {stage.name: len(stage.blocks) for stage in graph.stages} == stages
    assert not graph.unknown
    assert all(item.why for item in graph.fixed)
    assert network.training and {n: v for n, v in network.__dict__.items() if not n.startswith("_")} == before


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_another_order_of_what_varies_gives_the_same_outputs(cls: type[nn.Module]) -> None:
    network, graph, x = analysed(cls)
    named = dict([*network.named_parameters(), *network.named_buffers()])
    wanted = run(network, graph, graph.leaves, named, x)
    generator = torch.Generator().manual_seed(2)
    for leaf, size in enumerate(graph.leaves):
        order = {leaf: torch.randperm(size, generator=generator)}
        other = {name: permute(tensor, graph.weights[name], order) for name, tensor in named.items()}
        assert distance(run(network, graph, graph.leaves, other, x), wanted) < 1e-10
        if not torch.equal(order[leaf], torch.arange(size)):
            touched = [n for n, shape in graph.weights.items() if any(leaf in s.indices() for s in shape)]
            assert len(touched) > 1  # makes it and takes it
            lone = {**named, touched[0]: other[touched[0]]}
            assert distance(run(network, graph, graph.leaves, lone, x), wanted) > 1e-8, touched[0]


def masked(network: nn.Module, graph: Graph, sizes: Sequence[int]) -> dict[str, Tensor]:
    """All weights, with zeros in place of those that are cut away."""
    found = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        places = torch.arange(tensor.numel()).view(tensor.shape)
        kept = torch.zeros(tensor.numel(), dtype=torch.bool)
        kept[cut(places, graph.weights[name], sizes, graph.centred).flatten()] = True
        statistic = name.endswith("running_var")
        found[name] = torch.where(kept.view(tensor.shape), tensor, torch.ones_like(tensor) * statistic)
    return found


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_cut_networks_are_those_with_zeros_for_what_is_cut(cls: type[nn.Module]) -> None:
    network, graph, x = analysed(cls)
    for row in rows(graph, NORMED.get(cls, ())):
        sizes = leaf_sizes(graph, row)
        small = run(network, graph, sizes, weights_at(network, graph, sizes), x)
        assert distance(small, run(network, graph, graph.leaves, masked(network, graph, sizes), x)) < 1e-10


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_predicted_shapes_are_those_of_a_run(cls: type[nn.Module]) -> None:
    network, graph, x = analysed(cls)
    for row in rows(graph):
        sizes = leaf_sizes(graph, row)
        with resized(network, graph, sizes):
            state = {n: t.detach() for n, t in weights_at(network, graph, sizes).items()}
            ran = trace(network, x, state, attributes=False)
        ops = [[op for op in ops if op.name != "clone"] for ops in (graph.trace.ops, ran.ops)]
        for old, new in zip(*ops, strict=True):
            for a, b in zip(old.outputs, new.outputs, strict=True):
                assert tuple(side.at(sizes) for side in graph.shapes[a]) == ran.tensors[b].shape


def test_masks_notice_a_wrong_order_behind_a_concatenation() -> None:
    """The comparison above fails, if the parts of a concatenation were taken in another order."""
    network, graph, x = analysed(networks.Dense)
    sizes = leaf_sizes(graph, [8, 16, 8, 8])
    name = "layers.1.weight"
    own, whole, *rest = graph.weights[name]
    assert whole.kind == "sum"
    swapped = Extent("sum", whole.size, parts=whole.parts[::-1])
    wrong = dataclasses.replace(graph, weights={**graph.weights, name: (own, swapped, *rest)})
    small = run(network, wrong, sizes, weights_at(network, wrong, sizes), x)
    assert distance(small, run(network, graph, graph.leaves, masked(network, graph, sizes), x)) > 1e-3


def test_caches_of_a_network_are_not_those_of_another_size() -> None:
    network, x = networks.Cached().eval(), torch.randn(2, 10, 12)
    graph = analyse(network, x, limits())
    assert network.cache == {}
    with torch.no_grad(), isolated(network):
        wanted = network(x)
    assert network.cache == {}
    sizes = leaf_sizes(graph, [8])
    named = dict(network.named_parameters())
    run(network, graph, sizes, weights_at(network, graph, sizes), x)
    assert torch.equal(run(network, graph, graph.leaves, named, x)[0], wanted)
    doubled = {name: tensor * 2 if name == "bias" else tensor for name, tensor in named.items()}
    assert distance(run(network, graph, graph.leaves, doubled, x), [wanted]) > 0.1


def test_blocks_of_a_stage_follow_each_other_in_one_container() -> None:
    graph = analyse(networks.Residual(), networks.images(), limits())
    assert graph.stages[0].blocks == ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
    assert (graph.stages[0].least, graph.stages[0].others) == (2, 0)


def test_blocks_with_masks_can_be_left_out() -> None:
    network = networks.MultiHead().eval()
    graph = analyse(network, networks.vectors(), limits())
    x = torch.randn(2, 10, 12)
    with resized(network, graph, graph.leaves, ["encoder.layers.1"]):
        found = network(x)
    stem = network.get_submodule("encoder.layers.0")(network.get_submodule("stem")(x))
    attended, _ = network.get_submodule("cross")(network.query.expand(2, -1, -1), stem, stem)  # type: ignore[operator]
    torch.testing.assert_close(found, network.get_submodule("head")(attended.mean(1)))


def test_recurrent_layers_are_named_as_what_is_fixed() -> None:
    graph = analyse(networks.Recurrent(), networks.vectors(), limits())
    assert any(item.why == "the recurrent layer gru keeps its sizes" for item in graph.fixed)


def test_attributes_that_tell_a_number_of_features_follow() -> None:
    graph = analyse(networks.Transformer(), networks.images(), limits())
    sizes = leaf_sizes(graph, [group.sizes[0] for group in graph.groups])
    told = {binding.name: binding.value(sizes) for binding in graph.bindings if binding.module == ""}
    assert told == {"num_features": 16, "embed_dim": 16}


def test_attributes_that_forward_reads_as_numbers_keep_their_values() -> None:
    network = networks.LanguageModel()
    graph = analyse(network, ALL[networks.LanguageModel](), limits())
    assert not [binding for binding in graph.bindings if binding.module == ""]
    assert [(item.what, item.size) for item in graph.fixed if "attribute" in item.what] == [("attribute d_model", 64)]
    assert network.d_model == 64
