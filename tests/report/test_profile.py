"""The picture of what a space costs."""

from __future__ import annotations

import pytest

import oneshot
from oneshot.report.profile import draw_profile
from oneshot.supernets import NASBench201Supernet


def test_every_cost_has_a_histogram_with_its_marks_and_its_bound() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    profile = oneshot.profile(supernet, bounds={"macs": 60e3, "params": 1e9})
    figure = draw_profile(profile)
    assert len(figure.axes) == len(profile.costs) == 3
    for axes, cost in zip(figure.axes, profile.costs, strict=True):
        shares = [bar.get_height() for bar in axes.patches]
        assert shares == pytest.approx([100 * n / profile.samples for n in cost.counts])
        assert sum(shares) == pytest.approx(100)
        assert axes.get_xlabel().startswith(cost.name)
    params, macs, memory = ([text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes)
    assert macs[-1] == "bound 60 k" and params[-1] == "bound 1 G, off right" and len(memory) == 4
    low, high = figure.axes[0].get_xlim()
    assert 0 < low < high < 30  # thousands; the bound does not make the histogram a line
    lines = {line.get_label(): line.get_xdata()[0] for line in figure.axes[1].lines}
    assert lines["bound 60 k"] == 60 and lines[macs[0]] == profile["macs"].smallest / 1e3


def test_a_cost_that_is_always_the_same_is_drawn() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    profile = oneshot.profile(supernet, counts=[], costs={"same": lambda config: 3.0}, samples=5)
    (axes,) = draw_profile(profile).axes
    assert max(bar.get_height() for bar in axes.patches) == 100
