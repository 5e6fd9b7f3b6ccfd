"""ENAS: Efficient Neural Architecture Search via Parameter Sharing (Pham et al., ICML 2018, arXiv:1802.03268)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from oneshot._lightning import leave_out_of_ddp
from oneshot.engine.options import Finalists, PathOptions, Unpack
from oneshot.engine.paths import draw_operating, over_processes
from oneshot.engine.sharing import WeightSharingSearch
from oneshot.evaluation.accuracy import evaluate_configs
from oneshot.evaluation.images import shuffled
from oneshot.policy.controller import Controller, ControllerSettings
from oneshot.policy.loss import policy_gradient_loss
from oneshot.supernets.base import Supernet
from oneshot.supernets.space import SubnetConfig
from oneshot.training.optimizers import parameter_groups


class ENASOptions(PathOptions, Finalists, total=False):
    """Options that :class:`ENAS` passes on."""


class ENAS(WeightSharingSearch):
    """A controller draws the paths that train the shared weights, and is rewarded by their accuracy.

    Every step trains one path that the controller draws. After every epoch the controller takes ``updates`` steps of
    REINFORCE, with fixed shared weights. The reward is the accuracy on a held-out batch, with batch normalisation by
    the statistics of that batch; the baseline is an average of earlier rewards. At the end ``candidates`` architectures
    are drawn from the controller and compared as in :class:`~oneshot.engine.sharing.WeightSharingSearch`; the best is
    derived (section 2.2).

    Defaults of the controller are those of the authors' search for CNN cells (melodyguan/enas): one layer of 64 units,
    logits bounded to 1.1, no temperature, Adam with 0.0035, 30 updates of 10 architectures, entropy 0.0001, a baseline
    that decays by 0.99. For recurrent cells their ``temperature`` is 5, ``tanh`` 2.5 and ``controller_lr`` 0.001. Two
    things differ, so that ours is a policy gradient: the entropy is that of the distributions and has a gradient
    (theirs is part of the reward), and the baseline begins with the first reward and never holds the current one. The
    architectures of an update share a held-out batch. Their own bounds for operations, and biases towards convolutions,
    are left out. Recurrent cells are rewarded by the accuracy of the next word, not by 80 over the perplexity.

    Args:
        supernet: Any supernet.
        controller_lr: Learning rate of the controller (Adam).
        updates: Steps of the controller after an epoch.
        batch: Architectures in each.
        entropy: Weight of the entropy of the policy, in nats.
        baseline: Decay of the average of rewards.
        hidden: Units of the controller.
        temperature: See :class:`~oneshot.policy.controller.ControllerSettings`.
        tanh: Likewise.
        candidates: Architectures drawn at the end.
        **kwargs: See :class:`~oneshot.engine.sharing.WeightSharingSearch`.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = ENAS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> len(search.paths(0))
        1
    """

    _baseline: Tensor

    def __init__(
        self,
        supernet: Supernet,
        *,
        controller_lr: float = 0.0035,
        updates: int = 30,
        batch: int = 10,
        entropy: float = 1e-4,
        baseline: float = 0.99,
        hidden: int = 64,
        temperature: float = 1.0,
        tanh: float | None = 1.1,
        candidates: int = 100,
        **kwargs: Unpack[ENASOptions],
    ) -> None:
        super().__init__(supernet, candidates=candidates, **kwargs)
        if updates < 1 or batch < 1:
            raise ValueError(
                f"The controller must take at least one step with one architecture; got updates={updates}, "
                f"batch={batch}."
            )
        if not controller_lr > 0 or entropy < 0 or not 0 <= baseline < 1:
            raise ValueError(
                "controller_lr must be above 0, entropy at least 0, and baseline from 0 to below 1; got "
                f"{controller_lr}, {entropy} and {baseline}."
            )
        self.controller_lr, self.updates, self.batch = controller_lr, updates, batch
        self.entropy, self.decay = entropy, baseline
        seed = int(torch.randint(2**31, ()))
        settings = ControllerSettings(hidden=hidden, layers=1, temperature=temperature, tanh=tanh, init=0.1)
        self.controller = Controller(supernet.space.decisions(), settings, seed=seed)
        self.register_buffer("_baseline", torch.tensor(math.nan))
        # All processes draw the same architectures and get the same rewards, so there is nothing to average.
        names = [name for name, _ in self.named_parameters() if not name.startswith("supernet.")]  # the average, too
        leave_out_of_ddp(self, names)

    # What is drawn.

    def sample(self, rng: np.random.Generator) -> SubnetConfig:
        shape = 1, len(self.controller.decisions.sizes)
        return draw_operating(self.supernet.space, lambda: self._drawn(torch.from_numpy(rng.random(shape)))[1][0])

    def paths(self, step: int) -> list[SubnetConfig]:
        return [self.sample(np.random.default_rng(int(torch.randint(2**62, ()))))]

    def _drawn(self, uniform: Tensor) -> tuple[Tensor, list[SubnetConfig]]:
        """Picks and architectures, from random numbers ``[N, D]``."""
        picks, _ = self.controller.sample(uniform)
        genes = self.controller.decisions.genes(picks.cpu().numpy())
        return picks, self.supernet.space.decode(genes)

    @torch.no_grad()
    def probabilities(self) -> dict[str, Tensor]:
        """How often the controller picks each candidate, ``{choice: [R, O]}``: shares of 256 architectures."""
        shape = 256, len(self.controller.decisions.sizes)
        picks, _ = self.controller.sample(torch.from_numpy(np.random.default_rng(0).random(shape)))
        genes, start, shares = self.controller.decisions.genes(picks.cpu().numpy()), 0, {}
        for choice in self.supernet.space.choices:
            codes = genes[:, start : start + choice.rows, None]
            mean = (codes == np.arange(len(choice.candidates))).mean(0)
            shares[choice.name] = torch.from_numpy(mean).to(self.device, torch.float32)
            start += choice.rows
        return shares

    # How the controller learns.

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            self.check_finite()
            self.train_controller()
        super().on_train_batch_end(outputs, batch, batch_idx)

    def train_controller(self) -> None:
        """Take the steps of the controller after an epoch; the weights stay as they are."""
        updates = 1 if getattr(self.trainer, "fast_dev_run", 0) else self.updates
        first = self.current_epoch * updates
        optimizer = cast(list[LightningOptimizer], self.optimizers())[1].optimizer  # past the Trainer's precision
        seen = [self._update(optimizer, batch) for batch in islice(self._held_out_from(first), updates)]
        reward, entropy = np.mean(seen, axis=0)
        values = {"reward": reward, "entropy": entropy, "baseline": float(self._baseline)}
        self.log_dict(
            {f"controller/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=1,
            rank_zero_only=True,
        )

    def _held_out_from(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Held-out batches over and over; those that have an order (texts), from one of them on."""
        ordered = self.held_out()
        batches = shuffled(ordered, seed=number)
        skipped = number % max(1, len(batches)) if batches is ordered and isinstance(batches, Sized) else 0
        while True:
            given = False
            for batch in islice(batches, skipped, None):
                given = True
                yield batch
            if not given and not skipped:
                return
            skipped = 0

    def _update(self, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> tuple[float, float]:
        """One step on one held-out batch; mean reward and mean entropy."""
        uniform = torch.rand(self.batch, len(self.controller.decisions.sizes), dtype=torch.float64)
        picks, configs = self._drawn(uniform)
        distinct = list(dict.fromkeys(configs))
        accuracies = evaluate_configs(self.evaluation_supernet, distinct, [batch], total=over_processes)
        rewards = torch.tensor([self.task.reward(accuracies[distinct.index(c)]) for c in configs], dtype=torch.float64)
        log_probs, entropies = self.controller.log_probs(picks)
        loss = policy_gradient_loss(log_probs, entropies, self._advantages(rewards).to(log_probs), entropy=self.entropy)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        optimizer.step()
        return float(rewards.mean()), float(entropies.detach().sum(1).mean())

    def _advantages(self, rewards: Tensor) -> Tensor:
        """Rewards ``[N]`` minus the average of those before each, which moves on."""
        advantages, average = [], float(self._baseline)
        for reward in rewards.tolist():
            average = reward if math.isnan(average) else average
            advantages.append(reward - average)
            average = self.decay * average + (1 - self.decay) * reward
        self._baseline.fill_(average)
        return torch.tensor(advantages)

    # The loop.

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "controller": f"{self.updates} updates of {self.batch}"}

    def trained_parts(self) -> dict[str, list[nn.Parameter]]:
        return {**super().trained_parts(), "controller": [p for p in self.controller.parameters() if p.requires_grad]}

    def configure_optimizers(self) -> Any:
        controller = torch.optim.Adam(parameter_groups(self.controller), self.controller_lr)
        return [*super().configure_optimizers(), controller]
