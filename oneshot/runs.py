"""Runs: what a command leaves in a folder, and how later commands read it.

A search leaves ``config.yaml``, ``checkpoints/last.ckpt``, ``metrics.csv``, ``subnet.json`` and cell pictures; a
retraining the same without ``subnet.json``, and ``results.json`` with its test metrics. ``data.json`` says what must be
known of the data where they are not, and ``sha256sums.txt`` whether files are as they were written.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback, Checkpoint, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from rich.table import Table

from oneshot.callbacks import (
    ArchLogger,
    CollapseMonitor,
    GenotypePlot,
    ParetoExport,
    RunCheckpoint,
    SearchProgressBar,
    StepProfile,
    SubnetExport,
    good_checkpoint,
)
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
from oneshot.supernets.elastic import ElasticNetwork

from .base import GradientSearch, SearchModule
from .cost.counts import count
from .cost.landing import Landing
from .data.facts import data_facts
from .data_defaults import build_data, fit_to_data
from .evaluation import FittedBatches, has_statistics, recalibrate_on
from .export import MANIFEST, describe, export_subnet, exported_preprocessing, load
from .files import begin_checksums, check_recorded, is_as_recorded, new_folder, remove_unfinished, write_recorded
from .interrupts import GOES_ON, graceful, interruption
from .latency import Prediction, measured_on, predictions, record_latency
from .limits import check_sizes_in
from .lock import RunLock
from .nat.nat import NAT
from .nat.pick import front_rows
from .options import OneLineErrors, did_you_mean
from .preprocessing import differences
from .readers import read_yaml
from .report import draw_cells, network_table, save_figure
from .retrain import Retrain
from .run_folder import DATA, RESULTS, SUBNET, RunFolder, is_run, note, write_facts
from .run_folder import read_run as read_run
from .run_log import RunLog
from .terminal import console, with_configurations_as_utf8
from .trust import CONFIG, check_classes, describe_trust, importing_only, plain, split_options, split_trust

# What may be other than at the beginning when a run is resumed: nothing that the result depends on.
FREE = {f"data.{inner}init_args.{name}" for inner in ("", "init_args.data.") for name in ("num_workers", "device")}
FREE |= {f"model.init_args.{name}" for name in ("ray", "ray_workers", "ray_gpus")}
COMPARED = ("seed_everything", "model", "data", "trainer")
LIGHTNING = ("pytorch_lightning", "lightning_fabric", "torch.utils")  # of a Trainer, to which resuming belongs
FIXED_OF_TRAINER = ("precision", "limit_train_batches", "overfit_batches", "fast_dev_run")

CHECKPOINT = "checkpoints/last.ckpt"
MISSED = 3  # exit code where a network was derived and does not meet its target
GENOTYPE = re.compile(r"\bGenotype\s*\(")  # a text, and no folder that is called so


class _SaveConfig(SaveConfigCallback):
    """Keeps the resolved configuration in the run's folder, whatever logger is used."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        if self.config.resume and (folder / CONFIG).is_file():
            if not (folder / DATA).is_file():  # a run of an earlier release
                self._write_facts(trainer)
            return
        config = self.config.clone()
        del config["resume"], config["overwrite"], config["profile"]  # of this start, not of the run
        begin_checksums(folder)
        write_recorded(folder / CONFIG, self.parser.dump(config, skip_validation=True), patient=True)
        self._write_facts(trainer)

    def _write_facts(self, trainer: pl.Trainer) -> None:
        if (data := getattr(trainer, "datamodule", None)) is not None:  # which is set up by now
            write_facts(Path(trainer.default_root_dir), data)


