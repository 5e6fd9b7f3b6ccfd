"""Network morphisms: children that start as what their parent has learned.

Exact operators keep the function (Net2Net, arXiv:1511.05641; network morphism, arXiv:1603.01670; NASH,
arXiv:1711.04528; path-level transformations, arXiv:1806.02639); approximate ones make a network smaller (LEMONADE,
arXiv:1804.09081). Every operator returns a new network that shares no memory with its parent, which stays as it is.

The state of an optimiser belongs to the parameters of the parent. A child has new ones, of other shapes: build its
optimiser anew, as all searches with morphisms do that restart their learning rate with every child.

What "keeps the function" means for an exact operator, besides rounding:

- in eval mode, for all images;
- in training mode, for the batch of images that was given to the operator, as one batch. The identity block of
  :func:`deepen` normalises with the moments of that batch; on another batch the moments differ by sampling noise, and
  so do the outputs. The other operators are exact on every batch;
- in eval mode after that training pass, except that running variances are unbiased estimates: the identity block is
  off by the factor ``1 + momentum / (2 n)``, with n values of a channel in the batch. No choice of its parameters
  avoids that, for both modes need the biased variance before the pass. So take enough images: with 512 of 8 x 8 pixels,
  twenty random operators are off by less than 1e-5; with 256, one block behind maps of 4 x 4 pixels is by 1.2e-5.

But for this factor, twenty random operators are exact to 1e-13 in float64 and to 1e-6 in float32 (tests).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneshot.supernets.json_files import checked
from oneshot.supernets.space import RNG

from ..evaluation import recalibrate
from ..functional import alpha_divergence, is_temperature
from .draft import (
    Draft,
    chain_of,
    channel_classes,
    conv_of,
    free_convs,
    options_of,
    random_weights,
    weakest,
    without_input,
)
from .graph import ACTIVATIONS, IMAGE, POOLS, GraphNetwork, Node

NASH_OPERATORS = ("deepen", "widen", "skip_add", "skip_concat")
EXACT_OPERATORS = (*NASH_OPERATORS, "deepen_separable", "branch", "enlarge_kernel")
APPROXIMATE_OPERATORS = ("remove_layer", "remove_skip", "prune", "separate")
LEMONADE_OPERATORS = (*NASH_OPERATORS, *APPROXIMATE_OPERATORS)

_HOMOGENEOUS = ("relu", "leaky_relu")  # f(s x) = s f(x) for s > 0
_MERGES = ("add", "gated_add", "concat")
_BATCH = 256  # images at a time where more are not needed at once


# Exact operators.


def deepen(network: GraphNetwork, after: str, *, kernel: int = 3, images: Tensor, rng: RNG = None) -> GraphNetwork:
    """Insert Conv-BN-ReLU that computes the identity.

    The convolution is a Dirac kernel. With mean m and variance v of what it reads, batch normalisation has running
    statistics (m, v), scale ``sqrt(v + eps)`` and shift m, so that it undoes itself in training mode, too. The usual
    form (scale 1, shift 0, statistics (0, 1)) is the identity in eval mode only and jumps at the first training step.

    A ReLU after values that are never negative does nothing. Where values can be negative there is no such identity:
    then a block with random weights, whose statistics are those of the images, is joined by
    ``(1 - gate) y + gate block(y)``; the gate starts at 0.

    Args:
        network: The parent.
        after: The node behind which the block is put; all that read it read the block.
        kernel: Side of the convolution, odd.
        images: Training images, ``[B, C, H, W]``, for the moments; all of them are one batch.
        rng: Draws the weights of a gated block.

    Raises:
        ValueError: If there is no such node, it is the classifier, or there are fewer than two images.
    """
    return _deepen(network, after, kernel, False, images, rng)


def deepen_separable(
    network: GraphNetwork, after: str, *, kernel: int = 3, images: Tensor, rng: RNG = None
) -> GraphNetwork:
    """Insert DepthwiseConv-Conv1x1-BN-ReLU that computes the identity; see :func:`deepen`."""
    return _deepen(network, after, kernel, True, images, rng)


def widen(
    network: GraphNetwork, node: str, *, channels: int, how: Literal["fresh", "copy"] = "fresh", rng: RNG = None
) -> GraphNetwork:
    """Give a convolution more filters.

    ``fresh`` adds filters with random weights that all readers multiply by 0 (as LEMONADE, arXiv:1804.09081).
    They learn nothing before the readers have learned to use them, in the first step.

    ``copy`` repeats filters drawn at random with their rows of batch normalisation, and divides the weights of all
    that read them among the copies (Net2Wider, arXiv:1511.05641, section 2.2). Equal copies get equal gradients and
    never part; noise on the weights, which is the usual cure, changes the function. So the shares are drawn well apart,
    about as 1 : 2 : 3, and the gradient of each copy has its own size. Still they part slowly: after 120 steps twins
    differ by 6 % under SGD and by 1 % under Adam (median; digits, 16 to 32 filters).

    ``fresh`` is the default. Three epochs after networks on digits were widened from 8 and 16 filters to 16 and 32, the
    test error was 9.4 % with it and 14.1 % with copies; 14.2 % without widening (6 seeds, standard errors below 1 %).

    New channels pass through normalisation, activations, pooling, depthwise convolutions and concatenations. What is
    added to this convolution is widened with it.

    Args:
        network: The parent.
        node: A convolution.
        channels: Filters of the child.
        how: See above.
        rng: Draws which filters are copied, and shares or weights.

    Raises:
        ValueError: If the node is no convolution, has as many filters, or its channels are tied to those of the image
            or of a grouped convolution.
    """
    rng, draft = np.random.default_rng(rng), Draft(network)
    old = conv_of(network, node, free=True).channels
    if channels <= old:
        raise ValueError(f"widen adds filters; node {node!r} has {old}, got channels={channels}. See prune for fewer.")
    if how not in ("fresh", "copy"):
        raise ValueError(f"how is 'fresh' or 'copy'; got {how!r}.")
    classes, _ = channel_classes(network)
    copies = dict.fromkeys(classes[node], 1)
    for chosen in rng.choice(list(copies), channels - old):
        copies[int(chosen)] += 1
    shares = {}
    for chosen, count in copies.items():
        copied = how == "copy"
        share = rng.permutation(count) + rng.uniform(0.8, 1.2, count) if copied else np.eye(1, count)[0]
        shares[chosen] = share / share.sum()
    index, scale, fresh = {}, {}, {}
    for name, of in classes.items():
        repeats = [copies.get(c, 1) for c in of]
        if sum(repeats) > len(repeats):
            index[name] = torch.arange(len(of)).repeat_interleave(torch.tensor(repeats))
            scale[name] = torch.cat([torch.from_numpy(shares.get(c, np.ones(1))) for c in of])
            fresh[name] = torch.cat([torch.arange(count) > 0 for count in repeats])
    draft.reindex(index, scale, fresh if how == "fresh" else None, rng)
    return draft.build()


def skip_add(network: GraphNetwork, source: str, target: str) -> GraphNetwork:
    """Replace the output y of ``target`` by ``(1 - gate) y + gate h``, where h is that of ``source`` and the gate is 0.

    A plain sum ``y + h`` is no morphism.

    Raises:
        ValueError: If the two differ in shape, or ``source`` needs ``target``.
    """
    _check_skip(network, source, target)
    one, other = network.shapes[source], network.shapes.get(target, "the classifier")
    if one != other:
        raise ValueError(f"A sum needs one shape; {source!r} is {one}, {target!r} is {other}.")
    draft = Draft(network)
    gated = draft.add("gated_add", (target, source), {"gate": torch.zeros(())})
    draft.rewire(target, gated, but=(gated,))
    return draft.build()


def skip_concat(network: GraphNetwork, source: str, consumer: str) -> GraphNetwork:
    """Let ``consumer`` read ``source`` beside what it reads, with weights that are 0 at first.

    Args:
        network: The parent.
        source: A node, or the image.
        consumer: A convolution without groups, or the classifier.

    Raises:
        ValueError: If the two differ in height and width, ``source`` needs ``consumer``, or that has no such weights.
    """
    reader, shapes = network.graph[consumer], network.shapes
    if reader.op != "classifier":
        conv_of(network, consumer)
    (old,) = reader.inputs
    _check_skip(network, source, consumer)
    if shapes[source][1:] != shapes[old][1:]:
        raise ValueError(f"Channels are joined at one size; {source!r} is {shapes[source]}, {old!r} is {shapes[old]}.")
    draft = Draft(network)
    new = shapes[source][0] * (math.prod(shapes[source][1:]) if reader.op == "classifier" else 1)
    if network.ops:
        weight = draft.tensors[consumer]["weight"]
        zeros = weight.new_zeros(len(weight), new, *weight.shape[2:])
        draft.tensors[consumer]["weight"] = torch.cat([weight, zeros], 1)
    joined = draft.add("concat", (old, source))
    draft.nodes[consumer] = replace(reader, inputs=(joined,))
    return draft.build()


def branch(
    network: GraphNetwork,
    node: str,
    *,
    how: Literal["add", "concat"] = "add",
    kernel: int | None = None,
    rng: RNG = None,
) -> GraphNetwork:
    """Split a convolution into two parallel ones.

    ``add`` doubles it together with the batch normalisation and the ReLU behind it, and scales the branches by shares
    that sum to 1: ``s f(x) + (1 - s) f(x)``. Random shares, for equal branches would stay equal. ``concat`` gives each
    branch half of the filters (arXiv:1806.02639, section 3.1).

    Args:
        network: The parent.
        node: A convolution; for ``concat`` without groups and with at least two filters.
        how: See above.
        kernel: Side of the second branch's kernel, if it is to be larger; padded with zeros.
        rng: Draws the shares.

    Raises:
        ValueError: If the node is no such convolution, or the kernel is smaller or even.
    """
    draft, conv = Draft(network), network.graph[node]
    if how not in ("add", "concat"):
        raise ValueError(f"how is 'add' or 'concat'; got {how!r}.")
    if conv.op not in ("conv", "depthwise"):
        raise ValueError(f"branch splits a convolution; {conv} is none.")
    if how == "concat":
        conv_of(network, node)
        if conv.channels < 2:
            raise ValueError(f"branch divides the filters of {conv} among two; it has {conv.channels}.")
        half, ends, last, tensors = conv.channels // 2, [], node, draft.tensors[node]
        for start, stop in ((0, half), (half, conv.channels)):
            some = {key: tensor[start:stop] for key, tensor in tensors.items()}
            ends.append(draft.add("conv", conv.inputs, some, **options_of(conv, channels=stop - start)))
        second = ends[1]
    else:
        chain, ends, second = chain_of(network, node), [], node
        if chain[-1].op in ACTIVATIONS and chain[-1].op not in _HOMOGENEOUS:
            chain.pop()
        last = chain[-1].name
        scaled = next((part for part in chain if part.op == "batch_norm"), conv)
        share = float(np.random.default_rng(rng).uniform(0.3, 0.7))
        for factor in (share, 1 - share):
            below = conv.inputs
            for part in chain:
                tensors = {key: tensor.clone() for key, tensor in draft.tensors[part.name].items()}
                for key in {"weight", "bias"} & tensors.keys() if part is scaled else ():
                    tensors[key] *= factor
                below = (draft.add(part.op, below, tensors, **options_of(part)),)
                second = below[0] if part is conv else second
            ends.append(below[0])
    draft.rewire(last, draft.add(how, ends))
    if kernel is not None:
        draft.pad_kernel(second, kernel)
    return draft.build()


def enlarge_kernel(network: GraphNetwork, node: str, *, kernel: int) -> GraphNetwork:
    """Pad the kernel of a convolution with zeros.

    Raises:
        ValueError: If the node is no convolution, or the kernel not larger than before and odd.
    """
    draft = Draft(network)
    if kernel == network.graph[node].kernel:
        raise ValueError(f"The kernel of {network.graph[node]} is {kernel} already; a larger one is needed.")
    draft.pad_kernel(node, kernel)
    return draft.build()


# Approximate operators. They take images to estimate the statistics of batch normalisation anew, which brings back much
# of what was lost and costs no gradient.


def remove_layer(network: GraphNetwork, node: str, *, images: Tensor | None = None) -> GraphNetwork:
    """Remove a convolution with the batch normalisation and the activation behind it.

    Args:
        network: The parent.
        node: A convolution whose block has the shape of what it reads.
        images: Training images ``[B, C, H, W]``; if given, running statistics are estimated anew.

    Raises:
        ValueError: If the node is no convolution, or what reads it would read another shape.
    """
    conv = network.graph[node]
    if conv.op not in ("conv", "depthwise"):
        raise ValueError(f"remove_layer removes a convolution; {conv} is none.")
    (source,), shapes = conv.inputs, network.shapes
    if shapes[source] != shapes[node]:
        raise ValueError(f"Without {conv}, {shapes[source]} would be read where {shapes[node]} is expected.")
    draft = Draft(network)
    draft.rewire(chain_of(network, node)[-1].name, source)
    return _recalibrated(draft.build(), images)


def remove_skip(network: GraphNetwork, node: str, *, drop: int = 1, images: Tensor | None = None) -> GraphNetwork:
    """Remove one input of a sum or a concatenation, and what is then read by nobody.

    Args:
        network: The parent.
        node: An ``add``, ``gated_add`` or ``concat``.
        drop: Position of the input.
        images: See :func:`remove_layer`.

    Raises:
        ValueError: If the node joins nothing, has no such input, or a sum behind it needs the channels.
    """
    merge, draft = network.graph[node], Draft(network)
    if merge.op not in _MERGES:
        raise ValueError(f"remove_skip takes an input from {', '.join(_MERGES)}; {merge} is none of them.")
    if not 0 <= drop < len(merge.inputs):
        raise ValueError(f"drop is the position of an input of {merge}, below {len(merge.inputs)}; got {drop}.")
    if merge.op == "concat":
        index = without_input(network, merge, drop)
        draft.reindex(index)
    rest = merge.inputs[:drop] + merge.inputs[drop + 1 :]
    if len(rest) == 1:
        draft.rewire(node, rest[0])
    else:
        draft.nodes[node] = replace(merge, inputs=rest)
    return _recalibrated(draft.build(), images)


def prune(network: GraphNetwork, node: str, *, count: int, images: Tensor | None = None) -> GraphNetwork:
    """Remove the filters of a convolution that have the smallest L1 norms (arXiv:1608.08710).

    Channels that are added to others go together with them; then the norms of all their filters are summed. Where some
    are tied to other convolutions than the rest, of both kinds go as many as is in proportion.

    Args:
        network: The parent.
        node: A convolution.
        count: How many filters go.
        images: See :func:`remove_layer`.

    Raises:
        ValueError: If no filter would be left, or the channels are tied to those of the image or of a grouped
            convolution.
    """
    old = conv_of(network, node, free=True).channels
    classes, _ = channel_classes(network)
    gone = weakest(network, classes, node, count)
    if not 1 <= count == len(gone):
        raise ValueError(
            f"prune removes at least 1 of {old} filters of {node!r}, and leaves at least 1 here and in all that is "
            f"tied to it; got count={count}."
        )
    index = {
        name: torch.tensor([i for i, c in enumerate(of) if c not in gone])
        for name, of in classes.items()
        if not gone.isdisjoint(of)
    }
    draft = Draft(network)
    draft.reindex(index)
    return _recalibrated(draft.build(), images)


def separate(network: GraphNetwork, node: str, *, images: Tensor | None = None) -> GraphNetwork:
    """Replace a convolution by a depthwise and a pointwise one that are nearest to it.

    For every input channel c, ``W[:, c]`` as a matrix filters x pixels is nearest to ``s u v^T`` of its largest
    singular value: the depthwise kernel is ``sqrt(s) v``, the pointwise column ``sqrt(s) u``.

    Args:
        network: The parent.
        node: A convolution without groups, of more than one pixel.
        images: See :func:`remove_layer`.

    Raises:
        ValueError: If the node is no such convolution.
    """
    conv, draft = conv_of(network, node), Draft(network)
    if conv.window == (1, 1):
        raise ValueError(f"separate divides kernels of more than one pixel; {conv} has one.")
    below = draft.add("depthwise", conv.inputs, kernel=conv.kernel, width=conv.width, stride=conv.stride)
    draft.nodes[node] = replace(conv, inputs=(below,), kernel=1, width=1, stride=1)
    if network.ops:
        weight = draft.tensors[node]["weight"]
        u, s, vh = torch.linalg.svd(weight.transpose(0, 1).flatten(2), full_matrices=False)
        root = s[:, :1].sqrt()
        draft.tensors[below]["weight"] = (root * vh[:, 0]).unflatten(1, conv.window)[:, None]
        draft.tensors[node]["weight"] = (root * u[:, :, 0]).T[:, :, None, None]
    return _recalibrated(draft.build(), images)


def distil(
    child: nn.Module,
    parent: nn.Module,
    images: Tensor,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    lr: float = 1e-3,
    temperature: float = 2.0,
    rng: RNG = None,
) -> float:
    """Train a child to predict what its parent does.

    The loss is ``T^2 KL(softmax(parent / T) || softmax(child / T))`` of the logits (arXiv:1503.02531, section 2,
    without labels), the optimiser Adam. Then the statistics of batch normalisation are estimated anew, for after a few
    steps the running ones lag behind.

    Args:
        child: Is trained in place; its mode is restored.
        parent: Is run in eval mode, and not changed.
        images: ``[N, C, H, W]``; labels are not needed.
        epochs: Passes over the images.
        batch_size: Images in a step; what is left over is left out, unless it is all.
        lr: Learning rate of Adam.
        temperature: T. The higher, the nearer to the squared difference of the centred logits.
        rng: Shuffles the images.

    Returns:
        Mean loss of the last epoch, nats.

    Raises:
        ValueError: If there are fewer than two images, no epochs, or the temperature is not above 0.
    """
    if len(images) < 2 or epochs < 1:
        raise ValueError(f"distil needs two images and an epoch or more; got {len(images)} images, epochs={epochs}.")
    if not is_temperature(temperature):
        raise ValueError(f"temperature must be above 0; got {temperature}. A softmax over it must be finite.")
    rng, like = np.random.default_rng(rng), next(child.parameters())
    modes = {module: module.training for net in (child, parent) for module in net.modules()}
    optimiser = torch.optim.Adam(child.parameters(), lr=lr)
    size, losses = min(batch_size, len(images)), list[Tensor]()
    try:
        parent.eval()
        with torch.no_grad():
            targets = torch.cat([parent(part.to(like)) for part in _batches(images)])
        child.train()
        for _ in range(epochs):
            losses = []
            order = torch.from_numpy(rng.permutation(len(images)))
            for start in range(0, len(images) - size + 1, size):
                chosen = order[start : start + size]
                logits = child(images[chosen].to(like))
                loss = alpha_divergence(targets[chosen] / temperature, logits / temperature, clip=math.inf)
                loss = temperature**2 * loss
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch
                optimiser.step()
                losses.append(loss.detach())
    finally:
        for module, mode in modes.items():
            module.training = mode
    recalibrate(child, _batches(images))
    return float(torch.stack(losses).mean())


# Random operators, and how to repeat them.


@dataclass(frozen=True)
class MorphismRecord:
    """What was done to a network, so that it can be done again.

    Args:
        operator: Name of an operator.
        arguments: Its keyword arguments, JSON-able; without images and random numbers.
        seed: Of its random numbers.
    """

    operator: str
    arguments: Mapping[str, Any] = field(hash=False)
    seed: int

    def __post_init__(self) -> None:
        if self.operator not in _OPERATORS:
            raise ValueError(f"There is no operator {self.operator!r}; operators are {', '.join(_OPERATORS)}.")
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))

    def __reduce__(self) -> tuple[Any, ...]:
        return MorphismRecord, (self.operator, dict(self.arguments), self.seed)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {"operator": self.operator, "arguments": dict(self.arguments), "seed": self.seed}

    @classmethod
    def from_dict(cls, data: object) -> MorphismRecord:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: If ``data`` is no record.
        """
        what = "A record is an object with operator, arguments and seed: this one"
        known = checked(data, dict[str, Any], what)
        checked(known, cls, what)
        return cls(**known)


