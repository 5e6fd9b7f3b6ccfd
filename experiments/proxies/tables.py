"""How proxies rank networks that were trained: NATS-Bench, 1,000 DARTS cells, NAS-Bench-Macro.

    ONESHOT_DATA=... OMP_NUM_THREADS=1 python experiments/proxies/tables.py --tables NATS-Bench --count 1000
    python experiments/proxies/tables.py --report       # tables.json and tables.png again, from the rows there are

Every network is a line of ``rows-TABLE.jsonl``, written as soon as it is scored, so the same command goes on after a
stop, and a larger ``--count`` adds networks; other settings than those of the rows are refused. Images are training
images of CIFAR-10, the same batch for all networks, normalised; weights are PyTorch's defaults, drawn with the seed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from oneshot.proxies import AZ_NAS, KINDS, RankAgreement, RegularisedSwap, az_nas, score  # noqa: E402
from oneshot.proxies.initial import draw_weights  # noqa: E402
from oneshot.random_numbers import own_random_numbers  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets import DARTSNetwork, Genotype, NASBench201Network, NASBenchMacroNetwork  # noqa: E402
from oneshot.supernets.darts import DARTSCell  # noqa: E402
from oneshot.supernets.nasbench201 import NASBench201Space  # noqa: E402
from oneshot.supernets.nasbenchmacro import NASBenchMacroSpace  # noqa: E402

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
ALL = [name for name in KINDS if name != "reg_swap"]
# Spearman's rho on CIFAR-10 as the papers print it, and where.
PUBLISHED: dict[str, dict[str, tuple[float, str]]] = {
    "NATS-Bench": {
        "grad_norm": (0.58, "arXiv:2101.08134, table 1"),
        "snip": (0.58, "arXiv:2101.08134, table 1"),
        "grasp": (0.48, "arXiv:2101.08134, table 1"),
        "fisher": (0.36, "arXiv:2101.08134, table 1"),
        "synflow": (0.74, "arXiv:2101.08134, table 1"),
        "jacov": (0.73, "arXiv:2101.08134, table 1"),
        "naswot": (0.79, "arXiv:2006.04647"),
    },
    "DARTS": {"reg_swap": (0.93, "arXiv:2403.04161")},
    "NAS-Bench-Macro": {},
}
Entry = tuple[str, float, Callable[[], nn.Module]]  # name, accuracy in percent, network


class SwapNetwork(nn.Module):
    """The network in which SWAP's authors score a DARTS cell: one reduction cell of 6 channels that reads the image."""

    def __init__(self, genotype: Genotype) -> None:
        super().__init__()
        concat = genotype.reduce_concat
        args: Any = {"reduction": True, "reduction_before": False, "affine": True, "pool_bn": False}
        self.cell = DARTSCell(genotype.reduce, concat, (3, 3), 6, **args)
        self.classifier = nn.Linear(6 * len(concat), 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.cell(x, x).mean((2, 3)))
        return out


def accuracies(name: str, given: Path | None, metric: str, key: str = "arch") -> list[tuple[str, float]]:
    """Architectures and the values of a column of a table, or of another file; rows with a blank are left out."""
    if given is None and "ONESHOT_DATA" not in os.environ:
        raise SystemExit(
            "The tables are in the folder that the environment variable ONESHOT_DATA names; it is not set."
        )
    path = Path(os.environ["ONESHOT_DATA"]) / f"{name}.csv.gz" if given is None else given
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := {key, metric} - set(rows.fieldnames or ()):
            raise SystemExit(f"{path} must have a column {min(missing)!r}; it has {', '.join(rows.fieldnames or ())}.")
        return [(row[key], float(row[metric])) for row in rows if row[metric].strip()]


def nats_bench(given: Path | None, metric: str | None) -> list[Entry]:
    space = NASBench201Space()
    table = dict(accuracies("nats_bench_tss", given, metric or "cifar10_test_accuracy"))
    genes = space.encode([space.from_arch_string(arch) for arch in table])
    kept = (space.canonical_genes(genes.copy()) == genes).all(1)  # 10,405 networks have one spelling each
    return [(a, v, lambda a=a: NASBench201Network(a)) for (a, v), k in zip(table.items(), kept) if k]  # type: ignore[misc]


def darts(given: Path | None, metric: str | None) -> list[Entry]:
    table = accuracies("darts_archs", given, metric or "cifar10_val_accuracy", "genotype")
    return [(g, v, lambda g=g: DARTSNetwork(g, channels=16, cells=8)) for g, v in table]  # type: ignore[misc]


