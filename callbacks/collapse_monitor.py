"""Warns when a search collapses: to skip connections, or to nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from oneshot.engine.module import SearchModule
from oneshot.functional import entropy
from oneshot.supernets import connected
from oneshot.supernets.darts import DARTSSpace
from oneshot.supernets.space import ArchGraph, SearchSpace, SubnetConfig

from .base import SearchCallback

Action = Literal["warn", "stop"]
SKIPS = ("skip_connect", "skip", "identity")  # the names in the spaces


class CollapseMonitor(SearchCallback):
    """Warns, or stops the search, when the derived architecture degenerates.

    A search has collapsed when it would derive too many skip connections, nothing but operations without parameters
    (skip connections, poolings, ``none``), a cell whose output no input reaches by the likeliest candidates, or, if
    asked for, when the alphas have become too certain. Logs ``collapse/skip_connections`` and ``collapse/entropy``, the
    mean entropy of all rows in nats.

    A search without alphas is not judged, and nothing is logged of it: before it has ranked architectures, it would
    derive any one.

    Args:
        max_skip: Skip connections that are still healthy: in the normal cell of a DARTS space, in the whole
            architecture of any other. Default: 1 for DARTS spaces, because DARTS+ (arXiv:1909.06035, criterion 1) stops
            at two; elsewhere half of all decisions, which is our own choice.
        min_entropy: Smallest healthy mean entropy, nats; None does not look at it.
        action: ``"warn"`` warns when the collapse begins, ``"stop"`` also ends the fit after that epoch.
        start_epoch: First epoch that is judged. Before, derived architectures are mostly chance; 10 is what the early
            stopping of RobustDARTS uses (arXiv:1909.09656).

    Attributes:
        collapsed_since: Epoch in which the present collapse began, or None.

    Raises:
        ValueError: If ``action`` is unknown or a number negative; at the start of ``fit``, if the module is not a
            search.
    """

    def __init__(
        self,
        max_skip: int | None = None,
        *,
        min_entropy: float | None = None,
        action: Action = "warn",
        start_epoch: int = 10,
    ) -> None:
        super().__init__()
        if action not in get_args(Action):
            raise ValueError(f"action must be one of {get_args(Action)}; got {action!r}.")
        for name, value in (("max_skip", max_skip), ("min_entropy", min_entropy), ("start_epoch", start_epoch)):
            if value is not None and value < 0:
                raise ValueError(f"{name} must not be negative; got {value}.")
        self.max_skip, self.min_entropy, self.action, self.start_epoch = max_skip, min_entropy, action, start_epoch
        self.collapsed_since: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"collapsed_since": self.collapsed_since}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.collapsed_since = state_dict["collapsed_since"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.ckpt_path is None:
            self.collapsed_since = None

    def after_epoch(self, trainer: pl.Trainer, search: SearchModule) -> None:
        if not search.arch_parameters():
            return
        space, config = search.supernet.space, search.derive()
        skips = skip_connections(space, config)
        probabilities = search.probabilities()
        mean_entropy = torch.cat([entropy(p) for p in probabilities.values()]).mean().item()
        measured = {"collapse/skip_connections": float(skips), "collapse/entropy": mean_entropy}
        search.log_dict(measured, sync_dist=True)  # the same on every rank, and every rank may monitor it

        epoch = trainer.current_epoch
        signs = self._signs(space, config, skips, mean_entropy) if epoch >= self.start_epoch else []
        if epoch >= self.start_epoch and not likeliest_has_output(space, probabilities):
            signs.append("no input reaches the output of a cell by the likeliest candidates, so others are derived")
        if signs and self.collapsed_since is None:
            self.collapsed_since = epoch
            rank_zero_warn(
                f"The search has collapsed in epoch {epoch}: {'; '.join(signs)}. "
                f"{'It stops here. ' if self.action == 'stop' else ''}"
                "Take the architecture of an earlier epoch, or search with fewer epochs, a larger weight_decay or a "
                "smaller arch_lr."
            )
        elif not signs:
            self.collapsed_since = None
        if signs and self.action == "stop":
            trainer.should_stop = True

    def _signs(self, space: SearchSpace, config: SubnetConfig, skips: int, mean_entropy: float) -> list[str]:
        picks = [str(pick) for _, row in config.picks for pick in row]
        default = 1 if isinstance(space, DARTSSpace) else len(picks) // 2
        limit = default if self.max_skip is None else self.max_skip
        signs = []
        if skips > limit:
            signs.append(f"it derives {skips} skip connections, healthy are at most {limit}")
        if all(pick in (*SKIPS, "none") or "_pool_" in pick for pick in picks):
            signs.append("no derived operation has parameters")
        if unreached := [graph.name for graph in space.graphs(config) if not reaches_its_end(graph)]:
            signs.append(f"nothing reaches the output of the {unreached[0]} it derives")
        if self.min_entropy is not None and mean_entropy < self.min_entropy:
            signs.append(f"the mean entropy of the alphas is {mean_entropy:.3g} nats, below {self.min_entropy:g}")
        return signs


def skip_connections(space: SearchSpace, config: SubnetConfig) -> int:
    """Skip connections: of the normal cell in DARTS spaces, of all picks in others."""
    if isinstance(space, DARTSSpace):
        return space.genotype(config).skip_connections
    return sum(pick in SKIPS for _, row in config.picks for pick in row)


def likeliest_has_output(space: SearchSpace, probabilities: Mapping[str, Tensor]) -> bool:
    """Whether the output of every cell reads an input by the likeliest candidate of every edge.

    What is derived does so in any case (:meth:`~oneshot.supernets.SearchSpace.most_likely`). ``none`` is the likeliest
    only where no other candidate is as likely.
    """
    if not space.cell_graphs():
        return True
    likeliest = {}
    for name, rows in probabilities.items():
        candidates = space[name].candidates
        none = torch.tensor([candidate == "none" for candidate in candidates], device=rows.device)
        picks = (rows - 1e-6 * none).argmax(1).tolist()
        likeliest[name] = [candidates[pick] for pick in picks]
    return bool(connected(space, space.genes_of(SubnetConfig(space.name, likeliest))[None])[0])


def reaches_its_end(graph: ArchGraph) -> bool:
    """Whether edges that are not ``none`` lead from a node that nothing enters to the last one."""
    entered = {target for _, target, _ in graph.edges}
    reached = set(range(len(graph.nodes))) - entered
    for source, target, label in sorted(graph.edges):  # every edge leads to a later node
        if source in reached and label != "none":
            reached.add(target)
    return len(graph.nodes) - 1 in reached
