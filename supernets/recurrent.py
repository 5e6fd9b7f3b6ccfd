"""The recurrent cell space of DARTS (Liu et al., ICLR 2019, arXiv:1806.09055, sections 2.1 and 3.1.2), for language.

A cell has eight nodes. The first state mixes the word and the previous output; node ``i`` reads one earlier state ``s``
through its own matrix, ``[c, h] = s W_i``, and moves it by ``sigmoid(c) * (f(h) - s)``, a highway (arXiv:1607.03474)
whose activation ``f`` is searched. The output is the mean of the nodes. Cell, genotypes and dropouts follow the
authors' code (quark0/darts, rnn/); in search every state is batch-normalised, the standalone cell of the paper is not.
Unlike the code, which moves one set of running statistics by all states, every state has its own: training is the same,
and a supernet in evaluation mode is usable.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import OperationSupernet, Subnet, arguments, inherit_weights
from .decisions import InputDecisions
from .execution import EqualPlan
from .genotype import Edge
from .genotype_text import ERRORS, genotype_fields
from .mixed_op import MixedOp, add_up
from .ops import Zero
from .space import NONE, ArchGraph, Choice, IntMatrix, SearchSpace, SubnetConfig

CANDIDATES = (NONE, "tanh", "relu", "sigmoid", "identity")
NODES = 8
EDGES = tuple((state, node) for node in range(NODES) for state in range(node + 1))  # state 0 is the first, 1 is node 0
INIT_RANGE = 0.04  # of the authors' code, for all matrices
State: TypeAlias = tuple[Tensor, ...]  # what a language model carries from word to word, each [B, H]


@dataclass(frozen=True)
class RecurrentGenotype:
    """A cell in the text format of the DARTS repository. State 0 is the first one, state ``1 + i`` is node ``i``.

    Args:
        recurrent: For each node its activation and the state it reads.
        concat: States whose mean is the output.

    Raises:
        ValueError: If a node or the output reads a state that does not exist there, or an activation is unknown.

    Example:
        >>> genotype = RecurrentGenotype.parse("Genotype(recurrent=[('relu', 0), ('tanh', 1)], concat=range(1, 3))")
        >>> genotype.recurrent, genotype.concat
        ((('relu', 0), ('tanh', 1)), (1, 2))
        >>> str(genotype)
        "Genotype(recurrent=[('relu', 0), ('tanh', 1)], concat=[1, 2])"
    """

    recurrent: tuple[Edge, ...]
    concat: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "recurrent", tuple((name, state) for name, state in self.recurrent))
        object.__setattr__(self, "concat", tuple(self.concat))
        for node, (name, state) in enumerate(self.recurrent):
            if name not in CANDIDATES[1:]:
                raise ValueError(f"{name!r} is not an activation; activations are {CANDIDATES[1:]}.")
            if not 0 <= state <= node:
                raise ValueError(f"Node {node} can read the states 0 to {node}; it reads state {state}.")
        if not self.concat or not all(0 <= state <= len(self.recurrent) for state in self.concat):
            raise ValueError(
                f"concat lists states from 0 to {len(self.recurrent)}, at least one; got {list(self.concat)}."
            )

    @classmethod
    def parse(cls, text: str) -> RecurrentGenotype:
        """Read ``Genotype(recurrent=[('tanh', 0), ...], concat=range(1, 9))``, as repositories and logs print it.

        The text is parsed, not evaluated.

        Raises:
            ValueError: If the text is not a genotype.
        """
        try:
            fields = genotype_fields(text)
            edges, states = fields["recurrent"], tuple(int(state) for state in fields["concat"])
            return cls(tuple((str(name), int(state)) for name, state in edges), states)
        except ERRORS as error:
            raise ValueError(
                "A recurrent genotype reads Genotype(recurrent=[(activation, state), ...], concat=[...]); "
                f"got {text[:200]!r}: {error}"
            ) from error

    def __str__(self) -> str:
        """The text :meth:`parse` reads."""
        return f"Genotype(recurrent={list(self.recurrent)}, concat={list(self.concat)})"

    def graphs(self) -> list[ArchGraph]:
        """The cell as the paper draws it."""
        nodes = ("x_{t}", "h_{t-1}", *(str(state) for state in range(len(self.recurrent) + 1)), "h_{t}")
        inner = ((state + 2, node + 3, name) for node, (name, state) in enumerate(self.recurrent))
        last = ((state + 2, len(nodes) - 1, "") for state in self.concat)
        return [ArchGraph("recurrent", nodes, ((0, 2, ""), (1, 2, ""), *inner, *last))]


# Published cells, text: quark0/darts rnn/genotypes.py; V2 from a later copy of it (OUCMachineLearning/OUCML).
PUBLISHED_RECURRENT: dict[str, RecurrentGenotype] = {
    name: RecurrentGenotype.parse(text)
    for name, text in {
        # Pham et al., ICML 2018, arXiv:1802.03268, figure 6; eleven nodes, the output is the mean of what nobody reads
        "ENAS": (
            "Genotype(recurrent=[('tanh', 0), ('tanh', 1), ('relu', 1), ('tanh', 3), ('tanh', 3), ('relu', 3), "
            "('relu', 4), ('relu', 7), ('relu', 8), ('relu', 8), ('relu', 8)], concat=[2, 5, 6, 9, 10, 11])"
        ),
        # Liu et al., ICLR 2019, arXiv:1806.09055, first order, searched on Penn Treebank
        "DARTS_V1": (
            "Genotype(recurrent=[('relu', 0), ('relu', 1), ('tanh', 2), ('relu', 3), ('relu', 4), ('identity', 1), "
            "('relu', 5), ('relu', 1)], concat=range(1, 9))"
        ),
        # the same, second order
        "DARTS_V2": (
            "Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ('relu', 1), ('identity', 1), ('tanh', 2), "
            "('sigmoid', 5), ('tanh', 3), ('relu', 5)], concat=range(1, 9))"
        ),
    }.items()
}


@dataclass(frozen=True)
class RecurrentSpace(SearchSpace):
    """Choice ``recurrent`` holds the activation of every edge, :data:`EDGES` gives their order.

    Every node reads exactly one state; all its other edges hold ``none``.

    Example:
        >>> space = RecurrentSpace()
        >>> space.size == math.factorial(8) * 4**8
        True
        >>> space.config(PUBLISHED_RECURRENT["DARTS_V1"])["recurrent"][:6]
        ('relu', 'none', 'relu', 'none', 'none', 'tanh')
    """

    name: str = "recurrent"
    choices: tuple[Choice, ...] = field(default=(Choice("recurrent", CANDIDATES, rows=len(EDGES)),))

    @property
    def size(self) -> int:
        return math.prod((len(CANDIDATES) - 1) * (node + 1) for node in range(NODES))

    def genotype(self, config: SubnetConfig) -> RecurrentGenotype:
        """The cell of a config: inverse of :meth:`config`."""
        self.validate(config)
        edges = zip(EDGES, config["recurrent"], strict=True)
        kept = tuple((str(pick), state) for (state, _), pick in edges if pick != NONE)
        return RecurrentGenotype(kept, tuple(range(1, NODES + 1)))

    def config(self, genotype: RecurrentGenotype) -> SubnetConfig:
        """The config that builds a genotype.

        Raises:
            ValueError: If the genotype is not in this space: another number of nodes, or another output.
        """
        if len(genotype.recurrent) != NODES or genotype.concat != tuple(range(1, NODES + 1)):
            raise ValueError(
                f"Cells of {self.name!r} have {NODES} nodes, and their output is the mean of all; this one has "
                f"{len(genotype.recurrent)} nodes and takes the mean of the states {list(genotype.concat)}. "
                "RecurrentLanguageModel(genotype) builds it directly."
            )
        reads = [(state, node) for node, (_, state) in enumerate(genotype.recurrent)]
        picks = [genotype.recurrent[node][0] if (state, node) in reads else NONE for state, node in EDGES]
        return SubnetConfig(self.name, {"recurrent": picks})

    def most_likely(self, probabilities: Mapping[str, npt.NDArray[np.floating[Any]]]) -> SubnetConfig:
        """Derive as the paper does (arXiv:1806.09055, section 2.4): nodes keep the edge with the likeliest activation.

        ``none`` takes part in the softmax, but not in the comparison.

        Args:
            probabilities: ``{"recurrent": [36, 5]}``.
        """
        picks = [NONE] * len(EDGES)
        for edges in self.gene_groups():
            live = probabilities["recurrent"][edges, 1:]
            state, activation = np.unravel_index(live.argmax(), live.shape)
            picks[edges[int(state)]] = CANDIDATES[1 + int(activation)]
        return SubnetConfig(self.name, {"recurrent": picks})

    def graphs(self, config: SubnetConfig) -> list[ArchGraph]:
        return self.genotype(config).graphs()

    def check_rules(self, genes: IntMatrix) -> None:
        for node, edges in enumerate(self.gene_groups()):
            reads = np.count_nonzero(genes[:, edges], axis=1)
            if (reads != 1).any():
                row = int(np.argmax(reads != 1))
                raise ValueError(
                    f"Every node of space {self.name!r} must read one state, its other edges must hold 'none'; node "
                    f"{node} of genome {row} reads {reads[row]}. most_likely() keeps the likeliest edge, "
                    "space.repair(genes) the first."
                )

    def draw_genes(self, n: int, rng: np.random.Generator) -> IntMatrix:
        genes = np.zeros((n, self.num_genes), dtype=np.int64)  # code 0 is none
        for edges in self.gene_groups():
            kept = rng.choice(edges, size=n)
            genes[np.arange(n), kept] = rng.integers(1, len(CANDIDATES), size=n)
        return genes

    def mutate_genes(self, genes: IntMatrix, rng: np.random.Generator) -> IntMatrix:
        """Change the activation of a node, or let the node read another state."""
        child, nodes = genes.copy(), self.gene_groups()
        rewire = rng.random() < 0.5
        edges = nodes[rng.integers(1 if rewire else 0, NODES)]  # node 0 can read one state only
        old = next(edge for edge in edges if genes[edge])
        if rewire:
            new = rng.choice([edge for edge in edges if edge != old])
            child[old], child[new] = 0, genes[old]
        else:
            child[old] = 1 + (genes[old] - 1 + rng.integers(1, len(CANDIDATES) - 1)) % (len(CANDIDATES) - 1)
        return child

    def repair_genes(self, genes: IntMatrix) -> IntMatrix:
        """A node keeps the first state it reads; one that reads none gets the first activation of the first state."""
        for edges in self.gene_groups():
            on = genes[:, edges] != 0
            genes[:, edges] = np.where(on & (on.cumsum(1) == 1), genes[:, edges], 0)
            genes[~on.any(1), edges[0]] = 1
        return genes

    def gene_groups(self) -> list[list[int]]:
        """Edges that enter each node."""
        return [[e for e, (_, node) in enumerate(EDGES) if node == target] for target in range(NODES)]

    def decisions(self) -> InputDecisions:
        return InputDecisions(self, self.gene_groups(), 1)


# The parts of a language model.


class Zeros(Zero):
    """The candidate ``none``: zeros in the shape of the input, which may have any."""

    def __init__(self) -> None:
        super().__init__(stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return torch.zeros_like(x)


def activation(name: str) -> nn.Module:
    """One candidate; it has no weights."""
    makers: dict[str, Callable[[], nn.Module]] = {
        NONE: Zeros,
        "tanh": nn.Tanh,
        "relu": nn.ReLU,
        "sigmoid": nn.Sigmoid,
        "identity": nn.Identity,
    }
    return makers[name]()


def locked_mask(x: Tensor, probability: float, *, training: bool) -> Tensor | None:
    """A dropout mask to be used at every time step (variational dropout, Gal and Ghahramani, arXiv:1512.05287).

    Args:
        x: Its shape, device and type: ``[B, H]``.
        probability: Share of zeros; what stays is scaled up.
        training: Without training there is none.
    """
    if not training or probability == 0:
        return None
    return torch.empty_like(x).bernoulli_(1 - probability).div_(1 - probability)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """``x * mask``, or ``x`` if there is no mask; shapes broadcast."""
    return x if mask is None else x * mask


class Words(nn.Module):
    """From words to vectors, and with the same matrix from vectors to words (arXiv:1608.05859).

    Args:
        num_classes: Size of the vocabulary, V.
        size: Length of a vector, H.
        dropout_words: Probability of dropping a word of the vocabulary, wherever it occurs (arXiv:1512.05287).
        dropout_embedding: Locked dropout of the vectors.
        dropout_output: Locked dropout of what the logits are computed from.

    Raises:
        ValueError: If there are fewer than two words, or a probability is not in [0, 1).
    """

    def __init__(
        self, num_classes: int, size: int, dropout_words: float, dropout_embedding: float, dropout_output: float
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"A vocabulary has at least two words; got num_classes={num_classes}.")
        if size < 1:
            raise ValueError(f"Words are vectors of at least one number; got size={size}.")
        check_dropout(words=dropout_words, embedding=dropout_embedding, output=dropout_output)
        self.weight = nn.Parameter(torch.empty(num_classes, size).uniform_(-INIT_RANGE, INIT_RANGE))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.dropout_words, self.dropout_embedding, self.dropout_output = (
            dropout_words,
            dropout_embedding,
            dropout_output,
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """Words ``[B, T]`` (int64) -> vectors ``[T, B, H]``.

        Raises:
            ValueError: If these are no words.
        """
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(
                f"A language model reads numbers of words, int64 [B, T]; got {tokens.dtype} {list(tokens.shape)}."
            )
        tokens = tokens.t()
        x = F.embedding(tokens, self.weight)
        keep = locked_mask(self.weight[:, :1], self.dropout_words, training=self.training)
        x = x if keep is None else x * F.embedding(tokens, keep)
        return masked(x, locked_mask(x[0], self.dropout_embedding, training=self.training))

    def drop(self, x: Tensor) -> Tensor:
        """Dropout of the outputs, ``[T, B, H]``."""
        return masked(x, locked_mask(x[0], self.dropout_output, training=self.training))

    def decode(self, x: Tensor) -> Tensor:
        """Outputs after dropout ``[T, B, H]`` -> logits ``[B, V, T]``, where cross-entropy looks for classes."""
        return F.linear(x, self.weight, self.bias).permute(1, 2, 0)


def check_dropout(**probabilities: float) -> None:
    """Check probabilities of dropout.

    Raises:
        ValueError: Naming the one that is not in [0, 1).
    """
    for name, probability in probabilities.items():
        if not 0 <= probability < 1:
            raise ValueError(f"dropout_{name} must be in [0, 1); got {probability}. 0 is off.")


def highway(s: Tensor, c: Tensor, h: Tensor) -> Tensor:
    """``s + c * (h - s)``; any shape."""
    return torch.addcmul(s - c * s, c, h)


class RecurrentWeights(nn.Module):
    """Matrices and normalisation that search cell and standalone cell have in common.

    Args:
        size: Length of a state, H.
        nodes: Number of nodes, N.
        batch_norm: Normalise every state over the batch, without learnable scale.
    """

    def __init__(self, size: int, nodes: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(2 * size, 2 * size).uniform_(-INIT_RANGE, INIT_RANGE))
        self.nodes = nn.Parameter(torch.empty(nodes, 2 * size, size).uniform_(-INIT_RANGE, INIT_RANGE))
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(size, affine=False) if batch_norm else nn.Identity() for _ in range(nodes + 1)
        )

    def first_state(self, x: Tensor, h: Tensor, mask: Tensor | None) -> Tensor:
        """Word and previous output, both ``[B, H]`` -> state 0, ``[B, H]``."""
        gate, new = F.linear(torch.cat([x, masked(h, mask)], dim=1), self.first).chunk(2, dim=1)
        state: Tensor = self.norms[0](highway(h, gate.sigmoid(), new.tanh()))
        return state


class SearchCell(RecurrentWeights):
    """All edges, and a mixture of activations on each.

    The sum over the activations, ``sum_o w_o (s + c (f_o(h) - s))``, is ``(sum_o w_o) (s - c s) + c sum_o w_o f_o(h)``
    where ``none`` counts in neither sum. So highways run once for an edge, not once for every activation.

    Args:
        size: Length of a state, H.
        batch_norm: As the paper does in search.
    """

    def __init__(self, size: int, *, batch_norm: bool) -> None:
        super().__init__(size, NODES, batch_norm=batch_norm)
        activations = [activation(name) for name in CANDIDATES]
        self.edges = nn.ModuleList(MixedOp(activations) for _ in EDGES)
        self.live = MixedOp(activation(NONE if name == NONE else "identity") for name in CANDIDATES)

    def prepare(self, weights: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """What all time steps share, of edge weights ``[36, O]``: rows ``[O]``, their sums without ``none``, matrices.

        Matrices ``[(8 - j) * 2 * H, H]`` of every state ``j``: of all nodes that may read it, in one.
        """
        rows = [weights[edge] for edge in range(len(EDGES))]
        one = torch.ones((), device=self.first.device, dtype=self.first.dtype)
        return rows, [self.live(one, row) for row in rows], [self.nodes[j:].flatten(0, 1) for j in range(NODES)]

    def forward(
        self,
        x: Tensor,
        h: Tensor,
        mask: Tensor | None,
        rows: Sequence[Tensor],
        live: Sequence[Tensor],
        matrices: Sequence[Tensor],
    ) -> Tensor:
        """One time step: word and previous output, both ``[B, H]`` -> output, ``[B, H]``."""
        s = self.first_state(x, h, mask)
        terms: list[list[Tensor]] = [[] for _ in range(NODES)]
        states = []
        for state in range(NODES):
            ch = F.linear(masked(s, mask), matrices[state]).view(len(s), NODES - state, 2, -1)
            c, new = ch[:, :, 0].sigmoid(), ch[:, :, 1].unbind(1)
            keep = s[:, None] - c * s[:, None]
            for node, c_edge, h_edge, keep_edge in zip(range(state, NODES), c.unbind(1), new, keep.unbind(1)):
                edge = node * (node + 1) // 2 + state
                mixed = self.edges[edge](h_edge, rows[edge])
                terms[node].append(torch.addcmul(keep_edge * live[edge], c_edge, mixed))
            s = self.norms[state + 1](add_up(terms[state]))
            states.append(s)
        return torch.stack(states).mean(0)


class RecurrentCell(RecurrentWeights):
    """One state and one activation a node.

    Args:
        genotype: The cell.
        size: Length of a state, H.
        batch_norm: For weights that come from a supernet; the paper's cell has none.
    """

    def __init__(self, genotype: RecurrentGenotype, size: int, *, batch_norm: bool) -> None:
        super().__init__(size, len(genotype.recurrent), batch_norm=batch_norm)
        self.genotype = genotype
        self.activations = nn.ModuleList(activation(name) for name, _ in genotype.recurrent)

    def forward(self, x: Tensor, h: Tensor, mask: Tensor | None, matrices: Sequence[Tensor]) -> Tensor:
        """One time step: word and previous output ``[B, H]``, matrices N times ``[2 * H, H]`` -> output, ``[B, H]``."""
        states = [self.first_state(x, h, mask)]
        for node, (_, source) in enumerate(self.genotype.recurrent):
            s = states[source]
            c, new = F.linear(masked(s, mask), matrices[node]).chunk(2, dim=1)
            states.append(self.norms[node + 1](highway(s, c.sigmoid(), self.activations[node](new))))
        return torch.stack([states[state] for state in self.genotype.concat]).mean(0)


# The networks.


class RecurrentSupernet(OperationSupernet):
    """All cells of the space at once, as a language model that starts every sequence from a state of zeros.

    Takes words ``[B, T]`` (int64) and gives logits ``[B, V, T]``, so cross-entropy with the next words ``[B, T]`` is
    the mean over all positions. Defaults are the paper's for the search on Penn Treebank (appendix A.1.2). In the
    authors' code the state is carried from window to window; here every window stands alone, and can be shuffled.

    Args:
        num_classes: Size of the vocabulary, V.
        size: Length of word vectors and states, H.
        window: Words in a sequence, T. Only declared, as ``input_shape``: any length works.
        batch_norm: Normalise every state over the batch, against exploding gradients.
        dropout_words: Probability of dropping a word of the vocabulary, wherever it occurs.
        dropout_embedding: Locked dropout of the word vectors.
        dropout_input: Locked dropout of the input of the cell.
        dropout_hidden: Locked dropout of what the matrices of the cell multiply, except for the word.
        dropout_output: Locked dropout of what the logits are computed from.

    Raises:
        ValueError: If the vocabulary has fewer than two words, or a probability is not in [0, 1).

    Example:
        >>> net = RecurrentSupernet(num_classes=50, size=8)
        >>> words = torch.zeros(4, 35, dtype=torch.int64)
        >>> net(words, net.one_hot(net.space.sample(0))).shape
        torch.Size([4, 50, 35])
    """

    texts = True
    default_task = "language"
    space: RecurrentSpace

    def __init__(
        self,
        *,
        num_classes: int = 10_000,
        size: int = 300,
        window: int = 35,
        batch_norm: bool = True,
        dropout_words: float = 0.0,
        dropout_embedding: float = 0.2,
        dropout_input: float = 0.75,
        dropout_hidden: float = 0.25,
        dropout_output: float = 0.75,
    ) -> None:
        self._settings = arguments(locals(), "batch_norm")
        super().__init__()
        self.space = RecurrentSpace()
        check_dropout(input=dropout_input, hidden=dropout_hidden)
        self.num_classes, self.input_shape, self.batch_norm = num_classes, (window,), batch_norm
        self.dropout_input, self.dropout_hidden = dropout_input, dropout_hidden
        self.words = Words(num_classes, size, dropout_words, dropout_embedding, dropout_output)
        self.cell = SearchCell(size, batch_norm=batch_norm)

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        """Words ``[B, T]`` under edge weights ``{"recurrent": [36, 5]}`` -> logits ``[B, V, T]``."""
        self.check_arch(arch)
        x = self.words.embed(x)
        h = torch.zeros_like(x[0])
        x = masked(x, locked_mask(h, self.dropout_input, training=self.training))
        mask = locked_mask(h, self.dropout_hidden, training=self.training)
        shared, outputs = self.cell.prepare(arch["recurrent"]), []
        for word in x.unbind():
            h = self.run_cell(self.cell, word, h, mask, *shared)
            outputs.append(h)
        return self.words.decode(self.words.drop(torch.stack(outputs)))

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> RecurrentLanguageModel:
        """Build one cell as a standalone language model.

        Args:
            config: An architecture of :attr:`space`.
            inherit: Copy the shared weights and the batch normalisation they were trained with. Otherwise the weights
                are drawn anew, and the cell is the paper's for evaluation, without batch normalisation.

        Raises:
            ValueError: If ``config`` is not of this space.
        """
        genotype = str(self.space.genotype(config))
        batch_norm = self.batch_norm and inherit
        net = self.prepare(RecurrentLanguageModel(genotype, batch_norm=batch_norm, **self._settings), config)
        if inherit:
            inherit_weights(net, self)
        return net

    def mixed_ops(self) -> dict[str, list[list[MixedOp]]]:
        return {"recurrent": [[edge] for edge in self.cell.edges]}  # type: ignore[list-item]  # ModuleList is untyped

    def execution_plan(self, network: Subnet) -> EqualPlan:
        """Every node has its matrix whatever it reads, and activations have no weights.

        An identity keeps one tensor less than the other activations do. So the memory of any cell is between that of a
        cell of identities and one without; both need most at the same moment, when the states are averaged, or later.
        """
        concat = tuple(range(1, NODES + 1))
        cells = [RecurrentGenotype(((op, 0),) * NODES, concat) for op in ("identity", "tanh")]
        return EqualPlan(tuple(self.space.config(cell) for cell in cells))


class Reading(NamedTuple):
    """What a language model says about a window.

    Args:
        logits: ``[B, V, T]``.
        state: To go on with in the next window.
        outputs: Outputs of the recurrence before dropout, ``[T, B, H]``.
        dropped: The same after dropout.
    """

    logits: Tensor
    state: State
    outputs: Tensor
    dropped: Tensor


class LanguageModel(Subnet):
    """A recurrent network from words to logits of the next words. Embedding and output share one matrix.

    Takes words ``[B, T]`` (int64). ``input_shape`` is ``(T,)`` and any other length works; ``num_classes`` is the size
    of the vocabulary, V.
    """

    texts = True
    default_task = "language"
    words: Words

    @abstractmethod
    def start(self, batch: int) -> State:
        """The state before the first word: zeros for ``batch`` sequences."""

    @abstractmethod
    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Word vectors ``[T, B, H]`` and a state -> outputs ``[T, B, H]`` and the state after them."""

    def read(self, x: Tensor, state: State) -> Reading:
        """Go on from a state.

        Args:
            x: Words, ``[B, T]``.
            state: Of :meth:`start`, or of the window before.
        """
        outputs, state = self.run(self.words.embed(x), state)
        dropped = self.words.drop(outputs)
        return Reading(self.words.decode(dropped), state, outputs, dropped)

    def forward(self, x: Tensor) -> Tensor:
        """Words ``[B, T]`` -> logits ``[B, V, T]``, from a state of zeros."""
        return self.read(x, self.start(x.shape[0])).logits  # len would fix the batch of an export