def morph(network: GraphNetwork, record: MorphismRecord, images: Tensor) -> GraphNetwork:
    """Do what a record says.

    Args:
        network: The parent.
        record: Operator, arguments and seed.
        images: Training images, ``[B, C, H, W]``, for the operators that need them.
    """
    operator = _OPERATORS[record.operator]
    options: dict[str, Any] = {"images": images} if operator.images else {}
    if operator.random:
        options["rng"] = record.seed
    return operator.run(network, **record.arguments, **options)


def replay(network: GraphNetwork, records: Iterable[MorphismRecord], images: Tensor) -> GraphNetwork:
    """Do what all records say, one after the other: the same child, bit by bit, on the same machine and images."""
    for record in records:
        network = morph(network, record, images)
    return network


def random_morphism(
    network: GraphNetwork,
    rng: RNG = None,
    *,
    images: Tensor,
    operators: Sequence[str] = NASH_OPERATORS,
    max_params: int | None = None,
) -> tuple[GraphNetwork, MorphismRecord]:
    """Draw an operator uniformly among those that can be applied, then a place for it uniformly, and apply it.

    Args:
        network: The parent; a sketch, if only the graph of the child is asked for.
        rng: A seed or a generator.
        images: Training images, ``[B, C, H, W]``; see :func:`deepen` and :func:`remove_layer`.
        operators: Names of operators, such as ``NASH_OPERATORS`` or ``LEMONADE_OPERATORS``.
        max_params: Children with more parameters are drawn again, so that a search that grows stays in memory.

    Returns:
        The child and what was done.

    Raises:
        ValueError: If an operator is unknown, or none can be applied.
    """
    rng = np.random.default_rng(rng)
    if unknown := [name for name in operators if name not in _OPERATORS]:
        raise ValueError(f"There are no operators {unknown}; operators are {', '.join(_OPERATORS)}.")
    names, left = list(operators), dict[str, list[dict[str, Any]]]()
    while names:
        name = str(rng.choice(names))
        operator = _OPERATORS[name]
        places = left[name] if name in left else left.setdefault(name, operator.places(network))
        arguments = places.pop(int(rng.integers(len(places)))) if places else None
        if not places:
            names.remove(name)
        if arguments is None or not operator.fits(network, arguments):
            continue
        record = MorphismRecord(name, arguments, int(rng.integers(2**31)))
        child = morph(network, record, images)
        if max_params is None or child.num_params <= max_params:
            return child, record
    raise ValueError(
        f"None of {tuple(operators)} can be applied"
        + (f" without more than {max_params} parameters. Raise max_params." if max_params else ". Allow others.")
    )


