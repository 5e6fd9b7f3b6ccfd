"""The parts of ``oneshot auto``: time, search, tune, export. Each leaves files that the other commands read."""

from __future__ import annotations

import copy
import json
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback

from oneshot.callbacks import MistakeRecorder, ParetoExport, SubnetExport
from oneshot.conversion.sources import TIMM, TORCHVISION
from oneshot.cost import measure as measure_table
from oneshot.cost import measure_samples, write_csv
from oneshot.cost.latency.device import Device
from oneshot.cost.record import noise_doubt
from oneshot.data.facts import data_facts
from oneshot.deploy.export import FILES, export_subnet, load
from oneshot.deploy.int8 import INT8_FILE, Int8, int8_samples
from oneshot.deploy.manifest import read_manifest
from oneshot.deploy.prediction import SCRIPT
from oneshot.errors import Int8LossError
from oneshot.nat.nat import NAT
from oneshot.report.evaluation import EVALUATION, interval
from oneshot.report.live import LiveReport
from oneshot.report.network import NETWORK as LAYERS
from oneshot.report.network import describe_network
from oneshot.report.page import REPORT
from oneshot.report.tables import network_table
from oneshot.storage.files import write_atomically
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.json_files import read_json
from oneshot.supernets.space import Floats
from oneshot.training.retrain import Retrain

from .auto_decide import build_supernet, device_of, read_by, spread_genes, task_with
from .auto_plan import BATCH, PLAN, Effort
from .auto_progress import FitProgress, Overall
from .data_defaults import build_data
from .evaluation_record import tested
from .export import write_export
from .fronts import RunFront, Wish, load_front
from .networks import MOST_CLASSES, by_class, class_table
from .next_steps import to_predict
from .retrain import train_and_test
from .run import RunFolder
from .terminal import say
from .trainer import RunCLI, retrain_cli

DONE, SUMMARY = "done.json", "summary.json"
SEARCH, ORIGINAL, PICKED, RETRAIN, NETWORK = "search", "original", "picked", "retrain", "network"
WRITTEN = (
    DONE,
    SUMMARY,
    PLAN,
    SEARCH,
    ORIGINAL,
    PICKED,
    RETRAIN,
    NETWORK,
    "search.yaml",
    "retrain.yaml",
    "report.html",
    *(f"latency.{ending}" for ending in ("csv", "json", "journal")),
)
TIMED, PASSES = 8, 21  # networks that are timed at once, and passes of each
SLACK = 1.05  # a network that is predicted to take so much of the limit may still keep it
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 5, "devices": 1}


@dataclass(frozen=True)
class Chosen:
    """The network that was taken from those that the search evaluated.

    Args:
        place: Its row in the archive.
        network: With weights and statistics of its own.
        metrics: What is known of it.
    """

    place: int
    network: Subnet
    metrics: Mapping[str, float]


