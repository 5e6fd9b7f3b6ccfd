"""Labelled uint8 images, their augmentation as whole batches, and reproducible shuffling. Torch only.

All randomness of a training stream comes from its sampler: it yields ``(index, draw)`` pairs that depend on the seed,
the stream, the epoch and the pass, and the first draw of a batch seeds that batch's augmentation. Batches are therefore
the same for any number of workers, on any device, and whatever else uses torch's global random state.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, DistributedSampler

Batch = tuple[Tensor, Tensor]  # float32 [B, C, H, W], int64 [B] or, a label for every pixel, [B, H, W]
Stats = tuple[float, ...]  # one number per channel


class Pixels(Protocol):
    """Where images come from: a uint8 tensor ``[N, C, H, W]``, or anything that decodes on demand."""

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Images ``[B, C, H, W]``, uint8, of the given rows ``[B]``, int64."""


@dataclass(frozen=True)
class ImageSet:
    """Some rows of a pixel source with their labels. Subsets share the pixels.

    Args:
        pixels: The source, uint8 images.
        labels: Class indices, int64 ``[N]``, on the pixels' device; or masks, uint8 ``[N, H, W]``.
        rows: Row of each image in the source, int64 ``[N]``, CPU.
    """

    pixels: Pixels
    labels: Tensor
    rows: Tensor

    @classmethod
    def whole(cls, pixels: Pixels, labels: Tensor) -> ImageSet:
        """All images of a source in its order, with their labels or masks."""
        return cls(pixels, labels, torch.arange(len(labels)))

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> int:
        """Checksum of rows and labels, and of the pixels where they are in memory."""
        parts = [self.rows, self.labels, *([self.pixels] if isinstance(self.pixels, Tensor) else [])]
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part.cpu().contiguous().numpy().data, checksum)
        return checksum

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at ``indices`` (int64 ``[M]``, CPU) of this set."""
        return ImageSet(self.pixels, self.labels[indices.to(self.labels.device)], self.rows[indices])

    def split(self, fraction: float, *, seed: int) -> tuple[ImageSet, ImageSet]:
        """Two parts, see `stratified_split`; not stratified where every pixel has a label."""
        labels = self.labels if self.labels.ndim == 1 else torch.zeros(len(self))
        first, second = stratified_split(labels, fraction, seed=seed)
        return self.subset(first), self.subset(second)


def stratified_split(
    labels: Tensor, fraction: float, *, seed: int, names: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Splits indices into two disjoint parts that cover all of them and hold every class in proportion.

    Args:
        labels: Class indices, int64 ``[N]``.
        fraction: Share of the second part; each class is within one image of it.
        seed: Decides which images go where.
        names: Of the classes, for the error.

    Returns:
        Indices of the first and of the second part, ascending, int64, CPU.

    Raises:
        ValueError: If ``fraction`` is not inside (0, 1) or a class has one image only.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"A split needs a fraction strictly between 0 and 1; got {fraction}.")
    rng = np.random.default_rng(seed)
    array = labels.cpu().numpy()
    second: list[np.ndarray] = []
    wanted, taken = 0.0, 0
    for label in np.unique(array):
        members = rng.permutation(np.flatnonzero(array == label))
        if len(members) < 2:
            called = label if names is None else repr(names[int(label)])
            raise ValueError(
                f"Each class needs at least 2 images to be in both parts of a split; class {called} has "
                f"{len(members)}. Add images of it or leave the class out."
            )
        wanted += fraction * len(members)  # rounding the running total keeps the sum right, not only each class
        count = min(max(round(wanted) - taken, 1), len(members) - 1)
        taken += count
        second.append(members[:count])
    mask = np.zeros(len(array), dtype=bool)
    mask[np.concatenate(second)] = True
    return torch.from_numpy(np.flatnonzero(~mask)), torch.from_numpy(np.flatnonzero(mask))


def channel_statistics(images: Tensor) -> tuple[Stats, Stats]:
    """Exact mean and standard deviation of each channel, of values scaled to 0..1.

    Counts how often each of the 256 values occurs, so neither memory nor rounding grows with the number of images.

    Args:
        images: uint8 ``[N, C, H, W]``.

    Returns:
        Mean and (population) standard deviation per channel.

    Raises:
        ValueError: If all values of a channel are equal.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        share = torch.bincount(images[:, channel].flatten(), minlength=256).cpu().double()
        share /= share.sum()
        centre = (share * values).sum()
        spread = (share * (values - centre) ** 2).sum().sqrt().item()
        if spread == 0:
            raise ValueError(
                f"Normalisation needs values that differ; channel {channel} of {len(images)} training images is "
                f"{centre.item():.3f} everywhere. Check the images or pass mean and std."
            )
        mean.append(centre.item())
        std.append(spread)
    return tuple(mean), tuple(std)


