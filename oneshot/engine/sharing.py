"""Search by weight sharing alone: sampled paths train the supernet, then sampled architectures are compared in it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from oneshot.evaluation.accuracy import evaluate_configs
from oneshot.evaluation.images import calibration_images, in_parts, mixed, training_images
from oneshot.supernets.base import Supernet
from oneshot.supernets.elastic import ElasticSupernet
from oneshot.supernets.recurrent import RecurrentSupernet
from oneshot.supernets.space import NONE, SearchSpace, SubnetConfig
from oneshot.training.batches import check_logits

from .module import Batch
from .samplers import Sampler
from .supernet_training import SupernetTraining

Stream = Iterable[tuple[Tensor, Tensor]]


class UniformSampler(Sampler):
    """One candidate a row, all with the same probability, whatever the alphas."""

    sparse = True

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: F.one_hot(torch.randint(alpha.shape[1], alpha.shape[:1]), alpha.shape[1]).to(alpha)
            for name, alpha in alphas.items()
        }

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.full_like(alpha, 1 / alpha.shape[1]) for name, alpha in alphas.items()}


class WeightSharingSearch(SupernetTraining):
    """Trains single paths of a supernet and no alphas; what is best with the shared weights is derived.

    A method fills one hook, :meth:`paths`. Batches are ``{"weights": (x, y), "arch": (x, y)}``, of which the paths see
    the first only, or ``(x, y)`` with a validation stream beside them. Gradients of several paths are added up and
    clipped together.

    After the last step ``candidates`` architectures are drawn and compared on one batch, drawn from all held-out images
    and in its own statistics, which is cheap. The best of them, the ``finalists``, are compared on the whole held-out
    stream, each in statistics of its own, of training images (:func:`~oneshot.evaluation.accuracy.evaluate_configs`;
    texts in those of the batches). That stream is the validation loader, or if there is none the stream ``"arch"``
    (augmented). The result is in :attr:`ranking` and in checkpoints. Alphas are constant zeros: there is no preference
    before that.

    Args:
        supernet: See :class:`~oneshot.engine.module.SearchModule`.
        candidates: Architectures that are drawn at the end; those that build the same network count once.
        finalists: How many of them are compared on the whole stream.
        **kwargs: See :class:`~oneshot.engine.supernet_training.SupernetTraining`; neither ``alpha_std`` nor
            ``compile``, because there are no alphas to draw and every path would be compiled anew.

    Raises:
        ValueError: If there are fewer than one finalist, or more finalists than candidates; at the start of ``fit``, if
            there are no held-out images.
    """

    _genes: Tensor
    _accuracies: Tensor

    def __init__(self, supernet: Supernet, *, candidates: int = 1000, finalists: int = 10, **kwargs: Any) -> None:
        super().__init__(supernet, UniformSampler(), alpha_std=0.0, compile=False, **kwargs)
        if not 1 <= finalists <= candidates:
            raise ValueError(
                f"Some of the candidates are finalists, at least one; got candidates={candidates}, "
                f"finalists={finalists}."
            )
        self.alphas.requires_grad_(False)
        self.candidates, self.finalists, self._ranked = candidates, finalists, False
        self.register_buffer("_genes", torch.zeros(finalists, supernet.space.num_genes, dtype=torch.int64))
        self.register_buffer("_accuracies", torch.full((finalists,), -1.0))  # below 0: not evaluated
        WeightSharingSearch.sample(self, np.random.default_rng(0))  # raises where there is nothing to sample

    # What a method supplies.

    @abstractmethod
    def paths(self, step: int) -> list[SubnetConfig]:
        """The paths of a training step, drawn from torch's default generator.

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

    def teacher_logits(self, x: Tensor) -> Tensor | None:
        """What all paths of a step learn from, ``[B, classes, ...]``; ``None``: from its first path.

        Args:
            x: The images, ``[B, C, H, W]``.
        """
        return None

    # The result.

    def sample(self, rng: np.random.Generator) -> SubnetConfig:
        """Draw an architecture; uniformly, unless a method knows better, but see :func:`draw_operating`."""
        return draw_operating(self.supernet.space, lambda: self.supernet.space.sample(rng))

    @property
    def ranking(self) -> list[tuple[SubnetConfig, float]]:
        """The finalists and their accuracies on held-out images, best first; empty before the end of the fit."""
        known = self._accuracies >= 0
        configs = self.supernet.space.decode(self._genes[known].cpu().numpy())
        return list(zip(configs, self._accuracies[known].tolist(), strict=True))

    def derive(self) -> SubnetConfig:
        """The best of :attr:`ranking`; before there is one, an architecture that follows from the seed and no more."""
        return self.ranking[0][0] if self.ranking else self.sample(np.random.default_rng(int(self._seed)))

    def rank(self, batches: Stream, calibration: Sequence[Tensor] = ()) -> None:
        """Compare architectures drawn by the seed of the search on held-out batches, and keep the :attr:`ranking`.

        Args:
            batches: A loader of images ``[B, C, H, W]`` and labels ``[B]``; read twice, the first time one batch.
            calibration: See :func:`~oneshot.evaluation.accuracy.evaluate_configs`; of the finalists.
        """
        rng = np.random.default_rng(int(self._seed))
        configs = self.supernet.space.unique(self.sample(rng) for _ in range(self.candidates))
        screened = self._evaluate_configs(configs, mixed(batches))[: self.finalists]
        ranked = self._evaluate_configs([config for config, _ in screened], batches, calibration)
        self._accuracies.fill_(-1)
        self._genes[: len(ranked)] = torch.from_numpy(self.supernet.space.encode(config for config, _ in ranked))
        self._accuracies[: len(ranked)] = torch.tensor([accuracy for _, accuracy in ranked])

    def _evaluate_configs(
        self, configs: list[SubnetConfig], batches: Stream, calibration: Sequence[Tensor] = ()
    ) -> list[tuple[SubnetConfig, float]]:
        """Configs and accuracies, best first; what is as good as another stays behind it."""
        accuracies = evaluate_configs(self.supernet, configs, batches, calibration=calibration, total=over_processes)
        return sorted(zip(configs, accuracies, strict=True), key=lambda pair: -pair[1])

    # The loop.

    def facts(self) -> dict[str, Any]:
        facts = {**super().facts(), "candidates": f"{self.candidates}, {self.finalists} finalists"}
        if isinstance(self.supernet, ElasticSupernet):
            facts["supernet"] = ", ".join(f"{name}={value}" for name, value in self.supernet.settings.items())
        return facts

    def weight_batch(self, batch: Batch | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return batch["weights"] if isinstance(batch, dict) else batch

    def search_step(self, batch: Batch | tuple[Tensor, Tensor]) -> None:
        x, y = self.weight_batch(batch)
        if isinstance(self.supernet, ElasticSupernet):  # data modules may declare nothing
            self.supernet.check_images(min(x.shape[2:]))
        paths = self.paths(self.trainer.fit_loop.total_batch_idx)
        losses: list[Tensor] = []
        logits: list[Tensor] = []
        self.weight_optimizer.zero_grad()
        with record_function("step of the weights"):
            first = self.teacher_logits(x)
            for config in paths:
                output = self.supernet.run_config(x, config)
                check_logits(output, self.supernet, x)
                loss = self.path_loss(output, y, first)
                first = output.detach() if first is None else first
                self.manual_backward(loss)
                losses.append(loss.detach())
                logits.append(output.detach())
            self.weight_optimizer.step()
        self.log_step(torch.stack(losses).mean(), torch.cat(logits), torch.cat([y] * len(paths)))

    def on_train_start(self) -> None:
        super().on_train_start()
        self.look_for_held_out()

    def look_for_held_out(self) -> None:
        """Raise at the beginning of a fit, rather than at its end, where there are no held-out images."""
        self._held_out()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if self.trainer.is_last_batch and self.current_epoch + 1 == self.trainer.max_epochs:
            self._rank_now()  # before the callbacks that look at the last epoch

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._ranked = False

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.trainer.should_stop or self.current_epoch + 1 == self.trainer.max_epochs:
            self._rank_now()  # a fit that was stopped early, or resumed between the last step and here

    def _rank_now(self) -> None:
        if not self._ranked:
            self.check_finite()
            self.conclude()
            self._ranked = True

    def conclude(self) -> None:
        """The last step is done: :meth:`rank` architectures on the held-out images."""
        batches = self._held_out()
        self.rank(
            list(islice(batches, 1)) if getattr(self.trainer, "fast_dev_run", 0) else batches, self._calibration()
        )

    def _calibration(self) -> Sequence[Tensor]:
        """Batches of training images; none where there is no batch normalisation, and of texts."""
        layers = [m for m in self.supernet.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not layers or isinstance(self.supernet, RecurrentSupernet):
            return ()
        loader: Any = self.trainer.train_dataloader
        loader = loader["weights"] if isinstance(loader, Mapping) else loader
        size = getattr(loader, "batch_size", None) or 256
        count = 2048 if self.supernet.task == "classification" else 256  # every pixel counts
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            return in_parts(calibration_images(data, count, batch_size=size), size)
        return in_parts(training_images(loader, count, batch_size=size), size)

    def _held_out(self) -> Stream:
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
                f"{type(self).__name__} compares architectures on images the weights have not seen; there is no "
                "validation loader. Wrap the data: SearchDataModule(data), or hold some back: val_fraction=0.1."
            )
        return loaders  # type: ignore[no-any-return]  # Lightning declares no type


def draw_operating(space: SearchSpace, draw: Callable[[], SubnetConfig]) -> SubnetConfig:
    """What ``draw`` yields, but none that has ``none`` in every place once it is simplified.

    Raises:
        ValueError: If a thousand draws find no other.
    """
    for _ in range(1000):
        config = draw()
        if any(pick != NONE for _, picks in space.canonical(config).picks for pick in picks):
            return config
    raise ValueError(f"A path needs an operation; in space {space.name!r} a thousand draws held only {NONE!r}.")


def over_processes(counts: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    return counts
