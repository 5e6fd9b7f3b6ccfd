"""Cost models of devices: those that come with the package, and those of files of measurements."""

from __future__ import annotations

import json
import warnings
import zlib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

from oneshot.cost.counting.work import Work
from oneshot.cost.latency.samples import read_csv, read_record
from oneshot.cost.latency.table import UNIT, UNRECORDED
from oneshot.cost.model import CostModel
from oneshot.cost.record import Record, noise_doubt
from oneshot.regression.scores import Agreement
from oneshot.supernets.elastic import ElasticSpace
from oneshot.supernets.space import Floats, IntMatrix, SearchSpace

from .few_shot import POPULATION, FewShot
from .fit import fit_predictor
from .predictors import Kind, LinearPredictor, Predictor
from .transferred import TransferredCost

BENCHMARK = "{name} is of the networks of a benchmark, and not of this supernet's; give it to FewShot with measurements"

Learned = TypeVar("Learned", bound=CostModel)


def bundled_sources(space: SearchSpace) -> dict[str, CostModel]:
    """Cost models of known devices that come with the package, and counts of MACs and parameters.

    Fitted by ``experiments/latency/bundle.py`` to the measurements of HELP (arXiv:2106.08630) and HW-NAS-Bench
    (arXiv:2103.10584), of the networks of these benchmarks. Which networks are slow and which are fast carries over to
    other widths and resolutions, the milliseconds do not. So they are sources of :class:`FewShot`, and a search refuses
    one of them as its own latency.

    Args:
        space: ``FBNetSpace()`` or ``NASBench201Space()``.

    Raises:
        ValueError: If nothing is bundled for the space.
    """
    known = _bundled()
    if space.name not in known:
        raise ValueError(
            f"Source devices are bundled for the spaces {', '.join(known)}; got {space.name!r}. Give FewShot "
            "cost models of your own, two or more."
        )
    data = json.loads((files(__package__) / "devices" / f"{space.name}.json").read_text(encoding="utf-8"))
    sources: dict[str, CostModel] = {}
    for name, device in data["devices"].items():
        sources[name] = source = LinearPredictor.from_dict(space, device)
        if source.unit == UNIT:
            source.doubts = (BENCHMARK.format(name=name),)
    return sources


def _bundled() -> list[str]:
    """Names of the spaces that devices are bundled for."""
    entries = (files(__package__) / "devices").iterdir()
    return sorted(path.name.removesuffix(".json") for path in entries if path.name.endswith(".json"))


def learned_cost(
    space: SearchSpace, genes: IntMatrix, values: Floats, work: Work | None = None
) -> tuple[Predictor, Agreement]:
    """What the networks of a space need, learned from measurements of some alone, and how well it predicts others.

    In elastic spaces by layers, where it is known what operators do by their work; in others cross-validation chooses.

    Raises:
        ValueError: See :func:`fit_predictor`.
    """
    kind: Kind | Literal["auto"] = "work" if work is not None else "auto"
    model = fit_predictor(space, genes, values, kind="elastic" if isinstance(space, ElasticSpace) else kind, work=work)
    return model, next(iter(model.validation.values()))


def transferred_cost(path: str | Path, space: SearchSpace) -> TransferredCost:
    """Cost model of the device whose measurements a CSV file holds, from the bundled sources.

    It has the record of the file, and is refused for networks that differ from it. A file without a record gives a
    warning.

    Raises:
        ValueError: See :func:`~oneshot.cost.latency.samples.read_csv`, :func:`bundled_sources` and :meth:`FewShot.fit`.
    """
    genes, values = read_csv(path, space)
    model = FewShot(space, list(bundled_sources(space).values())).fit(genes, values)
    return _with_record(model, path, _checksum(genes, values))


def measured_cost(path: str | Path, space: SearchSpace, work: Work | None = None) -> TransferredCost | Predictor:
    """Cost model of the device whose measurements a CSV file holds.

    In spaces with bundled devices it is :func:`transferred_cost`, in others learned from the measurements alone.

    Args:
        path: The file.
        space: The search space.
        work: What the operators of the networks do, where that is known: see
            :func:`~oneshot.cost.counting.work.work_of`.

    Raises:
        ValueError: See :func:`~oneshot.cost.latency.samples.read_csv`, :func:`fit_predictor` and
            :func:`transferred_cost`.
    """
    if space.name in _bundled():
        return transferred_cost(path, space)
    genes, values = read_csv(path, space)
    return _with_record(learned_cost(space, genes, values, work)[0], path, _checksum(genes, values))


def _checksum(genes: IntMatrix, values: Floats) -> str:
    return f"{zlib.crc32(json.dumps([genes.tolist(), values.tolist()]).encode()):08x}"


def _with_record(model: Learned, path: str | Path, checksum: str) -> Learned:
    record = read_record(path)
    if record is None:
        warnings.warn(UNRECORDED.format(source=path), stacklevel=4)
    model.record = replace(record or Record({}, source=str(path)), checksum=checksum)
    random = model.space.sample_matrix(POPULATION, 0)
    costs = model.predict(random) if isinstance(model, Predictor) else model.costs(random)
    below, doubt = int((costs <= 0).sum()), noise_doubt(model.record.noise)
    model.doubts = () if doubt is None else (doubt,)
    if below:
        model.doubts += (f"{below} of {POPULATION} random networks are predicted to need 0 {model.unit} or less",)
    return model
