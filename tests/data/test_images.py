"""Splits, statistics, augmentation and shuffling, without Lightning."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import scipy.stats
import torch
from torchvision import transforms

from oneshot.data import Augmentation, ImageSet, channel_statistics, stratified_split
from oneshot.data.images import ImageStream, ShuffleSampler, cutout, normalise, shift_and_flip

MEAN, STD = (0.5,), (0.25,)


def image_set(count: int = 10, side: int = 4) -> ImageSet:
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, side, side)
    return ImageSet.whole(pixels, torch.arange(count) % 2)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.7])
def test_a_split_is_disjoint_covers_everything_and_keeps_every_class_in_proportion(fraction: float) -> None:
    labels = torch.tensor([0] * 11 + [1] * 30 + [2] * 7)[torch.randperm(48)]
    first, second = stratified_split(labels, fraction, seed=3)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(48))
    assert abs(len(second) - fraction * 48) <= 0.5
    for label, size in enumerate([11, 30, 7]):
        assert abs(int((labels[second] == label).sum()) - fraction * size) <= 1


def test_a_split_depends_on_its_seed_and_on_nothing_else() -> None:
    labels = torch.arange(100) % 4
    split = stratified_split(labels, 0.5, seed=1)[0]
    torch.rand(3), np.random.rand(3)
    assert torch.equal(split, stratified_split(labels, 0.5, seed=1)[0])
    assert not torch.equal(split, stratified_split(labels, 0.5, seed=2)[0])


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_every_class_is_in_both_parts_however_uneven_they_are(fraction: float) -> None:
    labels = torch.arange(20) % 4
    for part in stratified_split(labels, fraction, seed=0):
        assert set(labels[part].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_split_refuses_a_fraction_that_leaves_a_part_empty(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"strictly between 0 and 1; got {fraction}"):
        stratified_split(torch.arange(10) % 2, fraction, seed=0)


def test_a_split_refuses_a_class_with_a_single_image() -> None:
    with pytest.raises(ValueError, match=r"at least 2 images .* class 7 has 1"):
        stratified_split(torch.tensor([0, 0, 7]), 0.5, seed=0)


def test_statistics_equal_numpy_in_float64() -> None:
    images = torch.randint(256, (50, 3, 5, 7), dtype=torch.uint8)
    images[:, 1] //= 3
    mean, std = channel_statistics(images)
    reference = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, reference.mean((0, 2, 3)), rtol=1e-12, atol=0)
    np.testing.assert_allclose(std, reference.std((0, 2, 3)), rtol=1e-12, atol=0)


def test_statistics_refuse_a_channel_without_contrast() -> None:
    images = torch.randint(256, (5, 2, 4, 4), dtype=torch.uint8)
    images[:, 1] = 255
    with pytest.raises(ValueError, match=r"channel 1 of 5 training images is 1\.000 everywhere"):
        channel_statistics(images)


def test_normalised_images_have_mean_zero_and_deviation_one() -> None:
    images = torch.randint(256, (40, 2, 8, 8), dtype=torch.uint8)
    x = normalise(images, *channel_statistics(images)).double()
    assert x.mean((0, 2, 3)).abs().max() < 1e-6
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(2).double(), rtol=1e-6, atol=0)


def test_a_crop_equals_slicing_the_padded_image() -> None:
    images = torch.randint(256, (6, 3, 5, 7), dtype=torch.uint8)
    top, left = torch.tensor([0, 1, 2, 3, 4, 2]), torch.tensor([4, 3, 2, 1, 0, 2])
    flip = torch.tensor([False, True, False, True, False, True])
    crops = shift_and_flip(images, top, left, flip, 2)
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)])
    for i in range(6):
        crop = padded[i, :, top[i] : top[i] + 5, left[i] : left[i] + 7]
        np.testing.assert_array_equal(crops[i].numpy(), crop[..., ::-1] if flip[i] else crop)


def test_crop_offsets_are_uniform_and_reach_both_extremes() -> None:
    images = torch.zeros(20_000, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 4, 3] = 255
    x = Augmentation(padding=2)(images, (0.0,), (1.0,), torch.Generator().manual_seed(0))
    _, _, row, column = x.nonzero(as_tuple=True)
    for found, centre in ((row, 4), (column, 3)):
        counts = torch.bincount(found - (centre - 2), minlength=5)
        assert counts.shape == (5,)
        assert ((counts / 20_000 - 0.2).abs() < 0.015).all()  # five standard errors
    assert abs(np.corrcoef(row, column)[0, 1]) < 0.04


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.zeros(10_000, 1, 2, 4, dtype=torch.uint8)
    images[..., 0] = 255
    x = Augmentation(flip=True)(images, (0.0,), (1.0,), torch.Generator().manual_seed(0))
    mirrored = x[:, 0, 0, 3] == 1
    assert torch.equal(~mirrored, x[:, 0, 0, 0] == 1)
    assert abs(mirrored.float().mean() - 0.5) < 0.025


@pytest.mark.parametrize("length", [3, 4])
def test_cutout_zeroes_a_clipped_square_whose_centre_may_be_any_pixel(length: int) -> None:
    row, column = (grid.flatten() for grid in torch.meshgrid(torch.arange(6), torch.arange(9), indexing="ij"))
    images = cutout(torch.ones(54, 2, 6, 9), row, column, length)
    for image, y, x in zip(images, row.tolist(), column.tolist(), strict=True):
        expected = np.ones((2, 6, 9), dtype=np.float32)
        y0, x0 = y - length // 2, x - length // 2
        expected[:, max(y0, 0) : max(y0 + length, 0), max(x0, 0) : max(x0 + length, 0)] = 0
        np.testing.assert_array_equal(image.numpy(), expected)
    areas = (images[:, 0] == 0).sum((1, 2))
    assert areas.max() == length**2
    assert areas.min() < length**2


def test_cutout_is_zero_after_normalisation_and_uniform_in_its_centre() -> None:
    images = torch.full((20_000, 1, 4, 4), 200, dtype=torch.uint8)
    x = Augmentation(cutout=1)(images, MEAN, STD, torch.Generator().manual_seed(0))
    share = (x == 0).float().mean((0, 1))
    assert ((share - 1 / 16).abs() < 0.009).all()
    assert (x == 0).sum() == 20_000
    torch.testing.assert_close(x.max().item(), (200 / 255 - 0.5) / 0.25, rtol=1e-6, atol=0)


def test_an_augmentation_without_parts_only_normalises() -> None:
    images = torch.randint(256, (4, 1, 4, 4), dtype=torch.uint8)
    assert torch.equal(Augmentation()(images, MEAN, STD, torch.Generator()), normalise(images, MEAN, STD))


def test_switching_one_part_off_leaves_the_others_draws_alone() -> None:
    images = torch.randint(1, 256, (50, 1, 8, 8), dtype=torch.uint8)
    with_flip = Augmentation(0, True, 4)(images, MEAN, STD, torch.Generator().manual_seed(1))
    without = Augmentation(0, False, 4)(images, MEAN, STD, torch.Generator().manual_seed(1))
    assert torch.equal(with_flip == 0, without == 0)


def test_one_item_of_a_stream_is_an_image_and_its_label() -> None:
    x, y = ImageStream(image_set(), MEAN, STD)[3]
    assert x.shape == (1, 4, 4)
    assert y == 1
    torch.testing.assert_close(x, torch.full((1, 4, 4), (3 / 255 - 0.5) / 0.25))


def test_augmentation_follows_the_draw_and_not_the_global_state() -> None:
    stream = ImageStream(image_set(), MEAN, STD, Augmentation(1, True, 2))
    first = stream.__getitems__([(i, 7) for i in range(10)])[0]
    assert torch.equal(first, stream.__getitems__([(i, 7) for i in range(10)])[0])
    assert not torch.equal(first, stream.__getitems__([(i, 8) for i in range(10)])[0])


def test_plain_indices_are_augmented_from_the_global_state() -> None:
    stream = ImageStream(image_set(), MEAN, STD, Augmentation(1, True, 2))
    torch.manual_seed(1)
    first, second = stream.__getitems__(range(10))[0], stream.__getitems__(range(10))[0]
    torch.manual_seed(1)
    assert torch.equal(first, stream.__getitems__(range(10))[0])
    assert not torch.equal(first, second)


def test_the_order_depends_on_seed_stream_epoch_and_pass() -> None:
    dataset = ImageStream(image_set(), MEAN, STD)

    def order(seed: int = 0, stream: int = 0, epoch: int = 0, passes: int = 1) -> list[tuple[int, int]]:
        sampler = ShuffleSampler(dataset, seed=seed, stream=stream)
        sampler.set_epoch(epoch)
        return [list(sampler) for _ in range(passes)][-1]

    assert order() == order()
    assert sorted(index for index, _ in order()) == list(range(10))
    assert order() not in (order(seed=1), order(stream=1), order(epoch=1), order(passes=2))


def test_announcing_the_current_epoch_again_does_not_repeat_a_pass() -> None:
    sampler = ShuffleSampler(ImageStream(image_set(), MEAN, STD), seed=0)
    first = list(sampler)
    sampler.set_epoch(0)
    assert list(sampler) != first
    sampler.set_epoch(1)
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_processes_share_one_order_and_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = ImageStream(image_set(11), MEAN, STD)
    alone = list(ShuffleSampler(dataset, seed=0))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        parts.append(list(ShuffleSampler(dataset, seed=0)))
    assert parts == [alone[0:10:2], alone[1:10:2]]


# Equal in distribution to what others use.


def frequencies(samples: torch.Tensor) -> dict[bytes, int]:
    """How often each picture occurs among ``[N, ...]``."""
    return dict(Counter(sample.numpy().tobytes() for sample in samples))


def assert_uniform(counts: dict[bytes, int], outcomes: int) -> None:
    assert len(counts) == outcomes
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_crop_and_flip_are_torchvisions_in_distribution() -> None:
    """Every picture that one can make, the other makes, too, and both make all equally often."""
    n, image = 18 * 400, torch.arange(1, 17, dtype=torch.uint8).view(1, 4, 4)
    generator = torch.Generator().manual_seed(0)
    augmentation = Augmentation(padding=1, flip=True)
    ours = augmentation(image.expand(n, 1, 4, 4), (0.0,), (1 / 255,), generator).to(torch.uint8)
    torch.manual_seed(0)
    transform = transforms.Compose([transforms.RandomCrop(4, padding=1), transforms.RandomHorizontalFlip()])
    theirs = torch.stack([transform(image) for _ in range(n)])

    ours_counts, theirs_counts = frequencies(ours), frequencies(theirs)
    assert ours_counts.keys() == theirs_counts.keys()
    for counts in (ours_counts, theirs_counts):
        assert_uniform(counts, 3 * 3 * 2)

    never_flipped = Augmentation(padding=1)(image.expand(n, 1, 4, 4), (0.0,), (1 / 255,), generator).to(torch.uint8)
    assert frequencies(never_flipped).keys() != theirs_counts.keys()


def test_cutout_is_the_authors_in_distribution() -> None:
    """A centre anywhere, the square clipped at the border (arXiv:1708.04552, the authors' code)."""
    n, length = 25 * 400, 2
    generator = torch.Generator().manual_seed(0)
    images = torch.full((n, 1, 5, 5), 255, dtype=torch.uint8)
    ours = Augmentation(cutout=length)(images, (0.0,), (1.0,), generator).round().to(torch.uint8)
    possible = set()
    for row in range(5):
        for column in range(5):
            mask = np.ones((1, 5, 5), np.uint8)
            top, left = max(row - length // 2, 0), max(column - length // 2, 0)
            mask[0, top : row + length // 2, left : column + length // 2] = 0
            possible.add(mask.tobytes())
    assert frequencies(ours).keys() == possible
    assert_uniform(frequencies(ours), 25)
