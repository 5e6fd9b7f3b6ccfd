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
    assert (left.get_ylabel(), right.get_xlabel()) == ("accuracy", "size")
