"""The command ``oneshot profile``, and where it and ``oneshot measure`` take a supernet from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from torch import nn

import oneshot
from oneshot.cli.main import main
from oneshot.cli.supernets import searched
from oneshot.cost import measure
from oneshot.supernets import MobileNetV3Supernet, NASBench201Supernet
from tests.cost.toys import ToyDevice

ROOT = Path(__file__).parents[2]
CELL = ["--supernet", "oneshot.supernets.NASBench201Supernet", "--supernet.channels=4"]
CELL += ["--supernet.cells_per_stage=1", "--supernet.image_size=8"]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def cell() -> NASBench201Supernet:
    return NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)


def test_what_is_printed_is_what_python_finds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *CELL, "--bound", "macs=60e3", "params_params=1e4"]) == 0
    found = oneshot.profile(cell(), bounds={"macs": 60e3, "params": 1e4})
    text, _, after = capsys.readouterr().out.partition("Next: ")
    assert text == f"{found.text(80)}\n" and "all together" in text
    assert after.startswith("oneshot measure --supernet") and after.count("\n") == 1  # a command is one line


@pytest.mark.parametrize("columns", [40, 80])
def test_lines_keep_to_the_terminal(columns: int, monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["profile", *CELL, "--counts", "macs", "--bound", "macs=1e5"]) == 0
    lines = capsys.readouterr().out.partition("Next: ")[0].splitlines()
    assert columns - 20 < max(map(len, lines)) <= columns


def test_a_bound_that_nothing_reaches_has_an_exit_code_and_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["profile", *CELL, "--counts", "macs", "--bound", "macs=1000"]) == 3
    text = said(capsys)
    assert "macs <= 1000 MACs 0.0% no" in text
    (least,) = re.findall(r"the smallest is (\S+) MACs\. Raise the bound to that at least", text)
    assert "The nearest architecture: cell: none none" in text
    assert main(["profile", *CELL, "--counts", "macs", "--bound", f"macs={least}"]) == 0


def test_numbers_and_picture_are_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out, files in (("both", {"both.json", "both.png"}), ("a.json", {"a.json"}), ("v1.2/b.svg", {"b.svg"})):
        place = tmp_path / out
        assert main(["profile", *CELL, "--counts", "params", "macs", "--bound", "macs=6e4", "--out", str(place)]) == 0
        assert {path.name for path in place.parent.iterdir() if path.is_file()} >= files
    found = oneshot.profile(cell(), counts=["params", "macs"], bounds={"macs": 6e4})
    assert json.loads((tmp_path / "both.json").read_text()) == json.loads(json.dumps(found.to_dict()))
    with Image.open(tmp_path / "both.png") as picture:
        assert picture.width > picture.height > 300
    assert not (tmp_path / "a.png").exists() and "both.png" in capsys.readouterr().out


def write_search(folder: Path, name: str, model: dict[str, Any], data: str = "oneshot.data.Digits") -> Path:
    folder.mkdir(exist_ok=True)
    config = {"model": model, "data": {"class_path": data, "init_args": {"image_size": 16}}, "trainer": {}}
    (folder / name).write_text(yaml.safe_dump(config))
    return folder / name


SMALL = {"image_size": 16, "widths": [0.25], "depths": [1, 2], "kernels": [3], "expansions": [3], "stem": "cifar"}
SEARCH = {
    "class_path": "oneshot.NAT",
    "init_args": {
        "supernet": {"class_path": "oneshot.supernets.MobileNetV3Supernet", "init_args": SMALL},
        "objectives": ["macs"],
        "costs": {"layers": "tests.cli.test_profile.layers"},
        "constraints": {"macs": 1.0, "layers": [7.0, 0.9]},
    },
}


def layers(config: Any) -> float:
    """How many layers a network has; a cost of one's own."""
    return float(sum(pick != "none" for name, picks in config.picks if "stage" in name for pick in picks))


@pytest.mark.parametrize("option", ["--from", "--config"])
def test_the_yaml_of_a_search_says_the_supernet_its_costs_and_its_bounds(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_search(tmp_path, "search.yaml", SEARCH)
    assert main(["profile", option, str(path), "--counts", "macs", "--out", str(tmp_path / "p.json")]) == 3
    found = json.loads((tmp_path / "p.json").read_text())
    # The data have 10 classes and one channel, which the supernet gets as in the search.
    supernet = MobileNetV3Supernet(num_classes=10, in_channels=1, **SMALL)  # type: ignore[arg-type]
    expected = oneshot.profile(
        supernet, counts=["macs"], costs={"layers": layers}, bounds={"macs": 1.0, "layers": (7.0, 0.9)}
    )
    assert found == json.loads(json.dumps(expected.to_dict())) and expected["layers"].smallest == 5
    assert "macs <= 1 MACs" in said(capsys)
    with pytest.raises(ValueError, match="No architecture of space 'mobilenetv3' has macs <= 1 MACs; the smallest is"):
        oneshot.NAT(supernet, constraints={"macs": 1.0})
    assert main(["profile", option, str(path), "--bounds", "{macs: 1e9}", "--counts", "macs"]) == 0  # given ones count


def test_a_run_says_it_too_and_nothing_of_it_is_imported_untrusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = json.loads(json.dumps(SEARCH))
    del model["init_args"]["costs"], model["init_args"]["constraints"]
    write_search(tmp_path / "run", "config.yaml", model, data="nobody.knows.Data")  # which is not built
    assert main(["profile", "--from", str(tmp_path / "run"), "--samples", "5"]) == 0
    assert "Space 'mobilenetv3'" in said(capsys)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "evil.py").write_text("raise SystemExit('was run')")
    model["init_args"]["supernet"] = {"class_path": "evil.Supernet"}
    for name, given in (("run", "run"), ("again", "again/config.yaml")):
        write_search(tmp_path / name, "config.yaml", model)
        assert main(["profile", "--from", given]) == 1
        assert "names the class evil.Supernet" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "run")
    assert main(["profile", "--from=."]) == 1 and "Nothing is imported from a run" in capsys.readouterr().err


