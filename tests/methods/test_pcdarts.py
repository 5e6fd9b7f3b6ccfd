"""PC-DARTS: partial channels, edge normalisation, waiting alphas, derivation by the product (arXiv:1907.05737)."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.engine.samplers import EdgeNormalization, SoftmaxSampler, StraightThroughSampler
from oneshot.methods.pcdarts import PCDARTS
from oneshot.supernets import DARTSSupernet, NASBench201Supernet, darts_space, reduced_space
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.mixed_op import PartialMixedOp, Path
from oneshot.supernets.ops import make_op
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import Method


class TestPCDARTS(MethodContract):
    planted = MappingProxyType({"edges": 2, "partial_channels": 2})

    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        torch.manual_seed(0)
        shape = {"num_classes": 3, "in_channels": 1, "image_size": 8}
        return NASBench201Supernet(channels=4, cells_per_stage=1, partial_channels=2, **shape)

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: PCDARTS(supernet, arch_lr=0.1, arch_warmup_epochs=0)


NAMES = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")


def textbook(
    ops: Sequence[nn.Module],
    x: Tensor,
    weights: Tensor,
    k: int,
    stride: int,
    *,
    shuffle: bool = True,
    edge: float = 1.0,
) -> Tensor:
    """Equation 1, from the paper: sampled channels through the candidates, the others past them, then a shuffle.

    All of it has the weight of the edge (equation 2).
    """
    c = x.shape[1]
    sampled, masked = x[:, : c // k], x[:, c // k :]
    mixed = sum(w * op(sampled) for w, op in zip(weights, ops, strict=True))
    assert isinstance(mixed, Tensor)
    if stride == 2:
        masked = F.max_pool2d(masked, 2, 2)
    out = torch.cat([edge * mixed, edge * masked], dim=1)
    if not shuffle:
        return out
    order = [part * (c // k) + i for i in range(c // k) for part in range(k)]  # written out channel by channel
    return out[:, order]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [2, 4])
def test_a_partial_mixture_is_the_papers(stride: int, k: int) -> None:
    ops = [make_op(name, 8 // k, stride, affine=False, pool_bn=True).double() for name in NAMES]
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, dtype=torch.float64).softmax(0).requires_grad_()
    ours = PartialMixedOp(ops, parts=k, stride=stride)(x, weights)
    exact = textbook(ops, x, weights, k, stride)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    probe = torch.randn_like(exact)
    for a, b in zip(*(torch.autograd.grad((y * probe).sum(), [x]) for y in (ours, exact)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(ours, textbook(ops, x, weights, k, stride, shuffle=False), rtol=1e-2)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_channels_that_pass_by_have_the_weight_of_the_edge_too(stride: int) -> None:
    ops = [make_op(name, 4, stride, affine=False, pool_bn=True).double() for name in NAMES]
    x, weights = torch.randn(2, 8, 6, 6, dtype=torch.float64), torch.randn(4, dtype=torch.float64).softmax(0)
    ours = PartialMixedOp(ops, parts=2, stride=stride)(x, 0.3 * weights)
    torch.testing.assert_close(ours, textbook(ops, x, weights, 2, stride, edge=0.3), rtol=1e-12, atol=1e-12)
    unweighted = textbook(ops, x, weights, 2, stride)
    assert not torch.allclose(ours, unweighted, rtol=1e-2)
    assert not torch.allclose(ours[:, 1::2], unweighted[:, 1::2], rtol=1e-2)  # these passed by


def test_the_shuffle_brings_other_channels_to_the_candidates() -> None:
    mixed, x = PartialMixedOp([make_op("avg_pool_3x3", 2, 1, affine=False)], parts=4, stride=1), torch.randn(1, 8, 4, 4)
    y = x
    for _ in range(3):  # cells one after the other, each with candidates for two of eight channels
        y = mixed(y, torch.ones(1))
    met = [c for c in range(8) if not any(torch.equal(channel, x[0, c]) for channel in y[0])]
    assert len(met) > 2  # without the shuffle it would be the same two each time


def incoming_softmax(betas: np.ndarray, slices: Sequence[tuple[int, int]]) -> np.ndarray:
    weights = np.ones_like(betas)
    for first, last in slices:
        exp = np.exp(betas[first:last])
        weights[first:last] = exp / exp.sum()
    return weights


RIGHT = ((0, 2), (2, 5), (5, 9), (9, 14))
OVERLAPPING = ((0, 2), (2, 5), (3, 7), (4, 9))  # aw_nas, reference section 1


def test_edges_are_weighted_against_those_that_enter_the_same_node() -> None:
    sampler = EdgeNormalization(SoftmaxSampler(), darts_space(), std=1.0).double()
    edges = sampler.edges()
    betas = sampler.betas.detach().numpy()
    for kind, part in (("normal", betas[:14]), ("reduce", betas[14:])):
        ours = edges[kind].detach().numpy()
        np.testing.assert_allclose(ours, incoming_softmax(part, RIGHT), rtol=1e-12)
        assert not np.allclose(ours, incoming_softmax(part, OVERLAPPING), rtol=1e-2)


def test_a_space_with_a_choice_per_edge_is_weighted_alike() -> None:
    whole, single = (
        EdgeNormalization(SoftmaxSampler(), space, std=1.0) for space in (darts_space(), reduced_space("s1"))
    )
    single.betas.data.copy_(whole.betas.data)
    torch.testing.assert_close(torch.cat(list(single.edges().values())), torch.cat(list(whole.edges().values())))


def test_betas_have_the_gradient_of_the_softmax_and_not_none() -> None:
    """NASLib detaches them (reference, section 1)."""
    sampler = EdgeNormalization(SoftmaxSampler(), darts_space(), std=1.0).double()
    alphas = {name: torch.randn(14, 8, dtype=torch.float64) for name in ("normal", "reduce")}
    probe = {name: torch.randn(14, 8, dtype=torch.float64) for name in alphas}
    (gradient,) = torch.autograd.grad(
        torch.stack([(w * probe[n]).sum() for n, w in sampler(alphas).items()]).sum(), sampler.betas
    )
    exact = []
    for half, name in enumerate(("normal", "reduce")):
        value = (alphas[name].softmax(-1) * probe[name]).sum(-1).numpy()  # d output / d edge weight
        p = incoming_softmax(sampler.betas.detach().numpy()[14 * half : 14 * half + 14], RIGHT)
        for first, last in RIGHT:
            mean = (p[first:last] * value[first:last]).sum()
            exact.append(p[first:last] * (value[first:last] - mean))
    np.testing.assert_allclose(gradient.numpy(), np.concatenate(exact), rtol=1e-10)
    assert gradient.abs().max() > 1e-3


def test_the_architecture_is_derived_from_the_product_of_both_weights() -> None:
    search = PCDARTS(DARTSSupernet(channels=4, cells=3, image_size=8, partial_channels=2))
    space = search.supernet.space
    sampler = search.sampler
    assert isinstance(sampler, EdgeNormalization)
    conv = space["normal"].candidates.index("sep_conv_3x3")
    for alpha in search.alphas.values():
        alpha.data.zero_()
        alpha.data[:, conv] = 1.0
        alpha.data[9:11, conv] = 1.1  # the alphas alone would keep the first two edges of the last node
    assert {e for e in range(9, 14) if search.derive()["normal"][e] != "none"} == {9, 10}
    sampler.betas.data.zero_()
    sampler.betas.data[[12, 13]] = 1.0
    assert {e for e in range(9, 14) if search.derive()["normal"][e] != "none"} == {12, 13}


def test_a_search_begins_with_edges_that_are_equal() -> None:
    """The authors' betas are 1e-3 times normal numbers; large ones would have decided between edges before the data."""
    search = PCDARTS(DARTSSupernet(channels=4, cells=3, image_size=8, partial_channels=2))
    sampler = search.sampler
    assert isinstance(sampler, EdgeNormalization)
    assert 0 < sampler.betas.abs().max() < 1e-2
    edges = sampler.edges()["normal"].detach()
    for first, last in RIGHT:
        equal = torch.full((last - first,), 1 / (last - first))
        torch.testing.assert_close(edges[first:last], equal, rtol=1e-2, atol=0)


