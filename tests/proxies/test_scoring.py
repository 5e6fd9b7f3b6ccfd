"""What scoring leaves behind (nothing), what it depends on (the seed), and what it refuses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.proxies import (
    KINDS,
    Batch,
    Expressivity,
    NonFiniteScoreError,
    NoScoreError,
    Proxy,
    RegularisedSwap,
    Swap,
    Zen,
    Zico,
    proxies_of,
    score,
)
from oneshot.supernets import MLPSupernet, NASBench201Network, NASBench201Supernet, NASBenchMacroNetwork, ViTSupernet

ARCH = "|nor_conv_3x3~0|+|avg_pool_3x3~0|skip_connect~1|+|none~0|nor_conv_1x1~1|nor_conv_3x3~2|"
EVERY = [*(name for name in KINDS if name != "reg_swap"), RegularisedSwap(mu=10, sigma=1e4)]
DIFFERENTIATED = [kind.name for kind in KINDS.values() if kind.needs_gradients]


@pytest.fixture
def network() -> NASBench201Network:
    torch.manual_seed(0)
    return NASBench201Network(ARCH, channels=4, cells_per_stage=1, image_size=8)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def y() -> Tensor:
    return torch.arange(8) % 4


def facts(network: nn.Module) -> dict[str, object]:
    """All that scoring could change."""
    return {
        "state": {name: value.clone() for name, value in network.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in network.parameters()],
        "frozen": [p.requires_grad for p in network.parameters()],
        "types": [p.dtype for p in network.parameters()],
        "modes": [m.training for m in network.modules()],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules()
        ],
    }


def generators() -> tuple[object, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def check_same(before: Mapping[str, object], after: Mapping[str, object]) -> None:
    for name, value in before.items():
        if name in ("state", "gradients"):
            torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)
        else:
            assert after[name] == value, name


@pytest.mark.parametrize("proxy", EVERY, ids=lambda p: p if isinstance(p, str) else p.name)
def test_scores_leave_nothing_behind(network: NASBench201Network, x: Tensor, y: Tensor, proxy: str | Proxy) -> None:
    network.eval()
    network.blocks[0].train()
    network.head[0].weight.requires_grad_(False)
    F.cross_entropy(network(x), y).backward()
    before, drawn, images = facts(network), generators(), x.clone()
    (value,) = score(network, x, y, proxy).values()
    check_same(before, facts(network))
    assert generators() == drawn
    assert torch.equal(x, images) and not x.requires_grad and torch.is_grad_enabled()
    assert math.isfinite(value)


class Breaks(nn.Module):
    """Fails in the middle of a forward pass, after it has changed what it can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.calls = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu()
        torch.randn(3), np.random.rand(), random.random()
        raise RuntimeError("the layer after this one")


@pytest.mark.parametrize("proxy", [p for p in EVERY if p not in ("params", "macs")], ids=str)
def test_a_proxy_that_fails_leaves_nothing_behind(x: Tensor, y: Tensor, proxy: str | Proxy) -> None:
    network = Breaks()
    before, drawn = facts(network), generators()
    with pytest.raises((RuntimeError, ValueError)):
        score(network, x, y, proxy)
    check_same(before, facts(network))
    assert generators() == drawn and torch.is_grad_enabled()


def test_scores_follow_from_the_seed_and_not_from_each_other(network: NASBench201Network, x: Tensor, y: Tensor) -> None:
    together = score(network, x, y, EVERY, seed=3)
    assert list(together) == [p if isinstance(p, str) else p.name for p in EVERY]
    torch.manual_seed(99)
    assert score(network, x, y, EVERY[::-1], seed=3) == together
    other = score(network, x, y, EVERY, seed=4)
    drawn = {name for name in together if together[name] != other[name]}
    assert drawn == {"zen", "meco", "az_expressivity", "az_progressivity", "az_trainability"}


