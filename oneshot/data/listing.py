"""Find the images of each class in a folder, and leave out files that are no data.

Nothing is decoded here, and nothing depends on the locale or on the order of the file system.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from oneshot.storage.lock import OWNER

from .decoding import SUFFIXES

Part = Literal["train", "val", "test"]
PARTS: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# Folders that systems make beside images, with copies and previews in them.
JUNK = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"})
# Files by which a folder that oneshot has written is known: one of these, or this one beside one of those.
OURS = (OWNER, "subnet.json")
ABOUT, BESIDE = "commands.json", ("config.yaml", "plan.json", "runs.jsonl")
NOT_READ = frozenset(
    {".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".tga", ".ico", ".eps"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".dcm"}
)


@dataclass
class Listing:
    """What a folder of images holds.

    Attributes:
        classes: In the order of their labels.
        files: Of every part, the images of every class.
        places: Of every part, the folder of every class.
        notes: What was left out and may be missed, for people to read.
    """

    classes: tuple[str, ...]
    files: dict[Part, dict[str, list[Path]]]
    places: dict[Part, dict[str, Path]]
    notes: list[str] = field(default_factory=list)

    def paths(self) -> list[Path]:
        """All files."""
        return [path for classes in self.files.values() for paths in classes.values() for path in paths]


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden or was made by an operating system."""
    return name.startswith(".") or name in JUNK


def is_written_by_oneshot(folder: Path) -> bool:
    """Whether a folder is a run, study, comparison or export, whose pictures are no data, or holds nothing else."""
    if any((folder / name).is_file() for name in OURS):
        return True
    if (folder / ABOUT).is_file() and any((folder / name).is_file() for name in BESIDE):
        return True
    something = False
    with os.scandir(folder) as inside:
        for entry in inside:
            if not is_junk(entry.name):
                something = True
                if not entry.is_dir(follow_symlinks=False) or not is_written_by_oneshot(folder / entry.name):
                    return False
    return something


def entries(folder: Path) -> list[Path]:
    """Entries of a folder without hidden and system files, and without folders that oneshot has written.

    They are sorted by name independently of the locale.
    """
    found = []
    with os.scandir(folder) as inside:  # which knows folders without asking for each of many files
        for entry in inside:
            if is_junk(entry.name):
                continue
            if not entry.is_dir(follow_symlinks=False) or not is_written_by_oneshot(folder / entry.name):
                found.append(folder / entry.name)
    return sorted(found, key=lambda path: (unicodedata.normalize("NFC", path.name), path.name))


def folders(folder: Path) -> list[Path]:
    """The folders in a folder."""
    return [path for path in entries(folder) if path.is_dir()]


def images_in(folder: Path, suffixes: frozenset[str] = SUFFIXES) -> list[Path]:
    """Files with an image's suffix in a folder and its sub-folders, broken links included."""
    return [path for path in _files(folder, frozenset()) if path.suffix.lower() in suffixes]


