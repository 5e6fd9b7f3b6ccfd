"""Lightning's tuner on searches and trainings: it works, or is refused in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.tuner import Tuner

from oneshot.data import FakeImages, SearchDataModule
from oneshot.engine.gradient import BilevelSearch
from oneshot.engine.samplers import SoftmaxSampler
from oneshot.methods.random_sharing import RandomSharing
from oneshot.supernets.nasbench201 import NASBench201Network
from oneshot.testing import PlantedSupernet
from oneshot.training.retrain import Retrain

ARCH = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"


def fake(**options: Any) -> FakeImages:
    return FakeImages(num_classes=2, input_shape=(1, 8, 8), train_size=64, test_size=8, batch_size=4, **options)


def held_back() -> FakeImages:
    return fake(val_fraction=0.25)


def retrain() -> Retrain:
    return Retrain(NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=2, in_channels=1, image_size=8))


def trainer(folder: Path) -> pl.Trainer:
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    settings = {"accelerator": "cpu", "max_epochs": 2, "enable_model_summary": False, "limit_val_batches": 1}
    return pl.Trainer(default_root_dir=folder, **settings, **quiet)


MODULES = pytest.mark.parametrize(
    ("build", "data"),
    [
        pytest.param(
            lambda: BilevelSearch(PlantedSupernet(channels=4), SoftmaxSampler(), ema_decay=0.9, accumulate=2),
            lambda: SearchDataModule(fake()),
            id="bilevel",
        ),
        pytest.param(
            lambda: RandomSharing(PlantedSupernet(channels=4), candidates=2, finalists=1),
            lambda: SearchDataModule(fake()),
            id="paths",
        ),
        pytest.param(retrain, held_back, id="retrain"),
    ],
)


@MODULES
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval", "ignore:.*weights_only")
def test_scale_batch_size_finds_one_and_leaves_the_training_as_it_was(
    build: Callable[[], Any], data: Callable[[], Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, module_data, fit = build(), data(), trainer(tmp_path)
    before = copy.deepcopy(module.state_dict())
    size = Tuner(fit).scale_batch_size(module, datamodule=module_data, max_trials=2, steps_per_trial=2, init_val=4)
    assert size == module_data.batch_size == 8
    torch.testing.assert_close(module.state_dict(), before, rtol=0.0, atol=0.0, equal_nan=True)
    assert list(tmp_path.iterdir()) == []
    tuned = trainer(tmp_path)
    tuned.fit(module, datamodule=module_data)
    torch.manual_seed(0)
    other, other_data = build(), data()
    other_data.batch_size = 8
    trainer(tmp_path).fit(other, datamodule=other_data)
    torch.testing.assert_close(module.state_dict(), other.state_dict(), rtol=0.0, atol=0.0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval", "ignore:.*weights_only")
def test_lr_find_works_for_a_retraining(tmp_path: Path) -> None:
    module = retrain()
    before = copy.deepcopy(module.network.state_dict())
    found: Any = Tuner(trainer(tmp_path)).lr_find(module, datamodule=held_back(), num_training=10, update_attr=False)
    assert len(found.results["loss"]) >= 8
    torch.testing.assert_close(module.network.state_dict(), before, rtol=0.0, atol=0.0, equal_nan=True)


def test_lr_find_is_refused_for_a_search_in_one_line(tmp_path: Path) -> None:
    module = BilevelSearch(PlantedSupernet(channels=4), SoftmaxSampler())
    with pytest.raises(ValueError, match="lr_find moves the one .*weight_lr of BilevelSearch by short fits"):
        Tuner(trainer(tmp_path)).lr_find(module, datamodule=SearchDataModule(fake()), attr_name="weight_lr")
