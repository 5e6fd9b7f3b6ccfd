"""INT8 files of exports: what they are worth is measured, with a small network that was trained on digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oneshot.cost import Device, Record
from oneshot.cost.latency.device import Run
from oneshot.cost.record import Prediction
from oneshot.data import Digits
from oneshot.deploy import int8 as module
from oneshot.deploy.export import export_subnet, load
from oneshot.deploy.int8 import LEAST, Comparison, Int8, int8_samples, int8_sentence, loss
from oneshot.deploy.latency import record_latency
from oneshot.deploy.manifest import read_manifest
from oneshot.errors import Int8LossError
from oneshot.evaluation.recalibration import recalibrate
from oneshot.supernets import NASBench201Network
from oneshot.supernets.base import Subnet
from oneshot.tasks import Classification, Regression

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"
MS = {"float32": 2.0, "int8": 1.0}


@pytest.fixture(scope="module")
def data() -> Digits:
    digits = Digits(batch_size=100)
    digits.setup()
    return digits


@pytest.fixture(scope="module")
def network(data: Digits) -> Subnet:
    torch.manual_seed(0)
    made = NASBench201Network(ARCH, channels=8, cells_per_stage=1, in_channels=1, image_size=8)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1, momentum=0.9)
    for _ in range(15):
        for x, y in data.train_dataloader():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(made(x), y).backward()
            optimizer.step()
    return made.eval()


@pytest.fixture(scope="module")
def export(network: Subnet, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "export"
    return export_subnet(network, folder, formats=["onnx"], int8=int8_samples(data, network))


@pytest.fixture
def unchanged(export: Path) -> Iterator[Path]:
    before = {name: (export / name).read_bytes() for name in ("manifest.json", "README.md")}
    yield export
    for name, content in before.items():
        (export / name).write_bytes(content)


def said_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["int8"]
    return found


def test_the_manifest_says_what_the_file_is_worth_on_samples_held_out(
    export: Path, network: Subnet, data: Digits
) -> None:
    images, labels = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    session = onnxruntime.InferenceSession(export / "model.int8.onnx", providers=["CPUExecutionProvider"])
    outputs = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        exact = network(images)
    said = said_of(export)
    assert (said["metric"], said["split"], said["samples"]) == ("accuracy", "test", len(labels))
    assert said["before"] == pytest.approx((exact.argmax(1) == labels).float().mean().item(), abs=1e-6)
    assert said["before"] > 0.8
    assert said["after"] == pytest.approx((outputs.argmax(1) == labels).float().mean().item(), abs=1e-6)
    assert said["drop"] == pytest.approx(said["before"] - said["after"]) and said["drop"] <= said["max_drop"] == 0.01
    assert said["agreement"] == pytest.approx((outputs.argmax(1) == exact.argmax(1)).float().mean().item(), abs=1e-6)
    away = (outputs - exact).double().square().mean().sqrt() / exact.double().std(correction=0)
    assert said["output_difference"] == pytest.approx(away.item(), rel=1e-3) and 0 < said["output_difference"] < 0.2
    assert said["calibration_samples"] == 256 and said["weight_bits"] == 7
    assert said["layers"] == said["int8_layers"] and said["float_layers"] == [] and said["latency_ms"] is None
    assert said["bytes"]["after"] == (export / "model.int8.onnx").stat().st_size


def test_the_file_stands_in_the_manifest_and_the_network_is_loaded_as_before(export: Path, network: Subnet) -> None:
    manifest = read_manifest(export)
    assert manifest is not None
    entry = manifest["files"]["model.int8.onnx"]
    assert entry["sha256"] == hashlib.sha256((export / "model.int8.onnx").read_bytes()).hexdigest()
    assert entry["input"] == manifest["files"]["model.onnx"]["input"]
    assert entry["max_abs_difference"] == said_of(export)["max_abs_difference"] > 1e-4
    assert {"onnx", "onnxruntime"} <= manifest["versions"].keys()
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load(export)(x), network(x))


def test_a_loss_that_is_too_large_is_refused_and_nothing_is_written(
    network: Subnet, data: Digits, export: Path, tmp_path: Path
) -> None:
    samples = int8_samples(data, network)
    dark = Int8([x * 1e-3 for x in samples.calibration], samples.held_out)  # ranges far too small for real images
    with pytest.raises(
        Int8LossError, match=r"must not lose more than 0\.01 of the held-out accuracy; it goes from 0\."
    ) as e:
        export_subnet(network, tmp_path / "new", formats=["onnx"], int8=dark)
    assert "also with floats in the first and the last layer" in str(e.value) and "--max-drop 0." in str(e.value)
    assert "give --weight-bits 8 if only ARM or x86 with VNNI will run it" in str(e.value)
    assert not list(tmp_path.iterdir())
    before = {path.name: path.read_bytes() for path in export.iterdir()}
    with pytest.raises(Int8LossError):
        export_subnet(network, export, formats=["onnx"], int8=dark, overwrite=True)
    assert before == {path.name: path.read_bytes() for path in export.iterdir()}
    assert [path.name for path in export.parent.iterdir()] == ["export"]


def test_the_first_and_the_last_layer_keep_floats_if_all_in_int8_lose_too_much(
    network: Subnet, data: Digits, export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare, calls = module.compare, []

    def worse_at_first(*args: Any) -> Comparison:
        calls.append(args)
        found = compare(*args)
        return Comparison(**{**vars(found), "drop": 0.5}) if len(calls) == 1 else found

    monkeypatch.setattr(module, "compare", worse_at_first)
    path = tmp_path / "some.onnx"
    said = module.write_int8(network, export / "model.onnx", path, int8_samples(data, network))
    assert len(calls) == 2 and len(said["float_layers"]) == 2 and said["int8_layers"] == said["layers"] - 2
    graph = onnx.load(path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    floats = [node for node in graph.node if node.name in said["float_layers"]]
    assert [kinds[node.input[1]] for node in floats] == [onnx.TensorProto.FLOAT] * 2
    sentence = int8_sentence({"int8": said})
    assert sentence is not None and sentence.endswith("The first and the last layer keep floats.")


@pytest.mark.parametrize(
    ("task", "before", "after", "lost"),
    [
        pytest.param(Classification(), 0.9, 0.85, 0.05, id="share"),
        pytest.param(Classification(), 0.9, 0.95, -0.05, id="gain"),
        pytest.param(Regression(metric="mae"), 2.0, 2.5, 0.25, id="error"),
        pytest.param(Regression(metric="mae"), 2.0, 1.0, -0.5, id="smaller error"),
        pytest.param(Regression(metric="r2"), 0.8, 0.6, 0.25, id="larger is better"),
        pytest.param(Regression(metric="mae"), 0.0, 0.0, 0.0, id="none"),
        pytest.param(Regression(metric="mae"), 0.0, 0.1, float("inf"), id="from none"),
    ],
)
def test_a_loss_is_a_difference_of_shares_and_relative_otherwise(
    task: Any, before: float, after: float, lost: float
) -> None:
    assert loss(task, before, after) == pytest.approx(lost)


class Numbers(NASBench201Network):
    """Predicts two numbers of an image."""

    default_task = "regression"


def test_numbers_that_are_predicted_are_compared_by_their_error(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Numbers(ARCH, channels=4, cells_per_stage=1, in_channels=1, image_size=8, num_classes=2).eval()
    x = torch.randn(64, 1, 8, 8)
    recalibrate(network, [x])
    with torch.no_grad():
        y = network(x) + torch.randn(64, 2) * network(x).std()
    export_subnet(network, tmp_path / "out", formats=["onnx"], int8=Int8(x.split(32), [(x, y)]))
    said = said_of(tmp_path / "out")
    task = network.task
    assert said["metric"] == task.metric_name and said["agreement"] is None and said["drop_is"] == "relative"
    assert said["max_drop"] == 0.05 and said["drop"] == pytest.approx(loss(task, said["before"], said["after"]))
    metric = task.metric(2)
    metric.update(*task.for_metric(network(x).detach(), y))
    assert said["before"] == pytest.approx(float(metric.compute()), rel=1e-4)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every pass takes what its data type takes; the data types of all passes."""
    passes: list[str] = []

    def time(self: Device, run: Run) -> float:
        run()
        passes.append(self.dtype)
        return MS[self.dtype]

    monkeypatch.setattr(Device, "time", time)
    return passes


