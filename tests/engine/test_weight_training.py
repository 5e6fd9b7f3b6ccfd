"""Optimisers, schedules, accumulated gradients and averages of the weights, in all kinds of searches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import ReduceLROnPlateau
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from oneshot.data import FakeImages, SearchDataModule
from oneshot.engine.gradient import BilevelSearch, SingleLevelSearch
from oneshot.engine.module import SearchModule
from oneshot.engine.samplers import SoftmaxSampler
from oneshot.engine.weight_training import WeightTraining
from oneshot.functional import warmup_cosine
from oneshot.methods.betadarts import BetaDARTS
from oneshot.methods.bignas import BigNAS
from oneshot.methods.darts import DARTS
from oneshot.methods.dartsminus import DARTSMinus
from oneshot.methods.dartspt import DARTSPT
from oneshot.methods.drnas import DrNAS
from oneshot.methods.dsnas import DSNAS
from oneshot.methods.enas import ENAS
from oneshot.methods.fairdarts import FairDARTS
from oneshot.methods.fairnas import FairNAS
from oneshot.methods.gdas import GDAS
from oneshot.methods.oles import OLES
from oneshot.methods.pcdarts import PCDARTS
from oneshot.methods.proxylessnas import ProxylessNAS, Reward
from oneshot.methods.random_sharing import RandomSharing
from oneshot.methods.robustdarts import RobustDARTS
from oneshot.methods.smoothdarts import SmoothDARTS
from oneshot.methods.snas import SNAS
from oneshot.supernets.nasbench201 import NASBench201Supernet
from oneshot.testing import PlantedSupernet, fit, random_streams


def bilevel(**options: Any) -> BilevelSearch:
    torch.manual_seed(0)
    return BilevelSearch(PlantedSupernet(channels=4), SoftmaxSampler(), **options)


class Rates(pl.Callback):
    """Learning rates of all groups of all optimisers in every step."""

    def __init__(self) -> None:
        self.seen: list[list[list[float]]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.seen.append([[group["lr"] for group in o.param_groups] for o in trainer.optimizers])

    def of_weights(self) -> list[list[float]]:
        return [optimizers[0] for optimizers in self.seen]


def rates(module: SearchModule, *, epochs: int = 3, batches: int = 2, **options: Any) -> Rates:
    callback = Rates()
    fit(module, random_streams(module.supernet, batches=batches), epochs=epochs, callbacks=[callback], **options)
    return callback


# Optimisers that are given.


def test_adamw_in_place_of_sgd_equals_a_loop_in_plain_pytorch() -> None:
    module = bilevel(weight_optimizer=partial(AdamW, lr=0.01, weight_decay=0.1), arch_warmup_epochs=9).double()
    supernet, weights = copy.deepcopy(module.supernet), module.edge_weights()
    optimizer = AdamW(supernet.parameters(), lr=0.01, weight_decay=0.1)
    streams = random_streams(supernet, dtype=torch.float64)
    fit(module, streams, epochs=2)
    for epoch in range(2):
        optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * epoch / 2))
        for x, y in streams["weights"]:
            optimizer.zero_grad()
            F.cross_entropy(supernet(x, {k: w.detach() for k, w in weights.items()}), y).backward()
            nn.utils.clip_grad_norm_(supernet.parameters(), 5.0)
            optimizer.step()
    torch.testing.assert_close(module.supernet.state_dict(), supernet.state_dict(), rtol=1e-9, atol=1e-11)


def test_alphas_take_another_optimiser() -> None:
    module = bilevel(arch_optimizer=partial(SGD, lr=0.3))
    seen = rates(module).seen
    assert isinstance(module.trainer.optimizers[1], SGD)
    assert {optimizers[1][0] for optimizers in seen} == {0.3}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(
            lambda: bilevel(weight_optimizer=AdamW, weight_momentum=0.5),
            "weight_momentum is of the optimiser that weight_optimizer replaces, .* default, 0.9; got 0.5",
            id="momentum",
        ),
        pytest.param(
            lambda: GDAS(PlantedSupernet(), weight_optimizer=AdamW, weight_decay=3e-4),
            "weight_decay is of .* default, 0.0005; got 0.0003",
            id="default-of-a-method",
        ),
        pytest.param(
            lambda: bilevel(arch_optimizer=SGD, arch_lr=0.1), "arch_lr is of the optimiser that arch_opt", id="arch"
        ),
        pytest.param(
            lambda: DrNAS(PlantedSupernet(), arch_optimizer=SGD), "'l2' is a weight decay of Adam, .*'kl'", id="drnas"
        ),
        pytest.param(
            lambda: bilevel(weight_schedule=partial(StepLR, step_size=1), weight_warmup_epochs=1),
            "weight_warmup_epochs=1 comes before the cosine, which weight_schedule replaces",
            id="warm-up",
        ),
        pytest.param(lambda: bilevel(weight_warmup_epochs=-1), "must not be negative; got -1", id="negative"),
        pytest.param(lambda: bilevel(accumulate=0), "accumulate, .* must be at least 1; got 0", id="accumulate"),
        pytest.param(lambda: bilevel(ema_decay=1.0), r"ema_decay must be in \(0, 1\); got 1.0", id="average"),
        pytest.param(
            lambda: bilevel(weight_schedule_every="day"), "must be 'epoch' or 'step'; got 'day'", id="interval"
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("kind", [PCDARTS, GDAS, DSNAS, FairDARTS, ProxylessNAS])
def test_defaults_of_a_method_do_not_contradict_an_optimiser(kind: type[Any]) -> None:
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, image_size=8, partial_channels=2)
    kind(supernet, weight_optimizer=AdamW, arch_optimizer=Adam)
    DrNAS(supernet, arch_optimizer=Adam, regularizer="kl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"weight_optimizer": torch.optim.LBFGS}, "LBFGS computes the loss again", id="closure"),
        pytest.param({"weight_optimizer": lambda p: None}, "weight_optimizer must be a callable that", id="none"),
        pytest.param({"arch_optimizer": "adam"}, "arch_optimizer must be a callable .*got 'adam'", id="text"),
        pytest.param({"weight_schedule": lambda o: o}, "weight_schedule must be a callable that", id="no-schedule"),
        pytest.param(
            {"weight_schedule": torch.optim.lr_scheduler.ReduceLROnPlateau},
            r"must name the metric it follows; .*pytorch_lightning\.cli\.ReduceLROnPlateau",
            id="plateau",
        ),
        pytest.param({"weight_warmup_epochs": 2}, "weight_warmup_epochs=2 of 2 epochs", id="long-warm-up"),
    ],
)
def test_what_cannot_be_used_is_refused_when_the_fit_begins(options: dict[str, Any], message: str) -> None:
    module = bilevel(**options)
    with pytest.raises(ValueError, match=message):
        fit(module, random_streams(module.supernet), epochs=2)


def test_without_decay_of_norms_one_group_has_none() -> None:
    optimizer = partial(SGD, lr=0.1, weight_decay=1.0)
    module = bilevel(weight_optimizer=optimizer, weight_decay_norms=False)
    fit(module, random_streams(module.supernet, batches=1), epochs=1)
    decayed, exempt = module.trainer.optimizers[0].param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (1.0, 0.0)
    assert {w.dim() for w in decayed["params"]} == {2, 4} and {w.dim() for w in exempt["params"]} == {1}


# Schedules.


def two_groups(weights: Any) -> Optimizer:
    weights = list(weights)
    return SGD([{"params": weights[:2], "lr": 0.5}, {"params": weights[2:]}], lr=0.1)


def test_groups_with_rates_of_their_own_keep_their_proportions() -> None:
    seen = rates(bilevel(weight_optimizer=two_groups), batches=1).of_weights()
    factors = [warmup_cosine(epoch, steps=3) for epoch in range(3)]
    assert [pair for pair in seen] == [pytest.approx([0.5 * f, 0.1 * f]) for f in factors]


def test_a_group_that_joins_later_keeps_its_rate_as_well() -> None:
    class Unfreeze(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.optimizers[0].add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 7.0})

    module, callback = bilevel(weight_lr=0.1, weight_lr_min=0.0), Rates()
    fit(module, random_streams(module.supernet, batches=1), epochs=2, callbacks=[Unfreeze(), callback])
    assert callback.of_weights() == [pytest.approx([0.1]), pytest.approx([0.05, 3.5])]


def test_warm_up_rises_batch_by_batch_and_the_cosine_follows() -> None:
    seen = rates(bilevel(weight_lr=0.3, weight_lr_min=0.0, weight_warmup_epochs=1)).of_weights()
    assert [lr for (lr,) in seen] == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.15, 0.15])


def test_a_schedule_that_is_given_is_stepped_by_epoch_or_by_step() -> None:
    by_epoch = rates(bilevel(weight_optimizer=two_groups, weight_schedule=partial(ExponentialLR, gamma=0.5)))
    assert by_epoch.of_weights() == [pytest.approx([0.5 * f, 0.1 * f]) for f in (1, 1, 0.5, 0.5, 0.25, 0.25)]
    by_step = rates(
        bilevel(weight_schedule=partial(ExponentialLR, gamma=0.5), weight_schedule_every="step", weight_lr=1.0)
    )
    assert [lr for (lr,) in by_step.of_weights()] == pytest.approx([0.5**step for step in range(1, 7)])
    once = partial(OneCycleLR, max_lr=0.2, total_steps=4)
    with_groups = rates(bilevel(weight_schedule=once, weight_schedule_every="step", accumulate=2), batches=2)
    assert len({lr for (lr,) in with_groups.of_weights()}) == 4  # three steps of four batches each move it


def test_a_schedule_follows_a_metric_that_it_names() -> None:
    data = SearchDataModule(FakeImages(num_classes=2, input_shape=(1, 8, 8), train_size=16, test_size=8, batch_size=8))
    never_better = partial(ReduceLROnPlateau, monitor="val/accuracy", mode="max", patience=0, threshold=9.0)
    module, callback = bilevel(weight_lr=1.0, weight_schedule=never_better), Rates()
    fit(module, data, epochs=3, callbacks=[callback], limit_val_batches=1.0)
    assert [lr for (lr,) in callback.of_weights()] == pytest.approx([1.0, 1.0, 0.1])
    missing = bilevel(weight_schedule=partial(ReduceLROnPlateau, monitor="val/f1"))
    with pytest.raises(ValueError, match="there is no 'val/f1' in .*train/loss.* Validate in every epoch"):
        fit(missing, data, epochs=1, limit_val_batches=1.0)


# A user's configure_optimizers.


def own(kind: type[Any], returned: Callable[[Any], Any]) -> type[Any]:
    return type("Own", (kind,), {"configure_optimizers": returned})


def pair(search: Any) -> list[Optimizer]:
    return [SGD(search.supernet.parameters(), 0.7), SGD(search.arch_parameters(), 0.2)]


def with_dictionaries(search: Any) -> list[dict[str, Any]]:
    weights, alphas = pair(search)
    every_second = {"scheduler": ExponentialLR(weights, 0.5), "interval": "step", "frequency": 2}
    return [{"optimizer": weights, "lr_scheduler": every_second}, {"optimizer": alphas}]


def with_lists(search: Any) -> Any:
    optimizers = pair(search)
    return optimizers, [ExponentialLR(optimizer, 0.1) for optimizer in optimizers]


def ours_and_a_schedule(search: Any) -> Any:
    optimizers = super(type(search), search).configure_optimizers()
    return optimizers, [ExponentialLR(optimizers[0], 0.1)]


@pytest.mark.parametrize(
    ("returned", "weights", "alphas"),
    [
        pytest.param(pair, [0.7] * 4, [0.2] * 4, id="optimisers"),
        pytest.param(with_dictionaries, [0.7, 0.35, 0.35, 0.175], [0.2] * 4, id="dictionaries"),
        pytest.param(with_lists, [0.7, 0.7, 0.07, 0.07], [0.2, 0.2, 0.02, 0.02], id="lists"),
        pytest.param(ours_and_a_schedule, [0.025, 0.025, 0.0025, 0.0025], [3e-4] * 4, id="ours"),
    ],
)
def test_configure_optimizers_of_a_user_is_honoured(
    returned: Callable[[Any], Any], weights: list[float], alphas: list[float]
) -> None:
    module = own(BilevelSearch, returned)(PlantedSupernet(channels=4), SoftmaxSampler())
    seen = rates(module, epochs=2).seen
    assert [optimizers[0][0] for optimizers in seen] == pytest.approx(weights)
    assert [optimizers[1][0] for optimizers in seen] == pytest.approx(alphas)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        pytest.param(lambda s: pair(s)[0], "an optimiser for each of weights, alphas, .*; got SGD", id="one"),
        pytest.param(lambda s: pair(s)[::-1], "in this order", id="swapped"),
        pytest.param(lambda s: [SGD(s.parameters(), 0.1), pair(s)[1]], "and no others'", id="all-in-the-first"),
    ],
)
def test_optimisers_of_something_else_are_refused(returned: Callable[[Any], Any], message: str) -> None:
    module = own(BilevelSearch, returned)(PlantedSupernet(channels=4), SoftmaxSampler())
    with pytest.raises(ValueError, match=f"configure_optimizers of Own must return .*{message}"):
        fit(module, random_streams(module.supernet), epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"weight_optimizer": AdamW}, "already; got weight_optimizer besides", id="optimiser"),
        pytest.param({"weight_warmup_epochs": 1}, "before the cosine, which configure_optimizers of Own", id="warm-up"),
    ],
)
def test_options_that_a_users_optimiser_would_ignore_are_refused(options: dict[str, Any], message: str) -> None:
    module = own(BilevelSearch, pair)(PlantedSupernet(channels=4), SoftmaxSampler(), **options)
    with pytest.raises(ValueError, match=message):
        fit(module, random_streams(module.supernet), epochs=3)
    twice = own(BilevelSearch, ours_and_a_schedule)(
        PlantedSupernet(channels=4), SoftmaxSampler(), weight_schedule=partial(StepLR, step_size=1)
    )
    with pytest.raises(ValueError, match="has a schedule of the weights already; got weight_schedule besides"):
        fit(twice, random_streams(twice.supernet), epochs=1)


def test_what_proxylessnas_does_after_a_step_happens_with_a_users_optimiser_too() -> None:
    module = own(ProxylessNAS, pair)(PlantedSupernet(channels=4), arch_warmup_epochs=0, arch_every=1)
    masses = []

    class Look(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            for drawn, before in module._pairs.values():
                now = module.alphas["edge"].detach().gather(1, drawn)
                masses.append((float(now.logsumexp(-1)), float(before.logsumexp(-1))))

    fit(module, random_streams(module.supernet), epochs=1, callbacks=[Look()])
    assert len(masses) == 3 and all(now == pytest.approx(before, abs=1e-6) for now, before in masses)


def test_a_fit_is_not_resumed_with_another_optimiser(tmp_path: Path) -> None:
    module = bilevel()
    fit(module, random_streams(module.supernet), epochs=2, enable_checkpointing=True, callbacks=[Save(tmp_path, 3)])
    other = bilevel(weight_optimizer=partial(AdamW, lr=0.1))
    with pytest.raises(ValueError, match="with the optimisers it began with, SGD, Adam; got AdamW, Adam"):
        fit(other, random_streams(module.supernet), epochs=2, ckpt_path=tmp_path / "3.ckpt")


class Save(pl.callbacks.Checkpoint):
    """Saves once, after a number of batches."""

    def __init__(self, folder: Path, after: int) -> None:
        self.folder, self.after, self.batches = folder, after, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.batches += 1
        if self.batches == self.after and not trainer.is_last_batch:
            trainer.save_checkpoint(self.folder / f"{self.after}.ckpt")

    def on_train_epoch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self.batches == self.after:
            trainer.save_checkpoint(self.folder / f"{self.after}.ckpt")


# Frozen parameters.

METHODS: dict[str, Callable[[Any], SearchModule]] = {
    "darts": lambda s: DARTS(s, order=2),
    "dartspt": lambda s: DARTSPT(s, train_epochs=1, tune_epochs=0, batches=1),
    "drnas": DrNAS,
    "betadarts": BetaDARTS,
    "oles": OLES,
    "dartsminus": DARTSMinus,
    "dsnas": DSNAS,
    "fairdarts": FairDARTS,
    "gdas": GDAS,
    "proxyless": lambda s: ProxylessNAS(s, arch_warmup_epochs=0, arch_every=1),
    "reinforce": lambda s: ProxylessNAS(
        s, gradient="reinforce", reward=Reward(samples=2), arch_warmup_epochs=0, arch_every=1
    ),
    "robustdarts": lambda s: RobustDARTS(s, every=1),
    "smoothdarts": lambda s: SmoothDARTS(s, steps=1),
    "snas": lambda s: SNAS(s, drop_path=0.0),
    "enas": lambda s: ENAS(s, updates=1, batch=2, candidates=2, finalists=1),
    "random": lambda s: RandomSharing(s, candidates=2, finalists=1),
    "fairnas": lambda s: FairNAS(s, candidates=2, finalists=1),
    "bignas": lambda s: BigNAS(s, candidates=2, finalists=1),
}


@pytest.mark.parametrize("name", METHODS)
def test_frozen_parameters_stay_as_they_are(name: str) -> None:
    torch.manual_seed(0)
    supernet = TwoChoices(channels=4)
    supernet.stem.requires_grad_(False)
    module = METHODS[name](supernet)
    frozen: list[Tensor] = list(supernet.stem.parameters())
    if hasattr(module, "alphas"):
        frozen.append(module.alphas["edge"].requires_grad_(False))
    before, others = [w.detach().clone() for w in frozen], copy.deepcopy(module.state_dict())
    fit(module, random_streams(supernet, batches=2), epochs=1)
    assert all(torch.equal(w, then) for w, then in zip(frozen, before, strict=True))
    held = {w for o in module.trainer.optimizers for group in o.param_groups for w in group["params"]}
    assert not held & set(frozen) and held == {w for w in module.parameters() if w.requires_grad}
    after = module.state_dict()
    assert not torch.equal(after["supernet.head.3.weight"], others["supernet.head.3.weight"])
    if hasattr(module, "alphas"):
        assert not torch.equal(after["alphas.second"], others["alphas.second"])


class TwoChoices(PlantedSupernet):
    """A planted supernet whose edges are those of two choices, one edge each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(edges=2, **options)
        (choice,) = self.space.choices
        first = type(choice)("edge", choice.candidates, rows=1)
        second = type(choice)("second", choice.candidates, rows=1)
        self.space = type(self.space)("two", (first, second))

    def forward(self, x: Tensor, arch: Any) -> Tensor:
        x = self.stem(x)
        one, other = self.edges
        logits: Tensor = self.head(one(x, arch["edge"][0]) + other(x, arch["second"][0]))
        return logits

    def mixed_ops(self) -> Any:
        return {"edge": [[self.edges[0]]], "second": [[self.edges[1]]]}

    def extract(self, config: Any, *, inherit: bool = True) -> Any:
        planted = PlantedSupernet(edges=2, channels=4)
        network = planted.extract(
            type(config)("planted", {"edge": [*config["edge"], *config["second"]]}), inherit=False
        )
        network.config = config
        return network


