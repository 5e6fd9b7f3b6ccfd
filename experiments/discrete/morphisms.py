"""What every morphism does to a trained network, before and after a little training.

    python experiments/discrete/morphisms.py        # writes morphisms.json and prints the tables of README.md

A small network learns the digits of scikit-learn for six epochs. Every operator is applied to it at one place drawn at
random from a seed, for each of several parents.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from oneshot.data import Digits
from oneshot.discrete import GraphNetwork, MorphismRecord, distil, morph, plain_graph, random_morphism
from oneshot.discrete.graphs.approximate import prune, remove_layer, remove_skip, separate
from oneshot.discrete.graphs.morphism import EXACT_OPERATORS
from oneshot.evaluation.recalibration import recalibrate
from oneshot.storage.files import write_atomically

FOLDER = Path(__file__).parent
APPROXIMATE: dict[str, Callable[[GraphNetwork], GraphNetwork]] = {
    "prune 1/4 of the filters": lambda n: prune(n, conv(n, 1), count=conv_channels(n, 1) // 4),
    "prune 1/2 of the filters": lambda n: prune(n, conv(n, 1), count=conv_channels(n, 1) // 2),
    "separate": lambda n: separate(n, conv(n, 1)),
    "remove_layer": lambda n: remove_layer(n, conv(n, 2)),
    "remove_skip": lambda n: remove_skip(n, next(x.name for x in n.graph.nodes if x.op == "gated_add")),
}


def conv(network: GraphNetwork, index: int) -> str:
    return [node.name for node in network.graph.nodes if node.op == "conv"][index]


def conv_channels(network: GraphNetwork, index: int) -> int:
    return network.graph[conv(network, index)].channels


def digits(split: str) -> tuple[Tensor, Tensor]:
    """Standardised images ``[N, 1, 8, 8]`` and labels."""
    images = Digits().load(split)  # type: ignore[arg-type]
    assert images is not None
    assert isinstance(images.pixels, Tensor)
    return (images.pixels[images.rows].float() - 78) / 96, images.labels


def train(network: GraphNetwork, images: Tensor, labels: Tensor, *, epochs: int, seed: int, lr: float = 1e-3) -> None:
    """Adam on the cross-entropy, with the batches of ``distil``."""
    rng, optimiser = np.random.default_rng(seed), torch.optim.Adam(network.parameters(), lr=lr)
    network.train()
    for _ in range(epochs):
        for chosen in torch.from_numpy(rng.permutation(len(images))).split(64)[: len(images) // 64]:
            optimiser.zero_grad()
            F.cross_entropy(network(images[chosen]), labels[chosen]).backward()
            optimiser.step()
    network.eval()


@torch.no_grad()
def run(network: GraphNetwork, images: Tensor, *, training: bool = False, passed: bool = False) -> Tensor:
    network = copy.deepcopy(network).train()
    if passed:
        network(images)
    return network.train(training)(images)


def difference(child: GraphNetwork, parent: GraphNetwork, images: Tensor, **mode: bool) -> float:
    a, b = (run(network, images, **mode) for network in (child, parent))
    return float((a - b).norm() / b.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parents", type=int, default=5, help="networks, trained from different seeds")
    parser.add_argument("--out", type=Path, default=FOLDER / "morphisms.json")
    args = parser.parse_args()
    start = time.perf_counter()
    (x, y), (test_x, test_y) = digits("train"), digits("test")
    calibration = x[:512]

    def accuracy(network: GraphNetwork) -> float:
        return 100 * float((run(network, test_x).argmax(1) == test_y).float().mean())

    rows: list[dict[str, object]] = []
    for seed in range(args.parents):
        torch.manual_seed(seed)
        parent = GraphNetwork.from_graph(plain_graph((16, 32)), (1, 8, 8), 10)
        # A third block with a skip around it, so that there are a layer and a skip to remove.
        parent = morph(parent, MorphismRecord("deepen", {"after": "7", "kernel": 3}, seed), calibration)
        parent = morph(parent, MorphismRecord("skip_add", {"source": "7", "target": "10"}, seed), calibration)
        train(parent, x, y, epochs=6, seed=seed, lr=3e-3)
        known = accuracy(parent)
        for name in EXACT_OPERATORS:
            child, record = random_morphism(parent, seed, images=calibration, operators=(name,))
            row = {"operator": name, "seed": seed, "record": record.to_dict(), "parent": known}
            row |= {"child": accuracy(child), "eval": difference(child, parent, test_x)}
            row["train"] = difference(child, parent, calibration, training=True)
            row["train, other images"] = difference(child, parent, test_x, training=True)
            row["eval after a training pass"] = difference(child, parent, calibration, passed=True)
            rows.append(row)
        for name, apply in APPROXIMATE.items():
            child = apply(parent)
            row = {"operator": name, "seed": seed, "parent": known, "child": accuracy(child)}
            recalibrate(child, x.split(256))
            row["statistics anew"] = accuracy(child)
            taught, trained = copy.deepcopy(child), copy.deepcopy(child)
            distil(taught, parent, x, epochs=1, lr=3e-3, rng=seed)
            train(trained, x, y, epochs=1, seed=seed, lr=3e-3)
            recalibrate(trained, x.split(256))
            rows.append(row | {"distilled": accuracy(taught), "trained": accuracy(trained)})

    result = {
        "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    write_atomically(args.out, json.dumps(result, indent=1))
    print(tables(rows))
    print(f"{result['seconds']} s")


def tables(rows: list[dict[str, object]]) -> str:
    """The two tables of README.md."""
    exact, approximate = (
        ("eval", "train", "train, other images", "eval after a training pass"),
        (
            "child",
            "statistics anew",
            "distilled",
            "trained",
        ),
    )
    lines = ["| operator | parents whose accuracy changes | " + " | ".join(exact) + " |", "|---" * 6 + "|"]
    for name in EXACT_OPERATORS:
        of = [row for row in rows if row["operator"] == name]
        worst = [f"{max(float(row[key]) for row in of):.0e}" for key in exact]  # type: ignore[arg-type]
        changed = sum(row["child"] != row["parent"] for row in of)
        lines.append(f"| {name} | {changed} of {len(of)} | {' | '.join(worst)} |")
    lines += ["", "| operator | parent | before | + statistics | + distilled | + trained |", "|---" * 6 + "|"]
    for name in APPROXIMATE:
        of = [row for row in rows if row["operator"] == name]
        cells = []
        for key in ("parent", *approximate):
            values = np.array([row[key] for row in of], dtype=float)
            cells.append(f"{values.mean():.1f} ± {values.std(ddof=1) if len(values) > 1 else 0:.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
