"""Checks and times oneshot on a GPU: what run.sh runs. README.md says what comes out of it.

    python experiments/gpu/run.py [--out FOLDER] [--minutes 8.5] [--data FOLDER] [--parts ...]
    python experiments/gpu/run.py --device cpu --small      # a dry run without a GPU: minutes, and small networks

Each part is a process of its own with a limit of time. It writes every result as soon as it has it, so a part that is
stopped loses only what was under way. Writes results.json and results.md into the folder. Needs no fvcore and no W&B.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

SHARES = {"correct": 0.25, "steps": 0.35, "search": 0.1, "latency": 0.3}  # of the time that is left with later parts
WITHOUT_DROPOUT = {
    f"dropout_{where}": 0.0 for where in ("embedding", "input", "hidden", "output")
}  # devices draw others
SPACES: dict[str, tuple[str, dict[str, Any]]] = {
    "darts": ("DARTSSupernet", {"channels": 4, "cells": 3, "image_size": 16}),
    "nasbench201": ("NASBench201Supernet", {"channels": 4, "cells_per_stage": 1, "image_size": 8}),
    "nasbench1shot1": ("NASBench1Shot1Supernet", {"space": 1, "channels": 4, "cells_per_stage": 1, "image_size": 8}),
    "nasbenchmacro": ("NASBenchMacroSupernet", {}),
    "nasnet": ("NASNetSupernet", {"channels": 4, "cells_per_stage": 1, "image_size": 16}),
    "fbnet": ("FBNetSupernet", {"width": 0.25, "image_size": 32}),
    "proxyless": ("ProxylessSupernet", {"width": 0.25, "image_size": 32}),
    "recurrent": ("RecurrentSupernet", {"num_classes": 30, "size": 8, **WITHOUT_DROPOUT}),
    "series": ("SeriesSupernet", {"channels": 4}),
    "volume": ("VolumeSupernet", {"channels": 4}),
    "text": ("TextSupernet", {"channels": 4}),
    "mlp": ("MLPSupernet", {"width": 8}),
    "segmentation": (
        "SegmentationSupernet",
        {"layers_per_stage": 1, "width": 0.25, "image_size": 64, "num_classes": 3},
    ),
    "mobilenetv3": ("MobileNetV3Supernet", {"image_size": 32, "widths": (0.2, 0.25)}),
    "resnet": ("ElasticResNetSupernet", {"image_size": 32}),
    "vit": ("ViTSupernet", {"image_size": 32, "embed_dims": (64, 96)}),
}
# Largest |a - b| / |b| over all gradients. float64 differs by the order of sums only; 16 bits by 8 bits of mantissa in
# each of tens of layers; float32 in between. A graph replays the same kernels.
BARS = {"float64": 1e-8, "order 2": 1e-6, "float32": 1e-2, "bfloat16": 0.5, "compiled": 1e-2, "graph": 1e-4}
Record = Callable[..., None]
LEFT = {"steps": ("search_step.json",), "latency": ("latency.journal", "fbnet_latency.json")}  # files of parts
NETWORKS = 150  # for a table; three for each latency, 324, would take twice the time


# What is compared.


def gradients(name: str, device: str, dtype: str = "float64", how: str = "eager") -> Any:
    """Gradients of the mean of the outputs, weighed at random, in all alphas and weights; one vector, float64.

    Everything random is drawn on the CPU in float64, so that it is the same everywhere.
    """
    import torch

    supernet, arch, alphas, x, weigh = prepared(
        name, device, getattr(torch, dtype if dtype != "bfloat16" else "float32")
    )
    leaves = [*alphas, *(p for p in supernet.parameters() if p.requires_grad)]
    if how == "compiled":
        supernet.compile()

    def loss() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            return weigh(supernet(x, arch()))

    def found() -> list[Any]:
        return list(torch.autograd.grad(loss(), leaves, allow_unused=True))

    if how == "graph":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                found()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = found()
        graph.replay()
        return vector(result)
    if how == "order 2":
        from oneshot.functional import frozen_batch_norm, unrolled_arch_grad

        weights = leaves[len(alphas) :]
        with frozen_batch_norm(supernet):
            return vector(unrolled_arch_grad(loss, loss, weights, alphas, lr=0.025))
    return vector(found())


def prepared(name: str, device: str, dtype: Any) -> tuple[Any, Callable[[], Any], list[Any], Any, Callable[[Any], Any]]:
    """A supernet, what it runs, its alphas, a batch, and a function of its output."""
    import torch

    import oneshot.supernets
    from oneshot.supernets.base import OperationSupernet, example_inputs

    torch.manual_seed(0)
    class_name, arguments = SPACES[name]
    supernet = getattr(oneshot.supernets, class_name)(**arguments)
    x = example_inputs(supernet, 8)
    generator = torch.Generator().manual_seed(1)
    supernet = supernet.to(device, dtype).train()
    x = x.to(device, dtype) if x.is_floating_point() else x.to(device)
    alphas: list[Any] = []
    if isinstance(supernet, OperationSupernet):
        shapes = {choice.name: (choice.rows, len(choice.candidates)) for choice in supernet.space.choices}
        drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes.values()]
        alphas = [alpha.to(device, dtype).requires_grad_() for alpha in drawn]

        def arch() -> Any:
            return dict(zip(shapes, (alpha.softmax(-1) for alpha in alphas), strict=True))
    else:

        def arch() -> Any:
            return supernet.space.sample(0)

    made: list[Any] = []  # at the first call: a graph must not contain a copy from the CPU

    def weigh(output: Any) -> Any:
        if not made:
            by = torch.randn(output.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
            made.append(by.to(device, dtype))
        return (output.to(dtype) * made[0]).mean()

    return supernet, arch, alphas, x, weigh


def vector(tensors: Sequence[Any]) -> Any:
    import torch

    return torch.cat([t.detach().double().cpu().flatten() for t in tensors if t is not None])


def distance(a: Any, b: Any) -> float:
    return float((a - b).norm() / b.norm())


# Parts.


def correct(args: argparse.Namespace, record: Record) -> None:
    """The device against float64 on the CPU, for every space."""
    import torch

    from oneshot.supernets.base import OperationSupernet

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    names = args.spaces or list(SPACES)
    for name in names:
        on_cpu = partial(gradients, name, "cpu")
        for dtype in ("float64", "float32", "bfloat16"):
            compare(record, name, dtype, partial(gradients, name, args.device, dtype), on_cpu)
        if isinstance(prepared(name, "cpu", torch.float32)[0], OperationSupernet):
            second = {"how": "order 2"}
            compare(record, name, "order 2", partial(gradients, name, args.device, **second), partial(on_cpu, **second))
    compiled = [name for name in (("mlp",) if args.small else ("nasbench201", "darts")) if name in names]
    for name in compiled:  # this takes longest
        eager = partial(gradients, name, args.device, "float32")
        compare(record, name, "compiled", partial(eager, how="compiled"), eager)
    for name in names if args.device == "cuda" else []:  # last: what follows a failed capture is not to be trusted
        eager = partial(gradients, name, args.device, "float32")
        compare(record, name, "graph", partial(eager, how="graph"), eager)


def compare(record: Record, space: str, what: str, check: Callable[[], Any], reference: Callable[[], Any]) -> None:
    """Record how far gradients are from those of the reference, or why there are none."""
    try:
        far = distance(check(), reference())
    except Exception as error:  # noqa: BLE001  # one space that fails is a result, and no end
        record(space=space, check=what, failure=f"{type(error).__name__}: {error}".splitlines()[0][:300])
        return
    record(space=space, check=what, distance=far, bar=BARS[what], passed=far <= BARS[what])


def steps(args: argparse.Namespace, record: Record) -> None:
    """The step of a search against the textbook: experiments/benchmarks/search_step.py, first order, batches of 64."""
    out = args.out / "search_step.json"
    sizes = ["--batch", "4", "--rounds", "1", "--channels", "4", "--cells", "3", "1"] if args.small else [
        "--batch", "64", "--rounds", "9"
    ]  # fmt: skip
    script = HERE.parent / "benchmarks" / "search_step.py"
    command = [sys.executable, str(script), "--device", args.device, "--orders", "1", "--out", str(out), *sizes]
    finished = subprocess.run(command, text=True, capture_output=True, check=False)
    print(finished.stdout + finished.stderr[-3000:], flush=True)
    if finished.returncode:
        record(failure=(finished.stderr.strip().splitlines() or ["search_step.py failed"])[-1][:300])


def rows_of_steps(out: Path) -> list[dict[str, Any]]:
    """What search_step.py has written, also when it was stopped between two spaces."""
    file, rows = out / "search_step.json", []
    for result in json.loads(file.read_text(encoding="utf-8"))["results"] if file.is_file() else []:
        for side, seconds in result["median_seconds"].items():
            speedup = result["speedup"].get(side, {"median": 1.0, "min": 1.0, "max": 1.0})
            row = {"space": result["space"], "order": result["order"], "side": side, "ms": 1e3 * seconds}
            row |= {"images_per_second": result["images_per_second"][side], "peak_mib": result["peak_mib"][side]}
            rows.append({**row, "faster": [speedup[key] for key in ("median", "min", "max")]})
    return rows


def search(args: argparse.Namespace, record: Record) -> None:
    """A shortened search of the DARTS space by ``Trainer.fit``, with the images on the device."""
    import pytorch_lightning as pl
    import torch

    from oneshot import DARTS
    from oneshot.data import SearchDataModule, VisionData
    from oneshot.data.images import ImageSet
    from oneshot.supernets import DARTSSupernet

    class Images(VisionData):
        """CIFAR-10 from a packed file, or random pixels of its shape, which tell the speed and nothing else."""

        def load(self, split: str) -> ImageSet | None:
            if split == "val":
                return None
            count = (256 if args.small else 20_000) if split == "train" else 64
            if args.data:
                sys.path.insert(0, str(HERE.parent / "compare"))
                from packed_cifar10 import unpacked

                pixels, labels = unpacked(args.data / f"cifar10_jpeg_{split}.npz", side, range(count))
                return ImageSet.whole(torch.from_numpy(pixels), torch.from_numpy(labels))
            generator = torch.Generator().manual_seed(0)
            pixels = torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
            return ImageSet.whole(pixels, torch.randint(10, (count,), generator=generator))

    side, batch = (8, 16) if args.small else (32, 64)
    pl.seed_everything(0)
    data = Images([str(i) for i in range(10)], (3, side, side), batch_size=batch, device=args.device)
    supernet = DARTSSupernet(channels=4, cells=3, image_size=8) if args.small else DARTSSupernet(channels=16, cells=8)
    module = DARTS(supernet)
    epochs = 1 if args.small else 3
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if args.device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=[clock.callback()],
    )
    trainer.fit(module, datamodule=SearchDataModule(data))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    record(
        images="CIFAR-10" if args.data else "random pixels",
        epochs=epochs,
        batch=batch,
        epoch_seconds=clock.seconds,
        images_per_second=[clock.steps * 2 * batch / seconds for seconds in clock.seconds],
        metrics=metrics,
        finite=bool(metrics) and all(map(math.isfinite, metrics.values())),
        derived=str(module.derive()),
    )


class Clock:
    """Seconds of every epoch, and its steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.steps = 0

    def callback(self) -> Any:
        import pytorch_lightning as pl
        import torch

        clock = self

        class Callback(pl.Callback):
            def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
                self.begin = time.perf_counter()

            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                if pl_module.device.type == "cuda":
                    torch.cuda.synchronize()
                clock.seconds.append(time.perf_counter() - self.begin)
                clock.steps = int(trainer.num_training_batches)

        return Callback()


