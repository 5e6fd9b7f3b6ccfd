"""SNAS and FBNet take the gradients of their papers: one loss for both, or cross-entropy times expected latency."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oneshot.cost import AdditiveCost, CostPenalty
from oneshot.engine.samplers import gumbel_like
from oneshot.methods.fbnet import FBNet
from oneshot.methods.snas import SNAS
from oneshot.supernets import NASBench201Supernet
from oneshot.supernets.base import frozen_batch_norm
from oneshot.testing import fit, random_streams
from tests.reference.nasbench201_net import NASBench201SearchNet
from tests.reference.test_networks import copy_weights, rename_nasbench201

TABLE = torch.tensor([[0.0, 0.5, 12.0, 90.0, 7.0]] * 6, dtype=torch.float64) * torch.arange(1.0, 7.0)[:, None]
SHAPE = {"num_classes": 3, "in_channels": 1}


def supernet_and_textbook() -> tuple[NASBench201Supernet, NASBench201SearchNet]:
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8, **SHAPE).double()
    textbook = NASBench201SearchNet(channels=4, cells_per_stage=1, **SHAPE).double()
    copy_weights(supernet, textbook, rename_nasbench201(1))
    return supernet, textbook


def textbook_sample(alpha: Tensor, tau: float, seed: int) -> Tensor:
    torch.manual_seed(seed)
    scores = (alpha - alpha.exp().sum(-1, keepdim=True).log() + gumbel_like(alpha)) / tau
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


def fbnet_gradients(*, latency_has_gradient: bool = True, noise: bool = True) -> tuple[Tensor, Tensor]:
    """Of the alphas: ours, and by the textbook network with ``CE * 0.2 * log(LAT)^0.6``, LAT under the sample."""
    supernet, textbook = supernet_and_textbook()
    latency = AdditiveCost(supernet.space, {"cell": TABLE}, unit="us", fixed=30.0)
    search = FBNet(supernet, CostPenalty(latency, "fbnet"), temperature=2.0, alpha_std=0.5).double()
    x, y = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(1)
    with frozen_batch_norm(supernet):
        search.arch_backward({"weights": (x, y), "arch": (x, y)})
    alpha = search.alphas["cell"].detach().clone().requires_grad_()
    z = textbook_sample(alpha, 2.0, seed=1) if noise else alpha.softmax(-1)
    # NNI's penalty has no gradient, because its probabilities leave the graph (reference, section 1).
    lat = ((z if latency_has_gradient else z.detach()) * TABLE).sum() + 30
    (exact,) = torch.autograd.grad(F.cross_entropy(textbook(x, z), y) * 0.2 * lat.log() ** 0.6, alpha)
    assert search.alphas["cell"].grad is not None
    return search.alphas["cell"].grad, exact


def test_fbnets_gradient_is_that_of_cross_entropy_times_latency() -> None:
    torch.testing.assert_close(*fbnet_gradients(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("wrong", [{"latency_has_gradient": False}, {"noise": False}], ids=["nni", "no-noise"])
def test_the_comparison_tells_a_latency_without_gradient_and_weights_without_noise(wrong: dict[str, bool]) -> None:
    ours, other = fbnet_gradients(**wrong)
    assert not torch.allclose(ours, other, rtol=1e-2)


def test_fbnet_draws_networks_from_what_it_has_learned() -> None:
    search = FBNet(NASBench201Supernet(channels=4, cells_per_stage=1), CostPenalty("macs", "fbnet"), alpha_std=1.0)
    drawn = [search.sample(seed)["cell"][0] for seed in range(2000)]
    for candidate, p in zip(search.supernet.space["cell"].candidates, search.probabilities()["cell"][0], strict=True):
        assert drawn.count(candidate) / 2000 == pytest.approx(p.item(), abs=0.04)
    assert search.sample(3) == search.sample(3)


class Recording(SNAS):
    """Keeps the gradients of the first step, before clipping and before anything moves."""

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().manual_backward(loss, *args, **kwargs)
        self.seed = torch.initial_seed()  # which the step began with
        self.seen = [p.grad.clone() for p in [self.alphas["cell"], *self.supernet.parameters()] if p.grad is not None]


def snas_gradients(*, cost: float = 1e-3) -> tuple[list[Tensor], list[Tensor]]:
    """Of alphas and weights by one loss with the expected cost of the sample: ours, and the textbook's."""
    supernet, textbook = supernet_and_textbook()
    penalty = CostPenalty(AdditiveCost(supernet.space, {"cell": TABLE}, unit="us"), "additive", a=1e-3)
    search = Recording(supernet, penalty=penalty, temperature=(1.5, 1.5), drop_path=0.0, alpha_std=0.5).double()
    alpha = search.alphas["cell"].detach().clone().requires_grad_()
    streams = random_streams(supernet, batches=1, dtype=torch.float64)
    x, y = next(iter(streams["weights"]))
    fit(search, streams, epochs=1)
    z = textbook_sample(alpha, 1.5, seed=search.seed)
    loss = F.cross_entropy(textbook(x, z), y) + cost * (z * TABLE).sum()
    names = {rename_nasbench201(1)(name): p for name, p in textbook.named_parameters()}
    weights = [names[name] for name, _ in supernet.named_parameters()]
    return search.seen, list(torch.autograd.grad(loss, [alpha, *weights]))


def test_snas_takes_one_gradient_for_alphas_and_weights() -> None:
    ours, exact = snas_gradients()
    assert len(ours) == len(exact) > 10
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-12)


def test_the_comparison_tells_a_resource_term_that_is_missing() -> None:
    ours, other = snas_gradients(cost=0.0)
    assert not torch.allclose(ours[0], other[0], rtol=1e-2)
    torch.testing.assert_close(ours[1:], other[1:], rtol=1e-7, atol=1e-12)  # which only the alphas feel
