"""The search loops, written once, and the samplers they train with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneshot._lazy import lazy

if TYPE_CHECKING:
    from .alphas import AlphaSearch as AlphaSearch
    from .gradient import BilevelSearch as BilevelSearch
    from .gradient import GradientSearch as GradientSearch
    from .gradient import SingleLevelSearch as SingleLevelSearch
    from .module import SearchModule as SearchModule
    from .paths import PathTraining as PathTraining
    from .samplers import EdgeNormalization as EdgeNormalization
    from .samplers import GumbelSoftmaxSampler as GumbelSoftmaxSampler
    from .samplers import LinearTemperature as LinearTemperature
    from .samplers import OneHotSampler as OneHotSampler
    from .samplers import Perturbation as Perturbation
    from .samplers import ReinMaxSampler as ReinMaxSampler
    from .samplers import Sampler as Sampler
    from .samplers import SoftmaxSampler as SoftmaxSampler
    from .samplers import StraightThroughSampler as StraightThroughSampler
    from .sandwich import Phase as Phase
    from .sandwich import SandwichSearch as SandwichSearch
    from .sandwich import SandwichTraining as SandwichTraining
    from .sharing import WeightSharingSearch as WeightSharingSearch
    from .stages import Stage as Stage
    from .supernet_training import SupernetTraining as SupernetTraining
    from .weight_training import WeightTraining as WeightTraining

__getattr__, __dir__, __all__ = lazy(__name__)
