"""The policy gradient is that of the expected reward, by finite differences."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from oneshot.policy.controller import Controller, ControllerSettings
from oneshot.policy.loss import policy_gradient_loss
from oneshot.supernets.decisions import Decisions
from oneshot.supernets.space import Choice, SearchSpace

SPACE = SearchSpace("tiny", (Choice("a", (1, 2, 3)), Choice("b", ("x", "y"), rows=2)))
PICKS = torch.tensor(list(itertools.product(range(3), range(2), range(2))))
REWARDS = torch.from_numpy(np.random.default_rng(0).normal(size=12))


def make() -> Controller:
    return Controller(Decisions(SPACE), ControllerSettings(hidden=4, layers=1, init=1.0)).double()


def objective(controller: Controller, entropy: float) -> float:
    """Expected reward, and the entropy bonus of fixed architectures, each as likely as they are now."""
    with torch.no_grad():
        log_probs, entropies = controller.log_probs(PICKS)
        chances = log_probs.sum(1).exp()
        return float((chances * REWARDS).sum() + entropy * entropies.sum(1).mean())


def analytic(controller: Controller, entropy: float, mistake: str | None = None) -> list[Tensor]:
    """The gradient of REINFORCE where every architecture is a sample, weighted by how often it would be drawn."""
    log_probs, entropies = controller.log_probs(PICKS)
    often = len(PICKS) * log_probs.detach().sum(1).exp()
    if mistake == "mean of the log-probabilities":
        log_probs = log_probs.mean(1, keepdim=True)
    if mistake == "mean of the entropies":
        entropies = entropies.mean(1, keepdim=True)
    baseline = REWARDS * 0.5 if mistake == "baseline with the current sample" else 0.3
    loss = policy_gradient_loss(log_probs, entropies, REWARDS - baseline, entropy=entropy, ratios=often)
    return list(torch.autograd.grad(-loss, list(controller.parameters())))


def numeric(controller: Controller, entropy: float, step: float = 1e-6) -> list[Tensor]:
    gradients = []
    for parameter in controller.parameters():
        flat, gradient = parameter.data.view(-1), torch.zeros(parameter.numel(), dtype=torch.float64)
        for i in range(len(flat)):
            value = float(flat[i])
            sides = []
            for sign in (1, -1):
                flat[i] = value + sign * step
                sides.append(objective(controller, entropy))
            flat[i], gradient[i] = value, (sides[0] - sides[1]) / (2 * step)
        gradients.append(gradient.view_as(parameter))
    return gradients


def test_the_policy_gradient_is_that_of_the_expected_reward() -> None:
    """Over all architectures the baseline cancels, unless it depends on the sample."""
    controller, entropy = make(), 0.1
    exact = numeric(controller, entropy)
    for ours, theirs in zip(analytic(controller, entropy), exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    for mistake in ("mean of the log-probabilities", "mean of the entropies", "baseline with the current sample"):
        wrong = analytic(controller, entropy, mistake)
        assert not all(torch.allclose(a, b, rtol=1e-2, atol=1e-4) for a, b in zip(wrong, exact, strict=True)), mistake
