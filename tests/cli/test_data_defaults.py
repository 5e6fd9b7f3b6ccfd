"""Networks take shapes and classes from the data, where their arguments are left at the defaults."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from jsonargparse import Namespace

from oneshot.cli.data_defaults import default_task, fit_to_data
from oneshot.supernets import FBNetSupernet, MLPSupernet, SeriesSupernet, TextSupernet, VolumeSupernet

KINDS = [
    pytest.param(FBNetSupernet, (1, 16, 48), {"in_channels": 1, "image_size": (16, 48)}, id="rectangle"),
    pytest.param(FBNetSupernet, (1, 28, 28), {"in_channels": 1, "image_size": 28}, id="square"),
    pytest.param(SeriesSupernet, (6, 100), {"in_channels": 6, "length": 100}, id="series"),
    pytest.param(VolumeSupernet, (2, 9, 8, 7), {"in_channels": 2, "volume_size": (9, 8, 7)}, id="volume"),
    pytest.param(VolumeSupernet, (2, 9, 9, 9), {"in_channels": 2, "volume_size": 9}, id="cube"),
    pytest.param(MLPSupernet, (10,), {"features": 10}, id="table"),
    pytest.param(TextSupernet, (30,), {"length": 30}, id="text"),
    pytest.param(MLPSupernet, {"a": (10,), "b": (3,)}, {}, id="several inputs"),
]


class Data(pl.LightningDataModule):
    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.input_shape, self.num_classes = shape, 7


def defaults(network: type) -> dict[str, Any]:
    return dict(network.__init__.__kwdefaults__)  # type: ignore[misc]  # of the class


@pytest.mark.parametrize(("network", "shape", "expected"), KINDS)
def test_a_network_takes_the_shape_of_the_data(network: type, shape: Any, expected: dict[str, Any]) -> None:
    namespace = Namespace(class_path=f"oneshot.supernets.{network.__name__}", init_args=Namespace(defaults(network)))
    fit_to_data(namespace, Data(shape))
    assert vars(namespace.init_args) == defaults(network) | {"num_classes": 7} | expected


def test_what_was_given_stays() -> None:
    given = {**defaults(SeriesSupernet), "length": 64}
    namespace = Namespace(class_path="oneshot.supernets.SeriesSupernet", init_args=Namespace(given))
    fit_to_data(namespace, Data((6, 100)))
    assert (namespace.init_args.length, namespace.init_args.in_channels) == (64, 6)


def test_the_task_of_a_class_is_known_before_it_is_built() -> None:
    assert default_task("oneshot.supernets.FBNetSupernet").name == "classification"
    assert default_task("oneshot.supernets.SegmentationSupernet").name == "segmentation"
