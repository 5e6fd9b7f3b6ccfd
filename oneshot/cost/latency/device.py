"""Devices that latencies are measured on, and how long one pass of a network takes there."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import platform
import subprocess
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from oneshot.cost.record import Record
from oneshot.errors import missing_extra
from oneshot.inputs import Inputs, mapped
from oneshot.quantisation import quantised
from oneshot.supernets.base import Subnet, example_inputs
from oneshot.supernets.recurrent import LanguageModel

from .table import LatencyTable

Runtime = Literal["eager", "compile", "onnxruntime"]
DType = Literal["float32", "bfloat16", "float16", "int8"]
Run = Callable[[], object]

ONNX_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
PACKAGES = ("oneshot-nas", "torch", "numpy", "onnx", "onnxruntime", "triton")


class LatencyDevice(ABC):
    """A device that networks are measured on; a subclass makes another one known.

    Attributes:
        batch: Inputs in one pass.
        dtype: Of weights and inputs.
    """

    batch: int
    dtype: str

    @abstractmethod
    def prepare(self, network: Subnet) -> Run:
        """A function that runs ``network`` once on the device."""

    @abstractmethod
    def time(self, run: Run) -> float:
        """Milliseconds of one ``run()``."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Everything the latencies depend on, JSON-able. Equal facts, comparable latencies."""

    def ready(self) -> AbstractContextManager[object]:
        """A context in which networks are measured: it sets threads and memory, and turns gradients off."""
        return nullcontext()


