"""Scores in a file, so that a search that goes on, or another one, does not compute them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

from oneshot.storage.journal import Journal
from oneshot.supernets.json_files import MayBeNaN, checked
from oneshot.supernets.space import SubnetConfig


class _Scored(TypedDict):
    config: dict[str, Any]
    scores: dict[str, MayBeNaN]


class _Row(_Scored, total=False):
    network: str  # of the first


class ScoreFile:
    """Scores of architectures, a line of JSON each. One process at a time may write to the folder of the file.

    Args:
        path: The file; made with the first score.
        made_by: What scores follow from beside the architecture and its network. It is the first line.
        fingerprint: A checksum of the network of an architecture; that of the first architecture stands beside it.

    Raises:
        ValueError: If a line is damaged, or the scores were made by something else.
    """

    def __init__(self, path: str | Path, made_by: str, fingerprint: Callable[[SubnetConfig], str]) -> None:
        self._journal = Journal(path, advice="Delete the file to score anew.", not_finite=True)
        self._made_by, self._fingerprint = {"made_by": made_by}, fingerprint
        if self._journal.rows and self._journal.rows[0] != self._made_by:
            raise ValueError(
                f"{path} must have scores of the same proxies, networks and samples; its first line is "
                f"{self._journal.rows[0]}, and would be {self._made_by}. Give another file, or delete it."
            )
        for config, _ in self:  # the first
            theirs = self._journal.rows[1].get("network")
            if theirs != (ours := fingerprint(config)):
                raise ValueError(
                    f"{path} must have scores of the same proxies, networks and samples; the checksum of its first "
                    f"network is {theirs}, and would be {ours}. Give another file, or delete it."
                )
            break

    def __iter__(self) -> Iterator[tuple[SubnetConfig, dict[str, float]]]:
        for number, row in enumerate(self._journal.rows[1:], start=2):
            where = self._journal.place(number)
            found = checked(row, _Row, where, advice="Delete the file to score anew.")
            yield SubnetConfig.from_dict(found["config"]), dict(found["scores"])

    def add(self, config: SubnetConfig, scores: dict[str, float]) -> None:
        """Write the scores of an architecture.

        Raises:
            RuntimeError: If another process writes to the folder, or has written to the file.
        """
        with self._journal.alone():
            if not self._journal.rows:
                self._journal.append(self._made_by)
            network = {"network": self._fingerprint(config)} if len(self._journal.rows) == 1 else {}
            self._journal.append({"config": config.to_dict(), "scores": scores, **network})
