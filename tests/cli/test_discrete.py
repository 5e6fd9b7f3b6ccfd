from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import oneshot
from oneshot.cli.discrete import build_object, read_study
from oneshot.cli.main import main
from oneshot.discrete.events import EventLog
from oneshot.supernets import load_config
from oneshot.testing.strategies import SPACE

FAKE = {"num_classes": 3, "input_shape": [1, 8, 8], "train_size": 60, "test_size": 6, "batch_size": 16}
TRAINING: dict[str, Any] = {
    "strategy": {"class_path": "oneshot.discrete.LEMONADE", "init_args": {"start": [[4], [4, 4]], "children": 5}},
    "evaluator": {
        "class_path": "oneshot.discrete.TrainingEvaluator",
        "init_args": {
            "data": {"class_path": "oneshot.data.FakeImages", "init_args": {**FAKE, "val_fraction": 0.3}},
            "epochs": 1,
            "calibration": 32,
        },
    },
    "objectives": ["min error", "min params"],
    "evaluations": 5,
}


def table(folder: Path) -> dict[str, Any]:
    """A study on a table of its own."""
    from oneshot.supernets import NASBench201Space

    space = NASBench201Space()
    lines = ["arch,accuracy"]
    for genes in space.sample_matrix(60, 0):
        (config,) = space.decode(space.repair(genes[None]))
        line = f"{space.arch_string(config)},{50 + genes.sum()}"
        lines += [line] if line.split(",")[0] not in {known.split(",")[0] for known in lines} else []
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return {
        "strategy": {"class_path": "oneshot.discrete.RandomSearch"},
        "evaluator": {
            "class_path": "tests.cli.test_discrete.partial_table",
            "init_args": {"path": str(folder / "table.csv")},
        },
        "objectives": ["max accuracy"],
        "evaluations": 6,
        "retries": 0,
    }


def partial_table(path: str) -> oneshot.discrete.TabularEvaluator:
    from oneshot.discrete.evaluators.tables import TabularEvaluator
    from oneshot.supernets import NASBench201Space

    space = NASBench201Space()
    return TabularEvaluator.from_csv(path, space, space.from_arch_string, ["accuracy"], complete=False)


def write(config: dict[str, Any], path: Path) -> str:
    path.write_text(yaml.safe_dump(config))
    return str(path)


def run(*arguments: object) -> int:
    return main(["discrete", *map(str, arguments)])


