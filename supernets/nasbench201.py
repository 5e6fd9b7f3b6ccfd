"""The NAS-Bench-201 cell space (Dong & Yang, ICLR 2020, arXiv:2001.00326): 4 nodes, 6 edges, 5 operations.

Architecture strings, skeleton and operations follow the authors' code (D-X-Y/NAS-Bench-201), so that a network is the
one its string means in the benchmark's tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import cast

import numpy as np
from torch import Tensor, nn

from .base import OperationSupernet, Subnet, arguments, check_classes, check_image_size, image_shape, inherit_weights
from .connection import CellGraph
from .execution import CellPlan, CellRun
from .json_files import shorten
from .mixed_op import MixedOp, add_up, arch_of_cell, check_parts, has_weights, mixed_op, run_together
from .ops import OPS, OwnOps, check_ops, make_op, relu_conv_bn, sum_in_turn
from .own_ops import checked_ops, saved_ops
from .space import NONE, ArchGraph, Candidate, Choice, IntMatrix, SearchSpace, SubnetConfig

CANDIDATES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4
LISTED_PICKS = 6  # of so many operations, all spellings are listed once: 46,656
EDGES = tuple((source, target) for target in range(1, NODES) for source in range(target))  # in the official order


@dataclass(frozen=True)
class NASBench201Space(SearchSpace):
    """One cell of four nodes; choice ``cell`` holds the operation of every edge, ``EDGES`` gives their order.

    With other candidates than the benchmark's (:func:`nasbench201_space`) it is a space of the same form.

    The canonical form puts ``none`` on every edge that cannot matter: those that lead nowhere, and skips and poolings
    of a node that receives nothing.

    Example:
        >>> space = NASBench201Space()
        >>> space.size
        15625
        >>> space.arch_string(space.sample(0))
        '|avg_pool_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|skip_connect~0|skip_connect~1|none~2|'
    """

    name: str = "nasbench201"
    choices: tuple[Choice, ...] = field(default=(Choice("cell", CANDIDATES, rows=len(EDGES)),))

    def arch_string(self, config: SubnetConfig) -> str:
        """The official name of an architecture, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
        self.validate(config)
        picks = iter(config["cell"])
        return "+".join(
            "|" + "".join(f"{next(picks)}~{source}|" for source in range(target)) for target in range(1, NODES)
        )

    def from_arch_string(self, text: str) -> SubnetConfig:
        """Inverse of :meth:`arch_string`.

        Raises:
            ValueError: If the string does not name three nodes with one, two and three inputs, or an operation is
                unknown.
        """
        nodes = text.strip().split("+")
        pairs = [re.findall(r"\|([^|~]+)~(\d+)(?=\|)", node) for node in nodes]
        sources = [[int(source) for _, source in node] for node in pairs]
        rebuilt = "+".join("|" + "".join(f"{op}~{source}|" for op, source in node) for node in pairs)
        if sources != [[0], [0, 1], [0, 1, 2]] or rebuilt != text.strip():
            raise ValueError(
                "A NAS-Bench-201 architecture reads '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|', node by node with the "
                f"inputs in order; got {shorten(text)}."
            )
        config = SubnetConfig(self.name, {"cell": [op for node in pairs for op, _ in node]})
        self.validate(config)
        return config

    def unique_string(self, config: SubnetConfig) -> str:
        """The same text for isomorphic cells: 6,466 of the 15,625 differ (NAS-Bench-201, section 2, zero considered).

        Isomorphic cells compute the same family of functions, but with weights of other edges; tables may be
        de-duplicated by it, weights may not be inherited across it.
        """
        self.validate(config)
        text = ["0"]
        for target in range(1, NODES):
            terms = []
            for (source, t), op in zip(EDGES, config["cell"], strict=True):
                if t == target:
                    zero = op == NONE or text[source] == "#"
                    terms.append("#" if zero else text[source] if op == "skip_connect" else f"({text[source]})@{op}")
            text.append("+".join(sorted(terms)))
        return text[-1]

    def nodes(self) -> list[list[int]]:
        return [[e for e, (_, target) in enumerate(EDGES) if target == node] for node in range(1, NODES)]

    def cell_graphs(self) -> list[CellGraph]:
        return [CellGraph(tuple((s, t, e) for e, (s, t) in enumerate(EDGES)), inputs=(0,), outputs=(NODES - 1,))]

    def graphs(self, config: SubnetConfig) -> list[ArchGraph]:
        self.validate(config)
        edges = tuple((s, t, str(op)) for (s, t), op in zip(EDGES, config["cell"], strict=True))
        return [ArchGraph("cell", ("in", "1", "2", "out"), edges)]

    def canonical_genes(self, genes: IntMatrix) -> IntMatrix:
        picks = self.choices[0].picks
        if NONE not in picks:
            return genes
        if len(picks) > LISTED_PICKS:
            return _canonical_rows(genes, picks)
        return np.asarray(_canonical_table(picks)[genes @ len(picks) ** np.arange(len(EDGES))[::-1]])


