"""Every proxy against an implementation of its own in float64, and the published mistakes, which must differ."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.proxies import KINDS, Batch, Zen, Zico, az_nas, score
from oneshot.proxies.aznas import AZ_NAS, block_trainability, entropy_of_components
from oneshot.proxies.synflow import WithoutNormalisation
from oneshot.tasks import task_of
from tests.reference import zero_cost as reference

GRADIENT = {"rtol": 1e-5, "atol": 1e-9}  # the reference takes differences
EXACT = {"rtol": 1e-9, "atol": 1e-12}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(3)
        self.conv2 = nn.Conv2d(3, 4, 3, padding=1, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()  # runs twice
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def toy() -> Toy:
    torch.manual_seed(3)
    return Toy().double()


@pytest.fixture(scope="module")
def w(toy: Toy) -> reference.Weights:
    named = {"conv1": toy.conv1.weight, "conv2": toy.conv2.weight, "linear": toy.linear.weight, "bias": toy.linear.bias}
    return {name: value.detach().clone() for name, value in named.items()}


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(6, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def y() -> Tensor:
    return torch.tensor([0, 1, 2, 0, 1, 2])


def close(ours: float, theirs: float, rtol: float, atol: float) -> bool:
    return math.isclose(ours, theirs, rel_tol=rtol, abs_tol=atol)


def one(name: str, network: nn.Module, x: Tensor, y: Tensor | None = None) -> float:
    return score(network, x, y, name)[name]


def test_the_reference_is_the_same_network(toy: Toy, w: reference.Weights, x: Tensor) -> None:
    torch.testing.assert_close(toy.train()(x), reference.run(w, x)["out"], rtol=1e-9, atol=1e-12)


def test_params_and_macs_are_counted_by_hand(toy: Toy, x: Tensor) -> None:
    conv1, conv2, linear = 2 * 3 * 9, 3 * 4 * 9, 4 * 3
    assert one("params", toy, x) == conv1 + 2 * 3 + conv2 + 2 * 4 + linear + 3
    assert one("macs", toy, x) == conv1 * 36 + conv2 * 9 + linear


def test_grad_norm_is_the_sum_of_the_norms_of_layers(toy: Toy, w: reference.Weights, x: Tensor, y: Tensor) -> None:
    g = reference.weight_gradients(w, x, y)
    ours = one("grad_norm", toy, x, y)
    assert close(ours, sum(math.sqrt(float((v**2).sum())) for v in g.values()), **GRADIENT)
    of_all = math.sqrt(sum(float((v**2).sum()) for v in g.values()))  # the norm of all layers together
    assert not close(ours, of_all, rtol=1e-2, atol=0)


def test_snip_is_the_sum_of_absolute_products(toy: Toy, w: reference.Weights, x: Tensor, y: Tensor) -> None:
    g = reference.weight_gradients(w, x, y)
    ours = one("snip", toy, x, y)
    assert close(ours, sum(float((w[n] * v).abs().sum()) for n, v in g.items()), **GRADIENT)
    signed = sum(float((w[n] * v).sum()) for n, v in g.items())
    gradients_alone = sum(float(v.abs().sum()) for v in g.values())
    assert not any(close(ours, wrong, rtol=1e-2, atol=0) for wrong in (signed, abs(signed), gradients_alone))


def test_grasp_is_minus_w_hessian_g(toy: Toy, w: reference.Weights, x: Tensor, y: Tensor) -> None:
    theirs = reference.grasp(w, x, y)
    ours = one("grasp", toy, x, y)
    assert close(ours, theirs, rtol=1e-8, atol=1e-12)
    assert abs(theirs) > 1e-3 and not close(ours, -theirs, rtol=1e-2, atol=0)  # the other sign


def test_fisher_squares_the_sum_over_positions(toy: Toy, w: reference.Weights, x: Tensor, y: Tensor) -> None:
    ours = one("fisher", toy, x, y)
    assert close(ours, reference.fisher(w, x, y), **EXACT)
    a, g = fisher_parts(w, x, y)
    inside = sum(
        float(0.5 * (b * c).square().sum(dim=(2, 3) if b.dim() > 2 else ()).sum()) / len(x) for b, c in zip(a, g)
    )
    of_the_sum = ours * len(x) ** 2  # gradients of the summed loss
    linear_only = float(0.5 * (a[-1] * g[-1]).square().sum()) / len(x)
    assert not any(close(ours, wrong, rtol=1e-2, atol=0) for wrong in (inside, of_the_sum, linear_only))


def fisher_parts(w: reference.Weights, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of the three layers and their gradients."""
    a = [F.conv2d(x, w["conv1"], padding=1).requires_grad_(True)]
    a.append(F.conv2d(reference.normalised(a[0]).relu(), w["conv2"], padding=1, stride=2))
    a.append(reference.normalised(a[1]).relu().mean((2, 3)) @ w["linear"].T + w["bias"])
    g = torch.autograd.grad(F.cross_entropy(a[2], y), a)
    return [part.detach() for part in a], list(g)


