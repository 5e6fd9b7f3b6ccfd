"""The next word at each place of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from oneshot.inputs import Inputs, tensors

from .classes import ClassTask

if TYPE_CHECKING:
    from torchmetrics import Metric


class LanguageModelling(ClassTask):
    """The next word at each place: outputs ``[B, V, T]``, words ``[B, T]``, cross-entropy.

    Args:
        metric: ``"perplexity"`` (the smaller, the better), ``"accuracy"`` (share of the words), or the class path of
            one of torchmetrics, which gets probabilities.
        metric_args: Arguments of the latter; ``num_classes`` comes by itself.
        direction: ``"max"`` or ``"min"``; by default what the metric declares.
        class_weights: Weight of each word in the loss, which is the weighted mean.

    Raises:
        ValueError: If an option is out of its range, or a metric has no direction.
    """

    name = "language"
    names = ("perplexity", "accuracy")
    what = "a number of a word for every place"

    def __init__(
        self,
        metric: Literal["perplexity", "accuracy"] | str | type[Metric] = "perplexity",
        *,
        metric_args: Mapping[str, Any] | None = None,
        direction: Literal["max", "min"] | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(locals(), metric, metric_args, direction, class_weights)

    def places(self, x: Inputs) -> tuple[int, ...]:
        return tuple(tensors(x)[0].shape[1:])