class _Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser, with errors of one line."""


class _RunCLI(LightningCLI):
    """Lightning's command line with ``--out`` and ``--overwrite``; objects are built, nothing is run."""

    def __init__(
        self,
        command: str,
        args: Sequence[str],
        *,
        callbacks: Callable[[Path], list[Callback]] | None = None,
        allowed: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        guard = nullcontext() if allowed is None else importing_only(allowed)
        self._command, self._callbacks = command, callbacks
        # Lightning recommends its makers' other packages at every start.
        logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda r: "💡" not in r.getMessage())
        with _argv(f"oneshot {command}", with_configurations_as_utf8(args)), guard:
            super().__init__(
                datamodule_class=pl.LightningDataModule,
                subclass_mode_data=True,
                save_config_callback=_SaveConfig if callbacks else None,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=0,
                load_from_checkpoint_support=False,
                auto_configure_optimizers=False,
                run=False,
                parser_class=_Parser,
                **kwargs,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, default=f"runs/{self._command}", help="folder of the run")
        parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
        if self._callbacks:
            parser.add_argument("--resume", action="store_true", help="go on where the run in the folder was stopped")
            parser.add_argument("--profile", action="store_true", help="record some steps in the folder's profile/")

    def before_instantiate_classes(self) -> None:
        self.config.trainer.default_root_dir = self.config.out
        check_sizes_in(self.config.model.as_dict())
        self._fit_to_data()
        if self._callbacks and self.config.resume and (Path(self.config.out) / CONFIG).is_file():
            self._compare_with_the_beginning(Path(self.config.out) / CONFIG)

    def _compare_with_the_beginning(self, path: Path) -> None:
        """Refuse options that would make a resumed run end differently."""
        now = yaml.safe_load(self.parser.dump(self.config, skip_validation=True))
        then = read_yaml(path)
        for config in (now, then):
            config["trainer"] = {name: config.get("trainer", {}).get(name) for name in FIXED_OF_TRAINER}
        now, then = (dict(_leaves({name: c.get(name) for name in COMPARED})) for c in (now, then))
        changed = sorted(key for key in (now.keys() | then.keys()) - FREE if now.get(key) != then.get(key))
        if changed:
            different = "; ".join(f"{key} was {then.get(key)}, is {now.get(key)}" for key in changed)
            raise ValueError(
                f"A run is resumed with the options it began with; {different}. Leave them out (--resume --out "
                f"{self.config.out} alone takes those of the run), or begin another run."
            )

    def _fit_to_data(self) -> None:
        """Build the network for the data, where the configuration leaves it at its defaults."""
        model = self.config.model.get("init_args", self.config.model)
        network = model.get("supernet") or model.get("network")
        if not network or "init_args" not in network:
            return
        fit_to_data(network, build_data(self.config.data))

    def fit(self) -> Path:
        """Train, or go on with the training, and return the folder of the run."""
        folder, resume = Path(self.config.out), self.config.resume
        checkpoint = good_checkpoint(folder / "checkpoints") if resume else None
        new: AbstractContextManager[object] = nullcontext()
        if resume and self.trainer.is_global_zero:
            remove_unfinished(folder)
        # What a run wrote before its first checkpoint, such as evaluations, is used again.
        begun = checkpoint is not None or (resume and (folder / CONFIG).is_file())
        if self.trainer.is_global_zero and not begun:  # the first process looks after the folder
            new = new_folder(folder, overwrite=self.config.overwrite, marker=CONFIG, keep=CHECKPOINT)
        with new:
            if resume and self.trainer.is_global_zero:
                _say(f"Resuming from {checkpoint}." if checkpoint else f"No checkpoint in {folder}; starting anew.")
            try:
                with graceful():
                    self.trainer.fit(self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True)
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise RuntimeError(
                    f"A process that prepares batches died, which often means that memory ran out: {error} Lower "
                    "num_workers of the data, 0 prepares them in the process of the run; the same command with "
                    "--resume goes on from the last checkpoint."
                ) from error
            except SystemExit as error:
                if (stopped := interruption(error)) is None:
                    raise
                saved = good_checkpoint(folder / "checkpoints") is not None
                stopped.args = (GOES_ON if saved else "There is no checkpoint yet to go on from.",)
                raise stopped from None
        return folder

    def alone(self) -> AbstractContextManager[object]:
        """The folder, for this run alone; the first of its processes has it."""
        return RunLock(self.config.out) if self.trainer.is_global_zero else nullcontext()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer, folder = self.config.trainer, Path(self.config.out)
        if trainer.logger in (None, True):
            kwargs["logger"] = RunLog(folder)
        callbacks = self._callbacks(folder) if self._callbacks else []
        given = self.config_init.trainer.callbacks or []
        if trainer.enable_progress_bar is False or any(isinstance(c, ProgressBar) for c in given):
            callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]
        if self._callbacks and self.config.profile:
            callbacks.append(StepProfile(folder / "profile"))
        keeps = trainer.enable_checkpointing is False or any(isinstance(c, Checkpoint) for c in given)
        if self._callbacks and not keeps:
            callbacks.append(RunCheckpoint(folder / "checkpoints"))
        self.trainer_defaults = {"callbacks": callbacks}
        return super().instantiate_trainer(**kwargs)


