"""PPO clips the ratio of every decision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from oneshot.discrete import PPO
from oneshot.discrete.strategies.ppo import clipped_loss, standardised
from oneshot.policy.loss import policy_gradient_loss
from oneshot.supernets.nasbench201 import NASBench201Space

RNG = np.random.default_rng(0)
NOW, DRAWN = -RNG.random((6, 5)), -RNG.random((6, 5))
ENTROPIES, GAINS = RNG.random((6, 5)), RNG.normal(size=6)


def reference(mistake: str | None = None) -> float:
    total = 0.0
    for k in range(6):
        ratios = [math.exp(NOW[k, t] - DRAWN[k, t]) for t in range(5)]
        if mistake == "one ratio for all":
            ratios = [math.prod(ratios)] * 5
        for t, ratio in enumerate(ratios):
            clipped = min(max(ratio, 0.8), 1.2)
            if mistake == "no clipping":
                clipped = ratio
            worst = min(ratio * GAINS[k], clipped * GAINS[k])
            if mistake == "clipped only":
                worst = clipped * GAINS[k]
            total -= (worst + 0.01 * ENTROPIES[k, t]) / 6
    return total / 5 if mistake == "mean over decisions" else total


def test_the_loss_is_that_of_the_paper_for_every_decision() -> None:
    arguments = [torch.from_numpy(x) for x in (NOW, DRAWN, ENTROPIES, GAINS)]
    ours = float(clipped_loss(*arguments, clip=0.2, entropy=0.01))
    assert ours == pytest.approx(reference(), rel=1e-12)
    for mistake in ("one ratio for all", "no clipping", "clipped only", "mean over decisions"):
        assert ours != pytest.approx(reference(mistake), rel=1e-2), mistake


def test_at_the_first_pass_the_gradient_is_that_of_reinforce() -> None:
    now = torch.from_numpy(NOW).requires_grad_()
    entropies, gains = torch.from_numpy(ENTROPIES), torch.from_numpy(GAINS)
    (ours,) = torch.autograd.grad(clipped_loss(now, now.detach(), entropies, gains), now)
    (theirs,) = torch.autograd.grad(policy_gradient_loss(now, entropies, gains), now)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_advantages_of_a_batch_have_mean_zero_and_deviation_one() -> None:
    scaled = standardised(torch.from_numpy(GAINS))
    assert np.allclose(scaled, (GAINS - GAINS.mean()) / GAINS.std(), rtol=1e-12)
    assert torch.equal(standardised(torch.full((4,), 0.1)), torch.zeros(4))


def test_an_update_takes_its_passes_and_keeps_the_log_probabilities_of_the_drawing() -> None:
    strategy, seen = PPO(NASBench201Space(), batch=4, passes=3, lr=0.1), []
    plain = strategy.loss_of

    def loss_of(*arguments: torch.Tensor) -> torch.Tensor:
        seen.append([x.detach().clone() for x in arguments])
        return plain(*arguments)

    strategy.loss_of = loss_of  # type: ignore[method-assign]
    from oneshot.discrete import Result

    for proposal in strategy.ask(4):
        strategy.tell(Result(proposal.number, (float(proposal.number),)))
    assert len(seen) == 3 and strategy.updates == 1
    torch.testing.assert_close(seen[0][0], seen[0][3], rtol=1e-5, atol=1e-6)  # nothing has moved yet
    assert all(torch.equal(now[3], seen[0][3]) for now in seen)
    assert not torch.allclose(seen[2][0], seen[2][3], rtol=1e-3)


def test_defaults_are_those_of_nasnet() -> None:
    strategy = PPO(NASBench201Space())
    assert (strategy.batch, strategy.clip, strategy.entropy, strategy.advantages.decay) == (20, 0.2, 1e-5, 0.95)
    assert strategy.controller.lstm.num_layers == 1 and strategy.controller.lstm.hidden_size == 100
    assert strategy.optimizer.param_groups[0]["lr"] == 3.5e-4
