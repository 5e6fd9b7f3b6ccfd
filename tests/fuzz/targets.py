"""Every file that is read: how a small one is made, and what its reader gives."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from oneshot.cli.discrete import read_study
from oneshot.conversion import convert
from oneshot.cost import LatencyTable, read_csv, write_csv
from oneshot.cost.latency.timings import Timings, Visit
from oneshot.data.arrays import read_arrays
from oneshot.deploy.export import export_subnet, load
from oneshot.discrete import RandomSearch, Study, TabularEvaluator
from oneshot.discrete.evaluators.benchmarks import nas_bench_101, nas_bench_201_file, nats_bench
from oneshot.discrete.evaluators.nas_bench_graph import nas_bench_graph
from oneshot.discrete.evaluators.training import TrainingEvaluator
from oneshot.discrete.protocol import Proposal
from oneshot.nat.archive import Archive
from oneshot.nat.evaluators import Evaluator, JournalledEvaluator
from oneshot.nat.objectives import Objective
from oneshot.nat.search import ParetoSearch
from oneshot.storage.run_log import RunLog
from oneshot.supernets import Choice, NASBench201Supernet, SearchSpace, SubnetConfig, load_config
from oneshot.supernets.base import example_inputs
from oneshot.supernets.genotype import PUBLISHED, Genotype
from oneshot.supernets.json_files import checked, read_json
from oneshot.supernets.nasbench201 import NASBench201Space
from oneshot.supernets.recurrent import PUBLISHED_RECURRENT, RecurrentGenotype
from tests.cost.latency import test_table
from tests.discrete.evaluators.test_benchmarks import BEST, CANONICAL, FULL, folder, pth, write_records

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c"), rows=4), Choice("width", (8, 16, 0.5))))


@dataclass(frozen=True)
class Target:
    """A file that is damaged.

    Args:
        make: Writes what is read into a folder, and gives the file of it that is damaged.
        read: What the reader gives, of the damaged file, as something that compares.
        form: ``"json"``, ``"lines"`` (of JSON), ``"csv"``, or ``""``: what can be changed in it besides bytes.
        protected: Whether a checksum stands beside it, so that no change at all may go unnoticed.
        cut: Whether it may end earlier, because it grows at its end: what it held then is what is read.
        any_header: Whether the columns of a CSV file may have any names.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    form: str = ""
    protected: bool = False
    cut: bool = False
    any_header: bool = False


# Studies.


def _table() -> TabularEvaluator:
    genes = SPACE.sample_matrix(60, 0)
    genes = np.unique(genes, axis=0)
    size = genes @ np.arange(1, 6)
    return TabularEvaluator(SPACE, genes, {"error": size / 100, "other": np.sqrt(size)})


def _study(folder: Path | None, **options: Any) -> Study:
    return Study(RandomSearch(SPACE), _table(), ["min error"], folder=folder, evaluations=12, retries=1, **options)


def _make_study(folder: Path) -> Path:
    _study(folder).run()
    return folder / "log.jsonl"


def _records(study: Study) -> object:
    return [(r.proposal, r.result.values, dict(r.result.metrics), r.result.failure, r.at) for r in study.records]


def _make_study_of_command(folder: Path) -> Path:
    _make_study(folder)
    strategy = {"class_path": "oneshot.discrete.RandomSearch", "init_args": {"seed": 0}}
    config = {"strategy": strategy, "evaluator": {"class_path": "tests.fuzz.targets._table"}, "workers": 0}
    config |= {"objectives": ["min error"], "evaluations": 12, "hours": None, "retries": 1, "timeout": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def _make_weights(folder: Path) -> Path:
    evaluator = _training(folder)
    torch.manual_seed(0)
    proposal = Proposal(0, NASBench201Space().sample(0))
    evaluator._save(proposal, evaluator.build(proposal.config))
    return folder / "0.safetensors"


def _training(folder: Path) -> TrainingEvaluator:
    from oneshot.data import FakeImages

    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)
    data = FakeImages(num_classes=10, input_shape=(1, 8, 8), train_size=20, test_size=4, val_fraction=0.5)
    return TrainingEvaluator(data, folder, build=supernet, epochs=1)


def _outputs(network: torch.nn.Module) -> object:
    x = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)
    with torch.no_grad():
        return network(x).tolist()


# Runs, and the search for a front.


def _make_metrics(folder: Path) -> Path:
    log = RunLog(folder)
    for step in range(8):
        log.log_metrics({"train/loss": 2.0 / (step + 1), "lr": 0.1}, step)
        if step % 3 == 2:
            log.log_metrics({"val/accuracy": 0.1 * step}, step)
    return log.path


class _Errors(Evaluator):
    def evaluate(self, configs: Sequence[SubnetConfig], done: Any = None) -> list[float]:
        errors = [float("nan") if config["width"] == (8,) else len(str(config)) / 100 for config in configs]
        for config, error in zip(configs, errors, strict=True):
            done(config, error)
        return errors


