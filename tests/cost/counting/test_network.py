from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from oneshot.cost import count
from oneshot.cost.counting.network import Meter
from oneshot.supernets import (
    PUBLISHED,
    DARTSNetwork,
    FBNetSupernet,
    NASBench1Shot1Supernet,
    NASBench201Network,
    NASBench201Space,
    NASBenchMacroSupernet,
    OperationSupernet,
    ProxylessSupernet,
    RecurrentSupernet,
    SegmentationSupernet,
)

ARCHS = {
    "all-3x3": "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "mixed": "|nor_conv_1x1~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|",
    "no-convolution": "|skip_connect~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|none~2|",
}
SMALL = {"num_classes": 4, "image_size": 17}


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

    counts = count(net, (3, 224, 224))

    # Parameters: 4.7 M, arXiv:1806.09055, table 3. The 574 M multiply-adds of that table are not those of convolutions
    # and linear layers: others counted 523 M and 545 M (quark0/darts, issue 46), and fvcore counts as we do.
    assert (counts.params, counts.macs) == (4_718_752, 529_911_552)


def sampled(supernet: OperationSupernet) -> nn.Module:
    return supernet.extract(supernet.space.sample(0), inherit=False)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda: NASBench201Network(ARCHS["mixed"], channels=4, cells_per_stage=1, image_size=8), id="nasbench201"
        ),
        pytest.param(
            lambda: DARTSNetwork(PUBLISHED["DARTS_V2"], channels=4, cells=5, image_size=15), id="darts-odd-size"
        ),
        pytest.param(
            lambda: DARTSNetwork(PUBLISHED["AmoebaNet_A"], channels=4, cells=3, image_size=32, auxiliary=True),
            id="auxiliary",
        ),
        pytest.param(lambda: sampled(FBNetSupernet(width=0.25, stem="cifar", **SMALL)), id="fbnet"),
        pytest.param(lambda: sampled(ProxylessSupernet(width=0.25, stem="cifar", **SMALL)), id="proxyless"),
        pytest.param(lambda: sampled(NASBenchMacroSupernet(channels=4, **SMALL)), id="nasbenchmacro"),
        pytest.param(
            lambda: sampled(NASBench1Shot1Supernet(2, channels=4, cells_per_stage=1, **SMALL)), id="nasbench1shot1"
        ),
        pytest.param(lambda: sampled(SegmentationSupernet(layers_per_stage=1, width=0.25, **SMALL)), id="segmentation"),
        pytest.param(lambda: nn.Conv2d(3, 8, (5, 3), stride=2, padding=3, dilation=2, bias=True), id="dilated"),
        pytest.param(lambda: nn.Conv2d(3, 9, 3, groups=3), id="grouped"),
        pytest.param(lambda: nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1, groups=3), id="transposed"),
        pytest.param(lambda: nn.Sequential(nn.Flatten(2), nn.Linear(15 * 15, 7), nn.Linear(7, 3)), id="linear-on-3d"),
    ],
)
def test_macs_are_those_of_fvcore(make: Callable[[], nn.Module]) -> None:
    from fvcore.nn import FlopCountAnalysis

    network = make()
    shape = getattr(network, "input_shape", (3, 15, 15))
    analysis = FlopCountAnalysis(network.eval(), torch.zeros(1, *shape))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    by_operator = analysis.by_operator()

    counts = count(network, shape)

    assert counts.macs == by_operator["conv"] + by_operator["linear"] > 0
    assert counts.params == sum(p.numel() for p in network.parameters())


def test_a_language_model_counts_the_matrices_of_every_word() -> None:
    net = sampled(RecurrentSupernet(num_classes=50, size=8, window=5))

    counts = count(net, (5,))

    # A word runs through [16, 16] for the first state, [16, 8] for every node, and [50, 8] to the logits.
    assert counts.macs == 5 * (16 * 16 + 8 * 16 * 8 + 50 * 8)
    assert counts.params == 16 * 16 + 8 * 16 * 8 + 50 * 8 + 50


def test_a_module_that_runs_twice_counts_twice_and_its_weights_once() -> None:
    layer = nn.Conv2d(3, 3, 1, bias=False)

    counts = count(nn.Sequential(layer, layer), (3, 5, 5))

    assert (counts.params, counts.macs) == (9, 2 * 9 * 25)


def test_all_weights_count_but_only_what_runs_costs() -> None:
    plain, auxiliary = (
        count(DARTSNetwork(PUBLISHED["DARTS_V2"], channels=4, cells=3, image_size=8, auxiliary=auxiliary), (3, 8, 8))
        for auxiliary in (False, True)
    )

    assert auxiliary.macs == plain.macs
    assert auxiliary.params > plain.params


