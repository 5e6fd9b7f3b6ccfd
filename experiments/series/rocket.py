"""ROCKET (arXiv:1910.13051) with a ridge classifier, aeon's. Needs ``pip install aeon``, and nothing of oneshot.

python experiments/series/rocket.py FOLDER > rocket.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from aeon.classification.convolution_based import RocketClassifier

if __name__ == "__main__":
    results = []
    for path in sorted(Path(sys.argv[1]).glob("*.npz")):
        data = np.load(path)
        for seed in range(5):
            begin = time.process_time()
            model = RocketClassifier(n_kernels=10_000, random_state=seed).fit(data["x"], data["y"])
            accuracy = float(np.mean(model.predict(data["x_test"]) == data["y_test"]))
            seconds = round(time.process_time() - begin, 1)
            results.append({"set": path.stem, "seed": seed, "accuracy": accuracy, "cpu_s": seconds})
    json.dump(results, sys.stdout, indent=1)
