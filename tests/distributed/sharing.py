"""A short search without alphas, as one process or as two: ``sharing.py METHOD PROCESSES OUT``. See ``search.py``."""

from __future__ import annotations

import sys

import pytorch_lightning as pl
import torch
from search import EPOCHS, FixedStatistics, Streams

from oneshot.methods.fairnas import FairNAS
from oneshot.methods.random_sharing import RandomSharing
from oneshot.supernets.nasbench201 import NASBench201Supernet


def main(method: str, processes: int, out: str) -> None:
    torch.set_num_threads(1)
    pl.seed_everything(0, verbose=False)
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)
    cls = {"RandomSharing": RandomSharing, "FairNAS": FairNAS}[method]
    search = cls(supernet, weight_lr=0.1, grad_clip=1.0, candidates=10, finalists=3)
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
        limit_val_batches=0,
    )
    trainer.fit(search, datamodule=Streams(processes, single=False))
    weights = [weight.detach().clone() for weight in supernet.parameters()]
    ranking = [(str(config), accuracy) for config, accuracy in search.ranking]
    torch.save({"weights": weights, "ranking": ranking}, f"{out}.{trainer.global_rank}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
