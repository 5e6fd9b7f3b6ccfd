"""A task from any loss and any metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .task import Direction, Places, Task, check_count, direction_of, path_of, resolved

if TYPE_CHECKING:
    from torchmetrics import Metric


Function = Callable[..., Any]


class FunctionLoss(nn.Module):
    """A loss that is a function of outputs and targets.

    Args:
        function: The function.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.function(input, target)


def as_they_are(outputs: Tensor) -> Tensor:
    """Outputs as predictions."""
    return outputs


class CustomTask(Task):
    """Outputs ``[B, K, ...]`` with a loss, a metric and a decoding of one's own.

    Loss, metric and decoding are given by class path, or as classes and functions at the top of a module, so that the
    files of a network can name them. Targets are what the loss takes; of them only that they are a tensor with one
    entry for each input is checked.

    Args:
        loss: A ``torch.nn.Module`` class, or a function of outputs and targets that gives a scalar.
        metric: A ``torchmetrics.Metric`` class; it gets decoded outputs, and targets.
        direction: ``"max"`` or ``"min"``; by default what the metric declares.
        decode: A function from outputs to predictions; by default they are the same.
        loss_args: Arguments of a loss that is a class.
        metric_args: Arguments of the metric; ``num_classes``, ``num_labels`` and ``num_outputs`` come by themselves.

    Raises:
        ValueError: If something cannot be built, a metric has no direction, or a file could not name it.

    Example:
        >>> import torch
        >>> metric = "torchmetrics.regression.PearsonCorrCoef"
        >>> task = CustomTask("torch.nn.HuberLoss", metric, direction="max", decode="torch.squeeze")
        >>> task.metric_name, task.direction
        ('PearsonCorrCoef', 'max')
    """

    name = "custom"

    def __init__(
        self,
        loss: str | Function,
        metric: str | Function,
        *,
        direction: Literal["max", "min"] | None = None,
        decode: str | Function | None = None,
        loss_args: Mapping[str, Any] | None = None,
        metric_args: Mapping[str, Any] | None = None,
    ) -> None:
        loss, metric = path_of(loss, "loss"), path_of(metric, "metric")
        decode = None if decode is None else path_of(decode, "decode")
        super().__init__(locals())
        self._loss, self._loss_args = loss, dict(loss_args or {})
        self._metric, self._metric_args = metric, dict(metric_args or {})
        self._decode = as_they_are if decode is None else resolved(decode, "decode")
        self.criterion()  # raises where it cannot be built
        self._direction = direction_of(self.metric(2), direction, metric)

    @property
    def metric_name(self) -> str:
        return self._metric.rpartition(".")[2]

    @property
    def direction(self) -> Direction:
        return self._direction

    def criterion(self, *, label_smoothing: float = 0.0) -> nn.Module:
        self.check_label_smoothing(label_smoothing)
        found = resolved(self._loss, "loss")
        if not isinstance(found, type):
            if self._loss_args:
                raise ValueError(f"loss_args are of a loss that is a class; {self._loss!r} is a function.")
            return FunctionLoss(found)
        if not issubclass(found, nn.Module):
            raise ValueError(f"loss must name a class of torch.nn.Module or a function; got {self._loss!r}.")
        try:
            return found(**self._loss_args)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"loss {self._loss!r} must be built with {self._loss_args}, and cannot: {error}."
            ) from error

    def metric(self, outputs: int, *, sync: bool = True) -> Metric:
        from .metrics import built_metric

        self.check_outputs(outputs)
        sizes = dict.fromkeys(("num_classes", "num_labels", "num_outputs"), outputs)
        sizes = {name: size for name, size in sizes.items() if name not in self._metric_args}
        return built_metric(self._metric, self._metric_args, sizes, sync=sync)

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return self.decode(outputs), targets

    def decode(self, outputs: Tensor) -> Tensor:
        decoded: Tensor = self._decode(outputs)
        return decoded

    def check_targets(
        self, targets: Tensor, outputs: int, *, count: int | None = None, places: Places = (), values: bool = True
    ) -> None:
        check_count(targets, count)
        if not targets.dim() or not len(targets):
            raise ValueError(f"Targets must have one entry for each input; got shape {list(targets.shape)}.")
        if values and targets.is_floating_point() and not torch.isfinite(targets).all():
            raise ValueError("Targets must be finite; a batch has NaN or infinity.")
