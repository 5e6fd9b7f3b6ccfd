"""The manifest of an export: what a user of the network must know, and checksums of the files and of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oneshot.storage.files import write_atomically
from oneshot.supernets.json_files import parse_json

MANIFEST, CHECKSUM = "manifest.json", "sha256"


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest with its checksum, in place of one that is there."""
    whole = {**content, CHECKSUM: _checksum(content)}
    write_atomically(folder / MANIFEST, json.dumps(whole, indent=2))


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of an export; None if there is none.

    Raises:
        ValueError: If it is damaged. Those of earlier releases have no checksum; damage may go unnoticed there.
    """
    path = Path(folder) / MANIFEST
    if not path.exists():
        return None
    content = read_json_file(path)
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise ValueError(f"{path} must hold the SHA-256 of each file. Restore or delete it.")
    if CHECKSUM in content and content[CHECKSUM] != _checksum(content):
        raise ValueError(
            f"{path} must have the content of its {CHECKSUM!r} and has another: it was damaged or changed. Restore it; "
            f"after a change on purpose take {CHECKSUM!r} out of it."
        )
    return content


def recorded_content(folder: str | Path, name: str) -> bytes:
    """Read a file of an export. If there is a manifest, the file is checked against it.

    Raises:
        ValueError: If the file is missing or damaged, or the manifest does not list it.
    """
    path, content = Path(folder) / name, read_file(Path(folder) / name)
    if (manifest := read_manifest(folder)) is not None:
        try:
            recorded = manifest["files"][name]["sha256"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path.parent / MANIFEST} must hold the SHA-256 of {name}. Restore or delete it."
            ) from error
        if hashlib.sha256(content).hexdigest() != recorded:
            raise ValueError(
                f"{path} must have the SHA-256 {recorded} of {MANIFEST} and has another: it was damaged or replaced. "
                f"Copy or export it again; after a change on purpose delete {MANIFEST}."
            )
    return content


def exported_preprocessing(folder: str | Path) -> dict[str, Any] | None:
    """How the images were prepared that an exported network was trained on; None if the export does not say."""
    said = (read_manifest(folder) or {}).get("preprocessing")
    return said if isinstance(said, dict) else None


def read_file(path: Path) -> bytes:
    """The content of a file of an export.

    Raises:
        ValueError: If it is missing, or no file.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a file; it is a folder, a pipe or a device. Export again.")
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(
            f"An exported network must have a {path.name}; {path.parent} has none. Export again."
        ) from error


def read_json_file(path: Path) -> Any:
    """A file of an export as JSON.

    Raises:
        ValueError: If it is missing or no JSON.
    """
    try:
        return parse_json(read_file(path), "it")
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}) It may be truncated; export again.") from error


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content without the checksum; the order of keys and the spaces between them do not matter."""
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
