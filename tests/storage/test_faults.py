"""A full disk makes a run wait or go on without, and changes nothing of what it finds."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback

from oneshot.callbacks import GenotypePlot, SubnetExport, good_checkpoint
from oneshot.cli import main as cli
from oneshot.cost.latency.timings import Timings, Visit
from oneshot.deploy.export import export_subnet, load
from oneshot.discrete import RandomSearch, RegularizedEvolution, Study, TabularEvaluator
from oneshot.discrete.events import EventLog
from oneshot.discrete.protocol import Proposal
from oneshot.storage import faults
from oneshot.storage.faults import MachineFaultError, machine_fault, patiently
from oneshot.storage.files import Outbox, append, write_atomically
from oneshot.supernets import NASBench201Network
from oneshot.testing.strategies import SPACE

from ..cli.test_discrete import table
from ..full_disk import disk, no_room
from ..training.test_resume import assert_same_training, data, fit, s4

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "weights")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST", 0.01)
    monkeypatch.setattr(faults, "LONGEST", 0.01)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "PATIENCE", 0.05)


def caused(error: Exception, by: Exception) -> Exception:
    try:
        raise error from by
    except type(error) as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (FULL, "No space left on device: weights"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "Too many open files"),
        (caused(RuntimeError("could not train"), FULL), "No space left on device: weights"),
        (RuntimeError("I/O error: No space left on device (os error 28)\nat line 7"), "I/O error: No space left"),
        (RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/0"), "[enforce fail]"),
        (RuntimeError("dataloader's workers are out of shared memory. Please raise it."), "dataloader's workers"),
        (MemoryError(), None),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), None),
        (OSError(errno.ENOENT, "No such file or directory", "mine"), None),
        (TimeoutError("too slow"), None),
        (ValueError("the architecture has no input"), None),
    ],
)
def test_what_is_a_fault_of_the_machine(error: Exception, fault: str | None) -> None:
    assert (machine_fault(error) or "").startswith(fault or "") and (machine_fault(error) is None) == (fault is None)


def test_a_fault_that_was_dealt_with_is_not_the_fault_of_what_fails_later() -> None:
    try:
        try:
            raise FULL
        except OSError:
            raise ValueError("no wonder") from None
    except ValueError as error:
        assert machine_fault(error) is None


# Files.


def test_what_is_appended_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    assert append(path, b"one\n", at=0) == 4
    path.write_bytes(b"one\ntw")  # cut off by a kill
    with no_room(tmp_path), pytest.raises(OSError, match="No space left"):
        append(path, b"three\n", at=4)
    assert path.read_bytes() == b"one\n"
    assert append(path, b"three\n", at=4) == 10 and path.read_bytes() == b"one\nthree\n"


def test_a_file_that_cannot_be_written_is_the_old_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    with no_room(tmp_path), pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


def test_waiting_is_said_each_time_and_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries: list[int] = []

    def succeed_at_third() -> str:
        tries.append(1)
        if len(tries) % 3:
            raise FULL
        return "done"

    for _ in range(2):
        with pytest.warns(UserWarning, match="log cannot be written: No space left.*Nothing is lost.*waits") as said:
            assert patiently(succeed_at_third, "log cannot be written") == "done"
        assert len(said) == 1
    impatient(monkeypatch)
    with pytest.warns(UserWarning, match="cannot be written"), pytest.raises(OSError, match="No space left"):
        patiently(lambda: (_ for _ in ()).throw(FULL), "log cannot be written")
    with pytest.raises(OSError, match="Permission denied"):
        patiently(lambda: (_ for _ in ()).throw(PermissionError(13, "Permission denied")), "log cannot be written")


def test_files_that_can_wait_are_written_when_there_is_room(tmp_path: Path) -> None:
    outbox = Outbox()
    with no_room(tmp_path), pytest.warns(UserWarning, match=r"a.* cannot be written: No space left.*goes on") as said:
        for name, content in (("a", "1"), ("b", "2"), ("a", "3")):
            outbox.put(tmp_path / name, lambda name=name, content=content: write_atomically(tmp_path / name, content))
    assert len(said) == 1 and not list(tmp_path.iterdir())
    outbox.put(tmp_path / "c", lambda: write_atomically(tmp_path / "c", "4"))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "3", "b": "2", "c": "4"}
    with pytest.raises(ValueError, match="not of the disk"):
        outbox.put(tmp_path / "d", lambda: (_ for _ in ()).throw(ValueError("not of the disk")))


# Studies.


class Evaluator:
    """Keeps a file of every evaluation, as a training keeps its weights."""

    metrics = ("error",)

    def __init__(self, folder: Path) -> None:
        self.folder, self.tries = folder, 0

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        self.tries += 1
        write_atomically(self.folder / "weights" / str(proposal.number), str(proposal.config))
        return {"error": float(sum(map(len, map(str, proposal.config.picks))) % 7 + proposal.number % 3)}


class Recovering(Evaluator):
    """There is no room for some of its evaluations, at the first three tries."""

    def __init__(self, folder: Path, error: Exception, numbers: set[int]) -> None:
        super().__init__(folder)
        self.error, self.numbers, self.failed = error, numbers, 0

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        if proposal.number in self.numbers and self.failed < 3:
            self.failed += 1
            raise self.error
        self.failed = 0
        return super().__call__(proposal)


def study(folder: Path, evaluator: Any = None, **options: Any) -> Study:
    strategy = RegularizedEvolution(SPACE, population=4, sample=2, seed=1)
    return Study(
        strategy,
        evaluator or Evaluator(folder),
        ["min error"],
        folder=folder,
        evaluations=12,
        progress=False,
        **options,
    )


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in e.items() if k not in ("at", "seconds")} for e in EventLog(folder / "log.jsonl").events]


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize(
    "error",
    [FULL, RuntimeError("PytorchStreamWriter failed writing file data/2: file write failed")],
    ids=["os", "torch"],
)
def test_a_study_waits_for_room_and_is_the_same_study(error: Exception, retries: int, tmp_path: Path) -> None:
    study(tmp_path / "whole").run()
    evaluator = Recovering(tmp_path / "waited", error, {2, 5, 11})
    with pytest.warns(UserWarning, match="Evaluations are not possible: .*Nothing is lost, and the run waits"):
        found = study(tmp_path / "waited", evaluator, retries=retries).run()
    assert timeless(tmp_path / "waited") == timeless(tmp_path / "whole")
    assert not any(record.result.failure for record in found.records)


def test_time_in_which_a_study_waits_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST", 0.5)
    monkeypatch.setattr(faults, "LONGEST", 0.5)
    clock = [0.0]  # so that nothing but the pauses takes time
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    with pytest.warns(UserWarning, match="not possible"):
        found = study(tmp_path, Recovering(tmp_path, FULL, {2, 5})).run()
    assert clock[0] == 3.0 and [record.at for record in found.records] == [0.0] * len(found.records)


# The whole of a small file system is used up, or writing fails as if it were.
KINDS = ["injected", pytest.param("tmpfs", marks=pytest.mark.nightly)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_study_stops_where_a_disk_stays_full_and_goes_on_as_if_it_had_not(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    study(tmp_path / "whole").run()
    with disk(kind, tmp_path / "disk") as (folder, full):

        class Filling(Evaluator):
            """After the fourth evaluation there is no room any more."""

            def __call__(self, proposal: Proposal) -> dict[str, float]:
                if proposal.number == 4 and self.tries == 4:
                    stack.enter_context(full())
                return super().__call__(proposal)

        with (
            ExitStack() as stack,
            pytest.warns(UserWarning, match="Nothing is lost"),
            pytest.raises(MachineFaultError, match="No architecture is to blame, and nothing was recorded"),
        ):
            study(folder / "run", Filling(folder / "run"), retries=0).run()
        assert [e["number"] for e in timeless(folder / "run") if e["event"] == "tell"] == [0, 1, 2, 3]
        study(folder / "run").run()
        assert timeless(folder / "run") == timeless(tmp_path / "whole")


def test_a_log_that_finds_no_room_waits_for_it(tmp_path: Path) -> None:
    study(tmp_path / "whole").run()

    class Filling(Evaluator):
        def __call__(self, proposal: Proposal) -> dict[str, float]:
            found = super().__call__(proposal)
            if proposal.number == 3:
                full.enter_context(no_room(tmp_path / "waited"))
            return found

    def stop_waiting(seconds: float) -> None:
        full.close()

    full = ExitStack()
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.warns(UserWarning, match=r"log.jsonl cannot be written: No space"),
    ):
        patch.setattr("time.sleep", stop_waiting)
        study(tmp_path / "waited", Filling(tmp_path / "waited")).run()
    assert timeless(tmp_path / "waited") == timeless(tmp_path / "whole")


@pytest.mark.parametrize("error", [MemoryError("too large"), torch.OutOfMemoryError("CUDA out of memory.")])
def test_an_architecture_that_needs_too_much_memory_has_failed(error: Exception, tmp_path: Path) -> None:
    class Large(Evaluator):
        def __call__(self, proposal: Proposal) -> dict[str, float]:
            if proposal.number == 2:
                raise error
            return super().__call__(proposal)

    records = Study(RandomSearch(SPACE), Large(tmp_path), ["min error"], evaluations=5).run().records
    assert [record.proposal.number for record in records if record.result.failure] == [2]


class FullOnce:
    """In another process: the disk is full until a file is there."""

    metrics = ("error",)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        if proposal.number == 3 and not (self.folder / "room").exists():
            (self.folder / "room").touch()
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        return {"error": float(proposal.number)}


@pytest.mark.nightly  # begins processes
def test_a_full_disk_of_a_process_beside_is_no_failure_either(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="not possible: OSError: .* Disk quota exceeded"):
        found = study(tmp_path, FullOnce(tmp_path), workers=2, retries=0).run()
    assert len(found.records) == 12 and not any(record.result.failure for record in found.records)


# Searches.


class Filling(Callback):
    """Fills the disk before some step, and makes room before another."""

    def __init__(self, full: Any, begin: int, end: int | None) -> None:
        self.full, self.begin, self.end = full, begin, end
        self.stack = ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        step = trainer.fit_loop.total_batch_idx
        if step == self.begin:
            self.stack.enter_context(self.full())
        elif step == self.end:
            self.stack.close()


def small(folder: Path, *callbacks: Callback, resume: bool = False) -> None:
    fit(s4(), folder, data(), GenotypePlot(), SubnetExport(), *callbacks, resume=resume, every_n_steps=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context():
        small(folder)
    yield folder


def files(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: content for name, content in found.items() if "checkpoints" not in name}


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_goes_on_without_room_and_misses_nothing_in_the_end(kind: str, whole: Path, tmp_path: Path) -> None:
    with disk(kind, tmp_path / "disk", 4096) as (folder, full):
        with pytest.warns(UserWarning) as said:
            small(folder / "run", Filling(full, 5, 19))
        texts = [str(warning.message) for warning in said]
        assert any("No checkpoint was written at step 6: " in text and "goes on" in text for text in texts)
        assert any("metrics.csv cannot be written: " in text for text in texts)
        assert any("cells.png cannot be written: " in text for text in texts)
        assert_same_training(whole, folder / "run")
        assert files(folder / "run") == files(whole)


@pytest.mark.filterwarnings("ignore:No checkpoint was written", "ignore:.* cannot be written")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.nightly
def test_a_search_that_ends_without_room_waits_says_so_and_is_resumed(
    kind: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    with disk(kind, tmp_path / "disk", 4096) as (folder, full):
        filling = Filling(full, 19, None)
        with pytest.warns(UserWarning, match="waits"), pytest.raises((OSError, RuntimeError)) as raised:
            small(folder / "run", filling)
        assert "No space left" in str(machine_fault(raised.value))
        filling.stack.close()
        assert good_checkpoint(folder / "run/checkpoints") is not None
        small(folder / "run", resume=True)
        assert_same_training(whole, folder / "run")
        assert files(folder / "run") == files(whole)


def test_a_search_whose_last_files_are_missing_writes_them_when_it_is_resumed(whole: Path, tmp_path: Path) -> None:
    small(tmp_path)
    for name in ("subnet.json", "cells.png"):
        (tmp_path / name).unlink()
    text = (tmp_path / "metrics.csv").read_text(encoding="utf-8")
    (tmp_path / "metrics.csv").write_text("".join(text.splitlines(keepends=True)[:-1]), encoding="utf-8")
    small(tmp_path, resume=True)
    assert files(tmp_path) == files(whole)


# Measuring and exporting.


def test_measuring_waits_for_room_and_keeps_every_timing_once(tmp_path: Path) -> None:
    visits = [Visit((n,), (1.0, 2.0), (1.0, 1.0, 1.0)) for n in range(4)]
    journal, full = Timings(tmp_path / "table.journal", {"seed": 0}), ExitStack()
    journal.append(visits[0])
    full.enter_context(no_room(tmp_path))
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.warns(UserWarning, match="table.journal cannot be written: No space"),
    ):
        patch.setattr("time.sleep", lambda seconds: full.close())
        for visit in visits[1:]:
            journal.append(visit)
    assert Timings(tmp_path / "table.journal", {"seed": 0}).visits == visits


@pytest.mark.slow  # traces a network
@pytest.mark.parametrize("kind", KINDS)
def test_an_export_without_room_leaves_what_was_there(kind: str, tmp_path: Path) -> None:
    network = NASBench201Network("|nor_conv_3x3~0|+|skip_connect~0|none~1|+|none~0|none~1|nor_conv_1x1~2|", channels=4)
    with disk(kind, tmp_path / "disk", 8192) as (folder, full):
        with full(), pytest.raises(OSError, match="cannot be written: .*nothing of it is left"):
            export_subnet(network, folder / "export", formats=("torch_export",))
        assert not [p for p in folder.iterdir() if p.name != ".filler"]
        export_subnet(network, folder / "export", formats=())
        before = (folder / "export/manifest.json").read_bytes()
        with full(), pytest.raises(OSError, match="the earlier export is as it was"):
            export_subnet(network, folder / "export", overwrite=True, formats=("torch_export", "onnx"))
        assert (folder / "export/manifest.json").read_bytes() == before
        assert [p.name for p in folder.iterdir()] == ["export"]
        load(folder / "export")


def test_a_study_without_room_says_how_to_go_on_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    impatient(monkeypatch)
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(table(tmp_path)), encoding="utf-8")
    assert cli.main(["discrete", "--config", str(config), "--out", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    honest = TabularEvaluator.__call__

    def full(self: TabularEvaluator, proposal: Proposal) -> dict[str, float]:
        if proposal.number >= 3:
            raise FULL
        return honest(self, proposal)

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="Evaluations are not possible"):
        patch.setattr(TabularEvaluator, "__call__", full)
        assert cli.main(["discrete", "--config", str(config), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "No space left" in error and "No architecture is to blame" in error and "--resume goes on" in error
    assert cli.main(["discrete", "--resume", "--out", str(tmp_path / "run")]) == 0
    assert timeless(tmp_path / "run") == timeless(tmp_path / "whole")
