from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from oneshot.discrete import (
    BANANAS,
    NSGA2,
    GridSearch,
    LocalSearch,
    MnasNetScalar,
    Objective,
    Proposal,
    RandomSearch,
    RegularizedEvolution,
    Result,
    SearchStrategy,
    Study,
    TabularEvaluator,
    TournamentEvolution,
)
from oneshot.discrete.events import EventLog
from oneshot.discrete.protocol import listed
from oneshot.parallel import pools
from oneshot.parallel import ray as cluster
from oneshot.supernets import Choice, SearchSpace
from oneshot.testing.strategies import SPACE

GENES = listed(SPACE)


def table() -> TabularEvaluator:
    return TabularEvaluator(SPACE, GENES, {"accuracy": 100 - GENES.sum(1), "latency": 1 + GENES[:, 5] + GENES[:, 0]})


class Faulty:
    """An evaluator in other processes, with what may go wrong there."""

    metrics = ("error",)

    def __init__(self, folder: Path, faults: Mapping[int, str], *, once: bool = False) -> None:
        self.folder, self.faults, self.once = folder, dict(faults), once

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        with (self.folder / "evaluated").open("a") as file:
            file.write(f"{proposal.number}\n")
        tries = (self.folder / "evaluated").read_text().split().count(str(proposal.number))
        fault = self.faults.get(proposal.number) if not self.once or tries == 1 else None
        if fault == "raises":
            raise RuntimeError("out of paper\nand ink")
        if fault == "nan":
            return {"error": math.nan}
        if fault == "nothing":
            return {}
        if fault == "exits":
            raise SystemExit("no licence")  # as sys.exit does, which wandb replaces where a test has used it
        if fault == "number":
            return 0.5  # type: ignore[return-value]  # what is wrong with it
        if fault == "hangs":
            time.sleep(600)
        if fault == "leaves a child":
            if (child := os.fork()) == 0:
                time.sleep(600)
            (self.folder / "child").write_text(str(child))
        if fault in ("dies", "leaves a child"):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"error": float(proposal.number)}


def times_evaluated(folder: Path) -> dict[int, int]:
    numbers = [int(line) for line in (folder / "evaluated").read_text().split()]
    return {number: numbers.count(number) for number in numbers}


def test_a_study_finds_the_best_of_a_table_and_knows_its_front() -> None:
    study = Study(NSGA2(SPACE, population=10), table(), ["max accuracy", "min latency"], evaluations=120).run()
    assert len(study.evaluated) == 120
    assert study.best.result.metrics["accuracy"] == 100
    assert [record.result.metrics["latency"] for record in study.front()] == [1.0], "one network is best in both"
    assert (np.diff(study.trajectory()) <= 0).all()


def test_repeated_architectures_are_answered_from_the_log_and_cost_nothing() -> None:
    class Stubborn(RandomSearch):
        repeats = True

        def _propose(self) -> Proposal | None:
            return self._new(GENES[self.rng.integers(4)])

    study = Study(Stubborn(SPACE), table(), ["max accuracy"], evaluations=5).run()
    assert len(study.evaluated) == 4, "there are no more, so it ended after many repetitions"
    assert len(study.records) > 100


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: RegularizedEvolution(SPACE, population=8, sample=3, seed=1), id="evolution"),
        pytest.param(lambda: LocalSearch(SPACE, seed=1), id="local-search"),
    ],
)
def test_a_study_that_was_stopped_ends_as_one_that_was_not(build: Callable[[], SearchStrategy], tmp_path: Path) -> None:
    whole = Study(build(), table(), ["max accuracy"], folder=tmp_path / "whole", evaluations=40).run()
    for stop in (7, 23, 40):
        parts = Study(build(), table(), ["max accuracy"], folder=tmp_path / "parts", evaluations=stop).run()
    assert [r.proposal for r in parts.records] == [r.proposal for r in whole.records]
    assert [r.result.values for r in parts.records] == [r.result.values for r in whole.records]


