"""A searched network as the backbone of torchvision's Faster R-CNN with a feature pyramid.

NASNet's cells were carried over to detection this way (arXiv:1707.07012, section 4.3; there without the pyramid).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from oneshot.supernets.base import Subnet, restored_modes

ANCHOR = 8  # side of an anchor by the stride of its level, as in torchvision: 32 pixels at stride 4


class PyramidBackbone(nn.Module):
    """Feature maps of a network, brought to one number of channels from coarse to fine (FPN, arXiv:1612.03144).

    The network is trained in place; what is frozen stays so. Its auxiliary head is removed; what only its logits need
    (the classifier) is frozen, because nothing here has a gradient for it.

    Args:
        network: A network that has :meth:`~oneshot.supernets.base.Subnet.feature_maps`, for square images.
        channels: Channels of the pyramid.
        levels: How many maps to use, from the coarsest on.

    Attributes:
        strides: Pixels of the image by pixels of a map, of every level and of the pooled one behind them.
        out_channels: Channels of the pyramid; torchvision reads it.

    Raises:
        ValueError: If the network has fewer maps than ``levels``, or none.
    """

    def __init__(self, network: Subnet, *, channels: int = 256, levels: int = 3) -> None:
        super().__init__()
        network.strip_auxiliary()
        self.network, self.levels, self.out_channels = network, levels, channels
        weight = next(network.parameters())
        with restored_modes(network), torch.enable_grad():
            maps = network.eval().feature_maps(torch.zeros(1, *network.input_shape).to(weight))
        if not 1 <= levels <= len(maps):
            raise ValueError(
                f"levels must be from 1 to the number of the network's resolutions, here {len(maps)}; "
                f"got levels={levels}."
            )
        maps = maps[-levels:]
        self.strides = [round(network.input_shape[-1] / m.shape[-1]) for m in maps]
        self.strides.append(2 * self.strides[-1])
        trained = [p for p in network.parameters() if p.requires_grad]
        with torch.enable_grad():
            sums = [m.sum() for m in maps if m.requires_grad]
        gradients = torch.autograd.grad(sums, trained, allow_unused=True) if sums else [None] * len(trained)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        self.fpn = FeaturePyramidNetwork([m.shape[1] for m in maps], channels, extra_blocks=LastLevelMaxPool())
        self.fpn.to(weight)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """``[B, C, H, W]`` -> ``{"0": finest, "1": ..., "pool": coarsest}``, ``[B, channels, H_i, W_i]``."""
        maps = self.network.feature_maps(x)[-self.levels :]
        pyramid: OrderedDict[str, Tensor] = self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps)))
        return pyramid


def faster_rcnn(
    network: Subnet, num_classes: int, *, channels: int = 256, levels: int = 3, **options: Any
) -> FasterRCNN:
    """Faster R-CNN (arXiv:1506.01497) on the features of a network.

    Images are scaled to the size the network is for, and not normalised: hand in what the network was trained on.
    Anchors are 8 strides wide, in three shapes.

    Args:
        network: See :class:`PyramidBackbone`.
        num_classes: Classes of objects, and one for the background.
        channels: Channels of the pyramid.
        levels: Resolutions of the pyramid, from the coarsest on.
        **options: Of ``torchvision.models.detection.FasterRCNN``; they come before what is set here.

    Raises:
        ValueError: If there is no class of objects, or the network does not have the levels.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, the background and one object; got {num_classes}.")
    backbone = PyramidBackbone(network, channels=channels, levels=levels)
    in_channels, size = network.input_shape[0], network.input_shape[-1]
    anchors = AnchorGenerator(tuple((ANCHOR * s,) for s in backbone.strides), ((0.5, 1.0, 2.0),) * (levels + 1))
    settings: dict[str, Any] = {
        "min_size": size,
        "max_size": size,
        "image_mean": [0.0] * in_channels,
        "image_std": [1.0] * in_channels,
        "rpn_anchor_generator": anchors,
        "box_roi_pool": MultiScaleRoIAlign([str(i) for i in range(levels)], output_size=7, sampling_ratio=2),
    }
    return FasterRCNN(backbone, num_classes, **{**settings, **options})
