"""What ``oneshot pick`` does with any front; with those of runs and studies see test_main.py and test_discrete.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oneshot.cli.fronts import Front, Wish
from oneshot.cli.pick import choose, pick
from oneshot.supernets import NASBench201Network
from oneshot.supernets.base import Subnet

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
NOTHING = Wish({}, {}, knee=False)


class Kept(Front):
    """Networks of a search without images."""

    names, point, data, seed = ("error", "params"), {}, None, 0

    def __init__(self, *rows: tuple[float, float]) -> None:
        self.values = np.array(rows)

    def show(self, place: int) -> None:
        assert place < len(self.values)

    def build(self, place: int) -> Subnet:
        return NASBench201Network(ARCH, channels=4, cells_per_stage=1, image_size=8)

    def metrics(self, place: int, network: Subnet) -> dict[str, float]:
        return {"error": float(self.values[place, 0])}


def test_of_a_front_of_one_network_that_one_is_taken_unless_it_breaks_a_bound() -> None:
    one, two = Kept((0.1, 5.0)), Kept((0.1, 5.0), (0.2, 3.0))
    assert choose(one, NOTHING) == 0 and choose(two, Wish({"params": 4.0}, {}, knee=False)) == 1
    with pytest.raises(ValueError, match="in one way.*got none"):
        choose(two, NOTHING)
    with pytest.raises(ValueError, match="No network of the front has params <= 4"):
        choose(one, Wish({"params": 4.0}, {}, knee=False))


def test_without_images_nothing_is_trained_further_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneshot.cli.pick.load_front", lambda run, wish, **options: Kept((0.1, 5.0)))
    with pytest.raises(ValueError, match="--finetune must have images, and the search of run has none"):
        pick("run", finetune=1, out=str(tmp_path / "picked"), formats=())
    pick("run", out=str(tmp_path / "picked"), formats=(), measure=False)
    assert (tmp_path / "picked" / "manifest.json").is_file()
