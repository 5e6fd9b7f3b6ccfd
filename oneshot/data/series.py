"""Time series and other signals of one dimension: sensors, spectra, sound."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .arrays import ArrayData, Inputs
from .options import ArrayOptions, SeriesFileOptions, Unpack
from .preprocessing import of_series


@dataclass(frozen=True)
class SeriesAugmentation:
    """Random changes of standardised series, as whole batches.

    Um et al., 2017, arXiv:1706.00527, call the first two jittering and scaling; window slicing is of Le Guennec et al.,
    2016, "Data augmentation for time series classification using convolutional neural networks".

    Args:
        jitter: Standard deviation of the normal noise that is added to every value.
        scaling: Standard deviation, around 1, of the factor that each channel of a series is multiplied by.
        crop: Share of the length that is kept, at a random place, and stretched linearly to the whole length; 1 is off.

    Raises:
        ValueError: If a number is out of its range.
    """

    jitter: float = 0.0
    scaling: float = 0.0
    crop: float = 1.0

    def __post_init__(self) -> None:
        if self.jitter < 0 or self.scaling < 0 or not 0 < self.crop <= 1:
            raise ValueError(
                "jitter and scaling must not be negative, and crop must be in (0, 1]; got "
                f"jitter={self.jitter}, scaling={self.scaling}, crop={self.crop}."
            )

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """``[B, C, T]`` of the same shape."""
        # Every number is drawn whether used or not: turning one part off leaves the others as they were.
        place = torch.rand(len(x), generator=generator)
        factor = torch.randn(*x.shape[:2], 1, generator=generator)
        noise = torch.randn(x.shape, generator=generator)
        if self.crop < 1:
            x = slices(x, place, self.crop)
        return x * (1 + self.scaling * factor) + self.jitter * noise


def slices(x: Tensor, place: Tensor, share: float) -> Tensor:
    """Takes a part of every series and stretches it linearly to the whole length.

    Args:
        x: ``[B, C, T]``.
        place: Where the part begins, from 0 (at the first value) to 1 (as late as it can), ``[B]``.
        share: Length of the part, as a share of the length of the series.

    Returns:
        ``[B, C, T]``; value t is the series at ``place * (1 - share) * (T - 1) + t * share``, linearly interpolated.
    """
    length = x.shape[2]
    at = place[:, None] * (1 - share) * (length - 1) + torch.arange(length, dtype=place.dtype) * share
    low = at.floor().long().clamp(0, length - 1)
    high = (low + 1).clamp(max=length - 1)
    part = (at - low).to(x.dtype)[:, None]

    def values(index: Tensor) -> Tensor:
        return x.gather(2, index[:, None].expand_as(x))

    return values(low) * (1 - part) + values(high) * part


class TimeSeries(ArrayData):
    """Series of one or several channels, all of one length: ``TimeSeries("gunpoint.npz")`` or ``TimeSeries(x, y)``.

    Every channel is standardised with the mean and deviation of the training series. A file of numpy has the arrays
    ``x``, ``[N, C, T]`` or ``[N, T]``, and ``y``, ``[N]``: numbers or names of classes, or numbers to predict. It may
    have ``x_test`` and ``y_test``; otherwise a share of the series is the test set. Values that are missing (NaN) are
    refused.

    Args:
        x: The file, or an array.
        y: See `ArrayData`.
        standardise: Whether channels are standardised; with series that were normalised before it changes little.
        jitter: See `SeriesAugmentation`; 0 is off.
        scaling: Likewise; 0 is off.
        crop: Likewise; 1 is off.
        **options: See `ArrayData`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If series differ in shape, have missing values, or a channel has one value only.

    Example:
        >>> import torch
        >>> data = TimeSeries(torch.randn(50, 96), ["walk", "run"] * 25)
        >>> data.input_shape, data.classes
        ((1, 96), ('run', 'walk'))
    """

    def __init__(
        self,
        x: str | Path | Any,
        y: Any = None,
        *,
        standardise: bool = True,
        jitter: float = 0.0,
        scaling: float = 0.0,
        crop: float = 1.0,
        **options: Unpack[ArrayOptions],
    ) -> None:
        changes = SeriesAugmentation(jitter, scaling, crop)
        self._augmentation = None if changes == SeriesAugmentation() else changes
        self.standardise = standardise
        super().__init__(x, y, **options)

    @classmethod
    def from_npz(cls, path: str | Path, **options: Unpack[SeriesFileOptions]) -> TimeSeries:
        """The series of a file of numpy."""
        return cls(path, **options)

    def read(self, x: Any, name: str) -> Inputs:
        """float32 ``[N, C, T]`` of ``[N, C, T]`` or ``[N, T]``."""
        series = super().read(x, name)
        if not isinstance(series, Tensor) or series.dim() not in (2, 3):
            got = "several inputs" if isinstance(series, dict) else list(series.shape)
            raise ValueError(f"Series must be [N, C, T], or [N, T] with one channel; {name} is {got}.")
        series = series.float()
        return series[:, None] if series.dim() == 2 else series

    @property
    def augmentation(self) -> SeriesAugmentation | None:
        """How training series are changed at random."""
        return self._augmentation

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of every channel of the training series, ``[C, 1]``."""
        if not self.standardise:
            return None
        series = self.train_set.inputs
        assert isinstance(series, Tensor)
        std, mean = torch.std_mean(series.double(), dim=(0, 2), correction=0)
        if flat := (std == 0).nonzero().flatten().tolist():
            raise ValueError(
                f"Standardisation needs values that differ; channel {flat[0]} is {mean[flat[0]].item():g} in all "
                "training series. Leave it out, or use standardise=False."
            )
        return mean.float()[:, None], std.float()[:, None]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What is done to a series before a network sees it, for manifests."""
        return of_series(self.input_shape, self.mean, self.std)
