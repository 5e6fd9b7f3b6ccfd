"""Runs: what a command leaves in a folder, and how later commands read it.

A search leaves ``config.yaml``, ``checkpoints/last.ckpt``, ``metrics.csv``, ``subnet.json`` and cell pictures; a
retraining the same without ``subnet.json``, and ``results.json`` with its test metrics.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console

from oneshot.callbacks import ArchLogger, CollapseMonitor, GenotypePlot, SearchProgressBar, SubnetExport
from oneshot.supernets import PUBLISHED, DARTSNetwork, NASBench201Network, SearchSpace, SubnetConfig, load_config
from oneshot.supernets.base import Subnet, inherit_weights

from .base import SearchModule
from .cost.counts import count
from .export import class_path, export_subnet, load
from .report import draw_cells, network_table, save_figure
from .retrain import Retrain

CONFIG, CHECKPOINT, SUBNET, RESULTS = "config.yaml", "checkpoints/last.ckpt", "subnet.json", "results.json"


class _SaveConfig(SaveConfigCallback):
    """Keeps the resolved configuration in the run's folder, whatever logger is used."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, folder / CONFIG, skip_none=False, overwrite=True)


class _RunCLI(LightningCLI):
    """Lightning's command line with ``--out`` and ``--overwrite``; objects are built, nothing is run."""

    def __init__(self, command: str, args: Sequence[str], **kwargs: Any) -> None:
        self._command = command
        with _argv(f"oneshot {command}", args):
            super().__init__(
                datamodule_class=pl.LightningDataModule,
                subclass_mode_data=True,
                save_config_callback=_SaveConfig,
                save_config_kwargs={"save_to_log_dir": False},
                seed_everything_default=0,
                load_from_checkpoint_support=False,
                auto_configure_optimizers=False,
                run=False,
                **kwargs,
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--out", type=str, default=f"runs/{self._command}", help="folder of the run")
        parser.add_argument("--overwrite", action="store_true", help="replace the folder if it exists")

    def before_instantiate_classes(self) -> None:
        self.config.trainer.default_root_dir = self.config.out

    def claim(self) -> Path:
        """Take the run's folder.

        Raises:
            FileExistsError: If it holds a run already and ``--overwrite`` was not given.
        """
        folder = Path(self.config.out)
        claim_folder(folder, overwrite=self.config.overwrite)
        return folder

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        if self.config.trainer.logger in (None, True):
            kwargs["logger"] = CSVLogger(self.config.out, name="", version="")
        return super().instantiate_trainer(**kwargs)


def claim_folder(folder: Path, *, overwrite: bool) -> None:
    """Make ``folder`` an empty folder.

    Raises:
        FileExistsError: If it exists, is not empty and must not be replaced.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise FileExistsError(
                f"A run needs a new folder; {folder} exists. Choose another with --out, or replace it with --overwrite."
            )
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)


def search(args: Sequence[str]) -> None:
    """``oneshot search``: fit a search and leave its architecture in the run's folder."""
    callbacks = [ArchLogger(), GenotypePlot(), SubnetExport(), CollapseMonitor(), SearchProgressBar()]
    cli = _RunCLI(
        "search",
        args,
        model_class=SearchModule,
        subclass_mode_model=True,
        trainer_defaults={"callbacks": callbacks},
    )
    folder = cli.claim()
    cli.trainer.callbacks.append(_checkpoint(folder))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    if cli.trainer.is_global_zero:
        console = Console()
        console.print(_describe(cli.model.derive()))
        console.print(f"Run: {folder}. Next: oneshot retrain {folder} --config ...", highlight=False)


def retrain(args: Sequence[str]) -> None:
    """``oneshot retrain SOURCE``: train the network of a search, an exported network or a published genotype."""
    source, args = _positional("retrain", args, "SOURCE, a search run, an exported network or a published genotype")
    inherit = "--inherit" in args
    network = _network(source, inherit=inherit)
    cli = _retrain_cli("retrain", network, [arg for arg in args if arg != "--inherit"])
    if inherit:
        inherit_weights(cli.model.network, network)
    folder = cli.claim()
    cli.trainer.callbacks.append(_checkpoint(folder))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    results = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)[0]
    if cli.trainer.is_global_zero:
        (folder / RESULTS).write_text(json.dumps(results, indent=2))
        console = Console()
        console.print(network_table([{"metric": name, "value": value} for name, value in results.items()], "test"))
        console.print(f"Run: {folder}. Next: oneshot export {folder}", highlight=False)


def evaluate(args: Sequence[str]) -> None:
    """``oneshot evaluate TARGET``: test a retraining on its own data, or an exported network on data that is given."""
    target, args = _positional("evaluate", args, "TARGET, a retraining or an exported network")
    if (Path(target) / CONFIG).exists():
        module, _ = read_run(target)
        if not isinstance(module, Retrain):
            raise ValueError(f"evaluate tests retrained and exported networks; {target} is a search. Retrain it first.")
        network, args = module.network_for_export(), ["--config", str(Path(target) / CONFIG), *args]
    else:
        network = load(target)
    cli = _retrain_cli("evaluate", network, [*args, "--trainer.logger=false"])
    cli.model.network.load_state_dict(network.state_dict())
    results = cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)[0]
    Console().print(network_table([{"metric": name, "value": value} for name, value in results.items()], "test"))


