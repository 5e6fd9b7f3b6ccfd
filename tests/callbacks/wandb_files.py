"""Reads the transaction log of an offline W&B run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator[Any]:
    """Protobuf records of a ``.wandb`` file: 7 bytes of header, then LevelDB's log format."""
    data, position, parts = path.read_bytes(), HEADER, []
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:  # the rest of a block that is too short for a header is padding
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts.append(data[position + HEADER : position + HEADER + length])
        position += HEADER + length
        if kind in (1, 4):  # whole, or the last part of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def ended(path: Path) -> bool:
    try:
        return any(record.WhichOneof("record_type") == "exit" for record in records(path))
    except DecodeError:  # half a record
        return False


def wait_for_the_end(path: Path, seconds: float = 60) -> None:
    """W&B writes from a process of its own, which on a busy machine is not done when ``wandb.finish`` returns."""
    deadline = time.monotonic() + seconds
    while not ended(path):
        assert time.monotonic() < deadline, f"{path} has no end after {seconds} s"
        time.sleep(0.1)


def history(path: Path) -> list[dict[str, Any]]:
    """What was logged, call by call."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]
