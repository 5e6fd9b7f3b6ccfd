"""Retraining: every formula against float64, what reaches the network, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from oneshot.data import Digits, FakeImages, SearchDataModule
from oneshot.errors import NonFiniteLossError
from oneshot.supernets.base import Subnet
from oneshot.supernets.darts import DARTSNetwork
from oneshot.supernets.genotype import Genotype
from oneshot.supernets.nasbench201 import NASBench201Network
from oneshot.supernets.space import ArchGraph
from oneshot.training.finite_loss import FiniteLossGuard, check_data
from oneshot.training.retrain import Retrain
from tests.reference.formulas import (
    cosine_lr,
    expected_calibration_error,
    linear_drop_path,
    scheduled_drop_path,
    smoothed_cross_entropy,
    softmax,
)

ARCH = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
CELL = "[('sep_conv_3x3', 0), ('skip_connect', 1)]"
GENOTYPE = Genotype.parse(f"Genotype(normal={CELL}, normal_concat=[2], reduce={CELL}, reduce_concat=[2])")


class Logits(Subnet):
    """Its images are its logits, times a scale; remembers what it saw and which drop-path it was given."""

    def __init__(self, classes: int = 10, side: int = 1, auxiliary: bool = False) -> None:
        super().__init__()
        self.num_classes, self.input_shape, self.init_args = classes, (classes, side, side), {}
        self.scale = nn.Parameter(torch.ones(()))
        self.auxiliary_scale = nn.Parameter(torch.tensor(-2.0)) if auxiliary else None
        self.drop_paths: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach().clone()
        return self.scale * x.mean(dim=(2, 3))

    def forward_with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        auxiliary = None if self.auxiliary_scale is None else self.auxiliary_scale * x.mean(dim=(2, 3))
        return self(x), auxiliary

    def set_drop_path(self, probability: float) -> None:
        self.drop_paths.append(probability)

    def graphs(self) -> list[ArchGraph]:
        return []


class Each(Callback):
    """Calls a function after every training batch."""

    def __init__(self, function: Callable[[pl.Trainer, Any], object]) -> None:
        self.function = function

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.function(trainer, module)


class Poison(Callback):
    """Turns one pixel of one batch into NaN."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            batch[0][0, 0, 0, 0] = torch.nan


def trainer(epochs: int = 1, callbacks: list[Callback] | None = None, **options: Any) -> pl.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks or []),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    return pl.Trainer(max_epochs=epochs, callbacks=callbacks, **{**settings, **options})


class Noise(pl.LightningDataModule):
    """The same random batches for everything; declares nothing about them."""

    def __init__(self, size: int = 8, classes: int = 10, side: int = 1, batches: int = 1, scale: float = 3.0) -> None:
        super().__init__()
        self.batches = [
            (scale * torch.randn(size, classes, side, side), torch.randint(classes, (size,))) for _ in range(batches)
        ]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)

    val_dataloader = test_dataloader = train_dataloader


def images(**options: Any) -> FakeImages:
    return FakeImages(**{"input_shape": (1, 8, 8), "batch_size": 8, "train_size": 32, "test_size": 16, **options})


def nasbench(**options: Any) -> NASBench201Network:
    return NASBench201Network(
        ARCH, **{"channels": 4, "cells_per_stage": 1, "in_channels": 1, "image_size": 8, **options}
    )


def darts() -> DARTSNetwork:
    return DARTSNetwork(GENOTYPE, channels=4, cells=3, in_channels=1, image_size=8, auxiliary=True)


def train_loss(module: Retrain, data: Noise) -> float:
    """The loss that a first training step minimises."""
    fit = trainer()
    fit.fit(module, datamodule=data)
    return float(fit.callback_metrics["train/loss"])


# It learns.


