"""The sandwich rule: who is trained, by what loss, and in which phase."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F

from oneshot.cost import count_candidates
from oneshot.cost.extremes import extremes
from oneshot.data import Digits, FakeImages, SearchDataModule
from oneshot.engine.sandwich import Phase, SandwichSearch
from oneshot.evaluation.recalibration import recalibrate_on
from oneshot.functional import alpha_divergence
from oneshot.methods.alphanet import AlphaNet
from oneshot.methods.bignas import BigNAS
from oneshot.methods.ofa import OnceForAll, shrinking
from oneshot.supernets import (
    Choice,
    FBNetSupernet,
    MobileNetV3Supernet,
    NASBench201Supernet,
    NASBenchMacroSupernet,
    SearchSpace,
    SegmentationSupernet,
    SubnetConfig,
    ViTSupernet,
)
from oneshot.supernets.elastic import resized
from oneshot.testing import SharingContract, fit, random_streams
from oneshot.testing.methods import Method, PlantedSupernet
from oneshot.training.head import fit_head
from oneshot.training.samples import plain_samples


class TestBigNAS(SharingContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: BigNAS(supernet, weight_lr=0.1, candidates=20, finalists=4)


class TestAlphaNet(SharingContract):
    @pytest.fixture
    def method(self) -> Method:
        return lambda supernet: AlphaNet(supernet, weight_lr=0.1, candidates=20, finalists=4)


def macro() -> NASBenchMacroSupernet:
    torch.manual_seed(0)
    return NASBenchMacroSupernet(channels=4, num_classes=3, image_size=8)


# Who is trained.


@pytest.mark.parametrize(
    "supernet",
    [macro, lambda: FBNetSupernet(num_classes=3, image_size=32), lambda: NASBench201Supernet(channels=4, image_size=8)],
    ids=["macro", "fbnet", "nasbench201"],
)
def test_the_extremes_are_the_cheapest_and_the_dearest_of_all(supernet: Any) -> None:
    model = count_candidates(supernet(), "macs")
    least, most = extremes(model)
    costs = model.costs(model.space.sample_matrix(20_000, 0))
    cheapest, dearest = model.costs(np.stack([least, most]))
    assert cheapest <= costs.min() < costs.max() <= dearest


def test_a_step_trains_the_largest_first_the_smallest_last_and_others_between() -> None:
    search = SandwichSearch(macro(), random_paths=3)
    torch.manual_seed(0)
    paths = search.paths(0)
    assert paths[0]["layers"] == ("k5_e6",) * 8 and paths[-1]["layers"] == ("identity",) * 8
    assert len(paths) == 5 and len({*paths[1:-1]}) == 3
    assert search.paths(0)[1:-1] != paths[1:-1]  # drawn anew
    torch.manual_seed(0)
    assert search.paths(0) == paths  # from torch's generator
    assert len(SandwichSearch(macro(), random_paths=0, smallest=False).paths(0)) == 1


class Recorded(SandwichSearch):
    """Remembers the losses of a step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[Tensor, Tensor, Tensor | None, Tensor]] = []

    def path_loss(self, logits: Tensor, labels: Tensor, first: Tensor | None) -> Tensor:
        loss = super().path_loss(logits, labels, first)
        self.seen.append((logits.detach(), labels, first, loss.detach()))
        return loss


def record(**kwargs: Any) -> list[tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    search = Recorded(PlantedSupernet(channels=4), candidates=1, finalists=1, **kwargs)
    fit(search, random_streams(search.supernet), epochs=1, limit_train_batches=1)
    return search.seen


@pytest.mark.parametrize("distillation", ["kl", "alpha", "none"])
def test_the_largest_learns_from_the_labels_and_the_others_from_it(distillation: str) -> None:
    seen = record(distillation=distillation, random_paths=1)
    (teacher, labels, nobody, loss), *others = seen
    assert nobody is None and len(others) == 2
    torch.testing.assert_close(loss, F.cross_entropy(teacher, labels))
    for logits, labels, first, loss in others:
        assert first is not None and torch.equal(first, teacher)
        expected = {
            "kl": F.kl_div(logits.log_softmax(1), teacher.softmax(1), reduction="batchmean"),
            "alpha": alpha_divergence(teacher, logits, alphas=(-1, 1), clip=5),
            "none": F.cross_entropy(logits, labels),
        }
        torch.testing.assert_close(loss, expected[distillation])
        if distillation != "none":
            assert not torch.allclose(loss, expected["none"], rtol=1e-3)


class ClippedTooOften(SandwichSearch):
    """Clips what has been added up so far after every path, as NAT's predecessors do: the last path counts most."""

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        super().manual_backward(loss, *args, **kwargs)
        torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.grad_clip)


