"""DARTS-PT: Rethinking Architecture Selection in Differentiable NAS (Wang et al., ICLR 2021, arXiv:2108.04392)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.options import GradientOptions, Unpack
from oneshot.engine.samplers import Sampler, SoftmaxSampler
from oneshot.functional import in_32_bits
from oneshot.supernets.base import OperationSupernet, batch_statistics, restored_modes
from oneshot.supernets.connection import connect
from oneshot.supernets.darts import DARTSSpace
from oneshot.supernets.space import NONE, SearchSpace, SubnetConfig

Metric = Literal["accuracy", "loss"]


class Projection(Sampler):
    """Edge weights of an inner sampler, but decided rows are one-hot and dropped edges have no weight.

    Args:
        inner: Turns alphas into edge weights.
        space: Its genes are the rows of all choices, in order.

    Attributes:
        picked: Index of the candidate of every gene, -1 where it is not decided, ``[G]``.
        kept: Whether the edge of a gene is still there, ``[G]``.
    """

    picked: Tensor
    kept: Tensor

    def __init__(self, inner: Sampler, space: SearchSpace) -> None:
        super().__init__()
        self.inner, self.rows_of = inner, {choice.name: choice.rows for choice in space.choices}
        self.register_buffer("picked", torch.full((space.num_genes,), -1))
        self.register_buffer("kept", torch.ones(space.num_genes, dtype=torch.bool))

    def schedule(self, epoch: int, epochs: int) -> None:
        self.inner.schedule(epoch, epochs)

    def forward(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.finish(self.rows(alphas))

    def rows(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.inner.rows(alphas)

    def finish(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._without_dropped(self._decided(self.inner.finish(rows)))

    def probabilities(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._decided(self.inner.probabilities(alphas))

    def strengths(self, alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._without_dropped(self._decided(self.inner.strengths(alphas)))

    def _decided(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        picked = self._split(self.picked)
        return {
            name: torch.where(
                picked[name][:, None] < 0, w, F.one_hot(picked[name].clamp(min=0), w.shape[1]).to(w.dtype)
            )
            for name, w in weights.items()
        }

    def _without_dropped(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = self._split(self.kept)
        return {name: w * kept[name][:, None] for name, w in weights.items()}

    def _split(self, genes: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.rows_of, torch.split(genes, list(self.rows_of.values())), strict=True))


class DARTSPT(BilevelSearch):
    """An architecture selected by what the supernet loses without a candidate, not by the size of its alpha.

    The supernet is trained as DARTS is, for ``train_epochs``. Then row after row is decided, in random order: each of
    its candidates is taken out in turn (its weight becomes 0, the others stay as they are), and the one without which
    the supernet is worst on held-out batches becomes the only one. After each decision the supernet is trained for
    ``tune_epochs`` with a fresh SGD of a constant rate. In DARTS spaces, the nodes come last, in random order: each
    keeps the edges without which the supernet is worst. So a fit takes
    ``train_epochs + tune_epochs * decisions`` epochs; :attr:`decisions` says how many there are.

    Source: arXiv:2108.04392, algorithm 1. Batch normalisation has statistics of the batch, as in the authors' code; in
    DARTS spaces ``none`` cannot be picked, as it cannot in DARTS. Defaults are the authors' for CIFAR-10. We differ in
    two points from their code: it decides a row of the normal and one of the reduction cell at a time, so that it tunes
    half as long; and it drops the edges of a node one by one, where the paper and we compare all of them once.

    Args:
        supernet: The supernet of any space of operation choices.
        train_epochs: Epochs before the first decision; ``None`` is what ``max_epochs`` of the Trainer leaves.
        tune_epochs: Epochs after each decision; 0 decides all at the end of the training.
        tune_lr: Learning rate of the weights in them; where groups have their own, that of the first, and the others
            keep their proportions to it. No schedule runs then.
        fixed_alphas: The alphas stay as they are, near 0: the paper's "blank" supernet (section 4.3).
        metric: What a supernet is worse by: ``"accuracy"`` is the metric of the task, whatever that is; ``"loss"`` also
            decides between candidates that are equal by it.
        batches: Batches of the architecture stream decisions are made on, always the same; ``None`` takes all.
        **kwargs: See :class:`~oneshot.engine.gradient.GradientSearch`.

    Raises:
        ValueError: If a number is out of its range, or the space forbids a candidate in every row; at the start of
            ``fit``, if ``max_epochs`` does not fit.

    Example:
        >>> from oneshot.supernets import NASBench201Supernet
        >>> search = DARTSPT(NASBench201Supernet(channels=4, cells_per_stage=1))
        >>> search.decisions, search.train_epochs + search.decisions * search.tune_epochs
        (6, 80)
    """

    sampler: Projection
    _rows: Tensor
    _nodes: Tensor

    def __init__(
        self,
        supernet: OperationSupernet,
        *,
        train_epochs: int | None = 50,
        tune_epochs: int = 5,
        tune_lr: float = 0.0025,
        fixed_alphas: bool = False,
        metric: Metric = "accuracy",
        batches: int | None = None,
        **kwargs: Unpack[GradientOptions],
    ) -> None:
        self.check_kind(supernet)
        super().__init__(supernet, Projection(SoftmaxSampler(), supernet.space), **kwargs)
        if train_epochs is not None and train_epochs < 1:
            raise ValueError(f"train_epochs must be at least 1; got {train_epochs}.")
        if tune_epochs < 0:
            raise ValueError(f"tune_epochs must not be negative; got {tune_epochs}. 0 is off.")
        if not tune_lr > 0:
            raise ValueError(f"tune_lr must be above 0; got {tune_lr}.")
        if metric not in get_args(Metric):
            raise ValueError(f"metric must be one of {get_args(Metric)}; got {metric!r}.")
        if batches is not None and batches < 1:
            raise ValueError(f"batches must be at least 1; got {batches}. None takes all.")
        self.train_epochs, self.tune_epochs, self.tune_lr = train_epochs, tune_epochs, tune_lr
        self.fixed_alphas, self.metric, self.batches = fixed_alphas, metric, batches
        space = supernet.space
        self._keep = space.edges_per_node if isinstance(space, DARTSSpace) else 0  # 0 where every edge stays
        self._crowded = [node for node in space.nodes() if self._keep and len(node) > self._keep]
        if not isinstance(space, DARTSSpace):  # every row must be able to keep a candidate
            picks = {c.name: [next(p for p in c.candidates if p != NONE)] * c.rows for c in space.choices}
            try:
                space.validate(SubnetConfig(space.name, picks))
            except ValueError as error:
                raise ValueError(
                    f"DARTS-PT decides row by row, and keeps a candidate in each; space {space.name!r} forbids that "
                    f"({error}) Use a method that derives from alphas."
                ) from error
        # The order decisions are made in is part of the search, and saved with it.
        self.register_buffer("_rows", torch.randperm(space.num_genes))
        self.register_buffer("_nodes", torch.randperm(len(self._crowded)))

    @property
    def decisions(self) -> int:
        """Number of decisions: one a row, and one a node that has more edges than it may keep."""
        return len(self._rows) + len(self._nodes)

    def trained_epochs(self) -> int:
        """Epochs before the first decision, in this fit."""
        return self.train_epochs or (self.trainer.max_epochs or 0) - self.tune_epochs * self.decisions

    def derive(self) -> SubnetConfig:
        """What was decided; where nothing is yet, the most likely candidates by the rule of the space."""
        picked, kept = self.sampler.picked.tolist(), self.sampler.kept.tolist()
        if min(picked) < 0:
            return super().derive()
        genes = iter(zip(picked, kept, strict=True))
        picks = {
            choice.name: [choice.candidates[o] if stays else NONE for o, stays in (next(genes) for _ in range(n))]
            for choice, n in ((choice, choice.rows) for choice in self.supernet.space.choices)
        }
        likely = self.sampler.inner.strengths(dict(self.alphas.items()))  # if no input reaches the output of a cell
        scores = {name: in_32_bits(p.detach()).cpu().numpy() for name, p in likely.items()}
        return connect(self.supernet.space, SubnetConfig(self.supernet.space.name, picks), scores)

    def moves_alphas(self) -> bool:
        return not self.fixed_alphas and super().moves_alphas()

    def schedule_position(self) -> tuple[int, int]:
        return min(self.current_epoch, self.trained_epochs() - 1), self.trained_epochs()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        tuning, found = self.tune_epochs * self.decisions, self.trainer.max_epochs or 0
        if not getattr(self.trainer, "fast_dev_run", 0):
            if self.train_epochs is not None and found != self.train_epochs + tuning:
                raise ValueError(
                    f"{self.train_epochs} epochs of training and {self.tune_epochs} after each of {self.decisions} "
                    f"decisions are {self.train_epochs + tuning}; got max_epochs={found}. Use "
                    f"Trainer(max_epochs={self.train_epochs + tuning}), or train_epochs=None to train for the rest."
                )
            if self.trained_epochs() < 1:
                raise ValueError(
                    f"{self.decisions} decisions with {self.tune_epochs} epochs after each take {tuning} epochs, and "
                    f"training at least one; got max_epochs={found}. Use Trainer(max_epochs={tuning + 1}) or more."
                )
        for order in (self._rows, self._nodes):  # every process decides in the order of the first
            order.copy_(self.trainer.strategy.broadcast(order))

    def schedules_run(self) -> bool:
        return self.current_epoch < self.trained_epochs()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch >= self.trained_epochs():
            rates = self.base_rates() or [1.0]
            for group, rate in zip(self.optimizer_pair[0].param_groups, rates, strict=True):
                group["lr"] = self.tune_lr * (rate / rates[0])

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        for number in range(self.decisions):
            if self.current_epoch + 1 == self.trained_epochs() + self.tune_epochs * number:
                if number == 0:
                    self.optimizer_pair[0].optimizer.state.clear()
                self.decide(number)

    @torch.no_grad()
    def decide(self, number: int) -> None:
        """Make one decision: the operation of a row, or, after all rows, the edges of a node.

        Args:
            number: Which, from 0 to ``decisions - 1``.
        """
        if number < len(self._rows):
            gene = int(self._rows[number])
            name, row = self._place(gene)
            candidates = self.supernet.space[name].candidates
            options = [o for o, candidate in enumerate(candidates) if not (self._keep and candidate == NONE)]
            order = self._most_missed([(name, row, o) for o in options])
            self.sampler.picked[gene] = options[order[0]]
        else:
            node = self._crowded[int(self._nodes[number - len(self._rows)])]
            order = self._most_missed([(*self._place(gene), None) for gene in node])
            for position in order[self._keep :]:
                self.sampler.kept[node[position]] = False

    def _place(self, gene: int) -> tuple[str, int]:
        """Choice and row of a gene."""
        for choice in self.supernet.space.choices:
            if gene < choice.rows:
                return choice.name, gene
            gene -= choice.rows
        raise IndexError(gene)

    def _most_missed(self, parts: list[tuple[str, int, int | None]]) -> list[int]:
        """Positions in ``parts``, by what the supernet loses without each; most first.

        Args:
            parts: Choice, row, and candidate, or ``None`` for all candidates of the row.
        """
        masked = []
        for name, row, candidate in parts:
            weights = {choice: w.clone() for choice, w in self.edge_weights().items()}
            weights[name][row, slice(None) if candidate is None else candidate] = 0
            masked.append(weights)
        supernet, outputs = self.evaluation_supernet, self.supernet.num_classes
        lost = torch.zeros(len(parts), dtype=torch.float64, device=self.device)
        metrics = [self.task.metric(outputs, sync=False).to(self.device) for _ in parts]
        with (
            restored_modes(supernet),
            batch_statistics(supernet.eval()),  # no drop-path; batch normalisation sees its batch all the same
            self.trainer.precision_plugin.forward_context(),
        ):
            for x, y in self.held_out(self.batches):
                for position, weights in enumerate(masked):
                    logits = self.run(x, weights, supernet=supernet)
                    metrics[position].update(*self.task.for_metric(logits, y))
                    lost[position] += self.criterion(logits, y) * len(y)
        worse = torch.tensor([-self.task.reward(float(metric.compute())) for metric in metrics], dtype=torch.float64)
        measured = {"accuracy": [worse, lost], "loss": [lost, worse]}[self.metric]
        first, second = (values.tolist() for values in measured)
        order = sorted(range(len(parts)), key=lambda position: (-first[position], -second[position]))
        return list(self.trainer.strategy.broadcast(order))  # processes may differ in the last digit
