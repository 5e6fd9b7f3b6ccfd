"""Search methods against each other and against chance: methods x seeds on one space and one data set.

    python experiments/compare/compare.py --methods darts gdas random_sharing --seeds 0 1 2 --out runs/compare

Schedules are short, so that a search takes one or two minutes on one core: fewer and smaller images, a thin supernet,
few epochs. Every method has the defaults of its paper but for what METHODS below lists, which is what a short schedule
must change. The folder gets runs/<method>-<seed>.json as soon as a run ends, and at the end results.json, table.md,
accuracy.png and epochs.png; the same command again runs what is missing. Methods that refuse the space are listed with
their reason. "random" draws an architecture and searches nothing.

What was found is scored in one of two ways. In NAS-Bench-201 it is looked up in nats_bench_tss.csv.gz (in the folder
that ONESHOT_DATA names): CIFAR-10 TEST accuracy after 200 epochs of training, whatever data the search saw. Elsewhere,
and with --retrain EPOCHS, its network of the supernet's size is trained from scratch and tested.

Data are "cifar10" (JPEGs in ONESHOT_DATA), "digits", or a folder of images with one sub-folder per class.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from oneshot.callbacks import CollapseMonitor  # noqa: E402
from oneshot.callbacks.collapse_monitor import skip_connections  # noqa: E402
from oneshot.cost import CostPenalty, count_candidates  # noqa: E402
from oneshot.cost.counting.network import count  # noqa: E402
from oneshot.data import Digits, ImageFolder, SearchDataModule, VisionData  # noqa: E402
from oneshot.data.images import ImageSet  # noqa: E402
from oneshot.engine.gradient import SingleLevelSearch  # noqa: E402
from oneshot.engine.module import SearchModule  # noqa: E402
from oneshot.engine.paths import PathTraining  # noqa: E402
from oneshot.report.curves import draw_curves  # noqa: E402
from oneshot.report.style import save_figure  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import (  # noqa: E402
    DARTSNetwork,
    DARTSSpace,
    DARTSSupernet,
    NASBench201Network,
    NASBench201Space,
    NASBench201Supernet,
    OperationSupernet,
    SearchSpace,
    SubnetConfig,
    reduced_space,
)
from oneshot.training.retrain import Retrain  # noqa: E402

SPACES = ("nasbench201", "darts", "s1", "s2", "s3", "s4")


# What a short schedule of e epochs changes, and nothing else. Papers search for 50 to 150 epochs with some 400 steps of
# the alphas each, a short one makes a fiftieth of that: so the rate of the alphas is k times the paper's (--arch-lr).
# For the same reason the rate of the weights is one for all methods (--weight-lr), four times that of most papers: with
# theirs, convolutions are hardly trained after 500 steps, and pooling and skip connections win. Epochs of a paper's
# schedule keep their share of the whole.


@dataclass(frozen=True)
class Method:
    target: str  # module and class, below oneshot.methods or of another folder
    changes: Callable[[int, float], dict[str, Any]]
    supernet: Mapping[str, Any] = field(default_factory=dict)
    latency: bool = False  # needs a cost: here the MACs of the supernet's candidates


# DARTS-PT: 6 decisions in NAS-Bench-201, an epoch after each of them instead of 5; the rest of the epochs come before
SELECTION = {"train_epochs": None, "tune_epochs": 1, "tune_lr": 0.01, "batches": 16}
METHODS = {
    "darts": Method("darts:DARTS", lambda e, k: {"arch_lr": 3e-4 * k}),
    "darts2": Method("darts:DARTS", lambda e, k: {"order": 2, "arch_lr": 3e-4 * k}),
    "pcdarts": Method(
        "pcdarts:PCDARTS",
        lambda e, k: {"arch_lr": 6e-4 * k, "arch_warmup_epochs": round(e * 15 / 50)},
        {"partial_channels": 4},
    ),
    "snas": Method("snas:SNAS", lambda e, k: {"arch_lr": 3e-4 * k}),
    "gdas": Method("gdas:GDAS", lambda e, k: {"arch_lr": 3e-4 * k}),
    "fbnet": Method(
        "fbnet:FBNet",
        lambda e, k: {
            "arch_lr": 0.01 * k,
            "arch_warmup_epochs": round(e * 10 / 90),
            "temperature_rate": 0.045 * 90 / e,
        },
        latency=True,
    ),
    "proxylessnas": Method(
        "proxylessnas:ProxylessNAS",
        lambda e, k: {"arch_lr": 1e-3 * k, "arch_warmup_epochs": round(e * 40 / 160), "arch_every": 1},
    ),
    "fairdarts": Method("fairdarts:FairDARTS", lambda e, k: {"arch_lr": 3e-3 * k}),
    "drnas": Method("drnas:DrNAS", lambda e, k: {"arch_lr": 3e-4 * k}),
    "smoothdarts": Method("smoothdarts:SmoothDARTS", lambda e, k: {"arch_lr": 3e-4 * k}),
    "robustdarts": Method(
        "robustdarts:RobustDARTS",
        lambda e, k: {"arch_lr": 3e-4 * k, "every": 1, "window": 3, "lag": 2, "start_epoch": round(e * 10 / 50)},
    ),
    "dartspt": Method("dartspt:DARTSPT", lambda e, k: {"arch_lr": 3e-4 * k, **SELECTION}),
    "dartspt_fixed": Method("dartspt:DARTSPT", lambda e, k: {"fixed_alphas": True, **SELECTION}),
    "random_sharing": Method("random_sharing:RandomSharing", lambda e, k: {"candidates": 200}),
    "fairnas": Method("fairnas:FairNAS", lambda e, k: {"candidates": 200}),
    # 150 epochs in the paper: the controller learns k times as fast, too
    "enas": Method("oneshot.methods.enas:ENAS", lambda e, k: {"controller_lr": 0.0035 * k, "candidates": 200}),
}
RANDOM = "random"

# CIFAR-10 test accuracy in NAS-Bench-201 as published by Dong and Yang (arXiv:2001.00326) and, by their protocol, in
# later papers; DARTS-PT is its own paper's (arXiv:2108.04392).
PUBLISHED = {
    "random_sharing": ("87.66 ± 1.69", ""),
    "darts": ("54.30", "nothing but skip connections: a collapse, not a score to be reproduced"),
    "darts2": ("54.30", "the same collapse"),
    "gdas": ("93.61 ± 0.09", ""),
    "snas": ("92.77 ± 0.83", ""),
    "pcdarts": ("93.41 ± 0.30", ""),
    "drnas": ("94.36", ""),
    "dartspt": ("88.11", ""),
    "dartspt_fixed": ("93.80", ""),
}


class PackedCIFAR10(VisionData):
    """The first images of the packed JPEGs, made smaller.

    Args:
        folder: With ``cifar10_jpeg_train.npz`` and ``cifar10_jpeg_test.npz``.
        image_size: Side in pixels.
        images: Training images; a fifth as many are the test set.
        **options: See `VisionData`.
    """

    def __init__(self, folder: Path, *, image_size: int, images: int, **options: Any) -> None:
        with np.load(folder / "cifar10_jpeg_test.npz") as pack:
            classes = [str(name) for name in pack["classes"]]
        super().__init__(classes, (3, image_size, image_size), **options)
        self.folder, self.images = folder, images

    def load(self, split: str) -> ImageSet | None:
        if split == "val":
            return None
        side, limit = self.input_shape[1], self.images if split == "train" else self.images // 5
        with np.load(self.folder / f"cifar10_jpeg_{split}.npz") as pack:
            jpeg, offsets, labels = pack["jpeg"], pack["offsets"], pack["labels"][:limit]
        pixels = np.empty((len(labels), side, side, 3), np.uint8)
        for i in range(len(labels)):
            with Image.open(BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())) as image:
                pixels[i] = image.convert("RGB").resize((side, side), Image.Resampling.BOX)
        return ImageSet.whole(
            torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels.astype(np.int64))
        )


def make_data(args: argparse.Namespace, seed: int) -> VisionData:
    options: dict[str, Any] = {"batch_size": args.batch, "seed": seed}
    if args.data == "cifar10":
        return PackedCIFAR10(data_folder(), image_size=args.size, images=args.images, **options)
    if args.data == "digits":
        return Digits(image_size=args.size, **options)
    return ImageFolder(args.data, image_size=args.size, in_memory=True, **options)


def data_folder() -> Path:
    if "ONESHOT_DATA" not in os.environ:
        raise SystemExit("The data are in the folder that the environment variable ONESHOT_DATA names; it is not set.")
    return Path(os.environ["ONESHOT_DATA"])


def make_supernet(args: argparse.Namespace, data: VisionData, **options: Any) -> OperationSupernet:
    options |= {"channels": args.channels, "num_classes": data.num_classes}
    options |= {"in_channels": data.input_shape[0], "image_size": data.input_shape[1]}
    if args.space == "nasbench201":
        return NASBench201Supernet(cells_per_stage=args.cells, **options)
    return DARTSSupernet(None if args.space == "darts" else reduced_space(args.space), cells=args.cells, **options)


def make_search(name: str, args: argparse.Namespace, data: VisionData) -> SearchModule:
    method = METHODS[name]
    module, cls = method.target.split(":")
    supernet = make_supernet(args, data, **method.supernet)
    options = changes(name, args)
    if method.latency:
        options["penalty"] = CostPenalty(count_candidates(supernet, "macs"), "fbnet")
    search = getattr(import_module(module if "." in module else f"oneshot.methods.{module}"), cls)(supernet, **options)
    assert isinstance(search, SearchModule)
    return search


def changes(name: str, args: argparse.Namespace) -> dict[str, Any]:
    return {"weight_lr": args.weight_lr, **METHODS[name].changes(args.epochs, args.arch_lr)}


class Trajectory(pl.Callback):
    """What would be derived after every epoch; methods without alphas have no opinion before the last."""

    def __init__(self) -> None:
        self.configs: list[SubnetConfig] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SearchModule)
        if not isinstance(pl_module, PathTraining):
            self.configs.append(pl_module.derive())


def make_trainer(args: argparse.Namespace, epochs: int, callbacks: Sequence[pl.Callback] = (), **options: Any) -> Any:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(
        accelerator=args.accelerator, devices=1, max_epochs=epochs, callbacks=list(callbacks), **quiet, **options
    )


def run(name: str, seed: int, args: argparse.Namespace, table: Table | None) -> dict[str, Any]:
    """Search once, and say what was found."""
    pl.seed_everything(seed, verbose=False)
    start, data, trajectory = time.process_time(), make_data(args, seed), Trajectory()
    monitor = CollapseMonitor(start_epoch=round(args.epochs * 10 / 50))
    if name == RANDOM:
        space: SearchSpace = make_supernet(args, data).space
        config, changed = space.sample(seed), {}
    else:
        search, changed = make_search(name, args, data), changes(name, args)
        single, space = isinstance(search, SingleLevelSearch), search.supernet.space
        # one validation, after the last epoch: it is where held-out images without augmentation come from
        validation = {"limit_val_batches": 0 if single else 1, "check_val_every_n_epoch": args.epochs}
        trainer = make_trainer(args, args.epochs, [trajectory, monitor], num_sanity_val_steps=0, **validation)
        trainer.fit(search, datamodule=data if single else SearchDataModule(data, seed=seed))
        config = search.derive()
    seconds = time.process_time() - start
    network = full_network(space, config)
    size = count(network, network.input_shape)
    result: dict[str, Any] = {
        "method": name,
        "seed": seed,
        "changes": changed,
        "seconds": seconds,
        "arch": arch_string(space, config),
        "config": config.to_dict(),
        "params": size.params,
        "macs": size.macs,
        "skips": skip_connections(space, config),
        "collapsed": None if name == RANDOM else monitor.collapsed_since is not None,
        "epochs": [
            {"skips": skip_connections(space, c), **({"accuracy": table.accuracy(c)} if table else {})}
            for c in trajectory.configs
        ],
    }
    if table:
        result |= {"accuracy": table.accuracy(config), "percentile": table.percentile(config)}
    if args.retrain:
        result["retrained"] = retrain(config, args, seed)
    return result


def retrain(config: SubnetConfig, args: argparse.Namespace, seed: int) -> float:
    """Test accuracy in percent of the network as wide and deep as the supernet, trained from scratch on all images."""
    pl.seed_everything(seed, verbose=False)
    data = make_data(args, seed)
    module = Retrain(make_supernet(args, data).extract(config, inherit=False))
    trainer = make_trainer(args, args.retrain, limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    return 100 * float(trainer.test(module, datamodule=data, verbose=False)[0]["test/accuracy"])


def full_network(space: SearchSpace, config: SubnetConfig) -> NASBench201Network | DARTSNetwork:
    """The network that tables and papers train."""
    if isinstance(space, NASBench201Space):
        return NASBench201Network(space.arch_string(config))
    assert isinstance(space, DARTSSpace)
    return DARTSNetwork(space.genotype(config))


def arch_string(space: SearchSpace, config: SubnetConfig) -> str:
    if isinstance(space, NASBench201Space):
        return space.arch_string(config)
    assert isinstance(space, DARTSSpace)
    return str(space.genotype(config))


class Table:
    """CIFAR-10 test accuracy in percent of every architecture of NAS-Bench-201."""

    def __init__(self, folder: Path) -> None:
        with gzip.open(folder / "nats_bench_tss.csv.gz", "rt", newline="", encoding="utf-8") as file:
            self.rows = {row["arch"]: float(row["cifar10_test_accuracy"]) for row in csv.DictReader(file)}
        self.values, self.space = np.sort(list(self.rows.values())), NASBench201Space()

    def accuracy(self, config: SubnetConfig) -> float:
        return self.rows[self.space.arch_string(config)]

    def percentile(self, config: SubnetConfig) -> float:
        """Share of all architectures that are worse, in percent."""
        return 100 * float(np.searchsorted(self.values, self.accuracy(config))) / len(self.values)


# The folder.


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What all runs of a folder have in common."""
    names = ("space", "data", "images", "size", "batch", "channels", "cells", "epochs", "arch_lr", "weight_lr")
    return {name: getattr(args, name) for name in (*names, "retrain", "accelerator", "threads")}


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_utilities")  # advice on loaders and loggers
    warnings.filterwarnings("ignore", "The search has collapsed")  # it is in the table
    settings, path = settings_of(args), args.out / "settings.json"
    if path.is_file() and (before := json.loads(path.read_text(encoding="utf-8"))) != settings:
        different = sorted(name for name in settings if before.get(name) != settings[name])
        raise SystemExit(f"{args.out} holds runs that differ in {', '.join(different)}; choose another folder: --out.")
    write_atomically(path, json.dumps(settings, indent=2) + "\n")

    table = Table(data_folder()) if args.space == "nasbench201" else None
    refused: dict[str, str] = {}
    for name in args.methods:
        for seed in args.seeds:
            file = args.out / "runs" / f"{name}-{seed}.json"
            if file.is_file():
                continue
            try:
                result = run(name, seed, args, table)
            except (ModuleNotFoundError, ValueError) as error:  # the space is not for this method
                refused[name] = str(error)
                print(f"{name}: refused: {error}")
                break
            write_atomically(file, json.dumps(result, indent=2) + "\n")
            print(f"{name}, seed {seed}: {result['seconds']:.0f} s, {score(result):.2f} %, {result['arch']}")

    files = [args.out / "runs" / f"{name}-{seed}.json" for name in args.methods for seed in args.seeds]
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
    report = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "settings": settings,
        "commit": commit(),
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "lightning": pl.__version__},
        "chance": chance(table) if table else None,
        "refused": refused,
        "runs": runs,
    }
    write_atomically(args.out / "results.json", json.dumps(report, indent=2) + "\n")
    text = markdown(report)
    write_atomically(args.out / "table.md", text)
    if runs:
        draw_scores(report, args.out / "accuracy.png")
        draw_epochs(report, args.out / "epochs.png")
    print(f"\n{text}")