def _files(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above or not folder.is_dir():
        return  # a link that leads back to where it is
    above |= {real} if above else {real, *(str(parent) for parent in Path(real).parents)}
    for path in entries(folder):
        if path.is_dir():
            yield from _files(path, above)
        else:
            yield path


def list_folder(root: Path, class_names: Sequence[str] | None = None) -> Listing:
    """The parts, classes and images of a folder, in one of the two layouts of `ImageFolder`.

    Args:
        root: The folder.
        class_names: Which classes, in the order of their labels; None takes all, sorted.

    Returns:
        Its listing. Without ``test`` among the parts, it is to be split off. Classes may be without images.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the folder is not laid out so.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"root must be an existing folder; {str(root.absolute())!r} is not. Check the path.")
    parts, notes = _parts(root, class_names)
    found = {part: _classes(folder) for part, folder in parts.items()}
    classes = tuple(found["train"]) if class_names is None else tuple(class_names)
    for part in found:
        if class_names is None and (unknown := set(found[part]) - set(classes)):
            raise ValueError(
                f"Every class must be in train; {part} has {sorted(unknown)}, train has {classes}. Add training "
                "images of them or list the classes to use as class_names."
            )
    if alike := [name for name in classes if sum(name.casefold() == other.casefold() for other in classes) > 1]:
        notes.append(f"The classes {', '.join(map(repr, alike))} differ in upper and lower case only")
    files: dict[Part, dict[str, list[Path]]] = {}
    places: dict[Part, dict[str, Path]] = {}
    for part, folder in parts.items():
        notes += _left_out(folder)
        known = {name: found[part].get(unicodedata.normalize("NFC", name), folder / name) for name in classes}
        _check_splits_in_classes(known)
        places[part] = known
        files[part] = {name: images_in(place) for name, place in known.items()}
    return Listing(classes, files, places, notes)


def part_of(name: str) -> Part | None:
    """Which part of the data a folder of this name is, if it is one."""
    return next((part for part, names in PARTS.items() if name.lower() in names), None)


def _like_a_part(name: str) -> Part | None:
    """Which part a folder of this name may be meant to be: ``train_images``, ``val2017``, ``TestSet``."""
    words = re.split(r"[\W\d_]+", re.sub(r"(?i)(?<=[a-z])(set|split|images|imgs|data)$", "", name).lower())
    return next((part for word in words if (part := part_of(word)) is not None), None)


def _parts(root: Path, class_names: Sequence[str] | None) -> tuple[dict[Part, Path], list[str]]:
    """Folders of the parts, and messages about other folders; a folder of classes is all training."""
    inside = folders(root)
    named = {part: [path for path in inside if part_of(path.name) == part] for part in PARTS}
    named = {part: paths for part, paths in named.items() if paths}
    like = {_like_a_part(path.name) for path in inside if images_in(path)} - {None}
    if not named and class_names is None and len(like) > 1:
        raise ValueError(
            f"Parts are called train, val and test; {str(root)!r} has {', '.join(path.name for path in inside)}, which "
            "look like parts. Rename them; if they are classes, list all classes as class_names."
        )
    if not named or (class_names is not None and all((root / name).is_dir() for name in class_names)):
        return {"train": root}, []
    others = [path for path in inside if part_of(path.name) is None and images_in(path)]
    if others and len(inside) > 1 and _is_a_class(named):
        return {"train": root}, []
    if several := next((paths for paths in named.values() if len(paths) > 1), None):
        raise ValueError(
            f"There is one folder for each part; {str(root)!r} has {' and '.join(path.name for path in several)}, "
            "which mean the same. Join or rename them; if they are classes, list all classes as class_names."
        )
    found = {part: paths[0] for part, paths in named.items()}
    if "train" not in found:
        raise ValueError(
            f"A folder with {' and '.join(path.name for path in found.values())} needs train beside it; {str(root)!r} "
            "has none. Add it; if these are classes and no parts, list all classes as class_names."
        )
    if len(found) == 1:
        raise ValueError(
            f"A folder with train needs test or val beside it; {str(root)!r} has neither. Add one, or name "
            f"{str(found['train'])!r} as root to have a test set split off."
        )
    if "test" not in found:
        found["test"] = found.pop("val")
    names = ", ".join(repr(path.name) for path in others)
    return found, [f"{names} beside {found['train'].name} are no parts and are not used"] if others else []


def _is_a_class(named: dict[Part, list[Path]]) -> bool:
    """Whether the one folder with the name of a part is a class of that name among others: trains, valid bank notes."""
    paths = [path for several in named.values() for path in several]
    if len(paths) != 1 or paths[0].name.lower() not in ("train", "valid"):
        return False
    return not any(images_in(folder) for folder in folders(paths[0])) and bool(images_in(paths[0]))


def _classes(folder: Path) -> dict[str, Path]:
    found = {unicodedata.normalize("NFC", path.name): path for path in folders(folder)}
    if not found:
        raise ValueError(f"An image folder needs one sub-folder per class; {str(folder)!r} has no sub-folders.")
    if len(found) == 1:
        (only,) = found.values()
        if any(part_of(path.name) for path in folders(only)) or len(folders(only)) > 1:
            raise ValueError(
                f"An image folder needs at least two classes; {str(folder)!r} has {only.name!r} only, which holds "
                f"folders itself. Did you mean {str(only)!r}?"
            )
    return found


def _check_splits_in_classes(classes: dict[str, Path]) -> None:
    """Refuse ``root/<class>/train/*``, because its test images would be used for training."""
    for folder in classes.values():
        inside = {part_of(path.name): path.name for path in folders(folder)} if folder.is_dir() else {}
        if "train" in inside and len(inside.keys() - {None}) > 1:
            raise ValueError(
                f"Parts hold classes, as in train/{folder.name}; {str(folder)!r} is a class that holds parts: "
                f"{', '.join(name for part, name in inside.items() if part)}. Move them."
            )


def _left_out(folder: Path) -> list[str]:
    """Messages about images that have no class or a format that is not read."""
    stray = [path.name for path in entries(folder) if not path.is_dir() and path.suffix.lower() in SUFFIXES]
    foreign = [path.name for path in images_in(folder, NOT_READ)]
    notes = []
    with os.scandir(folder) as inside:
        names = [entry.name for entry in inside if entry.is_dir(follow_symlinks=False) and not is_junk(entry.name)]
    if ours := sorted(name for name in names if is_written_by_oneshot(folder / name)):
        notes.append(f"{', '.join(map(repr, ours))} in {str(folder)!r} holds what oneshot has written and is left out")
    if stray:
        notes.append(f"{len(stray)} images in {str(folder)!r} itself have no class and are left out: {some(stray)}")
    if foreign:
        kinds = ", ".join(sorted({Path(name).suffix.lower() for name in foreign}))
        notes.append(
            f"{len(foreign)} files in {str(folder)!r} are of kinds that are not read ({kinds}) and are left out: "
            f"{some(foreign)}"
        )
    return notes


def some(names: Sequence[object], most: int = 5) -> str:
    """The first names of many."""
    more = len(names) - most
    return ", ".join(str(name) for name in names[:most]) + (f" and {more} more" if more > 0 else "")
