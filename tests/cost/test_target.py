"""A network meets its latency target also where the table is wrong about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oneshot.cost import AdditiveCost, CostPenalty, meet_target
from oneshot.cost.penalty import Form
from oneshot.cost.target import REPEATS

from .toys import FIXED, MS, SPACE, ToyDevice, ToySupernet

P = {"layers": np.array([[0.4, 0.25, 0.35]] * 3), "extra": np.array([[0.6, 0.4]])}


def penalty(target: float, *, wrong: float = 1.0, form: Form = "target") -> CostPenalty:
    """A table that says ``wrong`` times what the device takes."""
    table = {name: wrong * torch.tensor(rows, dtype=torch.float64) for name, rows in MS.items()}
    return CostPenalty(AdditiveCost(SPACE, table, unit="ms", fixed=wrong * FIXED), form, target=target)


@pytest.mark.parametrize("wrong", [0.7, 0.85, 1.0, 1.2, 1.4])
@pytest.mark.parametrize("target", [9.0, 12.0, 16.0])
def test_the_measured_latency_is_at_the_target_although_the_table_is_wrong(target: float, wrong: float) -> None:
    attempts = meet_target(penalty(target, wrong=wrong), ToySupernet(), P, ToyDevice(), attempts=8)
    best = attempts[-1]
    assert 0.85 * target <= best.measured <= 1.01 * target  # the space is small
    assert best.predicted == pytest.approx(wrong * best.measured, rel=1e-6)
    assert len(best.measurements) == REPEATS
    if wrong > 1.3 or wrong < 0.8:
        assert len(attempts) > 1  # the first was off


def test_only_a_penalty_with_a_target_can_meet_it() -> None:
    with pytest.raises(ValueError, match="form of the penalty must be 'target'; got 'add_linear'"):
        meet_target(penalty(9.0, form="add_linear"), ToySupernet(), P, ToyDevice())
    with pytest.raises(ValueError, match="attempts at least 1; got 0.05 and 0"):
        meet_target(penalty(9.0), ToySupernet(), P, ToyDevice(), attempts=0)
