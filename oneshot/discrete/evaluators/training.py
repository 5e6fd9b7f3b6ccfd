"""Evaluation by training: every proposal becomes a network of its own, from scratch or from its parent's weights."""

from __future__ import annotations

import json
import logging
import random
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.utils.data import DistributedSampler

from oneshot.cost.counting.network import count
from oneshot.discrete.graphs.approximate import distil
from oneshot.discrete.graphs.encoding import GraphBuilder, GraphSpace
from oneshot.discrete.graphs.graph import GRAPHS
from oneshot.discrete.graphs.morphism import APPROXIMATE_OPERATORS, MorphismRecord, replay
from oneshot.discrete.graphs.network import GraphNetwork
from oneshot.discrete.protocol import Evaluator, Proposal
from oneshot.evaluation.images import calibration_images
from oneshot.random_numbers import own_random_numbers
from oneshot.storage.files import write_atomically
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.space import SubnetConfig
from oneshot.tasks.task import Task, task_of
from oneshot.training.batches import check_batch, check_labels, pair_of
from oneshot.training.retrain import Retrain

from .latency import LATENCY, MeasuredLatency, latency_metric

Build = Callable[[SubnetConfig], Subnet]  # a network with new weights
Cost = Callable[[nn.Module], float]


class TrainingEvaluator(Evaluator):
    """Trains the network of a proposal and measures it on validation images.

    A proposal with a parent begins with the parent's weights: by its trace of morphisms, as the same network if it is
    the same architecture, else with all weights of equal name and shape (Large-scale evolution, arXiv:1703.01041). The
    learning rate falls from ``lr`` to ``lr_min`` by a cosine over the epochs of this training.

    The same proposal gives the same weights on the same machine: all random numbers follow from ``seed`` and the
    proposal, and those of the process stay as they were. Children of one parent see the same batches, so that they
    compare; they are others than those their parent saw.

    Args:
        data: Images to train with, and to validate with.
        folder: Folder for weights, one file for each proposal.
        build: The network of an architecture, with new weights: a supernet, a space of graphs (such as
            :class:`~oneshot.discrete.GeneticCNNSpace`), any function, or None for proposals that are graphs.
        epochs: Full fidelity.
        lr: Learning rate of SGD at the beginning.
        lr_min: Learning rate at the end.
        weight_decay: Weight decay of all weights.
        optimizer: See :class:`~oneshot.training.retrain.Retrain`.
        task: What the outputs of networks are for; by default that of the data, or of the supernet.
        distil: Epochs in which a child of an approximate morphism learns its parent's logits first. They come on top of
            those of its training: its fidelity does not count them.
        distil_images: Training images in such an epoch, if there are as many; they are in memory at once.
        calibration: Training images for morphisms; how exact they are says ``oneshot.discrete.graphs.morphism``.
        costs: Further metrics, ``{name: function of the network}``; pickled.
        latency: Adds the metric ``latency``, in ms: a :class:`MeasuredLatency`, or the file of ``oneshot measure`` for
            the networks of the supernet ``build``.
        trainer: Arguments of Lightning's ``Trainer``, such as devices.
        seed: Seed of all random choices.

    Raises:
        ValueError: If a number is below its least, there are no images to validate with, their labels are no numbers
            of classes, data do not say for which shape and classes to build, or a file of latencies is of other
            networks.
    """

    def __init__(
        self,
        data: pl.LightningDataModule,
        folder: str | Path,
        *,
        build: Supernet | GraphSpace | Build | None = None,
        epochs: int = 20,
        lr: float = 0.05,
        lr_min: float = 0.0,
        weight_decay: float = 5e-4,
        optimizer: str = "sgd",
        task: Task | str | None = None,
        distil: int = 1,
        distil_images: int = 10_000,
        calibration: int = 256,
        costs: Mapping[str, Cost] | None = None,
        latency: MeasuredLatency | str | None = None,
        trainer: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if epochs < 1 or distil < 0 or calibration < 1 or distil_images < 2:
            raise ValueError(
                "epochs and calibration must be at least 1, distil at least 0, distil_images at least 2; got "
                f"epochs={epochs}, calibration={calibration}, distil={distil}, distil_images={distil_images}."
            )
        data.prepare_data()
        data.setup("fit")
        if not data.val_dataloader():
            raise ValueError(
                "There must be validation images to compare networks on; there are none. Use val_fraction=0.1."
            )
        if isinstance(build, Supernet) and task is not None:
            build.task = task_of(task)
        self.task = self._check_labels(data, build, task)
        self.data, self.folder, self.epochs = data, Path(folder).absolute(), epochs
        if isinstance(build, GraphSpace):
            shape, classes = getattr(data, "input_shape", None), getattr(data, "num_classes", None)
            if shape is None or classes is None:
                raise ValueError(
                    "Data must have input_shape and num_classes, by which networks of a space are built; "
                    f"{type(data).__name__} lacks one. Give build=space.network(input_shape, num_classes)."
                )
            build = build.network(shape, classes)
        self.space = build.space if isinstance(build, Supernet | GraphBuilder) else GRAPHS if build is None else None
        self._build = build
        self.options = {"lr": lr, "lr_min": lr_min, "weight_decay": weight_decay, "optimizer": optimizer}
        self.distil, self.distil_images, self.calibration = distil, distil_images, calibration
        self.costs = dict(costs or {})
        if latency is not None and LATENCY in self.costs:
            raise ValueError("latency must be given once; it is among the costs, too. Leave one of them out.")
        supernet = build if isinstance(build, Supernet) else None
        self._latency = None if latency is None else latency_metric(latency, supernet)
        self.trainer, self.seed = dict(trainer or {}), seed

    @staticmethod
    def _check_labels(data: pl.LightningDataModule, build: object, task: Task | str | None) -> Task:
        """Check a validation batch now, otherwise every architecture would fail at it; return the task."""
        loader = data.val_dataloader()
        with own_random_numbers():
            x, y = pair_of(next(iter(loader[0] if isinstance(loader, list | tuple) else loader)))
        if isinstance(build, Supernet):
            check_batch(build, x, y, first=True)
            return build.task
        pixels = isinstance(y, torch.Tensor) and y.dim() == 3
        found = task_of(task or getattr(data, "task", None) or ("segmentation" if pixels else "classification"))
        if isinstance(y, torch.Tensor):
            check_labels(y, getattr(data, "num_classes", None) or 2**31, found)
        return found

    @property
    def metrics(self) -> tuple[str, ...]:
        latency = () if self._latency is None else (LATENCY,)
        return (self.task.metric_name, "error", "params", "macs", *latency, *self.costs)

    def build(self, config: SubnetConfig) -> Subnet:
        """The network of an architecture, with new weights."""
        if isinstance(self._build, Supernet):
            return self._build.extract(config, inherit=False)
        if self._build is not None:
            return self._build(config)
        data: Any = self.data
        return GraphNetwork.from_config(config, data.input_shape, data.num_classes)

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        epochs = (self.epochs if proposal.fidelity is None else round(proposal.fidelity)) - round(proposal.trained)
        if epochs < 1:
            raise ValueError(
                f"a training must have at least one epoch; fidelity {proposal.fidelity or self.epochs} after "
                f"{proposal.trained} leaves {epochs}"
            )
        with own_random_numbers(), _quiet():
            _seed_everything(self._seed(proposal))
            network = self.beginning(proposal)
            module = Retrain(network, task=self.task, **self.options)  # type: ignore[arg-type]
            options: dict[str, Any] = {
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "check_val_every_n_epoch": epochs,
                "num_sanity_val_steps": 0,
                **self.trainer,
            }
            trainer = pl.Trainer(max_epochs=epochs, **options)
            if proposal.parent is not None:
                trainer.callbacks.append(_OtherBatches(self._hash(proposal.parent)))  # type: ignore[attr-defined]  # Lightning
            trainer.fit(module, datamodule=self.data)
            value = float(trainer.callback_metrics[f"val/{network.task.metric_name}"])
            network = module.network_for_export().cpu()
        self._save(proposal, network)
        counts = count(network, network.input_shape)
        measured = {self.task.metric_name: value, "error": self.task.error(value)}
        found = {**measured, "params": counts.params, "macs": counts.macs}
        if self._latency is not None:
            found[LATENCY] = self._latency(proposal, network)
        return {**found, **{name: float(cost(network)) for name, cost in self.costs.items()}}

    def beginning(self, proposal: Proposal) -> Subnet:
        """The network with which the training of a proposal begins.

        Raises:
            ValueError: If the weights of its parent are not there, or its trace makes another network.
        """
        if proposal.parent is None:
            return self.build(proposal.config)
        parent = self.load(proposal.parent)
        if proposal.trace:
            records = [MorphismRecord.from_dict(step) for step in proposal.trace]
            images = calibration_images(self.data, self.calibration)
            child = replay(parent, records, images)  # type: ignore[arg-type]  # traces are of graphs
            if child.config != proposal.config:
                raise ValueError(f"the trace of proposal {proposal.number} makes another network than it proposes")
            if self.distil and any(record.operator in APPROXIMATE_OPERATORS for record in records):
                images = calibration_images(self.data, self.distil_images)
                distil(child, parent, images, epochs=self.distil, rng=self._seed(proposal))
            return child
        network = self.build(proposal.config)
        state = network.state_dict()
        fitting = {k: v for k, v in parent.state_dict().items() if k in state and v.shape == state[k].shape}
        network.load_state_dict(fitting, strict=False)
        return network

    def network(self, proposal: Proposal) -> Subnet:
        return self.load(proposal.number)

    def load(self, number: int) -> Subnet:
        """The trained network of a proposal.

        Raises:
            ValueError: If its weights are not there, or damaged.
        """
        path = self._path(number)
        if not path.is_file():
            raise ValueError(f"the weights of proposal {number} are not in {path.parent}")
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if facts.get("crc32", (now := _crc32(state))) != now:  # older files have none
                raise ValueError("they do not have their checksum")
            network = self.build(SubnetConfig.from_json(facts.get("config", "")))
            network.load_state_dict(state)
        except (ValueError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} must hold the weights of proposal {number} and is damaged: {reason}") from error
        return network.eval()

    def _save(self, proposal: Proposal, network: Subnet) -> None:
        state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        content = save(state, metadata={"config": proposal.config.to_json(), "crc32": _crc32(state)})
        write_atomically(self._path(proposal.number), content)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.safetensors"

    def _seed(self, proposal: Proposal) -> int:
        return self._hash(proposal.to_dict())

    def _hash(self, what: object) -> int:
        return zlib.crc32(json.dumps([self.seed, what]).encode())


def _crc32(state: Mapping[str, torch.Tensor]) -> str:
    crc = 0
    for name in sorted(state):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(state[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data, crc)
    return str(crc)


class _OtherBatches(pl.Callback):
    """Another order and augmentation of the training images, where these follow from a seed and the epoch.

    Every training begins with epoch 0. Without this, all generations of a family would see the same few epochs.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            sampler.seed = self.seed


def _seed_everything(seed: int) -> None:
    """As Lightning does, but without its environment variable, from which data made later would take its seed."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Lightning says about each of hundreds of trainings."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        logger.setLevel(level)
