from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import oneshot
from oneshot.cost import count
from oneshot.deploy.export import export_subnet, load
from oneshot.deploy.manifest import exported_preprocessing, read_manifest
from oneshot.errors import MissingExtraError
from oneshot.supernets import (
    PUBLISHED,
    ArchGraph,
    DARTSNetwork,
    MobileNetV3Supernet,
    NASBench201Network,
    NASBench201Supernet,
)
from oneshot.supernets.base import Subnet

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = {"subnet.json", "model.safetensors", "model.pt2", "model.onnx", "manifest.json", "predict.py", "README.md"}


def trained(network: Subnet) -> Subnet:
    """The network with weights and batch-norm statistics that are not the initial ones."""
    for parameter in network.parameters():
        nn.init.normal_(parameter.data, std=0.2 if parameter.dim() > 1 else 1.0)
    for _ in range(3):
        network(torch.randn(8, *network.input_shape))
    return network.train()


def nasbench201() -> Subnet:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)
    return trained(supernet.extract(supernet.space.sample(1)))


def darts() -> Subnet:
    return trained(DARTSNetwork(PUBLISHED["DARTS_V1"], channels=4, cells=3, image_size=9, auxiliary=True))


def mobilenetv3() -> Subnet:
    supernet = MobileNetV3Supernet(
        num_classes=10, image_size=16, widths=(0.2, 0.25), depths=(1, 2), expansions=(2, 3), stem="cifar"
    )
    return trained(supernet.extract(supernet.space.sample(3)))


def outputs(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(network).eval()(x)  # type: ignore[no-any-return]  # nn.Module


@pytest.fixture(scope="module", params=[nasbench201, darts, mobilenetv3])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Subnet, Path]:
    """A network, and the folder it was exported to with all formats."""
    torch.manual_seed(0)
    network: Subnet = request.param()
    channels = network.input_shape[0]
    folder = export_subnet(
        network,
        tmp_path_factory.mktemp("runs") / "new" / "export",
        mean=[0.5] * channels,
        std=[0.25] * channels,
        classes=[f"class {i}" for i in range(10)],
        metrics={"test/accuracy": torch.tensor(0.75), "broken": math.nan},  # type: ignore[dict-item]  # as Lightning's
    )
    return network, folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export without the slow formats, for a test to damage."""
    return export_subnet(nasbench201(), tmp_path / "export", formats=())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_file_gives_the_outputs_of_the_network_for_any_batch_size(
    exported: tuple[Subnet, Path], batch: int, record_property: Callable[[str, object], None]
) -> None:
    network, folder = exported
    x = torch.randn(batch, *network.input_shape)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    expected = outputs(network, x)

    assert expected.std() > 1e-2
    assert torch.equal(load(folder)(x), expected)
    with torch.no_grad():
        program = torch.export.load(folder / "model.pt2").module()(x)
    (logits,) = session.run(["logits"], {"images": x.numpy()})
    for found in (program, torch.from_numpy(logits)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        record_property("largest_difference", (found - expected).abs().max().item())


def test_the_manifest_says_what_a_user_of_the_network_must_know(exported: tuple[Subnet, Path]) -> None:
    network, folder = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    channels, counts = network.input_shape[0], count(network, network.input_shape)

    assert {path.name for path in folder.iterdir()} == WRITTEN
    files = manifest.pop("files")
    assert files.keys() == WRITTEN - {"manifest.json"}
    for name, file in files.items():
        assert file["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest(), name
    assert {name for name, file in files.items() if file.get("max_abs_difference", 1.0) <= 1e-5} == {
        "model.safetensors",
        "model.pt2",
        "model.onnx",
    }
    assert manifest.pop("versions").items() >= {"oneshot": oneshot.__version__, "torch": torch.__version__}.items()
    assert manifest.pop("created").endswith("+00:00")
    assert len(manifest.pop("sha256")) == 64
    assert manifest == {
        "schema_version": 1,
        "space": network.config and network.config.space,
        "config": network.config and network.config.to_dict(),
        "class_path": f"oneshot.supernets.{type(network).__name__}",
        "input_shape": list(network.input_shape),
        "num_classes": 10,
        "task": {
            "class_path": "oneshot.tasks.Classification",
            "init_args": {},
            "metric": "accuracy",
            "direction": "max",
        },
        "classes": [f"class {i}" for i in range(10)],
        "preprocessing": None,
        "normalisation": {"mean": [0.5] * channels, "std": [0.25] * channels},
        "metrics": {"test/accuracy": 0.75, "broken": None},
        "params": counts.params,
        "macs": counts.macs,
        "memory": counts.memory,
        "predict": {
            "script": "predict.py",
            "model": "model.onnx",
            "reads": ".npy files",
            "function": "arrays",
            "normalisation": {"mean": [0.5] * channels, "std": [0.25] * channels},
        },
    }


class Spectral(NASBench201Network):
    """Looks at its images through a Fourier transform, of which nobody knows the multiplications."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.fft.ifft2(torch.fft.fft2(x)).real)


