"""Counts and latencies know the networks they are of, and are refused for others, with every difference named."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oneshot.cost import (
    CostPenalty,
    Device,
    LatencyTable,
    Record,
    bundled_sources,
    count_candidates,
    describe_supernet,
    measured_cost,
    read_csv,
    read_record,
    verify,
    write_csv,
)
from oneshot.cost.latency.measure import measure_samples
from oneshot.cost.record import describe_choices
from oneshot.methods.proxylessnas import ProxylessNAS, Reward
from oneshot.nat.nat import NAT, objective_of
from oneshot.nat.objectives import Objective
from oneshot.supernets import (
    DARTSSupernet,
    ElasticResNetSupernet,
    FBNetSupernet,
    MobileNetV3Supernet,
    NASBench1Shot1Supernet,
    NASBench201Supernet,
    NASBenchMacroSupernet,
    NASNetSupernet,
    ProxylessSupernet,
    RecurrentSupernet,
    SegmentationSupernet,
    Supernet,
)

from .toys import SPACE, ToyDevice, ToyNetwork, ToySupernet

SMALL: dict[str, Any] = {"num_classes": 5, "image_size": 32}
ELASTIC: dict[str, Any] = {
    "num_classes": 5,
    "image_size": 32,
    "stem": "cifar",
    "resolutions": (16, 32),
    "widths": (0.1, 0.25),
    "depths": (1, 2),
}
RESNET: dict[str, Any] = {"image_size": 32, "resolutions": (16, 32), "widths": (0.65, 1.0), "stem": "cifar"}
CELLS: dict[str, Any] = {"channels": 4, "cells_per_stage": 1, "num_classes": 3, "image_size": 8}


def small_fbnet() -> FBNetSupernet:
    return FBNetSupernet(width=0.25, stem="cifar", **SMALL)


def table_of(supernet: Supernet, **changes: Any) -> LatencyTable:
    values: dict[str, Any] = {
        "space": supernet.space.name,
        "choices": describe_choices(supernet.space),
        "input_shape": supernet.input_shape,
        "batch": 1,
        "dtype": "float32",
        "table": {c.name: [[1.0 + o for o in range(len(c.candidates))]] * c.rows for c in supernet.space.choices},
        "fixed": 2.0,
        "spread": {},
        "noise": 0.01,
        "residual": 0.02,
        "networks": 30,
        "reference": {"config": supernet.space.sample(0).to_dict(), "ms": 6.0},
        "device": {"runtime": "eager", "device": "cpu", "name": "a chip", "threads": 1},
        "date": "2026-01-01T00:00:00+00:00",
        "supernet": describe_supernet(supernet),
    }
    return LatencyTable(**values | changes)


def csv_of(path: Path, supernet: Supernet, **changes: Any) -> str:
    genes = supernet.space.sample_matrix(60, 0)
    genes = supernet.space.encode(supernet.space.unique(supernet.space.decode(genes)))
    ms = 5.0 + count_candidates(supernet, "params").costs(genes) / 1e4
    device = {"runtime": "eager", "device": "cpu", "name": "a chip", "threads": 1}
    record = Record(describe_supernet(supernet), device, batch=1, dtype="float32", noise=0.01, seed=0)
    fields = {name: value for name, value in vars(record).items()} | changes
    return str(write_csv(path, supernet.space, genes, ms, record=Record(**fields)))


# What is compared.


@pytest.mark.parametrize(
    ("kind", "options", "others"),
    [
        pytest.param(
            FBNetSupernet,
            {"width": 0.25, "stem": "cifar", **SMALL},
            {"width": 0.5, "head_channels": 64, "num_classes": 7, "stem": "imagenet", "in_channels": 1},
            id="fbnet",
        ),
        pytest.param(ProxylessSupernet, {"width": 0.25, "stem": "cifar", **SMALL}, {"width": 0.5}, id="proxyless"),
        pytest.param(NASBench201Supernet, CELLS, {"channels": 8, "cells_per_stage": 2, "num_classes": 4}, id="201"),
        pytest.param(NASBenchMacroSupernet, {"channels": 4, **SMALL}, {"channels": 8, "num_classes": 4}, id="macro"),
        pytest.param(
            DARTSSupernet,
            {"channels": 2, "cells": 3, **SMALL},
            {"channels": 4, "cells": 4, "num_classes": 7, "stem": "imagenet"},
            id="darts",
        ),
        pytest.param(NASNetSupernet, CELLS, {"channels": 8, "num_classes": 4}, id="nasnet"),
        pytest.param(
            SegmentationSupernet,
            {"layers_per_stage": 1, "width": 0.25, "num_classes": 3, "image_size": 32},
            {"width": 0.5, "num_classes": 4, "macro": "large"},
            id="segmentation",
        ),
        pytest.param(
            RecurrentSupernet, {"num_classes": 12, "size": 6, "window": 5}, {"size": 8, "window": 6}, id="rnn"
        ),
        pytest.param(MobileNetV3Supernet, ELASTIC, {"num_classes": 7, "in_channels": 1}, id="v3"),
        pytest.param(
            ElasticResNetSupernet, RESNET, {"num_classes": 7, "in_channels": 1, "stem_shortcut": False}, id="resnet"
        ),
    ],
)
def test_every_setting_that_changes_networks_is_compared(
    kind: Callable[..., Supernet], options: dict[str, Any], others: dict[str, Any]
) -> None:
    record = Record(json.loads(json.dumps(describe_supernet(kind(**options)))), source="table.json")
    record.check_supernet(kind(**options))
    with pytest.raises(ValueError, match=r"^table.json is of other networks .* Build the supernet with") as caught:
        record.check_supernet(kind(**options | others))
    for name, value in others.items():
        told = "input_shape is [" if name in ("in_channels", "window") else f"{name} is "
        assert f"{told}" in str(caught.value) and f"{value!r}" in str(caught.value), name


def test_all_differences_are_named_at_once() -> None:
    record = Record(describe_supernet(small_fbnet()))
    with pytest.raises(ValueError) as caught:
        record.check_supernet(FBNetSupernet(image_size=64))
    for told in (
        "input_shape is [3, 32, 32] there, [3, 64, 64] here",
        "num_classes is 5 there, 1000 here",
        "width is 0.25 there, 1.0 here",
        "stem is 'cifar' there, 'imagenet' here",
    ):
        assert told in str(caught.value)
    assert "params" not in str(caught.value)  # which follow from these


def test_of_another_space_the_space_and_its_choices_are_named() -> None:
    record = Record(describe_supernet(NASBench201Supernet(**CELLS)))
    with pytest.raises(ValueError, match="space is 'nasbench201' there, 'nasbench1.* choice 'cell' is .* None here"):
        record.check_supernet(NASBench1Shot1Supernet(1, **CELLS))
    smaller = MobileNetV3Supernet(**ELASTIC | {"kernels": (3,)})
    with pytest.raises(ValueError, match=r"choice 'stage_0' is \{'candidates': \['k3"):
        Record(describe_supernet(MobileNetV3Supernet(**ELASTIC))).check_supernet(smaller)


def test_what_training_alone_sees_does_not_matter() -> None:
    record = Record(describe_supernet(MobileNetV3Supernet(**ELASTIC, dropout=0.2)))
    record.check_supernet(MobileNetV3Supernet(**ELASTIC, dropout=0.5))


class Mine(NASBench201Supernet):
    """Another class that builds the same networks."""


def test_another_class_of_the_same_networks_is_accepted() -> None:
    Record(describe_supernet(NASBench201Supernet(**CELLS))).check_supernet(Mine(**CELLS))


def test_an_argument_an_earlier_release_did_not_know_had_its_default() -> None:
    then = describe_supernet(NASBench201Supernet(**CELLS))
    then["arguments"] = {name: value for name, value in then["arguments"].items() if name != "in_channels"}
    Record({**then, "input_shape": [3, 8, 8]}).check_supernet(NASBench201Supernet(**CELLS))
    del then["arguments"]["channels"]
    with pytest.raises(ValueError, match="channels is 16 there, 4 here"):
        Record(then).check_supernet(NASBench201Supernet(**CELLS))


class Strided(ToySupernet):
    """Tells no arguments, and has as many parameters with any stride."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, arch: Mapping[str, Tensor]) -> Tensor:
        return super().forward(x[..., :: self.stride, :: self.stride], arch)

    def extract(self, config: Any, *, inherit: bool = True) -> ToyNetwork:
        network = super().extract(config, inherit=inherit)
        for layer in network.layers:
            if isinstance(layer, nn.Conv2d):
                layer.stride = (self.stride, self.stride)
        network.extra = None
        return network


