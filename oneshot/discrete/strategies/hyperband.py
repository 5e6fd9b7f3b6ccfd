"""Successive halving without barriers (ASHA, Li et al., MLSys 2020, arXiv:1810.05934), and Hyperband's brackets."""

from __future__ import annotations

import math
from collections.abc import Callable

from oneshot.discrete.protocol import Proposal, Result, Scalar, SearchStrategy
from oneshot.supernets.space import SearchSpace, SubnetConfig

Sampler = Callable[[SearchSpace, int], SearchStrategy]  # (space, seed) -> where new architectures come from


class SuccessiveHalving(SearchStrategy):
    """Trains many architectures a little and promotes the best of each rung to ``eta`` times the fidelity.

    An architecture is promoted as soon as it is among the best ``1 / eta`` of its rung, so no evaluation waits for a
    rung to fill (ASHA). Its training goes on from the weights of the lower rung.

    Args:
        space: The space to search.
        least: Fidelity of the lowest rung, in the units of the evaluator (epochs).
        most: Fidelity of the highest rung.
        eta: One of so many is promoted.
        sampler: Where new architectures come from, for example ``lambda space, seed: RegularizedEvolution(space,
            seed=seed)``, which is told the results of the lowest rung; random ones by default.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.

    Raises:
        ValueError: If the fidelities do not rise from above 0, or ``eta`` is below 2.
    """

    repeats = True  # with another fidelity
    by_rung = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        least: float = 1,
        most: float = 27,
        eta: int = 3,
        sampler: Sampler | None = None,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if not 0 < least <= most or eta < 2:
            raise ValueError(
                f"Fidelities must rise from above 0, and eta must be at least 2; got least={least}, most={most}, "
                f"eta={eta}."
            )
        self.eta = eta
        self.fidelities = rungs(least, most, eta)
        self._sampler = (sampler or _random)(space, seed)
        # of every rung: architecture -> (loss, number of the evaluation)
        self._rungs: list[dict[SubnetConfig, tuple[float, int]]] = [{} for _ in self.fidelities]
        self._promoted: list[set[SubnetConfig]] = [set() for _ in self.fidelities]
        self._asked: dict[int, int] = {}  # number here -> number of the sampler

    def _propose(self) -> Proposal | None:
        for rung in range(len(self.fidelities) - 2, -1, -1):
            if (config := self._ready(rung)) is not None:
                self._promoted[rung].add(config)
                lower = self._rungs[rung][config][1]
                return self._number(
                    config, parent=lower, fidelity=self.fidelities[rung + 1], trained=self.fidelities[rung]
                )
        if not (asked := self._sampler.ask()):
            return None
        proposal = self._number(asked[0].config, fidelity=self.fidelities[0])
        self._asked[proposal.number] = asked[0].number
        return proposal

    def _ready(self, rung: int) -> SubnetConfig | None:
        """The best architecture among the best 1 / eta of a rung that was not promoted yet."""
        done = sorted(self._rungs[rung].items(), key=lambda item: item[1])
        for config, (loss, _) in done[: len(done) // self.eta]:
            if config not in self._promoted[rung] and math.isfinite(loss):
                return config
        return None

    def _learn(self, proposal: Proposal, result: Result) -> None:
        rung = self.fidelities.index(proposal.fidelity or self.fidelities[-1])
        self._rungs[rung][proposal.config] = self.loss(result), proposal.number
        if proposal.number in self._asked:
            number = self._asked.pop(proposal.number)
            self._sampler.tell(Result(number, result.values, result.metrics, result.failure))


class Hyperband(SearchStrategy):
    """Several successive halvings that begin at different fidelities (Li et al., JMLR 2018, arXiv:1603.06560).

    The bracket with the lowest beginning relies most on short trainings; the last one uses full trainings only. Each
    proposal goes to the bracket that has used the smallest share of its budget, all having the same.

    Args:
        space: The space to search.
        least: Fidelity of the lowest rung of all brackets.
        most: Fidelity of the highest rung of each.
        eta: One of so many is promoted.
        seed: Seed of all random choices.
        scalar: What the search minimises, given all values.
    """

    repeats = True
    by_rung = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        least: float = 1,
        most: float = 27,
        eta: int = 3,
        seed: int = 0,
        scalar: Scalar | None = None,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        # drawn, not counted: one bracket would be another of the next seed
        self.brackets = [
            SuccessiveHalving(space, least=f, most=most, eta=eta, seed=int(self.rng.integers(2**31)), scalar=scalar)
            for f in rungs(least, most, eta)
        ]
        self._used = [0.0] * len(self.brackets)
        self._from: dict[int, tuple[int, int]] = {}  # number here -> bracket, number there
        self._here: dict[tuple[int, int], int] = {}

    def _propose(self) -> Proposal | None:
        for bracket in sorted(range(len(self.brackets)), key=self._used.__getitem__):
            if asked := self.brackets[bracket].ask():
                (inner,) = asked
                parent = None if inner.parent is None else self._here[bracket, inner.parent]
                proposal = self._number(inner.config, parent=parent, fidelity=inner.fidelity, trained=inner.trained)
                self._used[bracket] += (inner.fidelity or 0) - inner.trained
                self._from[proposal.number] = bracket, inner.number
                self._here[bracket, inner.number] = proposal.number
                return proposal
        return None

    def _learn(self, proposal: Proposal, result: Result) -> None:
        bracket, number = self._from[proposal.number]
        self.brackets[bracket].tell(Result(number, result.values, result.metrics, result.failure))


def rungs(least: float, most: float, eta: int) -> tuple[float, ...]:
    """Fidelities of the rungs, rising: ``most`` divided by eta again and again, down to ``least``.

    Example:
        >>> rungs(1, 27, 3)
        (1, 3, 9, 27)
    """
    found = [most]
    while found[0] / eta >= least:
        lower = found[0] / eta
        found.insert(0, int(lower) if float(lower).is_integer() else lower)
    return tuple(found)


def _random(space: SearchSpace, seed: int) -> SearchStrategy:
    from .random_search import RandomSearch

    return RandomSearch(space, seed=seed)
