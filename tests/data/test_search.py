"""The two streams of a search."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from oneshot.data import Digits, FakeImages, SearchDataModule, TextData
from oneshot.methods.darts import DARTS
from oneshot.supernets import NASBench201Supernet

Streams = dict[str, tuple[torch.Tensor, torch.Tensor]]


class TwoStreams(pl.LightningModule):
    """Records the batches it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[Streams] = []
        self.evaluated = {"val": 0, "test": 0}

    def training_step(self, batch: Streams, batch_idx: int) -> torch.Tensor:
        self.batches.append({name: (x.clone(), y.clone()) for name, (x, y) in batch.items()})
        return (self.weight * sum(x.mean() for x, _ in batch.values())) ** 2

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.evaluated["val"] += len(batch[1])

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self.evaluated["test"] += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(accelerator="cpu", devices=1, **{"max_epochs": 1, **quiet, **options})


def countable(size: int) -> FakeImages:
    """Images that are their own index, with nothing random about them."""
    data = FakeImages(
        num_classes=2, input_shape=(1, 4, 4), train_size=size, mean=(0.0,), std=(1 / 255,), crop_padding=0, flip=False
    )
    pixels = data.train_images.pixels
    assert isinstance(pixels, torch.Tensor)
    pixels.copy_(torch.arange(size)[:, None, None, None].expand_as(pixels))
    return data


def indices(x: torch.Tensor) -> list[int]:
    return [round(value) for value in x[:, 0, 0, 0].tolist()]


def test_the_streams_share_the_training_images_and_leave_the_test_images_alone() -> None:
    search = SearchDataModule(Digits(), arch_fraction=0.3)
    weights, arch, test = (
        set(part.rows.tolist()) for part in (search.weights_images, search.arch_images, search.data.test_images)
    )
    assert len(weights) + len(arch) + len(test) == len(weights | arch | test) == 1797
    assert weights | arch == set(search.data.train_images.rows.tolist())
    total = torch.bincount(search.data.train_images.labels)
    assert ((torch.bincount(search.arch_images.labels) - 0.3 * total).abs() <= 1).all()


def test_the_split_follows_its_seed() -> None:
    data = Digits()
    rows = SearchDataModule(data, seed=1).arch_images.rows
    assert torch.equal(rows, SearchDataModule(data, seed=1).arch_images.rows)
    assert not torch.equal(rows, SearchDataModule(data, seed=2).arch_images.rows)


def test_images_held_back_for_validation_are_in_neither_stream() -> None:
    data = Digits(val_fraction=0.2)
    search = SearchDataModule(data)
    assert data.val_images is not None
    used = set(search.weights_images.rows.tolist()) | set(search.arch_images.rows.tolist())
    assert not used & set(data.val_images.rows.tolist())


def test_it_describes_the_data_set() -> None:
    data = Digits()
    search = SearchDataModule(data)
    assert (search.num_classes, search.classes, search.input_shape) == (10, data.classes, (1, 8, 8))
    assert (search.mean, search.std, search.batch_size) == (data.mean, data.std, 64)


# Python 3.12 warns when a process with threads forks, as torch's workers do; how they start is not what is tested.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_lightning_batch_is_a_dict_of_both_streams(num_workers: int) -> None:
    model = TwoStreams()
    search = SearchDataModule(Digits(num_workers=num_workers), batch_size=16)
    trainer(fast_dev_run=2).fit(model, datamodule=search)
    assert len(model.batches) == 2
    for batch in model.batches:
        assert set(batch) == {"weights", "arch"}
        for x, y in batch.values():
            assert (x.shape, x.dtype, y.shape, y.dtype) == ((16, 1, 8, 8), torch.float32, (16,), torch.int64)


def test_validation_is_the_arch_split_and_test_the_held_out_images() -> None:
    model, search = TwoStreams(), SearchDataModule(Digits(), arch_fraction=0.25)
    runner = trainer(num_sanity_val_steps=0, limit_train_batches=1)
    runner.fit(model, datamodule=search)
    runner.test(model, datamodule=search, verbose=False)
    assert model.evaluated == {"val": len(search.arch_images), "test": 359}