@pytest.mark.parametrize(
    ("strategy", "first"),
    [
        pytest.param(lambda n: RegularizedEvolution(SPACE, population=n, sample=2), 6, id="evolution"),
        pytest.param(lambda n: NSGA2(SPACE, population=n), 6, id="nsga2"),
        pytest.param(lambda n: TournamentEvolution(SPACE, population=n), 6, id="tournaments"),
        pytest.param(lambda n: BANANAS(SPACE, initial=n), 6, id="bananas"),
        pytest.param(lambda n: LocalSearch(SPACE, initial=n), 6, id="local-search"),
    ],
)
def test_a_budget_that_makes_a_strategy_random_search_is_said(
    strategy: Callable[[int], SearchStrategy], first: int
) -> None:
    """Up to the last random architecture, results have no part in what is proposed."""
    other, better = ([p.config for p in _told(strategy(first), sign)] for sign in (1, -1))
    assert other[:first] == better[:first]

    for evaluations in (2, first):
        with pytest.warns(UserWarning, match=f"first {first} .* with evaluations={evaluations} this is random search"):
            Study(strategy(first), table(), ["max accuracy"], evaluations=evaluations).run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Study(strategy(first), table(), ["max accuracy"], evaluations=first + 1).run()
        Study(RandomSearch(SPACE), table(), ["max accuracy"], evaluations=2).run()
        Study(strategy(first), table(), ["max accuracy"], hours=1e-9).run()


def _told(strategy: SearchStrategy, sign: int) -> list[Proposal]:
    """The first proposals of a strategy that is told made-up results."""
    found = []
    for number in range(6):
        found += strategy.ask()
        strategy.tell(Result(number, (sign * float(number),) * 2))
    return found


def test_every_cut_of_the_log_is_a_place_to_go_on_from(tmp_path: Path) -> None:
    def study(folder: Path) -> Study:
        strategy = RegularizedEvolution(SPACE, population=4, sample=2, seed=2)
        return Study(strategy, table(), ["max accuracy"], folder=folder, evaluations=10)

    whole = study(tmp_path / "whole").run()
    log = (tmp_path / "whole" / "log.jsonl").read_bytes()
    for cut in range(1, len(log), 97):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "log.jsonl").write_bytes(log[:cut])
        resumed = study(folder).run()
        assert [r.proposal for r in resumed.records] == [r.proposal for r in whole.records]
        numbers = [e["number"] for e in EventLog(folder / "log.jsonl").events if e["event"] == "tell"]
        assert sorted(numbers) == list(range(10)), "nothing twice, nothing lost"


def test_asking_in_vain_is_followed_too(tmp_path: Path) -> None:
    class Hesitant(RandomSearch):
        """Draws before it knows whether it proposes, and waits for what is in flight."""

        def _propose(self) -> Proposal | None:
            return super()._propose() if self.rng.random() < 0.7 else None

    def study(folder: Path, evaluations: int) -> Study:
        return Study(Hesitant(SPACE, seed=3), table(), ["max accuracy"], folder=folder, evaluations=evaluations)

    for _ in range(10):
        parts = study(tmp_path, 30).run()
    assert len(parts.evaluated) > 5
    assert [r.proposal for r in study(tmp_path, 30).records] == [r.proposal for r in parts.records]
    restored = Hesitant(SPACE, seed=3)
    restored.load_state_dict(parts.strategy.state_dict())
    assert restored.rng.random() == parts.strategy.rng.random()


def test_a_run_that_was_interrupted_goes_on_in_the_same_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("oneshot.discrete.study.time", SimpleNamespace(monotonic=lambda: now[0]))

    class Interrupted(Faulty):
        def __call__(self, proposal: Proposal) -> dict[str, float]:
            now[0] += 1.0
            if proposal.number == 2 and not (self.folder / "stopped").exists():
                (self.folder / "stopped").touch()
                raise KeyboardInterrupt
            return super().__call__(proposal)

    study = Study(LocalSearch(SPACE), Interrupted(tmp_path, {}), ["min error"], folder=tmp_path, evaluations=9)
    with pytest.raises(KeyboardInterrupt):
        study.run()
    now[0] += 1_000.0
    assert [r.proposal.number for r in study.run().evaluated] == list(range(9)), "what was in flight began again"
    assert 9 <= study.log.events[-1]["at"] <= 10, "stops are not counted"
    times = [event["at"] for event in study.log.events[1:]]
    assert times == sorted(times)


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    first, second = build(folder=tmp_path), build(folder=tmp_path)
    with first.log.alone(), pytest.raises(RuntimeError, match="is being written by another run: this process on "):
        second.run()
    first.run()
    with pytest.raises(RuntimeError, match="log.jsonl was written to since it was read"):
        second.run()
    assert len(build(folder=tmp_path).records) == 5


