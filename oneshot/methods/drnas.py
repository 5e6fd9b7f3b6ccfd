"""DrNAS: Dirichlet Neural Architecture Search (Chen, Wang, Cheng, Tang, Hsieh, ICLR 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional as F

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import (
    AlphaStd,
    ArchBetas,
    ArchEvery,
    ArchLr,
    ArchWarmup,
    DropPath,
    FixedGradientOptions,
    Penalised,
    Unpack,
    WeightDecay,
    WeightLr,
    WeightLrMin,
    WeightNesterov,
)
from oneshot.engine.samplers import Perturbation, Sampler
from oneshot.supernets.base import OperationSupernet
from oneshot.training.optimizers import OptimizerFactory, default_of


class DirichletSampler(Sampler):
    """Edge weights drawn from ``Dirichlet(elu(alpha) + 1)``, differentiably (arXiv:2006.10355, section 3.1)."""

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: Dirichlet(concentration(a), validate_args=False).rsample() for name, a in alphas.items()}

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean of the distribution."""
        return {name: F.normalize(concentration(alpha), p=1, dim=-1) for name, alpha in alphas.items()}


class DrNASOptions(
    FixedGradientOptions,
    WeightLr,
    WeightLrMin,
    WeightDecay,
    WeightNesterov,
    DropPath,
    AlphaStd,
    ArchLr,
    ArchBetas,
    ArchWarmup,
    ArchEvery,
    Penalised,
    total=False,
):
    """Options that :class:`DrNAS` passes on."""

    perturbation: Perturbation | None


class DrNAS(BilevelSearch):
    """Edge weights drawn from Dirichlet distributions, whose concentrations are what is learned (arXiv:2006.10355).

    A row that is still undecided draws every mixture of its candidates alike, which explores; the distance of the
    concentrations from 1, where that is so, is penalised (equation 7): ``"l2"`` is a decay of the alphas, as in the
    authors' code by default, ``"kl"`` the divergence from the uniform distribution (:func:`dirichlet_kl`). Derived is
    what is largest in the mean. Theirs compares edges by the softmax of the alphas; within a row both agree.

    Defaults are the authors' for NAS-Bench-201 (100 epochs, batches of 64): SGD 0.025 to 0.001, Adam 3e-4 for the
    alphas. Left out is the progressive search of section 4, whose later stages have fewer candidates and more channels:
    a search here has one supernet. The partial channels of its first stage are the supernet's ``partial_channels``.

    Args:
        supernet: The supernet of any space of operation choices.
        regularizer: Distance from the uniform distribution.
        regularizer_weight: Its weight. The authors' 1e-3 is for ``"l2"``.
        arch_optimizer: See :class:`~oneshot.engine.gradient.GradientSearch`; decays the alphas in place of ``"l2"``.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`; no ``arch_weight_decay``, which ``"l2"`` is.

    Raises:
        ValueError: If the regularizer is unknown or its weight negative.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = DrNAS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.probabilities()["cell"][0].round(decimals=1)
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        regularizer: Literal["l2", "kl"] = "l2",
        regularizer_weight: float = 1e-3,
        arch_optimizer: OptimizerFactory | None = None,
        **kwargs: Unpack[DrNASOptions],
    ) -> None:
        if regularizer not in ("l2", "kl"):
            raise ValueError(f"regularizer must be 'l2' or 'kl'; got {regularizer!r}.")
        if regularizer_weight < 0:
            raise ValueError(f"regularizer_weight must not be negative; got {regularizer_weight}. 0 is off.")
        decay = regularizer_weight if regularizer == "l2" else 0.0
        if arch_optimizer is not None:
            if decay:
                raise ValueError(
                    "The regularizer 'l2' is a weight decay of Adam, which arch_optimizer replaces. Give that "
                    "optimiser a weight_decay, and pass regularizer_weight=0 or regularizer='kl'."
                )
            decay = default_of(BilevelSearch, "arch_weight_decay")  # of Adam, which is not there
        super().__init__(supernet, DirichletSampler(), arch_weight_decay=decay, arch_optimizer=arch_optimizer, **kwargs)
        self.kl_weight = regularizer_weight if regularizer == "kl" else 0.0

    def arch_loss(self, loss: Tensor, weights: dict[str, Tensor]) -> Tensor:
        loss = super().arch_loss(loss, weights)
        if self.kl_weight:
            divergences = [dirichlet_kl(concentration(alpha)).sum() for alpha in self.alphas.values()]
            loss = loss + self.kl_weight * torch.stack(divergences).sum()
        return loss


def concentration(alpha: Tensor) -> Tensor:
    """``elu(alpha) + 1``, any shape; at least 1e-3, below which gradients of a draw are astronomical."""
    return (F.elu(alpha) + 1).clamp_min(1e-3)


def dirichlet_kl(concentration: Tensor) -> Tensor:
    """Divergence of Dirichlet distributions from the uniform one, ``KL(Dirichlet(c) || Dirichlet(1))``, in nats.

    Args:
        concentration: c, above 0, ``[R, O]``.

    Returns:
        ``[R]``.

    Example:
        >>> dirichlet_kl(torch.ones(1, 3))
        tensor([0.])
    """
    return kl_divergence(Dirichlet(concentration), Dirichlet(torch.ones_like(concentration)))
