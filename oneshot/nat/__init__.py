"""Fronts of architectures: archive, accuracy predictor, evolution, and the search that joins them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from oneshot.fronts.evolution import evolve as evolve

    from .archive import Archive as Archive
    from .marginals import Marginals as Marginals
    from .objectives import Constraint as Constraint
    from .objectives import Objective as Objective
    from .predictor import AccuracyPredictor as AccuracyPredictor
    from .predictor import fit_accuracy as fit_accuracy
    from .search import Iteration as Iteration
    from .search import ParetoSearch as ParetoSearch
    from .selection import diverse_subset as diverse_subset
    from .selection import largest_gain as largest_gain

__getattr__, __dir__, __all__ = lazy(__name__)