def test_a_manifest_names_what_its_macs_leave_out(tmp_path: Path) -> None:
    arch = "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"
    size: dict[str, Any] = {"channels": 4, "cells_per_stage": 1, "image_size": 8}
    plain = NASBench201Network(arch, **size)

    with pytest.warns(UserWarning, match="lower bound: .*fft"):
        folder = export_subnet(Spectral(arch, **size), tmp_path / "spectral", formats=[])
    manifest = json.loads((folder / "manifest.json").read_text())

    assert manifest["uncounted"]
    assert manifest["macs"] == count(plain, plain.input_shape).macs > 0


def test_everybody_who_may_read_one_file_may_read_all(exported: tuple[Subnet, Path]) -> None:
    assert len({path.stat().st_mode for path in exported[1].iterdir()}) == 1


def test_a_loaded_network_is_what_was_exported(exported: tuple[Subnet, Path]) -> None:
    network, folder = exported
    random_state = torch.get_rng_state()

    loaded = load(folder)

    assert type(loaded) is type(network)
    assert (loaded.config, loaded.init_args, loaded.training) == (network.config, network.init_args, False)
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_loading_needs_no_lightning_and_unpickles_nothing(folder: Path) -> None:
    script = (
        "import sys, torch, oneshot, oneshot.deploy.export\n"
        "events = []\n"
        "sys.addaudithook(lambda event, args: events.append(event) if event == 'pickle.find_class' else None)\n"
        f"net = oneshot.load({str(folder)!r})\n"
        "assert events == [], events\n"
        "heavy = {'pytorch_lightning', 'torchmetrics', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )

    done = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Lightning calls the last hooks of a test run in inference mode.
@pytest.mark.parametrize(("inference_mode", "formats"), [(False, ()), (True, ("torch_export", "onnx"))])
def test_exporting_changes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], inference_mode: bool, formats: Any
) -> None:
    network = nasbench201().double()
    assert isinstance(network.stem, nn.Module)
    network.stem.eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    random_state = torch.get_rng_state()

    with torch.inference_mode(inference_mode):
        export_subnet(network, tmp_path / "export", formats=formats)
        assert torch.is_inference_mode_enabled() is inference_mode

    assert [module.training for module in network.modules()] == modes
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert capfd.readouterr() == ("", "")
    assert {tensor.dtype for tensor in load(tmp_path / "export").parameters()} == {torch.float32}


