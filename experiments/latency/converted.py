"""How well latencies of converted networks are learned from measurements of some, by kind of predictor.

Random networks of each supernet are measured, one thread, batch 1. Predictors of all kinds are fitted to the first 60
and to all, and judged in five-fold cross-validation. The last supernet has widths that are no multiples of 8. Usage:

    python experiments/latency/converted.py [--networks 150]

Writes converted.json beside this file; raw timings go to runs/latency, from which an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import torch  # noqa: E402

import oneshot  # noqa: E402
from oneshot.conversion.supernet import ConvertedSupernet  # noqa: E402
from oneshot.cost import Device, fit_predictor, measure_samples  # noqa: E402
from oneshot.cost.counting.work import work_of  # noqa: E402
from oneshot.cost.learned.fit import SAMPLES  # noqa: E402
from oneshot.cost.learned.predictors import Kind  # noqa: E402

KINDS: tuple[Kind, ...] = ("additive", "pairwise", "boosting", "mlp", "work")
FEW = 60
UNEVEN = (0.25, 0.29, 0.36, 0.43, 0.47, 0.55, 0.62, 0.7, 0.77, 0.85, 0.93, 1.0)


def converted(source: str, side: int, **options: object) -> ConvertedSupernet:
    return oneshot.convert(source=source, example_input=torch.zeros(2, 3, side, side), **options)  # type: ignore[arg-type]


SUPERNETS: dict[str, Callable[[], ConvertedSupernet]] = {
    "resnet18, 64 pixels": lambda: converted("timm:resnet18", 64),
    "tf_efficientnet_lite0, 96 pixels": lambda: converted("timm:tf_efficientnet_lite0", 96),
    "resnet18, 64 pixels, any number of channels": lambda: converted("timm:resnet18", 64, width=UNEVEN, multiple=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=150, help="measured of every supernet")
    args = parser.parse_args()
    torch.set_num_threads(1)
    journals = Path("runs/latency")
    journals.mkdir(parents=True, exist_ok=True)

    results = []
    for number, (name, make) in enumerate(SUPERNETS.items()):
        supernet = make()
        space, work = supernet.space, work_of(supernet)
        genes = space.sample_matrix(args.networks, 0)
        journal = journals / f"converted_{number}.journal"
        ms, record = measure_samples(supernet, Device("eager", "cpu", threads=1), genes, journal=journal)
        print(f"{name}: {len(ms)} networks, {ms.min():.3g} to {ms.max():.3g} ms, noise {record.noise:.1%}")
        found = {}
        for samples in (FEW, len(ms)):
            for kind in KINDS:
                if samples < SAMPLES[kind]:
                    continue
                model = fit_predictor(space, genes[:samples], ms[:samples], kind=kind, work=work)
                agreement = model.validation[kind]
                found[f"{kind}, {samples} networks"] = asdict(agreement)
                print(f"    {samples} networks, {kind}: {agreement}")
        results.append({"supernet": name, "noise": record.noise, "device": record.device, "validation": found})
    report = {"settings": vars(args), "torch": torch.__version__, "results": results}
    (HERE / "converted.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
