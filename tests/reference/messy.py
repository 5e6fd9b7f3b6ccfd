"""A folder of images as people have them: all kinds of files, litter between them, and some that are broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {"blau ü": (40, 60, 200), "green": (60, 190, 60), "rot (2)": (200, 60, 40)}
SIZES = ((24, 24), (40, 30), (30, 40), (60, 20), (48, 48), (90, 70))  # width, height
KINDS = ("jpg", "grey", "palette", "transparent", "cmyk", "turned", "16 bit", "webp", "grey and transparent")
UNDONE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def make_messy_folder(root: Path, *, train: int = 27, val: int = 9, broken: bool = True) -> dict[Path, int]:
    """Write ``root/train/<class>`` and ``root/val/<class>``.

    A class has a colour, and a bright half: the upper, lower or left one. So orientations and gray images count.

    Args:
        root: A new folder.
        train: Good images of a class in train.
        val: Likewise in val.
        broken: Whether some files cannot be read.

    Returns:
        The good images in val, and the numbers of their classes.
    """
    rng, good = np.random.default_rng(0), {}
    for part, count in (("train", train), ("val", val)):
        for label, (name, colour) in enumerate(CLASSES.items()):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                stem = ("IMG_{}", "Foto {} (Kopie)", "写真.{}")[i % 3].format(i)
                path = _save(_picture(label, colour, rng), folder / stem, i)
                if part == "val":
                    good[path] = label
            _litter(folder)
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "notes.txt").write_text("my notes", encoding="utf-8")
    (root / "__MACOSX").mkdir()
    if broken:
        _break(root)
    return good


def _picture(label: int, colour: tuple[int, int, int], rng: np.random.Generator) -> Image.Image:
    width, height = SIZES[int(rng.integers(len(SIZES)))]
    pixels = np.full((height, width, 3), colour, np.float64)
    half = (np.s_[: height // 2], np.s_[height // 2 :], np.s_[:, : width // 2])[label]
    pixels[half] += 90
    return Image.fromarray((pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8))


def _save(image: Image.Image, stem: Path, number: int) -> Path:
    kind = KINDS[number % len(KINDS)]
    suffix = {"jpg": ".jpg", "grey": ".jpg", "cmyk": ".JPG", "turned": ".jpeg", "webp": ".webp"}.get(kind, ".png")
    path = stem.with_name(stem.name + suffix)
    options = {} if suffix == ".png" else {"quality": 95}
    if kind == "grey":
        image = image.convert("L")
    elif kind == "palette":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE)
    elif kind == "transparent":
        image.putalpha(Image.fromarray(np.tri(*image.size[::-1], dtype=np.uint8) * 155 + 100))
    elif kind == "cmyk":
        image = image.convert("CMYK")
    elif kind == "turned":
        tag = list(UNDONE)[number // len(KINDS) % len(UNDONE)]
        exif = Image.Exif()
        exif[0x0112] = tag
        image.transpose(UNDONE[tag]).save(path, exif=exif, quality=95)
        return path
    elif kind == "16 bit":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif kind == "grey and transparent":
        image = image.convert("LA")
    image.save(path, **options)
    return path


def _litter(folder: Path) -> None:
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (folder / "._IMG_0.jpg").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X")
    copies = folder / ".ipynb_checkpoints"
    copies.mkdir()
    shutil.copy(folder / "IMG_0.jpg", copies / "IMG_0-checkpoint.jpg")


def _break(root: Path) -> None:
    for part in ("train", "val"):
        green, red = root / part / "green", root / part / "rot (2)"
        content = (green / "IMG_0.jpg").read_bytes()
        (green / "truncated.jpg").write_bytes(content[: len(content) // 2])
        (red / "empty.png").write_bytes(b"")
        (red / "page.jpg").write_text("<html>404</html>", encoding="utf-8")
