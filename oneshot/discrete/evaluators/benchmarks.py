"""Official files of published benchmarks, read without their packages: NAS-Bench-101, 201, NATS-Bench; and 301 with it.

Nothing is downloaded. Whoever has the files names them, and gets an evaluator like any other. What a table holds are
often *test* accuracies: a search that looks them up is scored on what it optimises.
"""

from __future__ import annotations

import base64
import bz2
import collections
import importlib
import io
import math
import pickle
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from oneshot.discrete.protocol import Evaluator, Proposal
from oneshot.errors import MissingExtraError
from oneshot.supernets.darts import CANDIDATES, DARTSSpace, darts_space
from oneshot.supernets.json_files import checked, parse_json, shorten
from oneshot.supernets.nasbench101 import NASBench101Space
from oneshot.supernets.nasbench201 import NASBench201Space
from oneshot.supernets.space import NONE

from .tables import TabularEvaluator

State: TypeAlias = Mapping[Any, Any]

LEAST_UNPACKED, MOST_PACKED = 64 << 20, 100  # bytes, and times the bytes of a file, that it may unpack to
MOST_SAID = 300  # characters of an error of a library

# NAS-Bench-101. Fields of the message EvaluationData, nasbench/lib/model_metrics.proto.
METRICS_101 = {2: "training_time", 3: "train_accuracy", 4: "validation_accuracy", 5: "test_accuracy"}

# NAS-Bench-201 and NATS-Bench: what was trained on, and what measured on.
METRICS_201 = {
    "cifar10_val_accuracy": ("cifar10-valid", "x-valid"),
    "cifar10_test_accuracy": ("cifar10", "ori-test"),
    "cifar100_val_accuracy": ("cifar100", "x-valid"),
    "cifar100_test_accuracy": ("cifar100", "x-test"),
    "imagenet16_val_accuracy": ("ImageNet16-120", "x-valid"),
    "imagenet16_test_accuracy": ("ImageNet16-120", "x-test"),
}


def nas_bench_101(path: str | Path, *, checksums: bool = False, complete: bool = True) -> TabularEvaluator:
    """NAS-Bench-101 (arXiv:1902.09635) from ``nasbench_only108.tfrecord`` or ``nasbench_full.tfrecord``.

    The files are those that the README of google-research/nasbench links. Metrics are means over the three trainings:
    ``train_accuracy``, ``validation_accuracy`` and ``test_accuracy`` between 0 and 1, ``training_time`` in s, and
    ``params``. The full file also has the fidelities 4, 12 and 36 epochs; 108 are the full one.

    Args:
        path: The file.
        checksums: Also check the contents of every record; slow. The lengths of records are always checked.
        complete: Refuse a file that lacks some of the 423,624 cells.

    Raises:
        ValueError: If the file is missing, truncated or of another kind, or a cell is missing or lacks a training.
    """
    path = Path(path)
    index: dict[str, int] = {}
    cells: list[tuple[str, str]] = []
    params: list[int] = []
    sums: dict[int, dict[int, list[float]]] = {}
    for number, record in enumerate(tf_records(path, checksums=checksums)):
        try:
            data = parse_json(record, "it")
            name, epochs, adjacency, operations, metrics = checked(data, tuple[str, int, str, str, str], "it")
            message = _message(base64.b64decode(metrics, validate=True))
            *_, final = message[1]
            values = _message(final)
            found = [1.0, *(float(values[key][0]) if key in values else 0.0 for key in METRICS_101)]
            count = int(message[2][0])
        except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
            raise ValueError(
                f"{path}, record {number}: a record of NAS-Bench-101 is JSON, [hash, epochs, adjacency, operations, "
                f"metrics], with a ModelMetrics message in base64; this one is not ({error!r})."
            ) from error
        if name not in index:
            index[name] = len(cells)
            cells.append((adjacency, operations))
            params.append(count)
        elif cells[index[name]] != (adjacency, operations) or params[index[name]] != count:
            raise ValueError(f"{path}, record {number}: the cell {name} is another one than in records before it.")
        total = sums.setdefault(epochs, {}).setdefault(index[name], [0.0] * len(found))
        total[:] = [a + b for a, b in zip(total, found, strict=True)]
    if not cells:
        raise ValueError(f"{path} holds no records; a file of NAS-Bench-101 has 423,624 cells.")
    space = NASBench101Space()
    if complete and len(cells) != space.size:
        raise ValueError(
            f"{path} has {len(cells):,} of the {space.size:,} cells of NAS-Bench-101. Download it again, or use "
            "complete=False."
        )
    columns: dict[float, dict[str, npt.ArrayLike]] = {}
    for epochs, by_cell in sums.items():
        if len(by_cell) < len(cells):
            lacking = next(name for name, i in index.items() if i not in by_cell)
            raise ValueError(f"{path} has trainings of {epochs} epochs, but none of the cell {lacking}.")
        table = np.array([by_cell[i] for i in range(len(cells))])
        if (table[:, 0] != table[0, 0]).any():
            other = int(np.flatnonzero(table[:, 0] != table[0, 0])[0])
            raise ValueError(
                f"{path} has {table[other, 0]:g} trainings of {epochs} epochs of the cell {[*index][other]}, and "
                f"{table[0, 0]:g} of the first."
            )
        means = dict(zip(METRICS_101.values(), (table[:, 1:] / table[:, :1]).T, strict=True))
        columns[epochs] = {**means, "params": params}
    try:
        genes = space.from_matrices([_square(bits) for bits, _ in cells], [names.split(",") for _, names in cells])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    longest = max(columns)
    return TabularEvaluator(space, genes, columns.pop(longest), fidelities=columns, full=longest)


