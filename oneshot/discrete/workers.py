"""Where evaluations run: in this process, in others beside it, on a Ray cluster. They may fail, hang or die."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing as mp
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oneshot.parallel.ray import GONE, check_room, check_there, connect, wait_for
from oneshot.storage.faults import machine_fault
from oneshot.storage.interrupts import interruption

from .protocol import Evaluator, Proposal

LOOK = 1.0  # seconds between two looks at whether processes are alive
TICK = 0.5  # seconds between two looks at what a cluster has begun
START = 120.0  # seconds for a new process to import what the evaluator needs, beside the timeout


@dataclass(frozen=True)
class Answer:
    """What came of one attempt.

    Args:
        number: Of the proposal.
        metrics: What was measured; None if it failed.
        failure: Why it failed, in one line.
        seconds: How long it took.
        fault: Whether it failed for the machine's fault, such as a full disk.
    """

    number: int
    metrics: Mapping[str, float] | None
    failure: str | None
    seconds: float
    fault: bool = False


class Pool(ABC):
    """Runs evaluations; ``size`` of them at a time."""

    size: int = 1

    @abstractmethod
    def submit(self, proposal: Proposal) -> None:
        """Begin an evaluation; a worker must be free."""

    @abstractmethod
    def wait(self) -> list[Answer]:
        """Wait until at least one is finished."""

    def close(self) -> None:  # noqa: B027  # nothing to close here
        """Stop everything."""


class InProcess(Pool):
    """One evaluation after the other, in this process; nothing can stop one that hangs."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._answers: list[Answer] = []

    def submit(self, proposal: Proposal) -> None:
        self._answers.append(attempt(self.evaluator, proposal))

    def wait(self) -> list[Answer]:
        answers, self._answers = self._answers, []
        return answers


