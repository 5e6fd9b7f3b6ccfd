"""Counting variants of converted networks by formula against counting them by a traced forward pass, one core.

As cost_tables.py does it for spaces of candidates. Usage:

    python experiments/benchmarks/converted_costs.py [--tables 200000] [--traced 5] [--rounds 5]

Writes converted_costs_cpu.json beside this file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
sys.path.insert(0, str(HERE))

import torch  # noqa: E402
from cost_tables import report  # noqa: E402

import oneshot  # noqa: E402
from oneshot.conversion.supernet import ConvertedSupernet  # noqa: E402


def converted(name: str, side: int) -> ConvertedSupernet:
    return oneshot.convert(source=f"timm:{name}", example_input=torch.zeros(2, 3, side, side))


SUPERNETS = {
    "resnet18, 224 pixels": lambda: converted("resnet18", 224),
    "vit_tiny_patch16_224": lambda: converted("vit_tiny_patch16_224", 224),
    "densenet121, 224 pixels": lambda: converted("densenet121", 224),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=200_000, help="architectures a round by formula")
    parser.add_argument("--traced", type=int, default=5, help="architectures a round by a traced forward pass")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    report(HERE / "converted_costs_cpu.json", SUPERNETS, args)


if __name__ == "__main__":
    main()
