"""Categorical distributions of genes."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.nat import Marginals
from oneshot.supernets import Choice, RecurrentSpace, SearchSpace

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c"), rows=2), Choice("width", (16, 24, 32, 40))))


def test_samples_have_the_frequencies_of_the_archive() -> None:
    rng = np.random.default_rng(0)
    genes = np.stack([rng.choice(3, 500, p=[0.7, 0.3, 0]), rng.choice(3, 500), rng.choice(4, 500)], 1)
    drawn = Marginals.of(SPACE, genes, smoothing=0.0).sample(50_000, 1)
    for g, size in enumerate(SPACE.gene_sizes):
        ours, truth = (np.bincount(x[:, g], minlength=size) / len(x) for x in (drawn, genes))
        assert np.abs(ours - truth).sum() / 2 < 0.01  # total variation; continuous fits reach 0.21
        uniform = np.abs(np.full(size, 1 / size) - truth).sum() / 2
        assert uniform > 0.1 or g > 0
    assert not (drawn[:, 0] == 2).any()


def test_smoothing_adds_uniform_samples() -> None:
    genes = np.array([[0, 1, 3], [0, 2, 3]])
    first, _, last = Marginals.of(SPACE, genes, smoothing=1.0).probabilities
    assert first == pytest.approx([(2 + 1 / 3) / 3, 1 / 9, 1 / 9])
    assert last == pytest.approx([1 / 12, 1 / 12, 1 / 12, (2 + 1 / 4) / 3])
    kl = float((last * np.log(last / 0.25)).sum())
    smoother = Marginals.of(SPACE, genes, smoothing=100.0).probabilities[2]
    assert 0 < float((smoother * np.log(smoother / 0.25)).sum()) < kl / 100


def test_weights_count() -> None:
    genes = np.array([[0, 1, 3], [1, 2, 3]])
    first = Marginals.of(SPACE, genes, smoothing=0.0, weights=[3.0, 1.0]).probabilities[0]
    assert first == pytest.approx([0.75, 0.25, 0.0])


def test_samples_are_canonical_and_follow_their_seed() -> None:
    space = RecurrentSpace()
    marginals = Marginals.of(space, space.sample_matrix(20, 0))
    drawn = marginals.sample(200, 5)
    assert np.array_equal(space.repair(drawn), drawn)
    assert np.array_equal(drawn, marginals.sample(200, np.random.default_rng(5)))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="either architectures or smoothing"):
        Marginals.of(SPACE, SPACE.sample_matrix(0, 0), smoothing=0.0)
    with pytest.raises(ValueError, match="weight of at least 0"):
        Marginals.of(SPACE, SPACE.sample_matrix(2, 0), weights=[1.0, -1.0])
    with pytest.raises(ValueError, match=r"\(3, 3, 4\) picks"):
        Marginals(SPACE, (np.ones(1),))
    with pytest.raises(ValueError, match="sum to 1"):
        Marginals(SPACE, (np.ones(3), np.ones(3), np.ones(4)))