def test_a_small_network_learns_the_digits_and_reports_every_metric() -> None:
    data = Digits(val_fraction=0.1)
    module = Retrain(nasbench(channels=8), drop_path=0, lr=0.1, ema_decay=0.9)
    fit = trainer(3, limit_val_batches=1.0)

    fit.fit(module, datamodule=data)
    names = set(fit.callback_metrics)
    (result,) = fit.test(module, datamodule=data, verbose=False)

    assert names == {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/top5", "val/ece"}
    assert set(result) == {"test/loss", "test/accuracy", "test/top5", "test/ece"}
    assert result["test/accuracy"] > 0.7  # chance is 0.1
    assert module.confusion().diag().sum() / module.confusion().sum() == pytest.approx(result["test/accuracy"])


def test_a_network_in_evaluation_mode_is_trained_in_training_mode() -> None:
    module = Retrain(nasbench().eval(), drop_path=0)

    trainer().fit(module, datamodule=images())

    assert module.network.training
    assert module.network.stem[1].num_batches_tracked == 4


# Formulas.


def test_label_smoothing_equals_its_formula() -> None:
    data = Noise()
    ((x, y),) = data.batches

    loss = train_loss(Retrain(Logits(), label_smoothing=0.1), data)

    logits, labels = x.mean(dim=(2, 3)).double().numpy(), y.numpy()
    assert loss == pytest.approx(smoothed_cross_entropy(logits, labels, smoothing=0.1), rel=1e-5)
    assert loss != pytest.approx(smoothed_cross_entropy(logits, labels, smoothing=0.0), rel=1e-2)


def test_the_auxiliary_loss_is_added_with_its_weight() -> None:
    data = Noise()
    ((x, y),) = data.batches

    loss = train_loss(Retrain(Logits(auxiliary=True), auxiliary_weight=0.3, label_smoothing=0.1), data)

    logits, labels = x.mean(dim=(2, 3)).double().numpy(), y.numpy()
    main = smoothed_cross_entropy(logits, labels, smoothing=0.1)
    auxiliary = smoothed_cross_entropy(-2 * logits, labels, smoothing=0.1)
    assert loss == pytest.approx(main + 0.3 * auxiliary, rel=1e-5)
    assert loss != pytest.approx(main + auxiliary, rel=1e-2)
    assert loss != pytest.approx(0.7 * main + 0.3 * auxiliary, rel=1e-2)


def test_the_auxiliary_head_of_a_network_learns() -> None:
    module = Retrain(darts())
    before = [p.detach().clone() for p in module.network.auxiliary_head.parameters()]

    trainer().fit(module, datamodule=images())

    after = module.network.auxiliary_head.parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_drop_path_rises_from_epoch_to_epoch() -> None:
    network = Logits()
    module = Retrain(network, drop_path=0.3)
    network.drop_paths.clear()

    trainer(4).fit(module, datamodule=Noise())

    assert network.drop_paths.pop(0) == 0  # before the first epoch
    assert network.drop_paths == pytest.approx([linear_drop_path(e, final=0.3, epochs=4) for e in range(4)])
    assert network.drop_paths != pytest.approx([0.3 * e / 3 for e in range(4)])


def test_drop_path_rises_from_step_to_step_and_follows_the_steps_of_this_training() -> None:
    network = Logits()
    module = Retrain(network, drop_path=0.3, drop_path_every="step")
    network.drop_paths.clear()

    trainer(2).fit(module, datamodule=Noise(batches=3))

    expected = [scheduled_drop_path(s, final=0.3, steps=6, cell=0, cells=1) for s in range(6)]
    assert list(dict.fromkeys(network.drop_paths)) == pytest.approx(expected)  # each is set before its step
    assert network.drop_paths[-1] == pytest.approx(0.25)
    assert expected != pytest.approx([linear_drop_path(s // 3, final=0.3, epochs=2) for s in range(6)])


def test_the_learning_rate_is_the_papers_at_the_start_of_every_epoch() -> None:
    rates: list[float] = []
    record = Each(lambda fit, module: rates.append(fit.optimizers[0].param_groups[0]["lr"]))

    trainer(4, [record]).fit(Retrain(Logits(), lr=0.1, lr_min=0.02), datamodule=Noise(batches=3))

    # recorded after the batch: rates[s] is the rate of step s + 1
    assert rates[2::3] == pytest.approx([cosine_lr(e, lr=0.1, lr_min=0.02, epochs=4) for e in (1, 2, 3, 4)], rel=1e-9)
    assert len(set(rates)) == 12  # and another one at every step


def test_warm_up_is_a_straight_line_to_the_full_rate() -> None:
    rates: list[float] = []
    record = Each(lambda fit, module: rates.append(fit.optimizers[0].param_groups[0]["lr"]))

    trainer(3, [record]).fit(Retrain(Logits(), lr=0.5, warmup_epochs=1), datamodule=Noise(batches=4))

    assert rates[:4] == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert rates[3:] == pytest.approx([cosine_lr(s, lr=0.5, lr_min=0.0, epochs=8) for s in range(9)], abs=1e-12)


def test_accumulation_takes_part_in_the_schedule() -> None:
    fit = trainer(2, accumulate_grad_batches=2)

    fit.fit(Retrain(Logits(), lr=0.5, ema_decay=0.5), datamodule=Noise(batches=4))

    assert fit.global_step == 4
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


def test_the_average_of_the_weights_follows_its_formula() -> None:
    weights: list[float] = []
    averages: list[float] = []

    def record(fit: pl.Trainer, module: Retrain) -> None:
        weights.append(module.network.scale.item())
        averages.append(module.ema.module.scale.item())

    trainer(1, [Each(record)]).fit(Retrain(Logits(), ema_decay=0.8, lr=0.1), datamodule=Noise(batches=20))

    expected: list[float] = []
    plain = [weights[0]]
    for t, weight in enumerate(weights):
        decay = min(0.8, 1 - (1 + t) ** (-2 / 3))
        expected.append(decay * (expected[-1] if expected else 0.0) + (1 - decay) * weight)
        plain.append(0.8 * plain[-1] + 0.2 * weight)
    assert averages == pytest.approx(expected, rel=1e-5)
    assert averages != pytest.approx(plain[1:], rel=1e-3)


def test_the_average_is_what_is_validated_and_exported() -> None:
    data = images(val_fraction=0.25)
    module = Retrain(nasbench(), drop_path=0, ema_decay=0.9, lr=0.5)
    fit = trainer(4, limit_val_batches=1.0)

    fit.fit(module, datamodule=data)
    network = module.network_for_export()

    with torch.no_grad():
        x, y = next(iter(data.eval_loader(data.val_images, batch_size=99)))
        average = nn.functional.cross_entropy(network(x), y)
        current = nn.functional.cross_entropy(module.network.eval()(x), y)
    assert float(fit.callback_metrics["val/loss"]) == pytest.approx(float(average), rel=1e-5)
    assert float(average) != pytest.approx(float(current), rel=1e-3)


def test_the_exported_network_is_a_plain_copy_in_evaluation_mode() -> None:
    module = Retrain(darts(), ema_decay=0.9, drop_path=0.2)
    trainer(2).fit(module, datamodule=images())

    network = module.network_for_export()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()

    assert not network.training
    assert module.network.training
    assert module.network.cells[0].drop_path == 0.1
    assert network.cells[0].drop_path == 0.0
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert type(network)(**network.init_args).state_dict().keys() == network.state_dict().keys()
    assert module(torch.ones(2, 1, 8, 8)).any()


def test_without_an_average_the_network_itself_is_exported() -> None:
    module = Retrain(Logits())
    module.network.scale.data.fill_(3.0)

    assert module.network_for_export().scale == 3.0


@pytest.mark.parametrize(
    "mixing", [pytest.param({"mixup": 50.0}, id="mixup"), pytest.param({"cutmix": 50.0}, id="cutmix")]
)
def test_mixed_images_get_mixed_labels(mixing: dict[str, float]) -> None:
    data = Noise(side=8, scale=30.0)
    ((x, y),) = data.batches
    original, network = x.clone(), Logits(side=8)

    loss = train_loss(Retrain(network, label_smoothing=0.1, **mixing), data)

    # which share of each image it is can be read off the pixels
    weight = ((network.seen - x.flip(0)) / (x - x.flip(0))).double()
    share = float(weight.median() if "mixup" in mixing else weight.mean())
    assert 0.1 < share < 0.9
    if "mixup" in mixing:
        torch.testing.assert_close(network.seen, share * x + (1 - share) * x.flip(0), rtol=1e-4, atol=1e-3)
    else:
        assert set(weight.unique().tolist()) == {0.0, 1.0}
    logits, labels = network.seen.mean(dim=(2, 3)).double().numpy(), y.numpy()
    mixed = share * smoothed_cross_entropy(logits, labels, smoothing=0.1) + (1 - share) * smoothed_cross_entropy(
        logits, labels[::-1].copy(), smoothing=0.1
    )
    assert loss == pytest.approx(mixed, rel=1e-4)
    assert loss != pytest.approx(smoothed_cross_entropy(logits, labels, smoothing=0.1), rel=2e-3)
    torch.testing.assert_close(x, original, rtol=0, atol=0)  # the caller's images are not touched


def test_gradients_are_clipped_to_the_norm() -> None:
    steps = {}
    for clip in (0.01, 1e6):
        torch.manual_seed(1)
        module = Retrain(nasbench(), drop_path=0, lr=1.0, weight_decay=0.0, grad_clip=clip)
        before = [parameter.detach().clone() for parameter in module.network.parameters()]
        trainer(limit_train_batches=1).fit(module, datamodule=images())
        moved = [new.detach() - old for new, old in zip(module.network.parameters(), before, strict=True)]
        steps[clip] = math.sqrt(sum(float(part.square().sum()) for part in moved))

    assert steps[0.01] == pytest.approx(0.01, rel=1e-3)
    assert steps[1e6] > 0.1


def test_adamw_moves_every_weight_by_the_learning_rate_at_first() -> None:
    module = Retrain(Logits(), optimizer="adamw", lr=0.01, weight_decay=0.0)

    trainer().fit(module, datamodule=Noise())

    assert module.network.scale.sub(1.0).abs().item() == pytest.approx(0.01, rel=1e-3)


# Metrics.


def test_test_metrics_equal_their_formulas() -> None:
    data = Noise(50, batches=4, scale=20.0)  # confident enough for probabilities of exactly 1 in float32
    for x, y in data.batches:  # right where it is unsure, so that gaps of both signs meet in the last bin
        unsure = x.flatten(1).softmax(dim=1).amax(dim=1) < 1
        y[unsure] = x.flatten(1).argmax(dim=1)[unsure]
    fit, module = trainer(), Retrain(Logits(), label_smoothing=0.1)
    with pytest.raises(RuntimeError, match=r"there was none. Call trainer\.test first"):
        module.confusion()

    for _ in range(2):  # the second test does not add to the first
        (result,) = fit.test(module, datamodule=data, verbose=False)

    logits = torch.cat([x for x, _ in data.batches]).flatten(1).double().numpy()
    labels = torch.cat([y for _, y in data.batches]).numpy()
    probabilities = softmax(logits)
    assert (torch.tensor(logits).float().softmax(dim=1) == 1).any()
    top5 = np.argsort(-logits, axis=1)[:, :5]
    counts = np.zeros((10, 10), dtype=np.int64)
    np.add.at(counts, (labels, logits.argmax(axis=1)), 1)
    assert result["test/loss"] == pytest.approx(smoothed_cross_entropy(logits, labels, smoothing=0.0), rel=1e-5)
    assert result["test/accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert result["test/top5"] == pytest.approx((top5 == labels[:, None]).any(axis=1).mean())
    assert result["test/ece"] == pytest.approx(expected_calibration_error(probabilities, labels), abs=1e-6)
    assert result["test/ece"] != pytest.approx(expected_calibration_error(probabilities, labels, bins=2), abs=1e-2)
    assert module.confusion().tolist() == counts.tolist()


def test_five_classes_have_no_top_five() -> None:
    (result,) = trainer().test(Retrain(Logits(classes=5)), datamodule=Noise(classes=5), verbose=False)

    assert set(result) == {"test/loss", "test/accuracy", "test/ece"}


# Resuming.


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"drop_path": 0.3}, id="drop-path"),
        pytest.param({"drop_path": 0.3, "drop_path_every": "step"}, id="drop-path-every-step"),
        pytest.param({"ema_decay": 0.9, "mixup": 0.5, "cutmix": 0.5, "warmup_epochs": 1}, id="average-and-mixing"),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, options: dict[str, Any]) -> None:
    def checkpoints(keep: int) -> list[Callback]:
        return [ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=keep)]

    whole, resumed = Retrain(darts(), **options), Retrain(darts(), **options)

    trainer(4, checkpoints(-1)).fit(whole, datamodule=images())
    torch.manual_seed(7)
    np.random.seed(7)
    trainer(4, checkpoints(0)).fit(resumed, datamodule=images(), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)

    theirs = resumed.state_dict()
    assert any("ema" in name for name in theirs) == ("ema_decay" in options)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=0, msg=name)


