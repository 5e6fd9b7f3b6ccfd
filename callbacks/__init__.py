"""Lightning callbacks of a search: what it logs, draws, writes and watches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arch_logger import ArchLogger as ArchLogger
    from .checkpoint import RunCheckpoint as RunCheckpoint
    from .checkpoint import good_checkpoint as good_checkpoint
    from .collapse_monitor import CollapseMonitor as CollapseMonitor
    from .cost_monitor import CostMonitor as CostMonitor
    from .genotype_plot import GenotypePlot as GenotypePlot
    from .pareto_export import ParetoExport as ParetoExport
    from .progress import SearchProgressBar as SearchProgressBar
    from .step_profile import StepProfile as StepProfile
    from .subnet_export import SubnetExport as SubnetExport

# Imported on first use: a command line that answers --help must not wait for torch.
_WHERE = {
    "ArchLogger": "arch_logger",
    "CollapseMonitor": "collapse_monitor",
    "CostMonitor": "cost_monitor",
    "GenotypePlot": "genotype_plot",
    "ParetoExport": "pareto_export",
    "RunCheckpoint": "checkpoint",
    "SearchProgressBar": "progress",
    "StepProfile": "step_profile",
    "SubnetExport": "subnet_export",
    "good_checkpoint": "checkpoint",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