def test_networks_that_do_not_tell_their_arguments_are_told_apart_by_their_sizes() -> None:
    record = Record(describe_supernet(Strided()))
    record.check_supernet(Strided())
    with pytest.raises(ValueError, match=r"macs of samples is \d+ there, \d+ here"):
        record.check_supernet(Strided(2))


def test_a_description_draws_no_random_numbers_of_the_caller() -> None:
    supernet = small_fbnet()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    describe_supernet(supernet)
    assert torch.equal(before, torch.get_rng_state())


# Who compares.


def consumers(path: str, model: Callable[[Supernet], Any] | None = None) -> dict[str, Callable[[Supernet], Any]]:
    """Everything that takes the file of a latency."""
    return {
        "penalty": lambda supernet: CostPenalty(path, "additive", a=0.1).bind(supernet),  # type: ignore[arg-type]
        "nat": lambda supernet: objective_of(path, supernet),
        "constraint": lambda supernet: NAT(supernet, constraints={path: 1e6}),
    }


@pytest.mark.parametrize("by", ["penalty", "nat", "constraint"])
def test_a_table_of_other_networks_is_refused_by_every_search(by: str, tmp_path: Path) -> None:
    path = str(table_of(NASBench201Supernet(**CELLS)).save(tmp_path / "table.json"))
    take = consumers(path)[by]
    take(NASBench201Supernet(**CELLS))
    other = NASBench201Supernet(**CELLS | {"channels": 8, "num_classes": 10})
    with pytest.raises(ValueError, match=r"table\.json is of other .*num_classes is 3 there, 10 here.*channels is 4"):
        take(other)


