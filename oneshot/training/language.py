"""Training of a standalone language model, as the recurrent cells of DARTS and AWD-LSTM were evaluated."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torchmetrics import MeanMetric

from oneshot.supernets.recurrent import LanguageModel, State

from .batches import check_batch, check_shape, pair_of
from .finite_loss import check_data
from .resume import ResumableModule
from .tasks import loss_of


def stopped_improving(losses: Sequence[float], patience: int) -> bool:
    """Whether averaging begins: the non-monotonic criterion (Merity et al., ICLR 2018, arXiv:1708.02182, algorithm 1).

    True if the last loss is above the best of those that are at least ``patience`` validations older, the last
    ``patience`` before it left out.

    Args:
        losses: Validation losses in order, the new one last.
        patience: The paper's non-monotone interval n.

    Example:
        >>> stopped_improving([5.0, 4.0, 4.1, 4.2], patience=2), stopped_improving([5.0, 4.5, 4.1, 4.2], patience=2)
        (False, False)
        >>> stopped_improving([4.0, 4.5, 4.1, 4.2], patience=2)
        True
    """
    *before, last = losses
    return len(before) > patience and last > min(before[: len(before) - patience])


def activation_penalty(outputs: Tensor, dropped: Tensor, *, size: float, change: float) -> Tensor:
    """Activation regularisation and temporal activation regularisation (Merity et al., arXiv:1708.01009).

    The mean of squares of the outputs after dropout, and of the difference of successive outputs before it.

    Args:
        outputs: ``[T, B, H]``.
        dropped: The same after dropout.
        size: Weight of the first, the authors' alpha.
        change: Weight of the second, their beta.

    Returns:
        Scalar.
    """
    penalty = size * dropped.square().mean()
    return penalty + change * (outputs[1:] - outputs[:-1]).square().mean() if len(outputs) > 1 else penalty


class RetrainLanguage(ResumableModule):
    """Trains a language model on a text that is read in order, by truncated backpropagation through time.

    The state goes on from batch to batch, without gradient, and starts from zeros in every epoch. SGD with a constant
    learning rate, until the validation loss stops improving; from then on the average of the weights is what is
    validated, tested and exported (NT-ASGD, arXiv:1708.02182: with the settings used there, averaged SGD moves the
    weights as SGD does). Defaults are those of DARTS for Penn Treebank (arXiv:1806.09055, appendix A.2.2), where
    windows have random lengths; here the data decides.

    Takes :class:`~oneshot.data.text.TextData`. Logs ``train/loss`` (cross-entropy without penalties, nats a word) and
    per ``val`` and ``test`` ``loss`` and ``perplexity``, means over all words.

    Args:
        network: The network, trained in place.
        lr: Learning rate.
        weight_decay: Weight decay of all parameters.
        grad_clip: Largest norm of the gradient.
        patience: Validations the criterion of averaging looks past; ``None`` never averages.
        penalty_size: Weight of the activation regularisation; 0 is off.
        penalty_change: Weight of the temporal activation regularisation; 0 is off.

    Raises:
        ValueError: If an argument is out of its range; at the start of ``fit``, if the data or the Trainer's settings
            do not fit.
        NonFiniteLossError: If the loss or the gradient is NaN or infinite; the last checkpoint is a good one.
    """

    def __init__(
        self,
        network: LanguageModel,
        *,
        lr: float = 20.0,
        weight_decay: float = 8e-7,
        grad_clip: float = 0.25,
        patience: int | None = 5,
        penalty_size: float = 0.0,
        penalty_change: float = 1e-3,
    ) -> None:
        super().__init__()
        if not lr > 0 or not grad_clip > 0:
            raise ValueError(f"lr and grad_clip must be positive; got {lr} and {grad_clip}. float('inf') never clips.")
        if patience is not None and patience < 0:
            raise ValueError(f"patience must not be negative; got {patience}. None never averages.")
        for name, value in (
            ("weight_decay", weight_decay),
            ("penalty_size", penalty_size),
            ("penalty_change", penalty_change),
        ):
            if value < 0:
                raise ValueError(f"{name} must not be negative; got {value}. 0 is off.")
        self.network = network
        self.average = AveragedModel(network)
        self.average.requires_grad_(False)
        self.lr, self.weight_decay, self.grad_clip, self.patience = lr, weight_decay, grad_clip, patience
        self.penalty_size, self.penalty_change = penalty_size, penalty_change
        self.averaging = False
        self._val_losses: list[float] = []
        self._state: State | None = None
        self._eval_state: State | None = None
        self._loss = loss_of("classification")
        self._train_loss, self._eval_loss = MeanMetric(), MeanMetric()
        self._train_loss.persistent(True)  # a fit may be resumed in the middle of an epoch

    def forward(self, x: Tensor) -> Tensor:
        """Words ``[B, T]`` -> logits ``[B, V, T]``, from a state of zeros; averaged weights if there are any."""
        logits: Tensor = self._best()(x)
        return logits

    def network_for_export(self) -> LanguageModel:
        """A copy of the network in evaluation mode, with the averaged weights if there are any."""
        return copy.deepcopy(self._best()).requires_grad_(True).eval()

    def _best(self) -> LanguageModel:
        best = self.average.module if self.average.n_averaged else self.network
        assert isinstance(best, LanguageModel)
        return best

    # Training.

    def setup(self, stage: str) -> None:
        trainer = self.trainer
        check_data(getattr(trainer, "datamodule", None), self.network)
        if stage != "fit":
            return
        if trainer.world_size > 1:
            raise ValueError(
                "The state that goes on from batch to batch is saved by one process, so a language model trains in "
                f"one; got {trainer.world_size}. Use Trainer(devices=1), --trainer.devices 1."
            )
        if trainer.gradient_clip_val is not None or trainer.accumulate_grad_batches != 1:
            raise ValueError(
                "RetrainLanguage clips gradients and steps at every window; the Trainer came with gradient_clip_val="
                f"{trainer.gradient_clip_val}, accumulate_grad_batches={trainer.accumulate_grad_batches}. Remove them "
                "and pass grad_clip to RetrainLanguage."
            )
        self.train()  # a network that was searched may be in evaluation mode, and Lightning would keep it so

    def on_train_epoch_start(self) -> None:
        self._state = None
        self._train_loss.reset()  # or a fit resumed from the end of an epoch would go on counting

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        check_batch(self.network, *pair_of(batch), first=batch_idx == 0)
        x, y = batch
        state = self.network.start(len(x)) if self._state is None else tuple(s.to(self.device) for s in self._state)
        reading = self.network.read(x, state)
        self._state = tuple(s.detach() for s in reading.state)
        loss: Tensor = self._loss(reading.logits, y)
        self._train_loss.update(loss.detach(), y.numel())
        self.log("train/loss", self._train_loss, on_step=False, on_epoch=True, batch_size=y.numel())
        loss = loss + activation_penalty(
            reading.outputs, reading.dropped, size=self.penalty_size, change=self.penalty_change
        )
        self.watch(loss)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        self.watch(nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip))

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.averaging:
            self.average.update_parameters(self.network)

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.SGD(self.network.parameters(), self.lr, weight_decay=self.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        state = None if self._state is None else list(self._state)
        checkpoint["language"] = {"state": state, "val_losses": self._val_losses, "averaging": self.averaging}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        saved = checkpoint["language"]
        self._state = None if saved["state"] is None else tuple(saved["state"])
        self._val_losses, self.averaging = list(saved["val_losses"]), saved["averaging"]

    # Evaluation.

    def on_validation_epoch_start(self) -> None:
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        self._start_evaluation()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        check_batch(self.network, *pair_of(batch), first=batch_idx == 0)
        self._evaluate(*batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        check_batch(self.network, *pair_of(batch), first=batch_idx == 0)
        self._evaluate(*batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The likeliest next words ``[B, T]``, from a state of zeros; of a pair ``(x, y)`` those of ``x``."""
        x = batch[0] if isinstance(batch, tuple | list) else batch
        check_shape(self.network, x)
        logits: Tensor = self(x)
        return logits.argmax(dim=1)

    def on_validation_epoch_end(self) -> None:
        loss = self._log_evaluation("val")
        if self.trainer.sanity_checking or self.trainer.state.fn != "fit":
            return
        self._val_losses.append(loss)
        if self.patience is not None and not self.averaging:
            self.averaging = stopped_improving(self._val_losses, self.patience)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _start_evaluation(self) -> None:
        self._eval_state = None
        self._eval_loss.reset()

    def _evaluate(self, x: Tensor, y: Tensor) -> None:
        network = self._best()
        reading = network.read(x, network.start(len(x)) if self._eval_state is None else self._eval_state)
        self._eval_state = reading.state
        self._eval_loss.update(self._loss(reading.logits, y), y.numel())

    def _log_evaluation(self, stage: str) -> float:
        loss = float(self._eval_loss.compute())
        perplexity = math.exp(min(loss, 700.0))  # a float holds no more
        self.log_dict({f"{stage}/loss": loss, f"{stage}/perplexity": perplexity}, prog_bar=True)
        return loss
