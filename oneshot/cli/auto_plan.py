"""What ``oneshot auto`` does with its minutes: epochs, measurements, evaluations, and how long they take."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

PLAN = "plan.json"
USED = 0.9  # of the budget is planned; the rest is for what takes longer than a few steps have shown
EXPORT = 45.0  # seconds for files, their comparison and their latencies

# Of everything that can be more or less: from what is tried at least to what more minutes would hardly improve.
NETWORKS = (40, 160)  # that are timed, where latencies are learned
EVALUATIONS = (40, 220)
BATCH = 16  # architectures that each search adds
PRETRAINED_EPOCHS, SCRATCH_EPOCHS = (3, 12), (6, 60)  # of the supernet
TUNING_EPOCHS = {True: (3, 12), False: (3, 20)}  # of the network that is taken, with pretrained weights and without


@dataclass(frozen=True)
class Speed:
    """How fast this machine is with these data, measured on a few steps.

    Args:
        images: Training samples.
        held_out: Samples of validation.
        batch: Samples in a step.
        step: Seconds of a training step of the largest network.
        sample: Seconds that one sample takes through the largest network, without training.
        network: Seconds to time one network.
        networks: How many must be timed, where that is not to be chosen.
        share: Mean size of a random network, as a part of the largest.
        memory: Bytes that the process took at most.
        busy: How much two equal measurements differed, relative.
    """

    images: int
    held_out: int
    batch: int
    step: float
    sample: float
    network: float
    networks: int | None
    share: float
    memory: int
    busy: float

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return max(1, self.images // self.batch)


@dataclass(frozen=True)
class Part:
    """One part of the work.

    Args:
        name: Key of the part.
        what: What is done, in words.
        seconds: How long it is expected to take.
    """

    name: str
    what: str
    seconds: float


@dataclass(frozen=True)
class Effort:
    """How much of everything is done.

    Args:
        networks: Networks that are timed.
        epochs: Of the supernet.
        initial: Architectures that the search begins with.
        iterations: Searches after that, each of which adds ``BATCH``.
        tuning: Epochs of the network that is taken.
        calibration: Training samples that every architecture is fitted or calibrated on.
        parts: What is done, in order.
    """

    networks: int
    epochs: int
    initial: int
    iterations: int
    tuning: int
    calibration: int
    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        """How long all of it is expected to take."""
        return sum(part.seconds for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Effort:
        """The inverse of :meth:`to_dict`."""
        parts = tuple(Part(**part) for part in data["parts"])
        return cls(**{**data, "parts": parts})


def effort(speed: Speed, *, minutes: float, pretrained: bool) -> tuple[Effort, float]:
    """As much of everything as the minutes allow, all in the same proportion.

    Args:
        speed: Of this machine.
        minutes: The budget.
        pretrained: Whether the search begins with trained weights.

    Returns:
        The effort, and its place from 0, the least of everything, to 1, the most.

    Raises:
        ValueError: If the minutes are too few for the least.
    """
    budget = USED * 60 * minutes
    least = _effort(speed, 0.0, pretrained)
    if least.seconds > budget:
        parts = ", ".join(f"{part.what} {duration(part.seconds)}" for part in least.parts)
        raise ValueError(
            f"--minutes must be at least {math.ceil(least.seconds / 6 / USED) / 10:g} for {speed.images} training "
            f"samples on this machine; got {minutes:g}. The least that is worth doing: {parts}. Give more minutes, or "
            "a smaller --image-size."
        )
    low, high = 0.0, 1.0
    if _effort(speed, 1.0, pretrained).seconds <= budget:
        low = 1.0
    else:
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if _effort(speed, middle, pretrained).seconds <= budget else (low, middle)
    return _effort(speed, low, pretrained), low


def _effort(speed: Speed, place: float, pretrained: bool) -> Effort:
    def between(bounds: tuple[int, int]) -> int:
        return round(bounds[0] + place * (bounds[1] - bounds[0]))

    networks = speed.networks or between(NETWORKS)
    epochs = between(PRETRAINED_EPOCHS if pretrained else SCRATCH_EPOCHS)
    evaluations = between(EVALUATIONS)
    tuning = between(TUNING_EPOCHS[pretrained])
    initial = max(10, evaluations // 3)
    iterations = max(1, (evaluations - initial) // BATCH)
    calibration = min(speed.images, 256 + round(place * 1792))
    # Largest alone with trained weights; else the largest, and a random one that it teaches.
    step = speed.step * (1 if pretrained else 1 + speed.share)
    measured = speed.held_out + calibration
    # Evolution and predictor take about four seconds a search; the last layers are fitted in closed form.
    one = measured * speed.sample * max(speed.share, 0.3) + 0.05
    taught = speed.steps * (speed.step + (speed.batch * speed.sample if pretrained else 0))
    told = "transferring the original to your data" if pretrained else "training all networks together"
    parts = (
        Part("latency", f"timing {networks} networks", networks * speed.network),
        Part("training", f"{told}, {epochs} epochs", epochs * speed.steps * step),
        Part(
            "search",
            f"comparing {initial + iterations * BATCH} networks",
            (initial + iterations * BATCH) * one + 4.0 * iterations,
        ),
        Part("tuning", f"training the one that is taken, {tuning} epochs", tuning * taught),
        Part("files", "exporting, measuring and testing the file", EXPORT + speed.held_out * speed.sample),
    )
    return Effort(networks, epochs, initial, iterations, tuning, calibration, parts)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``1 h 10 min``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def plan_text(plan: Mapping[str, Any]) -> str:
    """A plan as JSON, as it is written."""
    return json.dumps(plan, indent=2) + "\n"
