"""The step that a coarse clock has rounded measurements to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STEPS = tuple(10.0**power for power in range(3, -7, -1))
COARSE = 0.05  # of the standard deviation of values; a finer step changes nothing that can be seen
FEWEST = 3  # values that say what they are rounded to


def rounding_step(values: npt.ArrayLike) -> float:
    """The step that values were rounded to, as a power of ten; 0 where it is fine, or there is none.

    Args:
        values: Measurements, ``[N]``.

    Example:
        >>> rounding_step([31.0, 44.0, 29.0, 36.0]), rounding_step([31.2178, 44.0291, 29.5513])
        (1.0, 0.0)
    """
    y = np.asarray(values, np.float64)
    if len(y) < FEWEST:
        return 0.0
    for step in STEPS:
        ratio = y / step
        if (np.abs(ratio - np.rint(ratio)) < 1e-6).all():
            return step if step > COARSE * y.std() else 0.0
    return 0.0
