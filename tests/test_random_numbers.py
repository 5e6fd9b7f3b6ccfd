"""Random numbers of their own: what is drawn inside, and that nothing outside is moved."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from oneshot.random_numbers import own_random_numbers


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("seed", [None, 0, 2**40])
def test_generators_are_as_they_were_also_if_something_is_raised(seed: int | None, raises: bool) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    try:
        with own_random_numbers(seed):
            drawn()
            if raises:
                raise RuntimeError("a trial failed")
    except RuntimeError:
        assert raises
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_numbers_inside_follow_from_the_seed() -> None:
    found = []
    for seed in (3, 3, 4):
        drawn()
        with own_random_numbers(seed, cuda=False):
            found.append(drawn())
    assert found[0] == found[1] != found[2]
