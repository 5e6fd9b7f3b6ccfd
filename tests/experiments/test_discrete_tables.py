"""The experiment on tables goes on where it was stopped."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from oneshot.discrete import TabularEvaluator
from oneshot.supernets import Choice, SearchSpace

SCRIPT = Path(__file__).parents[2] / "experiments/discrete/tables.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("discrete_tables", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    space = SearchSpace("toy", (Choice("layer", ("a", "b", "c"), rows=4),))
    genes = np.array(list(np.ndindex(*space.gene_sizes)))
    table = TabularEvaluator(space, genes, {"accuracy": 90.0 + genes.sum(1)})
    monkeypatch.setattr(module, "load", lambda name, csv, metric: (table, "accuracy", name))
    return module


def test_rows_and_seeds_that_were_finished_are_kept(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = tmp_path / "tables.json", []
    real = script.run

    def run(table: object, metric: str, build: object, seed: int, evaluations: int) -> object:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(seed)
        return real(table, metric, build, seed, evaluations)

    args = argparse.Namespace(
        tables=["toy"],
        strategies=["local search"],
        seeds=5,
        evaluations=20,
        csv=None,
        metric=None,
        out=out,
        again=False,
    )
    monkeypatch.setattr(script, "run", run)
    with pytest.raises(KeyboardInterrupt):
        script.measure(args)
    assert not out.exists() and len(json.loads((tmp_path / "tables.partial.json").read_text())["runs"]) == 3
    monkeypatch.setattr(script, "run", lambda *rest: (done.append(rest[3]), real(*rest))[1])
    script.measure(args)
    assert done == [0, 1, 2, 3, 4] and not (tmp_path / "tables.partial.json").exists()
    (row,) = json.loads(out.read_text())["results"]
    regrets = np.stack(
        [real(*script.load("toy", None, None)[:2], script.STRATEGIES["local search"], s, 20)[0] for s in range(5)]
    )
    assert row["mean"] == np.round(regrets[:, [9, 19]].mean(0), 4).tolist() and row["seeds"] == 5
    script.measure(args)
    assert done == [0, 1, 2, 3, 4]
    args.again = True
    script.measure(args)
    assert done == [0, 1, 2, 3, 4] * 2
