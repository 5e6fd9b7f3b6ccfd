"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

import oneshot
from oneshot.cli.main import _parsers, main
from tests.processes import run_python

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
METHODS = (ROOT / "docs/methods.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "HOME": str(folder)}
    result = run_python(*command, cwd=folder, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    (code,) = blocks("python")
    run(tmp_path, "-c", code)
    assert (tmp_path / "runs/readme-export/model.onnx").exists()


SHORT = ["--trainer.limit_train_batches=4", "--trainer.log_every_n_steps=1"]
SMALLER = {
    "search": ["--trainer.max_epochs=1", *SHORT],
    "retrain": ["--trainer.max_epochs=1", *SHORT],
    "pareto": [f"--model.init_args.{x}" for x in ("warmup_epochs=1", "iterations=1", "initial=12", "batch=3")]
    + ["--model.init_args.population=10", "--model.init_args.generations=3", "--trainer.max_epochs=2", *SHORT],
    "discrete": ["--evaluations=4", "--evaluator.init_args.epochs=1"],
}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # searches and trainings, one after the other
@pytest.mark.parametrize("smaller", [True, pytest.param(False, marks=pytest.mark.nightly)], ids=["smaller", "as_it_is"])
def test_the_command_line_example_runs_in_order(smaller: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    auto, *lines = "".join(blocks("bash")).strip().splitlines()
    assert _parsers()[0].parse_args(shlex.split(auto)[1:]).latency == 10  # tests/cli/test_auto.py runs it, for seconds
    assert set(SMALLER) <= {line.split()[1] for line in lines}
    for line in lines:
        words = shlex.split(line)
        if smaller:  # in one process: to start one takes longer than what it does then
            assert main([*words[1:], *SMALLER.get(words[1], [])]) == 0
        else:
            run(tmp_path, "-m", *words)
    assert (tmp_path / "runs/digits-export/manifest.json").exists()
    assert (tmp_path / "runs/nat/picked/model.onnx").exists()
    assert (tmp_path / "runs/digits/show.png").exists()


def test_make_has_the_two_commands_and_plain_pip_stands_beside_them() -> None:
    two, plain = blocks("console")
    targets = re.findall(r"^make (\S+)", two, re.MULTILINE)
    assert targets == ["quickstart", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert 'pip install -c constraints.txt ".[onnx,dev]"' in plain


PAGES = ["README.md", "CONTRIBUTING.md", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
PAGES += [path.relative_to(ROOT).as_posix() for path in (ROOT / "experiments").rglob("README.md")]


@pytest.mark.parametrize("name", PAGES)
def test_every_link_to_a_file_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ours = [link for link in links if not link.startswith(("http", "mailto:"))]
    assert len(ours) > 10 or name != "README.md"
    assert [link for link in ours if not leads_somewhere(link, text, (ROOT / name).parent)] == []


def test_a_link_to_a_place_that_is_not_there_is_noticed() -> None:
    text = "# A search\n\n## `oneshot pick`: which one?\n\n```bash\n# no heading\n```\n"
    good = ("LICENSE", "#a-search", "#oneshot-pick-which-one", "README.md", "docs/adding.md#a-cost", "docs")
    assert all(leads_somewhere(link, text) for link in good)
    bad = (
        "LICENCE",
        "#another-search",
        "#no-heading",
        "docs/adding.md#no-such-heading",
        "docs/nowhere.md#a-cost",
        "LICENSE#a",
        "",
    )
    assert not any(leads_somewhere(link, text) for link in bad)


def leads_somewhere(link: str, text: str, folder: Path = ROOT) -> bool:
    """Whether a file is there and, if the link has a ``#``, one of its headings; without a file, one of the text."""
    path, _, heading = link.partition("#")
    if not link or not (folder / path).exists():
        return False
    if not heading:
        return True
    if path and not path.endswith(".md"):
        return False
    return heading in headings((folder / path).read_text(encoding="utf-8") if path else text)


def headings(text: str) -> list[str]:
    """Names that GitHub gives to headings: lower case, hyphens for spaces, no other punctuation."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles]


@pytest.mark.nightly
def test_the_table_of_methods_is_what_the_code_says() -> None:
    made = run(ROOT, str(ROOT / "experiments/methods.py"))
    made = made[made.index("| method") :].strip()
    written = METHODS.split("<!-- methods: begin -->")[1].split("<!-- methods: end -->")[0].strip()
    for ours, theirs in zip(made.splitlines(), written.splitlines(), strict=True):
        *words, cost, memory = (cell.strip() for cell in ours.strip("|").split("|"))
        *expected, expected_cost, expected_memory = (cell.strip() for cell in theirs.strip("|").split("|"))
        assert words == expected
        if cost[0].isdigit():
            assert float(cost) == pytest.approx(float(expected_cost), abs=0.02)
            assert float(memory) == pytest.approx(float(expected_memory), abs=0.05)
        else:
            assert (cost, memory) == (expected_cost, expected_memory)


def test_every_method_is_in_the_table_and_at_the_front_door() -> None:
    for path in (ROOT / "oneshot/methods").glob("[a-z]*.py"):
        arxiv = re.findall(r"arXiv:(\d{4}\.\d{5})", path.read_text())
        assert any(f"https://arxiv.org/abs/{number})" in METHODS for number in arxiv), path
        module = f"oneshot.methods.{path.stem}"
        assert any(getattr(getattr(oneshot, name), "__module__", "") == module for name in oneshot.__all__), module
