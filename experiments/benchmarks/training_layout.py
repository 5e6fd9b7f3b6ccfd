"""Steps of training with weights channels-last, as ``Retrain`` lays them out, and in the usual layout, one core.

Both sides take turns in one run, the first one changes; two rounds do not count. A step is a forward and a backward
pass and one of plain SGD. Each network is the first random architecture of a space, or of a converted network. Usage:

    python experiments/benchmarks/training_layout.py [--rounds 15] [--batch 32] [--out FILE]

Writes training_layout_cpu.json beside this file: medians in milliseconds, and quartiles of the ratio, usual to
channels-last: above 1 where channels-last is faster.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402
from torch import nn  # noqa: E402

import oneshot  # noqa: E402
from oneshot.cost.latency.device import processor  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import DARTSSupernet, FBNetSupernet, MobileNetV3Supernet, NASBench201Supernet  # noqa: E402
from oneshot.supernets.base import Supernet, lay_out  # noqa: E402

LAYOUTS = {"usual": torch.contiguous_format, "channels-last": torch.channels_last}


def converted(name: str, side: int) -> Supernet:
    return oneshot.convert(source=f"timm:{name}", example_input=torch.zeros(2, 3, side, side))


SUPERNETS: dict[str, Callable[[], Supernet]] = {
    "DARTS, 32 pixels": lambda: DARTSSupernet(channels=16, cells=8),
    "NAS-Bench-201, 32 pixels": NASBench201Supernet,
    "FBNet, 64 pixels": lambda: FBNetSupernet(image_size=64),
    "MobileNetV3, 64 pixels": lambda: MobileNetV3Supernet(resolutions=(64,)),
    "EfficientNet-Lite0, 64 pixels": lambda: converted("tf_efficientnet_lite0", 64),
    "ResNet-18, 64 pixels": lambda: converted("resnet18", 64),
}


def step(network: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> float:
    """Milliseconds of one step of training."""
    start = time.perf_counter()
    nn.functional.cross_entropy(network(x), y).backward()
    optimizer.step()
    optimizer.zero_grad()
    return 1000 * (time.perf_counter() - start)


def measure(supernet: Supernet, batch: int, rounds: int) -> dict[str, float]:
    """Times of one network of a space in both layouts."""
    network = supernet.extract(supernet.space.sample(0)).train()
    x, y = torch.randn(batch, *network.input_shape), torch.randint(network.num_classes, (batch,))
    sides = {}
    for name, layout in LAYOUTS.items():
        lay_out(own := copy.deepcopy(network), layout)
        sides[name] = own, torch.optim.SGD(own.parameters(), 0.01)
    orders = [tuple(sides), tuple(sides)[::-1]]
    times = [{name: step(*sides[name], x, y) for name in orders[i % 2]} for i in range(rounds + 2)][2:]
    low, ratio, high = statistics.quantiles([each["usual"] / each["channels-last"] for each in times], n=4)
    medians = {f"{name}_ms": round(statistics.median(each[name] for each in times), 2) for name in LAYOUTS}
    return {**medians, "ratio": round(ratio, 2), "ratio_low": round(low, 2), "ratio_high": round(high, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, default=HERE / "training_layout_cpu.json")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error(f"--rounds must be at least 2, so that there is a spread; got {args.rounds}.")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = {}
    for name, make in SUPERNETS.items():
        rows[name] = measure(make(), args.batch, args.rounds)
        print(name, rows[name], flush=True)
    about = {"processor": processor(), "python": platform.python_version(), "torch": torch.__version__}
    report = {**about, "batch": args.batch, "rounds": args.rounds, "networks": rows}
    write_atomically(args.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
