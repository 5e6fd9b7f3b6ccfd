"""Measure the latency of an export, and write it into the manifest beside what the search has predicted."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from oneshot.cost.latency.device import Device, Run
from oneshot.cost.latency.table import UNIT
from oneshot.cost.record import Prediction, Record
from oneshot.supernets.base import Subnet

from .card import write_card
from .int8 import INT8_FILE
from .manifest import MANIFEST, read_manifest, write_manifest
from .programs import FILES

WARM_UP, LEAST, MOST = 3, 5, 50  # passes
BUDGET = 500.0  # ms for the passes of one network in one runtime, unless LEAST passes need more
NOT_KNOWN = "what the prediction is for is not recorded"
NOT_ASKED = "--no-measure"
NO_FILE = f"no {FILES['onnx']} was written"
NO_RUNTIME = "onnxruntime is not installed"


@dataclass
class _Plan:
    """One latency of a network: predicted, to be measured, or both."""

    prediction: Prediction | None = None
    device: Device | None = None
    file: str | None = None
    reason: str | None = None  # why it is not measured
    run: Run | None = None
    times: list[float] = field(default_factory=list)


def measured_on(models: Iterable[object]) -> list[str]:
    """A sentence for each latency among cost models: what it was measured on."""
    records = [getattr(model, "record", None) for model in models]
    told = [f"Latencies of {r.source or 'the search'}: {r.on()}.{_elsewhere(r)}" for r in records if r and r.device]
    return list(dict.fromkeys(told))


def record_latency(
    folder: Path, network: Subnet, predicted: Sequence[Prediction] = (), *, measure: bool = True
) -> list[str]:
    """Measure an exported network, and write predicted and measured latencies into its manifest and its model card.

    ONNX Runtime runs ``model.onnx``, and the runtime of each prediction runs the network with the threads and the batch
    of the prediction, if it is on this machine; pass by pass in turn. Without an ONNX file PyTorch runs the network. An
    INT8 file is measured beside the other, and predictions of INT8 latencies are compared with it.

    Args:
        folder: The export.
        network: What was exported; it is not changed.
        predicted: Latencies that a search has predicted.
        measure: Whether to measure; otherwise only predictions are written.

    Returns:
        A sentence for each latency.
    """
    if (content := read_manifest(folder)) is None:
        raise ValueError(f"An export must have a {MANIFEST} to write latencies into; {folder} has none. Export again.")
    if measure:
        plans = _plans(folder, predicted, content)
        with torch.random.fork_rng(devices=[]):
            _measure(plans, folder, network)
    else:
        plans = [_Plan(prediction, reason=NOT_ASKED) for prediction in predicted]
    entries = [_entry(plan) for plan in plans]
    if content.get("int8") is not None:
        content["int8"] = {**content["int8"], "latency_ms": _before_and_after(plans)}
    write_manifest(folder, {**content, "latency": entries})
    write_card(folder)
    return [_sentence(plan) for plan in plans]


def _plans(folder: Path, predicted: Sequence[Prediction], manifest: dict[str, Any]) -> list[_Plan]:
    installed = find_spec("onnxruntime") is not None
    file, int8 = (name if installed and (folder / name).is_file() else None for name in (FILES["onnx"], INT8_FILE))
    plans = []
    takes = manifest["files"].get(file, {}).get("input") or {}
    alone = not takes.get("inside")  # a file that also resizes is slower than the network that was predicted
    for prediction in predicted:
        plan = _Plan(prediction)
        if prediction.record is None or "runtime" not in prediction.record.device:
            plan.reason = NOT_KNOWN
        else:
            try:
                plan.device = device = Device.of(prediction.record)
                if (device.runtime, device.device) == ("onnxruntime", "cpu"):
                    plan.file = {"float32": file if alone else None, "int8": int8}.get(device.dtype)
            except (ValueError, ImportError) as error:  # a device that is not here, a runtime that is not installed
                plan.reason = str(error)
        plans.append(plan)
    like = next((plan.device for plan in plans if plan.device is not None), None)
    threads, batch = (None, 1) if like is None else (like.threads, like.batch)
    if file is not None and not any(plan.file == file for plan in plans):
        plans.append(_Plan(device=Device("onnxruntime", "cpu", batch=batch, threads=threads), file=file))
    elif file is None and like is None:
        plans.append(_Plan(device=Device("eager", "cpu", batch=batch, threads=threads)))
    if int8 is not None and not any(plan.file == int8 for plan in plans):
        plans.append(_Plan(device=Device("onnxruntime", "cpu", batch=batch, dtype="int8", threads=threads), file=int8))
    return plans


def _before_and_after(plans: Sequence[_Plan]) -> dict[str, float] | None:
    """Latency of the file of floats and of the INT8 file on the same threads and batch, ms."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    for plan in plans:
        if plan.file is not None and plan.device is not None and plan.times:
            which = "after" if plan.file == INT8_FILE else "before"
            found.setdefault((plan.device.threads, plan.device.batch), {})[which] = float(np.median(plan.times))
    return next(({"before": both["before"], "after": both["after"]} for both in found.values() if len(both) == 2), None)


