"""A short search without alphas, as one process or as two: ``sharing.py METHOD PROCESSES OUT``. See ``search.py``."""

from __future__ import annotations

import sys

import torch
from search import fit, make_supernet

from oneshot.discrete.enas import ENAS
from oneshot.methods.bignas import BigNAS
from oneshot.methods.fairnas import FairNAS
from oneshot.methods.random_sharing import RandomSharing


def main(method: str, processes: int, out: str) -> None:
    supernet = make_supernet()
    cls = {"RandomSharing": RandomSharing, "FairNAS": FairNAS, "BigNAS": BigNAS, "ENAS": ENAS}[method]
    search = cls(supernet, weight_lr=0.1, grad_clip=1.0, candidates=10, finalists=3)
    trainer = fit(search, processes, limit_val_batches=0)
    weights = [weight.detach().clone() for weight in supernet.parameters()]
    ranking = [(str(config), accuracy) for config, accuracy in search.ranking]
    controller = [p.detach() for p in search.controller.parameters()] if isinstance(search, ENAS) else []
    result = {"weights": weights, "ranking": ranking, "controller": controller}
    torch.save(result, f"{out}.{trainer.global_rank}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