def test_only_the_formats_asked_for_are_written(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == WRITTEN - {"model.pt2", "model.onnx", "predict.py"}


def test_a_network_loads_from_the_two_files_alone(tmp_path: Path) -> None:
    network = nasbench201()
    folder = export_subnet(network, tmp_path / "export", formats=())
    for path in folder.iterdir():
        if path.name not in ("subnet.json", "model.safetensors"):
            path.unlink()
    assert len([*folder.iterdir()]) == 2

    loaded = load(folder)
    assert isinstance(loaded, NASBench201Network) and loaded.config == network.config
    x = torch.randn(4, *network.input_shape)
    torch.testing.assert_close(outputs(loaded, x), outputs(network, x), rtol=0, atol=0)


# An earlier export.


def test_an_existing_folder_is_refused_before_any_work(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(FileExistsError, match=rf"{folder} exists\. Replace it: overwrite=True \(--overwrite\)"):
        export_subnet(nasbench201(), folder)

    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_overwrite_replaces_the_whole_folder_also_through_a_link(folder: Path) -> None:
    (folder / "old.txt").touch()
    link = folder.with_name("latest")
    link.symlink_to(folder)
    network = nasbench201()

    export_subnet(network, link, formats=(), overwrite=True)

    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(load(folder)(x), outputs(network, x))
    assert not (folder / "old.txt").exists()
    assert link.is_symlink()
    assert {path.name for path in folder.parent.iterdir()} == {"export", "latest"}


def test_overwrite_replaces_nothing_but_an_export(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(
        FileExistsError, match=f"A folder to overwrite must be an export; {tmp_path} holds something else"
    ):
        export_subnet(nasbench201(), tmp_path, overwrite=True)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("broken", ["torch.export.save", "pathlib.Path.rename"])
def test_a_failure_leaves_no_half_written_folder_and_the_old_one_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    rename = Path.rename

    def fail(source: Any, target: Any) -> Any:
        if broken == "pathlib.Path.rename" and target != folder:  # the first renames the old folder away
            return rename(source, target)
        monkeypatch.undo()
        raise OSError("No space left on device")

    monkeypatch.setattr(broken, fail)

    with pytest.raises(OSError, match="No space left"):
        export_subnet(nasbench201(), folder, formats=("torch_export",), overwrite=True)

    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            {"mean": [0.5]}, r"mean and std must come together, one value for each of 1 channels", id="mean-only"
        ),
        pytest.param({"mean": [0.5] * 3, "std": [1] * 3}, r"for each of 1 channels; got \[0.5, 0.5, 0.5\]", id="rgb"),
        pytest.param({"mean": [], "std": []}, r"mean and std must come together", id="empty-normalisation"),
        pytest.param({"classes": ["cat", "dog"]}, r"each of the 10 logits; got 2: \['cat', 'dog'\]", id="classes"),
        pytest.param(
            {"formats": ["tflite"]},
            r"formats must be among \('torch_export', 'onnx', 'openvino', 'executorch'\); got \['tflite'\]",
            id="format",
        ),
    ],
)
def test_an_argument_that_does_not_fit_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_subnet(nasbench201(), tmp_path / "export", **arguments)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx_without_its_extra_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(
        MissingExtraError, match=rf"needs {package}\. Install it with: pip install 'oneshot-nas\[onnx\]'"
    ):
        export_subnet(nasbench201(), tmp_path / "export")


class Toy(Subnet):
    """A network of somebody else's; `kind` says what is wrong with it."""

    def __init__(self, kind: str = "good") -> None:
        super().__init__()
        self.init_args: dict[str, Any] = {"kind": kind}
        self.kind, self.input_shape, self.num_classes = kind, (1, 2, 2), 2
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        if self.kind == "random":
            x = torch.randn_like(x)
        x = self.linear(x)
        if self.kind == "one logit":  # of one image is random
            x = x + torch.randn(()) * torch.eye(*x.shape) * (torch.arange(len(x)) == 0)[:, None]
        return x / 0 * 0 if self.kind == "nan" else x

    def graphs(self) -> list[ArchGraph]:
        return []


class Cancelling(Toy):
    """Adds large terms that cancel, in one order or the other, as a processor does for different layouts."""

    reverse = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x.flatten(1))
        terms = [-3e4 * y, y, 2e4 * y, 1e4 * y]
        total = torch.zeros_like(y)
        for term in terms[::-1] if self.reverse else terms:
            total = total + term
        return total


class NotJSON(Toy):
    def __init__(self, kind: str = "good") -> None:
        super().__init__(kind)
        self.init_args = {"kind": object()}


class WrongArguments(Toy):
    def __init__(self, kind: str = "good") -> None:
        super().__init__(kind)
        self.init_args = {"depth": 3}


