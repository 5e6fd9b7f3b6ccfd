"""Axes of all tensors of a trace, and one operator that says something about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from oneshot._lightning import argument_defaults, argument_names

from .axes import Axis, fixed, unify
from .trace import Op, Ref, Trace

Axes = list[Axis]
SPACE = "it is a side of a feature map or a number of tokens"


@dataclass
class Tied:
    """Axes of all tensors of a trace.

    Args:
        trace: The trace.
        axes: Of every tensor, by its number.
        factors: Of every operator that multiplies, by its number: the product of these sizes is its
            multiply-accumulates.
        groups: Number of groups of convolutions and normalisations, by number of the operator.
        equal: Axes that must have the same size, though they are not the same.
        unknown: Operators without a rule, with the module they ran in.
    """

    trace: Trace
    axes: dict[int, Axes] = field(default_factory=dict)
    factors: dict[int, Axes] = field(default_factory=dict)
    groups: dict[int, Axis] = field(default_factory=dict)
    equal: list[tuple[Axis, ...]] = field(default_factory=list)
    unknown: dict[int, str] = field(default_factory=dict)


class Rule:
    """One operator of a trace, and what its rule needs."""

    def __init__(self, tied: Tied, op: Op, place: int) -> None:
        self.tied, self.op, self.place, self.trace = tied, op, place, tied.trace
        self.why = f"operator {op.name} in {op.module or 'the network'} holds it"
        given = dict(zip(argument_names(op.func), op.args, strict=False))
        self.args: dict[str, Any] = {**argument_defaults(op.func), **given, **op.kwargs}

    def of(self, what: Ref | int) -> Axes:
        """Axes of a tensor; new leaves for parameters and constants."""
        number = what.number if isinstance(what, Ref) else what
        if number not in self.tied.axes:
            facts = self.trace.tensors[number]
            constant = "" if facts.name else f"a constant tensor in {self.op.module or 'the network'} holds it"
            self.tied.axes[number] = [Axis(size, fixed=constant) for size in facts.shape]
        return self.tied.axes[number]

    def __getitem__(self, name: str) -> Any:
        """An argument by its name in the schema."""
        return self.args[name]

    def tensor(self, *names: str) -> Ref:
        """The first of these arguments that is there."""
        found = next(self.args[name] for name in names if name in self.args)
        assert isinstance(found, Ref)
        return found

    def shape(self, what: Ref | int) -> tuple[int, ...]:
        return self.trace.tensors[what.number if isinstance(what, Ref) else what].shape

    def weights(self, what: Ref) -> bool:
        """Whether a tensor follows from the weights alone."""
        return self.trace.tensors[what.number].weights

    def unify(self, first: Axis, second: Axis) -> None:
        unify(first, second, self.why)

    def freeze(self, axes: Sequence[Axis], why: str = "") -> None:
        for axis in axes:
            axis.freeze(why or self.why)

    def freeze_inputs(self, why: str) -> None:
        for number in self.op.inputs:
            self.freeze(self.of(number), why)

    def out(self, axes: Sequence[Axis], place: int = 0) -> None:
        """Set the axes of an output; of an in-place operator they are tied to those there are."""
        if place >= len(self.op.outputs):
            return
        number = self.op.outputs[place]
        if number in self.tied.axes:
            for old, new in zip(self.tied.axes[number], axes, strict=True):
                self.unify(old, new)
        else:
            self.tied.axes[number] = list(axes)

    def new(self, size: int) -> Axis:
        """A side of a feature map."""
        return fixed(size, SPACE)

    def outputs(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs."""
        return [self.shape(number) for number in self.op.outputs]