@pytest.mark.nightly  # begins processes
def test_processes_that_never_begin_are_no_failures_of_evaluations(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert "keep that line under 'if __name__ == \"__main__\"'" in ended.stderr
    assert not [e for e in EventLog(tmp_path / "log.jsonl").events if e["event"] == "tell"]


UNGUARDED = """
import sys
from pathlib import Path
from tests.discrete.test_study import SPACE, Faulty, RandomSearch, Study
folder = Path(sys.argv[1])
Study(RandomSearch(SPACE), Faulty(folder, {}), ["min error"], folder=folder, evaluations=60, workers=1).run()
"""


SCRIPT = """
import sys
from pathlib import Path
from tests.discrete.test_study import SPACE, Faulty, RegularizedEvolution, Study

class Slow(Faulty):
    def __call__(self, proposal):
        import time
        time.sleep(0.02)
        return super().__call__(proposal)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    strategy = RegularizedEvolution(SPACE, population=5, sample=3)
    Study(strategy, Slow(folder, {}), ["min error"], folder=folder, evaluations=60, progress=False).run()
"""


@pytest.mark.nightly  # begins six processes
def test_killed_again_and_again_it_loses_nothing_and_evaluates_nothing_finished_twice(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    log, kills = tmp_path / "log.jsonl", 0
    for rows in (3, 40, 41, 75, 100):
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(root)})
        while process.poll() is None and (not log.is_file() or log.read_bytes().count(b"\n") < rows):
            time.sleep(0.002)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, check=True)

    assert kills >= 4
    record_property("kills", kills)
    told = [event["number"] for event in EventLog(log).events if event["event"] == "tell"]
    assert sorted(told) == list(range(60))
    assert sum(times_evaluated(tmp_path).values()) <= 60 + kills, "only what was in flight began again"
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    strategy = RegularizedEvolution(SPACE, population=5, sample=3)
    whole = Study(strategy, Faulty(quiet, {}), ["min error"], evaluations=60).run()
    resumed = Study(
        RegularizedEvolution(SPACE, population=5, sample=3),
        Faulty(quiet, {}),
        ["min error"],
        folder=tmp_path,
        evaluations=60,
    )
    assert [r.proposal for r in resumed.records] == [r.proposal for r in whole.records]


def test_failures_are_tried_again_recorded_and_never_fatal(tmp_path: Path) -> None:
    faults = {1: "raises", 2: "nan", 3: "nothing"}
    study = Study(RandomSearch(SPACE), Faulty(tmp_path, faults), ["min error"], evaluations=6, retries=2).run()
    failures = {r.proposal.number: r.result.failure for r in study.records if r.result.failure}
    assert failures.keys() == {1, 2, 3}
    assert failures[1].startswith("RuntimeError: out of paper (test_study.py:")  # type: ignore[union-attr]
    assert failures[2] == "error is nan" and failures[3] == "the evaluator gave no error"
    assert times_evaluated(tmp_path) == {0: 1, 1: 3, 2: 3, 3: 3, 4: 1, 5: 1}
    assert study.best.proposal.number == 0


class Odd:
    """Latencies, some of which no reward is defined for."""

    metrics = ("accuracy", "latency")

    def __init__(self, latencies: list[float]) -> None:
        self.latencies = latencies

    def __call__(self, proposal: Proposal) -> dict[str, float]:
        return {"accuracy": 0.5, "latency": self.latencies[proposal.number % len(self.latencies)]}


def test_what_a_scalar_cannot_weigh_is_a_failure_and_no_end(tmp_path: Path) -> None:
    def study(evaluations: int) -> Study:
        strategy = RandomSearch(SPACE, scalar=MnasNetScalar(2.0))
        evaluator: Any = Odd([1.0, 0.0, 3.0])
        objectives = ["max accuracy", "min latency"]
        return Study(strategy, evaluator, objectives, folder=tmp_path, evaluations=evaluations, retries=0)

    study(4).run()
    done = study(6).run()  # goes on from its log
    failures = [record.result.failure for record in done.evaluated]
    assert [failure is None for failure in failures] == [True, False, True] * 2
    assert "the scalar cannot weigh (-0.5, 0.0): A reward must be of" in str(failures[1])


def test_a_scalar_that_fits_no_evaluation_is_an_error_before_all_are_made() -> None:
    evaluator: Any = Odd([1.0])
    strategy = RandomSearch(SPACE, scalar=MnasNetScalar(2.0))
    study = Study(strategy, evaluator, ["min accuracy", "min latency"], evaluations=100)
    with pytest.raises(
        ValueError, match=r"cannot weigh the first evaluation, with min accuracy, min latency minimised"
    ):
        study.run()
    assert not study.records


