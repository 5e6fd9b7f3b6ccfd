"""Tables: rows with columns of numbers and of texts, from arrays or CSV files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oneshot.storage.readers import csv_records, read_table
from oneshot.tasks import task_of

from .arrays import ArrayData, Inputs
from .images import stratified_split
from .listing import some
from .options import LabelledOptions, TableFileOptions, Unpack
from .samples import strata
from .targets import as_array, read_targets
from .verification import tell

Columns = Mapping[str, npt.NDArray[Any]]  # each [N], numbers or texts
MISSING = ("", "na", "n/a", "nan", "null", "none", "?")  # in a CSV file, whatever the case
MOST_CATEGORIES = 100  # of a column of texts; more are names or sentences
FORMULA = "(x - mean) / std, each in float32, per feature"


class TableData(ArrayData):
    """A table: ``TableData.from_csv("houses.csv", target="price")`` or ``TableData(x, y)``.

    A network sees one row as float32 ``[F]``. Columns of numbers are standardised with the mean and deviation of the
    training rows. A column of texts becomes one number, 0 or 1, for each text of the training rows (one-hot, in sorted
    order); a text that does not occur there is all zeros, with a warning. `preprocessing` says it exactly, so that the
    user of an exported network can do the same; :func:`encode_table` does it.

    What the target is, `targets.read_targets` says: texts are classes; numbers are predicted; up to 20 different whole
    numbers may be both, so that ``task`` must say which. Several target columns are several numbers, or, if all values
    are 0 or 1, labels.

    In a file, a column is one of texts if more than 1 cell in 20 is no number; if fewer are none, they are refused.

    Args:
        x: A CSV file with a header (``.csv``, or packed, ``.csv.gz``), or numbers ``[N, F]``, or columns by name, each
            ``[N]``.
        y: Targets of arrays, ``[N]`` or ``[N, K]``.
        target: The column to predict, or several; or its name for messages where ``y`` is given.
        names: Names of the columns of an array.
        leave_out: Columns of a file that are not used, such as the number of a row.
        x_test: Test rows, in the same form; without them, a share of the rows is the test set.
        y_test: Their targets.
        missing: ``"refuse"`` missing values, or ``"fill"`` them: numbers by the mean of the training rows, texts by the
            text ``""``. Missing are NaN, and in files empty cells, NA, N/A, NaN, null, None and ``?``, in any case.
            Missing targets are always refused.
        delimiter: What stands between the cells of a file.
        predict: Rows for ``trainer.predict``, in the form of ``x``; by default those of the test set.
        **options: See `ArrayData`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If two columns have one name, a value is missing (row and column are named) or is no number in a
            column of numbers, a column has too many texts, or the target does not fit the task.

    Example:
        >>> data = TableData({"size": [50, 80, 60, 70], "town": ["A", "B", "A", "B"]}, [1.5, 2.5, 1.7, 2.2])
        >>> data.features, data.input_shape, data.num_classes
        (('size', 'town=A', 'town=B'), (3,), 1)
    """

    def __init__(
        self,
        x: str | Path | Any,
        y: Any = None,
        *,
        target: str | Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        leave_out: Sequence[str] = (),
        x_test: str | Path | Any = None,
        y_test: Any = None,
        missing: Literal["refuse", "fill"] = "refuse",
        delimiter: str = ",",
        task: Any = None,
        num_classes: int | None = None,
        classes: Sequence[str] | None = None,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        predict: str | Path | Any = None,
        **options: Unpack[LabelledOptions],
    ) -> None:
        if missing not in ("refuse", "fill"):
            raise ValueError(f"missing must be 'refuse' or 'fill'; got {missing!r}.")
        if names is not None and isinstance(x, str | Path | Mapping):
            raise ValueError(
                "names are of the columns of an array; a file and a mapping have names of their own, so leave names "
                f"out; got {list(names)}."
            )
        self.missing, self.delimiter, self._names = missing, delimiter, None if names is None else tuple(names)
        self._unused = (*leave_out, *([target] if isinstance(target, str) else target or ()))
        text, shown = isinstance(x, (str, Path)), tuple[str, ...]()
        if text:
            if y is not None or y_test is not None:
                raise ValueError(
                    "Of a file, target names the column to predict, in x_test too; y must be left out, and y_test, "
                    f"with {str(x)!r}."
                )
            x, y, shown = self._of_file(x, target, leave_out)
            if x_test is not None:
                x_test, y_test, _ = self._of_file(x_test, target, leave_out)
            classes = shown if classes is None and y.ndim == 2 else classes
        columns = self._columns(x, "x")
        held = None if x_test is None else self._columns(x_test, "x_test")
        name = f"target {target!r}" if isinstance(target, str) else "y"
        found = read_targets(
            y,
            y_test,
            task=None if task is None else task_of(task).name,
            num_classes=num_classes,
            classes=classes,
            text=text,
            name=name,
        )
        named = found.classes
        if text and named is None and found.outputs == len(shown):
            named = shown  # numbers are called as their columns
        if missing == "refuse":
            _check_gaps(columns)
            _check_gaps(held or {})
        train, held, y, y_test = _split(columns, held, found.values, found.held, found.task, test_fraction, split_seed)
        self.columns = _fitted(train, missing)
        super().__init__(
            self._encoded(train),
            y,
            x_test=self._encoded(held),
            y_test=y_test,
            task=found.task if task is None else task,
            num_classes=found.outputs,
            classes=named,
            predict=None if predict is None else self._encoded(self._rows(predict)),
            **options,
        )

    @classmethod
    def from_csv(cls, path: str | Path, target: str | Sequence[str], **options: Unpack[TableFileOptions]) -> TableData:
        """The table of a CSV file; see the class."""
        return cls(path, target=target, **options)

    def _of_file(self, path: Any, target: Any, leave_out: Sequence[str]) -> tuple[Columns, Any, tuple[str, ...]]:
        targets = [target] if isinstance(target, str) else list(target or ())
        if not targets:
            raise ValueError(f"target must name the column of {path} to predict.")
        columns = read_csv(path, delimiter=self.delimiter)
        for name in (*targets, *leave_out):
            if name not in columns:
                raise ValueError(f"{path} has no column {name!r}; its columns are {some(list(columns), 20)}.")
        parts = [_whole(columns[name], name) for name in targets]
        if len({part.dtype.kind for part in parts}) > 1 or (len(parts) > 1 and parts[0].dtype.kind == "U"):
            raise ValueError(f"Several targets must be numbers; {targets} of {path} are not all.")
        inputs = {name: column for name, column in columns.items() if name not in (*targets, *leave_out)}
        return inputs, parts[0] if len(parts) == 1 else np.stack(parts, axis=1), tuple(targets)

    def _columns(self, x: Any, name: str) -> Columns:
        """Columns of an array, or of a mapping.

        Raises:
            ValueError: If two have one name, or they differ in length.
        """
        if not isinstance(x, Mapping):
            array = as_array(x, name)
            if array.ndim != 2:
                raise ValueError(
                    f"{name} must be rows of numbers, [N, F], or columns by name; got {list(array.shape)}."
                )
            names = self._names or tuple(f"x{number}" for number in range(array.shape[1]))
            if len(names) != array.shape[1]:
                raise ValueError(f"names must be one for each of {array.shape[1]} columns; got {len(names)}.")
            if twice := [one for one in names if names.count(one) > 1]:
                raise ValueError(f"Columns must have different names; {twice[0]!r} comes twice.")
            x = dict(zip(names, array.T, strict=True))
        columns = {str(key): as_array(column, f"column {key!r}") for key, column in x.items()}
        if len({column.shape for column in columns.values()}) != 1 or next(iter(columns.values())).ndim != 1:
            shapes = {key: list(column.shape) for key, column in columns.items()}
            raise ValueError(f"Columns must be [N], at least one and all of one length; got {shapes}.")
        return columns

    def _rows(self, given: Any) -> Columns:
        """Rows to predict."""
        if not isinstance(given, (str, Path)):
            return self._columns(given, "predict")
        columns = read_csv(given, delimiter=self.delimiter)
        return {name: column for name, column in columns.items() if name not in self._unused}

    def _encoded(self, columns: Columns) -> npt.NDArray[np.float32]:
        return encode_table({"columns": self.columns}, columns, standardise=False)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of what a network sees: columns of numbers, and ``column=text``."""
        return tuple(name for column in self.columns for name in _features(column))

    def read(self, x: Any, name: str) -> Inputs:
        """float32 ``[N, F]``."""
        return torch.from_numpy(x)

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of columns of numbers in the training rows; 0 and 1 of texts; ``[F]``."""
        rows = self.train_set.inputs
        assert isinstance(rows, Tensor)
        std, mean = torch.std_mean(rows.double(), dim=0, correction=0)
        numbers = torch.tensor([c["kind"] == "number" for c in self.columns for _ in _features(c)])
        if flat := [name for name, one, spread in zip(self.features, numbers, std, strict=True) if one and spread == 0]:
            tell(f"Columns with one value in all training rows say nothing: {some(flat)}. They are 0.")
        return torch.where(numbers, mean, 0.0).float(), torch.where(numbers & (std > 0), std, 1.0).float()

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How a row becomes what a network sees, for manifests; :func:`encode_table` takes it."""
        mean, std = (part.tolist() for part in self.scale)
        return {
            "source": "table",
            "columns": self.columns,
            "features": list(self.features),
            "dtype": "float32",
            "layout": "NF",
            "normalisation": {"mean": mean, "std": std, "formula": FORMULA},
            "steps": [
                "features in order: a column of numbers as it is, 'fill' where it is missing; of a column of texts one "
                "number for each of its 'categories', 1 for the text of the row and 0 for the others",
                f"x = {FORMULA}",
            ],
        }


