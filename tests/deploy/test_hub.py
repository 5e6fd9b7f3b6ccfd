"""Exported networks on the Hugging Face Hub: its own library, with folders in the place of the Hub."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import oneshot
from oneshot.deploy.export import export_subnet
from oneshot.deploy.hub import ExportedNetwork, listed
from oneshot.errors import MissingExtraError
from oneshot.supernets import NASBench201Network
from oneshot.supernets.base import Subnet

ARCH = "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def small() -> Subnet:
    torch.manual_seed(0)
    return NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=4, image_size=8).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_subnet(small(), tmp_path / "export", formats=(), classes=["a", "b", "c", "d"])


@pytest.fixture
def cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the Hub's library keeps of ``me/net`` after it was fetched: it answers from there without a connection."""
    repository = tmp_path / "cache" / "models--me--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return repository / "snapshots" / COMMIT


def same(one: Subnet, other: Subnet) -> bool:
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        return torch.equal(one(x), other(x))


def test_a_folder_is_read_and_copied_whole(folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    exported = ExportedNetwork.from_pretrained(folder)
    assert same(exported.network, small()) and exported.manifest["classes"] == ["a", "b", "c", "d"]

    copied = exported.save_pretrained(tmp_path / "copy")

    assert {path.name for path in copied.iterdir()} == {p.name for p in folder.iterdir()} - {"notes.txt"}
    assert all((copied / path.name).read_bytes() == path.read_bytes() for path in copied.iterdir())
    assert same(ExportedNetwork.from_pretrained(copied).network, small())
    with pytest.raises(FileExistsError, match=r"copy exists\. Replace it"):
        exported.save_pretrained(copied)
    exported.save_pretrained(copied, overwrite=True)


def test_a_changed_model_card_is_copied_as_it_is(folder: Path, tmp_path: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    copied = ExportedNetwork.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    assert "license: mit" in (copied / "README.md").read_text()


def test_a_network_on_the_hub_is_read_by_its_name(cache: Path) -> None:
    for name in ("me/net", "hf://me/net", "hf://me/net@main", f"hf://me/net@{COMMIT}"):
        exported = ExportedNetwork.from_pretrained(name)
        assert exported.folder == cache and same(exported.network, small())
    assert same(oneshot.load("hf://me/net"), small())
    for path in cache.iterdir():  # of which only three are needed
        if path.name not in ("manifest.json", "subnet.json", "model.safetensors"):
            path.unlink()
    assert same(oneshot.load("hf://me/net"), small())
    with pytest.raises(ValueError, match=r"README.md of hf://me/net cannot be fetched from the Hugging Face Hub"):
        ExportedNetwork.from_pretrained("me/net")


def damage_weights(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def damage_script(folder: Path) -> None:
    """Another file than the two of the network."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"]["predict.py"] = {"sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "predict.py").write_text("import os")


@pytest.mark.parametrize("damage", [damage_weights, damage_script])
def test_a_damaged_file_is_refused_from_the_hub_from_a_folder_and_before_an_upload(
    damage: Callable[[Path], None], cache: Path, folder: Path, tmp_path: Path, hub: Any
) -> None:
    whole = ExportedNetwork(folder)
    for place in (cache, folder):
        damage(place)
    whole.manifest = json.loads((folder / "manifest.json").read_text())
    with pytest.raises(ValueError, match=r"must have the SHA-256"):
        ExportedNetwork.from_pretrained("me/net")
    with pytest.raises(ValueError, match=r"must have the SHA-256"):
        whole.save_pretrained(tmp_path / "copy")
    with pytest.raises(ValueError, match=r"must have the SHA-256"):
        whole.push_to_hub("me/net")
    assert not (tmp_path / "copy").exists() and hub.calls == []


class FakeHub:
    """Takes what ``huggingface_hub.HfApi`` takes, and copies into a folder."""

    real = huggingface_hub.HfApi

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.token = root, list[str](), None

    def api(self, token: Any = None) -> FakeHub:
        self.token = token
        return self

    def create_repo(self, *args: Any, **options: Any) -> None:
        given = inspect.signature(self.real.create_repo).bind(self, *args, **options).arguments
        assert given["exist_ok"]
        self.calls.append(f"create {given['repo_id']} {given['private']}")
        (self.root / given["repo_id"]).mkdir(parents=True)

    def upload_folder(self, *args: Any, **options: Any) -> str:
        given = inspect.signature(self.real.upload_folder).bind(self, *args, **options).arguments
        self.calls.append(f"upload {given['commit_message']}")
        names = [path.name for path in Path(given["folder_path"]).iterdir()]
        for name in huggingface_hub.utils.filter_repo_objects(names, allow_patterns=given["allow_patterns"]):
            shutil.copy(Path(given["folder_path"]) / name, self.root / given["repo_id"])
        return "https://example.org/commit"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    return fake


def test_what_is_uploaded_can_be_read_again(folder: Path, hub: FakeHub) -> None:
    (folder / "secret.txt").write_text("mine")
    address = ExportedNetwork(folder).push_to_hub("me/net", private=True, token="abc", commit_message="First")

    assert address == "https://example.org/commit" and hub.token == "abc"
    assert hub.calls == ["create me/net True", "upload First"]
    uploaded = hub.root / "me/net"
    assert {path.name for path in uploaded.iterdir()} == {p.name for p in folder.iterdir()} - {"secret.txt"}
    assert same(ExportedNetwork.from_pretrained(uploaded).network, small())


@pytest.mark.parametrize("name", ["net", "a/b/c", "../net", "me/", "hf://", "me/ne t", "runs/../x"])
def test_a_name_that_is_neither_a_folder_nor_on_the_hub_is_refused(name: str, folder: Path, hub: FakeHub) -> None:
    for use in (ExportedNetwork.from_pretrained, ExportedNetwork(folder).push_to_hub):
        with pytest.raises(ValueError, match=r"named by its folder, or by hf://OWNER/NAME"):
            use(name)
    assert hub.calls == []


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/b", "*", "..", "", "c:\\x"])
def test_a_manifest_that_lists_files_elsewhere_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"must list files beside it"):
        listed([name])
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["files"][name] = {"sha256": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"must list files beside it"):
        ExportedNetwork.from_pretrained(folder)


def test_a_folder_without_a_manifest_is_no_exported_network(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"must have a manifest.json; .* has none"):
        ExportedNetwork(folder)


def test_the_library_of_the_hub_is_needed_for_the_hub_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    exported = ExportedNetwork.from_pretrained(folder)
    for use in (exported.push_to_hub, ExportedNetwork.from_pretrained, lambda name: oneshot.load(f"hf://{name}")):
        with pytest.raises(MissingExtraError, match=r"needs huggingface_hub\. .*'oneshot-nas\[hub\]'"):
            use("me/net")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/deploy.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out == "['cat', 'dog'] 2\n"
    assert (tmp_path / "copy/predict.py").read_text() == (tmp_path / "export/predict.py").read_text()
