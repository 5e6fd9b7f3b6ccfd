"""The notebooks of the tutorials are those of the pages, and run; commands of the pages exist."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import oneshot
import oneshot.data
from oneshot.cli.commands import COMMANDS
from oneshot.supernets import DARTSSupernet, NASBench201Supernet
from tests.processes import run_python

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments/tutorials"))
import notebooks  # type: ignore[import-not-found]  # a script

sys.path.pop(0)
sys.modules.pop("notebooks")

ROOT = Path(__file__).parents[2]

# The least of everything, so that 'oneshot auto' takes seconds.
LITTLE = """
import sys
from oneshot.cli import auto_plan
auto_plan.NETWORKS, auto_plan.EVALUATIONS, auto_plan.SCRATCH_EPOCHS = (32, 32), (20, 20), (2, 2)
auto_plan.TUNING_EPOCHS = {True: (2, 2), False: (2, 2)}
from oneshot.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
Change = Callable[[str], str]


def as_it_is(source: str) -> str:
    return source


def run(folder: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    result = run_python(*words, cwd=folder, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def commands(script: str) -> list[list[str]]:
    """The commands of a script, as words; lines that end in a backslash go on."""
    lines = script.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def execute(name: str, folder: Path, change: Change = as_it_is) -> tuple[dict[str, Any], str]:
    """Run the cells of a notebook in a folder, in order and in a fresh namespace; it must be the current folder.

    Returns:
        The namespace, and what the commands have printed.
    """
    content = json.loads((ROOT / f"experiments/tutorials/{name}.ipynb").read_text(encoding="utf-8"))
    scope: dict[str, Any] = {"__name__": "__main__"}
    said = ""
    for cell in content["cells"]:
        if cell["cell_type"] != "code":
            continue
        first, _, rest = (source := change("".join(cell["source"]))).partition("\n")
        if first == "%%bash":
            for program, *words in commands(rest):
                if program == "oneshot":
                    words = ["-c", LITTLE, *words] if words[0] == "auto" else ["-m", "oneshot", *words]
                else:
                    assert program == "python"
                said += run(folder, *words)
        elif first.startswith("%%writefile "):
            (folder / first.split()[1]).write_text(rest + "\n", encoding="utf-8")
        else:
            exec(compile(source, f"{name}.ipynb", "exec"), scope)
    return scope, said


@pytest.mark.parametrize("name", notebooks.PAGES)
def test_a_notebook_is_what_its_page_says(name: str) -> None:
    written = (ROOT / f"experiments/tutorials/{name}.ipynb").read_text(encoding="utf-8")
    assert written == notebooks.notebook(name), "python experiments/tutorials/notebooks.py writes them anew"


def test_blocks_become_cells_files_and_text() -> None:
    page = (
        "# T\n\nSee [a](b.md#c) and [d](https://e.org).\n\n```python\nx = 1\n```\n\n"
        '```python title="mine.py"\ny = 2\n\n\nz = 3\n```\n'
        "```bash\noneshot data d\n```\n\n```console\noneshot no\n```\nEnd.\n"
    )
    text, code, file, command, end = notebooks.cells(page)
    assert "".join(text["source"]) == "# T\n\nSee [a](../../docs/b.md#c) and [d](https://e.org)."
    assert "".join(code["source"]) == "x = 1"
    assert "".join(file["source"]) == "%%writefile mine.py\ny = 2\n\n\nz = 3"
    assert "".join(command["source"]) == "%%bash\noneshot data d"
    assert "".join(end["source"]) == "```console\noneshot no\n```\nEnd."
    assert [cell["cell_type"] for cell in (text, code, file, command, end)] == ["markdown", *["code"] * 3, "markdown"]


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # a minute of the processor, on a machine that may be busy
def test_the_tutorial_on_images_ends_with_an_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope, said = execute("tutorial_images", tmp_path, lambda source: re.sub(r"--minutes \d+", "--minutes 600", source))
    assert re.search(r"^my_images/3/3\.png: \d ", said, re.MULTILINE)
    assert scope["network"].num_classes == 10 and scope["summary"]["file_ms"] > 0
    assert (tmp_path / "result/report.html").is_file() and (tmp_path / "faster/model.onnx").is_file()


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_the_tutorial_for_researchers_ends_with_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    smaller = (("max_epochs: 6", "max_epochs: 1"), ("epochs: 4", "epochs: 1"), ("1, 2, 3, 4, 5, 6]", "1]"))

    def change(source: str) -> str:
        if "compare.yaml\n" in source:
            for old, new in smaller:
                assert old in source
                source = source.replace(old, new)
        return source

    _, said = execute("tutorial_research", tmp_path, change)
    assert " passed" in said
    table = capsys.readouterr().out
    assert all(re.search(rf"^\| {method} \| 2 \|", table, re.MULTILINE) for method in ("SomeDARTS", "DARTS", "random"))
    assert "| first | second | seeds | first - second |" in table


PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.name != "changelog.md"
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", [name for name, text in PAGES.items() if re.search(r"^ *oneshot |`oneshot ", text, re.M)]
)
def test_the_commands_and_options_of_a_page_exist(page: str) -> None:
    blocks = re.findall(r"^```(?:bash|console)\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(oneshot [a-z][^`]*)`", PAGES[page])
    for program, command, *words in (found for found in commands("\n".join([*blocks, *inline])) if len(found) > 1):
        if program != "oneshot":
            continue
        assert command in COMMANDS, f"oneshot has no command {command}"
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            # What follows --data or --model depends on the class that was named; the rest is in the help.
            known = option if option.startswith("--trainer.") else option.partition(".")[0]
            assert re.search(rf"{re.escape(known)}\b", help_of(command)), f"oneshot {command} has no {option}"


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if "```py" in text])
def test_the_python_of_a_page_can_be_parsed(page: str) -> None:
    for code in re.findall(r"^```(?:python|py)[^\n]*\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL):
        ast.parse(code)


@cache
def help_of(command: str) -> str:
    """The help of a command: the short one, and the whole one where that is another."""
    return "".join(run(ROOT, "-m", "oneshot", command, option) for option in ("--help", "--help-all"))


@pytest.mark.slow
def test_the_advice_on_memory_names_options_that_are_taken() -> None:
    advice = (ROOT / "docs/which_method.md").read_text(encoding="utf-8").partition("## Out of memory")[2]
    for_searches = re.findall(r"`(--(?:trainer|model\.init_args)\.[^`]+)`", advice)
    assert len(for_searches) == 3
    options = [word for option in for_searches for word in option.split()]
    config = run(ROOT, "-m", "oneshot", "search", "--config=experiments/digits/search.yaml", *options, "--print_config")
    for line in ("accumulate: 2", "gradient_checkpointing: true", "precision: bf16-mixed"):
        assert re.search(rf"^ +{line}$", config, re.MULTILINE)


def test_the_advice_on_memory_names_arguments_that_there_are() -> None:
    advice = (ROOT / "docs/which_method.md").read_text(encoding="utf-8").partition("## Out of memory")[2]
    data = ("batch_size", "image_size", "in_memory", "num_workers")
    owners: list[tuple[Any, tuple[str, ...]]] = [
        (oneshot.data.ImageFolder, data),
        (oneshot.data.SegmentationFolder, data),
    ]
    owners += [(oneshot.NAT, ("calibration_images",)), (DARTSSupernet, ("channels", "cells", "partial_channels"))]
    owners += [(NASBench201Supernet, ("channels", "cells_per_stage", "partial_channels"))]
    for owner, names in owners:
        for name in names:
            assert f"`{name}" in advice and name in arguments(owner)
    methods = re.findall(r"`oneshot\.(\w+)`", advice)
    assert len(methods) == 5 and all(hasattr(oneshot, name) for name in methods)


def arguments(owner: type) -> set[str]:
    """Arguments of a class and of its bases, to which it passes the rest."""
    mine = [one for one in owner.__mro__ if "__init__" in vars(one) and one is not object]
    return {name for one in mine for name in inspect.signature(one).parameters}
