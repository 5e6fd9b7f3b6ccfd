"""Once-for-All: Train One Network and Specialize it for Efficient Deployment (Cai et al., ICLR 2020)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneshot.engine.options import Finalists, FixedSandwichOptions, PathOptions, Unpack
from oneshot.engine.sandwich import Phase, SandwichSearch
from oneshot.evaluation.images import fitted
from oneshot.supernets.base import Subnet, Supernet, batch_statistics
from oneshot.supernets.space import NONE, Candidate, SearchSpace, SubnetConfig

BLOCK = re.compile(r"k(\d+)_e(\d+)")  # a block's name: kernel and expansion


class OnceForAllOptions(PathOptions, FixedSandwichOptions, Finalists, total=False):
    """Options that :class:`OnceForAll` passes on."""

    candidates: int


class OnceForAll(SandwichSearch):
    """Progressive shrinking: the largest network first, then smaller kernels, depths and expansions as well.

    (arXiv:1908.09791, section 3.2.) Resolutions and widths are free from the beginning, as resolutions are in the
    paper. Before blocks become narrower, their channels are sorted by importance
    (:func:`~oneshot.supernets.elastic.sort_channels`); momenta and averages do not follow and begin anew. In every step
    the largest network of the whole space learns from the labels, and sub-networks of the phase learn from its
    predictions. The paper's teacher is a copy of the largest network from before the shrinking, and its students learn
    from the labels, too; here they learn from the teacher alone, and unless ``fixed_teacher`` it goes on learning,
    which needs no second network in memory. The paper frees depths, and then expansions, in two steps each, and
    restarts the learning rate with every phase; here each is freed at once, and one cosine goes through the whole fit.

    Args:
        supernet: An elastic supernet of blocks named ``k3_e6``: kernel, expansion.
        shrink_epochs: Epochs with the largest network alone (at every resolution), then with elastic kernels, depths
            and expansions; what is left of the fit trains the whole space.
        fixed_teacher: Whether, from the second phase on, a copy of the largest network from its beginning teaches at
            the largest resolution, and the largest network is trained no more than others.
        distillation: See :class:`~oneshot.engine.sandwich.SandwichTraining`.
        random_paths: See :class:`~oneshot.engine.sandwich.SandwichTraining`.
        smallest: See :class:`~oneshot.engine.sandwich.SandwichTraining`.
        **kwargs: See :class:`~oneshot.engine.sandwich.SandwichSearch`; no ``phases``, which follow from the epochs.

    Raises:
        ValueError: If the space has no such blocks, there are not four numbers of epochs, or a fixed teacher has nobody
            or nothing to teach.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        shrink_epochs: Sequence[int] = (8, 6, 6, 6),
        fixed_teacher: bool = False,
        distillation: str = "kl",
        random_paths: int = 2,
        smallest: bool = False,
        **kwargs: Unpack[OnceForAllOptions],
    ) -> None:
        self.check_kind(supernet)
        phases = shrinking(supernet.space, shrink_epochs)
        super().__init__(
            supernet, distillation=distillation, random_paths=random_paths, smallest=smallest, phases=phases, **kwargs
        )
        self._largest_epochs, self._epochs_of_wide_blocks, self.teacher = shrink_epochs[0], sum(shrink_epochs[:3]), None
        if fixed_teacher and (self.distillation == "none" or self.random_paths + self.smallest < 1):
            raise ValueError(
                "A fixed teacher must have networks to teach, random_paths or the smallest, by 'kl' or 'alpha'; got "
                f"random_paths={self.random_paths}, distillation={self.distillation!r}. Leave fixed_teacher out."
            )
        if fixed_teacher:
            self.teacher = self._copy_of_the_largest().requires_grad_(False)

    teacher: Subnet | None

    def facts(self) -> dict[str, Any]:
        return super().facts() | ({} if self.teacher is None else {"teacher": "fixed"})

    def _copy_of_the_largest(self) -> Subnet:
        return self.supernet.extract(self.supernet.space.decode(self.smallest_and_largest[-1][1][None])[0])

    def _teaches(self) -> bool:
        return self.teacher is not None and self.current_epoch >= self._largest_epochs

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.teacher is not None and self.current_epoch == self._largest_epochs:
            self.teacher.load_state_dict(self._copy_of_the_largest().state_dict())
        if 0 < self.current_epoch == self._epochs_of_wide_blocks and self.supernet.sort_channels():
            self.weight_optimizer.optimizer.state.clear()
            self.restart_average()

    def paths(self, step: int) -> list[SubnetConfig]:
        return super().paths(step)[int(self._teaches()) :]

    @torch.no_grad()
    def teacher_logits(self, x: Any) -> Tensor | None:
        if self.teacher is None or not self._teaches():
            return super().teacher_logits(x)
        self.teacher.eval()
        with batch_statistics(self.teacher):
            logits: Tensor = self.teacher(fitted(self.teacher, x))
        return logits


def shrinking(space: SearchSpace, epochs: Sequence[int]) -> list[Phase]:
    """The phases of progressive shrinking; one of 0 epochs is left out.

    Args:
        space: Of blocks named ``k3_e6``.
        epochs: Of the largest network, elastic kernels, elastic depths and elastic expansions.

    Raises:
        ValueError: If the space has no such blocks, or there are not four numbers.
    """
    stages = [c for c in space.choices if all(BLOCK.fullmatch(str(pick)) for pick in c.candidates)]
    if not stages:
        raise ValueError(
            f"Progressive shrinking needs blocks that are named by kernel and expansion, such as 'k3_e6'; space "
            f"{space.name!r} has {space.choices[0].candidates}. Use SandwichSearch with phases of your own."
        )
    if len(epochs) != 4 or min(epochs) < 0:
        raise ValueError(f"shrink_epochs must be 4 numbers: largest, kernels, depths, expansions; got {list(epochs)}.")
    phases = []
    for step, length in enumerate(epochs):
        picks: dict[str, list[Candidate]] = {}
        for choice in stages:
            sizes = {str(pick): [int(n) for n in BLOCK.findall(str(pick))[0]] for pick in choice.candidates}
            most = [max(numbers) for numbers in zip(*sizes.values(), strict=True)]
            picks[choice.name] = [
                pick for pick in choice.picks if (step >= 2 if pick == NONE else _allowed(sizes[str(pick)], most, step))
            ]
        if length:
            phases.append(Phase(length, picks))
    return phases


def _allowed(size: Sequence[int], most: Sequence[int], step: int) -> bool:
    """Whether a block of this kernel and expansion is trained."""
    return (step >= 1 or size[0] == most[0]) and (step >= 3 or size[1] == most[1])