class Rectified(nn.Module):
    """Three layers, each with a ReLU of its own, one ReLU for all, functions, or methods that write in place."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.layers = how, nn.ModuleList(nn.Linear(30, 30) for _ in range(3))
        self.relus = nn.ModuleList([nn.ReLU(inplace=how == "in place")] * 3 if how == "shared" else [nn.ReLU()] * 0)
        if how in ("own", "in place"):
            self.relus = nn.ModuleList(nn.ReLU(inplace=how == "in place") for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.how == "function":
                x = F.relu(x)
            elif self.how == "method":
                x = x.relu_()
            else:
                x = self.relus[i](x)
        return x


@pytest.mark.parametrize("how", ["shared", "in place", "function", "method"])
def test_every_call_of_an_activation_counts_once(how: str) -> None:
    torch.manual_seed(0)
    own, other = Rectified("own"), Rectified(how)
    other.layers.load_state_dict(own.layers.state_dict())
    x = torch.randn(6, 30)
    assert score(other, x, names=["naswot", "swap"]) == score(own, x, names=["naswot", "swap"])


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.LeakyReLU(), nn.PReLU()], ids=lambda m: type(m).__name__)
def test_activations_that_are_straight_on_both_sides_of_0_count_as_relus(activation: nn.Module) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 20), torch.randn(6, 5)
    plain, other = nn.Sequential(layer, nn.ReLU()), nn.Sequential(layer, activation)
    assert score(other, x, names=["naswot", "swap"]) == score(plain, x, names=["naswot", "swap"])
    with torch.inference_mode():
        assert score(other, x, names=["naswot", "swap"]) == score(plain, x, names=["naswot", "swap"])


def test_a_hardtanh_that_does_not_close_at_0_is_no_relu() -> None:
    with pytest.raises(ValueError, match="must have one; Sequential has none"):
        score(nn.Sequential(nn.Linear(5, 5), nn.Hardtanh()), torch.randn(4, 5), names="naswot")


def test_an_activation_that_writes_over_the_output_of_a_layer_does_not_change_fisher(y: Tensor) -> None:
    torch.manual_seed(0)
    layers = nn.Linear(5, 6), nn.Linear(6, 4)
    plain, writes = (nn.Sequential(layers[0], nn.SiLU(inplace=p), layers[1]) for p in (False, True))
    x = torch.randn(8, 5)
    assert score(writes, x, y, "fisher") == score(plain, x, y, "fisher")


def test_regularised_swap_is_swap_times_a_bell_curve(network: NASBench201Network, x: Tensor) -> None:
    thousands = sum(p.numel() for p in network.parameters()) / 1000
    found = score(network, x, names=[Swap(), RegularisedSwap(mu=10, sigma=50)])
    assert found["reg_swap"] == pytest.approx(found["swap"] * math.exp(-((thousands - 10) ** 2) / 50), rel=1e-12)
    assert found["reg_swap"] != pytest.approx(found["swap"] * math.exp(-((1000 * thousands - 10) ** 2) / 50), rel=1e-3)
    with pytest.raises(NonFiniteScoreError, match="Give a larger sigma"):
        score(network, x, names=RegularisedSwap(mu=1e4, sigma=1))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.conv = nn.Embedding(7, 4), nn.Conv2d(3, 4, 3, padding=1)
        self.bn, self.head = nn.BatchNorm2d(4), nn.Linear(8, 4)

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        image = self.bn(self.conv(x["image"])).relu().mean((2, 3))
        out: Tensor = self.head(torch.cat([image, self.words(x["word"])], dim=1))
        return out


def test_networks_of_several_inputs_have_scores(x: Tensor, y: Tensor) -> None:
    inputs = {"image": x, "word": torch.arange(8) % 7}
    names = [n for n in KINDS if not n.startswith(("az", "reg", "macs"))]
    found = score(TwoInputs(), inputs, y, names)
    assert all(math.isfinite(value) for value in found.values())


def test_networks_of_other_spaces_have_scores(y: Tensor) -> None:
    torch.manual_seed(0)
    macro = NASBenchMacroNetwork("01212102", channels=4, image_size=8)
    assert all(map(math.isfinite, score(macro, torch.randn(8, 3, 8, 8), y, EVERY).values()))
    rows = torch.randn(8, 6)
    supernet = MLPSupernet(features=6, num_classes=4)
    mlp = supernet.extract(supernet.space.sample(0), inherit=False)
    names = ["params", "macs", "grad_norm", "snip", "grasp", "synflow", "zico", "jacov"]
    assert all(map(math.isfinite, score(mlp, rows, y, names).values()))
    # A regression has its own loss.
    numbers = score(nn.Linear(6, 1), rows, torch.randn(8, 1), "snip", task="regression")
    assert numbers["snip"] > 0


def test_transformers_say_that_they_have_no_relus() -> None:
    supernet = ViTSupernet(image_size=32) if "image_size" in ViTSupernet.__init__.__annotations__ else ViTSupernet()
    network = supernet.extract(supernet.space.sample(0), inherit=False)
    with pytest.raises(ValueError, match="none: it has GELU only. Take proxies that read no activations"):
        score(network, torch.randn(2, *network.input_shape), names="naswot")


@pytest.mark.parametrize("proxy", DIFFERENTIATED)
@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_what_differentiates_refuses_to_run_without_gradients(
    network: NASBench201Network, x: Tensor, y: Tensor, proxy: str, off: Callable[[], torch.no_grad]
) -> None:
    with off(), pytest.raises(ValueError, match=rf"{proxy} differentiates.*torch\.{off.__name__}\(\)"):
        score(network, x, y, proxy)


def test_other_proxies_run_without_gradients(network: NASBench201Network, x: Tensor) -> None:
    names = [p for p in EVERY if (p if isinstance(p, str) else p.name) not in DIFFERENTIATED]
    outside = score(network, x, names=names)
    with torch.no_grad():
        assert score(network, x, names=names) == outside
    with torch.inference_mode():
        assert score(network, x, names=names) == outside
        inside = NASBench201Network(ARCH, channels=4, cells_per_stage=1, image_size=8)
    assert score(inside, x, names="synflow")["synflow"] > 0  # its weights are tensors of inference


@pytest.mark.parametrize("name", [k.name for k in KINDS.values() if k.fewest == 2 and k.name not in ("reg_swap",)])
def test_one_sample_is_refused_where_samples_are_compared(
    network: NASBench201Network, x: Tensor, y: Tensor, name: str
) -> None:
    with pytest.raises(ValueError, match=f"{name} compares samples, so there must be at least 2; got 1"):
        score(network, x[:1], y[:1], name)


def test_scores_that_are_not_finite_raise_or_are_nan(network: NASBench201Network, x: Tensor) -> None:
    same = torch.cat([x, x[:1]])
    with pytest.raises(NonFiniteScoreError, match="naswot must be finite; it is -inf .* Two samples open the same"):
        score(network, same, names="naswot")
    found = score(network, same, names=["params", "naswot"], strict=False)
    assert math.isnan(found["naswot"]) and found["params"] > 0
    dead = NASBench201Network("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", channels=4, image_size=8)
    assert math.isnan(score(dead, x, names="jacov", strict=False)["jacov"])
    with torch.no_grad():
        network.head[-1].weight[0, 0] = math.nan
    with pytest.raises(NonFiniteScoreError, match="synflow must be finite; it is nan"):
        score(network, x, names="synflow")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param("naswit", r"must be one of params, macs, .*; got 'naswit'\. Did you mean 'naswot'\?", id="near"),
        pytest.param("az_nas", "ranks the networks of a set.*Score its parts, az_expressivity", id="of a set"),
        pytest.param("reg_swap", "must be told the size that is wanted, mu > 0", id="without a size"),
        pytest.param([], "At least one proxy must be named", id="none"),
        pytest.param(["snip", "snip"], "'snip' is there twice", id="twice"),
        pytest.param("snip", "takes the loss of a batch, so it must get targets=", id="no targets"),
        pytest.param(Zico(batches=9), "must get targets", id="no targets, with options"),
        pytest.param(Expressivity(blocks=("blok",)), "there is no 'blok'", id="no such block"),
    ],
)
def test_names_that_do_not_do(network: NASBench201Network, x: Tensor, names: str | Proxy, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(network, x, names=names)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(lambda: Zico(batches=1), "at least two batches", id="zico"),
        pytest.param(lambda: Zen(repeats=0), "at least one repeat", id="zen"),
        pytest.param(lambda: Zen(gamma=0), "gamma > 0", id="zen, gamma"),
        pytest.param(lambda: RegularisedSwap(mu=-1, sigma=2), "got mu=-1, sigma=2", id="reg_swap"),
        pytest.param(lambda: proxies_of("zico", {"zico": {"bathes": 3}}), "Options of zico are batches", id="option"),
        pytest.param(lambda: proxies_of("zico", {"zicco": {}}), "options of 'zicco'. Did you mean 'zico'", id="proxy"),
    ],
)
def test_options_that_do_not_do(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
    assert proxies_of("zico", {"zico": {"batches": 3}}) == [Zico(batches=3)]


def test_batches_that_do_not_do(network: NASBench201Network, x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match="a target for each of 8 samples; got 7"):
        score(network, x, y[:7], "snip")
    with pytest.raises(ValueError, match="Inputs must be a tensor .* got a list"):
        score(network, [x], y, "snip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one sample"):
        score(network, x[:0])
    with pytest.raises(ValueError, match="some are NaN"):
        score(network, x * math.nan)
    with pytest.raises(ValueError, match="a sample for each of its 9 batches"):
        score(network, x, y, Zico(batches=9))
    with pytest.raises(ValueError, match="whole numbers"):
        score(nn.Sequential(nn.Embedding(4, 3), nn.Flatten()), torch.zeros(2, 5, dtype=torch.int64), names="jacov")


def test_networks_that_do_not_do(x: Tensor) -> None:
    with pytest.raises(ValueError, match="got a supernet"):
        score(NASBench201Supernet(channels=4, cells_per_stage=1), x)
    with pytest.raises(ValueError, match="some are lazy"):
        score(nn.LazyLinear(3), x)
    with pytest.raises(ValueError, match="must have it; Conv2d has none. Take a proxy without it"):
        score(nn.Conv2d(3, 4, 1), x, names="zen")
    with pytest.raises(ValueError, match="ReLU has none. Leave the proxy out"):
        score(nn.ReLU(), x, names="synflow")
    with pytest.raises(ValueError, match="at least two; Conv2d has 0"):
        score(nn.Conv2d(3, 4, 1), x, names="az_expressivity")

    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return x, x

    with pytest.raises(ValueError, match="must give one tensor to be scored; Pair gives a tuple"):
        score(Pair(2, 2), x, names="jacov")
    old = nn.utils.parametrizations.weight_norm(nn.Linear(5, 5))
    assert score(old, torch.randn(2, 5), names="jacov")["jacov"] < 0


def test_a_proxy_of_ones_own_is_scored_like_any_other(network: NASBench201Network, x: Tensor) -> None:
    class Depth(Proxy):
        name = "depth"

        def __call__(self, network: nn.Module, batch: Batch) -> float:
            return float(sum(isinstance(module, nn.Conv2d) for module in network.modules()))

    assert score(network, x, names=Depth()) == {"depth": 16.0}


# What must not change a score, and what has none.


class Blocks(nn.Module):
    """Pre-activation blocks, whose first layer reads what the block before has handed on."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.ReLU(inplace=inplace), nn.Conv2d(3, 3, 3, padding=1)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.mean((2, 3))


