"""Networks of users as search spaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .sources import LoadedWeights as LoadedWeights
    from .sources import build as build
    from .sources import load_weights as load_weights

__getattr__, __dir__, __all__ = lazy(__name__)