def step(kind: type[SandwichSearch], clip: float) -> Tensor:
    """How one step of plain gradient descent moves the weights."""
    torch.manual_seed(0)
    plain = {"weight_lr": 1.0, "weight_lr_min": 1.0, "weight_momentum": 0.0, "weight_decay": 0.0}
    search = kind(PlantedSupernet(channels=4), grad_clip=clip, candidates=1, finalists=1, **plain)
    before = [p.detach().clone() for p in search.supernet.parameters()]
    fit(search, random_streams(search.supernet), epochs=1, limit_train_batches=1)
    return torch.cat([(p - b).flatten() for p, b in zip(search.supernet.parameters(), before, strict=True)]).detach()


def test_the_gradients_of_all_paths_are_added_up_and_clipped_once() -> None:
    whole, clipped, wrong = step(SandwichSearch, 1e9), step(SandwichSearch, 0.01), step(ClippedTooOften, 0.01)
    assert whole.norm() > 0.1
    expected = whole * (0.01 / whole.norm())
    torch.testing.assert_close(clipped, expected, rtol=1e-3, atol=1e-7)
    assert wrong.norm().item() == pytest.approx(0.01, rel=1e-3)  # the norm alone would not tell
    assert not torch.allclose(wrong, expected, rtol=1e-2, atol=1e-5)


# Phases.

SPACE = SearchSpace(
    "toy", (Choice("size", (16, 32)), Choice("stage_0", ("k3_e3", "k5_e3", "k3_e6", "k5_e6"), rows=2, droppable=True))
)


def test_progressive_shrinking_frees_kernels_then_depths_then_expansions() -> None:
    largest, kernels, depths, expansions = shrinking(SPACE, (1, 2, 3, 4))
    assert [phase.epochs for phase in (largest, kernels, depths, expansions)] == [1, 2, 3, 4]
    assert largest.picks == {"stage_0": ["k5_e6"]}
    assert kernels.picks == {"stage_0": ["k3_e6", "k5_e6"]}
    assert depths.picks == {"stage_0": ["k3_e6", "k5_e6", "none"]}
    assert expansions.picks == {"stage_0": ["k3_e3", "k5_e3", "k3_e6", "k5_e6", "none"]}
    assert len(shrinking(SPACE, (0, 1, 0, 1))) == 2
    two = SearchSpace("two", (*SPACE.choices, Choice("stage_1", ("k3_e4", "k7_e4"), rows=1)))
    assert shrinking(two, (1, 0, 0, 0))[0].picks == {"stage_0": ["k5_e6"], "stage_1": ["k7_e4"]}
    masks = kernels.allowed(SPACE)
    assert [mask.tolist() for mask in masks] == [[True, True], *[[False, False, True, True, False]] * 2]


