"""Losses and metrics of the tasks against their formulas, and that search and retraining use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from oneshot.evaluation.accuracy import evaluate_configs
from oneshot.methods.darts import DARTS
from oneshot.methods.random_sharing import RandomSharing
from oneshot.supernets.segmentation import SegmentationSupernet
from oneshot.testing.methods import fit
from oneshot.training.retrain import Retrain
from oneshot.training.tasks import IGNORED, loss_of, metric_of

CLASSES = 3


def example(batch: int = 4, side: int = 6) -> tuple[Tensor, Tensor]:
    """Logits ``[B, classes, H, W]`` and masks ``[B, H, W]``, some pixels of which are ignored."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (batch, side, side), generator=generator)
    y[torch.rand(y.shape, generator=generator) < 0.3] = IGNORED
    return torch.randn(batch, CLASSES, side, side, generator=generator), y


def mean_iou(logits: Tensor, y: Tensor, ignored: int | None = IGNORED) -> float:
    """Mean over the classes that occur, pixel by pixel in plain Python."""
    intersection, union = np.zeros(CLASSES), np.zeros(CLASSES)
    for p, t in zip(logits.argmax(1).flatten().tolist(), y.flatten().tolist(), strict=True):
        if t == ignored:
            continue
        for c in range(CLASSES):
            intersection[c] += p == c and t == c
            union[c] += p == c or t == c
    return float((intersection[union > 0] / union[union > 0]).mean())


def cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> float:
    """Mean over the pixels that count, pixel by pixel in float64."""
    terms = []
    for b, i, j in np.ndindex(*y.shape):
        if y[b, i, j] != IGNORED:
            z = logits[b, :, i, j].double().numpy()
            log_p = z - np.log(np.exp(z).sum())
            terms.append(-(1 - smoothing) * log_p[y[b, i, j]] - smoothing * log_p.mean())
    return float(np.mean(terms))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_a_segmentation_is_the_mean_over_the_pixels_that_count(smoothing: float) -> None:
    logits, y = example()
    expected = cross_entropy(logits, y, smoothing)
    assert float(loss_of("segmentation", label_smoothing=smoothing)(logits, y)) == pytest.approx(expected, rel=1e-5)
    changed = logits.clone()
    changed.permute(0, 2, 3, 1)[y == IGNORED] += 5 * torch.randn(int((y == IGNORED).sum()), CLASSES)
    assert float(loss_of("segmentation", label_smoothing=smoothing)(changed, y)) == pytest.approx(expected, rel=1e-5)
    assert abs(cross_entropy(logits, y, 0.1) - expected) > 1e-3


def test_the_metric_of_a_segmentation_is_the_mean_intersection_over_union_of_all_pixels_together() -> None:
    logits, y = example()
    metric = metric_of("segmentation", CLASSES)
    metric.update(logits[:1], y[:1])
    metric.update(logits[1:], y[1:])
    assert float(metric.compute()) == pytest.approx(mean_iou(logits, y), abs=1e-6)
    per_image = np.mean([mean_iou(logits[i : i + 1], y[i : i + 1]) for i in range(len(y))])
    assert abs(per_image - mean_iou(logits, y)) > 1e-4  # the test can tell them apart


def test_a_class_that_occurs_nowhere_does_not_count() -> None:
    y = torch.tensor([[[0, 1], [1, IGNORED]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1], [0, 2]]]), CLASSES).permute(0, 3, 1, 2).float()
    metric = metric_of("segmentation", CLASSES)
    metric.update(logits, y)
    assert float(metric.compute()) == pytest.approx(0.5)


