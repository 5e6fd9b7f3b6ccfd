"""What the callbacks of a search share."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from oneshot.engine.module import SearchModule


class SearchCallback(Callback):
    """A callback that looks at a search after some of its training epochs.

    Args:
        every_n_epochs: Look after every n-th epoch.

    Raises:
        ValueError: If ``every_n_epochs`` is below 1; at the start of ``fit``, if the module is not a search.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1; got {every_n_epochs}.")
        self.every_n_epochs = every_n_epochs
        self._trained = False

    def after_epoch(self, trainer: pl.Trainer, search: SearchModule) -> None:
        """The hook to fill: an epoch is over and all architecture parameters are finite. Called on every rank."""

    def after_finished_fit(self, trainer: pl.Trainer, search: SearchModule) -> None:
        """The hook to fill: a fit was resumed that had nothing left to train. Called on every rank."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.search(pl_module)
            self._trained = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._trained = True  # Lightning does not call this, nor the end of the training, where nothing is left

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._trained:
            self.after_finished_fit(trainer, self.search(pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        search = self.search(pl_module)
        # The module stops the search when something is NaN, but callbacks run first.
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0 and all(
            bool(parameter.isfinite().all()) for parameter in search.arch_parameters()
        ):
            self.after_epoch(trainer, search)

    def search(self, pl_module: pl.LightningModule) -> SearchModule:
        """The module, if it is a search.

        Raises:
            ValueError: If it is not.
        """
        if not isinstance(pl_module, SearchModule):
            raise ValueError(
                f"{type(self).__name__} looks at a search and needs a SearchModule, such as DARTS(supernet); "
                f"got {type(pl_module).__name__}. Take the callback off this Trainer."
            )
        return pl_module


def run_folder(trainer: pl.Trainer) -> Path:
    """Where a run keeps its files: beside what its logger writes, as Lightning's checkpoints do."""
    logger = trainer.logger
    if logger is None:
        return Path(trainer.default_root_dir)
    if logger.log_dir is not None:
        return Path(logger.log_dir)
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name), str(logger.version))
