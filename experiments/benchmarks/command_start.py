"""How long commands need to start: to show their help, to say what is wrong, and to import what they run.

CPU seconds of a new process, user and system together, which other programs on the machine add little to. "error" is a
mistake in a name of a file or a folder, see ``MISTAKES``; "start" imports the file of the command. Usage:

    python experiments/benchmarks/command_start.py [--rounds 5] [--start-rounds 1] [--root CHECKOUT] [--out FILE]

``--root`` measures another checkout, such as that of an earlier release. Writes command_start_cpu.json beside this
file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from oneshot.cost.latency.device import processor  # noqa: E402

RUN = "import sys; from oneshot.cli.main import main; sys.exit(main())"
MISTAKES = {
    "auto": ["nothing", "--latency", "10"],
    "quickstart": ["--out", "taken"],
    "search": ["--config", "nothing.yaml"],
    "retrain": ["runs/nothing"],
    "evaluate": ["runs/nothing"],
    "examples": ["digts"],
    "measure": ["--config", "nothing.yaml"],
    "profile": ["--config", "nothing.yaml"],
    "rank": ["--config", "nothing.yaml"],
    "pareto": ["--config", "nothing.yaml"],
    "discrete": ["--config", "nothing.yaml"],
    "compare": ["--config", "nothing.yaml"],
    "pick": ["runs/nothing", "--knee"],
    "derive": ["runs/nothing"],
    "export": ["runs/nothing"],
    "data": ["nothing"],
    "report": ["nothing"],
    "show": ["nothing"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--start-rounds", type=int, default=1, help="of what takes seconds; 0 leaves it out")
    parser.add_argument("--root", type=Path, default=HERE.parents[1])
    parser.add_argument("--out", type=Path, default=HERE / "command_start_cpu.json")
    args = parser.parse_args()
    rows = []
    with TemporaryDirectory() as place:
        (Path(place) / "taken").mkdir()
        (Path(place) / "taken/notes.txt").write_text("mine", encoding="utf-8")
        seconds(["-c", RUN, "--help"], args.root, place)  # compiles what is not compiled yet
        for command, mistake in MISTAKES.items():
            row: dict[str, object] = {"command": command, "mistake": " ".join(mistake)}
            row["help"] = median(["-c", RUN, command, "--help"], args, place, args.rounds)
            row["error"] = median(["-c", RUN, command, *mistake], args, place, args.rounds)
            row["start"] = median(["-c", f"import oneshot.cli.{command}"], args, place, args.start_rounds)
            rows.append(row)
            print(row, flush=True)
        parts = {
            name: median(["-c", code], args, place, args.start_rounds)
            for name, code in (("Python", "pass"), ("torch", "import torch"), ("Lightning", "import pytorch_lightning"))
        }
    report = {
        "unit": "CPU seconds of a process",
        "rounds": args.rounds,
        "start_rounds": args.start_rounds,
        "processor": processor(),
        "python": platform.python_version(),
        "imports": parts,
        "commands": rows,
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(parts)


def median(words: list[str], args: argparse.Namespace, place: str, rounds: int) -> float | None:
    """The median of some processes, to the hundredth of a second."""
    return round(statistics.median(seconds(words, args.root, place) for _ in range(rounds)), 2) if rounds else None


def seconds(words: list[str], root: Path, place: str) -> float:
    """CPU seconds of one Python process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(root.resolve())}
    subprocess.run([sys.executable, *words], cwd=place, env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
