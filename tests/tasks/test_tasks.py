"""Tasks: losses and metrics against float64 formulas, directions, checks of targets, files."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

import oneshot
from oneshot.deploy.export import code_of, export_subnet, read_task
from oneshot.supernets import MLPSupernet
from oneshot.tasks import (
    IGNORED,
    Classification,
    CustomTask,
    LanguageModelling,
    MultiLabel,
    Regression,
    Segmentation,
    Task,
    task_of,
)

Array = npt.NDArray[np.float64]
N, K = 50, 4


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, below: int = K, seed: int = 1) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def as_double(x: Tensor) -> Array:
    return x.detach().double().numpy()


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    found: Array = e / e.sum(1, keepdims=True)
    return found


def sigmoid(x: Array) -> Array:
    found: Array = 1 / (1 + np.exp(-x))
    return found


def area_under_curve(scores: Array, positive: npt.NDArray[np.bool_]) -> float:
    """Share of pairs of a positive and a negative that are in order; a tie is half a pair."""
    above = scores[positive][:, None] - scores[~positive][None]
    return float(((above > 0) + 0.5 * (above == 0)).mean())


def value(task: Task, outputs: Tensor, targets: Tensor, parts: int = 3) -> float:
    """The metric, updated batch by batch."""
    metric = task.metric(outputs.shape[1])
    for x, y in zip(outputs.chunk(parts), targets.chunk(parts), strict=True):
        metric.update(*task.for_metric(x, y))
    return float(metric.compute())


# Classification


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_occur() -> None:
    logits, y = numbers(N, K), labels(N, below=3)  # class 3 never occurs, but is predicted
    predicted, true = as_double(logits).argmax(1), y.numpy()
    assert (predicted == 3).any()

    expected = np.mean([(predicted[true == c] == c).mean() for c in range(3)])

    assert value(Classification("balanced_accuracy"), logits, y) == pytest.approx(expected, abs=1e-6)
    over_all_four = expected * 3 / 4  # torchmetrics' macro average, which punishes a class that does not occur
    assert abs(over_all_four - expected) > 0.01


def test_f1_and_auroc_are_means_over_the_classes() -> None:
    logits, y = numbers(N, K) * 0.1 + 0.5, labels(N)  # all between 0 and 1: no probabilities all the same
    predicted, true, p = as_double(logits).argmax(1), y.numpy(), softmax(as_double(logits))
    f1, areas = [], []
    for c in range(K):
        hit = ((predicted == c) & (true == c)).sum()
        f1.append(2 * hit / ((predicted == c).sum() + (true == c).sum()))
        areas.append(area_under_curve(p[:, c], true == c))

    assert value(Classification("f1"), logits, y) == pytest.approx(np.mean(f1), abs=1e-6)
    assert value(Classification("auroc"), logits, y) == pytest.approx(np.mean(areas), abs=1e-6)
    raw = [area_under_curve(as_double(logits)[:, c], true == c) for c in range(K)]
    assert abs(np.mean(raw) - np.mean(areas)) > 1e-4  # what logits taken for probabilities would give


def test_class_weights_give_the_weighted_mean() -> None:
    logits, y, weights = numbers(N, K), labels(N), [1.0, 0.0, 2.0, 5.0]
    log_p, true = np.log(softmax(as_double(logits))), y.numpy()
    w = np.array(weights)[true]
    expected = -(w * log_p[np.arange(N), true]).sum() / w.sum()

    assert float(Classification(class_weights=weights).loss(logits, y)) == pytest.approx(expected, rel=1e-5)
    assert float(Classification().loss(logits, y)) != pytest.approx(expected, rel=1e-2)


def test_soft_labels_are_learnt_as_probabilities_and_measured_by_the_likeliest() -> None:
    task, logits, soft = Classification(soft_labels=True), numbers(N, K), numbers(N, K, seed=2).softmax(1)
    expected = -(as_double(soft) * np.log(softmax(as_double(logits)))).sum(1).mean()

    assert float(task.loss(logits, soft)) == pytest.approx(expected, rel=1e-5)
    assert value(task, logits, soft) == pytest.approx(
        float((logits.argmax(1) == soft.argmax(1)).double().mean()), abs=1e-6
    )


# Multi-label


def test_multi_label_loss_and_metrics() -> None:
    logits, y = numbers(N, K) * 0.2 + 0.4, labels(N, K, below=2)
    z, true = as_double(logits), y.numpy().astype(bool)
    p = sigmoid(z)
    loss = -(np.log(p) * true + np.log(1 - p) * ~true).mean()
    right = (z > 0) == true
    recalls = [[right[true[:, c], c].mean(), right[~true[:, c], c].mean()] for c in range(K)]
    areas = [area_under_curve(z[:, c], true[:, c]) for c in range(K)]
    f1 = [2 * ((z[:, c] > 0) & true[:, c]).sum() / ((z[:, c] > 0).sum() + true[:, c].sum()) for c in range(K)]

    assert float(MultiLabel().loss(logits, y)) == pytest.approx(loss, rel=1e-5)
    assert value(MultiLabel(), logits, y) == pytest.approx(right.mean(), abs=1e-6)
    assert value(MultiLabel("exact_match"), logits, y) == pytest.approx(right.all(1).mean(), abs=1e-6)
    assert value(MultiLabel("balanced_accuracy"), logits, y) == pytest.approx(np.mean(recalls), abs=1e-6)
    assert value(MultiLabel("auroc"), logits, y) == pytest.approx(np.mean(areas), abs=1e-6)
    assert value(MultiLabel("f1"), logits, y) == pytest.approx(np.mean(f1), abs=1e-6)
    at_half = ((z > 0.5) == true).mean()  # what logits taken for probabilities would give
    assert abs(at_half - right.mean()) > 0.01


def test_a_label_of_which_only_one_value_occurs_has_one_recall() -> None:
    logits, y = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]), torch.tensor([[1, 1], [0, 1]])

    assert value(MultiLabel("balanced_accuracy"), logits, y, parts=1) == pytest.approx((1.0 + 0.5) / 2)


def test_positive_weights() -> None:
    logits, y, weights = numbers(N, K), labels(N, K, below=2), [1.0, 2.0, 3.0, 4.0]
    p, true = sigmoid(as_double(logits)), y.numpy()
    expected = -(np.array(weights) * true * np.log(p) + (1 - true) * np.log(1 - p)).mean()

    assert float(MultiLabel(positive_weights=weights).loss(logits, y)) == pytest.approx(expected, rel=1e-5)


# Regression


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_metrics_are_in_the_units_of_the_targets(outputs: int) -> None:
    mean, std = [100.0, -5.0, 0.0][:outputs], [10.0, 0.1, 1.0][:outputs]
    out, y = numbers(N, outputs), numbers(N, outputs, seed=3) * torch.tensor(std) + torch.tensor(mean)
    targets = y[:, 0] if outputs == 1 else y
    task, predicted, true = Regression(mean=mean, std=std), as_double(out) * std + mean, as_double(y)
    scaled = (true - mean) / std - as_double(out)
    r2 = 1 - ((true - predicted) ** 2).sum(0) / ((true - true.mean(0)) ** 2).sum(0)

    assert float(task.loss(out, targets)) == pytest.approx((scaled**2).mean(), rel=1e-4)
    assert value(task, out, targets) == pytest.approx(r2.mean(), rel=1e-3)
    for name, expected in (
        ("mae", np.abs(true - predicted).mean()),
        ("mse", ((true - predicted) ** 2).mean()),
        ("rmse", math.sqrt(((true - predicted) ** 2).mean())),
    ):
        named = Regression(metric=name, mean=mean, std=std)
        assert value(named, out, targets) == pytest.approx(expected, rel=1e-4)
        assert (named.direction, named.error(2.0), named.reward(2.0), named.error_unit) == ("min", 2.0, -2.0, name)
    assert np.abs(task.decode(out).double().numpy() - predicted).max() < 1e-4
    assert (task.direction, task.error(0.75), task.value_of(0.25), task.error_unit) == ("max", 0.25, 0.75, "1 - r2")
    assert Classification("f1").error_unit == MultiLabel().error_unit == ""  # a share


def test_huber_and_absolute_losses() -> None:
    out, y = numbers(N, 1) * 3, numbers(N, seed=4)
    gap = np.abs(as_double(out)[:, 0] - as_double(y))

    assert float(Regression("mae").loss(out, y)) == pytest.approx(gap.mean(), rel=1e-5)
    huber = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
    assert float(Regression("huber").loss(out, y)) == pytest.approx(huber, rel=1e-5)


def test_a_column_of_targets_does_not_spread_over_the_batch() -> None:
    out, y = numbers(N, 1), numbers(N, seed=5)
    spread = (as_double(out) - as_double(y)[None]) ** 2  # [N, N], what [B, 1] - [B] gives

    assert float(Regression().loss(out, y)) == pytest.approx(((as_double(out)[:, 0] - as_double(y)) ** 2).mean())
    assert float(Regression().loss(out, y)) == pytest.approx(float(Regression().loss(out, y[:, None])))
    assert float(Regression().loss(out, y)) != pytest.approx(spread.mean(), rel=1e-2)


# Pixels and words


def test_segmentation_leaves_out_what_is_ignored() -> None:
    logits, y = numbers(2, K, 4, 6), labels(2, 4, 6)
    y[0] = IGNORED

    assert float(Segmentation().loss(logits, y)) == pytest.approx(float(Segmentation().loss(logits[1:], y[1:])))
    assert Segmentation().places(torch.zeros(2, 3, 4, 6)) == (4, 6)
    assert int(Segmentation().counted(y)) == 24
    assert value(Segmentation("accuracy"), logits, y, 1) == pytest.approx(
        float((logits[1].argmax(0) == y[1]).double().mean()), abs=1e-6
    )


def test_perplexity_is_the_exponential_of_the_mean_loss_over_all_words() -> None:
    task, logits, words = LanguageModelling(), numbers(6, 9, 5), labels(6, 5, below=9)
    log_p = np.log(softmax(as_double(logits)))
    picked = np.take_along_axis(log_p, words.numpy()[:, None], 1)

    assert float(task.loss(logits, words)) == pytest.approx(-picked.mean(), rel=1e-5)
    assert value(task, logits, words) == pytest.approx(math.exp(-picked.mean()), rel=1e-5)
    assert (task.direction, task.worst, task.places(words)) == ("min", math.inf, (5,))


# Distillation


def test_divergences_are_zero_for_equal_outputs_and_fit_the_task() -> None:
    student, teacher = numbers(N, K), numbers(N, K, seed=6)
    p, q = sigmoid(as_double(teacher)), sigmoid(as_double(student))
    binary = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()

    assert float(MultiLabel().divergence(student, teacher)) == pytest.approx(binary, rel=1e-4)
    assert float(Regression("mae", std=10.0).divergence(student, teacher)) == pytest.approx(
        np.abs(as_double(student) - as_double(teacher)).mean(), rel=1e-5
    )
    for task in (MultiLabel(), Regression()):
        assert float(task.divergence(teacher, teacher)) == pytest.approx(0, abs=1e-6)


# Any metric of torchmetrics


def test_a_metric_by_class_path_gets_probabilities_and_its_direction_from_torchmetrics() -> None:
    task = Classification("torchmetrics.classification.MulticlassMatthewsCorrCoef")
    logits, y = numbers(N, K), labels(N)
    c = np.zeros((K, K))
    np.add.at(c, (y.numpy(), as_double(logits).argmax(1)), 1)
    t, p, n = c.sum(1), c.sum(0), c.sum()
    expected = (np.trace(c) * n - t @ p) / math.sqrt((n**2 - p @ p) * (n**2 - t @ t))

    assert value(task, logits, y) == pytest.approx(expected, abs=1e-5)
    assert (task.metric_name, task.direction, task.worst) == ("MulticlassMatthewsCorrCoef", "max", -math.inf)


def test_a_metric_by_class_path_goes_with_weights_of_any_number_of_classes() -> None:
    path = "torchmetrics.classification.MulticlassMatthewsCorrCoef"
    assert Classification(path, class_weights=[1.0, 2.0, 3.0]).direction == "max"


class Undirected(Metric):
    """A metric that does not say what is better."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.total += (preds - target).abs().sum()

    def compute(self) -> Tensor:
        return torch.as_tensor(self.total)


