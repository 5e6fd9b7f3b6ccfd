"""What ``oneshot auto`` finds out before it starts: what the data are, which space fits, how fast the machine is."""

from __future__ import annotations

import itertools
import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from oneshot._lightning import quiet_jsonargparse
from oneshot.conversion.sources import TIMM, TORCHVISION
from oneshot.cost.counting.candidates import count_candidates
from oneshot.cost.extremes import extremes
from oneshot.cost.latency.device import Device
from oneshot.data.segmentation import part_folders
from oneshot.deploy.export import read_task
from oneshot.errors import HeadError
from oneshot.inputs import Inputs
from oneshot.supernets.base import Subnet, Supernet, example_inputs, lay_out, layout_of
from oneshot.supernets.space import IntMatrix
from oneshot.tasks.task import task_of
from oneshot.training.head import fit_head
from oneshot.training.layout import lay_out_for_training

from .auto_plan import Speed, effort
from .data_defaults import build_data, fit_to_data

SIZES = (32, 48, 64, 96, 128, 160, 192, 224)  # of square images, in pixels
LARGE_STEM = 96  # from this side on the first layers halve the images as those for ImageNet do
MEMORY = 2e9  # bytes of decoded images that are kept; more are decoded each time
LEAST = 10  # training samples
TRIED = 16  # samples of a step that is tried
# Place of the effort from which on larger images are preferred to more of everything else, with trained weights and
# without. Small images cost a pretrained network more than few epochs: EfficientNet-Lite0 on 850 photos of flowers has
# 72.0 % at 32 pixels after 8 epochs, 81.0 % at 64 after 3, and 84.0 % at 96 with nothing trained but the classifier.
WANTED = {True: 0.05, False: 0.5}
TIMES = {True: 3, False: 4}  # the limit: what the largest network may take, since a small part of it loses too much
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
Config = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """Data, and how they are described.

    Args:
        config: Class and arguments, as in a YAML file.
        data: Set up for a fit.
        kind: ``"images"``, ``"table"``, ``"series"`` or ``"arrays"``.
    """

    config: Config
    data: Any
    kind: str

    @property
    def side(self) -> int:
        """The shorter side of the images."""
        return int(min(self.data.input_shape[1:]))


def task_with(data: Any, metric: str) -> dict[str, Any]:
    """The task of data with another metric, as files name it.

    Raises:
        ValueError: If the task has no such metric.
    """
    told: dict[str, Any] = task_of(data.task).to_dict()
    task = {**told, "init_args": {**told["init_args"], "metric": metric}}
    read_task(task)
    return task


def open_data(
    given: str, *, target: str | None, leave_out: Sequence[str] = (), seed: int, held_out: float = 0.2
) -> Found:
    """The data that a path names: a folder of images, a CSV file with a column to predict, or an ``.npz`` file.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is none of these, or holds too few samples.
    """
    path = Path(given)
    if not path.exists():
        raise FileNotFoundError(f"IMAGES must be a folder of images, a .csv or an .npz file; there is no {given}.")
    common: Config = {"seed": seed, "val_fraction": held_out}
    if path.is_dir():
        if any((place / "masks").is_dir() for place in _parts(path)):
            raise ValueError(
                f"{given} holds masks, and 'oneshot auto' knows classes and numbers only. Use 'oneshot search' with "
                "SegmentationFolder, see docs/tasks.md."
            )
        kind, config = "images", _config("ImageFolder", root=given, unreadable="skip", **common)
    elif path.suffix.lower() in (".csv", ".tsv"):
        if target is None:
            raise ValueError(f"--target must name the column of {given} that is to be predicted; got none.")
        delimiter = {"delimiter": "\t"} if path.suffix.lower() == ".tsv" else {}
        options = {**delimiter, **({"leave_out": list(leave_out)} if leave_out else {}), **common}
        kind, config = "table", _config("TableData", x=given, target=target, missing="fill", **options)
    elif path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            axes = arrays["x"].ndim if "x" in arrays else 0
        kind = "series" if axes in (2, 3) else "arrays"
        config = _config("TimeSeries" if kind == "series" else "ArrayData", x=given, **common)
    else:
        raise ValueError(
            f"IMAGES must be a folder with a folder of images for each class, a .csv file with --target COLUMN, or an "
            f".npz file with arrays x and y; got {given}."
        )
    data: Any = build_data(config)
    data.prepare_data()
    data.setup("fit")
    if len(data.train_set) < LEAST or not len(data.val_set or ()):
        raise ValueError(
            f"There must be at least {LEAST} training samples, and some of each class for validation and test; "
            f"{given} leaves {len(data.train_set)} to train, {len(data.val_set or ())} to validate and "
            f"{len(data.test_set)} to test. Add more."
        )
    return Found(config, data, kind)


