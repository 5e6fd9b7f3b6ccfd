"""Resizing, cropping and normalising as part of a network, so that an exported file takes images as they are decoded.

The steps are those of the manifest's ``preprocessing``, see `oneshot.data.preprocessing`. The filter is
Pillow's (libImaging/Resample.c): triangles as wide as a new pixel, coordinates in double precision, weights of 22 bits,
a rounding to 8 bits after each of two passes. Pillow makes the vertical pass first for some shapes, which ones depends
on its version; here the horizontal one is first, and pixels of such images can differ by one of 255 levels. All else is
equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

FIXED = 2**22  # the number 1 in Pillow's weights of 22 bits


class WithPreprocessing(nn.Module):
    """A network that takes decoded images: uint8 ``[B, H, W, C]``, all of one size, to logits.

    Args:
        network: Takes normalised images, ``[B, C, H, W]``.
        preprocessing: As in a manifest. If it resizes, it takes images of any size; otherwise of its size only.

    Raises:
        ValueError: If the preprocessing has a step that is not supported here.
    """

    centre: Tensor
    spread: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, network: nn.Module, preprocessing: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            resize, size, scale = (preprocessing[key] for key in ("resize", "image_size", "normalisation"))
            methods = resize and (resize["method"], resize["interpolation"], resize["on"], resize["crop"])
            mean, std = (torch.tensor(scale[name], dtype=torch.float32) for name in ("mean", "std"))
            then = preprocessing.get("then_resize")
        except (KeyError, TypeError) as error:
            raise ValueError(
                "The preprocessing must say 'resize', 'image_size' and "
                f"'normalisation' as data modules of oneshot do; got {preprocessing!r}."
            ) from error
        if methods not in (None, ("cover", "bilinear", "uint8", "centre")):
            raise ValueError(
                f"The resizing must be bilinear, to cover a size, with a crop at the centre; got {resize}. "
                "Export it without its preprocessing."
            )
        if preprocessing.get("transforms"):
            raise ValueError(
                f"Transforms cannot become part of a file: {', '.join(preprocessing['transforms'])}. Export it without "
                "its preprocessing."
            )
        self.network, self.resizes = network, resize is not None
        self.height, self.width = (int(side) for side in size)
        self.register_buffer("centre", mean.view(-1, 1, 1) * 255)
        self.register_buffer("spread", std.view(-1, 1, 1) * 255)
        self.resizes_again = then is not None
        if then is not None:
            self.register_buffer("rows", shrink(self.height, then["size"][0]))
            self.register_buffer("columns", shrink(self.width, then["size"][1]))

    def pixels(self, images: Tensor) -> Tensor:
        """Resized and cropped, whole numbers from 0 to 255: uint8 ``[B, H, W, C]`` to float32 ``[B, C, H, W]``."""
        x = images.permute(0, 3, 1, 2)
        return cover(x, self.height, self.width) if self.resizes else x.float()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 ``[B, H, W, C]`` to logits."""
        x = (self.pixels(images) - self.centre) / self.spread
        if self.resizes_again:
            x = self.rows @ x @ self.columns.T
        logits: Tensor = self.network(x)
        return logits


def cover(x: Tensor, height: int, width: int) -> Tensor:
    """``PIL.ImageOps.fit(image, (width, height), BILINEAR)``, the horizontal pass first.

    It works with sizes that are not known when the network is exported.

    Args:
        x: uint8 ``[B, C, H, W]``.
        height: Height of the result.
        width: Width of the result.

    Returns:
        Whole numbers, float32 ``[B, C, height, width]``.
    """
    rows, columns = (torch.arange(x.shape[d], dtype=torch.float64, device=x.device) for d in (2, 3))
    high, wide = rows[-1] + 1, columns[-1] + 1
    ratio = width / height
    crop_width = torch.where(wide / high > ratio, ratio * high, wide)
    crop_height = torch.where(wide / high < ratio, wide / ratio, high)
    left, top = (wide - crop_width) * 0.5, (high - crop_height) * 0.5
    across = triangles(columns, wide, left, left + crop_width, width)
    down = triangles(rows, high, top, top + crop_height, height)
    x = _filtered(x.double(), across)
    return _filtered(x.transpose(2, 3), down).transpose(2, 3).float()


def _filtered(x: Tensor, weights: Tensor) -> Tensor:
    """Filter whole numbers ``[..., N]`` by weights ``[O, N]`` of 22 bits, as Pillow does; exact in double precision."""
    whole = (weights * FIXED + 0.5).floor()
    return ((x @ whole.T + FIXED // 2) / FIXED).floor().clamp(0, 255)


def triangles(pixels: Tensor, size: Tensor, start: Tensor, end: Tensor, count: int) -> Tensor:
    """How much each old pixel counts in each new one.

    Args:
        pixels: 0, 1, ..., float64 ``[N]``.
        size: N, a scalar.
        start: Where the first new pixel begins, in old pixels, a scalar.
        end: Where the last new pixel ends, in old pixels, a scalar.
        count: Number of new pixels, O.

    Returns:
        float64 ``[O, N]``; rows sum to 1.
    """
    start, end = start.float(), end.float()  # as Pillow passes them
    scale = (end - start).double() / count
    support = scale.clamp(min=1.0)
    steps = torch.arange(count, dtype=torch.float64, device=pixels.device) + 0.5
    centre = (start.double() + steps * scale)[:, None]
    first = (centre - support + 0.5).trunc().clamp(min=0)
    last = torch.minimum((centre + support + 0.5).trunc(), size)
    weights = (1 - ((pixels - centre + 0.5) / support).abs()).clamp(min=0)
    weights = torch.where((pixels >= first) & (pixels < last), weights, 0.0)
    return weights / weights.sum(1, keepdim=True)


def shrink(old: int, new: int) -> Tensor:
    """Weights of the resizing that elastic networks do, ``torch.nn.functional.interpolate(antialias=True)``.

    Returns:
        float32 ``[new, old]``.
    """
    pixels = torch.arange(old, dtype=torch.float64)
    size = torch.tensor(float(old), dtype=torch.float64)
    return triangles(pixels, size, torch.zeros_like(size), size, new).float()


def then_resize(size: Sequence[int]) -> dict[str, Any]:
    """The entry of manifests for images that are resized again, after the normalisation, to a network's resolution."""
    height, width = size
    return {
        "size": [height, width],
        "interpolation": "bilinear",
        "antialias": True,
        "on": "normalised float32",
        "step": "x[0, c] = numpy.asarray(PIL.Image.fromarray(x[0, c]).resize("
        f"({width}, {height}), PIL.Image.Resampling.BILINEAR)) for every channel c, mode F",
    }


def differences(trained: Mapping[str, Any], given: Mapping[str, Any] | None) -> list[str]:
    """Say in words where the preprocessing of data differs from that of an export.

    Args:
        trained: Preprocessing in the manifest.
        given: Preprocessing of the data; None if it is not known.
    """
    if given is None:
        return []
    told = []
    for name in ("image_size", "colour", "orientation", "transparency", "resize", "transforms"):
        if trained.get(name) != given.get(name):
            told.append(f"{name} was {trained.get(name)}, is {given.get(name)}")
    scales = [preprocessing.get("normalisation") or {} for preprocessing in (trained, given)]
    for name in ("mean", "std"):
        before, now = (scale.get(name) or [] for scale in scales)
        if len(before) != len(now) or any(abs(a - b) > 1e-6 for a, b in zip(before, now, strict=True)):
            told.append(f"{name} was {_short(before)}, is {_short(now)}")
    return told


def _short(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"
