"""SNAS: Stochastic Neural Architecture Search (Xie, Zheng, Liu, Lin, ICLR 2019)."""

from __future__ import annotations

from oneshot.engine.gradient import SingleLevelSearch
from oneshot.engine.options import (
    AlphaStd,
    ArchOptions,
    FixedGradientOptions,
    Penalised,
    Unpack,
    WeightDecay,
    WeightLr,
    WeightLrMin,
    WeightNesterov,
)
from oneshot.engine.samplers import GumbelSoftmaxSampler
from oneshot.supernets.base import OperationSupernet


class SNASOptions(
    FixedGradientOptions,
    WeightLr,
    WeightLrMin,
    WeightDecay,
    WeightNesterov,
    AlphaStd,
    ArchOptions,
    Penalised,
    total=False,
):
    """Options that :class:`SNAS` passes on."""


class SNAS(SingleLevelSearch):
    """Edge weights drawn from a concrete distribution that cools down; one loss for weights and alphas.

    Source: arXiv:1812.09926, equations 5 and 6. ``penalty`` is its resource constraint, with the expected cost of the
    sample. Defaults are the authors' for CIFAR-10 (150 epochs, batches of 64): temperature 1 to 0.03, drop-path up to
    0.3, SGD 0.025 to 0.001, Adam 3e-4 for the alphas. We differ from their code in two ways: alphas are logits (theirs
    are positive numbers whose logarithm is taken), and the derived network follows the rule of the space (theirs keeps
    every edge).

    Args:
        supernet: The supernet of any space of operation choices.
        temperature: At the first epoch and at the last; falls in a straight line.
        drop_path: See :class:`~oneshot.engine.gradient.GradientSearch`.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If a temperature is not above 0, or so near to it that a softmax is NaN.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = SNAS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.edge_weights()["cell"].shape
        torch.Size([6, 5])
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        temperature: tuple[float, float] = (1.0, 0.03),
        drop_path: float = 0.3,
        **kwargs: Unpack[SNASOptions],
    ) -> None:
        super().__init__(supernet, GumbelSoftmaxSampler(*temperature), drop_path=drop_path, **kwargs)
