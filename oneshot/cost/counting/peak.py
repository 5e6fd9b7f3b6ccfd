"""Costs that are not a sum over the rows: one table for rows that act together, or the peak of a changing level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from oneshot.cost.model import CostModel, chunks
from oneshot.supernets.base import check_edge_weights
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace


@dataclass(frozen=True)
class Segment:
    """How a level changes for a while, as memory does during an operation.

    Args:
        genes: The genes that decide about it, none where it is always the same.
        peak: Highest value minus that at the start, for all picks of these genes, ``[P_1, ..., P_k]``.
        growth: Value at the end minus that at the start, in the same shape.
    """

    genes: tuple[int, ...]
    peak: Floats
    growth: Floats

    def then(self, other: Segment) -> Segment:
        """This segment and another one after it; both of the same genes, or one of none."""
        return Segment(
            self.genes or other.genes,
            np.maximum(self.peak, self.growth + other.peak),
            self.growth + other.growth,
        )


def always(peak: float, growth: float = 0.0) -> Segment:
    """A segment that no gene decides about."""
    return Segment((), np.float64(peak) * np.ones(()), np.float64(growth) * np.ones(()))


class PeakCost(CostModel):
    """The highest level that is reached, as of memory. A cost that is one table over all rows is a special case.

    A track is a list of segments, one after the other from level 0; the cost is the highest peak of all tracks. Two
    segments in a row are one, of peak ``max(p1, g1 + p2)`` and growth ``g1 + g2``: fixed ones are merged into their
    neighbours, and tracks that can never be the highest are left out. Nothing is lost by it.

    The expectation is the highest of the tracks' and segments' expected levels. Where the cost is one table it is
    exact. Of a maximum it is a lower bound (Jensen's inequality), equal to the cost at certainty, and its gradient
    reaches the rows of the one segment that is highest. It takes rows as independent; a row whose weights sum to less
    than 1 leaves its edge out with the rest.

    Args:
        space: The search space.
        tracks: Segments of each track.
        unit: Unit of the cost.
        floor: A level that every architecture reaches.
        image_size: See :class:`~oneshot.cost.CostModel`.

    Raises:
        ValueError: If the shape of a segment is not that of its genes, or a number is not finite.

    Example:
        >>> from oneshot.supernets import Choice, SubnetConfig
        >>> space = SearchSpace("toy", (Choice("layer", ("conv", "skip"), rows=2),))
        >>> rise = [Segment((gene,), np.array([30.0, 0.0]), np.array([10.0, 0.0])) for gene in range(2)]
        >>> memory = PeakCost(space, [rise], unit="bytes", floor=5.0)
        >>> [memory.cost(SubnetConfig("toy", {"layer": picks})) for picks in (["conv", "conv"], ["skip", "skip"])]
        [40.0, 5.0]
    """

    def __init__(
        self,
        space: SearchSpace,
        tracks: Iterable[Sequence[Segment]],
        *,
        unit: str,
        floor: float = 0.0,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        self.space, self.unit, self.image_size = space, unit, image_size
        merged = [_merged(track) for track in tracks]
        for segment in (segment for track in merged for segment in track):
            shape = tuple(space.gene_sizes[gene] for gene in segment.genes)
            for name, table in (("peak", segment.peak), ("growth", segment.growth)):
                if np.shape(table) != shape or not np.isfinite(table).all():
                    raise ValueError(
                        f"A segment of the genes {segment.genes} of space {space.name!r} must have tables of finite "
                        f"numbers with shape {list(shape)}; its {name} has {list(np.shape(table))}, or is not finite."
                    )
        self.floor = max([floor, *(float(track[0].peak) for track in merged if not track[0].genes)])
        self._genes: list[list[tuple[int, ...]]] = []
        for number, track in enumerate(_highest(track for track in merged if track[0].genes)):
            self._genes.append([segment.genes for segment in track])
            for position, segment in enumerate(track):
                for name, table in (("peak", segment.peak), ("growth", segment.growth)):
                    self.register_buffer(f"{name}_{number}_{position}", torch.from_numpy(table), persistent=False)

    def costs(self, genes: IntMatrix) -> Floats:
        tracks = [
            [(key, self._flat(f"peak_{t}_{s}"), self._flat(f"growth_{t}_{s}")) for s, key in enumerate(track)]
            for t, track in enumerate(self._genes)
        ]
        highest = np.full(len(genes), float(self.floor))
        for where, columns in chunks(self.space, genes):
            index = {key: self._index(key, columns) for track in self._genes for key in track}
            best = highest[where]
            for track in tracks:
                level: Floats | float = 0.0
                for position, (key, peak, growth) in enumerate(track):
                    np.maximum(best, level + peak.take(index[key], mode="clip"), out=best)
                    if position + 1 < len(track):
                        level = level + growth.take(index[key], mode="clip")
        return highest

    def _flat(self, name: str) -> Floats:
        table: Floats = self.get_buffer(name).cpu().numpy()
        return table.ravel()

    def _index(self, genes: tuple[int, ...], columns: IntMatrix) -> IntMatrix:
        """Where the picks of some genes are in a flat table, ``[n]``."""
        index: IntMatrix = columns[genes[0]]
        for gene in genes[1:]:
            index = index * self.space.gene_sizes[gene] + columns[gene]
        return index

    @cached_property
    def _starts(self) -> dict[str, int]:
        starts = np.cumsum([0, *(choice.rows for choice in self.space.choices)])
        return {c.name: int(start) for c, start in zip(self.space.choices, starts, strict=False)}

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        check_edge_weights(self.space, weights)
        rows: list[Tensor] = []
        for choice in self.space.choices:
            own = weights[choice.name]
            if len(choice.picks) > len(choice.candidates):  # the last pick leaves the edge out
                own = torch.cat([own, (1 - own.sum(-1, keepdim=True)).clamp_min(0)], -1)
            rows += own.unbind()
        peaks = [torch.full((), float(self.floor)).to(rows[0])]
        for t, track in enumerate(self._genes):
            level = torch.zeros(()).to(rows[0])
            for s, key in enumerate(track):
                own_rows = [rows[gene] for gene in key]
                peaks.append(level + _mean(self.get_buffer(f"peak_{t}_{s}"), own_rows))
                level = level + _mean(self.get_buffer(f"growth_{t}_{s}"), own_rows)
        return torch.stack(peaks).max()


def _mean(table: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Mean of ``[P_1, ..., P_k]`` under independent picks with probabilities ``[P_i]``; scalar."""
    table = table.to(rows[0])
    for row in rows:
        table = row @ table.reshape(len(row), -1)
    return table.reshape(())


def _merged(track: Sequence[Segment]) -> list[Segment]:
    """The same track with no fixed segment, unless all are."""
    merged: list[Segment] = []
    for segment in track:
        if merged and (not segment.genes or merged[-1].genes in ((), segment.genes)):
            merged[-1] = merged[-1].then(segment)
        else:
            merged.append(segment)
    return merged


def _highest(tracks: Iterable[list[Segment]]) -> list[list[Segment]]:
    """The tracks that can be the highest; those of a single table over the same genes as one."""
    single: dict[tuple[int, ...], Segment] = {}
    kept: list[list[Segment]] = []
    for track in tracks:
        if len(track) == 1:
            (own,) = track
            other = single.get(own.genes, own)
            single[own.genes] = Segment(own.genes, np.maximum(own.peak, other.peak), own.growth)
        elif not any(_below(track, other) for other in kept):
            kept = [other for other in kept if not _below(other, track)] + [track]
    return [[segment] for segment in single.values()] + kept


def _below(track: Sequence[Segment], other: Sequence[Segment]) -> bool:
    """Whether a track is never higher than another one."""
    return [s.genes for s in track] == [s.genes for s in other] and all(
        bool((a.peak <= b.peak).all() and (a.growth <= b.growth).all()) for a, b in zip(track, other, strict=True)
    )
