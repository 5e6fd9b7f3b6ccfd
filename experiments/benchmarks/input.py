"""Images a second of `ImageFolder` against torchvision's with the same transforms, and how long both take to start.

1,000 JPEGs of 500 x 375 pixels (parts of the two photos that come with scikit-learn) become batches of 64 images of 224
pixels: resized, cropped at the centre, shifted, mirrored, normalised. Both sides take turns, with 0, 1 and 2 workers. A
start is from the path to a data module that knows its classes and sizes: ours has decoded every file once by then, to
name those that cannot be read before a training, and torchvision's has listed them.

    python experiments/benchmarks/input.py [--images 1000] [--rounds 5] [--many 20000]

Writes input_cpu.json beside this file, or where --out says.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from sklearn.datasets import load_sample_images  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import datasets  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from oneshot.cost.latency.device import processor  # noqa: E402
from oneshot.data import ImageFolder  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402

SIDE, BATCH, WORKERS = 224, 64, (0, 1, 2)


def write_photos(folder: Path, images: int, size: tuple[int, int] = (500, 375)) -> None:
    """Photos of two classes, half of ``images`` each."""
    rng, (width, height) = np.random.default_rng(0), size
    for name, photo in zip(("building", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(images // 2):
            top, left = (int(rng.integers(0, full - part + 1)) for full, part in zip(photo.shape, (height, width)))
            part = photo[top : top + height, left : left + width]
            Image.fromarray(part).save(folder / name / f"{number}.jpg", quality=90)


def ours(folder: Path, workers: int) -> Callable[[], int]:
    data = ImageFolder(folder, image_size=SIDE, batch_size=BATCH, num_workers=workers, test_fraction=0.1)
    data.setup("fit")
    loader = data.train_dataloader()
    return lambda: sum(len(x) for x, _ in loader)


def theirs(folder: Path, workers: int) -> Callable[[], int]:
    steps = [v2.Resize(SIDE), v2.CenterCrop(SIDE), v2.RandomCrop(SIDE, padding=SIDE // 8), v2.RandomHorizontalFlip()]
    steps += [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
    images = datasets.ImageFolder(str(folder), v2.Compose(steps))
    kept = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(images, BATCH, shuffle=True, drop_last=True, **kept)  # type: ignore[arg-type]
    return lambda: sum(len(x) for x, _ in loader)


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = function()
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=20_000, help="files of 64 x 48 pixels for the start")
    parser.add_argument("--out", type=Path, default=HERE / "input_cpu.json")
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        photos, many = Path(scratch) / "photos", Path(scratch) / "many"
        write_photos(photos, given.images)
        for workers in WORKERS:
            sides = {"oneshot": ours(photos, workers), "torchvision": theirs(photos, workers)}
            rates: dict[str, list[float]] = {name: [] for name in sides}
            for epoch in sides.values():
                epoch()  # workers have started
            for _ in range(given.rounds):
                for name, epoch in sides.items():
                    seconds, images = seconds_of(epoch)
                    rates[name].append(images / seconds)
            ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
            middle = {name: round(statistics.median(found), 1) for name, found in rates.items()}
            row = {"workers": workers, "images_per_second": middle, "all": rates, "ratio": statistics.median(ratios)}
            results.append({**row, "ratio_low": min(ratios), "ratio_high": max(ratios)})
            print(f"{workers} workers: {middle}, ratio {row['ratio']:.2f}", flush=True)
        write_photos(many, given.many, size=(64, 48))
        starts = {side.__name__: seconds_of(partial(side, many, 0))[0] for side in (ours, theirs)}
        print(f"start with {given.many:,} files: {starts}")
    settings = {"images": given.images, "rounds": given.rounds, "side": SIDE, "batch": BATCH}
    found = {"processor": processor(), "torch": torch.__version__, "threads": torch.get_num_threads(), **settings}
    start = {"files": given.many, "seconds": {name: round(value, 2) for name, value in starts.items()}}
    write_atomically(given.out, json.dumps({**found, "results": results, "start": start}, indent=1) + "\n")


if __name__ == "__main__":
    main()
