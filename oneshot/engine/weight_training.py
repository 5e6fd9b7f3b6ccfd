"""How the weights of a supernet move: optimiser, schedule, accumulated gradients, moving average."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.utilities.types import LRSchedulerConfig
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from oneshot._lightning import leave_out_of_ddp
from oneshot.functional import NARROW, warmup_cosine
from oneshot.supernets.base import Supernet, hold_statistics
from oneshot.tasks.task import Task
from oneshot.training.layout import lay_out_for_training
from oneshot.training.optimizers import (
    OptimizerFactory,
    ScheduleFactory,
    build_optimizer,
    build_schedule,
    check_replaced,
    monitor_of,
    parameter_groups,
    plain_name,
    step_schedules,
)

from .module import SearchModule

OF_SGD = ("weight_lr", "weight_lr_min", "weight_momentum", "weight_decay", "weight_nesterov")


class WeightTraining(SearchModule):
    """Moves the weights of a supernet: what they are moved by, how fast, and what their average is.

    Frozen parameters (``requires_grad=False``) are in no optimiser. A subclass may define its own
    ``configure_optimizers``, in any form that Lightning takes: the optimiser of the weights first, then that of the
    alphas (or of the controller of ENAS). Their schedules are stepped as their ``interval`` and ``frequency`` say, and
    learning rates of optimisers that were built there stay as they are.

    Args:
        supernet: See :class:`~oneshot.engine.module.SearchModule`.
        task: See :class:`~oneshot.engine.module.SearchModule`.
        criterion: See :class:`~oneshot.engine.module.SearchModule`.
        weight_lr: Learning rate of the weights (SGD), annealed by a cosine to ``weight_lr_min`` over ``max_epochs``.
        weight_lr_min: Its value at the end.
        weight_momentum: Momentum of the weights.
        weight_decay: Weight decay of the weights.
        weight_nesterov: Nesterov's momentum.
        weight_optimizer: Builds another optimiser of the weights, ``partial(torch.optim.AdamW, lr=1e-3)``; the five
            options of SGD must then stay at their defaults. The cosine falls from the learning rate of each group to 0.
        weight_schedule: Builds another schedule than the cosine, ``partial(StepLR, step_size=30)``.
        weight_schedule_every: ``"epoch"`` or ``"step"`` of the weights: how often that schedule is stepped.
        weight_warmup_epochs: Epochs in which learning rates rise in a straight line, batch by batch, before the cosine.
        weight_decay_norms: Whether normalisations, biases and embeddings decay as well
            (:func:`~oneshot.training.optimizers.parameter_groups`); transformers are trained without.
        accumulate: Batches whose gradients the weights move by: their mean, weighted by the numbers of examples, as of
            one large batch (but batch normalisation sees single ones). The last step of an epoch may have fewer. In a
            bilevel search the alphas move at every batch nevertheless; ``arch_every`` has them wait.
        ema_decay: Validate, compare and export a moving average of the weights instead of the weights
            (:attr:`evaluation_supernet`). After ``t`` steps its decay is ``min(ema_decay, 1 - (1 + t) ** (-2 / 3))``.
            Alphas are not averaged.
        grad_clip: Largest norm of the gradient of the weights; alphas are not clipped.
        freeze_statistics: Whether batch normalisation keeps the running statistics that the supernet came with: it
            reads them in training and in evaluations of every architecture, which are not calibrated then, and in
            networks that are extracted. For supernets that were trained on other data, of which there was more.

    Attributes:
        steps: Steps of the weights so far.

    Raises:
        ValueError: If a number is out of its range, or options contradict each other; at the start of ``fit``, if
            optimisers or schedules cannot be used.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        task: Task | str | None = None,
        criterion: nn.Module | None = None,
        weight_lr: float = 0.025,
        weight_lr_min: float = 0.001,
        weight_momentum: float = 0.9,
        weight_decay: float = 3e-4,
        weight_nesterov: bool = False,
        weight_optimizer: OptimizerFactory | None = None,
        weight_schedule: ScheduleFactory | None = None,
        weight_schedule_every: Literal["epoch", "step"] = "epoch",
        weight_warmup_epochs: int = 0,
        weight_decay_norms: bool = True,
        accumulate: int = 1,
        ema_decay: float | None = None,
        grad_clip: float = 5.0,
        freeze_statistics: bool = False,
    ) -> None:
        super().__init__(supernet, task=task, criterion=criterion)
        self.automatic_optimization = False
        self.weight_lr, self.weight_lr_min, self.weight_momentum = weight_lr, weight_lr_min, weight_momentum
        self.weight_decay, self.weight_nesterov = weight_decay, weight_nesterov
        self.weight_factory, self.weight_schedule = weight_optimizer, weight_schedule
        self.weight_schedule_every, self.weight_warmup_epochs = weight_schedule_every, weight_warmup_epochs
        self.weight_decay_norms, self.accumulate, self.grad_clip = weight_decay_norms, accumulate, grad_clip
        self._check_options(ema_decay)
        self.freeze_statistics = freeze_statistics
        if freeze_statistics:
            hold_statistics(supernet)  # raises where there are none
            supernet.frozen_statistics = True
        lay_out_for_training(self.supernet)
        self.steps = self._average_from = 0  # steps before the average began
        self._batches, self._examples, self._unit = 0, 0.0, 1  # of the gradients that were not stepped yet
        self._rates: list[float] = []  # learning rates of the groups, before any schedule
        self._built: Optimizer | None = None  # by us, and so on our schedule
        self._follows_cosine = False
        self._resumed: dict[str, Any] = {}
        self.ema: ModelEmaV3 | None = None
        if ema_decay is not None:
            self.ema = ModelEmaV3(supernet, decay=ema_decay, use_warmup=True)
            self.ema.requires_grad_(False).train()  # in the mode of the supernet, whatever that is
            self.register_buffer("_has_average", torch.tensor(False))
            leave_out_of_ddp(self, [name for name, _ in self.named_parameters() if name.startswith("ema.")])

    def _check_options(self, ema_decay: float | None) -> None:
        if not 0 <= self.weight_lr_min <= self.weight_lr or self.weight_lr == 0:
            raise ValueError(
                "weight_lr must be above 0, and weight_lr_min, to which it falls, from 0 to weight_lr; got "
                f"{self.weight_lr} and {self.weight_lr_min}."
            )
        if not self.grad_clip > 0:
            raise ValueError(f"grad_clip, the largest norm of the gradient, must be above 0; got {self.grad_clip}.")
        if self.weight_schedule_every not in ("epoch", "step"):
            raise ValueError(f"weight_schedule_every must be 'epoch' or 'step'; got {self.weight_schedule_every!r}.")
        if self.weight_warmup_epochs < 0:
            raise ValueError(f"weight_warmup_epochs must not be negative; got {self.weight_warmup_epochs}. 0 is off.")
        if self.accumulate < 1:
            raise ValueError(
                f"accumulate, the batches in a step of the weights, must be at least 1; got {self.accumulate}."
            )
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1); got {ema_decay}. None is off.")
        if self.weight_factory is not None:
            check_replaced(self, "weight_optimizer", OF_SGD)
        if self.weight_schedule is not None and self.weight_warmup_epochs:
            raise ValueError(
                f"weight_warmup_epochs={self.weight_warmup_epochs} comes before the cosine, which weight_schedule "
                "replaces. Leave one of them out; a schedule can warm up by itself, as OneCycleLR does."
            )

    def train(self, mode: bool = True) -> WeightTraining:
        """Training or evaluation mode; in both, frozen statistics stay as they are."""
        super().train(mode)
        if self.freeze_statistics:
            hold_statistics(self.supernet)
        return self

    # The average.

    @property
    def evaluation_supernet(self) -> Supernet:
        """The supernet to validate, compare and export: with averaged weights, once there are any."""
        if self.ema is None or not bool(self.get_buffer("_has_average")):
            return self.supernet
        return cast(Supernet, self.ema.module)

    def restart_average(self) -> None:
        """The average begins anew from the weights as they are, which were moved by something else than a step."""
        if self.ema is not None:
            self.ema.module.load_state_dict(self.supernet.state_dict())
            self._average_from = self.steps

    # Optimisers and schedules.

    @property
    def weight_optimizer(self) -> LightningOptimizer:
        """Optimiser of the weights, during a fit."""
        optimizers = self.optimizers()
        return optimizers[0] if isinstance(optimizers, list) else optimizers

    def configure_optimizers(self) -> Any:
        weights = parameter_groups(self.supernet, decay_norms=self.weight_decay_norms)
        if self.weight_factory is not None:
            self._built = build_optimizer(self.weight_factory, weights, "weight_optimizer")
        else:
            self._built = torch.optim.SGD(
                weights,
                self.weight_lr,
                momentum=self.weight_momentum,
                weight_decay=self.weight_decay,
                nesterov=self.weight_nesterov,
            )
        self._rates = [group["lr"] for group in self._built.param_groups]
        return [self._built]

    def trained_parts(self) -> dict[str, list[nn.Parameter]]:
        """What is trained, by name, in the order of the optimisers; frozen parameters are left out."""
        return {"weights": [weight for weight in self.supernet.parameters() if weight.requires_grad]}

    def base_rates(self) -> list[float]:
        """Learning rates of the groups of the weights before any schedule; those added later have their own."""
        groups = self.weight_optimizer.param_groups
        late = [group.setdefault("initial_lr", group["lr"]) for group in groups[len(self._rates) :]]
        return [*self._rates, *late]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.freeze_statistics:
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # as was asked for
        self._begin(self._resumed)
        self._check_optimizers()
        if self.ema is not None and next(self.supernet.parameters()).dtype in NARROW:
            raise ValueError(
                "A moving average must have more digits than 16 bits, in which it would stand still; got "
                f"ema_decay={self.ema.decay} and precision={self.trainer.precision}. Use precision='bf16-mixed'."
            )
        optimizer, configs = self.trainer.optimizers[0], self.trainer.lr_scheduler_configs
        scheduled = any(config.scheduler.optimizer is optimizer for config in configs)
        self._follows_cosine = optimizer is self._built and not scheduled and self.weight_schedule is None
        if self.weight_schedule is not None:
            if scheduled:
                raise ValueError(
                    f"configure_optimizers of {type(self).__name__} has a schedule of the weights already; got "
                    "weight_schedule besides. Leave one of them out."
                )
            schedule = build_schedule(self.weight_schedule, optimizer, "weight_schedule")
            configs.append(LRSchedulerConfig(schedule, interval=self.weight_schedule_every))
        for config in configs:
            monitor_of(config.scheduler)  # raises where one cannot be stepped
        self._check_warm_up()

    def _begin(self, saved: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was written; from an empty one, start anew."""
        self.steps, self._average_from = saved.get("steps", 0), saved.get("average_from", 0)
        group = saved.get("group", {})
        self._batches, self._examples, self._unit = (
            group.get("batches", 0),
            group.get("examples", 0.0),
            group.get("unit", 1),
        )

    def _check_optimizers(self) -> None:
        """Raise where an override of ``configure_optimizers`` returns something else than what is trained."""
        parts, optimizers = self.trained_parts(), self.trainer.optimizers
        held = [{w for group in optimizer.param_groups for w in group["params"]} for optimizer in optimizers]
        wrong = len(parts) != len(held)
        for number, (own, part) in enumerate(zip(held, parts.values(), strict=False)):
            others = {w for other, ws in enumerate(parts.values()) if other != number for w in ws}
            wrong = wrong or not own & set(part) or bool(own & others)
        if wrong:
            raise ValueError(
                f"configure_optimizers of {type(self).__name__} must return an optimiser for each of "
                f"{', '.join(parts)}, in this order, with trained parameters of these and no others'; got "
                f"{', '.join(map(plain_name, optimizers))}. Call super().configure_optimizers() for ours."
            )
        then, now = self._resumed.get("optimizers"), [plain_name(optimizer) for optimizer in optimizers]
        if then is not None and then != now:
            raise ValueError(
                f"A fit must be resumed with the optimisers it began with, {', '.join(then)}; got {', '.join(now)}. "
                "Change them back, or start anew elsewhere."
            )
        if self.weight_factory is not None and optimizers[0] is not self._built:
            raise ValueError(
                f"configure_optimizers of {type(self).__name__} has an optimiser of the weights already; got "
                "weight_optimizer besides. Leave one of them out."
            )

    def _check_warm_up(self) -> None:
        if not self.weight_warmup_epochs or getattr(self.trainer, "fast_dev_run", False):
            return
        if not self._follows_cosine:
            raise ValueError(
                f"weight_warmup_epochs={self.weight_warmup_epochs} comes before the cosine, which configure_optimizers "
                f"of {type(self).__name__} replaces. Leave one of them out."
            )
        epochs = self.schedule_position()[1]
        if self.weight_warmup_epochs >= epochs:
            raise ValueError(
                f"Warm-up must end before the cosine does; got weight_warmup_epochs={self.weight_warmup_epochs} of "
                f"{epochs} epochs. Train longer or warm up for fewer epochs."
            )

    def schedule_position(self) -> tuple[int, int]:
        """Epoch, and number of epochs, that learning rate, drop-path, sampler and perturbation follow."""
        return self.current_epoch, self.trainer.max_epochs or 1

    def on_train_start(self) -> None:
        super().on_train_start()
        gradients = self._resumed.get("group", {}).get("gradients", {})
        for name, gradient in gradients.items():  # of batches before the fit was stopped
            parameter = self.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)
        self._resumed = {}

    def on_train_epoch_start(self) -> None:
        self._set_rates(0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.weight_warmup_epochs and self.current_epoch < self.weight_warmup_epochs:
            self._set_rates(batch_idx)

    def _set_rates(self, batch_idx: int) -> None:
        """Set learning rates: a function of epoch and batch and nothing else, so that it is right after any resume."""
        if not self._follows_cosine:
            return
        epoch, epochs = self.schedule_position()
        warmup = self.weight_warmup_epochs if epoch == self.current_epoch else 0  # at the beginning of a fit alone
        floor = self.weight_lr_min / self.weight_lr if self.weight_factory is None else 0.0
        batches = self.trainer.num_training_batches
        if epoch < warmup and batches != float("inf"):
            factor = warmup_cosine(epoch * int(batches) + batch_idx, steps=1, warmup=warmup * int(batches))
        else:
            factor = warmup_cosine(epoch, steps=epochs, warmup=warmup, floor=floor)
        for group, rate in zip(self.weight_optimizer.param_groups, self.base_rates(), strict=True):
            group["lr"] = rate * factor

    def on_train_epoch_end(self) -> None:
        self.finish_step()  # of a fit that is stopped within an epoch
        super().on_train_epoch_end()
        self.log("train/lr", self.weight_optimizer.param_groups[0]["lr"])
        if self.schedules_run():
            step_schedules(self.trainer, "epoch", self.current_epoch + 1)

    def schedules_run(self) -> bool:
        """Whether schedules other than the cosine are stepped now."""
        return True

    # Steps.

    def begin_batch(self, examples: int) -> float:
        """Forget the gradients of the last step; return the factor of the losses of this batch.

        Args:
            examples: In the batch.
        """
        if self._batches == 0:
            self.weight_optimizer.zero_grad()
            self._unit = max(1, examples)
        return examples / self._unit

    def is_step(self) -> bool:
        """Whether the weights move at the end of this batch."""
        return self._batches + 1 >= self.accumulate or self.trainer.is_last_batch

    def end_batch(self, examples: int) -> None:
        """Move the weights by the gradients of the batches since their last step, unless more are to come."""
        step = self.is_step()
        self._batches, self._examples = self._batches + 1, self._examples + examples / self._unit
        if step:
            self.finish_step()

    def finish_step(self) -> None:
        """Move the weights by the gradients there are, if there are any."""
        if self._batches == 0:
            return
        if self._batches > 1:
            gradients = [w.grad for part in self.trained_parts().values() for w in part if w.grad is not None]
            for gradient in gradients:
                gradient.div_(self._examples)
        self._batches, self._examples = 0, 0.0
        self.step_weights()
        self.steps += 1
        if self.ema is not None:
            self.ema.update(self.supernet, step=self.steps - self._average_from)
            self.get_buffer("_has_average").fill_(True)
        if self.schedules_run():
            step_schedules(self.trainer, "step", self.steps)

    def step_weights(self) -> None:
        """One step of the weights, and in a search by one loss of the alphas, by their gradients."""
        self.weight_optimizer.step()

    @property
    def batches_before(self) -> int:
        """Batches whose gradients wait for the next step."""
        return self._batches

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Here gradients are free of the scale that 16 bits need.
        if optimizer is self.weight_optimizer.optimizer:
            trained = [weight for weight in self.supernet.parameters() if weight.requires_grad]
            norm = nn.utils.clip_grad_norm_(trained, self.grad_clip)
            if self._weight_scaler is None:  # which skips a step that overflowed and goes on
                self.watch(norm)

    @property
    def _weight_scaler(self) -> GradScaler | None:
        return getattr(self.trainer.precision_plugin, "scaler", None) if self._trainer is not None else None

    # Checkpoints.

    def facts(self) -> dict[str, Any]:
        accumulate = {} if self.accumulate == 1 else {"batches in a step": self.accumulate}
        statistics = {"statistics": "frozen"} if self.freeze_statistics else {}
        average = {} if self.ema is None else {"average": self.ema.decay}
        return {**super().facts(), **accumulate, **average, **statistics}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        gradients: dict[str, Tensor] = {}
        if self._batches:
            trained = {id(weight) for part in self.trained_parts().values() for weight in part}
            held = ((name, w.grad) for name, w in self.named_parameters() if id(w) in trained)
            gradients = {name: gradient for name, gradient in held if gradient is not None}
        group = {"batches": self._batches, "examples": self._examples, "unit": self._unit, "gradients": gradients}
        checkpoint["weights"] = {
            "steps": self.steps,
            "average_from": self._average_from,
            "optimizers": [plain_name(optimizer) for optimizer in self.trainer.optimizers],
            "group": group,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self._trainer is None or self.trainer.state.fn != "fit":
            return
        done = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
        # Earlier releases did not write it, and moved the weights at every batch.
        self._resumed = checkpoint.get("weights", {"steps": done["processed"]})
        self._begin(self._resumed)
