"""Samplers turn alphas into edge weights. They are modules, so that a checkpoint holds their temperatures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.functional import LEAST_TEMPERATURE, is_temperature
from oneshot.supernets.space import Choice, SearchSpace


class Sampler(nn.Module, ABC):
    """Turns alphas ``{choice: [R, O]}`` into edge weights of the same shapes, differentiably.

    Parameters of a sampler are trained with the alphas.

    Attributes:
        sparse: Most edge weights are exactly zero, and the candidates behind them do not run.
        reads_all: The gradient of the alphas reads the output of every candidate. Where there is a gradient, candidates
            without weight run, too.
        simplex: What :meth:`rows` returns sums to 1 in every row.
    """

    sparse = False
    reads_all = False
    simplex = True

    def initial_alpha(self, choice: Choice, std: float) -> Tensor:
        """Alphas of a choice to start from, ``[R, O]``: normal with standard deviation ``std``."""
        return std * torch.randn(choice.rows, len(choice.candidates))

    def schedule(self, epoch: int, epochs: int) -> None:
        """Set temperatures and the like at the start of an epoch; they must follow from the two arguments alone."""

    @abstractmethod
    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Edge weights for one forward pass; may be random.

        Args:
            alphas: ``{choice: [R, O]}``.

        Returns:
            Edge weights, ``{choice: [R, O]}``.
        """

    def rows(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Per-row candidate weights before :meth:`finish`, ``{choice: [R, O]}``."""
        return self(alphas)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def finish(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn :meth:`rows` into edge weights, ``{choice: [R, O]}``; by default they are the same."""
        return dict(rows)

    @abstractmethod
    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How much each candidate counts, without randomness, ``{choice: [R, O]}``; for logs and pictures."""

    def strengths(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values to derive from, comparable between rows, ``{choice: [R, O]}``; the probabilities by default."""
        return self.probabilities(alphas)


class SoftmaxSampler(Sampler):
    """Softmax over the candidates of each row (DARTS, arXiv:1806.09055, equation 2)."""

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: alpha.softmax(-1) for name, alpha in alphas.items()}

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self(alphas)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


class LinearTemperature(Sampler):
    """A sampler whose temperature falls in a straight line, from the first epoch to the last.

    Args:
        start: Temperature of the first epoch.
        end: Temperature of the last epoch.

    Raises:
        ValueError: If a temperature is not from 1e-20 to 1e20.
    """

    temperature: Tensor

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        if not (is_temperature(start) and is_temperature(end)):
            raise ValueError(
                f"Temperatures must be from {LEAST_TEMPERATURE:g} to {1 / LEAST_TEMPERATURE:g}; got {start} to {end}. "
                "Beyond these a softmax is NaN."
            )
        self.start, self.end = start, end
        self.register_buffer("temperature", torch.tensor(float(start)))

    def schedule(self, epoch: int, epochs: int) -> None:
        self.temperature.fill_(self.start + (self.end - self.start) * epoch / max(1, epochs - 1))

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: alpha.softmax(-1) for name, alpha in alphas.items()}


class GumbelSoftmaxSampler(LinearTemperature):
    """Samples of the concrete distribution, ``softmax((log p + G) / tau)`` with ``G`` Gumbel(0, 1) noise.

    Source: SNAS (arXiv:1812.09926, equation 5), with ``log p = log_softmax(alpha)``. The noise is drawn from torch's
    default generator, so it is the same in every process of a search.
    """

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: ((alpha.log_softmax(-1) + gumbel_like(alpha)) / self.temperature).softmax(-1)
            for name, alpha in alphas.items()
        }


class StraightThroughSampler(GumbelSoftmaxSampler):
    """One candidate a row, drawn by :class:`GumbelSoftmaxSampler`, with the gradient of the sample before rounding.

    Source: GDAS (arXiv:1910.04465, equations 5 and 6): ``one_hot(argmax p) - stop(p) + p``.
    """

    sparse = True

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: straight_through(p) for name, p in super().forward(alphas).items()}


class OneHotSampler(Sampler):
    """One candidate a row, drawn from the softmax of its alphas; without a gradient."""

    sparse = True

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: draw_one_hot(alpha.detach()) for name, alpha in alphas.items()}

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: alpha.softmax(-1) for name, alpha in alphas.items()}


class ReinMaxSampler(OneHotSampler):
    """One candidate a row, drawn from the softmax of its alphas, with a gradient of second order.

    Source: ReinMax (arXiv:2304.08612, algorithm 2), see :func:`reinmax`. Straight-through gradients are of first order.
    The gradient reads the outputs of all candidates, so a step of the alphas costs as much as one of DARTS; steps of
    the weights run the candidates that were drawn. It takes the place of the Gumbel samplers in any search that runs
    single candidates: ``BilevelSearch(supernet, ReinMaxSampler())``.

    Args:
        temperature: Of the softmax in the gradient, not of the draw; the authors' code refuses less than 1, too.

    Raises:
        ValueError: If the temperature is not from 1 to 1e20.
    """

    reads_all = True

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not (temperature >= 1 and is_temperature(temperature)):
            raise ValueError(
                f"The temperature of ReinMax must be from 1 to {1 / LEAST_TEMPERATURE:g}; got {temperature}. "
                "StraightThroughSampler is the one that cools down."
            )
        self.temperature = temperature

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        drawn = super().forward(alphas)
        return {name: reinmax(drawn[name], alpha, self.temperature) for name, alpha in alphas.items()}


