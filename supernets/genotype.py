"""Genotypes: the cell view of an architecture, in the text format of the papers. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from .genotype_text import ERRORS, genotype_fields
from .space import ArchGraph

Edge: TypeAlias = tuple[str, int]  # operation, input state
Cell: TypeAlias = tuple[tuple[Edge, ...], ...]  # per node, its incoming edges


@dataclass(frozen=True)
class Genotype:
    """Normal and reduction cell. States 0 and 1 are the outputs of the two cells before, state ``2 + i`` is node ``i``.

    Args:
        normal: For each node of the normal cell the edges that enter it, ``((operation, input state), ...)``.
        normal_concat: States concatenated into the output of the cell.
        reduce: The same for the reduction cell.
        reduce_concat: The same for the reduction cell.
        normal_joined: Nodes of the normal cell, by their states, that concatenate what enters them and do not add it.
        reduce_joined: The same for the reduction cell.

    Raises:
        ValueError: If an edge, a concatenation or a joined node names a state that does not exist there.

    Example:
        >>> cell = "[('skip_connect', 0), ('sep_conv_3x3', 1)]"
        >>> genotype = Genotype.parse(f"Genotype(normal={cell}, normal_concat=[2], reduce={cell}, reduce_concat=[2])")
        >>> genotype.normal
        ((('skip_connect', 0), ('sep_conv_3x3', 1)),)
        >>> Genotype.parse(str(genotype)) == genotype
        True
    """

    normal: Cell
    normal_concat: tuple[int, ...]
    reduce: Cell
    reduce_concat: tuple[int, ...]
    normal_joined: tuple[int, ...] = ()
    reduce_joined: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for kind in ("normal", "reduce"):
            cell = tuple(tuple((op, source) for op, source in node) for node in getattr(self, kind))
            concat, joined = (tuple(getattr(self, f"{kind}_{what}")) for what in ("concat", "joined"))
            object.__setattr__(self, kind, cell)
            object.__setattr__(self, f"{kind}_concat", concat)
            object.__setattr__(self, f"{kind}_joined", joined)
            for i, node in enumerate(cell):
                for op, source in node:
                    if not 0 <= source < i + 2:
                        raise ValueError(
                            f"Node {i} of the {kind} cell can read the states 0 to {i + 1}; "
                            f"its edge {op!r} reads state {source}."
                        )
            if not concat or not all(0 <= state < len(cell) + 2 for state in concat):
                raise ValueError(
                    f"{kind}_concat lists states from 0 to {len(cell) + 1}, at least one; got {list(concat)}."
                )
            if not all(2 <= state < len(cell) + 2 for state in joined):
                raise ValueError(
                    f"{kind}_joined lists nodes by their states, from 2 to {len(cell) + 1}; got {list(joined)}."
                )

    @property
    def ops(self) -> set[str]:
        """Names of all operations used."""
        return {op for cell in (self.normal, self.reduce) for node in cell for op, _ in node}

    @property
    def skip_connections(self) -> int:
        """Number of skip connections in the normal cell; many of them are the sign of a collapsed search."""
        return sum(op == "skip_connect" for node in self.normal for op, _ in node)

    def graphs(self) -> list[ArchGraph]:
        """The two cells as pictures show them."""
        return [
            ArchGraph(
                kind,
                (
                    "c_{k-2}",
                    "c_{k-1}",
                    *(f"{i} concat" if i + 2 in joined else f"{i}" for i in range(len(cell))),
                    "c_{k}",
                ),
                (
                    *((s, i + 2, op) for i, node in enumerate(cell) for op, s in node),
                    *((state, len(cell) + 2, "") for state in concat),
                ),
            )
            for kind, cell, concat, joined in (
                ("normal", self.normal, self.normal_concat, self.normal_joined),
                ("reduce", self.reduce, self.reduce_concat, self.reduce_joined),
            )
        ]

    @classmethod
    def parse(cls, text: str) -> Genotype:
        """Read ``Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[...], reduce=..., reduce_concat=...)``.

        Two pairs in a row are one node, as in the DARTS repository; triples ``(operation, input, node)`` give the node
        explicitly, as in the FairDARTS repository. Around it may be what repositories and logs print, see
        :func:`~oneshot.supernets.genotype_text.genotype_fields`. The text is parsed, not evaluated.

        Raises:
            ValueError: If the text is not a genotype.
        """
        try:
            fields = genotype_fields(text)
            return cls(
                _nodes(fields["normal"], fields["normal_concat"]),
                tuple(fields["normal_concat"]),
                _nodes(fields["reduce"], fields["reduce_concat"]),
                tuple(fields["reduce_concat"]),
                tuple(fields.get("normal_joined", ())),
                tuple(fields.get("reduce_joined", ())),
            )
        except ERRORS as error:
            raise ValueError(
                "A genotype reads Genotype(normal=[(operation, input), ...], normal_concat=[...], reduce=[...], "
                f"reduce_concat=[...]), two edges a node; got {text[:200]!r}: {error}"
            ) from error

    def __str__(self) -> str:
        """The text :meth:`parse` reads; the papers' form where every node has two edges."""

        def cell(nodes: Cell) -> list[tuple[Any, ...]]:
            if all(len(node) == 2 for node in nodes):
                return [edge for node in nodes for edge in node]
            return [(op, source, i + 2) for i, node in enumerate(nodes) for op, source in node]

        joined = {"normal_joined": self.normal_joined, "reduce_joined": self.reduce_joined}
        return (
            f"Genotype(normal={cell(self.normal)}, normal_concat={list(self.normal_concat)}, "
            f"reduce={cell(self.reduce)}, reduce_concat={list(self.reduce_concat)}"
            + "".join(f", {name}={list(states)}" for name, states in joined.items() if states)
            + ")"
        )


