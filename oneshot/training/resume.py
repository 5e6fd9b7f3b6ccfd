"""Exact resuming: random numbers that follow from the step, and checkpoints that know their run."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from oneshot._lightning import is_tuned, restore_loaders
from oneshot._version import __version__
from oneshot.storage.class_paths import public_path, stable_name

from .finite_loss import FiniteLossGuard
from .summary import leave_out_flops

LATER = {"checksums of latencies"}  # facts that earlier releases did not write
KEY, FORMAT = "oneshot", 1  # where a checkpoint holds the facts, and the version of their form


class ResumableModule(FiniteLossGuard):
    """A training that ends the same however often it was stopped and resumed from one of its checkpoints.

    Checkpoints between the last step and the end of an epoch are refused: ``ModelCheckpoint`` writes them if its
    ``every_n_train_steps`` divides an epoch, :class:`~oneshot.callbacks.RunCheckpoint` does not.

    Every step seeds Python, NumPy and torch with a number that follows from the seed of the run and the number of the
    step, so that nothing that happened before, or to another process, can change what a step draws. All processes draw
    the same, unless :attr:`seed_per_process`. A checkpoint also records what it was made by and from; a fit that is
    resumed with something else is refused.

    Attributes:
        seed_per_process: Whether every process draws its own numbers.
    """

    seed_per_process = False
    _seed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_seed", torch.randint(2**31, ()))
        self._run_seed: int | None = None

    @property
    def run_seed(self) -> int:
        """Seed of the run, by which all steps draw; part of every checkpoint."""
        return int(self._seed)

    def configure_callbacks(self) -> list[Callback]:
        leave_out_flops(self.trainer, self)
        return []

    def facts(self) -> dict[str, Any]:
        """Values by name that a checkpoint and the run that resumes from it must share."""
        facts: dict[str, Any] = {"method": public_path(type(self))}
        data = getattr(self.trainer, "datamodule", None)
        if (describe := getattr(data, "fingerprint", None)) is not None:
            facts |= {f"data, {name}": value for name, value in describe().items()}
        facts |= {"epochs": self.trainer.max_epochs, "processes": self.trainer.world_size}
        return facts

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._run_seed = self.run_seed

    def on_train_start(self) -> None:
        # Whoever asks for the number of steps makes Lightning set up the loaders before it has read the checkpoint.
        restore_loaders(self.trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        step = self.trainer.fit_loop.total_batch_idx
        process = self.trainer.global_rank if self.seed_per_process else 0
        seed = int(np.random.SeedSequence((self._run_seed or 0, step, process)).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[KEY] = {"format": FORMAT, "version": __version__, "facts": self.facts()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare a checkpoint with this run.

        Raises:
            ValueError: Naming every difference that would make the result another one, or if an epoch was at its end.
        """
        if self._trainer is None or self.trainer.state.fn != "fit" or is_tuned(self.trainer):
            return
        if (made_by := checkpoint.get(KEY)) is None or made_by.get("format") != FORMAT:
            raise ValueError(
                f"A fit must be resumed from a checkpoint of {type(self).__name__} made by oneshot {__version__}; this "
                f"one was made by {made_by['version'] if made_by else 'something else'}. Start anew."
            )
        if made_by["version"] != __version__:
            warnings.warn(
                f"The checkpoint was made by oneshot {made_by['version']}, this is {__version__}; the result may "
                "differ from an uninterrupted run's.",
                stacklevel=2,
            )
        then, now = made_by["facts"], self.facts()
        if "method" in then:  # earlier releases wrote the module that defined it
            then = {**then, "method": stable_name(str(then["method"]))}
            now = {**now, "method": stable_name(now["method"])}
        changed = {name for name in then.keys() | now.keys() if then.get(name) != now.get(name)}
        if changed & LATER - then.keys():
            changed -= LATER - then.keys()
            warnings.warn(
                "The checkpoint is of an earlier release, which did not write down the latencies of its search: "
                "whether they are the same now cannot be checked.",
                stacklevel=2,
            )
        # Between two epochs the images can be dealt out anew; within one, some would be seen twice and others not.
        loops = checkpoint["loops"]["fit_loop"]
        progress = loops["epoch_progress"]["current"]
        between = progress["ready"] == progress["processed"]
        if not between and loops["epoch_loop.batch_progress"]["is_last_batch"]:
            raise ValueError(
                "A fit must be resumed between two steps of an epoch, or between two epochs; this checkpoint is from "
                f"between the last step of epoch {checkpoint['epoch']} and its end, and Lightning would begin the next "
                "without preparing it. Resume from another: RunCheckpoint writes none of these, nor does "
                "ModelCheckpoint(every_n_epochs=1, save_on_train_epoch_end=True)."
            )
        if "processes" in changed and between:
            changed.remove("processes")
            warnings.warn(
                f"The run goes on with {now['processes']} processes instead of {then['processes']}: every batch has "
                "the images of all processes, so the result differs from an uninterrupted run's.",
                stacklevel=2,
            )
        if "epochs" in changed:
            changed.remove("epochs")
            warnings.warn(
                f"The run goes on to {now['epochs']} epochs instead of {then['epochs']}, and with it the schedules; "
                "the result differs from an uninterrupted run's.",
                stacklevel=2,
            )
        if changed:
            different = "; ".join(f"{name}: {then.get(name)}, now {now.get(name)}" for name in sorted(changed))
            raise ValueError(
                "A fit must be resumed with the method, space and data it began with, and within an epoch with as many "
                f"processes; what differs is {different}. Change it back, or start anew elsewhere."
            )
