"""REINFORCE: Neural Architecture Search with Reinforcement Learning (Zoph and Le, ICLR 2017, arXiv:1611.01578)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from oneshot._typing import Unpack
from oneshot.discrete.protocol import Scalar
from oneshot.policy.controller import ControllerSettings
from oneshot.policy.loss import policy_gradient_loss
from oneshot.supernets.decisions import Decisions
from oneshot.supernets.space import SearchSpace

from .policy import PolicyOptions, PolicySearch, RewardKind

PAPER = ControllerSettings()
# Chosen on the CIFAR-10 accuracies of NATS-Bench, 150 evaluations, seeds 1000 to 1039, which no report uses.
SMALL: PolicyOptions = {
    "lr": 0.01,
    "batch": 2,
    "entropy": 0.02,
    "rewards": "rank",
    "controller": replace(PAPER, layers=1),
}


def cnn_reward(accuracies: Sequence[float]) -> float:
    """Reward of a convolutional network: the best validation accuracy of the last 5 epochs, cubed (section 4.1).

    Args:
        accuracies: After every epoch, between 0 and 1 or in percent.

    Example:
        >>> cnn_reward([0.9, 0.1, 0.2, 0.5, 0.4, 0.3])
        0.125
    """
    return float(max(accuracies[-5:]) ** 3)


def cubed_accuracy(values: Sequence[float]) -> float:
    """Scalar of :func:`cnn_reward`: the first value is minus an accuracy, the best of the last 5 epochs."""
    return -cnn_reward([-values[0]])


def perplexity_reward(values: Sequence[float]) -> float:
    """Scalar of recurrent cells (section 4.2): minus 80 over the square of the perplexity, which is the first value."""
    return -80 / values[0] ** 2


class REINFORCEOptions(PolicyOptions, total=False):
    """Of :class:`REINFORCE`."""

    scalar: Scalar | None


class REINFORCE(PolicySearch):
    r"""An LSTM writes architectures; those that are better than the average become more likely.

    Defaults are the paper's for convolutional networks: two layers of 35 units, parameters in +-0.08, Adam with 0.0006.
    It drew 12,800 networks, in updates of 8; in some hundreds, these settings do not get away from random search. For
    budgets below a few thousand there is :meth:`small`.

    The paper's layers become two more every 1,600 samples; here their number stays that of the space. The recurrent
    cells of :class:`~oneshot.supernets.RecurrentSpace` are those of DARTS, not the paper's trees.

    The paper leaves open how fast the baseline forgets, and rewards are on the scale of accuracies; see
    :class:`~.policy.Advantages` for ours. Its rewards are :func:`cubed_accuracy` and :func:`perplexity_reward`, to be
    passed as ``scalar``.

    Samples in flight while the policy moves are not thrown away: they are weighted by how likely they are now in
    relation to when they were drawn, but at most by 1 (truncated importance sampling).

    Args:
        space: The space to search; the paper's convolutional networks are :class:`~.zoph_le.ZophLeSpace`.
        seed: Seed of all random choices.
        scalar: See :class:`~oneshot.discrete.SearchStrategy`.
        decisions: See :class:`~.policy.PolicySearch`, here and for all that follow.
        controller: Network of the policy.
        lr: Learning rate of the controller.
        batch: Samples of an update.
        entropy: Weight of the entropy.
        baseline: Decay of the average of previous rewards.
        rewards: ``"scaled"`` or ``"rank"``.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        scalar: Scalar | None = None,
        decisions: Decisions | None = None,
        controller: ControllerSettings = PAPER,
        lr: float = 6e-4,
        batch: int = 8,
        entropy: float = 0.0,
        baseline: float = 0.95,
        rewards: RewardKind = "scaled",
    ) -> None:
        super().__init__(
            space,
            seed=seed,
            scalar=scalar,
            decisions=decisions,
            controller=controller,
            lr=lr,
            batch=batch,
            passes=1,
            entropy=entropy,
            baseline=baseline,
            rewards=rewards,
        )

    @classmethod
    def small(cls, space: SearchSpace, **kwargs: Unpack[REINFORCEOptions]) -> REINFORCE:
        """The strategy with :data:`SMALL`: settings for budgets from 100 to a few thousand, chosen by measurement.

        Args:
            space: The space to search.
            **kwargs: See the class.
        """
        settings: REINFORCEOptions = {**SMALL, **kwargs}
        return cls(space, **settings)

    def loss_of(self, log_probs: Tensor, entropies: Tensor, advantages: Tensor, drawn: Tensor, stale: Tensor) -> Tensor:
        ratios = torch.where(stale, (log_probs.detach() - drawn).sum(1).exp().clamp_max(1), 1)
        return policy_gradient_loss(log_probs, entropies, advantages, entropy=self.entropy, ratios=ratios)
