"""A short search, as one process or as two that share every batch.

Both see the same images in the same batches. Batch normalisation keeps its statistics fixed, because the statistics of
half a batch are not those of the whole (SyncBatchNorm needs a GPU).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from oneshot.engine.gradient import GradientSearch, SingleLevelSearch
from oneshot.engine.module import SearchModule
from oneshot.methods.darts import DARTS
from oneshot.methods.gdas import GDAS
from oneshot.methods.oles import OLES
from oneshot.methods.snas import SNAS
from oneshot.supernets.nasbench201 import NASBench201Supernet

BATCH, BATCHES, EPOCHS = 8, 3, 2


class FixedStatistics(pl.Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        for module in pl_module.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


class Streams(pl.LightningDataModule):
    def __init__(self, processes: int, *, single: bool) -> None:
        super().__init__()
        self.processes, self.single = processes, single

    def train_dataloader(self) -> DataLoader[Any] | dict[str, DataLoader[Any]]:
        loaders = {}
        for seed, name in enumerate(("weights", "arch")):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(BATCH * BATCHES, 1, 8, 8, generator=generator)
            data = TensorDataset(x, torch.randint(10, (len(x),), generator=generator))
            # rank r of n takes every n-th image, so the batches of all ranks together are the batch of one process
            sampler = DistributedSampler(data, shuffle=False) if self.processes > 1 else None
            loaders[name] = DataLoader(data, BATCH // self.processes, sampler=sampler)
        return loaders["weights"] if self.single else loaders


METHODS: dict[str, Callable[..., GradientSearch]] = {
    "DARTS-1": DARTS,
    "DARTS-2": partial(DARTS, order=2),
    "SNAS": partial(SNAS, drop_path=0.0),  # drops whole images, which lie at other places of the batches
    "GDAS": GDAS,
    "OLES": partial(OLES, window=2, threshold=0.9),  # so that some candidates are stopped on the way
}


def make_supernet() -> NASBench201Supernet:
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    return NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)


def fit(search: SearchModule, processes: int, data: Streams | None = None, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy="ddp" if processes > 1 else "auto",
        devices=processes,
        max_epochs=EPOCHS,
        use_distributed_sampler=False,
        callbacks=[FixedStatistics()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(search, datamodule=data or Streams(processes, single=isinstance(search, SingleLevelSearch)))
    return trainer


def main(method: str, processes: int, out: str) -> None:
    supernet = make_supernet()
    search = METHODS[method](supernet, arch_lr=0.01, weight_lr=0.1, grad_clip=1.0)
    with torch.no_grad():  # a process that starts from other alphas must be brought into line
        for alpha in search.alphas.parameters():
            alpha.add_(float(os.environ.get("RANK", 0)))
    trainer = fit(search, processes)
    alphas = [alpha.detach().clone() for alpha in search.alphas.parameters()]
    weights = [weight.detach().clone() for weight in supernet.parameters()]
    torch.save({"alphas": alphas, "weights": weights}, f"{out}.{trainer.global_rank}")
