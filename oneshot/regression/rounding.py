"""Measurements that a coarse clock has rounded: what was measured lies in an interval around what was read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import Floats

STEPS = tuple(10.0**power for power in range(3, -7, -1))
COARSE = 0.05  # of the standard deviation of values; a finer step changes nothing that can be seen
VAGUE = 100.0  # variance over the squared width of an interval, from which on it says nothing
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


def truncated_normal(low: Floats, high: Floats, mean: Floats, std: Floats) -> tuple[Floats, Floats]:
    r"""Mean and variance of a normal variable that is known to lie in an interval.

    With :math:`a = (low - \mu) / \sigma`, :math:`b = (high - \mu) / \sigma` and
    :math:`Z = \Phi(b) - \Phi(a)`, the mean is :math:`\mu + \sigma (\phi(a) - \phi(b)) / Z` and the variance
    :math:`\sigma^2 (1 + (a \phi(a) - b \phi(b)) / Z - ((\phi(a) - \phi(b)) / Z)^2)` (Johnson, Kotz and Balakrishnan,
    Continuous Univariate Distributions, volume 1, section 10.1).

    Args:
        low: Lower ends, ``[N]``.
        high: Upper ends, ``[N]``.
        mean: :math:`\mu`, ``[N]``.
        std: :math:`\sigma`, ``[N]``, above 0.

    Returns:
        Mean, which lies in the interval, and variance, ``[N]`` each.
    """
    from scipy.special import log_ndtr

    a, b = (low - mean) / std, (high - mean) / std
    flipped = a + b > 0  # the left tail has the digits
    a, b = np.where(flipped, -b, a), np.where(flipped, -a, b)
    upper = log_ndtr(b)
    log_mass = upper + np.log(-np.expm1(np.minimum(log_ndtr(a) - upper, -1e-300)))
    at_a, at_b = (np.exp(-0.5 * end**2 - 0.5 * np.log(2 * np.pi) - log_mass) for end in (a, b))
    shift = np.where(flipped, -1, 1) * (at_a - at_b)
    middle = np.clip(mean + std * shift, low, high)
    variance = std**2 * (1 + a * at_a - b * at_b - shift**2)
    return middle, np.clip(variance, 0, (high - low) ** 2 / 4)


def interval_site(low: Floats, high: Floats, mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    r"""The normal likelihood that has the same effect as knowing an interval (expectation propagation).

    Multiplied with the prediction :math:`N(\mu, \sigma^2)` from all else, it gives the moments :math:`\hat\mu` and
    :math:`\hat\sigma^2` of :func:`truncated_normal`: its variance is
    :math:`(\hat\sigma^{-2} - \sigma^{-2})^{-1}`, its mean that variance times
    :math:`\hat\mu / \hat\sigma^2 - \mu / \sigma^2` (Rasmussen and Williams, 2006, equation 3.59).

    Args:
        low: Lower ends, ``[N]``.
        high: Upper ends, ``[N]``.
        mean: Of the predictions, ``[N]``.
        variance: Of the predictions, ``[N]``, above 0.

    Returns:
        Mean and variance of the likelihoods, ``[N]`` each; the variance is at most :data:`VAGUE` times the square of
        the width of the interval.
    """
    middle, left = truncated_normal(low, high, mean, np.sqrt(variance))
    most = VAGUE * (high - low) ** 2
    precision = np.maximum(1 / np.maximum(left, 1e-12 * most) - 1 / variance, 1 / most)
    return middle + (middle - mean) / (variance * precision), 1 / precision
