"""The archive of a search: architectures that were evaluated, and their objectives."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from oneshot.fronts.evolution import check_canonical, keys
from oneshot.fronts.pareto import non_dominated
from oneshot.storage.files import write_atomically
from oneshot.supernets.json_files import checked
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

SCHEMA_VERSION = 1


class _Saved(TypedDict):
    """An archive as JSON."""

    schema_version: int
    space: dict[str, Any]
    objectives: list[str]
    genes: list[list[int]]
    values: list[list[float | None]]


class Archive:
    """Architectures of a space with their objectives, all minimised, in the order in which they were added.

    Genes are canonical and distinct. An evaluation that failed is a row whose first objective is NaN: it is kept, so
    that it is not tried again, and is in no front.

    Args:
        space: The search space.
        objectives: Names of the objectives, distinct.

    Example:
        >>> from oneshot.supernets import Choice
        >>> archive = Archive(SearchSpace("toy", (Choice("layer", ("a", "b"), rows=2),)), ("error", "MACs"))
        >>> archive.add([[0, 0], [0, 1], [1, 1]], [[9.0, 1.0], [5.0, 2.0], [6.0, 3.0]])
        >>> archive.front()
        array([0, 1])
    """

    def __init__(self, space: SearchSpace, objectives: Sequence[str]) -> None:
        self.space, self.objectives = space, tuple(objectives)
        if not self.objectives or len(set(self.objectives)) != len(self.objectives):
            raise ValueError(
                f"An archive must have objectives with distinct names, at least one; got {self.objectives}."
            )
        self._genes = np.empty((0, space.num_genes), dtype=np.int64)
        self._values = np.empty((0, len(self.objectives)), dtype=np.float64)
        self._rows: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._genes)

    @property
    def genes(self) -> IntMatrix:
        """``[N, G]``, a copy."""
        return self._genes.copy()

    @property
    def values(self) -> Floats:
        """``[N, M]``, a copy."""
        return self._values.copy()

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        """Which evaluations failed, ``[N]``."""
        return np.isnan(self._values[:, 0])

    def rows(self, genes: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Where architectures are, -1 for those that are not here: ``[n, G]`` -> ``[n]``."""
        return np.array([self._rows.get(key, -1) for key in keys(np.asarray(genes))], dtype=np.int64)

    def add(self, genes: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Add evaluated architectures, all or none.

        Args:
            genes: Canonical (``space.repair``) and new, ``[n, G]``.
            values: ``[n, M]``, finite; NaN in the first column says that the evaluation failed.

        Raises:
            ValueError: If genes are not canonical, repeated or already here, or values do not fit; the row is named.
        """
        rows = check_canonical(self.space, genes)
        new = self._check(values, len(rows))
        found = keys(rows)
        for i, key in enumerate(found):
            if key in self._rows or key in found[:i]:
                where = f"row {self._rows[key]} of the archive" if key in self._rows else f"row {found.index(key)}"
                raise ValueError(
                    f"An architecture must be added only once; row {i} is {where}. Replace values with update()."
                )
        self._rows.update((key, len(self) + i) for i, key in enumerate(found))
        self._genes, self._values = np.concatenate([self._genes, rows]), np.concatenate([self._values, new])

    def update(self, values: npt.ArrayLike, rows: npt.ArrayLike | None = None) -> None:
        """Replace values: of the whole archive, ``[N, M]``, or of some rows, ``[n, M]`` and ``[n]``.

        Raises:
            ValueError: If the shape is wrong or a value not finite; then nothing is replaced.
        """
        index = np.arange(len(self)) if rows is None else np.asarray(rows)
        self._values[index] = self._check(values, len(index))

    def front(self) -> npt.NDArray[np.int64]:
        """Rows that no other row dominates, in order; one of architectures with equal values, the first."""
        front = np.flatnonzero(non_dominated(self._values))
        _, first = np.unique(self._values[front], axis=0, return_index=True)
        return front[np.sort(first)].astype(np.int64)

    def _check(self, values: npt.ArrayLike, n: int) -> Floats:
        y = np.array(values, dtype=np.float64)
        if y.shape != (n, len(self.objectives)):
            raise ValueError(
                f"{n} architectures have values [{n}, {len(self.objectives)}] of {', '.join(self.objectives)}; "
                f"got shape {list(y.shape)}."
            )
        bad = ~np.isfinite(y)
        bad[:, 0] &= ~np.isnan(y[:, 0])
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise ValueError(
                f"Objectives must be finite (NaN {self.objectives[0]} says that an evaluation failed); row {row} has "
                f"{self.objectives[column]} = {y[row, column]}."
            )
        return y

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; floats come back bit by bit, None stands for NaN."""
        values = [[None if math.isnan(v) else v for v in row] for row in self._values.tolist()]
        return {
            "schema_version": SCHEMA_VERSION,
            "space": self.space.describe(),
            "objectives": list(self.objectives),
            "genes": self._genes.tolist(),
            "values": values,
        }

    @classmethod
    def from_dict(cls, space: SearchSpace, data: object) -> Archive:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: If it is not an archive, or one of another space.
        """
        if not isinstance(data, Mapping) or not {"schema_version", "space", "objectives", "genes", "values"} <= {*data}:
            raise ValueError(
                "An archive must be a JSON object with schema_version, space, objectives, genes and values."
            )
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"This archive has schema version {data['schema_version']!r}; this release reads {SCHEMA_VERSION}. "
                "Read it with the release that wrote it."
            )
        saved = checked(dict(data), _Saved, "This archive")
        space.check_same(saved["space"], "This archive")
        archive = cls(space, saved["objectives"])
        sizes = {"genes": list(map(len, saved["genes"])), "values": list(map(len, saved["values"]))}
        for what, size in (("genes", space.num_genes), ("values", len(archive.objectives))):
            if wrong := [i for i, found in enumerate(sizes[what]) if found != size]:
                raise ValueError(
                    f"This archive: {what}[{wrong[0]}] must have {size} numbers; it has {sizes[what][wrong[0]]}."
                )
        genes = np.array(saved["genes"], dtype=np.int64).reshape(-1, space.num_genes)
        values = [[math.nan if v is None else v for v in row] for row in saved["values"]]
        archive.add(genes, np.array(values, dtype=np.float64).reshape(-1, len(archive.objectives)))
        return archive

    def write_csv(self, path: str | Path, front: Iterable[int] | None = None) -> Path:
        """One line for each evaluation: its number, the objectives, whether it is in the front, and the picks.

        Args:
            path: The file.
            front: Rows of the front, where it is not :meth:`front`, because there are constraints.
        """
        text, front = io.StringIO(), set(self.front().tolist() if front is None else front)
        names = [f"{c.name}_{row}" if c.rows > 1 else c.name for c in self.space.choices for row in range(c.rows)]
        picks = [c.picks for c in self.space.choices for _ in range(c.rows)]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["number", *self.objectives, "in_front", *names])
        for i, (genes, values) in enumerate(zip(self._genes.tolist(), self._values.tolist(), strict=True)):
            writer.writerow([i, *map(repr, values), int(i in front), *(p[g] for p, g in zip(picks, genes))])
        return write_atomically(path, text.getvalue())
