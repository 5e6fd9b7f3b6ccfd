"""What all chains of blocks share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from oneshot import DARTS
from oneshot.supernets.chain import ChannelShuffle, Layer, MBConv, layers_of, make_divisible
from oneshot.supernets.nasbenchmacro import NASBenchMacroSupernet
from oneshot.testing import fit, random_streams

SMALL: dict[str, Any] = {"num_classes": 3, "in_channels": 1, "image_size": 8}


@pytest.mark.parametrize(
    ("channels", "multiple"),
    [(1, 8), (8, 8), (11.9, 16), (12, 16), (35.2, 32), (35.6, 40), (36, 40), (1984, 1984)],
)
def test_channels_are_rounded_to_a_multiple_of_8_that_loses_at_most_a_tenth(channels: float, multiple: int) -> None:
    assert make_divisible(channels) == multiple


def test_the_first_layer_of_a_stage_changes_the_shape() -> None:
    layers = layers_of(8, [(8, 2, 1), (16, 2, 2)])
    assert layers == [Layer(8, 8), Layer(8, 8), Layer(8, 16, 2), Layer(16, 16)]
    assert [layer.keeps_shape for layer in layers] == [True, True, False, True]
    assert not Layer(8, 8, 2).keeps_shape


def test_a_shuffle_deals_the_channels_of_the_groups_in_turn() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = ChannelShuffle(2)(x.contiguous(memory_format=layout))
        assert y.flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("expansion", [None, 1, 6])
def test_a_block_divides_the_resolution_by_its_stride_rounded_up(size: int, stride: int, expansion: int | None) -> None:
    block = MBConv(Layer(4, 6, stride), 5, expansion, groups=2)
    assert block(torch.zeros(2, 4, size, size)).shape == (2, 6, -(-size // stride), -(-size // stride))


def test_a_block_adds_its_input_only_where_nothing_changes_shape() -> None:
    for layer, expected in ((Layer(4, 4), 1.0), (Layer(4, 6), 0.0), (Layer(4, 4, 2), 0.0)):
        block = MBConv(layer, 3, 3).eval()
        nn.init.zeros_(block.body[-1].weight)  # type: ignore[arg-type]  # Sequential is untyped
        assert (block(torch.ones(1, 4, 4, 4)) == expected).all()


def test_a_search_learns_and_gradient_checkpointing_changes_nothing() -> None:
    states = []
    for on in (False, True):
        torch.manual_seed(0)
        supernet = NASBenchMacroSupernet(channels=4, **SMALL)
        search = DARTS(supernet, arch_lr=0.1, gradient_checkpointing=on).double()
        fit(search, random_streams(supernet, dtype=torch.float64), epochs=1)
        states.append(search.state_dict())
        assert (abs(states[-1]["alphas.layers"]) > 0.05).any(dim=1).all()  # they began below 0.01
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-12)


def test_gradient_checkpointing_computes_each_layer_again() -> None:
    calls = []
    for on in (False, True):
        supernet = NASBenchMacroSupernet(channels=4, **SMALL)
        supernet.gradient_checkpointing = on
        count = [0]
        for layer in supernet.layers:
            layer.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        logits = supernet(torch.randn(2, 1, 8, 8), supernet.one_hot(supernet.space.sample(0)))
        torch.autograd.backward(logits.sum())
        calls.append(count[0])
    assert calls == [8, 16]


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_supernet_is_one_graph() -> None:
    torch._dynamo.reset()
    supernet = NASBenchMacroSupernet(channels=4, **SMALL).eval()
    compiled = torch.compile(supernet, backend="eager", fullgraph=True)
    x, arch = torch.randn(2, 1, 8, 8), supernet.one_hot(supernet.space.sample(0))
    assert torch.equal(compiled(x, arch), supernet(x, arch))
