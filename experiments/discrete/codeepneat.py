"""CoDeepNEAT against random networks of the same kind, and regularised evolution, with as many evaluations.

    python experiments/discrete/codeepneat.py run digits --seeds 0 1 2
    ONESHOT_DATA=... python experiments/discrete/codeepneat.py run cifar10 --seeds 0 1 2
    python experiments/discrete/codeepneat.py report            # codeepneat.json, codeepneat.png, tables for README.md

A search is a study in a folder below --out, so the same command goes on where it was stopped, and with more
--evaluations it goes on from there. All searches of a seed see the same images. Networks are compared by validation
images; at the end, test images are used once on the best network, and once more after training it from new weights.
Regularised evolution needs genes, so it searches another space: CGP-CNN's grid with the same kernels.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import morphing  # the script beside this one; it also finds the package where it is not installed
import numpy as np
import torch
from matplotlib.figure import Figure

from oneshot.data import VisionData
from oneshot.discrete import (
    CGPSpace,
    CoDeepNEAT,
    Evaluator,
    NEATSettings,
    Proposal,
    RandomAssemblies,
    RegularizedEvolution,
    SearchStrategy,
    Study,
    TrainingEvaluator,
)
from oneshot.report.style import save_figure
from oneshot.storage.files import write_atomically

FOLDER = Path(__file__).parent
STRATEGIES = {"CoDeepNEAT": "#D55E00", "RandomAssemblies": "#767676", "RegularizedEvolution": "#0072B2"}


@dataclass(frozen=True)
class Task:
    """What a data set needs.

    Args:
        filters: The least and the most filters of a layer.
        max_params: Most parameters of an assembled network.
        generation: Networks in a generation; also the population of regularised evolution.
        epochs: Training of every network.
        evaluations: Networks of a search.
        scratch: Epochs in which the best architecture is trained from new weights at the end.
    """

    filters: tuple[int, int]
    max_params: int
    generation: int
    epochs: int
    evaluations: int
    scratch: int


TASKS = {
    "digits": Task((4, 32), 50_000, generation=12, epochs=3, evaluations=60, scratch=20),
    "cifar10": Task((8, 48), 100_000, generation=15, epochs=4, evaluations=90, scratch=16),
}


class Timed(Evaluator):
    """Another evaluator, with the CPU seconds that it took."""

    def __init__(self, inner: TrainingEvaluator) -> None:
        self.inner, self.space = inner, inner.space

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*self.inner.metrics, "cpu_seconds")

    def __call__(self, proposal: Proposal) -> Mapping[str, float]:
        start = time.process_time()
        found = self.inner(proposal)
        return {**found, "cpu_seconds": time.process_time() - start}


def make_search(
    name: str, task: Task, data: VisionData, folder: Path, seed: int
) -> tuple[SearchStrategy, TrainingEvaluator]:
    shape, classes = data.input_shape, data.num_classes
    if name == "RegularizedEvolution":
        filters = [task.filters[0]]
        while 2 * filters[-1] <= task.filters[1]:
            filters.append(2 * filters[-1])
        space = CGPSpace(rows=3, columns=6, levels_back=3, channels=tuple(filters), kernels=(1, 3), input_shape=shape)
        evaluator = TrainingEvaluator(data, folder, build=space.network(shape, classes), epochs=task.epochs, seed=seed)
        return RegularizedEvolution(space, population=task.generation, sample=4, seed=seed), evaluator
    evaluator = TrainingEvaluator(data, folder, epochs=task.epochs, seed=seed)
    same: dict[str, Any] = {"filters": task.filters, "grow": 3, "max_params": task.max_params, "seed": seed}
    if name == "RandomAssemblies":
        return RandomAssemblies(shape, classes, species=3, **same), evaluator
    sizes = {"blueprints": task.generation // 2, "modules": task.generation, "networks": task.generation}
    return CoDeepNEAT(shape, classes, **sizes, **same, neat=NEATSettings(species=3)), evaluator


def search(name: str, strategy: str, seed: int, evaluations: int, out: Path) -> None:
    """Search; then, once, test the best network, and train its architecture from new weights."""
    task, folder = TASKS[name], out / f"{name}-{strategy}-{seed}"
    done = folder / "result.json"
    if done.exists() and json.loads(done.read_text(encoding="utf-8"))["evaluations"] >= evaluations:
        return
    data, test = morphing.make_data(name, seed)
    searched, evaluator = make_search(strategy, task, data, folder / "weights", seed)
    study = Study(searched, Timed(evaluator), ["min error", "min params"], folder=folder, evaluations=evaluations)
    study.run()
    best = study.best.proposal
    with TemporaryDirectory() as scratch:
        again = TrainingEvaluator(data, scratch, build=evaluator.build, epochs=task.scratch, seed=seed)
        again(Proposal(0, best.config))
        test_error = morphing.error_of(again.load(0), data, test)
    rows = [
        {key: round(record.result.metrics[key], 4) for key in ("error", "params", "macs", "cpu_seconds")}
        for record in study.evaluated
        if record.result.values is not None
    ]
    result = {
        "data": name,
        "strategy": strategy,
        "seed": seed,
        "evaluations": evaluations,
        "failed": len(study.evaluated) - len(rows),
        "rows": rows,
        "best": {
            "number": best.number,
            "error": study.best.result.metrics["error"],
            "params": study.best.result.metrics["params"],
            "test_error": morphing.error_of(evaluator.load(best.number), data, test),
            "test_error_from_scratch": test_error,
            "architecture": best.config.to_dict(),
        },
    }
    write_atomically(done, json.dumps(result))
    print(f"{folder.name}: {100 * result['best']['error']:.1f} % on validation images", flush=True)  # type: ignore[index]


# Results.


def best_so_far(run: Mapping[str, Any]) -> list[float]:
    """The least validation error after every evaluation, in percent."""
    return [100 * float(x) for x in np.minimum.accumulate([row["error"] for row in run["rows"]])]


def tables(runs: Sequence[Mapping[str, Any]]) -> str:
    heads = ("search", "seeds", "evaluations", "best validation error, %", "median of the first third, %")
    heads += ("median of the last third, %", "test error, %", "trained from scratch, %", "parameters", "CPU minutes")
    lines = []
    for name in TASKS:
        if not any(run["data"] == name for run in runs):
            continue
        lines += ["", name, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for strategy in STRATEGIES:
            of = [run for run in runs if (run["data"], run["strategy"]) == (name, strategy)]
            if not of:
                continue
            errors = [[100 * row["error"] for row in run["rows"]] for run in of]
            best = [run["best"] for run in of]
            cells = [
                strategy,
                str(len(of)),
                str(min(run["evaluations"] for run in of)),
                morphing.mean([100 * found["error"] for found in best], 1),
                morphing.mean([float(np.median(row[: len(row) // 3])) for row in errors], 1),
                morphing.mean([float(np.median(row[-(len(row) // 3) :])) for row in errors], 1),
                morphing.mean([100 * found["test_error"] for found in best], 1),
                morphing.mean([100 * found["test_error_from_scratch"] for found in best], 1),
                morphing.mean([found["params"] for found in best], 0),
                morphing.mean([sum(row["cpu_seconds"] for row in run["rows"]) / 60 for run in of], 1),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """The best validation error so far: mean (line), least and largest (band) of the seeds."""
    names = [name for name in TASKS if any(run["data"] == name for run in runs)]
    figure = Figure(figsize=(1 + 5.2 * len(names), 4), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for strategy, colour in STRATEGIES.items():
            of = [run for run in runs if (run["data"], run["strategy"]) == (name, strategy)]
            if not of:
                continue
            length = min(len(run["rows"]) for run in of)
            lines = np.array([best_so_far(run)[:length] for run in of])
            x = np.arange(1, length + 1)
            axis.plot(x, lines.mean(0), color=colour, label=f"{strategy} (seeds: {len(of)})")
            axis.fill_between(x, lines.min(0), lines.max(0), color=colour, alpha=0.15, lw=0)
        axis.set(title=name, xlabel="evaluations", ylabel="best validation error so far, %", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.grid(alpha=0.25, which="both")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def report(out: Path, to: Path) -> None:
    """Write all results there are below ``out``, and those of other searches that were written before."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/result.json"))]
    if not found:
        raise SystemExit(f"There are no results in {out}; run the searches first.")
    kept = to / "codeepneat.json"
    known = json.loads(kept.read_text(encoding="utf-8"))["runs"] if kept.is_file() else []
    every = {(run["data"], run["strategy"], run["seed"]): run for run in (*known, *found)}
    order = {name: i for i, name in enumerate((*TASKS, *STRATEGIES))}
    runs = [every[key] for key in sorted(every, key=lambda key: (order[key[0]], order[key[1]], key[2]))]
    content = {
        "settings": {name: asdict(task) for name, task in TASKS.items()},
        "machine": {"processor": platform.machine(), "threads": 1},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "runs": runs,
    }
    write_atomically(to / "codeepneat.json", json.dumps(content, separators=(",", ":")))
    print(tables(runs))
    save_figure(draw(runs), to / "codeepneat.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/codeepneat"), help="where studies and results are")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="search")
    run.add_argument("data", choices=list(TASKS))
    run.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    run.add_argument("--seeds", nargs="+", type=int, default=[0])
    run.add_argument("--evaluations", type=int, help="networks of a search")
    write = commands.add_parser("report", help="collect what is there")
    write.add_argument("--to", type=Path, default=FOLDER)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.command == "report":
        report(args.out, args.to)
        return
    for seed in args.seeds:
        for strategy in args.strategies:
            search(args.data, strategy, seed, args.evaluations or TASKS[args.data].evaluations, args.out)


if __name__ == "__main__":
    main()
