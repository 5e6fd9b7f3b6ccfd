"""``oneshot discrete``: studies of the discrete search from a configuration, and what they leave in a folder."""

from __future__ import annotations

import argparse
import csv
import inspect
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, TypedDict

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from oneshot._lightning import quiet_jsonargparse
from oneshot.discrete.evaluators.latency import LATENCY, MeasuredLatency
from oneshot.discrete.events import LOG
from oneshot.discrete.graphs.graph import GRAPHS
from oneshot.discrete.protocol import Evaluator, SearchStrategy
from oneshot.discrete.record import Record
from oneshot.discrete.study import Study
from oneshot.parallel.ray import connect
from oneshot.report.live import LiveReport
from oneshot.report.page import REPORT
from oneshot.report.study import draw_study
from oneshot.report.style import save_figure
from oneshot.report.tables import network_table
from oneshot.storage.class_paths import public_path, stable_name, with_present_paths
from oneshot.storage.files import new_folder, remove_unfinished, write_atomically
from oneshot.storage.lock import RunLock
from oneshot.storage.readers import read_yaml
from oneshot.storage.trust import CONFIG, check_classes, importing_only
from oneshot.supernets.base import Supernet
from oneshot.supernets.json_files import checked
from oneshot.supernets.space import SearchSpace

from .data_defaults import build_data, fit_to_data
from .next_steps import next_step
from .options import OneLineErrors, explain, with_article
from .resume import check_unchanged, options_of_the_run
from .terminal import say, with_configurations_as_utf8

TABLE, PICTURE, SUBNET, WEIGHTS = "evaluations.csv", "study.png", "subnet.json", "weights"
OBJECTS = {"strategy": SearchStrategy, "evaluator": Evaluator}
COMPARED = (*OBJECTS, "objectives")
# Earlier releases took what is now `controller` of these strategies as arguments of its own.
POLICIES = tuple(f"oneshot.{name}" for name in ("REINFORCE", "PPO", "MnasNet"))
OF_CONTROLLERS = ("hidden", "layers", "temperature", "tanh", "init")
WITH_LATENCY = [f"oneshot.discrete.{name}" for name in ("TrainingEvaluator", "SupernetEvaluator")]
FREE = ("evaluations", "hours", "workers", "ray", "ray_gpus", "timeout", "retries")  # may change when a study goes on


class _Budget(TypedDict, total=False):
    evaluations: int | None
    hours: float | None
    workers: int
    ray: str | None
    ray_gpus: float
    timeout: float | None
    retries: int


class _Config(_Budget):
    """Configuration of a study."""

    strategy: dict[str, Any]
    evaluator: dict[str, Any]
    objectives: list[str]


def discrete(args: Sequence[str]) -> None:
    """``oneshot discrete``: run a study, or go on with it.

    The folder gets the configuration, the log, all evaluations as CSV, a picture, the best architecture, and the
    weights of what was trained.
    """
    args, allowed = options_of_the_run(args, "discrete", read=_read_config)
    options, rest = _split(args)
    parsed = _parser().parse_args(with_configurations_as_utf8(rest))
    config = {name: parsed[name] for name in (*OBJECTS, "objectives", *FREE)}
    for name in OBJECTS:
        if isinstance(config[name], str):
            config[name] = {"class_path": config[name]}
    if isinstance(config["objectives"], str):
        config["objectives"] = [config["objectives"]]
    for path, value in options:
        _set(config, path, value)
    config = _with_latency(_with_controller(config))
    folder = Path(parsed.out)
    lock = RunLock(folder)
    with lock:
        if parsed.resume and (folder / CONFIG).is_file():
            remove_unfinished(folder)
            check_unchanged(_read_config(folder / CONFIG), config, folder, parts=COMPARED)
            with nullcontext() if allowed is None else importing_only(allowed):
                study = build(config, folder)
            _look_for_cluster(study)
            _write_config(config, folder)  # the next start goes on with the budget of this one
        else:
            with new_folder(folder, overwrite=parsed.overwrite or parsed.resume, marker=CONFIG, keep=CONFIG):
                study = build(config, folder)
                _look_for_cluster(study)
                _write_config(config, folder)
        study.log.lock = lock
        _run(study, folder)


