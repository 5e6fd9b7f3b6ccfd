"""How good sub-networks are with the weights they share, by the metric of their task."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from oneshot._lightning import is_sum
from oneshot.inputs import Inputs, cast, split
from oneshot.supernets.base import Subnet, Supernet, batch_statistics, restored_modes
from oneshot.supernets.space import SubnetConfig
from oneshot.training.batches import check_batch, check_logits

from .images import in_parts
from .recalibration import batch_norms, put_statistics, recalibrated, running_statistics


def evaluate_configs(
    supernet: Supernet,
    configs: Sequence[SubnetConfig],
    batches: Iterable[tuple[Any, Tensor]],
    *,
    calibration: Sequence[Inputs] = (),
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> list[float]:
    """How good architectures are with the weights of the supernet, by the metric of its task, all on the same batches.

    Of a classification that is the accuracy, of a segmentation the mean intersection over union; what is better, more
    or less, says :attr:`oneshot.tasks.Task.direction`. An architecture whose outputs are not finite has the worst
    value (:attr:`~oneshot.tasks.Task.worst`): accuracy 0.

    The running statistics of batch normalisation are those of a mixture of all architectures that were trained, of no
    single one (D-X-Y/AutoDL-Projects, issue 115). In their place are every architecture's own, as :func:`recalibrated`
    sets them, or without ``calibration`` those of each batch: then large batches of all classes are part of the
    measurement. Nothing of the supernet changes.

    Args:
        supernet: Shared weights.
        configs: Architectures of its space.
        batches: Inputs ``[B, ...]`` and targets ``[B, ...]``; read once, moved to the supernet's device and type.
        calibration: Batches of training inputs ``[B, ...]``, not augmented.
        total: Adds up counts, of any number, over processes that have different batches. Metrics that are no function
            of sums are gathered by torchmetrics then.

    Returns:
        Values of the metric, in the order of ``configs``.

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
    sums = all(map(is_sum, metrics))
    states = [state for metric in metrics for state in _states(metric)] if sums else []
    parts, digits = [*states, failures, places], torch.float64 if places.device.type != "mps" else torch.float32
    counts = total(torch.cat([part.flatten().to(digits) for part in parts])).cpu().double()
    *totals, failures, places = torch.split(counts, [part.numel() for part in parts])
    if not places:
        raise ValueError(
            "An accuracy must be of at least one image; got no batches. Pass a loader that is not used up."
        )
    values, accuracies = iter(totals), []
    for metric, failed in zip(metrics, failures.tolist(), strict=True):
        for name, state in metric.metric_state.items() if sums else ():
            assert isinstance(state, Tensor)
            setattr(metric, name, next(values).view_as(state))
        if not sums:
            metric.sync()  # does nothing in one process
        accuracies.append(supernet.task.worst if failed else float(metric.compute()))
    return accuracies


def _states(metric: Metric) -> list[Tensor]:
    return [state for state in metric.metric_state.values() if isinstance(state, Tensor)]


def inherited_error(
    supernet: Supernet,
    config: SubnetConfig,
    images: Inputs,
    labels: Tensor,
    calibration: Inputs,
    *,
    batch_size: int = 256,
) -> float:
    """Validation error of one architecture with inherited weights, after :func:`recalibrated`; NaN if it overflows.

    The error is that of the metric of the task (:meth:`~oneshot.tasks.Task.error`): 1 minus the accuracy, 1 minus R2,
    or the mean absolute error itself.

    Args:
        supernet: Shared weights; nothing of it changes.
        config: The architecture.
        images: Validation inputs of its resolution, ``[N, ...]``.
        labels: Targets, ``[N, ...]``.
        calibration: Training inputs of its resolution, ``[M, ...]``.
        batch_size: Images in a batch.
    """
    batches = zip(split(images, batch_size), torch.split(labels, batch_size), strict=True)
    (metric,), failures, _ = _run(supernet, [config], batches, in_parts(calibration, batch_size))
    return math.nan if failures else supernet.task.error(float(metric.compute()))


@torch.no_grad()
def score(network: Subnet, images: Inputs, labels: Tensor, batch_size: int = 256) -> float:
    """How good a network of its own is, by the metric of its task.

    Args:
        network: Left in eval mode.
        images: ``[N, *input_shape]``, on its device.
        labels: Targets, ``[N, ...]``.
        batch_size: Images in a batch.
    """
    network.eval()
    metric = network.task.metric(network.num_classes).to(labels.device)
    for x, y in zip(split(images, batch_size), torch.split(labels, batch_size), strict=True):
        check_batch(network, x, y, first=True)
        logits = network(x)
        check_logits(logits, network, x)
        metric.update(*network.task.for_metric(logits, y))
    return float(metric.compute())


@torch.no_grad()
def _run(
    supernet: Supernet,
    configs: Sequence[SubnetConfig],
    batches: Iterable[tuple[Any, Tensor]],
    calibration: Sequence[Inputs],
) -> tuple[list[Metric], Tensor, Tensor]:
    """Metric of every architecture, how many of its batches overflowed ``[N]``, and the number of labels ``[]``."""
    for config in configs:
        supernet.space.validate(config)
    like, task = next(supernet.parameters()), supernet.task
    # Every process of a distributed fit may have architectures of its own, so metrics exchange nothing by themselves.
    metrics = [task.metric(supernet.num_classes, sync=False).to(like.device) for _ in configs]
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
                    x, y = cast(x, like), y.to(like.device)
                    places += task.counted(y)
                    for i, config in enumerate(configs):
                        if own:
                            put_statistics(layers, own[i])
                        logits = supernet.run_config(x, config)
                        check_logits(logits, supernet, x)
                        failures[i] += ~logits.isfinite().all()
                        metrics[i].update(*task.for_metric(logits, y))
        finally:
            if own:
                put_statistics(layers, before)
    return metrics, failures, places
