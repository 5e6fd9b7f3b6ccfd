"""The base class of tasks."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from oneshot.inputs import Inputs, tensors

if TYPE_CHECKING:
    from torchmetrics import Metric

Places: TypeAlias = tuple[int, ...]
Direction: TypeAlias = Literal["max", "min"]

IGNORED = 255  # the label of pixels that belong to no class, as in PASCAL VOC and Cityscapes
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Task(ABC):
    """What the outputs of a network are for.

    A task is a value: two of one class with the same options are equal, it can be pickled, and its class path and
    options are written into the files of a network. It equals its name, too: ``network.task == "segmentation"``.

    Args:
        options: The arguments of the subclass, by name: ``locals()`` as the first statement of its constructor.

    Attributes:
        name: What files and messages call it, such as ``"classification"``.
        at_least: The least number of outputs.
        has_classes: Whether the outputs are logits of classes that exclude one another, along dimension 1.
        init_args: Its options that are not the defaults, JSON-able.
    """

    name: ClassVar[str] = ""
    at_least: ClassVar[int] = 1
    has_classes: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        defaults = inspect.signature(type(self)).parameters
        self.init_args = {
            name: _plain(value)
            for name, value in (options or {}).items()
            if name in defaults and value != defaults[name].default
        }

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):  # as code reads that was written when a task was a name
            return self.name == other
        return type(self) is type(other) and self.init_args == getattr(other, "init_args", None)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.init_args.items())})"

    # What a task supplies.

    @property
    @abstractmethod
    def metric_name(self) -> str:
        """Name of the metric in logs and files, as in ``val/accuracy``."""

    @property
    @abstractmethod
    def direction(self) -> Direction:
        """Whether the metric is better the larger (``"max"``) or the smaller (``"min"``) it is."""

    @abstractmethod
    def criterion(self, *, label_smoothing: float = 0.0) -> nn.Module:
        """The loss of a training: a module that takes outputs and targets and gives a scalar.

        Args:
            label_smoothing: Share of the target spread evenly over all classes.

        Raises:
            ValueError: If there are no classes to spread it over.
        """

    @abstractmethod
    def metric(self, outputs: int, *, sync: bool = True) -> Metric:
        """A new metric, which takes what :meth:`for_metric` gives.

        Args:
            outputs: Number of outputs of the network: classes, labels, or numbers that are predicted.
            sync: Whether the processes of a distributed fit count together.

        Raises:
            ValueError: If there are too few outputs.
        """

    @abstractmethod
    def decode(self, outputs: Tensor) -> Tensor:
        """Predictions ``[B, ...]`` from outputs ``[B, outputs, ...]``."""

    @abstractmethod
    def check_targets(
        self, targets: Tensor, outputs: int, *, count: int | None = None, places: Places = (), values: bool = True
    ) -> None:
        """Check that targets fit the task.

        Args:
            targets: ``[B, ...]``.
            outputs: Number of outputs of the network.
            count: Number of inputs, if it is known.
            places: Shape of the places of an input that have a target each, see :meth:`places`.
            values: Whether to look at the values, which waits for their device.

        Raises:
            ValueError: If shape, type or range do not fit, saying which.
        """

    # What most tasks share.

    def metrics(self, outputs: int) -> dict[str, Metric]:
        """Metrics that are logged besides the loss of a validation or test; all take what :meth:`for_metric` gives."""
        return {self.metric_name: self.metric(outputs)}

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and targets as the metric takes them."""
        return outputs, targets

    def linear_targets(self, targets: Tensor, outputs: int) -> Tensor | None:
        """Targets as numbers ``[N, outputs]`` that a linear map of features is fitted to by least squares.

        By default None: there is no such map, and the head of a network cannot be fitted in closed form.

        Args:
            targets: ``[N, ...]``.
            outputs: Number of outputs of the network.
        """
        return None

    def places(self, x: Inputs) -> tuple[int, ...]:
        """Shape of the places of an input that have a target each: pixels of an image, words of a text; or ``()``."""
        return ()

    def counted(self, targets: Tensor) -> Tensor:
        """Number of targets that count, a scalar."""
        return torch.tensor(targets.numel(), device=targets.device)

    def distinct(self, targets: Tensor) -> Tensor:
        """The different targets there are; a metric of a single one tells no networks apart."""
        found: Tensor = torch.unique(targets, dim=0)
        return found

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """How far a student's outputs are from a teacher's, for distillation; a scalar, differentiable in the student.

        By default the loss with the teacher's outputs as targets.
        """
        loss: Tensor = self.criterion()(student, teacher.detach())
        return loss

    def as_logits(self, outputs: Tensor) -> Tensor | None:
        """Outputs as logits along dimension 1 of events that exclude one another; ``None`` if they are none."""
        return outputs if self.has_classes else None

    def check_outputs(self, outputs: int) -> None:
        """Check the number of outputs.

        Raises:
            ValueError: If there are too few.
        """
        if outputs < self.at_least:
            raise ValueError(f"A network for {self.name} must have at least {self.at_least} outputs; got {outputs}.")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of outputs and targets, a scalar; :meth:`criterion` makes one that is kept."""
        loss: Tensor = self.criterion().to(outputs.device)(outputs, targets)
        return loss

    def reward(self, value: float) -> float:
        """A value of the metric so that more is better."""
        return value if self.direction == "max" else -value

    def error(self, value: float) -> float:
        """A value of the metric so that less is better: ``1 - value`` of a metric to maximise."""
        return 1 - value if self.direction == "max" else value

    def value_of(self, error: float) -> float:
        """Inverse of :meth:`error`."""
        return 1 - error if self.direction == "max" else error

    @property
    def is_share(self) -> bool:
        """Whether the metric is from 0 to 1 and better the larger it is, so that the error is a share."""
        return self.worst == 0

    @property
    def error_unit(self) -> str:
        """What the error is in: "" for a share, else the metric, such as ``"mae"`` or ``"1 - r2"``."""
        if self.is_share:
            return ""
        return self.metric_name if self.direction == "min" else f"1 - {self.metric_name}"

    @property
    def worst(self) -> float:
        """Value of the metric that stands for a network whose outputs are not finite."""
        return -float("inf") if self.direction == "max" else float("inf")

    def check_label_smoothing(self, label_smoothing: float) -> None:
        """Refuse label smoothing where there are no classes.

        Raises:
            ValueError: If it is not 0.
        """
        if label_smoothing:
            raise ValueError(
                f"label_smoothing spreads a target over classes, and {self.name} has none that exclude one another; it "
                f"must be 0, got {label_smoothing}."
            )

    # Files.

    def to_dict(self) -> dict[str, Any]:
        """Class path and options, JSON-able.

        Raises:
            ValueError: If it could not be built again from a file.
        """
        kind = type(self)
        if kind.__module__ == "__main__" or "." in kind.__qualname__:
            raise ValueError(
                f"The class of a task must be importable to be written into a file; {kind.__module__}."
                f"{kind.__qualname__} is not. Define it at the top of a module."
            )
        ours = kind.__module__.startswith("oneshot.tasks.")
        path = f"oneshot.tasks.{kind.__name__}" if ours else f"{kind.__module__}.{kind.__qualname__}"
        return {"class_path": path, "init_args": dict(self.init_args)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Tensor):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | None) else path_of(value, "An option of a task")


class MetricTask(Task):
    """A task whose metric is chosen by name, or by the class path of one of torchmetrics."""

    def _choose(
        self,
        metric: Any,
        options: Mapping[str, Any] | None,
        direction: Direction | None,
        known: Mapping[str, Direction],
        example: str,
        outputs: int,
    ) -> None:
        """Check and keep the choice of a metric; the last statement of a constructor, because it may build one.

        Args:
            metric: Name or class path.
            options: Arguments of a metric given by class path.
            direction: What the user says of it.
            known: Metrics that have names, and their directions.
            example: A class path, for the message.
            outputs: Of the network that a metric is built for, to ask for its direction.

        Raises:
            ValueError: If there is no such metric, or it has no direction.
        """
        if isinstance(metric, str) and "." not in metric and metric not in known:
            raise ValueError(
                f"metric of {self.name} must be one of {', '.join(known)}, or a class path such as "
                f"torchmetrics.{example}; got {metric!r}."
            )
        self._metric, self._metric_args = metric, dict(options or {})
        self._by_name = isinstance(metric, str) and metric in known
        if self._by_name and self._metric_args:
            raise ValueError(f"metric_args are of a metric given by class path; metric={metric!r} takes none.")
        if self._by_name:
            self._direction = check_direction(known[str(metric)], direction, str(metric))
        else:
            self._direction = direction_of(self.metric(outputs), direction, str(metric))

    @property
    def metric_name(self) -> str:
        return name_of(self._metric)

    @property
    def direction(self) -> Direction:
        return self._direction


BUILT_IN = {
    "classification": "Classification",
    "multilabel": "MultiLabel",
    "regression": "Regression",
    "segmentation": "Segmentation",
    "language": "LanguageModelling",
}


def task_of(given: Any) -> Task:
    """The task of a network or a supernet, or that of a name.

    Args:
        given: A :class:`Task`, the name of a built-in one, or something with such a ``task``.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(given, Task):
        return given
    if isinstance(given, str):
        name = given.lower().replace("-", "").replace("_", "")
        if name not in BUILT_IN:
            raise ValueError(f"task must be a Task, or one of {', '.join(BUILT_IN)}; got {given!r}.")
        kind = getattr(import_module("oneshot.tasks"), BUILT_IN[name])
        task: Task = kind()
        return task
    if isinstance(given, type):
        raise ValueError(f"task must be a Task, not a class; got {given.__name__}. Build one: {given.__name__}().")
    if hasattr(given, "task"):
        return task_of(given.task)
    raise ValueError(f"task must be a Task, or one of {', '.join(BUILT_IN)}; got {type(given).__name__}.")


