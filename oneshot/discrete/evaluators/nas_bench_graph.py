"""NAS-Bench-Graph (Qin et al., NeurIPS 2022, arXiv:2206.09166): graph neural networks that were trained on nine graphs.

The table is read from the files of the package ``nas-bench-graph``, without the package and without running anything
that a file names. An architecture is a tree of four operations below the input; the outputs of its leaves together are
read by the classifier.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from oneshot.supernets.json_files import shorten
from oneshot.supernets.space import Choice, IntMatrix, SearchSpace

from .benchmarks import unpickled
from .tables import TabularEvaluator

# In the order of the benchmark's numbers. An operation reads the input, 0, or the operation of that number, from 1.
INPUTS = ("0000", "0001", "0011", "0012", "0013", "0111", "0112", "0122", "0123")
OPERATIONS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
OPERATIONS_PROTEINS = ("gcn", "sage", "arma", "fc", "skip")  # what was trained on the graph "proteins"
SKIP, OUTPUT = "skip", ("output",)
METRICS = {"valid_perf": ("val_performance", 1.0), "perf": ("test_performance", 1.0)}
METRICS |= {"latency": ("latency", 1000.0), "para": ("params", 1.0)}

Tree: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class NASBenchGraphSpace(SearchSpace):
    """Choice ``inputs`` says what the four operations read, choice ``operation`` which they are.

    Architectures that are one network have one canonical spelling: operations that read the same are in any order, and
    a skip connection is its input, wherever it stands. The input itself is no output. Of 59,049 spellings 26,207 are
    left, one of which does nothing and was not trained.

    Example:
        >>> from oneshot.supernets import SubnetConfig
        >>> space = NASBenchGraphSpace()
        >>> one = SubnetConfig("nasbenchgraph", {"inputs": ["0000"], "operation": ["gat", "gcn", "gat", "fc"]})
        >>> other = SubnetConfig("nasbenchgraph", {"inputs": ["0000"], "operation": ["fc", "gat", "gcn", "gat"]})
        >>> bool((space.repair(space.encode([one])) == space.repair(space.encode([other]))).all())
        True
    """

    name: str = "nasbenchgraph"
    choices: tuple[Choice, ...] = field(
        default=(Choice("inputs", INPUTS), Choice("operation", OPERATIONS, rows=4)),
    )

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        operations = tuple(str(name) for name in self.choices[1].candidates)
        numbers = np.ravel_multi_index(tuple(genes.T), self.gene_sizes)
        spellings: IntMatrix = canonical_spellings(operations)[numbers]
        return spellings


def nas_bench_graph(path: str | Path, *, complete: bool = True) -> TabularEvaluator:
    """The table of one graph, from a file ``light/*.bench`` of the package ``nas-bench-graph``, such as ``cora.bench``.

    Metrics: ``val_performance`` and ``test_performance`` as shares (accuracy, of ``proteins`` the area under the ROC
    curve), ``latency`` in ms, ``params`` in millions; all are means over three trainings.

    Args:
        path: The file.
        complete: Refuse a file that lacks architectures.

    Raises:
        ValueError: If the file is missing, damaged or of another kind, or architectures are missing.

    Example:
        >>> table = nas_bench_graph("cora.bench")  # doctest: +SKIP
        >>> Study(GaussianProcess(table.space), table, ["max val_performance"], evaluations=100).run()  # doctest: +SKIP
    """
    path = Path(path)
    data = unpickled(path)
    if not isinstance(data, Mapping) or not data:
        raise ValueError(f"{path} must be a dictionary of results by numbers; it is {shorten(data)}.")
    spellings = {number: _spelling(path, number) for number in data}
    used = {name for _, names in spellings.values() for name in names}
    operations = OPERATIONS_PROTEINS if used <= set(OPERATIONS_PROTEINS) else OPERATIONS
    space = NASBenchGraphSpace(choices=(Choice("inputs", INPUTS), Choice("operation", operations, rows=4)))
    genes = np.array([[inputs, *map(operations.index, names)] for inputs, names in spellings.values()])
    columns: dict[str, npt.ArrayLike] = {}
    for theirs, (ours, factor) in METRICS.items():
        try:
            columns[ours] = [factor * float(row[theirs]) for row in data.values()]
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise ValueError(
                f"{path} must have numbers {', '.join(METRICS)} for every architecture; {theirs} fails ({error!r})."
            ) from error
    try:
        table = TabularEvaluator(space, space.repair(genes), columns)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    every = len(np.unique(canonical_spellings(operations), axis=0)) - 1  # without the one that does nothing
    if complete and len(table) < every:
        raise ValueError(f"{path} has {len(table):,} of {every:,} architectures. complete=False allows it.")
    return table


def _spelling(path: Path, number: object) -> tuple[int, tuple[str, ...]]:
    """Inputs and operations of the benchmark's number: decimal digits, the last four of which are operations."""
    if isinstance(number, int) and 0 <= number < 10_000 * len(INPUTS):
        inputs, *digits = (number // 10_000, *(int(digit) for digit in f"{number % 10_000:04d}"))
        if max(digits) < len(OPERATIONS):
            return inputs, tuple(OPERATIONS[digit] for digit in digits)
    raise ValueError(
        f"{path} must have numbers of architectures: a digit from 0 to {len(INPUTS) - 1} for the inputs, and four from "
        f"0 to {len(OPERATIONS) - 1} for the operations; got {shorten(number)}."
    )


@lru_cache
def canonical_spellings(operations: tuple[str, ...]) -> IntMatrix:
    """The canonical spelling of every spelling, in their order: ``[9 n^4, 5]``, of n operations."""
    first: dict[Tree, tuple[int, ...]] = {}
    found = []
    for genes in itertools.product(range(len(INPUTS)), *[range(len(operations))] * 4):
        tree = tree_of(INPUTS[genes[0]], [operations[gene] for gene in genes[1:]])
        found.append(first.setdefault(tree, genes))
    return np.array(found, dtype=np.int64)


def tree_of(inputs: str, operations: Sequence[str]) -> Tree:
    """What an architecture computes: operations, each with what reads it, without skip connections and in one order."""
    readers: list[list[int]] = [[] for _ in range(5)]
    for number, read in enumerate(inputs, start=1):
        readers[int(read)].append(number)

    def branches(node: int) -> list[Tree]:
        found: list[Tree] = []
        for reader in readers[node]:
            below = branches(reader)
            if operations[reader - 1] == SKIP:
                found += below or [OUTPUT]
            else:  # what nothing reads is an output
                found.append((operations[reader - 1], *sorted(below if below != [OUTPUT] else [])))
        return found

    return tuple(sorted(branch for branch in branches(0) if branch != OUTPUT))
