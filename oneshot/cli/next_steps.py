"""What comes after a command: a line to copy, with the folder that the command wrote, quoted for the shell."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from oneshot.storage.class_paths import stable_name

from .early_checks import read_config

EPOCHS = 100  # of a retraining that nothing else is known of
OF_SPACES = ("supernet", "data", "from", "config", "trust")  # options that say which space a command is about


def next_step(*words: str | Path) -> str:
    """``"Next: oneshot pick 'my runs/nat' --knee"``.

    Args:
        words: Of the command line, without ``oneshot``.
    """
    return f"Next: {shlex.join(['oneshot', *map(str, words)])}"


def to_retrain(run: str | Path, data: Mapping[str, Any]) -> str:
    """The command that trains the network of a search on the data of the search.

    Args:
        run: Folder of the search.
        data: ``class_path`` and ``init_args`` of its data, as a configuration has them.
    """
    folder = Path(run)
    out = folder.with_name(f"{folder.name}-retrain")
    return next_step("retrain", folder, *data_words(data), "--trainer.max_epochs", str(EPOCHS), "--out", out)


def to_predict(export: Path) -> str:
    """The command that asks an exported network about a file.

    Args:
        export: Its folder, with a ``predict.py``.
    """
    return f"Next: {shlex.join(['python', str(export / 'predict.py')])} FILE"


def data_words(data: Mapping[str, Any]) -> list[str]:
    """Data as options; of data that a search has split in two, those that were split.

    Args:
        data: ``class_path`` and ``init_args``.
    """
    class_path, arguments = str(data["class_path"]), dict(data.get("init_args") or {})
    if stable_name(class_path) == "oneshot.SearchDataModule" and isinstance(arguments.get("data"), Mapping):
        return data_words(arguments["data"])
    words = ["--data", class_path]
    defaults = _defaults(class_path)
    for name, value in arguments.items():
        if name not in defaults or defaults[name] != value:
            words += [f"--data.init_args.{name}", value if isinstance(value, str) else json.dumps(value)]
    return words


def of_the_same_space(command: str, words: Sequence[str], *more: str | Path) -> str:
    """Another command about the space that this one was about.

    Args:
        command: The other command.
        words: Of the command line of this one.
        more: Further words of the other one.
    """
    kept: list[str] = []
    keeping = False
    for word, follower in zip(words, [*words[1:], ""]):  # which is longer where there are no words
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            keeping = name.partition(".")[0] in OF_SPACES
            if name == "config":  # a file of options is of one command, unless it is of a search
                keeping = "model" in (read_config(value if equals else follower) or {})
        kept += [word] if keeping else []
    return next_step(command, *kept, *more)


def _defaults(class_path: str) -> dict[str, Any]:
    module, _, name = class_path.rpartition(".")
    try:
        found: Any = getattr(import_module(module), name)
        # Arguments of its parents, too, because classes pass them on.
        kinds = inspect.getmro(found) if isinstance(found, type) else (found,)
        given = [inspect.signature(kind).parameters for kind in reversed(kinds) if kind is not object]
    except (ImportError, AttributeError, ValueError, TypeError):
        return {}
    return {name: _as_data(parameter.default) for one in given for name, parameter in one.items()}


def _as_data(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