def score(result: Mapping[str, Any]) -> float:
    return float(result["accuracy"] if "accuracy" in result else result["retrained"])


def chance(table: Table) -> dict[str, float]:
    values = table.values
    return {"mean": float(values.mean()), "median": float(np.median(values)), "best": float(values[-1])}


def commit() -> str:
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def by_method(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(result["method"] for result in report["runs"])
    return {name: [result for result in report["runs"] if result["method"] == name] for name in names}


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and the standard deviation where there are several."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def markdown(report: Mapping[str, Any]) -> str:
    settings, chances = report["settings"], report["chance"]
    lookup = chances is not None
    lines = [f"# {settings['space']}, searched on {settings['data']}", ""]
    lines += [
        f"Reduced: {settings['images'] if settings['data'] == 'cifar10' else 'all'} training images of "
        f"{settings['size']} pixels, half of them for the alphas where a method needs that; batches of "
        f"{settings['batch']}; {settings['channels']} channels; cells"
        f"{' a stage' if settings['space'] == 'nasbench201' else ''}: {settings['cells']}; epochs: "
        f"{settings['epochs']}; rate of the alphas: {settings['arch_lr']:g} times the paper's, of the weights: "
        f"{settings['weight_lr']:g}; threads: {settings['threads']}; "
        f"{report['hardware']}; torch {report['versions']['torch']}; commit {report['commit']}.",
        "",
    ]
    columns = ["method", "seeds", *(["table, %", "better than, %"] if lookup else [])]
    columns += [
        *(["retrained, %"] if settings["retrain"] else []),
        "CPU seconds",
        "M params",
        "M MACs",
        "skips",
        "collapsed",
    ]
    lines += [" | ".join(["", *columns, ""]).strip(), "|" + "---|" * len(columns)]
    for name, runs in by_method(report).items():
        cells = [name, str(len(runs))]
        if lookup:
            cells += [spread([r["accuracy"] for r in runs]), spread([r["percentile"] for r in runs], 0)]
        if settings["retrain"]:
            cells.append(spread([r["retrained"] for r in runs]))
        cells += ["–" if name == RANDOM else spread([r["seconds"] for r in runs], 0)]
        cells += [spread([r[key] / 1e6 for r in runs], digits) for key, digits in (("params", 2), ("macs", 0))]
        collapsed = "–" if name == RANDOM else f"{sum(r['collapsed'] for r in runs)} of {len(runs)}"
        lines.append(f"| {' | '.join([*cells, spread([r['skips'] for r in runs], 1), collapsed])} |")
    lines += ["", "± is the standard deviation over seeds. Parameters and MACs are those of the full network."]
    if lookup:
        lines += [
            "",
            f"All 15,625 architectures of the table: mean {chances['mean']:.2f} %, median {chances['median']:.2f} %, "
            f"best {chances['best']:.2f} %. The table holds CIFAR-10 TEST accuracy after 200 epochs, to compare what "
            "was found; no method has seen it, and who selects by it is scored on what they optimised.",
            "",
            "Published, with full schedules (not comparable with the above, nor strictly with one another, because "
            "statistics of batch normalisation were handled in different ways):",
            "",
            "| method | CIFAR-10 test, % | |",
            "|---|---|---|",
            *(f"| {name} | {value} | {note} |" for name, (value, note) in PUBLISHED.items()),
        ]
    if report["refused"]:
        lines += ["", "Refused:", "", *(f"- {name}: {reason}" for name, reason in report["refused"].items())]
    lines += ["", "| method | seed | found | changed for the short schedule |", "|---|---|---|---|"]
    for result in report["runs"]:
        changed = ", ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in result["changes"].items()
        )
        arch = result["arch"].replace("|", "\\|")
        lines.append(f"| {result['method']} | {result['seed']} | `{arch}` | {changed} |")
    return "\n".join(lines) + "\n"