# What is not finite.


def test_a_loss_that_is_not_finite_stops_before_anything_broken_is_saved(tmp_path: Path) -> None:
    checkpoints = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    module = Retrain(nasbench(), drop_path=0)

    with pytest.raises(NonFiniteLossError, match=r"at step 5 \(epoch 1\).*checkpoint: .*step=5\.ckpt\. Lower"):
        trainer(3, [checkpoints, Poison(5)]).fit(module, datamodule=images())

    saved = sorted(tmp_path.glob("*.ckpt"))
    assert len(saved) == 5
    for path in saved:
        assert all(value.isfinite().all() for value in torch.load(path, weights_only=True)["state_dict"].values())


def test_it_is_looked_at_every_few_steps_only() -> None:
    steps: list[int] = []
    count = Each(lambda fit, module: steps.append(fit.global_step))

    with pytest.raises(NonFiniteLossError, match=r"at step 1 \(epoch 0\).*none was written yet"):
        trainer(1, [count, Poison(1)], log_every_n_steps=3).fit(Retrain(nasbench(), drop_path=0), datamodule=images())

    assert steps == [1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "step"),
    [
        pytest.param({}, 8, id="end-of-epoch"),
        pytest.param({"limit_val_batches": 1.0, "val_check_interval": 4}, 4, id="validation"),
    ],
)
def test_before_validation_and_at_the_end_of_an_epoch_it_is_looked_at(settings: dict[str, Any], step: int) -> None:
    fit = trainer(2, [Poison(2)], log_every_n_steps=100, **settings)

    with pytest.raises(NonFiniteLossError, match=r"at step 2 \(epoch 0\)"):
        fit.fit(Retrain(nasbench(), drop_path=0), datamodule=images(train_size=80, val_fraction=0.2))

    assert fit.global_step == step


