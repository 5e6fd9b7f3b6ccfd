"""Regret of all strategies on tables of trained networks, and what asking and telling costs.

    ONESHOT_DATA=... python experiments/discrete/tables.py [--seeds 20] [--evaluations 500] [--tables ...]

Writes tables.json (a row for every table and strategy, as they are finished; ``--plot`` draws them again) and
tables.png. A query is a distinct evaluation. Runs are short, so seeds are run one after the other on one core. Started
again, it goes on: rows with as many seeds and evaluations are kept (``--again`` measures them anew), and of the row
that was under way the seeds that were finished, which are in tables.partial.json until then.

Another file or column of a table, such as another data set: ``--tables NATS-Bench --csv FILE --metric COLUMN``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402

from oneshot.discrete import (  # noqa: E402
    BANANAS,
    NSGA2,
    PPO,
    REINFORCE,
    GaussianProcess,
    GeneticCNN,
    LocalSearch,
    MnasNetScalar,
    NeuralArchitect,
    RandomSearch,
    RegularizedEvolution,
    SearchStrategy,
    Study,
    TabularEvaluator,
    TournamentEvolution,
)
from oneshot.discrete.evaluators.tables import accel_nasbench, nas_bench_201, nas_bench_macro  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import SearchSpace  # noqa: E402

EVERY = 10  # queries between the points of a curve
Build = Callable[[SearchSpace, int], SearchStrategy]
STRATEGIES: dict[str, Build] = {
    "random search": lambda space, seed: RandomSearch(space, seed=seed),
    "local search": lambda space, seed: LocalSearch(space, initial=10, seed=seed),
    "local search, one start": lambda space, seed: LocalSearch(space, seed=seed),
    "local search, full": lambda space, seed: LocalSearch(space, neighbourhood="full", seed=seed),
    "local search, best first": lambda space, seed: LocalSearch(space, initial=20, best_first=True, seed=seed),
    "regularised evolution": lambda space, seed: RegularizedEvolution(space, population=30, sample=10, seed=seed),
    "tournament evolution": lambda space, seed: TournamentEvolution(space, population=30, seed=seed),
    "Genetic CNN": lambda space, seed: GeneticCNN(space, seed=seed),
    "NSGA-II": lambda space, seed: NSGA2(space, seed=seed),
    "REINFORCE": lambda space, seed: REINFORCE.small(space, seed=seed),
    "PPO": lambda space, seed: PPO.small(space, seed=seed),
    "Neural Architect": lambda space, seed: NeuralArchitect(space, seed=seed),
    "BANANAS": lambda space, seed: BANANAS(space, seed=seed),
    "BANANAS, ranks and counts": lambda space, seed: BANANAS(space, targets="ranks", encoding="counts", seed=seed),
    "Gaussian process": lambda space, seed: GaussianProcess(space, seed=seed),
}
COLOURS = ("#767676", "#56B4E9", "#0072B2", "#003f5c", "#D55E00", "#F0A58F", "#E69F00", "#CC79A7", "#882255", "#117733")
COLOURS += ("#44AA99", "#332288", "#999933", "#661100", "#000000")


def data(name: str) -> Path:
    if "ONESHOT_DATA" not in os.environ:
        raise SystemExit(
            "The tables are in the folder that the environment variable ONESHOT_DATA names; it is not set."
        )
    return Path(os.environ["ONESHOT_DATA"]) / name


def accel_reward(path: Path, top1: str) -> TabularEvaluator:
    """MnasNet's reward with the A100's time an image and the median of the table as its target."""
    columns = {top1: top1, "ms": lambda row: 1000 / float(row["a100_img_per_s"])}
    table = accel_nasbench(path, columns)
    reward = MnasNetScalar(float(np.median(table.columns["ms"])))
    values = np.stack([-table.columns[top1] / 100, table.columns["ms"]], 1)
    rewards = np.array([-100 * reward(row) for row in values.tolist()])
    return TabularEvaluator(table.space, table.genes, {"reward": rewards})


# How a table is read from a file and the name of a column, the file, and the column.
TABLES: dict[str, tuple[Callable[[Path, str], TabularEvaluator], str, str]] = {
    "NATS-Bench": (lambda path, column: nas_bench_201(path, [column]), "nats_bench_tss", "cifar10_test_accuracy"),
    "NAS-Bench-Macro": (
        lambda path, column: nas_bench_macro(path, [column]),
        "nas_bench_macro",
        "cifar10_test_accuracy_mean",
    ),
    "Accel-NASBench": (lambda path, column: accel_nasbench(path, [column]), "accel_nasbench", "imagenet_val_top1"),
    "Accel-NASBench, MnasNet reward": (accel_reward, "accel_nasbench", "imagenet_val_top1"),
}


def load(name: str, csv: Path | None, column: str | None) -> tuple[TabularEvaluator, str, str]:
    """A table, its metric, and what it is called in results: by its own name, or with the column too."""
    read, file, usual = TABLES[name]
    table = read(csv or data(f"{file}.csv.gz"), column or usual)
    (metric,) = table.metrics
    other = [*([csv.name] if csv else []), *([column] if column else [])]
    return table, metric, ", ".join([name, *other])


class Timed:
    """CPU seconds that a strategy needs for asking and telling."""

    def __init__(self, strategy: SearchStrategy) -> None:
        self.strategy, self.seconds = strategy, 0.0
        for name in ("ask", "tell"):
            setattr(strategy, name, self.timed(getattr(strategy, name)))

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.process_time()
            try:
                return call(*args)
            finally:
                self.seconds += time.process_time() - start

        return run


def run(table: TabularEvaluator, metric: str, build: Build, seed: int, evaluations: int) -> tuple[np.ndarray, float]:
    """Regret after every query, ``[evaluations]``, and milliseconds a query."""
    timed = Timed(build(table.space, seed))
    study = Study(timed.strategy, table, [f"max {metric}"], evaluations=evaluations, progress=False).run()
    best = -study.trajectory()
    best = np.concatenate([best, np.full(evaluations - len(best), best[-1])])  # it had converged
    return table.columns[metric].max() - best, 1000 * timed.seconds / len(study.evaluated)


def measure(args: argparse.Namespace) -> None:
    out = args.out
    results = json.loads(out.read_text(encoding="utf-8"))["results"] if out.is_file() else []
    queries = list(range(EVERY, args.evaluations + 1, EVERY))
    for own in args.tables:
        table, metric, name = load(own, args.csv, args.metric)
        for strategy in args.strategies:
            same = [r for r in results if (r["table"], r["strategy"]) == (name, strategy)]
            if not args.again and any((r["seeds"], r["queries"]) == (args.seeds, queries) for r in same):
                continue
            partial = out.with_suffix(".partial.json")
            found = runs(table, metric, [name, strategy, args.evaluations], args.seeds, partial)
            regrets = np.stack([regret for regret, _ in found])
            row = {
                "table": name,
                "strategy": strategy,
                "seeds": args.seeds,
                "queries": queries,
                "mean": np.round(regrets.mean(0), 4).tolist(),
                "sem": np.round(regrets.std(0, ddof=args.seeds > 1) / args.seeds**0.5, 4).tolist(),
                "hits": (regrets < 1e-3).sum(0).tolist(),
                "ms_per_query": round(float(np.mean([ms for _, ms in found])), 3),
            }
            results = [r for r in results if r not in same] + [row]
            hardware = f"{platform.machine()}, {os.cpu_count()} cores (others busy), 1 thread"
            write_atomically(out, json.dumps({"hardware": hardware, "results": results}) + "\n")
            partial.unlink(missing_ok=True)
            print(line(row), flush=True)


def runs(
    table: TabularEvaluator, metric: str, what: list[Any], seeds: int, partial: Path
) -> list[tuple[list[float], float]]:
    """Regret every ``EVERY`` queries and milliseconds a query of all seeds; those of an unfinished start are kept."""
    _, strategy, evaluations = what
    kept = json.loads(partial.read_text(encoding="utf-8")) if partial.is_file() else {}
    found = kept["runs"][:seeds] if kept.get("what") == what else []
    for seed in range(len(found), seeds):
        regret, ms = run(table, metric, STRATEGIES[strategy], seed, evaluations)
        found.append((regret[EVERY - 1 :: EVERY].tolist(), ms))
        write_atomically(partial, json.dumps({"what": what, "runs": found}) + "\n")
    return found


def line(row: dict[str, Any]) -> str:
    texts = [f"| {row['table']} | {row['strategy']} | {row['seeds']} |"]
    for queries in (150, 500):
        if queries in row["queries"]:
            at = row["queries"].index(queries)
            texts.append(f" {row['mean'][at]:.3f} ± {row['sem'][at]:.3f} ({row['hits'][at]}) |")
    return "".join([*texts, f" {row['ms_per_query']:.2f} |"])


def plot(out: Path) -> None:
    from matplotlib.figure import Figure

    results = json.loads(out.read_text(encoding="utf-8"))["results"]
    tables = list(dict.fromkeys(row["table"] for row in results))
    figure = Figure(figsize=(4.6 * len(tables), 4.4), layout="constrained")
    for axis, table in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables):
        for name, colour in zip(STRATEGIES, COLOURS):
            for row in results:
                if (row["table"], row["strategy"]) == (table, name):
                    x, mean, sem = (np.array(row[key]) for key in ("queries", "mean", "sem"))
                    axis.plot(x, np.maximum(mean, 1e-3), color=colour, label=name, linewidth=1.4)
                    axis.fill_between(
                        x, np.maximum(mean - sem, 1e-3), np.maximum(mean + sem, 1e-3), color=colour, alpha=0.15
                    )
        axis.set_yscale("log")
        axis.set_title(table, fontsize=10)
        axis.set_xlabel("distinct evaluations")
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    figure.axes[0].set_ylabel("regret [points of the table's metric]")
    lines = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    named = {label: line for of_axes in lines for line, label in of_axes}  # not every strategy is in every table
    figure.legend([*named.values()], [*named], loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(out.with_suffix(".png"), dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--csv", type=Path, help="another file with the columns of the one table that --tables names")
    parser.add_argument("--metric", help="another column of that table, which is maximised")
    parser.add_argument("--out", type=Path, default=HERE / "tables.json")
    parser.add_argument("--again", action="store_true", help="measure anew what there is already")
    parser.add_argument("--plot", action="store_true", help="draw tables.json again")
    args = parser.parse_args()
    if (args.csv or args.metric) and len(args.tables) != 1:
        parser.error("--csv and --metric are of one table; name it with --tables, for example --tables NATS-Bench.")
    if not args.plot:
        measure(args)
    plot(args.out)


if __name__ == "__main__":
    main()
