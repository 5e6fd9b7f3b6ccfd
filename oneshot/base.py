"""The training loops of differentiable search, written once. A method fills hooks; it does not re-type a loop."""

from __future__ import annotations

import contextlib
import itertools
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import record_function
from torch.utils.data import DataLoader, IterableDataset

from oneshot.supernets.base import OperationSupernet, Supernet, batch_statistics, lay_out
from oneshot.supernets.elastic_layers import ElasticBatchNorm2d
from oneshot.supernets.mixed_op import Path
from oneshot.supernets.space import SubnetConfig

from .batches import check_batch, check_logits, pair_of
from .cost.landing import Landing, land
from .cost.penalty import CostPenalty
from .cost.record import Record, latency_facts
from .cost.table import LatencyTable
from .cost.target import Device, Target
from .functional import NARROW, expected_cost, frozen_batch_norm, in_32_bits, unrolled_arch_grad, warmup_cosine, wide
from .guard import check_data, check_supernet, explain_memory
from .resume import ResumableModule
from .samplers import Perturbation, Sampler
from .tasks import METRICS, loss_of, metric_of

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
        space = self.supernet.space
        return {**super().facts(), "space": f"{space.name} ({zlib.crc32(repr(space).encode()):08x})"}

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


class SupernetTraining(SearchModule):
    """What searches share that train the weights of a supernet by SGD: optimiser, schedules, clipping, the loop.

    Args:
        supernet: See :class:`SearchModule`.
        sampler: See :class:`SearchModule`.
        criterion: See :class:`SearchModule`.
        alpha_std: See :class:`SearchModule`.
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
        sampler: Sampler,
        *,
        criterion: nn.Module | None = None,
        alpha_std: float = 1e-3,
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
        super().__init__(supernet, sampler, criterion=criterion, alpha_std=alpha_std)
        if not 0 <= weight_lr_min <= weight_lr or weight_lr == 0:
            raise ValueError(
                f"The learning rate falls from weight_lr > 0 to weight_lr_min >= 0; got {weight_lr}, {weight_lr_min}."
            )
        if not grad_clip > 0:
            raise ValueError(f"grad_clip is the largest norm of the gradient, above 0; got {grad_clip}.")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is a probability below 1; got {drop_path}.")
        supernet.drop_paths(drop_path)  # raises where there are none to drop
        supernet.drop_paths(0.0)
        self.automatic_optimization = False
        # DDP averages the gradients of the weights. It would wait in vain for the alphas, which have their own step.
        names = [name for name, _ in self.named_parameters() if name.startswith(("alphas.", "sampler."))]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)  # type: ignore[no-untyped-call]  # torch
        # Pixels with their channels side by side: depthwise convolutions are 2 to 4 times faster on CPUs, none slower.
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

    @abstractmethod
    def weight_batch(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Images and labels the weights are trained on."""

    # The loop.

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.world_size > 1:  # these are the same in every process, there is nothing to average
            same = "train/lr|(alpha|probability|entropy|choice|nat)/"
            warnings.filterwarnings("ignore", rf"It is recommended to use `self\.log\('({same})")
        for alpha in self.arch_parameters():  # every process starts from the alphas of the first
            alpha.data.copy_(self.trainer.strategy.broadcast(alpha.data))

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
        """Watch and log the step of the weights."""
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
        """Epoch, and number of epochs, that learning rate, sampler, perturbation and drop-path follow."""
        return self.current_epoch, self.trainer.max_epochs or 1

    def on_train_epoch_start(self) -> None:
        self._fit_metric.reset()  # or a fit resumed from the end of an epoch would go on counting
        # A function of the epoch and nothing else, so that it is right after any resume.
        epoch, epochs = self.schedule_position()
        factor = warmup_cosine(epoch, steps=epochs, floor=self.weight_lr_min / self.weight_lr)
        for group in self.weight_optimizer.param_groups:
            group["lr"] = self.weight_lr * factor
        self.sampler.schedule(epoch, epochs)
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
        if self.sampler.sparse and isinstance(strategy := self.trainer.strategy, DDPStrategy):
            strategy._ddp_kwargs.setdefault("find_unused_parameters", True)

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
                f"The learning rate is annealed over max_epochs, which must be at least 1; got {trainer.max_epochs}."
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