def test_a_study_runs_is_reported_goes_on_and_yields_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write(TRAINING, tmp_path / "study.yaml"), tmp_path / "run"
    assert run("--config", config, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "Best: nodes: " in shown and "oneshot pick" in shown
    assert re.search(r"Evaluations took \d+% of the time\.", shown)
    rows = list(csv.DictReader((out / "evaluations.csv").read_text().splitlines()))
    assert len(rows) == 5 and {"error", "params", "architecture", "in_front"} <= rows[0].keys()
    assert "Front of networks" in (out / "report.html").read_text(encoding="utf-8")
    assert (out / "study.png").stat().st_size > 5_000 and load_config(out / "subnet.json").space == "network_graph"

    assert run("--resume", "--out", out, "--evaluations", 6) == 0
    assert "Going on after 5 evaluations." in capsys.readouterr().out
    assert len(read_study(out).evaluated) == 6
    told = [event["number"] for event in EventLog(out / "log.jsonl").events if event["event"] == "tell"]
    assert told == list(range(6))

    assert main(["pick", str(out), "--params", "1e9", "--out", str(tmp_path / "picked"), "--formats"]) == 0
    moved: Any = read_study(out, follow=False, data_options=["--data.init_args.batch_size=8"]).evaluator
    assert moved.data.batch_size == 8, "options say where its data are now, and come first"
    network = oneshot.load(tmp_path / "picked")
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    manifest = json.loads((tmp_path / "picked" / "manifest.json").read_text())
    best = read_study(out).best
    assert manifest["metrics"]["study/error"] == best.result.metrics["error"]

    weights = []
    for name in ("a", "b"):
        torch.manual_seed(len(weights))
        options = ["--params", "1e9", "--finetune", "1", "--formats", "--no-measure", "--out", str(tmp_path / name)]
        assert main(["pick", str(out), *options]) == 0
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != (tmp_path / "picked" / "model.safetensors").read_bytes()


def test_an_encoding_of_networks_is_searched_without_code(tmp_path: Path) -> None:
    space = {"class_path": "oneshot.discrete.GeneticCNNSpace"}
    space["init_args"] = {"nodes_per_stage": [2], "channels": [4]}
    evaluator = {**TRAINING["evaluator"], "init_args": {**TRAINING["evaluator"]["init_args"], "build": space}}
    strategy = {"class_path": "oneshot.discrete.GeneticCNN", "init_args": {"population": 2}}
    study = {"strategy": strategy, "evaluator": evaluator, "objectives": ["max accuracy"], "evaluations": 3}
    assert run("--config", write(study, tmp_path / "study.yaml"), "--out", tmp_path / "run") == 0
    assert main(["pick", str(tmp_path / "run"), "--knee", "--out", str(tmp_path / "picked"), "--formats"]) == 0
    assert oneshot.load(tmp_path / "picked")(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_options_of_strategy_and_evaluator_stand_on_the_command_line(tmp_path: Path) -> None:
    config = write(table(tmp_path), tmp_path / "study.yaml")
    seed = ["--strategy.init_args.seed", "3"]
    assert run("--config", config, "--out", tmp_path / "a", "--strategy.init_args.seed=3") == 0
    assert run("--config", config, "--out", tmp_path / "b", *seed, "--workers", 0, "--objectives", "max accuracy") == 0
    first, second = (read_study(tmp_path / name) for name in "ab")
    assert [r.proposal for r in first.records] == [r.proposal for r in second.records]
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["strategy"]["init_args"] == {"seed": 3}


def test_a_class_and_its_arguments_are_options_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, build = write(TRAINING, tmp_path / "study.yaml"), "--evaluator.init_args.build"
    space = [build, "oneshot.discrete.GeneticCNNSpace", f"{build}.init_args.nodes_per_stage", "[2]"]
    space += [f"{build}.init_args.channels", "[4]", "--strategy", "oneshot.discrete.RandomSearch"]
    assert (
        run("--config", config, *space, "--evaluations", 1, "--objectives", "max accuracy", "--out", tmp_path / "a")
        == 0
    )
    evaluator = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())["evaluator"]
    expected = {"nodes_per_stage": [2], "channels": [4]}
    assert evaluator["init_args"]["build"] == {"class_path": "oneshot.discrete.GeneticCNNSpace", "init_args": expected}
    for number in (1, 0):
        wrong = [f"--evaluator.init_args.epochs={number}", "--evaluator.init_args.epochs.init_args.number=3"]
        assert run("--config", config, *wrong, "--out", tmp_path / "b") == 1
        message = "epochs.init_args.number must be an argument of an object; --evaluator.init_args.epochs"
        assert f"{message} is {number}" in capsys.readouterr().err


def test_a_table_has_no_network_to_pick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = table(tmp_path) | {"evaluations": 40}
    assert run("--config", write(config, tmp_path / "study.yaml"), "--out", tmp_path / "run") == 0
    capsys.readouterr()
    assert main(["pick", str(tmp_path / "run")]) == 1
    assert "keeps no networks to export; the architecture is" in capsys.readouterr().err
    assert main(["derive", str(tmp_path / "run")]) == 1
    assert "is a study; 'oneshot pick' takes its networks" in " ".join(capsys.readouterr().err.split())
    assert main(["pick", str(tmp_path / "run"), "--at-most", "accuracy=3"]) == 1
    assert "A bound must be on what is minimised; accuracy is maximised here" in capsys.readouterr().err
    assert main(["pick", str(tmp_path / "run"), "--latency", "3"]) == 1
    assert "must be on a metric of this study, accuracy; got latency" in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_not_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray")
    config, out = write(table(tmp_path), tmp_path / "study.yaml"), tmp_path / "run"
    elsewhere = ("--ray", "127.0.0.1:9", "--workers", 1)
    assert run("--config", config, "--out", out, *elsewhere) == 1
    assert "There is no Ray cluster at '127.0.0.1:9'" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    assert run("--config", config, "--out", out) == 0
    assert run("--resume", "--out", out, "--evaluations", 9, *elsewhere) == 1
    assert run("--resume", "--out", out, "--evaluations", 9) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--strategy.class_path", "oneshot.discrete.Magic"],
            "can be imported; got 'oneshot.discrete.Magic'",
            id="class",
        ),
        pytest.param(["--strategy.class_path", "Magic"], "can be imported; got 'Magic'", id="no module"),
        pytest.param(
            ["--strategy.class_path", "oneshot.discrete.GraphNetwork"],
            "must be a class that is a SearchStrategy, or a function that returns one",
            id="no strategy",
        ),
        pytest.param(
            ["--strategy", "oneshot.discrete.Magic"], "can be imported; got 'oneshot.discrete.Magic'", id="bare class"
        ),
        pytest.param(["--strategy.init_args.seed", "x"], "seed: must be a whole number; got x.", id="type"),
        pytest.param(["--strategy.init_args.sead", "1"], "Option 'sead' is not accepted", id="misspelt"),
        pytest.param(["--strategy.sead", "1"], "--strategy must have a class_path, and may have init_args", id="place"),
        pytest.param(
            ["--strategy.init_args.seed"], "--strategy.init_args.seed must be followed by a value", id="no value"
        ),
        pytest.param(["--objectives", "[max beauty]"], "which are accuracy; got beauty", id="metric"),
        pytest.param(["--objectives", "[up accuracy]"], "must read like 'max accuracy'", id="direction"),
        pytest.param(["--evaluations", "0"], "evaluations must be above 0", id="budget"),
        pytest.param(["--timeout", "3"], "workers must be at least 1: workers=1", id="timeout"),
    ],
)
def test_wrong_options_are_one_clear_line_and_write_nothing(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(table(tmp_path), tmp_path / "study.yaml")
    assert run("--config", config, "--out", tmp_path / "run", *options) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_folder_is_not_written_over_and_a_study_goes_on_as_it_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(table(tmp_path), tmp_path / "study.yaml")
    assert run("--config", config, "--out", tmp_path / "run") == 0
    assert run("--config", config, "--out", tmp_path / "run") == 1
    assert "exists. Choose another with --out, or replace it with --overwrite" in capsys.readouterr().err
    assert run("--resume", "--out", tmp_path / "run", "--strategy.init_args.seed", "5") == 1
    assert "must be those of the beginning; strategy.init_args.seed was " in capsys.readouterr().err
    assert run("--resume", "--out", tmp_path / "run", "--evaluations", 8) == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["evaluations"] == 8, "if it is killed"
    assert run("--resume", "--out", tmp_path / "nowhere") == 1
    assert "has no config.yaml. Name its folder" in capsys.readouterr().err
    assert run("--config", config, "--out", tmp_path / "run", "--overwrite") == 0
    with pytest.raises(ValueError, match="made by 'oneshot discrete'; .*nowhere is none"):
        read_study(tmp_path / "nowhere")


def test_an_evaluator_in_a_file_of_the_folder_one_is_in_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "an_own_table.py").write_text(
        """
from oneshot.discrete import TabularEvaluator
from oneshot.supernets import Choice, SearchSpace, SubnetConfig

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b")),))


def table(path: str) -> TabularEvaluator:
    return TabularEvaluator.from_csv(path, SPACE, lambda arch: SubnetConfig("toy", {"layer": [arch]}), ["error"])
"""
    )
    (tmp_path / "t.csv").write_text("arch,error\na,2\nb,1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path not in ("", str(tmp_path))])
    strategy = "{class_path: oneshot.discrete.GridSearch}"
    evaluator = "{class_path: an_own_table.table, init_args: {path: t.csv}}"
    options = ["--objectives", "[min error]", "--evaluations", "2", "--out"]
    assert run("--strategy", strategy, "--evaluator", evaluator, *options, "run") == 0
    assert read_study("run").best.result.metrics == {"error": 1.0}
    bare = ["--strategy", "oneshot.discrete.GridSearch", "--evaluator", "an_own_table.table"]
    assert run(*bare, "--evaluator.init_args.path", "t.csv", *options, "bare") == 0
    assert read_study("bare").best.result.metrics == {"error": 1.0}
    assert "oneshot pick" not in capsys.readouterr().out, "a table has no networks"


@pytest.mark.parametrize(("evaluations", "population", "said"), [(4, 4, True), (6, 4, False), (6, 100, True)])
def test_a_budget_that_makes_a_strategy_random_search_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], evaluations: int, population: int, said: bool
) -> None:
    options = {"population": population, "sample": 2}
    strategy = {"class_path": "oneshot.discrete.RegularizedEvolution", "init_args": options}
    config = write({**table(tmp_path), "strategy": strategy, "evaluations": evaluations}, tmp_path / "study.yaml")

    assert run("--config", config, "--out", tmp_path / "run") == 0

    words = " ".join(capsys.readouterr().out.split())
    assert (f"its first {population} architectures at random" in words) == said
    assert ("this is random search. Give the study more evaluations" in words) == said


