"""How good architectures are by the weights they share: in this process, on every process of a fit, on a cluster."""

from __future__ import annotations

import copy
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import torch
import torch.distributed as dist
from torch import Tensor

from oneshot.evaluation.accuracy import inherited_error
from oneshot.evaluation.images import fitted
from oneshot.parallel.pools import RayPool
from oneshot.parallel.ray import check_room, connect
from oneshot.storage.files import Outbox
from oneshot.storage.journal import Journal
from oneshot.supernets.base import Supernet
from oneshot.supernets.elastic import ElasticSupernet
from oneshot.supernets.json_files import checked
from oneshot.supernets.space import SubnetConfig
from oneshot.training.batches import check_batch
from oneshot.training.tasks import IGNORED

Done = Callable[[SubnetConfig, float], None]  # told of every error as soon as it is known


class Evaluator(ABC):
    """Errors of architectures, between 0 and 1; NaN for an evaluation that failed."""

    @abstractmethod
    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        """Errors in the order of ``configs``."""

    def to(self, device: str) -> Evaluator:
        """The same elsewhere, where there is something to move: a copy."""
        return self

    def order(self, configs: Sequence[SubnetConfig]) -> list[int]:
        """The order in which architectures that are evaluated one by one take least time: their numbers."""
        return list(range(len(configs)))


