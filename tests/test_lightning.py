"""Private names of other packages: all are in one file, and each is there in the versions that are installed."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import ModelSummary, RichProgressBar
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from oneshot import _lightning
from oneshot.cli.trainer import RunCLI

from .rooms import ROOT, modules

HOME = "oneshot._lightning"
ADD = torch.ops.aten.add.Tensor


def trainer() -> pl.Trainer:
    return pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")


def module(name: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(name)


LIGHTNING, TORCH = "pytorch-lightning", "torch"
# Whose name it is, and how to get it.
PRIVATE: dict[str, tuple[str, Callable[[], Any]]] = {
    "_load_combined_loader_states": (LIGHTNING, lambda: trainer().fit_loop._load_combined_loader_states),
    "_can_stop_early": (LIGHTNING, lambda: trainer().fit_loop._can_stop_early),
    "_data_source": (LIGHTNING, lambda: trainer().fit_loop.epoch_loop.val_loop._data_source.is_defined),
    "_logger_connector": (
        LIGHTNING,
        lambda: (trainer()._logger_connector.should_update_logs, type(trainer()._logger_connector).metrics),
    ),
    "_batches_that_stepped": (LIGHTNING, lambda: trainer().fit_loop.epoch_loop._batches_that_stepped),
    "_ddp_kwargs": (LIGHTNING, lambda: DDPStrategy()._ddp_kwargs.setdefault),
    "_format_summary_table": (
        LIGHTNING,
        lambda: (
            importlib.import_module("pytorch_lightning.utilities.model_summary.model_summary")._format_summary_table
        ),
    ),
    "_max_depth": (LIGHTNING, lambda: ModelSummary()._max_depth),
    "_add_task": (LIGHTNING, lambda: RichProgressBar._add_task),
    "_common": (
        "jsonargparse",
        lambda: importlib.import_module("jsonargparse._common").parsing_settings["validate_defaults"],
    ),
    "_ops": (TORCH, module("torch._ops")),
    "_python_dispatch": (TORCH, module("torch.utils._python_dispatch")),
    "_pytree": (TORCH, module("torch.utils._pytree")),
    "_BatchNorm": (TORCH, lambda: nn.modules.batchnorm._BatchNorm),
    "_ConvNd": (TORCH, lambda: nn.modules.conv._ConvNd),
    "_subclasses": (TORCH, module("torch._subclasses.fake_tensor")),
    "_NormBase": (TORCH, lambda: nn.modules.batchnorm._NormBase),
    "_mkldnn": (TORCH, lambda: torch._mkldnn),
    "_C": (TORCH, lambda: torch._C.DispatchKey.CompositeImplicitAutograd),
    "_dispatch_has_kernel_for_dispatch_key": (TORCH, lambda: torch._C._dispatch_has_kernel_for_dispatch_key),
    "_set_params_and_buffers_to_ignore_for_model": (
        TORCH,
        lambda: DistributedDataParallel._set_params_and_buffers_to_ignore_for_model,
    ),
    "_op_dk": (TORCH, lambda: ADD._op_dk),
    "_overloadpacket": (TORCH, lambda: ADD._overloadpacket.__name__),
    "_schema": (TORCH, lambda: [argument.name for argument in ADD._schema.arguments]),
    "_cdata": (TORCH, lambda: torch.zeros(1).untyped_storage()._cdata),
    "_nested_tensor_size": (TORCH, lambda: torch.Tensor._nested_tensor_size),
    "_indices": (TORCH, lambda: (torch.zeros(1).to_sparse()._indices(), torch.zeros(1).to_sparse()._values())),
    "_parameters": (TORCH, lambda: nn.Linear(1, 1)._parameters["weight"]),
    "_buffers": (TORCH, lambda: nn.BatchNorm2d(1)._buffers["running_mean"]),
    "_actions": ("argparse", lambda: argparse.ArgumentParser()._actions),
    "_getframe": ("sys", lambda: importlib.import_module("sys")._getframe),
    "_prelu_kernel": (TORCH, lambda: torch.ops.aten._prelu_kernel),
    "_adaptive_avg_pool2d": (TORCH, lambda: torch.ops.aten._adaptive_avg_pool2d),
    "_replace": ("collections", lambda: importlib.import_module("collections").namedtuple("_", "x")(1)._replace(x=2)),
    "_asdict": ("collections", lambda: importlib.import_module("collections").namedtuple("_", "x")(1)._asdict()),
}
# Those of Python itself are used where they are needed, and supernets imports nothing of ours.
ANYWHERE = {name for name, (owner, _) in PRIVATE.items() if owner in ("argparse", "sys", "collections")}
SUPERNETS = {"_BatchNorm", "_NormBase", "_parameters", "_buffers"}


def present(name: str, owner: str, find: Callable[[], Any]) -> None:
    """Fail, with the version, if a private name is gone."""
    try:
        find()
    except (AttributeError, ImportError, KeyError) as error:
        installed = version(owner) if owner not in ("argparse", "sys", "collections") else "of this Python"
        pytest.fail(f"{name} is gone in {owner} {installed}: {error}. Change oneshot/_lightning.py.")


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_name_that_we_use_is_there(name: str) -> None:
    present(name, *PRIVATE[name])


def test_a_name_that_is_gone_is_told_with_its_version() -> None:
    with pytest.raises(pytest.fail.Exception, match=f"_nothing is gone in torch {version('torch')[:4]}"):
        present("_nothing", TORCH, lambda: torch._nothing)


def foreign(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Private names that no file of ours defines, by the module that uses them."""
    own, used = set[str](), dict[str, set[str]]()
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.attr if isinstance(node, ast.Attribute) else node.id)
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("register_buffer", "__setattr__")):
                own |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
            if isinstance(node, ast.Attribute):
                used.setdefault(name, set()).add(node.attr)
            elif isinstance(node, ast.ImportFrom) and not node.level and not str(node.module).startswith("oneshot"):
                parts = {*str(node.module).split("."), *(alias.name for alias in node.names)}
                used.setdefault(name, set()).update(parts)
    own -= {"_parameters", "_buffers"}  # also names of ours
    return {
        name: private
        for name, words in used.items()
        if (private := {word for word in words - own if word.startswith("_") and not word.startswith("__")})
    }


