"""The comparisons of methods: their configurations, and the data that lie beside them."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oneshot.cli.compare import _Builder, _parse
from oneshot.cli.main import main
from oneshot.discrete import Evaluator, GaussianProcess, Proposal, Study, WeightedProduct
from oneshot.discrete.evaluators.tables import nas_bench_201
from tests import tables

TEST, SHORT = "cifar10_test_accuracy", "cifar10_val_accuracy_12_epochs"
FOLDER = Path(__file__).parents[2] / "experiments/compare"


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty images of two classes, as JPEGs in two files; and the folder of the experiment is where Python looks."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        parts = []
        for _ in range(20):
            buffer = BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
            parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
        offsets = np.cumsum([0, *map(len, parts)])
        np.savez(
            tmp_path / f"cifar10_jpeg_{split}.npz",
            jpeg=np.concatenate(parts),
            offsets=offsets,
            labels=np.arange(20) % 2,
            classes=np.array(["cat", "dog"]),
        )
    monkeypatch.setenv("ONESHOT_DATA", str(tmp_path))
    monkeypatch.syspath_prepend(str(FOLDER))
    return tmp_path


def test_packed_images_are_read_and_made_smaller(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = _Builder(_parse(["--config", str(FOLDER / "nasbench201.yaml"), "--data.init_args.images", "10"]))
    data = builder.data(3)
    data.setup("test")
    x, y = next(iter(data.test_dataloader()))
    assert x.shape == (2, 3, 16, 16) and x.dtype == torch.float32 and y.tolist() == [0, 1]
    assert (data.seed, len(data.train_images), data.num_classes) == (3, 10, 2)  # type: ignore[attr-defined]
    monkeypatch.delenv("ONESHOT_DATA")
    with pytest.raises(ValueError, match="environment variable ONESHOT_DATA"):
        builder.data(3)


def test_every_method_of_the_configurations_is_there(packed: Path) -> None:
    for name, methods in (("nasbench201.yaml", 17), ("digits.yaml", 6)):
        builder = _Builder(_parse(["--config", str(FOLDER / name)]))
        entries = builder.entries()
        assert len({entry.label for entry in entries}) == methods
        searches = [entry.search(builder.data(0)) for entry in entries if entry.search is not None]
        assert [search.weight_lr for search in searches] == [0.1] * (methods - 1)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.nightly
def test_the_comparison_on_digits_runs(tmp_path: Path) -> None:
    few = ["--seeds", "0", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--retrain.epochs", "1"]
    assert main(["compare", "--config", str(FOLDER / "digits.yaml"), *few, "--out", str(tmp_path / "out")]) == 0
    assert "| DARTS, order 2 | 1 |" in (tmp_path / "out/results.md").read_text()


def test_a_study_is_told_once_more_and_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = nas_bench_201(tables.table("nats_bench_tss", whole=True), (TEST, SHORT))
    strategy = GaussianProcess(table.space, initial=20, noisy=True, scalar=WeightedProduct((1, 0.5)), seed=3)

    class Known(Evaluator):
        metrics, space = ("accuracy", "params"), table.space

        def __call__(self, proposal: Proposal) -> dict[str, float]:
            return {"accuracy": table(proposal)[SHORT], "params": 1.0 + proposal.config["cell"].count("nor_conv_3x3")}

    Study(strategy, Known(), ["max accuracy", "max params"], evaluations=24, folder=tmp_path).run()
    monkeypatch.syspath_prepend(str(FOLDER))
    import minutes

    told = minutes.replay(tmp_path, 6.0)
    assert len(told["accuracy"]) == 24 and told["minutes"][-1] == 6.0 and told["minutes"] == sorted(told["minutes"])
    assert told["accuracy"][-1] == table(strategy.best)[TEST] and tuple(told["found"]) == strategy.best.config["cell"]
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text(encoding="utf-8").replace('"seed": 3', '"seed": 4', 1), encoding="utf-8")
    with pytest.raises(ValueError, match="evaluation 0 must be of"):
        minutes.replay(tmp_path)


def test_the_table_in_the_readme_is_that_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import minutes

    studies = json.loads(minutes.STUDIES.read_text(encoding="utf-8"))
    assert "\n".join(minutes.rows(studies)) in (FOLDER / "README.md").read_text(encoding="utf-8")
