"""Image classification data as Lightning data modules: loaders that augment the training stream and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.training.batches import check_labels

from .base import LabelledData
from .base import Split as Split
from .images import (
    Augmentation,
    BatchAugmentation,
    ImageSet,
    ImageStream,
    Stats,
    channel_statistics,
    stratified_split,
)
from .options import Unpack, VisionOptions
from .preprocessing import of_arrays, with_transforms
from .transforms import transforms_of

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""


class VisionData(LabelledData[ImageSet], ABC):
    """Images with one label each: what is common to all data sets.

    A data set supplies ``load``; everything that sizes a network (``num_classes``, ``input_shape``) is known after
    construction, images are read on first use. Batches are ``(x, y)``: normalised float32 ``[B, C, H, W]`` and int64
    ``[B]``.

    Args:
        classes: Class names in the order of the labels.
        input_shape: Channels, height, width.
        batch_size: Images in a batch.
        num_workers: Processes that prepare batches; 0 is fastest for images held in memory.
        seed: Order and augmentation of the training stream, and the validation split, depend on it and on nothing else;
            by default the seed of ``pl.seed_everything``, or 0 before it was called.
        val_fraction: Share of the training images held back for validation, stratified; 0 gives no validation stream.
        crop_padding: Zero pixels on each side before the random crop; by default an eighth of the image (4 for 32).
        flip: Whether to mirror images left to right at random; by default as suits the data set (``flips``).
        cutout: Side in pixels of the square that is zeroed after normalisation; 0 is off.
        mean: Per-channel mean of values scaled to 0..1; with ``std``, instead of the data set's own.
        std: Per-channel standard deviation.
        device: Where the images live; other than "cpu" makes batches on that device, without workers.
        balanced: Whether the training stream draws every class equally often, with replacement.
        train_transforms: Transforms of training images, such as those of ``torchvision.transforms.v2``, instead of
            crop, mirroring and cutout. They take and give uint8 ``[C, H, W]`` of ``input_shape``; the normalisation
            follows. Their random numbers follow from ``seed``, and a fit can be resumed within an epoch.
        eval_transforms: Transforms of all other images, which must not be random; by default none. Mean and deviation
            are those of images without them.
        weigh_classes: Whether ``task`` is a classification whose loss weighs classes by inverse frequency.

    Raises:
        ValueError: If an argument is out of its range or two contradict each other.
    """

    flips: ClassVar[bool] = True  # whether a mirrored image keeps its label
    statistics_sample: ClassVar[int | None] = None  # how many training images mean and std come from; None is all

    def __init__(
        self,
        classes: Sequence[str],
        input_shape: tuple[int, int, int],
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
        val_fraction: float = 0.0,
        crop_padding: int | None = None,
        flip: bool | None = None,
        cutout: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: str = "cpu",
        balanced: bool | None = None,
        train_transforms: list[nn.Module] | None = None,
        eval_transforms: list[nn.Module] | None = None,
        weigh_classes: bool | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            val_fraction=val_fraction,
            balanced=balanced,
            weigh_classes=weigh_classes,
        )
        self.classes = tuple(classes)
        self.input_shape = input_shape
        channels, side = input_shape[0], min(input_shape[1:])
        padding = round(side / 8) if crop_padding is None else crop_padding
        if len(self.classes) < 2:
            raise ValueError(f"Classification needs at least two classes; got {self.classes}. Add another one.")
        if not 0 <= padding <= side:
            raise ValueError(f"crop_padding must be between 0 and the image's side of {side}; got {padding}. 0 is off.")
        if not 0 <= cutout <= side:
            raise ValueError(f"cutout must be between 0 and the image's side of {side}; got {cutout}. 0 is off.")
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std belong together; got mean={mean}, std={std}. Give both or neither.")
        if mean is not None and std is not None and not len(mean) == len(std) == channels:
            raise ValueError(f"mean and std need one number per channel, {channels}; got mean={mean}, std={std}.")
        if std is not None and min(std) <= 0:
            raise ValueError(f"std must be positive; got {std}.")
        if device != "cpu" and num_workers:
            raise ValueError(
                f"Images on {device!r} cannot be shared with worker processes; got num_workers={num_workers}. "
                "Use num_workers=0 (--data.init_args.num_workers 0) or device='cpu'."
            )
        self.augmentation: BatchAugmentation = Augmentation(padding, self.flips if flip is None else flip, cutout)
        self.device = torch.device(device)
        self.eval_transforms = transforms_of(eval_transforms, input_shape, "eval_transforms", random=False)
        transforms = transforms_of(train_transforms, input_shape, "train_transforms", random=True)
        if transforms is not None:
            if crop_padding is not None or flip is not None or cutout:
                raise ValueError(
                    "train_transforms come instead of crop_padding, flip and cutout; got both. Add torchvision's "
                    "RandomCrop, RandomHorizontalFlip or RandomErasing to them."
                )
            self.augmentation = transforms
        if device != "cpu" and (train_transforms or eval_transforms):
            raise ValueError(f"Transforms work on images in the CPU's memory; got device={device!r}. Use device='cpu'.")
        self._given = None if mean is None or std is None else (tuple(mean), tuple(std))

    @abstractmethod
    def load(self, split: Split) -> ImageSet | None:
        """Reads one split; None for "val" when the data set has none of its own (then ``val_fraction`` decides)."""

    def statistics(self) -> tuple[Stats, Stats]:
        """Mean and standard deviation per channel; overridden by data sets with well-known values."""
        images = self.train_images
        count = len(images) if self.statistics_sample is None else min(self.statistics_sample, len(images))
        rows = images.rows[torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()]
        return channel_statistics(images.pixels[rows])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @cached_property
    def _statistics(self) -> tuple[Stats, Stats]:
        return self._given or self.statistics()

    @property
    def mean(self) -> Stats:
        """Per-channel mean of values scaled to 0..1. May read training images."""
        return self._statistics[0]

    @property
    def std(self) -> Stats:
        """Per-channel standard deviation of values scaled to 0..1. May read training images."""
        return self._statistics[1]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What was done to an image before a network sees it, for manifests. May read training images."""
        done = of_arrays(self.input_shape, self.mean, self.std, source=self.source)
        return with_transforms(done, self.eval_transforms)

    @property
    def source(self) -> str:
        """Where the pixels are from, for `preprocessing`."""
        return f"{type(self).__name__}, images of {self.input_shape[1]}x{self.input_shape[2]} pixels"

    def _read(self, split: Split) -> ImageSet | None:
        images = self.load(split)
        if images is not None and images.labels.dim() != 3:  # masks are checked as they are read
            if images.labels.dim() != 1 or len(images.labels) != len(images.rows):
                raise ValueError(
                    f"Every image has one label, [N]; {type(self).__name__}.load({split!r}) gave {len(images.rows)} "
                    f"images and labels of shape {list(images.labels.shape)}. Number the classes from 0; of one-hot "
                    "labels take labels.argmax(1)."
                )
            check_labels(images.labels, self.num_classes)
        if images is None or self.device.type == "cpu":
            return images
        if not isinstance(images.pixels, Tensor):
            raise ValueError(
                f"Only images decoded in memory can live on {self.device}; these are read on demand. "
                "Pass in_memory=True or device='cpu'."
            )
        return ImageSet(images.pixels.to(self.device), images.labels.to(self.device), images.rows)

    @property
    def train_images(self) -> ImageSet:
        """Training images, without those held back for validation."""
        return self.train_set

    @property
    def val_images(self) -> ImageSet | None:
        """Validation images; None when nothing is held back."""
        return self.val_set

    @property
    def test_images(self) -> ImageSet:
        """Held-out test images."""
        return self.test_set

    def setup(self, stage: str | None = None) -> None:
        """Reads the images, once."""
        super().setup(stage)
        _ = self._statistics

    def dataset(self, samples: ImageSet, *, train: bool) -> ImageStream:
        """Images as normalised batches, in training augmented."""
        return ImageStream(
            samples, self.mean, self.std, self.augmentation if train else None, None if train else self.eval_transforms
        )

    def fingerprint(self) -> dict[str, Any]:
        """Plain values, by name, that decide which batches a training sees."""
        return {
            **super().fingerprint(),
            "augmentation": repr(self.augmentation),
            **({"eval transforms": repr(self.eval_transforms)} if self.eval_transforms else {}),
            "mean and std": repr(self._statistics),
        }

    _samples = "images"

    @property
    def _on_cpu(self) -> bool:  # type: ignore[override]  # it is where the images live
        return self.device.type == "cpu"


