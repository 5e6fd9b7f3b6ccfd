from __future__ import annotations

import json
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from oneshot import Retrain
from oneshot.callbacks import MistakeRecorder, RunReport
from oneshot.storage.run_log import RunLog
from oneshot.supernets import NASBench201Network

from .searches import fit, make_search, make_trainer

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|"


class Pages(Callback):
    """Keeps what the page says after every batch."""

    def __init__(self, folder: Path) -> None:
        self.page, self.seen = folder / "report.html", list[str]()

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object, **options: object) -> None:
        self.seen.append(self.page.read_text(encoding="utf-8") if self.page.is_file() else "")


def test_the_page_grows_while_the_search_runs(tmp_path: Path) -> None:
    pages = Pages(tmp_path)
    fit(make_trainer(tmp_path, RunReport(every=0.0), pages, logger=RunLog(tmp_path)), make_search())
    assert pages.seen[-1] and "The run goes on; reload the page for what is new." in pages.seen[-1]
    assert "Learning curves" in pages.seen[-1]
    (start,) = json.loads((tmp_path / "commands.json").read_text(encoding="utf-8"))
    assert start["command"] is None and "torch" in start["versions"]


def test_within_half_a_minute_nothing_is_written(tmp_path: Path) -> None:
    pages = Pages(tmp_path)
    fit(make_trainer(tmp_path, RunReport(), pages, logger=RunLog(tmp_path)), make_search())
    assert set(pages.seen) == {""}


def test_the_mistakes_are_those_of_the_last_test() -> None:
    torch.manual_seed(0)
    network = NASBench201Network(ARCH, channels=4, cells_per_stage=1, num_classes=3, in_channels=3, image_size=8)
    module, recorder = Retrain(network, drop_path=0.0), MistakeRecorder(most=4)
    x, y = torch.randn(15, 3, 8, 8), torch.randint(3, (15,))
    batches = DataLoader(TensorDataset(x, y), batch_size=5)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", callbacks=[recorder])
    for _ in range(2):  # nothing of the first test is left
        trainer.test(module, batches, verbose=False)
    assert recorder.found.samples == 15 and recorder.found.independent
    with torch.no_grad():
        sure, predicted = module.eval()(x).softmax(1).max(1)
    wrong = [(sure[i].item(), i) for i in range(15) if predicted[i] != y[i]]
    assert [one.index for one in recorder.found.worst()] == [i for _, i in sorted(wrong, reverse=True)[:4]]
