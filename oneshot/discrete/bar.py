"""The progress bar of a study."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from .study import Study

REFRESH = 0.25  # seconds between two looks of the bar


class StudyBar:
    """A progress bar with the best so far, the size of the front and the evaluations in flight."""

    def __init__(self, study: Study) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        self._study = study
        self._progress = Progress(*columns, console=Console(stderr=True), transient=False)
        self._task = self._progress.add_task("", total=study.evaluations)
        self._shown = -math.inf

    def __enter__(self) -> Callable[[int], None]:
        self._progress.start()
        return self._show

    def __exit__(self, *error: object) -> None:
        self._show(0)
        self._progress.stop()

    def _show(self, running: int) -> None:
        if (now := time.monotonic()) < self._shown + REFRESH and running:  # a front is not for every evaluation
            return
        self._shown = now
        study, text = self._study, [f"{running} running"]
        if waiting := study.waiting:
            text.append(f"{waiting} waiting")
        failed = sum(record.result.values is None for record in study.evaluated)
        if len(study.evaluated) > failed:
            name = study.objectives[0].metric
            text.insert(0, f"best {name} {study.best.result.metrics[name]:.5g}")
            if len(study.objectives) > 1:
                text.append(f"front of {len(study.front())}")
        if failed:
            text.append(f"{failed} failed")
        self._progress.update(self._task, description=", ".join(text), completed=len(study.evaluated))