def test_validation_images_are_not_augmented() -> None:
    data = FakeImages(cutout=16, mean=(0.0,) * 3, std=(1.0,) * 3)
    search = SearchDataModule(data, batch_size=200)
    x, y = next(iter(search.val_dataloader()))
    assert torch.equal((x * 255).round().byte(), data.train_images.pixels[search.arch_images.rows])
    assert torch.equal(y, search.arch_images.labels)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_shorter_stream_is_shuffled_anew_each_time_it_is_used_up(num_workers: int) -> None:
    data = countable(60)
    data.num_workers = num_workers
    model, search = TwoStreams(), SearchDataModule(data, arch_fraction=0.2, batch_size=4)
    trainer(max_epochs=2, limit_val_batches=0).fit(model, datamodule=search)
    assert len(model.batches) == 24  # 48 images for the weights, 12 for the architecture
    arch = [indices(batch["arch"][0]) for batch in model.batches]
    weights = [indices(batch["weights"][0]) for batch in model.batches]
    passes = [[*chain(*arch[i : i + 3])] for i in range(0, 24, 3)]
    assert all(sorted(one) == search.arch_images.rows.tolist() for one in passes)
    assert len({tuple(one) for one in passes}) == 8
    epochs = [[*chain(*weights[:12])], [*chain(*weights[12:])]]
    assert all(sorted(one) == search.weights_images.rows.tolist() for one in epochs)
    assert epochs[0] != epochs[1]


def test_the_streams_have_orders_and_augmentations_of_their_own() -> None:
    data = countable(64)
    search = SearchDataModule(data, arch_fraction=0.5, batch_size=8)
    orders, draws = [], []
    for name, loader in search.train_dataloader().items():
        pairs = list(loader.sampler)  # places in the stream, and the numbers that seed augmentations
        assert sorted(place for place, _ in pairs) == list(range(32)), name
        orders.append([place for place, _ in pairs])
        draws.append({draw for _, draw in pairs})
    assert orders[0] != orders[1] and sum(a == b for a, b in zip(*orders)) < 16
    assert not draws[0] & draws[1]


def test_a_longer_arch_stream_sets_the_length_of_the_epoch() -> None:
    model, search = TwoStreams(), SearchDataModule(countable(60), arch_fraction=0.8, batch_size=5)
    trainer(limit_val_batches=0).fit(model, datamodule=search)
    assert len(model.batches) == 9  # of 48 images; three do not fill a batch
    assert all(len(y) == 5 for batch in model.batches for _, y in batch.values())


def test_two_runs_with_the_same_seed_get_the_same_batches() -> None:
    def run(seed: int) -> list[torch.Tensor]:
        model, search = TwoStreams(), SearchDataModule(Digits(seed=seed, cutout=2), batch_size=64)
        trainer(max_epochs=2, limit_train_batches=2, limit_val_batches=0).fit(model, datamodule=search)
        return [x for batch in model.batches for x, _ in batch.values()]

    torch.manual_seed(1)
    first = run(0)
    torch.manual_seed(2)
    assert len(first) == 8
    assert all(map(torch.equal, first, run(0)))
    assert not any(map(torch.equal, first, run(1)))


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5])
def test_a_fraction_that_leaves_a_stream_empty_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"arch_fraction must be strictly between 0 and 1; got {fraction}"):
        SearchDataModule(FakeImages(), arch_fraction=fraction)


def test_a_batch_size_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        SearchDataModule(FakeImages(), batch_size=0)


@pytest.mark.parametrize(("fraction", "name", "count"), [(0.25, "arch", 10), (0.75, "weights", 10)])
def test_a_stream_smaller_than_a_batch_is_refused(fraction: float, name: str, count: int) -> None:
    search = SearchDataModule(FakeImages(train_size=40), arch_fraction=fraction, batch_size=12)
    with pytest.raises(ValueError, match=f"{name} stream needs at least one full batch of 12 images; it has {count}"):
        search.train_dataloader()


