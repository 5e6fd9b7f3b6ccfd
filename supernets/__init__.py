"""Search spaces and weight-sharing networks. Torch only, and what needs no torch does not import it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import OperationSupernet as OperationSupernet
    from .base import Subnet as Subnet
    from .base import Supernet as Supernet
    from .darts import DARTSNetwork as DARTSNetwork
    from .darts import DARTSSpace as DARTSSpace
    from .darts import DARTSSupernet as DARTSSupernet
    from .darts import darts_space as darts_space
    from .darts import reduced_space as reduced_space
    from .genotype import PUBLISHED as PUBLISHED
    from .genotype import Genotype as Genotype
    from .mixed_op import MixedOp as MixedOp
    from .nasbench201 import NASBench201Network as NASBench201Network
    from .nasbench201 import NASBench201Space as NASBench201Space
    from .nasbench201 import NASBench201Supernet as NASBench201Supernet
    from .recurrent import PUBLISHED_RECURRENT as PUBLISHED_RECURRENT
    from .recurrent import LSTMLanguageModel as LSTMLanguageModel
    from .recurrent import RecurrentGenotype as RecurrentGenotype
    from .recurrent import RecurrentLanguageModel as RecurrentLanguageModel
    from .recurrent import RecurrentSpace as RecurrentSpace
    from .recurrent import RecurrentSupernet as RecurrentSupernet
    from .space import ArchGraph as ArchGraph
    from .space import Choice as Choice
    from .space import SearchSpace as SearchSpace
    from .space import SubnetConfig as SubnetConfig
    from .space import load_config as load_config

# Imported on first use: a command line that answers --help must not wait for torch.
_WHERE = {
    "ArchGraph": "space",
    "Choice": "space",
    "DARTSNetwork": "darts",
    "DARTSSpace": "darts",
    "DARTSSupernet": "darts",
    "Genotype": "genotype",
    "LSTMLanguageModel": "recurrent",
    "MixedOp": "mixed_op",
    "NASBench201Network": "nasbench201",
    "NASBench201Space": "nasbench201",
    "NASBench201Supernet": "nasbench201",
    "OperationSupernet": "base",
    "PUBLISHED": "genotype",
    "PUBLISHED_RECURRENT": "recurrent",
    "RecurrentGenotype": "recurrent",
    "RecurrentLanguageModel": "recurrent",
    "RecurrentSpace": "recurrent",
    "RecurrentSupernet": "recurrent",
    "SearchSpace": "space",
    "SubnetConfig": "space",
    "Subnet": "base",
    "Supernet": "base",
    "darts_space": "darts",
    "load_config": "space",
    "reduced_space": "darts",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
