"""What the architectures of a space cost, as a result: numbers, JSON, and text for a terminal of any width."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from oneshot.fronts.numbers import short
from oneshot.supernets.json_files import nearest
from oneshot.supernets.space import SubnetConfig

SCHEMA_VERSION = 1
BINS = 40  # of a histogram
LINES = 10  # of a histogram as text
WIDTH = 80  # columns of a text, where nobody says
NARROW = 60  # columns below which a table has a line for each number
ENDS = ("smallest", "centroid", "median", "largest")


@dataclass(frozen=True)
class CostProfile:
    """One cost over a space.

    Args:
        name: Of the cost.
        unit: Of all numbers.
        smallest: Cost of the cheapest architecture.
        centroid: Cost of the architecture in the middle of every choice, see :attr:`SpaceProfile.centroid`.
        median: Median of the sampled architectures.
        largest: Cost of the dearest architecture.
        smallest_config: The cheapest.
        largest_config: The dearest.
        proven: Whether no architecture is cheaper, or dearer; otherwise they are the most extreme that were found.
        edges: Edges of the bins of a histogram of the sampled architectures.
        counts: Architectures in each bin, one fewer than edges.
    """

    name: str
    unit: str
    smallest: float
    centroid: float
    median: float
    largest: float
    smallest_config: SubnetConfig
    largest_config: SubnetConfig
    proven: bool
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def label(self) -> str:
        """Name and unit; the name alone where that is the unit."""
        return self.name if self.unit.lower() in ("", self.name.lower()) else f"{self.name} [{self.unit}]"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        numbers = {end: getattr(self, end) for end in ENDS}
        configs = {"smallest": self.smallest_config.to_dict(), "largest": self.largest_config.to_dict()}
        histogram = {"edges": list(self.edges), "counts": list(self.counts)}
        return {"unit": self.unit, **numbers, "proven": self.proven, "architectures": configs, "histogram": histogram}


@dataclass(frozen=True)
class BoundProfile:
    """What is known of one bound, or of all bounds together.

    Args:
        costs: Names of the costs that are bounded.
        demand: The bounds in words, ``macs <= 3e+08 MACs``.
        limits: The bounds, in the order of ``costs``.
        within: Share of the sampled architectures that keep them.
        nearest: An architecture that keeps them, the nearest of all, or the nearest that was found.
        values: Its costs, in the order of ``costs``.
        reachable: Whether some architecture keeps them; None where none was found, and none is proven to be there.
        sentence: What to say where none is known to keep them: the nearest, and the way out; "" otherwise.
    """

    costs: tuple[str, ...]
    demand: str
    limits: tuple[float, ...]
    within: float
    nearest: SubnetConfig
    values: tuple[float, ...]
    reachable: bool | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        nearest = {"values": dict(zip(self.costs, self.values, strict=True)), "architecture": self.nearest.to_dict()}
        limits = dict(zip(self.costs, self.limits, strict=True))
        reach = {"within": self.within, "reachable": self.reachable, "nearest": nearest}
        return {"at_most": limits, **reach, **({"message": self.sentence} if self.sentence else {})}


@dataclass(frozen=True)
class SpaceProfile:
    """What the architectures of a space cost. As text it is a table with histograms.

    Args:
        space: Name of the space.
        size: Number of architectures in the space, see :attr:`~oneshot.supernets.SearchSpace.size`.
        samples: How many were looked at.
        complete: Whether these are all different networks of the space, once each; otherwise they were drawn by
            :meth:`~oneshot.supernets.SearchSpace.sample_matrix`, as searches draw them.
        fewer: Why there are fewer than usual; "" otherwise.
        seed: Of the draws.
        centroid: The architecture in the middle of every choice, :meth:`~oneshot.supernets.SearchSpace.centroid`.
        costs: One for each cost.
        bounds: One for each bound.
        together: All bounds at once; None where there are fewer than two.
    """

    space: str
    size: int
    samples: int
    complete: bool
    fewer: str
    seed: int
    centroid: SubnetConfig
    costs: tuple[CostProfile, ...]
    bounds: tuple[BoundProfile, ...] = ()
    together: BoundProfile | None = None

    def __getitem__(self, name: str) -> CostProfile:
        for cost in self.costs:
            if cost.name == name:
                return cost
        known = [cost.name for cost in self.costs]
        raise KeyError(f"This profile has the costs {', '.join(known)}, not {name!r}.{nearest(name, known)}")

    @property
    def unreached(self) -> tuple[str, ...]:
        """A sentence for every bound that no architecture is known to keep: the nearest, and the way out."""
        every = [*self.bounds, *([self.together] if self.together else [])]
        return tuple(bound.sentence for bound in every if bound.sentence)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with the schema version."""
        return {
            "schema_version": SCHEMA_VERSION,
            "space": self.space,
            "size": self.size,
            "samples": self.samples,
            "complete": self.complete,
            "seed": self.seed,
            "centroid": self.centroid.to_dict(),
            "costs": {cost.name: cost.to_dict() for cost in self.costs},
            "bounds": {bound.costs[0]: bound.to_dict() for bound in self.bounds},
            "together": None if self.together is None else self.together.to_dict(),
        }

    def __str__(self) -> str:
        return self.text()

    def text(self, width: int = WIDTH) -> str:
        """The profile as text of at most ``width`` columns, at least 40; only names that are longer stand out."""
        parts = [self._head(max(width, 40)), self._table(max(width, 40))]
        parts += [self._histogram(cost, max(width, 40)) for cost in self.costs if cost.largest > cost.smallest]
        if self.bounds:
            parts.append(self._bounds(max(width, 40)))
        return "\n\n".join(parts)

    def _head(self, width: int) -> str:
        number = f"{self.size:,}" if self.size < 10**9 else f"{self.size:.3g}"
        many = f"{number} architecture{'' if self.size == 1 else 's'}"
        looked = f"{self.samples:,} of them drawn at random (seed {self.seed})"
        if self.complete:
            looked = f"all {self.samples:,} different networks were looked at" if self.size > 1 else "which is this one"
        text = f"Space {self.space!r} has {many}; {looked}{f', {self.fewer}' if self.fewer else ''}."
        return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)

    def _table(self, width: int) -> str:
        cells = [[short(getattr(cost, end)) for end in ENDS] for cost in self.costs]
        marks = ["" if cost.proven else " *" for cost in self.costs]
        if width < NARROW:
            lines = []
            for cost, row, mark in zip(self.costs, cells, marks, strict=True):
                lines.append(cost.label)
                lines += [
                    f"  {end:<10}{cell:>12}{mark if end in ('smallest', 'largest') else ''}"
                    for end, cell in zip(ENDS, row, strict=True)
                ]
        else:
            rows = [["cost", *ENDS]]
            for cost, row, mark in zip(self.costs, cells, marks, strict=True):
                rows.append([cost.label, row[0] + mark, row[1], row[2], row[3] + mark])
            lines = columns(rows)
        if any(marks):
            told = "* the most extreme that was found; a more extreme architecture is not ruled out."
            lines += textwrap.wrap(told, width)
        return "\n".join(lines)

    def _histogram(self, cost: CostProfile, width: int) -> str:
        step = len(cost.counts) // LINES
        counts = [sum(cost.counts[i : i + step]) for i in range(0, len(cost.counts), step)]
        edges = [short(edge) for edge in cost.edges[::step]]
        wide = max(map(len, edges))
        room = width - 2 * wide - 13
        lines = [cost.label]
        for low, high, n in zip(edges, edges[1:], counts, strict=False):
            bar = "#" * max(round(room * n / max(counts)), int(n > 0))
            lines.append(f"{low:>{wide}} to {high:>{wide}} {share(n / self.samples):>6} {bar}".rstrip())
        return "\n".join(lines)

    def _bounds(self, width: int) -> str:
        rows = [["bound", "within it", "reachable"]]
        for bound in [*self.bounds, *([self.together] if self.together else [])]:
            name = "all together" if bound is self.together else bound.demand
            answer = {True: "yes", False: "no", None: "none found"}[bound.reachable]
            rows.append([name, share(bound.within), answer])
        lines = columns(rows)
        if max(map(len, lines)) > width:
            lines = [f"{name}: {part} within it; reachable: {answer}" for name, part, answer in rows[1:]]
            lines = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ")]
        for sentence in self.unreached:
            lines += ["", *textwrap.wrap(sentence, width, break_long_words=False, break_on_hyphens=False)]
        return "\n".join(lines)


def share(part: float) -> str:
    """In per cent; what is not 0 or 1 is not shown as such.

    Example:
        >>> share(0.0), share(0.00001), share(0.5), share(0.99999)
        ('0.0%', '<0.1%', '50.0%', '>99.9%')
    """
    if 0 < part < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= part < 1 else f"{part:.1%}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(wide[0]), *(c.rjust(w) for c, w in zip(row[1:], wide[1:]))]) for row in rows]