class Device(LatencyDevice):
    """This machine's CPU or one of its GPUs.

    Latencies are those of a process that keeps the memory it has freed, see :func:`keep_freed_memory`. That and the
    number of threads are settings of the whole process; the first stays after measuring.

    Args:
        runtime: PyTorch as it is, ``torch.compile``, or ONNX Runtime.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        batch: Inputs in one pass.
        dtype: Of weights and inputs. With ``"int8"`` every network is quantised as in an export
            (:func:`~oneshot.quantisation.quantised`), but calibrated on noise, which changes its outputs and not its
            latency; inputs are float32.
        threads: Of the CPU, for one operation; PyTorch's number by default.

    Raises:
        ValueError: If an argument is out of its range, or the device is not there.
        MissingExtraError: If the runtime is not installed.
    """

    def __init__(
        self,
        runtime: Runtime = "eager",
        device: str = "cpu",
        *,
        batch: int = 1,
        dtype: DType = "float32",
        threads: int | None = None,
    ) -> None:
        if runtime not in get_args(Runtime):
            raise ValueError(f"runtime must be one of {', '.join(get_args(Runtime))}; got {runtime!r}.")
        without = "bfloat16" if runtime == "onnxruntime" else "int8"
        if dtype not in get_args(DType) or dtype == without:
            known = [name for name in get_args(DType) if name != without]
            way = " INT8 networks run in ONNX Runtime: --runtime onnxruntime." if dtype == "int8" else ""
            raise ValueError(f"dtype of {runtime} must be one of {', '.join(known)}; got {dtype!r}.{way}")
        if batch < 1 or (threads is not None and threads < 1):
            raise ValueError(f"batch and threads must be at least 1; got batch={batch}, threads={threads}.")
        kind, _, index = device.partition(":")
        if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
            raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:1'; got {device!r}.")
        if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
            raise ValueError(
                f"{device} is not there: PyTorch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices. "
                "Check the driver with nvidia-smi, or measure on the 'cpu'."
            )
        if runtime == "onnxruntime":
            for package in ("onnx", "onnxruntime"):
                if find_spec(package) is None:
                    raise missing_extra(package, "onnx", "Measuring with ONNX Runtime")
            _check_provider(kind)
        if dtype == "int8" and kind != "cpu":
            raise ValueError(f"device must be 'cpu' for INT8, which ONNX Runtime computes there; got {device!r}.")
        self.runtime, self.device, self.batch, self.dtype = runtime, device, batch, dtype
        self.threads = torch.get_num_threads() if threads is None else threads

    @classmethod
    def of(cls, table: LatencyTable | Record) -> Device:
        """What a table, or a file of measured networks, was measured on, to measure on it again.

        Raises:
            ValueError: If it was not a device of this kind, or is not there.
        """
        known = {"runtime", "device", "threads"}
        if not known <= table.device.keys():
            raise ValueError(
                f"The table does not say what it was measured on: it needs {', '.join(sorted(known))}; got "
                f"{', '.join(sorted(table.device)) or 'nothing'}. Name the device: Device('eager', 'cpu', threads=1)."
            )
        settings = {name: table.device[name] for name in sorted(known)}
        # checked like any other
        return cls(**settings, batch=table.batch or 1, dtype=cast(DType, table.dtype or "float32"))

    def prepare(self, network: Subnet) -> Run:
        dtype: torch.dtype = getattr(torch, "float32" if self.dtype == "int8" else self.dtype)
        if self.runtime == "onnxruntime":
            network = network.cpu().to(dtype).eval()
            return self._session(network, example_input(network, self.batch, dtype))
        network = network.to(self.device, dtype).eval()
        x = mapped(lambda part: part.to(self.device), example_input(network, self.batch, dtype))
        if self.runtime == "eager":
            return lambda: network(x)
        compiled = torch.compile(_with_code_of_its_own(network))
        return lambda: compiled(x)

    def _session(self, network: Subnet, x: Inputs) -> Run:
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # The exporter `oneshot export` uses needs ten seconds for a network, this one half of one. ONNX Runtime
            # folds and fuses what either writes.
            warnings.simplefilter("ignore")
            given = dict(x) if isinstance(x, Mapping) else {"x": x}
            names: dict[str, Any] = {"input_names": list(given), "output_names": ["logits"]}
            args = (x, {}) if isinstance(x, Mapping) else (x,)  # a mapping at the end would be keyword arguments
            # the annotation of torch leaves out the buffers its documentation allows
            torch.onnx.export(network, args, buffer, dynamo=False, verbose=False, **names)  # type: ignore[arg-type]
        model = buffer.getvalue()
        if self.dtype == "int8" and _reads_input(model):
            inputs = {name: part.numpy() for name, part in given.items()}
            model = quantised(model, [inputs], fixed_shapes=True).model
        return self._bound(model, lambda _: {name: part.numpy() for name, part in given.items()})

    def prepare_file(self, path: str | Path, sizes: Sequence[int] = ()) -> Run:
        """A function that runs an ONNX file once on the device; its first dimension, if it is free, is the batch.

        Args:
            path: The file. Every input of it gets a fixed random tensor of its type, whole numbers are 0.
            sizes: Of its other free dimensions, such as height and width, in order.

        Raises:
            ValueError: If this is another runtime, or there are more free dimensions than sizes.
        """
        if self.runtime != "onnxruntime":
            raise ValueError(f"The runtime must be 'onnxruntime' to run ONNX files; got {self.runtime!r}.")

        def inputs(session: Any) -> dict[str, npt.NDArray[Any]]:
            random, found = np.random.default_rng(0), {}
            for given in session.get_inputs():
                free = iter((self.batch, *sizes) if given.shape and not isinstance(given.shape[0], int) else sizes)
                shape = [size if isinstance(size, int) else next(free, 0) for size in given.shape]
                if 0 in shape or given.type not in ONNX_TYPES:
                    raise ValueError(f"{path} reads {given.type} of shape {given.shape}; not all of it is known.")
                kind = ONNX_TYPES[given.type]
                values = random.standard_normal(shape) if np.issubdtype(kind, np.floating) else np.zeros(shape)
                found[given.name] = values.astype(kind)
            return found

        return self._bound(str(path), inputs)

    def _bound(self, model: bytes | str, inputs: Callable[[Any], dict[str, npt.NDArray[Any]]]) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        kind, _, index = self.device.partition(":")
        providers: list[Any] = ["CPUExecutionProvider"]
        if kind == "cuda":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(index or 0)}))
        session = onnxruntime.InferenceSession(model, options, providers=providers)
        binding = session.io_binding()
        read = {given.name for given in session.get_inputs()}  # none, if all paths from the input are cut off
        for name, x in inputs(session).items():
            if name not in read:
                continue
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(x, kind, int(index or 0)))
        for output in session.get_outputs():
            binding.bind_output(output.name, kind, int(index or 0))
        return lambda: session.run_with_iobinding(binding)

    def time(self, run: Run) -> float:
        if self.device == "cpu" or self.runtime == "onnxruntime":  # ONNX Runtime waits for the device itself
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) * 1e3
        with torch.cuda.device(self.device):
            torch.cuda.synchronize()
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            before.record()
            run()
            after.record()
            after.synchronize()
            return float(before.elapsed_time(after))

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"runtime": self.runtime, "device": self.device, "threads": self.threads}
        if self.runtime == "compile":
            facts["compile_mode"] = "default"
        facts["name"], facts["driver"] = processor(), None
        if self.device != "cpu":
            facts["name"], facts["driver"] = torch.cuda.get_device_name(self.device), _driver()
            facts["cuda"] = torch.version.cuda
            facts["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        facts["system"] = platform.platform()
        facts["versions"] = {"python": platform.python_version()}
        for package in PACKAGES:
            with contextlib.suppress(metadata.PackageNotFoundError):
                facts["versions"][package] = metadata.version(package)
        return facts

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        if self.threads > (cores := os.cpu_count() or self.threads):
            raise ValueError(
                f"threads must be at most {cores}, the number of cores here; got {self.threads}. Threads that wait for "
                "each other say nothing about the network."
            )
        keep_freed_memory()
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            # torch.compile makes graphs of its own for inference mode, and not every version of it can.
            with torch.no_grad() if self.runtime == "compile" else torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(threads)


def keep_freed_memory() -> bool:
    """Let the process keep the memory it frees, from now on, where glibc allocates it.

    Otherwise glibc gives large blocks back to the system and asks for them again, pass by pass, or does not: that
    depends on what else lies on the heap. The same network then needs 28 ms or 47 ms (measured on FBNet at batch 1),
    and nobody can say before which of both. A service that needs steady latencies sets the same by
    ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_MAX_`` in its environment, or uses another allocator.

    Returns:
        Whether it could be set.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    # mallopt(3): M_MMAP_MAX is -4, M_TRIM_THRESHOLD is -1, M_TOP_PAD is -2
    settings = ((-4, 0), (-1, 2**31 - 1), (-2, 64 * 2**20))
    return all([ctypes.CDLL(None).mallopt(name, value) for name, value in settings])


def example_input(network: Subnet, batch: int, dtype: torch.dtype) -> Any:
    """A fixed random input: numbers ``[B, *input_shape]``, words ``[B, T]`` of texts, or a mapping of several."""
    if isinstance(network, LanguageModel):
        return torch.randint(
            network.num_classes, (batch, *network.input_shape), generator=torch.Generator().manual_seed(0)
        )
    x = example_inputs(network, batch)
    return mapped(lambda part: part.to(dtype) if part.is_floating_point() else part, x)


def _reads_input(model: bytes) -> bool:
    """Whether the outputs of an ONNX model depend on an input; a cell of ``none`` alone cuts all paths off."""
    import onnx

    return bool(onnx.load_model_from_string(model).graph.input)


def _with_code_of_its_own(network: nn.Module) -> Callable[[Any], Tensor]:
    """``network(x)`` as a function torch.compile takes for a new one: it keeps few variants of the same code."""

    def forward(x: Any) -> Tensor:
        out: Tensor = network(x)
        return out

    forward.__code__ = forward.__code__.replace(co_name=f"forward_{id(network)}")
    return forward


def _check_provider(kind: str) -> None:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if kind == "cuda" and "CUDAExecutionProvider" not in available:
        raise ValueError(
            f"ONNX Runtime on a GPU needs its CUDAExecutionProvider; this installation has {', '.join(available)}. "
            "Install onnxruntime-gpu in place of onnxruntime, or measure on the 'cpu'."
        )


def processor() -> str:
    """Name of this machine's processor."""
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
