"""The command line with a network of the user's own: searched, picked, exported, loaded again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import oneshot
from oneshot.cli.main import main
from oneshot.conversion import build
from oneshot.cost import count
from oneshot.cost.latency.device import LatencyDevice, Run
from oneshot.supernets.base import Subnet

EXPERIMENTS = Path(__file__).parents[2] / "experiments/convert"
OWN = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.bn(self.conv(x)))


class Small(nn.Sequential):  # its layers are called "0", "1", ..., which no command line may take for numbers
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(1, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Sequential(Block(channels), Block(channels)),
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * channels, num_classes),
        )


def small(channels: int = 16, num_classes: int = 1000) -> nn.Module:
    return Small(channels, num_classes)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.table, self.head = nn.Conv2d(3, 16, 3), nn.Linear(6, 16), nn.Linear(32, 4)

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        parts = [self.image(inputs["image"]).mean((2, 3)), self.table(inputs["table"])]
        return {"classes": self.head(torch.relu(torch.cat(parts, 1)))}
"""
QUIET = [
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=0",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]
DATA = ["--data=oneshot.data.Digits", "--data.val_fraction=0.2", "--data.batch_size=16"]
SUPERNET = ["oneshot.convert", "source=my_networks.small", "width=[0.5, 1.0]"]
NAT = {
    "objectives": "['macs']",
    "warmup_epochs": "1",
    "iterations": "1",
    "adapt_epochs": "1",
    "initial": "6",
    "batch": "2",
    "population": "8",
    "generations": "3",
    "calibration_images": "32",
}


def supernet(option: str, *more: str) -> list[str]:
    """Options of a converted network."""
    kind, *arguments = (*SUPERNET, *more)
    return [f"{option}={kind}", *(f"{option}.{argument}" for argument in arguments)]


def pareto(out: Path, *more: str) -> list[str]:
    """Words of ``oneshot pareto``."""
    model = ["--model=oneshot.NAT", *(f"--model.{name}={value}" for name, value in NAT.items())]
    return [
        "pareto",
        *model,
        *supernet("--model.supernet", *more),
        *DATA,
        *QUIET,
        "--trainer.max_epochs=2",
        f"--out={out}",
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder where a user works: a module with a network, and the weights that it was trained to."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "my_networks.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "my_networks", raising=False)
        torch.manual_seed(1)
        torch.save({"state_dict": build("my_networks.small", num_classes=10).state_dict()}, folder / "trained.pth")
        yield folder
    sys.modules.pop("my_networks", None)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    """A search that began with the weights, after which their file was moved away."""
    assert main(pareto(home / "run", "weights=trained.pth")) == 0
    return home / "run"


def test_the_run_says_what_was_converted_and_takes_sizes_from_the_data(run: Path) -> None:
    written = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["supernet"]
    assert written["class_path"] == "oneshot.convert"
    arguments = written["init_args"]
    assert (arguments["source"], arguments["weights"]) == ("my_networks.small", "trained.pth")
    assert (arguments["num_classes"], arguments["input_shape"]) == (10, [1, 8, 8])
    front = json.loads((run / "front.json").read_text()) if (run / "front.json").is_file() else True
    assert front


def test_a_picked_network_is_of_the_users_own_class_and_needs_nothing_of_the_run(run: Path, home: Path) -> None:
    away = home / "moved.pth"
    (home / "trained.pth").rename(away)
    try:
        assert main(["pick", str(run), "--knee", "--no-measure", "--out", str(home / "picked")]) == 0
    finally:
        away.rename(home / "trained.pth")
    with pytest.raises(ValueError, match=r"this is my_networks.small. If you trust it, pass trust=\('my_networks',\)"):
        oneshot.load(home / "picked")
    network = oneshot.load(home / "picked", trust=("my_networks",))
    assert type(network.network).__name__ == "Small"  # type: ignore[attr-defined]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    files = {path.name for path in (home / "picked").iterdir()}
    assert {"subnet.json", "model.safetensors", "model.pt2", "model.onnx", "manifest.json"} <= files
    assert main(["show", str(home / "picked"), "--trust=my_networks", "--out", str(home / "picked.png")]) == 0
    assert main(["evaluate", str(home / "picked"), "--trust=my_networks", *DATA]) == 0


class PerOperator(LatencyDevice):
    """A network needs a time for each multiply-accumulate, and some for itself."""

    def __init__(self, runtime: str, device: str, **options: Any) -> None:
        self.batch, self.dtype, self.options = options["batch"], options["dtype"], {"runtime": runtime, **options}

    def prepare(self, network: Subnet) -> Run:
        ms = 1.0 + count(network, network.input_shape).macs / 1e5
        return lambda: ms

    def time(self, run: Run) -> float:
        ms = run()
        assert isinstance(ms, float)
        return ms

    def facts(self) -> dict[str, Any]:
        return dict(self.options)


def test_measured_variants_tell_the_others(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneshot.cli.measure.Device", PerOperator)
    options = [*supernet("--supernet", "input_shape=[1, 16, 16]")]
    out = home / "phone.csv"
    assert main(["measure", *options, "--networks=6", f"--out={out}"]) == 1
    assert "at least 30 random networks are measured" in capsys.readouterr().err
    wide = [option.replace("[0.5, 1.0]", "[0.25, 0.5, 0.75, 1.0]") for option in options]
    wide.append("--supernet.multiple=2")
    assert main(["measure", *wide, "--networks=40", f"--out={out}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "100% of them are predicted within 10 %" in said
    assert main(["profile", *wide, f"--cost={out}"]) == 0
    assert main(["profile", *options, f"--cost={out}"]) == 1


def test_a_run_goes_on_with_the_same_network_and_weights_only(
    run: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, home / "again")
    again = ["pareto", "--resume", f"--out={home / 'again'}"]
    assert main(again) == 0
    capsys.readouterr()
    assert main([*again, "--model.supernet.source=timm:resnet10t"]) == 1
    assert "source was my_networks.small, is timm:resnet10t" in capsys.readouterr().err
    assert main([*again, "--model.supernet.weights=other.pth"]) == 1
    assert "weights was trained.pth, is other.pth" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_weights_of_the_same_name(
    run: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = (home / "trained.pth").read_bytes()
    shutil.copytree(run, home / "other")
    torch.manual_seed(2)
    torch.save(build("my_networks.small", num_classes=10).state_dict(), home / "trained.pth")
    try:
        assert main(["pareto", "--resume", f"--out={home / 'other'}"]) == 1
    finally:
        (home / "trained.pth").write_bytes(kept)
    assert "what differs is supernet: " in capsys.readouterr().err


def test_one_search_with_the_sandwich_rule_is_derived_exported_and_retrained(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = home / "bignas"
    model = ["--model=oneshot.BigNAS", *supernet("--model.supernet", "weights=trained.pth")]
    data = ["--data=oneshot.data.SearchDataModule", "--data.data=oneshot.data.Digits", "--data.data.batch_size=16"]
    short = ["--trainer.max_epochs=1", "--model.candidates=4", "--model.finalists=2"]
    assert main(["search", *model, *data, *short, *QUIET, f"--out={out}"]) == 0
    assert main(["derive", str(out)]) == 0
    capsys.readouterr()
    assert main(["show", str(out), "--out", str(home / "bignas.png")]) == 0
    said = capsys.readouterr().out
    assert "Small, converted: " in said and "smallest: " in said and "ConvertedNetwork" in said
    assert main(["export", str(out), "--no-measure", "--formats"]) == 0
    retrain = ["retrain", str(out), "--inherit", *DATA, *QUIET, "--trainer.max_epochs=1", f"--out={home / 'retrain'}"]
    assert main(retrain) == 0
    assert main(["evaluate", str(home / "retrain")]) == 0
    assert main(["export", str(home / "retrain"), "--no-measure", "--formats", "--out", str(home / "exported")]) == 0
    network = oneshot.load(home / "exported", trust=("my_networks",))
    assert network.config is not None


def test_variants_are_searched_over_weights_that_stay_each_with_a_last_layer_of_its_own(home: Path) -> None:
    out, quick = home / "stays", {"adapt_epochs": 0, "random_paths": 0, "smallest": "false", "iterations": 2}
    model = ["--model=oneshot.NAT", *(f"--model.{name}={value}" for name, value in {**NAT, **quick}.items())]
    own = ["--model.rank_channels=true", "--model.fit_heads=true", "--model.freeze_statistics=true"]
    words = [*model, *own, *supernet("--model.supernet", "weights=trained.pth"), *DATA, *QUIET]
    assert main(["pareto", *words, "--trainer.max_epochs=1", f"--out={out}"]) == 0
    assert main(["pick", str(out), "--max-error", "1.0", "--no-measure", "--formats"]) == 0
    found = json.loads((out / "picked/manifest.json").read_text(encoding="utf-8"))["metrics"]
    assert found["val/accuracy"] == pytest.approx(1 - found["front/error"], abs=1e-6), "head and statistics are its own"
    assert found["val/accuracy"] > 0.2, "with the shared last layer it is chance"


@pytest.mark.slow
def test_it_takes_part_in_studies_and_comparisons(home: Path) -> None:
    network = {"source": "my_networks.small", "num_classes": 10, "input_shape": [1, 8, 8], "multiple": 4}
    converted = {"class_path": "oneshot.convert", "init_args": network}
    digits = {"class_path": "oneshot.data.Digits", "init_args": {"val_fraction": 0.2}}
    training = {"epochs": 1, "build": converted, "data": digits, "trainer": {"limit_train_batches": 4}}
    study = {
        "strategy": {"class_path": "oneshot.discrete.RandomSearch", "init_args": {"seed": 0}},
        "evaluator": {"class_path": "oneshot.discrete.TrainingEvaluator", "init_args": training},
        "objectives": ["max accuracy", "min params"],
        "evaluations": 3,
    }
    (home / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    assert main(["discrete", "--config", "study.yaml", f"--out={home / 'study'}"]) == 0
    assert main(["pick", str(home / "study"), "--knee", "--no-measure", "--formats"]) == 0
    assert oneshot.load(home / "study/picked", trust=("my_networks",)).num_classes == 10
    comparison = {
        "methods": [{"class_path": "BigNAS", "init_args": {"candidates": 4, "finalists": 2}}, "random"],
        "seeds": [0, 1],
        "supernet": converted,
        "data": {"class_path": "oneshot.data.Digits"},
        "trainer": {"max_epochs": 1, "limit_train_batches": 2},
        "retrain": {"epochs": 1, "lr": 0.05},
    }
    (home / "compare.yaml").write_text(yaml.safe_dump(comparison), encoding="utf-8")
    assert main(["compare", "--config", "compare.yaml", f"--out={home / 'compare'}"]) == 0
    assert "| BigNAS" in (home / "compare/results.md").read_text(encoding="utf-8")


def test_a_network_of_several_inputs_and_outputs_by_name_is_searched_too(home: Path) -> None:
    rng = np.random.default_rng(0)
    x = {"x/image": rng.normal(size=(120, 3, 8, 8)), "x/table": rng.normal(size=(120, 6))}
    arrays = {name: values.astype(np.float32) for name, values in x.items()} | {"y": rng.integers(4, size=120)}
    np.savez(home / "two.npz", **arrays)
    data = ["--data=oneshot.data.ArrayData", "--data.x=two.npz", "--data.val_fraction=0.2", "--data.batch_size=16"]
    model = ["--model=oneshot.NAT", *(f"--model.{name}={value}" for name, value in NAT.items())]
    network = ["--model.supernet=oneshot.convert", "--model.supernet.source=my_networks.TwoInputs"]
    short = [*QUIET, "--trainer.max_epochs=2", f"--out={home / 'two'}"]
    assert main(["pareto", *model, *network, *data, *short]) == 0
    assert main(["pick", str(home / "two"), "--knee", "--no-measure"]) == 0
    assert main(["evaluate", str(home / "two/picked"), "--trust=my_networks", *data]) == 0


def test_its_latencies_are_measured(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["measure", *supernet("--supernet"), "--data=oneshot.data.Digits", "--threads=1"]
    space = ["--supernet.width=[0.25, 0.5, 0.75, 1.0]", "--supernet.multiple=4"]
    assert main([*words, *space, "--networks=40", f"--out={home / 'ms.csv'}"]) == 0
    assert "networks need" in capsys.readouterr().out
    assert "ms" in (home / "ms.csv").read_text()


def test_what_can_vary_is_shown_without_a_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["show", "my_networks.small", "--input-shape=[1, 8, 8]"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "Small, converted: " in said and "2 blocks that can be left out" in said and "architectures" in said
    assert main(["show", "my_networks.small"]) == 1
    assert "input_shape" in capsys.readouterr().err
    assert main(["show", "my_networks.small", "--input-shape=1,8,8"]) == 1
    assert "--input-shape must be JSON; " in (said := capsys.readouterr().err) and "'[3, 64, 64]'" in said
    assert main([*words, '--arguments={"chanels": 8}']) == 1
    assert "Did you mean 'channels'?" in capsys.readouterr().err
    assert main(["show", "timm:resnt18"]) == 1
    assert "Did you mean 'resnet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["weights=absent.pth"], "There is no file of weights absent.pth"),
        (["weights=trained.pth", 'arguments={"channels": 24}'], "The weights must be those of the network"),
        (["source=my_networks.smal"], "Did you mean 'small'?"),
        (["source=resnet18"], "Did you mean 'timm:resnet18'?"),
        (["source=null"], "source"),
        (["widht=[1.0]"], "widht"),
        (["importance=l3"], "importance"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    home: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(pareto(home / "never", *more)) == 1
    except SystemExit as stop:
        assert stop.code == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("oneshot pareto:")]
    assert len(err) == 1 and said in err[0]
    assert not (home / "never").exists()


SHORT = {"warmup_epochs": 1, "iterations": 1, "adapt_epochs": 1, "initial": 6, "batch": 2, "population": 8}


def in_short(path: Path, folder: Path, **data: Any) -> Path:
    """A file of the experiments with so few steps that a test can run it."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    method = config["model"]["init_args"]
    assert method["warmup_epochs"] + method["iterations"] * method["adapt_epochs"] == config["trainer"]["max_epochs"]
    method |= {**SHORT, "generations": 3, "calibration_images": 32, "weight_warmup_epochs": 0}
    config["data"]["init_args"] |= {"batch_size": 16, **data}
    config["trainer"]["max_epochs"] = 2
    file = folder / path.name
    file.write_text(yaml.safe_dump(config))
    return file


def test_the_file_for_digits_runs(tmp_path: Path) -> None:
    file = in_short(EXPERIMENTS / "digits.yaml", tmp_path)
    assert main(["pareto", "--config", str(file), *QUIET, f"--out={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run/front.png").is_file()


@pytest.mark.slow
@pytest.mark.nightly
def test_the_file_for_efficientnet_lite0_runs_with_weights_under_other_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(60):
            pixels = rng.integers(256, size=(40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{number}.png")
    weights = build("timm:tf_efficientnet_lite0").state_dict()
    torch.save({f"_{name.replace('.', '_', 1)}": tensor for name, tensor in weights.items()}, tmp_path / "lite0.pth")
    file = in_short(EXPERIMENTS / "lite0.yaml", tmp_path, root=str(tmp_path / "photos"), image_size=32)
    words = ["pareto", "--config", str(file), *QUIET, f"--out={tmp_path / 'run'}"]
    assert main([*words, f"--model.supernet.weights={tmp_path / 'lite0.pth'}"]) == 0
    assert main(["pick", str(tmp_path / "run"), "--knee", "--no-measure", "--formats", "torch_export"]) == 0
    network: Any = oneshot.load(tmp_path / "run/picked")
    assert type(network.network).__name__ == "EfficientNet" and network.num_classes == 2
