"""Samplers draw from the distributions of their papers, with the papers' gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from oneshot.engine.samplers import (
    GumbelSoftmaxSampler,
    LinearTemperature,
    StraightThroughSampler,
    gumbel_like,
    straight_through,
)
from oneshot.methods.fbnet import ExponentialGumbelSampler

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
