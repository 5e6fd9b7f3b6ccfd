"""``--int8``, ``--max-drop`` and ``--weight-bits``: the samples that an exported network is quantised on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl

from oneshot.deploy.int8 import Int8, check_max_drop, int8_samples
from oneshot.discrete.events import LOG
from oneshot.quantisation import WEIGHT_BITS, check_installed
from oneshot.supernets.base import Subnet

from .run import RunFolder


@dataclass(frozen=True)
class Int8Options:
    """What was said of INT8 on the command line.

    Args:
        data: Folder of the images, "" for the data of the run as they are known; None without INT8.
        max_drop: See :class:`~oneshot.deploy.int8.Int8`.
        weight_bits: Likewise.
    """

    data: str | None
    max_drop: float | None = None
    weight_bits: int | None = None

    def check(self, formats: Sequence[str], *, with_preprocessing: bool) -> None:
        """Check what can be checked before anything is read.

        Raises:
            ValueError: If the options do not go together, or the folder is not there.
            MissingExtraError: If ONNX Runtime is not installed.
        """
        if self.data is None:
            for option, given in (("--max-drop", self.max_drop), ("--weight-bits", self.weight_bits)):
                if given is not None:
                    raise ValueError(f"{option} must come with --int8; got {option} {given} alone. Add --int8.")
            return
        check_max_drop(self.max_drop)
        if "onnx" not in formats or with_preprocessing:
            raise ValueError(
                "--int8 must come with 'onnx' among --formats and without --with-preprocessing: INT8 is made of an "
                "ONNX file of the network alone. Export twice, to two folders."
            )
        check_installed()
        if self.data and not Path(self.data).is_dir():
            raise ValueError(f"DATA of --int8 must be a folder of images; there is no folder {self.data}.")

    def data_options(self, run: str) -> list[str]:
        """The options that say where the data of a run are now.

        Raises:
            ValueError: If ``run`` is a study, whose data may be anywhere in its evaluator.
        """
        if not self.data:
            return []
        if (Path(run) / LOG).is_file():
            raise ValueError(
                "DATA of --int8 must be left out for a study: say where its data are as it says it, for example "
                f"--data.init_args.root {self.data}, and --int8 alone."
            )
        return [RunFolder(Path(run)).root_option(), self.data]

    def samples(self, data: pl.LightningDataModule | None, network: Subnet, classes: Sequence[str] | None) -> Int8:
        """The samples.

        Args:
            data: Set up for a fit; None where there are none.
            network: What will be quantised.
            classes: Names of the classes that it was trained on, if they are known.

        Raises:
            ValueError: If there are no data, too few, or data of other classes.
        """
        if data is None:
            raise ValueError("--int8 must have samples to calibrate on, and the search has no data. Leave it out.")
        found, count = getattr(data, "classes", None), getattr(data, "num_classes", None)
        if count not in (None, network.num_classes) or (found and classes and list(found) != list(classes)):
            raise ValueError(
                f"The data of --int8 must have the {network.num_classes} classes of the network"
                f"{': ' + ', '.join(classes) if classes else ''}; they have {count}"
                f"{': ' + ', '.join(map(str, found)) if found else ''}. Name the data it was trained on."
            )
        return int8_samples(data, network, max_drop=self.max_drop, weight_bits=self.weight_bits or WEIGHT_BITS)
