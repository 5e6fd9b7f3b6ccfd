"""Numbers predicted from tables: networks that a search found, beside ridge regression and boosted trees.

python experiments/regression/run.py --out experiments/regression/results.json
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from sklearn.datasets import load_diabetes, load_wine
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score
from torch import Tensor

import oneshot
from oneshot.cost import count
from oneshot.data import SearchDataModule, TableData
from oneshot.supernets import MLPNetwork, MLPSupernet
from oneshot.tasks import Regression

BATCH = 32
SIZES: dict[str, Any] = {"width": 32, "layers": 3, "dropout": 0.2, "num_classes": 1}
BY_HAND = ("relu_2", "relu_2", "relu_2")  # the ResNet of arXiv:2106.11959


def table(name: str) -> tuple[Any, Any]:
    """Rows and what is predicted: how far diabetes is after a year, or the alcohol in a wine from its other columns."""
    if name == "diabetes":
        return load_diabetes(return_X_y=True)
    x, _ = load_wine(return_X_y=True)
    return x[:, 1:], x[:, 0]


def trainer(steps: int, samples: int) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    epochs = math.ceil(steps / (samples // BATCH))
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, limit_val_batches=0, **quiet)


def searched(data: TableData, task: Regression, seed: int, steps: int) -> tuple[str, ...]:
    """Blocks found by first-order DARTS on halves of the training rows."""
    pl.seed_everything(seed, verbose=False)
    supernet = MLPSupernet(features=data.input_shape[0], **SIZES)
    search = oneshot.DARTS(supernet, arch_lr=0.01, task=task)
    trainer(steps, len(data.train_set) // 2).fit(search, datamodule=SearchDataModule(data, seed=seed))
    return supernet.space.operations(search.derive())


def trained(operations: Any, data: TableData, x: Tensor, task: Regression, seed: int, steps: int) -> tuple[Any, int]:
    """Predictions for ``x`` of a network trained from scratch on all training rows, and its parameters."""
    pl.seed_everything(seed, verbose=False)
    network = MLPNetwork(operations, features=data.input_shape[0], **SIZES)
    module = oneshot.Retrain(network, optimizer="adamw", lr=3e-3, weight_decay=0.05, task=task)
    trainer(steps, len(data.train_set)).fit(module, datamodule=data)
    with torch.no_grad():
        predicted = task.decode(module.network_for_export()(x)).flatten().numpy()
    return predicted, count(network, network.input_shape).params


def compare(name: str, seed: int, steps: int, search_steps: int) -> list[dict[str, Any]]:
    """All models on one table; the seed decides the split, too."""
    data = TableData(*table(name), task="regression", split_seed=seed, seed=seed, batch_size=BATCH)
    (x, y), (x_test, y_test) = (
        next(iter(data.eval_loader(part, batch_size=len(part)))) for part in (data.train_set, data.test_set)
    )
    y, truth = y.flatten(), y_test.flatten().numpy()
    task = Regression(mean=float(y.mean()), std=float(y.std()))
    begin = time.process_time()
    found = searched(data, task, seed, search_steps)
    seconds = round(time.process_time() - begin, 1)
    space = MLPSupernet(features=x.shape[1], **SIZES).space
    rows = []
    networks = {"found": found, "random": space.operations(space.sample(seed)), "ResNet by hand": BY_HAND}
    for model, operations in networks.items():
        predicted, params = trained(operations, data, x_test, task, seed, steps)
        rows.append({"model": model, "predicted": predicted, "params": params, "operations": list(operations)})
    rows[0]["search_cpu_s"] = seconds
    for model, fitted in {
        "ridge": RidgeCV(np.logspace(-3, 3, 13)),
        "gradient boosting": GradientBoostingRegressor(random_state=seed),
    }.items():
        rows.append({"model": model, "predicted": fitted.fit(x.numpy(), y.numpy()).predict(x_test.numpy())})
    for row in rows:
        predicted = row.pop("predicted")
        scores = {"r2": r2_score(truth, predicted), "mae": mean_absolute_error(truth, predicted)}
        row |= {"table": name, "seed": seed} | {key: round(float(value), 5) for key, value in scores.items()}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument("--tables", nargs="+", default=["diabetes", "wine"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=200, help="of every training from scratch")
    parser.add_argument("--search-steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", message=".*(does not have many workers|number of training batches|no `val_data).*"
    )
    rows: list[dict[str, Any]] = []
    for name in options.tables:
        for seed in options.seeds:
            rows += compare(name, seed, options.steps, options.search_steps)
            options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            print(name, seed, {row["model"]: row["r2"] for row in rows[-5:]}, flush=True)


if __name__ == "__main__":
    main()
