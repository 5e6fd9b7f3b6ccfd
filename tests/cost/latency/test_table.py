from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oneshot.cost import LatencyTable
from oneshot.cost.latency.table import describe_choices
from oneshot.supernets import Choice, SearchSpace

SPACE = SearchSpace("toy", (Choice("layers", ("conv", "skip"), rows=2), Choice("edge", ("a", "b"), droppable=True)))
ENTRIES = {"layers": [[3.0, 1.0], [5.0, 0.5]], "edge": [[0.25, 2.0]]}


def make(**changes: Any) -> LatencyTable:
    values: dict[str, Any] = {
        "space": "toy",
        "choices": describe_choices(SPACE),
        "input_shape": (3, 32, 32),
        "batch": 1,
        "dtype": "float32",
        "table": ENTRIES,
        "fixed": 2.0,
        "spread": {"layers": [[0.1, 0.1], [0.1, 0.1]], "edge": [[0.1, 0.1]]},
        "noise": 0.01,
        "residual": 0.02,
        "networks": 30,
        "reference": {"config": SPACE.sample(0).to_dict(), "ms": 6.0, "params": 10, "macs": 100},
        "device": {"runtime": "eager"},
        "date": "2026-01-01T00:00:00+00:00",
    }
    return LatencyTable(**values | changes)


def test_a_table_is_what_it_was_after_a_file(tmp_path: Path) -> None:
    path = make().save(tmp_path / "new" / "table.json")
    assert LatencyTable.load(path) == make()
    assert json.loads(path.read_text())["schema_version"] == 1


def test_the_cost_is_the_sum_of_the_entries_and_the_fixed_part() -> None:
    cost = make().cost(SPACE, input_shape=(3, 32, 32))
    for config in SPACE.decode(SPACE.sample_matrix(20, 0)):
        by_hand = 2.0
        for choice in SPACE.choices:
            for row, pick in enumerate(config[choice.name]):
                by_hand += 0 if pick == "none" else ENTRIES[choice.name][row][choice.candidates.index(pick)]
        assert cost.cost(config) == pytest.approx(by_hand)
    assert cost.unit == "ms"


def test_the_reference_is_a_config_again() -> None:
    assert make().reference_config == SPACE.sample(0)


@pytest.mark.parametrize(
    ("space", "shape", "message"),
    [
        pytest.param(SearchSpace("other", SPACE.choices), None, "must be of space 'other'; it is of 'toy'", id="space"),
        pytest.param(SearchSpace("toy", SPACE.choices[:1]), None, "different choices: .*'edge'", id="fewer-choices"),
        pytest.param(
            SearchSpace("toy", (Choice("layers", ("skip", "conv"), rows=2), SPACE.choices[1])),
            None,
            "different choices: .*'conv', 'skip'.* in the table, .*'skip', 'conv'.* in the space",
            id="order-of-candidates",
        ),
        pytest.param(SPACE, (3, 64, 64), r"shape \[3, 32, 32\]; the supernet's are \[3, 64, 64\]", id="resolution"),
    ],
)
def test_a_table_of_something_else_is_refused(space: SearchSpace, shape: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().cost(space, input_shape=shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"unit": "us"}, "in ms; this table is in 'us'", id="unit"),
        pytest.param(
            {"table": {"layers": [[3.0, None], [5.0, 0.5]]}},
            r"missing: skip in row 0 of 'layers', a in row 0 of 'edge', b in row 0 of 'edge'\. Measure again",
            id="missing-candidates",
        ),
        pytest.param({"table": ENTRIES | {"layers": [[3.0, 1.0]]}}, "missing: conv in row 1 of 'layers'", id="row"),
        pytest.param(
            {"table": ENTRIES | {"edge": [[-1.0, 2.0]]}}, r"wrong: a in row 0 of 'edge' \(-1.0 ms\)", id="neg"
        ),
        pytest.param({"table": ENTRIES | {"edge": [[1.0, float("nan")]]}}, r"wrong: b in .*\(nan ms\)", id="nan"),
        pytest.param({"fixed": float("inf")}, "fixed latency must be finite; got inf ms", id="fixed"),
        pytest.param({"reference": {}}, "must name the latency of its reference in ms; got None", id="reference"),
    ],
)
def test_values_that_cannot_be_are_refused_in_memory_and_in_a_file(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)
    path = make().save(tmp_path / "table.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=rf"table.json: .*{message}"):
        LatencyTable.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"schema_version": 1, "space"', "may be truncated; measure again", id="truncated"),
        pytest.param("[1, 2]", "no schema_version", id="not-an-object"),
        pytest.param('{"space": "toy"}', "no schema_version", id="foreign"),
        pytest.param('{"schema_version": 2}', "schema version 2; this release reads version 1", id="schema"),
        pytest.param('{"schema_version": 1, "layer": 3}', r"missing \['batch'.*unknown \['layer'\]", id="fields"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        LatencyTable.load(tmp_path / "table.json")


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no latency table .*'oneshot measure --out .*' makes one"):
        LatencyTable.load(tmp_path / "table.json")


def test_a_field_of_another_type_is_refused_with_the_path(tmp_path: Path) -> None:
    path = make().save(tmp_path / "table.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"choices": 3}))
    with pytest.raises(ValueError, match=r"table.json: 'int' object is not iterable"):
        LatencyTable.load(path)
