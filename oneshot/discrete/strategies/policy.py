"""What REINFORCE and PPO share: samples of the policy, rewards from losses, updates."""

from __future__ import annotations

import bisect
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor

from oneshot.discrete.protocol import TRIES, Genes, Proposal, Result, Scalar, SearchStrategy
from oneshot.policy.controller import Controller, ControllerSettings
from oneshot.supernets.decisions import Decisions
from oneshot.supernets.space import SearchSpace

AT_ONCE = 16  # architectures that are drawn together: it takes as long as drawing one

RewardKind = Literal["scaled", "rank"]


@dataclass(frozen=True)
class Sample:
    """An architecture that the policy drew.

    Args:
        picks: ``[D]``.
        log_probs: Log-probabilities of the picks when they were drawn, ``[D]``.
        update: Number of updates of the policy by then.
    """

    picks: Tensor
    log_probs: Tensor
    update: int


class Advantages:
    """Advantages: how much better a loss is than the losses before it.

    The reward is minus the loss, divided by the standard deviation of all losses before it
    (``"scaled"``), or the share of them that it beats (``"rank"``; ours). Neither changes with the unit, so it does not
    matter whether accuracies are fractions or percent. From the reward, an exponential moving average of previous
    rewards is subtracted. The first sample has no previous ones, and an advantage of 0. A failed evaluation counts as
    the worst loss so far.

    Args:
        kind: ``"scaled"`` or ``"rank"``.
        decay: Decay of the average.

    Raises:
        ValueError: If the kind is unknown, or the decay is not in [0, 1).

    Example:
        >>> advantages = Advantages("rank", decay=0.5)
        >>> [advantages(loss) for loss in (3.0, 2.0, 2.5)]
        [0.0, 0.5, -0.25]
    """

    def __init__(self, kind: RewardKind = "scaled", *, decay: float = 0.95) -> None:
        if kind not in get_args(RewardKind):
            raise ValueError(f"Rewards must be 'scaled' or 'rank'; got {kind!r}.")
        if not 0 <= decay < 1:
            raise ValueError(f"The baseline must decay by a factor from 0 to below 1; got {decay}.")
        self.kind, self.decay = kind, decay
        self.baseline: float | None = None
        self._losses: list[float] = []  # sorted

    def __call__(self, loss: float) -> float:
        """Advantage of the next result.

        Args:
            loss: Smaller is better; infinite if the evaluation failed.
        """
        if np.isinf(loss) and not self._losses:
            return 0.0
        loss = self._losses[-1] if np.isinf(loss) else loss
        if self.kind == "rank":
            worse, no_better = (f(self._losses, loss) for f in (bisect.bisect_right, bisect.bisect_left))
            n = len(self._losses)
            reward, scale = (1 - (worse + no_better) / (2 * n) if n else 0.5), 1.0
        else:
            reward, scale = -loss, float(np.std(self._losses)) if self._losses else 0.0
        advantage = 0.0 if self.baseline is None or scale == 0 else (reward - self.baseline) / scale
        self.baseline = reward if self.baseline is None else self.decay * self.baseline + (1 - self.decay) * reward
        bisect.insort(self._losses, loss)
        return advantage


class PolicyOptions(TypedDict, total=False):
    """Options of :class:`~.ppo.PPO` and :class:`~.reinforce.REINFORCE` but ``scalar``; what they do is said there."""

    seed: int
    decisions: Decisions | None
    controller: ControllerSettings
    lr: float
    batch: int
    entropy: float
    baseline: float
    rewards: RewardKind


