"""``oneshot auto``: what it refuses, what it decides, and whole runs on tiny data."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

import oneshot
from oneshot.cli import auto_decide, auto_plan, auto_work
from oneshot.cli.auto import auto
from oneshot.cli.data_defaults import build_data
from oneshot.cli.fronts import Wish, load_front
from oneshot.cli.main import main
from oneshot.cost.latency.device import Device
from oneshot.deploy.manifest import read_manifest
from oneshot.supernets.base import layout_of


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of small images that differ in colour."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    for number, name in enumerate(("blue sky", "grass")):
        (root / name).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 90, (32, 36, 3), dtype=np.uint8)
            pixels[..., 2 - number] += 120
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of everything, so that a run takes seconds."""
    for name, bounds in (("NETWORKS", (32, 32)), ("EVALUATIONS", (20, 20)), ("SCRATCH_EPOCHS", (2, 2))):
        monkeypatch.setattr(auto_plan, name, bounds)
    monkeypatch.setattr(auto_plan, "PRETRAINED_EPOCHS", (2, 2))
    monkeypatch.setattr(auto_plan, "TUNING_EPOCHS", {True: (2, 2), False: (2, 2)})


# What is refused at once.


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"images": "nowhere", "latency": 5.0}, FileNotFoundError, "IMAGES must be a folder.*there is no nowhere"),
        ({"images": None, "latency": 5.0}, ValueError, "IMAGES must be given"),
        ({"latency": None}, ValueError, "--latency must be the most milliseconds.*got None"),
        ({"latency": -1.0}, ValueError, "above 0; got -1"),
        ({"latency": 5.0, "minutes": 0.0}, ValueError, "--minutes must be above 0"),
        ({"latency": 5.0, "threads": 0}, ValueError, "--threads at least 1"),
        ({"latency": 5.0, "threads": 9999}, ValueError, "--threads must be at most .*cores here; got 9999"),
        ({"latency": "fast"}, ValueError, "latency must be a number; got 'fast'"),
        ({"latency": 5.0, "minutes": True}, ValueError, "minutes must be a number; got True"),
        ({"latency": 5.0, "image_size": 4}, ValueError, "--image-size must be at least 8 pixels; got 4"),
        ({"latency": 5.0, "weights": "w.pth"}, FileNotFoundError, "--weights must be a file of weights"),
        ({"latency": 5.0, "int8": True, "runtime": "eager"}, ValueError, "--int8 must go with --runtime onnxruntime"),
        ({"resume": True, "images": None}, ValueError, "--resume must name a folder of"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    photos: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    given = {"images": photos, **options}
    with pytest.raises(error, match=said):
        auto(given.pop("images"), out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_weights_must_come_with_their_network(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="--weights must come with --from"):
        auto(photos, latency=5.0, weights=tmp_path / "w.pth", out=tmp_path / "out")


def test_a_folder_of_somebody_else_is_neither_replaced_nor_gone_on_with(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("all of it", encoding="utf-8")
    with pytest.raises(FileExistsError, match="thesis exists. Go on with it with --resume"):
        auto(photos, latency=5.0, out=tmp_path / "thesis")
    with pytest.raises(FileExistsError, match="is no folder of 'oneshot auto', so it is not replaced"):
        auto(photos, latency=5.0, out=tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text(encoding="utf-8") == "all of it"


def test_errors_of_options_come_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom oneshot.cli.main import main\n"
        f"code = main(['auto', {str(tmp_path / 'none')!r}, '--latency', '5'])\n"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"] and "there is no" in done.stderr


def test_a_runtime_that_is_not_installed_is_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneshot.cli.auto.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs onnx.*pip install 'oneshot-nas\\[onnx\\]'"):
        auto(photos, latency=5.0, out=tmp_path / "out")


def test_a_place_that_cannot_be_written_is_refused_at_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path))  # root may write anywhere
    with pytest.raises(PermissionError, match=rf"must be a place that can be written to; {tmp_path} cannot[.] Name"):
        auto(photos, latency=5.0, out=tmp_path / "out")
    assert main(["search", "--config", "experiments/digits/search.yaml", "--out", str(tmp_path / "run")]) == 1
    assert "run must be a place that can be written to" in " ".join(capsys.readouterr().err.split())


def test_a_disk_without_room_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneshot.cli.auto.SPACE", 1e18)
    with pytest.raises(OSError, match="There must be 1e.09 GB of room"):
        auto(photos, latency=5.0, out=tmp_path / "out")


# What the data must be.


def test_three_images_are_too_few(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "few" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "few" / name / f"{i}.png")
    with pytest.raises(ValueError, match="at least"):
        auto(tmp_path / "few", latency=5.0, out=tmp_path / "out")


def test_a_folder_without_classes_is_told_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "flat" / "one.png")
    with pytest.raises(ValueError, match="class"):
        auto(tmp_path / "flat", latency=5.0, out=tmp_path / "out")


def test_a_metric_that_the_task_does_not_have_is_refused_before_anything_is_timed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_decide, "choose", lambda *_: pytest.fail("something was timed"))
    with pytest.raises(ValueError, match="acuracy"):
        auto(photos, latency=5.0, metric="acuracy", out=tmp_path / "out")
    assert not list(tmp_path.glob("out/*.*"))


