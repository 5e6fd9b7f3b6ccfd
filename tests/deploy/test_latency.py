"""What is exported is measured, on a clock that is known, and stands in the manifest beside what was predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oneshot.cost import CostPenalty, Device, Record, count_candidates
from oneshot.cost.latency.device import Run
from oneshot.cost.record import Prediction, latency_facts
from oneshot.data import Digits
from oneshot.deploy.export import export_subnet
from oneshot.deploy.latency import LEAST, MOST, WARM_UP, measured_on, record_latency
from oneshot.methods.gdas import GDAS
from oneshot.nat.nat import NAT
from oneshot.supernets import NASBench201Network, NASBench201Supernet
from oneshot.supernets.base import Subnet
from oneshot.training.resume import LATER
from tests.latency_tables import CELLS, table_of

pytest.importorskip("onnxruntime")

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
MS = {"eager": 4.0, "compile": 3.0, "onnxruntime": 2.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Every pass takes what its runtime takes, one in ten twice as long; which passes there were."""
    passes: list[tuple[str, int, int]] = []

    def time(self: Device, run: Run) -> float:
        run()
        passes.append((self.runtime, self.threads, self.batch))
        number = sum(runtime == self.runtime for runtime, _, _ in passes)
        return MS[self.runtime] * (2.0 if number % 10 == 0 else 1.0)

    monkeypatch.setattr(Device, "time", time)
    return passes


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Subnet]:
    torch.manual_seed(0)
    network = NASBench201Network(ARCH, **CELLS).eval()
    return export_subnet(network, tmp_path_factory.mktemp("export") / "network", formats=["onnx"]), network


@pytest.fixture
def export(exported: tuple[Path, Subnet]) -> Iterator[tuple[Path, Subnet]]:
    folder, network = exported
    before = (folder / "manifest.json").read_text()
    yield folder, network
    (folder / "manifest.json").write_text(before)


def record(**changes: Any) -> Record:
    facts = Device("eager", "cpu", threads=1).facts() | changes.pop("device", {})
    return Record({}, facts, batch=changes.pop("batch", 3), dtype="float32", source="phone.json", **changes)


def latency_of(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text())["latency"]
    return found


def test_the_runtime_of_the_table_and_the_onnx_file_are_measured_in_turn(
    export: tuple[Path, Subnet], clock: list[tuple[str, int, int]]
) -> None:
    folder, network = export
    said = record_latency(folder, network, [Prediction("latency", 3.2, record(device={"threads": 2}))])
    by_table, by_file = latency_of(folder)
    assert (by_table["predicted_ms"], by_table["measured_ms"], by_table["difference"]) == (
        3.2,
        4.0,
        pytest.approx(0.25),
    )
    assert (by_table["runtime"], by_table["threads"], by_table["batch"], by_table["file"]) == ("eager", 2, 3, None)
    assert (by_file["measured_ms"], by_file["file"], by_file["runtime"]) == (2.0, "model.onnx", "onnxruntime")
    assert (by_file["threads"], by_file["batch"]) == (2, 3) and "predicted_ms" not in by_file
    assert by_table["passes"] == by_file["passes"] == MOST
    kept = [runtime for runtime, _, _ in clock][2 * WARM_UP :]
    assert kept == ["eager", "onnxruntime"] * MOST
    assert said[0].startswith(
        "Latency: 3.2 ms predicted by phone.json, 4 ± 0 ms measured (the network, eager, 2 threads, batch 3), "
        "25.0% more than predicted."
    )
    assert said[1] == "Latency: 2 ± 0 ms measured (model.onnx in ONNX Runtime, 2 threads, batch 3)."


def test_a_table_of_onnx_runtime_is_compared_with_the_file_itself(
    export: tuple[Path, Subnet], clock: list[tuple[str, int, int]]
) -> None:
    folder, network = export
    record_latency(folder, network, [Prediction("phone", 2.5, record(device={"runtime": "onnxruntime"}))])
    (entry,) = latency_of(folder)
    assert (entry["file"], entry["measured_ms"], entry["difference"]) == ("model.onnx", 2.0, pytest.approx(-0.2))
    assert {runtime for runtime, _, _ in clock} == {"onnxruntime"}


