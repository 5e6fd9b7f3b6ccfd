"""A search that takes a second: tiny supernet, a few images, CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from oneshot import DARTS
from oneshot.data import Digits, SearchDataModule
from oneshot.supernets import DARTSSupernet, NASBench201Supernet, Supernet, darts_space

IMAGES = {"in_channels": 1, "image_size": 8}


def make_search(supernet: Supernet | None = None, **kwargs: Any) -> DARTS:
    """A search whose alphas move visibly within a few steps."""
    return DARTS(supernet or NASBench201Supernet(channels=4, cells_per_stage=1, **IMAGES), **{"arch_lr": 0.1, **kwargs})


def make_darts_supernet() -> DARTSSupernet:
    return DARTSSupernet(darts_space(steps=2, multiplier=2), channels=4, cells=3, **IMAGES)


def make_trainer(folder: Path, *callbacks: Callback, **kwargs: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": folder,
        "max_epochs": 2,
        "limit_train_batches": 2,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**settings, **kwargs})


def fit(trainer: pl.Trainer, search: pl.LightningModule, **kwargs: Any) -> None:
    pl.seed_everything(0, verbose=False)
    trainer.fit(search, datamodule=SearchDataModule(Digits(batch_size=16)), **kwargs)


def choose(search: DARTS, choice: str, operation: str) -> None:
    """Set the alphas of a choice so that every row derives ``operation``, with certainty."""
    index = search.supernet.space[choice].candidates.index(operation)
    with torch.no_grad():
        search.alphas[choice].zero_()
        search.alphas[choice][:, index] = 10.0


class Unrelated(pl.LightningModule):
    """A module that is not a search."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x, y = batch["weights"]
        return torch.nn.functional.cross_entropy(self.layer(x.flatten(1)), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)
