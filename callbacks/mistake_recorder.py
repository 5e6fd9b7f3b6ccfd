"""Keeps the samples of a test that a network gets most wrong."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from oneshot.evaluation.mistakes import MOST, WorstMistakes
from oneshot.training.retrain import Retrain


class MistakeRecorder(Callback):
    """Looks at the test of a retrained network and keeps its worst mistakes.

    With several processes each one keeps those of its own samples.

    Args:
        most: How many are kept.

    Attributes:
        found: The mistakes of the last test.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.found = WorstMistakes(most)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.found = WorstMistakes(self.most)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if isinstance(pl_module, Retrain) and isinstance(outputs, dict) and isinstance(outputs["outputs"], Tensor):
            told, targets = outputs["outputs"], outputs["targets"]
            self.found.update(batch[0], told, targets, classes=pl_module.task.has_classes)
