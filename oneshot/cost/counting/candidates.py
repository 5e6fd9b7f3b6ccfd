"""Exact cost tables of a supernet's candidates, each of which runs once.

What is counted are the standalone networks that ``supernet.extract(config, inherit=False)`` builds: their batch
normalisation has scales, they have no auxiliary head, and all channels. A few of them hold every candidate in every
place. They run and are taken apart; what an architecture has is put together from the parts, and is what counting its
network gives.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from oneshot.conversion.supernet import ConvertedSupernet
from oneshot.cost.model import AdditiveCost, CostModel
from oneshot.cost.record import Record, describe_supernet, own_random_numbers
from oneshot.inputs import Shape, as_shape, describe_shape
from oneshot.supernets.base import OperationSupernet, Supernet
from oneshot.supernets.elastic import ElasticSupernet
from oneshot.supernets.execution import CellPlan, CellRun, ChainPlan, EqualPlan, WiredPlan, Wiring
from oneshot.supernets.space import Floats, IntMatrix, SubnetConfig

from .converted import count_converted
from .elastic import Counted as Counted
from .elastic import NoTablesError, count_elastic
from .network import Counts, Visit, count, trace
from .peak import PeakCost, Segment, always
from .traced import trace_candidates

UNITS: dict[Counted, str] = {"params": "params", "macs": "MACs", "memory": "bytes"}
LARGEST = 2**22  # entries of a table over the edges of a node


def count_candidates(supernet: Supernet, what: Counted, *, image_size: int | None = None) -> CostModel:
    """What every architecture has, exactly.

    The cost of a config is what :func:`~oneshot.cost.count` finds in ``supernet.extract(config, inherit=False)``.

    Parameters and MACs are sums over the candidates (:class:`AdditiveCost`), or where channels depend on the wiring, in
    NAS-Bench-1Shot1, one table. Memory, which rises and falls, is put together from the peak and the output of every
    candidate in the order in which the networks run (:class:`PeakCost`). In elastic spaces there is a table for every
    resolution and width (:class:`ConditionalCost`), of converted networks formulas in their widths
    (:class:`PolynomialCost`). In other spaces, and where counts are no such sums, networks
    are counted one by one, and tables found of the genes that act together (:class:`~oneshot.cost.TracedCost`).

    Nothing is drawn from the random numbers of the caller.

    Args:
        supernet: The supernet.
        what: ``"params"``, ``"macs"`` or ``"memory"``, see :class:`~oneshot.cost.Counts`. Memory is that of one image.
        image_size: Height and width of square images; by default the supernet's. Not of elastic spaces, which choose.

    Returns:
        The costs in params, MACs or bytes. They remember the networks that were counted, and are refused for others.

    Raises:
        ValueError: If there is no such count, there are no images of this size, or the nodes of a cell have too many
            combinations of edges for its memory.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> count_candidates(supernet, "memory").cost(supernet.space.sample(0))
        6912.0
    """
    if what not in UNITS:
        raise ValueError(f"What is counted must be one of {', '.join(map(repr, UNITS))}; got {what!r}.")
    shape = as_shape(supernet.input_shape)
    square = len(shape) == 3 and not isinstance(shape, Mapping) and shape[1] == shape[2]
    if image_size is not None and (not square or image_size < 1):
        raise ValueError(
            f"image_size must be the height and width of square images, at least 1; got {image_size} for inputs of "
            f"shape {describe_shape(shape)}. Leave it out to count at the shape of the supernet."
        )
    if supernet.has_resolutions and image_size is not None:
        raise ValueError(
            f"The resolution is a choice of space {supernet.space.name!r}, counted at all of "
            f"{supernet.space['resolution'].candidates}; got image_size={image_size}. Leave it out."
        )
    if image_size is not None and not isinstance(shape, Mapping):
        shape = (shape[0], image_size, image_size)
    try:
        with own_random_numbers(supernet):
            found = _by_tables(supernet, what, shape)
    except NoTablesError as error:
        found = None
        if told := str(error):
            rank_zero_info(
                f"There is no formula for the {what} of space {supernet.space.name!r}, so its networks are built and "
                f"counted one by one: {told}."
            )
    if found is None:
        found = trace_candidates(supernet, what, UNITS[what], shape=None if image_size is None else shape)
    if what != "params" and not supernet.has_resolutions:
        found.input_shape = shape
        found.image_size = shape[-1] if square and not isinstance(shape, Mapping) else None
    found.record = _record(supernet, what, shape)
    return found


def _by_tables(supernet: Supernet, what: Counted, shape: Shape) -> CostModel | None:
    """Costs by what is known of a space; None where nothing is."""
    if isinstance(supernet, ElasticSupernet):
        return count_elastic(supernet, what, UNITS[what])
    if isinstance(supernet, ConvertedSupernet):
        return count_converted(supernet, what, UNITS[what], shape)
    return _count(supernet, what, shape) if isinstance(supernet, OperationSupernet) else None


def _record(supernet: Supernet, what: Counted, shape: Shape) -> Record:
    """The networks that were counted; parameters are the same for images of all sizes."""
    found = describe_supernet(supernet, input_shape=None if supernet.has_resolutions else shape)
    if what == "params":
        found = {name: value for name, value in found.items() if name not in ("input_shape", "macs")}
        found["arguments"] = {name: value for name, value in found["arguments"].items() if name != "image_size"}
    return Record(found)


def _count(supernet: OperationSupernet, what: Counted, shape: Shape) -> CostModel | None:
    plan = supernet.execution_plan(supernet.extract(supernet.space.sample(0), inherit=False))
    if isinstance(plan, EqualPlan):
        return _equal(supernet, plan, what, shape)
    if isinstance(plan, WiredPlan):
        return _wired(supernet, plan, what, shape)
    if what != "memory":
        return _additive(supernet, what, shape)
    if isinstance(plan, ChainPlan):
        return _chain_memory(supernet, shape)
    if isinstance(plan, CellPlan):
        return _cell_memory(supernet, shape)
    return None  # how it adds up follows from the order in which a network runs, which is not known


# Taking networks apart.


@dataclass(frozen=True)
class _Part:
    """One module of a network.

    Args:
        params: Its parameters.
        visit: What it did.
    """

    params: int
    visit: Visit

    @property
    def peak(self) -> int:
        """Bytes it needs beside those there were."""
        return self.visit.peak - self.visit.start

    @property
    def output(self) -> int:
        """Bytes of its output; none where that is its input."""
        return self.visit.end - self.visit.start

    def count(self, what: Counted) -> int:
        return self.params if what == "params" else self.visit.macs


@dataclass(frozen=True)
class _Network:
    """A network that has run, and its parts.

    Args:
        cells: Its cells, where the plan has some.
        genes: Its genes, ``[G]``.
        counts: Of all of it.
        picks: The parts of every gene, one per cell.
        others: These cells, and what they begin with.
        rest: Bytes outside of all these modules.
    """

    cells: tuple[CellRun, ...]
    genes: IntMatrix
    counts: Counts
    picks: list[list[_Part]]
    others: dict[nn.Module, _Part]
    rest: int

    def count(self, what: Counted) -> int:
        return self.counts.params if what == "params" else self.counts.macs


def _run(supernet: OperationSupernet, config: SubnetConfig, shape: Shape) -> _Network:
    """Extract a network and run it on one input of this shape."""
    network = supernet.extract(config, inherit=False)
    picked, plan = supernet.picked_ops(network), supernet.execution_plan(network)
    cells = plan.cells if isinstance(plan, CellPlan | WiredPlan) else ()
    modules = [module for cell in cells for module in (cell.module, *cell.begin)]
    counts, visits, rest = trace(network, shape, [*modules, *itertools.chain(*picked)])
    parts = {m: _Part(sum(p.numel() for p in m.parameters()), visit) for m, visit in visits.items()}
    genes = supernet.space.encode([config])[0]
    return _Network(cells, genes, counts, [[parts[m] for m in row] for row in picked], parts, rest)


def _covering(supernet: OperationSupernet) -> list[SubnetConfig]:
    """Few architectures that hold every pick of every gene."""
    sizes = np.array(supernet.space.gene_sizes)
    return supernet.space.decode(np.arange(sizes.max())[:, None] % sizes)


def _as_choices(supernet: OperationSupernet, rows: Sequence[Floats]) -> dict[str, torch.Tensor]:
    """Costs of every gene's picks as a table ``{choice: [R, O]}``."""
    rest = iter(rows)
    return {
        choice.name: torch.tensor(np.stack([next(rest)[: len(choice.candidates)] for _ in range(choice.rows)]))
        for choice in supernet.space.choices
    }


