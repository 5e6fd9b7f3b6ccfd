"""What every search is: a supernet, its weights, and an architecture at the end."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from oneshot.cost.record import Prediction, latency_facts
from oneshot.functional import (
    expected_cost,
    wide,
)
from oneshot.supernets.base import OperationSupernet, Supernet, batch_statistics
from oneshot.supernets.mixed_op import Path
from oneshot.supernets.space import SubnetConfig
from oneshot.training.batches import check_batch, check_logits, pair_of
from oneshot.training.finite_loss import check_data, check_supernet
from oneshot.training.resume import ResumableModule
from oneshot.training.tasks import METRICS, loss_of, metric_of

from .samplers import Sampler

WIDE = ("alphas", "sampler", "penalty", "perturbation")  # parts of a search that decide about architectures

Batch = dict[Literal["weights", "arch"], tuple[Tensor, Tensor]]


class SearchModule(ResumableModule, ABC):
    """A search method: supernet, alphas and sampler, and a rule that derives one architecture.

    Args:
        supernet: Shared weights. The alphas live beside it: ``self.supernet.parameters()`` are the weights,
            ``self.alphas.parameters()`` the alphas.
        sampler: Turns alphas into edge weights.
        criterion: Loss of logits ``[B, classes, ...]`` and labels ``[B, ...]``; by default that of the supernet's task.
        alpha_std: Standard deviation of the initial alphas.

    Attributes:
        alphas: ``{choice: [R, O]}``. They and the sampler keep 32 bits where the supernet is trained in 16
            (``precision="bf16-true"``), or small steps would be lost.
        supernet_kind: What the method can search.

    Raises:
        ValueError: If ``supernet`` is none of that kind.
    """

    supernet: Supernet
    supernet_kind: ClassVar[type[Any]] = Supernet

    def __init__(
        self,
        supernet: Supernet,
        sampler: Sampler,
        *,
        criterion: nn.Module | None = None,
        alpha_std: float = 1e-3,
    ) -> None:
        super().__init__()
        self.check_kind(supernet)
        self.supernet, self.sampler = supernet, sampler
        self.criterion = criterion or loss_of(supernet.task)
        self.alphas = nn.ParameterDict({c.name: sampler.initial_alpha(c, alpha_std) for c in supernet.space.choices})
        self._costs = supernet.candidate_parameters() if isinstance(supernet, OperationSupernet) else {}
        self._fit_metric = metric_of(supernet.task, supernet.num_classes)
        self._fit_metric.persistent(True)  # a fit may be resumed in the middle of an epoch
        self._val_metric = metric_of(supernet.task, supernet.num_classes)
        self._test_metric = metric_of(supernet.task, supernet.num_classes)

    @classmethod
    def check_kind(cls, supernet: object) -> None:
        """Check that a method can search a supernet; for constructors that read its space before this class's does.

        Raises:
            ValueError: If it is not of :attr:`supernet_kind`.
        """
        check_supernet(supernet, cls.supernet_kind, cls.__name__)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Convert or move everything, but keep what decides about architectures out of 16 bits."""
        for name, child in self.named_children():
            child._apply(wide(fn) if name in WIDE else fn)  # type: ignore[no-untyped-call]  # torch
        return super()._apply(fn, recurse=False)  # type: ignore[no-untyped-call,no-any-return]  # torch

    def arch_parameters(self) -> list[nn.Parameter]:
        """The alphas, and what else of the sampler is trained."""
        return [*self.alphas.parameters(), *self.sampler.parameters()]

    def edge_weights(self) -> dict[str, Tensor]:
        """Edge weights for one forward pass, ``{choice: [R, O]}``, differentiable in the alphas."""
        return self.sampler(dict(self.alphas.items()))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def as_supernet(self, x: Tensor) -> Tensor:
        """``x``, of any shape, in the precision of the supernet; as it is if it holds no digits."""
        like = next(self.supernet.parameters(), x)
        return x.to(like.dtype) if x.is_floating_point() else x

    @torch.no_grad()
    def probabilities(self) -> dict[str, Tensor]:
        """How much each candidate counts now, ``{choice: [R, O]}``, without gradient."""
        return self.sampler.probabilities(dict(self.alphas.items()))

    def facts(self) -> dict[str, Any]:
        space = f"{self.supernet.space.name} ({zlib.crc32(repr(self.supernet.space).encode()):08x})"
        return {**super().facts(), "space": space, **latency_facts(self.cost_models())}

    def cost_models(self) -> dict[str, object]:
        """What the search takes an architecture to cost, by name: cost models and functions; none by default.

        Checksums of the latencies among them are part of a checkpoint: a search goes on with those it began with.
        """
        return {}

    def predictions(self, config: SubnetConfig) -> list[Prediction]:
        """Latencies of an architecture by the cost models of the search, all that are in ms; none by default."""
        return []

    def expected_parameters(self) -> Tensor:
        """Expected number of weights behind the mixed operations under the current probabilities; scalar.

        0 in spaces without mixed operations.
        """
        if not self._costs:
            return torch.zeros(())
        return expected_cost(self.probabilities(), self._costs)

    @abstractmethod
    def derive(self) -> SubnetConfig:
        """The architecture the search has arrived at."""

    def run(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """``[B, C, H, W] -> [B, classes]`` under edge weights; if the sampler is sparse, only what has weight runs."""
        own = {name: self.as_supernet(w) for name, w in weights.items()}
        arch = {name: Path(w) for name, w in own.items()} if self.sampler.sparse else own
        x = self.as_supernet(x)
        logits: Tensor = self.supernet(x, arch)
        check_logits(logits, self.supernet, x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, classes]`` under the current mixture.

        If the sampler is sparse, the supernet was never trained as a mixture: what would be derived runs instead, with
        batch statistics, because running ones are those of no single architecture.
        """
        if self.sampler.sparse:
            with batch_statistics(self.supernet):
                return self.supernet.run_config(x, self.derive())
        with torch.no_grad():
            return self.run(x, self.sampler.strengths(dict(self.alphas.items())))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        check_batch(self.supernet, *pair_of(batch), first=batch_idx == 0)
        self._evaluate("val", *batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        check_batch(self.supernet, *pair_of(batch), first=batch_idx == 0)
        self._evaluate("test", *batch)

    def _evaluate(self, stage: str, x: Tensor, y: Tensor) -> None:
        logits = self(x)
        check_logits(logits, self.supernet, x)
        metric = self._val_metric if stage == "val" else self._test_metric
        metric.update(logits, y)
        loss = self.criterion(logits, y)
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=len(y), sync_dist=True)
        name = f"{stage}/{METRICS[self.supernet.task]}"
        self.log(name, metric, on_step=False, on_epoch=True, batch_size=len(y), prog_bar=True)

    def setup(self, stage: str) -> None:
        """Compare the supernet with the data.

        Raises:
            ValueError: If the number of classes or the shape of an image differs.
        """
        check_data(getattr(self.trainer, "datamodule", None), self.supernet)