def darts_swap(given: Path | None, metric: str | None) -> list[Entry]:
    return [(g, v, lambda g=g: SwapNetwork(Genotype.parse(g))) for g, v, _ in darts(given, metric)]  # type: ignore[misc]


def macro(given: Path | None, metric: str | None) -> list[Entry]:
    space, seen = NASBenchMacroSpace(), dict[str, float]()
    for arch, value in accuracies("nas_bench_macro", given, metric or "cifar10_test_accuracy_mean"):
        seen.setdefault(space.unique_string(space.from_arch_string(arch)), value)
    return [(a, v, lambda a=a: NASBenchMacroNetwork(a)) for a, v in seen.items()]  # type: ignore[misc]


TABLES = {"NATS-Bench": nats_bench, "DARTS": darts, "DARTS-SWAP": darts_swap, "NAS-Bench-Macro": macro}


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Training images ``[N, 3, 32, 32]``, normalised, and their labels."""
    with np.load(Path(os.environ["ONESHOT_DATA"]) / "cifar10_jpeg_train.npz") as pack:
        jpeg, offsets, labels = pack["jpeg"], pack["offsets"], pack["labels"]
    drawn = np.random.default_rng(seed).permutation(len(labels))[:count]
    pixels = np.stack(
        [np.asarray(Image.open(BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB")) for i in drawn]
    )
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1), torch.from_numpy(
        labels[drawn].astype(np.int64)
    )


def scored(entry: Entry, x: Tensor, y: Tensor, options: argparse.Namespace, names: list[Any]) -> dict[str, Any]:
    """A row: scores, NaN as null, and CPU seconds of each."""
    arch, accuracy, build = entry
    values: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    for seed in range(options.seed, options.seed + options.repeats):
        with own_random_numbers(seed):
            network = build()
            if options.initial == "gaussian":
                draw_weights(network, "gaussian")
        for proxy in names:
            began = time.process_time()
            ((name, value),) = score(network, x, y, proxy, seed=seed, strict=False).items()
            values.setdefault(name, []).append(value)
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
    means = {name: float(np.mean(found)) for name, found in values.items()}
    return {
        "arch": arch,
        "accuracy": accuracy,
        "scores": {name: value if math.isfinite(value) else None for name, value in means.items()},
        "seconds": {name: round(value / options.repeats, 4) for name, value in seconds.items()},
    }


def read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(
                json.JSONDecodeError
            ):  # of a line that was being written when the process was killed
                yield json.loads(line)


def run(table: str, options: argparse.Namespace) -> None:
    """Score the networks of a table that have no row yet."""
    entries = TABLES[table](options.csv, options.metric)
    order = np.random.default_rng(0).permutation(len(entries))[: options.count]
    names: list[Any] = list(options.names)
    if options.mu is not None:
        names.append(RegularisedSwap(mu=options.mu, sigma=options.sigma))
    settings = {
        **{key: getattr(options, key) for key in ("batch", "seed", "repeats", "initial", "metric", "mu", "sigma")},
        "names": list(options.names),
        **({} if options.csv is None else {"csv": str(options.csv)}),
    }
    path = HERE / f"rows-{table}.jsonl" if options.out is None else Path(options.out) / f"rows-{table}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = list(read(path))
    if known and known[0].get("settings") != settings:
        raise SystemExit(f"{path} was made with other settings, {known[0].get('settings')}; move it away first.")
    done = {row["arch"] for row in known[1:]}
    x, y = images(options.batch, options.seed)
    with path.open("a", encoding="utf-8") as file:
        if not known:
            file.write(json.dumps({"settings": settings}) + "\n")
        elif path.read_bytes()[-1:] != b"\n":
            file.write("\n")
        for n, i in enumerate(order):
            if entries[i][0] in done:
                continue
            file.write(json.dumps(scored(entries[i], x, y, options, names)) + "\n")
            file.flush()
            print(f"\r{table}: {n + 1} of {len(order)}", end="", flush=True)
    print()


def summary(path: Path) -> dict[str, Any]:
    """Correlations of a file of rows."""
    first, *rows = read(path)
    table = path.stem.removeprefix("rows-")
    scores = [{name: math.nan if v is None else v for name, v in row["scores"].items()} for row in rows]
    accuracy = [row["accuracy"] for row in rows]
    seconds = {name: [row["seconds"][name] for row in rows] for name in scores[0]}
    if set(AZ_NAS) <= set(scores[0]):
        for row, value in zip(scores, az_nas(scores)):
            row["az_nas"] = value
        seconds["az_nas"] = [sum(row["seconds"][name] for name in AZ_NAS) for row in rows]
    published: Mapping[str, tuple[float, str]] = PUBLISHED.get(table.removesuffix("-SWAP"), {})
    found = []
    for name in scores[0]:
        agreement = RankAgreement.of([row[name] for row in scores], accuracy)
        known, source = published.get(name, (None, None))
        found.append(
            {
                "proxy": name,
                "spearman": agreement.spearman,
                "kendall": agreement.kendall,
                "published": known,
                "source": source,
                "without_score": agreement.without_score,
                "cpu_seconds": float(np.mean(seconds[name])),
            }
        )
    return {"table": table, "networks": len(rows), **first["settings"], "proxies": found}


def report(folder: Path) -> None:
    """Write tables.json and tables.png, and print the tables as Markdown."""
    results = [summary(path) for path in sorted(folder.glob("rows-*.jsonl")) if sum(1 for _ in read(path)) > 2]
    write_atomically(folder / "tables.json", json.dumps(results, indent=1) + "\n")
    for result in results:
        print(f"\n{result['table']}: {result['networks']} networks, batch {result['batch']}, seed {result['seed']}\n")
        print("| proxy | Spearman | Kendall | published Spearman | without a score | CPU s a network |")
        print("|---|---|---|---|---|---|")
        for row in sorted(result["proxies"], key=lambda row: -np.nan_to_num(row["spearman"], nan=-1)):
            known = "–" if row["published"] is None else f"{row['published']:.2f} ({row['source']})"
            print(
                f"| {row['proxy']} | {row['spearman']:.3f} | {row['kendall']:.3f} | {known} | {row['without_score']} "
                f"| {row['cpu_seconds']:.2f} |"
            )
    if results:
        draw(results, folder / "tables.png")


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Bars of Spearman's rho, a panel for each table; params and MACs in another colour, published values as marks."""
    from matplotlib.figure import Figure

    from oneshot.report.style import CYCLE, DPI, INK, plain_axes, save_figure

    figure = Figure(figsize=(4.4 * len(results), 4.8), dpi=DPI, facecolor="white", layout="constrained")
    for axes, result in zip(figure.subplots(1, len(results), squeeze=False)[0], results):
        rows = sorted(result["proxies"], key=lambda row: np.nan_to_num(row["spearman"], nan=-1))
        colours = [CYCLE[1] if row["proxy"] in ("params", "macs") else CYCLE[0] for row in rows]
        axes.barh([row["proxy"] for row in rows], [row["spearman"] for row in rows], color=colours, height=0.7)
        marked = [(i, row["published"]) for i, row in enumerate(rows) if row["published"] is not None]
        if marked:
            places, values = zip(*marked)
            axes.scatter(values, places, marker="|", s=130, color=INK, label="published", zorder=3)
            axes.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, -0.1))
        axes.set_title(f"{result['table']}, {result['networks']} networks", fontsize=10, color=INK)
        axes.set_xlabel("Spearman's rho with the accuracy", fontsize=9, color=INK)
        axes.set_xlim(min(0.0, *(row["spearman"] for row in rows)) - 0.02, 1)
        plain_axes(axes, 8)
        axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
        axes.grid(visible=False, axis="y")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=[])
    parser.add_argument("--count", type=int, default=1000, help="networks of each table, drawn with seed 0")
    parser.add_argument("--names", nargs="+", default=ALL, help="proxies")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of images and weights")
    parser.add_argument("--repeats", type=int, default=1, help="draws of the weights")
    parser.add_argument("--initial", choices=["default", "gaussian"], default="default", help="weights")
    parser.add_argument("--csv", type=Path, help="another file with the columns of the one table that --tables names")
    parser.add_argument("--metric", help="another column of accuracies")
    parser.add_argument("--mu", type=float, help="of regularised SWAP, thousands of parameters")
    parser.add_argument("--sigma", type=float, help="of regularised SWAP")
    parser.add_argument("--out", help="folder of the rows (this one)")
    parser.add_argument("--report", action="store_true", help="only tables.json and tables.png")
    options = parser.parse_args()
    if options.csv is not None and (len(options.tables) != 1 or options.out is None):
        parser.error("--csv is of one table, and needs a folder of its own for its rows: --tables NAME --out FOLDER")
    torch.set_num_threads(1)
    for table in [] if options.report else options.tables:
        run(table, options)
    report(HERE if options.out is None else Path(options.out))


if __name__ == "__main__":
    main()
