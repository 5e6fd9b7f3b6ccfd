"""Studies: a strategy, an evaluator, a budget, and a log from which a killed study goes on."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from oneshot.fronts.pareto import non_dominated
from oneshot.parallel.pools import InProcess, Pool, Processes, RayPool
from oneshot.storage.faults import MachineFaultError, Patience
from oneshot.storage.interrupts import uninterrupted
from oneshot.supernets.json_files import checked
from oneshot.supernets.space import Floats

from .attempt import Answer, attempt
from .bar import StudyBar
from .events import ADVICE, LOG, Asked, Event, EventLog, Header, checked_event
from .protocol import Evaluator, Proposal, Result, SearchStrategy
from .record import Objective, Record

SCHEMA_VERSION = 1
LATENCY_HINT = (
    " TrainingEvaluator and SupernetEvaluator have latency where it is said how: latency=MeasuredLatency() on this "
    "machine, or latency='FILE' that 'oneshot measure' has written."
)
SHOWN = 3  # failures in a message
REPEATS = 1000  # answers from the log in a row, after which a strategy has converged


class _Logged(SearchStrategy):
    """Takes the place of a strategy that does not follow its log: proposes nothing and is told everything."""

    def __init__(self, strategy: SearchStrategy) -> None:
        super().__init__(strategy.space, seed=strategy.seed)
        self.by_rung = strategy.by_rung

    def _propose(self) -> Proposal | None:
        return None

    def follow(self, proposals: Sequence[Proposal], place: str) -> None:
        """Take the proposals of the log as its own."""
        for proposal in proposals:
            if proposal.number != self._next:
                raise ValueError(f"{place} asks for number {proposal.number}; the next is {self._next}. {ADVICE}")
            self._next += 1
            self.pending[proposal.number] = proposal


class Study:
    """Runs a strategy until its budget is used up, and writes down everything that happens.

    With a folder, ``log.jsonl`` there is the study: constructed again with the same arguments, it follows the log and
    goes on. Evaluations that were in flight when it was killed begin again; nothing finished is evaluated twice. An
    architecture that was evaluated already, with the same fidelity, weights and trace, is answered from the log; that
    costs nothing of the budget. (Not for strategies that ask for another training, which have ``retrains``.)

    Evaluations that raise, return NaN, take too long or lose their process are tried again, and then recorded as
    failures, which the strategy is told. Those that the machine is to blame for, because its disk is full for example
    (:func:`~oneshot.storage.faults.machine_fault`), are no failures: the study says so, waits and evaluates them again;
    if that does not help within two minutes, it stops where it is. That time is not counted. An evaluation that needs
    more memory than there is has failed.

    Args:
        strategy: Strategy that proposes architectures; a new one, even where the study goes on.
        evaluator: Evaluator that measures them.
        objectives: Objectives, such as ``["max accuracy", "min latency"]``; strategies of one objective use the first.
        folder: Folder of the log; None keeps the log in memory.
        evaluations: Budget; failures count, repetitions do not.
        hours: Budget of time, over all sessions together; evaluations in flight are finished. Of a session that was
            killed, what came after its last event is not counted.
        workers: Evaluations at a time: 0 in this process, else so many processes beside it, or on the cluster.
        ray: Address of a Ray cluster (``"local"`` starts one) instead of processes.
        ray_gpus: GPUs of an evaluation there.
        timeout: Seconds for one evaluation.
        retries: Number of times a failed evaluation is tried again.
        progress: Show a bar: on a terminal (None), always, or never.
        follow: Whether the strategy follows the log. If not, the study can be read on any machine and at once, but not
            run, and the best is the least first objective, whatever the strategy says.

    Attributes:
        after_evaluation: Called after every evaluation; does nothing by default.

    Raises:
        ValueError: If an objective is none of the evaluator's, there is no budget, the strategy was asked already, or
            the log is of another study.

    Example:
        >>> from oneshot.discrete import RandomSearch, TabularEvaluator
        >>> from oneshot.supernets import Choice, SearchSpace
        >>> space = SearchSpace("toy", (Choice("layer", ("a", "b"), rows=3),))
        >>> genes = np.array(list(np.ndindex(2, 2, 2)))
        >>> table = TabularEvaluator(space, genes, {"error": genes.sum(1)})
        >>> study = Study(RandomSearch(space), table, ["min error"], evaluations=8).run()
        >>> study.best.result.metrics["error"]
        0.0
    """

    def __init__(
        self,
        strategy: SearchStrategy,
        evaluator: Evaluator,
        objectives: Sequence[str | Objective],
        *,
        folder: str | Path | None = None,
        evaluations: int | None = None,
        hours: float | None = None,
        workers: int = 0,
        ray: str | None = None,
        ray_gpus: float = 0.0,
        timeout: float | None = None,
        retries: int = 1,
        progress: bool | None = None,
        follow: bool = True,
    ) -> None:
        self.strategy, self.evaluator = strategy, evaluator
        self.objectives = tuple(o if isinstance(o, Objective) else Objective.parse(o) for o in objectives)
        self.evaluations, self.hours = evaluations, hours
        self.workers, self.ray, self.ray_gpus = workers, ray, ray_gpus
        self.timeout, self.retries = timeout, retries
        self.progress = sys.stderr.isatty() if progress is None else progress
        self._check()
        self.follow = follow
        self.after_evaluation: Callable[[], object] = lambda: None
        self.records: list[Record] = []
        self._answered: dict[tuple[Any, ...], Result] = {}
        self._tries: dict[int, int] = {}
        self._queue: deque[Proposal] = deque()  # asked for before the study was stopped
        self._elapsed, self._spent = 0.0, 0  # seconds of earlier sessions, evaluations
        self._apart = False  # whether an interruption left the strategy other than its log
        self.log = EventLog(None if folder is None else Path(folder) / LOG)
        self._replay()

    def _check(self) -> None:
        if self.strategy.pending or self.strategy.observed:
            raise ValueError(
                f"A study must begin with a new strategy, and this {type(self.strategy).__name__} was asked already. "
                "Build "
                "another one; where the study goes on, it follows the log."
            )
        ours, theirs = self.strategy.space, getattr(self.evaluator, "space", None)  # the evaluator may have any
        if theirs is not None:
            # settings may differ, such as the shape of the inputs that networks are built for
            ours.check_same(theirs.describe(), "The evaluator", "Build it with the space of the strategy.")
        names = [objective.metric for objective in self.objectives]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"A study must have objectives of different metrics, at least one; got {names}.")
        if unknown := [name for name in names if name not in self.evaluator.metrics]:
            raise ValueError(
                f"Objectives must be metrics of the evaluator, which are {', '.join(self.evaluator.metrics)}; got "
                f"{', '.join(unknown)}.{LATENCY_HINT if 'latency' in unknown else ''}"
            )
        if self.evaluations is None and self.hours is None:
            raise ValueError("A study must have a budget: evaluations=100 (--evaluations 100), or hours=8 (--hours 8).")
        for what, value in (("evaluations", self.evaluations), ("hours", self.hours), ("timeout", self.timeout)):
            if value is not None and not value > 0:
                raise ValueError(f"{what} must be above 0; got {value}.")
        if self.workers < 0 or self.retries < 0:
            raise ValueError(f"workers and retries must be at least 0; got {self.workers} and {self.retries}.")
        if self.workers == 0 and (self.timeout is not None or self.ray is not None):
            raise ValueError(
                "Nothing stops an evaluation in the process of the study, and a cluster needs to know how many run at "
                "a time. With timeout or ray, workers must be at least 1: workers=1 (--workers 1)."
            )
        if self.ray_gpus < 0 or (self.ray_gpus and self.ray is None):
            raise ValueError(
                f"ray_gpus must be at least 0, and needs a cluster: ray='auto'. Got {self.ray_gpus:g}, {self.ray!r}."
            )

    # The log.

    def _header(self) -> dict[str, Any]:
        return {
            "event": "study",
            "schema_version": SCHEMA_VERSION,
            "strategy": type(self.strategy).__name__,
            "seed": self.strategy.seed,
            "space": self.strategy.space.describe(),
            "objectives": [str(objective) for objective in self.objectives],
        }

    def _replay(self) -> None:
        if not self.log.events:
            return
        where = self.log.path
        ours, first = self._header(), self.log.events[0]
        if first.get("event") != "study" or first.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(
                f"{where} must begin with a study of schema version {SCHEMA_VERSION}. Choose a new folder."
            )
        header = dict(checked(first, Header, f"{where}, line 1", advice=ADVICE))
        self.strategy.space.check_same(header["space"], f"The log {where}")
        for key in ("strategy", "seed", "objectives"):
            if header[key] != ours[key]:
                raise ValueError(
                    f"The log {where} is of a study with {key} {header[key]!r}, this one has {ours[key]!r}. Go on with "
                    "the same, or choose a new folder."
                )
        if not self.follow:
            self.strategy = _Logged(self.strategy)
        for line, event in enumerate(self.log.events[1:], start=2):
            place = f"The log {where}, line {line}"
            self._follow(checked_event(event, place), place)
        self.log.check()  # last, because what does not follow says more

    def _follow(self, event: Event, place: str) -> None:
        if event["at"] < self._elapsed:
            raise ValueError(
                f"{place} must not be of an earlier time than lines before it; it is of second {event['at']:g}. "
                f"{ADVICE}"
            )
        self._elapsed = event["at"]
        if event["event"] == "retry":
            self._tries[event["number"]] = self._tries.get(event["number"], 0) + 1
        elif event["event"] == "ask" or event["event"] == "wait":
            logged = [_proposal(event, place, self.strategy)] if event["event"] == "ask" else []
            number = self.strategy._next
            if isinstance(self.strategy, _Logged):
                self.strategy.follow(logged, place)
                return
            if self.strategy.ask() != logged:
                raise ValueError(
                    f"The strategy does not propose again what is in the log {self.log.path}, from number "
                    f"{number} on: it has other arguments, or the log was written by another version, or on "
                    "another kind of processor, whose rounding differs. Go on with the same, or choose a new folder."
                )
        elif event["number"] not in self.strategy.pending:
            raise ValueError(
                f"The log {self.log.path} answers number {event['number']}, which was not asked for, or answered "
                "before: it was changed by hand, or two were joined. Restore it, or choose a new folder."
            )
        else:
            metrics = event["metrics"]
            if metrics is not None and (why := self._missing(metrics)) is not None:
                raise ValueError(f"{place} has metrics that no study writes: {why}. {ADVICE}")
            values = None if metrics is None else self._values(metrics)
            result = Result(event["number"], values, metrics or {}, event["failure"], event["seconds"])
            self._record(result, event["at"], event["repeated"])

    # Running.

    def random_search(self) -> str | None:
        """Why this study is random search, whatever its strategy is called; None if it is not."""
        first = self.strategy.random_first
        if self.evaluations is None or self.evaluations > first:
            return None
        return (
            f"{type(self.strategy).__name__} draws its first {first} architectures at random and learns from then on; "
            f"with evaluations={self.evaluations} this is random search. Give the study more evaluations, or the "
            "strategy a smaller population (or initial, or networks)."
        )

    def run(self) -> Study:
        """Go on until the budget is used up, or the strategy has nothing left.

        Returns:
            The study itself.

        Raises:
            ConnectionError: If the cluster went away; the same study goes on when it is run or constructed again.
            MachineFaultError: If a fault of the machine prevents evaluations; likewise.
            OSError: If the log cannot be written, because the disk stays full for example; construct it again then.
            RuntimeError: If another run writes to the folder, the processes of the evaluator end as they begin, the
                strategy did not follow the log, or was interrupted while it was asked or told.
        """
        if not self.follow:
            raise RuntimeError("This study was only read. To go on with it, construct it without follow=False.")
        if self._apart:
            raise RuntimeError(
                "This study was interrupted between its strategy and its log. Construct it again, with a new strategy: "
                "it follows the log and goes on."
            )
        if self.log.path is None and (note := self.random_search()):  # with a folder it may go on with more
            warnings.warn(note, stacklevel=2)
        self._start = time.monotonic() - self._elapsed
        self._queue = deque(self.strategy.pending.values())
        if not self._wanted():
            return self
        with self.log.alone():
            if not self.log.events:
                self.log.append(self._header())
            pool = self._pool()
            try:
                with self._bar() as show:
                    self._loop(pool, show)
            finally:
                self._elapsed = self._at()
                with uninterrupted():
                    pool.close()
        return self

    def _pool(self) -> Pool[Proposal, Answer]:
        call = partial(attempt, self.evaluator)
        if self.ray is not None:
            return RayPool(call, self.workers, address=self.ray, timeout=self.timeout, gpus=self.ray_gpus)
        return Processes(call, self.workers, self.timeout) if self.workers else InProcess(call)

    def _loop(self, pool: Pool[Proposal, Answer], show: Callable[[int], None]) -> None:
        running: dict[int, Proposal] = {}
        repeats, patience = 0, Patience()
        while True:
            while len(running) < pool.size and self._wanted(len(running)) and repeats < REPEATS:
                proposal = self._next()
                if proposal is None:
                    break
                known = None if self.strategy.retrains else self._answered.get(_key(proposal))
                if known is not None:
                    repeats += 1
                    self._tell(proposal, Answer(known.metrics, known.failure, 0.0), repeated=True)
                    continue
                repeats = 0
                running[proposal.number] = proposal
                show(len(running))
                pool.submit(proposal.number, proposal)
            if not running:
                return
            self.after_evaluation()
            faults = []
            for outcome in pool.wait():
                number, proposal = outcome.ticket, running.pop(outcome.ticket)
                answer = outcome.value or Answer(None, outcome.lost, outcome.seconds)
                if answer.fault:
                    faults.append(str(answer.failure))
                    self._queue.appendleft(proposal)
                    continue
                failure = answer.failure or self._missing(answer.metrics or {})
                if failure is not None and self._tries.get(number, 0) < self.retries:
                    self._tries[number] = self._tries.get(number, 0) + 1
                    self.log.append({"event": "retry", "number": number, "failure": failure, "at": self._at()})
                    self._queue.append(proposal)
                else:
                    self._tell(proposal, Answer(answer.metrics, failure, answer.seconds))
                show(len(running))
            if faults:
                self._pause(patience, faults[0])
            else:
                patience.over()

    def _pause(self, patience: Patience, why: str) -> None:
        """Wait until a fault of the machine may have passed; it counts against nothing."""
        began = time.monotonic()
        if not patience.wait("Evaluations are not possible", why):
            raise MachineFaultError(
                f"The study stopped because of a fault of the machine: {why}. No architecture is to blame, and nothing "
                "was recorded. See to it, and go on with the study."
            )
        self._start += time.monotonic() - began

    def _wanted(self, running: int = 0) -> bool:
        """Whether the budget has room for one more."""
        if self.hours is not None and self._at() >= 3600 * self.hours:
            return False
        return self.evaluations is None or self._spent + running < self.evaluations

    def _next(self) -> Proposal | None:
        if self._queue:
            return self._queue.popleft()
        with self._together():
            proposals = self.strategy.ask()
            for proposal in proposals:
                self.log.append({"event": "ask", **proposal.to_dict(), "at": self._at()})
            if not proposals:  # to ask is to change the strategy, even if it has nothing to propose
                self.log.append({"event": "wait", "at": self._at()})
        return proposals[0] if proposals else None

    @contextmanager
    def _together(self) -> Iterator[None]:
        """The strategy and its log change together; after an interruption in between, only the log is right."""
        self._apart = True
        yield
        self._apart = False

    def _missing(self, metrics: Mapping[str, float]) -> str | None:
        """The fault in the metrics of an evaluation that did not raise; None if there is none."""
        for objective in self.objectives:
            if objective.metric not in metrics:
                return f"the evaluator gave no {objective.metric}"
            if not math.isfinite(metrics[objective.metric]):
                return f"{objective.metric} is {metrics[objective.metric]}"
        return self._unweighable(self._values(metrics))

    def _unweighable(self, values: tuple[float, ...]) -> str | None:
        """Why the strategy's scalar cannot weigh these values; an error as long as it has weighed none."""
        try:
            if not math.isnan(self.strategy.loss(Result(-1, values))):
                return None
            why = "it gives NaN"
        except (ValueError, ArithmeticError) as error:
            why = str(error)
        if all(record.result.values is None for record in self.records):
            raise ValueError(
                f"The scalar of this {type(self.strategy).__name__} cannot weigh the first evaluation, with "
                f"{', '.join(map(str, self.objectives))} minimised as {values}: {why}"
            )
        return f"the scalar cannot weigh {values}: {why}"

    def _values(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(objective.value(metrics) for objective in self.objectives)

    def _tell(self, proposal: Proposal, answer: Answer, *, repeated: bool = False) -> None:
        metrics = None if answer.failure is not None else dict(answer.metrics or {})
        at = self._at()
        event = {
            "event": "tell",
            "number": proposal.number,
            "metrics": metrics,
            "failure": answer.failure,
            "seconds": answer.seconds,
            "repeated": repeated,
            "at": at,
        }
        values = None if metrics is None else self._values(metrics)
        result = Result(proposal.number, values, metrics or {}, answer.failure, answer.seconds)
        with self._together():
            self.log.append(event)
            self._record(result, at, repeated)

    def _record(self, result: Result, at: float, repeated: bool) -> None:
        proposal = self.strategy.pending[result.number]
        self.records.append(Record(proposal, result, at, repeated))
        self._spent += not repeated
        self._answered.setdefault(_key(proposal), result)
        self.strategy.tell(result)

    def _at(self) -> float:
        return time.monotonic() - self._start

    # Results.

    @property
    def share_of_evaluations(self) -> float:
        """Part of the time of all workers that went into evaluations; the rest is asking, telling, and waiting.

        It is NaN before the first evaluation.
        """
        spent = sum(record.result.seconds for record in self.records if not record.repeated)
        return spent / (self._elapsed * max(1, self.workers)) if self.records and self._elapsed else math.nan

    @property
    def evaluated(self) -> list[Record]:
        """Every evaluation once, in the order in which they were finished."""
        return [record for record in self.records if not record.repeated]

    @property
    def comparable(self) -> list[Record]:
        """Evaluations that succeeded; where fidelities are rungs, those of the highest rung with a success."""
        done = [record for record in self.evaluated if record.result.values is not None]
        if self.strategy.by_rung:
            highest = max(map(_fidelity, done), default=0.0)
            done = [record for record in done if _fidelity(record) == highest]
        return done

    @property
    def best(self) -> Record:
        """The best evaluation according to the strategy, mostly that of the least first objective; see its ``best``.

        Raises:
            RuntimeError: If none has succeeded.
        """
        if all(record.result.values is None for record in self.records):
            failures = list(dict.fromkeys(str(record.result.failure) for record in self.records))
            more = f"; and {len(failures) - SHOWN} others" if len(failures) > SHOWN else ""
            raise RuntimeError(
                f"No evaluation has succeeded yet; failures: {'; '.join(failures[:SHOWN]) or 'none'}{more}."
            )
        number = self.strategy.best.number
        return next(record for record in self.records if record.proposal.number == number)

    def front(self) -> list[Record]:
        """The evaluations that no other dominates, by the first objective; of equal ones, the first."""
        done = self.comparable
        values: Floats = np.array([record.result.values for record in done]).reshape(-1, len(self.objectives))
        rows = np.flatnonzero(non_dominated(values))
        _, first = np.unique(values[rows], axis=0, return_index=True)
        return [done[row] for row in rows[first]]

    def trajectory(self) -> Floats:
        """The least first objective after every evaluation, ``[evaluations]``; infinite until one succeeds."""
        counts = {record.proposal.number for record in self.comparable}
        values = [
            record.result.values[0] if record.result.values and record.proposal.number in counts else math.inf
            for record in self.evaluated
        ]
        return np.minimum.accumulate(np.array(values, dtype=np.float64))

    def _bar(self) -> AbstractContextManager[Callable[[int], None]]:
        return StudyBar(self) if self.progress else nullcontext(lambda running: None)

    @property
    def waiting(self) -> int:
        """Proposals that were asked for before the study was stopped, and are still to be evaluated."""
        return len(self._queue)


def _fidelity(record: Record) -> float:
    return math.inf if record.proposal.fidelity is None else record.proposal.fidelity


def _key(proposal: Proposal) -> tuple[Any, ...]:
    """Evaluations of the same key have the same answer."""
    trace = tuple(repr(sorted(step.items())) for step in proposal.trace)
    return proposal.config, proposal.fidelity, proposal.parent, proposal.trained, trace


def _proposal(event: Asked, place: str, strategy: SearchStrategy) -> Proposal:
    """The proposal of an event, which must be in the space."""
    try:
        proposal = Proposal.from_dict(event)
        strategy.space.validate(proposal.config)
    except ValueError as error:
        raise ValueError(f"{place}: {error} {ADVICE}") from error
    return proposal
