"""The product's chains of mobile blocks against textbook networks with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from oneshot.supernets.chain import ChainNetwork, ChainSupernet
from oneshot.supernets.fbnet import FBNET_A, FBNetNetwork, FBNetSupernet
from oneshot.supernets.nasbenchmacro import NASBenchMacroNetwork, NASBenchMacroSupernet
from oneshot.supernets.proxyless import PROXYLESS_MOBILE, ProxylessNetwork, ProxylessSupernet

from .chain_net import (
    DerivedChain,
    Head,
    InvertedResidual,
    Pass,
    SearchChain,
    Shape,
    Stem,
    fbnet_block,
    macro_block,
    proxyless_block,
)
from .test_networks import (
    Rename,
    assert_same_behaviour,
    copy_weights,
    largest_difference,
    parameters,
    random_input,
    random_weights,
    randomise,
)


@dataclass(frozen=True)
class Case:
    """A small network of a space, written down twice.

    Args:
        supernet: Builds the product's supernet.
        network: Builds the product's network from one name per layer, as the textbook spells it.
        shapes: Of the layers, by hand.
        candidates: Of the layers, as the textbook spells them.
        block: The textbook's blocks.
        ends: The textbook's stem and head.
        picks: The network to compare.
        size: Of the images.
    """

    supernet: Callable[[], ChainSupernet]
    network: Callable[[Sequence[str]], ChainNetwork]
    shapes: Sequence[Shape]
    candidates: Sequence[Sequence[str]]
    block: Callable[..., nn.Module]
    ends: Callable[[], tuple[nn.Module, nn.Module]]
    picks: Sequence[str]
    size: int = 8

    def search_chain(self) -> SearchChain:
        layers = [
            [self.block(name, shape, affine=False) for name in names]
            for names, shape in zip(self.candidates, self.shapes, strict=True)
        ]
        return SearchChain(*self.ends(), layers)

    def derived_chain(self) -> DerivedChain:
        layers = [self.block(name, shape, affine=True) for name, shape in zip(self.picks, self.shapes, strict=True)]
        return DerivedChain(*self.ends(), layers)


def stages(first: int, *plan: Shape) -> list[Shape]:
    """Layers of stages (channels, depth, stride)."""
    shapes, c = [], first
    for channels, depth, stride in plan:
        shapes += [(c, channels, stride), *[(channels, channels, 1)] * (depth - 1)]
        c = channels
    return shapes


FBNET = ("k3_e1", "k3_e1_g2", "k3_e3", "k3_e6", "k5_e1", "k5_e1_g2", "k5_e3", "k5_e6", "skip")
PROXYLESS = ("k3_e3", "k3_e6", "k5_e3", "k5_e6", "k7_e3", "k7_e6")
OPTIONS = {"width": 0.25, "num_classes": 5}


def proxyless_ends() -> tuple[nn.Module, nn.Module]:
    first = InvertedResidual((8, 8, 1), 3, 1, expand=False, limit=6.0, affine=True, eps=1e-3)
    return Stem(8, 1, first, limit=6.0, eps=1e-3), Head(80, 1280, 5, limit=6.0, eps=1e-3)


CASES = {
    "fbnet": Case(
        supernet=lambda: FBNetSupernet(**OPTIONS, head_channels=24, image_size=8, stem="cifar"),
        network=lambda picks: FBNetNetwork(picks, **OPTIONS, head_channels=24, image_size=8, stem="cifar"),
        shapes=stages(8, (8, 1, 1), (8, 4, 1), (8, 4, 2), (16, 4, 2), (32, 4, 1), (48, 4, 2), (88, 1, 1)),
        candidates=[FBNET] * 22,
        block=fbnet_block,
        ends=lambda: (Stem(8, 1), Head(88, 24, 5)),
        picks=FBNET_A,
    ),
    "fbnet for large images": Case(
        supernet=lambda: FBNetSupernet(**OPTIONS, head_channels=24, image_size=33),
        network=lambda picks: FBNetNetwork(picks, **OPTIONS, head_channels=24, image_size=33),
        shapes=stages(8, (8, 1, 1), (8, 4, 2), (8, 4, 2), (16, 4, 2), (32, 4, 1), (48, 4, 2), (88, 1, 1)),
        candidates=[FBNET] * 22,
        block=fbnet_block,
        ends=lambda: (Stem(8, 2), Head(88, 24, 5)),
        picks=["skip"] * 22,
        size=33,
    ),
    "proxyless": Case(
        supernet=lambda: ProxylessSupernet(**OPTIONS, image_size=8, stem="cifar"),
        network=lambda picks: ProxylessNetwork(picks, **OPTIONS, image_size=8, stem="cifar"),
        shapes=stages(8, (8, 4, 1), (16, 4, 2), (24, 4, 2), (24, 4, 1), (48, 4, 2), (80, 1, 1)),
        candidates=[PROXYLESS if i % 4 == 0 else (*PROXYLESS, "skip") for i in range(21)],
        block=proxyless_block,
        ends=proxyless_ends,
        picks=PROXYLESS_MOBILE,
    ),
    "nasbenchmacro": Case(
        supernet=lambda: NASBenchMacroSupernet(channels=4, num_classes=5, image_size=9),
        network=lambda picks: NASBenchMacroNetwork("".join(picks), channels=4, num_classes=5, image_size=9),
        shapes=stages(4, (8, 2, 2), (16, 3, 2), (32, 3, 2)),
        candidates=["012"] * 8,
        block=macro_block,
        ends=lambda: (Stem(4, 1), Head(32, 1280, 5)),
        picks="20012010",
        size=9,
    ),
}
cases = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])


def pair(ours: nn.Module, textbook: nn.Module) -> Rename:
    """Give both the same random weights; tensors correspond in order."""
    ours.double()
    randomise(ours)
    textbook.double()
    names = dict(zip(textbook.state_dict(), ours.state_dict(), strict=True))
    copy_weights(ours, textbook, names.__getitem__)
    return names.__getitem__


def random_rows(case: Case) -> list[Tensor]:
    return [random_weights(1, len(names), seed) for seed, names in enumerate(case.candidates)]


def as_arch(supernet: ChainSupernet, rows: Sequence[Tensor]) -> dict[str, Tensor]:
    """Edge weights of all choices from those of the layers."""
    left, arch = list(rows), {}
    for choice in supernet.space.choices:
        arch[choice.name], left = torch.cat(left[: choice.rows]), left[choice.rows :]
    return arch


@cases
def test_a_supernet_equals_the_textbook_network_under_random_edge_weights(case: Case) -> None:
    ours, textbook = case.supernet(), case.search_chain()
    rename, rows = pair(ours, textbook), random_rows(case)
    assert_same_behaviour(
        ours,
        textbook,
        rename,
        lambda x: ours(x, as_arch(ours, rows)),
        lambda x: textbook(x, [row[0] for row in rows]),
        tuple(rows),
        size=case.size,
    )


@cases
def test_a_network_equals_the_textbook_network(case: Case) -> None:
    ours, textbook = case.network(case.picks), case.derived_chain()
    rename = pair(ours, textbook)
    assert parameters(ours) == parameters(textbook)
    assert_same_behaviour(ours, textbook, rename, ours, textbook, size=case.size)


@pytest.mark.parametrize("name", ["fbnet", "nasbenchmacro"])
def test_every_candidate_has_exactly_the_textbook_number_of_parameters(name: str) -> None:
    case = CASES[name]
    for candidate in case.candidates[0]:
        picks = [candidate] * len(case.shapes)
        blocks = [case.block(candidate, shape, affine=True) for shape in case.shapes]
        assert parameters(case.network(picks)) == parameters(DerivedChain(*case.ends(), blocks))


def blocks_of(network: nn.Module) -> list[InvertedResidual]:
    return [m for m in network.modules() if isinstance(m, InvertedResidual)]


def forget_the_shortcut(network: nn.Module) -> None:
    for block in blocks_of(network):
        block.residual = False


def forget_the_shuffle(network: nn.Module) -> None:
    for block in blocks_of(network):
        block.shuffled = False


def shuffle_the_other_way(network: nn.Module) -> None:
    for block in blocks_of(network):
        block.groups = block.conv3.in_channels // block.groups


def exchange_limits(network: nn.Module) -> None:
    """ReLU for ReLU6 and the other way round."""
    for block in blocks_of(network):
        block.limit = 6.0 if block.limit > 6 else float("inf")


def exchange_relu_of_skips(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, Pass):
            module.relu = not module.relu


def usual_epsilon(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("fbnet", forget_the_shortcut),
        ("fbnet", forget_the_shuffle),
        ("fbnet", shuffle_the_other_way),
        ("fbnet", exchange_relu_of_skips),
        ("proxyless", forget_the_shortcut),
        ("proxyless", exchange_limits),
        ("proxyless", usual_epsilon),
        ("nasbenchmacro", forget_the_shortcut),
        ("nasbenchmacro", exchange_relu_of_skips),
    ],
)
def test_a_wrong_network_fails_the_comparison(name: str, spoil: Callable[[nn.Module], None]) -> None:
    case = CASES[name]
    ours, textbook = case.supernet(), case.search_chain()
    pair(ours, textbook)
    rows, x = random_rows(case), random_input(case.size)
    spoil(textbook)
    assert largest_difference(ours(x, as_arch(ours, rows)), textbook(x, [row[0] for row in rows])) > 1e-3


@cases
def test_wrong_edge_weights_fail_the_comparison(case: Case) -> None:
    ours, textbook = case.supernet(), case.search_chain()
    pair(ours, textbook)
    rows, x = random_rows(case), random_input(case.size)
    logits = ours(x, as_arch(ours, rows))
    for wrong in ([row.flip(1) for row in rows], [*rows[:1], rows[2], rows[1], *rows[3:]]):
        assert largest_difference(logits, textbook(x, [row[0] for row in wrong])) > 1e-3
