"""Data and code: which classes that files name are imported, and from where nothing ever is.

To build a class is to run its code, so a folder that somebody else made must not decide what is imported. Classes of
oneshot, layers and optimizers of torch, and classes of files in the current folder are built without a question. All
others must be trusted by name. Nothing is imported from a folder that is, or lies in, a run, a study or an export, even
if Python would look there.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeGuard

LIBRARIES = ("torch.nn", "torch.optim", "torchvision.transforms")
OWN_CODE = ("ops", "costs", "source")  # options with operations, costs and factories of networks: functions by name
FILES = (".json", ".csv")  # of costs
CONFIG = "config.yaml"
# Files of a run or a study beside the configuration, and files of an export.
OF_RUNS = ("checkpoints", "data.json", "metrics.csv", "log.jsonl", "evaluations", "weights", "results.json")
OF_EXPORTS = ("manifest.json", "model.safetensors")
MOST_NODES = 100_000  # of a configuration; real ones have hundreds


def is_artifact(folder: Path) -> bool:
    """Whether a folder is a run, a study or an export."""
    there = {name for name in (CONFIG, "subnet.json", *OF_RUNS, *OF_EXPORTS) if (folder / name).exists()}
    return (CONFIG in there and bool(there & set(OF_RUNS))) or (
        "subnet.json" in there and bool(there & set(OF_EXPORTS))
    )


def lies_in_artifact(path: str | Path, *, also: Sequence[str | Path] = ()) -> bool:
    """Whether a folder is, or lies in, a run, a study, an export, or one of ``also``; links are followed."""
    path = Path(os.path.realpath(path))
    others = {Path(os.path.realpath(other)) for other in also}
    return any(folder in others or is_artifact(folder) for folder in (path, *path.parents))


@contextmanager
def imports_from_here(reading: Sequence[str | Path] = ()) -> Iterator[None]:
    """Inside, Python looks for modules in the current folder last, and in no run, study or export.

    A script that pip installed does not look in the current folder, and ``python -m oneshot`` looks there first.

    Args:
        reading: Folders that are read, whatever they hold.
    """
    before, safe = list(sys.path), os.environ.get("PYTHONSAFEPATH")
    here = os.path.realpath(".")
    code = [sys.prefix, sys.base_prefix, *map(str, _packages().values())]
    trees = [os.path.realpath(place) for place in code]

    def kept(entry: str) -> bool:
        place = os.path.realpath(entry)  # "" is the current folder
        environment = any(f"{place}{os.sep}".startswith(f"{tree}{os.sep}") for tree in trees)
        return place != here and (environment or not lies_in_artifact(place, also=reading))

    sys.path[:] = [entry for entry in before if kept(entry)]
    if lies_in_artifact(here, also=reading):
        os.environ["PYTHONSAFEPATH"] = "1"  # processes that are started from here
    else:
        sys.path.append(here)
    try:
        yield
    finally:
        sys.path[:] = before
        if safe is None:
            os.environ.pop("PYTHONSAFEPATH", None)
        else:
            os.environ["PYTHONSAFEPATH"] = safe


def check_trusted(class_path: str, trust: Sequence[str], what: str) -> None:
    """Check that code a file names may be imported: ours, or that of trusted packages.

    Args:
        class_path: Of a class or a function.
        trust: Packages besides ``oneshot``.
        what: What it builds, for the message.

    Raises:
        ValueError: If it is neither.
    """
    if class_path.startswith("oneshot.") or any(class_path.startswith(f"{prefix}.") for prefix in trust):
        return
    root = class_path.partition(".")[0]
    raise ValueError(
        f"Building {what} runs its code, so only classes of oneshot are built unasked; this is {class_path}. "
        f"If you trust it, pass trust=({root!r},), or on the command line --trust {root}."
    )


def is_ours(class_path: str) -> bool:
    """Whether a class path names something in a module of oneshot; nothing is imported to find out."""
    root, *inner, name = class_path.split(".") if "." in class_path else (class_path, "")
    if root != "oneshot" or not all(part.isidentifier() for part in (*inner, name)):
        return False
    packages = _packages()
    place = packages[inner.pop(0) if inner and inner[0] in packages else ""]
    return _module_file(place, inner) is not None


def _packages() -> dict[str, Path]:
    """Where our code is. In a checkout two folders lie beside this one; where it is installed, in it."""
    here = Path(__file__).parents[1]
    beside = {name: sys.modules.get(f"oneshot.{name}") for name in ("supernets", "callbacks")}
    mounted = {name: Path(str(m.__file__)).parent if m else here / name for name, m in beside.items()}
    return {"": here, **mounted}


def check_classes(tree: object, where: Path, trust: Sequence[str] = ()) -> list[str]:
    """Check all classes that a configuration names, before one of them is imported.

    Args:
        tree: What was read from the file.
        where: The file, for the message. Nothing is imported from its folder.
        trust: Modules and packages that may be imported besides.

    Returns:
        What may be imported to build it: names of modules and packages, for :func:`importing_only`.

    Raises:
        ValueError: If a class is neither ours, nor one's own in the current folder, nor trusted; or the configuration
            is none that a person could have written.
    """
    allowed = ["oneshot", *LIBRARIES, *trust]
    for class_path in _class_paths(tree, where):
        module, _, name = class_path.rpartition(".")
        root = class_path.partition(".")[0]
        lying = _module_file(Path(), module.split("."))
        if lying is not None and lies_in_artifact(lying.parent, also=[where.parent]):
            raise ValueError(
                f"{where} names the class {class_path}, which lies in {lying.parent.resolve()}. Nothing is imported "
                "from a run, a study or an export. If the code is yours, keep it elsewhere and begin there."
            )
        if is_ours(class_path) or any(class_path.startswith(f"{known}.") for known in (*LIBRARIES, *trust)):
            continue
        if lying is None or not _is_own(root, lying, name):
            raise ValueError(
                f"{where} names the class {class_path}. To build it is to run its code, so only classes of oneshot, "
                f"and your own in files of the current folder, are built unasked. If you trust it, say --trust {root}."
            )
        found = getattr(import_module(module), name, None)
        defined = str(getattr(found, "__module__", module)).partition(".")[0]  # may be another file of the folder
        allowed += [root, *([defined] if _is_own_module(defined) else [])]
    return allowed


@contextmanager
def importing_only(allowed: Sequence[str]) -> Iterator[None]:
    """Inside, values that jsonargparse parses name nothing that is not in these modules and packages."""
    from jsonargparse import set_parsing_settings

    from oneshot._lightning import parsing_settings

    before = dict(parsing_settings())  # the public function sets, and has no way back
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=sorted(set(allowed)))
    try:
        yield
    finally:
        parsing_settings().update(before)


def split_trust(args: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Take ``--trust NAME`` out of the words of a command line.

    Raises:
        ValueError: If the name is missing.
    """
    rest, trust, words = list[str](), list[str](), iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--trust":
            rest.append(word)
            continue
        name = value if equals else next(words, "")
        if not name or name.startswith("-"):
            raise ValueError("--trust must be followed by the name of a module or a package: --trust mymodule.")
        trust.append(name)
    return rest, tuple(trust)


