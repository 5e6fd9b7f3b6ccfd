"""Lightning's table of the layers, without FLOPs that were not counted."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelSummary, RichModelSummary
from typing_extensions import override

from oneshot._lightning import summary_depth, summary_table

log = logging.getLogger("pytorch_lightning.callbacks.model_summary")  # whoever silences the one silences the other


class LayerSummary(ModelSummary):
    """The layers and parameters of :class:`~pytorch_lightning.callbacks.ModelSummary`, without its FLOPs.

    Lightning counts them while it runs ``example_input_array``. A module without one has 0 of them in its table. What
    an architecture multiplies is what :func:`~oneshot.cost.count` says.
    """

    @staticmethod
    @override
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        columns = [column for column in summary_data if column[0] != "FLOPs"]
        table = summary_table(
            total_parameters, trainable_parameters, model_size, total_training_modes, total_flops, *columns
        )
        log.info("\n" + "\n".join(line for line in table.splitlines() if not line.lower().endswith("total flops")))


def leave_out_flops(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Put a :class:`LayerSummary` in the place of Lightning's own, unless there is an input to count with."""
    if module.example_input_array is None:
        trainer.callbacks[:] = [  # type: ignore[attr-defined]  # Lightning
            LayerSummary(summary_depth(callback)) if type(callback) in (ModelSummary, RichModelSummary) else callback
            for callback in trainer.callbacks  # type: ignore[attr-defined]  # Lightning
        ]
