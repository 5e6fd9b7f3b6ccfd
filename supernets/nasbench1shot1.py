"""NAS-Bench-1Shot1: three parts of NAS-Bench-101 for one-shot search (Zela et al., ICLR 2020, arXiv:2001.10422).

A cell has choice blocks. Each adds up some of the projected cell input and the blocks before it, and applies one of
three operations; the output takes some of them all. A space fixes how many each block and the output take.

The shared network follows the authors' code (automl/nasbench-1shot1): all blocks have C channels and the output
concatenates what it takes, the projected input included. NAS-Bench-101 itself divides C among the blocks the output
takes and adds the input (:mod:`.nasbench101`), which shared weights cannot follow. So an extracted network computes
what the shared one does, and the network the tables measured is built from :meth:`NASBench1Shot1Space.cell`.

Two things differ from the authors' code. A choice is made among the *sets* of parents, so that certainty is an
architecture; they weigh single parents, and take the best ones in the end. And pooling between the stages pads where
TensorFlow does, at the bottom and the right and only for odd sizes; theirs makes 17 pixels of 32.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from .base import OperationSupernet, Subnet, arguments, image_shape, inherit_weights
from .execution import CellRun, WiredPlan, Wiring
from .mixed_op import MixedOp, arch_of_cell
from .nasbench101 import INPUT, OPERATIONS, OUTPUT, NASBench101Cell, conv_bn_relu, make_operation, stem_and_blocks
from .ops import relu_conv_bn
from .space import ArchGraph, Candidate, Choice, IntMatrix, SearchSpace, SubnetConfig

Number: TypeAlias = Literal[1, 2, 3]

# Number of parents of block 1, 2, ..., and of the output.
NUM_PARENTS: dict[int, tuple[int, ...]] = {1: (1, 2, 2, 2, 2), 2: (1, 1, 2, 2, 3), 3: (1, 1, 1, 2, 2, 2)}


@dataclass(frozen=True)
class NASBench1Shot1Space(SearchSpace):
    """One of the three spaces: choice ``ops`` holds the operation of every block.

    Choices ``parents_2``, ``parents_3``, ... and ``output`` hold what a block or the output takes, as in ``"0+2"``: 0
    is the input of the cell, 1 the first block. There is no such choice where all there is must be taken.

    The canonical form gives blocks that do not reach the output, the paper's loose ends, the first candidates.

    Args:
        number: 1, 2 or 3.

    Raises:
        ValueError: If there is no such space.

    Example:
        >>> space = NASBench1Shot1Space(1)
        >>> space.size, [choice.name for choice in space.choices]
        (14580, ['ops', 'parents_3', 'parents_4', 'output'])
        >>> space.cell(space.sample(1)).operations
        ('input', 'conv1x1-bn-relu', 'conv1x1-bn-relu', 'conv3x3-bn-relu', 'output')
    """

    name: str = field(init=False)
    choices: tuple[Choice, ...] = field(init=False)
    number: Number = 1

    def __post_init__(self) -> None:
        if self.number not in NUM_PARENTS:
            raise ValueError(f"NAS-Bench-1Shot1 has the search spaces 1, 2 and 3; got {self.number!r}.")
        object.__setattr__(self, "name", f"nasbench1shot1_{self.number}")
        wirings = [
            Choice(self.choice_of(node), tuple("+".join(map(str, picked)) for picked in sets))
            for node, sets in enumerate(self.parent_sets(), start=1)
            if len(sets) > 1
        ]
        object.__setattr__(self, "choices", (Choice("ops", OPERATIONS, rows=self.blocks), *wirings))
        super().__post_init__()

    @property
    def blocks(self) -> int:
        """Number of choice blocks, B; the output is node B + 1."""
        return len(NUM_PARENTS[self.number]) - 1

    def parent_sets(self) -> list[list[tuple[int, ...]]]:
        """What block 1, 2, ... and the output may take, in the order of the candidates."""
        return [list(itertools.combinations(range(n), k)) for n, k in enumerate(NUM_PARENTS[self.number], start=1)]

    def choice_of(self, node: int) -> str:
        """Name of the choice of what a node takes."""
        return "output" if node == self.blocks + 1 else f"parents_{node}"

    def parents(self, config: SubnetConfig) -> list[tuple[int, ...]]:
        """What block 1, 2, ... and the output take, B + 1 sets of nodes."""
        self.validate(config)
        return [
            sets[0] if len(sets) == 1 else tuple(map(int, str(config[self.choice_of(node)][0]).split("+")))
            for node, sets in enumerate(self.parent_sets(), start=1)
        ]

    def used(self, config: SubnetConfig) -> list[int]:
        """The blocks that reach the output, in order."""
        parents = self.parents(config)
        found = {self.blocks + 1}
        for node in reversed(range(1, self.blocks + 2)):
            if node in found:
                found.update(parents[node - 1])
        return sorted(found - {0, self.blocks + 1})

    def wiring(self, config: SubnetConfig) -> Wiring:
        """What of the wiring costs something."""
        parents, used = self.parents(config), self.used(config)
        readers = sum(0 in parents[node - 1] for node in (*used, self.blocks + 1))
        return Wiring(readers, tuple((block - 1, len(parents[block - 1])) for block in used), len(parents[-1]))

    def cell(self, config: SubnetConfig) -> NASBench101Cell:
        """The NAS-Bench-101 cell to look up, without loose ends."""
        parents, size = self.parents(config), self.blocks + 2
        matrix = [[int(t > 0 and s in parents[t - 1]) for t in range(size)] for s in range(size)]
        return NASBench101Cell(matrix, [INPUT, *map(str, config["ops"]), OUTPUT])

    def from_cell(self, cell: NASBench101Cell) -> SubnetConfig:
        """An architecture of this space that is ``cell``, or isomorphic to it; it is its own canonical form.

        Raises:
            ValueError: If there is none.
        """
        last = len(cell.matrix) - 1
        wanted = {v: cell.parents(v) for v in range(1, last + 1)}
        places = itertools.permutations(range(1, self.blocks + 1), last - 1)
        for place in sorted(places, key=lambda p: list(p) != sorted(p)):  # the order of the cell, if possible
            node = dict(enumerate((0, *place, self.blocks + 1)))
            parents = [sets[0] for sets in self.parent_sets()]
            for v, sources in wanted.items():
                parents[node[v] - 1] = tuple(sorted(node[s] for s in sources))
            if all(picked in sets for picked, sets in zip(parents, self.parent_sets(), strict=True)):
                ops = dict(zip(place, cell.operations[1:-1], strict=True))
                picks: dict[str, Sequence[Candidate]] = {
                    "ops": [ops.get(block, OPERATIONS[0]) for block in range(1, self.blocks + 1)]
                }
                for n, (picked, sets) in enumerate(zip(parents, self.parent_sets(), strict=True), start=1):
                    if len(sets) > 1:
                        picks[self.choice_of(n)] = ["+".join(map(str, picked))]
                return SubnetConfig(self.name, picks)
        raise ValueError(
            f"Search space {self.number} of NAS-Bench-1Shot1 has blocks and an output with "
            f"{NUM_PARENTS[self.number]} parents, fewer if some are loose ends; a cell with "
            f"{tuple(map(len, wanted.values()))} is not in it. Try another of the three spaces."
        )

    def graphs(self, config: SubnetConfig) -> list[ArchGraph]:
        return [self.cell(config).graph()]

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        sets = self.parent_sets()
        wired = [node for node in range(1, self.blocks + 2) if len(sets[node - 1]) > 1]
        column = {node: self.blocks + i for i, node in enumerate(wired)}
        used = np.zeros((len(genes), self.blocks + 2), dtype=bool)
        used[:, -1] = True
        for node in reversed(range(1, self.blocks + 2)):
            member = np.array([[parent in picked for parent in range(node)] for picked in sets[node - 1]])
            takes = member[genes[:, column[node]]] if node in column else member[[0]]
            used[:, :node] |= used[:, [node]] & takes
        for block in range(1, self.blocks + 1):
            loose = ~used[:, block]
            genes[loose, block - 1] = 0
            if block in column:
                genes[loose, column[block]] = 0
        return genes


class SearchCell(nn.Module):
    """All choice blocks, each with all of its possible parents. What reads the input reads one projection of it."""

    def __init__(self, blocks: int, in_channels: int, channels: int) -> None:
        super().__init__()
        self.projection = conv_bn_relu(in_channels, (blocks + 1) * channels, 1)  # of block 1, 2, ..., and of the output
        self.mixed = nn.ModuleList(
            MixedOp(make_operation(name, channels) for name in OPERATIONS) for _ in range(blocks)
        )

    def forward(self, x: Tensor, ops: Sequence[Tensor], edges: Sequence[Sequence[Tensor | None]]) -> Tensor:
        """Run.

        Args:
            x: ``[B, C_in, H, W]``.
            ops: Weights of the operations of each block, ``[O]``.
            edges: Weights of nodes 0, 1, ... as parents of each block and of the output; None where it is 1.

        Returns:
            ``[B, (blocks + 1) * C, H, W]``.
        """
        *inputs, direct = self.projection(x).chunk(len(self.mixed) + 1, dim=1)
        states: list[Tensor] = []
        for mixed, own, row, weights in zip(self.mixed, inputs, ops, edges, strict=False):
            terms = [y if w is None else w * y for w, y in zip(weights, [own, *states], strict=True)]
            states.append(mixed(sum(terms[1:], terms[0]), row))
        return torch.cat([y if w is None else w * y for w, y in zip(edges[-1], [direct, *states], strict=True)], dim=1)


class NetworkCell(nn.Module):
    """The blocks that reach the output, each with one operation."""

    def __init__(
        self, ops: Mapping[int, str], parents: Sequence[tuple[int, ...]], in_channels: int, channels: int
    ) -> None:
        super().__init__()
        self.parents = {block: parents[block - 1] for block in ops}
        self.output = parents[-1]
        # who reads the input, in the order of the shared projection
        self.readers = [n for n in (*ops, len(parents)) if 0 in parents[n - 1]]
        self.projection = conv_bn_relu(in_channels, len(self.readers) * channels, 1)
        self.ops = nn.ModuleDict({str(block): make_operation(name, channels) for block, name in ops.items()})

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, P * C, H, W]``, P the number of parents of the output."""
        inputs = dict(zip(self.readers, self.projection(x).chunk(len(self.readers), dim=1), strict=True))
        states: dict[int, Tensor] = {}
        for block, parents in self.parents.items():
            terms = [inputs[block] if p == 0 else states[p] for p in parents]
            states[block] = self.ops[str(block)](sum(terms[1:], terms[0]))
        return torch.cat([inputs[self.readers[-1]] if p == 0 else states[p] for p in self.output], dim=1)


