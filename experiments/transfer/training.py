"""How all sides are trained, tested and timed: in one place, so that they are treated alike."""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from images import FASHION, NAMES, TransferImages

from oneshot.cost import count
from oneshot.cost.latency.device import Device
from oneshot.supernets.base import Subnet
from oneshot.training import Retrain, fit_head
from oneshot.training.samples import plain_samples

HERE = Path(__file__).parent
PASSES, WARM_UP = 101, 3  # of each network that is timed


def options(description: str | None) -> argparse.ArgumentParser:
    """What all scripts of this folder take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(NAMES), choices=NAMES, help="data sets")
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=12, help="of the transfer of the original")
    parser.add_argument("--lr", type=float, default=3e-4, help="of AdamW, for pretrained weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="most training images")
    parser.add_argument("--test-limit", type=int, help="most test images, for a try")
    parser.add_argument("--weights", help="file with the ImageNet weights, if the package is not installed")
    parser.add_argument("--fashion", default=str(FASHION), help="folder with the files of Fashion-MNIST")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    return parser


def quiet(threads: int) -> None:
    """Say nothing but our own lines, and use so many threads."""
    torch.set_num_threads(threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers")  # images are in memory


def images(args: argparse.Namespace, name: str, seed: int) -> TransferImages:
    """A data set: 15 % of its training images are held back for validation, the same ones for all sides."""
    data = TransferImages(
        name,
        image_size=args.size,
        limit=args.limit,
        test_limit=args.test_limit,
        fashion=args.fashion,
        batch_size=32,
        val_fraction=0.15,
        seed=seed,
    )
    data.setup()
    return data


def trainer(epochs: int, **more: Any) -> pl.Trainer:
    """A trainer that writes nothing."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, **{**off, "limit_val_batches": 0, **more})


def probed(network: Subnet, data: TransferImages, seed: int) -> dict[str, Any]:
    """The frozen network with a classifier that is fitted in closed form; the network changes."""
    pl.seed_everything(seed, verbose=False)
    begun = time.process_time()
    fit = fit_head(network, plain_samples(data, 10_000) or ())
    return {"left_out": fit.value, **measured(Retrain(network), data, time.process_time() - begun)}


def tuned(
    network: Subnet, data: TransferImages, *, epochs: int, seed: int, lr: float, pretrained: bool = True, **more: Any
) -> dict[str, Any]:
    """Train a network in place and test it; what is pretrained with a fitted head and frozen statistics."""
    pl.seed_everything(seed, verbose=False)
    own = {"fit_head": True, "freeze_statistics": True} if pretrained else {}
    settings: dict[str, Any] = {
        "optimizer": "adamw",
        "lr": lr,
        "lr_min": lr / 100,
        "warmup_epochs": int(epochs > 1),
        "weight_decay": 0.01,
        "weight_decay_norms": False,
        "label_smoothing": 0.1,
    }
    module = Retrain(network, **{**settings, **own, **more})
    begun = time.process_time()
    trainer(epochs).fit(module, datamodule=data)
    return measured(module, data, time.process_time() - begun)


def measured(module: Retrain, data: TransferImages, seconds: float) -> dict[str, Any]:
    """Accuracies, and what the network costs."""
    alone = trainer(1, limit_val_batches=1.0)
    (test,) = alone.test(module, datamodule=data, verbose=False)
    (val,) = alone.validate(module, datamodule=data, verbose=False)
    costs = count(module.network, module.network.input_shape)
    return {
        "accuracy": test["test/accuracy"],
        "val_accuracy": val["val/accuracy"],
        "images": len(data.train_set),
        "test_images": len(data.test_set),
        "macs": costs.macs,
        "params": costs.params,
        "cpu_seconds": round(seconds, 1),
    }


def milliseconds(networks: Sequence[Subnet], device: Device) -> list[float]:
    """Median time of one image through each network; all run in turn, so that other load slows all alike."""
    with device.ready():
        runs = [device.prepare(network.eval()) for network in networks]
        for run in runs:
            for _ in range(WARM_UP):
                device.time(run)
        times = [[device.time(run) for run in runs] for _ in range(PASSES)]
    return [statistics.median(took) for took in zip(*times, strict=True)]
