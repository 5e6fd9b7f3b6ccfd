"""Who may import whom, as docs/architecture.md says. Every import statement is read, wherever it stands."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"oneshot": "oneshot", "supernets": "oneshot.supernets", "callbacks": "oneshot.callbacks"}

# An area is the first name below `oneshot`: a folder or a module. These may import these areas only ...
ALLOWED = {
    "supernets": set(),
    "errors": set(),
    "trust": set(),
    "_version": set(),
    "class_paths": set(),
    "limits": set(),
    "readers": {"supernets"},
    "functional": {"errors", "supernets"},
    "samplers": {"errors", "functional", "supernets"},
    "faults": set(),
    "interrupts": set(),
    "lock": {"faults", "interrupts"},
    "files": {"faults", "interrupts", "lock"},
    "cost": {"class_paths", "errors", "faults", "files", "functional", "readers", "supernets"},
    "guard": {"errors", "supernets"},
    "tasks": {"supernets"},
    "batches": {"supernets", "tasks"},
    "detection": {"supernets"},
    "summary": set(),
    "resume": {"_version", "class_paths", "guard", "summary"},
    "cluster": {"errors"},
    "fronts": set(),
    "evaluation": {"batches", "errors", "supernets", "tasks"},
    "base": {"batches", "errors", "functional", "guard", "resume", "samplers", "cost", "supernets", "tasks"},
    "sharing": {"base", "batches", "evaluation", "samplers", "supernets"},
    "sandwich": {"cost", "functional", "sharing", "supernets"},
    "methods": {"errors", "functional", "samplers", "cost", "supernets", "tasks", "base", "sandwich", "sharing"},
    "nat": {"base", "batches", "cluster", "cost", "errors", "evaluation", "faults", "files", "fronts"}
    | {"functional", "readers", "sandwich", "sharing", "supernets", "tasks"},
    "discrete": {"batches", "cluster", "cost", "errors", "evaluation", "faults", "files", "fronts", "functional"}
    | {"interrupts", "lock", "readers", "retrain", "sharing", "supernets", "tasks"},
}
# ... and all others everything, except what lies above them.
TOP = {"__main__", "cli", "examining", "measuring", "picking", "quickstart", "run_folder", "runs", "studying"}
CALLBACKS_ARE_FOR = {"callbacks", *TOP}

SUPERNETS_MAY_USE = {"numpy", "timm", "torch"}
WITHOUT_TORCH = {
    "oneshot.supernets.space",
    "oneshot.supernets.genotype",
    "oneshot.supernets.genotype_text",
    "oneshot.supernets.json_files",
}


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str, str | None, bool]]:
    """Yield (line, module, imported name, whether relative), also inside functions and `if TYPE_CHECKING`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None, False
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                yield node.lineno, module, alias.name, node.level > 0
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else "."
            if not str(name).startswith("."):
                yield node.lineno, str(name), None, False


def find_violations(root: Path) -> list[str]:
    """Read all sources below `root` and return one line per import that breaks a rule."""
    files = {}
    for folder, mount in FOLDERS.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [mount, *path.relative_to(root / folder).with_suffix("").parts]
            files[path] = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    modules = set(files.values())

    found: dict[str, None] = {}  # in order, and once per line although a line may import several names
    for path, module in files.items():
        is_package = path.name == "__init__.py"
        package = module if is_package else module.rpartition(".")[0]
        for line, target, name, relative in imports(ast.parse(path.read_text(encoding="utf-8")), package):
            # `from oneshot import errors` means oneshot.errors; so does `from oneshot.errors import X`.
            full = f"{target}.{name}" if f"{target}.{name}" in modules else target
            rule = broken_rule(module, full, name, relative, is_package=is_package)
            if rule:
                found[f"{path.relative_to(root)}:{line}: imports {full}: {rule}"] = None
    return list(found)


def folder_of(module: str) -> str:
    """Return the mount a module of ours lies in."""
    return next((m for m in ("oneshot.supernets", "oneshot.callbacks") if f"{module}.".startswith(f"{m}.")), "oneshot")


