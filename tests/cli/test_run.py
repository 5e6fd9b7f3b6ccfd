"""Runs are read again: damage is noticed, their data need not be there, and they may have been moved."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from oneshot.callbacks.checkpoint import RunCheckpoint, check_checkpoint, good_checkpoint
from oneshot.cli.main import main
from oneshot.cli.run import RunFolder, read_run
from oneshot.deploy.export import load
from oneshot.storage.files import (
    begin_checksums,
    beside,
    check_recorded,
    is_as_recorded,
    write_atomically,
    write_recorded,
)
from oneshot.supernets import NASBench201Network
from oneshot.training.retrain import Retrain

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHORT = [
    "--trainer.max_epochs=2",
    "--trainer.limit_train_batches=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]
FLIPS = 60


def write_photos(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``photos``, and with a search and a retraining that name them by a relative path."""
    folder = tmp_path_factory.mktemp("project")
    write_photos(folder / "photos")
    images = {"root": "photos", "batch_size": 4, "flip": False, "val_fraction": 0.2}
    data = {"class_path": "oneshot.data.ImageFolder", "init_args": images}
    streams = {"class_path": "oneshot.data.SearchDataModule", "init_args": {"data": data}}
    supernet = {
        "class_path": "oneshot.supernets.NASBench201Supernet",
        "init_args": {"channels": 4, "cells_per_stage": 1},
    }
    search = {"model": {"class_path": "oneshot.DARTS", "init_args": {"supernet": supernet}}, "data": streams}
    (folder / "search.yaml").write_text(yaml.safe_dump(search))
    (folder / "retrain.yaml").write_text(yaml.safe_dump({"data": data}))
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["search", "--config", "search.yaml", *SHORT, "--out", "runs/search"]) == 0
        assert main(["retrain", "runs/search", "--config", "retrain.yaml", *SHORT, "--out", "runs/retrain"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def moved(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runs alone, on another machine: neither the old folder nor its photos are there, and we are elsewhere."""
    shutil.copytree(project / "runs", tmp_path / "runs")
    for about in tmp_path.glob("runs/*/data.json"):  # as if the old place did not exist
        content = json.loads(about.read_text())
        write_recorded(about, json.dumps({**content, "working_directory": "/nowhere/at/all"}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "runs"


class Killed(BaseException):
    """What ends a process at once."""


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


# Damage.


def test_a_run_writes_down_what_its_data_are(project: Path) -> None:
    facts = json.loads((project / "runs/search/data.json").read_text())
    assert facts["classes"] == ["cat", "dog"] and facts["input_shape"] == [3, 8, 8] and len(facts["mean"]) == 3
    assert facts["working_directory"] == str(project.resolve()) and facts["from_run"] == "../.."
    assert facts["folder"] == "runs/search"
    done = subprocess.run(["sha256sum", "-c", "sha256sums.txt"], cwd=project / "runs/retrain", capture_output=True)
    names = {line.split(":")[0] for line in done.stdout.decode().splitlines()}
    assert done.returncode == 0 and names == {
        "config.yaml",
        "confusion.json",
        "data.json",
        "results.json",
        "subnet.json",
    }


@pytest.mark.parametrize(
    ("command", "damage"),
    [
        ("evaluate", "flipped"),
        ("evaluate", "truncated"),
        ("evaluate", "missing"),
        ("export", "flipped"),
        ("derive", "flipped"),
        ("show", "flipped"),
    ],
)
def test_every_command_takes_the_checkpoint_before_a_damaged_one_and_says_so(
    command: str,
    damage: str,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(project / ("runs/search" if command == "derive" else "runs/retrain"), run)
    last = run / "checkpoints/last.ckpt"
    content = last.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        last.unlink()
    elif damage == "truncated":
        last.write_bytes(content[:middle])
    else:
        last.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    monkeypatch.chdir(project)
    options = {"export": ["--formats"], "show": ["--out", str(tmp_path / "picture.png")]}.get(command, [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([command, str(run), *options]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "previous.ckpt, the checkpoint before" in said and ("is not there" in said) == (damage == "missing")
    (run / "checkpoints/previous.ckpt").write_bytes(b"damaged, too")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([command, str(run), *options, *(["--overwrite"] if command == "export" else [])]) == 1
    assert "damaged" in capsys.readouterr().err


def test_no_flipped_bit_of_a_checkpoint_is_used(project: Path, tmp_path: Path) -> None:
    rng, checkpoints = random.Random(0), tmp_path / "checkpoints"
    shutil.copytree(project / "runs/retrain/checkpoints", checkpoints)
    last, whole = checkpoints / "last.ckpt", (checkpoints / "last.ckpt").read_bytes()
    for _ in range(FLIPS):
        last.write_bytes(whole)
        flip(last, rng)
        with pytest.warns(UserWarning, match=r"last.ckpt is damaged.*trying the one before"):
            assert good_checkpoint(checkpoints) == checkpoints / "previous.ckpt"
        with pytest.raises(ValueError, match=r"is damaged: its checksum differs"):
            check_checkpoint(last)
    last.write_bytes(whole)
    assert good_checkpoint(checkpoints) == last
    check_checkpoint(last)


def test_a_checkpoint_without_a_checksum_beside_it_is_checked_by_those_in_it(project: Path, tmp_path: Path) -> None:
    """Bits of weights and numbers; what torch leaves between them is of no use to anybody."""
    rng, path = random.Random(0), tmp_path / "epoch=1.ckpt"
    whole = (project / "runs/retrain/checkpoints/last.ckpt").read_bytes()
    path.write_bytes(whole)
    check_checkpoint(path)
    expected, noticed = torch.load(path, weights_only=True)["state_dict"], 0
    for _ in range(FLIPS):
        path.write_bytes(whole)
        flip(path, rng)
        try:
            check_checkpoint(path)
            found = torch.load(path, weights_only=True)["state_dict"]
        except Exception:  # noqa: BLE001  # whatever torch raises for a damaged file
            noticed += 1
            continue
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert noticed > FLIPS / 3, "or nothing was flipped"


@pytest.mark.parametrize("name", ["subnet.json", "results.json", "data.json"])
def test_no_flipped_bit_of_another_file_of_a_run_is_used(name: str, project: Path, tmp_path: Path) -> None:
    rng, run = random.Random(0), tmp_path / "run"
    shutil.copytree(project / "runs/retrain", run)
    whole = (run / name).read_bytes()
    folder = RunFolder(run)
    readers: dict[str, Callable[[], object]] = {
        "subnet.json": folder.subnet,
        "results.json": folder.results,
        "data.json": folder.facts,
    }
    assert readers[name]() is not None
    for _ in range(FLIPS):
        (run / name).write_bytes(whole)
        flip(run / name, rng)
        with pytest.raises(ValueError, match=rf"{name} must have the SHA-256 in sha256sums.txt"):
            readers[name]()


def test_a_changed_configuration_is_read_and_said(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(project / "runs/search", run)
    assert main(["derive", str(run)]) == 0
    assert "config.yaml was changed" not in capsys.readouterr().err
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + "# a note\n")
    assert main(["derive", str(run)]) == 0
    assert "config.yaml was changed, or damaged, since the run began" in capsys.readouterr().err


def test_a_run_of_an_earlier_release_is_read(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(project / "runs/retrain", run)
    for name in ("sha256sums.txt", "data.json"):
        (run / name).unlink()
    monkeypatch.chdir(project)
    assert main(["export", str(run), "--formats"]) == 0
    assert "has no sha256sums.txt, as runs of earlier releases" in capsys.readouterr().err
    assert json.loads((run / "export/manifest.json").read_text())["classes"] == ["cat", "dog"]


def test_a_file_that_is_written_when_the_process_is_killed_is_known_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results.json"
    begin_checksums(tmp_path)
    write_recorded(path, "old")
    replace, written = os.replace, list[bool]()
    for stop in range(1, 4):
        calls = itertools.count(1)

        def killed(source: str, target: str, calls: Iterator[int] = calls, stop: int = stop) -> None:
            if next(calls) == stop:
                raise Killed
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(Killed):
                write_recorded(path, f"new {stop}")
        assert is_as_recorded(path)
        written.append(path.read_text() == f"new {stop}")
    assert written == [False, False, True]
    path.write_text("other")
    with pytest.raises(ValueError, match="results.json must have the SHA-256"):
        check_recorded(path)


# Data that are not there.


@pytest.mark.parametrize("command", ["derive", "show"])
def test_an_architecture_is_read_without_the_data(command: str, moved: Path, tmp_path: Path) -> None:
    out = {"derive": "subnet.json", "show": "picture.png"}[command]
    assert main([command, str(moved / "search"), "--out", out]) == 0
    assert Path(out).stat().st_size > 100


def test_a_retraining_is_exported_without_the_data(moved: Path, project: Path) -> None:
    assert main(["export", str(moved / "retrain"), "--formats", "--out", "export"]) == 0
    manifest = json.loads(Path("export/manifest.json").read_text())
    module, data = None, None
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        module, data = read_run("runs/retrain")
        data.setup("fit")
        assert manifest["normalisation"] == {"mean": list(data.mean), "std": list(data.std)}  # type: ignore[attr-defined]
    network, x = load("export"), torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x), module.network_for_export()(x))  # type: ignore[union-attr, operator]  # a Retrain


def test_a_search_is_exported_where_its_images_are(
    moved: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["export", str(moved / "search"), "--formats", "--out", "export"]
    assert main(search) == 1
    error = capsys.readouterr().err
    assert "photos' is not" in error and "--data.init_args.data.init_args.root FOLDER" in error
    assert not Path("export").exists()
    assert main([*search, "--data.init_args.data.init_args.root", str(project / "photos")]) == 0
    assert json.loads(Path("export/manifest.json").read_text())["classes"] == ["cat", "dog"]


def test_options_come_before_what_the_run_says(moved: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = ["evaluate", str(moved / "retrain")]
    assert main(evaluate) == 1
    assert "root must be an existing folder" in " ".join(capsys.readouterr().err.split())
    results = json.loads((moved / "retrain/results.json").read_text())
    for options in (
        [f"--data.init_args.root={project / 'photos'}"],
        ["--data.init_args.root", str(project / "photos"), "--data.init_args.batch_size", "2"],
    ):
        assert main([*evaluate, *options]) == 0
        assert f"{results['test/accuracy']:.4f}" in capsys.readouterr().out


def test_files_in_lists_are_found_from_the_run_and_not_from_here(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "renamed/search"
    shutil.copytree(project / "runs/search", run)
    about = {**json.loads((run / "data.json").read_text()), "working_directory": "/nowhere/at/all"}
    write_recorded(run / "data.json", json.dumps({**about, "from_run": "../..", "folder": "result/search"}))
    (tmp_path / "elsewhere/result").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    tree = {"class_path": "oneshot.NAT", "init_args": {"objectives": ["result/latency.csv", "macs"]}}
    Path("result/latency.csv").write_text("of somebody else")
    assert RunFolder(run)._found("model", tree)["init_args"]["objectives"] == ["result/latency.csv", "macs"]
    (tmp_path / "renamed/latency.csv").write_text("ours")
    found = RunFolder(run)._found("model", tree)["init_args"]["objectives"]
    assert found == [str(tmp_path / "renamed/latency.csv"), "macs"]
    monkeypatch.chdir(tmp_path / "renamed")
    tree["init_args"] = {"objectives": ["latency.csv"]}
    write_recorded(run / "data.json", json.dumps({**about, "from_run": "..", "folder": "search"}))
    assert RunFolder(run)._found("model", tree)["init_args"]["objectives"] == ["latency.csv"], "as it was written"
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = RunFolder(run)._found("model", tree)["init_args"]["objectives"]
    assert found == [str(tmp_path / "renamed/latency.csv")], "without ../ in it"
    write_recorded(run / "data.json", json.dumps({**about, "from_run": "../..", "folder": "result/search"}))
    # A folder that only contains the run does not stand for the one that contained it then.
    images = {"class_path": "oneshot.data.ImageFolder", "init_args": {"root": "result"}}
    assert RunFolder(run)._found("data", images)["init_args"]["root"] == "result"
    there = {"class_path": "oneshot.data.ImageFolder", "init_args": {"root": str(project / "photos")}}
    assert RunFolder(run)._found("data", there)["init_args"]["root"] == str(project / "photos")


@pytest.mark.parametrize("how", ["from elsewhere", "moved with the data"])
def test_relative_paths_lead_from_where_the_run_began(
    how: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = project / "runs/retrain"
    if how == "moved with the data":
        shutil.copytree(project, tmp_path / "copy")
        run = tmp_path / "copy/runs/retrain"
        about = json.loads((run / "data.json").read_text())
        write_recorded(run / "data.json", json.dumps({**about, "working_directory": "/nowhere/at/all"}))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", str(run)]) == 0


# Hostile files.


def test_a_checkpoint_that_is_packed_is_refused(tmp_path: Path) -> None:
    """torch packs nothing, so a packed one is foreign, and may unpack to more than any memory holds."""
    path = tmp_path / "epoch=1.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(1 << 24))
    with pytest.raises(ValueError, match="is damaged"):
        check_checkpoint(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/last.ckpt", "data.json", "sha256sums.txt"])
def test_a_pipe_in_a_run_is_not_waited_for(name: str, project: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(project / "runs/search", run)
    (run / name).unlink()
    os.mkfifo(run / name)
    main(["derive", str(run), "--out", str(tmp_path / "subnet.json")])


def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of temporary files cannot be known before; and if one were, what it leads to would stay."""
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_text("mine")
    run.mkdir()
    names = {beside(run / "results.json", "tmp").name for _ in range(100)}
    assert len(names) == 100
    monkeypatch.setattr("oneshot.storage.files.beside", lambda path, ending: run / ".planted")
    (run / ".planted").symlink_to(precious)
    with pytest.raises(FileExistsError):
        write_atomically(run / "results.json", "{}")
    assert precious.read_text() == "mine" and not (run / "results.json").exists()


def test_a_link_in_place_of_a_new_checkpoint_is_not_followed(tmp_path: Path) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "checkpoints"
    precious.write_text("mine")
    folder.mkdir()
    (folder / ".last.ckpt.new").symlink_to(precious)
    saves = RunCheckpoint(folder)
    data = DataLoader(TensorDataset(torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.long)), batch_size=4)
    network = NASBench201Network("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|", **SMALL)
    trainer = pl.Trainer(
        max_epochs=1,
        callbacks=[saves],
        logger=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Retrain(network), data, data)
    assert precious.read_text() == "mine" and good_checkpoint(folder) == folder / "last.ckpt"
    assert not (folder / "last.ckpt").is_symlink()


SMALL: dict[str, Any] = {"channels": 4, "cells_per_stage": 1, "in_channels": 1, "image_size": 8}