def test_synflow_is_the_sum_over_paths(toy: Toy, w: reference.Weights, x: Tensor) -> None:
    ours, theirs = one("synflow", toy, x), reference.path_sum(w, (2, 6, 6))
    assert close(ours, theirs, **EXACT)
    signed = 3 * float(reference.run(w, torch.ones(1, 2, 6, 6, dtype=torch.float64), bn=False)["out"].sum())
    assert not close(ours, signed, rtol=1e-2, atol=0)


def with_normalisation(network: Toy) -> float:
    """The mistake: batch normalisation reads its running statistics."""
    own = copy.deepcopy(network).eval()
    for p in own.parameters():
        p.data.abs_()
    weights = [own.conv1.weight, own.conv2.weight, own.linear.weight]
    g = torch.autograd.grad(own(torch.ones(1, 2, 6, 6, dtype=torch.float64)).sum(), weights)
    return sum(float((p * h).abs().sum().detach()) for p, h in zip(weights, g))


def test_synflow_does_not_see_batch_normalisation(toy: Toy, x: Tensor) -> None:
    ours, network = one("synflow", toy, x), copy.deepcopy(toy)
    network.bn1.running_var.fill_(4.0)
    network.bn2.running_mean.fill_(0.2)
    assert not close(ours, with_normalisation(network), rtol=1e-2, atol=0)
    assert one("synflow", network, x) == pytest.approx(ours, rel=1e-12)