def _features(column: Mapping[str, Any]) -> list[str]:
    if column["kind"] == "number":
        return [str(column["name"])]
    return [f"{column['name']}={category}" for category in column["categories"]]


def _split(
    train: Columns,
    held: Columns | None,
    y: Tensor,
    y_test: Tensor | None,
    task: str,
    fraction: float,
    seed: int,
) -> tuple[Columns, Columns, Tensor, Tensor]:
    """Training and test rows with their targets; a share of all where there are no test rows."""
    count = len(next(iter(train.values())))
    if count != len(y):
        raise ValueError(f"Every row has a target; there are {count} rows and {len(y)} targets.")
    if held is not None:
        rows = len(next(iter(held.values())))
        if y_test is None or rows != len(y_test):
            targets = 0 if y_test is None else len(y_test)
            raise ValueError(f"Every test row has a target; there are {rows} rows and {targets} targets.")
        return train, held, y, y_test
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must be strictly between 0 and 1; got {fraction}.")
    first, second = stratified_split(strata(y, count, fraction, task), fraction, seed=seed)
    parts = [{name: column[part.numpy()] for name, column in train.items()} for part in (first, second)]
    return parts[0], parts[1], y[first], y[second]


def _check_gaps(columns: Columns) -> None:
    """Refuse missing values.

    Raises:
        ValueError: If there are some, naming the first.
    """
    for name, column in columns.items():
        if (gaps := _gaps(column)).any():
            raise ValueError(
                f"Column {name!r} has no value in row {_row_of(gaps)}{_more(gaps)}, the first row being 1. Use "
                "missing='fill', or leave the rows out."
            )


