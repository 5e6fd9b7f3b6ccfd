"""The command line of this process, to be kept with what it made."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

SECRET = re.compile(r"(?i)(key|token|password|secret)")

_words: ContextVar[Sequence[str] | None] = ContextVar("words", default=None)


@contextmanager
def command_line(words: Sequence[str]) -> Iterator[None]:
    """Inside, runs are made by this command line.

    Args:
        words: What stands after ``oneshot``.
    """
    token = _words.set(list(words))
    try:
        yield
    finally:
        _words.reset(token)


def said_command() -> str | None:
    """The command line as one types it, without values of options that may be secret; None where there is none.

    Example:
        >>> with command_line(["search", "--out", "my run", "--trainer.logger.api_key=123"]):
        ...     said_command()
        "oneshot search --out 'my run' '--trainer.logger.api_key=***'"
    """
    if (words := _words.get()) is None:
        return None
    shown, hide = list[str](), False
    for word in words:
        option, equals, _ = word.partition("=")
        secret = option.startswith("--") and SECRET.search(option) is not None
        shown.append("***" if hide else f"{option}=***" if secret and equals else word)
        hide = secret and not equals
    return shlex.join(["oneshot", *shown])
