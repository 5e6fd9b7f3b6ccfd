"""Who may import whom, as tests/rooms.py says. Every import statement is read, wherever it stands."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from .rooms import (
    FRONT_DOOR,
    PAGE,
    PICTURE,
    ROOMS,
    ROOT,
    edges,
    floors,
    imports,
    may_import,
    modules,
    pages,
    room_of,
    upward,
)

SUPERNETS_MAY_USE = {"numpy", "timm", "torch"}
WITHOUT_TORCH = {
    "oneshot.supernets.decisions",
    "oneshot.supernets.space",
    "oneshot.supernets.genotype",
    "oneshot.supernets.genotype_text",
    "oneshot.supernets.json_files",
}


def find_violations(root: Path) -> list[str]:
    """Read all sources below `root` and return one line per import that breaks a rule."""
    files = modules(root)
    known = set(files.values())

    found: dict[str, None] = {}  # in order, and once per line although a line may import several names
    for path, module in files.items():
        is_package = path.name == "__init__.py"
        package = module if is_package else module.rpartition(".")[0]
        for line, target, name, relative in imports(ast.parse(path.read_text(encoding="utf-8")), package):
            # `from oneshot import errors` means oneshot.errors; so does `from oneshot.errors import X`.
            full = f"{target}.{name}" if f"{target}.{name}" in known else target
            rule = broken_rule(module, full, name, relative, is_package=is_package)
            if rule:
                found[f"{path.relative_to(root)}:{line}: imports {full}: {rule}"] = None
    return list(found)


def folder_of(module: str) -> str:
    """Return the mount a module of ours lies in."""
    return next((m for m in ("oneshot.supernets", "oneshot.callbacks") if f"{module}.".startswith(f"{m}.")), "oneshot")


def broken_rule(module: str, target: str, name: str | None, relative: bool, *, is_package: bool) -> str | None:
    """Return the rule that `module` breaks by importing `target`, if it does."""
    top_level = target.split(".")[0]
    if top_level in ("supernets", "callbacks"):
        return f"write oneshot.{top_level}; there is one import root"
    if top_level != "oneshot":
        third_party = top_level not in sys.stdlib_module_names
        if folder_of(module) == "oneshot.supernets" and third_party and top_level not in SUPERNETS_MAY_USE:
            return f"supernets use {', '.join(sorted(SUPERNETS_MAY_USE))} only"
        if module in WITHOUT_TORCH and third_party and top_level != "numpy":
            return "this module must be usable without torch"
        return None

    if target == "oneshot":
        return None if room_of(module) in ("", "cli") else "import from the module that defines it, not the front door"
    package, parent = module if is_package else module.rpartition(".")[0], target.rpartition(".")[0]
    if relative and not f"{target}.".startswith(f"{package}."):
        return "absolute imports across folders"
    if not relative and parent == package and folder_of(module) == folder_of(target):
        return "relative imports inside a folder"

    here, there = room_of(module), room_of(target)
    if module in FRONT_DOOR or (is_package and f"{target}.".startswith(f"{package}.")):
        return None  # what a package offers
    if here == there:
        return "methods do not import each other" if here == "methods" else None
    if there not in may_import(here):
        return f"{here} may import {', '.join(sorted(may_import(here))) or 'nothing of ours'} only"
    return None


def test_every_import_points_down() -> None:
    assert find_violations(ROOT) == []
    assert upward(edges(ROOT)) == []


def test_every_folder_has_a_room_and_every_room_has_files() -> None:
    assert {room_of(module) for module in modules(ROOT).values()} - {""} == set(ROOMS)
    with pytest.raises(ValueError, match="must lie in a room"):
        room_of("oneshot.attic.box")


# What is tested by several rooms together, and what tests need themselves.
WITHOUT_A_ROOM = {"distributed", "experiments", "fuzz", "reference"}


def test_the_folders_of_the_tests_are_those_of_the_sources() -> None:
    tests = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")} - {"."}
    sources = {module.removeprefix("oneshot.").replace(".", "/") for module in modules(ROOT).values()}
    assert {name for name in tests - WITHOUT_A_ROOM if name not in sources} == set()
    assert len(tests - WITHOUT_A_ROOM) > 15


def test_no_rule_lets_rooms_import_each_other_in_a_circle() -> None:
    floors({room: may_import(room) for room in ROOMS})
    with pytest.raises(ValueError, match="these do: a > b > a"):
        floors({"a": {"b"}, "b": {"a"}})


def test_the_page_and_the_picture_show_the_rooms_as_they_are() -> None:
    written = pages(ROOT)
    for name, text in written.items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name} is stale; write it with: make architecture"
    assert all(f"`{room}`" in written[PAGE] and f">{room}</text>" in written[PICTURE] for room in ROOMS)


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        pytest.param(
            "supernets/darts.py", "from oneshot.errors import X", "supernets may import", id="supernet-imports-us"
        ),
        pytest.param("supernets/darts.py", "import pytorch_lightning as pl", "supernets use", id="supernet-lightning"),
        pytest.param("supernets/space.py", "import torch", "without torch", id="space-imports-torch"),
        pytest.param("supernets/darts.py", "from oneshot.supernets.base import X", "relative", id="absolute-in-folder"),
        pytest.param("callbacks/plot.py", "from ..engine import X", "absolute", id="relative-across-mounts"),
        pytest.param("oneshot/nat/x.py", "from ..engine.module import X", "absolute", id="relative-across-rooms"),
        pytest.param("oneshot/methods/gdas.py", "from oneshot.methods import darts", "relative", id="not-relative"),
        pytest.param("oneshot/engine/module.py", "import supernets", "one import root", id="bare-supernets"),
        pytest.param("oneshot/engine/x.py", "from callbacks.plot import X", "one import root", id="bare-callbacks"),
        pytest.param(
            "oneshot/engine/x.py", "def f():\n    from oneshot.data import X", "engine may", id="in-a-function"
        ),
        pytest.param(
            "oneshot/engine/x.py",
            "if TYPE_CHECKING:\n    from oneshot.data import X",
            "engine may import",
            id="type-checking",
        ),
        pytest.param("oneshot/engine/x.py", "from oneshot import data", "engine may import", id="module-from-package"),
        pytest.param("oneshot/functional.py", "from .methods.darts import X", "functional may", id="maths-method"),
        pytest.param("oneshot/cost/model.py", "from .penalty import X", "cost.model may", id="model-imports-penalty"),
        pytest.param("oneshot/cost/latency/x.py", "from oneshot.cost.penalty import X", "may import", id="inner-room"),
        pytest.param("oneshot/cost/penalty.py", "from oneshot.engine import X", "cost may import", id="cost-engine"),
        pytest.param("oneshot/methods/gdas.py", "from .darts import X", "each other", id="method-imports-method"),
        pytest.param("oneshot/methods/gdas.py", "from . import darts", "each other", id="method-module-from-package"),
        pytest.param("oneshot/methods/gdas.py", "from oneshot.discrete import X", "methods may", id="method-discrete"),
        pytest.param("oneshot/discrete/rl.py", "from oneshot.engine import X", "discrete may", id="discrete-engine"),
        pytest.param("oneshot/nat/search.py", "from oneshot.methods.darts import X", "nat may import", id="nat-method"),
        pytest.param("oneshot/training/x.py", "from oneshot.callbacks import X", "training may", id="callbacks"),
        pytest.param("oneshot/data/x.py", "import oneshot.callbacks.plot", "data may", id="plain-import"),
        pytest.param("oneshot/data/x.py", "importlib.import_module('oneshot.nat')", "data may", id="dynamic-import"),
        pytest.param("oneshot/deploy/x.py", "from oneshot.cli.main import main", "deploy may", id="command-line"),
        pytest.param("oneshot/methods/gdas.py", "from . import DARTS", "each other", id="method-from-list-of-methods"),
        pytest.param("callbacks/plot.py", "from oneshot import DARTS", "front door", id="through-the-front-door"),
        pytest.param("oneshot/methods/gdas.py", "from .. import DARTS", "front door", id="relative-front-door"),
        pytest.param("oneshot/nat/__init__.py", "from oneshot.methods import X", "nat may", id="package-of-a-room"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, source: str, message: str) -> None:
    packages = ("callbacks", "cli", "data", "discrete", "engine", "methods", "nat")
    others = ("engine/module.py", "methods/darts.py", "cli/main.py", "cost/penalty.py", "errors.py")
    for name in (*(f"oneshot/{each}/__init__.py" for each in packages), *(f"oneshot/{each}" for each in others), path):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / path).write_text(source)

    (violation,) = find_violations(tmp_path)

    assert violation.startswith(f"{path}:{source.count(chr(10)) + 1}: imports ")
    assert message in violation


@pytest.mark.parametrize(
    ("path", "source"),
    [
        pytest.param("supernets/darts.py", "import math, torch, timm.layers\nfrom .base import X", id="supernet"),
        pytest.param(
            "oneshot/methods/gdas.py",
            "from oneshot.engine.module import X\nfrom oneshot.supernets import Y",
            id="method",
        ),
        pytest.param("oneshot/methods/gdas.py", "from oneshot.engine.module import X, Y", id="method-absolute"),
        pytest.param("oneshot/methods/__init__.py", "from .gdas import GDAS as GDAS", id="list-of-methods"),
        pytest.param("oneshot/__init__.py", "from .methods.darts import DARTS as DARTS", id="front-door"),
        pytest.param("oneshot/cli/main.py", "def f():\n    from oneshot.callbacks import X", id="command-line"),
        pytest.param("callbacks/plot.py", "from .logger import X\nfrom oneshot.engine.module import Y", id="callback"),
    ],
)
def test_a_permitted_import_passes(tmp_path: Path, path: str, source: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source)

    assert find_violations(tmp_path) == []
