"""Names of classes in files: those that users import them by, which stay when modules are reordered."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

# Packages that offer classes under their own names, the front door first.
ROOMS = "supernets conversion data cost nat discrete callbacks engine training evaluation fronts policy"
PACKAGES = ("oneshot", *(f"oneshot.{room}" for room in ROOMS.split()))


def public_path(kind: type) -> str:
    """Where a class is found by those who use it, such as ``oneshot.supernets.DARTSNetwork``.

    That is the outermost package which has the class under its name; for classes that no package of ours offers, and
    those of users, the module that defines them.
    """
    packages = kind.__module__.split(".")
    for depth in range(1, len(packages)):
        package = ".".join(packages[:depth])
        if packages[0] == "oneshot" and getattr(sys.modules.get(package), kind.__qualname__, None) is kind:
            return f"{package}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def stable_name(class_path: str) -> str:
    """The name of a class without the module of ours that defines it, by which old and new files are compared.

    Example:
        >>> stable_name("oneshot.methods.darts.DARTS"), stable_name("oneshot.DARTS"), stable_name("mine.DARTS")
        ('oneshot.DARTS', 'oneshot.DARTS', 'mine.DARTS')
    """
    return f"oneshot.{class_path.rpartition('.')[2]}" if class_path.startswith("oneshot.") else class_path


def present_path(class_path: str) -> str:
    """Where a class of ours is now, which a file of an earlier release names by a module that is gone.

    Example:
        >>> present_path("oneshot.discrete.graph.GraphNetwork"), present_path("oneshot.discrete.ENAS")
        ('oneshot.discrete.GraphNetwork', 'oneshot.ENAS')
        >>> present_path("mine.graph.GraphNetwork")
        'mine.graph.GraphNetwork'
    """
    module, _, name = class_path.rpartition(".")
    if not class_path.startswith("oneshot.") or not all(part.isidentifier() for part in class_path.split(".")):
        return class_path
    try:
        found = find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is not None and (found.submodule_search_locations is None or name in _offered(module)):
        return class_path
    return next((f"{package}.{name}" for package in PACKAGES if name in _offered(package)), class_path)


def with_present_paths(tree: Any) -> Any:
    """A configuration in which every ``class_path`` is the present one."""
    if isinstance(tree, dict):
        changed = {key: with_present_paths(value) for key, value in tree.items()}
        if isinstance(path := changed.get("class_path"), str):
            changed["class_path"] = present_path(path)
        return changed
    return [with_present_paths(value) for value in tree] if isinstance(tree, list) else tree


def _offered(package: str) -> list[str]:
    return list(getattr(import_module(package), "__all__", ()))
