"""The table of methods in docs/methods.md, made from the code: every row is built, runs one step, and is measured.

    python experiments/methods.py            # prints the table
    python experiments/methods.py --write    # and puts it into docs/methods.md

Floating-point operations and memory are those of one step of both optimisers on a small cell supernet, relative to
DARTS of first order: the operations PyTorch counts, and the most bytes that wait for a backward pass.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402

import oneshot  # noqa: E402
from oneshot.cost import CostPenalty  # noqa: E402
from oneshot.cost.counting.network import MacCounter  # noqa: E402  (FlopCounterMode cannot look into torch.autograd.grad)
from oneshot.engine.gradient import BilevelSearch, GradientSearch  # noqa: E402
from oneshot.engine.module import SearchModule  # noqa: E402
from oneshot.supernets import DARTSSupernet, OperationSupernet, darts_space  # noqa: E402
from oneshot.testing.methods import fit, random_streams  # noqa: E402

METHODS: dict[str, Callable[[OperationSupernet], SearchModule]] = {
    "DARTS, order 1": oneshot.DARTS,
    "DARTS, order 2": lambda s: oneshot.DARTS(s, order=2),
    "PC-DARTS": lambda s: oneshot.PCDARTS(s, arch_warmup_epochs=0),
    "SNAS": oneshot.SNAS,
    "GDAS": oneshot.GDAS,
    "FBNet": lambda s: oneshot.FBNet(s, CostPenalty("macs", "fbnet"), arch_warmup_epochs=0),
    "ProxylessNAS": lambda s: oneshot.ProxylessNAS(s, arch_warmup_epochs=0),
    "ProxylessNAS, REINFORCE": lambda s: oneshot.ProxylessNAS(s, gradient="reinforce", arch_warmup_epochs=0),
    "FairDARTS": oneshot.FairDARTS,
    "RobustDARTS": oneshot.RobustDARTS,
    "SmoothDARTS, RS": lambda s: oneshot.SmoothDARTS(s, attack="random"),
    "SmoothDARTS, ADV": oneshot.SmoothDARTS,
    "DARTS-PT": lambda s: oneshot.DARTSPT(s, train_epochs=1, tune_epochs=0, batches=1),
    "DrNAS": oneshot.DrNAS,
    "Beta-DARTS": oneshot.BetaDARTS,
    "OLES": oneshot.OLES,
    "Lambda-DARTS": oneshot.LambdaDARTS,
    "DARTS-": oneshot.DARTSMinus,
    "DSNAS": oneshot.DSNAS,
    "random search, weight sharing": lambda s: oneshot.RandomSharing(s, candidates=1, finalists=1),
    "FairNAS": lambda s: oneshot.FairNAS(s, candidates=1, finalists=1),
    "ENAS": lambda s: oneshot.ENAS(s, updates=1, batch=1, candidates=1, finalists=1),
}
BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
OPERATIONS = ("skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3")


class StepMeter(pl.Callback):
    """Multiply-accumulates of the first step, and the most bytes that are kept for a backward pass at any moment."""

    def __init__(self) -> None:
        self.macs, self.peak = 0, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        kept: dict[int, int] = {}

        def pack(x: torch.Tensor) -> torch.Tensor:
            storage = x.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            self.peak = max(self.peak, sum(kept.values()))
            return x

        def unpack(x: torch.Tensor) -> torch.Tensor:
            kept.clear()  # the backward pass has begun; the next forward pass starts from nothing
            return x

        self.counter, self.hooks = (
            MacCounter(),
            torch.autograd.graph.saved_tensors_hooks(pack, unpack),
        )
        self.counter.__enter__()
        self.hooks.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.hooks.__exit__(None, None, None)
        self.counter.__exit__(None, None, None)
        self.macs = self.counter.macs


def measure(name: str) -> tuple[SearchModule, StepMeter]:
    torch.manual_seed(0)
    space = darts_space(candidates=OPERATIONS)
    parts = 4 if name == "PC-DARTS" else 1
    module = METHODS[name](DARTSSupernet(space, channels=8, cells=3, image_size=16, partial_channels=parts))
    meter = StepMeter()
    fit(module, random_streams(module.supernet, batches=1), epochs=1, callbacks=[meter])
    return module, meter


def words(name: str) -> str:
    """``StraightThroughSampler`` -> ``straight through``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Sampler")).lower()


def loss(module: SearchModule) -> str:
    if not isinstance(module, GradientSearch):
        return "–"
    own = type(module).arch_loss is not GradientSearch.arch_loss
    return "cross-entropy" + (", a term of its own" if own else "") + (", cost" if module.penalty else "")


def table() -> str:
    lines = [
        "| method | paper | edge weights | trained on | loss of the alphas | operations | memory |",
        "|---|---|---|---|---|---:|---:|",
    ]
    base: StepMeter | None = None
    for name in METHODS:
        module, meter = measure(name)
        base = base or meter
        said = f"{type(module).__doc__} {sys.modules[type(module).__module__].__doc__}"
        elsewhere = re.search(r"openreview\.net/forum\?id=(\w+)", said)
        found = elsewhere or re.search(r"arXiv:(\d{4}\.\d{5})", said)
        assert found is not None, f"{name} names no paper"
        level = {True: "two halves"}.get(isinstance(module, BilevelSearch), "one set")
        draws = getattr(module, "controller", getattr(module, "sampler", None))
        inner = getattr(draws, "inner", None)
        sampler = "uniform" if draws is None else words(type(draws).__name__)
        sampler += f" over {words(type(inner).__name__)}" if inner is not None else ""
        paper = f"[{found[1]}](https://{found[0] if elsewhere else 'arxiv.org/abs/' + found[1]})"
        cost, memory = (f"{a / b:.2f}" for a, b in ((meter.macs, base.macs), (meter.peak, base.peak)))
        lines.append(f"| {name} | {paper} | {sampler} | {level} | {loss(module)} | {cost} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on loaders and loggers
    made, page = table(), ROOT / "docs/methods.md"
    print(made)
    if "--write" in sys.argv:
        text = page.read_text(encoding="utf-8")
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        page.write_text(f"{text[:start]}\n{made}\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
