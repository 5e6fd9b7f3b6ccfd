"""``oneshot export``: write the network of a run to files that need nothing of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from oneshot.cost.record import Prediction
from oneshot.data.facts import data_facts
from oneshot.deploy.export import code_of, export_subnet
from oneshot.deploy.int8 import Int8, int8_sentence
from oneshot.deploy.latency import record_latency
from oneshot.deploy.manifest import read_manifest
from oneshot.deploy.prediction import SCRIPT
from oneshot.deploy.programs import Format
from oneshot.evaluation.recalibration import needs_samples, recalibrate_on
from oneshot.storage.trust import describe_trust
from oneshot.supernets.base import Subnet
from oneshot.training.retrain import Retrain

from .int8 import Int8Options
from .next_steps import next_step, to_predict
from .run import RunFolder
from .terminal import say

STATISTICS = (
    "The network of a search is exported with statistics of its own, which needs images (that of a retraining "
    "needs none)"
)
IMAGES = "INT8 is calibrated on training images"


def export(
    run: str,
    *,
    out: str | None = None,
    formats: Sequence[Format],
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
    """``oneshot export RUN``: write the network of a retraining, or of a search with the weights it inherits.

    The running statistics of a search are a mixture of those of all its architectures, so its network gets its own.
    For that the images must be there, and for ``int8``, see :class:`~oneshot.deploy.int8.Int8`: a folder, or "" for the
    data of the run. With ``measure`` its latency is measured and written into the
    manifest, see :func:`~oneshot.deploy.latency.record_latency`.
    """
    wish = Int8Options(int8, max_drop, weight_bits)
    wish.check(formats, with_preprocessing=with_preprocessing)
    source, predicted = RunFolder(Path(run), tuple(trust)), list[Prediction]()
    options = [*data_options, *wish.data_options(run)]
    data: list[pl.LightningDataModule] = []

    def opened(what: str) -> pl.LightningDataModule:  # once
        data.extend([] if data else [source.opened_data(options, what)])
        return data[0]

    module = source.module()
    if isinstance(module, Retrain):
        network = module.network_for_export()
        network.strip_auxiliary()
        network.config = source.subnet() or network.config
        facts = source.known_facts(options)
    else:
        derived = module.derive()
        network, predicted = module.evaluation_supernet.extract(derived), module.predictions(derived)
        facts = _calibrate(network, source, options, opened)
    write_export(
        network,
        Path(out or Path(run) / "export"),
        facts,
        metrics=source.results(),
        predicted=predicted,
        formats=formats,
        opset=opset,
        with_preprocessing=with_preprocessing,
        overwrite=overwrite,
        measure=measure,
        int8=None if int8 is None else wish.samples(opened(IMAGES), network, facts.get("classes")),
    )


def write_export(
    network: Subnet,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    metrics: Mapping[str, float] | None,
    predicted: Sequence[Prediction],
    formats: Sequence[Format],
    with_preprocessing: bool,
    overwrite: bool,
    measure: bool,
    int8: Int8 | None = None,
    opset: int | None = None,
) -> Path:
    """Export a network, record its latency in the manifest, and say both on the terminal.

    Args:
        network: The network.
        folder: Folder to make.
        facts: What is known of the data it was trained on, see :func:`~oneshot.data.facts.data_facts`; may be empty.
        metrics: Measured results to keep with the network.
        predicted: Latencies that a search has predicted.
        formats: See :func:`~oneshot.deploy.export.export_subnet`.
        with_preprocessing: Likewise.
        overwrite: Likewise.
        measure: See :func:`~oneshot.deploy.latency.record_latency`.
        int8: See :func:`~oneshot.deploy.export.export_subnet`.
        opset: See :func:`~oneshot.deploy.export.export_subnet`.

    Returns:
        The folder.
    """
    export_subnet(
        network,
        folder,
        mean=facts.get("mean"),
        std=facts.get("std"),
        classes=facts.get("classes"),
        preprocessing=facts.get("preprocessing"),
        with_preprocessing=with_preprocessing,
        metrics=metrics,
        formats=formats,
        int8=int8,
        opset=opset,
        overwrite=overwrite,
    )
    for told in record_latency(folder, network, predicted, measure=measure):
        say(told)
    if (sentence := int8_sentence(read_manifest(folder) or {})) is not None:
        say(sentence)
    given = describe_trust(code_of(network))
    say(f"Exported: {folder}; oneshot.load({str(folder)!r}{given}) gives the network back.")
    say(to_predict(folder) if (folder / SCRIPT).is_file() else next_step("show", folder))
    return folder


def _calibrate(
    network: Subnet, source: RunFolder, options: Sequence[str], opened: Callable[[str], pl.LightningDataModule]
) -> dict[str, Any]:
    """Give the network of a search statistics of its own; returns the facts of the data."""
    if not needs_samples(network):
        return source.known_facts(options)
    data = opened(STATISTICS)
    recalibrate_on(data, network)
    return source.facts() or data_facts(data)
