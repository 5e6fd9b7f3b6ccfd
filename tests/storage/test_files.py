"""Files are whole and on the disk before they have their names, whenever the power fails."""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import pytest

from oneshot.callbacks import good_checkpoint
from oneshot.callbacks.checkpoint import CHECKSUMS, LAST, PREVIOUS, keep
from oneshot.deploy.export import export_subnet
from oneshot.storage.files import write_atomically
from oneshot.storage.run_log import RunLog
from oneshot.supernets import NASBench201Supernet

State = tuple[int, int]  # size, nanoseconds of the last change


class Disk:
    """What would survive a loss of power: the content a file had when it was synchronised last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synchronised: dict[int, State] = {}
        self.renamed: list[str] = []  # new names, in order
        self.folders: list[int] = []  # how many renames came before each folder was synchronised
        self._fsync, self._rename = os.fsync, {name: getattr(os, name) for name in ("rename", "replace")}
        monkeypatch.setattr(os, "fsync", self.fsync)
        for name in self._rename:
            monkeypatch.setattr(os, name, lambda source, target, name=name: self.move(name, source, target))

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        stat = os.fstat(descriptor)
        self.synchronised[stat.st_ino] = stat.st_size, stat.st_mtime_ns
        if S_ISDIR(stat.st_mode):
            self.folders.append(len(self.renamed))

    def move(self, name: str, source: Any, target: Any) -> None:
        path = Path(source)
        for file in [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]:
            assert self.has(file), f"{file.name} gets its name, and is not on the disk yet"
        self._rename[name](source, target)
        self.renamed.append(Path(target).name)

    def has(self, path: Path) -> bool:
        stat = path.stat()
        return self.synchronised.get(stat.st_ino) == (stat.st_size, stat.st_mtime_ns)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_another(tmp_path: Path, disk: Disk) -> None:
    for content in ("first", "second, which is longer"):
        write_atomically(tmp_path / "a" / "file.json", content)
    assert (tmp_path / "a/file.json").read_text() == content
    assert disk.renamed == ["file.json"] * 2
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file.json"]


def test_an_export_is_on_the_disk_before_it_takes_the_place_of_another(tmp_path: Path, disk: Disk) -> None:
    supernet = NASBench201Supernet(channels=2, cells_per_stage=1, num_classes=3, image_size=8)
    network = supernet.extract(supernet.space.sample(0)).eval()
    for _ in range(2):
        export_subnet(network, tmp_path / "export", formats=(), overwrite=True)
    assert disk.renamed.count("export") == 2
    assert all(disk.has(file) for file in (tmp_path / "export").iterdir())


def write_checkpoint(folder: Path, content: str) -> None:
    new = folder / f".{LAST}.new"
    new.write_text(content)
    keep(new)


def test_a_checkpoint_is_on_the_disk_before_it_is_the_last_one(tmp_path: Path, disk: Disk) -> None:
    for content in ("first", "second one"):
        write_checkpoint(tmp_path, content)
    assert disk.renamed == [CHECKSUMS, LAST, CHECKSUMS, PREVIOUS, LAST]
    assert disk.folders[-1] == len(disk.renamed), "and so are the names, before the run goes on"
    assert ((tmp_path / LAST).read_text(), (tmp_path / PREVIOUS).read_text()) == ("second one", "first")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("moment", range(4))
def test_at_every_moment_of_writing_a_checkpoint_there_is_a_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Three renames make a checkpoint the last one; the machine stops before the first, second or third, or after."""
    for content in ("first", "second"):
        write_checkpoint(tmp_path, content)
    replace, left = os.replace, iter(range(moment))

    def stop(source: Any, target: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        try:
            write_checkpoint(tmp_path, "third")
        except KeyboardInterrupt:
            assert moment < 3
        else:
            assert moment == 3
    found = good_checkpoint(tmp_path)
    assert found is not None
    assert found.read_text() == ("third" if moment == 3 else "second")


def test_rows_are_on_the_disk_before_a_checkpoint_counts_them(tmp_path: Path, disk: Disk) -> None:
    log = RunLog(tmp_path)
    log.log_metrics({"loss": 1.0}, 0)
    log.log_metrics({"loss": 0.5}, 1)
    assert not disk.has(log.path)
    log.sync()
    assert disk.has(log.path)
