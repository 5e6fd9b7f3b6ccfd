"""Stages of a search: from one to the next, edges keep fewer candidates, and these read more of the channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.widening import Widened


@dataclass(frozen=True)
class Stage:
    """A later stage of a search; the first is the supernet as it was built.

    Args:
        epoch: The epoch it begins with, counted from 0: so many epochs are before it.
        candidates: How many candidates every edge keeps, at least 2; ``None`` keeps all, and so does an edge that has
            no more.
        partial_channels: K from now on, less than before: candidates read one of K parts of the channels. ``None``
            leaves it as it is.
    """

    epoch: int
    candidates: int | None = None
    partial_channels: int | None = None


def check_stages(stages: Sequence[Stage], supernet: OperationSupernet) -> None:
    """Check stages that follow each other.

    Args:
        stages: The later stages, in order.
        supernet: Of the first stage.

    Raises:
        ValueError: If epochs do not rise, a stage changes nothing, or edges would have more candidates, or fewer
            channels, than before.
    """
    before, parts = 0, supernet.partial_channels
    kept = max(len(choice.candidates) for choice in supernet.space.choices)
    for stage in stages:
        if stage.epoch <= before:
            raise ValueError(
                f"Stages must begin one after the other, the first of them after at least one epoch; got epochs "
                f"{', '.join(str(each.epoch) for each in stages)}."
            )
        if stage.candidates is None and stage.partial_channels is None:
            raise ValueError(
                f"A stage must change candidates or partial_channels; that at epoch {stage.epoch} does not."
            )
        if stage.candidates is not None and not 2 <= stage.candidates < kept:
            raise ValueError(
                f"candidates, which every edge keeps in a stage, must be from 2 to less than before, {kept}; got "
                f"{stage.candidates} at epoch {stage.epoch}."
            )
        if stage.partial_channels is not None and not 1 <= stage.partial_channels < parts:
            raise ValueError(
                f"partial_channels must become fewer in a stage, from {parts} to at least 1; got "
                f"{stage.partial_channels} at epoch {stage.epoch}. Build the supernet with more of them."
            )
        before, parts, kept = stage.epoch, stage.partial_channels or parts, stage.candidates or kept


def strongest(alpha: Tensor, kept: Tensor, count: int) -> Tensor:
    """The candidates of every row that stay: those with the largest alphas of the ones there are.

    Args:
        alpha: ``[R, O]``.
        kept: Indices of the candidates there are, ``[R, K]``.
        count: How many stay; all where there are no more.

    Returns:
        Their indices, in their order, ``[R, min(count, K)]``.

    Example:
        >>> import torch
        >>> strongest(torch.tensor([[0.1, 0.5, 0.3]]), torch.tensor([[0, 1, 2]]), 2)
        tensor([[1, 2]])
    """
    best = alpha.detach().gather(1, kept).argsort(dim=1, descending=True, stable=True)[:, :count]
    return kept.gather(1, best).sort(dim=1).values


def carry_states(optimizers: Iterable[Optimizer], widened: Widened, left: Sequence[nn.Parameter]) -> None:
    """Have optimisers go on with the parameters there are: states are widened as these are.

    A state whose shape is not that of its parameter begins anew.

    Args:
        optimizers: In whose groups parameters may be gone.
        widened: Parameters that were widened, see :func:`~oneshot.supernets.widening.widen`.
        left: All parameters that are trained now.
    """
    here = set(left)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in [p for p in group["params"] if p not in here]:
                optimizer.state.pop(parameter, None)
            group["params"] = [p for p in group["params"] if p in here]
        for parameter, channels in widened.items():
            state: dict[str, Any] = optimizer.state.get(parameter, {})
            tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and value.dim()}
            try:
                wider = {name: channels.of(value) for name, value in tensors.items()}
            except IndexError:
                wider = {}
            if any(name not in wider or wider[name].shape != parameter.shape for name in tensors):
                del optimizer.state[parameter]
            else:
                state.update(wider)