def test_a_layer_that_writes_over_what_a_block_handed_on_does_not_change_az_nas(x: Tensor) -> None:
    plain, writes = Blocks(inplace=False), Blocks(inplace=True)
    writes.load_state_dict(plain.state_dict())
    parts = ["az_expressivity", "az_progressivity", "az_trainability"]
    assert score(writes, x, names=parts) == score(plain, x, names=parts)


class Bad(nn.Module):
    """A network without normalisation, one of whose numbers is none, or whose activations leave the range."""

    def __init__(self, factor: float, *, one: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(layer for _ in range(4) for layer in (nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.ReLU()))
        )
        self.head = nn.Linear(3, 4)
        with torch.no_grad():
            for weight in (p for p in self.layers.parameters()):
                weight[: 1 if one else None] *= factor

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layers(x).mean((2, 3)))
        return out


@pytest.mark.parametrize("proxy", ["zico", "meco", "swap", "naswot", "snip", "grad_norm", "fisher", "grasp"])
@pytest.mark.parametrize(("factor", "one"), [(math.nan, True), (math.nan, False), (1e15, False)])
def test_numbers_that_are_not_finite_inside_a_network_give_no_score(
    x: Tensor, y: Tensor, proxy: str, factor: float, one: bool
) -> None:
    torch.manual_seed(0)
    bad = Bad(factor, one=one)
    with pytest.raises(NonFiniteScoreError, match=proxy):
        score(bad, x, y, proxy)
    assert math.isnan(score(bad, x, y, proxy, strict=False)[proxy])
    assert math.isfinite(score(Bad(1.0, one=one), x, y, proxy)[proxy])


class OwnConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, padding=1)


@pytest.mark.parametrize("kind", ["plain", "weight norm", "spectral norm", "own"])
@pytest.mark.parametrize("proxy", ["zen", "az_expressivity"])
def test_scores_that_draw_their_weights_do_not_depend_on_those_of_the_network(x: Tensor, proxy: str, kind: str) -> None:
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        conv: nn.Module = OwnConvolution() if kind == "own" else nn.Conv2d(3, 6, 3, padding=1)
        if kind in ("weight norm", "spectral norm"):
            parametrize = getattr(nn.utils.parametrizations, kind.replace(" ", "_"))
            conv = parametrize(conv)
        first = nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU())
        second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        return nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))

    assert score(build(0), x, names=proxy) == score(build(1), x, names=proxy)
    assert score(build(0), x, names=proxy) != score(build(0), x, names=proxy, seed=1)


def test_the_layout_in_memory_does_not_change_scores(network: NASBench201Network, x: Tensor) -> None:
    names = ["zen", "meco", "az_expressivity", "az_trainability"]
    plain = score(network, x, names=names)
    last = score(network.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last), names=names)
    assert last == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(8), nn.MaxPool2d(8), nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)])
def test_zen_reads_what_any_global_pooling_reads(pool: nn.Module) -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3), keepdim=True)

    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(3, 1, 1))
    x, head = torch.randn(4, 3, 8, 8), nn.Linear(6, 4)
    found, expected = (score(nn.Sequential(body, p, nn.Flatten(), head), x, names="zen") for p in (pool, Mean()))
    assert found == expected
    without = nn.Sequential(body, nn.Flatten(), nn.Linear(6 * 64, 4))
    assert score(without, x, names="zen") != expected


