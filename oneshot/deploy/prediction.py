"""``predict.py`` of an export: predictions by numpy, Pillow and ONNX Runtime alone.

It is put together from functions of the file ``predict.py`` beside this one: those that fit the inputs and the task.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

SCRIPT = "predict.py"
PARTS = Path(__file__).with_name(SCRIPT)
READERS = {  # function that reads: what it reads, what else it needs
    "image": ("image files", ("opened",)),
    "whole_image": ("image files", ("opened",)),
    "arrays": (".npy files", ()),
    "several": (".npz files, with an array for each input", ()),
    "rows": ("CSV files with a header", ()),
}
TELLERS = {
    "oneshot.tasks.Classification": "classes",
    "oneshot.tasks.MultiLabel": "labels",
    "oneshot.tasks.Regression": "numbers",
    "oneshot.tasks.Segmentation": "pixels",
}
MODULES = {  # what is imported only where the name is used
    "csv": "import csv",
    "Image": "from PIL import Image, ImageOps",
}
COVERED = ("cover", "bilinear", "uint8", "centre")  # method, interpolation, on, crop of a resizing


def prediction(manifest: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What a manifest says of its ``predict.py``.

    Args:
        manifest: With what is said of the files.
        model: The ONNX file that makes the predictions.

    Returns:
        ``script`` (its name), ``model``, ``reads`` (which files it reads), ``function`` (which reads them) and, where
        that function is to normalise arrays, ``normalisation``; or ``script`` None and a ``reason``.
    """
    if model not in manifest["files"]:
        return {"script": None, "reason": f"{SCRIPT} runs {model}, which was not written."}
    function, reason = _reader(manifest, manifest["files"][model]["input"])
    if function is None:
        return {"script": None, "reason": reason}
    said: dict[str, Any] = {"script": SCRIPT, "model": model, "reads": READERS[function][0], "function": function}
    if function == "arrays":
        said["normalisation"] = None if manifest["files"][model]["input"].get("inside") else _scale(manifest)
    elif function == "several":
        said["normalisation"] = None
    return said


def script(manifest: Mapping[str, Any]) -> str:
    """The text of a ``predict.py``.

    Args:
        manifest: Its ``predict`` names a script, see :func:`prediction`.
    """
    said, parts = manifest["predict"], _parts()
    reader = "arrays" if said["function"] == "several" else said["function"]
    teller = TELLERS.get(manifest["task"]["class_path"], "outputs")
    code = "\n\n\n".join(parts[name] for name in (*READERS[reader][1], reader, teller, "main"))
    standard = ["import json", "import sys", *([MODULES["csv"]] if "csv." in code else [])]
    needs = ["import numpy as np", "import onnxruntime", *([MODULES["Image"]] if "Image" in code else [])]
    packages = "numpy, pillow and onnxruntime" if "Image" in code else "numpy and onnxruntime"
    head = [
        f'"""Predictions for {said["reads"]}: python {SCRIPT} FILE...',
        "",
        f"It needs {packages} (pip install), and {said['model']} and manifest.json beside it.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        *sorted(standard),
        "from collections.abc import Callable",
        "from pathlib import Path",
        "from typing import Any",
        "",
        *needs,
    ]
    return "\n".join(head) + f"\n\n\n{code}\n\n\n" + f'if __name__ == "__main__":\n    main({reader}, {teller})\n'


def write_prediction(folder: Path, content: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Write ``predict.py`` into an export, if one fits; returns what the manifest says, with it.

    Args:
        folder: The export.
        content: What its manifest says without it.
        model: The ONNX file that makes the predictions.
    """
    said = {**content, "predict": prediction(content, model)}
    if said["predict"]["script"] is not None:
        text = script(said).encode()
        (folder / SCRIPT).write_bytes(text)
        said["files"] = {**content["files"], SCRIPT: {"sha256": hashlib.sha256(text).hexdigest()}}
    return said


def _reader(manifest: Mapping[str, Any], takes: Mapping[str, Any]) -> tuple[str | None, str]:
    """The function that reads what a network takes, or why there is none."""
    how = manifest["preprocessing"]
    if how is None:
        if "inputs" in takes:
            return "several", ""
        if takes["range"] == "numbers of words":
            return None, "The network takes numbers of words, and how a text becomes these is not part of an export."
        return "arrays", ""
    if transforms := how.get("transforms"):
        return None, f"Images are prepared by transforms that numpy and Pillow do not have: {', '.join(transforms)}."
    if _of_images(how, manifest):
        return ("whole_image" if takes["dtype"] == "uint8" else "image"), ""
    if how.get("source") == "table" and {"columns", "normalisation"} <= how.keys():
        return "rows", ""
    if how.get("source") == "series" or (how.get("resize", "") is None and "normalisation" in how):
        return "arrays", ""
    return None, f"How inputs are prepared is said by 'preprocessing', in another way than {SCRIPT} reads."


def _of_images(how: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether images are prepared as data modules of oneshot do, see `oneshot.data.preprocessing`."""
    if how.get("colour") not in ("L", "RGB") or "image_size" not in how or "resize" not in how:
        return False
    resize, scale = how["resize"], how.get("normalisation") or {}
    channels = {"L": 1, "RGB": 3}[how["colour"]]
    known = resize is None or tuple(resize.get(n) for n in ("method", "interpolation", "on", "crop")) == COVERED
    return known and all(len(scale.get(name) or ()) == channels for name in ("mean", "std"))


def _scale(manifest: Mapping[str, Any]) -> dict[str, list[float]] | None:
    """Mean and deviation by which arrays are normalised, in their own units."""
    how = manifest["preprocessing"] or {}
    scale = how.get("normalisation") if manifest["preprocessing"] else manifest["normalisation"]
    if scale is None:
        return None
    factor = 255.0 if how.get("dtype") == "uint8" else 1.0
    return {name: [factor * float(value) for value in scale[name]] for name in ("mean", "std")}


@lru_cache
def _parts() -> dict[str, str]:
    """The source of each function that a script may be made of."""
    text = PARTS.read_text(encoding="utf-8")
    functions = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    return {node.name: ast.get_source_segment(text, node) or "" for node in functions}
