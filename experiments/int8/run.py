"""Fronts that were searched with latencies of floats and with those of INT8, all of them deployed in INT8.

The space is that of NAS-Bench-201, whose operations gain unequally: convolutions become several times faster in INT8,
pooling and skips do not. For both data types a latency table of this machine is measured, in ONNX Runtime on one
thread. For each seed, two searches by NAT on the same images of CIFAR-10 differ in nothing but that table. Networks of
both fronts are exported with ``model.int8.onnx``; their accuracies on the test images and their latencies, before and
after quantisation, are those of the manifests. Usage, on a machine that does nothing else:

    python experiments/int8/run.py [--seeds 0 1 2]

Rows go to results.json, tables and searches to work/; what is there is not computed again. At the end table.md and
fronts.png are written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "transfer")]

import numpy as np  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from images import TransferImages  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from scipy.stats import kendalltau  # noqa: E402
from training import quiet, trainer  # noqa: E402

from oneshot import NAT, export_subnet  # noqa: E402
from oneshot.cost import Device, LatencyTable, measure  # noqa: E402
from oneshot.cost.latency.device import processor  # noqa: E402
from oneshot.deploy.int8 import int8_samples  # noqa: E402
from oneshot.deploy.latency import record_latency  # noqa: E402
from oneshot.deploy.manifest import read_manifest  # noqa: E402
from oneshot.evaluation.recalibration import recalibrate_on  # noqa: E402
from oneshot.fronts.pareto import hypervolume  # noqa: E402
from oneshot.report.style import plain_axes, save_figure  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import NASBench201Supernet  # noqa: E402
from oneshot.supernets.space import SubnetConfig  # noqa: E402

DTYPES = ("float32", "int8")
COLOURS = {"float32": "#0072b2", "int8": "#d55e00"}
MARKERS = {"float32": "s", "int8": "o"}

Row = dict[str, Any]


def supernet(args: argparse.Namespace) -> NASBench201Supernet:
    """The space, small enough for a few minutes of training."""
    return NASBench201Supernet(channels=args.channels, cells_per_stage=args.cells, image_size=args.size)


def images(args: argparse.Namespace, seed: int) -> TransferImages:
    """CIFAR-10: a fifth of the training images is held back for the search."""
    data = TransferImages(
        "cifar10",
        image_size=args.size,
        limit=args.limit,
        test_limit=args.test_limit,
        batch_size=64,
        val_fraction=0.2,
        seed=seed,
    )
    data.setup()
    return data


def latency_table(args: argparse.Namespace, dtype: Any) -> Path:
    """The latency table of this machine, measured unless it is there."""
    path = args.work / f"{dtype}.json"
    if not path.is_file():
        device, begun = Device("onnxruntime", dtype=dtype, threads=1), time.perf_counter()
        table = measure(
            supernet(args),
            device,
            networks=args.latency_networks,
            journal=path.with_suffix(".journal"),
            progress=lambda done, of: say(f"{dtype}: {done} of {of} networks timed", again=True),
        )
        table.save(path)
        say(
            f"{dtype}: table of {table.networks} networks in {time.perf_counter() - begun:.0f} s, "
            f"noise {table.noise:.1%}"
        )
    return path


def searched(
    args: argparse.Namespace, data: TransferImages, seed: int, dtype: str
) -> tuple[NASBench201Supernet, list[Row]]:
    """A search unless it is done: its supernet, and architectures of its front with what the table predicts."""
    file, weights = args.work / f"{dtype}-{seed}.json", args.work / f"{dtype}-{seed}.safetensors"
    if not file.is_file() or not weights.is_file():
        pl.seed_everything(seed, verbose=False)
        begun = time.process_time()
        search = NAT(
            supernet(args),
            objectives=[str(latency_table(args, dtype))],
            warmup_epochs=args.warmup,
            iterations=args.iterations,
            adapt_epochs=1,
            initial=args.initial,
            batch=8,
            calibration_images=512,
            search_seed=seed,
            weight_lr=0.05,
            allow_noisy=True,
        )
        folder = args.work / f"{dtype}-{seed}"  # its evaluations
        trainer(args.warmup + args.iterations, default_root_dir=folder).fit(search, datamodule=data)
        archive, front = search.pareto.archive, search.pareto.front()
        order = front[np.argsort(archive.values[front, 1])]
        chosen = order[np.unique(np.linspace(0, len(order) - 1, args.networks).round().astype(int))]
        found = [
            {"config": config.to_dict(), "predicted_ms": float(ms)}
            for config, ms in zip(
                search.supernet.space.decode(archive.genes[chosen]), archive.values[chosen, 1], strict=True
            )
        ]
        save_file({n: t.contiguous() for n, t in search.evaluation_supernet.state_dict().items()}, weights)
        write_atomically(file, json.dumps(found))
        say(f"seed {seed}, {dtype}: front of {len(front)} networks, {time.process_time() - begun:.0f} CPU s")
    whole = supernet(args)
    whole.load_state_dict(load_file(weights))
    return whole, json.loads(file.read_text(encoding="utf-8"))


def deployed(whole: NASBench201Supernet, config: SubnetConfig, data: TransferImages) -> Row:
    """Accuracies and latencies of a network and of its INT8 file, from the manifest of an export."""
    network = whole.extract(config).eval()
    recalibrate_on(data, network)
    with TemporaryDirectory() as folder:
        place = Path(folder, "export")
        export_subnet(network, place, formats=["onnx"], int8=int8_samples(data, network, max_drop=1.0))
        record_latency(place, network)
        manifest = read_manifest(place)
    assert manifest is not None
    said = manifest["int8"]
    kept = {name: said[name] for name in ("before", "after", "agreement", "samples", "layers", "int8_layers")}
    ms = said["latency_ms"]
    return {**kept, "float32_ms": ms["before"], "int8_ms": ms["after"], "macs": manifest["macs"]}


class Rows:
    """Rows of a file, written as they come.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.rows: list[Row] = known.get("rows", [])

    def known(self, **key: Any) -> bool:
        """Whether there is a row with these values."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, row: Row) -> None:
        """Write a row."""
        self.rows.append(row)
        lines = ",\n  ".join(json.dumps(one) for one in self.rows)
        write_atomically(self.path, f'{{"machine": {json.dumps(processor())},\n "rows": [\n  {lines}\n]}}\n')


def table(rows: Sequence[Row], tau: float | None) -> str:
    """What both fronts are worth when they are deployed in INT8, a line for each kind of latency."""
    worst = max(row["int8_ms"] for row in rows) * 1.1
    lines = [
        "| searched with | seeds | networks | volume | accuracy %, floats | accuracy %, INT8 | float ms | INT8 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for dtype in DTYPES:
        own = [row for row in rows if row["searched_with"] == dtype]
        if not own:
            continue
        seeds = sorted({row["seed"] for row in own})
        volumes = [
            hypervolume([[r["int8_ms"], 1 - r["after"]] for r in own if r["seed"] == seed], [worst, 1.0]) / worst
            for seed in seeds
        ]
        cells = [dtype, str(len(seeds)), str(len(own)), spread(volumes, 3)]
        cells += [span([100 * row[name] for row in own], 1) for name in ("before", "after")]
        cells += [span([row[name] for row in own], 2) for name in ("float32_ms", "int8_ms")]
        lines.append(f"| {' | '.join(cells)} |")
    lost = [row["before"] - row["after"] for row in rows]
    faster = [row["float32_ms"] / row["int8_ms"] for row in rows]
    told = [
        "",
        "Volume: of the front of INT8 accuracy and INT8 latency, relative to that of a perfect network that takes no "
        "time; mean and standard deviation over seeds. Other columns: least, median and largest of the networks.",
        f"All networks: INT8 loses {100 * statistics.median(lost):.2f} points of accuracy in the median, at most "
        f"{100 * max(lost):.2f}; it is {min(faster):.2f} to {max(faster):.2f} times as fast.",
    ]
    if tau is not None:
        told.append(f"Kendall's tau between both latencies of 1,000 random architectures, by the tables: {tau:.3f}.")
    return "\n".join([*lines, *told]) + "\n"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation, or one number."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def span(values: Sequence[float], digits: int) -> str:
    """Least, median and largest."""
    return " / ".join(f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))


def picture(rows: Sequence[Row]) -> Figure:
    """Accuracy against latency, both of INT8, and both latencies of all networks."""
    figure = Figure(figsize=(9.2, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    for dtype in DTYPES:
        own = [row for row in rows if row["searched_with"] == dtype]
        style: dict[str, Any] = {"color": COLOURS[dtype], "marker": MARKERS[dtype], "linestyle": "", "markersize": 5}
        left.plot([r["int8_ms"] for r in own], [100 * r["after"] for r in own], label=f"searched with {dtype}", **style)
        right.plot([r["float32_ms"] for r in own], [r["int8_ms"] for r in own], **style)
    most = max([row["int8_ms"] for row in rows] + [row["float32_ms"] for row in rows])
    right.plot([0, most], [0, most], color="#999999", linewidth=0.8, label="equally fast")
    left.set(xlabel="latency in INT8, ms", ylabel="test accuracy in INT8, %", title="What is deployed")
    right.set(xlabel="latency in float32, ms", ylabel="latency in INT8, ms", title="The same networks before and after")
    for axes in (left, right):
        plain_axes(axes, 9)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def rank_agreement(args: argparse.Namespace) -> float | None:
    """Kendall's tau between both latencies of random architectures; None unless both tables are there."""
    paths = [args.work / f"{dtype}.json" for dtype in DTYPES]
    if not all(path.is_file() for path in paths):
        return None
    net = supernet(args)
    genes = net.space.sample_matrix(1_000, 0)
    first, second = (LatencyTable.load(path, warn=False).cost_of(net).costs(genes) for path in paths)
    return float(kendalltau(first, second).statistic)


