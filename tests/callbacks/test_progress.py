from __future__ import annotations

from pathlib import Path

import pytest

from oneshot.callbacks import SearchProgressBar
from oneshot.callbacks.progress import abbreviate, summarise
from oneshot.fronts.numbers import short
from oneshot.supernets.space import SubnetConfig

from .searches import Unrelated, choose, fit, make_darts_supernet, make_search, make_trainer

CONSOLE = {"force_terminal": True, "width": 200}


def test_the_bar_shows_what_is_found_and_how_large_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search, bar = make_search(arch_lr=0.0), SearchProgressBar(console_kwargs=CONSOLE)
    choose(search, "cell", "nor_conv_3x3")
    fit(make_trainer(tmp_path, bar, enable_progress_bar=True), search)

    parameters = sum(int(c[:, 3].sum()) for c in search.supernet.candidate_parameters().values())
    assert search.supernet.space["cell"].candidates[3] == "nor_conv_3x3"
    metrics = bar.get_metrics(bar.trainer, search)
    assert metrics["found"] == "cell 6×nor3"
    assert metrics["params"] == f"{short(parameters)} (expected {short(search.expected_parameters().item())})"
    shown = capsys.readouterr().out
    assert "found: cell 6×nor3" in shown
    assert f"params: {short(parameters)} (expected" in shown


def test_the_bar_follows_the_search_from_epoch_to_epoch(tmp_path: Path) -> None:
    search, bar = make_search(make_darts_supernet(), arch_lr=0.0), SearchProgressBar(console_kwargs=CONSOLE)
    for operation, text in (("sep_conv_5x5", "normal 4×sep5, reduce 4×max3"), ("skip_connect", "normal 4×skip, red")):
        choose(search, "normal", operation)
        choose(search, "reduce", "max_pool_3x3")
        fit(make_trainer(tmp_path, bar, enable_progress_bar=True, max_epochs=1), search)
        assert bar.get_metrics(bar.trainer, search)["found"].startswith(text)


def test_the_bar_is_the_plain_one_for_other_modules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar, module = SearchProgressBar(console_kwargs=CONSOLE), Unrelated()
    fit(make_trainer(tmp_path, bar, enable_progress_bar=True), module)

    assert "found" not in bar.get_metrics(bar.trainer, module)
    assert "Epoch 1/1" in capsys.readouterr().out


def test_a_switched_off_bar_does_not_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar, search = SearchProgressBar(refresh_rate=0), make_search()
    fit(make_trainer(tmp_path, bar, enable_progress_bar=True), search)

    assert "found" not in bar.get_metrics(bar.trainer, search)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        ("sep_conv_3x3", "sep3"),
        ("dil_conv_5x5", "dil5"),
        ("max_pool_3x3", "max3"),
        ("skip_connect", "skip"),
        ("none", "none"),
        ("conv_7x1_1x7", "conv_7x1_1x7"),
        ("my_op", "my_op"),
    ],
)
def test_operations_have_short_names(operation: str, text: str) -> None:
    assert abbreviate(operation) == text


def test_many_choices_are_counted_together() -> None:
    config = SubnetConfig("toy", {"a": ["skip_connect"], "b": [3], "c": [3]})

    assert summarise(config) == "all 2×3 1×skip"


def test_an_architecture_of_nothing_says_so() -> None:
    assert summarise(SubnetConfig("toy", {"cell": ["none", "none"]})) == "cell none"
