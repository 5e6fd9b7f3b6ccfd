"""The surrogate of the DARTS space: how much it knows from how many trained cells, and what searches find in it.

    ONESHOT_DATA=... python experiments/surrogate/darts.py [--csv FILE --genotype COLUMN --accuracy COLUMN] [--out FILE]

Writes darts.json beside this file and prints the tables of README.md. What is there already is kept; delete the file to
begin anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
from scipy.stats import kendalltau, spearmanr  # noqa: E402

from oneshot.discrete import (  # noqa: E402
    DARTSSurrogate,
    LocalSearch,
    RandomSearch,
    RegularizedEvolution,
    SearchStrategy,
    Study,
    darts_surrogate,
)
from oneshot.discrete.evaluators.cells import OPERATIONS, cell_features, is_dead  # noqa: E402
from oneshot.regression.feature_models import FeatureBoosting, FeatureGP  # noqa: E402
from oneshot.regression.ridge import ridge  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.storage.readers import csv_records, read_table  # noqa: E402
from oneshot.supernets import SearchSpace  # noqa: E402
from oneshot.supernets.genotype import Genotype  # noqa: E402

SIZES, TEST, DRAWS = (100, 200, 400, 798), 200, 5
SEEDS, QUERIES = 5, 150
STRATEGIES: dict[str, Callable[[SearchSpace, int], SearchStrategy]] = {
    "random search": lambda space, seed: RandomSearch(space, seed=seed),
    "regularised evolution": lambda space, seed: RegularizedEvolution(space, population=30, sample=10, seed=seed),
    "local search": lambda space, seed: LocalSearch(space, initial=10, seed=seed),
}


def counts(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge regression on how often each operation stands in the cell: the baseline."""
    columns = slice(3 * len(OPERATIONS), 4 * len(OPERATIONS))
    fit = ridge(x[:, columns], y[:, None])
    return np.asarray(test[:, columns] @ fit.coefficients[:, 0] + fit.intercept[0])


def learn(path: Path, genotype: str, accuracy: str) -> list[dict[str, Any]]:
    """Models of n cells, judged by 200 others."""
    rows = [row for _, row in csv_records(read_table(path), str(path))[1] if row[accuracy].strip()]
    cells = [Genotype.parse(row[genotype]).normal for row in rows]
    live = np.array([not is_dead(cell) for cell in cells])
    x, y = cell_features(cells)[live], np.array([float(row[accuracy]) for row in rows])[live]
    found = []
    for n in SIZES:
        scores: dict[str, list[tuple[float, float]]] = {}
        for draw in range(DRAWS):
            order = np.random.default_rng(draw).permutation(len(y))
            test, train = order[:TEST], order[TEST:][:n]
            process = FeatureGP(x[train], y[train]).predict(x[test])[0]
            trees = FeatureBoosting(x[train], y[train], seed=draw).predict(x[test])
            predicted = {
                "counts of operations, ridge": counts(x[train], y[train], x[test]),
                "Gaussian process": process,
                "boosted trees": trees,
                "both, the surrogate": (process + trees) / 2,
            }
            for name, values in predicted.items():
                rank = kendalltau(values, y[test])[0], spearmanr(values, y[test])[0]
                scores.setdefault(name, []).append((float(rank[0]), float(rank[1])))
        for name, each in scores.items():
            mean, std = np.mean(each, axis=0), np.std(each, axis=0, ddof=1)
            found.append({"cells": n, "model": name, "mean": mean.round(4).tolist(), "std": std.round(4).tolist()})
            print(f"| {n} | {name} | {mean[0]:.3f} ± {std[0]:.3f} | {mean[1]:.3f} ± {std[1]:.3f} |", flush=True)
    return found


def search(surrogate: DARTSSurrogate) -> list[dict[str, Any]]:
    """What strategies predict to be best."""
    found = []
    for name, build in STRATEGIES.items():
        best = []
        for seed in range(SEEDS):
            strategy = build(surrogate.space, seed)
            study = Study(strategy, surrogate, ["max accuracy"], evaluations=QUERIES, progress=False).run()
            best.append(study.best.result.metrics["accuracy"])
        row = {"strategy": name, "mean": round(float(np.mean(best)), 3), "std": round(float(np.std(best, ddof=1)), 3)}
        found.append(row)
        print(f"| {name} | {row['mean']:.2f} ± {row['std']:.2f} |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="trained cells, in place of darts_archs.csv.gz")
    parser.add_argument("--genotype", default="genotype", help="its column of genotypes")
    parser.add_argument("--accuracy", default="cifar10_val_accuracy", help="its column of accuracies in percent")
    parser.add_argument("--out", type=Path, default=HERE / "darts.json")
    args = parser.parse_args()
    if args.csv is None and "ONESHOT_DATA" not in os.environ:
        parser.error("The cells are in a file that --csv names, or in the folder that ONESHOT_DATA names; neither is.")
    path = args.csv or Path(os.environ["ONESHOT_DATA"]) / "darts_archs.csv.gz"
    results = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}

    def keep(name: str, make: Callable[[], Any]) -> None:
        if name not in results:
            results[name] = make()
            write_atomically(args.out, json.dumps(results, indent=1) + "\n")

    warnings.simplefilter("error")
    start = time.process_time()
    surrogate = darts_surrogate(path, genotype=args.genotype, accuracy=args.accuracy)
    print(f"{surrogate.report}\n{time.process_time() - start:.1f} CPU seconds")
    keep("report", surrogate.report.to_dict)
    keep("learning", lambda: learn(path, args.genotype, args.accuracy))
    keep("searches", lambda: search(surrogate))
    keep("cpu_seconds", lambda: round(time.process_time() - start))


if __name__ == "__main__":
    main()
