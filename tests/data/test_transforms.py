"""Transforms of torchvision in the streams of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from oneshot.data import FakeImages, ImageFolder, SearchDataModule, Shapes
from oneshot.deploy.preprocessing import WithPreprocessing, differences

NEUTRAL: Any = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}  # batches are the pixels


class Draws(nn.Module):
    """An image of three random numbers, one of each generator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import random

        values = [int(torch.randint(256, ())), int(np.random.randint(256)), random.randrange(256)]
        return torch.tensor(values, dtype=torch.uint8)[:, None, None].expand_as(x).contiguous()


def fake(**options: Any) -> FakeImages:
    return FakeImages(input_shape=(3, 8, 12), train_size=32, batch_size=8, **NEUTRAL, **options)


def test_training_images_are_transformed_and_others_are_not() -> None:
    data = fake(train_transforms=[v2.RandomHorizontalFlip(1.0), v2.RandomVerticalFlip(1.0)])
    pixels = {tuple(image.flatten().tolist()) for image in data.train_set.pixels.float()}  # type: ignore[attr-defined]  # a tensor
    for x, _ in data.train_dataloader():
        assert all(tuple(image.flip(1, 2).flatten().tolist()) in pixels for image in x)
    tests = next(iter(data.eval_loader(data.train_set, batch_size=32)))[0]
    assert torch.equal(tests, data.train_set.pixels.float())  # type: ignore[attr-defined]  # a tensor
    assert data.preprocessing == fake().preprocessing


def test_every_image_has_random_numbers_of_its_own_which_follow_from_the_seed() -> None:
    def batches(seed: int) -> list[torch.Tensor]:
        loader = fake(seed=seed, train_transforms=[Draws()]).train_dataloader()
        state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]  # a tuple
        found = [x[:, :, 0, 0] for x, _ in loader]
        assert torch.equal(torch.get_rng_state(), state[0])  # nobody's random numbers are touched
        assert np.random.get_state()[1].tolist() == state[1]  # type: ignore[index,union-attr]  # a tuple
        return found

    first = batches(0)
    assert len({tuple(row.tolist()) for x in first for row in x}) == 32
    torch.manual_seed(7)
    assert all(map(torch.equal, first, batches(0))) and not any(map(torch.equal, first, batches(1)))


def test_a_stream_with_transforms_is_resumed_within_an_epoch() -> None:
    def loader() -> Any:
        return SearchDataModule(
            fake(train_transforms=[v2.RandomResizedCrop((8, 12)), v2.ColorJitter(0.5)])
        ).train_dataloader()

    whole = [x for x, _ in loader()["arch"]]
    begun = loader()["arch"]
    stopped = iter(begun)
    next(stopped)
    again = loader()["arch"]
    again.load_state_dict(begun.state_dict())
    assert len(whole) == 2 and all(map(torch.equal, whole[1:], [x for x, _ in again]))


def test_transforms_for_evaluation_are_said_in_the_manifest_and_not_exported_in_silence() -> None:
    data = fake(eval_transforms=[v2.RandomInvert(1.0)], test_size=8)
    x = next(iter(data.test_dataloader()))[0]
    assert torch.equal(x, 255 - data.test_set.pixels.float())  # type: ignore[operator]  # a tensor
    assert torch.equal(next(iter(data.predict_dataloader())), x)
    said = data.preprocessing
    assert json.loads(json.dumps(said)) == said and said["transforms"] == ["RandomInvert(p=1.0)"]
    assert said["steps"][-2:] == ["pixels = RandomInvert(p=1.0)(pixels), uint8", fake().preprocessing["steps"][-1]]
    with pytest.raises(ValueError, match=r"Transforms cannot become part of a file: RandomInvert\(p=1\.0\)"):
        WithPreprocessing(nn.Identity(), said)
    assert differences(said, fake().preprocessing) == ["transforms was ['RandomInvert(p=1.0)'], is None"]
    assert "eval transforms" in data.fingerprint() and "eval transforms" not in fake().fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_transforms": [v2.RandomCrop(6)]}, r"uint8 \[3, 8, 12\] .*RandomCrop, gave torch.uint8 \[3, 6, 6\]"),
        ({"train_transforms": [v2.ToDtype(torch.float32, scale=True)]}, r"ToDtype, gave torch.float32 \[3, 8, 12\]"),
        ({"eval_transforms": [v2.ToPILImage()]}, "eval_transforms must give .* ToPILImage, gave a Image"),
        ({"eval_transforms": [v2.Normalize((0.0,), (1.0,))]}, "eval_transforms: Normalize cannot transform an image"),
        ({"eval_transforms": [v2.RandomHorizontalFlip()]}, "the same image every time; .*p=0.5.* are random"),
        ({"train_transforms": ["flip"]}, "must be a list of transforms; 'flip' cannot be called"),
        ({"train_transforms": [v2.RandomInvert()], "flip": True}, "come instead of crop_padding, flip and cutout"),
        ({"train_transforms": [v2.RandomInvert()], "device": "meta"}, "Transforms work on images in the CPU's memory"),
    ],
)
def test_transforms_that_do_not_fit_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fake(**options)


def test_masks_would_not_follow() -> None:
    with pytest.raises(ValueError, match="train_transforms change images and not their masks"):
        Shapes(train_transforms=[v2.RandomHorizontalFlip()])


def wide_images(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("down", "up"):
        (root / kind).mkdir(parents=True)
        for number in range(24):
            pixels = rng.integers(100, size=(20, 60, 3), dtype=np.uint8)
            pixels[slice(0, 10) if kind == "up" else slice(10, 20)] += 120
            Image.fromarray(pixels).save(root / kind / f"{number}.png")
    return root


def test_a_folder_of_wide_images_is_resized_to_a_rectangle(tmp_path: Path) -> None:
    data = ImageFolder(wide_images(tmp_path / "wide"), image_size=(16, 48), train_transforms=[v2.TrivialAugmentWide()])
    x, _ = next(iter(SearchDataModule(data, batch_size=8).train_dataloader()["weights"]))
    assert (
        data.input_shape == (3, 16, 48) and x.shape == (8, 3, 16, 48) and data.preprocessing["image_size"] == [16, 48]
    )