def test_a_search_without_anything_to_train_is_refused() -> None:
    module = bilevel()
    module.supernet.requires_grad_(False)
    with pytest.raises(ValueError, match="There must be weights to train; all parameters of PlantedSupernet are"):
        fit(module, random_streams(module.supernet), epochs=1)
    module = bilevel()
    module.alphas.requires_grad_(False)
    with pytest.raises(ValueError, match="There must be alphas to train; all of BilevelSearch are frozen"):
        fit(module, random_streams(module.supernet), epochs=1)


# Accumulated gradients.


class Plain(PlantedSupernet):
    """Without batch normalisation, so that several batches can equal a large one."""

    def __init__(self) -> None:
        super().__init__(("skip_connect", "nor_conv_3x3"), channels=4)
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.Identity())


def streams_of(sizes: list[int], arch: int = 6) -> dict[str, Any]:
    """Batches of these sizes for the weights; those of the alphas are all the same."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(sizes), 1, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (len(x),), generator=generator)
    parts = list(zip(torch.split(x, sizes), torch.split(y, sizes), strict=True))
    same = (x[:arch], y[:arch])
    return {
        "weights": DataLoader(parts, batch_size=None),  # type: ignore[arg-type]  # a list is a data set
        "arch": DataLoader([same] * len(parts), batch_size=None),  # type: ignore[arg-type]
    }


def accumulated(kind: Any, sizes: list[int], **options: Any) -> tuple[SearchModule, pl.Trainer]:
    torch.manual_seed(0)
    supernet = Plain()
    arguments = (supernet, SoftmaxSampler()) if issubclass(kind, BilevelSearch | SingleLevelSearch) else (supernet,)
    module = kind(*arguments, grad_clip=0.5, **options).double()
    return module, fit(module, streams_of(sizes), epochs=2)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(BilevelSearch, {"arch_warmup_epochs": 9}, id="bilevel"),
        pytest.param(SingleLevelSearch, {"arch_lr": 0.1}, id="single-level"),
        pytest.param(RandomSharing, {"candidates": 2, "finalists": 1}, id="paths"),
    ],
)
def test_accumulated_batches_equal_a_large_one(
    kind: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several sizes, and with an incomplete group at the end of an epoch."""
    if kind is RandomSharing:
        monkeypatch.setattr(RandomSharing, "paths", lambda self, step: [self.supernet.space.sample(0)])
    small, _ = accumulated(kind, [4, 4, 4, 4, 2], accumulate=2, **options)
    large, _ = accumulated(kind, [8, 8, 2], **options)
    torch.testing.assert_close(small.state_dict(), large.state_dict(), rtol=1e-10, atol=1e-12)
    uneven, _ = accumulated(kind, [6, 2, 3, 5, 2], accumulate=2, **options)
    torch.testing.assert_close(uneven.state_dict(), large.state_dict(), rtol=1e-10, atol=1e-12)
    alone, _ = accumulated(kind, [4, 4, 4, 4, 2], **options)
    name = "supernet.head.3.weight"
    assert not torch.allclose(alone.state_dict()[name], large.state_dict()[name], rtol=1e-3, atol=1e-6)


