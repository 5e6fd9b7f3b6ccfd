"""SmoothDARTS: Stabilizing Differentiable Architecture Search via Perturbation-based Regularization (ICML 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import Unpack, UnperturbedOptions
from oneshot.engine.samplers import Perturbation, SoftmaxSampler
from oneshot.functional import clip_to_simplex, worst_weights
from oneshot.supernets.base import OperationSupernet

Attack = Literal["random", "adversarial"]


class GrowingPerturbation(Perturbation):
    """A perturbation whose size grows in a straight line: ``start + (end - start) * e / E`` in epoch e of E.

    Args:
        start: Epsilon of the first epoch.
        end: Epsilon it grows to; the last epoch is one step below, as in the authors' code.

    Raises:
        ValueError: If the sizes are not in order between 0 and 1.
    """

    epsilon: Tensor

    def __init__(self, start: float = 0.03, end: float = 0.3) -> None:
        super().__init__()
        if not 0 <= start <= end <= 1:
            raise ValueError(f"epsilon must grow from start >= 0 to end <= 1, the largest weight; got {start}, {end}.")
        self.start, self.end = start, end
        self.register_buffer("epsilon", torch.tensor(float(start), dtype=torch.float64))

    def schedule(self, epoch: int, epochs: int) -> None:
        self.epsilon.fill_(self.start + (self.end - self.start) * epoch / epochs)


class RandomPerturbation(GrowingPerturbation):
    """SDARTS-RS: uniform noise of size epsilon on every edge weight (arXiv:2002.05283, equation 6).

    The noise is the same in all processes of a search.
    """

    def forward(
        self,
        rows: Mapping[str, Tensor],
        loss: Callable[[Mapping[str, Tensor]], Tensor],
        average: Callable[[list[Tensor]], list[Tensor]] = list,
    ) -> dict[str, Tensor]:
        epsilon = float(self.epsilon)
        return {
            name: clip_to_simplex(row + torch.empty_like(row).uniform_(-epsilon, epsilon)) for name, row in rows.items()
        }


class AdversarialPerturbation(GrowingPerturbation):
    """SDARTS-ADV: the edge weights within epsilon that hurt the training loss most (arXiv:2002.05283, equation 7).

    Source: :func:`~oneshot.functional.worst_weights`. A step of the weights costs ``steps + 2`` more passes through
    the supernet, ``steps`` of them with a backward pass.

    Args:
        start: See :class:`GrowingPerturbation`.
        end: See :class:`GrowingPerturbation`.
        steps: Gradient steps.

    Raises:
        ValueError: If there is no step, or the sizes are out of order.
    """

    def __init__(self, start: float = 0.03, end: float = 0.3, *, steps: int = 7) -> None:
        super().__init__(start, end)
        if steps < 1:
            raise ValueError(f"steps of an attack must be at least 1; got {steps}. RandomPerturbation takes none.")
        self.steps = steps

    def forward(
        self,
        rows: Mapping[str, Tensor],
        loss: Callable[[Mapping[str, Tensor]], Tensor],
        average: Callable[[list[Tensor]], list[Tensor]] = list,
    ) -> dict[str, Tensor]:
        return worst_weights(rows, loss, epsilon=float(self.epsilon), steps=self.steps, average=average)


class SmoothDARTS(BilevelSearch):
    """First-order DARTS whose weights are trained under perturbed edge weights (arXiv:2002.05283, equation 4).

    The weights learn to do well around the architecture, so that rounding it at the end costs little. The alphas see
    the edge weights as they are. Any bilevel method can be perturbed so, by its argument ``perturbation``; this class
    has the settings of the paper, which are DARTS' with epsilon from 0.03 to 0.3 in the max norm (appendix 7.2, and
    sota/cnn/train_search.py in the authors' code). We differ in that the attack sees the statistics of the batch in
    batch normalisation, as training does; the authors' attack runs in evaluation mode.

    Args:
        supernet: The supernet of any space of operation choices.
        attack: ``"random"`` is SDARTS-RS, ``"adversarial"`` SDARTS-ADV, better in the paper and several times slower.
        epsilon: Size of the perturbation in the first epoch, and what it grows to.
        steps: Gradient steps of the adversary.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If the attack is neither of both, or a number is out of range.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = SmoothDARTS(NASBench201Supernet(channels=4, cells_per_stage=1), attack="random")
        >>> float(search.perturbation.epsilon)
        0.03
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        attack: Attack = "adversarial",
        epsilon: tuple[float, float] = (0.03, 0.3),
        steps: int = 7,
        **kwargs: Unpack[UnperturbedOptions],
    ) -> None:
        if attack not in get_args(Attack):
            raise ValueError(f"attack must be one of {get_args(Attack)}; got {attack!r}.")
        start, end = epsilon
        adversary = AdversarialPerturbation(start, end, steps=steps)
        perturbation = adversary if attack == "adversarial" else RandomPerturbation(start, end)
        super().__init__(supernet, SoftmaxSampler(), perturbation=perturbation, **kwargs)