class NASBench1Shot1Supernet(OperationSupernet):
    """All cells of one of the three spaces at once; defaults are those of the authors' searches on CIFAR-10.

    Args:
        search_space: 1, 2 or 3.
        channels: C of the first stage, doubled by every reduction.
        cells_per_stage: Cells in each of the three stages.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.

    Raises:
        ValueError: If there is no such space, the image is too small, or there is no output.

    Example:
        >>> import torch
        >>> net = NASBench1Shot1Supernet(3, channels=4, cells_per_stage=1, image_size=8)
        >>> net(torch.zeros(2, 3, 8, 8), net.one_hot(net.space.sample(0))).shape
        torch.Size([2, 10])
    """

    space: NASBench1Shot1Space

    def __init__(
        self,
        search_space: Number = 1,
        *,
        channels: int = 16,
        cells_per_stage: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        self._settings = arguments(locals(), "search_space")
        super().__init__()
        self.space = NASBench1Shot1Space(search_space)
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        blocks = self.space.blocks
        self.stem, self.blocks = stem_and_blocks(
            lambda c_in, c: SearchCell(blocks, c_in, c), joined=blocks + 1, **self._settings
        )
        self.squeeze = relu_conv_bn(4 * channels * (blocks + 1), 4 * channels, 1, 1, affine=False)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * channels, num_classes))

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        self.check_arch(arch)
        first = arch_of_cell(arch, 0)
        ops, edges = list(first["ops"].unbind()), self._edges(first)
        x, number = self.stem(x), 0
        for block in self.blocks:
            if not isinstance(block, SearchCell):
                x = block(x)
                continue
            if (own := arch_of_cell(arch, number)) is not arch:
                ops, edges = list(own["ops"].unbind()), self._edges(own)
            x, number = self.run_cell(block, x, ops, edges), number + 1
        logits: Tensor = self.head(self.squeeze(x))
        return logits

    def _edges(self, arch: Mapping[str, Tensor]) -> list[list[Tensor | None]]:
        """For each block and the output, how much each node counts: the weight of all sets of parents it is in."""
        edges: list[list[Tensor | None]] = []
        for node, sets in enumerate(self.space.parent_sets(), start=1):
            if len(sets) == 1:
                edges.append([None] * node)
                continue
            row = arch[self.space.choice_of(node)][0]
            weights = [[row[o] for o, picked in enumerate(sets) if parent in picked] for parent in range(node)]
            edges.append([sum(terms[1:], terms[0]) for terms in weights])
        return edges

    def shared_choices(self) -> dict[tuple[str, ...], int]:
        cells = sum(isinstance(block, SearchCell) for block in self.blocks)
        return {tuple(choice.name for choice in self.space.choices): cells}

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> NASBench1Shot1Network:
        self.space.validate(config)
        picks = {name: list(row) for name, row in config.picks}
        net = self.prepare(NASBench1Shot1Network(self.space.number, picks, **self._settings), config)
        if inherit:
            inherit_weights(net.stem, self.stem)
            inherit_weights(net.head, self.head)
            output = self.space.parents(config)[-1]
            inputs: tuple[int, ...] = (0,)
            for block, mine in zip(net.blocks, self.blocks, strict=True):
                if isinstance(mine, SearchCell) and isinstance(block, NetworkCell):
                    _inherit_part(block.projection, mine.projection, [n - 1 for n in block.readers], inputs)
                    for name, op in block.ops.items():
                        mixed, pick = mine.mixed[int(name) - 1], str(config["ops"][int(name) - 1])
                        assert isinstance(mixed, MixedOp)
                        inherit_weights(op, mixed.ops[OPERATIONS.index(pick)])
                    inputs = output
            _inherit_part(net.squeeze, self.squeeze, (0,), output)
        return net

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        cells = [block for block in self.blocks if isinstance(block, SearchCell)]
        rows: dict[str, list[list[MixedOp]]] = {choice.name: [[]] for choice in self.space.choices}  # wiring has none
        rows["ops"] = [[cell.mixed[b] for cell in cells] for b in range(self.space.blocks)]  # type: ignore[misc]  # ModuleList is untyped
        return rows

    def picked_ops(self, network: Subnet) -> list[list[nn.Module]]:
        assert isinstance(network, NASBench1Shot1Network)
        cells = [block for block in network.blocks if isinstance(block, NetworkCell)]
        blocks = [[c.ops[str(b)] for c in cells if str(b) in c.ops] for b in range(1, self.space.blocks + 1)]
        return blocks + [[] for _ in self.space.choices[1:]]  # wiring is no module

    def execution_plan(self, network: Subnet) -> WiredPlan:
        assert isinstance(network, NASBench1Shot1Network)
        cells = [block for block in network.blocks if isinstance(block, NetworkCell)]
        runs = [CellRun(cell, (cell.projection,), place=place) for place, cell in enumerate(cells)]
        return WiredPlan(tuple(runs), self.space.blocks, self.space.wiring)


