"""DARTS keeps the contract of a method, finds what was planted, and takes the gradient of equations 7 and 8."""

from __future__ import annotations

import copy
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from oneshot.engine.module import Batch
from oneshot.methods.darts import DARTS
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.testing import MethodContract, PlantedSupernet, find_planted_winner, fit, random_streams
from oneshot.testing.methods import CANDIDATES, WINNER, Method, stripes


class TestFirstOrder(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: DARTS(supernet, arch_lr=0.1)


class TestSecondOrder(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: DARTS(supernet, order=2, arch_lr=0.1)


class Ascent(DARTS):
    """Walks up the validation loss: the sign error a planted winner must reveal."""

    def arch_backward(self, batch: Batch) -> Tensor:
        loss = super().arch_backward(batch)
        for alpha in self.alphas.parameters():
            assert alpha.grad is not None
            alpha.grad.neg_()
        return loss


class Blind(DARTS):
    """Never moves its alphas."""

    def arch_backward(self, batch: Batch) -> Tensor:
        return torch.zeros(())


@pytest.mark.parametrize("order", [1, 2])
def test_a_search_that_walks_uphill_misses_the_planted_winner(order: Any) -> None:
    for seed in range(3):
        assert find_planted_winner(lambda s: Ascent(s, order=order, arch_lr=0.1), seed=seed)["edge"] != (WINNER,)


def test_a_search_that_does_not_look_misses_the_planted_winner_for_some_seed() -> None:
    found = [find_planted_winner(Blind, seed=seed, epochs=1)["edge"] == (WINNER,) for seed in range(3)]
    assert not all(found)


def test_without_the_winner_nothing_else_wins() -> None:
    """The control: the task needs the 3x3 convolution, the search does not simply like it."""
    rest = [name for name in CANDIDATES if name != WINNER]
    supernets: list[OperationSupernet] = []

    def method(supernet: OperationSupernet) -> DARTS:
        supernets.append(supernet)
        return DARTS(supernet, arch_lr=0.1)

    x, y = stripes(512, seed=99)
    accuracies = []
    for candidates in (CANDIDATES, rest):
        config = find_planted_winner(method, seed=0, candidates=candidates, epochs=8)
        network = supernets[-1].eval()
        with torch.no_grad():
            logits = network(x, network.one_hot(config))  # type: ignore[operator]
        accuracies.append(float((logits.argmax(1) == y).float().mean()))
    assert accuracies[0] > 0.9 and abs(accuracies[1] - 0.5) < 0.1


def exact_gradient(
    module: DARTS,
    batch: Batch,
    *,
    momentum: bool = True,
    decay: bool = True,
    step: bool = True,
    annealed: bool = True,
) -> list[Tensor]:
    """``d L_v(w', alpha) / d alpha`` by autograd through the step SGD is about to take, ``w'(alpha)``."""
    optimizer = module.trainer.optimizers[0]
    group, supernet = optimizer.param_groups[0], copy.deepcopy(module.supernet)
    w = {name: p.detach().clone().requires_grad_() for name, p in supernet.named_parameters()}
    buffers = [optimizer.state[p].get("momentum_buffer", torch.zeros_like(p)) for p in module.supernet.parameters()]
    alphas = {name: a.detach().clone().requires_grad_() for name, a in module.alphas.items()}

    def loss(parameters: dict[str, Tensor], stream: Any) -> Tensor:
        x, y = batch[stream]
        arch = {name: alpha.softmax(-1) for name, alpha in alphas.items()}
        return F.cross_entropy(functional_call(supernet, parameters, (x, arch)), y)

    gradients = torch.autograd.grad(loss(w, "weights"), list(w.values()), create_graph=True)
    lr = group["lr"] if annealed else module.weight_lr
    stepped = {
        name: p - step * lr * (g + decay * group["weight_decay"] * p + momentum * group["momentum"] * b)
        for (name, p), g, b in zip(w.items(), gradients, buffers, strict=True)
    }
    return list(torch.autograd.grad(loss(stepped, "arch"), list(alphas.values())))


def run(monkeypatch: pytest.MonkeyPatch, order: Any, *, epochs: int = 1, **wrong: bool) -> list[bool]:
    """Compare the gradient of every step of a short search with the exact one."""
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=2, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    # The gradient jumps where a ReLU switches, and the exact one does not see that; so a short probe, in float64.
    settings: dict[str, Any] = {"arch_lr": 0.05, "weight_lr": 0.1, "weight_decay": 0.1, "alpha_std": 0.5}
    module = DARTS(supernet, order=order, epsilon=1e-6, **settings).double()
    original, agree = module.arch_backward, []

    def arch_backward(batch: Batch) -> Tensor:
        loss = original(batch)
        ours = [alpha.grad for alpha in module.alphas.parameters()]
        exact = exact_gradient(module, batch, **wrong)
        agree.append(all(torch.allclose(a, b, rtol=1e-6, atol=1e-9) for a, b in zip(ours, exact, strict=True)))  # type: ignore[arg-type]
        return loss

    monkeypatch.setattr(module, "arch_backward", arch_backward)
    fit(module, random_streams(supernet, dtype=torch.float64), epochs=epochs)
    return agree


def test_the_second_order_looks_through_the_step_the_optimiser_is_about_to_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(monkeypatch, 2) == [True, True, True]


def test_the_first_order_takes_the_weights_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, 1, step=False) == [True, True, True]
    assert run(monkeypatch, 1) == [False, False, False]


def test_the_momentum_and_decay_of_the_optimiser_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, 2, momentum=False) == [True, False, False]  # before the first step there is none
    assert run(monkeypatch, 2, decay=False) == [False, False, False]


def test_the_step_it_looks_through_has_the_learning_rate_of_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, 2, epochs=2) == [True] * 6
    assert run(monkeypatch, 2, epochs=2, annealed=False) == [True] * 3 + [False] * 3


@pytest.mark.parametrize("order", [0, 3, "second"])
def test_another_order_is_refused(order: Any) -> None:
    with pytest.raises(ValueError, match=f"order must be 1 or 2; got {order}"):
        DARTS(NASBench201Supernet(channels=2, cells_per_stage=1), order=order)


def test_second_order_under_autocast_is_computed_in_full_precision() -> None:
    gradients = []
    for enabled in (False, True):
        torch.manual_seed(0)
        method = DARTS(PlantedSupernet(), order=2)
        streams = random_streams(method.supernet)
        batch = {name: next(iter(loader)) for name, loader in streams.items()}
        optimizer = torch.optim.SGD(method.supernet.parameters(), 0.1)
        method.optimizers = lambda o=optimizer: [MagicMock(optimizer=o), None]  # type: ignore[method-assign]  # no Trainer
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            method.arch_backward(batch)
        gradients.append([alpha.grad.clone() for alpha in method.alphas.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
