"""REINFORCE learns with the rewards and the settings of its paper."""

from __future__ import annotations

import math

import pytest
import torch

from oneshot.discrete import REINFORCE
from oneshot.discrete.strategies.policy import Sample
from oneshot.discrete.strategies.reinforce import cnn_reward, cubed_accuracy, perplexity_reward
from oneshot.policy.controller import ControllerSettings
from oneshot.supernets.space import Choice, SearchSpace

SPACE = SearchSpace("tiny", (Choice("a", (1, 2, 3)), Choice("b", ("x", "y"), rows=2)))


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
