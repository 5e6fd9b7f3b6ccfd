"""Samples of any data set: what they must be, their batches, and the strata of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from oneshot.random_numbers import own_random_numbers

BINS = 10  # strata of numbers that are predicted: tenths of the samples, by their order


class SampleStream(Dataset[Any]):
    """Batches of the samples of any data set. A sampler's draws seed the random numbers of their augmentation.

    Args:
        dataset: Its samples are pairs of inputs and targets.
        collate: Makes a batch of a list of samples.
    """

    def __init__(self, dataset: Dataset[Any], collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, item: int | tuple[int, int]) -> Any:
        """One sample: the first of a batch of one."""
        return tuple(
            {name: values[0] for name, values in part.items()} if isinstance(part, Mapping) else part[0]
            for part in self.__getitems__([item])
        )

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> Any:
        """A batch of plain indices, or of the ``(index, draw)`` pairs of `ShuffleSampler`.

        Raises:
            ValueError: If the inputs of the samples have several shapes, and ``collate`` cannot join them.
        """
        pairs = [item if isinstance(item, tuple) else (item, item) for item in items]
        with own_random_numbers(pairs[0][1]):
            samples = [self.dataset[index] for index, _ in pairs]
            try:
                return self.collate(samples)
            except (RuntimeError, ValueError, TypeError, KeyError) as error:
                check_same(samples, [_place(self.dataset, index) for index, _ in pairs], error)
                raise


def _place(dataset: Dataset[Any], index: int) -> int:
    """The index of a sample in the data set that all others are parts of."""
    if not isinstance(dataset, Subset):
        return index
    return _place(dataset.dataset, int(dataset.indices[index]))


def check_same(samples: Sequence[Any], places: Sequence[int], error: Exception | None = None) -> None:
    """Check that samples can be joined to a batch: the same inputs and shapes in all of them.

    Args:
        samples: Pairs of inputs and targets.
        places: Their indices in the data set, for the message.
        error: What has gone wrong.

    Raises:
        ValueError: If two differ, with both shapes and both indices.
    """
    for part, what in enumerate(("inputs", "targets")):
        try:
            found = [shapes_of(sample[part]) for sample in samples]
        except (TypeError, IndexError, KeyError):
            return  # no pairs: that is another error
        for other, place in zip(found, places, strict=True):
            if other != found[0]:
                raise ValueError(
                    f"The {what} of one batch must have one shape; sample {places[0]} has {_told(found[0])}, sample "
                    f"{place} has {_told(other)}. Bring them to one shape in the data set, or give the loader a "
                    "collate_fn that pads them."
                ) from error


def shapes_of(value: Any) -> Any:
    """Shape of an input or target: a list; of several by name, ``{name: list}``."""
    if isinstance(value, Mapping):
        return {str(name): shapes_of(part) for name, part in value.items()}
    return list(np.shape(value) if not isinstance(value, Tensor) else value.shape)


def _told(shape: Any) -> str:
    return ", ".join(f"{name} {part}" for name, part in shape.items()) if isinstance(shape, dict) else str(shape)


def check_sample(sample: Any, name: str, *, classes: int | None = None, task: str | None = None) -> None:
    """Check a sample that torch's ``default_collate`` makes batches of.

    Args:
        sample: Should be a pair of an input, or of several by name, and a target.
        name: What it is a sample of, for messages.
        classes: Number of classes, where the data say it.
        task: Name of the task, where the data say it.

    Raises:
        ValueError: If it is no pair, or a part is no tensor of a type that networks take.
    """
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        several = f" of {len(sample)}" if isinstance(sample, (tuple, list)) else ""
        raise ValueError(
            f"A sample is a pair (x, y) of an input and its label; the first of {name} is a "
            f"{type(sample).__name__}{several}. Several inputs are a mapping of names to tensors as x."
        )
    x, y = sample
    inputs = x if isinstance(x, Mapping) else {"": x}
    if not inputs or not all(isinstance(key, str) for key in inputs):
        raise ValueError(f"Several inputs have names, which are texts; the first sample of {name} has {list(inputs)}.")
    for key, value in inputs.items():
        if not _is_input(value):
            kind = f"a tensor of {value.dtype}" if hasattr(value, "dtype") else f"a {type(value).__name__}"
            what = f"input {key!r} of the first" if key else "the first"
            raise ValueError(
                f"Inputs are tensors of floating point, such as images [C, H, W], or numbers of words, int64; {what} "
                f"of {name} is {kind}. Add a transform, such as torchvision's ToTensor, to the data set."
            )
    if not _is_target(y) or (np.ndim(y) == 0 and _is_float(y) and (classes or 1) > 1 and task in (None, CLASSES)):
        kinds = "whole numbers" if np.ndim(y) == 0 and (classes or 1) > 1 else "numbers, or tensors of numbers"
        raise ValueError(
            f"Labels are the numbers of classes, {kinds}; the first of {name} is {y!r}. To predict a number, say "
            "num_classes=1 and task='regression'."
        )


CLASSES = "classification"


def _is_input(value: Any) -> bool:
    kind = str(getattr(value, "dtype", None)).removeprefix("torch.")
    return isinstance(value, (Tensor, np.ndarray)) and (
        kind.startswith(("float", "bfloat")) or kind in ("int32", "int64")
    )


def _is_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(_is_target(part) for part in value.values())
    if isinstance(value, bool):
        return False
    numbers = isinstance(value, (int, float, np.number))
    return numbers or (isinstance(value, (Tensor, np.ndarray)) and str(value.dtype).startswith(_NUMBERS))


_NUMBERS = ("torch.float", "torch.bfloat", "torch.int", "torch.uint", "torch.bool", "float", "int", "uint", "bool")


def _is_float(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) or "float" in str(getattr(value, "dtype", ""))


def targets_of(dataset: Dataset[Any]) -> Tensor | None:
    """Targets of all samples, ``[N, ...]``, where a data set has them in a list, as those of torchvision have."""
    if isinstance(dataset, Subset):
        targets = targets_of(dataset.dataset)
        return None if targets is None else targets[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    found = getattr(dataset, "targets", None)
    if found is None and len(getattr(dataset, "tensors", ())) == 2:
        found = dataset.tensors[1]  # type: ignore[attr-defined]  # of a TensorDataset
    if found is None:
        return None
    try:
        targets = torch.as_tensor(np.asarray(found) if not isinstance(found, Tensor) else found)
    except (TypeError, ValueError, RuntimeError):
        return None
    return targets if targets.ndim and len(targets) == len(cast(Sized, dataset)) else None


def labels_of(targets: Tensor | None, task: str | None = None) -> Tensor | None:
    """Class labels, int64 ``[N]``, among the targets of a data set; None where they are none.

    Args:
        targets: ``[N, ...]``.
        task: Name of the task, where the data say it: numbers that are predicted may be whole, too.
    """
    if targets is None or targets.ndim != 1 or targets.is_floating_point() or task not in (None, CLASSES):
        return None
    return targets.long()


def strata(targets: Tensor | None, count: int, fraction: float, task: str | None = None) -> Tensor:
    """What a split is stratified by: classes; tenths of a number that is predicted; nothing for all other targets.

    Args:
        targets: ``[N, ...]``, or None.
        count: Number of samples, N.
        fraction: Share of the second part; there are fewer than ten strata where it has fewer samples.
        task: Name of the task, where the data say it.

    Returns:
        int64 ``[N]``. The tenths are of the order of the targets: equal ones stand in the order of the samples.
    """
    labels = labels_of(targets, task)
    if labels is not None:
        return labels
    if targets is None or targets.numel() != count or (targets.dtype == torch.bool):
        return torch.zeros(count, dtype=torch.int64)
    order = torch.argsort(targets.flatten(), stable=True)
    bins = max(1, min(BINS, int(count * min(fraction, 1 - fraction))))
    found = torch.empty(count, dtype=torch.int64)
    found[order] = torch.arange(count) * bins // count
    return found
