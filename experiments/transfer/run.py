"""A pretrained network and its smaller variants on small data: accuracy against measured latency.

For each data set and seed: the original is transferred (side "original", as baseline.py does). Its channels are ranked
by what leaving them out does to the loss. From there, NAT's search looks for the front of accuracy and latency:
accuracy of variants with the weights they inherit and classifiers of their own, fitted in closed form, and latency by a
model of measured variants. For each target, a part of the latency of the original, these are trained equally long:

    nat             the best architecture of the search that is measured to keep the target, inherited weights
    uniform         the original with all widths cut to one ratio, the largest measured to keep it, inherited weights
    scratch         the same network as uniform, from random weights
    mobilenetv3     MobileNetV3-small from random weights (one, whatever the target)

The first two learn from the outputs of the original on mixed images. Test images are used once for each network, at the
end. All networks of a data set are timed in turn. Usage, on a machine that does nothing else:

    python experiments/transfer/run.py [--data flower_photos] [--size 64] [--seeds 0] [--runtime onnxruntime]

Rows go to results.json, trained weights to work/; what is there is not computed again.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import numpy as np  # noqa: E402
from images import TransferImages  # noqa: E402
from original import converted, laid_out, largest, sibling, weights_file  # noqa: E402
from rows import Rows  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from sklearn.isotonic import IsotonicRegression  # noqa: E402
from training import images, milliseconds, options, quiet, tuned  # noqa: E402

from oneshot.conversion import ConvertedSupernet  # noqa: E402
from oneshot.cost import fit_predictor  # noqa: E402
from oneshot.cost.latency.device import Device  # noqa: E402
from oneshot.cost.latency.timings import measure_networks  # noqa: E402
from oneshot.cost.model import CostModel  # noqa: E402
from oneshot.errors import HeadError  # noqa: E402
from oneshot.nat import Constraint, Objective, ParetoSearch  # noqa: E402
from oneshot.supernets.base import Subnet  # noqa: E402
from oneshot.supernets.space import SubnetConfig  # noqa: E402
from oneshot.training import fit_head  # noqa: E402
from oneshot.training.samples import plain_samples  # noqa: E402

RATIOS = np.linspace(0.25, 1.0, 31)  # of uniform widths
TIMED = 8  # architectures of the archive at once
RANKED = 512  # images that say which channels matter


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
        self.file = self.folder / "worths.jsonl"  # accuracies of architectures with classifiers of their own
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
        self.worths: dict[str, float] = dict(map(json.loads, lines))
        self.networks: list[tuple[dict[str, Any], Subnet]] = []  # with what their rows are of

    def train(
        self,
        side: str,
        target: float | None,
        network: Subnet,
        config: SubnetConfig | None = None,
        **settings: Any,
    ) -> Subnet:
        """Train a network and write its row, unless that is done; returned with its trained weights."""
        key, file, found = self.known(side, target)
        epochs, lr = key["epochs"], key["lr"]
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

    def known(self, side: str, target: float | None) -> tuple[dict[str, Any], Path, dict[str, Any] | None]:
        """What a row is of, the file of its trained weights, and the row if it is there."""
        rates = {"original": self.args.lr, "scratch": self.args.scratch_lr, "mobilenetv3": self.args.scratch_lr}
        lr = rates.get(side, self.args.variant_lr)
        epochs = self.args.epochs if side == "original" else self.args.variant_epochs
        key = {"data": self.name, "size": self.args.size, "side": side, "target": target, "seed": self.seed}
        key |= {"epochs": epochs, "lr": lr, "limit": self.args.limit}
        return key, self.folder / f"{side}-{target}-{epochs}-{lr:g}.safetensors", self.rows.find(**key)

    def chosen(self, side: str, target: float) -> SubnetConfig | None:
        """The architecture that was trained before: another measurement might choose another one."""
        _, file, found = self.known(side, target)
        return SubnetConfig.from_dict(found["config"]) if found is not None and file.is_file() else None

    def latency_model(self, supernet: ConvertedSupernet) -> CostModel:
        """What every variant takes, as a part of what the original takes: learned from measured ones."""
        space, args = supernet.space, self.args
        rng = np.random.default_rng(0)
        uniform = [supernet.uniform(float(ratio)) for ratio in RATIOS]
        drawn = space.sample_matrix(args.latency_networks, rng)
        kept = rng.random(drawn.shape) < rng.random((len(drawn), 1))  # by shares from none to all of the original
        drawn = space.repair(np.where(kept, space.encode([space.largest]), drawn))
        genes = np.concatenate([space.encode(uniform), drawn])
        journal = self.folder.parent / f"latency-{self.name}-{args.size}-{args.runtime}.jsonl"
        log = measure_networks(
            supernet,
            self.device,
            list(genes),
            {"measured": genes.tolist()},
            seed=0,
            reference=space.encode([space.largest])[0],
            journal=journal,
            progress=lambda done, of: say(f"{self.name}: {done} of {of} networks timed", again=True),
        )
        itself = float(log.ratios[len(RATIOS) - 1])
        if abs(itself - 1) > args.noise:
            raise SystemExit(
                f"The machine must be idle while latencies are measured; the original took {itself:.2f} of its own "
                f"time. Stop what else runs, delete {journal} and begin again."
            )
        model = fit_predictor(space, genes, log.ratios)
        # Wider is slower: what is measured otherwise is noise.
        self.of_uniform = IsotonicRegression().fit_transform(RATIOS, log.ratios[: len(RATIOS)])
        say(f"{self.name}: latency of variants is known from {len(genes)} of them; {model.kind}")
        return model

    def archive(self, supernet: ConvertedSupernet, model: CostModel) -> list[tuple[SubnetConfig, float, float]]:
        """Architectures of the search, how good they are, and the part of the latency that the model says."""
        args, space = self.args, supernet.space
        latency = Objective("latency", "", model)
        search = ParetoSearch(
            space,
            [latency],
            constraints=[Constraint(latency, max(args.targets))],
            initial=args.archive,
            batch=args.candidates,
            seed=self.seed,
        )
        for number in range(args.iterations + 1):
            genes = search.ask()
            search.tell(genes, [1 - self.worth(supernet, config) for config in space.decode(genes)])
            say(f"{self.name} seed {self.seed}: search {number} of {args.iterations}", again=True)
        genes = search.archive.genes
        configs, parts = space.decode(genes), model.costs(genes)
        return [(c, self.worth(supernet, c), float(part)) for c, part in zip(configs, parts, strict=True)]

    def fresh(self, start: Subnet) -> ConvertedSupernet:
        """The supernet of the transferred original."""
        supernet = converted(self.data.num_classes, self.args.size, weights_file(self.args.weights))
        supernet.network.load_state_dict(start.network.state_dict())  # type: ignore[union-attr]  # a ConvertedNetwork
        supernet.rank_channels(plain_samples(self.data, RANKED) or ())
        return supernet

    def fastest_enough(
        self, supernet: ConvertedSupernet, configs: Sequence[SubnetConfig], start: Subnet, target: float
    ) -> SubnetConfig | None:
        """The first of some architectures that is measured to keep a target; None if none does."""
        for place in range(0, len(configs), TIMED):
            chosen = configs[place : place + TIMED]
            original, *took = milliseconds([start, *(laid_out(supernet.extract(c)) for c in chosen)], self.device)
            for config, ms in zip(chosen, took, strict=True):
                if ms <= target * original:
                    return config
        return None

    def worth(self, supernet: ConvertedSupernet, config: SubnetConfig) -> float:
        """Accuracy of an architecture with a classifier of its own, on training images left out of its fit."""
        name = config.to_json()
        if name not in self.worths:
            self.worths[name] = self.probe(laid_out(supernet.extract(config)))
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, self.worths[name]]) + "\n")
        return self.worths[name]

    def probe(self, network: Subnet) -> float:
        """Accuracy of a classifier that is fitted in closed form; 0 where the features are the same for all images."""
        try:
            return fit_head(network, plain_samples(self.data, 2_000) or ()).value
        except HeadError:
            return 0.0

    def candidates(self, supernet: ConvertedSupernet) -> dict[str, list[tuple[SubnetConfig, float]]]:
        """Architectures of both sides, the best first, and the part of the latency that is expected of them."""
        model = self.latency_model(supernet)
        archive = sorted(self.archive(supernet, model), key=lambda found: -found[1])
        uniform = [supernet.uniform(float(ratio)) for ratio in RATIOS]
        return {
            "nat": [(config, part) for config, value, part in archive if value > 0],
            "uniform": list(zip(uniform, self.of_uniform, strict=True))[::-1],
        }

    def run(self) -> None:
        """All sides."""
        args, classes = self.args, self.data.num_classes
        weights = weights_file(args.weights)
        start = self.train("original", None, largest(converted(classes, args.size, weights)))
        taught = {"teacher": copy.deepcopy(start).requires_grad_(False), "teacher_weight": 1.0, "mixup": 1.0}
        supernet = self.fresh(start)
        known = all(self.chosen(side, target) for side in ("nat", "uniform") for target in args.targets)
        found = {"nat": [], "uniform": []} if known else self.candidates(supernet)
        for target in args.targets:
            for side, slack in (("nat", 1.05), ("uniform", 1.1)):
                candidates = [config for config, part in found[side] if part <= slack * target]
                config = self.chosen(side, target) or self.fastest_enough(supernet, candidates, start, target)
                if config is None:
                    say(f"{self.name}: nothing of {side} takes {target:.2f} of the latency")
                    continue
                network = laid_out(supernet.extract(config))
                head = self.chosen(side, target) is not None or self.probe(network) > 0
                self.train(side, target, network, config, fit_head=head, **taught)
                if side == "uniform" and self.seed in args.scratch_seeds:
                    network = laid_out(supernet.extract(config, inherit=False))
                    self.train("scratch", target, network, config, pretrained=False)
        if self.seed in args.scratch_seeds:
            self.train("mobilenetv3", None, sibling(classes, args.size), pretrained=False)
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
    parser.add_argument("--variant-epochs", type=int, default=12, help="of all variants, and of random weights")
    parser.add_argument("--iterations", type=int, default=10, help="searches after the initial sample")
    parser.add_argument("--archive", type=int, default=60, help="architectures that the search begins with")
    parser.add_argument("--candidates", type=int, default=16, help="architectures that each search adds")
    parser.add_argument("--variant-lr", type=float, default=6e-4, help="of AdamW, for variants of the original")
    parser.add_argument("--scratch-seeds", type=int, nargs="+", default=[0], help="with networks of random weights")
    parser.add_argument("--scratch-lr", type=float, default=2e-3, help="of AdamW, for random weights")
    parser.add_argument("--latency-networks", type=int, default=96, help="random variants that are timed")
    parser.add_argument("--latency-threads", type=int, default=1)
    parser.add_argument("--noise", type=float, default=0.1, help="most that the original may differ from itself")
    parser.add_argument("--runtime", default="onnxruntime", choices=["eager", "compile", "onnxruntime"])
    parser.add_argument("--work", type=Path, default=HERE / "work", help="folder for trained weights")
    args = parser.parse_args()
    quiet(args.threads)
    for name in args.data:
        for seed in args.seeds:
            Case(args, name, seed).run()


if __name__ == "__main__":
    main()