def nasbench201_space(
    *, candidates: Sequence[str] | None = None, ops: OwnOps | None = None, name: str | None = None
) -> NASBench201Space:
    """The space of the benchmark's cells, with other candidates if they are given.

    Args:
        candidates: Operation names; by default the five of the benchmark and then those of ``ops``.
        ops: Operations of one's own, by name: factories ``(channels, stride) -> nn.Module``, or their class paths.
        name: Name of the space; by default ``"nasbench201"`` with the benchmark's candidates, else
            ``"nasbench201-own"``, so that no architecture is taken for one of the benchmark.

    Raises:
        ValueError: If a candidate is no operation.
    """
    own = checked_ops(ops)
    names = (*CANDIDATES, *own) if candidates is None else tuple(candidates)
    check_ops(names, own)
    given = ("nasbench201" if names == CANDIDATES else "nasbench201-own") if name is None else name
    return NASBench201Space(given, (Choice("cell", names, rows=len(EDGES)),))


def _canonical_rows(matrix: IntMatrix, picks: tuple[Candidate, ...]) -> IntMatrix:
    """Canonical forms, ``[N, 6]``, in place: edges that carry nothing, or that nobody reads, are ``none``."""
    none, silent = picks.index(NONE), [i for i, op in enumerate(picks) if op in ("skip_connect", "avg_pool_3x3")]
    into = [[e for e, (_, target) in enumerate(EDGES) if target == node] for node in range(NODES)]
    leaving = [[e for e, (source, _) in enumerate(EDGES) if source == node] for node in range(NODES)]
    for node in range(1, NODES - 1):  # zero in, zero out
        zero = (matrix[:, into[node]] == none).all(1)
        for e in leaving[node]:
            matrix[zero & np.isin(matrix[:, e], silent), e] = none
    for node in reversed(range(1, NODES - 1)):  # nobody listens
        unread = (matrix[:, leaving[node]] == none).all(1)
        matrix[np.ix_(unread, into[node])] = none
    return matrix


@cache
def _canonical_table(picks: tuple[Candidate, ...]) -> IntMatrix:
    """The canonical form of every spelling, ``[P**6, 6]``; a search looks up one architecture after the other."""
    return _canonical_rows(np.indices((len(picks),) * len(EDGES)).reshape(len(EDGES), -1).T.copy(), picks)


