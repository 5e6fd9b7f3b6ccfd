"""Training of one standalone network: what a search found, from scratch or from inherited weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from timm.data.mixup import Mixup
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from oneshot.functional import warmup_cosine
from oneshot.supernets.base import Subnet, hold_statistics, inherit_weights, lay_out, layout_of
from oneshot.supernets.ops import scheduled_drop_path
from oneshot.tasks import Classification, Task, task_of
from oneshot.tasks.classes import ClassTask, just_below_one

from .batches import check_batch, check_logits, check_shape, pair_of
from .distillation import Distillation
from .finite_loss import check_data
from .head import check_head_task, fit_head_before_training
from .layout import lay_out_for_training
from .optimizers import (
    OptimizerFactory,
    ScheduleFactory,
    build_optimizer,
    build_schedule,
    check_replaced,
    monitor_of,
    parameter_groups,
)
from .resume import ResumableModule


class Retrain(ResumableModule):
    """Trains the network it is given. Defaults are those of DARTS for CIFAR-10 (arXiv:1806.09055, appendix A.2).

    The paper's drop-path of 0.2 is off by default, because many networks have no paths to drop.

    Takes a data module (or loaders) of batches ``(x, y)``. Logs ``train/loss`` (what is minimised), ``train/accuracy``
    and, per ``val`` and ``test``, ``loss`` (plain cross-entropy), ``accuracy``, ``top5`` (with more than five classes)
    and ``ece`` (expected calibration error, 15 bins, arXiv:1706.04599). In segmentation these are ``train/loss``,
    ``train/miou`` (mean intersection over union) and ``loss``, ``miou`` and ``accuracy`` (of pixels). Other tasks log
    the loss and their own metrics (:meth:`~oneshot.tasks.Task.metrics`).

    The learning rate is set at every step; without warm-up it is the paper's per-epoch value at the first step of each
    epoch. The probability of dropping a path is set at every epoch, as in the authors' code: ``drop_path * epoch /
    max_epochs``, so that the first epoch has none and ``drop_path`` itself is never quite reached; or at every step, as
    in NASNet's (arXiv:1707.07012, ScheduledDropPath). In NASNet's networks it grows with the depth as well.

    Args:
        network: The network. It is trained in place; its weights are the starting point, whatever they are.
        task: What its outputs are for: a :class:`~oneshot.tasks.Task` or the name of a built-in one; by default that of
            the network.
        optimizer: ``"sgd"``, or ``"adamw"`` with ``momentum`` as its first beta; or what builds another one,
            ``partial(torch.optim.RMSprop, lr=1e-3)``. ``lr``, ``lr_min``, ``momentum`` and ``weight_decay`` must then
            stay at their defaults, and the cosine falls from the learning rate of each group to 0.
        schedule: Builds another schedule than warm-up and cosine, ``partial(StepLR, step_size=30)``.
        schedule_every: ``"epoch"`` or ``"step"``: how often that schedule is stepped.
        lr: Learning rate after warm-up, annealed by a cosine.
        lr_min: Learning rate at the end.
        momentum: Momentum of SGD, first beta of AdamW.
        weight_decay: Weight decay of all parameters but single numbers, which are gates.
        weight_decay_norms: Whether normalisations, biases and embeddings decay as well
            (:func:`~oneshot.training.optimizers.parameter_groups`); transformers are trained without.
        grad_clip: Largest norm of the gradient.
        warmup_epochs: Epochs in which the learning rate rises in a straight line.
        label_smoothing: Share of the target spread evenly over all classes (arXiv:1512.00567).
        auxiliary_weight: Weight of the auxiliary head's loss, for a network that has one.
        drop_path: Probability of dropping a path that the linear schedule heads for.
        drop_path_every: ``"epoch"`` or ``"step"``: how often it is set.
        ema_decay: Validate, test and export a moving average of the weights instead of the weights. After ``t`` steps
            its decay is ``min(ema_decay, 1 - (1 + t) ** (-2 / 3))``, so that the initial weights are soon forgotten.
        mixup: Alpha of Mixup (arXiv:1710.09412); 0 is off.
        cutmix: Alpha of CutMix (arXiv:1905.04899); 0 is off. With both on, a coin decides for each batch.
        fit_head: Fit the last layer to the features of the training samples in closed form before the first step
            (:func:`~oneshot.training.head.fit_head`): for a network that was trained on other data.
        freeze_statistics: Whether batch normalisation keeps and reads the running statistics that the network came
            with, instead of those of each batch: features of a pretrained network stay what they are.
        teacher: A trained network that this one learns from as well, such as the one that it is a smaller variant of
            (:class:`~oneshot.training.distillation.Distillation`). It is in no checkpoint: give it again to resume.
        teacher_weight: Share of the loss that is the teacher's.
        temperature: What the logits of both are divided by before they are compared.

    Raises:
        ValueError: If an argument is out of its range or ``network`` has no paths to drop; at the start of ``fit``, if
            the data or the Trainer's settings do not fit.
        NonFiniteLossError: If the loss or the gradient is NaN or infinite; the last checkpoint is a good one.
    """

    seed_per_process = True

    def __init__(
        self,
        network: Subnet,
        *,
        task: Task | str | None = None,
        optimizer: Literal["sgd", "adamw"] | OptimizerFactory = "sgd",
        schedule: ScheduleFactory | None = None,
        schedule_every: Literal["epoch", "step"] = "epoch",
        lr: float = 0.025,
        lr_min: float = 0.0,
        momentum: float = 0.9,
        weight_decay: float = 3e-4,
        weight_decay_norms: bool = True,
        grad_clip: float = 5.0,
        warmup_epochs: int = 0,
        label_smoothing: float = 0.0,
        auxiliary_weight: float = 0.4,
        drop_path: float = 0.0,
        drop_path_every: Literal["epoch", "step"] = "epoch",
        ema_decay: float | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        fit_head: bool = False,
        freeze_statistics: bool = False,
        teacher: Subnet | None = None,
        teacher_weight: float = 0.9,
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        self.optimizer, self.schedule, self.schedule_every = optimizer, schedule, schedule_every
        if drop_path_every not in ("epoch", "step"):
            raise ValueError(f"drop_path_every must be 'epoch' or 'step'; got {drop_path_every!r}.")
        if not 0 <= lr_min <= lr or lr == 0:
            raise ValueError(
                f"lr must be above 0, and lr_min, to which it falls, from 0 to lr; got lr={lr}, lr_min={lr_min}."
            )
        for name, share in (("label_smoothing", label_smoothing), ("drop_path", drop_path)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1); got {share}. 0 is off.")
        if not grad_clip > 0:
            raise ValueError(f"grad_clip must be positive; got {grad_clip}. float('inf') is off.")
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"ema_decay must be in (0, 1); got {ema_decay}. None is off.")
        if min(mixup, cutmix) < 0:
            raise ValueError(f"mixup and cutmix must not be negative; got {mixup} and {cutmix}. 0 is off.")
        if task is not None:
            network.task = task_of(task)
        task = network.task
        if (mixup or cutmix) and not (isinstance(task, Classification) and not task.soft_labels):
            raise ValueError(
                f"Mixup and CutMix mix images with one label each; {task.name} has other targets; got mixup={mixup}, "
                f"cutmix={cutmix}. Use 0."
            )
        if fit_head:
            check_head_task(task)
        if freeze_statistics:
            hold_statistics(network)  # raises where there are none
        self.fit_head, self.freeze_statistics = fit_head, freeze_statistics
        # Not among the modules, for the teacher is neither trained nor saved.
        self.distillation = None if teacher is None else Distillation(teacher, network, teacher_weight, temperature)
        self._teacher_weight, self._temperature = teacher_weight, temperature
        criterion, smoothed = task.criterion(), task.criterion(label_smoothing=label_smoothing)
        for probability in (drop_path, 0.0):  # a network without droppable paths says so here, not in the second epoch
            network.set_drop_path(probability)

        self.network, self.weight_decay_norms = network, weight_decay_norms
        self.lr, self.lr_min, self.momentum, self.weight_decay = lr, lr_min, momentum, weight_decay
        self.grad_clip, self.warmup_epochs, self.drop_path_every = grad_clip, warmup_epochs, drop_path_every
        self.label_smoothing, self.auxiliary_weight, self.drop_path = label_smoothing, auxiliary_weight, drop_path
        self._check_optimizer()
        self.ema: ModelEmaV3 | None = None
        if ema_decay is not None:
            self.ema = ModelEmaV3(network, decay=ema_decay, use_warmup=True)
            self.ema.requires_grad_(False)
        classes = network.num_classes
        self._mix: Mixup | None = None
        if mixup or cutmix:
            self._mix = Mixup(mixup, cutmix, label_smoothing=0.0, num_classes=classes)  # type: ignore[no-untyped-call]  # timm
        self._fit_loss, self._loss = smoothed, criterion
        self._fit_metric = task.metric(classes)
        self._fit_metric.persistent(True)  # a fit may be resumed in the middle of an epoch
        self._val, self._test = (_metrics(stage, task, classes) for stage in ("val", "test"))
        self._counts: MulticlassConfusionMatrix | None = None
        if isinstance(task, ClassTask):
            self._counts = MulticlassConfusionMatrix(classes, ignore_index=task.ignored, validate_args=False)
        self._confusion: Tensor | None = None

    @property
    def task(self) -> Task:
        """What the outputs of the network are for."""
        return self.network.task

    def forward(self, x: Any) -> Tensor:
        """``[B, ...] -> [B, outputs, ...]``; outside training, of the averaged weights if there are any."""
        logits: Tensor = (self.network if self.ema is None or self.training else self.ema.module)(x)
        return logits

    def load_network(self, source: Subnet) -> None:
        """Start from the weights of another network of the same architecture; their moving average starts there too."""
        inherit_weights(self.network, source)
        if self.ema is not None:
            self.ema.module.load_state_dict(self.network.state_dict())

    def learn_from(self, teacher: Subnet) -> None:
        """Let the network learn from a teacher as well, with ``teacher_weight`` and ``temperature`` of this module.

        Args:
            teacher: See :class:`Retrain`.

        Raises:
            ValueError: If the networks have other classes, inputs or tasks, or a number is out of its range.
        """
        self.distillation = Distillation(teacher, self.network, self._teacher_weight, self._temperature)

    def network_for_export(self) -> Subnet:
        """A copy of the network in evaluation mode, without drop-path, with the averaged weights if there are any."""
        network = copy.deepcopy(self.network)
        if self.ema is not None:
            network.load_state_dict(self.ema.module.state_dict())
        network.set_drop_path(0.0)
        return network.eval()

    def confusion(self) -> Tensor:
        """How often each class was taken for each other in the last test.

        Returns:
            Numbers of images, or of pixels, ``[classes, classes]``: a row per true class, a column per predicted one.

        Raises:
            RuntimeError: If there was none yet.
            ValueError: If the task has no classes that exclude one another.
        """
        if self._counts is None:
            raise ValueError(
                f"A confusion matrix must be of classes that exclude one another; {self.task.name} has none."
            )
        if self._confusion is None:
            raise RuntimeError(
                "The confusion matrix is counted in a test, and there was none. Call trainer.test first."
            )
        return self._confusion

    def class_accuracies(self) -> Tensor:
        """Share of each class that was right in the last test, ``[classes]``; NaN for classes that did not occur.

        Raises:
            RuntimeError: See :meth:`confusion`.
            ValueError: See :meth:`confusion`.
        """
        counts = self.confusion().double()
        return counts.diag() / counts.sum(1)

    # Training.

    def train(self, mode: bool = True) -> Retrain:
        """Training or evaluation mode; in both, frozen statistics stay as they are."""
        super().train(mode)
        if self.freeze_statistics:
            hold_statistics(self.network)
        return self

    def facts(self) -> dict[str, Any]:
        statistics = {"statistics": "frozen"} if self.freeze_statistics else {}
        taught = self.distillation
        teacher = {} if taught is None else {"teacher": f"{taught.weight:g} of the loss, at {taught.temperature:g}"}
        return {**super().facts(), **statistics, **teacher}

    def setup(self, stage: str) -> None:
        trainer = self.trainer
        check_data(getattr(trainer, "datamodule", None), self.network)
        if stage != "fit":
            return
        epochs = trainer.max_epochs or 0
        if epochs < 1:
            raise ValueError(
                f"Learning rate and drop-path follow schedules over max_epochs, which must be at least 1; got "
                f"max_epochs={epochs}. Use Trainer(max_epochs=...)."
            )
        if not 0 <= self.warmup_epochs < epochs:
            raise ValueError(
                f"Warm-up must end before training does; got warmup_epochs={self.warmup_epochs}, "
                f"max_epochs={epochs}. Train longer or warm up for fewer epochs."
            )
        if trainer.gradient_clip_val is not None:
            raise ValueError(
                f"Gradients are clipped by Retrain, to a norm of grad_clip={self.grad_clip}; the Trainer came with "
                f"gradient_clip_val={trainer.gradient_clip_val}. Remove that and pass grad_clip to Retrain."
            )
        lay_out_for_training(self.network)
        if self.distillation is not None:
            lay_out_for_training(self.distillation.teacher)
        if self.ema is not None:
            lay_out(self.ema, layout_of(*self.network.parameters()))
        self.train()  # a network that was loaded or searched may be in evaluation mode, and Lightning would keep it so
        if self.freeze_statistics:
            warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # as was asked for

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.distillation is not None:
            self.distillation.to(self.device)
        if self.fit_head and self.trainer.global_step == 0:
            fit_head_before_training(self.trainer, self.network, frozen=self.freeze_statistics)
            if self.ema is not None:
                self.ema.module.load_state_dict(self.network.state_dict())
        self._schedule_drop_path()  # a fit that is resumed within an epoch does not start that epoch again

    def on_train_epoch_start(self) -> None:
        self._fit_metric.reset()  # or a fit resumed from the end of an epoch would go on counting
        self._schedule_drop_path()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        if self.drop_path_every == "step":
            self._schedule_drop_path()

    def _schedule_drop_path(self) -> None:
        step, steps = self.current_epoch, self.trainer.max_epochs or 1
        if self.drop_path_every == "step":
            step, steps = self.trainer.global_step, int(self.trainer.estimated_stepping_batches)
        self.network.set_drop_path(scheduled_drop_path(self.drop_path, step=step, steps=steps))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                f"Retrain needs batches (x, y); got {type(batch).__name__}. Pass the data itself, not the "
                "SearchDataModule that splits it for a search."
            )
        x, y = batch
        check_batch(self.network, x, y, first=batch_idx == 0)
        if self._mix is not None:
            if len(y) % 2:
                raise ValueError(
                    f"Mixup and CutMix pair the images of a batch, so there must be an even number; got {len(y)}. "
                    "Choose an even batch_size and drop the incomplete last batch."
                )
            x, y = self._mix(x.clone(), y)  # in place; y is now [B, classes]
        logits, auxiliary = self.network.forward_with_auxiliary(x)
        check_logits(logits, self.network, x)
        loss: Tensor = self._fit_loss(logits, y)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * self._fit_loss(auxiliary, y)
        if self.distillation is not None:
            loss = self.distillation.loss(x, logits, loss)
        self.watch(loss)
        self.log("train/loss", loss.detach(), batch_size=len(y))
        mixed = y.argmax(dim=1) if self._mix is not None else y
        self._fit_metric.update(*self.task.for_metric(logits.detach(), mixed))
        name = f"train/{self.task.metric_name}"
        self.log(name, self._fit_metric, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, self.grad_clip)
        if self.trainer.precision != "16-mixed":  # whose scaler skips a step that overflowed and goes on
            self.watch(norm)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.ema is not None:
            self.ema.update(self.network, step=self.trainer.global_step + 1)  # which does not count this step yet

    def _check_optimizer(self) -> None:
        if self.optimizer not in ("sgd", "adamw") and not callable(self.optimizer):
            raise ValueError(
                f"optimizer must be 'sgd' or 'adamw'; got {self.optimizer!r}. A callable that builds one is taken, too."
            )
        if callable(self.optimizer):
            check_replaced(self, "optimizer", ("lr", "lr_min", "momentum", "weight_decay"))
        if self.schedule_every not in ("epoch", "step"):
            raise ValueError(f"schedule_every must be 'epoch' or 'step'; got {self.schedule_every!r}.")
        if self.schedule is not None and self.warmup_epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} comes before the cosine, which schedule replaces. Leave one of "
                "them out; a schedule can warm up by itself, as OneCycleLR does."
            )

    def _groups(self) -> list[Any]:
        if not self.weight_decay_norms:
            return parameter_groups(self.network, decay_norms=False)
        trained: list[nn.Parameter] = parameter_groups(self.network)
        gates = [weight for weight in trained if weight.dim() == 0]  # of skips: decay would close them
        weights = [weight for weight in trained if weight.dim() > 0]
        return [{"params": weights}, {"params": gates, "weight_decay": 0.0}] if gates else weights

    def configure_optimizers(self) -> Any:
        weights, optimizer, floor = self._groups(), self.optimizer, self.lr_min / self.lr
        built: Optimizer
        if optimizer == "sgd":
            built = torch.optim.SGD(weights, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        elif optimizer == "adamw":
            built = torch.optim.AdamW(weights, self.lr, (self.momentum, 0.999), weight_decay=self.weight_decay)
        else:
            built, floor = build_optimizer(optimizer, weights, "optimizer"), 0.0
        if self.schedule is not None:
            given = build_schedule(self.schedule, built, "schedule")
            follows = {"scheduler": given, "interval": self.schedule_every, "monitor": monitor_of(given)}
            return {"optimizer": built, "lr_scheduler": follows}
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = steps * self.warmup_epochs // (self.trainer.max_epochs or 1)
        cosine = torch.optim.lr_scheduler.LambdaLR(
            built, lambda step: warmup_cosine(step, steps=steps, warmup=warmup, floor=floor)
        )
        return {"optimizer": built, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    # Evaluation.

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        check_batch(self.network, *pair_of(batch), first=batch_idx == 0)
        self._evaluate("val", self._val, *batch)

    def on_test_start(self) -> None:
        if self._counts is not None:
            self._counts.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        check_batch(self.network, *pair_of(batch), first=batch_idx == 0)
        outputs, targets = self._evaluate("test", self._test, *batch)
        if self._counts is not None:
            self._counts.update(outputs, targets)
        return {"outputs": outputs, "targets": targets}  # for callbacks; Lightning keeps them for this batch only

    def on_test_epoch_end(self) -> None:
        if self._counts is not None:
            self._confusion = self._counts.compute()

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Predictions; of a pair ``(x, y)`` those of ``x``."""
        x = batch[0] if isinstance(batch, tuple | list) else batch
        check_shape(self.network, x)
        return self.task.decode(self(x))

    def _evaluate(self, stage: str, metrics: MetricCollection, x: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """Log loss and metrics of inputs and targets; return both as metrics take them."""
        logits: Tensor = self(x)
        check_logits(logits, self.network, x)
        logits = logits.float()
        loss = self._loss(logits, y)
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=len(y), sync_dist=True)
        outputs, targets = self.task.for_metric(logits, y)
        if isinstance(self.task, ClassTask):  # some of its metrics are of probabilities
            outputs = just_below_one(logits.softmax(dim=1))
        metrics.update(outputs, targets)
        for name, metric in metrics.items():
            shown = name == f"{stage}/{self.task.metric_name}"
            self.log(name, metric, on_step=False, on_epoch=True, batch_size=len(y), prog_bar=shown)
        return outputs, targets


def _metrics(stage: str, task: Task, outputs: int) -> MetricCollection:
    metrics: dict[str, Metric | MetricCollection] = {**task.metrics(outputs)}
    return MetricCollection(metrics, prefix=f"{stage}/", compute_groups=False)