def test_what_a_file_leaves_out_of_a_controller_stays_as_in_the_paper() -> None:
    def controller(**init_args: Any) -> object:
        given = {"class_path": "oneshot.discrete.PPO", "init_args": init_args}
        return build_object("strategy", given, {"space": SPACE})

    settings = controller(controller={"layers": 3}).controller.settings  # type: ignore[attr-defined]
    assert (settings.layers, settings.hidden, settings.init) == (3, 100, 0.1)
    for wrong in ({"hidden": 50}, {"controller": {"hiden": 50}}):  # the first was an argument of its own
        with pytest.raises(ValueError, match="does not accept option 'hiden'|Option 'hidden' is not accepted"):
            controller(**wrong)


def test_a_strategy_sees_proxies_that_are_scored_once_also_when_the_study_goes_on(tmp_path: Path) -> None:
    small = {"channels": 4, "cells_per_stage": 1, "in_channels": 1, "image_size": 8}
    build = {"class_path": "oneshot.supernets.NASBench201Supernet", "init_args": small}
    scorer = {"build": build, "names": ["params", "naswot"], "samples": 4, "file": str(tmp_path / "scores/own.jsonl")}
    features = {
        "class_path": "oneshot.proxies.ProxyFeatures",
        "init_args": {
            "scorer": {"class_path": "oneshot.proxies.ArchitectureScorer", "init_args": scorer},
            "references": 4,
        },
    }
    arguments = {"initial": 3, "batch": 2, "pool": 8, "features": features}
    config = {**table(tmp_path), "strategy": {"class_path": "oneshot.discrete.GaussianProcess", "init_args": arguments}}
    whole = {**config, "evaluations": 8}
    assert run("--config", write(whole, tmp_path / "study.yaml"), "--out", tmp_path / "whole") == 0
    scored = (tmp_path / "scores/own.jsonl").read_text().splitlines()
    assert len(scored) == len(set(scored)) > 15
    assert run("--config", write(config, tmp_path / "study.yaml"), "--out", tmp_path / "parts") == 0
    assert run("--resume", "--out", tmp_path / "parts", "--evaluations", 8) == 0
    first, second = (read_study(tmp_path / name).evaluated for name in ("whole", "parts"))
    assert [record.proposal.config for record in first] == [record.proposal.config for record in second]
    assert (tmp_path / "scores/own.jsonl").read_text().splitlines() == scored