def test_a_result_among_the_images_is_no_class(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder is made before the data are looked at, and holds pictures later."""
    for result in (photos / "runs" / "auto" / "search", photos / "export"):
        result.mkdir(parents=True)
        for name in ("front.png", "cell.png", "other.png"):
            Image.new("RGB", (32, 32)).save(result / name)
    (photos / "runs/auto/plan.json").write_text("{}", encoding="utf-8")
    (photos / "runs/auto/commands.json").write_text("[]", encoding="utf-8")
    (photos / "export/subnet.json").write_text("{}", encoding="utf-8")
    found = auto_decide.open_data(str(photos), target=None, seed=0)
    assert found.data.classes == ("blue sky", "grass")
    assert main(["data", str(photos)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "'export', 'runs' in" in said and "holds what oneshot has written and is left out" in said
    Image.new("RGB", (32, 32)).save(photos / "runs" / "of-a-dog.png")
    with pytest.raises(ValueError, match="^Each class needs at least 2 images .*; class 'runs' has 1"):
        auto_decide.open_data(str(photos), target=None, seed=0)
    for number in range(5):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(photos / "runs" / f"{number}.png")
    assert auto_decide.open_data(str(photos), target=None, seed=0).data.classes == ("blue sky", "grass", "runs")


def test_errors_of_data_keep_what_they_say_of_their_cause() -> None:
    config = {"class_path": f"{__name__}.Broken"}
    with pytest.raises(ValueError, match="^the file is damaged$") as raised:
        build_data(config)
    assert isinstance(raised.value.__cause__, OSError)


class Broken(pl.LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        try:
            raise OSError("input/output error")
        except OSError as error:
            raise ValueError("the file is damaged") from error


def test_a_table_needs_its_target(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match="--target must name the column of .*t.csv"):
        auto(tmp_path / "t.csv", latency=5.0, out=tmp_path / "out")
    (tmp_path / "notes.txt").write_text("a", encoding="utf-8")
    with pytest.raises(ValueError, match="IMAGES must be a folder with a folder of images for each class"):
        auto(tmp_path / "notes.txt", latency=5.0, out=tmp_path / "out")


# What is decided.


def test_a_latency_that_nothing_reaches_names_the_fastest_before_anything_is_searched(
    photos: Path, tmp_path: Path
) -> None:
    fastest = (
        r"--latency must be at least [\d.]+ ms here, which the fastest network takes \(.+\), and is right for \d+%"
    )
    with pytest.raises(ValueError, match=fastest):
        auto(photos, latency=1e-6, out=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_the_plan_is_told_before_anything_is_trained_and_so_is_a_busy_machine(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slowed(*given: Any, **options: Any) -> auto_decide.Trial:
        trial = as_it_is(*given, **options)
        return replace(trial, speed=replace(trial.speed, busy=0.3))

    as_it_is = auto_decide._try_out
    monkeypatch.setattr(auto_decide, "_try_out", slowed)
    monkeypatch.setattr("oneshot.cli.auto._run", lambda work: pytest.fail("told"))
    with pytest.raises(pytest.fail.Exception, match="told"):
        auto(photos, latency=50.0, minutes=60.0, image_size=16, out=tmp_path / "out")
    said = " ".join(capsys.readouterr().out.split())
    assert "WARNING: Another program uses this machine: the same network took 30% more at one time" in said
    assert re.search(r"Plan: about .+ of the 60 minutes, [\d.]+ GB of memory\.", said)


def test_a_step_is_timed_in_the_layout_that_networks_are_trained_in() -> None:
    """The usual one takes twice as long, and half of the minutes would not be used."""
    supernet = oneshot.supernets.MobileNetV3Supernet(
        num_classes=3, image_size=32, stem="cifar", widths=(0.25,), depths=(1,), kernels=(3,), expansions=(2,)
    )
    network, layouts = supernet.extract(supernet.space.sample(0)), list[torch.memory_format]()
    network.register_forward_hook(lambda *_: layouts.append(layout_of(*network.parameters())))
    auto_decide._steps(network, 4)
    assert layouts == [torch.channels_last] * 4  # three steps, and one without training
    assert layout_of(*network.parameters()) == torch.contiguous_format, "files are timed as they were before"


def test_few_minutes_and_slow_networks_lead_to_smaller_ones(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, tried = auto_decide.open_data(str(photos), target=None, seed=0), []
    asked: dict[str, Any] = {"image_size": None, "latency": 5.0, "minutes": 60.0}
    asked |= {"source": None, "weights": None, "weights_by_order": False}

    def trial(found: Any, name: str, config: Any, size: int, device: Any, *, most: int) -> auto_decide.Trial:
        widest = max(config["init_args"]["widths"])
        tried.append((size, widest))
        speed = auto_plan.Speed(500, 100, 32, 4 * widest, 0.01 * widest, 0.5, None, 0.5, 1, 0.0)
        return auto_decide.Trial(name, config, size, speed, 0.1, 10 * widest, None)  # type: ignore[arg-type]

    monkeypatch.setattr(auto_decide, "_try_out", trial)
    device = Device("eager", "cpu", threads=1)
    chosen, reason = auto_decide.choose(found, asked, device, lambda text: None)
    assert tried == [(32, 1.0), (32, 0.5)] and chosen.size == 32
    assert max(chosen.config["init_args"]["widths"]) == 0.5 and "minutes are few" in reason
    tried.clear()
    chosen, _ = auto_decide.choose(found, {**asked, "latency": 0.2}, device, lambda text: None)
    assert tried[-1] == (32, 0.25) and chosen.largest == 2.5  # the smallest of all, though it is large for the limit


def test_timed_networks_are_of_all_sizes_with_the_ends_among_them() -> None:
    supernet = oneshot.supernets.MobileNetV3Supernet(
        num_classes=3, image_size=32, stem="cifar", widths=(0.25, 0.5), depths=(1, 2), kernels=(3, 5), expansions=(2, 3)
    )
    genes = auto_decide.spread_genes(supernet, 60, 0)
    assert len(genes) == 60 and len({tuple(row) for row in genes}) == 60
    space = supernet.space
    ends = space.encode([space.smallest, space.largest])
    assert all((genes == end).all(1).any() for end in ends)
    for column, possible in zip(genes.T, space.sample_matrix(2000, 1).T, strict=True):
        assert set(column) == set(possible)  # or the latency of a pick would be a guess
    macs = oneshot.cost.count_candidates(supernet, "macs").costs
    plain = macs(space.sample_matrix(60, 0))
    spread, both = macs(genes), macs(ends)
    assert np.std(np.log(spread)) > 1.1 * np.std(np.log(plain)) and spread.min() == both[0] and spread.max() == both[1]


def test_of_networks_whose_errors_cannot_be_told_apart_the_largest_is_tried_first() -> None:
    values = np.array([[0.10, 1.0], [0.11, 2.0], [0.12, 3.0], [0.30, 2.5], [0.05, 9.0], [0.20, 0.5]])
    assert auto_work.preferred(values, 4.0, samples=100) == [2, 1, 0, 5, 3]  # one standard error is 0.03
    assert auto_work.preferred(values, 4.0, samples=10_000) == [0, 1, 2, 5, 3]
    assert auto_work.preferred(values, 4.0, samples=None) == [0, 1, 2, 5, 3]
    assert auto_work.preferred(values, 0.1, samples=100) == []
    # One that another dominates, on 585 samples.
    assert auto_work.preferred(np.array([[0.241, 0.79], [0.244, 1.01], [0.290, 1.10]]), 1.2, samples=585) == [1, 0, 2]


# Whole runs.


def test_a_class_that_the_network_never_says_is_named() -> None:
    found = {"classes": ["ant", "bee", "cat", "dog"], "confusion": [[0, 3, 1, 0], [0, 5, 0, 0], [0, 1, 4, 0], [0] * 4]}
    assert auto_work.never_said(found) == ["ant"], "of dogs there are no samples"
    assert auto_work.never_said({**found, "confusion": [[1, 3, 0, 0], [0, 5, 0, 0], [0, 1, 4, 0], [0] * 4]}) == []
    assert auto_work.never_said(None) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(?s).*allow_noisy is set")  # of latencies that are measured while others run
@pytest.mark.usefixtures("little")
def test_from_a_folder_to_a_tested_file_and_the_same_command_goes_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "my result"
    command = ["auto", str(photos), "--latency", "50", "--minutes", "60", "--out", str(out)]
    plain = auto_work.Work.tune

    def killed(work: auto_work.Work) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(auto_work.Work, "tune", killed)
    assert main(command) == 130
    assert "--resume goes on" in capsys.readouterr().err
    monkeypatch.setattr(auto_work.Work, "tune", plain)
    monkeypatch.setattr(auto_work.Work, "search", lambda work: pytest.fail("the search is done already"))
    assert main([*command[:1], "--resume", "--latency", "49", "--out", str(out)]) == 1
    assert "was begun with other arguments: latency 50.0 (now 49.0)" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    said = capsys.readouterr().out
    assert "keeps the limit of 50 ms" in said and "oneshot pick" in said
    assert re.search(r"Next: python '?/.+/network/predict\.py'? FILE$", " ".join(said.split())), said

    manifest, summary = read_manifest(out / "network"), json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert manifest is not None and {"model.onnx", "model.safetensors"} <= set(manifest["files"])
    assert manifest["metrics"]["test/accuracy"] == summary["test"]["test/accuracy"]
    assert summary["file_ms"] <= 50 and (out / "report.html").is_file()
    network = oneshot.load(out / "network")
    assert network.input_shape[0] == 3 and network.input_shape[1] <= 32
    # It was taken from all that the search evaluated, not from the front alone.
    archive = json.loads((out / "search" / "archive.json").read_text(encoding="utf-8"))
    nothing = Wish({}, {}, knee=False)
    everything = load_front(str(out / "search"), nothing, trust=(), data_options=(), dominated=True)
    front = load_front(str(out / "search"), nothing, trust=(), data_options=())
    assert len(everything.values) == len(archive["genes"]) >= len(front.values)
    taken = json.loads((out / "done.json").read_text(encoding="utf-8"))["place"]
    picked = read_manifest(out / "picked")
    assert picked is not None and picked["metrics"]["front/error"] == everything.values[taken, 0]
    # What it leaves is what the other commands read.
    assert main(["pick", str(out / "search"), "--latency", "50", "--out", str(out / "other"), "--formats"]) == 0, (
        capsys.readouterr().err
    )
    assert main(["evaluate", str(out / "retrain")]) == 0
    assert main(["report", str(out)]) == 0
    assert main(["pick", str(out), "--knee"]) == 1 and main(["export", str(out)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"Did you mean '{out}/search'?" in said and f"Did you mean '{out}/retrain'?" in said
    # Wherever they are: the search reads its file of latencies from beside it.
    shutil.move(out, tmp_path / "renamed")
    monkeypatch.chdir(tmp_path)
    assert main(["pick", str(tmp_path / "renamed/search"), "--knee", "--out", str(tmp_path / "knee"), "--formats"]) == 0
    shutil.move(tmp_path / "renamed", out)
    assert main(command) == 1  # it is all there


@pytest.mark.slow
@pytest.mark.usefixtures("little")
@pytest.mark.nightly
def test_a_trained_network_is_transferred_and_compared_with_what_was_found(photos: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    result = auto(
        photos,
        latency=50.0,
        minutes=60.0,
        source="timm:test_resnet",
        weights=tmp_path / "w.safetensors",
        out=tmp_path / "out",
        metric="balanced_accuracy",
        int8=True,
    )
    assert result.metric == "balanced_accuracy" and 0 <= result.value <= 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    # The INT8 file is there and measured, or the loss is told of and there are files of floats.
    names = [row["network"] for row in summary["table"]]
    manifest = read_manifest(tmp_path / "out" / "network")
    assert manifest is not None
    refused = any("INT8 must not lose more" in said for said in summary["warnings"])
    assert (manifest.get("int8") is None) == refused
    if refused:
        assert names == ["found", "original"]
    else:
        (entry,) = (entry for entry in manifest["latency"] if entry["file"] == "model.int8.onnx")
        assert entry["dtype"] == "int8" and entry["threads"] == 1
        assert names == ["found", "found, INT8 file", "original"]
        assert summary["file_ms"] == result.ms == entry["measured_ms"]
    assert type(oneshot.load(result.network)).__name__ == "ConvertedNetwork"
    settings = (tmp_path / "out" / "retrain.yaml").read_text(encoding="utf-8")
    assert "freeze_statistics: true" in settings and "oneshot retrain" in settings.splitlines()[0]


@pytest.mark.slow
@pytest.mark.usefixtures("little")
def test_series_of_a_file(tmp_path: Path) -> None:
    time, rng = np.linspace(0, 6.28, 24), np.random.default_rng(0)
    x = [np.sin((1 + number % 2) * time + rng.normal()) for number in range(120)]
    np.savez(tmp_path / "series.npz", x=np.float32(x)[:, None], y=np.array(["slow", "fast"] * 60))
    result = auto(tmp_path / "series.npz", latency=20.0, minutes=60.0, out=tmp_path / "out")
    assert result.metric == "accuracy" and result.ms is not None and result.ms < 20
    assert oneshot.load(result.network).input_shape == (1, 24)


@pytest.mark.slow
@pytest.mark.usefixtures("little")
def test_a_table_with_numbers_to_predict(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    rows = [f"{a:.3f},{b:.3f},{c:.3f},{3 * a + b:.3f}" for a, b, c in x]
    rows = [f"{number},{row}" for number, row in enumerate(rows)]
    (tmp_path / "t.csv").write_text("id,a,b,c,price\n" + "\n".join(rows) + "\n", encoding="utf-8")
    options: dict[str, Any] = {"target": "price", "latency": 20.0, "minutes": 60.0, "out": tmp_path / "out"}
    result = auto(tmp_path / "t.csv", leave_out=["id"], **options)
    assert result.metric == "r2" and result.ms is not None and result.ms < 20
    assert oneshot.load(result.network).input_shape == (3,)
    manifest = read_manifest(result.network)
    assert manifest is not None and manifest["classes"] == ["price"]
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert float(summary["table"][0]["ms"]) == pytest.approx(summary["file_ms"], rel=0.01)  # one network, one number
    with pytest.raises(ValueError, match=r"begun with other arguments: leave_out \['id'\] \(now \['a'\]\)"):
        auto(tmp_path / "t.csv", leave_out=["a"], resume=True, **options)