def broken_rule(module: str, target: str, name: str | None, relative: bool, *, is_package: bool) -> str | None:
    """Return the rule that `module` breaks by importing `target`, if it does."""
    area = f"{module}.".split(".")[1]
    top_level = target.split(".")[0]

    if top_level in ("supernets", "callbacks"):
        return f"write oneshot.{top_level}; there is one import root"
    if top_level != "oneshot":
        third_party = top_level not in sys.stdlib_module_names
        if area == "supernets" and third_party and top_level not in SUPERNETS_MAY_USE:
            return f"supernets use {', '.join(sorted(SUPERNETS_MAY_USE))} only"
        if module in WITHOUT_TORCH and third_party and top_level != "numpy":
            return "this module must be usable without torch"
        return None

    if target == "oneshot":
        return None if area in TOP else "import from the module that defines it, not the front door"
    same_folder = folder_of(module) == folder_of(target)
    if relative and not same_folder:
        return "absolute imports across the top-level folders: they are neighbours on disk only"
    if (
        not relative
        and same_folder
        and target.rpartition(".")[0] == (module if is_package else module.rpartition(".")[0])
    ):
        return "relative imports inside a folder"

    other = f"{target}.".split(".")[1]
    if other == "callbacks" and area not in CALLBACKS_ARE_FOR:
        return "nobody below the command line imports callbacks"
    if other in TOP and area not in TOP:
        return "the command line is the top layer"
    if area == other:
        return "methods do not import each other" if area == "methods" and not is_package else None
    if area in ALLOWED and other not in ALLOWED[area]:
        return f"{area} may import {', '.join(sorted(ALLOWED[area])) or 'nothing of ours'} only"
    return None


def test_every_import_points_down() -> None:
    assert find_violations(ROOT) == []


def test_the_test_reads_all_three_folders() -> None:
    assert all(any((ROOT / folder).rglob("*.py")) for folder in FOLDERS)


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        pytest.param("supernets/darts.py", "from oneshot.errors import X", "nothing of ours", id="supernet-imports-us"),
        pytest.param("supernets/darts.py", "import pytorch_lightning as pl", "supernets use", id="supernet-lightning"),
        pytest.param("supernets/space.py", "import torch", "without torch", id="space-imports-torch"),
        pytest.param("supernets/darts.py", "from oneshot.supernets.base import X", "relative", id="absolute-in-folder"),
        pytest.param("callbacks/plot.py", "from ..base import X", "absolute", id="relative-across-folders"),
        pytest.param(
            "oneshot/methods/gdas.py", "from oneshot.methods import darts", "relative", id="absolute-in-methods"
        ),
        pytest.param("oneshot/engine/module.py", "import supernets", "one import root", id="bare-supernets"),
        pytest.param(
            "oneshot/engine/module.py", "from callbacks.plot import X", "one import root", id="bare-callbacks"
        ),
        pytest.param(
            "oneshot/engine/module.py", "def f():\n    from .retrain import X", "base may import", id="in-a-function"
        ),
        pytest.param(
            "oneshot/engine/module.py",
            "if TYPE_CHECKING:\n    from .data import X",
            "base may import",
            id="type-checking",
        ),
        pytest.param("oneshot/engine/module.py", "from . import methods", "base may import", id="module-from-package"),
        pytest.param(
            "oneshot/engine/samplers.py", "from .base import X", "samplers may import", id="sampler-imports-base"
        ),
        pytest.param(
            "oneshot/functional.py", "from .methods.darts import X", "functional may", id="maths-imports-method"
        ),
        pytest.param("oneshot/cost/flops.py", "from ..base import X", "cost may import", id="cost-imports-base"),
        pytest.param("oneshot/methods/gdas.py", "from .darts import X", "each other", id="method-imports-method"),
        pytest.param("oneshot/methods/gdas.py", "from . import darts", "each other", id="method-module-from-package"),
        pytest.param("oneshot/methods/gdas.py", "from ..discrete import X", "methods may", id="method-discrete"),
        pytest.param(
            "oneshot/discrete/rl.py", "from ..base import X", "discrete may import", id="discrete-imports-base"
        ),
        pytest.param("oneshot/nat/search.py", "from ..methods.darts import X", "nat may import", id="front-method"),
        pytest.param(
            "oneshot/training/retrain.py", "from oneshot.callbacks import X", "callbacks", id="engine-imports-callbacks"
        ),
        pytest.param("oneshot/data/x.py", "import oneshot.callbacks.plot", "callbacks", id="plain-import"),
        pytest.param(
            "oneshot/data/x.py", "importlib.import_module('oneshot.callbacks')", "callbacks", id="dynamic-import"
        ),
        pytest.param(
            "oneshot/deploy/export.py", "from .cli import main", "top layer", id="engine-imports-command-line"
        ),
        pytest.param("oneshot/methods/gdas.py", "from . import DARTS", "each other", id="method-from-list-of-methods"),
        pytest.param("callbacks/plot.py", "from oneshot import DARTS", "front door", id="through-the-front-door"),
        pytest.param("oneshot/methods/gdas.py", "from .. import DARTS", "front door", id="relative-front-door"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, source: str, message: str) -> None:
    for name in ("oneshot/methods/__init__.py", "oneshot/methods/darts.py", "oneshot/data/__init__.py", path):
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
        pytest.param("oneshot/methods/gdas.py", "from ..base import X\nfrom oneshot.supernets import Y", id="method"),
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
