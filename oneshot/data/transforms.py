"""Transforms of torchvision, or of one's own, in the streams of images: seeded, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneshot.random_numbers import own_random_numbers

from .images import Batch, Stats, normalise

Transform = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Transforms:
    """Transforms one after the other, then the normalisation.

    Every image is transformed alone: uint8 ``[C, H, W]`` to uint8 of the same shape. All random numbers, torch's,
    numpy's and Python's, follow from the seed of the batch.

    Args:
        transforms: What is done, in this order.
        name: What messages call them.
    """

    transforms: tuple[Transform, ...]
    name: str

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """uint8 ``[B, C, H, W]`` of the same shape.

        Raises:
            ValueError: If a transform fails, or the last one gives another shape or type.
        """
        with own_random_numbers(seed, cuda=False):
            return torch.stack([self._one(image) for image in images])

    def _one(self, image: Tensor) -> Tensor:
        x: Any = image
        for transform in self.transforms:
            try:
                x = transform(x)
            except Exception as error:  # whatever a transform of a user raises
                raise ValueError(
                    f"{self.name}: {_name_of(transform)} cannot transform an image, uint8 {list(image.shape)}: "
                    f"{' '.join(str(error).split())}"
                ) from error
        if not isinstance(x, Tensor) or x.shape != image.shape or x.dtype != torch.uint8:
            got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(
                f"{self.name} must give an image of the type and shape that they take, uint8 {list(image.shape)} (see "
                f"image_size); the last, {_name_of(self.transforms[-1])}, gave {got}. The normalisation follows: leave "
                "ToTensor, ToDtype and Normalize out."
            )
        return x

    def on_batch(self, images: Tensor, labels: Tensor, mean: Stats, std: Stats, generator: torch.Generator) -> Batch:
        """Transforms uint8 ``[B, C, H, W]`` to normalised float32; the labels of whole images stay what they are."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return normalise(self(images, seed), mean, std), labels


def transforms_of(
    given: Sequence[Transform] | None, shape: tuple[int, int, int], name: str, *, random: bool
) -> Transforms | None:
    """Check transforms on images of noise.

    Args:
        given: The transforms; None, or none at all, gives None.
        shape: Channels, height, width of the images.
        name: What messages call them.
        random: Whether they may be random.

    Raises:
        ValueError: If they give another shape or type; or are random and may not be.
    """
    if not given:
        return None
    for transform in given:
        if not callable(transform):
            raise ValueError(f"{name} must be a list of transforms; {transform!r} cannot be called.")
    found = Transforms(tuple(given), name)
    noise = torch.randint(256, (2, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first = found(noise, 0)
    if not random and not all(torch.equal(first, found(noise, seed)) for seed in (1, 2, 3)):
        raise ValueError(f"{name} must give the same image every time; {repr_of(found)} are random.")
    return found


def repr_of(transforms: Transforms) -> list[str]:
    """The transforms in words, one line each."""
    return [" ".join(repr(transform).split()) for transform in transforms.transforms]


def _name_of(transform: Transform) -> str:
    return getattr(transform, "__name__", type(transform).__name__)