class EdgeNormalization(Sampler):
    """Weights the edges that enter a node against each other (PC-DARTS, arXiv:1907.05737, equation 2).

    Edge weights of the inner sampler are multiplied by a softmax over the edges of the node, and so is what an
    architecture is derived from.

    Args:
        inner: Turns alphas into edge weights.
        space: Says which edges enter a node.
        std: Standard deviation of the initial betas.

    Raises:
        ValueError: If the space has no nodes with several edges, or the inner sampler runs single candidates.
    """

    node_of: Tensor

    def __init__(self, inner: Sampler, space: SearchSpace, *, std: float = 1e-3) -> None:
        super().__init__()
        self.inner, self.simplex, nodes = inner, inner.simplex, space.nodes()
        if not any(len(node) > 1 for node in nodes):
            raise ValueError(
                "Edge normalisation needs a node that several edges enter; "
                f"space {space.name!r} has none. Leave it out."
            )
        if inner.sparse:
            raise ValueError(
                "Edge normalisation needs a sampler that mixes candidates, such as SoftmaxSampler; "
                f"{type(inner).__name__} runs one candidate at a time."
            )
        self.rows_of = {choice.name: choice.rows for choice in space.choices}
        self.betas = nn.Parameter(std * torch.randn(space.num_genes))
        node_of = torch.arange(len(nodes), len(nodes) + space.num_genes)  # an edge of no node is alone
        for number, node in enumerate(nodes):
            node_of[node] = number
        self.count = len(nodes) + space.num_genes
        self.register_buffer("node_of", node_of, persistent=False)

    def schedule(self, epoch: int, epochs: int) -> None:
        self.inner.schedule(epoch, epochs)

    def edges(self) -> dict[str, Tensor]:
        """Weights of the edges, ``{choice: [R]}``; those that enter one node sum to 1."""
        exp = (self.betas - self.betas.detach().max()).exp()
        sums = exp.new_zeros(self.count).index_add(0, self.node_of, exp)
        weights = exp / sums[self.node_of]
        return dict(zip(self.rows_of, torch.split(weights, list(self.rows_of.values())), strict=True))

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.finish(self.rows(alphas))

    def rows(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.inner.rows(alphas)

    def finish(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        edges = self.edges()
        return {name: weights * edges[name][:, None] for name, weights in self.inner.finish(rows).items()}

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.inner.probabilities(alphas)

    def strengths(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        edges = self.edges()
        return {name: weights * edges[name][:, None] for name, weights in self.inner.strengths(alphas).items()}


class Perturbation(nn.Module, ABC):
    """Changes the edge weights that the weights of the supernet are trained under (SmoothDARTS, arXiv:2002.05283)."""

    def schedule(self, epoch: int, epochs: int) -> None:
        """Set strengths and the like at the start of an epoch; they must follow from the two arguments alone."""

    @abstractmethod
    def forward(
        self,
        rows: Mapping[str, Tensor],
        loss: Callable[[Mapping[str, Tensor]], Tensor],
        average: Callable[[list[Tensor]], list[Tensor]] = list,
    ) -> dict[str, Tensor]:
        """Perturb the rows of one step.

        Args:
            rows: What :meth:`Sampler.rows` returns, without gradient: ``{choice: [R, O]}`` on the simplex.
            loss: Training loss of this step's batch under given rows; it moves no running statistics.
            average: Averages over the processes that see parts of one batch, so that all perturb alike.

        Returns:
            Rows on the simplex, ``{choice: [R, O]}``.
        """


def gumbel_like(x: Tensor) -> Tensor:
    """Gumbel(0, 1) noise in the shape of ``x``, finite: ``-log E`` with exponential ``E``.

    Args:
        x: Any shape.
    """
    noise = torch.empty_like(x, memory_format=torch.contiguous_format).exponential_()
    return -noise.clamp_min(torch.finfo(x.dtype).tiny).log()


def draw_one_hot(logits: Tensor) -> Tensor:
    """One-hot rows, drawn from the softmax of each row (by the Gumbel-max trick); ``[R, O] -> [R, O]``."""
    return F.one_hot((logits + gumbel_like(logits)).argmax(-1), logits.shape[-1]).to(logits)


def straight_through(p: Tensor) -> Tensor:
    """One-hot rows in value, the gradient of ``p``.

    Args:
        p: ``[R, O]``.

    Example:
        >>> straight_through(torch.tensor([[0.2, 0.8]]))
        tensor([[0., 1.]])
    """
    hard = F.one_hot(p.argmax(-1), p.shape[-1]).to(p)
    return hard + (p - p.detach())


def reinmax(drawn: Tensor, logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""One-hot rows in value; the gradient of the logits is that of ReinMax (arXiv:2304.08612, algorithm 2).

    .. math:: \pi_1 = \frac{D + \mathrm{softmax}(\theta / \tau)}{2}, \quad
        \nabla_\theta = g^\top \left( 2 J(\pi_1) - \frac{J(\pi_0)}{2} \right), \quad
        J(\pi) = \mathrm{diag}(\pi) - \pi \pi^\top

    with the draw D, the probabilities :math:`\pi_0 = \mathrm{softmax}(\theta)` it was drawn from, and the gradient g of
    the loss in all entries of D. It is Heun's method where the straight-through gradient is Euler's: at temperature 1
    its mean over draws is exact for losses of second degree.

    Args:
        drawn: D, one-hot rows, drawn from the softmax of ``logits``, ``[R, O]``.
        logits: ``[R, O]``.
        temperature: Tau.

    Returns:
        ``[R, O]``.

    Example:
        >>> reinmax(torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2))
        tensor([[0., 1.]])
    """
    pi_0 = logits.softmax(-1)
    middle = (drawn + (logits.detach() / temperature).softmax(-1)) / 2
    pi_1 = (middle.log() - logits.detach() + logits).softmax(-1)
    pi_2 = 2 * pi_1 - pi_0 / 2
    return drawn + (pi_2 - pi_2.detach())
