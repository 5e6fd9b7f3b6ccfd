"""Pools of workers that run one callable: in this process, in processes beside it, on a Ray cluster.

A pool knows nothing of what it runs. Workers may hang or die; such a task is lost, and the others go on.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .ray import GONE, check_room, check_there, connect, wait_for

Task = TypeVar("Task")
Value = TypeVar("Value")

LOOK = 1.0  # seconds between two looks at whether processes are alive
TICK = 0.5  # seconds between two looks at the time of tasks on a cluster
START = 120.0  # seconds for a new process to import what the callable needs, in addition to the timeout
BEGINNINGS = 3  # workers of a cluster that may die before they begin
READY = "ready"
HEAVY = ("torch", "torchvision", "torchmetrics", "pytorch_lightning")  # imported once for all processes, where they are


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """What came of one task.

    Args:
        ticket: Number of the task.
        value: What the callable returned; None if the task was lost.
        lost: Why the task was lost, in one line.
        seconds: How long a lost task ran.
    """

    ticket: int
    value: Value | None = None
    lost: str | None = None
    seconds: float = 0.0


class Pool(ABC, Generic[Task, Value]):
    """Runs a callable; ``size`` tasks at a time."""

    size: int = 1

    @abstractmethod
    def submit(self, ticket: int, task: Task) -> None:
        """Begin a task; fewer than ``size`` may run."""

    @abstractmethod
    def wait(self) -> list[Outcome[Value]]:
        """Wait until at least one task has ended."""

    def close(self) -> None:  # nothing to close here
        """Stop everything."""


class InProcess(Pool[Task, Value]):
    """Runs one task after the other in this process. Nothing can stop a task that hangs."""

    def __init__(self, call: Callable[[Task], Value]) -> None:
        self._call = call
        self._outcomes: list[Outcome[Value]] = []

    def submit(self, ticket: int, task: Task) -> None:
        self._outcomes.append(Outcome(ticket, self._call(task)))

    def wait(self) -> list[Outcome[Value]]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes


class Processes(Pool[Task, Value]):
    """Processes of this machine. A process that dies or exceeds its time is replaced.

    Args:
        call: The callable, pickled once for every process. If it raises, its process ends.
        size: Number of processes.
        timeout: Seconds for one task; None for no limit.
    """

    def __init__(self, call: Callable[[Task], Value], size: int, timeout: float | None = None) -> None:
        self.size, self.timeout = size, timeout
        self._call = call
        self._context = _context()
        self._threads = threads_of_each(size)
        self._free: list[_Process] = []
        self._busy: list[_Process] = []
        self._began = False  # whether any process was ever ready

    def submit(self, ticket: int, task: Task) -> None:
        while self._free and not self._free[-1].process.is_alive():  # it died while it was idle: no task is to blame
            self._free.pop().kill()
        worker = self._free.pop() if self._free else _Process(self._context, self._call, self._threads)
        worker.start(ticket, task)
        self._busy.append(worker)

    def wait(self) -> list[Outcome[Value]]:
        """Wait until at least one task has ended.

        Raises:
            RuntimeError: If the processes end as they begin.
        """
        while True:
            now = time.monotonic()
            ends = [w.began + self.timeout + (0 if w.warm else START) for w in self._busy] if self.timeout else []
            until = max(0.0, min([*ends, now + LOOK]) - now)
            ready = set(mp.connection.wait([w.pipe for w in self._busy], until))
            # a process that died may have left its end of the pipe to a child
            found = [self._finish(w) for w in list(self._busy) if w.pipe in ready or not w.process.is_alive()]
            late = time.monotonic()
            for worker in list(self._busy) if self.timeout else []:
                if late >= worker.began + (self.timeout or 0) + (0 if worker.warm else START):
                    worker.kill()
                    self._busy.remove(worker)
                    found.append(worker.lost(f"timed out after {self.timeout:g} s"))
            if outcomes := [outcome for outcome in found if outcome is not None]:
                return outcomes

    def _finish(self, worker: _Process) -> Outcome[Value] | None:
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
                    f"Processes must not end as they begin; these do ({_how(worker.process.exitcode)}). If a script "
                    "starts them, keep that line under 'if __name__ == \"__main__\"'; each process imports the script, "
                    "and unpickles what it runs."
                )
            return worker.lost(f"its process died ({_how(worker.process.exitcode)})")
        if message == READY:
            self._began = True
            worker.warm, worker.began = True, time.monotonic()
            return None
        self._busy.remove(worker)
        self._free.append(worker)
        (value,) = message
        return Outcome(worker.ticket, value)

    def close(self) -> None:
        for worker in self._busy + self._free:
            worker.kill()
        self._busy, self._free = [], []


def threads_of_each(size: int) -> int:
    """Threads of each of some processes that share the cores of this one: not more than this process has itself.

    Processes with more threads than there are idle cores are several times slower: in every small kernel the threads
    wait for each other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else cores
    return max(1, min(own, cores // size))


class _Process:
    def __init__(self, context: Any, call: Callable[[Any], Any], threads: int) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, call, threads, dict(os.environ)))
        try:
            self.process.start()
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"What runs in other processes must be picklable; this is not: {error}. Define what it holds at the "
                "top of a module, not in a function, or run it in this process: workers=0."
            ) from error
        theirs.close()
        self.warm, self.began, self.ticket = False, time.monotonic(), -1

    def start(self, ticket: int, task: object) -> None:
        self.began, self.ticket = time.monotonic(), ticket
        with contextlib.suppress(OSError):  # it died while it was idle; the next read says so
            self.pipe.send(task)

    def lost(self, why: str) -> Outcome[Any]:
        return Outcome(self.ticket, None, why, time.monotonic() - self.began)

    def kill(self) -> None:
        """End the process, with what it has started."""
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it died before it had a group of its own
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _context() -> Any:
    """How processes begin: on Linux as forks of a server that has imported what is heavy; else each imports it.

    The server runs nothing but imports: a fork of this process, which may have threads, may hang. It begins with the
    first pool, has imported what this process had by then, and ends with this process. Elsewhere libraries of the
    system do not bear forks.
    """
    if sys.platform != "linux":
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([name for name in HEAVY if name in sys.modules])
    return context


