"""Bayesian optimisation with a Gaussian process over all architectures that were not proposed yet, or a large pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from oneshot.discrete.protocol import Genes, Proposal, Result, Scalar, SearchStrategy, can_be_listed, listed
from oneshot.fronts.nsga2 import by_rank_and_crowding
from oneshot.fronts.pareto import non_dominated
from oneshot.regression.acquisition import DIMENSIONS, expected_hypervolume_improvement, expected_improvement
from oneshot.regression.autoregression import AutoregressiveBelief, AutoregressiveRegression
from oneshot.regression.extra import ExtraFeatures, KnownFeatures, above, quantiles
from oneshot.regression.features import ArchitectureFeatures, Singles
from oneshot.regression.gaussian_process import Hyperparameters, rank_normal
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace, SubnetConfig

Scores: TypeAlias = Callable[[SubnetConfig], float] | Mapping[SubnetConfig, float]

SMALL = 20_000  # architectures up to which all that are left are candidates
PARENTS = 10  # best architectures whose mutations are candidates in larger spaces
MARGIN = 0.1  # of the reference point, as in oneshot.fronts.pareto.reference_point
LEVELS = 16  # quantiles that an extra feature is compared with
AUGMENTED = 0.05  # share of the sum in ParEGO's scalar


class Evaluated(NamedTuple):
    """What one evaluation has told.

    Args:
        genes: ``[G]``.
        values: What is minimised, ``[M]``; None if it failed.
        number: Of the evaluation.
    """

    genes: Genes
    values: tuple[float, ...] | None
    number: int


class GaussianProcess(SearchStrategy):
    """Evaluates where a Gaussian process expects the largest improvement.

    Every round fits a Gaussian process to the ranks of all results, as quantiles of a normal distribution: accuracies
    have a long tail of bad architectures, which would decide the fit. Its kernel is a mixture of exponential kernels of
    the genes, of counts of picks, and of paths where architectures are graphs
    (:class:`~oneshot.regression.features.ArchitectureFeatures`), whose hyper-parameters have the largest evidence on a
    grid (:class:`~oneshot.regression.gaussian_process.GaussianProcessRegression`). What failed is as bad as the worst.

    Of all architectures that were not proposed yet, it proposes that of the largest expected improvement (Jones,
    Schonlau and Welch, 1998), ``batch`` of them one after the other: what was proposed and has no result counts as
    evaluated with the mean of the model (kriging believer, Ginsbourger et al., 2010). In spaces of more than 20,000
    architectures the candidates are ``pool`` ones, half of them mutations of the ten best, half random.

    With ``front=True`` it looks for the front of two or three objectives by expected hypervolume improvement (Emmerich
    et al., 2011), one Gaussian process each; the volume is that of ranks, so units do not matter. Of four or more
    objectives every round weighs the ranks by chance (ParEGO, Knowles, IEEE TEC 10(1), 2006, equation 2).

    With ``fidelities`` it trains new architectures at the lowest one, and some of them longer, from the weights they
    have. All fidelities get equal shares of the budget. Trained longer is what promises the largest improvement at the
    highest fidelity, in a model of all of them
    (:class:`~oneshot.regression.autoregression.AutoregressiveRegression`), in which a short training tells something
    about the long one of every architecture.

    Args:
        space: The space to search.
        initial: Architectures before the first round: ``first``, then those that ``scores`` choose, then random ones.
        batch: Proposals of a round.
        pool: Candidates of a round in a large space.
        first: Architectures to begin with.
        scores: Scores by which others are chosen to begin with, more is better: a table, or a function that is called
            with a config, such as a zero-cost proxy. Half of what ``first`` leaves of ``initial`` are the best by
            score, the others random.
        scored: Random architectures that a function scores before the search; of a table, all count.
        graphs: What the kernel sees of graphs; see :class:`~oneshot.regression.features.ArchitectureFeatures`.
        features: Extra features, such as :class:`~oneshot.proxies.ProxyFeatures`, with a kernel of their own: a feature
            is whether it is above each of ``LEVELS`` quantiles. They are computed once for every candidate; so
            candidates are those of a large space, unless ``pool`` is as large as the space.
        fidelities: Fidelities in the units of the evaluator (epochs), the lowest first; by default there is one.
        front: Look for a front of all objectives instead of the least scalar.
        noisy: Whether results are inexact, such as accuracies after short trainings. Then ``best`` is what the model
            holds for the best of all that were evaluated, and improvements are over that: the best of many inexact
            results is the luckiest one. Not with ``front``.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values; not with ``front``.

    Raises:
        ValueError: If a number is below 1, an architecture is not in the space, a score is not finite, fidelities do
            not rise, or both a scalar and a front are asked for.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        initial: int = 20,
        batch: int = 5,
        pool: int = 1000,
        first: Sequence[SubnetConfig] = (),
        scores: Scores | None = None,
        scored: int = 200,
        graphs: Literal["auto", "path", "walk", "none"] = "auto",
        features: ExtraFeatures | None = None,
        fidelities: Sequence[float] | None = None,
        front: bool = False,
        noisy: bool = False,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if min(initial, batch, pool, scored) < 1:
            raise ValueError(
                f"initial, batch, pool and scored must be at least 1; got {initial}, {batch}, {pool}, {scored}."
            )
        if front and scalar is not None:
            raise ValueError(
                "A scalar makes one objective of all, and front=True looks for the front of all: give one of the two."
            )
        if front and noisy:
            raise ValueError(
                "noisy=True names one best architecture, and front=True looks for many: give one of the two. If the "
                "results of a front are inexact, train again what you would take of it."
            )
        if fidelities is not None and not _rise(fidelities):
            raise ValueError(
                f"Fidelities must be numbers that rise from above 0, such as (12, 200); got {fidelities!r}."
            )
        self.initial, self.batch, self.pool, self.scored, self.front = initial, batch, pool, scored, front
        self.noisy = noisy
        self.scores, self.fidelities = scores, None if fidelities is None else tuple(fidelities)
        self.by_rung = self.repeats = fidelities is not None
        self.random_first = initial
        self.features = ArchitectureFeatures(space, graphs)
        self.extra = None if features is None else KnownFeatures(space, features)
        rungs = len(self.fidelities or (None,))
        self._known: list[list[Evaluated]] = [[] for _ in range(rungs)]
        self._spent = [0.0] * rungs
        self._promoted: list[set[bytes]] = [set() for _ in range(rungs)]
        self._queue = list(space.repair(space.encode(first))) if first else []
        self._given = len(self._queue)
        self._listed: IntMatrix | None = None
        self._start: dict[int, list[Hyperparameters]] = {}  # by objective: where the next fit begins
        most = SMALL if features is None else min(pool, SMALL)
        if can_be_listed(space) and len(every := listed(space)) <= most:
            self._listed, self._row = every, {row.tobytes(): i for i, row in enumerate(every)}
            self._free = np.ones(len(every), dtype=bool)
            self._blocks = self._described(every)

    def _propose(self) -> Proposal | None:
        for rung in sorted(range(len(self._known)), key=self._spent.__getitem__):
            proposal = self._promote(rung) if rung else self._begin()
            if proposal is not None:
                self._spent[rung] += (proposal.fidelity or 0.0) - proposal.trained
                return proposal
        return None

    def _begin(self) -> Proposal | None:
        """A new architecture, at the lowest fidelity."""
        if not self._proposed and self.scores is not None and self.initial > self._given:
            self._queue += self._best_scored((self.initial - self._given + 1) // 2)
        fidelity = self.fidelities[0] if self.fidelities else None
        while self._queue:
            if self._is_new(genes := self._queue.pop(0)):
                return self._new(genes, fidelity=fidelity)
        if len(self._proposed) < self.initial or self._successes(0) < 2:
            found = self._fresh(self._random)
            return None if found is None else self._new(found, fidelity=fidelity)
        candidates = self._candidates()
        if not len(candidates):
            return None
        self._queue = [candidates[i] for i in self._round(candidates, 0, self.batch)]
        return self._new(self._queue.pop(0), fidelity=fidelity)

    def _promote(self, rung: int) -> Proposal | None:
        """The evaluated architecture that promises most, at the fidelity of a rung; None if there are too few."""
        assert self.fidelities is not None
        below = self._known[rung - 1]
        ready = [e for e in below if e.values is not None and e.genes.tobytes() not in self._promoted[rung]]
        if not ready or len(below) < max(self.initial >> (rung - 1), 2) or self._successes(0) < 2:
            return None
        (best,) = self._round(np.stack([e.genes for e in ready]), rung, 1)
        self._promoted[rung].add(ready[best].genes.tobytes())
        return self._number(
            self.space.config_of(ready[best].genes),
            parent=ready[best].number,
            fidelity=self.fidelities[rung],
            trained=self.fidelities[rung - 1],
        )

    def _successes(self, rung: int) -> int:
        return sum(evaluated.values is not None for evaluated in self._known[rung])

    def _rung(self, proposal: Proposal) -> int:
        return 0 if self.fidelities is None or proposal.fidelity is None else self.fidelities.index(proposal.fidelity)

    def _learn(self, proposal: Proposal, result: Result) -> None:
        values = result.values
        if values is not None and not self.front:
            values = (self.loss(result),)
        self._known[self._rung(proposal)].append(Evaluated(self._genes(proposal), values, proposal.number))

    def _best_scored(self, n: int) -> list[Genes]:
        """The best by their scores; of equal ones, those that were drawn first."""
        assert self.scores is not None
        if isinstance(self.scores, Mapping):
            configs = list(self.scores)
            scores = [float(score) for score in self.scores.values()]
            genes = self.space.repair(self.space.encode(configs)) if configs else np.empty((0, self.space.num_genes))
        else:
            genes = self.space.repair(self.space.sample_matrix(self.scored, self.rng))
            genes = genes[np.sort(np.unique(genes, axis=0, return_index=True)[1])]
            scores = [float(self.scores(self.space.config_of(row))) for row in genes]
        if not np.isfinite(scores).all():
            wrong = int(np.argmin(np.isfinite(scores)))
            raise ValueError(
                f"Scores of architectures must be finite; '{self.space.config_of(genes[wrong])}' has {scores[wrong]}. "
                "Leave it out of the table, or give it the least score."
            )
        return [genes[i] for i in np.argsort(-np.array(scores), kind="stable")[:n]]

    # A round.

    def _round(self, candidates: IntMatrix, rung: int, n: int) -> list[int]:
        """Which of the candidates to evaluate at a rung, up to n of them, best first."""
        known, values = self._results()
        width = values[0].shape[1]
        if width > DIMENSIONS:
            weights, width = self.rng.dirichlet(np.ones(width)), 1
            values = [_weighed(level, weights)[:, None] for level in values]
        pending = list(self.pending.values())
        rest = np.concatenate([self.space.encode(proposal.config for proposal in pending), candidates])
        *seen, others = self._encode(*(np.stack([e.genes for e in rows]) for rows in known), rest)
        beliefs = []
        for m in range(width):
            levels = [(blocks, rank_normal(level[:, m])) for blocks, level in zip(seen, values)]
            model = AutoregressiveRegression(levels, start=self._start.get(m))
            self._start[m] = model.hyperparameters
            beliefs.append(AutoregressiveBelief(model, others))
            for i, proposal in enumerate(pending):
                beliefs[m].believe(i, self._rung(proposal))
        highest = np.stack([rank_normal(column) for column in values[-1].T], 1)
        if self.noisy:
            highest = AutoregressiveBelief(model, seen[-1]).mean[:, None]
        choose = most_improving if width == 1 else most_extending
        flying = [self._rung(proposal) for proposal in pending]
        return [i - len(pending) for i in choose(beliefs, highest, flying, n, rung)]

    def _results(self) -> tuple[list[list[Evaluated]], list[Floats]]:
        """What is known at every fidelity that has two results, and the values, ``[N, M]`` each."""
        known = [rows for rows in self._known if sum(e.values is not None for e in rows) >= 2]
        width = max((len(e.values) for rows in known for e in rows if e.values is not None), default=0)
        failed = (np.inf,) * width  # as bad as the worst
        return known, [np.array([failed if e.values is None else e.values for e in rows]) for rows in known]

    @property
    def best(self) -> Proposal:
        """As for all strategies, or with ``noisy`` what the model holds for the best, of the highest fidelity."""
        known, values = self._results()
        if not (self.noisy and known):
            return super().best
        seen = self._encode(*(np.stack([e.genes for e in rows]) for rows in known))
        levels = [(blocks, rank_normal(level[:, 0])) for blocks, level in zip(seen, values)]
        mean = AutoregressiveBelief(AutoregressiveRegression(levels, start=self._start.get(0)), seen[-1]).mean
        row = min((i for i, e in enumerate(known[-1]) if e.values is not None), key=lambda i: (mean[i], i))
        return self.observed[known[-1][row].number][0]

    def _candidates(self) -> IntMatrix:
        """Architectures that were not proposed: all of a small space, else mutations of the best, and random ones."""
        if self._listed is not None:
            self._free[[self._row[key] for key in self._proposed]] = False
            return self._listed[self._free]
        best = self._best()
        found: dict[bytes, Genes] = {}
        for attempt in range(4 * self.pool):
            if len(found) >= self.pool:
                break
            near = len(found) < self.pool // 2 and attempt < 2 * self.pool
            genes = self._mutated(best[attempt % len(best)], 1 + attempt % 2) if near else self._random()
            if self._is_new(genes):
                found[genes.tobytes()] = genes
        return np.stack(list(found.values())) if found else np.empty((0, self.space.num_genes), dtype=np.int64)

    def _best(self) -> list[Genes]:
        """The best of the lowest fidelity, or of the first objective; or the front, where it is looked for."""
        done = [e for e in self._known[0] if e.values is not None]
        values = np.array([e.values for e in done])
        order = by_rank_and_crowding(values) if self.front else np.argsort(values[:, 0], kind="stable")
        return [done[i].genes for i in order[:PARENTS]]

    def _encode(self, *parts: IntMatrix) -> list[list[Singles]]:
        """Features of each part, ``[N, G]``."""
        if self._listed is not None:
            rows = [[self._row[genes.tobytes()] for genes in part] for part in parts]
            return [[block[part] for block in self._blocks] for part in rows]
        blocks, ends = self._described(np.concatenate(parts)), np.cumsum([0, *map(len, parts)])
        return [[block[a:b] for block in blocks] for a, b in pairwise(ends)]

    def _described(self, genes: IntMatrix) -> list[Singles]:
        """Features of each kind, ``[N, P]``."""
        blocks = self.features.encode(genes)
        if self.extra is not None:
            numbers = self.extra(genes)
            blocks.append(above(numbers, quantiles(numbers, LEVELS)).astype(np.float32))
        return blocks


def _weighed(values: Floats, weights: Floats) -> Floats:
    """ParEGO's scalar of ranks between 0 and 1, ``[N, M] -> [N]``."""
    from scipy.stats import rankdata

    weighed = rankdata(values, axis=0) / len(values) * weights
    return np.asarray(weighed.max(1) + AUGMENTED * weighed.sum(1))


def _rise(fidelities: object) -> bool:
    """Whether fidelities are finite numbers, at least one, each above the one before and the first above 0."""
    if not isinstance(fidelities, Sequence) or not fidelities or isinstance(fidelities, str):
        return False
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in fidelities)
    return numbers and all(a < b for a, b in pairwise([0, *fidelities]))


