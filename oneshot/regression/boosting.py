"""Gradient boosting of trees on genes."""

from __future__ import annotations

import numpy as np

from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

CATEGORIES = 255  # picks up to which scikit-learn takes a gene as categories; above, it is a number


class BoostedTrees:
    """Gradient boosting of scikit-learn on the genes as categories.

    Args:
        space: The search space.
        genes: ``[N, G]``.
        targets: ``[N]``.
        trees: How many.
        leaves: Of a tree, at most.
        seed: Of scikit-learn's random choices.
    """

    def __init__(
        self, space: SearchSpace, genes: IntMatrix, targets: Floats, *, trees: int, leaves: int, seed: int
    ) -> None:
        from sklearn.ensemble import HistGradientBoostingRegressor

        self._model = HistGradientBoostingRegressor(
            max_iter=trees,
            min_samples_leaf=5,
            max_leaf_nodes=leaves,
            categorical_features=[g for g, size in enumerate(space.gene_sizes) if size <= CATEGORIES],
            random_state=seed,
        )
        self._model.fit(genes, targets)

    def predict(self, genes: IntMatrix) -> Floats:
        """``[N, G] -> [N]``."""
        return np.asarray(self._model.predict(genes), np.float64)
