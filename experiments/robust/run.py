"""Do DARTS' collapse and its cures show on two cores? Spaces S1 to S4 of RobustDARTS, and that of DARTS.

    ONESHOT_DATA=... python experiments/robust/run.py --out experiments/robust/results.jsonl
    python experiments/robust/run.py --out experiments/robust/results.jsonl --table

Every search has the same epochs on the same images. What it derives is trained from scratch, for all alike. A row of
the file is a space, a method and a seed. A command that is stopped goes on where it was; rows of other settings stay.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments/compare")]

from packed_cifar10 import PackedCIFAR10  # noqa: E402

import oneshot  # noqa: E402
from oneshot.data import SearchDataModule  # noqa: E402
from oneshot.engine import BilevelSearch  # noqa: E402
from oneshot.functional import largest_eigenvalue  # noqa: E402
from oneshot.supernets import DARTSNetwork, DARTSSpace, DARTSSupernet, Genotype, darts_space, reduced_space  # noqa: E402
from oneshot.supernets.base import batch_statistics, restored_modes  # noqa: E402
from oneshot.supernets.darts import KINDS, REDUCED_SPACES  # noqa: E402

SPACES = (*REDUCED_SPACES, "darts")
OF_SEARCH = ("epochs", "channels")
OF_TRAINING = ("images", "side", "cells", "batch", "retrain_epochs", "retrain_channels", "test_images")
# A short search takes larger rates: see experiments/compare/nasbench201.yaml.
RATES: dict[str, Any] = {"weight_lr": 0.1, "arch_lr": 3e-3}


def robust(supernet: DARTSSupernet, epochs: int) -> BilevelSearch:
    return oneshot.RobustDARTS(supernet, order=1, every=2, window=3, lag=1, start_epoch=epochs // 5, **RATES)


METHODS: dict[str, Callable[[DARTSSupernet, int], BilevelSearch]] = {
    "DARTS": lambda s, _: oneshot.DARTS(s, **RATES),
    "SmoothDARTS": lambda s, _: oneshot.SmoothDARTS(s, attack="random", **RATES),
    "SmoothDARTS-ADV": lambda s, _: oneshot.SmoothDARTS(s, attack="adversarial", **RATES),
    "RobustDARTS": robust,
    "DARTS-PT": lambda s, _: oneshot.DARTSPT(s, train_epochs=None, tune_epochs=0, batches=8, **RATES),
    "Beta-DARTS": lambda s, _: oneshot.BetaDARTS(s, **RATES),
    "DARTS-": lambda s, _: oneshot.DARTSMinus(s, **RATES),
}
DEFAULT = ("DARTS", "SmoothDARTS", "RobustDARTS", "DARTS-PT", "Beta-DARTS")


def space_of(name: Any) -> DARTSSpace:
    return darts_space() if name == "darts" else reduced_space(name)


def eigenvalue(search: BilevelSearch) -> float:
    """Largest eigenvalue of the Hessian of the loss in the alphas, on one batch of the architecture stream."""
    alphas = [alpha for alpha in search.alphas.values() if alpha.requires_grad]

    def flat(of: Tensor, **options: Any) -> Tensor:
        parts = torch.autograd.grad(of, alphas, allow_unused=True, materialize_grads=True, **options)
        return torch.cat([part.flatten() for part in parts])

    with restored_modes(search.supernet), batch_statistics(search.supernet.eval()), torch.enable_grad():
        ((x, y),) = search.held_out(1)
        loss = search.criterion(search.run(x, search.edge_weights()), y)
        gradient = flat(loss, create_graph=True)
        return largest_eigenvalue(
            lambda v: flat(gradient, grad_outputs=v, retain_graph=True), gradient.detach(), steps=16
        )


class Eigenvalues(pl.Callback):
    """Measures the eigenvalue after every n-th epoch and after the last."""

    def __init__(self, every: int) -> None:
        self.every, self.values = every, list[tuple[int, float]]()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BilevelSearch)
        if self.every and (trainer.current_epoch % self.every == 0 or trainer.current_epoch + 1 == trainer.max_epochs):
            self.values.append((trainer.current_epoch, round(eigenvalue(pl_module), 5)))


def quiet(epochs: int, **options: Any) -> pl.Trainer:
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, **dict.fromkeys(off, False), **options)


def images(given: argparse.Namespace) -> PackedCIFAR10:
    numbers = {"images": given.images, "test_images": given.test_images, "batch_size": given.batch}
    return PackedCIFAR10(image_size=given.side, **numbers)


def trained(genotype: Any, data: PackedCIFAR10, seed: int, given: argparse.Namespace) -> tuple[float, int]:
    """Test accuracy after training a network from scratch, and its parameters."""
    pl.seed_everything(1000 + seed, verbose=False)
    shape = {"num_classes": data.num_classes, "image_size": given.side}
    network = DARTSNetwork(genotype, channels=given.retrain_channels, cells=given.cells, **shape)
    module = oneshot.Retrain(network)
    trainer = quiet(given.retrain_epochs, limit_val_batches=0)
    trainer.fit(module, data)
    (metrics,) = trainer.test(module, data, verbose=False)
    return float(metrics["test/accuracy"]), sum(p.numel() for p in network.parameters())


def run(space: str, method: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    pl.seed_everything(seed, verbose=False)
    data = images(given)
    shape = {"num_classes": data.num_classes, "image_size": given.side}
    supernet = DARTSSupernet(space_of(space), channels=given.channels, cells=given.cells, **shape)
    search, watch, start = METHODS[method](supernet, given.epochs), Eigenvalues(given.eigen_every), time.process_time()
    quiet(given.epochs, callbacks=[watch], limit_val_batches=0).fit(search, SearchDataModule(data))
    searched = time.process_time() - start
    genotype = supernet.space.genotype(search.derive())
    ops = {kind: [op for node in getattr(genotype, kind) for op, _ in node] for kind in KINDS}
    accuracy, params = trained(genotype, data, seed, given)
    return {
        "space": space,
        "method": method,
        "seed": seed,
        **{name: getattr(given, name) for name in OF_SEARCH + OF_TRAINING},
        "genotype": str(genotype),
        **{f"skips_{kind}": names.count("skip_connect") for kind, names in ops.items()},
        "convolutions": sum("conv" in op for names in ops.values() for op in names),
        "eigenvalues": watch.values,
        "stopped": search.trainer.current_epoch < given.epochs,
        "accuracy": round(accuracy, 4),
        "params": params,
        "search_cpu_s": round(searched, 1),
        "retrain_cpu_s": round(time.process_time() - start - searched, 1),
    }


def again(row: dict[str, Any], given: argparse.Namespace, trained_before: list[dict[str, Any]]) -> dict[str, Any]:
    """A row whose network is trained once more; where another search derived the same for this seed, as it was."""
    start, found = time.process_time(), {name: getattr(given, name) for name in OF_TRAINING}
    for other in trained_before:
        if (other["genotype"], other["seed"]) == (row["genotype"], row["seed"]):
            found |= {name: other[name] for name in ("accuracy", "params", "retrain_cpu_s")}
            break
    else:
        accuracy, params = trained(Genotype.parse(row["genotype"]), images(given), row["seed"], given)
        found |= {"accuracy": round(accuracy, 4), "params": params}
        found["retrain_cpu_s"] = round(time.process_time() - start, 1)
    return {**row, "searched_with": {name: row[name] for name in ("images", "side", "cells", "batch")}, **found}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, and the spread of the accuracy, for each space and method."""
    lines = ["| space | method | seeds | skips, normal | convolutions | last eigenvalue | test accuracy |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for space in SPACES:
        for method in METHODS:
            own = [row for row in rows if (row["space"], row["method"]) == (space, method)]
            if not own:
                continue
            accuracies = [100 * row["accuracy"] for row in own]
            spread = f" ± {statistics.stdev(accuracies):.1f}" if len(own) > 1 else ""
            last = [row["eigenvalues"][-1][1] for row in own if row["eigenvalues"]]
            mean = statistics.mean
            cells = [mean(row["skips_normal"] for row in own), mean(row["convolutions"] for row in own)]
            numbers = " | ".join(f"{value:.1f}" for value in cells)
            value = f"{mean(last):.3f}" if last else "–"
            lines.append(f"| {space} | {method} | {len(own)} | {numbers} | {value} | {mean(accuracies):.1f}{spread} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of rows, one JSON object a line")
    parser.add_argument("--spaces", nargs="+", choices=SPACES, default=SPACES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2")
    parser.add_argument("--epochs", type=int, default=15, help="of a search")
    parser.add_argument("--images", type=int, default=2000, help="of training; a fifth as many test")
    parser.add_argument("--side", type=int, default=16, help="of an image, in pixels")
    parser.add_argument("--channels", type=int, default=4, help="of the supernet")
    parser.add_argument("--cells", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--retrain-epochs", type=int, default=15)
    parser.add_argument("--retrain-channels", type=int, default=8)
    parser.add_argument("--eigen-every", type=int, default=3, help="epochs between two eigenvalues; 0 measures none")
    parser.add_argument("--retrain", type=Path, metavar="ROWS", help="train once more what these rows have derived")
    parser.add_argument("--test-images", type=int, help="a fifth as many as training images if not given")
    parser.add_argument("--table", action="store_true", help="print the table of the rows, and run nothing")
    given = parser.parse_args()
    if given.test_images is None:
        given.test_images = given.images // 5
    if given.retrain and not given.retrain.is_file():
        parser.error(f"--retrain must be a file of rows; there is no {given.retrain}")
    if given.retrain and given.retrain.resolve() == given.out.resolve():
        parser.error(f"--retrain reads the rows of {given.retrain}, so --out must be another file")

    names = OF_TRAINING if given.retrain else OF_SEARCH + OF_TRAINING
    settings = tuple(getattr(given, name) for name in names)

    def which(row: dict[str, Any]) -> tuple[str, str, int]:
        return row["space"], row["method"], row["seed"]

    def settings_of(row: dict[str, Any]) -> tuple[Any, ...]:
        row = {"test_images": row["images"] // 5, **row}  # earlier rows do not say how many
        return tuple(row[name] for name in names)

    done = {which(row) for row in rows_of(given.out) if settings_of(row) == settings}
    found = rows_of(given.retrain) if given.retrain else []
    searched = {which(row): row for row in found}
    if len(searched) < len(found):
        parser.error(f"--retrain must have one row of a space, method and seed; {given.retrain} has several")
    methods = given.methods or (METHODS if given.retrain else DEFAULT)
    seeds = given.seeds or (sorted({row["seed"] for row in found}) if given.retrain else (0, 1, 2))
    wanted = [(s, m, seed) for seed in seeds for s in given.spaces for m in methods]
    wanted = [one for one in wanted if one not in done and (one in searched or not given.retrain)]
    for space, method, seed in [] if given.table else wanted:
        if given.retrain:
            alike = [row for row in rows_of(given.out) if settings_of(row) == settings]
            row = again(searched[space, method, seed], given, alike)
        else:
            row = run(space, method, seed, given)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(space, method, seed, f"{row['skips_normal']} skips, accuracy {row['accuracy']:.3f}", flush=True)
    print(table([row for row in rows_of(given.out) if settings_of(row) == settings]))


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="pytorch_lightning")  # advice on loaders and loggers
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    main()
