"""A comparison of methods: every method with every seed, each run written down as soon as it is finished."""

from __future__ import annotations

import gc
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import torch

from oneshot._version import __version__
from oneshot.parallel.pools import one_line
from oneshot.report.comparison import draw_comparison
from oneshot.report.curves import draw_curves
from oneshot.report.style import save_figure
from oneshot.storage.faults import machine_fault
from oneshot.storage.files import write_atomically
from oneshot.storage.interrupts import interruption
from oneshot.storage.journal import Journal
from oneshot.supernets.json_files import checked

from .results import Results, Run
from .trial import Entry, Setting, check_setting, search_once

JOURNAL, TABLE, CSV, JSON, PICTURE, CURVES = (
    "runs.jsonl",
    "results.md",
    "results.csv",
    "results.json",
    "results.png",
    "curves.png",
)
ADVICE = "Restore the file, or begin the comparison in another folder."
# A run that has just ended, how many have ended, what goes on, and how many seconds are left.
Told = Callable[[Run | None, int, str, float | None], None]


class _Row(TypedDict):
    """A line of the journal: a run, see :class:`~oneshot.comparison.results.Run`."""

    label: str
    seed: int
    scores: dict[str, float]
    directions: dict[str, str]
    metrics: dict[str, float]
    config: dict[str, Any] | None
    params: int
    macs: int | None
    seconds: float
    cpu_seconds: float
    total_seconds: float
    curves: dict[str, list[float | None]]
    notes: list[str]
    failure: str | None
    settings: dict[str, Any]


