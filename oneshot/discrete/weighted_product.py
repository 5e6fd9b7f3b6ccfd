"""A product of powers of all objectives, for strategies that minimise one number."""

from __future__ import annotations

import math
from collections.abc import Sequence


class WeightedProduct:
    r"""Minus a product of powers of all objectives, as any strategy of one objective takes it: ``scalar=``.

    .. math:: -\prod_m |v_m|^{w_m}

    An exponent above 0 asks for more of its metric, one below 0 for less. ``(1, -0.07)`` with the objectives
    ``["max accuracy", "min latency"]`` orders as the soft reward of MnasNet does (arXiv:1807.11626, equation 2, whose
    target is a constant factor). ``(1, 0.5)`` with ``["max accuracy", "max params"]`` is for short trainings, which
    hold large networks to be worse than they will be: twice the parameters count as much as 1.41 times the accuracy.

    Args:
        exponents: One for each objective of the study, in their order.

    Raises:
        ValueError: If there are none, or one is not finite.

    Example:
        >>> WeightedProduct((1, -1))((-0.75, 3.0))
        -0.25
    """

    def __init__(self, exponents: Sequence[float]) -> None:
        if not len(exponents) or not all(map(math.isfinite, exponents)):
            raise ValueError(f"exponents must be finite numbers, one for each objective; got {list(exponents)}.")
        self.exponents = tuple(map(float, exponents))

    def __call__(self, values: Sequence[float]) -> float:
        """The value that is minimised.

        Raises:
            ValueError: If there are more or fewer values than exponents, or 0 has an exponent below 0.
        """
        if len(values) != len(self.exponents):
            raise ValueError(
                f"Exponents must be as many as the objectives of the study; there are {len(self.exponents)} exponents "
                f"and {len(values)} objectives. Give one for each."
            )
        if any(value == 0 and power < 0 for value, power in zip(values, self.exponents)):
            raise ValueError(
                f"A metric must not be 0 where its exponent is below 0; got {tuple(values)} for {self.exponents}. "
                "Leave the metric out, or give it an exponent of at least 0."
            )
        return -math.prod(math.pow(abs(value), power) for value, power in zip(values, self.exponents))
