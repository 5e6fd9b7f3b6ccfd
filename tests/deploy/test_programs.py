"""Versions of ONNX, and programs for OpenVINO and ExecuTorch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from oneshot.cli.commands import FORMATS
from oneshot.deploy import programs
from oneshot.deploy.export import export_subnet, load
from oneshot.deploy.manifest import read_manifest
from oneshot.errors import MissingExtraError
from oneshot.supernets import NASBench201Network
from oneshot.supernets.base import Subnet

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


def network() -> Subnet:
    torch.manual_seed(0)
    found = NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=3, image_size=8)
    for _ in range(2):
        found.train()(torch.randn(8, 3, 8, 8))
    return found.eval()


def files_of(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    assert manifest is not None
    files: dict[str, Any] = manifest["files"]
    return files


@pytest.mark.parametrize("opset", [None, programs.OPSETS[0], programs.OPSETS[-1]])
def test_a_file_has_the_opset_that_the_manifest_says(opset: int | None, tmp_path: Path) -> None:
    folder = export_subnet(network(), tmp_path / "export", formats=("onnx",), opset=opset)
    (found,) = {entry.version for entry in onnx.load(folder / "model.onnx").opset_import if entry.domain == ""}
    assert found == files_of(folder)["model.onnx"]["opset"] == (opset or found)
    assert found in programs.OPSETS
    x = torch.randn(5, 3, 8, 8)
    (logits,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"images": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, network()(x).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"opset": 17}, r"opset must be from 18 to 25; got 17", id="old"),
        pytest.param({"opset": 26}, r"opset must be from 18 to 25; got 26", id="new"),
        pytest.param({"opset": 20, "formats": ()}, r"so formats must have 'onnx'; got \(\)", id="no-onnx"),
        pytest.param({"formats": ("openvino",)}, r"formats must have 'onnx', of which", id="openvino-alone"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_subnet(network(), tmp_path / "export", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_opset_that_the_installed_packages_cannot_write_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Onnxscript only logs that it cannot convert a file, and leaves it as it is."""
    export = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, opset_version, **k: export(*a, opset_version=18, **k))
    with pytest.raises(
        RuntimeError, match=r"model.onnx must have opset 23 and has 18: the installed onnxscript cannot"
    ):
        export_subnet(network(), tmp_path / "export", formats=("onnx",), opset=23)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "formats"), [("OpenVINO", ("onnx", "openvino")), ("ExecuTorch", ("executorch",))])
def test_a_format_without_its_extra_says_how_to_install_it(
    name: str, formats: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name.lower(), None)
    with pytest.raises(
        MissingExtraError, match=rf"Exporting to {name} needs {name.lower()}\. .*'oneshot-nas\[{name.lower()}\]'"
    ):
        export_subnet(network(), tmp_path / "export", formats=formats)


def test_the_command_line_knows_the_formats() -> None:
    assert tuple(programs.FILES) == tuple(FORMATS)


# These need the extras of their names, which the tests do not install.


@pytest.mark.slow
def test_openvino_gives_what_the_network_gives(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    folder = export_subnet(network(), tmp_path / "export", formats=("onnx", "openvino"))
    files = files_of(folder)
    assert files["model.xml"]["max_abs_difference"] <= 1e-5 and len(files["model.bin"]["sha256"]) == 64
    x = torch.randn(7, 3, 8, 8)
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = load(folder)(x).numpy()
    assert expected.std() > 1e-2
    np.testing.assert_allclose(compiled({"images": x.numpy()})["logits"], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)  # it takes minutes to import, where the processors are busy
@pytest.mark.filterwarnings("ignore")
def test_executorch_gives_what_the_network_gives(tmp_path: Path) -> None:
    runtime = pytest.importorskip("executorch.runtime", reason="the extra executorch is not installed")
    folder = export_subnet(network(), tmp_path / "export", formats=("executorch",))
    assert files_of(folder)["model.pte"]["max_abs_difference"] <= 1e-5
    method = runtime.Runtime.get().load_program(folder / "model.pte").load_method("forward")
    for batch in (1, 7):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            expected = load(folder)(x)
        torch.testing.assert_close(method.execute([x])[0], expected, rtol=0, atol=1e-5)
