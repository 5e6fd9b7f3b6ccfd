"""DrNAS keeps the contract; its draws are differentiated as Dirichlet draws, and its divergence is an integral."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy.special import digamma, gammaln
from torch import Tensor

from oneshot.engine import BilevelSearch, Stage
from oneshot.engine.stages import strongest
from oneshot.methods.drnas import DirichletSampler, DrNAS, concentration, dirichlet_kl
from oneshot.methods.smoothdarts import RandomPerturbation
from oneshot.supernets.base import OperationSupernet
from oneshot.supernets.darts import DARTSSupernet, darts_space
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.testing import MethodContract, PlantedSupernet, fit, random_streams
from oneshot.testing.methods import WINNER, Method, find_planted_winner
from oneshot.training.optimizers import default_of


class TestDrNAS(MethodContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: DrNAS(supernet, arch_lr=0.1)


class TestDivergence(MethodContract):
    @pytest.fixture
    def supernet(self) -> OperationSupernet:
        torch.manual_seed(0)
        return PlantedSupernet()

    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: DrNAS(supernet, regularizer="kl", arch_lr=0.1)


def integral(c: tuple[float, float, float], *, reverse: bool = False) -> float:
    """``KL(Dirichlet(c) || Dirichlet(1))`` over the triangle of three weights, by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    nodes, weights = (nodes + 1) / 2, weights / 2
    u, v = np.meshgrid(nodes, nodes)
    x, y, area = u, (1 - u) * v, np.outer(weights, weights) * (1 - u)
    log_p = math.lgamma(sum(c)) - sum(map(math.lgamma, c))
    log_p = log_p + (c[0] - 1) * np.log(x) + (c[1] - 1) * np.log(y) + (c[2] - 1) * np.log(1 - x - y)
    log_q = math.log(2.0)  # the uniform density: the triangle has an area of a half
    density, ratio = (2.0, log_q - log_p) if reverse else (np.exp(log_p), log_p - log_q)
    return float((area * density * ratio).sum())


@pytest.mark.parametrize("c", [(1.0, 1.0, 1.0), (2.0, 3.0, 1.5), (5.0, 1.25, 2.0)])
def test_the_divergence_is_the_integral(c: tuple[float, float, float]) -> None:
    ours = float(dirichlet_kl(torch.tensor([c], dtype=torch.float64)))
    assert ours == pytest.approx(integral(c), rel=1e-4, abs=1e-7)
    if c != (1.0, 1.0, 1.0):
        assert ours != pytest.approx(integral(c, reverse=True), rel=0.05)


