"""Ask and tell: proposals of a strategy, answers of an evaluator, and what all strategies share.

An architecture is a ``SubnetConfig``, never a network: small, hashable, JSON. A strategy is a function of its
arguments, its seed, and the order in which it was asked and told; that history is its state, and following it again
restores it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from oneshot.supernets.space import IntMatrix, SearchSpace, SubnetConfig

if TYPE_CHECKING:
    from oneshot.supernets.base import Subnet

SCHEMA_VERSION = 1
TRIES = 50  # draws that may repeat what was proposed, before a random architecture takes their place
MOST_LISTED = 100_000  # spellings of a space that are listed to find what is left of it

Scalar: TypeAlias = Callable[[Sequence[float]], float]
Genes: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Proposal:
    """An evaluation that a strategy asks for.

    Args:
        number: Counts the proposals of a study, from 0.
        config: The architecture.
        parent: Number of the evaluation whose weights this one begins with.
        trace: How the network is made from its parent's, JSON-able; see ``oneshot.discrete.graphs.morphism``.
        fidelity: How thorough the evaluation is, in the units of the evaluator (epochs in all); None is its full one.
        trained: Fidelity at which the weights it begins with were trained; 0 for none.
    """

    number: int
    config: SubnetConfig
    parent: int | None = None
    trace: tuple[Mapping[str, Any], ...] = ()
    fidelity: float | None = None
    trained: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        data: dict[str, Any] = {"number": self.number, "config": self.config.to_dict()}
        if self.parent is not None:
            data["parent"] = self.parent
        if self.trace:
            data["trace"] = [dict(step) for step in self.trace]
        if self.fidelity is not None:
            data["fidelity"] = self.fidelity
        if self.trained:
            data["trained"] = self.trained
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Proposal:
        """Inverse of :meth:`to_dict`."""
        rest = {key: data[key] for key in ("parent", "fidelity", "trained") if key in data}
        return cls(data["number"], SubnetConfig.from_dict(data["config"]), trace=tuple(data.get("trace", ())), **rest)


@dataclass(frozen=True)
class Result:
    """The answer to a proposal.

    Args:
        number: Number of the proposal.
        values: Objectives, all minimised, ``[M]``; None if the evaluation failed.
        metrics: What was measured, by name and as it was measured.
        failure: Why the evaluation failed.
        seconds: How long it took.
    """

    number: int
    values: tuple[float, ...] | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None
    seconds: float = 0.0


class Evaluator(ABC):
    """Measures architectures: by table, by inherited weights, by training.

    An evaluator that runs in other processes is pickled.
    """

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""

    @abstractmethod
    def __call__(self, proposal: Proposal) -> Mapping[str, float]:
        """Measure one architecture; an error is recorded as a failure."""

    @property
    def remark(self) -> str:
        """What a user should know of the answers, such as how far they can be trusted; empty for nothing."""
        return ""

    def network(self, proposal: Proposal) -> Subnet | None:
        """The network that was measured, with its weights; None if the evaluator has no networks."""
        return None


class SearchStrategy(ABC):
    """Proposes architectures and learns from results, in any order and with any number of them in flight.

    A strategy fills in :meth:`_propose` and, if it learns, :meth:`_learn`. Architectures are canonical, and nothing is
    proposed twice unless a strategy says so (``repeats``): what is pending or has failed counts, too.

    Args:
        space: The space to search.
        seed: Seed of all random choices.
        scalar: What strategies of one objective minimise, given all values; the first one by default.

    Example:
        >>> from oneshot.discrete import RandomSearch
        >>> from oneshot.supernets import Choice
        >>> strategy = RandomSearch(SearchSpace("toy", (Choice("layer", ("a", "b"), rows=3),)))
        >>> first, second = strategy.ask(2)
        >>> strategy.tell(Result(second.number, (0.5,)))
        >>> strategy.best.config == second.config
        True
    """

    repeats: bool = False  # whether an architecture may be proposed again
    retrains: ClassVar[bool] = False  # whether the same proposal again means another evaluation, not the same answer
    by_rung: bool = False  # whether only results of the highest fidelity compare
    random_first: int = 0  # architectures that are drawn at random before anything learned has a part in it

    def __init__(self, space: SearchSpace, *, seed: int = 0, scalar: Scalar | None = None) -> None:
        self.space, self.seed, self.scalar = space, seed, scalar or first_objective
        self.rng = np.random.default_rng(seed)
        self.pending: dict[int, Proposal] = {}
        self.observed: dict[int, tuple[Proposal, Result]] = {}
        self._history: list[dict[str, Any]] = []
        self._proposed: set[bytes] = set()
        self._next = 0

    # What strategies fill in.

    @abstractmethod
    def _propose(self) -> Proposal | None:
        """The next proposal, made by :meth:`_new`; None to wait for results, or because there is nothing left."""

    def _learn(self, proposal: Proposal, result: Result) -> None:  # noqa: B027  # not all strategies learn
        """Learn from a result; :meth:`loss` is its loss."""

    # What users call.

    def ask(self, n: int = 1) -> list[Proposal]:
        """Up to ``n`` proposals.

        Fewer, or none, if the strategy waits for results of pending ones; with none pending, it is at its end.

        Raises:
            ValueError: If ``n`` is below 1.
        """
        if n < 1:
            raise ValueError(f"A strategy must be asked for at least one proposal; got n={n}.")
        proposals: list[Proposal] = []
        while len(proposals) < n:
            proposal = self._propose()
            # an ask without an answer may have drawn random numbers, and so belongs to the history
            self._history.append({"ask": None if proposal is None else proposal.number})
            if proposal is None:
                break
            self.pending[proposal.number] = proposal
            proposals.append(proposal)
        return proposals

    def tell(self, result: Result) -> None:
        """Take the result of a pending proposal.

        Raises:
            ValueError: If nothing of that number is pending, a value is not finite, there are more or fewer values than
                before, or the scalar gives no number.
        """
        if result.number not in self.pending:
            what = "was told already" if result.number in self.observed else "was never asked for"
            raise ValueError(f"A result must answer a pending proposal; number {result.number} {what}.")
        if result.values is not None and not all(map(math.isfinite, result.values)):
            raise ValueError(
                f"Values of a result must be finite; number {result.number} has {result.values}. An evaluation that "
                "failed has values=None."
            )
        earlier = next((told.values for _, told in self.observed.values() if told.values is not None), result.values)
        if result.values is not None and earlier is not None and len(result.values) != len(earlier):
            raise ValueError(
                f"All results must have as many values; earlier ones have {len(earlier)}, number {result.number} has "
                f"{len(result.values)}: {result.values}."
            )
        if math.isnan(self.loss(result)):
            raise ValueError(
                f"A scalar must give a number for all finite values; that of this {type(self).__name__} gives none for "
                f"{result.values}."
            )
        proposal = self.pending.pop(result.number)
        self.observed[result.number] = proposal, result
        self._history.append({"tell": result.number, "values": result.values, "failure": result.failure})
        self._learn(proposal, result)

    def loss(self, result: Result) -> float:
        """Loss of a result for a strategy of one objective; smaller is better, infinity if the evaluation failed."""
        return math.inf if result.values is None else float(self.scalar(result.values))

    @property
    def best(self) -> Proposal:
        """The proposal of least loss so far; of equal ones, that with the least objectives in their order.

        Raises:
            RuntimeError: If no evaluation has succeeded.
        """
        done = [
            (-math.inf if not self.by_rung or p.fidelity is None else -p.fidelity, self.loss(r), r.values, p.number)
            for p, r in self.observed.values()
            if r.values is not None
        ]
        if not done:
            raise RuntimeError("No evaluation has succeeded yet, so there is no best architecture.")
        return self.observed[min(done)[-1]][0]

    # State.

    def state_dict(self) -> dict[str, Any]:
        """State from which a strategy of the same arguments is restored, JSON-able."""
        return {
            "schema_version": SCHEMA_VERSION,
            "strategy": type(self).__name__,
            "space": self.space.describe(),
            "seed": self.seed,
            "history": list(self._history),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Follow the history of another strategy, on one that was not asked yet.

        Raises:
            ValueError: If the state is of another strategy, space or seed.
            RuntimeError: If this one was asked already.
        """
        if self._history:
            raise RuntimeError("A state must be loaded into a new strategy; this one was asked already.")
        for what, ours, theirs in (
            ("schema_version", SCHEMA_VERSION, state["schema_version"]),
            ("strategy", type(self).__name__, state["strategy"]),
            ("seed", self.seed, state["seed"]),
        ):
            if ours != theirs:
                raise ValueError(
                    f"This strategy has the {what} {ours!r}, the saved one {theirs!r}. Build it with the same "
                    "arguments."
                )
        self.space.check_same(state["space"], "This state")
        for event in state["history"]:
            if "ask" in event:
                self.ask()
            else:
                values = None if event["values"] is None else tuple(event["values"])
                self.tell(Result(event["tell"], values, failure=event["failure"]))

    # What strategies build upon.

    def _new(self, genes: npt.ArrayLike, **details: Any) -> Proposal:
        """A proposal of canonical genes ``[G]``."""
        row = np.asarray(genes, dtype=np.int64)
        self._proposed.add(row.tobytes())
        return self._number(self.space.config_of(row), **details)

    def _number(self, config: SubnetConfig, **details: Any) -> Proposal:
        proposal = Proposal(self._next, config, **details)
        self._next += 1
        return proposal

    def _genes(self, proposal: Proposal) -> Genes:
        return self.space.genes_of(proposal.config)

    def _is_new(self, genes: Genes) -> bool:
        return genes.tobytes() not in self._proposed

    def _random(self) -> Genes:
        """Any architecture, canonical."""
        return np.asarray(self.space.repair(self.space.sample_matrix(1, self.rng))[0])

    def _mutated(self, genes: Genes, mutations: int = 1) -> Genes:
        """Canonical genes after one or more mutations; these may lead back."""
        for _ in range(mutations):
            genes = self.space.mutate_genes(genes, self.rng)
        return np.asarray(self.space.repair(genes[None])[0])

    def _crossed(self, first: Genes, second: Genes) -> Genes:
        """Uniform crossover, canonical."""
        return np.asarray(self.space.repair(self.space.cross_genes(first, second, self.rng)[None])[0])

    def _fresh(self, draw: Callable[[], Genes]) -> Genes | None:
        """Draw until an architecture is new; a random new one if ``draw`` keeps repeating; None if nothing is left."""
        for _ in range(TRIES):
            if self._is_new(genes := draw()):
                return genes
        for _ in range(TRIES):
            if self._is_new(genes := self._random()):
                return genes
        left = [genes for genes in listed(self.space) if self._is_new(genes)] if can_be_listed(self.space) else []
        return left[self.rng.integers(len(left))] if left else None


@dataclass(frozen=True)
class ListedSpace(SearchSpace, ABC):
    """A space that has a list of its architectures."""

    @abstractmethod
    def listed(self) -> IntMatrix:
        """All canonical architectures, ``[N, G]``, in lexicographic order."""


def can_be_listed(space: SearchSpace) -> bool:
    """Whether :func:`listed` can list the space."""
    return isinstance(space, ListedSpace) or math.prod(space.gene_sizes) <= MOST_LISTED


def listed(space: SearchSpace) -> IntMatrix:
    """All canonical architectures, ``[N, G]``, in lexicographic order.

    Raises:
        ValueError: If the space has no list of them, and more than ``MOST_LISTED`` spellings.
    """
    if isinstance(space, ListedSpace):
        return space.listed()
    if not can_be_listed(space):
        raise ValueError(
            f"Spaces of up to {MOST_LISTED:,} spellings are listed; {space.name!r} has "
            f"{math.prod(space.gene_sizes):,}. Draw random architectures."
        )
    return np.unique(space.repair(np.array(list(np.ndindex(*space.gene_sizes)))), axis=0)


def first_objective(values: Sequence[float]) -> float:
    """The default of strategies that minimise one objective."""
    return values[0]
