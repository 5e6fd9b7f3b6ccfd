"""Logs what the architecture of a search costs, as it is now and as it would be derived."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch

from oneshot.cost.model import CostModel
from oneshot.cost.resolve import GivenCost, resolve_cost, unit_of
from oneshot.engine.module import SearchModule
from oneshot.engine.paths import PathTraining
from oneshot.engine.sharing import WeightSharingSearch

from .base import SearchCallback


class CostMonitor(SearchCallback):
    """Logs, after a training epoch, the expected and the derived cost in every unit.

    ``cost/expected_<unit>`` is the expected cost under the current probabilities
    (:meth:`~oneshot.engine.module.SearchModule.probabilities`), which temperature and noise of the sampler don't move;
    ``cost/derived_<unit>`` is that of the architecture that would be derived now. They meet as the search makes up its
    mind. A search by weight sharing alone has no preferences: nothing is logged before it has ranked architectures, and
    then the derived cost.

    Args:
        costs: What an architecture costs, one or several of different units; each as
            :func:`~oneshot.cost.resolve_cost` takes it.
        every_n_epochs: Log after every n-th epoch.

    Raises:
        ValueError: If there is no cost, an unknown one, or two of a unit; at the start of ``fit``, if the module is not
            a search, or a cost is of another space or resolution.

    Example:
        >>> CostMonitor(["macs", "memory"]).costs
        ('macs', 'memory')
    """

    def __init__(self, costs: GivenCost | Sequence[GivenCost] = ("params", "macs"), every_n_epochs: int = 1) -> None:
        super().__init__(every_n_epochs)
        self.costs: tuple[GivenCost, ...] = (costs,) if isinstance(costs, CostModel | str) else tuple(costs)
        units = [unit_of(cost) for cost in self.costs]
        if not units or len(set(units)) < len(units):
            raise ValueError(
                f"costs must be one or several, each of another unit; got {units}. Give those of one unit to "
                "several searches, or name the devices in the units."
            )
        self._models: tuple[CostModel, ...] = ()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            supernet = self.search(pl_module).supernet
            self._models = tuple(resolve_cost(cost, supernet, allow_noisy=True) for cost in self.costs)

    @torch.no_grad()
    def after_epoch(self, trainer: pl.Trainer, search: SearchModule) -> None:
        paths = isinstance(search, PathTraining)
        if paths and not (isinstance(search, WeightSharingSearch) and search.ranking):
            return
        config, measured = search.derive(), {}
        for model in self._models:
            measured[f"cost/derived_{model.unit}"] = model.cost(config)
            if not paths:
                measured[f"cost/expected_{model.unit}"] = float(model.expected(search.probabilities()))
        search.log_dict(measured, sync_dist=True)  # the same on every rank, and every rank may monitor it
