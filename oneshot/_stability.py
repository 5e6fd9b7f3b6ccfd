"""How settled a part of the package is: experimental, or on its way out."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from typing_extensions import deprecated as _deprecated  # torch has it, too

Anything = TypeVar("Anything", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type[Any])

# What is deprecated, and the version in which it goes: (name, removed in). A test says when it is time.
DEPRECATED: list[tuple[str, str]] = []


class ExperimentalWarning(FutureWarning):
    """A class may change in any release, or go; it says why."""


def experimental(why: str) -> Callable[[Class], Class]:
    """Mark a class whose constructor says that it is experimental, by :func:`warn_if_experimental`.

    Args:
        why: What is missing until it is not, such as "its published accuracy has not been reproduced here".
    """

    def mark(cls: Class) -> Class:
        cls._experimental = why
        return cls

    return mark


def warn_if_experimental(made: object) -> None:
    """Warn if the class of an object, or one that it is made of, is marked by :func:`experimental`.

    For constructors; the warning is of the line that makes the object.
    """
    for cls in type(made).__mro__:
        if (why := vars(cls).get("_experimental")) is not None:
            said = f"{cls.__name__} is experimental: {why}. It may change in any release."
            level, frame = 2, inspect.currentframe()
            while (frame := frame and frame.f_back) is not None and frame.f_locals.get("self") is made:
                level += 1  # constructors of parents
            warnings.warn(said, ExperimentalWarning, stacklevel=level)
            return


def deprecated(since: str, removed_in: str, instead: str) -> Callable[[Anything], Anything]:
    """Mark a function or class that will go; using it warns.

    Args:
        since: First version with the warning.
        removed_in: Version without it.
        instead: What to use, such as "oneshot.nat.evolve".
    """

    def mark(what: Anything) -> Anything:
        name = f"{what.__module__}.{what.__qualname__}"
        DEPRECATED.append((name, removed_in))
        message = f"{name} is deprecated since {since}, and goes in {removed_in}. Use {instead}."
        return _deprecated(message, category=FutureWarning)(what)

    return mark
