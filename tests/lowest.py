"""The lowest versions that the metadata allow, as constraints for pip; needs Python 3.11.

python3.11 tests/lowest.py > pins.txt; make test-lowest PYTHON=python3.11 CONSTRAINTS=pins.txt
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import tomllib

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("onnx", "ray")  # whose packages tests import where they are there; others are tools
BOUND = re.compile(r"(?P<name>[\w-]+)(\[[\w,]+\])?>=(?P<version>[\w.]+)")


def lowest(text: str) -> Iterator[str]:
    """``name==version`` of every dependency with a lower bound, and when it is one."""
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    for requirement in (*project["dependencies"], *(other for extra in EXTRAS for other in extras[extra])):
        if found := BOUND.match(requirement):
            yield f"{found['name']}=={found['version']}" + requirement[found.end() :]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(PROJECT.read_text(encoding="utf-8"))) + "\n")
