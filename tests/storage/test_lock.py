"""A folder belongs to one run at a time, and to that one as long as it is there."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback

from oneshot.cli import main as cli
from oneshot.discrete import TabularEvaluator
from oneshot.discrete.protocol import Proposal
from oneshot.storage import lock
from oneshot.storage.files import append, new_folder, remove_unfinished, write_atomically
from oneshot.storage.lock import FolderLostError, InUseError, RunLock

from ..cli.test_discrete import table
from ..training.test_resume import configuration
from .competing import compete

HOLD = """
import os, sys, time
from oneshot.storage.lock import RunLock
with RunLock(sys.argv[1]):
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        time.sleep(30)  # what a run has started outlives it, and has inherited what it had open
        os._exit(0)
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder: Path, *how: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLD, str(folder), *how]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_another_process_is_named_and_a_killed_one_is_no_owner(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        message = rf"is being written by another run: process {other.pid} on .*, since 20\d\d-.*Wait for it, end it"
        with pytest.raises(InUseError, match=message), RunLock(tmp_path):
            pass
        os.kill(other.pid, signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        with RunLock(tmp_path) as ours:
            ours.check()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_a_killed_run_has_started_does_not_own_its_folder(tmp_path: Path) -> None:
    with holder(tmp_path, "fork") as other:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with RunLock(tmp_path) as ours:
            ours.check()


def test_within_a_process_one_has_it_too(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path / "new"), RunLock(tmp_path / "new")
    with first, first:
        with pytest.raises(InUseError, match="another run: this process on"), second:
            pass
        with RunLock(tmp_path / "new", "table.json"):  # another file of the folder
            pass
        first.check()
    assert not (tmp_path / "new").exists(), "nothing was written there"
    with second:
        (tmp_path / "new" / "file").touch()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]


def owned(folder: Path, **changes: Any) -> Path:
    """A folder whose owner did not say that it has ended."""
    with RunLock(folder) as ours:
        facts = json.loads(ours.path.read_text(encoding="utf-8"))
    folder.mkdir(exist_ok=True)
    ours.path.write_text(json.dumps({**facts, **changes}), encoding="utf-8")
    return ours.path


def test_a_process_of_the_same_number_is_another_one(tmp_path: Path) -> None:
    owned(tmp_path, process="began long ago")
    with RunLock(tmp_path):
        pass
    owned(tmp_path, pid=2**22 + 1)
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_what_an_owner_could_not_write_owns_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / ".owner").write_text(content, encoding="utf-8")
    with RunLock(tmp_path) as ours:
        ours.check()


def test_an_owner_on_another_machine_is_known_by_its_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    path, over = owned(tmp_path, machine="elsewhere", host="node7"), threading.Event()

    def beat() -> None:
        while not over.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        said = pytest.warns(UserWarning, match="on node7, which did not say that it has ended")
        with said, pytest.raises(InUseError, match="on node7, since"), RunLock(tmp_path):
            pass
    finally:
        over.set()
        thread.join()
    with pytest.warns(UserWarning, match="Waiting 1 seconds for a sign of life"), RunLock(tmp_path) as ours:
        ours.check()


def test_an_owner_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with RunLock(tmp_path) as ours:
        os.utime(ours.path, (0, 0))
        end = time.monotonic() + 60
        while ours.path.stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("stale", [False, True])