# Sums.


def _additive(supernet: OperationSupernet, what: Counted, shape: Shape) -> AdditiveCost:
    """Parameters or MACs of a space whose picks are modules of the network."""
    rows = [np.zeros(size) for size in supernet.space.gene_sizes]
    fixed = set()
    for config in _covering(supernet):
        run = _run(supernet, config, shape)
        if not run.picks:
            return _by_differences(supernet, what, shape)
        for row, pick, parts in zip(rows, run.genes, run.picks, strict=True):
            row[pick] = sum(part.count(what) for part in parts)
        fixed.add(run.count(what) - sum(part.count(what) for parts in run.picks for part in parts))
    if len(fixed) > 1:
        raise NoTablesError
    return AdditiveCost(supernet.space, _as_choices(supernet, rows), unit=UNITS[what], fixed=fixed.pop())


def _by_differences(supernet: OperationSupernet, what: Counted, shape: Shape) -> AdditiveCost:
    """The same for a space that doesn't tell its modules: what networks differ by, if that is a sum."""
    space = supernet.space

    def counted(genes: IntMatrix) -> int:
        counts = count(supernet.extract(space.decode(genes[None])[0], inherit=False), shape)
        return counts.params if what == "params" else counts.macs

    first, rows = np.zeros(space.num_genes, dtype=np.int64), [np.zeros(size) for size in space.gene_sizes]
    fixed = counted_first = counted(first)
    free = [len(c.picks) > len(c.candidates) for c in space.choices for _ in range(c.rows)]
    for gene, row in enumerate(rows):
        for pick in range(1, len(row)):
            genes = first.copy()
            genes[gene] = pick
            row[pick] = counted(genes) - counted_first
        least = row[-1] if free[gene] else row.min()  # no cost is negative, and leaving an edge out costs nothing
        fixed, rows[gene] = fixed + int(least), row - least
    model = AdditiveCost(space, _as_choices(supernet, rows), unit=UNITS[what], fixed=fixed)
    for genes in space.sample_matrix(16, 0):
        if model.costs(genes[None])[0] != counted(genes):
            raise NoTablesError
    return model


