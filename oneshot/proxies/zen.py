"""Zen-NAS: Gaussian complexity of the features (Lin et al., ICCV 2021, arXiv:2102.01063)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from oneshot._lightning import ADAPTIVE_AVERAGE, BatchNorm, TorchDispatchMode, packet_of
from oneshot.errors import NoScoreError
from oneshot.inputs import Inputs, mapped

from .base import Batch, Proxy, numbers_with_digits, output_of
from .initial import draw_weights, normal_like

_ATEN = torch.ops.aten
_POOLS = (
    *(_ATEN.mean, _ATEN.adaptive_avg_pool2d, ADAPTIVE_AVERAGE, _ATEN.amax, _ATEN.adaptive_max_pool2d),
    *(_ATEN.avg_pool2d, _ATEN.avg_pool3d, _ATEN.max_pool2d_with_indices),  # global where the kernel is as large
)


@dataclass(frozen=True)
class Zen(Proxy):
    """``log E |f(x) - f(x + gamma e)| + sum_l log sqrt(mean_c var_c)`` (algorithm 1).

    x and e are Gaussian inputs of the shape of the batch, no image is looked at. f are the features that the last
    global pooling reads, of networks without one the outputs. The second term undoes what batch normalisation did to
    the scale: ``var_c`` is the variance of channel c that a layer sees in x. Weights are drawn anew from N(0, 1).

    Differences are summed over the features, as in the authors' code; the paper writes a norm. The authors read the
    running variance after two steps of its moving average; here it is the variance itself, as in the paper. They also
    take residual links out of their networks; here the network stays as it is.

    Args:
        repeats: Draws of weights and inputs, whose mean is the score.
        gamma: Size of the perturbation.

    Raises:
        ValueError: If there is no batch normalisation.
    """

    name: ClassVar[str] = "zen"
    fewest: ClassVar[int] = 2
    repeats: int = 1
    gamma: float = 0.01

    def __post_init__(self) -> None:
        if self.repeats < 1 or not self.gamma > 0:
            raise ValueError(
                f"zen must have at least one repeat and gamma > 0; got repeats={self.repeats}, gamma={self.gamma}."
            )

    @torch.no_grad()
    def __call__(self, network: nn.Module, batch: Batch) -> float:
        layers = [module for module in network.modules() if isinstance(module, BatchNorm)]
        if not layers:
            raise NoScoreError(
                "zen is scaled by what batch normalisation sees, so the network must have it; "
                f"{type(network).__name__} has none. Take a proxy without it: synflow, zico, naswot."
            )
        numbers_with_digits(batch.inputs, self.name)
        seen: list[Tensor] = []
        for layer in layers:
            layer.register_forward_pre_hook(lambda module, args: seen.append(mean_variance(args[0])))
        return sum(self._once(network, batch, seen) for _ in range(self.repeats)) / self.repeats

    def _once(self, network: nn.Module, batch: Batch, seen: list[Tensor]) -> float:
        draw_weights(network, "gaussian")
        x, e = gaussian_like(batch.inputs), gaussian_like(batch.inputs)
        seen.clear()
        plain = last_features(network, x)
        scale = torch.stack(seen).sqrt().log().sum()
        seen.clear()
        moved = last_features(network, add(x, e, self.gamma))
        return float((plain - moved).double().abs().flatten(1).sum(1).mean().log() + scale)


def mean_variance(x: Tensor) -> Tensor:
    """Mean over channels of the variance that batch normalisation sees: ``[B, C, ...] -> []``."""
    return x.double().transpose(0, 1).flatten(1).var(1, correction=0).mean()


def gaussian_like(inputs: Inputs) -> Inputs:
    """Numbers of N(0, 1) in the shape of inputs; whole numbers stay as they are."""
    return mapped(lambda part: normal_like(part) if part.is_floating_point() else part, inputs)


def add(inputs: Inputs, others: Inputs, factor: float) -> Inputs:
    """``inputs + factor * others``; whole numbers stay as they are."""
    if isinstance(inputs, Tensor) and isinstance(others, Tensor):
        return inputs + factor * others if inputs.is_floating_point() else inputs
    assert isinstance(inputs, Mapping) and isinstance(others, Mapping)
    return {n: x + factor * others[n] if x.is_floating_point() else x for n, x in inputs.items()}


class _Pooled(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Inside, keeps what the last global pooling reads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.features: Tensor | None = None

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if packet_of(func) in _POOLS and isinstance(args[0], Tensor) and args[0].dim() > 2:
            pooled, whole = out[0] if isinstance(out, tuple) else out, args[0].shape
            alone = packet_of(func) in _POOLS[-3:] and pooled.shape == whole  # pooling of a single pixel
            if pooled.shape[:2] == whole[:2] and pooled.numel() == whole[0] * whole[1] and not alone:
                self.features = args[0].clone()
        return out


def last_features(network: nn.Module, inputs: Inputs) -> Tensor:
    """What the last global pooling reads, ``[B, C, ...]``; of networks without one the outputs."""
    with _Pooled() as pooled:
        out = output_of(network, inputs)
    return out if pooled.features is None else pooled.features
