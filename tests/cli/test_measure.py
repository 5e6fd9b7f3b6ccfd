"""The command ``oneshot measure``, on a device whose latencies are known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneshot.cli.main import main
from oneshot.cost import Agreement, CostPenalty, LatencyTable, TransferredCost, read_csv, read_record, transferred_cost
from oneshot.cost.latency.device import LatencyDevice, Run
from oneshot.nat.nat import NAT
from oneshot.supernets import MobileNetV3Network, MobileNetV3Supernet, NASBench201Space, NASBench201Supernet
from oneshot.supernets.base import Subnet

SMALL = ["--supernet", "oneshot.supernets.NASBench201Supernet", "--supernet.channels=4"]
SMALL += ["--supernet.cells_per_stage=1", "--supernet.image_size=8", "--networks=20"]
MS = {"none": 0.0, "skip_connect": 0.1, "nor_conv_1x1": 1.0, "nor_conv_3x3": 3.0, "avg_pool_3x3": 0.5}


class KnownDevice(LatencyDevice):
    """Sums the latencies of operations; made with the options of the command line."""

    def __init__(self, runtime: str, device: str, **options: Any) -> None:
        self.batch, self.dtype, self.options = options["batch"], options["dtype"], {"runtime": runtime, **options}

    def prepare(self, network: Subnet) -> Run:
        assert network.config is not None
        picks = network.config["cell"]
        return lambda: 2.0 + sum(MS[str(pick)] for pick in picks)

    def time(self, run: Run) -> float:
        ms = run()
        assert isinstance(ms, float)
        return ms

    def facts(self) -> dict[str, Any]:
        return {"runtime": self.options["runtime"], "name": "a chip", "threads": self.options["threads"]}


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneshot.cli.measure.Device", KnownDevice)


def measure(out: Path, *options: str) -> int:
    return main(["measure", *SMALL, "--out", str(out), *options])


def test_a_table_is_measured_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "table.json"
    assert measure(out, "--verify=10", "--threads=2") == 0
    files = {path.name for path in out.parent.iterdir()}
    ends = ("json", "journal", "verify.json", "verify.png", "verify.journal", "report.html")
    assert files == {f"table.{end}" for end in ends}
    said = " ".join(capsys.readouterr().out.split())
    assert "eager on a chip, 2 threads, batch 1, float32: 20 networks of space 'nasbench201'" in said
    assert "10 random networks, eager on a chip" in said and "100%" in said and "Noise 0.0%" in said
    table, verified = LatencyTable.load(out), json.loads((out.parent / "table.verify.json").read_text())
    row = table.table["cell"][0]
    assert row == pytest.approx(list(MS.values()), abs=0.05)
    assert verified["agreement"]["within_5"] == 1 and len(verified["genes"]) == 10


def test_a_table_that_is_there_is_verified_and_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.json"
    assert measure(out) == 0
    table = out.read_bytes()
    assert measure(out) == 1
    assert "table.json exists. Verify it with --verify 50, or replace it with --overwrite." in capsys.readouterr().err
    assert measure(out, "--verify=5") == 0
    assert out.read_bytes() == table and (tmp_path / "table.verify.json").exists()


def test_overwrite_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    assert measure(out, "--verify=5") == 0
    assert measure(out, "--overwrite", "--seed=1", "--networks=21") == 0
    assert LatencyTable.load(out).networks == 21 and not (tmp_path / "table.verify.journal").exists()


def test_a_table_is_not_verified_against_another_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    assert measure(out, "--threads=1") == 0
    assert measure(out, "--threads=2", "--verify=5") == 1
    assert "threads was 1, is 2" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_go_on_and_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, passes, time = tmp_path / "table.json", iter(range(10**6)), KnownDevice.time

    def interrupted(self: KnownDevice, run: Run) -> float:
        if next(passes) == 150:
            raise KeyboardInterrupt
        return time(self, run)

    monkeypatch.setattr(KnownDevice, "time", interrupted)
    assert measure(out) == 130
    assert "interrupted. The same command goes on." in capsys.readouterr().err
    assert not out.exists() and 1 < len((tmp_path / "table.journal").read_text().splitlines()) < 20
    assert measure(out) == 0
    assert LatencyTable.load(out).networks == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--networks=3"], "at least 12 networks", id="networks"),
        pytest.param(["--verify=1"], "must have two networks or more; got 1", id="verify"),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(tmp_path / "table.json", *options) == 1
    assert message in capsys.readouterr().err


def test_ten_networks_and_known_devices_tell_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, space = tmp_path / "phone.csv", NASBench201Space()
    assert measure(out, "--few-shot=10") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "10 measurements and 15 known devices: random networks need" in said
    genes, ms = read_csv(out, space)
    truth = [2.0 + sum(MS[str(pick)] for pick in config["cell"]) for config in space.decode(genes)]
    assert len(genes) == 10 and ms == pytest.approx(truth, rel=1e-4)

    cost = transferred_cost(out, space)
    others = space.sample_matrix(100, 3)
    truth = [2.0 + sum(MS[str(pick)] for pick in config["cell"]) for config in space.decode(others)]
    assert Agreement.of(cost.costs(others), truth).spearman > 0.9


def test_networks_are_measured_elsewhere_and_filled_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "phone.csv"
    assert measure(out, "--few-shot=5", "--elsewhere") == 0
    assert "fill in the column ms" in capsys.readouterr().out
    assert measure(out, "--few-shot=5") == 1
    assert "line 4: the time is missing" in capsys.readouterr().err
    *header, lines = *out.read_text().splitlines()[:3], out.read_text().splitlines()[3:]
    filled = [f"{line}{2.0 + sum(MS[pick] for pick in line.split(',')[:-1])}" for line in lines]
    out.write_text("\n".join([*header, *filled]))
    assert measure(out, "--few-shot=5") == 0
    assert "5 measurements" in capsys.readouterr().out
    penalty = CostPenalty(str(out), "target", target=3.0)
    penalty.bind(NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8))
    assert isinstance(penalty.cost, TransferredCost)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--few-shot=2"], id="two"),
        pytest.param(["--few-shot=5", "--verify=5"], id="verify"),
        pytest.param(["--elsewhere"], id="elsewhere-alone"),
    ],
)
def test_few_shot_needs_three_networks_and_a_csv(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(tmp_path / "phone.csv", *options) == 1
    assert "--few-shot must be 3 networks or more" in capsys.readouterr().err
    assert measure(tmp_path / "phone.json", "--few-shot=5") == 1
    assert "with --out FILE.csv and without --verify" in capsys.readouterr().err


ELASTIC = ["--supernet", "oneshot.supernets.MobileNetV3Supernet", "--supernet.num_classes=10", "--supernet.stem=cifar"]
ELASTIC += ["--supernet.resolutions=[16, 32]", "--supernet.widths=[0.1, 0.25]", "--supernet.depths=[1, 2]"]
ELASTIC += ["--supernet.kernels=[3, 5]", "--supernet.expansions=[2, 3]"]


class PerLayer(KnownDevice):
    """A layer takes as long as its image has pixels."""

    def prepare(self, network: Subnet) -> Run:
        assert isinstance(network, MobileNetV3Network)
        layers = [block for stage in network.arch.stages for block in stage]
        pixels = (network.arch.resolution / 32) ** 2
        return lambda: 1.0 + pixels * sum(2.0 if block.startswith("k5") else 1.0 for block in layers)


def test_networks_of_an_elastic_space_tell_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneshot.cli.measure.Device", PerLayer)
    out = tmp_path / "phone.csv"
    assert main(["measure", *ELASTIC, "--networks=120", "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "120 networks need" in said
    assert int(re.search(r"(\d+)% of them are predicted within 10 %", said)[1]) >= 90  # type: ignore[index]  # found
    supernet = MobileNetV3Supernet(
        num_classes=10,
        stem="cifar",
        resolutions=(16, 32),
        widths=(0.1, 0.25),
        depths=(1, 2),
        kernels=(3, 5),
        expansions=(2, 3),
    )
    (latency,) = NAT(supernet, objectives=[str(out)], constraints={"latency": (8.0, 0.9)}).pareto.objectives
    truth = []
    for arch in map(supernet.space.arch, supernet.space.decode(genes := supernet.space.sample_matrix(50, 9))):
        blocks = [block for stage in arch.stages for block in stage]
        truth.append(1.0 + (arch.resolution / 32) ** 2 * sum(2.0 if b.startswith("k5") else 1.0 for b in blocks))
    assert latency.unit == "ms" and latency.values(genes) == pytest.approx(truth, rel=0.05)
    assert main(["measure", *ELASTIC, "--elsewhere", "--networks=30", "--out", str(tmp_path / "there.csv")]) == 0
    assert "Measure the 30 networks" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "options", [["--out=phone.json"], ["--networks=9"], ["--verify=5"], ["--few-shot=10"]], ids=lambda o: o[0]
)
def test_an_elastic_space_has_no_table(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["measure", *ELASTIC, "--out=phone.csv", *options]) == 1
    assert "there is no table: at least 30 random networks are measured" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# What is measured, and what it is measured for.


def test_a_measurement_follows_the_data_as_a_search_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    small = ["--supernet", "oneshot.supernets.NASBench201Supernet", "--supernet.channels=4", "--networks=20"]
    data = ["--data", "oneshot.data.Digits", "--data.image_size=16"]
    assert main(["measure", *small, "--supernet.cells_per_stage=1", *data, "--out", str(out)]) == 0
    table = LatencyTable.load(out)
    assert table.input_shape == (1, 16, 16) and table.supernet is not None and table.supernet["num_classes"] == 10
    assert "Networks of NASBench201Supernet: channels 4" in " ".join(capsys.readouterr().out.split())
    # What is given stays, and is another table than that of the data.
    other = tmp_path / "other.json"
    assert main(["measure", *small, *data, "--supernet.num_classes=7", "--out", str(other)]) == 0
    assert (LatencyTable.load(other).supernet or {})["num_classes"] == 7
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=16)
    CostPenalty(str(out), "additive", a=0.1).bind(supernet)
    with pytest.raises(ValueError, match=r"num_classes is 7 there, 10 here.*cells_per_stage is 5 there, 1 here"):
        CostPenalty(str(other), "additive", a=0.1).bind(supernet)


def test_the_data_of_a_search_are_followed_too(tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    small = ["--supernet", "oneshot.supernets.NASBench201Supernet", "--supernet.channels=4", "--networks=20"]
    data = ["--data", "oneshot.data.SearchDataModule", "--data.data=oneshot.data.Digits", "--data.seed=3"]
    assert main(["measure", *small, "--supernet.cells_per_stage=1", *data, "--out", str(out)]) == 0
    table = LatencyTable.load(out)
    assert table.input_shape == (1, 8, 8) and (table.supernet or {})["num_classes"] == 10


class Noisy(KnownDevice):
    """The first twelve networks take half as long again when they are measured a second time."""

    measured = 0

    def prepare(self, network: Subnet) -> Run:
        run = super().prepare(network)
        Noisy.measured += 1
        slow = 1.5 if Noisy.measured > 21 else 1.0  # the reference, and 20 networks
        return lambda: run() * slow  # type: ignore[operator]  # a number


def test_noise_is_said_when_it_is_measured_and_a_search_refuses_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneshot.cli.measure.Device", Noisy)
    monkeypatch.setattr(Noisy, "measured", 0)
    out = tmp_path / "table.json"
    assert measure(out) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"WARNING: {out} is doubtful: its noise from one measurement to the next is" in said
    assert "a search refuses it unless it is given allow_noisy" in said
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    with pytest.raises(ValueError, match="above 10%"):
        CostPenalty(str(out), "additive", a=0.1).bind(supernet)
    phone = tmp_path / "phone.csv"
    monkeypatch.setattr(Noisy, "measured", 0)
    assert measure(phone, "--few-shot=20") == 0
    assert f"WARNING: {phone} is doubtful: its noise" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ValueError, match="phone.csv is doubtful: its noise"):
        NAT(supernet, objectives=[str(phone)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--threads=2"], "threads was 1, is 2", id="threads"),
        pytest.param(["--runtime=compile"], "runtime was 'eager', is 'compile'", id="runtime"),
        pytest.param(["--batch=4"], "batch was 1, is 4", id="batch"),
        pytest.param(["--dtype=bfloat16"], "dtype was 'float32', is 'bfloat16'", id="dtype"),
        pytest.param(["--dtype=int8"], "dtype was 'float32', is 'int8'", id="int8"),
        pytest.param(["--few-shot=9"], "networks was 10, is 9", id="networks"),
        pytest.param(["--seed=5"], "seed was 0, is 5", id="seed"),
        pytest.param(
            ["--supernet.channels=8", "--supernet.num_classes=3"], "num_classes is 10 there, 3 here", id="net"
        ),
    ],
)
def test_a_file_of_other_settings_is_not_gone_on_with(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "phone.csv"
    assert measure(out, "--few-shot=10", "--threads=1") == 0
    before = out.read_bytes()
    assert measure(out, "--few-shot=10", "--threads=1") == 0  # the same settings: what is there is shown
    assert measure(out, "--few-shot=10", "--threads=1", *options) == 1
    assert message in capsys.readouterr().err and out.read_bytes() == before


def test_measurements_made_elsewhere_are_used_whatever_the_options_of_this_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "phone.csv"
    assert measure(out, "--few-shot=5", "--elsewhere", "--supernet.num_classes=3") == 0
    record = read_record(out)
    assert record is not None and record.device == {} and record.supernet["num_classes"] == 3
    lines = out.read_text().splitlines()
    filled = [f"{line}{2.0 + sum(MS[pick] for pick in line.split(',')[:-1])}" for line in lines[3:]]
    out.write_text("\n".join([*lines[:3], *filled]))
    assert measure(out, "--few-shot=5", "--threads=3", "--supernet.num_classes=3") == 0
    assert measure(out, "--few-shot=5") == 1
    assert "num_classes is 3 there, 10 here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_takes_the_table_from_the_command_line(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    assert measure(table, "--supernet.in_channels=1") == 0
    model = {
        "class_path": "oneshot.methods.gdas.GDAS",
        "init_args": {
            "supernet": {
                "class_path": "oneshot.supernets.NASBench201Supernet",
                "init_args": {"channels": 4, "cells_per_stage": 1, "in_channels": 1, "image_size": 8},
            },
            "penalty": {
                "class_path": "oneshot.cost.CostPenalty",
                "init_args": {"cost": str(table), "form": "target", "target": 4.0},
            },
        },
    }
    data = {
        "class_path": "oneshot.data.SearchDataModule",
        "init_args": {"data": {"class_path": "oneshot.data.Digits"}, "batch_size": 64},
    }
    trainer = {
        "max_epochs": 1,
        "limit_train_batches": 2,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "enable_progress_bar": False,
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    search = ["search", "--config", str(tmp_path / "search.yaml"), "--out", str(tmp_path / "run")]
    assert main([*search, "--model.init_args.penalty.init_args.target", "3.5"]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["init_args"]["penalty"]["init_args"]["cost"] == str(table)
