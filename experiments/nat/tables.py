"""Searches for fronts on tables of trained networks: ours, NSGA-II, regularised evolution and random search.

All methods see the same space, whose repair maps every genome to a network of the table, evaluate no network twice, and
get the same number of evaluations. Usage, from any folder:

    ONESHOT_DATA=... python experiments/nat/tables.py [--seeds 20] [--evaluations 104] [--tables nats-bench ...]

Writes tables.json and tables.png beside this file. ``--plot`` draws tables.json again. Another file or accuracy column
of one table, such as another data set: ``--tables nats-bench --csv FILE --metric COLUMN --out other.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from oneshot.discrete.evaluators.tables import DistinctMacroSpace  # noqa: E402
from oneshot.fronts.evolution import keys  # noqa: E402
from oneshot.fronts.pareto import hypervolume, igd_plus, non_dominated  # noqa: E402
from oneshot.nat import Objective, ParetoSearch, evolve  # noqa: E402
from oneshot.regression.encoding import one_hot  # noqa: E402
from oneshot.storage.readers import csv_records, read_table  # noqa: E402
from oneshot.supernets import Choice, NASBench201Space, SearchSpace  # noqa: E402

INITIAL, BATCH, POPULATION = 40, 8, 20
GENERATIONS = {"accel_nasbench": 30}  # of the inner search; spaces that are listed anyway need a number to be so
METHODS = ("random search", "regularised evolution", "NSGA-II / III", "ours")
COLOURS = {
    "random search": "#767676",
    "regularised evolution": "#D55E00",
    "NSGA-II / III": "#56B4E9",
    "ours": "#0072B2",
}


@dataclass(frozen=True)
class TableSpace(SearchSpace):
    """The architectures of a table that holds a part of a space; repair takes the nearest, or the first of these."""

    rows: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        table = np.array(self.rows, dtype=np.int64)
        object.__setattr__(self, "_table", table)
        object.__setattr__(self, "_one_hot", one_hot(self, table).astype(np.float32).T)

    def canonical_genes(self, genes: np.ndarray) -> np.ndarray:
        same = one_hot(self, genes).astype(np.float32) @ self._one_hot  # type: ignore[attr-defined]
        return self._table[same.argmax(1)]  # type: ignore[attr-defined]

    def draw_genes(self, n: int, rng: np.random.Generator) -> np.ndarray:
        return self._table[rng.integers(len(self.rows), size=n)]  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Table:
    """Evaluations of all architectures of a space.

    Args:
        name: For plots.
        space: The space.
        genes: All its canonical architectures, ``[N, G]``.
        values: Error and costs, ``[N, M]``.
        labels: Of the objectives.
    """

    name: str
    space: SearchSpace
    genes: np.ndarray
    values: np.ndarray
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        assert np.array_equal(self.space.repair(self.genes), self.genes)
        object.__setattr__(self, "_row", {key: i for i, key in enumerate(keys(self.genes))})

    def look_up(self, genes: np.ndarray) -> np.ndarray:
        """``[n, G] -> [n, M]``."""
        return self.values[[self._row[key] for key in keys(genes)]]  # type: ignore[attr-defined]


def rows(name: str, csv_file: Path | None = None) -> list[dict[str, str]]:
    if csv_file is not None:
        return [row for _, row in csv_records(read_table(csv_file), str(csv_file))[1]]
    if "ONESHOT_DATA" not in os.environ:
        raise SystemExit(
            "The tables are in the folder that the environment variable ONESHOT_DATA names; it is not set."
        )
    return rows(name, Path(os.environ["ONESHOT_DATA"]) / f"{name}.csv.gz")


def numbers(table: list[dict[str, str]], *columns: str) -> np.ndarray:
    if missing := [column for column in columns if column not in table[0]]:
        raise SystemExit(f"The table has no column {missing[0]!r}; columns are {', '.join(table[0])}.")
    blank = sum(any(not row[column].strip() for column in columns) for row in table)
    if blank:
        raise SystemExit(
            f"{blank} of {len(table)} rows have no value of {', '.join(columns)}. A front needs all of them; choose "
            "another column, or another cost."
        )
    return np.array([[float(row[column]) for column in columns] for row in table])


def nas_bench_macro(csv_file: Path | None = None, metric: str = "cifar10_test_accuracy_mean") -> Table:
    space, table = DistinctMacroSpace(), rows("nas_bench_macro", csv_file)
    genes = np.array([[int(digit) for digit in row["arch"]] for row in table])
    kept = (space.repair(genes) == genes).all(1)
    assert kept.sum() == 3969
    accuracy, flops = numbers(table, metric, "flops").T
    values = np.stack([100 - accuracy, flops / 1e6], 1)
    return Table("NAS-Bench-Macro", space, genes[kept], values[kept], ("error", "MMACs"))


def nats_bench(csv_file: Path | None = None, metric: str = "cifar10_test_accuracy") -> Table:
    space, table, device = NASBench201Space(), rows("nats_bench_tss", csv_file), "gold_6240"
    genes = space.encode([space.from_arch_string(row["arch"]) for row in table])
    kept = (space.repair(genes) == genes).all(1)
    if csv_file is not None and f"latency_ms_{device}" not in table[0]:  # accuracies alone; latencies are known
        known = {row["arch"]: row for row in rows("nats_bench_tss")}
        table = [row | {f"latency_ms_{device}": known[row["arch"]][f"latency_ms_{device}"]} for row in table]
    values = numbers(table, metric, f"latency_ms_{device}")
    values[:, 0] = 100 - values[:, 0]
    return Table("NATS-Bench", space, genes[kept], values[kept], ("error", device))


def accel_nasbench(*costs: str, csv_file: Path | None = None, metric: str = "imagenet_val_top1") -> Table:
    table = rows("accel_nasbench", csv_file)
    picks = [[tuple(row[f"block{b}_{what}"] for what in ("e", "k", "l", "se")) for b in range(7)] for row in table]
    names = [sorted({row[b] for row in picks}) for b in range(7)]
    genes = np.array([[names[b].index(row[b]) for b in range(7)] for row in picks])
    _, kept = np.unique(genes, axis=0, return_index=True)
    choices = tuple(Choice(f"block_{b}", tuple("_".join(p) for p in names[b])) for b in range(7))
    space = TableSpace("accel_nasbench", choices, rows=tuple(map(tuple, genes[kept].tolist())))
    accuracy, throughput, latency = numbers(table, metric, "a100_img_per_s", "zcu102_latency_ms").T
    known = {"a100": 1000 / throughput, "zcu102": latency}
    values = np.stack([100 - accuracy, *(known[cost] for cost in costs)], 1)
    return Table("Accel-NASBench", space, genes[kept], values[kept], ("error", *costs))


TABLES: dict[str, Callable[..., Table]] = {
    "nas-bench-macro": nas_bench_macro,
    "nats-bench": nats_bench,
    "accel-nasbench": partial(accel_nasbench, "a100"),
    "accel-nasbench-3": partial(accel_nasbench, "a100", "zcu102"),
}


# The methods: each returns the architectures in the order in which they were evaluated, [evaluations, G].


def random_search(table: Table, evaluations: int, seed: int) -> np.ndarray:
    return table.genes[np.random.default_rng(seed).permutation(len(table.genes))[:evaluations]]


def regularised_evolution(table: Table, evaluations: int, seed: int) -> np.ndarray:
    """Real et al., AAAI 2019, arXiv:1802.01548: the oldest dies. Tournaments have random Chebyshev scalarisations."""
    rng, space = np.random.default_rng(seed), table.space
    genes = random_search(table, POPULATION, seed)
    seen = set(keys(genes))
    while len(genes) < evaluations:
        alive = genes[-POPULATION:]
        values = table.look_up(alive)
        scaled = (values - values.min(0)) / np.maximum(np.ptp(values, axis=0), 1e-12)
        chosen = rng.choice(len(alive), size=5, replace=False)
        weights = rng.dirichlet(np.ones(values.shape[1]))
        parent = space.decode(alive[[chosen[(weights * scaled[chosen]).max(1).argmin()]]])[0]
        for mutations in range(1, 200):  # further away, where everything near is known
            child = space.repair(space.encode([space.mutate(parent, rng, mutations=1 + mutations // 20)]))
            if keys(child)[0] not in seen:
                break
        seen.update(keys(child))
        genes = np.concatenate([genes, child])
    return genes


def nsga(table: Table, evaluations: int, seed: int) -> np.ndarray:
    """That of the inner search of ours, with real evaluations; once more where nothing new comes of it."""
    found: list[np.ndarray] = []
    seen: set[bytes] = set()

    def evaluate(genes: np.ndarray) -> np.ndarray:
        found.extend(row for row, key in zip(genes, keys(genes), strict=True) if key not in seen)
        seen.update(keys(genes))
        return table.look_up(genes)

    generations, rng = evaluations // POPULATION + 30, np.random.default_rng(seed)
    while len(found) < evaluations:
        evolve(table.space, evaluate, population=POPULATION, generations=generations, rng=rng)
    return np.array(found[:evaluations])


def ours(table: Table, evaluations: int, seed: int) -> np.ndarray:
    costs = [
        Objective(label, "", lambda g, m=m: table.look_up(g)[:, m])  # type: ignore[misc]  # a default binds the column
        for m, label in enumerate(table.labels[1:], start=1)
    ]
    generations = GENERATIONS.get(table.space.name, 100)
    search = ParetoSearch(
        table.space, costs, initial=INITIAL, batch=BATCH, population=100, generations=generations, seed=seed
    )
    while len(search.archive) < evaluations:
        genes = search.ask()
        search.tell(genes, table.look_up(genes)[:, 0])
    CHOSEN.extend(str(iteration.kind) for iteration in search.history[1:])
    return search.archive.genes[:evaluations]


RUN = {
    "random search": random_search,
    "regularised evolution": regularised_evolution,
    "NSGA-II / III": nsga,
    "ours": ours,
}
CHOSEN: list[str] = []  # kinds of predictors, of all iterations


def score(table: Table, genes: np.ndarray, grid: list[int]) -> tuple[list[float], list[float]]:
    """Share of the true front's hypervolume, and IGD+, after so many evaluations; scaled to the true front."""
    front = table.values[non_dominated(table.values)]
    low, span = front.min(0), np.ptp(front, axis=0)
    front = (front - low) / span
    values = (table.look_up(genes) - low) / span
    reference = np.full(front.shape[1], 1.1)
    whole = hypervolume(front, reference)
    return [hypervolume(values[:n], reference) / whole for n in grid], [igd_plus(values[:n], front) for n in grid]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=104)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--csv", type=Path, help="another file with the columns of the one table that --tables names")
    parser.add_argument("--metric", help="another column of that table with accuracies in percent")
    parser.add_argument("--out", type=Path, default=HERE / "tables.json", help="results; the picture lies beside it")
    parser.add_argument("--plot", action="store_true", help="only draw the results again")
    args = parser.parse_args()
    given = {name: value for name, value in (("csv_file", args.csv), ("metric", args.metric)) if value is not None}
    if given and len(args.tables) != 1:
        parser.error("--csv and --metric are of one table; name it with --tables, for example --tables nats-bench.")
    if given and args.out == parser.get_default("out"):
        parser.error("--csv and --metric need --out, so that the results of the usual tables stay.")
    torch.set_num_threads(1)
    path = args.out
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in [] if args.plot else args.tables:
        results[name] = compare(name, args.seeds, args.evaluations, given)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    plot([results[name] for name in TABLES if name in results], path.with_suffix(".png"))


