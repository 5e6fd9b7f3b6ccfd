"""Fronts: what no other network beats, how much a front is worth, and which network to take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .evolution import evolve as evolve
    from .nsga2 import by_rank_and_crowding as by_rank_and_crowding
    from .pareto import hypervolume as hypervolume
    from .pareto import igd_plus as igd_plus
    from .pareto import non_dominated as non_dominated
    from .pareto import reference_point as reference_point
    from .pick import at_most as at_most
    from .pick import knee as knee
    from .pick import near as near

__getattr__, __dir__, __all__ = lazy(__name__)