class Processes(Pool):
    """Processes of this machine. One that dies or exceeds its time is replaced.

    Args:
        evaluator: Pickled once for every process.
        size: Number of processes.
        timeout: Seconds for one evaluation, None for no end.
    """

    def __init__(self, evaluator: Evaluator, size: int, timeout: float | None = None) -> None:
        self.evaluator, self.size, self.timeout = evaluator, size, timeout
        self._context = mp.get_context("spawn")  # a fork of a process with threads may hang
        self._threads = max(1, (os.cpu_count() or 1) // size)
        self._free: list[_Process] = []
        self._busy: list[_Process] = []
        self._began = False  # whether any process was ever ready

    def submit(self, proposal: Proposal) -> None:
        while self._free and not self._free[-1].process.is_alive():  # it died while it was idle: nobody's fault
            self._free.pop().kill()
        worker = self._free.pop() if self._free else _Process(self._context, self.evaluator, self._threads)
        worker.start(proposal)
        self._busy.append(worker)

    def wait(self) -> list[Answer]:
        while True:
            now = time.monotonic()
            ends = [w.began + self.timeout + (0 if w.warm else START) for w in self._busy] if self.timeout else []
            until = max(0.0, min([*ends, now + LOOK]) - now)
            ready = set(mp.connection.wait([w.pipe for w in self._busy], until))
            # a process that died may have left its end of the pipe to a child
            answers = [self._finish(w) for w in list(self._busy) if w.pipe in ready or not w.process.is_alive()]
            late = time.monotonic()
            for worker in list(self._busy) if self.timeout else []:
                if late >= worker.began + (self.timeout or 0) + (0 if worker.warm else START):
                    worker.kill()
                    self._busy.remove(worker)
                    answers.append(worker.failed(f"timed out after {self.timeout:g} s"))
            if answers := [answer for answer in answers if answer is not None]:
                return answers

    def _finish(self, worker: _Process) -> Answer | None:
        try:
            message = worker.pipe.recv() if worker.pipe.poll() else None
        except (EOFError, OSError):
            message = None
        if message is None:
            worker.process.join(5)  # for its exit status
            worker.kill()
            self._busy.remove(worker)
            if not self._began:
                raise RuntimeError(
                    f"The processes of the evaluator end as they begin ({_how(worker.process.exitcode)}). If a script "
                    "runs the study, keep it under 'if __name__ == \"__main__\"'; what the evaluator holds is imported "
                    "and unpickled there."
                )
            return worker.failed(f"its process died ({_how(worker.process.exitcode)})")
        if message == READY:
            self._began = True
            worker.warm, worker.began = True, time.monotonic()
            return None
        self._busy.remove(worker)
        self._free.append(worker)
        assert isinstance(message, Answer)
        return message

    def close(self) -> None:
        for worker in self._busy + self._free:
            worker.kill()
        self._busy, self._free = [], []


READY = "ready"


class _Process:
    def __init__(self, context: Any, evaluator: Evaluator, threads: int) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, evaluator, threads, os.getpid()))
        try:
            self.process.start()
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"An evaluator for other processes is pickled, and this {type(evaluator).__name__} cannot be: {error}. "
                "Define what it holds at the top of a module, not in a function, or evaluate here: workers=0."
            ) from error
        theirs.close()
        self.warm, self.began, self.number = False, time.monotonic(), -1

    def start(self, proposal: Proposal) -> None:
        self.began, self.number = time.monotonic(), proposal.number
        with contextlib.suppress(OSError):  # it died while it was idle; the next read says so
            self.pipe.send(proposal)

    def failed(self, why: str) -> Answer:
        return Answer(self.number, None, why, time.monotonic() - self.began)

    def kill(self) -> None:
        """End it, with what it has started."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it died before it had a group of its own
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Any, evaluator: Evaluator, threads: int, study: int) -> None:
    os.setsid()  # what it starts belongs to it; and Ctrl-C is for the study, which ends its processes
    threading.Thread(target=_end_with, args=(study,), daemon=True).start()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    pipe.send(READY)
    while True:
        try:
            proposal = pipe.recv()
        except EOFError:  # the study is gone
            return
        pipe.send(attempt(evaluator, proposal))


def _end_with(study: int) -> None:
    """A study that was killed goes on elsewhere, and what it was evaluating begins again there."""
    while os.getppid() == study:
        time.sleep(LOOK)
    os.killpg(0, signal.SIGKILL)


class RayPool(Pool):
    """Workers of a Ray cluster; the cluster replaces those that die.

    Args:
        evaluator: Sent to the cluster once.
        size: Evaluations at a time.
        address: See ``ray.init``; ``"local"`` starts a cluster on this machine.
        timeout: Seconds for one evaluation, from when it begins; None for no end.
        cpus: Cores of each evaluation.
        gpus: GPUs of each.

    Raises:
        MissingExtraError: If Ray is not installed.
        ConnectionError: If the cluster is not there.
        ValueError: If no machine of it has what an evaluation needs.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        size: int,
        *,
        address: str | None = "local",
        timeout: float | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> None:
        self.size, self.timeout = size, timeout
        self._ray = connect(address, size * cpus, "Evaluating on a cluster")
        check_room(self._ray, cpus, gpus)
        self._evaluator = self._ray.put(evaluator)
        self._attempt = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_attempt_there)
        clock = self._ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Clock)
        self._clock = None if timeout is None else clock.remote()
        self._busy: dict[Any, _Task] = {}
        self._tickets = itertools.count()

    def submit(self, proposal: Proposal) -> None:
        check_there(self._ray)
        ticket = next(self._tickets)
        reference = self._attempt.remote(self._evaluator, proposal, self._clock, ticket)
        self._busy[reference] = _Task(proposal.number, ticket, time.monotonic())

    def wait(self) -> list[Answer]:
        """Wait for an answer.

        Raises:
            ConnectionError: If the cluster went away.
        """
        while True:
            ready = wait_for(self._ray, list(self._busy), None if self.timeout is None else TICK)
            answers = [self._answer(reference) for reference in ready]
            if self.timeout is not None:
                answers += self._late(self.timeout)
            if answers:
                return answers

    def _late(self, timeout: float) -> list[Answer]:
        """Ends what has been evaluated for too long; what waits for room on the cluster has not begun."""
        begun, now = self._ray.get(self._clock.begun.remote()), time.monotonic()  # type: ignore[union-attr]  # there is one
        answers = []
        for reference, task in list(self._busy.items()):
            if task.ticket in begun and not task.begun:
                task.began, task.begun = now, True
            elif task.begun and now >= task.began + timeout:
                self._ray.cancel(reference, force=True)
                del self._busy[reference]
                answers.append(Answer(task.number, None, f"timed out after {timeout:g} s", now - task.began))
        return answers

    def _answer(self, reference: Any) -> Answer:
        task = self._busy.pop(reference)
        errors = self._ray.exceptions
        died = errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError
        try:
            answer: Answer = self._ray.get(reference)
        except (*died, errors.RayTaskError, errors.TaskCancelledError) as e:
            check_there(self._ray)  # or it is not the fault of the evaluation
            return Answer(task.number, None, f"its worker died ({_one_line(e)})", time.monotonic() - task.began)
        except errors.RaySystemError as error:
            raise ConnectionError(GONE) from error
        return answer

    def close(self) -> None:
        if self._ray.is_initialized():
            for reference in self._busy:
                self._ray.cancel(reference, force=True)
        self._busy = {}


@dataclass
class _Task:
    number: int
    ticket: int  # of the attempt
    began: float
    begun: bool = False  # on the cluster; until then it is since when it waits


class _Clock:
    """Knows which attempts have begun: a cluster does not tell."""

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def begin(self, ticket: int) -> None:
        self._begun.add(ticket)

    def begun(self) -> set[int]:
        return self._begun


def _attempt_there(evaluator: Evaluator, proposal: Proposal, clock: Any, ticket: int) -> Answer:
    if clock is not None:
        clock.begin.remote(ticket)
    return attempt(evaluator, proposal)


def attempt(evaluator: Evaluator, proposal: Proposal) -> Answer:
    """Evaluate once; whatever is raised becomes a failure in one line, but for what ends the study.

    Raises:
        KeyboardInterrupt: Also where Lightning has made an ordinary exit of it.
        SystemExit: If Lightning ends a training because of SIGTERM.
    """
    began = time.monotonic()
    try:
        found = evaluator(proposal)
        if not isinstance(found, Mapping):
            raise TypeError(f"an evaluator gives {{metric: number}}; got {type(found).__name__}")
        metrics = {name: float(value) for name, value in found.items()}
    except (Exception, SystemExit) as error:  # noqa: BLE001  # an evaluation that fails is a result
        if isinstance(error, SystemExit) and (interrupt := interruption(error)) is not None:
            raise interrupt from None
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        failure, seconds = f"{_one_line(error)} ({where})", time.monotonic() - began
        return Answer(proposal.number, None, failure, seconds, fault=machine_fault(error) is not None)
    return Answer(proposal.number, metrics, None, time.monotonic() - began)


def _one_line(error: BaseException) -> str:
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:300]


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