class Comparison:
    """Searches with every method and every seed, and compares what they find.

    Seeds are the outer loop, so that after the first of them every method has a result. A run is written to
    ``runs.jsonl`` as soon as it is finished; the same comparison in the same folder goes on after it. Methods and seeds
    may be added later. A run that failed is tried again.

    Args:
        entries: The methods.
        seeds: A run of every method for each of them.
        setting: What all methods have in common.
        folder: For the runs and the results; None keeps them in memory.
        baseline: Compare the others with this method only; by default, all pairs.
        settings: JSON-able values by name that decide what ``setting`` does; a folder of others is refused.
        about: What the page of the results says of the setting, ``{what: value}``.

    Raises:
        ValueError: If methods or seeds are missing or repeated, ``baseline`` is none of the methods, or the folder is
            damaged or holds runs of other settings.

    Example:
        >>> from oneshot import DARTS, GDAS
        >>> from oneshot.data import Digits
        >>> from oneshot.supernets import NASBench201Supernet
        >>> def supernet(data):
        ...     return NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)
        >>> entries = [Entry("DARTS", lambda data: DARTS(supernet(data))), Entry("random", None)]
        >>> setting = Setting(data=lambda seed: Digits(seed=seed), supernet=supernet, epochs=5, retrain_epochs=5)
        >>> results = Comparison(entries, range(3), setting).run()  # doctest: +SKIP
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        seeds: Sequence[int],
        setting: Setting,
        *,
        folder: str | Path | None = None,
        baseline: str | None = None,
        settings: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.entries, self.seeds, self.setting = list(entries), list(seeds), setting
        self.folder = None if folder is None else Path(folder)
        self.baseline, self.settings, self.about = baseline, dict(settings or {}), dict(about or {})
        self._check()
        path = None if self.folder is None else self.folder / JOURNAL
        self.journal = Journal(path, advice=ADVICE)  # whoever has locked the folder already puts its lock there
        self._runs: dict[tuple[str, int], Run] = {}
        self._read()

    def _check(self) -> None:
        labels = [entry.label for entry in self.entries]
        every: dict[str, Sequence[str | int]] = {"methods": labels, "seeds": self.seeds}
        for what, values in every.items():
            if not values:
                raise ValueError(f"A comparison must have {what}; got none.")
            if repeated := sorted({str(value) for value in values if values.count(value) > 1}):
                way = " Give each its label: {class_path: ..., label: ...}." if what == "methods" else ""
                raise ValueError(
                    f"The {what} of a comparison must be different; {', '.join(repeated)} comes twice.{way}"
                )
        if self.baseline is not None and self.baseline not in labels:
            raise ValueError(f"The baseline must be one of the methods, {', '.join(labels)}; got {self.baseline!r}.")

    def _read(self) -> None:
        """Take the runs of the journal, and compare its settings with these.

        Raises:
            ValueError: If a line is damaged, or a setting differs.
        """
        if not self.journal.rows:
            return
        first, *rows = self.journal.rows
        then = checked(first, dict[str, dict[str, Any]], self.journal.place(1), advice=ADVICE).get("settings", {})
        self._refuse(then, self.settings, "")
        now = {entry.label: dict(entry.settings) for entry in self.entries}
        for number, row in enumerate(rows, start=2):
            found = Run.from_dict(checked(row, _Row, self.journal.place(number), advice=ADVICE))
            if found.failure is None and found.label in now:
                self._refuse(found.settings, now[found.label], f"{found.label}: ")
            self._runs[found.label, found.seed] = found

    def _refuse(self, then: Mapping[str, Any], now: Mapping[str, Any], of: str) -> None:
        names = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        if names:
            said = "; ".join(f"{of}{name} was {_said(then.get(name))}, is {_said(now.get(name))}" for name in names)
            way = " give a method that changed another label," if of else ""
            raise ValueError(
                f"{self.folder} holds runs of other settings: {said}. Runs are compared only if their settings are the "
                f"same: choose another folder with --out,{way} or begin anew with --overwrite."
            )

    @property
    def results(self) -> Results:
        """What is finished or has failed so far, of these methods and seeds."""
        order = [(entry.label, seed) for entry in self.entries for seed in self.seeds]
        return Results(
            [self._runs[key] for key in order if key in self._runs],
            [entry.label for entry in self.entries],
            self.seeds,
            self.baseline,
            {**self.about, **_machine()},
        )

    @property
    def _every(self) -> int:
        return len(self.entries) * len(self.seeds)

    def missing(self) -> list[tuple[Entry, int]]:
        """The runs that are to be made: those that are not there, and those that failed."""
        every = ((entry, seed) for seed in self.seeds for entry in self.entries)
        return [
            (entry, seed)
            for entry, seed in every
            if (found := self._runs.get((entry.label, seed))) is None or found.failure is not None
        ]

    def run(self, told: Told = lambda run, number, what, left: None) -> Results:
        """Make all runs that are missing, and write the results.

        A method that raises an error has failed with this seed, and the others go on.

        Args:
            told: Told of every finished run and every epoch: the run, if it has just ended; how many runs are finished
                or failed; what goes on; and how many seconds are left, if that is known.

        Raises:
            ValueError: If what the methods have in common does not fit together.
            OSError: If the disk stays full, or another fault of the machine does not pass.
            KeyboardInterrupt: After Ctrl-C, also where Lightning has made an ordinary exit of it.
        """
        with self.journal.alone():
            if todo := self.missing():
                check_setting(self.setting, self.seeds[0])
            if not self.journal.rows:
                self.journal.append({"settings": self.settings})
            try:
                while todo:
                    entry, seed = todo[0]
                    found = self._attempt(entry, seed, todo, told)
                    self.journal.append(found.to_dict())
                    self._runs[entry.label, seed] = found
                    todo = todo[1:]
                    told(found, self._every - len(todo), "", self._left(todo))
            except BaseException:
                with suppress(OSError):  # the error that ended the comparison is the one to report
                    self.write()
                raise
            self.write()
        return self.results

    def write(self) -> None:
        """Write the tables and the pictures of what is finished."""
        if self.folder is None or not self._runs:
            return
        results = self.results
        for name, text in ((TABLE, results.to_markdown()), (CSV, results.to_csv()), (JSON, results.to_json())):
            write_atomically(self.folder / name, text, patient=True)
        if not results.scores:
            return
        values = {score.metric: results.values(score) for score in results.scores}
        directions = {score.metric: score.direction for score in results.scores}
        times = {label: [run.seconds for run in runs] for label in results.order() if (runs := results.of(label))}
        save_figure(draw_comparison(values, directions, times), self.folder / PICTURE, patient=True)
        if curves := mean_curves(results):
            save_figure(draw_curves(curves), self.folder / CURVES, patient=True)

    def _attempt(self, entry: Entry, seed: int, todo: Sequence[tuple[Entry, int]], told: Told) -> Run:
        """One run, or why it failed."""
        began, left = time.monotonic(), self._left(todo)
        number, which = self._every - len(todo), f"{entry.label}, seed {seed}"

        def progress(what: str, done: int, total: int) -> None:
            spent = time.monotonic() - began
            told(None, number, f"{which}, {what} {done}/{total}", None if left is None else max(0.0, left - spent))

        told(None, number, which, left)
        try:
            return search_once(entry, seed, self.setting, progress)
        except (Exception, SystemExit) as error:  # a method may raise anything; the others go on
            if isinstance(error, SystemExit) and (stopped := interruption(error)) is not None:
                raise stopped from None
            if machine_fault(error) is not None:
                raise
            frame = traceback.extract_tb(error.__traceback__)[-1]
            failure = f"{one_line(error)} ({os.path.basename(frame.filename)}:{frame.lineno})"
            spent = time.monotonic() - began
            return Run(entry.label, seed, failure=failure, total_seconds=spent, settings=entry.settings)
        finally:
            gc.collect()  # what Lightning links in circles holds the weights of the search
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _left(self, todo: Sequence[tuple[Entry, int]]) -> float | None:
        """Seconds that these runs will take, by those that are finished; None if there are none."""
        done = [run for run in self._runs.values() if run.failure is None]
        if not done:
            return None
        mean = sum(run.total_seconds for run in done) / len(done)
        of: dict[str, list[float]] = {}
        for one in done:
            of.setdefault(one.label, []).append(one.total_seconds)
        times = {label: sum(seconds) / len(seconds) for label, seconds in of.items()}
        return sum(times.get(entry.label, mean) for entry, _ in todo)


def mean_curves(results: Results) -> dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]]:
    """Curves of the searches as :func:`~oneshot.report.curves.draw_curves` takes them, in the mean over seeds."""
    panels: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]] = {}
    for label in results.labels:
        runs = results.of(label)
        for name in dict.fromkeys(name for run in runs for name in run.curves):
            columns = list(zip(*(run.curves[name] for run in runs if name in run.curves), strict=False))
            known = [[value for value in column if value is not None] for column in columns]
            epochs = [epoch for epoch, values in enumerate(known, start=1) if values]
            means = [sum(values) / len(values) for values in known if values]
            if epochs:
                panels.setdefault(name, {})[label] = (epochs, means)
    return panels


def _said(value: Any) -> str:
    return "not given" if value is None else str(value)


def _machine() -> dict[str, str]:
    """What the runs were made on and with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    versions = f"oneshot {__version__}, torch {torch.__version__}, Lightning {version('pytorch-lightning')}"
    return {"machine": f"{device}, {os.cpu_count()} CPU cores", "versions": versions}
