"""Logits of an exported ONNX file for image files, from what manifest.json says: numpy, Pillow and onnxruntime only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

Array = np.ndarray[Any, Any]


def upright_on_white(path: Path, colour: str) -> Image.Image:
    with path.open("rb") as file:
        image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(np.floor(255 * np.asarray(image) + 0.5).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB").convert(colour)


def normalised(path: Path, preprocessing: dict[str, Any]) -> Array:
    """float32 ``[1, C, H, W]``."""
    height, width = preprocessing["image_size"]
    image = upright_on_white(path, preprocessing["colour"])
    assert preprocessing["resize"]["method"] == "cover" and preprocessing["resize"]["crop"] == "centre"
    image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32).reshape(height, width, -1).transpose(2, 0, 1)
    scale = {
        n: np.float32(v)[:, None, None] * np.float32(255)
        for n, v in preprocessing["normalisation"].items()
        if n != "formula"
    }
    x = (pixels - scale["mean"]) / scale["std"]
    if then := preprocessing.get("then_resize"):
        size = then["size"][1], then["size"][0]
        x = np.stack([np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BILINEAR)) for c in x])
    return x[None]


def logits(export: Path, paths: list[Path]) -> Array:
    """``[N, classes, ...]``."""
    manifest = json.loads((export / "manifest.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(export / "model.onnx", providers=["CPUExecutionProvider"])
    takes, preprocessing = manifest["files"]["model.onnx"]["input"], manifest["preprocessing"]
    if takes["dtype"] == "float32":
        batches = (normalised(path, preprocessing) for path in paths)
    else:
        images = (np.asarray(upright_on_white(path, preprocessing["colour"])) for path in paths)
        batches = (image.reshape(1, *image.shape[:2], -1) for image in images)
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in batches])
