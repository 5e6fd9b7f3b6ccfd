"""One table and one picture for each data set of results.json: accuracy against measured latency.

    python experiments/transfer/table.py [--results FILE] [--size 64] [--out FOLDER]

Writes table.md and DATA.png. The accuracy is that of the test images: mean, and standard deviation (N - 1) over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from matplotlib.figure import Figure  # noqa: E402
from rows import Rows  # noqa: E402

from oneshot.report.style import plain_axes, save_figure  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402

COLOURS = {
    "probe": "#777777",
    "original": "#000000",
    "nat": "#d55e00",
    "uniform": "#0072b2",
    "scratch": "#56b4e9",
    "mobilenetv3": "#009e73",
}
MARKERS = {
    "probe": "x",
    "original": "*",
    "nat": "o",
    "uniform": "s",
    "scratch": "^",
    "mobilenetv3": "D",
}

Row = dict[str, Any]


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str, float | None, int], list[Row]]:
    """Rows that differ in the seed only, by data set, side, target and epochs."""
    found: dict[tuple[str, str, float | None, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["data"], row["side"], row["target"], row["epochs"]), []).append(row)
    return found


def spread(values: Sequence[float], factor: float = 1.0, digits: int = 1) -> str:
    """Mean and standard deviation, or one number; empty where there is none."""
    if not values:
        return ""
    mean = f"{factor * statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {factor * statistics.stdev(values):.{digits}f}"


def table(rows: Sequence[Row]) -> str:
    """All networks, a line each."""
    lines = [
        "| data | network | target | epochs | seeds | accuracy % | of the latency | ms | M MACs | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    sides = list(COLOURS)

    def order(item: tuple[tuple[str, str, float | None, int], list[Row]]) -> tuple[Any, ...]:
        (data, side, target, epochs), _ = item
        return data, sides.index(side) if side in sides else len(sides), side, -(target or 1.0), epochs

    for (data, side, target, epochs), same in sorted(grouped(rows).items(), key=order):
        timed = [row for row in same if "ms" in row]
        cells = [
            data,
            side,
            "" if target is None else f"{target:g}",
            str(epochs),
            str(len(same)),
            spread([row["accuracy"] for row in same], 100),
            spread([row["part"] for row in timed], digits=2),
            spread([row["ms"] for row in timed], digits=2),
            spread([row["macs"] / 1e6 for row in same]),
            f"{statistics.mean(row['cpu_seconds'] for row in same):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(rows: Sequence[Row], data: str) -> Figure | None:
    """Accuracy against measured latency of one data set; None where nothing is timed."""
    known = {key: same for key, same in grouped(rows).items() if key[0] == data and any("ms" in row for row in same)}
    if not known:
        return None
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for side in COLOURS:
        points = []
        for (_, own, _, _), same in known.items():
            if own == side:
                timed = [row for row in same if "ms" in row]
                accuracies = [100 * row["accuracy"] for row in timed]
                error = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
                points.append((statistics.mean(row["ms"] for row in timed), statistics.mean(accuracies), error))
        if points:
            x, y, error = zip(*sorted(points), strict=True)
            axes.errorbar(
                x, y, yerror(error), color=COLOURS[side], marker=MARKERS[side], capsize=3, linewidth=1.2, label=side
            )
    axes.set_xlabel("measured latency of one image, ms")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(data.replace("_", " "))
    axes.legend(frameon=False, fontsize=9)
    plain_axes(axes, 10)
    return figure


def yerror(error: Sequence[float]) -> list[float] | None:
    """Bars, where there are any."""
    return list(error) if any(error) else None


def main() -> None:
    """Write the table and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    rows = [row for row in Rows(args.results).rows if row["size"] == args.size]
    if not rows:
        raise SystemExit(f"{args.results} must have rows of {args.size} px; it has none. Run run.py or baseline.py.")
    args.out.mkdir(parents=True, exist_ok=True)
    text = table(rows)
    write_atomically(args.out / "table.md", text)
    sys.stdout.write(text)
    for data in dict.fromkeys(row["data"] for row in rows):
        if (figure := picture(rows, data)) is not None:
            save_figure(figure, args.out / f"{data}.png")


if __name__ == "__main__":
    main()
