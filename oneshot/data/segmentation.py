"""Images with a mask each: folders, synthetic shapes, and augmentation of image and mask together.

Everything else is as for images with one label: these are data sets of `VisionData`, so `SearchDataModule` splits them
into the two streams of a search, and a training resumes exactly where it was stopped.
"""

from __future__ import annotations

import os
import unicodedata
from abc import ABC
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional as F

from oneshot.tasks import IGNORED

from .decoding import SUFFIXES, UnreadableImageError, opened, orientation_of, turned
from .decoding import unreadable as unreadable_file
from .folder import Decoder, common_shape
from .images import Batch, ImageSet, Pixels, Stats, normalise
from .listing import Part, folders, images_in, part_of, some
from .options import PixelOptions, SegmentationOptions, Unpack
from .preprocessing import of_files
from .verification import Unreadable, check_unreadable, in_threads, inspect, repeated, report_unreadable, tell, verify
from .vision import Split, VisionData

SHAPES = ("background", "circle", "square", "triangle")
_MASK_MODES = frozenset({"1", "L", "P"})  # one number a pixel


@dataclass(frozen=True)
class JointAugmentation:
    """Random scale, random crop back to the original size, random mirroring; the same for image and mask.

    An image that became smaller stands at a random place. What is around it has the mean colour, and its pixels are
    ignored. The image is interpolated bilinearly, the mask takes the nearest pixel.

    Args:
        scale: Smallest and largest factor, drawn uniformly; (1, 1) is off.
        flip: Whether images are mirrored left to right with probability 1/2.

    Raises:
        ValueError: If the factors are not positive and in order.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(self.scale))
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is a smallest and a largest factor, both positive; got {self.scale}.")

    def on_batch(self, images: Tensor, labels: Tensor, mean: Stats, std: Stats, generator: torch.Generator) -> Batch:
        """Augments uint8 ``[B, C, H, W]`` and masks ``[B, H, W]``; ``generator`` is a CPU one for images anywhere."""
        batch = len(images)
        # Every number is drawn whether used or not: turning one part off leaves the others as they were.
        share, top, left = (torch.rand(batch, generator=generator).to(images.device) for _ in range(3))
        mirrored = torch.randint(2, (batch,), generator=generator).bool().to(images.device) & self.flip
        scale = self.scale[0] + share * (self.scale[1] - self.scale[0])
        return scale_and_crop(normalise(images, mean, std), labels, scale, top, left, mirrored)


def scale_and_crop(images: Tensor, masks: Tensor, scale: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Batch:
    """Scales each image and its mask, crops or pads them to the old size, and mirrors some.

    Args:
        images: ``[B, C, H, W]``; zero is around them.
        masks: Class indices, int64 ``[B, H, W]``; ``IGNORED`` is around them.
        scale: Factor of each image, ``[B]``.
        top: Where the rows stand, from 0 (at the first) to 1 (at the last), ``[B]``.
        left: Where the columns stand, likewise, ``[B]``.
        flip: Which are mirrored left to right, bool ``[B]``.

    Returns:
        Images and masks, same shapes and types.
    """
    height, width = masks.shape[1:]

    def places(size: int, start: Tensor) -> Tensor:
        """Where each of the new pixels' centres lies in the old image, in pixels from its edge; ``[B, size]``."""
        steps = (torch.arange(size, device=masks.device) + 0.5) / scale[:, None]
        return (start * (size - size / scale))[:, None] + steps

    y, x = places(height, top), places(width, left)
    x = torch.where(flip[:, None], x.flip(1), x)
    grid = torch.stack(
        [
            (2 * x / width - 1)[:, None, :].expand(-1, height, -1),
            (2 * y / height - 1)[:, :, None].expand(-1, -1, width),
        ],
        dim=-1,
    )
    scaled = F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)
    rows, columns = y.floor().long(), x.floor().long()
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    image = torch.arange(len(masks), device=masks.device)[:, None, None]
    nearest = masks[image, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    return scaled, nearest.masked_fill(~inside, IGNORED)


class SegmentationData(VisionData, ABC):
    """Images with a mask each. Batches are float32 ``[B, C, H, W]`` and int64 ``[B, H, W]``; 255 is ignored.

    Args:
        classes: Class names in the order of the numbers in the masks.
        input_shape: Channels, height, width.
        scale: See `JointAugmentation`.
        flip: See `JointAugmentation`.
        **options: See `VisionData`; ``crop_padding`` and ``cutout`` are not for masks.
    """

    default_task = "segmentation"

    def __init__(
        self,
        classes: Sequence[str],
        input_shape: tuple[int, int, int],
        *,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: bool = True,
        **options: Unpack[PixelOptions],
    ) -> None:
        for name in ("train_transforms", "eval_transforms"):
            if options.get(name):
                raise ValueError(f"{name} change images and not their masks; leave them out where images have masks.")
        super().__init__(classes, input_shape, crop_padding=0, cutout=0, **options)
        self.augmentation = JointAugmentation(scale, flip)


class SegmentationFolder(SegmentationData):
    """A folder of images and masks: ``root/train/images/*``, ``root/train/masks/*.png`` and the same in ``root/test``.

    An image and its mask have the same name but for the suffix, also in folders within these, and the same size. A mask
    holds one number a pixel, the class or 255 for pixels that do not count; PNGs with a palette, such as PASCAL VOC's,
    hold just that. A folder ``root/val`` is the validation set. Hidden files are no data.

    Images and masks are resized to cover the size, then cropped at the centre. Masks stay in memory, a byte a pixel.

    Images are turned upright as their EXIF orientation says. So are masks that have the same tag. If the tags differ,
    as they do where a mask has none, one of two is meant: the mask was drawn on the upright image (it is turned by its
    own tag), or on the pixels as they are stored (it is turned by the tag of its image). The size decides where it can;
    other such pairs are refused, unless ``mask_orientation`` says which.

    Args:
        root: The folder.
        image_size: Side, or height and width, in pixels; None takes a square of the images' median shorter side.
        class_names: Names of the classes 0, 1, ...; None counts up to the largest number in the masks.
        in_memory: Decode all images once, to a uint8 tensor; otherwise each time they are used.
        unreadable: Whether files that cannot be read are refused or left out, with image or mask, with a warning.
        mask_orientation: By which tag masks are turned where it differs from that of their images; see above.
        **options: See `SegmentationData`.

    Raises:
        FileNotFoundError: If the folder, or one of its sub-folders, does not exist.
        ValueError: If an image has no mask or a mask no image, their sizes differ, a mask holds a number that is no
            class, or files cannot be read: all are named.
    """

    statistics_sample = 1000

    def __init__(
        self,
        root: str | Path,
        *,
        image_size: int | tuple[int, int] | None = None,
        class_names: Sequence[str] | None = None,
        in_memory: bool = False,
        unreadable: Unreadable = "refuse",
        mask_orientation: Literal["own", "image"] | None = None,
        **options: Unpack[SegmentationOptions],
    ) -> None:
        check_unreadable(unreadable)
        if mask_orientation not in (None, "own", "image"):
            raise ValueError(f"mask_orientation is 'own', 'image' or None; got {mask_orientation!r}.")
        self.mask_orientation = mask_orientation
        places = part_folders(Path(root))
        pairs = {part: paired(folder) for part, folder in places.items()}
        facts, reasons = verify(path for both in pairs.values() for pair in both for path in pair)
        report_unreadable(reasons, len(facts) + len(reasons), unreadable, empty=())
        self._facts = facts
        self._files = {part: [p for p in both if reasons.keys().isdisjoint(p)] for part, both in pairs.items()}
        for part, both in self._files.items():
            if not both:
                raise ValueError(f"A part needs images; {str(places[part] / 'images')!r} has none. Add some.")
        every = [pair for both in self._files.values() for pair in both]
        largest = self._check(every, None if class_names is None else len(class_names))
        if class_names is None:
            class_names = [str(number) for number in range(largest + 1)]
        shape = common_shape([facts[image] for image, _ in self._files["train"]], image_size)
        super().__init__(class_names, shape, **options)
        self.in_memory = in_memory
        images: dict[str, list[Path]] = {part: [image for image, _ in both] for part, both in self._files.items()}
        if found := repeated(images, facts):
            pairs_of_paths = [" = ".join(repr(str(path)) for _, path in same[:3]) for same in found]
            tell(
                f"{len(found)} images are in more than one part, which makes results too good: {some(pairs_of_paths)}."
            )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How the image files are read, for manifests. May read training images."""
        return of_files(self.input_shape, self.mean, self.std)

    def load(self, split: Split) -> ImageSet | None:
        """Reads a split's masks and, with ``in_memory``, its images."""
        if split not in self._files:
            return None
        images = [image for image, _ in self._files[split]]
        labels = np.stack(_each(self._mask, self._files[split]))
        pixels: Pixels = Decoder(images, self.input_shape)
        if self.in_memory:
            rank_zero_info(f"Decoding {len(images)} {split} images into memory.")
            pixels = pixels[torch.arange(len(images))]
        return ImageSet.whole(pixels, torch.from_numpy(labels))

    def _check(self, pairs: Sequence[tuple[Path, Path]], classes: int | None) -> int:
        """The largest class in the masks.

        Raises:
            ValueError: Naming all masks that do not fit their images.
        """
        largest: dict[Path, int] = {}
        wrong: dict[Path, str] = {}

        def look(pair: tuple[Path, Path]) -> None:
            try:
                numbers = self._numbers(*pair)
                largest[pair[1]] = max((int(n) for n in np.unique(numbers) if n != IGNORED), default=-1)
                if classes is not None:
                    _check_numbers(pair[1], numbers, classes)
            except ValueError as error:
                wrong[pair[1]] = str(error)

        in_threads(look, pairs, "masks")
        if wrong:
            told = [wrong[mask] for _, mask in pairs if mask in wrong]
            raise ValueError(told[0] if len(told) == 1 else "\n  ".join([f"{len(told)} masks do not fit:", *told]))
        return max(largest.values(), default=-1)

    def _mask(self, pair: tuple[Path, Path]) -> npt.NDArray[np.uint8]:
        """uint8 ``[H, W]`` of an image and its mask."""
        numbers = self._numbers(*pair)
        _check_numbers(pair[1], numbers, self.num_classes)
        fitted = ImageOps.fit(Image.fromarray(numbers), self.input_shape[:0:-1], Image.Resampling.NEAREST)
        return np.asarray(fitted)

    def _numbers(self, image: Path, mask: Path) -> npt.NDArray[np.uint8]:
        """A mask, turned as its image is, uint8 ``[H, W]``.

        Raises:
            ValueError: If that cannot be done.
        """
        try:
            facts = inspect(image)
        except UnreadableImageError as error:
            raise ValueError(unreadable_file(image, error)) from error
        stored, own = read_mask(mask)
        turned_by = {"own": turned(stored, own), "image": turned(stored, facts.orientation)}
        if facts.orientation != own and self.mask_orientation is not None:
            turned_by = {self.mask_orientation: turned_by[self.mask_orientation]}
        fitting = [np.asarray(one) for one in turned_by.values() if one.size == facts.size]
        if not fitting:
            (width, height), (w, h) = next(iter(turned_by.values())).size, facts.size
            raise ValueError(
                f"A mask has the size of its image; {str(mask)!r} is {width}x{height}, {image.name} is {w}x{h}. Make "
                "it anew, with nearest neighbours."
            )
        if not np.array_equal(fitting[0], fitting[-1]):
            raise ValueError(
                f"The EXIF orientation of {str(image)!r} is {facts.orientation}, that of {str(mask)!r} is {own}: was "
                "the mask drawn on the upright image (mask_orientation='own'), or on the pixels as they are stored "
                "('image')?"
            )
        return fitting[0]


def part_folders(root: Path) -> dict[Part, Path]:
    """``train``, ``test`` and, if there is one, ``val``, by any of their names.

    Raises:
        FileNotFoundError: If there is no train or no test.
        ValueError: If two folders mean the same.
    """
    found: dict[Part, list[Path]] = {"train": [], "test": [], "val": []}
    for folder in folders(root) if root.is_dir() else []:
        if (part := part_of(folder.name)) is not None:
            found[part].append(folder)
    for part, places in found.items():
        if len(places) > 1:
            raise ValueError(f"There is one folder for {part}; {str(root)!r} has {some([p.name for p in places])}.")
    return {part: places[0] if places else root / part for part, places in found.items() if places or part != "val"}


def paired(folder: Path) -> list[tuple[Path, Path]]:
    """Images and masks of a part, sorted by name.

    Raises:
        FileNotFoundError: If there is no folder of images or none of masks.
        ValueError: If there are no images, or some have no partner, or several.
    """
    kinds = {}
    for kind, suffixes in (("images", SUFFIXES), ("masks", frozenset({".png"}))):
        inside = folders(folder) if folder.is_dir() else []
        place = next((path for path in inside if path.name.lower() == kind), folder / kind)
        if not place.is_dir():
            raise FileNotFoundError(
                f"A folder of images and masks has train/images, train/masks, test/images and test/masks; there is no "
                f"{str(place.absolute())!r}. Check the path."
            )
        by_name: dict[str, Path] = {}
        for path in images_in(place, suffixes):
            name = unicodedata.normalize("NFC", path.relative_to(place).with_suffix("").as_posix())
            if name in by_name:
                raise ValueError(
                    f"Names of {kind} differ in more than their suffix; {str(place)!r} has {by_name[name].name} and "
                    f"{path.name}. Rename or remove one."
                )
            by_name[name] = path
        kinds[kind] = by_name
    images, masks = kinds["images"], kinds["masks"]
    if not images:
        raise ValueError(f"A part needs images; {str(folder / 'images')!r} has none. Add some.")
    for here, there, what in ((images, masks, "mask"), (masks, images, "image")):
        if alone := sorted(here.keys() - there.keys()):
            names = ", ".join(here[stem].name for stem in alone[:3]) + (", ..." if len(alone) > 3 else "")
            raise ValueError(
                f"Every image has a mask of the same name, a PNG, and every mask an image; in {str(folder)!r} "
                f"{len(alone)} of {len(here)} have no {what}: {names}. Add or remove them."
            )
    return [(path, masks[name]) for name, path in images.items()]


def read_mask(path: Path) -> tuple[Image.Image, int]:
    """A mask as it is in its file, mode L, and its EXIF orientation.

    Raises:
        ValueError: If it cannot be read, or does not hold one number of 8 bits a pixel.
    """
    try:
        with opened(path) as mask:
            mask.load()
            mode, orientation = mask.mode, orientation_of(mask)
            numbers = Image.fromarray(np.asarray(mask).astype(np.uint8)) if mode in _MASK_MODES else None
    except UnreadableImageError as error:
        raise ValueError(unreadable_file(path, error)) from error
    if numbers is None:
        raise ValueError(
            f"A mask holds one number of 8 bits a pixel (mode L or P); {str(path)!r} has mode {mode!r}. "
            "Convert colours to class numbers first."
        )
    return numbers, orientation


def _check_numbers(mask: Path, numbers: npt.NDArray[np.uint8], classes: int) -> None:
    foreign = [int(n) for n in np.unique(numbers) if n >= classes and n != IGNORED]
    if foreign:
        raise ValueError(
            f"A mask holds numbers below {classes}, one for each class, or {IGNORED}; {str(mask)!r} holds "
            f"{foreign}. Name all classes in class_names, or number those of the mask anew."
        )


def _each(function: Any, items: Sequence[Any]) -> list[npt.NDArray[np.uint8]]:
    """Results of a function for every item, in threads; Pillow decodes without the interpreter lock."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))


class Shapes(SegmentationData):
    """Circles, squares and triangles of random colours, turned and overlapping, on textured noise.

    Shapes are light where the background is dark, or the other way round. Which shape it is only the outline says:
    areas and colours are drawn from the same distributions for all.

    Args:
        image_size: Side in pixels, at least 16.
        train_size: Training images.
        test_size: Test images.
        images_seed: Which images these are; leave it alone to compare results. ``seed`` does not change them.
        **options: See `SegmentationData`.

    Raises:
        ValueError: If ``image_size`` is below 16.
    """

    def __init__(
        self,
        *,
        image_size: int = 64,
        train_size: int = 512,
        test_size: int = 256,
        images_seed: int = 0,
        **options: Unpack[SegmentationOptions],
    ) -> None:
        if image_size < 16:
            raise ValueError(f"Shapes need at least 16 pixels to be told apart; got image_size={image_size}.")
        super().__init__(SHAPES, (3, image_size, image_size), **options)
        self.sizes, self.images_seed = {"train": train_size, "test": test_size}, images_seed

    def load(self, split: Split) -> ImageSet | None:
        """Draws the images."""
        if split == "val":
            return None
        images, masks = _draw_shapes(self.sizes[split], self.input_shape[1], (self.images_seed, split == "test"))
        return ImageSet.whole(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(masks))


def write_shapes(
    folder: str | Path, *, image_size: int = 64, train_size: int = 512, test_size: int = 256, seed: int = 0
) -> Path:
    """Writes the images of :class:`Shapes` as a folder for :class:`SegmentationFolder`, and returns it.

    Args:
        folder: Where ``train`` and ``test`` go; missing folders are made.
        image_size: Side in pixels.
        train_size: Training images.
        test_size: Test images.
        seed: Which images these are.
    """
    folder = Path(folder)
    for part, size in (("train", train_size), ("test", test_size)):
        images, masks = _draw_shapes(size, image_size, (seed, part == "test"))
        for kind, pictures in (("images", images), ("masks", masks)):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
            for number, picture in enumerate(pictures):
                Image.fromarray(picture).save(folder / part / kind / f"{number:05d}.png")
    return folder


def _draw_shapes(count: int, size: int, seed: tuple[int, ...]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images ``[N, H, W, 3]`` and masks ``[N, H, W]``, uint8, of one to three shapes each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] + 0.5
    images, masks = np.empty((count, size, size, 3), np.uint8), np.zeros((count, size, size), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        dark = bool(rng.integers(2))
        image[...] = _texture(size, rng, dark=dark)
        for _ in range(rng.integers(1, 4)):
            kind, side = int(rng.integers(1, 4)), size * rng.uniform(0.25, 0.45)  # of the square of the same area
            centre, angle = rng.uniform(0.1 * size, 0.9 * size, 2), rng.uniform(0, 2 * np.pi)
            u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
            v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
            inside = _inside(kind, u / side, v / side)
            image[inside] = _texture(size, rng, dark=not dark)[inside]
            mask[inside] = kind
    return images, masks


def _inside(kind: int, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which points lie in a shape of area 1 around the origin; ``[H, W]``."""
    if kind == 1:
        return np.asarray(u**2 + v**2 <= 1 / np.pi)
    if kind == 2:
        return np.asarray(np.maximum(abs(u), abs(v)) <= 0.5)
    inner = (1 / (3 * 3**0.5)) ** 0.5  # radius of the circle within the triangle
    return np.asarray(np.maximum(-v, v / 2 + 3**0.5 / 2 * abs(u)) <= inner)


def _texture(size: int, rng: np.random.Generator, *, dark: bool) -> npt.NDArray[np.uint8]:
    """A colour with coarse and fine noise, uint8 ``[H, W, 3]``."""
    coarse = rng.normal(0, 15, (5, 5, 3))
    place = np.linspace(0, 4, size)
    low = np.minimum(place.astype(int), 3)
    part = (place - low)[:, None]
    rows = coarse[low] * (1 - part[..., None]) + coarse[low + 1] * part[..., None]
    smooth = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    colour = rng.uniform(30, 110, 3) + (0 if dark else 115) + smooth + rng.normal(0, 15, (size, size, 3))
    return np.asarray(colour.clip(0, 255).astype(np.uint8))
