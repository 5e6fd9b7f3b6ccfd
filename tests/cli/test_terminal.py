"""Text in and out: UTF-8 in files whatever the locale, and terminals that lack some characters or all but ASCII."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from rich.table import Table

from oneshot.cli import main as cli
from oneshot.cli import terminal
from oneshot.cli.terminal import say
from oneshot.report.tables import network_table

from .test_discrete import table

ROOT = Path(__file__).parents[2]
READERS = {"read_text": 0, "write_text": 1}  # and where the encoding stands, if it is not named


def without_encoding(source: str) -> Iterator[int]:
    """Lines that read or write text in the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(k.arg in ("encoding", None) for k in node.keywords):
            continue
        call = ast.unparse(node.func)
        name = call.rpartition(".")[2]
        if name in READERS and "." in call and len(node.args) <= READERS[name]:
            yield node.lineno
        if name != "open" or call in ("os.open", "Image.open", "tarfile.open"):
            continue
        place = 1 if call in ("open", "io.open", "gzip.open", "bz2.open", "lzma.open", "builtins.open") else 0
        given = [k.value for k in node.keywords if k.arg == "mode"] or list(node.args[place : place + 1])
        compressed = call in ("gzip.open", "bz2.open", "lzma.open")
        mode = ast.unparse(given[0]) if given else "'rb'" if compressed else "'r'"
        if "b" not in mode and not (compressed and "t" not in mode):
            yield node.lineno


def test_no_file_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("oneshot", "callbacks", "supernets", "experiments")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("path.read_text()", [1]),
        ("path.read_text(encoding='utf-8')", []),
        ("path.read_text('utf-8')", []),
        ("path.write_text(text)", [1]),
        ("path.open()", [1]),
        ("path.open('a', newline='')", [1]),
        ("path.open('r+b' if at else 'wb')", []),
        ("open(path)", [1]),
        ("open(path, mode='w')", [1]),
        ("gzip.open(path, 'rt')", [1]),
        ("gzip.open(path)", []),
        ("os.open(path, 0)", []),
    ],
)
def test_the_test_tells_them_apart(source: str, lines: list[int]) -> None:
    assert list(without_encoding(source)) == lines


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "a → b × ± 日 ?"),
        ("latin-1", "a -> b × ± ? ?"),
        ("cp1252", "a -> b × ± ? ?"),
        ("ascii", "a -> b x +- ? ?"),
    ],
)
def test_what_a_terminal_lacks_is_replaced(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    stream = io.TextIOWrapper(content, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # has no encoding
    terminal.tolerate_encodings()
    terminal.console().print("a → b × ± 日 \udcff")
    stream.flush()
    assert content.getvalue().decode(encoding) == shown + "\n"


@pytest.mark.parametrize("width", [40, 120])
def test_no_number_of_a_table_is_cut_off(width: int) -> None:
    rows = [{"network": "found", "accuracy": "0.9444", "95 % interval": "84.9 to 98.1 %", "ms": 0.43, "params": 23456}]
    out = io.StringIO()
    say(network_table(rows, title="54 test samples [a]"), Console(file=out, width=width))
    said = out.getvalue()
    assert all(text in said for text in ("0.9444", "0.4300", "23,456", "54 test samples [a]")) and "…" not in said
    assert ("found: accuracy 0.9444" in said) is (width == 40)


def test_brackets_and_colons_are_text() -> None:
    names = ["[red]x", "a[/]b", "[link=x]", ":smile:", "[bold", r"\[x]", "$a$"]
    shown = io.StringIO()
    console = terminal.console(shown)
    for name in names:
        console.print(f"Run: {name}", soft_wrap=True)
    console.print(network_table([{"name": name} for name in names], title="[/]"))
    plain = Table("[/]")
    plain.add_row("[/red]")
    console.print(plain)
    text = shown.getvalue()
    assert all(text.count(name) == 2 for name in names) and text.count("[/]") >= 3 and "[/red]" in text
    assert "\U0001f604" in _printed(Console, ":smile:"), "without it, Rich would have taken it for a picture"


def _printed(kind: type[Console], text: str) -> str:
    shown = io.StringIO()
    kind(file=shown).print(text)
    return shown.getvalue()


@pytest.mark.parametrize("name", ["[red]", "a[/]b", "with space", "日本é", "100%", "~", "a\nb", "$x$y", "-x"])
def test_a_study_has_a_folder_of_any_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / name
    config = tmp_path / "[é] study.yaml"
    config.write_text(yaml.safe_dump(table(tmp_path), allow_unicode=True), encoding="utf-8")
    assert cli.main(["discrete", "--config", str(config), f"--out={folder}"]) == 0
    assert f"Run: {folder}, with" in capsys.readouterr().out
    assert cli.main(["discrete", "--resume", "--out", str(folder), "--evaluations", "7"]) == 0
    assert cli.main(["discrete", "--config", str(config), f"--out={folder}"]) == 1
    assert f"{' '.join(str(folder).splitlines())} exists" in capsys.readouterr().err


def test_a_picture_is_titled_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    architecture = "|none~0|+|skip_connect~0|none~1|+|none~0|none~1|nor_conv_1x1~2|"
    assert cli.main(["show", architecture, "--out", "a[/]$x^$.png"]) == 0
    assert Path("a[/]$x^$.png").stat().st_size > 1000


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.nightly),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        pytest.param({"PYTHONIOENCODING": "cp1252"}, marks=pytest.mark.nightly),
    ],
    ids=["latin-1", "ascii", "cp1252"],
)
def test_commands_in_other_encodings(environment: dict[str, str], tmp_path: Path) -> None:
    given = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    options = {"env": {**given, "PYTHONPATH": str(ROOT), **environment}, "capture_output": True, "cwd": tmp_path}
    shown = subprocess.run([sys.executable, "-m", "oneshot", "show", "DARTS_V2"], check=False, **options)  # type: ignore[call-overload]
    assert shown.returncode == 0, shown.stderr
    assert b"->" in shown.stdout and b"Traceback" not in shown.stderr

    config = table(tmp_path)
    (tmp_path / "table.csv").rename(tmp_path / "täble.csv")
    config["evaluator"]["init_args"]["path"] = "täble.csv" if "LC_ALL" not in environment else "table.csv"
    if "LC_ALL" in environment:
        (tmp_path / "täble.csv").rename(tmp_path / "table.csv")
    text = "# Fläche → 日\n" + yaml.safe_dump(config, allow_unicode=True)
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "oneshot", "discrete", "--config", "study.yaml", "--out", "läuft"]
    study = subprocess.run(command, check=False, **options)  # type: ignore[call-overload]
    assert study.returncode == 0, study.stderr
    assert (tmp_path / "läuft" / "subnet.json").is_file()
