"""Few-shot transfer and predictors on public tables of latencies; README.md states the protocol.

    ONESHOT_DATA=... python experiments/latency/benchmark.py [--draws 20]

Writes results.json and results.png beside this file.
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

from oneshot.cost import Agreement, CostModel, FewShot, fit_predictor, nonnegative_mixture
from oneshot.cost.learned.fit import robust_additive, robust_pairwise
from oneshot.report.style import save_figure
from oneshot.storage.files import write_atomically

HERE = Path(__file__).parent
MEASUREMENTS, CANDIDATES, TRIM = 10, 1000, 0.1
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


def few_shot(table: Table, pool: np.ndarray, query: np.ndarray, pairs: bool, draws: int, split: bool) -> dict[str, Any]:
    """Every device as the new one, from all others or from HELP's meta-training devices."""
    space, genes, devices = table
    fit = robust_pairwise if pairs else robust_additive
    some = pool if not pairs else np.random.default_rng(2).permutation(len(genes))[:2000]
    models = {name: fit(space, genes[some], values[some]) for name, values in devices.items()}
    index = {tuple(g): i for i, g in enumerate(genes.tolist())}
    results: dict[str, Any] = {}
    known = [name for name in devices if name.startswith(HELP_SOURCES)]
    for target, values in devices.items():
        if split and target in known:
            continue
        sources: list[CostModel] = [models[name] for name in (known if split else devices) if name != target]
        transfer, runs = FewShot(space, sources), {}
        for draw in range(draws):
            rng = np.random.default_rng(draw)
            at_random = rng.choice(pool, MEASUREMENTS, replace=False)
            proposed = transfer.propose(MEASUREMENTS, candidates=genes[rng.choice(pool, CANDIDATES, replace=False)])
            active = np.array([index[tuple(g)] for g in proposed.tolist()])
            for how, chosen in (("random", at_random), ("active", active)):
                x, y = genes[chosen], values[chosen]
                mixture = nonnegative_mixture(sources, x, y)
                runs.setdefault(f"nnls_{how}", []).append(score(mixture.costs(genes[query]), values[query]))
                model = transfer.fit(x, y)
                low, high = model.interval(genes[query])
                inside = float(((values[query] >= low) & (values[query] <= high)).mean())
                runs.setdefault(f"ours_{how}", []).append(
                    {**score(model.costs(genes[query]), values[query]), "coverage_90": inside}
                )
        results[target] = {name: summary(each) for name, each in runs.items()}
        results[target]["itself"] = summary([score(models[target].predict(genes[query]), values[query])])
        print(target, {name: r["rho"] for name, r in results[target].items()}, flush=True)
    return results


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    """Means over draws, and the standard deviation of rho."""
    mean = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
    return {**mean, "rho_std": round(float(np.std([run["rho"] for run in runs])), 4)}


def learned(table: Table, samples: int, draws: int) -> dict[str, Any]:
    """Accel-NASBench: 500 samples, 1,000 others to test; all kinds by cross-validation on the first draw."""
    space, genes, targets = table
    results: dict[str, Any] = {}
    for target, values in targets.items():
        runs = []
        for draw in range(draws):
            order = np.random.default_rng(draw).permutation(len(genes))
            train, test = order[:samples], order[samples : samples + 1000]
            model = fit_predictor(space, genes[train], values[train], kind="additive")
            predicted = model.costs(genes[test])
            low, high = model.interval(genes[test])
            inside = float(((values[test] >= low) & (values[test] <= high)).mean())
            agreement = Agreement.of(predicted, values[test])
            runs.append({"rho": agreement.spearman, "within_5": agreement.within_5, "coverage_90": inside})
            if draw == 0:
                auto = fit_predictor(space, genes[train], values[train])
                results[target] = {
                    "auto": auto.kind,
                    "cross_validation": {k: str(a) for k, a in auto.validation.items()},
                }
        results[target]["additive"] = summary(runs)
        print(target, results[target], flush=True)
    return results


def average(results: dict[str, Any], names: list[str]) -> dict[str, float]:
    """Mean trimmed rho over devices."""
    methods = next(iter(results.values()))
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


def keep(results: dict[str, Any]) -> None:
    """Write what there is."""
    write_atomically(HERE / "results.json", json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the warnings of noisy devices are the subject here
    start, results = time.process_time(), {}
    table = fbnet()
    rows = np.arange(len(table[1]))
    devices = few_shot(table, rows[:4000], rows[4000:], False, args.draws, False)
    real = [name for name in devices if name not in LUT]
    fine = [name for name in real if name not in COARSE]
    results["fbnet"] = {
        "devices": devices,
        "mean_all_13": average(devices, list(devices)),
        "mean_real_12": average(devices, real),
        "mean_real_without_integer_milliseconds_9": average(devices, fine),
    }
    keep(results)
    table = nasbench201()
    order = np.random.default_rng(1).permutation(len(table[1]))
    devices = few_shot(table, order[:1000], order[1000:6000], True, args.draws, False)
    results["nasbench201"] = {
        "devices": devices,
        "mean_all_13": average(devices, list(devices)),
    }
    keep(results)
    results["accel_nasbench"] = learned(accel_nasbench(), 500, args.draws)
    keep(results)
    results["fbnet"]["help_split"] = few_shot(fbnet(), rows[:4000], rows[4000:], False, args.draws, True)
    keep(results)
    results["nasbench201"]["help_split"] = few_shot(table, order[:1000], order[1000:6000], True, args.draws, True)
    results["about"] = {
        "draws": args.draws,
        "cpu_seconds": round(time.process_time() - start),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    keep(results)
    draw(results, HERE / "results.png")


if __name__ == "__main__":
    main()
