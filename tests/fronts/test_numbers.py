"""Numbers as text."""

from __future__ import annotations

import pytest

from oneshot.fronts.numbers import rounded_up, scale_of, short


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (9_999, "9999"), (12345, "12.35 k"), (3_300_000, "3.3 M"), (-2e9, "-2 G"), (0.5, "0.5")],
)
def test_numbers_are_short(number: float, text: str) -> None:
    assert short(number) == text


@pytest.mark.parametrize("value", [1.23449, 99995.0, 0.00123456, -1.23456, 183241.2])
def test_a_bound_of_four_digits_is_kept_by_the_number_itself(value: float) -> None:
    assert value <= float(rounded_up(value)) <= value + 2e-3 * abs(value)


def test_numbers_beside_each_other_have_one_letter() -> None:
    assert scale_of(4e6) == (1e6, "M") and scale_of(float("nan")) == (1.0, "")
