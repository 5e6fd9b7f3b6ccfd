from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from oneshot.cost import Counts, count
from oneshot.supernets import PUBLISHED, DARTSNetwork, NASBench201Network, NASBench201Space

ARCHS = {
    "all-3x3": "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "mixed": "|nor_conv_1x1~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|",
    "no-convolution": "|skip_connect~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|none~2|",
}


@pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS.keys())
def test_nas_bench_201_networks_have_the_published_parameters_and_flops(arch: str) -> None:
    # The numbers of the benchmark's API for CIFAR-10 (arXiv:2001.00326) are linear in the operations of the cell. Its
    # FLOPs count the 10 biases of the classifier as well.
    threes, ones = arch.count("nor_conv_3x3"), arch.count("nor_conv_1x1")

    counts = count(NASBench201Network(arch), (3, 32, 32))

    assert counts.params == 73_306 + 243_040 * threes + 28_000 * ones
    assert counts.macs == 7_783_050 + 35_389_440 * threes + 3_932_160 * ones - 10


def test_the_second_darts_network_has_the_published_size_on_cifar() -> None:
    assert count(DARTSNetwork(PUBLISHED["DARTS_V2"]), (3, 32, 32)).params == 3_349_342  # 3.3 M, arXiv:1806.09055


def test_the_second_darts_network_has_the_published_parameters_on_imagenet() -> None:
    net = DARTSNetwork(PUBLISHED["DARTS_V2"], channels=48, cells=14, num_classes=1000, image_size=224, stem="imagenet")

    # Parameters: 4.7 M, arXiv:1806.09055, table 3. The 574 M multiply-adds of that table are not those of convolutions
    # and linear layers: others counted 523 M and 545 M (quark0/darts, issue 46), and fvcore counts as we do.
    assert count(net, (3, 224, 224)) == Counts(params=4_718_752, macs=529_911_552)


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(NASBench201Network(ARCHS["mixed"], channels=4, cells_per_stage=1, image_size=8), id="nasbench201"),
        pytest.param(DARTSNetwork(PUBLISHED["DARTS_V2"], channels=4, cells=5, image_size=15), id="darts-odd-size"),
        pytest.param(
            DARTSNetwork(PUBLISHED["AmoebaNet_A"], channels=4, cells=3, image_size=32, auxiliary=True), id="auxiliary"
        ),
        pytest.param(nn.Conv2d(3, 8, (5, 3), stride=2, padding=3, dilation=2, bias=True), id="dilated"),
        pytest.param(nn.Conv2d(3, 9, 3, groups=3), id="grouped"),
        pytest.param(nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1, groups=3), id="transposed"),
        pytest.param(nn.Sequential(nn.Flatten(2), nn.Linear(15 * 15, 7), nn.Linear(7, 3)), id="linear-on-3d"),
    ],
)
def test_macs_are_those_of_fvcore(network: nn.Module) -> None:
    from fvcore.nn import FlopCountAnalysis

    shape = getattr(network, "input_shape", (3, 15, 15))
    analysis = FlopCountAnalysis(network.eval(), torch.zeros(1, *shape))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    by_operator = analysis.by_operator()

    counts = count(network, shape)

    assert counts.macs == by_operator["conv"] + by_operator["linear"] > 0
    assert counts.params == sum(p.numel() for p in network.parameters())


def test_a_module_that_runs_twice_counts_twice_and_its_weights_once() -> None:
    layer = nn.Conv2d(3, 3, 1, bias=False)

    assert count(nn.Sequential(layer, layer), (3, 5, 5)) == Counts(params=9, macs=2 * 9 * 25)


def test_all_weights_count_but_only_what_runs_costs() -> None:
    plain, auxiliary = (
        count(DARTSNetwork(PUBLISHED["DARTS_V2"], channels=4, cells=3, image_size=8, auxiliary=auxiliary), (3, 8, 8))
        for auxiliary in (False, True)
    )

    assert auxiliary.macs == plain.macs
    assert auxiliary.params > plain.params


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.frozen = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3).eval()

    def forward(self, x: Tensor) -> Tensor:
        self.frozen(self.conv(x))
        raise RuntimeError("planted")


def test_a_network_is_left_as_it_was_even_when_it_fails() -> None:
    net = Fails()

    with pytest.raises(RuntimeError, match="planted"):
        count(net, (3, 4, 4))

    assert (net.training, net.conv.training, net.frozen.training) == (True, True, False)
    assert not net.conv._forward_hooks
    assert net.frozen.num_batches_tracked == 0
    assert all(p.grad is None for p in net.parameters())


def test_counts_do_not_depend_on_precision_or_mode() -> None:
    net = NASBench201Network(NASBench201Space().arch_string(NASBench201Space().sample(3)), channels=4)

    assert count(net.double().train(), (3, 32, 32)) == count(net.float().eval(), (3, 32, 32))