def derive(run: str, *, checkpoint: str | None = None, out: str | None = None) -> None:
    """``oneshot derive RUN``: write the architecture of a search's checkpoint."""
    module, _ = read_run(run, checkpoint=checkpoint)
    if not isinstance(module, SearchModule):
        raise ValueError(f"Only a search has an architecture to derive; {run} is a retraining.")
    config, path = module.derive(), Path(out or Path(run) / SUBNET)
    path.write_text(config.to_json())
    console = Console()
    console.print(_describe(config))
    console.print(f"Written: {path}", highlight=False)


def export(
    run: str, *, out: str | None = None, formats: Sequence[Literal["torch_export", "onnx"]], overwrite: bool = False
) -> None:
    """``oneshot export RUN``: write the network of a retraining, or of a search with the weights it inherits."""
    module, data = read_run(run)
    results = Path(run) / RESULTS
    if isinstance(module, Retrain):
        network = module.network_for_export()
        config = Path(run) / SUBNET
        network.config = load_config(config) if config.exists() else network.config
    else:
        network = module.supernet.extract(module.derive()).eval()
    folder = export_subnet(
        network,
        Path(out or Path(run) / "export"),
        mean=getattr(data, "mean", None),
        std=getattr(data, "std", None),
        classes=getattr(data, "classes", None),
        metrics=json.loads(results.read_text()) if results.exists() else None,
        formats=formats,
        overwrite=overwrite,
    )
    Console().print(f"Exported: {folder}; oneshot.load({str(folder)!r}) gives the network back.", highlight=False)


def show(target: str, *, out: str | None = None) -> None:
    """``oneshot show TARGET``: picture of the architecture, table of parameters and MACs."""
    network = _network(target, inherit=False)
    graphs = network.graphs()
    path = save_figure(draw_cells(graphs, title=Path(target).name), out or f"{_slug(target)}.png")
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
    console = Console()
    console.print(network_table(edges))
    console.print(network_table([size]))
    console.print(f"Picture: {path}", highlight=False)


def read_run(run: str | Path, *, checkpoint: str | None = None) -> tuple[SearchModule | Retrain, pl.LightningDataModule]:
    """Build the module and the data of a run and load the run's last checkpoint.

    Raises:
        ValueError: If the folder is not a run, or the checkpoint is missing or belongs to something else.
    """
    folder = Path(run)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"A run is a folder with {CONFIG}; {folder} has none. 'oneshot search' makes one.")
    config = yaml.safe_load((folder / CONFIG).read_text())
    is_search = "class_path" in config["model"]
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(SearchModule if is_search else Retrain, "model", subclass_mode=is_search)
    parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
    objects = parser.instantiate_classes(parser.parse_object({key: config[key] for key in ("model", "data")}))
    path = Path(checkpoint or folder / CHECKPOINT)
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {path}; the run did not finish an epoch.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        objects.model.load_state_dict(state)
    except Exception as error:  # whatever torch raises for a damaged file
        raise ValueError(f"{path} is not a checkpoint of this run: {error}") from error
    return objects.model, objects.data


def _retrain_cli(command: str, network: Subnet, args: Sequence[str]) -> _RunCLI:
    spec = {"class_path": class_path(network), "init_args": network.init_args}
    # First, so that a YAML file or an option can change the size of the network.
    cli = _RunCLI(command, ["--model.network", json.dumps(spec), *args], model_class=Retrain)
    cli.model.network.config = network.config
    return cli


def _network(target: str, *, inherit: bool) -> Subnet:
    """The network a word on the command line stands for."""
    path = Path(target)
    if target in PUBLISHED:
        return DARTSNetwork(PUBLISHED[target])
    if target.startswith("|"):
        return NASBench201Network(target)
    if (path / CONFIG).is_file():
        module, _ = read_run(path)
        if isinstance(module, Retrain):
            return module.network_for_export()
        config = load_config(path / SUBNET) if (path / SUBNET).exists() else module.derive()
        return module.supernet.extract(config, inherit=inherit)
    if path.exists():
        return load(path if path.is_dir() else path.parent)
    raise ValueError(
        f"Expected a run, an exported network, a NAS-Bench-201 string or one of {', '.join(PUBLISHED)}; "
        f"got {target!r}, which is none of these."
    )


def _checkpoint(folder: Path) -> Callback:
    return ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False)


def _describe(config: SubnetConfig) -> str:
    return "\n".join(f"{name}: {' '.join(map(str, picks))}" for name, picks in config.picks)


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
        yield
    finally:
        sys.argv = before
