"""What the commands that train or test share: options of Lightning, a folder for the run, how it is resumed."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from jsonargparse import Namespace
from pytorch_lightning.callbacks import Callback, Checkpoint, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from oneshot._lightning import quiet_jsonargparse, read_whole_numbers_first
from oneshot.callbacks import (
    MistakeRecorder,
    RunCheckpoint,
    RunReport,
    SearchProgressBar,
    StepProfile,
    good_checkpoint,
)
from oneshot.deploy.export import describe
from oneshot.deploy.latency import measured_on
from oneshot.random_numbers import own_random_numbers
from oneshot.report.live import LiveReport
from oneshot.report.network import NETWORK, describe_network
from oneshot.storage.class_paths import with_present_paths
from oneshot.storage.files import (
    begin_checksums,
    new_folder,
    remove_unfinished,
    write_recorded,
)
from oneshot.storage.interrupts import GOES_ON, graceful, interruption
from oneshot.storage.limits import check_sizes_in
from oneshot.storage.lock import RunLock
from oneshot.storage.readers import read_yaml
from oneshot.storage.run_log import RunLog
from oneshot.storage.trust import (
    CONFIG,
    importing_only,
)
from oneshot.supernets.base import Subnet
from oneshot.tasks.task import task_of
from oneshot.training.retrain import Retrain

from .data_defaults import build_data, default_task, fit_to_data
from .early_checks import check_teacher
from .networks import network_named
from .options import OneLineErrors
from .resume import check_unchanged, options_of_the_run
from .run import DATA, write_facts
from .terminal import say, with_configurations_as_utf8

# What may change when a run is resumed: where evaluations run.
FREE = {f"model.init_args.{name}" for name in ("ray", "ray_workers", "ray_gpus")}

COMPARED = ("seed_everything", "model", "data", "trainer", "teacher")

LIGHTNING = ("pytorch_lightning", "lightning_fabric", "torch.utils")  # of a Trainer, to which resuming belongs

FIXED_OF_TRAINER = ("precision", "limit_train_batches", "overfit_batches", "fast_dev_run")

CHECKPOINT = "checkpoints/last.ckpt"


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
        if not config.get("teacher", ""):
            config.pop("teacher", None)  # so that a configuration without one does for every command
        begin_checksums(folder)
        write_recorded(folder / CONFIG, self.parser.dump(config, skip_validation=True), patient=True)
        self._write_facts(trainer)

    def _write_facts(self, trainer: pl.Trainer) -> None:
        if (data := getattr(trainer, "datamodule", None)) is not None:  # which is set up by now
            write_facts(Path(trainer.default_root_dir), data)


class _Parser(OneLineErrors, LightningArgumentParser):
    """Lightning's parser, with errors of one line."""


