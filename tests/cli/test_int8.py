"""``--int8`` of export and pick: a file that is compared on the images of the run, or on images that are named."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oneshot.cli.int8 import Int8Options
from oneshot.cli.main import main
from oneshot.data import Digits
from oneshot.errors import MissingExtraError
from oneshot.supernets import NASBench201Network

pytest.importorskip("onnxruntime")

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


def save_images(folder: Path, count: int, level: int) -> None:
    """Grey images of random pixels about a level."""
    random = np.random.default_rng(level)
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = random.normal(level, 20, (8, 8)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes, bright and dark images."""
    root = tmp_path_factory.mktemp("photos")
    for name, level in (("bright", 150), ("dark", 50)):
        save_images(root / name, 60, level)
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "retrain"
    options = ["--data", "oneshot.data.ImageFolder", f"--data.root={photos}", "--data.image_size=8"]
    options += ["--data.batch_size=16", "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false"]
    options += [
        "--trainer.log_every_n_steps=1",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_model_summary=false",
    ]
    small = [f"--model.network.init_args.{option}" for option in ("channels=4", "cells_per_stage=1", "num_classes=2")]
    assert main(["retrain", ARCH, *small, *options, "--trainer.accelerator=cpu", "--out", str(out)]) == 0
    return out


def test_an_export_writes_the_file_and_says_what_it_is_worth(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(photos)
    arguments = ["export", str(run), "--int8", str(moved), "--max-drop=1", "--weight-bits=8", "--formats", "onnx"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    said = json.loads((tmp_path / "out" / "manifest.json").read_text())["int8"]
    assert (said["metric"], said["split"], said["weight_bits"], said["max_drop"]) == ("accuracy", "test", 8, 1.0)
    assert said["latency_ms"]["before"] > 0 and said["latency_ms"]["after"] > 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        f"INT8: test accuracy {said['before']:.4f} before, {said['after']:.4f} after ({said['samples']} samples" in out
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--max-drop=0.1"], "--max-drop must come with --int8; got --max-drop 0.1 alone", id="drop"),
        pytest.param(["--weight-bits=7"], "--weight-bits must come with --int8", id="bits"),
        pytest.param(["--int8", "--max-drop=-1"], "max_drop must be finite and at least 0; got -1.0", id="negative"),
        pytest.param(["--int8", "--formats", "torch_export"], "must come with 'onnx' among --formats", id="formats"),
        pytest.param(["--int8", "--with-preprocessing"], "and without --with-preprocessing", id="preprocessing"),
        pytest.param(["--int8", "nowhere"], "DATA of --int8 must be a folder of images; there is no", id="no folder"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: {}\ndata: {}\n", encoding="utf-8")
    for command in ("export", "pick"):
        assert main([command, str(tmp_path / "run"), *options]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_images_of_other_classes_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, level in (("cats", 100), ("dogs", 120)):
        save_images(tmp_path / "pets" / name, 30, level)
    assert main(["export", str(run), "--int8", str(tmp_path / "pets"), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "must have the 2 classes of the network: bright, dark; they have 2: cats, dogs" in told
    assert not (tmp_path / "out").exists()


def test_a_search_without_data_and_data_of_another_kind_are_refused() -> None:
    network = NASBench201Network(ARCH, channels=4, cells_per_stage=1, in_channels=1, image_size=8, num_classes=3)
    with pytest.raises(ValueError, match="the search has no data"):
        Int8Options("").samples(None, network, None)
    with pytest.raises(ValueError, match="must have the 3 classes of the network; they have 10"):
        Int8Options("").samples(Digits(), network, None)


def test_a_study_says_where_its_data_are_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(
        ValueError, match=r"must be left out for a study: .* --data\.init_args\.root photos, and --int8"
    ):
        Int8Options("photos").data_options(str(tmp_path))


def test_without_onnx_runtime_it_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("oneshot.quantisation.find_spec", lambda n: None if n == "onnxruntime" else find(n))
    with pytest.raises(MissingExtraError, match=r"Quantising to INT8 needs onnxruntime"):
        Int8Options("").check(["onnx"], with_preprocessing=False)
