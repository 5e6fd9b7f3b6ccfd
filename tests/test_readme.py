"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
    (code,) = blocks("bash")
    for line in code.strip().splitlines():
        run([sys.executable, "-m", *shlex.split(line)], tmp_path)
    assert (tmp_path / "runs/digits-export/manifest.json").exists()
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
