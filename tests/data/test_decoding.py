"""Image files of all kinds become the pixels a viewer shows."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from oneshot.data.decoding import UnreadableImageError, decode, opened, upright

RNG = np.random.default_rng(0)
GREY = RNG.integers(256, size=(9, 13), dtype=np.uint8)
COLOURS = RNG.integers(256, size=(9, 13, 3), dtype=np.uint8)
# Where the pixel at row r, column c of the stored image is seen, by the definition of the tag (TIFF 6.0, page 36).
SEEN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with opened(path) as image:
        return np.asarray(upright(image))


def tagged(tag: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("tag", SEEN)
def test_images_are_turned_as_their_orientation_tag_says(tag: int, suffix: str, tmp_path: Path) -> None:
    path, smooth = tmp_path / f"a{suffix}", Image.fromarray(COLOURS).resize((64, 48), Image.Resampling.BICUBIC)
    options: dict[str, Any] = {".webp": {"lossless": True}, ".jpg": {"quality": 98, "subsampling": 0}}.get(suffix, {})
    smooth.save(path, exif=tagged(tag), **options)
    wanted = SEEN[tag](np.asarray(smooth).astype(int))
    assert pixels(path).shape == wanted.shape
    assert abs(pixels(path) - wanted).mean() < (3 if suffix == ".jpg" else 0.01)


@pytest.mark.parametrize("mode", ["I;16", "LA", "RGBA", "P", "1", "F"])
def test_an_image_of_any_mode_is_turned(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    stored = {"I;16": lambda: GREY.astype(np.uint16) << 8, "F": lambda: GREY.astype(np.float32) / 255}
    image = Image.fromarray(stored[mode]() if mode in stored else COLOURS)
    image = image if mode in stored else image.convert(mode)
    image.save(path)
    before = pixels(path)
    image.save(path, exif=tagged(6))
    np.testing.assert_array_equal(pixels(path), SEEN[6](before))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0MM\0*", b"Exif\0\0" + b"\xff" * 40, b"nonsense"], ids=["cut", "noise", "none"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_a_damaged_exif_block_does_not_stop_the_image(exif: bytes, tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=exif, quality=98, subsampling=0)
    assert pixels(tmp_path / "a.jpg").shape == COLOURS.shape


@pytest.mark.parametrize("tag", [0, 9, 300])
def test_a_tag_that_is_none_changes_nothing(tag: int, tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=tagged(tag))
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), COLOURS)


ALPHA = RNG.integers(256, size=(9, 13), dtype=np.uint8)
ALPHA[0], ALPHA[1] = 0, 255


def over_white(values: np.ndarray[Any, Any], alpha: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    share = alpha.astype(float) / 255
    share = share[..., None] if values.ndim == 3 else share
    return share * values + (1 - share) * 255


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_transparent_pixels_become_white(mode: str, suffix: str, tmp_path: Path) -> None:
    values = COLOURS if mode == "RGBA" else GREY
    image = Image.fromarray(values)
    image.putalpha(Image.fromarray(ALPHA))
    assert image.mode == mode
    options: dict[str, Any] = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    image.save(tmp_path / f"a{suffix}", **options)
    got = pixels(tmp_path / f"a{suffix}")
    wanted = over_white(np.stack([GREY] * 3, 2) if suffix == ".webp" and mode == "LA" else values, ALPHA)
    assert abs(got - wanted).max() <= 1
    assert (got[0] == 255).all()  # transparent throughout


def test_a_colour_or_an_entry_of_a_palette_that_is_transparent_becomes_white(tmp_path: Path) -> None:
    two = np.where(GREY[..., None] > 127, (200, 10, 30), (5, 60, 7)).astype(np.uint8)
    clear = np.where(GREY[..., None] > 127, (255, 255, 255), (5, 60, 7))
    Image.fromarray(two).save(tmp_path / "rgb.png", transparency=(200, 10, 30))
    np.testing.assert_array_equal(pixels(tmp_path / "rgb.png"), clear)
    Image.fromarray(two[..., 0]).save(tmp_path / "l.png", transparency=200)
    np.testing.assert_array_equal(pixels(tmp_path / "l.png"), clear[..., 0])
    palette = Image.fromarray((GREY > 127).astype(np.uint8)).convert("P")
    palette.putdata((GREY > 127).astype(np.uint8).flatten().tolist())
    palette.putpalette([5, 60, 7, 200, 10, 30])
    palette.save(tmp_path / "index.png", transparency=1)
    np.testing.assert_array_equal(pixels(tmp_path / "index.png"), clear)
    palette.save(tmp_path / "table.png", transparency=bytes([255, 0]))
    np.testing.assert_array_equal(pixels(tmp_path / "table.png"), clear)
    palette.save(tmp_path / "a.gif", transparency=1)
    np.testing.assert_array_equal(pixels(tmp_path / "a.gif"), clear)


def test_modes_with_palette_and_alpha_or_premultiplied_ones_become_white_where_transparent() -> None:
    image = Image.fromarray(COLOURS)
    image.putalpha(Image.fromarray(ALPHA))
    wanted = np.asarray(upright(image)).astype(int)
    premultiplied = np.asarray(upright(image.convert("RGBa")))
    assert abs(premultiplied - wanted).max() <= 2
    grey = Image.fromarray(GREY)
    grey.putalpha(Image.fromarray(ALPHA))
    with_palette = grey.convert("L").convert("P")
    with_palette.putalpha(Image.fromarray(ALPHA))
    assert with_palette.mode == "PA"
    assert abs(np.asarray(upright(with_palette)) - over_white(np.stack([GREY] * 3, 2), ALPHA)).max() <= 1
    assert abs(np.asarray(upright(grey.convert("La"))) - over_white(GREY, ALPHA)).max() <= 2


def png_of_16_bit_colours(values: np.ndarray[Any, Any], path: Path, clear: tuple[int, int, int] | None = None) -> None:
    """Pillow reads such files and does not write them."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    known = chunk(b"tRNS", struct.pack(">3H", *clear)) if clear else b""
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + known + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bits_are_scaled_to_8(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(pixels(tmp_path / f"a{suffix}"), GREY)
    noise = RNG.integers(65536, size=GREY.shape, dtype=np.uint16)
    Image.fromarray(noise).save(tmp_path / f"b{suffix}")
    assert abs(pixels(tmp_path / f"b{suffix}") - noise / 257).max() <= 1


def test_16_bits_of_other_byte_orders_and_32_bits_are_scaled(tmp_path: Path) -> None:
    wanted = GREY.astype(np.uint16) * 257
    Image.frombytes("I;16B", (13, 9), wanted.astype(">u2").tobytes()).save(tmp_path / "b.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "b.tif"), GREY)
    Image.fromarray(wanted.astype(np.int32)).save(tmp_path / "i.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "i.tif"), GREY)


def test_16_bit_colours_are_scaled_and_one_of_them_may_be_transparent(tmp_path: Path) -> None:
    wide = COLOURS.astype(np.uint16) * 257
    wide[0] = (40000, 1000, 256)
    png_of_16_bit_colours(wide, tmp_path / "a.png", clear=(40000, 1000, 256))
    wanted = COLOURS.copy()
    wanted[0] = 255
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), wanted)


def test_a_transparent_grey_of_16_bits_is_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.where(GREY > 127, 3000, 60000).astype(np.uint16))
    image.info["transparency"] = 3000
    np.testing.assert_array_equal(np.asarray(upright(image)), np.where(GREY > 127, 255, 60000 >> 8))


