"""Discrete search: strategies that ask and are told, evaluators that answer, and studies that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .log import EventLog as EventLog
    from .protocol import Proposal as Proposal
    from .protocol import Result as Result
    from .protocol import SearchStrategy as SearchStrategy
    from .strategies.bananas import BANANAS as BANANAS
    from .strategies.local_search import LocalSearch as LocalSearch
    from .strategies.nsga2 import NSGA2 as NSGA2
    from .strategies.random_search import GridSearch as GridSearch
    from .strategies.random_search import RandomSearch as RandomSearch
    from .strategies.regularized_evolution import RegularizedEvolution as RegularizedEvolution
    from .study import Objective as Objective
    from .study import Study as Study
    from .tables import TabularEvaluator as TabularEvaluator

# Imported on first use, as everywhere.
_WHERE = {
    "BANANAS": "strategies.bananas",
    "EventLog": "log",
    "GridSearch": "strategies.random_search",
    "LocalSearch": "strategies.local_search",
    "NSGA2": "strategies.nsga2",
    "Objective": "study",
    "Proposal": "protocol",
    "RandomSearch": "strategies.random_search",
    "RegularizedEvolution": "strategies.regularized_evolution",
    "Result": "protocol",
    "SearchStrategy": "protocol",
    "Study": "study",
    "TabularEvaluator": "tables",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
