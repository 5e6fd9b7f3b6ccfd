"""What every test gets: the same seeds, no network, and no GPU tests without a GPU."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

# Before torch is imported, here and in every subprocess: on tensors this small, threads mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Shells start what runs in the background with SIGINT ignored, and children inherit that; tests of Ctrl-C send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` on a machine that has none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _same_seed_for_every_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # left by pl.seed_everything in an earlier test
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # a test that does not need torch does not pay for importing it
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _same_signal_handlers_for_every_test() -> Iterator[None]:
    """Commands, Lightning and Ray set their own; one that is left behind would end the process of a later test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a test fail that reaches for the network without being marked `network`."""
    if request.node.get_closest_marker("network"):
        yield
        return
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_of_this_machine(self.family, address[0]):
            raise RuntimeError(f"Tests run offline, but this one connects to {address}. Mark it `network`, or fake it.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield


def _is_of_this_machine(family: int, host: str) -> bool:
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True