@pytest.mark.parametrize("by", ["penalty", "nat", "constraint"])
def test_measured_networks_are_refused_for_others_by_every_search(by: str, tmp_path: Path) -> None:
    path = csv_of(tmp_path / "phone.csv", NASBench201Supernet(**CELLS))
    take = consumers(path)[by]
    take(NASBench201Supernet(**CELLS))
    other = NASBench201Supernet(**CELLS | {"channels": 8, "num_classes": 10})
    with pytest.raises(ValueError, match=r"phone\.csv is of other .*num_classes is 3 there, 10 here.*channels is 4"):
        take(other)


def test_measured_networks_of_an_elastic_space_are_refused_for_others(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "phone.csv", MobileNetV3Supernet(**ELASTIC))
    assert objective_of(path, MobileNetV3Supernet(**ELASTIC)).unit == "ms"
    with pytest.raises(ValueError, match=r"phone\.csv is of other .*num_classes is 5 there, 1000 here"):
        objective_of(path, MobileNetV3Supernet(**ELASTIC | {"num_classes": 1000}))


def test_a_cost_model_made_in_python_is_compared_too(tmp_path: Path) -> None:
    supernet, other = NASBench201Supernet(**CELLS), NASBench201Supernet(**CELLS | {"channels": 8})
    cost = table_of(supernet).cost(supernet.space, input_shape=supernet.input_shape)
    learned = measured_cost(csv_of(tmp_path / "phone.csv", supernet), supernet.space)
    for model in (cost, learned, count_candidates(supernet, "macs"), count_candidates(supernet, "params")):
        for take in (
            lambda s, m=model: CostPenalty(m, "additive", a=0.1).bind(s),  # type: ignore[misc]
            lambda s, m=model: objective_of(Objective("latency", model=m), s),  # type: ignore[misc]
            lambda s, m=model: ProxylessNAS(s, gradient="reinforce", reward=Reward(m, target=1.0)),  # type: ignore[misc]
        ):
            take(supernet)
            with pytest.raises(ValueError, match="channels is 4 there, 8 here"):
                take(other)


