"""Every reader against damaged files: one line that names the file, or the same numbers, or what no reader can tell.

What no reader can tell, of a file without a checksum: the damage made it another valid file, with values of the same
types in the same places (a digit, a name), or let it end where it once ended while it grew.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import signal
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from .corruptions import BYTES, KINDS
from .targets import TARGETS, Target

QUICK, FULL = 14, 190  # damages a target
SECONDS = 20  # for one input
LONGEST = 1500  # characters of an error
TOLD = {"refused": ["refused"], "same": ["same"], "told": ["warned", "ends earlier"], "silent": ["cannot be told"]}


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises where a reader hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"nothing came of it in {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def form(value: Any) -> Any:
    """A JSON value with its types in place of its values."""
    if isinstance(value, dict):
        if value and all(isinstance(inner, int | float) for inner in value.values()):
            return {"*": len(value)}  # numbers by names that may be any; where they may not, readers know the names
        return {key: form(inner) for key, inner in value.items()}
    if isinstance(value, list):
        kinds = [form(inner) for inner in value]
        return kinds[:1] if all(kind == kinds[0] for kind in kinds) else kinds
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else "text"


def same_form(before: bytes, after: bytes, target: Target) -> bool:
    """Whether damage left a valid file of the same form, which nobody can tell from one that was written so."""
    if not target.form:
        return True  # a text or a pickle: whatever can be parsed
    try:
        new, old = after.decode("utf-8-sig"), before.decode()
        if target.form == "json":
            return bool(form(json.loads(new)) == form(json.loads(old)))
        if target.form == "yaml":
            return bool(form(yaml.safe_load(new)) == form(yaml.safe_load(old)))
        if target.form == "lines":
            known = [form(json.loads(line)) for line in old.splitlines()]
            return all(form(json.loads(line)) in known for line in new.splitlines() if line.strip())
        if target.form == "csv":
            a, b = (list(csv.reader(io.StringIO(text))) for text in (old, new))
            kinds = [{is_number(cell) for cell in column} for column in zip(*a[1:], strict=True)]
            rows = [row for row in b[1:] if row]
            return (b[0] == a[0] or target.any_header) and all(
                is_number(cell) in kind for row in rows for cell, kind in zip(row, kinds, strict=True)
            )
    except (ValueError, csv.Error, yaml.YAMLError, RecursionError, IndexError, TypeError):
        return False
    return False


def is_number(cell: str) -> bool:
    try:
        float(cell or 0)
    except ValueError:
        return False
    return True


def outcome(target: Target, path: Path, before: bytes, after: bytes, expected: str) -> str:
    """What a reader makes of a damaged file; fails if it is none of the three that may be."""
    with limited(SECONDS):
        try:
            found = repr(target.read(path))
        except (ValueError, OSError, UserWarning) as error:  # a warning that names the file tells, too
            text = str(error)
            assert "\n" not in text, f"more than one line: {text[:500]!r}"
            assert len(text) <= LONGEST, f"{len(text)} characters: {text[:300]!r}"
            assert path.name in text or str(path.parent) in text, f"no file in {type(error).__name__}: {text[:300]!r}"
            return "warned" if isinstance(error, UserWarning) else "refused"
    if found == expected:
        return "same"
    whole = after[: after.rfind(b"\n") + 1].replace(b"\r\n", b"\n")  # a last line without an end was being written
    if target.cut and before.replace(b"\r\n", b"\n").startswith(whole if target.form else after):
        return "ends earlier"
    assert not target.protected, f"another result in silence, in spite of a checksum: {found[:300]}"
    assert same_form(before, after, target), f"another result in silence: {found[:300]}\ninstead of {expected[:300]}"
    return "cannot be told"


def fuzz(name: str, count: int, tmp_path: Path) -> Counter[str]:
    target, made = TARGETS[name], tmp_path / "made"
    made.mkdir()
    path = target.make(made)
    before = path.read_bytes()
    expected = repr(target.read(path))
    before_all = {p.relative_to(made): p.read_bytes() for p in made.rglob("*") if p.is_file()}
    found: Counter[str] = Counter()
    damages = [*BYTES, *KINDS.get(target.form, ()) * len(BYTES)]
    failures = []
    for number in range(count):
        rng = np.random.default_rng([zlib.crc32(name.encode()), number])
        damage = damages[(number * 7) % len(damages)] if count < len(damages) else damages[number % len(damages)]
        after = damage(before, rng)
        shutil.rmtree(made)
        for relative, content in before_all.items():
            (made / relative).parent.mkdir(parents=True, exist_ok=True)
            (made / relative).write_bytes(content)
        path.write_bytes(after)
        try:
            found[outcome(target, path, before, after, expected)] += 1
        except Exception as error:  # noqa: BLE001  # whatever a reader must not raise
            failures.append(f"{name}, input {number} ({damage.__name__}): {type(error).__name__}: {str(error)[:400]}")
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(failures[:12])
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_some_damage_is_named_or_changes_nothing(name: str, tmp_path: Path) -> None:
    found = fuzz(name, QUICK, tmp_path)
    assert found["refused"] > 0, "otherwise nothing was tried"


@pytest.mark.nightly
@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_named_or_changes_nothing(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The outcomes are logged: ``--log-cli-level=INFO`` shows them."""
    found = fuzz(name, FULL, tmp_path)
    logging.getLogger("fuzz").info("%s: %s", name, dict(found))
    for property_name, outcomes in TOLD.items():
        record_property(property_name, sum(found[outcome] for outcome in outcomes))
    record_property("inputs", FULL)
    assert found["refused"] > FULL / 10


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_no_file_is_named_at_once(name: str, tmp_path: Path) -> None:
    """A folder in its place, and a pipe, which nobody ever writes to."""
    target, made = TARGETS[name], tmp_path / "made"
    made.mkdir()
    path = target.make(made)
    if path.name == "text":
        return  # it is no file that has a reader
    for replace in (Path.mkdir, os.mkfifo):
        path.unlink() if not path.is_dir() else path.rmdir()
        replace(path)
        with limited(SECONDS):
            try:
                target.read(path)
            except (ValueError, OSError) as error:
                assert "\n" not in str(error) and (path.name in str(error) or str(path.parent) in str(error))
