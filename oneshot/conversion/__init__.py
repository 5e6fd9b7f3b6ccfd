"""A trained network of any kind as a search space: what can be cut in it, and its smaller variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .network import ConvertedNetwork as ConvertedNetwork
    from .sources import LoadedWeights as LoadedWeights
    from .sources import build as build
    from .sources import load_weights as load_weights
    from .space import ConvertedSpace as ConvertedSpace
    from .supernet import ConvertedSupernet as ConvertedSupernet
    from .supernet import convert as convert

__getattr__, __dir__, __all__ = lazy(__name__)
