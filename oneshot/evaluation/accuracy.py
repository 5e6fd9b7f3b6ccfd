"""How good sub-networks are with the weights they share, by the metric of their task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor
from torchmetrics import Metric

from oneshot.supernets.base import Subnet, Supernet, batch_statistics, restored_modes
from oneshot.supernets.space import SubnetConfig
from oneshot.training.batches import check_batch, check_labels, check_logits
from oneshot.training.tasks import IGNORED, metric_of

from .images import in_parts
from .recalibration import batch_norms, put_statistics, recalibrated, running_statistics


def evaluate_configs(
    supernet: Supernet,
    configs: Sequence[SubnetConfig],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    calibration: Sequence[Tensor] = (),
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> list[float]:
    """Accuracies of architectures with the weights of the supernet, all on the same batches.

    The metric is that of the task (:func:`~oneshot.training.tasks.metric_of`): the share of images or words that are
    right, in segmentation the mean intersection over union. An architecture whose logits are not finite has 0.

    The running statistics of batch normalisation are those of a mixture of all architectures that were trained, of no
    single one (D-X-Y/AutoDL-Projects, issue 115). In their place are every architecture's own, as :func:`recalibrated`
    sets them, or without ``calibration`` those of each batch: then large batches of all classes are part of the
    measurement. Nothing of the supernet changes.

    Args:
        supernet: Shared weights.
        configs: Architectures of its space.
        batches: Images ``[B, C, H, W]`` and labels ``[B]``, or ``[B, H, W]`` of pixels, or texts with the next words
            ``[B, T]``; read once, moved to the supernet's device and type.
        calibration: Batches of training images ``[B, C, H, W]``, not augmented.
        total: Adds up counts, of any number, over processes that have different batches.

    Returns:
        Accuracies between 0 and 1, in the order of ``configs``.

    Raises:
        ValueError: If a config is not of this space, or there are no images.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> batch = torch.zeros(10, 3, 8, 8), torch.arange(10)  # images alike, of all classes
        >>> evaluate_configs(supernet, [supernet.space.sample(0)], [batch])
        [0.1]
    """
    metrics, failures, places = _run(supernet, configs, batches, calibration)
    states = [cast(Tensor, value) for metric in metrics for value in metric.metric_state.values()]
    parts, digits = [*states, failures, places], torch.float64 if places.device.type != "mps" else torch.float32
    counts = total(torch.cat([part.flatten().to(digits) for part in parts])).cpu().double()
    *totals, failures, places = torch.split(counts, [part.numel() for part in parts])
    if not places:
        raise ValueError(
            "An accuracy must be of at least one image; got no batches. Pass a loader that is not used up."
        )
    values, accuracies = iter(totals), []
    for metric, failed in zip(metrics, failures.tolist(), strict=True):
        for name, state in metric.metric_state.items():
            setattr(metric, name, next(values).view_as(cast(Tensor, state)))
        accuracies.append(0.0 if failed else float(metric.compute()))
    return accuracies


def inherited_error(
    supernet: Supernet,
    config: SubnetConfig,
    images: Tensor,
    labels: Tensor,
    calibration: Tensor,
    *,
    batch_size: int = 256,
) -> float:
    """Validation error of one architecture with inherited weights, after :func:`recalibrated`; NaN if it overflows.

    Args:
        supernet: Shared weights; nothing of it changes.
        config: The architecture.
        images: Validation images of its resolution, ``[N, C, H, W]``.
        labels: ``[N]``, or ``[N, H, W]``.
        calibration: Training images of its resolution, ``[M, C, H, W]``.
        batch_size: Images in a batch.
    """
    batches = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    (metric,), failures, _ = _run(supernet, [config], batches, in_parts(calibration, batch_size))
    return math.nan if failures else 1.0 - float(metric.compute())


@torch.no_grad()
def score(network: Subnet, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Accuracy of a network of its own, by the metric of its task.

    Args:
        network: Left in eval mode.
        images: ``[N, *input_shape]``, on its device.
        labels: ``[N]``, or ``[N, H, W]``.
        batch_size: Images in a batch.
    """
    network.eval()
    metric = metric_of(network.task, network.num_classes).to(images.device)
    check_labels(labels, network.num_classes, network.task)
    for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
        logits = network(x)
        check_logits(logits, network, x)
        metric.update(logits, y)
    return float(metric.compute())


@torch.no_grad()
def _run(
    supernet: Supernet,
    configs: Sequence[SubnetConfig],
    batches: Iterable[tuple[Tensor, Tensor]],
    calibration: Sequence[Tensor],
) -> tuple[list[Metric], Tensor, Tensor]:
    """Metric of every architecture, how many of its batches overflowed ``[N]``, and the number of labels ``[]``."""
    for config in configs:
        supernet.space.validate(config)
    like = next(supernet.parameters())
    # Every process of a distributed fit may have architectures of its own, so metrics exchange nothing by themselves.
    metrics = [metric_of(supernet.task, supernet.num_classes, sync=False).to(like.device) for _ in configs]
    failures = torch.zeros(len(configs), device=like.device)
    places = torch.zeros((), dtype=torch.int64, device=like.device)
    layers, own = batch_norms(supernet), []
    before = running_statistics(layers)
    with restored_modes(supernet):
        try:
            for config in configs if calibration else ():
                with recalibrated(supernet, config, calibration):
                    own.append(running_statistics(layers))
            supernet.eval()
            with nullcontext() if calibration else batch_statistics(supernet):
                for x, y in batches:
                    check_batch(supernet, x, y, first=True)  # where they lie; most often that is no device to wait for
                    x, y = x.to(like if x.is_floating_point() else like.device), y.to(like.device)
                    places += (y != IGNORED).sum() if supernet.task == "segmentation" else y.numel()
                    for i, config in enumerate(configs):
                        if own:
                            put_statistics(layers, own[i])
                        logits = supernet.run_config(x, config)
                        check_logits(logits, supernet, x)
                        failures[i] += ~logits.isfinite().all()
                        metrics[i].update(logits, y)
        finally:
            if own:
                put_statistics(layers, before)
    return metrics, failures, places
