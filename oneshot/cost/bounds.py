"""Upper bounds of costs: whether some architecture keeps them, and the nearest where none does.

Searches refuse such bounds before they train, and :func:`~oneshot.cost.profile.profile` reports them; what is known of
them, and the sentence that says it, are the same in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Protocol

import numpy as np

from oneshot.fronts.evolution import MOST_ENUMERATED, minimise
from oneshot.fronts.numbers import rounded_up
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace, SubnetConfig

from .learned.predictors import Predictor
from .learned.transferred import TransferredCost

SAMPLES = 1000  # architectures looked at before one that keeps the bounds is searched for
SEEDS = 8  # of these, the nearest, are what the search for a nearer one begins with


class Bound(Protocol):
    """An upper bound of a cost. As text it is what it demands, ``macs <= 3e+08 MACs``."""

    @property
    def name(self) -> str:
        """Of the cost."""

    @property
    def unit(self) -> str:
        """Of the cost."""

    def upper(self, genes: IntMatrix) -> Floats:
        """What is bounded, ``[N, G] -> [N]``."""

    def excess(self, genes: IntMatrix) -> Floats:
        """How far above the bound, ``[N, G] -> [N]``, as a share of it; not above 0 where it holds."""

    def smallest(self) -> IntMatrix | None:
        """Genes ``[G]`` of the architecture with the smallest cost, where that is proven; otherwise None."""


@dataclass(frozen=True)
class Nearest:
    """The architecture that is nearest to some bounds, or keeps them.

    Args:
        genes: ``[G]``.
        excess: How far it is above the bound that it is farthest above, as a share of it; not above 0 if it keeps all.
        proven: Whether no other one is nearer, or it keeps all bounds; otherwise it is the nearest that was found.
    """

    genes: IntMatrix
    excess: float
    proven: bool

    @property
    def keeps(self) -> bool:
        """Whether it keeps all bounds."""
        return self.excess <= 0


def nearest(
    space: SearchSpace,
    bounds: Sequence[Bound],
    *,
    looked_at: IntMatrix | None = None,
    seed: int = 0,
    most: int = MOST_ENUMERATED,
) -> Nearest:
    """Look for an architecture that keeps all bounds, or comes nearest: the largest of its excesses is smallest.

    Of a single bound it is the architecture of the smallest cost, if that is proven; spaces with few spellings are
    listed; in all others it is the best that an evolution finds.

    Args:
        space: The search space.
        bounds: At least one.
        looked_at: Canonical architectures, ``[N, G]``, one of which may keep them; random ones by default.
        seed: Of random architectures and the evolution.
        most: Spellings of a space that is listed.
    """
    if looked_at is None:
        looked_at = space.repair(space.sample_matrix(SAMPLES, seed))
    excess = largest_excess(looked_at, bounds)
    if excess.min() <= 0:
        return Nearest(looked_at[excess.argmin()], float(excess.min()), True)
    known = [genes for bound in bounds if (genes := bound.smallest()) is not None]
    corner = space.repair(np.zeros((1, space.num_genes), dtype=np.int64))[0]  # the smallest, where candidates rise
    if len(bounds) == 1 and known:
        return Nearest(known[0], float(largest_excess(known[0][None], bounds)[0]), True)
    seeds = np.unique(np.stack([*looked_at[excess.argsort()[:SEEDS]], *known, corner]), axis=0)
    found = minimise(space, partial(_column, bounds=bounds), seed=seed, seeds=seeds, most=most)
    least = float(largest_excess(found, bounds)[0])
    return Nearest(found[0], least, least <= 0 or math.prod(space.gene_sizes) <= most)


def largest_excess(genes: IntMatrix, bounds: Sequence[Bound]) -> Floats:
    """How far architectures are above the bound that they are farthest above, ``[N, G] -> [N]``."""
    return np.asarray(np.stack([bound.excess(genes) for bound in bounds]).max(0))


def _column(genes: IntMatrix, *, bounds: Sequence[Bound]) -> Floats:
    return largest_excess(genes, bounds)[:, None]


def check_reachable(space: SearchSpace, bounds: Sequence[Bound], *, seed: int = 0) -> None:
    """Check that some architecture keeps all bounds.

    Args:
        space: The search space.
        bounds: All of them; none is fine.
        seed: Of random architectures and the evolution.

    Raises:
        ValueError: If none was found; the nearest is named.
    """
    if not bounds:
        return
    looked_at = space.repair(space.sample_matrix(SAMPLES, seed))
    if (largest_excess(looked_at, bounds) <= 0).any():
        return
    for some in (*([bound] for bound in bounds), bounds):
        found = nearest(space, some, looked_at=looked_at, seed=seed)
        if not found.keeps:
            raise ValueError(unreached(space, some, found))


def unreached(space: SearchSpace, bounds: Sequence[Bound], found: Nearest) -> str:
    """Say that nothing keeps some bounds, what comes nearest, and the way out.

    Args:
        space: The search space.
        bounds: One, or several that can be had one by one.
        found: The nearest.
    """
    config = space.config_of(found.genes)
    values = [_said(bound, found.genes) for bound in bounds]
    if len(bounds) == 1:
        return no_architecture(space, str(bounds[0]), values[0], config, proven=found.proven)
    pairs = ", ".join(f"{bound.name} {value}" for bound, value in zip(bounds, values, strict=True))
    wanted, how = " and ".join(map(str, bounds)), "" if found.proven else " found"
    return (
        f"No architecture of space {space.name!r} has {wanted} at once, though each can be had alone; the nearest{how} "
        f"has {pairs}. Raise one of the bounds. The nearest architecture: {config}."
    )


def no_architecture(
    space: SearchSpace, wanted: str, smallest: str, config: SubnetConfig, *, proven: bool, what: str = "bound"
) -> str:
    """Say that nothing keeps a bound.

    Args:
        space: The search space.
        wanted: The bound.
        smallest: The smallest cost, rounded up.
        config: The architecture that has it.
        proven: Whether there is no smaller one.
        what: What is to be raised.
    """
    return (
        f"No architecture of space {space.name!r} has {wanted}; the smallest{'' if proven else ' found'} is "
        f"{smallest}. Raise the {what} to that at least, or build a smaller supernet. The nearest architecture: "
        f"{config}."
    )


def _said(bound: Bound, genes: IntMatrix) -> str:
    return f"{rounded_up(float(bound.upper(genes[None])[0]))} {bound.unit}".rstrip()


def upper_costs(
    model: object, values: Callable[[IntMatrix], Floats], genes: IntMatrix, probability: float, deviation: float
) -> Floats:
    """Upper bound of a cost that holds with a probability, ``[N, G] -> [N]``.

    Learned costs know their interval, which is taken to be symmetric. All others are taken as normally distributed,
    exact where the deviation is 0.

    Args:
        model: What architectures cost.
        values: Their costs, ``[N, G] -> [N]``.
        genes: The architectures.
        probability: Between 0 and 1.
        deviation: Standard deviation of the truth from the model, relative.
    """
    if probability == 0.5 or not isinstance(model, Predictor | TransferredCost):
        return np.asarray(values(genes) * (1 + deviation * NormalDist().inv_cdf(probability)))
    lower, upper = model.interval(genes, abs(2 * probability - 1))
    return np.asarray(upper if probability > 0.5 else lower, np.float64)
