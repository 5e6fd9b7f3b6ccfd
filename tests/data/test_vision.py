"""The data sets and their loaders."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchvision.datasets

from oneshot.data import CIFAR10, CIFAR100, Digits, FakeImages, FashionMNIST, ImageSet, VisionData
from oneshot.data.vision import Split


class TinyModel(pl.LightningModule):
    """Learns nothing; records the shapes it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[torch.Size]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen["train"].append(batch[0].shape)
        return (batch[0].mean() * self.weight) ** 2

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.seen["val"].append(batch[0].shape)

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.seen["test"].append(batch[0].shape)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(accelerator="cpu", devices=1, **{"max_epochs": 1, **quiet, **options})


def test_importing_the_folder_does_not_import_torch() -> None:
    code = "import sys, oneshot.data; assert 'Digits' in dir(oneshot.data); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import oneshot.data

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        oneshot.data.Nothing  # noqa: B018


def test_digits_describe_themselves_and_hold_out_a_fixed_stratified_fifth() -> None:
    data = Digits(batch_size=32)
    assert (data.num_classes, data.classes[3], data.input_shape) == (10, "3", (1, 8, 8))
    train, test = data.train_images, data.test_images
    assert (len(train), len(test)) == (1438, 359)
    assert not set(train.rows.tolist()) & set(test.rows.tolist())
    assert torch.bincount(test.labels).min() >= 34
    assert torch.equal(test.rows, Digits(seed=5).test_images.rows)
    assert not torch.equal(test.rows, Digits(split_seed=5).test_images.rows)


def test_digits_are_the_bundled_images_normalised_by_their_own_statistics() -> None:
    from sklearn.datasets import load_digits

    data = Digits()
    original = load_digits().images[data.train_images.rows.numpy()]
    np.testing.assert_allclose(data.mean, [(original / 16).mean()], atol=2e-4)
    np.testing.assert_allclose(data.std, [(original / 16).std()], atol=2e-4)
    x = torch.cat([x for x, _ in data.eval_loader(data.train_images)]).double()
    assert abs(x.mean()) < 1e-6
    np.testing.assert_allclose(x[:, 0] * data.std[0] + data.mean[0], original / 16, atol=0.003)


def test_digits_can_be_enlarged() -> None:
    data = Digits(image_size=16)
    x, _ = next(iter(data.test_dataloader()))
    assert x.shape == (64, 1, 16, 16)
    small, _ = next(iter(Digits().test_dataloader()))
    assert np.corrcoef(torch.nn.functional.avg_pool2d(x, 2).flatten(), small.flatten())[0, 1] > 0.95


def test_digits_cannot_be_shrunk() -> None:
    with pytest.raises(ValueError, match="at least 8, got 4"):
        Digits(image_size=4)


@pytest.mark.parametrize(
    ("data", "padding", "flip"),
    [
        pytest.param(Digits(), 1, False, id="digits"),
        pytest.param(CIFAR10(), 4, True, id="cifar10"),
        pytest.param(FashionMNIST(), 4, True, id="fashion"),
        pytest.param(FakeImages(flip=False, crop_padding=0), 0, False, id="as asked"),
    ],
)
def test_each_data_set_has_a_standard_augmentation(data: VisionData, padding: int, flip: bool) -> None:
    assert (data.augmentation.padding, data.augmentation.flip, data.augmentation.cutout) == (padding, flip, 0)


def test_training_batches_are_augmented_and_test_batches_are_not() -> None:
    data = FakeImages(batch_size=64, train_size=64, cutout=8, mean=[0.0] * 3, std=[1.0] * 3)
    plain = {image.double().sum().item() for image in next(iter(data.eval_loader(data.train_images)))[0]}
    augmented = {image.double().sum().item() for image in next(iter(data.train_dataloader()))[0]}
    assert len(plain & augmented) < 5
    x, y = next(iter(data.test_dataloader()))
    pixels = data.test_images.pixels[torch.arange(64)]
    assert torch.equal((x * 255).round().byte(), pixels)
    assert torch.equal(y, data.test_images.labels)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_the_same_seed_gives_the_same_batches_for_any_number_of_workers() -> None:
    def batches(**options: Any) -> list[torch.Tensor]:
        loader = FakeImages(train_size=50, batch_size=16, cutout=8, num_classes=2, **options).train_dataloader()
        return [torch.cat([x.flatten(), y]) for _ in range(2) for x, y in loader]

    torch.manual_seed(1)
    here = batches()
    torch.manual_seed(2)
    assert len(here) == 6  # the last two images of each pass are dropped
    assert all(map(torch.equal, here, batches(num_workers=2)))
    assert not torch.equal(here[0], here[3])
    assert not torch.equal(here[0], batches(seed=1)[0])


