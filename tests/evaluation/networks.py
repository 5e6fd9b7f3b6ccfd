"""A small supernet and batches for it."""

from __future__ import annotations

import torch
from torch import Tensor

from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.darts import DARTSSupernet
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.testing.spaces import disturb

Batches = list[tuple[Tensor, Tensor]]


def supernet(kind: type[NASBench201Supernet] | type[DARTSSupernet] = NASBench201Supernet) -> OperationSupernet:
    torch.manual_seed(0)
    sizes = {"cells_per_stage": 1} if kind is NASBench201Supernet else {"cells": 1}
    network = kind(channels=4, num_classes=3, in_channels=1, image_size=8, **sizes).double()  # type: ignore[arg-type]  # a mixed-type dict
    disturb(network)
    return network


def batches() -> Batches:
    generator = torch.Generator().manual_seed(1)
    sizes = (32, 32, 16)  # the last one is smaller, as a loader's is
    return [
        (torch.randn(n, 1, 8, 8, generator=generator).double(), torch.randint(3, (n,), generator=generator))
        for n in sizes
    ]
