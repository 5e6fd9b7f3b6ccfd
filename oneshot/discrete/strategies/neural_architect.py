"""Neural Architect: a policy that edits networks (Resource-Efficient Neural Architect, Zhou et al., 2018).

The idea is that of RENA (arXiv:1806.07912): a policy reads the embedding of a network, scales, inserts or removes, a
predictor prunes the children before they are trained, and soft constraints are part of the reward. There is no public
code. We filled in what the classes mark as ours, and the numbers are not the paper's.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.discrete.protocol import Genes, Proposal, Result, Scalar, SearchStrategy
from oneshot.supernets.space import NONE, SearchSpace

NOTHING = (NONE, "skip_connect", "identity")  # picks that leave a place without a layer
KINDS = ("scale", "insert", "remove")
FITTED = 64  # observations in a step of the predictor


def constrained_reward(
    performance: float, costs: Sequence[float], bounds: Sequence[float], *, penalty: float = 0.9
) -> float:
    r"""Performance times a soft penalty for every constraint.

    .. math:: P \prod_j p^{V_j}, \quad V_j = \max(0, c_j / b_j - 1) \text{, or } \max(0, b_j / c_j - 1)

    The second form is for what must not be too small, such as operations per byte: it comes as an objective that is
    maximised, so cost and bound are negative.

    Args:
        performance: Performance, at least 0.
        costs: Costs, minimised.
        bounds: One for each, of the same sign.
        penalty: Factor p of the performance for a violation by 100 %, between 0 and 1.

    Raises:
        ValueError: If performance is negative, or a cost has not the sign of its bound.

    Example:
        >>> round(constrained_reward(0.95, [6e6, -200.0], [3e6, -100.0]), 4)
        0.855
    """
    if performance < 0:
        raise ValueError(
            f"A performance must be at least 0; got {performance}. Give it as an objective to be minimised, so as a "
            "negative number."
        )
    if len(costs) != len(bounds) or any(cost * bound <= 0 for cost, bound in zip(costs, bounds)):
        raise ValueError(
            f"Every cost must have a bound of its sign, below 0 for what is maximised; got costs {list(costs)} and "
            "bounds "
            f"{list(bounds)}."
        )
    violations = (cost / bound if bound > 0 else bound / cost for cost, bound in zip(costs, bounds))
    return float(performance * penalty ** sum(max(0.0, violation - 1) for violation in violations))


class ConstrainedScalar:
    """Minus :func:`constrained_reward` of a result whose first value is minus the performance, the others costs.

    Args:
        bounds: Bounds of the values after the first.
        penalty: See :func:`constrained_reward`.

    Raises:
        ValueError: If there is no bound, one is 0, or the penalty is not between 0 and 1.

    Example:
        >>> ConstrainedScalar([10.0])((-0.5, 8.0))
        -0.5
    """

    def __init__(self, bounds: Sequence[float], *, penalty: float = 0.9) -> None:
        if not bounds or 0 in bounds or not 0 < penalty < 1:
            raise ValueError(
                "Constraints must have bounds other than 0, at least one, and a penalty between 0 and 1; got "
                f"{list(bounds)} and {penalty}."
            )
        self.bounds, self.penalty = tuple(bounds), penalty

    def __call__(self, values: Sequence[float]) -> float:
        """What is minimised."""
        return -constrained_reward(-values[0], values[1:], self.bounds, penalty=self.penalty)


class Embedding(nn.Module):
    """Embedding of a network: an LSTM in both directions over the feature vectors of its genes.

    Features are the pick and the choice, one-hot, and the position among the rows of the choice, from 0 to 1.

    Args:
        space: The space, of G genes with up to O picks.
        hidden: Units in each direction, H.
    """

    features: Tensor

    def __init__(self, space: SearchSpace, hidden: int) -> None:
        super().__init__()
        largest, choices = max(space.gene_sizes), len(space.choices)
        place = [
            (*np.eye(choices)[number], row / max(1, choice.rows - 1))
            for number, choice in enumerate(space.choices)
            for row in range(choice.rows)
        ]
        self.largest = largest
        self.register_buffer("features", torch.tensor(np.array(place), dtype=torch.float32))
        self.lstm = nn.LSTM(largest + choices + 1, hidden, batch_first=True, bidirectional=True)

    def forward(self, genes: Tensor) -> Tensor:
        """``[N, G] -> [N, G, 2 * H]``."""
        places = self.features.expand(len(genes), -1, -1)
        outputs: Tensor = self.lstm(torch.cat([F.one_hot(genes, self.largest).to(places), places], -1))[0]
        return outputs


class Editor(nn.Module):
    """The policy: it draws the kind of an edit, then the gene and its new pick.

    Args:
        space: The space.
        hidden: Units of the embedding.
    """

    empty: Tensor
    exists: Tensor

    def __init__(self, space: SearchSpace, hidden: int) -> None:
        super().__init__()
        picks = [choice.picks for choice in space.choices for _ in range(choice.rows)]
        largest = max(space.gene_sizes)
        self.register_buffer("exists", torch.tensor([[o < len(row) for o in range(largest)] for row in picks]))
        empty = [[o < len(row) and row[o] in NOTHING for o in range(largest)] for row in picks]
        self.register_buffer("empty", torch.tensor(empty))
        self.embedding = Embedding(space, hidden)
        self.kind = nn.Linear(2 * hidden, len(KINDS))
        self.edit = nn.Linear(2 * hidden, largest)

    def kinds(self, genes: Tensor) -> Tensor:
        """Index into ``KINDS`` of every edit of networks ``[N, G] -> [N, G, O]``; -1 where it is none."""
        now = self.empty.expand(len(genes), -1, -1).gather(2, genes[..., None])
        kinds = torch.where(now == self.empty, 0, torch.where(now, 1, 2))
        return kinds.masked_fill(~self.exists, -1).scatter(2, genes[..., None], -1)

    def forward(self, genes: Tensor) -> Tensor:
        """Log-probabilities of edits of networks: ``[N, G] -> [N, G * O]``; minus infinity where there is none."""
        embedded, kinds = self.embedding(genes), self.kinds(genes).flatten(1)
        edits = self.edit(embedded).flatten(1)
        there = torch.stack([(kinds == kind).any(1) for kind in range(len(KINDS))], 1)
        first = self.kind(embedded.mean(1)).masked_fill(~there, -torch.inf).log_softmax(1)
        total = torch.full_like(edits, -torch.inf)
        for kind in range(len(KINDS)):
            inside = kinds == kind
            # -1e9 rather than minus infinity: where there is no edit of the kind, there would be no number
            within = edits.masked_fill(~inside, -1e9).log_softmax(1)
            joint = within + first[:, kind, None].masked_fill(~there[:, kind, None], 0.0)
            total = torch.where(inside, joint, total)
        return total


@dataclass(frozen=True)
class Edit:
    """An edit that the policy drew.

    Args:
        parent: Number of the evaluation.
        genes: Genes of the parent, ``[G]``.
        action: Index of the edit.
        log_prob: Log-probability when it was drawn.
    """

    parent: int
    genes: Genes
    action: int
    log_prob: float


class NeuralArchitect(SearchStrategy):
    """Edits good networks, one gene at a time, and learns which edits help.

    A parent is drawn from the ``elite`` best networks. The policy draws ``children`` edits of it; of those that are
    new, the one is evaluated that the predictor takes for the best. The policy learns by REINFORCE.

    Most of what it gains comes from its parents being the best networks. On NATS-Bench, after 150 evaluations and over
    50 seeds, the regret is 0.007 +- 0.007 points of accuracy; without training and pruning, which leaves random edits
    of the same parents, 0.021 +- 0.011.

    Ours: scale, insert and remove are changes of a gene from one pick to another; a pick of ``NOTHING`` is no layer.
    Parents come from a pool instead of episodes that begin with one network. The reward is the share of earlier results
    that a network beats, the baseline that of its parent. The policy's gradient takes no notice of the pruning. Edits
    drawn before the policy moved are weighted by the ratio of probabilities, at most by 1.

    Args:
        space: The space to search.
        seed: Seed of all random choices.
        scalar: Such as :class:`ConstrainedScalar`.
        initial: Random networks before the first edit.
        elite: Networks that parents are drawn from.
        children: Edits drawn for one evaluation; 1 is a search without pruning.
        inherit: Whether proposals name their parent, so that an evaluator begins with its weights.
        lr: Learning rate of policy and predictor (Adam).
        entropy: Weight of the entropy of the policy, in nats.
        hidden: Units of their embeddings.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        scalar: Scalar | None = None,
        initial: int = 16,
        elite: int = 8,
        children: int = 8,
        inherit: bool = False,
        lr: float = 0.01,
        entropy: float = 0.01,
        hidden: int = 16,
    ) -> None:
        super().__init__(space, seed=seed, scalar=scalar)
        if min(initial, elite, children, hidden) < 1 or not lr > 0 or entropy < 0:
            raise ValueError(
                "initial, elite, children and hidden must be at least 1, lr above 0, and entropy at least 0; got "
                f"{initial}, {elite}, {children}, {hidden}, {lr} and {entropy}."
            )
        self.initial, self.elite, self.children, self.inherit, self.entropy = initial, elite, children, inherit, entropy
        self.random_first = initial
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.editor = Editor(space, hidden)
            self.predictor = nn.Sequential(Embedding(space, hidden), nn.Linear(2 * hidden, 1))
        parameters = [*self.editor.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr, fused=True)
        self._edits: dict[int, Edit] = {}
        self._known: list[Genes] = []  # in the order in which they were told, as the losses
        self._losses: list[float] = []
        self._ranked: list[tuple[float, int]] = []  # losses and numbers of what succeeded, best first

    def _propose(self) -> Proposal | None:
        if len(self.observed) + len(self.pending) < self.initial or not self._ranked:
            genes = self._fresh(self._random)
            return None if genes is None else self._new(genes)
        number = self._ranked[self.rng.integers(min(self.elite, len(self._ranked)))][1]
        parent = self._genes(self.observed[number][0])
        edit, child = self._edited(number, parent)
        if child is None:
            genes = self._fresh(lambda: self._mutated(parent))
            return None if genes is None else self._new(genes)
        proposal = self._new(child, parent=number if self.inherit else None)
        self._edits[proposal.number] = edit
        return proposal

    @torch.no_grad()
    def _edited(self, number: int, parent: Genes) -> tuple[Edit, Genes | None]:
        """The most promising of the edits that the policy draws, if any leads to something new."""
        log_probs = self.editor(torch.from_numpy(parent)[None])[0].double()
        cumulative = log_probs.exp().cumsum(0).numpy()
        actions = np.searchsorted(cumulative, self.rng.random(self.children) * cumulative[-1], side="right")
        genes = np.tile(parent, (self.children, 1))
        gene, pick = np.divmod(actions, max(self.space.gene_sizes))
        genes[np.arange(self.children), gene] = pick
        genes = self.space.repair(genes)
        scores = self._predicted(torch.from_numpy(genes)).numpy()
        for child in np.argsort(scores, kind="stable"):
            if self._is_new(genes[child]):
                action = int(actions[child])
                return Edit(number, parent, action, float(log_probs[action])), genes[child]
        return Edit(number, parent, -1, 0.0), None

    def _predicted(self, genes: Tensor) -> Tensor:
        """Share of networks that are better, ``[N, G] -> [N]``."""
        embedded = self.predictor[0](genes).mean(1)
        shares: Tensor = self.predictor[1](embedded)[:, 0]
        return shares

    def _learn(self, proposal: Proposal, result: Result) -> None:
        self._known.append(self._genes(proposal))
        self._losses.append(self.loss(result))
        if result.values is not None:
            bisect.insort(self._ranked, (self._losses[-1], proposal.number))
        losses = np.array(self._losses)
        loss = self._fit(losses)
        if (edit := self._edits.pop(proposal.number, None)) is not None:
            better = np.mean(losses > losses[-1]) - np.mean(losses > self.loss(self.observed[edit.parent][1]))
            log_probs = self.editor(torch.from_numpy(edit.genes)[None])[0]
            ratio = (log_probs[edit.action].detach() - edit.log_prob).exp().clamp_max(1)
            legal = log_probs[log_probs.isfinite()]
            loss = loss - float(better) * ratio * log_probs[edit.action] + self.entropy * (legal.exp() * legal).sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        self.optimizer.step()

    def _fit(self, losses: np.ndarray) -> Tensor:
        """Squared error of the predictor on some of the networks that are known."""
        chosen = self.rng.permutation(len(losses))[:FITTED]
        genes = torch.from_numpy(np.stack([self._known[i] for i in chosen]))
        shares = (losses < losses[chosen, None]).mean(1)
        return F.mse_loss(self._predicted(genes), torch.from_numpy(shares).to(torch.float32))