class Lambda(nn.Module):
    """A function as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def three_at_once(x: Tensor) -> Tensor:
    a, b, c = x + 1, x + 2, x + 3
    return a + b + c


X = 4 * 3 * 8 * 8  # bytes of the image


@pytest.mark.parametrize(
    ("network", "memory"),
    [
        pytest.param(nn.Identity(), X, id="the image alone"),
        pytest.param(nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU()), 3 * X, id="image, input and output of a layer"),
        pytest.param(nn.Sequential(nn.ReLU(), nn.ReLU(inplace=True)), 2 * X, id="in place"),
        pytest.param(nn.Conv2d(3, 5, 3, stride=2, padding=1), X + 4 * 5 * 4 * 4, id="convolution"),
        pytest.param(nn.BatchNorm2d(3), 2 * X, id="statistics are buffers"),
        pytest.param(nn.MaxPool2d(2), X + X // 4 + 2 * X // 4, id="indices of max pooling"),
        pytest.param(nn.AvgPool2d(2), X + X // 4, id="average pooling"),
        pytest.param(Lambda(lambda x: x[:, :, ::2].flatten(1)), X + X // 2, id="a view is no copy"),
        pytest.param(Lambda(lambda x: torch.cat(x.chunk(3, dim=1))), 2 * X, id="chunks share a storage"),
        pytest.param(Lambda(three_at_once), 6 * X, id="all that is still needed"),
        pytest.param(Lambda(lambda x: (x + 1) + (x + 2)), 4 * X, id="temporaries"),
    ],
)
def test_memory_is_what_is_alive_at_the_worst_moment(network: nn.Module, memory: int) -> None:
    assert count(network, (3, 8, 8)).memory == memory


def allocated(network: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """The most bytes that PyTorch's own record of allocations has at once, and all of them together."""
    live = peak = total = 0
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        network.eval()(torch.zeros(1, *shape))
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live, total = live + event.nbytes(), total + max(0, event.nbytes())
        peak = max(peak, live)
    return peak, total


def pyramid(x: Tensor) -> Tensor:
    """Halves, thirds and sums, kept for different times, by kernels that need no memory of their own."""
    pool = nn.functional.max_pool2d
    halves = [pool(x, 2), nn.functional.avg_pool2d(x, 2).relu()]
    whole = torch.cat([nn.functional.interpolate(half, scale_factor=2.0) for half in halves], dim=1)
    del halves
    return pool(whole + whole.tanh(), 3).flatten(1) @ torch.ones(6 * 10 * 10, 7)


def test_memory_is_that_of_pytorchs_record_of_allocations() -> None:
    network = Lambda(pyramid)

    peak, total = allocated(network, (3, 32, 32))

    assert count(network, (3, 32, 32)).memory == peak
    assert total > 1.2 * peak  # a sum of all tensors is told apart


def test_kernels_need_memory_beside_that_of_tensors() -> None:
    network = DARTSNetwork(PUBLISHED["AmoebaNet_A"], channels=8, cells=4, image_size=15)

    peak, _ = allocated(network, (3, 15, 15))

    assert peak / 2 < count(network, (3, 15, 15)).memory <= peak


def test_parameters_and_their_views_are_no_activations() -> None:
    weights = nn.Parameter(torch.ones(100, 3))
    network = Lambda(lambda x: x.mean((2, 3)) @ weights.t()[:, :5])
    network.weights = weights

    assert count(network, (3, 8, 8)).memory == X + 4 * 3 + 4 * 5


def test_a_meter_counts_both_directions_of_a_training_step() -> None:
    layer, x = nn.Linear(6, 5, bias=False), torch.ones(4, 6)

    with Meter(layer.parameters()) as meter:
        layer(x).sum().backward()

    assert meter.macs == 2 * 4 * 6 * 5  # the output, and the gradient of the weights; x needs none
    assert meter.live() == 4 * 5 * 6  # the gradient stays


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


def test_counts_do_not_depend_on_the_mode_and_memory_is_in_bytes_of_the_precision() -> None:
    net = NASBench201Network(NASBench201Space().arch_string(NASBench201Space().sample(3)), channels=4)

    double, single = count(net.double().train(), (3, 32, 32)), count(net.float().eval(), (3, 32, 32))

    assert (double.params, double.macs) == (single.params, single.macs)
    assert double.memory == 2 * single.memory