def test_an_evaluation_that_exits_or_gives_a_bare_number_is_a_failure_like_others(tmp_path: Path) -> None:
    evaluator = Faulty(tmp_path, {0: "exits", 1: "number"})
    study = Study(RandomSearch(SPACE), evaluator, ["min error"], evaluations=3, retries=0).run()
    exits, number, whole = (record.result.failure for record in study.records)
    assert exits is not None and exits.startswith("SystemExit: no licence (test_study.py:")
    assert number is not None and number.startswith("TypeError: an evaluator must give {metric: number}; got float")
    assert whole is None


def test_an_evaluator_that_cannot_be_sent_to_other_processes_is_said_at_once(tmp_path: Path) -> None:
    class Local(Faulty):
        pass

    study = Study(RandomSearch(SPACE), Local(tmp_path, {}), ["min error"], evaluations=2, workers=1)
    with pytest.raises(ValueError, match="must be picklable; this is not: .*Local.* Define what it holds at the top"):
        study.run()


def test_an_evaluation_that_a_cluster_kills_for_memory_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")

    class Full:
        """A cluster whose node has no memory left."""

        exceptions = ray.exceptions
        nodes = staticmethod(lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
        put = staticmethod(lambda evaluator: evaluator)
        is_initialized = staticmethod(lambda: False)

        @staticmethod
        def remote(**options: Any) -> Callable[[Any], Any]:
            actor = SimpleNamespace(
                ready=SimpleNamespace(remote=lambda: "ready"), run=SimpleNamespace(remote=lambda task: "task")
            )
            return lambda kind: SimpleNamespace(remote=lambda *arguments: actor)

        @staticmethod
        def wait(references: list[str], **options: Any) -> tuple[list[str], list[str]]:
            return references, []

        @staticmethod
        def get(reference: str) -> Any:
            if reference == "ready":
                return None
            raise ray.exceptions.OutOfMemoryError("the node was running low on memory")

    monkeypatch.setattr(pools, "connect", lambda *arguments: Full)
    for module in (pools, cluster):
        monkeypatch.setattr(module, "check_there", lambda ray: None)
    study = Study(RandomSearch(SPACE), table(), ["max accuracy"], evaluations=2, workers=1, ray="local", retries=0)
    assert {record.result.failure for record in study.run().records} == {
        "its worker died (OutOfMemoryError: the node was running low on memory)"
    }


def test_a_fault_that_passes_is_no_failure(tmp_path: Path) -> None:
    evaluator = Faulty(tmp_path, {1: "raises", 2: "nan"}, once=True)
    study = Study(RandomSearch(SPACE), evaluator, ["min error"], evaluations=4).run()
    assert all(record.result.failure is None for record in study.records)


ENDLESS = """
import os, sys, time
from pathlib import Path
from oneshot.discrete import RandomSearch, Study
from oneshot.testing.strategies import SPACE

class Endless:
    metrics = ("error",)

    def __call__(self, proposal):
        (folder / "new").write_text(str(os.getpid()))
        (folder / "new").rename(folder / "worker")
        time.sleep(600)

folder = Path(sys.argv[1])
if __name__ == "__main__":
    Study(RandomSearch(SPACE), Endless(), ["min error"], folder=folder, evaluations=2, workers=1, progress=False).run()
"""


class Interrupted(RegularizedEvolution):
    """Is interrupted in the middle of a proposal, once it has drawn a random number."""

    at = 6

    def _propose(self) -> Proposal | None:
        self.rng.random()
        if self._next == Interrupted.at:
            Interrupted.at = -1
            raise KeyboardInterrupt
        return super()._propose()


def test_a_study_interrupted_between_strategy_and_log_says_so_and_goes_on_from_the_log(tmp_path: Path) -> None:
    def study() -> Study:
        strategy = Interrupted(SPACE, population=4, sample=2)
        return Study(strategy, table(), ["max accuracy"], folder=tmp_path, evaluations=12)

    Interrupted.at = 6
    first = study()
    with pytest.raises(KeyboardInterrupt):
        first.run()
    with pytest.raises(RuntimeError, match=r"between its strategy and its log\. Construct it again"):
        first.run()
    study().run()
    assert len(study().evaluated) == 12, "the log can be followed once more"


def test_a_log_that_could_not_be_written_holds_what_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "log.jsonl")
    log.append({"event": "wait", "at": 0.0})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *arguments, **options: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            log.append({"event": "wait", "at": 1.0})
    log.append({"event": "wait", "at": 2.0})
    assert log.events == EventLog(log.path).events == [{"event": "wait", "at": at} for at in (0.0, 2.0)]


