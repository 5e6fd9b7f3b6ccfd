"""Lambda-DARTS: weights are trained so that the cells' gradients in the edge weights point the same way."""

from __future__ import annotations

import copy
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from oneshot.functional import alignment, alignment_gradient
from oneshot.methods.lambdadarts import LambdaDARTS
from oneshot.supernets import (
    DARTSSupernet,
    FBNetSupernet,
    NASBench1Shot1Supernet,
    NASBench201Supernet,
    OperationSupernet,
    darts_space,
    reduced_space,
)
from oneshot.supernets.base import frozen_batch_norm
from oneshot.supernets.mixed_op import CellWeights
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import WINNER, Method


class TestLambdaDARTS(MethodContract):
    """Two planted cells in turn, because one has nothing to be aligned with. Without the 1x1 convolution: one 3x3
    convolution in the mixture of either cell is enough, and then both may end with the other. After four epochs one
    seed of six is not decided on every processor, after eight all are."""

    epochs = 8
    candidates = ("none", "skip_connect", "avg_pool_3x3", WINNER)
    planted = MappingProxyType({"cells": 2})

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: LambdaDARTS(supernet, arch_lr=0.1)


FINITE = {"rtol": 1e-4, "atol": 1e-6}
SMALL: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "image_size": 8}
GRADIENTS = torch.tensor([[1.0, 2.0, -1.0], [0.5, -0.3, 2.0], [3.0, 0.1, 0.2], [-1.0, 1.0, 1.0]], dtype=torch.float64)


def cosines(gradients: np.ndarray) -> float:
    """Pair by pair."""
    pairs = [(a, b) for i, a in enumerate(gradients) for b in gradients[i + 1 :]]
    return float(np.mean([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs]))


def test_the_alignment_is_the_mean_cosine_of_all_pairs_of_cells() -> None:
    assert alignment(GRADIENTS).item() == pytest.approx(cosines(GRADIENTS.numpy()), rel=1e-12)
    with_itself = F.normalize(GRADIENTS, dim=1).sum(0).square().sum() / 16
    assert alignment(GRADIENTS).item() != pytest.approx(with_itself.item(), rel=1e-2)


def test_its_derivative_is_that_of_automatic_differentiation() -> None:
    leaf = GRADIENTS.clone().requires_grad_()
    (exact,) = torch.autograd.grad(alignment(leaf), leaf)
    torch.testing.assert_close(alignment_gradient(GRADIENTS), exact, rtol=1e-10, atol=1e-14)
    unprojected = (F.normalize(GRADIENTS, dim=1).sum(0) - F.normalize(GRADIENTS, dim=1)) / 6
    assert not torch.allclose(unprojected / GRADIENTS.norm(dim=1, keepdim=True), exact, rtol=1e-2)
    assert torch.equal(alignment_gradient(torch.zeros(3, 4)), torch.zeros(3, 4))


def supernets() -> dict[str, OperationSupernet]:
    torch.manual_seed(0)
    return {
        "darts": DARTSSupernet(
            darts_space(candidates=("skip_connect", "sep_conv_3x3"), steps=2), channels=4, cells=6, **SMALL
        ),
        "s1": DARTSSupernet(reduced_space("s1"), channels=4, cells=5, **SMALL),
        "nasbench201": NASBench201Supernet(channels=4, cells_per_stage=1, **SMALL),
        "nasbench1shot1": NASBench1Shot1Supernet(1, channels=4, cells_per_stage=1, **SMALL),
        "planted": PlantedSupernet(channels=4, edges=2, cells=3),
    }


@pytest.mark.parametrize("name", ["darts", "s1", "nasbench201", "nasbench1shot1", "planted"])
def test_every_cell_runs_under_its_own_edge_weights(name: str) -> None:
    """Equal ones say what the shared ones say, their gradients sum to that of the shared ones, and each counts."""
    supernet = supernets()[name].double().eval()
    shared, x = supernet.shared_choices(), torch.randn(2, *supernet.input_shape, dtype=torch.float64)
    weights = {
        c.name: torch.rand(c.rows, len(c.candidates), dtype=torch.float64, requires_grad=True)
        for c in supernet.space.choices
    }
    assert {n for names in shared for n in names} == set(weights)
    own = {
        n: weights[n].detach().repeat(cells, 1, 1).requires_grad_() for names, cells in shared.items() for n in names
    }
    out, exact = supernet(x, {n: CellWeights(w) for n, w in own.items()}), supernet(x, weights)
    torch.testing.assert_close(out, exact, rtol=1e-12, atol=1e-12)
    probe = torch.randn_like(out)
    for n, w in weights.items():
        ours, theirs = (
            torch.autograd.grad((y * probe).sum(), v, retain_graph=True)[0] for y, v in ((out, own[n]), (exact, w))
        )
        torch.testing.assert_close(ours.sum(0), theirs, rtol=1e-8, atol=1e-10)
        assert all(ours[cell].any() for cell in range(len(ours)))


