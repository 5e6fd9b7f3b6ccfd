"""NetAdapt (Yang et al., ECCV 2018, arXiv:1804.03230), as MobileNetV3 uses it (arXiv:1905.02244, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from oneshot.cost.counting.network import count
from oneshot.discrete.graphs.approximate import prune
from oneshot.discrete.graphs.graph import NetworkGraph
from oneshot.discrete.graphs.morphism import MorphismRecord
from oneshot.discrete.graphs.network import GraphNetwork
from oneshot.discrete.protocol import Proposal, Result, Scalar

from .morphing import Cost, MorphismSearch, Start


class NetAdapt(MorphismSearch):
    """Prunes a network step by step until it costs no more than a target.

    Every step asks each convolution in turn for as few filters less as lower the cost by the step's share, trains all
    these networks for a short while from the weights of the current one, and goes on with the best. At the end the
    network is trained for long; that is also where nothing can be pruned any more, or all networks of a step failed,
    and then it costs more than the target. If the first network cannot be trained, the search is over.

    Args:
        start: The network to begin with.
        input_shape: C, H, W of the images.
        num_classes: Number of logits.
        target: Highest cost of the network.
        cost: Cost of a network, for example a measured latency; MACs by default.
        reduction: Share of the first cost that a step saves; each further step saves ``decay`` times as much.
        decay: See ``reduction``.
        choose: ``"accuracy"``, the least loss (NetAdapt), or ``"ratio"``, the least loss added for each unit of cost
            saved (MobileNetV3).
        start_epochs: Training of the first network.
        epochs: Training of every candidate.
        final_epochs: Training of the last network; 0 for none.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If the target is not below the cost of the start, a number is out of its range, or there are more
            networks to begin with than one.
    """

    def __init__(
        self,
        start: Start,
        input_shape: Sequence[int],
        num_classes: int,
        *,
        target: float,
        cost: Cost | None = None,
        reduction: float = 0.05,
        decay: float = 0.98,
        choose: Literal["accuracy", "ratio"] = "ratio",
        start_epochs: int = 20,
        epochs: int = 1,
        final_epochs: int = 20,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(start, input_shape, num_classes, operators=("prune",), seed=seed, scalar=scalar)
        self.cost, self.target, self.choose = cost or macs, target, choose
        self._first = self._only_start().config
        first = self.cost(self.network(self._first))
        if not 0 < target < first:
            raise ValueError(
                f"NetAdapt lowers a cost: the target must be below that of the start, {first:g}; got {target:g}."
            )
        if not 0 < reduction < 1 or not 0 < decay <= 1 or choose not in ("accuracy", "ratio"):
            raise ValueError(
                "reduction must be between 0 and 1, decay above 0 and at most 1, choose 'accuracy' or 'ratio'; got "
                f"{reduction}, {decay}, {choose!r}."
            )
        if min(start_epochs, epochs) < 1 or final_epochs < 0:
            raise ValueError(
                "Trainings must have at least one epoch, the last one may have 0; got "
                f"{start_epochs}, {epochs} and {final_epochs}."
            )
        self.start_epochs, self.epochs, self.final_epochs = start_epochs, epochs, final_epochs
        self.saving, self.decay = reduction * first, decay
        self.current: tuple[float, float, Proposal] | None = None  # loss, cost, what
        self._queue: list[tuple[NetworkGraph, MorphismRecord, float]] = []
        self._cost_of: dict[int, float] = {}
        self._told: list[tuple[float, float, Proposal]] = []
        self._failed = False  # all networks of a step
        self._ended = False
        self._trained: Proposal | None = None

    def _propose(self) -> Proposal | None:
        if self.current is None:
            return self._number(self._first, fidelity=self.start_epochs) if not self._next else None
        _, cost, best = self.current
        if not self._queue and not self.pending and not self._ended:
            if cost > self.target and not self._failed:
                self._queue = self._candidates(best, cost)
                self.saving *= self.decay
            if not self._queue:
                self._ended = True
                if self.final_epochs:
                    return self._number(best.config, parent=best.number, fidelity=self.final_epochs)
        if not self._queue:
            return None
        graph, record, cost = self._queue.pop(0)
        proposal = self._number(graph.config, parent=best.number, trace=(record.to_dict(),), fidelity=self.epochs)
        self._cost_of[proposal.number] = cost
        return proposal

    def _candidates(self, best: Proposal, cost: float) -> list[tuple[NetworkGraph, MorphismRecord, float]]:
        """For each convolution that can save enough, the candidate with the most filters left."""
        network, goal = self.network(best.config), max(cost - self.saving, self.target)
        found = {}
        for node in network.graph.nodes:
            if node.op != "conv":
                continue
            low, high = 1, node.channels - 1  # filters to take away
            smallest = None
            while low <= high:
                count = (low + high) // 2
                try:
                    child = prune(network, node.name, count=count)
                except ValueError:  # bound to others by a sum, or the last layer
                    break
                lower = self.cost(child)
                if lower <= goal:
                    smallest, high = (child.graph, count, lower), count - 1
                else:
                    low = count + 1
            if smallest is not None:
                graph, count, lower = smallest
                record = MorphismRecord("prune", {"node": node.name, "count": count}, int(self.rng.integers(2**31)))
                found[graph.config] = (graph, record, lower)
        return list(found.values())

    def _learn(self, proposal: Proposal, result: Result) -> None:
        loss = self.loss(result)
        if self.current is None:
            if result.values is not None:
                self.current = loss, self.cost(self.network(proposal.config)), proposal
            return
        if result.values is not None and not proposal.trace:
            self._trained = proposal  # for long, at the end
        elif result.values is not None:
            self._told.append((loss, self._cost_of[proposal.number], proposal))
        if self.pending or self._queue:
            return
        if not self._told:
            self._failed = True  # the next step would be the same
            return
        before, cost, _ = self.current
        ratio = self.choose == "ratio"
        self.current = min(self._told, key=lambda c: ((c[0] - before) / (cost - c[1]) if ratio else c[0], c[2].number))
        self._told = []

    @property
    def best(self) -> Proposal:
        """The network of the last step, after its long training if that is done. Costlier networks do not compete."""
        if self._trained is not None:
            return self._trained
        return super().best if self.current is None else self.current[2]


def macs(network: GraphNetwork) -> float:
    """Multiply-accumulates of one image."""
    return count(network, network.input_shape).macs
