"""Keeps the page of a run up to date while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from oneshot.report.live import EVERY, LiveReport

from .base import run_folder


class RunReport(Callback):
    """Writes ``report.html`` into the folder of a run while it trains, and ``commands.json`` when it begins.

    Only the first process writes, and a page that cannot be written is told as a warning; see
    :class:`~oneshot.report.live.LiveReport`.

    Args:
        folder: Where to; by default the folder of the run, where the logger writes.
        every: Least seconds between two pages.
    """

    def __init__(self, folder: str | Path | None = None, *, every: float = EVERY) -> None:
        self.folder, self.every = folder, every
        self.report: LiveReport | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = Path(self.folder or run_folder(trainer))
        self.report = LiveReport(folder, active=trainer.is_global_zero, every=self.every)
        self.report.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self._update()

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self._update()

    def _update(self) -> None:
        if self.report is not None:
            self.report.update()