def _fitted(columns: Columns, missing: str) -> list[dict[str, Any]]:
    """What is known of the columns of training rows, JSON-able.

    Raises:
        ValueError: If a column has too many texts, or no value at all.
    """
    found: list[dict[str, Any]] = []
    for name, column in columns.items():
        gaps = _gaps(column)
        if column.dtype.kind == "U":
            categories = sorted({"" if gap else str(value) for value, gap in zip(column, gaps, strict=True)})
            if len(categories) > MOST_CATEGORIES:
                raise ValueError(
                    f"A column of texts must have at most {MOST_CATEGORIES} different ones; {name!r} has "
                    f"{len(categories)}, such as {str(column[0])!r}. Leave it out: leave_out=[{name!r}]."
                )
            gap = "" if missing == "fill" else None
            found.append({"name": name, "kind": "category", "categories": categories, "fill": gap})
            continue
        if gaps.all():
            raise ValueError(f"Column {name!r} has no value in any training row. Leave it out: leave_out=[{name!r}].")
        fill = float(column[~gaps].astype(np.float64).mean()) if missing == "fill" else None
        found.append({"name": name, "kind": "number", "fill": fill})
    return found


def _gaps(column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which values are missing, ``[N]``."""
    if column.dtype.kind == "U":
        return np.asarray([str(value).strip().lower() in MISSING for value in column])
    return np.asarray(~np.isfinite(column.astype(np.float64)))


def _row_of(gaps: npt.NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(gaps)[0]) + 1


def _more(gaps: npt.NDArray[np.bool_]) -> str:
    return f" and in {int(gaps.sum()) - 1} more" if gaps.sum() > 1 else ""


def _whole(column: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """A target column without missing values."""
    if (gaps := _gaps(column)).any():
        raise ValueError(f"Every row must have a target; column {name!r} has none in row {_row_of(gaps)}{_more(gaps)}.")
    return column


def read_csv(path: str | Path, *, delimiter: str = ",") -> dict[str, npt.NDArray[Any]]:
    """Columns of a CSV file: float64 ``[N]`` where all cells are numbers or missing (then NaN), and texts elsewhere.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no CSV with a header, or two columns have one name.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"A table is read from a CSV file; there is no file {str(path)!r}.")
    header, records = csv_records(read_table(path), str(path), delimiter=delimiter)
    if not records:
        raise ValueError(f"{path} must have a header and rows; it has {'a header' if header else 'nothing'} only.")
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in header:
        cells = [record[name].strip() for _, record in records]
        numbers = [_number(cell) for cell in cells]
        wrong = [number is None for number in numbers]
        if sum(wrong) * 20 > len(wrong):
            columns[name] = np.array(cells)
        elif any(wrong):
            at = wrong.index(True)
            raise ValueError(
                f"{path}, line {records[at][0]}: column {name!r} holds numbers, and {cells[at]!r} is none. Correct it, "
                "or make all of them texts."
            )
        else:
            columns[name] = np.array(numbers, dtype=np.float64)
    return columns


