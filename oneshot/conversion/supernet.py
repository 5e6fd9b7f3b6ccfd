"""``convert``: any trained network becomes a supernet of its own smaller variants."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneshot.cost.counting.network import count
from oneshot.inputs import Inputs, cast, mapped, split, tensors
from oneshot.supernets.base import Supernet, restored_modes
from oneshot.supernets.elastic import resized as resized_images
from oneshot.supernets.elastic_layers import laid_out
from oneshot.supernets.space import SubnetConfig
from oneshot.tasks.task import Task

from .analysis import analyse
from .axes import cut, paste
from .checks import check_convertible, check_example, check_freeze, check_limits, explain
from .draft import Limits
from .graph import Graph, leaf_sizes, resized
from .importance import Importance, orders, put_in_order, saliencies, squares
from .network import ConvertedNetwork, output_of, replace_head
from .report import table
from .sources import LoadedWeights, build, load_weights
from .space import ConvertedSpace, space_of
from .trace import TraceError, called_with, isolated

WIDTH = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
RANKED = 16  # samples whose gradients are added up before their size counts
PLANS = 4096  # configs whose sizes are remembered


class ConvertedSupernet(Supernet):
    """A network and all its smaller variants, which share its weights; see :func:`convert`.

    Channels are sorted by importance once, so that a variant has the first ones of every group. ``forward`` runs the
    network itself, with views of its weights in their places; :meth:`extract` copies them into a network of its class.

    Args:
        network: The network; it is not copied, and changes.
        example: A batch of at least two inputs.
        limits: What may vary.
        source: What builds it again.
        arguments: Of the source.
        head: The layer that was replaced, and its outputs.
        loaded: Which weights were loaded from a file.
        resolutions: Sides of images, if there are several.
        importance: See :func:`convert`.
        output: See :func:`convert`.
        task: See :func:`convert`.

    Attributes:
        network: The original, with sorted channels; the names of its weights are the original's.
        graph: What is known of it.
        graphs: The same at every resolution.
        head: Path of the last layer, if that is linear or a convolution.
        source: What builds the original again.
        arguments: Of the source.
        loaded: Which weights were loaded from a file; None if they were not.
    """

    space: ConvertedSpace

    def __init__(
        self,
        network: nn.Module,
        example: Inputs,
        limits: Limits,
        *,
        source: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        head: tuple[str, int] | None = None,
        loaded: LoadedWeights | None = None,
        resolutions: Sequence[int] = (),
        importance: Importance = "l2",
        output: str | int | None = None,
        task: Task | str | None = None,
    ) -> None:
        super().__init__()
        self.network, self.output, self.replaced_head = network, output, head
        self.source, self.arguments, self.loaded = source, dict(arguments or {}), loaded
        try:
            self.graph = analyse(network, example, limits)
            self.input_shape = shape = mapped_shape(example)
            self.graphs: dict[int, Graph] = {}
            for side in resolutions:
                small = resized_example(example, side)
                self.graphs[side] = analyse(network, small, limits)
        except TraceError as error:
            raise explain(error) from error.cause
        if self.graphs:
            _check_alike(self.graph, self.graphs)
            self.input_shape = (*shape[:-2], max(resolutions), max(resolutions))
        self.has_resolutions = len(self.graphs) > 1
        self.space = space_of(f"converted_{type(network).__name__}", self.graph, resolutions)
        self.head, self.importance = self.graph.head, importance
        self._examples(example, task)
        self._plan = lru_cache(PLANS)(self._planned)
        self.settings = {
            "network": type(network).__name__,
            "source": source,
            "arguments": self.arguments,
            "input_shape": str(self.input_shape),
            "num_classes": self.num_classes,
            "output": output,
            **({} if loaded is None else {"weights": loaded.checksum}),
        }
        self._example = mapped(lambda x: x.detach().clone(), example) if importance == "taylor" else None
        self.sort_channels()
        self.train()  # as all supernets begin; a trained network comes in eval mode

    def _examples(self, example: Inputs, task: Task | str | None) -> None:
        """Find out what the outputs are."""
        with restored_modes(self.network), isolated(self.network), torch.no_grad():
            outputs = output_of(self.network.eval()(example), self.output)
        if outputs.dim() < 2:
            raise ValueError(
                f"Outputs must be [B, outputs], or [B, classes, H, W] of segmentations; got {list(outputs.shape)}."
            )
        self.num_classes = outputs.shape[1] if outputs.dim() in (2, 4) else outputs.shape[-1]
        self.vocabularies = _vocabularies(self.graph, example)
        default = "segmentation" if outputs.dim() == 4 else "classification" if self.num_classes > 1 else "regression"
        self.task = default if task is None else task

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_plan"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch
        self._plan = lru_cache(PLANS)(self._planned)

    def __deepcopy__(self, memo: dict[int, Any]) -> ConvertedSupernet:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return new

    def __str__(self) -> str:
        smallest, largest = (
            count(self.extract(config, inherit=False), self.shape_of(config))
            for config in (self.space.smallest, self.space.largest)
        )
        return table(self.network, self.graph, self.space, smallest, largest, self.loaded)

    # Architectures.

    def _planned(self, config: SubnetConfig) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Sizes of all leaves and the blocks that are left out."""
        genes = self.space.genes_of(config)[None]
        sizes = leaf_sizes(self.graph, self.space.kept(genes)[0].tolist())
        blocks = [block for stage in self.space.blocks for block in stage]
        return tuple(sizes), tuple(b for b, gone in zip(blocks, self.space.dropped(genes)[0], strict=True) if gone)

    def shape_of(self, config: SubnetConfig) -> Any:
        if not self.has_resolutions:
            return self.input_shape
        side = int(config["resolution"][0])
        return (*self.input_shape[:-2], side, side)

    def uniform(self, ratio: float) -> SubnetConfig:
        """All widths at one ratio of the original's, as pruning to one ratio has them, with all blocks.

        Args:
            ratio: Above 0, up to 1; of every group the nearest candidate is taken.

        Raises:
            ValueError: If it is out of range.
        """
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be above 0 and at most 1, the part of the channels that stays; got {ratio}.")
        return self.space.nearest(ratio)

    def forward(self, x: Inputs, arch: SubnetConfig) -> Tensor:
        """Run one architecture.

        Args:
            x: Inputs, ``[B, *input_shape]``, or several by name; images of any size if the resolution is chosen.
            arch: Which one.

        Raises:
            ValueError: If ``arch`` is not of this space.
        """
        sizes, dropped = self._plan(arch)
        if self.has_resolutions and isinstance(x, Tensor):
            x = resized_images(x, self.shape_of(arch)[-2:])
        with isolated(self.network, self.graph.trace.changed, known=True):
            if not dropped and sizes == self.graph.leaves:
                return output_of(self.network(x), self.output)
            with resized(self.network, self.graph, sizes, dropped):
                weights, copied = self._weights(sizes)
                outputs = output_of(called_with(self.network, weights, x), self.output)
                with torch.no_grad():
                    for name, buffer in copied.items():
                        paste(buffer, self.graph.weights[name], sizes, weights[name], self.graph.centred)
        return outputs

    def run_config(self, x: Inputs, config: SubnetConfig) -> Tensor:
        outputs: Tensor = self(x, config)
        return outputs

    def _weights(self, sizes: tuple[int, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The part of the weights that a network of these sizes has; inside of :func:`~.graph.resized`.

        Returns:
            The parts, and the buffers of layers in training mode of which the part is a copy, not a view.
        """
        graph, found, copied = self.graph, dict[str, Tensor](), dict[str, Tensor]()
        for path, module in self.network.named_modules():
            start = f"{path}." if path else ""
            for key, tensor in module.named_parameters(recurse=False):
                name = start + key
                if name not in graph.weights:  # another name of the same tensor
                    continue
                part = _part(tensor, graph, name, sizes)
                if part is not tensor and not torch.is_grad_enabled():
                    # How torch computes a product depends on this, also without gradients, and so do the last bits.
                    part = part.detach().requires_grad_(tensor.requires_grad)
                found[name] = part
            for key, buffer in module.named_buffers(recurse=False):
                name = start + key
                if name not in graph.weights:
                    continue
                found[name] = part = cut(buffer, graph.weights[name], sizes, graph.centred)
                if module.training and part.untyped_storage().data_ptr() != buffer.untyped_storage().data_ptr():
                    copied[name] = buffer
        return found, copied

    def extract(self, config: SubnetConfig, *, inherit: bool = True) -> ConvertedNetwork:
        sizes, dropped = self._plan(config)
        changed = self.graph.trace.changed
        with resized(self.network, self.graph, sizes, dropped), isolated(self.network, changed, known=True):
            memo: dict[int, Any] = {}
            shapes: dict[str, list[int]] = {}
            for name, tensor in (*self.network.named_parameters(), *self.network.named_buffers()):
                part = _part(tensor.detach(), self.graph, name, sizes).clone(memory_format=torch.preserve_format)
                if part.shape != tensor.shape:
                    shapes[name] = list(part.shape)
                is_weight = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(part, requires_grad=tensor.requires_grad) if is_weight else part
            network = copy.deepcopy(self.network, memo)
        if not inherit:
            draw_anew(network)
        attributes = [
            (b.module, b.name, b.index, b.value(sizes))
            for b in self.graph.bindings
            if b.value(sizes) != b.value(self.graph.leaves)
            and not f"{b.module}.".startswith(tuple(f"{d}." for d in dropped))
        ]
        found = ConvertedNetwork(
            source=self.source,
            arguments=self.arguments,
            head=self.replaced_head,
            attributes=attributes,
            dropped=dropped,
            shapes=shapes,
            choices=self.space.picked(config),
            input_shape=self.shape_of(config),
            has_resolutions=self.has_resolutions,
            num_classes=self.num_classes,
            output=self.output,
            vocabularies=self.vocabularies,
            network=network,
        )
        return self.prepare(found, config)

    # Importance.

    def sort_channels(self) -> bool:
        if self.importance == "taylor":
            assert self._example is not None
            like, example = next(self.network.parameters()), self._example
            with self._differentiable() as network:
                outputs = output_of(network(mapped(lambda part: part.to(like.device), example)), self.output)
                values = saliencies(network, self.graph, [outputs.float().square().mean()])
        else:
            values = squares(self.network, self.graph)
        return put_in_order(self.network, self.graph, orders(values, self.graph))

    def rank_channels(self, batches: Iterable[tuple[Any, Tensor]]) -> bool:
        criterion, like = self.task.criterion(), next(self.network.parameters())
        criterion.to(like.device)

        def losses(network: nn.Module) -> Iterator[Tensor]:
            for x, y in batches:
                for part, targets in zip(split(x, RANKED), torch.split(y, RANKED), strict=True):
                    outputs = output_of(network(cast(part, like)), self.output)
                    loss = criterion(outputs.float(), targets.to(like.device))
                    if not loss.isfinite():
                        raise ValueError(f"Channels must be ranked by finite losses; got {loss.item()}.")
                    yield loss

        with self._differentiable() as network:
            values = saliencies(network, self.graph, losses(network))
        if not any(value.any() for value in values.values()):
            raise ValueError("Channels must be ranked by losses that depend on the weights; got none that do.")
        return put_in_order(self.network, self.graph, orders(values, self.graph))

    @contextlib.contextmanager
    def _differentiable(self) -> Iterator[nn.Module]:
        """Inside, a copy of the network in evaluation mode whose weights all ask for gradients."""
        network = copy.deepcopy(self.network).eval()
        with torch.enable_grad():
            for parameter in network.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            yield network


def _part(tensor: Tensor, graph: Graph, name: str, sizes: Sequence[int]) -> Tensor:
    part = cut(tensor, graph.weights[name], sizes, graph.centred)
    return tensor if part is tensor else laid_out(part, tensor)


def draw_anew(network: nn.Module) -> None:
    """Give a network new random weights.

    Layers draw as they do when they are made. Weights that belong to no such layer are drawn from a normal distribution
    of their mean and deviation; those whose entries are all equal stay.
    """
    done = set[int]()
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset) and any(True for _ in module.parameters(recurse=False)):
            reset()
            done.update(id(p) for p in module.parameters(recurse=False))
    with torch.no_grad():
        for parameter in network.parameters():
            if id(parameter) not in done and parameter.numel() > 1 and parameter.is_floating_point():
                deviation, mean = torch.std_mean(parameter.float())
                if float(deviation) > 0:
                    parameter.normal_(float(mean), float(deviation))


def mapped_shape(example: Inputs) -> Any:
    """Shape of one input of a batch."""
    if isinstance(example, Mapping):
        return {name: tuple(part.shape[1:]) for name, part in example.items()}
    return tuple(example.shape[1:])


def resized_example(example: Inputs, side: int) -> Inputs:
    """A batch of square images of another size.

    Raises:
        ValueError: If these are no square images.
    """
    if isinstance(example, Mapping) or example.dim() != 4 or example.shape[2] != example.shape[3]:
        shapes = [list(part.shape) for part in tensors(example)]
        raise ValueError(
            f"resolutions are sides of square images, [B, C, H, W]; the example has the shape {shapes}. Leave them out."
        )
    return torch.zeros(*example.shape[:2], side, side, dtype=example.dtype)


def _check_alike(graph: Graph, graphs: Mapping[int, Graph]) -> None:
    for side, other in graphs.items():
        if other.weights != graph.weights or other.groups != graph.groups or other.stages != graph.stages:
            raise ValueError(
                f"The network must have the same groups at all resolutions; at {side} pixels it has others. Leave out "
                "resolutions, or this one."
            )


def _vocabularies(graph: Graph, example: Inputs) -> dict[str, int]:
    """Inputs that are whole numbers, by name, with the number of rows of the table they are looked up in."""
    if not isinstance(example, Mapping):
        return {}
    found: dict[str, int] = {}
    for name, number in zip(example, graph.trace.inputs, strict=True):
        rows = [
            graph.trace.tensors[op.inputs[0]].shape[0]
            for op in graph.trace.ops
            if op.name == "embedding" and op.inputs[1:2] == [number]
        ]
        if rows:
            found[name] = min(rows)
    return found


def convert(
    model: nn.Module | None = None,
    example_input: Inputs | None = None,
    *,
    source: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    weights_by_order: bool = False,
    num_classes: int | None = None,
    input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    width: Sequence[float] = WIDTH,
    multiple: int = 8,
    depth: bool = True,
    kernel: bool = False,
    heads: bool = True,
    resolutions: Sequence[int] | None = None,
    freeze: Sequence[str] = (),
    importance: Importance = "l2",
    output: str | int | None = None,
    task: Task | str | None = None,
) -> ConvertedSupernet:
    """Make a trained network the search space of its own smaller variants.

    What can vary is found by running the network once without numbers: channels that must change together, heads of
    attention, residual blocks that can be left out. What cannot is listed with the reason: ``print(supernet)``. The
    largest architecture is the network itself. Those of the others are its first channels, sorted by importance.

    Args:
        model: The network. It is copied, and stays as it is. By default ``source`` builds it.
        example_input: A batch of two inputs or more, a tensor or several by name. By default random images of
            ``input_shape``.
        source: What builds the network again: ``"timm:resnet18"``, ``"torchvision:resnet18"``, or the path of a class
            or function of yours, ``"mypackage.build"``. Exports and the command line need it.
        arguments: Arguments of the source.
        weights: A file of weights for the network, see :func:`oneshot.conversion.load_weights`. Of a last layer with
            another number of outputs than ``num_classes`` they are left out.
        weights_by_order: Whether the file has other names for the same tensors in the same order.
        num_classes: Number of outputs. If the network has another, its last layer is replaced by a new one.
        input_shape: Shape of one input without the batch, or of several by name, where there is no example; by default
            that of the model, or 224 x 224 pixels.
        width: Parts of the channels that can be kept.
        multiple: Widths are multiples of this number, for others are slow; groups that are no larger are fixed.
        depth: Whether residual blocks can be left out, the last of a stage first, at most half of them.
        kernel: Whether depthwise kernels can be cut to their middle, 3 at least.
        heads: Whether heads of attention can be left out.
        resolutions: Sides of square images to choose from; by default that of the example.
        freeze: Paths of layers, or patterns such as ``"blocks.0.*"``, that stay as they are.
        importance: What makes a channel important: ``"l2"``, the norm of its weights, or ``"taylor"``, the sum of
            weights times gradients (arXiv:1906.10771) of the mean square of the outputs on ``example_input``.
        output: Which output is meant, where the network returns several: a name, or a place.
        task: What outputs are for; by default classification, of ``[B, C, H, W]`` segmentation, of one regression.

    Returns:
        A supernet like all others: NAT, BigNAS, costs, measure, pick and export take it.

    Raises:
        ValueError: If the network cannot be converted; the module, the operator and what would help are named.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))
        >>> supernet = convert(net, torch.zeros(2, 3, 16, 16))
        >>> supernet.space["width_0"].candidates
        (8, 16, 24, 32)
        >>> small = supernet.extract(supernet.space.smallest).network
        >>> type(small).__name__, small[0].out_channels
        ('Sequential', 8)
    """
    if model is None and source is None:
        raise ValueError(
            "convert must be given a network, or source= that builds one, such as 'timm:resnet18'; got neither."
        )
    limits = Limits(tuple(width), multiple, depth, kernel, heads, tuple(freeze))
    check_limits(limits)
    network = build(str(source), arguments) if model is None else check_convertible(model)
    network = network if model is None else copy.deepcopy(network)
    if source is not None and model is not None:
        check_same_weights(network, build(source, arguments), source)
    check_freeze(network, limits.freeze)
    example = check_example(example_input, network, input_shape)
    head: tuple[str, int] | None = None
    if num_classes is not None:
        head = _new_head(network, example, num_classes, output)
    loaded: LoadedWeights | None = None
    if weights is not None:
        loaded = load_weights(network, weights, num_classes=num_classes, weights_by_order=weights_by_order)
    return ConvertedSupernet(
        network,
        example,
        limits,
        source=source,
        arguments=arguments,
        head=head,
        loaded=loaded,
        resolutions=sorted({int(side) for side in resolutions or ()}),
        importance=importance,
        output=output,
        task=task,
    )


def check_same_weights(network: nn.Module, other: nn.Module, source: str) -> None:
    """Check that a source builds a network with the weights of the model.

    Raises:
        ValueError: With the numbers of names and shapes that differ.
    """
    ours, theirs = ({n: tuple(t.shape) for n, t in net.state_dict().items()} for net in (network, other))
    missing, more = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    shapes = [name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]]
    if missing or more or shapes:
        first = sorted([*missing, *more, *shapes])[0]
        raise ValueError(
            f"source must build the network that is converted; of {len(ours)} tensors of the model {len(missing)} are "
            f"missing in what {source!r} builds, {len(more)} are there besides, {len(shapes)} have other shapes, the "
            f"first is {first!r}. Pass the arguments= that the model was built with."
        )


def _new_head(
    network: nn.Module, example: Inputs, num_classes: int, output: str | int | None
) -> tuple[str, int] | None:
    """Replace the last layer if it has another number of outputs; which one, and how many it has now."""
    limits = Limits((1.0,), 8, False, False, False, ())
    try:
        graph = analyse(network, example, limits)
    except TraceError as error:
        raise explain(error) from error.cause
    if graph.head is None:
        raise ValueError(
            "num_classes replaces the last layer, which must be linear or a convolution, and the only one whose "
            f"outputs are the network's; {type(network).__name__} ends otherwise. Replace it yourself, then convert."
        )
    weight: Any = network.get_submodule(graph.head).weight
    if weight.shape[0] == num_classes:
        return None
    replace_head(network, graph.head, num_classes)
    return graph.head, num_classes
