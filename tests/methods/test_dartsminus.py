"""DARTS-: a skip connection beside the candidates, with a weight that falls, and no part of what is derived."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from oneshot.methods.dartsminus import DARTSMinus, add_skips
from oneshot.supernets import DARTSSupernet, FBNetSupernet, NASBench201Supernet, RecurrentSupernet, darts_space
from oneshot.supernets.base import frozen_batch_norm
from oneshot.supernets.mixed_op import MixedOp, Path
from oneshot.supernets.ops import FactorizedReduce
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import Method

OPERATIONS = ("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3")


class TestDARTSMinus(MethodContract):
    """With weights that learn four times as fast as usual: while its weight is large, the skip connection beside them
    drowns what a candidate is good for, and four epochs are few."""

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: DARTSMinus(supernet, arch_lr=0.1, weight_lr=0.1)


def darts(**options: Any) -> DARTSSupernet:
    torch.manual_seed(0)
    space = darts_space(candidates=OPERATIONS, steps=2)
    return DARTSSupernet(space, channels=4, cells=3, image_size=8, num_classes=3, in_channels=1, **options)


def edges(supernet: Any) -> list[MixedOp]:
    return [mixed for rows in supernet.mixed_ops().values() for row in rows for mixed in row]


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_an_edge_is_the_mixture_plus_beta_times_a_skip_connection_in_reduction_cells_too(beta: float) -> None:
    """A plain supernet says the same if the weight of its candidate is larger by beta, and that candidate's weights are
    those of the auxiliary one: in float64, also the gradients of the alphas."""
    plain = darts().double()
    search = DARTSMinus(copy.deepcopy(plain)).double()
    strided = 0
    for ours, theirs in zip(edges(search.supernet), edges(plain), strict=True):
        assert isinstance(ours.auxiliary, nn.Identity | FactorizedReduce)
        ours.auxiliary_weight.fill_(beta)
        if isinstance(ours.auxiliary, FactorizedReduce):
            strided += 1
            ours.auxiliary.load_state_dict(theirs.ops[1].state_dict())
    assert strided == 2 * 4  # two reduction cells; of five edges each the last reads a node of the cell
    x, y = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    alphas = {name: torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for name in ("normal", "reduce")}

    def gradients(supernet: Any, more: float) -> list[torch.Tensor]:
        shift = torch.tensor([0.0, more, 0.0, 0.0], dtype=torch.float64)
        weights = {name: alpha.softmax(-1) + shift for name, alpha in alphas.items()}
        with frozen_batch_norm(supernet):
            loss = nn.functional.cross_entropy(supernet(x, weights), y)
        return [loss, *torch.autograd.grad(loss, list(alphas.values()))]

    ours, exact = gradients(search.supernet, 0.0), gradients(plain, beta)
    torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-10)
    assert not torch.allclose(ours[0], gradients(plain, 0.0)[0], rtol=1e-3)
    for mixed in edges(search.supernet):  # not of reduction cells
        if isinstance(mixed.auxiliary, FactorizedReduce):
            mixed.auxiliary_weight.zero_()
    assert not torch.allclose(gradients(search.supernet, 0.0)[0], exact[0], rtol=1e-4)


def test_every_strided_edge_has_weights_of_its_own_which_are_trained() -> None:
    supernet = darts()
    search = DARTSMinus(supernet)
    own = [m.auxiliary for m in edges(supernet) if isinstance(m.auxiliary, FactorizedReduce)]
    candidates = {id(p) for m in edges(supernet) for p in m.ops.parameters()}
    parameters = [p for op in own for p in op.parameters()]
    assert len({id(p) for p in parameters}) == len(parameters) == 2 * len(own) > 0
    assert not candidates & {id(p) for p in parameters}
    before = [p.detach().clone() for p in parameters]
    fit(search, random_streams(supernet), epochs=1)
    assert not any(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


def test_it_is_no_candidate_and_not_in_what_is_derived() -> None:
    plain, search = darts().eval(), DARTSMinus(darts()).eval()
    supernet = search.supernet
    counts, theirs = supernet.candidate_parameters(), plain.candidate_parameters()
    assert all(torch.equal(counts[name], theirs[name]) for name in theirs)
    assert {n: a.shape for n, a in search.alphas.items()} == {"normal": (5, 4), "reduce": (5, 4)}
    x = torch.randn(2, 1, 8, 8)
    for seed in range(3):
        config = supernet.space.sample(seed)
        network = supernet.extract(config)
        assert sum(p.numel() for p in network.parameters()) == sum(
            p.numel() for p in plain.extract(config).parameters()
        )
        assert torch.equal(network(x), supernet.run_config(x, config))  # single paths run without it
    rows = {name: torch.rand(5, 4) for name in ("normal", "reduce")}
    dense = supernet(x, rows)
    assert not torch.allclose(dense, supernet(x, {name: Path(w) for name, w in rows.items()}), rtol=1e-2)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_its_weight_falls_from_1_towards_0(decay: Any) -> None:
    supernet, seen = PlantedSupernet(), list[float]()

    class Watched(DARTSMinus):
        def on_train_epoch_start(self) -> None:
            super().on_train_epoch_start()
            seen.append(edges(self.supernet)[0].auxiliary_weight.item())

    fit(Watched(supernet, decay=decay), random_streams(supernet, batches=1), epochs=4)
    cosine = [(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)]
    assert seen == pytest.approx(cosine if decay == "cosine" else [1.0, 0.75, 0.5, 0.25])


def test_an_average_of_the_weights_has_the_same_skip_connections() -> None:
    supernet = darts()
    search = DARTSMinus(supernet, ema_decay=0.9)
    fit(search, random_streams(supernet), epochs=2)
    ours, average = edges(search.supernet), edges(search.evaluation_supernet)
    assert search.evaluation_supernet is not search.supernet
    assert (
        [m.auxiliary_weight.item() for m in average] == [m.auxiliary_weight.item() for m in ours] == [0.5] * len(ours)
    )


def test_it_runs_on_parts_of_the_channels() -> None:
    supernet = darts(partial_channels=2)
    fit(DARTSMinus(supernet), random_streams(supernet), epochs=1)
    reduced = [m.auxiliary for m in edges(supernet) if isinstance(m.auxiliary, FactorizedReduce)]
    assert reduced and all(
        sum(p.shape[0] for p in op.parameters()) == p.shape[1] for op in reduced for p in op.parameters()
    )


def test_edges_that_change_the_channels_have_none_and_a_second_search_adds_no_more() -> None:
    supernet = FBNetSupernet(width=0.25, head_channels=8, stem="cifar", num_classes=3, image_size=8)
    add_skips(supernet)
    have = [m.auxiliary is not None for m in edges(supernet)]
    assert any(have) and not all(have)
    before = [m.auxiliary for m in edges(supernet)]
    add_skips(supernet)
    assert all(a is b for a, b in zip(before, (m.auxiliary for m in edges(supernet)), strict=True))


def test_recurrent_edges_have_highways_of_the_identity() -> None:
    """The same as a larger weight of the candidate ``identity``."""
    supernet = RecurrentSupernet(num_classes=12, size=6, window=5).double().eval()
    x, rows = torch.randint(12, (2, 5)), torch.rand(36, 5, dtype=torch.float64)
    position = supernet.space["recurrent"].candidates.index("identity")
    more = rows + 0.5 * torch.eye(5, dtype=torch.float64)[position]
    exact = supernet(x, {"recurrent": more})
    add_skips(supernet)
    for module in supernet.modules():
        if isinstance(module, MixedOp):
            module.auxiliary_weight.fill_(0.5)
    torch.testing.assert_close(supernet(x, {"recurrent": rows}), exact, rtol=1e-10, atol=1e-12)


def test_building_it_moves_neither_statistics_nor_modes() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    before = copy.deepcopy(supernet.state_dict())
    DARTSMinus(supernet)
    assert supernet.training and all(torch.equal(v, supernet.state_dict()[n]) for n, v in before.items())


class Widening(PlantedSupernet):
    """A supernet whose only edge doubles the channels."""

    def __init__(self) -> None:
        super().__init__(("nor_conv_1x1", "nor_conv_3x3"), channels=4)
        self.edges = nn.ModuleList([MixedOp([nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)])])
        self.head[-1] = nn.Linear(8, 2)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="decay must be 'cosine' or 'linear'; got 'slow'"):
        DARTSMinus(PlantedSupernet(), decay="slow")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="needs an edge that keeps its channels; all of Widening change them"):
        DARTSMinus(Widening())
