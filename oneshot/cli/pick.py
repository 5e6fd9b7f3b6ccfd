"""``oneshot pick``: from a front to one network that stands alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from oneshot.deploy.export import export_subnet
from oneshot.deploy.latency import record_latency
from oneshot.discrete.study import LOG, Record, Study
from oneshot.evaluation.images import FittedBatches, decode_images, fitted, in_parts
from oneshot.evaluation.recalibration import recalibrate
from oneshot.fronts.pick import at_most as best_at_most
from oneshot.fronts.pick import front_rows
from oneshot.fronts.pick import knee as knee_of
from oneshot.fronts.pick import near as nearest_to
from oneshot.nat.nat import NAT
from oneshot.nat.objectives import ERROR
from oneshot.report.fronts import draw_front
from oneshot.report.style import save_figure
from oneshot.report.tables import network_table
from oneshot.storage.trust import describe_trust
from oneshot.supernets.base import Subnet
from oneshot.training.batches import check_labels, check_logits
from oneshot.training.retrain import Retrain
from oneshot.training.tasks import METRICS, metric_of

from . import terminal
from .discrete import read_study
from .discrete import rows as study_rows
from .run import RunFolder, is_run


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
    formats: Sequence[Literal["torch_export", "onnx"]] = ("torch_export", "onnx"),
    with_preprocessing: bool = False,
    overwrite: bool = False,
    data_options: Sequence[str] = (),
    trust: Sequence[str] = (),
    measure: bool = True,
) -> Path:
    """Take a network from the front of a search, calibrate its statistics, train it if asked, export it.

    The search is one of ``oneshot pareto``, or of ``oneshot discrete``, whose front holds what was trained; a study of
    one objective has a front of one.

    Args:
        run: Folder of the search.
        latency: Most milliseconds.
        macs: Most MACs.
        params: Most parameters.
        memory: Most bytes of activations.
        max_error: Largest validation error, a share.
        at_most: Bounds of other objectives, ``NAME=VALUE``.
        near: Values to be near to, likewise.
        knee: Take the knee.
        finetune: Epochs of training.
        lr: Its learning rate.
        out: Folder to write; by default ``picked`` in the run's.
        formats: See :func:`~oneshot.deploy.export.export_subnet`.
        with_preprocessing: Likewise.
        overwrite: Likewise.
        data_options: Options of the data, ``--data.init_args.root photos``, where they are elsewhere now.
        trust: Modules besides ``oneshot`` whose classes may be imported and built.
        measure: Measure the latency of what was exported, see :func:`~oneshot.deploy.latency.record_latency`.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder exists and is not to be replaced.
        ValueError: If the run has no front, nothing on it is as asked, or it is not clear what is asked.
    """
    if finetune < 0:
        raise ValueError(f"--finetune is a number of epochs, at least 0; got {finetune}.")
    target = Path(out or Path(run) / "picked")
    if target.exists() and not overwrite:  # said before the training
        raise FileExistsError(f"{target} exists. Replace it with --overwrite, or name another folder with --out.")
    counted = {"latency": latency, "macs": macs, "params": params, "memory": memory, ERROR: max_error}
    bounds = {name: value for name, value in counted.items() if value is not None} | _pairs("--at-most", at_most)
    if unbounded := [name for name, value in bounds.items() if not math.isfinite(value)]:
        raise ValueError(f"A bound is a finite number; that of {unbounded[0]} is {bounds[unbounded[0]]}. Leave it out.")
    point = _pairs("--near", near)
    if (Path(run) / LOG).is_file():
        picked = _from_study(run, bounds, point, knee=knee, trust=trust, data_options=data_options)
        options = {"with_preprocessing": with_preprocessing, "overwrite": overwrite, "measure": measure}
        return _export_of_study(picked, target, finetune, lr, formats, **options)
    source = RunFolder(Path(run), tuple(trust)) if is_run(run) else None
    module = source.module() if source else None
    if not isinstance(module, NAT) or source is None:
        raise ValueError(
            "There is a front to pick from in runs of 'oneshot pareto' and 'oneshot discrete'; "
            f"{run} is {'no run' if module is None else 'another kind of run'}."
        )
    for name, share in [*bounds.items(), *point.items()]:
        if name == ERROR and not 0 <= share <= 1:
            raise ValueError(f"Errors are shares between 0 and 1, 5 % is 0.05; got {share:g}.")
    archive, front, console = module.pareto.archive, module.pareto.front(), terminal.console()
    if not len(front):
        if len(archive):
            raise ValueError(
                f"{run} has no front: of {len(archive)} networks, {int(archive.failed.sum())} failed, and no other "
                "keeps the constraints. Begin another run, with other constraints or a lower learning rate."
            )
        raise ValueError(f"{run} has no front yet: its first search is not over. Go on with 'oneshot pareto --resume'.")
    names, units = archive.objectives, ["", *(objective.unit for objective in module.pareto.objectives)]
    bounded = {c.objective.name: c.objective for c in module.pareto.constraints if c.objective.name not in names}
    others = [objective for name, objective in bounded.items() if name in {*bounds, *point}]
    values = np.column_stack([archive.values[front], *(other.values(archive.genes[front]) for other in others)])
    place = _choose([*names, *(other.name for other in others)], values, bounds, point, knee=knee)
    row = int(front[place])
    config = module.supernet.space.decode(archive.genes[row][None])[0]
    if steps := module.outdated():
        console.print(
            f"The errors of this front are those of weights {steps} steps ago: the run is not over, or was stopped "
            "before they were measured again. That of the network below is measured now."
        )
    console.print(network_table(front_rows(names, units, archive.values[row][None])))

    data = source.opened_data(data_options, "The network of a front has statistics of its own, which needs images")
    network = module.supernet.extract(config)
    images, labels, calibration = decode_images(data, module.calibration_images, batch_size=module.evaluation_batch)
    recalibrate(network, in_parts(fitted(network, calibration), module.evaluation_batch))
    if finetune:
        torch.manual_seed(int(module._seed))
        network = _finetuned(network, data, finetune, lr)
    metric = f"val/{METRICS[network.task]}"
    metrics = {metric: _score(network, fitted(network, images), labels, module.evaluation_batch)}
    metrics |= {f"front/{name}": float(value) for name, value in zip(names, archive.values[row], strict=True)}
    then = 1 - archive.values[row, 0]
    console.print(f"{metric} of the network: {metrics[metric]:.4f}; on the front {then:.4f}", highlight=False)

    folder = export_subnet(
        network,
        target,
        mean=getattr(data, "mean", None),
        std=getattr(data, "std", None),
        classes=getattr(data, "classes", None),
        preprocessing=getattr(data, "preprocessing", None),
        with_preprocessing=with_preprocessing,
        metrics=metrics,
        formats=formats,
        overwrite=overwrite,
    )
    figure = draw_front(names, units, archive.values, front.tolist(), picked=row)
    save_figure(figure, folder / "picked.png", patient=True)
    for told in record_latency(folder, network, module.predictions(config), measure=measure):
        console.print(told, soft_wrap=True, highlight=False, markup=False)
    given = describe_trust([type(network).__module__])
    console.print(f"Exported: {folder}; oneshot.load({str(folder)!r}{given}) gives the network back.", soft_wrap=True)
    return folder


def _from_study(
    run: str,
    bounds: Mapping[str, float],
    point: Mapping[str, float],
    *,
    knee: bool,
    trust: Sequence[str],
    data_options: Sequence[str],
) -> tuple[Study, Record]:
    """The record that is asked for, of the front, or of all evaluations if a bound is on another metric."""
    # Also of another machine, where a strategy may round differently.
    study = read_study(run, follow=False, trust=trust, data_options=data_options)
    if not (records := study.front()):
        raise ValueError(f"{run} has no front yet: no evaluation has succeeded.")
    signs = {objective.metric: 1.0 if objective.direction == "min" else -1.0 for objective in study.objectives}
    if rising := [name for name in bounds if signs.get(name) == -1]:
        raise ValueError(
            f"Bounds are on what is minimised; {', '.join(rising)} is maximised here. Bound another objective, or ask "
            "for --near or --knee."
        )
    if others := [name for name in bounds if name not in signs]:
        signs |= dict.fromkeys(others, 1.0)
        records = study.comparable
        known = set.intersection(*(set(record.result.metrics) for record in records))
        if missing := [name for name in others if name not in known]:
            raise ValueError(f"The metrics of this study are {', '.join(sorted(known))}; got {', '.join(missing)}.")
    if len(records) == 1 and not bounds and not point:
        return study, records[0]
    values = np.array([[sign * record.result.metrics[name] for name, sign in signs.items()] for record in records])
    wanted = {name: signs.get(name, 1.0) * value for name, value in point.items()}
    return study, records[_choose(list(signs), values, bounds, wanted, knee=knee)]


def _export_of_study(
    picked: tuple[Study, Record],
    folder: Path,
    finetune: int,
    lr: float,
    formats: Sequence[Literal["torch_export", "onnx"]],
    *,
    with_preprocessing: bool,
    overwrite: bool,
    measure: bool,
) -> Path:
    study, record = picked
    console, data = terminal.console(), getattr(study.evaluator, "data", None)
    console.print(network_table(study_rows(study, [record])))
    network = study.evaluator.network(record.proposal)
    if network is None:
        raise ValueError(
            f"{type(study.evaluator).__name__} keeps no networks to export; the architecture is "
            f"'{record.proposal.config}'. Train it with 'oneshot retrain'."
        )
    metrics = {f"study/{name}": float(value) for name, value in record.result.metrics.items()}
    if finetune and data is not None:
        network = _finetuned(network, data, finetune, lr)
    folder = export_subnet(
        network,
        folder,
        mean=getattr(data, "mean", None),
        std=getattr(data, "std", None),
        classes=getattr(data, "classes", None),
        preprocessing=getattr(data, "preprocessing", None),
        with_preprocessing=with_preprocessing,
        metrics=metrics,
        formats=formats,
        overwrite=overwrite,
    )
    for told in record_latency(folder, network, measure=measure):
        console.print(told, soft_wrap=True, highlight=False, markup=False)
    given = describe_trust([type(network).__module__])
    console.print(f"Exported: {folder}; oneshot.load({str(folder)!r}{given}) gives the network back.", soft_wrap=True)
    return folder


def _choose(
    names: Sequence[str],
    values: np.ndarray[Any, np.dtype[np.float64]],
    bounds: Mapping[str, float],
    point: Mapping[str, float],
    *,
    knee: bool,
) -> int:
    asked = [bool(bounds), bool(point), knee]
    if sum(asked) != 1:
        raise ValueError(
            "Say which network of the front is wanted, in one way: bounds (--latency 25, --macs 3e8, --max-error 0.05, "
            f"--at-most NAME=VALUE), --near NAME=VALUE, or --knee; got {'none' if not any(asked) else 'several'}."
        )
    if bounds:
        return best_at_most(names, values, bounds)
    return nearest_to(names, values, point) if point else knee_of(values)


def _pairs(option: str, texts: Sequence[str]) -> dict[str, float]:
    pairs = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            pairs[name] = float(number)
        except ValueError:
            raise ValueError(f"{option} takes NAME=VALUE, such as latency=25; got {text!r}.") from None
        if not math.isfinite(pairs[name]):
            raise ValueError(f"{option} takes finite values; got {text!r}.")
    return pairs


def _finetuned(network: Subnet, data: pl.LightningDataModule, epochs: int, lr: float) -> Subnet:
    trainer = pl.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, limit_val_batches=0)
    module = Retrain(network, lr=lr, label_smoothing=0.1)
    batches = data.train_dataloader()
    batches = batches["weights"] if isinstance(batches, dict) else batches  # the others are what it is tested on
    trainer.fit(module, FittedBatches(batches, network), [])
    return module.network_for_export().cpu()


@torch.no_grad()
def _score(network: Subnet, images: Tensor, labels: Tensor, batch_size: int) -> float:
    network.eval()
    check_labels(labels, network.num_classes, network.task)
    metric = metric_of(network.task, network.num_classes)
    for x, y in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
        logits = network(x)
        check_logits(logits, network, x)
        metric.update(logits, y)
    return float(metric.compute())
