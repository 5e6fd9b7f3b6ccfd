from __future__ import annotations

import csv
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import wandb
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from oneshot.callbacks import ArchLogger
from oneshot.engine.alphas import AlphaSearch
from oneshot.methods.random_sharing import RandomSharing
from oneshot.supernets.space import SubnetConfig

from .searches import Unrelated, fit, make_darts_supernet, make_search, make_trainer
from .wandb_files import history, records, wait_for_the_end


class Snapshots(Callback):
    """Keeps what the logger should have written: alphas, probabilities and derived architecture of every epoch."""

    def __init__(self) -> None:
        self.epochs: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], SubnetConfig]] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, AlphaSearch)
        alphas = {name: alpha.detach().clone() for name, alpha in pl_module.alphas.items()}
        self.epochs.append((alphas, pl_module.probabilities(), pl_module.derive()))


def read_csv(logger: CSVLogger) -> list[dict[str, str]]:
    """The rows that the callback wrote."""
    with (Path(logger.log_dir) / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    marker = next(key for key in rows[0] if key.startswith("alpha/"))
    return [row for row in rows if row[marker]]


def test_the_csv_file_holds_the_alphas_of_every_epoch(tmp_path: Path) -> None:
    logger, snapshots = CSVLogger(tmp_path), Snapshots()
    search = make_search(make_darts_supernet())
    fit(make_trainer(tmp_path, ArchLogger(), snapshots, logger=logger), search)

    rows = read_csv(logger)
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "1"), ("1", "3")]
    assert not torch.equal(snapshots.epochs[0][0]["normal"], snapshots.epochs[1][0]["normal"])
    for row, (alphas, probabilities, config) in zip(rows, snapshots.epochs, strict=True):
        for choice in search.supernet.space.choices:
            p = probabilities[choice.name]
            entropies = -(p * p.log()).sum(-1)
            assert float(row[f"entropy/{choice.name}"]) == pytest.approx(entropies.mean().item(), rel=1e-5)
            for r, pick in enumerate(config[choice.name]):
                assert choice.picks[int(float(row[f"choice/{choice.name}/{r}"]))] == pick
                assert float(row[f"entropy/{choice.name}/{r}"]) == pytest.approx(entropies[r].item(), rel=1e-5)
                for o, candidate in enumerate(choice.candidates):
                    end = f"{choice.name}/{r}/{candidate}"
                    assert np.float32(row[f"alpha/{end}"]) == alphas[choice.name][r, o].item()
                    assert np.float32(row[f"probability/{end}"]) == p[r, o].item()


def test_only_every_nth_epoch_is_logged(tmp_path: Path) -> None:
    logger, callback = CSVLogger(tmp_path), ArchLogger(every_n_epochs=2)
    fit(make_trainer(tmp_path, callback, logger=logger, max_epochs=5), make_search())

    assert callback.epochs == [1, 3]
    assert [row["epoch"] for row in read_csv(logger)] == ["1", "3"]
    assert callback.history["cell"].shape == callback.alpha_history["cell"].shape == (2, 6, 5)


# The second fit is meant to find the checkpoints of the first.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("limit_val_batches", [pytest.param(0, id="without validation"), pytest.param(1, id="with it")])
def test_a_resumed_search_continues_the_history_without_duplicates(tmp_path: Path, limit_val_batches: int) -> None:
    settings: dict[str, Any] = {"enable_checkpointing": True, "max_epochs": 3, "limit_val_batches": limit_val_batches}
    whole = ArchLogger()
    keep_all = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    fit(make_trainer(tmp_path, whole, keep_all, **settings), make_search())

    resumed = ArchLogger()
    trainer = make_trainer(tmp_path, resumed, ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1), **settings)
    fit(trainer, make_search(), ckpt_path=tmp_path / "epoch=0.ckpt")

    assert resumed.epochs == whole.epochs == [0, 1, 2]
    np.testing.assert_array_equal(resumed.alpha_history["cell"], whole.alpha_history["cell"])
    np.testing.assert_array_equal(resumed.history["cell"], whole.history["cell"])


def test_the_history_can_be_loaded_without_unpickling_code(tmp_path: Path) -> None:
    callback, other = ArchLogger(), ArchLogger()
    fit(make_trainer(tmp_path, callback), make_search())
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))

    assert other.epochs == callback.epochs
    np.testing.assert_array_equal(other.history["cell"], callback.history["cell"])


def test_a_second_fit_starts_a_new_history(tmp_path: Path) -> None:
    callback = ArchLogger()
    fit(make_trainer(tmp_path, callback, max_epochs=2), make_search())
    fit(make_trainer(tmp_path, callback, max_epochs=1), make_search())

    assert callback.epochs == [0]


def test_a_search_without_alphas_has_probabilities_also_after_records_of_an_earlier_release(tmp_path: Path) -> None:
    logger, callback = CSVLogger(tmp_path), ArchLogger()
    search = RandomSharing(make_darts_supernet(), candidates=2, finalists=1)
    fit(make_trainer(tmp_path, callback, logger=logger), search)
    rows = (Path(logger.log_dir) / "metrics.csv").read_text(encoding="utf-8")
    assert "probability/normal/0/none" in rows and "choice/normal/0" in rows and "alpha/" not in rows
    assert callback.alpha_history == {} and len(callback.history["normal"]) == 2

    again, records = ArchLogger(), callback.state_dict()["records"]
    records[0] = {name: torch.stack([torch.zeros_like(p[-1]), p[-1]]) for name, p in records[0].items()}  # zero alphas
    again.load_state_dict({"records": records})
    np.testing.assert_array_equal(again.history["normal"], callback.history["normal"])
    assert again.alpha_history == {}


