"""The fronts that ``oneshot pick`` chooses from: those of ``oneshot pareto`` and of ``oneshot discrete``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl

from oneshot.cost.record import Prediction
from oneshot.discrete.events import LOG
from oneshot.discrete.study import Study
from oneshot.evaluation.accuracy import score
from oneshot.evaluation.images import EvaluationData, decode_images, fitted
from oneshot.evaluation.recalibration import calibrate
from oneshot.fronts.pick import front_rows
from oneshot.nat.nat import NAT
from oneshot.nat.objectives import ERROR
from oneshot.report.fronts import draw_front
from oneshot.report.tables import network_table
from oneshot.supernets.base import Subnet
from oneshot.supernets.space import Floats, SubnetConfig

from .discrete import read_study
from .discrete import rows as study_rows
from .evaluation_record import validated
from .run import RunFolder, is_run
from .terminal import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Wish:
    """Which network of a front is wanted.

    Args:
        bounds: Largest values of some objectives.
        point: Values to be near to.
        knee: Whether it is the knee.
    """

    bounds: Mapping[str, float]
    point: Mapping[str, float]
    knee: bool


class Front(ABC):
    """Networks to choose from, and what their search knows of them.

    Attributes:
        names: Names of the objectives, M.
        values: Values of the networks, all to be minimised, ``[N, M]``.
        point: The point of the wish, in the same values.
        data: Images of the search, set up for a fit; None where there are none.
        seed: Seed of all random choices.
    """

    names: Sequence[str]
    values: Floats
    point: Mapping[str, float]
    data: pl.LightningDataModule | None
    seed: int

    @abstractmethod
    def show(self, place: int) -> None:
        """Print the network in row ``place`` and its values."""

    @abstractmethod
    def build(self, place: int) -> Subnet:
        """The network in row ``place``, with weights and with statistics of its own."""

    @abstractmethod
    def metrics(self, place: int, network: Subnet) -> dict[str, float]:
        """What is known of the network, by name; ``network`` is what is exported."""

    def predictions(self, place: int) -> list[Prediction]:
        """Latencies that the search has predicted; none by default."""
        return []

    def evaluation(self, network: Subnet) -> dict[str, Any] | None:
        """Classes and worst mistakes of what is exported, see :func:`validated`; None by default."""
        return None

    def draw(self, place: int) -> Figure | None:
        """A picture of the front and the network on it; none by default."""
        return None


def load_front(
    run: str, wish: Wish, *, trust: Sequence[str], data_options: Sequence[str], dominated: bool = False
) -> Front:
    """The front of a folder of ``oneshot pareto`` or ``oneshot discrete``.

    Args:
        run: The folder.
        wish: Which network will be chosen; it may name costs that are only bounded, or any metric of a study.
        trust: Modules besides ``oneshot`` whose classes may be imported and built.
        data_options: ``--data.init_args.root photos``, where the data are elsewhere now.
        dominated: Whether all networks that ``oneshot pareto`` evaluated may be chosen, also those that another one
            dominates. Errors of few samples are inexact: what is dominated may be better.

    Raises:
        ValueError: If the folder has no front, or the front does not know what is asked for.
    """
    if (Path(run) / LOG).is_file():
        # Without following its log: on another machine a strategy may round differently.
        return StudyFront(run, read_study(run, follow=False, trust=trust, data_options=data_options), wish)
    source = RunFolder(Path(run), tuple(trust)) if is_run(run) else None
    search = source.module() if source else None
    if source is None or not isinstance(search, NAT):
        raise ValueError(
            "RUN must be a run of 'oneshot pareto' or of 'oneshot discrete', which have a front to pick from; "
            f"{run} is {'no run' if search is None else 'another kind of run'}."
        )
    return RunFront(source, search, wish, data_options, dominated)


class RunFront(Front):
    """The front of ``oneshot pareto``: architectures with the weights that they inherit."""

    def __init__(
        self, source: RunFolder, search: NAT, wish: Wish, data_options: Sequence[str], dominated: bool
    ) -> None:
        for name, share in [*wish.bounds.items(), *wish.point.items()]:
            if name == ERROR and search.task.is_share and not 0 <= share <= 1:
                raise ValueError(f"The error must be a share between 0 and 1, 5 % is 0.05; got {share:g}.")
        archive, self._rows = search.pareto.archive, search.pareto.front()
        if not len(self._rows) and len(archive):
            raise ValueError(
                f"{source.folder} has no front: of {len(archive)} networks, {int(archive.failed.sum())} failed, and no "
                "other keeps the constraints. Begin another run, with other constraints or a lower learning rate."
            )
        if not len(self._rows):
            raise ValueError(
                f"{source.folder} has no front yet: its first search is not over. Go on with 'oneshot pareto --resume'."
            )
        if dominated:
            self._rows = np.flatnonzero(~archive.failed)
        self._source, self._search, self._data_options = source, search, data_options
        self.seed, self.point = search.run_seed, wish.point
        # A cost that is bounded and not minimised is no objective, but can be asked for.
        costs = {c.objective.name: c.objective for c in search.pareto.constraints}
        asked = {*wish.bounds, *wish.point}
        others = [cost for name, cost in costs.items() if name in asked and name not in archive.objectives]
        genes = archive.genes[self._rows]
        self.names = [*archive.objectives, *(cost.name for cost in others)]
        values = [cost.values(genes, exact=True) for cost in others]
        self.values = np.column_stack([archive.values[self._rows], *values])

    @cached_property
    def data(self) -> pl.LightningDataModule:  # type: ignore[override]  # opened when it is needed
        what = "The network of a front has statistics of its own, which needs images"
        return self._source.opened_data(self._data_options, what)

    @cached_property
    def _images(self) -> EvaluationData:
        """Samples to measure the error on, and samples to calibrate with."""
        search = self._search
        return decode_images(self.data, search.calibration_images, batch_size=search.evaluation_batch)

    @property
    def _units(self) -> list[str]:
        return [self._search.task.error_unit, *(objective.unit for objective in self._search.pareto.objectives)]

    def show(self, place: int) -> None:
        archive = self._search.pareto.archive
        if steps := self._search.outdated():
            say(
                f"The errors of this front were measured with the weights of {steps} steps ago: the run is not over, "
                "or was stopped before they were measured again. The error of the network below is measured now."
            )
        say(network_table(front_rows(archive.objectives, self._units, archive.values[self._rows[place]][None])))

    def build(self, place: int) -> Subnet:
        supernet, batch = self._search.evaluation_supernet, self._search.evaluation_batch
        network, data = supernet.extract(self._config(place)), self._images
        calibrate(network, fitted(network, data.calibration), data.calibration_labels, batch_size=batch)
        return network

    @property
    def error_is_share(self) -> bool:
        """Whether errors are shares of samples, such as those of an accuracy."""
        return self._search.task.is_share

    def untrained(self, place: int) -> Subnet:
        """The network in row ``place`` with random weights, to be timed."""
        return self._search.supernet.extract(self._config(place), inherit=False)

    def largest(self) -> Subnet:
        """The largest network of the space, with the weights and the head that were trained."""
        search = self._search
        genes = search.supernet.space.repair(search.smallest_and_largest[-1][1][None])
        network = search.evaluation_supernet.extract(search.supernet.space.decode(genes)[0])
        network.own_head = False
        return network

    def metrics(self, place: int, network: Subnet) -> dict[str, float]:
        archive = self._search.pareto.archive
        images, labels, *_ = self._images
        task, row = network.task, archive.values[self._rows[place]]
        name = f"val/{task.metric_name}"
        now = score(network, fitted(network, images), labels, self._search.evaluation_batch)
        say(f"{name} of the network: {now:.4f}; on the front {task.value_of(row[0]):.4f}")
        return {name: now} | {f"front/{n}": float(value) for n, value in zip(archive.objectives, row, strict=True)}

    def predictions(self, place: int) -> list[Prediction]:
        return self._search.predictions(self._config(place))

    def evaluation(self, network: Subnet) -> dict[str, Any]:
        images, labels, *_ = self._images
        return validated(network, images, labels, self.data, batch_size=self._search.evaluation_batch)

    def draw(self, place: int) -> Figure:
        archive, front = self._search.pareto.archive, self._search.pareto.front().tolist()
        picked = int(self._rows[place])
        return draw_front(archive.objectives, self._units, archive.values, front, picked=picked)

    def _config(self, place: int) -> SubnetConfig:
        genes = self._search.pareto.archive.genes[int(self._rows[place])]
        return self._search.supernet.space.decode(genes[None])[0]


class StudyFront(Front):
    """The front of ``oneshot discrete``, or all its evaluations if a bound is on a metric that is no objective."""

    def __init__(self, run: str, study: Study, wish: Wish) -> None:
        if not (records := study.front()):
            raise ValueError(f"{run} has no front yet: no evaluation has succeeded.")
        signs = {objective.metric: 1.0 if objective.direction == "min" else -1.0 for objective in study.objectives}
        if rising := [name for name in wish.bounds if signs.get(name) == -1]:
            raise ValueError(
                f"A bound must be on what is minimised; {', '.join(rising)} is maximised here. Bound another "
                "objective, or ask for --near or --knee."
            )
        if others := [name for name in wish.bounds if name not in signs]:
            signs |= dict.fromkeys(others, 1.0)
            records = study.comparable
            known = set.intersection(*(set(record.result.metrics) for record in records))
            if missing := [name for name in others if name not in known]:
                raise ValueError(
                    f"A bound must be on a metric of this study, {', '.join(sorted(known))}; got {', '.join(missing)}."
                )
        self._study, self._records = study, records
        self.data, self.seed = getattr(study.evaluator, "data", None), study.strategy.seed
        self.names = list(signs)
        self.values = np.array([[s * record.result.metrics[name] for name, s in signs.items()] for record in records])
        self.point = {name: signs.get(name, 1.0) * value for name, value in wish.point.items()}

    def show(self, place: int) -> None:
        say(network_table(study_rows(self._study, [self._records[place]])))

    def build(self, place: int) -> Subnet:
        evaluator, proposal = self._study.evaluator, self._records[place].proposal
        network = evaluator.network(proposal)
        if network is None:
            raise ValueError(
                f"{type(evaluator).__name__} keeps no networks to export; the architecture is '{proposal.config}'. "
                "Train it with 'oneshot retrain'."
            )
        return network

    def metrics(self, place: int, network: Subnet) -> dict[str, float]:
        return {f"study/{name}": float(value) for name, value in self._records[place].result.metrics.items()}
