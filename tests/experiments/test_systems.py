"""The page of systems is what its script writes; its classes and tests exist, and its commands run."""

from __future__ import annotations

import ast
import gzip
import importlib
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

from oneshot.cli.main import main
from oneshot.discrete import RegularizedEvolution
from oneshot.supernets import NASBench101Space, NASBench201Space
from tests.discrete.evaluators.test_benchmarks import folder, record, write_records
from tests.discrete.evaluators.test_surrogate import LINES, write

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))
from systems import PAGE, SYSTEMS, System, page  # type: ignore[import-not-found]  # noqa: E402  # a script

sys.path.pop(0)
SHORT = ["--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1", "--trainer.log_every_n_steps=1"]
SMALLER = {
    "search": ["--trainer.max_epochs=1", *SHORT],
    "pareto": ["--trainer.max_epochs=2", *SHORT]
    + [f"--model.{x}" for x in ("warmup_epochs=1", "iterations=1", "initial=12", "batch=3", "population=10")],
    "discrete": ["--evaluations=3"],
}
FURTHER = {
    "DARTS-PT": ["--model.batches=1"],
    "ENAS": ["--model.updates=1", "--model.batch=2", "--model.candidates=4", "--model.finalists=2"],
    "Random search with shared weights": ["--model.candidates=4", "--model.finalists=2"],
    "One-shot, single path": ["--model.candidates=4", "--model.finalists=2"],
}
SMALL_TABLES = {"NAS-Bench-101": NASBench101Space(), "NAS-Bench-201": NASBench201Space()}
OFTEN = ("GDAS", "Genetic CNN", "NAS-Bench-201", "NetAdapt and MobileNetV3")  # one of each kind


def test_the_page_is_what_the_script_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
    assert len({system.name for system in SYSTEMS}) == len({system.folder for system in SYSTEMS}) == len(SYSTEMS) == 34


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_its_classes_are_public_and_its_tests_exist(system: System) -> None:
    for name in system.classes:
        module, _, attribute = f"oneshot.{name}".rpartition(".")
        assert attribute in importlib.import_module(module).__all__
    assert system.tests
    for test in system.tests:
        path, _, name = test.partition("::")
        assert name in names_in(path), test
    for path in re.findall(r"`(experiments/\S+)`", f"{system.here} {system.missing}"):
        assert (ROOT / path).exists(), path


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert "test_no_such_thing" not in names_in("tests/methods/test_darts.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    "system",
    [pytest.param(s, id=s.name, marks=() if s.name in OFTEN else (pytest.mark.nightly,)) for s in SYSTEMS],
)
def test_its_command_runs(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    program, command, *options = shlex.split(system.command)
    assert program == "oneshot"
    if (space := SMALL_TABLES.get(system.name)) is not None:  # of what the search is going to ask for
        asked = [proposal.config for proposal in RegularizedEvolution(space).ask(3)]
        if isinstance(space, NASBench101Space):
            records = [record(str(n), 108, space.cell(config), 0.9) for n, config in enumerate(asked) for _ in range(3)]
            write_records(tmp_path / "nasbench_only108.tfrecord", records)
        else:
            folder(tmp_path / "NATS-tss-v1_0-3ffb9-simple", [space.arch_string(config) for config in asked])
        options.append("--evaluator.init_args.complete=false")
    if system.name == "NAS-Bench-301":
        with gzip.open(tmp_path / "darts_archs.csv.gz", "wt", encoding="utf-8") as file:
            file.write(write(tmp_path / "cells.csv", LINES).read_text())
    smaller = [*SMALLER[command], *FURTHER.get(system.name, [])]
    assert main([command, *options, *smaller, "--out", system.folder]) == 0
    assert (tmp_path / system.folder / "report.html").is_file()
