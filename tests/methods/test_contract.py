"""Every method keeps the contract and finds what was planted."""

from __future__ import annotations

import pytest

from oneshot.cost import CostPenalty, count_candidates
from oneshot.methods.fbnet import FBNet
from oneshot.methods.gdas import GDAS
from oneshot.methods.snas import SNAS
from oneshot.supernets.base import OperationSupernet
from oneshot.testing import MethodContract
from oneshot.testing.methods import Method


class TestSNAS(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: SNAS(supernet, arch_lr=0.1)


class TestGDAS(MethodContract):
    epochs = 8

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: GDAS(supernet, arch_lr=0.1)


class TestFBNet(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        def build(supernet: OperationSupernet) -> FBNet:
            penalty = CostPenalty(count_candidates(supernet, "macs"), "fbnet", a=1.0, b=0.01)
            return FBNet(supernet, penalty, arch_lr=0.1, arch_warmup_epochs=0)

        return build
