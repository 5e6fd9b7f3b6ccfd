"""``oneshot auto`` on a folder of images, and a MobileNetV3-small from random weights beside it.

The command runs as a user runs it, and its wall time is taken. With trained weights, its summary has the network that
was found and the original, transferred to the same images. MobileNetV3-small is trained here, on the same images for as
many epochs as the other two together, and tested on the same test images. All networks are timed in turn. Usage, on a
machine that does nothing else:

    python experiments/auto/run.py IMAGES --latency 1.5 [--minutes 30] [--from timm:NAME --weights FILE] [--out FOLDER]

IMAGES is a folder, or the name of an image set in the folder that ONESHOT_DATA names, which is written as a folder
first. A row of the run goes to results.json; the folder of the run stays in work/.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402

import oneshot  # noqa: E402
from oneshot.cli.auto_work import times  # noqa: E402
from oneshot.cli.data_defaults import build_data  # noqa: E402
from oneshot.cost import Device, count  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets.base import Subnet  # noqa: E402
from oneshot.training import Retrain  # noqa: E402

SIBLING = "timm:mobilenetv3_small_100"
PARTS = ("train", "test")


def folder_of(images: str, work: Path) -> Path:
    """The folder of images, written from an image set if it is the name of one."""
    if Path(images).is_dir():
        return Path(images)
    source, folder = Path(os.environ.get("ONESHOT_DATA", ".")) / f"{images}.npz", work / images
    if not source.is_file():
        raise SystemExit(f"IMAGES must be a folder or an image set in ONESHOT_DATA; {images} is none of them.")
    if folder.is_dir():
        return folder
    unfinished = work / f"{images}.part"
    shutil.rmtree(unfinished, ignore_errors=True)
    with np.load(source) as arrays:
        jpeg, ends, labels, classes, split = (arrays[n] for n in ("jpeg", "offsets", "labels", "classes", "split"))
        for number, (label, part) in enumerate(zip(labels, split, strict=True)):
            place = unfinished / PARTS[int(part)] / str(classes[label])
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:05}.jpg").write_bytes(jpeg[ends[number] : ends[number + 1]].tobytes())
    return unfinished.rename(folder)


def searched(args: argparse.Namespace, images: Path, out: Path) -> float:
    """Run the command; returns its wall time in seconds."""
    words = ["auto", str(images), "--latency", f"{args.latency:g}", "--minutes", f"{args.minutes:g}", "--out", str(out)]
    if args.source:
        words += ["--from", args.source, "--weights", args.weights, "--weights-by-order"]
    print(f"oneshot {' '.join(words)}", flush=True)
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "oneshot", *words], check=True)
    return time.monotonic() - begun


def sibling(out: Path, plan: dict[str, Any]) -> tuple[Subnet, Any]:
    """MobileNetV3-small, trained from random weights on the same images, and the images."""
    pl.seed_everything(plan["asked"]["seed"], verbose=False)
    data = build_data(plan["data"])
    data.prepare_data()
    data.setup("fit")
    supernet = oneshot.convert(source=SIBLING, num_classes=len(data.classes), input_shape=data.input_shape)
    network = supernet.extract(supernet.space.largest, inherit=False)
    module = Retrain(network, optimizer="adamw", lr=2e-3, lr_min=2e-5, weight_decay=0.01, warmup_epochs=1)
    epochs = plan["effort"]["epochs"] + plan["effort"]["tuning"]
    off: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=epochs, limit_val_batches=0, **off)
    trainer.fit(module, datamodule=data)
    print(f"{SIBLING}: {epochs} epochs", flush=True)
    (found,) = trainer.test(module, datamodule=data, verbose=False)
    network.eval()
    return network, (float(found["test/accuracy"]), epochs)


def main() -> None:
    """Run the command, then what stands beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", help="a folder of images, or the name of an image set in ONESHOT_DATA")
    parser.add_argument("--latency", type=float, required=True, help="milliseconds")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--from", dest="source", help="a network to begin with, such as timm:tf_efficientnet_lite0")
    parser.add_argument("--weights", help="file with its weights")
    parser.add_argument("--no-sibling", action="store_true", help="do not train MobileNetV3-small")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder for images and runs")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    images = folder_of(args.images, args.work)
    out = args.work / f"{images.name}-{args.latency:g}ms-{(args.source or 'mobilenetv3').rpartition(':')[2]}"
    if out.exists():
        raise SystemExit(f"The run must be a new one; {out} exists. Delete it, or give another --work.")
    seconds = searched(args, images, out)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    row: dict[str, Any] = {
        "images": images.name,
        "latency": args.latency,
        "minutes": args.minutes,
        "source": args.source,
        "wall_minutes": round(seconds / 60, 1),
        "size": plan["size"],
        "counts": plan["counts"],
        "file_ms": summary["file_ms"],
        "table": summary["table"],
        "warnings": summary["warnings"],
        "torch": torch.__version__,
    }
    if not args.no_sibling:
        network, (accuracy, epochs) = sibling(out, plan)
        device = Device(plan["asked"]["runtime"], "cpu", threads=plan["asked"]["threads"])
        own = [oneshot.load(out / name) for name in ("network", "original") if (out / name).is_dir()]
        took = times([*own, network], device)
        row["in_turn_ms"] = [round(ms, 3) for ms in took]
        costs = count(network, network.input_shape)
        row["table"].append(
            {
                "network": f"{SIBLING}, random weights, {epochs} epochs",
                "accuracy": f"{accuracy:.4f}",
                "ms": f"{took[-1]:.3g}",
                "params": costs.params,
            }
        )
    known = json.loads(args.results.read_text(encoding="utf-8")) if args.results.is_file() else []
    write_atomically(args.results, json.dumps([*known, row], indent=1) + "\n")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