def _make_journal(folder: Path) -> Path:
    JournalledEvaluator(_Errors(), folder, 7).evaluate(SPACE.unique(SPACE.decode(SPACE.sample_matrix(12, 0))))
    return folder / "evaluations.0.jsonl"


def _read_journal(path: Path) -> object:
    """What is asked again: errors that the journal does not give are evaluated, and are the same."""
    journal = JournalledEvaluator(_Errors(), path.parent, 7)
    return journal.evaluate(SPACE.unique(SPACE.decode(SPACE.sample_matrix(12, 0))))


def _search() -> ParetoSearch:
    size = Objective("size", "layers", lambda genes: genes.sum(1) + 1.0)
    return ParetoSearch(SPACE, [size], initial=12, batch=4, population=8, generations=2, kinds=["ridge"])


def _make_search(folder: Path) -> Path:
    search = _search()
    for _ in range(2):
        genes = search.ask()
        search.tell(genes, genes @ np.arange(5) / 100 + 0.01)
    search.ask()
    folder.mkdir(exist_ok=True)
    (folder / "state.json").write_text(json.dumps(search.state_dict()))
    return folder / "state.json"


def _read_search(path: Path) -> object:
    state, search = checked(read_json(path), dict[str, Any], str(path)), _search()
    try:
        search.load_state_dict(state)
    except ValueError as error:  # the file is known to whoever has read it
        raise ValueError(f"{path}: {error}") from error
    return search.state_dict()


def _make_archive(folder: Path) -> Path:
    archive = Archive(SPACE, ("error", "size"))
    genes = np.unique(SPACE.sample_matrix(15, 0), axis=0)
    archive.add(genes, np.stack([genes.sum(1) / 10, genes.sum(1) + 1.0], 1))
    folder.mkdir(exist_ok=True)
    (folder / "archive.json").write_text(json.dumps(archive.to_dict()))
    return folder / "archive.json"


def _read_archive(path: Path) -> object:
    data = read_json(path)
    try:
        return Archive.from_dict(SPACE, data).to_dict()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


# Costs.


