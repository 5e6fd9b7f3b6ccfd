"""Decode every file once before the training, so that a broken file does not stop it after hours."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only, rank_zero_warn

from .decoding import UnreadableImageError, is_transparent, opened, orientation_of, upright

Unreadable = Literal["refuse", "skip"]
T = TypeVar("T")
_log = logging.getLogger(__name__)
_EVERY = 20.0  # seconds between two lines of progress


@dataclass(frozen=True)
class ImageFacts:
    """Facts about one image file.

    Attributes:
        format: As Pillow names it.
        mode: Likewise.
        size: Width and height, upright.
        orientation: The EXIF tag, 1 to 8.
        transparent: Whether some pixels may be.
        digest: Of the file's bytes.
    """

    format: str
    mode: str
    size: tuple[int, int]
    orientation: int
    transparent: bool
    digest: bytes


_known: dict[
    tuple[str, int, int], ImageFacts
] = {}  # by path, size and time, as a command builds its data several times


def inspect(path: Path) -> ImageFacts:
    """Decode a file and return its facts.

    Raises:
        UnreadableImageError: If it cannot be decoded.
    """
    try:
        status = path.stat()
        key = str(path.absolute()), status.st_size, status.st_mtime_ns
    except OSError:
        key = "", 0, 0  # said below
    if key in _known:
        return _known[key]
    with opened(path) as image:
        mode, size, transparent, tiff = image.mode, image.size, is_transparent(image), image.format == "TIFF"
        orientation = orientation_of(image) if tiff else 1  # the decoder of TIFFs turns them, and forgets the tag
        if image.format == "JPEG" and mode in ("L", "RGB"):
            image.draft(mode, (1, 1))  # all of the file is read, and an eighth of the pixels made
            image.load()
        else:
            upright(image)
        if tiff:
            size = image.size
        else:
            orientation = orientation_of(image)
            size = (size[1], size[0]) if orientation > 4 else size
        kind = image.format or "?"
    with path.open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while part := file.read(1 << 20):
            digest.update(part)
    facts = ImageFacts(kind, mode, size, orientation, transparent, digest.digest())
    _known[key] = facts
    return facts


def in_threads(function: Callable[[T], object], items: Sequence[T], what: str) -> None:
    """Call a function with every item, in threads, and report progress; Pillow decodes without the interpreter lock.

    Args:
        function: Does not raise.
        items: Its arguments.
        what: What the items are, for the lines of progress.
    """
    last, done = time.monotonic(), 0
    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are refused by a number of pixels
        for _ in pool.map(function, items):
            done += 1
            if time.monotonic() - last > _EVERY:
                last = time.monotonic()
                rank_zero_info(f"Checked {done:,} of {len(items):,} {what}.")


def verify(paths: Iterable[Path]) -> tuple[dict[Path, ImageFacts], dict[Path, str]]:
    """Decode files.

    Returns:
        The facts of those that can be read, and why the others cannot, both in the order of ``paths``.
    """
    every = list(paths)
    facts: dict[Path, ImageFacts] = {}
    reasons: dict[Path, str] = {}

    def look(path: Path) -> None:
        try:
            facts[path] = inspect(path)
        except (UnreadableImageError, OSError) as error:
            reasons[path] = str(error)

    in_threads(look, every, "images")
    return {p: facts[p] for p in every if p in facts}, {p: reasons[p] for p in every if p in reasons}


def check_unreadable(unreadable: str) -> None:
    """Refuse values of ``unreadable`` other than the two allowed ones.

    Raises:
        ValueError: Naming them.
    """
    if unreadable not in ("refuse", "skip"):
        raise ValueError(f"unreadable is 'refuse' or 'skip'; got {unreadable!r}.")


def report_unreadable(reasons: Mapping[Path, str], total: int, unreadable: Unreadable, *, empty: Sequence[str]) -> None:
    """Raise one error about all unreadable files and empty classes, or warn about them.

    Args:
        reasons: Why each cannot be read.
        total: Of how many files.
        unreadable: What to do.
        empty: Folders of classes that have no image that can be read.

    Raises:
        ValueError: If there are any and they are not to be skipped.
    """
    listed = [f"{str(path)!r} is not ({reason})" for path, reason in reasons.items()]
    bare = [f"{folder!r} has none" for folder in empty]
    if unreadable == "skip":
        if listed:
            named = "\n  ".join(f"{str(path)!r} ({reason})" for path, reason in reasons.items())
            _warn(f"{len(listed)} of {total} images cannot be read and are left out:\n  {named}")
        if bare:
            _warn(
                f"{len(bare)} folders of classes hold no image that can be read; a class without any is left out: "
                f"{', '.join(map(repr, empty))}"
            )
        return
    said = []
    if listed:
        several = len(listed) > 1
        what = "\n  ".join([f" {len(listed)} of {total} are not:", *listed]) + "\n" if several else f" {listed[0]}. "
        said.append(
            f"Every file with an image's suffix must be readable;{what}Repair or remove {'them' if several else 'it'}, "
            "or go on without: unreadable='skip' (on the command line --data.init_args.unreadable skip, in a search "
            "--data.init_args.data.init_args.unreadable skip)."
        )
    if bare:
        said.append(
            f"Every class needs images; {', '.join(bare)}. Add some, remove the folder, or list the classes to use as "
            "class_names."
        )
    if said:
        raise ValueError("\n".join(said))


_warned: set[str] = set()


def _warn(message: str) -> None:
    """Warn only once in a process, because a command makes its data modules several times."""
    if message not in _warned:
        _warned.add(message)
        rank_zero_warn(message, stacklevel=8)


def repeated(groups: Mapping[str, Iterable[Path]], facts: Mapping[Path, ImageFacts]) -> list[list[tuple[str, Path]]]:
    """Files with the same bytes in different groups.

    Args:
        groups: Files by the name of their group.
        facts: Of all files.

    Returns:
        For every such content, the groups and files that have it.
    """
    places: dict[bytes, list[tuple[str, Path]]] = {}
    for name, paths in groups.items():
        for path in paths:
            places.setdefault(facts[path].digest, []).append((name, path))
    return [found for found in places.values() if len({name for name, _ in found}) > 1]


@rank_zero_only
def tell(message: str) -> None:
    """Warn users without stopping."""
    _log.warning(message)
