"""Errors that callers may want to catch by name. All others are plain ``ValueError`` and ``RuntimeError``."""

from __future__ import annotations


class NonFiniteLossError(RuntimeError):
    """Training produced NaN or infinity; the last checkpoint was written before that."""


class HeadError(ValueError):
    """No head can be fitted to the features of a network: they are not finite, or the same for all samples."""


class NoScoreError(ValueError):
    """A zero-cost proxy has no score for a network, which lacks what it looks at; other proxies may have one."""


class NonFiniteScoreError(NoScoreError):
    """The score of a zero-cost proxy for a network is NaN or infinite."""


class Int8LossError(RuntimeError):
    """An INT8 network loses more of its metric than is allowed; nothing was written.

    Args:
        fact: How much it loses.
        way_out: What to do about it, with options of ``oneshot export`` and ``oneshot pick``.
    """

    def __init__(self, fact: str, way_out: str) -> None:
        super().__init__(fact, way_out)
        self.fact = fact

    def __str__(self) -> str:
        return " ".join(self.args)


class MissingExtraError(ImportError):
    """An optional dependency is not installed."""


def missing_extra(package: str, extra: str, what: str) -> MissingExtraError:
    """The error for an optional package that cannot be imported, with the command that installs it."""
    return MissingExtraError(f"{what} needs {package}. Install it with: pip install 'oneshot-nas[{extra}]'")
