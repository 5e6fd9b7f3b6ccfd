"""Morphisms that shrink a network and nearly keep its function, and distillation to restore it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from oneshot.evaluation.recalibration import recalibrate
from oneshot.functional import alpha_divergence, is_temperature
from oneshot.supernets.base import Subnet, restored_modes
from oneshot.supernets.space import RNG
from oneshot.tasks.task import task_of

from .editor import (
    GraphEditor,
    chain_of,
    channel_classes,
    conv_of,
    weakest,
    without_input,
)
from .network import GraphNetwork

MERGES = ("add", "gated_add", "concat")

_BATCH = 256  # images at a time where more are not needed at once


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
        raise ValueError(f"remove_layer must be given a convolution; {conv} is none.")
    (source,), shapes = conv.inputs, network.shapes
    if shapes[source] != shapes[node]:
        raise ValueError(f"Without {conv}, {shapes[source]} would be read where {shapes[node]} is expected.")
    editor = GraphEditor(network)
    editor.rewire(chain_of(network, node)[-1].name, source)
    return _recalibrated(editor.build(), images)


def remove_skip(network: GraphNetwork, node: str, *, drop: int = 1, images: Tensor | None = None) -> GraphNetwork:
    """Remove one input of a sum or a concatenation, and the nodes that no other reads then.

    Args:
        network: The parent.
        node: An ``add``, ``gated_add`` or ``concat``.
        drop: Position of the input.
        images: See :func:`remove_layer`.

    Raises:
        ValueError: If the node joins nothing, has no such input, or a sum behind it needs the channels.
    """
    merge, editor = network.graph[node], GraphEditor(network)
    if merge.op not in MERGES:
        raise ValueError(f"remove_skip takes an input from {', '.join(MERGES)}; {merge} is none of them.")
    if not 0 <= drop < len(merge.inputs):
        raise ValueError(f"drop must be the position of an input of {merge}, below {len(merge.inputs)}; got {drop}.")
    if merge.op == "concat":
        index = without_input(network, merge, drop)
        editor.reindex(index)
    rest = merge.inputs[:drop] + merge.inputs[drop + 1 :]
    if len(rest) == 1:
        editor.rewire(node, rest[0])
    else:
        editor.nodes[node] = replace(merge, inputs=rest)
    return _recalibrated(editor.build(), images)


def prune(network: GraphNetwork, node: str, *, count: int, images: Tensor | None = None) -> GraphNetwork:
    """Remove the filters of a convolution that have the smallest L1 norms (arXiv:1608.08710).

    Channels that are added to others go together with them; then the norms of all their filters are summed. Where some
    are tied to other convolutions than the rest, of both kinds go as many as is in proportion.

    Args:
        network: The parent.
        node: A convolution.
        count: Number of filters to remove.
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
            f"prune must remove at least 1 of {old} filters of {node!r}, and leave at least 1 here and in all that is "
            f"tied to it; got count={count}."
        )
    index = {
        name: torch.tensor([i for i, c in enumerate(of) if c not in gone])
        for name, of in classes.items()
        if not gone.isdisjoint(of)
    }
    editor = GraphEditor(network)
    editor.reindex(index)
    return _recalibrated(editor.build(), images)


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
    conv, editor = conv_of(network, node), GraphEditor(network)
    if conv.window == (1, 1):
        raise ValueError(f"separate must be given a kernel of more than one pixel; {conv} has one.")
    below = editor.add("depthwise", conv.inputs, kernel=conv.kernel, width=conv.width, stride=conv.stride)
    editor.nodes[node] = replace(conv, inputs=(below,), kernel=1, width=1, stride=1)
    if network.ops:
        weight = editor.tensors[node]["weight"]
        u, s, vh = torch.linalg.svd(weight.transpose(0, 1).flatten(2), full_matrices=False)
        root = s[:, :1].sqrt()
        editor.tensors[below]["weight"] = (root * vh[:, 0]).unflatten(1, conv.window)[:, None]
        editor.tensors[node]["weight"] = (root * u[:, :, 0]).T[:, :, None, None]
    return _recalibrated(editor.build(), images)


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
    """Train a child to predict the logits of its parent.

    The loss is ``T^2 KL(softmax(parent / T) || softmax(child / T))`` of the logits (arXiv:1503.02531, section 2,
    without labels), where outputs are no logits the divergence of the task; the optimiser is Adam. Then the statistics
    of batch normalisation are estimated anew, for after a few steps the running ones lag behind.

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
        raise ValueError(
            f"distil must have at least two images and one epoch; got {len(images)} images, epochs={epochs}."
        )
    if not is_temperature(temperature):
        raise ValueError(f"temperature must be above 0; got {temperature}. A softmax over it must be finite.")
    rng, like = np.random.default_rng(rng), next(child.parameters())
    optimiser = torch.optim.Adam(child.parameters(), lr=lr)
    size, losses = min(batch_size, len(images)), list[Tensor]()
    with restored_modes(child, parent):
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
                loss = _divergence(child, targets[chosen], logits, temperature)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch
                optimiser.step()
                losses.append(loss.detach())
    recalibrate(child, _batches(images))
    return float(torch.stack(losses).mean())


def _divergence(child: nn.Module, teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    task = child.task if isinstance(child, Subnet) else task_of("classification")
    pair = task.as_logits(teacher), task.as_logits(student)
    if pair[0] is None or pair[1] is None:
        return task.divergence(student, teacher)
    return temperature**2 * alpha_divergence(pair[0] / temperature, pair[1] / temperature, clip=math.inf)


def _recalibrated(network: GraphNetwork, images: Tensor | None) -> GraphNetwork:
    if images is not None and network.ops:
        recalibrate(network, _batches(images))
    return network


def _batches(images: Tensor) -> tuple[Tensor, ...]:
    """Batches of about one size: the last one is not a single image, which has no variance."""
    return images.chunk(math.ceil(len(images) / _BATCH)) if len(images) else ()
