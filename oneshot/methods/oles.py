"""OLES: Operation-Level Early Stopping for Robustifying Differentiable NAS (Jiang et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from oneshot._stability import experimental
from oneshot.engine.alphas import EdgeWeights
from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.module import Batch
from oneshot.engine.options import GradientOptions, Unpack
from oneshot.engine.samplers import SoftmaxSampler
from oneshot.functional import gradient_match
from oneshot.supernets.base import OperationSupernet


@experimental("its published accuracy has not been reproduced here")
class OLES(BilevelSearch):
    """DARTS that stops training a candidate once what it learns does not help held-out images.

    Source: openreview.net/forum?id=yAOwkf4FyL. The gradient that a candidate has on the batch of the weights is
    compared with the one on the batch of the alphas (:func:`~oneshot.functional.gradient_match`), for each candidate of
    each edge of each cell. When the mean of ``window`` steps is below ``threshold``, its weights stay as they are from
    then on, before they overfit (``stopped``, ``[K]``, in the order of the mixed operations); its alpha goes on.

    Defaults are those of the authors' code, which clears no gradients between the two batches and so compares the
    first with the sum of both; ``accumulated=False`` is the paper's formula, for which 0.4 is much. We differ: both
    are of the same weights, with one cosine for a candidate (theirs is a mean over columns). Published: 2.30 % error on
    CIFAR-10, where gains are often "within the margin of noise" (confopt, arXiv:2507.16533).

    Experimental: its published accuracy has not been reproduced here.

    Args:
        supernet: The supernet of any space of operation choices.
        threshold: Mean cosine below which a candidate is stopped.
        window: Steps in a mean.
        accumulated: Whether to compare with the sum of both gradients.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If a number is out of its range, or no candidate has weights.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = OLES(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> len(search.stopped)  # three cells, six edges, two convolutions
        36
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        threshold: float = 0.4,
        window: int = 20,
        accumulated: bool = True,
        **kwargs: Unpack[GradientOptions],
    ) -> None:
        super().__init__(supernet, SoftmaxSampler(), **kwargs)
        if not -1 <= threshold <= 1:
            raise ValueError(f"threshold, a cosine, must be in [-1, 1]; got {threshold}. -1 stops nothing.")
        if window < 1:
            raise ValueError(f"window, the steps in a mean, must be at least 1; got {window}.")
        self.threshold, self.window, self.accumulated = threshold, window, accumulated
        ops = (op for rows in supernet.mixed_ops().values() for row in rows for mixed in row for op in mixed.ops)
        weights = ([p for p in op.parameters() if p.requires_grad] for op in dict.fromkeys(ops))
        self._candidates = [parameters for parameters in weights if parameters]
        if not self._candidates:
            raise ValueError(f"OLES needs candidates with weights; {type(supernet).__name__} has none. Use DARTS.")
        self.stopped: Tensor = nn.Buffer(torch.zeros(len(self._candidates), dtype=torch.bool))
        self._sums: Tensor = nn.Buffer(torch.zeros(len(self._candidates)))
        self._steps: Tensor = nn.Buffer(torch.tensor(0))
        self._held_out: list[Tensor | None] = []

    def arch_backward(self, batch: Batch) -> Tensor:
        loss, alphas = self._val_loss(batch), self.trained_arch_parameters()
        gradients = self.val_gradients(loss, [*alphas, *(w for own in self._candidates for w in own)])
        for alpha, gradient in zip(alphas, gradients, strict=False):
            alpha.grad = gradient
        self._held_out = gradients[len(alphas) :]
        return loss

    def after_weight_backward(self, x: Any, y: Tensor, weights: Mapping[str, EdgeWeights], share: float) -> None:
        if rest := self._held_out[::-1]:
            scale = share * (1.0 if self._weight_scaler is None else self._weight_scaler.get_scale())
            for k, own in enumerate(self._candidates):
                both = [(w.grad, rest.pop()) for w in own]
                known = [(ours / scale, theirs) for ours, theirs in both if ours is not None and theirs is not None]
                self._sums[k] += gradient_match(known, accumulated=self.accumulated) if known else 1.0
            self._held_out, self._steps = [], self._steps + 1
            if int(self._steps) >= self.window:
                self.stopped |= self._sums / self._steps < self.threshold
                self._sums, self._steps = torch.zeros_like(self._sums), torch.zeros_like(self._steps)
        self.log("train/stopped", self.stopped.sum().float(), batch_size=len(y))
        for own, stopped in zip(self._candidates, self.stopped.tolist(), strict=True):
            for weight in own if stopped else ():
                weight.grad = None  # so that no optimiser moves it, and it does not count when gradients are clipped