def test_both_files_are_measured_and_predictions_of_int8_are_compared_with_theirs(
    unchanged: Path, network: Subnet, clock: list[str]
) -> None:
    facts = Device("onnxruntime", "cpu", threads=1, dtype="int8").facts()
    predicted = Prediction("latency", 0.8, Record({}, facts, batch=1, dtype="int8", source="int8.csv"))
    told = record_latency(unchanged, network, [predicted])
    latency = (read_manifest(unchanged) or {})["latency"]
    assert [(entry["file"], entry["dtype"], entry["measured_ms"]) for entry in latency] == [
        ("model.int8.onnx", "int8", 1.0),
        ("model.onnx", "float32", 2.0),
    ]
    assert latency[0]["difference"] == pytest.approx(0.25) and "25.0% more than predicted" in told[0]
    assert said_of(unchanged)["latency_ms"] == {"before": 2.0, "after": 1.0}
    sentence = int8_sentence(read_manifest(unchanged) or {})
    assert sentence is not None and "; 2 ms before, 1 ms after." in sentence
    card = (unchanged / "README.md").read_text(encoding="utf-8")
    assert sentence in card and "`model.int8.onnx` | the network in 8 bits" in card


def test_an_int8_file_that_is_slower_is_said_to_be(
    unchanged: Path, network: Subnet, clock: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MS, "int8", 3.0)
    record_latency(unchanged, network)
    assert "INT8 is not faster on this machine" in str(int8_sentence(read_manifest(unchanged) or {}))


