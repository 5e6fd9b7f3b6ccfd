"""GDAS: Searching for a Robust Neural Architecture in Four GPU Hours (Dong, Yang, CVPR 2019)."""

from __future__ import annotations

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import (
    AlphaStd,
    ArchOptions,
    DropPath,
    FixedGradientOptions,
    Penalised,
    Unpack,
    WeightLr,
    WeightLrMin,
)
from oneshot.engine.samplers import StraightThroughSampler
from oneshot.supernets.base import OperationSupernet


class GDASOptions(FixedGradientOptions, WeightLr, WeightLrMin, DropPath, AlphaStd, ArchOptions, Penalised, total=False):
    """Options that :class:`GDAS` passes on."""


class GDAS(BilevelSearch):
    """One drawn candidate an edge runs, and every alpha gets a gradient (arXiv:1910.04465, equations 5 to 7).

    The sample is rounded to one-hot and keeps the gradient it had before. The weights of candidates that do not run are
    added to the output of an edge, as in the authors' code: zeros with a gradient.

    Defaults are the authors' for the NASNet space on CIFAR-10 (250 epochs, batches of 256): temperature 10 to 0.1, SGD
    with Nesterov's momentum 0.025 to 0.001 and decay 5e-4, Adam 3e-4 for the alphas.

    Args:
        supernet: The supernet of any space of operation choices.
        temperature: At the first epoch and at the last; falls in a straight line.
        weight_decay: See :class:`~oneshot.engine.gradient.GradientSearch`.
        weight_nesterov: See :class:`~oneshot.engine.gradient.GradientSearch`.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If a temperature is not above 0, or so near to it that a softmax is NaN.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = GDAS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.edge_weights()["cell"].sum(-1)
        tensor([1., 1., 1., 1., 1., 1.], grad_fn=<SumBackward1>)
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        temperature: tuple[float, float] = (10.0, 0.1),
        weight_decay: float = 5e-4,
        weight_nesterov: bool = True,
        **kwargs: Unpack[GDASOptions],
    ) -> None:
        sampler = StraightThroughSampler(*temperature)
        super().__init__(supernet, sampler, weight_decay=weight_decay, weight_nesterov=weight_nesterov, **kwargs)