def _inherit_part(target: nn.Module, source: nn.Module, outputs: Sequence[int], inputs: Sequence[int]) -> None:
    """Copy some groups of channels of a convolution with batch normalisation.

    Args:
        target: Takes them.
        source: Has them all.
        outputs: Groups of output channels, as many as make up the target's.
        inputs: Groups of input channels, likewise.
    """
    parts = source.state_dict()
    for name, tensor in target.state_dict().items():
        if name not in parts:  # a scale or a shift the source does not have
            continue
        part = parts[name]
        if tensor.dim() == 4:
            part = _groups(part, inputs, tensor.shape[1], dim=1)
        if tensor.dim() >= 1:
            part = _groups(part, outputs, tensor.shape[0], dim=0)
        tensor.copy_(part)


def _groups(whole: Tensor, groups: Sequence[int], size: int, *, dim: int) -> Tensor:
    """Some groups of channels, together ``size`` channels."""
    width = size // len(groups)
    return torch.cat([whole.narrow(dim, group * width, width) for group in groups], dim=dim)


class NASBench1Shot1Network(Subnet):
    """One architecture of the shared network, with the channels it has there, for inherited weights.

    For the network that the tables of NAS-Bench-101 measured, build
    :class:`~oneshot.supernets.nasbench101.NASBench101Network` from ``space.cell(config)``.

    Args:
        search_space: 1, 2 or 3.
        picks: ``{choice: picks}`` of the architecture.
        channels: C of the first stage, doubled by every reduction.
        cells_per_stage: Cells in each of the three stages.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.

    Raises:
        ValueError: If the architecture is not of the space or the image too small.
    """

    config: SubnetConfig

    def __init__(
        self,
        search_space: Number,
        picks: Mapping[str, Sequence[Candidate]],
        *,
        channels: int = 16,
        cells_per_stage: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
    ) -> None:
        settings = arguments(locals(), "search_space", "picks")
        super().__init__()
        self.space = NASBench1Shot1Space(search_space)
        self.config = SubnetConfig(self.space.name, picks)
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        self.init_args = {
            "search_space": search_space,
            "picks": {name: list(row) for name, row in self.config.picks},
            **settings,
        }
        parents = self.space.parents(self.config)
        ops = {block: str(self.config["ops"][block - 1]) for block in self.space.used(self.config)}
        joined = len(parents[-1])
        self.stem, self.blocks = stem_and_blocks(
            lambda c_in, c: NetworkCell(ops, parents, c_in, c), joined=joined, **settings
        )
        self.squeeze = relu_conv_bn(4 * channels * joined, 4 * channels, 1, 1)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.squeeze(x))
        return logits

    def graphs(self) -> list[ArchGraph]:
        return self.space.graphs(self.config)
