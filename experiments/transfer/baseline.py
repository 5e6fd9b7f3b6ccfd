"""The transfer of the original network: a classifier on frozen features, and what fine-tuning adds to it.

Sides: "probe" (frozen network, classifier in closed form), "original" (all layers, beginning with that classifier and
with frozen statistics of normalisation), "plain" (all layers at once, a random classifier, statistics of each batch),
"batch statistics" and "random head" (one of the two differences). Usage:

    python experiments/transfer/baseline.py [--data flower_photos dtd10] [--size 64] [--seeds 0 1 2] [--epochs 12]

Writes one row for each network into results.json; rows that are there are not computed again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

from original import converted, largest, weights_file  # noqa: E402
from rows import Rows  # noqa: E402
from training import images, options, probed, quiet, tuned  # noqa: E402

SIDES: dict[str, dict[str, Any]] = {
    "probe": {},
    "original": {},
    "batch statistics": {"freeze_statistics": False},
    "random head": {"fit_head": False},
    "plain": {"fit_head": False, "freeze_statistics": False, "warmup_epochs": 0},
}


def main() -> None:
    """Train what is not in the file yet."""
    parser = options(__doc__)
    parser.add_argument("--sides", nargs="+", default=["probe", "original"], choices=list(SIDES))
    args = parser.parse_args()
    quiet(args.threads)
    weights, rows = weights_file(args.weights), Rows(args.results)
    for name in args.data:
        for seed in args.seeds:
            for side in args.sides:
                epochs = 0 if side == "probe" else args.epochs
                key = {"data": name, "size": args.size, "side": side, "target": None, "seed": seed}
                key |= {"epochs": epochs, "lr": args.lr, "limit": args.limit}
                row = rows.find(**key)
                if row is None:
                    data = images(args, name, seed)
                    network = largest(converted(data.num_classes, args.size, weights))
                    if side == "probe":
                        row = probed(network, data, seed)
                    else:
                        row = tuned(network, data, epochs=epochs, seed=seed, lr=args.lr, **SIDES[side])
                    row = {**key, "threads": args.threads, **row}
                    rows.add(row)
                print(f"{name} {args.size} px seed {seed}: {side:16} {row['accuracy']:.4f}", end=" ")
                print(f"in {row['cpu_seconds']:.0f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
