"""Evaluation by table: metrics of networks that were trained already.

Published benchmarks have loaders, and so has any CSV file with one line for each architecture. What a table holds are
often *test* accuracies: a search that looks them up is scored on what it optimises.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from oneshot.discrete.protocol import Evaluator, ListedSpace, Proposal, can_be_listed, listed
from oneshot.regression.encoding import one_hot
from oneshot.storage.readers import csv_records, read_table
from oneshot.supernets.nasbench201 import NASBench201Space
from oneshot.supernets.nasbenchmacro import DEPTHS, NASBenchMacroSpace
from oneshot.supernets.space import Choice, IntMatrix, SearchSpace, SubnetConfig

Row: TypeAlias = Mapping[str, str]
Column: TypeAlias = str | Callable[[Row], float]
T = TypeVar("T")


class TabularEvaluator(Evaluator):
    """Metrics of architectures that are in a table.

    Args:
        space: The space of the architectures.
        genes: Canonical, distinct, ``[N, G]``.
        metrics: ``{name: [N]}``.
        fidelities: ``{fidelity: {name: [N]}}``, of shorter trainings; without a fidelity, the full ones.
        full: Fidelity of ``metrics``, where there are shorter ones.
        blank: Architectures that the table names without all of their values, ``[M, G]``, canonical. Evaluations of
            them fail.

    Raises:
        ValueError: If architectures are repeated or not canonical, a column has another length or no numbers, or
            there are shorter trainings but none that are full.

    Example:
        >>> from oneshot.supernets import Choice
        >>> space = SearchSpace("toy", (Choice("layer", ("a", "b")),))
        >>> table = TabularEvaluator(space, [[0], [1]], {"accuracy": [90.0, 95.0]})
        >>> table(Proposal(0, SubnetConfig("toy", {"layer": ["b"]})))
        {'accuracy': 95.0}
    """

    def __init__(
        self,
        space: SearchSpace,
        genes: npt.ArrayLike,
        metrics: Mapping[str, npt.ArrayLike],
        *,
        fidelities: Mapping[float, Mapping[str, npt.ArrayLike]] | None = None,
        full: float | None = None,
        blank: npt.ArrayLike = (),
    ) -> None:
        self.space, self.genes = space, space.check_genes(genes).astype(np.int64)
        wrong = np.flatnonzero((space.repair(self.genes) != self.genes).any(1))
        if len(wrong):
            raise ValueError(
                f"Architectures of a table must be canonical; row {wrong[0]} is {self.genes[wrong[0]].tolist()}, the "
                f"canonical form {space.repair(self.genes[wrong[:1]])[0].tolist()}. Keep rows that are canonical."
            )
        self._rows = {row.tobytes(): i for i, row in enumerate(self.genes)}
        self._blank = {row.tobytes() for row in np.asarray(blank, dtype=np.int64)} - self._rows.keys()
        if len(self._rows) < len(self.genes):
            unique, counts = np.unique(self.genes, axis=0, return_counts=True)
            config = space.decode(unique[counts > 1][:1])[0]
            raise ValueError(
                f"A table must have every architecture once; {int((counts > 1).sum())} are repeated, the first is "
                f"'{config}'."
            )
        self.columns = _columns(metrics, len(self.genes))
        self.fidelities = {f: _columns(columns, len(self.genes)) for f, columns in (fidelities or {}).items()}
        if self.fidelities and (full is None or full <= max(self.fidelities)):
            raise ValueError(
                f"full must be the length of full trainings, above that of shorter ones ({max(self.fidelities):g}): "
                f"full=200. Got full={full}."
            )
        self.full = full

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def __len__(self) -> int:
        return len(self.genes)

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        """Metrics of one architecture.

        Raises:
            LookupError: If it, or its fidelity, is not in the table.
        """
        key = self.space.canonical_genes(self.space.genes_of(proposal.config)[None])[0].tobytes()
        row = self._rows.get(key)
        if key in self._blank:
            raise LookupError(f"'{proposal.config}' is in the table without its values")
        if row is None:
            raise LookupError(f"'{proposal.config}' is not in the table of {len(self):,} architectures")
        columns = self.columns
        if proposal.fidelity is not None and proposal.fidelity in self.fidelities:
            columns = self.fidelities[proposal.fidelity]
        elif proposal.fidelity not in (None, self.full):
            known = [*sorted(self.fidelities), *([] if self.full is None else [self.full])]
            there = f"fidelities {', '.join(f'{f:g}' for f in known)}" if known else "one fidelity, without a number"
            raise LookupError(f"the table has {there}, not {proposal.fidelity:g}")
        return {name: float(column[row]) for name, column in columns.items()}

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        space: SearchSpace,
        parse: Callable[[str], SubnetConfig],
        metrics: Mapping[str, Column] | Sequence[str],
        *,
        arch: str = "arch",
        complete: bool = True,
        fidelities: Mapping[float, Mapping[str, Column]] | None = None,
        full: float | None = None,
    ) -> TabularEvaluator:
        """Read a CSV file (``.gz`` too) with one line for each architecture.

        Of lines that spell one architecture differently, the canonical spelling counts, or else the first. Lines that
        lack a value are left out, with a warning that counts them; evaluations of their architectures fail.

        Args:
            path: The file, with a header.
            space: The space of the architectures.
            parse: Reads the name of an architecture, such as ``space.from_arch_string``.
            metrics: ``{name: column, or function of the line}``, or names of columns.
            arch: Column of the names.
            complete: Refuse a table that lacks architectures of a space small enough to be listed.
            fidelities: ``{fidelity: metrics}`` of shorter trainings.
            full: Fidelity of ``metrics``, where there are shorter ones.

        Raises:
            ValueError: If there are no lines or none with all values, a column is missing, a cell is no finite number,
                an architecture is repeated or missing, or a name cannot be read; the line is named.
        """
        named = dict(metrics) if isinstance(metrics, Mapping) else {name: name for name in metrics}
        wanted: dict[float | None, Mapping[str, Column]] = {None: named}
        wanted |= {fidelity: columns for fidelity, columns in (fidelities or {}).items()}
        rows: list[IntMatrix] = []
        columns: dict[float | None, dict[str, list[float]]] = {f: {n: [] for n in of} for f, of in wanted.items()}
        lines: dict[bytes, str] = {}
        missing: Counter[str] = Counter()
        lacking: list[IntMatrix] = []
        for where, row in read_lines(Path(path)):
            own = read_cell(where, row, arch, lambda text: space.genes_of(parse(text)))
            if (first := lines.setdefault(own.tobytes(), where)) != where:
                raise ValueError(f"{where} has the architecture of {first.rpartition(', ')[2]} once more; keep one.")
            values = {
                (f, name): value_of(where, row, name, column) for f, of in wanted.items() for name, column in of.items()
            }
            blank = [name for (_, name), value in values.items() if value is None]
            missing.update(blank)
            (lacking if blank else rows).append(own)
            for (fidelity, name), value in values.items():
                if value is not None and not blank:
                    columns[fidelity][name].append(value)
        if not lines:
            raise ValueError(f"{path} has no architectures.")
        say_missing(path, len(lacking), len(lines), missing)
        genes = space.repair(np.array(rows, dtype=np.int64))
        spelled = np.array([(row != own).any() for row, own in zip(rows, genes)])
        order = np.argsort(spelled, kind="stable")  # canonical spellings first
        kept = np.sort(order[np.unique(genes[order], axis=0, return_index=True)[1]])
        found = {f: {name: np.array(column)[kept] for name, column in of.items()} for f, of in columns.items()}
        shorter = {f: of for f, of in found.items() if f is not None}
        without = space.repair(np.array(lacking, dtype=np.int64)) if lacking else ()
        table = cls(space, genes[kept], found[None], fidelities=shorter, full=full, blank=without)
        if complete and can_be_listed(space):
            table.check_complete()
        return table

    def check_complete(self) -> None:
        """Compare with the space.

        Raises:
            ValueError: If architectures are missing.
        """
        every = listed(self.space)
        missing = [row for row in every if row.tobytes() not in self._rows and row.tobytes() not in self._blank]
        if missing:
            raise ValueError(
                f"The table lacks {len(missing):,} of {len(every):,} architectures of {self.space.name!r}, the first "
                f"is '{self.space.decode([missing[0]])[0]}'. Evaluations that meet one fail; complete=False allows it."
            )


def _columns(metrics: Mapping[str, npt.ArrayLike], n: int) -> dict[str, npt.NDArray[np.float64]]:
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in metrics.items()}
    if not columns:
        raise ValueError("A table must have at least one metric; got none.")
    for name, column in columns.items():
        if column.shape != (n,):
            raise ValueError(
                f"Metric {name!r} must have a value for each of {n} architectures; got {list(column.shape)}."
            )
        if not np.isfinite(column).all():
            raise ValueError(f"Metric {name!r} is finite; row {int(np.argmin(np.isfinite(column)))} is not.")
    return columns


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The lines of a table, each with the name of its place."""
    if not path.exists():
        raise ValueError(f"There is no table {path}.")
    for line, row in csv_records(read_table(path), str(path))[1]:
        yield f"{path}, line {line}", row


