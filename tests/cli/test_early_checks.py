"""Errors that come before torch is loaded, and that they are the errors that come without these checks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest

from oneshot.cli import early_checks, quickstart
from oneshot.cli.early_checks import LOG, MARKERS, PACKAGES, check, check_class, read_config
from oneshot.cli.options import UsageError
from oneshot.comparison.comparison import JOURNAL
from oneshot.discrete import events
from oneshot.errors import MissingExtraError
from oneshot.storage.lock import RunLock

ROOT = Path(__file__).parents[2]
RUN_ALL = """
import contextlib, io, json, sys
from oneshot.cli.main import main
told = []
for words in json.loads(sys.argv[1]):
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    told.append([code, error.getvalue(), "torch" in sys.modules])
print(json.dumps(told))
"""
CASES = [
    (["retrain", "runs/digit"], "got 'runs/digit', which is none of these. Did you mean 'runs/digits'?"),
    (["retrain", "DARTS_V3"], "which is none of these. Did you mean 'DARTS_V2'"),
    (["retrain"], "The first argument of oneshot retrain must be SOURCE"),
    (["evaluate", "runs/nothing"], "there is no folder runs/nothing. 'oneshot retrain' and 'oneshot export' make one."),
    (["derive", "runs/digits"], "A run must be a folder with config.yaml; runs/digits has none."),
    (["export", "runs/digit"], "runs/digit has none. 'oneshot search' makes one. Did you mean 'runs/digits'?"),
    (["export", "runs/whole"], "runs/whole/export exists. Replace it with --overwrite"),
    (["pick", "runs/nothing", "--knee"], "which have a front to pick from; runs/nothing is no run."),
    (["pick", "runs/whole", "--out", "runs/digits"], "runs/digits exists. Replace it with --overwrite"),
    (["report", "run"], "run is none: there is no such folder. Did you mean 'runs'?"),
    (["data", "imags"], "there is no folder imags. Check the path. Did you mean 'images'?"),
    (["show", "DARTS_V3"], "which is none of these. Did you mean 'DARTS_V2'"),
    (["quickstart", "--out", "runs/digits"], "The folder of a run must be new; runs/digits exists."),
    (["quickstart", "--out", "runs/digits", "--overwrite"], "earlier runs only, which hold a results.json"),
    (["search", "--config", "good.yaml", "--out", "runs/digits"], "must be new; runs/digits exists."),
    (["search", "--config", "good.yaml"], "must be new; runs/digits exists."),
    (["pareto", "--out=runs/digits"], "must be new; runs/digits exists."),
    (["retrain", "DARTS_V2", "--out", "runs/digits"], "must be new; runs/digits exists."),
    (["discrete", "--out", "runs/digits"], "must be new; runs/digits exists."),
    (["compare", "--out", "runs/digits"], "must be new; runs/digits exists."),
    (["search", "--config", "god.yaml"], "there is no file god.yaml. Did you mean 'good.yaml'?"),
    (["search", "--config", "experiments/digits/search.yaml"], "'oneshot examples digits/search.yaml' writes it."),
    (["search", "--config", "digits/search.yaml"], "'oneshot examples digits/search.yaml --out .' writes it."),
    (["examples", "digts"], "that 'oneshot examples' lists, or 'all'; got 'digts'. Did you mean 'digits'?"),
    (["discrete", "--config", "runs/whole"], "runs/whole is a folder. Did you mean 'runs/whole/config.yaml'?"),
    (["search", "--config=indent.yaml"], "indent.yaml, line 3 is no YAML: "),
    (["measure", "--config", "list.yaml"], "list.yaml holds a list."),
    (["profile", "--config", "empty.yaml"], "empty.yaml holds nothing."),
    (["rank", "--config"], "--config must be followed by the name of a YAML file."),
    (["compare", "--config", "typo.yaml"], "typo.yaml: methods.class_path must be a class .* 'oneshot.DARTS'?"),
    (["measure", "--out", "table.json"], "table.json exists. Verify it with --verify 50, or replace it"),
    (["search", "--model", "oneshot.DARTZ"], "--model must be a class .* Did you mean 'oneshot.DARTS'?"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    for name in ("runs/digits", "runs/whole/export", "images"):
        (folder / name).mkdir(parents=True)
    (folder / "runs/digits/notes.txt").write_text("mine")
    (folder / "runs/whole/config.yaml").write_text("model: {}\n")
    (folder / "good.yaml").write_text("out: runs/digits\n")
    (folder / "indent.yaml").write_text("model:\n  class_path: oneshot.DARTS\n init_args: 3\n")
    (folder / "table.json").write_text("{}")
    (folder / "list.yaml").write_text("- 1\n")
    (folder / "empty.yaml").write_text("")
    (folder / "typo.yaml").write_text("methods:\n- class_path: oneshot.DARTZ\n")
    return folder


def test_errors_come_before_torch_is_loaded(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    commands = json.dumps([words for words, _ in CASES])
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, commands],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert len(told) == len(CASES)
    for (words, message), (code, error, torch) in zip(CASES, told, strict=True):
        first, _, last = message.partition(" .* ")
        assert first in error and last in error, (words, error)
        assert error.startswith(f"oneshot {words[0]}: ") and error.count("\n") == 1 and len(error) < 600, words
        assert code in (1, 2) and not torch, words


def nothing(**options: object) -> Namespace:
    return Namespace(out=None, overwrite=False, **options)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param("search", ["--help"], id="help"),
        pytest.param("search", ["--print_config", "--out", "runs/digits"], id="print"),
        pytest.param("search", ["--data.help=oneshot.Nothing"], id="help-of-a-class"),
        pytest.param("search", ["--out", "runs/digits", "--resume"], id="resume"),
        pytest.param("search", ["--out", "runs/new"], id="new"),
        pytest.param("search", ["--out", "images"], id="empty-folder"),
        pytest.param("search", ["--out", "runs/whole", "--overwrite"], id="overwrite"),
        pytest.param("search", ["--out", "runs/new", "--config", '{"model": {"x": 1}}'], id="options-as-text"),
        pytest.param("search", ["--out", "runs/new", "--model", "oneshot.discrete.ENAS"], id="earlier-release"),
        pytest.param("search", ["--out", "runs/new", "--model", "mine.DARTZ"], id="not-ours"),
        pytest.param("search", ["--config", "good.yaml", "--out", "runs/new"], id="last-one-counts"),
        pytest.param("measure", ["--out", "table.json", "--verify", "9"], id="verify"),
    ],
)
def test_what_may_work_is_not_refused(
    command: str, words: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    check(command, nothing(), words)


def test_a_folder_in_use_is_left_to_its_lock(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with RunLock("runs/digits"):
        check("search", nothing(), ["--out", "runs/digits"])
    with pytest.raises(FileExistsError, match="must be new"):
        check("search", nothing(), ["--out", "runs/digits"])


def test_the_second_process_of_a_run_finds_its_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("LOCAL_RANK", "1")
    check("search", nothing(), ["--out", "runs/digits"])


@pytest.mark.parametrize(
    ("command", "options", "words", "message"),
    [
        pytest.param(
            "measure", {}, ["--runtime", "onnxruntime"], "Measuring with ONNX Runtime needs onnx", id="measure"
        ),
        pytest.param(
            "export",
            {"run": "runs/whole", "formats": ["onnx"]},
            [],
            r"Exporting to ONNX needs onnx. Install it with: pip install 'oneshot-nas\[onnx\]'",
            id="export",
        ),
        pytest.param("discrete", {}, ["--ray", "auto"], "Evaluating on a cluster needs ray", id="ray"),
    ],
)
def test_a_package_that_is_not_installed_is_named(
    command: str,
    options: dict[str, object],
    words: list[str],
    message: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(early_checks, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=message):
        check(command, nothing(**options), words)


def test_every_public_class_is_one_that_is_there() -> None:
    for package in PACKAGES:
        for name in dir(import_module(package)):
            check_class(f"{package}.{name}", "--model")
    with pytest.raises(UsageError, match="oneshot.supernets has no class 'Nothing'"):
        check_class("oneshot.supernets.Nothing", "--model")


def test_every_configuration_of_the_experiments_is_read() -> None:
    files = [path for path in (ROOT / "experiments").rglob("*.yaml")]
    assert len(files) > 20
    for path in files:
        assert isinstance(read_config(str(path)), dict), path
        check("profile", nothing(), ["--config", str(path)])


def test_files_that_repeat_or_nest_without_end_are_left_to_the_command(tmp_path: Path) -> None:
    lines = ["a0: &a0 {class_path: oneshot.DARTS}"]
    lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    (tmp_path / "repeats.yaml").write_text("\n".join(lines))
    check("profile", nothing(), ["--config", str(tmp_path / "repeats.yaml")])
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 5000)
    check("profile", nothing(), ["--config", str(tmp_path / "deep.yaml")])


def test_names_of_files_are_those_of_the_commands_that_write_them() -> None:
    assert events.LOG == LOG and MARKERS["compare"] == JOURNAL and MARKERS["quickstart"] == quickstart.RESULTS