def test_of_several_that_start_at_once_exactly_one_goes_on(stale: bool, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        if stale:
            owned(folder, process="began long ago")
        barrier, results = context.Barrier(4), context.SimpleQueue()
        processes = [context.Process(target=compete, args=(str(folder), barrier, results)) for _ in range(4)]
        for process in processes:
            process.start()
        found = [results.get() for _ in processes]
        for process in processes:
            process.join()
        assert sum(pid is not None for pid in found) == 1


# The folder is lost.


@pytest.mark.parametrize("how", ["deleted", "moved", "begun anew"])
def test_a_folder_that_is_gone_is_noticed_at_the_next_write(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunLock(folder):
        write_atomically(folder / "a" / "b", "c")
        if how == "moved":
            folder.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(folder)
        if how == "begun anew":
            owned(folder)
        for write in (lambda: write_atomically(folder / "a" / "b", "c"), lambda: append(folder / "log", b"", at=0)):
            with pytest.raises(FolderLostError, match="run was deleted, moved or given to another run"):
                write()
        write_atomically(tmp_path / "other", "where no run is")
    assert how == "begun anew" or not folder.exists(), "nothing was made there"
    write_atomically(folder / "a" / "b", "c")


class Deleting(Callback):
    """Somebody cleans up while the run is in its third step."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 2:
            shutil.rmtree(trainer.default_root_dir)


def deleting(folder: Path) -> Path:
    path = configuration(folder, epochs=2)
    text = path.read_text(encoding="utf-8") + "    - class_path: tests.storage.test_lock.Deleting\n"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.filterwarnings("ignore")
def test_a_search_whose_folder_is_deleted_ends_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main(["search", "--config", str(deleting(tmp_path)), "--out", str(out)]) == 1
    assert f"{out} was deleted, moved or given to another run" in capsys.readouterr().err
    assert not out.exists()


def test_a_study_whose_folder_is_deleted_ends_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, honest, asked = tmp_path / "run", TabularEvaluator.__call__, []

    def evaluate(self: TabularEvaluator, proposal: Proposal) -> dict[str, float]:
        asked.append(proposal.number)
        if proposal.number == 2:
            shutil.rmtree(out)
        return honest(self, proposal)

    monkeypatch.setattr(TabularEvaluator, "__call__", evaluate)
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(table(tmp_path)), encoding="utf-8")
    assert cli.main(["discrete", "--config", str(config), "--out", str(out)]) == 1
    assert f"{out} was deleted, moved or given to another run" in capsys.readouterr().err
    assert asked == [0, 1, 2] and not out.exists()


# Every command that writes a run.


def commands(folder: Path) -> dict[str, list[str]]:
    """Each with a small configuration, and the folder or file that it writes to last."""
    config = configuration(folder, epochs=1)
    retrain = folder / "retrain.yaml"
    retrain.write_text("trainer: {max_epochs: 1}\n", encoding="utf-8")
    study = folder / "study.yaml"
    study.write_text(yaml.safe_dump(table(folder)), encoding="utf-8")
    digits = [
        "--data=oneshot.data.FakeImages",
        "--data.init_args.input_shape=[1,8,8]",
        "--data.init_args.num_classes=3",
        "--data.init_args.batch_size=4",
        "--data.init_args.train_size=16",
        "--data.init_args.test_size=8",
    ]
    supernet = "oneshot.supernets.NASBench201Supernet"
    return {
        "search": ["--config", str(config), "--out", str(folder / "search")],
        "retrain": [
            "|none~0|+|skip_connect~0|none~1|+|none~0|none~1|nor_conv_1x1~2|",
            "--model.network.init_args.channels=4",
            "--model.network.init_args.cells_per_stage=1",
            "--config",
            str(retrain),
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            *digits,
            "--out",
            str(folder / "retrain"),
        ],
        "discrete": ["--config", str(study), "--out", str(folder / "discrete")],
        "measure": [
            f"--supernet={supernet}",
            "--supernet.channels=2",
            "--supernet.cells_per_stage=1",
            "--networks=6",
            "--out",
            str(folder / "table.json"),
        ],
        "quickstart": ["--out", str(folder / "quickstart")],
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", ["search", "retrain", "discrete", "measure", "quickstart"])
@pytest.mark.parametrize("options", [[], ["--resume"], ["--overwrite"]], ids=["new", "resume", "overwrite"])
def test_a_second_run_of_a_folder_is_refused_and_changes_nothing(
    command: str, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if options == ["--resume"] and command in ("measure", "quickstart"):
        options = []  # they have no such option
    arguments = commands(tmp_path)[command]
    out = Path(arguments[-1])
    place = (out.parent, out.name) if command == "measure" else (out,)
    with RunLock(*place):
        before = sorted(tmp_path.rglob("*"))
        assert cli.main([command, *arguments, *options]) == 1
        error = capsys.readouterr().err
        assert f"oneshot {command}: {out} is being written by another run: this process on " in error
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore")
def test_a_finished_retraining_that_is_resumed_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["retrain", *commands(tmp_path)["retrain"]]
    assert cli.main(arguments) == 0
    of_starts = {"report.html", "commands.json"}  # which say when and by what the run was started

    def content() -> dict[Path, bytes]:
        files = (path for path in (tmp_path / "retrain").rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in files if path.name not in of_starts}

    before = content()
    assert {"results.json", "metrics.csv", "last.ckpt"} <= {p.name for p in before}
    for _ in range(2):
        assert cli.main([*arguments, "--resume"]) == 0
        assert content() == before


# A folder that is replaced.


def test_a_folder_that_is_replaced_comes_back_if_the_new_run_fails(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name in ("marker", "kept/one", "kept/two"):
        write_atomically(folder / name, name)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    options: Any = {"overwrite": True, "marker": "marker", "keep": "done"}
    with RunLock(folder):
        with pytest.raises(KeyError), new_folder(folder, **options):
            write_atomically(folder / "kept" / "three", "new")
            write_atomically(folder / "new" / "four", "new")
            raise KeyError
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".owner"} == before
        with new_folder(folder, **options):
            write_atomically(folder / "done", "new")
    assert [p.name for p in folder.iterdir()] == ["done"]


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (
        ".metrics.csv.0123456789abcdef.tmp",
        "deep/.a.0123456789abcdef.tmp",
        ".mine.tmp",
        "a.tmp",
        "metrics.csv",
    ):
        write_atomically(tmp_path / name, name)
    remove_unfinished(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".mine.tmp", "a.tmp", "metrics.csv"]
