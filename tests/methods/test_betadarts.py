"""Beta-DARTS: the smooth maximum of the alphas, in the mean over rows, with a weight that rises (arXiv:2203.01665)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import oneshot
from oneshot.methods.betadarts import BetaDARTS, beta_decay
from oneshot.supernets import DARTSSupernet, NASBench201Supernet, darts_space
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import Method


class TestBetaDARTS(MethodContract):
    """At ten times the learning rate of the weights: the penalty rises to 37 within four epochs, and then all alphas of
    a row shrink together, so that the winner must have shown itself before."""

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: BetaDARTS(supernet, arch_lr=0.1, weight_lr=0.25)


ALPHAS = [
    torch.tensor([[0.3, -1.0, 2.0], [0.0, 0.5, 0.1]], dtype=torch.float64),
    torch.tensor([[1.5, -0.5], [4.0, -4.0]], dtype=torch.float64),
]


def by_hand(alphas: list[torch.Tensor], *, of_choices: bool = False) -> float:
    """The mean over rows of the logarithm of a sum of exponentials, number by number."""
    rows = [[math.log(math.fsum(math.exp(value) for value in row)) for row in alpha.tolist()] for alpha in alphas]
    if of_choices:
        return math.fsum(math.fsum(choice) / len(choice) for choice in rows)
    every = [value for choice in rows for value in choice]
    return math.fsum(every) / len(every)


def test_the_penalty_is_the_mean_over_all_rows_of_the_logarithm_of_the_sum_of_exponentials() -> None:
    value = beta_decay(ALPHAS).item()
    assert value == pytest.approx(by_hand(ALPHAS), rel=1e-12)
    assert value != pytest.approx(by_hand(ALPHAS, of_choices=True), rel=1e-2)  # a mean of each choice, summed
    assert value != pytest.approx(np.mean([a.square().sum().item() for a in ALPHAS]), rel=1e-2)  # a weight decay


def test_the_gradient_of_a_row_is_its_softmax_over_the_number_of_rows() -> None:
    alphas = [alpha.clone().requires_grad_() for alpha in ALPHAS]
    beta_decay(alphas).backward()
    for alpha in alphas:
        exp = np.exp(alpha.detach().numpy())
        assert alpha.grad is not None
        np.testing.assert_allclose(alpha.grad.numpy(), exp / exp.sum(1, keepdims=True) / 4, rtol=1e-12)


def test_it_does_not_overflow() -> None:
    assert beta_decay([torch.tensor([[1000.0, 0.0]])]).item() == 1000.0


def test_the_weight_rises_in_a_straight_line_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    search = BetaDARTS(PlantedSupernet(), beta_weight=80.0)
    loss, weights, added = torch.tensor(2.0), search.edge_weights(), []
    for epoch in range(4):
        monkeypatch.setattr(search, "schedule_position", lambda epoch=epoch: (epoch, 4))
        added.append((search.arch_loss(loss, weights) - loss).item())
    penalty = by_hand([alpha.detach().double() for alpha in search.alphas.values()])
    assert added == pytest.approx([0.0, 20 * penalty, 40 * penalty, 60 * penalty], rel=1e-5)


def test_the_alphas_of_a_fit_get_its_gradient_and_no_weight_decay() -> None:
    supernet = DARTSSupernet(darts_space(candidates=("skip_connect", "sep_conv_3x3"), steps=1), channels=4, cells=3)
    search = BetaDARTS(supernet)
    trainer = fit(search, random_streams(supernet, batches=1), epochs=2)
    assert trainer.optimizers[1].param_groups[0]["weight_decay"] == 0
    # Adam moves all alphas down: beside a penalty of 25 the cross-entropy is nothing
    assert all((alpha < 1e-3 * 4).all() for alpha in search.alphas.values())


def test_it_holds_the_edge_weights_together() -> None:
    """The same steps of plain DARTS make a row more decided."""
    spread = {}
    for name, method in (("darts", oneshot.DARTS), ("beta", BetaDARTS)):
        torch.manual_seed(0)
        supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
        search = method(supernet, arch_lr=0.1)
        fit(search, random_streams(supernet), epochs=4)
        spread[name] = search.probabilities()["cell"].std(-1).mean().item()
    assert spread["beta"] < 0.5 * spread["darts"]


@pytest.mark.parametrize("bad", [-1.0, math.nan])
def test_a_negative_weight_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=f"beta_weight must not be negative; got {bad}. 0 is off"):
        BetaDARTS(PlantedSupernet(), beta_weight=bad)
