"""Optimisers and schedules that users give as callables, groups of parameters, and how a loop steps a schedule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
"""What builds an optimiser of parameters, or of groups of parameters, such as ``partial(AdamW, lr=1e-3)``."""

ScheduleFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]
"""What builds the schedule of an optimiser, such as ``partial(StepLR, step_size=30)``."""


def parameter_groups(module: nn.Module, *, decay_norms: bool = True) -> list[Any]:
    """The trained parameters of a module, for an optimiser; frozen ones (``requires_grad=False``) are left out.

    Args:
        module: Any module.
        decay_norms: Whether all parameters decay. If not, they are two groups, and these are in the second, which has a
            weight decay of 0: parameters of one dimension or none (scales and shifts of normalisations, biases), the
            tables of ``nn.Embedding``, and what a module names in a method ``no_weight_decay()``, as timm's do.

    Returns:
        Parameters, or groups of them.

    Raises:
        ValueError: If there is nothing to train.
    """
    named = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    if not named:
        raise ValueError(
            f"There must be weights to train; all parameters of {type(module).__name__} are frozen. Call "
            "requires_grad_(True) on some of them."
        )
    if decay_norms:
        return list(named.values())
    exempt = {name for name, weight in named.items() if weight.dim() < 2}
    for prefix, part in module.named_modules():
        names = {"weight"} if isinstance(part, nn.Embedding) else set[str]()
        if callable(listed := getattr(part, "no_weight_decay", None)):
            names |= set(listed())
        exempt |= {f"{prefix}.{name}".lstrip(".") for name in names}
    groups: list[dict[str, Any]] = [
        {"params": [weight for name, weight in named.items() if name not in exempt]},
        {"params": [weight for name, weight in named.items() if name in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(factory: OptimizerFactory, parameters: Iterable[Any], argument: str) -> Optimizer:
    """Call a factory that a user gave.

    Args:
        factory: The factory.
        parameters: What it is called with.
        argument: Name of the argument it was given as.

    Raises:
        ValueError: If it returns no optimiser, or one whose steps need the loss again.
    """
    optimizer: object = factory(parameters) if callable(factory) else None  # type: ignore[redundant-expr]  # or not
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"{argument} must be a callable that builds an optimiser of the parameters it is given, such as "
            f"functools.partial(torch.optim.AdamW, lr=1e-3); got {factory!r}."
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{argument} must build an optimiser that steps by gradients alone; {type(optimizer).__name__} computes "
            "the loss again within a step. Use SGD, AdamW or the like."
        )
    return optimizer


def build_schedule(factory: ScheduleFactory, optimizer: Optimizer, argument: str) -> LRScheduler | ReduceLROnPlateau:
    """Call a factory that a user gave.

    Args:
        factory: The factory.
        optimizer: What it is called with.
        argument: Name of the argument it was given as.

    Raises:
        ValueError: If it returns no schedule.
    """
    schedule: object = factory(optimizer) if callable(factory) else None  # type: ignore[redundant-expr]  # or not
    if not isinstance(schedule, LRScheduler | ReduceLROnPlateau):
        raise ValueError(
            f"{argument} must be a callable that builds a schedule of torch.optim.lr_scheduler for the optimiser it is "
            f"given, such as functools.partial(StepLR, step_size=30); got {factory!r}."
        )
    return schedule


def check_replaced(module: object, by: str, names: Sequence[str]) -> None:
    """Refuse options of an optimiser that another one replaces, unless they are at their defaults.

    Args:
        module: Has the values of the options as attributes; their defaults are in its constructor, or in the one of the
            nearest base class that has them.
        by: The argument that replaces the optimiser.
        names: Options of the optimiser that is replaced.

    Raises:
        ValueError: Naming the first that was changed.
    """
    for name in names:
        default, value = default_of(type(module), name), getattr(module, name)
        if value != default:
            raise ValueError(
                f"{name} is of the optimiser that {by} replaces, and must stay at its default, {default}; got "
                f"{value}. Leave it out, and set it in {by}, whose optimiser has options of its own."
            )


def default_of(kind: type, name: str) -> Any:
    """The default of an argument of a constructor, or of the nearest base class that has the argument.

    Args:
        kind: The class.
        name: The argument.
    """
    for base in kind.__mro__:
        if "__init__" in base.__dict__:
            parameter = inspect.signature(base.__dict__["__init__"]).parameters.get(name)
            if parameter is not None:
                return parameter.default
    raise KeyError(name)


def monitor_of(schedule: object) -> str | None:
    """The metric that a schedule follows; ``None`` if it follows none.

    Raises:
        ValueError: If it follows one that it does not name.
    """
    if not isinstance(schedule, ReduceLROnPlateau):
        return None
    if not (monitor := getattr(schedule, "monitor", None)):
        raise ValueError(
            "ReduceLROnPlateau must name the metric it follows; under manual optimisation Lightning drops 'monitor' of "
            "a dictionary. Use pytorch_lightning.cli.ReduceLROnPlateau(optimizer, monitor='val/loss'), or another "
            "schedule."
        )
    return str(monitor)


def step_schedules(trainer: pl.Trainer, interval: str, number: int) -> None:
    """Step the schedules of one interval, as Lightning does where it optimises automatically.

    Args:
        trainer: Has the schedules.
        interval: ``"step"`` or ``"epoch"``.
        number: Steps, or epochs, that are done.

    Raises:
        ValueError: If the metric that a schedule follows was not logged.
    """
    for config in trainer.lr_scheduler_configs:
        if config.interval != interval or number % config.frequency:
            continue
        schedule: Any = config.scheduler
        monitor, metrics = monitor_of(schedule), trainer.callback_metrics
        if monitor is None:
            schedule.step()
            continue
        if monitor not in metrics:
            raise ValueError(
                f"The metric that a schedule follows must be logged; there is no {monitor!r} in "
                f"{', '.join(sorted(metrics)) or 'an empty list'}. Validate in every epoch, or name another one."
            )
        schedule.step(float(metrics[monitor]))


def plain_name(optimizer: Optimizer) -> str:
    """The class of an optimiser as ``torch.optim`` names it, such as ``AdamW``; others with their module."""
    kind = type(optimizer)
    return kind.__name__ if kind.__module__.startswith("torch.optim") else f"{kind.__module__}.{kind.__name__}"
