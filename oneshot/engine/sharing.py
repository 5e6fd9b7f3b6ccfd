"""Search by weight sharing alone: sampled paths train the supernet, then sampled architectures are compared in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from oneshot.evaluation.accuracy import evaluate_configs
from oneshot.evaluation.images import calibration_images, in_parts, mixed, training_images
from oneshot.evaluation.recalibration import has_statistics
from oneshot.supernets.base import Supernet
from oneshot.supernets.space import SubnetConfig
from oneshot.tasks import Segmentation

from .options import PathOptions, Unpack
from .paths import PathTraining, Stream, draw_connected, over_processes


class WeightSharingSearch(PathTraining):
    """Trains paths of a supernet; what is best with the shared weights is derived.

    A method fills one hook, :meth:`~oneshot.engine.paths.PathTraining.paths`.

    After the last step ``candidates`` architectures are drawn and compared on one batch, drawn from all held-out images
    and in its own statistics, which is cheap. The best of them, the ``finalists``, are compared on the whole held-out
    stream, each in statistics of its own, of training images (:func:`~oneshot.evaluation.accuracy.evaluate_configs`;
    texts in those of the batches). That stream is the validation loader, or if there is none the stream ``"arch"``
    (augmented). The result is in :attr:`ranking` and in checkpoints. There is no preference before that.

    Args:
        supernet: See :class:`~oneshot.engine.module.SearchModule`.
        candidates: Architectures that are drawn at the end; those that build the same network count once.
        finalists: How many of them are compared on the whole stream.
        **kwargs: See :class:`~oneshot.engine.paths.PathTraining`.

    Raises:
        ValueError: If there are fewer than one finalist, or more finalists than candidates; at the start of ``fit``, if
            there are no held-out images.
    """

    _genes: Tensor
    _accuracies: Tensor

    def __init__(
        self, supernet: Supernet, *, candidates: int = 1000, finalists: int = 10, **kwargs: Unpack[PathOptions]
    ) -> None:
        super().__init__(supernet, **kwargs)
        if not 1 <= finalists <= candidates:
            raise ValueError(
                "finalists must be some of the candidates, at least one; got "
                f"candidates={candidates}, finalists={finalists}."
            )
        self.candidates, self.finalists = candidates, finalists
        self.register_buffer("_genes", torch.zeros(finalists, supernet.space.num_genes, dtype=torch.int64))
        self.register_buffer("_accuracies", torch.full((finalists,), math.nan))  # NaN: not evaluated

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "candidates": f"{self.candidates}, {self.finalists} finalists"}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Also those of earlier releases, in which -1 was an accuracy that is not known."""
        state = dict(state_dict)
        if (known := state.get("_accuracies")) is not None and self.task.worst == 0:
            state["_accuracies"] = torch.where(known < 0, math.nan, known)
        return super().load_state_dict(state, *args, **kwargs)

    @property
    def ranking(self) -> list[tuple[SubnetConfig, float]]:
        """The finalists and their metrics on held-out images, best first; empty before the end of the fit."""
        known = ~self._accuracies.isnan()
        configs = self.supernet.space.decode(self._genes[known].cpu().numpy())
        return list(zip(configs, self._accuracies[known].tolist(), strict=True))

    def derive(self) -> SubnetConfig:
        """The best of :attr:`ranking`; before there is one, an architecture that follows from the seed and no more."""
        return self.ranking[0][0] if self.ranking else self._candidate(np.random.default_rng(self.run_seed))

    def rank(self, batches: Stream, calibration: Sequence[Tensor] = ()) -> None:
        """Compare architectures drawn by the seed of the search on held-out batches, and keep the :attr:`ranking`.

        Args:
            batches: A loader of inputs ``[B, ...]`` and targets ``[B, ...]``; read twice, the first time one batch.
            calibration: See :func:`~oneshot.evaluation.accuracy.evaluate_configs`; of the finalists.
        """
        rng = np.random.default_rng(self.run_seed)
        configs = self.supernet.space.unique(self._candidate(rng) for _ in range(self.candidates))
        screened = self._evaluate_configs(configs, mixed(batches))[: self.finalists]
        ranked = self._evaluate_configs([config for config, _ in screened], batches, calibration)
        self._accuracies.fill_(math.nan)
        self._genes[: len(ranked)] = torch.from_numpy(self.supernet.space.encode(config for config, _ in ranked))
        self._accuracies[: len(ranked)] = torch.tensor([value for _, value in ranked])

    def _candidate(self, rng: np.random.Generator) -> SubnetConfig:
        return draw_connected(self.supernet.space, lambda: self.sample(rng))

    def _evaluate_configs(
        self, configs: list[SubnetConfig], batches: Stream, calibration: Sequence[Tensor] = ()
    ) -> list[tuple[SubnetConfig, float]]:
        """Configs and values of the metric, best first; what is as good as another stays behind it."""
        values = evaluate_configs(
            self.evaluation_supernet, configs, batches, calibration=calibration, total=over_processes
        )
        return sorted(zip(configs, values, strict=True), key=lambda pair: -self.task.reward(pair[1]))

    def conclude(self) -> None:
        """:meth:`rank` architectures on the held-out images."""
        batches = self.held_out()
        self.rank(
            list(islice(batches, 1)) if getattr(self.trainer, "fast_dev_run", 0) else batches, self._calibration()
        )

    def _calibration(self) -> Sequence[Tensor]:
        """Batches of training images; none where there is no batch normalisation, and of texts."""
        if not has_statistics(self.supernet) or self.supernet.texts:
            return ()
        loader: Any = self.trainer.train_dataloader
        loader = loader["weights"] if isinstance(loader, Mapping) else loader
        size = getattr(loader, "batch_size", None) or 256
        count = 256 if isinstance(self.task, Segmentation) else 2048  # every pixel counts
        if (data := getattr(self.trainer, "datamodule", None)) is not None:
            return in_parts(calibration_images(data, count, batch_size=size), size)
        return in_parts(training_images(loader, count, batch_size=size), size)
