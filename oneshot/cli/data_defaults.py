"""Arguments that a network takes from the data, where its configuration leaves them at the defaults."""

from __future__ import annotations

import inspect
import traceback
from importlib import import_module
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser

from oneshot._lightning import quiet_jsonargparse
from oneshot.tasks import Task, task_of


def build_data(config: Any) -> pl.LightningDataModule:
    """Build the data module that a part of a configuration describes by ``class_path`` and ``init_args``.

    Raises:
        ValueError: What the data module raises, without what the parser says around it.
    """
    with quiet_jsonargparse():
        parser = LightningArgumentParser()
        parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
        parsed = parser.parse_object({"data": config})
        try:
            data: pl.LightningDataModule = parser.instantiate_classes(parsed).data
        except ValueError as error:
            reason: BaseException = error
            while reason.__cause__ is not None and _is_of_the_parser(reason):
                reason = reason.__cause__
            raise reason from reason.__cause__
    return data


def _is_of_the_parser(error: BaseException) -> bool:
    """Whether an error was raised by jsonargparse itself, and not by what it has built."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("jsonargparse")


def default_task(class_path: str) -> Task:
    """The task that networks of a class have where none is given."""
    module, _, name = class_path.rpartition(".")
    return task_of(getattr(getattr(import_module(module), name), "default_task", "classification"))


def fit_to_data(network: Namespace, data: pl.LightningDataModule) -> None:
    """Set the number of outputs and the shape of inputs, where they are the defaults of the class.

    A class takes the shape by one argument, ``input_shape``, or by those of :func:`sizes`.

    Args:
        network: ``class_path`` and ``init_args`` of a network or supernet; changed in place.
        data: The data that the network will read.

    Raises:
        ValueError: If images are not square, and the class takes one side only.
    """
    module, _, name = network.class_path.rpartition(".")
    defaults = inspect.signature(getattr(import_module(module), name)).parameters
    for key, value in sizes(data).items():
        if value is None or key not in network.init_args or network.init_args[key] != defaults[key].default:
            continue
        if isinstance(value, tuple) and str(defaults[key].annotation) in ("int", "<class 'int'>"):
            raise ValueError(
                f"{key} of {name} is one number, so that it takes square images only; the data have {list(value)}. "
                "Give the data a square image_size, or the network another class."
            )
        network.init_args[key] = value


def sizes(data: Any) -> dict[str, Any]:
    """What data say of themselves, by the names of arguments of networks; None where it is not known.

    ``num_classes`` outputs, ``input_shape``, and by the number of axes: ``features`` of rows ``[F]``, or ``length`` and
    ``vocabulary`` of texts ``[T]``; ``in_channels`` with ``length`` of series ``[C, T]``, ``image_size`` of images
    ``[C, H, W]``, ``volume_size`` of volumes ``[C, D, H, W]``. Sides that are equal are one number.
    """
    shape, words = getattr(data, "input_shape", None), getattr(data, "vocabulary", None)
    found: dict[str, Any] = {"num_classes": getattr(data, "num_classes", None), "input_shape": shape}
    if not isinstance(shape, tuple | list) or not shape or not all(isinstance(side, int) for side in shape):
        return found  # not known, or of several inputs
    if len(shape) == 1:
        return {
            **found,
            "features": shape[0],
            "length": shape[0],
            "vocabulary": words if isinstance(words, int) else None,
        }
    channels, *sides = shape
    name = {1: "length", 2: "image_size", 3: "volume_size"}.get(len(sides))
    side = sides[0] if len(set(sides)) == 1 else tuple(sides)
    return {**found, "in_channels": channels, **({name: side} if name else {})}