def search(args: Sequence[str]) -> None:
    """``oneshot search``: fit a search and leave its architecture in the run's folder."""
    options, allowed = _options_of_the_run(args, "search")
    cli = _RunCLI(
        "search",
        options,
        allowed=allowed,
        model_class=SearchModule,
        subclass_mode_model=True,
        callbacks=lambda out: [
            ArchLogger(),
            GenotypePlot(out),
            SubnetExport(out),
            CollapseMonitor(),
            SearchProgressBar(),
        ],
    )
    _say_latencies(cli)
    with cli.alone():
        folder = cli.fit()
    if cli.trainer.is_global_zero:
        _say(str(cli.model.derive()))
        _say(f"Run: {folder}. Next: oneshot retrain {folder} --config ...")


def pareto(args: Sequence[str]) -> None:
    """``oneshot pareto``: NAT, or go on with it; the front is in the run's folder after every search."""
    options, allowed = _options_of_the_run(args, "pareto")
    cli = _RunCLI(
        "pareto",
        options,
        allowed=allowed,
        model_class=NAT,
        subclass_mode_model=True,
        callbacks=lambda out: [ParetoExport(out), SubnetExport(out), SearchProgressBar()],
    )
    _say_latencies(cli)
    with cli.alone():
        folder = cli.fit()
    if cli.trainer.is_global_zero:
        search = cli.model.pareto
        units = ["", *(objective.unit for objective in search.objectives)]
        _say(network_table(front_rows(search.archive.objectives, units, search.archive.values[search.front()])))
        _say(f"Run: {folder}, with front.png and front.html. Next: oneshot pick {folder} --knee")


def _say_latencies(cli: _RunCLI) -> None:
    """What the latencies of a search were measured on, which may well be another machine."""
    if cli.trainer.is_global_zero:
        for told in measured_on(cli.model):
            _say(told)


def retrain(args: Sequence[str]) -> None:
    """``oneshot retrain SOURCE``: train the network of a search, an exported network or a published genotype."""
    source, args = _positional("retrain", args, "SOURCE, a search run, an exported network or a published genotype")
    inherit = "--inherit" in args
    network = _network(source, inherit=inherit, trust=split_trust(args)[1])
    cli = _retrain_cli("retrain", network, [arg for arg in args if arg != "--inherit"])
    if inherit:
        cli.model.load_network(network)
    with cli.alone():
        folder = cli.fit()
        results = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)[0]
        if cli.trainer.is_global_zero:
            write_recorded(folder / RESULTS, json.dumps(results, indent=2), patient=True)
            if network.config is not None:
                write_recorded(folder / SUBNET, network.config.to_json(), patient=True)
    if cli.trainer.is_global_zero:
        _say(_metrics(results))
        _say(f"Run: {folder}. Next: oneshot export {folder}")


def evaluate(args: Sequence[str]) -> None:
    """``oneshot evaluate TARGET``: test a retraining on its own data, or an exported network on data that is given."""
    target, args = _positional("evaluate", args, "TARGET, a retraining or an exported network")
    args, trust = split_trust(args)
    trained: dict[str, Any] | None = None
    with TemporaryDirectory() as aside:
        if is_run(target):
            run = RunFolder(Path(target), trust)
            module = run.module()
            if not isinstance(module, Retrain):
                raise ValueError(
                    f"evaluate tests retrained and exported networks; {target} is a search. Retrain it first."
                )
            network = module.network_for_export()
            options, args = split_options(args, "--data")
            given = any(arg == "--config" or arg.startswith("--config=") for arg in args)
            # Data that are given in a file take the place of the run's, which may not be there.
            data = {} if given else {"data": run.data_config(options)}
            seed = plain(run.config, ["seed_everything"])
            config = Path(aside, CONFIG)  # of the run's, only what a test needs: no callbacks and no loggers
            config.write_text(yaml.safe_dump({**seed, "trainer": run.trainer_config(), **data}), encoding="utf-8")
            args = ["--config", str(config), *args, *(options if given else [])]
        else:
            asked = "--help" in args
            network = _network(target, inherit=False) if asked else load(target, trust=trust)
            trained = None if asked else exported_preprocessing(target)
        cli = _retrain_cli("evaluate", network, [*args, "--trainer.logger=false"])
    cli.model.load_network(network)
    results = _tested(cli, network)
    if trained is not None and (changed := differences(trained, getattr(cli.datamodule, "preprocessing", None))):
        _say(
            f"Note: these images were not prepared as those the network was trained on: {'; '.join(changed)}. "
            "Give the data the same image_size, mean and std to see what the network is worth."
        )
    _say(_metrics(results))


