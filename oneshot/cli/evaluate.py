"""``oneshot evaluate``: test a retrained or an exported network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from oneshot.callbacks import MistakeRecorder
from oneshot.deploy.export import load
from oneshot.deploy.manifest import exported_preprocessing
from oneshot.deploy.preprocessing import differences
from oneshot.evaluation.images import FittedBatches
from oneshot.report.evaluation import EVALUATION
from oneshot.report.kinds import kind_of
from oneshot.report.live import LiveReport
from oneshot.report.page import REPORT as PAGE
from oneshot.storage.trust import (
    CONFIG,
    plain,
    split_options,
    split_trust,
)
from oneshot.supernets.base import Subnet
from oneshot.training.retrain import Retrain

from .evaluation_record import tested
from .networks import MOST_CLASSES, by_class, class_table, metrics, network_named, positional
from .next_steps import next_step
from .run import RunFolder, is_run
from .terminal import say
from .trainer import RunCLI, retrain_cli

REPORT = "--report"


def evaluate(args: Sequence[str]) -> None:
    """``oneshot evaluate TARGET``: test a retraining on its own data, or an exported network on data that is given.

    With ``--report`` classes and worst mistakes of the test become part of the page in the folder of ``TARGET``.
    """
    target, args = positional("evaluate", args)
    kept, args = REPORT in args, [arg for arg in args if arg != REPORT]
    if kept and kind_of(Path(target)) is None:
        what = f"With {REPORT} TARGET must be the folder of a run or an export"
        raise ValueError(f"{what}; {target} is none. Leave it out.")
    args, trust = split_trust(args)
    trained: dict[str, Any] | None = None
    with TemporaryDirectory() as aside:
        if is_run(target):
            run = RunFolder(Path(target), trust)
            module = run.module()
            if not isinstance(module, Retrain):
                raise ValueError(
                    f"TARGET must be a retrained or an exported network; {target} is a search. Retrain it first."
                )
            network = module.network_for_export()
            options, args = split_options(args, "--data")
            given = any(arg == "--config" or arg.startswith("--config=") for arg in args)
            # Data of a file that is given replace those of the run, which may not be there any more.
            data = {} if given else {"data": run.data_config(options)}
            seed = plain(run.config, ["seed_everything"])
            config = Path(
                aside, CONFIG
            )  # only what a test needs of the run's configuration: no callbacks and no loggers
            config.write_text(yaml.safe_dump({**seed, "trainer": run.trainer_config(), **data}), encoding="utf-8")
            args = ["--config", str(config), *args, *(options if given else [])]
        else:
            asked = "--help" in args
            network = network_named(target, inherit=False) if asked else load(target, trust=trust)
            trained = None if asked else exported_preprocessing(target)
        cli = retrain_cli("evaluate", network, [*args, "--trainer.logger=false"])
    cli.model.load_network(network)
    recorder = MistakeRecorder()
    if kept:
        cli.trainer.callbacks.append(recorder)  # type: ignore[attr-defined]  # Lightning's
    results = _tested(cli, network)
    if trained is not None and (changed := differences(trained, getattr(cli.datamodule, "preprocessing", None))):
        say(
            f"Note: these images were not prepared as those the network was trained on: {'; '.join(changed)}. "
            "Give the data the same image_size, mean and std to see what the network is worth."
        )
    say(metrics(results))
    classes = by_class(cli.model, getattr(cli.datamodule, "classes", None))
    if classes is not None and len(classes["classes"]) <= MOST_CLASSES:
        say(class_table(classes))
    if kept and cli.trainer.is_global_zero:
        report, record = LiveReport(target), tested([recorder], classes, cli.datamodule)
        report.keep(EVALUATION, lambda: json.dumps({**record, "metrics": dict(results)}, indent=1) + "\n")
        report.finish()
        say(f"Report: {Path(target) / PAGE}")
    say(next_step("export" if is_run(target) else "show", target))


def _tested(cli: RunCLI, network: Subnet) -> Mapping[str, float]:
    """Test the network. Images of another size than an elastic network's resolution are resized, as in its search.

    Raises:
        ValueError: If the data do not fit the network.
    """
    data, shape = cli.datamodule, getattr(cli.datamodule, "input_shape", None)
    if not network.has_resolutions or shape is None or tuple(shape) == tuple(network.input_shape):
        return cli.trainer.test(cli.model, datamodule=data, verbose=False)[0]
    classes = getattr(data, "num_classes", None)
    if classes not in (None, network.num_classes) or shape[0] != network.input_shape[0]:
        raise ValueError(
            f"The network was built for {network.num_classes} classes and {network.input_shape[0]} channels; "
            f"{type(data).__name__} has {classes} and {shape[0]}. Test it on data like those it was trained on."
        )
    data.prepare_data()
    data.setup("test")
    return cli.trainer.test(cli.model, FittedBatches(data.test_dataloader(), network), verbose=False)[0]
