"""Arrays, time series and tables as data modules."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.utils.class_weight import compute_class_weight

from oneshot.data import (
    ArrayData,
    Digits,
    SearchDataModule,
    SeriesAugmentation,
    Shapes,
    TableData,
    TimeSeries,
    class_weights,
    encode_table,
)
from oneshot.data.facts import data_facts
from oneshot.data.series import slices
from oneshot.data.targets import read_targets
from oneshot.tasks import Classification, Regression

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "shape", [(3, 8, 8), (1, 16, 48), (2, 30), (1, 4, 5, 6), (7,)], ids=["square", "wide", "series", "volume", "table"]
)
def test_arrays_of_any_shape_become_training_and_test_samples(shape: tuple[int, ...]) -> None:
    x, y = RNG.normal(size=(50, *shape)), np.arange(50) % 5
    data = ArrayData(x, y, batch_size=8, val_fraction=0.25)
    assert (data.input_shape, data.num_classes, data.task) == (shape, 5, "classification")
    assert data.val_set is not None
    assert [len(data.train_set), len(data.val_set), len(data.test_set)] == [30, 10, 10]
    assert data.class_counts == (6,) * 5 and data.class_weights() == (1.0,) * 5
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for inputs, labels in batches:
        assert (inputs.dtype, inputs.shape, labels.dtype) == (torch.float32, (8, *shape), torch.int64)
    tests = next(iter(data.test_dataloader()))
    whole = {tuple(row.ravel().tolist()): label for row, label in zip(x.astype(np.float32), y, strict=True)}
    assert all(whole[tuple(a.flatten().tolist())] == int(b) for a, b in zip(*tests, strict=True))
    (only,) = [next(iter(data.predict_dataloader()))]
    assert torch.equal(only, tests[0])


def test_words_stay_whole_numbers_and_several_inputs_keep_their_names() -> None:
    words = ArrayData(RNG.integers(9, size=(20, 6)), np.arange(20) % 2)
    assert next(iter(words.test_dataloader()))[0].dtype == torch.int64
    x = {"image": RNG.normal(size=(20, 1, 4, 6)), "age": np.arange(20.0)[:, None]}
    data = ArrayData(x, np.arange(20) % 2, predict={"image": np.zeros((2, 1, 4, 6)), "age": np.zeros((2, 1))})
    assert data.input_shape == {"image": (1, 4, 6), "age": (1,)}
    inputs, _ = next(iter(SearchDataModule(data, batch_size=4).train_dataloader()["arch"]))
    assert {name: part.shape for name, part in inputs.items()} == {"image": (4, 1, 4, 6), "age": (4, 1)}
    assert {name: len(part) for name, part in next(iter(data.predict_dataloader())).items()} == {"image": 2, "age": 2}
    assert data.test_dataloader().dataset[0][0]["age"].shape == (1,)


def test_the_streams_of_arrays_split_the_training_samples_and_resume() -> None:
    def search() -> SearchDataModule:
        return SearchDataModule(ArrayData(np.arange(60.0)[:, None], np.arange(60) % 3, test_fraction=0.5), batch_size=3)

    loaders = search().train_dataloader()
    seen = {name: torch.cat([x for x, _ in loader])[:, 0].tolist() for name, loader in loaders.items()}
    assert sorted(seen["weights"] + seen["arch"]) == sorted(search().data.train_set.inputs[:, 0].tolist())
    whole = [x for x, _ in search().train_dataloader()["arch"]]
    begun = search().train_dataloader()["arch"]
    stopped = iter(begun)
    next(stopped)
    again = search().train_dataloader()["arch"]
    again.load_state_dict(begun.state_dict())
    assert all(map(torch.equal, whole[1:], [x for x, _ in again]))


@pytest.mark.parametrize(
    ("y", "said", "values"),
    [
        (["b", "a", "b", "a"], ("classification", 2, ("a", "b")), [1, 0, 1, 0]),
        ([True, False, True, False], ("classification", 2, ("False", "True")), [1, 0, 1, 0]),
        ([7, 1, 1, 7], ("classification", 2, ("1", "7")), [1, 0, 0, 1]),
        ([10, 9, 10, 9], ("classification", 2, ("9", "10")), [1, 0, 1, 0]),
        ([0.5, 1.5, 2.5, 0.25], ("regression", 1, None), [0.5, 1.5, 2.5, 0.25]),
        ([[0.5, 1], [2, 3], [4, 5], [6, 7]], ("regression", 2, None), [[0.5, 1], [2, 3], [4, 5], [6, 7]]),
        ([[0, 1], [1, 1], [0, 0], [1, 0]], ("multilabel", 2, None), [[0, 1], [1, 1], [0, 0], [1, 0]]),
    ],
    ids=["texts", "yes and no", "numbers with gaps", "sorted as numbers", "number", "numbers", "labels"],
)
def test_the_task_follows_from_the_targets(y: Any, said: Any, values: Any) -> None:
    found = read_targets(np.array(y))
    assert (found.task, found.outputs, found.classes) == said
    assert found.values.tolist() == values
    assert (found.values.dtype == torch.int64) == (said[0] == "classification")


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([1.0, 2.0, 1.0, 2.0], {}, "holds 2 different whole numbers: are they classes, or numbers to predict"),
        ([1, 2, 1], {"text": True}, "holds 2 different whole numbers"),
        ([[0, 1], [1, 0]], {}, "has rows with exactly one 1: say task="),
        ([[0, 1], [1, 0]], {"task": "classification"}, r"must be one class for each sample.*argmax"),
        ([[3, 1], [1, 0]], {}, "has several values for each sample: say task="),
        ([0.5, 1.0], {"task": "classification"}, r"must be classes: texts or whole numbers; got 0\.5"),
        ([0, 1, 5], {"num_classes": 3}, "must be from 0 to 2 with num_classes=3; got 5"),
        (["a", "a"], {}, "must hold at least two classes, all of them named: all samples are a"),
        (["a", "c"], {"classes": ["a", "b"]}, "all of them named: c is not among a, b"),
        (["a", "b"], {"classes": ["a", "a"]}, "Names of classes must differ"),
        (["a", "b"], {"held": ["a", "z"]}, "Every class of the test samples must be among those of the training; z"),
        (["a", "b"], {"num_classes": 3}, "holds 2 classes; num_classes is 3"),
        (["a", "b"], {"task": "regression"}, "must be numbers; got texts such as 'a'"),
        ([1.5, np.nan], {}, "must be finite; sample 1 has NaN"),
        ([[0.5], [1.5]], {"num_classes": 2}, "has 1 outputs; num_classes is 2"),
        ([[0.5, 1.0], [1.0, 0.0]], {"task": "multilabel"}, "must be 0 or 1 for every label"),
        ([[0, 1], [1, 1]], {"classes": ["a"]}, "classes must name the 2 columns"),
        (np.zeros((2, 3, 3), int), {"task": "segmentation"}, "num_classes, the number of outputs, must be given"),
        (np.zeros((2, 3, 3)), {"task": "regression"}, r"must be one number for each sample, \[N\], or K"),
        ([1, "a", None], {}, "must be an array of numbers or of texts; got "),
        ([], {}, "with one entry for each sample, at least one"),
        ([0.5, 1.5], {"held": [[1.5, 1]]}, "must have one shape in training and test"),
    ],
)
def test_targets_that_fit_no_task_or_several_are_refused(y: Any, options: Any, message: str) -> None:
    array = np.array(y, dtype=object) if isinstance(y, list) and None in y else np.array(y)
    with pytest.raises(ValueError, match=message):
        read_targets(array, **options)


def test_numbers_of_classes_stay_and_get_names() -> None:
    found = read_targets(np.array([0, 2, 2]), classes=["a", "b", "c"])
    assert (found.values.tolist(), found.classes) == ([0, 2, 2], ("a", "b", "c"))
    assert read_targets(np.array([0, 2]), num_classes=4).classes == ("0", "1", "2", "3")
    assert read_targets(np.array([1.0, 2.0]), task="classification").values.tolist() == [0, 1]
    masks = read_targets(np.zeros((2, 3, 3), np.uint8), task="segmentation", num_classes=2)
    assert masks.values.dtype == torch.int64 and masks.outputs == 2


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.zeros((4, 2), np.uint8), {}, r"x must be numbers.* got uint8\. Of pixels take x / 255"),
        (np.array([[0, np.nan]] * 4), {}, r"sample 0 has NaN, infinity or a number too large for float32 at \[1\]"),
        (np.zeros((3, 2)), {}, "x has 3 samples, and there are 4 targets"),
        ({"a": np.zeros((4, 2)), "b": np.zeros((5, 2))}, {}, "x has 4, 5 samples, and there are 4 targets"),
        ({}, {}, "x must have at least one input"),
        (np.zeros((4, 2)), {"x_test": np.zeros((4, 3)), "y_test": [0, 1, 0, 1]}, r"x has \(2,\), those of test have"),
        (np.zeros((4, 2)), {"x_test": np.zeros((4, 3))}, "belong together; y_test is missing"),
        (np.zeros((4, 2)), {"predict": np.zeros((1, 3))}, r"must have the shape \(2,\); got \(3,\)"),
        (np.zeros((4, 2)), {"test_fraction": 1.0}, "test_fraction must be strictly between 0 and 1"),
        (np.zeros((4, 2)), {"task": "regresion"}, "task must be a Task, or one of .*; got 'regresion'"),
        (np.zeros((4, 2)), {"batch_size": 0}, "batch_size must be at least 1; got 0"),
        (np.zeros((4, 2)), {"val_fraction": 1}, "val_fraction must be in"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(x: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayData(x, [0, 1, 0, 1], **options)


def test_balanced_classes_and_their_weights() -> None:
    x, y = np.arange(500.0)[:, None], np.array([0] * 400 + [1] * 100)
    data = ArrayData(x, y, balanced=True, batch_size=20, seed=3)
    share = torch.cat([y for _, y in data.train_dataloader()]).double().mean()
    assert abs(share - 0.5) < 0.1  # of 400 draws: deviation 0.025
    assert data.class_counts == (320, 80) and data.class_weights() == (400 / 640, 400 / 160)
    search = SearchDataModule(data)
    assert search.class_counts == (320, 80) and search.class_weights() == data.class_weights()
    drawn = torch.cat([y for loader in search.train_dataloader().values() for _, y in loader]).double().mean()
    assert abs(drawn - 0.5) < 0.1
    plain = SearchDataModule(data, balanced=False).train_dataloader()["weights"]
    assert torch.cat([y for _, y in plain]).double().mean() < 0.3
    theirs = compute_class_weight("balanced", classes=np.arange(2), y=data.train_set.labels.numpy())
    np.testing.assert_allclose(data.class_weights(), theirs, rtol=1e-12)
    numbers = ArrayData(x, y + 0.5, balanced=True)
    with pytest.raises(ValueError, match="every class equally often; ArrayData has targets of 'regression'"):
        numbers.train_dataloader()
    assert numbers.class_counts is None
    with pytest.raises(ValueError, match="Class weights need class labels"):
        numbers.class_weights()
    with pytest.raises(ValueError, match=r"Every class must have a training sample .* \[3, 0\]"):
        class_weights([3, 0])


def test_the_loss_weighs_classes_if_asked() -> None:
    x, y = np.arange(500.0)[:, None], np.array([0] * 400 + [1] * 100)
    data = ArrayData(x, y, weigh_classes=True)
    assert data.task == Classification(class_weights=data.class_weights()) and data.class_weights() == (0.625, 2.5)
    assert SearchDataModule(data).task == data.task and "class weights" in data.fingerprint()
    outputs, targets = torch.randn(8, 2), torch.tensor([0, 1] * 4)
    expected = torch.nn.functional.cross_entropy(outputs, targets, weight=torch.tensor([0.625, 2.5]))
    torch.testing.assert_close(data.task.loss(outputs, targets), expected)
    with pytest.raises(ValueError, match="weigh_classes=True makes the task, and .* is given. Say class_weights there"):
        _ = ArrayData(x, y, task=Classification("f1"), weigh_classes=True).task
    assert Digits(weigh_classes=True).task.class_weights == Digits().class_weights()
    with pytest.raises(
        ValueError, match="Class weights need class labels, one for each sample; Shapes has targets of 'seg"
    ):
        _ = Shapes(train_size=2, test_size=2, weigh_classes=True).task


def test_a_regression_knows_mean_and_deviation_of_the_training_targets() -> None:
    x, y = RNG.normal(size=(100, 4)), RNG.normal(50, 10, (100, 2))
    data = ArrayData(x, y, val_fraction=0.2)
    kept = data.train_set.labels.double().numpy()
    np.testing.assert_allclose(data.task.mean, kept.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.task.std, kept.std(0), rtol=1e-6)
    assert ArrayData(x, y[:, 0], task="regression").task.std[0] == pytest.approx(y[:, 0].std(), rel=0.2)
    assert ArrayData(x, y, task=Regression("mae")).task == Regression("mae")
    with pytest.raises(ValueError, match="column 1 of the targets is 3 in all training samples"):
        _ = ArrayData(x, np.stack([y[:, 0], np.full(100, 3.0)], 1)).task


# Series


def series(n: int = 40, c: int = 2, t: int = 24) -> tuple[np.ndarray, np.ndarray]:
    return RNG.normal(3.0, 2.0, (n, c, t)), np.arange(n) % 2


def test_series_come_from_a_file_and_are_standardised_by_the_training_series(tmp_path: Path) -> None:
    (x, y), (x_test, _) = series(), series(10)
    np.savez(tmp_path / "s.npz", x=x, y=np.where(y, "run", "walk"), x_test=x_test, y_test=["walk"] * 5 + ["run"] * 5)
    data = TimeSeries.from_npz(tmp_path / "s.npz", val_fraction=0.25, batch_size=10)
    assert (data.input_shape, data.classes, data.num_classes) == ((2, 24), ("run", "walk"), 2)
    assert (len(data.train_set), len(data.test_set)) == (30, 10)
    train = torch.cat([x for x, _ in data.train_dataloader()]).double()
    torch.testing.assert_close(train.mean((0, 2)), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(train.std((0, 2), correction=0), torch.ones(2).double(), atol=1e-6, rtol=0)
    mean, std = (np.array(part)[:, None] for part in (data.mean, data.std))
    np.testing.assert_allclose(next(iter(data.test_dataloader()))[0], (x_test - mean) / std, atol=1e-5, rtol=0)
    assert not np.allclose(mean[:, 0], x.mean((0, 2)), atol=1e-3)  # those held back for validation do not count
    said = data_facts(data)
    assert json.loads(json.dumps(said)) == said and said["preprocessing"]["normalisation"]["mean"] == list(
        data.mean or ()
    )
    raw = TimeSeries(tmp_path / "s.npz", standardise=False)
    assert raw.mean is None and "normalisation" not in raw.preprocessing
    np.testing.assert_allclose(next(iter(raw.test_dataloader()))[0], x_test, atol=1e-5)


def test_series_of_one_channel_need_no_axis_for_it() -> None:
    x, y = series(c=1)
    data = TimeSeries(x[:, 0], y)
    assert data.input_shape == (1, 24) and next(iter(data.test_dataloader()))[0].shape == (8, 1, 24)


def test_series_are_changed_at_random_in_training_only_and_the_same_in_every_run() -> None:
    x, y = series()

    def batches(**options: Any) -> torch.Tensor:
        return torch.cat([x for x, _ in TimeSeries(x, y, batch_size=8, **options).train_dataloader()])

    plain, changed = batches(), batches(jitter=0.1, scaling=0.1, crop=0.8)
    assert not torch.allclose(plain, changed, atol=0.05) and torch.equal(
        changed, batches(jitter=0.1, scaling=0.1, crop=0.8)
    )
    noise = batches(jitter=0.1) - plain
    assert abs(noise.std() - 0.1) < 0.01 and abs(noise.mean()) < 0.01
    factors = batches(scaling=0.1) / plain
    torch.testing.assert_close(factors, factors[..., :1].expand_as(factors), rtol=1e-4, atol=1e-4)  # one a channel
    data = TimeSeries(x, y, jitter=0.5)
    assert torch.equal(next(iter(data.test_dataloader()))[0], next(iter(TimeSeries(x, y).test_dataloader()))[0])
    assert "jitter=0.5" in data.fingerprint()["augmentation"] and "augmentation" not in TimeSeries(x, y).fingerprint()


def test_a_slice_is_stretched_linearly() -> None:
    x = torch.randn(5, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    place = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    got = slices(x, place, 0.6).numpy()
    for series_, begin, stretched in zip(x.numpy(), place.tolist(), got, strict=True):
        at = begin * 0.4 * 19 + np.arange(20) * 0.6
        for channel, row in zip(series_, stretched, strict=True):
            np.testing.assert_allclose(row, np.interp(at, np.arange(20), channel), rtol=1e-12, atol=1e-12)
    assert torch.equal(slices(x, place, 1.0), x)
    with pytest.raises(ValueError, match=r"crop must be in \(0, 1\]; got jitter=0.0, scaling=0.0, crop=0"):
        SeriesAugmentation(crop=0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((4, 2, 3, 3)), r"Series must be \[N, C, T\].*x is \[4, 2, 3, 3\]"),
        (np.ones((4, 3)), "channel 0 is 1 in all training series"),
        ({"a": np.zeros((4, 3))}, "x is several inputs"),
    ],
)
def test_series_that_are_none_are_refused(x: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _ = TimeSeries(x, [0, 1, 0, 1], test_fraction=0.5).scale


def test_files_of_arrays_that_are_damaged_or_incomplete_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"from a file of numpy, \.npz; there is no file"):
        TimeSeries(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match=r"bad\.npz must be a file that numpy\.savez wrote"):
        TimeSeries(tmp_path / "bad.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}]), y=[0, 1])
    with pytest.raises(ValueError, match="without Python objects"):
        TimeSeries(tmp_path / "objects.npz")
    np.savez(tmp_path / "no_y.npz", x=np.zeros((4, 3)), z=[0, 1])
    with pytest.raises(ValueError, match=r"must hold arrays x and y.*it has no y: \['x', 'z'\]"):
        TimeSeries(tmp_path / "no_y.npz")
    with pytest.raises(ValueError, match="y, x_test and y_test are in the file"):
        TimeSeries(tmp_path / "no_y.npz", [0, 1])
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 3)), X_train=np.zeros((4, 3)), y=[0, 1, 0, 1])
    with pytest.raises(ValueError, match="must come once; .* has two of the name 'X_train'"):
        ArrayData(tmp_path / "x.npz")
    np.savez(tmp_path / "two.npz", **{"x/a": np.zeros((4, 3)), "y": [0, 1, 0, 1]})  # type: ignore[arg-type]  # numpy's stub
    assert ArrayData(tmp_path / "two.npz").input_shape == {"a": (3,)}
    with zipfile.ZipFile(tmp_path / "two.npz", "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr("x/a.npy", file.read("x/a.npy"))
    with pytest.raises(ValueError, match="an input, must come once; .* has two of the name 'x/a'"):
        ArrayData(tmp_path / "two.npz")


# Tables

CSV = """size,town,rooms,price
50,Bonn,2,1.5
80,Kiel,3,2.5
60,Bonn,2,1.7
70,Kiel,3,2.2
90,Ulm,4,3.1
40,Ulm,1,1.1
55,Bonn,2,1.6
75,Kiel,3,2.4
65,Ulm,3,2.1
85,Bonn,4,2.9
"""


def table(folder: Path, text: str = CSV) -> Path:
    path = folder / "houses.csv"
    path.write_text(text)
    return path


def test_a_table_is_standardised_and_its_texts_are_one_hot(tmp_path: Path) -> None:
    data = TableData.from_csv(table(tmp_path), target="price", batch_size=4)
    assert (data.task.name, data.num_classes, data.input_shape) == ("regression", 1, (5,))
    assert data.features == ("size", "town=Bonn", "town=Kiel", "town=Ulm", "rooms")
    assert (len(data.train_set), len(data.test_set)) == (8, 2)
    rows = [line.split(",") for line in CSV.splitlines()[1:]]
    price = {float(row[3]): row for row in rows}

    def expected(y: float) -> list[float]:
        size, town, rooms, _ = price[round(y, 3)]
        kept = [price[round(float(one), 3)] for one in data.train_set.labels]
        out = []
        for value, column in ((size, 0), (rooms, 2)):
            values = np.array([float(row[column]) for row in kept])
            out.append((float(value) - values.mean()) / values.std())
        return [out[0], *(float(town == t) for t in ("Bonn", "Kiel", "Ulm")), out[1]]

    for loader in (data.train_dataloader(), data.test_dataloader()):
        for x, y in loader:
            np.testing.assert_allclose(x, [expected(float(one)) for one in y], atol=1e-5, rtol=1e-5)
    said = data_facts(data)
    assert json.loads(json.dumps(said)) == said
    assert said["mean"] == said["preprocessing"]["normalisation"]["mean"] and len(said["mean"]) == 5


def test_the_manifest_is_enough_to_prepare_new_rows(tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    new.write_text("town,size,rooms\nKiel,77,3\nBonn,33,1\n")
    data = TableData.from_csv(table(tmp_path), target="price", predict=new)
    said = json.loads(json.dumps(data.preprocessing))
    x = encode_table(said, {"rooms": [3, 1], "size": [77, 33], "town": ["Kiel", "Bonn"], "other": [0, 0]})
    torch.testing.assert_close(next(iter(data.predict_dataloader())), torch.from_numpy(x))
    with pytest.raises(ValueError, match="Rows must have a column 'town'; they have size"):
        encode_table(said, {"size": [1]})
    with pytest.raises(ValueError, match="Column 'size' holds numbers; 'big' is none"):
        encode_table(said, {"size": ["big"], "town": ["Kiel"], "rooms": [1]})


def test_new_texts_are_zeros_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = {"town": ["a", "b"] * 10}
    data = TableData(x, np.linspace(0, 1, 20), x_test={"town": ["a", "z"]}, y_test=[0.5, 0.7])
    assert next(iter(data.test_dataloader()))[0].tolist() == [[1, 0], [0, 0]]
    assert "Column 'town' has texts that no training row has, which are all zeros: z" in caplog.text


def test_a_column_of_one_value_is_zero_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    data = TableData(np.array([[1.0, 5.0], [2.0, 5.0]] * 10), np.linspace(0, 1, 20), names=["a", "b"])
    assert next(iter(data.test_dataloader()))[0][:, 1].tolist() == [0.0] * 4
    assert "one value in all training rows say nothing: b" in caplog.text


def test_targets_of_tables_may_be_classes_several_numbers_or_labels(tmp_path: Path) -> None:
    path = table(tmp_path)
    towns = TableData.from_csv(path, target="town", test_fraction=0.3)
    assert (towns.classes, towns.task) == (("Bonn", "Kiel", "Ulm"), "classification")
    two = TableData.from_csv(path, target=["price", "size"])
    assert (two.num_classes, two.task.name, two.classes) == (2, "regression", ("price", "size"))
    assert two.input_shape == (4,)
    with pytest.raises(ValueError, match="target 'rooms' holds 4 different whole numbers: are they classes, or"):
        TableData.from_csv(path, target="rooms")
    assert TableData.from_csv(path, target="rooms", task="regression").num_classes == 1
    labels = np.array([[i % 2, i % 3 == 0, 1] for i in range(30)])
    assert TableData(RNG.normal(size=(30, 4)), labels).task == "multilabel"
    left = TableData.from_csv(path, target="price", leave_out=["town"])
    assert left.features == ("size", "rooms")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (CSV.replace("rooms", "size", 1), {}, "the column 'size' comes twice"),
        (CSV.replace("60,Bonn", ",Bonn"), {}, "Column 'size' has no value in row 3, the first row being 1"),
        (CSV.replace("70,Kiel", "70,NA").replace("90,Ulm", "90,?"), {}, "'town' has no value in row 4 and in 1 more"),
        (CSV.replace("2.2", ""), {"missing": "fill"}, "Every row must have a target; column 'price' has none in row 4"),
        (CSV, {"target": "cost"}, "has no column 'cost'; its columns are size, town, rooms, price"),
        (CSV, {"target": None}, "target must name the column"),
        (CSV, {"target": ["price", "town"]}, "Several targets must be numbers"),
        (CSV, {"y": [1]}, "y must be left out"),
        (CSV, {"y_test": [1]}, "y must be left out, and y_test"),
        (CSV, {"missing": "drop"}, "missing must be 'refuse' or 'fill'; got 'drop'"),
        ("a,b\n" + "1,2\n" * 30 + "x,2\n", {"target": "b"}, "line 32: column 'a' holds numbers, and 'x' is none"),
        ("a,b\n" + "".join(f"n{i},{i}.5\n" for i in range(200)), {"target": "b"}, "at most 100 different .* leave_out"),
        ("a,b\n", {"target": "b"}, "must have a header and rows; it has a header only"),
        (CSV.replace(",", ";"), {}, "has no column 'price'; its columns are size;town;rooms;price"),
    ],
)
def test_tables_with_faults_are_refused(tmp_path: Path, text: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableData(table(tmp_path, text), **{"target": "price", **options})


def test_missing_values_are_filled_if_asked(tmp_path: Path) -> None:
    text = CSV.replace("60,Bonn", "nan,").replace("90,Ulm", "90,NULL")
    data = TableData.from_csv(table(tmp_path, text), target="price", missing="fill", test_fraction=0.2, split_seed=2)
    assert "town=" in data.features
    known = {c["name"]: c for c in data.columns}
    row = int((data.train_set.labels - 1.7).abs().argmin())
    assert abs(float(data.train_set.labels[row]) - 1.7) < 1e-6
    x, _ = data.dataset(data.train_set, train=False)[row]
    assert abs(float(x[0])) < 0.2 and float(x[data.features.index("town=")]) == 1
    assert known["size"]["fill"] == pytest.approx(
        np.mean([float(v) for v in data.train_set.inputs[:, 0] if abs(float(v) - known["size"]["fill"]) > 1e-4])  # type: ignore[call-overload]  # of a tensor
    )


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.zeros((4, 2)), {"names": ["a", "a"]}, "Columns must have different names; 'a' comes twice"),
        (np.zeros((4, 2)), {"names": ["a"]}, "names must be one for each of 2 columns; got 1"),
        (np.zeros((4, 2, 2)), {}, r"must be rows of numbers, \[N, F\], or columns by name"),
        ({"a": [1, 2, 3, 4], "b": [1]}, {}, r"Columns must be \[N\], at least one and all of one length"),
        ({"a": [1, 2, 3]}, {}, "there are 3 rows and 4 targets"),
        ({"a": [1.0, np.nan, 3, 4]}, {}, "Column 'a' has no value in row 2"),
        ({"a": [1, 2, 3, 4]}, {"x_test": {"b": [1]}, "y_test": [0.5]}, "Rows must have a column 'a'; they have b"),
        ({"a": [1, 2, 3, 4]}, {"x_test": {"a": [1]}, "y_test": [0.5, 0.1]}, "there are 1 rows and 2 targets"),
        ({"a": [np.nan] * 4}, {"missing": "fill"}, "'a' has no value in any training row"),
    ],
)
def test_columns_that_do_not_fit_are_refused(x: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableData(x, [0.5, 0.1, 0.2, 0.9], **options)


def test_there_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="A table is read from a CSV file; there is no file"):
        TableData.from_csv(tmp_path / "none.csv", target="price")
    path = tmp_path / "semi.csv"
    path.write_text(CSV.replace(",", ";"))
    assert TableData(path, target="price", delimiter=";").input_shape == (5,)


def test_the_tuner_finds_a_batch_size_and_predictions_come_from_the_test_rows(tmp_path: Path) -> None:
    from pytorch_lightning.tuner import Tuner

    class Linear(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x)
            return y

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return (self(batch[0])[:, 0] - batch[1]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = TableData(RNG.normal(size=(100, 3)), RNG.normal(size=100), batch_size=2)
    options: Any = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=1, default_root_dir=tmp_path, **options)
    with pytest.warns(UserWarning):
        found = Tuner(trainer).scale_batch_size(Linear(), datamodule=data, max_trials=3, steps_per_trial=1)
    assert found == data.batch_size == 8
    predicted = trainer.predict(Linear(), datamodule=data)
    assert predicted is not None and sum(len(part) for part in predicted) == 20


def test_names_are_of_the_columns_of_arrays_only() -> None:
    with pytest.raises(ValueError, match=r"a file and a mapping have names of their own.*got \['b'\]"):
        TableData({"a": [1.0, 2.0, 3.0, 4.0]}, [0.5, 1.5, 2.5, 3.5], names=["b"])
