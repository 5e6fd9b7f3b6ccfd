"""Fronts of architectures: archive, accuracy predictor, evolution, and the search that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .archive import Archive as Archive
    from .evolution import evolve as evolve
    from .marginals import Marginals as Marginals
    from .objectives import Constraint as Constraint
    from .objectives import Objective as Objective
    from .predictor import AccuracyPredictor as AccuracyPredictor
    from .predictor import fit_accuracy as fit_accuracy
    from .search import Iteration as Iteration
    from .search import ParetoSearch as ParetoSearch
    from .selection import diverse_subset as diverse_subset
    from .selection import largest_gain as largest_gain

# Imported on first use, as everywhere.
_WHERE = {
    "AccuracyPredictor": "predictor",
    "Archive": "archive",
    "Constraint": "objectives",
    "Iteration": "search",
    "Marginals": "marginals",
    "Objective": "objectives",
    "ParetoSearch": "search",
    "diverse_subset": "selection",
    "evolve": "evolution",
    "fit_accuracy": "predictor",
    "largest_gain": "selection",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
