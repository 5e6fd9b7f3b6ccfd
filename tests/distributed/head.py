"""The beginning of a training with a fitted head, as one process or as two."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from oneshot.data import Digits
from oneshot.supernets.nasbench201 import NASBench201Network
from oneshot.training import Retrain

ARCH = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|skip_connect~0|skip_connect~1|nor_conv_3x3~2|"


class First(pl.Callback):
    """Keeps the head that the first step begins with."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0:
            self.head = [weight.detach().clone() for weight in module.network.head.parameters()]


def main(_: str, processes: int, out: str) -> None:
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    sizes: dict[str, Any] = {"channels": 4, "in_channels": 1, "image_size": 8, "cells_per_stage": 1}
    module, first = Retrain(NASBench201Network(ARCH, **sizes), fit_head=True, freeze_statistics=True), First()
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy="ddp" if processes > 1 else "auto",
        devices=processes,
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=0,
        callbacks=[first],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Digits(batch_size=32, seed=0))
    weights = [weight.detach().clone() for weight in module.network.parameters()]
    torch.save({"head": first.head, "weights": weights}, f"{out}.{trainer.global_rank}")
