"""A short NAT, as one process or as two that share every batch, see ``search.py``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from oneshot.nat.nat import NAT

from .search import Streams, fit, make_supernet


class Validated(Streams):
    def val_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(40, 1, 8, 8, generator=generator)
        return DataLoader(TensorDataset(x, torch.randint(10, (40,), generator=generator)), 20)


class Stream:
    """A loader without a data set: nobody can draw from it, and every process has another part."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


class Streamed(Validated):
    def train_dataloader(self) -> Any:
        return Stream(super().train_dataloader())  # type: ignore[arg-type]  # a single one


def main(loader: str, processes: int, out: str) -> None:
    supernet = make_supernet()
    search = NAT(
        supernet,
        warmup_epochs=0,
        iterations=2,
        adapt_epochs=1,
        initial=12,
        batch=3,
        population=10,
        generations=3,
        calibration_images=16,
        weight_lr=0.1,
        grad_clip=1.0,
    )
    if os.environ.get("RANK", "0") != "0":
        search.pareto._propose = None  # type: ignore[assignment]  # only the first process proposes
    folder = Path(f"{out}.runs")
    (folder / "evaluations").mkdir(parents=True, exist_ok=True)  # where it is, evaluations are kept without checkpoints
    data = (Streamed if loader == "stream" else Validated)(processes, single=True)
    trainer = fit(search, processes, data=data, limit_val_batches=0, default_root_dir=folder)
    files = sorted((folder / "evaluations").glob("*.jsonl"))
    lines = {file.name: len(file.read_text().splitlines()) for file in files}
    weights = [weight.detach().clone() for weight in supernet.parameters()]
    archive = search.pareto.archive
    values = torch.from_numpy(np.ascontiguousarray(archive.values))
    torch.save(
        {
            "weights": weights,
            "genes": torch.from_numpy(archive.genes),
            "values": values,
            "lines": lines,
            "images": tuple(search._images),
        },
        f"{out}.{trainer.global_rank}",
    )