class PolicySearch(SearchStrategy):
    """A controller draws architectures, and every ``batch`` results move it. A method fills in :meth:`loss_of`.

    What was drawn before is dropped, and drawn again. After 50 draws that are not new, a random new architecture is
    proposed, from which the policy does not learn. So a policy that has converged looks at the surroundings of its
    mode, then everywhere.

    Args:
        space: The space to search.
        seed: Seed of all random choices.
        scalar: See :class:`~oneshot.discrete.SearchStrategy`.
        decisions: How architectures are written down; by default as the space says.
        controller: Network of the policy.
        lr: Learning rate of the controller (Adam).
        batch: Samples of an update.
        passes: Steps of the optimiser over them.
        entropy: Weight of the entropy of the policy, in nats.
        baseline: Decay of the average of previous rewards.
        rewards: See :class:`Advantages`.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        scalar: Scalar | None,
        decisions: Decisions | None,
        controller: ControllerSettings,
        lr: float,
        batch: int,
        passes: int,
        entropy: float,
        baseline: float,
        rewards: RewardKind,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if batch < 1 or passes < 1:
            raise ValueError(
                f"An update must have at least one sample and one pass; got batch={batch}, passes={passes}."
            )
        if not lr > 0 or entropy < 0:
            raise ValueError(f"lr must be above 0 and the weight of the entropy at least 0; got {lr} and {entropy}.")
        self.decisions = decisions or space.decisions()
        self.controller = Controller(self.decisions, controller, seed=seed)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr, fused=True)
        self.batch, self.passes, self.entropy = batch, passes, entropy
        self.advantages, self.updates = Advantages(rewards, decay=baseline), 0
        self._drawn: deque[tuple[Genes, Sample]] = deque()
        self._in_flight: dict[int, Sample] = {}
        self._collected: list[tuple[Sample, float]] = []

    # What a method supplies.

    @abstractmethod
    def loss_of(self, log_probs: Tensor, entropies: Tensor, advantages: Tensor, drawn: Tensor, stale: Tensor) -> Tensor:
        """The loss of the controller, scalar.

        Args:
            log_probs: Log-probabilities of all decisions now, ``[N, D]``.
            entropies: Entropies of their distributions, ``[N, D]``.
            advantages: ``[N]``.
            drawn: Log-probabilities when they were drawn, ``[N, D]``.
            stale: Whether the policy has moved since, ``[N]``.
        """

    # The loop.

    def _propose(self) -> Proposal | None:
        for _ in range(TRIES):
            genes, sample = self._draw()
            if self._is_new(genes):
                proposal = self._new(genes)
                self._in_flight[proposal.number] = sample
                return proposal
        random = self._fresh(self._random)
        return None if random is None else self._new(random)

    def _learn(self, proposal: Proposal, result: Result) -> None:
        advantage = self.advantages(self.loss(result))
        if (sample := self._in_flight.pop(proposal.number, None)) is not None:
            self._collect(sample, advantage)

    def _draw(self) -> tuple[Genes, Sample]:
        """One sample of the policy as it is; several are drawn together, and thrown away when it moves."""
        if not self._drawn:
            uniform = torch.from_numpy(self.rng.random((max(self.batch, AT_ONCE), len(self.decisions.sizes))))
            picks, log_probs = self.controller.sample(uniform)
            samples = (Sample(*pair, self.updates) for pair in zip(picks, log_probs))
            self._drawn.extend(zip(self.decisions.genes(picks.numpy()), samples))
        return self._drawn.popleft()

    def _collect(self, sample: Sample, advantage: float) -> None:
        self._collected.append((sample, advantage))
        if len(self._collected) == self.batch:
            self._update(*zip(*self._collected))
            self._collected.clear()
            self._drawn.clear()

    def _update(self, samples: Sequence[Sample], advantages: Sequence[float]) -> None:
        picks, drawn = (torch.stack([getattr(s, what) for s in samples]) for what in ("picks", "log_probs"))
        stale = torch.tensor([sample.update < self.updates for sample in samples])
        for _ in range(self.passes):
            log_probs, entropies = self.controller.log_probs(picks)
            loss = self.loss_of(log_probs, entropies, torch.tensor(advantages).to(log_probs), drawn, stale)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch
            self.optimizer.step()
        self.updates += 1
