"""What a conversion must keep: the original, equal outputs in the supernet and alone, statistics, gradients."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oneshot
from oneshot.conversion import ConvertedSupernet, build
from oneshot.conversion.axes import cut
from oneshot.conversion.network import output_of
from oneshot.cost import count, count_candidates
from oneshot.supernets.space import SubnetConfig
from tests.conversion import networks
from tests.conversion.networks import ALL
from tests.conversion.test_analysis import built, numbers

OUTPUT = {networks.Entries: "classes"}
SMALL = ("timm:mobilenetv3_small_050", "timm:resnet10t", "torchvision:shufflenet_v2_x0_5", "timm:vit_tiny_patch16_224")
LIST = """timm:resnet50 timm:efficientnet_b0 timm:tf_efficientnet_lite0 timm:mobilenetv3_small_100 timm:convnext_atto
    timm:vit_tiny_patch16_224 timm:swin_tiny_patch4_window7_224 timm:mobilenetv4_conv_small timm:repvit_m0_9
    timm:efficientformerv2_s0 timm:fastvit_t8 timm:levit_128s timm:regnety_002 torchvision:resnet18
    torchvision:resnet50 torchvision:mobilenet_v3_small torchvision:shufflenet_v2_x1_0 torchvision:densenet121
    torchvision:deeplabv3_resnet50 torchvision:fcn_resnet50 torchvision:vit_b_16 torchvision:swin_t"""


@functools.cache
def converted(cls: type[nn.Module]) -> tuple[nn.Module, ConvertedSupernet, Any]:
    """A network in float64, its supernet, and inputs."""
    network, x = built(cls), numbers(ALL[cls]())
    return network, oneshot.convert(network, x, output=OUTPUT.get(cls)).eval(), x


def picks(supernet: ConvertedSupernet, count: int) -> list[SubnetConfig]:
    """Smallest, random ones, largest."""
    space = supernet.space
    drawn = space.draw_genes(count, np.random.default_rng(0))
    return [space.smallest, *(space.config_of(row) for row in drawn), space.largest]


def storages(module: nn.Module) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}


def far(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.fixture(params=ALL, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> type[nn.Module]:
    return request.param  # type: ignore[no-any-return]


@torch.no_grad()
def test_the_largest_architecture_is_the_original(cls: type[nn.Module]) -> None:
    network, supernet, x = converted(cls)
    wanted = output_of(network(x), OUTPUT.get(cls))
    assert far(supernet(x, supernet.space.largest), wanted) < 1e-10
    assert far(output_of(supernet.network(x), OUTPUT.get(cls)), wanted) < 1e-10
    own, theirs = supernet.network.state_dict(), network.state_dict()
    assert {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in theirs.items()}
    again = cls().double().eval()
    again.load_state_dict(own)
    assert far(output_of(again(x), OUTPUT.get(cls)), wanted) < 1e-10


@torch.no_grad()
def test_extracted_networks_compute_what_the_supernet_computes(cls: type[nn.Module]) -> None:
    network, supernet, x = converted(cls)
    for config in picks(supernet, 20):
        alone = supernet.extract(config).eval()
        assert torch.equal(alone(x), supernet(x, config))
        assert type(alone.network) is cls
        assert not storages(alone) & storages(supernet)
    assert not storages(network) & storages(supernet)


def test_extracted_networks_have_what_the_original_shares(cls: type[nn.Module]) -> None:
    network, supernet, _ = converted(cls)
    alone = supernet.extract(supernet.space.smallest).network

    def shared(module: nn.Module) -> set[tuple[str, ...]]:
        names: dict[int, list[str]] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        return {tuple(own) for own in names.values() if len(own) > 1}

    assert shared(alone) == shared(network) == shared(supernet.network)


def test_training_reaches_the_part_that_runs_and_nothing_else(cls: type[nn.Module]) -> None:
    _, converted_supernet, x = converted(cls)
    for config in picks(converted_supernet, 2)[:-1]:
        supernet = copy.deepcopy(converted_supernet).train()
        alone = supernet.extract(config).train()
        before = {name: buffer.clone() for name, buffer in supernet.network.named_buffers()}
        outputs = []
        for network, arguments in ((supernet, (x, config)), (alone, (x,))):
            torch.manual_seed(5)
            outputs.append(network(*arguments))
            outputs[-1].square().mean().backward()
        assert torch.equal(*outputs)
        sizes, _ = supernet._plan(config)
        own = dict(alone.network.named_parameters())
        for name, parameter in supernet.network.named_parameters():
            places = torch.arange(parameter.numel()).view(parameter.shape)
            kept = cut(places, supernet.graph.weights[name], sizes, supernet.graph.centred)
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            wanted = torch.zeros_like(parameter).flatten()
            if name in own and own[name].grad is not None:
                wanted[kept.flatten()] = own[name].grad.flatten()
            torch.testing.assert_close(gradient.flatten(), wanted, rtol=1e-9, atol=1e-12)
        theirs = dict(alone.network.named_buffers())
        for name, buffer in supernet.network.named_buffers():
            places = torch.arange(buffer.numel()).view(buffer.shape)
            kept = cut(places, supernet.graph.weights[name], sizes, supernet.graph.centred)
            wanted = before[name].clone().flatten()
            if name in theirs:
                wanted[kept.flatten()] = theirs[name].flatten()
            assert torch.equal(buffer.flatten(), wanted), name


@torch.no_grad()
def test_supernets_and_extracted_networks_are_copied_and_pickled(cls: type[nn.Module]) -> None:
    _, supernet, x = converted(cls)
    config = picks(supernet, 1)[1]
    alone, wanted = supernet.extract(config).eval(), supernet(x, config)
    for other in (copy.deepcopy(supernet), pickle.loads(pickle.dumps(supernet))):
        assert torch.equal(other(x, config), wanted)
        assert torch.equal(other.extract(config).eval()(x), wanted)
    for lone in (copy.deepcopy(alone), pickle.loads(pickle.dumps(alone))):
        assert torch.equal(lone(x), wanted)
    plain = pickle.loads(pickle.dumps(alone.network))
    assert torch.equal(output_of(plain(x), OUTPUT.get(cls)), wanted)


def test_sizes_that_layers_tell_are_those_of_their_weights(cls: type[nn.Module]) -> None:
    """``repr`` of an extracted network is true: a network that is built from it has the same weights."""
    _, supernet, _ = converted(cls)
    for module in supernet.extract(supernet.space.smallest).network.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        elif isinstance(module, nn.modules.conv._ConvNd):
            made = type(module)(module.in_channels, module.out_channels, module.kernel_size, groups=module.groups)  # type: ignore[call-arg]
            assert made.weight.shape == module.weight.shape
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            assert module.weight.shape == (module.num_features,)
        elif isinstance(module, nn.LayerNorm):
            assert module.weight.shape == module.normalized_shape
        elif isinstance(module, nn.GroupNorm):
            assert module.weight.shape == (module.num_channels,) and module.num_channels % module.num_groups == 0
        elif isinstance(module, nn.Embedding):
            assert module.weight.shape == (module.num_embeddings, module.embedding_dim)


@pytest.mark.filterwarnings("ignore:There is no formula")
def test_costs_by_tables_are_those_of_traced_counts(cls: type[nn.Module]) -> None:
    _, supernet, _ = converted(cls)
    configs = picks(supernet, 5)
    genes = np.stack([supernet.space.genes_of(config) for config in configs])
    traced = [count(supernet.extract(config, inherit=False), supernet.shape_of(config)) for config in configs]
    for what in ("params", "macs", "memory"):
        found = count_candidates(supernet, what).costs(genes)
        assert found.tolist() == [float(getattr(counts, what)) for counts in traced]


def test_parameters_that_do_not_learn_stay_so() -> None:
    network = networks.Residual()
    network.stem.requires_grad_(False)
    supernet = oneshot.convert(network, networks.images())
    alone = supernet.extract(supernet.space.smallest).network
    assert [n for n, p in alone.named_parameters() if not p.requires_grad] == ["stem.weight", "stem.bias"]
    assert alone.stem.weight.shape[0] == 8


def test_frozen_parts_keep_all_channels() -> None:
    supernet = oneshot.convert(networks.Residual(), networks.images(), freeze=("blocks.0.*", "stem"))
    names = [group.name for group in supernet.graph.groups]
    assert "width_stem" not in names and not [name for name in names if name.startswith("width_blocks_0")]
    assert "width_blocks_1_expand" in names
    assert supernet.graph.stages[0].blocks == ("blocks.1", "blocks.2", "blocks.3")


def sound(network: nn.Module, x: Tensor, *, random: int) -> None:
    """Convert a network and compare what it computes."""
    network = network.eval()
    with torch.no_grad():
        for parameter in network.parameters():  # torchvision's last layer of a ViT is zero, and all outputs with it
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.02)
    supernet = oneshot.convert(network, x).eval()
    with torch.no_grad():
        wanted = output_of(network(x), None)
        assert far(supernet(x, supernet.space.largest), wanted) < 1e-5
        for config in picks(supernet, random):
            assert torch.equal(supernet.extract(config).eval()(x), supernet(x, config))
    assert {n: t.shape for n, t in network.state_dict().items()} == {
        n: t.shape for n, t in supernet.network.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("source", SMALL)
def test_small_networks_of_libraries_are_converted(source: str) -> None:
    torch.manual_seed(0)
    sound(build(source, {"img_size": 64} if "vit" in source else {}), torch.randn(2, 3, 64, 64), random=3)


@pytest.mark.nightly
@pytest.mark.parametrize("source", LIST.split())
def test_networks_of_libraries_are_converted(source: str) -> None:
    torch.manual_seed(0)
    arguments = {"weights_backbone": None} if "deeplab" in source or "fcn" in source else {}
    sound(build(source, arguments), torch.randn(2, 3, 224, 224), random=20)


@torch.no_grad()
def test_a_supernet_that_keeps_the_last_channels_of_a_layer_is_noticed() -> None:
    """The comparison with an extracted network fails if one layer has other channels than the ones around it."""
    _, original, x = converted(networks.Plain)
    supernet = copy.deepcopy(original)
    config = supernet.space.smallest
    wanted = supernet(x, config)
    weight = supernet.network.get_parameter("features.3.weight")
    weight.copy_(weight.flip(1))
    assert far(supernet(x, config), wanted) > 1e-3
    assert far(supernet(x, supernet.space.largest), original(x, config)) > 1e-3


def test_own_inputs_and_outputs_by_name() -> None:
    x = numbers(ALL[networks.Entries]())
    with pytest.raises(ValueError, match=r"output must name the tensor that is meant among \['classes', 'value'\]"):
        oneshot.convert(built(networks.Entries), x)
    supernet = oneshot.convert(built(networks.Entries), x, output="value").eval()
    found = supernet.extract(supernet.space.smallest).eval().network(x)
    assert [t.shape for t in found.values()] == [(2, 5), (2, 1)]