def _outputs(network: GraphNetwork) -> list[str]:
    """Ends of blocks, where skips and new blocks are put: activations, pooling and merges of more than one pixel."""
    return [
        node.name
        for node in network.graph.nodes
        if node.op in (*ACTIVATIONS, *POOLS, *_MERGES) and math.prod(network.shapes[node.name][1:]) > 1
    ]


def _deepen_places(network: GraphNetwork) -> list[dict[str, Any]]:
    return [{"after": name, "kernel": kernel} for name in _outputs(network) for kernel in (3, 5)]


def _widen_places(network: GraphNetwork) -> list[dict[str, Any]]:
    return [{"node": n.name, "channels": 2 * n.channels} for n in free_convs(network)]


def _skip_add_places(network: GraphNetwork) -> list[dict[str, Any]]:
    shapes, places = network.shapes, []
    for target in _outputs(network):
        behind = network.graph.descendants(target)
        sources = [s for s in _outputs(network) if s not in behind and shapes[s] == shapes[target]]
        places += [{"source": source, "target": target} for source in sources]
    return places


def _skip_concat_places(network: GraphNetwork) -> list[dict[str, Any]]:
    shapes, places = network.shapes, []
    for node in network.graph.nodes:
        if node.op == "conv" and node.groups == 1:
            behind, (old,) = network.graph.descendants(node.name), node.inputs
            read = {old, *(network.graph[old].inputs if old != IMAGE and network.graph[old].op == "concat" else ())}
            sources = [s for s in _outputs(network) if s not in behind | read and shapes[s][1:] == shapes[old][1:]]
            places += [{"source": source, "consumer": node.name} for source in sources]
    return places


