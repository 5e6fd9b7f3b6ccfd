"""The training loops of differentiable search, written once. A method fills hooks; it does not re-type a loop."""

from __future__ import annotations

import contextlib
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function

from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.space import SubnetConfig

from .functional import expected_cost, frozen_batch_norm, warmup_cosine
from .guard import check_data, explain_memory
from .resume import ResumableModule
from .samplers import Sampler
from .tasks import METRICS, loss_of, metric_of

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
        alphas: ``{choice: [R, O]}``.
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        sampler: Sampler,
        *,
        criterion: nn.Module | None = None,
        alpha_std: float = 1e-3,
    ) -> None:
        super().__init__()
        self.supernet, self.sampler = supernet, sampler
        self.criterion = criterion or loss_of(supernet.task)
        self.alphas = nn.ParameterDict(
            {c.name: alpha_std * torch.randn(c.rows, len(c.candidates)) for c in supernet.space.choices}
        )
        self._costs = supernet.candidate_parameters()
        self._fit_metric = metric_of(supernet.task, supernet.num_classes)
        self._fit_metric.persistent(True)  # a fit may be resumed in the middle of an epoch
        self._val_metric = metric_of(supernet.task, supernet.num_classes)
        self._test_metric = metric_of(supernet.task, supernet.num_classes)

    def edge_weights(self) -> dict[str, Tensor]:
        """Edge weights for one forward pass, ``{choice: [R, O]}``, differentiable in the alphas."""
        return self.sampler(dict(self.alphas.items()))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    @torch.no_grad()
    def probabilities(self) -> dict[str, Tensor]:
        """How much each candidate counts now, ``{choice: [R, O]}``, without gradient."""
        return self.sampler.probabilities(dict(self.alphas.items()))

    def facts(self) -> dict[str, Any]:
        space = self.supernet.space
        return {**super().facts(), "space": f"{space.name} ({zlib.crc32(repr(space).encode()):08x})"}

    def expected_parameters(self) -> Tensor:
        """Expected number of weights behind the mixed operations under the current probabilities; scalar."""
        return expected_cost(self.probabilities(), self._costs)

    @abstractmethod
    def derive(self) -> SubnetConfig:
        """The architecture the search has arrived at."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, classes]`` under the current probabilities."""
        return self.supernet(x, self.probabilities())  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", *batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("test", *batch)

    def _evaluate(self, stage: str, x: Tensor, y: Tensor) -> None:
        logits = self(x)
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


