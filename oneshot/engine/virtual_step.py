"""The step that an optimiser is about to take, and its derivative, for searches of second order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from oneshot.functional import Step, adam_step, sgd_step
from oneshot.training.optimizers import plain_name

KINDS = (SGD, Adam, AdamW)


def virtual_step(optimizer: Optimizer, weights: Sequence[Tensor]) -> tuple[float, Step]:
    """What an optimiser would do to weights, without doing it: the largest learning rate of its groups, and its step.

    Args:
        optimizer: SGD, Adam or AdamW of ``torch.optim``; its state is read when the step is called.
        weights: The weights; those that it does not hold stay.

    Returns:
        Both as :func:`~oneshot.functional.unrolled_arch_grad` takes them.

    Raises:
        ValueError: If it is another optimiser, or has an option whose step is not derived here.
    """
    if type(optimizer) not in KINDS:
        raise ValueError(
            "The second order looks through a step of the weights, whose derivative is known for SGD, Adam and AdamW "
            f"of torch.optim; got {plain_name(optimizer)}. Use one of these, or order=1."
        )
    for group in optimizer.param_groups:
        for option in ("amsgrad", "maximize"):
            if group.get(option):
                raise ValueError(
                    f"The second order looks through a step of {plain_name(optimizer)} without {option}; got "
                    f"{option}=True. Turn it off, or use order=1."
                )
    group_of = {weight: group for group in optimizer.param_groups for weight in group["params"]}
    lr = max(float(group["lr"]) for group in optimizer.param_groups) or 1.0

    def step(gradients: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor | float]]:
        updates: list[Tensor] = []
        slopes: list[Tensor | float] = []
        for weight, gradient in zip(weights, gradients, strict=True):
            group = group_of.get(weight)
            if group is None:
                updates.append(torch.zeros_like(weight))
                slopes.append(0.0)
                continue
            update, slope = _step(optimizer, weight, gradient, group)
            share = float(group["lr"]) / lr
            updates.append(update if share == 1 else share * update)
            slopes.append(slope if share == 1 else share * slope)
        return updates, slopes

    return lr, step


def _step(
    optimizer: Optimizer, weight: Tensor, gradient: Tensor, group: Mapping[str, Any]
) -> tuple[Tensor, Tensor | float]:
    state = optimizer.state.get(weight, {})

    def of_state(name: str) -> Tensor | None:
        value = state.get(name)
        return None if value is None else value.to(weight)

    if isinstance(optimizer, SGD):
        return sgd_step(
            weight,
            gradient,
            momentum=group["momentum"],
            dampening=group["dampening"],
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            buffer=of_state("momentum_buffer"),
        )
    return adam_step(
        weight,
        gradient,
        betas=group["betas"],
        eps=group["eps"],
        weight_decay=group["weight_decay"],
        decoupled=isinstance(optimizer, AdamW) or bool(group.get("decoupled_weight_decay")),
        average=of_state("exp_avg"),
        square=of_state("exp_avg_sq"),
        steps=int(state.get("step", 0)),
    )
