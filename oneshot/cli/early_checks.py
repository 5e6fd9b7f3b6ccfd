"""What can be known to be wrong before torch is loaded: files, folders, packages and names of classes.

The command line asks here first, so that these errors come in a fraction of a second. What is not found here, the
command finds later. This file imports nothing heavy.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from oneshot.deploy.manifest import MANIFEST
from oneshot.errors import missing_extra
from oneshot.storage.class_paths import present_path
from oneshot.storage.files import check_new_folder, check_writable
from oneshot.storage.lock import OWNER
from oneshot.storage.trust import CONFIG
from oneshot.supernets.genotype import NASNET_CELLS, PUBLISHED

from .options import UsageError, did_you_mean

LOG = "log.jsonl"  # of a study; tests compare these names with those of the files that write them
GENOTYPE = re.compile(r"\bGenotype\s*\(")  # not a folder that is called so
SOURCES = ("timm:", "torchvision:")
# The file by which a command knows what it may replace, and that with which it goes on.
MARKERS = {
    "quickstart": "results.json",
    "search": CONFIG,
    "pareto": CONFIG,
    "retrain": CONFIG,
    "discrete": CONFIG,
    "compare": "runs.jsonl",
}
FIRST_WORDS = {
    "retrain": "SOURCE, a search run, an exported network or a published genotype",
    "evaluate": "TARGET, a retraining or an exported network",
}
PACKAGES = ("oneshot", *(f"oneshot.{name}" for name in ("cost", "data", "discrete", "supernets", "tasks")))
OF_CLASSES = {"class_path", "model", "data", "supernet", "strategy", "evaluator", "methods", "network", "task"}
PROCESSES = ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK")  # set where another process may have made the folder
OF_ONNX = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class _Given:
    """What the words of a command with a parser of its own say.

    Args:
        options: Plain options by name, those of files with ``--config`` too; the last one counts.
        configs: Files that were read, and what is in them.
        words: Options and values, as they stand on the command line.
    """

    options: Mapping[str, Any]
    configs: Sequence[tuple[str, Mapping[str, Any]]]
    words: Sequence[tuple[str, str]]


def check(command: str, args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Refuse a command line that cannot work.

    Args:
        command: Name of the command.
        args: Options of a command that declares them.
        rest: Words of a command that has a parser of its own.

    Raises:
        UsageError: If a file of options cannot be read, or a class of ours is not there.
        ValueError: If a folder that is to be read is not there.
        FileExistsError: If a folder that is to be written exists.
        MissingExtraError: If a package that is asked for is not installed.
    """
    if any(word in ("-h", "--help", "--help-all") or word.startswith("--print_config") for word in rest):
        return
    if any(word.endswith(".help") or ".help=" in word for word in rest):
        return
    _check_source(command, args, rest)
    given = _given(rest)
    _check_classes(given)
    if command == "retrain" and given.options.get("teacher"):
        check_teacher(str(given.options["teacher"]))
    _check_packages(command, args, given)
    _check_out(command, args, given)


def not_a_run(folder: Path) -> str:
    """The error for a folder that no run has made, or that is not there."""
    near = _inside(folder, "retrain", "search") or _nearest(folder)
    return f"A run must be a folder with {CONFIG}; {folder} has none. 'oneshot search' makes one.{near}"


def first_word(command: str, words: Sequence[str]) -> str:
    """The first word of a command that must have one.

    Raises:
        ValueError: If there is none.
    """
    if not words or words[0].startswith("-"):
        raise ValueError(f"The first argument of oneshot {command} must be {FIRST_WORDS[command]}.")
    return words[0]


def check_teacher(folder: str) -> None:
    """Check that a folder may have a trained network.

    Raises:
        ValueError: If it has none.
    """
    if not any((Path(folder) / name).is_file() for name in (CONFIG, MANIFEST)):
        what = "is none of them." if Path(folder).exists() else f"is not there.{_nearest(Path(folder))}"
        raise ValueError(
            "--teacher must be the folder of a retraining, a search or an export, which have a trained network; "
            f"{folder} {what}"
        )


def unknown_network(target: str) -> ValueError:
    """The error for a network that is named by a word that nothing is known of."""
    names = [*PUBLISHED, *NASNET_CELLS]
    return ValueError(
        "The network must be named by a run, an export, a NAS-Bench-201 string, the text of a Genotype(...) or one of "
        f"{', '.join(names)}; got {target!r}, which is none of these."
        f"{did_you_mean(target, names) or _nearest(Path(target))}"
    )


