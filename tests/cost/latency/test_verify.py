from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneshot.cost import Agreement, LatencyTable, measure, verify

from ..toys import SPACE, ToyDevice, ToySupernet, latency


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return measure(ToySupernet(), ToyDevice(), networks=60)


def test_the_networks_measured_are_predicted(table: LatencyTable) -> None:
    result = verify(table, ToySupernet(), ToyDevice(), networks=25)
    exact = [latency(config) for config in SPACE.decode(np.array(result.genes))]
    assert result.measured == pytest.approx(exact) and result.predicted == pytest.approx(exact, rel=1e-3)
    assert result.repeats == [pytest.approx([ms, ms]) for ms in exact]
    assert result.agreement.within_5 == result.repeat.within_5 == 1 and result.agreement.kendall > 0.97
    assert abs(result.drift) < 1e-9 and result.noise < 1e-9


def test_a_table_that_is_wrong_is_found_out(table: LatencyTable) -> None:
    wrong = LatencyTable(
        **vars(table) | {"table": {name: np.flip(rows).tolist() for name, rows in table.table.items()}}
    )
    result = verify(wrong, ToySupernet(), ToyDevice(), networks=25)
    assert result.agreement.kendall < 0.5 and result.agreement.within_10 < 0.5


def test_a_machine_that_is_slower_today_is_no_error_of_the_table_and_is_told(table: LatencyTable) -> None:
    result = verify(table, ToySupernet(), ToyDevice(speed=lambda n: 1.25), networks=25)
    assert result.drift == pytest.approx(0.25)
    assert result.agreement.within_5 == 1 and result.by_the_clock.within_10 == 0


def test_noise_stands_beside_what_a_perfect_table_could_reach(table: LatencyTable) -> None:
    result = verify(table, ToySupernet(), ToyDevice(noise=0.2), networks=40)
    pairs = np.array(result.repeats)
    assert result.measured == pytest.approx(pairs.mean(1).tolist())
    assert result.repeat == Agreement.of(pairs[:, 1], pairs[:, 0])
    assert 0.05 < result.noise < 0.25 and 0.5 < result.repeat.kendall < 0.97


def test_every_network_is_measured_twice_and_not_in_a_row(table: LatencyTable, tmp_path: Path) -> None:
    verify(table, ToySupernet(), ToyDevice(), networks=25, journal=tmp_path / "j")
    visits = [json.loads(line)["genes"] for line in (tmp_path / "j").read_text().splitlines()[1:]]
    assert len(visits) == 50
    assert visits[:10] == visits[10:20] and visits[40:45] == visits[45:]
    assert visits[:10] == SPACE.sample_matrix(25, 1)[:10].tolist()


def test_an_interrupted_verification_goes_on(table: LatencyTable, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the same command goes on"):
        verify(table, ToySupernet(), ToyDevice(fails=400), networks=25, journal=tmp_path / "j")
    result = verify(table, ToySupernet(), ToyDevice(), networks=25, journal=tmp_path / "j")
    whole = verify(table, ToySupernet(), ToyDevice(), networks=25)
    assert result.measured == pytest.approx(whole.measured)


def test_the_journal_of_the_table_is_not_taken_for_that_of_a_verification(table: LatencyTable, tmp_path: Path) -> None:
    measure(ToySupernet(), ToyDevice(), networks=25, journal=tmp_path / "j")
    with pytest.raises(ValueError, match="measured was 'table', is 'networks'"):
        verify(table, ToySupernet(), ToyDevice(), networks=25, journal=tmp_path / "j")


def test_a_result_is_json(table: LatencyTable) -> None:
    result = verify(table, ToySupernet(), ToyDevice(), networks=5)
    data = json.loads(json.dumps(result.to_dict()))
    assert data["agreement"]["within_10"] == 1 and len(data["genes"]) == 5 and data["device"]["name"] == "toy"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"networks": 1}, "must have two networks or more; got 1", id="one"),
        pytest.param({"device": ToyDevice(name="other")}, "name was toy, is other. Use the same", id="device"),
        pytest.param(
            {"supernet": ToySupernet(image_size=16)},
            r"input_shape is \[4, 8, 8\] there, \[4, 16, 16\] here",
            id="resolution",
        ),
    ],
)
def test_what_the_table_is_not_of_is_refused(options: dict[str, Any], message: str, table: LatencyTable) -> None:
    with pytest.raises(ValueError, match=message):
        verify(**{"table": table, "supernet": ToySupernet(), "device": ToyDevice()} | options)
