from __future__ import annotations

import importlib.util
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from oneshot.cost import Device, LatencyTable, Record, measure, verify
from oneshot.cost.latency.device import example_input, keep_freed_memory
from oneshot.cost.latency.verify import check_device
from oneshot.errors import MissingExtraError
from oneshot.supernets import NASBench201Network, NASBench201Supernet, RecurrentSupernet
from tests.latency_tables import CELLS, table_of

from ..toys import SPACE, ToySupernet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"runtime": "tflite"}, "runtime must be one of eager, compile, onnxruntime; got 'tflite'", id="runtime"
        ),
        pytest.param({"dtype": "int4"}, "dtype of eager must be one of .*bfloat16.*; got 'int4'", id="dtype"),
        pytest.param(
            {"dtype": "int8"},
            "dtype of eager must be one of float32, bfloat16, float16; got 'int8'. INT8 networks run in ONNX Runtime",
            id="int8",
        ),
        pytest.param(
            {"runtime": "onnxruntime", "dtype": "bfloat16"},
            "dtype of onnxruntime must be one of float32, float16, int8; got 'bfloat16'",
            id="onnx-dtype",
        ),
        pytest.param({"batch": 0}, "at least 1; got batch=0", id="batch"),
        pytest.param({"threads": 0}, "at least 1; got .*threads=0", id="threads"),
        pytest.param({"device": "tpu"}, "device must be 'cpu', 'cuda' or 'cuda:1'; got 'tpu'", id="device"),
        pytest.param({"device": "cuda:x"}, "got 'cuda:x'", id="index"),
        pytest.param({"device": "cuda:99"}, "cuda:99 is not there: PyTorch .* CUDA devices. Check", id="not-there"),
    ],
)
def test_a_device_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Device(**options)


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_runtime_that_is_not_installed_says_how_to_install_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("oneshot.cost.latency.device.find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingExtraError, match=rf"needs {package}\. Install it with: pip install 'oneshot-nas\[onnx"):
        Device("onnxruntime")


def test_onnx_runtime_without_its_gpu_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"], __spec__=object())
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="has CPUExecutionProvider. Install onnxruntime-gpu"):
        Device("onnxruntime", "cuda")


def test_int8_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("oneshot.cost.latency.device._check_provider", lambda kind: None)
    with pytest.raises(ValueError, match="device must be 'cpu' for INT8, .*; got 'cuda'"):
        Device("onnxruntime", "cuda", dtype="int8")


def test_int8_networks_are_quantised_before_they_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    models: list[bytes] = []
    bound = Device._bound
    monkeypatch.setattr(
        Device, "_bound", lambda self, model, inputs: (models.append(model), bound(self, model, inputs))[1]
    )
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)
    device = Device("onnxruntime", dtype="int8", batch=2, threads=1)
    run = device.prepare(supernet.extract(supernet.space.sample(0)))
    run()
    graph = onnx.load_model_from_string(models[0]).graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    weights = [tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1]
    assert onnx.TensorProto.INT8 in weights and onnx.TensorProto.FLOAT not in weights
    again = Device.of(Record({}, device.facts(), batch=2, dtype="int8"))
    assert (again.runtime, again.dtype, again.batch, again.threads) == ("onnxruntime", "int8", 2, 1)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_network_whose_input_is_cut_off_is_measured_too(dtype: Any) -> None:
    pytest.importorskip("onnx")
    cut_off = NASBench201Network("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", **CELLS)
    device = Device("onnxruntime", dtype=dtype, threads=1)
    assert device.time(device.prepare(cut_off)) > 0


def test_a_table_of_floats_is_not_verified_as_int8(tmp_path: Path) -> None:
    table = LatencyTable.load(table_of(NASBench201Supernet(**CELLS), tmp_path / "table.json"))
    device = Device("onnxruntime", dtype="int8")
    with pytest.raises(ValueError, match="dtype was float32, is int8"):
        check_device(table, device)


def test_the_facts_name_everything_latencies_depend_on() -> None:
    facts = Device(threads=3).facts()
    assert (facts["runtime"], facts["device"], facts["threads"]) == ("eager", "cpu", 3)
    assert facts["name"] and facts["versions"]["torch"] and facts["system"] == platform.platform()
    assert facts == Device(threads=3).facts()


def test_threads_and_gradients_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneshot.cost.latency.device.keep_freed_memory", lambda: True)  # not undone, so not in a test
    before = torch.get_num_threads()
    with Device(threads=before + 1).ready():
        assert torch.get_num_threads() == before + 1 and not torch.is_grad_enabled()
    assert torch.get_num_threads() == before and torch.is_grad_enabled()


