"""What lies in a run, a study or an export is data: nothing of it is imported or run, whatever it says."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneshot.cli.main import main
from oneshot.cli.run import RunFolder
from oneshot.deploy.export import export_subnet, load
from oneshot.storage.trust import check_classes, imports_from_here, is_artifact, is_ours, lies_in_artifact, split_trust
from oneshot.supernets import NASBench201Network
from tests.processes import run_python

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.accelerator=cpu",
]
# A module that leaves a mark when it is run; `torch.py`, `yaml.py` and a network of somebody else.
MARK = "import pathlib\npathlib.Path({mark!r}).touch()\n"
OWN = """
from torch import nn
from oneshot.supernets.base import Subnet
from oneshot.supernets.space import ArchGraph


class Net(Subnet):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.init_args, self.input_shape, self.num_classes = {"width": width}, (1, 8, 8), 10
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, x):
        return self.layers(x)

    def graphs(self):
        return [ArchGraph("net", ("image", "logits"), ((0, 1, "two layers"),))]
"""


def plant(folder: Path, mark: Path) -> None:
    """Put modules into a folder that leave a mark when anything imports them."""
    for name in ("torch", "yaml", "json", "rich", "numpy", "mymodule", "sitecustomize"):
        (folder / f"{name}.py").write_text(MARK.format(mark=str(mark)))
    (folder / "PIL").mkdir(exist_ok=True)
    (folder / "PIL/__init__.py").write_text(MARK.format(mark=str(mark)))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a retraining of a user's own network, a study, and an export."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "mynet.py").write_text(OWN)
    data = {"class_path": "oneshot.data.Digits", "init_args": {"val_fraction": 0.2, "batch_size": 32}}
    (folder / "retrain.yaml").write_text(yaml.safe_dump({"data": data}))
    study = ["discrete", "--strategy=oneshot.discrete.RandomSearch", "--evaluator=mytable.evaluator", "--evaluations=3"]
    (folder / "mytable.py").write_text(TABLE)
    before = Path.cwd()
    os.chdir(folder)
    try:
        network = NASBench201Network("|nor_conv_1x1~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|", **SMALL)
        export_subnet(network, "export", formats=())
        assert main(["retrain", "export", "--config", "retrain.yaml", *SHORT, "--out", "runs/retrain"]) == 0
        assert main([*study, "--objectives=[min error]", "--out", "runs/study"]) == 0
    finally:
        os.chdir(before)
        sys.modules.pop("mytable", None)
    return folder


SMALL: dict[str, Any] = {"channels": 4, "cells_per_stage": 1, "in_channels": 1, "image_size": 8}
TABLE = """
import numpy as np
from oneshot.discrete import TabularEvaluator
from oneshot.discrete.protocol import Evaluator
from oneshot.supernets.space import Choice, SearchSpace


def evaluator() -> Evaluator:
    space = SearchSpace("toy", (Choice("layer", ("a", "b"), rows=3),))
    genes = np.array(list(np.ndindex(2, 2, 2)))
    return TabularEvaluator(space, genes, {"error": genes.sum(1).astype(float)})