class RecurrentLanguageModel(LanguageModel):
    """A language model around one cell. Defaults are the paper's for Penn Treebank (appendix A.2.2): 23 M parameters.

    Args:
        genotype: Text of a :class:`RecurrentGenotype`, or a name of :data:`PUBLISHED_RECURRENT`.
        num_classes: Size of the vocabulary, V.
        size: Length of word vectors and states, H.
        window: Words in a sequence, T; only declared.
        batch_norm: Normalise every state over the batch, for weights that come from a supernet.
        dropout_words: See :class:`RecurrentSupernet`.
        dropout_embedding: See :class:`RecurrentSupernet`.
        dropout_input: See :class:`RecurrentSupernet`.
        dropout_hidden: See :class:`RecurrentSupernet`.
        dropout_output: See :class:`RecurrentSupernet`.

    Raises:
        ValueError: If the genotype is malformed, the vocabulary too small, or a probability not in [0, 1).
    """

    def __init__(
        self,
        genotype: str,
        *,
        num_classes: int = 10_000,
        size: int = 850,
        window: int = 35,
        batch_norm: bool = False,
        dropout_words: float = 0.1,
        dropout_embedding: float = 0.2,
        dropout_input: float = 0.75,
        dropout_hidden: float = 0.25,
        dropout_output: float = 0.75,
    ) -> None:
        self.init_args = arguments(locals())
        super().__init__()
        published = PUBLISHED_RECURRENT.get(genotype)
        cell = published or RecurrentGenotype.parse(genotype)
        self.init_args["genotype"] = str(cell)
        check_dropout(input=dropout_input, hidden=dropout_hidden)
        self.num_classes, self.input_shape = num_classes, (window,)
        self.dropout_input, self.dropout_hidden = dropout_input, dropout_hidden
        self.words = Words(num_classes, size, dropout_words, dropout_embedding, dropout_output)
        self.cell = RecurrentCell(cell, size, batch_norm=batch_norm)

    def start(self, batch: int) -> State:
        return (self.words.weight.new_zeros(batch, self.words.weight.shape[1]),)

    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        x = masked(x, locked_mask(h, self.dropout_input, training=self.training))
        mask = locked_mask(h, self.dropout_hidden, training=self.training)
        matrices, outputs = self.cell.nodes.unbind(), []
        for word in x.unbind():
            h = self.cell(word, h, mask, matrices)
            outputs.append(h)
        return torch.stack(outputs), (h,)

    def graphs(self) -> list[ArchGraph]:
        return self.cell.genotype.graphs()

    def describes(self, config: SubnetConfig) -> bool:
        picks = dict(config.picks).get("recurrent", ())
        kept = [(pick, state) for (state, _), pick in zip(EDGES, picks, strict=False) if pick != NONE]
        return len(picks) == len(EDGES) and kept == list(self.cell.genotype.recurrent)


