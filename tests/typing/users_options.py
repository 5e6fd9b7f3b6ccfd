"""A user's file, for mypy: ``make check`` refuses it if a wrong option passes, or a right one does not.

An ``ignore`` of an error that mypy does not find is an error itself.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from oneshot import DARTS, GDAS, NAT, BigNAS
from oneshot.data import CIFAR10, Digits, ImageFolder, Shapes, TableData, TimeSeries, VisionData
from oneshot.data.images import ImageSet
from oneshot.data.options import VisionOptions
from oneshot.discrete import PPO, REINFORCE, MnasNet
from oneshot.engine import BilevelSearch, SoftmaxSampler
from oneshot.engine.options import GradientOptions, Unpack
from oneshot.supernets import NASBench201Supernet
from oneshot.supernets.base import OperationSupernet


class Mine(BilevelSearch):
    def __init__(self, supernet: OperationSupernet, *, power: float = 2.0, **kwargs: Unpack[GradientOptions]) -> None:
        super().__init__(supernet, SoftmaxSampler(), **kwargs)


class Pets(VisionData):
    def __init__(self, root: str, **options: Unpack[VisionOptions]) -> None:
        super().__init__(("cat", "dog"), (3, 32, 32), **options)

    def load(self, split: Any) -> ImageSet | None:
        return None


supernet = NASBench201Supernet()
adamw = partial(torch.optim.AdamW, lr=1e-3)
DARTS(supernet, order=2, arch_lr=0.1, weight_optimizer=adamw, accumulate=2)
GDAS(supernet, weight_decay=0.1, grad_clip=1.0)
Mine(supernet, power=3.0, arch_lr=0.1)
BigNAS(supernet, random_paths=3, weight_lr=0.1)
NAT(supernet, objectives=("params",), weight_lr=0.1)
DARTS(supernet, arch_lrr=0.1)  # type: ignore[call-arg]
DARTS(supernet, arch_lr="fast")  # type: ignore[arg-type]
GDAS(supernet, weight_decai=0.1)  # type: ignore[call-arg]
Mine(supernet, accumulates=2)  # type: ignore[call-arg]
BigNAS(supernet, random_path=3)  # type: ignore[call-arg]
NAT(supernet, weight_lrr=0.1)  # type: ignore[call-arg]
DARTS(supernet, weight_optimizer="adamw")  # type: ignore[arg-type]

TableData.from_csv("a.csv", target="y", batch_size=8, missing="fill", task="regression")
TableData("a.csv", target="y", num_workers=2)
TimeSeries.from_npz("a.npz", jitter=0.1, val_fraction=0.2)
TimeSeries([[1.0]], [0], x_test=[[1.0]], y_test=[0], seed=None)
CIFAR10("data", cutout=8, batch_size=256)
Digits(image_size=16, flip=None, mean=(0.5,), std=(0.5,))
ImageFolder("photos", flip=False, train_transforms=[torch.nn.Identity()])
Shapes(scale=(0.5, 1.0), flip=True, device="cpu")
Pets("pets", balanced=True)
TableData.from_csv("a.csv", target="y", batch_sze=8)  # type: ignore[call-arg]
TableData.from_csv("a.csv", target="y", missing="drop")  # type: ignore[arg-type]
TableData.from_csv("a.csv", target="y", names=["a"])  # type: ignore[call-arg]
TableData("a.csv", target="y", batch_size="8")  # type: ignore[arg-type]
TimeSeries.from_npz("a.npz", jiter=0.1)  # type: ignore[call-arg]
TimeSeries("a.npz", val_fracton=0.2)  # type: ignore[call-arg]
CIFAR10("data", cut_out=8)  # type: ignore[call-arg]
Digits(flip="left")  # type: ignore[arg-type]
ImageFolder("photos", batchsize=8)  # type: ignore[call-arg]
Shapes(cutout=8)  # type: ignore[call-arg]
Pets("pets", balance=True)  # type: ignore[call-arg]

PPO.small(supernet.space, seed=1, lr=0.1, clip=0.1)
REINFORCE.small(supernet.space, batch=4, scalar=None)
MnasNet(supernet.space, target=80.0, passes=3)
MnasNet.small(supernet.space, target=80.0, lr=0.1)
PPO.small(supernet.space, learning_rate=0.1)  # type: ignore[call-arg]
REINFORCE.small(supernet.space, clip=0.1)  # type: ignore[call-arg]
MnasNet(supernet.space, target=80.0, scalar=None)  # type: ignore[call-arg]
MnasNet.small(supernet.space, lr=0.1)  # type: ignore[call-arg]