def _read_latencies(path: Path) -> object:
    table = LatencyTable.load(path)
    try:
        return table.cost(test_table.SPACE).costs(test_table.SPACE.sample_matrix(20, 0)).tolist()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _make_latency_csv(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    genes = np.unique(SPACE.sample_matrix(12, 0), axis=0)
    return write_csv(folder / "latency.csv", SPACE, genes, genes.sum(1) + 1.5)


def _read_latency_csv(path: Path) -> object:
    genes, values = read_csv(path, SPACE)[:2]
    return genes.tolist(), values.tolist()


SETTINGS = {"runtime": "eager", "runs": 2, "shape": [3, 8, 8]}


def _make_timings(folder: Path) -> Path:
    journal = Timings(folder / "table.journal", SETTINGS)
    for i in range(5):
        journal.append(_visit(i))
    return folder / "table.journal"


def _visit(i: int) -> Visit:
    values = {"genes": (0, i % 2, 1), "ms": (1.0 + i, 1.5), "reference_ms": (2.0, 2.25)}
    return Visit(**{name: values.get(name, (1.0, float(i))) for name in Visit._fields})


# Tables of benchmarks.


def _lookups(table: TabularEvaluator) -> object:
    genes = table.genes if hasattr(table, "genes") else np.array([np.frombuffer(k, np.int64) for k in table._rows])
    order = np.lexsort(np.asarray(genes).T)
    found: dict[Any, Any] = {"genes": np.asarray(genes)[order].tolist()}
    for config in table.space.decode(np.asarray(genes)[order]):
        for fidelity in (None, *sorted(table.fidelities)):
            found[str(config), fidelity] = table(Proposal(0, config, fidelity=fidelity))
    return found


def _make_csv(folder: Path, name: str = "table.csv") -> Path:
    folder.mkdir(exist_ok=True)
    space, text = NASBench201Space(), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arch", "accuracy", "params"])
    genes = np.unique(space.repair(space.sample_matrix(12, 0)), axis=0)
    for i, config in enumerate(space.decode(genes)):
        writer.writerow([space.arch_string(config), 50.25 + i, 1000 * i])
    content = text.getvalue().encode()
    (folder / name).write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    return folder / name


def _read_table(path: Path) -> object:
    space = NASBench201Space()
    return _lookups(
        TabularEvaluator.from_csv(path, space, space.from_arch_string, ["accuracy", "params"], complete=False)
    )


def _make_101(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return write_records(folder / "nasbench_full.tfrecord", FULL)


def _make_nats(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return folder(path / "NATS-tss", [BEST, CANONICAL]) / "000000.pickle.pbz2"


def _make_pth(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return pth(path / "NAS-Bench-201.pth", [BEST, CANONICAL])


def _make_graph_table(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    row = {"valid_perf": 0.8, "perf": 0.7, "latency": 0.004, "para": np.float64(0.5)}
    (path / "cora.bench").write_bytes(pickle.dumps({80_123: row, 10_000: row}, protocol=3))
    return path / "cora.bench"


# Exported networks and texts.


def _make_export(folder: Path) -> Path:
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)
    network = supernet.extract(supernet.space.sample(1))
    return export_subnet(network, folder / "export", mean=[0.5], std=[0.25], formats=())


def _make_converted(folder: Path) -> Path:
    torch.manual_seed(0)
    supernet = convert(source="timm:test_resnet", input_shape=(3, 32, 32))
    export = export_subnet(supernet.extract(supernet.space.sample(1)), folder / "export", formats=())
    (export / "manifest.json").unlink()  # with its checksum no change goes unnoticed
    return export / "subnet.json"


def _read_export(path: Path) -> object:
    network = load(path.parent)
    return _outputs(network), network.config


def _read_converted(path: Path) -> object:
    network = load(path.parent)
    with torch.no_grad():
        return network(example_inputs(network, 2)).tolist(), network.config, network.init_args


def _make_config(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "subnet.json").write_text(SPACE.sample(0).to_json())
    return folder / "subnet.json"


def _read_config(path: Path) -> object:
    config = load_config(path)
    try:
        SPACE.validate(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return config


def _make_series(folder: Path) -> Path:
    path = folder / "series.npz"
    np.savez(path, x=np.arange(60.0).reshape(10, 6), y=np.array(["a", "b"] * 5))
    return path


def _text(text: str, parse: Callable[[str], object]) -> Target:
    def make(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "text").write_text(text)
        return folder / "text"

    def read(path: Path) -> object:
        content = path.read_bytes().decode("latin-1")
        try:
            return parse(content)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    return Target(make, read)


TARGETS: dict[str, Target] = {
    "study log": Target(
        _make_study, lambda path: _records(_study(path.parent, follow=False)), "lines", protected=True, cut=True
    ),
    "study log, followed": Target(
        _make_study, lambda path: _records(_study(path.parent)), "lines", protected=True, cut=True
    ),
    "study config": Target(_make_study_of_command, lambda path: _records(read_study(path.parent)), "yaml"),
    "weights of a study": Target(_make_weights, lambda path: _outputs(_training(path.parent).load(0)), protected=True),
    "metrics": Target(_make_metrics, lambda path: RunLog(path.parent).rows, "csv", cut=True, any_header=True),
    "journal of errors": Target(_make_journal, _read_journal, "lines", cut=True),
    "state of a front": Target(_make_search, _read_search, "json"),
    "archive": Target(_make_archive, _read_archive, "json"),
    "latency table": Target(lambda f: test_table.make().save(f / "table.json"), _read_latencies, "json"),
    "latency csv": Target(_make_latency_csv, _read_latency_csv, "csv", cut=True),
    "journal of timings": Target(_make_timings, lambda path: Timings(path, SETTINGS).visits, "lines", cut=True),
    "table": Target(_make_csv, _read_table, "csv", cut=True),
    "packed table": Target(lambda f: _make_csv(f, "table.csv.gz"), _read_table, protected=True),
    "nas-bench-101": Target(
        _make_101, lambda path: _lookups(nas_bench_101(path, checksums=True, complete=False)), protected=True, cut=True
    ),
    "nats-bench": Target(_make_nats, lambda path: _lookups(nats_bench(path.parent, complete=False)), protected=True),
    "nas-bench-graph": Target(_make_graph_table, lambda path: _lookups(nas_bench_graph(path, complete=False))),
    "nas-bench-201": Target(_make_pth, lambda path: _lookups(nas_bench_201_file(path, complete=False))),
    "subnet of an export": Target(lambda f: _make_export(f) / "subnet.json", _read_export, "json", protected=True),
    "converted network": Target(_make_converted, _read_converted, "json"),
    "manifest": Target(lambda f: _make_export(f) / "manifest.json", _read_export, "json"),
    "weights": Target(lambda f: _make_export(f) / "model.safetensors", _read_export, protected=True),
    "arrays": Target(_make_series, lambda path: [str(np.asarray(a).tolist()) for a in read_arrays(path)]),
    "config of a network": Target(_make_config, _read_config, "json"),
    "genotype": _text(str(PUBLISHED["DARTS_V2"]), Genotype.parse),
    "recurrent genotype": _text(str(next(iter(PUBLISHED_RECURRENT.values()))), RecurrentGenotype.parse),
    "architecture string": _text(BEST, NASBench201Space().from_arch_string),
    "config text": _text(SPACE.sample(0).to_json(), SubnetConfig.from_json),
}
