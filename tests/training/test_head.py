"""The head of a network, fitted in closed form: against an independent implementation, and in trainings."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from scipy.optimize import minimize
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, r2_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from oneshot import Retrain
from oneshot.data import Digits
from oneshot.regression.ridge import SHARES
from oneshot.supernets import MobileNetV3Supernet, NASBench201Supernet
from oneshot.supernets.base import Subnet, Supernet
from oneshot.supernets.space import ArchGraph
from oneshot.tasks import Classification, MultiLabel, Regression, Task
from oneshot.training.head import PRIOR, fit_head
from oneshot.training.samples import plain_samples

N, P, K = 60, 7, 3


class Small(Subnet):
    """Features by a fixed layer and batch normalisation, and a head of some kind."""

    def __init__(self, kind: str = "linear", task: Task | str = "classification", outputs: int = K) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_classes, self.input_shape, self.init_args, self.kind = outputs, (5, 2, 2), {}, kind
        self.task = task
        self.body, self.norm = nn.Conv2d(5, P, 1), nn.BatchNorm2d(P, momentum=0.5)
        self.norm.running_var.fill_(0.3)  # type: ignore[union-attr]
        conv = kind in ("conv", "conv then mean")
        self.classifier = nn.Conv2d(P, outputs, 1) if conv else nn.Linear(P, outputs, bias=kind != "no bias")
        self.other, self.drop = nn.Linear(outputs, outputs), nn.Dropout(0.5)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.body(x)))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(x)
        if self.kind == "conv":
            return self.classifier(maps.mean((2, 3), keepdim=True)).flatten(1)  # type: ignore[no-any-return]
        if self.kind == "conv then mean":
            return self.classifier(maps).mean((2, 3))  # type: ignore[no-any-return]
        if self.kind == "tokens then mean":
            return self.classifier(maps.flatten(2).transpose(1, 2)).mean(1)  # type: ignore[no-any-return]
        if self.kind == "twice":
            return self.classifier(self.drop(maps.mean((2, 3)))) + 0 * self.classifier(maps.amax((2, 3)))  # type: ignore[no-any-return]
        if self.kind == "not last":
            return torch.sigmoid(self.classifier(maps.mean((2, 3))))
        return self.classifier(self.drop(maps.mean((2, 3))))  # type: ignore[no-any-return]

    def graphs(self) -> list[ArchGraph]:
        return []


def samples(n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 5, 2, 2, generator=generator)
    noise = 0.7 * torch.randn(n, K, generator=generator)
    return x, x.mean((2, 3))[:, :K] + 0.3 * x.mean((2, 3))[:, 2:] ** 2 + noise


def batches(x: Tensor, y: Tensor, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def features_of(network: Small, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        features = network.eval().features(x).mean((2, 3))
    return np.asarray(features.double().numpy())


def fitted_by_others(
    features: np.ndarray, numbers: np.ndarray, weights: np.ndarray | None = None, *, intercept: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """scikit-learn's ridge regression: coefficients ``[K, P]``, intercept, predictions with each sample left out."""
    w = np.ones(len(numbers)) if weights is None else weights
    mean = w @ features / w.sum() if intercept else 0.0
    squares = np.linalg.svd(np.sqrt(w)[:, None] * (features - mean), compute_uv=False) ** 2
    errors = {}
    for penalty in SHARES * squares.mean():
        left_out = np.empty_like(numbers)
        for i in range(len(numbers)):
            rest = np.arange(len(numbers)) != i
            model = Ridge(penalty, fit_intercept=intercept).fit(features[rest], numbers[rest], w[rest])
            left_out[i] = model.predict(features[i : i + 1])[0]
        errors[penalty] = (w[:, None] * (left_out - numbers) ** 2).mean(), left_out
    best = min(errors, key=lambda penalty: float(errors[penalty][0]))
    model = Ridge(best, fit_intercept=intercept).fit(features, numbers, w)
    return model.coef_, np.broadcast_to(model.intercept_, numbers.shape[1:]), errors[best][1]