def test_the_alphas_of_a_bilevel_search_move_at_every_batch_or_as_arch_every_says() -> None:
    for options, expected in (({}, ["Adam", "Adam", "SGD"] * 2), ({"arch_every": 2}, ["Adam", "SGD"] * 2)):
        steps: list[str] = []

        class Watch(pl.Callback):
            def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
                steps.append(type(optimizer).__name__)  # noqa: B023  # read before the next turn

        module = bilevel(accumulate=2, **options)
        fit(module, random_streams(module.supernet, batches=4), epochs=1, callbacks=[Watch()])
        assert steps == expected


@pytest.mark.parametrize("kind", [BilevelSearch, SingleLevelSearch, RandomSharing])
@pytest.mark.parametrize("after", [2, 4, 5])
def test_a_search_resumes_within_a_group_bit_for_bit(tmp_path: Path, kind: Any, after: int) -> None:
    """After 2 of 5 batches the first group of 3 is open; after 4 the second one is; after 5 an epoch is over."""

    def run(seed: int, **options: Any) -> tuple[SearchModule, pl.Trainer]:
        torch.manual_seed(seed)
        few = {"candidates": 2, "finalists": 1} if kind is RandomSharing else {}
        sampler = () if kind is RandomSharing else (SoftmaxSampler(),)
        schedule = partial(ExponentialLR, gamma=0.9)
        settings = {"accumulate": 3, "ema_decay": 0.9, "weight_schedule": schedule, "weight_schedule_every": "step"}
        module = kind(PlantedSupernet(channels=4), *sampler, **settings, **few)
        data = FakeImages(num_classes=2, input_shape=(1, 8, 8), train_size=80, test_size=8, batch_size=8)
        streams = data if kind is SingleLevelSearch else SearchDataModule(data)
        return module, fit(module, streams, epochs=2, limit_val_batches=float(kind is not SingleLevelSearch), **options)

    whole, trainer = run(0, enable_checkpointing=True, callbacks=[Save(tmp_path, after)])
    resumed, again = run(1, ckpt_path=tmp_path / f"{after}.ckpt")
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0.0, atol=0.0)
    for ours, theirs in zip(trainer.optimizers, again.optimizers, strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0.0, atol=0.0)
    assert [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs] == [
        c.scheduler.state_dict() for c in again.lr_scheduler_configs
    ]


