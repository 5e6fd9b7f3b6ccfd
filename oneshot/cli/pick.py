"""``oneshot pick``: from a front to one network that stands alone: load, choose, build, fine-tune, export."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch

from oneshot.data.facts import data_facts
from oneshot.deploy.programs import Format
from oneshot.evaluation.images import FittedBatches
from oneshot.fronts.pick import at_most as best_at_most
from oneshot.fronts.pick import knee as knee_of
from oneshot.fronts.pick import near as nearest_to
from oneshot.nat.objectives import ERROR
from oneshot.report.evaluation import EVALUATION
from oneshot.report.live import LiveReport
from oneshot.report.network import NETWORK, describe_network
from oneshot.report.page import REPORT
from oneshot.report.style import save_figure
from oneshot.supernets.base import Subnet
from oneshot.training.retrain import Retrain

from .export import write_export
from .fronts import Front, Wish, load_front
from .int8 import Int8Options
from .terminal import say


def pick(
    run: str,
    *,
    latency: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    memory: float | None = None,
    max_error: float | None = None,
    at_most: Sequence[str] = (),
    near: Sequence[str] = (),
    knee: bool = False,
    finetune: int = 0,
    lr: float = 0.005,
    out: str | None = None,
    formats: Sequence[Format] = ("torch_export", "onnx"),
    opset: int | None = None,
    with_preprocessing: bool = False,
    overwrite: bool = False,
    data_options: Sequence[str] = (),
    trust: Sequence[str] = (),
    measure: bool = True,
    int8: str | None = None,
    max_drop: float | None = None,
    weight_bits: int | None = None,
) -> None:
    """Take a network from the front of a search, calibrate its statistics, train it if asked, export it.

    The search is one of ``oneshot pareto``, or of ``oneshot discrete``, whose front holds what was trained. From a
    front of one network that one is taken, without further options.

    Args:
        run: Folder of the search.
        latency: Largest latency, milliseconds.
        macs: Largest number of MACs.
        params: Largest number of parameters.
        memory: Largest memory of activations, bytes.
        max_error: Largest validation error, a share.
        at_most: Bounds of other objectives, ``NAME=VALUE``.
        near: Values to be near to, likewise.
        knee: Take the knee.
        finetune: Epochs of training.
        lr: Learning rate of that training.
        out: Folder to write; by default ``picked`` in the run's.
        formats: See :func:`~oneshot.deploy.export.export_subnet`.
        opset: Likewise.
        with_preprocessing: Likewise.
        overwrite: Likewise.
        data_options: Options of the data, ``--data.init_args.root photos``, where they are elsewhere now.
        trust: Modules besides ``oneshot`` whose classes may be imported and built.
        measure: Measure the latency of what was exported, see :func:`~oneshot.deploy.latency.record_latency`.
        int8: Write an INT8 file, too: "" with the data of the run, otherwise with the images of this folder.
        max_drop: See :class:`~oneshot.deploy.int8.Int8`.
        weight_bits: Likewise.

    Raises:
        FileExistsError: If the folder exists and is not to be replaced.
        ValueError: If the run has no front, no network on it is as asked, or it is not clear what is asked.
    """
    if finetune < 0:
        raise ValueError(f"--finetune must be a number of epochs, at least 0; got {finetune}.")
    target = Path(out or Path(run) / "picked")
    if target.exists() and not overwrite:  # before the training, not after it
        raise FileExistsError(f"{target} exists. Replace it with --overwrite, or name another folder with --out.")
    quantise = Int8Options(int8, max_drop, weight_bits)
    quantise.check(formats, with_preprocessing=with_preprocessing)
    counted = {"latency": latency, "macs": macs, "params": params, "memory": memory, ERROR: max_error}
    wish = Wish(_bounds(counted, at_most), _pairs("--near", near), knee)

    options = [*data_options, *quantise.data_options(run)]
    front = load_front(run, wish, trust=trust, data_options=options)
    place = choose(front, wish)
    front.show(place)
    network = front.build(place)
    if finetune:
        if front.data is None:
            raise ValueError(f"--finetune must have images, and the search of {run} has none. Leave it out.")
        torch.manual_seed(front.seed)
        network = _finetuned(network, front.data, finetune, lr)
    metrics = front.metrics(place, network)
    facts = {} if front.data is None else data_facts(front.data)
    folder = write_export(
        network,
        target,
        facts,
        metrics=metrics,
        predicted=front.predictions(place),
        formats=formats,
        opset=opset,
        with_preprocessing=with_preprocessing,
        overwrite=overwrite,
        measure=measure,
        int8=None if int8 is None else quantise.samples(front.data, network, facts.get("classes")),
    )
    if (figure := front.draw(place)) is not None:
        save_figure(figure, folder / "picked.png", patient=True)
    _report(run, folder, front, network, metrics)


def _report(run: str, folder: Path, front: Front, network: Subnet, metrics: Mapping[str, float]) -> None:
    """Write the page of what was picked, and that of its search anew, which has it as a part."""
    report = LiveReport(folder)
    report.begin()
    report.keep(NETWORK, lambda: describe_network(network))

    def evaluation() -> str:
        found = front.evaluation(network)
        shown = {name: value for name, value in metrics.items() if not name.startswith("front/")}
        return json.dumps({"split": "validation", **(found or {}), "metrics": shown}, indent=1) + "\n"

    report.keep(EVALUATION, evaluation)
    report.finish()
    if (Path(run) / REPORT).is_file():
        LiveReport(run).finish()
    say(f"Report: {folder / REPORT}")


def choose(front: Front, wish: Wish) -> int:
    """The row of a front that is wanted. A front of one network needs no wish.

    Raises:
        ValueError: If no network of the front is as wanted, or the wish is not clear.
    """
    asked = [bool(wish.bounds), bool(wish.point), wish.knee]
    if len(front.values) == 1 and not wish.bounds and not wish.point:
        return 0
    if sum(asked) != 1:
        raise ValueError(
            "Say which network of the front is wanted, in one way: bounds (--latency 25, --macs 3e8, --max-error 0.05, "
            f"--at-most NAME=VALUE), --near NAME=VALUE, or --knee; got {'none' if not any(asked) else 'several'}."
        )
    if wish.bounds:
        return best_at_most(front.names, front.values, wish.bounds)
    return nearest_to(front.names, front.values, front.point) if wish.point else knee_of(front.values)


def _bounds(counted: Mapping[str, float | None], at_most: Sequence[str]) -> dict[str, float]:
    bounds = {name: value for name, value in counted.items() if value is not None} | _pairs("--at-most", at_most)
    for name, value in bounds.items():
        if not math.isfinite(value):
            raise ValueError(f"A bound must be a finite number; that of {name} is {value}. Leave it out.")
    return bounds


def _pairs(option: str, texts: Sequence[str]) -> dict[str, float]:
    pairs = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            pairs[name] = float(number)
        except ValueError:
            raise ValueError(f"{option} must be NAME=VALUE, such as latency=25; got {text!r}.") from None
        if not math.isfinite(pairs[name]):
            raise ValueError(f"{option} must have finite values; got {text!r}.")
    return pairs


def _finetuned(network: Subnet, data: pl.LightningDataModule, epochs: int, lr: float) -> Subnet:
    trainer = pl.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, limit_val_batches=0)
    module = Retrain(network, lr=lr, label_smoothing=0.1)
    batches = data.train_dataloader()
    if isinstance(batches, dict):
        batches = batches["weights"]  # the network is tested on the others
    trainer.fit(module, FittedBatches(batches, network), [])
    return module.network_for_export().cpu()
