"""``oneshot compare``: methods against each other, with the same space, data, budget and seeds."""

from __future__ import annotations

import argparse
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict

import pytorch_lightning as pl
import yaml
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import oneshot
from oneshot._lightning import quiet_jsonargparse, read_whole_numbers_first
from oneshot.callbacks import CollapseMonitor
from oneshot.comparison import Comparison, Entry, Results, Run, Setting
from oneshot.comparison.comparison import JOURNAL, TABLE, Told
from oneshot.comparison.results import verdict
from oneshot.comparison.trial import default_retraining, take_task
from oneshot.discrete.evaluators.tables import nas_bench_201, nas_bench_macro
from oneshot.discrete.protocol import Evaluator
from oneshot.discrete.record import Objective
from oneshot.engine.module import SearchModule
from oneshot.report.live import LiveReport
from oneshot.report.page import REPORT
from oneshot.report.tables import network_table
from oneshot.storage.class_paths import stable_name, with_present_paths
from oneshot.storage.files import new_folder, remove_unfinished, write_atomically
from oneshot.storage.lock import RunLock
from oneshot.storage.trust import CONFIG
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.json_files import checked
from oneshot.supernets.recurrent import LanguageModel
from oneshot.tasks.task import Task, task_of
from oneshot.training.retrain import Retrain

from .data_defaults import build_data, fit_to_data
from .discrete import build_object
from .next_steps import next_step
from .options import OneLineErrors, did_you_mean, explain
from .resume import HOW_DATA_ARE_READ, leaves
from .terminal import console, say, with_configurations_as_utf8

RANDOM = "random"
FAILED = 1  # exit code if a run failed
COMPARED = ("supernet", "network", "data", "task", "trainer", "table", "metric", "retrain")
SHOWN_ONLY = ("enable_progress_bar", "enable_model_summary", "log_every_n_steps", "logger", "default_root_dir")
FREE = HOW_DATA_ARE_READ | {f"trainer.{name}" for name in SHOWN_ONLY}  # nothing that a result depends on
# Tables in CSV files, by the space of their architectures, and the metric that counts unless another one is named.
TABLES: dict[str, tuple[Callable[..., Evaluator], str]] = {
    "nasbench201": (nas_bench_201, "max cifar10_test_accuracy"),
    "nasbenchmacro": (nas_bench_macro, "max cifar10_test_accuracy_mean"),
}


class _Method(TypedDict, total=False):
    """A method as a configuration has it."""

    class_path: str
    init_args: dict[str, Any]
    label: str
    streams: int | None
    supernet: dict[str, Any]


def compare(args: Sequence[str]) -> int:
    """``oneshot compare``: search with every method and every seed, or go on, and write what they found.

    Returns:
        The exit code: 1 if a run failed.
    """
    config = _parse(args)
    folder = Path(config.out)
    with RunLock(folder) as lock:
        if (folder / JOURNAL).is_file() and not config.overwrite:
            remove_unfinished(folder)
            results = _run(config, folder, lock)
        else:
            with new_folder(folder, overwrite=config.overwrite, marker=JOURNAL, keep=JOURNAL):
                results = _run(config, folder, lock)
    say(network_table([_short(row, results) for row in results.rows()]))
    for score in results.scores[:1]:
        if differences := results.differences(score):
            say(" ".join(verdict(differences, baseline=results.baseline is not None)))
    say(f"Comparison: {folder}, see {REPORT} and {TABLE}.")
    if failed := results.failed:
        every = len(results.labels) * len(results.seeds)
        say(f"{len(failed)} of {every} runs failed; {TABLE} says why, and the same command tries them again.")
    say(_next(args, config.seeds, failed=bool(failed)))
    return FAILED if failed else 0


