"""One class for each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .classes import ClassTask
from .task import Places, check_count, shape_text

if TYPE_CHECKING:
    from torchmetrics import Metric


class Classification(ClassTask):
    """One of several classes for each input: outputs ``[B, C]``, labels ``[B]``, cross-entropy.

    Args:
        metric: ``"accuracy"``, ``"balanced_accuracy"`` (mean recall of the classes that occur), ``"f1"`` (mean over the
            classes), ``"auroc"`` (each class against all others, mean over the classes), or the class path of one of
            torchmetrics, which gets probabilities.
        metric_args: Arguments of the latter; ``num_classes`` comes by itself.
        direction: ``"max"`` or ``"min"``; by default what the metric declares.
        class_weights: Weight of each class in the loss, which is the weighted mean.
        soft_labels: Targets are probabilities of the classes, ``[B, C]``; metrics compare with the most likely one.

    Raises:
        ValueError: If an option is out of its range, or a metric has no direction.

    Example:
        >>> import torch
        >>> task, logits = Classification("balanced_accuracy"), torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
        >>> task.decode(logits), task.direction
        (tensor([0, 1, 0]), 'max')
    """

    name = "classification"
    names = ("accuracy", "balanced_accuracy", "f1", "auroc")
    what = "a number of a class for every input"

    def __init__(
        self,
        metric: Literal["accuracy", "balanced_accuracy", "f1", "auroc"] | str | type[Metric] = "accuracy",
        *,
        metric_args: Mapping[str, Any] | None = None,
        direction: Literal["max", "min"] | None = None,
        class_weights: Sequence[float] | None = None,
        soft_labels: bool = False,
    ) -> None:
        super().__init__(locals(), metric, metric_args, direction, class_weights)
        self.soft_labels = soft_labels

    def metrics(self, outputs: int) -> dict[str, Metric]:
        from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

        options: dict[str, Any] = {"validate_args": False}
        found: dict[str, Metric] = {
            "accuracy": MulticlassAccuracy(outputs, average="micro", **options),
            "ece": MulticlassCalibrationError(outputs, n_bins=15, **options),
        }
        if outputs > 5:
            found["top5"] = MulticlassAccuracy(outputs, top_k=5, average="micro", **options)
        return {**found, **({} if self.metric_name in found else super().metrics(outputs))}

    def linear_targets(self, targets: Tensor, outputs: int) -> Tensor:
        """Probabilities of the classes: 1 for that of the sample, 0 for the others."""
        soft = targets.is_floating_point()
        return targets.double() if soft else torch.nn.functional.one_hot(targets.long(), outputs).double()

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return super().for_metric(outputs, targets.argmax(dim=1) if targets.is_floating_point() else targets)

    def check_targets(
        self, targets: Tensor, outputs: int, *, count: int | None = None, places: Places = (), values: bool = True
    ) -> None:
        if not self.soft_labels:
            return super().check_targets(targets, outputs, count=count, places=places, values=values)
        check_count(targets, count)
        if tuple(targets.shape[1:]) != (outputs,) or not targets.is_floating_point():
            raise ValueError(
                f"Soft labels must be probabilities {shape_text((outputs,))}, floating-point; got {targets.dtype} of "
                f"shape {list(targets.shape)}. Classification() takes numbers of classes."
            )
        if values and not (targets.min() >= 0 and torch.allclose(targets.sum(1), targets.new_ones(()), atol=1e-3)):
            worst = targets.sum(1)[(targets.sum(1) - 1).abs().argmax()]
            raise ValueError(
                "Soft labels must be at least 0 and add up to 1 for each input; got a least of "
                f"{float(targets.min()):g} and a sum of {float(worst):g}."
            )
        return None

    def distinct(self, targets: Tensor) -> Tensor:
        return super().distinct(targets.argmax(dim=1) if targets.is_floating_point() else targets)
