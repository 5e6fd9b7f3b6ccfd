"""The networks of Zoph and Le are written down layer by layer, as in their paper."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.discrete import ZophLeSpace


def test_the_bits_of_an_anchor_are_the_skip_connections_into_its_layer() -> None:
    space = ZophLeSpace(layers=3)
    decisions = space.decisions()
    picks = np.zeros((1, len(decisions.sizes)), dtype=np.int64)
    into_last = decisions.steps[decisions.anchors[2]]
    picks[0, into_last[0]] = 1  # layer 2 reads layer 0
    (config,) = space.decode(decisions.genes(picks))
    assert config["skip"] == (0, 1, 0)  # 1 reads 0; 2 reads 0; 2 reads 1
    assert list(space.skips(2)) == [10, 11]


def test_a_space_without_skip_connections_is_refused() -> None:
    with pytest.raises(ValueError, match="Skip connections must have at least two layers; got layers=1"):
        ZophLeSpace(layers=1)
