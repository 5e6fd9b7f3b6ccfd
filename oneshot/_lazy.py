"""Packages whose public names are imported on first use (PEP 562), so that importing a package costs nothing.

It lies in the lowest folder because all others use it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    The names are those that the package imports ``if TYPE_CHECKING``, so each is written once, where type checkers and
    editors read it too:

    .. code-block:: python

        if TYPE_CHECKING:
            from .darts import DARTSSupernet as DARTSSupernet

        __getattr__, __dir__, __all__ = lazy(__name__)

    Args:
        package: Its ``__name__``.

    Raises:
        ImportError: If its source cannot be read.
    """
    spec = sys.modules[package].__spec__
    source: str | None = getattr(spec.loader, "get_source", lambda name: None)(package) if spec else None
    if source is None:
        raise ImportError(f"{package} must come with its source; only compiled files are there. Install it again.")
    where = {
        alias.asname or alias.name: ("." * node.level + (node.module or ""), alias.name)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, defined = where[name]
        return getattr(import_module(module, package), defined)

    return get, lambda: sorted(where), sorted(where)
