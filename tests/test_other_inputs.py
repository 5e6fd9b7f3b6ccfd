"""Networks for series, volumes, texts and tables learn, and are exported with every candidate in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from oneshot.deploy.export import export_subnet
from oneshot.supernets import MLPSupernet, SeriesSupernet, TextSupernet, VolumeSupernet
from oneshot.supernets.base import OperationSupernet
from oneshot.training.retrain import Retrain

CLASSES, WORDS = 3, 11
SMALL: dict[str, Any] = {"channels": 4, "num_classes": CLASSES, "layers_per_stage": 1}
SPACES: dict[str, Callable[[], OperationSupernet]] = {
    "series": lambda: SeriesSupernet(**SMALL, in_channels=2, length=13),
    "volume": lambda: VolumeSupernet(**SMALL, volume_size=(5, 9, 6)),
    "text": lambda: TextSupernet(**SMALL, vocabulary=WORDS, length=7),
    "table": lambda: MLPSupernet(width=8, layers=3, features=5, num_classes=CLASSES, dropout=0.1),
}


class SmallData(pl.LightningDataModule):
    """Classes that differ in their mean, or in the words they have."""

    def __init__(self, supernet: OperationSupernet) -> None:
        super().__init__()
        self.input_shape, self.num_classes = supernet.input_shape, CLASSES
        self.words = isinstance(supernet, TextSupernet)

    def batch(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        generator, y = torch.Generator().manual_seed(seed), torch.arange(n) % CLASSES
        if self.words:
            return torch.randint(3, (n, *self.input_shape), generator=generator) + 3 * y[:, None], y
        x = torch.randn(n, *self.input_shape, generator=generator)
        return x + 2 * y.view(-1, *[1] * len(self.input_shape)), y

    def _loader(self, n: int, seed: int) -> Any:
        return DataLoader(TensorDataset(*self.batch(n, seed)), 12)

    def train_dataloader(self) -> Any:
        return self._loader(48, 1)

    def val_dataloader(self) -> Any:
        return self._loader(24, 3)

    def test_dataloader(self) -> Any:
        return self._loader(24, 4)


def trainer(folder: Path, epochs: int = 1) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", enable_model_summary=False, default_root_dir=folder, **quiet
    )


@pytest.mark.parametrize("kind", SPACES)
def test_a_network_of_all_candidates_is_exported_as_programs_for_batches_of_any_size(kind: str, tmp_path: Path) -> None:
    """Every file is compared with the network when it is written; the largest difference is in the manifest."""
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    options = {"layers": 8} if kind == "table" else {"layers_per_stage": 9 // (3 - (kind == "text"))}
    small: Any = SPACES[kind]()
    supernet = type(small)(**small._settings | options)
    genes = [gene % size for gene, size in enumerate(supernet.space.gene_sizes)]
    network = supernet.extract(supernet.space.decode([genes])[0]).eval()
    x, _ = SmallData(supernet).batch(5, 5)

    folder = export_subnet(network, tmp_path / "export")

    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(program(x), network(x), rtol=1e-4, atol=1e-5)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), network(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SPACES)
def test_a_network_is_retrained_and_tells_the_classes_apart(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    supernet = SPACES[kind]()
    data = SmallData(supernet)
    retrained = Retrain(supernet.extract(supernet.space.sample(0), inherit=False), lr=0.05)
    fit = trainer(tmp_path, 15)
    fit.fit(retrained, datamodule=data)
    (test,) = fit.test(retrained, datamodule=data, verbose=False)
    assert test["test/accuracy"] > 0.8  # 1 / 3 by chance
