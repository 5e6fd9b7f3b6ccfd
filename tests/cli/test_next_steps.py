"""The line at the end of a command is a command that can be copied."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from oneshot.cli.next_steps import data_words, next_step, of_the_same_space, to_retrain

DIGITS = {"class_path": "oneshot.data.Digits", "init_args": {"batch_size": 16, "image_size": 8, "val_fraction": 0.25}}
SPLIT = {"class_path": "oneshot.data.SearchDataModule", "init_args": {"data": DIGITS}}


def words(line: str) -> list[str]:
    assert line.startswith("Next: oneshot ")
    return shlex.split(line.removeprefix("Next: oneshot "))


def test_names_are_quoted_for_the_shell() -> None:
    line = next_step("pick", Path("my runs/it's $HOME"), "--knee")
    assert words(line) == ["pick", "my runs/it's $HOME", "--knee"]


def test_data_are_told_by_what_is_not_their_default() -> None:
    told = ["--data.init_args.batch_size", "16", "--data.init_args.val_fraction", "0.25"]
    assert data_words(SPLIT) == data_words(DIGITS) == ["--data", "oneshot.data.Digits", *told]
    shaped = {"class_path": "oneshot.data.FakeImages", "init_args": {"input_shape": [1, 8, 8], "num_classes": 10}}
    assert data_words(shaped) == ["--data", "oneshot.data.FakeImages", "--data.init_args.input_shape", "[1, 8, 8]"]
    mine = {"class_path": "nowhere.Mine", "init_args": {"root": "my photos"}}
    assert data_words(mine) == ["--data", "nowhere.Mine", "--data.init_args.root", "my photos"]


def test_a_network_is_retrained_beside_its_search() -> None:
    said = words(to_retrain("runs/a", SPLIT))
    assert said[:4] == ["retrain", "runs/a", "--data", "oneshot.data.Digits"]
    assert said[-2:] == ["--out", "runs/a-retrain"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param(
            ["--supernet", "a.B", "--supernet.channels=4", "--names", "params", "macs", "--data", "a.C"],
            ["--supernet", "a.B", "--supernet.channels=4", "--data", "a.C"],
            id="options",
        ),
        pytest.param(["--from=timm:resnet18", "--overwrite"], ["--from=timm:resnet18"], id="network"),
        pytest.param(["--config", "search.yaml", "--threads", "1"], ["--config", "search.yaml"], id="search"),
        pytest.param(["--config=profile.yaml", "--trust", "mine"], ["--trust", "mine"], id="options-of-one-command"),
    ],
)
def test_another_command_is_about_the_same_space(
    given: list[str], kept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("search.yaml").write_text("model: {class_path: oneshot.DARTS}\n")
    Path("profile.yaml").write_text("bounds: {macs: 3}\n")
    assert words(of_the_same_space("profile", given, "--cost", "t.json")) == ["profile", *kept, "--cost", "t.json"]
