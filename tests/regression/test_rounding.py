"""The step that a coarse clock rounds to."""

from __future__ import annotations

import pytest

from oneshot.regression.rounding import rounding_step


@pytest.mark.parametrize(
    ("values", "step"),
    [
        pytest.param([31.0, 44.0, 29.0], 1.0, id="whole"),
        pytest.param([30.0, 40.0, 70.0], 10.0, id="tens"),
        pytest.param([0.3, 0.4, 0.9], 0.1, id="tenths"),
        pytest.param([31.21, 44.02, 29.55], 0.0, id="fine"),
        pytest.param([3102.0, 4405.0, 2955.0], 0.0, id="whole but fine"),
        pytest.param([3.0, 4.0], 0.0, id="too few"),
        pytest.param([1 / 3, 0.5, 1 / 7], 0.0, id="no step"),
    ],
)
def test_the_step_of_a_clock_is_found(values: list[float], step: float) -> None:
    assert rounding_step(values) == step
