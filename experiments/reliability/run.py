"""What the promises of oneshot rest on: the tests of each are run and counted, and become docs/reliability.md.

    python experiments/reliability/run.py              # runs what figures.json does not have yet, then writes the page
    python experiments/reliability/run.py --again      # runs everything
    python experiments/reliability/run.py --only kills damage

Tests tell figures with ``record_property``. Where a test fails, the script ends, and the promise is not on the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
FIGURES, PAGE = Path(__file__).with_name("figures.json"), ROOT / "docs/reliability.md"
PARALLEL = "-n auto --dist loadfile --timeout 7200"
LARGEST = "largest"  # a property whose name begins so is the largest of all tests, others are sums


@dataclass(frozen=True)
class Promise:
    """Something that users rely on.

    Args:
        title: What it is about.
        text: What is promised, and how it is tried.
        tests: What pytest is given.
        figures: A sentence with the figures, by the names of the properties; ``{tests}`` is how many tests passed.
    """

    title: str
    text: str
    tests: str
    figures: str


PROMISES = {
    "kills": Promise(
        "Killed runs",
        """A search, a search for a front, a retraining or a study that is killed (SIGKILL) at random moments and
        resumed leaves the same files as one that was left alone: every weight, alpha, state of an optimiser,
        row, evaluation.""",
        "-m nightly tests/test_kills.py tests/training/test_resume.py tests/discrete/test_study.py -k killed",
        "{kills:,.0f} kills in {tests} runs.",
    ),
    "stops": Promise(
        "Stopped runs",
        """A search or a training that an error stops at some step, within an epoch or between two, ends as one
        that was not stopped, bit by bit.""",
        '-m "nightly or not nightly" tests/training/test_resume.py -k stopped',
        "{tests} tests of single steps, with and without processes that load the data.",
    ),
    "damage": Promise(
        "Damaged files",
        """Every kind of file that oneshot reads is damaged at random: cut, bits and bytes changed, lines and keys
        doubled, moved or left out, values of other types. The error is one line that names the file, or the
        content is the same. Where a file has no checksum, nobody can tell a damage that makes another valid
        file, such as another digit.""",
        "-m nightly tests/fuzz",
        """{inputs:,.0f} damaged files of {tests} kinds: {refused:,.0f} refused, {same:,.0f} read as before,
        {told:,.0f} read with a warning or up to where they were cut, {silent:,.0f} other valid files without a
        checksum.""",
    ),
    "exports": Promise(
        "Damaged exports",
        """`oneshot.load` refuses an export in which a bit of `subnet.json` or `model.safetensors` was flipped, a file
        is of another network, or the manifest was changed.""",
        'tests/deploy/test_export.py -k "flipped or damaged or another_architecture or another_network or changed"',
        "{flips:,.0f} flipped bits, {tests} tests.",
    ),
    "disk": Promise(
        "Full disks",
        """Where a disk is full, a quota used up or a file system read-only, runs wait or go on, say so, and lose
        nothing; an export leaves what was there.""",
        '-m "nightly or not nightly" tests/storage/test_faults.py',
        "{tests} tests.",
    ),
    "owners": Promise(
        "Two runs in one folder",
        "A folder belongs to one run at a time; a second is refused and changes nothing. A killed one owns nothing.",
        "tests/storage/test_lock.py",
        "{tests} tests.",
    ),
    "processes": Promise(
        "Several processes",
        """Two processes that share every batch (DDP) have the same weights and alphas, bit by bit. With fixed
        statistics of batch normalisation they are those of one process, up to rounding; ten methods are compared.
        ENAS is not among them: its rewards depend on the batch.""",
        "tests/distributed",
        "{tests} tests, largest difference of a weight or alpha to one process {largest_difference:.0e}.",
    ),
    "files": Promise(
        "Exported files",
        """The ONNX and torch.export files of networks for images give their outputs for batches of 1, 2 and 5. A
        network for images, rectangles, 1-D or 3-D inputs, tables or words that is searched, exported and loaded
        again gives its outputs, for classes, labels and numbers.""",
        'tests/deploy/test_export.py tests/test_any_input_any_target.py -k "gives_the_outputs or loaded_export"',
        "{tests} tests, largest difference of an output of a file {largest_difference:.0e}.",
    ),
    "subnets": Promise(
        "Extracted networks",
        """A network that is extracted from a supernet, also from a converted network of a library, computes what
        the supernet computes for its architecture, in training and evaluation.""",
        '-m "nightly or not nightly" tests/supernets tests/conversion'
        ' -k "equals_the_supernet or compute_what or of_libraries_are_converted"',
        "{tests} tests.",
    ),
    "costs": Promise(
        "Parameters, MACs and memory",
        "Costs that are looked up in tables are those of the traced network, without any difference.",
        '-m nightly tests/cost/counting -k "200_traced or of_timm"',
        "{networks:,.0f} networks of {tests} spaces.",
    ),
    "trust": Promise(
        "Files of other people",
        "Nothing in the folder of a run, a study or an export is imported, unpickled or run, whatever it says.",
        '-m "nightly or not nightly" tests/storage/test_trust.py',
        "{tests} tests.",
    ),
    "earlier": Promise(
        "Files of an earlier version",
        "Runs, studies, exports and tables that an earlier version wrote are read; searches that it began go on.",
        '-m "nightly or not nightly" tests/test_earlier_release.py',
        "{tests} tests.",
    ),
}


def counted(xml: Path) -> dict[str, float]:
    """The properties and the number of the tests in a report of pytest.

    Raises:
        ValueError: If a test failed, or none ran.
    """
    cases = list(ElementTree.parse(xml).iter("testcase"))
    bad = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    ran = [case for case in cases if case.find("skipped") is None]
    if bad or not ran:
        raise ValueError(
            f"All tests must pass; {len(ran)} ran, and these failed: {', '.join(map(str, bad)) or 'none'}."
        )
    values: dict[str, list[float]] = {}
    for case in ran:
        for one in case.iter("property"):
            values.setdefault(str(one.get("name")), []).append(float(str(one.get("value"))))
    found = {name: max(each) if name.startswith(LARGEST) else sum(each) for name, each in values.items()}
    return {"tests": len(ran), **found}


def measure(promise: Promise) -> dict[str, Any]:
    """Run the tests of a promise and count."""
    on = about()
    with tempfile.TemporaryDirectory() as folder:
        xml, start = Path(folder) / "tests.xml", time.perf_counter()
        words = [*shlex.split(f"{PARALLEL} --max-worker-restart 0"), f"--junitxml={xml}", "-q"]
        subprocess.run([sys.executable, "-m", "pytest", *words, *shlex.split(promise.tests)], cwd=ROOT, check=True)
        return {"figures": counted(xml), "minutes": round((time.perf_counter() - start) / 60, 1), "on": on}


def about() -> str:
    """Where and with what the tests ran."""
    from importlib.metadata import version

    from oneshot.cost.latency.device import processor

    python, torch = platform.python_version(), version("torch")
    return f"{processor()}, {os.cpu_count()} processors, Python {python}, PyTorch {torch}"


def page(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of the documentation."""
    lines = [
        "# What you can rely on",
        "",
        "Each promise has tests that try to break it. The figures are of their last run, which",
        "`python experiments/reliability/run.py --again` repeats. The command under a promise runs its tests alone.",
        "",
    ]
    for name, promise in PROMISES.items():
        if (found := figures.get(name)) is None:
            continue
        said = promise.figures.format_map({**found["figures"], "tests": int(found["figures"]["tests"])})
        lines += [f"## {promise.title}", "", *wrapped(promise.text), "", *wrapped(f"**{said}** {found['on']}."), ""]
        lines += ["```bash", f"pytest {PARALLEL} {promise.tests}   # {found['minutes']:g} minutes", "```", ""]
    return "\n".join(lines)


def wrapped(text: str) -> list[str]:
    """Lines of a paragraph."""
    return textwrap.wrap(" ".join(text.split()), 120, break_on_hyphens=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="run what has figures, too")
    parser.add_argument("--only", nargs="+", choices=PROMISES, default=list(PROMISES), metavar="PROMISE")
    arguments = parser.parse_args()
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for name in arguments.only:
        if arguments.again or name not in figures:
            figures.pop(name, None)  # figures of tests that fail now are of no use
            write(figures)
            figures[name] = measure(PROMISES[name])
        write(figures)


def write(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Write figures and page, which belong together."""
    FIGURES.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
