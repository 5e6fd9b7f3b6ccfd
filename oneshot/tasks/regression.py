"""Numbers for each input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .task import INTEGERS, Direction, MetricTask, Places, check_count, shape_text

if TYPE_CHECKING:
    from torchmetrics import Metric


LOSSES: dict[str, Callable[[], nn.Module]] = {"mse": nn.MSELoss, "mae": nn.L1Loss, "huber": nn.HuberLoss}
METRICS: dict[str, Direction] = {"r2": "max", "mae": "min", "mse": "min", "rmse": "min"}


class NumberLoss(nn.Module):
    """A loss of numbers in units of the standard deviation.

    Args:
        loss: Of predictions and targets ``[B, K]``.
        mean: See :class:`Regression`.
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, loss: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.inner = loss
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        scaled = (target.to(torch.float32).reshape(input.shape) - self.mean) / self.std
        loss: Tensor = self.inner(input, scaled.to(input.dtype))
        return loss


class Regression(MetricTask):
    """One or several numbers for each input: outputs ``[B, K]``, targets ``[B, K]``, or ``[B]`` where K is 1.

    Networks learn small numbers best: with ``mean`` and ``std`` of the training targets they predict ``(y - mean) /
    std``; metrics and :meth:`decode` are in the units of ``y``.

    Args:
        loss: ``"mse"``, ``"mae"`` or ``"huber"`` (delta 1), of numbers in units of ``std``.
        metric: ``"r2"`` (the share of the variance that is explained), ``"mae"``, ``"mse"``, ``"rmse"``, or the class
            path of one of torchmetrics.
        metric_args: Arguments of the latter.
        direction: ``"max"`` or ``"min"``; by default what the metric declares.
        mean: Mean of the targets: one for all outputs, or one each.
        std: Their standard deviation.

    Raises:
        ValueError: If an option is out of its range, or a metric has no direction.

    Example:
        >>> import torch
        >>> task = Regression("huber", mean=[100.0], std=[10.0])
        >>> task.decode(torch.tensor([[0.5], [-1.0]])), task.direction
        (tensor([[105.],
                [ 90.]]), 'max')
    """

    name = "regression"

    def __init__(
        self,
        loss: Literal["mse", "mae", "huber"] = "mse",
        metric: Literal["r2", "mae", "mse", "rmse"] | str | type[Metric] = "r2",
        *,
        metric_args: Mapping[str, Any] | None = None,
        direction: Literal["max", "min"] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__(locals())
        if loss not in LOSSES:
            raise ValueError(
                f"loss of regression must be one of {', '.join(LOSSES)}; got {loss!r}. CustomTask has any."
            )
        self.mean, self.std = _numbers(mean), _numbers(std)
        if not min(self.std) > 0 or max(*self.std, *map(abs, self.mean), 0.0) == float("inf"):
            raise ValueError(f"mean must be finite and std above 0; got mean={mean!r}, std={std!r}.")
        self._loss = loss
        outputs = max(len(self.mean), len(self.std))
        self._choose(metric, metric_args, direction, METRICS, "regression.SpearmanCorrCoef", outputs)

    def criterion(self, *, label_smoothing: float = 0.0) -> nn.Module:
        self.check_label_smoothing(label_smoothing)
        return NumberLoss(LOSSES[self._loss](), self.mean, self.std)

    def check_outputs(self, outputs: int) -> None:
        super().check_outputs(outputs)
        for name, given in (("mean", self.mean), ("std", self.std)):
            if len(given) not in (1, outputs):
                raise ValueError(
                    f"{name} must be one number, or one for each of {outputs} outputs; got {len(given)}. num_classes "
                    "of a network for regression is how many numbers it predicts."
                )

    def metric(self, outputs: int, *, sync: bool = True) -> Metric:
        self.check_outputs(outputs)
        from .metrics import OF_NUMBERS, built_metric

        if self._by_name:
            return OF_NUMBERS[str(self._metric)](sync_on_compute=sync)
        return built_metric(self._metric, self._metric_args, {"num_outputs": outputs}, sync=sync)

    def metrics(self, outputs: int) -> dict[str, Metric]:
        from .metrics import OF_NUMBERS

        self.check_outputs(outputs)
        found = {name: OF_NUMBERS[name]() for name in ("r2", "mae")}
        return {**found, **({} if self.metric_name in found else super().metrics(outputs))}

    def linear_targets(self, targets: Tensor, outputs: int) -> Tensor:
        """The numbers as the network gives them: standardised by mean and deviation."""
        numbers = targets.double().reshape(len(targets), outputs)
        return (numbers - numbers.new_tensor(self.mean)) / numbers.new_tensor(self.std)

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        predicted = self.decode(outputs.float())
        targets = targets.to(predicted.dtype).reshape(predicted.shape)
        return (predicted.squeeze(1), targets.squeeze(1)) if predicted.shape[1] == 1 else (predicted, targets)

    def decode(self, outputs: Tensor) -> Tensor:
        """Predictions ``[B, K]`` in the units of the targets."""
        return outputs * outputs.new_tensor(self.std) + outputs.new_tensor(self.mean)

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss with the teacher's predictions as targets; a scalar."""
        loss: Tensor = LOSSES[self._loss]()(student, teacher.detach())
        return loss

    def check_targets(
        self, targets: Tensor, outputs: int, *, count: int | None = None, places: Places = (), values: bool = True
    ) -> None:
        check_count(targets, count)
        shapes = [(outputs,), ()] if outputs == 1 else [(outputs,)]
        fits = targets.is_floating_point() or targets.dtype in INTEGERS
        if tuple(targets.shape[1:]) not in shapes or not targets.dim() or not fits or not len(targets):
            said = " or ".join(shape_text(shape) for shape in shapes)
            raise ValueError(
                f"Targets of a regression must be numbers, {said} for a network of {outputs} outputs; got "
                f"{targets.dtype} of shape {list(targets.shape)}. num_classes is how many numbers a network predicts."
            )
        if values and targets.is_floating_point() and not targets.isfinite().all():
            row = int((~targets.isfinite()).flatten(1).any(1).nonzero()[0]) if targets.dim() > 1 else 0
            row = row if targets.dim() > 1 else int((~targets.isfinite()).nonzero()[0])
            raise ValueError(f"Targets of a regression must be finite; sample {row} of a batch has NaN or infinity.")


def _numbers(given: float | Sequence[float]) -> tuple[float, ...]:
    return (float(given),) if isinstance(given, int | float) else tuple(float(value) for value in given)