def test_weights_of_8_bits_are_said_to_be_wrong_on_some_processors(export: Path) -> None:
    said = said_of(export)
    assert "VNNI" not in str(int8_sentence({"int8": said}))
    eight = str(int8_sentence({"int8": {**said, "weight_bits": 8}}))
    assert "Its weights have 8 bits: x86 processors without VNNI give wrong numbers." in eight


def test_an_export_without_int8_says_nothing_of_it() -> None:
    assert int8_sentence({"files": {}}) is None


BATCHES = [torch.zeros(LEAST, 1, 8, 8)]
HELD_OUT = [(torch.zeros(LEAST, 1, 8, 8), torch.zeros(LEAST, dtype=torch.long))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"max_drop": -0.1}, r"max_drop must be finite and at least 0; got -0\.1", id="negative"),
        pytest.param({"max_drop": float("nan")}, "max_drop must be finite", id="nan"),
        pytest.param({"weight_bits": 4}, r"weight_bits must be 7, .*, or 8; got 4", id="bits"),
        pytest.param({"calibration": iter(BATCHES)}, "calibration must be read more than once", id="iterator"),
        pytest.param({"held_out": (pair for pair in HELD_OUT)}, "held_out must be read more than once", id="generator"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Int8(**{"calibration": BATCHES, "held_out": HELD_OUT, **options})


def test_int8_needs_the_onnx_file_of_the_network_alone(network: Subnet, tmp_path: Path) -> None:
    for options in ({"formats": ["torch_export"]}, {"with_preprocessing": True}):
        with pytest.raises(ValueError, match="formats must have 'onnx', and with_preprocessing must be False"):
            export_subnet(network, tmp_path / "out", int8=Int8(BATCHES, HELD_OUT), **options)  # type: ignore[arg-type]  # a dict
    assert not list(tmp_path.iterdir())


def test_too_few_samples_are_refused(network: Subnet, export: Path, tmp_path: Path, data: Digits) -> None:
    few: list[Tensor] = [torch.randn(LEAST - 1, 1, 8, 8)]
    enough = int8_samples(data, network)
    path = tmp_path / "some.onnx"
    with pytest.raises(ValueError, match=f"calibrated on at least {LEAST} samples; got {LEAST - 1}"):
        module.write_int8(network, export / "model.onnx", path, Int8(few, enough.held_out))
    held_out = [(few[0], torch.zeros(LEAST - 1, dtype=torch.long))]
    with pytest.raises(ValueError, match=f"compared on at least {LEAST} held-out samples; got {LEAST - 1}"):
        module.write_int8(network, export / "model.onnx", path, Int8(enough.calibration, held_out))
    assert not path.exists()
    with pytest.raises(ValueError, match=f"at least {LEAST} training samples; the data have 10"):
        int8_samples(data, network, count=10)


def test_batches_of_other_sizes_run(export: Path) -> None:
    session = onnxruntime.InferenceSession(export / "model.int8.onnx", providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    whole, one = session.run(None, {"images": x})[0], session.run(None, {"images": x[2:3]})[0]
    np.testing.assert_allclose(whole[2:3], one, rtol=1e-5, atol=1e-6)
