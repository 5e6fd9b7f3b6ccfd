"""What each way of saving time in a search step buys: all of them against all but one, in both cell spaces.

Steps of the first order, with 16 channels, 8 cells (DARTS) or 5 a stage (NAS-Bench-201), take turns in one process; two
rounds do not count. Without one of its ways the product must give the same loss. Usage:

    python experiments/benchmarks/tricks.py [--rounds 9] [--batch 16] [--threads 1] [--out FILE]

Writes tricks_cpu.json beside this file, with medians and quartiles of the ratio: above 1 where the way saves time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import search_step  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from oneshot.cost.latency.device import processor  # noqa: E402
from oneshot.functional import frozen_batch_norm  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import mixed_op, nasbench201, ops  # noqa: E402
from oneshot.supernets.base import lay_out  # noqa: E402

Step = Callable[[], float]


def multiplied(norms: list[nn.BatchNorm2d], x: Tensor, scales: Tensor) -> Tensor:
    """What ``scaled_batch_norm`` computes, in two passes."""
    parts = x.chunk(len(norms), dim=1)
    return torch.cat([scale * norm(part) for norm, part, scale in zip(norms, parts, scales, strict=True)], dim=1)


# Without a way: what the functions that it consists of are replaced by.
PATCHES: dict[str, list[tuple[Any, str, Any]]] = {
    "what a state has in common is computed once": [
        (module, "once", lambda seen, what, compute: compute()) for module in (ops, mixed_op)
    ],
    "same convolutions of all edges are one": [(nasbench201, "run_together", lambda *_: {})],
    "weights ride on batch normalisation": [(mixed_op, "scaled_batch_norm", multiplied)],
    "dilated convolutions without holes": [
        (ops.DilatedDepthwise, "forward", lambda self, x, seen=None: nn.Conv2d.forward(self, x))
    ],
}
LAYOUT = "channels last"
TRICKS = (*PATCHES, LAYOUT)


@contextlib.contextmanager
def without(trick: str | None) -> Iterator[None]:
    """Inside, the product does without one of :data:`PATCHES`."""
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in PATCHES.get(trick or "", ()):
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def make_step(space: str, trick: str | None, args: argparse.Namespace) -> Step:
    net, forward, alphas = search_step.build(space, "oneshot", args)
    if trick == LAYOUT:
        lay_out(net, torch.contiguous_format)
    weights = list(net.parameters())
    x = torch.randn(2, args.batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    y = torch.randint(10, (2, args.batch), generator=torch.Generator().manual_seed(2))

    def step() -> float:
        with without(trick):
            with frozen_batch_norm(net):
                torch.autograd.grad(F.cross_entropy(forward(x[1]), y[1]), alphas)
            loss = F.cross_entropy(forward(x[0]), y[0])
            torch.autograd.grad(loss, weights)
        return loss.item()

    return step


def measured(space: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    steps = {trick: make_step(space, trick, args) for trick in (None, *TRICKS)}
    seconds: dict[str | None, list[float]] = {trick: [] for trick in steps}
    expected = steps[None]()
    for trick, step in steps.items():
        torch.testing.assert_close(step(), expected, rtol=1e-4, atol=0, msg=lambda text, t=trick: f"{t}: {text}")
    for _ in range(args.rounds + 1):
        for trick, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[trick].append(time.perf_counter() - start)
    rows = []
    for trick in TRICKS:
        ratios = [other / own for other, own in zip(seconds[trick][1:], seconds[None][1:], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        row = {"space": space, "trick": trick, "ratio": middle, "quartiles": [low, high]}
        rows.append({**row, "seconds": {"with": seconds[None][1:], "without": seconds[trick][1:]}})
        print(f"| {search_step.NAMES[space]} | {trick} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, nargs=2, help="of DARTS, and of a stage of NAS-Bench-201")
    parser.add_argument("--out", type=Path, default=HERE / "tricks_cpu.json")
    args = parser.parse_args()
    args.device = "cpu"
    torch.set_num_threads(args.threads)
    print("| space | way of saving time | a step without it, with it = 1 (quartiles) |\n|---|---|---:|")
    rows = [row for space in search_step.NAMES for row in measured(space, args)]
    settings = {key: getattr(args, key) for key in ("batch", "rounds", "threads", "channels", "cells")}
    report = {"settings": settings, "hardware": processor(), "torch": torch.__version__, "results": rows}
    write_atomically(args.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
