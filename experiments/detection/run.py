"""Trains Faster R-CNN on searched backbones, on images with coloured rectangles, and measures the boxes it finds.

Backbones are small networks of published cells (and a random one), all from scratch with the same images, order and
steps. A found object is one whose class is right and whose box covers it with an intersection over union of at least
0.5, at a score of at least 0.5. Usage:

    python experiments/detection/run.py [--steps 300] [--test 100] [--threads 1] [--out FOLDER]

Writes results.json and boxes.png (the first backbone's boxes on the first test images) into FOLDER.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from torch import Tensor  # noqa: E402
from torchvision.ops import box_iou  # noqa: E402

from oneshot.deploy.detection import faster_rcnn  # noqa: E402
from oneshot.report.style import save_figure  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import NASNET_CELLS, PUBLISHED, DARTSNetwork, NASNetNetwork, NASNetSpace, Subnet  # noqa: E402
from oneshot.supernets.base import count_parameters  # noqa: E402

SIZE = 64
COLOURS = {"red": (0.9, 0.2, 0.2), "green": (0.2, 0.8, 0.2), "blue": (0.2, 0.3, 0.9)}
Target = dict[str, Tensor]
# For images with three objects, not with dozens: how many boxes are proposed, and how many of them are looked at.
SAMPLED = {
    "rpn_pre_nms_top_n_train": 300,
    "rpn_pre_nms_top_n_test": 300,
    "rpn_post_nms_top_n_train": 100,
    "rpn_post_nms_top_n_test": 100,
    "box_batch_size_per_image": 32,
}

BACKBONES: dict[str, Any] = {
    "NASNet-A": lambda: NASNetNetwork(NASNET_CELLS["NASNet-A"], channels=8, cells_per_stage=1, image_size=SIZE),
    "AmoebaNet-A": lambda: NASNetNetwork(NASNET_CELLS["AmoebaNet-A"], channels=8, cells_per_stage=1, image_size=SIZE),
    "DARTS_V2": lambda: DARTSNetwork(PUBLISHED["DARTS_V2"], channels=8, cells=5, image_size=SIZE),
    "random": lambda: NASNetSpace().network(NASNetSpace().sample(0), channels=8, cells_per_stage=1, image_size=SIZE),
}


def draw_rectangles(n: int, rng: np.random.Generator) -> tuple[list[Tensor], list[Target]]:
    """Images ``[3, 64, 64]`` of noise with up to three rectangles; their boxes in pixels, classes from 1 on."""
    images, targets = [], []
    for _ in range(n):
        image = 0.5 + 0.1 * rng.standard_normal((3, SIZE, SIZE))
        boxes: list[list[int]] = []
        labels = []
        for _ in range(rng.integers(1, 4)):
            w, h = rng.integers(10, 33, size=2)
            x, y = rng.integers(0, SIZE - w), rng.integers(0, SIZE - h)
            box = [int(x), int(y), int(x + w), int(y + h)]
            if boxes and float(box_iou(torch.tensor([box]).float(), torch.tensor(boxes).float()).max()) > 0.1:
                continue  # hidden objects are no fair question
            colour = int(rng.integers(len(COLOURS)))
            shade = np.array(list(COLOURS.values())[colour]) + 0.1 * rng.standard_normal(3)
            image[:, y : y + h, x : x + w] = shade[:, None, None] + 0.05 * rng.standard_normal((3, h, w))
            boxes.append(box)
            labels.append(colour + 1)
        images.append(torch.tensor(image, dtype=torch.float32).clamp(0, 1))
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)})
    return images, targets


def train(network: Subnet, *, steps: int, batch: int = 4, lr: float = 1e-3, seed: int = 0) -> tuple[Any, list[float]]:
    """Train a detector; return it with the loss of every step."""
    detector = faster_rcnn(network, len(COLOURS) + 1, channels=48, levels=2, **SAMPLED)
    optimizer = torch.optim.AdamW([p for p in detector.parameters() if p.requires_grad], lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    rng, losses = np.random.default_rng(seed), []
    detector.train()
    for _ in range(steps):
        parts = detector(*draw_rectangles(batch, rng))
        loss = sum(parts.values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return detector, losses


@torch.no_grad()
def measure(detector: Any, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, float]:
    """Recall and precision at an intersection over union of 0.5, and its mean over the objects that were found."""
    found = objects = predicted = 0
    covers: list[float] = []
    for start in range(0, len(images), 10):
        for result, target in zip(detector.eval()(list(images[start : start + 10])), targets[start:], strict=False):
            sure = result["scores"] >= 0.5
            boxes, labels = result["boxes"][sure], result["labels"][sure]
            cover = box_iou(target["boxes"], boxes) * (target["labels"][:, None] == labels[None])
            objects, predicted = objects + len(target["boxes"]), predicted + len(boxes)
            for row in range(len(cover)):  # each box answers for one object, the best pairs first
                if not cover.numel() or float(cover.max()) < 0.5:
                    break
                row, column = divmod(int(cover.argmax()), cover.shape[1])
                covers.append(float(cover[row, column]))
                cover[row, :], cover[:, column] = 0, 0
                found += 1
    return {
        "recall": found / objects,
        "precision": found / max(1, predicted),
        "mean_iou": sum(covers) / max(1, found),
        "objects": objects,
    }


@torch.no_grad()
def draw(detector: Any, images: Sequence[Tensor], targets: Sequence[Target], path: Path) -> None:
    """Images with the true boxes (white, dashed) and those that were found, in the colour of the class."""
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    for axis, image, target, result in zip(axes, images, targets, detector.eval()(list(images[:8])), strict=False):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.axis("off")
        for (x0, y0, x1, y1), label, score in zip(result["boxes"], result["labels"], result["scores"], strict=True):
            if score >= 0.5:
                colour = list(COLOURS)[int(label) - 1]
                box = (float(x0), float(y0)), float(x1 - x0), float(y1 - y0)
                axis.add_patch(Rectangle(*box, fill=False, edgecolor="black", linewidth=3.5))
                axis.add_patch(Rectangle(*box, fill=False, edgecolor=colour, linewidth=2))
                axis.text(float(x0), float(y0) - 1, f"{colour} {float(score):.2f}", fontsize=7)
        for x0, y0, x1, y1 in target["boxes"].tolist():
            box = (x0, y0), x1 - x0, y1 - y0
            axis.add_patch(Rectangle(*box, fill=False, edgecolor="white", linestyle="--", linewidth=1))
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    images, targets = draw_rectangles(args.test, np.random.default_rng(10_000))
    rows = {}
    for name in args.backbones:
        torch.manual_seed(0)
        network, start = BACKBONES[name](), time.perf_counter()
        detector, losses = train(network, steps=args.steps)
        tenth = max(1, args.steps // 10)
        rows[name] = {
            "backbone_parameters": count_parameters(network),
            "parameters": count_parameters(detector),
            "loss_first_tenth": sum(losses[:tenth]) / tenth,
            "loss_last_tenth": sum(losses[-tenth:]) / tenth,
            **measure(detector, images, targets),
            "minutes": (time.perf_counter() - start) / 60,
        }
        logging.info("%s: %s", name, json.dumps(rows[name]))
        if name == args.backbones[0]:
            draw(detector, images, targets, args.out / "boxes.png")
        result = {
            "command": f"python experiments/detection/run.py --steps {args.steps} --test {args.test}",
            "seed": 0,
            "steps": args.steps,
            "test_images": args.test,
            "torch": str(torch.__version__),
            "machine": f"{platform.machine()}, CPU, {args.threads} thread(s)",
            "backbones": rows,
        }
        write_atomically(args.out / "results.json", json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
