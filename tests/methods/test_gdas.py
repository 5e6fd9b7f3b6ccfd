"""GDAS: one candidate an edge runs, all alphas have a gradient (arXiv:1910.04465)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.engine.samplers import gumbel_like
from oneshot.methods.gdas import GDAS
from oneshot.supernets import DARTSSupernet, NASBench201Supernet
from oneshot.supernets.base import OperationSupernet, frozen_batch_norm
from oneshot.testing import MethodContract, fit, random_streams
from oneshot.testing.methods import Method
from tests.reference.nasbench201_net import EDGES, NASBench201SearchNet
from tests.reference.test_networks import copy_weights, rename_nasbench201


class TestGDAS(MethodContract):
    epochs = 8

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: GDAS(supernet, arch_lr=0.1)


class GDASCell(nn.Module):
    """Every candidate runs; an edge gives ``h_k o_k(x) + sum_{j != k} h_j``, k the one that was drawn."""

    def __init__(self, cell: Any, *, idle: bool, chosen_only: bool = True) -> None:
        super().__init__()
        self.cell, self.idle, self.chosen_only = cell, idle, chosen_only

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        states = [x]
        for node in range(1, 4):
            total = torch.zeros_like(x)
            for (_, target), ops, row in zip(EDGES, self.cell.edges, h, strict=True):
                if target == node:
                    source = EDGES[list(self.cell.edges).index(ops)][0]
                    k = int(row.argmax())
                    for j, (weight, op) in enumerate(zip(row, ops, strict=True)):
                        if j == k or not self.chosen_only:
                            total = total + weight * op(states[source])
                        elif self.idle:
                            total = total + weight
            states.append(total)
        return states[-1]


def alpha_gradients(*, idle: bool = True, chosen_only: bool = True) -> tuple[Tensor, Tensor]:
    """Gradient of the arch loss by GDAS, and by the textbook with the same noise, in float64."""
    torch.manual_seed(0)
    shape = {"num_classes": 3, "in_channels": 1}
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8, **shape).double()
    search = GDAS(supernet, temperature=(2.0, 2.0), alpha_std=1.0).double()
    net = NASBench201SearchNet(channels=4, cells_per_stage=1, **shape).double()
    copy_weights(supernet, net, rename_nasbench201(1))
    for stage in net.stages:
        stage[0] = GDASCell(stage[0], idle=idle, chosen_only=chosen_only)  # type: ignore[index]
    x, y = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    torch.manual_seed(1)
    with frozen_batch_norm(supernet):
        search.arch_backward({"weights": (x, y), "arch": (x, y)})
    torch.manual_seed(1)
    alpha = search.alphas["cell"].detach().clone().requires_grad_()
    p = ((alpha.log_softmax(-1) + gumbel_like(alpha)) / 2.0).softmax(-1)
    h = F.one_hot(p.argmax(-1), 5).double() - p.detach() + p
    (exact,) = torch.autograd.grad(F.cross_entropy(net(x, h), y), alpha)
    assert search.alphas["cell"].grad is not None
    return search.alphas["cell"].grad, exact


def test_the_gradient_of_the_alphas_is_the_textbooks() -> None:
    ours, exact = alpha_gradients()
    torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-12)


def test_the_comparison_tells_other_gradients() -> None:
    """Without the idle weights, and with all candidates run as if the sample were soft."""
    for wrong in ({"idle": False}, {"chosen_only": False}):
        ours, other = alpha_gradients(**wrong)
        assert not torch.allclose(ours, other, rtol=1e-2)


def test_every_alpha_has_a_gradient() -> None:
    assert (alpha_gradients()[0] != 0).all()


@pytest.mark.parametrize("kind", ["nasbench201", "darts"])
def test_only_the_drawn_candidates_run(kind: str) -> None:
    supernet: OperationSupernet = (
        NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
        if kind == "nasbench201"
        else DARTSSupernet(channels=4, cells=3, image_size=8)
    )
    search, ran = GDAS(supernet), Counter[tuple[str, int]]()
    rows = {name: len(row) for name, rows in supernet.mixed_ops().items() for row in [rows]}
    with_weights = 0
    for name, all_rows in supernet.mixed_ops().items():
        for r, row in enumerate(all_rows):
            for mixed in row:
                for op in mixed.ops:
                    if any(True for _ in op.parameters()):
                        with_weights += 1
                        conv = next(m for m in op.modules() if isinstance(m, nn.Conv2d))
                        key = (name, r)
                        conv.register_forward_hook(lambda *_, key=key: ran.update([key]))
    torch.manual_seed(0)
    weights = search.edge_weights()
    search.run(torch.randn(2, 3, 8, 8), weights)
    expected = Counter[tuple[str, int]]()
    for name, all_rows in supernet.mixed_ops().items():
        for r, row in enumerate(all_rows):
            for mixed in row:
                op = mixed.ops[int(weights[name][r].argmax())]
                expected.update([(name, r)] * any(True for _ in op.parameters()))
    assert ran == expected and 0 < ran.total() < with_weights / 3
    assert sum(rows.values()) == supernet.space.num_genes


def test_validation_runs_what_would_be_derived_under_batch_statistics() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8)
    search = GDAS(supernet, alpha_std=1.0).eval()
    x = torch.randn(8, 3, 8, 8)
    network = supernet.extract(search.derive()).train()
    torch.testing.assert_close(search(x), network(x), rtol=1e-4, atol=1e-5)
    assert all(not m.training for m in supernet.modules())
    state = {name: value.clone() for name, value in supernet.state_dict().items()}
    search(x)
    assert all(torch.equal(state[name], value) for name, value in supernet.state_dict().items())


def test_batch_normalisation_of_candidates_that_do_not_run_stays() -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)
    fit(GDAS(supernet), random_streams(supernet, batches=1), epochs=1)
    counts = [
        [int(op[-1].num_batches_tracked) for op in mixed.ops if isinstance(op, nn.Sequential)]  # type: ignore[arg-type]
        for rows in supernet.mixed_ops().values()
        for row in rows
        for mixed in row
    ]
    assert all(sum(row) <= 1 for row in counts) and any(sum(row) == 1 for row in counts)
