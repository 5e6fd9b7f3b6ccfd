from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from oneshot.report import (
    comparison_table,
    draw_alpha_heatmap,
    draw_alphas,
    draw_cells,
    draw_curves,
    network_table,
    save_figure,
)
from oneshot.supernets import PUBLISHED, ArchGraph, NASBench201Space

CHAIN = ArchGraph(
    "chain", ("in", *(str(i) for i in range(1, 22)), "out"), tuple((i, i + 1, f"mb_k3_e{i % 3}") for i in range(22))
)
NB201 = NASBench201Space()
FULL_CELL = NB201.from_arch_string(
    "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_3x3~1|avg_pool_3x3~2|"
)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_text()]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts whose boxes, as rendered, intersect."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = [t for axes in figure.axes for t in axes.texts if t.get_text()]
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in found]
    return [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[i + 1 :] if one.overlaps(other)]


@pytest.mark.parametrize(
    "graphs",
    [
        *(pytest.param(genotype.graphs(), id=name) for name, genotype in PUBLISHED.items()),
        pytest.param(NB201.graphs(FULL_CELL), id="nasbench201"),
        pytest.param([CHAIN], id="chain"),
    ],
)
def test_every_operation_is_labelled_and_no_two_texts_overlap(graphs: list[ArchGraph]) -> None:
    figure = draw_cells(graphs)
    labels = texts(figure)
    for graph in graphs:
        for op in {label for _, _, label in graph.edges if label and label != "none"}:
            wanted = sum(label == op for g in graphs for _, _, label in g.edges)
            assert labels.count(op) == wanted
    assert "none" not in labels
    assert overlaps(figure) == []


def test_the_overlap_check_sees_an_overlap() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.text(0.5, 0.5, "one")
    axes.text(0.51, 0.5, "two")
    assert overlaps(figure) == [("one", "two")]


def test_alphas_get_a_panel_a_row_and_a_line_a_candidate() -> None:
    history = {"normal": np.random.default_rng(0).dirichlet(np.ones(8), (5, 14))}
    figure = draw_alphas(history, {"normal": [f"op{i}" for i in range(8)]})
    panels = [axes for axes in figure.axes if axes.lines]
    assert len(panels) == 14 and all(len(axes.lines) == 8 for axes in panels)
    np.testing.assert_allclose(panels[3].lines[2].get_ydata(), history["normal"][:, 3, 2])


def test_a_heat_map_shows_every_probability() -> None:
    probabilities = {"cell": np.array([[0.25, 0.75], [0.5, 0.5]])}
    figure = draw_alpha_heatmap(probabilities, {"cell": ["a", "b"]})
    assert sorted(t.strip("0") for t in texts(figure)) == sorted([".25", ".75", ".5", ".5"])


def test_wrong_shapes_name_the_choice() -> None:
    with pytest.raises(ValueError, match="cell"):
        draw_alpha_heatmap({"cell": np.ones((2, 3))}, {"cell": ["a", "b"]})


def test_curves_have_a_panel_a_quantity() -> None:
    figure = draw_curves({"loss": {"train": ([1, 2], [3.0, 2.0])}, "accuracy": {"val": ([1, 2], [0.1, 0.9])}})
    assert len([axes for axes in figure.axes if axes.lines]) == 2


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures_are_written_whole(suffix: str, tmp_path: Path) -> None:
    path = save_figure(draw_cells([CHAIN]), tmp_path / "new" / f"chain{suffix}")
    assert path.stat().st_size > 1000 and list(path.parent.iterdir()) == [path]


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Pictures are written as one of .*got 'a.jpeg'"):
        save_figure(Figure(), tmp_path / "a.jpeg")
    assert not list(tmp_path.iterdir())


def test_drawing_changes_nothing_global() -> None:
    code = (
        "import matplotlib, sys\n"
        "now = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != 'backend'}\n"
        "before = now()\n"  # without the backend, which is chosen when it is asked for
        "from oneshot.report import draw_cells; from oneshot.supernets import PUBLISHED\n"
        "draw_cells(PUBLISHED['DARTS_V2'].graphs())\n"
        "assert now() == before and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def render(table: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO above


def test_tables_align_numbers_and_mark_gaps() -> None:
    text = render(network_table([{"name": "a", "params": 1234567}, {"name": "b", "params": None}]))
    assert "1,234,567" in text and "–" in text


def test_a_comparison_shows_mean_and_sample_deviation_of_the_random_networks() -> None:
    random = [{"accuracy": a, "params": 100, "macs": 1000} for a in (0.9, 0.92, 0.94)]
    text = render(comparison_table({"accuracy": 0.95, "params": 200, "macs": 2000}, random))
    assert "95.00" in text and "92.00 ± 2.00" in text and "94.00" in text


def test_a_comparison_with_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one random network"):
        comparison_table({"accuracy": 1.0, "params": 1, "macs": 1}, [])
