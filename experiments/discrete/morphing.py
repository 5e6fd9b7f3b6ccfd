"""NASH and LEMONADE from a trivial network, against random graphs with as much training.

    python experiments/discrete/morphing.py run digits --seeds 0 1 2
    ONESHOT_DATA=... python experiments/discrete/morphing.py run cifar10 --seeds 0 1 2
    python experiments/discrete/morphing.py netadapt --seeds 0 1 2
    python experiments/discrete/morphing.py report            # morphing.json, morphing.png, tables for README.md

Every search has one budget: CPU seconds that its evaluations take, on one thread, with everything in them (building and
morphing, distillation, training, validation). All see the same images. A search is a study in a folder below --out, so
the same command goes on where it was stopped, and with a larger --budget it goes on from there. Networks are compared
by validation images; test images are used when the budget is spent, on the networks of the front only.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "compare")]

import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from packed_cifar10 import PackedCIFAR10, data_folder  # noqa: E402

from oneshot.cost.counting.network import count  # noqa: E402
from oneshot.data import Digits, VisionData  # noqa: E402
from oneshot.data.images import ImageSet  # noqa: E402
from oneshot.discrete import (  # noqa: E402
    LEMONADE,
    NASH,
    Evaluator,
    GraphNetwork,
    NetAdapt,
    Proposal,
    RandomGraphs,
    SearchStrategy,
    Study,
    TrainingEvaluator,
    plain_graph,
)
from oneshot.discrete.graphs.morphism import NASH_OPERATORS  # noqa: E402
from oneshot.discrete.record import Record  # noqa: E402
from oneshot.evaluation.images import joined  # noqa: E402
from oneshot.fronts.pareto import hypervolume  # noqa: E402
from oneshot.report.style import save_figure  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import SubnetConfig  # noqa: E402

FOLDER = Path(__file__).parent
STRATEGIES = ("NASH", "LEMONADE", "RandomGraphs")
COLOURS = dict(zip(STRATEGIES, ("#0072B2", "#D55E00", "#767676"), strict=True))
TEST_IMAGES = 5_000  # of CIFAR-10


@dataclass(frozen=True)
class Task:
    """What a data set needs.

    Args:
        start: Filters of the plain network that all begin with.
        max_params: Most parameters of a network.
        long: Epochs of networks that begin with new weights: the start, and all random graphs.
        short: Epochs of children.
        batch_size: Images in a batch.
        worst: Error of the reference point; the other coordinate is ``max_params``.
        budget: CPU seconds of a search.
        scratch: Epochs in which the best architecture of a search is trained from scratch at the end.
    """

    start: tuple[int, ...]
    max_params: int
    long: int
    short: int
    batch_size: int
    worst: float
    budget: float
    scratch: int


TASKS = {
    "digits": Task((4, 8), 50_000, long=12, short=3, batch_size=32, worst=0.5, budget=45, scratch=24),
    "cifar10": Task((8, 16, 16), 40_000, long=8, short=2, batch_size=64, worst=0.8, budget=150, scratch=16),
}


class Timed(Evaluator):
    """Another evaluator, with the CPU seconds that it took."""

    def __init__(self, inner: TrainingEvaluator) -> None:
        self.inner = inner

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*self.inner.metrics, "cpu_seconds")

    def __call__(self, proposal: Proposal) -> Mapping[str, float]:
        start = time.process_time()
        found = self.inner(proposal)
        return {**found, "cpu_seconds": time.process_time() - start}


@cache
def make_data(name: str, seed: int) -> tuple[VisionData, ImageSet]:
    """Images to train and validate with (the split depends on the seed), and those for the test."""
    options: dict[str, Any] = {"val_fraction": 0.2, "batch_size": TASKS[name].batch_size, "seed": seed}
    if name == "digits":
        digits = Digits(**options)
        return digits, digits.test_images
    data = PackedCIFAR10(data_folder(), image_size=16, images=4_000, **options)
    test = PackedCIFAR10(data_folder(), image_size=16, images=5 * TEST_IMAGES).load("test")
    assert test is not None
    return data, test


def make_strategy(name: str, task: Task, data: VisionData, seed: int) -> SearchStrategy:
    start, shape, classes = plain_graph(task.start), data.input_shape, data.num_classes
    if name == "NASH":  # climbs until the budget is spent, so there is no last training
        steps = {"start_epochs": task.long, "epochs": task.short, "steps": 10_000, "final_epochs": 0}
        return NASH(start, shape, classes, **steps, max_params=task.max_params, seed=seed)
    if name == "LEMONADE":
        epochs = {"start_epochs": task.long, "epochs": task.short}
        return LEMONADE(start, shape, classes, **epochs, max_params=task.max_params, seed=seed)
    # Growing operators only: with those that shrink, random walks stay at a few hundred parameters.
    return RandomGraphs(start, shape, classes, operators=NASH_OPERATORS, max_params=task.max_params, seed=seed)


def error_of(network: torch.nn.Module, data: VisionData, images: ImageSet) -> float:
    x, y = joined(data.eval_loader(images))
    with torch.no_grad():
        wrong = torch.cat([network.eval()(part).argmax(1) for part in x.split(500)]) != y
    return float(wrong.float().mean())


def spent(records: Sequence[Record]) -> float:
    return sum(record.result.metrics.get("cpu_seconds", 0.0) for record in records)


def search(name: str, strategy: str, seed: int, budget: float, out: Path) -> None:
    """Search until the budget is spent; then, once, test the front."""
    task, folder = TASKS[name], out / f"{name}-{strategy}-{seed}"
    done = folder / "result.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8"))["budget"] >= budget:
        return
    data, test = make_data(name, seed)
    epochs = task.short if strategy != "RandomGraphs" else task.long
    inner = TrainingEvaluator(data, folder / "weights", epochs=epochs, seed=seed)
    study = Study(
        make_strategy(strategy, task, data, seed),
        Timed(inner),
        ["min error", "min params"],
        folder=folder,
        evaluations=1,
    )
    while spent(study.evaluated) < budget:
        before = len(study.evaluated)
        study.evaluations = before + 1
        study.run()
        if len(study.evaluated) == before:
            break
        metrics = study.evaluated[-1].result.metrics
        print(
            f"{folder.name} {before}: {metrics}, {spent(study.evaluated):.0f} of {budget:g} s, at "
            f"{study.evaluated[-1].at:.0f} s",
            flush=True,
        )
    images, lineage = len(data.train_images), dict[int, float]()
    rows = []
    for record in study.evaluated:
        if record.result.values is None:
            rows.append({"failure": record.result.failure})
            continue
        proposal, metrics = record.proposal, record.result.metrics
        own = proposal.fidelity or epochs
        lineage[proposal.number] = own + (lineage[proposal.parent] if proposal.parent is not None else 0)
        rows.append(
            {
                "number": proposal.number,
                "parent": proposal.parent,
                "operators": [step["operator"] for step in proposal.trace],
                "epochs": own,
                "epochs_with_ancestors": lineage[proposal.number],
                **{key: round(value, 4) for key, value in metrics.items() if key != "accuracy"},
                "image_gmacs": round(own * images * metrics["macs"] / 1e9, 2),
            }
        )
    front = []
    for record in study.front():
        number = record.proposal.number
        error = error_of(inner.load(number), data, test)
        front.append({"number": number, **_of(record), "test_error": error, "epochs": lineage[number]})
    best = min(study.front(), key=lambda record: record.result.metrics["error"]).proposal
    scratch = _from_scratch(best.config, task.scratch, data, test, seed)
    result = {
        "data": name,
        "strategy": strategy,
        "seed": seed,
        "budget": budget,
        "evaluations": rows,
        "front": front,
        "best": {"number": best.number, "config": best.config.to_dict(), "scratch": scratch},
    }
    write_atomically(done, json.dumps(result))


def _of(record: Record) -> dict[str, float]:
    return {"error": record.result.metrics["error"], "params": record.result.metrics["params"]}


def _from_scratch(config: SubnetConfig, epochs: int, data: VisionData, test: ImageSet, seed: int) -> dict[str, float]:
    """Errors of an architecture that is trained from new weights."""
    with TemporaryDirectory() as folder:
        evaluator = TrainingEvaluator(data, folder, epochs=epochs, seed=seed)
        error = evaluator(Proposal(0, config))["error"]
        return {"epochs": epochs, "error": error, "test_error": error_of(evaluator.load(0), data, test)}


def netadapt(seed: int, out: Path) -> None:
    """Prune a trained network to half of its MACs."""
    done = out / f"netadapt-{seed}.json"
    if done.exists():
        return
    (data, test), start = make_data("digits", seed), plain_graph((16, 32, 32))
    before = count(GraphNetwork.from_graph(start, data.input_shape, data.num_classes), data.input_shape).macs
    with TemporaryDirectory() as folder:
        inner = TrainingEvaluator(data, folder, seed=seed)
        strategy = NetAdapt(start, data.input_shape, data.num_classes, target=before / 2, seed=seed)
        study = Study(strategy, Timed(inner), ["min error"], evaluations=10_000).run()
        first, last = study.records[0], study.records[-1]
        assert strategy.current is not None
        pruned = next(r for r in study.records if r.proposal.number == last.proposal.parent)

        def row(record: Record, epochs: int) -> dict[str, float]:
            test_error = error_of(inner.load(record.proposal.number), data, test)
            macs = record.result.metrics["macs"]
            return {**_of(record), "macs": macs, "test_error": test_error, "epochs": epochs}

        steps, record = 0, pruned
        while record.proposal.parent is not None:
            record, steps = next(r for r in study.records if r.proposal.number == record.proposal.parent), steps + 1
        rows = {"start": row(first, 20), "pruned": row(pruned, 20 + steps), "trained on": row(last, 40 + steps)}
        rows["start, trained from scratch"] = _from_scratch(first.proposal.config, 40 + steps, data, test, seed)
        rows["pruned, trained from scratch"] = _from_scratch(last.proposal.config, 40 + steps, data, test, seed)
        seconds = spent(study.evaluated)
    result = {"seed": seed, "rows": rows, "steps": steps, "evaluations": len(study.evaluated), "cpu_seconds": seconds}
    result["graph"] = [pick for pick in last.proposal.config["nodes"] if "channels" in str(pick)]
    write_atomically(done, json.dumps(result))


# Results.


def volume(points: Sequence[Mapping[str, Any]], task: Task, key: str = "error") -> float:
    """Hypervolume of error and decades of parameters."""
    values = [[point[key], math.log10(point["params"])] for point in points if "params" in point]
    return hypervolume(values, [task.worst, math.log10(task.max_params)]) if values else 0.0


def trajectory(run: Mapping[str, Any], task: Task, grid: Sequence[float]) -> list[float]:
    """Hypervolume of the validation errors after so many CPU seconds."""
    seconds = np.cumsum([row.get("cpu_seconds", 0.0) for row in run["evaluations"]])
    return [volume(run["evaluations"][: int(np.searchsorted(seconds, at, "right"))], task) for at in grid]


def mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def tables(runs: Sequence[Mapping[str, Any]], adapted: Sequence[Mapping[str, Any]]) -> str:
    heads = ("search", "trainings", "epochs", "image-TMACs", "hypervolume", "of the test errors", "validation error, %")
    heads += ("test error, %", "parameters", "its epochs, with ancestors", "test error from scratch, %")
    lines = []
    for name, task in TASKS.items():
        if not any(run["data"] == name for run in runs):
            continue
        lines += ["", name, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for strategy in STRATEGIES:
            of = [run for run in runs if (run["data"], run["strategy"]) == (name, strategy)]
            if not of:
                continue
            best = [min(run["front"], key=lambda point: point["error"]) for run in of]

            def total(key: str, of: Sequence[Mapping[str, Any]] = of) -> list[float]:
                return [sum(row.get(key, 0) for row in run["evaluations"]) for run in of]

            cells = [
                strategy,
                mean([len(run["evaluations"]) for run in of], 0),
                mean(total("epochs"), 0),
                mean([gmacs / 1000 for gmacs in total("image_gmacs")], 2),
                mean([volume(run["front"], task) for run in of], 3),
                mean([volume(run["front"], task, "test_error") for run in of], 3),
                mean([100 * point["error"] for point in best], 1),
                mean([100 * point["test_error"] for point in best], 1),
                mean([point["params"] for point in best], 0),
                mean([point["epochs"] for point in best], 0),
                mean([100 * run["best"]["scratch"]["test_error"] for run in of], 1),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    if adapted:
        heads = ("network", "MMACs", "parameters", "epochs", "validation error, %", "test error, %")
        lines += ["", "NetAdapt", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for name in adapted[0]["rows"]:
            like = {"start, trained from scratch": "start", "pruned, trained from scratch": "pruned"}.get(name, name)
            of = [run["rows"][name] for run in adapted]
            sizes = [run["rows"][like] for run in adapted]
            cells = [name, mean([size["macs"] / 1e6 for size in sizes], 3), mean([s["params"] for s in sizes], 0)]
            cells += [mean([row["epochs"] for row in of], 0)]
            cells += [mean([100 * row[key] for row in of], 1) for key in ("error", "test_error")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Above, fronts of validation errors (lines, one a seed) and their test errors (dots); below, hypervolumes."""
    names = [name for name in TASKS if any(run["data"] == name for run in runs)]
    figure = Figure(figsize=(1 + 5.2 * len(names), 8), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        upper, lower = axes[:, column]
        task = TASKS[name]
        for strategy in STRATEGIES:
            of = [run for run in runs if (run["data"], run["strategy"]) == (name, strategy)]
            for i, run in enumerate(of):
                front = sorted(run["front"], key=lambda point: point["params"])
                x = [point["params"] for point in front]
                ends = [*x, task.max_params]
                y = [100 * point["error"] for point in front]
                upper.step(
                    ends, [*y, y[-1]], where="post", color=COLOURS[strategy], lw=1.2, label="" if i else strategy
                )
                test = [100 * point["test_error"] for point in front]
                upper.scatter(x, test, s=14, color=COLOURS[strategy], alpha=0.6, linewidths=0, zorder=3)
            if of:
                grid = np.linspace(0, min(run["budget"] for run in of), 200)
                lines = np.array([trajectory(run, task, list(grid)) for run in of])
                lower.plot(grid, lines.mean(0), color=COLOURS[strategy], label=strategy)
                if len(of) > 1:
                    lower.fill_between(grid, lines.min(0), lines.max(0), color=COLOURS[strategy], alpha=0.15, lw=0)
        upper.set_xscale("log")
        upper.set_ylim(0 if name == "digits" else None, 100 * task.worst)
        upper.set_title(f"{name}: fronts (lines: validation, dots: test)")
        upper.set_xlabel("parameters")
        upper.set_ylabel("error, %")
        lower.set_title(f"{name}: hypervolume of validation errors")
        lower.set_xlabel("CPU seconds of evaluations")
        lower.set_ylabel("error x decades of parameters")
        for axis in (upper, lower):
            _plain(axis)
    return figure


def _plain(axis: Axes) -> None:
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def report(out: Path, to: Path) -> None:
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/result.json"))]
    adapted = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("netadapt-*.json"))]
    if not runs and not adapted:
        raise SystemExit(f"There are no results in {out}; run the searches first.")
    content = {
        "settings": {name: asdict(task) for name, task in TASKS.items()},
        "machine": {"processor": platform.machine(), "threads": 1},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "runs": runs,
        "netadapt": adapted,
    }
    write_atomically(to / "morphing.json", json.dumps(content, indent=None, separators=(",", ":")))
    print(tables(runs, adapted))
    if runs:
        save_figure(draw(runs), to / "morphing.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/morphing"), help="where studies and results are")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="search")
    run.add_argument("data", choices=list(TASKS))
    run.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    run.add_argument("--seeds", nargs="+", type=int, default=[0])
    run.add_argument("--budget", type=float, help="CPU seconds of a search")
    prune = commands.add_parser("netadapt", help="prune a trained network to half of its MACs")
    prune.add_argument("--seeds", nargs="+", type=int, default=[0])
    write = commands.add_parser("report", help="collect what is there")
    write.add_argument("--to", type=Path, default=FOLDER)
    args = parser.parse_args()
    torch.set_num_threads(1)
    matplotlib.use("agg")
    if args.command == "report":
        report(args.out, args.to)
    elif args.command == "netadapt":
        for seed in args.seeds:
            netadapt(seed, args.out)
    else:
        for seed in args.seeds:
            for strategy in args.strategies:
                search(args.data, strategy, seed, args.budget or TASKS[args.data].budget, args.out)


if __name__ == "__main__":
    main()
