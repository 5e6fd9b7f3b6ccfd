"""Evaluation by the weights that architectures inherit from a supernet."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl

from oneshot.cost.counting.network import count
from oneshot.discrete.protocol import Evaluator, Proposal
from oneshot.evaluation.accuracy import inherited_error
from oneshot.evaluation.images import decode_images, fitted, in_parts
from oneshot.evaluation.recalibration import recalibrate
from oneshot.supernets.base import Subnet, Supernet
from oneshot.training.batches import check_batch


class SupernetEvaluator(Evaluator):
    """Validation accuracy with shared weights, after batch normalisation was calibrated for each architecture.

    Args:
        supernet: Trained shared weights, such as ``search.supernet`` of a weight-sharing search.
        data: Images to validate with, and training images to calibrate with.
        calibration: How many of these.
        batch_size: Images in a batch.

    Raises:
        ValueError: If there are no images to validate with.
    """

    def __init__(
        self, supernet: Supernet, data: pl.LightningDataModule, *, calibration: int = 1000, batch_size: int = 256
    ) -> None:
        data.prepare_data()
        data.setup("fit")
        self.supernet, self.space, self.data, self.batch_size = supernet, supernet.space, data, batch_size
        self.images, self.labels, self.calibration = decode_images(data, calibration, batch_size=batch_size)
        check_batch(supernet, self.images, self.labels, first=True)

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("accuracy", "error", "params", "macs")

    def __call__(self, proposal: Proposal) -> Mapping[str, float]:
        config = proposal.config
        images, calibration = (fitted(self.supernet, part, config) for part in (self.images, self.calibration))
        error = inherited_error(self.supernet, config, images, self.labels, calibration, batch_size=self.batch_size)
        network = self.supernet.extract(config)
        counts = count(network, network.input_shape)
        return {"accuracy": 1 - error, "error": error, "params": counts.params, "macs": counts.macs}

    def network(self, proposal: Proposal) -> Subnet:
        network = self.supernet.extract(proposal.config)
        recalibrate(network, in_parts(fitted(network, self.calibration), self.batch_size))
        return network.eval()