def _run(study: Study, folder: Path) -> None:
    """Run a study whose folder this process has locked, and print the result."""
    if study.records:
        say(f"Going on after {len(study.evaluated)} evaluations.")
    if study.evaluator.remark:
        say(f"Note: {study.evaluator.remark}")
    if note := study.random_search():
        say(f"Note: {note}")
    report = LiveReport(folder)
    report.begin()
    study.after_evaluation = lambda: report.update(before=lambda: write_table(study, folder))
    try:
        with report:
            study.run()
    except BaseException:
        with suppress(OSError):  # the error that ended the study is the one to report
            write_report(study, folder)
        report.finish()
        raise
    write_report(study, folder, patient=True)
    report.finish()
    best, evaluated = study.best, study.evaluated
    say(network_table(rows(study, study.front())))
    say(f"Best: {best.proposal.config}")
    if failed := sum(record.result.values is None for record in evaluated):
        say(f"{failed} of {len(evaluated)} evaluations failed; {folder / TABLE} says why.")
    say(f"Evaluations took {study.share_of_evaluations:.0%} of the time.")
    no_networks = type(study.evaluator).network is Evaluator.network
    say(f"Run: {folder}, with {REPORT}, {TABLE} and {PICTURE}.")
    say(next_step("retrain", folder / SUBNET, "--help") if no_networks else next_step("pick", folder, "--knee"))


def _look_for_cluster(study: Study) -> None:
    """Connect before the configuration is written: a cluster that is not there would be looked for at every start."""
    if study.ray is not None:
        connect(study.ray, study.workers, "Evaluating on a cluster")


def _write_config(config: Mapping[str, Any], folder: Path) -> None:
    write_atomically(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))


def read_study(
    run: str | Path, *, follow: bool = True, trust: Sequence[str] = (), data_options: Sequence[str] = ()
) -> Study:
    """Read the study of a folder, as far as it has come.

    Args:
        run: The folder.
        follow: See :class:`~oneshot.discrete.study.Study`.
        trust: Modules besides ``oneshot`` whose classes may be imported and built.
        data_options: ``--data.init_args.root photos``, where the data of its evaluator are elsewhere now.

    Raises:
        ValueError: If the folder is none of ``oneshot discrete``, or names classes that are not trusted.
    """
    folder = Path(run)
    if not (folder / LOG).is_file() or not (folder / CONFIG).is_file():
        raise ValueError(
            f"A study must be a folder with {CONFIG} and {LOG}, made by 'oneshot discrete'; {folder} is none."
        )
    path = folder / CONFIG
    config = dict(_read_config(path))
    allowed = check_classes(config, path, trust)
    for option, value in _split(data_options, ("data",))[0]:
        _set(config, ["evaluator", "init_args", *option], value)
    try:
        with importing_only(allowed):
            return build(config, folder, follow=follow)
    except ValueError as error:
        if str(folder) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def _read_config(path: Path) -> Mapping[str, Any]:
    """Read the configuration of a study, and check that it has what every study has.

    Raises:
        ValueError: If it is damaged, or of something else.
    """
    advice = "It must be the configuration of a study, as 'oneshot discrete' writes it: restore it."
    return _with_controller(
        with_present_paths(checked(read_yaml(path, advice=advice), _Config, str(path), advice=advice))
    )


def _with_controller(config: Mapping[str, Any]) -> dict[str, Any]:
    """Put the arguments of a policy's network where they are now; configurations of earlier releases can go on."""
    strategy = config["strategy"]
    class_path, arguments = str(strategy.get("class_path", "")), strategy.get("init_args")
    known = stable_name(class_path.removesuffix(".small")) in POLICIES
    if not known or not isinstance(arguments, Mapping) or "controller" in arguments:
        return dict(config)
    settings = {name: arguments[name] for name in OF_CONTROLLERS if name in arguments}
    if not settings:
        return dict(config)
    rest = {name: value for name, value in arguments.items() if name not in settings}
    return {**config, "strategy": {**strategy, "init_args": {**rest, "controller": settings}}}


def _with_latency(config: dict[str, Any]) -> dict[str, Any]:
    """Measure latencies on this machine where one is an objective, and the evaluator can but is not told how."""
    evaluator = config["evaluator"]
    arguments = evaluator.get("init_args") or {}
    wanted = any(str(text).partition(" ")[2].strip() == LATENCY for text in config["objectives"])
    told = LATENCY in arguments or LATENCY in (arguments.get("costs") or {})
    if not wanted or told or evaluator.get("class_path") not in WITH_LATENCY:
        return config
    say("Note: latency is measured on this machine; --evaluator.init_args.latency names a file of 'oneshot measure'.")
    how = {"class_path": public_path(MeasuredLatency)}
    return {**config, "evaluator": {**evaluator, "init_args": {**arguments, LATENCY: how}}}


