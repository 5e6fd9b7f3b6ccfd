"""JSON is read strictly, and errors are one line that names the file, the rule and the value."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest

from oneshot.supernets import json_files
from oneshot.supernets.json_files import AtLeast, MayBeNaN, checked, parse_json, read_content, read_json


class Options(TypedDict, total=False):
    seconds: Annotated[float, AtLeast(0)]


class Row(Options):
    number: int
    metrics: dict[str, MayBeNaN] | None
    kind: Literal["tell", "ask"]


@dataclass
class Table:
    shape: tuple[int, ...]
    pair: tuple[int, str]


ROW = {"number": 1, "metrics": {"error": 0.5}, "kind": "tell"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b'{"a": 1, "a": 2}', "f.json must be JSON; the key 'a' comes twice.", id="duplicate"),
        pytest.param(b"[NaN]", "NaN is no number", id="nan"),
        pytest.param(b"[-Infinity]", "-Infinity is no number", id="infinity"),
        pytest.param(b"1e999", "'1e999' is too large a number", id="overflow"),
        pytest.param(b"9" * 5000, "a whole number has too many digits", id="digits"),
        pytest.param(b"[" * 100_000, "must not be nested deeper than 100 levels", id="deep"),
        pytest.param(b"[" * 200 + b"]" * 200, "must not be nested deeper than 100 levels", id="deep-but-valid"),
        pytest.param(b'{"a":' * 200 + b"1" + b"}" * 200, "must not be nested deeper", id="deep-objects"),
        pytest.param(b'{\n"a": [1,\n}', "Expecting value at line 3, column 1", id="truncated"),
        pytest.param(b"", "Expecting value at column 1", id="empty"),
        pytest.param(b'{"a": "\xff"}', "f.json must be UTF-8 text; byte 7 [(]line 1[)] is not", id="latin-1"),
        pytest.param('{"a": 1}'.encode("utf-16"), "must be UTF-8 text; byte 0", id="utf-16"),
        pytest.param(b'["\\ud800"]', "surrogates not allowed", id="surrogate"),
        pytest.param(b"[1]\x00", "Extra data at column 4", id="nul"),
    ],
)
def test_what_is_no_json_is_one_line_that_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(tmp_path / "f.json", advice="Export again.")
    assert str(tmp_path / "f.json") in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith(" Export again.")


def test_a_byte_order_mark_changes_nothing_and_nan_is_read_where_it_is_allowed() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', "f") == {"a": 1}
    assert parse_json("[NaN, 1e999]", "f", not_finite=True)[1] == float("inf")


def test_a_folder_a_pipe_and_a_file_without_end_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    monkeypatch.setattr(json_files, "LARGEST", 4)
    for name, message in (("", "it is a folder"), ("pipe", "it is a pipe"), ("large", "must have at most 4 bytes")):
        with pytest.raises(ValueError, match=message):
            read_content(tmp_path / name)
    with pytest.raises(ValueError, match="it is a pipe or a device"):
        read_content("/dev/zero")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_content(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"number": True}, "log, line 3: number must be a whole number; got True", id="bool"),
        pytest.param({"number": 1.0}, "number must be a whole number; got 1.0", id="float"),
        pytest.param({"number": 2**63}, "number must be a whole number", id="64-bits"),
        pytest.param({"number": 10**5000}, "got int that is too large to show", id="no-text"),
        pytest.param({"metrics": []}, "metrics must be an object; got", id="list"),
        pytest.param({"metrics": {"error": "0.5"}}, "metrics.error must be a finite number; got '0.5'", id="text"),
        pytest.param({"metrics": {1: 0.5}}, "metrics must have texts for keys; got 1", id="key"),
        pytest.param({"kind": "tel"}, "kind must be 'tell' or 'ask'; got 'tel'", id="literal"),
        pytest.param({"seconds": float("nan")}, "seconds must be a finite number; got nan", id="nan"),
        pytest.param({"seconds": -1}, "seconds must be at least 0; got -1", id="bound"),
        pytest.param({"secnds": 1}, "has the unknown key 'secnds'. Did you mean 'seconds'", id="unknown"),
        pytest.param({"number": None}, "number must be a whole number; got None", id="null"),
    ],
)
def test_a_value_of_another_type_is_named(change: dict[str, Any], message: str) -> None:
    assert checked(ROW, Row, "log") == ROW
    with pytest.raises(ValueError, match=message) as caught:
        checked(ROW | change, Row, "log, line 3")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["number", "metrics", "kind"])
def test_a_key_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"log must have the key '{name}'"):
        checked({key: value for key, value in ROW.items() if key != name}, Row, "log")


def test_nan_is_a_number_where_the_kind_says_so() -> None:
    checked(ROW | {"metrics": {"error": float("nan")}}, Row, "log")


def test_a_dataclass_is_an_object_of_its_fields() -> None:
    checked({"shape": [3, 8, 8], "pair": [1, "a"]}, Table, "t")
    for wrong, message in (
        ({"shape": [3, "8"], "pair": [1, "a"]}, r"t: shape\[1\] must be a whole number; got '8'"),
        ({"shape": [], "pair": [1]}, "t: pair must have 2 values"),
        ({"shape": []}, "t must have the key 'pair'"),
    ):
        with pytest.raises(ValueError, match=message):
            checked(wrong, Table, "t")
