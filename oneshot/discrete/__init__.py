"""Discrete search: strategies that ask and are told, evaluators that answer, and studies that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .enas import ENAS as ENAS
    from .log import EventLog as EventLog
    from .protocol import Proposal as Proposal
    from .protocol import Result as Result
    from .protocol import SearchStrategy as SearchStrategy
    from .strategies.controller import ZophLeSpace as ZophLeSpace
    from .strategies.mnasnet import MnasNet as MnasNet
    from .strategies.mnasnet import MnasNetScalar as MnasNetScalar
    from .strategies.neural_architect import ConstrainedScalar as ConstrainedScalar
    from .strategies.neural_architect import NeuralArchitect as NeuralArchitect
    from .strategies.ppo import PPO as PPO
    from .strategies.random_search import GridSearch as GridSearch
    from .strategies.random_search import RandomSearch as RandomSearch
    from .strategies.reinforce import REINFORCE as REINFORCE
    from .study import Objective as Objective
    from .study import Study as Study
    from .tables import TabularEvaluator as TabularEvaluator

# Imported on first use, as everywhere.
_WHERE = {
    "ConstrainedScalar": "strategies.neural_architect",
    "ENAS": "enas",
    "EventLog": "log",
    "GridSearch": "strategies.random_search",
    "MnasNet": "strategies.mnasnet",
    "MnasNetScalar": "strategies.mnasnet",
    "NeuralArchitect": "strategies.neural_architect",
    "Objective": "study",
    "PPO": "strategies.ppo",
    "Proposal": "protocol",
    "REINFORCE": "strategies.reinforce",
    "RandomSearch": "strategies.random_search",
    "Result": "protocol",
    "SearchStrategy": "protocol",
    "Study": "study",
    "TabularEvaluator": "tables",
    "ZophLeSpace": "strategies.controller",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
