"""Which tensors are alive at every moment of a forward pass, and how that changes with the architecture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from oneshot._lightning import storage_key
from oneshot.conversion.trace import UNSEEN, isolated
from oneshot.inputs import Inputs, tensors
from oneshot.supernets.base import restored_modes

from .network import Meter

Place = tuple[int, int]  # number of an operator, -1 for inputs, and which of its tensors


@dataclass
class Run:
    """One forward pass of a network.

    Args:
        ops: Every operator: path of the module it ran in, and its name.
        macs: Multiply-accumulates of every operator; None where nobody knows.
        stored: Bytes of every storage, by the place where it came to be.
        alive: For every storage the storages that were alive when it had come to be, it among them.
    """

    ops: list[tuple[str, str]] = field(default_factory=list)
    macs: list[int | None] = field(default_factory=list)
    stored: dict[Place, int] = field(default_factory=dict)
    alive: dict[Place, frozenset[Place]] = field(default_factory=dict)


class _Observer(Meter):  # type: ignore[no-untyped-call]  # torch
    """A meter that writes down what it sees."""

    def __init__(self, known: Sequence[Tensor], modules: list[str]) -> None:
        super().__init__(known)
        self.run, self.modules = Run(), modules
        self._place: Place = (-1, 0)
        self._places: dict[int, Place] = {}

    def keep(self, tensor: Tensor) -> None:
        super().keep(tensor)
        self._place = (self._place[0], self._place[1] + 1)

    def _keep(self, storage: torch.UntypedStorage) -> None:
        before = self._held.get(storage_key(storage))
        super()._keep(storage)
        if self._held.get(storage_key(storage)) is before:
            return
        self._places[storage_key(storage)] = self._place
        self.run.stored[self._place] = storage.nbytes()
        self.live()  # forgets what is not alive any more
        self.run.alive[self._place] = frozenset(self._places[key] for key in self._held)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "namespace", "") in UNSEEN:
            return func(*args, **(kwargs or {}))
        number, before, unknown = len(self.run.ops), self.macs, self.uncounted.total()
        self._place = (number, 0)
        self.run.ops.append((self.modules[-1] if self.modules else "", str(func.overloadpacket.__name__)))
        self.run.macs.append(None)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self.uncounted.total() == unknown:
            self.run.macs[number] = self.macs - before
        return out


def observe(network: nn.Module, inputs: Sequence[Inputs]) -> Run:
    """Run a network once as :func:`~oneshot.cost.count` does."""
    modules: list[str] = []
    observer = _Observer([*network.parameters(), *network.buffers()], modules)
    for x in inputs:
        for tensor in tensors(x):
            observer.keep(tensor)
    with isolated(network), restored_modes(network), torch.no_grad(), _paths(network.eval(), modules), observer:
        network(*inputs)
    return observer.run


@contextlib.contextmanager
def _paths(network: nn.Module, modules: list[str]) -> Iterator[None]:
    """Inside, a list has the paths of the modules that are running.

    The modules themselves have no hooks, for with some, layers of attention run otherwise.
    """
    paths = {id(module): path for path, module in network.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        modules.append(paths.get(id(module), ""))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        modules.pop()

    with contextlib.ExitStack() as stack:
        for handle in (register_module_forward_pre_hook(enter), register_module_forward_hook(leave)):
            stack.callback(handle.remove)
        yield


@dataclass(frozen=True)
class Alternative:
    """The run of another architecture, in the places of the largest one's.

    Args:
        ops: Operators of the largest that run here, too.
        places: Places of storages in the run of the largest; those that have none there get new ones.
        between: For each of the new ones the operators of the largest that run before it and after it.
        run: The run.
    """

    ops: frozenset[int]
    places: Mapping[Place, Place]
    between: Mapping[Place, tuple[int, int]]
    run: Run

    @classmethod
    def of(cls, largest: Run, run: Run, number: int) -> Alternative:
        """Compare two runs.

        Args:
            largest: Of the largest architecture.
            run: Of another one.
            number: Of the other one, at least 1; tells storages apart that only one of them has.
        """
        blocks = SequenceMatcher(None, largest.ops, run.ops, autojunk=False).get_matching_blocks()
        same = {b + i: a + i for a, b, size in blocks for i in range(size)}
        places: dict[Place, Place] = {}
        between: dict[Place, tuple[int, int]] = {}
        for op, leaf in run.stored:
            place = (same.get(op, -1), leaf)
            if place not in largest.stored or (op >= 0 and op not in same):
                place = (-1 - number, len(between))
                before = max((i for i in same if i < op), default=-1)
                after = min((i for i in same if i > op), default=-1)
                between[place] = same.get(before, -1), same.get(after, -1)
            places[op, leaf] = place
        return cls(frozenset(same.values()), places, between, run)

    @property
    def alive(self) -> dict[Place, frozenset[Place]]:
        """As :attr:`Run.alive`, in the places of the largest."""
        return {
            self.places[event]: frozenset(self.places[place] for place in alive)
            for event, alive in self.run.alive.items()
        }


# Numbers that one gene decides: [picks] of 0 and 1.
Indicator = tuple[int, ...]


@dataclass(frozen=True)
class Term:
    """A storage that is alive at some moment.

    Args:
        place: Which one.
        when: Genes that decide about it, with 1 for picks with which it is alive. All must say so.
        sign: 1, or -1 if its bytes are taken off again.
    """

    place: Place
    when: tuple[tuple[int, Indicator], ...]
    sign: int = 1


def levels(largest: Run, others: Mapping[int, Mapping[int, Alternative]], picks: Sequence[int]) -> Iterator[list[Term]]:
    """What is alive at every moment, for all architectures.

    Every gene is taken to act by itself, which is to be checked: what is alive in the largest architecture is alive
    where no gene ends it, what is not is where some gene keeps it.

    Args:
        largest: The run of the largest architecture.
        others: Runs of those that differ from it in one gene: ``{gene: {pick: run}}``; other picks change nothing.
        picks: Number of picks of every gene.

    Yields:
        The storages of a moment.
    """
    seen = {gene: {pick: other.alive for pick, other in by_pick.items()} for gene, by_pick in others.items()}
    events = dict.fromkeys([*largest.alive, *(e for by in seen.values() for alive in by.values() for e in alive)])
    for event in events:
        there = largest.alive.get(event)
        exists = _exists(event, largest, others, picks)
        base = frozenset(there or ())
        places = dict.fromkeys([*base, *(p for by in seen.values() for a in by.values() for p in a.get(event, ()))])
        terms: list[Term] = []
        for place in places:
            changed: dict[int, Indicator] = {}
            for gene, by_pick in seen.items():
                own = [place in base] * picks[gene]
                for pick, alive in by_pick.items():
                    if event in alive:
                        own[pick] = place in alive[event]
                if len(set(own)) > 1 or (own[0] != (place in base)):
                    changed[gene] = tuple(map(int, own))
            terms += _terms(place, place in base, changed, exists)
        yield terms


def _exists(
    event: Place, largest: Run, others: Mapping[int, Mapping[int, Alternative]], picks: Sequence[int]
) -> dict[int, Indicator]:
    """Genes without some of whose picks a moment is not there; where the largest lacks it, its neighbours tell."""
    found: dict[int, Indicator] = {}
    owner = next((o for by in others.values() for o in by.values() if event in o.between), None)
    for gene, by_pick in others.items():
        own = [event in largest.stored or owner not in by_pick.values()] * picks[gene]
        for pick, other in by_pick.items():
            if owner is None:
                own[pick] = event in other.places.values()
            elif owner not in by_pick.values():
                own[pick] = bool(other.ops & set(owner.between[event]))
            else:
                own[pick] = other is owner
        if not all(own):
            found[gene] = tuple(map(int, own))
    return found


def _terms(place: Place, there: bool, changed: Mapping[int, Indicator], exists: Mapping[int, Indicator]) -> list[Term]:
    if there:
        return _term(place, [changed, exists])
    # It is alive if any gene says so: all, without those where none does.
    inverse = {gene: tuple(1 - value for value in own) for gene, own in changed.items()}
    if len(changed) == 1:
        return _term(place, [changed, exists])
    return [*_term(place, [exists]), *_term(place, [inverse, exists], -1)]


def _term(place: Place, conditions: Sequence[Mapping[int, Indicator]], sign: int = 1) -> list[Term]:
    when: dict[int, Indicator] = {}
    for condition in conditions:
        for gene, own in condition.items():
            when[gene] = tuple(np.multiply(when.get(gene, 1), own).tolist())
    if not all(any(own) for own in when.values()):
        return []
    return [Term(place, tuple(sorted((gene, own) for gene, own in when.items() if not all(own))), sign)]