def cross_entropy(logits: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    chosen = (np.log(np.exp(shifted).sum(1, keepdims=True)) - shifted)[np.arange(len(y)), y]
    return float((weights[y] * chosen).sum() / weights[y].sum())


def binary_cross_entropy(logits: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    return float((weights * y * np.logaddexp(0, -logits) + (1 - y) * np.logaddexp(0, logits)).mean())


Loss = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def calibrated_by_others(
    outputs: np.ndarray, y: np.ndarray, weights: np.ndarray, loss: Loss, shifted: bool = True
) -> tuple[float, np.ndarray]:
    def objective(v: np.ndarray) -> float:
        shift = v[1:] if shifted else np.zeros(K)
        prior = (v[0] ** 2 * outputs.var() + (shift**2).mean()) / (2 * PRIOR**2 * len(y))
        return loss(v[0] * outputs + shift, y, weights) + float(prior)

    found = minimize(objective, np.r_[1.0, np.zeros(K)], method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).x
    return float(found[0]), found[1:] if shifted else np.zeros(K)


@pytest.mark.parametrize("kind", ["linear", "conv", "conv then mean", "tokens then mean", "no bias"])
@pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0)])
def test_the_head_is_that_of_an_independent_implementation(kind: str, weights: tuple[float, ...] | None) -> None:
    network, (x, numbers) = Small(kind, Classification(class_weights=weights)), samples()
    y = numbers.argmax(1)
    before = copy.deepcopy(network.state_dict())
    fit = fit_head(network, batches(x, y))
    w = np.asarray(weights or (1.0,) * K)
    bias = kind != "no bias"
    features = features_of(network, x)
    coefficients, intercept, left_out = fitted_by_others(features, np.eye(K)[y], w[y], intercept=bias)
    scale, shift = calibrated_by_others(left_out, y.numpy(), w, cross_entropy, bias)
    ours = network.classifier
    np.testing.assert_allclose(ours.weight.detach().flatten(1), scale * coefficients, rtol=1e-3, atol=1e-4)
    if bias:
        np.testing.assert_allclose(ours.bias.detach(), scale * intercept + shift, rtol=1e-3, atol=1e-3)
    assert fit.head == "classifier" and fit.samples == N and fit.scale == pytest.approx(scale, rel=1e-3)
    assert fit.value == pytest.approx(accuracy_score(y, (scale * left_out + shift).argmax(1)))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == ({"classifier.weight", "classifier.bias"} if bias else {"classifier.weight"})
    # Calibrated on outputs for samples that were fitted, the logits are others.
    wrong, _ = calibrated_by_others(features @ coefficients.T + intercept, y.numpy(), w, cross_entropy, bias)
    assert abs(wrong / scale - 1) > 0.02


