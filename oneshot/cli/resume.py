"""``--resume`` of runs and of studies: the configuration they began with, and what must not have changed since."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from oneshot.storage.class_paths import with_present_paths
from oneshot.storage.files import is_as_recorded
from oneshot.storage.readers import read_yaml
from oneshot.storage.trust import CONFIG, check_classes, split_trust

from .run import note

# Where and how fast data are read: nothing that a result depends on. Data may be a part of an evaluator, or of data.
HOW_DATA_ARE_READ = {
    f"{where}data.{inner}init_args.{name}"
    for where in ("", "evaluator.init_args.")
    for inner in ("", "init_args.data.")
    for name in ("num_workers", "device")
}


def options_of_the_run(
    args: Sequence[str], command: str, *, read: Callable[[Path], object] = read_yaml, trust: Sequence[str] = ()
) -> tuple[list[str], list[str] | None]:
    """With ``--resume`` and no configuration, that of the folder, and what may be imported to build it.

    Args:
        args: Words of the command line.
        command: Its name, by which its folder is called unless ``--out`` names another.
        read: Reads the configuration.
        trust: Modules and packages whose classes may be built, besides those of ``--trust``.

    Raises:
        ValueError: If the folder has no configuration, or it names a class that is not trusted.
    """
    args, asked = split_trust(args)
    if "--resume" not in args or any(arg == "--config" or arg.startswith("--config=") for arg in args):
        return args, None
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--out", default=f"runs/{command}")
    config = Path(finder.parse_known_args(args)[0].out) / CONFIG
    if not config.is_file():
        raise ValueError(
            f"--resume must find {CONFIG} in the folder of --out; {config.parent} has no {CONFIG}. Name its folder."
        )
    if not is_as_recorded(config):
        note(f"{config} was changed, or damaged, since the beginning; it is used as it is now.")
    written = read(config)
    present = with_present_paths(written)  # the parser takes the name of a file, or what it would hold
    given = str(config) if present == written else yaml.safe_dump(present, sort_keys=False)
    return ["--config", given, *args], check_classes(present, config, (*asked, *trust))


def check_unchanged(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    folder: Path,
    *,
    parts: Sequence[str],
    free: Collection[str] = (),
) -> None:
    """Refuse options by which a resumed run or study would end differently.

    Args:
        then: The configuration it began with.
        now: The configuration that is given.
        folder: Of the run or the study.
        parts: Names in the configurations that count.
        free: Dotted names that may change, besides :data:`HOW_DATA_ARE_READ`.

    Raises:
        ValueError: Naming every option that differs.
    """
    before, after = (dict(leaves({part: config.get(part) for part in parts})) for config in (then, now))
    names = sorted((before.keys() | after.keys()) - HOW_DATA_ARE_READ - set(free))
    if changed := [name for name in names if before.get(name) != after.get(name)]:
        different = "; ".join(f"{name} was {before.get(name)}, is {after.get(name)}" for name in changed)
        raise ValueError(
            f"To resume, the options must be those of the beginning; {different}. Leave them out (--resume --out "
            f"{folder} alone takes those of the beginning), or begin another in another folder."
        )


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values."""
    if isinstance(tree, dict) and tree:
        for name, branch in tree.items():
            yield from leaves(branch, f"{path}.{name}" if path else str(name))
    else:
        yield path, tree
