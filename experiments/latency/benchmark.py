"""Few-shot transfer and predictors on public tables of latencies; README.md states the protocol.

    ONESHOT_DATA=... python experiments/latency/benchmark.py [--draws 20]

Writes results.json and results.png beside this file. Devices that are in another file, as new devices:

    ONESHOT_DATA=... python experiments/latency/benchmark.py --space nasbench201 --csv FILE --metric COLUMN --out OTHER
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from tables import Table, accel_nasbench, fbnet, nasbench201

from oneshot.cost import Agreement, FewShot, fit_predictor, noise_ceiling, nonnegative_mixture
from oneshot.cost.learned.fit import robust_additive, robust_pairwise
from oneshot.cost.learned.predictors import Kind
from oneshot.report.style import save_figure
from oneshot.storage.files import write_atomically

HERE = Path(__file__).parent
MEASUREMENTS, CANDIDATES, TRIM = 10, 1000, 0.1
POOL, QUERY = 3000, 5000  # of NAS-Bench-201; the candidates are drawn from the pool, and others in every draw
KINDS: tuple[Kind, ...] = ("additive", "floor")
READ = {"fbnet": fbnet, "nasbench201": nasbench201}
LUT, COARSE = ("pixel3",), ("samsung_a50", "essential_ph_1", "samsung_s7")  # in the FBNet table, see README.md
HELP_SOURCES = ("1080ti", "silver", "samsung", "pixel3", "essential")  # prefixes of HELP's meta-training devices


def trimmed(values: np.ndarray) -> np.ndarray:
    """Indices without the fastest and the slowest tenth."""
    order, cut = np.argsort(values, kind="stable"), int(len(values) * TRIM)
    return order[cut : len(values) - cut]


def score(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Trimmed rank correlation, and the error bounds of all."""
    kept = trimmed(measured)
    everything = Agreement.of(predicted, measured)
    return {
        "rho": Agreement.of(predicted[kept], measured[kept]).spearman,
        "rho_untrimmed": everything.spearman,
        "kendall": everything.kendall,
        "within_10": everything.within_10,
    }


def few_shot(
    table: Table, pool: np.ndarray, query: np.ndarray, draws: int, *, split: bool = False, others: Table | None = None
) -> dict[str, Any]:
    """Every device as the new one, from all others or from HELP's meta-training devices.

    Args:
        table: The devices that are known.
        pool: Rows that can be measured.
        query: Rows that are predicted.
        draws: Of candidates from the pool.
        split: HELP's meta-training devices are the sources of all others.
        others: New devices, in the same rows; those of the table by default.
    """
    space, genes, devices = table
    pairs = space.name == "nasbench201"
    fit = robust_pairwise if pairs else robust_additive
    some = np.random.default_rng(2).permutation(len(genes))[:2000] if pairs else pool
    models = {name: fit(space, genes[some], values[some]) for name, values in devices.items()}
    index = {tuple(g): i for i, g in enumerate(genes.tolist())}
    results: dict[str, Any] = {}
    known = [name for name in devices if name.startswith(HELP_SOURCES)] if split else list(devices)
    for target, values in (devices if others is None else others[2]).items():
        if split and target in known:
            continue
        sources = {name: models[name] for name in known if name != target}
        transfer, runs = FewShot(space, sources), {}
        there = np.isfinite(values)
        near, asked = pool[there[pool]], query[there[query]]
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            at_random = rng.choice(near, MEASUREMENTS, replace=False)
            proposed = transfer.propose(MEASUREMENTS, candidates=genes[rng.choice(near, CANDIDATES, replace=False)])
            active = np.array([index[tuple(g)] for g in proposed.tolist()])
            for how, chosen in (("random", at_random), ("active", active)):
                x, y = genes[chosen], values[chosen]
                mixture = nonnegative_mixture(sources, x, y)
                runs.setdefault(f"nnls_{how}", []).append(score(mixture.costs(genes[asked]), values[asked]))
                model = transfer.fit(x, y)
                low, high = model.interval(genes[asked])
                inside = float(((values[asked] >= low) & (values[asked] <= high)).mean())
                runs.setdefault(f"ours_{how}", []).append(
                    {**score(model.costs(genes[asked]), values[asked]), "coverage_90": inside}
                )
        results[target] = {name: summary(each) for name, each in runs.items()}
        itself = fit(space, genes[some[there[some]]], values[some[there[some]]])
        results[target]["itself"] = summary([score(itself.predict(genes[asked]), values[asked])])
        if ceiling := noise_ceiling(genes[asked], values[asked]):
            results[target]["ceiling"] = str(ceiling)
            print(f"{target}: {ceiling}")
        methods = {name: r["rho"] for name, r in results[target].items() if name != "ceiling"}
        print(target, methods, f"std of ours, active {results[target]['ours_active']['rho_std']}", flush=True)
    return results