def test_validation_images_are_held_back_from_training_on_request() -> None:
    data = Digits(val_fraction=0.1)
    assert data.val_images is not None
    train, val, test = (set(part.rows.tolist()) for part in (data.train_images, data.val_images, data.test_images))
    assert len(train) + len(val) + len(test) == len(train | val | test) == 1797
    assert len(val) == 144
    assert sum(len(y) for _, y in data.val_dataloader()) == 144
    assert Digits().val_dataloader() == []


def test_lightning_trains_validates_and_tests_on_it() -> None:
    model = TinyModel()
    data = FakeImages(train_size=40, test_size=10, batch_size=12, val_fraction=0.25, num_classes=2)
    runner = trainer(num_sanity_val_steps=0)
    runner.fit(model, datamodule=data)
    runner.test(model, datamodule=data, verbose=False)
    assert [shape[0] for shape in model.seen["train"]] == [12, 12]
    assert [shape[0] for shape in model.seen["val"]] == [10]
    assert model.seen["test"] == [torch.Size([10, 3, 32, 32])]


def test_lightning_skips_validation_when_nothing_is_held_back() -> None:
    model = TinyModel()
    with pytest.warns(UserWarning, match="Total length of `list` across ranks is zero"):
        trainer().fit(model, datamodule=FakeImages(train_size=12, batch_size=12, num_classes=2))
    assert (len(model.seen["train"]), len(model.seen["val"])) == (1, 0)


def test_lightning_gets_another_order_each_epoch_and_the_same_one_when_it_starts_there() -> None:
    class Recorder(TinyModel):
        def __init__(self) -> None:
            super().__init__()
            self.sums: list[float] = []

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
            self.sums.append(batch[0].sum().item())
            return super().training_step(batch, batch_idx)

    model, data = Recorder(), FakeImages(train_size=16, batch_size=8, num_classes=2, seed=4)
    trainer(max_epochs=3, limit_val_batches=0).fit(model, datamodule=data)
    assert len(set(model.sums)) == 6
    later = data.train_loader(data.train_images, epoch=2)
    assert [x.sum().item() for x, _ in later] == model.sums[4:]


def test_fake_images_are_seeded_and_balanced() -> None:
    one, same, other = FakeImages(), FakeImages(), FakeImages(seed=1)
    rows = torch.arange(256)
    assert torch.equal(one.train_images.pixels[rows], same.train_images.pixels[rows])
    assert not torch.equal(one.train_images.pixels[rows], other.train_images.pixels[rows])
    assert torch.bincount(one.train_images.labels).tolist() == [26] * 6 + [25] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, r"at least two classes; got \('0',\)"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\); got 1.0"),
        ({"crop_padding": 33}, "crop_padding must be between 0 and the image's side of 32; got 33"),
        ({"cutout": -1}, "cutout must be between 0 and the image's side of 32; got -1"),
        ({"mean": [0.5] * 3}, r"mean and std belong together; got mean=\[0.5, 0.5, 0.5\], std=None"),
        ({"mean": [0.5], "std": [0.5]}, "one number per channel, 3"),
        ({"mean": [0.5] * 3, "std": [0.5, 0.5, 0.0]}, "std must be positive"),
        ({"device": "cuda", "num_workers": 2}, "cannot be shared with worker processes; got num_workers=2"),
    ],
)
def test_an_argument_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FakeImages(**options)


def test_fewer_training_images_than_a_batch_are_refused() -> None:
    data = FakeImages(train_size=20, batch_size=21)
    with pytest.raises(ValueError, match=r"train stream needs at least one full batch of 21 images; it has 20\. Lower"):
        data.train_dataloader()


class Awkward(VisionData):
    """Returns what it is told to."""

    def __init__(self, parts: dict[Split, ImageSet | None], **options: Any) -> None:
        super().__init__(("a", "b"), (1, 4, 4), **options)
        self.parts = parts

    def load(self, split: Split) -> ImageSet | None:
        return self.parts[split]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_data_set_must_have_training_and_test_images(split: Split) -> None:
    some = FakeImages(num_classes=2, input_shape=(1, 4, 4)).train_images
    parts: dict[Split, ImageSet | None] = {"train": some, "val": None, "test": some}
    with pytest.raises(RuntimeError, match=rf"Awkward.load\('{split}'\) must return images"):
        Awkward({**parts, split: None}).setup()


