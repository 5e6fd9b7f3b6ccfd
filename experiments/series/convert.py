"""Write UCR series that ship inside the package aeon as ``.npz`` files. Needs ``pip install aeon``, not oneshot.

python experiments/series/convert.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from aeon.datasets import load_classification

SETS = ("ItalyPowerDemand", "GunPoint", "ArrowHead", "BasicMotions", "OSULeaf")

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        (x, y), (x_test, y_test) = (load_classification(name, split=split) for split in ("train", "test"))
        classes = np.unique(y)
        labels = {"y": np.searchsorted(classes, y), "y_test": np.searchsorted(classes, y_test)}
        series = {"x": x.astype(np.float32), "x_test": x_test.astype(np.float32)}
        np.savez(folder / f"{name}.npz", **series, **labels)
        print(name, x.shape, x_test.shape, len(classes), "classes")
