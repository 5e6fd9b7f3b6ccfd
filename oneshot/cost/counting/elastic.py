"""Costs of elastic spaces: one table for each resolution and width, at which a network is a chain of layers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oneshot.cost.model import CostModel, chunks
from oneshot.supernets.base import check_edge_weights
from oneshot.supernets.elastic import RESOLUTION, WIDTH, ElasticArch, ElasticNetwork, ElasticSpace, ElasticSupernet
from oneshot.supernets.space import Floats, IntMatrix

from .network import count, trace

Reduce: TypeAlias = Literal["sum", "max"]
Counted: TypeAlias = Literal["params", "macs", "memory"]


class NoTablesError(Exception):
    """The counts of a space are no sums of what its parts have, so networks are counted one by one."""


class ConditionalCost(CostModel):
    r"""A cost for every block in its layer, resolution and width: added to a fixed one, or the largest of all.

    .. math:: c = f_k + \sum_l t_{k l g_l} \quad \text{or} \quad c = \max(f_k, \max_l t_{k l g_l})

    with k the resolution and the width, l the rows of all stages and g their picks.

    The expectation is over independent rows. That of a sum is exact; of a maximum it is a lower bound (Jensen's
    inequality), equal to the cost at certainty.

    Args:
        space: The space.
        table: t, ``[resolutions, widths, rows of all stages, picks]``; what is left out costs 0.
        fixed: f, ``[resolutions, widths]``.
        unit: Unit of the costs.
        reduce: ``"sum"`` as of parameters, MACs and latencies, or ``"max"`` as of memory.

    Raises:
        ValueError: If a shape is not that of the space, or a cost is negative or not finite.

    Example:
        >>> from oneshot.supernets.elastic import elastic_choices
        >>> space = ElasticSpace("toy", elastic_choices((8, 16), (1.0,), ("small", "large"), (2,)), (1,))
        >>> pixels = np.array([64.0, 256.0]).reshape(2, 1, 1, 1)
        >>> macs = ConditionalCost(space, pixels * [1, 2, 0] * np.ones((2, 1)), np.full((2, 1), 10), unit="MACs")
        >>> macs.cost(space.smallest), macs.cost(space.largest)
        (74.0, 1034.0)
    """

    def __init__(
        self,
        space: ElasticSpace,
        table: npt.ArrayLike,
        fixed: npt.ArrayLike,
        *,
        unit: str,
        reduce: Reduce = "sum",
    ) -> None:
        super().__init__()
        self.space: ElasticSpace = space
        self.unit, self.reduce = unit, reduce
        outer = (len(space[RESOLUTION].candidates), len(space[WIDTH].candidates))
        picks = max(len(stage.picks) for stage in space.stages)
        shape = (*outer, space.num_genes - 2, picks)
        costs, base = np.asarray(table, np.float64), np.asarray(fixed, np.float64)
        if costs.shape != shape or base.shape != outer:
            raise ValueError(
                f"Costs of space {space.name!r} must have the shapes {list(shape)} and, fixed, {list(outer)}; got "
                f"{list(costs.shape)} and {list(base.shape)}."
            )
        if not all((np.isfinite(part) & (part >= 0)).all() for part in (costs, base)):
            raise ValueError(f"Costs must be finite and not negative; those of space {space.name!r} in {unit} are not.")
        self.register_buffer("table", torch.from_numpy(costs.reshape(-1, *shape[2:]).copy()), persistent=False)
        self.register_buffer("fixed", torch.from_numpy(base.ravel().copy()), persistent=False)

    def costs(self, genes: IntMatrix) -> Floats:
        """Costs of many architectures: ``[N, G]`` -> ``[N]``.

        Raises:
            ValueError: If a genome has a hole or lacks first layers.
        """
        table, fixed = self.get_buffer("table").cpu().numpy(), self.get_buffer("fixed").cpu().numpy()
        return gather(self.space, table, fixed, genes, reduce=self.reduce)

    def proven_extremes(self) -> tuple[IntMatrix, IntMatrix]:
        """The best depth and blocks of every stage, at every resolution and width; the best of these."""
        table, fixed = self.get_buffer("table").cpu().numpy(), self.get_buffer("fixed").cpu().numpy()
        found = []
        for sign in (1, -1):
            rows = []
            for outer in range(len(fixed)):
                genes = [np.array(divmod(outer, len(self.space[WIDTH].candidates)))]
                for stage, least, columns in self.space.stage_columns():
                    blocks = sign * table[outer, columns.start - 2 : columns.stop - 2, : len(stage.candidates)]
                    best = sign * blocks.min(1)
                    levels = (np.cumsum if self.reduce == "sum" else np.maximum.accumulate)(best)
                    depth = least + int((sign * levels[least - 1 :]).argmin())
                    genes.append(np.where(np.arange(stage.rows) < depth, blocks.argmin(1), len(stage.candidates)))
                rows.append(np.concatenate(genes))
            costs = sign * self.costs(np.array(rows))
            found.append(rows[int(costs.argmin())])
        return found[0], found[1]

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        return expectation(self.space, self.get_buffer("table"), self.get_buffer("fixed"), weights, reduce=self.reduce)


def gather(space: ElasticSpace, table: Floats, fixed: Floats, genes: IntMatrix, *, reduce: Reduce = "sum") -> Floats:
    """Costs of many architectures, ``[N]``; see :class:`ConditionalCost`.

    Args:
        space: The space.
        table: t, ``[K, L, picks]``.
        fixed: f, ``[K]``.
        genes: ``[N, G]``.
        reduce: See :class:`ConditionalCost`.

    Raises:
        ValueError: If a genome has a hole or lacks first layers.
    """
    widths, picks = len(space[WIDTH].candidates), table.shape[-1]
    rows = np.ascontiguousarray(table.transpose(1, 0, 2)).reshape(table.shape[1], -1)
    combine = np.add if reduce == "sum" else np.maximum
    total = np.empty(len(genes))
    for where, columns in chunks(space, genes):
        space.check_rules(columns.T)
        outer = columns[0] * widths + columns[1]
        part = fixed.take(outer, mode="clip")  # checked already
        outer *= picks
        for row, column in zip(rows, columns[2:], strict=True):
            combine(part, row.take(outer + column, mode="clip"), out=part)
        total[where] = part
    return total


def expectation(
    space: ElasticSpace, table: Tensor, fixed: Tensor, weights: Mapping[str, Tensor], *, reduce: Reduce = "sum"
) -> Tensor:
    """Expected cost under edge weights ``{choice: [R, O]}``; scalar. See :class:`ConditionalCost` and :func:`gather`.

    Raises:
        ValueError: If edge weights have another shape.
    """
    check_edge_weights(space, weights)
    like = weights[RESOLUTION]
    table, fixed = table.to(like), fixed.to(like)
    outer = (like[0][:, None] * weights[WIDTH][0]).flatten()  # [K]
    rows = torch.cat(
        [
            table[:, columns.start - 2 : columns.stop - 2, : len(stage.candidates)].mul(weights[stage.name]).sum(-1)
            for stage, _, columns in space.stage_columns()
        ],
        dim=1,
    )  # [K, L]
    return outer @ (fixed + rows.sum(1) if reduce == "sum" else torch.maximum(fixed, rows.amax(1)))


def count_elastic(supernet: ElasticSupernet, what: Counted, unit: str) -> ConditionalCost:
    """What every architecture of an elastic supernet has, exactly; see :func:`~oneshot.cost.count_candidates`.

    For every width, a few networks hold every block in the first two layers of every stage, and run once at each
    resolution. Further layers are as the second, which the largest and the smallest network confirm.

    Args:
        supernet: The supernet.
        what: What is counted.
        unit: Its unit.

    Raises:
        NoTablesError: If the cost is more than the layers' and a fixed one.
    """
    space = supernet.space
    sizes, widths = space[RESOLUTION].candidates, space[WIDTH].candidates
    most = max(len(stage.candidates) for stage in space.stages)
    table = np.zeros((len(sizes), len(widths), space.num_genes - 2, most + 1))
    fixed = np.zeros((len(sizes), len(widths)))
    for (w, width), pick in itertools.product(enumerate(widths), range(most)):
        picks = [min(pick, len(stage.candidates) - 1) for stage in space.stages]
        depths = [max(least, min(2, stage.rows)) for stage, least in zip(space.stages, space.min_depths, strict=True)]
        parts = zip(space.stages, picks, depths, strict=True)
        blocks = tuple((str(stage.candidates[own]),) * depth for stage, own, depth in parts)
        config = space.config(ElasticArch(int(sizes[-1]), float(width), blocks))
        network = supernet.extract(config, inherit=False)
        for s, size in enumerate(sizes[:1] if what == "params" else sizes):
            shape = supernet.shape_of(space.config(ElasticArch(int(size), float(width), blocks)))
            layers, fixed[s, w] = _layers_and_rest(network, what, shape)
            start = 0
            for own, depth, (stage, _, columns) in zip(picks, depths, space.stage_columns(), strict=True):
                found = layers[start : start + depth]
                rows = [*found, *found[-1:] * (stage.rows - depth)]
                table[s, w, columns.start - 2 : columns.stop - 2, own] = rows
                start += depth
    if what == "params":
        table[1:], fixed[1:] = table[0], fixed[0]
    model = ConditionalCost(space, table, fixed, unit=unit, reduce="max" if what == "memory" else "sum")
    for config in (space.largest, space.smallest):
        network = supernet.extract(config, inherit=False)
        if model.cost(config) != getattr(count(network, network.input_shape), what):
            raise NoTablesError
    return model


def _layers_and_rest(network: ElasticNetwork, what: Counted, shape: tuple[int, ...]) -> tuple[list[int], int]:
    """Costs of all layers, and of what is outside of them."""
    layers = network.layers()
    if what == "params":
        own = [sum(p.numel() for p in layer.parameters()) for layer in layers]
        return own, sum(p.numel() for p in network.parameters()) - sum(own)
    counts, visits, rest = trace(network, shape, layers)
    if what == "memory":
        return [visits[layer].peak for layer in layers], rest
    own = [visits[layer].macs for layer in layers]
    return own, counts.macs - sum(own)