def _serve(pipe: Any, call: Callable[[Any], Any], threads: int, environment: dict[str, str]) -> None:
    os.setsid()  # what it starts belongs to it; and Ctrl-C is for the parent, which ends its processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()  # the server may have begun long ago; what libraries read as they were loaded stays
    os.environ.update(environment)
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)  # of NumPy and SciPy
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    pipe.send(READY)
    while True:
        try:
            task = pipe.recv()
        except EOFError:  # the parent has ended
            return
        pipe.send((call(task),))


def _end_with_parent() -> None:
    """End this process when the one that asked for it was killed: the task begins again elsewhere."""
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


class RayPool(Pool[Task, Value]):
    """Workers of a Ray cluster. A worker that dies or exceeds its time is replaced.

    Where the cluster has no room for all workers, those that have begun do the work. A task begins when a worker is
    there for it; its time counts from then on.

    Args:
        call: The callable, sent to the cluster once. What it raises, :meth:`wait` raises.
        size: Number of workers.
        address: See ``ray.init``; ``"local"`` starts a cluster on this machine.
        timeout: Seconds for one task; None for no limit.
        cpus: Cores of each worker.
        gpus: GPUs of each worker.
        prepare: Makes, in every worker that begins, the callable from ``call``, for example on the worker's GPU.

    Raises:
        MissingExtraError: If Ray is not installed.
        ConnectionError: If the cluster is not there.
        ValueError: If no machine of the cluster has what a worker needs.
    """

    def __init__(
        self,
        call: Any,
        size: int,
        *,
        address: str | None = "local",
        timeout: float | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        prepare: Callable[[Any], Callable[[Task], Value]] | None = None,
    ) -> None:
        self.size, self.timeout = size, timeout
        self._ray = connect(address, size * cpus, "Evaluating on a cluster")
        check_room(self._ray, cpus, gpus)
        self._call, self._prepare = self._ray.put(call), prepare
        self._kind = self._ray.remote(num_cpus=cpus, num_gpus=gpus)(_Actor)
        self._waiting: deque[tuple[int, Task]] = deque()
        self._idle: list[Any] = []
        self._busy: dict[Any, _Job] = {}  # by the reference of what each worker does
        self._failed = 0  # workers that died before they began

    def submit(self, ticket: int, task: Task) -> None:
        check_there(self._ray)
        self._waiting.append((ticket, task))
        self._hand_out()

    def wait(self) -> list[Outcome[Value]]:
        """Wait until at least one task has ended.

        Raises:
            ConnectionError: If the cluster went away.
            RuntimeError: If workers die before they begin.
        """
        while True:
            ready = wait_for(self._ray, list(self._busy), None if self.timeout is None else TICK)
            found = [self._finish(reference) for reference in ready]
            found += self._late(self.timeout)
            self._hand_out()
            if outcomes := [outcome for outcome in found if outcome is not None]:
                return outcomes

    def _hand_out(self) -> None:
        """Give tasks to idle workers, and begin workers for the tasks that are left."""
        while self._waiting and self._idle:
            actor, (ticket, task) = self._idle.pop(), self._waiting.popleft()
            self._busy[actor.run.remote(task)] = _Job(actor, ticket, time.monotonic())
        beginning = sum(job.ticket is None for job in self._busy.values())
        for _ in range(min(len(self._waiting) - beginning, self.size - len(self._busy))):
            actor = self._kind.remote(self._call, self._prepare)
            self._busy[actor.ready.remote()] = _Job(actor)

    def _finish(self, reference: Any) -> Outcome[Value] | None:
        job, errors = self._busy.pop(reference), self._ray.exceptions
        died = errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError
        try:
            value = self._ray.get(reference)
        except (*died, errors.TaskCancelledError) as error:
            check_there(self._ray)  # without a cluster, no worker is to blame
            if job.ticket is not None:
                why = f"its worker died ({one_line(error)})"
                return Outcome(job.ticket, None, why, time.monotonic() - job.began)
            self._failed += 1
            if self._failed > BEGINNINGS:
                raise RuntimeError(f"The workers of the cluster die before they begin: {error}") from error
            return None
        except errors.RaySystemError as error:
            raise ConnectionError(GONE) from error
        self._idle.append(job.actor)
        return None if job.ticket is None else Outcome(job.ticket, value)

    def _late(self, timeout: float | None) -> list[Outcome[Value] | None]:
        """End the workers whose tasks have run for too long."""
        found: list[Outcome[Value] | None] = []
        for reference, job in list(self._busy.items()) if timeout is not None else ():
            seconds = time.monotonic() - job.began
            if job.ticket is not None and seconds >= (timeout or 0):
                self._ray.kill(job.actor)
                del self._busy[reference]
                found.append(Outcome(job.ticket, None, f"timed out after {timeout:g} s", seconds))
        return found

    def close(self) -> None:
        if self._ray.is_initialized():
            for actor in [*self._idle, *(job.actor for job in self._busy.values())]:
                self._ray.kill(actor)
        self._waiting.clear()
        self._idle, self._busy = [], {}


@dataclass
class _Job:
    actor: Any
    ticket: int | None = None  # None while the worker begins
    began: float = 0.0


class _Actor:
    """A worker of a cluster."""

    def __init__(self, call: Any, prepare: Callable[[Any], Callable[[Any], Any]] | None) -> None:
        self.call = call if prepare is None else prepare(call)

    def ready(self) -> None:
        """Returns when the worker has begun."""

    def run(self, task: Any) -> Any:
        return self.call(task)


def one_line(error: BaseException) -> str:
    """Class and message of an error, without line breaks and at most 300 characters long."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:300]


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
