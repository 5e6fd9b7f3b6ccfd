"""Loss and metric of a task by its name; the tasks themselves are in :mod:`oneshot.tasks`."""

from __future__ import annotations

from torch import nn
from torchmetrics import Metric

from oneshot.tasks.task import IGNORED as IGNORED
from oneshot.tasks.task import Task, task_of


def loss_of(task: Task | str, *, label_smoothing: float = 0.0) -> nn.Module:
    """The loss of a task, see :meth:`~oneshot.tasks.Task.criterion`."""
    return task_of(task).criterion(label_smoothing=label_smoothing)


def metric_of(task: Task | str, classes: int, *, sync: bool = True) -> Metric:
    """The metric of a task, see :meth:`~oneshot.tasks.Task.metric`."""
    return task_of(task).metric(classes, sync=sync)