class GradientSearch(SupernetTraining):
    """What searches by gradient descent share: an optimiser for the weights and one for the alphas.

    Args:
        supernet: See :class:`SearchModule`.
        sampler: See :class:`SearchModule`.
        arch_lr: Learning rate of the alphas (Adam).
        arch_betas: Adam's betas.
        arch_weight_decay: Weight decay of the alphas.
        arch_warmup_epochs: Epochs in which the alphas stay as they are.
        arch_every: The alphas move in every n-th step.
        penalty: Adds the expected cost of the architecture to the loss of the alphas.
        perturbation: Changes the edge weights the weights are trained under (SmoothDARTS).
        **kwargs: See :class:`SupernetTraining`.

    Raises:
        ValueError: If a number is out of its range, or a perturbation meets a sampler whose edge weights are not mixed
            on the simplex.
    """

    supernet: OperationSupernet
    supernet_kind = OperationSupernet

    def __init__(
        self,
        supernet: OperationSupernet,
        sampler: Sampler,
        *,
        arch_lr: float = 3e-4,
        arch_betas: tuple[float, float] = (0.5, 0.999),
        arch_weight_decay: float = 1e-3,
        arch_warmup_epochs: int = 0,
        arch_every: int = 1,
        penalty: CostPenalty | None = None,
        perturbation: Perturbation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(supernet, sampler, **kwargs)
        for name, value in (("arch_lr", arch_lr), ("arch_warmup_epochs", arch_warmup_epochs)):
            if value < 0:
                raise ValueError(f"{name} must not be negative; got {value}. 0 is off.")
        if arch_every < 1:
            raise ValueError(f"The alphas move in every step or every n-th; got arch_every={arch_every}.")
        if perturbation is not None and (sampler.sparse or not sampler.simplex):
            raise ValueError(
                "A perturbation moves edge weights about on the simplex, where several candidates run; those of "
                f"{type(sampler).__name__} are {'single candidates' if sampler.sparse else 'not on it'}. Leave it out."
            )
        if penalty is not None:
            penalty.bind(supernet)
        self._arch_scaler: GradScaler | None = None
        self._arch_scaler_state: dict[str, Any] | None = None
        self.arch_lr, self.arch_betas, self.arch_weight_decay = arch_lr, arch_betas, arch_weight_decay
        self.arch_warmup_epochs, self.arch_every = arch_warmup_epochs, arch_every
        self.penalty, self.perturbation = penalty, perturbation

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **latency_facts({"penalty": self.penalty and self.penalty.cost})}

    # What a method supplies.

    def arch_loss(self, loss: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """The loss of the alphas, given the validation loss and the edge weights it was computed under; scalar."""
        return loss if self.penalty is None else self.penalty(loss, weights)

    def derive(self) -> SubnetConfig:
        """The most likely architecture by the rule of the space; with a penalty's target, of those at the target."""
        probabilities, space = self._strengths(), self.supernet.space
        return (
            space.most_likely(probabilities) if self.penalty is None else self.penalty.most_likely(probabilities, space)
        )

    def land(self, device: Target | None = None) -> list[Landing]:
        """Derive, measure on the device and derive again until the penalty's target is met; the best is the last.

        Args:
            device: By default the one that the penalty's table, or its measured networks, were measured on.

        Raises:
            ValueError: If there is no penalty with a target, or neither a device nor a table.
        """
        if self.penalty is None:
            raise ValueError("There is no target to meet; give the search a CostPenalty(table, 'target', target=...).")
        measured = self.penalty.table or (self.penalty.cost and self.penalty.cost.record)
        if device is None and (measured is None or not measured.device):
            raise ValueError("Only measured latencies say what they were measured on; name it: land(Device(...)).")
        device = device or Device.of(cast(LatencyTable | Record, measured))
        return land(self.penalty, self.supernet, self._strengths(), device)

    @torch.no_grad()
    def _strengths(self) -> dict[str, npt.NDArray[np.floating[Any]]]:
        strengths = self.sampler.strengths(dict(self.alphas.items()))
        return {name: in_32_bits(s).cpu().numpy() for name, s in strengths.items()}

    # The loop.

    def average_gradients(self, gradients: list[Tensor]) -> list[Tensor]:
        """Average over all processes, in one message: DDP does not see what ``torch.autograd.grad`` returns."""
        if not (dist.is_available() and dist.is_initialized()):
            return gradients
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = torch.split(flat / dist.get_world_size(), [gradient.numel() for gradient in gradients])
        return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]

    @property
    def optimizer_pair(self) -> tuple[LightningOptimizer, LightningOptimizer]:
        """Optimiser of the weights and of the alphas, during a fit."""
        weights, alphas = cast(list[LightningOptimizer], self.optimizers())
        return weights, alphas

    def moves_alphas(self) -> bool:
        """Whether the alphas move in this step."""
        step = self.trainer.fit_loop.total_batch_idx
        return self.current_epoch >= self.arch_warmup_epochs and step % self.arch_every == 0

    # In 16-mixed every optimiser has a scaler of its own: gradients of weights and alphas overflow at other scales.

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
        for alpha in self.arch_parameters():
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
        super().on_train_epoch_start()
        if self.perturbation is not None:
            self.perturbation.schedule(*self.schedule_position())

    def configure_optimizers(self) -> Any:
        alphas = torch.optim.Adam(
            self.arch_parameters(), self.arch_lr, betas=self.arch_betas, weight_decay=self.arch_weight_decay
        )
        return [*super().configure_optimizers(), alphas]


