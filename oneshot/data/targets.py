"""Targets given as arrays or texts: which task they are for, their classes, and their values as a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .listing import some

FEW = 20  # from this many different whole numbers on, a column of numbers is not taken for classes
CLASSES, LABELS, NUMBERS = "classification", "multilabel", "regression"


@dataclass(frozen=True)
class Targets:
    """Targets as networks are trained on them.

    Attributes:
        values: Of the training samples, ``[N, ...]``.
        held: Of the test samples, if there are some.
        task: Name of the task.
        outputs: Number of classes, labels, or numbers that are predicted.
        classes: Names of classes or labels.
    """

    values: Tensor
    held: Tensor | None
    task: str
    outputs: int
    classes: tuple[str, ...] | None


def read_targets(
    y: Any,
    held: Any = None,
    *,
    task: str | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    text: bool = False,
    name: str = "y",
) -> Targets:
    """Targets of a task, which is inferred where it is not given.

    * Texts, yes and no, and whole numbers ``[N]`` are classes. They are numbered in the order of ``classes``; by
      default as sorted. Whole numbers from 0 to K - 1 stay what they are.
    * Other numbers ``[N]`` are predicted (regression). ``[N, K]`` are K numbers, or, if all are 0 or 1, K labels.
    * What may be both is refused until ``task`` is given: up to 20 different whole numbers of a type for fractions or
      from a text, and rows of which exactly one number is 1.

    Args:
        y: Of the training samples, ``[N]`` or ``[N, K]``.
        held: Of the test samples.
        task: Name of the task.
        num_classes: Number of classes; numbers from 0 on then stay what they are, even if some do not occur.
        classes: Names of the classes in the order of their numbers, or of the labels.
        text: Whether the numbers come from a text, which says nothing of their type.
        name: What messages call them.

    Raises:
        ValueError: If they do not fit the task, the task cannot be told, or a test sample has a new class.
    """
    array = as_array(y, name)
    other = None if held is None else as_array(held, f"{name} of the test samples")
    if array.ndim == 2 and array.shape[1] == 1:
        array, other = array[:, 0], other if other is None or other.ndim == 1 else other[:, 0]
    if other is not None and other.shape[1:] != array.shape[1:]:
        raise ValueError(
            f"{name} must have one shape in training and test; got {list(array.shape)} and {list(other.shape)}."
        )
    task = task or _inferred(array, name, text=text)
    if task == CLASSES and array.ndim == 1:
        return _classes(array, other, num_classes, classes, name)
    if task == CLASSES and array.ndim == 2 and array.dtype.kind != "f":
        raise ValueError(f"{name} must be one class for each sample, [N]; got {list(array.shape)}. Take y.argmax(1).")
    values, tests = _numbers(array, name), None if other is None else _numbers(other, f"{name} of the test samples")
    if task == LABELS:
        for part in (values, tests):
            if part is not None and (part.ndim != 2 or not ((part == 0) | (part == 1)).all()):
                raise ValueError(f"{name} must be 0 or 1 for every label, [N, K]; got {list(array.shape)} with others.")
    elif task == NUMBERS:
        if array.ndim > 2:
            raise ValueError(f"{name} must be one number for each sample, [N], or K, [N, K]; got {list(array.shape)}.")
    elif task != CLASSES:  # segmentation, and tasks of users: as they are
        whole = array.dtype.kind in "iub"
        outputs = num_classes or (len(classes) if classes else None)
        if outputs is None:
            raise ValueError(f"num_classes, the number of outputs, must be given for task {task!r}.")
        if whole:
            values, tests = values.long(), None if tests is None else tests.long()
        return Targets(values, tests, task, outputs, None if classes is None else tuple(classes))
    outputs = 1 if array.ndim == 1 else array.shape[1]
    if num_classes not in (None, outputs):
        raise ValueError(f"{name} of shape {list(array.shape)} has {outputs} outputs; num_classes is {num_classes}.")
    if classes is not None and len(classes) != outputs:
        raise ValueError(f"classes must name the {outputs} columns of {name}; got {len(classes)}: {list(classes)}.")
    return Targets(values, tests, task, outputs, None if classes is None else tuple(classes))


def as_array(values: Any, name: str) -> npt.NDArray[Any]:
    """An array of numbers or texts.

    Raises:
        ValueError: If it is none, or has no samples.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of numbers or texts; {error}.") from error
    if array.dtype.kind == "O" and array.ndim:
        kinds = {type(value).__name__ for value in array.flat}
        if kinds == {"str"}:
            array = array.astype(str)
        else:
            raise ValueError(f"{name} must be an array of numbers or of texts; got {some(sorted(kinds))}.")
    if array.dtype.kind not in "biufUS" or not array.ndim or not len(array):
        raise ValueError(
            f"{name} must be an array of numbers or texts with one entry for each sample, at least one; got "
            f"{array.dtype} of shape {list(array.shape)}."
        )
    return array.astype(str) if array.dtype.kind == "S" else array