def learned(table: Table, samples: int, draws: int) -> dict[str, Any]:
    """Accel-NASBench: some samples, 1,000 others to test; all kinds by cross-validation on the first draw."""
    space, whole, targets = table
    results: dict[str, Any] = {}
    for target, every in targets.items():
        genes, values = whole[np.isfinite(every)], every[np.isfinite(every)]
        runs: dict[str, list[dict[str, float]]] = {}
        ceiling = noise_ceiling(genes, values)
        results[target] = {"ceiling": str(ceiling)}
        for draw in range(draws):
            order = np.random.default_rng(draw).permutation(len(genes))
            train, test = order[:samples], order[samples : samples + 1000]
            for kind in KINDS:
                model = fit_predictor(space, genes[train], values[train], kind=kind)
                low, high = model.interval(genes[test])
                inside = float(((values[test] >= low) & (values[test] <= high)).mean())
                agreement = Agreement.of(model.costs(genes[test]), values[test])
                runs.setdefault(kind, []).append(
                    {"rho": agreement.spearman, "within_5": agreement.within_5, "coverage_90": inside}
                )
            if draw == 0:
                auto = fit_predictor(space, genes[train], values[train])
                results[target]["auto"] = auto.kind
                results[target]["cross_validation"] = {k: str(a) for k, a in auto.validation.items()}
        results[target] |= {kind: summary(each) for kind, each in runs.items()}
        print(target, results[target], flush=True)
    return results


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Means over draws, and the standard deviation of rho."""
    mean = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
    return {**mean, "rho_std": round(float(np.std([run["rho"] for run in runs])), 4)}


def average(results: dict[str, Any], names: list[str]) -> dict[str, float]:
    """Mean trimmed rho over devices."""
    methods = [method for method in next(iter(results.values())) if method != "ceiling"]
    return {method: round(float(np.mean([results[name][method]["rho"] for name in names])), 4) for method in methods}


def draw(results: dict[str, Any], path: Path) -> None:
    """One panel per space, one row per device."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    looks = {
        "nnls_random": ("o", "none", "#767676", "NNLS mixture, random 10"),
        "ours_random": ("o", "#56B4E9", "#56B4E9", "ours, random 10"),
        "ours_active": ("D", "#0072B2", "#0072B2", "ours, active 10"),
        "itself": ("|", "#D55E00", "#D55E00", "fitted to the device itself"),
    }
    for axes, (name, title) in zip(
        figure.subplots(1, 2), (("fbnet", "FBNet table"), ("nasbench201", "NATS-Bench table")), strict=True
    ):
        devices = list(results[name]["devices"])
        for method, (marker, face, edge, label) in looks.items():
            rho = [results[name]["devices"][device][method]["rho"] for device in devices]
            axes.scatter(rho, range(len(devices)), marker=marker, facecolors=face, edgecolors=edge, s=46, label=label)
        axes.set_yticks(range(len(devices)), devices)
        axes.invert_yaxis()
        axes.grid(axis="x", color="#D0D0D0", linewidth=0.6)
        axes.set_xlabel("Spearman rho, trimmed, mean of 20 draws")
        axes.set_title(f"{title}: each device from the 12 others")
    figure.axes[0].legend(loc="lower left")
    save_figure(figure, path)


