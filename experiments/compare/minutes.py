"""What ways of searching NAS-Bench-201 find on CIFAR-10, against the minutes that they take.

    ONESHOT_DATA=... python experiments/compare/minutes.py --studies "short trainings" short-trainings/* \
        --cpu-minutes 40.3 41.2 ...
    ... --studies "short trainings, five longer" runs/longer-trainings/* --cpu-minutes 9 9 ... --after "short trainings"
    python experiments/compare/minutes.py                              # from what is in studies.json

Writes studies.json and minutes.png, and prints the table.

A study is a folder of ``oneshot discrete``, or its log. Its strategy is told the recorded results once more; after each
of them the network that it would take is looked up in the table. ``time`` of the shell says the CPU minutes of a study,
and its clock how they are spread. Methods are those of ``nasbench201-cifar10/runs.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import yaml  # noqa: E402

from oneshot.discrete import GaussianProcess, Proposal, SearchStrategy, WeightedProduct  # noqa: E402
from oneshot.discrete.evaluators.tables import nas_bench_201  # noqa: E402
from oneshot.discrete.protocol import Result  # noqa: E402
from oneshot.report.style import CYCLE, DPI, INK, plain_axes  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import SearchSpace, SubnetConfig  # noqa: E402

METRIC = "cifar10_test_accuracy"
STUDIES, METHODS = HERE / "studies.json", HERE / "nasbench201-cifar10/runs.jsonl"
CONFIGS = {"GaussianProcess": "short_trainings.yaml", "Reevaluation": "longer_trainings.yaml"}
BEST, TOP = 94.3733, 94.5  # of the table, and of the picture
TICKS = (50, 60, 70, 80, 85, 90, 92, 93, 93.5, 94, 94.3)
NAMES = {
    "DARTSPT, fixed alphas": "DARTS-PT, fixed alphas",
    "DARTSPT": "DARTS-PT",
    "SmoothDARTS": "SmoothDARTS (ADV)",
    "RandomSharing": "random search, shared weights",
    "PCDARTS": "PC-DARTS",
    "BetaDARTS": "Beta-DARTS",
    "DARTSMinus": "DARTS-",
    "LambdaDARTS": "Lambda-DARTS",
    "random": "a random architecture",
}


def replay(folder: Path, cpu_minutes: float | None = None, before: float = 0.0) -> dict[str, Any]:
    """Minutes, and what the strategy holds for the best, after every evaluation of a study.

    Args:
        folder: Of the study.
        cpu_minutes: Of the whole study; by default its clock counts.
        before: Minutes of the study that it goes on from.

    Raises:
        ValueError: If the strategy asks for other architectures than those that the study evaluated.
    """
    table = nas_bench_201(Path(os.environ["ONESHOT_DATA"]) / "nats_bench_tss.csv.gz", (METRIC,))
    first, *events = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    config = yaml.safe_load((HERE / CONFIGS[first["strategy"]]).read_text(encoding="utf-8"))
    options = dict(config["strategy"]["init_args"], seed=first["seed"])
    options["scalar"] = WeightedProduct(**options["scalar"]["init_args"])
    if "study" in options:  # a folder that may be gone
        strategy: SearchStrategy = Listed(table.space, events, scalar=options["scalar"])
    else:
        strategy = GaussianProcess(table.space, **options)
    objectives = [text.split() for text in first["objectives"]]
    minutes, accuracies = [], []
    for event in events:
        if event["event"] == "ask":
            (proposal,) = strategy.ask()
            if proposal.config.to_dict() != event["config"]:
                raise ValueError(
                    f"{folder}: evaluation {event['number']} must be of '{proposal.config}'; the log has another "
                    f"architecture. Use the {CONFIGS[first['strategy']]} and the version that wrote the log."
                )
        elif event["event"] == "tell":
            if event["metrics"] is None:
                strategy.tell(Result(event["number"], None, failure=event["failure"]))
                continue
            values = [(-1 if way == "max" else 1) * event["metrics"][metric] for way, metric in objectives]
            strategy.tell(Result(event["number"], tuple(values)))
            minutes.append(event["at"] / 60)
            accuracies.append(table(strategy.best)[METRIC])
    scale = 1.0 if cpu_minutes is None else cpu_minutes / minutes[-1]
    return {
        "seed": options["seed"],
        "minutes": [round(before + value * scale, 3) for value in minutes],
        "accuracy": accuracies,
        "found": strategy.best.config.to_dict()["picks"]["cell"],
    }


class Listed(SearchStrategy):
    """The architectures of a log, in its order."""

    def __init__(self, space: SearchSpace, events: Sequence[Mapping[str, Any]], **options: Any) -> None:
        super().__init__(space, **options)
        self._left = [SubnetConfig.from_dict(event["config"]) for event in events if event["event"] == "ask"]

    def _propose(self) -> Proposal | None:
        return self._new(self.space.encode([self._left.pop(0)])[0]) if self._left else None


def searches() -> dict[str, list[tuple[float, float]]]:
    """``{method: [(CPU minutes, table accuracy) of every seed]}``."""
    found = defaultdict(list)
    _, *lines = METHODS.read_text(encoding="utf-8").splitlines()  # the first one has the settings
    for run in sorted(map(json.loads, lines), key=lambda run: int(run["seed"])):
        name = NAMES.get(run["label"], run["label"])
        found[name].append((run["cpu_seconds"] / 60, run["scores"][METRIC]))
    return dict(found)


def rows(studies: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The table, best mean first."""
    ends = {name: [(run["minutes"][-1], run["accuracy"][-1]) for run in runs] for name, runs in studies.items()}
    everything = {**searches(), **ends}
    lines = [
        "| way of searching | seeds | CPU minutes | test accuracy in the table, % | of each seed |",
        "|---|---|---|---|---|",
    ]
    for name, runs in sorted(everything.items(), key=lambda item: -statistics.fmean(a for _, a in item[1])):
        accuracies, spent = [a for _, a in runs], statistics.fmean(m for m, _ in runs)
        spread = f" ± {statistics.stdev(accuracies):.2f}" if len(runs) > 1 else ""
        cost = f"{spent:.1f}" if spent > 0.05 else "–"
        each = ", ".join(f"{a:.2f}" for a in accuracies)
        lines.append(f"| {name} | {len(runs)} | {cost} | {statistics.fmean(accuracies):.2f}{spread} | {each} |")
    return lines


