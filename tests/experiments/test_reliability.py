"""The page of promises is what its script makes of figures, and figures are counted from tests that passed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments/reliability"))
from run import FIGURES, PAGE, PROMISES, counted, page  # type: ignore[import-not-found]  # noqa: E402  # a script

sys.path.pop(0)
sys.modules.pop("run")  # others have a script of that name
CASE = '<testcase classname="a" name="{name}"><properties>{properties}</properties>{state}</testcase>'
PROPERTY = '<property name="{}" value="{}" />'


def report(folder: Path, *cases: tuple[str, dict[str, float], str]) -> Path:
    """A report of pytest on tests: name, properties, state."""
    texts = [
        CASE.format(name=name, properties="".join(PROPERTY.format(*each) for each in had.items()), state=state)
        for name, had, state in cases
    ]
    path = folder / "tests.xml"
    path.write_text(f"<testsuites><testsuite>{''.join(texts)}</testsuite></testsuites>", encoding="utf-8")
    return path


def test_properties_are_added_up_and_largest_ones_are_the_largest(tmp_path: Path) -> None:
    first, second = {"kills": 10, "largest_difference": 2e-6}, {"kills": 20, "largest_difference": 1e-7}
    skipped = ("c", {"kills": 5.0}, "<skipped />")
    found = counted(report(tmp_path, ("a", first, ""), ("b", second, ""), skipped))
    assert found == {"tests": 2, "kills": 30, "largest_difference": 2e-6}


@pytest.mark.parametrize("state", ["<failure>no</failure>", "<error>no</error>", "<skipped />"])
def test_without_tests_that_passed_there_are_no_figures(state: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="All tests must pass"):
        counted(report(tmp_path, ("a", {"kills": 1}, state)))


def test_the_page_is_what_the_script_makes_of_its_figures() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(FIGURES.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", PROMISES)
def test_the_tests_of_a_promise_are_there(name: str) -> None:
    words = shlex.split(PROMISES[name].tests)
    paths = [ROOT / word for word in words if word.startswith("tests/")]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))]
    assert files and all(path.exists() for path in paths)
    if "-k" in words:  # each part selects something, in these files or in what spaces inherit
        text = "".join(file.read_text(encoding="utf-8") for file in [*files, ROOT / "oneshot/testing/spaces.py"])
        assert all(re.search(rf"def test_\w*{part}", text) for part in words[words.index("-k") + 1].split(" or "))
