"""Binary features of architectures: genes, counts, paths, and walks through their graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from oneshot.supernets.nasnet import NASNetSpace
from oneshot.supernets.space import NONE, IntMatrix, SearchSpace, SubnetConfig

from .encoding import one_hot

Singles: TypeAlias = npt.NDArray[np.float32]
Graphs: TypeAlias = Literal["path", "walk", "none"]
CACHED = 20_000  # architectures whose paths are kept


def has_common_paths(space: SearchSpace) -> bool:
    """Whether architectures are graphs that have paths in common; those of NASNet's space hardly have."""
    return bool(space.nodes()) and not isinstance(space, NASNetSpace)


def count_features(space: SearchSpace, genes: IntMatrix) -> Singles:
    """How often each pick occurs among genes with the same picks, whatever their order: ``[N, G] -> [N, P]``.

    One column for every number of times: "at least k", so that a distance is a difference of counts. Genes with the
    same picks are the rows of a choice, and those of other choices of the same candidates (the kernels of all stages).

    Example:
        >>> from oneshot.supernets import Choice
        >>> space = SearchSpace("toy", (Choice("layer", ("a", "b"), rows=2),))
        >>> count_features(space, np.array([[0, 0], [0, 1]])).tolist()
        [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]
    """
    picks = [choice.picks for choice in space.choices for _ in range(choice.rows)]
    parts = []
    for group in dict.fromkeys(picks):
        columns = genes[:, [g for g, own in enumerate(picks) if own == group]]
        least = np.arange(1, columns.shape[1] + 1)
        parts += [(columns == pick).sum(1)[:, None] >= least for pick in range(len(group))]
    return np.concatenate(parts, axis=1).astype(np.float32)


class ArchitectureFeatures:
    """Features of several kinds: one-hot genes; counts; where architectures are graphs, what leads through them.

    Args:
        space: The space.
        graphs: ``"path"``: :class:`Paths`. ``"walk"``: :class:`Walks`, for graphs with few paths in common. ``"none"``:
            genes and counts only. ``"auto"`` takes paths where the space has graphs, walks in NASNet's.
        most: Paths or walks that are features.

    Raises:
        ValueError: If paths are asked for in a space that has none.
    """

    def __init__(
        self, space: SearchSpace, graphs: Literal["auto", "path", "walk", "none"] = "auto", *, most: int = 200
    ) -> None:
        if graphs not in ("auto", "path", "walk", "none"):
            raise ValueError(f"graphs must be 'auto', 'path', 'walk' or 'none'; got {graphs!r}.")
        if graphs == "path" and not space.nodes():
            raise ValueError(f"Space {space.name!r} has no graph with paths; take 'walk', 'none' or 'auto'.")
        if graphs == "auto":
            graphs = "path" if has_common_paths(space) else "walk" if space.nodes() else "none"
        self.space = space
        self.graphs: GraphFeatures | None = None if graphs == "none" else (Paths, Walks)[graphs == "walk"](space, most)

    def encode(self, genes: IntMatrix) -> list[Singles]:
        """``[N, G]`` to features of each kind, ``[N, P]``; which paths these are depends on all N architectures."""
        blocks = [one_hot(self.space, genes).astype(np.float32), count_features(self.space, genes)]
        if self.graphs is not None:
            blocks.append(self.graphs.encode([self.space.config_of(row) for row in genes]))
        return blocks


class GraphFeatures(ABC):
    """Binary features of graphs: each is whether an architecture has something that others have, too.

    One feature for everything that any of the architectures has; where these are too many, for what most have.

    Args:
        space: A space of graphs.
        most: Features that are kept.
    """

    def __init__(self, space: SearchSpace, most: int = 200) -> None:
        self.space, self.most = space, most
        self._cache: dict[SubnetConfig, frozenset[tuple[str, ...]]] = {}

    def of(self, config: SubnetConfig) -> frozenset[tuple[str, ...]]:
        """All that an architecture has."""
        if config not in self._cache:
            if len(self._cache) >= CACHED:
                self._cache.clear()
            self._cache[config] = self._find(config)
        return self._cache[config]

    @abstractmethod
    def _find(self, config: SubnetConfig) -> frozenset[tuple[str, ...]]:
        """All that an architecture has, which is then kept."""

    def encode(self, configs: Sequence[SubnetConfig]) -> Singles:
        """``[N, features]``; which features these are depends on ``configs``."""
        found = [self.of(config) for config in configs]
        counts = Counter(path for paths in found for path in paths)
        kept = sorted(counts, key=lambda path: (-counts[path], len(path), path))[: self.most]
        column = {path: i for i, path in enumerate(sorted(kept, key=lambda path: (len(path), path)))}
        encoded = np.zeros((len(configs), len(column)), dtype=np.float32)
        for row, paths in zip(encoded, found):
            row[[column[path] for path in paths if path in column]] = 1
        return encoded


class Paths(GraphFeatures):
    """Which sequences of operations lead from an input of a cell to its output (arXiv:1910.11858, section 3.1).

    One feature for each sequence that any of the architectures has; where these are too many, for those that most have
    (the paper keeps the likeliest of random ones). ``none`` ends a path, so that architectures that compute the same
    are encoded alike. So are some others, for a path counts once: one in ten mutants in NAS-Bench-201, one in six in
    NAS-Bench-101. Operations are on edges or, as there, on vertices; blocks that concatenate do so on the path.

    Args:
        space: A space of graphs.
        most: Features that are kept.

    Example:
        >>> from oneshot.supernets import NASBench201Space
        >>> space = NASBench201Space()
        >>> only = space.from_arch_string("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|")
        >>> sorted(Paths(space).of(only))
        [('cell', 'in', 'nor_conv_3x3')]
    """

    def _find(self, config: SubnetConfig) -> frozenset[tuple[str, ...]]:
        """All paths: name of the cell, its input, and the operations."""
        found: set[tuple[str, ...]] = set()
        for graph in self.space.graphs(config):
            edges = [(s, t, label) for s, t, label in graph.edges if label != NONE]
            into, last = {t for _, t, _ in graph.edges}, len(graph.nodes) - 1
            ways: dict[int, set[tuple[str, ...]]] = {
                i: {(graph.name, name)} for i, name in enumerate(graph.nodes) if i not in into
            }
            for node, name in enumerate(graph.nodes):
                here = name.lstrip("0123456789 ") if node < last else ""  # numbers tell nodes apart, and do nothing
                for source, target, label in edges:
                    if target == node:
                        done = [operation for operation in (label, here) if operation]
                        ways.setdefault(node, set()).update((*way, *done) for way in ways.get(source, ()))
            found |= ways.get(last, set())
        return frozenset(found)


class Walks(GraphFeatures):
    """Which operations, and which pairs of operations one behind the other, the graphs of an architecture have.

    The first two iterations of the relabelling of Weisfeiler and Lehman, with one input at a time: what NAS-BOWL's
    kernel (Ru et al., ICLR 2021, arXiv:2006.07556) compares architectures by.
    """

    def _find(self, config: SubnetConfig) -> frozenset[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        for graph in self.space.graphs(config):
            names = [name.lstrip("0123456789 ") for name in graph.nodes]
            edges = [
                (s, t, (label, names[t]) if t < len(names) - 1 else (label,))
                for s, t, label in graph.edges
                if label != NONE
            ]
            for source, target, label in edges:
                found.add((graph.name, *label))
                found |= {(graph.name, *label, *after) for s, _, after in edges if s == target}
                if not any(t == source for _, t, _ in edges):
                    found.add((graph.name, graph.nodes[source], *label))
        return frozenset(found)