def _next(args: Sequence[str], seeds: Sequence[int], *, failed: bool) -> str:
    """The same comparison, of what failed, or with as many new seeds, for differences that are clearer."""
    words: list[str] = []
    left_out = False
    for word in args:
        if word.startswith("--"):
            left_out = word == "--overwrite" or (not failed and word.partition("=")[0] == "--seeds")
        words += [] if left_out else [word]
    new = range(max(seeds) + 1, max(seeds) + 1 + len(seeds))
    return next_step("compare", *words, *([] if failed else ["--seeds", *map(str, [*seeds, *new])]))


def _short(row: Mapping[str, str], results: Results) -> dict[str, str]:
    """A row of the table without what the page has room for."""
    left_out = {"MACs", *([] if results.failed else ["failed"])}
    return {name: cell for name, cell in row.items() if name.split(",")[0] not in left_out and "best" not in name}


def _run(config: Namespace, folder: Path, lock: RunLock) -> Results:
    """Build the comparison of a configuration and run it; the folder is locked."""
    builder = _Builder(config)
    given = builder.given()
    settings = {name: value for name, value in leaves({part: given.get(part) for part in COMPARED})}
    comparison = Comparison(
        builder.entries(),
        config.seeds,
        builder.setting(folder),
        folder=folder,
        baseline=config.baseline,
        settings={name: value for name, value in settings.items() if name not in FREE},
        about={part: _told(given[part]) for part in COMPARED if given.get(part)},
    )
    comparison.journal.lock = lock
    kept = {name: value for name, value in given.items() if name not in ("out", "overwrite", "config")}
    write_atomically(folder / CONFIG, yaml.safe_dump(kept, sort_keys=False))
    every, missing = len(comparison.entries) * len(comparison.seeds), len(comparison.missing())
    if missing < every:
        say(f"Going on: {every - missing} of {every} runs are finished.")
    report = LiveReport(folder)
    report.begin()

    def watched(run: Run | None, number: int, what: str, left: float | None) -> None:
        told(run, number, what, left)
        if run is not None:
            report.update(before=comparison.write)

    try:
        with _bar(every) as told, report:
            return comparison.run(watched)
    finally:
        report.finish()


@contextmanager
def _bar(every: int) -> Iterator[Told]:
    """A progress bar with what goes on and the time that is left, and a line for every run that is finished."""
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    out = console(stderr=True)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("", total=every)

        def told(run: Run | None, number: int, what: str, left: float | None) -> None:
            about = "" if left is None else f"about {_duration(left)} left"
            if run is not None:
                scores = ", ".join(f"{name} {value:.4g}" for name, value in run.scores.items())
                took = f"; search {_duration(run.seconds)}" if run.seconds else ""
                said = f"failed: {run.failure}" if run.failure else f"{scores}{took}"
                say(f"[{number} of {every}] {run.label}, seed {run.seed}: {said}{f' ({about})' if left else ''}")
            bar.update(task, completed=number, description=f"{what} {about}")

        yield told


def _duration(seconds: float) -> str:
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}" if seconds >= 10 * unit else f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def _told(part: Any) -> str:
    """A part of the configuration in one line."""
    if not isinstance(part, Mapping):
        return str(part)
    named = {name: value for name, value in leaves(dict(part)) if value is not None}
    path = named.pop("class_path", None)
    rest = ", ".join(f"{name.replace('init_args.', '')} {value}" for name, value in named.items())
    return ": ".join(filter(None, (path, rest)))


