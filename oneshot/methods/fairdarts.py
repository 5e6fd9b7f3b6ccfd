"""Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search (Chu et al., ECCV 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import (
    ArchDecay,
    ArchEvery,
    ArchOptimizer,
    ArchWarmup,
    DropPath,
    FixedGradientOptions,
    Penalised,
    Unpack,
    WeightDecay,
    WeightLrMin,
    WeightNesterov,
)
from oneshot.engine.samplers import Sampler
from oneshot.functional import in_32_bits
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.connection import connect
from oneshot.supernets.space import NONE, SubnetConfig


class SigmoidSampler(Sampler):
    """A sigmoid of every alpha: candidates do not compete (arXiv:1911.12126, equation 4)."""

    simplex = False

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: alpha.sigmoid() for name, alpha in alphas.items()}

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self(alphas)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class FairDARTSOptions(
    FixedGradientOptions,
    WeightLrMin,
    WeightDecay,
    WeightNesterov,
    DropPath,
    ArchDecay,
    ArchWarmup,
    ArchEvery,
    ArchOptimizer,
    Penalised,
    total=False,
):
    """Options that :class:`FairDARTS` passes on."""


class FairDARTS(BilevelSearch):
    """Candidates with a weight of their own, pushed towards 0 or 1; what ends above a threshold stays.

    Source: arXiv:1911.12126. The loss of the alphas is that of DARTS plus ``zero_one_weight`` times
    :func:`zero_one_loss` (equations 5 and 6). From the architecture the space would derive, :meth:`derive` leaves out
    the rows whose best candidate is below ``threshold``. So a node of a DARTS cell reads two states, one or none, with
    one operation each, as the authors' code derives by default (``threshold_sparse``); a row that its space cannot
    leave out keeps its best candidate, and so do the rows of one way through a cell that would have no output.

    The paper has no candidate ``none``: it is what is left where no other passes the threshold. Where the space has it,
    it takes no part in the zero-one loss and is never weighed; it adds nothing to an edge, so its alpha stays where it
    began, and the search is the one of the space without it.

    Defaults are the authors' for CIFAR-10 (50 epochs, batches of 128): SGD 0.005 to 0.001, Adam 3e-3 with betas
    (0.9, 0.999) and decay 1e-3, alphas from 0.

    Args:
        supernet: The supernet of any space of operation choices.
        zero_one_weight: Weight of the zero-one loss.
        threshold: Smallest weight of a candidate that stays.
        alpha_std: See :class:`~oneshot.engine.alphas.AlphaSearch`.
        weight_lr: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_lr: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_betas: See :class:`~oneshot.engine.gradient.GradientSearch`.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If the weight is negative, the threshold no probability, or a row has no candidate but ``none``.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = FairDARTS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.edge_weights()["cell"][0]
        tensor([0.5000, 0.5000, 0.5000, 0.5000, 0.5000], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        zero_one_weight: float = 10.0,
        threshold: float = 0.85,
        alpha_std: float = 0.0,
        weight_lr: float = 0.005,
        arch_lr: float = 3e-3,
        arch_betas: tuple[float, float] = (0.9, 0.999),
        **kwargs: Unpack[FairDARTSOptions],
    ) -> None:
        super().__init__(
            supernet,
            SigmoidSampler(),
            alpha_std=alpha_std,
            weight_lr=weight_lr,
            arch_lr=arch_lr,
            arch_betas=arch_betas,
            **kwargs,
        )
        if zero_one_weight < 0:
            raise ValueError(f"zero_one_weight must not be negative; got {zero_one_weight}. 0 is off.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], like the sigmoids it is compared with; got {threshold}.")
        self.zero_one_weight, self.threshold = zero_one_weight, threshold
        self._live = {
            choice.name: [o for o, candidate in enumerate(choice.candidates) if candidate != NONE]
            for choice in supernet.space.choices
        }
        if not all(self._live.values()):
            raise ValueError(
                f"A row of space {supernet.space.name!r} has no candidate but 'none', which FairDARTS does not weigh. "
                "Give it another one."
            )

    def arch_loss(self, loss: Tensor, weights: dict[str, Tensor]) -> Tensor:
        live = torch.cat([w[:, self._live[name]].flatten() for name, w in weights.items()])
        return super().arch_loss(loss, weights) + self.zero_one_weight * zero_one_loss(live)

    def derive(self) -> SubnetConfig:
        space, best = self.supernet.space, {}
        weights = {name: w.clone() for name, w in self.probabilities().items()}
        for name, live in self._live.items():
            best[name] = weights[name][:, live].amax(-1)
            weights[name][:, [o for o in range(weights[name].shape[1]) if o not in live]] = 0.0
        config = space.most_likely({name: in_32_bits(w).cpu().numpy() for name, w in weights.items()})
        picks = {
            choice.name: [
                NONE if w < self.threshold and NONE in choice.picks else pick
                for pick, w in zip(config[choice.name], best[choice.name].tolist(), strict=True)
            ]
            for choice in space.choices
        }
        thresholded = SubnetConfig(config.space, picks)
        try:
            space.validate(thresholded)
        except ValueError:  # nodes of this space must read something
            return config
        return connect(space, thresholded, {name: self._scores(config, name, w) for name, w in best.items()})

    def _scores(self, config: SubnetConfig, name: str, best: Tensor) -> npt.NDArray[np.float64]:
        """What picks of a row count, ``[R, O]``: its operation the weight, ``none`` the threshold, others nothing."""
        candidates = self.supernet.space[name].candidates
        scores = np.zeros((len(best), len(candidates)))
        for row, (pick, weight) in enumerate(zip(config[name], best.tolist(), strict=True)):
            if NONE in candidates:
                scores[row, candidates.index(NONE)] = self.threshold
            if pick != NONE:
                scores[row, candidates.index(pick)] = weight
        return scores


def zero_one_loss(weights: Tensor) -> Tensor:
    r"""Pushes weights away from a half, to 0 or 1: :math:`-\frac{1}{N} \sum (\sigma - 0.5)^2`.

    Source: FairDARTS, arXiv:1911.12126, equation 5.

    Args:
        weights: Sigmoids, ``[N]``.

    Returns:
        Scalar, from -0.25, where all are decided, to 0.

    Example:
        >>> zero_one_loss(torch.tensor([0.5, 1.0]))
        tensor(-0.1250)
    """
    return -(weights - 0.5).square().mean()
