"""Discrete search: strategies that ask and are told, evaluators that answer, and studies that run them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .evaluators.benchmarks import NASBench301Evaluator as NASBench301Evaluator
    from .evaluators.benchmarks import nas_bench_101 as nas_bench_101
    from .evaluators.benchmarks import nas_bench_201_file as nas_bench_201_file
    from .evaluators.benchmarks import nats_bench as nats_bench
    from .evaluators.inherited import SupernetEvaluator as SupernetEvaluator
    from .evaluators.latency import MeasuredLatency as MeasuredLatency
    from .evaluators.nas_bench_graph import NASBenchGraphSpace as NASBenchGraphSpace
    from .evaluators.nas_bench_graph import nas_bench_graph as nas_bench_graph
    from .evaluators.proxies import ProxyEvaluator as ProxyEvaluator
    from .evaluators.surrogate import DARTSSurrogate as DARTSSurrogate
    from .evaluators.surrogate import darts_surrogate as darts_surrogate
    from .evaluators.tables import TabularEvaluator as TabularEvaluator
    from .evaluators.training import TrainingEvaluator as TrainingEvaluator
    from .events import EventLog as EventLog
    from .graphs.approximate import distil as distil
    from .graphs.encoding import GraphSpace as GraphSpace
    from .graphs.graph import NetworkGraph as NetworkGraph
    from .graphs.graph import Node as Node
    from .graphs.graph import plain_graph as plain_graph
    from .graphs.morphism import APPROXIMATE_OPERATORS as APPROXIMATE_OPERATORS
    from .graphs.morphism import EXACT_OPERATORS as EXACT_OPERATORS
    from .graphs.morphism import LEMONADE_OPERATORS as LEMONADE_OPERATORS
    from .graphs.morphism import NASH_OPERATORS as NASH_OPERATORS
    from .graphs.morphism import MorphismRecord as MorphismRecord
    from .graphs.morphism import morph as morph
    from .graphs.morphism import random_morphism as random_morphism
    from .graphs.morphism import replay as replay
    from .graphs.network import GraphNetwork as GraphNetwork
    from .protocol import Evaluator as Evaluator
    from .protocol import Proposal as Proposal
    from .protocol import Result as Result
    from .protocol import SearchStrategy as SearchStrategy
    from .record import Objective as Objective
    from .strategies.bananas import BANANAS as BANANAS
    from .strategies.cgp_cnn import CGPCNN as CGPCNN
    from .strategies.cgp_cnn import CGPSpace as CGPSpace
    from .strategies.codeepneat import CoDeepNEAT as CoDeepNEAT
    from .strategies.codeepneat import RandomAssemblies as RandomAssemblies
    from .strategies.gaussian_process import GaussianProcess as GaussianProcess
    from .strategies.genetic_cnn import GeneticCNN as GeneticCNN
    from .strategies.genetic_cnn import GeneticCNNSpace as GeneticCNNSpace
    from .strategies.hierarchical import HierarchicalSpace as HierarchicalSpace
    from .strategies.hyperband import Hyperband as Hyperband
    from .strategies.hyperband import SuccessiveHalving as SuccessiveHalving
    from .strategies.large_scale_evolution import LargeScaleEvolution as LargeScaleEvolution
    from .strategies.lemonade import LEMONADE as LEMONADE
    from .strategies.local_search import LocalSearch as LocalSearch
    from .strategies.mnasnet import MnasNet as MnasNet
    from .strategies.mnasnet import MnasNetScalar as MnasNetScalar
    from .strategies.morphing import RandomGraphs as RandomGraphs
    from .strategies.nash import NASH as NASH
    from .strategies.neat import NEATSettings as NEATSettings
    from .strategies.netadapt import NetAdapt as NetAdapt
    from .strategies.neural_architect import ConstrainedScalar as ConstrainedScalar
    from .strategies.neural_architect import NeuralArchitect as NeuralArchitect
    from .strategies.nsga2 import NSGA2 as NSGA2
    from .strategies.ppo import PPO as PPO
    from .strategies.random_search import GridSearch as GridSearch
    from .strategies.random_search import RandomSearch as RandomSearch
    from .strategies.reevaluation import Reevaluation as Reevaluation
    from .strategies.regularized_evolution import RegularizedEvolution as RegularizedEvolution
    from .strategies.reinforce import REINFORCE as REINFORCE
    from .strategies.tournament_evolution import TournamentEvolution as TournamentEvolution
    from .strategies.zoph_le import ZophLeSpace as ZophLeSpace
    from .study import Study as Study
    from .weighted_product import WeightedProduct as WeightedProduct

__getattr__, __dir__, __all__ = lazy(__name__)
