"""What a network, an example and the options of ``convert`` must be, and what is said where they are not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from oneshot.inputs import Inputs, cast, is_inputs, tensors

from .draft import Limits
from .sources import input_shape_of
from .trace import TraceError

IMAGE = (3, 224, 224)
DEPENDS_ON_NUMBERS = (
    "DataDependentOutputException",
    "GuardOnDataDependentSymNode",
    "UnsupportedFakeTensorException",
    "DynamicOutputShape",
)


def check_convertible(network: object) -> nn.Module:
    """Check that something is a network whose weights can be cut.

    Raises:
        ValueError: If it is not; what would help is said.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"convert must be given a torch.nn.Module; got {type(network).__name__}. To name a network, pass "
            "source='timm:resnet18'."
        )
    if isinstance(network, torch.jit.ScriptModule):
        raise ValueError("A scripted network has no modules that could be cut; convert the network it was made from.")
    if hasattr(network, "_orig_mod"):
        raise ValueError("A compiled network must be converted before it is compiled; pass model._orig_mod.")
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(f"{type(network).__name__} wraps the network to convert; pass model.module.")
    named = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in named:
        if is_lazy(tensor):
            raise ValueError(
                f"All weights must have a shape before a network is converted; {name} is lazy. Run the network once."
            )
        if tensor.is_complex():
            raise ValueError(
                f"Weights must be real numbers; {name} is {tensor.dtype}. Convert the real part of the network alone."
            )
        if tensor.is_quantized:
            raise ValueError(f"Weights must be numbers; {name} is quantised. Convert the network, then quantise it.")
    for path, module in network.named_modules():
        for name, value in module.__dict__.items():
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                raise ValueError(
                    f"Weights must be parameters or buffers; {f'{path}.{name}'.lstrip('.')} is computed, as hooks of "
                    "weight_norm, spectral_norm and prune do. Use torch.nn.utils.parametrizations, or remove the hook: "
                    "torch.nn.utils.remove_weight_norm, prune.remove."
                )
        if ".quantized" in type(module).__module__ or ".ao.nn" in type(module).__module__:
            raise ValueError(
                f"Layers must not be quantised; {path} is a {type(module).__module__}.{type(module).__name__}. Convert "
                "the network, then quantise what was found."
            )
    if not any(tensor.is_floating_point() for _, tensor in named):
        raise ValueError(f"A network to convert must have weights; this {type(network).__name__} has none.")
    return network


def check_limits(limits: Limits) -> None:
    """Check the options of ``convert``.

    Raises:
        ValueError: If one is out of its range.
    """
    given: list[Any] = list(limits.width)
    if not given or any(isinstance(w, bool) or not isinstance(w, int | float) or not 0 < w <= 1 for w in given):
        raise ValueError(
            "width must be parts of the channels that can be kept, above 0 and up to 1, at least one, such as (0.25, "
            f"0.5, 1.0); got {tuple(limits.width)}."
        )
    multiple: Any = limits.multiple
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"multiple must be a whole number from 1 on, such as 8; got {multiple!r}.")


def check_freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Check that every pattern names a layer or a weight.

    Raises:
        ValueError: If one does not; the nearest path is named.
    """
    names = [name for name, _ in (*network.named_modules(), *network.named_parameters())]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"freeze must hold paths of layers or patterns of them; {pattern!r} matches none of "
                f"{type(network).__name__}.{hint}"
            )


def check_example(
    example: object, network: nn.Module, input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None
) -> Inputs:
    """The example, on the device and of the type of the network; random numbers where there is none.

    Raises:
        ValueError: If it is no batch of two inputs or more.
    """
    like = next(p for p in (*network.parameters(), *network.buffers()) if p.is_floating_point())
    if example is None:
        example = _random(input_shape or input_shape_of(network) or IMAGE)
    if not is_inputs(example):
        raise ValueError(
            "example_input must be a tensor, or a mapping from names to tensors, with the batch in front; got "
            f"{type(example).__name__}. Networks that take several tensors must take them in one mapping."
        )
    found: Any = example
    sizes = {x.shape[0] if x.dim() else 0 for x in tensors(found)}
    if len(sizes) != 1 or min(sizes) < 2:
        raise ValueError(
            "example_input must be a batch of two inputs or more, all of one number, so that the batch is not taken "
            f"for a side of one entry; got {sorted(sizes)}. Pass torch.cat([x, x]), for example."
        )
    return cast(found, like)


def _random(shape: Sequence[int] | Mapping[str, Sequence[int]]) -> Inputs:
    """Two random inputs of a shape."""
    random = torch.Generator().manual_seed(0)
    if isinstance(shape, Mapping):
        return {name: torch.randn((2, *part), generator=random) for name, part in shape.items()}
    return torch.randn((2, *shape), generator=random)


def explain(error: TraceError) -> ValueError:
    """What is said of a network that does not run without numbers."""
    cause, module = error.cause, error.module or "the network itself"
    kind, told = type(cause).__name__, str(cause).strip().splitlines()
    text = f"{kind}: {told[0][:200] if told else ''}"
    if (
        any(word in kind for word in DEPENDS_ON_NUMBERS)
        or "item()" in text
        or ".numpy()" in text
        or "data-dependent" in text.lower()
    ):
        return ValueError(
            "A network to convert must run the same operators whatever the numbers are; the code of "
            f"{module} looks at numbers of a tensor ({text}). Replace the condition by torch.where, or take it out of "
            "the network."
        )
    if isinstance(cause, TypeError) and "positional argument" in text:
        return ValueError(
            f"A network to convert must take one argument, a tensor or tensors by name; {module} fails with one "
            f"({text}). Write a module around it whose forward takes a mapping, and convert that."
        )
    channels = re.search(r"to have (\d+) channels, but got (\d+) channels", text)
    build = (
        f" Or build it for {channels[2]} channels: arguments={{'in_chans': {channels[2]}}} in timm." if channels else ""
    )
    return ValueError(
        f"A network to convert must run on the example; it fails in {module} ({text}). Pass an example_input, or "
        f"the input_shape, that the network takes.{build}"
    )
