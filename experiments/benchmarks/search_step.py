"""A search step in both cell spaces: the product against the textbook network with one module per candidate.

All sides have the same weights, run in one process, take turns, and must give the same losses: the textbook, the
product, the product with gradient checkpointing, and on GPUs the compiled product and the product as a CUDA graph of
the whole step (--compile adds the first elsewhere; graphs are of the first order). A step is one gradient of the alphas
and one of the weights (first order), or the five gradients of the second order. Peak memory is that of a process of its
own per side; on GPUs, what a step allocates. Usage:

    python experiments/benchmarks/search_step.py [--device cuda] [--batch 64] [--rounds 9] [--threads 2] [--compile]

Networks have 16 channels and 8 cells (DARTS) or 5 cells per stage (NAS-Bench-201), or those of --cells. Writes
search_step_<device>.json and .png beside this file, or where --out says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from oneshot.cost.latency.device import processor  # noqa: E402
from oneshot.functional import frozen_batch_norm, unrolled_arch_grad  # noqa: E402
from oneshot.report.style import save_figure  # noqa: E402
from oneshot.supernets import DARTSSupernet, NASBench201Supernet, OperationSupernet  # noqa: E402
from tests.reference.darts_net import DARTSSearchNet  # noqa: E402
from tests.reference.nasbench201_net import NASBench201SearchNet  # noqa: E402
from tests.reference.test_networks import copy_weights, rename_darts, rename_nasbench201  # noqa: E402

CELLS = (8, 5)
COLOURS = ("#BBBBBB", "#0072B2", "#56B4E9", "#009E73", "#D55E00")
NAMES = {"darts": "DARTS", "nasbench201": "NB-201"}
Side = Callable[[Tensor], Tensor]


def build(space: str, side: str, args: argparse.Namespace) -> tuple[nn.Module, Side, list[Tensor]]:
    """Network, its forward under softmax weights, and the alphas."""
    torch.manual_seed(0)
    channels, cells = args.channels, (args.cells or CELLS)[0 if space == "darts" else 1]
    if space == "darts":
        ours: OperationSupernet = DARTSSupernet(channels=channels, cells=cells)
        textbook, rename = DARTSSearchNet(channels=channels, cells=cells), rename_darts
    else:
        ours = NASBench201Supernet(channels=channels, cells_per_stage=cells)
        textbook, rename = (
            NASBench201SearchNet(channels=channels, cells_per_stage=cells),
            rename_nasbench201(cells),
        )
    choices = {choice.name: (choice.rows, len(choice.candidates)) for choice in ours.space.choices}
    alphas = [(1e-3 * torch.randn(shape)).to(args.device).requires_grad_() for shape in choices.values()]
    if side == "textbook":
        copy_weights(ours, textbook, rename)
        textbook.to(args.device)
        return textbook, lambda x: textbook(x, *map(soft, alphas)), alphas
    ours.to(args.device, memory_format=torch.channels_last)
    ours.gradient_checkpointing = side == "checkpointing"
    if side == "compiled":
        ours.compile()
    return ours, lambda x: ours(x, dict(zip(choices, map(soft, alphas), strict=True))), alphas


def soft(alpha: Tensor) -> Tensor:
    return alpha.softmax(-1)


def make_step(space: str, side: str, order: int, args: argparse.Namespace) -> Callable[[], float]:
    net, forward, alphas = build(space, side, args)
    weights = list(net.parameters())
    x = torch.randn(2, args.batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(args.device)
    y = torch.randint(10, (2, args.batch), generator=torch.Generator().manual_seed(2)).to(args.device)

    def loss(half: int) -> Tensor:
        return F.cross_entropy(forward(x[half]), y[half])

    def gradients() -> Tensor:
        with frozen_batch_norm(net):
            if order == 1:
                torch.autograd.grad(loss(1), alphas)
            else:
                unrolled_arch_grad(lambda: loss(0), lambda: loss(1), weights, alphas, lr=0.025)
        value = loss(0)
        torch.autograd.grad(value, weights)
        return value.detach()

    if side == "graphs":
        gradients = as_graph(gradients)

    def step() -> float:
        value = gradients().item()
        if args.device == "cuda":
            torch.cuda.synchronize()
        return value

    return step


def as_graph(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same as a CUDA graph, which launches all kernels at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # what is set up at the first call cannot be recorded
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def peak_memory(space: str, side: str, order: int, step: Callable[[], float], args: argparse.Namespace) -> float | None:
    """MiB one side needs for its steps, measured in a fresh process; on GPUs, what a step allocates here."""
    if args.device == "cuda":
        if side == "graphs":
            return None  # all its memory is there from the beginning
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    command = [sys.executable, __file__, "--peak", space, side, str(order)]
    for name in ("device", "batch", "threads", "channels"):
        command += [f"--{name}", str(getattr(args, name))]
    if args.cells:
        command += ["--cells", *map(str, args.cells)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak(args: argparse.Namespace) -> None:
    space, side, order = args.peak
    step = make_step(space, side, int(order), args)
    before = status("VmRSS")
    for _ in range(2):
        step()
    print(status("VmHWM") - before)


def status(name: str) -> float:
    """MiB from the kernel; getrusage would also count the process that started this one."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="also time the compiled supernet")
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, nargs=2, help="of DARTS, and of a stage of NAS-Bench-201")
    parser.add_argument("--out", type=Path, help="the JSON file")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False
    if args.peak:
        print_peak(args)
        return

    results = []
    path = args.out or HERE / f"search_step_{args.device}.json"
    for space, order in itertools.product(NAMES, args.orders):
        sides = ["textbook", "oneshot", "checkpointing"]
        if args.compile or args.device == "cuda":
            sides.append("compiled")
        if args.device == "cuda" and order == 1:
            sides.append("graphs")
        steps = {side: make_step(space, side, order, args) for side in sides}
        losses = {side: step() for side, step in steps.items()}  # warm-up
        for loss in losses.values():
            torch.testing.assert_close(loss, losses["textbook"], rtol=1e-4, atol=0)
        seconds: dict[str, list[float]] = {side: [] for side in steps}
        for _ in range(args.rounds):
            for side, step in steps.items():
                start = time.perf_counter()
                step()
                seconds[side].append(time.perf_counter() - start)
        memory = {side: peak_memory(space, side, order, step, args) for side, step in steps.items()}
        result = {
            "space": space,
            "order": order,
            "losses": losses,
            "seconds": seconds,
            "median_seconds": {side: statistics.median(values) for side, values in seconds.items()},
            "images_per_second": {s: 2 * args.batch / statistics.median(v) for s, v in seconds.items()},
            "speedup": {side: speedup(seconds["textbook"], seconds[side]) for side in sides[1:]},
            "peak_mib": memory,
            "memory_ratio": {side: memory[side] / memory["textbook"] for side in sides[1:] if memory[side]},
        }
        results.append(result)
        seconds_each, ratios = result["median_seconds"], result["memory_ratio"]
        print(f"{space}, order {order}: textbook {seconds_each['textbook']:.3f} s, {memory['textbook']:.0f} MiB")
        for side in sides[1:]:
            median, low, high = (result["speedup"][side][key] for key in ("median", "min", "max"))
            used = f", memory {memory[side]:.0f} MiB ({ratio:.2f})" if (ratio := ratios.get(side)) else ""
            print(f"    {side} {seconds_each[side]:.3f} s, {median:.2f} times faster ({low:.2f} to {high:.2f}){used}")
        save(results, args, path)
    draw(results, path.with_suffix(".png"))


