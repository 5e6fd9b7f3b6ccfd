"""What an earlier release has written is read and resumed. See tests/data/earlier_release/README.md."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import oneshot
from oneshot.cli import main as cli
from oneshot.cost import LatencyTable
from oneshot.discrete import GraphNetwork
from oneshot.supernets import NASBenchMacroSupernet

pytestmark = pytest.mark.filterwarnings("ignore")

WRITTEN = Path(__file__).parent / "data/earlier_release"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all files, and the current folder: what a command writes stays out of the checkout."""
    shutil.copytree(WRITTEN, tmp_path / "written")
    monkeypatch.chdir(tmp_path / "written")
    return tmp_path / "written"


def run(*words: str) -> None:
    assert cli.main(list(words)) == 0


def test_an_export_is_loaded_and_computes_the_same(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = oneshot.load("exported").eval()
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession("exported/model.onnx", providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(network(images).numpy(), theirs, atol=1e-5)


def test_an_export_that_names_a_module_that_has_moved_is_loaded(folder: Path) -> None:
    assert "oneshot.discrete.graph.GraphNetwork" in (folder / "exported_graph/subnet.json").read_text(encoding="utf-8")
    assert isinstance(oneshot.load("exported_graph"), GraphNetwork)


@pytest.mark.parametrize("resumed_with", [pytest.param("search.yaml", marks=pytest.mark.nightly), None])
def test_a_run_whose_configuration_names_modules_that_have_moved_goes_on(
    folder: Path, resumed_with: str | None
) -> None:
    """Users may name classes by the module that defines them."""
    path = folder / "killed_search/config.yaml"
    written = path.read_text(encoding="utf-8")
    # No module has moved that runs of this kind are likely to name; a name that is nowhere stands for one.
    path.write_text(written.replace("oneshot.DARTS\n", "oneshot.searches.darts.DARTS\n"), encoding="utf-8")
    (folder / "killed_search/sha256sums.txt").unlink()
    run("derive", "killed_search")
    run("search", *(["--config", resumed_with] if resumed_with else []), "--out", "killed_search", "--resume")


def test_a_retraining_is_evaluated_and_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    then = json.loads((folder / "retrained/results.json").read_text(encoding="utf-8"))
    run("evaluate", "retrained")
    assert f"{then['test/accuracy']:.4f}" in capsys.readouterr().out
    run("export", "retrained", "--formats", "--no-measure")
    assert oneshot.load("retrained/export").config == oneshot.load("exported").config


def test_a_finished_search_is_derived_and_shown(folder: Path) -> None:
    then = (folder / "search/subnet.json").read_text(encoding="utf-8")
    run("derive", "search", "--out", "again.json")
    assert (folder / "again.json").read_text(encoding="utf-8") == then
    run("show", "search", "--out", "cells.png")


@pytest.mark.parametrize("kind", ["front", "study"])
def test_a_network_is_picked_of_a_front_and_of_a_study(folder: Path, kind: str) -> None:
    run("pick", kind, "--knee", "--formats", "--no-measure")
    assert oneshot.load(folder / kind / "picked").config is not None


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_course(one: Path, other: Path, logged: int) -> None:
    """The same rows, and close numbers in those before the kill and in two after it.

    Not equal numbers, and not to the end: another machine, or another place in memory, rounds otherwise, and a search
    makes more of it step by step.
    """
    ours, theirs = metrics(one), metrics(other)
    assert len(ours) == len(theirs) > logged + 2
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert (a[name] == "") == (b[name] == ""), (number, name)
            if a[name] and (number < logged + 2 or name in ("epoch", "step")):
                assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-2, abs=1e-3), (number, name)


def test_a_search_that_was_killed_goes_on_to_its_end(folder: Path) -> None:
    logged = len(metrics(folder / "killed_search"))
    run("search", "--config", "search.yaml", "--out", "killed_search", "--resume")
    assert_same_course(folder / "killed_search", folder / "search", logged)
    run("derive", "killed_search", "--out", "again.json")
    assert (folder / "again.json").read_text() == (folder / "killed_search/subnet.json").read_text()


@pytest.mark.parametrize(
    ("study", "config"),
    [
        ("study", "discrete.yaml"),
        pytest.param("study", None, marks=pytest.mark.nightly),
        pytest.param("policy_study", "policy.yaml", marks=pytest.mark.nightly),
        ("policy_study", None),
    ],
)
def test_a_study_that_was_killed_asks_what_it_would_have_asked(folder: Path, study: str, config: str | None) -> None:
    asked_before = (folder / f"killed_{study}/log.jsonl").read_text(encoding="utf-8").count('"event": "ask"')
    run("discrete", *(["--config", config] if config else []), "--out", f"killed_{study}", "--resume")

    def asked(name: str) -> list[object]:
        lines = map(json.loads, (folder / name / "log.jsonl").read_text(encoding="utf-8").splitlines())
        return [(line["number"], line["config"]) for line in lines if line["event"] == "ask"]

    ours, theirs = asked(f"killed_{study}"), asked(study)
    assert len(ours) == len(theirs) == 10 > asked_before
    assert ours[:6] == theirs[:6], "later ones depend on accuracies, which another machine may round otherwise"


@pytest.mark.nightly
def test_a_search_of_a_front_that_was_killed_goes_on_to_its_end(folder: Path) -> None:
    run("pareto", "--config", "pareto.yaml", "--out", "killed_front", "--resume")
    history = json.loads((folder / "killed_front/history.json").read_text(encoding="utf-8"))
    theirs = json.loads((folder / "front/history.json").read_text(encoding="utf-8"))
    assert [turn["evaluations"] for turn in history] == [turn["evaluations"] for turn in theirs]
    run("pick", "killed_front", "--knee", "--formats", "--no-measure")


def test_a_latency_table_is_read_and_knows_its_supernet(folder: Path) -> None:
    supernet = NASBenchMacroSupernet(channels=2, num_classes=3, in_channels=1, image_size=8)
    table = LatencyTable.load("latency.json")
    assert table.cost_of(supernet).costs(supernet.space.sample_matrix(5, 0)).min() > 0
    with pytest.raises(ValueError, match="other networks"):
        table.cost_of(NASBenchMacroSupernet(channels=4, num_classes=3, in_channels=1, image_size=8))
