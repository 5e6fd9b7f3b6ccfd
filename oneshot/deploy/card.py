"""The model card of an export, README.md: its manifest in words, with a header as the Hugging Face Hub reads it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from oneshot.storage.files import write_atomically

from .int8 import int8_sentence
from .manifest import read_manifest, write_manifest

CARD = "README.md"
MOST_CLASSES = 100  # that are listed; more are in the manifest
TASKS = {  # class of a task: what it is called
    "oneshot.tasks.Classification": "classification",
    "oneshot.tasks.MultiLabel": "several labels",
    "oneshot.tasks.Regression": "regression",
    "oneshot.tasks.Segmentation": "segmentation",
    "oneshot.tasks.LanguageModelling": "language modelling",
}
PIPELINES = {  # of the Hub, by inputs and task
    ("image", "classification"): "image-classification",
    ("image", "several labels"): "image-classification",
    ("image", "segmentation"): "image-segmentation",
    ("table", "classification"): "tabular-classification",
    ("table", "regression"): "tabular-regression",
}
METRICS = {"auroc": "roc_auc", "miou": "mean_iou", "r2": "r_squared"}  # ours: as the Hub calls them
SPLITS = {"test": "test", "val": "validation"}
FILES = {
    "model.onnx": "the network for ONNX Runtime",
    "model.int8.onnx": "the network in 8 bits, for ONNX Runtime",
    "model.pt2": "the network for PyTorch, `torch.export.load`",
    "model.safetensors": "its weights",
    "subnet.json": "its architecture; `oneshot.load` builds it",
    "predict.py": "predictions without PyTorch and oneshot",
}


def write_card(folder: str | Path) -> None:
    """Write the model card of an export by its manifest, and the card's checksum into the manifest.

    A card that somebody has changed stays as it is.

    Args:
        folder: An export with a manifest.

    Raises:
        ValueError: If there is no manifest, or it is damaged.
    """
    if (content := read_manifest(folder)) is None:
        raise ValueError(f"A model card is made by the manifest of an export; {folder} has none. Export again.")
    path, files = Path(folder) / CARD, dict(content["files"])
    before = files.pop(CARD, {}).get("sha256")
    if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != before:
        return
    sizes = {name: (Path(folder) / name).stat().st_size for name in files}
    text = card({**content, "files": files}, sizes)
    write_atomically(path, text)
    files[CARD] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    write_manifest(Path(folder), {**content, "files": files})


def card(manifest: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """The text of a model card.

    Args:
        manifest: Of an export.
        sizes: Bytes of its files.
    """
    sections = [
        _header(manifest),
        f"# {title(manifest)}",
        _beginning(manifest),
        "## How to use it",
        *_use(manifest),
        "## What it takes",
        *_inputs(manifest),
        *_outputs(manifest),
        "## How good it is",
        _results(manifest),
        "## What it costs",
        _costs(manifest),
        *_latencies(manifest),
        "## How it was found",
        *_found(manifest),
        "## Limits",
        _list(_limits(manifest)),
        "## Files",
        _table(
            ("file", "what it is", "bytes", "difference"),
            [
                (f"`{name}`", FILES.get(name, ""), f"{sizes[name]:,}", _number(entry.get("max_abs_difference")))
                for name, entry in manifest["files"].items()
            ],
        ),
        "`manifest.json` has the SHA-256 of every file. The difference is the largest one between the outputs of the "
        "file, loaded again, and those of the network, for random inputs.",
        "## Licence",
        "None is given here. Whoever publishes this network chooses one, which the data and the pretrained weights, if "
        "there were any, allow, and writes `license:` into the header of this file.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def title(manifest: Mapping[str, Any]) -> str:
    """What the network is, such as "Image classification of 10 classes"."""
    task, kind = task_name(manifest), inputs_of(manifest)
    what = f"{kind} {task}" if kind and task in ("classification", "segmentation", "regression") else task
    outputs = manifest["num_classes"]
    counted = {"regression": "number", "several labels": "label"}.get(task, "class")
    plural = {"class": "classes"}.get(counted, f"{counted}s")
    return f"{what.capitalize()}, {outputs} {counted if outputs == 1 else plural}"


def task_name(manifest: Mapping[str, Any]) -> str:
    """What the task is called; of a user's own class its name."""
    path = str((manifest.get("task") or {}).get("class_path", "oneshot.tasks.Classification"))
    return TASKS.get(path, path.rpartition(".")[2])


