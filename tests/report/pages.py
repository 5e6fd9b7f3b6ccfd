"""Folders of runs as commands leave them, small and written by hand, for the tests of their pages."""

from __future__ import annotations

import json
from pathlib import Path

EVIL = "<script>alert('x')</script>"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)


def write(folder: Path, files: dict[str, object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


OF_A_FRONT = f"""\
model:
  class_path: oneshot.NAT
  init_args: {{supernet: {{class_path: oneshot.supernets.X}}}}
data:
  class_path: oneshot.data.ImageFolder
  init_args: {{root: "{EVIL}"}}
trainer: {{max_epochs: 3}}
"""
OF_A_RETRAINING = """\
model: {network: {class_path: oneshot.supernets.Y}}
data: {class_path: oneshot.data.Digits}
"""
METRICS = """\
epoch,step,train/loss,val/accuracy,collapse/entropy
0,9,2.5,,
0,19,1.5,0.5,1.2
1,29,1.0,0.75,0.9
"""
LAYER = {"layer": "stem", "kind": "Conv2d", "output": [8, 32, 32], "params": 1500, "macs": 2_000_000}


def pareto_run(folder: Path) -> Path:
    """Six networks, three of them on the front, and two epochs of training."""
    rows = ["number,error,latency,macs,in_front,kernel_0,kernel_1,width"]
    values = [
        (0.3, 1.5, 1e6),
        (0.2, 2.25, 2e6),
        (0.1, 4.125, 4e6),
        (0.5, 4.5, 4.1e6),
        (0.35, 2.5, 2.5e6),
        (0.6, 1.6, 3e6),
    ]
    rows += [f"{i},{e},{ms},{macs},{int(i < 3)},3,5,{16 * i + 8}" for i, (e, ms, macs) in enumerate(values)]
    return write(
        folder,
        {
            "config.yaml": OF_A_FRONT,
            "evaluations.csv": "\n".join(rows) + "\n",
            "archive.json": {},
            "history.json": [
                {
                    "number": 0,
                    "evaluations": 6,
                    "failed": 0,
                    "hypervolume": 0.5,
                    "kind": "ridge",
                    "tau": {"ridge": 0.1},
                    "seconds": 3.0,
                }
            ],
            "metrics.csv": METRICS,
            "data.json": {
                "input_shape": [3, 32, 32],
                "num_classes": 2,
                "classes": [EVIL, "dog"],
                "mean": [0.5, 0.5, 0.5],
                "std": [0.2, 0.2, 0.2],
                "samples": {"train": 110, "val": 20, "test": 40},
                "class_counts": [100, 10],
            },
            "warnings.json": [{"at": "2026-01-01T00:00:00+00:00", "text": f"The search has collapsed {EVIL}."}],
            "commands.json": [
                {
                    "command": "oneshot pareto --out run",
                    "started": "2026-01-01T10:00:00+00:00",
                    "folder": "/tmp",
                    "versions": {"oneshot": "1.0", "torch": "2.11"},
                }
            ],
        },
    )


def retrain_run(folder: Path) -> Path:
    """A test of 40 images of two classes, five of them wrong, with two pictures."""
    mistake = {"true": "dog", "predicted": EVIL, "confidence": 0.98, "index": 7, "file": f"dog/{EVIL}.jpg"}
    return write(
        folder,
        {
            "config.yaml": OF_A_RETRAINING,
            "metrics.csv": "epoch,step,train/loss\n0,9,2.5\n",
            "results.json": {"test/loss": 0.5, "test/accuracy": 0.875},
            "evaluation.json": {
                "schema_version": 1,
                "split": "test",
                "independent": True,
                "metrics": {"test/loss": 0.5, "test/accuracy": 0.875},
                "classes": [EVIL, "dog"],
                "confusion": [[18, 2], [3, 17]],
                "mistakes": [{**mistake, "picture": PIXEL}, {**mistake, "picture": "https://example.org/spy.png"}],
            },
            "network.json": {
                "schema_version": 1,
                "network": "Y",
                "architecture": "cell: conv",
                "input_shape": [3, 32, 32],
                "params": 1500,
                "macs": 2_000_000,
                "memory": 4096,
                "layers": [
                    {"layer": "stem", "kind": "Conv2d", "output": [8, 32, 32], "params": 1500, "macs": 2_000_000}
                ],
                "graphs": [{"name": "cell", "nodes": ["in", "out"], "edges": [[0, 1, "conv"]]}],
            },
        },
    )
