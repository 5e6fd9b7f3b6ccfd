"""Beta-DARTS: Beta-Decay Regularization for Differentiable Architecture Search (Ye et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from oneshot._stability import experimental
from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import (
    AlphaOptions,
    ArchBetas,
    ArchEvery,
    ArchLr,
    ArchOptimizer,
    ArchWarmup,
    Penalised,
    Unpack,
)
from oneshot.engine.samplers import Perturbation, SoftmaxSampler
from oneshot.supernets.base import OperationSupernet


class BetaDARTSOptions(AlphaOptions, ArchLr, ArchBetas, ArchWarmup, ArchEvery, ArchOptimizer, Penalised, total=False):
    """Options that :class:`BetaDARTS` passes on."""

    perturbation: Perturbation | None


@experimental("its published accuracy has not been reproduced here")
class BetaDARTS(BilevelSearch):
    r"""DARTS with a penalty on the alphas that keeps the edge weights close to each other (arXiv:2203.01665).

    The loss of the alphas is the validation loss plus :math:`\lambda` times :func:`beta_decay`, and :math:`\lambda`
    rises in a straight line: in epoch e of E it is ``beta_weight * e / E``, as in the authors' code. The penalty takes
    the place of the weight decay of the alphas, which is off by default; their script leaves Adam's decay of 1e-3 on.

    Published on NAS-Bench-201 (test accuracy on CIFAR-10, CIFAR-100 and ImageNet16-120, search on CIFAR-10): 94.36,
    73.51 and 46.34 %, where the best cells have 94.37, 73.51 and 47.31 %. On the DARTS space no gain is claimed here:
    improvements reported there often fall "within the margin of noise" (confopt, AutoML 2025, arXiv:2507.16533).

    Experimental: its published accuracy has not been reproduced here.

    Args:
        supernet: The supernet of any space of operation choices.
        beta_weight: What :math:`\lambda` rises to: 50 for DARTS cells, 100 for NAS-Bench-201.
        arch_weight_decay: See :class:`~oneshot.engine.gradient.GradientSearch`.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If the weight is negative.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = BetaDARTS(NASBench201Supernet(channels=4, cells_per_stage=1), beta_weight=100.0)
        >>> search.derive().space
        'nasbench201'
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        beta_weight: float = 50.0,
        arch_weight_decay: float = 0.0,
        **kwargs: Unpack[BetaDARTSOptions],
    ) -> None:
        super().__init__(supernet, SoftmaxSampler(), arch_weight_decay=arch_weight_decay, **kwargs)
        if not beta_weight >= 0:
            raise ValueError(f"beta_weight must not be negative; got {beta_weight}. 0 is off.")
        self.beta_weight = beta_weight

    def arch_loss(self, loss: Tensor, weights: dict[str, Tensor]) -> Tensor:
        epoch, epochs = self.schedule_position()
        return super().arch_loss(loss, weights) + self.beta_weight * epoch / epochs * beta_decay(self.alphas.values())


def beta_decay(alphas: Iterable[Tensor]) -> Tensor:
    r"""The smooth maximum of every row of alphas, :math:`\log \sum_o e^{\alpha_o}`, in the mean over all rows.

    Source: Beta-DARTS, arXiv:2203.01665, the loss of Beta-Decay regularisation. Its gradient in a row is the softmax of
    the row over the number of rows, so of two alphas the larger one shrinks faster.

    Args:
        alphas: Of all choices, ``[R, O]`` each.

    Returns:
        Scalar.

    Example:
        >>> beta_decay([torch.zeros(2, 4)])
        tensor(1.3863)
    """
    return torch.cat([alpha.logsumexp(-1) for alpha in alphas]).mean()