def read_cell(where: str, row: Row, column: str | Callable[[Row], T], read: Callable[[str], T]) -> T:
    """The value of a column, or of a function of the line; errors name the place."""
    if isinstance(column, str) and column not in row:
        raise ValueError(f"{where} has no column {column!r}; columns are {', '.join(row)}.")
    try:
        return read(row[column]) if isinstance(column, str) else column(row)
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{where}: {error if isinstance(error, ValueError) else repr(error)}") from error


class _Noting(dict[str, str]):
    """A line that notes whether an empty cell was read."""

    blank = False

    def __getitem__(self, column: str) -> str:
        text = super().__getitem__(column)
        self.blank |= not text.strip()
        return text


def value_of(where: str, row: Row, name: str, column: Column) -> float | None:
    """A metric of a line, None if its cell is empty; errors name the place."""
    noting = _Noting(row)
    try:
        value = read_cell(where, noting, column, float)
    except ValueError:
        if noting.blank:
            return None
        raise
    if not math.isfinite(value):
        raise ValueError(f"{where}: metric {name!r} is finite; got {value}.")
    return value


def say_missing(path: str | Path, lacking: int, lines: int, missing: Mapping[str, int]) -> None:
    """Warn of lines without all values; refuse a table that has no other ones."""
    if not lacking:
        return
    counts = ", ".join(f"{name!r} in {count:,}" for name, count in missing.items())
    if lacking == lines:
        raise ValueError(f"{path}: some line must have all metrics; values are missing of {counts} of {lines:,} lines.")
    warnings.warn(
        f"{path}: {lacking:,} of {lines:,} lines are left out, because values are missing ({counts}). A search that "
        "asks for one of these architectures gets a failure.",
        stacklevel=3,
    )


