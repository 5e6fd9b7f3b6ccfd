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
    """Set the number of classes, the channels and the size of images, where they are the defaults of the class.

    Args:
        network: ``class_path`` and ``init_args`` of a network or supernet; changed in place.
        data: The data that the network will read.
    """
    module, _, name = network.class_path.rpartition(".")
    defaults = inspect.signature(getattr(import_module(module), name)).parameters
    shape = getattr(data, "input_shape", (None, None, None))
    known = {"num_classes": getattr(data, "num_classes", None), "in_channels": shape[0], "image_size": shape[1]}
    for key, value in known.items():
        if value is not None and key in network.init_args and network.init_args[key] == defaults[key].default:
            network.init_args[key] = value
