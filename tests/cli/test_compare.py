"""``oneshot compare``: from class paths to a table, killed and called again, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneshot.cli.main import main

ROOT = Path(__file__).parents[2]
MINE = '''
from typing import Any

from oneshot import GDAS
from oneshot.supernets.base import Supernet


class Mine(GDAS):
    """A method of a user."""

    def __init__(self, supernet: Supernet, *, works: bool = True, **kwargs: Any) -> None:
        super().__init__(supernet, **kwargs)
        if not works:
            raise KeyError("not ready")
'''
TRAINER = {"max_epochs": 1, "accelerator": "cpu", "limit_train_batches": 2, "limit_val_batches": 1}
SMALL: dict[str, Any] = {
    "seeds": [0, 1],
    "supernet": {
        "class_path": "oneshot.supernets.NASBench201Supernet",
        "init_args": {"channels": 4, "cells_per_stage": 1},
    },
    "data": {"class_path": "oneshot.data.Digits", "init_args": {"batch_size": 16}},
    "trainer": {**TRAINER, "limit_test_batches": 4},
    "retrain": {"epochs": 1},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a method of a user, and with compare.yaml; it is the current one."""
    (tmp_path / "my_package.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)
    return tmp_path


def write(folder: Path, **options: Any) -> list[str]:
    """Words of a command line with a configuration."""
    (folder / "compare.yaml").write_text(yaml.safe_dump({**SMALL, **options}))
    return ["compare", "--config", "compare.yaml", "--out", "out"]


def runs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/runs.jsonl").read_text().splitlines()[1:]]


def test_methods_of_ours_and_of_a_user_are_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    methods = [
        "DARTS",
        {"class_path": "oneshot.SNAS", "init_args": {"arch_lr": 0.01}},
        {"class_path": "PCDARTS", "supernet": {"partial_channels": 4}, "init_args": {"arch_warmup_epochs": 0}},
        {"class_path": "oneshot.RandomSharing", "label": "sharing", "init_args": {"candidates": 4, "finalists": 2}},
        "my_package.Mine",
        {"class_path": "my_package.Mine", "label": "broken", "init_args": {"works": False}},
        "random",
    ]
    command = write(here, methods=methods, seeds=[0])
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "broken, seed 0: failed: KeyError: 'not ready' (my_package.py:14)" in said
    assert "1 of 7 runs failed; results.md says why, and the same command tries them again." in said
    found = runs(here)
    labels = ["DARTS", "SNAS", "PCDARTS", "sharing", "Mine", "broken", "random"]
    assert [(run["label"], run["seed"]) for run in found] == [(label, seed) for seed in (0,) for label in labels]
    assert all((run["failure"] is None) == (run["label"] != "broken") for run in found)
    assert all(0 <= run["scores"]["test/accuracy"] <= 1 for run in found if run["failure"] is None)
    report = (here / "out/report.html").read_text(encoding="utf-8")
    assert "Methods compared" in report and "Comparison of methods: out" in report
    page = (here / "out/results.md").read_text()
    assert "- supernet: oneshot.supernets.NASBench201Supernet: channels 4, cells_per_stage 1" in page
    assert "- retrain: epochs 1" in page and "| sharing | 1 |" in page
    assert (here / "out/results.png").is_file() and (here / "out/curves.png").is_file()
    assert yaml.safe_load((here / "out/config.yaml").read_text())["methods"] == methods

    # another setting of the method that failed, and one seed more
    methods[5]["init_args"] = {}  # type: ignore[index]
    assert main([*write(here, methods=methods[4:]), "--seeds", "0", "1", "--baseline", "random"]) == 0
    said = capsys.readouterr().out
    assert "Going on: 2 of 6 runs are finished." in said and len(runs(here)) == 11
    mine, repaired = (next(r for r in reversed(runs(here)) if r["label"] == name) for name in ("Mine", "broken"))
    assert mine["scores"] == repaired["scores"] and mine["config"] == repaired["config"]  # the same method and seed
    assert main([*command, "--supernet.channels", "8"]) == 1
    assert "supernet.init_args.channels was 4, is 8" in capsys.readouterr().err


def test_a_comparison_is_killed_and_goes_on(here: Path) -> None:
    command = [sys.executable, "-m", "oneshot", *write(here, methods=["GDAS", "random"])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def begin() -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=here, env=environment, **pipes)

    first = begin()
    journal, deadline = here / "out/runs.jsonl", time.monotonic() + 120
    while not (journal.is_file() and journal.read_text().count("\n") > 1) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finished = journal.read_text().count("\n") - 1
    assert first.returncode == -signal.SIGKILL and 1 <= finished < 4
    out, err = (second := begin()).communicate(timeout=120)
    assert second.returncode == 0, err
    assert f"Going on: {finished} of 4 runs are finished." in out and "[4 of 4] random, seed 1" in out
    assert [(run["label"], run["seed"]) for run in runs(here)] == [(m, s) for s in (0, 1) for m in ("GDAS", "random")]


def test_ctrl_c_ends_the_command_and_says_how_to_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from oneshot.methods.gdas import GDAS

    derive, calls = GDAS.derive, list[int]()

    def interrupted(self: GDAS) -> Any:
        calls.append(1)
        if len(calls) == 6:  # in the fit of the second seed
            signal.raise_signal(signal.SIGINT)
        return derive(self)

    monkeypatch.setattr(GDAS, "derive", interrupted)
    command = write(here, methods=["GDAS"], seeds=[0, 1, 2])
    assert main(command) == 130
    said = capsys.readouterr()
    assert "oneshot compare: interrupted. The same command goes on" in said.err and "Traceback" not in said.err
    before = runs(here)
    assert 1 <= len(before) < 3 and f"| GDAS | {len(before)} |" in (here / "out/results.md").read_text()
    assert main(command) == 0 and [run["seed"] for run in runs(here)] == [0, 1, 2]


def test_a_table_of_the_benchmark_scores_what_is_found(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = here / "table.py"
    table.write_text(
        "from oneshot.discrete import Evaluator\n\n\n"
        "class Table(Evaluator):\n"
        '    metrics = ("latency",)\n\n'
        "    def __init__(self, factor: float = 1.0) -> None:\n        self.factor = factor\n\n"
        "    def __call__(self, proposal):\n"
        '        return {"latency": self.factor * sum("3x3" in pick for pick in proposal.config["cell"])}\n'
    )
    by_class = {"class_path": "table.Table", "init_args": {"factor": 2.0}}
    options = {"methods": ["random"], "seeds": [0, 1, 2], "retrain": {"epochs": 0}, "table": by_class}
    assert main(write(here, **options)) == 1
    assert "--metric must say what counts" in capsys.readouterr().err and not (here / "out").exists()
    assert main(write(here, **options, metric="min latency")) == 0
    for run in runs(here):
        assert run["scores"] == {"latency": 2.0 * sum("3x3" in pick for pick in run["config"]["picks"]["cell"])}
    page = (here / "out/results.md").read_text()
    assert "compared by latency (lower is better)" in page and "search, s" in page
    assert not (here / "out/curves.png").exists()  # nothing was searched

    (here / "no.csv").write_text("arch,cifar10_test_accuracy\n")
    assert main([*write(here, **{**options, "table": "no.csv"}), "--overwrite"]) == 1
    assert "no.csv has no architectures" in capsys.readouterr().err
    assert len(runs(here)) == 3  # what should have been replaced is still there
    assert main([*write(here, **{**options, "table": "$NOWHERE/no.csv.gz"}), "--overwrite"]) == 1
    assert "There is no table $NOWHERE/no.csv.gz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words", "message"),
    [
        pytest.param({"methods": ["DARTZ"]}, [], "'DARTZ'. Did you mean 'DARTS'", id="name"),
        pytest.param({"methods": ["oneshot.DARTZ"]}, [], "DARTZ: .* Did you mean 'oneshot.DARTS'", id="path"),
        pytest.param({"methods": ["nowhere.Mine"]}, [], "Mine: No module named 'nowhere'", id="module"),
        pytest.param({"methods": ["oneshot.data.Digits"]}, [], "Digits: .*SearchModule", id="no-method"),
        pytest.param(
            {"methods": ["GDAS"], "common": {"arch_lrr": 1}},
            [],
            "GDAS: Option 'arch_lrr' .* Did you mean 'arch_lr'",
            id="option",
        ),
        pytest.param({"methods": [{"label": "x"}]}, [], "must have a class_path, or be 'random'", id="no-class"),
        pytest.param(
            {"methods": [{"class_path": "GDAS", "init_arg": {}}]}, [], "--methods.*init_arg", id="key-of-a-method"
        ),
        pytest.param(
            {"methods": [{"class_path": "random", "streams": 1}]}, [], "has no options; got streams", id="random"
        ),
        pytest.param({"methods": ["GDAS", "GDAS"]}, [], "GDAS comes twice. Give each its label", id="labels"),
        pytest.param({"methods": ["GDAS"], "seeds": [1, 1]}, [], "seeds .* 1 comes twice", id="seeds"),
        pytest.param({"methods": ["GDAS"]}, ["--retrain.epochs", "0"], "must be scored", id="no-score"),
        pytest.param({"methods": ["GDAS"]}, ["--metric", "max x"], "of a --table, and there is none", id="no-table"),
        pytest.param(
            {"methods": ["GDAS"]}, ["--trainer.max_epochs", "0"], "max_epochs.* at least 1; got 0", id="epochs"
        ),
        pytest.param(
            {"methods": ["GDAS"]}, ["--network.chanels", "8"], "chanels.* Did you mean 'channels'", id="network"
        ),
        pytest.param(
            {"methods": ["GDAS"]}, ["--retrain.lrr", "8"], "no option --retrain.lrr. Did you mean", id="retrain"
        ),
        pytest.param({"methods": ["GDAS"]}, ["--baseline", "x"], "one of the methods, GDAS; got 'x'", id="baseline"),
        pytest.param({}, [], "--methods must be given", id="no-methods"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(
    options: dict[str, Any], words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    try:
        code = main([*write(here, **options), *words])
    except SystemExit as stop:
        code = int(str(stop.code))
    text = capsys.readouterr().err
    assert code in (1, 2) and text.count("\n") == 1 and len(text) < 500, text
    assert re.search(message, text), text
    assert not (here / "out").exists()


def test_the_metric_of_another_task_counts(here: Path) -> None:
    rows = ["a,b,y", *(f"{i % 7},{i % 5},{i % 7 - i % 5}" for i in range(80))]
    (here / "table.csv").write_text("\n".join(rows))
    options = {
        "methods": ["my_package.Mine", "random"],
        "seeds": [0],
        "supernet": {"class_path": "oneshot.supernets.MLPSupernet", "init_args": {"width": 8, "layers": 2}},
        "data": {
            "class_path": "oneshot.data.TableData",
            "init_args": {"x": "table.csv", "target": "y", "task": "regression", "batch_size": 16},
        },
    }
    assert main([*write(here, **options), "--task", "oneshot.tasks.Regression", "--task.metric", "mae"]) == 0
    assert all(list(run["scores"]) == ["test/mae"] and run["directions"]["test/mae"] == "min" for run in runs(here))
    assert "compared by test/mae (lower is better)" in (here / "out/results.md").read_text()


def test_the_folder_of_something_else_is_not_written_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "out").mkdir()
    (here / "out/precious.txt").write_text("mine")
    assert main(write(here, methods=["random"])) == 1
    assert "out exists" in capsys.readouterr().err and os.listdir(here / "out") == ["precious.txt"]
