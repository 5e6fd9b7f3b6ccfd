"""What `pip install` gives: one top-level name, everything in it, and peace with the user's own packages."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import oneshot
from oneshot.cli.examples import example_texts

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"oneshot": "oneshot", "supernets": "oneshot/supernets", "callbacks": "oneshot/callbacks"}


def source_files() -> set[str]:
    """Return all modules in the checkout, as paths below the installed package."""
    return {
        f"{mount}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, mount in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }


def pip(*args: str | Path) -> None:
    """Run pip without any index."""
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *map(str, args), "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that the checkout stays clean and left-overs in build/ cannot slip in."""
    tmp = tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp / "src" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp / "src")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp, tmp / "src")
    return next(tmp.glob("oneshot_nas-*.whl"))


def test_setup_cfg_lists_exactly_the_packages_in_the_tree() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")

    listed = config["options"]["packages"].split()

    assert sorted(listed) == sorted({str(Path(name).parent).replace(os.sep, ".") for name in source_files()})


def test_the_citation_names_this_version_and_this_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))

    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == oneshot.__version__
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith(f"{citation['license']} License")


def test_hooks_before_a_commit_use_tools_that_make_dev_installs() -> None:
    hooks = [
        hook
        for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
        for hook in repository["hooks"]
        if repository["repo"] == "local"  # the others need a network
    ]

    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "architecture"]
    for hook in hooks:
        tool, *arguments = hook["entry"].split()
        assert hook["language"] == "system" and tool in (".venv/bin/ruff", ".venv/bin/python")
        assert all((ROOT / name).exists() for name in arguments if name.endswith(".py"))


def test_the_wheel_has_one_top_level_package_with_all_modules_and_the_type_marker(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]

    assert {name.split("/")[0] for name in names} == {"oneshot"}
    assert {name for name in names if name.endswith(".py")} == source_files()
    assert "oneshot/py.typed" in names


def test_the_wheel_has_the_configuration_files_and_nothing_else_of_the_experiments(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            name.removeprefix("oneshot/examples/"): archive.read(name).decode()
            for name in archive.namelist()
            if name.startswith("oneshot/examples/")
        }
    assert texts == example_texts()


@pytest.mark.slow
def test_a_wheel_that_is_built_from_the_sdist_has_the_same_files(wheel: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in (*FOLDERS, "experiments"):  # oneshot/examples is a link to experiments
        left_out = shutil.ignore_patterns("__pycache__", *(["*.png", "*.jsonl"] if folder == "experiments" else []))
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=left_out)
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    assert (source / "oneshot/examples").is_symlink()
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)  # the sdist, and a wheel of what is in it
    assert done.returncode == 0, done.stdout + done.stderr
    ((archive,), (built,)) = ([*(tmp_path / "dist").glob(kind)] for kind in ("*.tar.gz", "*.whl"))
    with zipfile.ZipFile(built) as ours, zipfile.ZipFile(wheel) as theirs:
        assert sorted(ours.namelist()) == sorted(theirs.namelist())
    assert archive.stat().st_size < 5e6


def test_the_wheel_brings_the_command_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "oneshot = oneshot.cli.main:main" in archive.read(entry_points).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())


@pytest.mark.parametrize("how", ["installed", "checkout"])
def test_it_works_beside_a_users_own_supernets_and_callbacks(wheel: Path, tmp_path: Path, how: str) -> None:
    for name in ("supernets", "callbacks"):
        (tmp_path / "project" / name).mkdir(parents=True)
        (tmp_path / "project" / name / "__init__.py").write_text("OWNER = 'user'\n")
    where = ROOT
    if how == "installed":
        where = tmp_path / "site"
        pip("install", "--no-deps", "--target", where, wheel)
    # `callbacks` and `supernets` are the user's here, which is the point: ours must not answer to these names.
    script = f"""
import callbacks, supernets, oneshot, oneshot.callbacks, oneshot.supernets, oneshot.supernets.space
assert callbacks.OWNER == supernets.OWNER == "user"
for module in (oneshot, oneshot.callbacks, oneshot.supernets):
    assert module.__file__.startswith({str(where)!r}), module.__file__
"""

    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path / "project",
        env=os.environ | {"PYTHONPATH": str(where)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


def test_the_lowest_versions_are_those_of_the_metadata() -> None:
    pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    from tests.lowest import PROJECT, lowest

    lines = list(lowest(PROJECT.read_text(encoding="utf-8")))
    assert "torch==2.11" in lines and "onnxruntime==1.23; python_version < '3.11'" in lines
    assert len(lines) > 20 and all(re.fullmatch(r"[\w-]+==[\w.]+(,<[\d.]+)?(; .*)?", line) for line in lines)
