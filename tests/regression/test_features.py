"""Features by which kernels compare architectures."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.regression.features import ArchitectureFeatures, Walks, count_features
from oneshot.supernets import Choice, NASBench201Space, NASNetSpace, SearchSpace


def test_counts_are_those_of_picks_whatever_the_order() -> None:
    space = SearchSpace("two", (Choice("kernel", (3, 5), rows=3), Choice("other", (3, 5)), Choice("width", (8, 16))))
    genes = space.sample_matrix(40, 0)
    features = count_features(space, genes)
    apart = np.abs(features[:, None] - features[None]).sum(-1)
    fives, wide = (genes[:, :4] == 1).sum(1), genes[:, 4]
    expected = 2 * np.abs(fives[:, None] - fives[None]) + 2 * (wide[:, None] != wide[None])
    np.testing.assert_array_equal(apart, expected)


def test_walks_are_operations_and_pairs_of_them() -> None:
    space = NASBench201Space()
    config = space.from_arch_string("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|")
    found = {walk[1:] for walk in Walks(space).of(config)}
    labels = {tuple(word for word in walk if "_" in word) for walk in found}
    assert labels == {
        ("nor_conv_3x3",),
        ("skip_connect",),
        ("nor_conv_1x1",),
        ("avg_pool_3x3",),
        ("nor_conv_3x3", "skip_connect"),
        ("skip_connect", "avg_pool_3x3"),
    }


@pytest.mark.parametrize(("space", "kinds"), [(NASBench201Space(), 3), (NASNetSpace(), 3)])
def test_every_kind_of_features_is_binary(space: SearchSpace, kinds: int) -> None:
    blocks = ArchitectureFeatures(space).encode(space.repair(space.sample_matrix(30, 0)))
    assert len(blocks) == kinds
    assert all(len(block) == 30 and np.isin(block, (0, 1)).all() for block in blocks)


def test_walks_of_nasnet_are_common_where_its_paths_are_not() -> None:
    space = NASNetSpace()
    genes = space.repair(space.sample_matrix(60, 0))
    shared = {}
    for graphs in ("path", "walk"):
        block = ArchitectureFeatures(space, graphs, most=10_000).encode(genes)[2]  # type: ignore[arg-type]
        shared[graphs] = float(block.mean())
    assert shared["walk"] > 2 * shared["path"]


def test_bad_arguments_are_refused() -> None:
    chain = SearchSpace("chain", (Choice("layer", ("a", "b")),))
    with pytest.raises(ValueError, match="'auto', 'path', 'walk' or 'none'; got 'tree'"):
        ArchitectureFeatures(chain, "tree")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'chain' has no graph with paths; take 'walk', 'none' or 'auto'"):
        ArchitectureFeatures(chain, "path")
