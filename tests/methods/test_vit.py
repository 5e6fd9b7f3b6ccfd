"""Vision transformers are trained by single paths, as AutoFormer does, and by the sandwich rule, up to an export."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

import oneshot
from oneshot.cli.main import main
from oneshot.cli.run import RunFolder
from oneshot.cost import count
from oneshot.deploy.export import export_subnet, load
from oneshot.engine.module import SearchModule
from oneshot.supernets import ViTNetwork, ViTSupernet
from oneshot.testing import fit
from oneshot.testing.methods import stripes

SPACE: dict[str, Any] = {"embed_dims": [8, 16], "depths": [1, 2], "heads": [1, 2], "mlp_ratios": [1, 2], "head_dim": 8}
IMAGES: dict[str, Any] = {"num_classes": 2, "in_channels": 1, "image_size": 8, "patch_size": 2, "max_distance": 3}
ADAMW = partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.05)
DRAWN: dict[str, Any] = {"candidates": 8, "finalists": 2, "weight_optimizer": ADAMW, "weight_decay_norms": False}
METHODS: dict[str, Callable[[ViTSupernet], SearchModule]] = {
    "RandomSharing": lambda supernet: oneshot.RandomSharing(supernet, **DRAWN),
    "RandomSharing with dropped paths": lambda supernet: oneshot.RandomSharing(supernet, **DRAWN, drop_path=0.1),
    "BigNAS": lambda supernet: oneshot.BigNAS(supernet, **DRAWN),
}


def vit(**options: Any) -> ViTSupernet:
    torch.manual_seed(1)
    return ViTSupernet(
        **{**IMAGES, **{key: tuple(v) if isinstance(v, list) else v for key, v in SPACE.items()}, **options}
    )


def loaders(seed: int, height: int = 8) -> dict[str, Any]:
    """Rows and columns of alternating sign, which patches tell apart by what is inside of them."""
    drawn = (stripes(512, seed + i) for i in range(2))
    sets = (torch.utils.data.TensorDataset(x[:, :, :height], y) for x, y in drawn)
    return {
        name: torch.utils.data.DataLoader(images, 32, shuffle=True)
        for name, images in zip(("weights", "arch"), sets, strict=True)
    }


@pytest.mark.parametrize("name", METHODS)
def test_a_search_learns_and_what_it_derives_is_exported(name: str, tmp_path: Path) -> None:
    supernet = vit()
    search = METHODS[name](supernet)
    x, y = stripes(256, 99)

    fit(search, loaders(1), epochs=8)

    supernet.eval()
    for config in (supernet.space.smallest, supernet.space.largest, search.derive()):
        with torch.no_grad():
            assert (supernet(x, config).argmax(1) == y).float().mean() > 0.9  # by chance 0.5
    network = supernet.extract(search.derive())
    again = load(export_subnet(network, tmp_path / "net", formats=()))
    with torch.no_grad():
        expected = supernet(x, search.derive())
        assert torch.equal(network.eval()(x), expected)
        torch.testing.assert_close(again(x), expected, rtol=1e-5, atol=1e-5)  # a file has the usual layout in memory
    assert again.config == search.derive()


def test_single_paths_train_what_they_use_and_nothing_else() -> None:
    supernet = vit()
    search = oneshot.RandomSharing(supernet, **{**DRAWN, "weight_optimizer": partial(torch.optim.SGD, lr=0.1)})
    smallest = supernet.space.smallest
    search.sample = lambda rng: smallest  # type: ignore[method-assign]  # always one architecture
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}

    fit(search, loaders(1), epochs=1, limit_train_batches=2)

    after = supernet.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(supernet.extract(smallest).state_dict())
    fc1 = after["stages.0.0.fc1.weight"] != before["stages.0.0.fc1.weight"]
    assert fc1[:8, :8].any() and not fc1[8:].any() and not fc1[:, 8:].any()


def test_images_need_not_be_squares() -> None:
    supernet = vit(image_size=(4, 8))
    search = oneshot.BigNAS(supernet, **DRAWN)

    fit(search, loaders(1, height=4), epochs=8)

    network = supernet.extract(search.derive()).eval()
    x, y = stripes(256, 99)
    with torch.no_grad():
        assert (network(x[:, :, :4]).argmax(1) == y).float().mean() > 0.9
    assert network.input_shape == (1, 4, 8)


def test_a_network_is_retrained_with_stochastic_depth() -> None:
    supernet = vit()
    network = supernet.extract(supernet.space.largest, inherit=False)
    assert isinstance(network, ViTNetwork)
    retrain = oneshot.Retrain(network, lr=0.1, drop_path=0.2)
    seen: list[float] = []
    network.stages[0][-1].register_forward_hook(  # type: ignore[index, union-attr]  # ModuleList is untyped
        lambda block, x, y: seen.append(float(block.drop_path))
    )

    fit(retrain, loaders(1)["weights"], epochs=3, limit_train_batches=1)  # type: ignore[arg-type]  # also trained so

    assert seen == pytest.approx([0.0, 0.2 / 3, 0.4 / 3])


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by NAT on the command line; classes, channels and image size come from the data."""
    folder = tmp_path_factory.mktemp("runs") / "vit"
    supernet = {"class_path": "oneshot.supernets.ViTSupernet", "init_args": {**SPACE, "patch_size": 2}}
    small = {"warmup_epochs": 1, "iterations": 1, "adapt_epochs": 1, "initial": 10, "batch": 3, "population": 10}
    options = {**small, "generations": 3, "objectives": ["macs", "params"], "supernet": supernet, "weight_lr": 0.05}
    config = {
        "seed_everything": 3,
        "model": {"class_path": "oneshot.NAT", "init_args": options},
        "data": {"class_path": "oneshot.data.Digits", "init_args": {"batch_size": 64, "val_fraction": 0.2}},
        "trainer": {"max_epochs": 2, "limit_train_batches": 4, "log_every_n_steps": 1, "accelerator": "cpu"},
    }
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    assert main(["pareto", "--config", str(file), *quiet, "--out", str(folder)]) == 0
    return folder


def test_a_network_of_nats_front_is_picked_and_exported(
    front: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "picked"
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # as in a process of its own

    assert main(["pick", str(front), "--knee", "--out", str(out)]) == 0

    manifest = json.loads((out / "manifest.json").read_text())
    network = load(out)
    assert isinstance(network, ViTNetwork) and network.input_shape == (1, 8, 8)
    accuracy = manifest["metrics"]["val/accuracy"]
    assert accuracy == pytest.approx(1 - manifest["metrics"]["front/error"], abs=1e-6)
    assert RunFolder(front).datamodule().seed == 3  # it chose the validation images
    assert "PL_GLOBAL_SEED" not in os.environ
    counts = count(network, (1, 8, 8))
    assert manifest["metrics"]["front/macs"] == counts.macs == manifest["macs"]
    assert manifest["metrics"]["front/params"] == counts.params == manifest["params"]
    assert network(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_distillation_is_as_for_other_networks() -> None:
    """The smallest network learns the largest one's predictions."""
    supernet = vit()
    search = oneshot.BigNAS(supernet, **DRAWN)
    fit(search, loaders(1), epochs=8)
    x, _ = stripes(256, 99)
    with torch.no_grad():
        small, large = (supernet.eval()(x, c) for c in (supernet.space.smallest, supernet.space.largest))
    assert F.kl_div(small.log_softmax(1), large.softmax(1), reduction="batchmean") < 0.2
