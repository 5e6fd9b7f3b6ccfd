"""PPO, with which NASNet was found (Zoph et al., CVPR 2018, arXiv:1707.07012, appendix A; arXiv:1707.06347)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from oneshot._typing import Unpack
from oneshot.discrete.protocol import Scalar
from oneshot.policy.controller import ControllerSettings
from oneshot.supernets.decisions import Decisions
from oneshot.supernets.space import SearchSpace

from .policy import PolicyOptions, PolicySearch, RewardKind

PAPER = ControllerSettings(hidden=100, layers=1, init=0.1)
# Chosen on the CIFAR-10 accuracies of NATS-Bench, 150 evaluations, seeds 1000 to 1039, which no report uses.
SMALL: PolicyOptions = {
    "lr": 0.01,
    "batch": 10,
    "entropy": 0.02,
    "rewards": "rank",
    "controller": replace(PAPER, hidden=35),
}


def clipped_loss(
    log_probs: Tensor,
    drawn: Tensor,
    entropies: Tensor,
    advantages: Tensor,
    *,
    clip: float = 0.2,
    entropy: float = 0.0,
) -> Tensor:
    r"""The loss of PPO (arXiv:1707.06347, equation 7), with a ratio for every decision, and a bonus for entropy.

    .. math:: -\frac{1}{m} \sum_k \sum_t \Big( \min(r_{kt} A_k, \mathrm{clip}(r_{kt}, 1 \pm \epsilon) A_k)
        + \beta H_{kt} \Big), \quad r_{kt} = \frac{\pi(a_{kt} | a_{k,<t})}{\pi_{old}(a_{kt} | a_{k,<t})}

    One ratio for a whole architecture of tens of decisions would leave the interval after the first step.

    Args:
        log_probs: ``[N, D]``, differentiable.
        drawn: The same when the architectures were drawn, ``[N, D]``.
        entropies: ``[N, D]``, differentiable.
        advantages: ``[N]``.
        clip: Epsilon.
        entropy: Beta.

    Returns:
        Scalar.
    """
    ratios, gains = (log_probs - drawn).exp(), advantages[:, None]
    kept = (ratios * gains).minimum(ratios.clamp(1 - clip, 1 + clip) * gains)
    return -kept.sum(1).mean() - entropy * entropies.sum(1).mean()


def standardised(advantages: Tensor) -> Tensor:
    """``[N]`` of mean 0 and standard deviation 1; zeros where all are equal."""
    centred = advantages - advantages.mean()
    std = centred.square().mean().sqrt()
    return centred / std if std > 1e-8 else centred.zero_()


class UnscaledPPOOptions(PolicyOptions, total=False):
    """Options of :class:`PPO` but ``scalar``, which MnasNet sets itself."""

    passes: int
    clip: float


class PPOOptions(UnscaledPPOOptions, total=False):
    """Of :class:`PPO`."""

    scalar: Scalar | None


class PPO(PolicySearch):
    """Proximal policy optimisation of an LSTM that writes architectures.

    Defaults are those of the NASNet search: one layer of 100 units, parameters in +-0.1, Adam with 0.00035, updates of
    20 architectures, entropy 1e-5, a baseline that decays by 0.95. It took 20,000 networks; for budgets below a few
    thousand there is :meth:`small`. The paper names neither the clipping, which is 0.2 here, nor the passes over a
    batch, 5 here. Advantages are normalised in every batch, so the scale of rewards does not matter.

    Samples in flight while the policy moves need no correction but the ratio: log-probabilities are kept from when they
    were drawn.

    Args:
        space: The space to search.
        seed: Seed of all random choices.
        scalar: See :class:`~oneshot.discrete.SearchStrategy`.
        decisions: See :class:`~.policy.PolicySearch`, here and for all that follow but ``clip``.
        controller: Network of the policy.
        lr: Learning rate of the controller.
        batch: Samples of an update.
        passes: Steps over them.
        clip: How far the ratio of a decision may move within an update.
        entropy: Weight of the entropy.
        baseline: Decay of the average of previous rewards.
        rewards: ``"scaled"`` or ``"rank"``.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        scalar: Scalar | None = None,
        decisions: Decisions | None = None,
        controller: ControllerSettings = PAPER,
        lr: float = 3.5e-4,
        batch: int = 20,
        passes: int = 5,
        clip: float = 0.2,
        entropy: float = 1e-5,
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
            passes=passes,
            entropy=entropy,
            baseline=baseline,
            rewards=rewards,
        )
        if not 0 < clip < 1:
            raise ValueError(f"clip, how far a ratio may be from 1, must be between 0 and 1; got {clip}.")
        self.clip = clip

    @classmethod
    def small(cls, space: SearchSpace, **kwargs: Unpack[PPOOptions]) -> PPO:
        """The strategy with :data:`SMALL`: settings for budgets from 100 to a few thousand, chosen by measurement.

        Args:
            space: The space to search.
            **kwargs: See the class.
        """
        settings: PPOOptions = {**SMALL, **kwargs}
        return cls(space, **settings)

    def loss_of(self, log_probs: Tensor, entropies: Tensor, advantages: Tensor, drawn: Tensor, stale: Tensor) -> Tensor:
        gains = standardised(advantages)
        return clipped_loss(log_probs, drawn, entropies, gains, clip=self.clip, entropy=self.entropy)