def compare(name: str, seeds: int, evaluations: int, given: Mapping[str, object]) -> dict[str, object]:
    table = TABLES[name](**given)
    front = int(non_dominated(table.values).sum())
    grid = [POPULATION, *range(INITIAL, evaluations + 1, BATCH)]
    print(f"{name}: {len(table.genes)} architectures, {front} of them in the front", flush=True)
    CHOSEN.clear()
    methods = {}
    for method in METHODS:
        volumes, distances, seconds = [], [], []
        for seed in range(seeds):
            start = time.perf_counter()
            genes = RUN[method](table, evaluations, seed)
            seconds.append(time.perf_counter() - start)
            assert len(np.unique(genes, axis=0)) == evaluations, (method, seed)
            volume, distance = score(table, genes, grid)
            volumes.append(volume)
            distances.append(distance)
            print(f"\r  {method} {seed + 1}/{seeds}", end="", flush=True)
        methods[method] = {
            "hypervolume": summary(volumes),
            "igd_plus": summary(distances),
            "seconds": statistics.mean(seconds),
        }
        last = {
            what: (methods[method][what]["mean"][-1], methods[method][what]["error"][-1])
            for what in ("hypervolume", "igd_plus")
        }  # type: ignore[index]
        print(
            f"\r  {method:>22}: hypervolume {last['hypervolume'][0]:.4f} +- {last['hypervolume'][1]:.4f}, "
            f"IGD+ {last['igd_plus'][0]:.4f} +- {last['igd_plus'][1]:.4f}, {statistics.mean(seconds):.1f} s a run",
            flush=True,
        )
    kinds = {kind: CHOSEN.count(kind) for kind in sorted(set(CHOSEN))}
    print(f"  predictors chosen: {kinds}")
    facts = {
        "seeds": seeds,
        "initial": INITIAL,
        "batch": BATCH,
        "title": f"{table.name}: {', '.join(table.labels)}",
        **{what: str(value) for what, value in given.items()},
        "architectures": len(table.genes),
    }
    return {**facts, "front": front, "grid": grid, "methods": methods, "chosen": kinds}


