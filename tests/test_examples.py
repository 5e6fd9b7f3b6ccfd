"""The methods and the space of the page of examples run, and their formulas are those of the papers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import oneshot
from oneshot.cost import AdditiveCost, PeakCost, count_candidates
from oneshot.discrete import Proposal
from oneshot.supernets import NASBench201Supernet
from oneshot.supernets.mixed_op import MixedOp
from oneshot.testing import MethodContract, PlantedSupernet, SpaceContract, fit, random_streams

PAGE = (Path(__file__).parents[1] / "docs/examples.md").read_text(encoding="utf-8")
BETA, MINUS, SYNFLOW, USE, SIGNALS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SMALL: dict[str, Any] = {"channels": 4, "cells_per_stage": 1, "image_size": 8}


def names_of(*blocks: str) -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": "examples"}
    for block in blocks:
        exec(compile(block, "docs/examples.md", "exec"), scope)
    return scope


EXAMPLES = names_of(BETA, MINUS, SYNFLOW)


class TestBetaDARTS(MethodContract):
    @pytest.fixture
    def method(self) -> Any:
        return lambda supernet: EXAMPLES["BetaDARTS"](supernet, arch_lr=0.1, strength=0.1)


class TestDARTSMinus(MethodContract):
    @pytest.fixture
    def method(self) -> Any:
        return lambda supernet: EXAMPLES["DARTSMinus"](supernet, arch_lr=0.1, beta=0.1)


def test_the_examples_are_short() -> None:
    assert [len(block.strip().splitlines()) < most for block, most in ((BETA, 20), (MINUS, 40), (SYNFLOW, 35))] == [
        True
    ] * 3


class _Trainer:
    max_epochs = 50
    current_epoch = 20


def test_the_gradient_of_beta_darts_is_a_softmax_that_grows_with_the_epoch() -> None:
    search = EXAMPLES["BetaDARTS"](PlantedSupernet(edges=3))
    search._trainer = _Trainer()
    with torch.no_grad():
        for alpha in search.alphas.values():
            alpha.copy_(torch.randn_like(alpha))
    search.double()

    loss = search.arch_loss(torch.zeros((), dtype=torch.float64), search.edge_weights())

    rows = np.concatenate([alpha.detach().double().numpy() for alpha in search.alphas.values()])
    weight = 25.0 * 20 / 50
    assert loss.item() == pytest.approx(weight * np.log(np.exp(rows).sum(1)).mean(), rel=1e-6)
    gradients = torch.autograd.grad(loss, list(search.alphas.values()))
    softmax = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
    got = np.concatenate([g.numpy() for g in gradients])
    np.testing.assert_allclose(got, weight * softmax / len(rows), rtol=1e-5, atol=1e-9)
    assert not np.allclose(got, weight * softmax, rtol=1e-2)  # without the mean over rows


@pytest.mark.parametrize("epoch", [0, 3, 9])
def test_a_mixture_of_darts_minus_has_the_input_beta_times_more(epoch: int) -> None:
    supernet = NASBench201Supernet(**SMALL).double().eval()
    sampler = EXAMPLES["AuxiliarySkip"](supernet.space, beta=0.8)
    sampler.schedule(epoch, 10)
    alphas = {"cell": torch.randn(6, 5, dtype=torch.float64)}
    mixed: MixedOp = supernet.mixed_ops()["cell"][2][0]
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)

    got = mixed(x, sampler(alphas)["cell"][2])

    p = np.exp(alphas["cell"][2].numpy())
    p /= p.sum()
    beta = 0.8 * (1 - epoch / 10)
    wanted = beta * x + sum(float(w) * op(x) for w, op in zip(p, mixed.ops, strict=True))
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(got, wanted - beta * x, rtol=1e-2)  # without the auxiliary connection
    torch.testing.assert_close(sampler.probabilities(alphas)["cell"], alphas["cell"].softmax(-1))


def test_synflow_is_the_derivative_of_the_output_in_the_scale_of_the_weights() -> None:
    supernet = NASBench201Supernet(**SMALL)
    config = supernet.space.from_arch_string(
        "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
    )
    got = EXAMPLES["SynFlow"](supernet)(Proposal(0, config, 0))["synflow"]

    torch.manual_seed(0)
    network = supernet.extract(config, inherit=False).double().eval()
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for norm in [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]:
        norm.forward = lambda x: x  # type: ignore[method-assign]  # switched off
    whole = {layer: layer.weight.detach().abs() for layer in layers}

    @torch.no_grad()
    def output(scale: float) -> float:
        for layer, weight in whole.items():
            layer.weight.copy_(weight * scale)
            if layer.bias is not None:
                layer.bias.abs_()
        return float(network(torch.ones(1, 3, 8, 8, dtype=torch.float64)).sum())

    step = 1e-5
    derivative = (output(1 + step) - output(1 - step)) / (2 * step)
    assert np.expm1(got) == pytest.approx(derivative, rel=1e-6)
    assert np.expm1(got) != pytest.approx(output(1.0), rel=1e-2)


@pytest.mark.slow
def test_the_examples_run_together(capsys: pytest.CaptureFixture[str]) -> None:
    names_of(BETA, MINUS, SYNFLOW, USE)
    said = capsys.readouterr().out
    assert re.search(r"^BetaDARTS \|.*^DARTSMinus \|.*^SynFlow \|", said, re.DOTALL | re.MULTILINE)


class TestSignals(SpaceContract):
    @pytest.fixture
    def supernet(self) -> Any:
        return names_of(SIGNALS)["SignalSupernet"]()


def test_the_space_for_signals_is_searched_and_counted_by_tables() -> None:
    supernet = names_of(SIGNALS)["SignalSupernet"]()
    assert isinstance(count_candidates(supernet, "macs"), AdditiveCost)
    assert isinstance(count_candidates(supernet, "memory"), PeakCost)
    search = oneshot.GDAS(supernet)
    fit(search, random_streams(supernet, batches=2), epochs=1)
    network = supernet.extract(search.derive()).eval()
    x: Tensor = torch.randn(2, 1, 24)
    assert torch.equal(network(x), supernet.eval().run_config(x, search.derive()))
