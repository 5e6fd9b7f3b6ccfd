"""Every method keeps the contract and finds what was planted."""

from __future__ import annotations

import pytest

from oneshot.cost import CostPenalty
from oneshot.methods.fbnet import FBNet
from oneshot.methods.snas import SNAS
from oneshot.testing import MethodContract
from oneshot.testing.methods import Method


class TestSNAS(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: SNAS(supernet, arch_lr=0.1)


class TestFBNet(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        # a small exponent, so that the planted winner, which costs most, still wins
        return lambda s: FBNet(s, CostPenalty("macs", "fbnet", b=0.01), arch_lr=0.1, arch_warmup_epochs=0)