def gradients(n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a linear loss in the alphas: mean over n draws and its error, exact, and that of a softmax."""
    torch.manual_seed(0)
    alpha = torch.tensor([0.7, -0.5, 0.1, -1.5], dtype=torch.float64)
    loss = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    rows = alpha.expand(n, 4).clone().requires_grad_()
    draws = DirichletSampler()({"cell": rows})["cell"]
    of_draws = torch.autograd.grad((draws * loss).sum(), rows)[0]
    c = np.where(alpha.numpy() > 0, alpha.numpy() + 1, np.exp(alpha.numpy()))
    slope = np.where(alpha.numpy() > 0, 1.0, np.exp(alpha.numpy()))
    exact = slope * (loss.numpy() - (c * loss.numpy()).sum() / c.sum()) / c.sum()  # of the mean c / sum(c)
    p = alpha.softmax(0)
    softmax = p * (loss - (p * loss).sum())
    return of_draws.mean(0), of_draws.std(0) / n**0.5, torch.from_numpy(exact), softmax


def test_the_gradient_of_a_draw_is_on_average_that_of_the_mean() -> None:
    mean, error, exact, softmax = gradients(20_000)
    assert ((mean - exact).abs() < 4 * error).all()
    assert ((mean - softmax).abs() > 10 * error).any()  # of a softmax it is not


def test_draws_are_mixtures_with_the_variance_of_the_distribution() -> None:
    torch.manual_seed(0)
    draws = DirichletSampler()({"cell": torch.zeros(20_000, 4)})["cell"]
    torch.testing.assert_close(draws.sum(-1), torch.ones(len(draws)), rtol=1e-5, atol=1e-5)
    # Of Dirichlet(1, 1, 1, 1) a weight has the mean 1/4 and the variance 3/80.
    np.testing.assert_allclose(draws.mean(0), 0.25, atol=0.01)
    np.testing.assert_allclose(draws.var(0), 3 / 80, rtol=0.05)


@pytest.mark.parametrize("value", [-30.0, -7.0, 30.0])
def test_extreme_alphas_have_finite_draws_and_gradients(value: float) -> None:
    torch.manual_seed(0)
    alpha = torch.full((200, 5), value).requires_grad_()
    draws = DirichletSampler()({"cell": alpha})["cell"]
    gradient = torch.autograd.grad((draws * torch.arange(5.0)).sum(), alpha)[0]
    assert draws.isfinite().all() and gradient.isfinite().all()


def test_what_is_derived_is_largest_in_the_mean() -> None:
    """Softmax, by which the authors' code compares edges, prefers another pair."""
    space = darts_space(candidates=("skip_connect", "sep_conv_3x3"), steps=2)
    search = DrNAS(DARTSSupernet(space, channels=2, cells=2, image_size=8))
    values = torch.tensor([[-2.0, -3.0], [1.0, 0.2], [0.0, 0.0]])  # edges of the second node
    with torch.no_grad():
        for alpha in search.alphas.values():
            alpha[2:] = values
    c = torch.where(values > 0, values + 1, values.exp())
    strongest = (c / c.sum(-1, keepdim=True)).amax(-1)
    assert strongest[0] > strongest[1] > strongest[2]
    assert [op != "none" for op in search.derive()["normal"][2:]] == [True, True, False]
    torch.testing.assert_close(search.probabilities()["normal"][2:].amax(-1), strongest)


def test_l2_is_a_decay_of_the_alphas_and_kl_a_part_of_the_loss() -> None:
    for regularizer, decay in (("l2", 0.25), ("kl", 0.0)):
        supernet = PlantedSupernet()
        search = DrNAS(supernet, regularizer=regularizer, regularizer_weight=0.25, alpha_std=1.0)  # type: ignore[arg-type]
        trainer = fit(search, random_streams(supernet, batches=1), epochs=1)
        assert trainer.optimizers[1].param_groups[0]["weight_decay"] == decay
        loss = search.arch_loss(torch.tensor(2.0), search.edge_weights())
        divergence = dirichlet_kl(concentration(search.alphas["edge"])).sum()
        expected = torch.tensor(2.0) if regularizer == "l2" else 2.0 + 0.25 * divergence
        assert divergence > 0.1
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param({"regularizer": "l1"}, "'l2' or 'kl'; got 'l1'", id="unknown"),
        pytest.param({"regularizer_weight": -1.0}, "must not be negative; got -1.0", id="negative"),
    ],
)
def test_another_regularizer_is_refused(options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DrNAS(PlantedSupernet(), **options)


# The progressive search of section 4.


def staged(supernet: OperationSupernet, *stages: Stage, **options: Any) -> DrNAS:
    return DrNAS(supernet, stages=stages, **{"arch_lr": 0.1, **options})


def small(parts: int = 4) -> OperationSupernet:
    torch.manual_seed(0)
    shape = {"num_classes": 3, "in_channels": 1, "image_size": 8}
    return NASBench201Supernet(channels=8, cells_per_stage=1, partial_channels=parts, **shape)


TWO = (Stage(1, candidates=4, partial_channels=2), Stage(2, candidates=2, partial_channels=1))


def of_the_authors(alpha: Tensor, kept: Tensor, n: int) -> Tensor:
    """Draws as the authors' code has them: of all candidates, masked, and scaled to a sum of 1; ``[n, O]``."""
    c = torch.where(alpha > 0, alpha + 1, alpha.exp())
    weights = torch.distributions.Dirichlet(c).sample((n,)) * kept
    return weights / weights.sum(-1, keepdim=True)


def test_kept_candidates_are_drawn_as_the_authors_code_draws_them() -> None:
    torch.manual_seed(0)
    space = PlantedSupernet().space
    alpha, n = torch.tensor([[0.7, -0.5, 0.0, 0.1, -1.5]], dtype=torch.float64), 40_000
    sampler = DirichletSampler(space)
    sampler.keep({"edge": torch.tensor([[0, 1, 3]]).expand(n, 3)})
    draws = sampler({"edge": alpha.expand(n, 5)})["edge"]
    assert draws[:, [2, 4]].eq(0).all()
    theirs = of_the_authors(alpha[0], torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0]), n)
    c = np.array([1.7, math.exp(-0.5), 1.1])
    mean = c / c.sum()
    variance = mean * (1 - mean) / (c.sum() + 1)
    for weights in (draws, theirs):
        np.testing.assert_allclose(weights[:, [0, 1, 3]].mean(0), mean, atol=0.01)
        np.testing.assert_allclose(weights[:, [0, 1, 3]].var(0), variance, rtol=0.05)
    np.testing.assert_allclose(sampler.probabilities({"edge": alpha.expand(n, 5)})["edge"][0, [0, 1, 3]], mean)
    unscaled = torch.distributions.Dirichlet(torch.where(alpha > 0, alpha + 1, alpha.exp())).sample((n,))[:, 0]
    assert abs(unscaled[:, 0].mean() - mean[0]) > 0.05  # what masking alone would give


