"""The inner search for a front, all architectures of a generation at once against one at a time, on one core.

Two objectives in the FBNet space (22 genes): an error predicted by a model of 300 samples, and a cost by table.
Population 100, 100 generations. Both sides take turns and run the same evolution; the slow one runs fewer generations,
and both are compared per generation. Then what one ``ParetoSearch.ask`` takes, choice of the predictor included, with
archives of several sizes. Seconds are those of the core, which other programs don't add to. Usage:

    python experiments/benchmarks/pareto_search.py [--rounds 5] [--generations 100] [--slow-generations 10]

Writes pareto_search_cpu.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from oneshot.cost import AdditiveCost  # noqa: E402
from oneshot.cost.latency.device import processor  # noqa: E402
from oneshot.nat import Objective, ParetoSearch, evolve, fit_accuracy  # noqa: E402
from oneshot.regression.surrogates import KINDS  # noqa: E402
from oneshot.supernets import FBNetSpace  # noqa: E402

Values = np.ndarray
SPACE = FBNetSpace()


def genes_error(entries: int, effects: Values) -> tuple[Values, Values]:
    """Architectures, and errors with noise."""
    genes = SPACE.sample_matrix(entries, 0)
    noise = np.random.default_rng(1).normal(0, 0.3, entries)
    return genes, 40.0 - effects[np.arange(SPACE.num_genes), genes].sum(1) + noise


def asked(genes: Values, errors: Values, args: argparse.Namespace) -> float:
    """CPU seconds in which more architectures than these are asked for."""
    size = Objective("cost", "ms", lambda genes: genes.sum(1).astype(np.float64))
    search = ParetoSearch(SPACE, [size], population=args.population, generations=args.generations)
    search.tell(genes, errors)
    start = time.process_time()
    search.ask()
    seconds = time.process_time() - start
    print(f"{len(genes)} entries: asking takes {seconds:.1f} s, with {search.state_dict()['proposal']['kind']}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--slow-generations", type=int, default=10)
    parser.add_argument("--population", type=int, default=100)
    parser.add_argument("--archives", type=int, nargs="*", default=[300, 1000, 2500, 5000], help="entries")
    args = parser.parse_args()
    torch.set_num_threads(1)

    rng = np.random.default_rng(0)
    shape = (SPACE.num_genes, SPACE.gene_sizes[0])
    effects, table = rng.random(shape).cumsum(1), torch.from_numpy(rng.random(shape))
    cost = AdditiveCost(SPACE, {"layers": table}, unit="ms", fixed=5.0)
    genes, errors = genes_error(300, effects)
    fit_accuracy(SPACE, genes[:60], errors[:60])  # imports
    start = time.process_time()
    chosen = fit_accuracy(SPACE, genes, errors)
    fit_seconds = time.process_time() - start
    print(f"all kinds cross-validated on 300 samples and {chosen.kind} fitted: {fit_seconds:.1f} s")

    results = []
    for kind in KINDS:
        predictor = fit_accuracy(SPACE, genes, errors, kinds=[kind])

        def at_once(g: Values, predictor: object = predictor) -> Values:
            return np.column_stack([predictor.predict(g)[0], cost.costs(g)])  # type: ignore[attr-defined]

        def one_by_one(g: Values, at_once: Callable[[Values], Values] = at_once) -> Values:
            return np.concatenate([at_once(row[None]) for row in g])

        evolve(SPACE, at_once, population=20, generations=2, rng=0)
        sides = {"at once": (at_once, args.generations), "one at a time": (one_by_one, args.slow_generations)}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        fronts: list[int] = []
        for number in range(args.rounds):
            for side, (objectives, generations) in sides.items():
                start = time.process_time()
                found, _ = evolve(SPACE, objectives, population=args.population, generations=generations, rng=number)
                seconds[side].append((time.process_time() - start) / generations)
                if side == "at once":
                    fronts.append(len(found))
        ratios = [slow / fast for fast, slow in zip(seconds["at once"], seconds["one at a time"], strict=True)]
        whole = [s * args.generations for s in seconds["at once"]]
        results.append(
            {
                "predictor": kind,
                "seconds_per_generation": seconds,
                "seconds_per_search": {"median": statistics.median(whole), "min": min(whole), "max": max(whole)},
                "front": fronts,
                "times_faster": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
            }
        )
        fast, slow = (1000 * statistics.median(seconds[side]) for side in sides)
        print(
            f"{kind:>8}: {fast:.1f} ms a generation at once, {slow:.1f} one at a time; {statistics.median(ratios):.1f} "
            f"times faster ({min(ratios):.1f} to {max(ratios):.1f}); a search {statistics.median(whole):.2f} s "
            f"({min(whole):.2f} to {max(whole):.2f}), fronts of {min(fronts)} to {max(fronts)}"
        )
    asks = {entries: asked(*genes_error(entries, effects), args) for entries in args.archives}
    report = {
        "settings": vars(args),
        "hardware": processor(),
        "seconds_to_choose_and_fit": fit_seconds,
        "chosen": chosen.kind,
        "results": results,
        "seconds_of_an_ask": asks,
    }
    (HERE / "pareto_search_cpu.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