class RunCLI(LightningCLI):
    """Lightning's command line with the folder of a run; objects are built, nothing is run.

    Args:
        command: Its name.
        args: Words of the command line. With ``--resume`` and no configuration, that of the run is read.
        callbacks: Callbacks of a training, for its folder; None if nothing is trained.
        first: Words in front of the configuration, which changes what they say.
        **kwargs: Of Lightning's command line.
    """

    def __init__(
        self,
        command: str,
        args: Sequence[str],
        *,
        callbacks: Callable[[Path], list[Callback]] | None = None,
        first: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        options, allowed = options_of_the_run(args, command, trust=LIGHTNING)
        guard = nullcontext() if allowed is None else importing_only(allowed)
        self._command, self._callbacks = command, callbacks
        # Lightning recommends its makers' other packages at every start.
        logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda r: "💡" not in r.getMessage())
        with _argv(f"oneshot {command}", with_configurations_as_utf8([*first, *options])), guard:
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
        if self._command == "retrain":
            taught = "run or export of a trained network that this one learns from as well"
            parser.add_argument("--teacher", type=str | None, default=None, metavar="FOLDER", help=taught)
        read_whole_numbers_first(parser)

    def before_instantiate_classes(self) -> None:
        self.config.trainer.default_root_dir = self.config.out
        check_sizes_in(self.config.model.as_dict())
        self._fit_to_data()
        if self._callbacks and self.config.resume and (Path(self.config.out) / CONFIG).is_file():
            self._compare_with_the_beginning(Path(self.config.out) / CONFIG)

    def _compare_with_the_beginning(self, path: Path) -> None:
        """Refuse options by which a resumed run would end differently."""
        now = yaml.safe_load(self.parser.dump(self.config, skip_validation=True))
        # The parser adds options that the release of the run did not have, at their defaults.
        known = self.parser.parse_object({**with_present_paths(read_yaml(path))})
        then = yaml.safe_load(self.parser.dump(known, skip_validation=True))
        for config in (now, then):
            config["trainer"] = {name: config.get("trainer", {}).get(name) for name in FIXED_OF_TRAINER}
        check_unchanged(then, now, Path(self.config.out), parts=COMPARED, free=FREE)

    def _fit_to_data(self) -> None:
        """Build the network for the data, where the configuration leaves it at its defaults."""
        model = self.config.model.get("init_args", self.config.model)
        network = model.get("supernet") or model.get("network")
        if not network or "init_args" not in network:
            return
        data = build_data(self.config.data)
        fit_to_data(network, data)
        said = getattr(data, "task", None)
        if said is None or "task" not in model or model.task is not None:
            return
        if task_of(said) != default_task(network.class_path):  # or it says nothing that is not known
            task = task_of(said).to_dict()
            args = Namespace(**task["init_args"])  # type: ignore[no-untyped-call]  # jsonargparse
            model.task = Namespace(class_path=task["class_path"], init_args=args)  # type: ignore[no-untyped-call]

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
                say(f"Resuming from {checkpoint}." if checkpoint else f"No checkpoint in {folder}; starting anew.")
            try:
                with graceful(), self.report:
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
            finally:
                self.report.finish()
        return folder

    @cached_property
    def report(self) -> LiveReport:
        """The page of the run; the first process writes it."""
        return LiveReport(self.config.out, active=self.trainer.is_global_zero)

    def conclude(self, network: Callable[[], Subnet]) -> None:
        """Complete the page of a run that has ended.

        Args:
            network: Builds what was found.
        """

        def described() -> str:
            with own_random_numbers():
                return describe_network(network())

        self.report.keep(NETWORK, described)
        self.report.finish()

    def alone(self) -> AbstractContextManager[object]:
        """Lock the folder for this run; the first of its processes holds the lock."""
        return RunLock(self.config.out) if self.trainer.is_global_zero else nullcontext()

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer, folder = self.config.trainer, Path(self.config.out)
        if trainer.logger in (None, True):
            kwargs["logger"] = RunLog(folder)
        callbacks = self._callbacks(folder) if self._callbacks else []
        given = self.config_init.trainer.callbacks or []
        if trainer.enable_progress_bar is False or any(isinstance(c, ProgressBar) for c in given):
            callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]
        if self._callbacks:
            callbacks.append(RunReport(folder))
        if self._callbacks and self.config.profile:
            callbacks.append(StepProfile(folder / "profile"))
        keeps = trainer.enable_checkpointing is False or any(isinstance(c, Checkpoint) for c in given)
        if self._callbacks and not keeps:
            callbacks.append(RunCheckpoint(folder / "checkpoints"))
        self.trainer_defaults = {"callbacks": callbacks}
        return super().instantiate_trainer(**kwargs)


def say_latencies(cli: RunCLI) -> None:
    """Print what the latencies of a search were measured on, which may be another machine."""
    if cli.trainer.is_global_zero:
        for told in measured_on(cli.model.cost_models().values()):
            say(told)


def retrain_cli(command: str, network: Subnet, args: Sequence[str], *, trust: Sequence[str] = ()) -> RunCLI:
    """Lightning's command line for the training, or the test, of one network.

    Args:
        command: Its name.
        network: The network.
        args: Words of the command line.
        trust: Modules besides ``oneshot`` whose classes a teacher may be built of.
    """
    # First, so that a YAML file or an option can change the size of the network.
    described = describe(network)
    first = ["--model.network", json.dumps(described["network"])]
    if "task" in described:
        first += ["--model.task", json.dumps(described["task"])]
    callbacks = _of_a_training if command == "retrain" else None
    cli = RunCLI(command, args, first=first, callbacks=callbacks, model_class=Retrain)
    cli.model.network.config = network.config
    if (teacher := cli.config.get("teacher")) is not None:
        _teach(cli.model, teacher, trust)
    return cli


def _teach(module: Retrain, folder: str, trust: Sequence[str]) -> None:
    """Let the network that is trained learn from the network of a run or an export as well.

    Raises:
        ValueError: If the folder has no trained network, or one of other classes, inputs or another task.
    """
    check_teacher(folder)
    try:
        module.learn_from(network_named(folder, inherit=True, trust=trust))
    except ValueError as error:
        raise ValueError(f"--teacher {folder}: {error}") from error


def _of_a_training(out: Path) -> list[Callback]:
    return [SearchProgressBar(), MistakeRecorder()]


@contextmanager
def _argv(program: str, args: Sequence[str]) -> Iterator[None]:
    """Lightning reads the command line itself, and warns when it is given arguments beside one."""
    before, sys.argv = sys.argv, [program, *args]
    try:
        with quiet_jsonargparse():
            yield
    finally:
        sys.argv = before