def _tested(cli: _RunCLI, network: Subnet) -> Mapping[str, float]:
    """Test metrics. Images of another size than an elastic network's resolution are resized, as in its search.

    Raises:
        ValueError: If the data do not fit the network.
    """
    data, shape = cli.datamodule, getattr(cli.datamodule, "input_shape", None)
    if not isinstance(network, ElasticNetwork) or shape is None or tuple(shape) == tuple(network.input_shape):
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


def derive(
    run: str,
    *,
    checkpoint: str | None = None,
    out: str | None = None,
    measure: bool = False,
    trust: Sequence[str] = (),
) -> int:
    """``oneshot derive RUN``: write the architecture of a search's checkpoint; measured, if it has a latency target.

    Returns:
        The exit code: 3 if the target is not met, which is when the measured latency is more than 1 % above it.
    """
    module = RunFolder(Path(run), tuple(trust)).module(checkpoint)
    if not isinstance(module, SearchModule):
        raise ValueError(f"Only a search has an architecture to derive; {run} is a retraining.")
    landings: list[Landing] = []
    if measure:
        if not isinstance(module, GradientSearch):
            raise ValueError(f"--measure needs a search with a latency target; {type(module).__name__} has none.")
        for told in measured_on(module):
            _say(told)
        landings = module.land()
        for landing in landings:
            _say(f"{landing.measured:.4g} ms measured, {landing.predicted:.4g} ms by the table")
    config, path = landings[-1].config if landings else module.derive(), Path(out or Path(run) / SUBNET)
    write_recorded(path, config.to_json())
    _say(str(config))
    _say(f"Written: {path}")
    if landings and isinstance(module, GradientSearch) and module.penalty is not None:
        _say(landings[-1].verdict(module.penalty.target))
        return 0 if landings[-1].meets(module.penalty.target) else MISSED
    return 0


def export(
    run: str,
    *,
    out: str | None = None,
    formats: Sequence[Literal["torch_export", "onnx"]],
    with_preprocessing: bool = False,
    overwrite: bool = False,
    data_options: Sequence[str] = (),
    trust: Sequence[str] = (),
    measure: bool = True,
) -> None:
    """``oneshot export RUN``: write the network of a retraining, or of a search with the weights it inherits.

    The statistics that a search has are a mixture of those of all its architectures, so the network gets its own: for
    that, and for nothing else, the images must be there. With ``measure`` its latency is measured and written into the
    manifest, see :func:`~oneshot.latency.record_latency`.
    """
    source, predicted = RunFolder(Path(run), tuple(trust)), list[Prediction]()
    module = source.module()
    if isinstance(module, Retrain):
        network = module.network_for_export()
        network.strip_auxiliary()
        network.config = source.subnet() or network.config
        facts = source.known_facts(data_options)
    else:
        derived = module.derive()
        network, predicted = module.supernet.extract(derived), predictions(module, derived)
        facts = _calibrate(network, source, data_options)
    folder = export_subnet(
        network,
        Path(out or Path(run) / "export"),
        mean=facts["mean"],
        std=facts["std"],
        classes=facts["classes"],
        preprocessing=facts["preprocessing"],
        with_preprocessing=with_preprocessing,
        metrics=source.results(),
        formats=formats,
        overwrite=overwrite,
    )
    for told in record_latency(folder, network, predicted, measure=measure):
        _say(told)
    given = describe_trust([type(network).__module__])
    _say(f"Exported: {folder}; oneshot.load({str(folder)!r}{given}) gives the network back.")


def _calibrate(network: Subnet, source: RunFolder, data_options: Sequence[str]) -> dict[str, Any]:
    """Give the network of a search statistics of its own; returns the facts of the data."""
    if not has_statistics(network):
        return source.known_facts(data_options)
    data = source.opened_data(
        data_options,
        "The network of a search is exported with statistics of its own, which needs images (that of a retraining "
        "needs none)",
    )
    recalibrate_on(data, network)
    return source.facts() or data_facts(data)


def show(target: str, *, out: str | None = None, trust: Sequence[str] = ()) -> None:
    """``oneshot show TARGET``: picture of the architecture, table of parameters and MACs."""
    network = _network(target, inherit=False, trust=trust)
    graphs = network.graphs()
    name = "genotype" if GENOTYPE.search(target) else Path(target).name
    path = save_figure(draw_cells(graphs, title=name), out or f"{_slug(name)}.png")
    counts = count(network, network.input_shape)
    edges = [
        {"cell": graph.name, "edge": f"{graph.nodes[source]} → {graph.nodes[end]}", "operation": label}
        for graph in graphs
        for source, end, label in graph.edges
        if label
    ]
    size = {
        "network": type(network).__name__,
        "input": "x".join(map(str, network.input_shape)),
        "params": counts.params,
        "MACs": counts.macs,
    }
    _say(network_table(edges))
    _say(network_table([size]))
    _say(f"Picture: {path}")


