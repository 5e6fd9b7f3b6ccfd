from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger

from oneshot.callbacks import GenotypePlot

from .searches import Unrelated, fit, make_darts_supernet, make_search, make_trainer


def test_cells_are_drawn_after_every_epoch_and_the_latest_has_a_name_of_its_own(tmp_path: Path) -> None:
    fit(make_trainer(tmp_path, GenotypePlot()), make_search(make_darts_supernet()))

    pictures = {path.name: path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert sorted(pictures) == ["cells.png", "epoch_0000.png", "epoch_0001.png"]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert pictures["cells.png"] == pictures["epoch_0001.png"] != pictures["epoch_0000.png"]


def test_pictures_lie_where_the_logger_writes(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="search")
    fit(make_trainer(tmp_path, GenotypePlot(every_n_epochs=2), logger=logger), make_search())

    assert sorted(path.name for path in Path(logger.log_dir).rglob("*.png")) == ["cells.png", "epoch_0001.png"]


def test_vector_pictures_show_the_derived_operations_in_a_folder_of_choice(tmp_path: Path) -> None:
    search = make_search()
    fit(make_trainer(tmp_path, GenotypePlot(tmp_path / "a" / "b", format="svg"), max_epochs=1), search)

    names = sorted(path.name for path in (tmp_path / "a" / "b").rglob("*.svg"))
    assert names == ["cells.svg", "epoch_0000.svg"]
    assert "<svg" in (tmp_path / "a" / "b" / "cells.svg").read_text()


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"format must be one of \('png', 'svg'\); got 'gif'"):
        GenotypePlot(format="gif")  # type: ignore[arg-type]  # that is the test


def test_a_module_that_is_not_a_search_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GenotypePlot looks at a search and needs a SearchModule"):
        fit(make_trainer(tmp_path, GenotypePlot()), Unrelated())