def _nodes(edges: Sequence[tuple[Any, ...]], concat: Sequence[int]) -> Cell:
    if all(len(edge) == 2 for edge in edges):
        if len(edges) % 2:
            raise ValueError(f"{len(edges)} edges; pairs need two a node, otherwise write (operation, input, node)")
        pairs = [(str(op), int(source)) for op, source in edges]
        return tuple((first, second) for first, second in zip(pairs[::2], pairs[1::2], strict=True))
    last = max(*(int(edge[2]) for edge in edges), *concat)
    return tuple(
        tuple((str(op), int(source)) for op, source, node in edges if node == state) for state in range(2, last + 1)
    )


# Published cells. The DARTS skeleton builds all of them; the two with five nodes are not in the DARTS search space.
PUBLISHED: dict[str, Genotype] = {
    name: Genotype.parse(text)
    for name, text in {
        # Zoph et al., CVPR 2018, arXiv:1707.07012; text: quark0/darts cnn/genotypes.py
        "NASNet_A": (
            "Genotype(normal=[('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 0), ('sep_conv_3x3', 0), "
            "('avg_pool_3x3', 1), ('skip_connect', 0), ('avg_pool_3x3', 0), ('avg_pool_3x3', 0), ('sep_conv_3x3', "
            "1), ('skip_connect', 1)], normal_concat=[2, 3, 4, 5, 6], reduce=[('sep_conv_5x5', 1), "
            "('sep_conv_7x7', 0), ('max_pool_3x3', 1), ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('sep_conv_5x5', "
            "0), ('skip_connect', 3), ('avg_pool_3x3', 2), ('sep_conv_3x3', 2), ('max_pool_3x3', 1)], "
            "reduce_concat=[4, 5, 6])"
        ),
        # Real et al., AAAI 2019, arXiv:1802.01548; text: quark0/darts cnn/genotypes.py
        "AmoebaNet_A": (
            "Genotype(normal=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 2), "
            "('sep_conv_3x3', 0), ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('skip_connect', 1), ('skip_connect', "
            "0), ('avg_pool_3x3', 1)], normal_concat=[4, 5, 6], reduce=[('avg_pool_3x3', 0), ('sep_conv_3x3', 1), "
            "('max_pool_3x3', 0), ('sep_conv_7x7', 2), ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('max_pool_3x3', "
            "0), ('max_pool_3x3', 1), ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5)], reduce_concat=[3, 4, 6])"
        ),
        # Liu et al., ICLR 2019, arXiv:1806.09055, first order; text: quark0/darts cnn/genotypes.py
        "DARTS_V1": (
            "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
            "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], "
            "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
            "('max_pool_3x3', 0), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', "
            "0)], reduce_concat=[2, 3, 4, 5])"
        ),
        # Liu et al., ICLR 2019, arXiv:1806.09055, second order; text: yuhuixu1993/PC-DARTS genotypes.py
        "DARTS_V2": (
            "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
            "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
            "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
            "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', "
            "1)], reduce_concat=[2, 3, 4, 5])"
        ),
        # Xu et al., ICLR 2020, arXiv:1907.05737, searched on CIFAR-10; text: yuhuixu1993/PC-DARTS genotypes.py
        "PC_DARTS_CIFAR": (
            "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1), "
            "('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], "
            "normal_concat=[2, 3, 4, 5], reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), "
            "('sep_conv_5x5', 2), ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', "
            "2)], reduce_concat=[2, 3, 4, 5])"
        ),
        # Xu et al., ICLR 2020, arXiv:1907.05737, searched on ImageNet; text: yuhuixu1993/PC-DARTS genotypes.py
        "PC_DARTS_ImageNet": (
            "Genotype(normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1), "
            "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)], "
            "normal_concat=[2, 3, 4, 5], reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), "
            "('max_pool_3x3', 1), ('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', "
            "3)], reduce_concat=[2, 3, 4, 5])"
        ),
        # Xie et al., ICLR 2019, arXiv:1812.09926; text: SNAS-Series/SNAS-Series SNAS/genotypes.py
        "SNAS_mild": (
            "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('dil_conv_3x3', 1), "
            "('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 0), ('sep_conv_3x3', 1)], "
            "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 1), "
            "('skip_connect', 2), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('dil_conv_5x5', "
            "2)], reduce_concat=[2, 3, 4, 5])"
        ),
        # the same, moderate constraint
        "SNAS_moderate": (
            "Genotype(normal=[('dil_conv_5x5', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), ('skip_connect', 1), "
            "('skip_connect', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 1)], "
            "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_5x5', 0), "
            "('dil_conv_5x5', 1), ('sep_conv_5x5', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 0), ('sep_conv_5x5', "
            "1)], reduce_concat=[2, 3, 4, 5])"
        ),
        # the same, aggressive constraint; unused edges are written 'none'
        "SNAS_aggressive": (
            "Genotype(normal=[('sep_conv_5x5', 0), ('skip_connect', 1), ('skip_connect', 0), ('skip_connect', 1), "
            "('dil_conv_5x5', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_5x5', 1)], "
            "normal_concat=[2, 3, 4, 5], reduce=[('sep_conv_5x5', 0), ('none', 1), ('sep_conv_5x5', 0), ('none', "
            "1), ('none', 1), ('none', 0), ('none', 1), ('none', 0)], reduce_concat=[2, 3, 4, 5])"
        ),
        # Dong & Yang, CVPR 2019, arXiv:1910.04465; text: D-X-Y/AutoDL-Projects others/GDAS/lib/nas/genotypes.py
        "GDAS_V1": (
            "Genotype(normal=[('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 0), ('sep_conv_5x5', 2), "
            "('sep_conv_3x3', 3), ('skip_connect', 0), ('sep_conv_5x5', 4), ('sep_conv_3x3', 3)], "
            "normal_concat=[2, 3, 4, 5], reduce=[('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('sep_conv_5x5', 2), "
            "('sep_conv_5x5', 1), ('dil_conv_5x5', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_5x5', "
            "1)], reduce_concat=[2, 3, 4, 5])"
        ),
    }.items()
}

# Published cells as their authors built them. NASNet-A: tensorflow/models, research/slim/nets/nasnet/nasnet_utils.py,
# which also concatenates states that are read: the cell before last in the normal cell (without it, "6@768" would not
# have 768 filters) and one block in the reduction cell. AmoebaNet-A (arXiv:1802.01548): the text of DARTS' authors.
NASNET_CELLS: dict[str, Genotype] = {
    "NASNet-A": replace(PUBLISHED["NASNet_A"], normal_concat=(0, 2, 3, 4, 5, 6), reduce_concat=(3, 4, 5, 6)),
    "AmoebaNet-A": PUBLISHED["AmoebaNet_A"],
}