def test_the_penalty_of_a_search_is_a_cost_and_its_target_a_bound() -> None:
    penalty = {"class_path": "oneshot.cost.CostPenalty", "init_args": {"cost": "a/fbnet.json", "form": "target"}}
    penalty["init_args"]["target"] = 25.0  # type: ignore[index]
    assert searched({"penalty": penalty}) == {
        "costs": {"latency": "a/fbnet.json"},
        "bounds": {"latency": 25.0},
        "allow_noisy": False,
    }
    files = {"objectives": ["macs", "a/x.json", "b/y.csv"], "allow_noisy": True}
    assert searched(files) == {"costs": {"x": "a/x.json", "y": "b/y.csv"}, "bounds": {}, "allow_noisy": True}


def test_latencies_are_named_by_their_files_or_as_one_likes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)

    class Device(ToyDevice):
        def prepare(self, network: Any) -> Any:
            return lambda: 2.0 + sum("conv" in str(pick) for pick in network.config["cell"])

    path = measure(supernet, Device(), networks=60).save(tmp_path / "toy.json")
    assert main(["profile", *CELL, "--counts", "macs", "--cost", str(path), "--bound", "latency_ms=4", "macs=1e9"]) == 0
    assert "latency [ms] 2 " in said(capsys)
    named = ["--cost", str(path), f"phone={path}", "--bound", "phone=1"]
    assert main(["profile", *CELL, "--counts", "macs", *named]) == 3
    text = said(capsys)
    assert "toy [ms]" in text and "phone [ms]" in text and "No architecture of space 'nasbench201' has phone" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        pytest.param([], 2, "A supernet must be given: --supernet CLASS, or --from", id="nothing"),
        pytest.param(["--from", "nowhere"], 1, "nowhere is not there", id="nowhere"),
        pytest.param(["--from", "."], 1, r"\. is a folder without config.yaml", id="folder"),
        pytest.param(["--from"], 1, "--from must be followed by", id="no-source"),
        pytest.param(["--from=a", "--from=b"], 1, "must name one search; got a and b", id="two"),
        pytest.param(["--config", "from.yaml"], 2, "must be on the command line, not in a", id="yaml"),
        pytest.param(["--from", "no_search.yaml"], 1, "must be of a search, with a supernet", id="no-search"),
        pytest.param([*CELL, "--bound", "mac=1"], 1, "got 'mac'. Did you mean 'macs'", id="cost"),
        pytest.param([*CELL, "--bound", "macs"], 1, "must be NAME=VALUE, such as macs=300e6", id="no-value"),
        pytest.param([*CELL, "--bound", "macs=300M"], 1, "must be NAME=VALUE, .* got 'macs=300M'", id="letter"),
        pytest.param([*CELL, "--bound", "macs=nan"], 1, "bound of 'macs' must be finite; got nan", id="nan"),
        pytest.param([*CELL, "--bound", "macs=1", "macs=2"], 1, "once; 'macs' is there twice", id="twice"),
        pytest.param([*CELL, "--bounds", "3"], 2, "--bounds", id="bounds"),
        pytest.param([*CELL, "--counts", "mac"], 1, "got 'mac'. Did you mean 'macs'", id="counts"),
        pytest.param([*CELL, "--cost", "phone.txt"], 1, "--cost must be FILE or NAME=FILE", id="suffix"),
        pytest.param([*CELL, "--cost", "phone.json"], 1, "There is no latency table phone.json", id="file"),
        pytest.param([*CELL, "--samples", "0"], 1, "samples must be at least 1", id="samples"),
        pytest.param([*CELL, "--smaples", "3"], 2, "no option --smaples. Did you", id="option"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "from.yaml").write_text("from: runs/a\n")
    (tmp_path / "no_search.yaml").write_text("model: {network: x}\n")
    try:
        got = main(["profile", *words])
    except SystemExit as stop:
        got = int(str(stop.code))
    text = capsys.readouterr().err
    assert got == code and text.count("\n") == 1 and re.search(message, text), text


def network() -> nn.Module:
    """A network of one's own."""
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
    return nn.Sequential(*layers)


def test_a_network_to_convert_is_profiled_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--from", "tests.cli.test_profile.network", "--supernet.input_shape", "[3, 8, 8]"]
    assert main(["profile", *words, "--supernet.width", "[0.5, 1.0]", "--bound", "params=300"]) == 0
    text = said(capsys)
    assert "Space 'converted_Sequential' has 2 architectures; all 2 different networks" in text
    assert "params 260 260 388 516" in text  # 8 or 16 filters: 27 + 1 weights each, then 4 outputs with a bias
    assert main(["profile", "--from", "timm:resnet1"]) == 1
    assert "Did you mean 'resnet18'" in capsys.readouterr().err


def test_the_measurement_takes_its_supernet_from_a_search_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = json.loads(json.dumps(SEARCH))
    del model["init_args"]["costs"]
    path, out = write_search(tmp_path, "search.yaml", model), tmp_path / "ms.csv"
    assert main(["measure", "--from", str(path), "--networks=36", "--elsewhere", "--out", str(out)]) == 0
    assert '"in_channels": 1' in out.read_text().splitlines()[1]
