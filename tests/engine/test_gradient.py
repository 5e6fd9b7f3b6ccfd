"""The bilevel loop against a loop in plain PyTorch, and what it refuses."""

from __future__ import annotations

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from oneshot.data import FakeImages, SearchDataModule
from oneshot.engine.gradient import BilevelSearch, GradientSearch, SingleLevelSearch
from oneshot.engine.module import Batch
from oneshot.engine.samplers import SoftmaxSampler
from oneshot.errors import NonFiniteLossError
from oneshot.supernets.darts import DARTSSupernet
from oneshot.supernets.mixed_op import MixedOp
from oneshot.testing import PlantedSupernet, fit, random_streams

OPTIONS: dict[str, Any] = {  # far from the defaults, so that every term shows
    "weight_lr": 0.3,
    "weight_lr_min": 0.1,
    "weight_momentum": 0.8,
    "weight_decay": 0.02,
    "arch_lr": 0.07,
    "arch_betas": (0.4, 0.9),
    "arch_weight_decay": 0.03,
    "grad_clip": 0.2,
}


def search(supernet: PlantedSupernet | None = None, **options: Any) -> BilevelSearch:
    return BilevelSearch(supernet or PlantedSupernet(channels=4), SoftmaxSampler(), **options)


# The loop.

Mistake = Literal[
    "weights_first",
    "alphas_on_the_batch_of_the_weights",
    "weights_on_the_batch_of_the_alphas",
    "statistics_move_in_the_step_of_the_alphas",
    "gradients_of_the_alpha_loss_stay_in_the_weights",
    "no_clipping",
    "constant_learning_rate",
    "alphas_frozen",
]


def plain_search(supernet: PlantedSupernet, alpha: Tensor, streams: Any, epochs: int, mistake: Mistake | None) -> None:
    """Algorithm 1 of arXiv:1806.09055 with xi = 0 and no library; changes ``supernet`` and ``alpha``."""
    weights = torch.optim.SGD(supernet.parameters(), 0.3, momentum=0.8, weight_decay=0.02)
    arch = torch.optim.Adam([alpha], 0.07, betas=(0.4, 0.9), weight_decay=0.03)
    if mistake == "alphas_on_the_batch_of_the_weights":
        streams = {**streams, "arch": streams["weights"]}
    if mistake == "weights_on_the_batch_of_the_alphas":
        streams = {**streams, "weights": streams["arch"]}

    def alpha_step(x: Tensor, y: Tensor) -> None:
        network = supernet if mistake == "statistics_move_in_the_step_of_the_alphas" else copy.deepcopy(supernet)
        loss = F.cross_entropy(network(x, {"edge": alpha.softmax(-1)}), y)
        if mistake != "alphas_frozen":
            alpha.grad = torch.autograd.grad(loss, alpha, retain_graph=True)[0]
            arch.step()
        if mistake == "gradients_of_the_alpha_loss_stay_in_the_weights":
            for w, g in zip(supernet.parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True):
                w.grad = g.clone()

    def weight_step(x: Tensor, y: Tensor) -> None:
        loss = F.cross_entropy(supernet(x, {"edge": alpha.detach().softmax(-1)}), y)
        for w, g in zip(supernet.parameters(), torch.autograd.grad(loss, list(supernet.parameters())), strict=True):
            kept = w.grad if mistake == "gradients_of_the_alpha_loss_stay_in_the_weights" and w.grad is not None else 0
            w.grad = g + kept
        if mistake != "no_clipping":
            nn.utils.clip_grad_norm_(supernet.parameters(), 0.2)
        weights.step()

    for epoch in range(epochs):
        if mistake != "constant_learning_rate":
            weights.param_groups[0]["lr"] = 0.1 + 0.5 * (0.3 - 0.1) * (1 + math.cos(math.pi * epoch / epochs))
        for weight_batch, arch_batch in zip(streams["weights"], streams["arch"], strict=True):
            if mistake == "weights_first":
                weight_step(*weight_batch)
            alpha_step(*arch_batch)
            if mistake != "weights_first":
                weight_step(*weight_batch)


@pytest.fixture(scope="module")
def three_epochs() -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """A search before and after three epochs of three steps, and its data."""
    torch.manual_seed(0)
    module = search(alpha_std=0.5, **OPTIONS).double()
    before = copy.deepcopy(module.state_dict())
    streams = random_streams(module.supernet, dtype=torch.float64)
    fit(module, streams, epochs=3)
    after = {name: value for name, value in module.state_dict().items() if name.startswith(("supernet.", "alphas."))}
    return before, after, streams


