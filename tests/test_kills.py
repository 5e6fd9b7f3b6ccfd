"""Commands that are killed again and again, each time after they have written something, end as if they were not."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from oneshot.callbacks import good_checkpoint
from oneshot.cli import main as cli

from .training.test_resume import assert_equal, configuration

RETRAINED = "|none~0|+|skip_connect~0|none~1|+|none~0|none~1|nor_conv_1x1~2|"
IMAGES = {"input_shape": [1, 8, 8], "num_classes": 3, "batch_size": 4, "train_size": 32, "test_size": 12}
WATCHED = ("metrics.csv", "checkpoints/last.ckpt", "evaluations/evaluations.0.jsonl", "log.jsonl")
TIMES = {"at", "seconds", "crc32"}


def commands(folder: Path) -> dict[str, list[str]]:
    """One small run of each kind; all write into the folder ``run``."""
    trainer = {
        "accelerator": "cpu",
        "log_every_n_steps": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "oneshot.callbacks.RunCheckpoint", "init_args": {"every_n_steps": 2}}],
    }
    data = {"class_path": "oneshot.data.FakeImages", "init_args": IMAGES}
    retrain = {"data": data, "trainer": {**trainer, "max_epochs": 10}}
    supernet = {"class_path": "oneshot.supernets.NASBenchMacroSupernet", "init_args": {"channels": 4}}
    sizes = {"warmup_epochs": 1, "iterations": 5, "adapt_epochs": 1, "initial": 12, "batch": 3}
    evolution = {"population": 10, "generations": 3, "calibration_images": 16, "objectives": ["macs"]}
    halves = {"class_path": "oneshot.data.FakeImages", "init_args": {**IMAGES, "val_fraction": 0.25}}
    pareto = {
        "model": {"class_path": "oneshot.NAT", "init_args": {"supernet": supernet, **sizes, **evolution}},
        "data": halves,
        "trainer": {**trainer, "max_epochs": 6},
    }
    space = {"class_path": "oneshot.supernets.NASBench201Supernet", "init_args": {"channels": 2, "cells_per_stage": 1}}
    space["init_args"] |= {"in_channels": 1, "image_size": 8, "num_classes": 3}
    training = {"data": halves, "build": space, "epochs": 1}
    discrete = {
        "strategy": {
            "class_path": "oneshot.discrete.RegularizedEvolution",
            "init_args": {"population": 6, "sample": 3},
        },
        "evaluator": {"class_path": "oneshot.discrete.TrainingEvaluator", "init_args": training},
        "objectives": ["max accuracy", "min params"],
        "evaluations": 24,
    }
    for name, config in (("retrain", retrain), ("pareto", pareto), ("discrete", discrete)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    network = ["--model.network.init_args.channels=4", "--model.network.init_args.cells_per_stage=1"]
    return {
        "search": ["search", "--config", str(configuration(folder, epochs=12))],
        "retrain": ["retrain", RETRAINED, *network, "--config", str(folder / "retrain.yaml")],
        "pareto": ["pareto", "--config", str(folder / "pareto.yaml")],
        "discrete": ["discrete", "--config", str(folder / "discrete.yaml")],
    }


def work(folder: str, arguments: Sequence[str]) -> None:
    """What runs in a process of its own."""
    os.chdir(folder)
    with open("said.txt", "a", encoding="utf-8") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    torch.set_num_threads(1)
    sys.exit(cli.main([*arguments, "--out", "run", "--resume"]))


def start(folder: Path, arguments: Sequence[str]) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")  # imports once, not in each of dozens of processes
    commands = [f"oneshot.cli.{name}" for name in ("search", "pareto", "retrain", "discrete")]
    context.set_forkserver_preload([*commands, "oneshot.data", "oneshot.nat"])
    process = context.Process(target=work, args=(str(folder), list(arguments)))
    process.start()
    return process


def finish(folder: Path, arguments: Sequence[str]) -> None:
    process = start(folder, arguments)
    process.join()
    assert process.exitcode == 0, (folder / "said.txt").read_text(encoding="utf-8")[-3000:]


def durable(run: Path) -> list[tuple[int, int]]:
    """What changes with every row, evaluation and checkpoint."""
    found = []
    for name in WATCHED:
        try:
            status = (run / name).stat()
        except OSError:
            continue
        found.append((status.st_ino, status.st_size))
    return found


def kill(folder: Path, arguments: Sequence[str], rng: random.Random) -> str:
    """Kill a run at a random moment after it has written something; says what was there."""
    run, process = folder / "run", start(folder, arguments)
    for _ in range(rng.choice((1, 1, 2, 3))):
        before = durable(run)
        while durable(run) == before and process.is_alive():
            time.sleep(0.002)
    process.join(rng.uniform(0.0, 0.1))
    assert process.exitcode is None, (folder / "said.txt").read_text(encoding="utf-8")[-3000:]
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    lines = {name: (run / name).read_bytes().count(b"\n") for name in WATCHED if (run / name).is_file()}
    counts = [f"{count} lines of {Path(name).name}" for name, count in lines.items() if not name.endswith(".ckpt")]
    if (checkpoint := good_checkpoint(run / "checkpoints")) is not None:
        counts.append(f"checkpoint of step {torch.load(checkpoint, weights_only=True)['global_step']}")
    return ", ".join(counts)


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in TIMES}
    return [without_times(each) for each in value] if isinstance(value, list) else value


OF_STARTS = ("report.html", "commands.json", "warnings.json")


def outcome(run: Path) -> dict[str, Any]:
    """Everything a run leaves, without times."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or name in ("checkpoints/previous.ckpt", "checkpoints/checksums.txt", "study.png", *OF_STARTS):
            continue  # how often a checkpoint was written, a picture of times, and what has a time of each start
        if name == "data.json":
            facts = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {key: value for key, value in facts.items() if key != "working_directory"}
            continue
        if name == "sha256sums.txt":
            lines = path.read_text(encoding="utf-8").splitlines()
            found[name] = [line for line in lines if not line.endswith("data.json")]
            continue
        if name.endswith(".safetensors"):
            found[name] = safetensors.torch.load_file(path)
            continue
        if name.endswith(".ckpt"):
            saved = torch.load(path, weights_only=True)
            parts = ("state_dict", "optimizer_states", "callbacks", "oneshot", "loops", "epoch", "global_step", "nat")
            found[name] = without_times({part: saved.get(part) for part in parts})
        elif name.endswith(".jsonl"):
            timeless = [without_times(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
            found[name] = sorted(timeless, key=str) if "evaluations" in name else timeless
        elif name == "history.json":
            found[name] = without_times(json.loads(path.read_text(encoding="utf-8")))
        elif name == "evaluations.csv":
            rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
            found[name] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
        else:
            found[name] = path.read_bytes()
    return found


def killed(command: str, kills: int, folder: Path, different: int = 1) -> list[str]:
    """Kill a run so often, finish it, and compare it with one that was left alone; says when it was killed.

    On a slow machine a run gets hardly further from kill to kill: there are more, until so many moments are different.
    """
    arguments, rng = commands(folder)[command], random.Random(f"{command} {kills}")
    for name in ("whole", "killed"):
        (folder / name).mkdir()
    finish(folder / "whole", arguments)
    moments: list[str] = []
    while len(moments) < kills or (len(set(moments)) < different and len(moments) < 10 * kills):
        moments.append(kill(folder / "killed", arguments, rng))
    finish(folder / "killed", arguments)
    ours, theirs = outcome(folder / "killed" / "run"), outcome(folder / "whole" / "run")
    assert_equal(ours, theirs, command)
    return moments


COMMANDS = ["search", "retrain", "pareto", "discrete"]


@pytest.mark.nightly
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_that_is_killed_ten_times_ends_as_one_that_was_not(
    command: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    moments = killed(command, 10, tmp_path, different=5)
    sys.stderr.write("".join(f"\n{command}, kill {n}: {moment}" for n, moment in enumerate(moments, start=1)) + "\n")
    assert len(set(moments)) > 4, moments
    record_property("kills", len(moments))
