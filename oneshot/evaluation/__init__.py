"""How good networks are, with the weights they share or their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .accuracy import evaluate_configs as evaluate_configs
    from .accuracy import inherited_error as inherited_error
    from .accuracy import score as score
    from .images import fitted as fitted
    from .inherited import InheritedEvaluation as InheritedEvaluation
    from .recalibration import recalibrate as recalibrate
    from .recalibration import recalibrate_on as recalibrate_on
    from .recalibration import recalibrated as recalibrated

__getattr__, __dir__, __all__ = lazy(__name__)
