"""The policy of reinforcement learning: an LSTM that writes an architecture down, decision after decision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oneshot.functional import is_temperature
from oneshot.supernets.decisions import Decisions
from oneshot.supernets.space import IntMatrix

NEVER = float("-inf")


@dataclass(frozen=True)
class ControllerSettings:
    """The network of a controller. The defaults are those of Zoph and Le.

    Logits are divided by ``temperature``, then bounded to ``tanh`` times their hyperbolic tangent, in that order
    (ENAS, arXiv:1802.03268, its code).

    Args:
        hidden: Units of a layer, H.
        layers: Layers of the LSTM.
        temperature: Above 1 for a flatter policy.
        tanh: Bound of the logits; None for no bound.
        init: Parameters begin uniformly in ``[-init, init]``.

    Raises:
        ValueError: If a number is out of its range.
    """

    hidden: int = 35
    layers: int = 2
    temperature: float = 1.0
    tanh: float | None = None
    init: float = 0.08

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.layers < 1:
            raise ValueError(
                f"A controller must have at least one layer of at least one unit; got {self.layers} of {self.hidden}."
            )
        finite = 0 < self.init < math.inf and (self.tanh is None or 0 < self.tanh < math.inf)
        if not (finite and is_temperature(self.temperature)):
            raise ValueError(
                f"temperature, tanh and init must be above 0 and finite, and the temperature at least 1e-20; got "
                f"{self.temperature}, {self.tanh}, {self.init}. Without a bound, tanh is None."
            )


class Controller(nn.Module):
    r"""Autoregressive policy: every decision is a softmax, and its pick is an input of the next step.

    It is that of Zoph and Le (arXiv:1611.01578, sections 3.1 and 3.3). Decisions do not share softmaxes or embeddings.
    A skip connection from layer j into layer i has the probability
    :math:`\sigma(v^T \tanh(W_{prev} h_j + W_{cur} h_i))` with the states of the LSTM at their anchors (equation 6).
    The paper does not say what the step after an anchor reads; here it is the sum of embeddings of the bits.

    Args:
        decisions: What is decided, mostly ``space.decisions()``.
        settings: Its network.
        seed: Seed of the initial parameters. The global generator does not change.

    Example:
        >>> from oneshot.supernets import NASBench201Space
        >>> controller = Controller(NASBench201Space().decisions(), ControllerSettings())
        >>> picks, log_probs = controller.sample(torch.rand(4, 6, dtype=torch.float64))
        >>> picks.shape, log_probs.shape
        (torch.Size([4, 6]), torch.Size([4, 6]))
    """

    def __init__(self, decisions: Decisions, settings: ControllerSettings, *, seed: int = 0) -> None:
        super().__init__()
        self.decisions, self.settings = decisions, settings
        hidden, init = settings.hidden, settings.init
        count, largest = len(decisions.sizes), max(decisions.sizes)
        with torch.random.fork_rng(devices=[]):  # its constructor draws numbers that are drawn anew below
            self.lstm = nn.LSTM(hidden, hidden, settings.layers)
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
        """Log-probabilities and entropies of given picks.

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
        legal = torch.stack([self._legal(d, picks.cpu().numpy()) for d in range(count)], 1).to(picks.device)
        return _chosen(self._distribution(torch.stack(logits, 1), legal), picks)

    @torch.no_grad()
    def sample(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw architectures.

        Args:
            uniform: Random numbers in [0, 1) of 64 bits, on the CPU, one for every decision, ``[N, D]``.

        Returns:
            Picks and their log-probabilities, both ``[N, D]``.
        """
        n, count = uniform.shape
        picks = torch.zeros(n, count, dtype=torch.int64)  # on the CPU: what is legal is computed there
        log_probs = self.start.new_zeros(n, count)
        anchors: list[Tensor] = []
        x, zero = self.start.expand(n, -1), self.start.new_zeros(n, len(self.start))
        state = [(zero, zero)] * self.lstm.num_layers
        for step, decisions in enumerate(self.decisions.steps):
            h = x
            for layer, weights in enumerate(self.lstm.all_weights):
                state[layer] = h, _ = torch.lstm_cell(h, state[layer], *weights)  # the module is twice as slow
            for d, logits in zip(decisions, self._logits(step, h, anchors)):
                distribution = self._distribution(logits, self._legal(d, picks.numpy()).to(logits.device))
                cumulative = distribution.cpu().double().exp().cumsum(-1)  # not all devices have 64 bits
                picks[:, d] = (cumulative <= uniform[:, d, None] * cumulative[:, -1:]).sum(-1)
                log_probs[:, d] = distribution.gather(1, picks[:, d, None].to(distribution.device))[:, 0]
            x = torch.zeros_like(x)
            for d in decisions:
                x = x + self.embeddings[d, picks[:, d]]
        return picks.to(self.start.device), log_probs

    def _legal(self, decision: int, picks: IntMatrix) -> Tensor:
        """Which picks a decision may take, ``[N, O]``, on the CPU."""
        return torch.from_numpy(self.decisions.legal(decision, picks)).expand(len(picks), -1)

    def _logits(self, step: int, h: Tensor, anchors: list[Tensor]) -> list[Tensor]:
        """Logits ``[N, O]`` of the decisions of a step, from its output ``[N, H]``; a new anchor is appended."""
        decisions = self.decisions.steps[step]
        if step not in self.decisions.anchors:
            return [h @ self.weights[d].T + self.biases[d] for d in decisions]
        here = h @ self.current.T
        skips = [(earlier + here).tanh() @ self.vector for earlier in anchors]
        anchors.append(h @ self.previous.T)
        padding = h.new_zeros(len(h), max(self.decisions.sizes) - 2)
        return [torch.cat([torch.zeros_like(q)[:, None], q[:, None], padding], dim=1) for q in skips]

    def _distribution(self, logits: Tensor, legal: Tensor) -> Tensor:
        """Log-probabilities ``[..., O]``; picks that are not legal have minus infinity."""
        logits = logits / self.settings.temperature
        if self.settings.tanh is not None:
            logits = self.settings.tanh * logits.tanh()
        return logits.masked_fill(~legal, NEVER).log_softmax(-1)


def _chosen(distribution: Tensor, picks: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the picks and entropies, ``[N, D]``, from log-probabilities ``[N, D, O]``."""
    finite = distribution.masked_fill(distribution == NEVER, 0.0)  # 0 log 0 = 0, also in the gradient
    entropy = -(distribution.exp() * finite).sum(-1)
    return distribution.gather(-1, picks[..., None])[..., 0], entropy