def _equal(supernet: OperationSupernet, plan: EqualPlan, what: Counted, shape: Shape) -> AdditiveCost:
    """All architectures cost the same."""
    space = supernet.space
    first, *others = (count(supernet.extract(config, inherit=False), shape) for config in plan.extremes)
    if any(other != first for other in others):
        raise ValueError(
            f"All architectures of space {space.name!r} must cost the same, by its execution plan; got {first} and "
            f"{', '.join(map(str, others))}. Report this, or mend the plan."
        )
    table = {c.name: torch.zeros(c.rows, len(c.candidates)) for c in space.choices}
    return AdditiveCost(space, table, unit=UNITS[what], fixed=getattr(first, what))


# Memory.


def _chain_memory(supernet: OperationSupernet, shape: Shape) -> PeakCost:
    """One layer after the other; what is there before a layer doesn't depend on the layers."""
    peaks = [np.zeros(size) for size in supernet.space.gene_sizes]
    floor = 0
    for config in _covering(supernet):
        run = _run(supernet, config, shape)
        for row, pick, (part,) in zip(peaks, run.genes, run.picks, strict=True):
            row[pick] = part.visit.peak
        floor = max(floor, run.rest)
    tracks = [[Segment((gene,), row, np.zeros_like(row))] for gene, row in enumerate(peaks)]
    return PeakCost(supernet.space, tracks, unit="bytes", floor=floor)


def _cell_memory(supernet: OperationSupernet, shape: Shape) -> PeakCost:
    """Cells whose nodes add up what enters them, and keep all states until they end."""
    space = supernet.space
    for node in space.nodes():
        if (size := math.prod(space.gene_sizes[gene] for gene in node)) > LARGEST:
            raise ValueError(
                f"The memory of a node is a table over the picks of all edges that enter it, at most {LARGEST:,} "
                f"combinations; {len(node)} edges of space {space.name!r} have {size:,}. Leave out candidates or nodes."
            )
    runs = [_run(supernet, config, shape) for config in _covering(supernet)]
    first, tracks = runs[0], list[list[Segment]]()
    for cell in first.cells:
        peaks = {gene: np.full(space.gene_sizes[gene], np.nan) for node in cell.nodes for gene in node}
        outputs = {gene: np.zeros_like(row) for gene, row in peaks.items()}
        for run, gene in itertools.product(runs, peaks):
            if run.picks[gene]:
                part = run.picks[gene][cell.place]
                peaks[gene][run.genes[gene]], outputs[gene][run.genes[gene]] = part.peak, part.output
        begun = [first.others[module] for module in cell.begin]
        size = max(row.max() for row in outputs.values()) or begun[-1].output  # all are identities
        level = begun[-1].visit.end if begun else first.others[cell.module].visit.start
        track = [always(max([level, *(part.visit.peak for part in begun)]), level)]
        track += [_node(node, [peaks[g] for g in node], [outputs[g] for g in node], size) for node in cell.nodes]
        tracks.append([*track, always(cell.joined * size)])
    return PeakCost(space, tracks, unit="bytes", floor=max(run.rest for run in runs))