def save(results: list[dict], args: argparse.Namespace, path: Path) -> None:
    name = torch.cuda.get_device_name() if args.device == "cuda" else processor()
    settings = {key: getattr(args, key) for key in ("device", "batch", "rounds", "threads", "channels", "cells")}
    settings["tf32"] = torch.backends.cudnn.allow_tf32
    report = {"settings": settings, "hardware": name, "torch": torch.__version__, "results": results}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def speedup(textbook: list[float], other: list[float]) -> dict[str, float]:
    """Of each round, in which both sides ran one after the other."""
    ratios = [t / o for t, o in zip(textbook, other, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def draw(results: list[dict], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, key, unit in zip(figure.subplots(1, 2), ("seconds", "peak_mib"), ("s per step", "peak MiB"), strict=True):
        sides = list(results[0]["seconds"])
        for i, side in enumerate(sides):
            found = "median_seconds" if key == "seconds" else key
            values = [r[found].get(side) or 0.0 for r in results]
            places, width = [p + 0.8 * i / len(sides) for p in range(len(results))], 0.75 / len(sides)
            axes.bar(places, values, width, label=side, color=COLOURS[i])
        axes.set_xticks(
            [p + 0.27 for p in range(len(results))], [f"{NAMES[r['space']]}\norder {r['order']}" for r in results]
        )
        axes.set_ylabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