def _parts(path: Path) -> list[Path]:
    try:
        return list(part_folders(path).values())
    except (ValueError, FileNotFoundError):
        return []


def _config(name: str, **arguments: Any) -> Config:
    return {"class_path": f"oneshot.data.{name}", "init_args": arguments}


def resized(found: Found, size: int, batch: int, source: str | None) -> Config:
    """The configuration of the data for images of a size, in batches, normalised as a pretrained network expects."""
    arguments = {**found.config["init_args"], "batch_size": batch}
    if found.kind == "images":
        channels = found.data.input_shape[0]
        count = len(found.data.train_set) + len(found.data.val_set) + len(found.data.test_set)
        arguments |= {"image_size": size, "in_memory": count * channels * size * size < MEMORY}
        if source is not None and channels == 3 and (scale := _normalisation(source)) is not None:
            arguments |= {"mean": list(scale[0]), "std": list(scale[1])}
    return {**found.config, "init_args": arguments}


def read_by(network: Subnet, config: Config) -> Config:
    """The configuration of images as a network reads them, which may have taken a smaller resolution."""
    return {**config, "init_args": {**config["init_args"], "image_size": list(network.input_shape[1:])}}


def _normalisation(source: str) -> tuple[Any, Any] | None:
    """Mean and deviation that the published weights of a network were trained with."""
    library, _, name = source.partition(":")
    if library == TIMM:
        import timm

        known = timm.get_pretrained_cfg(name, allow_unregistered=True)
        return None if known is None else (known.mean, known.std)
    return IMAGENET if library == TORCHVISION else None


def spaces(
    found: Found, size: int, source: str | None, weights: str | None, *, by_order: bool
) -> list[tuple[str, Config]]:
    """Search spaces that suit the data, the one with the largest networks first, each with its name in words."""
    if source is not None:
        given: Config = {"source": source}
        given |= {"weights": weights} if weights else {}
        given |= {"weights_by_order": True} if by_order else {}
        return [(f"{source} with fewer channels and blocks", {"class_path": "oneshot.convert", "init_args": given})]
    if found.kind == "table":
        name = "blocks of linear layers, width {}"
        return [(name.format(w), _space("MLPSupernet", width=w)) for w in (128, 32)]
    if found.kind == "series":
        name = "convolutions of 3 to 17 steps, from {} channels on"
        return [(name.format(c), _space("SeriesSupernet", channels=c)) for c in (16, 8)]
    if len(found.data.input_shape) != 3:
        raise ValueError(
            f"'oneshot auto' knows images, series and tables; {found.config['init_args']} has inputs of shape "
            f"{found.data.input_shape}. 'oneshot pareto' takes a supernet of your choice."
        )
    stem = "imagenet" if (size or found.side) >= LARGE_STEM else "cifar"
    widths = [[0.25, 0.5, 0.75, 1.0], [0.25, 0.35, 0.5], [0.1, 0.15, 0.25]]
    fixed = {} if found.kind == "images" else {"resolutions": [size or found.side]}  # arrays are not resized
    return [
        (
            f"MobileNetV3, widths {w[0]} to {w[-1]}",
            _space(
                "MobileNetV3Supernet",
                stem=stem,
                widths=w,
                depths=[1, 2, 3],
                kernels=[3, 5],
                expansions=[2, 3, 4],
                **fixed,
            ),
        )
        for w in widths
    ]