def test_synflow_has_64_bits_where_32_overflow(x: Tensor) -> None:
    layers = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(30)]
    for layer in layers:
        nn.init.constant_(layer.weight, 1.0)
    deep = nn.Sequential(nn.Conv2d(2, 8, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    ours = one("synflow", deep, x.float())
    assert math.isfinite(ours)
    assert ours > torch.finfo(torch.float32).max


def test_normalisation_of_every_kind_is_left_out() -> None:
    x = torch.randn(2, 4, 3, 3)
    with WithoutNormalisation():
        for layer in (nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm([4, 3, 3])):
            assert layer(x) is x
    assert nn.BatchNorm2d(4)(x) is not x


def test_naswot_counts_units_that_are_alike(toy: Toy, w: reference.Weights, x: Tensor) -> None:
    codes = reference.codes(w, x)
    ours = one("naswot", toy, x)
    assert close(ours, reference.naswot(codes), **EXACT)
    open_alone = math.log(np.linalg.det(codes.astype(float) @ codes.T.astype(float)))  # closed in both left out
    run_twice = ours + len(x) * math.log(2)  # a hook that counts two passes doubles the kernel
    last_only = reference.naswot(reference.codes(w, x)[:, -4 * 9 :])  # a hook that keeps the last call of the module
    assert not any(close(ours, wrong, rtol=1e-3, atol=0) for wrong in (open_alone, run_twice, last_only))


def test_jacov_is_of_correlations(toy: Toy, w: reference.Weights, x: Tensor) -> None:
    ours = one("jacov", toy, x)
    assert close(ours, reference.jacov(w, x), rtol=1e-7, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda t: reference.run(w, t)["out"].sum(), x).flatten(1)
    v = np.linalg.eigvalsh(np.cov(jacobian.numpy()))
    assert not close(ours, float(-np.sum(np.log(v + 1e-5) + 1 / (v + 1e-5))), rtol=1e-2, atol=0)  # covariance


def test_swap_counts_patterns_of_units_over_samples(toy: Toy, w: reference.Weights, x: Tensor) -> None:
    codes = reference.codes(w, x)
    ours = one("swap", toy, x)
    assert ours == len({tuple(column) for column in codes.T.tolist()})
    assert ours != len({tuple(row) for row in codes.tolist()})  # patterns of samples over units
    assert ours != codes.shape[1]


def test_zico_takes_mean_and_deviation_over_batches(toy: Toy, w: reference.Weights, x: Tensor, y: Tensor) -> None:
    parts = [reference.weight_gradients(w, part, labels) for part, labels in zip(x.split(2), y.split(2))]
    ours = score(toy, x, y, Zico(batches=3))["zico"]
    assert close(ours, reference.zico(parts), rtol=1e-4, atol=1e-6)
    unbiased = ours - 3 * math.log(math.sqrt(3 / 2))  # the deviation of a sample, N - 1
    absolute_mean = 0.0
    for name in parts[0]:
        g = torch.stack([part[name].flatten() for part in parts])
        ok = g.std(0, correction=0) > 1e-9
        absolute_mean += float((g.mean(0).abs() / g.std(0, correction=0))[ok].sum().log())  # |E g|, not E |g|
    one_log = math.log(sum(math.exp(reference.zico([{n: p[n]} for p in parts])) for n in parts[0]))
    assert not any(close(ours, wrong, rtol=1e-3, atol=0) for wrong in (unbiased, absolute_mean, one_log))


def test_zen_undoes_the_scale_of_batch_normalisation(toy: Toy, x: Tensor) -> None:
    torch.manual_seed(5)
    drawn = {
        "conv1": torch.nn.init.normal_(torch.empty_like(toy.conv1.weight)),
        "conv2": torch.nn.init.normal_(torch.empty_like(toy.conv2.weight)),
        "linear": torch.nn.init.normal_(torch.empty_like(toy.linear.weight)),
        "bias": torch.zeros(3, dtype=torch.float64),
    }
    drawn = {name: value.detach() for name, value in drawn.items()}
    inputs, noise = torch.randn_like(x), torch.randn_like(x)
    theirs = reference.zen(drawn, inputs, noise, 0.01)
    ours = score(toy, x, names=Zen(), seed=5)["zen"]
    assert close(ours, theirs, **EXACT)
    plain, moved = reference.run(drawn, inputs), reference.run(drawn, inputs + 0.01 * noise)
    without_scale = math.log(float((plain["relu2"] - moved["relu2"]).abs().sum()) / len(x))
    of_logits = theirs - without_scale + math.log(float((plain["out"] - moved["out"]).abs().sum()) / len(x))
    momentum = without_scale + sum(
        0.5 * math.log(0.81 + 0.19 * float(plain[n].var(dim=(0, 2, 3)).mean())) for n in ("conv1", "conv2")
    )
    assert not any(close(ours, wrong, rtol=1e-3, atol=0) for wrong in (without_scale, of_logits, momentum))


def test_zen_is_the_mean_over_repeats(toy: Toy, x: Tensor) -> None:
    assert score(toy, x, names=Zen(repeats=3))["zen"] != score(toy, x, names=Zen())["zen"]


def test_meco_takes_every_feature_map_once(toy: Toy, w: reference.Weights, x: Tensor) -> None:
    torch.manual_seed(0)
    image = torch.randn_like(x)
    seen = reference.run(w, image)
    maps = [seen[n][0] for n in ("conv1", "bn1", "relu1", "conv2", "bn2", "relu2")]
    wrapped = nn.Sequential(toy)  # a container around the network adds nothing
    assert close(one("meco", toy, x), reference.meco(maps), rtol=1e-8, atol=1e-10)
    assert one("meco", wrapped, x) == one("meco", toy, x)
    once_more = reference.meco([*maps, maps[2], maps[5]])
    assert not close(one("meco", toy, x), once_more, rtol=1e-3, atol=0)


def test_parts_of_az_nas(x: Tensor) -> None:
    features = torch.randn(3, 5, 4, 4, dtype=torch.float64)
    assert close(entropy_of_components(features), reference.entropy(features), rtol=1e-8, atol=1e-10)
    uncentred = features + 3
    assert close(entropy_of_components(uncentred), reference.entropy(features), rtol=1e-6, atol=1e-8)
    signs = torch.randint(0, 2, (3, 4, 2, 2)).double() * 2 - 1
    for size in (2, 4):  # with and without a stride
        back = torch.randn(3, 5, size, size, dtype=torch.float64)
        assert close(block_trainability(signs, back), reference.trainability(signs, back), rtol=1e-8, atol=1e-10)
    assert block_trainability(signs, signs) == -math.inf
    assert math.isnan(block_trainability(torch.ones(3, 4, 4, 4), torch.ones(3, 4, 2, 2)))


def test_scores_of_blocks_follow_from_their_features(x: Tensor) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1, stride=2)])
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            out: Tensor = self.linear(x.mean((2, 3)))
            return out

    chain = Chain().double()
    torch.manual_seed(0)
    weights = [
        nn.init.kaiming_normal_(torch.empty_like(p), nonlinearity="relu") for p in chain.parameters() if p.dim() > 1
    ]
    first = F.conv2d(torch.randn_like(x), weights[0], padding=1).detach()
    second = F.conv2d(first, weights[1], padding=1, stride=2).detach()
    entropies = [reference.entropy(first), reference.entropy(second)]
    found = score(chain, x, names=["az_expressivity", "az_progressivity", "az_trainability"])
    assert close(found["az_expressivity"], sum(entropies), rtol=1e-8, atol=1e-10)
    assert close(found["az_progressivity"], entropies[1] - entropies[0], rtol=1e-8, atol=1e-10)
    assert found["az_trainability"] <= 0


