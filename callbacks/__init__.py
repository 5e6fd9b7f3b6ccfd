"""Lightning callbacks of a search: what it logs, draws, writes and watches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .arch_logger import ArchLogger as ArchLogger
    from .checkpoint import RunCheckpoint as RunCheckpoint
    from .checkpoint import good_checkpoint as good_checkpoint
    from .collapse_monitor import CollapseMonitor as CollapseMonitor
    from .cost_monitor import CostMonitor as CostMonitor
    from .genotype_plot import GenotypePlot as GenotypePlot
    from .mistake_recorder import MistakeRecorder as MistakeRecorder
    from .pareto_export import ParetoExport as ParetoExport
    from .progress import SearchProgressBar as SearchProgressBar
    from .run_report import RunReport as RunReport
    from .step_profile import StepProfile as StepProfile
    from .subnet_export import SubnetExport as SubnetExport

__getattr__, __dir__, __all__ = lazy(__name__)