def build(config: Mapping[str, Any], folder: Path, *, follow: bool = True) -> Study:
    """Build evaluator, strategy and study.

    The strategy gets the ``space`` of the evaluator, and ``input_shape`` and ``num_classes`` of its data, unless its
    arguments say otherwise.
    """
    config = {name: value for name, value in config.items() if value is not None}
    evaluator = build_object("evaluator", config.pop("evaluator"), {"folder": str(folder / WEIGHTS)})
    data, space = getattr(evaluator, "data", None), getattr(evaluator, "space", None)
    known = {
        "space": None if space is GRAPHS else space,  # graphs have no genes to search in
        "input_shape": getattr(data, "input_shape", None),
        "num_classes": getattr(data, "num_classes", None),
    }
    strategy = build_object("strategy", config.pop("strategy"), known)
    return Study(strategy, evaluator, folder=folder, follow=follow, **config)


def write_report(study: Study, folder: Path, *, patient: bool = False) -> None:
    """Write all evaluations, the picture and the best architecture, each file whole; nothing before one has succeeded.

    Args:
        study: What to report.
        folder: Folder to write to.
        patient: Wait a while for room if the disk is full.
    """
    if all(record.result.values is None for record in study.records):
        return
    write_table(study, folder, patient=patient)
    write_atomically(folder / SUBNET, study.best.proposal.config.to_json(), patient=patient)
    title = f"{type(study.strategy).__name__}, {len(study.evaluated)} evaluations"
    save_figure(draw_study(study, title=title), folder / PICTURE, patient=patient)


def write_table(study: Study, folder: Path, *, patient: bool = False) -> None:
    """Write all evaluations as CSV; nothing before one has succeeded."""
    if all(record.result.values is None for record in study.records):
        return
    text = io.StringIO()
    front = {record.proposal.number for record in study.front()}
    metrics = list(dict.fromkeys(name for record in study.records for name in record.result.metrics))
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "parent", "fidelity", *metrics, "in_front", "seconds", "failure", "architecture"])
    for record in study.evaluated:
        proposal, result = record.proposal, record.result
        values = [repr(result.metrics[name]) if name in result.metrics else "" for name in metrics]
        kept = int(proposal.number in front)
        seconds = f"{result.seconds:.3f}"
        row = [proposal.number, proposal.parent, proposal.fidelity, *values, kept, seconds, result.failure]
        writer.writerow([*row, proposal.config])
    write_atomically(folder / TABLE, text.getvalue(), patient=patient)


def rows(study: Study, records: Sequence[Record]) -> list[dict[str, object]]:
    """Records as rows of a table, with their objectives as they were measured."""
    found: list[dict[str, object]] = []
    for record in records:
        metrics = {o.metric: f"{record.result.metrics[o.metric]:.5g}" for o in study.objectives}
        architecture = str(record.proposal.config)
        short = architecture if len(architecture) <= 60 else f"{architecture[:57]}..."
        found.append({"number": record.proposal.number, **metrics, "architecture": short})
    return found


class _Parser(OneLineErrors, ArgumentParser):
    """A parser with errors of one line."""


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="oneshot discrete",
        description="Search by evolution, reinforcement learning, Bayesian optimisation or morphisms.",
    )
    parser.add_argument("--config", action="config", help="YAML file with the options below")
    for name, kind in OBJECTS.items():
        what = f"class of the {kind.__name__}, or class_path and init_args; also --{name}.init_args.ARGUMENT VALUE"
        parser.add_argument(f"--{name}", type=dict | str, required=True, help=what)
    several = "such as 'max accuracy', or ['max accuracy', 'min params']"
    parser.add_argument("--objectives", type=list[str] | str, required=True, help=several)
    parser.add_argument("--evaluations", type=int | None, default=None, help="budget")
    parser.add_argument("--hours", type=float | None, default=None, help="budget of time")
    parser.add_argument("--workers", type=int, default=0, help="evaluations at a time; 0 in this process")
    parser.add_argument("--ray", type=str | None, default=None, help="address of a Ray cluster; 'local' starts one")
    parser.add_argument("--ray-gpus", type=float, default=0.0, help="GPUs of an evaluation there")
    parser.add_argument("--timeout", type=float | None, default=None, help="seconds for one evaluation")
    parser.add_argument("--retries", type=int, default=1, help="how often a failed evaluation is tried again")
    parser.add_argument("--out", type=str, default="runs/discrete", help="folder of the study")
    parser.add_argument("--resume", action="store_true", help="go on with the study in the folder")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")
    return parser


