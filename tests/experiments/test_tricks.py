"""The benchmark of ways to save time in a search step: each of them can be left out, and gives the same loss."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

FOLDER = Path(__file__).parents[2] / "experiments/benchmarks"


@pytest.fixture
def tricks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("tricks", "search_step"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import tricks

    return tricks


class Counted(TorchDispatchMode):
    """Counts operators and convolutions, and how their gradients lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.convolutions, self.strides = 0, 0, set[tuple[int, ...]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.operators += 1
        self.convolutions += str(func) == "aten.convolution.default"
        if "convolution_backward" in str(func):
            self.strides.add(args[0].stride())
        return func(*args, **(kwargs or {}))


def test_every_way_can_be_left_out(tricks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = argparse.Namespace(device="cpu", batch=2, channels=4, cells=(3, 1))
    found: dict[str | None, Counted] = {}
    for trick in (None, *tricks.TRICKS):
        step = tricks.make_step("nasbench201" if "edges" in str(trick) else "darts", trick, given)
        with Counted() as found[trick]:
            step()
    whole = found.pop(None)
    same = found.pop("same convolutions of all edges are one")
    with Counted() as grouped:
        tricks.make_step("nasbench201", None, given)()
    assert same.convolutions > grouped.convolutions
    assert found.pop(tricks.LAYOUT).strides != whole.strides
    assert all(other.operators != whole.operators for other in found.values()), "each of them does something"

    monkeypatch.setattr(sys, "argv", ["tricks.py", "--rounds", "2", "--batch", "2", "--channels", "4"])
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--cells", "3", "1", "--out", str(tmp_path / "out.json")])
    tricks.main()
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["results"]
    assert [row["trick"] for row in rows] == 2 * list(tricks.TRICKS)