def test_a_gradient_that_is_not_finite_counts_like_the_loss() -> None:
    class Cliff(Logits):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + (self.scale - self.scale.detach()).sqrt()  # 0, with an infinite derivative

    with pytest.raises(NonFiniteLossError, match="at step 0"):
        trainer().fit(Retrain(Cliff()), datamodule=Noise())


def test_after_a_bad_training_the_next_one_starts_afresh() -> None:
    module = Retrain(nasbench(), drop_path=0)
    good = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(NonFiniteLossError):
        trainer(1, [Poison(0)]).fit(module, datamodule=images())

    module.load_state_dict(good)
    trainer(limit_val_batches=1.0).validate(module, datamodule=images(val_fraction=0.25), verbose=False)
    trainer().fit(module, datamodule=images())

    assert all(parameter.isfinite().all() for parameter in module.network.parameters())


def test_watching_does_not_wait_for_the_device() -> None:
    guard = FiniteLossGuard()
    fit = trainer()
    guard.trainer = fit
    guard.to("meta")

    guard.watch(torch.empty((), device="meta"))  # a meta tensor has no value to look at

    with pytest.raises(RuntimeError):
        guard.check_finite()


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"optimizer": "lion"}, "optimizer must be 'sgd' or 'adamw'; got 'lion'", id="optimizer"),
        pytest.param({"lr": 0.0}, r"lr must be above 0, .* got lr=0\.0", id="lr"),
        pytest.param({"lr": 0.1, "lr_min": 0.2}, r"got lr=0\.1, lr_min=0\.2", id="lr-min"),
        pytest.param({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\); got 1\.0", id="smoothing"),
        pytest.param({"drop_path": -0.1}, r"drop_path must be in \[0, 1\); got -0\.1", id="drop-path"),
        pytest.param(
            {"drop_path_every": "batch"}, "drop_path_every must be 'epoch' or 'step'; got 'batch'", id="every"
        ),
        pytest.param({"grad_clip": 0.0}, r"grad_clip must be positive; got 0\.0", id="grad-clip"),
        pytest.param({"ema_decay": 1.0}, r"ema_decay must be in \(0, 1\); got 1\.0. None is off", id="ema"),
        pytest.param({"mixup": -1.0}, r"must not be negative; got -1\.0 and 0\.0", id="mixup"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retrain(Logits(), **options)


def test_a_network_without_droppable_paths_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"NASBench201Network has no droppable paths; drop_path must be 0, got 0\.2"):
        Retrain(nasbench(), drop_path=0.2)


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        pytest.param(
            {"gradient_clip_val": 1.0}, {}, r"gradient_clip_val=1\.0\. Remove that and pass grad_clip", id="clip"
        ),
        pytest.param({"epochs": -1, "max_steps": 5}, {}, "must be at least 1; got max_epochs=-1", id="max-epochs"),
        pytest.param({"epochs": 2}, {"warmup_epochs": 2}, "warmup_epochs=2, max_epochs=2. Train longer", id="warm-up"),
    ],
)
def test_trainer_settings_that_do_not_fit_are_refused(
    settings: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(**settings).fit(Retrain(Logits(), **options), datamodule=Noise())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            {"num_classes": 3}, "num_classes of FakeImages is 3, NASBench201Network was built for 10", id="classes"
        ),
        pytest.param(
            {"input_shape": (3, 8, 8)}, r"input_shape of FakeImages is \(3, 8, 8\), .* \(1, 8, 8\)", id="shape"
        ),
    ],
)
def test_data_of_another_shape_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer().fit(Retrain(nasbench(), drop_path=0), datamodule=images(**data))


