"""One run of a comparison: a search, the network it found, and what that is worth."""

from __future__ import annotations

import logging
import math
import os
import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from oneshot.cost.counting.network import count
from oneshot.data import SearchDataModule, TextData, TextSearchData
from oneshot.discrete.protocol import Evaluator, Proposal
from oneshot.discrete.record import Objective
from oneshot.engine.gradient import SingleLevelSearch
from oneshot.engine.module import SearchModule
from oneshot.engine.paths import PathTraining, draw_operating
from oneshot.random_numbers import own_random_numbers
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.recurrent import LanguageModel
from oneshot.supernets.space import SubnetConfig
from oneshot.tasks.task import task_of
from oneshot.training.finite_loss import check_data
from oneshot.training.language import RetrainLanguage
from oneshot.training.retrain import Retrain

from .results import Run, Score

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much
GLOBAL_SEED = "PL_GLOBAL_SEED"  # where Lightning keeps the seed that data modules take
CURVES = ("train/", "val/", "arch/")  # of what a search logs
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def default_retraining(network: Subnet) -> pl.LightningModule:
    """The training of a network from new weights."""
    return RetrainLanguage(network) if isinstance(network, LanguageModel) else Retrain(network)


def take_task(supernet: Supernet, data: pl.LightningDataModule) -> None:
    """Give a supernet the task that the data declare, unless it has been given one."""
    if (said := getattr(data, "task", None)) is not None and supernet.task == task_of(supernet.default_task):
        supernet.task = task_of(said)