def nested() -> Subnet:
    class Inner(Toy):
        pass

    return Inner()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        pytest.param(
            lambda: nn.Linear(1, 1), ValueError, r"The network must be a Subnet; got a Linear", id="not-a-subnet"
        ),
        pytest.param(nested, ValueError, r"must be importable; .*nested.<locals>.Inner is not", id="local-class"),
        pytest.param(NotJSON, ValueError, r"init_args of NotJSON must be JSON", id="not-json"),
        pytest.param(WrongArguments, ValueError, r"does not describe a .*WrongArguments: .*'depth'", id="arguments"),
        pytest.param(lambda: Toy("nan"), RuntimeError, r"they differ by nan.* or gives NaN", id="nan"),
        pytest.param(lambda: Toy("random"), RuntimeError, r"model.safetensors, loaded again, .*random", id="random"),
        pytest.param(
            lambda: Toy("one logit"), RuntimeError, r"model.safetensors, loaded again, .*random", id="one logit"
        ),
    ],
)
def test_a_network_that_cannot_be_had_back_is_refused(
    tmp_path: Path, make: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_subnet(make(), tmp_path / "export", formats=())

    assert list(tmp_path.iterdir()) == []


def test_what_a_network_loses_by_rounding_itself_is_no_difference_of_a_file(tmp_path: Path) -> None:
    network = Cancelling()
    network.reverse = True
    folder = export_subnet(network, tmp_path / "export", formats=())
    told = read_manifest(folder)["files"]["model.safetensors"]["max_abs_difference"]  # type: ignore[index]
    x = torch.randn(4, 1, 2, 2)
    exact = network.double()(x.double())
    assert 1e-5 * max(1.0, float(exact.detach().abs().max())) < told < 1e-2
    other = Cancelling()
    other.linear.weight.register_hook(lambda gradient: gradient)
    other.forward = lambda x: Cancelling.forward(other, x) + 0.01  # type: ignore[method-assign]  # which no rounding is
    with pytest.raises(RuntimeError, match=r"they differ by 1.0e-02"):
        export_subnet(other, tmp_path / "other", formats=())


# Reading.


def test_another_packages_class_is_built_only_when_trusted(tmp_path: Path) -> None:
    folder = export_subnet(Toy(), tmp_path / "export", formats=())

    with pytest.raises(
        ValueError, match=rf"{Toy.__module__}.Toy. If you trust it, pass trust=\('{__name__.split('.')[0]}',\)"
    ):
        load(folder)
    with pytest.raises(ValueError, match="only classes of oneshot are built unasked"):
        load(folder, trust=(Toy.__module__[:-1],))

    assert isinstance(load(folder, trust=(Toy.__module__,)), Toy)


def edit(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """A damage that rewrites `subnet.json`."""

    def damage(folder: Path) -> None:
        path = folder / "subnet.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


def edit_network(**fields: Any) -> Callable[[Path], None]:
    return edit(lambda data: data | {"network": data["network"] | fields})


def edit_tensors(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """A damage that rewrites the weights and hides it from the checksum."""

    def damage(folder: Path) -> None:
        (folder / "manifest.json").unlink()
        tensors = safetensors.torch.load_file(folder / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, folder / "model.safetensors")

    return damage


def replace(name: str, content: bytes | None) -> Callable[[Path], None]:
    """A damage that overwrites a file (`None`: truncates it), in the case of weights without a checksum."""

    def damage(folder: Path) -> None:
        (folder / "manifest.json").unlink()
        path = folder / name
        path.write_bytes(path.read_bytes()[:-20] if content is None else content)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(shutil.rmtree, r"there is no folder .*export\. 'oneshot export'", id="no-folder"),
        pytest.param(
            lambda f: os.remove(f / "subnet.json"), r"must have a subnet.json; .*export has none", id="no-subnet"
        ),
        pytest.param(
            lambda f: os.remove(f / "model.safetensors"), r"must have a model.safetensors; .* none", id="no-weights"
        ),
        pytest.param(replace("subnet.json", None), r"subnet.json is not JSON .*truncated", id="truncated-json"),
        pytest.param(
            replace("subnet.json", b"\xff\xfe\x00"), r"subnet.json is not JSON .*must be UTF-8 text", id="binary-json"
        ),
        pytest.param(replace("subnet.json", b"[1]"), r"must be a JSON object with .*; got \[1\]", id="json-list"),
        pytest.param(edit(lambda d: d["config"]), r"a bare config is read by .*load_config", id="bare-config"),
        pytest.param(edit_network(class_path="os.system"), r"only classes of oneshot .*os.system", id="untrusted"),
        pytest.param(edit_network(class_path="oneshotx.Net"), r"only classes of oneshot", id="similar-name"),
        pytest.param(edit_network(class_path=None), r"only classes of oneshot .*None", id="no-class"),
        pytest.param(edit_network(class_path="oneshot.gone.Net"), r"cannot be imported: No module", id="no-module"),
        pytest.param(
            edit_network(class_path="oneshot.supernets.darts.Gone"), r"cannot be imported", id="no-such-class"
        ),
        pytest.param(
            edit_network(class_path="oneshot.deploy.export.load"), r"load is none\. Export again", id="function"
        ),
        pytest.param(edit_network(class_path="oneshot.supernets.base.Supernet"), r"Supernet is none", id="supernet"),
        pytest.param(edit_network(class_path="oneshot.supernets.base.Subnet"), r"does not describe", id="abstract"),
        pytest.param(edit_network(init_args={"depth": 3}), r"does not describe a .*'depth'", id="other-arguments"),
        pytest.param(edit_network(init_args=7), r"does not describe a .*mapping", id="arguments-no-object"),
        pytest.param(
            edit_network(init_args={"arch": "|conv~0|"}), r"A NAS-Bench-201 architecture reads", id="bad-arch"
        ),
        pytest.param(edit(lambda d: d | {"schema_version": 2}), r"must have schema version 1; it has 2", id="version"),
        pytest.param(edit(lambda d: d | {"config": {"x": 1}}), "must be a JSON object", id="foreign-config"),
        pytest.param(
            edit(lambda d: d | {"config": d["config"] | {"schema_version": 9}}),
            "schema version 1; this one has 9",
            id="config-version",
        ),
        pytest.param(replace("model.safetensors", None), r"not a safetensors file, or a truncated", id="truncated"),
        pytest.param(replace("model.safetensors", b"PK\x03\x04 pickle"), r"not a safetensors file", id="foreign"),
        pytest.param(replace("model.safetensors", b""), r"not a safetensors file", id="empty"),
        pytest.param(edit_tensors(lambda t: t.pop("head.4.bias")), r"Missing key.*head.4.bias", id="missing-tensor"),
        pytest.param(
            edit_tensors(lambda t: t.update(extra=torch.ones(1))),
            r"another network .*Unexpected.*extra",
            id="extra-tensor",
        ),
        pytest.param(
            edit_tensors(lambda t: t.update({"head.4.bias": torch.ones(3)})),
            r"size mismatch for head.4.bias",
            id="shape",
        ),
        pytest.param(
            lambda f: (f / "model.safetensors").write_bytes(b"other"), r"must have the SHA-256 .*damaged", id="checksum"
        ),
        pytest.param(lambda f: (f / "manifest.json").write_text("{"), r"manifest.json is not JSON", id="manifest"),
        pytest.param(lambda f: (f / "manifest.json").write_text("[]"), r"must hold the SHA-256", id="foreign-manifest"),
    ],
)
def test_a_damaged_or_foreign_export_is_refused(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(folder)

    with pytest.raises(ValueError, match=f"(?s){message}"):
        load(folder)


# One network, said three times: by the config, the arguments and the manifest.


@pytest.fixture(params=[nasbench201, mobilenetv3])
def searched(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return export_subnet(request.param(), tmp_path / "export", formats=(), mean=None, classes=None)


@pytest.mark.parametrize("manifest", [True, False], ids=["with a manifest", "without"])
def test_a_config_of_another_architecture_is_refused(searched: Path, manifest: bool) -> None:
    assert load(searched).config is not None
    path = searched / "subnet.json"
    data = json.loads(path.read_text())
    name = "cell" if "cell" in data["config"]["picks"] else "resolution"
    picks = data["config"]["picks"][name]
    picks[0] = "skip_connect" if picks[0] == "nor_conv_3x3" else "nor_conv_3x3" if name == "cell" else 14
    path.write_text(json.dumps(data))
    if not manifest:
        (searched / "manifest.json").unlink()

    with pytest.raises(ValueError, match=r"subnet.json must be of one architecture; its 'config' is another than"):
        load(searched)


@pytest.mark.parametrize("name", ["subnet.json", "model.safetensors"])
def test_no_flipped_bit_of_an_export_is_used(
    folder: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    rng, whole = random.Random(0), (folder / name).read_bytes()
    for _ in range(60):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"subnet\.|SHA-256|cannot be imported|only classes of oneshot"):
            load(folder)
    (folder / name).write_bytes(whole)
    load(folder)
    record_property("flips", 60)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("space", "darts"),
        ("config", None),
        ("class_path", "oneshot.supernets.DARTSNetwork"),
        ("input_shape", [3, 8, 8]),
        ("num_classes", 100),
        ("classes", ["cat", "dog"]),
        ("normalisation", {"mean": [0.5] * 3, "std": [0.5] * 3}),
    ],
)
def test_a_manifest_of_another_network_is_refused(folder: Path, field: str, value: object) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest.json must have the content of its 'sha256'"):
        load(folder)
    del manifest["sha256"]  # as in earlier releases
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest.json must"):
        load(folder)


def test_a_manifest_whose_mean_was_changed_is_refused_and_one_without_a_checksum_is_read(tmp_path: Path) -> None:
    folder = export_subnet(nasbench201(), tmp_path / "export", formats=(), mean=[0.5], std=[0.25])
    path, manifest = folder / "manifest.json", json.loads((folder / "manifest.json").read_text())
    manifest["normalisation"]["mean"][0] += 0.25
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest.json must have the content of its 'sha256' and has another"):
        load(folder)
    with pytest.raises(ValueError, match="Restore it; after a change on purpose take 'sha256' out of it"):
        exported_preprocessing(folder)
    manifest["normalisation"]["mean"][0] -= 0.25
    path.write_text(json.dumps(dict(reversed(manifest.items()))))  # order and spaces do not count
    load(folder)
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    load(folder)


def test_an_export_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    """Class paths were those of the modules, and the manifest had no checksum that was looked at."""
    network = nasbench201()
    folder = export_subnet(network, tmp_path / "export", formats=())
    path, manifest = folder / "subnet.json", json.loads((folder / "manifest.json").read_text())
    old = "oneshot.supernets.nasbench201.NASBench201Network"
    path.write_text(path.read_text().replace("oneshot.supernets.NASBench201Network", old))
    manifest["class_path"] = old
    del manifest["sha256"]
    manifest["files"]["subnet.json"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    x = torch.randn(2, *network.input_shape)

    assert torch.equal(load(folder)(x), outputs(network, x))


def test_a_network_that_was_made_larger_is_no_longer_of_its_architecture(tmp_path: Path) -> None:
    network = mobilenetv3()
    larger = type(network)(**{**network.init_args, "image_size": 24})
    larger.config = network.config

    assert load(export_subnet(larger, tmp_path / "export", formats=())).config is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cells_per_stage": 1_000_000_000}, r"cells_per_stage must be at most 1,000; got 1e\+09"),
        ({"channels": 10**12}, r"channels must be at most 100,000"),
        ({"channels": 1e12}, r"channels must be at most 100,000"),
        ({"channels": 60_000}, r"at most 2,147,483,648 weights; this one has more"),
        ({"num_classes": 10**15}, r"num_classes must be at most 10,000,000"),
        ({"channels": math.nan}, r"NaN is no number of JSON"),
    ],
)
def test_a_network_too_large_to_be_meant_is_not_built(folder: Path, arguments: dict[str, Any], message: str) -> None:
    path = folder / "subnet.json"
    data = json.loads(path.read_text())
    data["network"]["init_args"] |= arguments
    path.write_text(json.dumps(data))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ValueError, match=message):
        load(folder)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000, "KiB"