class _Builder:
    """Builds new objects from a configuration, for every run its own."""

    def __init__(self, config: Namespace) -> None:
        self.config = config
        self.methods = [self._method(given) for given in config.methods]

    def given(self) -> dict[str, Any]:
        """The configuration without what is at its defaults."""
        text = _parser().dump(self.config, skip_default=True, skip_validation=True)
        given: dict[str, Any] = _without_defaults(yaml.safe_load(text))
        return {**given, "methods": self.config.methods, "seeds": self.config.seeds}

    def _method(self, given: str | Mapping[str, Any]) -> _Method:
        """A method as ``class_path`` and options, its class path complete."""
        method = {"class_path": given} if isinstance(given, str) else dict(given)
        found = checked(
            method, _Method, "--methods", advice="A method is a class path, or class_path, init_args, label."
        )
        if not (path := found.get("class_path", "")):
            raise ValueError(f"A method must have a class_path, or be {RANDOM!r}; got {method}.")
        if path != RANDOM and "." not in path:
            if path not in oneshot.__all__:
                raise ValueError(
                    f"A method must be {RANDOM!r}, a class of oneshot or the path of a class, my_module.MyMethod; got "
                    f"{path!r}.{did_you_mean(path, [RANDOM, *oneshot.__all__])}"
                )
            found["class_path"] = f"oneshot.{path}"
        if path == RANDOM and (more := sorted({"init_args", "streams", "supernet"} & found.keys())):
            raise ValueError(f"{RANDOM!r} draws an architecture and has no options; got {', '.join(more)}.")
        return found

    def entries(self) -> list[Entry]:
        """The methods.

        Raises:
            ValueError: If the class of one is not there, or does not know one of its arguments.
        """
        found = []
        for method in self.methods:
            path = method["class_path"]
            label = method.get("label", path.rpartition(".")[2])
            if path == RANDOM:
                found.append(Entry(label, None, settings={"class_path": RANDOM}))
                continue
            search = self._search(label, method)
            own = {"init_args": self._arguments(method), "supernet": method.get("supernet") or {}}
            settings = {name: value for name, value in leaves(own) if value != {}}
            settings |= {"class_path": stable_name(path), "streams": method.get("streams")}
            found.append(Entry(label, search, method.get("streams"), settings))  # type: ignore[arg-type]  # checked there
        return found

    def _arguments(self, method: _Method) -> dict[str, Any]:
        return {**self.config.common, **(method.get("init_args") or {})}

    def _search(self, label: str, method: _Method) -> Callable[[pl.LightningDataModule], SearchModule]:
        """A function that builds the search; its arguments are checked now."""
        over = method.get("supernet") or {}

        def parsed(supernet: Supernet | Mapping[str, Any]) -> tuple[ArgumentParser, Namespace]:
            parser = LightningArgumentParser(exit_on_error=False)
            parser.add_lightning_class_args(SearchModule, "model", subclass_mode=True)
            arguments = {**self._arguments(method), "supernet": supernet}
            with _explained(label):
                return parser, parser.parse_object(
                    {"model": {"class_path": method["class_path"], "init_args": arguments}}
                )

        def search(data: pl.LightningDataModule) -> SearchModule:
            parser, config = parsed(self.supernet(data, over))
            with _constructing():
                found: SearchModule = parser.instantiate_classes(config).model
            return found

        parsed(self._supernet_config(over))
        return search

    def _supernet_config(self, over: Mapping[str, Any]) -> dict[str, Any]:
        config: dict[str, Any] = self.config.supernet.as_dict()
        return {**config, "init_args": {**config.get("init_args", {}), **over}}

    def supernet(self, data: pl.LightningDataModule, over: Mapping[str, Any] | None = None) -> Supernet:
        """The supernet for the data."""
        parser, config = self._parsed_supernet(over or {})
        fit_to_data(config.supernet, data)
        with _constructing():
            found: Supernet = parser.instantiate_classes(config).supernet
        if (task := self._task()) is not None:
            found.task = task
        take_task(found, data)
        return found

    def _task(self) -> Task | None:
        """The task of the options; None takes that of the data, or of the supernet."""
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--task", type=Task | str | None)
        given = self.config.task
        with _constructing():
            built = parser.instantiate_classes(
                parser.parse_object({"task": given.as_dict() if isinstance(given, Namespace) else given})
            ).task
        return None if built is None else task_of(built)

    def _parsed_supernet(self, over: Mapping[str, Any]) -> tuple[ArgumentParser, Namespace]:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(Supernet, "supernet")
        with _explained("network" if over else "supernet"):
            return parser, parser.parse_object({"supernet": self._supernet_config(over)})

    def data(self, seed: int) -> pl.LightningDataModule:
        """The data, with this seed where the configuration leaves it at the default."""
        config = self.config.data.clone()
        part: Any = config
        while isinstance(part, Namespace) and "init_args" in part:
            if "seed" in part.init_args and part.init_args.seed == _default(part.class_path, "seed"):
                part.init_args.seed = seed
            part = part.init_args.get("data")
        with _constructing():
            return build_data(config)

    def setting(self, folder: Path) -> Setting:
        """What the methods have in common."""
        options = self._options("trainer", pl.Trainer)
        epochs = options.pop("max_epochs", None)
        if epochs is None or epochs < 1:
            raise ValueError(f"--trainer.max_epochs, the epochs of a search, must be at least 1; got {epochs}.")
        options.pop("callbacks", None)
        if options.get("logger") in (None, True):
            options["logger"] = False
        table, metric = self._table()
        over = self.config.network
        self._parsed_supernet(over)
        return Setting(
            data=self.data,
            supernet=self.supernet,
            network=(lambda data: self.supernet(data, over)) if over else None,
            epochs=epochs,
            trainer={"default_root_dir": str(folder), **options},
            callbacks=self._callbacks,
            table=table,
            metric=metric,
            retrain_epochs=self.config.retrain.epochs,
            retraining=self._retraining,
        )

    def _callbacks(self) -> list[Callback]:
        return [*(self._options("trainer", pl.Trainer).get("callbacks") or []), CollapseMonitor()]

    def _retraining(self, network: Subnet) -> pl.LightningModule:
        options = self._options("retrain", Retrain)
        options.pop("epochs")
        if not isinstance(network, LanguageModel):
            return Retrain(network, **options)
        defaults = inspect.signature(Retrain).parameters
        if others := [name for name, value in options.items() if value != defaults[name].default]:
            raise ValueError(
                f"Of --retrain only epochs may be given for language models, which RetrainLanguage trains; got "
                f"{', '.join(others)}. Leave them out, or give Setting(retraining=...) in Python."
            )
        return default_retraining(network)

    def _options(self, part: str, kind: type) -> dict[str, Any]:
        """Arguments of a class, with new objects; those that are None are left out."""
        parser = LightningArgumentParser(exit_on_error=False)
        _add_options(parser, part, kind)
        with quiet_jsonargparse():
            parsed = parser.instantiate_classes(parser.parse_object({part: self.config[part].as_dict()}))
        return {name: value for name, value in vars(parsed[part]).items() if value is not None}

    def _table(self) -> tuple[Evaluator | None, Objective | None]:
        """What scores architectures without training them, and the metric that counts."""
        given, metric = self.config.table, self.config.metric
        if given is None:
            if metric is not None:
                raise ValueError(f"--metric is of a --table, and there is none; got --metric {metric!r}. Leave it out.")
            return None, None
        space = self.supernet(self.data(0)).space
        if isinstance(given, str) and (path := Path(os.path.expandvars(given)).expanduser()).suffix in (".csv", ".gz"):
            if space.name not in TABLES:
                raise ValueError(
                    f"Tables in CSV files are known of the spaces {', '.join(TABLES)}; the supernet's is "
                    f"{space.name!r}. Give the class of an evaluator: --table my_module.MyTable."
                )
            load, known = TABLES[space.name]
            objective = Objective.parse(metric or known)
            return load(path, [objective.metric]), objective
        if metric is None:
            raise ValueError("With the class of a table, --metric must say what counts: --metric 'max accuracy'.")
        config = {"class_path": given} if isinstance(given, str) else with_present_paths(given)
        table: Evaluator = build_object("evaluator", config, {"space": space})
        return table, Objective.parse(metric)


