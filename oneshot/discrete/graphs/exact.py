"""Morphisms that keep the function of the parent: deepen, widen, branch, enlarge, skip."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneshot.supernets.space import RNG

from .editor import (
    GraphEditor,
    chain_of,
    channel_classes,
    conv_of,
    options_of,
    random_weights,
)
from .graph import ACTIVATIONS, IMAGE
from .network import GraphNetwork

_HOMOGENEOUS = ("relu", "leaky_relu")  # f(s x) = s f(x) for s > 0


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
    rng, editor = np.random.default_rng(rng), GraphEditor(network)
    old = conv_of(network, node, free=True).channels
    if channels <= old:
        raise ValueError(
            f"widen must add filters; node {node!r} has {old}, got channels={channels}. See prune for fewer."
        )
    if how not in ("fresh", "copy"):
        raise ValueError(f"how must be 'fresh' or 'copy'; got {how!r}.")
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
    editor.reindex(index, scale, fresh if how == "fresh" else None, rng)
    return editor.build()


def skip_add(network: GraphNetwork, source: str, target: str) -> GraphNetwork:
    """Replace the output y of ``target`` by ``(1 - gate) y + gate h``, where h is that of ``source`` and the gate is 0.

    A plain sum ``y + h`` is no morphism.

    Raises:
        ValueError: If the two differ in shape, or ``source`` needs ``target``.
    """
    _check_skip(network, source, target)
    one, other = network.shapes[source], network.shapes.get(target, "the classifier")
    if one != other:
        raise ValueError(f"The inputs of a sum must have one shape; {source!r} is {one}, {target!r} is {other}.")
    editor = GraphEditor(network)
    gated = editor.add("gated_add", (target, source), {"gate": torch.zeros(())})
    editor.rewire(target, gated, but=(gated,))
    return editor.build()


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
        raise ValueError(
            f"Inputs whose channels are joined must have one size; {source!r} is {shapes[source]}, {old!r} is "
            f"{shapes[old]}."
        )
    editor = GraphEditor(network)
    new = shapes[source][0] * (math.prod(shapes[source][1:]) if reader.op == "classifier" else 1)
    if network.ops:
        weight = editor.tensors[consumer]["weight"]
        zeros = weight.new_zeros(len(weight), new, *weight.shape[2:])
        editor.tensors[consumer]["weight"] = torch.cat([weight, zeros], 1)
    joined = editor.add("concat", (old, source))
    editor.nodes[consumer] = replace(reader, inputs=(joined,))
    return editor.build()


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
    editor, conv = GraphEditor(network), network.graph[node]
    if how not in ("add", "concat"):
        raise ValueError(f"how must be 'add' or 'concat'; got {how!r}.")
    if conv.op not in ("conv", "depthwise"):
        raise ValueError(f"branch must be given a convolution; {conv} is none.")
    if how == "concat":
        conv_of(network, node)
        if conv.channels < 2:
            raise ValueError(f"branch divides the filters of {conv} among two; it has {conv.channels}.")
        half, ends, last, tensors = conv.channels // 2, [], node, editor.tensors[node]
        for start, stop in ((0, half), (half, conv.channels)):
            some = {key: tensor[start:stop] for key, tensor in tensors.items()}
            ends.append(editor.add("conv", conv.inputs, some, **options_of(conv, channels=stop - start)))
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
                tensors = {key: tensor.clone() for key, tensor in editor.tensors[part.name].items()}
                for key in {"weight", "bias"} & tensors.keys() if part is scaled else ():
                    tensors[key] *= factor
                below = (editor.add(part.op, below, tensors, **options_of(part)),)
                second = below[0] if part is conv else second
            ends.append(below[0])
    editor.rewire(last, editor.add(how, ends))
    if kernel is not None:
        editor.pad_kernel(second, kernel)
    return editor.build()


def enlarge_kernel(network: GraphNetwork, node: str, *, kernel: int) -> GraphNetwork:
    """Pad the kernel of a convolution with zeros.

    Raises:
        ValueError: If the node is no convolution, or the kernel not larger than before and odd.
    """
    editor = GraphEditor(network)
    if kernel == network.graph[node].kernel:
        raise ValueError(f"The kernel of {network.graph[node]} is {kernel} already; it must become larger.")
    editor.pad_kernel(node, kernel)
    return editor.build()


def _check_skip(network: GraphNetwork, source: str, target: str) -> None:
    if source != IMAGE and network.graph[source].op == "classifier":
        raise ValueError(f"Nothing can read the classifier; got source={source!r}.")
    if source in network.graph.descendants(target):
        raise ValueError(f"A skip must lead forward; {source!r} needs {target!r}, or is the same.")


@torch.no_grad()
def _deepen(network: GraphNetwork, after: str, kernel: int, separable: bool, images: Tensor, rng: RNG) -> GraphNetwork:
    if after == IMAGE or network.graph[after].op == "classifier":
        raise ValueError(f"A block must follow a node that is no classifier; got {after!r}.")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel of deepen must be odd; got {kernel}.")
    if len(images) < 2:
        raise ValueError(f"Moments must be those of at least two images; got {len(images)}.")
    editor, channels, rng = GraphEditor(network), network.shapes[after][0], np.random.default_rng(rng)
    old, gated = set(editor.nodes), after not in network.graph.nonnegative()
    below, blocks = after, []
    for op, side in (("depthwise", kernel), ("conv", 1)) if separable else (("conv", kernel),):
        options, groups = ({"channels": channels}, 1) if op == "conv" else (dict[str, int](), channels)
        below = editor.add(op, (below,), None, kernel=side, **options)
        blocks.append((below, groups, side))
    norm = editor.add("batch_norm", (below,))
    below = editor.add("relu", (norm,))
    if gated:
        below = editor.add("gated_add", (after, below), {"gate": torch.zeros(())})
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
            editor.tensors[name]["weight"] = weight
        var, mean = torch.var_mean(values, (0, 2, 3), correction=0)  # biased, as batch normalisation divides
        module = nn.BatchNorm2d(channels, device=like.device, dtype=like.dtype)
        editor.tensors[norm] = module.state_dict() | {"running_mean": mean, "running_var": var}
        if not gated:
            editor.tensors[norm] |= {"weight": (var + module.eps).sqrt(), "bias": mean}
    editor.rewire(after, below, but=[name for name in editor.nodes if name not in old])
    return editor.build()
