"""Several labels for each input, each of them yes or no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .classes import just_below_one
from .task import INTEGERS, MetricTask, Places, check_count, shape_text

if TYPE_CHECKING:
    from torchmetrics import Metric

METRICS = ("accuracy", "balanced_accuracy", "f1", "auroc", "average_precision", "exact_match")


class BinaryCrossEntropy(nn.BCEWithLogitsLoss):
    """Torch's binary cross-entropy of logits, for labels of any type."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target.to(input.dtype))


class MultiLabel(MetricTask):
    """Any of several labels for each input: outputs ``[B, L]``, labels ``[B, L]`` of 0 and 1, binary cross-entropy.

    Args:
        metric: ``"accuracy"`` (share of all labels), ``"balanced_accuracy"`` (mean recall of yes and no, mean over the
            labels), ``"f1"``, ``"auroc"``, ``"average_precision"`` (means over the labels), ``"exact_match"`` (share of
            the inputs of which all labels are right), or the class path of one of torchmetrics, which gets
            probabilities.
        metric_args: Arguments of the latter; ``num_labels`` comes by itself.
        direction: ``"max"`` or ``"min"``; by default what the metric declares.
        positive_weights: Weight of a yes against a no in the loss, one for each label.

    Raises:
        ValueError: If an option is out of its range, or a metric has no direction.

    Example:
        >>> import torch
        >>> MultiLabel("f1").decode(torch.tensor([[0.5, -2.0, 3.0]]))
        tensor([[1, 0, 1]])
    """

    name = "multilabel"

    def __init__(
        self,
        metric: Literal["accuracy", "balanced_accuracy", "f1", "auroc", "average_precision", "exact_match"]
        | str
        | type[Metric] = "accuracy",
        *,
        metric_args: Mapping[str, Any] | None = None,
        direction: Literal["max", "min"] | None = None,
        positive_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(locals())
        if positive_weights is not None and (not len(positive_weights) or not min(positive_weights) > 0):
            raise ValueError(f"positive_weights must be above 0, one for each label; got {positive_weights!r}.")
        self.positive_weights = None if positive_weights is None else tuple(map(float, positive_weights))
        labels = len(positive_weights or (0, 0))
        example = "classification.MultilabelHammingDistance"
        self._choose(metric, metric_args, direction, dict.fromkeys(METRICS, "max"), example, labels)

    @property
    def worst(self) -> float:
        return 0.0 if self._by_name else super().worst

    def criterion(self, *, label_smoothing: float = 0.0) -> nn.Module:
        self.check_label_smoothing(label_smoothing)
        return BinaryCrossEntropy(
            pos_weight=None if self.positive_weights is None else torch.tensor(self.positive_weights)
        )

    def check_outputs(self, outputs: int) -> None:
        super().check_outputs(outputs)
        if self.positive_weights is not None and len(self.positive_weights) != outputs:
            raise ValueError(
                f"positive_weights must be one for each of {outputs} labels; got {len(self.positive_weights)}."
            )

    def metric(self, outputs: int, *, sync: bool = True) -> Metric:
        self.check_outputs(outputs)
        from .metrics import OF_LABELS, built_metric

        if not self._by_name:
            return built_metric(self._metric, self._metric_args, {"num_labels": outputs}, sync=sync)
        return OF_LABELS[str(self._metric)](outputs, validate_args=False, sync_on_compute=sync)

    def metrics(self, outputs: int) -> dict[str, Metric]:
        from .metrics import OF_LABELS

        found = {name: OF_LABELS[name](outputs, validate_args=False) for name in ("accuracy", "f1")}
        return {**found, **({} if self.metric_name in found else super().metrics(outputs))}

    def linear_targets(self, targets: Tensor, outputs: int) -> Tensor:
        """1 for yes, 0 for no."""
        return targets.double()

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return just_below_one(outputs.float().sigmoid()), targets.long()

    def decode(self, outputs: Tensor) -> Tensor:
        """0 and 1 for every label ``[B, L]``, int64."""
        return (outputs > 0).long()

    def as_logits(self, outputs: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(outputs), outputs], dim=1)  # of no and yes, [B, 2, L]

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Mean over inputs and labels of the Kullback-Leibler divergence of yes and no; a scalar."""
        p, q = self.as_logits(teacher.detach()).log_softmax(1), self.as_logits(student).log_softmax(1)
        return (p.exp() * (p - q)).sum(1).mean()

    def check_targets(
        self, targets: Tensor, outputs: int, *, count: int | None = None, places: Places = (), values: bool = True
    ) -> None:
        check_count(targets, count)
        fits = targets.dtype in (*INTEGERS, torch.bool) or targets.is_floating_point()
        if tuple(targets.shape[1:]) != (outputs,) or targets.dim() != 2 or not fits or not len(targets):
            raise ValueError(
                f"Labels of a multi-label task must be 0 or 1 for each label, {shape_text((outputs,))}; got "
                f"{targets.dtype} of shape {list(targets.shape)}. One number of a class an input is "
                "task='classification'."
            )
        if values and not ((targets == 0) | (targets == 1)).all():
            wrong = targets[(targets != 0) & (targets != 1)].flatten()[0]
            raise ValueError(f"Labels of a multi-label task must be 0 or 1; got {float(wrong):g}.")
