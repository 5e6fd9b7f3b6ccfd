"""The experiment on ``oneshot auto``, in small."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.processes import run_python

SCRIPT = Path(__file__).parents[2] / "experiments/auto/run.py"


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_an_image_set_becomes_a_folder_and_a_sibling_is_trained_beside_the_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels, split = np.arange(80) % 2, np.array([0] * 60 + [1] * 20)
    files = []
    for label in labels:
        pixels = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
        pixels[..., 2 * label] += 120
        memory = io.BytesIO()
        Image.fromarray(pixels).save(memory, "jpeg")
        files.append(memory.getvalue())
    ends = np.cumsum([0, *map(len, files)])
    packed = np.frombuffer(b"".join(files), np.uint8)
    np.savez(tmp_path / "toys.npz", jpeg=packed, offsets=ends, labels=labels, classes=["red", "blue"], split=split)
    words = ["toys", "--latency", "5", "--minutes", "10", "--work", tmp_path / "work", "--results", tmp_path / "r.json"]
    done = run_python(SCRIPT, *words, env={**os.environ, "ONESHOT_DATA": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "work/toys/train").glob("*/*.jpg"))) == 60
    assert len(list((tmp_path / "work/toys/test/red").iterdir())) == 10
    (row,) = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    found, sibling = row["table"]
    assert row["counts"]["test"] == 20 and row["file_ms"] > 0 and len(row["in_turn_ms"]) == 2
    assert float(found["accuracy"]) > 0.9 and "random weights" in sibling["network"] and sibling["params"] > 1e6