def batches(images: int = 8, side: int = 32) -> TensorDataset:
    """Left and right halves of other brightness, a border that is ignored."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (images, 1, 2), generator=generator).expand(-1, side, -1).repeat_interleave(side // 2, 2)
    x = y[:, None] - 1.0 + 0.1 * torch.randn(images, 1, side, side, generator=generator)
    y = y.clone()
    y[:, :2] = IGNORED
    return TensorDataset(x, y)


def small_supernet() -> SegmentationSupernet:
    torch.manual_seed(0)
    return SegmentationSupernet(layers_per_stage=1, width=0.25, num_classes=CLASSES, in_channels=1, image_size=32)


def quiet_trainer(**options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(accelerator="cpu", devices=1, **{**quiet, **options})


def test_a_search_for_a_segmentation_logs_its_loss_and_mean_iou() -> None:
    loader = DataLoader(batches(), batch_size=4)
    search = DARTS(small_supernet())
    trainer = fit(search, {"weights": loader, "arch": loader}, epochs=2)
    assert {"train/loss", "arch/loss", "train/miou"} <= set(trainer.callback_metrics)
    assert "train/accuracy" not in trainer.callback_metrics
    x, y = batches().tensors
    (result,) = quiet_trainer().test(search, DataLoader(batches(), batch_size=8), verbose=False)
    with torch.no_grad():
        logits = search.eval()(x)
    assert set(result) == {"test/loss", "test/miou"}
    assert result["test/miou"] == pytest.approx(mean_iou(logits, y), abs=1e-6)
    assert result["test/loss"] == pytest.approx(cross_entropy(logits, y), rel=1e-4)


def test_retraining_a_segmentation_learns_and_reports_its_metrics() -> None:
    supernet = small_supernet()
    retrain = Retrain(supernet.extract(supernet.space.sample(0)), lr=0.1, ema_decay=0.9)
    loader = DataLoader(batches(), batch_size=4)
    trainer = quiet_trainer(max_epochs=15, limit_val_batches=0)
    trainer.fit(retrain, loader, [])
    assert "train/miou" in trainer.callback_metrics and "train/accuracy" not in trainer.callback_metrics
    (result,) = quiet_trainer().test(retrain, DataLoader(batches(), batch_size=8), verbose=False)
    x, y = batches().tensors
    with torch.no_grad():
        logits = retrain.eval()(x)
    assert set(result) == {"test/loss", "test/miou", "test/accuracy"}
    assert result["test/miou"] == pytest.approx(mean_iou(logits, y), abs=1e-6)
    assert result["test/miou"] > 0.5
    counted = y != IGNORED
    assert result["test/accuracy"] == pytest.approx(float((logits.argmax(1) == y)[counted].float().mean()), abs=1e-6)
    assert int(retrain.confusion().sum()) == int(counted.sum())


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_labels_of_pixels_are_not_mixed(option: str) -> None:
    supernet = small_supernet()
    network = supernet.extract(supernet.space.sample(0))
    with pytest.raises(ValueError, match=rf"segmentation has other targets; got .*{option}=0\.5.*Use 0"):
        Retrain(network, **{option: 0.5})


def test_an_exported_segmentation_network_is_loaded_and_computes_the_same(tmp_path: Path) -> None:
    from oneshot.deploy.export import export_subnet, load

    supernet = small_supernet()
    network = supernet.extract(supernet.space.sample(1)).eval()
    export_subnet(network, tmp_path / "export", classes=("a", "b", "c"), formats=["torch_export"])
    x = torch.randn(2, 1, 32, 32)
    loaded = load(tmp_path / "export").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), network(x), rtol=1e-5, atol=1e-6)
    assert loaded.task == "segmentation"


def test_the_accuracy_of_shared_weights_is_that_of_the_logs() -> None:
    """In segmentation the mean intersection over union, and no longer the share of the pixels that are right."""
    supernet = small_supernet()
    x, y = batches().tensors
    configs = supernet.space.decode(supernet.space.sample_matrix(3, 0))
    found = evaluate_configs(supernet, configs, [(x[:5], y[:5]), (x[5:], y[5:])], calibration=[x])
    counted, right, expected = y != IGNORED, [], []
    for config in configs:
        network = supernet.extract(config).train()
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0  # the statistics of the one batch
        with torch.no_grad():
            network(x)
            logits = network.eval()(x)
        expected.append(mean_iou(logits, y))
        right.append(int((logits.argmax(1) == y)[counted].sum()))
    assert found == pytest.approx(expected, abs=1e-6)
    assert not counted.all() and min(right) > 0
    assert found != pytest.approx([count / int(counted.sum()) for count in right], abs=1e-2)


def test_architectures_are_ranked_by_the_metric_of_their_task() -> None:
    search = RandomSharing(small_supernet(), candidates=4, finalists=4)
    x, y = batches().tensors
    search.rank([(x, y)])
    with torch.no_grad():
        outputs = [search.supernet.extract(config).train()(x) for config, _ in search.ranking]
    values = [mean_iou(logits, y) for logits in outputs]
    assert [value for _, value in search.ranking] == pytest.approx(values, abs=1e-6)
    assert values == sorted(values, reverse=True) and values[0] > values[-1]
    shares = [float((logits.argmax(1) == y)[y != IGNORED].float().mean()) for logits in outputs]
    assert shares != pytest.approx(values, abs=1e-2)
