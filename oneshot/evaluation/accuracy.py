"""How good sub-networks are with the weights they share."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from oneshot.supernets.base import Supernet, batch_statistics
from oneshot.supernets.space import SubnetConfig
from oneshot.training.batches import check_batch, check_labels, check_logits
from oneshot.training.tasks import IGNORED, metric_of

from .images import in_parts
from .recalibration import batch_norms, put_statistics, recalibrated, running_statistics

if TYPE_CHECKING:
    pass


@torch.no_grad()
def evaluate_configs(
    supernet: Supernet,
    configs: Sequence[SubnetConfig],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    calibration: Sequence[Tensor] = (),
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> list[float]:
    """Accuracies of architectures with the weights of the supernet, all on the same batches.

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
        total: Adds up counts ``[N + 1]`` over processes that have different batches.

    Returns:
        Accuracies between 0 and 1, of images, pixels or words, in the order of ``configs``.

    Raises:
        ValueError: If a config is not of this space, or there are no images.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> batch = torch.zeros(10, 3, 8, 8), torch.arange(10)  # images alike, of all classes
        >>> evaluate_configs(supernet, [supernet.space.sample(0)], [batch])
        [0.1]
    """
    for config in configs:
        supernet.space.validate(config)
    like, modes = next(supernet.parameters()), {module: module.training for module in supernet.modules()}
    counts = torch.zeros(len(configs) + 1, dtype=torch.float64 if like.device.type != "mps" else torch.float32)
    counts = counts.to(like.device)
    layers, own = batch_norms(supernet), []
    before = running_statistics(layers)
    try:
        for config in configs if calibration else ():
            with recalibrated(supernet, config, calibration):
                own.append(running_statistics(layers))
        supernet.eval()
        with contextlib.nullcontext() if calibration else batch_statistics(supernet):
            for x, y in batches:
                check_batch(supernet, x, y, first=True)  # where they lie; most often that is no device to wait for
                x, y = x.to(like if x.is_floating_point() else like.device), y.to(like.device)
                counted = y != IGNORED if supernet.task == "segmentation" else torch.ones_like(y, dtype=torch.bool)
                correct = []
                for i, config in enumerate(configs):
                    if own:
                        put_statistics(layers, own[i])
                    logits = supernet.run_config(x, config)
                    check_logits(logits, supernet, x)
                    correct.append(((logits.argmax(1) == y) & counted).sum())
                counts += torch.stack([*correct, counted.sum()]).to(counts)
    finally:
        if own:
            put_statistics(layers, before)
        for module, mode in modes.items():
            module.training = mode
    *right, images = total(counts).tolist()
    if not images:
        raise ValueError("An accuracy needs at least one image; got no batches. Pass a loader that is not used up.")
    return [count / images for count in right]


@torch.no_grad()
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
    # every process of a distributed fit has architectures of its own
    metric = metric_of(supernet.task, supernet.num_classes, sync=False).to(images.device)
    check_labels(labels, supernet.num_classes, supernet.task)
    with recalibrated(supernet, config, in_parts(calibration, batch_size)):
        for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
            logits = supernet.run_config(x, config)
            check_logits(logits, supernet, x)
            if not logits.isfinite().all():
                return math.nan
            metric.update(logits, y.to(x.device))
    return 1.0 - float(metric.compute())
