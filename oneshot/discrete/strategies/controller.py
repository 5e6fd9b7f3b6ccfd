"""The policy of reinforcement learning: an LSTM that writes an architecture down, decision after decision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from oneshot.discrete.graphs.encoding import GraphSpace, GraphWriter
from oneshot.discrete.graphs.graph import IMAGE, NetworkGraph
from oneshot.functional import is_temperature
from oneshot.supernets.darts import DARTSSpace
from oneshot.supernets.recurrent import RecurrentSpace
from oneshot.supernets.space import NONE, Choice, IntMatrix, SearchSpace, SubnetConfig

NEVER = float("-inf")


class Decisions:
    """How an architecture is written down: which softmaxes there are, and the genes that their picks mean.

    This one has a softmax for every gene, in order. Where a space has rules between genes, what was picked is repaired;
    log-probabilities are those of what was picked, and several picks may mean one architecture.

    Args:
        space: The space.

    Attributes:
        sizes: Picks of every decision, length D.
        steps: Decisions that each step of the LSTM makes.
        anchors: Steps whose decisions are skip connections, in order: the i-th has one for each anchor before it.
    """

    anchors: tuple[int, ...] = ()

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.sizes: tuple[int, ...] = space.gene_sizes
        self.steps: tuple[tuple[int, ...], ...] = tuple((d,) for d in range(len(self.sizes)))

    def genes(self, picks: IntMatrix) -> IntMatrix:
        """Picks ``[N, D]`` -> canonical genes ``[N, G]``."""
        return self.space.repair(picks)

    def legal(self, decision: int, picks: Tensor) -> Tensor:
        """Which picks a decision may take, given those before it.

        Args:
            decision: Which one.
            picks: ``[N, D]``.

        Returns:
            ``[N, O]`` or ``[1, O]``, where O is the largest of the sizes.
        """
        return torch.arange(max(self.sizes), device=picks.device)[None] < self.sizes[decision]


class InputDecisions(Decisions):
    """For cells whose nodes read a given number of states: which, then the operation on each.

    A softmax for every edge would have to say ``none`` most of the time. A node may not read a state twice, so these
    picks are masked before the softmax.

    Args:
        space: A space in which an edge that is not read holds ``none``.
        nodes: Genes of the edges that enter each node.
        inputs: How many states a node reads; all, where it has fewer.
    """

    def __init__(self, space: SearchSpace, nodes: Sequence[Sequence[int]], inputs: int) -> None:
        super().__init__(space)
        picks = [choice.picks for choice in space.choices for _ in range(choice.rows)]
        self._none = np.array([row.index(NONE) if NONE in row else -1 for row in picks])
        self._live = [[code for code, pick in enumerate(row) if pick != NONE] for row in picks]
        self._nodes: list[tuple[list[int], range, range]] = []  # genes, and decisions about states and operations
        self._before: dict[int, range] = {}
        self._reads: dict[
            int, tuple[int, Tensor]
        ] = {}  # of an operation: the decision about its state, and what is legal
        sizes: list[int] = []
        largest = max(max(map(len, self._live)), max(map(len, nodes)))
        for genes in nodes:
            kept = min(inputs, len(genes))
            states = range(len(sizes), len(sizes) + kept)
            operations = range(states.stop, states.stop + kept)
            most = max(len(self._live[gene]) for gene in genes)
            sizes += [len(genes)] * kept + [most] * kept
            live = torch.tensor([[code < len(self._live[gene]) for code in range(largest)] for gene in genes])
            for state, operation in zip(states, operations):
                self._before[state] = range(states.start, state)
                self._reads[operation] = state, live
            self._nodes.append((list(genes), states, operations))
        self.sizes = tuple(sizes)
        self.steps = tuple((d,) for d in range(len(sizes)))

    def genes(self, picks: IntMatrix) -> IntMatrix:
        matrix, rows = np.tile(self._none, (len(picks), 1)), np.arange(len(picks))
        for genes, states, operations in self._nodes:
            for state, operation in zip(states, operations):
                gene = np.array(genes)[picks[:, state]]
                matrix[rows, gene] = [self._live[g][o] for g, o in zip(gene, picks[:, operation])]
        return self.space.repair(matrix)

    def legal(self, decision: int, picks: Tensor) -> Tensor:
        if decision in self._reads:
            state, live = self._reads[decision]
            return live.to(picks.device)[picks[:, state]]
        legal = super().legal(decision, picks).repeat(len(picks), 1)
        for earlier in self._before[decision]:
            legal.scatter_(1, picks[:, earlier, None], False)
        return legal


@dataclass(frozen=True)
class ZophLeSpace(GraphSpace):
    """Convolutional networks of Zoph and Le (ICLR 2017, arXiv:1611.01578, section 3): layers with skip connections.

    Every layer has a filter of its own height and width, a number of filters, and a bit for every earlier layer that
    says whether it is read; choices are ``height``, ``width``, ``filters`` and ``skip``, the last of which holds the
    bits of layer 1, then those of layer 2, and so on.

    A layer concatenates what it reads, the image if that is nothing, and applies Conv-BN-ReLU; the classifier reads the
    concatenation of all layers that no other reads (section 3.3), after global pooling (ours). Strides are left out, so
    that all sizes are equal and the paper's padding with zeros is not needed. There is no supernet for it;
    ``space.network(input_shape, num_classes)`` is what a ``TrainingEvaluator`` builds with.

    Args:
        name: Name of the space.
        choices: Made from the other arguments.
        layers: Number of layers.

    Example:
        >>> space = ZophLeSpace(layers=3)
        >>> space.num_genes, space.size == 4**9 * 2**3
        (12, True)
        >>> network = space.network((3, 8, 8), 10)(space.sample(0))
        >>> network(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    name: str = "zoph_le"
    choices: tuple[Choice, ...] = field(default=())
    layers: int = 6

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise ValueError(f"Skip connections need at least two layers; got layers={self.layers}.")
        sizes, filters = (1, 3, 5, 7), (24, 36, 48, 64)
        made = [Choice("height", sizes, self.layers), Choice("width", sizes, self.layers)]
        made += [Choice("filters", filters, self.layers), Choice("skip", (0, 1), self.layers * (self.layers - 1) // 2)]
        object.__setattr__(self, "choices", tuple(made))
        super().__post_init__()

    def graph(self, config: SubnetConfig) -> NetworkGraph:
        self.validate(config)
        writer, bits = GraphWriter(), iter(config["skip"])
        states: list[str] = []
        read: set[int] = set()
        for layer, (height, width, filters) in enumerate(
            zip(config["height"], config["width"], config["filters"], strict=True)
        ):
            sources = [earlier for earlier in range(layer) if next(bits)]
            x = writer.concat([states[source] for source in sources] or [IMAGE])
            states.append(writer.conv(x, int(filters), int(height), width=int(width)))
            read.update(sources)
        return writer.finish(writer.concat([state for layer, state in enumerate(states) if layer not in read]))

    def skips(self, layer: int) -> range:
        """Genes of the bits of a layer, in the order of the layers before it."""
        first = 3 * self.layers + layer * (layer - 1) // 2
        return range(first, first + layer)


class AnchorDecisions(Decisions):
    """Layer by layer: height, width, filters, then an anchor that decides about all skip connections into the layer.

    Args:
        space: The space.
    """

    def __init__(self, space: ZophLeSpace) -> None:
        super().__init__(space)
        order: list[int] = []
        steps: list[tuple[int, ...]] = []
        anchors = []
        for layer in range(space.layers):
            for gene in (layer, space.layers + layer, 2 * space.layers + layer):
                steps.append((len(order),))
                order.append(gene)
            anchors.append(len(steps))
            steps.append(tuple(range(len(order), len(order) + layer)))
            order += space.skips(layer)
        self.sizes = tuple(space.gene_sizes[gene] for gene in order)
        self.steps, self.anchors, self._order = tuple(steps), tuple(anchors), np.array(order)

    def genes(self, picks: IntMatrix) -> IntMatrix:
        return super().genes(picks[:, self._order.argsort()])


def decisions_of(space: SearchSpace) -> Decisions:
    """How architectures of a space are written down."""
    if isinstance(space, ZophLeSpace):
        return AnchorDecisions(space)
    if isinstance(space, RecurrentSpace):
        return InputDecisions(space, space._linkage(), 1)
    if isinstance(space, DARTSSpace):
        return InputDecisions(space, space.nodes(), space.edges_per_node)
    return Decisions(space)


class Controller(nn.Module):
    r"""Autoregressive policy: every decision is a softmax, and what was picked is an input of the next step.

    As in Zoph and Le (arXiv:1611.01578, sections 3.1 and 3.3). Decisions do not share softmaxes or embeddings.
    A skip connection from layer j into layer i has the probability
    :math:`\sigma(v^T \tanh(W_{prev} h_j + W_{cur} h_i))` with the states of the LSTM at their anchors (equation 6).
    The paper does not say what the step after an anchor reads; here it is the sum of embeddings of the bits.

    Logits are divided by ``temperature``, then bounded to ``tanh`` times their hyperbolic tangent, in that order
    (ENAS, arXiv:1802.03268, its code).

    Args:
        decisions: What is decided.
        hidden: Units of a layer, H.
        layers: Layers of the LSTM.
        temperature: Above 1 for a flatter policy.
        tanh: Bound of the logits; None for none.
        init: Parameters begin uniformly in ``[-init, init]``.
        seed: Of these. The global generator is left alone.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> from oneshot.supernets import NASBench201Space
        >>> controller = Controller(decisions_of(NASBench201Space()))
        >>> picks, log_probs = controller.sample(torch.rand(4, 6, dtype=torch.float64))
        >>> picks.shape, log_probs.shape
        (torch.Size([4, 6]), torch.Size([4, 6]))
    """

    def __init__(
        self,
        decisions: Decisions,
        *,
        hidden: int = 35,
        layers: int = 2,
        temperature: float = 1.0,
        tanh: float | None = None,
        init: float = 0.08,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if hidden < 1 or layers < 1:
            raise ValueError(f"A controller has at least one layer of at least one unit; got {layers} of {hidden}.")
        finite = 0 < init < math.inf and (tanh is None or 0 < tanh < math.inf)
        if not (finite and is_temperature(temperature)):
            raise ValueError(
                f"temperature, tanh and init are above 0; got {temperature}, {tanh}, {init}. They must be finite "
                "as well, and the temperature at least 1e-20; tanh=None is no bound."
            )
        self.decisions, self.temperature, self.tanh = decisions, temperature, tanh
        count, largest = len(decisions.sizes), max(decisions.sizes)
        with torch.random.fork_rng(devices=[]):  # its constructor draws numbers that are drawn anew below
            self.lstm = nn.LSTM(hidden, hidden, layers)
        self.start = nn.Parameter(torch.empty(hidden))
        self.embeddings = nn.Parameter(torch.empty(count, largest, hidden))
        self.weights = nn.Parameter(torch.empty(count, largest, hidden))
        self.biases = nn.Parameter(torch.empty(count, largest))
        if decisions.anchors:
            self.previous = nn.Parameter(torch.empty(hidden, hidden))
            self.current = nn.Parameter(torch.empty(hidden, hidden))
            self.vector = nn.Parameter(torch.empty(hidden))
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init, init, generator=generator)

    def log_probs(self, picks: Tensor) -> tuple[Tensor, Tensor]:
        """Of given picks.

        Args:
            picks: ``[N, D]``.

        Returns:
            Log-probability of every decision given those before it, and the entropy in nats of its whole distribution,
            both ``[N, D]``. The sum of a row is the log-probability of the picks.
        """
        n, count = picks.shape
        embedded = self.embeddings[torch.arange(count, device=picks.device), picks]  # [N, D, H]
        inputs = [self.start.expand(n, -1)]
        inputs += [embedded[:, list(step)].sum(1) for step in self.decisions.steps[:-1]]
        hidden, _ = self.lstm(torch.stack(inputs))
        logits: list[Tensor] = []
        anchors: list[Tensor] = []
        for step, h in enumerate(hidden):
            logits += self._logits(step, h, anchors)
        legal = [self.decisions.legal(d, picks).expand(n, -1) for d in range(count)]
        return _chosen(self._distribution(torch.stack(logits, 1), torch.stack(legal, 1)), picks)

    @torch.no_grad()
    def sample(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw architectures.

        Args:
            uniform: Numbers in [0, 1) of 64 bits, on the CPU, one for every decision, ``[N, D]``: the randomness comes
                from the caller.

        Returns:
            Picks and their log-probabilities, both ``[N, D]``.
        """
        n, count = uniform.shape
        picks = torch.zeros(n, count, dtype=torch.int64, device=self.start.device)
        log_probs = self.start.new_zeros(n, count)
        anchors: list[Tensor] = []
        x, zero = self.start.expand(n, -1), self.start.new_zeros(n, len(self.start))
        state = [(zero, zero)] * self.lstm.num_layers
        for step, decisions in enumerate(self.decisions.steps):
            h = x
            for layer, weights in enumerate(self.lstm.all_weights):
                state[layer] = h, _ = torch.lstm_cell(h, state[layer], *weights)  # the module is twice as slow
            for d, logits in zip(decisions, self._logits(step, h, anchors)):
                distribution = self._distribution(logits, self.decisions.legal(d, picks).expand(n, -1))
                cumulative = distribution.cpu().double().exp().cumsum(-1)  # not all devices have 64 bits
                drawn = (cumulative <= uniform[:, d, None] * cumulative[:, -1:]).sum(-1).to(picks)
                picks[:, d] = drawn
                log_probs[:, d] = distribution.gather(1, drawn[:, None])[:, 0]
            x = torch.zeros_like(x)
            for d in decisions:
                x = x + self.embeddings[d, picks[:, d]]
        return picks, log_probs

    def _logits(self, step: int, h: Tensor, anchors: list[Tensor]) -> list[Tensor]:
        """Logits ``[N, O]`` of the decisions of a step, in order, from its output ``[N, H]``; a new anchor is kept."""
        decisions = self.decisions.steps[step]
        if step not in self.decisions.anchors:
            return [h @ self.weights[d].T + self.biases[d] for d in decisions]
        here = h @ self.current.T
        skips = [(earlier + here).tanh() @ self.vector for earlier in anchors]
        anchors.append(h @ self.previous.T)
        padding = h.new_zeros(len(h), max(self.decisions.sizes) - 2)
        return [torch.cat([torch.zeros_like(q)[:, None], q[:, None], padding], dim=1) for q in skips]

    def _distribution(self, logits: Tensor, legal: Tensor) -> Tensor:
        """Log-probabilities ``[..., O]``; of what is not legal, minus infinity."""
        logits = logits / self.temperature
        if self.tanh is not None:
            logits = self.tanh * logits.tanh()
        return logits.masked_fill(~legal, NEVER).log_softmax(-1)


def _chosen(distribution: Tensor, picks: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the picks and entropies, ``[N, D]``, from log-probabilities ``[N, D, O]``."""
    finite = distribution.masked_fill(distribution == NEVER, 0.0)  # 0 log 0 = 0, also in the gradient
    entropy = -(distribution.exp() * finite).sum(-1)
    return distribution.gather(-1, picks[..., None])[..., 0], entropy
