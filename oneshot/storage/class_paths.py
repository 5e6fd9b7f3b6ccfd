"""Names of classes in files: those that users import them by, which stay when modules are reordered."""

from __future__ import annotations

import sys


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