def test_stages_keep_the_largest_alphas_of_those_there_are() -> None:
    rng = np.random.default_rng(0)
    alpha = rng.normal(size=(20, 8))
    first = strongest(torch.from_numpy(alpha), torch.arange(8).expand(20, 8), 5)
    alpha[np.arange(20), alpha.argmin(1)] = 9.0  # was dropped, and is large now
    second = strongest(torch.from_numpy(alpha), first, 3)
    everything = strongest(torch.from_numpy(alpha), first, 9)
    assert everything.tolist() == first.tolist()
    for row, five, three in zip(alpha, first.tolist(), second.tolist(), strict=True):
        assert five == sorted(five) and three == sorted(three)
        assert three == sorted(sorted(five, key=lambda o: -row[o])[:3])
        assert three != sorted(np.argsort(-row)[:3].tolist())  # of all candidates it would be another


def closed_form(c: Any) -> float:
    """Sum over rows of ``KL(Dirichlet(c) || Dirichlet(1))``, ``[R, K]``, by gamma and digamma functions."""
    total = c.sum(1, keepdims=True)
    logs = gammaln(total)[:, 0] - gammaln(c).sum(1) - gammaln(c.shape[1])
    return float((logs + ((c - 1) * (digamma(c) - digamma(total))).sum(1)).sum())


def test_the_divergence_is_that_of_the_kept_candidates() -> None:
    search = staged(small(), *TWO, regularizer="kl", regularizer_weight=0.5, alpha_std=1.0)
    kept = strongest(search.alphas["cell"], search.sampler.kept()["cell"], 3)
    search.sampler.keep({"cell": kept})
    c = concentration(search.alphas["cell"]).detach().gather(1, kept)
    exact = closed_form(c.double().numpy())
    assert closed_form(np.array([[2.0, 3.0, 1.5]])) == pytest.approx(integral((2.0, 3.0, 1.5)), rel=1e-4)
    ours = float(search.arch_loss(torch.tensor(2.0), search.edge_weights()).detach())
    assert ours == pytest.approx(2 + 0.5 * exact, rel=1e-3)
    assert ours != pytest.approx(
        2 + 0.5 * float(dirichlet_kl(concentration(search.alphas["cell"])).sum().detach()), rel=0.05
    )


