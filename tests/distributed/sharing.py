"""A short search without alphas, as one process or as two, see ``search.py``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from oneshot.conversion.supernet import convert
from oneshot.methods.bignas import BigNAS
from oneshot.methods.enas import ENAS
from oneshot.methods.fairnas import FairNAS
from oneshot.methods.ofa import OnceForAll
from oneshot.methods.random_sharing import RandomSharing
from oneshot.supernets.base import Supernet
from oneshot.supernets.mobilenetv3 import MobileNetV3Supernet

from .search import fit, make_supernet


class Residual(nn.Module):
    """A block that can be left out."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(channels, hidden, 3, padding=1), nn.BatchNorm2d(hidden)
        self.second = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.norm(self.first(x)).relu())


def network() -> nn.Module:
    """A network of a user, to be converted."""
    blocks = nn.Sequential(Residual(16, 32), Residual(16, 24))
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


def main(method: str, processes: int, out: str) -> None:
    methods = {"RandomSharing": RandomSharing, "FairNAS": FairNAS, "BigNAS": BigNAS, "ENAS": ENAS}
    options: dict[str, Any] = {"weight_lr": 0.1, "grad_clip": 1.0, "candidates": 10, "finalists": 3}
    supernet: Supernet = make_supernet()
    if method == "OnceForAll":
        sizes: dict[str, Any] = {
            "widths": (0.1,),
            "depths": (1, 2),
            "kernels": (3, 5),
            "expansions": (2, 3),
            "dropout": 0.0,
        }
        supernet = MobileNetV3Supernet(in_channels=1, num_classes=10, resolutions=(8,), stem="cifar", **sizes)
    if method == "Converted":
        supernet, cls = convert(network(), torch.zeros(2, 1, 8, 8)), BigNAS
        options["initial_teacher"] = True
    else:
        cls = methods.get(method)
    search = cls(supernet, **options) if cls else OnceForAll(supernet, shrink_epochs=(0, 0, 1, 0), **options)
    trainer = fit(search, processes, limit_val_batches=0)
    weights = [weight.detach().clone() for weight in supernet.parameters()]
    ranking = [(str(config), accuracy) for config, accuracy in search.ranking]
    controller = [p.detach() for p in search.controller.parameters()] if isinstance(search, ENAS) else []
    result = {"weights": weights, "ranking": ranking, "controller": controller}
    torch.save(result, f"{out}.{trainer.global_rank}")
