"""Measuring finds the latencies a device has, whatever else happens on it, and goes on where it was interrupted."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oneshot.cost import measure
from oneshot.cost.latency.measure import REPEATED
from oneshot.cost.latency.timings import Timings, Visit, describe, measure_networks, repeat_noise

from ..toys import FIXED, MS, SPACE, ToyDevice, ToySupernet, latency

CONFIGS = SPACE.decode(SPACE.sample_matrix(40, 7))


def slower_for_a_while(n: int) -> float:
    return 1.6 if 500 < n < 1200 else 1.0


def test_the_latencies_of_the_device_are_found() -> None:
    table = measure(ToySupernet(), ToyDevice(), networks=60)
    cost = table.cost(SPACE)
    assert [cost.cost(c) for c in CONFIGS] == pytest.approx([latency(c) for c in CONFIGS], rel=1e-3)
    cheapest = sum(min(row) for row in MS["layers"])
    assert table.fixed == pytest.approx(FIXED + cheapest, rel=0.01)  # in every network
    assert table.table["layers"][2] == pytest.approx([4.0, 8.0, 0.0], abs=0.02)
    assert table.table["layers"][0] == table.table["layers"][1]  # the same candidates
    assert table.table["extra"][0] == pytest.approx([1.5, 4.0], abs=0.02)
    assert table.noise < 1e-9 and table.residual < 1e-3
    assert table.reference["ms"] == pytest.approx(latency(table.reference_config))


def test_a_table_says_what_was_measured_and_on_what() -> None:
    table = measure(ToySupernet(), ToyDevice(name="a chip"), networks=30)
    assert (table.space, table.input_shape, table.batch, table.unit, table.networks) == ("toy", (4, 8, 8), 1, "ms", 30)
    assert table.device["name"] == "a chip" and table.date.startswith("20")
    assert table.reference.keys() == {"config", "ms", "params", "macs", "memory"}


def test_a_machine_that_is_slower_for_a_while_is_divided_out() -> None:
    device = ToyDevice(speed=slower_for_a_while)
    table = measure(ToySupernet(), device, networks=60)
    cost = table.cost(SPACE)
    ratios = [cost.cost(c) / latency(c) for c in CONFIGS]
    assert np.std(ratios) / np.mean(ratios) < 0.02  # one factor, that of the reference, remains


def test_every_pass_is_compared_with_those_around_it() -> None:
    speeds = np.repeat([1.0, 2.0, 1.3, 3.0], 8)  # of the machine; the reference takes 1 ms, the network 3
    passes = 3.0 * speeds[1:]
    assert Visit((0,), tuple(passes), tuple(speeds)).ratio == pytest.approx(3)
    later = passes[8:]  # what medians of both would say, if the network had run while the machine was slower
    assert np.median(later) / np.median(speeds) != pytest.approx(3, rel=0.1)


def test_single_passes_of_the_reference_that_take_long_do_not_matter() -> None:
    """Real passes beside another program; in six other measurements the network took 0.67 of the reference."""
    passes = [1.107, 0.935, 4.97, 0.883, 0.828, 0.7, 0.74, 0.737, 4.756, 0.724, 4.718, 0.684, 0.643]
    passes += [0.707, 0.684, 0.75, 0.676, 4.876, 0.677, 4.743, 0.753, 0.698, 0.673, 0.709, 0.719]
    reference = [1.592, 5.665, 1.481, 1.25, 5.263, 1.105, 5.07, 1.075, 1.124, 1.192, 1.011, 1.044, 1.011]
    reference += [5.119, 1.061, 5.045, 1.103, 0.998, 1.018, 1.047, 1.053, 1.058, 5.249, 1.018, 4.816, 1.032]
    assert Visit((0,), tuple(passes), tuple(reference)).ratio == pytest.approx(0.67, rel=0.05)
    beside = np.median([2 * ms / (a + b) for ms, (a, b) in zip(passes, pairwise(reference), strict=True)])
    assert beside < 0.3, "beside most passes is one that took long, so the mean of both makes the network look fast"


def test_without_the_reference_the_drift_would_be_taken_for_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Visit, "ratio", property(lambda visit: float(np.median(visit.ms)) / 10))
    table = measure(ToySupernet(), ToyDevice(speed=slower_for_a_while), networks=60)
    cost = table.cost(SPACE)
    ratios = [cost.cost(c) / latency(c) for c in CONFIGS]
    assert table.residual > 0.1 and np.std(ratios) / np.mean(ratios) > 0.02


def test_the_noise_of_the_device_is_told() -> None:
    table = measure(ToySupernet(), ToyDevice(noise=0.05), networks=60)
    # a pass over the mean of two others, and the median of 11 of these, which has 1.25 standard errors of the mean
    expected = 0.05 * 1.5**0.5 * 1.25 / 11**0.5
    assert expected / 2 < table.noise < 2 * expected
    assert expected / 2 < table.residual < 2 * expected
    assert 0 < table.spread["layers"][2][1] < 1


def test_the_caller_finds_everything_as_it_was() -> None:
    supernet = ToySupernet().train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    measure(supernet, ToyDevice(), networks=30)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in supernet.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in supernet.modules())


def test_progress_is_told_after_every_network() -> None:
    told: list[tuple[int, int]] = []
    measure(ToySupernet(), ToyDevice(), networks=30, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 30 + REPEATED) for n in range(30 + REPEATED + 1)]


def test_measuring_goes_on_where_the_device_vanished(tmp_path: Path) -> None:
    journal = tmp_path / "new" / "table.journal"
    with pytest.raises(RuntimeError, match=r"after 7 of 42 networks: CUDA error.*table.journal keeps them; the same"):
        measure(ToySupernet(), ToyDevice(fails=200), networks=30, journal=journal)
    done = len(journal.read_text().splitlines()) - 1
    device, told = ToyDevice(), []
    resumed = measure(
        ToySupernet(), device, networks=30, journal=journal, progress=lambda done, total: told.append(done)
    )
    whole = measure(ToySupernet(), ToyDevice(), networks=30)
    assert told[0] == done == 7
    assert (resumed.table, resumed.fixed) == (whole.table, whole.fixed)
    passes = device.passes
    measure(ToySupernet(), device, networks=30, journal=journal)
    assert device.passes == passes  # nothing is left to measure


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    journal = tmp_path / "table.journal"
    measure(ToySupernet(), ToyDevice(), networks=30, journal=journal)
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-20])
    measure(ToySupernet(), ToyDevice(), networks=30, journal=journal)
    assert journal.read_bytes() == whole


def test_without_a_journal_a_device_that_vanished_is_reported() -> None:
    with pytest.raises(RuntimeError, match=r"after 0 of 42 networks: CUDA error.*see to that first\.$"):
        measure(ToySupernet(), ToyDevice(fails=1), networks=30)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"networks": 31}, "networks was 30, is 31", id="networks"),
        pytest.param({"seed": 1}, "seed was 0, is 1", id="seed"),
        pytest.param({"device": ToyDevice(name="another")}, "name was 'toy', is 'another'", id="device"),
        pytest.param(
            {"supernet": ToySupernet(image_size=16)}, r"input_shape was \[4, 8, 8\], is \[4, 16, 16\]", id="resolution"
        ),
    ],
)
def test_a_journal_of_other_settings_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    options = {"supernet": ToySupernet(), "device": ToyDevice(), "networks": 30, "journal": tmp_path / "table.journal"}
    measure(**options)
    with pytest.raises(ValueError, match=f"must go on with the settings it began with.*{message}"):
        measure(**options | change)


@pytest.mark.parametrize(
    "content", [b"no json\n", b'{"space": 1}\n{"genes": 3}\n', b'{"space": 1}\n[]\n'], ids=["text", "visit", "list"]
)
def test_a_file_that_is_no_journal_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=r"a, line [12](: genes)? must (be|have) .* Delete it to begin anew"):
        Timings(tmp_path / "a", {})


def test_an_empty_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(ValueError, match="must go on with the settings it began with"):
        Timings(tmp_path / "a", {"seed": 0})


@pytest.mark.parametrize("ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_clock_that_says_no_time_above_0_is_refused(ms: float) -> None:
    with pytest.raises(RuntimeError, match="A pass takes a time above 0; the clock of the device said"):
        measure(ToySupernet(), ToyDevice(said=(50, ms)), networks=30)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        pytest.param(11, "at least 12 networks.*got networks=11", id="noise"),
        pytest.param(1, "got networks=1, without .* in row 2 of 'layers'", id="unseen"),
    ],
)
def test_too_few_networks_are_refused(networks: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(ToySupernet(), ToyDevice(), networks=networks)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_noise_is_the_standard_deviation_of_one_measurement(factor: float) -> None:
    rng = np.random.default_rng(0)
    a, b = (10 * (1 + 0.01 * factor * rng.standard_normal(4000)) for _ in range(2))
    assert repeat_noise(a, b) == pytest.approx(0.01 * factor, rel=0.1)
    b[::20] *= 3
    assert repeat_noise(a, b) == pytest.approx(0.01 * factor, rel=0.2)


def test_nothing_runs_when_everything_is_in_the_journal(tmp_path: Path) -> None:
    genes, journal, device = SPACE.sample_matrix(1, 0), tmp_path / "j", ToyDevice(fails=1)
    before = Timings(journal, {"seed": 0, **describe(ToySupernet(), device)})
    before.append(Visit(tuple(genes[0].tolist()), (1.0,), (1.0, 1.0)))
    log = measure_networks(ToySupernet(), device, list(genes), {}, seed=0, journal=journal)
    assert device.passes == 0 and log.visits == before.visits


def test_the_journal_holds_every_pass(tmp_path: Path) -> None:
    measure(ToySupernet(), ToyDevice(), networks=30, journal=tmp_path / "j")
    first = json.loads((tmp_path / "j").read_text().splitlines()[1])
    assert first.keys() == {"genes", "ms", "reference_ms"}
    assert len(first["ms"]) == 11 and len(first["reference_ms"]) == 12  # one after the last
