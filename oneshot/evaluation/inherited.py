"""Evaluation of many architectures by the weights they inherit from a supernet, on images held in memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from oneshot.errors import HeadError
from oneshot.inputs import Inputs, length, mapped
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.space import SubnetConfig
from oneshot.training.batches import check_batch

from .accuracy import inherited_error, score
from .images import fitted
from .recalibration import calibrate


class InheritedEvaluation:
    """Validation error with inherited weights, after batch normalisation was calibrated for each architecture.

    Images are held in memory as they come, decoded and normalised, and resized once for all architectures of one
    resolution, where the space has resolutions; other inputs stay as they are
    (:func:`~oneshot.evaluation.images.fitted`). Nothing of the supernet changes. Where every architecture has a head of
    its own (``supernet.own_head``), that is fitted to the same training inputs.

    Args:
        supernet: Shared weights; on the device where it is when asked.
        images: Validation inputs ``[N, *input_shape]``, or several by name.
        labels: Targets ``[N, ...]``.
        calibration: Training inputs, not augmented, ``[M, *input_shape]``; hundreds to thousands.
        calibration_labels: Their targets, ``[M, ...]``; needed for heads only.
        batch_size: Images in a batch.

    Raises:
        ValueError: If there are no images, labels do not fit them or are of a single class, or images have fewer pixels
            than the highest resolution of the space asks for.
    """

    def __init__(
        self,
        supernet: Supernet,
        images: Inputs,
        labels: Tensor,
        calibration: Inputs,
        calibration_labels: Tensor | None = None,
        *,
        batch_size: int = 256,
    ) -> None:
        if not length(images) or not length(calibration):
            raise ValueError(
                "Architectures must be compared on validation images after a calibration on training images; got "
                f"{length(images)} and {length(calibration)}. Hold some back: val_fraction=0.1."
            )
        if isinstance(images, Tensor) and isinstance(calibration, Tensor) and images.dim() == calibration.dim() == 4:
            supernet.check_images(min(*images.shape[2:], *calibration.shape[2:]))
        for part in (images, calibration):
            one = mapped(lambda tensor: tensor[:1], part)
            fitted(supernet, one, supernet.space.sample(0))  # raises where their shape is another one
        check_batch(supernet, images, labels, first=True)
        seen = supernet.task.distinct(labels)
        if len(seen) < 2:
            what = "class" if supernet.task.has_classes else "target"
            raise ValueError(
                f"Validation images must be of several {what}{'es' if what == 'class' else 's'}; those of one {what} ("
                f"{', '.join(map(str, seen.tolist())) or 'all ignored'}) tell no architectures apart. Hold back images "
                "of every class: val_fraction splits by class."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        if supernet.own_head and calibration_labels is None:
            raise ValueError("Heads must be fitted to labels; got none of the calibration images. Pass them, too.")
        self.supernet, self.images, self.labels, self.calibration = supernet, images, labels, calibration
        self.calibration_labels = labels[:0] if calibration_labels is None else calibration_labels
        self.batch_size = batch_size
        self._sized: tuple[Any, Inputs, Inputs] | None = None

    def to(self, device: str) -> InheritedEvaluation:
        """A copy on another device."""
        moved = self.with_data(tuple(mapped(lambda tensor: tensor.to(device), part) for part in self._data()))
        moved.supernet = copy.deepcopy(self.supernet).to(device)
        return moved

    def without_data(self) -> tuple[InheritedEvaluation, tuple[Inputs, ...]]:
        """The same without images and labels, which are given beside it."""
        return self.with_data(({}, torch.empty(0), {}, torch.empty(0))), self._data()

    def with_data(self, data: tuple[Inputs, ...]) -> InheritedEvaluation:
        """The evaluation that :meth:`without_data` took apart."""
        other = copy.copy(self)
        other.images, other.labels, other.calibration, other.calibration_labels = data  # type: ignore[assignment]
        other._sized = None
        return other

    def _data(self) -> tuple[Inputs, ...]:
        return self.images, self.labels, self.calibration, self.calibration_labels

    def order(self, configs: Sequence[SubnetConfig]) -> list[int]:
        """Numbers of architectures, those of one resolution together: images are resized once for each."""
        shapes = [self.supernet.shape_of(config) for config in configs]
        return sorted(range(len(configs)), key=lambda i: shapes.index(shapes[i]))

    def error(self, config: SubnetConfig) -> float:
        """Error of an architecture, see :meth:`~oneshot.tasks.Task.error`.

        NaN where its output is not finite, or no head can be fitted to its features.

        Raises:
            ValueError: If it is not of the space of the supernet.
        """
        self.supernet.space.validate(config)
        images, calibration = self._fitted(config)
        if self.supernet.own_head:
            try:
                network = self.network(config)
            except HeadError:
                return math.nan
            return self.supernet.task.error(score(network, images, self.labels, self.batch_size))
        return inherited_error(self.supernet, config, images, self.labels, calibration, batch_size=self.batch_size)

    def network(self, config: SubnetConfig) -> Subnet:
        """The architecture as a network of its own, with the weights, statistics and head it was evaluated with."""
        network = self.supernet.extract(config)
        calibrate(network, self._fitted(config)[1], self.calibration_labels, batch_size=self.batch_size)
        return network.eval()

    def _fitted(self, config: SubnetConfig) -> tuple[Inputs, Inputs]:
        """Both kinds of images as an architecture reads them; those of the last resolution are kept."""
        like = next(self.supernet.parameters())
        key = self.supernet.shape_of(config), like.device, like.dtype
        if self._sized is None or self._sized[0] != key:
            self._sized = None  # frees the memory before it is needed again
            images, calibration = (fitted(self.supernet, part, config) for part in (self.images, self.calibration))
            self._sized = key, images, calibration
        return self._sized[1:]
