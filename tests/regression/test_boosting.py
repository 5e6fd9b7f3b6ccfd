"""Boosted trees take genes as categories, also those that have too many picks for it."""

from __future__ import annotations

import numpy as np

from oneshot.regression.boosting import BoostedTrees
from oneshot.supernets import Choice, SearchSpace


def test_a_gene_with_more_picks_than_there_are_categories_is_a_number() -> None:
    space = SearchSpace("wide", (Choice("width", tuple(range(300))), Choice("layer", ("a", "b", "c"))))
    genes = space.sample_matrix(400, 0)
    costs = genes[:, 0] / 100 + np.array([0.0, 2.0, 1.0])[genes[:, 1]]
    trees = BoostedTrees(space, genes[:300], costs[:300], trees=50, leaves=8, seed=0)
    assert np.corrcoef(trees.predict(genes[300:]), costs[300:])[0, 1] > 0.95
