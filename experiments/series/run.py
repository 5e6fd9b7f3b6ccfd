"""Networks for series: found by a search, drawn at random, and made by hand, all trained alike.

python experiments/series/convert.py FOLDER
python experiments/series/run.py FOLDER --out experiments/series/results.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import oneshot
from oneshot.cost import count
from oneshot.data import SearchDataModule
from oneshot.supernets import ArchGraph, SeriesNetwork, SeriesSupernet, Subnet

SETS = ("ItalyPowerDemand", "GunPoint", "ArrowHead")
SEARCH_CHANNELS, CHANNELS = 16, 32  # of the supernet, and of the networks that are trained from scratch


class WangResNet(Subnet):
    """The residual network of Wang, Yan and Oates (arXiv:1611.06455, figure 1c), the usual baseline for series.

    Three blocks of three convolutions (kernels 8, 5, 3) with 64, 128 and 128 channels, each with a shortcut.
    """

    def __init__(self, *, in_channels: int, length: int, num_classes: int, channels: int = 64) -> None:
        super().__init__()
        self.init_args = {
            "in_channels": in_channels,
            "length": length,
            "num_classes": num_classes,
            "channels": channels,
        }
        self.input_shape, self.num_classes = (in_channels, length), num_classes
        widths = [in_channels, channels, 2 * channels, 2 * channels]
        self.blocks = nn.ModuleList(self._block(a, b) for a, b in itertools.pairwise(widths))
        self.shortcuts = nn.ModuleList(self._conv(a, b, 1) for a, b in itertools.pairwise(widths))
        self.head = nn.Linear(widths[-1], num_classes)

    @staticmethod
    def _conv(a: int, b: int, kernel: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv1d(a, b, kernel, padding="same"), nn.BatchNorm1d(b))

    @classmethod
    def _block(cls, a: int, b: int) -> nn.Sequential:
        return nn.Sequential(cls._conv(a, b, 8), nn.ReLU(), cls._conv(b, b, 5), nn.ReLU(), cls._conv(b, b, 3))

    def forward(self, x: Tensor) -> Tensor:
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            x = (block(x) + shortcut(x)).relu()
        logits: Tensor = self.head(x.mean(-1))
        return logits

    def graphs(self) -> list[ArchGraph]:
        return []


def load(path: Path) -> tuple[TensorDataset, TensorDataset]:
    """Training and test set, standardised by mean and deviation of every variable over the training set."""
    data = np.load(path)
    mean, std = (f(data["x"], axis=(0, 2), keepdims=True) for f in (np.mean, np.std))
    parts = [((data[x] - mean) / std, data[y]) for x, y in (("x", "y"), ("x_test", "y_test"))]
    train, test = (TensorDataset(torch.from_numpy(x).float(), torch.from_numpy(y)) for x, y in parts)
    return train, test


def trainer(epochs: int) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, limit_val_batches=0, **quiet)


def epochs_of(steps: int, samples: int, batch: int) -> int:
    return math.ceil(steps / max(1, samples // batch))


def search(train: TensorDataset, shape: dict[str, int], seed: int, steps: int) -> tuple[str, ...]:
    """Operations found by first-order DARTS on halves of the training set."""
    pl.seed_everything(seed, verbose=False)
    batch = min(16, len(train) // 2 - 1)
    supernet = SeriesSupernet(channels=SEARCH_CHANNELS, **shape)
    method = oneshot.DARTS(supernet, arch_lr=0.03, arch_warmup_epochs=epochs_of(steps // 4, len(train) // 2, batch))
    trainer(epochs_of(steps, len(train) // 2, batch)).fit(
        method, datamodule=SearchDataModule(train, batch_size=batch, seed=seed, num_classes=shape["num_classes"])
    )
    return supernet.space.operations(method.derive())


def accuracy_of(network: Subnet, train: TensorDataset, test: TensorDataset, seed: int, steps: int) -> float:
    """Train from scratch on the whole training set; the test set is read once, at the end."""
    pl.seed_everything(seed, verbose=False)
    loader = DataLoader(train, 16, shuffle=True, drop_last=True)
    module = oneshot.Retrain(network, optimizer="adamw", lr=2e-3, weight_decay=0.01)
    fit = trainer(epochs_of(steps, len(train), 16))
    fit.fit(module, loader)
    (found,) = fit.test(module, DataLoader(test, 256), verbose=False)
    return float(found["test/accuracy"])


def compare(path: Path, seed: int, steps: int, search_steps: int) -> list[dict[str, Any]]:
    """All networks on one set with one seed."""
    train, test = load(path)
    x, y = train.tensors
    shape = {"in_channels": x.shape[1], "length": x.shape[2], "num_classes": int(y.max()) + 1}
    begin = time.process_time()
    found = search(train, shape, seed, search_steps)
    searched = time.process_time() - begin
    space = SeriesSupernet(channels=1, **shape).space
    drawn = space.operations(space.sample(seed))
    rows = []
    for name, operations in (("found", found), ("random", drawn), ("ResNet", ())):
        pl.seed_everything(seed, verbose=False)  # the same initial weights whatever ran before
        network = SeriesNetwork(operations, channels=CHANNELS, **shape) if operations else WangResNet(**shape)
        size, begin = count(network, network.input_shape), time.process_time()
        accuracy = accuracy_of(network, train, test, seed, steps)
        rows.append(
            {"set": path.stem, "seed": seed, "network": name, "accuracy": accuracy, "params": size.params}
            | {"macs": size.macs, "operations": list(operations), "cpu_s": round(time.process_time() - begin, 1)}
        )
    rows[0]["search_cpu_s"] = round(searched, 1)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what convert.py has written")
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=240, help="of every training from scratch")
    parser.add_argument("--search-steps", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", message=".*(does not have many workers|padding='same'|number of training batches).*"
    )
    rows: list[dict[str, Any]] = []
    for name in options.sets:
        for seed in range(options.seeds):
            rows += compare(options.folder / f"{name}.npz", seed, options.steps, options.search_steps)
            options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            print(name, seed, {row["network"]: round(row["accuracy"], 3) for row in rows[-3:]}, flush=True)


if __name__ == "__main__":
    main()
