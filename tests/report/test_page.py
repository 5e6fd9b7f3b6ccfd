"""``report.html``: what it shows of each kind of folder, and that nothing of a folder can harm its reader."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from oneshot.cli.main import main
from oneshot.fronts.pick import at_most
from oneshot.report.evaluation import wilson
from oneshot.report.fronts import front_data, pick_command
from oneshot.report.page import parts_of, report_page, write_report

from .pages import EVIL, pareto_run, retrain_run, write

import numpy as np  # isort: skip


class Page(HTMLParser):
    """Tags, texts, ids and the data of charts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: list[dict[str, object]] = []
        self._json = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._json = tag == "script" and ("type", "application/json") in attrs

    def handle_data(self, data: str) -> None:
        if self._json:
            self.data.append(json.loads(data))
            self._json = False
        elif data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def page_of(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html" and path.stat().st_size < 3_000_000
    return Page(path.read_text(encoding="utf-8"))


def test_wilsons_interval_is_that_of_its_formula_and_not_the_normal_approximation() -> None:
    for right, samples in ((0, 7), (3, 7), (90, 100), (1000, 1000)):
        z, p = 1.959963984540054, right / samples
        middle = (p + z * z / (2 * samples)) / (1 + z * z / samples)
        half = z / (1 + z * z / samples) * math.sqrt(p * (1 - p) / samples + z * z / (4 * samples**2))
        assert wilson(right, samples) == pytest.approx((middle - half, middle + half), abs=1e-9)
    wald = 0.9 - 1.96 * math.sqrt(0.09 / 100)
    assert abs(wilson(90, 100)[0] - wald) > 0.01  # the test can tell them apart


def test_the_page_of_a_front_has_values_commands_curves_data_and_warnings_in_words(tmp_path: Path) -> None:
    page = page_of(pareto_run(tmp_path / "run"))
    front, *charts = page.data
    assert front["names"] == ["error", "latency", "macs"] and front["units"] == ["", "ms", ""]
    points = front["points"]
    assert isinstance(points, list) and len(points) == 6 and points[1]["c"] == "kernel: 3 5; width: 24"
    assert points[1]["k"] == f"oneshot pick {tmp_path}/run --at-most latency=2.25 macs=2000000.0"
    assert [bool(point["k"]) for point in points] == [True] * 3 + [False] * 3
    losses = next(chart for chart in charts if chart["title"] == "loss")
    assert losses["series"] == [{"name": "train", "k": 0, "x": [1.0, 2.0], "y": [2.0, 1.0]}]
    for said in (
        "Search of a front: run",
        "hardly better than a guess: Kendall's tau 0.10",
        "10 times as many training samples",
        "Classes with fewer than 20 training samples: dog (10)",
        "oneshot pareto --out run",
        "110",
        "3×32×32",
        "epoch 2: val 0.75",
    ):
        assert said in page.text, said


def test_the_page_of_a_test_has_the_interval_classes_confusions_and_mistakes(tmp_path: Path) -> None:
    page = page_of(retrain_run(tmp_path / "run"))
    low, high = wilson(35, 40)
    assert "87.50 %" in page.texts
    assert f"{100 * low:.1f} to {100 * high:.1f} % (95 %, Wilson), on 40 test samples" in page.texts
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 2  # the cell, and the mistake; a picture from elsewhere is left out
    assert all(str(attrs["src"]).startswith("data:image/") and attrs["alt"] for attrs in pictures)
    assert "dog, taken for " + EVIL + " (98 % sure)" in page.texts
    cells = re.findall(
        r'<td class="right" style="--share: ([\d.]+)">(\d+)</td>', (tmp_path / "run/report.html").read_text()
    )
    assert cells == [("0.76", "18"), ("0.72", "17")]
    assert "1,500" in page.texts and "2,000,000" in page.texts and "100.0 %" in page.texts


def test_text_of_a_folder_is_shown_as_text_and_nothing_is_loaded(tmp_path: Path) -> None:
    pareto_run(tmp_path / "both" / "a")
    retrain_run(tmp_path / "both" / "b")
    page = page_of(tmp_path / "both")
    text = (tmp_path / "both/report.html").read_text(encoding="utf-8")
    assert EVIL in page.text and EVIL not in text
    scripts = [attrs for tag, attrs in page.tags if tag == "script"]
    assert [attrs for attrs in scripts if attrs.get("type") != "application/json"] == [{}]  # ours
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "base")]
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/2000/svg", "", text)
    assert "default-src 'none'" in text


