"""What the benchmarks have measured over time: history/history.jsonl, a page with a table, and a picture.

    python experiments/benchmarks/history.py            # adds the results that lie here, and writes the page
    python experiments/benchmarks/history.py --git      # adds all results that were ever committed, first

`make bench` does the first after its benchmarks. A figure is a ratio of two sides that took turns in one run, such as
the speed of a search step against that of the textbook network, so machines of different speed can stand in one line.
Results that say the same as the last ones of their benchmark are not added again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from oneshot.report.style import save_figure
from oneshot.storage.files import write_atomically

HERE = Path(__file__).parent
Figures = dict[str, float]


def _search_step(found: Any) -> Figures:
    figures = {}
    for row in found["results"]:
        name = f"{row.get('space', 'darts')}, order {row['order']}"
        if "speedup_median" in row:  # the first results had one space and one side
            speed, memory = row["speedup_median"], row["memory_ratio"]
        else:
            speed, memory = row["speedup"]["oneshot"]["median"], row["memory_ratio"]["oneshot"]
        figures[f"{name}: speed of a step, textbook = 1"] = speed
        figures[f"{name}: memory of a step, textbook = 1"] = memory
    return figures


def _tables(found: Any) -> Figures:
    return {
        f"{row['space']}: architectures a second, counted one by one = 1": row["times_faster"]["macs"]["median"]
        for row in found["results"]
    }


def _front(found: Any) -> Figures:
    return {
        f"predictor {row['predictor']}: speed of a generation, one network at a time = 1": row["times_faster"]["median"]
        for row in found["results"]
    }


def _tricks(found: Any) -> Figures:
    names = {"darts": "DARTS", "nasbench201": "NAS-Bench-201"}
    rows = found["results"]
    return {f"{names[row['space']]}, {row['trick']}: time of a step without, with = 1": row["ratio"] for row in rows}


def _layout(found: Any) -> Figures:
    return {f"{name}: speed in channels-last, usual = 1": row["ratio"] for name, row in found["networks"].items()}


def _busy(found: Any) -> Figures:
    return {
        f"{row['busy processes']} busy processes, {row['way']}: speed, default = 1": row["times faster"]
        for row in found["results"]
        if row["way"] != "default"
    }


def _input(found: Any) -> Figures:
    return {f"{row['workers']} workers: images a second, torchvision = 1": row["ratio"] for row in found["results"]}


def _start(found: Any) -> Figures:
    """Of the slowest command, since that is what a user may meet; a start is measured only where it was asked for."""
    commands, torch = found["commands"], found["imports"]["torch"]
    figures = {"an error of the slowest command, its help = 1": max(row["error"] / row["help"] for row in commands)}
    starts = [row["start"] for row in commands if row["start"] is not None]
    return figures | ({"the slowest start, import of torch = 1": max(starts) / torch} if starts and torch else {})


BENCHMARKS: dict[str, tuple[str, Callable[[Any], Figures]]] = {
    "search_step_cpu.json": ("A step of a search", _search_step),
    "tricks_cpu.json": ("What each way of saving time in a step of a search buys", _tricks),
    "training_layout_cpu.json": ("A step of a training", _layout),
    "pareto_search_cpu.json": ("The search for a front over predictions", _front),
    "cost_tables_cpu.json": ("Costs from tables", _tables),
    "converted_costs_cpu.json": ("Costs of converted networks", _tables),
    "busy_machine_cpu.json": ("Beside other programs", _busy),
    "input_cpu.json": ("Images from files", _input),
    "command_start_cpu.json": ("Start of commands", _start),
}


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def rounded(value: float) -> float:
    """Three digits, since the spread of a benchmark is larger."""
    return float(f"{value:.3g}")


def results_in_git(name: str) -> Iterator[tuple[str, str, Any]]:
    """Date, commit and content of every version of a file of results, the earliest first."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout

    lines = git("log", "--reverse", "--diff-filter=AM", "--format=%h %as", "--", name).splitlines()
    for commit, day in (line.split() for line in lines):
        yield day, commit, json.loads(git("show", f"{commit}:./{name}"))


