"""How good sub-networks are with the weights they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from oneshot.supernets.base import Supernet, batch_statistics
from oneshot.supernets.space import SubnetConfig

from .tasks import IGNORED


@torch.no_grad()
def evaluate_configs(
    supernet: Supernet,
    configs: Sequence[SubnetConfig],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    total: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> list[float]:
    """Accuracies of architectures with the weights of the supernet, all on the same batches.

    Batch normalisation uses the statistics of each batch: the running ones are those of a mixture of all architectures
    that were trained, of no single one (D-X-Y/AutoDL-Projects, issue 115). Large batches of all classes are therefore
    part of the measurement. Nothing of the supernet changes.

    Args:
        supernet: Shared weights.
        configs: Architectures of its space.
        batches: Images ``[B, C, H, W]`` and labels ``[B]``, or ``[B, H, W]`` of pixels, or texts with the next words
            ``[B, T]``; read once, moved to the supernet's device and type.
        total: Adds up counts ``[N + 1]`` over processes that have different batches.

    Returns:
        Accuracies between 0 and 1, of images, pixels or words, in the order of ``configs``.

    Raises:
        ValueError: If a config is not of this space, or there are no images.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> batch = torch.zeros(5, 3, 8, 8), torch.full((5,), -1)
        >>> evaluate_configs(supernet, [supernet.space.sample(0)], [batch])
        [0.0]
    """
    for config in configs:
        supernet.space.validate(config)
    like, modes = next(supernet.parameters()), {module: module.training for module in supernet.modules()}
    counts = torch.zeros(len(configs) + 1, dtype=torch.float64 if like.device.type != "mps" else torch.float32)
    counts = counts.to(like.device)
    supernet.eval()
    try:
        with batch_statistics(supernet):
            for x, y in batches:
                x, y = x.to(like if x.is_floating_point() else like.device), y.to(like.device)
                counted = y != IGNORED if supernet.task == "segmentation" else torch.ones_like(y, dtype=torch.bool)
                correct = [((supernet.run_config(x, config).argmax(1) == y) & counted).sum() for config in configs]
                counts += torch.stack([*correct, counted.sum()]).to(counts)
    finally:
        for module, mode in modes.items():
            module.training = mode
    *right, images = total(counts).tolist()
    if not images:
        raise ValueError("An accuracy needs at least one image; got no batches. Pass a loader that is not used up.")
    return [count / images for count in right]