def test_anchors_are_unique_and_links_lead_to_them(tmp_path: Path) -> None:
    pareto_run(tmp_path / "both" / "a")
    retrain_run(tmp_path / "both" / "b")
    page = page_of(tmp_path / "both")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    links = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a"]
    assert len(ids) == len(set(ids)) and links and {link[1:] for link in links} <= set(ids)


def test_the_command_of_every_network_of_a_front_picks_that_one() -> None:
    names, signs = ("error", "latency", "macs"), (1.0, 1.0, 1.0)
    rng = np.random.default_rng(0)
    cloud = rng.random((200, 3))
    front = np.array([row for row in cloud if not ((cloud <= row).all(1) & (cloud < row).any(1)).any()])
    assert len(front) > 5
    for place, row in enumerate(front):
        command = pick_command("run", names, row.tolist(), signs)
        bounds = {name: float(value) for name, _, value in (word.partition("=") for word in command.split()[4:])}
        assert at_most(names, front, bounds) == place
        rounded = {name: float(f"{value:.1g}") for name, value in bounds.items()}
        assert bounds.keys() == {"latency", "macs"} and rounded != bounds
    # An objective that is maximised has no bound.
    assert pick_command("my run", ("loss", "accuracy"), [0.5, 0.25], (1.0, -1.0)) == (
        "oneshot pick 'my run' --near loss=0.5 accuracy=0.25"
    )


def test_a_front_of_many_networks_keeps_all_of_the_front_and_some_others() -> None:
    values = np.column_stack([np.linspace(0, 1, 9000), np.linspace(1, 0, 9000)])
    data = front_data(("error", "ms"), ("", "ms"), values, range(0, 9000, 1000), [str(i) for i in range(9000)])
    points = data["points"]
    assert {p["i"] for p in points if p["f"]} == set(range(0, 9000, 1000)) and 1500 < len(points) < 2100


def test_a_damaged_file_is_left_out_and_the_page_says_so(tmp_path: Path) -> None:
    folder = retrain_run(tmp_path / "run")
    (folder / "evaluation.json").write_text('{"classes": ["a"')
    (folder / "metrics.csv").write_text("epoch,train/loss\n0,much\n1,2\n")
    (folder / "network.json").write_text('{"network": "Y", "layers": [{"layer": 3}]}')
    page = page_of(folder)
    assert "evaluation.json is left out: " in page.text and "metrics.csv is left out: ValueError" in page.text
    assert "network.json is left out: KeyError" in page.text
    assert "87.50 %" in page.texts  # of results.json


