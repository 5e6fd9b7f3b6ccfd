"""Searches whose architecture parameters are numbers for every candidate: alphas, and a sampler that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from oneshot._lightning import leave_out_of_ddp
from oneshot.functional import wide
from oneshot.supernets.base import OperationSupernet, Supernet
from oneshot.supernets.mixed_op import CellWeights, Path
from oneshot.training.batches import check_logits

from .options import SupernetOptions, Unpack
from .samplers import Sampler
from .supernet_training import SupernetTraining

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11

EdgeWeights: TypeAlias = Tensor | CellWeights
WIDE = ("alphas", "sampler", "penalty", "perturbation")  # parts of a search that decide about architectures


class AlphaSearch(SupernetTraining):
    """A search with alphas beside the supernet, and a sampler that turns them into edge weights.

    Args:
        supernet: The supernet of any space of operation choices.
        sampler: Turns alphas into edge weights.
        alpha_std: Standard deviation of the initial alphas.
        **kwargs: See :class:`~oneshot.engine.supernet_training.SupernetTraining`.

    Attributes:
        alphas: ``{choice: [R, O]}``. They and the sampler keep 32 bits where the supernet is trained in 16
            (``precision="bf16-true"``), or small steps would be lost.
    """

    supernet: OperationSupernet
    supernet_kind = OperationSupernet

    def __init__(
        self,
        supernet: OperationSupernet,
        sampler: Sampler,
        *,
        alpha_std: float = 1e-3,
        **kwargs: Unpack[SupernetOptions],
    ) -> None:
        super().__init__(supernet, **kwargs)
        self.sampler = sampler
        self.alphas = nn.ParameterDict({c.name: sampler.initial_alpha(c, alpha_std) for c in supernet.space.choices})
        # DDP averages the gradients of the weights. It would wait in vain for the alphas, which have their own step.
        # Nor for averages, which are the same in all of them.
        names = [name for name, _ in self.named_parameters() if name.startswith(("alphas.", "sampler.", "ema."))]
        leave_out_of_ddp(self, names)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert or move everything, but keep what decides about architectures out of 16 bits."""
        for name, child in self.named_children():
            child._apply(wide(fn) if name in WIDE else fn)  # type: ignore[no-untyped-call]  # torch
        return super()._apply(fn, recurse=False)  # type: ignore[no-untyped-call,no-any-return]  # torch

    @property
    def sparse(self) -> bool:
        return self.sampler.sparse

    def arch_parameters(self) -> list[nn.Parameter]:
        """The alphas, and what else of the sampler is trained; also those that are frozen."""
        return [*self.alphas.parameters(), *self.sampler.parameters()]

    def trained_arch_parameters(self) -> list[nn.Parameter]:
        """Those of :meth:`arch_parameters` that are not frozen (``requires_grad=False``)."""
        return [parameter for parameter in self.arch_parameters() if parameter.requires_grad]

    def edge_weights(self) -> dict[str, Tensor]:
        """Edge weights for one forward pass, ``{choice: [R, O]}``, differentiable in the alphas."""
        return self.sampler(dict(self.alphas.items()))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    @torch.no_grad()
    def probabilities(self) -> dict[str, Tensor]:
        return self.sampler.probabilities(dict(self.alphas.items()))

    def run(self, x: Any, weights: Mapping[str, EdgeWeights], *, supernet: Supernet | None = None) -> Tensor:
        """``[B, ...] -> [B, outputs, ...]`` under edge weights; if the sampler is sparse, only what has weight runs.

        Args:
            x: The inputs.
            weights: Edge weights, ``{choice: [R, O]}``; of choices that cells share, also others for every cell.
            supernet: What runs; by default the supernet that is trained.
        """
        arch = {name: self._own(w) for name, w in weights.items()}
        x = self.as_supernet(x)
        logits: Tensor = (self.supernet if supernet is None else supernet)(x, arch)
        check_logits(logits, self.supernet, x)
        return logits

    def _own(self, weights: EdgeWeights) -> Tensor | Path | CellWeights:
        """Edge weights in the precision of the supernet, as it is to run them."""
        if isinstance(weights, CellWeights):
            return CellWeights(self.as_supernet(weights.values))
        own: Tensor = self.as_supernet(weights)
        if not self.sampler.sparse:
            return own
        everything = self.sampler.reads_all and own.requires_grad
        return Path(own, torch.ones_like(own, dtype=torch.bool) if everything else None)

    def forward(self, x: Any) -> Tensor:
        """``[B, ...] -> [B, outputs, ...]`` under the current mixture.

        If the sampler is sparse, the supernet was never trained as a mixture: what would be derived runs instead.
        """
        if self.sampler.sparse:
            return super().forward(x)
        with torch.no_grad():
            strengths = self.sampler.strengths(dict(self.alphas.items()))
            return self.run(x, strengths, supernet=self.evaluation_supernet)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        for alpha in self.arch_parameters():  # every process starts from the alphas of the first
            alpha.data.copy_(self.trainer.strategy.broadcast(alpha.data))

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.sampler.schedule(*self.schedule_position())