def test_a_network_without_a_table_is_measured_only(
    export: tuple[Path, Subnet], clock: list[tuple[str, int, int]]
) -> None:
    folder, network = export
    (said,) = record_latency(folder, network)
    (entry,) = latency_of(folder)
    assert entry["file"] == "model.onnx" and entry["measured_ms"] == 2.0 and "predicted_ms" not in entry
    assert (entry["threads"], entry["batch"]) == (torch.get_num_threads(), 1)
    assert said.startswith("Latency: 2 ± 0 ms measured (model.onnx in ONNX Runtime")


def test_without_an_onnx_file_pytorch_runs_the_network_and_that_is_said(
    tmp_path: Path, clock: list[tuple[str, int, int]]
) -> None:
    network = NASBench201Network(ARCH, **CELLS)
    folder = export_subnet(network, tmp_path / "network", formats=[])
    (said,) = record_latency(folder, network)
    (entry,) = latency_of(folder)
    assert (entry["runtime"], entry["file"], entry["measured_ms"]) == ("eager", None, 4.0)
    assert "the network, eager" in said and "No model.onnx was written" in said


def test_nothing_is_measured_where_that_is_not_wanted(
    export: tuple[Path, Subnet], clock: list[tuple[str, int, int]]
) -> None:
    folder, network = export
    (said,) = record_latency(folder, network, [Prediction("latency", 3.2, record())], measure=False)
    (entry,) = latency_of(folder)
    assert entry["predicted_ms"] == 3.2 and entry["measured_ms"] is None and entry["not_measured"] == "--no-measure"
    assert said == "Latency: 3.2 ms predicted by phone.json; not measured: --no-measure." and not clock
    assert record_latency(folder, network, measure=False) == [] and latency_of(folder) == []


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        pytest.param(record(device={"device": "cuda:7"}), "cuda:7 is not there", id="device"),
        pytest.param(None, "what the prediction is for is not recorded", id="no-record"),
        pytest.param(Record({}), "what the prediction is for is not recorded", id="elsewhere"),
    ],
)
def test_a_prediction_for_a_device_that_is_not_here_says_why_it_is_not_measured(
    given: Record | None, reason: str, export: tuple[Path, Subnet], clock: list[tuple[str, int, int]]
) -> None:
    folder, network = export
    said = record_latency(folder, network, [Prediction("latency", 3.2, given)])
    by_table, by_file = latency_of(folder)
    assert by_table["measured_ms"] is None and reason in by_table["not_measured"] and reason in said[0]
    assert by_file["measured_ms"] == 2.0


def test_another_processor_than_that_of_the_table_is_said(
    export: tuple[Path, Subnet], clock: list[tuple[str, int, int]]
) -> None:
    folder, network = export
    said, _ = record_latency(folder, network, [Prediction("latency", 4.0, record(device={"name": "a chip"}))])
    assert "0.0% less than predicted. They were measured on a chip, this is " in said
    predicted_for = latency_of(folder)[0]["predicted_for"]
    assert predicted_for["device"]["name"] == "a chip" and latency_of(folder)[0]["name"] != "a chip"


class Broken(NASBench201Network):
    """Runs where it is exported, and not where it is measured."""

    broken = False

    def forward(self, x: Tensor) -> Tensor:
        if Broken.broken:
            raise RuntimeError("no kernel image is available\nmore lines")
        return super().forward(x)


