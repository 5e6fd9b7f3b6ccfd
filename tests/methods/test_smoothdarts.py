"""SmoothDARTS keeps the contract, climbs the loss as the paper says, and composes with the methods it can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.samplers import Perturbation
from oneshot.functional import clip_to_simplex, worst_weights
from oneshot.methods.darts import DARTS
from oneshot.methods.gdas import GDAS
from oneshot.methods.pcdarts import PCDARTS
from oneshot.methods.smoothdarts import AdversarialPerturbation, RandomPerturbation, SmoothDARTS
from oneshot.methods.snas import SNAS
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.testing import MethodContract, PlantedSupernet, find_planted_winner, fit, random_streams
from oneshot.testing.methods import WINNER, Method

Array = npt.NDArray[np.float64]
Mistake = Literal["descent", "no ball", "no simplex", "one step"]


class TestAdversarial(MethodContract):
    epochs = 3

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: SmoothDARTS(supernet, arch_lr=0.1, steps=1)


def test_the_random_attack_finds_the_planted_winner() -> None:
    config = find_planted_winner(lambda s: SmoothDARTS(s, attack="random", arch_lr=0.1), seed=0)
    assert config["edge"] == (WINNER,)


# The attack, against NumPy in float64.

C = np.array([[0.3, -0.2, 0.5, 0.1], [-0.4, 0.6, 0.2, -0.1]])
ROWS = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.15, 0.05]])


def torch_loss(weights: Mapping[str, Tensor]) -> Tensor:
    w = weights["edge"]
    return (torch.tensor(C) * w).sum() + 0.7 * (w[0] * w[1]).sum() - 0.9 * (w**3).sum()


def gradient(w: Array) -> Array:
    return C + 0.7 * w[::-1] - 2.7 * w**2


def simplex(w: Array) -> Array:
    w = w.clip(0, 1)
    result: Array = w / w.sum(1, keepdims=True)
    return result


def attack(noise: Array, *, epsilon: float, steps: int, mistake: Mistake | None = None) -> Array:
    """Linf-PGD as in the paper and the authors' attacker/perturb.py, or with a mistake."""
    project = (lambda w: w) if mistake == "no simplex" else simplex
    w = project(ROWS + noise)
    for _ in range(1 if mistake == "one step" else steps):
        sign = -1 if mistake == "descent" else 1  # confopt minimises
        w = w + sign * 2 * epsilon / steps * np.sign(gradient(w))
        if mistake != "no ball":
            w = ROWS + (w - ROWS).clip(-epsilon, epsilon)
        w = project(w)
    return w


def ours(*, epsilon: float = 0.2, steps: int = 7, seed: int = 3, **options: Any) -> tuple[Array, Array]:
    torch.manual_seed(seed)
    rows = {"edge": torch.tensor(ROWS)}
    found = worst_weights(rows, torch_loss, epsilon=epsilon, steps=steps, **options)["edge"].numpy()
    torch.manual_seed(seed)
    return found, torch.empty(2, 4, dtype=torch.float64).uniform_(-epsilon, epsilon).numpy()


@pytest.mark.parametrize("steps", [1, 7])
def test_the_attack_is_the_papers(steps: int) -> None:
    found, noise = ours(steps=steps)
    np.testing.assert_allclose(found, attack(noise, epsilon=0.2, steps=steps), rtol=1e-12, atol=1e-14)
    assert torch_loss({"edge": torch.tensor(found)}) > torch_loss({"edge": torch.tensor(ROWS)}) + 0.05


@pytest.mark.parametrize("mistake", ["descent", "no ball", "no simplex", "one step"])
def test_an_attack_with_a_mistake_is_another(mistake: Mistake) -> None:
    found, noise = ours()
    assert not np.allclose(found, attack(noise, epsilon=0.2, steps=7, mistake=mistake), rtol=1e-2, atol=1e-3)


def test_gradients_and_losses_are_averaged_over_the_processes() -> None:
    """Here the others see the opposite loss, twice: all climb their hill, and the loss we see falls."""
    found, noise = ours(average=lambda tensors: [-tensor for tensor in tensors])
    np.testing.assert_allclose(found, attack(noise, epsilon=0.2, steps=7, mistake="descent"), rtol=1e-12, atol=1e-14)


def test_where_the_loss_cannot_rise_the_weights_stay() -> None:
    rows = {"edge": torch.tensor(ROWS)}
    found = worst_weights(rows, lambda w: -((w["edge"] - rows["edge"]) ** 2).sum(), epsilon=0.2)
    assert torch.equal(found["edge"], rows["edge"]) and not found["edge"].requires_grad


