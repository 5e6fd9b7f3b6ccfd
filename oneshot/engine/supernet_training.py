"""Training of the weights of a supernet: optimiser, schedule, precision, validation."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.amp import GradScaler

from oneshot._lightning import ddp_arguments
from oneshot.functional import warmup_cosine
from oneshot.supernets.base import Supernet, lay_out
from oneshot.supernets.elastic_layers import ElasticBatchNorm2d
from oneshot.training.batches import check_batch, pair_of
from oneshot.training.finite_loss import explain_memory
from oneshot.training.tasks import METRICS

from .module import SearchModule


class SupernetTraining(SearchModule):
    """What searches share that train the weights of a supernet by SGD: optimiser, schedules, clipping, the loop.

    Args:
        supernet: See :class:`~oneshot.engine.module.SearchModule`.
        criterion: See :class:`~oneshot.engine.module.SearchModule`.
        weight_lr: Learning rate of the weights (SGD), annealed by a cosine to ``weight_lr_min`` over ``max_epochs``.
        weight_lr_min: Its value at the end.
        weight_momentum: Momentum of the weights.
        weight_decay: Weight decay of the weights.
        weight_nesterov: Nesterov's momentum.
        grad_clip: Largest norm of the gradient of the weights; alphas are not clipped.
        drop_path: Probability that a mixed operation loses an image of the batch, in the last epoch; rises to it in a
            straight line.
        gradient_checkpointing: Compute every cell again in the backward pass: less memory, about a third more time.
        compile: Run the supernet through ``torch.compile``; a dictionary holds its options, such as
            ``{"mode": "reduce-overhead"}`` for CUDA graphs. Compiling takes minutes, on a CPU many.

    Raises:
        ValueError: If a number is out of its range; at the start of ``fit``, for Trainer settings that manual
            optimisation cannot honour.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        criterion: nn.Module | None = None,
        weight_lr: float = 0.025,
        weight_lr_min: float = 0.001,
        weight_momentum: float = 0.9,
        weight_decay: float = 3e-4,
        weight_nesterov: bool = False,
        grad_clip: float = 5.0,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        compile: bool | dict[str, Any] = False,
    ) -> None:
        super().__init__(supernet, criterion=criterion)
        if not 0 <= weight_lr_min <= weight_lr or weight_lr == 0:
            raise ValueError(
                "weight_lr must be above 0, and weight_lr_min, to which it falls, from 0 to weight_lr; got "
                f"{weight_lr} and {weight_lr_min}."
            )
        if not grad_clip > 0:
            raise ValueError(f"grad_clip, the largest norm of the gradient, must be above 0; got {grad_clip}.")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1); got {drop_path}.")
        supernet.drop_paths(drop_path)  # raises where there are none to drop
        supernet.drop_paths(0.0)
        self.automatic_optimization = False
        # channels_last: depthwise convolutions are 2 to 4 times faster on CPUs, and none is slower.
        lay_out(self.supernet, torch.channels_last)
        self.supernet.gradient_checkpointing = gradient_checkpointing
        if compile is not False:
            self.supernet.compile(**({} if compile is True else compile))
        self.weight_lr, self.weight_lr_min, self.weight_momentum = weight_lr, weight_lr_min, weight_momentum
        self.weight_decay, self.weight_nesterov = weight_decay, weight_nesterov
        self.grad_clip, self.drop_path = grad_clip, drop_path

    # What the kinds of search supply.

    @abstractmethod
    def search_step(self, batch: Any) -> None:
        """One step of the optimisers."""

    @property
    def sparse(self) -> bool:
        """Whether most candidates do not run in a step."""
        return True

    @abstractmethod
    def weight_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels the weights are trained on."""

    # The loop.

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.world_size > 1:  # these are the same in every process, there is nothing to average
            same = "train/lr|(alpha|probability|entropy|choice|nat)/"
            warnings.filterwarnings("ignore", rf"It is recommended to use `self\.log\('({same})")

    @property
    def weight_optimizer(self) -> LightningOptimizer:
        """Optimiser of the weights, during a fit."""
        optimizers = self.optimizers()
        return optimizers[0] if isinstance(optimizers, list) else optimizers

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for stream in batch.values() if isinstance(batch, dict) else [batch]:
            check_batch(self.supernet, *pair_of(stream), first=batch_idx == 0)
        size = len(self.weight_batch(batch)[1])
        advice = (
            f"Lower the batch size, now {size}, or the channels or cells of the supernet, or pass "
            f"gradient_checkpointing=True to {type(self).__name__}: it computes cells twice instead of keeping them"
        )
        with explain_memory(advice):
            self.search_step(batch)

    def log_step(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Check the loss of a step of the weights for NaN, and log it."""
        self.watch(loss)
        self._fit_metric.update(logits, y)
        self.log("train/loss", loss.detach(), batch_size=len(y))
        name = f"train/{METRICS[self.supernet.task]}"
        self.log(name, self._fit_metric, on_step=False, on_epoch=True, batch_size=len(y))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Here gradients are free of the scale that 16 bits need.
        if optimizer is self.weight_optimizer.optimizer:
            norm = nn.utils.clip_grad_norm_(self.supernet.parameters(), self.grad_clip)
            if self._weight_scaler is None:  # which skips a step that overflowed and goes on
                self.watch(norm)

    @property
    def _weight_scaler(self) -> GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None) if self._trainer is not None else None

    def schedule_position(self) -> tuple[int, int]:
        """Epoch, and number of epochs, that learning rate, drop-path, sampler and perturbation follow."""
        return self.current_epoch, self.trainer.max_epochs or 1

    def on_train_epoch_start(self) -> None:
        self._fit_metric.reset()  # or a fit resumed from the end of an epoch would go on counting
        # A function of the epoch and nothing else, so that it is right after any resume.
        epoch, epochs = self.schedule_position()
        factor = warmup_cosine(epoch, steps=epochs, floor=self.weight_lr_min / self.weight_lr)
        for group in self.weight_optimizer.param_groups:
            group["lr"] = self.weight_lr * factor
        self.supernet.drop_paths(self.drop_path * epoch / max(1, epochs - 1))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log("train/lr", self.weight_optimizer.param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        weights = torch.optim.SGD(
            self.supernet.parameters(),
            self.weight_lr,
            momentum=self.weight_momentum,
            weight_decay=self.weight_decay,
            nesterov=self.weight_nesterov,
        )
        return [weights]

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
                f"accumulate_grad_batches={trainer.accumulate_grad_batches}. Remove it and use a larger batch_size."
            )
        elastic = any(isinstance(module, ElasticBatchNorm2d) for module in self.supernet.modules())
        if elastic and getattr(trainer.strategy, "_layer_sync", None) is not None:
            raise ValueError(
                "Batch normalisation of the first channels only cannot be synchronised over processes: "
                "SyncBatchNorm, which the Trainer would put in its place, normalises all channels or fails. Remove "
                "sync_batchnorm=True and give every process a larger batch; evaluations calibrate statistics anyway."
            )
        return callbacks
