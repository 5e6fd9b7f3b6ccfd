"""The model card: what the manifest says, in words, with a header that the Hub's own library reads."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from oneshot.cost.record import Prediction
from oneshot.deploy.card import card, title, write_card
from oneshot.deploy.export import export_subnet, load
from oneshot.deploy.latency import record_latency
from oneshot.deploy.manifest import read_manifest
from oneshot.supernets import NASBench201Network
from oneshot.supernets.base import Subnet

ARCH = "|nor_conv_1x1~0|+|skip_connect~0|none~1|+|none~0|none~1|skip_connect~2|"
FACTS: dict[str, Any] = {
    "classes": ["cat|dog", "<b>cow</b>", "a `tick`\n# no title", "pig"],
    "metrics": {"test/accuracy": 0.875, "test/broken": math.nan, "val/loss": 1.25, "front/macs": 3e5},
    "preprocessing": {
        "source": "image file",
        "colour": "RGB",
        "image_size": [8, 8],
        "resize": {"method": "cover", "interpolation": "bilinear", "on": "uint8", "crop": "centre"},
        "normalisation": {"mean": [0.5] * 3, "std": [0.25] * 3},
        "steps": ["image = PIL.Image.open(file)", "x = ```weird```\n# as it is"],
    },
}


def small() -> Subnet:
    return NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=4, image_size=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_subnet(small(), tmp_path / "export", formats=(), **FACTS)


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_hub_reads_the_header(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = huggingface_hub.ModelCard(text_of(folder), ignore_metadata_errors=False).data

    assert (data.library_name, data.pipeline_tag) == ("oneshot", "image-classification")
    assert data.license is None, "whoever publishes the network chooses one"
    assert data.tags == ["neural-architecture-search", "pytorch"]
    assert data.eval_results is not None
    found = {(r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
    assert found == {("test", "accuracy"): 0.875, ("validation", "loss"): 1.25}
    assert all(r.task_type == "image-classification" for r in data.eval_results)


def test_the_card_says_what_the_manifest_says(folder: Path) -> None:
    text, manifest = text_of(folder), read_manifest(folder)
    assert manifest is not None

    assert text.count("\n# ") == 1, "no class and no step becomes a title"
    assert "\n# Image classification, 4 classes\n" in text
    assert f"{manifest['params']:,}" in text and f"{manifest['macs']:,}" in text
    assert r"cat\|dog, \<b\>cow\</b\>, a \`tick\` \# no title, pig." in text
    assert "```text\nimage = PIL.Image.open(file)\nx = '''weird''' # as it is\n```" in text
    assert "| test/accuracy | 0.875 |" in text and "broken" not in text
    assert "- cell: nor\\_conv\\_1x1, skip\\_connect, none" in text
    assert "cropped at its centre" in text and "its latency was not measured" in text.lower()
    assert "There is no `predict.py`" in text and "No result on test data" not in text
    assert manifest["files"]["README.md"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_card_of_an_untested_network_says_so(tmp_path: Path) -> None:
    folder = export_subnet(small(), tmp_path / "export", formats=())
    text = text_of(folder)
    assert "No result is recorded. Test it" in text and "- No result on test data is recorded." in text
    assert "How the inputs of the training were prepared is not recorded." in text
    assert "model-index" not in text and "The outputs have no names." in text


def test_latencies_come_into_the_card_and_a_changed_card_stays(folder: Path) -> None:
    record_latency(folder, small(), [Prediction("latency", 1.0)], measure=False)
    assert "Its latency was not measured." in text_of(folder)
    record_latency(folder, small())
    told = text_of(folder)
    assert "| the network | eager on " in told and "Another machine has others." in told
    load(folder)

    changed = told.replace("library_name: oneshot", "library_name: oneshot\nlicense: mit")
    (folder / "README.md").write_text(changed, encoding="utf-8")
    record_latency(folder, small())
    assert text_of(folder) == changed
    load(folder)  # the card is for people; the network is as it was


def test_a_folder_without_a_manifest_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"made by the manifest of an export; .* has none"):
        write_card(tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param(
            {"task": {"class_path": "oneshot.tasks.Regression"}, "num_classes": 1}, "Image regression, 1 number"
        ),
        pytest.param({"task": {"class_path": "oneshot.tasks.MultiLabel"}}, "Several labels, 4 labels"),
        pytest.param({"task": {"class_path": "mine.Ranking"}}, "Ranking, 4 classes"),
        pytest.param(
            {"preprocessing": {"source": "table"}, "input_shape": [5]}, "Table classification, 4 classes", id="table"
        ),
        pytest.param({"input_shape": {"a": [3, 8, 8], "b": [1]}, "task": None}, "Classification, 4 classes", id="two"),
    ],
)
def test_a_title_names_inputs_and_task(folder: Path, changes: dict[str, Any], expected: str) -> None:
    manifest = read_manifest(folder)
    assert manifest is not None
    manifest = {**copy.deepcopy(manifest), **changes}
    assert title(manifest) == expected
    assert f"\n# {expected}\n" in card(manifest, dict.fromkeys(manifest["files"], 1))
