"""Discrete search: networks as graphs, and morphisms between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .graph import GraphNetwork as GraphNetwork
    from .graph import NetworkGraph as NetworkGraph
    from .graph import Node as Node
    from .graph import plain_graph as plain_graph
    from .morphism import APPROXIMATE_OPERATORS as APPROXIMATE_OPERATORS
    from .morphism import EXACT_OPERATORS as EXACT_OPERATORS
    from .morphism import LEMONADE_OPERATORS as LEMONADE_OPERATORS
    from .morphism import NASH_OPERATORS as NASH_OPERATORS
    from .morphism import MorphismRecord as MorphismRecord
    from .morphism import distil as distil
    from .morphism import morph as morph
    from .morphism import random_morphism as random_morphism
    from .morphism import replay as replay

# Imported on first use, as everywhere.
_WHERE = {
    "APPROXIMATE_OPERATORS": "morphism",
    "EXACT_OPERATORS": "morphism",
    "GraphNetwork": "graph",
    "LEMONADE_OPERATORS": "morphism",
    "MorphismRecord": "morphism",
    "NASH_OPERATORS": "morphism",
    "NetworkGraph": "graph",
    "Node": "graph",
    "distil": "morphism",
    "morph": "morphism",
    "plain_graph": "graph",
    "random_morphism": "morphism",
    "replay": "morphism",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
