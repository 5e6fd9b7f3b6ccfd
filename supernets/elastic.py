"""Elastic spaces and supernets: resolution, width, and in every stage a number of layers with a block each.

Once-for-all (Cai et al., ICLR 2020, arXiv:1908.09791) trains such supernets; NAT (Lu et al., TPAMI 2021,
arXiv:2005.05859) searches in them, with one gene for the resolution, one for the width and one for every layer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Subnet, Supernet, lay_out, layout_of
from .elastic_layers import ElasticBlock, inherit_slices
from .space import NONE, ArchGraph, Candidate, Choice, IntMatrix, SearchSpace, SubnetConfig, natural

RESOLUTION, WIDTH = "resolution", "width"
STEPS = 8  # resolutions are these parts of an image's size, from a half on


@dataclass(frozen=True)
class ElasticArch:
    """One architecture of an elastic space, without the layers that are left out.

    Args:
        resolution: Height and width of the images the network reads.
        width: Multiplies the channels.
        stages: Block of every layer, stage by stage.
    """

    resolution: int
    width: float
    stages: tuple[tuple[str, ...], ...]

    def graph(self, name: str) -> ArchGraph:
        """A chain of all layers."""
        layers = [(f"{s}.{r}", block) for s, blocks in enumerate(self.stages) for r, block in enumerate(blocks)]
        nodes = (f"{self.resolution} px, width {self.width:g}", *(label for label, _ in layers))
        return ArchGraph(name, nodes, tuple((i, i + 1, block) for i, (_, block) in enumerate(layers)))


@dataclass(frozen=True)
class ElasticSpace(SearchSpace):
    """Choices ``resolution``, ``width`` and one for every stage, with a block or ``none`` in each of its rows.

    Every list of candidates goes from the smallest to the largest. The first rows of a stage are its layers, rows
    behind them hold ``none``; a genome that keeps to this is canonical, and no two of them are one architecture.

    Sampling draws the resolution, the width and the depth of every stage uniformly, then the blocks of its layers. As
    in once-for-all, this is not uniform over architectures: most of these are deep, for there are more of them.

    Args:
        name: See :class:`SearchSpace`.
        choices: ``resolution`` (int), ``width`` (float), ``stage_0`` and so on (droppable), in this order.
        min_depths: Fewest layers of every stage.

    Raises:
        ValueError: If choices are missing, not in this order or not sorted, or a stage cannot have its fewest layers.

    Example:
        >>> blocks = Choice("stage_0", ("k3_e3", "k5_e3"), rows=3, droppable=True)
        >>> space = ElasticSpace("toy", (Choice("resolution", (16, 32)), Choice("width", (1.0,)), blocks), (2,))
        >>> space.size == 2 * (2**2 + 2**3)
        True
        >>> space.repair([[0, 0, 2, 2, 1]]).tolist()
        [[0, 0, 1, 0, 2]]
    """

    min_depths: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "min_depths", tuple(self.min_depths))
        names = [choice.name for choice in self.choices]
        expected = [RESOLUTION, WIDTH, *(f"stage_{i}" for i in range(len(self.min_depths)))]
        if names != expected:
            raise ValueError(
                f"Elastic space {self.name!r} must have the choices {expected}, in this order; got {names}."
            )
        for choice in self.choices[:2]:
            numbers = [float(candidate) for candidate in choice.candidates]
            if numbers != sorted(numbers) or numbers[0] <= 0 or choice.rows != 1 or choice.droppable:
                raise ValueError(
                    f"Choice {choice.name!r} of elastic space {self.name!r} must have one row of numbers above 0, from "
                    f"the smallest to the largest; got {choice}."
                )
        for stage, least in zip(self.stages, self.min_depths, strict=True):
            if not 1 <= least <= stage.rows or not stage.droppable or NONE in stage.candidates:
                raise ValueError(
                    f"A stage of elastic space {self.name!r} must be droppable, without the candidate {NONE!r}; its "
                    f"fewest layers must be from 1 to all its rows; got {stage} with {least}."
                )

    @property
    def stages(self) -> tuple[Choice, ...]:
        """The choices of the stages."""
        return self.choices[2:]

    @property
    def size(self) -> int:
        """Number of architectures."""
        stages = zip(self.stages, self.min_depths, strict=True)
        layers = [sum(len(s.candidates) ** depth for depth in range(least, s.rows + 1)) for s, least in stages]
        return math.prod([len(choice.candidates) for choice in self.choices[:2]] + layers)

    @property
    def smallest(self) -> SubnetConfig:
        """Lowest resolution, smallest width, fewest layers, first block in each."""
        return self._extreme(0, [(0, least) for least in self.min_depths])

    @property
    def largest(self) -> SubnetConfig:
        """Highest resolution, largest width, all layers, last block in each."""
        return self._extreme(-1, [(-1, stage.rows) for stage in self.stages])

    def _extreme(self, index: int, stages: Sequence[tuple[int, int]]) -> SubnetConfig:
        resolution, width = (choice.candidates[index] for choice in self.choices[:2])
        blocks = [(str(s.candidates[pick]),) * depth for s, (pick, depth) in zip(self.stages, stages, strict=True)]
        return self.config(ElasticArch(int(resolution), float(width), tuple(blocks)))

    def centroid(self) -> SubnetConfig:
        """Middle resolution and width, and in every stage half way from its fewest layers to all, of the middle block.

        Of two in the middle it is the smaller one.
        """
        resolution, width = (_middle(choice) for choice in self.choices[:2])
        stages = zip(self.stages, self.min_depths, strict=True)
        blocks = [(str(_middle(stage)),) * ((least + stage.rows) // 2) for stage, least in stages]
        return self.config(ElasticArch(int(resolution), float(width), tuple(blocks)))

    def arch(self, config: SubnetConfig) -> ElasticArch:
        """The architecture of a config, without the rows that are left out.

        Raises:
            ValueError: If ``config`` is not of this space.
        """
        self.validate(config)
        stages = (tuple(str(pick) for pick in config[stage.name] if pick != NONE) for stage in self.stages)
        return ElasticArch(int(config[RESOLUTION][0]), float(config[WIDTH][0]), tuple(stages))

    def config(self, arch: ElasticArch) -> SubnetConfig:
        """Inverse of :meth:`arch`.

        Raises:
            ValueError: If the architecture is not of this space.
        """
        if len(arch.stages) != len(self.stages):
            raise ValueError(
                f"An architecture of space {self.name!r} must have {len(self.stages)} stages; got {len(arch.stages)}."
            )
        picks: dict[str, Sequence[str | int | float]] = {RESOLUTION: [arch.resolution], WIDTH: [arch.width]}
        for stage, blocks in zip(self.stages, arch.stages, strict=True):
            picks[stage.name] = [*blocks, *[NONE] * (stage.rows - len(blocks))]
        config = SubnetConfig(self.name, picks)
        self.validate(config)
        return config

    def stage_columns(self) -> Iterator[tuple[Choice, int, slice]]:
        """Stages, their fewest layers, and where their genes are."""
        start = 2
        for stage, least in zip(self.stages, self.min_depths, strict=True):
            yield stage, least, slice(start, start + stage.rows)
            start += stage.rows

    def most_likely(self, probabilities: Mapping[str, npt.NDArray[np.floating[Any]]]) -> SubnetConfig:
        """The most likely pick of every row, repaired; ``none`` has the probability that a row's blocks leave."""
        genes: list[int] = []
        for choice in self.choices:
            rows = probabilities[choice.name]
            if choice.droppable:
                rows = np.concatenate([rows, 1 - rows.sum(-1, keepdims=True)], -1)
            genes += [int(pick) for pick in rows.argmax(-1)]
        return self.config_of(self.repair(np.array([genes]))[0])

    def graphs(self, config: SubnetConfig) -> list[ArchGraph]:
        return [self.arch(config).graph(self.name)]

    def check_rules(self, genes: IntMatrix) -> None:
        """Check that stages have their first layers and no holes.

        Args:
            genes: ``[N, G]``, in range.

        Raises:
            ValueError: Naming the row of the matrix, the stage, the layer and the way out.
        """
        for stage, least, columns in self.stage_columns():
            dropped = genes[:, columns] == len(stage.candidates)
            bad = dropped.copy()
            bad[:, least:-1] &= ~dropped[:, least + 1 :]
            bad[:, -1] &= least == stage.rows
            if bad.any():
                row, layer = (int(i) for i in np.argwhere(bad)[0])
                rule = (
                    f"its first {least} rows hold a layer"
                    if layer < least
                    else f"no row behind a {NONE!r} holds a layer"
                )
                raise ValueError(
                    f"{stage.name!r} of space {self.name!r} holds {NONE!r} in row {layer} of genome {row}, "
                    f"{[stage.picks[gene] for gene in genes[row, columns]]}; {rule}. space.repair(genes) makes it so."
                )

    def draw_genes(self, n: int, rng: np.random.Generator) -> IntMatrix:
        parts = [rng.integers(0, len(choice.candidates), size=(n, 1)) for choice in self.choices[:2]]
        for stage, least in zip(self.stages, self.min_depths, strict=True):
            depth = rng.integers(least, stage.rows + 1, size=(n, 1))
            blocks = rng.integers(0, len(stage.candidates), size=(n, stage.rows))
            parts.append(np.where(np.arange(stage.rows) < depth, blocks, len(stage.candidates)))
        return np.concatenate(parts, axis=1)

    def mutate_genes(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        """Another pick of one gene. A stage ends before a layer that is left out, and grows up to one that is added."""
        if self.size == 1:
            raise ValueError(
                f"Space {self.name!r} must have two architectures or more to mutate one; it has a single one."
            )
        child = super().mutate_genes(genes, rng)
        (gene,) = np.flatnonzero(child != genes)
        for stage, least, columns in self.stage_columns():
            if not columns.start <= gene < columns.stop:
                continue
            row, none, own = gene - columns.start, len(stage.candidates), child[columns]
            if own[row] == none and row < least:  # it cannot be left out, so it is another block
                return self.mutate_genes(genes, rng)
            if own[row] == none:
                own[row:] = none
            else:
                added = np.flatnonzero(own[:row] == none)
                own[added] = rng.integers(0, none, size=len(added))
        return child

    def gene_groups(self) -> list[list[int]]:
        return [[0], [1], *([*range(c.start, c.stop)] for _, _, c in self.stage_columns())]

    def repair_genes(self, genes: IntMatrix) -> IntMatrix:
        """Blocks move up over holes, in order; first layers that are missing become the smallest block."""
        for stage, least, columns in self.stage_columns():
            own = genes[:, columns]
            present = own != len(stage.candidates)
            blocks, rows = own[present], np.nonzero(present)[0]
            own[:, :least], own[:, least:] = 0, len(stage.candidates)
            own[rows, (np.cumsum(present, axis=1) - 1)[present]] = blocks
        return genes


def _middle(choice: Choice) -> Candidate:
    return choice.candidates[(len(choice.candidates) - 1) // 2]


def elastic_choices(
    resolutions: Sequence[int], widths: Sequence[float], blocks: Sequence[str], depths: Sequence[int]
) -> tuple[Choice, ...]:
    """The choices of an elastic space whose stages have the same blocks.

    Args:
        resolutions: Sizes of the images.
        widths: Multipliers of the channels.
        blocks: From the smallest to the largest.
        depths: Most layers of every stage.
    """
    sizes, factors = sorted({int(size) for size in resolutions}), sorted({float(width) for width in widths})
    stages = (Choice(f"stage_{i}", tuple(blocks), rows=depth, droppable=True) for i, depth in enumerate(depths))
    return (Choice(RESOLUTION, tuple(sizes)), Choice(WIDTH, tuple(factors)), *stages)


def default_resolutions(image_size: int, halvings: int) -> tuple[int, ...]:
    """The size of an image, and up to four below it from a half on, multiples of 4 that survive ``halvings``.

    Example:
        >>> default_resolutions(32, 3), default_resolutions(224, 5)
        ((16, 20, 24, 28, 32), (112, 140, 168, 196, 224))
    """
    sizes = {4 * round(image_size * part / STEPS / 4) for part in range(STEPS // 2, STEPS)}
    return (*sorted(size for size in sizes if 2**halvings <= size < image_size), image_size)


def checked_resolutions(resolutions: Sequence[int] | None, image_size: int, halvings: int) -> tuple[int, ...]:
    """Those that were given, or :func:`default_resolutions` for ``None``.

    Raises:
        ValueError: If none were given, or ``image_size`` is no number.
    """
    check_square(image_size)
    if resolutions is None:
        return default_resolutions(image_size, halvings)
    if not resolutions:
        raise ValueError(
            "resolutions must be sizes of images, at least one; got (). Pass None for those up to image_size."
        )
    return tuple(resolutions)


def check_square(image_size: int) -> None:
    """Check that one number is the height and width of an image.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(image_size, int):
        raise ValueError(
            f"The resolution of these networks is the side of square images, so image_size must be one whole number; "
            f"got {image_size!r}. For other proportions take ViTSupernet, or operations such as FBNetSupernet."
        )


def check_depths(depths: Sequence[int]) -> None:
    """Check that a stage can have every number of layers between the fewest and the most.

    Raises:
        ValueError: If a number is left out.
    """
    if sorted(set(depths)) != [*range(min(depths), max(depths) + 1)]:
        raise ValueError(f"depths of a stage must be consecutive, such as 2, 3, 4; got {tuple(depths)}.")


def resized(x: Tensor, size: int | Sequence[int]) -> Tensor:
    """Images at another size, ``[B, C, H, W] -> [B, C, *size]``; bilinear, with antialiasing, never distorted.

    Images that have it already come back as they are.

    Args:
        x: The images.
        size: Height and width, or one number for both.

    Raises:
        ValueError: If these are no images, or have other proportions.

    Example:
        >>> import torch
        >>> resized(torch.zeros(5, 3, 32, 64), (16, 32)).shape
        torch.Size([5, 3, 16, 32])
    """
    height, width = (size, size) if isinstance(size, int) else size
    if x.dim() == 4 and x.shape[2:] == (height, width):
        return x
    if x.dim() != 4 or not _is_scaled(x.shape[2:], (height, width)):
        raise ValueError(
            f"Images must have the proportions of {height} x {width} pixels, for resizing does not distort them; got "
            f"inputs of shape {list(x.shape[1:])}. Crop or pad them, as ImageFolder(image_size=...) does."
        )
    size = (height, width)
    wide = x.float() if x.element_size() < 4 else x  # not implemented for half precision on every device
    return F.interpolate(wide, size, mode="bilinear", align_corners=False, antialias=True).to(x.dtype)


def _is_scaled(images: Sequence[int], size: Sequence[int]) -> bool:
    """Whether both have the same proportions; squares exactly, others up to a pixel of the smaller."""
    if size[0] == size[1]:
        return images[0] == images[1]
    return round(images[0] * size[1] / images[1]) == size[0]


class ElasticNetwork(Subnet, ABC):
    """A network of an elastic space, standing alone.

    Attributes:
        arch: Its architecture.
        stages: Modules of all layers, ``stages[i][j]``, which run one after the other.
    """

    has_resolutions = True
    space_name: str
    arch: ElasticArch
    stages: nn.ModuleList

    def layers(self) -> list[nn.Module]:
        """The modules of all layers, first to last."""
        return [layer for stage in self.stages for layer in stage]  # type: ignore[attr-defined]  # ModuleList is untyped

    def graphs(self) -> list[ArchGraph]:
        return [self.arch.graph(self.space_name)]

    def describes(self, config: SubnetConfig) -> bool:
        picks = dict(config.picks)
        if not {RESOLUTION, WIDTH} <= picks.keys() or len(picks[RESOLUTION]) != 1 or len(picks[WIDTH]) != 1:
            return False
        names = sorted(picks.keys() - {RESOLUTION, WIDTH}, key=natural)
        stages = tuple(tuple(str(pick) for pick in picks[name] if pick != NONE) for name in names)
        settings = picks[RESOLUTION][0], picks[WIDTH][0]
        return settings == (self.arch.resolution, self.arch.width) and stages == self.arch.stages


class ElasticSupernet(Supernet, ABC):
    """Shared weights of which an architecture uses a part: first channels, first layers, inner kernels.

    ``forward`` takes a config, and images of any size, which it brings to the config's resolution on their device.
    The layers have the names they have in the networks it extracts. ``input_shape`` has the highest resolution, and the
    proportions of all: resizing keeps them.

    Attributes:
        upsample: Whether searches may enlarge images to the resolutions of the space.
    """

    has_resolutions = True
    space: ElasticSpace
    upsample: bool = False

    @abstractmethod
    def run(self, x: Tensor, arch: ElasticArch) -> Tensor:
        """Run an architecture of the space on images of its resolution: ``[B, C, H, W] -> [B, num_classes]``."""

    @abstractmethod
    def standalone(self, arch: ElasticArch) -> ElasticNetwork:
        """A network of this architecture with this supernet's settings and weights of its own."""

    def shape_of(self, config: SubnetConfig) -> tuple[int, ...]:
        return self._shape_at(self.space.arch(config).resolution)

    def _shape_at(self, resolution: int) -> tuple[int, int, int]:
        """A resolution is the width; the height follows from the proportions of :attr:`input_shape`."""
        channels, height, width = self.input_shape
        return channels, round(height * resolution / width), resolution

    def sort_channels(self) -> bool:
        sort_channels(self)
        return True

    def check_images(self, size: int) -> None:
        highest = min(self.input_shape[1:])
        if size < highest and not self.upsample:
            raise ValueError(
                f"Images must have {highest} pixels, the highest resolution of space {self.space.name!r}; they have "
                f"{size}. Enlarged images take more time and show nothing more. Pass resolutions up to {size}, or "
                f"upsample=True to {type(self).__name__} to enlarge them."
            )

    def forward(self, x: Tensor, arch: SubnetConfig) -> Tensor:
        """Run one architecture.

        Args:
            x: Images of any size, ``[B, C, H, W]``, in the proportions of :attr:`input_shape`.
            arch: Which one.

        Raises:
            ValueError: If ``arch`` is not of this space, or the images have other proportions.
        """
        wanted = self.space.arch(arch)
        return self.run(resized(x, self._shape_at(wanted.resolution)[1:]), wanted)

    def run_config(self, x: Tensor, config: SubnetConfig) -> Tensor:
        logits: Tensor = self(x, config)
        return logits

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> ElasticNetwork:
        network = self.prepare(self.standalone(self.space.arch(config)), config)
        if inherit:
            lay_out(network, layout_of(*self.parameters()))
            inherit_slices(network, self)
        return network


def sort_channels(supernet: ElasticSupernet) -> None:
    """Put the channels inside of every block in order of importance, so that narrow blocks keep those that matter most.

    The importance of a channel is the sum of the absolute weights that read it, as in once-for-all before its blocks
    become narrower (arXiv:1908.09791, section 3.3). The function of the largest network stays the same. Do it between
    trainings: an optimiser's momenta do not follow.

    Args:
        supernet: Its weights change in place.
    """
    for module in supernet.modules():
        if isinstance(module, ElasticBlock):
            module.sort_channels()