class Work:
    """What is done by a plan, in its folder.

    Args:
        folder: The folder.
        plan: As ``plan.json`` says.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder, self.plan, self.asked = folder, plan, plan["asked"]
        self.effort = Effort.from_dict(plan["effort"])
        self.overall = Overall(self.effort.parts)
        self.limit = float(self.asked["latency"])
        state = folder / DONE
        self.pages = LiveReport(folder, every=0.0)
        self.state: dict[str, Any] = read_json(state) if state.is_file() else {"parts": [], "notes": []}

    # What is done.

    def is_done(self, name: str) -> bool:
        """Whether a part was done before."""
        return name in self.state["parts"]

    def skip(self, name: str) -> None:
        """Leave out a part that was done before."""
        self.overall.end(*([name, "search"] if name == "training" else [name]))

    def done(self, name: str) -> None:
        """Write down that a part is done."""
        self.state["parts"].append(name)
        write_atomically(self.folder / DONE, json.dumps(self.state, indent=2) + "\n")

    def note(self, sentence: str) -> None:
        """Say something that whoever reads the result must know; it is among the warnings of the report, too."""
        if sentence not in self.state["notes"]:
            self.state["notes"].append(sentence)
        say(f"NOTE: {sentence}")

    # What the parts share.

    @property
    def pretrained(self) -> bool:
        """Whether the search began with trained weights."""
        return bool(self.asked["weights"])

    @property
    def device(self) -> Device:
        """What latencies are measured on."""
        return device_of(self.asked["runtime"], self.asked["threads"], int8=self.asked["int8"])

    @cached_property
    def data(self) -> Any:
        """The data, set up."""
        return _opened(self.plan["data"])

    def data_of(self, network: Subnet) -> dict[str, Any]:
        """The configuration of the data for a network, which may have taken a smaller resolution."""
        config: dict[str, Any] = self.plan["data"]
        if self.plan["kind"] != "images" or tuple(network.input_shape) == tuple(self.data.input_shape):
            return config
        return read_by(network, config)

    def supernet(self) -> Supernet:
        """The search space, with the weights it begins with."""
        return build_supernet(self.plan["space"]["config"], self.data)

    @property
    def trust(self) -> tuple[str, ...]:
        """Packages of the user whose code builds the original."""
        source = self.asked["source"] or TIMM
        return () if source.partition(":")[0] in (TIMM, TORCHVISION) else (source.partition(".")[0],)

    @property
    def latencies(self) -> Path:
        """The file of latencies."""
        found = [self.folder / f"latency.{ending}" for ending in ("csv", "json")]
        return next((path for path in found if path.is_file()), found[0])

    # The parts.

    def time_networks(self) -> None:
        """Time networks of the space on this machine: a file that every search takes as an objective."""
        supernet, journal = self.supernet(), self.folder / "latency.journal"
        told: Any = {"seed": self.asked["seed"], "journal": journal, "progress": self._timed}
        if supernet.has_candidates:
            table = measure_table(supernet, self.device, **told)
            table.save(self.folder / "latency.json")
            doubts = list(table.doubts)
        else:
            genes = spread_genes(supernet, self.effort.networks, self.asked["seed"])
            ms, record = measure_samples(supernet, self.device, genes, **told)
            write_csv(self.folder / "latency.csv", supernet.space, genes, ms, record=record)
            doubts = [doubt] if (doubt := noise_doubt(record.noise)) else []
        if doubts:
            self.note(
                f"The file of latencies is doubtful: {'; '.join(doubts)}. Another program may have used the machine. "
                "The network that is taken is measured again, but a better one may have been passed over."
            )

    def _timed(self, done: int, total: int) -> None:
        self.overall.update(done / total, f"timing networks, {done} of {total}")

    def search(self) -> None:
        """Train all networks together and search the front of error and latency: ``oneshot pareto``."""
        effort, pretrained = self.effort, self.pretrained
        method: dict[str, Any] = {
            "objectives": [str(self.latencies)],
            "constraints": {"latency": self.limit},
            "warmup_epochs": effort.epochs,
            "iterations": effort.iterations,
            "adapt_epochs": 0,
            "initial": effort.initial,
            "batch": BATCH,
            "calibration_images": effort.calibration,
            "allow_noisy": True,
            "search_seed": self.asked["seed"],
            "weight_warmup_epochs": 1,
            "supernet": self.plan["space"]["config"],
        }
        method |= {"weight_optimizer": _adamw(3e-4 if pretrained else 2e-3), "weight_decay_norms": False}
        if pretrained:  # the warm-up transfers the largest, which is the original; nothing else is trained
            method |= {"random_paths": 0, "smallest": False, "rank_channels": True, "freeze_statistics": True}
            method |= {"fit_head": True, "fit_heads": True}
        else:
            method |= {"random_paths": 1, "smallest": False}
        if self.asked["metric"]:
            method["task"] = task_with(self.data, self.asked["metric"])
        config = self._write(
            "search.yaml",
            {
                "seed_everything": self.asked["seed"],
                "model": {"class_path": "oneshot.NAT", "init_args": method},
                "data": self.plan["data"],
                "trainer": {**QUIET, "max_epochs": effort.epochs, "limit_val_batches": 0},
            },
        )
        told = FitProgress(self.overall, "search", effort.initial + effort.iterations * BATCH)
        cli = RunCLI(
            "pareto",
            self._words(config, SEARCH),
            model_class=NAT,
            subclass_mode_model=True,
            callbacks=lambda out: [ParetoExport(out), SubnetExport(out), told],
        )
        with cli.alone():
            cli.fit()

    def _words(self, config: Path, name: str) -> list[str]:
        """Options of a command that begins a run, or goes on with it."""
        out = self.folder / name
        return ["--config", str(config), "--out", str(out), *(["--resume"] if out.exists() else [])]

    def tune(self) -> None:
        """Take the most accurate network that is measured to keep the limit, and train it: ``oneshot retrain``."""
        front = self._front()
        chosen = self._choose(front)
        self.state["place"] = chosen.place
        facts = data_facts(front.data)
        if self.pretrained:
            self._export(front.largest(), ORIGINAL, facts, {})
        self._export(chosen.network, PICKED, facts, chosen.metrics)
        network = load(self.folder / PICKED, trust=self.trust)
        config = self._write(
            "retrain.yaml",
            {
                "seed_everything": self.asked["seed"],
                "model": self._training(),
                "data": self.data_of(network),
                "trainer": {**QUIET, "max_epochs": self.effort.tuning, "limit_val_batches": 0},
            },
        )
        taught = ["--teacher", str(self.folder / ORIGINAL)] if self.pretrained else []
        cli = retrain_cli("retrain", network, [*self._words(config, RETRAIN), *taught], trust=self.trust)
        cli.model.load_network(network)
        cli.trainer.callbacks.append(FitProgress(self.overall))  # type: ignore[attr-defined]  # Lightning sets it
        train_and_test(cli, network)
        name = f"val/{network.task.metric_name}"
        tuned = _measure(cli.model, cli.datamodule, "validate")[name]
        before = chosen.metrics[name]
        better = network.task.error(tuned) <= network.task.error(before)
        self.state |= {"final": RETRAIN if better else PICKED, "validation": {"before": before, "after": tuned}}
        if not better:
            self.note(
                f"Training the network further took its {name} from {before:.4f} to {tuned:.4f}, so it is exported as "
                "it was before."
            )

    def _training(self) -> dict[str, Any]:
        """Options of the training of the network that is taken."""
        lr = 6e-4 if self.pretrained else 1e-3
        settings: dict[str, Any] = {"optimizer": "adamw", "lr": lr, "lr_min": lr / 100, "weight_decay": 0.01}
        settings |= {"weight_decay_norms": False, "warmup_epochs": 1}
        if self.pretrained:
            settings |= {"fit_head": True, "freeze_statistics": True, "teacher_weight": 1.0}
            if self.data.classes and self.plan["data"]["init_args"]["batch_size"] % 2 == 0:
                settings["mixup"] = 1.0
        return settings

    def _front(self) -> RunFront:
        wish = Wish({}, {}, knee=False)
        front = load_front(str(self.folder / SEARCH), wish, trust=self.trust, data_options=(), dominated=True)
        assert isinstance(front, RunFront)
        return front

    def _choose(self, front: RunFront) -> Chosen:
        """The most promising network among those that are measured to keep the limit, see :func:`preferred`."""
        order = preferred(np.asarray(front.values), SLACK * self.limit, samples=self._compared_on(front))
        fastest = float("inf")
        for begin in range(0, len(order), TIMED):
            places = order[begin : begin + TIMED]
            took = times([front.untrained(place) for place in places], self.device)
            fastest = min(fastest, *took)
            for place, ms in zip(places, took, strict=True):
                if ms <= self.limit:
                    network = front.build(place)
                    return Chosen(place, network, front.metrics(place, network))
        raise ValueError(
            f"No network of the search is measured to take at most {self.limit:g} ms; the fastest took {fastest:.3g}. "
            "The machine may be busy: stop what else runs and go on with --resume, or begin again with a larger "
            "--latency."
        )

    def _compared_on(self, front: RunFront) -> int | None:
        """Samples that errors of the front are shares of; None where they are no shares."""
        return len(self.data.val_set) if front.error_is_share else None

    def _export(self, network: Subnet, name: str, facts: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        export_subnet(
            network,
            self.folder / name,
            mean=facts.get("mean"),
            std=facts.get("std"),
            classes=facts.get("classes"),
            preprocessing=facts.get("preprocessing"),
            metrics=metrics,
            formats=(),
            overwrite=True,
        )

    def _write(self, name: str, config: Mapping[str, Any]) -> Path:
        command = {"search.yaml": "oneshot pareto", "retrain.yaml": f"oneshot retrain {self.folder / PICKED} --inherit"}
        if self.pretrained:
            command["retrain.yaml"] += f" --teacher {self.folder / ORIGINAL}"
        head = f"# Written by 'oneshot auto'. The same: {command[name]} --config {self.folder / name}\n"
        return write_atomically(self.folder / name, head + yaml.safe_dump(dict(config), sort_keys=False))

    def export(self) -> None:
        """Export the network, measure the files, test it and the original on samples that nothing else has seen."""
        final = self.final()
        data = _opened(self.data_of(final))
        recorder, module = MistakeRecorder(), Retrain(final)
        tests = {NETWORK: _measure(module, data, "test", recorder)}
        classes = by_class(module, getattr(data, "classes", None))
        if missed := never_said(classes):
            self.note(
                f"The network never says {' or '.join(missed)}: it has seen too few samples of it beside the others. "
                "More samples help most; --metric balanced_accuracy searches for a network that is good for all "
                "classes alike."
            )
        record = {**tested([recorder], classes, data), "metrics": tests[NETWORK]}
        networks = {NETWORK: final}
        if self.pretrained:
            networks[ORIGINAL] = load(self.folder / ORIGINAL, trust=self.trust)
            tests[ORIGINAL] = _measure(Retrain(networks[ORIGINAL]), self.data, "test")
        samples = int8_samples(data, final) if self.asked["int8"] else None
        try:
            self._write_network(final, data, tests[NETWORK], samples)
        except Int8LossError as error:
            self.note(f"{error.fact} The network is exported in floats, whose latency is another one.")
            self._write_network(final, data, tests[NETWORK], None)
        page = LiveReport(self.folder / NETWORK)
        page.keep(EVALUATION, lambda: json.dumps(record, indent=1) + "\n")
        page.keep(LAYERS, lambda: describe_network(final))
        self.state |= {"tests": tests, "metric": final.task.metric_name, "classes": classes}
        self.state["ms"] = dict(zip(networks, times(list(networks.values()), self.device), strict=True))

    def _write_network(self, network: Subnet, data: Any, metrics: Mapping[str, float], int8: Int8 | None) -> None:
        formats: Any = ("torch_export", "onnx") if self.asked["runtime"] == "onnxruntime" else ("torch_export",)
        predicted = self._front().predictions(self.state["place"])  # it is measured on the same device
        write_export(
            network,
            self.folder / NETWORK,
            data_facts(data),
            metrics=metrics,
            predicted=predicted,
            formats=formats,
            with_preprocessing=False,
            overwrite=True,
            measure=True,
            int8=int8,
        )

    def final(self) -> Subnet:
        """The network that is exported."""
        if self.state["final"] == PICKED:
            return load(self.folder / PICKED, trust=self.trust)
        source = RunFolder(self.folder / RETRAIN, self.trust)
        module = source.module()
        assert isinstance(module, Retrain)
        network = module.network_for_export()
        network.config = source.subnet() or network.config
        return network

    # The end.

    def conclude(self) -> dict[str, Any]:
        """Write ``summary.json`` and the report; say what was found and what can be done with it."""
        manifest = read_manifest(self.folder / NETWORK) or {}
        entries = manifest.get("latency", ())
        measured = {entry["file"]: entry["measured_ms"] for entry in entries if entry["measured_ms"]}
        file = INT8_FILE if manifest.get("int8") else FILES["onnx"]
        ms = measured.get(file, next(iter(measured.values()), None))
        tests, took, samples = self.state["tests"], self.state["ms"], self.plan["counts"]["test"]
        metric = self.state["metric"]
        name, quantised = f"test/{metric}", manifest.get("int8")
        compared = ORIGINAL in tests or quantised  # in turn, which the latency of the file alone was not
        rows, column = [], "ms, in turn" if compared else "ms"
        for title, key in (("found", NETWORK), ("original", ORIGINAL)):
            if key in tests:
                sizes = (read_manifest(self.folder / key) or {}).get("params")
                value = float(tests[key][name])
                shown = interval(round(value * samples), samples) if metric == "accuracy" else None
                row = {"network": title, metric: f"{value:.4f}", "95 % interval": shown}
                rows.append({**row, column: f"{took[key] if compared or ms is None else ms:.3g}", "params": sizes})
        if quantised:
            shown = interval(round(quantised["after"] * samples), samples) if metric == "accuracy" else None
            row = {"network": "found, INT8 file", metric: f"{quantised['after']:.4f}", "95 % interval": shown}
            rows.insert(1, {**row, column: None if ms is None else f"{ms:.3g}", "params": rows[0]["params"]})
        lines = self._decided()
        if ms is not None:
            kept = "keeps" if ms <= self.limit else "does not keep"
            lines.insert(
                0, f"The file takes {ms:.3g} ms in {self.asked['runtime']}: it {kept} the limit of {self.limit:g} ms."
            )
        summary = {
            "schema_version": 1,
            "title": f"The most accurate network found within {self.limit:g} ms",
            "asked": self.asked,
            "limit_ms": self.limit,
            "file_ms": ms,
            "samples": samples,
            "test": tests[NETWORK],
            "lines": lines,
            "warnings": self.state["notes"],
            "table": rows,
        }
        write_atomically(self.folder / SUMMARY, json.dumps(summary, indent=2) + "\n")
        self.pages.finish()
        say(network_table(rows, title=f"{samples} test samples"))
        found = self.state["classes"]
        if found is not None and len(found["classes"]) <= MOST_CLASSES:
            say(class_table(found))
        if ms is not None:
            say(lines[0])
        say(f"Network: {self.folder / NETWORK}. In Python: oneshot.load({str(self.folder / NETWORK)!r}).")
        say(f"Report: {self.folder / REPORT}, to open in a browser.")
        pick = shlex.join(["oneshot", "pick", str(self.folder / SEARCH), "--latency", f"{self.limit:g}"])
        say(f"Networks of the front, as the search has left them: {pick} --out FOLDER")
        if (self.folder / NETWORK / SCRIPT).is_file():
            say(to_predict(self.folder / NETWORK))
        return {
            "folder": self.folder,
            "network": self.folder / NETWORK,
            "metric": metric,
            "value": float(tests[NETWORK][name]),
            "ms": ms,
            "limit": self.limit,
        }

    def _decided(self) -> list[str]:
        """What was decided, in sentences."""
        plan, effort = self.plan, self.effort
        size = [f"Images of {plan['size']} x {plan['size']} pixels: {plan['size_because']}."] if plan["size"] else []
        return [
            f"Search space: {plan['space']['name']}; the smallest network took {plan['ms']['smallest']:.3g} ms, the "
            f"largest {plan['ms']['largest']:.3g} ms.",
            *size,
            *(f"{part.what[0].upper()}{part.what[1:]}." for part in effort.parts),
        ]


def preferred(values: Floats, most: float, *, samples: int | None) -> list[int]:
    """Rows of an archive in the order in which they are tried.

    Errors that differ by less than one standard error of the best are the same for all that is known. Of these the
    slowest come first: on average the larger network gains more by the training that follows. All others follow by
    their errors.

    Args:
        values: Errors and latencies, ``[N, 2]``.
        most: Latency that rows may have at most.
        samples: On which errors are shares; None if they are no shares, and then no two are the same.
    """
    rows = np.flatnonzero(values[:, 1] <= most)
    if not len(rows):
        return []
    best = float(values[rows, 0].min())
    apart = 0.0 if samples is None else float(np.sqrt(max(best * (1 - best), 0.0) / samples))
    same = values[rows, 0] <= best + apart
    ordered = [*rows[same][np.argsort(-values[rows[same], 1], kind="stable")]]
    others = rows[~same]
    return [int(row) for row in [*ordered, *others[np.argsort(values[others, 0], kind="stable")]]]


def never_said(found: Mapping[str, Any] | None) -> list[str]:
    """Classes of which there are test samples, and that no sample was taken for.

    Args:
        found: As :func:`~oneshot.cli.networks.by_class` gives it.
    """
    if found is None:
        return []
    confusion = np.asarray(found["confusion"])
    rows = np.flatnonzero((confusion.sum(1) > 0) & (confusion.sum(0) == 0))
    return [str(found["classes"][row]) for row in rows]


def _opened(config: Mapping[str, Any]) -> Any:
    data = build_data(config)
    data.prepare_data()
    data.setup("fit")
    return data


def _adamw(lr: float) -> dict[str, Any]:
    return {"class_path": "torch.optim.AdamW", "init_args": {"lr": lr, "weight_decay": 0.01}}


def _measure(module: Retrain, data: Any, what: str, *callbacks: Callback) -> dict[str, float]:
    """Metrics of a network on the validation or the test samples of data."""
    off: Any = {**QUIET, "logger": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="auto", callbacks=list(callbacks), **off)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `test_dataloader` does not have many workers")
        (found,) = getattr(trainer, what)(module, datamodule=data, verbose=False)
    return {str(name): float(value) for name, value in found.items()}


def times(networks: Sequence[Subnet], device: Device) -> list[float]:
    """Median milliseconds of networks; all run in turn, so that other load slows all alike."""
    with device.ready():
        runs = [device.prepare(copy.deepcopy(network).eval()) for network in networks]
        found = [[device.time(run) for run in runs] for _ in range(3 + PASSES)][3:]
    return [float(np.median(column)) for column in zip(*found, strict=True)]