"""


def run_as(how: str, args: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """As the script that pip installs, or as ``python -m``, with the current folder where each has it."""
    script = "import sys; sys.path.pop(0); from oneshot.cli.main import main; sys.exit(main())"
    command = {"script": ["-c", script], "module": ["-m", "oneshot"], "empty entry": ["-c", script]}[how]
    path = f":{ROOT}" if how == "empty entry" else str(ROOT)
    # A Python of its own: in a fork, what is planted beside it would be imported already.
    return subprocess.run(
        [sys.executable, *command, *args],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


READERS: list[tuple[str, list[str], int]] = [
    ("retrain", ["evaluate", "."], 0),
    ("retrain", ["show", "."], 0),
    ("retrain", ["export", ".", "--formats"], 0),
    ("study", ["pick", ".", "--knee"], 1),
    ("study", ["discrete", "--resume", "--out", ".", "--evaluations", "4"], 1),
    ("export", ["show", "."], 0),
    ("export", ["evaluate", ".", "--data", "oneshot.data.Digits"], 0),
]


def every_way() -> list[Any]:
    """Every command in every way to call it. All of them run at night; else ``module``, and all ways of one command."""
    cases = []
    for (kind, args, code), how in itertools.product(READERS, ("module", "script", "empty entry")):
        often = how == "module" or (kind, args[0]) == ("export", "show")
        marks = () if often else (pytest.mark.nightly,)
        cases.append(pytest.param(how, kind, args, code, id=f"{kind}-{args[0]}-{how}", marks=marks))
    return cases


@pytest.mark.slow
@pytest.mark.parametrize(("how", "kind", "args", "code"), every_way())
def test_nothing_is_imported_from_the_folder_that_is_read(
    how: str, kind: str, args: list[str], code: int, project: Path, tmp_path: Path
) -> None:
    folder, mark = tmp_path / kind, tmp_path / "mark"
    copy(project / (kind if kind == "export" else f"runs/{kind}"), folder)
    (folder / "mytable.py").write_text(MARK.format(mark=str(mark)) + TABLE)
    plant(folder, mark)
    if how == "empty entry":
        (folder / "sitecustomize.py").unlink()  # which Python imports from PYTHONPATH before any other code runs
    done = run_as(how, args, folder)
    assert not mark.exists(), done.stderr
    assert done.returncode == code, done.stderr
    if code:
        assert "mytable.evaluator, which lies in" in done.stderr and "Traceback" not in done.stderr


def copy(source: Path, target: Path) -> None:
    import shutil

    shutil.copytree(source, target)


HOSTILE: list[Callable[[dict[str, Any], str], Any]] = [
    lambda config, name: config["data"].update(class_path=name),
    lambda config, name: config["data"]["init_args"].update(augmentation={"class_path": name}),
    lambda config, name: config["model"]["network"].update(class_path=name),
    lambda config, name: config["model"].update(network=name),
    lambda config, name: config.update(data=name),
]


@pytest.mark.parametrize("command", ["evaluate", "export", "show"])
@pytest.mark.parametrize("where", range(len(HOSTILE)))
def test_a_class_of_a_configuration_is_imported_only_if_it_is_trusted(
    where: int,
    command: str,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the path for modules, as installed packages are; not in the current folder."""
    run, site, mark = tmp_path / "run", tmp_path / "site", tmp_path / "mark"
    copy(project / "runs/retrain", run)
    site.mkdir()
    (site / "evil_module.py").write_text(MARK.format(mark=str(mark)) + OWN)
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    path = run / "config.yaml"
    for name in ("evil_module.Net", "os.system", "oneshot_evil.Net", "oneshot.supernets.os.system", "oneshot..Net"):
        config = yaml.safe_load((project / "runs/retrain/config.yaml").read_text())
        HOSTILE[where](config, name)
        path.write_text(yaml.safe_dump(config))
        main([command, str(run), *(["--formats"] if command == "export" else [])])
        assert not mark.exists() and "evil_module" not in sys.modules
    if where == 2:
        assert main([command, str(run)]) == 1
        path.write_text(path.read_text().replace("oneshot..Net", "evil_module.Net"))
        assert main(["show", str(run)]) == 1
        assert "say --trust evil_module" in capsys.readouterr().err


