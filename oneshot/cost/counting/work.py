"""What networks do, kind by kind of operator, as features of their latency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from oneshot.conversion.axes import Shape
from oneshot.conversion.graph import sizes_matrix
from oneshot.conversion.supernet import ConvertedSupernet
from oneshot.conversion.trace import Op
from oneshot.cost.model import CHUNK
from oneshot.supernets.base import Supernet
from oneshot.supernets.space import Floats, IntMatrix

from .converted import Read, Writer
from .lifetimes import Indicator

VECTOR = 16  # channels that kernels take at a time: 512 bits of float32; blocks of memory are as long
MATRICES = ("mm", "addmm", "linear")
ATTENTION = ("bmm", "baddbmm", "_native_multi_head_attention", "_transformer_encoder_layer_fwd")


@dataclass(frozen=True)
class Piece:
    """One operator.

    Args:
        kind: Which of the kinds it is of.
        factors: The product of these sizes is its multiply-accumulates; none of an operator that multiplies nothing.
        read: Tensors that it reads, with the bytes of an entry.
        written: Tensors that it makes, likewise.
        owners: Blocks it is in: the gene, and with which picks the block is there.
    """

    kind: str
    factors: Shape
    read: tuple[tuple[int, Shape], ...]
    written: tuple[tuple[int, Shape], ...]
    owners: tuple[tuple[int, Indicator], ...]


class Work:
    """Features of the latency of converted networks, from their operators.

    For every kind of operator (convolutions by their kernels and groups, matrix products, attention, and what only
    moves numbers): multiply-accumulates; the same with channels rounded up to multiples of 16, which is what kernels of
    vector units compute; bytes read and written; operators that run.

    Args:
        supernet: The supernet; its largest network runs once at every resolution.

    Attributes:
        names: Of the features, K.
    """

    def __init__(self, supernet: ConvertedSupernet) -> None:
        self.space, self.graph = supernet.space, supernet.graph
        writer = Writer(supernet)
        self.cases = [_pieces(writer, writer.read(config)) for config in writer.cases("macs").configs]
        kinds = sorted({piece.kind for case in self.cases for piece in case})
        self.columns = {kind: place for place, kind in enumerate(kinds)}
        self.names = [f"{what} of {kind}" for kind in kinds for what in ("MACs", "padded MACs", "bytes", "number")]
        largest = np.array(self.space.gene_sizes)[None] - 1
        self.scale = np.ones(len(self.names))
        self.scale = np.maximum(self.values(largest)[0], 1)

    def values(self, genes: IntMatrix) -> Floats:
        """Features relative to those of the largest network: ``[N, G] -> [N, K]``."""
        found = np.zeros((len(genes), len(self.names)))
        for number, case in enumerate(self.cases):
            rows = np.arange(len(genes)) if len(self.cases) == 1 else np.flatnonzero(genes[:, 0] == number)
            for start in range(0, len(rows), CHUNK):
                own = rows[start : start + CHUNK]
                found[own] = self._values(genes[own], case)
        return found / self.scale

    def _values(self, genes: IntMatrix, pieces: Sequence[Piece]) -> Floats:
        sizes = sizes_matrix(self.graph, self.space.kept(genes))
        found = np.zeros((len(self.columns), 4, len(genes)))
        for piece in pieces:
            there = np.ones(len(genes))
            for gene, own in piece.owners:
                there *= np.array(own, dtype=np.float64)[genes[:, gene]]
            row = found[self.columns[piece.kind]]
            if piece.factors:
                row[0] += there * _product(piece.factors, sizes)
                row[1] += there * _product(piece.factors, sizes, VECTOR)
            row[2] += there * sum(bytes_ * _product(shape, sizes) for bytes_, shape in (*piece.read, *piece.written))
            row[3] += there
        return found.reshape(-1, len(genes)).T


def work_of(supernet: Supernet) -> Work | None:
    """Features of the latency of a supernet's networks, where its operators are known; None elsewhere."""
    return Work(supernet) if isinstance(supernet, ConvertedSupernet) else None


def _pieces(writer: Writer, read: Read) -> list[Piece]:
    found = []
    for place, op in enumerate(read.trace.ops):
        if (place, 0) not in read.run.stored and place not in read.factors and op.name[-1] != "_":
            continue  # a view
        tensors = read.trace.tensors
        found.append(
            Piece(
                _kind(op, read, place),
                read.factors.get(place, ()),
                tuple((tensors[n].itemsize, read.shapes[n]) for n in op.inputs),
                tuple((tensors[n].itemsize, read.shapes[n]) for n in op.outputs),
                tuple(writer.owners_of(place, read.trace)),
            )
        )
    return found


def _kind(op: Op, read: Read, place: int) -> str:
    if place not in read.factors:
        pointwise = torch.Tag.pointwise in op.func.tags
        return "elementwise operators" if pointwise else "normalisation" if "norm" in op.name else "moves and pooling"
    if op.name == "convolution":
        weight = read.trace.tensors[op.inputs[1]].shape
        groups = int(op.args[8])
        if groups > 1:
            return "depthwise convolutions" if weight[1] == 1 else "grouped convolutions"
        return "1x1 convolutions" if math.prod(weight[2:]) == 1 else "convolutions"
    return "matrix products" if op.name in MATRICES else "attention"


def _product(shape: Shape, sizes: IntMatrix, multiple: int = 1) -> Floats:
    """Product of sizes, ``[N]``; those that vary are rounded up to a multiple."""
    found = np.ones(len(sizes))
    for side in shape:
        if side.kind == "fixed":
            found *= side.size
        else:
            found *= -(-side.of(sizes) // multiple) * multiple
    return found