def tf_records(path: str | Path, *, checksums: bool = False) -> Iterator[bytes]:
    """The records of a TFRecord file: length (8 bytes), its checksum (4), content, its checksum (4), little-endian.

    Args:
        path: The file.
        checksums: Also check the contents, by a loop over all bytes in Python.

    Raises:
        ValueError: If the file is missing or truncated, or a checksum is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    end = path.stat().st_size
    with path.open("rb") as file:
        while head := file.read(12):
            start = file.tell() - len(head)
            if len(head) == 12 and masked_crc32c(head[:8]) != int.from_bytes(head[8:], "little"):
                raise ValueError(f"{path} is no TFRecord file, or damaged: the length at byte {start} has no checksum.")
            size = int.from_bytes(head[:8], "little")
            fits = len(head) == 12 and size <= end - file.tell()  # a length of 2^50 must not ask for the memory
            content = file.read(size) if fits else b""
            tail = file.read(4)
            if len(head) < 12 or len(content) < size or len(tail) < 4:
                raise ValueError(f"{path} ends within the record at byte {start}; it is truncated. Download it again.")
            if checksums and masked_crc32c(content) != int.from_bytes(tail, "little"):
                raise ValueError(f"{path} is damaged: the record at byte {start} does not have its checksum.")
            yield content


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: CRC-32C (Castagnoli), rotated right by 15 bits, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = tuple(map(_crc_of, range(256)))


def _message(data: bytes) -> dict[int, list[Any]]:
    """Fields of a protobuf message, by number: integers, doubles, and bytes of everything else."""
    fields: dict[int, list[Any]] = {}
    place = 0
    value: Any
    while place < len(data):
        key, place = _varint(data, place)
        match key & 7:
            case 0:
                value, place = _varint(data, place)
            case 1:
                (value,), place = struct.unpack_from("<d", data, place), place + 8
            case 2:
                size, place = _varint(data, place)
                value, place = data[place : place + size], place + size
            case 5:
                (value,), place = struct.unpack_from("<f", data, place), place + 4
            case kind:
                raise ValueError(f"protobuf has no wire type {kind}")
        if place > len(data):
            raise ValueError("a protobuf message ends too early")
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value, shift, place = value | (byte & 0x7F) << shift, shift + 7, place + 1
        if byte < 0x80:
            return value, place


def _square(bits: str) -> list[list[int]]:
    size = round(len(bits) ** 0.5)
    if size * size != len(bits) or set(bits) - {"0", "1"}:
        raise ValueError(f"An adjacency matrix must be a square number of zeros and ones; got {bits!r}.")
    return [[int(bit) for bit in bits[row : row + size]] for row in range(0, len(bits), size)]


# NAS-Bench-201 and NATS-Bench.


def nas_bench_201_file(path: str | Path, *, complete: bool = True) -> TabularEvaluator:
    """NAS-Bench-201 (arXiv:2001.00326) from ``NAS-Bench-201-v1_1-096897.pth``, or version 1.0.

    The files are those that the README of D-X-Y/NAS-Bench-201 links; reading one takes tens of GB of memory, which
    :func:`nats_bench` does not. Metrics are means over the trainings of an architecture: ``cifar10_val_accuracy`` (of
    networks trained on half of the training images), ``cifar10_test_accuracy``, the same of ``cifar100`` and
    ``imagenet16``, in percent; ``params`` in millions and ``flops`` in millions, of the networks for CIFAR-10; and
    ``training_time`` in s, of the trainings behind ``cifar10_val_accuracy``. 12 epochs are a fidelity, 200 the full
    one. Metrics that an architecture lacks are left out. Of the 15,625 spellings, the 10,405 canonical ones are kept.

    Args:
        path: The file.
        complete: Refuse a file that lacks architectures.

    Raises:
        ValueError: If the file is missing, truncated or of another kind, or architectures are missing.
    """
    import torch

    path = _existing(Path(path))
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch and pickle raise almost anything
        raise ValueError(
            f"{path} cannot be read as a .pth file of plain containers and tensors, which those of NAS-Bench-201 are: "
            f"{_reason(error)}"
        ) from error
    names, infos = _parts(path, data, "meta_archs", "arch2infos")
    entries = ((name, _by_epochs(path, name, info)) for name, info in _named(path, names, infos))
    return _table_201(path, entries, complete)


def nats_bench(path: str | Path, *, complete: bool = True) -> TabularEvaluator:
    """The topology space of NATS-Bench (arXiv:2009.00437), from ``NATS-tss-v1_0-3ffb9-simple`` or its single file.

    The archives are those that the README of D-X-Y/NATS-Bench links. The unpacked folder holds ``meta.pickle.pbz2`` and
    ``000000.pickle.pbz2`` to ``015624.pickle.pbz2``, the single file is ``NATS-tss-v1_0-3ffb9.pickle.pbz2``. Pickles
    are read without running anything that they name: containers and numbers only. For the metrics see
    :func:`nas_bench_201_file`.

    Args:
        path: The folder, or the single file.
        complete: Refuse a folder that lacks architectures.

    Raises:
        ValueError: If a file is missing, truncated or of another kind, or architectures are missing.
    """
    path = Path(path)
    if not path.is_dir():
        names, infos = _parts(path, unpickled(path), "meta_archs", "arch2infos")
        return _table_201(path, _named(path, names, infos), complete)
    (names,) = _parts(path, unpickled(path / "meta.pickle.pbz2"), "meta_archs")

    if not isinstance(names, list | tuple):
        raise ValueError(f"{path / 'meta.pickle.pbz2'} must have a list of names, meta_archs; got {shorten(names)}.")

    def entries() -> Iterator[tuple[str, State]]:
        for i, name in enumerate(names):
            for file in (path / f"{i:06d}.pickle.pbz2", path / f"{i}.pickle.pbz2"):
                if file.is_file():
                    yield str(name), unpickled(file)
                    break

    return _table_201(path, entries(), complete)


def _table_201(path: Path, entries: Iterable[tuple[str, State]], complete: bool) -> TabularEvaluator:
    space = NASBench201Space()
    genes: list[npt.NDArray[np.int64]] = []
    rows: dict[float, list[dict[str, float]]] = {}
    for name, info in entries:
        try:
            own = space.encode([space.from_arch_string(name)])[0]
            if (space.repair(own[None])[0] != own).any():
                continue
            for epochs, state in info.items():
                if not 0 < (fidelity := float(epochs)) < math.inf:
                    raise ValueError(f"a number of epochs is above 0; got {epochs!r}")
                rows.setdefault(fidelity, []).append(_metrics_201(state))
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            raise ValueError(
                f"{path}, architecture {name}: its results are {{epochs: {{'dataset_seed': {{data set: seeds}}, "
                "'all_results': {(data set, seed): {'epochs', 'eval_acc1es', 'train_times', 'params', 'flop'}}}}, "
                f"as in the official files; these are not ({error!r})."
            ) from error
        genes.append(own)
    if not genes:
        raise ValueError(f"{path} holds no architecture of NAS-Bench-201.")
    uneven = {epochs: len(found) for epochs, found in rows.items() if len(found) < len(genes)}
    if uneven:
        raise ValueError(f"{path} has {len(genes):,} architectures, but results of epochs: number are {uneven}.")
    columns: dict[float, dict[str, npt.ArrayLike]] = {}
    for epochs, found in rows.items():
        shared = [name for name in found[0] if all(name in row for row in found)]
        columns[epochs] = {name: [row[name] for row in found] for name in shared}
    longest = max(columns)
    try:
        table = TabularEvaluator(space, np.array(genes), columns.pop(longest), fidelities=columns, full=longest)
        if complete:
            table.check_complete()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return table


def _metrics_201(state: State) -> dict[str, float]:
    """Means over the trainings of one architecture with one number of epochs."""
    trials = {
        data: [state["all_results"][data, seed] for seed in seeds] for data, seeds in state["dataset_seed"].items()
    }
    found: dict[str, list[float]] = {}
    for name, (data, split) in METRICS_201.items():
        keys = [(trial, f"{split}@{trial['epochs'] - 1}") for trial in trials.get(data, ())]
        found[name] = [trial["eval_acc1es"][key] for trial, key in keys if key in trial["eval_acc1es"]]
    costs = trials.get("cifar10") or trials.get("cifar10-valid") or []
    found["params"], found["flops"] = ([trial[key] for trial in costs] for key in ("params", "flop"))
    times = [trial["train_times"] for trial in trials.get("cifar10-valid", ())]
    found["training_time"] = [sum(time.values()) for time in times if time]
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def _named(path: Path, names: Any, infos: Any) -> Iterator[tuple[str, Any]]:
    """Results by the names of their architectures."""
    if not isinstance(names, list | tuple) or not isinstance(infos, Mapping):
        raise ValueError(
            f"{path} must have a list of names, meta_archs, and a dictionary of results, arch2infos; it has a "
            f"{type(names).__name__} and a {type(infos).__name__}."
        )
    for i, info in infos.items():
        if not (isinstance(i, int) and 0 <= i < len(names) and isinstance(names[i], str)):
            raise ValueError(f"{path} has results of an architecture {i!r}, which its meta_archs does not name.")
        yield names[i], info


def _by_epochs(path: Path, name: str, info: Any) -> State:
    if not isinstance(info, Mapping) or not {"less", "full"} <= info.keys():
        raise ValueError(f"{path}, architecture {name}: its results must be a dictionary with 'less' and 'full'.")
    return {"12": info["less"], "200": info["full"]}


def _parts(path: Path, data: Any, *keys: str) -> tuple[Any, ...]:
    if not isinstance(data, Mapping) or any(key not in data for key in keys):
        found = list(data)[:5] if isinstance(data, Mapping) else type(data).__name__
        raise ValueError(f"{path} is a dictionary with {', '.join(keys)} in the official files; this one has {found}.")
    return tuple(data[key] for key in keys)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    return path


def unpickled(path: Path) -> Any:
    """The content of a pickle, packed with bzip2 or not: containers and numbers. Nothing that it names is run.

    Raises:
        ValueError: If the file is missing, damaged or of another kind, or names anything else.
    """
    path = _existing(path)
    with path.open("rb") as file:
        packed = file.read(3) == b"BZh" or path.suffix == ".pbz2"
    try:
        return _PlainUnpickler(io.BytesIO(_unpacked(path) if packed else path.read_bytes())).load()
    except Exception as error:  # a damaged file makes pickle raise almost anything
        raise ValueError(
            f"{path} cannot be read as a pickle{' packed with bzip2' * packed}: {_reason(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """One line of limited length: a damaged file may have names of any length."""
    line = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
    return line if len(line) <= MOST_SAID else f"{line[:MOST_SAID]} ..."


def _unpacked(path: Path) -> bytes:
    """The content of a bzip2 file; one that unpacks to far more than official files do is refused."""
    most = LEAST_UNPACKED + MOST_PACKED * path.stat().st_size
    parts, size = list[bytes](), 0
    with bz2.open(path) as file:
        while part := file.read(1 << 20):
            parts.append(part)
            if (size := size + len(part)) > most:
                raise ValueError(f"its {path.stat().st_size:,} bytes unpack to more than {most:,}")
    return b"".join(parts)


class _PlainUnpickler(pickle.Unpickler):
    """Containers and numbers; nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return _scalar()
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only containers and numbers are read")