def exact_gradients(search: LambdaDARTS, x: Tensor, y: Tensor, strength: float) -> list[Tensor]:
    """Of the cross-entropy minus strength times the alignment, by differentiating twice."""
    supernet, weights = search.supernet, {n: w.detach() for n, w in search.edge_weights().items()}
    cells = {n: w.repeat(search.cells, 1, 1).requires_grad_() for n, w in weights.items() if n in search._names}
    arch = {n: CellWeights(cells[n]) if n in cells else w for n, w in weights.items()}
    with frozen_batch_norm(supernet):
        loss = F.cross_entropy(supernet(x, arch), y)
    gradients = torch.autograd.grad(loss, list(cells.values()), create_graph=True)
    flat = torch.cat([g.flatten(1) for g in gradients], dim=1)
    aligned = sum(
        F.cosine_similarity(flat[i], flat[j], dim=0) for i in range(len(flat)) for j in range(i + 1, len(flat))
    ) / (len(flat) * (len(flat) - 1) / 2)
    parameters = [p for p in supernet.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss - strength * aligned, parameters, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("epsilon", [None, 1e-5], ids=["differentiated twice", "difference"])
@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_the_weights_get_the_gradient_of_the_loss_minus_the_alignment(
    name: str, epsilon: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, against the derivative of the alignment itself; not without it, nor with its sign turned."""
    supernet = supernets()[name].double()
    search = LambdaDARTS(supernet, alignment_weight=2.0, alpha_std=1.0, epsilon=epsilon).double()
    monkeypatch.setattr(search, "schedule_position", lambda: (3, 4))  # the last epoch, so all of it
    monkeypatch.setattr(search, "log", lambda *_, **__: None)
    x, y = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    exact = exact_gradients(search, x, y, 2.0)
    weights = search.weights_for_training(x, y)
    with frozen_batch_norm(supernet):
        F.cross_entropy(search.run(x, weights), y).backward()
    search.after_weight_backward(x, y, weights, 1.0)
    ours = torch.cat([p.grad.flatten() for p in supernet.parameters() if p.grad is not None])
    flat = torch.cat([g.flatten() for g in exact])
    torch.testing.assert_close(ours, flat, **({"rtol": 1e-8, "atol": 1e-10} if epsilon is None else FINITE))
    for wrong in (0.0, -2.0):
        assert not torch.allclose(
            torch.cat([g.flatten() for g in exact_gradients(search, x, y, wrong)]), flat, rtol=1e-2
        )


def test_the_difference_of_the_authors_is_filled_with_noise_by_kinks_and_the_derivative_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A small step along the derivative raises the alignment of the same batch; along the difference it hardly does."""
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=8, cells_per_stage=1, image_size=16).double()
    x, y = torch.randn(32, 3, 16, 16, dtype=torch.float64), torch.randint(10, (32,))
    start, gains = copy.deepcopy(supernet.state_dict()), {}

    def aligned(search: LambdaDARTS, *, moving: bool) -> float:
        seen: list[float] = []
        monkeypatch.setattr(search, "log", lambda name, value, **_: seen.append(float(value)))
        monkeypatch.setattr(search, "schedule_position", lambda: (int(moving), 2))
        weights = search.weights_for_training(x, y)
        with frozen_batch_norm(supernet):
            F.cross_entropy(search.run(x, weights), y).backward()
        before = [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in supernet.parameters()]
        search.after_weight_backward(x, y, weights, 1.0)
        if moving:
            with torch.no_grad():
                parts = [b - p.grad for b, p in zip(before, supernet.parameters(), strict=True) if p.grad is not None]
                length = torch.cat([part.flatten() for part in parts]).norm()
                for p, part in zip(supernet.parameters(), parts, strict=True):
                    p.add_(0.01 / length * part)
        supernet.zero_grad()
        return seen[0]

    for epsilon in (None, 1e-4):
        supernet.load_state_dict(start)
        search = LambdaDARTS(supernet, epsilon=epsilon).double()
        first = aligned(search, moving=True)
        gains[epsilon] = aligned(search, moving=False) - first
    assert gains[None] > 0.05 and gains[None] > 2 * gains[1e-4]


def test_training_aligns_the_cells() -> None:
    aligned = {}
    for weight in (1e-9, 5.0):
        torch.manual_seed(0)
        supernet = NASBench201Supernet(channels=4, cells_per_stage=1, **SMALL)
        search = LambdaDARTS(supernet, alignment_weight=weight, arch_lr=0.0)
        trainer = fit(search, random_streams(supernet, batches=2), epochs=6)
        aligned[weight] = float(trainer.callback_metrics["train/alignment"])
    assert aligned[5.0] > aligned[1e-9] + 0.05


def test_both_sides_of_the_difference_draw_the_same_noise() -> None:
    """In space S4 a candidate is noise; authors' differences of other noise would drown the gradient."""
    torch.manual_seed(0)
    space = darts_space(candidates=("noise", "sep_conv_3x3"), steps=1, name="darts-s4")
    supernet = DARTSSupernet(space, channels=4, cells=5, **SMALL)
    search = LambdaDARTS(supernet, alignment_weight=1e-3, grad_clip=1e9, epsilon=1e-4)
    before = copy.deepcopy(search.supernet.state_dict())
    fit(search, random_streams(search.supernet, batches=1), epochs=2)
    moved = max((v - before[n]).abs().max().item() for n, v in search.supernet.named_parameters())
    assert moved < 1.0  # a difference of noise, over 2e-4, would move weights by more


def test_what_has_nothing_to_align_is_refused() -> None:
    with pytest.raises(
        ValueError, match="needs two cells that share a choice; those of FBNetSupernet do not. Use DARTS"
    ):
        LambdaDARTS(FBNetSupernet(width=0.25, head_channels=8, stem="cifar", **SMALL))
    with pytest.raises(ValueError, match="those of PlantedSupernet do not"):
        LambdaDARTS(PlantedSupernet())
    with pytest.raises(ValueError, match="alignment_weight must be above 0; got 0.0. DARTS is the search without"):
        LambdaDARTS(PlantedSupernet(cells=2), alignment_weight=0.0)
    with pytest.raises(ValueError, match="epsilon must be above 0, or None, which differentiates twice; got 0.0"):
        LambdaDARTS(PlantedSupernet(cells=2), epsilon=0.0)
