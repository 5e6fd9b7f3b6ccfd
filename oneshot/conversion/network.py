"""A smaller variant of a converted network, standing alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from oneshot._lightning import ConvNd
from oneshot.inputs import Inputs
from oneshot.storage.limits import check_sizes
from oneshot.supernets.base import Subnet, example_inputs, restored_modes
from oneshot.supernets.json_files import checked, shorten
from oneshot.supernets.space import ArchGraph, SubnetConfig

from .graph import left_out
from .sources import build

# Types by which a command line knows that the path "0.0" is a text.
Attribute = tuple[str, str, int | None, int]  # path of the module, name, index or None, value
Kept = tuple[str, int, int]  # name of the choice, what is kept, what there is


class _Plan(TypedDict):
    """Types of what a file says of a smaller network."""

    head: list[Any] | None
    attributes: list[list[Any]]
    dropped: list[str]
    shapes: dict[str, list[int]]
    choices: list[list[Any]]
    has_resolutions: bool
    output: str | int | None
    vocabularies: dict[str, int]


class ConvertedNetwork(Subnet):
    """A network of the user's own class, with fewer channels, heads or blocks.

    It is built again by its source: the function that builds the original network. Of that, layers are made smaller.

    Args:
        source: What builds the original network, see :func:`oneshot.convert`.
        arguments: Its arguments.
        head: Path of the layer that was replaced for other outputs, and how many it has; None if it was not.
        attributes: Attributes of modules that say other sizes: path, name, index in a tuple or None, and value.
        dropped: Blocks that are left out; ``nn.Identity`` stands in their places, or :class:`~.graph.Skip`.
        shapes: Parameters and buffers of other shapes than the original's.
        choices: What is kept of what there is, by the names of the choices: name, kept, all.
        input_shape: See :class:`~oneshot.supernets.Subnet`.
        num_classes: Number of outputs.
        has_resolutions: Whether the resolution was chosen, too: images of other sizes are resized.
        output: Which output is meant, where the network returns several.
        vocabularies: See :class:`~oneshot.supernets.base.WithTask`.
        network: The network itself; by default it is built.

    Attributes:
        network: The network, an instance of the original's class.

    Raises:
        ValueError: If the source does not build a network that has what is to be made smaller.
    """

    def __init__(
        self,
        *,
        source: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        head: tuple[str, int] | None = None,
        attributes: Sequence[Attribute] = (),
        dropped: Sequence[str] = (),
        shapes: Mapping[str, Sequence[int]] | None = None,
        choices: Sequence[Kept] = (),
        input_shape: Any,
        num_classes: int,
        has_resolutions: bool = False,
        output: str | int | None = None,
        vocabularies: Mapping[str, int] | None = None,
        network: nn.Module | None = None,
    ) -> None:
        super().__init__()
        several = isinstance(input_shape, Mapping)
        self.init_args = {
            "source": source,
            "arguments": dict(arguments or {}),
            "head": None if head is None else list(head),
            "attributes": [list(row) for row in attributes],
            "dropped": list(dropped),
            "shapes": {name: list(shape) for name, shape in (shapes or {}).items()},
            "choices": [list(row) for row in choices],
            "input_shape": {k: list(v) for k, v in input_shape.items()} if several else list(input_shape),
            "num_classes": num_classes,
            "has_resolutions": has_resolutions,
            "output": output,
            "vocabularies": dict(vocabularies or {}),
        }
        self.input_shape = {k: tuple(v) for k, v in input_shape.items()} if several else tuple(input_shape)
        self.num_classes, self.output, self.vocabularies = num_classes, output, dict(vocabularies or {})
        self.has_resolutions = has_resolutions
        if network is None:
            self.check_saved()
            _check_plan(self.init_args)
            network = build(str(source), arguments)
            if head is not None:
                replace_head(network, str(head[0]), int(head[1]))
            make_smaller(network, self.init_args)
            self.network = network
            self._check_outputs()
        self.network = network

    def _check_outputs(self) -> None:
        """Run what was built once, so that a plan that does not fit together is noticed here."""
        try:
            with restored_modes(self), torch.no_grad():
                outputs = self.eval()(example_inputs(self, 1))
        except Exception as error:  # whatever the code of a network raises where sizes do not fit
            reason = " ".join(str(error).split())[:200]
            raise ValueError(_other_network("the network", f"does not run ({reason})")) from error
        if self.num_classes not in outputs.shape[1:]:
            found = list(outputs.shape)
            raise ValueError(_other_network("the network", f"has outputs {found}, not {self.num_classes} of them,"))

    def check_saved(self) -> None:
        if self.init_args["source"] is None:
            raise ValueError(
                "source must name what builds the network, such as 'timm:resnet18' or 'mypackage.build'; got None. "
                "Pass source= to oneshot.convert, then export again."
            )

    def forward(self, x: Inputs) -> Tensor:
        """``[B, *input_shape] -> [B, num_classes]``, or what else the network computes."""
        return output_of(self.network(x), self.output)

    def graphs(self) -> list[ArchGraph]:
        return [chain(f"converted_{type(self.network).__name__}", self.init_args["choices"])]

    def describes(self, config: SubnetConfig) -> bool:
        kept = {name: (picked,) for name, picked, _ in self.init_args["choices"]}
        return dict(config.picks) == kept


def chain(name: str, choices: Sequence[Sequence[Any]]) -> ArchGraph:
    """One chain of all choices, with what is kept of what there is.

    Args:
        name: Of the graph.
        choices: Name, kept, all.
    """
    nodes = ("in", *(str(choice) for choice, _, _ in choices))
    return ArchGraph(name, nodes, tuple((i, i + 1, f"{kept} of {of}") for i, (_, kept, of) in enumerate(choices)))


def output_of(outputs: Any, name: str | int | None) -> Tensor:
    """The output that is meant of all that a network returns.

    Args:
        outputs: A tensor, or several in a tuple or by name.
        name: Its name or place; None takes the only or first one, ``"out"`` or ``"logits"``.

    Raises:
        ValueError: If there is none, or it is not clear which.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        key: Any = name
        if key is None:
            key = next((usual for usual in ("out", "logits") if usual in outputs), None)
        if key is None and len(outputs) == 1:
            key = next(iter(outputs))
        if isinstance(named := outputs.get(key), Tensor):
            return named
        raise ValueError(
            f"output must name the tensor that is meant among {list(outputs)}; got {name!r}. Pass output= to "
            "oneshot.convert."
        )
    place = 0 if name is None else name
    listed = list(outputs) if isinstance(outputs, tuple | list) and isinstance(place, int) else []
    if listed and len(listed) > int(place) and isinstance(found := listed[int(place)], Tensor):
        return found
    raise ValueError(
        f"A network must return a tensor, or tensors in a tuple or by name, of which output= is one; got "
        f"{type(outputs).__name__} and output={name!r}."
    )


