"""Search the FBNet space for a latency of this machine, and measure what comes out.

    cd experiments/latency
    ONESHOT_DATA=... python target_search.py --table this_machine/fbnet_cpu_1_thread.json \
        --targets 15 20 25 30 35 --out this_machine/search.json

GDAS with the penalty that ends at the target, on a few CIFAR-10 images as large as the table's networks read: enough to
see whether a search keeps to milliseconds, not to find a good network. What is derived is extracted and measured whole,
in turn with a reference network; where the table was wrong about it, `oneshot.cost.meet_target` derives another one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "compare")]

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from packed_cifar10 import PackedCIFAR10  # noqa: E402

import oneshot  # noqa: E402
from oneshot.cost import CostPenalty, Device, LatencyTable, meet_target  # noqa: E402
from oneshot.data import SearchDataModule  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import FBNetSupernet  # noqa: E402


def search(args: argparse.Namespace, target: float) -> dict[str, Any]:
    pl.seed_everything(args.seed, verbose=False)
    start, table = time.perf_counter(), LatencyTable.load(args.table)
    # As many logits as the networks of the table have; the ten classes of CIFAR-10 are the first of them.
    supernet = FBNetSupernet(image_size=table.input_shape[-1])
    data = PackedCIFAR10(
        Path(os.environ["ONESHOT_DATA"]),
        image_size=table.input_shape[-1],
        images=args.images,
        batch_size=args.batch,
        seed=args.seed,
    )
    method = oneshot.GDAS(
        supernet,
        penalty=CostPenalty(str(args.table), "target", target=target, a=args.a, b=args.b),
        arch_lr=args.arch_lr,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=args.epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=True,
        enable_model_summary=False,
    )
    trainer.fit(method, datamodule=SearchDataModule(data, seed=args.seed))
    device = Device(
        table.device["runtime"],
        table.device["device"],
        batch=table.batch,
        dtype=table.dtype,
        threads=table.device["threads"],
    )
    probabilities = {name: p.numpy() for name, p in method.probabilities().items()}
    assert method.penalty is not None and method.penalty.cost is not None
    attempts = meet_target(method.penalty, supernet, probabilities, device)
    cost = method.penalty.cost
    return {
        "target_ms": target,
        "expected_ms": float(cost.expected(method.probabilities())),
        "argmax_ms": cost.cost(supernet.space.most_likely(probabilities)),
        "off_target": attempts[-1].measured / target - 1,
        "measured": [
            {
                "predicted_ms": attempt.predicted,
                "measured_ms": attempt.measured,
                "measurements_ms": attempt.measurements,
                "layers": list(attempt.config["layers"]),
            }
            for attempt in attempts
        ],
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="+", required=True, help="ms")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--images", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--arch-lr", type=float, default=0.1)
    parser.add_argument("--a", type=float, default=0.1, help="growth of the penalty")
    parser.add_argument("--b", type=float, default=5.0, help="stiffness of the penalty")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on loaders and loggers
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    settings = {name: value for name, value in vars(args).items() if name not in ("table", "targets", "out")}
    results = []
    for target in args.targets:
        results.append(search(args, target))
        print({name: value for name, value in results[-1].items() if name != "measured"})
        report = {"settings": settings, "threads": torch.get_num_threads(), "results": results}
        write_atomically(args.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
