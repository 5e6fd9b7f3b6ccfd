"""Ctrl-C and SIGTERM: how to recognise them, and how to finish cleaning up in spite of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

GOES_ON = "The same command with --resume goes on."


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. Like Ctrl-C it is not caught by handlers of errors, and ends the program."""


def interruption(error: BaseException) -> BaseException | None:
    """The interruption that an error stands for; None if it is of another kind.

    Lightning makes ``SystemExit(1)`` of Ctrl-C, and an exit of its own of SIGTERM.
    """
    exceptions: Any = sys.modules.get("pytorch_lightning.utilities.exceptions")
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if isinstance(each, KeyboardInterrupt):
            return each
        if exceptions is not None and isinstance(each, exceptions.SIGTERMException):
            return Terminated()
        each = each.__cause__ or each.__context__
    return None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block has ended, so that they do not interrupt cleaning up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if came:
        signal.raise_signal(came[0])


class _Sigterm:
    """Handler of SIGTERM that raises :class:`Terminated`, unless Lightning has put its own over it and may do so."""

    def __init__(self) -> None:
        self.process, self.gracefully = os.getpid(), False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a fork of the process that is to be told
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self.gracefully or signal.getsignal(number) is self:
            raise Terminated


_sigterm = _Sigterm()


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` in the main thread, where without this it ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _sigterm.process = os.getpid()
    before = signal.signal(signal.SIGTERM, _sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


@contextmanager
def graceful() -> Iterator[None]:
    """A fit of Lightning, which ends after the step in which SIGTERM arrives, and has saved by then."""
    _sigterm.gracefully = True
    try:
        yield
    finally:
        _sigterm.gracefully = False
