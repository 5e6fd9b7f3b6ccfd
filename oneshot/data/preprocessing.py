"""What was done to an image before a network sees it, in words and numbers for manifests.

A reader must be able to repeat it with Pillow and numpy alone, so everything is said that changes a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .transforms import Transforms, repr_of

NORMALISATION = "(pixels - 255 * mean) / (255 * std), each in float32, per channel"


def of_files(shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The preprocessing of images that `decoding` reads from files.

    Args:
        shape: Channels, height, width after it.
        mean: Per channel, of values scaled to 0..1.
        std: Likewise.
    """
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    return {
        "source": "image file",
        "orientation": "EXIF",
        "sixteen_bit": "value >> 8; floating point of 0 to 1: floor(255 * value + 0.5)",
        "transparency": "white",
        "colour": mode,
        "resize": {"method": "cover", "interpolation": "bilinear", "antialias": True, "on": "uint8", "crop": "centre"},
        **_in_memory(shape, mean, std),
        "steps": [
            "image = PIL.Image.open(open(file, 'rb')), first frame",
            "image = PIL.ImageOps.exif_transpose(image)",
            "if image.mode is I... (16 bits): image = value >> 8; if it is F: image = floor(255 * value + 0.5)",
            "if it has an alpha channel, or 'transparency' in image.info: image = "
            "PIL.Image.alpha_composite(PIL.Image.new('RGBA', image.size, 'white'), image.convert('RGBA'))",
            "image = image.convert('RGB')" + ("" if mode == "RGB" else ".convert('L')"),
            f"image = PIL.ImageOps.fit(image, ({width}, {height}), PIL.Image.Resampling.BILINEAR)",
            "pixels = numpy.asarray(image), uint8 [H, W, C], to float32 [1, C, H, W]",
            f"x = {NORMALISATION}",
        ],
    }


def of_arrays(
    shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float], *, source: str
) -> dict[str, Any]:
    """The preprocessing of images that are uint8 arrays already: only normalisation.

    Args:
        shape: Channels, height, width.
        mean: Per channel, of values scaled to 0..1.
        std: Likewise.
        source: Where the arrays are from, and what was done there.
    """
    return {
        "source": source,
        "orientation": None,
        "sixteen_bit": None,
        "transparency": None,
        "colour": {1: "L", 3: "RGB"}.get(shape[0]),
        "resize": None,
        **_in_memory(shape, mean, std),
        "steps": ["pixels = uint8 [C, H, W] of the source, to float32 [1, C, H, W]", f"x = {NORMALISATION}"],
    }


def with_transforms(preprocessing: dict[str, Any], transforms: Transforms | None) -> dict[str, Any]:
    """The preprocessing of images that are transformed before their normalisation."""
    if transforms is None:
        return preprocessing
    told = repr_of(transforms)
    *steps, last = preprocessing["steps"]
    return {
        **preprocessing,
        "transforms": told,
        "steps": [*steps, *(f"pixels = {one}(pixels), uint8" for one in told), last],
    }


def _in_memory(shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    channels, height, width = shape
    return {
        "image_size": [height, width],
        "dtype": "uint8",
        "value_range": [0, 255],
        "layout": "NCHW",
        "channel_order": {1: "L", 3: "RGB"}.get(channels),
        "normalisation": {"mean": [float(v) for v in mean], "std": [float(v) for v in std], "formula": NORMALISATION},
    }


def of_series(shape: tuple[int, int], mean: Sequence[float] | None, std: Sequence[float] | None) -> dict[str, Any]:
    """The preprocessing of series: only standardisation.

    Args:
        shape: Channels, length.
        mean: Per channel; None if they are not standardised.
        std: Likewise.
    """
    said: dict[str, Any] = {"source": "series", "shape": list(shape), "dtype": "float32", "layout": "NCT"}
    steps = ["x = float32 [1, C, T] of the series"]
    if mean is not None and std is not None:
        formula = "(x - mean) / std, each in float32, per channel"
        said["normalisation"] = {"mean": [*map(float, mean)], "std": [*map(float, std)], "formula": formula}
        steps.append(f"x = {formula}")
    return {**said, "steps": steps}