def _space(name: str, **arguments: Any) -> Config:
    return {"class_path": f"oneshot.supernets.{name}", "init_args": arguments}


def build_supernet(config: Config, data: Any, input_shape: Any = None) -> Supernet:
    """The supernet of a configuration, for the task of the data and inputs of their shape, or of another one."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Supernet, "supernet", required=True)
    shape: Any = SimpleNamespace(num_classes=data.num_classes, input_shape=input_shape or data.input_shape)
    with quiet_jsonargparse():
        options = parser.parse_object({"supernet": config})
        fit_to_data(options.supernet, shape)
        supernet: Supernet = parser.instantiate_classes(options).supernet
    supernet.task = task_of(data.task)
    return supernet


@dataclass(frozen=True)
class Trial:
    """A space at a size, tried for some steps.

    Args:
        name: The space, in words.
        config: Likewise, as in a YAML file.
        size: Side of the images; 0 of other data.
        speed: Of this machine.
        smallest: Milliseconds of the smallest network on the device.
        largest: Milliseconds of the largest.
        network: The smallest.
    """

    name: str
    config: Config
    size: int
    speed: Speed
    smallest: float
    largest: float
    network: Subnet


def choose(found: Found, asked: Mapping[str, Any], device: Device, told: Callable[[str], None]) -> tuple[Trial, str]:
    """The largest images, and the largest networks, that data, budget and latency allow.

    Args:
        found: The data.
        asked: Arguments of :func:`oneshot.auto`.
        device: What latencies are measured on.
        told: Is told what is tried.

    Returns:
        What was chosen, and why nothing larger was.
    """
    asked_size, limit, source = asked["image_size"], asked["latency"], asked["source"]
    pretrained, sizes = bool(asked["weights"]), [0]
    if found.kind == "images":
        sizes = [asked_size] if asked_size else [s for s in SIZES if s <= found.side][::-1] or [SIZES[0]]
    reason = "as was asked" if asked_size else "the images are not larger"
    last: Trial | None = None
    for size in sizes:
        for name, config in spaces(found, size, source, asked["weights"], by_order=asked["weights_by_order"]):
            told(f"trying {name}" + (f", {size} x {size} pixels" if size else ""))
            last = _try_out(found, name, config, size, device, most=32 if source else 64)
            try:
                place = effort(last.speed, minutes=asked["minutes"], pretrained=pretrained)[1]
            except ValueError:
                place = -1.0
            if last.smallest > 0.8 * limit:
                reason = f"with {size} pixels the fastest network takes {last.smallest:.3g} ms"
            elif last.largest > TIMES[pretrained] * limit:
                reason = f"with {size} pixels the largest network takes {last.largest / limit:.1f} times the limit"
            elif place < WANTED[pretrained]:
                reason = f"with {size} pixels {asked['minutes']:g} minutes are few"
            else:
                return last, reason
    assert last is not None
    return last, f"{'as was asked' if asked_size else 'no smaller ones are tried'}; {reason}"


def _try_out(found: Found, name: str, config: Config, size: int, device: Device, *, most: int) -> Trial:
    """Run a few steps, and time the smallest and the largest network."""
    data = found.data
    shape = (data.input_shape[0], size, size) if size else data.input_shape
    supernet = build_supernet(config, data, shape)
    images, space = len(data.train_set), supernet.space
    batch = max(2, min(most, images // 8 // 2 * 2))  # even, and so that an epoch has eight steps if that can be
    ends = _ends(supernet)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        smallest, largest = (supernet.extract(config) for config in space.decode(ends))
        step, sample = _steps(largest, min(batch, TRIED)) if not supernet.has_candidates else _steps(largest, batch)
    scale = 1 if supernet.has_candidates else batch / min(batch, TRIED)
    with device.ready():
        begun = time.perf_counter()
        runs = [device.prepare(network.eval()) for network in (smallest, largest)]
        prepared = (time.perf_counter() - begun) / 2
        times = [[device.time(run) for run in runs] for _ in range(3 + 22)][3:]
    low, high = (np.array(column) for column in zip(*times, strict=True))
    first, second = (statistics.median(half.tolist()) for half in (high[::2], high[1::2]))
    rows = sum(len(choice.candidates) for choice in space.choices for _ in range(choice.rows))
    speed = Speed(
        images=images,
        held_out=len(data.val_set),
        batch=batch,
        step=step * scale,
        sample=sample,
        network=prepared + 0.025 * float(np.median(high) + np.median(low)),
        networks=3 * rows if supernet.has_candidates else None,
        share=0.5,
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        busy=abs(first - second) / min(first, second),
    )
    return Trial(name, config, size, speed, float(np.median(low)), float(np.median(high)), smallest)


def _ends(supernet: Supernet) -> IntMatrix:
    """The smallest and the largest architecture, ``[2, G]``."""
    space: Any = supernet.space
    if hasattr(space, "smallest") and hasattr(space, "largest"):
        found: IntMatrix = space.encode([space.smallest, space.largest])
        return found
    return np.stack(extremes(count_candidates(supernet, "macs")))


def _steps(network: Subnet, batch: int, steps: int = 2) -> tuple[float, float]:
    """Seconds of a training step, and of one sample without training, laid out as for training; the network changes."""
    layout = layout_of(*network.parameters())
    lay_out_for_training(network)
    given = example_inputs(network, batch)
    x: Inputs = given if isinstance(given, Tensor | Mapping) else given[0]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    network.train()
    times = []
    for _ in range(1 + steps):
        begun = time.perf_counter()
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        times.append(time.perf_counter() - begun)
    network.eval()
    begun = time.perf_counter()
    with torch.no_grad():
        network(x)
    sample = (time.perf_counter() - begun) / batch
    lay_out(network, layout)
    return statistics.median(times[1:]), sample


def loading_time(data: Any, samples: int = 32) -> float:
    """Seconds to read one training sample, decoded and augmented."""
    begun, read = time.perf_counter(), 0
    for _, y in itertools.islice(data.train_dataloader(), max(1, samples // data.batch_size)):
        read += len(y)
    return (time.perf_counter() - begun) / max(read, 1)


def guess(network: Subnet, data: Any, samples: Callable[[Any, int], Any]) -> float | None:
    """Accuracy of a network with a last layer of its own, on training samples left out of its fit; None if unknown."""
    try:
        fit = fit_head(network, samples(data, 512) or ())
    except (HeadError, ValueError):
        return None
    return fit.value if math.isfinite(fit.value) else None


def spread_genes(supernet: Supernet, count: int, seed: int) -> IntMatrix:
    """Architectures ``[N, G]`` of all sizes that have all picks: the ends, and mixtures of them with random ones.

    Random picks alone make networks of one size, and nothing is learned of others.
    """
    space, rng = supernet.space, np.random.default_rng(seed)
    found = ends = _ends(supernet)
    seen = _occurring(found)
    drawn = space.sample_matrix(1000, rng)
    possible = _occurring(drawn)
    while missing := possible - seen:  # of those that are drawn, the one that has most of them
        new = [len(missing & _occurring(genes[None])) for genes in drawn]
        best = drawn[int(np.argmax(new))][None]
        found, seen = np.concatenate([found, best]), seen | _occurring(best)
    for _ in range(20):
        drawn = space.sample_matrix(count, rng)
        towards = np.where(rng.random((count, 1)) < 0.5, ends[0], ends[1])
        kept = rng.random(drawn.shape) < rng.random((count, 1)) ** 2
        found = np.concatenate([found, space.repair(np.where(kept, towards, drawn))])
        found = space.encode(space.unique(space.decode(found)))
        if len(found) >= count:
            break
    return found[:count]


def _occurring(genes: IntMatrix) -> set[tuple[int, int]]:
    """Every gene with every pick that it has in some architecture."""
    return {(gene, int(pick)) for gene, column in enumerate(genes.T) for pick in np.unique(column)}


def device_of(runtime: Any, threads: int, *, int8: bool) -> Device:
    """What latencies are measured on."""
    settings: Any = {"dtype": "int8"} if int8 else {}
    return Device(runtime, "cpu", threads=threads, **settings)