def resolved(path: Any, what: str) -> Any:
    """What a class path names; anything else stays.

    Raises:
        ValueError: If it names nothing that can be imported.
    """
    if not isinstance(path, str):
        return path
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{what} must be the path of a class or a function; {path!r} is none ({error}).") from error


def path_of(thing: Any, what: str) -> str:
    """The class path of a class or function; a path stays.

    Raises:
        ValueError: If nobody could import it.
    """
    if isinstance(thing, str):
        return thing
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if module is None or name is None or module == "__main__" or "<" in name or "." in name:
        raise ValueError(
            f"{what} must be a class or a function at the top of a module, so that files can name it; got {thing!r}. "
            "Give the class and its arguments, or define a function."
        )
    return f"{module}.{name}"


def direction_of(metric: Metric, given: Direction | None, name: str) -> Direction:
    """The direction of a metric: what was given, or what torchmetrics declares.

    Raises:
        ValueError: If neither says it, or it is neither "max" nor "min".
    """
    if given is not None:
        if given not in ("max", "min"):
            raise ValueError(f"direction must be 'max' or 'min'; got {given!r}.")
        return given
    declared = metric.higher_is_better
    if declared is None:
        raise ValueError(
            f"A metric must have a direction, and {name} declares none; say direction='max' if more is better, else "
            "direction='min'."
        )
    return "max" if declared else "min"


def check_direction(known: Direction, given: Direction | None, name: str) -> Direction:
    """The direction of a built-in metric.

    Raises:
        ValueError: If another one is given.
    """
    if given not in (None, known):
        raise ValueError(f"direction of {name!r} must be {known!r}, or left out; got {given!r}.")
    return known


def name_of(metric: Any) -> str:
    """The short name of a metric: its own, or the last part of its class path."""
    return str(metric if isinstance(metric, str) else metric.__name__).rpartition(".")[2]


def check_count(targets: Tensor, count: int | None) -> None:
    """Check that there is a target for each input.

    Raises:
        ValueError: If there is not.
    """
    if count is not None and (not targets.dim() or len(targets) != count):
        raise ValueError(
            f"A batch must have one target for each of its {count} inputs; got targets of shape {list(targets.shape)}."
        )


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape with B for the batch, such as ``[B, 4]``."""
    return "[" + ", ".join(["B", *map(str, shape)]) + "]"


def spatial(x: Inputs) -> tuple[int, ...]:
    """Height and width of the first input."""
    return tuple(tensors(x)[0].shape[2:])
