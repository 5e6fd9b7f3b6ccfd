"""Numbers that describe architectures beside their genes, such as zero-cost proxies, as features of predictors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Choice, Floats, IntMatrix, SearchSpace, SubnetConfig

GENES = 5  # quantiles that a feature is compared with, where it is to weigh about as much as two genes


class ExtraFeatures(ABC):
    """Features of architectures beside their genes; they must follow from the architecture alone.

    Example:
        >>> class Convolutions(ExtraFeatures):
        ...     def __call__(self, configs):
        ...         return np.array([[sum("conv" in str(pick) for pick in config["cell"])] for config in configs])
    """

    @property
    def names(self) -> tuple[str, ...]:
        """What the columns are, if they have names; a search goes on with those that it began with."""
        return ()

    @abstractmethod
    def __call__(self, configs: Sequence[SubnetConfig]) -> Floats:
        """Of N architectures, ``[N, P]``, finite."""


class KnownFeatures:
    """Extra features by genes; those of an architecture are computed once.

    Args:
        space: The space of the genes.
        source: Computes them.

    Raises:
        ValueError: When they are computed, if they are not ``[N, P]`` of as many columns as before, or not finite.
    """

    def __init__(self, space: SearchSpace, source: ExtraFeatures) -> None:
        self.space, self.source = space, source
        self._known: dict[bytes, Floats] = {}
        self._columns: int | None = None

    def __call__(self, genes: IntMatrix) -> Floats:
        """``[N, G] -> [N, P]``."""
        rows = np.ascontiguousarray(genes, dtype=np.int64)
        keys = [row.tobytes() for row in rows]
        new = {key: row for key, row in zip(keys, rows) if key not in self._known}
        if new or self._columns is None:
            self._known.update(zip(new, self._computed(list(new.values()))))
        return np.array([self._known[key] for key in keys], dtype=np.float64).reshape(len(keys), self._columns or 0)

    def _computed(self, rows: Sequence[IntMatrix]) -> Floats:
        found = np.asarray(self.source([self.space.config_of(row) for row in rows]), dtype=np.float64)
        what = type(self.source).__name__
        columns = self._columns if self._columns is not None else found.shape[-1] if found.ndim == 2 else 0
        if found.shape != (len(rows), columns) or not columns:
            raise ValueError(
                f"Extra features must be a row of numbers for each architecture, [{len(rows)}, {columns or 'P'}]; "
                f"{what} gives {list(found.shape)}."
            )
        if not np.isfinite(found).all():
            wrong = int(np.argmin(np.isfinite(found).all(1)))
            raise ValueError(
                f"Extra features must be finite; those of '{self.space.config_of(rows[wrong])}' by {what} are "
                f"{found[wrong].tolist()}. Give such architectures the least value, as ProxyFeatures does."
            )
        self._columns = columns
        return found


def quantiles(features: Floats, levels: int) -> Floats:
    """Quantiles of each feature that cut the architectures into equal parts: ``[N, P] -> [levels, P]``."""
    return np.asarray(np.quantile(features, np.arange(1, levels + 1) / (levels + 1), axis=0))


def above(features: Floats, bounds: Floats) -> npt.NDArray[np.bool_]:
    """Whether numbers are above each of some bounds, so that a distance is one of ranks.

    Args:
        features: ``[N, P]``.
        bounds: ``[levels, P]``.

    Returns:
        ``[N, P * levels]``.

    Example:
        >>> above(np.array([[1.0], [2.5]]), np.array([[1.0], [2.0]])).tolist()
        [[False, False], [True, True]]
    """
    return np.asarray((features[:, :, None] > bounds.T).reshape(len(features), -1))


class FeatureGenes:
    """Extra features as more genes, so that every model of genes takes them.

    A feature becomes ``GENES`` genes of two picks: whether it is above each of as many quantiles of the samples. So the
    Hamming distance of two architectures grows with the difference of their ranks.

    Args:
        features: Extra features.
        genes: The samples, ``[N, G]``.

    Attributes:
        space: What :meth:`encode` returns is of this space.
    """

    def __init__(self, features: KnownFeatures, genes: IntMatrix) -> None:
        values = features(genes)
        self._features, self._bounds = features, quantiles(values, GENES)
        choices = [
            Choice(f"feature_{p}", (f"feature {p} is low", f"feature {p} is high"), rows=GENES)
            for p in range(values.shape[1])
        ]
        self.space = SearchSpace(features.space.name, (*features.space.choices, *choices))

    def encode(self, genes: IntMatrix) -> IntMatrix:
        """``[N, G]`` with the further genes, ``[N, G + P * GENES]``."""
        return np.concatenate([genes, above(self._features(genes), self._bounds).astype(np.int64)], axis=1)