def _number(cell: str) -> float | None:
    """The number in a cell, NaN if it is missing, None if it is a text."""
    if cell.lower() in MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None


def encode_table(
    preprocessing: Mapping[str, Any], rows: Mapping[str, Any], *, standardise: bool = True
) -> npt.NDArray[np.float32]:
    """Rows of a table as a network sees them, float32 ``[N, F]``, by the ``preprocessing`` of a manifest.

    Args:
        preprocessing: See :attr:`TableData.preprocessing`.
        rows: Columns by name, each ``[N]``; others than those of the table are not used.
        standardise: Whether numbers are standardised.

    Raises:
        ValueError: If a column or a value is missing, or a number is a text.

    Example:
        >>> data = TableData({"size": [50.0, 80.0, 60.0, 70.0]}, [1.5, 2.5, 1.7, 2.2])
        >>> encode_table(data.preprocessing, {"size": [65.0]}).shape
        (1, 1)
    """
    parts: list[npt.NDArray[np.float32]] = []
    for column in preprocessing["columns"]:
        name = column["name"]
        if name not in rows:
            raise ValueError(f"Rows must have a column {name!r}; they have {some(list(rows), 20)}.")
        values = as_array(rows[name], f"column {name!r}")
        gaps = _gaps(values)
        if column["kind"] == "category":
            parts.append(_one_hot(values, gaps, column))
            continue
        if values.dtype.kind == "U" and not gaps.all():
            raise ValueError(f"Column {name!r} holds numbers; {str(values[~gaps][0])!r} is none.")
        if gaps.any() and column["fill"] is None:
            raise ValueError(f"Column {name!r} has no value in row {_row_of(gaps)}{_more(gaps)}.")
        numbers = np.full(len(values), column["fill"], np.float64) if gaps.any() else values.astype(np.float64)
        if gaps.any():
            numbers[~gaps] = values[~gaps].astype(np.float64)
        parts.append(numbers.astype(np.float32)[:, None])
    x = np.concatenate(parts, axis=1)
    if standardise:
        scale = preprocessing["normalisation"]
        mean, std = (np.array(scale[name], dtype=np.float32) for name in ("mean", "std"))
        x = ((x - mean) / std).astype(np.float32)
    return x


def _one_hot(
    values: npt.NDArray[Any], gaps: npt.NDArray[np.bool_], column: Mapping[str, Any]
) -> npt.NDArray[np.float32]:
    texts = ["" if gap else str(value) for value, gap in zip(values, gaps, strict=True)]
    categories = list(column["categories"])
    if gaps.any() and column["fill"] is None:
        raise ValueError(f"Column {column['name']!r} has no value in row {_row_of(gaps)}{_more(gaps)}.")
    if new := sorted(set(texts) - set(categories)):
        tell(f"Column {column['name']!r} has texts that no training row has, which are all zeros: {some(new)}.")
    return np.asarray(np.array(texts)[:, None] == np.array(categories)[None], dtype=np.float32)
