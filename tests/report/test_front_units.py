"""Fronts of tasks whose error is no share: tables, pictures and pages show the metric as it is."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from oneshot.fronts.pick import front_rows
from oneshot.report.fronts import draw_front, front_page
from oneshot.supernets.nasbench201 import NASBench201Space
from oneshot.tasks import Classification, Regression

VALUES = np.array([[0.25, 3e6], [0.5, 1e6]])


@pytest.mark.parametrize(
    ("unit", "shown", "label", "drawn"),
    [
        (Classification().error_unit, {"error": "25.00 %"}, "validation error [%]", 25.0),
        (Regression(metric="mae").error_unit, {"error [mae]": "0.25"}, "validation error [mae]", 0.25),
        (Regression().error_unit, {"error [1 - r2]": "0.25"}, "validation error [1 - r2]", 0.25),
    ],
)
def test_an_error_is_a_share_only_where_the_metric_is(
    unit: str, shown: dict[str, str], label: str, drawn: float
) -> None:
    names, units = ("error", "macs"), (unit, "")

    row = front_rows(names, units, VALUES)[0]
    assert row.items() >= shown.items()
    assert list(row) == [*shown, "macs"]
    axes = draw_front(names, units, VALUES, [0, 1]).axes[0]
    assert axes.get_ylabel() == label
    heights = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections if len(c.get_offsets())])[:, 1]
    assert drawn in heights.round(6)

    configs = [NASBench201Space().sample(i) for i in range(2)]
    page = front_page(names, units, VALUES, [0, 1], configs, title="front")
    data = re.search(r'<script type="application/json">(\{.*?\})</script>', page)
    assert data is not None and json.loads(data[1])["units"] == [unit, ""]
    assert "m === 0 && !D.units[0] ? (100 * v)" in page
