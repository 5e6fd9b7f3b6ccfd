"""Checks of every training: the loss is finite, and the network was built for the data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from oneshot.errors import NonFiniteLossError
from oneshot.inputs import as_shape, describe_shape
from oneshot.supernets.base import Subnet, Supernet
from oneshot.tasks.task import task_of


def check_supernet(supernet: object, kind: type[Supernet], method: str) -> None:
    """Check that a method can search what it was given.

    Args:
        supernet: What was given.
        kind: What the method can search.
        method: Its name.

    Raises:
        ValueError: If it is no supernet of that kind.
    """
    if isinstance(supernet, kind):
        return
    if isinstance(supernet, type):
        name = supernet.__name__
        raise ValueError(f"{method} must be given a supernet; got the class {name}. Build one: {method}({name}(...)).")
    name = type(supernet).__name__
    if not isinstance(supernet, Supernet):
        raise ValueError(
            f"{method} must be given a supernet, which holds the weights of all architectures of a space; got a "
            f"{name}, {'one network' if isinstance(supernet, nn.Module) else 'which is none'}. Give one of "
            "oneshot.supernets, such as NASBench201Supernet(), or a subclass of OperationSupernet of your own."
        )
    raise ValueError(
        f"{method} mixes candidate operations under edge weights, and needs an OperationSupernet; architectures of "
        f"{name} differ in sizes or picks that nothing mixes. Search it by NAT, BigNAS, ENAS or RandomSharing, or give "
        f"{method} another supernet, such as ProxylessSupernet()."
    )


class FiniteLossGuard(pl.LightningModule):
    """Stops training when a watched value is NaN or infinite, before anything broken is saved.

    Looking at every loss would make the device wait at every step. So the first bad step is remembered on the device
    and looked at every ``log_every_n_steps`` batches, before validation, at the end of the epoch, and before any
    checkpoint is written. A subclass calls :meth:`watch` in its training step, and ``super()`` in the hooks it fills.
    """

    _bad_step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_bad_step", torch.tensor(-1), persistent=False)
        self._good_checkpoint = ""

    def watch(self, *values: Tensor) -> None:
        """Remember this step if one of the scalars is NaN or infinite."""
        finite = torch.stack([torch.isfinite(value.detach()) for value in values]).all()
        # not trainer.global_step, which counts every optimiser's steps under manual optimisation
        step = torch.full_like(self._bad_step, self.trainer.fit_loop.total_batch_idx)
        self._bad_step.copy_(torch.where((self._bad_step < 0) & ~finite, step, self._bad_step))
        # What is named now is on disk. Once this step is refused in on_save_checkpoint, the name of its file stays.
        checkpoint = self.trainer.checkpoint_callback
        self._good_checkpoint = getattr(checkpoint, "last_model_path", "") or getattr(checkpoint, "best_model_path", "")

    def check_finite(self) -> None:
        """Look at what :meth:`watch` remembered; waits for the device.

        Raises:
            NonFiniteLossError: Naming the step and the last checkpoint, which was written before it.
        """
        if self.trainer.world_size > 1:
            # A progress bar of the first process may have averaged the epoch's metrics over all processes already. The
            # others must do so before they exchange anything else, or each side waits for the other.
            _ = self.trainer.callback_metrics
        # The first bad step of any process stops all of them; one alone would leave the others waiting.
        if (step := int(self.trainer.strategy.reduce(self._bad_step, reduce_op="max"))) >= 0:
            raise NonFiniteLossError(
                f"Loss and gradients must stay finite; at step {step} (epoch {self.current_epoch}) they did not. "
                f"Last good checkpoint: {self._good_checkpoint or 'none was written yet'}. Lower the learning rate or "
                "grad_clip, check the images for NaN, or use bf16 instead of fp16."
            )

    def on_fit_start(self) -> None:
        self._bad_step.fill_(-1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set, but not declared, by Lightning
        if (batch_idx + 1) % max(1, every) == 0:
            self.check_finite()

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == "fit":
            self.check_finite()

    def on_train_epoch_end(self) -> None:
        self.check_finite()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # ModelCheckpoint(every_n_train_steps=...) saves between two of the looks above
        self.check_finite()


@contextlib.contextmanager
def explain_memory(advice: str) -> Iterator[None]:
    """Replace torch's error for memory that runs out by one that says what to do.

    Raises:
        RuntimeError: With ``advice``, in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        words = ("out of memory", "can't allocate memory", "not enough memory")
        if not any(word in str(error).lower() for word in words):
            raise
        first = str(error).strip().splitlines()[0]
        raise RuntimeError(f"A step needs more memory than there is. {advice}. Torch says: {first}") from error


def check_data(data: object, network: Supernet | Subnet) -> None:
    """Compare a network with the data module it is about to see.

    Args:
        data: ``trainer.datamodule``; what it does not declare is not compared, ``None`` declares nothing.
        network: Declares ``task``, ``num_classes`` and ``input_shape``.

    Raises:
        ValueError: If the task, the number of outputs or the shape of an input differs; a supernet whose space has
            resolutions brings images of its proportions to them, but enlarges none unless asked to.
    """
    said = getattr(data, "task", None)
    if said is not None and network.task.name not in (task_of(said).name, "custom"):
        raise ValueError(
            f"The task must be that of the data: {type(data).__name__} is for {task_of(said).name}, the network for "
            f"{network.task.name}. Give the search or Retrain task={task_of(said).name!r}, with num_classes outputs of "
            "the data."
        )
    for name in ("num_classes", "input_shape"):
        theirs: Any = getattr(data, name, None)
        ours: Any = getattr(network, name)
        if name == "input_shape" and theirs is not None:
            theirs, ours = as_shape(theirs), as_shape(ours)
            if isinstance(theirs, dict) or isinstance(ours, dict):
                theirs, ours = describe_shape(theirs), describe_shape(ours)
            elif isinstance(network, Supernet) and network.has_resolutions and len(theirs) == 3:
                network.check_images(min(theirs[1:]))
                _, height, width = ours
                ours = (ours[0], theirs[1], round(theirs[1] * width / height))
        if theirs is not None and theirs != ours:
            raise ValueError(
                f"A network must be built for the data: {name} of {type(data).__name__} is {theirs}, "
                f"{type(network).__name__} was built for {ours}. Give it the sizes of the data, or bring the data to "
                "its own, as ImageFolder(image_size=...) does with images."
            )