def draw_scores(report: Mapping[str, Any], path: Path) -> None:
    """A dot per run, a bar for the mean, and what chance and the best have; beside it what a search takes."""
    from matplotlib.figure import Figure

    groups = by_method(report)
    figure = Figure(figsize=(9.5, 1.2 + 0.36 * len(groups)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, (name, runs) in enumerate(groups.items()):
        values, colour = [score(result) for result in runs], "#888888" if name == RANDOM else "#0072B2"
        left.plot(values, [place] * len(values), "o", color=colour, ms=5, alpha=0.75, mec="none")
        left.plot([statistics.mean(values)] * 2, [place - 0.3, place + 0.3], color=colour, lw=2)
        for result, value in zip(runs, values, strict=True):
            if result["collapsed"]:
                left.plot(value, place, "x", color="#D55E00", ms=7)
        if name != RANDOM:
            right.barh(place, statistics.mean(r["seconds"] for r in runs), 0.6, color=colour)
    if chances := report["chance"]:
        for key, style in (("mean", ":"), ("best", "--")):
            left.axvline(chances[key], color="#444444", lw=1, ls=style, label=f"{key} of the table")
        figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=2)
    left.set_yticks(range(len(groups)), list(groups))
    left.invert_yaxis()
    left.set_xlabel("CIFAR-10 test accuracy of the table, %" if report["chance"] else "retrained, test accuracy, %")
    left.set_title("what was found (x: collapsed)", loc="left", fontsize=10)
    right.set_title("CPU seconds of a search", loc="left", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#EEEEEE")
        axes.set_axisbelow(True)
    save_figure(figure, path)


def draw_epochs(report: Mapping[str, Any], path: Path) -> None:
    """What would be derived after every epoch, in the mean over seeds."""
    panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    titles = {"accuracy": "table accuracy of what is derived, %", "skips": "its skip connections"}
    for key, title in titles.items():
        for name, runs in by_method(report).items():
            lines = [[epoch.get(key) for epoch in result["epochs"]] for result in runs if result["epochs"]]
            if lines and all(None not in line for line in lines):  # without a table there is no accuracy
                means = [statistics.mean(values) for values in zip(*lines, strict=False)]
                panels.setdefault(title, {})[name] = (list(range(1, len(means) + 1)), means)
    if panels:
        save_figure(draw_curves(panels), path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [RANDOM, *METHODS]
    parser.add_argument(
        "--methods", nargs="+", default=["darts", "gdas", "random_sharing", RANDOM], help=", ".join(known)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--space", choices=SPACES, default="nasbench201")
    parser.add_argument("--data", default="cifar10", help="cifar10, digits, or a folder of images")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--images", type=int, default=4000, help="training images of cifar10")
    parser.add_argument("--size", type=int, default=16, help="pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--cells", type=int, default=1, help="of a stage in nasbench201, of the network in darts")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--arch-lr", type=float, default=10.0, help="times the paper's learning rate of the alphas")
    parser.add_argument("--weight-lr", type=float, default=0.1, help="learning rate of the weights, of every method")
    parser.add_argument("--retrain", type=int, default=0, help="epochs to train what was found from scratch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")
    args = parser.parse_args()
    args.methods = [name for value in args.methods for name in value.split(",") if name]
    args.methods, args.seeds = list(dict.fromkeys(args.methods)), list(dict.fromkeys(args.seeds))
    if unknown := sorted(set(args.methods) - set(known)):
        parser.error(f"methods are {', '.join(known)}; got {', '.join(unknown)}")
    if args.space != "nasbench201" and not args.retrain:
        parser.error(f"there is no table of {args.space}; say how long to train what was found: --retrain EPOCHS")
    return args


if __name__ == "__main__":
    main()
