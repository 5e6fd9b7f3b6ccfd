"""Comparisons of methods: runs, what is kept of them, and the tables."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from oneshot import DARTS, GDAS, SNAS, RandomSharing
from oneshot.comparison import Comparison, Entry, Results, Run, Setting
from oneshot.comparison.comparison import CURVES, JOURNAL, PICTURE, TABLE
from oneshot.comparison.results import decimals, markdown_table, verdict
from oneshot.comparison.significance import Difference
from oneshot.comparison.trial import GLOBAL_SEED, in_two, search_once, take_task, whole
from oneshot.data import Digits, SearchDataModule, TableData
from oneshot.discrete import Evaluator, Proposal
from oneshot.discrete.record import Objective
from oneshot.engine.module import SearchModule
from oneshot.supernets import MLPSupernet, NASBench201Supernet
from oneshot.supernets.space import SubnetConfig
from oneshot.tasks import Regression

TRAINER = {"limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 2, "accelerator": "cpu"}


def supernet(data: pl.LightningDataModule) -> NASBench201Supernet:
    return NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)


def digits(seed: int) -> Digits:
    return Digits(seed=seed, batch_size=16)


def broken(data: pl.LightningDataModule) -> SearchModule:
    raise ArithmeticError("my method\nis not ready")


class Convolutions(Evaluator):
    """A table: the share of decisions that are a convolution; fewer are better here."""

    metrics = ("accuracy", "convolutions")

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        picks = proposal.config["cell"]
        return {"accuracy": 0.5, "convolutions": sum("conv" in str(pick) for pick in picks) / len(picks)}


METHODS: dict[str, Callable[[pl.LightningDataModule], SearchModule] | None] = {
    "DARTS": lambda data: DARTS(supernet(data)),
    "GDAS": lambda data: GDAS(supernet(data)),
    "SNAS": lambda data: SNAS(supernet(data)),
    "RandomSharing": lambda data: RandomSharing(supernet(data), candidates=4, finalists=2),
    "random": None,
}


def entries(*labels: str) -> list[Entry]:
    return [Entry(label, METHODS[label]) for label in labels or METHODS]


def setting(**options: Any) -> Setting:
    options = {"epochs": 2, "retrain_epochs": 1, "trainer": TRAINER, **options}
    return Setting(data=digits, supernet=supernet, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """Five methods and one that is broken, two seeds, scored by a retraining and by a table."""
    folder = tmp_path_factory.mktemp("runs") / "compare"
    by_table = setting(table=Convolutions(), metric=Objective.parse("min convolutions"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(GLOBAL_SEED, raising=False)
        random.seed(3)
        torch.manual_seed(3)
        before = random.getstate(), torch.get_rng_state()
        found = Comparison([*entries(), Entry("broken", broken)], (0, 1), by_table, folder=folder).run()
        assert GLOBAL_SEED not in os.environ
        assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    return folder, found


def test_every_method_has_a_result_for_every_seed(made: tuple[Path, Results]) -> None:
    _, results = made
    assert [(run.label, run.seed) for run in results.finished] == [(label, s) for label in METHODS for s in (0, 1)]
    for run in results.finished:
        assert list(run.scores) == ["convolutions", "test/accuracy"] and 0 <= run.scores["test/accuracy"] < 1
        assert run.directions == {"convolutions": "min", "test/accuracy": "max"}
        assert (
            run.config is not None
            and run.scores["convolutions"] == Convolutions()(Proposal(0, run.config))["convolutions"]
        )
        assert run.params > 1000 and run.macs is not None and run.macs > 10_000 and "test/loss" in run.metrics
        assert (run.seconds > 0) == (run.label != "random") and run.total_seconds > run.seconds
    # of the two seeds something is different
    assert len({run.config for run in results.finished}) > len(METHODS)


def test_an_epoch_of_a_search_is_a_point_of_its_curves(made: tuple[Path, Results]) -> None:
    _, results = made
    curves = {run.label: run.curves for run in results.finished if run.seed == 0}
    assert not curves["random"] and set(curves) == set(METHODS)
    for label in ("DARTS", "GDAS", "SNAS", "RandomSharing"):
        assert all(len(values) == 2 for values in curves[label].values())
        assert all(value is not None and value > 0 for value in curves[label]["train/loss"])
    assert ("derived, convolutions" in curves["DARTS"]) and "derived, convolutions" not in curves["RandomSharing"]
    assert ("arch/loss" in curves["DARTS"]) and "arch/loss" not in curves["SNAS"]  # one set of data, one loss


def test_a_method_that_fails_is_reported_and_the_others_go_on(made: tuple[Path, Results]) -> None:
    folder, results = made
    assert [(run.label, run.seed) for run in results.failed] == [("broken", 0), ("broken", 1)]
    assert str(results.failed[0].failure).startswith("ArithmeticError: my method (test_comparison.py:")
    page = (folder / TABLE).read_text()
    assert "- broken, seed 1: ArithmeticError: my method" in page
    (row,) = [row for row in results.rows() if row["method"] == "broken"]
    assert (row["seeds"], row["convolutions"], row["failed"]) == ("0", "–", "2")


def test_the_folder_has_tables_and_pictures(made: tuple[Path, Results]) -> None:
    folder, results = made
    names = {path.name for path in folder.iterdir()}
    assert names == {JOURNAL, TABLE, PICTURE, CURVES, "results.csv", "results.json"}
    rows = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    assert len(rows) == 12 and float(rows[0]["test/accuracy"]) == results.runs[0].scores["test/accuracy"]
    content = json.loads((folder / "results.json").read_text())
    assert [score["metric"] for score in content["scores"]] == ["convolutions", "test/accuracy"]
    assert len(content["differences"]["convolutions"]) == 10 and len(content["runs"]) == 12
    page = (folder / TABLE).read_text()
    assert "compared by convolutions (lower is better)" in page and "## test/accuracy, differences" in page
    assert "With 2 seeds no difference can be significant: the smallest possible p is 0.5." in page
    assert (folder / PICTURE).stat().st_size > 10_000 and (folder / CURVES).stat().st_size > 10_000


def test_the_best_is_first_whichever_way_is_better(made: tuple[Path, Results]) -> None:
    _, results = made
    for score, better in zip(results.scores, (min, max), strict=True):
        means = [sum(of.values()) / len(of) for of in results.values(score).values()]
        assert means[0] == better(means) and means == sorted(means, reverse=better is max)
    rows = {row["method"]: row for row in results.rows()}
    values = results.values(results.scores[0])["GDAS"].values()
    assert float(rows["GDAS"]["best"]) == pytest.approx(min(values), abs=1e-4)


def test_the_same_seed_gives_the_same_run(made: tuple[Path, Results]) -> None:
    """Whatever ran before; and the whole comparison is in memory without a folder."""
    _, results = made
    again = Comparison(entries("GDAS"), [1], setting()).run().runs[0]
    (first,) = [run for run in results.runs if (run.label, run.seed) == ("GDAS", 1)]
    assert again.config == first.config and again.scores["test/accuracy"] == first.scores["test/accuracy"]
    assert again.curves["train/loss"] == first.curves["train/loss"]


def test_methods_read_the_streams_they_need() -> None:
    data = digits(0)
    split = SearchDataModule(data, arch_fraction=0.25)
    assert whole(split) is data is whole(data) and in_two(split, 0) is split
    made = in_two(data, 3)
    assert isinstance(made, SearchDataModule) and made.data is data and made.seed == 3
    with pytest.raises(ValueError, match="needs batches {'weights'"):
        search_once(Entry("DARTS", METHODS["DARTS"], streams=1), 0, setting())
    with pytest.raises(ValueError, match="without SearchDataModule"):
        search_once(Entry("SNAS", METHODS["SNAS"], streams=2), 0, setting())
    with pytest.raises(ValueError, match="streams must be 1 .*mine has 3"):
        Entry("mine", None, streams=3)  # type: ignore[arg-type]


# Going on.


def test_a_comparison_goes_on_after_the_runs_that_are_finished(tmp_path: Path) -> None:
    built: list[tuple[str, int]] = []

    def counted(label: str) -> Callable[[pl.LightningDataModule], SearchModule]:
        def search(data: Any) -> SearchModule:
            built.append((label, data.seed))
            if len(built) == 4:
                raise KeyboardInterrupt
            return GDAS(supernet(data))

        return search

    def comparison() -> Comparison:
        return Comparison([Entry(name, counted(name)) for name in "ab"], [0, 1], setting(), folder=tmp_path)

    with pytest.raises(KeyboardInterrupt):
        comparison().run()
    assert built == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert "| a | 2 |" in (tmp_path / TABLE).read_text()  # what is finished is in the table
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"label": "b", "seed"')  # as a killed process leaves it
    told: list[tuple[int, str, bool]] = []
    results = comparison().run(lambda run, number, what, left: told.append((number, what, left is None)))
    assert built[4:] == [("b", 1)] and len(results.finished) == 4
    assert told[0] == (3, "b, seed 1", False) and told[-1] == (4, "", False)
    comparison().run()
    assert len(built) == 5
    a, b = (run.scores for run in results.runs if run.seed == 1)
    assert a == b  # the same method and seed, interrupted or not


def test_methods_and_seeds_are_added_later_and_failed_runs_are_tried_again(tmp_path: Path) -> None:
    def comparison(mine: Any, seeds: range, *more: str) -> Comparison:
        return Comparison([Entry("mine", mine), *entries(*more)], seeds, setting(), folder=tmp_path)

    first = comparison(broken, range(1), "random").run()
    assert [run.failure is None for run in first.runs] == [False, True]
    second = comparison(METHODS["GDAS"], range(2), "random")
    assert [(entry.label, seed) for entry, seed in second.missing()] == [("mine", 0), ("mine", 1), ("random", 1)]
    assert not second.run().failed and len(second.results.finished) == 4
    fewer = comparison(METHODS["GDAS"], range(1), "random")
    assert not fewer.missing() and len(fewer.results.runs) == 2


def test_runs_of_other_settings_are_not_compared(tmp_path: Path) -> None:
    def comparison(channels: int, **own: float) -> Comparison:
        mine = Entry("random", None, settings=own)
        return Comparison([mine], [0], setting(), folder=tmp_path, settings={"channels": channels})

    comparison(4, lr=0.1).run()
    comparison(4, lr=0.1)
    with pytest.raises(ValueError, match="holds runs of other settings: channels was 4, is 8. .*--out"):
        comparison(8, lr=0.1)
    with pytest.raises(ValueError, match="random: lr was 0.1, is 0.2. .* a method that changed another label"):
        comparison(4, lr=0.2)
    with pytest.raises(ValueError, match="random: decay was not given, is 0.2; random: lr was 0.1, is not given"):
        comparison(4, decay=0.2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(b'{"settings": 3}\n', "line 1.*must be", id="settings"),
        pytest.param(b'{"settings": {}}\n{"label": "a"}\n', "line 2 must have the key", id="row"),
        pytest.param(b'{"settings": {}}\nx\n', "line 2", id="no-json"),
    ],
)
def test_a_damaged_file_of_runs_is_one_line(line: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(line)
    with pytest.raises(ValueError, match=message) as caught:
        Comparison(entries("random"), [0], setting(), folder=tmp_path)
    assert "\n" not in str(caught.value) and JOURNAL in str(caught.value)


# Tasks.


def table_data(seed: int, task: Regression) -> pl.LightningDataModule:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 5)).astype(np.float32)
    return TableData(x, x[:, 0] - x[:, 1], task=task, batch_size=16, seed=seed)


def mlp(data: pl.LightningDataModule) -> MLPSupernet:
    supernet = MLPSupernet(features=5, width=8, num_classes=1, layers=2)
    take_task(supernet, data)
    return supernet


@pytest.mark.parametrize(("metric", "better"), [("r2", max), ("mae", min)])
def test_metric_and_direction_are_those_of_the_task(metric: str, better: Callable[[list[float]], float]) -> None:
    of_numbers = Setting(
        data=lambda seed: table_data(seed, Regression(metric=metric)),
        supernet=mlp,
        epochs=1,
        retrain_epochs=1,
        trainer=TRAINER,
    )
    methods = [Entry("DARTS", lambda given: DARTS(mlp(given))), Entry("random", None)]
    results = Comparison(methods, [0, 1], of_numbers).run()
    assert not results.failed and [score.metric for score in results.scores] == [f"test/{metric}"]
    assert f"val/{metric}" in results.runs[0].curves
    means = [sum(of.values()) / len(of) for of in results.values(results.scores[0]).values()]
    assert means[0] == better(means)


def test_what_all_methods_have_in_common_is_checked_once(tmp_path: Path) -> None:
    """And no failure of every method; nothing is written."""

    def comparison(**options: Any) -> Comparison:
        given = {"data": digits, "supernet": supernet, "epochs": 1, "retrain_epochs": 1, **options}
        return Comparison(entries("random"), [0], Setting(**given), folder=tmp_path / "out")

    def wider(data: pl.LightningDataModule) -> NASBench201Supernet:
        return NASBench201Supernet(channels=4, cells_per_stage=1)

    class Empty(Convolutions):
        def __call__(self, proposal: Proposal) -> dict[str, float]:
            raise LookupError("'nothing' is not in the table")

    for options, message in (
        ({"data": lambda seed: Digits(image_size=-1)}, "image_size"),
        ({"supernet": wider}, "must be built for the data"),
        ({"network": wider}, "must be built for the data"),
        ({"table": Empty(), "metric": Objective.parse("max accuracy")}, "space 'nasbench201': 'nothing' is not in"),
    ):
        with pytest.raises(ValueError, match=message):
            comparison(**options).run()
        assert not (tmp_path / "out").exists()


# What is refused.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"entries": []}, "must have methods; got none", id="no-method"),
        pytest.param({"seeds": []}, "must have seeds; got none", id="no-seed"),
        pytest.param({"seeds": [0, 1, 0]}, "seeds of a comparison must be different; 0 comes twice", id="seed-twice"),
        pytest.param(
            {"entries": entries("random", "random")}, "random comes twice. Give each its label", id="label-twice"
        ),
        pytest.param({"baseline": "DART"}, "must be one of the methods, random; got 'DART'", id="baseline"),
    ],
)
def test_a_comparison_needs_different_methods_and_seeds(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"entries": entries("random"), "seeds": [0], "setting": setting(), **change}
    with pytest.raises(ValueError, match=message):
        Comparison(**given)
    with pytest.raises(ValueError, match="must have a label"):
        Entry(" ", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"epochs": 0}, "at least 1 epoch", id="epochs"),
        pytest.param({"retrain_epochs": 0}, "must be scored", id="no-score"),
        pytest.param({"table": Convolutions()}, "must come together", id="no-metric"),
        pytest.param(
            {"table": Convolutions(), "metric": Objective.parse("max x")},
            "accuracy, convolutions; got 'x'",
            id="metric",
        ),
    ],
)
def test_a_setting_needs_something_that_scores(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        setting(**change)


def test_a_score_that_is_not_finite_and_a_search_without_an_architecture_have_failed() -> None:
    class Unknown(Convolutions):
        def __call__(self, proposal: Proposal) -> dict[str, float]:
            return {"accuracy": float("nan"), "convolutions": 0.0}

    class Nothing(GDAS):
        def derive(self) -> SubnetConfig:
            return "|none~0|"  # type: ignore[return-value]

    by_table = setting(table=Unknown(), metric=Objective.parse("max accuracy"), retrain_epochs=0)
    results = Comparison(entries("random"), [0], by_table).run()
    assert "A score must be finite; accuracy is nan" in str(results.failed[0].failure) and not results.scores
    mine = [Entry("mine", lambda data: Nothing(supernet(data)))]
    results = Comparison(mine, [0], setting(trainer={**TRAINER, "limit_val_batches": 0})).run()
    assert "derive() of Nothing must give a SubnetConfig; got str" in str(results.failed[0].failure)


def test_warnings_of_a_search_are_in_the_table(tmp_path: Path) -> None:
    import warnings

    class Warning_(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            warnings.warn("The search has collapsed.", stacklevel=1)

    results = Comparison(entries("GDAS"), [0], setting(callbacks=lambda: [Warning_()]), folder=tmp_path).run()
    assert list(results.runs[0].notes) == ["The search has collapsed."]  # once, though it came twice
    assert "- GDAS, seed 0: The search has collapsed." in (tmp_path / TABLE).read_text()


# Tables, of numbers that are made up.


def made_up(values: Mapping[str, Mapping[int, float]], **options: Any) -> Results:
    runs = [Run(label, seed, {"mae": v}, {"mae": "min"}) for label, of in values.items() for seed, v in of.items()]
    return Results(runs, list(values), sorted({seed for of in values.values() for seed in of}), **options)


def test_the_page_says_what_is_significant() -> None:
    values = {"mine": {s: 1.0 + s / 9 for s in range(7)}, "old|er": {s: 1.2 + s / 9 + s / 90 for s in range(7)}}
    page = made_up(values).to_markdown()
    assert "| mine | old\\|er | 7 | -0.233 | -0.2" in page and "| 0.0156 | 0.0156 * |" in page
    assert "1 of 1 differences have p < 0.05 after the correction." in page and "(lower is better)" in page
    assert page.index("| mine | 7 |") < page.index("| old\\|er | 7 |")
    against = made_up({**values, "x": {0: 3.0}}, baseline="x")
    assert [(d.first, d.second) for d in against.differences(against.scores[0])] == [("mine", "x"), ("old|er", "x")]


def test_a_verdict_says_what_so_few_seeds_cannot() -> None:
    assert verdict([Difference("a", "b", 1, 0.1)]) == [
        "With one seed there is no spread, so nothing can be said about the differences."
    ]
    said = " ".join(verdict([Difference("a", "b", 3, 0.1, 0.0, 0.2, 0.25, 0.25)] * 3))
    assert "With 3 seeds no difference can be significant: the smallest possible p is 0.25" in said
    assert "One difference needs at least 6 seeds, 3 together at least 7" in said
    assert verdict([Difference("a", "b", 8, 0.1, 0.0, 0.2, 0.5, 0.5)]) == [
        "No difference has p < 0.05 after the correction: no method is shown to be better than another."
    ]


def test_numbers_have_the_digits_that_count() -> None:
    for largest, digits in ((0.93, 4), (1.0, 4), (93.5, 2), (9.3, 3), (1234.5, 0), (0.012, 5), (1e-9, 8), (0.0, 4)):
        assert decimals({"a": {0: largest, 1: -largest / 2}}) == digits
    assert markdown_table([{"a": "1"}, {"b": "|"}])[2:] == ["| 1 | – |", "| – | \\| |"]


def test_a_run_is_the_same_after_it_was_written_and_read() -> None:
    config = NASBench201Supernet(channels=4, cells_per_stage=1).space.sample(0)
    run = Run("a", 1, {"x": 0.5}, {"x": "max"}, config=config, params=3, curves={"loss": [1.0, None]}, notes=["n"])
    assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run
