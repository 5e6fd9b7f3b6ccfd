"""Training of a supernet by sampled paths, without alphas."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import record_function

from oneshot.supernets.base import Supernet
from oneshot.supernets.connection import connected
from oneshot.supernets.space import NONE, SearchSpace, SubnetConfig
from oneshot.training.batches import check_logits

from .module import Batch
from .options import PathOptions, Unpack
from .supernet_training import SupernetTraining

Stream = Iterable[tuple[Any, Tensor]]


class PathTraining(SupernetTraining):
    """Trains paths of a supernet, one architecture each; there are no alphas.

    A method fills :meth:`paths`, and :meth:`conclude` for what follows the last step. Batches are
    ``{"weights": (x, y), "arch": (x, y)}``, of which the paths see the first only, or ``(x, y)`` with a validation
    stream beside them. Gradients of several paths are added up and clipped together.

    Args:
        supernet: See :class:`~oneshot.engine.module.SearchModule`.
        **kwargs: See :class:`~oneshot.engine.supernet_training.SupernetTraining`, but without ``compile``, because
            every path would be compiled anew.

    Raises:
        ValueError: At the start of ``fit``, if there are no held-out images.
    """

    dropped: tuple[str, ...] = ("alphas.",)  # beginnings of names in checkpoints of earlier releases, without use now

    def __init__(self, supernet: Supernet, **kwargs: Unpack[PathOptions]) -> None:
        super().__init__(supernet, compile=False, **kwargs)
        self._concluded = False
        PathTraining.sample(self, np.random.default_rng(0))  # raises where there is nothing to sample

    # What a method supplies.

    @abstractmethod
    def paths(self, step: int) -> list[SubnetConfig]:
        """Architectures to train in a step, drawn from torch's default generator.

        Args:
            step: Number of the step, from 0, over all epochs.
        """

    def path_loss(self, logits: Tensor, labels: Tensor, first: Tensor | None) -> Tensor:
        """Loss of one path of a step; the criterion, unless a method has the paths learn from one another.

        Args:
            logits: Of the path, ``[B, classes, ...]``.
            labels: ``[B, ...]``.
            first: Logits of the step's first path, without gradient; ``None`` for that path itself. Those of a teacher
                if there is one (:meth:`teacher_logits`).
        """
        loss: Tensor = self.criterion(logits, labels)
        return loss

    @property
    def first_learns_from_labels(self) -> bool:
        """Whether the first path of a step learns from the labels although there is a teacher."""
        return False

    def teacher_logits(self, x: Any) -> Tensor | None:
        """Logits that all paths of a step learn from, ``[B, classes, ...]``; ``None``: those of its first path.

        Args:
            x: The images, ``[B, C, H, W]``.
        """
        return None

    def sample(self, rng: np.random.Generator) -> SubnetConfig:
        """Draw an architecture; uniformly, unless a method knows better, but see :func:`draw_operating`."""
        return draw_operating(self.supernet.space, lambda: self.supernet.space.sample(rng))

    @abstractmethod
    def conclude(self) -> None:
        """The last step is done: find out what is to be derived. Called once, also where a fit is stopped early."""

    # The loop.

    def facts(self) -> dict[str, Any]:
        settings = ", ".join(f"{name}={value}" for name, value in self.supernet.settings.items())
        return {**super().facts(), **({"supernet": settings} if settings else {})}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Also those of earlier releases, which saved constants in place of alphas."""
        kept = {name: value for name, value in state_dict.items() if not name.startswith(self.dropped)}
        return super().load_state_dict(kept, *args, **kwargs)

    def weight_batch(self, batch: Batch | tuple[Any, Tensor]) -> tuple[Any, Tensor]:
        return batch["weights"] if isinstance(batch, dict) else batch

    def search_step(self, batch: Batch | tuple[Any, Tensor]) -> None:
        x, y = self.weight_batch(batch)
        if self.supernet.has_resolutions and isinstance(x, Tensor):  # data modules may declare nothing
            self.supernet.check_images(min(x.shape[2:]))
        paths = self.paths(self.trainer.fit_loop.total_batch_idx)
        losses: list[Tensor] = []
        logits: list[Tensor] = []
        share = self.begin_batch(len(y))
        with record_function("step of the weights"):
            first = self.teacher_logits(x)
            for place, config in enumerate(paths):
                output = self.supernet.run_config(x, config)
                check_logits(output, self.supernet, x)
                loss = self.path_loss(output, y, None if place == 0 and self.first_learns_from_labels else first)
                first = output.detach() if first is None else first
                self.manual_backward(loss * share if share != 1 else loss)
                losses.append(loss.detach())
                logits.append(output.detach())
            self.end_batch(len(y))
        self.log_step(torch.stack(losses).mean(), torch.cat(logits), torch.cat([y] * len(paths)))

    def on_train_start(self) -> None:
        super().on_train_start()
        self.look_for_held_out()

    def look_for_held_out(self) -> None:
        """Raise at the beginning of a fit, rather than at its end, where there are no held-out images."""
        self.held_out()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.trainer.is_last_batch and self.current_epoch + 1 == self.trainer.max_epochs:
            self.conclude_once()  # before the callbacks that look at the last epoch

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._concluded = False

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.trainer.should_stop or self.current_epoch + 1 == self.trainer.max_epochs:
            self.conclude_once()  # a fit that was stopped early, or resumed between the last step and here

    def conclude_once(self) -> None:
        """:meth:`conclude`, unless that is done."""
        if not self._concluded:
            self.finish_step()
            self.check_finite()
            self.conclude()
            self._concluded = True

    def held_out(self) -> Stream:
        """Batches the weights are not trained on.

        Raises:
            ValueError: If there are none.
        """
        trainer = self.trainer
        if trainer.val_dataloaders is None and trainer.limit_val_batches:
            # Lightning sets them up before the first epoch that it validates, which need not be the first.
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
            trainer.training = True
        loaders: Any = trainer.val_dataloaders
        if isinstance(loaders, list):
            loaders = loaders[0] if loaders else None
        if loaders is None and isinstance(trainer.train_dataloader, Mapping):
            loaders = trainer.train_dataloader.get("arch")
        if loaders is None:
            raise ValueError(
                f"{type(self).__name__} compares architectures on images the weights have not seen, but there is no "
                "validation loader. Wrap the data: SearchDataModule(data), or hold some back: val_fraction=0.1."
            )
        return loaders  # type: ignore[no-any-return]  # Lightning declares no type


def draw_operating(space: SearchSpace, draw: Callable[[], SubnetConfig]) -> SubnetConfig:
    """Draw again until an architecture has an operation: one that is not ``none`` everywhere once it is simplified.

    Raises:
        ValueError: If a thousand draws find no other.
    """
    for _ in range(1000):
        config = draw()
        if any(pick != NONE for _, picks in space.canonical(config).picks for pick in picks):
            return config
    raise ValueError(f"A path must have an operation; in space {space.name!r} a thousand draws held only {NONE!r}.")


def draw_connected(space: SearchSpace, draw: Callable[[], SubnetConfig]) -> SubnetConfig:
    """Draw again until the output of every cell reads its input, see :func:`~oneshot.supernets.connection.connected`.

    Raises:
        ValueError: If a thousand draws find no such architecture.
    """
    for _ in range(1000):
        config = draw()
        if connected(space, space.encode([config]))[0]:
            return config
    raise ValueError(
        f"What is derived must have an output that reads its input; in space {space.name!r} a thousand draws held none."
    )


def over_processes(counts: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    return counts
