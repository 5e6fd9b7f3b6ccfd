"""FairDARTS keeps the contract, decides its candidates one by one, and leaves out what stays below the threshold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from oneshot.engine.module import Batch
from oneshot.methods.fairdarts import FairDARTS, zero_one_loss
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.darts import DARTSSupernet, darts_space
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.supernets.space import Choice, SearchSpace
from oneshot.testing import MethodContract, PlantedSupernet, find_planted_winner, fit, random_streams
from oneshot.testing.methods import WINNER, Method

# Without the 1x1 convolution: it helps the winner, and what does not compete may both stay.
CANDIDATES = ("none", "skip_connect", "avg_pool_3x3", WINNER)


class TestFairDARTS(MethodContract):
    epochs = 5
    candidates = CANDIDATES
    distributions = False

    @pytest.fixture
    def method(self) -> Method:
        def build(supernet: OperationSupernet) -> FairDARTS:
            # In 32 steps of this size the zero-one loss takes what does not matter to an end, too, by chance.
            planted = isinstance(supernet, PlantedSupernet)
            options: dict[str, Any] = {"zero_one_weight": 0.0, "arch_warmup_epochs": 1} if planted else {}
            return FairDARTS(supernet, arch_lr=0.1, weight_lr=0.1, **options)

        return build


class Ascent(FairDARTS):
    """Walks up the validation loss."""

    def arch_backward(self, batch: Batch) -> Tensor:
        loss = super().arch_backward(batch)
        for alpha in self.alphas.parameters():
            assert alpha.grad is not None
            alpha.grad.neg_()
        return loss


@pytest.mark.parametrize(
    ("method", "zero_one_weight"), [(FairDARTS, 10.0), (Ascent, 0.0)], ids=["default loss", "uphill"]
)
def test_the_planted_winner_passes_the_threshold_unless_the_search_walks_uphill(
    method: type[FairDARTS], zero_one_weight: float
) -> None:
    searches: list[FairDARTS] = []

    def build(supernet: OperationSupernet) -> FairDARTS:
        searches.append(
            method(supernet, arch_lr=0.1, weight_lr=0.1, arch_warmup_epochs=1, zero_one_weight=zero_one_weight)
        )
        return searches[-1]

    for seed in range(3):
        find_planted_winner(build, seed=seed, candidates=CANDIDATES, epochs=4)
    weights = [float(search.probabilities()["edge"][0, CANDIDATES.index(WINNER)]) for search in searches]
    assert [weight > 0.85 for weight in weights] == [method is FairDARTS] * 3


def test_the_zero_one_loss_is_the_mean_square_from_a_half_with_a_minus() -> None:
    alpha = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmoid = 1 / (1 + np.exp(-alpha.numpy()))
    expected = -sum((s - 0.5) ** 2 for s in sigmoid) / 7
    loss = float(zero_one_loss(alpha.sigmoid()))
    np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=0)
    for wrong in (-expected, 7 * expected, -np.abs(sigmoid - 0.5).mean()):  # sign; sum; L1, as in another port
        assert not np.isclose(loss, wrong, rtol=1e-3)


def test_the_loss_of_the_alphas_has_it_over_all_choices_without_none() -> None:
    search = FairDARTS(DARTSSupernet(channels=2, cells=2, image_size=8), alpha_std=1.0)
    weights = search.edge_weights()
    values = np.concatenate([w.detach().numpy()[:, 1:].ravel() for w in weights.values()])  # `none` is the first
    loss = float(search.arch_loss(torch.tensor(2.0), weights).detach())
    assert loss == pytest.approx(2.0 - 10 * np.square(values - 0.5).mean(), rel=1e-5)


def test_none_is_never_weighed_so_the_search_is_that_of_the_space_without_it() -> None:
    alphas = []
    for candidates in (("skip_connect", "sep_conv_3x3"), ("none", "skip_connect", "sep_conv_3x3")):
        torch.manual_seed(0)
        space = darts_space(candidates=candidates, steps=2)
        supernet = DARTSSupernet(space, channels=2, cells=2, num_classes=3, in_channels=1, image_size=8)
        search = FairDARTS(supernet, arch_lr=0.1)
        search._seed.zero_()
        fit(search, random_streams(supernet), epochs=1)
        alphas.append({name: alpha.detach() for name, alpha in search.alphas.items()})
    for name in ("normal", "reduce"):
        torch.testing.assert_close(alphas[1][name][:, 1:], alphas[0][name], rtol=1e-5, atol=1e-6)
        assert not alphas[1][name][:, 0].any()
    assert alphas[0]["reduce"].all()


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


@pytest.mark.parametrize(
    "candidates",
    [
        pytest.param(("skip_connect", "sep_conv_3x3"), id="without none"),
        pytest.param(("none", "skip_connect", "sep_conv_3x3"), id="with none"),
    ],
)
def test_a_node_keeps_at_most_two_edges_above_the_threshold_or_none_at_all(candidates: tuple[str, ...]) -> None:
    space = darts_space(candidates=candidates, steps=2)
    search = FairDARTS(DARTSSupernet(space, channels=2, cells=2, in_channels=1, image_size=8))
    skip, conv = candidates.index("skip_connect"), candidates.index("sep_conv_3x3")
    with torch.no_grad():
        for name in ("normal", "reduce"):
            search.alphas[name].fill_(logit(0.2))
            if len(candidates) == 3:
                search.alphas[name][:, 0] = logit(0.99)
        for edge, op, p in [(0, skip, 0.84), (2, conv, 0.86), (3, conv, 0.95), (3, skip, 0.9), (4, skip, 0.9)]:
            search.alphas["normal"][edge, op] = logit(p)  # edges 0, 1 enter the first node, 2, 3, 4 the second
        search.alphas["reduce"][1, skip] = logit(0.851)
    config = search.derive()
    assert config["normal"] == ("none", "none", "none", "sep_conv_3x3", "skip_connect")
    assert config["reduce"] == ("none", "skip_connect", "none", "none", "none")
    network = search.supernet.extract(config)
    assert network.config == config and network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_threshold_of_zero_derives_what_the_space_would() -> None:
    supernet = NASBench201Supernet(channels=2, cells_per_stage=1, image_size=8)
    torch.manual_seed(0)
    all_of_them, strict = (FairDARTS(supernet, threshold=t, alpha_std=1.0) for t in (0.0, 1.0))
    strict.load_state_dict(all_of_them.state_dict())
    p = all_of_them.probabilities()["cell"][:, 1:]
    names = supernet.space["cell"].candidates[1:]
    assert all_of_them.derive()["cell"] == tuple(names[o] for o in p.argmax(-1))
    best = p.amax(-1).tolist()  # nothing is above 1, so only the likeliest way through the cell stays
    way = max(((0, 2, 5), (0, 4), (1, 5), (3,)), key=lambda way: math.prod(best[edge] for edge in way))
    left = [names[o] if edge in way else "none" for edge, o in enumerate(p.argmax(-1))]
    assert list(strict.derive()["cell"]) == left


def test_a_row_that_cannot_be_left_out_keeps_its_best_candidate() -> None:
    search = FairDARTS(PlantedSupernet(("skip_connect", "nor_conv_3x3")))
    with torch.no_grad():
        search.alphas["edge"].copy_(torch.tensor([[-2.0, -1.0]]))
    assert search.derive()["edge"] == ("nor_conv_3x3",)


def test_none_wins_no_row_however_large_its_alpha_is() -> None:
    """Its alpha has no gradient; in a space whose rule lets candidates compete it would win by chance."""
    search = FairDARTS(PlantedSupernet(("none", "skip_connect", "nor_conv_3x3"), edges=2))
    with torch.no_grad():
        search.alphas["edge"].copy_(torch.tensor([[9.0, logit(0.5), logit(0.9)], [9.0, logit(0.8), logit(0.3)]]))
    assert search.derive()["edge"] == ("nor_conv_3x3", "none"), "the second row has nothing above the threshold"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param({"zero_one_weight": -1.0}, "must not be negative; got -1.0", id="weight"),
        pytest.param({"threshold": 1.5}, r"threshold must be in \[0, 1\], .* got 1.5", id="threshold"),
    ],
)
def test_wrong_numbers_are_refused(options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        FairDARTS(PlantedSupernet(), **options)


def test_a_row_of_nothing_is_refused() -> None:
    supernet = PlantedSupernet(("none", "nor_conv_1x1"))
    supernet.space = SearchSpace("empty", (Choice("edge", ("none",)),))
    supernet.edges[0].ops = supernet.edges[0].ops[:1]
    with pytest.raises(ValueError, match="no candidate but 'none'.*Give it another"):
        FairDARTS(supernet)