def test_memory_is_kept_where_glibc_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: asked.append((name, value)) or 1)
    monkeypatch.setattr("oneshot.cost.latency.device.ctypes.CDLL", lambda _: library)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert keep_freed_memory() and asked == [(-4, 0), (-1, 2**31 - 1), (-2, 2**26)]
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory() and len(asked) == 3


def test_inputs_are_images_or_words_and_always_the_same() -> None:
    supernet = ToySupernet()
    images = example_input(supernet.extract(SPACE.sample(0)), 3, torch.float16)
    assert images.shape == (3, 4, 8, 8) and images.dtype == torch.float16
    assert torch.equal(images, example_input(supernet.extract(SPACE.sample(1)), 3, torch.float16))
    language = RecurrentSupernet(num_classes=50, size=8)
    words = example_input(language.extract(language.space.sample(0), inherit=False), 2, torch.float16)
    assert words.shape == (2, 35) and words.dtype == torch.int64 and words.min() >= 0 and words.max() < 50


@pytest.mark.parametrize(
    ("runtime", "dtype"), [("eager", "float32"), ("eager", "bfloat16"), ("onnxruntime", "float32")]
)
def test_the_time_of_a_pass_is_that_of_the_whole_network_on_the_whole_batch(
    runtime: Any, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only moves where the runtime computes: three milliseconds a pass."""
    monkeypatch.setattr("oneshot.cost.latency.device.keep_freed_memory", lambda: True)
    clock, passes = [0.0], []

    def computed(batch: int) -> None:
        clock[0] += 3e-3
        passes.append(batch)

    network = ToySupernet().extract(SPACE.sample(0)).train()
    seen: list[tuple[torch.dtype, bool]] = []
    network.register_forward_pre_hook(lambda module, args: seen.append((args[0].dtype, module.training)))
    if runtime == "onnxruntime":
        onnxruntime = pytest.importorskip("onnxruntime")

        class Session(onnxruntime.InferenceSession):  # type: ignore[misc]  # untyped
            def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
                super().run_with_iobinding(binding, options)
                computed(binding.copy_outputs_to_cpu()[0].shape[0])

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    else:
        network.register_forward_hook(lambda module, args, output: computed(len(output)))
    monkeypatch.setattr("oneshot.cost.latency.device.time.perf_counter", lambda: clock[0])
    device = Device(runtime, threads=1, batch=5, dtype=dtype)
    with device.ready():
        run = device.prepare(network)
        passes.clear()
        assert device.time(run) == pytest.approx(3.0), "in milliseconds"
    assert passes == [5]
    assert {kind for kind, _ in seen} == {getattr(torch, dtype)} and not seen[-1][1], "as it is exported"


@pytest.mark.slow
def test_compiled_networks_do_not_push_each_other_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneshot.cost.latency.device.keep_freed_memory", lambda: True)
    compiled = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return graph.forward

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_with(function, backend=backend))
    device, supernet = Device("compile", threads=1), ToySupernet()
    with device.ready():
        runs = [device.prepare(supernet.extract(SPACE.sample(n)).eval()) for n in range(20)]  # more than dynamo keeps
        for run in runs + runs:
            device.time(run)
    assert compiled == 20


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_this_machine_is_measured_and_verified(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneshot.cost.latency.device.keep_freed_memory", lambda: True)
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
    supernet = NASBench201Supernet(channels=8, cells_per_stage=1, image_size=16)
    device = Device(runtime, threads=1)
    table = measure(supernet, device, networks=20)
    result = verify(table, supernet, device, networks=4)
    assert np.isfinite(result.agreement.rmse) and table.cost(supernet.space).unit == "ms"
    assert min(result.predicted) > 0 and min(result.measured) > 0


def test_more_threads_than_cores_are_not_measured() -> None:
    refused = pytest.raises(ValueError, match="threads must be at most .* the number of cores here; got 9999")
    with refused, Device(threads=9999).ready():
        pytest.fail("it measures")


@pytest.mark.slow
def test_a_network_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneshot.cost.latency.device.keep_freed_memory", lambda: True)
    device = Device("compile", threads=1)
    with device.ready():
        assert device.time(device.prepare(ToySupernet().extract(SPACE.sample(0)).eval())) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_a_gpu_is_measured_by_its_own_clock(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneshot.cost.latency.device.keep_freed_memory", lambda: True)
    device = Device(runtime, "cuda", threads=1)
    with device.ready():
        run = device.prepare(ToySupernet().extract(SPACE.sample(0)).eval())
        assert min(device.time(run) for _ in range(3)) > 0
    assert device.facts()["cuda"] and device.facts()["driver"]