def _convs(network: GraphNetwork) -> list[Node]:
    return [node for node in network.graph.nodes if node.op in ("conv", "depthwise")]


def _branch_places(network: GraphNetwork) -> list[dict[str, Any]]:
    places: list[dict[str, Any]] = [{"node": node.name, "how": "add"} for node in _convs(network)]
    halves = [n for n in network.graph.nodes if n.op == "conv" and n.groups == 1 and n.channels > 1]
    return places + [{"node": node.name, "how": "concat"} for node in halves]


def _kernel_places(network: GraphNetwork) -> list[dict[str, Any]]:
    side = {node.name: min(network.shapes[node.inputs[0]][1:]) for node in _convs(network)}
    larger = {node.name: node.kernel + 2 for node in _convs(network)}
    return [{"node": name, "kernel": kernel} for name, kernel in larger.items() if kernel <= min(7, 2 * side[name])]


def _layer_places(network: GraphNetwork) -> list[dict[str, Any]]:
    return [{"node": n.name} for n in _convs(network) if network.shapes[n.inputs[0]] == network.shapes[n.name]]


def _remove_skip_places(network: GraphNetwork) -> list[dict[str, Any]]:
    places = []
    for node in network.graph.nodes:
        if node.op in _MERGES:
            for drop in range(len(node.inputs)):
                if node.op != "concat" or without_input(network, node, drop, strict=False):
                    places.append({"node": node.name, "drop": drop})
    return places