def test_a_table_is_not_verified_with_other_networks() -> None:
    supernet = NASBench201Supernet(**CELLS)
    target = Device("eager", "cpu", threads=1)
    with pytest.raises(ValueError, match="num_classes is 3 there, 10 here"):
        verify(table_of(supernet), NASBench201Supernet(**CELLS | {"num_classes": 10}), target)


# Files of earlier releases.


def test_a_table_without_a_record_is_used_with_a_warning_that_says_what_is_not_checked(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(**CELLS)
    path = table_of(supernet).save(tmp_path / "old.json")
    content = json.loads(path.read_text())
    del content["supernet"]
    path.write_text(json.dumps(content))
    other = NASBench201Supernet(**CELLS | {"num_classes": 10})
    for take in consumers(str(path)).values():
        with pytest.warns(UserWarning, match=r"old\.json does not say .* width, stem, channels and number of classes"):
            take(other)


def test_measured_networks_without_a_record_are_used_with_a_warning(tmp_path: Path) -> None:
    path = Path(csv_of(tmp_path / "phone.csv", NASBench201Supernet(**CELLS)))
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#")))
    for take in consumers(str(path)).values():
        with pytest.warns(UserWarning, match=r"phone\.csv does not say which networks it was measured for"):
            take(NASBench201Supernet(**CELLS | {"num_classes": 10}))


# Doubtful latencies.


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        pytest.param({"noise": 0.23}, "noise from one measurement to the next is 23%, above 10%", id="noise"),
        pytest.param({"noise": float("nan")}, "noise from one measurement to the next is nan", id="nan"),
        pytest.param({"noise": -0.1}, "noise from one measurement to the next is -0.1", id="negative-noise"),
        pytest.param({"residual": float("nan")}, "how far networks are from their sums is nan", id="residual"),
        pytest.param({"fixed": -0.5}, "what is in every network needs -0.5 ms", id="fixed"),
        pytest.param({"fixed": -6.0}, "the cheapest network needs 0 ms", id="zero"),
    ],
)
def test_a_doubtful_table_is_said_when_read_and_refused_by_searches_unless_allowed(
    changes: dict[str, Any], doubt: str, tmp_path: Path
) -> None:
    supernet = NASBench201Supernet(**CELLS)
    table = table_of(supernet, **changes)
    path = str(table.save(tmp_path / "table.json"))
    with pytest.warns(UserWarning, match=f"table.json is doubtful: .*{re.escape(doubt)}"):
        LatencyTable.load(path)
    for take in consumers(path).values():
        with pytest.raises(ValueError, match=rf"table.json is doubtful: .*{re.escape(doubt)}.*allow_noisy=True"):
            take(supernet)
    model = table.cost(supernet.space)
    with pytest.raises(ValueError, match="is doubtful"):
        CostPenalty(model, "additive", a=0.1).bind(supernet)
    with pytest.raises(ValueError, match="'latency' is doubtful"):
        objective_of(Objective("latency", model=model), supernet)
    for allowed in (
        lambda: CostPenalty(path, "additive", a=0.1, allow_noisy=True).bind(supernet),
        lambda: NAT(supernet, objectives=[path], allow_noisy=True),
        lambda: NAT(supernet, constraints={path: 1e6}, allow_noisy=True),
    ):
        with pytest.warns(UserWarning, match="is doubtful.*since allow_noisy is set"):
            allowed()


def test_the_device_of_a_benchmark_is_no_latency_of_this_supernet() -> None:
    supernet = NASBench201Supernet(**CELLS)
    sources = bundled_sources(supernet.space)
    with pytest.raises(ValueError, match="pixel3 is of the networks of a benchmark, and not of this supernet's"):
        CostPenalty(sources["pixel3"], "additive", a=0.1).bind(supernet)
    assert sources["macs"].doubts == () and sources["pixel3"].doubts


def test_noise_up_to_ten_percent_is_no_doubt() -> None:
    assert table_of(NASBench201Supernet(**CELLS), noise=0.1).doubts == ()