@pytest.mark.slow  # begins processes
def test_a_process_that_dies_is_noticed_though_its_child_lives(tmp_path: Path) -> None:
    study = Study(RandomSearch(SPACE), Faulty(tmp_path, {1: "leaves a child"}), ["min error"], evaluations=3, workers=1)
    start = time.monotonic()
    study.run()
    assert time.monotonic() - start < 500, "its child would have lived for 600 s"
    assert [r.result.failure for r in study.records] == [None, "its process died (signal SIGKILL)", None]
    child = int((tmp_path / "child").read_text())
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()


@pytest.mark.slow  # begins processes
def test_processes_end_with_a_study_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ENDLESS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    study = subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(tmp_path)], env=environment)
    while not (tmp_path / "worker").is_file():
        time.sleep(0.05)
    study.kill()
    study.wait()
    worker, end = int((tmp_path / "worker").read_text()), time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text():
        assert time.monotonic() < end, "the worker evaluates for nobody"
        time.sleep(0.2)


@pytest.mark.nightly  # every process imports what the evaluator needs
def test_processes_that_hang_or_die_are_replaced(tmp_path: Path) -> None:
    evaluator = Faulty(tmp_path, {0: "hangs", 3: "dies"})
    study = Study(
        RandomSearch(SPACE), evaluator, ["min error"], evaluations=8, workers=2, timeout=3, retries=1, folder=tmp_path
    ).run()
    failures = {r.proposal.number: r.result.failure for r in study.records if r.result.failure}
    assert failures == {0: "timed out after 3 s", 3: "its process died (signal SIGKILL)"}
    assert times_evaluated(tmp_path) == {n: 2 if n in (0, 3) else 1 for n in range(8)}
    assert sorted(r.proposal.number for r in study.records) == list(range(8))


@pytest.mark.slow
def test_results_of_processes_are_followed_in_the_order_they_came(tmp_path: Path) -> None:
    def study(evaluations: int) -> Study:
        strategy = RegularizedEvolution(SPACE, population=5, sample=3)
        return Study(
            strategy, table(), ["max accuracy"], folder=tmp_path, evaluations=evaluations, workers=2, progress=False
        )

    first = study(20).run()
    again = study(30)
    assert [r.proposal for r in again.records] == [r.proposal for r in first.records]
    assert len(again.run().evaluated) == 30