def plain(before: dict[str, Tensor], streams: Any, mistake: Mistake | None = None) -> dict[str, Tensor]:
    supernet, alpha = PlantedSupernet(channels=4).double(), before["alphas.edge"].clone().requires_grad_()
    names = [name for name in before if name.startswith("supernet.")]
    supernet.load_state_dict({name.removeprefix("supernet."): before[name].clone() for name in names})
    plain_search(supernet, alpha, streams, 3, mistake)
    state = {f"supernet.{name}": value for name, value in supernet.state_dict().items()}
    return {**state, "alphas.edge": alpha.detach()}


Run = tuple[dict[str, Tensor], dict[str, Tensor], Any]


def test_three_epochs_equal_a_loop_in_plain_pytorch(three_epochs: Run) -> None:
    before, after, streams = three_epochs
    torch.testing.assert_close(after, plain(before, streams), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mistake", get_args(Mistake))
def test_a_loop_with_a_mistake_does_not(three_epochs: Run, mistake: Mistake) -> None:
    before, after, streams = three_epochs
    wrong = plain(before, streams, mistake)
    assert any(not torch.allclose(after[name].double(), wrong[name].double(), rtol=1e-3, atol=1e-5) for name in after)


class Recorder(pl.Callback):
    """What happens at every optimiser step."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float, float]] = []
        self.alphas: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self.record)

    def record(self, optimizer: torch.optim.Optimizer, *args: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))
        self.steps.append((type(optimizer).__name__, norm, optimizer.param_groups[0]["lr"]))

    def on_train_epoch_end(self, trainer: Any, pl_module: BilevelSearch) -> None:  # type: ignore[override]
        self.alphas.append(pl_module.alphas["edge"].detach().clone())


def record(epochs: int = 1, batches: int = 2, **options: Any) -> Recorder:
    torch.manual_seed(0)
    module, recorder = search(**options), Recorder()
    fit(module, random_streams(module.supernet, batches=batches), epochs=epochs, callbacks=[recorder])
    return recorder


def test_alphas_step_before_weights_in_every_batch() -> None:
    assert [name for name, _, _ in record().steps] == ["Adam", "SGD"] * 2


def test_only_the_gradient_of_the_weights_is_clipped() -> None:
    free, clipped = record(grad_clip=1e9).steps[:2], record(grad_clip=1e-4).steps[:2]
    assert free[0][1] == clipped[0][1] > 1e-3
    assert free[1][1] > 1e-3
    assert clipped[1][1] == pytest.approx(1e-4, rel=1e-2)


def test_the_learning_rate_of_the_weights_anneals_once_an_epoch_and_that_of_the_alphas_stays() -> None:
    steps = record(epochs=4, weight_lr=0.4, weight_lr_min=0.2, arch_lr=0.01).steps
    cosine = [0.2 + 0.1 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert [lr for name, _, lr in steps if name == "SGD"] == pytest.approx([lr for lr in cosine for _ in range(2)])
    assert {lr for name, _, lr in steps if name == "Adam"} == {0.01}


def test_alphas_stay_as_they_are_during_warm_up() -> None:
    recorder = record(epochs=3, arch_warmup_epochs=2)
    first, second, third = recorder.alphas
    assert torch.equal(first, second) and not torch.equal(second, third)
    assert [name for name, _, _ in recorder.steps] == ["SGD"] * 4 + ["Adam", "SGD"] * 2


def test_the_defaults_are_the_papers() -> None:
    """Appendix A.1.1 of arXiv:1806.09055."""
    module, recorder = search(), Recorder()
    trainer = fit(module, random_streams(module.supernet, batches=1), epochs=1, callbacks=[recorder])
    weights, alphas = (optimizer.param_groups[0] for optimizer in trainer.optimizers)
    assert [lr for _, _, lr in recorder.steps] == [3e-4, 0.025]
    assert (weights["momentum"], weights["weight_decay"]) == (0.9, 3e-4)
    assert (alphas["betas"], alphas["weight_decay"]) == ((0.5, 0.999), 1e-3)
    assert (module.grad_clip, module.weight_lr_min, module.arch_warmup_epochs) == (5.0, 0.001, 0)
    many = BilevelSearch(DARTSSupernet(channels=2, cells=3, image_size=8), SoftmaxSampler())
    assert float(torch.cat([a.detach().flatten() for a in many.alphas.parameters()]).std()) == pytest.approx(1e-3, 0.2)


class OnlyCost(BilevelSearch):
    """Alphas see the cost of their candidates and nothing of the data."""

    def arch_loss(self, loss: Tensor, weights: dict[str, Tensor]) -> Tensor:
        return 0 * loss + (weights["edge"] * torch.arange(5.0)).sum()


def test_a_method_can_add_to_the_loss_of_the_alphas() -> None:
    module = OnlyCost(PlantedSupernet(), SoftmaxSampler(), arch_lr=0.1, arch_weight_decay=0.0)
    trainer = fit(module, random_streams(module.supernet), epochs=2)
    assert module.derive()["edge"] == ("none",)  # costs nothing
    assert 0 <= float(trainer.callback_metrics["arch/loss"]) < 4  # the cost, not the cross-entropy


def test_a_supernet_without_normal_cells_can_be_searched() -> None:
    module = BilevelSearch(
        DARTSSupernet(channels=2, cells=1, num_classes=3, in_channels=1, image_size=8), SoftmaxSampler(), arch_lr=0.1
    )
    before = copy.deepcopy(dict(module.alphas.items()))
    fit(module, random_streams(module.supernet, batches=1), epochs=1)
    assert torch.equal(module.alphas["normal"], before["normal"])
    assert not torch.equal(module.alphas["reduce"], before["reduce"])


# What it reports.


def fake(**options: Any) -> SearchDataModule:
    settings = {"num_classes": 2, "input_shape": (1, 8, 8), "train_size": 48, "test_size": 8, "batch_size": 8}
    return SearchDataModule(FakeImages(**{**settings, **options}))


def test_a_search_logs_both_losses_and_both_accuracies() -> None:
    module = search()
    metrics = fit(module, fake(), epochs=1, limit_val_batches=1.0).callback_metrics
    assert metrics.keys() >= {"train/loss", "train/accuracy", "arch/loss", "val/loss", "val/accuracy"}
    assert all(math.isfinite(value) for value in metrics.values())
    assert 0 <= metrics["val/accuracy"] <= 1 and metrics["val/loss"] > 0


def test_validation_measures_the_supernet_under_the_current_probabilities() -> None:
    module, data = search(), fake()
    metrics = fit(module, data, epochs=1, limit_val_batches=1.0).callback_metrics
    x, y = (torch.cat(part) for part in zip(*data.val_dataloader(), strict=True))
    module.eval()
    with torch.no_grad():
        logits = module(x)
        assert torch.equal(logits, module.supernet(x, module.probabilities()))
    torch.testing.assert_close(metrics["val/loss"], F.cross_entropy(logits, y), rtol=1e-4, atol=1e-6)
    assert float(metrics["val/accuracy"]) == pytest.approx(float((logits.argmax(1) == y).float().mean()))


def test_the_expected_number_of_weights_follows_the_probabilities() -> None:
    module = search()
    with torch.no_grad():
        module.alphas["edge"].copy_(torch.tensor([[-99.0, -99.0, -99.0, 0.0, 0.0]]))
    assert float(module.expected_parameters()) == pytest.approx((4 * 4 + 9 * 4 * 4) / 2)


# Resuming from the files Lightning writes by default.


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("validate", [pytest.param(0, id="no-validation"), pytest.param(1.0, id="validation")])
def test_a_search_resumes_from_a_checkpoint_of_lightnings_own_callback(tmp_path: Path, validate: float) -> None:
    def run(seed: int, **options: Any) -> tuple[BilevelSearch, pl.Trainer]:
        torch.manual_seed(seed)
        module = search(arch_lr=0.1)
        callbacks = [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)]
        settings = {"enable_checkpointing": True, "callbacks": callbacks, "limit_val_batches": validate}
        return module, fit(module, fake(), epochs=3, **settings, **options)

    whole, trainer = run(0)
    resumed, again = run(1, ckpt_path=tmp_path / "epoch=0.ckpt")
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0.0, atol=0.0)
    for ours, theirs in zip(trainer.optimizers, again.optimizers, strict=True):
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0.0, atol=0.0)
    assert (again.current_epoch, again.global_step) == (trainer.current_epoch, trainer.global_step)


# What it refuses.


class Poisoned(nn.CrossEntropyLoss):
    """Cross-entropy that becomes NaN at a call; every step calls twice, first for the alphas."""

    def __init__(self, call: int, value: float = math.nan) -> None:
        super().__init__()
        self.call, self.value, self.calls = call, value, 0

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(logits, y) * (self.value if self.calls > self.call else 1.0)


def finite(path: Path) -> bool:
    state = torch.load(path, weights_only=True)["state_dict"]
    search().load_state_dict(state)
    return all(bool(torch.isfinite(value).all()) for value in state.values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("call", [pytest.param(8, id="alphas"), pytest.param(9, id="weights")])
def test_a_loss_that_is_not_finite_stops_the_search_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, call: int, value: float
) -> None:
    module = search(criterion=Poisoned(call, value))
    options = {"enable_checkpointing": True, "callbacks": [ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)]}
    with pytest.raises(NonFiniteLossError, match=r"at step 4 \(epoch 1\) .*checkpoint: .*epoch=0\.ckpt\. Lower"):
        fit(module, random_streams(module.supernet), epochs=3, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch=0.ckpt"]
    assert finite(tmp_path / "epoch=0.ckpt")


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
def test_a_checkpoint_between_two_looks_at_the_loss_is_not_written_either(tmp_path: Path) -> None:
    module = search(criterion=Poisoned(8))
    every_step = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    with pytest.raises(NonFiniteLossError, match="at step 4 "):
        fit(
            module,
            random_streams(module.supernet, batches=9),
            epochs=1,
            enable_checkpointing=True,
            callbacks=[every_step],
            log_every_n_steps=50,
        )
    written = sorted(tmp_path.iterdir())
    assert [path.name for path in written] == [f"step={2 * n}.ckpt" for n in (1, 2, 3, 4)]  # both optimisers count
    assert all(map(finite, written))


def test_a_loss_that_is_not_finite_is_noticed_within_the_logging_interval() -> None:
    module = search(criterion=Poisoned(8))
    with pytest.raises(NonFiniteLossError, match="at step 4 .*none was written yet"):
        fit(module, random_streams(module.supernet, batches=20), epochs=1, log_every_n_steps=3)
    assert module.criterion.calls == 2 * 6


def test_a_search_can_go_on_after_it_was_stopped() -> None:
    module = search(criterion=Poisoned(0))
    good = copy.deepcopy(module.state_dict())
    streams = random_streams(module.supernet)
    with pytest.raises(NonFiniteLossError, match="at step 0 "):
        fit(module, streams, epochs=1)
    module.load_state_dict(good)
    module.criterion = nn.CrossEntropyLoss()
    fit(module, streams, epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"max_steps": 7}, r"max_steps=7. Use Trainer\(max_epochs=", id="max_steps"),
        pytest.param({"max_epochs": -1}, "at least 1; got -1", id="endless"),
        pytest.param({"max_epochs": 0}, "at least 1; got 0", id="no-epochs"),
        pytest.param(
            {"gradient_clip_val": 1.0},
            "gradient_clip_val=1.0. Remove it and pass grad_clip to BilevelSearch",
            id="clip",
        ),
        pytest.param({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2. Remove it .* batch_size", id="accum"),
    ],
)
def test_trainer_settings_that_two_optimisers_cannot_honour_are_refused(options: dict[str, Any], message: str) -> None:
    module = search()
    with pytest.raises(ValueError, match=message):
        fit(module, random_streams(module.supernet), epochs=1, **options)


@pytest.mark.filterwarnings("ignore:Total length of `list`")  # this data has no validation stream
def test_a_fast_dev_run_is_not_mistaken_for_max_steps() -> None:
    module = search()
    fit(module, random_streams(module.supernet), epochs=1, fast_dev_run=True)
    assert module.trainer.fit_loop.total_batch_idx == 0


@pytest.mark.parametrize("kind", ["one-loader", "one-stream"])
def test_data_without_two_streams_is_refused(kind: str) -> None:
    module = search()
    streams: Any = random_streams(module.supernet)
    data = streams["weights"] if kind == "one-loader" else {"weights": streams["weights"]}
    with pytest.raises(ValueError, match=r"needs batches \{'weights': \(x, y\), 'arch': \(x, y\)\} .*SearchDataModule"):
        fit(module, data, epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"num_classes": 3}, "num_classes of SearchDataModule is 3, PlantedSupernet .* for 2", id="classes"
        ),
        pytest.param({"input_shape": (3, 8, 8)}, r"input_shape .* is \(3, 8, 8\), .* for \(1, 8, 8\)", id="channels"),
        pytest.param({"input_shape": (1, 9, 9)}, r"input_shape .* is \(1, 9, 9\), .* for \(1, 8, 8\)", id="size"),
    ],
)
def test_a_supernet_that_was_not_built_for_the_data_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"must be built for the data: {message}"):
        fit(search(), fake(**options), epochs=1)


def test_a_batch_reaches_the_hook_as_both_streams() -> None:
    seen: list[Batch] = []

    class Spy(BilevelSearch):
        def arch_backward(self, batch: Batch) -> Tensor:
            seen.append(batch)
            return super().arch_backward(batch)

    module = Spy(PlantedSupernet(), SoftmaxSampler())
    fit(module, random_streams(module.supernet, batches=1), epochs=1)
    assert [set(batch) for batch in seen] == [{"weights", "arch"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            {"weight_lr": 0.0, "weight_lr_min": 0.0}, "weight_lr must be above 0, .*got 0.0 and 0.0", id="no-rate"
        ),
        pytest.param(
            {"weight_lr": 0.1, "weight_lr_min": 0.2},
            "to which it falls, from 0 to weight_lr; got 0.1 and 0.2",
            id="rising",
        ),
        pytest.param({"grad_clip": 0.0}, "grad_clip, .* must be above 0; got 0.0", id="clip"),
        pytest.param({"arch_lr": -1.0}, "arch_lr must not be negative; got -1.0", id="arch-rate"),
        pytest.param({"arch_warmup_epochs": -3}, "arch_warmup_epochs must not be negative; got -3", id="warmup"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_a_search_can_be_validated_and_tested_without_the_settings_of_a_fit() -> None:
    module = search()
    streams = random_streams(module.supernet)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (validated,) = trainer.validate(module, streams["arch"], verbose=False)
    (tested,) = trainer.test(module, streams["arch"], verbose=False)
    assert validated["val/loss"] == pytest.approx(tested["test/loss"])


def test_the_training_loss_is_not_read_from_the_device_at_every_step() -> None:
    """Lightning calls `.item()` on whatever is shown in the progress bar, shown or not."""
    module = search()
    fit(module, random_streams(module.supernet), epochs=1)
    assert "train/loss" in module.trainer.callback_metrics
    assert "train/loss" not in module.trainer.progress_bar_metrics


@pytest.mark.parametrize("kind", [BilevelSearch, SingleLevelSearch])
def test_the_gradient_of_the_alphas_is_never_clipped(kind: type[GradientSearch]) -> None:
    def gradients(grad_clip: float) -> dict[str, float]:
        torch.manual_seed(0)
        module = kind(PlantedSupernet(channels=4), SoftmaxSampler(), grad_clip=grad_clip, alpha_std=0.5)
        norms: dict[str, float] = {}

        class Look(pl.Callback):
            def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
                for name, optimizer in zip(("weights", "alphas"), trainer.optimizers, strict=True):
                    optimizer.register_step_post_hook(partial(self.look, name))

            def look(self, name: str, optimizer: torch.optim.Optimizer, *args: Any) -> None:
                parts = [p.grad.norm() for group in optimizer.param_groups for p in group["params"]]
                norms.setdefault(name, float(torch.stack(parts).norm()))  # of the first step

        fit(module, random_streams(module.supernet), epochs=1, callbacks=[Look()])
        return norms

    clipped, free = gradients(1e-3), gradients(1e6)
    assert clipped["weights"] == pytest.approx(1e-3, rel=1e-3) and free["weights"] > 0.01
    assert clipped["alphas"] == free["alphas"] > 1e-3


@pytest.mark.parametrize(("epochs", "expected"), [(1, [0.0]), (2, [0.0, 0.4]), (5, [0.0, 0.1, 0.2, 0.3, 0.4])])
def test_drop_path_rises_in_a_line_and_is_what_was_asked_for_in_the_last_epoch(
    epochs: int, expected: list[float]
) -> None:
    supernet, seen = PlantedSupernet(channels=4), []

    class Look(pl.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            seen.append(cast(MixedOp, supernet.edges[0]).drop_path)

    fit(search(supernet, drop_path=0.4), random_streams(supernet), epochs=epochs, callbacks=[Look()])
    assert seen[::3] == seen[1::3] == seen[2::3] == pytest.approx(expected)
