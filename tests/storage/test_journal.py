"""A journal gives back what was appended, whole lines only, and names a line that is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oneshot.storage.journal import Journal

ROWS: list[Any] = [{"a": 1}, {"a": 2.5, "b": ["c"]}, {"a": None}]


def journal(path: Path | None, **options: Any) -> Journal:
    return Journal(path, advice="Restore the file.", **options)


def written(path: Path, **options: Any) -> Path:
    made = journal(path, **options)
    for row in ROWS:
        made.append(row)
    return path


@pytest.mark.parametrize("options", [{}, {"checksums": True}, {"sync": True}], ids=["plain", "checksums", "sync"])
def test_rows_are_read_back_and_appended_to(options: dict[str, Any], tmp_path: Path) -> None:
    again = journal(written(tmp_path / "new" / "j", **options), **options)
    again.append({"a": 4})
    assert again.rows == journal(tmp_path / "new" / "j", **options).rows == [*ROWS, {"a": 4}]


def test_without_a_file_rows_stay_in_memory() -> None:
    kept = journal(None, checksums=True)
    kept.append({"a": 1})
    assert kept.rows == [{"a": 1}]


def test_a_line_that_was_cut_off_is_written_over_and_another_text_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "j")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"a": 17, "lo')
    again = journal(path, beginning=b'{"a": ')
    again.append({"a": 4})
    assert path.read_bytes() == whole + b'{"a": 4}\n'
    path.write_bytes(whole + b"some other text")
    with pytest.raises(ValueError, match=r"j, line 4 must be a whole line or the beginning of one; got b'some other"):
        journal(path, beginning=b'{"a": ')
    assert journal(path).rows == ROWS, "where lines have no common beginning, any rest was cut off"


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "j")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][:9] + b"\n", lines[2]]))
    with pytest.raises(ValueError, match=r"j, line 2 must be JSON; .* Restore the file\.$"):
        journal(path)
    path.write_bytes(b"".join([lines[0], b"[1]\n"]))
    with pytest.raises(ValueError, match=r"j, line 2 must be a JSON object; got \[1\]\. Restore the file\.$"):
        journal(path, checksums=True)


def test_checksums_tell_the_first_line_that_was_changed_and_older_lines_have_none(tmp_path: Path) -> None:
    path = written(tmp_path / "j", checksums=True)
    lines = path.read_text().splitlines(keepends=True)
    for changed in ([lines[0], lines[2]], [lines[0], lines[1].replace("2.5", "2.6"), lines[2]]):
        path.write_text("".join(changed))
        with pytest.raises(ValueError, match="j, line 2 does not have its checksum"):
            journal(path, checksums=True).check()
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    older = journal(path, checksums=True)
    older.append({"a": 4})
    older.check()
    journal(path, checksums=True).check()


def test_a_folder_in_the_place_of_a_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with pytest.raises(ValueError, match=r"j must be a file; it is a folder"):
        journal(tmp_path / "j")
