"""Training of the weights of a supernet: the loop, precision, validation."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

from pytorch_lightning.callbacks import Callback, LearningRateFinder
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from oneshot._lightning import ddp_arguments
from oneshot.supernets.base import Supernet
from oneshot.supernets.elastic_layers import ElasticBatchNorm2d
from oneshot.training.batches import check_batch, pair_of
from oneshot.training.finite_loss import explain_memory

from .options import Unpack, WeightOptions
from .weight_training import WeightTraining


class SupernetTraining(WeightTraining):
    """What searches share that train the weights of a supernet by gradient descent: the loop, and what it refuses.

    Args:
        supernet: See :class:`~oneshot.engine.module.SearchModule`.
        drop_path: Probability that a mixed operation loses an image of the batch, in the last epoch; rises to it in a
            straight line.
        gradient_checkpointing: Compute every cell again in the backward pass: less memory, about a third more time.
        compile: Run the supernet through ``torch.compile``; a dictionary holds its options, such as
            ``{"mode": "reduce-overhead"}`` for CUDA graphs. Compiling takes minutes, on a CPU many.
        **kwargs: See :class:`~oneshot.engine.weight_training.WeightTraining`.

    Raises:
        ValueError: If a number is out of its range; at the start of ``fit``, for Trainer settings that manual
            optimisation cannot honour.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        compile: bool | dict[str, Any] = False,
        **kwargs: Unpack[WeightOptions],
    ) -> None:
        super().__init__(supernet, **kwargs)
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1); got {drop_path}.")
        supernet.drop_paths(drop_path)  # raises where there are none to drop
        supernet.drop_paths(0.0)
        self.supernet.gradient_checkpointing = gradient_checkpointing
        if compile is not False:
            self.supernet.compile(**({} if compile is True else compile))
        self.drop_path = drop_path

    # What the kinds of search supply.

    @abstractmethod
    def search_step(self, batch: Any) -> None:
        """One step of the optimisers."""

    @property
    def sparse(self) -> bool:
        """Whether most candidates do not run in a step."""
        return True

    @abstractmethod
    def weight_batch(self, batch: Any) -> tuple[Any, Tensor]:
        """Inputs and targets the weights are trained on."""

    # The loop.

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.world_size > 1:  # these are the same in every process, there is nothing to average
            same = "train/lr|(alpha|probability|entropy|choice|nat)/"
            warnings.filterwarnings("ignore", rf"It is recommended to use `self\.log\('({same})")

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for stream in batch.values() if isinstance(batch, dict) else [batch]:
            check_batch(self.supernet, *pair_of(stream), first=batch_idx == 0)
        size = len(self.weight_batch(batch)[1])
        advice = (
            f"Lower the batch size, now {size} (accumulate=2 takes two such batches in a step), or the channels or "
            "cells of the supernet, or pass "
            f"gradient_checkpointing=True to {type(self).__name__}: it computes cells twice instead of keeping them"
        )
        with explain_memory(advice):
            self.search_step(batch)

    def log_step(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Check the loss of a step of the weights for NaN, and log it."""
        self.watch(loss)
        self._fit_metric.update(*self.task.for_metric(logits.detach(), y))
        self.log("train/loss", loss.detach(), batch_size=len(y))
        name = f"train/{self.task.metric_name}"
        self.log(name, self._fit_metric, on_step=False, on_epoch=True, batch_size=len(y))

    def on_train_epoch_start(self) -> None:
        self._fit_metric.reset()  # or a fit resumed from the end of an epoch would go on counting
        super().on_train_epoch_start()
        epoch, epochs = self.schedule_position()
        self.supernet.drop_paths(self.drop_path * epoch / max(1, epochs - 1))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        # Candidates that do not run get no gradient, in any process.
        if self.sparse and isinstance(strategy := self.trainer.strategy, DDPStrategy):
            ddp_arguments(strategy).setdefault("find_unused_parameters", True)

    def configure_callbacks(self) -> list[Callback]:
        # The first hook of fit, before Lightning's own refusals, which do not know the way out.
        trainer, callbacks = self.trainer, super().configure_callbacks()
        if trainer.state.fn != "fit":
            return callbacks
        if any(isinstance(callback, LearningRateFinder) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "lr_find moves the one learning rate of a training that Lightning optimises; a search steps its "
                f"optimisers itself. Compare a few values of weight_lr of {type(self).__name__} by short fits."
            )
        if trainer.max_steps != -1 and not getattr(trainer, "fast_dev_run", 0):  # which sets max_steps itself
            raise ValueError(
                "max_steps counts the steps of every optimiser, and schedules need max_epochs; "
                f"got max_steps={trainer.max_steps}. Use Trainer(max_epochs=...)."
            )
        if (trainer.max_epochs or -1) < 1:
            raise ValueError(
                f"max_epochs, over which the learning rate is annealed, must be at least 1; got {trainer.max_epochs}."
            )
        if trainer.gradient_clip_val is not None:
            raise ValueError(
                "The Trainer cannot clip gradients under manual optimisation; got "
                f"gradient_clip_val={trainer.gradient_clip_val}. Remove it and pass grad_clip to {type(self).__name__}."
            )
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                "The Trainer cannot accumulate gradients under manual optimisation; got "
                f"accumulate_grad_batches={trainer.accumulate_grad_batches}. Remove it and pass accumulate to "
                f"{type(self).__name__}, or use a larger batch_size."
            )
        elastic = any(isinstance(module, ElasticBatchNorm2d) for module in self.supernet.modules())
        if elastic and getattr(trainer.strategy, "_layer_sync", None) is not None:
            raise ValueError(
                "Batch normalisation of the first channels only cannot be synchronised over processes: "
                "SyncBatchNorm, which the Trainer would put in its place, normalises all channels or fails. Remove "
                "sync_batchnorm=True and give every process a larger batch; evaluations calibrate statistics anyway."
            )
        return callbacks