def _scalar() -> Any:
    """The function by which NumPy pickles its numbers."""
    return np.float64(0).__reduce__()[0]


def _numpy_scalars() -> list[Any]:
    return [
        _scalar(),
        (_scalar(), "numpy.core.multiarray.scalar"),
        np.dtype,
        type(np.dtype("f8")),
        type(np.dtype("i8")),
    ]


# NAS-Bench-301.


class NASBench301Evaluator(Evaluator):
    """NAS-Bench-301 (arXiv:2008.09777): what its surrogate models predict for cells of the DARTS space.

    Needs the package ``nasbench301`` of automl/nasbench301, with an environment it can run in, and the folders of its
    models, which the package downloads or its README links: ``xgb_v1.0`` or ``gnn_gin_v1.0``, and ``lgb_runtime_v1.0``.
    Metrics: ``accuracy``, validation accuracy on CIFAR-10 in percent, and with a model of it ``runtime``, of the
    training, in s.

    Args:
        model: Folder of an ensemble that predicts accuracies.
        runtime: Folder of one that predicts training times.
        noise: Draw accuracies from the ensemble, as a training does; else its mean, the same every time.

    Raises:
        MissingExtraError: If the package is not there.
        ValueError: If a folder is not there, or has no model.
    """

    def __init__(self, model: str | Path, *, runtime: str | Path | None = None, noise: bool = False) -> None:
        self.folders = {"accuracy": Path(model)} | ({} if runtime is None else {"runtime": Path(runtime)})
        self.noise, self.space = noise, nas_bench_301_space()
        _nasbench301()
        for folder in self.folders.values():
            if not any(folder.rglob("*surrogate_model.model")):
                raise ValueError(
                    f"A folder of NAS-Bench-301 has a file surrogate_model.model for each member; {folder} has none."
                )

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self.folders)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_models"}  # loaded where it is used

    @cached_property
    def _models(self) -> dict[str, Any]:
        return {name: _nasbench301().load_ensemble(str(folder)) for name, folder in self.folders.items()}

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        """Predictions for one architecture.

        Raises:
            ValueError: If a node does not have two inputs.
        """
        genotype = self.space.genotype(proposal.config)
        for kind in ("normal", "reduce"):
            if any(len(node) != 2 for node in getattr(genotype, kind)):
                raise ValueError(
                    f"cells of NAS-Bench-301 have two inputs a node; the {kind} cell of {genotype} has not"
                )
        pairs = {kind: [edge for node in getattr(genotype, kind) for edge in node] for kind in ("normal", "reduce")}
        concat = list(genotype.normal_concat)
        cell = _Genotype(pairs["normal"], concat, pairs["reduce"], concat)
        found: dict[str, float] = {}
        for name, model in self._models.items():
            noise = self.noise and name == "accuracy"
            prediction = model.predict(config=cell, representation="genotype", with_noise=noise)
            found[name] = float(np.asarray(prediction).reshape(-1)[0])
        return found


_Genotype = collections.namedtuple("_Genotype", ["normal", "normal_concat", "reduce", "reduce_concat"])


def nas_bench_301_space() -> DARTSSpace:
    """The DARTS space with the seven operations that are not ``none``."""
    return darts_space(candidates=[name for name in CANDIDATES if name != NONE], name="nasbench301")


def _nasbench301() -> ModuleType:
    try:
        return importlib.import_module("nasbench301")
    except ImportError as error:
        raise MissingExtraError(
            "NAS-Bench-301 is predicted by its own package, nasbench301, which is not installed here. Install it from "
            f"https://github.com/automl/nasbench301 ({error})."
        ) from error