class Watch(pl.Callback):
    """Looks at a search at the end of every epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int, int]] = []
        self.alphas: list[Tensor] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DrNAS)
        kept = pl_module.sampler.kept()["cell"].shape[1]
        weights = sum(p.numel() for p in pl_module.supernet.parameters())
        self.seen.append((pl_module.stage, kept, pl_module.supernet.partial_channels, weights))
        self.alphas.append(pl_module.alphas["cell"].detach().clone())


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="sgd"),
        pytest.param({"weight_optimizer": torch.optim.AdamW}, id="adamw"),
        pytest.param({"ema_decay": 0.9, "accumulate": 2, "weight_decay_norms": False}, id="average"),
        pytest.param({"weight_optimizer": torch.optim.Adafactor, "arch_optimizer": torch.optim.SGD}, id="others"),
    ],
)
def test_a_search_goes_through_its_stages(options: Any) -> None:
    supernet, watch = small(), Watch()
    if "arch_optimizer" in options:
        options = {**options, "regularizer": "kl", "arch_lr": default_of(BilevelSearch, "arch_lr")}
    search = staged(supernet, *TWO, **options)
    trainer = fit(search, random_streams(supernet), epochs=3, callbacks=[watch])
    assert [row[:3] for row in watch.seen] == [(0, 5, 4), (1, 4, 2), (2, 2, 1)]
    held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert len(held) == len(set(held)) and set(held) == set(supernet.parameters())
    assert set(trainer.optimizers[0].state) <= set(held)
    kept, alphas = search.sampler.kept()["cell"], search.alphas["cell"]
    for row, own in enumerate(kept.tolist()):
        assert all(alphas[row, o] == 0 for o in range(5) if o not in own)
        assert own == sorted(sorted(range(5), key=lambda o: -watch.alphas[1][row, o])[:2]) or 0 in watch.alphas[1][row]
    weights = search.edge_weights()["cell"]
    assert (weights > 0).sum(1).tolist() == [2] * 6
    torch.testing.assert_close(weights.sum(1), torch.ones(6), rtol=1e-5, atol=1e-6)
    network = search.evaluation_supernet.extract(search.derive())  # type: ignore[attr-defined]  # an OperationSupernet
    assert network(torch.randn(2, 1, 8, 8)).isfinite().all()


def test_momenta_follow_their_weights() -> None:
    supernet = small()
    search = staged(supernet, Stage(1, partial_channels=2))
    seen: dict[str, list[Tensor]] = {"weights": [], "momenta": []}

    class Before(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch:  # callbacks come before the search
                state = trainer.optimizers[0].state
                seen["momenta"] = [state[p]["momentum_buffer"].clone() for p in supernet.parameters()]
                seen["weights"] = [p.detach().clone() for p in supernet.parameters()]

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
            if not trainer.current_epoch or args[1]:
                return
            state, grown = trainer.optimizers[0].state, 0
            for p, weight, momentum in zip(supernet.parameters(), seen["weights"], seen["momenta"], strict=True):
                own, wider = state[p]["momentum_buffer"], p.detach()
                assert own.shape == p.shape
                if p.shape == weight.shape:
                    assert torch.equal(own, momentum) and torch.equal(wider, weight)
                    continue
                grown += 1
                old = weight.shape[0]
                rows = [[o for o in range(old) if torch.equal(own[j, :old], momentum[o])] for j in range(len(own))]
                assert [found[:1] for found in rows[:old]] == [[o] for o in range(old)]
                assert all(rows)  # every new row is an old one
                assert torch.equal(own[:old, :old], momentum)
                # Weights are divided by how often their input is there, so that the sum over copies is what it was.
                for j, (o, *_) in enumerate(rows):
                    torch.testing.assert_close(wider[j].sum(0), weight[o].sum(0), rtol=1e-5, atol=1e-6)
            assert grown == 36

    fit(search, random_streams(supernet), epochs=2, callbacks=[Before()])
    assert seen["weights"]


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_search_that_is_resumed_in_any_stage_ends_with_the_same_bits(last: int, tmp_path: Path) -> None:
    class Save(pl.callbacks.Checkpoint):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == last:
                trainer.save_checkpoint(path)

    def run(seed: int, **options: Any) -> tuple[DrNAS, pl.Trainer]:
        torch.manual_seed(seed)
        search = staged(copy.deepcopy(supernet), *TWO, ema_decay=0.9, arch_warmup_epochs=0)
        return search, fit(search, random_streams(supernet), epochs=4, **options)

    supernet, path = small(), tmp_path / "middle.ckpt"
    whole, trainer = run(0, enable_checkpointing=True, callbacks=[Save()])
    resumed, again = run(1, ckpt_path=path)
    torch.testing.assert_close(whole.state_dict(), resumed.state_dict(), rtol=0, atol=0)
    for a, b in zip(trainer.optimizers, again.optimizers, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    assert whole.derive() == resumed.derive()
    loaded = staged(copy.deepcopy(supernet), *TWO, ema_decay=0.9)
    loaded.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert loaded.stage == last and loaded.supernet.partial_channels == (4, 2, 1)[last]
    if last:
        with pytest.raises(ValueError, match="The state of stage 0 must be loaded into a new search"):
            loaded.load_state_dict({**loaded.state_dict(), "_stage": torch.tensor(0)})
    with pytest.raises(ValueError, match="what differs is stages: "):
        fit(
            staged(copy.deepcopy(supernet), *TWO[:1], ema_decay=0.9),
            random_streams(supernet),
            epochs=4,
            ckpt_path=path,
        )


def test_the_alphas_wait_at_the_beginning_of_every_stage() -> None:
    supernet, watch = small(), Watch()
    search = staged(supernet, Stage(3, candidates=3), arch_warmup_epochs=1)
    start = search.alphas["cell"].detach().clone()
    fit(search, random_streams(supernet), epochs=5, callbacks=[watch])
    alphas = [start, *watch.alphas]
    moved = [not torch.equal(a[a != 0][: len(b)], b) for a, b in pairs(alphas)]
    assert moved == [False, True, True, False, True]


def pairs(alphas: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Each with the next, without what is 0 in the next."""
    return [(torch.where(b != 0, a, 0), b[b != 0]) for a, b in itertools.pairwise(alphas)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_planted_winner_is_found_in_stages(seed: int) -> None:
    stages = (Stage(2, candidates=3, partial_channels=2), Stage(3, candidates=2, partial_channels=1))
    config = find_planted_winner(
        lambda supernet: staged(supernet, *stages), seed=seed, epochs=4, edges=2, partial_channels=4
    )
    assert WINNER in config["edge"]


def test_one_stage_is_what_it_was() -> None:
    """No state more, and the same draws."""
    plain, with_stages = DrNAS(small()), staged(small(), *TWO)
    assert not {"_stage", "sampler.kept_0"} & plain.state_dict().keys()
    draws = []
    for search in (plain, with_stages):
        torch.manual_seed(5)
        draws.append(search.sampler({"cell": torch.ones(6, 5)})["cell"])
    assert torch.equal(*draws)


@pytest.mark.parametrize(
    ("stages", "match"),
    [
        pytest.param([Stage(0, 3)], "after at least one epoch; got epochs 0", id="at once"),
        pytest.param([Stage(2, 4), Stage(2, 3)], "one after the other.*got epochs 2, 2", id="together"),
        pytest.param([Stage(2)], "must change candidates or partial_channels; that at epoch 2 does not", id="nothing"),
        pytest.param([Stage(2, 1)], "from 2 to less than before, 5; got 1 at epoch 2", id="one"),
        pytest.param([Stage(2, 3), Stage(3, 3)], "less than before, 3; got 3 at epoch 3", id="as many"),
        pytest.param([Stage(2, None, 4)], "become fewer in a stage, from 4 to at least 1; got 4", id="as wide"),
    ],
)
def test_stages_that_do_not_follow_each_other_are_refused(stages: list[Stage], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        staged(small(), *stages)


def test_a_stage_that_would_never_begin_is_refused() -> None:
    supernet = small()
    with pytest.raises(ValueError, match="it begins at epoch 2 of max_epochs=2. Train longer"):
        fit(staged(supernet, *TWO), random_streams(supernet), epochs=2)


def test_stages_and_a_perturbation_are_refused_together() -> None:
    with pytest.raises(ValueError, match="gives candidates weight that a stage has dropped"):
        staged(small(), *TWO, perturbation=RandomPerturbation())
