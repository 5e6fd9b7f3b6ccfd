"""A run that was stopped, however often and wherever, ends as one that was not."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from oneshot import DARTS, OnceForAll, Retrain
from oneshot.callbacks import ArchLogger, RunCheckpoint, good_checkpoint
from oneshot.cli import main as cli
from oneshot.data import FakeImages, SearchDataModule
from oneshot.engine.module import SearchModule
from oneshot.storage.run_log import RunLog
from oneshot.supernets import DARTSNetwork, DARTSSupernet, MobileNetV3Supernet, reduced_space
from oneshot.supernets.genotype import PUBLISHED

pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS = 30


def configuration(folder: Path, **changes: Any) -> Path:
    """Streams of unequal length, so that one of them begins again within an epoch; noise, which draws in every step."""
    text = f"""
seed_everything: 0
model:
  class_path: oneshot.DARTS
  init_args:
    arch_lr: 0.01
    supernet:
      class_path: oneshot.supernets.DARTSSupernet
      init_args:
        channels: 2
        cells: 2
        space:
          class_path: oneshot.supernets.reduced_space
          init_args: {{name: s4}}
data:
  class_path: oneshot.data.SearchDataModule
  init_args:
    arch_fraction: 0.3
    data:
      class_path: oneshot.data.FakeImages
      init_args: {{batch_size: 4, input_shape: [1, 8, 8], train_size: 48, num_classes: 3}}
trainer:
  max_epochs: {changes.get("epochs", EPOCHS)}
  accelerator: cpu
  log_every_n_steps: 3
  enable_progress_bar: false
  enable_model_summary: false
  limit_val_batches: 1
  callbacks:
    - class_path: oneshot.callbacks.RunCheckpoint
      init_args: {{every_n_steps: 2}}
"""
    path = folder / "search.yaml"
    path.write_text(text)
    return path


def search(*options: object) -> None:
    """What runs in a process of its own."""
    sys.exit(cli.main(["search", *map(str, options)]))


def start(*options: object) -> multiprocessing.process.BaseProcess:
    context = multiprocessing.get_context("forkserver")  # imports once, not in each of twenty processes
    context.set_forkserver_preload(["oneshot.cli.search"])
    process = context.Process(target=search, args=options)
    process.start()
    return process


def finish(*options: object) -> None:
    process = start(*options)
    process.join(600)
    assert process.exitcode == 0


def rows(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def assert_same_end(one: Path, other: Path) -> None:
    ours, theirs = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (one, other))
    for part in ("state_dict", "optimizer_states", "callbacks", "oneshot", "loops", "epoch", "global_step"):
        assert_equal(ours[part], theirs[part], part)
    for name in ("metrics.csv", "subnet.json", "config.yaml"):
        text = (one / name).read_text().replace(str(one), str(other))
        assert text == (other / name).read_text(), name
    assert sorted(p.name for p in one.rglob("*")) == sorted(p.name for p in other.rglob("*"))


def assert_equal(ours: Any, theirs: Any, where: str) -> None:
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(a, b, f"{where}.{i}")
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    else:
        assert ours == theirs, where


# The same within one process, where the run can be stopped at a step of choice.


class Stop(Callback):
    """Ends the fit before a step, or asks for its end by a signal."""

    def __init__(self, step: int, sigterm: bool = False) -> None:
        self.step, self.sigterm = step, sigterm

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            if not self.sigterm:
                raise KeyError("stop")
            os.kill(os.getpid(), signal.SIGTERM)


def data(**options: Any) -> SearchDataModule:
    images = FakeImages(batch_size=4, input_shape=(1, 8, 8), train_size=48, num_classes=3, **options)
    return SearchDataModule(images, arch_fraction=0.3)


def s4(seed: int = 0) -> DARTS:
    torch.manual_seed(seed)
    space = reduced_space("s4")
    return DARTS(DARTSSupernet(space, channels=2, cells=2, num_classes=3, in_channels=1, image_size=8), arch_lr=0.01)


def fit(
    module: pl.LightningModule,
    folder: Path,
    images: pl.LightningDataModule,
    *callbacks: Callback,
    resume: bool = False,
    every_n_steps: int = 1,
    log_every_n_steps: int = 3,
) -> None:
    searches = [ArchLogger()] if isinstance(module, SearchModule) else []
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=RunLog(folder),
        callbacks=[*searches, RunCheckpoint(every_n_steps=every_n_steps), *callbacks],
        log_every_n_steps=log_every_n_steps,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    checkpoint = good_checkpoint(folder / "checkpoints") if resume else None
    trainer.fit(module, datamodule=images, ckpt_path=checkpoint, weights_only=True)


def assert_same_training(one: Path, other: Path) -> None:
    ours, theirs = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (one, other))
    for part in ("state_dict", "optimizer_states", "callbacks", "oneshot", "loops", "epoch", "global_step"):
        assert_equal(ours[part], theirs[part], part)
    assert (one / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nothing stopped."""
    fit(s4(), folder := tmp_path_factory.mktemp("whole"), data())
    return folder


