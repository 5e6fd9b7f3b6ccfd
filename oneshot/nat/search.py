"""The search for a front: which architectures to evaluate next, given those that were evaluated."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Annotated, Any, TypedDict

import numpy as np
import numpy.typing as npt

from oneshot.cost.bounds import check_reachable
from oneshot.fronts.evolution import (
    MOST_ENUMERATED,
    check_canonical,
    check_population,
    enumerate_space,
    evolve,
    keys,
    minimise,
)
from oneshot.fronts.nsga2 import by_rank_and_crowding
from oneshot.fronts.pareto import hypervolume, non_dominated, reference_point
from oneshot.regression.extra import ExtraFeatures, KnownFeatures
from oneshot.regression.surrogates import KINDS, SAMPLES, Kind
from oneshot.supernets.connection import connected
from oneshot.supernets.json_files import AtLeast, MayBeNaN, checked
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .archive import Archive
from .objectives import ERROR, Constraint, Objective, excesses
from .predictor import AccuracyPredictor, fit_accuracy
from .selection import largest_gain, spread_over, spread_sample

SCHEMA_VERSION = 1
OPTIMISM = 0.5  # standard deviations of the predicted error that a candidate is given credit for
POOL = 10  # candidates of the initial sample, for each that is taken
ROUNDS = 20  # of drawing, before a large space counts as used up


@dataclass(frozen=True)
class Iteration:
    """Facts about one iteration of the search.

    Args:
        number: 0 is the initial sample.
        evaluations: Architectures evaluated so far, failed ones among them.
        failed: How many of these failed.
        hypervolume: Of the feasible front, as a share of the box between the ideal and the reference point of the
            initial sample; above 1 if the front leaves the box at the good side.
        kind: Of the accuracy predictor that proposed it, None in the initial sample.
        tau: Kendall's tau of each kind of predictor in cross-validation.
        seconds: Time the proposal took; the evaluations are not in it.
    """

    number: int
    evaluations: int
    failed: int = 0
    hypervolume: float = 0.0
    kind: str | None = None
    tau: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


class _Iteration(TypedDict):
    """An :class:`Iteration` as JSON."""

    number: Annotated[int, AtLeast(0)]
    evaluations: Annotated[int, AtLeast(0)]
    failed: Annotated[int, AtLeast(0)]
    hypervolume: MayBeNaN
    kind: str | None
    tau: dict[str, MayBeNaN]
    seconds: Annotated[float, AtLeast(0)]


class _State(TypedDict):
    """State of a search as JSON, to resume from."""

    schema_version: int
    seed: int
    constraints: list[str]
    archive: dict[str, Any]
    pending: list[list[int]]
    proposal: _Iteration
    history: list[_Iteration]
    box: tuple[list[float], list[float]] | None


class ParetoSearch:
    """Neural Architecture Transfer's search (Lu et al., TPAMI 2021, arXiv:2005.05859), without the training.

    Ask for architectures, tell their errors, in any order and in parts. First comes the initial sample: the smallest
    and the largest architecture, and others that are spread over the costs and differ in many genes. Then, every
    iteration, an accuracy predictor is chosen by cross-validation, an evolution searches all costs and the predicted
    error for what no other one beats, and those candidates are asked for that promise to add most to the hypervolume of
    the front. What was told, or failed, is not asked again; when the space is used up, fewer are asked, and then none.

    A network whose output does not read its input is in no front, however little it costs: cells that hold ``none`` on
    every way break a constraint that all searches have (:func:`~oneshot.supernets.connection.connected`). They are not
    asked for, but as the smallest of all.

    A state that is loaded goes on as if nothing had happened: the same architectures in the same order.

    Args:
        space: The search space.
        objectives: Costs that are minimised besides the error, any number of them.
        constraints: Bounds of costs; those that are asked keep to them, but for ``first``.
        first: Architectures that are asked first, ``[F, G]``; by default the smallest and the largest in the first
            objective.
        initial: Size of the initial sample, ``first`` among it. NAT has 100.
        batch: Architectures asked in each iteration. NAT has 8, and 30 iterations.
        population: Of the evolution.
        generations: Of the evolution.
        kinds: Accuracy predictors to choose from.
        features: Extra features that they see beside the genes, such as
            :class:`~oneshot.proxies.ProxyFeatures`. The evolution asks for those of some thousand architectures in
            every iteration, each computed once.
        seed: Of everything.

    Raises:
        ValueError: If two objectives have one name, a model is of another space, the population is too small for the
            objectives, the initial sample for every kind of predictor, or no architecture keeps the constraints.

    Example:
        >>> from oneshot.supernets import Choice
        >>> space = SearchSpace("toy", (Choice("layer", ("small", "large"), rows=8),))
        >>> size = Objective("size", "layers", lambda genes: genes.sum(1))
        >>> search = ParetoSearch(space, [size], initial=20, batch=4, population=20, generations=5, kinds=["ridge"])
        >>> for _ in range(3):
        ...     genes = search.ask()
        ...     search.tell(genes, 10.0 - genes @ np.arange(8))
        >>> search.history[-1].evaluations, search.history[-1].kind
        (28, 'ridge')
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        *,
        constraints: Sequence[Constraint] = (),
        first: IntMatrix | None = None,
        initial: int = 100,
        batch: int = 8,
        population: int = 100,
        generations: int = 100,
        kinds: Sequence[Kind] = KINDS,
        features: ExtraFeatures | None = None,
        seed: int = 0,
    ) -> None:
        self.features = None if features is None else KnownFeatures(space, features)
        self.space, self.objectives, self.constraints = space, tuple(objectives), tuple(constraints)
        self.initial, self.batch, self.population, self.generations = initial, batch, population, generations
        self.kinds, self.seed = tuple(kinds), seed
        self.archive = Archive(space, (ERROR, *(objective.name for objective in self.objectives)))
        for objective in (*self.objectives, *(c.objective for c in self.constraints)):
            objective.check_space(space)
        self._check_numbers()
        check_reachable(space, self.constraints, seed=seed)
        self._first = None if first is None else check_canonical(space, first)
        self._has_cells = bool(space.cell_graphs())  # that may hold no way from the input to the output
        self.predictor: AccuracyPredictor | None = None
        self._pending: dict[bytes, IntMatrix] = {}
        self._history: list[Iteration] = []
        self._proposal = Iteration(0, 0)
        self._box: tuple[Floats, Floats] | None = None

    def _check_numbers(self) -> None:
        check_population(self.population, len(self.archive.objectives))
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"Accuracy predictors must be of the kinds {', '.join(KINDS)}; got {list(self.kinds)}.")
        least = min(SAMPLES[kind] for kind in self.kinds)
        if self.initial < least or self.batch < 1 or self.generations < 1:
            raise ValueError(
                f"A search must have an initial sample of at least {least} (what the kinds {', '.join(self.kinds)} "
                f"need), and a batch and generations of at least 1; got initial={self.initial}, batch={self.batch}, "
                f"generations={self.generations}."
            )

    # Asking.

    def ask(self) -> IntMatrix:
        """Architectures to evaluate, ``[n, G]``: what was asked and not told yet, or else the next iteration.

        Returns:
            None, ``[0, G]``, if the space, as far as the constraints allow, is used up.
        """
        if not self._pending:
            start = time.perf_counter()
            number = len(self._history)
            self._proposal = Iteration(number, 0)
            genes = self._propose(number)
            self._proposal = replace(self._proposal, seconds=time.perf_counter() - start)
            self._pending = dict(zip(keys(genes), genes))
        return np.array(list(self._pending.values()), dtype=np.int64).reshape(-1, self.space.num_genes)

    def _propose(self, number: int) -> IntMatrix:
        rng = np.random.default_rng([self.seed, number])
        missing = self.initial - len(self.archive)
        if number == 0 and missing > 0:
            first = self._extremes if self._first is None else self._first
            first = first[self.archive.rows(first) < 0]
            return np.concatenate([first, self._sample(max(missing - len(first), 0), first, rng)])
        genes = np.empty((0, self.space.num_genes), dtype=np.int64)
        if np.count_nonzero(~self.archive.failed) >= min(SAMPLES[kind] for kind in self.kinds):
            genes = self._candidates(rng)
        return np.concatenate([genes, self._sample(self.batch - len(genes), genes, rng)])

    def _candidates(self, rng: np.random.Generator) -> IntMatrix:
        """Candidates of the evolution under the predicted error, spread over the front."""
        known = ~self.archive.failed
        genes, values = self.archive.genes, self.archive.values
        self.predictor = fit_accuracy(
            self.space,
            genes[known],
            values[known, 0],
            kinds=self.kinds,
            seed=int(rng.integers(2**31)),
            features=self.features,
        )
        tau = {str(kind): tau for kind, tau in self.predictor.tau.items()}
        if (best := max(tau.values())) <= 0:
            warnings.warn(
                f"The accuracy predictor of iteration {self._proposal.number} tells nothing: its Kendall's tau is "
                f"{best:.2f} in cross-validation, so candidates are as good as drawn ones. Evaluate more architectures "
                "(initial, batch), or with less noise: on more validation images, after a longer training.",
                stacklevel=2,
            )
        self._proposal = replace(self._proposal, kind=self.predictor.kind, tau=tau)
        front = self.front()
        with _quiet():
            found, predicted = evolve(
                self.space,
                self._objectives,
                self._excesses,
                genes[front],
                population=self.population,
                generations=self.generations,
                rng=rng,
                exclude=genes,
                least=self.batch,
            )
        hopeful = predicted.copy()
        hopeful[:, 0] -= OPTIMISM * self.predictor.predict(found)[1]
        return found[largest_gain(hopeful, self.batch, values[front])]

    def _objectives(self, genes: IntMatrix) -> Floats:
        assert self.predictor is not None
        return np.column_stack([self.predictor.predict(genes)[0], self._costs(genes)])

    def _costs(self, genes: IntMatrix, *, exact: bool = False) -> Floats:
        costs = [objective.values(genes, exact=exact) for objective in self.objectives]
        return np.stack(costs, axis=1) if costs else np.zeros((len(genes), 0))

    def _excesses(self, genes: IntMatrix) -> Floats:
        """Of all constraints, one of which is that the output reads the input, ``[N, K]``."""
        bounds = excesses(self.constraints, genes)
        if not self._has_cells:
            return bounds
        return np.column_stack([bounds, np.where(connected(self.space, genes), -1.0, 1.0)])

    def _feasible(self, genes: IntMatrix) -> npt.NDArray[np.bool_]:
        with _quiet():
            return np.asarray((self._excesses(genes) <= 0).all(1))

    @cached_property
    def _extremes(self) -> IntMatrix:
        """The smallest and the largest in the first objective, ``[2, G]`` or fewer."""
        if not self.objectives:
            return np.empty((0, self.space.num_genes), dtype=np.int64)
        cost, found = self.objectives[0], []
        with _quiet():
            for sign in (1.0, -1.0):
                found.append(minimise(self.space, partial(_signed, cost, sign), seed=self.seed)[0])
        return np.array(list(dict(zip(keys(np.array(found)), found)).values()))

    def _sample(self, n: int, besides: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        """New feasible architectures, at most ``n``, spread over costs; they differ from ``besides`` in many genes."""
        known = np.concatenate([self.archive.genes, besides])
        every = enumerate_space(self.space, MOST_ENUMERATED) if n > 0 else known[:0]
        pool = dict(zip(keys(every), every)) if every is not None else self._draw(POOL * n, set(keys(known)), rng)
        for key in keys(known):
            pool.pop(key, None)
        if not pool or n <= 0:
            return known[:0]
        candidates = np.array(list(pool.values()))
        candidates = candidates[self._feasible(candidates)]
        if every is not None:
            candidates = candidates[rng.permutation(len(candidates))[: POOL * n]]
        return candidates[self._spread(candidates, n, besides)]

    def _spread(self, candidates: IntMatrix, n: int, besides: IntMatrix) -> npt.NDArray[np.int64]:
        """Rows of candidates that are spread over all costs; of those of like costs the ones that differ most."""
        if not self.objectives or len(candidates) <= n:
            return spread_sample(candidates, n, besides)
        costs = self._costs(candidates)
        low, high = costs.min(0), costs.max(0)
        place = ((costs - low) / np.where(high > low, high - low, 1.0)).mean(1)
        return spread_over(place, candidates, n, besides)

    def _draw(self, n: int, known: set[bytes], rng: np.random.Generator) -> dict[bytes, IntMatrix]:
        """Up to ``n`` feasible new ones of a space too large to list; by evolution where samples are not feasible."""
        found: dict[bytes, IntMatrix] = {}
        for _ in range(ROUNDS):
            genes = self._towards_extremes(self.space.sample_matrix(n, rng), rng)
            genes = genes[self._feasible(genes)]
            found.update((key, row) for key, row in zip(keys(genes), genes) if key not in known)
            if len(found) >= n:
                return dict(list(found.items())[:n])
            if not len(genes):
                break
        with _quiet():
            genes, _ = evolve(
                self.space,
                lambda g: np.maximum(self._excesses(g), 0).sum(1, keepdims=True),
                self._excesses,
                population=50,
                generations=60,
                rng=rng,
                least=n,
            )
        found.update((key, row) for key, row in zip(keys(genes), genes) if key not in known)
        return dict(list(found.items())[:n])

    def _towards_extremes(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        """Half of some architectures crossed with an extreme one, by shares from 0 to 1 of their groups of genes.

        Where there are many genes, drawn architectures are all of middling cost.
        """
        extremes = self._extremes if self._first is None else self._first
        if not len(extremes):
            return self.space.repair(genes)
        groups, mixed = self.space.gene_groups(), genes.copy()
        for row in mixed[: len(mixed) // 2]:
            other, share = extremes[rng.integers(len(extremes))], rng.random()
            for group in groups:
                if rng.random() < share:
                    row[group] = other[group]
        return self.space.repair(mixed)

    # Telling.

    def tell(self, genes: npt.ArrayLike, errors: npt.ArrayLike) -> None:
        """Record evaluations, those that were asked for or others, all or none.

        Args:
            genes: Canonical architectures, ``[n, G]``.
            errors: Their errors, ``[n]``, smaller is better; NaN says that the evaluation failed.

        Raises:
            ValueError: If an architecture was told before, is not canonical, or an error is infinite.
        """
        rows = check_canonical(self.space, genes)
        y = self._check_errors(errors, len(rows))
        with _quiet():
            self.archive.add(rows, np.column_stack([y, self._costs(rows, exact=True)]))
        asked = [self._pending.pop(key) for key in keys(rows) if key in self._pending]
        if asked and not self._pending:
            self._history.append(self._measured(self._proposal))

    def update(self, errors: npt.ArrayLike) -> None:
        """Replace the errors of the whole archive, ``[N]`` in its order: when shared weights have moved.

        The hypervolume of the last iteration becomes that of the new errors.

        Raises:
            ValueError: If there are not as many, or one is infinite; then nothing is replaced.
        """
        y = self._check_errors(errors, len(self.archive))
        self.archive.update(np.column_stack([y, self.archive.values[:, 1:]]))
        if self._history:
            self._history[-1] = self._measured(self._history[-1])

    def _check_errors(self, errors: npt.ArrayLike, n: int) -> Floats:
        y = np.asarray(errors, np.float64)
        if y.shape != (n,) or np.isinf(y).any():
            raise ValueError(
                f"{n} architectures have as many errors, finite or, where an evaluation failed, NaN; got shape "
                f"{list(y.shape)} with {int(np.isinf(y).sum())} infinite."
            )
        return y

    def _measured(self, iteration: Iteration) -> Iteration:
        failed = int(self.archive.failed.sum())
        volume = self._hypervolume()
        return replace(iteration, evaluations=len(self.archive), failed=failed, hypervolume=volume)

    def _hypervolume(self) -> float:
        values = self.archive.values[~self.archive.failed & self._feasible(self.archive.genes)]
        if not len(values):
            return 0.0
        if self._box is None:
            self._box = values.min(0), reference_point(values)
        ideal, reference = self._box
        return hypervolume((values - ideal) / (reference - ideal), np.ones(len(ideal)))

    # Results.

    @property
    def history(self) -> tuple[Iteration, ...]:
        """One entry for each iteration that is complete."""
        return tuple(self._history)

    def front(self) -> npt.NDArray[np.int64]:
        """Rows of the archive that keep the constraints, and have an output, and that no other such row dominates."""
        rows = np.flatnonzero(self._feasible(self.archive.genes))
        return rows[non_dominated(self.archive.values[rows])].astype(np.int64) if len(rows) else rows.astype(np.int64)

    def best(self, n: int | None = None) -> npt.NDArray[np.int64]:
        """Rows of the ``n`` best that did not fail, by rank and crowding; those that break constraints come last."""
        values, feasible = self.archive.values, self._feasible(self.archive.genes)
        parts = [rows[by_rank_and_crowding(values[rows])] for rows in map(np.flatnonzero, (feasible, ~feasible))]
        return np.concatenate(parts)[:n]

    # State.

    def state_dict(self) -> dict[str, Any]:
        """Everything a search is resumed by, JSON-able."""
        return {
            "schema_version": SCHEMA_VERSION,
            "seed": self.seed,
            "constraints": [str(constraint) for constraint in self.constraints],
            "archive": self.archive.to_dict(),
            "pending": [row.tolist() for row in self._pending.values()],
            "proposal": asdict(self._proposal),
            "history": [asdict(iteration) for iteration in self._history],
            "box": None if self._box is None else [part.tolist() for part in self._box],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: If it is of another space, other objectives, constraints or seed, or costs are no longer what
                they were; then nothing is loaded.
        """
        if state.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"The state of a search must be a dictionary with schema_version {SCHEMA_VERSION}.")
        state = checked({key: state[key] for key in _State.__annotations__ if key in state}, _State, "The state")
        archive = Archive.from_dict(self.space, state["archive"])
        ours = (self.archive.objectives, [str(c) for c in self.constraints], self.seed)
        theirs = (archive.objectives, list(state["constraints"]), state["seed"])
        for what, a, b in zip(("objectives", "constraints", "seed"), ours, theirs):
            if a != b:
                raise ValueError(
                    f"This search has the {what} {a}, the saved one {b}. Resume with the same, or start anew."
                )
        with _quiet():
            costs = self._costs(archive.genes, exact=True)
        if not np.allclose(costs, archive.values[:, 1:], rtol=1e-6, atol=0):
            raise ValueError(
                "The cost models do not give the costs that the saved search had. Resume with the same models, or "
                "start a new search."
            )
        pending = np.array(state["pending"], dtype=np.int64).reshape(-1, self.space.num_genes)
        pending = check_canonical(self.space, pending)
        self.archive, self._pending = archive, dict(zip(keys(pending), pending))
        self._proposal = Iteration(**state["proposal"])
        self._history = [Iteration(**iteration) for iteration in state["history"]]
        self._box = None if state["box"] is None else (np.array(state["box"][0]), np.array(state["box"][1]))
        self.predictor = None


def _signed(cost: Objective, sign: float, genes: IntMatrix) -> Floats:
    return np.asarray(sign * cost.values(genes)[:, None])


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, learned costs do not warn of picks that no sample had: they did when the constraints were checked."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No measured architecture has")
        yield
