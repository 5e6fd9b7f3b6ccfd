"""What the documentation shows runs as it stands there."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from oneshot.cli.main import _parsers, main
from tests.processes import run_python

ROOT = Path(__file__).parents[1]
ADDING = (ROOT / "docs/adding.md").read_text()
METHOD, CONTRACT, SPACE, OPERATION, SUPERNET, COSTS, COST = re.findall(r"```python\n(.*?)```", ADDING, re.DOTALL)


def run(folder: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    result = run_python(*command, cwd=folder, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_new_method_is_under_a_hundred_lines() -> None:
    assert len((METHOD + CONTRACT).splitlines()) < 100


@pytest.mark.nightly
def test_the_new_method_searches(tmp_path: Path) -> None:
    assert re.search(r"^\|\w+~0\|\+", run(tmp_path, "-c", METHOD), re.MULTILINE)


@pytest.mark.slow
def test_the_new_method_keeps_the_contract(tmp_path: Path) -> None:
    definitions = METHOD[: METHOD.index("data = Digits()")]
    (tmp_path / "test_hardening.py").write_text(definitions + CONTRACT)
    assert " passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_hardening.py")


def test_a_space_of_ones_own_keeps_the_contract(tmp_path: Path) -> None:
    contract = """
import pytest
from oneshot.testing import SearchSpaceContract

class TestPairSpace(SearchSpaceContract):
    genes_per_mutation = 2

    @pytest.fixture
    def space(self):
        return PairSpace()
"""
    (tmp_path / "test_pair.py").write_text(SPACE + contract)
    assert " passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pair.py")


def test_an_operation_of_ones_own_is_under_25_lines_and_runs(tmp_path: Path) -> None:
    assert len(OPERATION.splitlines()) < 25
    says = "print(sum(type(m).__name__ == 'ChannelAttention' for net in (small, large) for m in net.modules()))"
    assert int(run(tmp_path, "-c", f"{OPERATION}\n{says}")) > 20


def test_a_supernet_of_any_kind_is_under_60_lines_and_keeps_the_contract(tmp_path: Path) -> None:
    assert len(SUPERNET.splitlines()) < 60
    (tmp_path / "mine.py").write_text(SUPERNET)
    (tmp_path / "test_mine.py").write_text("""
import pytest
from mine import TableSupernet
from oneshot.testing import SupernetContract

class TestTableSupernet(SupernetContract):
    @pytest.fixture
    def supernet(self):
        return TableSupernet()

def test_every_method_trains_it():
    import oneshot
    from oneshot.testing import fit, random_streams
    for method in (oneshot.RandomSharing, oneshot.ENAS, oneshot.BigNAS):
        supernet = TableSupernet()
        search = method(supernet, candidates=4, finalists=2)
        fit(search, random_streams(supernet, batches=2), epochs=1)
        supernet.space.validate(search.derive())
