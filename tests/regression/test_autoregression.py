"""The model of several fidelities is that of its formula."""

from __future__ import annotations

import numpy as np
import pytest

from oneshot.regression.autoregression import PRIOR, AutoregressiveBelief, AutoregressiveRegression
from oneshot.regression.features import ArchitectureFeatures
from oneshot.regression.gaussian_process import GaussianProcessRegression, rank_normal

from .toys import GENES, SPACE, TEST, errors

FEATURES = ArchitectureFeatures(SPACE)


def levels() -> list[tuple[list[np.ndarray], np.ndarray]]:
    """Short trainings of 80 architectures, with noise, and long ones of the best 20 of them."""
    short = errors(GENES[:80], noise=2.0)
    best = GENES[:80][np.argsort(short)[:20]]
    return [(FEATURES.encode(GENES[:80]), rank_normal(short)), (FEATURES.encode(best), rank_normal(errors(best)))]


def test_a_level_is_a_multiple_of_the_one_below_and_a_rest() -> None:
    (low, short), (high, long) = levels()
    model = AutoregressiveRegression([(low, short), (high, long)])
    below = GaussianProcessRegression(low, short)
    at = below.predict(high)[0]
    scaled = (at - at.mean()) / at.std()
    # the multiple by ridge regression towards 1: the prior is PRIOR samples of a target equal to the feature
    rho = np.linalg.lstsq(np.append(scaled, PRIOR**0.5)[:, None], np.append(long, PRIOR**0.5), rcond=None)[0][0]
    rest = GaussianProcessRegression(high, long - rho * scaled)
    others = FEATURES.encode(TEST[:50])
    mean, std = model.predict(others)
    first, second = below.predict(others), rest.predict(others)
    np.testing.assert_allclose(mean, rho * (first[0] - at.mean()) / at.std() + second[0], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(std**2, (rho / at.std() * first[1]) ** 2 + second[1] ** 2, rtol=1e-9, atol=1e-12)
    assert np.abs(mean - second[0]).max() > 0.1, "the test can tell that the level below counts"


def test_one_level_is_the_gaussian_process() -> None:
    (low, short), _ = levels()
    others = FEATURES.encode(TEST[:50])
    for ours, theirs in zip(
        AutoregressiveRegression([(low, short)]).predict(others), GaussianProcessRegression(low, short).predict(others)
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_long_trainings_of_few_are_predicted_by_short_ones_of_many() -> None:
    (low, short), (high, long) = levels()
    others, truth = FEATURES.encode(TEST), errors(TEST)
    both = np.corrcoef(AutoregressiveRegression([(low, short), (high, long)]).predict(others)[0], truth)[0, 1]
    alone = np.corrcoef(GaussianProcessRegression(high, long).predict(others)[0], truth)[0, 1]
    assert both > 0.7 and both > alone + 0.1


def test_two_long_trainings_do_not_turn_the_ranking() -> None:
    """By chance the worse of two short ones is the better long one; that is too little to believe."""
    (low, short), _ = levels()
    two = np.argsort(short)[[0, 40]]
    model = AutoregressiveRegression([(low, short), ([block[two] for block in low], np.array([0.67, -0.67]))])
    assert np.corrcoef(model.predict(low)[0], short)[0, 1] > 0.5


@pytest.mark.parametrize("level", [0, 1])
def test_what_is_in_flight_is_believed_at_its_level(level: int) -> None:
    model = AutoregressiveRegression(levels())
    belief = AutoregressiveBelief(model, FEATURES.encode(TEST[:50]))
    before, parts = belief.std, [part.std for part in belief._levels]
    belief.believe(7, level)
    belief.believe(7, 2)  # a level that has no results yet
    assert belief.std[7] < before[7] and belief.highest == 1
    assert belief._levels[level].std[7] < parts[level][7]
    np.testing.assert_array_equal(belief._levels[1 - level].std, parts[1 - level])
