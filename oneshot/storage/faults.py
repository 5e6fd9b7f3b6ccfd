"""Faults of the machine, such as a full disk. They say nothing about an architecture, and may pass."""

from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

PATIENCE = 120.0  # seconds to wait for a fault to pass, before a run stops
FIRST, LONGEST = 1.0, 10.0  # seconds between two tries: in the beginning, and at most

T = TypeVar("T")

NAMES = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO", "EMFILE", "ENFILE", "ESTALE", "ENODEV", "ENOTCONN")
FAULTS = frozenset(getattr(errno, name) for name in NAMES if hasattr(errno, name))
# What libraries raise in place of an OSError: torch, safetensors, SQLite, and a loader whose shared memory is full.
WORDS = (
    *(os.strerror(number).lower() for number in FAULTS),
    "pytorchstreamwriter failed writing",
    "database or disk is full",
    "workers are out of shared memory",
)


class MachineFaultError(RuntimeError):
    """A fault of the machine did not pass. The same command goes on from where it stopped."""


def machine_fault(error: BaseException) -> str | None:
    """Name the fault of the machine behind an error, in a few words; None if the error is of another kind.

    A full disk, a used-up quota, a file system that became read-only or lost its device, too many open files. Not among
    them is memory, of the host or of a GPU: how much is needed depends on the architecture.

    Args:
        error: The error; its causes count, too.

    Example:
        >>> machine_fault(OSError(errno.ENOSPC, "No space left on device", "last.ckpt"))
        'No space left on device: last.ckpt'
        >>> machine_fault(MemoryError()) is None
        True
    """
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno is not None:
            if each.errno in FAULTS:
                where = f": {each.filename}" if each.filename else ""
                return f"{each.strerror or os.strerror(each.errno)}{where}"
        elif any(word in str(each).lower() for word in WORDS):
            return str(each).strip().splitlines()[0][:300]
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


class Patience:
    """Waiting times between the tries of an action that a fault of the machine prevents; gives up after a while."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._delay = FIRST

    def wait(self, what: str, why: str) -> bool:
        """Wait until it is time for another try; say so the first time.

        Args:
            what: What is not possible, as the beginning of a sentence.
            why: What the machine says.

        Returns:
            Whether to try again: not after :data:`PATIENCE` seconds.
        """
        now = time.monotonic()
        if self._since is None:
            self._since, self._delay = now, FIRST
            announce(f"{what}: {why}. Nothing is lost, and the run waits: it tries again for {PATIENCE:g} seconds.")
        left = self._since + PATIENCE - now
        if left <= 0:
            return False
        time.sleep(min(self._delay, left))
        self._delay = min(2 * self._delay, LONGEST)
        return True

    def over(self) -> None:
        """Record that a try succeeded; the next fault is a new one."""
        self._since = None


def patiently(action: Callable[[], T], what: str) -> T:
    """Repeat an action while a fault of the machine prevents it, for at most :data:`PATIENCE` seconds.

    Args:
        action: The action; a try that failed must leave nothing behind.
        what: What is not possible without it, as the beginning of a sentence: ``"log.jsonl cannot be written"``.

    Returns:
        What ``action`` returns.

    Raises:
        OSError: Or whatever the action raised last, if the fault has not passed; other errors are raised at once.
    """
    patience = Patience()
    while True:
        try:
            return action()
        except Exception as error:  # what a library raises where a disk is full may be anything
            if (why := machine_fault(error)) is None or not patience.wait(what, why):
                raise


def announce(message: str) -> None:
    """Warn each time: Python's default filter shows a warning of the same words only once."""
    warnings.warn_explicit(message, UserWarning, __file__, 1, module=__name__, registry={})