def test_the_head_of_labels_minimises_their_loss() -> None:
    weights = (3.0, 1.0, 0.5)
    network, (x, numbers) = Small(task=MultiLabel(positive_weights=weights)), samples()
    y = (numbers > 0.3).long()
    fit_head(network, batches(x, y))
    coefficients, intercept, left_out = fitted_by_others(features_of(network, x), y.double().numpy())
    scale, shift = calibrated_by_others(left_out, y.numpy(), np.asarray(weights), binary_cross_entropy)
    ours = network.classifier
    np.testing.assert_allclose(ours.weight.detach(), scale * coefficients, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.bias.detach(), scale * intercept + shift, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_head_of_numbers_predicts_them_in_their_units(outputs: int) -> None:
    x, numbers = samples()
    y = 50 + 20 * numbers[:, 0] if outputs == 1 else 50 + 20 * numbers
    task = Regression(mean=50.0, std=20.0)
    network = Small(task=task, outputs=outputs)
    fit = fit_head(network, batches(x, y))
    coefficients, intercept, left_out = fitted_by_others(features_of(network, x), y.double().numpy().reshape(N, -1))
    predicted = task.decode(network(x)).detach()
    coefficients = coefficients.reshape(outputs, P)
    np.testing.assert_allclose(predicted, features_of(network, x) @ coefficients.T + intercept, rtol=1e-4, atol=1e-3)
    assert fit.scale == 1
    if task.metric_name == "r2":
        assert fit.value == pytest.approx(r2_score(y.reshape(N, -1), left_out), abs=1e-4)


def test_soft_labels_are_fitted_as_they_are() -> None:
    network, (x, numbers) = Small(task=Classification(soft_labels=True)), samples()
    y = numbers.softmax(1)
    fit = fit_head(network, batches(x, y))
    coefficients, _, _ = fitted_by_others(features_of(network, x), y.double().numpy())
    ours = network.classifier.weight.detach()
    np.testing.assert_allclose(ours, fit.scale * coefficients, rtol=1e-3, atol=1e-4)


def test_samples_of_a_class_of_weight_0_do_not_count() -> None:
    x, numbers = samples()
    y = numbers.argmax(1)
    network = Small(task=Classification(class_weights=(1.0, 1.0, 0.0)))
    assert fit_head(network, batches(x, y)).samples == int((y < 2).sum())


def test_classes_that_are_far_apart_have_finite_logits() -> None:
    x, y = samples(30)[0], torch.arange(30) % K
    x += 50 * nn.functional.one_hot(y, 5)[:, :, None, None]
    network = Small()
    fit = fit_head(network, batches(x, y))
    logits = network.eval()(x).detach()
    assert fit.value == 1 and bool(logits.isfinite().all()) and 5 < float(logits.abs().max()) < 100


def test_modes_and_random_numbers_stay_as_they_were() -> None:
    network, (x, numbers) = Small().train(), samples()
    network.norm.eval()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    fit_head(network, batches(x, numbers.argmax(1)))
    assert network.training and network.drop.training and not network.norm.training
    assert torch.equal(torch.get_rng_state(), state)


def mobile() -> MobileNetV3Supernet:
    sizes: Any = {"widths": (0.25, 0.5), "depths": (1, 2), "kernels": (3,), "expansions": (2, 3), "dropout": 0.1}
    return MobileNetV3Supernet(in_channels=1, num_classes=10, resolutions=(8,), stem="cifar", **sizes)


SUPERNETS: list[Callable[[], Supernet]] = [
    lambda: NASBench201Supernet(channels=4, in_channels=1, image_size=8, cells_per_stage=1),
    mobile,
]


@pytest.mark.parametrize("make", SUPERNETS, ids=["nasbench201", "mobilenetv3"])
def test_the_head_is_found_in_networks_of_ours(make: Callable[[], Supernet]) -> None:
    data = Digits(batch_size=64)
    torch.manual_seed(0)
    supernet = make()
    network = supernet.extract(supernet.space.sample(0))
    fit = fit_head(network, data.eval_loader(data.train_set))
    assert fit.samples == len(data.train_set) and fit.value > 0.6  # of features drawn at random


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Small("twice"), r"must run once for a batch; Small\.classifier runs 2 times"),
        (Small("not last"), r"the outputs of Small are not those of an nn\.Linear or a 1x1 conv or their mean"),
        (Small(task=Classification()), r"at least two samples; got fewer"),
    ],
    ids=["twice", "not last", "one sample"],
)
def test_networks_without_such_a_head_are_refused(network: Small, message: str) -> None:
    x, numbers = samples(1 if "samples" in message else N)
    with pytest.raises(ValueError, match=message):
        fit_head(network, batches(x, numbers.argmax(1)))


def test_a_head_by_name_must_be_the_last_layer() -> None:
    x, y = samples()[0], samples()[1].argmax(1)
    network = Small()
    network.head = "classifier"  # type: ignore[assignment]
    assert fit_head(network, batches(x, y)).head == "classifier"
    network.head = "other"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="not those of 'other', which it names as its head"):
        fit_head(network, batches(x, y))
    network.head = "norm"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"Small\.head must be the path of an nn\.Linear.*'norm' is BatchNorm2d"):
        fit_head(network, batches(x, y))


def test_a_head_with_weights_of_another_layer_is_refused() -> None:
    network = Small()
    network.twin = nn.Linear(P, K)
    network.twin.weight = network.classifier.weight
    with pytest.raises(ValueError, match=r"weights of its own; those of Small\.classifier are shared: .*twin\.weight"):
        fit_head(network, batches(samples()[0], samples()[1].argmax(1)))


def test_features_that_are_not_finite_are_refused() -> None:
    network, (x, numbers) = Small(), samples()
    x[3] = torch.nan
    with pytest.raises(ValueError, match="Features of a network must be finite"):
        fit_head(network, batches(x, numbers.argmax(1)))