class BilevelSearch(GradientSearch):
    """Weights on one half of the data, alphas on the other, step by step (DARTS, arXiv:1806.09055, algorithm 1).

    Each step first moves the alphas on the batch ``"arch"``, then the weights on the batch ``"weights"``, as the
    authors' code does. A method supplies four hooks and nothing else: the ``sampler``, :meth:`arch_loss`,
    :meth:`arch_backward` and :meth:`derive`. Batch normalisation learns its statistics in the weight step only.
    Arguments are those of :class:`GradientSearch`.
    """

    def arch_backward(self, batch: Batch) -> Tensor:
        """Set ``.grad`` of every alpha and touch no other gradient; return the loss, a scalar."""
        alphas = self.arch_parameters()
        loss = self._val_loss(batch)
        # Small gradients must not vanish in 16 bits on their way to the alphas, which have 32.
        scale = self._arch_scale()
        gradients = torch.autograd.grad(loss * scale, alphas, allow_unused=True)  # maybe no cell uses a choice
        used = [(a, g) for a, g in zip(alphas, gradients, strict=True) if g is not None]  # type: ignore[redundant-expr]  # allow_unused
        for (alpha, _), gradient in zip(used, self.average_gradients([g / scale for _, g in used]), strict=True):
            alpha.grad = gradient
        return loss

    def unrolled_backward(self, batch: Batch, epsilon: float = 0.01) -> Tensor:
        """What :meth:`arch_backward` does, one weight step ahead (DARTS, arXiv:1806.09055, equations 7 and 8).

        Args:
            batch: Of both streams.
            epsilon: See :func:`~oneshot.functional.unrolled_arch_grad`.
        """
        losses: list[Tensor] = []

        def train_loss() -> Tensor:
            x, y = batch["weights"]
            return self.criterion(self.run(x, self.edge_weights()), y)  # type: ignore[no-any-return]  # nn.Module

        def val_loss() -> Tensor:
            losses.append(self._val_loss(batch))
            return losses[-1]

        optimizer = self.optimizer_pair[0].optimizer
        weights, alphas = [w for w in self.supernet.parameters() if w.requires_grad], self.arch_parameters()
        buffers = [optimizer.state[w].get("momentum_buffer") for w in weights]
        with self.without_16_bits():  # epsilon is below their resolution
            gradients = unrolled_arch_grad(
                train_loss,
                val_loss,
                weights,
                alphas,
                lr=optimizer.param_groups[0]["lr"],
                momentum=optimizer.param_groups[0]["momentum"],
                weight_decay=optimizer.param_groups[0]["weight_decay"],
                momentum_buffers=[None if b is None else b.to(w) for b, w in zip(buffers, weights, strict=True)],
                epsilon=epsilon,
                average=self.average_gradients,
            )
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        return losses[0]

    @contextlib.contextmanager
    def without_16_bits(self) -> Iterator[None]:
        """Inside, a supernet of 16 bits computes in 32, without autocast; afterwards its values are what they were."""
        tensors = [t for t in (*self.supernet.parameters(), *self.supernet.buffers()) if t.dtype in NARROW]
        before, gradients = [t.data for t in tensors], [t.grad for t in tensors]
        default = torch.get_default_dtype()
        for tensor in tensors:
            tensor.grad = None
            tensor.data = tensor.data.float()
        if default in NARROW:
            torch.set_default_dtype(torch.float32)
        try:
            with torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            torch.set_default_dtype(default)
            for tensor, data, gradient in zip(tensors, before, gradients, strict=True):
                tensor.data, tensor.grad = data, gradient

    def held_out(self, batches: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the architecture stream: the same ones in every call, in every process and after any resume.

        Random numbers that are drawn while they are read, also by the reader, follow from a fixed seed and leave no
        trace. Images are augmented as in the search, and an incomplete last batch is dropped.

        Args:
            batches: How many at most; ``None`` is one pass over the stream.

        Raises:
            ValueError: If the stream is not a ``DataLoader`` with a batch size, over a data set that can be shuffled.
        """
        streams: Any = self.trainer.train_dataloader
        loader = streams["arch"]
        if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not loader.batch_size:
            raise ValueError(
                f"{type(self).__name__} reads the same batches again and again, from a DataLoader with a batch_size "
                f"over a data set with a length; the architecture stream is {type(loader).__name__}. Give such a one."
            )
        again: DataLoader[Any] = DataLoader(
            loader.dataset,
            loader.batch_size,
            shuffle=True,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            drop_last=len(loader.dataset) >= loader.batch_size,  # type: ignore[arg-type]  # torch declares no length
            generator=torch.Generator().manual_seed(0),
        )
        devices = [self.device.index] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            for batch in itertools.islice(again, batches):
                x, y = self.trainer.strategy.batch_to_device(batch)
                yield x, y

    def weight_batch(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch["weights"]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if not isinstance(batch, dict) or set(batch) != {"weights", "arch"}:
            raise ValueError(
                "A bilevel search needs batches {'weights': (x, y), 'arch': (x, y)} from two halves of the training "
                f"data; got {type(batch).__name__}. Wrap the data: SearchDataModule(data)."
            )

    def search_step(self, batch: Batch) -> None:
        weight_optimizer, arch_optimizer = self.optimizer_pair
        if self.moves_alphas():
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
            weights = self.weights_for_training(x, y)
            logits = self.run(x, weights)
            loss = self.criterion(logits, y)
            weight_optimizer.zero_grad()
            self.manual_backward(loss)
            weight_optimizer.step()
        self.log_step(loss, logits, y)

    @torch.no_grad()
    def weights_for_training(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Edge weights of the weight step on a batch ``[B, C, H, W]``, ``[B]``; perturbed where that is asked for."""
        if self.perturbation is None:
            return self.edge_weights()
        finish, rows = self.sampler.finish, self.sampler.rows(dict(self.alphas.items()))
        scale = self._arch_scale()  # or gradients vanish in 16 bits; which way is up stays the same

        def loss(moved: Mapping[str, Tensor]) -> Tensor:
            return scale * self.criterion(self.run(x, finish(moved)), y)  # type: ignore[no-any-return]  # nn.Module

        with frozen_batch_norm(self.supernet):
            return finish(self.perturbation(rows, loss, self.average_gradients))

    def _val_loss(self, batch: Batch) -> Tensor:
        x, y = batch["arch"]
        weights = self.edge_weights()
        return self.arch_loss(self.criterion(self.run(x, weights), y), weights)


class SingleLevelSearch(GradientSearch):
    """Weights and alphas on the same batches, by one loss (SNAS, arXiv:1812.09926).

    Batches are ``(x, y)``, from all the training data. Arguments are those of :class:`GradientSearch`.

    Raises:
        ValueError: If there is a perturbation, which belongs to the loss of the weights only.
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        sampler: Sampler,
        *,
        perturbation: Perturbation | None = None,
        **kwargs: Any,
    ) -> None:
        if perturbation is not None:
            raise ValueError(
                "Under a perturbation the weights are trained, but not the alphas (arXiv:2002.05283, equation 4); "
                f"{type(self).__name__} trains both by one loss. Leave the perturbation out, or search in two steps, "
                "as DARTS and SmoothDARTS do."
            )
        super().__init__(supernet, sampler, **kwargs)

    def weight_batch(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return batch

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if isinstance(batch, dict):
            raise ValueError(
                f"{type(self).__name__} trains weights and alphas on the same images and needs batches (x, y); got "
                f"{sorted(batch)}. Give the data as it is, without SearchDataModule."
            )

    def search_step(self, batch: tuple[Tensor, Tensor]) -> None:
        weight_optimizer, arch_optimizer = self.optimizer_pair
        x, y = batch
        weights = self.edge_weights()
        logits = self.run(x, weights)
        loss = self.arch_loss(self.criterion(logits, y), weights)
        weight_optimizer.zero_grad()
        arch_optimizer.zero_grad()
        self.manual_backward(loss)
        alphas = [alpha for alpha in self.arch_parameters() if alpha.grad is not None]
        gradients = self.average_gradients([alpha.grad for alpha in alphas if alpha.grad is not None])
        for alpha, gradient in zip(alphas, gradients, strict=True):  # the scale of the weights is not theirs
            alpha.grad = gradient if self._weight_scaler is None else gradient / self._weight_scaler.get_scale()
        weight_optimizer.step()
        if self.moves_alphas():
            with self._arch_scaling():
                arch_optimizer.step()
        arch_optimizer.zero_grad()
        self.log_step(loss, logits, y)
