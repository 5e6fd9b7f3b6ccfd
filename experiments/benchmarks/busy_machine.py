"""How long a training step takes while other programs keep the cores busy, by how threads wait for each other.

Threads of PyTorch meet after every operation. Until the last one is there, the others spin (by default of GNU OpenMP
for milliseconds, with GOMP_SPINCOUNT=10000 for microseconds), or sleep (OMP_WAIT_POLICY=PASSIVE). Each way is a new
process that trains a supernet of NAS-Bench-201 on digits for some seconds, and they take turns. Usage:

    python experiments/benchmarks/busy_machine.py [--rounds 2] [--seconds 5]

Writes busy_machine_cpu.json beside this file. Nothing else may run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402

from oneshot.cost.latency.device import processor  # noqa: E402

WAYS = {
    "default": {},
    "spin for 10,000": {"GOMP_SPINCOUNT": "10000"},
    "sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
STEPS = """
import sys, time, torch
from torch.nn.functional import cross_entropy
from oneshot import DARTS
from oneshot.supernets import NASBench201Supernet
torch.manual_seed(0)
search = DARTS(NASBench201Supernet(channels=8, cells_per_stage=1, in_channels=1, image_size=8))
x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))
def step():
    cross_entropy(search.run(x, search.edge_weights()), y).backward()
step(), step()
count, start = 0, time.perf_counter()
while time.perf_counter() - start < float(sys.argv[1]):
    step()
    count += 1
print((time.perf_counter() - start) / count)
"""


def seconds(environment: dict[str, str], limit: float) -> float:
    """Of a step, in a new process."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    everything = {**inherited, "PYTHONPATH": str(HERE.parents[1]), **environment}
    command = [sys.executable, "-c", STEPS, str(limit)]
    return float(subprocess.run(command, env=everything, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="of training of each process")
    args = parser.parse_args()
    cores, results = os.cpu_count() or 1, []
    for load in (0, cores):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
        try:
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(args.rounds):
                for way, environment in WAYS.items():
                    taken[way].append(seconds(environment, args.seconds))
                    print(
                        f"{load} busy processes, round {number + 1}, {way}: {1000 * taken[way][-1]:.0f} ms", flush=True
                    )
        finally:
            for process in busy:
                process.kill()
        for way, values in taken.items():
            ratios = [a / b for a, b in zip(taken["default"], values, strict=True)]
            row = {"busy processes": load, "way": way, "ms": [round(1000 * value, 1) for value in values]}
            results.append({**row, "times faster": round(statistics.median(ratios), 2)})
    about = {"processor": processor(), "cores": cores, "torch": torch.__version__, "rounds": args.rounds}
    text = json.dumps({**about, "results": results}, indent=1) + "\n"
    (HERE / "busy_machine_cpu.json").write_text(text, encoding="utf-8")
    for row in results:
        print(row["busy processes"], "busy,", row["way"], row["ms"], "times faster:", row["times faster"])


if __name__ == "__main__":
    main()
