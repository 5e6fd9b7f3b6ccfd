"""The page of a run while it runs: not too often, by one process only, and never the end of a run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from oneshot.report import live
from oneshot.report.live import LiveReport
from oneshot.storage.command_line import command_line
from oneshot.storage.faults import announce

from .pages import pareto_run


def warn_of_collapse() -> None:
    code = compile("import warnings\nwarnings.warn('It has  collapsed.', stacklevel=1)", "x.py", "exec")
    exec(code, {"__name__": "oneshot.callbacks.collapse_monitor"})


def test_the_page_is_written_at_most_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    report, made = LiveReport(pareto_run(tmp_path / "run"), every=30.0), []
    for seconds in (0, 29, 30, 31, 59, 60.5):
        now[0] = 100.0 + seconds
        report.update(before=lambda s=seconds: made.append(s))  # type: ignore[misc]
    assert made == [30, 60.5]
    page = tmp_path / "run" / "report.html"
    assert "The run goes on" in page.read_text()
    report.finish()
    assert "The run goes on" not in page.read_text()


def test_a_page_that_takes_long_is_written_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    report, made = LiveReport(pareto_run(tmp_path / "run"), every=30.0), list[float]()

    def slow() -> None:
        made.append(now[0])
        now[0] += 6.0

    for _ in range(300):
        now[0] += 1.0
        report.update(before=slow)
    assert made == [30.0, 156.0, 282.0]  # 6 s of every 126 s


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    folder = pareto_run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = LiveReport(folder, active=False, every=0.0)
    with pytest.warns(UserWarning, match="collapsed"), other:
        other.begin()
        other.update()
        other.keep("network.json", lambda: "{}")
        other.finish()
        warn_of_collapse()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_fails_is_told_once_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("no page")

    monkeypatch.setattr(live, "write_report", broken)
    report = LiveReport(pareto_run(tmp_path / "run"), every=0.0)
    with pytest.warns(UserWarning, match="The report of .*run cannot be written: ZeroDivisionError: no page. The run"):
        report.update()
    report.update()  # says nothing any more, or this test would fail
    report.finish()


def test_a_folder_without_a_run_gets_no_page(tmp_path: Path) -> None:
    LiveReport(tmp_path).finish()
    assert list(tmp_path.iterdir()) == []


def test_every_start_is_kept_with_its_command_and_versions(tmp_path: Path) -> None:
    folder = pareto_run(tmp_path / "run")
    with command_line(["pareto", "--resume", "--trainer.logger.api_key", "123", "--out=a b"]):
        LiveReport(folder).begin()
    first, second = json.loads((folder / "commands.json").read_text())
    assert first["command"] == "oneshot pareto --out run"
    assert second["command"] == "oneshot pareto --resume --trainer.logger.api_key '***' '--out=a b'"
    assert {"oneshot", "python", "torch", "machine"} <= second["versions"].keys()


def test_warnings_of_ours_are_kept_once_and_those_of_others_are_not(tmp_path: Path) -> None:
    folder = pareto_run(tmp_path / "run")
    (folder / "warnings.json").unlink()
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with LiveReport(folder):
            warn_of_collapse()
            warn_of_collapse()
            warnings.warn("of somebody else", stacklevel=1)
            announce("The disk is full.")
        warn_of_collapse()
    assert len(shown) == 5  # everybody sees what they saw before
    kept = json.loads((folder / "warnings.json").read_text())
    assert [row["text"] for row in kept] == ["It has collapsed.", "The disk is full."]
