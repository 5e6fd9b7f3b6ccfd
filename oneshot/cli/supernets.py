"""The supernet that a command is about: named by its class, a search, or a network to convert."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentParser, Namespace

from oneshot._lightning import quiet_jsonargparse
from oneshot.conversion.sources import is_source
from oneshot.cost.resolve import FILES, cost_name
from oneshot.storage.class_paths import with_present_paths
from oneshot.storage.readers import read_yaml
from oneshot.storage.trust import CONFIG, importing_only, split_trust
from oneshot.supernets.base import Supernet

from .data_defaults import build_data, fit_to_data
from .options import OneLineErrors
from .run import RunFolder, is_run
from .terminal import with_configurations_as_utf8

FROM = "--from"


class SupernetParser(OneLineErrors, ArgumentParser):
    """A parser with errors of one line."""


def supernet_parser(command: str, description: str, what: str) -> SupernetParser:
    """A parser with the options that say which supernet is meant; :func:`read_supernet` reads them.

    Args:
        command: Its name.
        description: What it does.
        what: What the search space is given for, ``"to measure"``.
    """
    parser = SupernetParser(prog=f"oneshot {command}", description=description)
    parser.add_argument("--config", action="config", help="YAML file with these options")
    parser.add_subclass_arguments(Supernet, "supernet", required=False, help=f"the search space {what}")
    parser.add_subclass_arguments(
        pl.LightningDataModule,
        "data",
        required=False,
        help="what a search will read: the supernet gets its image size, channels and number of classes",
    )
    parser.add_argument(
        FROM,
        type=str,
        metavar="SEARCH",
        help="in its place: folder of a run, YAML file of a search, or a network to convert, such as timm:resnet18",
    )
    parser.add_argument(
        "--trust", action="append", type=str, metavar="NAME", help="module or package whose classes may be built"
    )
    return parser


def read_supernet(
    parser: SupernetParser, words: Sequence[str], *, also: Sequence[str] = ()
) -> tuple[Namespace, Supernet]:
    """The options, and the supernet as a search builds it: its size follows the data where it is at its defaults.

    The option ``data`` is the data module, or None.

    Args:
        parser: See :func:`supernet_parser`.
        words: Of the command line.
        also: Options of the command that a search says, too: ``"costs"``, ``"bounds"`` and ``"allow_noisy"``.

    Raises:
        ValueError: If no supernet is given, or what ``--from`` names is no search, or is not trusted.
    """
    words, trust = split_trust(words)
    source, rest = _split_from(words)
    guard: AbstractContextManager[None] = nullcontext()
    if source is not None:
        first, allowed = _options_of(source, trust, also)
        rest = [*first, *rest]
        guard = nullcontext() if allowed is None else importing_only(allowed)
    with quiet_jsonargparse(), guard:
        options = parser.parse_args(with_configurations_as_utf8(rest))
        if options["from"] is not None or options.trust is not None:
            parser.error(f"{FROM} and --trust must be on the command line, not in a YAML file.")
        if options.supernet is None:
            parser.error(
                f"A supernet must be given: --supernet CLASS, or {FROM} with a run, the YAML file of a search, or a "
                "network to convert. --help shows how."
            )
        data = None
        if options.data is not None:
            fit_to_data(options.supernet, data := build_data(options.data))
            options.data = None
        built = parser.instantiate_classes(options)
        built.data = data
    return built, built.supernet


def _split_from(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The search that ``--from`` names, or ``--config`` with the YAML file of one, and all other words."""
    sources, rest, left = list[str](), list[str](), iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        if option not in (FROM, "--config"):
            rest.append(word)
            continue
        source = value if equals else next(left, "")
        if option == "--config" and not _is_search(Path(source)):
            rest += [option, source]
            continue
        if not source or source.startswith("-"):
            raise ValueError(f"{FROM} must be followed by a run, a YAML file of a search, or a network.")
        sources.append(source)
    if len(sources) > 1:
        raise ValueError(f"{FROM} must name one search; got {' and '.join(sources)}.")
    return (sources[0] if sources else None), rest


def _is_search(path: Path) -> bool:
    """Whether a YAML file is the configuration of a search, and not of this command."""
    try:
        config = read_yaml(path)
    except (OSError, ValueError):
        return False  # the parser says what is wrong with it
    return isinstance(config, Mapping) and "model" in config


def _options_of(source: str, trust: Sequence[str], also: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """A search, or a network, as options, and what may be imported to build it; None if the user names it all."""
    path = Path(source)
    if is_source(source) and not path.exists():
        return ["--supernet=oneshot.convert", f"--supernet.source={source}"], None
    folder = path.parent if path.name == CONFIG else path
    if is_run(folder):
        model, allowed = RunFolder(folder, tuple(trust)).trusted_model()
        return _as_options(model, None, path, also), allowed
    if not path.is_file():
        raise ValueError(
            f"{FROM} must name the folder of a run, the YAML file of a search, or a network to convert, such as "
            f"timm:resnet18; {source} is {'a folder without ' + CONFIG if path.is_dir() else 'not there'}."
        )
    config = with_present_paths(read_yaml(path))
    model = config.get("model") if isinstance(config, Mapping) else None
    return _as_options(model, config.get("data") if isinstance(config, Mapping) else None, path, also), None


def _as_options(model: Any, data: Any, path: Path, also: Sequence[str]) -> list[str]:
    arguments = (model.get("init_args") or {}) if isinstance(model, Mapping) else {}
    if not isinstance(arguments, Mapping) or not arguments.get("supernet"):
        raise ValueError(
            f"{path} must be of a search, with a supernet in its model; it has none. Name the search, or give "
            "--supernet."
        )
    found = {"supernet": arguments["supernet"], "data": data, **searched(arguments)}
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in found.items()
        if value and (name in ("supernet", "data") or name in also)
    ]


def searched(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Costs and bounds of a search, by the names of the arguments of :func:`oneshot.profile`.

    Args:
        arguments: Of the search: ``objectives``, ``costs`` and ``constraints`` of NAT, or a ``penalty``.
    """
    penalty = (arguments.get("penalty") or {}) if isinstance(arguments.get("penalty"), Mapping) else {}
    of_penalty = penalty.get("init_args") or {}
    costs: dict[str, Any] = {}
    files = [given for given in arguments.get("objectives") or () if isinstance(given, str) and _is_file(given)]
    for given in files:
        costs[cost_name(given, by_file=len(files) > 1)] = given
    own = arguments.get("costs")
    costs |= own if isinstance(own, Mapping) else {"macs": own} if own else {}
    bounds = dict(arguments.get("constraints") or {})
    if isinstance(cost := of_penalty.get("cost"), str):
        name = cost_name(cost)
        costs |= {name: cost} if _is_file(cost) else {}
        if of_penalty.get("form") == "target":
            bounds[name] = of_penalty["target"]
    noisy = bool(arguments.get("allow_noisy") or of_penalty.get("allow_noisy"))
    return {"costs": costs, "bounds": bounds, "allow_noisy": noisy}


def _is_file(given: str) -> bool:
    return given.endswith(FILES)
