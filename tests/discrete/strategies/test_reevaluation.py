"""The best of a study once more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from oneshot.discrete import (
    GridSearch,
    Proposal,
    RandomSearch,
    Reevaluation,
    Result,
    Study,
    TabularEvaluator,
    WeightedProduct,
)
from oneshot.supernets.space import Choice, SearchSpace, SubnetConfig

SPACE = SearchSpace("toy", (Choice("op", tuple("abcdef")),))
METRICS = {"accuracy": [0.3, 0.5, 0.6, 0.4, 0.2, 0.1], "params": [9.0, 9.0, 1.0, 9.0, 9.0, 9.0]}
TABLE = TabularEvaluator(SPACE, [[i] for i in range(6)], METRICS)
OBJECTIVES = ["max accuracy", "max params"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    Study(GridSearch(SPACE), TABLE, OBJECTIVES, evaluations=6, folder=tmp_path / "study").run()
    return tmp_path / "study"


def asked(strategy: Reevaluation) -> list[str]:
    found: list[str] = []
    while proposals := strategy.ask():
        found += [proposal.config["op"][0] for proposal in proposals]
    return found


def test_the_best_come_first_and_only_they(study: Path) -> None:
    assert asked(Reevaluation(SPACE, study, best=3)) == ["c", "b", "d"]
    assert asked(Reevaluation(SPACE, study, best=6)) == ["c", "b", "d", "a", "e", "f"]


def test_a_scalar_says_what_is_best(study: Path) -> None:
    strategy = Reevaluation(SPACE, study, best=2, scalar=WeightedProduct((1, 0.5)))
    better = TabularEvaluator(SPACE, [[1], [3]], {"accuracy": [0.6, 0.7], "params": [9.0, 9.0]})
    again = Study(strategy, better, OBJECTIVES, evaluations=10).run()
    assert [record.proposal.config["op"] for record in again.evaluated] == [("b",), ("d",)]
    assert again.best.proposal.config["op"] == ("d",)


class Rungs(RandomSearch):
    """All six at fidelity 1, then a, b and c at 4."""

    repeats = True

    def __init__(self) -> None:
        super().__init__(SPACE)
        self._plan = [(op, 1.0) for op in "abcdef"] + [(op, 4.0) for op in "abc"]

    def _propose(self) -> Proposal | None:
        if not self._plan:
            return None
        op, fidelity = self._plan.pop(0)
        return self._number(SubnetConfig("toy", {"op": [op]}), fidelity=fidelity)


def test_of_several_fidelities_one_is_named(tmp_path: Path) -> None:
    class Evaluator(TabularEvaluator):
        def __call__(self, proposal: Proposal) -> dict[str, float]:
            error = super().__call__(Proposal(proposal.number, proposal.config))["error"]
            return {"error": error if proposal.fidelity == 4 else -error}  # short ones mislead, and seem to be better

    errors = Evaluator(SPACE, [[i] for i in range(6)], {"error": [3.0, 2.0, 1.0, 4.0, 5.0, 6.0]})
    Study(Rungs(), errors, ["min error"], evaluations=9, folder=tmp_path / "study").run()
    assert asked(Reevaluation(SPACE, tmp_path / "study", best=3, fidelity=4)) == ["c", "b", "a"]
    assert asked(Reevaluation(SPACE, tmp_path / "study", best=2, fidelity=1)) == ["f", "e"]
    for wrong in (None, 2.0):
        with pytest.raises(ValueError, match=f"fidelity must be one of those of .*: 1, 4; got {wrong}"):
            Reevaluation(SPACE, tmp_path / "study", fidelity=wrong)


def test_a_changed_log_is_refused(study: Path) -> None:
    log = study / "log.jsonl"
    log.write_text(log.read_text(encoding="utf-8").replace("0.6", "0.1"), encoding="utf-8")
    with pytest.raises(ValueError, match="checksum"):
        Reevaluation(SPACE, study, best=2)


def test_failures_do_not_count(tmp_path: Path) -> None:
    class Failing(TabularEvaluator):
        def __call__(self, proposal: Proposal) -> dict[str, float]:
            if proposal.config["op"] == ("c",):
                raise RuntimeError("no")
            return super().__call__(proposal)

    evaluator = Failing(SPACE, [[i] for i in range(6)], METRICS)
    Study(RandomSearch(SPACE), evaluator, OBJECTIVES, evaluations=6, folder=tmp_path, retries=0).run()
    assert asked(Reevaluation(SPACE, tmp_path, best=2)) == ["b", "d"]
    with pytest.raises(
        ValueError, match="at least best=6 successful evaluations; .* has 5. Go on with it, or take fewer"
    ):
        Reevaluation(SPACE, tmp_path, best=6)


def test_it_is_told_as_other_strategies(study: Path) -> None:
    strategy = Reevaluation(SPACE, study, best=2)
    for proposal in strategy.ask(2):
        strategy.tell(Result(proposal.number, (float(-proposal.number),)))
    assert strategy.best.config["op"] == ("b",) and strategy.ask() == []


BAD: dict[str, Callable[[Path], object]] = {
    "best must be at least 1; got 0": lambda study: Reevaluation(SPACE, study, best=0),
    "study must be the folder of a discrete search; there is no log.jsonl in": lambda study: Reevaluation(
        SPACE, study.parent
    ),
    "must be of space 'toy' with the same choices": lambda study: Reevaluation(
        SearchSpace("toy", (Choice("op", ("x",)),)), study
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_argument_is_refused(message: str, study: Path) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message](study)
    assert sorted(path.name for path in study.parent.iterdir()) == ["study"]
