"""From the name of a network on the command line to the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from oneshot.deploy.export import load
from oneshot.deploy.manifest import MANIFEST
from oneshot.report.tables import network_table
from oneshot.storage.files import check_recorded
from oneshot.supernets import (
    NASNET_CELLS,
    PUBLISHED,
    DARTSNetwork,
    Genotype,
    NASBench201Network,
    NASBench201Space,
    NASNetNetwork,
    NASNetSpace,
    SubnetConfig,
    darts_space,
    load_config,
    reduced_space,
)
from oneshot.supernets.base import Subnet
from oneshot.supernets.darts import REDUCED_SPACES
from oneshot.training.retrain import Retrain

from .early_checks import GENOTYPE, first_word, unknown_network
from .run import RunFolder, is_run

MOST_CLASSES = 30  # that a table has a line for


def network_named(target: str, *, inherit: bool, trust: Sequence[str] = ()) -> Subnet:
    """Build the network that is named: by a run, an export, a file, a published cell or a text."""
    if GENOTYPE.search(target):  # as logs and repositories print it
        return DARTSNetwork(Genotype.parse(target))
    path = Path(target)
    if target in PUBLISHED:
        return DARTSNetwork(PUBLISHED[target])
    if target in NASNET_CELLS:
        return NASNetNetwork(NASNET_CELLS[target])
    if target.startswith("|"):
        return NASBench201Network(target)
    if is_run(path):
        run = RunFolder(path, tuple(trust))
        module = run.module()
        if isinstance(module, Retrain):
            return module.network_for_export()
        return module.evaluation_supernet.extract(run.subnet() or module.derive(), inherit=inherit)
    exported = path if path.is_dir() else path.parent
    if (exported / MANIFEST).is_file():
        return load(exported, trust=trust)
    if path.is_file():
        check_recorded(path)
        return network_of(load_config(path), path)
    raise unknown_network(target)


def network_of(config: SubnetConfig, path: Path) -> Subnet:
    """Build the network that a paper makes of a config; its space must be one of ours, which have names."""
    if config.space == "nasbench201":
        return NASBench201Network(NASBench201Space().arch_string(config))
    for space in [darts_space(), *(reduced_space(name) for name in REDUCED_SPACES)]:
        if config.space == space.name:
            return DARTSNetwork(space.genotype(config))
    if config.space == NASNetSpace.name:
        return NASNetSpace().network(config)
    raise ValueError(
        f"{path} must be of a space whose paper says what the network is; got a config of space "
        f"{config.space!r}. Name the run it is from."
    )


def metrics(results: Mapping[str, float]) -> Table:
    """The metrics of a test, as a table."""
    return network_table([{"metric": name, "value": f"{value:.4f}"} for name, value in results.items()])


def by_class(module: Retrain, classes: Sequence[str] | None) -> dict[str, Any] | None:
    """The confusion matrix of a test, JSON-able; ``None`` for tasks without classes.

    Args:
        module: After the test.
        classes: Names of the classes, if they are known.
    """
    if not module.task.has_classes:
        return None
    confusion = module.confusion()
    names = [str(name) for name in classes] if classes and len(classes) == len(confusion) else None
    return {"classes": names or [str(i) for i in range(len(confusion))], "confusion": confusion.tolist()}


def class_table(found: Mapping[str, Any]) -> Table:
    """How many samples of each class there were in a test, the share that was right, and what others were taken for."""
    rows = []
    for number, (name, counts) in enumerate(zip(found["classes"], found["confusion"], strict=True)):
        total = sum(counts)
        wrong = max((n, i) for i, n in enumerate([*counts[:number], -1, *counts[number + 1 :]]))
        mistaken = f"{found['classes'][wrong[1]]} ({wrong[0]})" if wrong[0] > 0 else None
        right = f"{counts[number] / total:.4f}" if total else None
        rows.append({"class": name, "samples": total, "accuracy": right, "most often taken for": mistaken})
    return network_table(rows)


def positional(command: str, args: Sequence[str]) -> tuple[str, list[str]]:
    """The first argument, and the others; with ``--help``, something in its place.

    Raises:
        ValueError: If there is none.
    """
    if args and args[0] in ("-h", "--help"):
        return next(iter(PUBLISHED)), list(args)
    return first_word(command, args), list(args[1:])
