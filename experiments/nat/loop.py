"""The whole loop on real images, with the latency of this machine: supernet, front, standalone networks, measured.

    python experiments/nat/loop.py --out runs/loop            # scikit-learn's digits, nothing to download

A latency table of the supernet is measured first (``table.json`` in the folder, kept if it is there), then NAT searches
the front of error and latency. Every network of the front is extracted, calibrated and measured whole; the largest
network is trained alone for as many epochs as the supernet. Accuracies are of test images, which nothing has seen.
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

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import pytorch_lightning as pl
import torch

import oneshot
from oneshot.callbacks import ParetoExport
from oneshot.cost import Device, LatencyTable, measure, measure_latencies
from oneshot.data import Digits
from oneshot.evaluation.images import decode_images
from oneshot.evaluation.recalibration import recalibrate
from oneshot.storage.files import write_atomically
from oneshot.supernets import NASBenchMacroSupernet
from oneshot.supernets.base import Subnet


def accuracy(network: Subnet, data: Digits) -> float:
    network.eval()
    with torch.no_grad():
        right = [(network(x).argmax(1) == y).float() for x, y in data.test_dataloader()]
    return float(torch.cat(right).mean())


def trained_alone(network: Subnet, data: Digits, epochs: int) -> float:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, limit_val_batches=0
    )
    trainer.fit(oneshot.Retrain(network, lr=0.05), datamodule=data)
    return accuracy(network, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--adapt", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on loaders and loggers
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    pl.seed_everything(args.seed, verbose=False)
    data = Digits(image_size=args.size, batch_size=64, val_fraction=0.25, seed=args.seed)
    supernet = NASBenchMacroSupernet(channels=args.channels, in_channels=1, image_size=args.size)
    device = Device("eager", "cpu", threads=1)
    path = args.out / "table.json"
    if not path.is_file():
        measure(supernet, device).save(path)
    start = time.perf_counter()
    search = oneshot.NAT(
        supernet,
        objectives=[str(path)],
        warmup_epochs=args.warmup,
        iterations=args.iterations,
        adapt_epochs=args.adapt,
        initial=30,
        batch=8,
        calibration_images=512,
        weight_lr=0.05,
        search_seed=args.seed,
    )
    epochs = args.warmup + args.iterations * args.adapt
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        callbacks=[ParetoExport(args.out)],
        default_root_dir=args.out,
    )
    trainer.fit(search, datamodule=data)
    searched = time.perf_counter() - start

    archive, front = search.pareto.archive, search.pareto.front()
    front = front[np.argsort(archive.values[front, 1])]
    measured = measure_latencies(supernet, device, archive.genes[front])
    calibration = decode_images(data, 512).calibration
    networks = []
    for row, ms in zip(front, measured, strict=True):
        config = supernet.space.decode(archive.genes[row][None])[0]
        network = supernet.extract(config)
        recalibrate(network, calibration.split(256))
        networks.append(
            {
                "architecture": supernet.space.arch_string(config),
                "validation_error": float(archive.values[row, 0]),
                "test_accuracy": accuracy(network, data),
                "predicted_ms": float(archive.values[row, 1]),
                "measured_ms": float(ms),
            }
        )
        print(networks[-1])
    largest = supernet.space.from_arch_string("2" * 8)
    pl.seed_everything(args.seed, verbose=False)
    alone = trained_alone(supernet.extract(largest, inherit=False), data, epochs)
    report: dict[str, Any] = {
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "seconds": searched,
        "history": search.pareto.state_dict()["history"],
        "front": networks,
        "largest_alone": {
            "test_accuracy": alone,
            "measured_ms": float(measure_latencies(supernet, device, supernet.space.encode([largest]))[0]),
            "predicted_ms": LatencyTable.load(path).cost_of(supernet).cost(largest),
        },
    }
    write_atomically(args.out / "loop.json", json.dumps(report, indent=1) + "\n")
    print(report["largest_alone"])


if __name__ == "__main__":
    main()
