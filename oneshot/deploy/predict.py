"""The functions of which the ``predict.py`` of an export is made: one that reads, one that tells, and `main`.

oneshot reads this file as a text and does not import it: a ``predict.py`` needs numpy, pillow and onnxruntime alone.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def opened(path: str) -> Image.Image:
    """The image upright, in RGB, with 8 bits a channel, and white where it is transparent."""
    with open(path, "rb") as file:
        image = ImageOps.exif_transpose(Image.open(file))
    clear = image.info.get("transparency")
    if image.mode[0] in "IF":  # 16 bits become the upper 8; floating point is black at 0 and white at 1
        values, most = np.asarray(image), 1 if image.mode == "F" else 65535
        if not 0 <= values.min() <= values.max() <= most:
            raise ValueError(f"its values must be from 0 to {most}; they are from {values.min()} to {values.max()}")
        levels = np.floor(values * 255 + 0.5) if image.mode == "F" else values >> 8
        image = Image.fromarray(np.where(values == clear, 255, levels).astype(np.uint8))
    elif isinstance(clear, tuple) and max(clear) > 255:  # the transparent colour of a file of 16 bits
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode == "La":  # which has no direct way to RGBA
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def image(path: str, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """The input of the network by an image file: float32 ``[1, C, H, W]``."""
    how = manifest["preprocessing"]
    image, (height, width) = opened(path).convert(how["colour"]), how["image_size"]
    if how["resize"]:
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    elif image.size != (width, height):
        raise ValueError(f"the network takes images of {width} x {height} pixels; this one has {image.size}")
    pixels = np.asarray(image, np.float32).reshape(height, width, -1).transpose(2, 0, 1)
    scale = {name: how["normalisation"][name] for name in ("mean", "std")}
    mean, std = (np.array(values, np.float32)[:, None, None] * np.float32(255) for values in scale.values())
    x = (pixels - mean) / std
    if "then_resize" in how:  # a network of a front has a resolution of its own
        size = how["then_resize"]["size"][::-1]
        x = np.stack([np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BILINEAR)) for c in x])
    return {"images": x[None]}


def whole_image(path: str, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """The input of a model that itself resizes and normalises, by an image file: uint8 ``[1, H, W, C]``."""
    how = manifest["preprocessing"]
    image, (height, width) = opened(path).convert(how["colour"]), how["image_size"]
    if not how["resize"] and image.size != (width, height):
        raise ValueError(f"the network takes images of {width} x {height} pixels; this one has {image.size}")
    return {"images": np.asarray(image).reshape(1, image.height, image.width, -1)}


def arrays(path: str, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """The inputs of the network by a file of numpy: one sample or several; .npz holds arrays by their names."""
    takes, found = manifest["files"][manifest["predict"]["model"]]["input"], np.load(path, allow_pickle=False)
    inputs = takes.get("inputs", {"images": takes})
    given = {name: found[name] for name in inputs} if "inputs" in takes else {"images": found}
    for name, one in inputs.items():
        shape, x = one["shape"][1:], given[name]
        x = x[None] if list(x.shape) == shape else x
        if list(x.shape[1:]) != shape or not np.isfinite(x).all():
            raise ValueError(f"a sample is finite numbers {shape}; got an array {list(x.shape)}")
        given[name] = x.astype(one["dtype"])
    if scale := manifest["predict"]["normalisation"]:
        mean, std = (np.array(scale[name], np.float32).reshape(-1, *[1] * (len(shape) - 1)) for name in ("mean", "std"))
        given = {name: (x - mean) / std for name, x in given.items()}
    return given


def rows(path: str, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """The input of the network by a CSV file with a header: float32 ``[rows, features]``."""
    how, found = manifest["preprocessing"], list[list[float]]()
    with open(path, newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            features: list[float] = []
            for column in how["columns"]:
                if (cell := row.get(column["name"])) is None:
                    raise ValueError(f"it must have a column {column['name']!r} with a cell in every row")
                empty = cell.strip().lower() in ("", "na", "n/a", "nan", "null", "none", "?")
                if empty and column["fill"] is None:
                    raise ValueError(f"row {len(found) + 1} has no value in column {column['name']!r}")
                value = column["fill"] if empty else cell.strip()
                if column["kind"] == "number":
                    features.append(float(value))
                else:  # a number for each text that was in the training; a new text is all zeros
                    features.extend(float(value == text) for text in column["categories"])
            found.append(features)
    if not found or not np.isfinite(found).all():
        raise ValueError("it must have a header and rows, and its numbers must be finite")
    mean, std = (np.array(how["normalisation"][name], np.float32) for name in ("mean", "std"))
    return {"images": (np.array(found, np.float32) - mean) / std}


def classes(output: np.ndarray, names: list[str], options: dict[str, Any], where: str) -> str:
    """The likeliest classes."""
    shares = np.exp(output.astype(np.float64) - output.max())
    return ", ".join(f"{names[i]} {shares[i] / shares.sum():.1%}" for i in np.argsort(-shares)[:3])


def labels(output: np.ndarray, names: list[str], options: dict[str, Any], where: str) -> str:
    """All labels that are likelier than not."""
    shares = 1 / (1 + np.exp(-output.astype(np.float64)))
    return ", ".join(f"{names[i]} {shares[i]:.1%}" for i in np.argsort(-shares) if shares[i] > 0.5) or "no label"


def numbers(output: np.ndarray, names: list[str], options: dict[str, Any], where: str) -> str:
    """The numbers that are predicted, in the units of the training targets."""
    values = output * np.asarray(options.get("std", 1.0), np.float32) + np.asarray(options.get("mean", 0.0), np.float32)
    return ", ".join(f"{name} {value:.6g}" for name, value in zip(names, values))


def pixels(output: np.ndarray, names: list[str], options: dict[str, Any], where: str) -> str:
    """The share of the pixels of each class. A picture of the numbers of the classes is written to this folder."""
    mask, written = output.argmax(0).astype(np.uint8), Path(f"{Path(where).name}.mask.png")
    with written.open("xb") as file:  # no file is replaced
        Image.fromarray(mask).save(file, "PNG")
    counts = np.bincount(mask.ravel(), minlength=len(names))
    shares = ", ".join(f"{names[i]} {counts[i] / counts.sum():.1%}" for i in np.argsort(-counts) if counts[i])
    return f"{shares}; {written}"


def outputs(output: np.ndarray, names: list[str], options: dict[str, Any], where: str) -> str:
    """The outputs of the network as they are."""
    return str(output.tolist())


def main(read: Callable[..., dict[str, np.ndarray]], tell: Callable[..., str]) -> None:
    """Print a line for each sample of each file."""
    here = Path(__file__).resolve().parent
    manifest = json.loads((here / "manifest.json").read_text(encoding="utf-8"))
    names = manifest["classes"] or [f"output {number}" for number in range(manifest["num_classes"])]
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit("usage: python predict.py FILE...")
    session = onnxruntime.InferenceSession(here / manifest["predict"]["model"], providers=["CPUExecutionProvider"])
    failed = 0
    for path in sys.argv[1:]:
        try:
            found = session.run(["logits"], read(path, manifest))[0]
            for number, output in enumerate(found):
                where = path if len(found) == 1 else f"{path}, sample {number + 1}"
                print(f"{where}: {tell(output, names, manifest['task']['init_args'], where)}")
        except Exception as error:  # noqa: BLE001  # decoders of damaged files raise errors of any kind
            print(f"{path}: {error}", file=sys.stderr)
            failed = 1
    sys.exit(failed)
