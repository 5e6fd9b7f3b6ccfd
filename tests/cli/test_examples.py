"""Configuration files come with the package, under the names that the documentation has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oneshot.cli.examples import _command, about, example_texts
from oneshot.cli.main import main

ROOT = Path(__file__).parents[2]
TEXTS = example_texts()
NAMED = re.compile(r"experiments/([\w/]+\.yaml)")


def test_all_files_of_the_documentation_are_there_and_are_those_of_the_experiments() -> None:
    history = ROOT / "docs/changelog.md"  # also of experiments whose code is not part of the package
    pages = [ROOT / "README.md", *(page for page in (ROOT / "docs").glob("*.md") if page != history)]
    named = {name for page in pages for name in NAMED.findall(page.read_text(encoding="utf-8"))}
    assert named and named <= set(TEXTS)
    for name, text in TEXTS.items():
        assert text == (ROOT / "experiments" / name).read_text(encoding="utf-8")
        assert about(text) and not about(text).endswith((".", ":"))
    there = [path.relative_to(ROOT / "experiments") for path in (ROOT / "experiments").rglob("*.yaml")]
    left_out = {path.as_posix() for path in there if "work" not in path.parts}  # what experiments write
    left_out -= set(TEXTS)  # they need code that is not part of the package
    assert left_out == {f"compare/{name}.yaml" for name in ("longer_trainings", "nasbench201", "short_trainings")}


def test_without_a_name_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in TEXTS) and "Next: oneshot examples NAME" in said


def test_files_and_folders_are_written_and_the_next_command_runs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["examples", "digits", "experiments/nat/digits.yaml"]) == 0
    written = {path.relative_to(tmp_path / "experiments").as_posix() for path in tmp_path.rglob("*.yaml")}
    assert written == {"digits/search.yaml", "digits/retrain.yaml", "nat/digits.yaml"}
    for name in written:
        assert (tmp_path / "experiments" / name).read_text(encoding="utf-8") == TEXTS[name]
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "Next: oneshot search --config experiments/digits/search.yaml --out runs/digits"
    assert main(["examples", "proxies", "--out", "my files"]) == 0
    assert "--config 'my files/proxies/digits.yaml' --out runs/rank" in capsys.readouterr().out
    for every in ("all", "experiments/"):
        assert main(["examples", every, "--out", f"of {every}"]) == 0
        assert len(list((tmp_path / f"of {every}").rglob("*.yaml"))) == len(TEXTS)
    assert main(["examples", "./digits/", "--out", "here"]) == 0
    assert len(list((tmp_path / "here").rglob("*.yaml"))) == 2


def test_a_file_that_was_changed_is_not_replaced_and_nothing_else_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path)]
    assert main(["examples", "digits/search.yaml", *out]) == 0
    (tmp_path / "digits/search.yaml").write_text("mine")
    assert main(["examples", "digits", *out]) == 1
    assert "digits/search.yaml is. Take another --out, or --overwrite." in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["search.yaml"]
    assert main(["examples", "digits", *out, "--overwrite"]) == 0
    assert (tmp_path / "digits/search.yaml").read_text(encoding="utf-8") == TEXTS["digits/search.yaml"]
    before = (tmp_path / "digits/search.yaml").stat().st_mtime_ns
    assert main(["examples", "digits", *out]) == 0  # the same files: there is nothing to do
    assert (tmp_path / "digits/search.yaml").stat().st_mtime_ns == before


def test_a_command_over_two_lines_is_one_line_without_remarks() -> None:
    lines = ["# A. B.", "#   pip install x", "#   oneshot pareto --out a \\", "#     --data.root photos   (yours)"]
    text = "\n".join([*lines, "#   oneshot pick a"])
    assert _command(text) == "oneshot pareto --out a --data.root photos"
    assert about(text) == "A"
