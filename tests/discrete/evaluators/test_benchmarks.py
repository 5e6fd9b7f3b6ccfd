"""Official benchmark files: written here in their layouts, and read back."""

from __future__ import annotations

import base64
import bz2
import collections
import json
import os
import pickle
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from oneshot.discrete import (
    NASBench301Evaluator,
    Proposal,
    RegularizedEvolution,
    Study,
    TabularEvaluator,
    nas_bench_101,
    nas_bench_201_file,
    nats_bench,
)
from oneshot.discrete.evaluators import benchmarks
from oneshot.discrete.evaluators.benchmarks import masked_crc32c, nas_bench_301_space, tf_records
from oneshot.errors import MissingExtraError
from oneshot.supernets import NASBench101Cell, NASBench101Space, NASBench201Space

C1, C3, POOL = "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"


# NAS-Bench-101.


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def block(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def metrics_message(values: Sequence[Sequence[float]], params: int) -> str:
    """ModelMetrics: evaluations at the start, halfway, and at the end."""
    evaluations = b""
    for row in values:
        doubles = b"".join(varint(field << 3 | 1) + struct.pack("<d", value) for field, value in enumerate(row, 1))
        evaluations += block(1, doubles + block(6, b"model.ckpt-1"))
    message = evaluations + varint(2 << 3) + varint(params) + varint(3 << 3 | 1) + struct.pack("<d", 9.0)
    return base64.b64encode(message).decode()


def record(name: str, epochs: int, cell: NASBench101Cell, accuracy: float, params: int = 300) -> bytes:
    halves = [[0, 0, 0.1, 0.1, 0.1], [epochs / 2, 5, 0.5, 0.5, 0.5], [epochs, 10, 1.0, accuracy, accuracy - 0.1]]
    matrix = "".join(str(bit) for row in cell.matrix for bit in row)
    return json.dumps([name, epochs, matrix, ",".join(cell.operations), metrics_message(halves, params)]).encode()


def write_records(path: Path, records: Sequence[bytes]) -> Path:
    content = b""
    for data in records:
        size = struct.pack("<Q", len(data))
        content += size + struct.pack("<I", masked_crc32c(size)) + data + struct.pack("<I", masked_crc32c(data))
    path.write_bytes(content)
    return path


CHAIN = NASBench101Cell([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], ["input", C3, POOL, "output"])
FORK = NASBench101Cell([[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], ["input", POOL, C1, "output"])
FULL = [
    record(name, epochs, cell, accuracy + epochs / 1000 + repeat / 100, params)
    for name, cell, accuracy, params in (("aa", CHAIN, 0.7, 200), ("bb", FORK, 0.5, 70_000))
    for epochs in (4, 12, 36, 108)
    for repeat in (-1, 0, 1)
]


def test_the_checksum_is_castagnolis_masked() -> None:
    """RFC 3720, B.4: CRC-32C of 32 zeros is 0x8a9136aa; of the digits 1 to 9, as everywhere, 0xe3069283."""
    for data, crc in ((bytes(32), 0x8A9136AA), (b"123456789", 0xE3069283)):
        rotated = int(f"{crc:032b}"[-15:] + f"{crc:032b}"[:-15], 2)
        assert masked_crc32c(data) == (rotated + 0xA282EAD8) % 2**32 != crc


def test_nas_bench_101_is_read_with_its_fidelities(tmp_path: Path) -> None:
    table = nas_bench_101(write_records(tmp_path / "nasbench_full.tfrecord", FULL), checksums=True, complete=False)
    space = table.space
    assert isinstance(space, NASBench101Space) and len(table) == 2 and sorted(table.fidelities) == [4, 12, 36]
    assert table(Proposal(0, space.from_cell(CHAIN))) == pytest.approx(
        {
            "training_time": 10.0,
            "train_accuracy": 1.0,
            "validation_accuracy": 0.808,
            "test_accuracy": 0.708,
            "params": 200.0,
        }
    )
    swapped = NASBench101Cell(FORK.matrix, ["input", C1, POOL, "output"])  # isomorphic
    assert table(Proposal(0, space.from_cell(swapped), fidelity=12)) == pytest.approx(
        {**table(Proposal(0, space.from_cell(FORK), fidelity=12)), "validation_accuracy": 0.512, "params": 70_000}
    )


def test_a_search_runs_on_the_official_layout(tmp_path: Path) -> None:
    space = NASBench101Space()
    configs = space.unique(space.decode(space.sample_matrix(300, 0)))
    records = [record(str(i), 108, space.cell(config), i / 1000) for i, config in enumerate(configs)]
    table = nas_bench_101(write_records(tmp_path / "nasbench_only108.tfrecord", records), complete=False)
    assert table.fidelities == {} and len(table) == len(configs) > 200
    study = Study(
        RegularizedEvolution(space, population=5, sample=2), table, ["max test_accuracy"], evaluations=40, retries=0
    ).run()
    assert any(entry.result.values for entry in study.records)
    assert any("is not in the table" in str(entry.result.failure) for entry in study.records), "it is a small one"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda data: data[:-3], r"ends within the record at byte \d+; it is truncated", id="cut tail"),
        pytest.param(lambda data: data[:7], "ends within the record at byte 0", id="cut head"),
        pytest.param(lambda data: b"hash,epochs,accuracy\n", "is no TFRecord file, or damaged: .* byte 0", id="csv"),
        pytest.param(lambda data: data[:40] + b"?" + data[41:], "is damaged: the record at byte 0", id="bit"),
        pytest.param(lambda data: b"", "holds no records", id="empty"),
    ],
)
def test_files_that_are_damaged_are_named(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = write_records(tmp_path / "nasbench.tfrecord", FULL)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"nasbench.tfrecord.* {message}"):
        nas_bench_101(path, checksums=True, complete=False)