class LSTMLanguageModel(LanguageModel):
    """The usual baseline: LSTM layers with locked dropout between them (arXiv:1708.02182, without dropped weights).

    Args:
        num_classes: Size of the vocabulary, V.
        size: Length of word vectors and outputs, H.
        hidden: Length of the states of all layers but the last, whose states have length H.
        layers: Number of layers.
        window: Words in a sequence, T; only declared.
        dropout_words: See :class:`RecurrentSupernet`.
        dropout_embedding: See :class:`RecurrentSupernet`.
        dropout_hidden: Locked dropout between layers.
        dropout_output: See :class:`RecurrentSupernet`.

    Raises:
        ValueError: If there is no layer, the vocabulary is too small, or a probability is not in [0, 1).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        size: int,
        hidden: int,
        layers: int = 2,
        window: int = 35,
        dropout_words: float = 0.1,
        dropout_embedding: float = 0.65,
        dropout_hidden: float = 0.3,
        dropout_output: float = 0.4,
    ) -> None:
        self.init_args = arguments(locals())
        super().__init__()
        if layers < 1 or hidden < 1:
            raise ValueError(f"An LSTM has at least one layer of at least one unit; got {layers} of {hidden}.")
        check_dropout(hidden=dropout_hidden)
        self.num_classes, self.input_shape, self.dropout_hidden = num_classes, (window,), dropout_hidden
        self.words = Words(num_classes, size, dropout_words, dropout_embedding, dropout_output)
        sizes = [size, *[hidden] * (layers - 1), size]
        self.layers = nn.ModuleList(nn.LSTM(a, b) for a, b in itertools.pairwise(sizes))

    def start(self, batch: int) -> State:
        sizes = [layer.hidden_size for layer in self.layers if isinstance(layer, nn.LSTM)]
        return tuple(self.words.weight.new_zeros(batch, size) for size in sizes for _ in "hc")

    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        after: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            if number:
                x = masked(x, locked_mask(x[0], self.dropout_hidden, training=self.training))
            h, c = state[2 * number : 2 * number + 2]
            x, (h, c) = layer(x, (h[None], c[None]))
            after += [h[0], c[0]]
        return x, tuple(after)

    def graphs(self) -> list[ArchGraph]:
        nodes = ("x_{t}", *(str(number) for number in range(1, len(self.layers))), "h_{t}")
        return [ArchGraph("lstm", nodes, tuple((i, i + 1, "lstm") for i in range(len(self.layers))))]
