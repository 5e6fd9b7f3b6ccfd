"""What every search is: a supernet, its weights, and an architecture at the end."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from oneshot._stability import warn_if_experimental
from oneshot.cost.record import Prediction, latency_facts
from oneshot.functional import expected_cost
from oneshot.inputs import Inputs, mapped
from oneshot.supernets.base import Supernet, batch_statistics
from oneshot.supernets.space import SubnetConfig
from oneshot.tasks.task import Task, task_of
from oneshot.training.batches import check_batch, check_logits, check_shape, pair_of
from oneshot.training.finite_loss import check_data, check_supernet
from oneshot.training.resume import ResumableModule

Batch = dict[Literal["weights", "arch"], tuple[Any, Tensor]]
Progress = Callable[[str, int, int], None]


class SearchModule(ResumableModule, ABC):
    """A search method: a supernet, and a rule that derives one architecture.

    Args:
        supernet: Shared weights. What decides about architectures lies beside it: ``self.supernet.parameters()`` are
            the weights and nothing else.
        task: What the outputs are for: a :class:`~oneshot.tasks.Task` or the name of a built-in one. By default that of
            the supernet; another one becomes that of the supernet and of all networks that come out of it.
        criterion: Loss of outputs ``[B, outputs, ...]`` and targets ``[B, ...]``; by default that of the task.

    Attributes:
        supernet_kind: What the method can search.
        progress: Told of work that takes longer than a step: what it is, how much is done, and how much there is.

    Raises:
        ValueError: If ``supernet`` is none of that kind, or has too few outputs for the task.
    """

    supernet: Supernet
    supernet_kind: ClassVar[type[Any]] = Supernet

    def __init__(
        self, supernet: Supernet, *, task: Task | str | None = None, criterion: nn.Module | None = None
    ) -> None:
        super().__init__()
        warn_if_experimental(self)
        self.check_kind(supernet)
        if task is not None:
            supernet.task = task_of(task)
        self.supernet, outputs = supernet, supernet.num_classes
        self.criterion = criterion or supernet.task.criterion()
        self.progress: Progress = _no_progress
        self._costs = supernet.candidate_parameters()
        self._fit_metric = self.task.metric(outputs)
        self._fit_metric.persistent(True)  # a fit may be resumed in the middle of an epoch
        self._val_metric, self._test_metric = self.task.metric(outputs), self.task.metric(outputs)

    @property
    def task(self) -> Task:
        """What the outputs are for."""
        return self.supernet.task

    @classmethod
    def check_kind(cls, supernet: object) -> None:
        """Check that a method can search a supernet; for constructors that read its space before this class does.

        Raises:
            ValueError: If it is not of :attr:`supernet_kind`.
        """
        check_supernet(supernet, cls.supernet_kind, cls.__name__)

    # What the kinds of search supply.

    @abstractmethod
    def derive(self) -> SubnetConfig:
        """The architecture the search has arrived at."""

    def arch_parameters(self) -> list[nn.Parameter]:
        """Trained parameters that decide about architectures; none, unless the search has alphas."""
        return []

    @torch.no_grad()
    def probabilities(self) -> dict[str, Tensor]:
        """How much each candidate counts now, ``{choice: [R, O]}``, without gradient; by default all the same."""
        return {
            choice.name: torch.full((choice.rows, len(choice.candidates)), 1 / len(choice.candidates))
            for choice in self.supernet.space.choices
        }

    def cost_models(self) -> dict[str, object]:
        """What the search takes an architecture to cost, by name: cost models and functions; none by default.

        Checksums of the latencies among them are part of a checkpoint: a search goes on with those it began with.
        """
        return {}

    def predictions(self, config: SubnetConfig) -> list[Prediction]:
        """Latencies of an architecture by the cost models of the search, all that are in ms; none by default."""
        return []

    @property
    def evaluation_supernet(self) -> Supernet:
        """The supernet to validate, compare and export; that of the search, unless it keeps averages of weights."""
        return self.supernet

    # What all of them do.

    def as_supernet(self, x: Any) -> Any:
        """Inputs of any shape in the precision of the supernet; whole numbers stay as they are."""
        like = next(self.supernet.parameters(), torch.zeros(()))
        return mapped(lambda part: part.to(like.dtype) if part.is_floating_point() else part, x)

    def facts(self) -> dict[str, Any]:
        space = f"{self.supernet.space.name} ({zlib.crc32(repr(self.supernet.space).encode()):08x})"
        task = {} if self.task == task_of(self.supernet.default_task) else {"task": repr(self.task)}
        return {**super().facts(), "space": space, **task, **latency_facts(self.cost_models())}

    def expected_parameters(self) -> Tensor:
        """Expected number of weights behind the mixed operations under the current probabilities; scalar.

        0 in spaces without mixed operations.
        """
        if not self._costs:
            return torch.zeros(())
        return expected_cost(self.probabilities(), self._costs)

    def forward(self, x: Inputs) -> Tensor:
        """``[B, ...] -> [B, outputs, ...]`` of the architecture that would be derived now.

        Batch normalisation uses batch statistics, because running ones are those of no single architecture.
        """
        supernet = self.evaluation_supernet
        with batch_statistics(supernet):
            return supernet.run_config(x, self.derive())

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Predictions of the architecture that would be derived now; of a pair ``(x, y)`` those of ``x``."""
        x = batch[0] if isinstance(batch, tuple | list) else batch
        check_shape(self.supernet, x)
        return self.task.decode(self(x))

    def validation_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:
        check_batch(self.supernet, *pair_of(batch), first=batch_idx == 0)
        self._evaluate("val", *batch)

    def test_step(self, batch: tuple[Any, Tensor], batch_idx: int) -> None:
        check_batch(self.supernet, *pair_of(batch), first=batch_idx == 0)
        self._evaluate("test", *batch)

    def _evaluate(self, stage: str, x: Inputs, y: Tensor) -> None:
        logits = self(x)
        check_logits(logits, self.supernet, x)
        metric = self._val_metric if stage == "val" else self._test_metric
        metric.update(*self.task.for_metric(logits, y))
        loss = self.criterion(logits, y)
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=len(y), sync_dist=True)
        name = f"{stage}/{self.task.metric_name}"
        self.log(name, metric, on_step=False, on_epoch=True, batch_size=len(y), prog_bar=True)

    def setup(self, stage: str) -> None:
        """Compare the supernet with the data.

        Raises:
            ValueError: If the task, the number of outputs or the shape of an input differs.
        """
        check_data(getattr(self.trainer, "datamodule", None), self.supernet)


def _no_progress(what: str, done: int, total: int) -> None:
    """Default progress callback; does nothing."""
