"""A pretrained network and its smaller variants on small data: accuracy against measured latency.

For each data set and seed: the original is transferred (side "original", as baseline.py does). From there, NAT trains
all smaller variants at once and looks for the front of validation error and latency; the latency of every variant comes
from a model of some measured ones. For each target, a part of the latency of the original, these are trained in turn:

    nat             the variant of NAT's archive that is measured to keep the target and is best with a classifier of
                    its own, fitted in closed form
    uniform         the original with all widths cut to one ratio, the largest within the target, inherited weights
    scratch         the same network as uniform, from random weights
    mobilenetv3     MobileNetV3-small from random weights (one, whatever the target)

Each of the last three is trained for as many epochs as the networks of NAT were in all: those of the supernet and those
after it. Test images are used once for each network, at the end. All networks of a data set are timed in turn. Usage:

    python experiments/transfer/run.py [--data flower_photos] [--size 64] [--seeds 0] [--runtime onnxruntime]

Rows go to results.json, trained weights to work/; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import numpy as np  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
from images import TransferImages  # noqa: E402
from original import converted, laid_out, largest, sibling, weights_file  # noqa: E402
from rows import Rows  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sklearn.isotonic import IsotonicRegression  # noqa: E402
from training import images, milliseconds, options, quiet, trainer, tuned  # noqa: E402

from oneshot import NAT  # noqa: E402
from oneshot.conversion import ConvertedSupernet  # noqa: E402
from oneshot.cost import fit_predictor  # noqa: E402
from oneshot.cost.latency.device import Device  # noqa: E402
from oneshot.cost.latency.timings import measure_networks  # noqa: E402
from oneshot.cost.model import CostModel  # noqa: E402
from oneshot.evaluation.recalibration import recalibrate_on  # noqa: E402
from oneshot.nat import Objective  # noqa: E402
from oneshot.storage.files import write_atomically  # noqa: E402
from oneshot.supernets.base import Subnet  # noqa: E402
from oneshot.supernets.space import Floats, SubnetConfig  # noqa: E402
from oneshot.training import fit_head  # noqa: E402
from oneshot.training.samples import plain_samples  # noqa: E402

RATIOS = np.linspace(0.25, 1.0, 31)  # of uniform widths
TIMED = 8  # architectures of the archive at once
RANKED = 512  # images that say which channels matter
PROBED = 24  # architectures of the archive, for each target, that get a classifier fitted to all training images


class Case:
    """One data set and seed.

    Args:
        args: Of the command.
        name: Of the data set.
        seed: Of everything.
    """

    def __init__(self, args: argparse.Namespace, name: str, seed: int) -> None:
        self.args, self.name, self.seed = args, name, seed
        self.data: TransferImages = images(args, name, seed)
        self.device = Device(args.runtime, "cpu", threads=args.latency_threads)
        self.rows = Rows(args.results)
        self.folder = args.work / f"{name}-{args.size}-{seed}-{args.limit or 'all'}-{args.epochs}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.total = args.warmup_epochs + args.iterations * args.adapt_epochs + args.final_epochs
        self.worths: dict[SubnetConfig, float] = {}
        self.networks: list[tuple[dict[str, Any], Subnet]] = []  # with what their rows are of

    def train(
        self,
        side: str,
        target: float | None,
        network: Subnet,
        epochs: int,
        config: SubnetConfig | None = None,
        **settings: Any,
    ) -> Subnet:
        """Train a network and write its row, unless that is done; returned with its trained weights."""
        key, file, found = self.known(side, target, epochs)
        lr = key["lr"]
        if found is not None and file.is_file():
            network.load_state_dict(load_file(file))
        else:
            told = tuned(network, self.data, epochs=epochs, seed=self.seed, lr=lr, **settings)
            save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
            chosen = {} if config is None else {"config": config.to_dict()}
            found = {**key, "threads": self.args.threads, **told, **chosen}
            self.rows.add(found)
        where = "" if target is None else f" at {target:.2f} of the latency"
        say(f"{self.name} seed {self.seed}: {side}{where} {found['accuracy']:.4f}, {found['cpu_seconds']:.0f} CPU s")
        self.networks.append((key, network))
        return network

    def known(self, side: str, target: float | None, epochs: int) -> tuple[dict[str, Any], Path, dict[str, Any] | None]:
        """What a row is of, the file of its trained weights, and the row if it is there."""
        rates = {"original": self.args.lr, "scratch": self.args.scratch_lr, "mobilenetv3": self.args.scratch_lr}
        lr = rates.get(side, self.args.variant_lr)
        key = {"data": self.name, "size": self.args.size, "side": side, "target": target, "seed": self.seed}
        key |= {"epochs": epochs, "lr": lr, "limit": self.args.limit}
        return key, self.folder / f"{side}-{target}-{epochs}-{lr:g}.safetensors", self.rows.find(**key)

    def chosen(self, side: str, target: float, epochs: int) -> SubnetConfig | None:
        """The architecture that was trained before: another measurement might choose another one."""
        _, file, found = self.known(side, target, epochs)
        return SubnetConfig.from_dict(found["config"]) if found is not None and file.is_file() else None

    def latency_model(self, supernet: ConvertedSupernet) -> CostModel:
        """What every variant takes, as a part of what the original takes: learned from measured ones."""
        space, args = supernet.space, self.args
        rng = np.random.default_rng(0)
        uniform = [supernet.uniform(float(ratio)) for ratio in RATIOS]
        genes = np.concatenate([space.encode(uniform), space.sample_matrix(args.latency_networks, rng)])
        log = measure_networks(
            supernet,
            self.device,
            list(genes),
            {"measured": genes.tolist()},
            seed=0,
            reference=space.encode([space.largest])[0],
            journal=self.folder.parent / f"latency-{self.name}-{args.size}-{args.runtime}.jsonl",
            progress=lambda done, of: say(f"{self.name}: {done} of {of} networks timed", again=True),
        )
        model = fit_predictor(space, genes, log.ratios)
        # Wider is slower: what is measured otherwise is noise.
        self.of_uniform = IsotonicRegression().fit_transform(RATIOS, log.ratios[: len(RATIOS)])
        say(f"{self.name}: latency of variants is known from {len(genes)} of them; {model.kind}")
        return model

    def supernet(self, start: Subnet, model: CostModel) -> tuple[ConvertedSupernet, list[tuple[SubnetConfig, float]]]:
        """The supernet that NAT has trained, and its archive: architectures and their validation errors."""
        args, epochs = self.args, self.total - self.args.final_epochs
        supernet = self.fresh(start)
        weights, archive = (self.folder / f"nat-{args.statistics}.{kind}" for kind in ("safetensors", "json"))
        if weights.is_file() and archive.is_file():
            supernet.load_state_dict(load_file(weights))
            known = json.loads(archive.read_text(encoding="utf-8"))
            return supernet, [(SubnetConfig.from_dict(config), error) for config, error in known]
        pl.seed_everything(self.seed, verbose=False)
        search = NAT(
            supernet,
            objectives=[Objective("latency", "", model)],
            warmup_epochs=args.warmup_epochs,
            iterations=args.iterations,
            adapt_epochs=args.adapt_epochs,
            initial=args.archive,
            batch=args.candidates,
            calibration_images=512,
            fit_heads=True,
            initial_teacher=True,
            smallest=False,
            freeze_statistics=args.statistics == "frozen",
            weight_optimizer=partial(torch.optim.AdamW, lr=args.lr, weight_decay=0.01),
            weight_decay_norms=False,
            search_seed=self.seed,
        )
        search.progress = lambda what, done, of: say(f"{self.name}: {what} {done} of {of}", again=True) if of else None
        trainer(epochs, default_root_dir=self.folder, limit_val_batches=1.0).fit(search, datamodule=self.data)
        found = search.pareto.archive
        pairs = list(zip(supernet.space.decode(found.genes), found.values[:, 0].tolist(), strict=True))
        save_file({name: tensor.contiguous() for name, tensor in supernet.state_dict().items()}, weights)
        write_atomically(archive, json.dumps([[config.to_dict(), error] for config, error in pairs]) + "\n")
        return supernet, pairs

    def fresh(self, start: Subnet) -> ConvertedSupernet:
        """The supernet of the transferred original."""
        supernet = converted(self.data.num_classes, self.args.size, weights_file(self.args.weights))
        supernet.network.load_state_dict(start.network.state_dict())  # type: ignore[union-attr]  # a ConvertedNetwork
        supernet.rank_channels(plain_samples(self.data, RANKED) or ())
        return supernet

    def best(
        self,
        supernet: ConvertedSupernet,
        archive: list[tuple[SubnetConfig, float]],
        parts: Floats,
        start: Subnet,
        target: float,
    ) -> SubnetConfig | None:
        """The best architecture of the archive that is measured to keep a target; None if none does."""
        near = [(error, config) for (config, error), part in zip(archive, parts, strict=True) if part <= 1.1 * target]
        least = sorted((pair for pair in near if np.isfinite(pair[0])), key=lambda pair: pair[0])[:PROBED]
        alive = [config for _, config in least if self.worth(supernet, config) > 0]
        order = sorted(alive, key=lambda config: -self.worth(supernet, config))
        for place in range(0, len(order), TIMED):
            chosen = order[place : place + TIMED]
            original, *took = milliseconds([start, *(laid_out(supernet.extract(c)) for c in chosen)], self.device)
            for config, ms in zip(chosen, took, strict=True):
                if ms <= target * original:
                    return config
        return None

    def worth(self, supernet: ConvertedSupernet, config: SubnetConfig) -> float:
        """Accuracy of an architecture with a classifier of its own, on training images that were left out of its fit.

        NAT has errors on the few validation images, with classifiers that are fitted to 512 images.
        """
        if config not in self.worths:
            network = laid_out(supernet.extract(config))
            recalibrate_on(self.data, network)  # nothing happens where the supernet's are frozen
            self.worths[config] = self.probe(network)
            say(f"{self.name}: {len(self.worths)} architectures have a classifier of their own", again=True)
        return self.worths[config]

    def probe(self, network: Subnet) -> float:
        """Accuracy of a classifier that is fitted in closed form; 0 where the features are the same for all images."""
        try:
            return fit_head(network, plain_samples(self.data, 2_000) or ()).value
        except ValueError as error:
            if "must differ between samples" not in str(error):
                raise
            return 0.0

    def run(self) -> None:
        """All sides."""
        args, classes = self.args, self.data.num_classes
        weights = weights_file(args.weights)
        start = self.train("original", None, largest(converted(classes, args.size, weights)), args.epochs)
        taught = {"teacher": copy.deepcopy(start).requires_grad_(False), "teacher_weight": 1.0, "mixup": 1.0}
        pruned = self.fresh(start)
        model = self.latency_model(pruned)
        supernet, archive = self.supernet(start, model)
        space = supernet.space
        parts = model.costs(space.encode([config for config, _ in archive]))
        uniform = [pruned.uniform(float(ratio)) for ratio in RATIOS]
        for target in args.targets:
            side = "nat" if args.statistics == "frozen" else "nat batch"
            config = self.chosen(side, target, args.final_epochs) or self.best(supernet, archive, parts, start, target)
            if config is None:
                say(f"{self.name}: no architecture takes {target:.2f} of the latency; the fastest {min(parts):.2f}")
                continue
            network = laid_out(supernet.extract(config))
            recalibrate_on(self.data, network)  # nothing happens where the supernet's are frozen
            self.train(side, target, network, args.final_epochs, config, **taught)
            cut = [i for i, part in enumerate(self.of_uniform) if part <= target]
            if not cut:
                say(f"{self.name}: no uniform width takes {target:.2f} of the latency")
                continue
            config = self.chosen("uniform", target, self.total) or uniform[max(cut)]
            network = laid_out(pruned.extract(config))
            self.train("uniform", target, network, self.total, config, fit_head=self.probe(network) > 0, **taught)
            if self.seed not in args.scratch_seeds:
                continue
            network = laid_out(pruned.extract(config, inherit=False))
            self.train("scratch", target, network, self.total, config, pretrained=False)
        if self.seed in args.scratch_seeds:
            self.train("mobilenetv3", None, sibling(classes, args.size), self.total, pretrained=False)
        self.time()

    def time(self) -> None:
        """Time all networks in turn, and write it into their rows."""
        say(f"{self.name}: {len(self.networks)} networks are timed in turn")
        took = milliseconds([network for _, network in self.networks], self.device)
        original = next(ms for ms, (key, _) in zip(took, self.networks, strict=True) if key["side"] == "original")
        facts = {"runtime": self.args.runtime, "latency_threads": self.args.latency_threads}
        for ms, (key, _) in zip(took, self.networks, strict=True):
            row = self.rows.find(**key)
            self.rows.add({**(row or key), "ms": round(ms, 4), "part": round(ms / original, 4), **facts})


def say(text: str, *, again: bool = False) -> None:
    """Print a line; one that is said again and again only on a terminal."""
    if not again:
        print(text, flush=True)
    elif sys.stdout.isatty():
        print(f"\r{text:100}", end="\r", flush=True)


def main() -> None:
    """Train and time what is not done yet."""
    parser = options(__doc__)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.75, 0.5, 0.35], help="parts of the latency")
    parser.add_argument("--warmup-epochs", type=int, default=0, help="of the supernet before the first search")
    parser.add_argument("--iterations", type=int, default=2, help="searches")
    parser.add_argument("--adapt-epochs", type=int, default=1, help="of the supernet after each search")
    parser.add_argument("--final-epochs", type=int, default=10, help="of each network of the front that is taken")
    parser.add_argument(
        "--statistics", default="frozen", choices=["batch", "frozen"], help="of normalisation, in the supernet"
    )
    parser.add_argument("--archive", type=int, default=60, help="architectures that the search begins with")
    parser.add_argument("--candidates", type=int, default=24, help="architectures that each search adds")
    parser.add_argument("--variant-lr", type=float, default=1e-3, help="of AdamW, for variants of the original")
    parser.add_argument("--scratch-seeds", type=int, nargs="+", default=[0], help="with networks of random weights")
    parser.add_argument("--scratch-lr", type=float, default=2e-3, help="of AdamW, for random weights")
    parser.add_argument("--latency-networks", type=int, default=96, help="random variants that are timed")
    parser.add_argument("--latency-threads", type=int, default=1)
    parser.add_argument("--runtime", default="onnxruntime", choices=["eager", "compile", "onnxruntime"])
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder for trained weights")
    args = parser.parse_args()
    quiet(args.threads)
    for name in args.data:
        for seed in args.seeds:
            Case(args, name, seed).run()


if __name__ == "__main__":
    main()