class Digits(VisionData):
    """Handwritten digits, 8x8, one channel, 1,797 images, bundled with scikit-learn: works with no data at hand.

    Args:
        image_size: Side in pixels, at least 8; larger ones are interpolated bilinearly.
        split_seed: Which fifth of each class is the test set; leave it alone to compare results.
        **options: See `VisionData`.

    Raises:
        ValueError: If ``image_size`` is below 8.
    """

    flips = False

    def __init__(self, *, image_size: int = 8, split_seed: int = 0, **options: Unpack[VisionOptions]) -> None:
        if image_size < 8:
            raise ValueError(f"The digits are 8x8; image_size must be at least 8, got {image_size}.")
        super().__init__(tuple("0123456789"), (1, image_size, image_size), **options)
        self.split_seed = split_seed

    @property
    def source(self) -> str:
        """Scikit-learn's images have values of 0 to 16 and 8x8 pixels."""
        size = self.input_shape[1]
        larger = f", interpolated bilinearly to {size}x{size} (align_corners=False)" if size != 8 else ""
        return f"sklearn.datasets.load_digits().images * 255 / 16{larger}, rounded to uint8"

    def load(self, split: Split) -> ImageSet | None:
        """Test is a fixed stratified fifth, 359 images."""
        from sklearn.datasets import load_digits

        if split == "val":
            return None
        digits = load_digits()
        pixels = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)  # the source counts 0..16
        if self.input_shape[1] != 8:
            pixels = F.interpolate(pixels, self.input_shape[1:], mode="bilinear", align_corners=False)
        images = ImageSet.whole(pixels.round().byte(), torch.from_numpy(digits.target).long())
        train, test = stratified_split(images.labels, 0.2, seed=self.split_seed)
        return images.subset(train if split == "train" else test)


