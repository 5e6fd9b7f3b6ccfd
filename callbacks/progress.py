"""A progress bar that shows what the search has found so far."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar
from rich.progress import TaskID

from oneshot._lightning import add_task
from oneshot.engine.module import SearchModule
from oneshot.fronts.numbers import short
from oneshot.supernets.space import SubnetConfig


class SearchProgressBar(RichProgressBar):
    """Lightning's Rich progress bar with the architecture derived after the last epoch, and its size.

    ``found`` counts the derived operations of each choice (``none`` left out). ``params`` is the number of weights in
    the decisions of the search: of the derived architecture, then the expectation under the current probabilities;
    stem, head and reductions are not in it. While NAT evaluates there is a second bar, which is removed
    afterwards; it never appears in a log that is no terminal. With a module that is no search it is the plain bar.

    Args:
        refresh_rate: See ``RichProgressBar``.
        leave: See ``RichProgressBar``.
        theme: See ``RichProgressBar``.
        console_kwargs: See ``RichProgressBar``.
    """

    _found: dict[str, str]
    _evaluations: TaskID | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._found = {}
        if isinstance(pl_module, SearchModule):
            pl_module.progress = self._show_evaluations

    def _show_evaluations(self, what: str, done: int, total: int) -> None:
        """Show a second bar for ``done`` of ``total`` evaluations; without a total, remove it."""
        if self.progress is None or self.is_disabled:
            return
        if self._evaluations is not None and not total:
            self.progress.remove_task(self._evaluations)
            self._evaluations = None
        elif self._evaluations is not None and not done:  # another task begins: the bar and its clock start again
            self.progress.reset(self._evaluations, description=what, total=total)
        elif self._evaluations is not None:
            self.progress.update(self._evaluations, description=what, completed=done, total=total)
        elif total:
            self._evaluations = add_task(self, total, what)
        self.refresh()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(pl_module)
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        # Reading the loss waits for the device, so it is read as often as it is logged.
        step = trainer.fit_loop.total_batch_idx + 1
        every = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        if step % every == 0 and "train/loss" in trainer.callback_metrics:
            self._found["loss"] = f"{float(trainer.callback_metrics['train/loss']):.3f}"
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        return {**super().get_metrics(trainer, pl_module), **self._found}

    def _look(self, pl_module: pl.LightningModule) -> None:
        if self.is_enabled and isinstance(pl_module, SearchModule):
            config, supernet = pl_module.derive(), pl_module.supernet
            self._found["found"] = summarise(config)
            if costs := supernet.candidate_parameters():
                weights = supernet.space.one_hot(config)
                derived = sum(float((costs[name].numpy() * weights[name]).sum()) for name in costs)
                expected = short(float(pl_module.expected_parameters()))
                self._found["params"] = f"{short(derived)} (expected {expected})"


def summarise(config: SubnetConfig) -> str:
    """Operations of each choice and how often they are picked, abbreviated; of all choices together if they are many.

    Example:
        >>> summarise(SubnetConfig("toy", {"cell": ["nor_conv_3x3", "skip_connect", "nor_conv_3x3", "none"]}))
        'cell 2×nor3 1×skip'
    """
    groups = dict(config.picks)
    if len(groups) > 2:
        groups = {"all": tuple(pick for picks in groups.values() for pick in picks)}
    texts = []
    for name, picks in groups.items():
        counts = Counter(abbreviate(str(pick)) for pick in picks if pick != "none")
        texts.append(" ".join([name, *(f"{n}×{op}" for op, n in counts.most_common())] if counts else [name, "none"]))
    return ", ".join(texts)


def abbreviate(operation: str) -> str:
    """``sep_conv_3x3`` -> ``sep3``, ``skip_connect`` -> ``skip``; other names stay as they are."""
    return re.sub(r"_(?:conv|pool)_(\d+)x\1$|_connect$", r"\1", operation)
