"""NAS-Bench-Graph: its space against the authors' rules, and its files."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneshot.discrete import Proposal, RandomSearch, Study, nas_bench_graph
from oneshot.discrete.evaluators.nas_bench_graph import (
    INPUTS,
    OPERATIONS,
    OPERATIONS_PROTEINS,
    NASBenchGraphSpace,
    canonical_spellings,
)
from oneshot.supernets import SubnetConfig

Spelling = tuple[tuple[int, ...], tuple[str, ...]]


def moved(links: tuple[int, ...], names: tuple[str, ...]) -> Spelling:
    """The authors' first rule: a skip connection that only passes something on is the first operation.

    Their program, nas_bench_graph/architecture.py, does it for one operation after the other, in one pass.
    """
    links_, names_ = list(links), list(names)
    for i in range(4):
        if names_[i] != "skip":
            continue
        son = i + 1 in links_
        brother = any(j != i and links_[j] == links_[i] for j in range(4))
        above, raw = i, True
        while above > -1:
            raw = raw and names_[above] == "skip"
            above = links_[above] - 1
        if son or not brother or raw:
            own = links_[i]
            rest = [(own if father == i + 1 else father) for father in links_]
            rest = [father + 1 if father <= i else father for father in rest]
            links_ = [0, *rest[:i], *rest[i + 1 :]]
            names_ = ["skip", *names_[:i], *names_[i + 1 :]]
    return tuple(links_), tuple(names_)


EQUAL = {"0000": (0, 4), "0001": (1, 3), "0011": (2, 4), "0111": (1, 4), "0122": (2, 4)}  # operations in any order


def kept(inputs: str, names: tuple[str, ...]) -> bool:
    """Whether the authors trained this spelling of a network: their rules leave it as it is."""
    if set(names) == {"skip"} or moved(tuple(map(int, inputs)), names) != (tuple(map(int, inputs)), names):
        return False
    numbers = [OPERATIONS.index(name) for name in names]
    if inputs == "0012":
        return not (numbers[0] > numbers[1] or (numbers[0] == numbers[1] and numbers[2] > numbers[3]))
    begin, end = EQUAL.get(inputs, (0, 0))
    return numbers[begin:end] == sorted(numbers[begin:end])


def test_there_is_one_canonical_spelling_for_every_network_that_was_trained() -> None:
    space = NASBenchGraphSpace()
    trained = [
        [place, *map(OPERATIONS.index, names)]
        for place, inputs in enumerate(INPUTS)
        for names in itertools.product(OPERATIONS, repeat=4)
        if kept(inputs, names)
    ]
    assert len(trained) == 26_206  # table 2 of the paper
    canonical = space.repair(np.array(trained))
    assert len(np.unique(canonical, axis=0)) == 26_206
    assert len(np.unique(canonical_spellings(OPERATIONS), axis=0)) == 26_207, "and one that does nothing"
    assert len(np.unique(canonical_spellings(OPERATIONS_PROTEINS), axis=0)) == 2_021 + 1
    np.testing.assert_array_equal(space.repair(canonical), canonical)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("0123", "skip gcn gcn gcn"), ("0123", "gcn skip gcn gcn"), True),
        (("0123", "skip gcn gcn gcn"), ("0123", "gcn gcn gcn skip"), True),
        (("0012", "gcn fc gat gin"), ("0012", "fc gcn gin gat"), True),
        (("0012", "gcn fc gat gin"), ("0012", "gcn fc gin gat"), False),
        (("0112", "gcn skip gat fc"), ("0111", "gcn gat fc fc"), False),
        (("0122", "gcn gat skip fc"), ("0123", "gcn gat fc skip"), False),  # the output of gat, too
        (("0011", "skip gcn gat skip"), ("0122", "skip skip gat gcn"), True),  # the input is no output
    ],
)
def test_spellings_of_one_network(one: tuple[str, str], other: tuple[str, str], same: bool) -> None:
    space = NASBenchGraphSpace()
    genes = [[INPUTS.index(inputs), *map(OPERATIONS.index, names.split())] for inputs, names in (one, other)]
    first, second = space.repair(np.array(genes)).tolist()
    assert (first == second) == same


def row(number: float = np.float64(0.5), **changed: Any) -> dict[str, Any]:
    return {"valid_perf": 0.8, "perf": 0.7, "latency": 0.004, "para": number, **changed}


def written(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=3))
    return path


def test_a_file_is_read_and_searched(tmp_path: Path) -> None:
    path = written(tmp_path / "cora.bench", {80_123: row(), 10_000: row(valid_perf=0.9, para=np.float64(1.25))})
    table = nas_bench_graph(path, complete=False)
    assert len(table) == 2 and table.metrics == ("val_performance", "test_performance", "latency", "params")
    config = SubnetConfig("nasbenchgraph", {"inputs": ["0123"], "operation": ["gat", "gcn", "gin", "cheb"]})
    expected = {"val_performance": 0.8, "test_performance": 0.7, "latency": 4.0, "params": 0.5}
    assert table(Proposal(0, config)) == pytest.approx(expected)
    config = SubnetConfig("nasbenchgraph", {"inputs": ["0001"], "operation": ["gat", "gat", "gat", "gat"]})
    assert table(Proposal(0, config))["params"] == 1.25
    whole = {
        inputs * 10_000 + int("".join(map(str, numbers))): row()
        for inputs in range(9)
        for numbers in itertools.product((1, 4, 5, 7, 8), repeat=4)
        if kept(INPUTS[inputs], tuple(OPERATIONS[number] for number in numbers))
    }
    proteins = nas_bench_graph(written(tmp_path / "proteins.bench", whole))
    assert len(proteins) == 2_021 and proteins.space.choices[1].candidates == OPERATIONS_PROTEINS
    study = Study(RandomSearch(proteins.space), proteins, ["max val_performance"], evaluations=20, progress=False)
    assert len(study.run().front()) == 1


class Evil:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(__file__).with_name("was_run"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({1: row(perf=Evil())}, r"cannot be read as a pickle: it names .*only containers and numbers"),
        ([1, 2], r"must be a dictionary of results by numbers; it is \[1, 2\]"),
        ({}, r"must be a dictionary of results by numbers"),
        ({"a": row()}, r"must have numbers of architectures: a digit from 0 to 8 .* got 'a'"),
        ({90_000: row()}, r"must have numbers of architectures.*got 90000"),
        ({9: row()}, r"must have numbers of architectures.*got 9"),
        ({1: {"perf": 1.0}}, r"valid_perf fails \(KeyError"),
        ({1: row(latency=None)}, r"latency fails \(TypeError"),
        ({1: row(perf=float("nan"))}, r"bench: Metric 'test_performance' is finite; row 0 is not"),
        ({1: row(), 10: row()}, r"bench: A table must have every architecture once; 1 are repeated"),
        ({1: row(), 2: row()}, r"has 2 of 26,206 architectures. complete=False allows it"),
    ],
)
def test_files_of_another_kind_are_named(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        nas_bench_graph(written(tmp_path / "file.bench", content), complete=True)
    assert not Path(__file__).with_name("was_run").exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "cora.bench", {1: row()})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"cora.bench cannot be read as a pickle: "):
        nas_bench_graph(path)
    with pytest.raises(ValueError, match=r"There is no file .*none.bench"):
        nas_bench_graph(tmp_path / "none.bench")
