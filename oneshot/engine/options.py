"""Types of the options that searches pass on to their base classes, so that editors complete and mypy checks them.

``**kwargs: Unpack[GradientOptions]`` says by name and type what a constructor passes on (PEP 692). What an option does,
and its default, is in the class that has it in its signature. A constructor may not have an option twice, so there is a
class for each set of options that some method keeps for itself; a method combines the others. In a method of your own::

    def __init__(self, supernet: OperationSupernet, *, power: float = 2.0, **kwargs: Unpack[GradientOptions]) -> None:
        super().__init__(supernet, MySampler(power), **kwargs)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from torch import nn

from oneshot._typing import Unpack as Unpack
from oneshot.cost.penalty import CostPenalty
from oneshot.cost.resolve import OwnCosts
from oneshot.tasks.task import Task
from oneshot.training.optimizers import OptimizerFactory, ScheduleFactory

from .samplers import Perturbation

if TYPE_CHECKING:
    from .sandwich import Phase


# Of the weights.


class FixedWeightOptions(TypedDict, total=False):
    """Options of :class:`~oneshot.engine.weight_training.WeightTraining` that no method has for itself."""

    task: Task | str | None
    criterion: nn.Module | None
    weight_momentum: float
    weight_optimizer: OptimizerFactory | None
    weight_schedule: ScheduleFactory | None
    weight_schedule_every: Literal["epoch", "step"]
    weight_warmup_epochs: int
    weight_decay_norms: bool
    accumulate: int
    ema_decay: float | None
    freeze_statistics: bool


class WeightLr(TypedDict, total=False):
    """Learning rate."""

    weight_lr: float


class WeightLrMin(TypedDict, total=False):
    """Its value at the end."""

    weight_lr_min: float


class WeightDecay(TypedDict, total=False):
    """Weight decay."""

    weight_decay: float


class WeightNesterov(TypedDict, total=False):
    """Nesterov's momentum."""

    weight_nesterov: bool


class GradClip(TypedDict, total=False):
    """Largest norm of the gradient."""

    grad_clip: float


class WeightOptions(FixedWeightOptions, WeightLr, WeightLrMin, WeightDecay, WeightNesterov, GradClip, total=False):
    """Of :class:`~oneshot.engine.weight_training.WeightTraining`."""


class Checkpointing(TypedDict, total=False):
    """Gradient checkpointing."""

    gradient_checkpointing: bool


class DropPath(TypedDict, total=False):
    """Drop-path."""

    drop_path: float


class SupernetOptions(WeightOptions, Checkpointing, DropPath, total=False):
    """Of :class:`~oneshot.engine.supernet_training.SupernetTraining`."""

    compile: bool | dict[str, Any]


# Of the alphas.


class AlphaStd(TypedDict, total=False):
    """Standard deviation of the initial alphas."""

    alpha_std: float


class AlphaOptions(SupernetOptions, AlphaStd, total=False):
    """Of :class:`~oneshot.engine.alphas.AlphaSearch`."""


class ArchLr(TypedDict, total=False):
    """Learning rate of the alphas."""

    arch_lr: float


class ArchBetas(TypedDict, total=False):
    """Adam's betas."""

    arch_betas: tuple[float, float]


class ArchDecay(TypedDict, total=False):
    """Weight decay of the alphas."""

    arch_weight_decay: float


class ArchWarmup(TypedDict, total=False):
    """Epochs in which the alphas stay."""

    arch_warmup_epochs: int


class ArchEvery(TypedDict, total=False):
    """Steps between two of the alphas."""

    arch_every: int


class ArchOptimizer(TypedDict, total=False):
    """Another optimiser of the alphas."""

    arch_optimizer: OptimizerFactory | None


class ArchOptions(ArchLr, ArchBetas, ArchDecay, ArchWarmup, ArchEvery, ArchOptimizer, total=False):
    """How alphas move."""


class Penalised(TypedDict, total=False):
    """Penalty of costs."""

    penalty: CostPenalty | None


class UnperturbedOptions(AlphaOptions, ArchOptions, Penalised, total=False):
    """Of :class:`~oneshot.engine.gradient.SingleLevelSearch`."""


class GradientOptions(UnperturbedOptions, total=False):
    """Of :class:`~oneshot.engine.gradient.GradientSearch` and :class:`~oneshot.engine.gradient.BilevelSearch`."""

    perturbation: Perturbation | None


class FixedGradientOptions(FixedWeightOptions, GradClip, Checkpointing, total=False):
    """Options of gradient searches that no method has for itself, but ``arch_optimizer``."""

    compile: bool | dict[str, Any]


# Of sampled paths.


class FixedPathOptions(
    FixedWeightOptions, WeightLr, WeightLrMin, WeightDecay, WeightNesterov, Checkpointing, DropPath, total=False
):
    """Options of searches by paths that no method has for itself."""


class PathOptions(FixedPathOptions, GradClip, total=False):
    """Of :class:`~oneshot.engine.paths.PathTraining`."""


class Finalists(TypedDict, total=False):
    """How many are compared on all images."""

    finalists: int


class SharingOptions(PathOptions, Finalists, total=False):
    """Of :class:`~oneshot.engine.sharing.WeightSharingSearch`."""

    candidates: int


class FixedSandwichOptions(TypedDict, total=False):
    """Options of :class:`~oneshot.engine.sandwich.SandwichTraining` that no method has for itself."""

    alphas: Sequence[float]
    clip: float
    fit_head: bool
    rank_channels: bool
    initial_teacher: bool
    costs: OwnCosts | None


class SandwichOptions(PathOptions, FixedSandwichOptions, total=False):
    """Of :class:`~oneshot.engine.sandwich.SandwichTraining`."""

    random_paths: int
    smallest: bool
    distillation: str
    phases: Sequence[Phase]


class SandwichSearchOptions(SandwichOptions, Finalists, total=False):
    """Of :class:`~oneshot.engine.sandwich.SandwichSearch`."""

    candidates: int
