"""The built-in metrics by name; apart from the tasks, because torchmetrics is slow to import."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassAUROC,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MultilabelAccuracy,
    MultilabelAUROC,
    MultilabelAveragePrecision,
    MultilabelExactMatch,
    MultilabelF1Score,
    MultilabelStatScores,
)
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score
from torchmetrics.text import Perplexity

from .task import resolved


class BalancedAccuracy(MulticlassConfusionMatrix):
    """Mean over the classes that occur of the share of their samples that is right, as scikit-learn defines it."""

    higher_is_better = True

    def compute(self) -> Tensor:
        counts = super().compute().double()
        present = counts.sum(1) > 0
        recall: Tensor = counts.diag()[present] / counts.sum(1)[present]
        return recall.mean().float()


class WordPerplexity(Perplexity):
    """Torchmetrics' perplexity, of logits ``[B, V, T]`` as networks here give them."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.transpose(1, 2), target.long())


class BalancedLabels(MultilabelStatScores):
    """Mean over labels of the mean recall of yes and no, of those of the two that occur."""

    higher_is_better = True

    def __init__(self, num_labels: int, **options: Any) -> None:
        super().__init__(num_labels, average=None, **options)

    def compute(self) -> Tensor:
        tp, fp, tn, fn, _ = super().compute().double().unbind(-1)
        recalls = torch.stack([tp / (tp + fn), tn / (tn + fp)])  # NaN for what does not occur
        return recalls.nanmean(0).mean().float()


OF_CLASSES: dict[str, Callable[..., Metric]] = {
    "accuracy": lambda classes, **options: MulticlassAccuracy(classes, average="micro", **options),
    "balanced_accuracy": BalancedAccuracy,
    "f1": lambda classes, **options: MulticlassF1Score(classes, average="macro", **options),
    "auroc": lambda classes, **options: MulticlassAUROC(classes, average="macro", **options),
    "miou": MulticlassJaccardIndex,
    "perplexity": lambda classes, sync_on_compute=True, **options: WordPerplexity(sync_on_compute=sync_on_compute),
}

OF_LABELS: dict[str, Callable[..., Metric]] = {
    "accuracy": lambda labels, **options: MultilabelAccuracy(labels, average="micro", **options),
    "balanced_accuracy": BalancedLabels,
    "f1": lambda labels, **options: MultilabelF1Score(labels, average="macro", **options),
    "auroc": lambda labels, **options: MultilabelAUROC(labels, average="macro", **options),
    "average_precision": lambda labels, **options: MultilabelAveragePrecision(labels, average="macro", **options),
    "exact_match": MultilabelExactMatch,
}

OF_NUMBERS: dict[str, Callable[..., Metric]] = {
    "r2": R2Score,
    "mae": MeanAbsoluteError,
    "mse": MeanSquaredError,
    "rmse": lambda **options: MeanSquaredError(squared=False, **options),
}


def built_metric(path: Any, options: Mapping[str, Any], sizes: Mapping[str, Any], *, sync: bool) -> Metric:
    """A metric of torchmetrics, or of the same interface, by its class path.

    Args:
        path: Class path, or the class.
        options: Its arguments.
        sizes: Arguments that it gets if it takes them, such as ``num_classes``.
        sync: See :meth:`~oneshot.tasks.Task.metric`.

    Raises:
        ValueError: If it is no metric, or does not take the arguments.
    """
    kind = resolved(path, "metric")
    if not (isinstance(kind, type) and issubclass(kind, Metric)):  # nothing else is called, also not to find out
        raise ValueError(f"metric must name a class of torchmetrics.Metric; got {path!r}.")
    try:
        taken = inspect.signature(kind).parameters
        found = kind(**{name: value for name, value in sizes.items() if name in taken}, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metric {path!r} must be built with {dict(options)}, and cannot: {error}.") from error
    found.sync_on_compute = sync
    return found
