"""Decode one image file to pixels: upright, opaque, 8 bits a channel, at the requested size.

What is done here is said by `oneshot.data.preprocessing`, which goes into manifests: change both together.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")  # no other decoder is ever started
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".gif"}
)
ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class UnreadableImageError(ValueError):
    """A file has an image's suffix and cannot be decoded; the message is the reason, without the path."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file and read its header.

    Only regular files are opened, so that a named pipe does not block, and only by the decoders of ``FORMATS``.

    Raises:
        UnreadableImageError: If there is no such file, it is no image of these formats, it has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``, or decoding it in the block fails.
    """
    try:
        kind = path.stat()
        for is_kind, name in _KINDS:
            if is_kind(kind.st_mode):
                raise UnreadableImageError(f"{name}, not a file")
        if not kind.st_size:
            raise UnreadableImageError("an empty file")
        # By its handle: Pillow 13 maps a file that it opens by name into memory, and scrambles TIFFs that are turned.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            _check_pixels(*image.size)
            yield image
    except UnreadableImageError:
        raise
    except FileNotFoundError as error:
        raise UnreadableImageError("a link to nowhere" if path.is_symlink() else "there is no such file") from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(_told_from_its_beginning(path)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # decoders of damaged files raise whatever their arithmetic comes to
        reason = str(error) if isinstance(error, OSError) and str(error) else f"{type(error).__name__}: {error}"
        raise UnreadableImageError(reason) from error


def _check_pixels(width: int, height: int) -> None:
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and width * height > most:
        raise UnreadableImageError(
            f"{width}x{height} pixels, more than the {most:,} that are decoded; make it smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS"
        )


def _told_from_its_beginning(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "a web page, not an image"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not an image: run 'git lfs pull'"
    return f"no image of a kind that is read ({', '.join(FORMATS)})"


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) if the file has none or an invalid one."""
    try:
        tag = image.getexif().get(ORIENTATION, 1)
        return int(tag) if tag in _TURNS else 1
    except Exception:  # noqa: BLE001  # a damaged EXIF block does not make the pixels wrong, and Pillow raises anything for one
        return 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image, turned as its EXIF orientation says."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def is_grey(mode: str) -> bool:
    """Whether images of a Pillow mode have no colours: also with transparency, 16 bits, or floating point."""
    return mode in ("1", "L", "LA", "La") or mode[0] in "IF"


def is_transparent(image: Image.Image) -> bool:
    """Whether some of the image's pixels may be transparent."""
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def upright(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to L (if it is grey) or RGB: upright, 8 bits a channel, white where transparent.

    Args:
        image: An image that was opened.

    Raises:
        UnreadableImageError: If its numbers have no known range.
    """
    image.load()  # first: the decoder of TIFF turns images itself, and forgets the tag then
    orientation, grey = orientation_of(image), is_grey(image.mode)
    if image.mode[0] in "IF":
        image = _eight_bits(image)
    if is_transparent(image):
        image = _on_white(image)
    return turned(image.convert("L" if grey else "RGB"), orientation)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert to 8 bits: the upper 8 of 16, like Pillow does for colours; floating point 0 to 1 becomes 0 to 255."""
    values = np.asarray(image)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if image.mode == "F":
        if not 0 <= low <= high <= 1:  # NaN fails too
            raise UnreadableImageError(f"floating point from {low:g} to {high:g}; 0 to 1 is black to white")
        scaled = np.floor(values * 255 + 0.5)
    else:
        if not 0 <= low <= high <= 65535:
            raise UnreadableImageError(f"integers from {low:.0f} to {high:.0f}; 0 to 65535 is black to white")
        scaled = values >> 8
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        scaled = np.where(values == clear, 255, scaled)
    return Image.fromarray(scaled.astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits, as its pixels were
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode in ("La", "PA"):  # which have no direct way
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def fitted(image: Image.Image, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Resize an upright image to cover a size and crop it at the centre; ``[C, H, W]``.

    Args:
        image: Of mode L or RGB.
        shape: Channels, height, width.
    """
    channels, height, width = shape
    colours = image.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(ImageOps.fit(colours, (width, height), Image.Resampling.BILINEAR))
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def decode(path: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """The pixels of a file, uint8 ``[C, H, W]``; see `upright` and `fitted`.

    Raises:
        ValueError: If it cannot be read, naming it.
    """
    try:
        with opened(path) as image:
            return fitted(upright(image), shape)
    except UnreadableImageError as error:
        raise ValueError(unreadable(path, error)) from error


def unreadable(path: Path, error: Exception) -> str:
    """Message for a file that cannot be read."""
    return f"Every file with an image's suffix must be readable; {str(path)!r} is not ({error}). Repair or remove it."