def test_az_nas_adds_logarithms_of_ranks() -> None:
    rows = [{name: float(v) for name in AZ_NAS} for v in (3, 1, 2)]
    rows[0]["macs"] = 0.0
    third = [math.log(r / 3) for r in (1, 2, 3)]
    expected = [3 * third[2] + third[0], 3 * third[0] + third[1], 3 * third[1] + third[2]]
    assert az_nas(rows) == pytest.approx(expected, rel=1e-12)
    pair = [dict.fromkeys(AZ_NAS, v) for v in (1.0, 2.0, 3.0, 4.0)]
    pair[0]["macs"], pair[3]["macs"] = 4.0, 1.0
    found = az_nas(pair)
    assert found[3] == pytest.approx(3 * math.log(4 / 4) + math.log(1 / 4), rel=1e-12)
    rows[1]["az_trainability"] = math.nan
    assert az_nas(rows)[1] == min(az_nas(rows))


def test_all_proxies_have_a_formula_test() -> None:
    assert set(KINDS) == {
        *("params", "macs", "grad_norm", "snip", "grasp", "fisher", "synflow", "jacov", "naswot", "zen", "zico"),
        *("swap", "reg_swap", "meco", "az_expressivity", "az_progressivity", "az_trainability"),
    }
    assert Batch(torch.zeros(1), None, task_of("classification")).targets is None
