"""One class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from oneshot.inputs import Inputs

from .classes import ClassTask
from .task import IGNORED, spatial

if TYPE_CHECKING:
    from torchmetrics import Metric


class Segmentation(ClassTask):
    """One of several classes for each pixel: outputs ``[B, C, H, W]``, labels ``[B, H, W]``, cross-entropy.

    The loss is the mean over all pixels that are not ``IGNORED``; a batch of which every pixel is ignored has no mean,
    its loss is NaN. Intersections and unions are counted over all pixels of an epoch, not image by image.

    Args:
        metric: ``"miou"`` (mean intersection over union of the classes that occur, in labels or predictions),
            ``"accuracy"`` (share of the pixels), ``"balanced_accuracy"``, ``"f1"``, or the class path of one of
            torchmetrics, which gets probabilities.
        metric_args: Arguments of the latter; ``num_classes`` comes by itself.
        direction: ``"max"`` or ``"min"``; by default what the metric declares.
        class_weights: Weight of each class in the loss, which is the weighted mean.

    Raises:
        ValueError: If an option is out of its range, or a metric has no direction.
    """

    name = "segmentation"
    names = ("miou", "accuracy", "balanced_accuracy", "f1")
    ignored = IGNORED
    what = "one for every pixel"

    def __init__(
        self,
        metric: Literal["miou", "accuracy", "balanced_accuracy", "f1"] | str | type[Metric] = "miou",
        *,
        metric_args: Mapping[str, Any] | None = None,
        direction: Literal["max", "min"] | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(locals(), metric, metric_args, direction, class_weights)

    def metrics(self, outputs: int) -> dict[str, Metric]:
        from torchmetrics.classification import MulticlassAccuracy

        pixels = MulticlassAccuracy(outputs, average="micro", ignore_index=IGNORED, validate_args=False)
        return {**super().metrics(outputs), **({} if self.metric_name == "accuracy" else {"accuracy": pixels})}

    def places(self, x: Inputs) -> tuple[int, ...]:
        return spatial(x)
