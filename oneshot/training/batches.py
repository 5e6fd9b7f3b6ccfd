"""Checks of batches: inputs, targets and outputs must fit the network and its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oneshot.inputs import Inputs, as_shape, describe_shape, is_inputs, length, shape_of, tensors
from oneshot.supernets.base import Subnet, Supernet
from oneshot.tasks.task import Task, task_of


def pair_of(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a batch.

    Raises:
        ValueError: If it is no pair.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        several = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise ValueError(
            f"A batch is a pair (x, y) of inputs and labels; got a {type(batch).__name__}{several}. Give the loader a "
            "collate_fn that makes pairs; several inputs are one mapping x from names to tensors."
        )
    return batch[0], batch[1]


def check_batch(network: Supernet | Subnet, x: Any, y: Any, *, first: bool = False) -> None:
    """Check inputs and targets before a network sees them.

    Types and shapes are checked always, which costs nothing. Values of targets are checked always in the CPU's memory,
    and on other devices, which the check waits for, in the first batch of an epoch; in later batches the loss of a
    label that is no class fails on the device.

    Args:
        network: What reads them.
        x: Should be ``[B, *input_shape]``, or a mapping of such.
        y: What the task of the network asks for, see :meth:`~oneshot.tasks.Task.check_targets`.
        first: Whether this is the first batch of an epoch.

    Raises:
        ValueError: If they do not fit, naming what came.
    """
    if not is_inputs(x) or not isinstance(y, Tensor):
        raise ValueError(
            f"A batch is a pair of tensors, inputs and labels; got {type(x).__name__} and {type(y).__name__}. Give the "
            "loader a collate_fn that makes them; several inputs are a mapping from names to tensors."
        )
    check_shape(network, x)
    values = first or y.device.type == "cpu"
    places = places_of(network, x)
    network.task.check_targets(y, network.num_classes, count=length(x), places=places, values=values)


def check_shape(network: Supernet | Subnet, x: Inputs, shape: Any = None) -> None:
    """Check that inputs have the shape a network was built for; texts may have any length.

    Args:
        network: What reads them; a supernet whose space has resolutions checks and resizes images itself.
        x: ``[B, ...]``, or a mapping of such.
        shape: That of one input; by default the network's.

    Raises:
        ValueError: If they have not, naming both shapes.
    """
    needed, given = as_shape(network.input_shape if shape is None else shape), shape_of(x)
    if isinstance(needed, Mapping) or isinstance(given, Mapping):
        if needed != given:
            raise ValueError(
                f"Inputs must have the names and shapes a network was built for; {type(network).__name__} reads "
                f"{describe_shape(needed)}, got {describe_shape(given)}."
            )
        return
    (tensor,) = tensors(x)
    text = not tensor.is_floating_point() and len(needed) == 1 and tensor.dim() == 2
    if isinstance(network, Supernet) and network.has_resolutions and shape is None and tensor.dim() == 4:
        needed = (needed[0], *tensor.shape[2:])
    if given != needed and not text:
        raise ValueError(
            f"Inputs have the shape a network was built for; {type(network).__name__} reads {list(needed)}, got "
            f"{list(given)}. Build the network for these inputs, or have the data brought to its shape: "
            "nothing is resized in silence."
        )


def check_labels(y: Tensor, classes: int, task: Task | str = "classification") -> None:
    """Check targets of a data set: those of inputs whose shape is not known.

    Args:
        y: Targets, ``[N, ...]``; waits for their device.
        classes: Number of outputs.
        task: What they are for.

    Raises:
        ValueError: If they do not fit.
    """
    task_of(task).check_targets(y, classes, places=tuple(y.shape[1:]) if task_of(task).has_classes else ())


def check_logits(logits: Any, network: Supernet | Subnet, x: Inputs) -> None:
    """Check that a network has given the outputs it should.

    Args:
        logits: Should be ``[B, outputs]``, in segmentation ``[B, classes, H, W]``, of texts ``[B, classes, T]``.
        network: Whose they are.
        x: What it has read, ``[B, ...]``, or a mapping of such.

    Raises:
        ValueError: If they are something else.
    """
    task = network.task
    if isinstance(logits, Tensor) and network.num_classes >= task.at_least:
        expected = (length(x), network.num_classes, *places_of(network, x))
        if tuple(logits.shape) == expected:
            return
    else:
        expected = (length(x), max(network.num_classes, task.at_least), *places_of(network, x))
    got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    raise ValueError(
        f"A network must give num_classes outputs, for {task.name} at least {task.at_least}: {list(expected)}; "
        f"{type(network).__name__} with num_classes={network.num_classes} gave {got}. Two classes are two logits; "
        "labels of a multi-label task and numbers of a regression are an output each."
    )


def places_of(network: Supernet | Subnet, x: Inputs) -> tuple[int, ...]:
    """Shape of the places of an input that have a target each, see :meth:`~oneshot.tasks.Task.places`."""
    places = network.task.places(x)
    return places or (tuple(tensors(x)[0].shape[1:]) if network.texts else ())