def add(rows: list[dict[str, Any]], name: str, day: str, commit: str | None, found: Any) -> None:
    """Append the figures of a file of results, if they are not those of its last row."""
    figures = {key: rounded(value) for key, value in BENCHMARKS[name][1](found).items()}
    last = [row for row in rows if row["benchmark"] == name][-1:]
    if figures and [row["figures"] for row in last] != [figures]:
        machine = found.get("processor") or found.get("hardware") or found.get("machine", "not said")
        torch = {"torch": found["torch"]} if "torch" in found else {}
        rows.append({"benchmark": name, "date": day, "commit": commit, "machine": machine, **torch, "figures": figures})


def page(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "# Benchmarks over time",
        "",
        "`make bench` runs the benchmarks, adds their figures to `history.jsonl`, and writes this page. Figures are",
        "ratios of two sides that took turns in one run, so machines of different speed can be compared. Their spread,",
        "often 10 to 20 %, is in the files of results: a smaller change is noise.",
        "",
        "![Figures over time](history.png)",
    ]
    for name, (title, _) in BENCHMARKS.items():
        own = [row for row in rows if row["benchmark"] == name]
        if not own:
            continue
        days = [row["date"] for row in own]
        runs = f"{len(own)} runs, {days[0]} to {days[-1]}" if len(own) > 1 else f"one run, {days[0]}"
        lines += ["", f"## {title}", "", f"`{name.removesuffix('_cpu.json')}.py`, {runs}.", ""]
        lines += ["| figure | first | before | last | last / first |", "|---|---:|---:|---:|---:|"]
        for figure in own[-1]["figures"]:
            values = [row["figures"][figure] for row in own if figure in row["figures"]]
            before = shown(values[-2]) if len(values) > 1 else "–"
            change = f"{values[-1] / values[0]:.2f}"
            lines.append(f"| {figure} | {shown(values[0])} | {before} | {shown(values[-1])} | {change} |")
    return "\n".join(lines) + "\n"


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A panel for each benchmark with more than one run: its figures relative to their first values."""
    panels = [name for name in BENCHMARKS if sum(row["benchmark"] == name for row in rows) > 1]
    figure = Figure(figsize=(5 * max(1, len(panels)), 4.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels, strict=False):
        own = [row for row in rows if row["benchmark"] == name]
        for key in own[-1]["figures"]:
            points = [(i, row["figures"][key]) for i, row in enumerate(own) if key in row["figures"]]
            axes.plot(
                [i for i, _ in points],
                [value / points[0][1] for _, value in points],
                marker="o",
                label=key.rpartition(",")[0],
            )
        axes.set_xticks(range(len(own)), [f"{row['date'][5:]}\n{row['commit'] or ''}" for row in own])
        axes.set(title=BENCHMARKS[name][0], ylabel="relative to the first run")
        axes.axhline(1, color="#BBBBBB", zorder=0)
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    save_figure(figure, path)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE, help="folder of the files of results")
    parser.add_argument("--out", type=Path, default=HERE / "history")
    parser.add_argument("--git", action="store_true", help="add all results that were committed")
    given = parser.parse_args(words)
    file = given.out / "history.jsonl"
    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    rows: list[dict[str, Any]] = [] if given.git else kept
    for name in BENCHMARKS:
        for day, commit, found in results_in_git(name) if given.git else ():
            add(rows, name, day, commit, found)
        if (path := given.results / name).is_file():
            add(rows, name, date.today().isoformat(), None, json.loads(path.read_text(encoding="utf-8")))
    there = [(row["benchmark"], row["figures"]) for row in rows]
    rows += [row for row in kept if given.git and (row["benchmark"], row["figures"]) not in there]
    given.out.mkdir(parents=True, exist_ok=True)
    rows.sort(key=lambda row: str(row["date"]))  # stable: runs of a day stay in their order
    write_atomically(file, "".join(json.dumps(row) + "\n" for row in rows))
    write_atomically(given.out / "README.md", page(rows))
    picture(rows, given.out / "history.png")


if __name__ == "__main__":
    main()