def test_paths_keep_to_their_phase() -> None:
    phases = [Phase(1, {"lay*": ["k5_e6"]}), Phase(2, {"layers": ["k3_e3", "k5_e6"]})]

    class AtEpoch(SandwichSearch):
        epoch = 0

        @property
        def current_epoch(self) -> int:
            return self.epoch

    search = AtEpoch(macro(), phases=phases)
    expected = [{"k5_e6"}, {"k3_e3", "k5_e6"}, {"k3_e3", "k5_e6"}, {"identity", "k3_e3", "k5_e6"}]
    for epoch, picks in enumerate(expected):
        search.epoch = epoch
        paths = [path for _ in range(20) for path in search.paths(0)]
        assert {pick for path in paths for pick in path["layers"]} == picks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"random_paths": -1}, "at least 0; got -1", id="paths"),
        pytest.param({"distillation": "l2"}, "'alpha', 'kl' or 'none'; got 'l2'", id="distillation"),
        pytest.param({"phases": [Phase(0)]}, r"at least one epoch; got \[0\]", id="no-epochs"),
        pytest.param(
            {"phases": [Phase(1, {"depth": [2]})]}, r"must restrict choices of space .*; got 'depth'", id="choice"
        ),
        pytest.param({"phases": [Phase(1, {"layers": ["k9"]})]}, "at least one of .*; got 'k9'", id="pick"),
        pytest.param({"phases": [Phase(1, {"layers": []})]}, "at least one of .*; got 'none'", id="no-pick"),
        pytest.param(
            {"phases": [Phase(1, {"lay*": ["k5_e6"], "layers": ["k3_e3"]})]},
            r"once; 'lay\*' and 'layers' both stand for 'layers'\. Leave one out",
            id="twice",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SandwichSearch(macro(), **options)


def test_an_elastic_supernet_has_no_paths_to_drop() -> None:
    with pytest.raises(ValueError, match="MobileNetV3Supernet has no droppable paths; drop_path must be 0, got 0.2"):
        BigNAS(mobile(), drop_path=0.2)


def test_phases_that_outlast_the_fit_are_refused() -> None:
    search = SandwichSearch(PlantedSupernet(channels=2), phases=[Phase(3)], candidates=1, finalists=1)
    with pytest.raises(ValueError, match="they last 3 epochs, and max_epochs is 2"):
        fit(search, random_streams(search.supernet), epochs=2)


class Taught(OnceForAll):
    """Remembers the largest network of every epoch's beginning, what is trained, and what it learns from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.largest: list[Tensor] = []
        self.trained: dict[int, list[SubnetConfig]] = {}
        self.first: dict[int, list[Tensor | None]] = {}

    def on_train_epoch_start(self) -> None:
        self.largest.append(weights_of(self._copy_of_the_largest()))
        super().on_train_epoch_start()

    def paths(self, step: int) -> list[SubnetConfig]:
        paths = super().paths(step)
        self.trained.setdefault(self.current_epoch, []).extend(paths)
        return paths

    def path_loss(self, logits: Tensor, labels: Tensor, first: Tensor | None) -> Tensor:
        self.first.setdefault(self.current_epoch, []).append(first)
        return super().path_loss(logits, labels, first)


def weights_of(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def mobile() -> Any:
    torch.manual_seed(0)
    sizes: Any = {"widths": (0.1,), "depths": (1, 2), "kernels": (3, 5), "expansions": (2, 3)}
    return MobileNetV3Supernet(num_classes=3, resolutions=(8, 16), stem="cifar", dropout=0.5, **sizes)


def taught(fixed_teacher: bool = True, **options: Any) -> Taught:
    settings = {"candidates": 1, "finalists": 1, "weight_lr": 0.1, "random_paths": 2, **options}
    return Taught(mobile(), shrink_epochs=(1, 0, 2, 0), fixed_teacher=fixed_teacher, **settings)


def test_a_fixed_teacher_is_the_largest_network_from_before_the_shrinking() -> None:
    search = taught()
    fit(search, random_streams(search.supernet), epochs=3)
    assert search.teacher is not None
    before, trained, later = search.largest
    assert torch.equal(weights_of(search.teacher), trained)
    assert not torch.equal(trained, before) and not torch.equal(later, trained)
    largest = search.supernet.space.largest
    assert search.trained[0].count(largest) >= 3 and len(search.trained[0]) == 9  # in each of 3 steps, and 2 others
    assert search.trained[1].count(largest) < 3 and len(search.trained[1]) == 6
    assert sum(first is None for first in search.first[0]) == 3  # the largest learns from the labels
    assert all(first is not None for first in search.first[1] + search.first[2])


def test_a_fixed_teacher_sees_the_largest_resolution_and_does_not_change() -> None:
    search = taught()
    assert search.teacher is not None
    search._largest_epochs = 0
    state = {name: tensor.clone() for name, tensor in search.teacher.state_dict().items()}
    x = torch.randn(8, 3, 12, 12)
    logits = search.teacher_logits(x)
    expected = copy.deepcopy(search.teacher).train()
    expected.dropout.p = 0.0  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(logits, expected(resized(x, 16)))
        assert not torch.allclose(logits, expected(resized(x, 8)), rtol=1e-2)  # type: ignore[arg-type]
    assert all(torch.equal(tensor, state[name]) for name, tensor in search.teacher.state_dict().items())
    assert taught(fixed_teacher=False).teacher_logits(x) is None


def test_a_fixed_teacher_is_the_same_after_a_resume(tmp_path: Path) -> None:
    class Save(pl.callbacks.Checkpoint):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    whole = taught()
    fit(whole, random_streams(whole.supernet), epochs=3, enable_checkpointing=True, callbacks=[Save()])
    for epoch in (0, 1):  # before the teacher is taken, and after
        again = taught()
        fit(again, random_streams(again.supernet), epochs=3, ckpt_path=tmp_path / f"{epoch}.ckpt")
        state = again.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
    other = taught(fixed_teacher=False)
    with pytest.raises(ValueError, match="what differs is teacher: fixed, now None"):
        fit(other, random_streams(other.supernet), epochs=3, ckpt_path=tmp_path / "0.ckpt")


@pytest.mark.parametrize("kind", [BigNAS, AlphaNet, OnceForAll])
def test_what_a_search_in_16_bits_derives_computes_what_the_supernet_does(kind: type[SandwichSearch]) -> None:
    options: dict[str, Any] = {"shrink_epochs": (0, 0, 1, 0)} if kind is OnceForAll else {}
    search = kind(mobile(), candidates=4, finalists=2, weight_lr=0.1, **options)
    fit(search, random_streams(search.supernet), epochs=2, precision="bf16-mixed")
    assert all(tensor.isfinite().all() for tensor in search.state_dict().values())
    (config, accuracy), *_ = search.ranking
    assert config == search.derive() and 0 <= accuracy <= 1
    search.supernet.eval()
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        for each in (config, *(search.supernet.space.sample(seed) for seed in range(5))):
            images = resized(x, search.supernet.resolution(each))
            assert torch.equal(search.supernet.extract(each)(images), search.supernet(images, each))


# Resuming.


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual", "ignore:Be aware that when using `ckpt_path`")
def test_a_checkpoint_between_the_last_step_and_the_end_of_an_epoch_is_refused(tmp_path: Path) -> None:
    """Lightning would not prepare the next epoch: neither learning rate nor teacher, and after the last no ranking."""
    data = partial(FakeImages, num_classes=3, input_shape=(3, 16, 16), train_size=48, test_size=8, batch_size=8)
    whole, again = taught(), taught()
    saves: dict[str, Any] = {"enable_checkpointing": True, "callbacks": [every_step(tmp_path)]}
    fit(whole, SearchDataModule(data()), epochs=3, **saves)
    fit(again, SearchDataModule(data()), epochs=3, ckpt_path=tmp_path / "step=5.ckpt")
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())
    for step, epoch in ((3, 0), (9, 2)):
        with pytest.raises(ValueError, match=f"last step of epoch {epoch} and its end, .*RunCheckpoint writes none"):
            fit(taught(), SearchDataModule(data()), epochs=3, ckpt_path=tmp_path / f"step={step}.ckpt")


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual", "ignore:Be aware that when using `ckpt_path`")
def test_a_search_is_not_resumed_with_other_paths_phases_or_networks(tmp_path: Path) -> None:
    def build(*, dropout: float = 0.0, **options: Any) -> SandwichSearch:
        sizes: Any = {"widths": (0.1,), "depths": (1, 2), "kernels": (3,), "expansions": (2, 3)}
        supernet = MobileNetV3Supernet(num_classes=3, resolutions=(32,), stem="cifar", dropout=dropout, **sizes)
        return SandwichSearch(supernet, **{"candidates": 1, "finalists": 1, "random_paths": 1, **options})

    first = build()
    streams = random_streams(first.supernet)
    fit(first, streams, epochs=2, limit_train_batches=2, enable_checkpointing=True, callbacks=[every_step(tmp_path)])
    for options, message in (
        ({"random_paths": 2}, "paths: 1 random, the smallest, now 2 random, the smallest"),
        ({"smallest": False}, "paths: 1 random, the smallest, now 1 random"),
        ({"distillation": "alpha"}, r"distillation: kl, now alpha \(-1.0, 1.0\), clip 5.0"),
        ({"phases": [Phase(1, {"stage_0": ["k3_e2"]})]}, r"phases: \[\], now \[\(1, \{'stage_0': \['k3_e2'\]\}\)\]"),
        ({"dropout": 0.1}, "supernet: .*stem=cifar, dropout=0.0, now .*stem=cifar, dropout=0.1"),
    ):
        with pytest.raises(ValueError, match=f"what differs is {message}"):
            fit(build(**options), streams, epochs=2, limit_train_batches=2, ckpt_path=tmp_path / "step=1.ckpt")


class Sorted(OnceForAll):
    """Remembers the first weights of every epoch, and whether they have momenta."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.before: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.momenta: list[bool] = []

    def on_train_epoch_start(self) -> None:
        self.before.append(copy.deepcopy(self.supernet.state_dict()))
        super().on_train_epoch_start()
        self.after.append(copy.deepcopy(self.supernet.state_dict()))
        self.momenta.append(bool(self.weight_optimizer.optimizer.state))


def test_channels_are_sorted_by_importance_before_blocks_become_narrower(tmp_path: Path) -> None:
    search = Sorted(mobile(), shrink_epochs=(1, 0, 1, 1), candidates=1, finalists=1, weight_lr=0.1)
    fit(search, random_streams(search.supernet), epochs=3)
    same = [
        all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        for before, after in zip(search.before, search.after, strict=True)
    ]
    assert same == [True, True, False] and search.momenta == [False, True, False]
    importance = search.after[2]["stages.1.0.project.conv.weight"].abs().sum((0, 2, 3))
    assert (importance.diff() <= 0).all()
    supernet, x = mobile().eval(), torch.randn(4, 3, 16, 16)
    outputs = []
    for state in (search.before[2], search.after[2]):
        supernet.load_state_dict(state)
        with torch.no_grad():
            outputs.append(supernet(x, supernet.space.largest))
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"random_paths": 0}, "random_paths=0, distillation='kl'", id="nobody"),
        pytest.param({"distillation": "none"}, "random_paths=2, distillation='none'", id="nothing"),
    ],
)
def test_a_fixed_teacher_needs_somebody_to_teach(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"A fixed teacher must have networks to teach, .* got {message}"):
        taught(**options)