def inputs_of(manifest: Mapping[str, Any]) -> str:
    """What the inputs are: "image", "table", "series", or "" where it is not known."""
    how, shape = manifest.get("preprocessing") or {}, manifest["input_shape"]
    if how.get("source") in ("table", "series"):
        return str(how["source"])
    return "image" if isinstance(shape, list) and len(shape) == 3 else ""


def _header(manifest: Mapping[str, Any]) -> str:
    """YAML as the Hub reads it. No licence: that is for whoever publishes the network to say."""
    pipeline = PIPELINES.get((inputs_of(manifest), task_name(manifest)))
    found: dict[str, Any] = {
        "library_name": "oneshot",
        **({"pipeline_tag": pipeline} if pipeline else {}),
        "tags": ["neural-architecture-search", "pytorch", *(["onnx"] if "model.onnx" in manifest["files"] else [])],
    }
    if results := _hub_results(manifest, pipeline):
        found["model-index"] = [{"name": title(manifest), "results": results}]
    return f"---\n{yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=1000)}---"


def _hub_results(manifest: Mapping[str, Any], pipeline: str | None) -> list[dict[str, Any]]:
    """Results of held-out samples as the Hub lists them, one entry for each part of the data."""
    entries = []
    for split, theirs in SPLITS.items():
        metrics = [
            {"type": METRICS.get(name, name), "value": value, "name": f"{split}/{name}"}
            for whole, value in manifest["metrics"].items()
            for part, _, name in (whole.partition("/"),)
            if part == split and value is not None
        ]
        if metrics:
            dataset = {"name": "the owner's data", "type": "not-published", "split": theirs}
            task = {"type": pipeline or "other", "name": task_name(manifest)}
            entries.append({"task": task, "dataset": dataset, "metrics": metrics})
    return entries


def _beginning(manifest: Mapping[str, Any]) -> str:
    space, predict = manifest.get("space"), manifest.get("predict") or {}
    found = f" found in the search space `{space}`" if space else ""
    runs = f" `{predict['script']}` runs it without PyTorch." if predict.get("script") else ""
    version = (manifest.get("versions") or {}).get("oneshot", "")
    return f"A network of {manifest['params']:,} parameters{found} by oneshot {version}.{runs}"


def _use(manifest: Mapping[str, Any]) -> list[str]:
    predict, trust = manifest.get("predict") or {}, ""
    root = manifest["class_path"].partition(".")[0]
    if root != "oneshot":
        trust = f', trust=("{root}",)'
    python = f'import oneshot\n\nnetwork = oneshot.load("this folder"{trust})  # a torch.nn.Module in eval mode'
    found = [f"```python\n{python}\n```"]
    if predict.get("script"):
        packages = "numpy pillow onnxruntime" if "image" in predict["reads"] else "numpy onnxruntime"
        shell = f"pip install {packages}\npython {predict['script']} FILE..."
        found = [
            f"Predictions for {predict['reads']}:",
            f"```console\n{shell}\n```",
            "In Python, with oneshot:",
            *found,
        ]
    elif predict:
        found.append(f"There is no `predict.py`: {_plain(predict['reason'])}")
    return found


def _inputs(manifest: Mapping[str, Any]) -> list[str]:
    shapes = manifest["input_shape"]
    parts = shapes.items() if isinstance(shapes, Mapping) else [("one input", shapes)]
    found = [_list([f"{_plain(name)}: {shape}" for name, shape in parts])]
    for name, entry in manifest["files"].items():
        takes = entry.get("input") or {}
        if inside := takes.get("inside"):
            found.append(f"`{name}` takes images `{takes['shape']}`, {takes['dtype']}, and does {', '.join(inside)}.")
    how = manifest.get("preprocessing") or {}
    if steps := how.get("steps"):
        steps = [*steps, *([how["then_resize"]["step"]] if "then_resize" in how else [])]
        lines = [" ".join(str(step).split()).replace("`", "'") for step in steps]
        found += ["How an input is prepared:", "\n".join(["```text", *lines, "```"])]
    elif not how:
        found.append("How the inputs of the training were prepared is not recorded.")
    scale = manifest.get("normalisation")
    if scale and not isinstance(shapes, Mapping) and len(scale["mean"]) <= 16:
        found.append(f"Mean {_short(scale['mean'])}, standard deviation {_short(scale['std'])}.")
    return found