def _check_plan(plan: Mapping[str, Any]) -> None:
    """Check what a file says of a smaller network, before it is built.

    Raises:
        ValueError: If a value is of another type than it must be, or far larger than that of any network.
    """
    check_sizes(plan["arguments"])
    checked({name: plan[name] for name in _Plan.__annotations__}, _Plan, "the network")
    if plan["head"] is not None:
        _, outputs = _row("head", plan["head"], str, int)
        check_sizes({"num_classes": outputs})
    for row in plan["attributes"]:
        _row("attributes", row, str, str, (int, NoneType), int)
    for row in plan["choices"]:
        _row("choices", row, str, int, int)


def _row(what: str, row: Sequence[Any], *kinds: type | tuple[type, ...]) -> Sequence[Any]:
    fits = len(row) == len(kinds) and all(isinstance(v, k) for v, k in zip(row, kinds, strict=True))
    if not fits or any(isinstance(value, bool) for value in row):
        raise ValueError(f"{what} must hold a path and whole numbers, as they were written; got {shorten(row)}.")
    return row


def replace_head(network: nn.Module, path: str, outputs: int) -> None:
    """Put a new layer of another number of outputs in the place of the last one, with new random weights.

    Args:
        network: It is changed.
        path: Of a linear layer or a convolution.
        outputs: How many.

    Raises:
        ValueError: If there is no such layer.
    """
    parent, _, name = path.rpartition(".")
    try:
        module = network.get_submodule(parent)
        old = getattr(module, name)
    except AttributeError as error:
        raise ValueError(f"The network must have the layer {shorten(path)}; it has none of this name.") from error
    layer = copy.deepcopy(old)
    if not isinstance(layer, nn.Linear | ConvNd):
        raise ValueError(
            f"The last layer must be linear or a convolution for its outputs to be replaced; {shorten(path)} is a "
            f"{type(layer).__name__}. Replace it in your network, then convert."
        )
    before, shape = layer.weight.shape[0], (outputs, *layer.weight.shape[1:])
    like: dict[str, Any] = {"dtype": layer.weight.dtype, "device": layer.weight.device}
    layer.weight = nn.Parameter(torch.empty(shape, **like))
    if layer.bias is not None:
        layer.bias = nn.Parameter(torch.empty(outputs, **like))
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", outputs)
    layer.reset_parameters()
    setattr(module, name, layer)
    if getattr(network, "num_classes", None) == before:
        network.num_classes = outputs  # type: ignore[assignment]  # an attribute of timm and others


