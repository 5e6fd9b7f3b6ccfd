"""Wider operations compute of copied channels copies of what they computed before, as Net2WiderNet says."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from oneshot.supernets import DARTSSupernet, NASBench201Supernet
from oneshot.supernets.mixed_op import MixedOp, PartialMixedOp, Path
from oneshot.supernets.ops import FactorizedReduce, make_op
from oneshot.supernets.widening import Channels, drop_candidates, widen, widen_candidates

NAMES = (
    *("skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
    *("nor_conv_1x1", "nor_conv_3x3", "nor_dil_conv_3x3", "conv_7x1_1x7", "none"),
)


def operation(name: str, stride: int, channels: int = 6) -> nn.Module:
    """In float64, with running statistics that are not those of the beginning."""
    torch.manual_seed(0)
    op = make_op(name, channels, stride, affine=False, pool_bn=True).double()
    for layer in op.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    return op


def copies(op: nn.Module, before: int, after: int) -> tuple[Tensor, Tensor]:
    """Which old channel each new one is, of input and output, as the first random numbers of seed 3 say it."""
    generator = torch.Generator().manual_seed(3)

    def of(channels: int) -> Tensor:
        wider = channels * after // before
        added = torch.randint(channels, (wider - channels,), generator=generator)
        return torch.cat([torch.arange(channels), added])

    if isinstance(op, FactorizedReduce):  # its convolutions come first, which make a half each
        half, whole = of(before // 2), of(before)
        return whole, torch.cat([half, before // 2 + half])
    whole = of(before)
    return whole, whole


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("after", [8, 12], ids=["6-to-8", "6-to-12"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_of_copied_channels_it_computes_copies(name: str, stride: int, after: int, training: bool) -> None:
    narrow = operation(name, stride).train(training)
    wide = copy.deepcopy(narrow)
    widened = widen(wide, Fraction(after, 6), torch.Generator().manual_seed(3))
    assert set(widened) == set(wide.parameters())
    inputs, outputs = copies(narrow, 6, after)
    x = torch.randn(4, 6, 6, 6, dtype=torch.float64)
    exact = narrow(x)[:, outputs]
    torch.testing.assert_close(wide(x[:, inputs]), exact, rtol=1e-10, atol=1e-12)
    if any(channels.columns is not None for channels in widened.values()):
        undivided = copy.deepcopy(wide)  # as the code of DrNAS has it
        for layer in undivided.modules():
            if isinstance(layer, nn.Conv2d) and layer.groups == 1:
                columns = inputs if layer.in_channels == after else outputs
                layer.weight.data *= columns.bincount()[columns].view(1, -1, 1, 1)
        if not (training and after == 12 and inputs.bincount().unique().numel() == 1):  # else only another scale
            assert not torch.allclose(undivided(x[:, inputs]), exact, rtol=1e-2)
    assert wide(torch.randn(2, after, 6, 6, dtype=torch.float64)).shape[1] == after
    like = make_op(name, after, stride, affine=False, pool_bn=True)
    assert {k: v.shape for k, v in wide.state_dict().items()} == {k: v.shape for k, v in like.state_dict().items()}


def test_weights_are_the_old_ones_over_how_often_their_input_is_there() -> None:
    conv = nn.Conv2d(2, 3, 1, dtype=torch.float64)
    old, bias = conv.weight.detach().clone(), conv.bias
    assert bias is not None
    before = bias.detach().clone()
    channels = widen(conv, Fraction(2), torch.Generator().manual_seed(0))[conv.weight]
    assert channels.columns is not None
    g_out, g_in = channels.rows.tolist(), channels.columns.tolist()
    assert g_out[:3] == [0, 1, 2] and g_in[:2] == [0, 1] and (len(g_out), len(g_in)) == (6, 4)
    for o, i in ((o, i) for o in range(6) for i in range(4)):  # arXiv:1511.05641, equation 4, element by element
        assert conv.weight[o, i, 0, 0].item() == pytest.approx(
            old[g_out[o], g_in[i], 0, 0].item() / g_in.count(g_in[i])
        )
    assert conv.bias is bias and bias.tolist() == before[g_out].tolist()


class Gated(nn.Module):
    """An operation of a user's, with layers of other widths."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


