"""What an architecture costs: for one, for many at once, and as an expectation with gradients."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oneshot.functional import expected_cost
from oneshot.inputs import Shape, as_shape, describe_shape
from oneshot.supernets.base import Supernet
from oneshot.supernets.space import IntMatrix, SearchSpace, SubnetConfig

from .record import Record

CHUNK = 4096  # architectures at a time, so that their genes and sums stay in the cache of a core

MOST_OF_A_GROUP = 2**16  # settings of genes that belong together, which are listed
BASES = 3  # architectures that the other genes are of, to see whether a group depends on them


class CostModel(nn.Module, ABC):
    """The cost of the architectures of a space, in one unit.

    Attributes:
        space: The search space.
        unit: Unit of every number, written out (``"MACs"``, ``"ms"``).
        image_size: Height and width of the square images it holds for; None where that doesn't matter, isn't known, or
            follows from ``input_shape``.
        input_shape: Shape of the inputs it holds for, where it was counted or measured for one.
        record: The networks it was counted or measured for, and the device; None if they are not known.
        doubts: Why its numbers may be wrong, such as the noise of its measurements.
        deviation: Standard deviation of the truth from the model, relative, where that was measured; 0 otherwise.
        slow: Whether every architecture takes milliseconds or more, and not microseconds.
        least: Of learned costs, half of the smallest measured one. No cost is negative, but a sum of learned terms can
            be, far from what was measured: a sum s below this is taken as ``least / (2 - s / least)``, which is above 0
            and keeps the order.
    """

    space: SearchSpace
    unit: str
    image_size: int | None = None
    input_shape: Shape | None = None
    record: Record | None = None
    doubts: tuple[str, ...] = ()
    deviation: float = 0.0
    slow: bool = False
    least: float | None = None

    def cost(self, config: SubnetConfig) -> float:
        """Cost of one architecture.

        Raises:
            ValueError: If ``config`` is not of this space.
        """
        return float(self.costs(self.space.encode([config]))[0])

    @abstractmethod
    def costs(self, genes: IntMatrix) -> npt.NDArray[np.float64]:
        """Costs of many architectures: ``[N, G]`` -> ``[N]``."""

    def exact_costs(self, genes: IntMatrix) -> npt.NDArray[np.float64]:
        """:meth:`costs` that are to be reported; models that have a shortcut for many architectures don't take it."""
        return self.costs(genes)

    def proven_extremes(self) -> tuple[IntMatrix, IntMatrix] | None:
        """Genes ``[G]`` of the cheapest and of the dearest architecture, canonical, where the model can prove them.

        None where it can not; :func:`~oneshot.cost.extremes.extremes` then searches for them.
        """
        return None

    @abstractmethod
    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Expected cost under edge weights ``{choice: [R, O]}``; scalar, differentiable in them."""

    def check_supernet(self, supernet: Supernet) -> None:
        """Check that the costs are those of the architectures of ``supernet``.

        Raises:
            ValueError: If it is of another space, or its networks are others: every setting that differs is named.
        """
        supernet.space.check_same(self.space, "The cost model", "Build it for the space of the supernet.")
        shape = as_shape(supernet.input_shape)
        sides: object = describe_shape(shape)
        if not isinstance(shape, Mapping):
            sides = shape[1:] if len(set(shape[1:])) > 1 else shape[-1]
        if self.image_size is not None and sides != self.image_size:
            raise ValueError(
                f"The cost model holds for images of {self.image_size} pixels, the supernet reads {sides}. Count or "
                f"measure it at {sides}, or build the supernet with image_size={self.image_size}.{self._all(supernet)}"
            )
        if self.input_shape is not None and self.input_shape != shape:
            raise ValueError(
                f"The cost model holds for inputs of shape {describe_shape(self.input_shape)}, the supernet reads "
                f"{describe_shape(shape)}. "
                f"Count or measure it for the supernet that is searched.{self._all(supernet)}"
            )
        if self.record is not None:
            self.record.check_supernet(supernet)

    def _all(self, supernet: Supernet) -> str:
        """Every setting that differs, where that is known."""
        return f" All that differs: {self.record.differs(supernet)}." if self.record is not None else ""


def above_zero(sums: npt.NDArray[np.float64], least: float | None) -> npt.NDArray[np.float64]:
    """Costs ``[N]`` from learned sums ``[N]``, see :attr:`CostModel.least`."""
    return sums if least is None else np.where(sums < least, least / (2 - np.minimum(sums / least, 1)), sums)


def expected_above_zero(total: Tensor, least: float | None) -> Tensor:
    """The same of one expected sum, a scalar, with its gradient."""
    return total if least is None else torch.where(total < least, least / (2 - (total / least).clamp(max=1)), total)


class AdditiveCost(CostModel):
    """A fixed cost and one for every candidate in its place, as of parameters, MACs or a table of latencies.

    Args:
        space: The search space.
        table: Cost of every candidate, ``{choice: [R, O]}``. What a row leaves out (``none``) costs nothing.
        unit: Unit of the costs.
        fixed: Cost of what is in every architecture.
        image_size: See :class:`CostModel`.

    Raises:
        ValueError: If the table does not have the shapes of the space, or a cost is negative or not finite.

    Example:
        >>> import torch
        >>> from oneshot.supernets import Choice
        >>> space = SearchSpace("toy", (Choice("layer", ("conv", "skip"), rows=2),))
        >>> latency = AdditiveCost(space, {"layer": torch.tensor([[3.0, 1.0], [5.0, 0.5]])}, unit="ms", fixed=2.0)
        >>> latency.cost(SubnetConfig("toy", {"layer": ["conv", "skip"]}))
        5.5
    """

    def __init__(
        self,
        space: SearchSpace,
        table: Mapping[str, Tensor],
        *,
        unit: str,
        fixed: float = 0.0,
        image_size: int | None = None,
    ) -> None:
        super().__init__()
        shapes = {c.name: (c.rows, len(c.candidates)) for c in space.choices}
        got = {name: tuple(costs.shape) for name, costs in table.items()}
        if got != shapes:
            raise ValueError(f"A cost table of space {space.name!r} must have the shapes {shapes}; got {got}.")
        for name, costs in table.items():
            if not (costs.isfinite() & (costs >= 0)).all():
                raise ValueError(f"Costs must be finite and not negative; those of {name!r} in {unit} are not.")
        self.space, self.unit, self.fixed, self.image_size = space, unit, fixed, image_size
        self.names = [c.name for c in space.choices]
        for name in self.names:
            self.register_buffer(f"table_{name}", table[name].double(), persistent=False)

    @property
    def table(self) -> dict[str, Tensor]:
        """Cost of every candidate, ``{choice: [R, O]}``, float64."""
        return {name: self.get_buffer(f"table_{name}") for name in self.names}

    def _rows(self) -> list[npt.NDArray[np.float64]]:
        """Costs of the picks of every gene, G of ``[P]``."""
        rows: list[npt.NDArray[np.float64]] = []
        for choice in self.space.choices:
            extra = len(choice.picks) - len(choice.candidates)  # an edge left out
            rows += [*np.pad(self.get_buffer(f"table_{choice.name}").cpu().numpy(), ((0, 0), (0, extra)))]
        return rows

    def costs(self, genes: IntMatrix) -> npt.NDArray[np.float64]:
        rows = self._rows()
        total = np.full(len(genes), float(self.fixed))
        for where, columns in chunks(self.space, genes):
            part = total[where]
            for row, column in zip(rows, columns, strict=True):
                part += row.take(column, mode="clip")  # checked already
        return total

    def proven_extremes(self) -> tuple[IntMatrix, IntMatrix] | None:
        """The best picks of all genes, where these are an architecture; otherwise the best of every group of genes."""
        best = np.array([[row.argmin() for row in self._rows()], [row.argmax() for row in self._rows()]])
        if (self.space.repair(best) == best).all():
            return best[0], best[1]
        return extremes_of_groups(self.space, self.costs)

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        return self.fixed + expected_cost(weights, self.table)


def extremes_of_groups(
    space: SearchSpace, costs: Callable[[IntMatrix], npt.NDArray[np.float64]]
) -> tuple[IntMatrix, IntMatrix] | None:
    """Genes ``[G]`` of the cheapest and of the dearest architecture by a cost that is a sum over genes.

    What one group of genes may be does not depend on the others (:meth:`~oneshot.supernets.SearchSpace.gene_groups`),
    so the groups are listed one by one.

    Args:
        space: The search space.
        costs: ``[N, G] -> [N]``, a sum over the genes.

    Returns:
        None if a group has more than :data:`MOST_OF_A_GROUP` settings, or the canonical form of one group depends on
        the others.
    """
    bases = space.repair(space.sample_matrix(BASES, 0))
    cheapest, dearest = bases[0].copy(), bases[0].copy()
    for group in space.gene_groups():
        sizes = [space.gene_sizes[gene] for gene in group]
        if math.prod(sizes) > MOST_OF_A_GROUP:
            return None
        settings = np.indices(sizes).reshape(len(sizes), -1).T
        first = _repaired(space, bases[0], group, settings)
        for base in bases:
            rows = _repaired(space, base, group, settings)
            others = np.setdiff1d(np.arange(space.num_genes), group)
            if (rows[:, others] != base[others]).any() or (rows[:, group] != first[:, group]).any():
                return None
        found = costs(first)
        cheapest[group], dearest[group] = first[found.argmin(), group], first[found.argmax(), group]
    return cheapest, dearest


def _repaired(space: SearchSpace, base: IntMatrix, group: list[int], settings: IntMatrix) -> IntMatrix:
    """An architecture with all settings of some genes, canonical, ``[N, G]``."""
    rows = np.repeat(base[None], len(settings), 0)
    rows[:, group] = settings
    return space.repair(rows)


def chunks(space: SearchSpace, genes: IntMatrix) -> Iterator[tuple[slice, IntMatrix]]:
    """Some architectures after the other, gene by gene.

    Args:
        space: The search space.
        genes: ``[N, G]``.

    Yields:
        Which of the N, and their genes, ``[G, n]``, contiguous.

    Raises:
        ValueError: If the genes are not those of the space.
    """
    for start in range(0, len(genes), CHUNK):
        where = slice(start, start + CHUNK)
        yield where, np.ascontiguousarray(space.check_genes(genes[where]).T, dtype=np.int64)
