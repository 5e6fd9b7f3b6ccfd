"""The experiment on the collapse of DARTS: its methods can be built, its rows are found again, its table has means."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneshot.supernets import PUBLISHED, DARTSSupernet

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments/robust"))
import run as robust  # type: ignore[import-not-found]  # a script

sys.path.pop(0)
sys.modules.pop("run")


@pytest.mark.parametrize("method", robust.METHODS)
@pytest.mark.parametrize("space", robust.SPACES)
def test_every_method_can_search_every_space(space: str, method: str) -> None:
    supernet = DARTSSupernet(robust.space_of(space), channels=2, cells=3, image_size=8)
    search = robust.METHODS[method](supernet, 10)
    supernet.space.validate(search.derive())


def row(seed: int, accuracy: float, **others: Any) -> dict[str, Any]:
    settings = {"epochs": 15, "images": 2000, "side": 16, "channels": 4, "cells": 5, "batch": 64}
    settings |= {"retrain_epochs": 15, "retrain_channels": 8}
    facts = {"skips_normal": 2 + seed, "convolutions": 10, "eigenvalues": [[0, 0.5], [14, 0.25]], "accuracy": accuracy}
    return {"space": "s2", "method": "DARTS", "seed": seed, **settings, **facts, **others}


def test_the_table_has_means_and_the_spread_over_seeds_of_the_same_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [row(0, 0.4), row(1, 0.5), row(2, 0.9, epochs=1)]  # the last one is of another size
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(file), "--table"])
    robust.main()
    assert "| s2 | DARTS | 2 | 2.5 | 10.0 | 0.250 | 45.0 ± 7.1 |" in capsys.readouterr().out


def test_a_command_that_was_stopped_runs_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, ran = tmp_path / "rows.jsonl", list[tuple[str, str, int]]()
    file.write_text(json.dumps(row(0, 0.4)) + "\n", encoding="utf-8")

    def run(space: str, method: str, seed: int, given: Any) -> dict[str, Any]:
        ran.append((space, method, seed))
        return row(seed, 0.5)

    monkeypatch.setattr(robust, "run", run)
    options = ["--spaces", "s2", "--methods", "DARTS", "--seeds", "0", "1"]
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(file), *options])
        robust.main()
    assert ran == [("s2", "DARTS", 1)]


def test_what_was_derived_is_trained_once_more_in_another_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out, asked = tmp_path / "rows.jsonl", tmp_path / "again.jsonl", list[tuple[str, int, int]]()
    genotypes = [str(PUBLISHED[name]) for name in ("DARTS_V1", "DARTS_V2")]
    rows = [row(seed, 0.4, genotype=genotype) for seed, genotype in enumerate(genotypes)]
    rows.append(row(1, 0.7, genotype=genotypes[1], method="RobustDARTS"))  # what DARTS derived for this seed
    file.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")

    def trained(genotype: Any, data: Any, seed: int, given: Any) -> tuple[float, int]:
        asked.append((str(genotype), data.images, data._test_images))
        return 0.5 + seed / 10, 1000

    np.savez(tmp_path / "cifar10_jpeg_test.npz", classes=[str(i) for i in range(10)])  # images are read by the training
    monkeypatch.setenv("ONESHOT_DATA", str(tmp_path))
    monkeypatch.setattr(robust, "trained", trained)
    options = ["--retrain", str(file), "--images", "300", "--test-images", "40"]
    for _ in range(2):  # the second time, nothing is missing
        monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(out), *options])
        robust.main()
    assert asked == [(genotype, 300, 40) for genotype in genotypes]
    found = robust.rows_of(out)
    assert [(one["accuracy"], one["images"], one["searched_with"]["images"]) for one in found] == [
        (0.5, 300, 2000),
        (0.6, 300, 2000),
        (0.6, 300, 2000),
    ]
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(file), *options])
    with pytest.raises(SystemExit):
        robust.main()
    assert robust.rows_of(file) == rows
