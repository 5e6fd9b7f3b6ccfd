"""Which attributes of modules say which sizes, so that they can follow when a network is cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from oneshot._lightning import ConvNd, NormBase

from .axes import Axis, extent, product
from .draft import Draft
from .graph import Binding
from .sizes import relate, same_size


def bind_attributes(draft: Draft) -> None:
    """Which attribute says which size; one that says several sizes ties them."""
    by_attribute: dict[tuple[str, str, int | None], list[Axis]] = {}
    for written in draft.trace.written:
        axes = draft.tied.axes.get(written.tensor)
        if axes is None or written.dim >= len(axes):
            continue
        axis = axes[written.dim].found()
        attribute = written.value.attribute
        if attribute is None or axis.size != int(written.value):
            continue
        by_attribute.setdefault(attribute, []).append(axis)
    groups = {place: axis for place, axis in draft.tied.groups.items()}
    for place, axis in groups.items():
        path, name = draft.trace.ops[place].module, "groups"
        module = draft.network.get_submodule(path)
        name = "num_groups" if isinstance(module, nn.GroupNorm) else "groups"
        if getattr(module, name, None) == axis.size:
            by_attribute.setdefault((path, name, None), []).append(axis)
        else:
            axis.freeze(f"the number of groups of {path} is not in an attribute {name!r}")
    for attribute, axes in by_attribute.items():
        first = axes[0].found()
        for other in axes[1:]:
            same_size(draft, first, other.found(), f"attribute {attribute[1]!r} of {attribute[0]} says several sizes")
        draft.written.append((attribute, first))
    draft.written += _of_layers(draft)
    relate(draft)


def _of_layers(draft: Draft) -> list[tuple[tuple[str, str, int | None], Axis]]:
    """Sizes that layers of PyTorch say of themselves."""
    numbers, found = _weights_by_identity(draft), []

    def add(path: str, module: nn.Module, name: str, axis: Axis, index: int | None = None) -> None:
        value = getattr(module, name, None)
        value = value[index] if index is not None and isinstance(value, tuple | list) else value
        if value == axis.found().size:
            found.append(((path, name, index), axis))

    for path, module in draft.network.named_modules():
        weight = getattr(module, "weight", None)
        axes = draft.tied.axes.get(numbers.get(id(weight), -1), []) if isinstance(weight, Tensor) else []
        if not axes:
            axes = draft.tied.axes.get(numbers.get(id(getattr(module, "running_mean", None)), -1), [])
        if isinstance(module, ConvNd) and axes:
            groups = draft.tied.groups.get(_place_of(draft, path), None)
            own, other = (1, 0) if module.transposed else (0, 1)
            whole = axes[other] if groups is None else product([groups, axes[other]])
            out = axes[own] if groups is None or not module.transposed else product([groups, axes[own]])
            add(path, module, "in_channels", axes[0] if module.transposed else whole)
            add(path, module, "out_channels", out)
            for index, side in enumerate(axes[2:]):
                add(path, module, "kernel_size", side, index)
        elif isinstance(module, nn.Linear) and axes:
            add(path, module, "in_features", axes[1])
            add(path, module, "out_features", axes[0])
        elif isinstance(module, NormBase) and axes:
            add(path, module, "num_features", axes[0])
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and axes:
            for index, side in enumerate(axes):
                add(path, module, "normalized_shape", side, index)
        elif isinstance(module, nn.GroupNorm) and axes:
            add(path, module, "num_channels", axes[0])
        elif isinstance(module, nn.Embedding) and axes:
            add(path, module, "embedding_dim", axes[1])
        elif isinstance(module, nn.PReLU) and axes:
            add(path, module, "num_parameters", axes[0])
        elif isinstance(module, nn.MultiheadAttention):
            _of_attention(draft, path, module, numbers, add)
    return found


def _of_attention(draft: Draft, path: str, module: nn.MultiheadAttention, numbers: Mapping[int, int], add: Any) -> None:
    """Heads of ``nn.MultiheadAttention`` vary with its embedding: whole heads of the stream are cut."""
    axes = draft.tied.axes.get(numbers.get(id(module.out_proj.weight), -1), [])
    packed = module.in_proj_weight is not None
    names = ("in_proj_weight",) if packed else ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    into = [draft.tied.axes.get(numbers.get(id(getattr(module, name)), -1), []) for name in names]
    if not axes or not all(into):
        return
    why = f"{path} takes its heads and its embedding from one attribute"
    for axis in (axes[0], into[0][1]):
        same_size(draft, axis, axes[1], why)
    add(path, module, "embed_dim", axes[1])
    for name, own in zip(("kdim", "vdim"), into * 2 if packed else into[1:], strict=True):
        add(path, module, name, own[1])
    parts = axes[1].found().parts
    if axes[1].found().kind == "product" and len(parts) == 2 and parts[0].found().size == module.num_heads:
        add(path, module, "num_heads", parts[0])


def _place_of(draft: Draft, path: str) -> int:
    """Number of the convolution that a module ran; -1 if there was none."""
    return next((i for i in draft.tied.groups if draft.trace.ops[i].module == path), -1)


def _weights_by_identity(draft: Draft) -> dict[int, int]:
    named = [*draft.network.named_parameters(), *draft.network.named_buffers()]
    return {id(tensor): draft.trace.names[name] for name, tensor in named}


def bindings(draft: Draft, leaves: Mapping[Axis, int]) -> Iterator[Binding]:
    """Attributes whose sizes depend on leaves."""
    done = set[tuple[str, str, int | None]]()
    for attribute, axis in draft.written:
        size = extent(axis, leaves)
        if size.kind == "fixed" or attribute in done:
            continue
        done.add(attribute)
        path, name, index = attribute
        yield Binding(path, name, index, size)
        module = draft.network.get_submodule(path)
        if name == "kernel_size" and isinstance(module, ConvNd) and index is not None:
            padding, dilation = module.padding[index], module.dilation[index]
            if padding:  # so that feature maps keep their sides
                yield Binding(path, "padding", index, size, offset=-1, divisor=2, factor=int(dilation))
