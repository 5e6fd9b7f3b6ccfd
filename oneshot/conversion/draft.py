"""A graph while leaves may still be frozen."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from oneshot.inputs import Inputs

from .axes import Axis
from .tied import Tied
from .trace import Trace


@dataclass
class Limits:
    """What may vary, see :func:`oneshot.convert`."""

    width: Sequence[float]
    multiple: int
    depth: bool
    kernel: bool
    heads: bool
    freeze: Sequence[str]


@dataclass
class Draft:
    """A graph while leaves may still be frozen.

    Args:
        network: What is analysed.
        inputs: A batch.
        limits: What may vary.
        trace: One run.
        tied: Axes of all tensors.
        written: Attributes that say sizes: path of the module, name, place in a tuple or None; and the axis.
        several: Leaves that keep more than one entry.
        kept: Attributes that tell a number of features but do not follow, with their values.
    """

    network: nn.Module
    inputs: Inputs
    limits: Limits
    trace: Trace
    tied: Tied
    written: list[tuple[tuple[str, str, int | None], Axis]] = field(default_factory=list)
    several: set[Axis] = field(default_factory=set)
    kept: list[tuple[str, int]] = field(default_factory=list)

    def candidates(self) -> dict[Axis, list[tuple[str, int]]]:
        """Leaves that are not frozen, with the weights that have them and the channels of an entry."""
        found: dict[Axis, list[tuple[str, int]]] = {}
        for name, number in self.trace.names.items():
            for axis in self.tied.axes.get(number, ()):
                for leaf, unit in units(axis):
                    if not leaf.fixed:
                        found.setdefault(leaf, []).append((name, unit))
        return found


def asked(limits: Limits, name: str) -> str | None:
    """The pattern of ``freeze`` that a parameter or buffer falls under; None if there is none."""
    for pattern in limits.freeze:
        if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") or fnmatchcase(name, f"{pattern}.*"):
            return pattern
    return None


def units(axis: Axis, unit: int = 1) -> Iterator[tuple[Axis, int]]:
    """Leaves of an axis, with the channels that an entry of each stands for."""
    axis = axis.found()
    if axis.kind == "leaf":
        yield axis, unit
    elif axis.kind == "sum":
        for part in axis.parts:
            yield from units(part, unit)
    else:
        for place, part in enumerate(axis.parts):
            yield from units(part, unit * math.prod(other.found().size for other in axis.parts[place + 1 :]))


def identifier(path: str) -> str:
    """A path as a Python identifier."""
    return re.sub(r"\W", "_", path)


def unique(name: str, taken: set[str]) -> str:
    """A name that is not taken, and is from now on."""
    found, count = name, 2
    while found in taken:
        found, count = f"{name}_{count}", count + 1
    taken.add(found)
    return found
