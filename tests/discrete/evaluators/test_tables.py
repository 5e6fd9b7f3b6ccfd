from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oneshot.discrete import Proposal, RandomSearch, Study, TabularEvaluator
from oneshot.discrete.evaluators.tables import DistinctMacroSpace, accel_nasbench, nas_bench_201, nas_bench_macro
from oneshot.supernets import Choice, NASBench201Space, SearchSpace, SubnetConfig
from tests.tables import rows, whole_or_extract
from tests.tables import table as official

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b"), rows=2),))
ROWS = {"aa": 1.0, "ab": 2.0, "ba": 3.0, "bb": 4.0}


def parse(text: str) -> SubnetConfig:
    return SubnetConfig("toy", {"layer": list(text)})


def write(path: Path, rows: dict[str, object] = ROWS, header: str = "arch,accuracy") -> Path:  # type: ignore[assignment]
    path.write_text("\n".join([header, *(f"{arch},{value}" for arch, value in rows.items())]) + "\n")
    return path


def test_a_table_is_read_from_a_file_and_looked_up(tmp_path: Path) -> None:
    plain = write(tmp_path / "table.csv")
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for path in (plain, packed):
        table = TabularEvaluator.from_csv(path, SPACE, parse, {"error": lambda row: 10 - float(row["accuracy"])})
        assert table.metrics == ("error",) and len(table) == 4
        assert table(Proposal(0, parse("ba"))) == {"error": 7.0}


def test_fidelities_are_columns_of_their_own() -> None:
    genes = [[0, 0], [0, 1]]
    shorter: dict[float, Any] = {12: {"accuracy": [3, 4]}}
    table = TabularEvaluator(SPACE, genes, {"accuracy": [1, 2]}, fidelities=shorter, full=200)
    assert table(Proposal(0, parse("ab"), fidelity=12)) == {"accuracy": 4.0}
    assert table(Proposal(0, parse("ab"), fidelity=200)) == table(Proposal(0, parse("ab"))) == {"accuracy": 2.0}
    for other in (3, 12.5, 400):
        with pytest.raises(LookupError, match=f"the table has fidelities 12, 200, not {other}"):
            table(Proposal(0, parse("ab"), fidelity=other))
    full = TabularEvaluator(SPACE, genes, {"accuracy": [1, 2]})
    with pytest.raises(LookupError, match="the table has one fidelity, without a number, not 3"):
        full(Proposal(0, parse("ab"), fidelity=3))
    with pytest.raises(ValueError, match=r"full must be the length of full trainings, .*\(12\).*Got full=None"):
        TabularEvaluator(SPACE, genes, {"accuracy": [1, 2]}, fidelities=shorter)


def test_fidelities_are_read_from_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("arch,short,long\naa,1,10\nab,2,20\n")
    options: dict[str, Any] = {"fidelities": {9: {"accuracy": "short"}}, "full": 81, "complete": False}
    table = TabularEvaluator.from_csv(path, SPACE, parse, {"accuracy": "long"}, **options)
    answers = [table(Proposal(0, parse("ab"), fidelity=f))["accuracy"] for f in (9, 81, None)]
    assert answers == [2.0, 20.0, 20.0]


def test_of_spellings_the_canonical_one_counts_or_else_the_first(tmp_path: Path) -> None:
    space = NASBench201Space()
    ops = ("skip_connect", "avg_pool_3x3", "none")
    dead = [f"|none~0|+|none~0|none~1|+|none~0|none~1|{op}~2|" for op in ops]
    path = tmp_path / "table.csv"
    for lines, expected in ((dead[:2], 1.0), (dead, 3.0)):
        path.write_text("arch,accuracy\n" + "".join(f"{line},{i}\n" for i, line in enumerate(lines, start=1)))
        table = TabularEvaluator.from_csv(path, space, space.from_arch_string, ["accuracy"], complete=False)
        assert len(table) == 1
        assert table(Proposal(0, space.from_arch_string(dead[0]))) == {"accuracy": expected}


def test_lines_without_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("arch,accuracy,short\naa,1,4\nab,,5\nba,3, \nbb,4,7\n")
    counted = r"2 of 4 lines are left out, because values are missing \('accuracy' in 2, 'error' in 1\)"
    metrics = {"accuracy": "accuracy", "error": lambda row: 10 - float(row["accuracy"])}
    with pytest.warns(UserWarning, match=counted):
        table = TabularEvaluator.from_csv(
            path, SPACE, parse, metrics, fidelities={9: {"accuracy": "short"}}, full=81
        )  # it is complete: it names all architectures
    assert len(table) == 2 and table(Proposal(0, parse("bb")))["error"] == 6.0
    for text in ("ab", "ba"):
        with pytest.raises(LookupError, match="is in the table without its values"):
            table(Proposal(0, parse(text)))
    study = Study(RandomSearch(SPACE), table, ["max accuracy"], evaluations=4, progress=False).run()
    assert sum(record.result.values is None for record in study.records) == 2


def test_a_table_without_any_value_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", dict.fromkeys(ROWS, " "))
    with pytest.raises(ValueError, match="some line must have all metrics; values are missing of 'accuracy' in 4 of 4"):
        TabularEvaluator.from_csv(path, SPACE, parse, ["accuracy"])


