"""YAML and CSV are read strictly, and errors are one line that names file and line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from oneshot.storage import readers
from oneshot.storage.readers import csv_records, read_table, read_yaml


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"a: 1\na: 2", r"f, line 2 must be YAML; the key 'a' comes twice", id="duplicate"),
        pytest.param(b"x:\n  a: 1\n  a: 2", r"line 3 must be YAML; the key 'a' comes twice", id="duplicate-inside"),
        pytest.param(b"a: [1", "f, line 1 must be YAML; expected ','", id="truncated"),
        pytest.param(b"a: 1\n\tb: 2", "line 2 must be YAML", id="tab"),
        pytest.param(b"? [1]\n: 2", "unhashable key", id="unhashable"),
        pytest.param(b"a: &x [*x]", "must not be nested deeper", id="list-in-itself"),
        pytest.param(b"[" * 5000, "must not be nested deeper", id="deep"),
        pytest.param(b"a: !!python/object/apply:os.getcwd []", "could not determine a constructor", id="code"),
        pytest.param(b"a: 2001-99-99", "month must be in 1..12", id="date"),
        pytest.param(b"a: !!bool x", "f must be YAML", id="bool"),
        pytest.param(b"a: !!timestamp x", "f must be YAML", id="timestamp"),
        pytest.param(b"\xff\xfea\x00", "must be UTF-8 text", id="utf-16"),
        pytest.param(b"a: \x00", "unacceptable character", id="nul"),
    ],
)
def test_what_is_no_yaml_is_one_line_that_names_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(tmp_path / "f", advice="Restore it.")
    assert str(tmp_path / "f") in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith("Restore it.")


def test_aliases_may_repeat_values_but_not_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: *x\n")
    assert read_yaml(tmp_path / "f") == {"a": {"b": 1}, "c": {"b": 2}, "d": {"b": 1}}
    laughs = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9))
    (tmp_path / "f").write_text(f"l0: &l0 [ha]\n{laughs}")
    monkeypatch.setattr(readers, "MOST_VALUES", 1000)
    with pytest.raises(ValueError, match="has more than 1,000 values"):
        read_yaml(tmp_path / "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a,b\n1\n", "t.csv, line 2 has no column 'b'; columns are a: it must have as many", id="few"),
        pytest.param("a,b\n1,2\n1,2,3\n", "t.csv, line 3 has more cells than the header", id="many"),
        pytest.param("a,a\n1,2\n", "t.csv, line 1: the column 'a' comes twice", id="twice"),
        pytest.param('a,b\n1,"2\n', "t.csv, line 2 must be CSV; unexpected end of data", id="quote"),
        pytest.param(f"a,b\n1,{'2' * 200_000}\n", "t.csv, line 2 must be CSV; field larger than", id="long"),
    ],
)
def test_a_row_that_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        csv_records(text, "t.csv")


def test_a_last_line_that_was_cut_off_is_left_out_only_where_that_may_be() -> None:
    text = "a,b\n1,2\n3,4"
    assert csv_records(text, "t") == (["a", "b"], [(2, {"a": "1", "b": "2"}), (3, {"a": "3", "b": "4"})])
    assert csv_records(text, "t", cut_off=True)[1] == [(2, {"a": "1", "b": "2"})]
    assert csv_records("", "t") == ([], [])


def test_a_packed_table_that_is_damaged_or_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, packed = tmp_path / "t.csv.gz", gzip.compress(b"a,b\n1,2\n")
    path.write_bytes(packed)
    assert read_table(path) == "a,b\n1,2\n"
    for content in (packed[:-4], b"a,b\n", packed[:12] + b"\xff" + packed[13:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="t.csv.gz must be packed by gzip"):
            read_table(path)
    path.write_bytes(packed)
    monkeypatch.setattr(readers, "LARGEST", 4)
    with pytest.raises(ValueError, match="at most 4 bytes when it is unpacked"):
        read_table(path)
