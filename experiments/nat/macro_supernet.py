"""How well inherited weights rank the networks of NAS-Bench-Macro: train a supernet, look 200 networks up in the table.

    ONESHOT_DATA=... python experiments/nat/macro_supernet.py --method bignas --out experiments/nat/macro.json

Real CIFAR-10, smaller than the benchmark's, with a narrower supernet: minutes on a CPU. Errors are those of held-out
images after calibrating batch normalisation for each. Kendall's tau (b) is against the table's accuracies at full
size; that of the MACs alone is beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "compare")]

import numpy as np  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from packed_cifar10 import PackedCIFAR10, data_folder  # noqa: E402
from scipy.stats import kendalltau  # noqa: E402

import oneshot  # noqa: E402
from oneshot.cost import count_candidates  # noqa: E402
from oneshot.discrete import TabularEvaluator  # noqa: E402
from oneshot.evaluation.images import decode_images  # noqa: E402
from oneshot.nat.evaluators import SupernetEvaluator  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import NASBenchMacroSpace, NASBenchMacroSupernet, SubnetConfig  # noqa: E402

METHODS = {"bignas": oneshot.BigNAS, "alphanet": oneshot.AlphaNet, "fairnas": oneshot.FairNAS}


def distinct(space: NASBenchMacroSpace, count: int, seed: int) -> list[SubnetConfig]:
    """Networks that differ, drawn uniformly from the 3,969."""
    every = space.decode(np.array(list(np.ndindex(*space.gene_sizes))))
    networks = list({space.unique_string(config): config for config in every}.values())
    rows = np.random.default_rng(seed).permutation(len(networks))[:count]
    return [networks[row] for row in rows]


def accuracies(path: Path, column: str) -> dict[str, float]:
    table = TabularEvaluator.from_csv(path, (space := NASBenchMacroSpace()), space.from_arch_string, [column])
    names = [space.arch_string(config) for config in space.decode(table.genes)]
    return dict(zip(names, table.columns[column].tolist(), strict=True))


def run(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    pl.seed_everything(seed, verbose=False)
    start = time.perf_counter()
    data = PackedCIFAR10(
        data_folder(), image_size=args.size, images=args.images, batch_size=args.batch, seed=seed, val_fraction=0.2
    )
    supernet = NASBenchMacroSupernet(channels=args.channels, image_size=args.size)
    search = METHODS[args.method](supernet, weight_lr=args.lr, candidates=1, finalists=1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=args.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(search, datamodule=data)
    trained = time.perf_counter() - start

    table, space = accuracies(args.csv or data_folder() / "nas_bench_macro.csv.gz", args.metric), supernet.space
    configs = distinct(space, args.networks, seed)
    images, labels, calibration, _ = decode_images(data, args.calibration)
    errors = SupernetEvaluator(supernet, images, labels, calibration).evaluate(configs)
    truth = [table[space.arch_string(config)] for config in configs]
    macs = count_candidates(supernet, "macs").costs(space.encode(configs))
    return {
        "method": args.method,
        "seed": seed,
        "tau": float(kendalltau(-np.array(errors), truth).statistic),
        "tau_macs": float(kendalltau(macs, truth).statistic),
        "best_of_networks": truth[int(np.argmin(errors))],
        "best_possible": max(truth),
        "mean_accuracy": 1 - float(np.mean(errors)),
        "training_s": trained,
        "evaluation_s": time.perf_counter() - start - trained,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="bignas")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--images", type=int, default=10_000, help="a fifth of them is held out")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--csv", type=Path, help="file of the benchmark, in place of nas_bench_macro.csv.gz")
    parser.add_argument("--metric", default="cifar10_test_accuracy_mean", help="its column of accuracies in percent")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on loaders and loggers
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in ("out", "method", "seeds")
    }
    results = json.loads(args.out.read_text(encoding="utf-8"))["results"] if args.out.is_file() else []
    for seed in args.seeds:
        results.append({**run(args, seed), "settings": settings})
        print(results[-1])
        hardware = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread"
        write_atomically(args.out, json.dumps({"hardware": hardware, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
