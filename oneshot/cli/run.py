"""Read runs: configuration, module, checkpoint and data, each only when it is needed.

The files of a run are data, not code. Of its configuration only the model and the data are built, as far as a command
needs them, and only of classes that are trusted (``oneshot.storage.trust``). Damaged files are not used.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.cli import LightningArgumentParser

from oneshot._lightning import quiet_jsonargparse
from oneshot.callbacks.checkpoint import LAST, check_checkpoint, good_checkpoint
from oneshot.data.facts import FACTS, data_counts, data_facts
from oneshot.deploy.manifest import MANIFEST
from oneshot.discrete.events import LOG
from oneshot.engine.module import SearchModule
from oneshot.storage.class_paths import stable_name, with_present_paths
from oneshot.storage.files import CHECKSUMS, check_recorded, is_as_recorded, write_recorded
from oneshot.storage.limits import BoundedWeights, check_sizes_in
from oneshot.storage.readers import read_yaml
from oneshot.storage.trust import CONFIG, check_classes, importing_only, plain
from oneshot.supernets.json_files import read_json
from oneshot.supernets.space import SubnetConfig, load_config
from oneshot.training.retrain import Retrain

from .early_checks import not_a_run
from .options import one_line

CHECKPOINTS, SUBNET, RESULTS, DATA = "checkpoints", "subnet.json", "results.json", "data.json"
CONFUSION = "confusion.json"  # of the test of a retraining
PLACES = ("root", "path", "folder", "file", "directory", "data_dir")  # arguments that are paths whatever their type
# Endings of other texts that are.
FILES = (".json", ".csv", ".gz", ".yaml", ".txt", ".safetensors", ".pth", ".pt", ".bin", ".ckpt")
OF_TRAINER = (
    "accelerator",
    "devices",
    "precision",
    "limit_test_batches",
    "enable_progress_bar",
    "enable_model_summary",
)


@contextmanager
def _global_seed(seed: object) -> Iterator[None]:
    """Inside, what is built takes this as the seed of ``pl.seed_everything``; unchanged where it is no number."""
    before = os.environ.get("PL_GLOBAL_SEED")
    if isinstance(seed, int) and not isinstance(seed, bool):
        os.environ["PL_GLOBAL_SEED"] = str(seed)
    try:
        yield
    finally:
        os.environ.pop("PL_GLOBAL_SEED", None)
        if before is not None:
            os.environ["PL_GLOBAL_SEED"] = before


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, to read.

    Args:
        folder: The folder.
        trust: Modules besides ``oneshot`` whose classes may be imported and built.

    Raises:
        ValueError: If the folder is no run, or its configuration is damaged.
    """

    folder: Path
    trust: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        path = self.folder / CONFIG
        if not path.is_file():
            raise ValueError(not_a_run(self.folder))
        missing = {"model", "data"} - self.config.keys()
        if missing:
            more = repr(KeyError(min(missing, key=lambda name: name != "model")))
            if (self.folder / LOG).is_file():
                more = f"{self.folder} is a study; 'oneshot pick' takes its networks"
            raise ValueError(f"{path} must be the configuration of a run, with 'model' and 'data': {more}.")
        if not (self.folder / CHECKSUMS).is_file():
            note(f"{self.folder} has no {CHECKSUMS}, as runs of earlier releases: not all damage is noticed.")
        elif not is_as_recorded(path):
            note(f"{path} was changed, or damaged, since the run began; what follows is of it as it is now.")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration, as data."""
        path = self.folder / CONFIG
        try:
            return {**with_present_paths(read_yaml(path))}
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} must be the configuration of a run, with 'model' and 'data': {error!r}."
            ) from error

    @property
    def is_search(self) -> bool:
        """Whether it is a search, and no retraining."""
        return "class_path" in self.config["model"]

    def module(self, checkpoint: str | Path | None = None) -> SearchModule | Retrain:
        """The module, with the state of the last whole checkpoint, or of one that is named.

        Raises:
            ValueError: If there is no whole checkpoint, or it is of something else.
        """
        path = self.checkpoint(checkpoint)  # first: without one, nothing is built
        with self._parser() as parser:
            kind = SearchModule if self.is_search else Retrain
            parser.add_lightning_class_args(kind, "model", subclass_mode=self.is_search)
            with importing_only(self._checked("model")):
                model = _without_weights(self._found("model", self.config["model"]))
                parsed = parser.parse_object({"model": model})
                with BoundedWeights():
                    module = parser.instantiate_classes(parsed).model
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            module.load_state_dict(saved["state_dict"])
            module.on_load_checkpoint(saved)
        except Exception as error:  # whatever torch raises for a damaged file
            raise ValueError(f"{path} is not a checkpoint of this run, or is damaged: {error!r}") from error
        loaded: SearchModule | Retrain = module
        return loaded

    def trusted_model(self) -> tuple[Any, list[str]]:
        """The configuration of the model, of trusted classes, with paths that lead to something; what it may import."""
        allowed = self._checked("model")
        return _without_weights(self._found("model", self.config["model"])), allowed

    def checkpoint(self, named: str | Path | None = None) -> Path:
        """The last checkpoint that is whole; one that is named is checked, too.

        Raises:
            ValueError: If there is none, or the named one is damaged.
        """
        last = self.folder / CHECKPOINTS / LAST
        if named is not None:
            check_checkpoint(named)
            return Path(named)
        found = good_checkpoint(last.parent)
        if found is None:
            raise ValueError(f"There is no checkpoint {last}; the run did not finish an epoch.")
        if found != last:
            state = "is damaged" if last.is_file() else "is not there"
            note(f"{last} {state}; what follows is of {found.name}, the checkpoint before.")
        return found

    def data_config(self, overrides: Sequence[str] = ()) -> dict[str, Any]:
        """Class path and arguments of the data, complete, of trusted classes, with paths that lead to something.

        Args:
            overrides: Options as on the command line, ``--data.init_args.root photos``. They come first.
        """
        with self._parser() as parser:
            parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
            with importing_only(self._checked("data")):
                parsed = parser.parse_object({"data": self.config["data"]})
                own = yaml.safe_load(parser.dump(parsed, skip_validation=True))["data"]
            options = ["--data", json.dumps(self._found("data", own)), *overrides]
            data: dict[str, Any] = yaml.safe_load(parser.dump(parser.parse_args(options), skip_validation=True))["data"]
        return data

    def datamodule(self, overrides: Sequence[str] = ()) -> pl.LightningDataModule:
        """The data of the run, not set up; with its seed, on which the validation split depends.

        Raises:
            ValueError: If they are not where they were.
        """
        config = self.data_config(overrides)
        with self._parser() as parser, _global_seed(self.config.get("seed_everything")):
            parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
            try:
                data: pl.LightningDataModule = parser.instantiate_classes(parser.parse_object({"data": config})).data
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"The data of {self.folder} cannot be opened: {one_line(str(error))} {self.where()}"
                ) from error
        return data

    def opened_data(self, overrides: Sequence[str] = (), what: str = "This needs images") -> pl.LightningDataModule:
        """The data of the run, set up for a fit.

        Args:
            overrides: See :meth:`data_config`.
            what: What they are needed for, for the message.

        Raises:
            ValueError: If the images are not there.
        """
        data = self.datamodule(overrides)
        try:
            data.prepare_data()
            data.setup("fit")
        except (OSError, ValueError) as error:
            raise ValueError(f"{what}: {error} {self.where()}") from error
        return data

    def facts(self) -> dict[str, Any] | None:
        """What ``data.json`` says of the data; None in runs of earlier releases, which have none."""
        path = self.folder / DATA
        if not path.is_file():
            return None
        check_recorded(path)
        facts = read_json(path)
        if not isinstance(facts, dict) or not set(FACTS) <= facts.keys():
            raise ValueError(f"{path} must be a JSON object with {', '.join(FACTS)}. Restore it, or delete it.")
        return {name: facts[name] for name in FACTS}

    def known_facts(self, overrides: Sequence[str] = ()) -> dict[str, Any]:
        """:meth:`facts`; of a run without them, those of its data."""
        return self.facts() or data_facts(self.datamodule(overrides))

    def subnet(self) -> SubnetConfig | None:
        """The architecture in ``subnet.json``, if it is there."""
        path = self.folder / SUBNET
        if not path.is_file():
            return None
        check_recorded(path)
        return load_config(path)

    def results(self) -> dict[str, float] | None:
        """The test metrics in ``results.json``, if it is there."""
        path = self.folder / RESULTS
        if not path.is_file():
            return None
        check_recorded(path)
        results = read_json(path, not_finite=True)
        if not isinstance(results, dict) or not all(isinstance(value, int | float) for value in results.values()):
            raise ValueError(f"{path} must be a JSON object of names and numbers. Restore it, or delete it.")
        return {name: float(value) for name, value in results.items()}

    def trainer_config(self) -> dict[str, Any]:
        """Of the Trainer what may matter for a test, and is no object: where it runs, and with which precision."""
        trainer = self.config.get("trainer")
        return plain(trainer, OF_TRAINER) if isinstance(trainer, Mapping) else {}

    def where(self) -> str:
        """How to say where the data are now."""
        return f"If the data are elsewhere now, say where, for example {self.root_option()} FOLDER."

    def root_option(self) -> str:
        """The option that says in which folder the data are now, if they have one."""
        data = self.config["data"]
        nested = isinstance(data, Mapping) and "data" in (data.get("init_args") or {})
        return "--data.init_args.data.init_args.root" if nested else "--data.init_args.root"

    def _checked(self, part: str) -> list[str]:
        try:
            check_sizes_in(self.config[part])
        except ValueError as error:
            raise ValueError(f"{self.folder / CONFIG}: {error}") from error
        return check_classes(self.config[part], self.folder / CONFIG, self.trust)

    def _found(self, part: str, tree: Any) -> Any:
        """The tree with relative paths that lead somewhere: as seen from the run, as at the time, or from here."""
        about, run = self._about(), self.folder.resolve()

        def place(path: str) -> str:
            places, then = list[Path](), Path(about.get("working_directory") or "")
            if Path(path).is_absolute():
                places.append(Path(path))
            elif about.get("from_run"):
                places.append(run / about["from_run"] / path)
            if about.get("folder"):
                beside = Path(os.path.relpath(then / path, then / about["folder"]))
                if beside.name != ".." and beside.parts[:2] != ("..", ".."):  # it lay in the folder that the run lay in
                    places.append(Path(os.path.normpath(run / beside)))
            places.append(then / path)
            found = next((Path(os.path.normpath(one)) for one in places if one.exists()), Path(path))
            return path if os.path.exists(path) and os.path.samefile(found, path) else str(found)

        return _rooted(tree, place)

    def _about(self) -> dict[str, Any]:
        path = self.folder / DATA
        about = read_json(path) if path.is_file() and is_as_recorded(path) else {}
        return about if isinstance(about, dict) else {}

    @contextmanager
    def _parser(self) -> Iterator[LightningArgumentParser]:
        with quiet_jsonargparse():
            try:
                yield LightningArgumentParser(exit_on_error=False)
            except argparse.ArgumentError as error:
                reason = " ".join(str(error).split())
                if (denied := re.search(r"Importing '([\w.]+)' is not allowed", reason)) is not None:
                    root = denied[1].partition(".")[0]
                    reason = f"it names {denied[1]}, which is not trusted. If you trust it, say --trust {root}."
                raise ValueError(f"{self.folder / CONFIG}: {reason}") from error


def note(sentence: str) -> None:
    """Say something to the person at the terminal that is no error."""
    sys.stderr.write(f"{sentence}\n")


def is_run(folder: str | Path) -> bool:
    """Whether a folder is to be read as a run. An export is read as one, whatever else lies in it."""
    folder = Path(folder)
    return (folder / CONFIG).is_file() and not (folder / MANIFEST).is_file()


def read_run(
    run: str | Path, *, checkpoint: str | None = None, trust: Sequence[str] = ()
) -> tuple[SearchModule | Retrain, pl.LightningDataModule]:
    """Build the module and the data of a run and load the run's last whole checkpoint.

    Raises:
        ValueError: If the folder is not a run, names classes that are not trusted, or the checkpoint is missing,
            damaged or belongs to something else.
    """
    folder = RunFolder(Path(run), tuple(trust))
    return folder.module(checkpoint), folder.datamodule()


def write_facts(folder: Path, data: pl.LightningDataModule) -> None:
    """Write ``data.json``: what later commands must know of the data, and from where its relative paths lead."""
    here = os.path.realpath(".")
    run = os.path.realpath(folder)
    about = {"working_directory": here, "from_run": os.path.relpath(here, run), "folder": os.path.relpath(run, here)}
    content = {"schema_version": 1, **data_facts(data), **data_counts(data), **about}
    write_recorded(folder / DATA, json.dumps(content, indent=2) + "\n")


def _rooted(tree: Any, place: Callable[[str], str], *, named: bool = False) -> Any:
    """A tree whose paths, texts that are called or look like paths, are where ``place`` finds them."""
    if isinstance(tree, str):
        return place(tree) if tree and (named or tree.endswith(FILES)) else tree
    if isinstance(tree, Sequence):
        return [_rooted(value, place, named=named) for value in tree]
    if not isinstance(tree, Mapping):
        return tree
    if "class_path" not in tree:
        return {name: _rooted(value, place) for name, value in tree.items()}
    paths = _path_arguments(str(tree["class_path"]))
    arguments = (tree.get("init_args") or {}).items()
    return {**tree, "init_args": {name: _rooted(value, place, named=name in paths) for name, value in arguments}}


def _without_weights(tree: Any) -> Any:
    """The configuration without the file of weights a converted network began with; the checkpoint has them now."""
    if not isinstance(tree, Mapping):
        return tree
    changed = {name: _without_weights(value) for name, value in tree.items()}
    if stable_name(str(changed.get("class_path"))) == "oneshot.convert" and "init_args" in changed:
        changed["init_args"] = {**changed["init_args"], "weights": None}
    return changed


def _path_arguments(class_path: str) -> set[str]:
    module, _, name = class_path.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    return {*PLACES, *(p.name for p in parameters if "Path" in str(p.annotation))}
