"""ENAS keeps the contract of a search without alphas, and its controller learns from what the shared weights say."""

from __future__ import annotations

import pytest

from oneshot.discrete.enas import ENAS
from oneshot.testing import SharingContract
from oneshot.testing.methods import Method


class TestENAS(SharingContract):
    epochs = 6
    trained = ("supernet", "controller")

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: ENAS(supernet, weight_lr=0.1, controller_lr=0.02, updates=5, candidates=20, finalists=4)