class Sequence(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x if self.batch_first else x.transpose(0, 1))
        return (out if self.batch_first else out.transpose(0, 1)).mean(1)


@pytest.mark.parametrize("steps", [3, 4, 8], ids=lambda steps: f"{steps} steps")
@pytest.mark.parametrize("proxy", ["naswot", "swap", "fisher"])
def test_layers_with_the_time_in_front_have_no_score_of_what_is_read_by_sample(steps: int, proxy: str) -> None:
    torch.manual_seed(0)
    x, y, usual, other = torch.randn(4, steps, 8), torch.arange(4), *(Sequence(batch_first=b) for b in (True, False))
    other.load_state_dict(usual.state_dict())
    assert math.isfinite(score(usual, x, y, proxy)[proxy])
    with pytest.raises(NoScoreError, match="The first axis of what .* must be the samples"):
        score(other, x, y, proxy)


@pytest.mark.parametrize("proxy", ["naswot", "fisher"])
def test_a_network_that_leaves_out_layers_at_random_has_a_score(proxy: str, x: Tensor, y: Tensor) -> None:
    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(9))

        def forward(self, x: Tensor) -> Tensor:
            for number, layer in enumerate(self.layers):
                if not number or torch.rand(()) < 0.5:
                    x = layer(x).relu()
            return x.flatten(1)[:, :4]

    assert all(math.isfinite(score(Skipping(), x, y, proxy, seed=seed)[proxy]) for seed in range(4))