def test_floating_point_from_0_to_1_is_scaled_and_other_ranges_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(GREY.astype(np.float32) / 255).save(path)
    np.testing.assert_array_equal(pixels(path), GREY)
    for wrong in (GREY.astype(np.float32), -GREY.astype(np.float32) / 255, np.full((2, 2), np.nan, np.float32)):
        Image.fromarray(wrong).save(path)
        with pytest.raises(UnreadableImageError, match="0 to 1 is black to white"):
            pixels(path)
    Image.fromarray(GREY.astype(np.int32) * 1000).save(path)
    with pytest.raises(UnreadableImageError, match=r"integers from \d+ to \d+; 0 to 65535 is black to white"):
        pixels(path)


def test_cmyk_and_bilevel_images_keep_their_colours(tmp_path: Path) -> None:
    ink = RNG.integers(256, size=(8, 8, 4), dtype=np.uint8)
    Image.frombytes("CMYK", (8, 8), ink.tobytes()).save(tmp_path / "a.tif")
    paper = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:].astype(float)) / 255
    assert abs(pixels(tmp_path / "a.tif") - paper).max() <= 1
    Image.fromarray(GREY > 99).save(tmp_path / "b.png")
    np.testing.assert_array_equal(pixels(tmp_path / "b.png"), (GREY > 99) * 255)