def latency(args: argparse.Namespace, record: Record) -> None:
    """The latency table of FBNet's space, batches of 1, measured with CUDA events on a GPU."""
    import numpy as np

    from oneshot.cost import Device, measure, verify
    from oneshot.supernets import FBNetSupernet

    supernet = FBNetSupernet(width=0.25, image_size=32) if args.small else FBNetSupernet(image_size=224)
    device = Device("eager", args.device)
    begin, last = time.perf_counter(), [0.0]

    def progress(done: int, total: int) -> None:
        if (now := time.perf_counter()) - last[0] > 20 or done == total:
            last[0] = now
            print(f"latency: {done} of {total} networks after {now - begin:.0f} s", flush=True)

    table = measure(supernet, device, networks=NETWORKS, journal=args.out / "latency.journal", progress=progress)
    table.save(args.out / "fbnet_latency.json")
    record(networks=table.networks, seconds=time.perf_counter() - begin, reference_ms=table.reference["ms"],
           noise=table.noise, residual=table.residual)  # fmt: skip
    checked = verify(table, supernet, device, networks=10)
    errors = np.abs(np.array(checked.predicted) / np.array(checked.measured) - 1)
    record(verified=len(errors), median_error=float(np.median(errors)), largest_error=float(errors.max()))


PARTS: dict[str, Callable[[argparse.Namespace, Record], None]] = {
    "correct": correct,
    "steps": steps,
    "search": search,
    "latency": latency,
}


