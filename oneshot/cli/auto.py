"""``oneshot auto``: from a folder and milliseconds to a network that is measured and tested, in one command.

Its parts are those of the other commands, and leave what these read: a file of latencies, a run of ``pareto``, exports,
a run of ``retrain``, and their configurations.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from oneshot.errors import missing_extra
from oneshot.storage.files import check_writable, write_atomically
from oneshot.storage.lock import RunLock

from .auto_plan import PLAN, Effort, duration, effort, plan_text

if TYPE_CHECKING:
    from .auto_work import Work

SPACE = 1e9  # bytes of the disk that the files may need
BUSY = 0.1  # relative difference of two equal measurements from which on the machine is busy
Runtime = Literal["eager", "compile", "onnxruntime"]


@dataclass(frozen=True)
class AutoResult:
    """What :func:`auto` has found.

    Args:
        folder: Folder of everything.
        network: Folder of the export: ``oneshot.load(result.network)``.
        metric: Name of the metric.
        value: Of the network on test samples.
        ms: Measured latency of the exported file.
        limit: The latency that was asked for.
    """

    folder: Path
    network: Path
    metric: str
    value: float
    ms: float | None
    limit: float


def auto(
    images: str | Path | None = None,
    *,
    latency: float | None = None,
    out: str | Path = "runs/auto",
    minutes: float = 30.0,
    source: str | None = None,
    weights: str | Path | None = None,
    weights_by_order: bool = False,
    target: str | None = None,
    leave_out: Sequence[str] | None = None,
    metric: str | None = None,
    image_size: int | None = None,
    runtime: Runtime = "onnxruntime",
    threads: int = 1,
    int8: bool = False,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
) -> AutoResult:
    """Find the most accurate network for data that keeps a latency on this machine, within some minutes.

    The data are looked at, networks of a search space are timed, all are trained together or, with ``source``, a
    trained network is transferred to the data; a search finds the front of error and latency; the best network that is
    measured to keep the limit is trained further, exported, measured as a file, and tested on samples that nothing else
    has seen.

    Args:
        images: A folder with a folder of images for each class, a ``.csv`` file with ``target``, or an ``.npz`` file
            with arrays ``x`` and ``y``.
        latency: Largest latency of one sample, milliseconds.
        out: Folder of the results.
        minutes: Budget of the whole command.
        source: A network to begin with, ``timm:NAME``, ``torchvision:NAME`` or ``mypackage.build``, see
            :func:`oneshot.convert`; by default a MobileNetV3 of random weights, and for tables and series spaces of
            their own.
        weights: File with the weights of that network.
        weights_by_order: See :func:`oneshot.convert`.
        target: Column of a table that is predicted.
        leave_out: Columns of a table that are not used, such as numbers of rows.
        metric: What is maximised, such as ``"balanced_accuracy"``; by default that of the task.
        image_size: Side of the images in pixels; by default as large as the data, the budget and the limit allow.
        runtime: What runs the network, see :class:`~oneshot.cost.Device`.
        threads: Threads of one pass.
        int8: Whether the network is quantised, and latencies are those of quantised networks.
        seed: Of everything.
        resume: Go on with what ``out`` holds; all other arguments are then those it began with.
        overwrite: Replace what ``out`` holds.

    Raises:
        FileNotFoundError: If there are no such data.
        FileExistsError: If the folder exists, and is not to be replaced or gone on with.
        ValueError: If nothing keeps the limit, the minutes are too few, or an argument is out of its range.
        MissingExtraError: If the runtime is not installed.
        OSError: If the disk is full.
    """
    folder = Path(out)
    given: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in locals().items() if name in ASKED
    }
    given["leave_out"] = list(leave_out) if leave_out else None
    plan = _begun(folder, given, resume=resume, overwrite=overwrite)
    if plan is None:
        _check(**given)
    check_writable(folder)
    from .auto_work import Work  # torch is imported only after what can be checked without it

    with RunLock(folder), _quiet():
        _room(folder)
        if plan is None:
            plan = _decide(given)
            if overwrite:
                _clear(folder)
            write_atomically(folder / PLAN, plan_text(plan))
        return _run(Work(folder, plan))


ASKED = (
    "images",
    "latency",
    "minutes",
    "source",
    "weights",
    "weights_by_order",
    "target",
    "leave_out",
    "metric",
    "image_size",
    "runtime",
    "threads",
    "int8",
    "seed",
)
DEFAULTS: Mapping[str, Any] = {
    name: (auto.__kwdefaults__ or {}).get(name)
    for name in ASKED  # of the arguments, where they are not given
}


def _begun(folder: Path, given: Mapping[str, Any], *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """The plan to go on with; None if there is none.

    Raises:
        FileExistsError: If the folder exists, and is not to be gone on with or replaced.
        ValueError: If other arguments are given than it began with, or the plan is damaged.
    """
    path = folder / PLAN
    if not resume:
        if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
            if not overwrite:
                raise FileExistsError(
                    f"{folder} exists. Go on with it with --resume, replace it with --overwrite, or name another "
                    "folder with --out."
                )
            if not path.is_file():
                raise FileExistsError(
                    f"{folder} is no folder of 'oneshot auto', so it is not replaced. Name another folder with --out."
                )
        return None
    if not path.is_file():
        if given["images"] is None:
            raise ValueError(
                f"--resume must name a folder of 'oneshot auto'; {folder} has no {PLAN}. Give IMAGES to begin."
            )
        return None
    try:
        plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        then = dict(plan["asked"])
        Effort.from_dict(plan["effort"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}. Begin again with --overwrite.") from error
    now = {name: value for name, value in given.items() if value != DEFAULTS[name]}
    if changed := [
        f"{name} {then.get(name)!r} (now {value!r})" for name, value in now.items() if then.get(name) != value
    ]:
        raise ValueError(
            f"{folder} was begun with other arguments: {', '.join(changed)}. Give those, or begin again with "
            "--overwrite."
        )
    return plan


def _check(
    *, images: str | None, latency: float | None, minutes: float, runtime: str, threads: int, **others: Any
) -> None:
    """Refuse what can be refused at once."""
    for name, value in {"latency": latency, "minutes": minutes}.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{name} must be a number; got {value!r}.")
    if images is None:
        raise ValueError("IMAGES must be given: a folder of images, a .csv or an .npz file.")
    if not Path(images).exists():
        raise FileNotFoundError(f"IMAGES must be a folder of images, a .csv or an .npz file; there is no {images}.")
    if latency is None or not math.isfinite(latency) or latency <= 0:
        raise ValueError(f"--latency must be the most milliseconds that one sample may take, above 0; got {latency}.")
    if not math.isfinite(minutes) or minutes <= 0 or threads < 1:
        raise ValueError(f"--minutes must be above 0 and --threads at least 1; got {minutes:g} and {threads}.")
    if runtime == "onnxruntime":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            if find_spec(package) is None:
                raise missing_extra(package, "onnx", "Measuring and exporting with ONNX Runtime")
    size, weights = others["image_size"], others["weights"]
    if size is not None and size < 8:
        raise ValueError(f"--image-size must be at least 8 pixels; got {size}.")
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"--weights must be a file of weights; there is no {weights}.")
    if weights is not None and others["source"] is None:
        raise ValueError("--weights must come with --from, which names the network they are of; got no --from.")
    if threads > (cores := os.cpu_count() or threads):
        raise ValueError(f"--threads must be at most {cores}, the number of cores here; got {threads}.")
    if others["int8"] and runtime != "onnxruntime":
        raise ValueError(f"--int8 must go with --runtime onnxruntime; got {runtime}.")


def _room(folder: Path) -> None:
    if (free := shutil.disk_usage(folder).free) < SPACE:
        raise OSError(
            f"There must be {SPACE / 1e9:g} GB of room for {folder}; the disk has {free / 1e9:.2g} GB. Free some, or "
            "name a folder elsewhere with --out."
        )


def _clear(folder: Path) -> None:
    from .auto_work import WRITTEN

    for name in WRITTEN:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _decide(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Look at the data and the machine, and decide what is done.

    Raises:
        ValueError: If nothing keeps the limit, or the minutes are too few.
    """
    from oneshot.tasks.task import task_of
    from oneshot.training.samples import plain_samples

    from .auto_decide import choose, device_of, guess, loading_time, open_data, read_by, resized, task_with
    from .data_defaults import build_data
    from .terminal import say

    source, limit, leave_out = asked["source"], asked["latency"], asked["leave_out"] or ()
    found = open_data(asked["images"], target=asked["target"], leave_out=leave_out, seed=asked["seed"])
    data = found.data
    if asked["metric"]:
        task_with(data, asked["metric"])  # refuses a metric that the task does not have, before anything is timed
    counts = {"train": len(data.train_set), "val": len(data.val_set), "test": len(data.test_set)}
    outputs = "1 output" if data.num_classes == 1 else f"{data.num_classes} outputs"
    outputs = f"{len(data.classes)} classes" if task_of(data.task).has_classes and data.classes else outputs
    say(
        f"Data: {asked['images']}, {outputs}; {counts['train']} samples to train, {counts['val']} to compare networks, "
        f"{counts['test']} for the test at the end."
    )
    if asked["weights"] and found.kind == "images" and data.input_shape[0] != 3:
        raise ValueError(
            f"The images must have colours for trained weights of {source}; all of {asked['images']} are grey. Leave "
            "out --from and --weights."
        )
    trial, reason = choose(found, asked, device_of(asked["runtime"], asked["threads"], int8=asked["int8"]), say)
    config = resized(found, trial.size, trial.speed.batch, source if asked["weights"] else None)
    final = build_data(config)
    final.prepare_data()
    final.setup("fit")
    if trial.smallest > limit:
        fastest = final
        if found.kind == "images" and trial.network.input_shape[-1] != trial.size:
            fastest = build_data(read_by(trial.network, config))
            fastest.prepare_data()
            fastest.setup("fit")
        worth = guess(trial.network, fastest, plain_samples)
        known = "" if worth is None else f", and is right for {worth:.0%} of samples with a last layer fitted to them"
        raise ValueError(
            f"--latency must be at least {trial.smallest:.3g} ms here, which the fastest network takes ({trial.name})"
            f"{known}; got {limit:g}. Allow more, a smaller --image-size, or more --threads."
        )
    speed = replace(trial.speed, step=trial.speed.step + trial.speed.batch * loading_time(final))
    amount, _ = effort(speed, minutes=asked["minutes"], pretrained=bool(asked["weights"]))
    if trial.size:
        say(f"Images are used at {trial.size} x {trial.size} pixels: {reason}.")
    say(
        f"Networks: {trial.name}. The smallest takes {trial.smallest:.3g} ms, the largest {trial.largest:.3g} ms; the "
        f"limit is {limit:g}."
    )
    if speed.busy > BUSY:
        say(
            f"WARNING: Another program uses this machine: the same network took {speed.busy:.0%} more at one time than "
            "at another. Latencies can be trusted no better than that. Stop the other program, and begin again."
        )
    memory = f"{speed.memory / 1e9:.1f} GB of memory"
    minutes = "minute" if asked["minutes"] == 1 else f"{asked['minutes']:g} minutes"
    say(f"Plan: about {duration(amount.seconds)} of the {minutes}, {memory}.")
    for part in amount.parts:
        say(f"  {duration(part.seconds):>8}  {part.what}")
    return {
        "schema_version": 1,
        "asked": dict(asked),
        "kind": found.kind,
        "space": {"name": trial.name, "config": trial.config},
        "data": config,
        "size": trial.size or None,
        "size_because": reason,
        "counts": counts,
        "ms": {"smallest": trial.smallest, "largest": trial.largest},
        "speed": vars(speed),
        "effort": amount.to_dict(),
    }


def _run(work: Work) -> AutoResult:
    """All parts, one after the other; those that are done are not done again."""
    work.pages.begin()
    with work.overall.shown(), work.pages:
        for name, part in (
            ("latency", work.time_networks),
            ("training", work.search),
            ("tuning", work.tune),
            ("files", work.export),
        ):
            if work.is_done(name):
                work.skip(name)
                continue
            work.overall.begin(name)
            part()
            work.done(name)
            work.pages.update()
        work.overall.end()
    found = work.conclude()
    return AutoResult(**found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes on devices, workers and intervals: the plan has decided them."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "oneshot.data")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            warnings.filterwarnings("ignore", ".*does not have many workers")
            warnings.filterwarnings("ignore", "(?s).*allow_noisy is set")  # 'auto' says it itself, and once
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