def _options_of_the_run(args: Sequence[str], command: str) -> tuple[list[str], list[str] | None]:
    """With ``--resume`` and no configuration, that of the run, and what may be imported to build it."""
    args, trust = split_trust(args)
    if "--resume" not in args or any(arg == "--config" or arg.startswith("--config=") for arg in args):
        return args, None
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--out", default=f"runs/{command}")
    config = Path(finder.parse_known_args(args)[0].out) / CONFIG
    if not config.is_file():
        raise ValueError(f"--resume goes on with the run in --out; {config.parent} has no {CONFIG}. Name its folder.")
    if not is_as_recorded(config):
        note(f"{config} was changed, or damaged, since the run began; it goes on as it is now.")
    allowed = check_classes(read_yaml(config), config, (*trust, *LIGHTNING))
    return ["--config", str(config), *args], allowed


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values."""
    if isinstance(tree, dict) and tree:
        for name, branch in tree.items():
            yield from _leaves(branch, f"{path}.{name}" if path else str(name))
    else:
        yield path, tree


def _retrain_cli(command: str, network: Subnet, args: Sequence[str]) -> _RunCLI:
    spec = describe(network)["network"]
    # First, so that a YAML file or an option can change the size of the network.
    options, allowed = _options_of_the_run(args, command)
    arguments = ["--model.network", json.dumps(spec), *options]
    if command == "retrain":
        cli = _RunCLI(
            command, arguments, model_class=Retrain, allowed=allowed, callbacks=lambda out: [SearchProgressBar()]
        )
    else:
        cli = _RunCLI(command, arguments, model_class=Retrain)
    cli.model.network.config = network.config
    return cli


def _network(target: str, *, inherit: bool, trust: Sequence[str] = ()) -> Subnet:
    """The network a word on the command line stands for."""
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
        return module.supernet.extract(run.subnet() or module.derive(), inherit=inherit)
    exported = path if path.is_dir() else path.parent
    if (exported / MANIFEST).is_file():
        return load(exported, trust=trust)
    if path.is_file():
        check_recorded(path)
        return _network_of(load_config(path), path)
    raise ValueError(
        f"Expected a run, an exported network, a NAS-Bench-201 string, the text of a Genotype(...) or one of "
        f"{', '.join([*PUBLISHED, *NASNET_CELLS])}; "
        f"got {target!r}, which is none of these.{did_you_mean(target, [*PUBLISHED, *NASNET_CELLS])}"
    )


def _network_of(config: SubnetConfig, path: Path) -> Subnet:
    """The paper's network of a bare config: only our own spaces can be told by their names."""
    if config.space == "nasbench201":
        return NASBench201Network(NASBench201Space().arch_string(config))
    for space in [darts_space(), *(reduced_space(name) for name in REDUCED_SPACES)]:
        if config.space == space.name:
            return DARTSNetwork(space.genotype(config))
    if config.space == NASNetSpace.name:
        return NASNetSpace().network(config)
    raise ValueError(
        f"{path} holds a config of space {config.space!r}, which says nothing of the network. Name the run it is from."
    )


def _metrics(results: Mapping[str, float]) -> Table:
    return network_table([{"metric": name, "value": f"{value:.4f}"} for name, value in results.items()])


def _say(what: str | Table) -> None:
    console().print(what, soft_wrap=True)


def _positional(command: str, args: Sequence[str], what: str) -> tuple[str, list[str]]:
    if args and args[0] in ("-h", "--help"):
        return next(iter(PUBLISHED)), list(args)
    if not args or args[0].startswith("-"):
        raise ValueError(f"oneshot {command} needs {what} as its first argument.")
    return args[0], list(args[1:])


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(text).name).strip("_") or "network"


@contextmanager
def _argv(program: str, args: Sequence[str]) -> Iterator[None]:
    """Lightning reads the command line itself, and warns when it is given arguments beside one."""
    before, sys.argv = sys.argv, [program, *args]
    try:
        with warnings.catch_warnings():
            # Lightning calls methods that jsonargparse is about to rename; neither is ours to change.
            warnings.filterwarnings("ignore", r"(?s).*(JsonargparseDeprecationWarning|instantiate_classes)")
            yield
    finally:
        sys.argv = before
