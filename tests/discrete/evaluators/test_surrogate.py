"""The surrogate of the DARTS space: features against paths that are listed one by one, figures, and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from oneshot.cli.main import main
from oneshot.discrete import DARTSSurrogate, Proposal, RegularizedEvolution, Study, darts_surrogate
from oneshot.discrete.evaluators.cells import (
    CONVOLUTIONS,
    FEATURES,
    WIDENS,
    cell_features,
    check_cells,
    is_dead,
)
from oneshot.regression import feature_models
from oneshot.supernets.darts import darts_space
from oneshot.supernets.genotype import PUBLISHED, Cell, Genotype
from tests.tables import rows, table

SPACE = darts_space()
CELLS = [SPACE.genotype(config).normal for config in SPACE.decode(SPACE.sample_matrix(90, 0))]
# Like that of the trained networks: convolutions on long paths, and noise.
GOOD = [FEATURES.index(name) for name in ("sep_conv_3x3", "sep_conv_5x5", "convolutions, longest path")]
ACCURACIES = 70 + 2 * cell_features(CELLS)[:, GOOD].sum(1) + np.random.default_rng(0).normal(0, 0.3, len(CELLS))
READS = "max_pool_3x3 that reads"


def genotype(cell: Cell, reduce: Cell | None = None) -> Genotype:
    return Genotype(cell, (2, 3, 4, 5), cell if reduce is None else reduce, (2, 3, 4, 5))


def write(
    path: Path, lines: list[tuple[str, object]], header: tuple[str, str] = ("genotype", "cifar10_val_accuracy")
) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


LINES: list[tuple[str, object]] = [(str(genotype(c)), f"{a:.3f}") for c, a in zip(CELLS, ACCURACIES, strict=True)]


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "slow" not in request.keywords:
        monkeypatch.setattr(feature_models, "TREES", 30)


@pytest.fixture(scope="module")
def surrogate() -> DARTSSurrogate:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_models, "TREES", 30)
        return DARTSSurrogate(CELLS, ACCURACIES)


def paths(cell: Cell, state: int) -> list[list[str]]:
    """The operations of all paths from an input to a state, one by one."""
    if state < 2:
        return [[]]
    return [[*path, op] for op, source in cell[state - 2] if op != "none" for path in paths(cell, source)]


def test_features_are_what_a_list_of_all_paths_says() -> None:
    # of those of the table, some read a state twice, and some have nodes without input
    trained = [Genotype.parse(row["genotype"]).normal for row in rows("darts_archs")]
    for cell in [*CELLS[:30], *trained]:
        own = dict(zip(FEATURES, cell_features([cell])[0], strict=True))
        to = [paths(cell, state) for state in range(2, 6)]
        every = [path for each in to for path in each]
        for n in range(5):
            count = sum(sum(op in CONVOLUTIONS for op in path) == n for path in every)
            assert own[f"log of 1 + paths with {n} convolutions"] == pytest.approx(np.log(1 + count))
        for n in range(1, 5):
            assert own[f"log of 1 + paths of {n} operations"] == pytest.approx(
                np.log(1 + sum(len(p) == n for p in every))
            )
        lengths = {
            "operations": lambda path: len(path),
            "convolutions": lambda path: sum(op in CONVOLUTIONS for op in path),
            "pixels": lambda path: sum(WIDENS[op] for op in path),
        }
        for what, measure in lengths.items():
            most = [max((measure(path) for path in each), default=0) for each in to]
            assert own[f"{what}, longest path"] == max(most)
            assert own[f"{what}, mean of nodes"] == pytest.approx(np.mean(most))
        live = [0, 1, *(state for state in range(2, 6) if to[state - 2])]
        edges = [(op, s) for node in cell for op, s in node if op != "none" and s in live]
        assert own["edges"] == len(edges) and own["nodes with an input"] == sum(map(bool, to))
        assert own["max_pool_3x3"] == sum(op == "max_pool_3x3" for op, _ in edges)
        by_source = [sum(op == "max_pool_3x3" and min(s, 2) == k for op, s in edges) for k in range(3)]
        assert [own[f"{READS} {source}"] for source in ("c_{k-2}", "c_{k-1}", "a node")] == by_source
        # counting edges of nodes that read nothing would be wrong
        assert is_dead(cell) == (not edges)


def test_an_edge_from_a_node_without_input_carries_nothing() -> None:
    nothing = ("none", 0), ("none", 1)
    normal: Cell = (nothing, (("sep_conv_3x3", 2), ("max_pool_3x3", 0)), nothing, (("none", 0), ("skip_connect", 4)))
    reduce: Cell = (nothing, nothing, nothing, (("sep_conv_3x3", 4), ("skip_connect", 2)))
    cell = genotype(normal, reduce)
    own = dict(zip(FEATURES, cell_features([cell.normal])[0], strict=True))
    assert own["sep_conv_3x3"] == own["skip_connect"] == 0 and own["edges"] == 1
    assert not is_dead(cell.normal) and is_dead(cell.reduce)
    assert sum(len(node) for node in cell.reduce) == 8


def test_predictions_are_better_than_counts_say_by_chance(surrogate: DARTSSurrogate) -> None:
    report = surrogate.report
    assert report.cells == len(CELLS) and report.dead == 0
    assert report.kendall > 0.6 and report.rmse < 0.6 * ACCURACIES.std()
    assert 0.8 < report.coverage[0.9] < 1.0 and "Kendall tau" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["coverage"]["0.9"] == report.coverage[0.9]
    shuffled = DARTSSurrogate(CELLS, np.random.default_rng(1).permutation(ACCURACIES)).report
    assert abs(shuffled.kendall) < 0.25 and shuffled.rmse > 0.8 * ACCURACIES.std()  # cells that models have not seen
    assert 0.8 < shuffled.coverage[0.9] < 1.0  # it says that it does not know


def test_a_seed_is_a_surrogate(surrogate: DARTSSurrogate, tmp_path: Path) -> None:
    path = tmp_path / "cells.csv.gz"
    path.write_bytes(gzip.compress(write(tmp_path / "cells.csv", LINES).read_bytes()))
    again, other = darts_surrogate(path), darts_surrogate(path, seed=1)
    genotypes = [genotype(cell) for cell in CELLS[:5]]
    np.testing.assert_allclose(again.predict(genotypes)[0], surrogate.predict(genotypes)[0], atol=0.05)
    assert np.array_equal(darts_surrogate(path).predict(genotypes), again.predict(genotypes))
    assert not np.array_equal(other.predict(genotypes), again.predict(genotypes))
    assert np.array_equal(pickle.loads(pickle.dumps(again)).predict(genotypes), again.predict(genotypes))


def test_strategies_search_it(surrogate: DARTSSurrogate) -> None:
    strategy = RegularizedEvolution(surrogate.space, population=10, sample=4, seed=0)
    study = Study(strategy, surrogate, ["max accuracy"], evaluations=40, progress=False).run()
    found = [record.result.metrics["accuracy"] for record in study.records]
    assert max(found) == study.best.result.metrics["accuracy"] > np.quantile(found[:10], 0.9)
    assert all(record.result.metrics["accuracy_std"] > 0 for record in study.records)


def test_the_command_line_says_how_far_predictions_can_be_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, objects = (
        write(tmp_path / "cells.csv", LINES),
        ["oneshot.discrete.RandomSearch", "oneshot.discrete.darts_surrogate"],
    )
    words = ["--strategy", objects[0], "--evaluator", objects[1], "--evaluator.init_args.path", str(path)]
    words += ["--objectives", "[max accuracy]", "--evaluations", "3", "--out", str(tmp_path / "run")]
    assert main(["discrete", *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Accuracies are predicted. 90 cells and 0 without an output; 5-fold cross-validation: Kendall tau" in said


def test_noise_is_that_of_one_training_and_always_the_same() -> None:
    noisy = DARTSSurrogate(CELLS, ACCURACIES, noise=True)
    configs = SPACE.decode(SPACE.sample_matrix(60, 5))
    drawn = [noisy(Proposal(0, config)) for config in configs]
    assert drawn == [noisy(Proposal(9, config)) for config in configs]
    mean, std = noisy.predict([SPACE.genotype(config) for config in configs])
    z = (np.array([each["accuracy"] for each in drawn]) - mean) / std
    assert abs(z.mean()) < 0.4 and 0.7 < z.std() < 1.3


def test_a_reduction_cell_counts_by_its_share_of_the_cells(surrogate: DARTSSurrogate) -> None:
    (first, second), (one, two) = surrogate.predict([genotype(CELLS[0]), genotype(CELLS[1])])
    (mean,), (std,) = surrogate.predict([genotype(CELLS[0], CELLS[1])])
    assert mean == pytest.approx(0.9 * first + 0.1 * second)
    assert std == pytest.approx(np.hypot(0.9 * one + 0.1 * two, 0.1 * (second - first)))
    assert abs(first - second) > 1e-3


def test_a_network_without_output_has_the_accuracy_of_those(surrogate: DARTSSurrogate) -> None:
    dead: Cell = ((("none", 0), ("none", 1)), (), (("skip_connect", 2),), ())
    assert surrogate.predict([genotype(dead), genotype(dead, CELLS[0])])[0].tolist() == [10.0, 10.0]
    trained = DARTSSurrogate([*CELLS, dead], [*ACCURACIES, 12.5])
    assert trained.report.dead == 1 and trained.predict([genotype(dead)]) == (np.array([12.5]), np.array([0.0]))


def test_lines_without_an_accuracy_are_counted(tmp_path: Path) -> None:
    lines = [*LINES[:3], (LINES[3][0], " "), *LINES[4:]]
    with pytest.warns(UserWarning, match="1 of 90 lines are left out, .*'cifar10_val_accuracy' in 1"):
        assert darts_surrogate(write(tmp_path / "cells.csv", lines)).report.cells == 89


EDGES = "[('sep_conv_3x3', 0), ('sep_conv_3x3', 1)]"
FOREIGN = f"Genotype(normal={EDGES}, normal_concat=[2], reduce={EDGES}, reduce_concat=[2])"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param([*LINES[:1], (LINES[1][0], "nan")], "line 3: metric .* is finite; got nan", id="nan"),
        pytest.param([*LINES[:1], (LINES[1][0], "830")], "line 3: an accuracy must be .*; got 830", id="percent"),
        pytest.param([(LINES[0][0], "high")], "line 2: could not convert string to float: 'high'", id="text"),
        pytest.param([("|skip_connect~0|", "80")], r"line 2: A genotype reads Genotype\(normal=", id="no genotype"),
        pytest.param([(FOREIGN, "80")], "line 2: DARTS cells must have 4 nodes .* has 1 and concatenates", id="nodes"),
        pytest.param(
            [(LINES[0][0].replace("sep_conv_3x3", "sep_conv_7x7"), "80")],
            "line 2: Operations of a DARTS cell must be none, .*'sep_conv_7x7'",
            id="operation",
        ),
        pytest.param([(str(genotype(CELLS[0], CELLS[1])), "80")], "line 2: Normal and reduction .* equal", id="cells"),
        pytest.param([LINES[0], LINES[1], (LINES[0][0], "81")], "line 4 has the cell of line 2 once", id="repeated"),
        pytest.param(LINES[:49], "needs 50 or more cells with an output, of different accuracies; got 49", id="few"),
        pytest.param([(g, 80) for g, _ in LINES], "got 90, all of 80.0 percent", id="same"),
        pytest.param([], "has no cells", id="empty"),
        pytest.param([(g, "") for g, _ in LINES], "some line must have all metrics", id="blank"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_its_line(
    lines: list[tuple[str, object]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        darts_surrogate(write(tmp_path / "cells.csv", lines))


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="must have the columns 'genotype' and 'cifar10_val_accuracy'; 'genotype' is not"
    ):
        darts_surrogate(table("nats_bench_tss"))
    with pytest.raises(ValueError, match="'accuracy' is not among genotype, cifar10_val_accuracy"):
        darts_surrogate(table("darts_archs"), accuracy="accuracy")
    with pytest.raises(ValueError, match=r"There is no table .*nothing\.csv"):
        darts_surrogate(tmp_path / "nothing.csv")


def test_cells_of_other_spaces_are_refused(surrogate: DARTSSurrogate) -> None:
    three: Cell = ((("skip_connect", 0),) * 3, *CELLS[0][1:])
    with pytest.raises(ValueError, match="at most 2 edges; one of the normal cell has 3"):
        surrogate.predict([genotype(three)])
    with pytest.raises(ValueError, match="DARTS cells must have 4 nodes"):
        DARTSSurrogate(CELLS, ACCURACIES, space=darts_space(steps=3))
    with pytest.raises(ValueError, match="90 cells must have as many accuracies"):
        DARTSSurrogate(CELLS, ACCURACIES[:-1])
    with pytest.raises(ValueError, match="percentages between 0 and 100; cell 3 has nan"):
        DARTSSurrogate(CELLS, np.where(np.arange(90) == 3, np.nan, ACCURACIES))
    check_cells(PUBLISHED["DARTS_V2"])


@pytest.mark.slow
def test_the_whole_table_is_predicted_as_documented() -> None:
    report = darts_surrogate(table("darts_archs", whole=True)).report
    assert (report.cells, report.dead) == (998, 2)
    assert report.kendall > 0.83 and report.spearman > 0.96 and report.rmse < 1.1
    assert all(abs(report.coverage[level] - level) < 0.08 for level in report.coverage)
