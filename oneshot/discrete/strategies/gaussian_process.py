"""Bayesian optimisation with a Gaussian process over all architectures that were not proposed yet, or a large pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from oneshot.discrete.protocol import Genes, Proposal, Result, Scalar, SearchStrategy, can_be_listed, listed
from oneshot.fronts.pareto import non_dominated
from oneshot.regression.acquisition import DIMENSIONS, expected_hypervolume_improvement, expected_improvement
from oneshot.regression.features import ArchitectureFeatures, Singles
from oneshot.regression.gaussian_process import (
    Belief,
    GaussianProcessRegression,
    Hyperparameters,
    rank_normal,
)
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace, SubnetConfig

Scores: TypeAlias = Callable[[SubnetConfig], float] | Mapping[SubnetConfig, float]

SMALL = 20_000  # architectures up to which all that are left are candidates
PARENTS = 10  # best architectures whose mutations are candidates in larger spaces
MARGIN = 0.1  # of the reference point, as in oneshot.fronts.pareto.reference_point
AUGMENTED = 0.05  # share of the sum in ParEGO's scalar


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
        front: Look for a front of all objectives instead of the least scalar.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values; not with ``front``.

    Raises:
        ValueError: If a number is below 1, an architecture is not in the space, a score is not finite, or both a scalar
            and a front are asked for.
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
        front: bool = False,
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
        self.initial, self.batch, self.pool, self.scored, self.front = initial, batch, pool, scored, front
        self.scores = scores
        self.random_first = initial
        self.features = ArchitectureFeatures(space, graphs)
        self._known: list[tuple[Genes, tuple[float, ...] | None]] = []
        self._queue = list(space.repair(space.encode(first))) if first else []
        self._given = len(self._queue)
        self._listed: IntMatrix | None = None
        self._start: dict[int, Hyperparameters] = {}  # by objective: where the next fit begins
        if can_be_listed(space) and len(every := listed(space)) <= SMALL:
            self._listed, self._row = every, {row.tobytes(): i for i, row in enumerate(every)}
            self._free = np.ones(len(every), dtype=bool)
            self._blocks = self.features.encode(every)

    def _propose(self) -> Proposal | None:
        if self._next == 0 and self.scores is not None and self.initial > self._given:
            self._queue += self._best_scored((self.initial - self._given + 1) // 2)
        while self._queue:
            if self._is_new(genes := self._queue.pop(0)):
                return self._new(genes)
        if self._next < self.initial or sum(values is not None for _, values in self._known) < 2:
            found = self._fresh(self._random)
            return None if found is None else self._new(found)
        self._queue = self._round()
        return self._new(self._queue.pop(0)) if self._queue else None

    def _learn(self, proposal: Proposal, result: Result) -> None:
        values = result.values
        if values is not None and not self.front:
            values = (self.loss(result),)
        self._known.append((self._genes(proposal), values))

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

    def _round(self) -> list[Genes]:
        """The proposals of a round, best first; none if nothing is left."""
        known = np.stack([genes for genes, _ in self._known])
        flying = self.space.encode(proposal.config for proposal in self.pending.values())
        width = max(len(values) for _, values in self._known if values is not None)
        values = np.array([(np.inf,) * width if v is None else v for _, v in self._known])
        candidates = self._candidates(known[np.argsort(rank_normal(values[:, 0]), kind="stable")[:PARENTS]])
        if not len(candidates):
            return []
        if width > DIMENSIONS:
            values, width = self._weighed(values)[:, None], 1
        seen, others = self._encode(known, flying, candidates)
        models = []
        for m in range(width):
            models.append(GaussianProcessRegression(seen, rank_normal(values[:, m]), start=self._start.get(m)))
            self._start[m] = models[m].hyperparameters
        targets = np.stack([rank_normal(column) for column in values.T], 1)
        if width == 1:
            chosen = most_improving(models[0], others, float(targets.min()), len(flying), self.batch)
        else:
            chosen = most_extending(models, others, targets, len(flying), self.batch)
        return [candidates[i - len(flying)] for i in chosen]

    def _weighed(self, values: Floats) -> Floats:
        """ParEGO's scalar of ranks between 0 and 1, with weights by chance, ``[N, M] -> [N]``."""
        ranks = np.stack([np.argsort(np.argsort(rank_normal(v), kind="stable")) for v in values.T], 1) / len(values)
        weighed = ranks * self.rng.dirichlet(np.ones(values.shape[1]))
        return np.asarray(weighed.max(1) + AUGMENTED * weighed.sum(1))

    def _candidates(self, best: IntMatrix) -> IntMatrix:
        """Architectures that were not proposed: all of a small space, else mutations of the best, and random ones."""
        if self._listed is not None:
            self._free[[self._row[key] for key in self._proposed]] = False
            return self._listed[self._free]
        found: dict[bytes, Genes] = {}
        for attempt in range(4 * self.pool):
            if len(found) >= self.pool:
                break
            near = len(found) < self.pool // 2 and attempt < 2 * self.pool
            genes = self._mutated(best[attempt % len(best)], 1 + attempt % 2) if near else self._random()
            if self._is_new(genes):
                found[genes.tobytes()] = genes
        return np.stack(list(found.values())) if found else np.empty((0, self.space.num_genes), dtype=np.int64)

    def _encode(
        self, known: IntMatrix, flying: IntMatrix, candidates: IntMatrix
    ) -> tuple[list[Singles], list[Singles]]:
        """Features of what is known, and of what is in flight and of candidates."""
        if self._listed is not None:
            ours, theirs = ([self._row[row.tobytes()] for row in rows] for rows in (known, flying))
            theirs += np.flatnonzero(self._free).tolist()
            return [block[ours] for block in self._blocks], [block[theirs] for block in self._blocks]
        blocks = self.features.encode(np.concatenate([known, flying, candidates]))
        return [block[: len(known)] for block in blocks], [block[len(known) :] for block in blocks]


