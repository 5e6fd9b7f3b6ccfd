"""ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware (Cai, Zhu, Han, ICLR 2019)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from oneshot.cost import CostModel, CostPenalty
from oneshot.cost.resolve import resolve_cost
from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.module import Batch
from oneshot.engine.options import AlphaStd, ArchOptimizer, DropPath, FixedGradientOptions, Unpack, WeightLr
from oneshot.engine.samplers import OneHotSampler, gumbel_like
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.mixed_op import Path
from oneshot.tasks import IGNORED, Task


class Reward(nn.Module):
    """What a sampled network earns, ``accuracy * (target / cost)^exponent``, and what such networks earned so far.

    Source: arXiv:1812.00332, section 3.3.2, and the authors' code. Their moving average, meant to move by
    ``1 - decay`` of the way, moves by ``decay``; ours moves by 1 %. It begins at the first mean.

    Args:
        cost: What an architecture costs; accuracy alone counts without it. A cost below a thousandth of the target
            counts as that, so that a network of nothing earns no infinite reward.
        target: Cost at which the reward is the accuracy.
        exponent: How much the cost counts.
        samples: Networks drawn for each step of the alphas, M.
        decay: Of the moving average.
        allow_noisy: See :class:`~oneshot.cost.CostPenalty`.

    Raises:
        ValueError: If there is a cost without a target or the other way round, or a number is out of its range.
    """

    baseline: Tensor
    updates: Tensor

    def __init__(
        self,
        cost: CostModel | None = None,
        *,
        target: float | None = None,
        exponent: float = 0.1,
        samples: int = 10,
        decay: float = 0.99,
        allow_noisy: bool = False,
    ) -> None:
        super().__init__()
        self.allow_noisy = allow_noisy
        if (cost is None) != (target is None) or (target is not None and not target > 0):
            raise ValueError(f"cost and target must be given together, and target be above 0; got target={target}.")
        if samples < 1:
            raise ValueError(f"samples, the networks drawn in a step of the alphas, must be at least 1; got {samples}.")
        if not 0 <= decay < 1:
            raise ValueError(f"decay, the part of a moving average that stays, must be in [0, 1); got {decay}.")
        self.cost, self.target, self.exponent, self.samples, self.decay = cost, target or 1.0, exponent, samples, decay
        self.task: Task | None = None  # that of the search
        self.register_buffer("baseline", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, logits: Tensor, y: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Reward of one network.

        Args:
            logits: ``[B, classes]``, in segmentation ``[B, classes, H, W]``.
            y: Labels, ``[B]``, of pixels ``[B, H, W]``, of which ignored ones do not count.
            weights: One-hot edge weights of the network, ``{choice: [R, O]}``.

        Returns:
            Scalar.
        """
        if self.task is None or self.task.has_classes:
            labels = y.argmax(1) if y.is_floating_point() else y
            counted = labels != IGNORED if logits.dim() == 4 else torch.ones_like(labels, dtype=torch.bool)
            accuracy = ((logits.argmax(1) == labels) & counted).sum() / counted.sum()
        else:
            metric = self.task.metric(logits.shape[1], sync=False).to(logits.device)
            metric.update(*self.task.for_metric(logits, y))
            accuracy = torch.as_tensor(self.task.reward(float(metric.compute())), device=logits.device)
        if self.cost is None:
            return accuracy
        cost = self.cost.expected(weights).to(accuracy) / self.target
        reward: Tensor = accuracy * cost.clamp_min(1e-3) ** -self.exponent
        return reward

    def next_baseline(self, mean: Tensor) -> Tensor:
        """Where a step with this mean reward moves the baseline; scalar."""
        return torch.where(self.updates > 0, moving_average(self.baseline, mean, self.decay), mean)


class ProxylessNASOptions(FixedGradientOptions, WeightLr, DropPath, AlphaStd, ArchOptimizer, total=False):
    """Options that :class:`ProxylessNAS` passes on."""


