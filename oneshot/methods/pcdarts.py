"""PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search (Xu et al., ICLR 2020)."""

from __future__ import annotations

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import (
    AlphaStd,
    ArchBetas,
    ArchDecay,
    ArchEvery,
    ArchOptimizer,
    DropPath,
    FixedGradientOptions,
    Penalised,
    Unpack,
    WeightDecay,
    WeightNesterov,
)
from oneshot.engine.samplers import EdgeNormalization, Perturbation, SoftmaxSampler
from oneshot.supernets.base import OperationSupernet


class PCDARTSOptions(
    FixedGradientOptions,
    WeightDecay,
    WeightNesterov,
    DropPath,
    AlphaStd,
    ArchBetas,
    ArchDecay,
    ArchEvery,
    ArchOptimizer,
    Penalised,
    total=False,
):
    """Options that :class:`PCDARTS` passes on."""

    perturbation: Perturbation | None


class PCDARTS(BilevelSearch):
    """DARTS on a part of the channels, with edges weighted against each other (arXiv:1907.05737).

    The channels that pass by are the supernet's business: build it with ``partial_channels=4``. Any method runs on such
    a supernet; what this one adds is the edge normalisation (equation 2), derivation by the product of both weights,
    and alphas that wait for the weights. Networks are retrained from scratch: nothing has weights for all channels.

    Defaults are the authors' for CIFAR-10 (50 epochs of which the alphas wait 15, batches of 256): weights by SGD 0.1
    to 0, alphas and betas by Adam 6e-4.

    Args:
        supernet: A supernet with ``partial_channels`` of 2 or more, whose nodes read several edges.
        weight_lr: See :class:`~oneshot.engine.gradient.GradientSearch`.
        weight_lr_min: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_lr: See :class:`~oneshot.engine.gradient.GradientSearch`.
        arch_warmup_epochs: See :class:`~oneshot.engine.gradient.GradientSearch`.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If the supernet reads all channels, or its space has no nodes with several edges.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = PCDARTS(NASBench201Supernet(channels=8, cells_per_stage=1, partial_channels=4))
        >>> search.sampler.edges()["cell"].round(decimals=1)[0]
        tensor(1., grad_fn=<SelectBackward0>)
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        weight_lr: float = 0.1,
        weight_lr_min: float = 0.0,
        arch_lr: float = 6e-4,
        arch_warmup_epochs: int = 15,
        **kwargs: Unpack[PCDARTSOptions],
    ) -> None:
        self.check_kind(supernet)
        if supernet.partial_channels == 1:
            raise ValueError(
                f"PC-DARTS needs a supernet with partial channels; this {type(supernet).__name__} reads all. Build it "
                "with partial_channels=4."
            )
        super().__init__(
            supernet,
            EdgeNormalization(SoftmaxSampler(), supernet.space),
            weight_lr=weight_lr,
            weight_lr_min=weight_lr_min,
            arch_lr=arch_lr,
            arch_warmup_epochs=arch_warmup_epochs,
            **kwargs,
        )
