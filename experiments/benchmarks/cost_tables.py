"""Counting architectures by table against counting them by a traced forward pass, one core, networks of papers' size.

Both sides take turns: a round is a million architectures by table and a few by building and running their networks, for
parameters, MACs and peak memory of each space. What both count must be the same. Seconds are those of the core, which
other programs don't add to. Usage:

    python experiments/benchmarks/cost_tables.py [--tables 1000000] [--traced 5] [--rounds 5]

Writes cost_tables_cpu.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402

from oneshot.cost import Counted, count, count_candidates  # noqa: E402
from oneshot.cost.latency.device import processor  # noqa: E402
from oneshot.supernets import (  # noqa: E402
    DARTSSupernet,
    FBNetSupernet,
    NASBench1Shot1Supernet,
    NASBench201Supernet,
    Supernet,
)

SUPERNETS = {
    "FBNet, 224 pixels": FBNetSupernet,
    "NAS-Bench-201, 32 pixels": NASBench201Supernet,
    "DARTS, 8 cells, 16 channels, 32 pixels": DARTSSupernet,
    "NAS-Bench-1Shot1, space 3, 32 pixels": lambda: NASBench1Shot1Supernet(3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1_000_000, help="architectures a round by table")
    parser.add_argument("--traced", type=int, default=5, help="architectures a round by a traced forward pass")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)

    report(HERE / "cost_tables_cpu.json", SUPERNETS, args)


def report(path: Path, supernets: Mapping[str, Callable[[], Supernet]], args: argparse.Namespace) -> None:
    """Compare both sides for some supernets, and write what was found."""
    results = [compare(name, make(), args) for name, make in supernets.items()]
    found = {
        "settings": vars(args),
        "hardware": processor(),
        "torch": torch.__version__,
        "results": results,
    }
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def compare(name: str, supernet: Supernet, args: argparse.Namespace) -> dict[str, Any]:
    """Count the architectures of one supernet by table and one by one."""
    build, models = {}, {}
    for what in get_args(Counted):
        start = time.process_time()
        models[what] = count_candidates(supernet, what)
        build[what] = time.process_time() - start
        models[what].costs(supernet.space.sample_matrix(10_000, 0))  # warm-up
    rates: dict[str, list[float]] = {what: [] for what in (*models, "traced")}
    for number in range(args.rounds):
        genes = supernet.space.sample_matrix(args.tables, number)
        costs = {}
        for what, model in models.items():
            start = time.process_time()
            costs[what] = model.costs(genes)
            rates[what].append(len(genes) / (time.process_time() - start))
        configs = supernet.space.decode(genes[: args.traced])
        start = time.process_time()
        traced = [count(supernet.extract(config, inherit=False), supernet.input_shape) for config in configs]
        rates["traced"].append(len(configs) / (time.process_time() - start))
        for what, found in costs.items():
            assert found[: args.traced].tolist() == [getattr(counts, what) for counts in traced], (name, what)
    result = {
        "space": name,
        "seconds_to_build": build,
        "architectures_per_second": rates,
        "median": {side: statistics.median(values) for side, values in rates.items()},
        "times_faster": {what: ratio(rates[what], rates["traced"]) for what in models},
    }
    print(f"{name}: a traced forward pass {result['median']['traced']:.2f} architectures/s")
    for what in models:
        r = result["times_faster"][what]
        print(
            f"    {what} by table {result['median'][what] / 1e6:.2f} million/s ({min(rates[what]) / 1e6:.2f} to "
            f"{max(rates[what]) / 1e6:.2f}), {r['median']:,.0f} times faster ({r['min']:,.0f} to {r['max']:,.0f}); "
            f"built in {build[what]:.1f} s"
        )
    return result


def ratio(tables: list[float], traced: list[float]) -> dict[str, float]:
    """Of each round, in which both sides ran one after the other."""
    ratios = [a / b for a, b in zip(tables, traced, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


if __name__ == "__main__":
    main()