def test_hours_are_those_of_all_sessions_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour an evaluation, by a clock that only evaluations move: real time would pass between two looks at it."""
    clock = SimpleNamespace(now=1e6)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("oneshot.discrete.study.time", clock)

    class AnHour(Faulty):
        def __call__(self, proposal: Proposal) -> dict[str, float]:
            clock.now += 3600
            return super().__call__(proposal)

    def study(hours: float) -> Study:
        return Study(GridSearch(SPACE), AnHour(tmp_path, {}), ["min error"], folder=tmp_path, hours=hours)

    assert len(study(5).run().evaluated) == 5
    clock.now += 1e7  # nobody pays for what lies between two sessions
    assert len(study(5).run().evaluated) == 5, "the time is used up"
    clock.now = 17.0  # a machine that was started again begins its clock anew
    records = study(7.5).run().records
    assert [record.at for record in records] == [3600.0 * hour for hour in range(1, 9)], "one more was in flight"


def test_a_study_that_is_run_again_with_a_larger_budget_goes_on_in_time() -> None:
    study = Study(RandomSearch(SPACE), table(), ["max accuracy"], evaluations=5).run()
    study.evaluations = 9
    times = [record.at for record in study.run().records]
    assert len(times) == 9 and times == sorted(times)


def test_the_bar_shows_best_front_and_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluator = Faulty(tmp_path, {1: "raises"})
    Study(RandomSearch(SPACE), evaluator, ["min error"], evaluations=4, progress=True).run()
    shown = capsys.readouterr().err
    assert "best error 0" in shown and "1 failed" in shown and "4/4" in shown


def test_a_budget_larger_than_the_space_ends_with_the_space() -> None:
    study = Study(GridSearch(SPACE), table(), ["max accuracy"], evaluations=10_000).run()
    assert len(study.evaluated) == SPACE.size


def build(**changes: Any) -> Study:
    arguments: dict[str, Any] = {"objectives": ["max accuracy"], "evaluations": 5, **changes}
    return Study(RandomSearch(SPACE), table(), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"objectives": ["max beauty"]}, "which are accuracy, latency; got beauty", id="unknown metric"),
        pytest.param(
            {"objectives": ["up accuracy"]}, "must read like 'max accuracy' or 'min latency'; got 'up a", id="up"
        ),
        pytest.param({"objectives": ["accuracy"]}, "must read like 'max accuracy' or 'min latency'", id="no direction"),
        pytest.param({"objectives": []}, "at least one; got \\[\\]", id="none"),
        pytest.param({"objectives": ["max accuracy", "min accuracy"]}, "different metrics", id="twice"),
        pytest.param({"evaluations": None}, r"must have a budget: evaluations=100 .*, or hours=8", id="no budget"),
        pytest.param({"evaluations": 0}, "evaluations must be above 0; got 0", id="zero"),
        pytest.param({"hours": -1}, "hours must be above 0; got -1", id="hours"),
        pytest.param({"workers": -1}, "at least 0; got -1 and 1", id="workers"),
        pytest.param({"timeout": 5}, "workers must be at least 1: workers=1", id="timeout here"),
        pytest.param({"ray": "local"}, "workers must be at least 1: workers=1", id="ray"),
        pytest.param(
            {"workers": 1, "ray_gpus": 1}, "ray_gpus must be at least 0, and needs a cluster.* Got 1, None", id="gpus"
        ),
    ],
)
def test_bad_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        pytest.param(
            SearchSpace("other", SPACE.choices),
            f"evaluator must be of space 'other'; it is of '{SPACE.name}'",
            id="name",
        ),
        pytest.param(SearchSpace(SPACE.name, SPACE.choices[:1]), f"'{SPACE.name}' with the same choices", id="choices"),
    ],
)
def test_a_strategy_and_an_evaluator_of_different_spaces_are_refused(space: SearchSpace, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Study(RandomSearch(space), table(), ["max accuracy"], evaluations=5)


def test_an_objective_goes_one_of_two_ways() -> None:
    with pytest.raises(ValueError, match="must be 'min' or 'max'; 'accuracy' has 'up'"):
        Objective("accuracy", "up")  # type: ignore[arg-type]
    assert Objective.parse(str(Objective("accuracy", "max"))) == Objective("accuracy", "max")


def test_a_log_of_another_study_is_refused(tmp_path: Path) -> None:
    build(folder=tmp_path).run()
    with pytest.raises(ValueError, match="is of a study with objectives .*max accuracy.*this one has .*min latency"):
        build(folder=tmp_path, objectives=["min latency"])
    with pytest.raises(ValueError, match="with seed 0, this one has 1"):
        Study(RandomSearch(SPACE, seed=1), table(), ["max accuracy"], folder=tmp_path, evaluations=5)
    with pytest.raises(ValueError, match="with strategy 'RandomSearch'"):
        Study(GridSearch(SPACE), table(), ["max accuracy"], folder=tmp_path, evaluations=5)
    other = SearchSpace("other", (Choice("layer", ("a", "b")),))
    evaluator = TabularEvaluator(other, [[0], [1]], {"accuracy": [1, 2]})
    with pytest.raises(ValueError, match="must be of space 'other'; it is of 'planted'"):
        Study(RandomSearch(other), evaluator, ["max accuracy"], folder=tmp_path, evaluations=2)


def test_a_strategy_with_other_arguments_is_noticed(tmp_path: Path) -> None:
    def study(population: int, **options: Any) -> Study:
        strategy = RegularizedEvolution(SPACE, population=population, sample=3)
        return Study(strategy, table(), ["max accuracy"], folder=tmp_path, evaluations=20, **options)

    done = study(5).run()
    with pytest.raises(ValueError, match="does not propose again what is in the log .* from number \\d+ on"):
        study(9)
    read = study(9, follow=False)  # as on a machine that rounds differently
    assert read.records == done.records and read.front() == done.front() and read.best == done.best
    with pytest.raises(RuntimeError, match="was only read. To go on with it, construct it without follow=False"):
        read.run()


def test_a_strategy_that_was_asked_already_is_refused(tmp_path: Path) -> None:
    strategy = RandomSearch(SPACE)
    Study(strategy, table(), ["max accuracy"], folder=tmp_path, evaluations=5).run()
    with pytest.raises(ValueError, match="this RandomSearch was asked already. Build another one"):
        Study(strategy, table(), ["max accuracy"], folder=tmp_path, evaluations=9)


def test_a_log_with_an_answer_too_many_is_refused(tmp_path: Path) -> None:
    build(folder=tmp_path).run()
    path = tmp_path / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], lines[2], *lines[3:]]))
    with pytest.raises(ValueError, match="log.jsonl answers number 0, which was not asked for, or answered before"):
        build(folder=tmp_path)


def test_a_log_that_is_no_log_is_refused(tmp_path: Path) -> None:
    build(folder=tmp_path).run()
    path = tmp_path / "log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "something else\n", *lines[3:]]))
    with pytest.raises(ValueError, match="line 3 must be JSON; Expecting value at column 1"):
        build(folder=tmp_path)
    path.write_text("".join([lines[0], '{"event": "song"}\n', *lines[1:]]))
    with pytest.raises(ValueError, match="has an event 'song', which no study writes"):
        build(folder=tmp_path)
    path.write_text('{"event": "song"}\n')
    with pytest.raises(ValueError, match="must begin with a study of schema version 1"):
        build(folder=tmp_path)


def test_nothing_evaluated_has_no_best() -> None:
    with pytest.raises(RuntimeError, match="No evaluation has succeeded yet"):
        _ = build().best
    with pytest.raises(RuntimeError, match="No evaluation has succeeded yet"):
        _ = build().strategy.best


def test_the_last_line_that_was_cut_off_is_written_over(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "log.jsonl")
    log.append({"event": "first"})
    with (tmp_path / "log.jsonl").open("ab") as file:
        file.write(b'{"event": "a long line that was cut o')
    again = EventLog(tmp_path / "log.jsonl")
    again.append({"event": "second"})
    assert [event["event"] for event in EventLog(tmp_path / "log.jsonl").events] == ["first", "second"]


@pytest.mark.slow  # starts a cluster
@pytest.mark.timeout(600)
@pytest.mark.nightly
def test_a_cluster_of_two_workers_loses_one_and_loses_no_evaluation(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    try:
        evaluator = Faulty(tmp_path, {2: "dies", 5: "raises"}, once=True)
        study = Study(
            RandomSearch(SPACE),
            evaluator,
            ["min error"],
            folder=tmp_path,
            evaluations=8,
            workers=2,
            ray="local",
            timeout=120,
            progress=False,
        ).run()
        assert sorted(r.proposal.number for r in study.records) == list(range(8))
        assert all(r.result.failure is None for r in study.records)
        tried = times_evaluated(tmp_path)
        assert tried == {n: 2 if n in (2, 5) else 1 for n in range(8)}
        retried = {e["number"]: e["failure"] for e in EventLog(tmp_path / "log.jsonl").events if e["event"] == "retry"}
        assert "worker died" in retried[2] and "out of paper" in retried[5]

        more: dict[str, Any] = {"folder": tmp_path, "evaluations": 10}
        with pytest.raises(ValueError, match="needs 1 cores and 8 GPUs of one machine, and would wait for ever"):
            Study(RandomSearch(SPACE), evaluator, ["min error"], **more, workers=2, ray="local", ray_gpus=8).run()
        again = Study(RandomSearch(SPACE), evaluator, ["min error"], **more, workers=2, ray="local")
        pool = again._pool()
        ray.shutdown()  # the cluster goes away
        with pytest.raises(ConnectionError, match="cluster went away"):
            again._start = 0.0
            again._loop(pool, lambda running: None)
        pool.close()
        resumed = Study(RandomSearch(SPACE), evaluator, ["min error"], **more).run()
        assert sorted(r.proposal.number for r in resumed.records) == list(range(10)), "finished here"
    finally:
        ray.shutdown()


ON_A_CLUSTER = """
import sys, time
from pathlib import Path
from oneshot.discrete import RandomSearch, Study
from oneshot.testing.strategies import SPACE