def most_improving(
    beliefs: Sequence[AutoregressiveBelief], targets: Floats, flying: Sequence[int], n: int, level: int = 0
) -> list[int]:
    """Candidates of the largest expected improvement, one after the other, each believed when it is chosen.

    Args:
        beliefs: Of one model: of architectures in flight, which are believed, then of candidates.
        targets: Of what was evaluated at the highest level, ``[N, 1]``.
        flying: Level at which each of those in flight is evaluated.
        n: How many are chosen, if there are as many.
        level: Level at which they will be evaluated.

    Returns:
        Rows, largest improvement first.
    """
    (belief,), chosen = beliefs, list[int]()
    best = min([float(targets.min()), *(belief.mean[i] for i, at in enumerate(flying) if at >= belief.highest)])
    while len(chosen) < min(n, len(belief.mean) - len(flying)):
        gain = expected_improvement(belief.mean, belief.std, best)
        gain[[*range(len(flying)), *chosen]] = -1.0
        chosen.append(int(gain.argmax()))
        if level >= belief.highest:
            best = min(best, float(belief.mean[chosen[-1]]))
        belief.believe(chosen[-1], level)
    return chosen


def most_extending(
    beliefs: Sequence[AutoregressiveBelief], targets: Floats, flying: Sequence[int], n: int, level: int = 0
) -> list[int]:
    """Candidates that extend a front most, by expected hypervolume; see :func:`most_improving`.

    Args:
        beliefs: Of one model for each objective.
        targets: ``[N, M]``.
        flying: Level at which each of those in flight is evaluated.
        n: How many are chosen, if there are as many.
        level: Level at which they will be evaluated.
    """
    reference = targets.max(0) + MARGIN * np.ptp(targets, axis=0) + 1e-9
    means, chosen = np.stack([belief.mean for belief in beliefs], 1), list[int]()
    highest = beliefs[0].highest
    points = np.concatenate([targets, means[[i for i, at in enumerate(flying) if at >= highest]]])
    while len(chosen) < min(n, len(means) - len(flying)):
        front = points[non_dominated(points) & (points < reference).all(1)]
        std = np.stack([belief.std for belief in beliefs], 1)
        gain = expected_hypervolume_improvement(means, std, front, reference)
        gain[[*range(len(flying)), *chosen]] = -1.0
        chosen.append(int(gain.argmax()))
        if level >= highest:
            points = np.concatenate([points, means[chosen[-1:]]])
        for belief in beliefs:
            belief.believe(chosen[-1], level)
    return chosen
