"""The command line, end to end on digits, and what it says when used wrongly."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from oneshot.callbacks.checkpoint import keep
from oneshot.cli import compare
from oneshot.cli.discrete import build
from oneshot.cli.main import _reason, main
from oneshot.cli.networks import network_named
from oneshot.cli.next_steps import to_retrain
from oneshot.cli.pick import _finetuned
from oneshot.cli.run import read_run
from oneshot.cli.trainer import RunCLI
from oneshot.cost import LatencyTable
from oneshot.data import Digits
from oneshot.deploy.export import export_subnet, load
from oneshot.engine.module import SearchModule
from oneshot.evaluation import inherited
from oneshot.evaluation.images import calibration_images
from oneshot.evaluation.recalibration import recalibrate
from oneshot.nat.nat import NAT
from oneshot.supernets import PUBLISHED, MobileNetV3Supernet, NASBench201Supernet
from oneshot.supernets.nasbench201 import NASBench201Space
from oneshot.supernets.nasnet import NASNetNetwork, NASNetSpace
from oneshot.supernets.space import load_config
from tests.processes import run_python

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SMALL_SEARCH = [
    "--config",
    str(EXPERIMENTS / "digits/search.yaml"),
    "--trainer.max_epochs=2",
    "--trainer.limit_train_batches=3",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
    "--model.init_args.supernet.init_args.channels=4",
]
SMALL_RETRAIN = [
    "--config",
    str(EXPERIMENTS / "digits/retrain.yaml"),
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=3",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]


@pytest.fixture(scope="module")
def search_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "search"
    assert main(["search", *SMALL_SEARCH, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def retrain_run(search_run: Path) -> Path:
    folder = search_run.with_name("retrain")
    assert main(["retrain", str(search_run), *SMALL_RETRAIN, "--out", str(folder)]) == 0
    return folder


def test_a_search_leaves_a_readable_run(search_run: Path) -> None:
    names = {path.name for path in search_run.iterdir()}
    assert {"config.yaml", "metrics.csv", "subnet.json", "cells.png", "checkpoints"} <= names
    assert {"report.html", "network.json", "commands.json"} <= names
    assert "Architecture weights over time" in (search_run / "report.html").read_text(encoding="utf-8")
    assert json.loads((search_run / "subnet.json").read_text())["space"] == "darts"
    names = sorted(path.name for path in (search_run / "checkpoints").iterdir())
    assert names == ["checksums.txt", "last.ckpt", "previous.ckpt"]


def test_derive_reads_the_checkpoint_and_agrees_with_the_search(search_run: Path, tmp_path: Path) -> None:
    assert main(["derive", str(search_run), "--out", str(tmp_path / "again.json")]) == 0
    assert (tmp_path / "again.json").read_text() == (search_run / "subnet.json").read_text()


def test_a_network_is_measured_only_for_a_target(search_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (search_run / "subnet.json").read_text()
    assert main(["derive", str(search_run), "--measure"]) == 1
    assert "There is no target to meet; give the search a CostPenalty(table, 'target'" in capsys.readouterr().err
    assert (search_run / "subnet.json").read_text() == before


@pytest.mark.filterwarnings("ignore:.*is doubtful")  # where the machine does other work meanwhile
def test_a_network_is_measured_until_it_meets_the_target_of_its_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ["oneshot.supernets.NASBench201Supernet", "--supernet.channels=4", "--supernet.cells_per_stage=1"]
    sizes = ["--supernet.image_size=8", "--supernet.in_channels=1"]
    table, run = tmp_path / "table.json", tmp_path / "run"
    assert main(["measure", "--supernet", *space, *sizes, "--networks", "12", "--out", str(table)]) == 0
    model = LatencyTable.load(table).cost(NASBench201Space())
    target = float(np.median(model.costs(model.space.sample_matrix(200, 0))))
    supernet = {"class_path": space[0], "init_args": {"channels": 4, "cells_per_stage": 1}}
    settings = {"cost": str(table), "form": "target", "target": target, "allow_noisy": True}
    penalty = {"class_path": "oneshot.cost.CostPenalty", "init_args": settings}
    method = {"class_path": "oneshot.GDAS", "init_args": {"supernet": supernet, "penalty": penalty}}
    config = yaml.safe_load((EXPERIMENTS / "digits/search.yaml").read_text()) | {"model": method}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(tmp_path / "search.yaml"), *SMALL_SEARCH[2:-1]]
    assert main(["search", *options, "--out", str(run)]) == 0
    derived = load_config(run / "subnet.json")
    search, _ = read_run(run)
    assert isinstance(search, SearchModule)
    mean = float(model.expected(search.probabilities()))  # a search this short may not have reached the target
    assert 0.94 * min(mean, target) <= model.cost(derived) <= target
    capsys.readouterr()
    code, said = main(["derive", str(run), "--measure"]), capsys.readouterr().out
    assert "ms measured" in said
    assert code == (3 if "NOT met" in said else 0)  # which of them is up to the machine


def test_errors_of_options_are_one_line() -> None:
    message = (
        "Does not validate against any of the Union subtypes\nSubtypes: [A, None]\nErrors:\n  - No target.\n"
        "  - Expected a <class 'NoneType'>\nGiven value type: x\nGiven value: y"
    )
    assert _reason(message) == "No target."
    assert _reason("plain") == "plain"


def test_a_bare_config_of_the_nasnet_space_is_its_network(tmp_path: Path) -> None:
    config = NASNetSpace().sample(0)
    (tmp_path / "subnet.json").write_text(config.to_json())
    network = network_named(str(tmp_path / "subnet.json"), inherit=False)
    assert isinstance(network, NASNetNetwork) and network.config == config


@pytest.mark.nightly
def test_a_cell_found_on_digits_is_retrained_deeper_and_wider_on_larger_images(tmp_path: Path) -> None:
    quick = ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.limit_train_batches=3"]
    quick += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    quick += ["--trainer.log_every_n_steps=1"]
    space = {"class_path": "oneshot.supernets.NASNetSpace", "init_args": {"blocks": 2}}
    sizes = {"channels": 4, "cells_per_stage": 1, "space": space}
    supernet = {"class_path": "oneshot.supernets.NASNetSupernet", "init_args": sizes}
    method = {"class_path": "oneshot.RandomSharing", "init_args": {"supernet": supernet, "candidates": 4}}
    method["init_args"]["finalists"] = 2
    config = yaml.safe_load((EXPERIMENTS / "digits/search.yaml").read_text()) | {"model": method}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(config))
    assert main(["search", "--config", str(tmp_path / "search.yaml"), *quick, "--out", str(tmp_path / "s")]) == 0

    images = {"input_shape": [3, 32, 32], "batch_size": 8, "val_fraction": 0.25}
    data = {"class_path": "oneshot.data.FakeImages", "init_args": images}
    network = {"channels": 8, "cells_per_stage": 2, "in_channels": 3, "image_size": 32, "auxiliary": True}
    options = [f"--model.network.init_args.{name}={value}" for name, value in network.items()]
    options += ["--model.drop_path=0.2", "--model.drop_path_every=step", f"--data={json.dumps(data)}"]
    assert main(["retrain", str(tmp_path / "s"), *options, *quick, "--out", str(tmp_path / "r")]) == 0
    assert main(["export", str(tmp_path / "r"), "--formats", "torch_export"]) == 0
    exported = load(tmp_path / "r/export")
    assert exported.config == load_config(tmp_path / "s/subnet.json")
    assert len(exported.cells) == 8 and exported(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_retrain_records_its_network_and_test_metrics(retrain_run: Path, search_run: Path) -> None:
    config = yaml.safe_load((retrain_run / "config.yaml").read_text())
    assert config["model"]["network"]["class_path"].endswith("DARTSNetwork")
    assert 0 <= json.loads((retrain_run / "results.json").read_text())["test/accuracy"] <= 1


def test_an_option_of_retrain_changes_the_size_of_the_network(search_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "wide"
    wide = ["--model.network.init_args.channels=6", "--out", str(out)]
    assert main(["retrain", str(search_run), *SMALL_RETRAIN, *wide]) == 0
    assert (
        torch.load(out / "checkpoints/last.ckpt", weights_only=True)["state_dict"]["network.stem.conv.weight"].shape[0]
        == 18
    )


def test_retraining_from_inherited_weights_starts_where_the_search_ended(search_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "inherit"
    still = ["--inherit", "--model.lr=1e-12", "--model.weight_decay=0", "--out", str(out)]
    assert main(["retrain", str(search_run), *SMALL_RETRAIN, *still]) == 0
    searched = torch.load(search_run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    trained = torch.load(out / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(
        trained["network.stem.conv.weight"], searched["supernet.stem.conv.weight"], rtol=0, atol=1e-6
    )


def test_a_network_learns_from_that_of_another_run(
    search_run: Path, retrain_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "taught"
    assert main(["retrain", str(search_run), *SMALL_RETRAIN, "--teacher", str(retrain_run), "--out", str(out)]) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"Next: oneshot export {out}")
    saved = torch.load(out / "checkpoints/last.ckpt", weights_only=True)
    assert saved["oneshot"]["facts"]["teacher"] == "0.9 of the loss, at 4"
    alone = torch.load(retrain_run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    name = "network.classifier.weight"
    assert not torch.allclose(saved["state_dict"][name], alone[name], rtol=1e-3), "the same seed without a teacher"
    assert yaml.safe_load((out / "config.yaml").read_text())["teacher"] == str(retrain_run)
    assert "teacher" not in yaml.safe_load((retrain_run / "config.yaml").read_text())
    assert main(["retrain", str(search_run), "--resume", "--out", str(out), "--teacher", str(search_run)]) == 1
    assert f"teacher was {retrain_run}, is {search_run}" in capsys.readouterr().err
    assert main(["evaluate", str(out), "--trainer.enable_progress_bar=false"]) == 0


def test_a_teacher_of_other_data_is_refused(
    search_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    export_subnet(supernet.extract(supernet.space.sample(0)), tmp_path / "other", formats=[])
    begin = ["retrain", str(search_run), *SMALL_RETRAIN, "--out", str(tmp_path / "new"), "--teacher"]
    for teacher, message in (
        ("other", "other: A teacher must have the num_classes of the network that learns; got 3 and 10."),
        ("othr", "/othr is not there. Did you mean '.*/other'"),
        ("", "is none of them."),
    ):
        assert main([*begin, str(tmp_path / teacher)]) == 1
        said = capsys.readouterr().err
        assert re.search(message, said) and said.splitlines()[-1].startswith("oneshot retrain: --teacher "), said
    assert not (tmp_path / "new").exists()


def test_what_comes_after_a_search_is_a_command_that_parses(
    search_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = yaml.safe_load((search_run / "config.yaml").read_text())
    words = shlex.split(to_retrain(search_run, run["data"]))[2:]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert stop.value.code == 0 and config["trainer"]["max_epochs"] == 100
    searched = run["data"]["init_args"]["data"]
    assert config["data"]["class_path"] == searched["class_path"]
    for name, value in searched["init_args"].items():
        assert config["data"]["init_args"][name] == value, name


@pytest.mark.parametrize(
    "ema",
    [[], pytest.param(["--model.ema_decay=0.9"], marks=pytest.mark.nightly)],
    ids=["weights", "moving-average"],
)
def test_evaluate_repeats_the_test_of_a_retraining_and_changes_nothing(
    ema: list[str], search_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert (
        main(
            [
                "retrain",
                str(search_run),
                *SMALL_RETRAIN,
                "--trainer.limit_train_batches=20",
                "--trainer.max_epochs=4",
                *ema,
                "--out",
                str(run),
            ]
        )
        == 0
    )
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["evaluate", str(run), "--trainer.enable_progress_bar=false", "--data.init_args.batch_size=359"]) == 0
    accuracy = json.loads((run / "results.json").read_text())["test/accuracy"]
    assert accuracy > 0.2 and f"{accuracy:.4f}" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_search_and_a_retraining_export_and_evaluate(
    search_run: Path, retrain_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(search_run), "--out", str(tmp_path / "a"), "--formats"]) == 0
    assert main(["export", str(retrain_run), "--out", str(tmp_path / "b"), "--formats", "torch_export"]) == 0
    assert main(["show", str(search_run / "subnet.json"), "--out", str(tmp_path / "subnet.png")]) == 0
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    assert manifest["metrics"] == json.loads((retrain_run / "results.json").read_text())
    assert manifest["config"] == json.loads((search_run / "subnet.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "b"), *SMALL_RETRAIN]) == 0
    assert f"{manifest['metrics']['test/accuracy']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "target", ["DARTS_V2", "NASNet-A", "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|"]
)
def test_show_draws_published_architectures(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", target, "--out", str(tmp_path / "cells.svg")]) == 0
    assert (tmp_path / "cells.svg").stat().st_size > 1000
    if target == "DARTS_V2":
        assert "3,349,342" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", *SMALL_SEARCH, "--out", "{run}"], "The folder of a run must be new; .* exists.*--overwrite"),
        (["search", *SMALL_SEARCH, "--trainer.max_steps=5", "--out", "{new}"], "max_steps counts .*max_epochs"),
        (["search", *SMALL_SEARCH, "--trainer.gradient_clip_val=1", "--out", "{new}"], "pass grad_clip to DARTS"),
        (
            ["search", *SMALL_SEARCH, "--model.init_args.supernet.init_args.num_classes=9", "--out", "{new}"],
            "num_classes of SearchDataModule is 10, DARTSSupernet was built for 9",
        ),
        (["derive", "{new}"], "A run must be a folder with config.yaml"),
        (["evaluate", "{run}"], "is a search. Retrain it first"),
        (["retrain"], "The first argument of oneshot retrain must be SOURCE"),
        (["show", "DARTS_V9"], "got 'DARTS_V9', which is none of these"),
        (["export", "{run}", "--out", "{run}", "--formats"], "exists"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "says",
)
def test_mistakes_get_one_line_and_leave_nothing(
    arguments: list[str], message: str, search_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(search_run.rglob("*"))
    names = {"{run}": str(search_run), "{new}": str(tmp_path / "new")}
    assert main([names.get(argument, argument) for argument in arguments]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert sorted(search_run.rglob("*")) == before
    assert not (tmp_path / "new").exists()


def test_a_folder_of_images_needs_no_sizes_in_the_configuration(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("blue", "red", "green"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 255, (20, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    data = ["--data.init_args.data.class_path=oneshot.data.ImageFolder", "--data.init_args.data.init_args.batch_size=8"]
    root = f"--data.init_args.data.init_args.root={tmp_path / 'images'}"
    small = [*SMALL_SEARCH[2:-1], "--model.init_args.supernet.init_args.channels=4", "--trainer.max_epochs=1"]
    config = ["--config", str(EXPERIMENTS / "cifar10/darts_first_order.yaml")]
    assert main(["search", *config, *small, *data, root, "--out", str(tmp_path / "run")]) == 0
    supernet = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["model"]["init_args"]["supernet"]["init_args"]
    assert (supernet["num_classes"], supernet["in_channels"], supernet["image_size"]) == (3, 3, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "config.yaml must be the configuration of a run"), ("a: 1", "KeyError.*model"), ("3", "TypeError")],
    ids=["broken", "foreign", "number"],
)
def test_a_foreign_run_is_named(content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(content)
    assert main(["derive", str(tmp_path)]) == 1
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


def test_a_damaged_checkpoint_is_named(search_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"junk")
    assert main(["derive", str(search_run), "--checkpoint", str(tmp_path / "last.ckpt")]) == 1
    assert "last.ckpt is not a checkpoint of this run, or is damaged" in capsys.readouterr().err


def test_a_genotype_is_shown_as_repositories_print_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cell = "[('skip_connect', np.int64(0)), ('sep_conv_3x3', 1)] * 1"
    text = str(PUBLISHED["DARTS_V2"]).replace("normal_concat", "# of the last epoch\n normal_concat")
    assert main(["show", f"genotype = {text}"]) == 0
    assert (tmp_path / "genotype.png").stat().st_size > 1000
    assert main(["show", f"Genotype(normal={cell})"]) == 1


def test_a_folder_may_be_called_like_a_genotype(
    search_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(search_run, "Genotype_search")
    assert main(["show", "Genotype_search"]) == 0
    assert (tmp_path / "Genotype_search.png").is_file()


def test_help_names_every_command() -> None:
    result = subprocess.run([sys.executable, "-m", "oneshot", "--help"], capture_output=True, text=True, check=True)
    for command in ("search", "derive", "retrain", "evaluate", "export", "show", "data", "quickstart"):
        assert command in result.stdout


@pytest.mark.parametrize(
    "path", sorted(EXPERIMENTS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(EXPERIMENTS))
)
def test_every_yaml_file_is_understood(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.parent.name == "discrete":
        assert build(yaml.safe_load(path.read_text()), tmp_path).evaluations
        return
    told = yaml.safe_load(path.read_text())
    if path.parent.name == "compare" and "methods" in told:
        monkeypatch.syspath_prepend(path.parent)  # the README begins there
        builder = compare._Builder(compare._parse(["--config", str(path), "--out", str(tmp_path)]))
        labels = [entry.label for entry in builder.entries()]
        assert labels[-1] == "random" and len(set(labels)) == len(labels) > 5
        return
    if path.parent.name in ("compare", "proxies"):
        command = ["rank"] if "names" in told and "trainer" not in told else ["discrete"]
        with pytest.raises(SystemExit) as stop:
            main([*command, "--config", str(path), "--print_config"])
        assert stop.value.code == 0 and yaml.safe_load(capsys.readouterr().out)
        return
    command = ["retrain", "DARTS_V2"] if path.stem == "retrain" else ["search"]
    with pytest.raises(SystemExit) as stop:
        main([*command, "--config", str(path), "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_epochs"] > 0


PUBLISHED_NAT = {  # genes, epochs, what is trained between searches
    "nat": (22, 150, "archive"),
    "encas": (22, 150, "candidates"),
    "msunas": (22, 500, "candidates"),
    "moea": (22, 500, "archive"),
}
ON_A_CPU = ["--trainer.accelerator=cpu", "--trainer.precision=32-true", "--trainer.enable_progress_bar=false"]


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("nat/published/*.yaml")), ids=lambda path: path.stem)
def test_the_published_settings_of_nat_are_objects_that_fit_together(path: Path, tmp_path: Path) -> None:
    genes, epochs, sampler = PUBLISHED_NAT[path.stem]
    resolutions = ["--model.init_args.supernet.init_args.resolutions=[192, 256]"]  # to count two of them only
    options = ["--config", str(path), *ON_A_CPU, *resolutions, "--out", str(tmp_path / "run")]
    cli = RunCLI("pareto", options, model_class=NAT, subclass_mode_model=True)
    search = cli.model
    assert (search.supernet.space.num_genes, search.drawn_from) == (genes, sampler)
    assert search.warmup_epochs + search.iterations * search.adapt_epochs == cli.trainer.max_epochs == epochs
    assert search.supernet.num_classes == cli.datamodule.num_classes == 10
    cli.model.trainer = cli.trainer
    cli.trainer.datamodule = cli.datamodule
    search.setup("fit")  # images of 32 pixels are enlarged, for the settings ask for it
    search.supernet.upsample = False
    with pytest.raises(ValueError, match="must have 256 pixels, the highest resolution .*; they have 32"):
        search.setup("fit")


@pytest.mark.nightly
def test_the_published_settings_of_nat_run_when_they_are_made_small(tmp_path: Path) -> None:
    config = yaml.safe_load((EXPERIMENTS / "nat/published/moea.yaml").read_text())
    images = {"num_classes": 4, "train_size": 80, "test_size": 8, "batch_size": 16, "val_fraction": 0.2}
    config["data"] = {"class_path": "oneshot.data.FakeImages", "init_args": {**images, "input_shape": [3, 32, 32]}}
    config["model"]["init_args"]["supernet"]["init_args"] |= {"resolutions": [32, 64], "widths": [0.1, 0.2]}
    config["model"]["init_args"]["phases"] = [{"epochs": 1, "picks": {"width": [0.1], "stage_*": ["k7_e6"]}}]
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    small = ["warmup_epochs=2", "iterations=1", "adapt_epochs=1", "initial=40", "batch=2", "population=10"]
    options = [f"--model.init_args.{option}" for option in [*small, "generations=3", "calibration_images=16"]]
    out = ["--trainer.max_epochs=3", "--trainer.log_every_n_steps=1", "--out", str(tmp_path / "run")]
    assert main(["pareto", "--config", str(tmp_path / "small.yaml"), *options, *ON_A_CPU, *out]) == 0
    history = json.loads((tmp_path / "run/history.json").read_text())
    assert [row["evaluations"] for row in history] == [40, 42] and history[1]["kind"] == "boosting"


# A front.


@pytest.fixture(scope="module")
def nat_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "nat"
    small = ["iterations=1", "warmup_epochs=1", "initial=12", "batch=3", "population=10", "generations=3"]
    options = [f"--model.init_args.{option}" for option in [*small, "calibration_images=64"]]
    supernet = {"class_path": "oneshot.supernets.NASBenchMacroSupernet", "init_args": {"channels": 4}}
    trainer = ["max_epochs=2", "limit_train_batches=3", "log_every_n_steps=1", "accelerator=cpu"]
    data = ["--data.init_args.image_size=8", *(f"--trainer.{option}" for option in trainer)]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    config = yaml.safe_load((EXPERIMENTS / "nat/digits.yaml").read_text())
    config["model"]["init_args"]["supernet"] = supernet
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    assert main(["pareto", "--config", str(file), *options, *data, *quiet, "--out", str(folder)]) == 0
    return folder


def lines_of_front(run: Path) -> int:
    return sum(row["in_front"] == "1" for row in csv.DictReader((run / "evaluations.csv").read_text().splitlines()))


def test_a_search_for_a_front_leaves_pictures_and_tables(nat_run: Path) -> None:
    names = {path.name for path in nat_run.iterdir()}
    assert {"front.png", "front.html", "evaluations.csv", "archive.json", "history.json", "subnet.json"} <= names
    report = (nat_run / "report.html").read_text(encoding="utf-8")
    assert report.count("oneshot pick") > lines_of_front(nat_run) and "Front of networks" in report
    lines = (nat_run / "evaluations.csv").read_text().splitlines()
    assert len(lines) == 1 + 15 and lines[0].startswith("number,error,macs,params,in_front,layers_0")
    page = (nat_run / "front.html").read_text()
    assert page.count('"c": "') == 15 and "http" not in re.sub("http-equiv|http://www.w3.org/2000/svg", "", page)


def test_a_picked_network_runs_in_a_fresh_process_from_onnx_and_from_load(nat_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "picked"
    assert main(["pick", str(nat_run), "--knee", "--out", str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert {"front/error", "front/macs", "front/params", "val/accuracy"} <= manifest["metrics"].keys()
    assert manifest["metrics"]["front/error"] == pytest.approx(1 - manifest["metrics"]["val/accuracy"], abs=0.02)
    assert manifest["metrics"]["front/macs"] == manifest["macs"]
    tested = json.loads((out / "evaluation.json").read_text())
    right = sum(row[i] for i, row in enumerate(tested["confusion"]))
    assert tested["split"] == "validation" and sum(map(sum, tested["confusion"])) == tested["samples"]
    assert right / tested["samples"] == pytest.approx(manifest["metrics"]["val/accuracy"])
    assert {"report.html", "network.json", "commands.json"} <= {path.name for path in out.iterdir()}
    code = (
        "import sys, numpy, torch, onnxruntime, oneshot\n"
        "x = torch.randn(5, 1, 8, 8)\n"
        "network = oneshot.load(sys.argv[1]).eval()\n"
        "session = onnxruntime.InferenceSession(sys.argv[1] + '/model.onnx')\n"
        "(y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})\n"
        "with torch.no_grad(): print(float(numpy.abs(network(x).numpy() - y).max()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(EXPERIMENTS.parent)}
    result = run_python("-c", code, out, env=environment)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.splitlines()[-1]) < 1e-4


def replace_checkpoint(path: Path, content: object) -> None:
    """Write a checkpoint as a run does, with its checksum."""
    new = path.with_name(".last.ckpt.new")
    torch.save(content, new)
    keep(new)


def test_a_pick_says_that_the_errors_of_the_front_are_of_older_weights(
    nat_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, pick = tmp_path / "run", ["pick", str(tmp_path / "run"), "--knee", "--formats"]
    shutil.copytree(nat_run, run)
    checkpoint = run / "checkpoints/last.ckpt"
    assert main([*pick, "--out", str(tmp_path / "now")]) == 0
    assert "steps ago" not in capsys.readouterr().out
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["nat"]["measured_at"] == saved["global_step"] == 6
    replace_checkpoint(checkpoint, {**saved, "global_step": 8})
    assert main([*pick, "--out", str(tmp_path / "later")]) == 0
    assert "weights of 2 steps ago" in " ".join(capsys.readouterr().out.split())


def test_a_cost_that_is_only_bounded_can_be_asked_for(
    nat_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "picked"
    shutil.copytree(nat_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["init_args"]["constraints"] = {"memory": 1e9}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoint = run / "checkpoints/last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    saved["nat"]["constraints"] = ["memory <= 1e+09 bytes"]
    replace_checkpoint(checkpoint, saved)
    assert main(["pick", str(run), "--memory", "1", "--out", str(out)]) == 1
    assert "No network of the front has memory <= 1; the nearest has error" in capsys.readouterr().err
    assert main(["pick", str(run), "--memory", "1e8", "--out", str(out), "--formats"]) == 0
    assert re.search(r"of the network: 0\.\d+; on the front 0\.\d+", capsys.readouterr().out)


def test_where_evaluations_run_may_change_when_a_search_goes_on(
    nat_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(nat_run, tmp_path / "run")
    again = ["pareto", "--resume", "--out", str(tmp_path / "run")]
    assert main([*again, "--model.init_args.ray_workers=3"]) == 0
    assert main([*again, "--model.init_args.batch=4"]) == 1
    assert "model.init_args.batch was 3, is 4" in capsys.readouterr().err


def test_a_picked_network_is_trained_further_at_its_own_resolution() -> None:
    data = Digits(image_size=16, batch_size=256)
    sizes = {"widths": (0.1,), "depths": (1,), "kernels": (3,), "expansions": (2, 3)}
    supernet = MobileNetV3Supernet(num_classes=10, in_channels=1, stem="cifar", resolutions=(8, 16), **sizes)
    network, seen = supernet.extract(supernet.space.smallest), set()
    network.register_forward_pre_hook(lambda module, args: seen.add(tuple(args[0].shape[1:])))
    before = network.classifier.weight.detach().clone()
    trained = _finetuned(network, data, 1, 0.1)
    assert seen == {(1, 8, 8)} and not torch.equal(trained.classifier.weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param([], "in one way: bounds .* got none", id="nothing"),
        pytest.param(["--knee", "--macs", "1e9"], "got several", id="several"),
        pytest.param(["--macs", "1"], "No network of the front has macs <= 1; the nearest has error", id="infeasible"),
        pytest.param(["--latency", "25"], "objectives of this front are error, macs, params; got 'latency'", id="name"),
        pytest.param(["--near", "macs"], "--near must be NAME=VALUE, such as latency=25; got 'macs'", id="pair"),
        pytest.param(["--max-error", "5"], "must be a share between 0 and 1, 5 % is 0.05; got 5", id="per-cent"),
        pytest.param(["--near", "error=5"], "The error must be a share between 0 and 1", id="near-per-cent"),
        pytest.param(["--macs", "nan"], "A bound must be a finite number; that of macs is nan", id="nan"),
        pytest.param(["--knee", "--finetune", "-1"], "at least 0; got -1", id="epochs"),
    ],
)
def test_what_cannot_be_picked_is_said(
    nat_run: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pick", str(nat_run), *options]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (nat_run / "picked").exists()


def test_the_same_pick_trains_the_same_network(nat_run: Path, tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        torch.manual_seed(len(weights))
        options = ["--knee", "--finetune", "1", "--formats", "--out", str(tmp_path / name)]
        assert main(["pick", str(nat_run), *options]) == 0
        assert (tmp_path / name / "picked.png").stat().st_size > 1000
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_run_that_was_stopped_before_its_first_checkpoint_uses_its_evaluations(
    nat_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = tmp_path / "run", yaml.safe_load((nat_run / "config.yaml").read_text())
    config["model"]["init_args"]["warmup_epochs"], config["trainer"]["max_epochs"] = 0, 1
    del config["trainer"]["default_root_dir"], config["out"]
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(config))
    measured, most, measure = [], 7, inherited.inherited_error

    def stopped(supernet: object, subnet: object, *args: object, **options: object) -> float:
        if len(measured) == most:
            raise RuntimeError("the power is gone")
        measured.append(subnet)
        return measure(supernet, subnet, *args, **options)  # type: ignore[arg-type]

    command = ["pareto", "--config", str(tmp_path / "first.yaml"), "--out", str(folder)]
    with monkeypatch.context() as patch:
        patch.setattr(inherited, "inherited_error", stopped)
        patch.setattr(
            "oneshot.cli.trainer.new_folder", lambda folder, **options: nullcontext(folder)
        )  # as SIGKILL leaves it
        assert main(command) == 1
    lines = (folder / "evaluations/evaluations.0.jsonl").read_text().splitlines()
    assert len(lines) == 7 and not (folder / "checkpoints/last.ckpt").exists()
    most = 1000
    with monkeypatch.context() as patch:
        patch.setattr(inherited, "inherited_error", stopped)
        assert main([*command, "--resume"]) == 0
    after = (folder / "evaluations/evaluations.0.jsonl").read_text().splitlines()
    assert after[:7] == lines and len(after) == len(measured) == 15 + 15


def test_the_network_of_a_search_is_exported_with_statistics_of_its_own(nat_run: Path, tmp_path: Path) -> None:
    assert main(["export", str(nat_run), "--out", str(tmp_path / "export"), "--formats"]) == 0
    network = load(tmp_path / "export")
    module, data = read_run(nat_run)
    assert isinstance(module, NAT)
    data.setup("fit")
    own, shared = module.supernet.extract(network.config), module.supernet.extract(network.config)
    recalibrate(own, calibration_images(data, 2048).tensor_split(5))
    state, right, wrong = network.state_dict(), own.state_dict(), shared.state_dict()
    names = [name for name in state if name.endswith("running_mean")]
    assert names and all(torch.allclose(state[name], right[name], atol=1e-5) for name in names)
    assert not all(torch.allclose(state[name], wrong[name], atol=1e-2) for name in names)


def test_bounds_that_are_given_one_by_one_all_count(nat_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pick", str(nat_run), "--at-most", "macs=1", "--at-most", "params=1e9"]) == 1
    assert "has macs <= 1 and params <= 1e+09" in capsys.readouterr().err


def test_a_folder_that_exists_is_named_before_the_training(
    nat_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("oneshot.cli.pick._finetuned", lambda *args: pytest.fail("trained in vain"))
    assert main(["pick", str(nat_run), "--knee", "--finetune", "9", "--out", str(tmp_path)]) == 1
    assert f"{tmp_path} exists. Replace it with --overwrite" in capsys.readouterr().err


def test_there_is_no_front_in_a_search(search_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pick", str(search_run), "--knee"]) == 1
    assert "RUN must be a run of 'oneshot pareto' or of 'oneshot discrete'" in capsys.readouterr().err
    assert main(["pick", str(search_run / "nowhere"), "--knee"]) == 1
    assert "nowhere is no run." in capsys.readouterr().err