@pytest.mark.parametrize(
    ("step", "workers"),
    [
        *((step, 0) for step in (1, 8, 11, 16)),
        *(pytest.param(step, 0, marks=pytest.mark.nightly) for step in (7, 9, 23)),
        pytest.param(8, 2, marks=pytest.mark.nightly),
        pytest.param(11, 2, marks=pytest.mark.slow),
    ],
)
def test_a_search_stopped_at_any_step_ends_as_one_that_was_not(
    step: int, workers: int, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyError, match="stop"):
        fit(s4(), tmp_path / "stopped", data(num_workers=workers), Stop(step))
    fit(s4(1), tmp_path / "stopped", data(num_workers=workers), resume=True)
    assert_same_training(whole, tmp_path / "stopped")


@pytest.mark.parametrize("fixed_teacher", [False, True])
def test_what_an_epoch_begins_with_is_not_repeated_where_a_fit_was_stopped_within_it(
    fixed_teacher: bool, tmp_path: Path
) -> None:
    def shrinking() -> OnceForAll:  # takes its teacher before the second epoch, sorts its channels before the third
        torch.manual_seed(0)
        sizes: Any = {"widths": (0.1,), "depths": (1,), "kernels": (3,), "expansions": (2, 3), "resolutions": (8,)}
        supernet = MobileNetV3Supernet(num_classes=3, in_channels=1, stem="cifar", **sizes)
        options: Any = {"candidates": 1, "finalists": 1, "weight_lr": 0.1}
        return OnceForAll(supernet, shrink_epochs=(1, 0, 1, 1), fixed_teacher=fixed_teacher, **options)

    fit(shrinking(), tmp_path / "whole", data())  # of eight steps an epoch
    for step in (11, 16, 19):
        with pytest.raises(KeyError, match="stop"):
            fit(shrinking(), tmp_path / str(step), data(), Stop(step))
        fit(shrinking(), tmp_path / str(step), data(), resume=True)
        assert_same_training(tmp_path / "whole", tmp_path / str(step))