def test_a_runtime_that_fails_loses_no_export(
    tmp_path: Path, clock: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Broken(ARCH, **CELLS)
    folder = export_subnet(network, tmp_path / "network", formats=[])
    monkeypatch.setattr(Broken, "broken", True)
    (said,) = record_latency(folder, network)
    assert said == "Latency: not predicted; not measured: RuntimeError: no kernel image is available."
    assert latency_of(folder)[0]["measured_ms"] is None and (folder / "model.safetensors").is_file()


def test_a_file_that_prepares_images_is_not_taken_for_the_network_that_was_predicted(
    tmp_path: Path, clock: list[tuple[str, int, int]]
) -> None:
    data = Digits(image_size=8)
    data.setup("fit")
    network = NASBench201Network(ARCH, **CELLS | {"in_channels": 1, "num_classes": 10})
    options: dict[str, Any] = {"preprocessing": data.preprocessing, "with_preprocessing": True, "formats": ["onnx"]}
    folder = export_subnet(network, tmp_path / "network", mean=data.mean, std=data.std, **options)
    record_latency(folder, network, [Prediction("phone", 2.5, record(device={"runtime": "onnxruntime"}))])
    by_table, by_file = latency_of(folder)
    assert (by_table["file"], by_table["measured_ms"]) == (None, 2.0)
    assert (by_file["file"], by_file["measured_ms"]) == ("model.onnx", 2.0) and "predicted_ms" not in by_file


def test_a_slow_network_is_measured_a_few_times_only(
    export: tuple[Path, Subnet], clock: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MS, "onnxruntime", 400.0)
    record_latency(*export)
    assert latency_of(export[0])[0]["passes"] == LEAST


def test_a_measurement_changes_neither_the_network_nor_threads_nor_random_numbers(
    export: tuple[Path, Subnet], clock: list[tuple[str, int, int]]
) -> None:
    folder, network = export
    network.train()
    threads, before = torch.get_num_threads(), torch.get_rng_state()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    record_latency(folder, network, [Prediction("latency", 3.2, record())])
    assert network.training and torch.get_num_threads() == threads and torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    network.eval()


def test_onnx_files_with_several_inputs_of_any_type_run(tmp_path: Path) -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(7, 4)

        def forward(self, words: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
            return self.words(words).sum(1) * scale, scale + 1

    path = tmp_path / "two.onnx"
    args = (torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 4))
    options: dict[str, Any] = {
        "input_names": ["words", "scale"],
        "dynamic_axes": {"words": {0: "b"}, "scale": {0: "b"}},
    }
    with pytest.warns(DeprecationWarning):
        torch.onnx.export(Two(), args, path, dynamo=False, verbose=False, **options)
    device = Device("onnxruntime", "cpu", batch=3, threads=1)
    assert device.time(device.prepare_file(path)) > 0
    with pytest.raises(ValueError, match="must be 'onnxruntime' to run ONNX files; got 'eager'"):
        Device("eager").prepare_file(path)


# What a search predicts.


def test_searches_predict_by_all_their_latencies(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(**CELLS)
    phone, board = (table_of(supernet, tmp_path / f"{name}.json") for name in ("phone", "board"))
    config = supernet.space.from_arch_string(ARCH)
    ms = 2.0 + 4.0 + 0.25 + 0.75 + 1.5
    nat = NAT(supernet, objectives=["macs", phone])
    (found,) = nat.predictions(config)
    assert (found.objective, found.ms) == ("latency", ms) and found.record is not None and found.record.source == phone
    both = NAT(supernet, objectives=[phone, board])
    assert [(p.objective, p.ms) for p in both.predictions(config)] == [("phone", ms), ("board", ms)]
    bound = NAT(supernet, constraints={phone: 50.0})
    assert [p.ms for p in bound.predictions(config)] == [ms]
    gdas = GDAS(supernet, penalty=CostPenalty(phone, "target", target=8.0))
    assert [p.ms for p in gdas.predictions(config)] == [ms]
    assert GDAS(supernet, penalty=CostPenalty("macs", "additive", a=0.1)).predictions(config) == []
    assert GDAS(supernet).predictions(config) == []
    for module in (nat, bound, gdas):
        (told,) = measured_on(module.cost_models().values())
        assert told.startswith(
            f"Latencies of {phone}: eager on a chip, 1 thread, batch 1, float32, measured 2026-01-02."
        )
        assert "They were measured on a chip, this is" in told
    assert measured_on(GDAS(supernet).cost_models().values()) == []


def test_a_search_goes_on_with_the_latencies_it_began_with(tmp_path: Path) -> None:
    supernet = NASBench201Supernet(**CELLS)
    path = table_of(supernet, tmp_path / "phone.json")

    def facts() -> list[dict[str, str]]:
        nat, gdas = NAT(supernet, objectives=[path]), GDAS(supernet, penalty=CostPenalty(path, "additive", a=0.1))
        return [latency_facts(nat.cost_models()), latency_facts(gdas.cost_models())]

    before = facts()
    table = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(table | {"date": "2027-01-01"}))
    assert facts() == before and all(list(found) == list(LATER) for found in before)
    Path(path).write_text(json.dumps(table | {"fixed": 4.0}))
    assert all(now != then for now, then in zip(facts(), before, strict=True))
    assert latency_facts({"macs": count_candidates(supernet, "macs"), "mine": None}) == {}