class TorchvisionData(VisionData):
    """A data set that torchvision downloads and reads; held in memory.

    Args:
        root: Folder with the data.
        download: Whether ``prepare_data`` may fetch the data into ``root`` if they are not there.
        **options: See `VisionData`.
    """

    names: ClassVar[tuple[str, ...]]
    shape: ClassVar[tuple[int, int, int]]
    known: ClassVar[tuple[Stats, Stats]]  # mean and std of the training images

    def __init__(self, root: str | Path = "data", *, download: bool = False, **options: Unpack[VisionOptions]) -> None:
        super().__init__(self.names, self.shape, **options)
        self.root, self.download = Path(root), download

    def _open(self, *, train: bool, download: bool = False) -> Any:
        import torchvision.datasets

        return getattr(torchvision.datasets, type(self).__name__)(self.root, train=train, download=download)

    def prepare_data(self) -> None:
        """Downloads the data set if ``download`` is set."""
        if self.download:
            self._open(train=True, download=True)
            self._open(train=False, download=True)

    def load(self, split: Split) -> ImageSet | None:
        """Reads a split.

        Raises:
            FileNotFoundError: If the data are not in ``root``, or not whole.
        """
        if split == "val":
            return None
        try:
            dataset = self._open(train=split == "train")
        except RuntimeError as error:
            raise FileNotFoundError(
                f"{type(self).__name__} is read from the folder {str(self.root.absolute())!r}, which does not hold all "
                "of it. Name the right folder as root, or pass download=True and call prepare_data() (Trainer does)."
            ) from error
        pixels = torch.as_tensor(dataset.data)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)  # [N, H, W] or [N, H, W, C]
        return ImageSet.whole(pixels.contiguous(), torch.as_tensor(dataset.targets, dtype=torch.int64))

    def statistics(self) -> tuple[Stats, Stats]:
        """The values in common use, of all training images."""
        return self.known


class CIFAR10(TorchvisionData):
    """CIFAR-10: 32x32 colour photographs of 10 classes, 50,000 for training and 10,000 for testing."""

    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    shape = (3, 32, 32)
    known = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


class CIFAR100(TorchvisionData):
    """CIFAR-100: 32x32 colour photographs of 100 classes, 50,000 for training and 10,000 for testing."""

    names = tuple(_CIFAR100_CLASSES.split())
    shape = (3, 32, 32)
    known = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


class FashionMNIST(TorchvisionData):
    """Fashion-MNIST: 28x28 grey pictures of 10 kinds of clothing, 60,000 for training and 10,000 for testing."""

    names = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    shape = (1, 28, 28)
    known = ((0.2860,), (0.3530,))


class FakeImages(VisionData):
    """Seeded noise with balanced labels that are independent of it, for tests and benchmarks.

    Args:
        num_classes: Number of classes.
        input_shape: Channels, height, width.
        train_size: Training images.
        test_size: Test images.
        **options: See `VisionData`; ``seed`` decides the images, too.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        input_shape: tuple[int, int, int] = (3, 32, 32),
        train_size: int = 256,
        test_size: int = 64,
        **options: Unpack[VisionOptions],
    ) -> None:
        super().__init__(tuple(str(label) for label in range(num_classes)), input_shape, **options)
        self.sizes = {"train": train_size, "test": test_size}

    def load(self, split: Split) -> ImageSet | None:
        """Draws the images."""
        if split == "val":
            return None
        rng = np.random.default_rng((self.seed, split == "test"))
        size = self.sizes[split]
        pixels = rng.integers(256, size=(size, *self.input_shape), dtype=np.uint8)
        labels = rng.permutation(np.arange(size) % self.num_classes)
        return ImageSet.whole(torch.from_numpy(pixels), torch.from_numpy(labels))