def test_clipped_rows_are_on_the_simplex_and_what_is_on_it_stays() -> None:
    clipped = clip_to_simplex(torch.tensor(ROWS) + torch.empty(2, 4).uniform_(-0.5, 0.5))
    assert (clipped >= 0).all()
    torch.testing.assert_close(clipped.sum(1), torch.ones(2, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(clip_to_simplex(torch.tensor(ROWS)), torch.tensor(ROWS), rtol=1e-12, atol=1e-12)


# Its size.


class Sizes(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, SmoothDARTS) and isinstance(pl_module.perturbation, RandomPerturbation)
        self.seen.append(float(pl_module.perturbation.epsilon))


def test_epsilon_grows_from_epoch_to_epoch_and_is_saved() -> None:
    sizes, module = Sizes(), SmoothDARTS(PlantedSupernet(), attack="random")
    fit(module, random_streams(module.supernet, batches=1), epochs=4, callbacks=[sizes])
    expected = [0.03 + (0.3 - 0.03) * epoch / 4 for epoch in range(4)]  # sota/cnn/train_search.py:170
    np.testing.assert_allclose(sizes.seen, expected, rtol=1e-12)
    assert not np.allclose([0.3] * 4, expected)  # confopt's
    assert float(module.state_dict()["perturbation.epsilon"]) == pytest.approx(expected[-1])


def test_random_noise_is_of_size_epsilon_and_no_larger() -> None:
    perturbation, rows = RandomPerturbation(0.1, 0.1), {"edge": torch.full((4000, 2), 0.5, dtype=torch.float64)}
    moved = perturbation(rows, torch_loss)["edge"]
    shift = moved[:, 0] / moved[:, 1]  # of (0.5 + a) / (0.5 + b) with |a|, |b| <= 0.1
    assert 0.4 / 0.6 <= shift.min() < 0.7 and 1.43 < shift.max() <= 0.6 / 0.4


# Where it acts.


def seen_by_the_supernet(module: BilevelSearch) -> list[tuple[bool, Tensor]]:
    """(gradient for the alphas wanted, edge weights) of every pass of a step."""
    seen, run = [], module.run

    def spy(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        (w,) = weights.values()
        seen.append((w.requires_grad, w.detach().clone()))
        return run(x, weights)

    module.run = spy  # type: ignore[method-assign]  # to look at what passes
    fit(module, random_streams(module.supernet, batches=1), epochs=1)
    return seen


def test_the_alphas_see_edge_weights_as_they_are_and_the_weights_see_perturbed_ones() -> None:
    module = SmoothDARTS(PlantedSupernet(), attack="random", epsilon=(0.3, 0.3), arch_lr=0.0)
    clean = module.edge_weights()["edge"].detach().clone()
    (alpha_pass, first), (weight_pass, second) = seen_by_the_supernet(module)
    assert alpha_pass and torch.equal(first, clean)
    assert not weight_pass and not torch.allclose(second, clean, atol=0.01)
    torch.testing.assert_close(module.edge_weights()["edge"], clean, rtol=0, atol=0)


def test_the_adversary_looks_seven_times_and_leaves_statistics_and_gradients_alone() -> None:
    module = SmoothDARTS(PlantedSupernet())
    assert len(seen_by_the_supernet(module)) == 1 + 7 + 2 + 1
    assert all(int(n) == 1 for name, n in module.supernet.named_buffers() if name.endswith("num_batches_tracked"))


Perturb = Callable[[], Perturbation]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("perturb", [RandomPerturbation, lambda: AdversarialPerturbation(steps=1)])
def test_darts_of_both_orders_can_be_perturbed(order: Any, perturb: Perturb) -> None:
    weights = []
    for perturbation in (None, perturb()):
        torch.manual_seed(0)
        module = DARTS(PlantedSupernet(), order=order, perturbation=perturbation)
        fit(module, random_streams(module.supernet, batches=1), epochs=1)
        weights.append(torch.cat([p.detach().flatten() for p in module.supernet.parameters()]))
    assert weights[1].isfinite().all() and not torch.equal(*weights)


@pytest.mark.parametrize("perturb", [RandomPerturbation, lambda: AdversarialPerturbation(0.3, steps=1)])
def test_partial_channels_and_edge_normalisation_can_be_perturbed(perturb: Perturb) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8, partial_channels=2)
    module = PCDARTS(supernet, arch_lr=0.0, arch_warmup_epochs=0, perturbation=perturb())
    clean, edges = module.edge_weights()["cell"].detach(), module.sampler.edges()["cell"].detach()  # type: ignore[operator]
    seen = [w for _, w in seen_by_the_supernet(module)]
    assert torch.equal(seen[0], clean)
    assert not torch.allclose(seen[-1], clean, atol=1e-3)
    for w in seen:  # candidates move against each other, edges do not
        torch.testing.assert_close(w.sum(1), edges, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(edges, torch.ones(6))


# What it refuses.


def test_methods_that_cannot_be_perturbed_say_why() -> None:
    with pytest.raises(ValueError, match="StraightThroughSampler are single candidates. Leave it out"):
        GDAS(PlantedSupernet(), perturbation=RandomPerturbation())
    with pytest.raises(ValueError, match="SNAS trains both by one loss. Leave the perturbation out, or .* SmoothDARTS"):
        SNAS(PlantedSupernet(), perturbation=RandomPerturbation())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"attack": "pgd"}, r"one of \('random', 'adversarial'\); got 'pgd'", id="attack"),
        pytest.param({"epsilon": (0.3, 0.03)}, "start >= 0 to end <= 1.*got 0.3, 0.03", id="falling"),
        pytest.param({"epsilon": (0.3, 1.5)}, "got 0.3, 1.5", id="large"),
        pytest.param(
            {"steps": 0}, "steps of an attack must be at least 1; got 0. RandomPerturbation takes none", id="steps"
        ),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SmoothDARTS(PlantedSupernet(), **options)
