"""A network lands on its target also where the table is wrong about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oneshot.cost import AdditiveCost, CostPenalty, land
from oneshot.cost.meet_target import REPEATS
from oneshot.cost.penalty import Form

from .toys import FIXED, MS, SPACE, ToySupernet, ToyTarget

P = {"layers": np.array([[0.4, 0.25, 0.35]] * 3), "extra": np.array([[0.6, 0.4]])}


def penalty(target: float, *, wrong: float = 1.0, form: Form = "target") -> CostPenalty:
    """A table that says ``wrong`` times what the device takes."""
    table = {name: wrong * torch.tensor(rows, dtype=torch.float64) for name, rows in MS.items()}
    return CostPenalty(AdditiveCost(SPACE, table, unit="ms", fixed=wrong * FIXED), form, target=target)


@pytest.mark.parametrize("wrong", [0.7, 0.85, 1.0, 1.2, 1.4])
@pytest.mark.parametrize("target", [9.0, 12.0, 16.0])
def test_the_measured_latency_is_at_the_target_although_the_table_is_wrong(target: float, wrong: float) -> None:
    landings = land(penalty(target, wrong=wrong), ToySupernet(), P, ToyTarget(), attempts=8)
    best = landings[-1]
    assert 0.85 * target <= best.measured <= 1.01 * target  # the space is small
    assert best.predicted == pytest.approx(wrong * best.measured, rel=1e-6)
    assert len(best.measurements) == REPEATS
    if wrong > 1.3 or wrong < 0.8:
        assert len(landings) > 1  # the first was off


def test_a_search_without_a_target_does_not_land() -> None:
    with pytest.raises(ValueError, match="the penalty's form is 'target'; got 'add_linear'"):
        land(penalty(9.0, form="add_linear"), ToySupernet(), P, ToyTarget())
    with pytest.raises(ValueError, match="attempts at least 1; got 0.05 and 0"):
        land(penalty(9.0), ToySupernet(), P, ToyTarget(), attempts=0)
