"""What the architectures of a space cost, before any training: smallest, middle, largest, and whether bounds hold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from oneshot.fronts.evolution import MOST_ENUMERATED, enumerate_space, minimise
from oneshot.supernets.base import Supernet
from oneshot.supernets.json_files import nearest as nearest_name
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .bounds import Nearest, largest_excess, nearest, unreached, upper_costs
from .counting.candidates import UNITS, Counted
from .extremes import extremes
from .latency.table import UNIT
from .model import CostModel
from .resolve import FILES, LATENCY, OwnCost, OwnCosts, cost_name, own_costs, unit_of
from .space_profile import BINS, BoundProfile, CostProfile, SpaceProfile

SAMPLES = 10_000  # architectures that are drawn
SECONDS = 60.0  # that drawn architectures of slow costs take at most
TIMED = 8  # architectures whose time is taken
CHUNK = 500  # architectures between two calls of ``progress``
COUNTS: tuple[Counted, ...] = ("params", "macs", "memory")

ProfiledCosts: TypeAlias = OwnCosts | Sequence[str] | OwnCost
Bounds: TypeAlias = Mapping[str, float | tuple[float, float]]
Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ModelBound:
    """An upper bound of a cost model; what :class:`~oneshot.cost.bounds.Bound` says.

    Args:
        name: Of the cost.
        model: What architectures cost.
        at_most: The bound.
        probability: With which it holds, where the model is measured or learned.
    """

    name: str
    model: CostModel
    at_most: float
    probability: float = 0.5

    @property
    def unit(self) -> str:
        """Of the cost."""
        return self.model.unit

    def __str__(self) -> str:
        chance = "" if self.probability == 0.5 else f" with probability {self.probability:g}"
        return f"{self.name} <= {self.at_most:g} {self.unit}".rstrip() + chance

    def upper(self, genes: IntMatrix) -> Floats:
        """What must not be above the bound, ``[N, G] -> [N]``."""
        return upper_costs(self.model, self.model.costs, genes, self.probability, self.model.deviation)

    def excess(self, genes: IntMatrix) -> Floats:
        """How far above the bound, ``[N, G] -> [N]``, as a share of it; not above 0 where it holds."""
        return (self.upper(genes) - self.at_most) / (abs(self.at_most) or 1.0)

    def smallest(self) -> IntMatrix | None:
        """Genes ``[G]`` of the architecture with the smallest cost, where that is proven; otherwise None."""
        found = self.model.proven_extremes()
        return None if found is None else found[0]


def profile(
    supernet: Supernet,
    *,
    costs: ProfiledCosts | None = None,
    counts: Sequence[Counted] = COUNTS,
    bounds: Bounds | None = None,
    samples: int | None = None,
    seed: int = 0,
    allow_noisy: bool = False,
    progress: Progress | None = None,
) -> SpaceProfile:
    """Look at what the architectures of a space cost, before anything is trained.

    Of every cost: the smallest, that of the architecture in the middle of every choice, the median of random
    architectures, the largest, and a histogram. Of every bound: the share of random architectures that keep it, whether
    some architecture does, and if none, which one comes nearest.

    A space with few architectures is looked at as a whole. Otherwise architectures are drawn as searches draw them
    (:meth:`~oneshot.supernets.SearchSpace.sample_matrix`). The smallest and the largest are exact where the space is
    listed as a whole, and where a cost model proves them (:meth:`~oneshot.cost.CostModel.proven_extremes`), as tables
    do; where neither is so, the result says that they were found. That several bounds can hold together is known where
    an architecture is found that keeps them, and that they cannot is known where one of them cannot alone, or where the
    space was listed as a whole.

    Nothing is drawn from the random numbers of the caller.

    Args:
        supernet: Any supernet.
        costs: What else, or in place of a count of the same name, is looked at, as searches take it: costs by name, see
            :func:`~oneshot.cost.resolve.own_costs`; or files of latencies, of which a single one is called ``latency``
            and several are called as their files, ``phone`` of ``phone.json``.
        counts: What is counted: ``"params"``, ``"macs"``, ``"memory"``.
        bounds: Largest costs by name, ``{"macs": 3e8, "latency": 8}``; ``latency_ms`` names the unit, too. A pair has
            the probability with which the bound must hold. Counts and files that have bounds are looked at, too.
        samples: Architectures that are drawn. By default 10,000, or as many as take a minute; and the whole space where
            that can be listed.
        seed: Of the draws.
        allow_noisy: Take latencies also where their file says that they may be wrong.
        progress: Called with what is done, how many architectures are, and of how many.

    Raises:
        ValueError: If a cost is none, is of another supernet or doubtful; if a bound is of no cost, or no finite
            number; if there is nothing to look at.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> found = profile(supernet, bounds={"params": 5000})
        >>> found["params"].smallest, found["params"].largest, found.bounds[0].reachable
        (4894.0, 23374.0, True)
    """
    if samples is not None and samples < 1:
        raise ValueError(f"samples must be at least 1, or None for the usual number; got {samples}.")
    wanted = _wanted(costs, counts, bounds or {})
    limits = _limits(bounds or {}, wanted)  # first: costs may take long
    said, models = progress or _silent, dict[str, CostModel]()
    for number, (name, given) in enumerate(wanted.items()):
        said("tables of costs", number, len(wanted))
        models |= own_costs({name: given}, supernet, allow_noisy=allow_noisy)
    said("tables of costs", len(wanted), len(wanted))
    asked = [ModelBound(name, models[name], *limit) for name, limit in limits.items()]
    return _look(supernet.space, models, asked, samples, seed, said)


def _silent(what: str, done: int, total: int) -> None:
    """Default progress callback; does nothing."""


def _look(
    space: SearchSpace,
    models: Mapping[str, CostModel],
    bounds: Sequence[ModelBound],
    samples: int | None,
    seed: int,
    progress: Progress,
) -> SpaceProfile:
    """Draw or list architectures, and see what they cost."""
    slow = any(model.slow for model in models.values())
    most = MOST_ENUMERATED if not slow else samples or SAMPLES  # spellings that are listed
    every = enumerate_space(space, most)
    genes, fewer, complete = every, "", every is not None and samples is None
    if genes is None or not complete:
        number, fewer = (samples, "") if samples is not None else _affordable(space, models, seed)
        genes = space.repair(space.sample_matrix(number, seed))
    values = {name: _costs(name, model, genes, progress) for name, model in models.items()}
    centroid = space.centroid()
    middle = space.encode([centroid])
    found = []
    for number, (name, model) in enumerate(models.items()):
        progress("smallest and largest", number, len(models))
        found.append(_cost(name, model, values[name], genes, every, middle))
    reached = _bounds(space, bounds, genes, every, most=most, seed=seed)
    progress("smallest and largest", len(models), len(models))
    return SpaceProfile(
        space=space.name,
        size=space.size,
        samples=len(genes),
        complete=complete,
        fewer=fewer,
        seed=seed,
        centroid=centroid,
        costs=tuple(found),
        bounds=tuple(reached[: len(bounds)]),
        together=reached[-1] if len(bounds) > 1 else None,
    )


# What is looked at.


def _wanted(costs: ProfiledCosts | None, counts: Sequence[Counted], bounds: Bounds) -> dict[str, OwnCost]:
    """What is looked at, by name: counts first, and then what has a bound besides."""
    asked: Sequence[str] = (counts,) if isinstance(counts, str) else counts
    for what in asked:
        if what not in UNITS:
            near = nearest_name(what, COUNTS)
            raise ValueError(f"What is counted must be one of {', '.join(map(repr, UNITS))}; got {what!r}.{near}")
    own = _named(costs)
    found: dict[str, OwnCost] = {name: name for name in UNITS if name in asked or name in bounds}
    found |= own
    found |= {name: name for name in bounds if name.endswith(FILES) and name not in own}
    if not found:
        raise ValueError(f"There must be a cost to look at; got none. Leave out counts, or name some of {COUNTS}.")
    return found


def _named(costs: ProfiledCosts | None) -> Mapping[str, OwnCost]:
    """Costs by name."""
    if isinstance(costs, str):
        costs = (costs,)
    if isinstance(costs, CostModel):
        return {LATENCY if costs.unit == UNIT else costs.unit or "cost": costs}
    if isinstance(costs, Mapping):
        return costs
    if not isinstance(costs, Sequence):
        return {} if costs is None else {"macs": costs}  # one function, as searches take it
    for given in costs:
        if not isinstance(given, str):
            raise ValueError(
                f"Costs in a list must be names or files of costs; got {given!r}. Give it by name: {{...}}."
            )
    several = sum(given.endswith(FILES) for given in costs) > 1
    named: dict[str, OwnCost] = {}
    for given in costs:
        if (name := cost_name(given, by_file=several)) in named:
            raise ValueError(
                f"Costs must have different names; {named[name]!r} and {given!r} are both {name!r}. Give them by name: "
                f"{{'{name}_2': {given!r}}}."
            )
        named[name] = given
    return named


def _limits(bounds: Bounds, wanted: Mapping[str, OwnCost]) -> dict[str, tuple[float, float]]:
    """Largest values, and the probabilities with which they must hold, by the names of costs."""
    units = {
        name: unit_of(given) if isinstance(given, str | CostModel) else UNITS.get(name, "")  # type: ignore[call-overload]  # any name
        for name, given in wanted.items()
    }
    found: dict[str, tuple[float, float]] = {}
    for name, given in bounds.items():
        own = next((known for known, unit in units.items() if name in (known, f"{known}_{unit.lower()}")), None)
        if own is None:
            others = [what for what in UNITS if what not in wanted]
            more = f", of {', '.join(others)}" if others else ""
            raise ValueError(
                f"A bound must be of one of the costs {', '.join(wanted)}{more}, or of the file of a latency; got "
                f"{name!r}.{nearest_name(name, [*wanted, *others])}"
            )
        if own in found:
            raise ValueError(f"A cost must have one bound; {own!r} has two. Leave out all but one.")
        found[own] = _limit(name, given)
    return found


def _limit(name: str, given: float | tuple[float, float]) -> tuple[float, float]:
    pair: tuple[Any, ...] = tuple(given) if isinstance(given, list | tuple) else (given, 0.5)
    if len(pair) != 2 or not all(isinstance(number, Real) and not isinstance(number, bool) for number in pair):
        raise ValueError(
            "A bound must be a number, or a pair of a number and the probability with which it must hold, such as "
            f"(3e8, 0.9); got {given!r} for {name!r}."
        )
    at_most, probability = map(float, pair)
    if not math.isfinite(at_most):
        raise ValueError(f"The bound of {name!r} must be finite; got {at_most}. Leave it out instead.")
    if not 0 < probability < 1:
        raise ValueError(f"The probability of a bound must be between 0 and 1; got {probability} for {name!r}.")
    return at_most, probability


def _affordable(space: SearchSpace, models: Mapping[str, CostModel], seed: int) -> tuple[int, str]:
    """How many architectures are drawn, and why fewer than usual."""
    slow = [model for model in models.values() if model.slow]
    if not slow:
        return SAMPLES, ""
    genes = space.repair(space.sample_matrix(TIMED, seed))
    start = time.perf_counter()
    for model in slow:
        model.costs(genes)
    each = (time.perf_counter() - start) / TIMED
    number = max(TIMED, min(SAMPLES, int(SECONDS / max(each, 1e-9))))
    return number, "" if number == SAMPLES else f"fewer than {SAMPLES:,} because each takes {each:.2g} s"


def _costs(name: str, model: CostModel, genes: IntMatrix, progress: Progress) -> Floats:
    """Costs of all samples, ``[N]``."""
    parts = []
    for start in range(0, len(genes), CHUNK if model.slow else len(genes)):
        stop = min(start + CHUNK, len(genes)) if model.slow else len(genes)
        parts.append(model.costs(genes[start:stop]))
        progress(name, stop, len(genes))
    return np.concatenate(parts)


# What is found.


def _cost(
    name: str, model: CostModel, values: Floats, genes: IntMatrix, every: IntMatrix | None, middle: IntMatrix
) -> CostProfile:
    smallest, largest, proven = _extremes(model, values, genes, every)
    ends = model.exact_costs(np.stack([smallest, middle[0], largest]))
    low, high = min(values.min(), ends[0]), max(values.max(), ends[2])
    counts, edges = np.histogram(values, BINS, (low, high if high > low else low + 1))
    return CostProfile(
        name=name,
        unit=model.unit,
        smallest=float(ends[0]),
        centroid=float(ends[1]),
        median=float(np.median(values)),
        largest=float(ends[2]),
        smallest_config=model.space.config_of(smallest),
        largest_config=model.space.config_of(largest),
        proven=proven,
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
    )


def _extremes(
    model: CostModel, values: Floats, genes: IntMatrix, every: IntMatrix | None
) -> tuple[IntMatrix, IntMatrix, bool]:
    """Genes ``[G]`` of the cheapest and the dearest, and whether that is proven."""
    if every is not None:
        costs = model.costs(every)
        return every[costs.argmin()], every[costs.argmax()], True
    if (found := model.proven_extremes()) is not None:
        return *found, True
    corners = model.space.repair([[0] * model.space.num_genes, [size - 1 for size in model.space.gene_sizes]])
    best = []
    for sign, start in zip((1, -1), extremes(model), strict=True):
        known = np.stack([start, genes[(sign * values).argmin()], *corners])
        if not model.slow:
            known = np.unique(known, axis=0)
            known = minimise(model.space, partial(_signed, model, sign), seeds=known)
        best.append(known[(sign * model.costs(known)).argmin()])
    return best[0], best[1], False


def _signed(model: CostModel, sign: int, genes: IntMatrix) -> Floats:
    return np.asarray(sign * model.costs(genes)[:, None])


def _bounds(
    space: SearchSpace,
    bounds: Sequence[ModelBound],
    genes: IntMatrix,
    every: IntMatrix | None,
    *,
    most: int,
    seed: int,
) -> list[BoundProfile]:
    """Every bound, and where there are several, all together."""
    looked_at = genes if every is None else every
    found, reached = [], True
    for bound in bounds:
        place = nearest(space, [bound], looked_at=looked_at, seed=seed, most=most)
        found.append(_reach(space, [bound], place, genes))
        reached = reached and place.keeps
    if len(bounds) > 1:
        place = nearest(space, bounds, looked_at=looked_at, seed=seed, most=most)
        found.append(
            _reach(space, bounds, place, genes, impossible=any(b.reachable is False for b in found), sayable=reached)
        )
    return found


def _reach(
    space: SearchSpace,
    bounds: Sequence[ModelBound],
    place: Nearest,
    genes: IntMatrix,
    *,
    impossible: bool = False,
    sayable: bool = True,
) -> BoundProfile:
    """What is known of some bounds.

    Args:
        space: The search space.
        bounds: One, or several.
        place: The nearest to them.
        genes: Samples.
        impossible: Whether one of several cannot be had alone.
        sayable: Whether there is something to say that was not said of one of several.
    """
    reachable = True if place.keeps else False if place.proven or impossible else None
    return BoundProfile(
        costs=tuple(bound.name for bound in bounds),
        demand=" and ".join(map(str, bounds)),
        limits=tuple(bound.at_most for bound in bounds),
        within=float((largest_excess(genes, bounds) <= 0).mean()),
        nearest=space.config_of(place.genes),
        values=tuple(float(bound.upper(place.genes[None])[0]) for bound in bounds),
        reachable=reachable,
        sentence="" if reachable or not sayable else unreached(space, bounds, place),
    )