def test_progressive_shrinking_needs_blocks_that_say_their_size() -> None:
    with pytest.raises(ValueError, match="named by kernel and expansion, such as 'k3_e6'; space 'nasbench201' has"):
        OnceForAll(NASBench201Supernet(channels=4, image_size=8))
    with pytest.raises(ValueError, match="4 numbers: largest, kernels, depths, expansions; got"):
        shrinking(SPACE, (1, 2))


class HeadSeen(BigNAS):
    """Keeps the weights that the first step begins with, and those of the average."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.begun = copy.deepcopy(self.supernet)
        self.averaged = None if self.ema is None else copy.deepcopy(self.ema.module)


def test_the_head_is_fitted_to_the_largest_before_the_first_step() -> None:
    data = SearchDataModule(Digits(batch_size=64, seed=0))
    data.setup()
    sizes: Any = {"widths": (0.25, 0.5), "depths": (1, 2), "kernels": (3,), "expansions": (2, 3), "dropout": 0.1}
    torch.manual_seed(0)
    supernet = MobileNetV3Supernet(in_channels=1, num_classes=10, resolutions=(8,), stem="cifar", **sizes)
    plain = HeadSeen(copy.deepcopy(supernet), candidates=2, finalists=1)
    search = HeadSeen(supernet, fit_head=True, ema_decay=0.9, candidates=2, finalists=1)
    (largest,) = supernet.space.decode(search.smallest_and_largest[-1][1][None])
    by_hand = supernet.extract(largest)
    images = plain_samples(data, 10_000) or ()  # 719 of them, so 207 in the last batch
    found = fit_head(by_hand, images, batch_norm="batch")
    fit(search, data, epochs=1, limit_train_batches=1)
    for begun in (search.begun, search.averaged):
        torch.testing.assert_close(begun.classifier.weight, by_hand.classifier.weight, rtol=1e-2, atol=1e-3)
    assert found.head == "classifier" and found.value > 0.3
    fit(plain, data, epochs=1, limit_train_batches=1)
    assert plain.averaged is None
    assert not torch.allclose(plain.begun.classifier.weight, search.begun.classifier.weight, atol=0.01)


def test_a_head_for_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="fit_head fits a linear layer to one target for each input"):
        BigNAS(SegmentationSupernet(num_classes=3, image_size=32), fit_head=True)


class TeacherSeen(BigNAS):
    """Notes what every path of a step learns from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.taught: list[Tensor | None] = []

    def path_loss(self, logits: Tensor, labels: Tensor, first: Tensor | None) -> Tensor:
        self.taught.append(first)
        return super().path_loss(logits, labels, first)


