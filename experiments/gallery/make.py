"""The gallery of reports: docs/gallery/NAME.html, a picture NAME.png of each, and the list in docs/gallery.md.

    python experiments/benchmarks/durations.py --again --keep runs/durations     # makes the runs
    python experiments/gallery/make.py runs/durations

A page whose run is not in the folder stays as it is. Pictures need Chromium; CHROMIUM names one that is not on the
PATH.
Runs are of the digits of scikit-learn: a report shows images of its data, so their licence must allow that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE, FOLDER = ROOT / "docs/gallery.md", ROOT / "docs/gallery"
BEGIN, END = "<!-- gallery: begin -->", "<!-- gallery: end -->"
MOST_BYTES = 3_000_000
WIDTH, HEIGHT = 1100, 900  # of a picture, in pixels


@dataclass(frozen=True)
class Entry:
    """A report of the gallery.

    Args:
        name: Of its files.
        run: Folder of the run, in that of durations.py.
        title: Command, and what it was given.
        look: What to look at.
        files: Of the repository, in place of a run: they are copied, and the first one has a report.
    """

    name: str
    run: str
    title: str
    look: str
    files: tuple[str, ...] = ()


ENTRIES = (
    Entry(
        "auto",
        "auto/auto",
        "oneshot auto: 400 images in 10 folders, 25 ms",
        "The summary, the accuracy with its interval, the front with the limit, and the wrong images that the network "
        "was surest of.",
    ),
    Entry(
        "pareto",
        "pareto/pareto",
        "oneshot pareto: a front of error, MACs and parameters",
        "Point at a network of the front to see its values; click on it to copy the command that picks it.",
    ),
    Entry(
        "convert",
        "convert/convert",
        "oneshot pareto: the variants of a network of timm",
        "How much smaller than the original the variants of the front are.",
    ),
    Entry(
        "search",
        "search/search",
        "oneshot search: a DARTS cell",
        "The probabilities of the candidates over the epochs, the cell, and what its layers cost.",
    ),
    Entry(
        "retrain",
        "search/search-retrain",
        "oneshot retrain: the network of that cell",
        "The learning curves, every class, and the confusion matrix.",
    ),
    Entry(
        "discrete",
        "discrete/discrete",
        "oneshot discrete: networks that grow and shrink",
        "The front of error and parameters after 16 trainings.",
    ),
    Entry(
        "compare",
        "compare/compare",
        "oneshot compare: five methods and chance, six seeds each",
        "Every run as a point, and which differences are significant.",
    ),
    Entry(
        "measure",
        "",
        "oneshot measure: the latencies of the layers of FBNet",
        "How well the table predicts whole networks that were measured, too, and which candidates are expensive.",
        files=(
            "experiments/latency/this_machine/fbnet_cpu_1_thread.json",
            "experiments/latency/this_machine/fbnet_cpu_1_thread.verify.json",
            "experiments/latency/this_machine/fbnet_cpu_1_thread.verify.png",
        ),
    ),
)


def browser() -> str | None:
    """Chromium, if there is one."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def picture(page: Path, to: Path, chromium: str) -> None:
    """Write what a browser shows of the beginning of a page."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
    command = [chromium, *options, f"--screenshot={to.resolve()}", page.resolve().as_uri()]
    subprocess.run(command, capture_output=True, check=True, timeout=300)


def text(folder: Path = FOLDER) -> str:
    """The list of the page: what there is in the folder."""
    parts = [
        f"## {entry.title}\n\n{entry.look}\n\n[Open the report](gallery/{entry.name}.html)\n\n"
        f"![The beginning of the report](gallery/{entry.name}.png)"
        for entry in ENTRIES
        if (folder / f"{entry.name}.html").is_file() and (folder / f"{entry.name}.png").is_file()
    ]
    return "\n\n".join(parts)


def make(runs: Path, folder: Path, chromium: str) -> list[str]:
    """Write the reports and pictures of all runs that there are.

    Returns:
        Names of the entries that were written.

    Raises:
        ValueError: If a report is larger than the documentation may carry.
    """
    from oneshot.report.page import write_report

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for entry in ENTRIES:
        with tempfile.TemporaryDirectory() as scratch:
            copies = [Path(shutil.copy(ROOT / file, scratch)) for file in entry.files]
            run = copies[0] if copies else runs / entry.run
            if not run.exists():
                print(f"{entry.name}: no run {run}, so its page stays as it is")
                continue
            report = write_report(run).read_text(encoding="utf-8")
            for place in (scratch, runs.resolve() / entry.run, runs.resolve(), ROOT.resolve()):
                report = report.replace(str(place), "...")  # folders of this machine
        if (size := len(report.encode())) > MOST_BYTES:
            raise ValueError(f"A report of the gallery must have at most {MOST_BYTES} bytes; that of {run} has {size}.")
        page = folder / f"{entry.name}.html"
        page.write_text(report, encoding="utf-8")
        picture(page, page.with_suffix(".png"), chromium)
        print(f"{entry.name}: {size / 1000:.0f} kB")
        written.append(entry.name)
    return written


def write_page(page: Path, folder: Path) -> None:
    """Put the list between the markers of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} must have the lines {BEGIN} and {END}; put them where the list is to be.")
    page.write_text(f"{before}{BEGIN}\n\n{text(folder)}\n\n{END}{after}", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder that durations.py has kept")
    args = parser.parse_args(words)
    if not args.runs.is_dir():
        parser.error(f"RUNS must be a folder of runs; there is no {args.runs}. durations.py --keep makes it.")
    if (chromium := browser()) is None:
        parser.error("Chromium must be installed for the pictures; CHROMIUM names one that is not on the PATH.")
    if not make(args.runs, FOLDER, chromium):
        parser.error(f"RUNS must hold runs of durations.py; {args.runs} has none.")
    write_page(PAGE, FOLDER)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
