"""SynFlow (Tanaka et al., NeurIPS 2020, arXiv:2006.05467); as a proxy: Abdelfattah et al., arXiv:2101.08134."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from oneshot.inputs import Inputs, mapped

from .base import Batch, Proxy, gradients, output_of, weights_of
from .saliency import salience


@dataclass(frozen=True)
class Synflow(Proxy):
    """``sum |w g|``, g the gradient of the sum of the outputs, all weights replaced by their absolute values.

    It is the sum over all paths of the products of their weights. The input is one of ones, no image and no label is
    looked at. Normalisation is left out, and numbers have 64 bits, since the products of deep networks leave the range
    of 32. Inputs that are whole numbers (words, categories) stay those of the first sample.
    """

    name: ClassVar[str] = "synflow"
    needs_gradients: ClassVar[bool] = True

    def __call__(self, network: nn.Module, batch: Batch) -> float:
        network = network.double().eval()  # no dropout
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.abs_()
        weights = weights_of(network)
        with WithoutNormalisation():
            total = output_of(network, ones_like(batch.inputs)).sum()
        return salience(weights, gradients(total, weights))


def ones_like(inputs: Inputs) -> Inputs:
    """One sample of ones in 64 bits; whole numbers are those of the first sample."""
    return mapped(lambda x: torch.ones_like(x[:1]).double() if x.is_floating_point() else x[:1], inputs)


class WithoutNormalisation(TorchFunctionMode):
    """Inside, normalisation of any kind returns its input."""

    left_out = frozenset(
        f
        for f in (
            *(F.batch_norm, F.layer_norm, F.group_norm, F.instance_norm, getattr(F, "rms_norm", None)),
            *(torch.batch_norm, torch.layer_norm, torch.group_norm, torch.instance_norm),
        )
        if f is not None
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in self.left_out:
            x: Tensor = args[0] if args else (kwargs or {})["input"]
            return x
        return func(*args, **(kwargs or {}))
