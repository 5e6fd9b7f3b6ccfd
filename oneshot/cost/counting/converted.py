"""Exact costs of converted networks from their graph: no network is built for them.

The largest architecture runs once on one input. What is known of the sizes of its weights is carried through all of its
operators, so every tensor and every product has a size that is a formula in the widths. For memory it is observed which
tensors are alive when; networks that lack blocks, or have a single head, run once each, for they keep others alive.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oneshot.conversion.axes import Axis, Extent, Shape, extent, fixed, product, total
from oneshot.conversion.graph import Graph, leaf_sizes
from oneshot.conversion.network import ConvertedNetwork
from oneshot.conversion.rules import tie
from oneshot.conversion.supernet import ConvertedSupernet
from oneshot.conversion.trace import Trace, trace
from oneshot.supernets.space import IntMatrix, SubnetConfig

from .elastic import Counted, NoTablesError
from .lifetimes import Alternative, Indicator, Place, Run, levels, observe
from .network import count, one_input
from .polynomials import Polynomial, PolynomialCost, Variable, constant, of_extent, plus, times, variable

CHECKED = 8  # random architectures whose networks are built and counted, beside the smallest and the largest
MOST_CASES = 64  # formulas of one cost
INSIDE = "network."  # path of the user's network in the extracted one


def count_converted(supernet: ConvertedSupernet, what: Counted, unit: str, input_shape: Any = None) -> PolynomialCost:
    """What every architecture of a converted network has, exactly; see :func:`~oneshot.cost.count_candidates`.

    The smallest, the largest and some random networks are built and counted, to confirm it.

    Args:
        supernet: The supernet.
        what: What is counted.
        unit: Its unit.
        input_shape: Shape of one input, where the resolution is no choice; by default the supernet's.

    Raises:
        NoTablesError: If the counts of a network are no formulas of its widths, with the reason.
    """
    writer = Writer(supernet, input_shape)
    cases = writer.cases(what)
    if what == "params":
        sums = [[writer.params()]]
    elif what == "macs":
        sums = [[writer.macs(config)] for config in cases.configs]
    else:
        sums = [writer.memory(config, cases.alike) for config in cases.configs]
    model = PolynomialCost(supernet.space, writer.variables, sums, unit=unit, by=tuple(cases.alike), which=cases.which)
    space, rng = supernet.space, np.random.default_rng(0)
    configs = dict.fromkeys([space.largest, space.smallest, *(space.sample(rng) for _ in range(CHECKED))])
    for config in configs:
        network = supernet.extract(config)
        found = getattr(count(network, writer.shape_of(network)), what)
        if model.cost(config) != found:
            raise NoTablesError(
                f"the formulas give {model.cost(config):,.0f} {unit} for an architecture that has {found:,}"
            )
    return model


@dataclass(frozen=True)
class Cases:
    """Which formulas there are.

    Args:
        alike: Genes that decide which formula it is: for every pick the one that stands for it.
        which: Number of the formula, for all picks of these genes.
        configs: The largest architecture of every formula.
    """

    alike: Mapping[int, Sequence[int]]
    which: IntMatrix
    configs: Sequence[SubnetConfig]


class Writer:
    """Writes the formulas of a converted supernet.

    Attributes:
        variables: What the formulas are of.
    """

    def __init__(self, supernet: ConvertedSupernet, input_shape: Any = None) -> None:
        self.supernet, self.space, self.graph = supernet, supernet.space, supernet.graph
        self.input_shape = input_shape
        self.variables: list[Variable] = []
        self._numbers: dict[Variable, int] = {}
        self._runs: dict[SubnetConfig, Run] = {}
        self.first = int(self.space.has_resolutions)
        self.leaves = [-1] * len(self.graph.leaves)
        for gene, group in enumerate(self.graph.groups, self.first):
            for leaf in group.leaves:
                self.leaves[leaf] = self._variable(gene, self.space.choices[gene].candidates)
        self.blocks = self._blocks()

    def _variable(self, gene: int, values: Sequence[Any]) -> int:
        wanted = Variable(gene, tuple(map(int, values)))
        if wanted not in self._numbers:
            self._numbers[wanted] = len(self.variables)
            self.variables.append(wanted)
        return self._numbers[wanted]

    def _blocks(self) -> dict[str, tuple[int, Indicator]]:
        """Of every block that can be left out the gene that decides about it, and with which picks it is there."""
        found, paths = {}, [path for stage in self.space.blocks for path in stage]
        for gene in range(self.first + len(self.graph.groups), self.space.num_genes):
            genes = np.tile(np.array(self.space.gene_sizes) - 1, (self.space.gene_sizes[gene], 1))
            genes[:, gene] = np.arange(len(genes))
            for path, gone in zip(paths, self.space.dropped(genes).T, strict=True):
                if gone.any():
                    found[path] = gene, tuple((~gone).astype(int).tolist())
        return found

    def cases(self, what: Counted) -> Cases:
        """Which formulas there are: one for every resolution, and where other operators run one for each way.

        So does attention, which runs as one operator only where the number of heads is even.
        """
        largest = np.array(self.space.gene_sizes) - 1
        alike = {0: list(range(self.space.gene_sizes[0]))} if self.first and what != "params" else {}
        for gene in self._heads() if what == "memory" else ():
            stands = self._alike(gene)
            combinations = math.prod(len(set(own)) for own in (*alike.values(), stands))
            if len(set(stands)) > 1 and combinations <= MOST_CASES:
                alike[gene] = stands
        picks = list(itertools.product(*alike.values()))
        numbers = {own: number for number, own in enumerate(dict.fromkeys(picks))}
        which = np.array([numbers[own] for own in picks]).reshape([len(own) for own in alike.values()])
        configs = []
        for own in numbers:
            largest[list(alike)] = own
            configs.append(self.space.config_of(largest))
        return Cases(alike, which, configs)

    def _alike(self, gene: int) -> list[int]:
        """For every pick of a gene the largest one with which the same operators make tensors."""
        largest = np.array(self.space.gene_sizes) - 1
        base = self.run(self.space.config_of(largest))
        stands, seen = [int(largest[gene])] * self.space.gene_sizes[gene], dict[tuple[Any, ...], int]()
        for pick in self._telling(gene)[::-1]:
            genes = largest.copy()
            genes[gene] = pick
            run = self.run(self.space.config_of(genes))
            if Alternative.of(base, run, 1).between:
                stands[pick] = seen.setdefault(tuple(run.ops), pick)
        return stands

    def _heads(self) -> list[int]:
        """Genes of groups that may change which operators run."""
        return [gene for gene in range(self.first, self._stages) if self._telling(gene)]

    @property
    def _stages(self) -> int:
        return self.first + len(self.graph.groups)

    def _telling(self, gene: int) -> list[int]:
        """Picks of a gene, but the last, that may change which tensors there are.

        These are fewer blocks, numbers of heads, and a single channel, for what has one entry need not be copied.
        """
        sizes = self.space.choices[gene].candidates[:-1]
        every = gene >= self._stages or self.graph.groups[gene - self.first].kind == "heads"
        return [pick for pick, size in enumerate(sizes) if every or size == 1]

    # Formulas.

    def of_shape(self, shape: Shape) -> Polynomial:
        """Number of entries."""
        return times(*(of_extent(side, self.leaves) for side in shape))

    def where(self, *owners: tuple[int, Indicator]) -> Polynomial:
        """1 where all of these are there, 0 elsewhere."""
        return times(*(variable(self._variable(gene, own)) for gene, own in owners))

    def params(self) -> Polynomial:
        """Parameters, each in the networks that have a module with it."""
        names: dict[int, list[str]] = {}
        for name, parameter in self.supernet.network.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        found = []
        for own in names.values():
            owners = {self._owner(name) for name in own}
            size = self.of_shape(self.graph.weights[own[0]])
            if None in owners:
                found.append(size)
                continue
            absent = [plus(constant(1), times(constant(-1), self.where(owner))) for owner in owners if owner]
            found.append(times(size, plus(constant(1), times(constant(-1), *absent))))
        return plus(*found)

    def _owner(self, name: str) -> tuple[int, Indicator] | None:
        return next((owner for path, owner in self.blocks.items() if name.startswith(f"{path}.")), None)

    def macs(self, config: SubnetConfig) -> Polynomial:
        """Multiply-accumulates of all operators, each in the networks that have its block."""
        read = self.read(config)
        found = []
        for place, macs in enumerate(read.run.macs):
            op, factors = read.trace.ops[place], read.factors.get(place)
            if macs is None:
                raise NoTablesError(f"nobody knows what operator {op.name} multiplies")
            if factors is None and not macs:
                continue
            if factors is None and any(side.kind != "fixed" for n in op.inputs for side in read.shapes[n]):
                raise NoTablesError(f"operator {op.name} multiplies tensors whose sizes vary, and has no formula")
            size = constant(macs) if factors is None else self.of_shape(factors)
            if self._at_largest(size) != macs:
                raise NoTablesError(f"operator {op.name} has another formula")
            found.append(times(size, self.where(*self.owners_of(place, read.trace))))
        return plus(*found)

    def owners_of(self, place: int, trace: Trace) -> list[tuple[int, Indicator]]:
        """Blocks in which an operator runs."""
        return [
            owner
            for path, owner in self.blocks.items()
            for call in trace.calls
            if call.path == INSIDE + path and call.first <= place < call.last
        ]

    def _at_largest(self, polynomial: Polynomial) -> int:
        return sum(
            factor * math.prod(self.variables[number].values[-1] for number in monomial)
            for monomial, factor in polynomial.items()
        )

    def memory(self, config: SubnetConfig, alike: Mapping[int, Sequence[int]]) -> list[Polynomial]:
        """Bytes at every moment.

        Args:
            config: The largest architecture of a case.
            alike: See :class:`Cases`.
        """
        read, largest = self.read(config), self.space.genes_of(config)
        others: dict[int, dict[int, Alternative]] = {}
        sizes = {place: self._bytes(read, place) for place in read.run.stored}
        for gene in range(self.first, self.space.num_genes):
            for pick in self._telling(gene):
                if pick == largest[gene] or (gene in alike and alike[gene][pick] != largest[gene]):
                    continue
                genes = largest.copy()
                genes[gene] = pick
                run, number = self.run(self.space.config_of(genes)), 1 + sum(map(len, others.values()))
                other = others.setdefault(gene, {})[pick] = Alternative.of(read.run, run, number)
                if other.between:
                    own = self.read(self.space.config_of(genes))
                    sizes |= {new: self._bytes(own, old) for old, new in other.places.items() if new in other.between}
        return [
            plus(*(times(constant(t.sign), sizes[t.place], self.where(*t.when)) for t in terms))
            for terms in levels(read.run, others, self.space.gene_sizes)
        ]

    def _bytes(self, read: Read, place: Place) -> Polynomial:
        op, leaf = place
        number = (read.trace.ops[op].outputs if op >= 0 else read.trace.inputs)[leaf]
        facts = read.trace.tensors[number]
        if facts.itemsize * math.prod(facts.shape) != read.run.stored[place]:
            name = read.trace.ops[op].name if op >= 0 else "the input"
            raise NoTablesError(f"{name} holds {read.run.stored[place]} bytes for a tensor {list(facts.shape)}")
        return times(constant(facts.itemsize), self.of_shape(read.shapes[number]))

    # Running networks.

    def shape_of(self, network: ConvertedNetwork) -> Any:
        """Shape of one input."""
        return self.input_shape if self.input_shape and not self.space.has_resolutions else network.input_shape

    def run(self, config: SubnetConfig) -> Run:
        """Observe the network of an architecture, once."""
        if config not in self._runs:
            network = self.supernet.extract(config)
            self._runs[config] = observe(network, one_input(network, self.shape_of(network)))
        return self._runs[config]

    def read(self, config: SubnetConfig) -> Read:
        """Observe the network of an architecture, and find the sizes of all its tensors."""
        network, run = self.supernet.extract(config), self.run(config)
        (x,) = one_input(network, self.shape_of(network))
        found = trace(network, x, attributes=False)
        if [op.name for op in found.ops] != [name for _, name in run.ops]:
            found = trace(network, x, attributes=False, numbers=True)
        if [op.name for op in found.ops] != [name for _, name in run.ops]:
            raise NoTablesError("the network runs other operators each time")
        kept = self.space.kept(self.space.genes_of(config)[None])[0].tolist()
        return Read.of(run, found, self.graph, leaf_sizes(self.graph, kept))


class Read:
    """A run of a network, with the sizes of all its tensors.

    Attributes:
        run: What was observed.
        trace: The same run, operator by operator.
        shapes: Of every tensor of the trace.
        factors: Of every operator that multiplies.
    """

    def __init__(self, run: Run, trace: Trace, shapes: Mapping[int, Shape], factors: Mapping[int, Shape]) -> None:
        self.run, self.trace, self.shapes, self.factors = run, trace, shapes, factors

    @classmethod
    def of(cls, run: Run, trace: Trace, graph: Graph, sizes: Sequence[int]) -> Read:
        """Carry the sizes of the weights through all operators.

        Raises:
            NoTablesError: If that tears apart what is cut as a whole.
        """
        leaves = {index: Axis(size) for index, size in enumerate(sizes)}

        def axis(side: Extent) -> Axis:
            if side.kind == "leaf":
                return leaves[side.index]
            if side.kind == "fixed":
                return fixed(side.size, "it does not vary")
            parts = [axis(part) for part in side.parts]
            return product(parts) if side.kind == "product" else total(parts)

        known = {
            trace.names[INSIDE + name]: [axis(side) for side in shape]
            for name, shape in graph.weights.items()
            if INSIDE + name in trace.names
        }
        tied = tie(trace, known)
        group_of = {leaf: place for place, group in enumerate(graph.groups) for leaf in group.leaves}
        found: dict[Axis, int] = {}
        for index, leaf in leaves.items():
            same = leaf.found()
            if same.kind != "leaf" or group_of[found.get(same, index)] != group_of[index]:
                raise NoTablesError(f"with one input, {graph.groups[group_of[index]].name} is torn apart")
            found[same] = index
        return cls(
            run,
            trace,
            {number: tuple(extent(side, found) for side in axes) for number, axes in tied.axes.items()},
            {place: tuple(extent(side, found) for side in axes) for place, axes in tied.factors.items()},
        )