def _without_defaults(tree: Any) -> Any:
    """A configuration without the arguments of classes that have their default values."""
    if not isinstance(tree, dict):
        return tree
    if isinstance(path := tree.get("class_path"), str) and isinstance(arguments := tree.get("init_args"), dict):
        kept = {name: value for name, value in arguments.items() if value != _listed(_default(path, name))}
        tree = {"class_path": path, **({"init_args": kept} if kept else {})}
    return {name: _without_defaults(value) for name, value in tree.items()}


def _listed(value: Any) -> Any:
    """A value as YAML has it: tuples are lists."""
    return [_listed(part) for part in value] if isinstance(value, list | tuple) else value


def _default(class_path: str, argument: str) -> Any:
    """The default of an argument of a class, or of the parents to which it may pass it on; None if none names it."""
    module, _, name = class_path.rpartition(".")
    found: Any = getattr(import_module(module), name)
    for kind in inspect.getmro(found) if isinstance(found, type) else (found,):
        if kind is not object and argument in (parameters := inspect.signature(kind).parameters):
            return parameters[argument].default
    return None


@contextmanager
def _constructing() -> Iterator[None]:
    """Raise what a constructor raised, without jsonargparse's list of all types that were tried."""
    with quiet_jsonargparse():
        try:
            yield
        except ValueError as error:
            if error.__cause__ is not None and "Union subtypes" in str(error):
                raise error.__cause__ from None
            raise


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Errors of the parser in one line, with the method they belong to."""
    with quiet_jsonargparse():
        try:
            yield
        except argparse.ArgumentError as error:
            reason = re.sub(r"--(model|supernet)(\.|: )", "", explain(str(error)), count=1)
            raise ValueError(f"{what}: {reason}") from error


class _Parser(OneLineErrors, LightningArgumentParser):
    """A parser with errors of one line."""


def _add_options(parser: LightningArgumentParser, part: str, kind: type) -> None:
    """Add the arguments of the Trainer or of a retraining below ``--part``."""
    if kind is pl.Trainer:
        parser.add_lightning_class_args(pl.Trainer, part)
    else:
        parser.add_argument(f"--{part}.epochs", type=int, default=0, help="epochs to retrain what was found; 0 is off")
        parser.add_class_arguments(kind, part, skip={"network"}, instantiate=False)
    read_whole_numbers_first(parser)


def _parser() -> LightningArgumentParser:
    parser = _Parser(prog="oneshot compare", description="Compare methods on one space and one data set.")
    parser.add_argument("--config", action="config", help="YAML file with the options below")
    parser.add_argument("--out", type=str, default="runs/compare", help="folder of the comparison")
    parser.add_argument(
        "--overwrite", action="store_true", help="begin anew, where otherwise a comparison is gone on with"
    )
    parser.add_argument(
        "--methods",
        type=str | dict,
        nargs="+",
        required=True,
        help="classes of methods, or 'random'; in YAML each may have class_path, init_args, label, streams, supernet",
    )
    parser.add_argument("--common", type=dict, default={}, help="arguments of all methods: --common.NAME VALUE")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="a run of every method for each of them"
    )
    parser.add_argument("--baseline", type=str | None, default=None, help="label: compare the others with it only")
    parser.add_subclass_arguments(Supernet, "supernet", required=True, help="what is searched")
    parser.add_argument(
        "--network",
        type=dict,
        default={},
        help="arguments of the supernet that are others for networks that were found: --network.NAME VALUE",
    )
    parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True, required=True)
    parser.add_argument(
        "--task",
        type=Task | str | None,
        default=None,
        help="what outputs are for: its name, or a class of oneshot.tasks",
    )
    parser.add_argument(
        "--table",
        type=str | dict | None,
        default=None,
        help="scores what is found: a CSV file of NAS-Bench-201 or -Macro, or the class of an Evaluator",
    )
    parser.add_argument("--metric", type=str | None, default=None, help="of the table: 'max accuracy', 'min error'")
    _add_options(parser, "retrain", Retrain)
    _add_options(parser, "trainer", pl.Trainer)
    return parser


def _parse(args: Sequence[str]) -> Namespace:
    with quiet_jsonargparse():
        return _parser().parse_args(with_configurations_as_utf8(args))
