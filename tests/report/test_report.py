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

from oneshot.cost import Agreement, Verification
from oneshot.report.cells import draw_cells
from oneshot.report.comparison import draw_comparison
from oneshot.report.curves import draw_alpha_heatmap, draw_alphas, draw_curves
from oneshot.report.latency import draw_agreement
from oneshot.report.segmentation import draw_segmentations
from oneshot.report.style import save_figure
from oneshot.report.tables import comparison_table, network_table
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


def test_every_network_is_a_point_and_its_two_measurements_a_line() -> None:
    measured = np.linspace(10, 20, 30)
    repeats, predicted = np.stack([measured - 0.2, measured + 0.2], 1), measured * 1.03
    same = Agreement.of(measured, measured)
    result = Verification(
        genes=[[0]] * 30,
        predicted=predicted.tolist(),
        measured=measured.tolist(),
        repeats=repeats.tolist(),
        agreement=Agreement.of(predicted, measured),
        by_the_clock=same,
        repeat=same,
        noise=0.02,
        drift=0.0,
        device={},
        date="2026-01-01",
    )
    figure = draw_agreement(result, title="a chip")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.collections[-1].get_offsets(), np.stack([measured, predicted], 1))
    np.testing.assert_allclose([line.get_xdata() for line in axes.lines[1:]], repeats)
    assert axes.get_xlim() == axes.get_ylim() and overlaps(figure) == []
    assert "100% within 5 %" in texts(figure)[0] and "noise 2.0%" in texts(figure)[1]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_pictures_are_written_whole(suffix: str, tmp_path: Path) -> None:
    path = save_figure(draw_cells([CHAIN]), tmp_path / "new" / f"chain{suffix}")
    assert path.stat().st_size > 1000 and list(path.parent.iterdir()) == [path]


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix of a picture must be one of .*got 'a.jpeg'"):
        save_figure(Figure(), tmp_path / "a.jpeg")
    assert not list(tmp_path.iterdir())


def test_drawing_changes_nothing_global() -> None:
    code = (
        "import matplotlib, sys\n"
        "now = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != 'backend'}\n"
        "before = now()\n"  # without the backend, which is chosen when it is asked for
        "from oneshot.report.cells import draw_cells; from oneshot.supernets import PUBLISHED\n"
        "draw_cells(PUBLISHED['DARTS_V2'].graphs())\n"
        "assert now() == before and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_segmentation_is_drawn_with_one_colour_to_a_class(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(256, size=(2, 8, 12, 3)).astype(np.uint8)
    masks = np.array([[[0] * 6 + [1] * 6] * 8, [[2] * 6 + [255] * 6] * 8])
    figure = draw_segmentations(images, masks, {"found": masks * 0, "k3_e3": masks}, ("sky", "road", "car"))
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "mask", "found", "k3_e3"]
    pictures = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    np.testing.assert_array_equal(pictures[0], images[0])
    np.testing.assert_array_equal(pictures[1], pictures[3])
    assert (pictures[2] == pictures[1][0, 0]).all() and (pictures[1][:, 6:] == pictures[1][0, 6]).all()
    assert (pictures[5][:, 6:] == 1).all()  # what is ignored is white
    assert len({tuple(colour) for colour in np.concatenate([*pictures[1], *pictures[5]])}) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sky", "road", "car", "ignored"]
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 1000


def test_twenty_classes_have_twenty_colours() -> None:
    masks = np.arange(20).reshape(1, 4, 5)
    figure = draw_segmentations(np.zeros((1, 4, 5, 1), np.uint8), masks, {"found": masks}, [str(i) for i in range(20)])
    colours = np.asarray(figure.axes[1].images[0].get_array()).reshape(20, 3)
    assert len({tuple(colour) for colour in colours}) == 20


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        pytest.param(
            np.zeros((1, 4, 4), int), r"mask must have a class for every pixel .* got \(1, 4, 4\)", id="shape"
        ),
        pytest.param(np.full((1, 4, 5), 7), r"mask must hold classes below 2, or 255; got \[7\]", id="class"),
    ],
)
def test_masks_that_do_not_fit_are_not_drawn(masks: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_segmentations(np.zeros((1, 4, 5, 3), np.uint8), masks, {}, ("a", "b"))


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


def test_places_without_curves_stay_empty() -> None:
    for count in range(1, 8):
        figure = draw_curves({f"loss {i}": {"train": ([1, 2], [0.5, 0.4])} for i in range(count)})
        assert [axes.get_title(loc="left") for axes in figure.axes] == [f"loss {i}" for i in range(count)]


def test_a_comparison_is_drawn_with_every_run_as_a_dot() -> None:
    values = {"test/mae": {"mine": {0: 0.5, 1: 0.7}, "random": {0: 0.9, 1: 0.9}}}
    figure = draw_comparison(values, {"test/mae": "min"}, {"mine": [3.0, 5.0], "random": [0.0, 0.0]})
    scores, times = figure.axes
    dots = [line for line in scores.lines if line.get_marker() == "o"]
    assert sorted(float(np.asarray(dot.get_xdata())[0]) for dot in dots) == [0.5, 0.7, 0.9, 0.9]
    assert len({float(np.asarray(dot.get_ydata())[0]) for dot in dots}) == 4  # equal values do not hide each other
    means = [float(np.asarray(line.get_xdata())[0]) for line in scores.lines if line.get_marker() != "o"]
    assert means == pytest.approx([0.6, 0.9]) and scores.get_xlabel() == "lower is better"
    assert [label.get_text() for label in scores.get_yticklabels()] == ["mine", "random"]
    (bar,) = times.patches
    assert bar.get_width() == 4.0  # type: ignore[attr-defined]  # a rectangle
    with pytest.raises(ValueError, match="at least one metric"):
        draw_comparison({}, {}, {})
