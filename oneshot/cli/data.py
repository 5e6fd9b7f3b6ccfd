"""``oneshot data``: what a folder of images holds, and what is wrong with it."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from oneshot.data.decoding import UnreadableImageError, is_grey, opened, upright
from oneshot.data.folder import ImageFolder
from oneshot.data.listing import Part, list_folder, some
from oneshot.data.segmentation import SegmentationFolder, paired, part_folders
from oneshot.data.verification import ImageFacts, in_threads, repeated, verify
from oneshot.report.tables import network_table

from .next_steps import next_step
from .terminal import say

IMBALANCE = 10  # from this ratio of the largest class to the smallest on, accuracy says little of the small ones
AUTO_SKIPS = "'oneshot auto' goes on without them by itself."
Files = dict[Part, dict[str, list[Path]]]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a folder.

    Attributes:
        what: What it is.
        hint: What to do.
        stops: Whether the folder cannot be used as it is.
    """

    what: str
    hint: str
    stops: bool = False


def data(folder: str) -> int:
    """Print classes, counts, sizes, kinds, duplicates and problems of a folder of images, or of images and masks.

    Duplicates are images with the same upright pixels, whatever their files are called and encoded as.

    Args:
        folder: The folder.

    Returns:
        The exit code: 0 if `ImageFolder`, or `SegmentationFolder`, takes it as it is, 1 if not.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(
            f"'oneshot data' must get a folder of images; there is no folder {folder}. Check the path."
        )
    masks = any((place / "masks").is_dir() for place in _folders_of_parts(root))
    problems: list[Problem] = []
    try:
        files, notes = _pairs(root) if masks else _images(root)
    except (ValueError, FileNotFoundError) as error:
        problems.append(Problem(str(error), "", stops=True))
    else:
        problems += [Problem(f"{note}.", "Move or convert what should be used.") for note in notes]
        problems += _look(files, masks=masks)
        problems += _refused(root, masks=masks)
    _tell(problems)
    stopped = any(problem.stops for problem in problems)
    say(next_step(*(["data", folder] if stopped else _search_words(folder) if masks else _auto_words(folder))))
    return int(stopped)


def _auto_words(folder: str) -> list[str]:
    """The whole way from images to a network; ten milliseconds are an example."""
    return ["auto", folder, "--latency", "10"]


def _search_words(folder: str) -> list[str]:
    """A search on images and masks."""
    model = ["--model", "oneshot.DARTS", "--model.supernet", "oneshot.supernets.SegmentationSupernet"]
    data = ["--data", "oneshot.data.SearchDataModule", "--data.init_args.data.class_path"]
    images = ["oneshot.data.SegmentationFolder", "--data.init_args.data.init_args.root", folder]
    return ["search", *model, *data, *images, "--trainer.max_epochs", "25"]


def _folders_of_parts(root: Path) -> list[Path]:
    try:
        return list(part_folders(root).values())
    except (ValueError, FileNotFoundError):
        return []


def _images(root: Path) -> tuple[Files, list[str]]:
    listing = list_folder(root)
    return listing.files, listing.notes


def _pairs(root: Path) -> tuple[Files, list[str]]:
    pairs = {part: paired(place) for part, place in part_folders(root).items()}
    return {part: {"images": [i for i, _ in both], "masks": [m for _, m in both]} for part, both in pairs.items()}, []


def _look(files: Files, *, masks: bool) -> list[Problem]:
    """Print the tables, and return the problems that were found."""
    kinds = list(next(iter(files.values())))
    every = [
        path
        for part in files.values()
        for name, paths in part.items()
        if name != "masks" or not masks
        for path in paths
    ]
    facts, unreadable = verify(every)
    parts = {("all, a share is split off to test" if len(files) == 1 else part): part for part in files}
    rows = [
        {"class": name, **{shown: sum(p not in unreadable for p in files[part][name]) for shown, part in parts.items()}}
        for name in kinds
    ]
    say(network_table(rows, title="Images and masks" if masks else "Readable images of every class"))
    if not facts:
        return []
    say(network_table(list(_properties(list(facts.values()))), title="What they are"))
    pixels, dark, plain = _digests(facts)
    problems = _duplicates(files, pixels, masks=masks)
    if plain:
        problems.append(
            Problem(
                f"{len(plain)} images have one colour only, as those have that are transparent throughout: "
                f"{some([str(path) for path in plain])}.",
                "There is nothing to learn from them.",
            )
        )
    if dark:
        problems.append(
            Problem(
                f"{len(dark)} images of 16 bits use less than a sixteenth of their range and become nearly black: "
                f"{some([str(path) for path in dark])}.",
                "Scale their values to 0 to 65535 first.",
            )
        )
    counts = [len(files["train"][name]) for name in kinds if files["train"][name]]
    if not masks and counts and max(counts) >= IMBALANCE * min(counts):
        problems.append(
            Problem(
                f"The largest class has {max(counts) / min(counts):.0f} times the training images of the smallest.",
                "The accuracy says little of small classes; look at the confusion matrix, or add images of them.",
            )
        )
    colours = {is_grey(known.mode) for known in facts.values()}
    if len(colours) == 2:
        problems.append(
            Problem("Some images are grey, some have colours.", "Grey ones are used as colours that are equal.")
        )
    return problems


def _properties(facts: Sequence[ImageFacts]) -> Iterator[dict[str, Any]]:
    widths, heights = (np.array(side) for side in zip(*(known.size for known in facts), strict=True))
    shorter = np.minimum(widths, heights)
    yield {
        "property": "shorter side",
        "value": f"{shorter.min()} to {shorter.max()}, median {np.median(shorter):g} pixels",
    }
    yield {"property": "width / height", "value": f"{(widths / heights).min():.2f} to {(widths / heights).max():.2f}"}
    for name, values in (("formats", (k.format for k in facts)), ("modes", (k.mode for k in facts))):
        counts = Counter(values).most_common()
        yield {"property": name, "value": ", ".join(f"{value} {count}" for value, count in counts)}
    turned = Counter(known.orientation for known in facts if known.orientation != 1)
    counted = {
        "turned by EXIF": ", ".join(f"{tag}: {count}" for tag, count in sorted(turned.items())),
        "transparent, on white": sum(known.transparent for known in facts),
        "more than 8 bits": sum(known.mode[0] in "IF" for known in facts),
    }
    for name, value in counted.items():
        yield {"property": name, "value": str(value or "none")}


def _digests(facts: Mapping[Path, ImageFacts]) -> tuple[dict[Path, ImageFacts], list[Path], list[Path]]:
    """The facts with digests of pixels instead of those of files; the dark images of 16 bits; the plain images.

    Plain images have one colour only. They are not among the facts: two of them may be equal by chance.
    """
    found: dict[Path, ImageFacts] = {}
    dark: list[Path] = []
    plain: list[Path] = []

    def look(path: Path) -> None:
        try:
            with opened(path) as image:
                deep, pixels = image.mode.startswith("I"), upright(image).convert("RGB")
        except UnreadableImageError:
            return  # it was readable a moment ago
        values = np.asarray(pixels)
        if (values == values[0, 0]).all():
            plain.append(path)
            return
        content = hashlib.blake2b(repr(pixels.size).encode() + pixels.tobytes(), digest_size=16)
        found[path] = replace(facts[path], digest=content.digest())
        if deep and values.max() < 16:
            dark.append(path)

    in_threads(look, list(facts), "images for duplicates")
    return {path: found[path] for path in facts if path in found}, sorted(dark), sorted(plain)


def _duplicates(files: Files, facts: Mapping[Path, ImageFacts], *, masks: bool) -> list[Problem]:
    names = [name for name in next(iter(files.values())) if not (masks and name == "masks")]
    by_part: dict[str, list[Path]] = {
        part: [p for name in names for p in kinds[name] if p in facts] for part, kinds in files.items()
    }
    by_class = {name: [p for kinds in files.values() for p in kinds[name] if p in facts] for name in names}
    every = {str(path): [path] for path in facts}
    across, classes = repeated(by_part, facts), repeated(by_class, facts)
    told = {id_of(group) for group in (*across, *classes)}
    within = [group for group in repeated(every, facts) if id_of(group) not in told]
    found = (
        (across, "are in more than one part", "Results on them are too good: keep one of each."),
        (classes, "are in more than one class", "At most one label is right: keep that one."),
        (within, "occur several times", "Copies may land on both sides of a split: keep one of each."),
    )
    return [
        Problem(
            f"{len(groups)} images {what} (the same pixels): "
            f"{some([' = '.join(str(path) for _, path in group[:3]) for group in groups], 3)}.",
            hint,
        )
        for groups, what, hint in found
        if groups
    ]


def id_of(group: Sequence[tuple[str, Path]]) -> frozenset[Path]:
    """The key of a group of equal files."""
    return frozenset(path for _, path in group)


def _refused(root: Path, *, masks: bool) -> list[Problem]:
    """The problem that stops a data module from being built on the folder, if there is one."""
    try:
        with _silent():
            data = SegmentationFolder(root) if masks else ImageFolder(root)
            _ = data.mean
    except (ValueError, FileNotFoundError) as error:
        return [Problem(str(error), "" if masks or not _usable_in_part(root) else AUTO_SKIPS, stops=True)]
    return []


def _usable_in_part(root: Path) -> bool:
    """Whether a folder of images can be used without the files that cannot be read."""
    try:
        with _silent():
            _ = ImageFolder(root, unreadable="skip").mean
    except (ValueError, FileNotFoundError):
        return False
    return True


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the log and the warnings of the data module: the tables have said the same."""
    logger = logging.getLogger("oneshot.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _tell(problems: Sequence[Problem]) -> None:
    for problem in problems:
        mark = "stops" if problem.stops else "note"
        say(f"{mark}: {problem.what} {problem.hint}".rstrip())
    stopping = sum(problem.stops for problem in problems)
    say("Not usable as it is." if stopping else "Usable.")
