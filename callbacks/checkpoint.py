"""Checkpoints from which a run can be resumed, wherever it was stopped."""

from __future__ import annotations

import os
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException

from oneshot._lightning import is_about_to_log, metrics_to_log, step_to_log
from oneshot.storage.faults import Patience, announce, machine_fault
from oneshot.storage.files import sha256_of, write_atomically
from oneshot.storage.lock import check_owned
from oneshot.storage.run_log import RunLog

from .base import run_folder

LAST, PREVIOUS, CHECKSUMS = "last.ckpt", "previous.ckpt", "checksums.txt"


class RunCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` after every epoch, every few steps and on SIGTERM, and keeps the one before.

    A crash, also of the machine, leaves a whole checkpoint: files are written aside, synchronised and renamed, and
    their checksums are kept with them. If a checkpoint can't be written, because the disk is full for example, a
    warning says so and the fit goes on; at its end it waits a while for room, and then ends with the error. Resume with
    ``trainer.fit(..., ckpt_path=good_checkpoint(folder))``.

    Args:
        folder: Where to; by default ``checkpoints`` in the folder of the run.
        every_n_steps: Steps between two checkpoints within an epoch; ``None`` writes at the end of epochs only.

    Attributes:
        last_model_path: The last checkpoint written, "" before the first.

    Raises:
        ValueError: If ``every_n_steps`` is below 1.
    """

    def __init__(self, folder: str | Path | None = None, *, every_n_steps: int | None = 1000) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1; got {every_n_steps}. None is off.")
        self.folder, self.every_n_steps = folder, every_n_steps
        self.last_model_path = ""
        self._log: dict[str, Any] = {}
        self._trained = False

    def state_dict(self) -> dict[str, Any]:
        return self._log

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._log = state_dict

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trained = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trained = True
        self._restore_logs(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._trained:  # there was nothing left to train, and what was logged after it will be logged again
            self._restore_logs(trainer)

    def _restore_logs(self, trainer: pl.Trainer) -> None:
        for log in _run_logs(trainer):
            log.truncate(self._log.get("rows", 0))
            if self._log.get("next"):
                log.log_metrics(**self._log["next"])

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        step = trainer.fit_loop.total_batch_idx + 1
        if self.every_n_steps and step % self.every_n_steps == 0 and not trainer.is_last_batch:
            self.save(trainer, pending=is_about_to_log(trainer))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        self.save(trainer, pending=True, shift=-1, last=last)  # Lightning logs an epoch at its last step, not the next

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # SIGTERM arrives between two steps. After the last step of an epoch, its checkpoint is written already.
        if isinstance(exception, SIGTERMException) and trainer.state.fn == "fit" and not trainer.is_last_batch:
            self.save(trainer, pending=False)

    def save(self, trainer: pl.Trainer, *, pending: bool, shift: int = 0, last: bool = False) -> None:
        """Write a checkpoint; on every process.

        Args:
            trainer: The Trainer, in one of the hooks above: only from their states Lightning can resume.
            pending: Whether Lightning is about to log what this step or epoch has measured. It would be missing in a
                resumed run, so it is part of the checkpoint.
            shift: Steps from the current one to the one that is logged.
            last: Whether it is the last checkpoint of the fit; then it waits for room if the disk is full.

        Raises:
            OSError: If the last one can't be written.
        """
        row = None
        if pending:
            metrics = {name: torch.as_tensor(value).item() for name, value in metrics_to_log(trainer).items()}
            if metrics:
                step = step_to_log(trainer) + shift
                row = {"metrics": {**metrics, "epoch": trainer.current_epoch}, "step": step}
        logs = _run_logs(trainer)
        self._log = {"rows": max((len(log.rows) for log in logs), default=0), "next": row}
        folder, patience = Path(self.folder or run_folder(trainer) / "checkpoints"), Patience()
        while (error := self._write(trainer, logs, folder)) is not None:
            what = f"No checkpoint was written at step {trainer.fit_loop.total_batch_idx + 1}"
            if not last:
                good = self.last_model_path or "none yet"
                announce(f"{what}: {error}. The run goes on; the last good checkpoint is {good}.")
                return
            why = machine_fault(error)
            again = trainer.is_global_zero and why is not None and patience.wait(what, why)
            if not trainer.strategy.broadcast(again):  # all processes try again, or none does
                raise error
        self.last_model_path = str(folder / LAST)

    def _write(self, trainer: pl.Trainer, logs: Sequence[RunLog], folder: Path) -> Exception | None:
        """Write the file; return the error if that failed: its cause in the first process, the fact in the others."""
        new, failure, together = folder / f".{LAST}.new", None, False
        try:
            check_owned(new)
            for log in logs:
                log.sync()
            if trainer.is_global_zero:
                new.unlink(missing_ok=True)  # left by a process that was killed, or a link that somebody put there
            trainer.save_checkpoint(new, weights_only=False)
            together = True
            if trainer.is_global_zero:
                keep(new)
        except (OSError, RuntimeError) as error:
            # What torch raises when it can't write. Others, such as the death of a worker, may arrive here, too.
            if isinstance(error, RuntimeError) and machine_fault(error) is None:
                raise
            failure = error
            if not together:
                trainer.strategy.barrier("Trainer.save_checkpoint")  # the other processes wait there
            if trainer.is_global_zero:
                new.unlink(missing_ok=True)
        if trainer.strategy.broadcast(failure is not None) and failure is None:
            return OSError("the first process of the run cannot write it")
        return failure


def keep(new: Path) -> None:
    """Make a complete file the last checkpoint of its folder, and the last one the previous."""
    folder = new.parent
    last, previous, checksums = folder / LAST, folder / PREVIOUS, folder / CHECKSUMS
    with new.open("rb") as file:
        os.fsync(file.fileno())
    known = checksums.read_text(encoding="utf-8").split() if checksums.is_file() else []
    # Both are known before either file changes its name, so that no moment leaves a good file without a checksum.
    write_atomically(checksums, "\n".join([sha256_of(new), *known[:2]]) + "\n")
    if last.exists():
        os.replace(last, previous)  # until the next line, a run resumes from this one
    os.replace(new, last)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def good_checkpoint(folder: str | Path) -> Path | None:
    """The latest checkpoint of a folder that is whole; ``None`` if there was never one.

    Other callbacks write no checksums; then the checksums in the file itself are compared.

    Raises:
        ValueError: If there are checkpoints, and all are damaged.
    """
    folder = Path(folder)
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    for path in found:
        if _is_whole(path):
            return path
        warnings.warn(f"{path} is damaged, its checksum differs; trying the one before.", stacklevel=2)
    if found:
        raise ValueError(
            f"A run must have a whole checkpoint to resume from; {' and '.join(map(str, found))} are damaged. "
            "Start anew."
        )
    return None


def check_checkpoint(path: str | Path) -> None:
    """Check one checkpoint.

    Raises:
        ValueError: If it is not there, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {path}.")
    if not _is_whole(path):
        raise ValueError(f"{path} is not a checkpoint of this run, or is damaged: its checksum differs. Take another.")


def _is_whole(path: Path) -> bool:
    checksums = path.parent / CHECKSUMS
    if path.name in (LAST, PREVIOUS) and checksums.is_file():
        return sha256_of(path) in checksums.read_text(errors="replace", encoding="utf-8").split()
    try:
        with zipfile.ZipFile(path) as file:  # what torch writes; torch itself does not compare the checksums
            packed = any(part.compress_type != zipfile.ZIP_STORED for part in file.infolist())
            return (
                not packed and file.testzip() is None
            )  # torch compresses nothing; a compressed file may unpack to any size
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError, EOFError, ValueError):
        return False


def _run_logs(trainer: pl.Trainer) -> list[RunLog]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunLog)]
