"""Which images architectures can be compared on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from oneshot.evaluation.inherited import InheritedEvaluation
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"images": torch.empty(0, 3, 16, 16)}, "got 0 and 10", id="no-images"),
        pytest.param({"calibration": torch.empty(0, 3, 16, 16)}, "got 10 and 0", id="no-calibration"),
        pytest.param(
            {"labels": torch.zeros(3, dtype=torch.long)},
            r"whole numbers of shape \[10\], .* got torch.int64 of shape \[3\]",
            id="labels",
        ),
        pytest.param({"labels": torch.zeros(10, dtype=torch.long)}, r"one class \(0\) tell no", id="one-class"),
        pytest.param({"batch_size": 0}, "batch_size must be at least 1; got 0", id="batch"),
    ],
)
def test_images_that_tell_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    x, y = images(10, 1)
    with pytest.raises(ValueError, match=message):
        InheritedEvaluation(macro(), **{"images": x, "labels": y, "calibration": x, **change})


def test_images_smaller_than_the_highest_resolution_are_refused() -> None:
    supernet, (x, y) = mobile(), images(20, 1)
    for evaluated, calibration in ((x[..., :8], x), (x, x[..., :8])):
        with pytest.raises(ValueError, match="must have 16 pixels, the highest resolution .*; they have 8"):
            InheritedEvaluation(supernet, evaluated, y, calibration)
    InheritedEvaluation(supernet, x, y, x)