# Other people's data modules.


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """Images that are their own index plus random noise below 1/2; labels are listed."""

    def __init__(self, size: int = 40) -> None:
        self.targets = [i % 2 for i in range(size)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((1, 4, 4), float(index)) + 0.4 * torch.rand(()), self.targets[index]


class Own(pl.LightningDataModule):
    num_classes = 2

    def __init__(self, dataset: Any = None, **options: Any) -> None:
        super().__init__()
        self.dataset, self.options = dataset or Pictures(), {"batch_size": 4, **options}

    def train_dataloader(self) -> Any:
        return DataLoader(self.dataset, **self.options)

    def test_dataloader(self) -> Any:
        return DataLoader(self.dataset, 8)


def test_any_data_module_is_split_into_two_streams() -> None:
    search, model = SearchDataModule(Own()), TwoStreams()
    assert (search.num_classes, search.batch_size, search.input_shape, search.preprocessing) == (2, 4, None, None)
    runner = trainer(max_epochs=2, num_sanity_val_steps=0)
    runner.fit(model, datamodule=search)
    runner.test(model, datamodule=search, verbose=False)
    assert model.evaluated == {"val": 40, "test": 40}  # twice 20
    assert len(model.batches) == 10
    epochs = {
        name: [[i for b in model.batches[e : e + 5] for i in indices(b[name][0])] for e in (0, 5)]
        for name in ("weights", "arch")
    }
    for first, second in epochs.values():
        assert sorted(first) == sorted(second) and first != second and len(set(first)) == 20
        assert sum(i % 2 for i in first) == 10  # stratified
    assert not set(epochs["weights"][0]) & set(epochs["arch"][0])


def test_its_batches_and_what_it_draws_follow_the_seed() -> None:
    def batches(seed: int) -> list[torch.Tensor]:
        torch.rand(seed + 1)
        loaders = SearchDataModule(Own(), seed=seed).train_dataloader()
        return [x for loader in loaders.values() for x, _ in loader]

    assert all(map(torch.equal, batches(0), batches(0)))
    assert not all(map(torch.equal, batches(0), batches(1)))
    loaders = SearchDataModule(Own()).train_dataloader()
    state = torch.get_rng_state()
    _ = [batch for loader in loaders.values() for batch in loader]
    assert torch.equal(torch.get_rng_state(), state)  # nobody's random numbers are touched


def test_two_streams_of_another_data_module_can_be_resumed_within_an_epoch() -> None:
    def loader() -> Any:
        return SearchDataModule(Own()).train_dataloader()["weights"]

    whole = [x for x, _ in loader()]
    begun = loader()
    stopped = iter(begun)
    next(stopped), next(stopped)
    again = loader()
    again.load_state_dict(begun.state_dict())
    assert all(map(torch.equal, whole[2:], [x for x, _ in again]))


def test_a_search_runs_on_the_data_module_of_a_plain_data_set() -> None:
    torch.manual_seed(0)
    pictures = TensorDataset(torch.randn(16, 1, 8, 8), torch.arange(16) % 2)
    data = pl.LightningDataModule.from_datasets(pictures, test_dataset=pictures, batch_size=4)
    supernet = NASBench201Supernet(channels=4, cells_per_stage=1, in_channels=1, image_size=8, num_classes=2)
    search = DARTS(supernet)
    trainer(limit_train_batches=2).fit(search, datamodule=SearchDataModule(data, batch_size=4))
    assert search.derive().space == "nasbench201"


class Hooked(Own):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.zeros(1), 0


def pairs(x: Any, y: Any) -> list[tuple[Any, Any]]:
    return [(x, y)] * 8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (5, "takes a LightningDataModule, a data set with __len__ and __getitem__, or a pair .*; got a int"),
        ("houses.csv", "takes a LightningDataModule, .*; got a str as the training set"),
        (Endless(), "takes a LightningDataModule, .*; got an IterableDataset as the training set"),
        (SearchDataModule(FakeImages()), "splits images with labels; got SearchDataModule"),
        (Own(Endless()), "gives a DataLoader over an IterableDataset"),
        (Own(Pictures(), batch_size=None), "has a batch sampler of its own or none"),
        (Hooked(), "Lightning calls on_after_batch_transfer of the data module it is given"),
        (Own(pairs(torch.zeros(1, 4, 4, dtype=torch.uint8), 1)), "the first of Own is a tensor of torch.uint8"),
        (Own(pairs("picture", 1)), "the first of Own is a str. Add a transform, such as"),
        (Own(pairs(torch.zeros(1, 4, 4), 1.5)), r"whole numbers; the first of Own is 1\.5"),
        (Own(pairs(torch.zeros(1, 4, 4), torch.tensor(2.0))), r"whole numbers; the first of Own is tensor\(2\.\)"),
        (Own([torch.zeros(1, 4, 4)] * 8), "its label; the first of Own is a Tensor"),
        (Own(batch_size=30), "The weights stream needs at least one full batch of 30 samples; it has 20"),
    ],
)
def test_data_that_cannot_be_split_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchDataModule(data).train_dataloader()


