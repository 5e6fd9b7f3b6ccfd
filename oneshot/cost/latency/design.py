"""Which networks are measured, and how the candidates' shares follow from their latencies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oneshot.cost.counting.network import MacCounter
from oneshot.inputs import cast
from oneshot.regression.ridge import relative_ridge
from oneshot.supernets import mixed_op
from oneshot.supernets.base import OperationSupernet, restored_modes
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .device import example_input


@dataclass(frozen=True)
class Shares:
    """What :func:`fit_shares` finds.

    Args:
        entries: Latency of every unknown, ``[P]``, ms.
        fixed: Latency of what is in every network, ms.
        errors: Standard errors of ``entries``, ``[P]``, ms.
        residual: Standard deviation of a network from the sum that was fitted without it, relative.
    """

    entries: Floats
    fixed: float
    errors: Floats
    residual: float


class _Seen(NamedTuple):
    shape: tuple[int, ...]  # of the input
    work: Floats  # of the candidates, [O, 4]


class Places:
    """Which candidates of which rows share one latency, because they are the same modules on inputs of one shape.

    Attributes:
        names: Every unknown latency in words, ``[P]``.
        features: What suggests how large it is, ``[P, K]``: MACs, elements read and written, modules run, parameters;
            each with mean 1 where it is not 0 everywhere.
    """

    def __init__(self, space: SearchSpace, keys: dict[str, list[list[Any]]], features: dict[str, Floats]) -> None:
        self.space = space
        index: dict[Any, int] = {}
        self.index: dict[str, npt.NDArray[np.int64]] = {}
        self.names: list[str] = []
        found: list[Floats] = []
        for choice in space.choices:
            self.index[choice.name] = np.zeros((choice.rows, len(choice.candidates)), np.int64)
            for row, keys_of_row in enumerate(keys[choice.name]):
                for position, key in enumerate(keys_of_row):
                    if key not in index:
                        index[key] = len(index)
                        self.names.append(f"{choice.candidates[position]} in row {row} of {choice.name!r}")
                        found.append(features[choice.name][row, position])
                    self.index[choice.name][row, position] = index[key]
        means = np.stack(found).mean(0)
        self.features = np.stack(found) / np.where(means > 0, means, 1)

    @classmethod
    def of(cls, supernet: OperationSupernet) -> Places:
        """Run every candidate of ``supernet`` once, and record its modules, its input and its work."""
        space, mixed_ops = supernet.space, supernet.mixed_ops()
        every = {id(mixed): mixed for rows in mixed_ops.values() for row in rows for mixed in row}
        seen: dict[int, _Seen] = {}

        def look(mixed: nn.Module, args: tuple[Any, ...]) -> None:
            assert isinstance(mixed, mixed_op.MixedOp)
            x = mixed.part(args[0], {})
            seen[id(mixed)] = _Seen(tuple(x.shape), np.stack([_work(op, x) for op in mixed.ops]))

        like = next(supernet.parameters())
        arch = {c.name: mixed_op.Path(torch.eye(len(c.candidates))[[0] * c.rows].to(like)) for c in space.choices}
        with torch.random.fork_rng(devices=[]):
            network = supernet.extract(space.sample(0), inherit=False)
        x = cast(example_input(network, 1, like.dtype), like)
        hooks = [mixed.register_forward_pre_hook(look) for mixed in every.values()]
        try:
            with restored_modes(supernet), torch.no_grad():
                supernet.eval()(x, arch)
        finally:
            for hook in hooks:
                hook.remove()
        keys: dict[str, list[list[Any]]] = {}
        features: dict[str, Floats] = {}
        for choice in space.choices:
            size, rows = len(choice.candidates), mixed_ops[choice.name]
            keys[choice.name] = [
                [
                    # A choice that decides about no modules, but about wires, has nothing to compare.
                    tuple((seen[id(m)].shape, _what_it_is(m.ops[o])) for m in row) or (choice.name, r, o)
                    for o in range(size)
                ]
                for r, row in enumerate(rows)
            ]
            features[choice.name] = np.array([sum((seen[id(m)].work for m in r), np.zeros((size, 4))) for r in rows])
        return cls(space, keys, features)

    def of_genes(self, genes: Sequence[int] | IntMatrix) -> list[int]:
        """Unknowns in the network of ``genes``; a row that is left out has none."""
        found, gene = [], 0
        for choice in self.space.choices:
            for row in self.index[choice.name]:
                if genes[gene] < len(row):
                    found.append(int(row[genes[gene]]))
                gene += 1
        return found

    def occurrences(self, genes: Sequence[int] | IntMatrix) -> Floats:
        """How often every unknown is in the network of ``genes``, ``[P]``."""
        return np.bincount(self.of_genes(genes), minlength=len(self.names)).astype(np.float64)

    def tables(self, values: Floats, fixed: float, *, level: bool = True) -> tuple[dict[str, list[list[float]]], float]:
        """Lay values ``[P]`` out as ``{choice: [R][O]}``; with ``level`` the least of a row moves into ``fixed``.

        A row that can be left out keeps its level, and what is below 0 becomes 0.
        """
        table = {}
        for choice in self.space.choices:
            rows = values[self.index[choice.name]]
            if level and len(choice.picks) == len(choice.candidates):
                least = rows.min(1, keepdims=True)
                rows, fixed = rows - least, fixed + float(least.sum())
            table[choice.name] = np.maximum(rows, 0).tolist()
        return table, fixed


def balanced_design(space: SearchSpace, networks: int, seed: int, *, draws: int = 32) -> IntMatrix:
    """Random networks in which all picks of a gene appear about equally often, also in every first part of them.

    Of some random networks each time the one is taken whose picks have appeared least. For spaces without rules between
    genes this comes close to Latin squares; for the others it keeps their rules.

    Args:
        space: The search space.
        networks: How many, N.
        seed: Same seed, same design.
        draws: From how many each is chosen.

    Returns:
        Genes, ``[N, G]``.
    """
    rng, columns = np.random.default_rng(seed), np.arange(space.num_genes)
    counts = np.zeros((space.num_genes, max(space.gene_sizes)))
    design = np.empty((networks, space.num_genes), np.int64)
    for n in range(networks):
        pool = space.sample_matrix(draws, rng)
        design[n] = pool[counts[columns, pool].sum(1).argmin()]
        counts[columns, design[n]] += 1
    return design


def fit_shares(occurrences: Floats, features: Floats, latencies: Floats) -> Shares:
    r"""Latencies of candidates from those of whole networks, :math:`y_n = c + \sum_p A_{np} x_p` with relative errors.

    A part is a candidate in its place. Its prior is what its features suggest, :math:`x = F b + d`: :math:`b` is free,
    and :math:`d` is as large as leave-one-out cross-validation says (ridge regression). So parts that the networks tell
    apart badly stay near what their work suggests, and the others are what was measured. Networks far from their sum
    count less (Huber's weights, 1964), for example those during which another program ran.

    Args:
        occurrences: A, ``[N, P]``.
        features: F, ``[P, K]``, not negative, of mean about 1.
        latencies: y, ``[N]``, above 0.
    """
    n, parts = occurrences.shape
    free = features.shape[1] + 1
    scale = latencies.mean() / max(occurrences.sum(1).mean(), 1.0)  # of one part
    inputs = np.hstack([occurrences @ features * scale, np.ones((n, 1)), occurrences * scale])
    found = relative_ridge(inputs, latencies, free)
    back = np.hstack([features, np.zeros((parts, 1)), np.eye(parts)]) * scale  # from the coefficients to the parts
    variance = np.einsum("pi,ij,pj->p", back, found.inverse, back) * found.residual**2
    return Shares(
        back @ found.coefficients, float(found.coefficients[free - 1]), np.sqrt(np.maximum(variance, 0)), found.residual
    )


def _work(op: nn.Module, x: Tensor) -> Floats:
    """MACs, elements read and written, modules run and parameters of ``op(x)``, ``[4]``; in eval mode."""
    work = np.zeros(4)

    def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Identity) or next(module.children(), None) is not None:
            return
        work[1:] += args[0].numel() + output.numel(), 1, sum(p.numel() for p in module.parameters())

    hooks = [module.register_forward_hook(add) for module in op.modules()]
    try:
        with MacCounter() as counter:
            op(x)
    finally:
        for hook in hooks:
            hook.remove()
    work[0] = counter.macs
    return work


def _what_it_is(op: nn.Module) -> tuple[Any, ...]:
    """Classes, settings and shapes of weights of a module and all in it: equal for modules that do the same work."""
    plain = (bool, int, float, str, tuple, type(None))
    return tuple(
        (
            name,
            type(module),
            tuple(
                sorted(
                    (key, repr(value))
                    for key, value in vars(module).items()
                    if isinstance(value, plain) and key != "training"
                )
            ),
            tuple((key, tuple(weight.shape)) for key, weight in module.named_parameters(recurse=False)),
        )
        for name, module in op.named_modules()
    )