def _measure(plans: Sequence[_Plan], folder: Path, network: Subnet) -> None:
    """Time all of them in turn, so that other load on the machine slows all alike."""
    for plan in plans:
        if plan.device is None:
            continue
        try:
            with plan.device.ready():
                if plan.file is not None:
                    shape = network.input_shape
                    sizes = () if isinstance(shape, Mapping) else shape[1:]
                    plan.run = plan.device.prepare_file(folder / plan.file, sizes)
                else:
                    plan.run = plan.device.prepare(copy.deepcopy(network).cpu())
                for _ in range(WARM_UP):
                    plan.device.time(plan.run)
        except Exception as error:  # noqa: BLE001  # a runtime may raise anything; the export is whole nevertheless
            plan.run, plan.reason = None, f"{type(error).__name__}: {error}".splitlines()[0]
    for number in range(MOST):
        for plan in plans:
            if plan.device is None or plan.run is None or (number >= LEAST and sum(plan.times) >= BUDGET):
                continue
            with plan.device.ready():
                plan.times.append(plan.device.time(plan.run))
    for plan in plans:
        if not all(math.isfinite(ms) and ms > 0 for ms in plan.times):
            plan.times, plan.reason = [], "the clock gave times that are not above 0"


def _entry(plan: _Plan) -> dict[str, Any]:
    prediction, device = plan.prediction, plan.device
    entry: dict[str, Any] = {"file": plan.file}
    if prediction is not None:
        entry |= {"objective": prediction.objective, "predicted_ms": prediction.ms, "predicted_by": prediction.by}
        entry["predicted_for"] = prediction.record.to_dict() if prediction.record else None
        if entry["predicted_for"]:
            del entry["predicted_for"]["supernet"]  # the manifest describes this network already
    if not plan.times or device is None:
        return entry | {"measured_ms": None, "not_measured": plan.reason}
    median = float(np.median(plan.times))
    entry |= {
        "measured_ms": median,
        "spread_ms": _spread(plan.times),
        "passes": len(plan.times),
        "difference": None if prediction is None else median / prediction.ms - 1 if prediction.ms else None,
        "batch": device.batch,
        "dtype": device.dtype,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    return entry | device.facts()


def _spread(times: Sequence[float]) -> float:
    """Half of the distance between the quartiles."""
    low, high = np.quantile(times, (0.25, 0.75))
    return float(high - low) / 2


def _sentence(plan: _Plan) -> str:
    prediction, device = plan.prediction, plan.device
    predicted = "" if prediction is None else f"{prediction.ms:.4g} {UNIT} predicted by {prediction.by}"
    if not plan.times or device is None:
        return f"Latency: {predicted or 'not predicted'}; not measured: {plan.reason}."
    median = float(np.median(plan.times))
    what = f"{plan.file} in ONNX Runtime" if plan.file else f"the network, {device.runtime}"
    threads = f"{device.threads} thread{'' if device.threads == 1 else 's'}"
    told = f"{median:.4g} ± {_spread(plan.times):.2g} {UNIT} measured ({what}, {threads}, batch {device.batch})"
    if prediction is None:
        why = "" if plan.file else f" {NO_FILE.capitalize()}, or {NO_RUNTIME}."
        return f"Latency: {told}.{why}"
    if not prediction.ms:
        return f"Latency: {predicted}, {told}."
    off = median / prediction.ms - 1
    away = f"{abs(off):.1%} {'more' if off > 0 else 'less'} than predicted"
    return f"Latency: {predicted}, {told}, {away}.{_elsewhere(prediction.record)}"


def _elsewhere(record: Record | None) -> str:
    """A sentence, if a record is of another processor than this machine's."""
    if record is None or record.device.get("device", "cpu") != "cpu" or not record.device.get("name"):
        return ""
    here = Device("eager", "cpu").facts()["name"]
    there = record.device["name"]
    return "" if here == there else f" They were measured on {there}, this is {here}."
