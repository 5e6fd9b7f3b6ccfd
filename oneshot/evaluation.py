"""How good sub-networks are with the weights they share."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from oneshot.supernets.base import Subnet, Supernet, batch_statistics
from oneshot.supernets.elastic import ElasticNetwork, ElasticSupernet, resized
from oneshot.supernets.space import SubnetConfig

from .batches import check_batch, check_labels, check_logits, check_shape
from .tasks import IGNORED, metric_of

if TYPE_CHECKING:
    import pytorch_lightning as pl


@contextlib.contextmanager
def recalibrated(supernet: Supernet, config: SubnetConfig, images: Iterable[Tensor]) -> Iterator[None]:
    """Inside, running statistics are those of one architecture, and the supernet is in eval mode.

    See :func:`recalibrate`. Afterwards everything is as it was before.

    Args:
        supernet: Shared weights.
        config: The architecture.
        images: Batches ``[B, C, H, W]`` of training images, as they are evaluated: not augmented.
    """
    layers, modes = _layers(supernet), {module: module.training for module in supernet.modules()}
    before = _statistics(layers)
    try:
        _set_statistics(supernet, images, lambda x: supernet.run_config(x, config))
        supernet.eval()
        yield
    finally:
        _put(layers, before)
        for module, mode in modes.items():
            module.training = mode


def recalibrate(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Give a network whose weights come from a supernet running statistics of its own.

    Those it inherits are a mixture of all architectures that were trained. Here they are computed anew as the plain
    mean over all batches: batch normalisation, and nothing else, is in training mode, with cumulative instead of
    exponential averages (Universally Slimmable Networks, arXiv:1903.05134, section 3.4). Nothing is trained.

    Args:
        network: Any network; its training flags are restored.
        images: Batches ``[B, C, H, W]`` of training images, not augmented.

    Raises:
        ValueError: If there are no images.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        _set_statistics(network, images, network)
    finally:
        for module, mode in modes.items():
            module.training = mode


def fitted(network: Supernet | Subnet, x: Tensor, config: SubnetConfig | None = None) -> Tensor:
    """Inputs as a network reads them: of its shape, on its device, in its type.

    Only images for elastic networks, whose space has resolutions, are resized, in their proportions; all others must
    have the shape the network was built for, to the last side. Numbers of words stay whole numbers, and texts may have
    any length.

    Args:
        network: A supernet or a network.
        x: ``[B, ...]``.
        config: The architecture that a supernet runs; needed for elastic ones.

    Raises:
        ValueError: If the inputs do not fit, naming both shapes.
    """
    shape = network.input_shape
    if isinstance(network, Supernet) and config is not None:
        shape = network.shape_of(config)
    like = next(network.parameters(), None)
    if like is not None:
        x = x.to(like if x.is_floating_point() else like.device)
    if isinstance(network, ElasticSupernet | ElasticNetwork) and x.dim() == 4 and x.shape[1] == shape[0]:
        return resized(x, shape[1:])
    check_shape(network, x, shape)
    return x


class FittedBatches:
    """Batches ``(x, y)`` with inputs as a network reads them, see :func:`fitted`.

    Args:
        batches: A loader.
        network: What reads them.
    """

    def __init__(self, batches: Any, network: Subnet) -> None:
        self.batches, self.network = batches, network

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.batches:
            yield fitted(self.network, x), y


def recalibrate_on(data: pl.LightningDataModule, network: Subnet, *, count: int = 2048, batch_size: int = 256) -> None:
    """:func:`recalibrate` on training images of a data module, at the resolution of the network.

    Does nothing where there is no batch normalisation.

    Args:
        data: Set up for a fit.
        network: See :func:`recalibrate`.
        count: Images.
        batch_size: Images in a batch.
    """
    if has_statistics(network):
        images = fitted(network, calibration_images(data, count, batch_size=batch_size))
        recalibrate(network, in_parts(images, batch_size))


def has_statistics(network: nn.Module) -> bool:
    """Whether a network has batch normalisation, and so something to recalibrate."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


@torch.no_grad()
def _set_statistics(module: nn.Module, images: Iterable[Tensor], run: Callable[[Tensor], Tensor]) -> None:
    layers = _layers(module)
    momenta, batches = [layer.momentum for layer in layers], 0
    module.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum, layer.training = None, True  # the mean of all batches
    like = next(module.parameters())
    try:
        for x in images:
            run(x.to(like if x.is_floating_point() else like.device))  # words stay whole numbers
            batches += 1
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    if not batches and layers:
        raise ValueError("Statistics need at least one batch of images; got none. Pass a loader that is not used up.")


def _layers(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]


def _statistics(layers: Sequence[nn.Module]) -> list[Tensor]:
    return [buffer.clone() for layer in layers for buffer in layer.buffers(recurse=False)]