def normalise(images: Tensor, mean: Stats, std: Stats) -> Tensor:
    """``(x / 255 - mean) / std`` per channel: uint8 ``[B, C, H, W]`` to float32 of the same shape."""
    x = images.float()
    centre = x.new_tensor(mean).view(-1, 1, 1) * 255
    return x.sub_(centre).div_(x.new_tensor(std).view(-1, 1, 1) * 255)


def shift_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Crops each image, at its own offset, from a version padded with zeros, and mirrors some of them.

    Args:
        images: ``[B, C, H, W]``.
        top: Row of the crop's corner in the padded image, 0..2 * padding, int64 ``[B]``.
        left: Column of the same corner, int64 ``[B]``.
        flip: Which crops are mirrored left to right, bool ``[B]``.
        padding: Pixels added on each side.

    Returns:
        ``[B, C, H, W]``, same type.
    """
    batch, channels, height, width = images.shape
    device = images.device
    columns = torch.arange(width, device=device).expand(batch, width)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + left[:, None]
    rows = torch.arange(height, device=device) + top[:, None]
    return F.pad(images, [padding] * 4)[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def cutout(images: Tensor, row: Tensor, column: Tensor, length: int) -> Tensor:
    """Zeroes, in place, one square per image; what lies outside the image is clipped off.

    DeVries & Taylor 2017, arXiv:1708.04552: the centre may be any pixel, so squares at a border are smaller.

    Args:
        images: Normalised images, ``[B, C, H, W]``; zero is then the mean colour.
        row: Row of the square's centre, int64 ``[B]``.
        column: Column of the square's centre, int64 ``[B]``.
        length: Side of the square in pixels; it starts ``length // 2`` before the centre.
    """

    def inside(centre: Tensor, size: int) -> Tensor:
        offset = torch.arange(size, device=images.device) - (centre[:, None] - length // 2)
        return (offset >= 0) & (offset < length)

    mask = inside(row, images.shape[2])[:, None, :, None] & inside(column, images.shape[3])[:, None, None, :]
    return images.masked_fill_(mask, 0)


class BatchAugmentation(Protocol):
    """Makes a batch of images and their labels, at random."""

    def on_batch(self, images: Tensor, labels: Tensor, mean: Stats, std: Stats, generator: torch.Generator) -> Batch:
        """Augments uint8 ``[B, C, H, W]`` to normalised float32, and with it what depends on it in the labels."""


@dataclass(frozen=True)
class Augmentation:
    """Random crop after zero padding, random mirroring, normalisation, cutout: on whole batches.

    Args:
        padding: Pixels added on each side before the crop back to the image's size; 0 is off.
        flip: Whether images are mirrored left to right with probability 1/2.
        cutout: Side of the zeroed square in pixels; 0 is off.
    """

    padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __call__(self, images: Tensor, mean: Stats, std: Stats, generator: torch.Generator) -> Tensor:
        """Augments uint8 ``[B, C, H, W]`` to normalised float32; ``generator`` is a CPU one for images anywhere."""
        batch, _, height, width = images.shape

        def draw(high: int) -> Tensor:
            return torch.randint(high, (batch,), generator=generator).to(images.device)

        # Every number is drawn whether used or not: turning one part off leaves the others as they were.
        top, left, mirrored = draw(2 * self.padding + 1), draw(2 * self.padding + 1), draw(2).bool()
        row, column = draw(height), draw(width)
        if self.padding or self.flip:
            images = shift_and_flip(images, top, left, mirrored & self.flip, self.padding)
        x = normalise(images, mean, std)
        return cutout(x, row, column, self.cutout) if self.cutout else x

    def on_batch(self, images: Tensor, labels: Tensor, mean: Stats, std: Stats, generator: torch.Generator) -> Batch:
        """The labels of whole images stay what they are."""
        return self(images, mean, std, generator), labels


class ImageStream(Dataset[Batch]):
    """Normalised, optionally augmented batches of an ``ImageSet``; a ``DataLoader`` fetches whole batches at once.

    Args:
        images: The images and labels.
        mean: Per-channel mean, of values scaled to 0..1.
        std: Per-channel standard deviation.
        augmentation: None for evaluation.
        transforms: Of evaluation, uint8 ``[B, C, H, W]`` and a seed to the same shape and type.
    """

    def __init__(
        self,
        images: ImageSet,
        mean: Stats,
        std: Stats,
        augmentation: BatchAugmentation | None = None,
        transforms: Callable[[Tensor, int], Tensor] | None = None,
    ) -> None:
        self.images, self.mean, self.std, self.augmentation = images, mean, std, augmentation
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int | tuple[int, int]) -> Batch:
        """One image ``[C, H, W]`` with its label ``[]`` or mask ``[H, W]``."""
        x, y = self.__getitems__([item])
        return x[0], y[0]

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> Batch:
        """A batch of plain indices, or of the ``(index, draw)`` pairs of `ShuffleSampler`."""
        pairs = [item if isinstance(item, tuple) else (item, None) for item in items]
        chosen = self.images.subset(torch.tensor([index for index, _ in pairs]))
        pixels, labels = chosen.pixels[chosen.rows], chosen.labels.long()
        if self.augmentation is None:
            if self.transforms is not None:
                pixels = self.transforms(pixels, 0)
            return normalise(pixels, self.mean, self.std), labels
        seed = pairs[0][1]
        if seed is None:  # another sampler, as with Lightning's overfit_batches: torch's global state has to do
            seed = int(torch.randint(2**62, ()))
        generator = torch.Generator().manual_seed(seed)
        return self.augmentation.on_batch(pixels, labels, self.mean, self.std, generator)


class ShuffleSampler(DistributedSampler[tuple[int, int]]):
    """Yields ``(index, draw)`` in an order that depends on the seed, the stream, the epoch and the pass within it.

    A ``DistributedSampler``, so that Lightning announces each epoch to it and does not put another in its place.
    A stream that is used up within an epoch is shuffled anew for the next pass.

    Args:
        dataset: What is sampled; its length counts.
        seed: Non-negative.
        stream: Tells streams that share a seed apart.
        epoch: The epoch to begin with.
        weights: How often each sample is drawn, in proportion, ``[N]``. A pass then has as many draws, with
            replacement. None draws every sample once.

    Raises:
        ValueError: If the weights are not one for each sample, not negative and not all 0.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        seed: int,
        stream: int = 0,
        epoch: int = 0,
        weights: Tensor | None = None,
    ) -> None:
        parallel = dist.is_available() and dist.is_initialized()
        super().__init__(
            dataset,
            num_replicas=dist.get_world_size() if parallel else 1,
            rank=dist.get_rank() if parallel else 0,
            seed=seed,
            drop_last=True,
        )
        self.stream, self.epoch, self.passes, self.skip = stream, epoch, 0, 0
        self.weights = None if weights is None else _shares(weights, len(dataset))  # type: ignore[arg-type]  # as below

    def set_epoch(self, epoch: int) -> None:
        """Starts another epoch; the number of the current one changes nothing."""
        if epoch != self.epoch:
            self.epoch, self.passes = epoch, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.stream, self.epoch, self.passes))
        self.passes += 1
        count = len(self.dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length
        order = rng.permutation(count) if self.weights is None else rng.choice(count, size=count, p=self.weights)
        draws = rng.integers(2**62, size=len(order))
        mine = slice(self.rank, self.total_size, self.num_replicas)
        first, self.skip = self.skip, 0
        yield from zip(order[mine][first:].tolist(), draws[mine][first:].tolist(), strict=True)


def _shares(weights: Tensor, count: int) -> np.ndarray:
    """Weights as shares that sum to 1, float64 ``[N]``."""
    array = weights.double().cpu().numpy()
    if array.shape != (count,) or not np.isfinite(array).all() or array.min() < 0 or array.sum() <= 0:
        raise ValueError(
            f"Sampling weights must be finite, not negative and not all 0, one for each of {count} samples; got "
            f"{list(array.shape)} from {array.min() if array.size else None} to {array.max() if array.size else None}."
        )
    return np.asarray(array / array.sum())


def balancing(labels: Tensor) -> Tensor:
    """Weights by which every class that occurs is drawn equally often: 1 over the number of samples of its class.

    Args:
        labels: int64 ``[N]``.

    Returns:
        float64 ``[N]``.
    """
    return torch.bincount(labels.cpu()).double().reciprocal()[labels.cpu()]


class StreamLoader(DataLoader[Batch]):
    """A loader that counts its batches, so that a fit can be resumed in the middle of an epoch.

    Lightning keeps its state in checkpoints. Order and augmentation follow from the `ShuffleSampler`, so the state is
    three numbers, and nothing is decoded to get back to where it was.
    """

    _given = 0
    _state: dict[str, int] | None = None

    def state_dict(self) -> dict[str, int]:
        """Epoch, passes begun in it, and batches given in the last of them."""
        if not isinstance(self.sampler, ShuffleSampler):
            return {}
        return {"epoch": self.sampler.epoch, "passes": self.sampler.passes, "batches": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there, if the sampler is still in that epoch when the first batch is asked for."""
        self._state = state

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator: nothing happens before it is asked
        state, self._state, self._given = self._state, None, 0
        begun = state is not None and state.get("passes", 0) > 0  # not of a tuner, which saves before the first batch
        if state and begun and isinstance(self.sampler, ShuffleSampler) and state["epoch"] == self.sampler.epoch:
            self._given = state["batches"]
            self.sampler.passes = state["passes"] - 1
            self.sampler.skip = self._given * (self.batch_size or 1)
        for batch in super().__iter__():
            self._given += 1
            yield batch