def test_the_alphas_and_betas_wait_for_the_weights() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8, partial_channels=2)
    search = PCDARTS(supernet, arch_warmup_epochs=1)
    before = [p.detach().clone() for p in search.arch_parameters()]
    assert len(before) == 2
    fit(search, random_streams(supernet), epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(before, search.arch_parameters(), strict=True))
    fit(search, random_streams(supernet), epochs=2)
    assert not any(torch.equal(a, b) for a, b in zip(before, search.arch_parameters(), strict=True))


def test_a_single_path_runs_on_part_of_the_channels_too() -> None:
    for supernet in (
        NASBench201Supernet(channels=8, cells_per_stage=1, image_size=8, partial_channels=4),
        DARTSSupernet(channels=8, cells=3, image_size=8, partial_channels=4),
    ):
        supernet.eval()
        arch, x = supernet.one_hot(supernet.space.sample(0)), torch.randn(2, 3, 8, 8)
        sparse = supernet(x, {name: Path(weights) for name, weights in arch.items()})
        torch.testing.assert_close(sparse, supernet(x, arch), rtol=1e-5, atol=1e-6)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="reads all. Build it with partial_channels=4"):
        PCDARTS(NASBench201Supernet(channels=4, cells_per_stage=1))
    with pytest.raises(ValueError, match="has none. Leave it out"):
        PCDARTS(PlantedSupernet(partial_channels=2))
    with pytest.raises(ValueError, match="StraightThroughSampler runs one candidate at a time"):
        EdgeNormalization(StraightThroughSampler(1.0, 1.0), darts_space())
    with pytest.raises(ValueError, match="must divide the channels, 6, into equal parts; got 4"):
        DARTSSupernet(channels=6, cells=3, image_size=8, partial_channels=4)
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, partial_channels=2)
    with pytest.raises(ValueError, match=r"no network can inherit them. Use extract\(config, inherit=False\)"):
        supernet.extract(supernet.space.sample(0))
