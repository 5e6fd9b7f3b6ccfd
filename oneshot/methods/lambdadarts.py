"""Lambda-DARTS: Mitigating Performance Collapse by Harmonizing Operation Selection among Cells (ICLR 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from oneshot._stability import experimental
from oneshot.engine.alphas import EdgeWeights
from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import GradientOptions, Unpack
from oneshot.engine.samplers import SoftmaxSampler
from oneshot.functional import alignment, alignment_gradient
from oneshot.supernets.base import OperationSupernet, frozen_batch_norm
from oneshot.supernets.mixed_op import CellWeights


@experimental("its published accuracy has not been reproduced here")
class LambdaDARTS(BilevelSearch):
    r"""DARTS whose weights are trained so that all cells ask for the same edge weights (arXiv:2210.07998).

    The loss of the weights has a second term, minus :math:`\lambda` times the
    :func:`~oneshot.functional.alignment` of the gradients that the cells have in the edge weights they share. Its
    gradient is that of their product with :func:`~oneshot.functional.alignment_gradient`, differentiated twice in one
    more pass. The authors' code takes a central difference along it, two more passes ``epsilon`` apart, which kinks of
    ReLU fill with noise: on NAS-Bench-201 with 8 channels it is 70 times as long as the derivative at their 1e-4, and
    points elsewhere. :math:`\lambda` rises from 0 in the first epoch to ``alignment_weight`` in the last. The most
    frequent kind of cells is aligned: the normal ones of DARTS. Gains reported on that space are often "within the
    margin of noise" (confopt, arXiv:2507.16533).

    Experimental: its published accuracy has not been reproduced here.

    Args:
        supernet: A supernet with a choice that several cells share.
        alignment_weight: What :math:`\lambda` rises to.
        epsilon: Length of the authors' difference, in edge weights; None differentiates twice.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If a number is out of its range, or no cells share a choice.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = LambdaDARTS(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.cells
        3
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        alignment_weight: float = 0.125,
        epsilon: float | None = None,
        **kwargs: Unpack[GradientOptions],
    ) -> None:
        super().__init__(supernet, SoftmaxSampler(), **kwargs)
        if not alignment_weight > 0:
            raise ValueError(f"alignment_weight must be above 0; got {alignment_weight}. DARTS is the search without.")
        if epsilon is not None and not epsilon > 0:
            raise ValueError(f"epsilon must be above 0, or None, which differentiates twice; got {epsilon}.")
        shared = supernet.shared_choices()
        self._names, self.cells = max(shared.items(), key=lambda pair: pair[1], default=((), 0))
        if self.cells < 2:
            kind = type(supernet).__name__
            raise ValueError(f"Lambda-DARTS needs two cells that share a choice; those of {kind} do not. Use DARTS.")
        self.alignment_weight, self.epsilon = alignment_weight, epsilon

    def weights_for_training(self, x: Any, y: Tensor) -> Mapping[str, EdgeWeights]:
        weights = dict(super().weights_for_training(x, y))
        for name in self._names:  # the same numbers, but a gradient for every cell
            if isinstance(shared := weights[name], Tensor):
                weights[name] = CellWeights(shared.repeat(self.cells, 1, 1).requires_grad_())
        return weights

    def after_weight_backward(self, x: Any, y: Tensor, weights: Mapping[str, EdgeWeights], share: float) -> None:
        scaler, (epoch, epochs) = self._weight_scaler, self.schedule_position()
        scale, strength = 1.0 if scaler is None else scaler.get_scale(), epoch / max(1, epochs - 1)
        per_cell = [w.values for w in (weights[name] for name in self._names) if isinstance(w, CellWeights)]
        flat = [w.grad.flatten(1) for w in per_cell if w.grad is not None]
        (gradients,) = self.average_gradients([torch.cat(flat, dim=1) / (share * scale)])
        self.log("train/alignment", alignment(gradients), batch_size=len(y))
        direction = alignment_gradient(gradients)
        trained = [weight for weight in self.supernet.parameters() if weight.requires_grad]
        with self.without_16_bits(), frozen_batch_norm(self.supernet):
            if self.epsilon is None:
                second = self._differentiated(x, y, weights, direction, trained)
            else:
                second = self._difference(x, y, weights, direction, trained, self.epsilon)
        factor = share * scale * strength * self.alignment_weight
        for weight, part in zip(trained, self.average_gradients(second), strict=True):
            before = torch.zeros_like(weight) if weight.grad is None else weight.grad
            weight.grad = before - (factor * part).to(before)

    def _differentiated(
        self, x: Any, y: Tensor, weights: Mapping[str, EdgeWeights], direction: Tensor, trained: Sequence[Tensor]
    ) -> list[Tensor]:
        """Derivative in the weights of the product of the cells' gradients with a direction."""
        own = {n: w.values.detach().clone().requires_grad_() for n, w in weights.items() if isinstance(w, CellWeights)}
        arch: Any = {n: self._own(CellWeights(own[n]) if n in own else w) for n, w in weights.items()}
        with self.differentiable_twice():
            loss = self.criterion(self.supernet.forward(self.as_supernet(x), arch), y)
            gradients = torch.autograd.grad(loss, list(own.values()), create_graph=True)
            product = (torch.cat([g.flatten(1) for g in gradients], dim=1) * direction).sum()
            return list(torch.autograd.grad(product, trained, allow_unused=True, materialize_grads=True))

    def _difference(
        self,
        x: Any,
        y: Tensor,
        weights: Mapping[str, EdgeWeights],
        direction: Tensor,
        trained: Sequence[Tensor],
        epsilon: float,
    ) -> list[Tensor]:
        """The same by a central difference, as in the authors' code."""
        step = direction * (epsilon / direction.norm().clamp_min(1e-30))
        own = {n: w.values for n, w in weights.items() if isinstance(w, CellWeights)}
        moves = dict(zip(own, step.split([w[0].numel() for w in own.values()], dim=1), strict=True))
        devices, sides = [self.device.index] if self.device.type == "cuda" else [], list[tuple[Tensor, ...]]()
        for sign in (1, -1):
            moved = {
                n: CellWeights(own[n].detach() + sign * moves[n].view_as(own[n])) if n in own else w
                for n, w in weights.items()
            }
            with torch.random.fork_rng(devices, enabled=sign == 1):  # both sides draw the same
                loss = self.criterion(self.run(x, moved), y)
                sides.append(torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True))
        factor = float(direction.norm()) / (2 * epsilon)
        return [factor * (plus - minus) for plus, minus in zip(*sides, strict=True)]