def test_a_custom_task_takes_any_loss_and_any_metric() -> None:
    with pytest.raises(ValueError, match="A metric must have a direction, and .*Undirected declares none"):
        CustomTask(torch.nn.functional.l1_loss, Undirected)

    task = CustomTask(torch.nn.SmoothL1Loss, Undirected, direction="min", loss_args={"beta": 2.0}, decode="torch.exp")
    out, y = numbers(N, 1), numbers(N, 1, seed=8)

    assert float(task.loss(out, y)) == pytest.approx(float(torch.nn.functional.smooth_l1_loss(out, y, beta=2.0)))
    assert value(task, out, y) == pytest.approx(float((out.exp() - y).abs().sum()), rel=1e-5)


# Bad options and bad targets


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Classification("acuracy"), "must be one of accuracy, balanced_accuracy, f1, auroc"),
        (
            lambda: Classification("torchmetrics.classification.Nothing"),
            "'torchmetrics.classification.Nothing' is none",
        ),
        (lambda: Classification("torch.nn.Linear"), "must name a class of torchmetrics.Metric; got 'torch.nn.Linear'"),
        (lambda: CustomTask("torch.optim.SGD", "torchmetrics.MeanMetric"), "loss must name a class of torch.nn.Module"),
        (lambda: Classification("accuracy", direction="min"), "direction of 'accuracy' must be 'max'"),
        (lambda: Classification("f1", metric_args={"top_k": 2}), "takes none"),
        (lambda: Classification(class_weights=[-1.0, 1.0]), "class_weights must be numbers from 0 on"),
        (lambda: Classification(class_weights=[1.0, 1.0]).metric(3), "one for each of 3 classes; got 2"),
        (lambda: Classification().metric(1), "at least two classes to tell apart; got num_classes=1"),
        (lambda: MultiLabel("map"), "metric of multilabel must be one of"),
        (lambda: MultiLabel(positive_weights=[0.0]), "positive_weights must be above 0"),
        (lambda: Regression("l2"), "loss of regression must be one of mse, mae, huber"),
        (lambda: Regression(std=0.0), "std above 0"),
        (lambda: Regression(mean=[1.0, 2.0]).metric(3), "one for each of 3 outputs; got 2"),
        (lambda: Regression().criterion(label_smoothing=0.1), "label_smoothing"),
        (lambda: CustomTask(lambda x, y: x.sum(), "torchmetrics.MeanMetric"), "at the top of a module"),
        (lambda: CustomTask("torch.nn.NoLoss", "torchmetrics.MeanMetric"), "'torch.nn.NoLoss' is none"),
        (lambda: task_of("clustering"), "must be a Task, or one of classification, multilabel, regression"),
        (lambda: task_of(Regression), "Build one: Regression"),
    ],
)
def test_bad_options_are_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("task", "targets", "outputs", "message"),
    [
        (Classification(), torch.rand(5), 3, r"whole numbers of shape \[5\].* got torch.float32 of shape \[5\]"),
        (Classification(), torch.tensor([0, 1, 2, 3, 1]), 3, "from 0 to 2 as the network has 3; got 3"),
        (Classification(soft_labels=True), torch.rand(5, 3) + 1, 3, "add up to 1"),
        (Classification(soft_labels=True), torch.zeros(5, dtype=torch.int64), 3, r"probabilities \[B, 3\]"),
        (MultiLabel(), torch.zeros(5, dtype=torch.int64), 3, r"\[B, 3\]; got torch.int64 of shape \[5\]"),
        (MultiLabel(), torch.full((5, 3), 2), 3, "must be 0 or 1; got 2"),
        (Regression(), torch.rand(5, 2), 1, r"\[B, 1\] or \[B\] for a network of 1 outputs; got .* \[5, 2\]"),
        (Regression(), torch.rand(5), 2, r"\[B, 2\] for a network of 2"),
        (Regression(), torch.tensor([1.0, 2, math.nan, 0, 1]), 1, "sample 2 of a batch has NaN"),
        (Regression(), torch.rand(5).to(torch.complex64), 1, "must be numbers"),
        (Segmentation(), torch.zeros(5, 4, 4), 3, "one for every pixel"),
        (Regression(), torch.rand(4), 1, "one target for each of its 5 inputs"),
        (CustomTask(torch.nn.functional.l1_loss, "torchmetrics.MeanSquaredError"), torch.rand(4), 1, "its 5 inputs"),
    ],
)
def test_targets_that_do_not_fit_are_refused(task: Task, targets: Tensor, outputs: int, message: str) -> None:
    places = (4, 4) if isinstance(task, Segmentation) else ()
    with pytest.raises(ValueError, match=message):
        task.check_targets(targets, outputs, count=5, places=places)