def keep(results: dict[str, Any], path: Path) -> None:
    """Write what there is."""
    write_atomically(path, json.dumps(results, indent=1) + "\n")


def parts(space: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that can be measured, and rows that are predicted."""
    if space == "fbnet":
        return np.arange(n)[: 4 * n // 5], np.arange(n)[4 * n // 5 :]
    order = np.random.default_rng(1).permutation(n)
    return order[:POOL], order[POOL : POOL + QUERY]


def new_devices(args: argparse.Namespace) -> dict[str, Any]:
    """Devices of another file: from those of the public table, or, of Accel-NASBench, from samples alone."""
    if args.space == "accel_nasbench":
        return learned(accel_nasbench(args.csv, args.metric), args.samples, args.draws)
    table, others = READ[args.space](), READ[args.space](args.csv, args.metric)
    place = {tuple(g): i for i, g in enumerate(table[1].tolist())}
    rows = [place.get(tuple(g), -1) for g in others[1].tolist()]
    if min(rows) < 0:
        raise SystemExit(f"{args.csv} must hold architectures of the public table; {rows.count(-1)} are not in it.")
    spread = {}
    for name, values in others[2].items():
        spread[name] = np.full(len(table[1]), np.nan)
        spread[name][rows] = values
    found = {}
    for split in (False, True):
        results = few_shot(
            table, *parts(args.space, len(table[1])), args.draws, split=split, others=(table[0], table[1], spread)
        )
        found["help_split" if split else "all_sources"] = {"devices": results, "mean": average(results, list(results))}
        print(found["help_split" if split else "all_sources"]["mean"])
    return found


def main() -> None:
    """Run everything, or only the devices of another file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--space", choices=[*READ, "accel_nasbench"], help="of the architectures in --csv")
    parser.add_argument("--csv", type=Path, help="another file, with the architectures as in the public table")
    parser.add_argument(
        "--metric", nargs="+", help="its columns, each a new device: milliseconds, or images per second"
    )
    parser.add_argument("--samples", type=int, default=500, help="of --space accel_nasbench")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    given = [args.space, args.csv, args.metric]
    if any(given) and (not all(given) or args.out == parser.get_default("out")):
        parser.error("--space, --csv, --metric and --out are given together, for devices of another file.")
    warnings.simplefilter("ignore")  # the warnings of noisy devices are the subject here
    if args.csv:
        return keep(new_devices(args), args.out)
    start, results = time.process_time(), {}
    table = fbnet()
    devices = few_shot(table, *parts("fbnet", len(table[1])), args.draws)
    real = [name for name in devices if name not in LUT]
    fine = [name for name in real if name not in COARSE]
    results["fbnet"] = {
        "devices": devices,
        "mean_all_13": average(devices, list(devices)),
        "mean_real_12": average(devices, real),
        "mean_real_without_integer_milliseconds_9": average(devices, fine),
        "help_split": few_shot(table, *parts("fbnet", len(table[1])), args.draws, split=True),
    }
    keep(results, args.out)
    table = nasbench201()
    devices = few_shot(table, *parts("nasbench201", len(table[1])), args.draws)
    results["nasbench201"] = {
        "devices": devices,
        "mean_all_13": average(devices, list(devices)),
        "help_split": few_shot(table, *parts("nasbench201", len(table[1])), args.draws, split=True),
    }
    keep(results, args.out)
    results["accel_nasbench"] = learned(accel_nasbench(), args.samples, args.draws)
    results["about"] = {
        "draws": args.draws,
        "cpu_seconds": round(time.process_time() - start),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    keep(results, args.out)
    draw(results, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
