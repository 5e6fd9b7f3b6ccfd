"""Discrete search: strategies that ask and are told, evaluators that answer, and studies that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .log import EventLog as EventLog
    from .protocol import Proposal as Proposal
    from .protocol import Result as Result
    from .protocol import SearchStrategy as SearchStrategy
    from .strategies.random_search import GridSearch as GridSearch
    from .strategies.random_search import RandomSearch as RandomSearch
    from .study import Objective as Objective
    from .study import Study as Study
    from .tables import TabularEvaluator as TabularEvaluator

# Imported on first use, as everywhere.
_WHERE = {
    "EventLog": "log",
    "GridSearch": "strategies.random_search",
    "Objective": "study",
    "Proposal": "protocol",
    "RandomSearch": "strategies.random_search",
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
