"""Limits on networks that a file describes, checked before they are built: a small file must not fill the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

MOST_WEIGHTS = 2**31  # of a network that is read from a file: 8 GiB of float32
COUNTS = ("cells", "cells_per_stage", "layers", "layers_per_stage", "blocks", "steps", "depth", "depths", "init_cells")
LENGTHS = ("channels", "stem_channels", "in_channels", "hidden", "size", "image_size", "window", "input_shape", "width")
MOST = {
    **dict.fromkeys(COUNTS, 1_000),
    **dict.fromkeys(LENGTHS, 100_000),
    "widths": 1_000,
    "expansions": 1_000,
    "num_classes": 10_000_000,
}
NETWORKS = ("Supernet", "Network", "Space", "Model", "Net")  # how classes are called that take these


def check_sizes(arguments: object) -> None:
    """Check arguments of a network before it is built.

    Args:
        arguments: By name; other names, and other values than numbers and lists of them, are not looked at.

    Raises:
        ValueError: If a number is far beyond what any network has; the argument is named.
    """
    for name, value in arguments.items() if isinstance(arguments, Mapping) else ():
        for number in _numbers(value) if name in MOST else ():
            if not abs(number) <= MOST[name]:  # NaN, too
                raise ValueError(f"{name} must be at most {MOST[name]:,}; got {number:g}.")


def check_sizes_in(tree: object) -> None:
    """:func:`check_sizes` of all networks in a configuration.

    Raises:
        ValueError: See there.
    """
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, Mapping):
            if str(node.get("class_path", "")).endswith(NETWORKS):
                check_sizes(node.get("init_args"))
            stack += node.values()
        elif isinstance(node, list | tuple):
            stack += node


class BoundedWeights(TorchFunctionMode):
    """Context in which tensors of more than ``most`` elements together are refused before they take memory."""

    def __init__(self, most: int = MOST_WEIGHTS) -> None:
        super().__init__()
        self.most, self.elements = most, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full):
            size = (kwargs or {}).get("size", args[0] if args and not isinstance(args[0], int) else args)
            self.elements += math.prod(size)
            if self.elements > self.most:
                raise ValueError(f"a network that is read has at most {self.most:,} weights; this one has more")
        return func(*args, **(kwargs or {}))


def _numbers(value: object) -> Iterable[float]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value]
    return [n for inner in value for n in _numbers(inner)] if isinstance(value, list | tuple) else []
