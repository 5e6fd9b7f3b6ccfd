"""The product's networks against textbook networks with the same weights: outputs, gradients, statistics, sizes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from oneshot.supernets.darts import DARTSNetwork, DARTSSupernet
from oneshot.supernets.genotype import PUBLISHED, Genotype
from oneshot.supernets.nasbench201 import NASBench201Network, NASBench201Supernet

from .darts_net import DARTSDerivedNet, DARTSSearchNet, MixedOp
from .nasbench201_net import CANDIDATES as NASBENCH201_CANDIDATES
from .nasbench201_net import EDGES as NASBENCH201_EDGES
from .nasbench201_net import NASBench201DerivedNet, NASBench201SearchNet

assert_equal = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
Rename = Callable[[str], str]  # name in the textbook network -> name in the product


def copy_weights(ours: nn.Module, textbook: nn.Module, rename: Rename) -> None:
    """Copies all parameters and buffers into the textbook network, by name; neither side may have one left over."""
    source, target = ours.state_dict(), textbook.state_dict()
    names = {name: rename(name) for name in target}
    assert sorted(names.values()) == sorted(source)
    textbook.load_state_dict({name: source[names[name]].clone() for name in target})


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Moves weights, affine parameters and running statistics away from their special initial values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator, dtype=buffer.dtype))


def random_input(size: int = 8, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(4, channels, size, size, generator=generator, dtype=torch.float64, requires_grad=True)


def random_weights(rows: int, candidates: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, candidates, generator=generator, dtype=torch.float64).requires_grad_()


def rename_darts(name: str) -> str:
    name = re.sub(r"\.conv([12])\.weight", r".conv_\1.weight", name)
    name = re.sub(r"\.nodes\.(\d+)\.(\d+)\.", lambda m: f".ops.{2 * int(m[1]) + int(m[2])}.", name)  # two per node
    return name.replace("stem.first.0.", "stem.conv.").replace("stem.first.1.", "stem.bn.")


def rename_darts_imagenet(name: str) -> str:
    if name.startswith("stem."):
        return name.replace("first", "stem0").replace("second", "stem1")
    return rename_darts(name)


def rename_nasbench201(cells_per_stage: int) -> Rename:
    """The product has cells and residual blocks in one list."""

    def rename(name: str) -> str:
        name = name.replace("downsample", "shortcut")
        name = name.replace("last_bn", "head.0").replace("classifier", "head.4")
        if match := re.match(r"blocks\.(\d+)\.(.*)", name):
            return f"blocks.{(int(match[1]) + 1) * (cells_per_stage + 1) - 1}.{match[2]}"
        if match := re.match(r"stages\.(\d+)\.(\d+)\.edges\.(\d+)\.(.*)", name):
            stage, cell, edge, rest = int(match[1]), int(match[2]), match[3], match[4]
            return f"blocks.{stage * (cells_per_stage + 1) + cell}.edges.{edge}.ops.{rest}"
        return name

    return rename


def rename_nasbench201_derived(cells_per_stage: int) -> Rename:
    search = rename_nasbench201(cells_per_stage)
    return lambda name: re.sub(r"\.edges\.(\d+)\.ops\.", r".ops.\1.", search(name))


# Zeros for what does not reach the output: a node may end in `none`.
gradients = partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)


def assert_same_behaviour(
    ours: nn.Module,
    textbook: nn.Module,
    rename: Rename,
    run_ours: Callable[[Tensor], Tensor],
    run_textbook: Callable[[Tensor], Tensor],
    edge_weights: tuple[Tensor, ...] = (),
    size: int = 8,
) -> None:
    """Same logits; same gradients of weights, edge weights and images; same running statistics; same in eval mode."""
    x = random_input(size)
    expected, actual = run_textbook(x), run_ours(x)
    assert_equal(actual, expected)
    assert float(expected.detach().std()) > 1e-3  # the images and the classes can be told apart

    cotangent = torch.linspace(-1.0, 1.0, expected.numel(), dtype=torch.float64).view_as(expected)
    names = [name for name, _ in textbook.named_parameters()]
    weights = dict(ours.named_parameters())
    shared = [x, *edge_weights]
    expected_gradients = gradients((expected * cotangent).sum(), [*textbook.parameters(), *shared])
    actual_gradients = gradients((actual * cotangent).sum(), [*(weights[rename(n)] for n in names), *shared])
    for a, e in zip(actual_gradients, expected_gradients, strict=True):
        assert_equal(a, e)

    buffers = dict(ours.named_buffers(remove_duplicate=False))
    for name, buffer in textbook.named_buffers():
        assert_equal(buffers[rename(name)], buffer)
    ours.eval()
    textbook.eval()
    assert_equal(run_ours(x), run_textbook(x))


def darts_pair(stem: str = "cifar") -> tuple[DARTSSupernet, DARTSSearchNet]:
    imagenet = stem == "imagenet"
    ours = DARTSSupernet(
        channels=4, cells=4, stem="imagenet" if imagenet else "cifar", image_size=64 if imagenet else 8
    )
    ours.double()
    randomise(ours)
    textbook = DARTSSearchNet(channels=4, cells=4, imagenet=imagenet).double()
    copy_weights(ours, textbook, rename_darts_imagenet if imagenet else rename_darts)
    return ours, textbook


@pytest.mark.parametrize("stem", [pytest.param("cifar", id="cifar"), pytest.param("imagenet", id="imagenet")])
def test_the_darts_supernet_equals_the_textbook_network_under_random_edge_weights(stem: str) -> None:
    ours, textbook = darts_pair(stem)
    normal, reduce = random_weights(14, 8, seed=1), random_weights(14, 8, seed=2)
    assert_same_behaviour(
        ours,
        textbook,
        rename_darts_imagenet if stem == "imagenet" else rename_darts,
        lambda x: ours(x, {"normal": normal, "reduce": reduce}),
        lambda x: textbook(x, normal, reduce),
        (normal, reduce),
        size=64 if stem == "imagenet" else 8,
    )


def largest_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def count_padding(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.AvgPool2d):
            module.count_include_pad = True


def drop_batch_norm_after_pools(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, MixedOp):
            for op in module.ops:
                if isinstance(op, nn.Sequential) and len(op) == 2:
                    op[1] = nn.Identity()


def undilate(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.dilation == (2, 2):
            size = module.kernel_size[0]
            module.dilation, module.padding = (1, 1), ((size - 1) // 2, (size - 1) // 2)


def swap_halves_of_factorized_reduce(network: nn.Module) -> None:
    for module in network.modules():
        if hasattr(module, "conv1"):
            module.conv1, module.conv2 = module.conv2, module.conv1


@pytest.mark.parametrize(
    "spoil", [count_padding, drop_batch_norm_after_pools, undilate, swap_halves_of_factorized_reduce]
)
def test_a_wrong_darts_network_fails_the_comparison(spoil: Callable[[nn.Module], None]) -> None:
    ours, textbook = darts_pair()
    normal, reduce = random_weights(14, 8, seed=1), random_weights(14, 8, seed=2)
    spoil(textbook)
    x = random_input()
    assert largest_difference(ours(x, {"normal": normal, "reduce": reduce}), textbook(x, normal, reduce)) > 1e-3


def test_wrong_edge_weights_fail_the_darts_comparison() -> None:
    ours, textbook = darts_pair()
    normal, reduce = random_weights(14, 8, seed=1), random_weights(14, 8, seed=2)
    x = random_input()
    logits = ours(x, {"normal": normal, "reduce": reduce})
    for wrong in ((reduce, normal), (normal.flip(0), reduce), (normal, reduce.flip(0)), (normal.flip(1), reduce)):
        assert largest_difference(logits, textbook(x, *wrong)) > 1e-3


EVERY_OPERATION = Genotype.parse(
    "Genotype(normal=[('sep_conv_3x3', 0), ('max_pool_3x3', 1), ('avg_pool_3x3', 0), ('skip_connect', 2), "
    "('dil_conv_3x3', 1), ('dil_conv_5x5', 3), ('sep_conv_5x5', 4), ('skip_connect', 0)], normal_concat=range(2, 6), "
    "reduce=[('skip_connect', 0), ('avg_pool_3x3', 1), ('sep_conv_5x5', 1), ('max_pool_3x3', 0), "
    "('dil_conv_5x5', 0), ('skip_connect', 3), ('sep_conv_3x3', 2), ('dil_conv_3x3', 1)], reduce_concat=range(2, 6))"
)
GENOTYPES = [
    pytest.param(genotype, id=name) for name, genotype in [("every_operation", EVERY_OPERATION), *PUBLISHED.items()]
]


@pytest.mark.parametrize("genotype", GENOTYPES)
def test_the_darts_network_equals_the_textbook_network(genotype: Genotype) -> None:
    ours = DARTSNetwork(genotype, channels=4, cells=4, image_size=8).double()
    randomise(ours)
    textbook = DARTSDerivedNet(
        genotype.normal, genotype.normal_concat, genotype.reduce, genotype.reduce_concat, channels=4, cells=4
    ).double()
    copy_weights(ours, textbook, rename_darts)
    assert_same_behaviour(ours, textbook, rename_darts, ours, textbook)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("genotype", GENOTYPES)
def test_the_darts_network_has_exactly_the_textbook_number_of_parameters(genotype: Genotype) -> None:
    parts = genotype.normal, genotype.normal_concat, genotype.reduce, genotype.reduce_concat
    with torch.device("meta"):
        assert parameters(DARTSNetwork(genotype)) == parameters(DARTSDerivedNet(*parts))
        assert parameters(
            DARTSNetwork(genotype, channels=48, cells=14, num_classes=1000, image_size=224, stem="imagenet")
        ) == parameters(DARTSDerivedNet(*parts, channels=48, cells=14, num_classes=1000, imagenet=True))


def test_darts_v2_has_the_published_number_of_parameters() -> None:
    genotype = PUBLISHED["DARTS_V2"]
    with torch.device("meta"):
        cifar = parameters(DARTSNetwork(genotype, channels=36, cells=20))
        imagenet = parameters(
            DARTSNetwork(genotype, channels=48, cells=14, num_classes=1000, image_size=224, stem="imagenet")
        )
    assert f"{cifar / 1e6:.1f}" == "3.3"  # arXiv:1806.09055, table 1
    assert f"{imagenet / 1e6:.1f}" == "4.7"  # arXiv:1806.09055, table 3


def nasbench201_pair() -> tuple[NASBench201Supernet, NASBench201SearchNet]:
    ours = NASBench201Supernet(channels=4, cells_per_stage=2, image_size=8).double()
    randomise(ours)
    textbook = NASBench201SearchNet(channels=4, cells_per_stage=2).double()
    copy_weights(ours, textbook, rename_nasbench201(2))
    return ours, textbook


def test_the_nasbench201_supernet_equals_the_textbook_network_under_random_edge_weights() -> None:
    ours, textbook = nasbench201_pair()
    weights = random_weights(6, 5, seed=1)
    assert_same_behaviour(
        ours,
        textbook,
        rename_nasbench201(2),
        lambda x: ours(x, {"cell": weights}),
        lambda x: textbook(x, weights),
        (weights,),
    )


def test_wrong_nasbench201_networks_and_edge_weights_fail_the_comparison() -> None:
    ours, textbook = nasbench201_pair()
    weights = random_weights(6, 5, seed=1)
    x = random_input()
    logits = ours(x, {"cell": weights})
    for wrong in (weights.flip(0), weights[[0, 1, 3, 2, 4, 5]], weights.flip(1)):
        assert largest_difference(logits, textbook(x, wrong)) > 1e-3
    count_padding(textbook)
    assert largest_difference(logits, textbook(x, weights)) > 1e-3


def architecture_string(picks: list[str]) -> str:
    """The official notation: ``|op~source|`` of each edge, nodes joined by ``+``."""
    nodes = [
        "".join(
            f"|{pick}~{source}" for pick, (source, target) in zip(picks, NASBENCH201_EDGES, strict=True) if target == t
        )
        for t in (1, 2, 3)
    ]
    return "+".join(f"{node}|" for node in nodes)


@pytest.mark.parametrize(
    "picks",
    [
        pytest.param(
            ["nor_conv_3x3", "none", "nor_conv_1x1", "skip_connect", "avg_pool_3x3", "nor_conv_3x3"], id="mix"
        ),
        pytest.param(["avg_pool_3x3", "nor_conv_1x1", "skip_connect", "nor_conv_3x3", "none", "none"], id="other mix"),
    ],
)
def test_the_nasbench201_network_equals_the_textbook_network(picks: list[str]) -> None:
    ours = NASBench201Network(architecture_string(picks), channels=4, cells_per_stage=2, image_size=8).double()
    randomise(ours)
    textbook = NASBench201DerivedNet(picks, channels=4, cells_per_stage=2).double()
    rename = rename_nasbench201_derived(2)
    copy_weights(ours, textbook, rename)
    assert_same_behaviour(ours, textbook, rename, ours, textbook)


@pytest.mark.parametrize("pick", NASBENCH201_CANDIDATES)
def test_the_nasbench201_network_has_exactly_the_textbook_number_of_parameters(pick: str) -> None:
    picks = [pick] * 6
    with torch.device("meta"):
        assert parameters(NASBench201Network(architecture_string(picks))) == parameters(NASBench201DerivedNet(picks))


def test_copying_weights_refuses_a_map_that_leaves_something_over() -> None:
    with pytest.raises(AssertionError):
        copy_weights(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), lambda name: name)
