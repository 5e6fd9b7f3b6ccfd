"""``oneshot retrain``: train the network of a search, an exported network or a published genotype."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oneshot.report.evaluation import EVALUATION
from oneshot.report.page import REPORT
from oneshot.storage.files import write_recorded
from oneshot.storage.trust import split_trust
from oneshot.supernets.base import Subnet

from .evaluation_record import tested
from .networks import MOST_CLASSES, by_class, class_table, metrics, network_named, positional
from .next_steps import next_step
from .run import CONFUSION, RESULTS, SUBNET
from .terminal import say
from .trainer import RunCLI, retrain_cli


def retrain(args: Sequence[str]) -> None:
    """``oneshot retrain SOURCE``: train the network of a search, an exported network or a published genotype."""
    source, args = positional("retrain", args)
    inherit = "--inherit" in args
    trust = split_trust(args)[1]
    network = network_named(source, inherit=inherit, trust=trust)
    cli = retrain_cli("retrain", network, [arg for arg in args if arg != "--inherit"], trust=trust)
    if inherit:
        cli.model.load_network(network)
    folder, results, classes = train_and_test(cli, network)
    if cli.trainer.is_global_zero:
        say(metrics(results))
        if classes is not None and len(classes["classes"]) <= MOST_CLASSES:
            say(class_table(classes))
        say(f"Run: {folder}, with {REPORT}.")
        say(next_step("export", folder))


def train_and_test(cli: RunCLI, network: Subnet) -> tuple[Path, dict[str, float], dict[str, Any] | None]:
    """Train a network, test it, and write both into the folder of the run.

    Args:
        cli: Of the training.
        network: What is trained, as it was named.

    Returns:
        The folder, the metrics of the test, and the confusion matrix, if there are classes.
    """
    with cli.alone():
        folder = cli.fit()
        results = dict(cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)[0])
        classes = by_class(cli.model, getattr(cli.datamodule, "classes", None))
        if cli.trainer.is_global_zero:
            write_recorded(folder / RESULTS, json.dumps(results, indent=2), patient=True)
            if classes is not None:
                write_recorded(folder / CONFUSION, json.dumps(classes), patient=True)
            if network.config is not None:
                write_recorded(folder / SUBNET, network.config.to_json(), patient=True)
            record = tested(cli.trainer.callbacks, classes, cli.datamodule)  # type: ignore[attr-defined]  # Lightning's
            cli.report.keep(EVALUATION, lambda: json.dumps({**record, "metrics": dict(results)}, indent=1) + "\n")
            cli.conclude(lambda: cli.model.network_for_export())
    return folder, results, classes