# Running them, and what they found.


@contextmanager
def recording(out: Path, part: str) -> Iterator[Record]:
    """A function that appends a row to the results of a part."""
    with (out / f"{part}.jsonl").open("w", encoding="utf-8") as file:

        def record(**row: Any) -> None:
            print(f"{part}: {json.dumps(row)[:200]}", flush=True)
            file.write(json.dumps(row) + "\n")
            file.flush()

        yield record


def run_part(part: str, args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """A part in a process of its own: its rows, its time, and how it ended."""
    file, begin = args.out / f"{part}.jsonl", time.perf_counter()
    for stale in (file, *(args.out / name for name in LEFT.get(part, ()))):
        stale.unlink(missing_ok=True)  # of an earlier run
    command = [sys.executable, __file__, "--part", part, "--out", str(args.out), "--device", args.device]
    command += ["--small"] * args.small + (["--data", str(args.data)] if args.data else [])
    command += ["--spaces", *args.spaces] if args.spaces else []
    process = subprocess.Popen(command, start_new_session=True)
    try:
        ended = "finished" if process.wait(timeout=seconds) == 0 else f"failed, exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        ended = f"stopped after {seconds:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    rows += rows_of_steps(args.out) if part == "steps" else []
    return {"ended": ended, "seconds": round(time.perf_counter() - begin, 1), "rows": rows}


def machine(device: str) -> dict[str, Any]:
    import torch

    facts = {"python": platform.python_version(), "torch": torch.__version__, "processor": platform.machine()}
    if device == "cuda":
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda or ""}
    return facts


def failed(results: Mapping[str, Any]) -> list[str]:
    """What did not end, or is not as it must be."""
    found = [f"{part}: {told['ended']}" for part, told in results["parts"].items() if told["ended"] != "finished"]
    for part, told in results["parts"].items():
        for row in told["rows"]:
            if "failure" in row or row.get("passed") is False or row.get("finite") is False:
                found.append(f"{part}: {json.dumps(row)}")
    return found


def as_markdown(results: Mapping[str, Any]) -> str:
    facts = results["machine"]
    lines = ["# oneshot on a GPU", "", ", ".join(f"{key} {value}" for key, value in facts.items()) + ".", ""]
    for part, told in results["parts"].items():
        lines += [f"## {part}", "", f"{told['ended']}, {told['seconds']:.0f} s.", ""]
        rows = told["rows"]
        for names in dict.fromkeys(tuple(row) for row in rows):
            lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
            lines += [
                "| " + " | ".join(cell(row[name]) for name in names) + " |" for row in rows if tuple(row) == names
            ]
            lines.append("")
    wrong = failed(results)
    return "\n".join([*lines, "## Not as it must be", "", *([f"- {line}" for line in wrong] or ["Nothing."]), ""])


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(of)}" for key, of in value.items())
    return (
        {True: "yes", False: "no", None: "–"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--minutes", type=float, default=8.5, help="of all parts together")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--data", type=Path, help="folder with cifar10_jpeg_train.npz; else random pixels are searched on"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--spaces", nargs="+", choices=SPACES, help="for which gradients are compared; all by default")
    parser.add_argument("--small", action="store_true", help="small networks, for a dry run")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part:
        with recording(args.out, args.part) as record:
            PARTS[args.part](args, record)
        return
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error(
                f"a CUDA device must be there; PyTorch {torch.__version__} sees none. Dry run: --device cpu --small"
            )
    end = time.perf_counter() + 60 * args.minutes
    results: dict[str, Any] = {"machine": machine(args.device), "small": args.small, "parts": {}}
    for i, part in enumerate(args.parts):
        left = end - time.perf_counter()
        share = SHARES[part] / sum(SHARES[name] for name in args.parts[i:])
        results["parts"][part] = run_part(part, args, left * share)
        (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (args.out / "results.md").write_text(as_markdown(results), encoding="utf-8")
    print((args.out / "results.md").read_text(encoding="utf-8"))
    sys.exit(1 if failed(results) else 0)


if __name__ == "__main__":
    main()
