"""BANANAS (White et al., AAAI 2021, arXiv:1910.11858): Bayesian optimisation with an ensemble of networks."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from oneshot.discrete.protocol import Genes, Proposal, Result, Scalar, SearchStrategy
from oneshot.regression.encoding import one_hot
from oneshot.regression.extra import ExtraFeatures, KnownFeatures
from oneshot.regression.features import Paths, count_features, has_common_paths
from oneshot.regression.gaussian_process import rank_normal
from oneshot.regression.networks import NetworkEnsemble, absolute, relu
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

Singles: TypeAlias = npt.NDArray[np.float32]

LAYERS, WIDTH = 10, 20  # of every network, as in the authors' code (naszilla/bananas)
RATE, BETAS, BATCH, EPOCHS = 0.01, (0.9, 0.99), 32, 150
STEPS = 750  # at most: 150 epochs of 160 samples; more samples have fewer epochs


class BANANAS(SearchStrategy):
    """Evaluates those mutations of the best architectures that a random draw of the predictor ranks best.

    Every round fits an ensemble to all results, draws for every candidate *one* value from the normal distribution of
    the ensemble's mean and spread, independently of the others (independent Thompson sampling, section 4), and proposes
    the least. The draws keep batches diverse, so that the proposals of a round may be evaluated at the same time.

    Where the authors' code changes every edge with a probability of one over two less than their number, a candidate is
    one mutation of the space away from its parent (two, where these run out). Where they keep the 30 shortest paths of
    NAS-Bench-201, all 84 are features.

    On NAS-Bench-201 two things held it back, both of the predictor: accuracies have a long tail of bad architectures,
    which takes most of a squared or absolute error, and paths say little about what like architectures have in common.
    ``targets="ranks"`` and ``encoding="counts"`` mend them; the defaults stay those of the paper.

    Args:
        space: The space to search.
        initial: Random architectures before the first round.
        batch: Proposals of a round.
        candidates: Architectures that are ranked in a round.
        parents: Best architectures that are mutated to make candidates.
        networks: Size of the ensemble.
        encoding: What the networks see: ``"path"``, which sequences of operations lead through the cell
            (:class:`~oneshot.regression.features.Paths`), ``"one_hot"`` genes, or ``"counts"``: the genes, and how
            often each pick occurs (:func:`~oneshot.regression.features.count_features`). ``"auto"`` takes paths in
            spaces of graphs, but not in NASNet's, whose cells have few in common; genes elsewhere.
        features: Extra inputs of the networks, such as :class:`~oneshot.proxies.ProxyFeatures`; computed once for every
            architecture that is evaluated or a candidate.
        targets: What they learn: ``"losses"``, standardised, or ``"ranks"`` as quantiles of a normal distribution.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If a number is below 1, or paths are asked for in a space that has none.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        initial: int = 10,
        batch: int = 10,
        candidates: int = 100,
        parents: int = 5,
        networks: int = 5,
        encoding: Literal["auto", "path", "one_hot", "counts"] = "auto",
        features: ExtraFeatures | None = None,
        targets: Literal["losses", "ranks"] = "losses",
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if min(initial, batch, candidates, parents, networks) < 1:
            raise ValueError(
                "initial, batch, candidates, parents and networks must be at least 1; got "
                f"{initial}, {batch}, {candidates}, {parents}, {networks}."
            )
        if encoding == "path" and not space.nodes():
            raise ValueError(f"Space {space.name!r} has no graph with paths; encode it by 'one_hot'.")
        if encoding not in ("auto", "path", "one_hot", "counts") or targets not in ("losses", "ranks"):
            raise ValueError(
                "encoding must be 'auto', 'path', 'one_hot' or 'counts', and targets 'losses' or 'ranks'; got "
                f"{encoding!r} and {targets!r}."
            )
        self.initial, self.batch, self.candidates, self.parents = initial, batch, candidates, parents
        self.random_first = initial
        self.networks = networks
        if encoding == "auto":
            encoding = "path" if has_common_paths(space) else "one_hot"
        self.paths = Paths(space) if encoding == "path" else None
        self.counts, self.targets = encoding == "counts", targets
        self.features = None if features is None else KnownFeatures(space, features)
        self._known: list[tuple[Genes, float]] = []
        self._queue: list[Genes] = []

    def _propose(self) -> Proposal | None:
        while self._queue:
            if self._is_new(genes := self._queue.pop(0)):
                return self._new(genes)
        fitting = [loss for _, loss in self._known if np.isfinite(loss)]
        if self._next < self.initial or len(fitting) < 2:
            found = self._fresh(self._random)
            return None if found is None else self._new(found)
        self._queue = self._round()
        return self._new(self._queue.pop(0)) if self._queue else None

    def _learn(self, proposal: Proposal, result: Result) -> None:
        self._known.append((self._genes(proposal), self.loss(result)))

    def _round(self) -> list[Genes]:
        """The proposals of a round, best first."""
        genes = np.stack([row for row, _ in self._known])
        losses = np.array([loss for _, loss in self._known])
        finite = losses[np.isfinite(losses)]
        losses = np.where(np.isfinite(losses), losses, finite.max())  # what failed is as bad as the worst
        candidates = self._candidates(genes[np.argsort(losses, kind="stable")[: self.parents]])
        if not len(candidates):
            return []
        x = self.encode(np.concatenate([genes, candidates]))
        spread = losses.std() or 1.0
        targets = rank_normal(losses) if self.targets == "ranks" else (losses - losses.mean()) / spread
        ensemble = Ensemble(x[: len(genes)], targets, self.networks, self.rng)
        outputs = ensemble.predict(x[len(genes) :])
        drawn = self.rng.normal(outputs.mean(0), outputs.std(0))
        return [candidates[i] for i in np.argsort(drawn, kind="stable")[: self.batch]]

    def _candidates(self, best: IntMatrix) -> IntMatrix:
        """New mutations of the best, and random architectures where these run out."""
        found: dict[bytes, Genes] = {}
        for attempt in range(4 * self.candidates):
            genes = self._mutated(best[attempt % len(best)], 1 + attempt // (2 * self.candidates))
            if self._is_new(genes):
                found[genes.tobytes()] = genes
            if len(found) == self.candidates:
                break
        if not found and (other := self._fresh(self._random)) is not None:
            found[other.tobytes()] = other
        return np.stack(list(found.values())) if found else np.empty((0, self.space.num_genes), dtype=np.int64)

    def encode(self, genes: IntMatrix) -> Singles:
        """Inputs of the networks: ``[N, G] -> [N, features]``."""
        if self.paths is None:
            blocks = [one_hot(self.space, genes).astype(np.float32)]
            blocks += [count_features(self.space, genes)] if self.counts else []
        else:
            blocks = [self.paths.encode([self.space.config_of(row) for row in genes])]
        blocks += [] if self.features is None else [self.features(genes).astype(np.float32)]
        return np.concatenate(blocks, 1) if len(blocks) > 1 else blocks[0]


class Ensemble:
    """Fully connected networks of ten layers, trained side by side to the mean absolute error.

    Each sees the samples in an order of its own.

    Args:
        x: ``[N, P]``.
        y: ``[N]``, standardised.
        networks: Number of networks, E.
        rng: Random numbers of weights and orders.
        epochs: Passes over the samples, within ``STEPS`` steps.
    """

    def __init__(
        self,
        x: Singles,
        y: npt.NDArray[np.floating[Any]],
        networks: int,
        rng: np.random.Generator,
        *,
        epochs: int = EPOCHS,
    ) -> None:
        self.networks = NetworkEnsemble((x.shape[1], *[WIDTH] * LAYERS, 1), networks, relu, BETAS)
        for weight in self.networks.weights[::2]:  # Glorot and Bengio, 2010, as the authors' framework does
            bound = (6 / (weight.shape[1] + weight.shape[2])) ** 0.5
            weight[:] = rng.uniform(-bound, bound, weight.shape)
        flat, targets = self.networks.flat, np.asarray(y, dtype=np.float32)
        for _ in range(min(epochs, -(-STEPS * BATCH // len(x)))):
            order = np.argsort(rng.random((networks, len(x))), axis=1)
            for start in range(0, len(x), BATCH):
                rows = order[:, start : start + BATCH]
                first, second, share, share_of_squares = self.networks.moments(
                    x[rows], targets[rows][..., None], absolute
                )
                flat -= RATE * share_of_squares**0.5 / share * first / (np.sqrt(second) + 1e-8)

    def predict(self, x: Singles) -> Floats:
        """``[N, P] -> [E, N]``."""
        return self.networks.predict(x)