def most_improving(
    model: GaussianProcessRegression, blocks: Sequence[Singles], best: float, believed: int, n: int
) -> list[int]:
    """Candidates of the largest expected improvement, one after the other, each believed when it is chosen.

    Args:
        model: Of what is minimised.
        blocks: Features of architectures in flight, then of candidates.
        best: The least target so far.
        believed: Number of architectures in flight.
        n: How many are chosen, if there are as many.

    Returns:
        Rows of the blocks, largest improvement first.
    """
    belief, chosen = Belief(model, blocks), list[int]()
    for i in range(believed):
        best = min(best, float(belief.mean[i]))
        belief.believe(i)
    while len(chosen) < min(n, len(belief.mean) - believed):
        gain = expected_improvement(belief.mean, belief.std, best)
        gain[[*range(believed), *chosen]] = -1.0
        chosen.append(int(gain.argmax()))
        best = min(best, float(belief.mean[chosen[-1]]))
        belief.believe(chosen[-1])
    return chosen


def most_extending(
    models: Sequence[GaussianProcessRegression], blocks: Sequence[Singles], targets: Floats, believed: int, n: int
) -> list[int]:
    """Candidates that extend a front most, by expected hypervolume; see :func:`most_improving`.

    Args:
        models: One for each objective.
        blocks: Features of architectures in flight, then of candidates.
        targets: Of what was evaluated, ``[N, M]``.
        believed: Number of architectures in flight.
        n: How many are chosen, if there are as many.
    """
    beliefs = [Belief(model, blocks) for model in models]
    reference = targets.max(0) + MARGIN * np.ptp(targets, axis=0) + 1e-9
    means, points, chosen = np.stack([belief.mean for belief in beliefs], 1), targets, list[int]()
    for i in range(believed):
        points = np.concatenate([points, means[i : i + 1]])
        for belief in beliefs:
            belief.believe(i)
    while len(chosen) < min(n, len(means) - believed):
        front = points[non_dominated(points) & (points < reference).all(1)]
        std = np.stack([belief.std for belief in beliefs], 1)
        gain = expected_hypervolume_improvement(means, std, front, reference)
        gain[[*range(believed), *chosen]] = -1.0
        i = int(gain.argmax())
        chosen.append(i)
        points = np.concatenate([points, means[i : i + 1]])
        for belief in beliefs:
            belief.believe(i)
    return chosen