def test_the_largest_as_it_was_teaches_the_others_and_learns_from_labels_itself() -> None:
    data = SearchDataModule(Digits(batch_size=64, seed=0))
    sizes: Any = {"widths": (0.25, 0.5), "depths": (1, 2), "kernels": (3,), "expansions": (2, 3)}
    torch.manual_seed(0)
    supernet = MobileNetV3Supernet(in_channels=1, num_classes=10, resolutions=(8,), stem="cifar", **sizes)
    search = TeacherSeen(supernet, initial_teacher=True, candidates=2, finalists=1, weight_lr=0.5)
    assert search.initial is not None
    before = {name: tensor.clone() for name, tensor in search.initial.state_dict().items()}
    assert not any(parameter.requires_grad for parameter in search.initial.parameters())
    fit(search, data, epochs=1, limit_train_batches=3)
    assert len(search.taught) == 12 and [taught is None for taught in search.taught[:4]] == [True, False, False, False]
    assert torch.equal(search.taught[1], search.taught[3])
    for name, tensor in search.initial.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    (largest,) = supernet.space.decode(search.smallest_and_largest[-1][1][None])
    now = supernet.extract(largest).state_dict()
    assert not torch.equal(now["classifier.weight"], before["classifier.weight"])
    assert search.facts()["teacher"] == "initial"
    assert any(name.startswith("initial.") for name in search.state_dict())