# Spaces of which a table holds only a part, or in which spellings share a network.


@dataclass(frozen=True)
class DistinctMacroSpace(NASBenchMacroSpace):
    """NAS-Bench-Macro's 3,969 distinct networks: behind the first layer of a stage, identities stand last."""

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        start = 0
        for depth in DEPTHS:
            inner = genes[:, start + 1 : start + depth]
            order = (inner == 0).argsort(axis=1, kind="stable")
            genes[:, start + 1 : start + depth] = np.take_along_axis(inner, order, axis=1)
            start += depth
        return genes


@dataclass(frozen=True)
class TableSpace(ListedSpace):
    """The architectures of a table that holds a part of a space; repair takes the nearest, or the first of these.

    What is nearest to an architecture of the table with one gene changed is that architecture again. So a mutation, and
    a neighbour, is the nearest of those that have the changed gene.

    Args:
        rows: Genes of the architectures.
    """

    rows: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        table = np.array(self.rows, dtype=np.int64)
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_one_hot", one_hot(self, table).astype(np.float32).T)
        object.__setattr__(self, "_known", {row.tobytes() for row in table})

    @property
    def size(self) -> int:
        return len(self.rows)

    def listed(self) -> IntMatrix:
        return np.unique(self._table, axis=0)  # type: ignore[attr-defined]

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        known: set[bytes] = self._known  # type: ignore[attr-defined]
        away = np.array([row.tobytes() not in known for row in np.ascontiguousarray(genes)], dtype=bool)
        if away.any():
            same = one_hot(self, genes[away]).astype(np.float32) @ self._one_hot  # type: ignore[attr-defined]
            genes[away] = self._table[same.argmax(1)]  # type: ignore[attr-defined]
        return genes

    def mutate_genes(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        changed = super().mutate_genes(genes, rng)
        near = self._with(changed, int(np.flatnonzero(changed != genes)[0]))
        return genes if near is None else near[rng.integers(len(near))]

    def single_changes(self, genes: IntMatrix) -> IntMatrix:
        rows = [self._with(row, int(np.flatnonzero(row != genes)[0])) for row in super().single_changes(genes)]
        return np.concatenate([genes[None], *(row[:1] for row in rows if row is not None)])

    def _with(self, genes: IntMatrix, gene: int) -> IntMatrix | None:
        """The nearest architectures that have this gene, ``[G] -> [N, G]``."""
        table: IntMatrix = self._table  # type: ignore[attr-defined]
        having = table[table[:, gene] == genes[gene]]
        distance = (having != genes).sum(1)
        return having[distance == distance.min()] if len(having) else None

    def draw_genes(self, n: int, rng: np.random.Generator) -> IntMatrix:
        table: IntMatrix = self._table  # type: ignore[attr-defined]
        return table[rng.integers(len(self.rows), size=n)]


# Published tables.


def nas_bench_201(
    path: str | Path,
    metrics: Mapping[str, Column] | Sequence[str] = ("cifar10_test_accuracy",),
    *,
    fidelities: Mapping[float, Mapping[str, Column]] | None = None,
    full: float | None = None,
) -> TabularEvaluator:
    """NAS-Bench-201 or the topology space of NATS-Bench, from a CSV file with the official architecture strings.

    Of the 15,625 spellings the 10,405 canonical ones are kept (see ``NASBench201Space``).

    Args:
        path: The file; column ``arch`` holds ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``.
        metrics: See :meth:`TabularEvaluator.from_csv`.
        fidelities: Likewise.
        full: Likewise.
    """
    space = NASBench201Space()
    return TabularEvaluator.from_csv(path, space, space.from_arch_string, metrics, fidelities=fidelities, full=full)


def nas_bench_macro(
    path: str | Path, metrics: Mapping[str, Column] | Sequence[str] = ("cifar10_test_accuracy_mean",)
) -> TabularEvaluator:
    """NAS-Bench-Macro from a CSV file with eight digits in column ``arch``; its 3,969 distinct networks.

    Args:
        path: The file.
        metrics: See :meth:`TabularEvaluator.from_csv`.
    """
    space = DistinctMacroSpace()
    return TabularEvaluator.from_csv(path, space, space.from_arch_string, metrics)


def accel_nasbench(
    path: str | Path, metrics: Mapping[str, Column] | Sequence[str] = ("imagenet_val_top1",)
) -> TabularEvaluator:
    """Accel-NASBench's trained networks, from a CSV file: a factorised hierarchical space as MnasNet's.

    Expansion, kernel, number of layers and squeeze-excitation of seven blocks. The table holds some 5,000 architectures
    out of millions; every other one stands for the nearest that it has. Of lines of one architecture, the first counts.
    Lines that lack a metric are left out, with a warning that counts them.

    Args:
        path: The file; columns ``block0_e`` to ``block6_se``.
        metrics: See :meth:`TabularEvaluator.from_csv`.

    Raises:
        ValueError: If a column is missing, or a cell is no number; the line is named.
    """
    lines = list(read_lines(Path(path)))
    names = [f"block{block}_{what}" for block in range(7) for what in ("e", "k", "l", "se")]
    if missing := [name for name in names if name not in (lines[0][1] if lines else {})]:
        raise ValueError(f"{path} has no column {missing[0]!r}; it is no table of Accel-NASBench.")
    wanted = dict(metrics) if isinstance(metrics, Mapping) else {name: name for name in metrics}
    cells = [{name: value_of(*line, name, column) for name, column in wanted.items()} for line in lines]
    blank = Counter(name for found in cells for name, value in found.items() if value is None)
    full = [i for i, found in enumerate(cells) if None not in found.values()]
    say_missing(path, len(lines) - len(full), len(lines), blank)
    values = np.array([[read_cell(*lines[i], name, int) for name in names] for i in full])
    picks, genes = zip(*(np.unique(column, return_inverse=True) for column in values.T))
    distinct, first = np.unique(np.stack(genes, 1), axis=0, return_index=True)
    order = np.argsort(first)
    choices = tuple(Choice(name, tuple(p.tolist())) for name, p in zip(names, picks))
    space = TableSpace("accel_nasbench", choices, rows=tuple(map(tuple, distinct[order].tolist())))
    columns = {name: np.array([cells[full[int(i)]][name] for i in first[order]], np.float64) for name in wanted}
    return TabularEvaluator(space, distinct[order], columns)
