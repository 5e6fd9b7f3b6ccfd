"""``oneshot report``: one page that shows what a run has found."""

from __future__ import annotations

from oneshot.report.page import write_report

from .terminal import say


def report(run: str, *, out: str | None = None) -> None:
    """``oneshot report RUN``: write ``report.html`` into the folder of a run, from the files that are in it.

    Args:
        run: The folder, or a table of latencies.
        out: Another file to write.
    """
    page = write_report(run, out=out)
    say(f"Report: {page}. It is one file that loads nothing; open it in a browser, or pass it on.")
