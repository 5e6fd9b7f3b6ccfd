"""Jobs of this folder, one after the other in the same processes: ``launch.py PROCESSES FOLDER MODULE:ARGUMENT...``.

A process takes seconds to import what a job needs, and the jobs take less.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(processes: int, folder: Path, jobs: list[str]) -> None:
    for job in jobs:
        module, _, argument = job.partition(":")
        print(job, flush=True)  # noqa: T201  # the last one is the one that failed or hangs
        importlib.import_module(f"tests.distributed.{module}").main(argument, processes, str(folder / job))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