def _outputs(manifest: Mapping[str, Any]) -> list[str]:
    names = manifest.get("classes")
    if not names:
        return ["The outputs have no names."]
    listed = ", ".join(_plain(name) for name in names[:MOST_CLASSES])
    more = f", and {len(names) - MOST_CLASSES} more in `manifest.json`" if len(names) > MOST_CLASSES else ""
    return [f"Outputs, in their order: {listed}{more}."]


def _results(manifest: Mapping[str, Any]) -> str:
    known = {name: value for name, value in manifest["metrics"].items() if value is not None}
    if not known:
        return "No result is recorded. Test it before you rely on it: `oneshot evaluate`."
    return _table(("result", "value"), [(_plain(name), _number(value)) for name, value in known.items()])


def _costs(manifest: Mapping[str, Any]) -> str:
    rows = [
        ("parameters", f"{manifest['params']:,}"),
        ("multiply-accumulates (MACs) for one input", f"{manifest['macs']:,}"),
        ("memory of activations for one input, bytes", f"{manifest['memory']:,}"),
    ]
    return _table(("cost", "value"), rows)


def _latencies(manifest: Mapping[str, Any]) -> list[str]:
    int8 = int8_sentence(manifest)
    told = [int8] if int8 else []
    measured = [entry for entry in manifest.get("latency") or [] if entry.get("measured_ms") is not None]
    if not measured:
        return ["Its latency was not measured.", *told]
    rows = [
        (
            f"`{entry['file']}`" if entry.get("file") else "the network",
            _plain(f"{entry.get('runtime', '')} on {entry.get('name', '')}, threads: {entry.get('threads', '?')}"),
            str(entry.get("batch", "")),
            f"{entry['measured_ms']:.4g} ± {entry.get('spread_ms', 0.0):.2g}",
        )
        for entry in measured
    ]
    return [_table(("what", "measured with", "batch", "ms"), rows), *told]


def _found(manifest: Mapping[str, Any]) -> list[str]:
    if not (config := manifest.get("config")):
        return ["The architecture is not one of a search space of oneshot; `subnet.json` says how it is built."]
    picks = [f"{_plain(name)}: {_plain(', '.join(map(str, values)))}" for name, values in config["picks"].items()]
    return [f"It is one architecture of the search space `{config['space']}`:", _list(picks)]


def _limits(manifest: Mapping[str, Any]) -> list[str]:
    """What a user may expect of the network and does not get."""
    found, task, how = [], task_name(manifest), manifest.get("preprocessing") or {}
    if task == "classification":
        found.append("Every input gets one of the classes, also one that shows none of them.")
        found.append("Its softmax scores are not calibrated: an answer with a high score may be wrong.")
    found.append("It knows inputs like those it was trained on. Others may get any answer, without a warning.")
    if (how.get("resize") or {}).get("crop") == "centre":
        found.append("An image is cropped at its centre to the shape of the input: what lies outside is not seen.")
    if not any(name.startswith("test/") and value is not None for name, value in manifest["metrics"].items()):
        found.append("No result on test data is recorded.")
    if uncounted := manifest.get("uncounted"):
        found.append(f"The MACs are a lower bound; not counted are {_plain(', '.join(map(str, uncounted)))}.")
    if any(entry.get("measured_ms") is not None for entry in manifest.get("latency") or []):
        found.append("Latencies are those of the machine that is named. Another machine has others.")
    if manifest["class_path"].partition(".")[0] != "oneshot":
        found.append(f"`oneshot.load` imports `{manifest['class_path']}`, which must be installed.")
    return found


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _short(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _plain(text: object) -> str:
    """Text from files and users on one line, without a meaning in Markdown or HTML."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", line)
