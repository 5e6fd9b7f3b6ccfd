"""Ray clusters: how to connect to one, with an error at once where there is none."""

from __future__ import annotations

import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from oneshot.errors import missing_extra

LOOK = 5.0  # seconds between two looks at whether a cluster is still there
GONE = "The Ray cluster went away. What was evaluated is kept: go on with the same command, with or without a cluster."


def connect(address: str | None, cpus: float, what: str) -> Any:
    """Connect to a cluster, and return the ``ray`` module.

    Args:
        address: Address of the cluster, see ``ray.init``; ``"local"`` starts one on this machine, None uses what runs.
        cpus: Cores of a cluster that is started here.
        what: What needs Ray, for the message where it is not installed.

    Raises:
        MissingExtraError: If Ray is not installed.
        ConnectionError: If the cluster is not there.
    """
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray", what) from error
    if not ray.is_initialized():
        _look_for(address)
        options: dict[str, Any] = {"num_cpus": math.ceil(cpus)} if address == "local" else {}
        try:
            with _handler_of_sigterm_kept():
                ray.init(
                    address=address,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **options,
                )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address, error) from error
    return ray


def wait_for(ray: Any, references: Sequence[Any], seconds: float | None = None) -> list[Any]:
    """Wait for the first of some results; an empty list after so many seconds.

    Raises:
        ConnectionError: If the cluster went away. Ray itself waits for a minute, and then ends the process.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    while True:
        check_there(ray)
        left = max(0.0, end - time.monotonic())
        ready, _ = ray.wait(list(references), num_returns=1, timeout=min(left, LOOK))
        if ready or left <= LOOK:
            return list(ready)


def check_there(ray: Any) -> None:
    """Check that the cluster still answers.

    Raises:
        ConnectionError: If not; then this process has left it.
    """
    if not ray.is_initialized():  # Ray would start another one, without our evaluator
        raise ConnectionError(GONE)
    if ray.util.client.ray.is_connected():  # its server is asked with every call
        return
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        ray.shutdown()
        raise ConnectionError(GONE) from error


def check_room(ray: Any, cpus: float, gpus: float) -> None:
    """Check that a machine has what a worker needs; Ray itself would wait for ever.

    Raises:
        ValueError: If none has.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus for has in machines):
        there = "; ".join(f"{has.get('CPU', 0):g} cores, {has.get('GPU', 0):g} GPUs" for has in machines)
        raise ValueError(
            f"A worker needs {cpus:g} cores and {gpus:g} GPUs of one machine, and would wait for ever: those of the "
            f"cluster have {there}. Lower what a worker needs, or add a machine."
        )


@contextmanager
def _handler_of_sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by ``sys.exit``; a later fit would end without its checkpoint."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _look_for(address: str | None) -> None:
    """Check that a port is open, which is seen at once; Ray itself would wait for minutes.

    Raises:
        ConnectionError: If nothing answers at ``host:port``.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: Exception) -> ConnectionError:
    return ConnectionError(
        f"There is no Ray cluster at {address!r}: {str(error).rstrip('.')}. Start one with 'ray start --head', or have "
        "one started on this machine: 'local'."
    )
