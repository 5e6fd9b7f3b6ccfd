"""Inputs of networks: one tensor, or several by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Inputs: TypeAlias = Tensor | Mapping[str, Tensor]  # ``[B, ...]``, all of one B
Shape: TypeAlias = tuple[int, ...] | Mapping[str, tuple[int, ...]]  # of one sample


def is_inputs(x: object) -> bool:
    """Whether something is a tensor, or a mapping from names to tensors."""
    if isinstance(x, Mapping):
        return bool(x) and all(isinstance(name, str) and isinstance(part, Tensor) for name, part in x.items())
    return isinstance(x, Tensor)


def tensors(x: Inputs) -> list[Tensor]:
    """The tensors of inputs, in the order of their names' insertion."""
    return list(x.values()) if isinstance(x, Mapping) else [x]


def length(x: Inputs) -> int:
    """Number of samples B.

    Raises:
        ValueError: If several inputs have different numbers of samples.
    """
    lengths = {len(part) for part in tensors(x)}
    if len(lengths) != 1:
        by_name = {name: len(part) for name, part in x.items()} if isinstance(x, Mapping) else {}
        raise ValueError(f"Inputs of one batch must have one number of samples; got {by_name}.")
    return lengths.pop()


def mapped(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """Apply a function to every tensor of inputs."""
    return {name: function(part) for name, part in x.items()} if isinstance(x, Mapping) else function(x)


def cast(x: Inputs, like: Tensor) -> Inputs:
    """Bring inputs to the device of a tensor; numbers that are no whole numbers also to its type."""
    return mapped(lambda part: part.to(like if part.is_floating_point() else like.device), x)


def joined(batches: Iterable[Inputs]) -> Inputs:
    """Concatenate batches of inputs.

    Raises:
        ValueError: If they do not have the same names.
    """
    parts = list(batches)
    if not any(isinstance(part, Mapping) for part in parts):
        return torch.cat(parts)  # type: ignore[arg-type]  # all are tensors
    names = {tuple(sorted(part)) if isinstance(part, Mapping) else None for part in parts}
    if len(names) != 1:
        raise ValueError(f"All batches must have inputs of the same names; got {sorted(map(str, names))}.")
    several = [part for part in parts if isinstance(part, Mapping)]
    return {name: torch.cat([part[name] for part in several]) for name in several[0]}


def split(x: Inputs, size: int) -> list[Inputs]:
    """Split inputs into batches of ``size`` samples; the last may be smaller."""
    if not isinstance(x, Mapping):
        return list(torch.split(x, size))
    parts = {name: torch.split(part, size) for name, part in x.items()}
    count = len(next(iter(parts.values())))
    return [{name: part[i] for name, part in parts.items()} for i in range(count)]


def shape_of(x: Inputs) -> Shape:
    """Shape of one sample, by name where there are several inputs."""
    if isinstance(x, Mapping):
        return {name: tuple(part.shape[1:]) for name, part in x.items()}
    return tuple(x.shape[1:])


def as_shape(shape: Sequence[int] | Mapping[str, Sequence[int]]) -> Shape:
    """A declared shape with tuples in it, so that shapes compare."""
    if isinstance(shape, Mapping):
        return {str(name): tuple(part) for name, part in shape.items()}
    return tuple(shape)


def describe_shape(shape: Sequence[int] | Mapping[str, Sequence[int]]) -> str:
    """A shape in words, such as ``[3, 32, 32]`` or ``{image: [3, 32, 32], age: [1]}``."""
    if isinstance(shape, Mapping):
        return "{" + ", ".join(f"{name}: {list(part)}" for name, part in shape.items()) + "}"
    return str(list(shape))


def json_shape(shape: Sequence[int] | Mapping[str, Sequence[int]]) -> list[int] | dict[str, list[int]]:
    """A shape as JSON writes it."""
    if isinstance(shape, Mapping):
        return {str(name): list(part) for name, part in shape.items()}
    return list(shape)
