"""``Unpack`` (PEP 692) for constructors that pass options on: type checkers read it, command lines do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack
else:

    class Unpack:
        """At run time any type: command lines take names, types and defaults from signatures of the base classes."""

        def __class_getitem__(cls, options: object) -> object:
            return Any
