"""REINFORCE climbs the expected reward: its gradient is that of finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from oneshot.discrete import REINFORCE
from oneshot.discrete.strategies.policy import Sample
from oneshot.discrete.strategies.reinforce import cnn_reward, cubed_accuracy, perplexity_reward
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


def test_samples_of_an_older_policy_count_by_how_likely_they_are_now_but_at_most_once() -> None:
    strategy = REINFORCE(SPACE, entropy=0.0)
    now, drawn = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]]), torch.tensor([[-0.5, -0.5], [-2.0, -2.0]])
    gains = torch.tensor([1.0, 3.0])
    for stale, expected in (([False, False], (2 * 1 + 2 * 3) / 2), ([True, True], (2 * math.exp(-1) + 2 * 3) / 2)):
        loss = strategy.loss_of(now, torch.zeros(2, 2), gains, drawn, torch.tensor(stale))
        assert float(loss) == pytest.approx(expected)


def test_one_update_descends_the_loss_with_adam() -> None:
    strategy = REINFORCE(SPACE, batch=2, lr=0.01, controller=ControllerSettings(layers=1, hidden=4))
    theirs = REINFORCE(SPACE, batch=2, lr=0.01, controller=ControllerSettings(layers=1, hidden=4)).controller
    optimizer = torch.optim.Adam(theirs.parameters(), 0.01)
    picks, drawn = theirs.sample(torch.rand(2, 3, dtype=torch.float64))
    log_probs, _ = theirs.log_probs(picks)
    (-(torch.tensor([1.0, -2.0]) * log_probs.sum(1)).sum() / 2).backward()
    optimizer.step()
    strategy._update([Sample(p, q, 0) for p, q in zip(picks, drawn)], [1.0, -2.0])
    for a, b in zip(strategy.controller.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert strategy.updates == 1


def test_rewards_are_those_of_the_paper() -> None:
    assert cnn_reward([0.99, 0.5, 0.6, 0.8, 0.7, 0.1]) == pytest.approx(0.512)
    assert cubed_accuracy([-0.8]) == pytest.approx(-0.512)
    assert perplexity_reward([64.0]) == pytest.approx(-80 / 4096)
    assert perplexity_reward([60.0]) < perplexity_reward([64.0])  # smaller is better, in both


def test_defaults_are_those_of_the_paper() -> None:
    strategy = REINFORCE(SPACE)
    assert strategy.controller.lstm.num_layers == 2 and strategy.controller.lstm.hidden_size == 35
    assert strategy.optimizer.param_groups[0]["lr"] == 6e-4
    assert REINFORCE.small(SPACE, lr=0.5).optimizer.param_groups[0]["lr"] == 0.5
