"""Categorical distributions of the genes of an archive, from which networks to train are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import RNG, Floats, IntMatrix, SearchSpace


@dataclass(frozen=True)
class Marginals:
    """Independent categorical distributions of the genes (Lu et al., TPAMI 2021, arXiv:2005.05859).

    Args:
        space: The search space.
        probabilities: One vector for each gene, over its picks.

    Raises:
        ValueError: If the shapes are not those of the space, or a vector is no distribution.
    """

    space: SearchSpace
    probabilities: tuple[Floats, ...]

    def __post_init__(self) -> None:
        if tuple(len(p) for p in self.probabilities) != self.space.gene_sizes:
            raise ValueError(
                f"Genes of space {self.space.name!r} have {self.space.gene_sizes} picks; got "
                f"{tuple(len(p) for p in self.probabilities)} probabilities."
            )
        if not all((p >= 0).all() and abs(p.sum() - 1) < 1e-9 for p in self.probabilities):
            raise ValueError("Probabilities of picks must not be negative and must sum to 1.")

    @classmethod
    def of(
        cls, space: SearchSpace, genes: npt.ArrayLike, *, smoothing: float = 1.0, weights: npt.ArrayLike | None = None
    ) -> Marginals:
        """Estimate from architectures: relative frequencies, with a prior that is uniform.

        Args:
            space: The search space.
            genes: ``[N, G]``.
            smoothing: Number of uniform samples that are added to the N (Lidstone), so that no pick dies out.
            weights: How much each architecture counts, ``[N]``; one each by default.

        Raises:
            ValueError: If there is nothing to estimate from.
        """
        rows = space.check_genes(genes)
        w = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
        if w.shape != (len(rows),) or (w < 0).any() or smoothing < 0 or not w.sum() + smoothing > 0:
            raise ValueError(
                f"Distributions need a weight of at least 0 for each of {len(rows)} architectures, and either "
                f"architectures or smoothing; got weights of shape {list(w.shape)} and smoothing={smoothing}."
            )
        total = w.sum() + smoothing
        return cls(
            space,
            tuple(
                (np.bincount(rows[:, g], w, minlength=size) + smoothing / size) / total
                for g, size in enumerate(space.gene_sizes)
            ),
        )

    def sample(self, n: int, rng: RNG = None) -> IntMatrix:
        """Draw ``n`` architectures, ``[n, G]``, repaired to canonical form."""
        generator = np.random.default_rng(rng)
        genes = np.stack([generator.choice(len(p), size=n, p=p / p.sum()) for p in self.probabilities], axis=1)
        return self.space.repair(genes.astype(np.int64))
