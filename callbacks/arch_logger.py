"""Writes the alphas, and what follows from them, to whatever logger the Trainer has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from oneshot.engine.alphas import AlphaSearch
from oneshot.engine.module import SearchModule
from oneshot.functional import entropy
from oneshot.report.cells import draw_cells
from oneshot.report.curves import draw_alpha_heatmap, draw_alphas
from oneshot.supernets.space import SubnetConfig

from .base import SearchCallback

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = dict[str, npt.NDArray[np.float32]]


class ArchLogger(SearchCallback):
    """Logs, after a training epoch, for every choice and row: alphas, probabilities, entropy and chosen operation.

    Any logger gets ``probability/<choice>/<row>/<candidate>``, and ``alpha/<choice>/<row>/<candidate>`` if the search
    has alphas; ``entropy/<choice>/<row>`` and its mean ``entropy/<choice>`` (nats); and ``choice/<choice>/<row>``, the
    index of the derived operation in :attr:`~oneshot.supernets.space.Choice.picks`. TensorBoard and W&B also get the
    derived architecture as text. W&B also gets pictures (heat map, probabilities over time, cells) and, at the end of
    the fit, ``subnet.json`` as an artifact of type ``architecture``.

    The history is part of the checkpoint, so it continues when a search is resumed.

    Args:
        every_n_epochs: Log after every n-th epoch.

    Attributes:
        epochs: The epochs of the history, length T.

    Raises:
        ValueError: If ``every_n_epochs`` is below 1; at the start of ``fit``, if the module is not a search.
        RuntimeError: At the start of ``fit``, if W&B is neither logged in nor offline.

    Example:
        >>> ArchLogger(every_n_epochs=5).history
        {}
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        super().__init__(every_n_epochs)
        self._records: dict[int, dict[str, Tensor]] = {}  # epoch -> choice -> (alphas and) probabilities

    @property
    def epochs(self) -> list[int]:
        return list(self._records)

    @property
    def history(self) -> History:
        """Probabilities of all logged epochs, ``{choice: [T, R, O]}``: what ``oneshot.report.draw_alphas`` takes."""
        return self._stack(-1)

    @property
    def alpha_history(self) -> History:
        """Alphas of all logged epochs, ``{choice: [T, R, O]}``; empty where the search has none."""
        return (
            self._stack(0)
            if all(len(both) == 2 for record in self._records.values() for both in record.values())
            else {}
        )

    def _stack(self, which: int) -> History:
        records = list(self._records.values())
        return {name: np.stack([r[name][which].numpy() for r in records]) for name in (records[0] if records else ())}

    def state_dict(self) -> dict[str, Any]:
        return {"records": dict(self._records)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._records = dict(state_dict["records"])

    def after_epoch(self, trainer: pl.Trainer, search: SearchModule) -> None:
        self._record(trainer.current_epoch, search)
        config = search.derive()
        # Every rank holds the same; there is nothing to average.
        search.log_dict(self._metrics(search, config), rank_zero_only=True)
        if not trainer.is_global_zero:
            return
        step = trainer.fit_loop.total_batch_idx  # where Lightning puts the epoch's other metrics
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("architecture", str(config), step)
            elif isinstance(logger, WandbLogger):
                self._log_to_wandb(logger, search, config, step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        config = self.search(pl_module).derive()
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, WandbLogger):
                import wandb

                artifact = wandb.Artifact(f"subnet-{logger.experiment.id}", "architecture", metadata=config.to_dict())
                with artifact.new_file("subnet.json", mode="w") as file:
                    file.write(config.to_json())
                logger.experiment.log_artifact(artifact)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # Lightning starts the W&B run before it calls any other hook of a callback.
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers) and _is_login_error(exception):
            raise RuntimeError(
                f"W&B must be logged in or offline; it says: {exception} Either run `wandb login` once (or set "
                "WANDB_API_KEY), or set WANDB_MODE=offline to log to a folder, which `wandb sync` can upload later."
            ) from exception

    def _record(self, epoch: int, search: SearchModule) -> None:
        """Keep alphas, if there are any, and probabilities."""
        alphas: Mapping[str, Tensor] = dict(search.alphas.items()) if isinstance(search, AlphaSearch) else {}
        now = {
            name: torch.stack([*([alphas[name].detach()] if alphas else []), probability]).float().cpu()
            for name, probability in search.probabilities().items()
        }
        # A search that starts again, or resumes from an older checkpoint, forgets what comes after.
        self._records = {e: record for e, record in self._records.items() if e < epoch} | {epoch: now}

    def _metrics(self, search: SearchModule, config: SubnetConfig) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for choice in search.supernet.space.choices:
            values = self._records[self.epochs[-1]][choice.name]
            alphas, probabilities = values[:-1], values[-1]
            entropies = entropy(probabilities)
            metrics[f"entropy/{choice.name}"] = entropies.mean().item()
            for row, pick in enumerate(config[choice.name]):
                where = f"{choice.name}/{row}"
                metrics[f"entropy/{where}"] = entropies[row].item()
                metrics[f"choice/{where}"] = float(choice.picks.index(pick))
                for kind, shown in (*(("alpha", alpha) for alpha in alphas), ("probability", probabilities)):
                    for candidate, value in zip(choice.candidates, shown[row].tolist(), strict=True):
                        metrics[f"{kind}/{where}/{candidate}"] = value
        return metrics

    def _log_to_wandb(self, logger: WandbLogger, search: SearchModule, config: SubnetConfig, step: int) -> None:
        space = search.supernet.space
        candidates = {choice.name: choice.candidates for choice in space.choices}
        history = self.history
        figures = {
            "pictures/probabilities": draw_alpha_heatmap({name: h[-1] for name, h in history.items()}, candidates),
            "pictures/history": draw_alphas(history, candidates),
            "pictures/cells": draw_cells(space.graphs(config)),
        }
        for name, figure in figures.items():
            logger.log_image(name, [_pixels(figure)], step)
        logger.experiment.log({"architecture": str(config), "trainer/global_step": step})


def _pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """``[H, W, 4]``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # matplotlib leaves its methods untyped
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def _is_login_error(exception: BaseException) -> bool:
    import wandb

    return isinstance(exception, wandb.errors.Error) and re.search("api.?key", str(exception), re.I) is not None