def test_a_teacher_needs_somebody_to_teach() -> None:
    with pytest.raises(ValueError, match="initial_teacher must have networks to teach"):
        BigNAS(MobileNetV3Supernet(resolutions=(32,)), distillation="none", initial_teacher=True)


def test_frozen_statistics_are_those_of_every_architecture_everywhere() -> None:
    supernet = macro()
    for module in supernet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.5)  # type: ignore[union-attr]  # as if it came from elsewhere
    before = {name: value.clone() for name, value in supernet.named_buffers()}
    search = BigNAS(supernet, freeze_statistics=True, ema_decay=0.5, weight_lr=0.01, candidates=3, finalists=2)
    images = FakeImages(input_shape=(3, 8, 8), num_classes=3, train_size=64, batch_size=16)
    data = SearchDataModule(images)
    fit(search, data, epochs=1)
    averaged = search.evaluation_supernet
    for one in (supernet, averaged):
        assert all(torch.equal(value, before[name]) for name, value in one.named_buffers())
    assert not torch.equal(next(averaged.parameters()), next(macro().parameters()))
    (config, accuracy), _ = search.ranking
    network = averaged.extract(config)
    x, y = next(iter(data.data.eval_loader(data.arch_images, batch_size=100)))
    recalibrate_on(data, network)  # does nothing
    logits = network.eval()(x)
    assert accuracy == pytest.approx(float((logits.argmax(1) == y).float().mean()))
    assert all(torch.equal(v, w) for v, w in zip(network.buffers(), averaged.extract(config).buffers(), strict=True))
    with torch.no_grad():
        torch.testing.assert_close(search.eval()(x), averaged.eval().run_config(x, search.derive()))
    other = BigNAS(macro(), candidates=3, finalists=2)
    fit(other, data, epochs=1)
    assert not all(torch.equal(value, before[name]) for name, value in other.supernet.named_buffers())
    calibrated = other.supernet.extract(config)
    recalibrate_on(data, calibrated)
    inherited = other.supernet.extract(config)
    assert not all(torch.equal(v, w) for v, w in zip(calibrated.buffers(), inherited.buffers(), strict=True))


def test_a_supernet_without_statistics_cannot_freeze_them() -> None:
    with pytest.raises(ValueError, match="ViTSupernet keeps none"):
        BigNAS(ViTSupernet(image_size=32, embed_dims=(64, 96)), freeze_statistics=True)
