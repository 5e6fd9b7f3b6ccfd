"""Loss and metric of each task: one label for an image, or one for each pixel."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from oneshot.supernets.base import Task

IGNORED = 255  # the label of pixels that belong to no class, as in PASCAL VOC and Cityscapes

# The name of the metric in the logs, as in "val/accuracy".
METRICS: dict[Task, str] = {"classification": "accuracy", "segmentation": "miou"}


NEVER = -(2**31)  # no label: torch would leave out those of -100 without a word


class CrossEntropy(nn.CrossEntropyLoss):
    """Torch's cross-entropy, for labels of any integer type."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target if target.is_floating_point() else target.long())


def loss_of(task: Task, *, label_smoothing: float = 0.0) -> nn.CrossEntropyLoss:
    """Cross-entropy; in segmentation the mean over all pixels that are not ``IGNORED``.

    A batch of which every pixel is ignored has no mean: its loss is NaN. In classification no label is ignored, not
    even torch's -100.

    Args:
        task: Labels are ``[B]`` in classification, ``[B, H, W]`` in segmentation.
        label_smoothing: Share of the target spread evenly over all classes.
    """
    if task == "segmentation":
        return CrossEntropy(ignore_index=IGNORED, label_smoothing=label_smoothing)
    return CrossEntropy(ignore_index=NEVER, label_smoothing=label_smoothing)


def metric_of(task: Task, classes: int, *, sync: bool = True) -> Metric:
    """Accuracy, or the mean intersection over union of the classes that occur, in labels or predictions.

    Intersections and unions are counted over all pixels of an epoch, not image by image, without ``IGNORED`` ones.

    Args:
        task: Logits are ``[B, classes]`` in classification, ``[B, classes, H, W]`` in segmentation.
        classes: Number of classes.
        sync: Whether the processes of a distributed fit count together.

    Raises:
        ValueError: If there are fewer than two classes.
    """
    if classes < 2:
        raise ValueError(
            f"There must be at least two classes to tell apart; got num_classes={classes}. Yes and no are two: "
            "num_classes=2, two logits, labels 0 and 1."
        )
    options: dict[str, Any] = {"validate_args": False, "sync_on_compute": sync}
    if task == "segmentation":
        return MulticlassJaccardIndex(classes, ignore_index=IGNORED, **options)
    return MulticlassAccuracy(classes, average="micro", **options)  # checking arguments is a sync
