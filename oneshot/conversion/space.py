"""The search space of a converted network: widths, heads, kernels, depths and resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from oneshot.supernets.elastic import RESOLUTION
from oneshot.supernets.space import ArchGraph, Choice, IntMatrix, SearchSpace, SubnetConfig

from .graph import Graph
from .network import chain


@dataclass(frozen=True)
class ConvertedSpace(SearchSpace):
    """What can be kept of a network. All candidates go from the smallest to the largest; the last is all there is.

    ``resolution`` is the side of the images, where there are several. ``width_LAYER`` is the number of channels that
    layer, and all that must follow it, has; ``heads_LAYER`` the number of heads of attention, ``kernel_LAYER`` the side
    of a depthwise kernel. ``depth_CONTAINER`` is the number of blocks of a container; the last ones are left out.

    Widths of blocks that are left out mean nothing; in the canonical form they are the largest. Sampling draws every
    choice uniformly. As in elastic spaces, this is not uniform over architectures: most of these are deep.

    Args:
        name: See :class:`~oneshot.supernets.SearchSpace`.
        choices: Resolution if there is one, then groups, then stages.
        owners: Of every group the stage that it belongs to, and how many blocks this must have for the group to be in
            the network; ``(-1, 0)`` of groups that always are.
        others: Of every stage the number of blocks that cannot be left out.
        blocks: Of every stage the blocks that can be left out, first to last.
    """

    owners: tuple[tuple[int, int], ...] = ()
    others: tuple[int, ...] = ()
    blocks: tuple[tuple[str, ...], ...] = ()

    @property
    def has_resolutions(self) -> bool:
        """Whether the resolution is a choice."""
        return self.choices[0].name == RESOLUTION

    @property
    def size(self) -> int:
        """Number of architectures; widths of blocks that are left out do not count."""
        groups = self._groups
        total = len(self.choices[0].candidates) if self.has_resolutions else 1
        total *= math.prod(len(g.candidates) for g, (stage, _) in zip(groups, self.owners, strict=True) if stage < 0)
        for number, choice in enumerate(self._stages):
            own = [(len(g.candidates), least) for g, (s, least) in zip(groups, self.owners, strict=True) if s == number]
            total *= sum(math.prod(count for count, least in own if least <= int(depth)) for depth in choice.candidates)
        return total

    @property
    def smallest(self) -> SubnetConfig:
        """The smallest pick of every choice, in canonical form."""
        return self.canonical(self.config_of(np.zeros(self.num_genes, dtype=np.int64)))

    @property
    def largest(self) -> SubnetConfig:
        """The original network."""
        return self.config_of(np.array(self.gene_sizes) - 1)

    @property
    def _start(self) -> int:
        return int(self.has_resolutions)

    @property
    def _groups(self) -> tuple[Choice, ...]:
        return self.choices[self._start : self._start + len(self.owners)]

    @property
    def _stages(self) -> tuple[Choice, ...]:
        return self.choices[self._start + len(self.owners) :]

    def kept(self, genes: IntMatrix) -> IntMatrix:
        """Entries that are kept of every group: ``[N, G] -> [N, groups]``."""
        return self._values(genes, self._groups, self._start)

    def depths(self, genes: IntMatrix) -> IntMatrix:
        """Blocks that are kept of every stage, with those that cannot be left out: ``[N, G] -> [N, stages]``."""
        return self._values(genes, self._stages, self._start + len(self.owners))

    def dropped(self, genes: IntMatrix) -> npt.NDArray[np.bool_]:
        """Which blocks are left out: ``[N, G] -> [N, blocks]``, stage by stage."""
        depths = self.depths(genes)
        columns = [
            depths[:, [stage]] <= self.others[stage] + np.arange(len(blocks))[None]
            for stage, blocks in enumerate(self.blocks)
        ]
        return np.concatenate([np.zeros((len(genes), 0), dtype=bool), *columns], axis=1)

    def resolutions(self, genes: IntMatrix) -> IntMatrix | None:
        """Side of the images, ``[N, G] -> [N]``; None if it is no choice."""
        return self._values(genes, self.choices[:1], 0)[:, 0] if self.has_resolutions else None

    def _values(self, genes: IntMatrix, choices: Sequence[Choice], start: int) -> IntMatrix:
        columns = [np.array(c.candidates, dtype=np.int64)[genes[:, start + i]] for i, c in enumerate(choices)]
        return np.stack(columns, axis=1) if columns else np.zeros((len(genes), 0), dtype=np.int64)

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        """Widths of blocks that are left out become the largest."""
        depths = self.depths(genes)
        for number, (stage, least) in enumerate(self.owners):
            if stage >= 0:
                column = self._start + number
                genes[depths[:, stage] < least, column] = self.gene_sizes[column] - 1
        return genes

    def draw_genes(self, n: int, rng: np.random.Generator) -> IntMatrix:
        """Every choice is drawn uniformly, then brought into canonical form."""
        return self.canonical_genes(super().draw_genes(n, rng))

    def mutate_genes(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        """Change one decision that the network shows."""
        if self.size == 1:
            raise ValueError(
                f"Space {self.name!r} must have two architectures or more to mutate one; it has a single one."
            )
        depths, shown = self.depths(genes[None])[0], np.array(self.gene_sizes) > 1
        for number, (stage, least) in enumerate(self.owners):
            shown[self._start + number] &= stage < 0 or depths[stage] >= least
        gene = int(rng.choice(np.flatnonzero(shown)))
        child = genes.copy()
        child[gene] = (genes[gene] + rng.integers(1, self.gene_sizes[gene])) % self.gene_sizes[gene]
        return child

    def nearest(self, ratio: float) -> SubnetConfig:
        """All widths and heads at one ratio of the original's, as near as the candidates allow; nothing is left out.

        Args:
            ratio: Above 0, up to 1.
        """
        picks = [len(choice.picks) - 1 for choice in self.choices]
        for place, choice in enumerate(self.choices):
            if choice.name.startswith(("width_", "heads_")):
                sizes = np.array(choice.candidates, dtype=np.float64)
                picks[place] = int(np.abs(sizes - ratio * sizes[-1]).argmin())
        return self.config_of(np.array(picks))

    def picked(self, config: SubnetConfig) -> list[tuple[str, int, int]]:
        """Name of every choice, what is kept, and what there is."""
        return [(c.name, int(config[c.name][0]), int(c.candidates[-1])) for c in self.choices]

    def graphs(self, config: SubnetConfig) -> list[ArchGraph]:
        """One chain of all choices, with what is kept of what there is."""
        self.validate(config)
        return [chain(self.name, self.picked(config))]


def space_of(name: str, graph: Graph, resolutions: Sequence[int] = ()) -> ConvertedSpace:
    """The space of a graph.

    Args:
        name: Of the space.
        graph: Of the network.
        resolutions: Sides of images, if there are several.

    Raises:
        ValueError: If there is nothing to choose.
    """
    choices = [Choice(RESOLUTION, tuple(sorted(resolutions)))] if len(resolutions) > 1 else []
    choices += [Choice(group.name, group.sizes) for group in graph.groups]
    for stage in graph.stages:
        depths = range(stage.others + stage.least, stage.others + len(stage.blocks) + 1)
        choices.append(Choice(stage.name, tuple(depths)))
    if not choices:
        reasons = "; ".join(f"{f.what} ({f.size}): {f.why}" for f in graph.fixed[:5])
        raise ValueError(
            "A network to convert must have something that can vary: channels, heads or residual blocks; this one has "
            f"nothing. {reasons or 'It has no weights.'}"
        )
    owners = tuple(_owner(graph, group.weights) for group in graph.groups)
    others = tuple(stage.others for stage in graph.stages)
    return ConvertedSpace(name, tuple(choices), owners, others, tuple(stage.blocks for stage in graph.stages))


def _owner(graph: Graph, weights: Sequence[str]) -> tuple[int, int]:
    """The stage whose blocks have all these weights, and the blocks it must have for the first of them."""
    for number, stage in enumerate(graph.stages):
        inside = [[name.startswith(f"{block}.") for name in weights] for block in stage.blocks]
        if all(map(any, zip(*inside, strict=True))):
            return number, stage.others + 1 + next(place for place, has in enumerate(inside) if any(has))
    return -1, 0
