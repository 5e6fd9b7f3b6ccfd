"""Arrays in memory as a data module: inputs of any shape, one or several, with targets of any task."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from oneshot.tasks import Regression, task_of

from .base import LabelledData, Split, plain_name
from .images import stratified_split
from .listing import some
from .samples import strata
from .targets import NUMBERS, as_array, read_targets

Inputs: TypeAlias = Tensor | dict[str, Tensor]  # [N, ...]
Stats: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class ArraySet:
    """Samples in memory.

    Args:
        inputs: ``[N, ...]``, or several by name.
        labels: Targets, ``[N, ...]``.
        task: Name of the task, which says how they are split.
    """

    inputs: Inputs
    labels: Tensor
    task: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> ArraySet:
        """The samples at ``indices``, int64 ``[M]``."""
        if isinstance(self.inputs, dict):
            inputs: Inputs = {name: part[indices] for name, part in self.inputs.items()}
        else:
            inputs = self.inputs[indices]
        return ArraySet(inputs, self.labels[indices], self.task)

    def split(self, fraction: float, *, seed: int) -> tuple[ArraySet, ArraySet]:
        """Two parts, stratified by classes, or by tenths of a number that is predicted."""
        first, second = stratified_split(strata(self.labels, len(self), fraction, self.task), fraction, seed=seed)
        return self.subset(first), self.subset(second)

    def fingerprint(self) -> int:
        """Checksum of inputs and targets."""
        checksum = 0
        for part in (*(self.inputs.values() if isinstance(self.inputs, dict) else (self.inputs,)), self.labels):
            checksum = zlib.crc32(part.contiguous().numpy().data, checksum)
        return checksum


class InputAugmentation(Protocol):
    """Changes inputs at random."""

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """``[B, ...]`` of the same shape."""


class ArrayStream(Dataset[tuple[Any, Tensor]]):
    """Batches of an `ArraySet`, standardised and, in training, augmented.

    Args:
        samples: The samples.
        mean: What is subtracted, broadcast to an input; with ``std``, or None.
        std: What is divided by.
        augmentation: None for evaluation.
    """

    def __init__(
        self,
        samples: ArraySet,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        augmentation: InputAugmentation | None = None,
    ) -> None:
        self.samples, self.mean, self.std, self.augmentation = samples, mean, std, augmentation

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Any, Tensor]:
        """One sample."""
        x, y = self.__getitems__([item])
        return {name: part[0] for name, part in x.items()} if isinstance(x, dict) else x[0], y[0]

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> tuple[Any, Tensor]:
        """A batch of plain indices, or of the ``(index, draw)`` pairs of `ShuffleSampler`."""
        pairs = [item if isinstance(item, tuple) else (item, None) for item in items]
        chosen = self.samples.subset(torch.tensor([index for index, _ in pairs]))
        x = chosen.inputs
        if isinstance(x, Tensor):
            if self.mean is not None and self.std is not None:
                x = (x - self.mean) / self.std
            if self.augmentation is not None:
                seed = pairs[0][1]
                if seed is None:  # another sampler, as with Lightning's overfit_batches
                    seed = int(torch.randint(2**62, ()))
                x = self.augmentation(x, torch.Generator().manual_seed(seed))
        return x, chosen.labels


class ArrayData(LabelledData[ArraySet]):
    """Arrays or tensors in memory, of any shape: ``ArrayData(x, y)``.

    Inputs of floating point become float32, whole numbers (words) int64. Several inputs are a mapping from names to
    arrays. What ``y`` may be, and which task it is for, `targets.read_targets` says. Without ``x_test`` a share of the
    samples is the test set, stratified by classes or by tenths of the number that is predicted.

    Args:
        x: ``[N, ...]``, or several by name. Or a file of numpy (``.npz``) with the arrays ``x`` and ``y`` and, if there
            is a test set, ``x_test`` and ``y_test``. Several inputs are ``x/<name>`` there.
        y: Targets, ``[N]``, ``[N, K]``, or whatever the task takes; None if ``x`` is a file.
        x_test: Test samples.
        y_test: Their targets.
        task: The task or its name; None infers it.
        num_classes: Number of classes or outputs; None infers it.
        classes: Names of the classes in the order of their numbers, or of the labels.
        test_fraction: Share of the test set, where there is no ``x_test``.
        split_seed: Which samples these are; leave it alone to compare results.
        predict: Inputs for ``trainer.predict``, as ``x``; by default those of the test set.
        batch_size: Samples in a batch.
        num_workers: Processes that prepare batches; 0 is fastest.
        seed: Order and augmentation of the training stream, and the validation split, depend on it and on nothing else;
            by default the seed of ``pl.seed_everything``, or 0 before it was called.
        val_fraction: Share of the training samples held back for validation; 0 gives no validation stream.
        balanced: Whether the training stream draws every class equally often, with replacement.
        weigh_classes: Whether ``task`` is a classification whose loss weighs classes by inverse frequency.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If arrays do not fit each other or the task, are not finite, or a file is not as above.

    Example:
        >>> import torch
        >>> data = ArrayData(torch.randn(100, 3, 16, 48), torch.arange(100) % 4)
        >>> data.input_shape, data.num_classes, data.task, len(data.train_set), len(data.test_set)
        ((3, 16, 48), 4, 'classification', 80, 20)
    """

    def __init__(
        self,
        x: str | Path | Any,
        y: Any = None,
        *,
        x_test: Any = None,
        y_test: Any = None,
        task: Any = None,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        predict: str | Path | Any = None,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int | None = None,
        val_fraction: float = 0.0,
        balanced: bool | None = None,
        weigh_classes: bool | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            val_fraction=val_fraction,
            balanced=balanced,
            weigh_classes=weigh_classes,
        )
        self.file = Path(x) if isinstance(x, (str, Path)) else None
        if self.file is not None:
            if any(given is not None for given in (y, x_test, y_test)):
                raise ValueError(f"y, x_test and y_test are in the file {self.file}; leave them out.")
            x, y, x_test, y_test = read_arrays(self.file)
        if y is None or (x_test is None) != (y_test is None):
            missing = "y" if y is None else "x_test" if x_test is None else "y_test"
            raise ValueError(f"x and y, and x_test and y_test, belong together; {missing} is missing.")
        name = None if task is None else task_of(task).name
        self.targets = read_targets(y, y_test, task=name, num_classes=num_classes, classes=classes)
        self.num_classes, self.classes = self.targets.outputs, self.targets.classes
        self.task = self.targets.task if task is None else task
        train = self._checked(x, self.targets.values, "x")
        held = None if x_test is None else self._checked(x_test, self.targets.held, "x_test")
        self.sets = held_out(train, held, test_fraction, split_seed)
        self.input_shape: Any = shape_of(train.inputs)
        self._predicted = None if predict is None else self._to_predict(predict)
        for name, part in self.sets.items():
            words = part.inputs
            if isinstance(words, Tensor) and not words.is_floating_point() and int(words.min()) < 0:
                raise ValueError(
                    f"Whole numbers are numbers of words, from 0 on; got {int(words.min())}. Of others take x.float()."
                )
            if shape_of(part.inputs) != self.input_shape:
                raise ValueError(
                    f"Samples must have one shape; x has {self.input_shape}, those of {name} have "
                    f"{shape_of(part.inputs)}."
                )

    def _checked(self, x: Any, y: Tensor | None, name: str) -> ArraySet:
        inputs = self.read(x, name)
        lengths = [len(part) for part in (inputs.values() if isinstance(inputs, dict) else [inputs])]
        if y is None or {*lengths} != {len(y)}:
            raise ValueError(
                f"Every sample has a target; {name} has {some(lengths)} samples, and there are "
                f"{0 if y is None else len(y)} targets."
            )
        return ArraySet(inputs, y, self.targets.task)

    def read(self, x: Any, name: str) -> Inputs:
        """Inputs as tensors, float32 or int64, ``[N, ...]``.

        Args:
            x: An array, or several by name.
            name: What messages call them.

        Raises:
            ValueError: If they are no finite numbers.
        """
        if isinstance(x, Mapping):
            if not x:
                raise ValueError(f"{name} must have at least one input; it is an empty mapping.")
            return {str(key): input_tensor(part, f"{name}[{key!r}]") for key, part in x.items()}
        return input_tensor(x, name)

    def _to_predict(self, x: Any) -> ArraySet:
        if isinstance(x, (str, Path)):
            x = read_arrays(Path(x), targets=False)[0]
        inputs = self.read(x, "predict")
        if shape_of(inputs) != self.input_shape:
            raise ValueError(f"Inputs to predict must have the shape {self.input_shape}; got {shape_of(inputs)}.")
        first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        return ArraySet(inputs, torch.zeros(len(first)), None)

    def load(self, split: Split) -> ArraySet | None:
        """The samples of a split."""
        return self.sets.get(split)

    @property
    def vocabulary(self) -> int | None:
        """Number that all words of the training samples are below; None where inputs are not whole numbers."""
        words = self.sets["train"].inputs
        return int(words.max()) + 1 if isinstance(words, Tensor) and not words.is_floating_point() else None

    @property
    def predict_set(self) -> ArraySet:
        """The inputs given as ``predict``, or the test samples."""
        return self.test_set if self._predicted is None else self._predicted

    @property
    def task(self) -> Any:
        """The task or its name; a regression that was not given in full has mean and deviation of the targets."""
        task = super().task
        return self._regression if isinstance(task, str) and plain_name(task) == NUMBERS else task

    @task.setter
    def task(self, task: Any) -> None:
        self.__dict__["_task"] = task

    @cached_property
    def _regression(self) -> Regression:
        std, mean = torch.std_mean(self.train_set.labels.double(), dim=0, correction=0)
        if flat := (std.reshape(-1) == 0).nonzero().flatten().tolist():
            which = "the target is" if std.dim() == 0 else f"column {flat[0]} of the targets is"
            raise ValueError(
                f"A regression needs targets that differ; {which} {mean.reshape(-1)[flat[0]].item():g} in all training "
                "samples."
            )
        return Regression(mean=mean.reshape(-1).tolist(), std=std.reshape(-1).tolist())

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor] | None:
        """What is subtracted from inputs, and what they are divided by then; None leaves them as they are."""
        return None

    @property
    def augmentation(self) -> InputAugmentation | None:
        """How training inputs are changed at random."""
        return None

    def dataset(self, samples: ArraySet, *, train: bool) -> ArrayStream:
        """Samples as batches, standardised, in training augmented."""
        mean, std = self.scale or (None, None)
        return ArrayStream(samples, mean, std, self.augmentation if train else None)

    @property
    def mean(self) -> Stats | None:
        """What is subtracted from inputs, one number for each channel or feature."""
        return None if self.scale is None else tuple(self.scale[0].flatten().tolist())

    @property
    def std(self) -> Stats | None:
        """What inputs are divided by."""
        return None if self.scale is None else tuple(self.scale[1].flatten().tolist())

    def fingerprint(self) -> dict[str, Any]:
        """Plain values, by name, that decide which batches a training sees."""
        augmented = {} if self.augmentation is None else {"augmentation": repr(self.augmentation)}
        return {**super().fingerprint(), **augmented}


def shape_of(inputs: Inputs) -> Any:
    """Shape of one sample, by name where there are several inputs."""
    if isinstance(inputs, dict):
        return {name: tuple(part.shape[1:]) for name, part in inputs.items()}
    return tuple(inputs.shape[1:])


def input_tensor(values: Any, name: str) -> Tensor:
    """Numbers as float32, whole numbers as int64, ``[N, ...]``.

    Raises:
        ValueError: If they are no finite numbers.
    """
    array = as_array(values, name)
    if array.dtype.kind in "bU" or array.dtype == np.uint8:
        raise ValueError(
            f"{name} must be numbers, or numbers of words in a type such as int64; got {array.dtype}. Of pixels take "
            "x / 255."
        )
    if array.dtype.kind in "iu":
        return torch.from_numpy(np.ascontiguousarray(array.astype(np.int64)))
    tensor = torch.from_numpy(np.ascontiguousarray(array.astype(np.float32)))
    if not tensor.isfinite().all():
        place = (~tensor.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be finite; sample {place[0]} has NaN, infinity or a number too large for float32 at "
            f"{place[1:]}. Fill what is missing, or leave the sample out."
        )
    return tensor


def held_out(train: ArraySet, held: ArraySet | None, fraction: float, seed: int) -> dict[str, ArraySet]:
    """Training and test samples; a share of all where there are no test samples."""
    if held is not None:
        return {"train": train, "test": held}
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must be strictly between 0 and 1; got {fraction}.")
    first, second = train.split(fraction, seed=seed)
    return {"train": first, "test": second}


def read_arrays(path: Path, *, targets: bool = True) -> tuple[Any, Any, Any, Any]:
    """``x``, ``y``, ``x_test`` and ``y_test`` of a file of numpy; what is not there is None.

    ``X``, ``x_train`` and the like mean the same as ``x``. Several inputs are ``x/<name>``.

    Args:
        path: The file, ``.npz``.
        targets: Whether there must be ``y``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no such file, holds Python objects, or lacks an array.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Arrays are read from a file of numpy, .npz; there is no file {str(path)!r}.")
    try:
        with zipfile.ZipFile(path) as entries:
            if (damaged := entries.testzip()) is not None:
                raise ValueError(f"the checksum of {damaged!r} is wrong")
            names = [entry.removesuffix(".npy") for entry in entries.namelist()]
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in names}
    except Exception as error:  # whatever zipfile and numpy raise for a damaged file
        raise ValueError(
            f"{path} must be a file that numpy.savez wrote, without Python objects; {' '.join(str(error).split())}. "
            "Texts are saved as np.array(list, dtype=str)."
        ) from error
    arrays: dict[tuple[str, str], Any] = {}
    for name in names:
        head, _, inner = name.partition("/")
        role = head.lower().replace("_train", "")
        if (role, inner) in arrays:
            raise ValueError(f"An array, or an input, must come once; {path} has two of the name {name!r}: {names}.")
        arrays[role, inner] = found[name]
    several = {role: {inner: value for (r, inner), value in arrays.items() if r == role} for role, _ in arrays}
    given = {role: parts[""] if set(parts) == {""} else parts for role, parts in several.items()}
    if "x" not in given or (targets and "y" not in given):
        missing = "x" if "x" not in given else "y"
        raise ValueError(
            f"{path} must hold arrays x and y, and may hold x_test and y_test; it has no {missing}: {names}."
        )
    return given["x"], given.get("y"), given.get("x_test"), given.get("y_test")
