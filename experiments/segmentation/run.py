"""Searches an encoder for the synthetic shapes, and retrains it beside fixed and random ones under the same budget.

Per seed: DARTS, first order, on the SqueezeNAS space; the derived encoder, all layers k3_e3, all layers k3_e6 (the
expansion and kernel of MobileNetV2) and a random encoder are trained from scratch on all training images, each with the
same images, order, epochs and learning rate. What counts is the mean intersection over union on the test images, which
no search has seen; learning rates were tried with all layers k3_e3, on images drawn with another seed. Usage:

    python experiments/segmentation/run.py [--seeds 0 1 2] [--threads 1] [--out FOLDER]

Writes results.json and predictions.png (the first seed's networks on the first test images) into FOLDER.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402

from oneshot.cost import count  # noqa: E402
from oneshot.cost.latency.device import processor  # noqa: E402
from oneshot.data import SearchDataModule, Shapes  # noqa: E402
from oneshot.methods.darts import DARTS  # noqa: E402
from oneshot.report.segmentation import draw_segmentations  # noqa: E402
from oneshot.report.style import save_figure  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import SegmentationNetwork, SegmentationSupernet, segmentation_space  # noqa: E402
from oneshot.training.retrain import Retrain  # noqa: E402

SIZE: dict[str, Any] = {"layers_per_stage": 2, "width": 0.5, "num_classes": 4, "image_size": 64}
SPACE = segmentation_space(layers_per_stage=SIZE["layers_per_stage"])
FIXED = {"k3_e3": ["k3_e3"] * SPACE.num_genes, "k3_e6": ["k3_e6"] * SPACE.num_genes}


def shapes(args: argparse.Namespace, seed: int) -> Shapes:
    sizes: dict[str, Any] = {"image_size": SIZE["image_size"], "train_size": args.train, "test_size": args.test}
    return Shapes(**sizes, batch_size=8, scale=(1.0, 1.0), images_seed=1, seed=seed)


def trainer(epochs: int) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, limit_val_batches=0, **quiet)


def search(args: argparse.Namespace, seed: int) -> list[str]:
    """Layers of the encoder that a search derives."""
    pl.seed_everything(seed, verbose=False)
    module = DARTS(SegmentationSupernet(**SIZE), weight_lr=0.1, arch_lr=0.02, arch_warmup_epochs=1)
    trainer(args.search_epochs).fit(module, datamodule=SearchDataModule(shapes(args, seed), seed=seed))
    return [str(pick) for pick in module.derive()["layer"]]


def train(args: argparse.Namespace, layers: list[str], seed: int) -> tuple[dict[str, Any], SegmentationNetwork]:
    """Size and test metrics of an encoder trained from scratch, and the network."""
    pl.seed_everything(seed, verbose=False)
    network = SegmentationNetwork(layers, **SIZE).to(memory_format=torch.channels_last)
    module, data = Retrain(network, lr=0.1, warmup_epochs=1), shapes(args, seed)
    fitted = trainer(args.epochs)
    fitted.fit(module, datamodule=data)
    (metrics,) = fitted.test(module, datamodule=data, verbose=False)
    size = count(network, network.input_shape)
    return {"layers": layers, "params": size.params, "macs": size.macs, **metrics}, network.eval()


def picture(args: argparse.Namespace, networks: dict[str, SegmentationNetwork]) -> None:
    data = shapes(args, 0)
    x, y = next(iter(data.test_dataloader()))
    pixels = data.test_images.pixels[torch.arange(6)].permute(0, 2, 3, 1).numpy()
    with torch.no_grad():
        predictions = {name: net(x[:6]).argmax(1).numpy() for name, net in networks.items()}
    figure = draw_segmentations(pixels, y[:6].numpy(), predictions, data.classes)
    save_figure(figure, args.out / "predictions.png")


def spread(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else float("nan")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train", type=int, default=384, help="training images")
    parser.add_argument("--test", type=int, default=256, help="test images")
    parser.add_argument("--search-epochs", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=12, help="epochs of every training from scratch")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers")  # shapes are in memory

    started, cpu = time.perf_counter(), time.process_time()
    runs: dict[str, list[dict[str, Any]]] = {}
    for number, seed in enumerate(args.seeds):
        begun, networks = time.process_time(), {}
        found = search(args, seed)
        print(f"seed {seed}: found {' '.join(found)} in {time.process_time() - begun:.0f} CPU seconds", flush=True)
        rivals = {"found": found, **FIXED, "random": [str(pick) for pick in SPACE.sample(seed)["layer"]]}
        for name, layers in rivals.items():
            begun = time.process_time()
            result, networks[name] = train(args, layers, seed)
            runs.setdefault(name, []).append({"seed": seed, **result})
            took = time.process_time() - begun
            print(f"seed {seed}: {name} mIoU {result['test/miou']:.4f} in {took:.0f} CPU seconds", flush=True)
        if number == 0:
            picture(args, networks)
        write(args, runs, time.perf_counter() - started, time.process_time() - cpu)


def write(args: argparse.Namespace, runs: dict[str, list[dict[str, Any]]], seconds: float, cpu_seconds: float) -> None:
    """Write and print what there is so far."""
    results: dict[str, Any] = {
        "command": " ".join(["python experiments/segmentation/run.py", *sys.argv[1:]]),
        "settings": {**{k: v for k, v in vars(args).items() if k != "out"}, **SIZE},
        "hardware": {"cpu": processor(), "threads": args.threads},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
        "miou": {name: spread([run["test/miou"] for run in found]) for name, found in runs.items()},
        "runs": runs,
    }
    write_atomically(args.out / "results.json", json.dumps(results, indent=1) + "\n")
    for name, found in runs.items():
        miou, macs = results["miou"][name], statistics.mean(run["macs"] for run in found)
        print(f"{name:8} mIoU {miou['mean']:.4f} ± {miou['std']:.4f}   {macs / 1e6:.2f} M MACs")


if __name__ == "__main__":
    main()