def test_data_that_declare_nothing_are_not_compared() -> None:
    check_data(None, nasbench())
    check_data(object(), nasbench())


def test_the_batches_of_a_search_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batches \(x, y\); got dict. Pass the data itself, not the SearchDataModule"):
        trainer().fit(Retrain(nasbench(), drop_path=0), datamodule=SearchDataModule(images()))


def test_an_odd_batch_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="even number; got 7. Choose an even batch_size"):
        trainer().fit(Retrain(Logits(), mixup=0.2), datamodule=Noise(size=7))


def test_without_mixing_an_odd_batch_is_fine() -> None:
    assert math.isfinite(train_loss(Retrain(Logits()), Noise(size=7)))


def test_loading_a_network_also_starts_its_moving_average_there() -> None:
    source, module = nasbench(), Retrain(nasbench(), ema_decay=0.9)
    module.load_network(source)
    x = torch.randn(4, *source.input_shape)
    torch.testing.assert_close(module.eval()(x), source.eval()(x), rtol=0, atol=0)


class Idle(Logits):
    """Has a gate and two filters without any influence, so that only decay moves them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.filters = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.full((2,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * self.gate * self.filters.sum()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_decay_and_gates_of_skips_do_not(optimizer: Any) -> None:
    """A gate that decays closes its skip, whatever the loss says."""
    network, lr, decay = Idle(), 0.1, 0.2
    options: dict[str, Any] = {"optimizer": optimizer, "lr": lr, "lr_min": lr, "weight_decay": decay, "momentum": 0.9}
    trainer(epochs=5).fit(Retrain(network, **options), datamodule=Noise())
    expected, speed = 0.5, 0.0
    for _ in range(5):
        speed = 0.9 * speed + decay * expected
        expected -= lr * speed if optimizer == "sgd" else lr * decay * expected
    assert network.filters.tolist() == pytest.approx([expected] * 2, rel=1e-5)
    assert network.gate.item() == 0.5


# Optimisers and schedules that are given.


def rates_of(module: Retrain, epochs: int = 3) -> list[list[float]]:
    rates: list[list[float]] = []
    look = Each(lambda fit, module: rates.append([group["lr"] for group in fit.optimizers[0].param_groups]))
    fit = trainer(epochs, callbacks=[look])
    fit.fit(module, fake())
    return rates


def network() -> NASBench201Network:
    return NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=3, in_channels=1, image_size=8)


def fake() -> FakeImages:
    return FakeImages(num_classes=3, input_shape=(1, 8, 8), train_size=18, test_size=9, batch_size=9, val_fraction=0.0)


def test_an_optimiser_that_is_given_anneals_from_the_rate_of_each_group_to_zero() -> None:
    def two_groups(weights: Any) -> torch.optim.Optimizer:
        weights = list(weights)
        return torch.optim.RMSprop([{"params": weights[:2], "lr": 0.5}, {"params": weights[2:]}], lr=0.1)

    rates = rates_of(Retrain(network(), optimizer=two_groups))
    factors = [cosine_lr(step, lr=1.0, lr_min=0.0, epochs=6) for step in range(1, 7)]  # of the next step
    assert rates == [pytest.approx([0.5 * factor, 0.1 * factor]) for factor in factors]


def test_a_schedule_that_is_given_is_stepped_as_its_interval_says() -> None:
    halve = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    assert [r for (r,) in rates_of(Retrain(network(), lr=1.0, schedule=halve))] == [1.0, 0.5, 0.5, 0.25, 0.25, 0.125]
    by_step = rates_of(Retrain(network(), lr=1.0, schedule=halve, schedule_every="step"))
    assert [r for (r,) in by_step] == [0.5**step for step in range(1, 7)]


def test_what_does_not_decay_is_a_group_of_its_own() -> None:
    module = Retrain(network(), optimizer=partial(torch.optim.AdamW, weight_decay=0.3), weight_decay_norms=False)
    fit = trainer(1)
    fit.fit(module, fake())
    decayed, exempt = fit.optimizers[0].param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.3, 0.0)
    assert min(w.dim() for w in decayed["params"]) == 2 and max(w.dim() for w in exempt["params"]) == 1


def test_frozen_weights_are_not_trained() -> None:
    module = Retrain(network(), ema_decay=0.9, optimizer=partial(torch.optim.AdamW, lr=0.1, weight_decay=0.3))
    frozen = next(module.network.parameters()).requires_grad_(False)
    before = frozen.detach().clone()
    trainer(1).fit(module, fake())
    assert torch.equal(frozen, before)
    assert module.ema is not None and torch.equal(next(module.ema.module.parameters()), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"optimizer": torch.optim.AdamW, "lr": 0.1}, "lr is of the optimiser that optimizer replaces", id="lr"
        ),
        pytest.param(
            {"schedule": torch.optim.lr_scheduler.ExponentialLR, "warmup_epochs": 1},
            "warmup_epochs=1 comes before the cosine, which schedule replaces",
            id="warm-up",
        ),
        pytest.param({"schedule_every": "day"}, "schedule_every must be 'epoch' or 'step'; got 'day'", id="interval"),
    ],
)
def test_optimisers_that_contradict_other_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retrain(network(), **options)