@torch.no_grad()
def _put(layers: Sequence[nn.Module], statistics: Sequence[Tensor]) -> None:
    buffers = (buffer for layer in layers for buffer in layer.buffers(recurse=False))
    for buffer, value in zip(buffers, statistics, strict=True):
        buffer.copy_(value)


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
    layers, own = _layers(supernet), []
    before = _statistics(layers)
    try:
        for config in configs if calibration else ():
            with recalibrated(supernet, config, calibration):
                own.append(_statistics(layers))
        supernet.eval()
        with contextlib.nullcontext() if calibration else batch_statistics(supernet):
            for x, y in batches:
                check_batch(supernet, x, y, first=True)  # where they lie; most often that is no device to wait for
                x, y = x.to(like if x.is_floating_point() else like.device), y.to(like.device)
                counted = y != IGNORED if supernet.task == "segmentation" else torch.ones_like(y, dtype=torch.bool)
                correct = []
                for i, config in enumerate(configs):
                    if own:
                        _put(layers, own[i])
                    logits = supernet.run_config(x, config)
                    check_logits(logits, supernet, x)
                    correct.append(((logits.argmax(1) == y) & counted).sum())
                counts += torch.stack([*correct, counted.sum()]).to(counts)
    finally:
        if own:
            _put(layers, before)
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


def decode_images(
    data: pl.LightningDataModule, calibration: int, *, batch_size: int = 256
) -> tuple[Tensor, Tensor, Tensor]:
    """Validation images ``[N, C, H, W]``, their labels, and so many training images, all read once, none augmented.

    Training images of a data module without ``eval_loader`` come as :func:`training_images` has them, augmented if they
    are.

    Raises:
        ValueError: If there are no validation images.
    """
    validation = data.val_dataloader()
    if not validation:
        raise ValueError("Architectures are compared on validation images; there are none. Use val_fraction=0.1.")
    return (*joined(validation), calibration_images(data, calibration, batch_size=batch_size))


def calibration_images(data: pl.LightningDataModule, count: int, *, batch_size: int = 256) -> Tensor:
    """So many training images ``[N, C, H, W]``, if there are, not augmented; see :func:`decode_images`.

    Drawn by a fixed seed: in folders the images of a class stand together, and the first ones are of a class or two.
    """
    inner: Any = getattr(data, "data", data)
    if hasattr(inner, "eval_loader"):
        train = data.weights_images if hasattr(data, "weights_images") else inner.train_images
        drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]
        return first((x for x, _ in inner.eval_loader(train.subset(drawn), batch_size=batch_size)), count)
    return training_images(data.train_dataloader(), count, batch_size=batch_size)


def training_images(loader: Any, count: int, *, batch_size: int = 256) -> Tensor:
    """So many images of a training loader, ``[N, C, H, W]``, if there are; the same ones every time.

    Drawn by a fixed seed from its data set, however it shuffles and whichever part of it is this process's; of a loader
    without one, the first. Random augmentation is seeded, too, and nobody else's random numbers are touched.
    """
    loader = loader["weights"] if isinstance(loader, Mapping) else loader
    with _own_random_numbers():
        if _is_shuffleable(loader):
            drawn: Any = Subset(loader.dataset, torch.randperm(len(cast(Sized, loader.dataset)))[:count].tolist())
            loader = DataLoader(drawn, batch_size, collate_fn=loader.collate_fn)
        batches = (batch["weights"] if isinstance(batch, Mapping) else batch for batch in loader)
        return first((batch[0] for batch in batches), count)


def mixed(loader: Iterable[Any]) -> list[Any]:
    """One batch, drawn from all that a loader has: the same one every time. Nobody's random numbers are touched."""
    with _own_random_numbers():
        return list(islice(shuffled(loader), 1))


def shuffled(loader: Iterable[Any], seed: int = 0) -> Iterable[Any]:
    """The batches of a loader, each drawn from all it has: in order, a batch of a folder would be of a class or two.

    What is no ``DataLoader`` over a data set with a length, such as a list, stays as it is.
    """
    if not _is_shuffleable(loader):
        return loader
    size = max(2, loader.batch_size or 0)  # one image has no variance
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(loader.dataset, size, shuffle=True, collate_fn=loader.collate_fn, generator=generator)


def _is_shuffleable(loader: Iterable[Any]) -> TypeGuard[DataLoader[Any]]:
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return False
    return not isinstance(loader.dataset, IterableDataset)


@contextlib.contextmanager
def _own_random_numbers() -> Iterator[None]:
    with isolate_rng():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield


def in_parts(images: Tensor, most: int) -> tuple[Tensor, ...]:
    """Batches of at most so many, as large as each other up to one: the mean over batches is that of the images.

    A last batch of a few would count as much as the others, and of one image there is no variance.
    """
    return torch.tensor_split(images, max(1, math.ceil(len(images) / most)))


def joined(batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All images and labels of a loader."""
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def first(batches: Iterable[Tensor], count: int) -> Tensor:
    """The first images of batches, so many if there are."""
    taken: list[Tensor] = []
    for x in batches:
        taken.append(x)
        if sum(map(len, taken)) >= count:
            break
    return torch.cat(taken)[:count] if taken else torch.empty(0)
