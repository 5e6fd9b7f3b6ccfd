"""Types of the options that data modules pass on to their base classes, so that editors complete and mypy checks them.

``**options: Unpack[VisionOptions]`` says by name and type what a constructor passes on (PEP 692). What an option does,
and its default, is in the class that has it in its signature. In a data set of your own::

    def __init__(self, root: str, **options: Unpack[VisionOptions]) -> None:
        super().__init__(("cat", "dog"), (3, 32, 32), **options)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from torch import nn

from oneshot._typing import Unpack as Unpack


class LabelledOptions(TypedDict, total=False):
    """Of :class:`~oneshot.data.base.LabelledData`."""

    batch_size: int
    num_workers: int
    seed: int | None
    val_fraction: float
    balanced: bool | None
    weigh_classes: bool | None


# Of images.


class PixelOptions(LabelledOptions, total=False):
    """Options of :class:`~oneshot.data.vision.VisionData` that are also for images with masks."""

    mean: Sequence[float] | None
    std: Sequence[float] | None
    device: str


class VisionOptions(PixelOptions, total=False):
    """Of :class:`~oneshot.data.vision.VisionData`."""

    crop_padding: int | None
    flip: bool | None
    cutout: int
    train_transforms: list[nn.Module] | None
    eval_transforms: list[nn.Module] | None


class SegmentationOptions(PixelOptions, total=False):
    """Of :class:`~oneshot.data.segmentation.SegmentationData`."""

    scale: tuple[float, float]
    flip: bool


# Of arrays.


class TargetOptions(LabelledOptions, total=False):
    """Options of :class:`~oneshot.data.arrays.ArrayData` that are for arrays and for files."""

    task: Any
    num_classes: int | None
    classes: Sequence[str] | None
    test_fraction: float
    split_seed: int
    predict: str | Path | Any


class ArrayOptions(TargetOptions, total=False):
    """Of :class:`~oneshot.data.arrays.ArrayData`."""

    x_test: Any
    y_test: Any


class SeriesFileOptions(TargetOptions, total=False):
    """Options of :class:`~oneshot.data.series.TimeSeries` for a file, which has its test series itself."""

    standardise: bool
    jitter: float
    scaling: float
    crop: float


class TableFileOptions(TargetOptions, total=False):
    """Options of :class:`~oneshot.data.tables.TableData` for a file, which has names and targets itself."""

    leave_out: Sequence[str]
    x_test: str | Path | Any
    missing: Literal["refuse", "fill"]
    delimiter: str
