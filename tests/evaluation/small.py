"""Small supernets whose weights are not those of the beginning, and images for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from oneshot.supernets import MobileNetV3Supernet, NASBenchMacroSupernet
from oneshot.supernets.base import Supernet
from oneshot.testing.spaces import disturb


def macro() -> Supernet:
    torch.manual_seed(0)
    return disturb(NASBenchMacroSupernet(channels=4, num_classes=3, image_size=16))  # type: ignore[return-value]


def mobile() -> Supernet:
    torch.manual_seed(0)
    sizes: Any = {"widths": (0.25,), "depths": (1, 2), "kernels": (3, 5), "expansions": (2, 3)}
    network = MobileNetV3Supernet(num_classes=3, resolutions=(8, 16), stem="cifar", **sizes)
    return disturb(network)  # type: ignore[return-value]


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 16, 16, generator=generator), torch.randint(3, (n,), generator=generator)
