"""Does it help a strategy to see proxies beside the genes? BANANAS and the Gaussian process on NATS-Bench.

    ONESHOT_DATA=... OMP_NUM_THREADS=1 python experiments/discrete/features.py --seeds 20
    ... --strategies "Gaussian process" --features none counts          # seconds a run
    ... --features proxies                                              # scores networks, once each
    ... --report                                                        # features.json and the table, from the rows

``counts`` are parameters and MACs of the benchmark's networks, from exact cost models, so that all architectures can be
candidates. ``proxies`` are these, naswot and synflow of small networks (8 channels, one cell in a stage, 16 random
images of 16 pixels); scores are kept in ``scores/``, and candidates are pools of 200. ``shuffled`` are counts of other
architectures: what extra inputs that tell nothing do. A row of ``features.jsonl`` is a run, written as soon as it is
done: the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
from tables import load, run  # noqa: E402

from oneshot.cost import count_candidates  # noqa: E402
from oneshot.discrete import BANANAS, GaussianProcess  # noqa: E402
from oneshot.proxies import ArchitectureScorer, ProxyFeatures  # noqa: E402
from oneshot.regression.extra import ExtraFeatures  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import NASBench201Supernet, SubnetConfig  # noqa: E402

AT = (20, 30, 40, 50, 100, 150)  # queries
MIDDLE = (13.0, 17.5)  # logarithms of middling parameters and MACs
STRATEGIES: dict[str, Callable[..., Any]] = {
    "Gaussian process": GaussianProcess,
    "BANANAS": lambda space, pool, **options: BANANAS(space, **options),
    "BANANAS, ranks and counts": lambda space, pool, **options: BANANAS(
        space, targets="ranks", encoding="counts", **options
    ),
}


class Counts(ExtraFeatures):
    """Parameters and MACs, on the scale of their logarithms; shuffled, those of other architectures."""

    names = ("params", "macs")

    def __init__(self, *, shuffled: bool = False) -> None:
        self.models = [count_candidates(NASBench201Supernet(), name) for name in self.names]
        self.space, self.shuffled = self.models[0].space, shuffled

    def __call__(self, configs: Sequence[SubnetConfig]) -> np.ndarray:
        genes = self.space.encode(configs)
        if self.shuffled:  # another architecture for each, always the same
            genes = np.stack([self.space.sample_matrix(1, np.random.default_rng(row))[0] for row in genes])
        counts = np.log(np.stack([model.costs(genes) for model in self.models], 1))
        return np.asarray((counts - MIDDLE) / 0.6)


def features_of(name: str, folder: Path) -> tuple[ExtraFeatures | None, int]:
    """The features, and how many architectures the Gaussian process has as candidates."""
    if name == "none":
        return None, 1000
    if name in ("counts", "shuffled"):
        return Counts(shuffled=name == "shuffled"), 20_000
    small = NASBench201Supernet(channels=8, cells_per_stage=1, image_size=16)
    names = ["params", "macs", "naswot", "synflow"]
    scorer = ArchitectureScorer(small, names, samples=16, file=folder / "scores" / "nats_bench.jsonl")
    return ProxyFeatures(scorer), 200


def measure(args: argparse.Namespace) -> None:
    table, metric, name = load("NATS-Bench", args.csv, args.metric)
    done = {(r["table"], r["strategy"], r["features"], r["seed"]) for r in rows(args.out, args.queries)}
    at = [queries for queries in AT if queries <= args.queries]
    for features in args.features:
        extra, pool = None, 0
        for strategy in args.strategies:
            for seed in range(args.seeds):
                if (name, strategy, features, seed) in done:
                    continue
                if not pool:
                    extra, pool = features_of(features, args.out.parent)
                own = extra

                def build(space: Any, seed: int, strategy: str = strategy, pool: int = pool, own: Any = own) -> Any:
                    return STRATEGIES[strategy](space, pool=pool, features=own, seed=seed)

                regret, ms = run(table, metric, build, seed, args.queries)
                row = {"table": name, "strategy": strategy, "features": features, "seed": seed}
                row |= {"queries": at, "regret": [round(float(regret[n - 1]), 4) for n in at], "ms": round(ms, 2)}
                with args.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")


def rows(path: Path, queries: int) -> list[dict[str, Any]]:
    """Runs of at least so many queries."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # without one that was under way
    return [row for row in map(json.loads, lines) if row["queries"][-1] >= queries]


def report(path: Path, queries: int) -> None:
    at = [n for n in AT if n <= queries]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows(path, queries):
        groups[row["table"], row["strategy"], row["features"]].append(row)
    found = []
    print("| table | strategy | features | seeds |", " | ".join(f"{n} queries" for n in at), "| ms a query |")
    print("|---|---|---|---|" + "---|" * (len(at) + 1))
    for (table, strategy, features), own in groups.items():
        regrets = np.array([row["regret"][: len(at)] for row in own])
        mean, sem = regrets.mean(0), regrets.std(0, ddof=len(own) > 1) / len(own) ** 0.5
        hits, ms = (regrets < 1e-3).sum(0), float(np.mean([row["ms"] for row in own]))
        cells = [f"{m:.3f} ± {s:.3f} ({h})" for m, s, h in zip(mean, sem, hits, strict=True)]
        print(f"| {table} | {strategy} | {features} | {len(own)} |", " | ".join(cells), f"| {ms:.1f} |")
        found.append(
            {
                **{"table": table, "strategy": strategy, "features": features, "seeds": len(own), "queries": at},
                **{"mean": mean.round(4).tolist(), "sem": sem.round(4).tolist(), "hits": hits.tolist()},
                "ms_per_query": round(ms, 2),
            }
        )
    write_atomically(path.with_suffix(".json"), json.dumps({"results": found}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--queries", type=int, default=150, choices=AT)
    known = ("none", "counts", "shuffled", "proxies")
    parser.add_argument("--features", nargs="+", default=["none", "counts", "proxies"], choices=known)
    parser.add_argument("--csv", type=Path, help="another file of the table")
    parser.add_argument("--metric", help="another column")
    parser.add_argument("--out", type=Path, default=HERE / "features.jsonl")
    parser.add_argument("--report", action="store_true", help="only the table, of the rows there are")
    args = parser.parse_args()
    if not args.report:
        measure(args)
    report(args.out, args.queries)


if __name__ == "__main__":
    main()
