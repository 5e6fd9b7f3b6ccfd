"""A small folder of images as people have them: kinds, sizes, orientations, and what lies beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = [(32, 32), (48, 48), (40, 30), (30, 40), (64, 48), (56, 24)]
UNDO = {
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    8: Image.Transpose.ROTATE_270,
}


def messy(root: Path, *, classes: tuple[str, ...] = ("bright top", "dark top", "señal"), count: int = 20) -> Path:
    """Classes differ in where they are bright, so that orientation matters; ``root/Train`` and ``root/val``."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        for i in range(count):
            folder = root / ("val" if i % 4 == 0 else "Train") / name
            folder.mkdir(parents=True, exist_ok=True)
            ramp = np.linspace(1, 0, 16)[:, None] if label == 0 else np.linspace(0, 1, 16)[:, None]
            ramp = np.full((16, 1), 0.5) if label == 2 else ramp
            pixels = ramp[..., None] * rng.uniform(100, 255, 3) + rng.normal(0, 25, (16, 16, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            size = SIZES[int(rng.integers(len(SIZES)))]
            save(image.resize(size, Image.Resampling.BICUBIC), folder / f"Foto {i} ({label})", i % 11)
    for folder in (root, root / "Train", root / "val", *(root / "Train").iterdir()):
        for name in (".ipynb_checkpoints", "__MACOSX"):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / name / "copy.jpg")
        (folder / "._a.jpg").write_bytes(b"\0\5\26\7")
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf")
    return root


def save(image: Image.Image, path: Path, kind: int) -> None:
    """One of eleven kinds of files."""

    def to(suffix: str) -> Path:
        return path.with_name(path.name + suffix)

    if kind == 0:
        image.convert("L").save(to(".jpg"))
    elif kind == 1:
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(to(".png"))
    elif kind in (2, 3):
        image = image if kind == 2 else image.convert("L")
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(to(".png"))
    elif kind == 4:
        image.convert("CMYK").save(to(".JPG"))
    elif kind == 5:
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(to(".png"))
    elif kind == 6:
        image.save(to(".webp"))
    elif kind in (7, 8, 9):
        tag = list(UNDO)[kind - 6]
        exif = Image.Exif()
        exif[0x0112] = tag
        image.transpose(UNDO[tag]).save(to(".jpeg"), exif=exif)
    else:
        image.save(to(".tif" if "0" in path.name else ".jpg"))
