"""The command ``oneshot rank``."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from oneshot.cli.main import main
from oneshot.data import Digits
from oneshot.proxies import AZ_NAS, ArchitectureScorer, az_nas, combined
from oneshot.supernets import NASBench201Supernet, SubnetConfig

ROOT = Path(__file__).parents[2]
CELL = ["--supernet", "oneshot.supernets.NASBench201Supernet", "--supernet.channels=4", "--supernet.cells_per_stage=1"]
SMALL = ["rank", *CELL, "--supernet.image_size=8", "--samples=5", "--batch-size=8"]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_is_written_is_what_python_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", "oneshot.data.Digits", "--names", "params", "naswot", "snip", "--by", "naswot"]
    assert main(["rank", *CELL, *data, "--samples=5", "--batch-size=8", "--out", str(tmp_path / "five")]) == 0
    rows = read(tmp_path / "five.csv")
    assert len(rows) == 5 and [row["rank"] for row in rows] == list("12345")
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8)
    scorer = ArchitectureScorer(supernet, ["params", "naswot", "snip"], Digits(), samples=8)
    for row in rows:
        config = SubnetConfig.from_dict(json.loads(row["architecture"]))
        assert {name: repr(value) for name, value in scorer(config).items()} == {n: row[n] for n in scorer.names}
    naswot = [float(row["naswot"]) for row in rows]
    assert naswot == sorted(naswot, reverse=True)
    with Image.open(tmp_path / "five.png") as picture:
        assert min(picture.size) > 300
    text = said(capsys)
    assert "5 random architectures of nasbench201, by naswot" in text and "Rank correlation with params" in text
    assert "Without --table it is not known how good any of them is" in text and "random numbers" not in text


def test_az_nas_ranks_by_its_four_parts(tmp_path: Path) -> None:
    out = tmp_path / "az.csv"
    assert main([*SMALL, "--names", "az_nas", "naswot", "--by", "az_nas", "--out", str(out)]) == 0
    rows = [{name: float(row[name]) for name in (*AZ_NAS, "az_nas") if row[name]} for row in read(out)]
    scores = az_nas([{name: row.get(name, float("nan")) for name in AZ_NAS} for row in rows])
    assert [row["az_nas"] for row in rows] == pytest.approx(scores, rel=1e-12) and scores == sorted(
        scores, reverse=True
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cells, and how many convolutions of 3 x 3 they have as their accuracy."""
    space = NASBench201Supernet(channels=4, cells_per_stage=1).space
    every = space.decode(space.check_genes([[i // 5**k % 5 for k in range(6)] for i in range(5**6)]))
    path = tmp_path_factory.mktemp("table") / "table.csv"
    lines = [f"{space.arch_string(config)},{sum('3x3' in op for op in config['cell'])}" for config in every]
    path.write_text("arch,accuracy\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_scores_are_compared_with_a_table(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--names", "params", "naswot", "--table", str(table), "--metric", "accuracy"]
    assert main([*SMALL, *given, "--samples=8", "--out", str(tmp_path / "table.png")]) == 0
    text = said(capsys)
    assert "Rank correlation with accuracy" in text and "have a mean accuracy of" in text
    by_class = {"class_path": "oneshot.discrete.evaluators.tables.nas_bench_201"}
    by_class["init_args"] = {"path": str(table), "metrics": ["accuracy"]}  # type: ignore[assignment]  # YAML
    assert main([*SMALL, "--names", "params", "--table", json.dumps(by_class), "--samples=8"]) == 0
    assert "Rank correlation with accuracy" in said(capsys)


def test_the_configuration_of_the_experiment_is_ranked(capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "experiments/proxies/digits.yaml"
    assert main(["rank", "--config", str(path), "--samples", "3", "--supernet.channels", "4"]) == 0
    assert "3 random architectures of nasbench201, by naswot and synflow" in said(capsys)
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))["names"]) >= {"params", "macs"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--names", "naswit"], "got 'naswit'. Did you mean 'naswot'?", id="name"),
        pytest.param(["--names", "snip"], "snip take the loss of labelled data; give data=", id="no labels"),
        pytest.param(["--by", "synfow"], "got 'synfow'. Did you mean 'synflow'?", id="order"),
        pytest.param(["--samples", "1"], "--samples must be at least 2", id="one"),
        pytest.param(["--table", "nowhere.csv"], "There is no table nowhere.csv", id="no table"),
        pytest.param(["--table", "{class_path: oneshot.discrete.nowhere}"], "--table must be a class", id="no class"),
        pytest.param(["--options", "{zico: {batches: 3}}"], "options of 'zico'", id="options"),
    ],
)
def test_options_that_do_not_do(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *words]) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_table_of_another_space_or_without_the_metric(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ["rank", "--supernet", "oneshot.supernets.FBNetSupernet", "--table", str(table)]
    assert main(other) == 1
    assert "the space is 'fbnet'. Name what reads its table" in " ".join(capsys.readouterr().err.split())
    assert main([*SMALL, "--table", str(table), "--metric", "acuracy"]) == 1
    assert "no column 'acuracy'" in " ".join(capsys.readouterr().err.split())
    assert combined([{"a": 1.0}], ["a"]) == [0.0]
