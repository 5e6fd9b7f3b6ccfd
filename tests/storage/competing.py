"""What runs in processes of their own in test_lock.py; they import this file and not the tests with all they need."""

from __future__ import annotations

import os
from typing import Any

from oneshot.storage.lock import InUseError, RunLock


def compete(folder: str, barrier: Any, results: Any) -> None:
    """Try to get the folder at the same time as others, and keep it until all have tried."""
    barrier.wait()
    try:
        with RunLock(folder):
            results.put(os.getpid())
            barrier.wait()
    except InUseError:
        results.put(None)
        barrier.wait()
