"""DSNAS: Direct Neural Architecture Search without Parameter Retraining (Hu, Xie et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oneshot.engine.gradient import SingleLevelSearch
from oneshot.engine.options import (
    ArchBetas,
    ArchEvery,
    ArchOptimizer,
    ArchWarmup,
    DropPath,
    FixedGradientOptions,
    Penalised,
    Unpack,
    WeightNesterov,
)
from oneshot.engine.samplers import OneHotSampler, draw_one_hot
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.space import SearchSpace


class ScoreFunctionSampler(OneHotSampler):
    """One drawn candidate a row, with the gradient of :func:`with_score`. Rows that are settled draw their best.

    Args:
        space: Says how many rows there are.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        for choice in space.choices:
            self.register_buffer(f"settled_{choice.name}", torch.zeros(choice.rows, dtype=torch.bool))

    def settled(self, choice: str) -> Tensor:
        """Rows of a choice that are settled, ``[R]`` of booleans."""
        return self.get_buffer(f"settled_{choice}")

    @torch.no_grad()
    def settle(self, alphas: Mapping[str, Tensor], margin: float) -> None:
        """Settle the rows whose two likeliest candidates are at least ``margin`` apart, for good."""
        for name, alpha in alphas.items():
            if alpha.shape[1] > 1:
                first, second = alpha.softmax(-1).topk(2).values.unbind(1)
                self.settled(name).logical_or_(first - second >= margin)

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = {}
        for name, alpha in alphas.items():
            best = F.one_hot(alpha.argmax(-1), alpha.shape[1]).to(alpha)
            drawn = with_score(draw_one_hot(alpha.detach()), alpha)
            weights[name] = torch.where(self.settled(name)[:, None], best, drawn)
        return weights


class DSNASOptions(
    FixedGradientOptions,
    WeightNesterov,
    DropPath,
    ArchBetas,
    ArchWarmup,
    ArchEvery,
    ArchOptimizer,
    Penalised,
    total=False,
):
    """Options that :class:`DSNAS` passes on."""


class DSNAS(SingleLevelSearch):
    """One drawn path trains its weights and the alphas it was drawn from; one loss for both (arXiv:2002.09128).

    The gradient of an alpha is the gradient of the loss in the weight of the candidate that ran, 1, times that of the
    logarithm of its probability (section 3.3; SNAS's credit in the limit of temperature 0). Nothing else runs. A row is
    settled at the beginning of an epoch when its two likeliest candidates are ``settle_margin`` apart: from then on it
    runs the best of them, and its alphas stay as they are (the progressive early stop of section 3.4). The costs of a
    ``penalty`` are those of the path that was drawn, whose gradient, too, is that of the expectation.

    Networks need no retraining: ``supernet.extract(search.derive())`` has the weights. Their statistics of batch
    normalisation are of all paths while rows are not settled.

    Defaults are the authors' for ImageNet (batches of 1024): SGD 0.5 to 0, decay 4e-5, Adam 1e-3 without decay for the
    alphas. We differ: no warm-up of the learning rate, gradients of the weights are clipped, settled alphas do not
    drift within an epoch, and the cost counts in every step (theirs above a target only, by the probability of the
    candidate that ran).

    Args:
        supernet: The supernet of any space of operation choices.
        settle_margin: Difference of probabilities that settles a row; 1 never does.
        alpha_std: See :class:`~oneshot.engine.alphas.AlphaSearch`.
        weight_lr: See :class:`~oneshot.engine.gradient.GradientSearch`.
        weight_lr_min: See :class:`~oneshot.engine.gradient.GradientSearch`.
        weight_decay: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_lr: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_weight_decay: See :class:`~oneshot.engine.gradient.GradientSearch`.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If the margin is no difference of probabilities.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = DSNAS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.edge_weights()["cell"].sum(-1)
        tensor([1., 1., 1., 1., 1., 1.], grad_fn=<SumBackward1>)
    """

    sampler: ScoreFunctionSampler

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        settle_margin: float = 0.3,
        alpha_std: float = 0.01,
        weight_lr: float = 0.5,
        weight_lr_min: float = 0.0,
        weight_decay: float = 4e-5,
        arch_lr: float = 1e-3,
        arch_weight_decay: float = 0.0,
        **kwargs: Unpack[DSNASOptions],
    ) -> None:
        self.check_kind(supernet)
        super().__init__(
            supernet,
            ScoreFunctionSampler(supernet.space),
            alpha_std=alpha_std,
            weight_lr=weight_lr,
            weight_lr_min=weight_lr_min,
            weight_decay=weight_decay,
            arch_lr=arch_lr,
            arch_weight_decay=arch_weight_decay,
            **kwargs,
        )
        if not 0 < settle_margin <= 1:
            raise ValueError(f"settle_margin, a difference of probabilities, must be in (0, 1]; got {settle_margin}.")
        self.settle_margin = settle_margin
        self._before: dict[str, Tensor] = {}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if batch_idx == 0:  # not when the epoch starts, which it does again when a run is resumed within one
            self.sampler.settle(dict(self.alphas.items()), self.settle_margin)

    def _before_step(self, *_: Any) -> None:
        self._before = {name: alpha.detach().clone() for name, alpha in self.alphas.items()}

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        for name, before in self._before.items():  # Adam's memory would move them on
            alpha = self.alphas[name]
            alpha.copy_(torch.where(self.sampler.settled(name)[:, None], before, alpha))

    def on_fit_start(self) -> None:
        super().on_fit_start()
        alphas = self.optimizer_pair[1].optimizer
        alphas.register_step_pre_hook(self._before_step)
        alphas.register_step_post_hook(self._after_step)


def with_score(drawn: Tensor, alpha: Tensor) -> Tensor:
    r"""One-hot rows in value; the gradient is the score of the draw, weighted with the gradient of its weight.

    .. math:: \frac{\partial L}{\partial \alpha} = \frac{\partial L}{\partial z_k} \nabla_\alpha \log p_k

    for the candidate :math:`k` that was drawn (arXiv:2002.09128, section 3.3). The others have no part in it.

    Args:
        drawn: One-hot rows, drawn from the softmax of ``alpha``, ``[R, O]``.
        alpha: ``[R, O]``.

    Returns:
        ``[R, O]``.
    """
    log_p = alpha.log_softmax(-1)
    return drawn * (1 + log_p - log_p.detach())
