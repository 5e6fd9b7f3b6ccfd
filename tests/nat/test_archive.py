"""What was evaluated is kept once, whole and bit by bit."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from oneshot.nat import Archive
from oneshot.supernets import Choice, NASBench201Space, SearchSpace

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c"), rows=3), Choice("width", (16, 24))))


def filled(n: int = 20) -> Archive:
    rng = np.random.default_rng(0)
    archive = Archive(SPACE, ("error", "MACs"))
    genes = np.unique(SPACE.sample_matrix(3 * n, 0), axis=0)[:n]
    values = rng.random((len(genes), 2)) / 3
    values[3, 0] = np.nan
    archive.add(genes, values)
    return archive


def test_it_comes_back_from_json_bit_by_bit() -> None:
    archive = filled()
    copy = Archive.from_dict(SPACE, json.loads(json.dumps(archive.to_dict(), allow_nan=False)))
    assert np.array_equal(copy.genes, archive.genes) and copy.genes.dtype == np.int64
    assert copy.values.tobytes() == archive.values.tobytes()
    assert copy.objectives == archive.objectives
    empty = Archive(SPACE, ("error",))
    assert len(Archive.from_dict(SPACE, json.loads(json.dumps(empty.to_dict())))) == 0


def test_the_front_leaves_out_failures_and_equals() -> None:
    archive = Archive(SPACE, ("error", "MACs"))
    genes = np.unique(SPACE.sample_matrix(50, 0), axis=0)[:5]
    archive.add(genes, [[3.0, 1.0], [np.nan, 0.0], [2.0, 2.0], [2.0, 2.0], [3.0, 3.0]])
    assert archive.front().tolist() == [0, 2]
    assert archive.failed.tolist() == [False, True, False, False, False]


def test_architectures_are_found_again() -> None:
    archive = filled()
    wanted = np.concatenate([archive.genes[[7, 2]], [[9, 9, 9, 9]]])
    assert archive.rows(wanted).tolist() == [7, 2, -1]


def test_what_it_hands_out_is_a_copy() -> None:
    archive = filled()
    archive.genes[:], archive.values[:] = 0, 0
    assert len(np.unique(archive.genes, axis=0)) == len(archive) and (archive.values[0] > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda g, v: (np.concatenate([g, g[:1]]), np.concatenate([v, v[:1]])), "row 1 is row 0", id="twice"
        ),
        pytest.param(lambda g, v: (filled().genes[4:5], v), "row 4 of the archive", id="known"),
        pytest.param(lambda g, v: (g, v[:, :1]), r"values \[1, 2\] of error, MACs", id="shape"),
        pytest.param(lambda g, v: (g, np.array([[1.0, np.nan]])), "row 0 has MACs = nan", id="nan-cost"),
        pytest.param(lambda g, v: (g, np.array([[np.inf, 1.0]])), "row 0 has error = inf", id="infinite"),
        pytest.param(lambda g, v: (g + 5, v), "must be an index below", id="out-of-range"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_added(change: object, message: str) -> None:
    archive = filled()
    every = np.unique(SPACE.sample_matrix(2000, 1), axis=0)
    new = every[archive.rows(every) < 0][:1]
    genes, values = change(new, np.array([[1.0, 2.0]]))  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        archive.add(genes, values)
    assert archive.to_dict() == filled().to_dict()
    archive.add(new, [[1.0, 2.0]])
    assert archive.rows(new).tolist() == [len(archive) - 1]


def test_a_genome_that_is_not_canonical_is_refused_with_its_canonical_form() -> None:
    space = NASBench201Space()
    archive = Archive(space, ("error",))
    hole = np.array([[0, 1, 1, 1, 1, 1]])  # node 1 gets nothing, so its skips are none
    with pytest.raises(ValueError, match=r"row 0 is \[0, 1, 1, 1, 1, 1\].*\[0, 1, 0, 1, 0, 1\]"):
        archive.add(hole, [[1.0]])
    archive.add(space.repair(hole), [[1.0]])


def test_values_are_replaced_and_a_wrong_replacement_changes_nothing() -> None:
    archive = filled()
    before = archive.values
    with pytest.raises(ValueError, match="row 0 has MACs = nan"):
        archive.update(np.full_like(before, np.nan))
    assert archive.values.tobytes() == before.tobytes()
    archive.update([[7.0, 8.0]], [5])
    assert archive.values[5].tolist() == [7.0, 8.0] and np.array_equal(archive.values[:5], before[:5], equal_nan=True)
    archive.update(before)
    assert archive.values.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        pytest.param(NASBench201Space(), "must be of space 'nasbench201'; it is of 'toy'", id="another"),
        pytest.param(
            SearchSpace("toy", (Choice("layer", ("a", "b", "c"), rows=4),)),
            "the first that differs",
            id="size",
        ),
        pytest.param(
            SearchSpace("toy", (Choice("layer", ("a", "b", "d"), rows=3), Choice("width", (16, 24)))),
            "the first that differs",
            id="candidate",
        ),
    ],
)
def test_an_archive_of_another_space_is_refused(space: SearchSpace, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Archive.from_dict(space, filled().to_dict())


def test_another_file_or_version_is_refused() -> None:
    with pytest.raises(ValueError, match="An archive must be a JSON object"):
        Archive.from_dict(SPACE, {"space": "toy"})
    with pytest.raises(ValueError, match="schema version 99"):
        Archive.from_dict(SPACE, {**filled().to_dict(), "schema_version": 99})
    with pytest.raises(ValueError, match="distinct names"):
        Archive(SPACE, ("error", "error"))


def test_the_table_has_a_line_for_each_evaluation(tmp_path: Path) -> None:
    archive = filled(6)
    with archive.write_csv(tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["MACs"]) for line in lines] == archive.values[:, 1].tolist()
    assert [i for i, line in enumerate(lines) if line["in_front"] == "1"] == archive.front().tolist()
    other = archive.write_csv(tmp_path / "others.csv", [1, 4]).read_text().splitlines()[1:]
    assert [i for i, line in enumerate(other) if line.split(",")[3] == "1"] == [1, 4]
    configs = SPACE.decode(archive.genes)
    assert [(line["layer_0"], line["layer_2"], line["width"]) for line in lines] == [
        (c["layer"][0], c["layer"][2], str(c["width"][0])) for c in configs
    ]