class SupernetEvaluator(Evaluator):
    """Validation error with inherited weights, after batch normalisation was calibrated for each architecture.

    Images are held in memory as they come, decoded and normalised, and resized once for all architectures of one
    resolution, where the space has resolutions; other inputs stay as they are
    (:func:`~oneshot.evaluation.images.fitted`). Nothing of the supernet changes. A network whose output is not finite
    has failed.

    Args:
        supernet: Shared weights; on the device where it is when asked.
        images: Validation images ``[N, C, H, W]``, or other inputs ``[N, *input_shape]``.
        labels: ``[N]``, or ``[N, H, W]``.
        calibration: Training images, not augmented, ``[M, C, H, W]``; hundreds to thousands.
        batch_size: Images in a batch.

    Raises:
        ValueError: If there are no images, fewer labels than images, a single class among the labels, or fewer pixels
            than an elastic supernet's highest resolution asks for.
    """

    def __init__(
        self, supernet: Supernet, images: Tensor, labels: Tensor, calibration: Tensor, *, batch_size: int = 256
    ) -> None:
        if not len(images) or not len(calibration):
            raise ValueError(
                f"Architectures are compared on validation images after a calibration on training images; got "
                f"{len(images)} and {len(calibration)}. Hold some back: val_fraction=0.1."
            )
        if len(images) != len(labels):
            raise ValueError(f"Every validation image has a label; got {len(images)} images, {len(labels)} labels.")
        if isinstance(supernet, ElasticSupernet) and images.dim() == calibration.dim() == 4:
            supernet.check_images(min(*images.shape[2:], *calibration.shape[2:]))
        for part in (images, calibration):
            fitted(supernet, part[:1], supernet.space.sample(0))  # raises where their shape is another one
        check_batch(supernet, images, labels, first=True)
        seen = torch.unique(labels)
        if len(seen := seen[seen != IGNORED] if supernet.task == "segmentation" else seen) < 2:
            raise ValueError(
                f"Validation images of one class ({', '.join(map(str, seen.tolist())) or 'all ignored'}) tell no "
                "architectures apart. Hold back images of every class: val_fraction splits by class."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        self.supernet, self.images, self.labels, self.calibration = supernet, images, labels, calibration
        self.batch_size = batch_size
        self._sized: tuple[tuple[tuple[int, ...], torch.device, torch.dtype], Tensor, Tensor] | None = None

    def to(self, device: str) -> SupernetEvaluator:
        parts = (part.to(device) for part in (self.images, self.labels, self.calibration))
        return SupernetEvaluator(copy.deepcopy(self.supernet).to(device), *parts, batch_size=self.batch_size)

    def order(self, configs: Sequence[SubnetConfig]) -> list[int]:
        shapes = [self.supernet.shape_of(config) for config in configs]
        return sorted(range(len(configs)), key=lambda i: shapes.index(shapes[i]))

    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        errors = [math.nan] * len(configs)
        for config in configs:
            self.supernet.space.validate(config)
        for i in self.order(configs):
            images, calibration = self._fitted(configs[i])
            errors[i] = inherited_error(
                self.supernet, configs[i], images, self.labels, calibration, batch_size=self.batch_size
            )
            if done is not None:
                done(configs[i], errors[i])
        return errors

    def _fitted(self, config: SubnetConfig) -> tuple[Tensor, Tensor]:
        """Both kinds of images as an architecture reads them; those of the last resolution are kept."""
        like = next(self.supernet.parameters())
        key = self.supernet.shape_of(config), like.device, like.dtype
        if self._sized is None or self._sized[0] != key:
            self._sized = None  # before there is another
            images, calibration = (fitted(self.supernet, part, config) for part in (self.images, self.calibration))
            self._sized = key, images, calibration
        return self._sized[1:]


class SharedEvaluator(Evaluator):
    """Every process of a distributed fit evaluates its part of the architectures; all get all errors.

    Args:
        local: What each process evaluates with: the same weights and images everywhere.
    """

    def __init__(self, local: Evaluator) -> None:
        self.local = local

    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self.local.evaluate(configs, done)
        rank, size = dist.get_rank(), dist.get_world_size()
        mine = self.local.evaluate(configs[rank::size], done)
        parts: list[list[float]] = [[] for _ in range(size)]
        dist.all_gather_object(parts, mine)
        return [parts[i % size][i // size] for i in range(len(configs))]


ADVICE = "Restore the file, or delete it: its architectures are evaluated again."


class _Row(TypedDict):
    """Line of a journal."""

    weights: int
    config: str
    error: float | None


class JournalledEvaluator(Evaluator):
    """Writes every error down as soon as it is known, and never evaluates again what is written for these weights.

    Args:
        inner: Evaluates what is not in the journal.
        folder: Where the journal is; in a distributed fit every process has a file of its own there.
        weights: Of the supernet now, and of what it is evaluated on, such as :func:`fingerprint`; errors of others are
            not read.
    """

    def __init__(self, inner: Evaluator, folder: str | Path, weights: int) -> None:
        self.inner, self.weights = inner, weights
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        self.path = Path(folder) / f"evaluations.{rank}.jsonl"
        self._known: dict[str, float] = {}
        for path in sorted(Path(folder).glob("evaluations.*.jsonl")):
            self._known |= dict(self._read(_journal(path)))
        self._journal = _journal(self.path, Outbox())

    def _read(self, journal: Journal) -> Iterable[tuple[str, float]]:
        for number, line in enumerate(journal.rows, start=1):
            row = checked(line, _Row, journal.place(number), advice=ADVICE)
            if row["weights"] == self.weights:
                yield row["config"], math.nan if row["error"] is None else row["error"]

    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        names = [config.to_json() for config in configs]
        new = [i for i, name in enumerate(names) if name not in self._known]
        for config, name in zip(configs, names, strict=True):
            if done is not None and name in self._known:
                done(config, self._known[name])
        found = self.inner.evaluate([configs[i] for i in new], self._keep(done)) if new else []
        self._known |= {names[i]: error for i, error in zip(new, found, strict=True)}
        return [self._known[name] for name in names]

    def _keep(self, done: Done | None) -> Done:
        def keep(config: SubnetConfig, error: float) -> None:
            written = None if math.isnan(error) else error
            self._journal.append({"weights": self.weights, "config": config.to_json(), "error": written})
            if done is not None:
                done(config, error)

        return keep


def _journal(path: Path, outbox: Outbox | None = None) -> Journal:
    return Journal(path, advice=ADVICE, beginning=b'{"weights": ', outbox=outbox)


def fingerprint(module: torch.nn.Module, start: int = 0) -> int:
    """A number that differs where any parameter does; statistics are calibrated anew anyway.

    Args:
        module: The module.
        start: Of what else it stands for, such as a :func:`checksum` of images.
    """
    return checksum(module.named_parameters(), start)


def checksum(tensors: Iterable[tuple[str, Tensor]], start: int = 0) -> int:
    """A number that differs where any of some named tensors does."""
    for name, tensor in tensors:
        start = zlib.crc32(name.encode(), start)
        start = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data, start)
    return start


class RayEvaluator(Evaluator):
    """Evaluates on the workers of a Ray cluster, one architecture at a time on each.

    The evaluator is sent to every worker once per call, with the weights it has then, and runs on the worker's GPU if
    it has one. Architectures of one resolution are sent together. The one of a worker that dies is evaluated again on
    another. Where the cluster has no room for all workers, those that have begun do the work.

    Args:
        local: What each worker evaluates with.
        address: Of the cluster, see ``ray.init``; ``"local"`` starts one on this machine, ``"auto"`` takes what runs.
        workers: Processes.
        cpus: Cores of each.
        gpus: GPUs of each.
        retries: How often the architecture of a lost worker is tried again.

    Raises:
        MissingExtraError: If Ray is not installed.
        ConnectionError: If the cluster is not there.
        ValueError: If there is no worker, or no machine of the cluster has what a worker needs.
    """

    def __init__(
        self,
        local: Evaluator,
        *,
        address: str | None = "local",
        workers: int = 2,
        cpus: float = 1.0,
        gpus: float = 0.0,
        retries: int = 3,
    ) -> None:
        if workers < 1 or retries < 0:
            raise ValueError(f"workers is at least 1 and retries at least 0; got {workers} and {retries}.")
        self.local, self.address, self.workers, self.retries = local, address, workers, retries
        self.cpus, self.gpus = cpus, gpus
        check_room(connect(address, workers * cpus, "Evaluating on a cluster"), cpus, gpus)

    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        errors, waiting, tries = [math.nan] * len(configs), self.local.order(configs)[::-1], [0] * len(configs)
        pool: RayPool[SubnetConfig, float] = RayPool(
            self.local.to("cpu"),
            min(self.workers, len(configs)),
            address=self.address,
            cpus=self.cpus,
            gpus=self.gpus,
            prepare=_on_worker,
        )
        running = 0
        try:
            while waiting or running:
                while waiting and running < pool.size:
                    i, running = waiting.pop(), running + 1
                    pool.submit(i, configs[i])
                for outcome in pool.wait():
                    i, running = outcome.ticket, running - 1
                    tries[i] += 1
                    if outcome.lost is not None and tries[i] <= self.retries:
                        waiting.append(i)
                        continue
                    errors[i] = math.nan if outcome.value is None else outcome.value
                    if done is not None:
                        done(configs[i], errors[i])
        finally:
            pool.close()
        return errors


def _on_worker(evaluator: Evaluator) -> Callable[[SubnetConfig], float]:
    """The error of one architecture, on the GPU of a worker if it has one."""
    import ray

    torch.set_num_threads(1)
    there = evaluator.to("cuda" if ray.get_gpu_ids() else "cpu")
    return lambda config: there.evaluate([config])[0]
