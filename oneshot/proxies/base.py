"""What a proxy is: it scores a network that was not trained, from one batch."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from oneshot.errors import NoScoreError
from oneshot.inputs import Inputs, mapped, tensors
from oneshot.supernets.base import NORMALISATION, hold_statistics
from oneshot.tasks.task import Task


@dataclass(frozen=True)
class Batch:
    """What a proxy may look at.

    Args:
        inputs: ``[B, ...]``, or several by name; on the device of the network and in its type.
        targets: What the task asks for; None if there are none.
        task: Whose loss is taken.
    """

    inputs: Inputs
    targets: Tensor | None
    task: Task

    def loss(self, network: nn.Module) -> Tensor:
        """Loss of a network, a scalar."""
        assert self.targets is not None  # `score` has checked it
        return self.task.loss(output_of(network, self.inputs), self.targets)


class Proxy(ABC):
    """Scores one network; larger is better. Subclasses are frozen dataclasses: their fields are the options.

    Attributes:
        name: As in tables.
        needs_targets: Whether it takes a loss.
        needs_gradients: Whether anything is differentiated.
        fewest: Samples that it needs at least.
    """

    name: ClassVar[str]
    needs_targets: ClassVar[bool] = False
    needs_gradients: ClassVar[bool] = False
    fewest: ClassVar[int] = 1

    @abstractmethod
    def __call__(self, network: nn.Module, batch: Batch) -> float:
        """Score a network.

        Args:
            network: A copy that belongs to the proxy, in training mode; it may do with it what it likes.
            batch: At least :attr:`fewest` samples.
        """


def private_copy(network: nn.Module, *, gradients: bool) -> nn.Module:
    """A copy in training mode without gradients, of which all numbers with digits are trained.

    Raises:
        ValueError: If the network cannot be copied.
    """
    try:
        own = copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"A network must be one that copy.deepcopy copies, for scores leave it untouched; {type(network).__name__} "
            f"is none: {error}. A weight made by torch.nn.utils.weight_norm is a usual reason: use "
            "torch.nn.utils.parametrizations.weight_norm."
        ) from error
    for parameter in own.parameters():
        parameter.grad = None
        if gradients and parameter.is_floating_point():
            parameter.requires_grad_(True)
    own.train()
    if getattr(own, "frozen_statistics", False):
        hold_statistics(own)
    return own


def output_of(network: nn.Module, inputs: Inputs) -> Tensor:
    """What a network gives for inputs.

    Raises:
        ValueError: If it is not one tensor.
    """
    out: Any = network(inputs)
    if not isinstance(out, Tensor):
        raise ValueError(
            f"A network must give one tensor to be scored; {type(network).__name__} gives a {type(out).__name__}. Wrap "
            "it in a module whose forward returns the logits alone."
        )
    return out


def weights_of(network: nn.Module) -> list[Tensor]:
    """The weights of layers: all parameters of two or more axes, those of convolutions and matrix products.

    Biases, and the scale and shift of normalisation, are none. The published code takes the weights of
    ``nn.Conv2d`` and ``nn.Linear``, which in convolutional networks are the same; here those of attention, recurrent
    layers and embeddings count, too. A weight that two layers share counts once.

    Raises:
        NoScoreError: If there are none.
    """
    scales = {p for module in network.modules() if isinstance(module, NORMALISATION) for p in module.parameters()}
    own = [p for p in network.parameters() if p not in scales]
    found: list[Tensor] = [p for p in own if p.dim() >= 2 and p.is_floating_point()]
    if not found:
        raise NoScoreError(
            f"This proxy is about weights of convolutions and linear layers; {type(network).__name__} has none. "
            "Leave the proxy out."
        )
    return found


def check_first_axis(x: Tensor, samples: int, what: str) -> None:
    """Check that the first axis of a tensor may be the samples, or samples times parts of them.

    Raises:
        NoScoreError: If it cannot be.
    """
    if x.dim() == 0 or x.shape[0] % samples:
        raise NoScoreError(
            f"The first axis of what {what} must be the samples, {samples} here; got {list(x.shape)}. Take proxies "
            "that read weights, such as synflow or zico."
        )


def another_count(inputs: Inputs) -> Inputs:
    """Another number of samples, the first two if there are more; at least two, which batch normalisation needs."""
    return mapped(lambda x: x[:2] if len(x) > 2 else torch.cat([x, x, x])[:3], inputs)


def check_samples_first(sizes: Sequence[int], samples: int, others: Sequence[int], count: int, what: str) -> None:
    """Check that the first axes that a network works on grow with the samples. Those of sequences may be the time.

    A network that leaves out layers at random has another number of them in another run, and cannot be checked.

    Args:
        sizes: First axes for all samples.
        samples: How many these are.
        others: First axes for another number of samples.
        count: How many these are.
        what: Whose axes these are, "ReLUs read".

    Raises:
        NoScoreError: If one does not.
    """
    if len(sizes) == len(others) and any(a * count != b * samples for a, b in zip(sizes, others, strict=True)):
        raise NoScoreError(
            f"The first axis of what {what} must be the samples; it does not grow with them, as where batch_first is "
            "False. Take proxies that read weights, such as synflow or zico."
        )


def gradients(of: Tensor, to: Iterable[Tensor], **options: Any) -> list[Tensor]:
    """Gradients by value; zeros for what has no part in the result."""
    to = list(to)
    if not of.requires_grad:
        return [torch.zeros_like(x) for x in to]
    found: tuple[Tensor | None, ...] = torch.autograd.grad(of, to, allow_unused=True, **options)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, to, strict=True)]


def numbers_with_digits(inputs: Inputs, proxy: str) -> list[Tensor]:
    """The tensors of inputs that can be differentiated.

    Raises:
        ValueError: If all are whole numbers.
    """
    found = [part for part in tensors(inputs) if part.is_floating_point()]
    if not found:
        raise ValueError(
            f"{proxy} draws inputs or differentiates by them, so at least one must be of numbers with digits; these "
            "are whole numbers, such as words. Take proxies of weights: snip, grad_norm, zico, synflow."
        )
    return found