def _inferred(array: npt.NDArray[Any], name: str, *, text: bool) -> str:
    kind = array.dtype.kind
    if array.ndim == 1:
        if kind in "bU" or (kind in "iu" and not text):
            return CLASSES
        different = np.unique(array)
        if (different == np.round(different)).all() and len(different) <= FEW:
            raise ValueError(
                f"{name} holds {len(different)} different whole numbers: are they classes, or numbers to predict? Say "
                f"task={CLASSES!r} or task={NUMBERS!r}."
            )
        return NUMBERS
    binary = kind == "b" or (kind != "U" and bool(np.isin(array, (0, 1)).all()))
    if array.ndim == 2 and binary and not (array.sum(1) == 1).all():
        return LABELS
    if array.ndim == 2 and kind == "f" and not binary:
        return NUMBERS
    what = "rows with exactly one 1" if binary else "several values for each sample"
    raise ValueError(
        f"{name} of shape {list(array.shape)} has {what}: say task={LABELS!r}, {NUMBERS!r} or another one. Of one-hot "
        "classes take y.argmax(1)."
    )


def _numbers(array: npt.NDArray[Any], name: str) -> Tensor:
    if array.dtype.kind == "U":
        raise ValueError(f"{name} must be numbers; got texts such as {str(array.flat[0])!r}.")
    values = torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))
    if not values.isfinite().all():
        row = int((~values.isfinite()).reshape(len(values), -1).any(1).nonzero()[0])
        raise ValueError(f"{name} must be finite; sample {row} has NaN, infinity or a number too large for float32.")
    return values


def _classes(
    array: npt.NDArray[Any],
    held: npt.NDArray[Any] | None,
    num_classes: int | None,
    classes: Sequence[str] | None,
    name: str,
) -> Targets:
    if array.dtype.kind == "f":
        if not (array == np.round(array)).all():
            wrong = array[array != np.round(array)][0]
            raise ValueError(f"{name} must be classes: texts or whole numbers; got {wrong}. Is it task={NUMBERS!r}?")
        array, held = array.astype(np.int64), None if held is None else held.astype(np.int64)
    if num_classes is not None and array.dtype.kind in "iu":
        values = [None if part is None else torch.from_numpy(part.astype(np.int64)) for part in (array, held)]
        for part in values:
            if part is not None and (part.min() < 0 or part.max() >= num_classes):
                wrong = int(part.min() if part.min() < 0 else part.max())
                raise ValueError(
                    f"{name} must be from 0 to {num_classes - 1} with num_classes={num_classes}; got {wrong}."
                )
        names = tuple(classes) if classes is not None else tuple(map(str, range(num_classes)))
        if len(names) != num_classes:
            raise ValueError(f"classes must be {num_classes} names; got {len(names)}.")
        return Targets(values[0], values[1], CLASSES, num_classes, names)  # type: ignore[arg-type]  # y is not None
    found = np.unique(array)
    texts = [str(value) for value in found]
    order = list(classes) if classes is not None else texts
    if len(set(order)) < len(order):
        raise ValueError(f"Names of classes must differ; got {order}.")
    named = classes is not None and set(texts) - set(order)
    if named and array.dtype.kind in "iu" and found.min() >= 0 and found.max() < len(order):
        return _classes(array, held, len(order), classes, name)  # numbers, with names
    if len(order) < 2 or named:
        what = f"{some(sorted(named))} is not among {some(order)}" if named else f"all samples are {some(order)}"
        raise ValueError(f"{name} must hold at least two classes, all of them named: {what}.")
    if num_classes not in (None, len(order)):
        raise ValueError(f"{name} holds {len(order)} classes; num_classes is {num_classes}. Leave it out.")
    index = {text: number for number, text in enumerate(order)}
    if held is not None and (new := sorted({str(value) for value in np.unique(held)} - index.keys())):
        raise ValueError(f"Every class of the test samples must be among those of the training; {some(new)} is not.")
    values = [None if part is None else torch.tensor([index[str(v)] for v in part]) for part in (array, held)]
    return Targets(values[0], values[1], CLASSES, len(order), tuple(order))  # type: ignore[arg-type]  # y is not None
