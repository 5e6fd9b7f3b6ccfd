"""Writes the architecture that a search has found, and its network if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from oneshot.engine.module import SearchModule
from oneshot.evaluation.recalibration import recalibrate_on
from oneshot.storage.faults import patiently
from oneshot.storage.files import write_recorded

from .base import SearchCallback, run_folder

Format = Literal["torch_export", "onnx", "openvino", "executorch"]


class SubnetExport(SearchCallback):
    """Derives the architecture at the end of the fit and writes it to ``subnet.json``.

    Args:
        folder: Where to; by default the folder of the run, where the logger writes.
        network: Also extract the network with the weights it shared, and export it to the sub-folder ``network``. Its
            statistics of batch normalisation are its own if the fit has a data module, or else those it shared.
        formats: What :func:`oneshot.deploy.export.export_subnet` then writes besides the safetensors; ``"onnx"``,
            ``"openvino"`` and ``"executorch"`` need the extras of these names.

    Files of an earlier fit in the same folder are replaced, once the new ones are complete.

    Raises:
        ValueError: At the start of ``fit``, if the module is not a search.
    """

    def __init__(
        self, folder: str | Path | None = None, *, network: bool = False, formats: Sequence[Format] = ("torch_export",)
    ) -> None:
        super().__init__()
        self.folder, self.network, self.formats = folder, network, formats

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, self.search(pl_module))

    def after_finished_fit(self, trainer: pl.Trainer, search: SearchModule) -> None:
        self._write(trainer, search)

    def _write(self, trainer: pl.Trainer, search: SearchModule) -> None:
        config = search.derive()
        if not trainer.is_global_zero:
            return
        folder = Path(self.folder or run_folder(trainer))
        write_recorded(folder / "subnet.json", config.to_json(), patient=True)
        if self.network:
            from oneshot.deploy.export import export_subnet

            data = getattr(trainer, "datamodule", None)
            about: dict[str, Any] = {
                name: getattr(data, name, None) for name in ("mean", "std", "classes", "preprocessing")
            }
            subnet = search.evaluation_supernet.extract(config)
            if data is not None:
                recalibrate_on(data, subnet)
            where = folder / "network"
            patiently(
                lambda: export_subnet(subnet, where, formats=self.formats, overwrite=True, **about),
                f"{where} cannot be written",
            )