def test_layers_of_other_widths_grow_alike() -> None:
    torch.manual_seed(0)
    narrow = Gated(4, 2).double()
    wide = copy.deepcopy(narrow)
    columns = widen(wide, Fraction(3, 2))[wide.squeeze.weight].columns
    assert columns is not None and (wide.squeeze.out_features, wide.excite.in_features) == (3, 3)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(wide(x[:, columns]), narrow(x)[:, columns], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("op", "match"),
    [
        pytest.param(nn.Conv2d(3, 3, 1), "whole numbers; 3 of Conv2d would become 4.5", id="fraction"),
        pytest.param(nn.Conv2d(4, 4, 1, groups=2), "got 2 groups of 4 channels", id="groups"),
        pytest.param(nn.Conv2d(1, 1, 1), "got one channel. Give the supernet more", id="one channel"),
        pytest.param(nn.Sequential(nn.GroupNorm(1, 4)), "Sequential has a GroupNorm", id="norm"),
    ],
)
def test_what_cannot_be_widened_is_refused(op: nn.Module, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        widen(op, Fraction(3, 2))


def textbook(ops: Sequence[nn.Module], x: Tensor, weights: Tensor, k: int, kept: Sequence[int]) -> Tensor:
    """Partial channels (arXiv:1907.05737, equation 1) over the candidates that are kept."""
    part, rest = x[:, : x.shape[1] // k], x[:, x.shape[1] // k :]
    mixed = torch.stack([weights[o] * ops[o](part) for o in kept]).sum(0)
    y = torch.cat([mixed, rest], 1)
    return y[:, [p * (y.shape[1] // k) + i for i in range(y.shape[1] // k) for p in range(k)]]


@pytest.mark.parametrize("parts", [4, 2, 1])
def test_a_mixture_of_a_later_stage_is_the_papers(parts: int) -> None:
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=16, cells_per_stage=1, image_size=8, partial_channels=8).double()
    kept = [[0, 1, 3], [1, 3, 4], [1, 2, 3], [2, 3, 4], [0, 3, 4], [0, 1, 2]]
    drop_candidates(supernet, {"cell": kept})
    widen_candidates(supernet, parts)
    assert supernet.partial_channels == parts
    for own, row in zip(kept, supernet.mixed_ops()["cell"], strict=True):
        for mixed in row:
            assert isinstance(mixed, PartialMixedOp)
            channels = next(len(op[1].weight) for op in mixed.ops if isinstance(op, nn.Sequential)) * parts
            x, weights = torch.randn(2, channels, 4, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
            weights[own] = torch.rand(3, dtype=torch.float64).softmax(0)
            exact = textbook(list(mixed.ops), x, weights, parts, own)
            torch.testing.assert_close(mixed(x, weights), exact, rtol=1e-10, atol=1e-12)
            assert not torch.allclose(textbook(list(mixed.ops), x, weights, parts, own[:-1]), exact, rtol=1e-2)


def test_a_widened_supernet_runs_and_its_shared_operations_stay_shared() -> None:
    torch.manual_seed(0)
    supernet = DARTSSupernet(channels=8, cells=3, image_size=8, partial_channels=4)
    widened = widen_candidates(supernet, 2)
    inside = {p for row in supernet.mixed_ops()["normal"] for mixed in row for p in mixed.parameters()}
    assert inside <= set(widened)
    first, second = (supernet.mixed_ops()["normal"][edge][0].ops[1] for edge in (0, 2))  # both leave the first state
    assert first is second
    weights = {c.name: torch.full((c.rows, 8), 1 / 8) for c in supernet.space.choices}
    logits = supernet(torch.randn(2, 3, 8, 8), weights)
    logits.sum().backward()
    assert logits.shape == (2, 10) and logits.isfinite().all()
    like = DARTSSupernet(channels=8, cells=3, image_size=8, partial_channels=2)
    assert {k: v.shape for k, v in like.state_dict().items()} == {k: v.shape for k, v in supernet.state_dict().items()}


def test_of_all_channels_a_network_inherits_its_weights() -> None:
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=8, cells_per_stage=1, image_size=8, partial_channels=4).eval()
    widen_candidates(supernet, 1)
    config = supernet.space.sample(1)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(supernet.extract(config)(x), supernet.run_config(x, config), rtol=1e-4, atol=1e-5)


def test_what_was_dropped_cannot_be_run_alone() -> None:
    mixed = MixedOp([make_op(name, 4, 1, affine=False) for name in ("none", "nor_conv_1x1", "nor_conv_3x3")])
    mixed.drop([0, 2])
    x = torch.randn(1, 4, 4, 4)
    assert mixed(x, torch.tensor([0.5, 0.0, 0.5])).abs().sum() > 0
    assert mixed(x, Path(torch.tensor([[1.0, 0.0, 0.0]]))[0]).eq(0).all()
    with pytest.raises(RuntimeError, match="has a candidate that was dropped"):
        mixed(x, Path(torch.tensor([[0.0, 1.0, 0.0]]))[0])


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (2, 4), (2, 0)])
def test_parts_must_become_fewer(before: int, after: int) -> None:
    supernet = NASBench201Supernet(channels=8, cells_per_stage=1, image_size=8, partial_channels=before)
    with pytest.raises(ValueError, match=f"must become fewer, from {before} to at least 1; got {after}"):
        widen_candidates(supernet, after)


def test_copies_of_rows_and_columns() -> None:
    tensor = torch.arange(6).view(2, 3)
    assert Channels(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2, 0])).of(tensor).tolist() == [
        [0, 1, 2, 0],
        [3, 4, 5, 3],
        [3, 4, 5, 3],
    ]