def make_smaller(network: nn.Module, plan: Mapping[str, Any]) -> None:
    """Make layers of a network smaller, as a plan says; its weights are the first entries of what there was.

    Args:
        network: The original; it is changed.
        plan: ``attributes``, ``dropped`` and ``shapes``, see :class:`ConvertedNetwork`.

    Raises:
        ValueError: If the network does not have what the plan names, or is smaller than that.
    """
    for path in plan["dropped"]:
        parent, _, name = path.rpartition(".")
        try:
            module, block = network.get_submodule(parent), network.get_submodule(path)
        except AttributeError as error:
            raise ValueError(_other_network(f"block {shorten(path)} that is left out", "is missing")) from error
        setattr(module, name, left_out(block))
    for path, name, index, value in plan["attributes"]:
        try:
            module = network.get_submodule(path)
            old = module.__dict__[name]
            if index is not None:
                new = list(old)
                new[index] = value
                value = type(old)(new)
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise ValueError(
                _other_network(f"attribute {shorten(name)} of module {shorten(path)}", "is missing")
            ) from error
        module.__dict__[name] = value
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    wrong = [name for name, shape in plan["shapes"].items() if not _fits(tensors.get(name), shape)]
    if wrong:
        what = f"{len(wrong)} of {len(plan['shapes'])} tensors, such as {shorten(wrong[0])},"
        raise ValueError(_other_network(what, "are missing or smaller than what is to be kept of them"))
    for name, shape in plan["shapes"].items():
        part = tensors[name].detach()
        for dim, size in enumerate(shape):
            part = part.narrow(dim, 0, size)
        set_tensor(network, name, part.clone(memory_format=torch.contiguous_format))


def _other_network(what: str, how: str) -> str:
    return (
        f"The source must build the network that was converted; {what} {how} in what it builds now. Use the version of "
        "the package, and the arguments, that were used when it was converted."
    )


def _fits(tensor: Tensor | None, shape: Sequence[int]) -> bool:
    if tensor is None or tensor.dim() != len(shape):
        return False
    return all(1 <= size <= most for size, most in zip(shape, tensor.shape, strict=True))


def set_tensor(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer, and of all that are the same one."""
    parent, _, last = name.rpartition(".")
    old = getattr(network.get_submodule(parent), last)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
    for module in network.modules():
        own = [
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        ]
        for key, value in own:
            if value is old:
                setattr(module, key, new)
