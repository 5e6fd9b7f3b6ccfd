"""DSNAS keeps the contract, and an alpha's gradient is its score times the gradient of the weight that was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oneshot.methods.dsnas import DSNAS, with_score
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.mixed_op import Path
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import Method


class TestDSNAS(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        def build(supernet: OperationSupernet) -> DSNAS:
            search = DSNAS(supernet, arch_lr=0.1, weight_lr=0.025)
            if "cell" in search.alphas:  # one row is settled from the first step on, also in a search that is resumed
                with torch.no_grad():
                    search.alphas["cell"][0, 3] = 5.0
            return search

        return build


def loss_and_gradient(seed: int, wrong: str = "") -> tuple[Tensor, np.ndarray]:  # type: ignore[type-arg]  # float64
    """Alphas' gradient of one draw by the method, and by the textbook: all candidates run, none of the trickery."""
    torch.manual_seed(seed)
    supernet = NASBench201Supernet(channels=2, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8).double()
    search = DSNAS(supernet, alpha_std=0.7).double()
    x, y = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.arange(8) % 3
    weights = search.edge_weights()
    alpha = search.alphas["cell"]
    ours = torch.autograd.grad(nn.functional.cross_entropy(search.run(x, weights), y), alpha)[0]

    drawn = weights["cell"].detach().clone().requires_grad_()
    arch = {"cell": Path(drawn) if wrong == "closed candidates add up" else drawn}
    of_weights = torch.autograd.grad(nn.functional.cross_entropy(supernet(x, arch), y), drawn)[0].numpy()  # type: ignore[arg-type]
    expected = np.zeros_like(of_weights)
    for row, values in enumerate(alpha.detach().numpy()):
        p = np.exp(values) / np.exp(values).sum()
        k = int(drawn[row].argmax())
        for i in range(len(p)):
            score = float(i == k) - (0.0 if wrong == "no mean" else p[i])
            credit = of_weights[row].sum() if wrong == "closed candidates add up" else of_weights[row, k]
            expected[row, i] = credit * score * (-1 if wrong == "sign" else 1)
    return ours, expected


def agrees(seed: int, wrong: str = "") -> bool:
    ours, expected = loss_and_gradient(seed, wrong)
    assert ours.abs().max() > 1e-6  # some path leads to the logits
    return bool(np.allclose(ours.numpy(), expected, rtol=1e-8, atol=1e-12))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_gradient_is_the_score_times_the_credit_of_what_was_drawn(seed: int) -> None:
    assert agrees(seed)


@pytest.mark.parametrize("wrong", ["closed candidates add up", "no mean", "sign"])
def test_the_comparison_tells_plausible_mistakes(wrong: str) -> None:
    assert not any(agrees(seed, wrong) for seed in (1, 2, 3))


def test_the_gradient_of_a_cost_is_on_average_that_of_the_expected_cost() -> None:
    alpha = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    costs, p = torch.tensor([2.0, 7.0, 4.0], dtype=torch.float64), alpha.softmax(-1)
    exact = torch.autograd.grad((p * costs).sum(), alpha, retain_graph=True)[0]
    mean = torch.zeros_like(exact)
    for k in range(3):
        drawn = torch.eye(3, dtype=torch.float64)[k : k + 1]
        weights = with_score(drawn, alpha)
        assert torch.equal(weights, drawn)
        mean += p[0, k].detach() * torch.autograd.grad((weights * costs).sum(), alpha)[0]
    torch.testing.assert_close(mean, exact, rtol=1e-12, atol=1e-14)


def test_a_settled_row_runs_its_best_candidate_and_keeps_its_alphas() -> None:
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=2, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    search = DSNAS(supernet, arch_lr=0.1, arch_weight_decay=0.1, settle_margin=0.5)
    fit(search, random_streams(supernet), epochs=1)  # Adam remembers a direction for every row
    assert not search.sampler.settled("cell").any()
    with torch.no_grad():
        search.alphas["cell"][2] = torch.tensor([0.0, 5.0, 0.0, 0.0, 0.0])
        search.alphas["cell"][4] = torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0])
    before = search.alphas["cell"].detach().clone()
    fit(search, random_streams(supernet), epochs=1)
    after = search.alphas["cell"].detach()
    settled = search.sampler.settled("cell")
    assert settled.tolist() == [False, False, True, False, True, False]
    assert torch.equal(after[settled], before[settled])
    assert (after[~settled] != before[~settled]).any(-1).all()
    resumed = DSNAS(supernet)
    resumed.load_state_dict(search.state_dict())
    assert torch.equal(resumed.sampler.settled("cell"), settled)
    draws = torch.stack([search.edge_weights()["cell"].detach() for _ in range(50)])
    assert (draws[:, 2, 1] == 1).all() and (draws[:, 4, 4] == 1).all()
    assert draws[:, 0].mean(0).max() < 1


def test_rows_settle_at_the_margin_and_stay_so() -> None:
    search = DSNAS(PlantedSupernet(("skip_connect", "nor_conv_3x3")))
    for top, settled in ((0.64, False), (0.66, True), (0.5, True)):
        p = torch.tensor([[top, 1 - top]])
        search.sampler.settle({"edge": p.log()}, 0.3)
        assert bool(search.sampler.settled("edge")) == settled


@pytest.mark.parametrize("margin", [0.0, 1.5])
def test_a_margin_that_is_no_difference_of_probabilities_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=rf"must be in \(0, 1\]; got {margin}"):
        DSNAS(PlantedSupernet(), settle_margin=margin)
