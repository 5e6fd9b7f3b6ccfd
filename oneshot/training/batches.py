"""Checks of batches: inputs, labels and logits must fit the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneshot.supernets.base import Subnet, Supernet, Task

from .tasks import IGNORED

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def pair_of(batch: Any) -> tuple[Any, Any]:
    """Inputs and labels of a batch.

    Raises:
        ValueError: If it is no pair.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        several = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise ValueError(
            f"A batch is a pair (x, y) of inputs and labels; got a {type(batch).__name__}{several}. Give the loader a "
            "collate_fn that makes pairs."
        )
    return batch[0], batch[1]


def check_batch(network: Supernet | Subnet, x: Any, y: Any, *, first: bool = False) -> None:
    """Check inputs and labels before a network sees them.

    Types and shapes are checked always, which costs nothing. Values of labels are checked always in the CPU's memory,
    and on other devices, which the check waits for, in the first batch of an epoch; in later batches the loss of a
    label that is no class fails on the device.

    Args:
        network: What reads them.
        x: Should be ``[B, *input_shape]``.
        y: Should be ``[B]``, in segmentation ``[B, H, W]``, for a model of language ``[B, T]``.
        first: Whether this is the first batch of an epoch.

    Raises:
        ValueError: If they do not fit, naming what came.
    """
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise ValueError(
            f"A batch is a pair of tensors, inputs and labels; got {type(x).__name__} and {type(y).__name__}. Give the "
            "loader a collate_fn that makes them."
        )
    check_shape(network, x)
    expected = (len(x), *_places(network, x))
    if tuple(y.shape) != expected or y.dtype not in INTEGERS or not len(y):
        raise _no_labels(y, expected, network.task)
    if first or y.device.type == "cpu":
        check_labels(y, network.num_classes, network.task)


def check_shape(network: Supernet | Subnet, x: Tensor, shape: Sequence[int] | None = None) -> None:
    """Check that inputs have the shape a network was built for; texts may have any length.

    Args:
        network: What reads them; a supernet whose space has resolutions checks and resizes images itself.
        x: ``[B, ...]``.
        shape: That of one input; by default the network's.

    Raises:
        ValueError: If they have not, naming both shapes.
    """
    needed = tuple(network.input_shape if shape is None else shape)
    text = not x.is_floating_point() and len(needed) == 1 and x.dim() == 2
    if isinstance(network, Supernet) and network.has_resolutions and shape is None and x.dim() == 4:
        needed = (needed[0], *x.shape[2:])
    if tuple(x.shape[1:]) != needed and not text:
        raise ValueError(
            f"Inputs have the shape a network was built for; {type(network).__name__} reads {list(needed)}, got "
            f"{list(x.shape[1:])}. Build the network for these inputs, or have the data brought to its shape: "
            "nothing is resized in silence."
        )


def check_labels(y: Tensor, classes: int, task: Task = "classification") -> None:
    """Check that labels are numbers of classes.

    Args:
        y: Labels of images ``[B]``, of pixels ``[B, H, W]`` or words ``[B, T]``; waits for their device.
        classes: Number of classes.
        task: In segmentation pixels may be ``IGNORED``.

    Raises:
        ValueError: If they are no whole numbers, or are not below ``classes``.
    """
    if y.dtype not in INTEGERS:
        raise _no_labels(y, None, task)
    known = y[y != IGNORED] if task == "segmentation" else y
    if not known.numel():
        return
    least, most = (int(value) for value in torch.aminmax(known))
    if least < 0 or most >= classes:
        wrong = least if least < 0 else most
        ignored = f", or {IGNORED} for pixels of none" if task == "segmentation" else ""
        raise ValueError(
            f"Labels are numbers of classes, from 0 to {classes - 1} as the network has {classes}{ignored}; got "
            f"{wrong}. Number the classes anew from 0, or build the network with num_classes={max(most, 0) + 1}."
        )


def check_logits(logits: Any, network: Supernet | Subnet, x: Tensor) -> None:
    """Check that a network has given one logit a class.

    Args:
        logits: Should be ``[B, classes]``, in segmentation ``[B, classes, H, W]``, of texts ``[B, classes, T]``.
        network: Whose they are.
        x: What it has read, ``[B, ...]``.

    Raises:
        ValueError: If they are something else.
    """
    expected = (len(x), network.num_classes, *_places(network, x))
    if network.num_classes < 2 or not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"A network gives one logit for each of its classes, at least two: {list(expected)}; "
            f"{type(network).__name__} with num_classes={network.num_classes} gave {got}. Two classes are two logits, "
            "and num_classes is their number; other tasks than classification are not supported."
        )


def _places(network: Supernet | Subnet, x: Tensor) -> tuple[int, ...]:
    """Shape of the places of an input that have a label each: pixels of an image, words of a text, or ``()``."""
    if network.task == "segmentation":
        return tuple(x.shape[2:])
    return tuple(x.shape[1:]) if network.texts else ()


def _no_labels(y: Tensor, expected: Sequence[int] | None, task: Task) -> ValueError:
    what = {"classification": "a number of a class for every input", "segmentation": "one for every pixel"}[task]
    shape = "" if expected is None else f" of shape {list(expected)}"
    return ValueError(
        f"Labels are whole numbers{shape}, {what}; got {y.dtype} of shape {list(y.shape)}. Of one-hot or soft labels "
        "take y.argmax(1), of a column y.squeeze(1), of numbers like 2.0 y.long(); regression and several labels an "
        "input are not supported."
    )