@pytest.mark.parametrize("every", [1, 3, 5])
def test_the_log_has_each_row_once_whatever_is_logged_and_saved_when(every: int, tmp_path: Path) -> None:
    fit(s4(), tmp_path / "whole", data(), every_n_steps=2, log_every_n_steps=every)
    with pytest.raises(KeyError, match="stop"):
        fit(s4(), tmp_path / "stopped", data(), Stop(13), every_n_steps=2, log_every_n_steps=every)
    fit(s4(), tmp_path / "stopped", data(), resume=True, every_n_steps=2, log_every_n_steps=every)
    assert_same_training(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("step", "saved"),
    [
        pytest.param(3, 4, id="within the epoch, after the step"),
        pytest.param(7, 5, id="before validation is over, where it was saved before"),
        pytest.param(9, 10, id="in the second epoch"),
    ],
)
def test_sigterm_saves_after_the_step(step: int, saved: int, tmp_path: Path) -> None:
    fit(s4(), tmp_path / "whole", data(), every_n_steps=5)
    with pytest.raises(SIGTERMException):
        fit(s4(), tmp_path / "stopped", data(), Stop(step, sigterm=True), every_n_steps=5)
    checkpoint = torch.load(tmp_path / "stopped/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2 * saved  # two optimisers
    fit(s4(), tmp_path / "stopped", data(), resume=True, every_n_steps=5)
    assert_same_training(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("step", [5, 12, 13])
def test_a_retraining_stopped_at_any_step_ends_as_one_that_was_not(step: int, tmp_path: Path) -> None:
    def retraining() -> Retrain:
        torch.manual_seed(0)
        network = DARTSNetwork(PUBLISHED["DARTS_V2"], channels=2, cells=3, num_classes=3, in_channels=1, image_size=8)
        return Retrain(network, drop_path=0.5, mixup=0.2, ema_decay=0.9)

    images = data().data
    fit(retraining(), tmp_path / "whole", images)
    with pytest.raises(KeyError, match="stop"):
        fit(retraining(), tmp_path / "stopped", images, Stop(step))
    fit(retraining(), tmp_path / "stopped", images, resume=True)
    assert_same_training(tmp_path / "whole", tmp_path / "stopped")


def test_a_search_that_draws_from_where_the_generator_happens_to_be_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.manual_seed", lambda seed: None)
    fit(s4(), tmp_path / "whole", data())
    with pytest.raises(KeyError, match="stop"):
        fit(s4(), tmp_path / "stopped", data(), Stop(9))
    fit(s4(), tmp_path / "stopped", data(), resume=True)
    with pytest.raises(AssertionError, match=r"state_dict\."):
        assert_same_training(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("apart", [False, True])
def test_all_processes_of_a_search_draw_the_same_and_those_of_a_retraining_do_not(apart: bool) -> None:
    network = DARTSNetwork(PUBLISHED["DARTS_V2"], channels=2, cells=3, num_classes=3, in_channels=1, image_size=8)
    module = Retrain(network) if apart else s4()
    draws = []
    for rank, step in ((0, 5), (1, 5), (0, 6)):
        module.trainer = MagicMock(global_rank=rank, fit_loop=MagicMock(total_batch_idx=step))
        module.on_train_batch_start({"weights": None, "arch": None}, 0)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert (draws[0] == draws[1]) is not apart
    assert all(a != b for a, b in zip(draws[0], draws[2], strict=True))


# What can be wrong.


def stopped(folder: Path, step: int = 9) -> Path:
    with pytest.raises(KeyError, match="stop"):
        fit(s4(), folder, data(), Stop(step))
    return folder / "checkpoints"


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(tmp_path: Path) -> None:
    checkpoints = stopped(tmp_path / "stopped")
    last = checkpoints / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.warns(UserWarning, match="last.ckpt is damaged"):
        assert good_checkpoint(checkpoints) == checkpoints / "previous.ckpt"

    (checkpoints / "previous.ckpt").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(ValueError, match=r"last.ckpt and .*previous.ckpt are damaged. Start anew"),
    ):
        good_checkpoint(checkpoints)


def test_the_checkpoint_before_gives_the_same_end(whole: Path, tmp_path: Path) -> None:
    checkpoints = stopped(tmp_path / "stopped")
    (checkpoints / "last.ckpt").write_bytes(b"half")
    with pytest.warns(UserWarning, match="damaged"):
        fit(s4(), tmp_path / "stopped", data(), resume=True)
    assert_same_training(whole, tmp_path / "stopped")


def test_a_full_disk_does_not_end_the_run_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    class Full(Callback):
        """No file can grow beyond a few kilobytes for a while."""

        def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
            step, (_, hard) = trainer.fit_loop.total_batch_idx, resource.getrlimit(resource.RLIMIT_FSIZE)
            if step == 4:
                checkpoint = tmp_path / "run/checkpoints/last.ckpt"
                self.before, self.path = checkpoint.read_bytes(), checkpoint
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
            if step == 6:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                assert self.path.read_bytes() == self.before
                assert good_checkpoint(self.path.parent) == self.path

    with pytest.warns(UserWarning, match=r"No checkpoint was written at step 5: .*too large.*last good .*last.ckpt"):
        fit(s4(), tmp_path / "run", data(), Full())
    assert sorted(p.name for p in (tmp_path / "run/checkpoints").iterdir()) == [
        "checksums.txt",
        "last.ckpt",
        "previous.ckpt",
    ]
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2


def test_an_error_that_is_not_about_writing_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(*args: Any, **kwargs: Any) -> None:  # torch raises this wherever the process happens to be
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", save)
    with pytest.raises(RuntimeError, match="worker"):
        fit(s4(), tmp_path / "run", data())


def test_what_a_run_is_resumed_with_must_be_what_it_began_with(tmp_path: Path) -> None:
    stopped(tmp_path / "stopped")
    net = DARTSSupernet(channels=2, cells=2, num_classes=3, in_channels=1, image_size=8)
    with pytest.raises(ValueError, match=r"what differs is space: darts-s4 \(\w+\), now darts \(\w+\)\. Change it"):
        fit(DARTS(net), tmp_path / "stopped", data(), resume=True)
    with pytest.raises(ValueError, match=r"what differs is data, checksum: \d+, now \d+;.*data, seed: 0, now 1"):
        fit(s4(), tmp_path / "stopped", data(seed=1), resume=True)
    with pytest.raises(ValueError, match=r"data, batch size: 4, now 2"):
        other = data()
        other.batch_size = 2
        fit(s4(), tmp_path / "stopped", other, resume=True)

    path = tmp_path / "stopped/checkpoints/last.ckpt"
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False)
    with pytest.warns(UserWarning, match=r"goes on to 2 epochs instead of 3, and with it the schedules"):
        trainer.fit(s4(), datamodule=data(), ckpt_path=path, weights_only=True)

    checkpoint = torch.load(path, weights_only=True)
    checkpoint["oneshot"]["facts"]["processes"] = 2
    torch.save(checkpoint, tmp_path / "two.ckpt")
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"processes: 2, now 1"):
        trainer.fit(s4(), datamodule=data(), ckpt_path=tmp_path / "two.ckpt", weights_only=True)

    del checkpoint["oneshot"]
    torch.save(checkpoint, tmp_path / "other.ckpt")
    trainer = pl.Trainer(accelerator="cpu", max_epochs=3, logger=False, enable_checkpointing=False)
    with pytest.raises(ValueError, match=r"made by something else\. Start anew"):
        trainer.fit(s4(), datamodule=data(), ckpt_path=tmp_path / "other.ckpt", weights_only=True)