# What is no image.


def test_a_large_tiff_that_is_turned_is_not_scrambled(tmp_path: Path) -> None:
    alpha = np.dstack([COLOURS, np.full((9, 13), 255, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "a.tif", exif=tagged(6))  # without compression Pillow may map the file
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), SEEN[6](COLOURS))


def bomb(path: Path, size: tuple[int, int] = (20_000, 20_000)) -> None:
    """A PNG of a few hundred kilobytes that is black all over."""
    header = struct.pack(">2I5B", *size, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((size[0] // 8 + 1) * size[1]), 9)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )


@pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000), (65_000, 65_000)])
def test_images_of_too_many_pixels_are_not_decoded(size: tuple[int, int], tmp_path: Path) -> None:
    bomb(tmp_path / "a.png", size)
    with pytest.raises(ValueError, match=r"a\.png' is not .*(pixels|bomb)"):
        decode(tmp_path / "a.png", (1, 8, 8))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_they_are_refused_also_where_pillow_only_warns(tmp_path: Path) -> None:
    bomb(tmp_path / "a.png", (10_001, 10_000))
    with pytest.raises(ValueError, match="10001x10000 pixels, more than the 89,478,485 that are decoded"):
        decode(tmp_path / "a.png", (1, 8, 8))


def special(kind: str, path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as ear:
            ear.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("nowhere.jpg")
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        content = {
            "empty": b"",
            "page": b"  <!DOCTYPE HTML><html>404</html>",
            "lfs": b"version https://git-lfs.github.com/spec/v1",
        }
        path.write_bytes(content.get(kind, b"\0\5\26\7\0\2\0\0Mac OS X"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pipe", "a named pipe, not a file"),
        ("socket", "a socket, not a file"),
        ("device", "a device, not a file"),
        ("folder", "a folder, not a file"),
        ("link", "a link to nowhere"),
        ("loop", "symbolic links"),
        ("empty", "an empty file"),
        ("page", "a web page, not an image"),
        ("lfs", "run 'git lfs pull'"),
        ("resource", "no image of a kind that is read .JPEG, PNG"),
    ],
)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the special files of POSIX")
def test_what_is_no_image_is_said(kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    special(kind, Path("a.jpg"))
    with pytest.raises(ValueError, match=rf"'a\.jpg' is not \(.*{message}.*\)\. Repair or remove it"):
        decode(Path("a.jpg"), (3, 8, 8))


@pytest.mark.parametrize("name", ["a.eps", "a.pdf", "a.ico", "a.tga"])
def test_only_decoders_of_the_listed_formats_are_started(name: str, tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no image of a kind that is read"):
        decode(tmp_path / "a.png", (3, 8, 8))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".bmp"])
@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")
def test_half_of_a_file_is_no_image(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RNG.integers(256, size=(60, 70, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"a\{suffix}' is not"):
        decode(path, (3, 8, 8))