""")
    assert " passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py")


@pytest.mark.nightly
def test_the_supernet_of_any_kind_goes_from_the_search_of_a_front_to_a_loaded_export(tmp_path: Path) -> None:
    from sklearn.datasets import load_iris

    flowers = load_iris()
    names = [flowers.target_names[label] for label in flowers.target]
    rows = [",".join([*map(str, x), name]) for x, name in zip(flowers.data, names, strict=True)]
    (tmp_path / "iris.csv").write_text("\n".join(["a,b,c,d,species", *rows]))
    (tmp_path / "mine.py").write_text(SUPERNET)
    (commands,) = re.findall(r"```bash\n(oneshot pareto --model.supernet mine.*?)```", ADDING, re.DOTALL)
    search, pick = commands.replace("\\\n", "").strip().splitlines()

    run(tmp_path, "-m", *shlex.split(search), "--trainer.accelerator=cpu")
    run(tmp_path, "-m", *shlex.split(pick), "--formats=torch_export")

    said = run(tmp_path, "-c", "import oneshot; print(oneshot.load('runs/table/picked', trust=('mine',)).config)")
    assert re.search(r"activation: \w+; width: \d+ \d+ \d+", said)
    run(tmp_path, "-m", "oneshot", "measure", "--supernet=mine.TableSupernet", "--networks=40", "--out=runs/ms.csv")
    assert (tmp_path / "runs/ms.csv").is_file()


def test_costs_of_ones_own_go_into_a_search_of_a_front(tmp_path: Path) -> None:
    says = "print(search.pareto.objectives[0].values(search.supernet.space.sample_matrix(9, 0)).max() <= 6)"
    assert "True" in run(tmp_path, "-c", f"{COSTS}\n{says}")


def test_a_cost_of_ones_own_goes_into_a_search(tmp_path: Path) -> None:
    run(tmp_path, "-c", COST)


PAGE = (ROOT / "docs/discrete.md").read_text()
TRAINED, MINE, GREEDY, GREEDYS_CONTRACT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_the_study_of_the_page_on_discrete_search_runs(tmp_path: Path) -> None:
    # spawned processes aside, a study needs no guard
    assert "accuracy" in run(tmp_path, "-c", TRAINED)
    assert (tmp_path / "runs/evolution/log.jsonl").is_file()


def test_the_table_and_the_evaluator_of_ones_own_are_searched_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.csv").write_text("name,accuracy\n353-16,91.5\n333-8,90.0\n555-32,92.5\n")
    (commands,) = re.findall(r"```bash\n(oneshot discrete --strategy .*?)```", PAGE, re.DOTALL)
    mine, table = commands.replace("\\\n", "").strip().splitlines()
    assert "Best: kernel: 3 3 3; width: 32" in run(tmp_path, "-m", *shlex.split(mine))
    assert "Best: kernel: 5 5 5; width: 32" in run(tmp_path, "-m", *shlex.split(table), "--retries", "0")


def test_the_strategy_of_ones_own_searches_and_keeps_the_contract(tmp_path: Path) -> None:
    imports = "from oneshot.testing import StrategyContract\n"
    (tmp_path / "test_greedy.py").write_text(imports + GREEDY + GREEDYS_CONTRACT)
    assert " passed" in run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_greedy.py")


COMPARED = (ROOT / "docs/comparing.md").read_text()


@pytest.mark.nightly
def test_the_comparison_of_the_page_runs_in_python(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", COMPARED, re.DOTALL)
    assert "| GDAS, hot | 2 |" in run(tmp_path, "-c", code) and (tmp_path / "runs/compare/results.png").is_file()


def test_the_configuration_of_the_page_on_comparisons_is_one(tmp_path: Path) -> None:
    from oneshot.cli.compare import _Builder, _parse

    (text,) = re.findall(r"```yaml\n(.*?)```", COMPARED, re.DOTALL)
    (tmp_path / "compare.yaml").write_text(text.replace("my_package.MyMethod", "oneshot.SNAS"))
    builder = _Builder(_parse(["--config", str(tmp_path / "compare.yaml")]))
    labels = [entry.label for entry in builder.entries()]
    assert labels == ["DARTS", "DARTS, order 2", "PCDARTS", "SNAS", "random"]
    assert builder.setting(tmp_path).retrain_epochs == 20 and builder.config.baseline in labels


def test_the_page_on_own_data_runs_from_top_to_bottom(tmp_path: Path) -> None:
    page = (ROOT / "docs/own_data.md").read_text()
    (table,) = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    (tmp_path / "houses.csv").write_text(table)
    code = "import warnings\nwarnings.filterwarnings('ignore')\n" + "\n".join(
        re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    )
    assert "('size', 'town=Bonn', 'town=Kiel', 'town=Ulm', 'rooms')" in run(tmp_path, "-c", code)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.nightly
def test_the_page_on_conversion_runs_from_top_to_bottom(tmp_path: Path) -> None:
    page = (ROOT / "docs/convert.md").read_text()
    network, *rest = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (table,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(network)
    code = "import warnings\nwarnings.filterwarnings('ignore')\n" + "\n".join(rest)
    said = run(
        tmp_path, "-c", code.replace("warmup_epochs=4", "warmup_epochs=1").replace("max_epochs=8", "max_epochs=5")
    )
    assert table in said and "<class 'mine.Mine'>" in said
    found = re.search(r"^found: .*%, ([\d,]+) MACs$", said, re.MULTILINE)
    assert found is not None and int(found[1].replace(",", "")) <= 2_000_000
    assert (tmp_path / "faster/model.onnx").is_file()


@pytest.mark.slow
def test_the_command_and_the_yaml_of_the_page_on_own_data_run(tmp_path: Path) -> None:
    page = (ROOT / "docs/own_data.md").read_text()
    (command,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "gestures.npz", x=rng.normal(size=(60, 3, 50)), y=np.array(["wave", "point", "fist"] * 20))
    run(tmp_path, "-m", *shlex.split(command.replace("\\\n", "")))
    assert (tmp_path / "runs/gestures/subnet.json").is_file()
    (data,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    for kind in "ab":
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(256, size=(20, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{number}.png")
    code = (
        f"import yaml\nfrom oneshot.cli.data_defaults import build_data\nbuilt = build_data(yaml.safe_load({data!r}))"
    )
    assert "ColorJitter" in run(tmp_path, "-c", f"{code}\nprint(built.augmentation)")


PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")}
REFERENCE = {name: text for name, text in PAGES.items() if name.startswith("docs/reference/")}
PACKAGES = (
    "oneshot",
    "oneshot.callbacks",
    "oneshot.comparison",
    "oneshot.conversion",
    "oneshot.cost",
    "oneshot.data",
    "oneshot.discrete",
    "oneshot.nat",
    "oneshot.proxies",
)


def test_pretrained_weights_go_into_a_search_as_the_page_says(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["docs/nat.md"], re.DOTALL)
    offline = code.replace("pretrained=True", "pretrained=False")
    assert offline != code
    said = re.fullmatch(r"(\d+) tensors loaded, (\d+) stay random, \d+ are unused\n", run(tmp_path, "-c", offline))
    assert said and int(said[1]) > int(said[2])


def test_the_page_on_what_a_space_costs_shows_what_its_command_prints_and_runs(tmp_path: Path) -> None:
    page = PAGES["docs/profile.md"]
    (command,) = re.findall(r"```bash\n(.*?)\n```", page, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)\n```", page, re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    result = run_python("-m", *shlex.split(command), cwd=ROOT, env=environment)
    assert result.returncode == 3, result.stderr
    printed = result.stdout.rstrip("\n").split("\n\n")
    assert shown.split("\n\n") == [part for part in printed if not part.startswith(("params\n", "memory"))]
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    said = run(tmp_path, "-c", code).splitlines()
    assert len(said[0].split()) == 3 and 0 < float(said[1]) < 1 and said[2].startswith("False resolution: 112; ")


def test_vision_transformers_are_searched_and_loaded_as_the_page_says(tmp_path: Path) -> None:
    section = PAGES["docs/methods.md"].partition("## Vision transformers")[2].partition("\n## ")[0]
    search, loading = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    said = run(tmp_path, "-c", f"{search}\nprint(type(network).__name__, search.derive().space)")
    assert said.splitlines()[-1] == "ViTNetwork vit"
    assert (
        run(tmp_path, "-c", f"{loading.replace('load_timm(s', 'result = load_timm(s')}\nprint(result.unused)") == "()\n"
    )


def test_series_are_searched_as_the_page_says(tmp_path: Path) -> None:
    section = PAGES["docs/methods.md"].partition("## Series, volumes, texts and tables")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    said = run(tmp_path, "-c", f"{code}\nprint(type(network).__name__, network.input_shape)")
    assert said.splitlines()[-1] == "SeriesNetwork (1, 96)"


def test_the_first_page_lists_every_command_with_a_line_and_a_link() -> None:
    help_text = _parsers()[0].format_help()
    commands = re.findall(r"^    (\w+)(?:  |$)", help_text.partition("COMMAND\n")[2], re.MULTILINE)
    listed = dict(re.findall(r"^\| `oneshot (\w+)` \| \w.{15,} \| (\[.*\)) \|$", PAGES["docs/index.md"], re.MULTILINE))
    assert len(commands) > 10 and sorted(listed) == sorted(commands)


def test_the_page_on_results_has_the_numbers_of_the_experiments() -> None:
    page = PAGES["docs/results.md"]
    rows = re.findall(r"^\| (?!question|strategy|--)[^|]+ \| (.+) \| `(experiments/\w+)` \|$", page, re.MULTILINE)
    assert len(rows) > 12
    rows += [
        (row, "experiments/discrete") for row in re.findall(r"^\| [\w ]+ \| \d+ \| [^|]+ \| [^|]+ \|$", page, re.M)
    ]
    for said, folder in rows:
        source = (ROOT / folder / "README.md").read_text(encoding="utf-8").replace("*", "")
        numbers = re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?|\d+ %", said)
        missing = [number for number in numbers if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", source)]
        assert missing == [], f"{folder}: {said}"


def test_the_example_of_the_page_on_concepts_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["docs/concepts.md"], re.DOTALL)
    said = run(tmp_path, "-c", f"{code}\nprint(type(network).__name__)")
    assert "(6, 5)" in said and said.splitlines()[-1] == "NASBench201Network"


FILLED_IN = """
import csv
with open("measure.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.reader(file))
for number, row in enumerate(rows[1:]):
    row[rows[0].index("ms")] = str(10 + number)
with open("measure.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows(rows)
"""
MANY = """
genes = space.sample_matrix(200, 1)
milliseconds = 5 + genes.sum(1) / 10
"""


def test_the_page_on_ten_measurements_runs(tmp_path: Path) -> None:
    few, many = re.findall(r"```python\n(.*?)```", PAGES["docs/few_shot.md"], re.DOTALL)
    assert few.count("# ... measure them on the device, fill in the column ms ...") == 1
    few = few.replace("# ... measure them on the device, fill in the column ms ...", FILLED_IN)
    said = run(tmp_path, "-c", f"{few}\nprint(len(low), bool((low < high).all()))\n{MANY}{many}").splitlines()
    assert said[0] == "100 True" and len(said) >= 3


@pytest.mark.nightly
def test_the_example_of_the_first_page_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["docs/index.md"], re.DOTALL)
    assert "NASBench201Network" in run(tmp_path, "-c", f"{code}\nprint(type(network).__name__)")


SHORT = {"latency": "search", "methods": "search", "nat": "pareto", "running": "search"}


@pytest.mark.parametrize("page", SHORT)
def test_the_settings_of_a_page_are_settings(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parsed by the command that they are for, with the supernet or the data that a page leaves out."""
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGES[f"docs/{page}.md"], re.DOTALL)
    settings = yaml.safe_load(text)
    options = settings["model"].setdefault("init_args", {})
    options.setdefault("supernet", {"class_path": "oneshot.supernets.NASBench201Supernet"})
    settings.setdefault("data", {"class_path": "oneshot.data.Digits"})
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = [SHORT[page], "--config", str(tmp_path / "page.yaml"), "--out", str(tmp_path / "out"), "--print_config"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    for name, value in options.items():
        assert name in printed and (isinstance(value, dict | list) or printed[name] == value)
    options["misspelt"] = 1
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code != 0, "a variant that must fail"


def test_the_lines_of_python_of_the_pages_on_methods_running_and_reports_run(tmp_path: Path) -> None:
    sampler = re.findall(r"```python\n(.*?)```", PAGES["docs/methods.md"], re.DOTALL)[0]
    (retrain,) = re.findall(r"```python\n(.*?)```", PAGES["docs/running.md"], re.DOTALL)
    (report,) = re.findall(r"```python\n(.*?)```", PAGES["docs/report.md"], re.DOTALL)
    network = "network = search.supernet.extract(search.supernet.space.sample(0))"
    before = "from pathlib import Path\nimport oneshot\nfrom oneshot import Retrain"
    network += "\noneshot.export_subnet(network, 'runs/digits')"
    written = "print(Path('runs/digits/report.html').is_file())"
    said = run(tmp_path, "-c", "\n".join([before, sampler, network, retrain, report, written]))
    assert said.splitlines()[-1] == "True"


def test_every_page_is_in_the_navigation_and_linked_from_the_first_page() -> None:
    names = {name.removeprefix("docs/") for name in PAGES} - {"index.md"}
    navigation = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(navigation) == sorted({*names, "index.md"})
    assert {name for name in names if f"]({name})" not in PAGES["docs/index.md"]} == set()


def test_every_entry_of_the_reference_has_a_line_that_says_what_it_is() -> None:
    for name, text in REFERENCE.items():
        entries = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
        assert entries, name
        for entry in entries:
            importlib.import_module(entry)
            # the line is readable where nothing renders the directive
            assert re.search(
                rf"^\*\*`{re.escape(entry)}`\*\* (?:.|\n(?!\n)){{20,}}\.\n\n::: {re.escape(entry)}$", text, re.M
            ), f"{name}: {entry}"


@pytest.mark.parametrize("package", [*PACKAGES, "oneshot.supernets"])
def test_every_public_name_is_on_a_page_of_the_reference_beside_its_module(package: str) -> None:
    module = importlib.import_module(package)
    where = {}
    for block in ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8")).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for node in block.body:
                assert isinstance(node, ast.ImportFrom)
                source = f"{package}.{node.module}" if node.level else str(node.module)
                where |= {alias.name: source for alias in node.names}
    assert set(where) == set(module.__all__) - {"__version__"} and where
    entries = dict(re.findall(r"^\*\*`(\S+)`\*\* ((?:.|\n(?!\n))+)", "\n".join(REFERENCE.values()), re.MULTILINE))
    assert [name for name, source in where.items() if f"`{name}`" not in entries.get(source, "")] == []


def test_the_page_on_scores_without_training_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGES["docs/proxies.md"], re.DOTALL)
    said = run(tmp_path, "-c", "\n".join(blocks))
    assert "'synflow': " in said and "cell: " in said and said.splitlines()[-1] == "(4, 3)"


@pytest.mark.slow
def test_the_page_on_tasks_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tasks.md").read_text(), re.DOTALL)
    said = run(tmp_path, "-c", "\n".join(blocks))
    predictions = re.search(r"tensor\(\[\[ *([\d.]+)", said)
    assert predictions is not None and 20 < float(predictions[1]) < 300  # in the units of y
    assert said.rstrip().endswith("SpearmanCorrCoef max")
