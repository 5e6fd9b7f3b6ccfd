"""``oneshot examples``: the configuration files that come with the package."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from oneshot.storage.files import write_atomically

from .options import did_you_mean
from .terminal import console, say

SENTENCE = re.compile(r"[.](\s|$)")
COMMAND = re.compile(r"^#   (oneshot .*?)(?: +[(].*)?$", re.MULTILINE)
GOES_ON = re.compile(r" *\\\n# +")  # to the next line
ALL = "all"


def examples(names: Sequence[str] = (), *, out: str = "experiments", overwrite: bool = False) -> None:
    """``oneshot examples [NAME ...]``: list the files, or write some of them.

    They are those of ``experiments/`` in the source, under the same names, so that commands of the documentation run as
    they stand.

    Args:
        names: Files such as ``"digits/search.yaml"``, folders of them such as ``"digits"``, or ``"all"``.
        out: Folder to write to.
        overwrite: Replace files that have changed.

    Raises:
        ValueError: If there is no such file.
        FileExistsError: If one of them is there already and has changed; then nothing is written.
    """
    texts = example_texts()
    if not names:
        _list(texts)
        say("Next: oneshot examples NAME, which writes a file or a folder; 'oneshot examples all' writes all of them.")
        return
    chosen = {name: texts[name] for name in _chosen(texts, names)}
    paths = {name: Path(out) / name for name in chosen}
    changed = [path for name, path in paths.items() if path.exists() and not _holds(path, chosen[name])]
    if changed and not overwrite:
        raise FileExistsError(
            f"Files to write must not be there already with other content; {changed[0]} is. "
            "Take another --out, or --overwrite."
        )
    for name, path in paths.items():
        if not _holds(path, chosen[name]):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, chosen[name])
        say(f"{path}: {about(chosen[name])}")
    first = min(chosen, key=lambda name: "oneshot retrain" in chosen[name])  # a network is searched before
    say(f"Next: {_command(chosen[first]).replace(f'experiments/{first}', shlex.quote(str(paths[first])))}")


def example_texts() -> dict[str, str]:
    """The files by name, such as ``"digits/search.yaml"``, in the order of their names.

    In a checkout those that need code of their folder are left out: no command of their comment names them.
    """
    root = files("oneshot") / "examples"
    if not root.is_dir():  # a checkout on a file system without links
        root = files("oneshot") / "../experiments"
    found, folders = dict[str, str](), [("", root)] if root.is_dir() else []
    while folders:
        prefix, folder = folders.pop()
        for entry in folder.iterdir():
            if entry.is_dir():
                folders.append((f"{prefix}{entry.name}/", entry))
            elif entry.name.endswith(".yaml"):
                found[f"{prefix}{entry.name}"] = entry.read_text(encoding="utf-8")
    return {name: text for name, text in sorted(found.items()) if f"experiments/{name}" in _command(text)}


def about(text: str) -> str:
    """What a file is for: the first sentence of its comment."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("# ") or line.startswith("#   "):
            break
        lines.append(line[2:].strip())
    comment = " ".join(lines)
    end = SENTENCE.search(comment)
    return (comment if end is None else comment[: end.start()]).rstrip(":")


def _command(text: str) -> str:
    """The first command in the comment of a file, without a remark in brackets."""
    found = COMMAND.search(GOES_ON.sub(" ", text))
    return "" if found is None else found.group(1)


def _list(texts: dict[str, str]) -> None:
    from rich.table import Table

    table = Table("file", "what it is", box=None, padding=(0, 2, 0, 0))
    for name, text in texts.items():
        table.add_row(name, about(text))
    console().print(table)


def _chosen(texts: dict[str, str], names: Sequence[str]) -> list[str]:
    """Names of files, in their order, without repetition."""
    chosen: dict[str, None] = {}
    for name in names:
        wanted = f"{name.removeprefix('./').strip('/')}/".removeprefix("experiments/").strip("/") or ALL
        found = [text for text in texts if wanted in (ALL, text) or text.startswith(f"{wanted}/")]
        if not found:
            folders = {text.rpartition("/")[0] for text in texts}
            raise ValueError(
                "NAME must be a file or folder that 'oneshot examples' lists, or 'all'; got "
                f"{name!r}.{did_you_mean(wanted, [*texts, *folders])}"
            )
        chosen |= dict.fromkeys(found)
    return list(chosen)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False