def test_the_command_line_resumes_with_the_options_of_the_run_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = configuration(tmp_path, epochs=1), tmp_path / "run"
    assert cli.main(["search", "--resume", "--out", str(out)]) == 1
    assert f"{out} has no config.yaml. Name its folder." in capsys.readouterr().err

    arguments = ["search", "--config", str(config), "--out", str(out)]
    assert cli.main([*arguments, "--resume"]) == 0  # a job that may have been stopped before, or not
    assert "No checkpoint in" in capsys.readouterr().out
    before = (out / "metrics.csv").read_text(), (out / "subnet.json").read_text()

    assert cli.main([*arguments, "--resume", "--model.init_args.arch_lr", "0.1"]) == 1
    assert "model.init_args.arch_lr was 0.01, is 0.1. Leave them out" in capsys.readouterr().err
    assert cli.main([*arguments, "--resume", "--trainer.precision", "bf16-mixed"]) == 1
    assert "trainer.precision was None, is bf16-mixed" in capsys.readouterr().err

    assert cli.main(["search", "--resume", "--out", str(out)]) == 0
    assert "Resuming from" in capsys.readouterr().out
    assert ((out / "metrics.csv").read_text(), (out / "subnet.json").read_text()) == before


def test_a_worker_that_dies_ends_the_run_with_the_way_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_and_lose_a_worker(self: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(pl.Trainer, "fit", fit_and_lose_a_worker)
    assert cli.main(["search", "--config", str(configuration(tmp_path)), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "worker (pid 7) is killed" in error and "Lower num_workers" in error and "--resume goes on" in error


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_run_killed_twenty_times_ends_as_one_that_was_not(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    config = configuration(tmp_path)
    finish("--config", config, "--out", tmp_path / "whole")
    rng, log, where = random.Random(), tmp_path / "killed/metrics.csv", []
    # Moments follow what the run has done, not only the clock, so that a slow machine has as many of them.
    for more in rng.sample((0,) * 12 + (1,) * 7 + (3,), 20):  # rows of the log to wait for
        process, before = start("--config", config, "--out", tmp_path / "killed", "--resume"), rows(log)
        while more and rows(log) < before + more and process.is_alive():
            time.sleep(0.01)
        process.join(rng.uniform(0.0, 0.1 if more else 1.5))
        assert process.exitcode is None, where
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        where.append(rows(log))
    finish("--config", config, "--out", tmp_path / "killed", "--resume")
    assert len(set(where)) > 5, where  # at moments that differ
    record_property("kills", len(where))
    assert_same_end(tmp_path / "whole", tmp_path / "killed")
