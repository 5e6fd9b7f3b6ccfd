"""The INT8 file of an export: quantised on training samples, loaded again, and compared with the network on others.

What a file of INT8 is worth cannot be read off the network: it is measured, on samples that were not trained on. If the
metric loses more than is allowed, the first and the last layer keep floats, since they are the most sensitive; if it
still does, nothing is written. Weights are not trained again: quantisation-aware training needs torchao, which is no
dependency of oneshot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oneshot.errors import Int8LossError
from oneshot.inputs import Inputs, length, mapped
from oneshot.quantisation import BITS, WEIGHT_BITS, Quantised, quantised
from oneshot.supernets.base import Subnet
from oneshot.tasks.task import Task

if TYPE_CHECKING:
    import pytorch_lightning as pl

INT8_FILE = "model.int8.onnx"
CALIBRATION, BATCH = 256, 32  # samples, and how many of them run at once
LEAST = 16  # samples to calibrate on, and to compare on
MAX_DROP = 0.01  # of a share: one percentage point, what MLPerf Inference allows of networks near 100 %
MAX_RELATIVE = 0.05  # of other metrics, relative to the value before


@dataclass(frozen=True)
class Int8:
    """On which samples a network becomes INT8, and what it may lose.

    Args:
        calibration: Batches of training inputs as the network reads them, ``[B, ...]``, not augmented. They set the
            range of every tensor.
        held_out: Batches of inputs and targets that were not trained on, to compare the metric on.
        max_drop: Largest loss of the metric: a difference if the metric is a share (0.01 is one percentage point), of
            other metrics a part of the value before. By default 0.01 of a share, 0.05 of others.
        split: What the samples held out are, for messages and the manifest, such as ``"test"``.
        weight_bits: 7, which every processor adds up, or 8 if the file will never run on an x86 processor without VNNI,
            which gives wrong numbers with 8 bits and does not say so.

    Raises:
        ValueError: If an argument is out of its range, or batches could be read only once.
    """

    calibration: Iterable[Inputs]
    held_out: Iterable[tuple[Inputs, Tensor]]
    max_drop: float | None = None
    split: str = "held-out"
    weight_bits: int = WEIGHT_BITS

    def __post_init__(self) -> None:
        check_max_drop(self.max_drop)
        if self.weight_bits not in (7, 8):
            raise ValueError(BITS.format(self.weight_bits))
        for name, batches in (("calibration", self.calibration), ("held_out", self.held_out)):
            if isinstance(batches, Iterator):
                raise ValueError(f"{name} must be read more than once, as a list or a loader can; got an iterator.")


@dataclass(frozen=True)
class Comparison:
    """The network and its INT8 file on the same samples.

    Args:
        samples: How many.
        before: Metric of the network.
        after: Metric of the file.
        drop: What is lost: ``before - after`` of a share, relative to ``before`` of other metrics; negative for a gain.
        agreement: Share of equal predictions; None of a task whose predictions are no classes or labels.
        output_difference: Root of the mean squared difference of the outputs, relative to their standard deviation.
        max_abs_difference: Largest difference of an output.
    """

    samples: int
    before: float
    after: float
    drop: float
    agreement: float | None
    output_difference: float
    max_abs_difference: float


def check_max_drop(max_drop: float | None) -> None:
    """Check the largest loss of the metric.

    Raises:
        ValueError: If it is negative or not finite.
    """
    if max_drop is not None and not (math.isfinite(max_drop) and max_drop >= 0):
        raise ValueError(f"max_drop must be finite and at least 0; got {max_drop}. 0.01 is one percentage point.")


def int8_samples(
    data: pl.LightningDataModule,
    network: Subnet,
    *,
    max_drop: float | None = None,
    count: int = CALIBRATION,
    weight_bits: int = WEIGHT_BITS,
) -> Int8:
    """Samples of a data module to quantise a network on: training samples to calibrate, test samples to compare.

    Without test samples it is compared on validation samples.

    Args:
        data: Set up for a fit.
        network: What will be quantised; images are resized to its resolution if it is elastic.
        max_drop: See :class:`Int8`.
        count: Number of samples to calibrate on, drawn by a fixed seed.
        weight_bits: See :class:`Int8`.

    Raises:
        ValueError: If there are too few samples, or none that were held out.
    """
    from oneshot.evaluation.images import FittedBatches, calibration_samples, fitted, in_parts  # Lightning is slow

    inputs, _ = calibration_samples(data, count)
    if (found := length(inputs)) < LEAST:
        raise ValueError(
            f"INT8 must be calibrated on at least {LEAST} training samples; the data have {found}. Add samples, or "
            "export without INT8."
        )
    split, batches = _held_out(data)
    parts = [mapped(torch.clone, part) for part in in_parts(fitted(network, inputs), BATCH)]
    return Int8(parts, FittedBatches(batches, network), max_drop, split, weight_bits)


def _held_out(data: pl.LightningDataModule) -> tuple[str, Any]:
    """The name of the samples that were not trained on, and their loader."""
    from pytorch_lightning import LightningDataModule

    kind = type(data)
    if kind.test_dataloader is not LightningDataModule.test_dataloader:
        data.setup("test")
        return "test", data.test_dataloader()
    if kind.val_dataloader is not LightningDataModule.val_dataloader and (batches := data.val_dataloader()):
        return "val", batches
    raise ValueError(
        f"INT8 is compared with the network on test or validation samples; {kind.__name__} has neither. Add a "
        "test_dataloader, or export without INT8."
    )


def write_int8(network: Subnet, exported: Path, path: Path, int8: Int8) -> dict[str, Any]:
    """Quantise an exported network, and compare the file with it, both loaded again.

    Args:
        network: What was exported; its task says what the metric is.
        exported: The network as an ONNX file of floats, for batches of any size.
        path: The file to write.
        int8: Samples, and what may be lost.

    Returns:
        What the manifest says of it, JSON-able.

    Raises:
        Int8LossError: If the metric loses more than is allowed; the file is not there then.
        ValueError: If there are too few samples, or nothing to quantise.
    """
    bits = int8.weight_bits
    allowed = int8.max_drop
    if allowed is None:
        allowed = MAX_DROP if network.task.is_share else MAX_RELATIVE
    if (samples := sum(length(x) for x in int8.calibration)) < LEAST:
        raise ValueError(f"INT8 must be calibrated on at least {LEAST} samples; got {samples}. Give more.")
    tried: list[Comparison] = []
    for float_ends in (False, True):
        batches = (_arrays(x) for x in int8.calibration)
        made = quantised(exported.read_bytes(), batches, float_ends=float_ends, weight_bits=bits)
        path.write_bytes(made.model)
        found = compare(network, exported, path, int8.held_out)
        tried.append(found)
        if found.samples < LEAST:
            path.unlink()
            raise ValueError(
                f"INT8 must be compared on at least {LEAST} {int8.split} samples; got {found.samples}. Give more."
            )
        if found.drop <= allowed:  # NaN fails
            return _facts(network.task, found, made, int8.split, allowed, samples, bits, exported, path)
        if made.layers <= 2:
            break
    path.unlink()
    raise _refusal(network.task, tried, int8, allowed)


def compare(network: Subnet, before: Path, after: Path, batches: Iterable[tuple[Inputs, Tensor]]) -> Comparison:
    """Run two ONNX files of a network on the same samples, in ONNX Runtime.

    Args:
        network: Its task says what the outputs are.
        before: The file of floats.
        after: The other one.
        batches: Inputs ``[B, ...]`` as the network reads them, and targets ``[B, ...]``.
    """
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (before, after)]
    task, samples = network.task, 0
    metrics = [task.metric(network.num_classes, sync=False) for _ in sessions]
    same = predicted = values = 0
    total = squares = off = largest = 0.0
    for x, y in batches:
        one, two = (torch.from_numpy(session.run(None, _arrays(x))[0]) for session in sessions)
        for metric, outputs in zip(metrics, (one, two), strict=True):
            metric.update(*task.for_metric(outputs, y.cpu()))
        first, second = task.decode(one), task.decode(two)
        if not first.is_floating_point():
            same, predicted = same + int((first == second).sum()), predicted + first.numel()
        exact, difference = one.double(), two.double() - one.double()
        total, squares, values = total + exact.sum().item(), squares + exact.square().sum().item(), values + one.numel()
        off, largest = off + difference.square().sum().item(), max(largest, difference.abs().max().item())
        samples += length(x)
    if not samples:
        return Comparison(0, math.nan, math.nan, math.nan, None, math.nan, math.nan)
    was, now = (float(metric.compute()) for metric in metrics)
    spread = math.sqrt(max(squares / values - (total / values) ** 2, 0.0))
    away = math.sqrt(off / values)
    return Comparison(
        samples,
        was,
        now,
        loss(task, was, now),
        same / predicted if predicted else None,
        away / spread if spread else (0.0 if not away else math.inf),
        largest,
    )


def loss(task: Task, before: float, after: float) -> float:
    """What a metric loses: a difference if it is a share, else relative to the value before; negative for a gain.

    Args:
        task: Says which direction is better.
        before: The metric before.
        after: The metric after.

    Example:
        >>> from oneshot.tasks import Classification, Regression
        >>> f"{loss(Classification(), 0.75, 0.5):.2f} {loss(Regression(metric='mae'), 2.0, 2.5):.2f}"
        '0.25 0.25'
    """
    lost = before - after if task.direction == "max" else after - before
    if task.is_share or not lost:
        return lost
    return lost / abs(before) if before else math.copysign(math.inf, lost)


def int8_sentence(manifest: Mapping[str, Any]) -> str | None:
    """What the manifest says of the INT8 file, in a sentence; None if there is no such file."""
    if (said := manifest.get("int8")) is None:
        return None
    agreed = "" if said["agreement"] is None else f", {said['agreement']:.1%} of the predictions agree"
    size = said["bytes"]
    told = (
        f"INT8: {said['split']} {said['metric']} {said['before']:.4f} before, {said['after']:.4f} after "
        f"({said['samples']} samples{agreed}); {size['before'] / 1e6:.2g} MB before, {size['after'] / 1e6:.2g} MB after"
    )
    if (ms := said.get("latency_ms")) is not None:
        told += f"; {ms['before']:.4g} ms before, {ms['after']:.4g} ms after"
        if ms["after"] >= ms["before"]:
            told += ". INT8 is not faster on this machine"
    if said["float_layers"]:
        told += ". The first and the last layer keep floats"
    if said["weight_bits"] == 8:
        told += ". Its weights have 8 bits: x86 processors without VNNI give wrong numbers"
    return f"{told}."


def _facts(
    task: Task,
    found: Comparison,
    made: Quantised,
    split: str,
    allowed: float,
    samples: int,
    bits: int,
    exported: Path,
    path: Path,
) -> dict[str, Any]:
    from oneshot.cost.latency.device import processor  # reading an export needs nothing of it

    return {
        "file": path.name,
        "metric": task.metric_name,
        "direction": task.direction,
        "split": split,
        **{name: _finite(value) for name, value in asdict(found).items()},
        "max_drop": allowed,
        "drop_is": "absolute" if task.is_share else "relative",
        "calibration_samples": samples,
        "ranges": "least and largest value of the calibration samples",
        "weights": "int8, symmetric, a scale for each channel",
        "activations": "uint8, a scale and a zero point for each tensor",
        "weight_bits": bits,
        "layers": made.layers,
        "int8_layers": made.int8,
        "float_layers": list(made.floats),
        "bytes": {"before": exported.stat().st_size, "after": path.stat().st_size},
        "compared_on": processor(),
        "latency_ms": None,
    }


def _refusal(task: Task, tried: Sequence[Comparison], int8: Int8, allowed: float) -> Int8LossError:
    name, found = task.metric_name, tried[-1]
    unit = "" if task.is_share else " of it"
    ends = f", also with floats in the first and the last layer (at first {tried[0].after:.4f})" if tried[1:] else ""
    finer = "" if int8.weight_bits == 8 else "give --weight-bits 8 if only ARM or x86 with VNNI will run it, "
    return Int8LossError(
        f"INT8 must not lose more than {allowed:g}{unit} of the {int8.split} {name}; it goes from "
        f"{found.before:.4f} to {found.after:.4f} on {found.samples} samples{ends}. No INT8 file was written.",
        f"Allow more with --max-drop {_above(found.drop)} (max_drop), {finer}or export without INT8.",
    )


def _above(drop: float) -> str:
    return f"{math.ceil(drop * 1000) / 1000:g}" if math.isfinite(drop) else "SHARE"


def _finite(value: Any) -> Any:
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _arrays(x: Inputs) -> dict[str, Any]:
    """Inputs as ONNX Runtime takes them."""
    return {name: part.cpu().numpy() for name, part in (x if isinstance(x, Mapping) else {"images": x}).items()}
