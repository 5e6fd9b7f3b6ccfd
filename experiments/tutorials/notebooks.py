"""The notebooks of the tutorials, made of their pages in docs/: each sentence and line of code is in one place.

    python experiments/tutorials/notebooks.py

Blocks of a page that say ``python`` or ``bash`` become cells that run, blocks with a title become files. All others
stay text. A test compares the notebooks with the pages, and runs them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PAGES = ("tutorial_images", "tutorial_research")
BLOCK = re.compile(r'^```(python|bash|yaml(?= title))(?: title="([^"]+)")?\n(.*?)^```\n', re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)]+)\)")


def cells(page: str) -> list[dict[str, Any]]:
    """The cells of a page in Markdown, as in the JSON of a notebook."""
    made: list[dict[str, Any]] = []
    end = 0
    for block in BLOCK.finditer(page):
        _add_text(made, page[end : block.start()])
        language, name, code = block.groups()
        magic = f"%%writefile {name}\n" if name else "%%bash\n" if language == "bash" else ""
        made.append(
            {
                "cell_type": "code",
                "execution_count": None,
                "metadata": {},
                "outputs": [],
                "source": _lines(magic + code.rstrip("\n")),
            }
        )
        end = block.end()
    _add_text(made, page[end:])
    return made


def notebook(name: str) -> str:
    """A notebook as it is written.

    Args:
        name: Of the page, without the folder and the ending.
    """
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    note = f"This notebook is made of `docs/{name}.md` by `experiments/tutorials/notebooks.py`; change it there."
    content = {
        "cells": [{"cell_type": "markdown", "metadata": {}, "source": [note]}, *cells(page)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 4,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _add_text(made: list[dict[str, Any]], text: str) -> None:
    if text := LINK.sub(r"](../../docs/\1)", text).strip("\n"):
        made.append({"cell_type": "markdown", "metadata": {}, "source": _lines(text)})


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    for name in PAGES:
        (HERE / f"{name}.ipynb").write_text(notebook(name), encoding="utf-8")


if __name__ == "__main__":
    main()