def _split(args: Sequence[str], objects: Iterable[str] = OBJECTS) -> tuple[list[tuple[list[str], Any]], list[str]]:
    """Split words into options of strategy and evaluator, such as ``--strategy.init_args.seed 3``, and the others."""
    options, rest, words = [], list[str](), iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if any(name.startswith(f"--{of}.") for of in objects):
            text = value if equals else next(words, None)
            if text is None:
                raise ValueError(f"{name} must be followed by a value.")
            options.append((name[2:].split("."), yaml.safe_load(text)))
        else:
            rest.append(word)
    return options, rest


def _set(config: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for number, name in enumerate(parents, start=1):
        inner = {} if config.get(name) is None else config[name]
        if isinstance(inner, str):
            inner = {"class_path": inner}  # an option before this one named the class alone
        if not isinstance(inner, Mapping):
            raise ValueError(
                f"--{'.'.join(path)} must be an argument of an object; --{'.'.join(parents[:number])} is {inner!r}. "
                "Give that one as a class path, or as class_path and init_args."
            )
        config[name] = dict(inner)
        config = config[name]
    config[last] = value


def build_object(name: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    """Build an object from a class path and arguments, completed by what is known."""
    class_path = str(given.get("class_path", ""))
    if others := sorted(set(given) - {"class_path", "init_args"}):
        raise ValueError(
            f"--{name} must have a class_path, and may have init_args; it has {', '.join(map(repr, others))}, too. "
            f"Arguments of the class stand in init_args: --{name}.init_args.{others[0]} VALUE."
        )
    if not class_path:
        raise ValueError(
            f"--{name} must have a class_path, and may have init_args; got {dict(given)}. Name a class: --{name} CLASS."
        )
    module, _, attribute = class_path.rpartition(".")
    try:
        target = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--{name} must be a class or a function that can be imported; got {class_path!r}: {error}."
        ) from error
    init_args = given.get("init_args") or {}
    if not callable(target) or not isinstance(init_args, Mapping):
        raise ValueError(
            f"--{name}: {class_path!r} must be a class or a function, and init_args its arguments by name."
        )
    arguments = dict(init_args)
    for argument in _parameters(name, class_path, target):
        if known.get(argument) is not None:
            value = known[argument]
            arguments.setdefault(argument, list(value) if isinstance(value, tuple) else value)
    parser = ArgumentParser(exit_on_error=False)
    set_parsing_settings(subclasses_enabled=[SearchSpace])  # a dataclass, which jsonargparse takes for final
    parser.add_argument(f"--{name}", type=OBJECTS[name])
    with quiet_jsonargparse():
        try:
            parsed = parser.parse_object({name: {"class_path": class_path, "init_args": arguments}})
        except argparse.ArgumentError as error:
            reason = explain(str(error))
            raise ValueError(reason) from error
        if name == "evaluator":
            _fit_networks(parsed[name])
        return parser.instantiate_classes(parsed)[name]


def _fit_networks(config: Namespace) -> None:
    """Build the supernets of an evaluator for its data, where the configuration leaves them at their defaults."""
    arguments = config.get("init_args")
    if arguments is None or arguments.get("data") is None:
        return
    networks = [given for given in vars(arguments).values() if _is_supernet(given)]
    if networks:
        data = build_data(arguments.data)
        for network in networks:
            fit_to_data(network, data)


def _is_supernet(given: object) -> bool:
    """Whether a part of a configuration is a class of supernets, and no function that builds one."""
    if not isinstance(given, Namespace) or "init_args" not in given:
        return False
    module, _, name = str(given.get("class_path")).rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(found, type) and issubclass(found, Supernet)


def _parameters(name: str, class_path: str, target: Callable[..., object]) -> list[str]:
    """The arguments of a class or a function.

    Raises:
        ValueError: If Python does not know them, as of some that are built in.
    """
    try:
        return list(inspect.signature(target).parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--{name} must be a class that is {with_article(OBJECTS[name].__name__)}, or a function that returns one; "
            f"{class_path} is neither. --help names some."
        ) from error
