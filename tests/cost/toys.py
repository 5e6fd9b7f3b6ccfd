"""A small supernet, and a device whose latencies are known: what the tests of measured latencies share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oneshot.cost.latency.device import LatencyDevice, Run
from oneshot.supernets import ArchGraph, Choice, SearchSpace, SubnetConfig
from oneshot.supernets.base import OperationSupernet, Subnet
from oneshot.supernets.mixed_op import MixedOp

CANDIDATES = ("one", "three", "skip")
SPACE = SearchSpace("toy", (Choice("layers", CANDIDATES, rows=3), Choice("extra", ("one", "three"), droppable=True)))
CHANNELS = (4, 4, 8)  # the first two layers are the same, and so are their candidates
MS = {"layers": [[2.0, 3.0, 0.5], [2.0, 3.0, 0.5], [5.0, 9.0, 1.0]], "extra": [[1.5, 4.0]]}
FIXED = 3.0


def block(name: object, channels: int, groups: int = 1) -> nn.Module:
    size = {"one": 1, "three": 3}.get(str(name))
    if size is None:
        return nn.Identity()
    return nn.Conv2d(channels, channels, size, padding=size // 2, groups=groups)


class ToySupernet(OperationSupernet):
    def __init__(self, *, image_size: int = 8) -> None:
        super().__init__()
        self.space, self.input_shape, self.num_classes = SPACE, (4, image_size, image_size), 8
        self.layers = nn.ModuleList(MixedOp(block(name, c) for name in CANDIDATES) for c in CHANNELS)
        self.extra = MixedOp(block(name, 8, groups=2) for name in ("one", "three"))

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        for row, layer in enumerate(self.layers):
            x = layer(torch.cat([x, x], 1) if row == 2 else x, arch["layers"][row])
        out: Tensor = (x + self.extra(x, arch["extra"][0])).mean((2, 3))
        return out

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> ToyNetwork:
        return ToyNetwork(config, self.input_shape)

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        return {"layers": [[layer] for layer in self.layers], "extra": [[self.extra]]}  # type: ignore[list-item]


class ToyNetwork(Subnet):
    def __init__(self, config: SubnetConfig, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        SPACE.validate(config)
        self.config, self.input_shape, self.num_classes, self.init_args = config, input_shape, 8, {}
        self.layers = nn.ModuleList(block(name, c) for name, c in zip(config["layers"], CHANNELS, strict=True))
        extra = config["extra"][0]
        self.extra = None if extra == "none" else block(extra, 8, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        for row, layer in enumerate(self.layers):
            x = layer(torch.cat([x, x], 1) if row == 2 else x)
        return (x if self.extra is None else x + self.extra(x)).mean((2, 3))

    def graphs(self) -> list[ArchGraph]:
        return []


def latency(config: SubnetConfig) -> float:
    """What the toy device needs, ms."""
    total = FIXED
    for choice in SPACE.choices:
        for row, pick in enumerate(config[choice.name]):
            total += 0.0 if pick == "none" else MS[choice.name][row][choice.candidates.index(pick)]
    return total


class ToyDevice(LatencyDevice):
    """A device that runs nothing: it knows how long everything takes.

    Args:
        noise: Of a pass, relative.
        speed: Factor on the latency of pass number n.
        fails: Number of the pass at which the device vanishes.
        broken: Number of the pass whose time is ``said``.
    """

    batch, dtype = 1, "float32"

    def __init__(
        self,
        *,
        noise: float = 0.0,
        speed: Callable[[int], float] = lambda n: 1.0,
        fails: int | None = None,
        said: tuple[int, float] | None = None,
        name: str = "toy",
    ) -> None:
        self.noise, self.speed, self.fails, self.said, self.name = noise, speed, fails, said, name
        self.passes, self.rng = 0, np.random.default_rng(0)

    def prepare(self, network: Subnet) -> Run:
        assert network.config is not None and not network.training
        return lambda config=network.config: latency(config)  # type: ignore[misc]

    def time(self, run: Run) -> float:
        self.passes += 1
        if self.passes == self.fails:
            raise RuntimeError("CUDA error: unspecified launch failure")
        if self.said is not None and self.passes == self.said[0]:
            return self.said[1]
        ms = run()
        assert isinstance(ms, float)
        return ms * self.speed(self.passes) * (1 + self.noise * float(self.rng.standard_normal()))

    def facts(self) -> dict[str, Any]:
        return {"runtime": "eager", "device": "cpu", "name": self.name, "threads": 1}
