"""Fit the source devices that come with the package, to the tables: writes oneshot/cost/learned/devices/*.json.

ONESHOT_DATA=... python experiments/latency/bundle.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tables import Table, fbnet, nasbench201

from oneshot.cost import LinearPredictor, count_candidates
from oneshot.cost.learned.fit import robust_additive, robust_pairwise
from oneshot.storage.files import write_atomically
from oneshot.supernets import FBNetSupernet, NASBench201Supernet, OperationSupernet

ROWS = {False: 5000, True: 2500}  # all of FBNet; plenty for the 405 coefficients of NAS-Bench-201
FOLDER = Path(__file__).parents[2] / "oneshot" / "cost" / "learned" / "devices"
SOURCE = "latencies of HELP (arXiv:2106.08630) and HW-NAS-Bench (arXiv:2103.10584); MACs and parameters counted"


def bundle(table: Table, supernet: OperationSupernet, *, pairs: bool) -> None:
    """Write the devices of one space."""
    space, genes, devices = table
    fit = robust_pairwise if pairs else robust_additive
    some = np.random.default_rng(0).permutation(len(genes))[: ROWS[pairs]]
    models = {name: fit(space, genes[some], values[some]) for name, values in devices.items()}
    for what in ("macs", "params"):
        costs = count_candidates(supernet, what)  # type: ignore[arg-type]  # a literal in a loop
        coefficients = [value for choice in space.choices for value in costs.table[choice.name].flatten().tolist()]
        models[what] = LinearPredictor(space, coefficients, offset=costs.fixed, unit=costs.unit)
    data = {"source": SOURCE, "devices": {name: model.to_dict() for name, model in models.items()}}
    text = json.dumps(data, separators=(",", ":")).replace('},"', '},\n"')
    write_atomically(FOLDER / f"{space.name}.json", text + "\n")


if __name__ == "__main__":
    bundle(fbnet(), FBNetSupernet(), pairs=False)
    bundle(nasbench201(), NASBench201Supernet(), pairs=True)
