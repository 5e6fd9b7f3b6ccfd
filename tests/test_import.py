"""Importing us changes nothing, says nothing, connects to nothing, and costs little until something is used."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch",
    "torchvision",
    "pytorch_lightning",
    "torchmetrics",
    "timm",
    "wandb",
    "matplotlib",
    "sklearn",
    "fvcore",
    "moocore",
}
# Their names are imported on first use.
LAZY = [
    "oneshot",
    *(f"oneshot.{name}" for name in ("supernets", "callbacks", "data", "discrete", "nat")),
    *(f"oneshot.{name}" for name in ("engine", "evaluation", "fronts", "training")),
]

STATE = """
import json, logging, os, random, signal, sys, warnings
connections = []

def listen(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        connections.append(str(args))

sys.addaudithook(listen)

def state():
    found = {
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "sys.path": list(sys.path),
        "random": repr(random.getstate()),
        "warning filters": repr(warnings.filters),
        "log handlers": repr(logging.root.handlers) + str(logging.root.level),
        "exception hook": repr(sys.excepthook),
        "signals": repr([signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]),
        "connections": list(connections),
    }
    if "numpy" in sys.modules:
        import numpy as np
        found["numpy random"] = repr(np.random.get_state())
        found["numpy printing"] = repr(np.get_printoptions())
    if "torch" in sys.modules:
        import torch
        found |= {
            "dtype": str(torch.get_default_dtype()),
            "device": str(torch.get_default_device()),
            "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled],
            "matmul precision": torch.get_float32_matmul_precision(),
            "gradients": torch.is_grad_enabled(),
            "seed": torch.initial_seed(),
            "random state": torch.get_rng_state().tolist(),
            "multiprocessing": torch.multiprocessing.get_sharing_strategy(),
        }
    return found
"""


def run(script: str, tmp_path: Path) -> dict[str, object]:
    """Run `script` in a fresh interpreter in which `report(x)` hands a JSON value back; fail if it prints anything."""
    answer = tmp_path / "answer.json"
    head = f"import json, pathlib\ndef report(x): pathlib.Path({str(answer)!r}).write_text(json.dumps(x))\n"

    done = subprocess.run([sys.executable, "-c", head + script], cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    result: dict[str, object] = json.loads(answer.read_text())
    return result


def heavy_modules_after(script: str, tmp_path: Path) -> set[object]:
    """Return which of the slow libraries are loaded after `script`."""
    return set(run(f"{script}\nimport sys\nreport({{m: 0 for m in {HEAVY!r} if m in sys.modules}})", tmp_path))


def test_importing_oneshot_changes_no_global_state(tmp_path: Path) -> None:
    changes = run(
        STATE + "before = state()\nimport oneshot\nafter = state()\n"
        "report({k: [v, after[k]] for k, v in before.items() if after[k] != v})",
        tmp_path,
    )

    assert changes == {}


def test_using_every_public_name_changes_no_global_state(tmp_path: Path) -> None:
    # Some libraries set variables and filters when they are imported. That is theirs, so they are loaded first.
    changes = run(
        "import torch, torchvision, pytorch_lightning, torchmetrics, timm\n" + STATE + "before = state()\n"
        "import oneshot, oneshot.supernets, oneshot.data, oneshot.callbacks\n"
        "for module in (oneshot, oneshot.supernets, oneshot.data, oneshot.callbacks):\n"
        "    names = [n for n in dir(module) if not n.startswith('_')]\n"
        "    assert names, module\n"
        "    for name in names: getattr(module, name)\n"
        "after = state()\n"
        "report({k: [v, after[k]] for k, v in before.items() if after[k] != v})",
        tmp_path,
    )

    assert changes == {}


def test_a_change_of_global_state_would_be_noticed(tmp_path: Path) -> None:
    changes = run(
        "import torch\n" + STATE + "before = state()\nimport contextlib, os, socket\n"
        "os.environ['PLANTED'] = '1'\n"
        "torch.set_default_dtype(torch.float64)\n"
        "torch.use_deterministic_algorithms(True)\n"
        "with contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9), timeout=1)\n"
        "after = state()\n"
        "report({k: [v, after[k]] for k, v in before.items() if after[k] != v})",
        tmp_path,
    )

    assert set(changes) >= {"environment", "dtype", "deterministic", "connections"}


@pytest.mark.parametrize("module", LAZY)
def test_an_unknown_name_is_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError, match=f"'{module}' has no attribute 'no_such_name'"):
        _ = importlib.import_module(module).no_such_name


@pytest.mark.parametrize("module", LAZY)
def test_type_checkers_and_users_see_the_same_names(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__file__ is not None
    tree = ast.parse(Path(loaded.__file__).read_text(encoding="utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for_type_checkers = {
        alias.asname
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert set(loaded.__all__) - {"__version__"} == for_type_checkers
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []


@pytest.mark.parametrize(
    "module", ["oneshot", "oneshot.cli.main", "oneshot.supernets.space", "oneshot.supernets.genotype", "oneshot.data"]
)
def test_a_module_that_answers_quickly_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    assert heavy_modules_after(f"import {module}", tmp_path) == set()


def test_the_help_text_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import contextlib, io, sys\nsys.argv = ['oneshot', '--help']\nfrom oneshot.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit): main()\n"
        "assert 'search' in text.getvalue() and 'quickstart' in text.getvalue()"
    )

    assert heavy_modules_after(script, tmp_path) == set()