def test_a_folder_of_nothing_is_refused_with_what_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "no")]) == 1
    error = capsys.readouterr().err
    assert "RUN must be the folder of a run" in error and "there is no such folder" in error
    write(tmp_path / "other", {"notes.txt": "x"})
    with pytest.raises(ValueError, match="RUN must be the folder of a run, a study"):
        write_report(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_the_summary_of_several_runs_comes_first_and_its_parts_after_it(tmp_path: Path) -> None:
    table = [
        {"network": "found", "accuracy": 0.9, "measured ms": 4.5},
        {"network": EVIL, "accuracy": None, "measured ms": 9.0},
    ]
    summary = {"title": "Best network", "lines": ["25 ms."], "warnings": [EVIL], "table": table}
    result = {"test": {"test/accuracy": 0.5833}, "file_ms": 0.19577, "limit_ms": 3.0}
    auto = write(tmp_path / "result", {"summary.json": summary | result})
    pareto_run(auto / "search")
    write(auto / "picked", {"manifest.json": {"metrics": {"val/accuracy": 0.9}, "params": 10, "files": {}}})
    assert [kind for _, kind in parts_of(auto)] == ["auto", "export", "pareto"]
    page = page_of(auto)
    assert page.text.index("25 ms.") < page.text.rindex("Exported network: picked")
    assert {"Best network: result", "measured ms", "4.5", "Search of a front: search"} <= set(page.texts)
    assert {"58.33 %", "0.1958 ms", "limit 3 ms"} <= set(page.texts)
    (auto / "summary.json").unlink()  # it goes on
    write(auto, {"plan.json": {}, "done.json": {}})
    assert "The result is not there yet." in page_of(auto).texts


def test_latencies_of_an_export_are_shown_with_doubts_in_words(tmp_path: Path) -> None:
    entry = {
        "file": "model.onnx",
        "measured_ms": 5.0,
        "spread_ms": 1.0,
        "predicted_ms": 3.0,
        "difference": 5 / 3 - 1,
        "runtime": "onnxruntime",
        "name": "a chip",
        "threads": 1,
        "batch": 1,
    }
    manifest = {"metrics": {"test/accuracy": 0.5, "front/error": 0.1}, "latency": [entry], "files": {"model.onnx": {}}}
    folder = write(tmp_path / "export", {"manifest.json": manifest, "model.onnx": "x" * 2500})
    page = page_of(folder)
    assert "± 1 ms, onnxruntime on a chip, 1 thread, batch 1; 3 ms predicted" in page.texts
    assert "The latency was noisy" in page.text and "67% above the predicted one" in page.text
    assert "2.5 kB" in page.texts and f"network = oneshot.load('{folder}')" in page.text
    assert "50.00 %" in page.texts and "front/error" not in page.text


def test_pixels_have_no_interval(tmp_path: Path) -> None:
    folder = retrain_run(tmp_path / "run")
    found = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps({**found, "independent": False}))
    page = page_of(folder)
    assert "Wilson" not in page.text and "on test samples" in page.texts and "pixels" in page.texts


def test_of_numbers_the_largest_errors_are_shown_and_no_accuracy(tmp_path: Path) -> None:
    folder = retrain_run(tmp_path / "run")
    mistake = {"true": "8", "predicted": "2.5", "error": 5.5, "index": 3, "file": None}
    found = {"split": "test", "samples": 9, "independent": False, "metrics": {"test/mae": 0.5}, "mistakes": [mistake]}
    (folder / "evaluation.json").write_text(json.dumps(found))
    page = page_of(folder)
    assert {"Largest errors", "8, predicted 2.5", "sample 3", "test mae", "0.5"} <= set(page.texts)
    assert "Wilson" not in page.text and "taken for" not in page.text


JUNK = (None, [], {}, "x", -1, 1e999, True, [[]], {"a": {}})


def with_junk(tree: Any, junk: object) -> Iterator[Any]:
    """The tree with junk in place of each of its parts, one after the other."""
    yield junk
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        for changed in with_junk(value, junk):
            copied = dict(tree) if isinstance(tree, dict) else list(tree)
            copied[key] = changed
            yield copied


@pytest.mark.parametrize("make", [pareto_run, retrain_run])
def test_whatever_stands_in_the_files_there_is_a_page(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    rng, written = np.random.default_rng(0), 0
    for path in sorted(folder.glob("*.json")):
        before = path.read_text(encoding="utf-8")
        for junk in JUNK:
            damaged = list(with_junk(json.loads(before), junk))
            for i in rng.permutation(len(damaged))[:12]:
                path.write_text(json.dumps(damaged[i]), encoding="utf-8")
                page = report_page(folder)
                assert EVIL not in page
                written += 1
        path.write_text(before, encoding="utf-8")
    assert written > 200
