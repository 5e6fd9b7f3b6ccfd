"""What a strategy refuses to be told."""

from __future__ import annotations

import math

import pytest

from oneshot.discrete import RandomSearch, Result
from oneshot.testing.strategies import SPACE


def test_a_result_answers_a_pending_proposal_once() -> None:
    strategy = RandomSearch(SPACE)
    strategy.ask()
    strategy.tell(Result(0, (1.0,)))
    with pytest.raises(ValueError, match="must answer a pending proposal; number 0 was told already"):
        strategy.tell(Result(0, (1.0,)))
    with pytest.raises(ValueError, match="number 7 was never asked for"):
        strategy.tell(Result(7, (1.0,)))


def test_values_are_finite_and_a_refused_result_leaves_its_proposal_pending() -> None:
    strategy = RandomSearch(SPACE, scalar=lambda values: math.nan if values[0] > 1 else values[0])
    strategy.ask()
    with pytest.raises(ValueError, match=r"number 0 has \(inf,\). An evaluation that failed has values=None"):
        strategy.tell(Result(0, (math.inf,)))
    with pytest.raises(ValueError, match=r"that of this RandomSearch gives none for \(2.0,\)"):
        strategy.tell(Result(0, (2.0,)))
    assert list(strategy.pending) == [0] and not strategy.observed
    strategy.tell(Result(0, (0.5,)))
    assert strategy.best.number == 0


def test_a_strategy_is_asked_for_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least one proposal; got n=0"):
        RandomSearch(SPACE).ask(0)


def test_a_state_is_loaded_into_a_new_strategy() -> None:
    strategy = RandomSearch(SPACE)
    strategy.ask()
    with pytest.raises(RuntimeError, match="loaded into a new strategy; this one was asked already"):
        strategy.load_state_dict(strategy.state_dict())
    state = {**strategy.state_dict(), "schema_version": 0}
    with pytest.raises(ValueError, match="has the schema_version 1, the saved one 0"):
        RandomSearch(SPACE).load_state_dict(state)
