"""The programs of an export: for torch.export, ONNX, OpenVINO and ExecuTorch. Each is loaded again, and run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from oneshot.errors import missing_extra
from oneshot.inputs import Inputs, mapped, tensors

Format: TypeAlias = Literal["torch_export", "onnx", "openvino", "executorch"]
FILES = {"torch_export": "model.pt2", "onnx": "model.onnx", "openvino": "model.xml", "executorch": "model.pte"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",), "executorch": ("executorch",)}
NAMES = {"onnx": "ONNX", "openvino": "OpenVINO", "executorch": "ExecuTorch"}
OPSETS = range(18, 26)  # that onnxscript converts to, of those that torch and ONNX Runtime know
TRACED_BATCH = 2


@dataclass(frozen=True)
class Programs:
    """Which programs are written, and how.

    Args:
        formats: Among ``torch_export``, ``onnx``, ``openvino`` and ``executorch``.
        opset: Version of the ONNX operators; None for that of the installed torch.

    Raises:
        ValueError: If a format is not known, ``openvino`` is asked for without ``onnx``, of which it is made, or the
            opset is not one that can be written.
        MissingExtraError: If a package is not installed.
    """

    formats: Sequence[str]
    opset: int | None = None

    def __post_init__(self) -> None:
        if not set(self.formats) <= FILES.keys():
            raise ValueError(f"formats must be among {tuple(FILES)}; got {self.formats!r}.")
        if "openvino" in self.formats and "onnx" not in self.formats:
            raise ValueError(f"formats must have 'onnx', of which the file for 'openvino' is made; got {self.formats}.")
        if self.opset is not None and self.opset not in OPSETS:
            raise ValueError(
                f"opset must be from {OPSETS[0]} to {OPSETS[-1]}; got {self.opset}. Leave it out if any does."
            )
        if self.opset is not None and "onnx" not in self.formats:
            raise ValueError(f"opset is of an ONNX file, so formats must have 'onnx'; got {self.formats}.")
        for kind in self.formats:
            for package in PACKAGES.get(kind, ()):
                if find_spec(package) is None:
                    raise missing_extra(package, kind, f"Exporting to {NAMES[kind]}")

    def write(
        self, net: nn.Module, folder: Path, batches: Sequence[Inputs], *, sizes: bool = False
    ) -> dict[str, list[Tensor]]:
        """Write the files, load them again, and return their outputs for all batches; the first is what is traced.

        Args:
            net: The network.
            folder: Where to write.
            batches: ``[B, ...]``.
            sizes: Whether the second and third dimension may change, too.

        Raises:
            ValueError: If ExecuTorch is to run a program for images of any size.
            RuntimeError: If the ONNX file does not have the opset.
        """
        if not self.formats:
            return {}
        if sizes and "executorch" in self.formats:
            raise ValueError(
                "A file for ExecuTorch takes normalised images of one size. Export it without the preprocessing."
            )
        dimensions = ("batch", "height", "width") if sizes else ("batch",)
        dims = {d: torch.export.Dim(name) for d, name in enumerate(dimensions)}
        several = list(batches[0]) if isinstance(batches[0], Mapping) else None
        dynamic = (dims if several is None else dict.fromkeys(several, dims),)
        example, outputs = (mapped(lambda part: part[:TRACED_BATCH], batches[0]),), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters warn of their own code; the files are checked below
            program = torch.export.export(net, example, dynamic_shapes=dynamic, strict=False)
            if "torch_export" in self.formats:
                path = folder / FILES["torch_export"]
                torch.export.save(program, path)
                module = torch.export.load(path).module()
                outputs[path.name] = [module(batch) for batch in batches]
            if "onnx" in self.formats:
                path = folder / FILES["onnx"]
                names: dict[str, Any] = {"input_names": several or ["images"], "output_names": ["logits"]}
                names |= {"dynamic_shapes": dynamic, "opset_version": self.opset}
                torch.onnx.export(program, example, path, dynamo=True, external_data=False, verbose=False, **names)
                self._check_opset(path)
                outputs[path.name] = _run_onnx(path, batches)
            if "openvino" in self.formats:
                path = folder / FILES["openvino"]
                outputs[path.name] = _write_openvino(folder / FILES["onnx"], path, batches)
            if "executorch" in self.formats:
                path = folder / FILES["executorch"]
                outputs[path.name] = _write_executorch(program, path, batches)
        return outputs

    def _check_opset(self, path: Path) -> None:
        if self.opset is not None and (found := opset_of(path)) != self.opset:
            raise RuntimeError(
                f"{path.name} must have opset {self.opset} and has {found}: the installed onnxscript cannot convert "
                "this network. Ask for another opset, or update onnxscript."
            )


def opset_of(path: Path) -> int:
    """Version of the operators of ONNX in a file."""
    import onnx

    imports = onnx.load(path, load_external_data=False).opset_import
    return next(int(entry.version) for entry in imports if entry.domain in ("", "ai.onnx"))


def with_opsets(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a manifest says of files, with the opset of each ONNX file."""
    return {
        name: {**said, **({"opset": opset_of(folder / name)} if name.endswith(".onnx") else {})}
        for name, said in files.items()
    }


def _run_onnx(path: Path, batches: Sequence[Inputs]) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, _arrays(batch))[0]) for batch in batches]


def _write_openvino(source: Path, path: Path, batches: Sequence[Inputs]) -> list[Tensor]:
    """Write ``model.xml`` with ``model.bin`` beside it, float32, and run them in single precision."""
    import openvino

    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [torch.from_numpy(compiled(_arrays(batch))["logits"].copy()) for batch in batches]


def _write_executorch(program: torch.export.ExportedProgram, path: Path, batches: Sequence[Inputs]) -> list[Tensor]:
    """Write ``model.pte`` for XNNPACK, ExecuTorch's backend for processors, and run it."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)
    method = Runtime.get().load_program(path).load_method("forward")
    return [method.execute([part.contiguous() for part in tensors(batch)])[0].clone() for batch in batches]


def _arrays(batch: Inputs) -> dict[str, Any]:
    """Inputs as ONNX Runtime and OpenVINO take them."""
    return {name: part.numpy() for name, part in (batch if isinstance(batch, Mapping) else {"images": batch}).items()}