def _prune_places(network: GraphNetwork) -> list[dict[str, Any]]:
    places = []
    for node in free_convs(network):
        for count in sorted({node.channels // 2, node.channels // 4} - {0}):
            places.append({"node": node.name, "count": count})
    return places


def _can_prune(network: GraphNetwork, arguments: Mapping[str, Any]) -> bool:
    classes, _ = channel_classes(network)
    count: int = arguments["count"]
    return len(weakest(network, classes, arguments["node"], count)) == count


def _separate_places(network: GraphNetwork) -> list[dict[str, Any]]:
    return [{"node": n.name} for n in network.graph.nodes if n.op == "conv" and n.groups == 1 and n.window > (1, 1)]


@dataclass(frozen=True)
class _Operator:
    run: Callable[..., GraphNetwork]
    places: Callable[[GraphNetwork], list[dict[str, Any]]]  # arguments with which it can be applied, if it fits
    images: bool = False
    random: bool = False
    fits: Callable[[GraphNetwork, Mapping[str, Any]], bool] = lambda network, arguments: True  # too slow for all places


_OPERATORS = {
    "deepen": _Operator(deepen, _deepen_places, images=True, random=True),
    "deepen_separable": _Operator(deepen_separable, _deepen_places, images=True, random=True),
    "widen": _Operator(widen, _widen_places, random=True),
    "skip_add": _Operator(skip_add, _skip_add_places),
    "skip_concat": _Operator(skip_concat, _skip_concat_places),
    "branch": _Operator(branch, _branch_places, random=True),
    "enlarge_kernel": _Operator(enlarge_kernel, _kernel_places),
    "remove_layer": _Operator(remove_layer, _layer_places, images=True),
    "remove_skip": _Operator(remove_skip, _remove_skip_places, images=True),
    "prune": _Operator(prune, _prune_places, images=True, fits=_can_prune),
    "separate": _Operator(separate, _separate_places, images=True),
}


def _check_skip(network: GraphNetwork, source: str, target: str) -> None:
    if source != IMAGE and network.graph[source].op == "classifier":
        raise ValueError(f"Nothing can read the classifier; got source={source!r}.")
    if source in network.graph.descendants(target):
        raise ValueError(f"A skip leads forward; {source!r} needs {target!r}, or is the same.")


@torch.no_grad()
def _deepen(network: GraphNetwork, after: str, kernel: int, separable: bool, images: Tensor, rng: RNG) -> GraphNetwork:
    if after == IMAGE or network.graph[after].op == "classifier":
        raise ValueError(f"A block is put behind a node that is no classifier; got {after!r}.")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel of deepen must be odd; got {kernel}.")
    if len(images) < 2:
        raise ValueError(f"Moments need at least two images; got {len(images)}.")
    draft, channels, rng = Draft(network), network.shapes[after][0], np.random.default_rng(rng)
    old, gated = set(draft.nodes), after not in network.graph.nonnegative()
    below, blocks = after, []
    for op, side in (("depthwise", kernel), ("conv", 1)) if separable else (("conv", kernel),):
        options, groups = ({"channels": channels}, 1) if op == "conv" else (dict[str, int](), channels)
        below = draft.add(op, (below,), None, kernel=side, **options)
        blocks.append((below, groups, side))
    norm = draft.add("batch_norm", (below,))
    below = draft.add("relu", (norm,))
    if gated:
        below = draft.add("gated_add", (after, below), {"gate": torch.zeros(())})
    if network.ops:
        like = next(network.parameters())
        # In training mode, because there the statistics of all normalisation before are those of the batch; the copy
        # takes the change of the running ones.
        values = copy.deepcopy(network).train().output_of(images.to(like), after)
        for name, groups, side in blocks:
            weight = nn.init.dirac_(like.new_empty(channels, channels // groups, side, side), groups)
            if gated:
                weight = random_weights(weight, rng)
                values = F.conv2d(values, weight, padding=side // 2, groups=groups)
            draft.tensors[name]["weight"] = weight
        var, mean = torch.var_mean(values, (0, 2, 3), correction=0)  # biased, as batch normalisation divides
        module = nn.BatchNorm2d(channels, device=like.device, dtype=like.dtype)
        draft.tensors[norm] = module.state_dict() | {"running_mean": mean, "running_var": var}
        if not gated:
            draft.tensors[norm] |= {"weight": (var + module.eps).sqrt(), "bias": mean}
    draft.rewire(after, below, but=[name for name in draft.nodes if name not in old])
    return draft.build()


def _recalibrated(network: GraphNetwork, images: Tensor | None) -> GraphNetwork:
    if images is not None and network.ops:
        recalibrate(network, _batches(images))
    return network


def _batches(images: Tensor) -> tuple[Tensor, ...]:
    """Batches of about one size: the last one is not a single image, which has no variance."""
    return images.chunk(math.ceil(len(images) / _BATCH)) if len(images) else ()
