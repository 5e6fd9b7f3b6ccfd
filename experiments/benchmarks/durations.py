"""How long the commands of the documentation take: minutes, minutes of the processor, and memory, on this machine.

    python experiments/benchmarks/durations.py [ROW ...] [--list] [--again] [--table] [--keep FOLDER]

Without names of rows, all rows that durations.json does not hold are measured, one after the other. A row is written
when it is done, so the same command goes on where it was stopped. The table of docs/which_method.md, between its
markers, is written anew after every row. ``--keep`` keeps the folders of the runs, of which
``experiments/gallery/make.py`` makes its pages. Everything runs on the CPU. Stop other programs first: how many cores
are busy in the seconds before a row is written down, and a row that began beside other work has no minutes of the clock
in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from oneshot.cost.latency.device import processor  # noqa: E402

RESULTS, PAGE = HERE / "durations.json", ROOT / "docs/which_method.md"
BEGIN, END = "<!-- durations: begin -->", "<!-- durations: end -->"
BUSY = 0.25  # share of all cores from which on other work slows a row down


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        name: Key in the file of results, and folder of the run.
        what: What is done, in words.
        commands: Of oneshot, one after the other, in an empty folder with a link to ``experiments``.
        photos: Whether they need a folder ``photos``, see :func:`photos`.
    """

    name: str
    what: str
    commands: tuple[str, ...]
    photos: bool = False


ROWS = (
    Row("quickstart", "search, retraining and export on small real images", ("quickstart --out quickstart",)),
    Row(
        "search",
        "a DARTS cell for the digits of scikit-learn, 10 epochs; the network retrained, 10 epochs",
        (
            "search --config experiments/digits/search.yaml --out search",
            "retrain search --config experiments/digits/retrain.yaml --out search-retrain",
        ),
    ),
    Row(
        "pareto",
        "a front of MobileNetV3 on digits, 13 epochs; one network of it exported",
        (
            "pareto --config experiments/nat/digits.yaml --out pareto",
            "pick pareto --knee --out pareto/picked",
        ),
    ),
    Row(
        "convert",
        "a front of the variants of a small ResNet of timm on digits, 10 epochs; one network of it exported",
        (
            "pareto --config experiments/convert/digits.yaml --out convert",
            "pick convert --knee --out convert/picked",
        ),
    ),
    Row(
        "discrete",
        "evolution that trains 16 networks on digits",
        ("discrete --config experiments/discrete/digits.yaml --out discrete",),
    ),
    Row(
        "compare",
        "five methods and chance on digits, six seeds each, every network retrained",
        ("compare --config experiments/compare/digits.yaml --out compare",),
    ),
    Row(
        "auto",
        "400 images of 32 x 32 pixels in 10 folders, with `--minutes 10`",
        ("auto photos --latency 25 --minutes 10 --out auto",),
        photos=True,
    ),
)


def photos(folder: Path, images: int = 400) -> None:
    """A folder of images for each class: digits of scikit-learn, enlarged to 32 x 32 pixels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number in range(images):
        place = folder / str(digits.target[number])
        place.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * 255 / 16).astype("uint8")
        Image.fromarray(pixels).resize((32, 32)).save(place / f"{number}.png")


def machine() -> dict[str, Any]:
    """What the minutes depend on."""
    names = ("torch", "pytorch-lightning", "numpy")
    facts = {"cpu": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    return facts | {name: version(name) for name in names}


def busy_cores(seconds: float = 5.0) -> float:
    """How many cores other programs use now. The load average would count the row before, for minutes."""

    def times() -> tuple[float, float]:  # of all cores together: idle, and all
        fields = [
            float(field) for field in Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
        ]
        return fields[3] + fields[4], sum(fields)

    if not Path("/proc/stat").is_file():
        return os.getloadavg()[0]
    idle, every = times()
    time.sleep(seconds)
    idle_then, every_then = times()
    return (1 - (idle_then - idle) / (every_then - every)) * (os.cpu_count() or 1)


def measure(row: Row, folder: Path) -> dict[str, Any]:
    """Run the commands of a row.

    Raises:
        FileExistsError: If the folder is of something else.
        SystemExit: If one of them fails; its output is in ``folder``.
    """
    link = folder / "experiments"
    if link.is_symlink():  # of a row that was stopped, or is measured again
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    link.symlink_to(ROOT / "experiments", target_is_directory=True)
    if row.photos:
        photos(folder / "photos")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "offline"}
    busy = busy_cores()
    wall = cpu = memory = 0.0
    for command in row.commands:
        log = folder / f"{row.name}.log"
        with log.open("ab") as output:
            start = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-m", "oneshot", *shlex.split(command)],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            wall += time.monotonic() - start
        if process.returncode:
            sys.exit(f"oneshot {command} ended with {process.returncode}; its output is in {log}")
        cpu += usage.ru_utime + usage.ru_stime
        memory = max(memory, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    return {
        "commands": [f"oneshot {command}" for command in row.commands],
        "wall_minutes": round(wall / 60, 2),
        "cpu_minutes": round(cpu / 60, 2),
        "peak_gigabytes": round(memory / 1e9, 2),
        "busy_cores_before": round(busy, 2),
        "machine": machine(),
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of the page; a row that was measured beside other work has no wall time."""
    lines = [
        "| command | what it does | minutes | minutes of the processor | memory, GB |",
        "|---|---|---:|---:|---:|",
    ]
    machines = []
    for row in ROWS:
        if (found := results.get(row.name)) is None:
            continue
        here = found["machine"]
        busy = found["busy_cores_before"] is None or found["busy_cores_before"] > BUSY * here["cores"]
        if here not in machines:
            machines.append(here)
        mark = f" [{machines.index(here) + 1}]" if machines.index(here) else ""
        wall = "beside other work" if busy else f"{found['wall_minutes']:.1f}"
        names = "`, then `".join(" ".join(command.split()[:2]) for command in found["commands"])
        lines.append(
            f"| `{names}`{mark} | {row.what} | {wall} | {found['cpu_minutes']:.1f} | {found['peak_gigabytes']:.1f} |"
        )
    for number, here in enumerate(machines):
        lines += [
            "",
            f"{f'[{number + 1}] ' if number else ''}Machine: {here['cores']} cores, {here['cpu']}; "
            f"Python {here['python']}, torch {here['torch']}; no GPU.",
        ]
    return "\n".join(lines)


def write_page(page: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Put the table between the markers of a page.

    Raises:
        ValueError: If the page has no markers.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} must have the lines {BEGIN} and {END}; put them where the table is to be.")
    page.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{after}", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="all that are missing")
    parser.add_argument("--list", action="store_true", help="name the rows and their commands, and measure nothing")
    parser.add_argument("--again", action="store_true", help="also measure rows that were measured before")
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the runs there")
    args = parser.parse_args(words)
    known = {row.name: row for row in ROWS}
    if wrong := [name for name in args.rows if name not in known]:
        parser.error(f"ROW must be one of {', '.join(known)}; got {', '.join(wrong)}")
    if args.list:
        for row in ROWS:
            print(f"{row.name}: {'; '.join(f'oneshot {command}' for command in row.commands)}")
        return
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for row in () if args.table else ROWS:
        if (args.rows and row.name not in args.rows) or (row.name in results and not args.again):
            continue
        print(f"{row.name}: {row.what}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            results[row.name] = measure(row, (args.keep or Path(scratch)).resolve() / row.name)
        print(json.dumps(results[row.name]), flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        write_page(PAGE, results)
    write_page(PAGE, results)


if __name__ == "__main__":
    main()
