"""How ``oneshot auto`` spends its minutes, and how it tells how far it is."""

from __future__ import annotations

import io
import itertools
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from oneshot.cli import auto_plan, auto_progress
from oneshot.cli.auto_plan import BATCH, EVALUATIONS, USED, Effort, Part, Speed, duration, effort
from oneshot.cli.auto_progress import Overall

SPEED = Speed(
    images=3200,
    held_out=200,
    batch=32,
    step=0.5,
    sample=0.004,
    network=0.5,
    networks=None,
    share=0.4,
    memory=10**9,
    busy=0.0,
)


@pytest.mark.parametrize("images", [100, 400, 1600, 6400])
def test_the_least_minutes_that_an_error_names_are_enough(images: int) -> None:
    speed = replace(SPEED, images=images)
    with pytest.raises(ValueError, match="--minutes must be at least") as refused:
        effort(speed, minutes=0.1, pretrained=False)
    (least,) = re.findall(r"at least ([\d.]+) for", str(refused.value))
    assert effort(speed, minutes=float(least), pretrained=False)[1] >= 0
    with pytest.raises(ValueError, match="--minutes must be at least"):
        effort(speed, minutes=float(least) - 0.1, pretrained=False)


@pytest.mark.parametrize("pretrained", [True, False])
def test_more_minutes_buy_more_of_everything_and_never_more_than_the_budget(pretrained: bool) -> None:
    tried = [effort(SPEED, minutes=minutes, pretrained=pretrained) for minutes in (40, 60, 90, 120, 3000)]
    for (amount, place), minutes in zip(tried, (40, 60, 90, 120, 3000), strict=True):
        assert amount.seconds <= USED * 60 * minutes and 0 <= place <= 1
    for name in ("networks", "epochs", "tuning", "calibration"):
        values = [getattr(amount, name) for amount, _ in tried]
        assert values == sorted(values) and values[0] < values[-1], name
    most, place = tried[-1]
    assert place == 1 and most.initial + most.iterations * BATCH <= EVALUATIONS[1]


def test_the_least_that_is_worth_doing_is_named_when_the_minutes_are_too_few() -> None:
    with pytest.raises(ValueError, match=r"--minutes must be at least [\d.]+ for 3200 training.*got 1\. The least"):
        effort(SPEED, minutes=1, pretrained=False)
    least = float(_message(SPEED).split("at least ")[1].split(" for")[0])
    assert effort(SPEED, minutes=least + 1, pretrained=False)[0].seconds <= USED * 60 * (least + 1)


def _message(speed: Speed) -> str:
    with pytest.raises(ValueError) as caught:
        effort(speed, minutes=0.1, pretrained=False)
    return str(caught.value)


def test_the_seconds_of_a_part_follow_from_what_was_measured() -> None:
    amount, _ = effort(SPEED, minutes=3000, pretrained=True)
    seconds = {part.name: part.seconds for part in amount.parts}
    assert seconds["latency"] == pytest.approx(amount.networks * 0.5)
    assert seconds["training"] == pytest.approx(amount.epochs * 100 * 0.5)  # 3200 // 32 steps
    assert seconds["tuning"] == pytest.approx(amount.tuning * 100 * (0.5 + 32 * 0.004))  # the teacher, too
    scratch, _ = effort(SPEED, minutes=3000, pretrained=False)
    assert scratch.parts[1].seconds == pytest.approx(scratch.epochs * 100 * 0.5 * 1.4)  # a random network beside it
    slow, _ = effort(replace(SPEED, networks=77), minutes=3000, pretrained=True)
    assert slow.networks == 77


def test_a_plan_survives_its_file() -> None:
    amount, _ = effort(SPEED, minutes=30, pretrained=True)
    assert Effort.from_dict(json.loads(json.dumps(amount.to_dict()))) == amount


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (45, "45 s"), (100, "2 min"), (3600, "60 min"), (5460, "1 h 31 min")]
)
def test_durations_are_said_in_the_unit_that_fits(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_without_a_terminal_there_is_a_line_every_half_minute_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = itertools.count(0.0, 1.0)
    monkeypatch.setattr(auto_progress.time, "monotonic", lambda: next(clock))
    text = io.StringIO()
    overall = Overall([Part("one", "first part", 60), Part("two", "second part", 60)], Console(file=text, width=40))
    with overall.shown():
        overall.begin("one")
        for step in range(60):
            overall.update(step / 60)
        overall.begin("two")
        overall.update(0.5)
    lines = text.getvalue().splitlines()
    assert 3 <= len(lines) <= 8
    assert lines[0].startswith("  1% about 2 min left: first part")
    shares = [int(line.split("%")[0]) for line in lines]
    assert shares == sorted(shares)


def test_the_bar_never_goes_back_and_parts_done_before_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(auto_progress.time, "monotonic", lambda: now[0])
    overall = Overall([Part("one", "a", 10), Part("two", "b", 30)], Console(file=io.StringIO()))
    overall.end("one")
    assert overall._done(0.0)[0] == pytest.approx(0.25)
    overall.begin("two")
    now[0] = 15.0
    overall.update(0.5)
    done, left = overall._done(15.0)
    assert done == pytest.approx(25 / 40) and left == pytest.approx(15)


def test_what_is_least_is_less_than_what_is_most() -> None:
    for name in ("NETWORKS", "EVALUATIONS", "PRETRAINED_EPOCHS", "SCRATCH_EPOCHS"):
        low, high = getattr(auto_plan, name)
        assert 0 < low < high


@pytest.mark.parametrize("width", [40, 100])
def test_a_narrow_terminal_shows_the_share_and_the_time_left(width: int) -> None:
    text = io.StringIO()
    overall = Overall(
        [Part("one", "training all networks together", 600)],
        Console(file=text, width=width, force_terminal=True, color_system=None),
    )
    with overall.shown():
        overall.begin("one")
        overall.update(0.05, "training, epoch 3 of 60")
    last = [part for part in text.getvalue().split("\r") if "left" in part][-1]
    assert "5 %" in last and "min left: training" in last
    assert max(len(line) for line in last.replace("\x1b[2K", "").splitlines()) <= width