class BilevelSearch(SearchModule):
    """Weights on one half of the data, alphas on the other, step by step (DARTS, arXiv:1806.09055, algorithm 1).

    Each step first moves the alphas on the batch ``"arch"``, then the weights on the batch ``"weights"``, as the
    authors' code does. A method supplies four hooks and nothing else: the ``sampler``, :meth:`arch_loss`,
    :meth:`arch_backward` and :meth:`derive`. Batch normalisation learns its statistics in the weight step only.

    Args:
        supernet: See :class:`SearchModule`.
        sampler: See :class:`SearchModule`.
        criterion: See :class:`SearchModule`.
        alpha_std: See :class:`SearchModule`.
        weight_lr: Learning rate of the weights (SGD), annealed by a cosine to ``weight_lr_min`` over ``max_epochs``.
        weight_lr_min: Its value at the end.
        weight_momentum: Momentum of the weights.
        weight_decay: Weight decay of the weights.
        arch_lr: Learning rate of the alphas (Adam).
        arch_betas: Adam's betas.
        arch_weight_decay: Weight decay of the alphas.
        grad_clip: Largest norm of the gradient of the weights; alphas are not clipped.
        arch_warmup_epochs: Epochs in which the alphas stay as they are.
        gradient_checkpointing: Compute every cell again in the backward pass: less memory, about a third more time.
        compile: Run the supernet through ``torch.compile``; a dictionary holds its options, such as
            ``{"mode": "reduce-overhead"}`` for CUDA graphs. Compiling takes minutes, on a CPU many.

    Raises:
        ValueError: If a number is out of its range; at the start of ``fit``, for Trainer settings that manual
            optimisation cannot honour.
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        sampler: Sampler,
        *,
        criterion: nn.Module | None = None,
        alpha_std: float = 1e-3,
        weight_lr: float = 0.025,
        weight_lr_min: float = 0.001,
        weight_momentum: float = 0.9,
        weight_decay: float = 3e-4,
        arch_lr: float = 3e-4,
        arch_betas: tuple[float, float] = (0.5, 0.999),
        arch_weight_decay: float = 1e-3,
        grad_clip: float = 5.0,
        arch_warmup_epochs: int = 0,
        gradient_checkpointing: bool = False,
        compile: bool | dict[str, Any] = False,
    ) -> None:
        super().__init__(supernet, sampler, criterion=criterion, alpha_std=alpha_std)
        if not 0 <= weight_lr_min <= weight_lr or weight_lr == 0:
            raise ValueError(
                f"The learning rate falls from weight_lr > 0 to weight_lr_min >= 0; got {weight_lr}, {weight_lr_min}."
            )
        if not grad_clip > 0:
            raise ValueError(f"grad_clip is the largest norm of the gradient, above 0; got {grad_clip}.")
        for name, value in (("arch_lr", arch_lr), ("arch_warmup_epochs", arch_warmup_epochs)):
            if value < 0:
                raise ValueError(f"{name} must not be negative; got {value}. 0 is off.")
        self.automatic_optimization = False
        self._arch_scaler: GradScaler | None = None
        self._arch_scaler_state: dict[str, Any] | None = None
        # DDP averages the gradients of the weights. It would wait in vain for the alphas, which have their own step.
        names = [f"alphas.{name}" for name in self.alphas]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)  # type: ignore[no-untyped-call]  # torch
        # Pixels with their channels side by side: depthwise convolutions are 2 to 4 times faster on CPUs, none slower.
        self.supernet.to(memory_format=torch.channels_last)
        self.supernet.gradient_checkpointing = gradient_checkpointing
        if compile is not False:
            self.supernet.compile(**({} if compile is True else compile))
        self.weight_lr, self.weight_lr_min, self.weight_momentum = weight_lr, weight_lr_min, weight_momentum
        self.weight_decay, self.grad_clip = weight_decay, grad_clip
        self.arch_lr, self.arch_betas, self.arch_weight_decay = arch_lr, arch_betas, arch_weight_decay
        self.arch_warmup_epochs = arch_warmup_epochs

    # The hooks.

    def arch_loss(self, loss: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """The loss of the alphas, given the validation loss and the edge weights it was computed under; scalar."""
        return loss

    def arch_backward(self, batch: Batch) -> Tensor:
        """Set ``.grad`` of every alpha and touch no other gradient; return the loss, a scalar."""
        alphas = list(self.alphas.parameters())
        loss = self._val_loss(batch)
        # Small gradients must not vanish in 16 bits on their way to the alphas, which have 32.
        scale = self._arch_scale()
        gradients = torch.autograd.grad(loss * scale, alphas, allow_unused=True)  # maybe no cell uses a choice
        used = [(a, g) for a, g in zip(alphas, gradients, strict=True) if g is not None]  # type: ignore[redundant-expr]  # allow_unused
        for (alpha, _), gradient in zip(used, self.average_gradients([g / scale for _, g in used]), strict=True):
            alpha.grad = gradient
        return loss

    def derive(self) -> SubnetConfig:
        """The most likely architecture by the rule of the space."""
        probabilities = {name: p.cpu().numpy() for name, p in self.probabilities().items()}
        return self.supernet.space.most_likely(probabilities)

    # The loop.

    def average_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        """Average over all processes, in one message: DDP does not see what ``torch.autograd.grad`` returns."""
        if not (dist.is_available() and dist.is_initialized()):
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat / dist.get_world_size(), [gradient.numel() for gradient in gradients])
        return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.world_size > 1:  # these are the same in every process, there is nothing to average
            same = "train/lr|(alpha|probability|entropy|choice)/"
            warnings.filterwarnings("ignore", rf"It is recommended to use `self\.log\('({same})")
        for alpha in self.alphas.parameters():  # every process starts from the alphas of the first
            alpha.data.copy_(self.trainer.strategy.broadcast(alpha.data))

    @property
    def optimizer_pair(self) -> tuple[LightningOptimizer, LightningOptimizer]:
        """Optimiser of the weights and of the alphas, during a fit."""
        weights, alphas = cast(list[LightningOptimizer], self.optimizers())
        return weights, alphas

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if not isinstance(batch, dict) or set(batch) != {"weights", "arch"}:
            raise ValueError(
                "A bilevel search needs batches {'weights': (x, y), 'arch': (x, y)} from two halves of the training "
                f"data; got {type(batch).__name__}. Wrap the data: SearchDataModule(data)."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        advice = (
            f"Lower the batch size, now {len(batch['weights'][1])}, or the channels or cells of the supernet, or pass "
            f"gradient_checkpointing=True to {type(self).__name__}: it computes cells twice instead of keeping them"
        )
        with explain_memory(advice):
            self._step(batch)

    def _step(self, batch: Batch) -> None:
        weight_optimizer, arch_optimizer = self.optimizer_pair
        if self.current_epoch >= self.arch_warmup_epochs:
            with record_function("step of the alphas"):
                with frozen_batch_norm(self.supernet):
                    arch_loss = self.arch_backward(batch)
                with self._arch_scaling():
                    arch_optimizer.step()
                arch_optimizer.zero_grad()
            self.watch(arch_loss)
            self.log("arch/loss", arch_loss.detach(), batch_size=len(batch["arch"][1]))

        x, y = batch["weights"]
        with record_function("step of the weights"):
            with torch.no_grad():
                weights = self.edge_weights()
            logits = self.supernet(x, weights)
            loss = self.criterion(logits, y)
            weight_optimizer.zero_grad()
            self.manual_backward(loss)
            weight_optimizer.step()
        self.watch(loss)
        self._fit_metric.update(logits, y)
        self.log("train/loss", loss.detach(), batch_size=len(y))
        name = f"train/{METRICS[self.supernet.task]}"
        self.log(name, self._fit_metric, on_step=False, on_epoch=True, batch_size=len(y))

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Here gradients are free of the scale that 16 bits need.
        if optimizer is self.optimizer_pair[0].optimizer:
            norm = nn.utils.clip_grad_norm_(self.supernet.parameters(), self.grad_clip)
            if self._weight_scaler is None:  # which skips a step that overflowed and goes on
                self.watch(norm)

    # In 16-mixed every optimiser has a scaler of its own: gradients of weights and alphas overflow at other scales.

    @property
    def _weight_scaler(self) -> GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None) if self._trainer is not None else None

    def _arch_scale(self) -> Tensor:
        """Scalar; 1 but in 16-mixed."""
        one = torch.ones((), device=self.device)
        if self._weight_scaler is None:
            return one
        if self._arch_scaler is None:
            self._arch_scaler = GradScaler(self.device.type)
            if self._arch_scaler_state:
                self._arch_scaler.load_state_dict(self._arch_scaler_state)
        return self._arch_scaler.scale(one)

    @contextlib.contextmanager
    def _arch_scaling(self) -> Iterator[None]:
        """Let the step of the alphas use their scaler, which finds gradients scaled as it expects."""
        scaler = self._weight_scaler
        if scaler is None:
            yield
            return
        for alpha in self.alphas.parameters():
            if alpha.grad is not None:
                alpha.grad = alpha.grad * self._arch_scale()
        plugin: Any = self.trainer.precision_plugin
        plugin.scaler = self._arch_scaler
        try:
            yield
        finally:
            plugin.scaler = scaler

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._arch_scaler is not None:
            checkpoint["arch_scaler"] = self._arch_scaler.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._arch_scaler_state = checkpoint.get("arch_scaler")

    def on_train_epoch_start(self) -> None:
        self._fit_metric.reset()  # or a fit resumed from the end of an epoch would go on counting
        # A function of the epoch and nothing else, so that it is right after any resume.
        epochs = self.trainer.max_epochs or 1
        factor = warmup_cosine(self.current_epoch, steps=epochs, floor=self.weight_lr_min / self.weight_lr)
        for group in self.optimizer_pair[0].param_groups:
            group["lr"] = self.weight_lr * factor

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.log("train/lr", self.optimizer_pair[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        weights = torch.optim.SGD(
            self.supernet.parameters(), self.weight_lr, momentum=self.weight_momentum, weight_decay=self.weight_decay
        )
        alphas = torch.optim.Adam(
            self.alphas.parameters(), self.arch_lr, betas=self.arch_betas, weight_decay=self.arch_weight_decay
        )
        return [weights, alphas]

    def configure_callbacks(self) -> list[Callback]:
        # The first hook of fit, before Lightning's own refusals, which do not know the way out.
        trainer = self.trainer
        if trainer.state.fn != "fit":
            return []
        if trainer.max_steps != -1 and not getattr(trainer, "fast_dev_run", 0):  # which sets max_steps itself
            raise ValueError(
                "max_steps counts the steps of both optimisers, so a search would end half-way; "
                f"got max_steps={trainer.max_steps}. Use Trainer(max_epochs=...)."
            )
        if (trainer.max_epochs or -1) < 1:
            raise ValueError(
                f"The learning rate is annealed over max_epochs, which must be at least 1; got {trainer.max_epochs}."
            )
        if trainer.gradient_clip_val is not None:
            raise ValueError(
                "The Trainer cannot clip gradients of two optimisers; got "
                f"gradient_clip_val={trainer.gradient_clip_val}. Remove it and pass grad_clip to {type(self).__name__}."
            )
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                "The Trainer cannot accumulate gradients of two optimisers; got "
                f"accumulate_grad_batches={trainer.accumulate_grad_batches}. Remove it and use a larger batch_size."
            )
        return []

    def _val_loss(self, batch: Batch) -> Tensor:
        x, y = batch["arch"]
        weights = self.edge_weights()
        return self.arch_loss(self.criterion(self.supernet(x, weights), y), weights)
