"""Which channels matter: by weights, and by what leaving them out does to a loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import oneshot
from oneshot.supernets import MobileNetV3Supernet
from oneshot.testing.methods import stripes


class Two(nn.Module):
    """A convolution, a normalisation, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def network() -> Two:
    torch.manual_seed(3)
    made = Two()
    with torch.no_grad():
        for parameter in made.norm.parameters():
            parameter.uniform_(0.2, 1.5)
    return made


def by_hand(made: Two, x: Tensor, y: Tensor, size: int) -> np.ndarray[Any, Any]:
    """Importance of the 16 channels in float64, written out layer by layer."""
    parts = [p.detach().double().requires_grad_() for p in made.parameters()]
    conv, bias, gamma, beta, head, last = parts
    found = np.zeros(16)
    for i in range(0, len(x), size):
        z = F.conv2d(x[i : i + size].double(), conv, bias, padding=1)
        z = z / np.sqrt(1 + made.norm.eps) * gamma[:, None, None] + beta[:, None, None]
        loss = F.cross_entropy(z.relu().mean((2, 3)) @ head.T + last, y[i : i + size])
        grads = torch.autograd.grad(loss, parts)
        salient = [(p * g).abs().detach().numpy() for p, g in zip(parts, grads, strict=True)]
        found += salient[0].sum((1, 2, 3)) + salient[1] + salient[2] + salient[3] + salient[4].sum(0)
    return found


def test_channels_are_ranked_by_the_loss_of_small_batches() -> None:
    made, (x, y) = network(), stripes(64, 0)
    x, y = x[y.argsort()] - 0.5, y.sort().values  # batches of one class pull the other way
    expected = np.argsort(-by_hand(made, x, y, 16), kind="stable")
    assert not np.array_equal(expected, np.argsort(-by_hand(made, x, y, 64), kind="stable")), "gradients cancel"
    supernet = oneshot.convert(made, x[:2], width=(0.5, 1.0)).eval()
    before = supernet.network.conv.weight.detach().clone()
    outputs = supernet.run_config(x, supernet.space.largest)
    assert supernet.rank_channels([(x, y)])
    assert torch.equal(supernet.network.conv.weight, made.conv.weight[expected])
    assert not torch.equal(supernet.network.conv.weight, before), "the norms of weights give another order"
    torch.testing.assert_close(supernet.run_config(x, supernet.space.largest), outputs)
    assert not supernet.rank_channels([(x, y)]), "they are in order"
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_what_the_head_does_not_read_comes_last_however_large_it_is() -> None:
    made, (x, y) = network(), stripes(32, 0)
    with torch.no_grad():
        made.head.weight[:, 5] = 0
        made.conv.weight[5] *= 100
    supernet = oneshot.convert(made, x[:2], width=(0.5, 1.0)).eval()
    assert not supernet.network.head.weight[:, 0].any(), "by the norm it is the first"
    supernet.rank_channels([(x, y)])
    assert not supernet.network.head.weight[:, -1].any()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        pytest.param([], "must be ranked by losses that depend on the weights; got none", id="none"),
        pytest.param(
            [(torch.full((2, 1, 8, 8), float("nan")), torch.zeros(2).long())], "finite losses; got nan", id="nan"
        ),
    ],
)
def test_losses_that_tell_nothing_are_refused_and_nothing_moves(batches: list[Any], message: str) -> None:
    supernet = oneshot.convert(network(), torch.randn(2, 1, 8, 8)).eval()
    before = supernet.network.conv.weight.detach().clone()
    with pytest.raises(ValueError, match=message):
        supernet.rank_channels(batches)
    assert torch.equal(supernet.network.conv.weight, before)


def test_supernets_that_sort_by_weights_alone_refuse() -> None:
    with pytest.raises(ValueError, match=r"MobileNetV3Supernet sorts them by weights. Leave rank_channels out"):
        oneshot.NAT(MobileNetV3Supernet(), rank_channels=True)


def test_a_fit_ranks_channels_after_its_head_is_fitted_and_before_the_first_step(tmp_path: Path) -> None:
    x, y = stripes(96, 0)
    supernet = oneshot.convert(network(), x[:2], width=(0.5, 1.0))
    seen: list[Any] = []
    ranked = supernet.rank_channels
    supernet.rank_channels = lambda batches: (
        seen.append(supernet.network.head.weight.detach().clone()) or ranked(batches)
    )  # type: ignore[method-assign, func-returns-value]
    search = oneshot.NAT(
        supernet, fit_head=True, rank_channels=True, initial_teacher=True, ema_decay=0.9,
        weight_lr=1e-9, weight_lr_min=0.0, warmup_epochs=1, iterations=1, adapt_epochs=1, initial=6,
        population=4, generations=1, batch=1,
    )  # fmt: skip
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, default_root_dir=tmp_path, limit_val_batches=0, **off
    )
    trainer.fit(search, DataLoader(TensorDataset(x, y), 32), DataLoader(TensorDataset(*stripes(32, 1)), 32))
    (head,) = seen
    assert not torch.allclose(head.sum(0).sort().values, network().head.weight.sum(0).sort().values, atol=1e-3)
    order = [int((head - row[:, None]).abs().sum(0).argmin()) for row in supernet.network.head.weight.T]
    assert order != list(range(16)) and sorted(order) == list(range(16))
    assert search.initial is not None
    torch.testing.assert_close(search.initial.network.head.weight, supernet.network.head.weight, atol=1e-4, rtol=0)  # type: ignore[union-attr]
    torch.testing.assert_close(
        search.evaluation_supernet.network.head.weight,  # type: ignore[attr-defined, union-attr]
        supernet.network.head.weight,
        atol=1e-4,
        rtol=0,
    )