def test_callbacks_and_loggers_of_a_run_are_not_built_by_reading_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    copy(project / "runs/retrain", run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    checkpoint = {"dirpath": str(tmp_path / "anywhere"), "monitor": "test/loss"}
    config["trainer"] |= {
        "callbacks": [{"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": checkpoint}],
        "logger": {
            "class_path": "pytorch_lightning.loggers.CSVLogger",
            "init_args": {"save_dir": str(tmp_path / "logs")},
        },
        "profiler": "simple",
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    assert main(["evaluate", str(run)]) == 0
    assert sorted(path for path in tmp_path.rglob("*")) == before


# One's own classes.


@pytest.mark.nightly
@pytest.mark.timeout(1200)  # ten commands, each a process of its own
def test_ones_own_classes_are_found_by_every_command(project: Path, tmp_path: Path) -> None:
    """A search, a retraining and a study of a user's class in the current folder, as the installed script."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("mynet.py", "mytable.py", "retrain.yaml"):
        (folder / name).write_text((project / name).read_text())
    (folder / "myspace.py").write_text(
        "from oneshot.supernets import NASBench201Supernet\n\n\nclass Mine(NASBench201Supernet):\n    pass\n"
    )
    data = {"class_path": "oneshot.data.SearchDataModule"}
    data["init_args"] = {"data": {"class_path": "oneshot.data.Digits"}}  # type: ignore[assignment]
    supernet = {"class_path": "myspace.Mine", "init_args": {"channels": 4, "cells_per_stage": 1}}
    search = {"model": {"class_path": "oneshot.DARTS", "init_args": {"supernet": supernet}}, "data": data}
    (folder / "search.yaml").write_text(yaml.safe_dump(search))
    for args in (
        ["search", "--config", "search.yaml", *SHORT, "--out", "runs/search"],
        ["derive", "runs/search"],
        ["show", "runs/search"],
        ["export", "runs/search", "--formats"],
    ):
        done = run_as("script", args, folder)
        assert done.returncode == 0, done.stderr
    code = "import mynet\nfrom oneshot import export_subnet\nexport_subnet(mynet.Net(), 'export', formats=())"
    run_python("-c", code, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}).check_returncode()
    done = run_as("script", ["show", "export"], folder)
    assert done.returncode == 1 and "--trust mynet" in done.stderr, done.stderr
    for args in (
        ["show", "export", "--trust", "mynet"],
        ["evaluate", "export", "--trust=mynet", "--data", "oneshot.data.Digits"],
        ["retrain", "export", "--trust", "mynet", "--config", "retrain.yaml", *SHORT, "--out", "runs/retrain"],
        ["evaluate", "runs/retrain"],
        ["export", "runs/retrain", "--formats"],
    ):
        done = run_as("script", args, folder)
        assert done.returncode == 0, (args, done.stderr)
    said = " ".join(done.stdout.split())
    assert "oneshot.load('runs/retrain/export', trust=('mynet',)) gives the network back" in said
    code = "import oneshot; print(type(oneshot.load('runs/retrain/export', trust=('mynet',))).__name__)"
    done = run_python("-c", code, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.strip() == "Net", done.stderr


def test_a_class_of_ones_own_is_built_only_from_a_file_that_defines_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark, config = tmp_path / "mark", tmp_path / "run/config.yaml"
    config.parent.mkdir()
    (tmp_path / "deploy.py").write_text(MARK.format(mark=str(mark)) + "\n\ndef go(): ...\n")
    (tmp_path / "own_module.py").write_text("class Data: ...\n")
    with imports_from_here():
        assert "own_module" in check_classes({"data": {"class_path": "own_module.Data"}}, config)
        for name in ("deploy.Data", "gone.Data", "own_module.Gone"):
            with pytest.raises(ValueError, match=f"{name}.*say --trust"):
                check_classes([{"class_path": name}], config)
        monkeypatch.delitem(sys.modules, "own_module", raising=False)
        assert "deploy" in check_classes([{"class_path": "deploy.Data"}], config, trust=["deploy"])
    assert not mark.exists()


@pytest.mark.parametrize(
    "named",
    [
        {"ops": {"mine": "NAME"}},
        {"costs": {"energy": "NAME"}},
        {"costs": "NAME"},
        {"init_args": {"space": {"init_args": {"ops": {"mine": "NAME"}}}}},
    ],
    ids=["operation", "cost", "cost alone", "operation of a space"],
)
def test_functions_that_a_configuration_names_are_code_as_classes_are(
    named: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.modules.pop("own_functions", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_functions.py").write_text("def energy(config): ...\n")
    config = tmp_path / "run/config.yaml"

    def of(name: str) -> Any:
        return {"model": json.loads(json.dumps(named).replace("NAME", name))}

    with imports_from_here():
        assert "own_functions" in check_classes(of("own_functions.energy"), config)
        for name in ("os.system", "own_functions.gone", "elsewhere.energy"):
            with pytest.raises(ValueError, match=rf"names the class {name}.*say --trust"):
                check_classes(of(name), config)
        assert check_classes(of("phone.json"), config) == check_classes({}, config)  # a file of latencies
    sys.modules.pop("own_functions", None)


def test_nothing_in_a_run_is_imported_even_if_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "runs/foreign/config.yaml"
    (config.parent / "checkpoints").mkdir(parents=True)
    config.touch()
    (config.parent / "code.py").write_text("class Data: ...\n")
    with imports_from_here(), pytest.raises(ValueError, match="Nothing is imported from a run, a study or an export"):
        check_classes([{"class_path": "runs.foreign.code.Data"}], config, trust=["runs"])


def test_the_current_folder_is_searched_last_and_a_run_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, here = tmp_path / "run", tmp_path / "here"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    (run / "inner").mkdir()
    here.mkdir()
    (tmp_path / "link").symlink_to(run)
    assert is_artifact(run) and lies_in_artifact(run / "inner") and not lies_in_artifact(here)
    before = list(sys.path)
    monkeypatch.chdir(here)
    with imports_from_here():
        assert sys.path[-1] == str(here.resolve()) and sys.path.count(str(here)) == 1
    for folder in (run, run / "inner", tmp_path / "link"):
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend("")
        monkeypatch.syspath_prepend(str(folder))
        with imports_from_here():
            assert not any(lies_in_artifact(entry or ".") for entry in sys.path)
            assert os.environ["PYTHONSAFEPATH"] == "1"
        assert "PYTHONSAFEPATH" not in os.environ
    monkeypatch.chdir(here)
    with imports_from_here(reading=["."]):  # whatever lies in what is read
        assert str(here.resolve()) not in sys.path
    monkeypatch.undo()
    assert sys.path == before


@pytest.mark.parametrize(
    "name",
    [
        "oneshot_evil.Net",
        "oneshot",
        "oneshot.",
        "oneshot..Net",
        "oneshot.supernets.os.system",
        "oneshot.tests.Net",
        "oneshot.experiments.x.Net",
        "oneshot.docs.Net",
        "oneshot.supernets/../evil.Net",
        "os.system",
        "",
    ],
)
def test_a_name_that_only_looks_like_ours_is_not(name: str) -> None:
    assert not is_ours(name)


@pytest.mark.parametrize(
    "name",
    ["oneshot.DARTS", "oneshot.supernets.DARTSNetwork", "oneshot.supernets.darts.DARTSNetwork", "oneshot.data.Digits"],
)
def test_our_names_are_known_without_an_import(name: str) -> None:
    assert is_ours(name)


def test_no_folder_of_a_checkout_is_part_of_oneshot_by_chance(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    for name in ("oneshot", "supernets", "callbacks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "evil.py").write_text(MARK.format(mark=str(tmp_path / "mark")))
    code = (
        "import importlib.util, pickle, sys, oneshot, oneshot.supernets, oneshot.callbacks.base\n"
        "from oneshot.supernets import SubnetConfig\n"
        "assert not any(importlib.util.find_spec(f'oneshot.{name}') for name in ('evil', 'hidden'))\n"
        "assert importlib.util.find_spec('oneshot.supernets.darts') is not None\n"
        "assert pickle.loads(pickle.dumps(SubnetConfig)) is SubnetConfig\n"
        "assert oneshot.supernets.__spec__.name == 'oneshot.supernets' == oneshot.supernets.__package__\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, check=True
    )
    assert not (tmp_path / "mark").exists()


def test_an_export_is_data_whatever_else_lies_in_it(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    copy(project / "export", folder)
    hostile = {"model": {"class_path": "evil.Search"}, "data": {"class_path": "evil.Data"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(hostile))
    (folder / "log.jsonl").write_text("{}\n")
    assert main(["show", str(folder), "--out", str(tmp_path / "picture.png")]) == 0
    assert isinstance(load(folder), NASBench201Network)


def test_a_name_to_trust_is_taken_out_of_the_command_line() -> None:
    assert split_trust(["x", "--trust", "a", "--trust=b.c", "--y", "1"]) == (["x", "--y", "1"], ("a", "b.c"))
    for args in (["--trust"], ["--trust", "--other"], ["--trust="]):
        with pytest.raises(ValueError, match="--trust must be followed by the name"):
            split_trust(args)


def test_a_configuration_larger_than_any_is_refused(tmp_path: Path, project: Path) -> None:
    run = tmp_path / "run"
    copy(project / "runs/retrain", run)
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    (run / "config.yaml").write_text((run / "config.yaml").read_text() + bomb)
    with pytest.raises(ValueError, match=r"config.yaml"):
        RunFolder(run)
    config = yaml.safe_load((project / "runs/retrain/config.yaml").read_text())
    config["model"]["network"]["init_args"]["cells_per_stage"] = 1_000_000_000
    (run / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.yaml: cells_per_stage must be at most 1,000"):
        RunFolder(run).module()