class ProxylessNAS(BilevelSearch):
    """One drawn path trains the weights, two drawn paths the alphas (arXiv:1812.00332, section 3).

    A step of the alphas draws two candidates a row from the softmax, and of these the one whose gate is open. Both run;
    the gradients of their gates become gradients of their alphas (equation 4), as if there were no others
    (:func:`two_path_gradient`). After the step both are shifted so that their share of the probability is what it was
    (:func:`keep_mass`). Candidates that do not run add nothing to any gradient, and ``none`` may be one of the two. The
    expected cost of ``penalty`` is that of the probabilities of all candidates, whose alphas it moves, too: the paper's
    is ``CostPenalty(latency, "add_linear", target=...)``, the code's ``"mul_log"``.

    With ``gradient="reinforce"`` (section 3.3.2) networks are drawn, run and rewarded; costs then belong into
    ``reward``, and need no gradient.

    Defaults are the authors' for ImageNet: 160 epochs of batches of 256, SGD with Nesterov's momentum 0.025 to 0, decay
    4e-5, Adam 1e-3 with betas (0, 0.999) and no decay for the alphas in every fifth step. Alphas stand still, and paths
    are drawn almost uniformly, for 40 epochs of warm-up and one more. We differ: the warm-up has no schedule of its own
    (theirs falls from 0.05 to 0), gradients of the weights are clipped, and alphas of ``none`` get their gradient
    (theirs drops the row). Their weights learn with label smoothing of 0.1; here ``criterion`` is for both.

    Args:
        supernet: The supernet of any space of operation choices.
        gradient: How the alphas get theirs, from two paths or from rewards.
        reward: What a network earns; with ``"reinforce"`` only, where its accuracy is the default.
        penalty: See :class:`~oneshot.engine.gradient.GradientSearch`; with ``"two_path"`` only.
        weight_lr_min: See :class:`~oneshot.engine.gradient.GradientSearch`.
        weight_decay: See :class:`~oneshot.engine.gradient.GradientSearch`.
        weight_nesterov: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_lr: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_betas: See :class:`~oneshot.engine.gradient.GradientSearch`. With a first beta above 0, candidates that
            were not drawn move along with what they remember.
        arch_weight_decay: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_warmup_epochs: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_every: See :class:`~oneshot.engine.gradient.GradientSearch`.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If the gradient is unknown, costs are in the wrong place, or those of a reward are of another space.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = ProxylessNAS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.edge_weights()["cell"].sum(-1)
        tensor([1., 1., 1., 1., 1., 1.])
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        gradient: Literal["two_path", "reinforce"] = "two_path",
        reward: Reward | None = None,
        penalty: CostPenalty | None = None,
        weight_lr_min: float = 0.0,
        weight_decay: float = 4e-5,
        weight_nesterov: bool = True,
        arch_lr: float = 1e-3,
        arch_betas: tuple[float, float] = (0.0, 0.999),
        arch_weight_decay: float = 0.0,
        arch_warmup_epochs: int = 41,
        arch_every: int = 5,
        **kwargs: Unpack[ProxylessNASOptions],
    ) -> None:
        super().__init__(
            supernet,
            OneHotSampler(),
            penalty=penalty,
            weight_lr_min=weight_lr_min,
            weight_decay=weight_decay,
            weight_nesterov=weight_nesterov,
            arch_lr=arch_lr,
            arch_betas=arch_betas,
            arch_weight_decay=arch_weight_decay,
            arch_warmup_epochs=arch_warmup_epochs,
            arch_every=arch_every,
            **kwargs,
        )
        if gradient not in ("two_path", "reinforce"):
            raise ValueError(f"gradient must be 'two_path' or 'reinforce'; got {gradient!r}.")
        if gradient == "two_path" and reward is not None:
            raise ValueError(
                "Two paths have a loss, not a reward; got both. Leave it out, or use gradient='reinforce'."
            )
        if gradient == "reinforce" and penalty is not None:
            raise ValueError(
                "REINFORCE knows rewards, not losses; got a penalty. Use reward=Reward(cost, target=...) for it."
            )
        if reward is not None and reward.cost is not None:
            resolve_cost(reward.cost, supernet, allow_noisy=reward.allow_noisy, what="The cost of the reward")
        self.reward = (reward or Reward()) if gradient == "reinforce" else None
        if self.reward is not None:
            self.reward.task = self.task
            if self.reward.cost is not None and not self.task.is_share:
                raise ValueError(
                    "A reward with a cost multiplies the metric, which must be from 0 to 1; the metric of the task is "
                    f"{self.task.metric_name}. Use gradient='two_path' with a penalty, or a reward without a cost."
                )
        self._pairs: dict[str, tuple[Tensor, Tensor]] = {}  # of the step that is about to come
        self._baseline = torch.zeros(())

    def arch_backward(self, batch: Batch) -> Tensor:
        return self._two_paths(batch) if self.reward is None else self._reinforce(batch, self.reward)

    def _two_paths(self, batch: Batch) -> Tensor:
        x, y = batch["arch"]
        alphas, gates, arch = dict(self.alphas.items()), {}, {}
        for name, alpha in alphas.items():
            pair = draw_pair(alpha.detach())
            self._pairs[name] = pair, alpha.detach().gather(1, pair)
            gates[name] = torch.zeros_like(alpha).scatter(1, pair[:, :1], 1.0).detach().requires_grad_()
            arch[name] = Path(
                self.as_supernet(gates[name]), torch.zeros_like(alpha, dtype=torch.bool).scatter(1, pair, True)
            )
        probabilities = {name: alpha.softmax(-1) for name, alpha in alphas.items()}
        loss = self.arch_loss(self.criterion(self.supernet(x, arch), y), probabilities)
        trained = {name: alpha for name, alpha in alphas.items() if alpha.requires_grad}
        scale, inputs = self.arch_scale(), [*gates.values(), *trained.values()]
        scaled = torch.autograd.grad(loss * scale, inputs, allow_unused=True, materialize_grads=True)
        gradients = self.average_gradients([g / scale for g in scaled])
        of_gates = dict(zip(gates, gradients, strict=False))
        for name, of_cost in zip(trained, gradients[len(gates) :], strict=True):
            of_gate = of_gates[name]
            pair, logits = self._pairs[name]
            alphas[name].grad = of_cost.scatter_add(1, pair, two_path_gradient(of_gate.gather(1, pair), logits))
        return loss

    @torch.no_grad()
    def _reinforce(self, batch: Batch, reward: Reward) -> Tensor:
        x, y = batch["arch"]
        paths = [self.edge_weights() for _ in range(reward.samples)]
        logits = [self.run(x, path) for path in paths]
        rewards = torch.stack([reward(z, y, path) for z, path in zip(logits, paths, strict=True)])
        (rewards,) = self.average_gradients([rewards])  # over the images of all processes
        self._baseline = reward.next_baseline(rewards.mean())
        for name, alpha in self.alphas.items():
            if not alpha.requires_grad:
                continue
            alpha.grad = reinforce_gradient(alpha, torch.stack([p[name] for p in paths]), rewards - self._baseline)
        return torch.stack([self.criterion(z, y) for z in logits]).mean()

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        if self.reward is not None:
            self.reward.baseline.copy_(self._baseline)
            self.reward.updates.add_(1)
        for name, (pair, before) in self._pairs.items():
            alpha = self.alphas[name]
            if alpha.requires_grad:
                alpha.scatter_(1, pair, keep_mass(alpha.gather(1, pair), before))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.optimizer_pair[1].optimizer.register_step_post_hook(self._after_step)


def draw_pair(alpha: Tensor) -> Tensor:
    """Two different candidates a row, drawn from the softmax one after the other.

    The first column holds the one whose gate is open, drawn from the softmax over the two.

    Args:
        alpha: ``[R, O]``.

    Returns:
        Indices, ``[R, 2]``; ``[R, 1]`` if there is only one candidate.
    """
    pair = (alpha + gumbel_like(alpha)).topk(min(2, alpha.shape[1])).indices
    logits = alpha.gather(1, pair)
    return pair.gather(1, (logits + gumbel_like(logits)).argsort(dim=1, descending=True))


def two_path_gradient(gates: Tensor, alpha: Tensor) -> Tensor:
    r"""Gradient of the alphas of the candidates that were drawn (arXiv:1812.00332, equation 4, section 3.2.1).

    .. math:: \sum_j \frac{\partial L}{\partial g_j} p_j (\delta_{ij} - p_i), \quad p = \mathrm{softmax}(\alpha)

    Args:
        gates: Gradients of their gates, ``[R, 2]``.
        alpha: Their alphas, ``[R, 2]``.

    Returns:
        ``[R, 2]``; rows sum to 0.
    """
    p = alpha.softmax(-1)
    return p * (gates - (p * gates).sum(-1, keepdim=True))


def keep_mass(alpha: Tensor, before: Tensor) -> Tensor:
    """Shift alphas so that together they are as likely as before, against candidates that have not moved.

    Args:
        alpha: ``[R, 2]``, after a step.
        before: ``[R, 2]``, before it.

    Returns:
        ``[R, 2]``, with the differences of ``alpha``.

    Example:
        >>> keep_mass(torch.tensor([[3.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
        tensor([[1., 1.]])
    """
    return alpha - alpha.logsumexp(-1, keepdim=True) + before.logsumexp(-1, keepdim=True)


def reinforce_gradient(alpha: Tensor, paths: Tensor, advantages: Tensor) -> Tensor:
    r"""Gradient of minus the expected reward (REINFORCE; arXiv:1812.00332, equation 5).

    .. math:: -\frac{1}{M} \sum_m A_m \nabla_\alpha \log p(g_m), \quad \nabla_\alpha \log p(g) = g - p

    Args:
        alpha: ``[R, O]``.
        paths: One-hot draws from their softmax, ``[M, R, O]``.
        advantages: Reward of each draw minus the baseline, A, ``[M]``.

    Returns:
        ``[R, O]``.
    """
    return -(advantages[:, None, None] * (paths - alpha.softmax(-1))).mean(0)


def moving_average(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """Move ``1 - decay`` of the way from ``average`` to ``value``.

    Example:
        >>> moving_average(torch.tensor(0.0), torch.tensor(1.0), 0.75)
        tensor(0.2500)
    """
    return average + (1 - decay) * (value - average)