def _node(genes: Sequence[int], peaks: Sequence[Floats], outputs: Sequence[Floats], size: float) -> Segment:
    """A node that adds its terms up one after the other, for all picks of its edges.

    Args:
        genes: Of the edges that enter it, in order.
        peaks: Bytes every pick of an edge needs, ``[P]`` each; NaN where it is no operation.
        outputs: Bytes of its output, none where that is the state it reads.
        size: Bytes of a state.
    """
    shape = tuple(len(row) for row in peaks)
    highest, total, begun = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    for edge, rows in enumerate(zip(peaks, outputs, strict=True)):
        peak, output = (np.expand_dims(row, [axis for axis in range(len(shape)) if axis != edge]) for row in rows)
        runs = ~np.isnan(peak)
        highest = np.where(runs, np.maximum(highest, total + peak), highest)
        highest = np.where(runs & begun, np.maximum(highest, total + output + size), highest)  # while it is added
        total = np.where(runs, np.where(begun, size, output), total)
        begun = begun | runs
    return Segment(tuple(genes), np.where(begun, highest, size), np.where(begun, total, size))  # or it is zeros


# Wired cells: the projection of a cell's input has a part for every node that reads it, and loose ends do not run.


def _wired(supernet: OperationSupernet, plan: WiredPlan, what: Counted, shape: Shape) -> PeakCost:
    """One table over all rows."""
    space, blocks, sizes = supernet.space, plan.blocks, supernet.space.gene_sizes
    wirings = np.array(list(np.ndindex(*sizes[blocks:])))
    configs = space.decode(np.pad(wirings, ((0, 0), (blocks, 0))))
    cells = [plan.wiring(config) for config in configs]

    by_readers: dict[int, _Network] = {}
    for config, cell in zip(configs, cells, strict=True):
        if cell.readers not in by_readers:
            by_readers[cell.readers] = _run(supernet, config, shape)
    whole = next(i for i, cell in enumerate(cells) if len(cell.terms) == blocks)
    picks = [[pick] * blocks + wirings[whole].tolist() for pick in range(sizes[0])]
    runs = [_run(supernet, config, shape) for config in space.decode(picks)]

    table = np.empty((*sizes[:blocks], len(cells)))
    known: dict[Wiring, Floats] = {}
    for column, cell in enumerate(cells):
        if cell not in known:
            first = by_readers[cell.readers]
            if what == "memory":
                known[cell] = _wired_memory(cell, first, runs, blocks)
            else:
                known[cell] = _wired_sum(cell, what, first, runs, blocks)
        table[..., column] = known[cell]
    joint = Segment(tuple(range(len(sizes))), table.reshape(sizes), np.zeros(sizes))
    floor = max(run.rest for run in runs) if what == "memory" else 0
    return PeakCost(space, [[joint]], unit=UNITS[what], floor=floor)


def _along(row: Floats, block: int, blocks: int) -> Floats:
    """``[O]`` as a table over all blocks, which depends on one of them."""
    return np.expand_dims(row, [axis for axis in range(blocks) if axis != block])


def _wired_sum(cell: Wiring, what: Counted, first: _Network, runs: Sequence[_Network], blocks: int) -> Floats:
    """Parameters or MACs of a wiring, for all operations, ``[O, ..., O]``."""
    own = sum(part.count(what) for parts in first.picks for part in parts)
    total = np.full((len(runs),) * blocks, float(first.count(what) - own))
    for block, _ in cell.terms:
        row = np.array([float(sum(part.count(what) for part in run.picks[block])) for run in runs])
        total = total + _along(row, block, total.ndim)
    return total


def _wired_memory(cell: Wiring, first: _Network, runs: Sequence[_Network], blocks: int) -> Floats:
    """Memory of the cells of a wiring, for all operations, ``[O, ..., O]``."""
    highest = np.zeros((len(runs),) * blocks)
    for run_of_cell in first.cells:
        number, projection = run_of_cell.place, first.others[run_of_cell.begin[0]].visit
        size, level = runs[0].picks[0][number].output, projection.end
        highest = np.maximum(highest, projection.peak)
        for block, terms in cell.terms:
            kept = size if terms > 1 else 0  # the sum that the operation reads
            row = np.array([float(run.picks[block][number].peak) for run in runs])
            highest = np.maximum(highest, level + _along(kept + row, block, highest.ndim))
            highest = np.maximum(highest, level + size * min(terms - 1, 2))  # while they are added
            level += size
        highest = np.maximum(highest, level + cell.joined * size)
    return highest
