"""Writes the front of a search after every iteration and at the end."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytorch_lightning as pl

from oneshot.engine.module import SearchModule
from oneshot.nat.nat import NAT
from oneshot.report.fronts import draw_front, front_page
from oneshot.report.style import save_figure
from oneshot.storage.files import Outbox, write_atomically

from .base import SearchCallback, run_folder

ARCHIVE, TABLE, HISTORY, PICTURE, PAGE = "archive.json", "evaluations.csv", "history.json", "front.png", "front.html"
FRONT = "front.json"


class ParetoExport(SearchCallback):
    """Keeps the archive (JSON), all evaluations (CSV), the front as a picture and as a page, and the history.

    Args:
        folder: Where to; by default the folder of the run.

    Raises:
        ValueError: At the start of ``fit``, if the module does not search a front.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self._outbox = Outbox()

    def search(self, pl_module: pl.LightningModule) -> NAT:
        if not isinstance(pl_module, NAT):
            raise ValueError(
                f"{type(self).__name__} must have a NAT, whose front it writes; got {type(pl_module).__name__}. "
                "Take the callback off this Trainer."
            )
        return pl_module

    def after_epoch(self, trainer: pl.Trainer, search: SearchModule) -> None:
        assert isinstance(search, NAT)
        if trainer.is_global_zero and len(search.pareto.archive) and not search.outdated():
            folder = Path(self.folder or run_folder(trainer))
            self._outbox.put(folder, partial(write_front, search, folder))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        search = self.search(pl_module)
        search.conclude()  # a fit may be stopped after this callback has looked at its last epoch
        self.after_epoch(trainer, search)
        self._outbox.finish()

    def after_finished_fit(self, trainer: pl.Trainer, search: SearchModule) -> None:
        self.after_epoch(trainer, search)
        self._outbox.finish()


def write_front(search: NAT, folder: Path) -> None:
    """Write the files of :class:`ParetoExport`, each of them whole."""
    pareto = search.pareto
    archive, front, names = pareto.archive, pareto.front().tolist(), pareto.archive.objectives
    units = (search.task.error_unit, *(objective.unit for objective in pareto.objectives))
    bounds = {c.objective.name: c.at_most for c in pareto.constraints}
    archive.write_csv(folder / TABLE, front)
    write_atomically(folder / ARCHIVE, json.dumps(archive.to_dict()))
    write_atomically(folder / HISTORY, json.dumps(pareto.state_dict()["history"], indent=1) + "\n")
    save_figure(draw_front(names, units, archive.values, front, bounds=bounds), folder / PICTURE)
    write_atomically(folder / FRONT, json.dumps({"names": list(names), "units": list(units), "bounds": bounds}) + "\n")
    configs = pareto.space.decode(archive.genes)
    page = front_page(names, units, archive.values, front, configs, title=f"Front of {pareto.space.name}", run=folder)
    write_atomically(folder / PAGE, page)