def test_words_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a b c\n" * 50)
    with pytest.raises(ValueError, match="got TextData. TextSearchData is that for words"):
        SearchDataModule(TextData(tmp_path / "text"))


# Data sets, loaders, and pairs of them; inputs and targets of any kind.


class Dicts(Dataset[tuple[dict[str, torch.Tensor], torch.Tensor]]):
    """Two inputs by name, and a vector of labels."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        inputs = {"image": torch.full((1, 4, 6), float(index)), "age": torch.tensor([float(index)])}
        return inputs, torch.tensor([index % 2, 1]).float()


def streams_of(search: SearchDataModule) -> dict[str, list[Any]]:
    return {name: list(loader) for name, loader in search.train_dataloader().items()}


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((3,), torch.float32), ((2, 9), torch.float32), ((1, 3, 4, 5), torch.float32), ((7,), torch.int64)],
    ids=["table", "series", "volume", "tokens"],
)
@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (torch.arange(40) % 3, (3, "classification")),
        (torch.linspace(0, 1, 40), (1, "regression")),
        (torch.rand(40, 5).round(), (5, None)),
    ],
    ids=["classes", "numbers", "labels"],
)
def test_a_data_set_of_any_shape_and_target_is_split(
    shape: tuple[int, ...], dtype: torch.dtype, targets: torch.Tensor, said: tuple[int, str | None]
) -> None:
    x = torch.arange(40).view(40, *[1] * len(shape)).expand(40, *shape).to(dtype)
    search = SearchDataModule(TensorDataset(x, targets), batch_size=4)
    assert (search.input_shape, (search.num_classes, search.task), search.batch_size) == (shape, said, 4)
    seen = {}
    for name, batches in streams_of(search).items():
        assert len(batches) == 5
        seen[name] = [int(row.flatten()[0]) for x, _ in batches for row in x]
        for inputs, y in batches:
            assert inputs.shape == (4, *shape) and inputs.dtype == dtype
            assert torch.equal(y, targets[[int(row.flatten()[0]) for row in inputs]])
    assert sorted(seen["weights"] + seen["arch"]) == list(range(40))


def test_several_inputs_arrive_by_name() -> None:
    search = SearchDataModule(Dicts(), batch_size=4, num_classes=2, task="multilabel")
    assert search.input_shape == {"image": (1, 4, 6), "age": (1,)} and search.task == "multilabel"
    for x, y in streams_of(search)["arch"]:
        assert (x["image"].shape, x["age"].shape, y.shape) == ((4, 1, 4, 6), (4, 1), (4, 2))
        assert torch.equal(x["image"][:, 0, 0, 0], x["age"][:, 0])
    one, _ = search.train_dataloader()["arch"].dataset[0]
    assert one["image"].shape == (1, 4, 6)


def test_numbers_that_are_predicted_are_split_by_tenths() -> None:
    x, y = torch.zeros(200, 1), torch.arange(200.0)[torch.randperm(200, generator=torch.Generator().manual_seed(3))]
    search = SearchDataModule(TensorDataset(x, y), arch_fraction=0.3)
    arch = torch.cat([y for _, y in search.val_dataloader()])
    assert (torch.histc(arch, 10, 0, 200) == 6).all()  # 3 of 10 in every tenth
    # a whole number is a class unless the task says otherwise
    counts = SearchDataModule(TensorDataset(x, torch.arange(200)), task="regression").arch_images
    assert len(counts) == 100
    with pytest.raises(ValueError, match="Each class needs at least 2"):
        _ = SearchDataModule(TensorDataset(x, torch.arange(200))).arch_images


def test_of_a_pair_the_first_trains_the_weights_and_the_second_the_architecture() -> None:
    train, val = (TensorDataset(torch.arange(n * 1.0, n + 12)[:, None], torch.arange(12) % 2) for n in (0, 100))
    pair = DataLoader(train, 4, shuffle=True), DataLoader(val, 3)
    search = SearchDataModule(pair, test=val)
    batches = streams_of(search)
    assert sorted(float(x) for x in torch.cat([x for x, _ in batches["weights"]])) == list(range(12))
    assert sorted(float(x) for x in torch.cat([x for x, _ in batches["arch"]])) == list(range(100, 112))
    assert [len(x) for x, _ in batches["arch"]] == [3] * 4 and search.batch_size == 4
    assert torch.equal(torch.cat([x for x, _ in search.val_dataloader()]), val.tensors[0])
    assert sum(len(x) for x, _ in search.test_dataloader()) == 12
    search.batch_size = 6
    assert {len(x) for stream in streams_of(search).values() for x, _ in stream} == {6}
    with pytest.raises(ValueError, match=r"Of a pair nothing is split; got arch_fraction=0\.3"):
        SearchDataModule((train, val), arch_fraction=0.3)
    with pytest.raises(ValueError, match=r"A test needs test samples; there are none.*test=\.\.\."):
        SearchDataModule((train, val)).test_dataloader()


def padded(samples: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(words) for words, _ in samples)
    x = torch.tensor([words + [0] * (longest - len(words)) for words, _ in samples])
    return x, torch.tensor([label for _, label in samples])


def test_the_collate_function_of_a_loader_is_kept() -> None:
    texts: Any = [([1] * (1 + i % 5), i % 2) for i in range(20)]
    search = SearchDataModule(DataLoader(texts, 5, collate_fn=padded))
    assert search.batch_size == 5
    for x, y in streams_of(search)["weights"]:
        assert x.dtype == torch.int64 and x.shape[0] == 5 and y.shape == (5,)


def test_samplers_of_weights_and_of_a_subset_are_kept() -> None:
    data = TensorDataset(torch.arange(400.0)[:, None], torch.arange(400) % 2)
    subset = SearchDataModule(DataLoader(data, 4, sampler=SubsetRandomSampler(range(100, 140))))
    drawn = torch.cat([x for stream in streams_of(subset).values() for x, _ in stream])
    assert sorted(drawn[:, 0].tolist()) == list(range(100, 140))
    weights = torch.where(torch.arange(400) < 200, 9.0, 1.0)
    weighted = SearchDataModule(DataLoader(data, 10, sampler=WeightedRandomSampler(weights.tolist(), 400)))
    for stream in streams_of(weighted).values():
        share = (torch.cat([x for x, _ in stream]) < 200).double().mean()
        assert abs(share - 0.9) < 0.08  # of 200 draws


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda d: RandomSampler(d, replacement=True), "has a RandomSampler with replacement or num_samples"),
        (lambda d: WeightedRandomSampler([1.0] * 40, 10, replacement=False), "has a WeightedRandomSampler"),
        (lambda d: list(range(40)), "has a list. Use one of these, or shuffle=True"),
    ],
)
def test_other_samplers_are_refused(sampler: Any, message: str) -> None:
    data = Pictures()
    with pytest.raises(ValueError, match=message):
        SearchDataModule(DataLoader(data, 4, sampler=sampler(data))).train_dataloader()


def test_inputs_of_several_shapes_are_refused_with_both_shapes_and_samples() -> None:
    samples: Any = [(torch.zeros(2, 5 if i == 7 else 4), i % 2) for i in range(12)]
    search = SearchDataModule(samples, batch_size=3)
    with pytest.raises(ValueError, match=r"The inputs of one batch must have one shape; sample \d+ has \[2, \d\], "):
        streams_of(search)
    with pytest.raises(ValueError, match=r"sample 0 has \[2, 4\], sample 7 has \[2, 5\]"):
        next(iter(SearchDataModule((samples, samples), batch_size=12).val_dataloader()))
    named: Any = [({"a": torch.zeros(2), "b": torch.zeros(3 if i else 1)}, 0) for i in range(4)]
    with pytest.raises(ValueError, match=r"sample 0 has a \[2\], b \[1\], sample 1 has a \[2\], b \[3\]"):
        next(iter(SearchDataModule((named, named), batch_size=4).val_dataloader()))
    targets: Any = [(torch.zeros(2), torch.zeros(1 + i)) for i in range(4)]
    with pytest.raises(ValueError, match=r"The targets of one batch .* sample 0 has \[1\], sample 1 has \[2\]"):
        next(iter(SearchDataModule((targets, targets), batch_size=4).val_dataloader()))


def test_every_class_is_drawn_equally_often_if_balanced() -> None:
    labels = torch.tensor([0] * 180 + [1] * 20)
    data = TensorDataset(torch.arange(200.0)[:, None], labels)

    def draws(**options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        batches = streams_of(SearchDataModule(data, batch_size=10, **options))["weights"]
        return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])

    assert draws()[1].sum() == 10
    x, y = draws(balanced=True)
    assert 35 <= y.sum() <= 65 and len(y) == 100  # binomial: 50, deviation 5
    assert torch.equal(x, draws(balanced=True)[0])
    whole = SearchDataModule(data, batch_size=10, balanced=True).train_dataloader()["weights"]
    batches = [x for x, _ in whole]
    begun = SearchDataModule(data, batch_size=10, balanced=True).train_dataloader()["weights"]
    stopped = iter(begun)
    next(stopped), next(stopped)
    again = SearchDataModule(data, batch_size=10, balanced=True).train_dataloader()["weights"]
    again.load_state_dict(begun.state_dict())
    assert all(map(torch.equal, batches[2:], [x for x, _ in again]))
    numbers = TensorDataset(torch.zeros(40, 1), torch.rand(40))
    with pytest.raises(ValueError, match="balanced=True draws every class equally often, so the data set must list"):
        SearchDataModule(numbers, balanced=True).train_dataloader()
    weighted = DataLoader(data, 10, sampler=WeightedRandomSampler([1.0] * 200, 200))
    with pytest.raises(ValueError, match="balanced=True and a WeightedRandomSampler contradict each other"):
        SearchDataModule(weighted, balanced=True).train_dataloader()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([(torch.zeros(2), 1, 2)] * 8, "the first of list is a tuple of 3"),
        ([({}, 1)] * 8, "Several inputs have names, which are texts"),
        ([({"a": torch.zeros(1), "b": "x"}, 1)] * 8, "input 'b' of the first of list is a str"),
        ([(torch.zeros(2), "cat")] * 8, "the first of list is 'cat'"),
        ([(torch.zeros(2), None)] * 8, "numbers, or tensors of numbers; the first of list is None"),
        ((), "must be a pair of data sets or loaders, for weights and architecture; got 0"),
        (([], [], []), "must be a pair of data sets or loaders, for weights and architecture; got 3"),
        ([], "must have samples; that of the training set, a list, has none"),
    ],
)
def test_samples_that_are_no_pairs_of_tensors_are_refused(samples: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchDataModule(samples, batch_size=2).train_dataloader()


def test_a_task_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="task must be a Task, or one of .*; got 'regresion'"):
        SearchDataModule(Dicts(), task="regresion")


def test_what_a_data_module_says_itself_is_not_said_twice() -> None:
    with pytest.raises(ValueError, match="num_classes, task: a data module says so itself; FakeImages is one"):
        SearchDataModule(FakeImages(), num_classes=3, task="classification")
