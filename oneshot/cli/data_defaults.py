"""Arguments that a network takes from the data, where its configuration leaves them at the defaults."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser


def build_data(config: Any) -> pl.LightningDataModule:
    """Build the data module that a part of a configuration describes by ``class_path`` and ``init_args``."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
    data: pl.LightningDataModule = parser.instantiate_classes(parser.parse_object({"data": config})).data
    return data


def fit_to_data(network: Namespace, data: pl.LightningDataModule) -> None:
    """Set the number of classes and the shape of an input, where they are the defaults of the class.

    Args:
        network: ``class_path`` and ``init_args`` of a network or supernet; changed in place.
        data: The data that the network will read.
    """
    module, _, name = network.class_path.rpartition(".")
    defaults = inspect.signature(getattr(import_module(module), name)).parameters
    known = {"num_classes": getattr(data, "num_classes", None), **_sizes(getattr(data, "input_shape", None))}
    for key, value in known.items():
        if value is not None and key in network.init_args and network.init_args[key] == defaults[key].default:
            network.init_args[key] = value


def _sizes(shape: Any) -> dict[str, Any]:
    """Arguments of networks by the shape of one input; none of several inputs and of shapes that are not known."""
    if not isinstance(shape, tuple | list) or not shape or not all(isinstance(side, int) for side in shape):
        return {}
    if len(shape) == 1:
        return {"features": shape[0], "length": shape[0]}  # columns of a table, or words of a text
    channels, *sides = shape
    side = sides[0] if len(set(sides)) == 1 else tuple(sides)
    name = {1: "length", 2: "image_size", 3: "volume_size"}.get(len(sides))
    return {"in_channels": channels} | ({name: side} if name else {})
