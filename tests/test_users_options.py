"""mypy on a user's file: it refuses options that do not exist or have another type, and passes all others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USER = """
from functools import partial
from typing import Any

import torch

from oneshot import BigNAS, DARTS, GDAS, NAT
from oneshot.data import CIFAR10, Digits, ImageFolder, Shapes, TableData, TimeSeries, VisionData
from oneshot.data.images import ImageSet
from oneshot.data.options import VisionOptions
from oneshot.discrete import MnasNet, PPO, REINFORCE
from oneshot.engine import BilevelSearch, SoftmaxSampler
from oneshot.engine.options import GradientOptions, Unpack
from oneshot.supernets import NASBench201Supernet
from oneshot.supernets.base import OperationSupernet


class Mine(BilevelSearch):
    def __init__(self, supernet: OperationSupernet, *, power: float = 2.0, **kwargs: Unpack[GradientOptions]) -> None:
        super().__init__(supernet, SoftmaxSampler(), **kwargs)


class Pets(VisionData):
    def __init__(self, root: str, **options: Unpack[VisionOptions]) -> None:
        super().__init__(("cat", "dog"), (3, 32, 32), **options)

    def load(self, split: Any) -> ImageSet | None:
        return None


supernet = NASBench201Supernet()
adamw = partial(torch.optim.AdamW, lr=1e-3)
DARTS(supernet, order=2, arch_lr=0.1, weight_optimizer=adamw, accumulate=2)
GDAS(supernet, weight_decay=0.1, grad_clip=1.0)
Mine(supernet, power=3.0, arch_lr=0.1)
BigNAS(supernet, random_paths=3, weight_lr=0.1)
NAT(supernet, objectives=("params",), weight_lr=0.1)
DARTS(supernet, arch_lrr=0.1)  # wrong
DARTS(supernet, arch_lr="fast")  # wrong
GDAS(supernet, weight_decai=0.1)  # wrong
Mine(supernet, accumulates=2)  # wrong
BigNAS(supernet, random_path=3)  # wrong
NAT(supernet, weight_lrr=0.1)  # wrong
DARTS(supernet, weight_optimizer="adamw")  # wrong

TableData.from_csv("a.csv", target="y", batch_size=8, missing="fill", task="regression")
TableData("a.csv", target="y", num_workers=2)
TimeSeries.from_npz("a.npz", jitter=0.1, val_fraction=0.2)
TimeSeries([[1.0]], [0], x_test=[[1.0]], y_test=[0], seed=None)
CIFAR10("data", cutout=8, batch_size=256)
Digits(image_size=16, flip=None, mean=(0.5,), std=(0.5,))
ImageFolder("photos", flip=False, train_transforms=[torch.nn.Identity()])
Shapes(scale=(0.5, 1.0), flip=True, device="cpu")
Pets("pets", balanced=True)
TableData.from_csv("a.csv", target="y", batch_sze=8)  # wrong
TableData.from_csv("a.csv", target="y", missing="drop")  # wrong
TableData.from_csv("a.csv", target="y", names=["a"])  # wrong
TableData("a.csv", target="y", batch_size="8")  # wrong
TimeSeries.from_npz("a.npz", jiter=0.1)  # wrong
TimeSeries("a.npz", val_fracton=0.2)  # wrong
CIFAR10("data", cut_out=8)  # wrong
Digits(flip="left")  # wrong
ImageFolder("photos", batchsize=8)  # wrong
Shapes(cutout=8)  # wrong
Pets("pets", balance=True)  # wrong

PPO.small(supernet.space, seed=1, lr=0.1, clip=0.1)
REINFORCE.small(supernet.space, batch=4, scalar=None)
MnasNet(supernet.space, target=80.0, passes=3)
MnasNet.small(supernet.space, target=80.0, lr=0.1)
PPO.small(supernet.space, learning_rate=0.1)  # wrong
REINFORCE.small(supernet.space, clip=0.1)  # wrong
MnasNet(supernet.space, target=80.0, scalar=None)  # wrong
MnasNet.small(supernet.space, lr=0.1)  # wrong
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mypy_refuses_wrong_options_in_a_users_file_and_passes_right_ones(tmp_path: Path) -> None:
    """The package as it is installed, its sibling folders inside it."""
    package, user = tmp_path / "oneshot", tmp_path / "user.py"
    without = shutil.ignore_patterns("__pycache__", "supernets", "callbacks")
    shutil.copytree(ROOT / "oneshot", package, ignore=without)
    for name in ("supernets", "callbacks"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    user.write_text(USER, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    settings = ["--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent", str(user)]
    said = subprocess.run([*command, *settings], cwd=tmp_path, env=_without_checkout(), capture_output=True, text=True)
    errors = [line for line in said.stdout.splitlines() if ": error:" in line]
    wrong = [n for n, line in enumerate(USER.splitlines(), start=1) if line.endswith("# wrong")]
    assert [int(line.split(":")[1]) for line in errors] == wrong, said.stdout + said.stderr
    assert 'Unexpected keyword argument "arch_lrr" for "DARTS"' in errors[0]
    assert any('Unexpected keyword argument "batch_sze" for "from_csv" of "TableData"' in line for line in errors)


def _without_checkout() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