def bad(place: int, value: Any) -> bytes:
    entry = json.loads(FULL[0])
    entry[place] = value
    return json.dumps(entry).encode()


@pytest.mark.parametrize(
    ("records", "message"),
    [
        pytest.param([b"\x0a\x05hello"], "record 0: a record of NAS-Bench-101 is JSON", id="no JSON"),
        pytest.param([FULL[0], bad(4, "AAAA")], "record 1: .* ModelMetrics", id="message"),
        pytest.param([bad(2, "01100")], "a square number of zeros and ones; got '01100'", id="matrix"),
        pytest.param([bad(3, "input,conv,maxpool3x3,output")], "operations of a NAS-Bench-101 cell", id="operation"),
        pytest.param([*FULL[:3], *FULL[12:]], "has trainings of 12 epochs, but none of the cell aa", id="fidelity"),
        pytest.param([bad(2, "0" * 16)], "leads from its input to its output", id="no path"),
        pytest.param([FULL[9], record("cc", 108, CHAIN, 0.5)], "1 are repeated", id="twice"),
    ],
)
def test_records_of_another_kind_are_refused(records: list[bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        nas_bench_101(write_records(tmp_path / "nasbench.tfrecord", records), complete=False)


def test_a_file_that_lacks_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 2 of the 423,624 cells"):
        nas_bench_101(write_records(tmp_path / "nasbench.tfrecord", FULL))
    with pytest.raises(ValueError, match="There is no file .*nothing.tfrecord"):
        nas_bench_101(tmp_path / "nothing.tfrecord")
    assert [len(data) for data in tf_records(tmp_path / "nasbench.tfrecord")] == [len(data) for data in FULL]


# NAS-Bench-201 and NATS-Bench.

SPACE = NASBench201Space()
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
SPELLING = "|none~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|none~2|"  # a skip that receives nothing
OTHER = "|nor_conv_1x1~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
CANONICAL = "|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|"
SPLITS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}


def arch_results(index: int, name: str, epochs: int, *, number: Any = float, weights: Any = None) -> dict[str, Any]:
    """``ArchResults.state_dict()`` with two trainings, whose last accuracies are 50 + index ± 1, by data set +10."""
    results = {}
    for place, (data, splits) in enumerate(SPLITS.items()):
        for seed, sign in ((777, -1), (888, 1)):
            keys = [f"{split}@{epoch}" for split in splits for epoch in range(epochs)]
            last = {f"{split}@{epochs - 1}": number(50 + index + sign + 10 * place) for split in splits}
            results[data, seed] = {
                "name": "infer.tiny",
                "net_state_dict": weights,
                "train_acc1es": {epoch: number(1) for epoch in range(epochs)},
                "train_losses": {epoch: number(1) for epoch in range(epochs)},
                "train_times": collections.OrderedDict((epoch, number(2)) for epoch in range(epochs)),
                "arch_config": {"channel": 16, "num_cells": 5, "arch_str": name, "class_num": 10},
                "params": number(0.5),
                "flop": number(70),
                "seed": seed,
                "epochs": epochs,
                "latency": [0.01],
                "eval_names": list(splits),
                "eval_acc1es": {**{key: number(1) for key in keys}, **last},
                "eval_losses": {key: number(1) for key in keys},
                "eval_times": {key: number(1) for key in keys},
            }
    seeds = {data: [777, 888] for data in SPLITS}
    return {
        "arch_index": index,
        "arch_str": name,
        "all_results": results,
        "dataset_seed": seeds,
        "clear_net_done": weights is None,
    }


def pth(path: Path, names: Sequence[str], **options: Any) -> Path:
    infos = {
        i: {"less": arch_results(i, name, 12, **options), "full": arch_results(i, name, 200, **options)}
        for i, name in enumerate(names)
    }
    torch.save({"meta_archs": list(names), "arch2infos": infos, "evaluated_indexes": list(infos)}, path)
    return path


def pbz2(path: Path, data: object) -> None:
    with bz2.open(path, "wb") as file:
        pickle.dump(data, file, protocol=4)


def folder(path: Path, names: Sequence[str], **options: Any) -> Path:
    path.mkdir()
    pbz2(path / "meta.pickle.pbz2", {"meta_archs": list(names), "evaluated_indexes": set(range(len(names)))})
    for i, name in enumerate(names):
        states = {hp: arch_results(i, name, int(hp), **options) for hp in ("12", "200")}
        pbz2(path / f"{i:06d}.pickle.pbz2", states)
    return path


def check_201(table: TabularEvaluator) -> None:
    assert len(table) == 2 and list(table.fidelities) == [12]
    config = SPACE.from_arch_string(CANONICAL)  # third of the file
    found = table(Proposal(0, config))
    assert found == pytest.approx(
        {
            "cifar10_val_accuracy": 52,
            "cifar10_test_accuracy": 62,
            "cifar100_val_accuracy": 72,
            "cifar100_test_accuracy": 72,
            "imagenet16_val_accuracy": 82,
            "imagenet16_test_accuracy": 82,
            "params": 0.5,
            "flops": 70,
            "training_time": 400,
        }
    )
    assert table(Proposal(0, SPACE.from_arch_string(SPELLING))) == found
    assert table(Proposal(0, config, fidelity=12)) == {**found, "training_time": 24.0}
    with pytest.raises(LookupError, match="not in the table"):
        table(Proposal(0, SPACE.from_arch_string(OTHER)))


@pytest.mark.parametrize("number", [float, np.float64], ids=["float", "numpy"])
def test_nas_bench_201_is_read_from_its_pth_file(number: Any, tmp_path: Path) -> None:
    weights = {"conv.weight": torch.zeros(2)}
    path = pth(tmp_path / "NAS-Bench-201-v1_1.pth", [BEST, SPELLING, CANONICAL], number=number, weights=weights)
    check_201(nas_bench_201_file(path, complete=False))


@pytest.mark.parametrize("number", [float, np.float64], ids=["float", "numpy"])
def test_nats_bench_is_read_from_its_folder_and_from_its_file(number: Any, tmp_path: Path) -> None:
    names = [BEST, SPELLING, CANONICAL]
    check_201(nats_bench(folder(tmp_path / "NATS-tss-v1_0-3ffb9-simple", names, number=number), complete=False))
    infos = {
        i: {hp: arch_results(i, name, int(hp), number=number) for hp in ("12", "200")} for i, name in enumerate(names)
    }
    single = tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2"
    pbz2(single, {"meta_archs": names, "arch2infos": infos, "evaluated_indexes": {0, 1, 2}})
    check_201(nats_bench(single, complete=False))


def test_metrics_that_an_architecture_lacks_are_left_out(tmp_path: Path) -> None:
    """Version 1.0 has 12 epochs on one data set only."""
    states = {hp: arch_results(0, BEST, int(hp)) for hp in ("12", "200")}
    states["12"]["dataset_seed"] = {"cifar10-valid": [777, 888]}
    path = tmp_path / "one"
    path.mkdir()
    pbz2(path / "meta.pickle.pbz2", {"meta_archs": [BEST]})
    pbz2(path / "0.pickle.pbz2", states)
    table = nats_bench(path, complete=False)
    assert set(table.fidelities[12]) == {"cifar10_val_accuracy", "params", "flops", "training_time"}
    assert len(table.metrics) == 9


class Evil:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(__file__).with_name("was_run"),))


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    path = folder(tmp_path / "nats", [BEST], weights=Evil())
    with pytest.raises(ValueError, match=r"000000.pickle.pbz2 cannot be read .* it names .*, and only containers"):
        nats_bench(path, complete=False)
    with pytest.raises(ValueError, match=r"evil.pth cannot be read as a .pth file of plain containers and tensors"):
        nas_bench_201_file(pth(tmp_path / "evil.pth", [BEST], weights=Evil()), complete=False)
    assert not Path(__file__).with_name("was_run").exists()


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks 10,404 of 10,405 architectures of 'nasbench201'"):
        nats_bench(folder(tmp_path / "partial", [BEST]))
    with pytest.raises(ValueError, match=r"There is no file .*meta.pickle.pbz2"):
        nats_bench(tmp_path)
    with pytest.raises(ValueError, match=r"There is no file .*none.pth"):
        nas_bench_201_file(tmp_path / "none.pth")
    torch.save({"state_dict": {}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model.pth is a dictionary with meta_archs, .* has \['state_dict'\]"):
        nas_bench_201_file(tmp_path / "model.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text.pth cannot be read"):
        nas_bench_201_file(tmp_path / "text.pth")
    (tmp_path / "text.pickle.pbz2").write_text("hello")
    with pytest.raises(ValueError, match=r"text.pickle.pbz2 cannot be read as a pickle packed with bzip2"):
        nats_bench(tmp_path / "text.pickle.pbz2")
    broken = folder(tmp_path / "broken", [BEST])
    pbz2(broken / "000000.pickle.pbz2", {"200": {"all_results": {}}})
    with pytest.raises(ValueError, match=r"broken, architecture \|nor_conv_3x3~0.* \(KeyError\('dataset_seed'\)\)"):
        nats_bench(broken, complete=False)
    uneven = folder(tmp_path / "uneven", [BEST, CANONICAL])
    pbz2(uneven / "000001.pickle.pbz2", {"200": arch_results(1, CANONICAL, 200)})
    with pytest.raises(ValueError, match=r"has 2 architectures, but results of epochs: number are \{12.0: 1\}"):
        nats_bench(uneven, complete=False)
    size = tmp_path / "size.pickle.pbz2"
    pbz2(size, {"meta_archs": ["64:64:64:64:64"], "arch2infos": {0: {"90": {}}}})
    with pytest.raises(ValueError, match=r"architecture 64:64:64:64:64: .*A NAS-Bench-201 architecture reads"):
        nats_bench(size)
    pbz2(size, {"meta_archs": [], "arch2infos": {}})
    with pytest.raises(ValueError, match="holds no architecture"):
        nats_bench(size)


# NAS-Bench-301.


class Model:
    """A surrogate as the package has it: takes a genotype with two edges a node in a row."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def predict(self, config: Any, representation: str, with_noise: bool = True) -> Any:
        assert representation == "genotype" and len(config.normal) == len(config.reduce) == 8
        assert config.normal_concat == config.reduce_concat == [2, 3, 4, 5]
        skips = sum(op == "skip_connect" for op, _ in [*config.normal, *config.reduce])
        return np.array([95.0 - skips + with_noise]) if "xgb" in self.folder else 3600.0


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mapping[str, Path]:
    module = ModuleType("nasbench301")
    module.load_ensemble = Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nasbench301", module)
    folders = {name: tmp_path / name for name in ("xgb_v1.0", "lgb_runtime_v1.0")}
    for path in folders.values():
        (path / "0").mkdir(parents=True)
        (path / "0" / "surrogate_model.model").touch()
    return folders


def test_nas_bench_301_predicts_with_the_users_package(package: Mapping[str, Path]) -> None:
    evaluator = NASBench301Evaluator(package["xgb_v1.0"], runtime=package["lgb_runtime_v1.0"])
    space = nas_bench_301_space()
    config = space.sample(0)
    skips = sum(pick == "skip_connect" for _, picks in config.picks for pick in picks)
    assert evaluator.metrics == ("accuracy", "runtime")
    for copy in (evaluator, pickle.loads(pickle.dumps(evaluator))):
        assert copy(Proposal(0, config)) == {"accuracy": 95.0 - skips, "runtime": 3600.0}
    noisy = NASBench301Evaluator(package["xgb_v1.0"], noise=True)
    assert noisy(Proposal(0, config)) == {"accuracy": 96.0 - skips}
    study = Study(
        RegularizedEvolution(space, population=5, sample=2), evaluator, ["max accuracy", "min runtime"], evaluations=30
    ).run()
    assert study.best.result.metrics["accuracy"] >= 94


def test_cells_that_the_surrogates_do_not_know_are_refused(package: Mapping[str, Path]) -> None:
    evaluator = NASBench301Evaluator(package["xgb_v1.0"])
    space = evaluator.space
    empty = space.decode([[len(choice.picks) - 1 for choice in space.choices for _ in range(choice.rows)]])[0]
    with pytest.raises(ValueError, match="of NAS-Bench-301 have two inputs a node; the normal cell of .* has not"):
        evaluator(Proposal(0, empty))
    with pytest.raises(ValueError, match="a file surrogate_model.model for each member; .*nothing has none"):
        NASBench301Evaluator(package["xgb_v1.0"].parent / "nothing")


def test_without_its_package_the_way_to_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nasbench301", None)
    with pytest.raises(
        MissingExtraError, match="its own package, nasbench301, .* https://github.com/automl/nasbench301"
    ):
        NASBench301Evaluator(tmp_path)


def test_a_record_longer_than_its_file_asks_for_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "records.tfrecord"
    length = (2**50).to_bytes(8, "little")
    path.write_bytes(length + benchmarks.masked_crc32c(length).to_bytes(4, "little") + b"short")
    with pytest.raises(ValueError, match="ends within the record at byte 0; it is truncated"):
        list(benchmarks.tf_records(path))


def test_a_file_packed_as_only_a_bomb_is_is_not_unpacked(tmp_path: Path) -> None:
    path, packer = tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2", bz2.BZ2Compressor()
    with path.open("wb") as file:
        for _ in range(128):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    assert path.stat().st_size < 1000
    with pytest.raises(ValueError, match=r"3ffb9.pickle.pbz2 .*its .* bytes unpack to more than 67,1"):
        benchmarks.nats_bench(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
@pytest.mark.parametrize("name", ["records.tfrecord", "all.pickle.pbz2", "all.pth"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    read = {
        "records.tfrecord": benchmarks.nas_bench_101,
        "all.pickle.pbz2": benchmarks.nats_bench,
        "all.pth": benchmarks.nas_bench_201_file,
    }[name]
    with pytest.raises(ValueError, match=name):
        read(tmp_path / name)
