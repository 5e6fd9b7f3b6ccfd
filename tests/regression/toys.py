"""A space whose architectures have errors of known formulas."""

from __future__ import annotations

import numpy as np

from oneshot.supernets import Choice, SearchSpace

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c", "d"), rows=8, droppable=True),))
RNG = np.random.default_rng(0)
EFFECTS = [RNG.normal(size=5) for _ in range(8)]
PAIRS = [RNG.normal(size=(5, 5)) for _ in range(7)]


def errors(genes: np.ndarray, pairs: float = 0.0, noise: float = 0.0) -> np.ndarray:
    total = sum(e[genes[:, g]] for g, e in enumerate(EFFECTS)) + np.zeros(len(genes))
    total += pairs * sum(p[genes[:, g], genes[:, g + 1]] for g, p in enumerate(PAIRS))
    return 20.0 + total + noise * np.random.default_rng(5).normal(size=len(genes))


GENES, TEST = np.unique(SPACE.sample_matrix(150, 1), axis=0), SPACE.sample_matrix(400, 2)
