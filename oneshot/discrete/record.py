"""What a study minimises or maximises, and what it keeps of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .protocol import Proposal, Result

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Objective:
    """A metric and which way it should go.

    Args:
        metric: Its name, as evaluators give it.
        direction: ``"min"`` or ``"max"``.

    Raises:
        ValueError: If the direction is another.

    Example:
        >>> Objective.parse("max accuracy")
        Objective(metric='accuracy', direction='max')
    """

    metric: str
    direction: Direction = "min"

    def __post_init__(self) -> None:
        if self.direction not in ("min", "max"):
            raise ValueError(
                f"The direction of an objective must be 'min' or 'max'; {self.metric!r} has {self.direction!r}."
            )

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read ``"max accuracy"`` or ``"min latency"``.

        Raises:
            ValueError: If the text is not a direction and a metric.
        """
        direction, _, metric = text.strip().partition(" ")
        if direction not in ("min", "max") or not metric.strip():
            raise ValueError(f"An objective must read like 'max accuracy' or 'min latency'; got {text!r}.")
        return cls(metric.strip(), "min" if direction == "min" else "max")

    def __str__(self) -> str:
        return f"{self.direction} {self.metric}"

    def value(self, metrics: Mapping[str, float]) -> float:
        """What is minimised."""
        return metrics[self.metric] if self.direction == "min" else -metrics[self.metric]


@dataclass(frozen=True)
class Record:
    """An evaluation that is finished.

    Args:
        proposal: What was evaluated.
        result: What came of it.
        at: Seconds of the study when it was finished, stops not counted.
        repeated: Whether it was answered from the log.
    """

    proposal: Proposal
    result: Result
    at: float
    repeated: bool