def test_a_data_set_with_validation_images_of_its_own_refuses_to_hold_back_more() -> None:
    some = FakeImages(num_classes=2, input_shape=(1, 4, 4)).train_images
    with pytest.raises(ValueError, match=r"val_fraction=0.1 holds .* Use val_fraction=0"):
        Awkward({"train": some, "val": some, "test": some}, val_fraction=0.1).setup()


def test_images_on_another_device_make_batches_there() -> None:
    data = FakeImages(train_size=8, batch_size=4, num_classes=2, device="meta", mean=[0.5] * 3, std=[0.5] * 3)
    x, y = next(iter(data.eval_loader(data.train_images)))
    assert x.device.type == y.device.type == "meta"
    assert x.shape == (4, 3, 32, 32)


@pytest.mark.gpu
def test_batches_are_the_same_on_a_gpu() -> None:
    on_cpu, on_gpu = (FakeImages(cutout=8, device=device).train_dataloader() for device in ("cpu", "cuda"))
    for (x, y), (gpu_x, gpu_y) in zip(on_cpu, on_gpu, strict=True):
        assert gpu_x.is_cuda
        torch.testing.assert_close(x, gpu_x.cpu(), rtol=1e-6, atol=1e-6)
        assert torch.equal(y, gpu_y.cpu())


@pytest.mark.parametrize("dataset", [CIFAR10, CIFAR100, FashionMNIST])
def test_a_missing_folder_is_named_and_left_alone(dataset: Callable[..., VisionData], tmp_path: Path) -> None:
    data = dataset(tmp_path / "nowhere")
    data.prepare_data()
    with pytest.raises(FileNotFoundError, match=r"/nowhere', which does not hold .* pass download=True"):
        data.setup()
    assert not list(tmp_path.iterdir())


def test_fashion_mnist_is_read_from_its_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(256, size=(20, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        header = struct.pack(">IIII", 0x803, 20, 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 20) + bytes([*range(10)] * 2))
    data = FashionMNIST(tmp_path, batch_size=20)
    x, y = next(iter(data.test_dataloader()))
    np.testing.assert_allclose(x[:, 0], (images / 255 - 0.286) / 0.353, atol=1e-5)
    assert y.tolist() == [i % 10 for i in range(20)]


def test_cifar_is_downloaded_on_request_and_turned_to_channels_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[bool, bool]] = []
    images = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)

    def fake(root: Path, *, train: bool, download: bool) -> SimpleNamespace:
        calls.append((train, download))
        return SimpleNamespace(data=images, targets=[3, 1, 99, 0])

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fake)
    data = CIFAR100(tmp_path, download=True, batch_size=4)
    data.prepare_data()
    assert calls == [(True, True), (False, True)]
    x, y = next(iter(data.test_dataloader()))
    expected = (images.transpose(0, 3, 1, 2) / 255 - np.reshape(data.mean, (3, 1, 1))) / np.reshape(data.std, (3, 1, 1))
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert y.tolist() == [3, 1, 99, 0]
    assert data.num_classes == 100


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(torch.arange(6).float(), "whole numbers.* got torch.float32", id="numbers"),
        pytest.param(torch.arange(6) % 3 - 1, "from 0 to 2 .* got -1", id="negative"),
        pytest.param(torch.arange(6) % 3 + 1, "from 0 to 2 .* got 3", id="from 1"),
        pytest.param(torch.eye(3).repeat(2, 1), r"load\('train'\) gave 6 .* of shape \[6, 3\]", id="one-hot"),
        pytest.param(torch.arange(5) % 3, r"gave 6 images and labels of shape \[5\]", id="one too few"),
    ],
)
def test_labels_that_are_no_classes_are_refused_when_they_are_read(labels: torch.Tensor, message: str) -> None:
    class Own(VisionData):
        def load(self, split: Split) -> ImageSet:
            pixels = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
            return ImageSet(pixels, labels, torch.arange(6))

    with pytest.raises(ValueError, match=message):
        Own(("a", "b", "c"), (1, 8, 8), batch_size=2).setup("fit")
