"""Search a recurrent cell on WikiText-2, train it from scratch, and a random cell and an LSTM of its size beside it.

The training text is WikiText-2's validation file, small enough for one CPU core; the last tenth of its lines decides
when averaging begins, its test file is looked at once, at the end. All networks have the same number of parameters, to
0.1 %, the same optimiser, dropouts and number of epochs.

    ONESHOT_DATA=... python experiments/recurrent/run.py --seed 0 --out results.jsonl
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from oneshot.data.text import TextData, TextSearchData
from oneshot.methods.darts import DARTS
from oneshot.supernets.base import count_parameters
from oneshot.supernets.recurrent import LanguageModel, LSTMLanguageModel, RecurrentSupernet
from oneshot.training.language import RetrainLanguage

SIZE = 64
DROPOUT = {"dropout_words": 0.0, "dropout_embedding": 0.2, "dropout_hidden": 0.2, "dropout_output": 0.3}
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


def lstm_of_size(parameters: int, num_classes: int) -> LSTMLanguageModel:
    """Two layers, the second as wide as the word vectors; the first as wide as it takes."""

    def build(hidden: int) -> LSTMLanguageModel:
        return LSTMLanguageModel(num_classes=num_classes, size=SIZE, hidden=hidden, **DROPOUT)

    hidden = min(range(1, 8 * SIZE), key=lambda width: abs(count_parameters(build(width)) - parameters))
    return build(hidden)


def train(network: LanguageModel, data: TextData, *, epochs: int, seed: int) -> dict[str, Any]:
    pl.seed_everything(seed, verbose=False)
    start, module = time.monotonic(), RetrainLanguage(network, patience=1)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", num_sanity_val_steps=0, **QUIET)
    trainer.fit(module, datamodule=data)
    result = {"val": trainer.callback_metrics["val/perplexity"].item(), "averaged": module.averaging}
    result["test"] = trainer.test(module, datamodule=data, verbose=False)[0]["test/perplexity"]
    return {**result, "params": count_parameters(network), "seconds": round(time.monotonic() - start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search-epochs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", ".*does not have many workers")  # text is in memory
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    folder = Path(os.environ["ONESHOT_DATA"])
    files = {"train_file": folder / "wikitext2_valid.txt", "test_file": folder / "wikitext2_test.txt"}
    data = TextData(**files, batch_size=20, min_count=5)
    words = data.num_classes

    start = time.monotonic()
    pl.seed_everything(args.seed, verbose=False)
    supernet = RecurrentSupernet(num_classes=words, size=SIZE, dropout_input=0.2, **DROPOUT)
    # The paper's settings, except that the alphas move ten times as fast, because there are so few steps.
    weights = {
        "weight_lr": 20.0,
        "weight_lr_min": 20.0,
        "weight_momentum": 0.0,
        "weight_decay": 5e-7,
        "grad_clip": 0.25,
    }
    search = DARTS(supernet, arch_lr=0.03, **weights)
    batches = TextSearchData(TextData(**files, batch_size=64, window=20, min_count=5), seed=args.seed)
    trainer = pl.Trainer(max_epochs=args.search_epochs, accelerator="cpu", limit_val_batches=0, **QUIET)
    trainer.fit(search, datamodule=batches)
    config, seconds = search.derive(), round(time.monotonic() - start)
    loss = trainer.callback_metrics["train/loss"].item()

    space = supernet.space
    pl.seed_everything(args.seed, verbose=False)
    searched, chance = (supernet.extract(c, inherit=False).train() for c in (config, space.sample(args.seed)))
    networks = {"searched": searched, "random": chance, "lstm": lstm_of_size(count_parameters(searched), words)}
    row: dict[str, Any] = {
        "seed": args.seed,
        "vocabulary": words,
        "cell": str(space.genotype(config)),
        "random cell": str(space.genotype(space.sample(args.seed))),
        "search": {"epochs": args.search_epochs, "loss": loss, "seconds": seconds},
        "epochs": args.epochs,
        "machine": f"{platform.processor() or platform.machine()}, one thread, torch {torch.__version__}",
    }
    for name, network in networks.items():
        row[name] = train(network, data, epochs=args.epochs, seed=args.seed)
        print(name, row[name], flush=True)
    with args.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
