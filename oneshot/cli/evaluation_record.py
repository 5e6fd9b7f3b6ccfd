"""What is kept of a test: every class, and the worst mistakes with small pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from oneshot.callbacks import MistakeRecorder
from oneshot.data.folder import files_of
from oneshot.evaluation.images import fitted
from oneshot.evaluation.mistakes import WorstMistakes, mistakes_as_json
from oneshot.inputs import length, split
from oneshot.supernets.base import Subnet

SCHEMA_VERSION = 1


def tested(
    callbacks: Iterable[Callback], by_class: Mapping[str, Any] | None, data: pl.LightningDataModule
) -> dict[str, Any]:
    """``evaluation.json`` of a test, without its metrics.

    Args:
        callbacks: Of the Trainer, a :class:`~oneshot.callbacks.MistakeRecorder` among them.
        by_class: Names of the classes and the confusion matrix; None where there are no classes.
        data: What was tested on.
    """
    recorder = next((found for found in callbacks if isinstance(found, MistakeRecorder)), MistakeRecorder())
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    part = several and torch.distributed.get_world_size() > 1
    return _record(recorder.found, "test", by_class, data, part=part)


def validated(
    network: Subnet, images: Any, labels: Tensor, data: pl.LightningDataModule, *, batch_size: int
) -> dict[str, Any]:
    """``evaluation.json`` of a network on validation samples that are in memory, without its metrics.

    Args:
        network: In evaluation mode.
        images: Inputs ``[N, ...]``.
        labels: Their targets ``[N, ...]``.
        data: What they are from.
        batch_size: Samples in a batch.
    """
    found, task = WorstMistakes(), network.task
    size, by_class = network.num_classes, None
    confusion = torch.zeros(size, size, dtype=torch.int64)
    device = next(network.parameters()).device
    with torch.no_grad():
        for x, y in zip(split(images, batch_size), torch.split(labels, batch_size), strict=True):
            assert length(x) == len(y)
            outputs, targets = task.for_metric(network(fitted(network, x)).float(), y.to(device))
            if task.has_classes:
                outputs = outputs.softmax(dim=1)
                if outputs.dim() == 2:
                    pairs = targets * size + outputs.argmax(dim=1)
                    confusion += torch.bincount(pairs, minlength=size * size).view(size, size).cpu()
            found.update(x, outputs.cpu(), targets.cpu(), classes=task.has_classes)
    if found.independent:
        names = getattr(data, "classes", None) or range(size)
        by_class = {"classes": [str(name) for name in names], "confusion": confusion.tolist()}
    return _record(found, "validation", by_class, data, part=False)


def _record(
    found: WorstMistakes, which: str, by_class: Mapping[str, Any] | None, data: pl.LightningDataModule, *, part: bool
) -> dict[str, Any]:
    inner = getattr(data, "data", data)
    samples = getattr(inner, "test_set" if which == "test" else "val_set", None)
    paths = None if part else files_of(samples)
    classes = None if by_class is None else list(by_class["classes"])
    return {
        "schema_version": SCHEMA_VERSION,
        "split": which,
        "samples": found.samples,
        "independent": found.independent,
        "part": part,
        **(by_class or {}),
        "mistakes": mistakes_as_json(
            found.worst(),
            classes=classes,
            mean=getattr(inner, "mean", None),
            std=getattr(inner, "std", None),
            files=None if paths is None else _short(paths),
        ),
    }


def _short(paths: list[Path]) -> list[str]:
    """Paths without the folders that they share."""
    folder = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return [os.path.relpath(path, folder) for path in paths]
