"""One bar for all of ``oneshot auto``, with the time left; a line every half minute where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from oneshot.engine.module import SearchModule

from .auto_plan import Part, duration
from .terminal import console as new_console
from .terminal import say

EVERY = 30.0  # seconds between two lines
WIDE = 70  # columns of a terminal that has room for a bar


class Overall:
    """How far all parts are together.

    Args:
        parts: All of them, in order, with how long each is expected to take.
        console: Where to; standard output by default.
    """

    def __init__(self, parts: Sequence[Part], console: Console | None = None) -> None:
        self.parts = list(parts)
        self.console = console or new_console()
        self._seconds = {part.name: part.seconds for part in parts}
        self._over: set[str] = set()
        self._name, self._share, self._begun = "", 0.0, time.monotonic()
        self._said = -EVERY
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    @contextmanager
    def shown(self) -> Iterator[Overall]:
        """Inside, the bar is shown, if this is a terminal."""
        if not self.console.is_terminal:
            yield self
            return
        share = TextColumn("{task.percentage:>3.0f} %", table_column=Column(min_width=5, no_wrap=True))
        text = TextColumn("{task.description}", markup=False)
        columns = (share, BarColumn(20), text) if self.console.width >= WIDE else (share, text)
        with Progress(*columns, console=self.console, transient=True) as self._bar:
            self._task = self._bar.add_task("", total=1.0)
            yield self
        self._bar = None

    def begin(self, name: str) -> None:
        """The part of that name begins; the one before is over."""
        self.end()
        self._name, self._share, self._begun = name, 0.0, time.monotonic()
        self.update(0.0)

    def end(self, *names: str) -> None:
        """The present part is over, and those that are named were done before."""
        self._over.update(names)
        if self._name:
            self._seconds[self._name] = time.monotonic() - self._begun
            self._over.add(self._name)
        self._name = ""

    def update(self, share: float, what: str = "") -> None:
        """Say how much of the present part is done.

        Args:
            share: From 0 to 1.
            what: What is done, in place of the words of the part.
        """
        self._share = min(max(share, 0.0), 1.0)
        elapsed = time.monotonic() - self._begun
        if self._share > 0.1:  # from here on the part itself says best how long it takes
            self._seconds[self._name] = elapsed / self._share
        words = what or next((part.what for part in self.parts if part.name == self._name), self._name)
        done, left = self._done(elapsed)
        text = f"about {duration(left)} left: {words}"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, description=text)
        elif time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            say(f"{done:4.0%} {text}", self.console)

    def _done(self, elapsed: float) -> tuple[float, float]:
        """The share of all that is done, and the seconds that are left."""
        before = sum(self._seconds[name] for name in self._over)
        now = 0.0 if self._name in self._over else self._seconds.get(self._name, 0.0)
        gone = min(max(self._share * now, min(elapsed, 0.95 * now)), now)
        whole = sum(self._seconds.values())
        return (before + gone) / max(whole, 1e-9), max(whole - before - gone, 0.0)


class FitProgress(Callback):
    """Tells an :class:`Overall` how far a fit is, and the search at its end.

    Args:
        overall: What is told.
        then: The part that follows the training within the same fit.
        evaluations: How many networks are evaluated there.
    """

    def __init__(self, overall: Overall, then: str = "", evaluations: int = 1) -> None:
        self.overall, self.then, self.evaluations = overall, then, evaluations
        self._searching, self._over, self._last = False, 0, 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.then and isinstance(pl_module, SearchModule):
            pl_module.progress = self._show

    def _show(self, what: str, done: int, total: int) -> None:
        """What a search says of its evaluations."""
        if not what:
            return
        if not self._searching:
            self._searching = True
            self.overall.begin(self.then)
        if what == "evaluating candidates":
            if done < self._last:  # the next search
                self._over += self._last
            self._last = done
        share = min((self._over + self._last) / self.evaluations, 0.99)
        self.overall.update(share, f"comparing networks, {self._over + self._last} of {self.evaluations}")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if not self._searching:
            steps = max(1, int(trainer.estimated_stepping_batches))
            epochs = trainer.max_epochs or 1
            self.overall.update(
                trainer.global_step / steps, f"training, epoch {min(trainer.current_epoch + 1, epochs)} of {epochs}"
            )
