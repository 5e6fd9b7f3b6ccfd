"""Searches by gradient: architecture parameters with an optimiser, on two halves of the data or on one loss."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.profiler import record_function
from torch.utils.data import DataLoader, IterableDataset

from oneshot.cost.latency.device import Device, LatencyDevice
from oneshot.cost.latency.table import UNIT
from oneshot.cost.penalty import CostPenalty
from oneshot.cost.record import Prediction, Record
from oneshot.cost.target import TargetAttempt, meet_target
from oneshot.functional import NARROW, frozen_batch_norm, in_32_bits, unrolled_arch_grad
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.space import SubnetConfig
from oneshot.training.optimizers import OptimizerFactory, build_optimizer, check_replaced

from .alphas import AlphaSearch, EdgeWeights
from .module import Batch
from .options import AlphaOptions, Unpack, UnperturbedOptions
from .samplers import Perturbation, Sampler
from .virtual_step import virtual_step

OF_ADAM = ("arch_lr", "arch_betas", "arch_weight_decay")


class GradientSearch(AlphaSearch):
    """What searches by gradient descent share: an optimiser for the weights and one for the alphas.

    Args:
        supernet: See :class:`~oneshot.engine.alphas.AlphaSearch`.
        sampler: See :class:`~oneshot.engine.alphas.AlphaSearch`.
        arch_lr: Learning rate of the alphas (Adam).
        arch_betas: Adam's betas.
        arch_weight_decay: Weight decay of the alphas.
        arch_warmup_epochs: Epochs in which the alphas stay as they are.
        arch_every: The alphas move in every n-th step.
        arch_optimizer: Builds another optimiser of the alphas, ``partial(torch.optim.SGD, lr=0.1)``; the three options
            of Adam (``arch_lr``, ``arch_betas``, ``arch_weight_decay``) must then stay at their defaults.
        penalty: Adds the expected cost of the architecture to the loss of the alphas.
        perturbation: Changes the edge weights the weights are trained under (SmoothDARTS).
        **kwargs: See :class:`~oneshot.engine.alphas.AlphaSearch`.

    Raises:
        ValueError: If a number is out of its range, or a perturbation meets a sampler whose edge weights are not mixed
            on the simplex.
    """

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
        arch_optimizer: OptimizerFactory | None = None,
        penalty: CostPenalty | None = None,
        perturbation: Perturbation | None = None,
        **kwargs: Unpack[AlphaOptions],
    ) -> None:
        super().__init__(supernet, sampler, **kwargs)
        for name, value in (("arch_lr", arch_lr), ("arch_warmup_epochs", arch_warmup_epochs)):
            if value < 0:
                raise ValueError(f"{name} must not be negative; got {value}. 0 is off.")
        if arch_every < 1:
            raise ValueError(
                f"arch_every, the steps between two moves of the alphas, must be at least 1; got {arch_every}."
            )
        if perturbation is not None and (sampler.sparse or not sampler.simplex):
            raise ValueError(
                "A perturbation needs edge weights on the simplex, of several candidates; those of "
                f"{type(sampler).__name__} are {'single candidates' if sampler.sparse else 'not on it'}. Leave it out."
            )
        if penalty is not None:
            penalty.bind(supernet)
        self._arch_scaler: GradScaler | None = None
        self._arch_scaler_state: dict[str, Any] | None = None
        self.arch_lr, self.arch_betas, self.arch_weight_decay = arch_lr, arch_betas, arch_weight_decay
        self.arch_warmup_epochs, self.arch_every, self.arch_factory = arch_warmup_epochs, arch_every, arch_optimizer
        if arch_optimizer is not None:
            check_replaced(self, "arch_optimizer", OF_ADAM)
        self.penalty, self.perturbation = penalty, perturbation

    def cost_models(self) -> dict[str, object]:
        return {} if self.penalty is None else {"penalty": self.penalty.cost}

    def predictions(self, config: SubnetConfig) -> list[Prediction]:
        cost = None if self.penalty is None else self.penalty.cost
        if cost is None or cost.unit != UNIT:
            return []
        return [Prediction("latency", cost.cost(config), cost.record)]

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

    def meet_target(self, device: LatencyDevice | None = None) -> list[TargetAttempt]:
        """Derive, measure on the device and derive again until the penalty's target is met; the best is the last.

        Args:
            device: By default the one that the penalty's table, or its measured networks, were measured on.

        Raises:
            ValueError: If there is no penalty with a target, or neither a device nor a table.
        """
        if self.penalty is None:
            raise ValueError("There is no target to meet; give the search a CostPenalty(table, 'target', target=...).")
        measured = self.penalty.cost and self.penalty.cost.record
        if device is None and (measured is None or not measured.device):
            raise ValueError(
                "Without measured latencies the device must be named: meet_target(Device(...)). Only measured ones say "
                "what they were measured on."
            )
        device = device or Device.of(cast(Record, measured))
        return meet_target(self.penalty, self.supernet, self._strengths(), device)

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
        """Optimisers of the weights and of the alphas, during a fit."""
        weights, alphas = cast(list[LightningOptimizer], self.optimizers())
        return weights, alphas

    def moves_alphas(self) -> bool:
        """Whether the alphas move in this step."""
        step = self.trainer.fit_loop.total_batch_idx
        return self.current_epoch >= self.arch_warmup_epochs and step % self.arch_every == 0

    # In 16-mixed every optimiser has a scaler of its own: gradients of weights and alphas overflow at other scales.

    def arch_scale(self) -> Tensor:
        """Factor of the loss of the alphas, a scalar: 1, except in 16-mixed."""
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
        """Inside, the step of the alphas uses their own scaler, and their gradients are scaled for it."""
        scaler = self._weight_scaler
        if scaler is None:
            yield
            return
        for alpha in self.trained_arch_parameters():
            if alpha.grad is not None:
                alpha.grad = alpha.grad * self.arch_scale()
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

    def trained_parts(self) -> dict[str, list[nn.Parameter]]:
        return {**super().trained_parts(), "alphas": self.trained_arch_parameters()}

    def configure_optimizers(self) -> Any:
        trained = self.trained_arch_parameters()
        if not trained:
            raise ValueError(
                f"There must be alphas to train; all of {type(self).__name__} are frozen. Call requires_grad_(True) on "
                "some of them, or keep them as they are by arch_warmup_epochs of the whole fit."
            )
        alphas: torch.optim.Optimizer
        if self.arch_factory is None:
            alphas = torch.optim.Adam(trained, self.arch_lr, betas=self.arch_betas, weight_decay=self.arch_weight_decay)
        else:
            alphas = build_optimizer(self.arch_factory, trained, "arch_optimizer")
        return [*super().configure_optimizers(), alphas]

    def arch_decay(self) -> float:
        """Weight decay of the alphas that counts as part of their loss, during a fit; 0 of a decoupled one."""
        if self.arch_factory is None:
            return self.arch_weight_decay
        optimizer = self.optimizer_pair[1].optimizer
        group = optimizer.param_groups[0]
        decoupled = isinstance(optimizer, torch.optim.AdamW) or group.get("decoupled_weight_decay")
        return 0.0 if decoupled else float(group.get("weight_decay", 0.0))


class BilevelSearch(GradientSearch):
    """Weights on one half of the data, alphas on the other, step by step (DARTS, arXiv:1806.09055, algorithm 1).

    Each step first moves the alphas on the batch ``"arch"``, then the weights on the batch ``"weights"``, as the
    authors' code does. A method supplies hooks and nothing else: the ``sampler``, :meth:`arch_loss`,
    :meth:`arch_backward`, :meth:`after_weight_backward` and :meth:`derive`. Batch normalisation learns its statistics
    in the weight step only. Arguments are those of :class:`GradientSearch`.
    """

    def arch_backward(self, batch: Batch) -> Tensor:
        """Set ``.grad`` of every alpha and touch no other gradient; return the loss, a scalar."""
        loss, alphas = self._val_loss(batch), self.trained_arch_parameters()
        for alpha, gradient in zip(alphas, self.val_gradients(loss, alphas), strict=True):
            alpha.grad = gradient
        return loss

    def val_gradients(self, loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of the validation loss, averaged over processes; ``None`` where it does not depend on an input."""
        # Small gradients must not vanish in 16 bits on their way to the alphas, which have 32.
        scale = self.arch_scale()
        gradients = torch.autograd.grad(loss * scale, list(inputs), allow_unused=True)  # maybe no cell uses a choice
        used = [g / scale for g in gradients if g is not None]  # type: ignore[redundant-expr]  # allow_unused
        averaged = iter(self.average_gradients(used))
        return [None if g is None else next(averaged) for g in gradients]  # type: ignore[redundant-expr]  # allow_unused

    def unrolled_backward(self, batch: Batch, epsilon: float = 0.01) -> Tensor:
        """What :meth:`arch_backward` does, one weight step ahead (DARTS, arXiv:1806.09055, equations 7 and 8).

        The step is that of the optimiser of the weights, with its state, and of the gradient of this batch; it is not
        clipped.

        Args:
            batch: Of both streams.
            epsilon: See :func:`~oneshot.functional.unrolled_arch_grad`.

        Raises:
            ValueError: If no second order is derived for that optimiser.
        """
        losses: list[Tensor] = []

        def train_loss() -> Tensor:
            x, y = batch["weights"]
            return self.criterion(self.run(x, self.edge_weights()), y)  # type: ignore[no-any-return]  # nn.Module

        def val_loss() -> Tensor:
            losses.append(self._val_loss(batch))
            return losses[-1]

        optimizer = self.optimizer_pair[0].optimizer
        weights = [weight for weight in self.supernet.parameters() if weight.requires_grad]
        alphas, (lr, step) = self.trained_arch_parameters(), virtual_step(optimizer, weights)
        with self.without_16_bits():  # epsilon is below their resolution
            gradients = unrolled_arch_grad(
                train_loss,
                val_loss,
                weights,
                alphas,
                lr=lr,
                step=step,
                epsilon=epsilon,
                average=self.average_gradients,
            )
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        return losses[0]

    def check_second_order(self) -> None:
        """Raise at the beginning of a fit where :meth:`unrolled_backward` would at the first step."""
        virtual_step(self.optimizer_pair[0].optimizer, [])

    @contextlib.contextmanager
    def differentiable_twice(self) -> Iterator[None]:
        """Inside, cells are not computed again in the backward pass, which cannot be differentiated twice.

        Nor can code that was compiled: call ``self.supernet.forward``, not ``self.supernet``, which may be.
        """
        before, self.supernet.gradient_checkpointing = self.supernet.gradient_checkpointing, False
        try:
            yield
        finally:
            self.supernet.gradient_checkpointing = before

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

    def held_out(self, batches: int | None = None) -> Iterator[tuple[Any, Tensor]]:
        """Batches of the architecture stream: the same ones in every call, in every process and after any resume.

        While they are read, random numbers follow from a fixed seed; afterwards the generators are as before. Images
        are augmented as in the search, and an incomplete last batch is dropped.

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

    def weight_batch(self, batch: Batch) -> tuple[Any, Tensor]:
        return batch["weights"]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if not isinstance(batch, dict) or set(batch) != {"weights", "arch"}:
            raise ValueError(
                "A bilevel search needs batches {'weights': (x, y), 'arch': (x, y)} from two halves of the training "
                f"data; got {type(batch).__name__}. Wrap the data: SearchDataModule(data)."
            )

    def search_step(self, batch: Batch) -> None:
        arch_optimizer = self.optimizer_pair[1]
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
            share = self.begin_batch(len(y))
            self.manual_backward(loss * share if share != 1 else loss)
            self.after_weight_backward(x, y, weights, share)
            self.end_batch(len(y))
        self.log_step(loss, logits, y)

    def after_weight_backward(self, x: Any, y: Tensor, weights: Mapping[str, EdgeWeights], share: float) -> None:
        """Change the gradients of the weights, which are in ``.grad`` now; by default they stay.

        Args:
            x: The batch of the weights.
            y: Its targets.
            weights: The edge weights that the batch was run under.
            share: Factor of the loss of this batch, see :meth:`begin_batch`.
        """

    @torch.no_grad()
    def weights_for_training(self, x: Any, y: Tensor) -> Mapping[str, EdgeWeights]:
        """Edge weights of the weight step on a batch ``[B, C, H, W]``, ``[B]``; perturbed where that is asked for."""
        if self.perturbation is None:
            return self.edge_weights()
        finish, rows = self.sampler.finish, self.sampler.rows(dict(self.alphas.items()))
        scale = self.arch_scale()  # or gradients vanish in 16 bits; which way is up stays the same

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

    Batches are ``(x, y)``, from all the training data. With ``accumulate`` the alphas move as often as the weights, by
    gradients of the same batches, and ``arch_every`` counts these steps. Arguments are those of
    :class:`GradientSearch`.

    Raises:
        ValueError: If there is a perturbation, which belongs to the loss of the weights only.
    """

    def __init__(
        self,
        supernet: OperationSupernet,
        sampler: Sampler,
        *,
        perturbation: Perturbation | None = None,
        **kwargs: Unpack[UnperturbedOptions],
    ) -> None:
        if perturbation is not None:
            raise ValueError(
                "Under a perturbation the weights are trained, but not the alphas (arXiv:2002.05283, equation 4); "
                f"{type(self).__name__} trains both by one loss. Leave the perturbation out, or search in two steps, "
                "as DARTS and SmoothDARTS do."
            )
        super().__init__(supernet, sampler, **kwargs)

    def weight_batch(self, batch: tuple[Any, Tensor]) -> tuple[Any, Tensor]:
        return batch

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if isinstance(batch, dict):
            raise ValueError(
                f"{type(self).__name__} trains weights and alphas on the same images and needs batches (x, y); got "
                f"{sorted(batch)}. Give the data as it is, without SearchDataModule."
            )

    def search_step(self, batch: tuple[Any, Tensor]) -> None:
        x, y = batch
        weights = self.edge_weights()
        logits = self.run(x, weights)
        loss = self.arch_loss(self.criterion(logits, y), weights)
        share = self.begin_batch(len(y))
        self.manual_backward(loss * share if share != 1 else loss)
        self.end_batch(len(y))
        self.log_step(loss, logits, y)

    def moves_alphas(self) -> bool:
        # Weights and alphas move together; without accumulation there is a step in every batch.
        return self.current_epoch >= self.arch_warmup_epochs and self.steps % self.arch_every == 0

    def begin_batch(self, examples: int) -> float:
        share = super().begin_batch(examples)
        if self.batches_before == 0:
            self.optimizer_pair[1].zero_grad()
        return share

    def step_weights(self) -> None:
        arch_optimizer = self.optimizer_pair[1]
        alphas = [alpha for alpha in self.trained_arch_parameters() if alpha.grad is not None]
        gradients = self.average_gradients([alpha.grad for alpha in alphas if alpha.grad is not None])
        for alpha, gradient in zip(alphas, gradients, strict=True):  # the scale of the weights is not theirs
            alpha.grad = gradient if self._weight_scaler is None else gradient / self._weight_scaler.get_scale()
        super().step_weights()
        if self.moves_alphas():
            with self._arch_scaling():
                arch_optimizer.step()
        arch_optimizer.zero_grad()
