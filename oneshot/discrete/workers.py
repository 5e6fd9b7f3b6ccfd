"""Where evaluations run: in this process, in others beside it, on a Ray cluster. They may fail, hang or die."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import multiprocessing.connection
import os
import pickle
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from oneshot.cluster import check_room, connect

from .protocol import Evaluator, Proposal

START = 120.0  # seconds for a new process to import what the evaluator needs, beside the timeout


@dataclass(frozen=True)
class Answer:
    """What came of one attempt.

    Args:
        number: Of the proposal.
        metrics: What was measured; None if it failed.
        failure: Why it failed, in one line.
        seconds: How long it took.
    """

    number: int
    metrics: Mapping[str, float] | None
    failure: str | None
    seconds: float


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
            until = max(0.0, min(ends) - now) if ends else None
            ready = set(mp.connection.wait([w.pipe for w in self._busy], until))
            answers = [self._finish(w) for w in list(self._busy) if w.pipe in ready]
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
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self._busy.remove(worker)
            if not self._began:
                raise RuntimeError(
                    f"The processes of the evaluator end as they begin ({_how(worker.process.exitcode)}). If a script "
                    "runs the study, keep it under 'if __name__ == \"__main__\"'; what the evaluator holds is imported "
                    "and unpickled there."
                ) from None
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
        self.process = context.Process(target=_serve, args=(theirs, evaluator, threads), daemon=False)
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
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Any, evaluator: Evaluator, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the study, which ends its processes
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    pipe.send(READY)
    while True:
        try:
            proposal = pipe.recv()
        except EOFError:  # the study is gone
            return
        pipe.send(attempt(evaluator, proposal))


class RayPool(Pool):
    """Workers of a Ray cluster; the cluster replaces those that die.

    Args:
        evaluator: Sent to the cluster once.
        size: Evaluations at a time.
        address: See ``ray.init``; ``"local"`` starts a cluster on this machine.
        timeout: Seconds for one evaluation, and ``START`` to begin it; None for no end.
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
        self._patience = (timeout or 0.0) + START  # a cluster does not tell when it has begun
        self._ray = connect(address, size * cpus, "Evaluating on a cluster")
        check_room(self._ray, cpus, gpus)
        self._evaluator = self._ray.put(evaluator)
        self._attempt = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(attempt)
        self._busy: dict[Any, tuple[int, float]] = {}

    def submit(self, proposal: Proposal) -> None:
        self._check()
        self._busy[self._attempt.remote(self._evaluator, proposal)] = proposal.number, time.monotonic()

    def wait(self) -> list[Answer]:
        """Wait for an answer.

        Raises:
            ConnectionError: If the cluster went away.
        """
        ray = self._ray
        while True:
            until = None
            if self.timeout:
                until = max(0.0, min(began for _, began in self._busy.values()) + self._patience - time.monotonic())
            self._check()
            ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=until)
            answers = [self._answer(reference) for reference in ready]
            for reference, (number, began) in list(self._busy.items()) if self.timeout else []:
                if time.monotonic() >= began + self._patience:
                    ray.cancel(reference, force=True)
                    del self._busy[reference]
                    why = f"timed out after {self.timeout:g} s"
                    answers.append(Answer(number, None, why, time.monotonic() - began))
            if answers:
                return answers

    def _check(self) -> None:
        if not self._ray.is_initialized():  # Ray would start another one, without our evaluator
            raise ConnectionError("The Ray cluster went away. The study goes on from its log, with or without one.")

    def _answer(self, reference: Any) -> Answer:
        number, began = self._busy.pop(reference)
        errors = self._ray.exceptions
        died = errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError
        try:
            answer: Answer = self._ray.get(reference)
        except (*died, errors.RayTaskError, errors.TaskCancelledError) as e:
            return Answer(number, None, f"its worker died ({_one_line(e)})", time.monotonic() - began)
        except errors.RaySystemError as error:
            raise ConnectionError(f"The Ray cluster went away: {_one_line(error)}") from error
        return answer

    def close(self) -> None:
        if self._ray.is_initialized():
            for reference in self._busy:
                self._ray.cancel(reference, force=True)
        self._busy = {}


def attempt(evaluator: Evaluator, proposal: Proposal) -> Answer:
    """Evaluate once; whatever is raised becomes a failure in one line."""
    began = time.monotonic()
    try:
        found = evaluator(proposal)
        if not isinstance(found, Mapping):
            raise TypeError(f"an evaluator gives {{metric: number}}; got {type(found).__name__}")
        metrics = {name: float(value) for name, value in found.items()}
    except (Exception, SystemExit) as error:  # noqa: BLE001  # an evaluation that fails is a result
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        return Answer(proposal.number, None, f"{_one_line(error)} ({where})", time.monotonic() - began)
    return Answer(proposal.number, metrics, None, time.monotonic() - began)


def _one_line(error: BaseException) -> str:
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:300]


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
