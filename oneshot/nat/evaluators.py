"""How good architectures are by the weights they share: in this process, on every process of a fit, on a cluster."""

from __future__ import annotations

import copy
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
import torch.distributed as dist
from torch import Tensor

from oneshot.evaluation.inherited import InheritedEvaluation
from oneshot.inputs import Inputs, mapped
from oneshot.parallel.pools import RayPool
from oneshot.parallel.ray import check_room, connect
from oneshot.storage.files import Outbox
from oneshot.storage.journal import Journal
from oneshot.supernets.base import Supernet
from oneshot.supernets.json_files import checked
from oneshot.supernets.space import SubnetConfig

Done = Callable[[SubnetConfig, float], None]  # told of every error as soon as it is known


class Evaluator(ABC):
    """Errors of architectures, of which less is better; NaN for an evaluation that failed.

    They are those of the metric of the task (:meth:`~oneshot.tasks.Task.error`): 1 minus the accuracy, for example.
    """

    @abstractmethod
    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        """Errors in the order of ``configs``."""

    def to(self, device: str) -> Evaluator:
        """The same elsewhere, where there is something to move: a copy."""
        return self

    def order(self, configs: Sequence[SubnetConfig]) -> list[int]:
        """The order in which architectures that are evaluated one by one take least time: their numbers."""
        return list(range(len(configs)))

    def without_data(self) -> tuple[Evaluator, tuple[Inputs, ...]]:
        """The same without what stays from call to call, such as images, and that: a cluster gets it once."""
        return self, ()

    def with_data(self, data: tuple[Inputs, ...]) -> Evaluator:
        """The evaluator that :meth:`without_data` took apart."""
        return self


class SupernetEvaluator(Evaluator):
    """Validation errors with inherited weights, those of one resolution one after the other.

    Args:
        supernet: See :class:`~oneshot.evaluation.inherited.InheritedEvaluation`, which evaluates.
        images: Likewise.
        labels: Likewise.
        calibration: Likewise.
        calibration_labels: Likewise.
        batch_size: Likewise.
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
        self.inherited = InheritedEvaluation(
            supernet, images, labels, calibration, calibration_labels, batch_size=batch_size
        )

    def to(self, device: str) -> SupernetEvaluator:
        return self._of(self.inherited.to(device))

    def order(self, configs: Sequence[SubnetConfig]) -> list[int]:
        return self.inherited.order(configs)

    def without_data(self) -> tuple[SupernetEvaluator, tuple[Inputs, ...]]:
        inherited, data = self.inherited.without_data()
        return self._of(inherited), data

    def with_data(self, data: tuple[Inputs, ...]) -> SupernetEvaluator:
        return self._of(self.inherited.with_data(data))

    def _of(self, inherited: InheritedEvaluation) -> SupernetEvaluator:
        other = copy.copy(self)
        other.inherited = inherited
        return other

    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        errors = [math.nan] * len(configs)
        for i in self.order(configs):
            errors[i] = self.inherited.error(configs[i])
            if done is not None:
                done(configs[i], errors[i])
        return errors


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
    it has one; its images are stored in the cluster once and stay there from call to call. Architectures of one
    resolution are sent together. The one of a worker that dies is evaluated again on another. Where the cluster has no
    room for all workers, those that have begun do the work.

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
        self._stored: tuple[object, tuple[Inputs, ...], object] | None = None  # job, data, reference
        check_room(connect(address, workers * cpus, "Evaluating on a cluster"), cpus, gpus)

    def evaluate(self, configs: Sequence[SubnetConfig], done: Done | None = None) -> list[float]:
        errors, waiting, tries = [math.nan] * len(configs), self.local.order(configs)[::-1], [0] * len(configs)
        pool: RayPool[SubnetConfig, float] = RayPool(
            (self.local.without_data()[0].to("cpu"), self._data()),
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

    def _data(self) -> object:
        """Reference of the data of the evaluator, which are stored in the cluster where they are not yet."""
        ray, data = (
            connect(self.address, self.workers * self.cpus, "Evaluating on a cluster"),
            self.local.without_data()[1],
        )
        job = ray.get_runtime_context().get_job_id()  # a cluster that was left has forgotten everything
        if self._stored is None or self._stored[0] != job or not _same(self._stored[1], data):
            here = tuple(mapped(lambda tensor: tensor.to("cpu"), part) for part in data)
            self._stored = job, data, ray.put(here)
        return self._stored[2]


def _same(one: tuple[Inputs, ...], other: tuple[Inputs, ...]) -> bool:
    """Whether two data are the same objects."""
    return len(one) == len(other) and all(a is b for a, b in zip(one, other))


def _on_worker(sent: tuple[Evaluator, Any]) -> Callable[[SubnetConfig], float]:
    """The error of one architecture, on the GPU of a worker if it has one."""
    import ray

    torch.set_num_threads(1)
    evaluator, data = sent
    there = evaluator.with_data(ray.get(data)).to("cuda" if ray.get_gpu_ids() else "cpu")
    return lambda config: there.evaluate([config])[0]