def test_alphas_that_are_not_finite_are_left_to_the_module(tmp_path: Path) -> None:
    callback, search = ArchLogger(), make_search()
    with torch.no_grad():
        search.alphas["cell"][0, 0] = torch.nan
    callback.on_train_epoch_end(make_trainer(tmp_path), search)

    assert callback.epochs == []


def test_tensorboard_gets_the_architecture_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MagicMock()
    monkeypatch.setattr(TensorBoardLogger, "__init__", lambda self: None)  # the package is not a requirement
    monkeypatch.setattr(TensorBoardLogger, "experiment", writer)
    trainer, search = make_trainer(tmp_path), make_search()
    trainer.loggers = [TensorBoardLogger()]
    monkeypatch.setattr(search, "log_dict", lambda metrics, **kwargs: None)
    ArchLogger().after_epoch(trainer, search)

    text = "cell: " + " ".join(map(str, search.derive()["cell"]))
    writer.add_text.assert_called_once_with("architecture", text, trainer.fit_loop.total_batch_idx)


@pytest.fixture
def wandb_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that W&B writes goes below ``tmp_path``, it knows no account, and it reports nothing to anybody."""
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return tmp_path / "DIR"


def test_an_offline_wandb_run_contains_alphas_pictures_and_the_architecture(wandb_here: Path) -> None:
    snapshots, search = Snapshots(), make_search()
    trainer = make_trainer(wandb_here, ArchLogger(), snapshots, logger=WandbLogger(save_dir=wandb_here, offline=True))
    fit(trainer, search)
    wandb.finish()

    (file,) = wandb_here.glob("wandb/offline-run-*/run-*.wandb")
    wait_for_the_end(file)
    rows = [row for row in history(file) if "entropy/cell" in row]
    assert [(row["epoch"], row["trainer/global_step"]) for row in rows] == [(0, 1), (1, 3)]
    candidates = search.supernet.space["cell"].candidates
    for row, (alphas, _, _) in zip(rows, snapshots.epochs, strict=True):
        found = [[row[f"alpha/cell/{r}/{candidate}"] for candidate in candidates] for r in range(6)]
        torch.testing.assert_close(torch.tensor(found), alphas["cell"], rtol=0, atol=0)

    texts = [(row["trainer/global_step"], row["architecture"]) for row in history(file) if "architecture" in row]
    assert [step for step, _ in texts] == [1, 3]
    assert texts[-1][1] == "cell: " + " ".join(map(str, search.derive()["cell"]))
    pictures = sorted(path.name for path in file.parent.glob("files/media/images/pictures/*.png"))
    assert [name.split("_")[0] for name in pictures] == ["cells"] * 2 + ["history"] * 2 + ["probabilities"] * 2

    (artifact,) = [r.request.log_artifact.artifact for r in records(file) if r.request.HasField("log_artifact")] or [
        r.artifact for r in records(file) if r.WhichOneof("record_type") == "artifact"
    ]
    assert artifact.type == "architecture"
    (entry,) = artifact.manifest.contents
    assert entry.path == "subnet.json"
    assert SubnetConfig.from_json(Path(entry.local_path).read_text()) == search.derive()


def test_without_a_wandb_account_the_fit_fails_at_once_and_says_how_to_go_on(
    wandb_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    search = make_search()
    before = {name: value.clone() for name, value in search.state_dict().items()}
    wandb.teardown()

    with pytest.raises(RuntimeError, match=r"wandb login.*WANDB_MODE=offline"):
        fit(make_trainer(wandb_here, ArchLogger(), logger=WandbLogger(save_dir=wandb_here)), search)

    torch.testing.assert_close(dict(search.state_dict()), before)


def test_other_exceptions_are_not_explained_by_wandb(tmp_path: Path) -> None:
    trainer, callback, search = make_trainer(tmp_path), ArchLogger(), make_search()
    login = wandb.errors.UsageError("api_key not configured (no-tty)")
    trainer.loggers = [WandbLogger(save_dir=tmp_path, offline=True)]
    for other in (ValueError("no API key for the data"), wandb.errors.UsageError("the disk is full")):
        callback.on_exception(trainer, search, other)
    with pytest.raises(RuntimeError, match=r"it says: api_key not configured.*WANDB_MODE=offline"):
        callback.on_exception(trainer, search, login)
    trainer.loggers = [CSVLogger(tmp_path)]
    callback.on_exception(trainer, search, login)  # of something else that uses W&B


def test_a_module_that_is_not_a_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ArchLogger looks at a search and needs a SearchModule.*got Unrelated"):
        fit(make_trainer(tmp_path, ArchLogger()), Unrelated())


def test_logging_every_zeroth_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="every_n_epochs must be at least 1; got 0"):
        ArchLogger(every_n_epochs=0)
