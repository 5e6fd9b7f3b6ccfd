"""The space of Zoph and Le (ICLR 2017, arXiv:1611.01578), and how their controller writes its networks down."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from oneshot.discrete.graphs.encoding import GraphSpace, GraphWriter
from oneshot.discrete.graphs.graph import IMAGE, NetworkGraph
from oneshot.supernets.decisions import Decisions
from oneshot.supernets.space import Choice, IntMatrix, SubnetConfig


@dataclass(frozen=True)
class ZophLeSpace(GraphSpace):
    """Convolutional networks of Zoph and Le (ICLR 2017, arXiv:1611.01578, section 3): layers with skip connections.

    Every layer has a filter of its own height and width, a number of filters, and a bit for every earlier layer that
    says whether it is read; choices are ``height``, ``width``, ``filters`` and ``skip``, the last of which holds the
    bits of layer 1, then those of layer 2, and so on.

    A layer concatenates what it reads, the image if that is nothing, and applies Conv-BN-ReLU; the classifier reads the
    concatenation of all layers that no other reads (section 3.3), after global pooling (ours). Strides are left out, so
    that all sizes are equal and the paper's padding with zeros is not needed. There is no supernet for it;
    ``space.network(input_shape, num_classes)`` is what a ``TrainingEvaluator`` builds with.

    Args:
        name: Name of the space.
        choices: Made from the other arguments.
        layers: Number of layers.

    Example:
        >>> import torch
        >>> space = ZophLeSpace(layers=3)
        >>> space.num_genes, space.size == 4**9 * 2**3
        (12, True)
        >>> network = space.network((3, 8, 8), 10)(space.sample(0))
        >>> network(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    name: str = "zoph_le"
    choices: tuple[Choice, ...] = field(default=())
    layers: int = 6

    def __post_init__(self) -> None:
        if self.layers < 2:
            raise ValueError(f"Skip connections must have at least two layers; got layers={self.layers}.")
        sizes, filters = (1, 3, 5, 7), (24, 36, 48, 64)
        made = [Choice("height", sizes, self.layers), Choice("width", sizes, self.layers)]
        made += [Choice("filters", filters, self.layers), Choice("skip", (0, 1), self.layers * (self.layers - 1) // 2)]
        object.__setattr__(self, "choices", tuple(made))
        super().__post_init__()

    def graph(self, config: SubnetConfig) -> NetworkGraph:
        self.validate(config)
        writer, bits = GraphWriter(), iter(config["skip"])
        states: list[str] = []
        read: set[int] = set()
        for layer, (height, width, filters) in enumerate(
            zip(config["height"], config["width"], config["filters"], strict=True)
        ):
            sources = [earlier for earlier in range(layer) if next(bits)]
            x = writer.concat([states[source] for source in sources] or [IMAGE])
            states.append(writer.conv(x, int(filters), int(height), width=int(width)))
            read.update(sources)
        return writer.finish(writer.concat([state for layer, state in enumerate(states) if layer not in read]))

    def decisions(self) -> AnchorDecisions:
        return AnchorDecisions(self)

    def skips(self, layer: int) -> range:
        """Genes of the skip connections into a layer, one for each layer before it, in order."""
        first = 3 * self.layers + layer * (layer - 1) // 2
        return range(first, first + layer)


class AnchorDecisions(Decisions):
    """Layer by layer: height, width, filters, then an anchor that decides about all skip connections into the layer.

    Args:
        space: The space.
    """

    def __init__(self, space: ZophLeSpace) -> None:
        super().__init__(space)
        order: list[int] = []
        steps: list[tuple[int, ...]] = []
        anchors = []
        for layer in range(space.layers):
            for gene in (layer, space.layers + layer, 2 * space.layers + layer):
                steps.append((len(order),))
                order.append(gene)
            anchors.append(len(steps))
            steps.append(tuple(range(len(order), len(order) + layer)))
            order += space.skips(layer)
        self.sizes = tuple(space.gene_sizes[gene] for gene in order)
        self.steps, self.anchors, self._order = tuple(steps), tuple(anchors), np.array(order)

    def genes(self, picks: IntMatrix) -> IntMatrix:
        return super().genes(picks[:, self._order.argsort()])