def test_private_names_of_others_are_used_in_one_file_only() -> None:
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for path, name in modules(ROOT).items()}
    found = foreign(trees)
    unknown = {name: words - set(PRIVATE) for name, words in found.items() if words - set(PRIVATE)}
    assert unknown == {}, "take them from oneshot/_lightning.py, and list them here"
    elsewhere = {
        name: words
        for name, private in found.items()
        if name != HOME
        and (words := private - ANYWHERE - (SUPERNETS if name.startswith("oneshot.supernets") else set()))
    }
    assert elsewhere == {}
    assert set(PRIVATE) == set().union(*found.values()), "this list has names that nobody uses"


def test_a_private_name_of_others_is_noticed() -> None:
    code = "from torch._ops import X\nclass A:\n    def _mine(self): return self._mine(), y._theirs, y.__len__\n"
    assert foreign({"a": ast.parse(code)}) == {"a": {"_ops", "_theirs"}}


def test_lightning_has_an_upper_bound_and_a_job_tests_what_is_above_it() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'"pytorch-lightning>=[\d.]+,<[\d.]+"', project)
    nightly = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text(encoding="utf-8"))
    commands = [step.get("run", "") for job in nightly["jobs"].values() for step in job["steps"]]
    assert any("make test-newest" in command for command in commands)
    assert any("make test-nightly" in command for command in commands)
    assert "schedule" in nightly[True]  # YAML reads `on` as a boolean
    makefile = Path(ROOT / "Makefile").read_text(encoding="utf-8")
    assert "pip install --quiet --upgrade pytorch-lightning" in makefile.partition("\ntest-newest:")[2]


def test_one_batch_is_not_all_batches_whatever_another_module_has_imported() -> None:
    """Lightning's Trainer takes 1 as one batch, and 1.0 as all of them."""

    def read(text: str, kind: object, *, mended: bool) -> str:
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_argument("--batches", type=kind)
        if mended:
            _lightning.read_whole_numbers_first(parser)
        return repr(parser.parse_args(["--batches", text]).batches)

    assert read("1", float | int | None, mended=False) == "1.0", "jsonargparse itself takes the first type that fits"
    for kind in (float | int | None, int | float | None, float | str | int):
        assert read("1", kind, mended=True) == "1" and read("0.5", kind, mended=True) == "0.5"
    assert read("null", float | int | None, mended=True) == "None"
    parser = LightningArgumentParser()
    cli = RunCLI.__new__(RunCLI)
    cli._command, cli._callbacks = "search", None
    parser.add_lightning_class_args(pl.Trainer, "trainer")
    action = next(each for each in parser._actions if each.dest == "trainer.limit_val_batches")
    action._typehint = float | int | None  # type: ignore[attr-defined]  # as another module would have it
    cli.add_arguments_to_parser(parser)
    assert repr(parser.parse_args(["--trainer.limit_val_batches", "1"]).trainer.limit_val_batches) == "1"
