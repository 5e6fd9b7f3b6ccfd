"""What a search step of the DARTS space costs as channels, cells, images and candidates grow.

One size changes at a time, the others stay at the base. A step is one gradient of the alphas and one of the weights,
first order. Sizes take turns, so that a machine that becomes slower does so for all; memory is that of a process of
its own for each. An exponent e says that twice the size takes 2^e times as much: the slope of a line through the
logarithms.

    python experiments/benchmarks/scale.py [--device cuda] [--rounds 5] [--threads 1]

Writes scale_<device>.json and .png beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from search_step import status  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from oneshot.cost.latency.device import processor  # noqa: E402
from oneshot.functional import frozen_batch_norm  # noqa: E402
from oneshot.report.style import CYCLE, INK, plain_axes, save_figure  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import DARTSSupernet, darts_space  # noqa: E402

BASE = {"channels": 8, "cells": 6, "images": 16, "candidates": 8}
SIZES = {
    "channels": (4, 8, 16, 32, 64),
    "cells": (3, 6, 12, 24),
    "images": (4, 8, 16, 32, 64),
    "candidates": (2, 3, 4, 6, 8),
}
# In an order in which every prefix has a share of operations with weights that is near that of all.
OPS = (
    "skip_connect",
    "sep_conv_3x3",
    "none",
    "dil_conv_3x3",
    "max_pool_3x3",
    "sep_conv_5x5",
    "avg_pool_3x3",
    "dil_conv_5x5",
)
Sizes = Mapping[str, int]


def make_step(sizes: Sizes, device: str) -> Callable[[], None]:
    """The step of a search at these sizes."""
    torch.manual_seed(0)
    space = darts_space(candidates=OPS[: sizes["candidates"]])
    net = DARTSSupernet(space, channels=sizes["channels"], cells=sizes["cells"])
    net.to(device, memory_format=torch.channels_last)
    alphas = [torch.zeros(c.rows, len(c.candidates), device=device, requires_grad=True) for c in space.choices]
    weights = list(net.parameters())
    x = torch.randn(sizes["images"], 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(10, (sizes["images"],), device=device)

    def loss() -> torch.Tensor:
        arch = {c.name: alpha.softmax(-1) for c, alpha in zip(space.choices, alphas, strict=True)}
        return F.cross_entropy(net(x, arch), y)

    def step() -> None:
        with frozen_batch_norm(net):
            torch.autograd.grad(loss(), alphas)
        torch.autograd.grad(loss(), weights)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def peak_mib(sizes: Sizes, args: argparse.Namespace) -> float:
    """Memory of two steps, over what the process has before them."""
    command = [sys.executable, __file__, "--device", args.device, "--peak", json.dumps(dict(sizes))]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak(sizes: Sizes, device: str) -> None:
    torch.set_num_threads(1)
    make_step({name: least[0] for name, least in SIZES.items()}, device)()  # libraries are in memory
    step, cuda = make_step(sizes, device), device == "cuda"
    before = torch.cuda.memory_allocated() / 2**20 if cuda else status("VmRSS")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step()
    step()
    print((torch.cuda.max_memory_allocated() / 2**20 if cuda else status("VmHWM")) - before)


def exponent(sizes: list[int], values: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def draw(results: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    for axis, key, unit in zip(figure.subplots(1, 2), ("seconds", "peak_mib"), ("s a step", "peak MiB"), strict=True):
        for (name, found), colour in zip(results.items(), CYCLE, strict=False):
            label = f"{name}, exponent {found[f'exponent_{key}']:.2f}"
            axis.plot(np.array(found["sizes"]) / BASE[name], found[key], "o-", ms=4, color=colour, label=label)
        axis.set(xscale="log", yscale="log", xlabel="size, as a multiple of the base", ylabel=unit)
        axis.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize=8)
        plain_axes(axis, 8)
    base = ", ".join(f"{size} {name}" for name, size in BASE.items())
    figure.suptitle(f"A search step of the DARTS space; base: {base}", fontsize=10, color=INK)
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--peak", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print_peak(args.peak, args.device)
        return
    torch.set_num_threads(args.threads)
    every = [(name, size) for name, sizes in SIZES.items() for size in sizes]
    steps = {(name, size): make_step({**BASE, name: size}, args.device) for name, size in every}
    for step in steps.values():
        step()
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in every}
    for _ in range(args.rounds):
        for key, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[key].append(time.perf_counter() - begin)
    del steps
    results: dict[str, Any] = {}
    for name, sizes in SIZES.items():
        found = {"sizes": list(sizes), "seconds": [statistics.median(seconds[name, size]) for size in sizes]}
        found["all_seconds"] = [seconds[name, size] for size in sizes]
        found["peak_mib"] = [peak_mib({**BASE, name: size}, args) for size in sizes]
        for key in ("seconds", "peak_mib"):
            found[f"exponent_{key}"] = exponent(list(sizes), found[key])
        results[name] = found
        said = ", ".join(
            f"{size}: {s:.3f} s {m:.0f} MiB" for size, s, m in zip(sizes, found["seconds"], found["peak_mib"])
        )
        print(
            f"{name}: exponents {found['exponent_seconds']:.2f}, {found['exponent_peak_mib']:.2f}; {said}", flush=True
        )
    settings = {"base": BASE, "device": args.device, "rounds": args.rounds, "threads": args.threads}
    machine = torch.cuda.get_device_name() if args.device == "cuda" else processor()
    out = args.out or HERE / f"scale_{args.device}.json"
    report = {"settings": settings, "machine": machine, "torch": torch.__version__, "results": results}
    write_atomically(out, json.dumps(report, indent=1) + "\n")
    draw(results, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
