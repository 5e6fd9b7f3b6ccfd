"""Durations: commands are measured, rows are kept, the table is written. Gallery: reports are made and listed."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments/benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "experiments/gallery"))
import durations  # type: ignore[import-not-found]  # a script
import make as gallery  # type: ignore[import-not-found]  # a script

sys.path.pop(0)
sys.path.pop(0)
sys.modules.pop("durations")
sys.modules.pop("make")

ROOT = Path(__file__).parents[2]
MACHINE = {"cpu": "A processor", "cores": 2, "python": "3.11.1", "torch": "2.9.0"}


def found(minutes: float, *, load: float = 0.0, **machine: Any) -> dict[str, Any]:
    return {
        "commands": ["oneshot search --config a.yaml", "oneshot retrain search"],
        "wall_minutes": minutes,
        "cpu_minutes": 2.5,
        "peak_gigabytes": 0.75,
        "busy_cores_before": load,
        "machine": {**MACHINE, **machine},
    }


def test_the_table_has_a_line_for_each_measured_row_and_says_which_machine() -> None:
    text = durations.table({"search": found(1.5), "pareto": found(2.0, cpu="Another one"), "unknown": found(9.0)})
    _, _, search, pareto, _, first, _, second = text.splitlines()
    assert search.startswith("| `oneshot search`, then `oneshot retrain` | ") and search.endswith("| 1.5 | 2.5 | 0.8 |")
    assert "` [2] | " in pareto and pareto.endswith("| 2.0 | 2.5 | 0.8 |")
    assert first == "Machine: 2 cores, A processor; Python 3.11.1, torch 2.9.0; no GPU."
    assert second.startswith("[2] Machine: 2 cores, Another one")


def test_a_row_that_was_measured_beside_other_work_has_no_minutes_of_the_clock() -> None:
    quiet, busy = (durations.table({"search": found(1.5, load=load)}) for load in (0.4, 3.0))
    assert "| 1.5 | 2.5 |" in quiet
    assert "1.5" not in busy and "| beside other work | 2.5 |" in busy


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A row that takes seconds, and files of its own."""
    row = durations.Row("look", "looks at images", ("data photos", "data photos"), photos=True)
    other = durations.Row("other", "is not there", ("nothing",))
    monkeypatch.setattr(durations, "ROWS", (row, other))
    monkeypatch.setattr(durations, "RESULTS", tmp_path / "durations.json")
    monkeypatch.setattr(durations, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(f"Before\n\n{durations.BEGIN}\nold\n{durations.END}\n\nAfter\n", encoding="utf-8")
    return tmp_path


@pytest.mark.nightly
def test_a_row_is_measured_once_and_its_run_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durations.main(["look", "--keep", str(place / "kept")])

    row = json.loads((place / "durations.json").read_text(encoding="utf-8"))["look"]
    assert row["commands"] == ["oneshot data photos"] * 2
    assert 0 < row["cpu_minutes"] < 10 and 0.02 < row["peak_gigabytes"] < 50 and row["wall_minutes"] > 0
    assert len(list((place / "kept/look/photos").glob("*/*.png"))) == 400
    page = (place / "page.md").read_text(encoding="utf-8")
    assert page.startswith("Before\n\n") and page.endswith("\n\nAfter\n") and "old" not in page
    assert page.count("looks at images") == 1

    monkeypatch.setattr(durations, "measure", lambda *_: pytest.fail("the row is there"))
    durations.main(["look"])


def test_a_command_that_fails_ends_it_and_leaves_no_row(place: Path) -> None:
    with pytest.raises(SystemExit, match="oneshot nothing ended with 2; its output is in"):
        durations.main(["other", "--keep", str(place / "kept")])
    assert not (place / "durations.json").exists()
    assert "nothing" in (place / "kept/other/other.log").read_text(encoding="utf-8")


def test_an_unknown_row_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        durations.main(["serch"])
    assert "ROW must be one of look, other; got serch" in capsys.readouterr().err


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing", encoding="utf-8")
    for script in (lambda page: durations.write_page(page, {}), lambda page: gallery.write_page(page, tmp_path)):
        with pytest.raises(ValueError, match="must have the lines"):
            script(tmp_path / "page.md")


def test_the_tables_of_the_pages_are_what_the_scripts_write(tmp_path: Path) -> None:
    results = json.loads(durations.RESULTS.read_text(encoding="utf-8")) if durations.RESULTS.is_file() else {}
    pages = {"which_method": lambda page: durations.write_page(page, results)}
    pages["gallery"] = lambda page: gallery.write_page(page, ROOT / "docs/gallery")
    for name, write in pages.items():
        before = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
        (tmp_path / "page.md").write_text(before, encoding="utf-8")
        write(tmp_path / "page.md")
        assert (tmp_path / "page.md").read_text(encoding="utf-8") == before


def test_every_run_of_the_gallery_is_one_of_the_durations() -> None:
    written = {
        f"{row.name}/{command.split(' --out ')[1]}"
        for row in durations.ROWS
        for command in row.commands
        if " --out " in command
    }
    assert {entry.run for entry in gallery.ENTRIES if not entry.files} <= written
    assert all((ROOT / file).is_file() for entry in gallery.ENTRIES for file in entry.files)
    assert len({entry.name for entry in gallery.ENTRIES}) == len(gallery.ENTRIES)


def test_a_report_of_the_gallery_has_no_folders_of_the_machine_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "picture", lambda page, to, _: to.write_bytes(page.read_bytes()[:1]))
    measured = gallery.Entry("measure", "table.json", "t", "l", files=(gallery.ENTRIES[-1].files[0],))
    run = gallery.Entry("run", "search", "t", "l")
    monkeypatch.setattr(gallery, "ENTRIES", (measured, run, gallery.Entry("none", "none", "t", "l")))
    folder = tmp_path / "runs/search"
    folder.mkdir(parents=True)
    commands = [
        {"command": "oneshot search", "started": "2026-01-01T00:00:00+00:00", "folder": str(folder), "versions": {}}
    ]
    (folder / "commands.json").write_text(json.dumps(commands), encoding="utf-8")
    (folder / "config.yaml").write_text(f"data: {folder}/photos\n", encoding="utf-8")
    (folder / "metrics.csv").write_text("step,epoch,train/loss\n0,0,1.0\n1,0,0.5\n", encoding="utf-8")

    assert gallery.make(tmp_path / "runs", tmp_path / "gallery", "chromium") == ["measure", "run"]

    page = (tmp_path / "gallery/run.html").read_text(encoding="utf-8")
    assert "photos" in page and str(tmp_path) not in page
    measured_page = (tmp_path / "gallery/measure.html").read_text(encoding="utf-8")
    assert ".../fbnet_cpu_1_thread.json" in measured_page and tempfile.gettempdir() not in measured_page
    assert {path.name for path in (tmp_path / "gallery").iterdir()} == {
        f"{name}.{ending}" for name in ("measure", "run") for ending in ("html", "png")
    }


def test_the_gallery_lists_what_is_in_the_folder(tmp_path: Path) -> None:
    for name in ("auto.html", "auto.png", "search.html"):
        (tmp_path / name).write_bytes(b"")
    text = gallery.text(tmp_path)
    assert "[Open the report](gallery/auto.html)" in text and "](gallery/auto.png)" in text
    assert "search.html" not in text  # its picture is missing