def summary(runs: list[list[float]]) -> dict[str, list[float]]:
    """Mean and standard error over seeds, for each number of evaluations."""
    values = np.array(runs)
    return {"mean": values.mean(0).tolist(), "error": (values.std(0, ddof=1) / len(values) ** 0.5).tolist()}


def plot(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator

    rows = (("hypervolume", "hypervolume missing"), ("igd_plus", "IGD+ to the true front"))
    figure, axes = plt.subplots(2, len(results), figsize=(1 + 3.2 * len(results), 6.2), sharex=True, squeeze=False)
    for axis, result, (what, label) in (
        (axes[r][c], x, row) for r, row in enumerate(rows) for c, x in enumerate(results)
    ):
        for method, found in result["methods"].items():
            mean, error = np.array(found[what]["mean"]), np.array(found[what]["error"])
            mean = 1 - mean if what == "hypervolume" else mean
            colour, width = COLOURS[method], 2.2 if method == "ours" else 1.5
            axis.plot(result["grid"], mean, color=colour, label=method, lw=width)
            axis.fill_between(result["grid"], mean - error, mean + error, color=colour, alpha=0.2, lw=0)
        axis.axvline(result["initial"], color="#999999", lw=0.8, ls=":")
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.1%}" if y < 0.01 else f"{y:.0%}"))
        axis.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: ""))
        axis.grid(axis="y", color="#cccccc", lw=0.6)
        if result is results[0]:
            axis.set_ylabel(label)
        if what == "hypervolume":
            axis.set_title(result["title"].replace(": ", "\n"), fontsize=10)
        else:
            axis.set_xlabel("evaluated networks")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
