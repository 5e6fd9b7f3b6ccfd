"""Draws the derived cells into files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal, get_args

import pytorch_lightning as pl

from oneshot.engine.module import SearchModule
from oneshot.report.cells import draw_cells
from oneshot.report.style import picture
from oneshot.storage.files import Outbox, write_atomically

from .base import SearchCallback, run_folder

Format = Literal["png", "svg"]


class GenotypePlot(SearchCallback):
    """Draws the architecture that would be derived now: ``cells.png``, and ``cells/epoch_0003.png`` to keep.

    Args:
        folder: Where to; by default the folder of the run, where the logger writes.
        every_n_epochs: Draw after every n-th epoch.
        format: Kind of picture.

    Raises:
        ValueError: If ``format`` is unknown or ``every_n_epochs`` below 1; at the start of ``fit``, if the module is
            not a search.
    """

    def __init__(self, folder: str | Path | None = None, *, every_n_epochs: int = 1, format: Format = "png") -> None:
        super().__init__(every_n_epochs)
        if format not in get_args(Format):
            raise ValueError(f"format must be one of {get_args(Format)}; got {format!r}.")
        self.folder, self.format = folder, format
        self._outbox = Outbox()

    def after_epoch(self, trainer: pl.Trainer, search: SearchModule) -> None:
        self._draw(trainer, search, trainer.current_epoch)

    def after_finished_fit(self, trainer: pl.Trainer, search: SearchModule) -> None:
        if (epochs := trainer.current_epoch) and epochs % self.every_n_epochs == 0:
            self._draw(trainer, search, epochs - 1)
            self._outbox.finish()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._outbox.finish()

    def _draw(self, trainer: pl.Trainer, search: SearchModule, epoch: int) -> None:
        config = search.derive()
        if trainer.is_global_zero:
            folder = Path(self.folder or run_folder(trainer))
            figure = draw_cells(search.supernet.space.graphs(config), title=f"epoch {epoch}")
            for name in ("cells", f"cells/epoch_{epoch:04d}"):
                path = folder / f"{name}.{self.format}"
                self._outbox.put(path, partial(write_atomically, path, picture(figure, path)))
