"""Records where the time of a training step goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.profiler import ProfilerActivity, profile, supported_activities

from oneshot.storage.faults import announce, machine_fault
from oneshot.storage.files import write_atomically

from .base import run_folder


class StepProfile(Callback):
    """Profiles a few steps: ``table.txt`` by operation, and ``trace.json`` for https://ui.perfetto.dev.

    A search marks its two parts ``step of the alphas`` and ``step of the weights``. Only the first process records.

    Args:
        folder: Where to; by default ``profile`` in the folder of the run.
        skip: Steps before the first that is recorded; the very first are slower than all others.
        steps: Steps to record.

    Raises:
        ValueError: If ``skip`` is negative or ``steps`` below 1.
    """

    def __init__(self, folder: str | Path | None = None, *, skip: int = 3, steps: int = 3) -> None:
        if skip < 0 or steps < 1:
            raise ValueError(f"steps must be at least 1 and skip at least 0; got steps={steps}, skip={skip}.")
        self.folder, self.skip, self.steps = folder, skip, steps
        self._profile: Any = None
        self._seen = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._seen == self.skip and trainer.is_global_zero:
            kinds = supported_activities() & {ProfilerActivity.CPU, ProfilerActivity.CUDA}  # type: ignore[no-untyped-call]  # torch
            self._profile = profile(activities=kinds, record_shapes=True)
            self._profile.start()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._seen += 1
        if self._profile is not None and self._seen == self.skip + self.steps:
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._profile is not None:  # the fit had fewer steps
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        record, self._profile = self._profile, None
        record.stop()
        folder = Path(self.folder or run_folder(trainer) / "profile")
        kind = "cuda" if trainer.strategy.root_device.type == "cuda" else "cpu"
        table = record.key_averages().table(f"self_{kind}_time_total", row_limit=40, max_name_column_width=60)
        try:
            write_atomically(folder / "table.txt", table + "\n")
            record.export_chrome_trace(str(folder / "trace.json"))
        except (OSError, RuntimeError) as error:
            if (why := machine_fault(error)) is None:
                raise
            announce(f"The profile cannot be written to {folder}: {why}. The run goes on without.")
