"""Costs of spaces that nothing is known of: networks are built and counted one by one, each once."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from oneshot.cost.model import CostModel
from oneshot.cost.record import own_random_numbers
from oneshot.inputs import Shape
from oneshot.supernets.base import Supernet, check_edge_weights
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace, SubnetConfig

from .elastic import Counted
from .interactions import MOST_ENTRIES, Interactions, find_interactions
from .network import count

EVERY = 5.0  # seconds between two lines of progress
SMALL = 256  # architectures of a space that needs no table
SLOW = 0.03  # seconds of a network, above which one without numbers (on the device ``meta``) is tried
ConfigCost = Callable[[SubnetConfig], float]


class TracedCost(CostModel):
    """The cost of architectures by a function of one, which is called once for each.

    An evolution asks for thousands of architectures. After :meth:`tabulate` :meth:`costs` are from tables of the genes
    that act together, if random architectures cost exactly what the tables say. :meth:`cost` and :meth:`exact_costs`
    call the function and check the tables; one that is wrong is given up with a warning. What searches report is exact.

    Args:
        space: The search space.
        function: Cost of one architecture.
        unit: Unit of the costs.
        what: What is said to be counted, in lines of progress.

    Example:
        >>> from oneshot.supernets import Choice
        >>> space = SearchSpace("toy", (Choice("width", (8, 16), rows=2),))
        >>> weights = TracedCost(space, lambda config: config["width"][0] * config["width"][1], unit="params")
        >>> weights.cost(space.sample(0)), weights.tabulate(), weights.costs(np.array([[1, 1]])).tolist()
        (256.0, True, [256.0])
    """

    def __init__(self, space: SearchSpace, function: ConfigCost, *, unit: str, what: str = "cost") -> None:
        super().__init__()
        self.space, self.unit, self.what = space, unit, what
        self._function = function
        self._known: dict[bytes, float] = {}
        self._table: Interactions | None = None
        self._tried = False
        self._seconds, self.slow = 0.0, True

    @property
    def traced(self) -> int:
        """How many architectures the function was called for."""
        return len(self._known)

    def cost(self, config: SubnetConfig) -> float:
        return float(self.exact_costs(self.space.encode([config]))[0])

    def costs(self, genes: IntMatrix) -> Floats:
        """Costs of many architectures, ``[N, G] -> [N]``, by the tables if there are some.

        Raises:
            ValueError: If the genes are not those of the space, or the function gives no finite number.
        """
        if self._table is None:
            return self._traced(self._checked(genes))
        return self._table.values(self._checked(genes))

    def exact_costs(self, genes: IntMatrix) -> Floats:
        checked = self._checked(genes)
        exact = self._traced(checked)
        if self._table is not None and not np.allclose(self._table.values(checked), exact, rtol=1e-9, atol=0):
            self._table, self.slow = None, True
            warnings.warn(
                f"The tables of {self.what} of space {self.space.name!r} were wrong for an architecture, so they are "
                f"not used any more: from now on every architecture takes {self._each():.2g} s. Costs that are in the "
                "results were never taken from them.",
                stacklevel=3,
            )
        return exact

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Expected cost under edge weights ``{choice: [R, O]}``; rows are independent.

        Raises:
            ValueError: If the cost is not a sum of tables, which have the gradients.
        """
        check_edge_weights(self.space, weights)
        if not self.tabulate() or self._table is None:
            raise ValueError(
                f"The {self.what} of space {self.space.name!r} have no tables, and so no gradients in edge weights. "
                "Search without a penalty, or with a CostModel of your own."
            )
        return self._table.expected(weights)

    def tabulate(self) -> bool:
        """Look for tables; whether there are some. What it takes is said where it takes long."""
        if not self._tried:
            self._tried = True
            self._table = find_interactions(self.space, lambda genes: self._traced(self._repaired(genes)))
            self.slow = self._table is None
            if self._table is None:
                rank_zero_info(
                    f"No tables of at most {MOST_ENTRIES:,} entries give the {self.what} of space {self.space.name!r}, "
                    f"so every architecture is built and counted: {self._each():.2g} s each, "
                    f"{10_000 * self._each():.0f} s for a search over 10,000. costs={{...}} takes a faster function."
                )
        return self._table is not None

    def _each(self) -> float:
        return self._seconds / max(len(self._known), 1)

    def _checked(self, genes: IntMatrix) -> IntMatrix:
        checked = self.space.check_genes(genes)
        self.space.check_rules(checked)
        return checked

    def _repaired(self, genes: IntMatrix) -> IntMatrix:
        """Genes of architectures as they are, and those that break a rule repaired."""
        rows = genes.copy()
        for row in rows:
            try:
                self.space.check_rules(row[None])
            except ValueError:
                row[:] = self.space.repair(row[None])[0]
        return rows

    def _traced(self, genes: IntMatrix) -> Floats:
        """Costs of valid genes, ``[N, G] -> [N]``."""
        names = [row.tobytes() for row in np.ascontiguousarray(genes, dtype=np.int64)]
        missing = {name: row for name, row in zip(names, genes, strict=True) if name not in self._known}
        start = last = time.perf_counter()
        for done, (name, row) in enumerate(missing.items()):
            value = float(self._function(self.space.config_of(row)))
            if not np.isfinite(value):
                raise ValueError(
                    f"The {self.what} of an architecture must be a finite number; got {value} for "
                    f"{self.space.config_of(row).to_json()}."
                )
            self._known[name] = value
            if (now := time.perf_counter()) - last > EVERY:
                last = now
                rank_zero_info(f"Counted {self.what}: {done + 1:,} of {len(missing):,} networks.")
        self._seconds += time.perf_counter() - start
        return np.array([self._known[name] for name in names])


def trace_candidates(supernet: Supernet, what: Counted, unit: str, *, shape: Shape | None = None) -> TracedCost:
    """What every architecture of any supernet has, by counting the networks it extracts.

    Args:
        supernet: The supernet.
        what: What is counted.
        unit: Its unit.
        shape: Shape of one input; by default that of each network.
    """
    model = TracedCost(supernet.space, _Counter(supernet, what, shape), unit=unit, what=what)
    if supernet.space.size > SMALL:
        model.tabulate()
    return model


class _Counter:
    """Counts one network after the other; large ones without numbers, if three of them give the same so."""

    def __init__(self, supernet: Supernet, what: Counted, shape: Shape | None) -> None:
        self.supernet, self.what, self.shape = supernet, what, shape
        self.without_numbers: bool | None = False if what == "memory" else None
        self.compared = 0

    def __call__(self, config: SubnetConfig) -> float:
        with own_random_numbers(self.supernet):
            network = self.supernet.extract(config, inherit=False)
        if self.what == "params":
            return sum(p.numel() for p in network.parameters())
        measured = partial(self._counted, shape=self.shape or network.input_shape)
        if self.without_numbers:
            return measured(network.to("meta"))
        start = time.perf_counter()
        found = measured(network)
        if self.without_numbers is None:
            if time.perf_counter() - start < SLOW:
                self.without_numbers = False
            else:
                self._compare(network, measured, found)
        return found

    def _counted(self, network: Any, shape: Shape) -> int:
        return int(getattr(count(network, shape), self.what))

    def _compare(self, network: Any, measured: Callable[[Any], int], found: int) -> None:
        try:
            same = measured(network.to("meta")) == found
        except (RuntimeError, NotImplementedError):  # it looks at numbers
            same = False
        self.compared += 1
        if not same:
            self.without_numbers = False
        elif self.compared == 3:
            self.without_numbers = True