class Slow:
    metrics = ("error",)

    def __call__(self, proposal):
        time.sleep(0.5)
        return {"error": float(proposal.number)}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    options = {"workers": 2, "ray": sys.argv[2], "timeout": 60, "retries": 0}
    Study(RandomSearch(SPACE), Slow(), ["min error"], folder=folder, evaluations=500, progress=False, **options).run()
"""


@pytest.mark.nightly  # a cluster begins and dies
def test_a_cluster_that_dies_ends_the_run_and_no_evaluation_is_to_blame(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "script.py").write_text(ON_A_CLUSTER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RAY_AUTH_MODE": "disabled"}
    start = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
    options = ["start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--include-dashboard=false"]
    head = subprocess.Popen(
        [sys.executable, "-c", start, *options, "--disable-usage-stats"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    log = tmp_path / "log.jsonl"
    try:
        until(lambda: answers(port))
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path), f"127.0.0.1:{port}"]
        study = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        until(lambda: log.is_file() and log.read_text().count('"tell"') > 3)
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
    _, errors = study.communicate(timeout=60)
    assert errors.rstrip().endswith("go on with the same command, with or without a cluster."), errors
    events = EventLog(log).events
    assert not any(event.get("failure") for event in events)
    told = sum(event["event"] == "tell" for event in events)
    here = Study(RandomSearch(SPACE), Faulty(tmp_path, {}), ["min error"], folder=tmp_path, evaluations=told + 2).run()
    assert len(here.evaluated) == told + 2


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_cluster_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    study = Study(RandomSearch(SPACE), table(), ["max accuracy"], evaluations=2, workers=1, ray="127.0.0.1:9")
    with pytest.raises(ConnectionError, match="There is no Ray cluster at '127.0.0.1:9'"):
        study.run()


class Repeater(SearchStrategy):
    """Asks for given proposals, whatever was asked before."""

    repeats = True

    def __init__(self, *asked: Mapping[str, Any]) -> None:
        super().__init__(SPACE)
        self.asked = list(asked)

    def _propose(self) -> Proposal | None:
        return self._new(GENES[0], **self.asked.pop(0)) if self.asked else None


STEP = {"operator": "deepen", "arguments": {"node": "1"}, "seed": 0}


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"fidelity": 3.0}, id="fidelity"),
        pytest.param({"fidelity": 1.0, "trained": 0.5}, id="trained"),
        pytest.param({"fidelity": 1.0, "parent": 0}, id="parent"),
        pytest.param({"fidelity": 1.0, "trace": (STEP,)}, id="trace"),
        pytest.param({}, id="full fidelity"),
    ],
)
def test_only_the_very_same_question_is_answered_from_the_log(other: dict[str, Any]) -> None:
    class Told:
        metrics = ("error",)

        def __call__(self, proposal: Proposal) -> dict[str, float]:
            return {"error": float(proposal.number)}

    same = {"fidelity": 1.0}
    study = Study(Repeater(same, other, same, other), Told(), ["min error"], evaluations=9).run()
    assert [record.result.metrics["error"] for record in study.records] == [0.0, 1.0, 0.0, 1.0]
    assert [record.repeated for record in study.records] == [False, False, True, True]


def test_tries_are_counted_over_all_sessions(tmp_path: Path) -> None:
    """Two tries in all: one before the study was stopped, one after it, and none for each session."""

    class Stopped:
        metrics = ("error",)
        tries = 0

        def __call__(self, proposal: Proposal) -> dict[str, float]:
            Stopped.tries += proposal.number == 0
            if Stopped.tries == 2 and proposal.number == 0:
                raise KeyboardInterrupt
            if proposal.number == 0:
                raise RuntimeError("out of ink")
            return {"error": 1.0}

    def study() -> Study:
        return Study(RandomSearch(SPACE), Stopped(), ["min error"], folder=tmp_path, evaluations=3, retries=1)

    with pytest.raises(KeyboardInterrupt):
        study().run()
    again = study().run()
    assert Stopped.tries == 3, "the one that was stopped was not finished"
    (failed,) = [record for record in again.records if record.result.values is None]
    assert failed.proposal.number == 0 and "out of ink" in str(failed.result.failure)
    assert sum(event["event"] == "retry" for event in EventLog(tmp_path / "log.jsonl").events) == 1


@pytest.mark.parametrize("slow", ["evaluator", "strategy"])
def test_the_share_of_evaluations_is_that_of_the_time(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class Slow(TabularEvaluator):
        def __call__(self, proposal: Proposal) -> dict[str, float]:
            clock[0] += 3.0 if slow == "evaluator" else 1.0
            return super().__call__(proposal)

    class Strategy(RandomSearch):
        def _propose(self) -> Proposal | None:
            clock[0] += 1.0 if slow == "evaluator" else 4.0
            return super()._propose()

    study = Study(Strategy(SPACE), Slow(SPACE, GENES, {"error": GENES.sum(1)}), ["min error"], evaluations=5)
    assert math.isnan(study.share_of_evaluations)
    assert study.run().share_of_evaluations == pytest.approx(0.75 if slow == "evaluator" else 0.2)
