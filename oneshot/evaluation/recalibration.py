"""Statistics of batch normalisation that belong to one sub-network, not to the mixture of all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from oneshot._lightning import BatchNorm
from oneshot.inputs import Inputs, cast
from oneshot.supernets.base import Subnet, Supernet, restored_modes
from oneshot.supernets.space import SubnetConfig
from oneshot.training.head import fit_head

from .images import calibration_samples, fitted, in_parts

if TYPE_CHECKING:
    import pytorch_lightning as pl


@contextlib.contextmanager
def recalibrated(supernet: Supernet, config: SubnetConfig, images: Iterable[Any]) -> Iterator[None]:
    """Inside, running statistics are those of one architecture, and the supernet is in eval mode.

    See :func:`recalibrate`. Afterwards everything is as it was before. Where statistics are frozen
    (``supernet.frozen_statistics``), they stay.

    Args:
        supernet: Shared weights.
        config: The architecture.
        images: Batches ``[B, C, H, W]`` of training images, as they are evaluated: not augmented.
    """
    layers = batch_norms(supernet)
    before = running_statistics(layers)
    with restored_modes(supernet):
        try:
            _set_statistics(supernet, images, lambda x: supernet.run_config(x, config))
            supernet.eval()
            yield
        finally:
            put_statistics(layers, before)


def recalibrate(network: nn.Module, images: Iterable[Any]) -> None:
    """Compute running statistics of batch normalisation for a network whose weights come from a supernet.

    Those it inherits are a mixture of all architectures that were trained. Here they are computed anew as the plain
    mean over all batches: batch normalisation, and nothing else, is in training mode, with cumulative instead of
    exponential averages (Universally Slimmable Networks, arXiv:1903.05134, section 3.4). Nothing is trained. Where
    statistics are frozen (``network.frozen_statistics``), nothing happens.

    Args:
        network: Any network; its training flags are restored.
        images: Batches ``[B, C, H, W]`` of training images, not augmented.

    Raises:
        ValueError: If there are no images.
    """
    with restored_modes(network):
        _set_statistics(network, images, network)


def recalibrate_on(data: pl.LightningDataModule, network: Subnet, *, count: int = 2048, batch_size: int = 256) -> None:
    """:func:`calibrate` on training samples of a data module, at the resolution of the network.

    Args:
        data: Set up for a fit.
        network: See :func:`calibrate`.
        count: Samples.
        batch_size: Samples in a batch.
    """
    if needs_samples(network):
        images, labels = calibration_samples(data, count, batch_size=batch_size)
        calibrate(network, fitted(network, images), labels, batch_size=batch_size)


def calibrate(network: Subnet, images: Inputs, labels: Tensor, *, batch_size: int = 256) -> None:
    """Give a network that was extracted what is its own: statistics (:func:`recalibrate`), and its head.

    The head is fitted (:func:`~oneshot.training.head.fit_head`) where the supernet has said so (``network.own_head``).

    Args:
        network: Changes in place.
        images: Training inputs as it reads them, not augmented, ``[N, ...]``.
        labels: Their targets, ``[N, ...]``.
        batch_size: Samples in a batch.

    Raises:
        HeadError: If the features of the network tell nothing.
    """
    parts = in_parts(images, batch_size)
    recalibrate(network, parts)
    if network.own_head:
        fit_head(network, zip(parts, torch.tensor_split(labels, len(parts)), strict=True))


def needs_samples(network: nn.Module) -> bool:
    """Whether there is anything that :func:`calibrate` changes."""
    return has_statistics(network) or getattr(network, "own_head", False)


def has_statistics(network: nn.Module) -> bool:
    """Whether a network has batch normalisation whose statistics are not frozen, and so something to recalibrate."""
    frozen = getattr(network, "frozen_statistics", False)
    return not frozen and any(isinstance(module, BatchNorm) for module in network.modules())


@torch.no_grad()
def _set_statistics(module: nn.Module, images: Iterable[Any], run: Callable[[Any], Tensor]) -> None:
    if getattr(module, "frozen_statistics", False):
        return
    layers = batch_norms(module)
    momenta, batches = [layer.momentum for layer in layers], 0
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum, layer.training = None, True  # the mean of all batches
    like = next(module.parameters())
    try:
        for x in images:
            run(cast(x, like))  # words stay whole numbers
            batches += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    if not batches and layers:
        raise ValueError(
            "Statistics must be computed from at least one batch; got none. Pass a loader that is not used up."
        )


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """The layers that keep statistics which may be computed anew: none where they are frozen."""
    if getattr(module, "frozen_statistics", False):
        return []
    return [m for m in module.modules() if isinstance(m, BatchNorm) and m.track_running_stats]


def running_statistics(layers: Sequence[nn.Module]) -> list[Tensor]:
    """Copies of what the layers keep, for :func:`put_statistics`."""
    return [buffer.clone() for layer in layers for buffer in layer.buffers(recurse=False)]


@torch.no_grad()
def put_statistics(layers: Sequence[nn.Module], statistics: Sequence[Tensor]) -> None:
    """Set the statistics that :func:`running_statistics` has copied."""
    buffers = (buffer for layer in layers for buffer in layer.buffers(recurse=False))
    for buffer, value in zip(buffers, statistics, strict=True):
        buffer.copy_(value)