def test_a_latency_is_an_objective_and_sizes_are_those_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = {"class_path": "oneshot.supernets.NASBench201Supernet"}
    build["init_args"] = {"channels": 4, "cells_per_stage": 1}
    arguments: dict[str, Any] = TRAINING["evaluator"]["init_args"]
    trainer = {"accelerator": "cpu", "limit_train_batches": 1}
    config = {
        "strategy": {"class_path": "oneshot.discrete.RandomSearch"},
        "evaluator": {**TRAINING["evaluator"], "init_args": {**arguments, "build": build, "trainer": trainer}},
        "objectives": ["min error", "min latency"],
        "evaluations": 2,
        "retries": 0,
    }
    out = tmp_path / "a study"
    assert run("--config", write(config, tmp_path / "study.yaml"), "--out", out) == 0
    said = capsys.readouterr().out
    assert "Note: latency is measured on this machine" in said
    assert said.rstrip().endswith(f"Next: oneshot pick '{out}' --knee")
    study = read_study(out)
    assert [str(objective) for objective in study.objectives] == ["min error", "min latency"]
    latencies = [record.result.metrics["latency"] for record in study.evaluated]
    assert len(latencies) == 2 and min(latencies) > 0
    network = study.evaluator.network(study.best.proposal)
    assert (network.num_classes, network.input_shape) == (3, (1, 8, 8))
    written = yaml.safe_load((out / "config.yaml").read_text())["evaluator"]["init_args"]["latency"]
    assert written == {"class_path": "oneshot.discrete.MeasuredLatency"}
    assert main(["pick", str(out), "--max-error", "1", "--formats", "--no-measure"]) == 0
    assert f"{min(latencies):.5g}" in capsys.readouterr().out, "the least latency with at most this error"
    assert run("--config", tmp_path / "study.yaml", "--out", out, "--resume") == 0