def test_parts_of_an_image_on_the_first_axis_are_positions_for_fisher(y: Tensor) -> None:
    class Cut(nn.Module):
        def __init__(self, *, on_first_axis: bool) -> None:
            super().__init__()
            self.layer, self.on_first_axis = nn.Linear(5, 4), on_first_axis

        def forward(self, x: Tensor) -> Tensor:
            parts = self.layer(x.flatten(0, 1) if self.on_first_axis else x)
            return parts.view(len(x), -1, 4).tanh().sum(1)

    torch.manual_seed(0)
    plain, cut = Cut(on_first_axis=False), Cut(on_first_axis=True)
    cut.load_state_dict(plain.state_dict())
    x = torch.randn(8, 3, 5)
    assert score(cut, x, y, "fisher")["fisher"] == pytest.approx(score(plain, x, y, "fisher")["fisher"], rel=1e-5)


@pytest.mark.parametrize("proxy", ["snip", "grad_norm", "synflow", "zico"])
def test_scales_and_shifts_of_normalisation_are_no_weights(proxy: str, y: Tensor) -> None:
    class Normalised(nn.Module):
        def __init__(self, *, affine: bool) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 4, 4], elementwise_affine=affine)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)).relu().mean((2, 3))

    torch.manual_seed(0)
    plain, affine = Normalised(affine=False), Normalised(affine=True)
    affine.conv.load_state_dict(plain.conv.state_dict())
    x = torch.randn(8, 3, 6, 6)
    assert score(affine, x, y, proxy) == score(plain, x, y, proxy)


@pytest.mark.parametrize("proxy", ["naswot", "swap"])
def test_a_network_without_relus_has_nan_unless_scores_are_strict(x: Tensor, proxy: str) -> None:
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten())
    with pytest.raises(NoScoreError, match="it has GELU only"):
        score(smooth, x, names=proxy)
    found = score(smooth, x, names=["params", proxy], strict=False)
    assert math.isnan(found[proxy]) and found["params"] > 0


def test_words_alone_have_scores_of_weights(y: Tensor) -> None:
    words = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 4))
    x = torch.arange(24).view(8, 3) % 7
    found = score(words, x, y, ["params", "macs", "snip", "grad_norm", "synflow", "zico"])
    assert all(value > 0 for name, value in found.items() if name != "zico")


def test_several_inputs_of_a_plain_module_have_macs(x: Tensor) -> None:
    inputs = {"image": x, "word": torch.arange(8) % 7}
    found = score(TwoInputs(), inputs, names=["params", "macs"])
    assert found["macs"] == 4 * 3 * 9 * x[0, 0].numel() + 8 * 4


def test_targets_of_inference_mode_will_do(network: NASBench201Network, x: Tensor, y: Tensor) -> None:
    with torch.inference_mode():
        made = y.clone()
    assert score(network, x, made, ["snip", "grasp"]) == score(network, x, y, ["snip", "grasp"])


def test_grasp_differentiates_attention_twice(y: Tensor) -> None:
    class Attention(nn.Module):
        def __init__(self, *, fused: bool) -> None:
            super().__init__()
            self.qkv, self.fused = nn.Linear(8, 24), fused

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x)[:, None].chunk(3, -1)
            if self.fused:
                return nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2))[:, :4]
            return ((q @ k.mT / 8**0.5).softmax(-1) @ v).mean((1, 2))[:, :4]

    torch.manual_seed(0)
    fused, plain = Attention(fused=True), Attention(fused=False)
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(8, 5, 8)
    assert score(fused, x, y, "grasp")["grasp"] == pytest.approx(score(plain, x, y, "grasp")["grasp"], rel=1e-3)


def test_what_a_network_cannot_be_run_with_is_said_with_the_shapes(y: Tensor) -> None:
    table = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))
    with pytest.raises(
        ValueError, match=r"zico must be able to run .* float32 \[3, 5\].* targets int64 \[3\].*cut them"
    ):
        score(table, torch.randn(3, 5), y[:3], "zico")
    images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten())
    with pytest.raises(ValueError, match="uint8 .* images must be numbers with digits"):
        score(images, torch.zeros(2, 3, 8, 8, dtype=torch.uint8), names="naswot")
    with pytest.raises(ValueError, match="snip must be able to run .* targets are those of the task"):
        score(table, torch.randn(8, 5), y + 9, "snip")