def draw(studies: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Searches as points, studies as curves: the mean over seeds, with the least and the most."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 5.6), dpi=DPI, facecolor="white", layout="constrained")
    axis = figure.subplots()
    axis.axhline(BEST, color=INK, lw=0.8, ls=":")
    axis.text(0.01, BEST, "best of the table", transform=axis.get_yaxis_transform(), va="bottom", fontsize=8, color=INK)
    for (name, runs), colour in zip(studies.items(), CYCLE, strict=False):
        length = min(len(run["accuracy"]) for run in runs)
        minutes = np.mean([run["minutes"][:length] for run in runs], 0)
        accuracy = np.array([run["accuracy"][:length] for run in runs])
        axis.plot(minutes, accuracy.mean(0), color=colour, lw=2, label=name, zorder=3)
        axis.fill_between(minutes, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.15, lw=0)
    names: list[tuple[float, float, str]] = []
    points = {name: runs for name, runs in searches().items() if name != NAMES["random"]}
    for name, runs in points.items():
        minutes, mean = (statistics.fmean(values) for values in zip(*runs, strict=True))
        axis.plot([m for m, _ in runs], [a for _, a in runs], "o", ms=3, color=INK, alpha=0.25, mew=0)
        axis.plot(minutes, mean, "o", ms=6, color=INK, zorder=4)
        names.append((minutes, mean, name))
    near = 1e-3  # the scale is that of the distance from just above the best
    axis.set_yscale(
        "function",
        functions=(lambda a: -np.log(np.maximum(TOP - a, near)), lambda t: TOP - np.exp(-np.asarray(t))),
    )
    axis.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axis.set(xscale="log", ylim=(50, 94.42), xlabel="CPU minutes of a search", ylabel="CIFAR-10 test accuracy, %")
    axis.set_xlim(0.3, 60)
    axis.set_xticks([0.5, 1, 2, 5, 10, 20, 40], ["0.5", "1", "2", "5", "10", "20", "40"])
    axis.minorticks_off()
    axis.set_title("What a search of NAS-Bench-201 finds", loc="left", fontsize=11, weight="bold", color=INK)
    axis.legend(loc="lower right", frameon=False, fontsize=9)
    plain_axes(axis, 9)
    label(axis, names)
    figure.savefig(HERE / "minutes.png")


def label(axis: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write a name beside each point, right or left of it, or as little higher or lower as no other needs its place."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    axis.figure.draw_without_rendering()
    at = axis.transData.transform([point[:2] for point in points])
    taken = [Bbox([(x - 9, y - 9), (x + 9, y + 9)]) for x, y in at]
    for x, y, name in sorted(points, key=lambda point: -point[1]):
        for up, side in sorted(
            ((up, side) for up in range(-60, 61, 3) for side in (1, -1)), key=lambda way: abs(way[0])
        ):
            text = axis.annotate(
                name,
                (x, y),
                xytext=(9 * side, up),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=8,
                arrowprops={"arrowstyle": "-", "color": INK, "lw": 0.4, "shrinkA": 0, "shrinkB": 3} if up else None,
            )
            text.get_window_extent()  # of the name and its line; puts both in their place
            box = Text.get_window_extent(text)
            if box.x0 > axis.bbox.x0 and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
        else:
            raise ValueError(f"There must be a free place for every name; there is none for {name!r}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--studies", nargs="+", metavar=("NAME", "FOLDER"), help="name of a way, its study of each seed"
    )
    parser.add_argument("--cpu-minutes", type=float, nargs="+", help="of each study")
    parser.add_argument("--after", metavar="NAME", help="way whose studies these go on from, in the same order")
    parsed = parser.parse_args()
    studies = json.loads(STUDIES.read_text(encoding="utf-8")) if STUDIES.is_file() else {}
    if parsed.studies:
        name, *folders = parsed.studies
        spent = parsed.cpu_minutes or [None] * len(folders)
        before = [run["minutes"][-1] for run in studies[parsed.after]] if parsed.after else [0.0] * len(folders)
        studies[name] = [replay(Path(f), *minutes) for f, *minutes in zip(folders, spent, before, strict=True)]
        write_atomically(STUDIES, json.dumps(studies, indent=1) + "\n")
    draw(studies)
    print("\n".join(rows(studies)))


if __name__ == "__main__":
    main()