def split_options(args: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Options such as ``--data`` and ``--data.init_args.root`` with their values, and all other words."""
    options, rest, words = list[str](), list[str](), iter(args)
    for word in words:
        name, equals, _ = word.partition("=")
        found = name == option or name.startswith(f"{option}.")
        (options if found else rest).append(word)
        if found and not equals and (value := next(words, None)) is not None:
            options.append(value)
    return options, rest


def _class_paths(tree: object, where: Path) -> list[str]:
    """All class paths of a configuration, in order; an alias that stands for a thousand is followed, within bounds."""
    found, stack, nodes = list[str](), [tree], 0
    while stack:
        node, nodes = stack.pop(), nodes + 1
        if nodes > MOST_NODES:
            raise ValueError(
                f"{where} is a configuration of more than {MOST_NODES:,} values; no run writes such a one."
            )
        if isinstance(node, Mapping):
            if isinstance(path := node.get("class_path"), str):
                found.append(path)
            found += [path for key in OWN_CODE for path in _dotted(node.get(key))]
            stack += node.values()
        elif isinstance(node, list | tuple):
            stack += node
    return list(dict.fromkeys(found))


def _dotted(given: object) -> list[str]:
    """Class paths of functions and classes that are given by name or alone, without the word ``class_path``."""
    values = list(given.values()) if isinstance(given, Mapping) else [given]
    return [value for value in values if is_dotted(value) and not value.endswith(FILES)]


def is_dotted(value: object) -> TypeGuard[str]:
    """Whether a value is the path of something in a module, such as ``mine.build``."""
    return isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split("."))


def _module_file(folder: Path, parts: Sequence[str]) -> Path | None:
    """The source of a module below a folder, without importing its parents."""
    if not all(part.isidentifier() for part in parts):
        return None
    place = folder.joinpath(*parts)
    candidates = [place / "__init__.py", *([place.with_suffix(".py")] if parts else [])]
    return next((path for path in candidates if path.is_file()), None)


def _is_own_module(root: str) -> bool:
    """Whether Python finds a module of this name in the current folder, and nowhere before."""
    try:
        spec = find_spec(root)
    except (ImportError, ValueError):
        return False
    here = os.path.realpath(".")
    if spec is None or lies_in_artifact(here):
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return bool(places) and all(os.path.realpath(place).startswith(f"{here}{os.sep}") for place in places)


def _is_own(root: str, file: Path, name: str) -> bool:
    """Whether a file of the current folder defines a class; what does not is not run to find out."""
    if not _is_own_module(root):
        return False
    try:
        statements = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):
        return False
    names: set[str] = set()
    for statement in statements:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            names.add(statement.name)
        elif isinstance(statement, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in statement.names}
    return name in names


def describe_trust(modules: Sequence[str]) -> str:
    """The argument of :func:`oneshot.load` that classes of these modules need; "" if they are ours."""
    foreign = sorted({module.partition(".")[0] for module in modules} - {"oneshot"})
    return f", trust={tuple(foreign)!r}" if foreign else ""


def plain(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The named settings that are numbers or words."""
    return {name: settings[name] for name in names if isinstance(settings.get(name), str | int | float)}