def _check_source(command: str, args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Check what a command reads."""
    if command in FIRST_WORDS:
        target = first_word(command, rest)
        if command == "evaluate" and not Path(target).exists():
            raise ValueError(
                f"TARGET must be the folder of a retraining or of an export; there is no folder {target}. "
                f"'oneshot retrain' and 'oneshot export' make one.{_nearest(Path(target))}"
            )
        if command == "retrain":
            _check_network(target)
    elif command in ("derive", "export"):
        if not (Path(args.run) / CONFIG).is_file():
            raise ValueError(not_a_run(Path(args.run)))
    elif command == "pick":
        if not any((Path(args.run) / name).is_file() for name in (CONFIG, LOG)):
            raise ValueError(
                "RUN must be a run of 'oneshot pareto' or of 'oneshot discrete', which have a front to pick from; "
                f"{args.run} is no run.{_inside(Path(args.run), 'search') or _nearest(Path(args.run))}"
            )
    elif command == "data":
        if not Path(args.folder).is_dir():
            raise FileNotFoundError(
                f"'oneshot data' must get a folder of images; there is no folder {args.folder}. Check the path."
                f"{_nearest(Path(args.folder))}"
            )
    elif command == "report":
        if not Path(args.run).exists():
            raise ValueError(
                "RUN must be the folder of a run, a study, a comparison or an export, or hold such folders; "
                f"{args.run} is none: there is no such folder.{_nearest(Path(args.run))}"
            )
    elif command == "show" and "." not in args.target:  # with a point it may be a function, mypackage.build
        _check_network(args.target)


def _check_network(target: str) -> None:
    if GENOTYPE.search(target) or target.startswith(("|", *SOURCES)) or target in PUBLISHED or target in NASNET_CELLS:
        return
    path = Path(target)
    if not path.exists() and not (path.parent / MANIFEST).is_file():
        raise unknown_network(target)


def _given(rest: Sequence[str]) -> _Given:
    """Read the words of a command line, and the files of ``--config``."""
    options: dict[str, Any] = {}
    configs: list[tuple[str, Mapping[str, Any]]] = []
    words: list[tuple[str, str]] = []
    left = list(rest)
    for i, word in enumerate(left):
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            continue
        if not equals:
            value = left[i + 1] if i + 1 < len(left) and not left[i + 1].startswith("--") else ""
        words.append((name[2:], value))
        if name == "--config":
            config = read_config(value)
            configs += [] if config is None else [(value, config)]
            options |= config or {}
        else:
            options[name[2:].replace("-", "_")] = value
    return _Given(options, configs, words)


def read_config(given: str) -> dict[str, Any] | None:
    """The options in a file of ``--config``; None if it is not for this file to judge.

    Raises:
        UsageError: If it is not there, no YAML, or no mapping.
    """
    if not given:
        raise UsageError("--config must be followed by the name of a YAML file.")
    if "\n" in given or "{" in given or ": " in given:  # the options themselves
        return None
    path = Path(given)
    if not path.exists():
        raise UsageError(
            f"--config must name a YAML file; there is no file {given}.{_example(given) or _nearest(path)}"
        )
    if path.is_dir():
        inside = f" Did you mean {str(path / CONFIG)!r}?" if (path / CONFIG).is_file() else " Name a file in it."
        raise UsageError(f"--config must name a YAML file; {given} is a folder.{inside}")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark, why = error.problem_mark, " ".join(str(error.problem or error.context).split())
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(
            f"--config must name a YAML file; {given}{line} is no YAML: {why}. Look at that line and the one before: "
            "options of one level begin in the same column, and a colon and a blank follow each name."
        ) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None  # the parser says what is wrong with it
    if not isinstance(found, dict):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise UsageError(f"--config must name a YAML file of options, NAME: VALUE; {given} holds {what}.")
    return found


def _example(given: str) -> str:
    """The command that writes a file of options, if it is one that comes with the package."""
    from .examples import example_texts  # here, because it reads all of them

    path = given.removeprefix("./")
    name = path.removeprefix("experiments/")
    if name not in example_texts():
        return ""
    return f" 'oneshot examples {name}{'' if name != path else ' --out .'}' writes it."


def _check_classes(given: _Given) -> None:
    """Check that classes of ours are there, in options and in files."""
    for name, value in given.words:
        if name.rpartition(".")[2] in OF_CLASSES:
            check_class(value, f"--{name}")
    for path, config in given.configs:
        for name, value in _classes_in(config):
            check_class(value, f"{path}: {name}")


def _classes_in(tree: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, str]]:
    """Names and values of what may be classes; what a file repeats by an alias is looked at once."""
    seen = set() if seen is None else seen
    if id(tree) in seen:
        return
    if isinstance(tree, Mapping | list):
        seen.add(id(tree))
    if isinstance(tree, Mapping):
        for name, branch in tree.items():
            inner = f"{path}.{name}" if path else str(name)
            if isinstance(branch, Mapping | list):
                yield from _classes_in(branch, inner, seen)
            elif isinstance(branch, str) and name in OF_CLASSES:
                yield inner, branch
    elif isinstance(tree, list):
        for branch in tree:
            yield from _classes_in(branch, path, seen)


def check_class(class_path: str, where: str) -> None:
    """Check that a class that a public package of ours should have is there.

    Raises:
        UsageError: With the nearest name.
    """
    if not re.fullmatch(r"oneshot\.(\w+\.)?[A-Z]\w*", class_path):
        return
    package, _, name = present_path(class_path).rpartition(".")
    if package not in PACKAGES or name in (offered := dir(import_module(package))):
        return
    near = did_you_mean(name, offered, dashes=f"{package}.")
    raise UsageError(
        f"{where} must be a class that can be imported; got {class_path!r}: {package} has no class {name!r}.{near}"
    )


def _check_packages(command: str, args: argparse.Namespace, given: _Given) -> None:
    """Check that the runtimes that are asked for are installed."""
    wanted: list[tuple[str, str, str]] = []
    if command == "measure" and given.options.get("runtime") == "onnxruntime":
        wanted += [(package, "onnx", "Measuring with ONNX Runtime") for package in ("onnx", "onnxruntime")]
    if command in ("export", "pick") and "onnx" in args.formats:
        wanted += [(package, "onnx", "Exporting to ONNX") for package in OF_ONNX]
    if command == "discrete" and given.options.get("ray") not in (None, "", "null"):
        wanted.append(("ray", "ray", "Evaluating on a cluster"))
    for package, extra, what in wanted:
        if find_spec(package) is None:
            raise missing_extra(package, extra, what)


def _check_out(command: str, args: argparse.Namespace, given: _Given) -> None:
    """Check that what a command writes is not there, and can be written."""
    if command in ("pick", "export"):
        out = Path(args.out or Path(args.run) / ("picked" if command == "pick" else "export"))
        check_writable(out)
        if out.exists() and not args.overwrite:
            raise FileExistsError(f"{out} exists. Replace it with --overwrite, or name another folder with --out.")
    if command == "measure":
        _check_table(given)
    if command not in MARKERS or any(os.environ.get(name) for name in PROCESSES):
        return
    declared = vars(args)
    out = Path(str(declared.get("out") or given.options.get("out") or f"runs/{command}"))
    check_writable(out)
    overwrite = bool(declared.get("overwrite")) or _is_set(given, "overwrite")
    goes_on = _is_set(given, "resume") or (command == "compare" and (out / MARKERS[command]).is_file())
    if not goes_on and not (out / OWNER).exists():  # of a folder in use, the lock says by whom
        check_new_folder(out, overwrite=overwrite, marker=MARKERS[command])


def _check_table(given: _Given) -> None:
    """Check that a latency table that is named is not there, unless it is verified or replaced."""
    out = Path(str(given.options.get("out") or ""))
    goes_on = [name for name in ("verify", "few_shot", "elsewhere", "overwrite") if _is_set(given, name)]
    if out.suffix == ".json" and out.exists() and not goes_on and not (out.parent / f".{out.name}{OWNER}").exists():
        raise FileExistsError(f"{out} exists. Verify it with --verify 50, or replace it with --overwrite.")


def _is_set(given: _Given, name: str) -> bool:
    """Whether a switch is there, and not switched off in a file."""
    return given.options.get(name, False) not in (False, "false")


def _inside(folder: Path, *names: str) -> str:
    """``" Did you mean 'result/search'?"``, where a folder, such as that of ``oneshot auto``, holds such a run."""
    found = next((folder / name for name in names if (folder / name / CONFIG).is_file()), None)
    return "" if found is None else f" Did you mean {str(found)!r}?"


def _nearest(path: Path) -> str:
    """``" Did you mean 'runs/digits'?"``, where something of nearly that name is there and the path is not."""
    if path.exists() or not path.parent.is_dir():
        return ""
    try:
        names = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return ""
    found = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f" Did you mean {str(path.with_name(found[0]))!r}?" if found else ""
