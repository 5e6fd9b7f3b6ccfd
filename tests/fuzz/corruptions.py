"""Damage, as disks, transfers, editors and people do it: functions of a file's bytes and a generator."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

RNG: TypeAlias = np.random.Generator
Damage: TypeAlias = Callable[[bytes, RNG], bytes]

# What stands where another value was.
STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    "x",
    "",
    "\x00",
    "ä\ud7ff",
    0,
    -1,
    1,
    2.5,
    -0.5,
    10**30,
    -(10**30),
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    "9" * 20,
    "../../x",
)


def _place(content: bytes, rng: RNG) -> int:
    return int(rng.integers(max(len(content), 1)))


def truncate(content: bytes, rng: RNG) -> bytes:
    return content[: _place(content, rng)]


def flip_bit(content: bytes, rng: RNG) -> bytes:
    data, at = bytearray(content), _place(content, rng)
    data[at : at + 1] = bytes([data[at] ^ 1 << int(rng.integers(8))]) if data else b""
    return bytes(data)


def flip_bits(content: bytes, rng: RNG) -> bytes:
    for _ in range(int(rng.integers(2, 20))):
        content = flip_bit(content, rng)
    return content


def delete_bytes(content: bytes, rng: RNG) -> bytes:
    at = _place(content, rng)
    return content[:at] + content[at + int(rng.integers(1, 30)) :]


def repeat_bytes(content: bytes, rng: RNG) -> bytes:
    at, size = _place(content, rng), int(rng.integers(1, 60))
    return content[: at + size] + content[at:]


def swap_bytes(content: bytes, rng: RNG) -> bytes:
    size = int(rng.integers(1, 20))
    a, b = sorted(_place(content, rng) for _ in range(2))
    if a + size > b:
        return content[:a] + content[a : a + 2][::-1] + content[a + 2 :]
    return content[:a] + content[b : b + size] + content[a + size : b] + content[a : a + size] + content[b + size :]


def zero_block(content: bytes, rng: RNG) -> bytes:
    at, size = _place(content, rng), int(rng.integers(1, 200))
    return content[:at] + bytes(min(size, len(content) - at)) + content[at + size :]


def random_block(content: bytes, rng: RNG) -> bytes:
    at, size = _place(content, rng), int(rng.integers(1, 40))
    return content[:at] + rng.bytes(size) + content[at + size :]


def insert_text(content: bytes, rng: RNG) -> bytes:
    texts = (
        b"\x00",
        b",",
        b'"',
        b"\n",
        b"{",
        b"[" * 5000,
        b"9" * 5000,
        b"nan",
        b"\xff",
        b"\xef\xbb\xbf",
        b"x" * 200_000,
    )
    at = _place(content, rng)
    return content[:at] + texts[int(rng.integers(len(texts)))] + content[at:]


def other_encoding(content: bytes, rng: RNG) -> bytes:
    names = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp1252", "utf-7")
    return content.decode("utf-8", "replace").encode(names[int(rng.integers(len(names)))], "replace")


def foreign(content: bytes, rng: RNG) -> bytes:
    others = (
        b"",
        b"\n",
        b"null",
        b"[]",
        b"{}",
        b"0",
        b'""',
        b"\x00" * 100,
        b"hello",
        b"PK\x03\x04",
        b"\x80\x04.",
        b"BZh9",
        b"[" * 100_000,
        b'{"a":' * 10_000,
        b"<html></html>",
        b"a,b\n1,2\n",
        b"%PDF-1.4",
        rng.bytes(200),
        b"- " * 3000,
        b"version https://git-lfs.github.com/spec/v1\n",
    )
    return others[int(rng.integers(len(others)))]


def crlf(content: bytes, rng: RNG) -> bytes:
    return content.replace(b"\n", b"\r\n")


BYTES: tuple[Damage, ...] = (
    truncate,
    flip_bit,
    flip_bits,
    delete_bytes,
    repeat_bytes,
    swap_bytes,
    zero_block,
    random_block,
    insert_text,
    other_encoding,
    foreign,
    crlf,
)


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON document are, the whole of it first."""
    yield above
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*above, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from paths(inner, (*above, i))


def change_value(value: Any, rng: RNG) -> str:
    """A JSON document with one thing changed: a value, a key, the order of two, or the nesting."""
    value = copy.deepcopy(value)
    every = list(paths(value))
    path = every[int(rng.integers(len(every)))]
    if not path:
        return json.dumps(STRANGE[int(rng.integers(len(STRANGE)))])
    outer = value
    for step in path[:-1]:
        outer = outer[step]
    last, kind = path[-1], int(rng.integers(6))
    if kind == 0:
        del outer[last]
    elif kind == 1 and isinstance(outer, dict):
        outer[f"{last}_"] = outer.pop(last)
    elif kind == 2 and isinstance(outer, dict):
        text = json.dumps(value)
        return text.replace(f"{json.dumps(last)}: ", f"{json.dumps(last)}: 1, {json.dumps(last)}: ", 1)
    elif kind == 3:
        others = list(outer) if isinstance(outer, dict) else range(len(outer))
        other = list(others)[int(rng.integers(len(list(others))))]
        outer[last], outer[other] = outer[other], outer[last]
    elif kind == 4:
        for _ in range(int(rng.choice([1, 150]))):
            outer[last] = [outer[last]]
    else:
        outer[last] = STRANGE[int(rng.integers(len(STRANGE)))]
    return json.dumps(value)


def change_json(content: bytes, rng: RNG) -> bytes:
    return change_value(json.loads(content), rng).encode()


def change_line(content: bytes, rng: RNG) -> bytes:
    """One line of a JSON-lines file: changed inside, left out, repeated, or in another place."""
    lines = content.splitlines(keepends=True)
    at, kind = int(rng.integers(len(lines))), int(rng.integers(8))
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(int(rng.integers(len(lines) + 1)), lines[at])
    elif kind == 2:
        other = int(rng.integers(len(lines)))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = change_value(json.loads(lines[at]), rng).encode() + b"\n"
    return b"".join(lines)


def change_cell(content: bytes, rng: RNG) -> bytes:
    """A cell of a CSV file: strange, left out, or one too many; or a row moved."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    row, kind = int(rng.integers(len(rows))), int(rng.integers(5))
    column = int(rng.integers(max(len(rows[row]), 1)))
    if kind == 0:
        del rows[row][column]
    elif kind == 1:
        rows[row].insert(column, "1")
    elif kind == 2:
        other = int(rng.integers(len(rows)))
        rows[row], rows[other] = rows[other], rows[row]
    else:
        rows[row][column] = str(STRANGE[int(rng.integers(len(STRANGE)))])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


KINDS: dict[str, tuple[Damage, ...]] = {"json": (change_json,), "lines": (change_line,), "csv": (change_cell,), "": ()}
