"""DrNAS keeps the contract; its draws are differentiated as Dirichlet draws, and its divergence is an integral."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oneshot.methods.drnas import DirichletSampler, DrNAS, concentration, dirichlet_kl
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.darts import DARTSSupernet, darts_space
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import Method


class TestDrNAS(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: DrNAS(supernet, arch_lr=0.1)


class TestDivergence(MethodContract):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        torch.manual_seed(0)
        return PlantedSupernet()

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: DrNAS(supernet, regularizer="kl", arch_lr=0.1)


def integral(c: tuple[float, float, float], *, reverse: bool = False) -> float:
    """``KL(Dirichlet(c) || Dirichlet(1))`` over the triangle of three weights, by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    nodes, weights = (nodes + 1) / 2, weights / 2
    u, v = np.meshgrid(nodes, nodes)
    x, y, area = u, (1 - u) * v, np.outer(weights, weights) * (1 - u)
    log_p = math.lgamma(sum(c)) - sum(map(math.lgamma, c))
    log_p = log_p + (c[0] - 1) * np.log(x) + (c[1] - 1) * np.log(y) + (c[2] - 1) * np.log(1 - x - y)
    log_q = math.log(2.0)  # the uniform density: the triangle has an area of a half
    density, ratio = (2.0, log_q - log_p) if reverse else (np.exp(log_p), log_p - log_q)
    return float((area * density * ratio).sum())


@pytest.mark.parametrize("c", [(1.0, 1.0, 1.0), (2.0, 3.0, 1.5), (5.0, 1.25, 2.0)])
def test_the_divergence_is_the_integral(c: tuple[float, float, float]) -> None:
    ours = float(dirichlet_kl(torch.tensor([c], dtype=torch.float64)))
    assert ours == pytest.approx(integral(c), rel=1e-4, abs=1e-7)
    if c != (1.0, 1.0, 1.0):
        assert ours != pytest.approx(integral(c, reverse=True), rel=0.05)


def gradients(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a linear loss in the alphas: mean over n draws and its error, exact, and that of a softmax."""
    torch.manual_seed(0)
    alpha = torch.tensor([0.7, -0.5, 0.1, -1.5], dtype=torch.float64)
    loss = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    rows = alpha.expand(n, 4).clone().requires_grad_()
    draws = DirichletSampler()({"cell": rows})["cell"]
    of_draws = torch.autograd.grad((draws * loss).sum(), rows)[0]
    c = np.where(alpha.numpy() > 0, alpha.numpy() + 1, np.exp(alpha.numpy()))
    slope = np.where(alpha.numpy() > 0, 1.0, np.exp(alpha.numpy()))
    exact = slope * (loss.numpy() - (c * loss.numpy()).sum() / c.sum()) / c.sum()  # of the mean c / sum(c)
    p = alpha.softmax(0)
    softmax = p * (loss - (p * loss).sum())
    return of_draws.mean(0), of_draws.std(0) / n**0.5, torch.from_numpy(exact), softmax


def test_the_gradient_of_a_draw_is_on_average_that_of_the_mean() -> None:
    mean, error, exact, softmax = gradients(20_000)
    assert ((mean - exact).abs() < 4 * error).all()
    assert ((mean - softmax).abs() > 10 * error).any()  # of a softmax it is not


def test_draws_are_mixtures_with_the_variance_of_the_distribution() -> None:
    torch.manual_seed(0)
    draws = DirichletSampler()({"cell": torch.zeros(20_000, 4)})["cell"]
    torch.testing.assert_close(draws.sum(-1), torch.ones(len(draws)), rtol=1e-5, atol=1e-5)
    # Of Dirichlet(1, 1, 1, 1) a weight has the mean 1/4 and the variance 3/80.
    np.testing.assert_allclose(draws.mean(0), 0.25, atol=0.01)
    np.testing.assert_allclose(draws.var(0), 3 / 80, rtol=0.05)


@pytest.mark.parametrize("value", [-30.0, -7.0, 30.0])
def test_extreme_alphas_have_finite_draws_and_gradients(value: float) -> None:
    torch.manual_seed(0)
    alpha = torch.full((200, 5), value).requires_grad_()
    draws = DirichletSampler()({"cell": alpha})["cell"]
    gradient = torch.autograd.grad((draws * torch.arange(5.0)).sum(), alpha)[0]
    assert draws.isfinite().all() and gradient.isfinite().all()


def test_what_is_derived_is_largest_in_the_mean() -> None:
    """Softmax, by which the authors' code compares edges, prefers another pair."""
    space = darts_space(candidates=("skip_connect", "sep_conv_3x3"), steps=2)
    search = DrNAS(DARTSSupernet(space, channels=2, cells=2, image_size=8))
    values = torch.tensor([[-2.0, -3.0], [1.0, 0.2], [0.0, 0.0]])  # edges of the second node
    with torch.no_grad():
        for alpha in search.alphas.values():
            alpha[2:] = values
    c = torch.where(values > 0, values + 1, values.exp())
    strongest = (c / c.sum(-1, keepdim=True)).amax(-1)
    assert strongest[0] > strongest[1] > strongest[2]
    assert [op != "none" for op in search.derive()["normal"][2:]] == [True, True, False]
    torch.testing.assert_close(search.probabilities()["normal"][2:].amax(-1), strongest)


def test_l2_is_a_decay_of_the_alphas_and_kl_a_part_of_the_loss() -> None:
    for regularizer, decay in (("l2", 0.25), ("kl", 0.0)):
        supernet = PlantedSupernet()
        search = DrNAS(supernet, regularizer=regularizer, regularizer_weight=0.25, alpha_std=1.0)  # type: ignore[arg-type]
        trainer = fit(search, random_streams(supernet, batches=1), epochs=1)
        assert trainer.optimizers[1].param_groups[0]["weight_decay"] == decay
        loss = search.arch_loss(torch.tensor(2.0), search.edge_weights())
        divergence = dirichlet_kl(concentration(search.alphas["edge"])).sum()
        expected = torch.tensor(2.0) if regularizer == "l2" else 2.0 + 0.25 * divergence
        assert divergence > 0.1
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param({"regularizer": "l1"}, "'l2' or 'kl'; got 'l1'", id="unknown"),
        pytest.param({"regularizer_weight": -1.0}, "must not be negative; got -1.0", id="negative"),
    ],
)
def test_another_regularizer_is_refused(options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DrNAS(PlantedSupernet(), **options)
