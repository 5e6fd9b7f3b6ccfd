"""What may change when a run or a study is resumed, and what may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from oneshot.cli.resume import check_unchanged


def study(**init_args: Any) -> dict[str, Any]:
    data = {"class_path": "oneshot.data.Digits", "init_args": init_args}
    evaluator = {"class_path": "oneshot.discrete.TrainingEvaluator", "init_args": {"data": data}}
    return {"evaluator": evaluator, "evaluations": 3}


def test_how_fast_images_are_read_may_change_in_runs_and_in_studies_alike() -> None:
    check_unchanged(study(num_workers=0), study(num_workers=4), Path("run"), parts=["evaluator"])
    slow, fast = ({"data": {"init_args": {"data": {"init_args": {"num_workers": n}}}}} for n in (0, 4))
    check_unchanged(slow, fast, Path("run"), parts=["data"])
    with pytest.raises(ValueError, match=re.escape("evaluator.init_args.data.init_args.batch_size was 8, is 9. Leave")):
        check_unchanged(study(batch_size=8), study(batch_size=9), Path("run"), parts=["evaluator"])


def test_only_the_parts_that_count_are_compared_but_what_is_free() -> None:
    then, now = {"model": {"lr": 1, "ray": None}, "out": "a"}, {"model": {"lr": 1, "ray": "auto"}, "out": "b"}
    check_unchanged(then, now, Path("run"), parts=["model"], free=["model.ray"])
    with pytest.raises(ValueError, match="those of the beginning; model.ray was None, is auto"):
        check_unchanged(then, now, Path("run"), parts=["model"])