@dataclass(frozen=True)
class Entry:
    """A method that takes part.

    Args:
        label: What tables and pictures call it; each one its own.
        search: Builds the search for the data of a seed; None draws a random architecture instead.
        streams: How many streams of batches the search reads: 1 is ``(x, y)`` of all training data, 2 is what
            ``SearchDataModule`` makes of them, half for the weights and half for the architecture. None asks the
            class: a `SingleLevelSearch` reads one, all others read two.
        settings: JSON-able values by name that decide what it does; a run of another setting is not used again.

    Raises:
        ValueError: If ``label`` is empty or ``streams`` is another number.
    """

    label: str
    search: Callable[[pl.LightningDataModule], SearchModule] | None
    streams: Literal[1, 2] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.label.strip():
            raise ValueError("A method must have a label; got an empty one.")
        if self.streams not in (1, 2, None):
            raise ValueError(
                f"streams must be 1 (all training data), 2 (half for the weights, half for the architecture) or null "
                f"(as the class of the search says); {self.label} has {self.streams!r}."
            )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all methods have in common.

    Args:
        data: The data for a seed; as a whole, or a ``SearchDataModule`` of them, which says how they are split.
        supernet: The supernet for the data. Random architectures are drawn from its space.
        network: The supernet by whose size found networks are built, counted and retrained; by default, ``supernet``.
        trainer: Arguments of Lightning's ``Trainer``, for the search and, but for the epochs, for the retraining.
        callbacks: Callbacks of a search, new ones for each.
        epochs: Of a search.
        table: Scores architectures without training them; a table of networks that were trained already, for example.
        metric: The metric of the table that counts, such as ``Objective.parse("max accuracy")``.
        retrain_epochs: Epochs to retrain what was found, from new weights; 0 is off.
        retraining: Builds the training of a found network; by default `Retrain`, of a language model `RetrainLanguage`.

    Raises:
        ValueError: If nothing scores what is found, or epochs or the table's metric do not fit.
    """

    data: Callable[[int], pl.LightningDataModule]
    supernet: Callable[[pl.LightningDataModule], Supernet]
    epochs: int
    network: Callable[[pl.LightningDataModule], Supernet] | None = None
    trainer: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], Sequence[Callback]] = list
    table: Evaluator | None = None
    metric: Objective | None = None
    retrain_epochs: int = 0
    retraining: Callable[[Subnet], pl.LightningModule] = default_retraining

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.retrain_epochs < 0:
            raise ValueError(
                f"A search must have at least 1 epoch, a retraining at least 0 (off); got epochs={self.epochs}, "
                f"retrain_epochs={self.retrain_epochs}."
            )
        if self.table is None and not self.retrain_epochs:
            raise ValueError(
                "What is found must be scored: by retraining it (--retrain.epochs 10), by a table of trained networks "
                "(--table), or by both."
            )
        if (self.table is None) != (self.metric is None):
            raise ValueError("A table and the metric of it that counts ('max accuracy') must come together.")
        if self.table is not None and self.metric is not None and self.metric.metric not in self.table.metrics:
            raise ValueError(
                f"The metric of the table must be one of {', '.join(self.table.metrics)}; got {self.metric.metric!r}."
            )


def check_setting(setting: Setting, seed: int) -> None:
    """Build once what all methods have in common, so that a mistake in it is no failure of every method.

    Raises:
        ValueError: If the supernet does not fit the data, or the table has not the architectures of its space. Also
            whatever the constructors of the data and the supernet raise.
    """
    with own_random_numbers(), _seeded(seed):
        data = whole(setting.data(seed))
        supernet = setting.supernet(data)
        take_task(supernet, data)
        check_data(data, supernet)
        if setting.network is not None:
            take_task(larger := setting.network(data), data)
            check_data(data, larger)
        if setting.table is not None and setting.metric is not None:
            try:
                look_up(setting.table, supernet.space.sample(seed), setting.metric.metric)
            except LookupError as error:
                raise ValueError(
                    f"The table must have the architectures of the space {supernet.space.name!r}: {error}."
                ) from error


def search_once(entry: Entry, seed: int, setting: Setting, progress: Progress = lambda what, done, total: None) -> Run:
    """Search once, and score what was found.

    The same seed gives the same run, on the same machine; the random numbers of the process stay as they were.

    Args:
        entry: The method.
        seed: Of everything that is random: the data, the search, the retraining.
        setting: What all methods have in common.
        progress: Told of every epoch of the search and of the retraining.

    Raises:
        ValueError: If the search derives no architecture, or a score is not finite.
    """
    began = time.monotonic()
    with own_random_numbers(), _seeded(seed), _collected_warnings() as notes:
        config, curves, seconds, cpu_seconds = _search(entry, seed, setting, progress)
        scores: dict[str, float] = {}
        directions: dict[str, Literal["min", "max"]] = {}
        if setting.table is not None and setting.metric is not None:
            scores[setting.metric.metric] = look_up(setting.table, config, setting.metric.metric)
            directions[setting.metric.metric] = setting.metric.direction
        seed_everything(seed)  # so that initial weights do not depend on how many numbers the search drew
        data = whole(setting.data(seed))
        supernet = (setting.network or setting.supernet)(data)
        take_task(supernet, data)
        network = supernet.extract(config, inherit=False)
        params, macs = _size(network)
        metrics: dict[str, float] = {}
        if setting.retrain_epochs:
            score, metrics = _retrain(network, data, setting, progress)
            scores[score.metric], directions[score.metric] = metrics[score.metric], score.direction
        if bad := [f"{name} is {value}" for name, value in scores.items() if not math.isfinite(value)]:
            raise ValueError(f"A score must be finite; {', '.join(bad)}.")
    return Run(
        entry.label,
        seed,
        scores,
        directions,
        {name: value for name, value in metrics.items() if math.isfinite(value)},
        config,
        params,
        macs,
        seconds,
        cpu_seconds,
        time.monotonic() - began,
        curves,
        notes,
        settings=entry.settings,
    )


def _search(
    entry: Entry, seed: int, setting: Setting, progress: Progress
) -> tuple[SubnetConfig, dict[str, list[float | None]], float, float]:
    """The architecture that a search finds, its curves, and its seconds by the clock and by the CPU."""
    data = setting.data(seed)
    if entry.search is None:
        space, rng = setting.supernet(whole(data)).space, np.random.default_rng(seed)
        return draw_operating(space, lambda: space.sample(rng)), {}, 0.0, 0.0
    clock, cpu = time.monotonic(), time.process_time()
    search = entry.search(whole(data))
    follower = _Follower(setting, progress)
    trainer = pl.Trainer(
        max_epochs=setting.epochs,
        **{**QUIET, **setting.trainer},
        callbacks=[*setting.callbacks(), follower],
    )
    streams = entry.streams or (1 if isinstance(search, SingleLevelSearch) else 2)
    trainer.fit(search, datamodule=whole(data) if streams == 1 else in_two(data, seed))
    config = search.derive()
    if not isinstance(config, SubnetConfig):
        raise ValueError(f"derive() of {type(search).__name__} must give a SubnetConfig; got {type(config).__name__}.")
    search.supernet.space.validate(config)
    return config, follower.curves(), time.monotonic() - clock, time.process_time() - cpu


class _Follower(Callback):
    """Notes what is logged at the end of every epoch of a search, and what would be derived then."""

    def __init__(self, setting: Setting, progress: Progress) -> None:
        self.setting, self.progress = setting, progress
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note_logged(trainer)
        self.progress("search", trainer.current_epoch, self.setting.epochs)
        self.rows.append({})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        table, metric = self.setting.table, self.setting.metric
        # methods without alphas have no opinion before the last epoch, and rank architectures after it
        if table is not None and metric is not None and not isinstance(pl_module, PathTraining):
            assert isinstance(pl_module, SearchModule)
            self.rows[-1][f"derived, {metric.metric}"] = look_up(table, pl_module.derive(), metric.metric)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note_logged(trainer)
        self.progress("search", self.setting.epochs, self.setting.epochs)

    def _note_logged(self, trainer: pl.Trainer) -> None:
        """Metrics of an epoch are complete when the next one begins."""
        if self.rows:
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self.rows[-1] |= {n: v for n, v in logged.items() if _is_curve(n) and math.isfinite(v)}

    def curves(self) -> dict[str, list[float | None]]:
        """The rows as columns."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        return {name: [row.get(name) for row in self.rows] for name in names}


