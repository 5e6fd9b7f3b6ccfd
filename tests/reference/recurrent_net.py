"""Textbook recurrent cells of DARTS: one module per candidate, edge by edge (arXiv:1806.09055, sections 2.1, A.1.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CANDIDATES = ("none", "tanh", "relu", "sigmoid", "identity")


class Zero(nn.Module):
    """The ``none`` operation."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x


def candidate(name: str) -> nn.Module:
    """One activation."""
    if name == "none":
        return Zero()
    return {"tanh": nn.Tanh(), "relu": nn.ReLU(), "sigmoid": nn.Sigmoid(), "identity": nn.Identity()}[name]


class _Language(nn.Module):
    """Embedding, one cell run over the words, the embedding's matrix again."""

    def __init__(self, words: int, size: int, nodes: int, *, normalise: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, size)
        self.bias = nn.Parameter(torch.zeros(words))
        self.first = nn.Linear(2 * size, 2 * size, bias=False)
        self.nodes = nn.ModuleList(nn.Linear(size, 2 * size, bias=False) for _ in range(nodes))
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(size, affine=False) if normalise else nn.Identity() for _ in range(nodes + 1)
        )

    def first_state(self, x: Tensor, h: Tensor) -> Tensor:
        c, new = self.first(torch.cat([x, h], dim=-1)).chunk(2, dim=-1)
        state: Tensor = self.norms[0](h + torch.sigmoid(c) * (torch.tanh(new) - h))
        return state

    def cell(self, x: Tensor, h: Tensor, *arguments: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, tokens: Tensor, *arguments: Tensor) -> Tensor:
        h = torch.zeros(len(tokens), self.embedding.embedding_dim, dtype=self.bias.dtype)
        logits = []
        for t in range(tokens.shape[1]):
            h = self.cell(self.embedding(tokens[:, t]), h, *arguments)
            logits.append(h @ self.embedding.weight.t() + self.bias)
        return torch.stack(logits, dim=-1)


class RecurrentSearchNet(_Language):
    """All edges between eight nodes; weights of the edges come from outside, ``[36, 5]``, node by node.

    ``none_keeps_state`` lets ``none`` keep its share of the old state, a mistake that is easily made.
    """

    def __init__(self, words: int, size: int, *, none_keeps_state: bool = False) -> None:
        super().__init__(words, size, 8, normalise=True)
        self.candidates = nn.ModuleList(candidate(name) for name in CANDIDATES)
        self.none_keeps_state = none_keeps_state

    def cell(self, x: Tensor, h: Tensor, *arguments: Tensor) -> Tensor:
        (weights,) = arguments
        rows = iter(weights)
        states = [self.first_state(x, h)]
        for node in range(8):
            total = torch.zeros_like(h)
            for state in states:
                c, new = self.nodes[node](state).chunk(2, dim=-1)
                for name, weight, op in zip(CANDIDATES, next(rows), self.candidates, strict=True):
                    moved = state + torch.sigmoid(c) * (op(new) - state)
                    if name == "none":
                        moved = state if self.none_keeps_state else torch.zeros_like(state)
                    total = total + weight * moved
            states.append(self.norms[node + 1](total))
        return torch.stack(states[1:]).mean(0)


class RecurrentDerivedNet(_Language):
    """One activation and one predecessor a node; ``mean_of_all`` takes the first state into the output, a mistake."""

    def __init__(
        self,
        words: int,
        size: int,
        recurrent: Sequence[tuple[str, int]],
        concat: Sequence[int],
        *,
        normalise: bool = False,
        mean_of_all: bool = False,
    ) -> None:
        super().__init__(words, size, len(recurrent), normalise=normalise)
        self.recurrent = list(recurrent)
        self.concat = [0, *concat] if mean_of_all else list(concat)
        self.ops = nn.ModuleList(candidate(name) for name, _ in recurrent)

    def cell(self, x: Tensor, h: Tensor, *arguments: Tensor) -> Tensor:
        states = [self.first_state(x, h)]
        for node, (_, source) in enumerate(self.recurrent):
            c, new = self.nodes[node](states[source]).chunk(2, dim=-1)
            moved = states[source] + torch.sigmoid(c) * (self.ops[node](new) - states[source])
            states.append(self.norms[node + 1](moved))
        return torch.stack([states[i] for i in self.concat]).mean(0)
