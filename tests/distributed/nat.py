"""A short NAT, as one process or as two that share every batch: ``nat.py PROCESSES OUT``. See ``search.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from search import Streams, fit, make_supernet
from torch.utils.data import DataLoader, TensorDataset

from oneshot.nat.nat import NAT


class Validated(Streams):
    def val_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(40, 1, 8, 8, generator=generator)
        return DataLoader(TensorDataset(x, torch.randint(10, (40,), generator=generator)), 20)


def main(processes: int, out: str) -> None:
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
        calibration_images=4,  # of the first process's part of a batch, so that one and two calibrate alike
        weight_lr=0.1,
        grad_clip=1.0,
    )
    if os.environ.get("RANK", "0") != "0":
        search.pareto._propose = None  # type: ignore[assignment]  # only the first process proposes
    folder = Path(f"{out}.runs")
    trainer = fit(
        search, processes, data=Validated(processes, single=True), limit_val_batches=0, default_root_dir=folder
    )
    files = sorted((folder / "evaluations").glob("*.jsonl"))
    lines = {file.name: len(file.read_text().splitlines()) for file in files}
    weights = [weight.detach().clone() for weight in supernet.parameters()]
    archive = search.pareto.archive
    values = torch.from_numpy(np.ascontiguousarray(archive.values))
    torch.save(
        {"weights": weights, "genes": torch.from_numpy(archive.genes), "values": values, "lines": lines},
        f"{out}.{trainer.global_rank}",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
