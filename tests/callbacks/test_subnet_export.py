from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, WandbLogger

import oneshot
from oneshot.callbacks import SubnetExport
from oneshot.callbacks.base import run_folder
from oneshot.evaluation.images import calibration_images
from oneshot.evaluation.recalibration import recalibrate
from oneshot.supernets import load_config

from .searches import Unrelated, fit, make_search, make_trainer


def test_the_run_folder_holds_the_derived_architecture_after_the_fit(tmp_path: Path) -> None:
    logger, search = CSVLogger(tmp_path, name="search"), make_search()
    fit(make_trainer(tmp_path, SubnetExport(), logger=logger), search)

    assert load_config(Path(logger.log_dir) / "subnet.json") == search.derive()


def test_a_folder_of_choice_is_made(tmp_path: Path) -> None:
    search = make_search()
    fit(make_trainer(tmp_path, SubnetExport(tmp_path / "new" / "folder"), max_epochs=1), search)

    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["subnet.json"]
    assert load_config(tmp_path / "new" / "folder" / "subnet.json") == search.derive()


def test_the_extracted_network_is_exported_with_its_shared_weights_and_statistics_of_its_own(tmp_path: Path) -> None:
    search = make_search()
    fit(make_trainer(tmp_path, SubnetExport(network=True), max_epochs=1), search)

    x = torch.randn(4, 1, 8, 8)
    network = oneshot.load(tmp_path / "network")
    search.eval()
    shared, own = search.supernet.extract(search.derive()), search.supernet.extract(search.derive())
    images = calibration_images(search.trainer.datamodule, 2048)  # type: ignore[attr-defined]  # set by the fit
    recalibrate(own, images.tensor_split(3))
    with torch.no_grad():
        torch.testing.assert_close(network(x), own(x), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(network(x), shared(x), rtol=1e-2)


def test_a_logger_without_a_folder_gets_one_where_lightning_keeps_its_checkpoints(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    assert run_folder(trainer) == tmp_path
    trainer.loggers = [WandbLogger(save_dir=tmp_path / "w", project="p", version="abc", offline=True)]
    assert run_folder(trainer) == tmp_path / "w" / "p" / "abc"


def test_a_module_that_is_not_a_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SubnetExport looks at a search and needs a SearchModule"):
        fit(make_trainer(tmp_path, SubnetExport()), Unrelated())
