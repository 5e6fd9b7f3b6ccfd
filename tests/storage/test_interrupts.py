"""Ctrl-C and SIGTERM end every command in order: it says how to go on, and what a shell reports for the signal."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback

from oneshot.cli import early_checks
from oneshot.cli import main as cli
from oneshot.discrete import TabularEvaluator, TrainingEvaluator
from oneshot.discrete.attempt import attempt
from oneshot.discrete.events import EventLog
from oneshot.discrete.protocol import Proposal
from oneshot.storage import files
from oneshot.storage.files import new_folder, write_atomically
from oneshot.storage.interrupts import Terminated, interruption, uninterrupted
from oneshot.storage.lock import RunLock

from ..cli.test_discrete import TRAINING, table
from ..training.test_resume import configuration


class Signal(Callback):
    """A signal arrives in a step."""

    def __init__(self, number: int, step: int) -> None:
        self.number, self.step = number, step

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            signal.raise_signal(self.number)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("number", "step", "said", "code"),
    [
        (signal.SIGINT, 5, "interrupted. The same command with --resume goes on.", 130),
        (signal.SIGINT, 0, "interrupted. There is no checkpoint yet to go on from.", 130),
        (signal.SIGTERM, 5, "stopped by SIGTERM. The same command with --resume goes on.", 143),
    ],
)
def test_a_search_says_how_to_go_on(
    number: int, step: int, said: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configuration(tmp_path, epochs=1)
    what = f"{{number: {int(number)}, step: {step}}}"
    callback = f"    - {{class_path: tests.storage.test_interrupts.Signal, init_args: {what}}}\n"
    config.write_text(config.read_text(encoding="utf-8") + callback, encoding="utf-8")
    out = tmp_path / "run"
    assert cli.main(["search", "--config", str(config), "--out", str(out)]) == code
    assert f"oneshot search: {said}\n" in capsys.readouterr().err
    assert out.exists() == (step > 0), "without a checkpoint nothing is kept"


@pytest.mark.parametrize(
    ("number", "said", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "stopped by SIGTERM", 143)],
)
def test_a_study_says_how_to_go_on_and_records_nothing(
    number: int,
    said: str,
    code: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = TabularEvaluator.__call__

    def evaluate(self: TabularEvaluator, proposal: Proposal) -> dict[str, float]:
        if proposal.number == 3:
            signal.raise_signal(number)
        return honest(self, proposal)

    config, out = tmp_path / "study.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(table(tmp_path)), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(TabularEvaluator, "__call__", evaluate)
        assert cli.main(["discrete", "--config", str(config), "--out", str(out)]) == code
    assert f"oneshot discrete: {said}. The same command with --resume goes on.\n" in capsys.readouterr().err
    assert [e["number"] for e in EventLog(out / "log.jsonl").events if e["event"] == "tell"] == [0, 1, 2]
    assert cli.main(["discrete", "--resume", "--out", str(out)]) == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_training_of_a_study_is_no_failure_of_its_architecture(
    number: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = TrainingEvaluator.__call__

    def evaluate(self: TrainingEvaluator, proposal: Proposal) -> dict[str, float]:
        if proposal.number == 1:
            self.trainer["callbacks"] = [Signal(number, 1)]
        return honest(self, proposal)

    monkeypatch.setattr(TrainingEvaluator, "__call__", evaluate)
    config, out = tmp_path / "study.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(TRAINING), encoding="utf-8")
    assert cli.main(["discrete", "--config", str(config), "--out", str(out)]) == code
    assert "--resume goes on" in capsys.readouterr().err
    events = EventLog(out / "log.jsonl").events
    assert [e["number"] for e in events if e["event"] in ("tell", "retry")] == [0]


def test_an_exit_is_a_failure_and_an_interruption_is_none() -> None:
    def give(error: BaseException) -> Any:
        def evaluate(proposal: Proposal) -> dict[str, float]:
            raise error

        return evaluate

    proposal: Any = type("Asked", (), {"number": 0})()
    assert attempt(give(SystemExit("no licence")), proposal).failure is not None
    lightning = SystemExit(1)
    lightning.__context__ = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        attempt(give(lightning), proposal)
    assert isinstance(interruption(Terminated()), Terminated) and interruption(ValueError()) is None


@pytest.mark.parametrize("command", ["evaluate", "export", "derive", "show", "pick", "measure", "quickstart"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_every_command_ends_in_order(
    command: str, number: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_run", lambda args, rest: signal.raise_signal(number))
    monkeypatch.setattr(early_checks, "check", lambda command, args, rest: None)
    needed = ["runs/x"] if command in ("export", "derive", "show", "pick") else []
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    code = cli.main([command, *needed])
    way = "The same command goes on." if command == "measure" else "Nothing is kept; the same command begins again."
    what = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
    assert code == 128 + number and f"oneshot {command}: {what}. {way}\n" in capsys.readouterr().err
    after = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert after == handlers, "who calls main() from Python, in a notebook for example, goes on"


def test_a_second_ctrl_c_waits_until_things_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    write_atomically(folder / "marker", "old")
    remove = files._remove

    def interrupted(path: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        remove(path)

    monkeypatch.setattr(files, "_remove", interrupted)
    replaced = new_folder(folder, overwrite=True, marker="marker", keep="done")
    with pytest.raises(KeyboardInterrupt), RunLock(folder), replaced:
        write_atomically(folder / "new", "new")
        raise KeyboardInterrupt
    assert [(p.name, p.read_text(encoding="utf-8")) for p in folder.iterdir()] == [("marker", "old")]


def test_what_arrives_in_a_cleaning_up_arrives_after_it() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
        done.append(2)
    assert done == [1]