def test_features_in_the_statistics_of_each_batch() -> None:
    """The last batch of 4 is left out; running statistics stay."""
    network, (x, numbers) = Small(), samples()
    y, before = numbers.argmax(1), network.norm.running_mean.clone()  # type: ignore[union-attr]
    fit = fit_head(network, batches(x, y, 14), batch_norm="batch")
    maps = [network.body(part).detach() for part in x.split(14)[:4]]
    normed = [
        (m - m.mean((0, 2, 3), keepdim=True)) / (m.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        for m in maps
    ]
    features = torch.cat(normed).relu().mean((2, 3)).double().numpy()
    coefficients, _, _ = fitted_by_others(features, np.eye(K)[y[:56]])
    np.testing.assert_allclose(network.classifier.weight.detach(), fit.scale * coefficients, rtol=1e-3, atol=1e-4)
    assert fit.samples == 56 and torch.equal(network.norm.running_mean, before)  # type: ignore[arg-type]


# In trainings.


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


def digits(**options: Any) -> Digits:
    return Digits(batch_size=64, seed=0, **options)


def network() -> Subnet:
    torch.manual_seed(0)
    supernet = NASBench201Supernet(channels=4, in_channels=1, image_size=8, cells_per_stage=1)
    return supernet.extract(supernet.space.sample(0))


class Stop(Callback):
    """Ends the fit before a step, and keeps the weights of the first one."""

    def __init__(self, step: int = -1) -> None:
        self.step = step
        self.weights: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step == 0:
            self.weights = {name: value.clone() for name, value in module.state_dict().items()}
        if trainer.global_step == self.step:
            raise KeyError("stop")


def test_a_training_begins_with_the_fitted_head_and_so_does_its_average() -> None:
    by_hand, data, stop = network(), digits(), Stop()
    fit = fit_head(by_hand, plain_samples(data, 10_000) or (), batch_norm="batch")
    module = Retrain(network(), fit_head=True, ema_decay=0.9, lr=1e-3)
    trainer(callbacks=[stop]).fit(module, data)
    wanted = by_hand.get_parameter(f"{fit.head}.weight")
    for prefix in ("network", "ema.module"):
        torch.testing.assert_close(stop.weights[f"{prefix}.{fit.head}.weight"], wanted, rtol=1e-3, atol=1e-4)
    unfitted = Stop()
    trainer(callbacks=[unfitted]).fit(Retrain(network(), lr=1e-3), data)
    assert not torch.allclose(unfitted.weights[f"network.{fit.head}.weight"], wanted, atol=0.01)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_loader_without_a_data_module_does_as_well() -> None:
    data, stop = digits(), Stop()
    x, y = next(iter(data.eval_loader(data.train_set, batch_size=200)))
    module = Retrain(network(), fit_head=True, freeze_statistics=True)
    trainer(callbacks=[stop]).fit(module, DataLoader(TensorDataset(x, y), 50, shuffle=True))
    by_hand = network()
    fit = fit_head(by_hand, [(x, y)])
    wanted = by_hand.get_parameter(f"{fit.head}.weight")
    torch.testing.assert_close(stop.weights[f"network.{fit.head}.weight"], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    def module() -> Retrain:
        pl.seed_everything(0)
        return Retrain(network(), fit_head=True, freeze_statistics=True, lr=1e-2, ema_decay=0.9)

    whole = module()
    trainer(2).fit(whole, digits())
    saved = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_last=True)
    with pytest.raises(KeyError):
        trainer(2, callbacks=[saved, Stop(4)]).fit(module(), digits())
    resumed = module()
    trainer(2).fit(resumed, digits(), ckpt_path=tmp_path / "last.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    other = Retrain(network(), fit_head=True, ema_decay=0.9)
    with pytest.raises(ValueError, match="statistics: frozen, now None"):
        trainer(2).fit(other, digits(), ckpt_path=tmp_path / "last.ckpt")


def test_frozen_statistics_are_read_and_do_not_move() -> None:
    data = digits()
    x, _ = next(iter(data.eval_loader(data.train_set, batch_size=64)))
    for frozen in (True, False):
        module = Retrain(network(), freeze_statistics=frozen)
        before = {name: value.clone() for name, value in module.network.named_buffers()}
        trainer(1).fit(module, data)
        same = all(torch.equal(value, before[name]) for name, value in module.network.named_buffers())
        assert same == frozen and len(before) > 5
        with torch.no_grad():
            trained, evaluated = module.train().network(x), module.eval().network(x)
        assert torch.allclose(trained, evaluated, atol=1e-6) == frozen
        norm = next(layer for layer in module.network.modules() if isinstance(layer, nn.BatchNorm2d))
        assert norm.weight.requires_grad and not torch.equal(norm.weight, torch.ones_like(norm.weight))


def test_what_cannot_be_done_is_refused_when_the_training_is_built() -> None:
    class Plain(Small):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Identity()  # type: ignore[assignment]

    with pytest.raises(ValueError, match="freeze_statistics holds running statistics.*Plain keeps none"):
        Retrain(Plain(), freeze_statistics=True)
    with pytest.raises(ValueError, match="fit_head fits a linear layer to one target for each input.*'segmentation'"):
        Retrain(Small(), task="segmentation", fit_head=True)
