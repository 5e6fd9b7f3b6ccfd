"""Discrete search: strategies that ask and are told, evaluators that answer, and studies that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .enas import ENAS as ENAS
    from .graph import GraphNetwork as GraphNetwork
    from .graph import NetworkGraph as NetworkGraph
    from .graph import Node as Node
    from .graph import plain_graph as plain_graph
    from .inherited import SupernetEvaluator as SupernetEvaluator
    from .log import EventLog as EventLog
    from .morphism import APPROXIMATE_OPERATORS as APPROXIMATE_OPERATORS
    from .morphism import EXACT_OPERATORS as EXACT_OPERATORS
    from .morphism import LEMONADE_OPERATORS as LEMONADE_OPERATORS
    from .morphism import NASH_OPERATORS as NASH_OPERATORS
    from .morphism import MorphismRecord as MorphismRecord
    from .morphism import distil as distil
    from .morphism import morph as morph
    from .morphism import random_morphism as random_morphism
    from .morphism import replay as replay
    from .protocol import Evaluator as Evaluator
    from .protocol import Proposal as Proposal
    from .protocol import Result as Result
    from .protocol import SearchStrategy as SearchStrategy
    from .strategies.bananas import BANANAS as BANANAS
    from .strategies.controller import ZophLeSpace as ZophLeSpace
    from .strategies.hyperband import Hyperband as Hyperband
    from .strategies.hyperband import SuccessiveHalving as SuccessiveHalving
    from .strategies.large_scale_evolution import LargeScaleEvolution as LargeScaleEvolution
    from .strategies.lemonade import LEMONADE as LEMONADE
    from .strategies.local_search import LocalSearch as LocalSearch
    from .strategies.mnasnet import MnasNet as MnasNet
    from .strategies.mnasnet import MnasNetScalar as MnasNetScalar
    from .strategies.morphing import RandomGraphs as RandomGraphs
    from .strategies.nash import NASH as NASH
    from .strategies.netadapt import NetAdapt as NetAdapt
    from .strategies.neural_architect import ConstrainedScalar as ConstrainedScalar
    from .strategies.neural_architect import NeuralArchitect as NeuralArchitect
    from .strategies.nsga2 import NSGA2 as NSGA2
    from .strategies.ppo import PPO as PPO
    from .strategies.random_search import GridSearch as GridSearch
    from .strategies.random_search import RandomSearch as RandomSearch
    from .strategies.regularized_evolution import RegularizedEvolution as RegularizedEvolution
    from .strategies.reinforce import REINFORCE as REINFORCE
    from .study import Objective as Objective
    from .study import Study as Study
    from .tables import TabularEvaluator as TabularEvaluator
    from .training import TrainingEvaluator as TrainingEvaluator

# Imported on first use, as everywhere.
_WHERE = {
    "APPROXIMATE_OPERATORS": "morphism",
    "BANANAS": "strategies.bananas",
    "ConstrainedScalar": "strategies.neural_architect",
    "ENAS": "enas",
    "EXACT_OPERATORS": "morphism",
    "Evaluator": "protocol",
    "EventLog": "log",
    "GraphNetwork": "graph",
    "GridSearch": "strategies.random_search",
    "Hyperband": "strategies.hyperband",
    "LEMONADE": "strategies.lemonade",
    "LEMONADE_OPERATORS": "morphism",
    "LargeScaleEvolution": "strategies.large_scale_evolution",
    "LocalSearch": "strategies.local_search",
    "MnasNet": "strategies.mnasnet",
    "MnasNetScalar": "strategies.mnasnet",
    "MorphismRecord": "morphism",
    "NASH": "strategies.nash",
    "NASH_OPERATORS": "morphism",
    "NSGA2": "strategies.nsga2",
    "NetAdapt": "strategies.netadapt",
    "NetworkGraph": "graph",
    "NeuralArchitect": "strategies.neural_architect",
    "Node": "graph",
    "Objective": "study",
    "PPO": "strategies.ppo",
    "Proposal": "protocol",
    "REINFORCE": "strategies.reinforce",
    "RandomGraphs": "strategies.morphing",
    "RandomSearch": "strategies.random_search",
    "RegularizedEvolution": "strategies.regularized_evolution",
    "Result": "protocol",
    "SearchStrategy": "protocol",
    "Study": "study",
    "SuccessiveHalving": "strategies.hyperband",
    "SupernetEvaluator": "inherited",
    "TabularEvaluator": "tables",
    "TrainingEvaluator": "training",
    "ZophLeSpace": "strategies.controller",
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
