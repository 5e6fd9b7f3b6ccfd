"""One attempt at an evaluation. Whatever the evaluator raises becomes a failure in one line."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

from oneshot.parallel.pools import one_line
from oneshot.storage.faults import machine_fault
from oneshot.storage.interrupts import interruption

from .protocol import Evaluator, Proposal


@dataclass(frozen=True)
class Answer:
    """What came of one attempt.

    Args:
        metrics: What was measured; None if it failed.
        failure: Why it failed, in one line.
        seconds: How long it took.
        fault: Whether the machine is to blame for the failure, for example because its disk is full.
    """

    metrics: Mapping[str, float] | None
    failure: str | None
    seconds: float
    fault: bool = False


def attempt(evaluator: Evaluator, proposal: Proposal) -> Answer:
    """Evaluate once. Errors become failures, except for those that end the study.

    Raises:
        KeyboardInterrupt: Also where Lightning has made an ordinary exit of it.
        SystemExit: If Lightning ends a training because of SIGTERM.
    """
    began = time.monotonic()
    try:
        found = evaluator(proposal)
        if not isinstance(found, Mapping):
            raise TypeError(f"an evaluator must give {{metric: number}}; got {type(found).__name__}")
        metrics = {name: float(value) for name, value in found.items()}
    except (Exception, SystemExit) as error:  # noqa: BLE001  # an evaluation that fails is a result
        if isinstance(error, SystemExit) and (interrupt := interruption(error)) is not None:
            raise interrupt from None
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        failure, seconds = f"{one_line(error)} ({where})", time.monotonic() - began
        return Answer(None, failure, seconds, fault=machine_fault(error) is not None)
    return Answer(metrics, None, time.monotonic() - began)
