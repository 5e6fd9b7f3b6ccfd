"""The architecture in the middle of every choice, of all spaces."""

from __future__ import annotations

import pytest

from oneshot.supernets import (
    Choice,
    FBNetSpace,
    NASBench1Shot1Space,
    NASBench101Space,
    NASBench201Space,
    NASNetSpace,
    RecurrentSpace,
    SearchSpace,
    darts_space,
)
from oneshot.supernets.elastic import ElasticSpace, elastic_choices


def test_it_is_the_candidate_in_the_middle_of_every_choice() -> None:
    space = SearchSpace("toy", (Choice("width", (8, 16, 24), rows=2), Choice("op", ("a", "b", "c", "d"))))
    assert str(space.centroid()) == "op: b; width: 16 16"


def test_stages_are_half_as_deep_again_as_they_must_be() -> None:
    space = ElasticSpace("toy", elastic_choices((8, 16, 32), (0.5, 1.0), ("a", "b", "c"), (4, 3)), (2, 1))
    assert str(space.centroid()) == "resolution: 16; stage_0: b b b none; stage_1: b b none; width: 0.5"


@pytest.mark.parametrize(
    "space",
    [
        darts_space(),
        FBNetSpace(),
        NASBench101Space(),
        NASBench1Shot1Space(),
        NASBench201Space(),
        NASNetSpace(),
        RecurrentSpace(),
    ],
    ids=lambda space: space.name,
)
def test_it_is_an_architecture_and_canonical(space: SearchSpace) -> None:
    centroid = space.centroid()
    space.validate(centroid)
    assert space.canonical(centroid) == centroid == space.centroid()