def test_a_spelling_with_a_value_stands_for_one_without(tmp_path: Path) -> None:
    space = NASBench201Space()
    path = tmp_path / "table.csv"
    path.write_text(
        "arch,accuracy\n|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,\n"
        "|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|,10\n"
    )
    with pytest.warns(UserWarning, match="1 of 2 lines are left out"):
        table = TabularEvaluator.from_csv(path, space, space.from_arch_string, ["accuracy"], complete=False)
    config = space.from_arch_string("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    assert table(Proposal(0, config)) == {"accuracy": 10.0}


def test_blanks_of_accel_nasbench_are_left_out(tmp_path: Path) -> None:
    lines = gzip.decompress(official("accel_nasbench").read_bytes()).decode().splitlines()
    column = lines[0].split(",").index("a100_img_per_s")
    cells = lines[3].split(",")
    cells[column] = ""
    path = tmp_path / "table.csv"
    path.write_text("\n".join([*lines[:3], ",".join(cells), *lines[4:]]) + "\n")
    whole = accel_nasbench(official("accel_nasbench"), ["a100_img_per_s"])
    with pytest.warns(UserWarning, match=r"1 of \d+ lines are left out, .*'a100_img_per_s' in 1"):
        part = accel_nasbench(path, ["a100_img_per_s"])
    assert len(part) == len(whole) - 1
    with pytest.warns(UserWarning, match="'ms' in 1"):
        accel_nasbench(path, {"ms": lambda row: 1000 / float(row["a100_img_per_s"])})
    assert len(accel_nasbench(path)) == len(whole)  # the metric that is asked for is there


def test_an_architecture_that_is_not_in_the_table_fails_and_is_recorded(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv", {"aa": 1, "bb": 2})
    table = TabularEvaluator.from_csv(path, SPACE, parse, ["accuracy"], complete=False)
    study = Study(RandomSearch(SPACE), table, ["max accuracy"], evaluations=4, retries=0).run()
    assert sum(record.result.failure is not None for record in study.records) == 2
    assert any("is not in the table of 2 architectures" in str(record.result.failure) for record in study.records)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param("arch,accuracy\naa,1\nab,2\nba,3\n", "lacks 1 of 4 .* the first is 'layer: b b'", id="missing"),
        pytest.param(
            "arch,accuracy\naa,1\nab,2\naa,3\n", "csv, line 4 has the architecture of line 2 once", id="twice"
        ),
        pytest.param("arch,accuracy\naa,1\nab,two\n", "line 3: could not convert string to float: 'two'", id="text"),
        pytest.param("arch,accuracy\naa,1\n\nab,nan\n", "line 4: metric 'accuracy' is finite; got nan", id="nan"),
        pytest.param("arch,accuracy\n", "csv has no architectures", id="header only"),
        pytest.param("arch,score\naa,1\n", "line 2 has no column 'accuracy'; columns are arch, score", id="column"),
        pytest.param("name,accuracy\naa,1\n", "has no column 'arch'", id="names"),
        pytest.param("arch,accuracy\naa,1\nac,2\n", "csv, line 3: 'c' is not a candidate of 'layer'", id="operation"),
        pytest.param("arch,accuracy\na,a,1\n", "line 2 has more cells than the header. Put", id="commas"),
        pytest.param("arch,accuracy\naa\n", "line 2 has no column 'accuracy'; columns are arch", id="short line"),
    ],
)
def test_tables_that_are_wrong_are_refused(lines: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(lines)
    with pytest.raises(ValueError, match=message):
        TabularEvaluator.from_csv(tmp_path / "table.csv", SPACE, parse, ["accuracy"])


def test_a_column_that_a_function_does_not_find_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table.csv, line 2: KeyError\('top1'\)"):
        TabularEvaluator.from_csv(
            write(tmp_path / "table.csv"), SPACE, parse, {"error": lambda row: float(row["top1"])}
        )


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path) -> None:
    path = write(tmp_path / "table.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(TabularEvaluator.from_csv(path, SPACE, parse, ["accuracy"])) == 4


def test_a_part_of_a_space_too_large_to_be_listed_is_a_table(tmp_path: Path) -> None:
    space = SearchSpace("toy", (Choice("layer", ("a", "b"), rows=20),))
    path = write(tmp_path / "table.csv", {"ab" * 10: 1.0, "ba" * 10: 2.0})
    assert len(TabularEvaluator.from_csv(path, space, parse, ["accuracy"])) == 2


def test_what_is_wrong_with_a_table_of_accel_nasbench_is_said_with_its_line(tmp_path: Path) -> None:
    columns = [f"block{block}_{what}" for block in range(7) for what in ("e", "k", "l", "se")]
    header = ",".join([*columns, "imagenet_val_top1"])
    path = tmp_path / "accel.csv"
    path.write_text("\n".join([header, ",".join(["1"] * 28 + ["70.5"]), ",".join(["2"] * 28 + ["71.5"])]) + "\n")
    assert accel_nasbench(path).columns["imagenet_val_top1"].tolist() == [70.5, 71.5]
    with pytest.raises(ValueError, match="line 2 has no column 'top5'; columns are block0_e"):
        accel_nasbench(path, ["top5"])
    path.write_text("\n".join([header, ",".join(["1"] * 27 + ["one", "70.5"])]) + "\n")
    with pytest.raises(ValueError, match="line 2: invalid literal for int.*'one'"):
        accel_nasbench(path)


def test_arguments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no table .*table.csv"):
        nas_bench_201(tmp_path / "table.csv")
    with pytest.raises(ValueError, match="1 are repeated, the first is 'layer: a a'"):
        TabularEvaluator(SPACE, [[0, 0], [0, 1], [0, 0]], {"accuracy": [1, 2, 3]})
    with pytest.raises(ValueError, match="at least one metric; got none"):
        TabularEvaluator(SPACE, [[0, 0]], {})
    with pytest.raises(ValueError, match=r"a value for each of 1 architectures; got \[2\]"):
        TabularEvaluator(SPACE, [[0, 0]], {"accuracy": [1, 2]})
    with pytest.raises(ValueError, match="is no table of Accel-NASBench"):
        accel_nasbench(write(tmp_path / "other.csv"))
    space = DistinctMacroSpace()
    with pytest.raises(ValueError, match="row 0 is .* the canonical form"):
        TabularEvaluator(space, [[0, 0, 0, 0, 1, 0, 0, 0]], {"accuracy": [1]})


def test_the_published_tables_have_their_published_best() -> None:
    table = nas_bench_201(official("nats_bench_tss", whole=True))
    space = NASBench201Space()
    assert len(table) == 10_405 and table.columns["cifar10_test_accuracy"].max() == pytest.approx(94.3733)
    worst = space.from_arch_string("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    assert table(Proposal(0, worst))["cifar10_test_accuracy"] == pytest.approx(10)

    macro = nas_bench_macro(official("nas_bench_macro", whole=True))
    assert len(macro) == 3_969
    best = macro.space.decode(macro.genes[[macro.columns["cifar10_test_accuracy_mean"].argmax()]])[0]
    assert macro.space.arch_string(best) == "22212220"  # type: ignore[attr-defined]


def test_rows_of_the_published_tables_are_looked_up() -> None:
    """In extracts; readers of whole tables refuse them, and name the first architecture that is missing."""
    space = NASBench201Space()
    path, columns = official("nats_bench_tss"), ["cifar10_test_accuracy"]
    table = TabularEvaluator.from_csv(path, space, space.from_arch_string, columns, complete=False)
    assert 100 <= len(table) <= 120 and table.columns["cifar10_test_accuracy"].max() == pytest.approx(94.3733)
    worst = space.from_arch_string("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    assert table(Proposal(0, worst))["cifar10_test_accuracy"] == pytest.approx(10)
    with pytest.raises(ValueError, match=r"The table lacks 10,\d+ of 10,405 architectures of 'nasbench201'"):
        nas_bench_201(path)

    macro = DistinctMacroSpace()
    columns, path = ["cifar10_test_accuracy_mean"], official("nas_bench_macro")
    table = TabularEvaluator.from_csv(path, macro, macro.from_arch_string, columns, complete=False)
    best = macro.decode(table.genes[[table.columns["cifar10_test_accuracy_mean"].argmax()]])[0]
    assert macro.arch_string(best) == "22212220"
    twins = [macro.from_arch_string(text) for text in ("00000010", "00000001")]
    assert table(Proposal(0, twins[0])) == table(Proposal(0, twins[1])), "identities commute within a stage"
    with pytest.raises(ValueError, match="of 3,969 architectures"):
        nas_bench_macro(path)


@pytest.mark.parametrize(
    "name", ["nats_bench_tss", "nas_bench_macro", "fbnet_latency", "accel_nasbench", "darts_archs"]
)
def test_extracts_are_rows_of_the_tables_in_their_order(name: str) -> None:
    """Every row is found behind the one before it."""
    every = iter(rows(name, whole=True))
    assert all(row in every for row in rows(name))


@whole_or_extract
def test_the_partial_table_stands_for_its_space(whole: bool) -> None:
    table = accel_nasbench(official("accel_nasbench", whole=whole))
    genes = table.space.sample_matrix(50, 0)
    np.testing.assert_array_equal(table.space.repair(genes), genes)
    moved = table.space.repair((genes + 1) % np.array(table.space.gene_sizes))
    for config in table.space.decode(moved):
        assert 40 < table(Proposal(0, config))["imagenet_val_top1"] < 70


@whole_or_extract
def test_neighbours_and_mutations_stay_in_a_partial_table_and_move(whole: bool) -> None:
    space = accel_nasbench(official("accel_nasbench", whole=whole)).space
    rng = np.random.default_rng(0)
    genes = space.sample_matrix(1, rng)[0]
    around = space.neighbours(genes)
    assert len(around) >= (10 if whole else 5) and (space.repair(around) == around).all()
    for _ in range(20):
        mutant = space.mutate_genes(genes, rng)
        assert (mutant != genes).any() and (space.repair(mutant[None]) == mutant).all()