def test_noisy_measurements_of_networks_are_refused_unless_allowed(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(**CELLS)
    path = csv_of(tmp_path / "phone.csv", supernet, noise=0.3)
    for take in consumers(path).values():
        with pytest.raises(ValueError, match=r"phone.csv is doubtful: its noise .* is 30%.*allow_noisy=True"):
            take(supernet)
    with pytest.warns(UserWarning, match="since allow_noisy is set"):
        CostPenalty(path, "additive", a=0.1, allow_noisy=True).bind(supernet)


def test_measurements_that_predict_less_than_nothing_are_refused(tmp_path: Path) -> None:
    supernet = MobileNetV3Supernet(**ELASTIC)
    genes = supernet.space.encode(supernet.space.unique(supernet.space.decode(supernet.space.sample_matrix(60, 0))))
    size = count_candidates(supernet, "macs").costs(genes)
    ms = np.maximum(1e-3, (size - np.quantile(size, 0.4)) / size.max())  # a timer that is too coarse
    record = Record(describe_supernet(supernet), {"runtime": "eager"}, noise=0.01)
    path = str(write_csv(tmp_path / "phone.csv", supernet.space, genes, ms, record=record))
    with pytest.raises(ValueError, match=r"of 2000 random networks are predicted to need 0 ms or less"):
        objective_of(path, supernet)


# The file of measured networks.


def test_measured_networks_carry_what_they_were_measured_for_and_on(tmp_path: Path) -> None:
    genes = SPACE.encode(SPACE.unique(SPACE.decode(SPACE.sample_matrix(20, 0))))
    ms, record = measure_samples(ToySupernet(), ToyDevice(noise=0.05), genes, journal=tmp_path / "j")
    path = write_csv(tmp_path / "phone.csv", SPACE, genes, ms, record=record)
    assert len((tmp_path / "j").read_text().splitlines()) == 1 + len(genes) + 12  # some of them twice
    assert record.noise is not None and 0.001 < record.noise < 0.05  # of the median of 25 passes
    again, read = read_csv(path, SPACE), read_record(path)
    assert np.array_equal(again[0], genes) and again[1] == pytest.approx(ms, rel=1e-5)
    assert read == record and read is not None and read.source == str(path)
    assert read.device == ToyDevice().facts() and (read.batch, read.dtype) == (1, "float32")
    assert read.supernet == describe_supernet(ToySupernet())


def test_a_spreadsheet_may_read_and_write_the_file(tmp_path: Path) -> None:
    path = Path(csv_of(tmp_path / "phone.csv", NASBench201Supernet(**CELLS)))
    before, record = read_csv(path, NASBench201Supernet(**CELLS).space), read_record(path)
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    width = max(map(len, rows))
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([[*row, *[""] * (width - len(row))] if row[0][:1] == "#" else row for row in rows])
    after = read_csv(path, NASBench201Supernet(**CELLS).space)
    assert read_record(path) == record and record is not None
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])


@pytest.mark.parametrize(
    "damage",
    [lambda text: text.replace('"supernet"', '"supernat"', 1), lambda text: text.replace("{", "", 1)],
    ids=["field", "json"],
)
def test_a_damaged_record_is_refused_with_the_line(damage: Callable[[str], str], tmp_path: Path) -> None:
    path = Path(csv_of(tmp_path / "phone.csv", NASBench201Supernet(**CELLS)))
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=r"phone.csv, line 2: the record of what was measured is damaged"):
        measured_cost(path, NASBench201Supernet(**CELLS).space)


def test_comments_do_not_shift_the_lines_of_errors(tmp_path: Path) -> None:
    path = Path(csv_of(tmp_path / "phone.csv", NASBench201Supernet(**CELLS)))
    lines = path.read_text().splitlines()
    lines[3] = lines[3].rpartition(",")[0] + ",-1"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="line 4: a time must be finite and above 0; got '-1'"):
        read_csv(path, NASBench201Supernet(**CELLS).space)


def test_the_committed_tables_say_what_they_were_measured_for() -> None:
    folder = Path(__file__).parents[2] / "experiments" / "latency" / "this_machine"
    supernet = FBNetSupernet()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted(folder.glob("fbnet_cpu_*_thread*.json")):
            if "verify" not in path.name:
                LatencyTable.load(path).cost_of(supernet)
