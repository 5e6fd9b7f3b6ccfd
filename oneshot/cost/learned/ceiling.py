"""How well a perfect model would do against measurements that are noisy themselves."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from oneshot.regression.rounding import rounding_step
from oneshot.regression.scores import Agreement
from oneshot.supernets.space import Floats, IntMatrix

DRAWS = 20  # of the noise
PAIRS = 5  # of measurements of one network, that say how noisy they are


@dataclass(frozen=True)
class NoiseCeiling:
    """The agreement of what networks truly need with one measurement of each.

    No model can be expected to agree better with the measurements, and one that comes near leaves nothing to gain.

    Args:
        agreement: See above.
        noise: Relative standard deviation of one measurement.
        reason: Where the noise is known from.
    """

    agreement: Agreement
    noise: float
    reason: str

    def __str__(self) -> str:
        return f"a perfect model: {self.agreement} (noise {self.noise:.1%}, known from {self.reason})"


def noise_ceiling(
    genes: IntMatrix,
    values: npt.ArrayLike,
    *,
    noise: float | None = None,
    step: float | None = None,
    throughput: bool = False,
    seed: int = 0,
) -> NoiseCeiling | None:
    """The ceiling of models of some measurements.

    What is known of the noise is taken in this order: ``noise``; the relative differences of networks that were
    measured twice, over the root of 2, if there are five pairs or more; the step that the clock rounds to, an error
    between minus and plus a half of it, which leaves out all other noise. It is put onto true costs, which are the
    measurements drawn together by what the noise adds to their variance, 20 times.

    Args:
        genes: Measured architectures, ``[N, G]``; those that stand there twice were measured twice.
        values: Measurements, ``[N]``, above 0.
        noise: Relative standard deviation of one measurement.
        step: What the clock rounds to; found in the values by default.
        throughput: Whether the values are images per second; the agreement is that of their reciprocal, ms per image.
        seed: Of the noise.

    Returns:
        None if nothing is known of the noise, or there are fewer than two measurements.

    Raises:
        ValueError: If the noise or the step is negative or not finite.
    """
    y, rng = np.asarray(values, np.float64), np.random.default_rng(seed)
    for name, given in (("noise", noise), ("step", step)):
        if given is not None and not 0 <= given < np.inf:
            raise ValueError(f"{name} must be finite and 0 or more; got {given}.")
    if len(y) < 2:
        return None
    first, second = _pairs(genes)
    if noise is not None:
        errors, reason = noise * rng.standard_normal((DRAWS, len(y))), "measurements of the device"
    elif len(first) >= PAIRS:
        relative = (y[first] - y[second]) / ((y[first] + y[second]) / 2) / np.sqrt(2)
        both = np.concatenate([relative, -relative])
        errors, reason = rng.choice(both, (DRAWS, len(y))), f"{len(first)} pairs of measurements of one network"
    elif coarse := rounding_step(y) if step is None else step:
        errors, reason = rng.uniform(-0.5, 0.5, (DRAWS, len(y))) * coarse / y, f"rounding to steps of {coarse:g} alone"
    else:
        return None
    return NoiseCeiling(_agreement(1000 / y if throughput else y, errors), float(np.sqrt((errors**2).mean())), reason)


def _pairs(genes: IntMatrix) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Rows of the same network, each with the next one."""
    _, network = np.unique(genes, axis=0, return_inverse=True)
    order = np.argsort(network.reshape(-1), kind="stable")
    same = np.flatnonzero(np.diff(network.reshape(-1)[order]) == 0)
    return order[same], order[same + 1]


def _agreement(y: Floats, errors: Floats) -> Agreement:
    """Mean agreement of true costs with measurements, over draws of relative errors ``[D, N]``."""
    added = float(((y * errors) ** 2).mean())
    variance = float(y.var())
    shrink = np.sqrt(max(variance - added, 0.0) / variance) if variance else 1.0
    truth = y.mean() + shrink * (y - y.mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all the same: no rank
        found = [Agreement.of(truth, np.maximum(truth * (1 + error), 1e-9 * truth)) for error in errors]
    return Agreement(*(float(np.mean([getattr(each, f.name) for each in found])) for f in fields(Agreement)))
