"""A pool runs any callable; a worker that dies or hangs costs its task and nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from oneshot.parallel import pools
from oneshot.parallel import ray as cluster
from oneshot.parallel.pools import InProcess, Outcome, Pool, Processes, RayPool


def double(task: int) -> int:
    """Twice the task; its process dies of a negative one."""
    if task < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * task


def seen(name: str) -> tuple[str | None, int]:
    """A variable of the environment, and the threads of PyTorch, where the task runs."""
    return os.environ.get(name), torch.get_num_threads()


def run(pool: Pool[int, int], tasks: list[int]) -> list[Outcome[int]]:
    waiting, found = list(enumerate(tasks)), []
    running = 0
    while waiting or running:
        while waiting and running < pool.size:
            pool.submit(*waiting.pop(0))
            running += 1
        outcomes = pool.wait()
        running -= len(outcomes)
        found += outcomes
    return sorted(found, key=lambda outcome: outcome.ticket)


def test_tasks_in_this_process_are_answered_in_order() -> None:
    assert run(InProcess(double), [3, 1, 2]) == [Outcome(0, 6), Outcome(1, 2), Outcome(2, 4)]


@pytest.mark.slow  # begins processes
def test_a_process_that_dies_loses_its_task_and_no_other() -> None:
    pool = Processes(double, 2)
    try:
        outcomes = run(pool, [1, -1, 2, 3])
        assert [outcome.value for outcome in outcomes] == [2, None, 4, 6]
        assert outcomes[1].lost == "its process died (signal SIGKILL)"
    finally:
        pool.close()


@pytest.mark.slow  # begins two processes
def test_processes_have_the_environment_of_now_and_no_more_threads_than_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that began before forks them, and has one thread here as everything else."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for value in ("first", "second"):
        monkeypatch.setenv("OF_A_TEST", value)
        pool: Processes[str, tuple[str | None, int]] = Processes(seen, 1)
        try:
            pool.submit(0, "OF_A_TEST")
            found = []
            while not found:
                found = pool.wait()
            assert found[0].value == (value, 3)
        finally:
            pool.close()


def test_processes_share_the_cores_and_have_no_more_threads_than_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert [pools.threads_of_each(size) for size in (1, 2, 3, 8, 20)] == [4, 4, 2, 1, 1]


@pytest.mark.slow  # begins two processes
def test_a_process_that_dies_while_it_is_idle_costs_no_task() -> None:
    pool = Processes(double, 1)
    try:
        pool.submit(0, 1)
        assert pool.wait()[0].lost is None
        pool._free[0].process.kill()
        pool._free[0].process.join()
        pool.submit(1, 2)
        assert pool.wait()[0].lost is None
    finally:
        pool.close()


class Reference(SimpleNamespace):
    """What a cluster answers a call with; hashed by identity."""

    __hash__ = object.__hash__


def test_time_on_a_cluster_counts_from_when_a_task_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    begun: list[Any] = []
    killed = []

    class Crowded:
        """A cluster with room for the first worker only, whose task does not end."""

        exceptions = ray.exceptions
        nodes = staticmethod(lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
        put = staticmethod(lambda call: call)
        is_initialized = staticmethod(lambda: False)
        kill = staticmethod(killed.append)
        get = staticmethod(lambda reference: None)

        @staticmethod
        def wait(references: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
            time.sleep(0.02)
            return [reference for reference in references if reference.ready][:1], []

        @staticmethod
        def remote(**options: Any) -> Callable[[Any], Any]:
            def begin(*arguments: Any) -> Any:
                first = not begun
                begun.append(
                    Reference(
                        ready=SimpleNamespace(remote=lambda: Reference(ready=first)),
                        run=SimpleNamespace(remote=lambda task: Reference(ready=False)),
                    )
                )
                return begun[-1]

            return lambda kind: SimpleNamespace(remote=begin)

    monkeypatch.setattr(pools, "connect", lambda *arguments: Crowded)
    monkeypatch.setattr(pools, "TICK", 0.02)
    for module in (pools, cluster):
        monkeypatch.setattr(module, "check_there", lambda ray: None)
    pool: RayPool[int, int] = RayPool(double, 2, timeout=0.1)
    for ticket in range(2):
        pool.submit(ticket, ticket)
    (outcome,) = pool.wait()
    assert outcome.ticket == 0 and outcome.lost == "timed out after 0.1 s" and killed == [begun[0]]
    assert 0.1 <= outcome.seconds < 10
    assert [ticket for ticket, _ in pool._waiting] == [1] and not pool._idle, "it still waits for room"


@pytest.fixture(scope="module")
def ray() -> Any:
    there = pytest.importorskip("ray")
    yield there
    there.shutdown()


def refuse(call: Any) -> Any:
    raise RuntimeError("nothing runs here")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_answers_replaces_dead_workers_and_ends_where_none_can_begin(ray: Any) -> None:
    pool: RayPool[int, int] = RayPool(double, 2)
    outcomes = run(pool, [1, -1, 2, 3])
    pool.close()
    assert [outcome.value for outcome in outcomes] == [2, None, 4, 6]
    assert str(outcomes[1].lost).startswith("its worker died (")
    broken: RayPool[int, int] = RayPool(double, 1, prepare=refuse)
    with pytest.raises(RuntimeError, match=r"(?s)die before they begin: .*nothing runs here"):
        run(broken, [1])
    broken.close()
