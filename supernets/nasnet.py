"""The NASNet cell space (Zoph et al., CVPR 2018, arXiv:1707.07012) and ENAS' shared weights of it (arXiv:1802.03268).

A cell has B blocks. A block picks two of the states before it, an operation for each, and how the two results are
combined; states that no block reads are concatenated into the output. There is a normal and a reduction cell.

Operations, skeleton and auxiliary head follow the authors' code (tensorflow/models, research/slim/nets/nasnet). What
differs: an identity that halves the resolution is a factorised reduction, where theirs is a strided 1x1 convolution of
as many weights; both inputs of a cell pass through a 1x1 convolution, where theirs leave out the first one if its
channels fit; odd image sizes work; and a concatenation inside a cell, which the published cells do not have, is brought
back to C channels by a 1x1 convolution, so that any operation can read it.

NASNet-B and NASNet-C exist as drawings only (arXiv:1707.07012, appendix B, figures 8 and 9); no text or code of their
cells is known to us, and they are left out. NASNet-B is outside of this space, too: a cell takes four states as input
and hands on all four that it makes, instead of concatenating the unused ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .base import Subnet, Supernet, arguments, check_classes, check_image_size, image_shape, inherit_weights
from .darts import KINDS, Kind, preprocess
from .genotype import Cell, Edge, Genotype
from .ops import (
    FactorizedReduce,
    by_resolution,
    check_ops,
    drop_path,
    make_op,
    relu_conv_bn,
    scheduled_drop_path,
)
from .space import ArchGraph, Choice, IntMatrix, SearchSpace, SubnetConfig

# The 13 operations of the paper, section 3. It does not say whether the dilated convolution is depthwise; the separable
# ones are named as such, so it is not.
CANDIDATES = (
    "skip_connect",
    "conv_3x1_1x3",
    "conv_7x1_1x7",
    "nor_dil_conv_3x3",
    "avg_pool_3x3",
    "max_pool_3x3",
    "max_pool_5x5",
    "max_pool_7x7",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
)
# Of ENAS' search for cells, which only adds (arXiv:1802.03268, section 2.4).
ENAS_CANDIDATES = ("skip_connect", "sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")

GENES = 5  # of a block: two inputs, two operations, the combination


@dataclass(frozen=True)
class NASNetSpace(SearchSpace):
    """What the blocks of both cells are made of; genes are in the order in which NASNet's controller decides.

    Choices ``normal_0_inputs`` (two rows; state 0 is the cell before last, 1 the last cell, ``2 + i`` block ``i``),
    ``normal_0_ops`` (two rows) and ``normal_0_combine``, then those of ``normal_1``, ..., ``reduce_0``, ... So an input
    always precedes its block, and no block is ever dead, because what nothing reads is part of the output.

    A mutation changes one gene: an input (AmoebaNet's hidden-state mutation) as often as an operation (its operation
    mutation, arXiv:1802.01548, section 3), a combination half as often. Crossover takes whole blocks. The canonical
    form sorts the two ``(input, operation)`` of every block; blocks that could change places are not sorted, because
    shared weights tell them apart.

    Args:
        name: Name of the space.
        blocks: B.
        candidates: Operation names.
        combinations: ``"add"``, ``"concat"`` or both.

    Raises:
        ValueError: If there is no block, or an operation or a combination is unknown.

    Example:
        >>> space = NASNetSpace(blocks=2)
        >>> [choice.name for choice in space.choices[:4]]
        ['normal_0_inputs', 'normal_0_ops', 'normal_0_combine', 'normal_1_inputs']
        >>> space.genotype(space.sample(0)).normal_concat
        (2, 3)
    """

    name: str = "nasnet"
    choices: tuple[Choice, ...] = field(init=False)
    blocks: int = 5
    candidates: tuple[str, ...] = CANDIDATES
    combinations: tuple[str, ...] = ("add", "concat")

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise ValueError(f"A NASNet cell has at least one block; got blocks={self.blocks}.")
        if not self.combinations or not set(self.combinations) <= {"add", "concat"}:
            raise ValueError(f"A block combines by 'add' or 'concat'; got combinations={self.combinations}.")
        check_ops(self.candidates)
        object.__setattr__(self, "candidates", tuple(self.candidates))
        object.__setattr__(self, "combinations", tuple(self.combinations))
        choices = [
            choice
            for kind in KINDS
            for block in range(self.blocks)
            for choice in (
                Choice(f"{kind}_{block}_inputs", tuple(range(block + 2)), rows=2),
                Choice(f"{kind}_{block}_ops", self.candidates, rows=2),
                Choice(f"{kind}_{block}_combine", self.combinations),
            )
        ]
        object.__setattr__(self, "choices", tuple(choices))
        super().__post_init__()

    def genotype(self, config: SubnetConfig) -> Genotype:
        """The cells of a config, the two edges of a block in canonical order."""
        config = self.canonical(config)
        cells: dict[str, Cell] = {}
        joined: dict[str, tuple[int, ...]] = {}
        for kind in KINDS:
            picks = [
                (config[f"{kind}_{b}_inputs"], config[f"{kind}_{b}_ops"], config[f"{kind}_{b}_combine"][0])
                for b in range(self.blocks)
            ]
            cells[kind] = tuple(
                tuple((str(op), int(source)) for op, source in zip(ops, inputs, strict=True))
                for inputs, ops, _ in picks
            )
            joined[kind] = tuple(b + 2 for b, (_, _, combine) in enumerate(picks) if combine == "concat")
        normal, reduce = cells["normal"], cells["reduce"]
        return Genotype(normal, unread(normal), reduce, unread(reduce), joined["normal"], joined["reduce"])

    def config(self, genotype: Genotype) -> SubnetConfig:
        """The config that builds a genotype: inverse of :meth:`genotype` up to the order of the edges of a block.

        Raises:
            ValueError: If the genotype is not in this space: another number of blocks or of edges, an operation or a
                combination that is not a candidate, or an output that is not just what no block reads.
        """
        picks: dict[str, Sequence[str | int]] = {}
        for kind in KINDS:
            cell: Cell = getattr(genotype, kind)
            concat, joined = getattr(genotype, f"{kind}_concat"), getattr(genotype, f"{kind}_joined")
            if len(cell) != self.blocks or any(len(edges) != 2 for edges in cell):
                raise ValueError(
                    f"Cells of {self.name!r} have {self.blocks} blocks of two edges; this {kind} cell has "
                    f"{[len(edges) for edges in cell]} edges."
                )
            if tuple(sorted(concat)) != unread(cell):
                raise ValueError(
                    f"Cells of {self.name!r} concatenate the states that no block reads, here {list(unread(cell))}; "
                    f"this {kind} cell concatenates {list(concat)}. NASNetNetwork(genotype) builds it directly."
                )
            for b, edges in enumerate(cell):
                picks[f"{kind}_{b}_inputs"] = [source for _, source in edges]
                picks[f"{kind}_{b}_ops"] = [op for op, _ in edges]
                picks[f"{kind}_{b}_combine"] = ["concat" if b + 2 in joined else "add"]
        return self.canonical(SubnetConfig(self.name, picks))

    def network(self, config: SubnetConfig, **settings: Any) -> NASNetNetwork:
        """The network of a config in any size: what was found on a small data set, deeper and wider on a large one.

        Args:
            config: The architecture.
            **settings: See :class:`NASNetNetwork`.
        """
        network = NASNetNetwork(self.genotype(config), **settings)
        network.config = config
        return network

    def graphs(self, config: SubnetConfig) -> list[ArchGraph]:
        return self.genotype(config).graphs()

    def nodes(self) -> list[list[int]]:
        """Genes of every block of both cells."""
        return [list(range(GENES * b, GENES * (b + 1))) for b in range(2 * self.blocks)]

    def gene_groups(self) -> list[list[int]]:
        return self.nodes()

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        blocks = genes.reshape(len(genes), -1, GENES)
        keys = blocks[..., :2] * len(self.candidates) + blocks[..., 2:4]
        swapped = keys[..., 0] > keys[..., 1]
        blocks[swapped] = blocks[swapped][:, [1, 0, 3, 2, 4]]
        return blocks.reshape(genes.shape)


def unread(cell: Cell) -> tuple[int, ...]:
    """States that no node of a cell reads."""
    read = {source for edges in cell for _, source in edges}
    return tuple(state for state in range(len(cell) + 2) if state not in read)


@dataclass(frozen=True)
class Plan:
    """The cells of a network, first to last.

    Args:
        stem_channels: Channels of the stem.
        cells: Kind and channels of every cell.
        auxiliary_after: Index of the cell whose output the auxiliary head reads.
        sides: Height and width there.
    """

    stem_channels: int
    cells: tuple[tuple[Kind, int], ...]
    auxiliary_after: int
    sides: tuple[int, int]


def _plan(
    channels: int,
    cells_per_stage: int,
    num_classes: int,
    image_size: int | tuple[int, int],
    stem: str,
    stem_channels: int | None,
) -> Plan:
    if stem not in ("cifar", "imagenet"):
        raise ValueError(f"stem must be 'cifar' or 'imagenet'; got {stem!r}.")
    if cells_per_stage < 1:
        raise ValueError(f"A stage has at least one normal cell; got cells_per_stage={cells_per_stage}.")
    check_classes(num_classes)
    if stem == "imagenet" and channels % 4:
        raise ValueError(
            f"The cells of the ImageNet stem have a quarter and a half of the channels; got channels={channels}. "
            "Choose a multiple of 4 (of 8, where reduction cells read their inputs directly)."
        )
    halvings = 5 if stem == "imagenet" else 2
    check_image_size(image_size, halvings, "This network")
    normal, reduce = KINDS
    cells: list[tuple[Kind, int]] = [] if stem == "cifar" else [(reduce, channels // 4), (reduce, channels // 2)]
    for stage in range(3):
        cells += [(reduce, channels * 2**stage)] if stage else []
        cells += [(normal, channels * 2**stage)] * cells_per_stage
    default = 3 * channels if stem == "cifar" else 32
    height, width = (math.ceil(side / 2 ** (halvings - 1)) for side in image_shape(1, image_size)[1:])
    return Plan(stem_channels or default, tuple(cells), len(cells) - cells_per_stage - 2, (height, width))


def _stem(in_channels: int, plan: Plan, stem: str) -> nn.Sequential:
    """3x3 convolution, with a stride for ImageNet, and batch normalisation."""
    conv = nn.Conv2d(in_channels, plan.stem_channels, 3, 2 if stem == "imagenet" else 1, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(plan.stem_channels))


def _join(channels: int) -> nn.Sequential:
    return relu_conv_bn(2 * channels, channels, 1, 1)


def _run_blocks(
    states: list[Tensor],
    cell: Sequence[Sequence[tuple[nn.Module, int]]],
    joins: Mapping[int, nn.Module],
    shrinks: Mapping[int, nn.Module],
    concat: Sequence[int],
    drop: float = 0.0,
) -> Tensor:
    """What both kinds of cells do once their inputs match.

    Args:
        states: The two inputs, ``[B, C, H, W]``; every block appends its own.
        cell: For each block the operations that enter it and the states they read.
        joins: What brings the blocks that concatenate back to C channels, by state.
        shrinks: What brings the inputs of a reduction cell to its resolution, if they are part of its output, by state.
        concat: States of the output.
        drop: Probability of dropping a path that is not an identity, of either resolution.
    """
    for entering in cell:
        terms = []
        for op, source in entering:
            term = op(states[source])
            skips = isinstance(op, nn.Identity | FactorizedReduce)
            terms.append(drop_path(term, drop) if drop > 0 and not skips else term)
        join = joins.get(len(states))
        states.append(sum(terms[1:], terms[0]) if join is None else join(torch.cat(terms, dim=1)))
    return torch.cat([shrinks[s](states[s]) if s in shrinks else states[s] for s in concat], dim=1)


class NASNetCell(nn.Module):
    """A cell that stands alone."""

    def __init__(
        self,
        cell: Cell,
        concat: Sequence[int],
        joined: Sequence[int],
        channels_in: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        reduction_before: bool,
    ) -> None:
        super().__init__()
        self.cell, self.concat, self.drop_path = cell, tuple(concat), 0.0
        self.preprocess0, self.preprocess1 = preprocess(channels_in, channels, reduction_before, affine=True)
        self.ops = nn.ModuleList(
            make_op(op, channels, 2 if reduction and source < 2 else 1, affine=True)
            for edges in cell
            for op, source in edges
        )
        self.joins = nn.ModuleDict({str(state): _join(channels) for state in joined})
        shrinks = [state for state in self.concat if state < 2 and reduction]
        self.shrinks = nn.ModuleDict({str(state): FactorizedReduce(channels, channels) for state in shrinks})

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        """``[B, C_0, H_0, W_0], [B, C_1, H, W] -> [B, len(concat) * C, H', W']``."""
        ops = iter(self.ops)
        return _run_blocks(
            [self.preprocess0(s0), self.preprocess1(s1)],
            [[(next(ops), source) for _, source in edges] for edges in self.cell],
            {int(state): module for state, module in self.joins.items()},
            {int(state): module for state, module in self.shrinks.items()},
            self.concat,
            self.drop_path if self.training else 0.0,
        )


class NASNetNetwork(Subnet):
    """The network of two cells; defaults are NASNet-A (6 @ 768), the paper's for CIFAR-10.

    Three stages of normal cells with a reduction cell between them, which doubles the channels. The ImageNet stem is a
    strided convolution and two reduction cells. Paths are dropped with a probability that grows with the depth
    (:func:`~oneshot.supernets.ops.scheduled_drop_path`). Left out: in the paper's large network for ImageNet the first
    cell of a stage does not read the output of the reduction cell.

    Args:
        genotype: The cells, as an object or as text; :data:`~oneshot.supernets.NASNET_CELLS` has published ones.
        channels: C of the first stage, F in the paper. It prints F of the last stage times the states of the output.
        cells_per_stage: N, the normal cells of a stage.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        stem: ``"cifar"`` keeps the resolution, ``"imagenet"`` divides it by 8.
        stem_channels: Channels of the stem's convolution; ``3 * channels`` for CIFAR and 32 for ImageNet by default.
        auxiliary: Add the auxiliary classifier at the end of the second stage (used by ``forward_with_auxiliary``).

    Raises:
        ValueError: If an operation is unknown, the image is too small or the channels cannot be divided.

    Example:
        >>> from oneshot.supernets import NASNET_CELLS
        >>> net = NASNetNetwork(NASNET_CELLS["NASNet-A"])
        >>> round(sum(p.numel() for p in net.parameters()) / 1e6, 1)
        3.3
    """

    def __init__(
        self,
        genotype: Genotype | str,
        *,
        channels: int = 32,
        cells_per_stage: int = 6,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        stem: Literal["cifar", "imagenet"] = "cifar",
        stem_channels: int | None = None,
        auxiliary: bool = False,
    ) -> None:
        self.init_args = arguments(locals())
        super().__init__()
        self.genotype = genotype if isinstance(genotype, Genotype) else Genotype.parse(genotype)
        self.init_args["genotype"] = str(self.genotype)
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        check_ops(sorted(self.genotype.ops))
        plan = _plan(channels, cells_per_stage, num_classes, image_size, stem, stem_channels)
        self.stem, self.cells = _stem(in_channels, plan, stem), nn.ModuleList()
        self.auxiliary_head: nn.Module | None = None
        self._auxiliary_after = plan.auxiliary_after
        widths, before = (plan.stem_channels, plan.stem_channels), False
        for index, (kind, c) in enumerate(plan.cells):
            cell, concat, joined = (getattr(self.genotype, f"{kind}{part}") for part in ("", "_concat", "_joined"))
            reduction = kind == "reduce"
            self.cells.append(NASNetCell(cell, concat, joined, widths, c, reduction=reduction, reduction_before=before))
            widths, before = (widths[1], len(concat) * c), reduction
            if auxiliary and index == plan.auxiliary_after:
                self.auxiliary_head = _auxiliary(widths[1], num_classes, plan.sides)
        self.classifier = nn.Linear(widths[1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self._logits(self._last(x)[0])

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        features, at_two_thirds = self._last(x)
        auxiliary = None if self.auxiliary_head is None else self.auxiliary_head(at_two_thirds)
        return self._logits(features), auxiliary

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        return by_resolution(self._outputs(x))

    def graphs(self) -> list[ArchGraph]:
        return self.genotype.graphs()

    def describes(self, config: SubnetConfig) -> bool:
        picks, blocks = dict(config.picks), 0
        for kind in KINDS:
            joined = getattr(self.genotype, f"{kind}_joined")
            for block, edges in enumerate(getattr(self.genotype, kind)):
                inputs, ops, combine = (picks.get(f"{kind}_{block}_{part}") for part in ("inputs", "ops", "combine"))
                if inputs is None or ops is None or combine is None or len(inputs) != len(ops):
                    return False
                if sorted(edges) != sorted(zip(ops, inputs, strict=True)) or (combine == ("concat",)) != (
                    block + 2 in joined
                ):
                    return False
                blocks += 1
        return len(picks) == 3 * blocks

    def strip_auxiliary(self) -> None:
        self.auxiliary_head = None
        self.init_args = {**self.init_args, "auxiliary": False}

    def set_drop_path(self, probability: float) -> None:
        """Drop each non-identity path of the last cell with this probability, per image; less in cells before it."""
        for index, cell in enumerate(self.cells):
            assert isinstance(cell, NASNetCell)
            cell.drop_path = scheduled_drop_path(probability, step=1, steps=1, cell=index, cells=len(self.cells))

    def _logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(F.relu(features).mean(dim=(2, 3)))
        return logits

    def _last(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the classifier reads, and the auxiliary head, which is kept only if there is one."""
        at_two_thirds: Tensor | None = None
        for index, features in enumerate(self._outputs(x)):
            if index == self._auxiliary_after and self.auxiliary_head is not None:
                at_two_thirds = features
        return features, at_two_thirds

    def _outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The output of every cell."""
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
            yield s1


def _auxiliary(channels: int, num_classes: int, sides: tuple[int, int]) -> nn.Module:
    """The auxiliary classifier; images too small for its pooling are not pooled."""
    pooled = min(sides) >= 5
    height, width = ((side - 5) // 3 + 1 if pooled else side for side in sides)
    return nn.Sequential(
        nn.ReLU(),
        nn.AvgPool2d(5, stride=3) if pooled else nn.Identity(),
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, (height, width), bias=False),
        nn.BatchNorm2d(768),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, num_classes),
    )


class SharedCell(nn.Module):
    """All cells of one place: an operation for every (block, input, candidate), as in ENAS' search for cells.

    ENAS has one for either side of a block, too; here both sides share it, so that their order does not matter.

    Args:
        space: The space.
        groups: How many states the outputs that the cell reads can have, first and second input.
        widths: Channels of each of these states.
        channels: C.
        reduction: Halve the resolution.
        reduction_before: The first input has twice the resolution.
    """

    def __init__(
        self,
        space: NASNetSpace,
        groups: tuple[int, int],
        widths: tuple[int, int],
        channels: int,
        *,
        reduction: bool,
        reduction_before: bool,
    ) -> None:
        super().__init__()
        self.kind: Kind = "reduce" if reduction else "normal"
        self.widths = widths
        channels_in = groups[0] * widths[0], groups[1] * widths[1]
        self.preprocess0, self.preprocess1 = preprocess(channels_in, channels, reduction_before, affine=True)
        self.ops = nn.ModuleDict(
            {
                _key(block, source, op): make_op(op, channels, 2 if reduction and source < 2 else 1, affine=True)
                for block in range(space.blocks)
                for source in range(block + 2)
                for op in space.candidates
            }
        )
        joined = range(2, space.blocks + 2) if "concat" in space.combinations else ()
        self.joins = nn.ModuleDict({str(state): _join(channels) for state in joined})
        shrinks = (0, 1) if reduction else ()
        self.shrinks = nn.ModuleDict({str(state): FactorizedReduce(channels, channels) for state in shrinks})

    def op(self, block: int, edge: Edge) -> nn.Module:
        """The operation of an edge that enters a block."""
        name, source = edge
        return self.ops[_key(block, source, name)]

    def forward(
        self, s0: Tensor, s1: Tensor, genotype: Genotype, groups0: Sequence[int], groups1: Sequence[int]
    ) -> Tensor:
        """Run one architecture; ``groups`` are the states that the outputs it reads are made of."""
        cell: Cell = getattr(genotype, self.kind)
        return _run_blocks(
            [
                run_part(self.preprocess0, s0, groups0, self.widths[0]),
                run_part(self.preprocess1, s1, groups1, self.widths[1]),
            ],
            [[(self.op(block, edge), edge[1]) for edge in edges] for block, edges in enumerate(cell)],
            {state: self.joins[str(state)] for state in getattr(genotype, f"{self.kind}_joined")},
            {int(state): module for state, module in self.shrinks.items()},
            getattr(genotype, f"{self.kind}_concat"),
        )


def _key(block: int, source: int, op: str) -> str:
    return f"{block}_{source}_{op}"


def pick_inputs(weight: Tensor, groups: Sequence[int], width: int) -> Tensor:
    """The weights ``[C_out, C_in, ...]`` that read some groups of ``width`` input channels."""
    return torch.cat([weight.narrow(1, group * width, width) for group in groups], dim=1)


def run_part(module: nn.Module, x: Tensor, groups: Sequence[int], width: int) -> Tensor:
    """Run a module whose matrices read more channels than there are, with the columns of those that are."""
    weights = {name: pick_inputs(p, groups, width) for name, p in module.named_parameters() if p.dim() > 1}
    result: Tensor = functional_call(module, weights, (x,))
    return result


class NASNetSupernet(Supernet):
    """Shared weights of a NASNet space for searches that sample: ENAS, evolution, single paths (arXiv:1802.03268).

    ``forward`` takes an architecture, not edge weights: a block that mixed all inputs, operations and combinations
    would run hundreds of them. Only what an architecture picks runs. Outputs of a cell hold different numbers of
    states, and what reads them uses the columns of its matrix that belong to the states that are there.

    Args:
        space: The space; by default that of the paper, with five blocks.
        channels: C of the first stage, doubled by every reduction.
        cells_per_stage: N, the normal cells of a stage.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        stem: See :class:`NASNetNetwork`.
        stem_channels: See :class:`NASNetNetwork`.

    Raises:
        ValueError: If the image is too small or the channels cannot be divided.

    Example:
        >>> net = NASNetSupernet(NASNetSpace(blocks=2), channels=4, cells_per_stage=1, image_size=8)
        >>> net(torch.zeros(2, 3, 8, 8), net.space.sample(0)).shape
        torch.Size([2, 10])
    """

    space: NASNetSpace

    def __init__(
        self,
        space: NASNetSpace | None = None,
        *,
        channels: int = 16,
        cells_per_stage: int = 2,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        stem: Literal["cifar", "imagenet"] = "cifar",
        stem_channels: int | None = None,
    ) -> None:
        self._settings = arguments(locals(), "space")
        super().__init__()
        self.space = space or NASNetSpace()
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        plan = _plan(channels, cells_per_stage, num_classes, image_size, stem, stem_channels)
        self.stem, self.cells = _stem(in_channels, plan, stem), nn.ModuleList()
        states = self.space.blocks + 2
        groups, widths, before = (1, 1), (plan.stem_channels, plan.stem_channels), False
        for kind, c in plan.cells:
            reduction = kind == "reduce"
            self.cells.append(SharedCell(self.space, groups, widths, c, reduction=reduction, reduction_before=before))
            groups, widths, before = (groups[1], states), (widths[1], c), reduction
        self.width = widths[1]
        self.classifier = nn.Linear(groups[1] * self.width, num_classes)

    def forward(self, x: Tensor, arch: SubnetConfig) -> Tensor:
        genotype = self.space.genotype(arch)
        s0 = s1 = self.stem(x)
        for cell, groups in zip(self.cells, self._groups(genotype), strict=False):  # and those of the classifier
            s0, s1 = s1, self.run_cell(cell, s0, s1, genotype, *groups)
        return run_part(self.classifier, F.relu(s1).mean(dim=(2, 3)), self._groups(genotype)[-1][1], self.width)

    def run_config(self, x: Tensor, config: SubnetConfig) -> Tensor:
        logits: Tensor = self(x, config)
        return logits

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> NASNetNetwork:
        network = self.prepare(self.space.network(config, **self._settings), config)
        if inherit:
            groups = self._groups(network.genotype)
            inherit_weights(network.stem, self.stem)
            _inherit_part(network.classifier, self.classifier, groups[-1][1], self.width)
            for theirs, mine, picked in zip(network.cells, self.cells, groups, strict=False):
                assert isinstance(theirs, NASNetCell) and isinstance(mine, SharedCell)
                _inherit_part(theirs.preprocess0, mine.preprocess0, picked[0], mine.widths[0])
                _inherit_part(theirs.preprocess1, mine.preprocess1, picked[1], mine.widths[1])
                ops = iter(theirs.ops)
                for block, edges in enumerate(theirs.cell):
                    for edge in edges:
                        inherit_weights(next(ops), mine.op(block, edge))
                for part in ("joins", "shrinks"):
                    for state, module in getattr(theirs, part).items():
                        inherit_weights(module, getattr(mine, part)[state])
        return network

    def _groups(self, genotype: Genotype) -> list[tuple[Sequence[int], Sequence[int]]]:
        """The states in the two inputs of every cell, then in those a cell after the last one would have."""
        groups: list[tuple[Sequence[int], Sequence[int]]] = [((0,), (0,))]
        for cell in self.cells:
            assert isinstance(cell, SharedCell)
            groups.append((groups[-1][1], getattr(genotype, f"{cell.kind}_concat")))
        return groups


def _inherit_part(target: nn.Module, source: nn.Module, groups: Sequence[int], width: int) -> None:
    """Copy the tensors of ``source``, of its matrices the columns of some groups of ``width`` input channels."""
    tensors = source.state_dict().items()
    target.load_state_dict({name: pick_inputs(t, groups, width) if t.dim() > 1 else t for name, t in tensors})
