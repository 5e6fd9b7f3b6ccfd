"""Measuring finds the latencies a device has, whatever else happens on it, and goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oneshot.cost import measure
from oneshot.cost.latency.design import Places, balanced_design, fit_shares
from oneshot.cost.latency.measure import REPEATED
from oneshot.cost.latency.timings import Timings, Visit, describe, measure_networks, repeat_noise
from oneshot.supernets import (
    DARTSSupernet,
    FBNetSupernet,
    NASBench1Shot1Supernet,
    NASBench201Supernet,
    RecurrentSupernet,
)
from oneshot.supernets.base import OperationSupernet

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


def test_every_pass_is_compared_with_those_beside_it() -> None:
    speeds = [1.0, 1.5, 1.0, 3.0, 1.2, 3.5, 3.0, 1.1, 1.0, 4.0, 1.3, 1.0]
    passes = [3.0 * (a + b) / 2 for a, b in pairwise(speeds)]
    assert Visit((0,), tuple(passes), tuple(speeds)).ratio == pytest.approx(3)
    assert np.median(passes) / np.median(speeds) != pytest.approx(3, rel=0.1)  # what medians of both would say


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


@pytest.mark.parametrize(
    "supernet", [FBNetSupernet(width=0.25, image_size=32), DARTSSupernet(channels=4, cells=4)], ids=["fbnet", "darts"]
)
def test_a_design_has_all_picks_of_a_gene_about_equally_often(supernet: OperationSupernet) -> None:
    space = supernet.space
    design = balanced_design(space, 90, 0)
    plain = space.sample_matrix(90, 0)

    def spread(genes: np.ndarray[Any, Any]) -> float:
        counts = [np.bincount(column, minlength=size) for column, size in zip(genes.T, space.gene_sizes, strict=True)]
        return float(np.mean([np.sort(count)[:-1].std() for count in counts]))  # but for `none`, made frequent by rules

    assert spread(design) < 0.8 * spread(plain)
    assert np.array_equal(design, balanced_design(space, 90, 0))
    assert np.array_equal(design[:30], balanced_design(space, 30, 0))
    assert not np.array_equal(design, balanced_design(space, 90, 1))
    for config in space.decode(design):
        space.validate(config)


def ridge_by_hand(a: Any, f: Any, y: Any, ridge: float) -> Any:
    """Least squares with the penalty as rows of data: another way to the same minimum, without robust weights."""
    scale = y.mean() / a.sum(1).mean()
    inputs = np.hstack([a @ f * scale, np.ones((len(y), 1)), a * scale]) / y[:, None]
    free = f.shape[1] + 1
    penalty = np.hstack([np.zeros((a.shape[1], free)), ridge * np.eye(a.shape[1])])
    solution = np.linalg.lstsq(np.vstack([inputs, penalty]), np.r_[np.ones(len(y)), np.zeros(a.shape[1])], rcond=None)[
        0
    ]
    return scale * (f @ solution[: free - 1] + solution[free:]), solution[free - 1]


@pytest.fixture
def wholes() -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(0)
    a = np.zeros((120, 20))
    for row in a:
        for group in range(5):
            row[4 * group + rng.integers(4)] += 1
    features = rng.uniform(0, 2, (20, 2))
    parts = features @ [1.0, 0.5] + rng.uniform(0, 0.5, 20)
    return a, features, parts, 2 + a @ parts


def test_shares_are_those_of_an_independent_regression(
    wholes: tuple[Any, Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, features, _, y = wholes
    y = y * np.random.default_rng(1).normal(1, 0.02, len(y))
    monkeypatch.setattr("oneshot.regression.ridge.RIDGES", [0.1])
    monkeypatch.setattr("oneshot.regression.ridge.HUBER", 1e9)
    shares = fit_shares(a, features, y)
    exact, fixed = ridge_by_hand(a, features, y, 0.1)
    np.testing.assert_allclose(a @ shares.entries + shares.fixed, a @ exact + fixed, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shares.entries, exact, rtol=1e-3, atol=1e-4)
    wrong = a @ ridge_by_hand(a, features, y, 0.5)[0]
    assert not np.allclose(a @ shares.entries, wrong, rtol=1e-3)


def test_the_residual_is_that_of_networks_the_sum_did_not_know(
    wholes: tuple[Any, Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, features, _, y = wholes
    y = y * np.random.default_rng(1).normal(1, 0.05, len(y))
    monkeypatch.setattr("oneshot.regression.ridge.RIDGES", [0.1])
    monkeypatch.setattr("oneshot.regression.ridge.HUBER", 1e9)
    errors = []
    for n in range(len(y)):
        rest = np.arange(len(y)) != n
        # the scale of the penalty is part of the model: it stays that of all networks
        scale = (y.mean() / a.sum(1).mean()) / (y[rest].mean() / a[rest].sum(1).mean())
        entries, fixed = ridge_by_hand(a[rest], features, y[rest], 0.1 / scale)
        errors.append((a[n] @ entries + fixed) / y[n] - 1)
    shares = fit_shares(a, features, y)
    assert shares.residual == pytest.approx(float(np.sqrt(np.mean(np.square(errors)))), rel=0.01)
    inside = float(np.std((a @ shares.entries + shares.fixed) / y - 1))
    assert inside < 0.97 * shares.residual  # the error on what was fitted is told apart


def test_a_few_bursts_of_load_do_not_matter(wholes: tuple[Any, Any, Any, Any]) -> None:
    a, features, _, y = wholes
    measured = y * np.random.default_rng(1).normal(1, 0.01, len(y))
    measured[::12] *= 1.5
    shares = fit_shares(a, features, measured)
    ours = np.abs((a @ shares.entries + shares.fixed) / y - 1).mean()
    naive = np.linalg.lstsq(np.hstack([a, np.ones((len(y), 1))]), measured, rcond=None)[0]
    theirs = np.abs((a @ naive[:-1] + naive[-1]) / y - 1).mean()
    assert ours < 0.015 < 0.03 < theirs


def test_standard_errors_cover_the_truth(wholes: tuple[Any, Any, Any, Any]) -> None:
    a, features, parts, y = wholes
    shares = fit_shares(a, features, y * np.random.default_rng(1).normal(1, 0.02, len(y)))
    deviation = np.abs(shares.entries - parts) / shares.errors
    assert np.mean(deviation < 2) > 0.5 and deviation.max() < 6


def test_fewer_networks_than_unknowns_lean_on_what_the_work_suggests(wholes: tuple[Any, Any, Any, Any]) -> None:
    a, features, _, y = wholes
    shares = fit_shares(a[:16], features, y[:16])
    error = np.abs((a[16:] @ shares.entries + shares.fixed) / y[16:] - 1).mean()
    assert error < 0.06


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_noise_is_the_standard_deviation_of_one_measurement(factor: float) -> None:
    rng = np.random.default_rng(0)
    a, b = (10 * (1 + 0.01 * factor * rng.standard_normal(4000)) for _ in range(2))
    assert repeat_noise(a, b) == pytest.approx(0.01 * factor, rel=0.1)
    b[::20] *= 3
    assert repeat_noise(a, b) == pytest.approx(0.01 * factor, rel=0.2)


@pytest.mark.parametrize(
    ("make", "unknowns"),
    [
        # 12 different layers of 9 blocks
        pytest.param(lambda: FBNetSupernet(width=0.25, num_classes=10, image_size=32), 108, id="fbnet"),
        pytest.param(lambda: NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8), 5, id="nasbench201"),
        # 3 operations in each of 4 blocks of different inputs, and wires, each for itself
        pytest.param(lambda: NASBench1Shot1Supernet(channels=4, cells_per_stage=1, image_size=8), 22, id="1shot1"),
        pytest.param(lambda: RecurrentSupernet(num_classes=50, size=8), 5, id="recurrent"),
        pytest.param(ToySupernet, 3 + 3 + 2, id="toy"),
    ],
)
def test_the_same_candidate_in_the_same_place_is_one_unknown(
    make: Callable[[], OperationSupernet], unknowns: int
) -> None:
    supernet = make()
    places = Places.of(supernet)
    assert len(places.names) == len(places.features) == unknowns
    genes = supernet.space.sample_matrix(3, 0)
    for row in genes:
        picked = sum(
            pick != "none" or "none" in choice.candidates
            for choice in supernet.space.choices
            for pick in supernet.space.decode(row[None])[0][choice.name]
        )
        assert places.occurrences(row).sum() == len(places.of_genes(row)) == picked


def test_the_work_of_a_candidate_is_what_it_is() -> None:
    places = Places.of(ToySupernet())
    macs = {name: work for name, work in zip(places.names, places.features[:, 0], strict=True)}
    assert macs["three in row 0 of 'layers'"] == pytest.approx(9 * macs["one in row 0 of 'layers'"])
    assert macs["one in row 2 of 'layers'"] == pytest.approx(4 * macs["one in row 0 of 'layers'"])
    assert not places.features[places.names.index("skip in row 0 of 'layers'")].any()


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
