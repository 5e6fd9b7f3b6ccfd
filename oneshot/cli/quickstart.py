"""The quickstart: a whole search on small real images, from nothing to a verified standalone network.

Handwritten digits (scikit-learn's 1,797 images of 8x8 pixels) keep it to minutes on two cores. Everything printed is
measured; the random networks it compares with get the same training, and may win.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from oneshot.callbacks import ArchLogger, CollapseMonitor, GenotypePlot, SubnetExport
from oneshot.cost.counting.network import count
from oneshot.data import Digits, SearchDataModule
from oneshot.deploy.export import export_subnet, load
from oneshot.deploy.manifest import read_manifest
from oneshot.methods.darts import DARTS
from oneshot.report.cells import draw_cells
from oneshot.report.curves import draw_alphas, draw_curves
from oneshot.report.live import LiveReport
from oneshot.report.page import REPORT
from oneshot.report.style import save_figure
from oneshot.report.tables import comparison_table
from oneshot.storage.files import new_folder, write_atomically
from oneshot.storage.lock import RunLock, check_owned
from oneshot.supernets import NASBench201Supernet
from oneshot.supernets.base import Subnet
from oneshot.supernets.space import SubnetConfig
from oneshot.training.retrain import Retrain

from .next_steps import next_step
from .terminal import console as new_console
from .terminal import say

RESULTS, CHECKPOINTS = "results.json", "checkpoints"
SEARCH_EPOCHS, RETRAIN_EPOCHS, RANDOM_NETWORKS = 25, 20, 5
Curves = dict[str, dict[int, float]]  # metric -> epoch -> value


def quickstart(
    out: str | Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    search_epochs: int = SEARCH_EPOCHS,
    retrain_epochs: int = RETRAIN_EPOCHS,
    random_networks: int = RANDOM_NETWORKS,
    console: Console | None = None,
) -> None:
    """Search, derive, retrain, test, export, and compare with random networks.

    Args:
        out: Folder to write.
        seed: Seed of everything.
        overwrite: Replace the folder if it exists.
        search_epochs: Epochs of the search.
        retrain_epochs: Epochs each network is trained.
        random_networks: How many random networks to compare with, at least one.
        console: Where to report.

    Raises:
        FileExistsError: If the folder exists and must not be replaced.
    """
    console = console or new_console()
    folder = Path(out)
    with RunLock(folder), new_folder(folder, overwrite=overwrite, marker=RESULTS, keep=RESULTS):
        _run(folder, seed, search_epochs, retrain_epochs, random_networks, console)
        report = LiveReport(folder)
        report.begin()
        report.finish()
    say(f"Report: {folder / REPORT}, to open in a browser.", console)


@dataclass(frozen=True)
class _Trained:
    """A network that was trained from new weights, and how good it is."""

    row: dict[str, Any]
    network: Subnet
    metrics: dict[str, float]
    curves: Curves


def _run(
    folder: Path, seed: int, search_epochs: int, retrain_epochs: int, random_networks: int, console: Console
) -> None:
    start = time.monotonic()
    pl.seed_everything(seed, verbose=False)
    with _quiet(), _progress(console) as progress:
        data = Digits(batch_size=64)
        supernet = NASBench201Supernet(
            channels=16,
            cells_per_stage=1,
            num_classes=data.num_classes,
            in_channels=data.input_shape[0],
            image_size=data.input_shape[1],
        )
        method, history, curves = _search(supernet, data, folder, search_epochs, progress)
        space, found = supernet.space, method.derive()
        # Everything below gets the same data, epochs and seed, the found network and the random ones alike.
        rivals = [c for c in space.unique(space.sample(seed + i) for i in range(100)) if c != space.canonical(found)]
        trained = [
            _retrain(supernet, config, f"random {i}" if i else "found", folder, seed, retrain_epochs, progress)
            for i, config in enumerate([found, *rivals[:random_networks]])
        ]
        best, results = trained[0], [one.row for one in trained]
        export = export_subnet(
            best.network,
            folder / "export",
            mean=data.mean,
            std=data.std,
            classes=data.classes,
            metrics=best.metrics,
            preprocessing=data.preprocessing,
        )
        x, _ = next(iter(data.test_dataloader()))
        with torch.no_grad():
            difference = float((load(export)(x) - best.network(x)).abs().max())
        _pictures(folder, method, history, curves, best.curves)
        seconds = time.monotonic() - start
        report = {"seed": seed, "found": results[0], "random": results[1:], "seconds": seconds}
        write_atomically(folder / RESULTS, json.dumps(report, indent=2))
    _tell_results(results, console)
    _tell_export(export, console)
    say(
        f"Reloaded by oneshot.load({str(export)!r}): largest difference on {len(x)} test images {difference:.1e}",
        console,
    )
    say(f"Pictures: {folder}/cells.png, alphas.png, curves.png. {seconds:.0f} s.", console)
    say(f"{next_step('data', 'my_images')}, with a folder of your own images.", console)


def _search(
    supernet: NASBench201Supernet, data: Digits, folder: Path, epochs: int, progress: Progress
) -> tuple[DARTS, ArchLogger, Curves]:
    """Search by DARTS; returns the search, its alphas over time and its curves."""
    method, history = DARTS(supernet, arch_lr=3e-3), ArchLogger()
    callbacks = [history, GenotypePlot(folder), SubnetExport(folder), CollapseMonitor()]
    curves = _fit(method, SearchDataModule(data), folder / "search", epochs, progress, "search", callbacks)
    return method, history, curves


def _retrain(
    supernet: NASBench201Supernet,
    config: SubnetConfig,
    name: str,
    folder: Path,
    seed: int,
    epochs: int,
    progress: Progress,
) -> _Trained:
    """Train one architecture from new weights, and test it."""
    pl.seed_everything(seed, verbose=False)
    network = supernet.extract(config, inherit=False)
    module = Retrain(network, lr=0.1, drop_path=0.0)
    train = Digits(batch_size=64, val_fraction=0.1)
    curves = _fit(module, train, folder / "retrain" / name.replace(" ", "_"), epochs, progress, name)
    test = _trainer(folder, 1).test(module, train, verbose=False)[0]
    counts = count(network, network.input_shape)
    row = {
        "network": name,
        "arch": supernet.space.arch_string(config),
        "accuracy": test["test/accuracy"],
        "params": counts.params,
        "macs": counts.macs,
    }
    return _Trained(row, module.network_for_export(), {str(k): float(v) for k, v in test.items()}, curves)


def _tell_results(results: Sequence[dict[str, Any]], console: Console) -> None:
    found, random = results[0], results[1:]
    say(comparison_table(found, random, title="Test accuracy on 359 held-out digits"), console)
    wins = sum(found["accuracy"] > rival["accuracy"] for rival in random)
    ties = sum(found["accuracy"] == rival["accuracy"] for rival in random)
    say(
        f"The found network beats {wins} of {len(random)} random networks and ties with {ties}. One image is "
        "0.28 %: this shows that everything runs, not that one method is better.",
        console,
    )
    say(f"Cell: {found['arch']}", console)


def _tell_export(export: Path, console: Console) -> None:
    say(f"Exported and verified in {export}/:", console)
    for name, entry in (read_manifest(export) or {})["files"].items():
        if entry.get("max_abs_difference") is not None:
            say(f"  {name:<18} largest difference {entry['max_abs_difference']:.1e}", console)


def _pictures(
    folder: Path,
    method: DARTS,
    history: ArchLogger,
    search: Curves,
    retrain: Curves,
) -> None:
    space = method.supernet.space
    save_figure(draw_cells(space.graphs(method.derive()), title="Found cell"), folder / "cells.png")
    candidates = {choice.name: [str(c) for c in choice.candidates] for choice in space.choices}
    save_figure(draw_alphas(history.history, candidates), folder / "alphas.png")
    curves = {
        panel: {
            f"{stage}, {label}": (list(curve[key]), list(curve[key].values()))
            for stage, curve in (("search", search), ("retrain", retrain))
            for label, key in (("training", f"train/{panel}"), ("validation", f"val/{panel}"))
            if key in curve
        }
        for panel in ("loss", "accuracy")
    }
    save_figure(draw_curves(curves), folder / "curves.png")


class _Record(Callback):
    """Advances the progress bar and keeps the curves, epoch by epoch."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self.progress, self.task = progress, task
        self.curves: Curves = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, value in trainer.callback_metrics.items():
            self.curves.setdefault(name, {})[trainer.current_epoch + 1] = float(value)
        check_owned(
            Path(trainer.default_root_dir) / CHECKPOINTS
        )  # Lightning writes checkpoints without asking who owns the folder
        self.progress.advance(self.task)


def _fit(
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    folder: Path,
    epochs: int,
    progress: Progress,
    name: str,
    callbacks: Sequence[Callback] = (),
) -> Curves:
    record = _Record(progress, progress.add_task(name, total=epochs))
    checkpoint = ModelCheckpoint(folder / CHECKPOINTS, filename="last", enable_version_counter=False)
    _trainer(folder, epochs, [*callbacks, record, checkpoint], CSVLogger(folder, name="", version="")).fit(module, data)
    return record.curves


def _trainer(
    folder: Path, epochs: int, callbacks: list[Callback] | None = None, logger: CSVLogger | None = None
) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        callbacks=callbacks,
        logger=logger or False,
        enable_checkpointing=callbacks is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description:<10}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes about devices and workers, so that the few lines of results are seen."""
    logger, threads = logging.getLogger("pytorch_lightning"), torch.get_num_threads()
    level = logger.level
    logger.setLevel(logging.ERROR)
    torch.set_num_threads(1)  # with 8x8 pixels, threads mostly wait for each other
    try:
        with warnings.catch_warnings():
            # Advice on workers and intervals is for users' data; this data is ours, there is nothing to change.
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        torch.set_num_threads(threads)
        logger.setLevel(level)
