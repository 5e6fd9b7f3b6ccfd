"""The table of proxies on trained networks: its script goes on after a stop, and counts what it wrote."""

from __future__ import annotations

import csv
import gzip
import json
import runpy
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oneshot.proxies import RankAgreement, score
from oneshot.random_numbers import own_random_numbers
from oneshot.supernets import NASBenchMacroNetwork

SCRIPT = Path(__file__).parents[2] / "experiments/proxies/tables.py"
ARCHS = {"00000000": 45.0, "01000000": 80.0, "22222222": 93.0, "00010000": 70.0}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight images, and a table of four networks of NAS-Bench-Macro, of which one is there in two spellings."""
    parts = []
    for i in range(8):
        buffer = BytesIO()
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG")
        parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
    images = {"jpeg": np.concatenate(parts), "offsets": np.cumsum([0, *map(len, parts)]), "labels": np.arange(8) % 3}
    np.savez(tmp_path / "cifar10_jpeg_train.npz", **images)
    with gzip.open(tmp_path / "nas_bench_macro.csv.gz", "wt", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["arch", "cifar10_test_accuracy_mean"])
        rows.writerows([*ARCHS.items(), ("00001000", 70.0)])  # the same network as 00010000
    monkeypatch.setenv("ONESHOT_DATA", str(tmp_path))
    return tmp_path


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    given = ["--tables", "NAS-Bench-Macro", "--batch", "4", "--names", "params", "synflow", "--out", str(folder)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *given, *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_the_table_goes_on_where_it_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, monkeypatch, "--count", "2")
    path = folder / "rows-NAS-Bench-Macro.jsonl"
    two = path.read_text(encoding="utf-8")
    path.write_text(two + '{"arch": "22', encoding="utf-8")  # a kill in the middle of a line
    run(folder, monkeypatch, "--count", "99")
    assert path.read_text(encoding="utf-8").startswith(two)
    (result,) = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    assert result["networks"] == 4
    found = {row["proxy"]: row for row in result["proxies"]}
    ours = {}
    for arch in ARCHS:
        with own_random_numbers(0):
            network = NASBenchMacroNetwork(arch)
        ours[arch] = score(network, torch.zeros(1, 3, 32, 32), names="synflow")["synflow"]  # it looks at no image
    expected = RankAgreement.of([ours[a] for a in ARCHS], [ARCHS[a] for a in ARCHS])
    assert found["synflow"]["spearman"] == pytest.approx(expected.spearman)
    assert found["params"]["cpu_seconds"] >= 0 and (folder / "tables.png").stat().st_size > 1000
    assert "| params | " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="other settings"):
        run(folder, monkeypatch, "--count", "99", "--seed", "1")


def test_another_file_and_column_with_blanks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tmp_path / "other.csv"
    given.write_text("arch,mine\n00000000,1\n01000000,\n22222222,3\n00010000,2\n", encoding="utf-8")
    words = ("--csv", str(given), "--metric", "mine")
    run(folder, monkeypatch, *words)
    (result,) = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    assert result["networks"] == 3
    with pytest.raises(SystemExit, match="must have a column 'yours'; it has arch, mine"):
        run(folder / "other", monkeypatch, "--csv", str(given), "--metric", "yours")
    with pytest.raises(SystemExit, match="other settings"):
        run(folder, monkeypatch)
    with pytest.raises(SystemExit):
        run(folder, monkeypatch, *words, "--tables", "NAS-Bench-Macro", "DARTS")
    assert "--csv is of one table" in capsys.readouterr().err