class SearchCell(nn.Module):
    """Four nodes, a mixed operation on every edge."""

    def __init__(self, candidates: tuple[str, ...], channels: int, parts: int, own: OwnOps) -> None:
        super().__init__()
        check_parts(parts, channels)
        shared: dict[
            int, dict[str, nn.Module]
        ] = {}  # what has no weights is one module for all edges that leave a node
        self.edges = nn.ModuleList()
        for source, _ in EDGES:
            ops = {name: make_op(name, channels // parts, 1, affine=False, own=own) for name in candidates}
            shared[source] = shared.get(source, ops)
            single = {"noise", *own}
            mixed = (op if has_weights(op) or n in single else shared[source][n] for n, op in ops.items())
            self.edges.append(mixed_op(mixed, parts=parts))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """``[B, C, H, W]`` under candidate weights ``[6, O]`` -> ``[B, C, H, W]``."""
        states, seen = [x], []
        for target in range(1, NODES):
            leaving = [e for e, (source, _) in enumerate(EDGES) if source == target - 1]
            edges = [cast(MixedOp, self.edges[e]) for e in leaving]
            seen.append(run_together(edges, states[-1], [weights[e] for e in leaving]))
            terms = [self.edges[e](states[s], weights[e], seen[s]) for e, (s, t) in enumerate(EDGES) if t == target]
            states.append(add_up(terms))
        return states[-1]


class NetworkCell(nn.Module):
    """Four nodes, one operation on every edge."""

    def __init__(self, ops: tuple[str, ...], channels: int, *, affine: bool, own: OwnOps) -> None:
        super().__init__()
        self.ops = nn.ModuleList(make_op(op, channels, 1, affine=affine, own=own) for op in ops)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C, H, W]``."""
        states = [x]
        for target in range(1, NODES):
            entering = [(op, s) for op, (s, t) in zip(self.ops, EDGES, strict=True) if t == target]
            states.append(sum_in_turn(states, entering))
        return states[-1]


class ResidualReduction(nn.Module):
    """Basic block with stride 2 between the stages; the shortcut is average pooling and a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = relu_conv_bn(in_channels, out_channels, 3, 2)
        self.conv_b = relu_conv_bn(out_channels, out_channels, 3, 1)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W] -> [B, C_out, ceil(H / 2), ceil(W / 2)]``."""
        out: Tensor = self.conv_b(self.conv_a(x)) + self.shortcut(x)
        return out


def _skeleton(
    cell: Callable[[int], nn.Module],
    channels: int,
    cells_per_stage: int,
    num_classes: int,
    in_channels: int,
    image_size: int | tuple[int, int],
) -> tuple[nn.Module, nn.ModuleList, nn.Module]:
    """Stem, three stages of cells with a reduction before the second and the third, head."""
    if cells_per_stage < 1:
        raise ValueError(f"A stage has at least one cell; got cells_per_stage={cells_per_stage}.")
    check_classes(num_classes)
    check_image_size(image_size, 2, "The NAS-Bench-201 skeleton")
    stem = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
    blocks = nn.ModuleList()
    for stage in range(3):
        if stage:
            blocks.append(ResidualReduction(channels, 2 * channels))
            channels *= 2
        blocks.extend(cell(channels) for _ in range(cells_per_stage))
    head = nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )
    return stem, blocks, head


class NASBench201Supernet(OperationSupernet):
    """All cells of the space at once; the benchmark's skeleton.

    Args:
        channels: C of the first stage, doubled by every reduction.
        cells_per_stage: Cells in each of the three stages, N.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        partial_channels: K: the candidates read one of K parts of the channels (PC-DARTS, arXiv:1907.05737).
        candidates: Operation names of every edge, see :func:`nasbench201_space`.
        ops: Operations of one's own, likewise.

    Raises:
        ValueError: If the image is too small for the two reductions, there is no output, or the channels
            cannot be divided into parts.

    Example:
        >>> import torch
        >>> net = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        >>> net(torch.zeros(2, 3, 8, 8), net.one_hot(net.space.sample(0))).shape
        torch.Size([2, 10])
    """

    space: NASBench201Space

    def __init__(
        self,
        *,
        channels: int = 16,
        cells_per_stage: int = 5,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        partial_channels: int = 1,
        candidates: Sequence[str] | None = None,
        ops: OwnOps | None = None,
    ) -> None:
        self._settings = arguments(locals(), "partial_channels", "candidates", "ops")
        super().__init__()
        self.space, self.partial_channels = nasbench201_space(candidates=candidates, ops=ops), partial_channels
        self._own = checked_ops(ops)
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        self.stem, self.blocks, self.head = _skeleton(
            lambda c: SearchCell(self.candidates, c, partial_channels, self._own), **self._settings
        )

    @property
    def candidates(self) -> tuple[str, ...]:
        """Operation names of every edge."""
        return tuple(map(str, self.space.choices[0].candidates))

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        self.check_arch(arch)
        x, number = self.stem(x), 0
        for block in self.blocks:
            if isinstance(block, SearchCell):
                x, number = self.run_cell(block, x, arch_of_cell(arch, number)["cell"]), number + 1
            else:
                x = block(x)
        logits: Tensor = self.head(x)
        return logits

    def shared_choices(self) -> dict[tuple[str, ...], int]:
        return {("cell",): sum(isinstance(block, SearchCell) for block in self.blocks)}

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> NASBench201Network:
        self.check_inheritance(inherit)
        net = NASBench201Network(self.space.arch_string(config), **self._settings, ops=self._own)
        net = self.prepare(net, config)
        if inherit:
            inherit_weights(net.stem, self.stem)
            inherit_weights(net.head, self.head)
            for block, mine in zip(net.blocks, self.blocks, strict=True):
                if isinstance(mine, SearchCell) and isinstance(block, NetworkCell):
                    for op, mixed, pick in zip(block.ops, mine.edges, config["cell"], strict=True):
                        assert isinstance(mixed, MixedOp)
                        inherit_weights(op, mixed.ops[self.candidates.index(str(pick))])
                else:
                    inherit_weights(block, mine)
        return net

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        cells = [block for block in self.blocks if isinstance(block, SearchCell)]
        return {"cell": [[cell.edges[edge] for cell in cells] for edge in range(len(EDGES))]}  # type: ignore[misc]  # ModuleList is untyped

    def picked_ops(self, network: Subnet) -> list[list[nn.Module]]:
        assert isinstance(network, NASBench201Network)
        cells = [block for block in network.blocks if isinstance(block, NetworkCell)]
        return [[cell.ops[edge] for cell in cells] for edge in range(len(EDGES))]

    def execution_plan(self, network: Subnet) -> CellPlan:
        assert isinstance(network, NASBench201Network)
        nodes = tuple(tuple(node) for node in self.space.nodes())
        cells = [block for block in network.blocks if isinstance(block, NetworkCell)]
        return CellPlan(tuple(CellRun(cell, nodes=nodes, place=place) for place, cell in enumerate(cells)))


class NASBench201Network(Subnet):
    """The network an architecture string means in the benchmark; defaults are the benchmark's for CIFAR-10.

    Args:
        arch: Official architecture string.
        channels: C of the first stage, doubled by every reduction.
        cells_per_stage: Cells in each of the three stages, N.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Height and width of an image, or one number for both.
        ops: Operations of one's own in the string, see :func:`nasbench201_space`.

    Raises:
        ValueError: If the string is malformed or the image too small.
    """

    def __init__(
        self,
        arch: str,
        *,
        channels: int = 16,
        cells_per_stage: int = 5,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int | tuple[int, int] = 32,
        ops: OwnOps | None = None,
    ) -> None:
        settings = arguments(locals(), "arch", "ops")
        super().__init__()
        own = checked_ops(ops)
        self._space = _space_of(arch, own)
        self.config = self._space.from_arch_string(arch)
        self.num_classes, self.input_shape = num_classes, image_shape(in_channels, image_size)
        picks = tuple(str(pick) for pick in self.config["cell"])
        self.init_args = {"arch": arch, **settings, **saved_ops(own, picks)}
        self.stem, self.blocks, self.head = _skeleton(lambda c: NetworkCell(picks, c, affine=True, own=own), **settings)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits

    def graphs(self) -> list[ArchGraph]:
        return self._space.graphs(self._space.from_arch_string(self.init_args["arch"]))

    def describes(self, config: SubnetConfig) -> bool:
        return config.picks == self._space.from_arch_string(self.init_args["arch"]).picks


def _space_of(arch: str, own: OwnOps) -> NASBench201Space:
    """The benchmark's space, or if the string has other operations, one that has these, too."""
    others = [op for op in dict.fromkeys(re.findall(r"[^|~+]+(?=~\d)", arch)) if op in own or op in OPS]
    return nasbench201_space(candidates=tuple(dict.fromkeys([*CANDIDATES, *others])), ops=own)
