"""Results, a row for each network: written as they come, so that a command that is stopped goes on where it was."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oneshot.cost.latency.device import processor
from oneshot.storage.files import write_atomically

KEY = ("data", "size", "side", "target", "seed", "epochs", "lr", "limit")  # what a row is of


class Rows:
    """The rows of a file.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.rows: list[dict[str, Any]] = known.get("rows", [])

    def find(self, **key: Any) -> dict[str, Any] | None:
        """The row of this data set, side and so on; None if there is none."""
        wanted = {name: key.get(name) for name in KEY}
        return next((row for row in self.rows if all(row.get(name) == wanted[name] for name in KEY)), None)

    def add(self, row: dict[str, Any]) -> None:
        """Write a row, in place of one of the same key."""
        old = self.find(**row)
        self.rows = [other for other in self.rows if other is not old] + [row]
        facts = {
            "cpu": processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }
        text = ",\n  ".join(json.dumps(one) for one in self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, f'{{"machine": {json.dumps(facts)},\n "rows": [\n  {text}\n]}}\n')