def test_a_fit_that_is_stopped_within_an_epoch_takes_its_last_step() -> None:
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            trainer.should_stop = True

    module = bilevel(accumulate=3)
    before = copy.deepcopy(module.supernet.state_dict())
    fit(module, random_streams(module.supernet, batches=5), epochs=1, callbacks=[Stop()], min_epochs=0)
    assert module.steps == 1
    assert not torch.equal(module.supernet.state_dict()["head.3.weight"], before["head.3.weight"])


# The moving average.


def test_the_average_is_that_of_the_steps_and_is_what_is_validated() -> None:
    decay, seen = 0.6, []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            seen.append(pl_module.supernet.head[3].weight.detach().clone())

    module = bilevel(ema_decay=decay, weight_lr=0.5)
    data = SearchDataModule(FakeImages(num_classes=2, input_shape=(1, 8, 8), train_size=48, test_size=8, batch_size=8))
    assert module.evaluation_supernet is module.supernet  # until there is an average
    trainer = fit(module, data, epochs=1, callbacks=[Keep()], limit_val_batches=1.0)
    average = seen[0]
    for t, weight in enumerate(seen[1:], start=1):
        share = min(decay, 1 - (1 + t) ** (-2 / 3))
        average = share * average + (1 - share) * weight
    evaluated: Any = module.evaluation_supernet
    torch.testing.assert_close(evaluated.head[3].weight, average, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(seen[-1], average, rtol=1e-3)
    assert not any("alpha" in name for name in evaluated.state_dict())
    x, y = (torch.cat(part) for part in zip(*data.val_dataloader(), strict=True))
    module.eval()
    with torch.no_grad():
        loss = F.cross_entropy(evaluated(x, module.probabilities()), y)
    torch.testing.assert_close(trainer.callback_metrics["val/loss"], loss, rtol=1e-4, atol=1e-6)


def test_paths_are_compared_and_networks_extracted_with_averaged_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[Any] = []

    def spy(supernet: Any, configs: Any, *args: Any, **kwargs: Any) -> list[float]:
        evaluated.append(supernet)
        return [0.5] * len(configs)

    monkeypatch.setattr("oneshot.engine.sharing.evaluate_configs", spy)
    module = RandomSharing(PlantedSupernet(channels=4), ema_decay=0.9, candidates=2, finalists=1)
    fit(module, random_streams(module.supernet), epochs=1)
    assert evaluated and all(supernet is module.evaluation_supernet for supernet in evaluated)
    network: Any = module.evaluation_supernet.extract(module.derive())
    assert torch.equal(network.head[3].weight, module.ema.module.head[3].weight)  # type: ignore[union-attr]
    assert not torch.equal(network.head[3].weight, module.supernet.head[3].weight)


def test_weights_of_16_bits_are_not_averaged() -> None:
    module = bilevel(ema_decay=0.9)
    with pytest.raises(ValueError, match="must have more digits than 16 bits, .*precision=bf16-true"):
        fit(module, random_streams(module.supernet), epochs=1, precision="bf16-true")


def test_the_options_work_in_16_bits_as_well() -> None:
    for kind in (BilevelSearch, SingleLevelSearch):
        module = kind(
            PlantedSupernet(channels=4), SoftmaxSampler(), weight_optimizer=partial(AdamW, lr=0.01), accumulate=2
        )
        fit(module, random_streams(module.supernet), epochs=2, precision="bf16-mixed")
        assert module.steps == 4


def test_every_search_has_the_options() -> None:
    assert issubclass(BigNAS, WeightTraining) and issubclass(SNAS, WeightTraining)
    dataset = TensorDataset(torch.randn(8, 1, 8, 8), torch.arange(8) % 2)
    module = SNAS(PlantedSupernet(channels=4), drop_path=0.0, weight_optimizer=partial(AdamW, lr=1e-3), accumulate=2)
    fit(module, DataLoader(dataset, batch_size=2), epochs=1)
    assert isinstance(module.trainer.optimizers[0], AdamW) and module.steps == 2