# Files


@pytest.mark.parametrize(
    "task",
    [
        Classification(),
        Classification("balanced_accuracy", class_weights=[1, 2.5]),
        MultiLabel("f1", positive_weights=(1.0, 2.0)),
        Regression("huber", "mae", mean=[1.0], std=[2.0]),
        Segmentation("accuracy"),
        LanguageModelling("accuracy"),
        CustomTask("torch.nn.HuberLoss", "torchmetrics.regression.R2Score", loss_args={"delta": 0.5}),
    ],
)
def test_a_task_is_a_value_that_files_keep(task: Task) -> None:
    written = json.loads(json.dumps(task.to_dict()))

    assert read_task(written) == task == pickle.loads(pickle.dumps(task))
    assert hash(read_task(written)) == hash(task)
    assert task != Classification("f1") and task == task.name and task != "nothing"
    assert written["class_path"] == f"oneshot.tasks.{type(task).__name__}"


def test_reading_a_task_runs_only_code_that_is_trusted() -> None:
    evil = {"class_path": "os.system", "init_args": {"command": "true"}}
    with pytest.raises(ValueError, match="Building a task runs its code.* this is os.system"):
        read_task(evil)
    hidden = {"class_path": "oneshot.tasks.CustomTask", "init_args": {"loss": "os.system", "metric": "torch.nn.ReLU"}}
    with pytest.raises(ValueError, match="this is os.system"):
        read_task(hidden)
    called = {"loss": "torch.nn.ReLU", "metric": "torch.load", "metric_args": {"f": "weights.pt"}}
    with pytest.raises(ValueError, match="must name a class of torchmetrics.Metric; got 'torch.load'"):
        read_task({"class_path": "oneshot.tasks.CustomTask", "init_args": called})
    with pytest.raises(ValueError, match="must be a Task; oneshot.tasks.task_of is none"):
        read_task({"class_path": "oneshot.tasks.task_of", "init_args": {}})


@pytest.mark.parametrize(
    "name", ["classification", "multi-label", "multi_label", "Regression", "segmentation", "language"]
)
def test_built_in_tasks_have_names(name: str) -> None:
    assert isinstance(task_of(name), Task)


def test_an_export_with_code_of_ones_own_is_loaded_by_those_who_trust_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    supernet = MLPSupernet(width=4, layers=1, features=3, num_classes=1)
    supernet.task = CustomTask("torch.nn.SmoothL1Loss", Undirected, direction="min")
    network = supernet.extract(supernet.space.sample(0)).eval()

    folder = export_subnet(network, tmp_path / "export", formats=())

    assert code_of(network) == ["oneshot.supernets.MLPNetwork", "oneshot.tasks.CustomTask", f"{__name__}.Undirected"]
    with pytest.raises(ValueError, match=r"Building a task runs its code.* --trust tests"):
        oneshot.load(folder)
    assert oneshot.load(folder, trust=("tests",)).task == supernet.task
