"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import oneshot

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "HOME": str(folder)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    (code,) = blocks("python")
    run([sys.executable, "-c", code], tmp_path)
    assert (tmp_path / "runs/readme-export/model.onnx").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_line_example_runs_in_order(tmp_path: Path) -> None:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for line in "".join(blocks("bash")).strip().splitlines():
        run([sys.executable, "-m", *shlex.split(line)], tmp_path)
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


def test_every_link_to_a_file_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert all((ROOT / link).exists() for link in links if not link.startswith("http"))


@pytest.mark.slow
def test_the_table_of_methods_is_what_the_code_says() -> None:
    made = run([sys.executable, str(ROOT / "experiments/methods.py")], ROOT)
    made = made[made.index("| method") :].strip()
    written = README.split("<!-- methods: begin -->")[1].split("<!-- methods: end -->")[0].strip()
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
        assert any(f"https://arxiv.org/abs/{number})" in README for number in arxiv), path
        module = f"methods.{path.stem}"
        assert module in oneshot._WHERE.values()
