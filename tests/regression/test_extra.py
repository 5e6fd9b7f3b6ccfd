"""Extra features: computed once, as genes whose distance is one of ranks, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from oneshot.regression.extra import GENES, ExtraFeatures, FeatureGenes, KnownFeatures, above, quantiles
from oneshot.supernets import Choice, SearchSpace, SubnetConfig

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c", "d"), rows=6),))
SAMPLES = np.unique(SPACE.sample_matrix(200, 0), axis=0)


class Hidden(ExtraFeatures):
    """Numbers that no model of genes learns: drawn with a seed made of the genes."""

    def __init__(self, columns: int = 2) -> None:
        self.columns = columns
        self.asked: list[SubnetConfig] = []

    def __call__(self, configs: Sequence[SubnetConfig]) -> np.ndarray:
        self.asked += configs
        return hidden(SPACE.encode(configs), self.columns)


def hidden(genes: np.ndarray, columns: int = 2) -> np.ndarray:
    return np.array([np.random.default_rng(row.tolist()).normal(size=columns) for row in genes]).reshape(-1, columns)


def test_features_of_an_architecture_are_computed_once() -> None:
    source = Hidden()
    known = KnownFeatures(SPACE, source)
    first = known(SAMPLES[[3, 1, 3]])
    np.testing.assert_array_equal(first, hidden(SAMPLES[[3, 1, 3]]))
    np.testing.assert_array_equal(known(SAMPLES[:4]), hidden(SAMPLES[:4]))
    assert len(source.asked) == len(set(source.asked)) == 4
    assert known(SAMPLES[:0]).shape == (0, 2) and len(source.asked) == 4


def test_a_feature_is_whether_it_is_above_quantiles() -> None:
    """Written out, number by number; and the wrong way round it is another."""
    values = np.random.default_rng(0).normal(size=(101, 3)).astype(np.float64)
    bounds = quantiles(values, 4)
    encoded = above(values, bounds)
    for p in range(3):
        ordered = sorted(values[:, p])
        cuts = [ordered[20 * k] for k in range(1, 5)]  # every fifth of 101
        np.testing.assert_allclose(bounds[:, p], cuts)
        for n in range(101):
            assert encoded[n, 4 * p : 4 * p + 4].tolist() == [values[n, p] > cut for cut in cuts]
    assert (encoded != above(values, bounds[::-1])).any()


def test_the_distance_of_feature_genes_is_one_of_ranks() -> None:
    more = FeatureGenes(KnownFeatures(SPACE, Hidden()), SAMPLES)
    genes = more.encode(SAMPLES)
    more.space.check_genes(genes)
    np.testing.assert_array_equal(genes[:, :6], SAMPLES)
    assert genes.shape[1] == more.space.num_genes == 6 + 2 * GENES
    values = hidden(SAMPLES)
    for p in range(2):
        own = genes[:, 6 + GENES * p : 6 + GENES * (p + 1)]
        part = own.sum(1)  # in which of the equal parts it is
        assert (np.diff(part[np.argsort(values[:, p])]) >= 0).all() and set(part) == set(range(GENES + 1))
        apart = (own[:, None] != own[None]).sum(-1)
        np.testing.assert_array_equal(apart, abs(part[:, None] - part[None]))


class Wrong(ExtraFeatures):
    def __init__(self, *found: object) -> None:
        self.found = list(found)

    def __call__(self, configs: Sequence[SubnetConfig]) -> np.ndarray:
        return np.array(self.found.pop(0))


@pytest.mark.parametrize(
    ("found", "match"),
    [
        pytest.param([[1.0, 2.0]], r"for each architecture, \[2, P\]; Wrong gives \[2\]", id="flat"),
        pytest.param([[[1.0]]], r"\[2, 1\]; Wrong gives \[1, 1\]", id="too few"),
        pytest.param([[[], []]], r"\[2, P\]; Wrong gives \[2, 0\]", id="empty"),
        pytest.param([[[1.0], [2.0]], [[1.0, 2.0]] * 2], r"\[2, 1\]; Wrong gives \[2, 2\]", id="other columns"),
        pytest.param([[[1.0], [np.nan]]], r"must be finite; those of '.*' by Wrong are \[nan\]", id="not finite"),
    ],
)
def test_features_that_do_not_do_are_refused(found: list[object], match: str) -> None:
    known = KnownFeatures(SPACE, Wrong(*found))
    with pytest.raises(ValueError, match=match):
        for start in (0, 2):
            known(SAMPLES[start : start + 2])
