"""RandomSharing keeps the contract of a search without alphas, and draws its paths uniformly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from torch import Tensor

from oneshot.engine.sharing import Stream
from oneshot.methods.random_sharing import RandomSharing
from oneshot.supernets.darts import DARTSSupernet
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.testing import PlantedSupernet, SharingContract, find_planted_winner
from oneshot.testing.methods import WINNER, Method


class TestRandomSharing(SharingContract):
    epochs = 6

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: RandomSharing(supernet, weight_lr=0.1, grad_clip=5.0, candidates=20, finalists=4)


class Worst(RandomSharing):
    """Takes the worst of the ranking: the sign error a planted winner must reveal."""

    def rank(self, batches: Stream, calibration: Sequence[Tensor] = ()) -> None:
        super().rank(batches, calibration)
        self._genes[: len(self.ranking)] = self._genes[: len(self.ranking)].flip(0)


def test_a_search_that_takes_the_worst_misses_the_planted_winner() -> None:
    options: dict[str, Any] = {"weight_lr": 0.1, "grad_clip": 5.0, "candidates": 20, "finalists": 4}
    found = find_planted_winner(lambda supernet: Worst(supernet, **options), seed=0, epochs=6)
    assert found["edge"] != (WINNER,)


def test_every_step_draws_one_path_uniformly_and_none_that_is_nothing() -> None:
    """All but `none` of the planted space with equal chance; a chi-square of 3 degrees above 16 has p = 0.001."""
    search, counts = RandomSharing(PlantedSupernet(channels=2)), Counter[str]()
    for step in range(400):
        (config,) = search.paths(step)
        counts[str(config["edge"][0])] += 1
    assert counts["none"] == 0 and len(counts) == 4
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 16


def test_a_cell_of_which_nothing_remains_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """NAS-Bench-201: neither `none` on all edges, nor a skip of a node that nothing reaches."""
    search = RandomSharing(NASBench201Supernet(channels=2, cells_per_stage=1))
    space = search.supernet.space
    texts = [
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
        "|none~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|",
        "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
    ]
    drawn = iter([space.from_arch_string(text) for text in texts])
    monkeypatch.setattr(type(space), "sample", lambda self, rng: next(drawn))
    (config,) = search.paths(0)
    assert space.arch_string(config) == texts[2]


def test_paths_of_a_darts_cell_keep_the_rule_of_the_space() -> None:
    search = RandomSharing(DARTSSupernet(channels=2, cells=3))
    (config,) = search.paths(0)
    genotype = search.supernet.space.genotype(config)
    assert all(len(node) == 2 for cell in (genotype.normal, genotype.reduce) for node in cell)


def test_a_space_of_nothing_is_refused() -> None:
    with pytest.raises(
        ValueError, match="A path must have an operation; in space 'planted' a thousand draws held only"
    ):
        RandomSharing(PlantedSupernet(["none"], channels=2))


def test_defaults_are_those_of_the_authors() -> None:
    search = RandomSharing(PlantedSupernet(channels=2))
    assert (search.weight_lr, search.grad_clip, search.candidates, search.finalists) == (0.025, 0.25, 1000, 10)
    assert search.arch_parameters() == []
