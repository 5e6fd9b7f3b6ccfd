"""Short trainings first: successive halving and Hyperband on two fidelities of NATS-Bench, at equal numbers of epochs.

    ONESHOT_DATA=... python experiments/discrete/fidelity.py            # writes fidelity.json; half an hour of CPU time
    python experiments/discrete/fidelity.py --csv FILE --metric COLUMN --short-metric COLUMN --out other.json

Validation accuracy after 12 epochs decides who is trained for 192, of which the table has the test accuracy (after 200,
mean of its seeds). A promoted network pays for the epochs that it lacks. Regret is that of the best network trained to
the end. Searches without short trainings pay 192 epochs for every network. Started again, it keeps the strategies that
are in fidelity.json with as many seeds (``--again`` measures them anew).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402

from oneshot.discrete import (  # noqa: E402
    GaussianProcess,
    Hyperband,
    RandomSearch,
    RegularizedEvolution,
    Result,
    SearchStrategy,
    SuccessiveHalving,
    TabularEvaluator,
)
from oneshot.discrete.evaluators.tables import nas_bench_201  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import SearchSpace  # noqa: E402

SHORT, FULL, SEEDS = 12, 192, 50
BUDGETS = (10, 20, 40, 80)  # full trainings
HALVING = {"least": SHORT, "most": FULL, "eta": FULL // SHORT}
STRATEGIES: dict[str, Callable[[SearchSpace, int], SearchStrategy]] = {
    "random search": lambda space, seed: RandomSearch(space, seed=seed),
    "successive halving": lambda space, seed: SuccessiveHalving(space, **HALVING, seed=seed),
    "Hyperband": lambda space, seed: Hyperband(space, **HALVING, seed=seed),
    "regularised evolution": lambda space, seed: RegularizedEvolution(space, population=10, sample=4, seed=seed),
    "Gaussian process, full trainings": lambda space, seed: GaussianProcess(space, initial=10, batch=2, seed=seed),
    "successive halving of evolution": lambda space, seed: SuccessiveHalving(
        space, **HALVING, seed=seed, sampler=lambda s, n: RegularizedEvolution(s, population=30, sample=10, seed=n)
    ),
    "successive halving of a Gaussian process": lambda space, seed: SuccessiveHalving(
        space, **HALVING, seed=seed, sampler=lambda s, n: GaussianProcess(s, seed=n)
    ),
    "Gaussian process": lambda space, seed: GaussianProcess(space, fidelities=(SHORT, FULL), seed=seed),
}


def table(csv: Path | None, metric: str, short: str) -> TabularEvaluator:
    if csv is None and "ONESHOT_DATA" not in os.environ:
        raise SystemExit("The table is a file that --csv names, or in the folder that ONESHOT_DATA names; neither is.")
    path = csv or Path(os.environ["ONESHOT_DATA"]) / "nats_bench_tss.csv.gz"
    return nas_bench_201(path, {"accuracy": metric}, fidelities={SHORT: {"accuracy": short}}, full=FULL)


def regrets(evaluator: TabularEvaluator, strategy: SearchStrategy) -> list[float]:
    """After every budget."""
    spent, best, found = 0.0, 0.0, []
    while len(found) < len(BUDGETS):
        (proposal,) = strategy.ask()
        fidelity = proposal.fidelity or FULL
        accuracy = evaluator(proposal)["accuracy"]
        strategy.tell(Result(proposal.number, (-accuracy,)))
        spent += fidelity - proposal.trained
        while len(found) < len(BUDGETS) and spent > FULL * BUDGETS[len(found)]:
            found.append(evaluator.columns["accuracy"].max() - best)
        if fidelity == FULL:
            best = max(best, accuracy)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="file of the table, in place of nats_bench_tss.csv.gz")
    parser.add_argument("--metric", default="cifar10_test_accuracy", help="column of full trainings")
    parser.add_argument("--short-metric", default="cifar10_val_accuracy_12_epochs", help="column of short ones")
    parser.add_argument("--out", type=Path, default=HERE / "fidelity.json")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--again", action="store_true", help="measure anew what there is already")
    args = parser.parse_args()
    evaluator = table(args.csv, args.metric, args.short_metric)
    settings = {"budgets": list(BUDGETS), "seeds": args.seeds, "short": SHORT, "full": FULL}
    kept = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() and not args.again else {}
    same = {key: kept.get(key) for key in settings} == settings
    results = kept["results"] if same else {}
    print(f"| strategy | {' | '.join(f'{b} full trainings' for b in BUDGETS)} |")
    for name in args.strategies:
        if name not in results:
            found = np.array([regrets(evaluator, STRATEGIES[name](evaluator.space, s)) for s in range(args.seeds)])
            mean, sem = found.mean(0), found.std(0) / args.seeds**0.5
            results[name] = {"mean": mean.round(4).tolist(), "sem": sem.round(4).tolist()}
            write_atomically(args.out, json.dumps({**settings, "results": results}, indent=1) + "\n")
        pairs = zip(results[name]["mean"], results[name]["sem"])
        print(f"| {name} | {' | '.join(f'{m:.2f} ± {s:.2f}' for m, s in pairs)} |", flush=True)


if __name__ == "__main__":
    main()
