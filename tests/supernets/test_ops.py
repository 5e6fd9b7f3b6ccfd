"""Operations, their mixture, and how their weights are inherited."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.supernets.base import check_image_size, count_parameters, inherit_weights
from oneshot.supernets.mixed_op import MixedOp, run_together
from oneshot.supernets.ops import OPS, DilatedDepthwise, FactorizedReduce, Pointwise, Seen, make_op

C = 6


def images(size: int = 8, channels: int = C, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, size, size)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 8, 9, 28])
@pytest.mark.parametrize("name", OPS)
def test_every_operation_keeps_the_channels_and_halves_the_resolution_rounded_up(
    name: str, size: int, stride: int
) -> None:
    op = make_op(name, C, stride, affine=False, pool_bn=True)
    assert op(images(size)).shape == (2, C, -(-size // stride), -(-size // stride))


@pytest.mark.parametrize(
    ("name", "stride", "weights", "channels_normalised"),
    [
        pytest.param("none", 1, 0, 0, id="none"),
        pytest.param("none", 2, 0, 0, id="none, stride 2"),
        pytest.param("noise", 2, 0, 0, id="noise"),
        pytest.param("skip_connect", 1, 0, 0, id="identity"),
        pytest.param("skip_connect", 2, C * C, C, id="factorized reduce"),
        pytest.param("max_pool_3x3", 2, 0, 0, id="max pool"),
        pytest.param("avg_pool_3x3", 1, 0, 0, id="average pool"),
        pytest.param("sep_conv_3x3", 2, 2 * (9 * C + C * C), 2 * C, id="sep 3"),
        pytest.param("sep_conv_5x5", 1, 2 * (25 * C + C * C), 2 * C, id="sep 5"),
        pytest.param("sep_conv_7x7", 1, 2 * (49 * C + C * C), 2 * C, id="sep 7"),
        pytest.param("dil_conv_3x3", 2, 9 * C + C * C, C, id="dil 3"),
        pytest.param("dil_conv_5x5", 1, 25 * C + C * C, C, id="dil 5"),
        pytest.param("conv_3x1_1x3", 1, 6 * C * C, C, id="3x1 1x3"),
        pytest.param("conv_7x1_1x7", 2, 14 * C * C, C, id="7x1 1x7"),
        pytest.param("nor_conv_1x1", 1, C * C, C, id="conv 1"),
        pytest.param("nor_conv_3x3", 1, 9 * C * C, C, id="conv 3"),
        pytest.param("nor_dil_conv_3x3", 2, 9 * C * C, C, id="dilated conv 3"),
        pytest.param("max_pool_7x7", 2, 0, 0, id="max pool 7"),
    ],
)
def test_the_number_of_weights_is_what_the_name_says(
    name: str, stride: int, weights: int, channels_normalised: int
) -> None:
    assert count_parameters(make_op(name, C, stride, affine=False)) == weights
    assert count_parameters(make_op(name, C, stride, affine=True)) == weights + 2 * channels_normalised


def test_nothing_is_zero_and_noise_is_new_at_every_call() -> None:
    x = images()
    assert not make_op("none", C, 1, affine=False)(x).any()
    noise = make_op("noise", C, 1, affine=False)
    assert not torch.equal(noise(x), noise(x))
    assert abs(float(noise(torch.zeros(64, C, 8, 8)).std()) - 1) < 0.05


def test_pools_do_not_see_the_padding() -> None:
    ones = torch.ones(1, C, 4, 4)
    for name, sign in (("avg_pool_3x3", 1), ("max_pool_3x3", -1), ("max_pool_5x5", -1), ("max_pool_7x7", -1)):
        assert torch.equal(make_op(name, C, 1, affine=False)(sign * ones), sign * ones)


@pytest.mark.parametrize("name", ["max_pool_3x3", "avg_pool_3x3"])
def test_pools_are_normalised_in_a_supernet_only(name: str) -> None:
    x = 5 + 3 * images()
    plain, normalised = (make_op(name, C, 1, affine=True, pool_bn=pool_bn) for pool_bn in (False, True))
    torch.testing.assert_close(normalised(x).mean(dim=(0, 2, 3)), torch.zeros(C), rtol=0.0, atol=1e-5)
    assert count_parameters(normalised) == 0  # never with scale and shift
    assert float(plain(x).mean()) > 3


@pytest.mark.parametrize("size", [8, 9])
def test_halving_reads_every_pixel_of_even_and_odd_images(size: int) -> None:
    x = images(size).abs().requires_grad_()
    reduce = FactorizedReduce(C, 2 * C).eval()
    reduce(x).square().sum().backward()
    assert x.grad is not None
    read = x.grad.abs().sum(dim=(0, 1)) > 0
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    assert torch.equal(read, (rows % 2) == (columns % 2))  # one convolution on even, one on odd positions


def test_halving_needs_an_even_number_of_channels() -> None:
    with pytest.raises(ValueError, match="must have an even number .*; got 7"):
        FactorizedReduce(4, 7)
    with pytest.raises(ValueError, match="must have an even number .*; got 5"):
        make_op("skip_connect", 5, 2, affine=False)


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="An operation must be one of none, .*nor_conv_3x3.*; got 'sep_conv_9x9'"):
        make_op("sep_conv_9x9", C, 1, affine=False)


def mixed_op(*names: str) -> MixedOp:
    return MixedOp(make_op(name, C, 2, affine=False, pool_bn=True) for name in names)


def test_a_mixture_is_the_weighted_sum_of_its_candidates() -> None:
    mixed = mixed_op("none", "sep_conv_3x3", "skip_connect", "max_pool_3x3").double().eval()
    x, weights = images().double(), torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    expected = sum(float(w) * op(x) for w, op in zip(weights, mixed.ops, strict=True))
    torch.testing.assert_close(mixed(x, weights), expected, rtol=1e-12, atol=1e-12)


def test_a_mixture_of_nothing_is_zero_in_the_right_shape() -> None:
    output = mixed_op("none")(images(9), torch.ones(1))
    assert output.shape == (2, C, 5, 5) and not output.any()


def test_inherited_weights_keep_the_function_and_share_nothing() -> None:
    x = images()
    source, target = make_op("sep_conv_3x3", C, 1, affine=False), make_op("sep_conv_3x3", C, 1, affine=True)
    source(images())  # moves the running statistics
    inherit_weights(target, source)
    assert torch.equal(target.eval()(x), source.eval()(x))
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    assert all(parameter.any() for parameter in source.parameters())


@pytest.mark.parametrize(
    ("target", "source", "message"),
    [
        pytest.param(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), r"missing \['bias'\]", id="a bias too many"),
        pytest.param(nn.Linear(2, 2, bias=False), nn.Linear(2, 2), r"unexpected \['bias'\]", id="a bias too few"),
        pytest.param(
            nn.BatchNorm2d(2), nn.BatchNorm2d(2, track_running_stats=False), "missing .*running_mean", id="statistics"
        ),
    ],
)
def test_weights_that_do_not_fit_are_not_inherited(target: nn.Module, source: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"must have the weights of .*{message}"):
        inherit_weights(target, source)


def test_only_scale_and_shift_may_be_missing() -> None:
    target = nn.BatchNorm2d(2)
    inherit_weights(target, nn.BatchNorm2d(2, affine=False))
    assert torch.equal(target.weight, torch.ones(2)) and torch.equal(target.bias, torch.zeros(2))


def test_an_image_must_survive_the_reductions() -> None:
    check_image_size(4, 2, "This network")
    with pytest.raises(ValueError, match="This network halves the resolution 2 times, .* at least 4 pixels; .*size=3"):
        check_image_size(3, 2, "This network")


@pytest.mark.parametrize("size", [7, 8])
def test_a_strided_pointwise_convolution_equals_torchs(size: int) -> None:
    torch.manual_seed(0)
    ours, x = Pointwise(8, 6, stride=2), torch.randn(2, 8, size, size)
    theirs = F.conv2d(x, ours.weight, stride=2)
    torch.testing.assert_close(ours(x), theirs)
    assert not torch.allclose(F.conv2d(x.roll(1, 2), ours.weight, stride=2), theirs)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((12, 12), id="even"),
        pytest.param((12, 10), id="oblong"),
        pytest.param((11, 12), id="odd"),
        pytest.param((6, 6), id="smaller-than-a-dilated-kernel"),
        pytest.param((4, 4), id="small"),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_convolution_without_holes_equals_the_dilated_one(kernel: int, stride: int, shape: tuple[int, int]) -> None:
    """Outputs and both gradients, also when several of them share what they read."""
    torch.manual_seed(0)
    ours = [DilatedDepthwise(C, kernel, stride=stride).double() for _ in range(2)]
    x, seen = torch.randn(2, C, *shape, dtype=torch.float64, requires_grad=True), Seen()
    found = [op(x, seen) for op in ours]
    expected = [F.conv2d(x, op.weight, None, stride, kernel - 1, 2, C) for op in ours]
    target = torch.randn_like(expected[0])
    for a, b, op in zip(found, expected, ours, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad((y * target).sum(), [x, op.weight], retain_graph=True) for y in (a, b)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert bool(seen) == (stride == 2 or (shape[0] % 2 == 0 and min(shape) >= 6))  # the fast way was taken
    wrong = F.conv2d(x, ours[0].weight, None, stride, kernel // 2, 1, C)
    assert not torch.allclose(found[0], wrong)


def test_convolutions_of_one_state_are_one_with_more_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = [MixedOp([make_op(n, 4, 1, affine=False) for n in ("none", "nor_conv_1x1", "nor_conv_3x3")]) for _ in "abc"]
    x, weights = torch.randn(2, 4, 6, 6), list(torch.rand(3, 3))
    alone = [edge(x, w) for edge, w in zip(edges, weights, strict=True)]
    channels, conv2d = [], F.conv2d

    def counted(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        channels.append(len(weight))
        return conv2d(x, weight, *args, **kwargs)

    monkeypatch.setattr(F, "conv2d", counted)
    seen = run_together(edges, x, weights)
    together = [edge(x, w, seen) for edge, w in zip(edges, weights, strict=True)]
    assert channels == [12, 12]
    torch.testing.assert_close(together, alone)


def test_an_edge_that_drops_paths_loses_whole_images_and_scales_the_others_up() -> None:
    """In training only; the mean over many draws is the edge as it is."""
    torch.manual_seed(0)
    mixed = MixedOp([make_op("skip_connect", 4, 1, affine=False), make_op("avg_pool_3x3", 4, 1, affine=False)])
    x, weights = torch.rand(4000, 4, 3, 3) + 1, torch.tensor([0.3, 0.7])
    whole = mixed(x, weights)
    mixed.drop_path = 0.25
    dropped = mixed(x, weights)
    kept = dropped.flatten(1).ne(0).all(1)
    assert dropped[~kept].eq(0).all() and abs(float((~kept).float().mean()) - 0.25) < 0.03
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    torch.testing.assert_close(mixed.eval()(x, weights), whole, rtol=0, atol=0)
