"""What a page says of a run besides results: data, warnings, versions, commands that made it, how to load it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .contents import Files, Fold, Section, Table, percent
from .network import shape_text

CONFIG, DATA, COMMANDS, WARNINGS = "config.yaml", "data.json", "commands.json", "warnings.json"
MOST_CLASSES = 200
FEW = 20  # samples of a class, below which its numbers say little


def config_of(files: Files) -> dict[str, Any]:
    """The configuration of a run, as data: nothing that it names is imported."""
    return files.settings(CONFIG)


def class_name(given: Any) -> str:
    """The name of a class that a configuration has, without its module; "" if there is none."""
    path = given.get("class_path") if isinstance(given, Mapping) else given
    return path.rpartition(".")[2] if isinstance(path, str) else ""


def arguments(given: Any) -> dict[str, Any]:
    """The arguments of a class that a configuration has."""
    found = given.get("init_args") if isinstance(given, Mapping) else None
    return found if isinstance(found, dict) else {}


def data_name(config: Mapping[str, Any]) -> str:
    """The class of the data, within a search's split of them, too; and their folder."""
    given = config.get("data") or arguments(config.get("evaluator")).get("data")
    inner = arguments(given).get("data") or given
    args = arguments(inner)
    place = next((str(args[name]) for name in ("root", "x", "path", "folder") if args.get(name)), "")
    return " ".join(filter(None, (class_name(inner), place)))


def data_section(files: Files, config: Mapping[str, Any]) -> Section | None:
    """What the data are: shape, classes, samples of each part and class."""
    facts, name = files.object(DATA), data_name(config)
    if not facts and not name:
        return None
    rows = [["data", name or "–"]]
    if facts.get("input_shape") is not None:
        rows.append(["shape of an input", shape_text(facts["input_shape"])])
    samples = facts.get("samples") or {}
    rows += [[f"{part} samples", f"{n:,}"] for part, n in samples.items() if isinstance(n, int)]
    if facts.get("num_classes") is not None:
        rows.append(["classes" if facts.get("classes") else "classes or outputs", str(facts["num_classes"])])
    if facts.get("mean"):
        scale = ", ".join(f"{m:.3g} ± {s:.3g}" for m, s in zip(facts["mean"], facts.get("std") or ()))
        rows.append(["mean ± deviation of the channels", scale])
    section = Section("data", "Data", table=Table(["what", "value"], rows))
    counts, classes = facts.get("class_counts"), facts.get("classes")
    if counts:
        names = [str(c) for c in classes or range(len(counts))]
        total = sum(counts)
        lines = [[n, f"{k:,}", percent(k / total) if total else "–"] for n, k in zip(names, counts)][:MOST_CLASSES]
        columns = ["class", "training samples", "share"]
        section.folds = [Fold(f"Training samples of {len(names)} classes", table=Table(columns, lines, columns[1:]))]
    elif classes:
        section.folds = [Fold(f"{len(classes)} classes", ", ".join(map(str, classes[:MOST_CLASSES])))]
    return section


def data_warnings(files: Files) -> list[str]:
    """What is wrong with the numbers of samples, in words."""
    facts = files.object(DATA)
    counts, classes = facts.get("class_counts") or [], facts.get("classes") or []
    names = [str(c) for c in classes] if len(classes) == len(counts) else [str(i) for i in range(len(counts))]
    said = []
    if few := [f"{name} ({n})" for name, n in zip(names, counts) if n < FEW]:
        more = f" and {len(few) - 8} more" if len(few) > 8 else ""
        said.append(f"Classes with fewer than {FEW} training samples: {', '.join(few[:8])}{more}.")
    if counts and min(counts) and max(counts) >= 10 * min(counts):
        said.append(
            f"The largest class has {max(counts) / min(counts):.0f} times as many training samples as the smallest. "
            "Accuracy hides what happens to small classes: look at every class, or use balanced=True."
        )
    return said


def recorded_warnings(files: Files) -> list[str]:
    """What the commands warned of while they ran, each once."""
    return list(dict.fromkeys(str(one.get("text")) for one in files.array(WARNINGS) if isinstance(one, dict)))


def made_section(files: Files) -> Section | None:
    """The commands that made a folder, versions, and the whole configuration; None if nothing is known of it."""
    if not files.has(COMMANDS) and not files.has(CONFIG):
        return None
    section = Section("made", "How it was made")
    commands = [one for one in files.array(COMMANDS) if isinstance(one, dict)]
    section.commands = [str(one["command"]) for one in commands if one.get("command")]
    if commands:
        last = commands[-1]
        section.lines.append(f"Started {said_time(last.get('started'))} in {last.get('folder', '–')}.")
        versions = last.get("versions") or {}
        rows = [[str(name), str(version)] for name, version in versions.items()]
        section.folds = [Fold("Versions and machine", table=Table(["package", "version"], rows))]
    else:
        section.lines.append("The commands that made it were not recorded.")
    if text := files.text(CONFIG):
        section.folds = [*section.folds, Fold(f"Configuration ({CONFIG})", text)]
    return section


def load_section(folder: Path, *, exported: bool, front: bool = False) -> Section:
    """How to use the network.

    Args:
        folder: The folder.
        exported: Whether it is an export.
        front: Whether it has a front, of which one network is picked first.
    """
    if exported:
        code = f"import oneshot\n\nnetwork = oneshot.load({str(folder)!r})"
        return Section("load", "How to load it", ["In Python, as a plain nn.Module with its weights:"], commands=[code])
    if front:
        said = ["Pick a network of the front, here the one where more accuracy begins to cost much, then load it:"]
        load = f"import oneshot\n\nnetwork = oneshot.load({str(folder / 'picked')!r})"
        commands = [shlex.join(["oneshot", "pick", str(folder), "--knee"]), load]
        return Section("load", "How to load it", said, commands=commands)
    said = ["Write the network as files that need nothing of the run (safetensors, torch.export, ONNX), then load it:"]
    load = f"import oneshot\n\nnetwork = oneshot.load({str(folder / 'export')!r})"
    commands = [shlex.join(["oneshot", "export", str(folder)]), load]
    return Section("load", "How to load it", said, commands=commands)


def said_time(text: Any) -> str:
    """A time of ISO 8601 without its fractions."""
    return str(text).replace("T", " ")[:19] if text else "–"