def _is_curve(name: str) -> bool:
    return name.startswith(CURVES) and not name.endswith("/lr")  # which follows from the settings


def _retrain(
    network: Subnet, data: pl.LightningDataModule, setting: Setting, progress: Progress
) -> tuple[Score, dict[str, float]]:
    """Train a network from new weights and test it; its score, and all metrics of the test.

    Raises:
        ValueError: If the test logs no such metric.
    """
    module = setting.retraining(network)
    trainer = pl.Trainer(
        max_epochs=setting.retrain_epochs,
        **{**QUIET, "limit_val_batches": 0, **setting.trainer},
        callbacks=[_Epochs("retraining", setting.retrain_epochs, progress)],
    )
    trainer.fit(module, datamodule=data)
    metrics = {name: float(value) for name, value in trainer.test(module, datamodule=data, verbose=False)[0].items()}
    score = Score(f"test/{network.task.metric_name}", network.task.direction)
    if score.metric not in metrics:
        raise ValueError(f"The test must log {score.metric}; it logs {', '.join(metrics) or 'nothing'}.")
    return score, metrics


class _Epochs(Callback):
    """Tells of every epoch."""

    def __init__(self, what: str, epochs: int, progress: Progress) -> None:
        self.what, self.epochs, self.progress = what, epochs, progress

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.progress(self.what, trainer.current_epoch, self.epochs)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.progress(self.what, self.epochs, self.epochs)


def look_up(table: Evaluator, config: SubnetConfig, metric: str) -> float:
    """What a table says of an architecture.

    Raises:
        LookupError: If the architecture is not in it.
    """
    return float(table(Proposal(0, config))[metric])


def whole(data: pl.LightningDataModule) -> pl.LightningDataModule:
    """The data themselves, of which a ``SearchDataModule`` makes two streams."""
    inner: pl.LightningDataModule = data.data if isinstance(data, SearchDataModule | TextSearchData) else data
    return inner


def in_two(data: pl.LightningDataModule, seed: int) -> pl.LightningDataModule:
    """The data in two streams, one for the weights and one for the architecture."""
    if isinstance(data, SearchDataModule | TextSearchData):
        return data
    return TextSearchData(data, seed=seed) if isinstance(data, TextData) else SearchDataModule(data, seed=seed)


def _size(network: Subnet) -> tuple[int, int | None]:
    """Parameters and MACs; None where an operator without a formula hides MACs."""
    counts = count(network, network.input_shape)
    return counts.params, None if counts.uncounted else counts.macs


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, the seed of the process is this one; data modules without one of their own take it."""
    before = os.environ.get(GLOBAL_SEED)
    os.environ[GLOBAL_SEED] = str(seed)
    seed_everything(seed)
    try:
        yield
    finally:
        os.environ.pop(GLOBAL_SEED, None)
        if before is not None:
            os.environ[GLOBAL_SEED] = before


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Inside, warnings are collected, each once, without what Lightning says of loaders and loggers."""
    logger, found = logging.getLogger("pytorch_lightning"), list[str]()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_utilities|lightning_fabric")
            yield found
            for warning in caught:
                if issubclass(warning.category, UserWarning) and (said := " ".join(str(warning.message).split())):
                    found += [said] if said not in found else []
    finally:
        logger.setLevel(level)
