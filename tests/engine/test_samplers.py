"""Samplers draw from the distributions of their papers, with the papers' gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from oneshot.engine import BilevelSearch
from oneshot.engine.samplers import (
    GumbelSoftmaxSampler,
    LinearTemperature,
    ReinMaxSampler,
    StraightThroughSampler,
    gumbel_like,
    reinmax,
    straight_through,
)
from oneshot.methods.fbnet import ExponentialGumbelSampler
from oneshot.supernets import NASBench201Supernet
from oneshot.supernets.base import frozen_batch_norm
from oneshot.testing import MethodContract
from oneshot.testing.methods import Method

ALPHA = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]], dtype=torch.float64)


def test_gumbel_noise_has_the_mean_and_variance_of_its_distribution() -> None:
    noise = gumbel_like(torch.empty(400_000, dtype=torch.float64))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.02)


def test_the_largest_entry_of_a_sample_is_drawn_from_the_softmax() -> None:
    """The Gumbel-max trick, at any temperature."""
    sampler = StraightThroughSampler(3.0, 3.0)
    mean = torch.stack([sampler({"a": ALPHA})["a"] for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, ALPHA.softmax(-1), rtol=0, atol=0.03)
    assert not torch.allclose(mean, (ALPHA / 3).softmax(-1), rtol=0, atol=0.03)  # noise must not be cooled alone


def concrete_by_hand(alpha: np.ndarray, noise: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """SNAS, equation 5, and the Jacobian of a row with respect to its alphas, in float64."""
    scores = (alpha - np.log(np.exp(alpha).sum()) + noise) / tau
    z = np.exp(scores) / np.exp(scores).sum()
    return z, (np.diag(z) - np.outer(z, z)) / tau


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_a_sample_and_its_gradient_are_those_of_the_concrete_distribution(tau: float) -> None:
    sampler, alpha = GumbelSoftmaxSampler(tau, tau), ALPHA.clone().requires_grad_()
    torch.manual_seed(3)
    noise = gumbel_like(ALPHA).numpy()
    torch.manual_seed(3)
    z = sampler({"a": alpha})["a"]
    probe = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((z * probe).sum(), alpha)
    for row in range(2):
        exact, jacobian = concrete_by_hand(ALPHA[row].numpy(), noise[row], tau)
        np.testing.assert_allclose(z[row].detach().numpy(), exact, rtol=1e-12)
        np.testing.assert_allclose(gradient[row].numpy(), jacobian @ probe[row].numpy(), rtol=1e-9)
        uncooled = concrete_by_hand(ALPHA[row].numpy(), noise[row], 1.0)[0]
        assert not np.allclose(z[row].detach().numpy(), uncooled, rtol=1e-2)


def test_rounding_is_exact_and_keeps_the_gradient() -> None:
    p = ALPHA.softmax(-1).requires_grad_()
    h = straight_through(p)
    assert h.tolist() == [[0, 1, 0], [1, 0, 0]]  # exactly: what is zero does not run
    probe = torch.randn_like(h)
    assert torch.equal(torch.autograd.grad((h * probe).sum(), p)[0], probe)


def test_temperatures_fall_in_a_line_from_the_first_epoch_to_the_last() -> None:
    sampler = GumbelSoftmaxSampler(10.0, 0.1)
    temperatures = []
    for epoch in range(4):
        sampler.schedule(epoch, 4)
        temperatures.append(sampler.temperature.item())
    assert temperatures == pytest.approx([10.0, 6.7, 3.4, 0.1])
    sampler.schedule(0, 1)
    assert sampler.temperature == 10
    assert "temperature" in sampler.state_dict()


def test_fbnets_temperature_falls_exponentially() -> None:
    sampler = ExponentialGumbelSampler(5.0, 0.045)
    sampler.schedule(0, 90)
    assert sampler.temperature == 5
    sampler.schedule(20, 90)
    assert sampler.temperature.item() == pytest.approx(5 * math.exp(-0.9))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e-40, 1e-30, 1e39])
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
@pytest.mark.parametrize("kind", [GumbelSoftmaxSampler, StraightThroughSampler])
def test_a_temperature_that_a_softmax_cannot_stand_is_refused(
    kind: type[LinearTemperature], last: bool, bad: float
) -> None:
    with pytest.raises(
        ValueError, match=r"Temperatures must be from 1e-20 to 1e\+20; got .* Beyond these a softmax is NaN"
    ):
        kind(*((1.0, bad) if last else (bad, 1.0)))
    with pytest.raises(ValueError, match="Temperatures must be from .* got|a temperature falls must be finite"):
        ExponentialGumbelSampler(bad, 0.045)


def test_the_limits_of_temperatures_are_far_from_where_softmaxes_fail() -> None:
    for temperature in (1e-20, 1e20):
        sampler = GumbelSoftmaxSampler(temperature, temperature)
        alpha = (30 * torch.randn(50, 4)).requires_grad_()
        weights = sampler({"edge": alpha})["edge"]
        weights.square().sum().backward()
        assert torch.isfinite(weights).all()
        assert alpha.grad is not None and torch.isfinite(alpha.grad).all()
    assert not torch.isfinite((alpha.detach() / torch.tensor(1e-40)).softmax(-1)).all()


@pytest.mark.parametrize(("rate", "epochs"), [(0.045, 2000), (5.0, 90), (-5.0, 90), (1e9, 2)])
def test_a_schedule_that_ends_where_softmaxes_fail_is_refused_at_its_beginning(rate: float, epochs: int) -> None:
    sampler = ExponentialGumbelSampler(5.0, rate)

    with pytest.raises(ValueError, match=f"of epoch {epochs} is .*, and a softmax is NaN. .* or fewer epochs"):
        sampler.schedule(0, epochs)
    ExponentialGumbelSampler(5.0, 0.045).schedule(0, 400)  # as long as one may want to search
    with pytest.raises(ValueError, match="must be finite; got nan. 0 keeps it"):
        ExponentialGumbelSampler(5.0, math.nan)


# ReinMax.


def reinmax_gradient_by_hand(alpha: np.ndarray, k: int, g: np.ndarray, tau: float) -> np.ndarray:
    """arXiv:2304.08612, algorithm 2, by Jacobians of the softmax, in float64."""

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(x - x.max()) / np.exp(x - x.max()).sum())

    def jacobian(p: np.ndarray) -> np.ndarray:
        return np.diag(p) - np.outer(p, p)

    middle = (np.eye(len(alpha))[k] + softmax(alpha / tau)) / 2
    return g @ (2 * jacobian(middle) - jacobian(softmax(alpha)) / 2)


@pytest.mark.parametrize("tau", [1.0, 1.5])
@pytest.mark.parametrize("k", [0, 2])
def test_the_gradient_of_a_draw_is_that_of_reinmax(k: int, tau: float) -> None:
    alpha, drawn = ALPHA[:1].clone().requires_grad_(), torch.eye(3, dtype=torch.float64)[k : k + 1]
    weights = reinmax(drawn, alpha, tau)
    assert torch.equal(weights, drawn)  # exactly: what is zero need not run
    g = torch.tensor([0.7, -2.0, 0.4], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights[0] * g).sum(), alpha)
    exact = reinmax_gradient_by_hand(ALPHA[0].numpy(), k, g.numpy(), tau)
    np.testing.assert_allclose(gradient[0].numpy(), exact, rtol=1e-10)
    other = reinmax_gradient_by_hand(ALPHA[0].numpy(), k, g.numpy(), 2.5 - tau)
    assert not np.allclose(gradient[0].numpy(), other, rtol=1e-2)  # tau matters


def test_in_the_mean_over_draws_reinmax_is_exact_for_losses_of_second_degree_and_straight_through_is_not() -> None:
    torch.manual_seed(0)
    matrix, alpha = torch.randn(3, 3, dtype=torch.float64), ALPHA[:1].clone().requires_grad_()

    def loss(d: torch.Tensor) -> torch.Tensor:
        return d[0] @ matrix @ d[0] + d[0] @ matrix[0]

    draws = torch.eye(3, dtype=torch.float64)[:, None]
    (exact,) = torch.autograd.grad(sum(p * loss(d) for p, d in zip(alpha.softmax(-1)[0], draws, strict=True)), alpha)

    def mean(weights: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        gradients = [torch.autograd.grad(loss(weights(d)), alpha)[0] for d in draws]
        return sum(p * g for p, g in zip(alpha.detach().softmax(-1)[0], gradients, strict=True))

    torch.testing.assert_close(mean(lambda d: reinmax(d, alpha)), exact, rtol=1e-10, atol=1e-12)
    euler = mean(lambda d: d + alpha.softmax(-1) - alpha.softmax(-1).detach())
    assert not torch.allclose(euler, exact, rtol=1e-2)


def test_reinmax_draws_from_the_softmax_at_any_temperature() -> None:
    sampler = ReinMaxSampler(3.0)
    mean = torch.stack([sampler({"a": ALPHA})["a"] for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, ALPHA.softmax(-1), rtol=0, atol=0.03)
    assert torch.equal(sampler.probabilities({"a": ALPHA})["a"], ALPHA.softmax(-1))


def test_reinmax_reads_the_outputs_of_all_candidates_for_the_alphas_and_runs_one_for_the_weights() -> None:
    """A candidate that was not drawn has the gradient of what it would have added."""
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8).double()
    search = BilevelSearch(supernet, ReinMaxSampler()).double()
    x, drawn = torch.randn(2, 1, 8, 8, dtype=torch.float64), supernet.one_hot(supernet.space.sample(0))["cell"]
    alphas_step, weights_step = drawn.clone().requires_grad_(), drawn.clone()
    with frozen_batch_norm(supernet):
        out, dense = search.run(x, {"cell": alphas_step}), supernet(x, {"cell": alphas_step})
        torch.testing.assert_close(out, dense)
        torch.testing.assert_close(search.run(x, {"cell": weights_step}), dense)
    probe = torch.randn_like(out)
    ours, exact = (torch.autograd.grad((y * probe).sum(), alphas_step)[0] for y in (out, dense))
    torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-10)
    assert (ours[drawn == 0] != 0).any()
    assert all(len(row) == 5 for row in search._own(alphas_step).active)
    assert all(len(row) == 1 for row in search._own(weights_step).active)


class TestReinMax(MethodContract):
    """Eight epochs with weights that learn fast. A draw that has learned the task has next to no gradient, one that
    cannot has a large and noisy one; so what is found early may be lost again in a search of twice the length."""

    epochs = 8

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: BilevelSearch(supernet, ReinMaxSampler(), arch_lr=0.1, weight_lr=0.1)


@pytest.mark.parametrize("bad", [0.0, 0.5, -1.0, math.nan, math.inf])
def test_a_temperature_below_1_is_refused_by_reinmax(bad: float) -> None:
    with pytest.raises(ValueError, match=r"temperature of ReinMax must be from 1 to 1e\+20; got .*StraightThrough"):
        ReinMaxSampler(bad)
