"""Images to evaluate and to calibrate with: of all classes, always the same ones."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from oneshot.data import ImageFolder
from oneshot.evaluation.images import calibration_images, mixed, shuffled


def test_mixed_batches_are_of_all_images_always_the_same_and_cost_no_random_numbers() -> None:
    loader = DataLoader(TensorDataset(torch.arange(24)), batch_size=8)
    state = torch.get_rng_state()
    ((batch,),) = mixed(loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(batch) == 8 and batch.max() - batch.min() > 12
    assert [x.tolist() for (x,) in mixed(loader)] == [batch.tolist()]
    assert sorted(itertools.chain(*(x.tolist() for (x,) in shuffled(loader)))) == [*range(24)]
    assert [x.tolist() for (x,) in mixed([*loader])] == [[*range(8)]]
    assert [len(x) for (x,) in mixed(DataLoader(TensorDataset(torch.arange(4))))] == [2]


def test_calibration_images_are_of_all_classes_where_a_folder_lists_one_after_the_other(tmp_path: Path) -> None:
    for value, name in ((0, "black"), (128, "grey"), (255, "white")):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(tmp_path / name / f"{i:02}.png")
    data = ImageFolder(tmp_path, batch_size=4, val_fraction=0.25)
    data.setup("fit")
    found = calibration_images(data, 18, batch_size=6)
    assert len(found) == 18 and len(found.unique()) == 3
    assert torch.equal(calibration_images(data, 18, batch_size=5), found), "the same ones every time"
    assert all(len(part.unique()) > 1 for part in found.split(6)), "and mixed"
    assert len(calibration_images(data, 1000)) == len(data.train_images) == 36
