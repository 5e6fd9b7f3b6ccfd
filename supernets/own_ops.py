"""Operations of users in spaces of cells: how they are given, checked, built and saved.

An operation is a factory, a class or a function that takes ``(channels, stride)`` and returns a module which maps
``[B, C, H, W]`` to ``[B, C, ceil(H / stride), ceil(W / stride)]``. A file knows it by its class path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from .ops import OPS, OpFactory, OwnOps

NAME = re.compile(r"[A-Za-z]\w*")  # as genotypes and architecture strings print it
SIZES = ((8, 8), (7, 5))  # height and width of the inputs that an operation is tried with
_tried = set[tuple[Any, int, int]]()


def checked_ops(ops: OwnOps | None) -> dict[str, OpFactory | str]:
    """Operations of one's own by name, after a look at names and kinds.

    Args:
        ops: A factory ``(channels, stride) -> nn.Module``, or its class path, for every name.

    Raises:
        ValueError: If a name is that of a built-in operation or cannot be printed in an architecture, or what stands
            there is no factory.

    Example:
        >>> sorted(checked_ops({"blur": lambda channels, stride: nn.AvgPool2d(3, stride, 1)}))
        ['blur']
    """
    for name, factory in (ops or {}).items():
        if name in OPS:
            raise ValueError(f"An operation of one's own must have a name of its own; {name!r} is built in. Rename it.")
        if not NAME.fullmatch(name):
            raise ValueError(
                f"The name of an operation must be letters, digits and underscores, a letter first; got {name!r}."
            )
        dotted = isinstance(factory, str) and "." in factory and all(p.isidentifier() for p in factory.split("."))
        if not (dotted if isinstance(factory, str) else callable(factory)) or isinstance(factory, nn.Module):
            raise ValueError(
                f"An operation must be given as a factory (channels, stride) -> nn.Module, a class or a function, or "
                f"as its class path, such as 'mine.Attention'; got {factory!r} for {name!r}."
            )
    return dict(ops or {})


def make_own_op(name: str, factory: OpFactory | str, channels: int, stride: int) -> nn.Module:
    """Build an operation, and try it the first time.

    Raises:
        ValueError: If it cannot be imported or built, is no module, changes the shape, or writes into its input.
    """
    build = imported(name, factory) if isinstance(factory, str) else factory
    try:
        op = build(channels, stride)
    except TypeError as error:
        raise ValueError(
            f"Operation {name!r} must take (channels, stride); called with ({channels}, {stride}): {error}"
        ) from error
    if not isinstance(op, nn.Module):
        raise ValueError(f"The factory of operation {name!r} must return an nn.Module; got a {type(op).__name__}.")
    if (build, channels, stride) not in _tried:
        _try(name, op, channels, stride)
        _tried.add((build, channels, stride))
    return op


def _try(name: str, op: nn.Module, channels: int, stride: int) -> None:
    modes = [(module, module.training) for module in op.modules()]
    like = next(op.parameters(), torch.empty(0))
    devices = [like.device] if like.device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            op.eval()
            for height, width in SIZES:
                x = torch.linspace(-1, 1, 2 * channels * height * width, dtype=torch.float64)
                x = x.reshape(2, channels, height, width).to(like)
                before = x.clone()
                _check_output(name, op(x), (2, channels, -(-height // stride), -(-width // stride)), stride)
                if like.device.type != "meta" and not torch.equal(x, before):
                    raise ValueError(
                        f"Operation {name!r} must leave its input as it is, since other operations read it, too; it "
                        "writes into it. Leave out inplace=True of its first layer."
                    )
    finally:
        for module, mode in modes:
            module.training = mode


def _check_output(name: str, out: object, wanted: tuple[int, ...], stride: int) -> None:
    shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if shape != list(wanted):
        raise ValueError(
            f"Operation {name!r} must return {list(wanted)} with stride {stride}, as all candidates of an edge do; it "
            f"returned {shape}. Keep the channels, pad, and round sizes up."
        )


def imported(name: str, class_path: str) -> OpFactory:
    """The factory that a class path names.

    Raises:
        ValueError: If there is none.
    """
    module, _, attribute = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"Operation {name!r} must be importable; {class_path} is not: {error}.") from error
    if not callable(found):
        raise ValueError(f"Operation {name!r} must be a class or a function; {class_path} is a {type(found).__name__}.")
    factory: OpFactory = found
    return factory


def saved_ops(ops: OwnOps, used: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The argument ``ops`` of a network as its ``init_args`` have it; nothing where it uses none.

    Class paths stand for factories. What has none stays as it is: such a network works, but cannot be saved.

    Args:
        ops: Operations by name.
        used: Names of all operations of the network.
    """
    kept = {name: _path_of(ops[name]) or ops[name] for name in sorted(set(used) & set(ops))}
    return {"ops": kept} if kept else {}


def _path_of(factory: OpFactory | str) -> str | None:
    """Class path by which another process finds a factory; ``None`` if it cannot."""
    if isinstance(factory, str):
        return factory
    module, name = getattr(factory, "__module__", None), getattr(factory, "__qualname__", "")
    if module in (None, "__main__") or not all(part.isidentifier() for part in name.split(".")) or "." in name:
        return None
    return f"{module}.{name}"


def check_saved_ops(init_args: Mapping[str, Any]) -> None:
    """Check that the arguments of a network name all operations by class paths.

    Raises:
        ValueError: If one is a function without a name, or of a script.
    """
    ops = init_args.get("ops")
    for name, factory in ops.items() if isinstance(ops, Mapping) else ():
        if callable(factory):
            raise ValueError(
                f"Operation {name!r} must be importable to be saved; "
                f"{getattr(factory, '__module__', '')}.{getattr(factory, '__qualname__', repr(factory))} is not. "
                "Define a class or a function at the top of a module, not a lambda, in a function or in a script."
            )


def paths_of_ops(init_args: object) -> list[str]:
    """Class paths of the operations in the arguments of a network: code that building it runs."""
    ops = init_args.get("ops") if isinstance(init_args, Mapping) else None
    return [path for path in ops.values() if isinstance(path, str)] if isinstance(ops, Mapping) else []
