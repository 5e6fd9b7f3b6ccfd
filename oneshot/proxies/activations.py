"""Which ReLUs are open: the codes that NASWOT and SWAP read.

Operators are observed as they run, so it does not matter whether an activation is a module, a function or a method,
works in place, or is one module that is called in several places. Every call counts as units of its own: a network
whose layers share one ``nn.ReLU`` has the codes of one with a ReLU for each layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from oneshot._lightning import PRELU_KERNEL, TorchDispatchMode, packet_of
from oneshot.errors import NoScoreError
from oneshot.inputs import Inputs, length

from .base import Batch, another_count, check_first_axis, check_samples_first, output_of

_ATEN = torch.ops.aten
# Activations that are straight on both sides of 0. What is above 6 in a ReLU6 is open, too.
STRAIGHT = {
    _ATEN.relu: "ReLU",
    _ATEN.relu_: "ReLU",
    _ATEN.relu6: "ReLU6",
    _ATEN.relu6_: "ReLU6",
    _ATEN.hardtanh: "Hardtanh",
    _ATEN.hardtanh_: "Hardtanh",
    _ATEN.leaky_relu: "LeakyReLU",
    _ATEN.leaky_relu_: "LeakyReLU",
    PRELU_KERNEL: "PReLU",
    _ATEN.prelu: "PReLU",
}
CURVED = {
    _ATEN.gelu: "GELU",
    _ATEN.silu: "SiLU",
    _ATEN.silu_: "SiLU",
    _ATEN.hardswish: "Hardswish",
    _ATEN.hardswish_: "Hardswish",
    _ATEN.elu: "ELU",
    _ATEN.elu_: "ELU",
    _ATEN.mish: "Mish",
    _ATEN.softplus: "Softplus",
    _ATEN.tanh: "Tanh",
    _ATEN.sigmoid: "Sigmoid",
}


class OpenUnits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Inside, hands the codes of every ReLU that runs to a function.

    Args:
        samples: B.
        take: Gets ``[B, U]``, true where the input of a unit is above 0.

    Attributes:
        sizes: First axes of what the ReLUs have read.
        finite: Whether all of it was finite.
    """

    def __init__(self, samples: int, take: Callable[[Tensor], object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.samples, self.take = samples, take
        self.curved, self.sizes, self.finite = dict[str, None](), list[int](), True

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        operator = packet_of(func)
        if (name := STRAIGHT.get(operator)) and not (name == "Hardtanh" and not _is_relu(args, kwargs or {})):
            x: Tensor = args[0]
            check_first_axis(x, self.samples, f"a {name} reads")
            self.sizes.append(len(x))
            self.finite = self.finite and bool(x.isfinite().all())
            self.take((x > 0).reshape(self.samples, -1))
        elif operator in CURVED:
            self.curved[CURVED[operator]] = None
        return func(*args, **(kwargs or {}))


def _is_relu(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of hardtanh closes at 0, as that of a ReLU6 does."""
    return bool((args[1] if len(args) > 1 else kwargs.get("min_val", -1)) == 0)


def open_units(network: nn.Module, batch: Batch, take: Callable[[Tensor], object], proxy: str) -> bool:
    """Run without gradients, and hand over the codes of every ReLU, ``[B, U]``.

    Returns:
        Whether all that the ReLUs have read was finite.

    Raises:
        NoScoreError: If the network has no ReLU, or the first axis of what one reads is not the samples.
    """

    def run(inputs: Inputs, take: Callable[[Tensor], object]) -> OpenUnits:
        observed = OpenUnits(length(inputs), take)
        with torch.no_grad(), observed:
            output_of(network, inputs)
        return observed

    observed = run(batch.inputs, take)
    other = another_count(batch.inputs)
    sizes = run(other, lambda codes: None).sizes
    check_samples_first(observed.sizes, length(batch.inputs), sizes, length(other), "ReLUs read")
    if not observed.sizes:
        others = (
            f"it has {', '.join(observed.curved)} only" if observed.curved else "it has no activation that is known"
        )
        raise NoScoreError(
            f"{proxy} counts which ReLUs are open (ReLU, ReLU6, LeakyReLU and PReLU count), so the network must have "
            f"one; {type(network).__name__} has none: {others}. Take proxies that read no activations, such as "
            "synflow, zico or jacov."
        )
    return observed.finite
