"""What tasks share whose targets are numbers of classes: cross-entropy, metrics by name, checks of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .task import INTEGERS, Direction, MetricTask, Places

if TYPE_CHECKING:
    from torchmetrics import Metric

NEVER = -(2**31)  # no label: torch would leave out those of -100 without a word


class CrossEntropy(nn.CrossEntropyLoss):
    """Torch's cross-entropy, for labels of any integer type and for probabilities of classes."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target if target.is_floating_point() else target.long())


SMALL = ("perplexity",)  # the smaller, the better
OF_PROBABILITIES = ("auroc",)  # torchmetrics would take logits between 0 and 1 for probabilities


def just_below_one(probabilities: Tensor) -> Tensor:
    """Probabilities of less than 1: torchmetrics puts 1 into a bin of its own, and takes more for logits."""
    return probabilities.clamp(max=1 - torch.finfo(probabilities.dtype).eps)


class ClassTask(MetricTask):
    """A task whose targets are numbers of classes.

    Args:
        options: See :class:`~oneshot.tasks.Task`.
        metric: A name among ``names``, or the class path of one of torchmetrics, which gets probabilities.
        metric_args: Arguments of the latter; ``num_classes`` comes by itself.
        direction: ``"max"`` or ``"min"``; by default what the metric declares.
        class_weights: Weight of each class in the loss, which is the weighted mean.

    Raises:
        ValueError: If an option is out of its range, or a metric has no direction.
    """

    at_least = 2
    has_classes = True
    ignored: ClassVar[int | None] = None
    names: ClassVar[tuple[str, ...]] = ("accuracy",)
    what: ClassVar[str] = ""

    def __init__(
        self,
        options: Mapping[str, Any],
        metric: Any,
        metric_args: Mapping[str, Any] | None,
        direction: Direction | None,
        class_weights: Sequence[float] | None,
    ) -> None:
        super().__init__(options)
        check_class_weights(class_weights)
        self.class_weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
        known: dict[str, Direction] = {name: "min" if name in SMALL else "max" for name in self.names}
        example = "classification.MulticlassMatthewsCorrCoef"
        self._choose(metric, metric_args, direction, known, example, len(class_weights or (0, 0)))

    @property
    def worst(self) -> float:
        return 0.0 if self._by_name and self._direction == "max" else super().worst

    def criterion(self, *, label_smoothing: float = 0.0) -> nn.Module:
        weight = None if self.class_weights is None else torch.tensor(self.class_weights)
        ignored = NEVER if self.ignored is None else self.ignored
        return CrossEntropy(weight=weight, ignore_index=ignored, label_smoothing=label_smoothing)

    def metric(self, outputs: int, *, sync: bool = True) -> Metric:
        self.check_outputs(outputs)
        from .metrics import OF_CLASSES, built_metric

        if not self._by_name:
            return built_metric(self._metric, self._metric_args, {"num_classes": outputs}, sync=sync)
        options = {"validate_args": False, "sync_on_compute": sync}  # checking arguments is a sync
        return OF_CLASSES[self._metric](outputs, ignore_index=self.ignored, **options)

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if not self._by_name or self._metric in OF_PROBABILITIES:
            outputs = just_below_one(outputs.float().softmax(dim=1))
        return outputs, targets

    def decode(self, outputs: Tensor) -> Tensor:
        """Numbers of classes ``[B, ...]``, int64."""
        return outputs.argmax(dim=1)

    def check_outputs(self, outputs: int) -> None:
        if outputs < 2:
            raise ValueError(
                f"There must be at least two classes to tell apart; got num_classes={outputs}. Yes and no are two: "
                "num_classes=2, two logits, labels 0 and 1."
            )
        check_class_weights(self.class_weights, outputs)

    def check_targets(
        self, targets: Tensor, outputs: int, *, count: int | None = None, places: Places = (), values: bool = True
    ) -> None:
        shape = (len(targets) if count is None and targets.dim() else count or 0, *places)
        check_class_labels(targets, outputs, shape, what=self.what, ignored=self.ignored, values=values)

    def counted(self, targets: Tensor) -> Tensor:
        return super().counted(targets) if self.ignored is None else (targets != self.ignored).sum()

    def distinct(self, targets: Tensor) -> Tensor:
        found: Tensor = torch.unique(targets if self.ignored is None else targets[targets != self.ignored])
        return found


def check_class_labels(
    y: Tensor,
    classes: int,
    expected: Places,
    *,
    what: str,
    ignored: int | None = None,
    values: bool = True,
) -> None:
    """Check that labels are numbers of classes.

    Args:
        y: Labels.
        classes: Number of classes.
        expected: The shape they must have.
        what: What there is a label for, for the message.
        ignored: A label that belongs to no class, if there is one.
        values: Whether to look at the values.

    Raises:
        ValueError: If they are no whole numbers, have another shape, or are not below ``classes``.
    """
    if y.dtype not in INTEGERS or tuple(y.shape) != expected or not len(y):
        raise no_labels(y, expected, what)
    known = y if ignored is None else y[y != ignored] if values else y
    if not values or not known.numel():
        return
    least, most = (int(value) for value in torch.aminmax(known))
    if least < 0 or most >= classes:
        wrong = least if least < 0 else most
        said = "" if ignored is None else f", or {ignored} for pixels of none"
        raise ValueError(
            f"Labels are numbers of classes, from 0 to {classes - 1} as the network has {classes}{said}; got "
            f"{wrong}. Number the classes anew from 0, or build the network with num_classes={max(most, 0) + 1}."
        )


def no_labels(y: Tensor, expected: Places, what: str) -> ValueError:
    """The error for targets that are no numbers of classes."""
    return ValueError(
        f"Labels are whole numbers of shape {list(expected)}, {what}; got {y.dtype} of shape {list(y.shape)}. Of "
        "one-hot labels take y.argmax(1), of a column y.squeeze(1), of numbers like 2.0 y.long(); other targets need "
        "another task: task='regression', task='multilabel', or Classification(soft_labels=True) for probabilities."
    )


def check_class_weights(weights: Sequence[float] | None, classes: int | None = None) -> None:
    """Check weights of classes.

    Raises:
        ValueError: If one is negative or all are 0, or there is not one for each class.
    """
    if weights is None:
        return
    if not len(weights) or not min(weights) >= 0 or not 0 < max(weights) < float("inf"):
        raise ValueError(f"class_weights must be numbers from 0 on, not all 0, one for each class; got {weights!r}.")
    if classes is not None and len(weights) != classes:
        raise ValueError(f"class_weights must be one for each of {classes} classes; got {len(weights)}.")