def say(text: str, *, again: bool = False) -> None:
    """Print a line; one that is said again and again only on a terminal."""
    if not again:
        print(text, flush=True)
    elif sys.stdout.isatty():
        print(f"\r{text:100}", end="\r", flush=True)


def main() -> None:
    """Measure, search and export what is not done yet, then write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--channels", type=int, default=16, help="of the first stage")
    parser.add_argument("--cells", type=int, default=1, help="in each of the three stages")
    parser.add_argument("--limit", type=int, default=4_000, help="most training images")
    parser.add_argument("--test-limit", type=int, default=2_000, help="most test images")
    parser.add_argument("--warmup", type=int, default=8, help="epochs before the first search")
    parser.add_argument("--iterations", type=int, default=4, help="searches, an epoch after each")
    parser.add_argument("--initial", type=int, default=30, help="architectures that the search begins with")
    parser.add_argument("--networks", type=int, default=6, help="of each front that are exported")
    parser.add_argument("--latency-networks", type=int, help="networks of a latency table")
    parser.add_argument("--threads", type=int, default=1, help="of the training; latencies are of one thread")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder for tables and searches")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    quiet(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.results)
    for dtype in DTYPES:
        latency_table(args, dtype)
    for seed in args.seeds:
        data = images(args, seed)
        for dtype in DTYPES:
            whole, front = searched(args, data, seed, dtype)
            for place, one in enumerate(front):
                key = {"searched_with": dtype, "seed": seed, "place": place}
                if rows.known(**key):
                    continue
                torch.set_num_threads(1)  # latencies are of one thread
                row = {**key, **one, **deployed(whole, SubnetConfig.from_dict(one["config"]), data)}
                torch.set_num_threads(args.threads)
                rows.add(row)
                say(
                    f"seed {seed}, {dtype}: accuracy {row['before']:.4f} before, {row['after']:.4f} after; "
                    f"{row['float32_ms']:.2f} ms before, {row['int8_ms']:.2f} ms after"
                )
    write_atomically(args.results.with_name("table.md"), table(rows.rows, rank_agreement(args)))
    save_figure(picture(rows.rows), args.results.with_name("fronts.png"))


if __name__ == "__main__":
    main()
