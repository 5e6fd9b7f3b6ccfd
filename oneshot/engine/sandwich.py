"""Training of a supernet whose sub-networks are all to be used: the sandwich rule, distillation in place, phases."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from oneshot.cost.counting.candidates import count_candidates
from oneshot.cost.extremes import extremes, restrict
from oneshot.cost.resolve import OwnCosts, own_costs
from oneshot.evaluation.images import fitted
from oneshot.functional import alpha_divergence
from oneshot.supernets.base import Subnet, Supernet, batch_statistics
from oneshot.supernets.space import Candidate, IntMatrix, SearchSpace, SubnetConfig
from oneshot.training.head import check_head_task, fit_head_before_training
from oneshot.training.samples import fit_samples

from .options import PathOptions, SandwichSearchOptions, Unpack
from .paths import PathTraining
from .sharing import WeightSharingSearch

RANKED = 512  # training samples that say which channels matter


@dataclass(frozen=True)
class Phase:
    """Some epochs in which only part of the space is trained.

    Args:
        epochs: How many.
        picks: Allowed picks of the choices that are restricted, ``{choice: picks}``; the others are free. A name that
            ends in ``*`` stands for all choices that begin so. ``none`` must be listed to be allowed.
    """

    epochs: int
    picks: Mapping[str, Sequence[Candidate]] = field(default_factory=dict)

    def allowed(self, space: SearchSpace) -> list[npt.NDArray[np.bool_]]:
        """Which picks of every gene are trained, G of ``[P]``.

        Raises:
            ValueError: If a choice or a pick is not of the space, or two names stand for one choice.
        """
        masks, used = [], set[str]()
        for choice in space.choices:
            names = [name for name in self.picks if _matches(name, choice.name)]
            if len(names) > 1:
                raise ValueError(
                    f"A phase must restrict a choice only once; {names[0]!r} and {names[1]!r} both stand for "
                    f"{choice.name!r}. Leave one out, or name the choices one by one."
                )
            used.update(names)
            picks = self.picks[names[0]] if names else choice.picks
            unknown = [pick for pick in picks if pick not in choice.picks]
            if unknown or not picks:
                raise ValueError(
                    f"A phase must allow picks of choice {choice.name!r}, at least one of {choice.picks}; got "
                    f"{unknown[0] if unknown else 'none'!r}."
                )
            masks += [np.array([pick in picks for pick in choice.picks])] * choice.rows
        if unknown_names := sorted(set(self.picks) - used):
            raise ValueError(
                f"A phase must restrict choices of space {space.name!r}, {[c.name for c in space.choices]}; got "
                f"{unknown_names[0]!r}."
            )
        return masks


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


class SandwichTraining(PathTraining):
    """Trains the largest, the smallest and some random sub-networks in every step; the largest teaches the others.

    The sandwich rule and distillation in place are those of BigNAS (arXiv:2003.11142, section 3.1, after
    arXiv:1903.05134): the largest sub-network learns from the labels, all others from its predictions. Gradients of all
    are added up, clipped together, and the weights move once. Phases restrict what is trained to parts of the space,
    such as progressive shrinking does (arXiv:1908.09791, section 3.2); the largest and the smallest are those of the
    phase.

    Running statistics of batch normalisation belong to no single sub-network; evaluations compute them anew, see
    :func:`~oneshot.evaluation.recalibration.recalibrated`.

    Args:
        supernet: Any supernet.
        random_paths: Sub-networks that are drawn in every step.
        smallest: Whether the smallest is trained in every step.
        distillation: ``"alpha"`` and ``"kl"`` have the others learn from the largest; ``"none"`` from the labels. Where
            outputs are no probabilities, ``"kl"`` is :meth:`oneshot.tasks.Task.divergence`.
        alphas: Of ``"alpha"``, see :func:`~oneshot.functional.alpha_divergence`.
        clip: Likewise.
        phases: Restrictions, one after the other; the whole space after the last. Their epochs are at most those of the
            fit.
        fit_head: Fit the last layer to the features of the largest sub-network in closed form before the first step
            (:func:`~oneshot.training.head.fit_head`): for a supernet whose weights were trained on other data.
        rank_channels: Sort the channels of a converted network before the first step by what leaving them out does to
            the loss on training samples (:meth:`~oneshot.conversion.ConvertedSupernet.rank_channels`), not by their
            weights alone: what the data do not need is then what smaller sub-networks leave out.
        initial_teacher: Whether the others learn from the largest sub-network as it is when the fit begins, not as it
            becomes: for a supernet whose largest is a trained network, such as a converted one.
        costs: What architectures cost, by name, where it is not to be counted: cost models, or functions of a
            ``SubnetConfig``, see :func:`~oneshot.cost.resolve.own_costs`. ``"macs"`` says what is large and what small.
        **kwargs: See :class:`~oneshot.engine.paths.PathTraining`.

    Raises:
        ValueError: If a number is out of its range, or a phase does not fit the space.

    Attributes:
        macs: Multiply-accumulates of every architecture, which say what is large and what small. Those of spaces
            that nothing is known of are counted network by network, see :func:`~oneshot.cost.count_candidates`.
        costs: The cost models of ``costs``, by name.
        smallest_and_largest: Of every phase, and at the end of the whole space, G genes each.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        random_paths: int = 2,
        smallest: bool = True,
        distillation: str = "kl",
        alphas: Sequence[float] = (-1.0, 1.0),
        clip: float = 5.0,
        phases: Sequence[Phase] = (),
        fit_head: bool = False,
        rank_channels: bool = False,
        initial_teacher: bool = False,
        costs: OwnCosts | None = None,
        **kwargs: Unpack[PathOptions],
    ) -> None:
        super().__init__(supernet, **kwargs)
        if random_paths < 0:
            raise ValueError(
                f"random_paths, the sub-networks drawn in every step, must be at least 0; got {random_paths}."
            )
        if distillation not in ("alpha", "kl", "none"):
            raise ValueError(f"distillation must be 'alpha', 'kl' or 'none'; got {distillation!r}.")
        if distillation == "alpha" and self.task.as_logits(torch.zeros(1, supernet.num_classes)) is None:
            raise ValueError(
                f"distillation='alpha' compares probabilities, and outputs for {self.task.name} are none; use 'kl', "
                "which is the loss of the task there, or 'none'."
            )
        if any(phase.epochs < 1 for phase in phases):
            raise ValueError(f"A phase must last at least one epoch; got {[phase.epochs for phase in phases]}.")
        if fit_head:
            check_head_task(self.task)
        self.fit_head, self.rank_channels = fit_head, rank_channels
        if rank_channels and type(supernet).rank_channels is Supernet.rank_channels:
            supernet.rank_channels(())  # raises
        self.random_paths, self.smallest, self.phases = random_paths, smallest, tuple(phases)
        self.distillation, self.divergences, self.clip = distillation, tuple(alphas), clip
        space, self.costs = supernet.space, own_costs(costs, supernet)
        self.macs = self.costs["macs"] if "macs" in self.costs else count_candidates(supernet, "macs")
        self._picks: list[list[IntMatrix]] = []  # of every phase and gene
        self.smallest_and_largest: list[tuple[IntMatrix, IntMatrix]] = []
        for phase in (*self.phases, Phase(1)):
            masks = phase.allowed(space)
            self._picks.append([np.flatnonzero(mask) for mask in masks])
            self.smallest_and_largest.append(extremes(self.macs, masks))
        if initial_teacher and (distillation == "none" or random_paths + smallest < 1):
            raise ValueError(
                "initial_teacher must have networks to teach, random_paths or the smallest, by 'kl' or 'alpha'; got "
                f"random_paths={random_paths}, distillation={distillation!r}. Leave initial_teacher out."
            )
        self.initial: Subnet | None = (
            supernet.extract(self._largest()).requires_grad_(False) if initial_teacher else None
        )

    def on_fit_start(self) -> None:
        super().on_fit_start()
        epochs = sum(phase.epochs for phase in self.phases)
        if epochs > (self.trainer.max_epochs or 0) and not getattr(self.trainer, "fast_dev_run", 0):
            raise ValueError(
                f"The phases must end within the fit; they last {epochs} epochs, and max_epochs is "
                f"{self.trainer.max_epochs}. Raise it, or shorten the phases."
            )

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.fit_head and self.trainer.global_step == 0:
            largest = self._largest()
            fit_head_before_training(
                self.trainer,
                self.supernet,
                lambda x: self.supernet.run_config(x, largest),
                frozen=self.freeze_statistics,
            )
            self.restart_average()
        if self.rank_channels and self.trainer.global_step == 0:
            self._rank()
        if self.initial is not None and self.trainer.global_step == 0:
            self.initial.load_state_dict(self.supernet.extract(self._largest()).state_dict())

    def _rank(self) -> None:
        """Rank channels in the first process; all others get its weights."""
        found: tuple[str | None, dict[str, Tensor]] = None, {}
        if self.trainer.is_global_zero:
            try:
                with fit_samples(self.trainer, RANKED) as batches:
                    self.supernet.rank_channels(batches)
                found = None, {name: tensor.cpu() for name, tensor in self.supernet.state_dict().items()}
            except ValueError as error:
                found = str(error), {}
        wrong, state = self.trainer.strategy.broadcast(found)
        if wrong is not None:
            raise ValueError(wrong)
        self.supernet.load_state_dict(state)
        self.restart_average()

    def _largest(self) -> SubnetConfig:
        """The largest sub-network of the whole space."""
        (largest,) = self.supernet.space.decode(self.smallest_and_largest[-1][1][None])
        return largest

    @torch.no_grad()
    def teacher_logits(self, x: Any) -> Tensor | None:
        if self.initial is None:
            return None
        self.initial.eval()
        # The last layer was fitted to features in the statistics of batches; a trained network has its own.
        with batch_statistics(self.initial) if self.fit_head else contextlib.nullcontext():
            logits: Tensor = self.initial(fitted(self.initial, x))
        return logits

    def facts(self) -> dict[str, Any]:
        paths = f"{self.random_paths} random{', the smallest' if self.smallest else ''}"
        distillation = f"{self.distillation} {self.divergences}, clip {self.clip}"
        phases = [(phase.epochs, {name: list(picks) for name, picks in phase.picks.items()}) for phase in self.phases]
        own = {"paths": paths, "phases": repr(phases), **({} if self.initial is None else {"teacher": "initial"})}
        return {
            **super().facts(),
            **own,
            "distillation": distillation if self.distillation == "alpha" else self.distillation,
        }

    def phase(self) -> int:
        """Number of the phase of the current epoch, from 0; the number of phases once the whole space is trained."""
        ends = np.cumsum([phase.epochs for phase in self.phases])
        return int(np.searchsorted(ends, self.current_epoch, side="right"))

    def draw(self, n: int, rng: np.random.Generator) -> IntMatrix:
        """Random sub-networks of a step, ``[n, G]``; uniform, unless a method knows better."""
        return self.supernet.space.sample_matrix(n, rng)

    def paths(self, step: int) -> list[SubnetConfig]:
        rng, phase, space = np.random.default_rng(int(torch.randint(2**31, ()))), self.phase(), self.supernet.space
        least, most = self.smallest_and_largest[phase]
        drawn = space.repair(restrict(space, self.draw(self.random_paths, rng), self._picks[phase], rng))
        return space.decode(np.stack([most, *drawn, *([least] if self.smallest else [])]))

    @property
    def first_learns_from_labels(self) -> bool:
        return self.initial is not None

    def path_loss(self, logits: Tensor, labels: Tensor, first: Tensor | None) -> Tensor:
        if first is None or self.distillation == "none":
            return super().path_loss(logits, labels, first)
        student, teacher = self.task.as_logits(logits), self.task.as_logits(first)
        if student is None or teacher is None:
            return self.task.divergence(logits, first)
        alphas, clip = ((1.0,), float("inf")) if self.distillation == "kl" else (self.divergences, self.clip)
        return alpha_divergence(teacher, student, alphas=alphas, clip=clip)


class SandwichSearch(SandwichTraining, WeightSharingSearch):
    """Trains by the sandwich rule, then compares architectures as in a search by weight sharing.

    Args:
        supernet: Any supernet.
        **kwargs: See :class:`SandwichTraining` and :class:`~oneshot.engine.sharing.WeightSharingSearch`.
    """

    def __init__(self, supernet: Supernet, **kwargs: Unpack[SandwichSearchOptions]) -> None:
        super().__init__(supernet, **kwargs)  # type: ignore[misc]  # the other base class takes what is left
