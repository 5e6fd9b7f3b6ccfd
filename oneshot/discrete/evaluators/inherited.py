"""Evaluation by the weights that architectures inherit from a supernet."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl

from oneshot.cost.counting.network import count
from oneshot.discrete.protocol import Evaluator, Proposal
from oneshot.evaluation.images import decode_images
from oneshot.evaluation.inherited import InheritedEvaluation
from oneshot.supernets.base import Subnet, Supernet

from .latency import LATENCY, MeasuredLatency, latency_metric


class SupernetEvaluator(Evaluator):
    """The metric of the task with shared weights, after batch normalisation was calibrated for each architecture.

    Args:
        supernet: Trained shared weights, such as ``search.supernet`` of a weight-sharing search.
        data: Images to validate with, and training images to calibrate with.
        calibration: Number of training images to calibrate with.
        batch_size: Images in a batch.
        latency: Adds the metric ``latency``, in ms: a :class:`MeasuredLatency`, or the file of ``oneshot measure``.

    Raises:
        ValueError: If there are no images to validate with, or they cannot tell architectures apart, see
            :class:`~oneshot.evaluation.inherited.InheritedEvaluation`.
    """

    def __init__(
        self,
        supernet: Supernet,
        data: pl.LightningDataModule,
        *,
        calibration: int = 1000,
        batch_size: int = 256,
        latency: MeasuredLatency | str | None = None,
    ) -> None:
        self._latency = None if latency is None else latency_metric(latency, supernet)
        data.prepare_data()
        data.setup("fit")
        images = decode_images(data, calibration, batch_size=batch_size)
        self.inherited = InheritedEvaluation(supernet, *images, batch_size=batch_size)
        self.supernet, self.space, self.data = supernet, supernet.space, data

    @property
    def metrics(self) -> tuple[str, ...]:
        latency = () if self._latency is None else (LATENCY,)
        return (self.supernet.task.metric_name, "error", "params", "macs", *latency)

    def __call__(self, proposal: Proposal) -> Mapping[str, float]:
        error, task = self.inherited.error(proposal.config), self.supernet.task
        network = self.supernet.extract(proposal.config)
        counts = count(network, network.input_shape)
        measured = {task.metric_name: task.value_of(error), "error": error}
        latency = {} if self._latency is None else {LATENCY: self._latency(proposal, network)}
        return {**measured, "params": counts.params, "macs": counts.macs, **latency}

    def network(self, proposal: Proposal) -> Subnet:
        return self.inherited.network(proposal.config)
