"""Which images architectures can be compared on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from oneshot.evaluation.inherited import InheritedEvaluation

from .small import images, macro, mobile


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
