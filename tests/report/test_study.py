"""The picture of a study shows every evaluation, the best so far and the front."""

from __future__ import annotations

import numpy as np

from oneshot.discrete import GridSearch, Study, TabularEvaluator
from oneshot.discrete.protocol import listed
from oneshot.report.study import draw_study
from oneshot.supernets.space import Choice, SearchSpace

SPACE = SearchSpace("toy", (Choice("layer", ("a", "b", "c"), rows=2),))


def test_evaluations_the_best_so_far_and_the_front_are_drawn() -> None:
    genes = listed(SPACE)
    table = TabularEvaluator(SPACE, genes, {"accuracy": genes.sum(1), "size": 1 + 9.0 * genes[:, 0]})
    study = Study(GridSearch(SPACE), table, ["max accuracy", "min size"], evaluations=9).run()
    figure = draw_study(study, title="toy")
    left, right = figure.axes
    (best,) = left.lines
    accuracies = [record.result.metrics["accuracy"] for record in study.evaluated]
    np.testing.assert_array_equal(best.get_ydata(), np.maximum.accumulate(accuracies))
    others, front = (np.asarray(dots.get_offsets()) for dots in right.collections)
    on_front = sorted((r.result.metrics["size"], r.result.metrics["accuracy"]) for r in study.front())
    assert sorted(map(tuple, front)) == on_front and len(others) == 9 - len(on_front)
    assert (left.get_ylabel(), right.get_xlabel()) == ("accuracy (more is better)", "size (less is better)")


def test_a_few_evaluations_that_came_to_nothing_do_not_squeeze_the_others() -> None:
    genes = listed(SPACE)
    accuracy = 0.9 + 0.01 * genes.sum(1)
    accuracy[4] = 0.1
    latency = 2.0 + genes[:, 0] * 1.0 + genes[:, 1]
    table = TabularEvaluator(
        SPACE, genes, {"accuracy": accuracy, "latency": latency, "params": 10.0 ** (3 + genes[:, 1])}
    )
    study = Study(GridSearch(SPACE), table, ["max accuracy", "min latency", "min params"], evaluations=9).run()
    figure = draw_study(study)
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in panels[1:]] == ["latency, ms (less is better)", "params (less is better)"]
    assert all(axes.get_ylim()[0] > 0.8 for axes in panels)
    for axes in panels:
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert "1 far worse, beyond the edge" in texts
    assert panels[2].get_xscale() == "log"
    assert {"1k", "100k"} <= {label.get_text() for label in panels[2].get_xticklabels()}
    assert len(figure.axes) == 4 and figure.get_size_inches()[0] < 11  # two beside each other
